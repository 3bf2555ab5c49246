/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* output.h - what goes to standard output, for people and for machines. */
#ifndef STREAMDB_OUTPUT_H
#define STREAMDB_OUTPUT_H

#include "backend.h"

/* Whether everything printed so far has arrived; says what went wrong and returns EXIT_FAILED when not, else EXIT_DONE. */
int output_flush(void);
/* Whether a write has failed already: time to stop. */
bool output_failed(void);

/* --- JSON: one object on one line --------------------------------------------------------------------------------------------- */

void json_begin(void);
void json_text(const char *name, const char *text); /* invalid UTF-8 becomes U+FFFD */
void json_number(const char *name, uint64_t value);
void json_bool(const char *name, bool value);
void json_path(bytes path);              /* "path", or "path_base64" when it is not valid UTF-8 */
void json_document(const document *doc); /* id, version, oldest, size, time_ms, digest */
void json_texts_begin(const char *name); /* an array of texts */
void json_texts_add(const char *text);
void json_texts_end(void);
void json_end(void);

/* --- For people --------------------------------------------------------------------------------------------------------------- */

/* On a terminal, and with `escape`, bytes that could move the cursor are shown as \xNN; else the path as it is. */
void print_path(bytes path, bool escape);
bool output_is_terminal(void);
const char *text_size(uint64_t size, char buf[16]);    /* "1.2 MB" */
const char *text_number(uint64_t value, char buf[32]); /* "1,234,567" */
const char *text_time(uint64_t time_ms, char buf[32]); /* "2025-11-23 10:20:30", UTC */
const char *text_id(const uint8_t id[16], char buf[37]);

/* Text without control bytes, for sentences that contain paths or a peer's words; cut to `len`. */
const char *text_printable(bytes from, char *buf, size_t len);

#endif
