/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* record.h - one version of a document as it stands in the heap and, byte for byte the same, in the log.
 * Layout: docs/file-format.md, section 6.
 *
 *   | head 48 | first path | sections | stored part: content, or the runs of a large one | zeros to 8 |
 *   '----- covered by the head's checksum -----'    content: covered by the digest; runs: by the head's checksum too
 */
#ifndef SDB_RECORD_H
#define SDB_RECORD_H

#include "pager.h"

enum {
  RECORD_HEAD = 48,
  RECORD_MARK = 0xD5,
  RECORD_LARGE = 1,
  RECORD_TOKEN = 8,
  RECORD_KNOWN_FLAGS = RECORD_LARGE | RECORD_TOKEN,
  MAX_RUNS = 256
};

typedef struct record {
  uint8_t id[16];
  uint32_t version, size, digest;
  uint64_t time_ms;
  uint16_t flags;
  uint8_t kept; /* older versions that stay readable */
  const uint8_t *path;
  uint16_t path_len;
  const uint8_t *token; /* 16 bytes, with RECORD_TOKEN */
  const uint8_t *stored;
  uint32_t stored_len;
  uint32_t total; /* bytes of the record, padding included */
} record;

/* Total length for those lengths; 64-bit so that callers can compare before they narrow. */
uint64_t record_total(size_t path_len, uint16_t flags, uint64_t stored_len);
/* Writes the record, stored part included; `r->total` bytes. */
void record_write(uint8_t *to, const record *r);
/* Reads one that begins at `from`, at most `limit` bytes. SDB_CORRUPT: does not verify (no message). Checks the head, not the
 * content. */
int record_parse(record *r, const uint8_t *from, size_t limit);

/* The runs of a large content. */
typedef struct run_list {
  uint32_t head_len; /* of the extent's head */
  uint32_t count;
  run runs[MAX_RUNS];
} run_list;
size_t run_list_size(uint32_t count);
void run_list_write(uint8_t *to, const run_list *l);
int run_list_parse(run_list *l, const record *r);

/* Document number in an id, and a new id: UUID v7 (RFC 9562) with the number in its low 40 bits. */
uint64_t id_document(const uint8_t id[16]);
int id_make(const env *e, uint8_t id[16], uint64_t document, uint64_t time_ms);

#endif
