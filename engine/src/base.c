/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* base.c - memory and messages; see base.h. */
#include "base.h"

#include <stdio.h>
#include <string.h>

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
