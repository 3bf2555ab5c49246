/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* record.c - encoding and checked decoding of records; see record.h. */
#include "record.h"

#include "codec.h"

uint64_t record_total(size_t path_len, uint16_t flags, uint64_t stored_len) {
  return align_up(RECORD_HEAD + path_len + (flags & RECORD_TOKEN ? 16 : 0) + stored_len, 8);
}

void record_write(uint8_t *to, const record *r) {
  put32(to + 4, r->digest);
  put32(to + 8, r->version);
  put32(to + 12, r->size);
  memcpy(to + 16, r->id, 16);
  put48(to + 32, r->time_ms);
  put16(to + 38, r->flags);
  put16(to + 40, r->path_len);
  to[42] = r->kept;
  to[43] = RECORD_MARK;
  put32(to + 44, r->stored_len);
  uint8_t *at = to + RECORD_HEAD;
  memcpy(at, r->path, r->path_len);
  at += r->path_len;
  if (r->flags & RECORD_TOKEN) {
    memcpy(at, r->token, 16);
    at += 16;
  }
  size_t covered = (size_t)(at - to);
  if (r->stored_len) memcpy(at, r->stored, r->stored_len);
  at += r->stored_len;
  if (r->flags & RECORD_LARGE) covered = (size_t)(at - to); /* runs are part of the head: no digest covers them */
  put32(to, crc32c(0, to + 4, covered - 4));
  memset(at, 0, (size_t)(to + r->total - at));
}

int record_parse(record *r, const uint8_t *from, size_t limit) {
  if (limit < RECORD_HEAD || from[43] != RECORD_MARK) return SDB_CORRUPT;
  r->flags = get16(from + 38);
  r->path_len = get16(from + 40);
  r->stored_len = get32(from + 44);
  if (r->flags & ~RECORD_KNOWN_FLAGS || r->path_len < 1 || r->path_len > SDB_MAX_PATH) return SDB_CORRUPT;
  uint64_t total = record_total(r->path_len, r->flags, r->stored_len);
  if (total > limit) return SDB_CORRUPT;
  r->total = (uint32_t)total;
  size_t head = RECORD_HEAD + r->path_len + (r->flags & RECORD_TOKEN ? 16u : 0u);
  size_t covered = r->flags & RECORD_LARGE ? head + r->stored_len : head;
  if (get32(from) != crc32c(0, from + 4, covered - 4)) return SDB_CORRUPT;
  r->digest = get32(from + 4);
  r->version = get32(from + 8);
  r->size = get32(from + 12);
  memcpy(r->id, from + 16, 16);
  r->time_ms = get48(from + 32);
  r->kept = from[42];
  r->path = from + RECORD_HEAD;
  r->token = r->flags & RECORD_TOKEN ? r->path + r->path_len : NULL;
  r->stored = from + head;
  if (r->version == 0 || (!(r->flags & RECORD_LARGE) && r->size != r->stored_len)) return SDB_CORRUPT;
  return SDB_OK;
}

size_t run_list_size(uint32_t count) { return 8 + 8 * (size_t)count; }

void run_list_write(uint8_t *to, const run_list *l) {
  put32(to, l->head_len);
  put32(to + 4, l->count);
  for (uint32_t i = 0; i < l->count; i++) {
    put32(to + 8 + 8 * (size_t)i, l->runs[i].start);
    put32(to + 12 + 8 * (size_t)i, l->runs[i].count);
  }
}

int run_list_parse(run_list *l, const record *r) {
  if (!(r->flags & RECORD_LARGE) || r->stored_len < 16) return SDB_CORRUPT;
  l->head_len = get32(r->stored);
  l->count = get32(r->stored + 4);
  if (l->count < 1 || l->count > MAX_RUNS || r->stored_len != run_list_size(l->count) || l->head_len % 64 != 0) return SDB_CORRUPT;
  for (uint32_t i = 0; i < l->count; i++) {
    l->runs[i] = (run){get32(r->stored + 8 + 8 * (size_t)i), get32(r->stored + 12 + 8 * (size_t)i)};
    if (l->runs[i].count == 0 || l->runs[i].start == 0 || l->runs[i].count > UINT32_MAX - l->runs[i].start) return SDB_CORRUPT;
  }
  return SDB_OK;
}

uint64_t id_document(const uint8_t id[16]) {
  uint64_t n = 0;
  for (int i = 11; i < 16; i++) n = n << 8 | id[i];
  return n;
}

int id_make(const env *e, uint8_t id[16], uint64_t document, uint64_t time_ms) {
  if (e->storage->random(e->storage->ctx, id, 16) != SDB_OK) return SDB_IO;
  for (int i = 0; i < 6; i++) id[i] = (uint8_t)(time_ms >> (40 - 8 * i));
  id[6] = (uint8_t)(0x70 | (id[6] & 0x0F));
  id[8] = (uint8_t)(0x80 | (id[8] & 0x3F));
  for (int i = 0; i < 5; i++) id[11 + i] = (uint8_t)(document >> (32 - 8 * i));
  return SDB_OK;
}
