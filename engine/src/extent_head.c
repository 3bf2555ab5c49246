/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* extent_head.c - see extent_head.h. */
#include "extent_head.h"

#include "codec.h"

enum {
  CHUNKS = 64,
  RUNS = 68,
  SEALED = 72,
  BODY = 80, /* the encrypted part */
  ID = BODY,
  VERSION = 96,
  SIZE = 100,
  DIGEST = 104,
  PATH_LEN = 108,
  FLAGS = 110,
  TIME = 112,
  BINDING = 120,
  PATH = 136,
  LAYOUT = 2
};

_Static_assert(PATH + SDB_MAX_PATH + 64 + 8 * MAX_RUNS <= HEAD_PEEK, "the runs stand in the first page");

/* In steps of 64, so that it tells little about the path's length. */
static uint32_t sealed_length(size_t path_len) { return (uint32_t)align_up(PATH - BODY + path_len, 64); }

uint32_t head_length(size_t path_len, uint32_t runs, uint32_t chunks) {
  return (uint32_t)align_up(BODY + sealed_length(path_len) + 8ull * runs + 8ull * chunks, 64);
}

/* Kind, layout, flags, page, length, checkpoint; chunks, runs, sealed. */
static identity head_identity(const uint8_t *bytes) {
  identity id = {.len = UNIT_NONCE - 4 + BODY - CHUNKS};
  memcpy(id.bytes, bytes + 4, UNIT_NONCE - 4);
  memcpy(id.bytes + UNIT_NONCE - 4, bytes + CHUNKS, BODY - CHUNKS);
  return id;
}

void head_write(const env *e, uint8_t *bytes, const record *r, const void *path, uint16_t path_len,
                const uint8_t binding[HEAD_BINDING], const run_list *l, const uint8_t *table, uint32_t chunks,
                const uint8_t *nonce) {
  uint32_t sealed = sealed_length(path_len);
  unit_init(bytes, PAGE_EXTENT, l->runs[0].start);
  bytes[5] = LAYOUT;
  page_set_fill(bytes, l->head_len);
  put32(bytes + CHUNKS, chunks);
  put32(bytes + RUNS, l->count);
  put32(bytes + SEALED, sealed);
  memcpy(bytes + ID, r->id, 16);
  put32(bytes + VERSION, r->version);
  put32(bytes + SIZE, r->size);
  put32(bytes + DIGEST, r->digest);
  put16(bytes + PATH_LEN, path_len);
  put16(bytes + FLAGS, r->flags);
  put48(bytes + TIME, r->time_ms);
  memcpy(bytes + BINDING, binding, HEAD_BINDING);
  memcpy(bytes + PATH, path, path_len);
  uint8_t *at = bytes + BODY + sealed;
  for (uint32_t i = 0; i < l->count; i++, at += 8) {
    put32(at, l->runs[i].start);
    put32(at + 4, l->runs[i].count);
  }
  if (chunks) memcpy(at, table, 8 * (size_t)chunks);
  if (e->cipher) {
    put16(bytes + 6, UNIT_ENCRYPTED);
    identity id = head_identity(bytes);
    memcpy(bytes + UNIT_NONCE, nonce, CIPHER_NONCE);
    cipher_seal(e->cipher, &id, nonce, bytes + UNIT_TAG, bytes + BODY, bytes + BODY, sealed);
  }
  put32(bytes, crc32c(0, bytes + 4, l->head_len - 4));
}

/* What stands where, as far as it fits into `room` bytes. */
static bool head_fields(extent_head *h, const uint8_t *bytes, uint64_t room) {
  *h = (extent_head){.len = page_fill(bytes)};
  if (page_kind(bytes) != PAGE_EXTENT || bytes[5] != LAYOUT || h->len < BODY || h->len % 64 != 0) return false;
  h->chunks = get32(bytes + CHUNKS);
  h->runs = get32(bytes + RUNS);
  h->sealed = get32(bytes + SEALED);
  if (h->sealed < PATH - BODY + 1 || h->sealed > sealed_length(SDB_MAX_PATH) || h->runs < 1 || h->runs > MAX_RUNS) return false;
  h->run_table = bytes + BODY + h->sealed;
  h->chunk_table = h->run_table + 8 * (size_t)h->runs;
  return BODY + h->sealed + 8ull * h->runs + 8ull * h->chunks <= h->len && BODY + h->sealed + 8ull * h->runs <= room;
}

bool head_peek(const uint8_t bytes[HEAD_PEEK], uint32_t page, run_list *l) {
  extent_head h;
  if (page_number(bytes) != page || !head_fields(&h, bytes, HEAD_PEEK)) return false;
  l->head_len = h.len;
  l->count = h.runs;
  for (uint32_t i = 0; i < h.runs; i++) {
    run r = l->runs[i] = (run){get32(h.run_table + 8 * (size_t)i), get32(h.run_table + 8 * (size_t)i + 4)};
    if (r.count == 0 || r.start == 0 || r.count > UINT32_MAX - r.start) return false;
  }
  return l->runs[0].start == page;
}

bool head_parse(extent_head *h, const uint8_t *bytes, size_t len, uint32_t page) {
  return len >= BODY && page_number(bytes) == page && head_fields(h, bytes, len) && h->len == len &&
         get32(bytes) == crc32c(0, bytes + 4, len - 4);
}

bool head_open(const env *e, extent_head *h, uint8_t *bytes) {
  if (((get16(bytes + 6) & UNIT_ENCRYPTED) != 0) != (e->cipher != NULL)) return false;
  if (e->cipher) {
    identity id = head_identity(bytes);
    if (!cipher_open(e->cipher, &id, bytes + UNIT_NONCE, bytes + UNIT_TAG, bytes + BODY, bytes + BODY, h->sealed)) return false;
  }
  h->id = bytes + ID;
  h->version = get32(bytes + VERSION);
  h->size = get32(bytes + SIZE);
  h->digest = get32(bytes + DIGEST);
  h->path_len = get16(bytes + PATH_LEN);
  h->flags = get16(bytes + FLAGS);
  h->time_ms = get48(bytes + TIME);
  h->binding = bytes + BINDING;
  h->path = bytes + PATH;
  return h->path_len >= 1 && h->path_len <= SDB_MAX_PATH && (uint32_t)(PATH - BODY) + h->path_len <= h->sealed;
}

int runs_walk(const run_list *l, unsigned page_bits, uint64_t offset, uint64_t len,
              int (*piece)(void *user, run r, uint64_t at, uint64_t n), void *user) {
  for (uint32_t i = 0; i < l->count && len > 0; i++) {
    uint64_t bytes = (uint64_t)l->runs[i].count << page_bits;
    if (offset >= bytes) {
      offset -= bytes;
      continue;
    }
    uint64_t n = bytes - offset < len ? bytes - offset : len;
    int rc = piece(user, l->runs[i], offset, n);
    if (rc != SDB_OK) return rc;
    offset = 0;
    len -= n;
  }
  return len == 0 ? SDB_OK : SDB_CORRUPT;
}
