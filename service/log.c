/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log.c - a line is put together first and written with one call, so that lines of several threads do not mix. */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static log_level log_limit = LOG_INFO;

void log_set_level(log_level level) { log_limit = level; }

void log_line(log_level level, const char *event, const char *format, ...) {
  static const char *const names[] = {"error", "warning", "info", "debug"};
  if (level > log_limit) return;

  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  struct tm utc;
  gmtime_r(&now.tv_sec, &utc);
  char line[LINE_MAX_BYTES];
  size_t used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
  int n = snprintf(line + used, sizeof line - used, ".%03ldZ level=%s event=%s ", now.tv_nsec / 1000000, names[level], event);
  if (n > 0) used += (size_t)n;

  va_list args;
  va_start(args, format);
  n = vsnprintf(line + used, sizeof line - used, format, args);
  va_end(args);
  if (n > 0) used += (size_t)n;
  if (used > sizeof line - 1) used = sizeof line - 1;
  while (used > 0 && line[used - 1] == ' ') used--;
  line[used++] = '\n';
  /* A log that cannot be written is no reason to stop serving. */
  ssize_t ignored = write(STDERR_FILENO, line, used);
  (void)ignored;
}
