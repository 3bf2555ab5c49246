/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* record.c - encoding and checked decoding of records; see record.h. */
#include "record.h"

#include "codec.h"

/* Length of the sections that the flags name. */
static uint64_t sections_size(const record *r) {
  uint64_t n = 0;
  if (r->flags & RECORD_EXPIRES) n += 8;
  if (r->flags & RECORD_TOKEN) n += 16;
  if (r->flags & RECORD_TYPE) n += 1u + r->type_len;
  if (r->flags & RECORD_METADATA) n += 2u + r->metadata_len;
  if (r->flags & RECORD_NAMES) n += 1u + r->names_len;
  if (r->flags & RECORD_OLDER) n += 6;
  return n;
}

uint64_t record_measure(const record *r) {
  return align_up(
      RECORD_HEAD + r->path_len + (r->flags & ~(RECORD_LARGE | RECORD_SNAPPY) ? sections_size(r) : 0) + (uint64_t)r->stored_len, 8);
}

static uint8_t *append(uint8_t *at, const void *bytes, size_t len) {
  if (len) memcpy(at, bytes, len);
  return at + len;
}

static uint8_t *write_sections(uint8_t *at, const record *r) {
  if (r->flags & RECORD_EXPIRES) {
    put64(at, r->expires_ms);
    at += 8;
  }
  if (r->flags & RECORD_TOKEN) at = append(at, r->token, 16);
  if (r->flags & RECORD_TYPE) {
    *at++ = r->type_len;
    at = append(at, r->type, r->type_len);
  }
  if (r->flags & RECORD_METADATA) {
    put16(at, r->metadata_len);
    at = append(at + 2, r->metadata, r->metadata_len);
  }
  if (r->flags & RECORD_NAMES) {
    *at++ = r->name_count;
    at = append(at, r->names, r->names_len);
  }
  if (r->flags & RECORD_OLDER) {
    put48(at, r->older);
    at += 6;
  }
  return at;
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
  uint8_t *at = append(to + RECORD_HEAD, r->path, r->path_len);
  if (r->flags & ~(RECORD_LARGE | RECORD_SNAPPY)) at = write_sections(at, r);
  size_t covered = (size_t)(at - to);
  at = append(at, r->stored, r->stored_len);
  if (r->flags & RECORD_LARGE) covered = (size_t)(at - to); /* runs are part of the head: no digest covers them */
  put32(to, crc32c(0, to + 4, covered - 4));
  memset(at, 0, (size_t)(to + r->total - at));
}

/* Each takes its section off the front of what is left; false: it does not fit or makes no sense. */
struct rest {
  const uint8_t *at;
  size_t left;
};

static const uint8_t *take(struct rest *rest, size_t len) {
  if (len > rest->left) return NULL;
  const uint8_t *at = rest->at;
  rest->at += len;
  rest->left -= len;
  return at;
}

static bool take_type(struct rest *rest, record *r) {
  const uint8_t *len = take(rest, 1);
  r->type_len = len ? *len : 0;
  return len && (r->type = take(rest, r->type_len)) != NULL;
}

static bool take_metadata(struct rest *rest, record *r) {
  const uint8_t *len = take(rest, 2);
  r->metadata_len = len ? get16(len) : 0;
  return len && (r->metadata = take(rest, r->metadata_len)) != NULL;
}

static bool take_names(struct rest *rest, record *r) {
  const uint8_t *count = take(rest, 1);
  if (!count || *count < 1 || *count >= MAX_NAMES) return false;
  r->name_count = *count;
  r->names = rest->at;
  for (unsigned i = 0; i < r->name_count; i++) {
    const uint8_t *len = take(rest, 2);
    if (!len || get16(len) < 1 || get16(len) > SDB_MAX_PATH || !take(rest, get16(len))) return false;
  }
  r->names_len = (uint32_t)(rest->at - r->names);
  return true;
}

