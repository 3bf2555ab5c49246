/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* error.c - codes and sentences. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

const char *sdbc_strerror(int code) {
  switch (code) {
#define X(name, value, status, text)                                                                                               \
  case value: return text;
    SDBC_ERRORS(X)
#undef X
    default: return "an unknown error";
  }
}

int sdbc_dcf_status(int code) {
  switch (code) {
#define X(name, value, status, text)                                                                                               \
  case value: return status;
    SDBC_ERRORS(X)
#undef X
    default: return -4;
  }
}

int ci_fail(sdbc *h, int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  (void)vsnprintf(h->message, sizeof h->message, format, args);
  va_end(args);
  return code;
}

void ci_say(char *message, const char *format, ...) {
  va_list args;
  va_start(args, format);
  (void)vsnprintf(message, CI_MESSAGE, format, args);
  va_end(args);
}

void ci_copy_sentence(char *message, const char *from) {
  size_t n = strnlen(from, CI_MESSAGE - 1);
  for (size_t i = 0; i < n; i++) message[i] = (unsigned char)from[i] < 0x20 || from[i] == 0x7f ? ' ' : from[i];
  message[n] = '\0';
}
