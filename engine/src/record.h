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
  RECORD_SNAPPY = 2,
  RECORD_EXPIRES = 4,
  RECORD_TOKEN = 8,
  RECORD_TYPE = 16,
  RECORD_METADATA = 32,
  RECORD_NAMES = 64,
  RECORD_OLDER = 128,
  RECORD_KNOWN_FLAGS =
      RECORD_LARGE | RECORD_SNAPPY | RECORD_EXPIRES | RECORD_TOKEN | RECORD_TYPE | RECORD_METADATA | RECORD_NAMES | RECORD_OLDER,
  MAX_NAMES = 64,
  MAX_RUNS = 256
};

/* Fields of sections whose flag is not set are not valid. Pointers lead into the page, or to what the writer gave. */
typedef struct record {
  uint8_t id[16];
  uint32_t version, size, digest;
  uint64_t time_ms;
  uint16_t flags;
  uint8_t kept; /* older versions that stay readable */
  bool suspect; /* its page does not match its checksum: only the record's own, and its content's, tell whether it is whole */
  const uint8_t *path;
  uint16_t path_len;
  uint64_t expires_ms;
  const uint8_t *token; /* 16 bytes; NULL without RECORD_TOKEN */
  const uint8_t *type, *metadata;
  uint8_t type_len;
  uint16_t metadata_len;
  const uint8_t *names; /* further names: per name u16 length, bytes */
  uint32_t names_len;
  uint8_t name_count;
  uint64_t older; /* place of version - 2, as long as that one is readable */
  const uint8_t *stored;
  uint32_t stored_len;
  uint32_t total; /* bytes of the record, padding included */
} record;

/* Bytes that a record with these sections and lengths takes, padding included; 64-bit so that callers compare before they narrow.
 */
uint64_t record_measure(const record *r);
/* Writes the record, stored part included; `r->total` bytes, as measured. */
void record_write(uint8_t *to, const record *r);
/* Reads one that begins at `from`, at most `limit` bytes. SDB_CORRUPT: does not verify (no message). Checks the head, not the
 * content. */
int record_parse(record *r, const uint8_t *from, size_t limit);

/* Changes the place of the older version in the record `r` that was read from `at`, and its checksum. */
void record_set_older(uint8_t *at, const record *r, uint64_t place);

/* How many names the document has, and name `index`: 0 is the first path. */
unsigned record_names(const record *r);
const uint8_t *record_name(const record *r, unsigned index, size_t *len);
bool record_has_name(const record *r, const void *path, size_t len);

/* The runs of a large content. */
typedef struct run_list {
  uint32_t head_len; /* of the extent's head */
  uint32_t count;
  run runs[MAX_RUNS];
} run_list;
size_t run_list_size(uint32_t count);
void run_list_write(uint8_t *to, const run_list *l);
int run_list_parse(run_list *l, const record *r);

/* Document number in an id, and a new id: UUID v7 (RFC 9562) with the number in its low 40 bits; `random` gives the other bits. */
uint64_t id_document(const uint8_t id[16]);
void id_make(uint8_t id[16], const uint8_t random[16], uint64_t document, uint64_t time_ms);

#endif
