/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* base.c - memory and messages; see base.h. */
#include "base.h"

#include <stdio.h>
#include <string.h>

/* The first edition's length: members behind it may be missing. */
enum { SHORTEST_TABLE = offsetof(sdb_storage, thread_join) + sizeof(void (*)(void)) };

const char *storage_wrong(const sdb_storage *s) {
  if (s->version != SDB_STORAGE_VERSION) return "the storage table has another version than this library knows";
  if (s->size < SHORTEST_TABLE) return "the storage table is too short: set its size to sizeof(sdb_storage)";
  if (!s->open || !s->close || !s->lock || !s->read || !s->write || !s->sync || !s->get_size || !s->set_size || !s->allocate ||
      !s->punch || !s->rename || !s->remove || !s->sync_dir || !s->now_ms || !s->monotonic_us || !s->random || !s->realloc)
    return "the storage table lacks a function that it must have";
  if (!s->map != !s->unmap || !s->thread_start != !s->thread_join)
    return "the storage table has one function of a pair without the other";
  return NULL;
}

void storage_adopt(sdb_storage *to, const sdb_storage *given) {
  size_t size = given->size < sizeof *to ? given->size : sizeof *to;
  *to = (sdb_storage){0};
  memcpy(to, given, size);
  to->size = sizeof *to;
}

int env_fail(env *e, int code, const char *format, ...) {
  if (code == SDB_CORRUPT) atomic_fetch_add_explicit(&e->corruptions, 1, memory_order_relaxed);
  va_list args;
  va_start(args, format);
  mutex_lock(&e->message_lock);
  vsnprintf(e->message, sizeof e->message, format, args);
  mutex_unlock(&e->message_lock);
  va_end(args);
  return code;
}

void *mem_alloc(const env *e, size_t len) { return e->storage->realloc(e->storage->ctx, NULL, len ? len : 1); }

void *mem_new(const env *e, size_t len) {
  void *p = mem_alloc(e, len);
  if (p) memset(p, 0, len);
  return p;
}

void *mem_resize(const env *e, void *p, size_t len) { return e->storage->realloc(e->storage->ctx, p, len); }

void mem_free(const env *e, void *p) {
  if (p) e->storage->realloc(e->storage->ctx, p, 0);
}

bool mem_reserve(const env *e, void **array, size_t *cap, size_t need, size_t unit) {
  if (need <= *cap) return true;
  size_t grown = *cap ? *cap * 2 : 16;
  if (grown < need) grown = need;
  void *p = mem_resize(e, *array, grown * unit);
  if (!p) return false;
  *array = p;
  *cap = grown;
  return true;
}
