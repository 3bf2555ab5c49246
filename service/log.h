/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log.h - what the service says on stderr: one line an event, `time level=... event=... key=value ...`.
 * What a client sent (paths, contents) never stands in a line: only numbers and the service's own words. */
#ifndef SERVICE_LOG_H
#define SERVICE_LOG_H

typedef enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG } log_level;

/* Lines above this level are not written. Called before any thread starts. */
void log_set_level(log_level level);

/* `format` gives the pairs behind the event; "" for none. A value with blanks stands in double quotes. */
void log_line(log_level level, const char *event, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
