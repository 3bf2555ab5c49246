/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store_lmdb.c - LMDB. One transaction a put; one read transaction a get or scan, renewed, which is its cheapest way.
 * Puts that need not be durable switch its sync off, which is as much as it has. */
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

#define MAP_BYTES ((size_t)256 << 30)

typedef struct lmdb_store {
  MDB_env *env;
  MDB_dbi dbi;
  MDB_txn *reader;
  bool syncing;
} lmdb_store;

static void check(int rc, const char *what) {
  if (rc) die("lmdb: %s: %s", what, mdb_strerror(rc));
}

static MDB_val value_of(const void *data, size_t size) {
  MDB_val v = {.mv_size = size};
  memcpy(&v.mv_data, &data, sizeof data); /* LMDB takes pointers to mutable data and does not change it */
  return v;
}

static void *open_store(const char *dir) {
  lmdb_store *s = need(sizeof *s);
  MDB_txn *txn;
  check(mdb_env_create(&s->env), "create");
  check(mdb_env_set_mapsize(s->env, MAP_BYTES), "map size");
  check(mdb_env_open(s->env, dir, 0, 0600), "open");
  check(mdb_txn_begin(s->env, NULL, 0, &txn), "begin");
  check(mdb_dbi_open(txn, NULL, 0, &s->dbi), "open");
  check(mdb_txn_commit(txn), "commit");
  check(mdb_txn_begin(s->env, NULL, MDB_RDONLY, &s->reader), "begin");
  mdb_txn_reset(s->reader);
  s->syncing = true;
  return s;
}

static void close_store(void *store) {
  lmdb_store *s = store;
  mdb_txn_abort(s->reader);
  mdb_env_close(s->env);
  free(s);
}

static void put(void *store, const path *p, const void *data, size_t size, bool durable) {
  lmdb_store *s = store;
  MDB_txn *txn;
  MDB_val key = value_of(p->text, p->len), value = value_of(data, size);
  if (durable != s->syncing) {
    check(mdb_env_set_flags(s->env, MDB_NOSYNC, !durable), "set flags");
    s->syncing = durable;
  }
  check(mdb_txn_begin(s->env, NULL, 0, &txn), "begin");
  check(mdb_put(txn, s->dbi, &key, &value, 0), "put");
  check(mdb_txn_commit(txn), "commit");
}

static size_t get(void *store, const path *p, void *buf, size_t cap) {
  lmdb_store *s = store;
  MDB_val key = value_of(p->text, p->len), value;
  check(mdb_txn_renew(s->reader), "renew");
  int rc = mdb_get(s->reader, s->dbi, &key, &value);
  if (!rc) memcpy(buf, value.mv_data, value.mv_size < cap ? value.mv_size : cap);
  mdb_txn_reset(s->reader);
  if (rc == MDB_NOTFOUND) return SIZE_MAX;
  check(rc, "get");
  return value.mv_size;
}

static void erase(void *store, const path *p) {
  lmdb_store *s = store;
  MDB_txn *txn;
  MDB_val key = value_of(p->text, p->len);
  check(mdb_txn_begin(s->env, NULL, 0, &txn), "begin");
  check(mdb_del(txn, s->dbi, &key, NULL), "delete");
  check(mdb_txn_commit(txn), "commit");
}

static size_t scan(void *store, const path *prefix, uint64_t *sum) {
  lmdb_store *s = store;
  MDB_cursor *cursor;
  MDB_val key = value_of(prefix->text, prefix->len), value;
  check(mdb_txn_renew(s->reader), "renew");
  check(mdb_cursor_open(s->reader, s->dbi, &cursor), "cursor");
  size_t count = 0;
  int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
  while (!rc && key.mv_size >= prefix->len && !memcmp(key.mv_data, prefix->text, prefix->len)) {
    *sum += key.mv_size + ((const uint8_t *)key.mv_data)[key.mv_size - 1];
    count++;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
  }
  if (rc != MDB_NOTFOUND) check(rc, "scan");
  mdb_cursor_close(cursor);
  mdb_txn_reset(s->reader);
  return count;
}

static void flush(void *store) { check(mdb_env_sync(((lmdb_store *)store)->env, 1), "sync"); }
static void settle(void *store) { (void)store; }

const store_ops store_lmdb = {.name = "LMDB",
                              .open = open_store,
                              .close = close_store,
                              .put = put,
                              .get = get,
                              .erase = erase,
                              .scan = scan,
                              .flush = flush,
                              .checkpoint = flush,
                              .settle = settle};
