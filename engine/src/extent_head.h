/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* extent_head.h - the first bytes of a large content: where its chunks stand and what they must be, and whose it is.
 * Layout: docs/file-format.md, section 7.
 *
 *     0             64       80                                      80 + sealed                            len
 *     | unit header | counts | identity, digest, binding, path ~pad~ | runs | chunk table: CRC, stored length | zeros |
 *                            '------ encrypted, if anything is ------'
 *
 * Runs and table are never encrypted, so that every byte of a content can be checked by who has no key. They give away no more than
 * the file does: how many bytes there are. Nothing is won by changing them: a chunk opens only under its binding and index.
 *
 * Bytes of a head are never trusted: head_parse checks them all before anything is read by them.
 */
#ifndef SDB_EXTENT_HEAD_H
#define SDB_EXTENT_HEAD_H

#include "record.h"

enum {
  HEAD_BINDING = 16,
  HEAD_PEEK = 4096 /* more than stands before the end of the runs; no more than a page */
};
#define HEAD_SNAPPY 0x80000000u /* in a chunk's stored length */

typedef struct extent_head {
  uint32_t len, chunks, runs;
  uint32_t sealed;            /* bytes that encryption covers */
  const uint8_t *run_table;   /* 8 bytes a run: first page, pages */
  const uint8_t *chunk_table; /* 8 bytes a chunk: CRC32C, stored length */
  /* From here on known after head_open only. */
  const uint8_t *id, *binding, *path;
  uint32_t version, size, digest;
  uint16_t path_len, flags;
  uint64_t time_ms;
} extent_head;

uint32_t head_length(size_t path_len, uint32_t runs, uint32_t chunks);

/* Writes and seals the head of the content that `r` describes (id, version, size, digest, flags, time; `path` may be another name):
 * l->head_len bytes that were zero. `nonce`: a fresh one when the database is encrypted. */
void head_write(const env *e, uint8_t *bytes, const record *r, const void *path, uint16_t path_len,
                const uint8_t binding[HEAD_BINDING], const run_list *l, const uint8_t *table, uint32_t chunks,
                const uint8_t *nonce);

/* The runs that a head at `page` names, from its first HEAD_PEEK bytes; nothing is verified but that they may be runs. */
bool head_peek(const uint8_t bytes[HEAD_PEEK], uint32_t page, run_list *l);
/* Verifies a head that says that it stands at `page`; needs no key. */
bool head_parse(extent_head *h, const uint8_t *bytes, size_t len, uint32_t page);
/* Decrypts a parsed one where it stands, and takes the rest from it. False: not sealed with this key as this head. */
bool head_open(const env *e, extent_head *h, uint8_t *bytes);

static inline uint32_t head_chunk_crc(const extent_head *h, uint32_t i) { return get32(h->chunk_table + 8 * (size_t)i); }
static inline uint32_t head_chunk_stored(const extent_head *h, uint32_t i) {
  return get32(h->chunk_table + 8 * (size_t)i + 4) & ~HEAD_SNAPPY;
}
static inline bool head_chunk_snappy(const extent_head *h, uint32_t i) {
  return (get32(h->chunk_table + 8 * (size_t)i + 4) & HEAD_SNAPPY) != 0;
}

/* Calls `piece` for the physical pieces of [offset, offset + len) of the string of runs. SDB_CORRUPT beyond its end, or what
 * `piece` returned. */
int runs_walk(const run_list *l, unsigned page_bits, uint64_t offset, uint64_t len,
              int (*piece)(void *user, run r, uint64_t at, uint64_t n), void *user);

#endif
