/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* document_content.c - what the caller gives and gets, and what stands in a record: small contents, packed and unpacked. */
#include "codec.h"
#include "db.h"

void content_pack(sdb *db, const void *data, size_t len, struct content *c) {
  c->stored = data;
  c->size = c->stored_len = len;
  c->digest = 0;
  c->flags = 0;
  c->memory = NULL;
  size_t most = 4 * (size_t)heap_limit(db->pager); /* what is larger would hardly fit into a record then */
  if (len > most) return;                          /* its digest is made on the way into the extent */
  c->digest = crc32c(0, data, len); /* first: this brings the content from memory faster than looking at samples of it */
  if (!db->options.use_compression || len > SDB_CHUNK) return;
  size_t room = compress_room(len);
  uint8_t *packed = room <= sizeof c->near ? c->near : mem_alloc(&db->e, room);
  if (!packed) return; /* then as it is */
  if (packed != c->near) c->memory = packed;
  size_t stored = compress_block(&db->habit, data, len, packed);
  if (!stored) return;
  c->stored = packed;
  c->stored_len = stored;
  c->flags = RECORD_SNAPPY;
}

void content_drop(sdb *db, struct content *c) { mem_free(&db->e, c->memory); }

int content_unpack(sdb *db, const record *r, bool check, void *buf) {
  bool good = true;
  /* The lines of a middling content at once: the processor would guess a few ahead at first. */
  for (uint32_t i = 128; i < r->stored_len && i < 4096; i += 64) __builtin_prefetch(r->stored + i);
  if (r->flags & RECORD_SNAPPY)
    good = compress_undo(r->stored, r->stored_len, buf, r->size) && (!check || crc32c(0, buf, r->size) == r->digest);
  else if (check) good = crc32c_copy(0, buf, r->stored, r->size) == r->digest;
  else if (r->size) memcpy(buf, r->stored, r->size);
  if (good) return SDB_OK;
  return env_fail(&db->e, SDB_CORRUPT,
                  "the content of %.*s (version %u) does not match its digest; an older version may be readable",
                  r->path_len < 80 ? (int)r->path_len : 80, (const char *)r->path, r->version);
}