static bool take_sections(struct rest *rest, record *r) {
  const uint8_t *at;
  if (r->flags & RECORD_EXPIRES) {
    if (!(at = take(rest, 8))) return false;
    r->expires_ms = get64(at);
  }
  if (r->flags & RECORD_TOKEN && !(r->token = take(rest, 16))) return false;
  if (r->flags & RECORD_TYPE && !take_type(rest, r)) return false;
  if (r->flags & RECORD_METADATA && !take_metadata(rest, r)) return false;
  if (r->flags & RECORD_NAMES && !take_names(rest, r)) return false;
  if (r->flags & RECORD_OLDER) {
    if (!(at = take(rest, 6))) return false;
    r->older = get48(at);
  }
  return true;
}

/* What reserves room for a content may rely on it. */
static bool size_possible(const record *r) {
  if (r->flags & RECORD_LARGE) return r->size <= SDB_MAX_DOCUMENT;
  return r->flags & RECORD_SNAPPY ? r->size > r->stored_len && r->size <= SDB_CHUNK : r->size == r->stored_len;
}

int record_parse(record *r, const uint8_t *from, size_t limit) {
  if (limit < RECORD_HEAD || from[43] != RECORD_MARK) return SDB_CORRUPT;
  r->flags = get16(from + 38);
  r->path_len = get16(from + 40);
  r->stored_len = get32(from + 44);
  r->path = from + RECORD_HEAD;
  r->token = NULL;
  if (r->flags & ~RECORD_KNOWN_FLAGS || r->path_len < 1 || r->path_len > SDB_MAX_PATH) return SDB_CORRUPT;
  if (limit - RECORD_HEAD < r->path_len) return SDB_CORRUPT;
  struct rest rest = {r->path + r->path_len, limit - RECORD_HEAD - r->path_len};
  if (r->flags & ~(RECORD_LARGE | RECORD_SNAPPY) && !take_sections(&rest, r)) return SDB_CORRUPT;
  size_t head = (size_t)(rest.at - from);
  uint64_t total = align_up((uint64_t)head + r->stored_len, 8);
  if (total > limit) return SDB_CORRUPT;
  r->total = (uint32_t)total;
  size_t covered = r->flags & RECORD_LARGE ? head + r->stored_len : head;
  if (get32(from) != crc32c(0, from + 4, covered - 4)) return SDB_CORRUPT;
  r->digest = get32(from + 4);
  r->version = get32(from + 8);
  r->size = get32(from + 12);
  memcpy(r->id, from + 16, 16);
  r->time_ms = get48(from + 32);
  r->kept = from[42];
  r->stored = from + head;
  if (r->version <= r->kept || !size_possible(r)) return SDB_CORRUPT;
  return SDB_OK;
}

void record_set_older(uint8_t *at, const record *r, uint64_t place) {
  size_t head = (size_t)(r->stored - at);
  assert(r->flags & RECORD_OLDER);
  put48(at + head - 6, place); /* the last section */
  put32(at, crc32c(0, at + 4, (r->flags & RECORD_LARGE ? head + r->stored_len : head) - 4));
}

unsigned record_names(const record *r) { return 1u + (r->flags & RECORD_NAMES ? r->name_count : 0u); }

const uint8_t *record_name(const record *r, unsigned index, size_t *len) {
  const uint8_t *at = r->names;
  *len = r->path_len;
  if (index == 0) return r->path;
  while (--index > 0) at += 2 + get16(at);
  *len = get16(at);
  return at + 2;
}

bool record_has_name(const record *r, const void *path, size_t len) {
  if (r->path_len == len && memcmp(r->path, path, len) == 0) return true;
  for (unsigned i = 1; i < record_names(r); i++) {
    size_t name_len;
    const uint8_t *name = record_name(r, i, &name_len);
    if (name_len == len && memcmp(name, path, len) == 0) return true;
  }
  return false;
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

uint64_t id_document(const uint8_t id[16]) { return __builtin_bswap64(get64(id + 8)) & ((UINT64_C(1) << 40) - 1); }

void id_make(uint8_t id[16], const uint8_t random[16], uint64_t document, uint64_t time_ms) {
  memcpy(id, random, 16);
  for (int i = 0; i < 6; i++) id[i] = (uint8_t)(time_ms >> (40 - 8 * i));
  id[6] = (uint8_t)(0x70 | (id[6] & 0x0F));
  id[8] = (uint8_t)(0x80 | (id[8] & 0x3F));
  for (int i = 0; i < 5; i++) id[11 + i] = (uint8_t)(document >> (32 - 8 * i));
}
