/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* output.c - JSON, columns, escapes. JSON is only ever written, one flat object at a time, which takes less than a library
 * would. */
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int output_flush(void) {
  errno = 0;
  bool failed = ferror(stdout) != 0;
  int error = errno;
  if (fflush(stdout) != 0) {
    failed = true;
    error = errno;
  }
  if (!failed) return EXIT_DONE;
  return complain("cannot write to standard output: %s", error ? strerror(error) : "an earlier write failed");
}

bool output_failed(void) { return ferror(stdout) != 0; }

/* --- UTF-8 -------------------------------------------------------------------------------------------------------------------- */

/* The length of the valid sequence at `p`, or 0: overlong forms, surrogates and what lies above U+10FFFF are not valid. */
static size_t utf8_sequence(const uint8_t *p, size_t left) {
  if (p[0] < 0x80) return 1;
  size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
  if (p[0] < 0xc2 || p[0] > 0xf4 || n > left) return 0;
  for (size_t i = 1; i < n; i++) {
    if ((p[i] & 0xc0) != 0x80) return 0;
  }
  if (p[0] == 0xe0 && p[1] < 0xa0) return 0;
  if (p[0] == 0xed && p[1] > 0x9f) return 0;
  if (p[0] == 0xf0 && p[1] < 0x90) return 0;
  if (p[0] == 0xf4 && p[1] > 0x8f) return 0;
  return n;
}

static bool utf8_valid(bytes text) {
  for (size_t i = 0; i < text.len;) {
    size_t n = utf8_sequence(text.data + i, text.len - i);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

/* --- JSON --------------------------------------------------------------------------------------------------------------------- */

static bool json_first = true; /* no comma is due */

static void json_string(bytes text) {
  putchar('"');
  for (size_t i = 0; i < text.len;) {
    size_t n = utf8_sequence(text.data + i, text.len - i);
    uint8_t byte = text.data[i];
    if (n == 0) {
      fputs("\\ufffd", stdout);
      n = 1;
    } else if (byte < 0x20 || byte == 0x7f) {
      printf("\\u%04x", byte);
    } else {
      if (byte == '"' || byte == '\\') putchar('\\');
      fwrite(text.data + i, 1, n, stdout);
    }
    i += n;
  }
  putchar('"');
}

static void json_name(const char *name) {
  if (!json_first) putchar(',');
  json_first = false;
  json_string((bytes){(const uint8_t *)name, strlen(name)});
  putchar(':');
}

void json_begin(void) {
  putchar('{');
  json_first = true;
}

void json_end(void) {
  fputs("}\n", stdout);
  json_first = true;
}

void json_text(const char *name, const char *text) {
  json_name(name);
  json_string((bytes){(const uint8_t *)text, strlen(text)});
}

void json_number(const char *name, uint64_t value) {
  json_name(name);
  printf("%" PRIu64, value);
}

void json_bool(const char *name, bool value) {
  json_name(name);
  fputs(value ? "true" : "false", stdout);
}

void json_path(bytes path) {
  if (utf8_valid(path)) {
    json_name("path");
    json_string(path);
    return;
  }
  char text[sodium_base64_ENCODED_LEN(1024, sodium_base64_VARIANT_ORIGINAL)];
  sodium_bin2base64(text, sizeof text, path.data, path.len, sodium_base64_VARIANT_ORIGINAL);
  json_text("path_base64", text);
}

void json_document(const document *doc) {
  char buf[40], digest[16];
  json_text("id", text_id(doc->id, buf));
  json_number("version", doc->version);
  if (doc->oldest) json_number("oldest", doc->oldest);
  json_number("size", doc->size);
  json_number("time_ms", doc->time_ms);
  (void)snprintf(digest, sizeof digest, "%08" PRIx32, doc->digest);
  json_text("digest", digest);
}

void json_texts_begin(const char *name) {
  json_name(name);
  putchar('[');
  json_first = true;
}

void json_texts_add(const char *text) {
  if (!json_first) putchar(',');
  json_first = false;
  json_string((bytes){(const uint8_t *)text, strlen(text)});
}

void json_texts_end(void) {
  putchar(']');
  json_first = false;
}

/* --- For people --------------------------------------------------------------------------------------------------------------- */

bool output_is_terminal(void) { return isatty(STDOUT_FILENO) == 1; }

/* Whether a byte or sequence may go to a terminal: no C0 or C1 control character. */
static bool harmless(const uint8_t *p, size_t n) {
  if (n == 0) return false;
  if (n == 1) return p[0] >= 0x20 && p[0] != 0x7f;
  return !(n == 2 && p[0] == 0xc2 && p[1] < 0xa0);
}

void print_path(bytes path, bool escape) {
  if (!escape && !output_is_terminal()) {
    fwrite(path.data, 1, path.len, stdout);
    return;
  }
  for (size_t i = 0; i < path.len;) {
    size_t n = utf8_sequence(path.data + i, path.len - i);
    if (harmless(path.data + i, n)) {
      fwrite(path.data + i, 1, n, stdout);
      i += n;
    } else {
      printf("\\x%02x", path.data[i++]);
    }
  }
}

const char *text_printable(bytes from, char *buf, size_t len) {
  size_t at = 0;
  for (size_t i = 0; i < from.len;) {
    size_t n = utf8_sequence(from.data + i, from.len - i);
    bool plain = harmless(from.data + i, n);
    if (at + (plain ? n : 4) + 4 > len) {
      memcpy(buf + at, "...", 3);
      at += 3;
      break;
    }
    if (plain) {
      memcpy(buf + at, from.data + i, n);
      at += n;
      i += n;
    } else {
      at += (size_t)snprintf(buf + at, len - at, "\\x%02x", from.data[i++]);
    }
  }
  buf[at] = '\0';
  return buf;
}

const char *text_size(uint64_t size, char buf[16]) {
  static const char *const units[] = {"KB", "MB", "GB", "TB", "PB", "EB"};
  if (size < 1024) {
    (void)snprintf(buf, 16, "%u B", (unsigned)size);
    return buf;
  }
  double value = (double)size / 1024;
  size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < sizeof units / sizeof *units) {
    value /= 1024;
    unit++;
  }
  (void)snprintf(buf, 16, "%.1f %s", value, units[unit]);
  return buf;
}

const char *text_number(uint64_t value, char buf[32]) {
  char digits[24];
  int n = snprintf(digits, sizeof digits, "%" PRIu64, value);
  size_t at = 0;
  for (int i = 0; i < n; i++) {
    if (i > 0 && (n - i) % 3 == 0) buf[at++] = ',';
    buf[at++] = digits[i];
  }
  buf[at] = '\0';
  return buf;
}

const char *text_time(uint64_t time_ms, char buf[32]) {
  time_t seconds = (time_t)(time_ms / 1000);
  struct tm tm;
  if (time_ms / 1000 > INT64_MAX / 2 || !gmtime_r(&seconds, &tm) || strftime(buf, 32, "%Y-%m-%d %H:%M:%S", &tm) == 0) {
    (void)snprintf(buf, 32, "?");
  }
  return buf;
}

const char *text_id(const uint8_t id[16], char buf[37]) {
  size_t at = 0;
  for (size_t i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) buf[at++] = '-';
    at += (size_t)snprintf(buf + at, 37 - at, "%02x", id[i]);
  }
  return buf;
}
