/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* base.h - what every part of the engine stands on: memory through the storage table, locks, and the sentence of an error. */
#ifndef SDB_BASE_H
#define SDB_BASE_H

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "sdb/sdb.h"
#include "sdb/storage.h"
#include "sync.h"

struct cipher;

/* The surroundings of one open database, shared by all its parts. */
typedef struct env {
  const sdb_storage *storage;
  bool threads;            /* background work has a thread of its own */
  atomic_bool sync_failed; /* I7: set once, never cleared */
  atomic_uint_fast64_t corruptions;
  const struct cipher *cipher; /* NULL: nothing is encrypted. The pager's */
  struct mutex message_lock;
  char message[256];
} env;

/* NULL when a table can be used; else what is wrong with it. */
const char *storage_wrong(const sdb_storage *given);
/* The table as the engine uses it: what the given one is too short to have is NULL. */
void storage_adopt(sdb_storage *to, const sdb_storage *given);

/* Records one sentence and returns `code`, so that a function can say `return env_fail(...)`. Counts SDB_CORRUPT. */
__attribute__((format(printf, 3, 4))) int env_fail(env *e, int code, const char *format, ...);

/* Memory of the storage's allocator. mem_new zeroes. */
void *mem_alloc(const env *e, size_t len);
void *mem_new(const env *e, size_t len);
void *mem_resize(const env *e, void *p, size_t len);
void mem_free(const env *e, void *p);

/* A growing array: makes room for `need` elements of `unit` bytes in all. Returns false on shortage, the array as before. */
bool mem_reserve(const env *e, void **array, size_t *cap, size_t need, size_t unit);

#endif
