/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store_rocksdb.c - RocksDB at its defaults, with a block cache as large as StreamDB's; with and without blob files and log. */
#include <rocksdb/c.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store.h"

typedef struct rocks_store {
  rocksdb_t *db;
  rocksdb_options_t *options;
  rocksdb_block_based_table_options_t *table;
  rocksdb_cache_t *cache;
  rocksdb_readoptions_t *read;
  rocksdb_writeoptions_t *write, *write_sync;
} rocks_store;

static void check(const char *error, const char *what) {
  if (error) die("rocksdb: %s: %s", what, error);
}

static void *open_with(const char *dir, bool blobs, bool log) {
  rocks_store *s = need(sizeof *s);
  char *error = NULL;
  s->options = rocksdb_options_create();
  rocksdb_options_set_create_if_missing(s->options, 1);
  s->cache = rocksdb_cache_create_lru(CACHE_BYTES);
  s->table = rocksdb_block_based_options_create();
  rocksdb_block_based_options_set_block_cache(s->table, s->cache);
  rocksdb_options_set_block_based_table_factory(s->options, s->table);
  if (blobs) rocksdb_options_set_enable_blob_files(s->options, 1);
  s->read = rocksdb_readoptions_create();
  s->write = rocksdb_writeoptions_create();
  rocksdb_writeoptions_disable_WAL(s->write, !log);
  s->write_sync = rocksdb_writeoptions_create();
  rocksdb_writeoptions_set_sync(s->write_sync, 1);
  s->db = rocksdb_open(s->options, dir, &error);
  check(error, "open");
  return s;
}

static void *open_default(const char *dir) { return open_with(dir, false, true); }
static void *open_blob(const char *dir) { return open_with(dir, true, true); }
static void *open_nolog(const char *dir) { return open_with(dir, false, false); }

static void close_store(void *store) {
  rocks_store *s = store;
  rocksdb_close(s->db);
  rocksdb_writeoptions_destroy(s->write_sync);
  rocksdb_writeoptions_destroy(s->write);
  rocksdb_readoptions_destroy(s->read);
  rocksdb_options_destroy(s->options);
  rocksdb_block_based_options_destroy(s->table);
  rocksdb_cache_destroy(s->cache);
  free(s);
}

static void put(void *store, const path *p, const void *data, size_t size, bool durable) {
  rocks_store *s = store;
  char *error = NULL;
  rocksdb_put(s->db, durable ? s->write_sync : s->write, p->text, p->len, data, size, &error);
  check(error, "put");
}

static size_t get(void *store, const path *p, void *buf, size_t cap) {
  rocks_store *s = store;
  char *error = NULL;
  rocksdb_pinnableslice_t *slice = rocksdb_get_pinned(s->db, s->read, p->text, p->len, &error);
  check(error, "get");
  if (!slice) return SIZE_MAX;
  size_t size;
  const char *data = rocksdb_pinnableslice_value(slice, &size);
  memcpy(buf, data, size < cap ? size : cap);
  rocksdb_pinnableslice_destroy(slice);
  return size;
}

static void erase(void *store, const path *p) {
  rocks_store *s = store;
  char *error = NULL;
  rocksdb_delete(s->db, s->write, p->text, p->len, &error);
  check(error, "delete");
}

static size_t scan(void *store, const path *prefix, uint64_t *sum) {
  rocks_store *s = store;
  char *error = NULL;
  rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, s->read);
  size_t count = 0;
  for (rocksdb_iter_seek(it, prefix->text, prefix->len); rocksdb_iter_valid(it); rocksdb_iter_next(it), count++) {
    size_t len;
    const char *key = rocksdb_iter_key(it, &len);
    if (len < prefix->len || memcmp(key, prefix->text, prefix->len)) break;
    *sum += len + (uint8_t)key[len - 1];
  }
  rocksdb_iter_get_error(it, &error);
  check(error, "scan");
  rocksdb_iter_destroy(it);
  return count;
}

static void flush(void *store) {
  rocks_store *s = store;
  char *error = NULL;
  rocksdb_flush_wal(s->db, 1, &error);
  check(error, "flush");
}

static void checkpoint(void *store) {
  rocks_store *s = store;
  char *error = NULL;
  rocksdb_flushoptions_t *options = rocksdb_flushoptions_create();
  rocksdb_flushoptions_set_wait(options, 1);
  rocksdb_flush(s->db, options, &error);
  check(error, "flush");
  rocksdb_flushoptions_destroy(options);
}

static void settle(void *store) {
  rocks_store *s = store;
  static const char *const busy[] = {"rocksdb.num-running-compactions", "rocksdb.compaction-pending",
                                     "rocksdb.num-running-flushes"};
  struct timespec rest = {.tv_nsec = 20000000};
  for (unsigned calm = 0; calm < 5; calm++) {
    for (size_t i = 0; i < sizeof busy / sizeof *busy; i++) {
      uint64_t value = 0;
      if (!rocksdb_property_int(s->db, busy[i], &value) && value) calm = 0;
    }
    nanosleep(&rest, NULL);
  }
}

#define ROCKS_STORE(store_name, store_open)                                                                                        \
  {                                                                                                                                \
    .name = store_name, .open = store_open, .close = close_store, .put = put, .get = get, .erase = erase, .scan = scan,            \
    .flush = flush, .checkpoint = checkpoint, .settle = settle                                                                     \
  }

const store_ops store_rocksdb = ROCKS_STORE("RocksDB", open_default);
const store_ops store_rocksdb_blob = ROCKS_STORE("RocksDB blob", open_blob);
const store_ops store_rocksdb_nolog = ROCKS_STORE("RocksDB no log", open_nolog);
