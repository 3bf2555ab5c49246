/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store_sqlite.c - SQLite in WAL mode: prepared statements, one transaction a put, synchronous as the put asks. */
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

typedef struct sqlite_store {
  sqlite3 *db;
  sqlite3_stmt *put, *get, *erase, *scan;
  bool syncing;
} sqlite_store;

static void check(sqlite_store *s, int rc, int wanted, const char *what) {
  if (rc != wanted) die("sqlite: %s: %s", what, sqlite3_errmsg(s->db));
}

static void run(sqlite_store *s, const char *sql) { check(s, sqlite3_exec(s->db, sql, NULL, NULL, NULL), SQLITE_OK, sql); }

static sqlite3_stmt *prepare(sqlite_store *s, const char *sql) {
  sqlite3_stmt *statement;
  check(s, sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL), SQLITE_OK, sql);
  return statement;
}

static void bind(sqlite_store *s, sqlite3_stmt *statement, int at, const void *data, size_t size) {
  check(s, sqlite3_bind_blob64(statement, at, data, size, SQLITE_STATIC), SQLITE_OK, "bind");
}

static void *open_store(const char *dir) {
  sqlite_store *s = need(sizeof *s);
  char name[512];
  snprintf(name, sizeof name, "%s/documents.sqlite", dir);
  check(s, sqlite3_open(name, &s->db), SQLITE_OK, "open");
  snprintf(name, sizeof name, "PRAGMA cache_size=-%zu", CACHE_BYTES / 1024);
  run(s, "PRAGMA journal_mode=WAL");
  run(s, "PRAGMA synchronous=FULL");
  run(s, name);
  run(s, "CREATE TABLE IF NOT EXISTS documents (path BLOB PRIMARY KEY, content BLOB)");
  s->put = prepare(s, "INSERT OR REPLACE INTO documents VALUES (?1, ?2)");
  s->get = prepare(s, "SELECT content FROM documents WHERE path = ?1");
  s->erase = prepare(s, "DELETE FROM documents WHERE path = ?1");
  s->scan = prepare(s, "SELECT path FROM documents WHERE path >= ?1 AND path < ?2");
  s->syncing = true;
  return s;
}

static void close_store(void *store) {
  sqlite_store *s = store;
  sqlite3_finalize(s->put);
  sqlite3_finalize(s->get);
  sqlite3_finalize(s->erase);
  sqlite3_finalize(s->scan);
  check(s, sqlite3_close(s->db), SQLITE_OK, "close");
  free(s);
}

static void put(void *store, const path *p, const void *data, size_t size, bool durable) {
  sqlite_store *s = store;
  if (durable != s->syncing) {
    run(s, durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=OFF");
    s->syncing = durable;
  }
  bind(s, s->put, 1, p->text, p->len);
  bind(s, s->put, 2, data, size);
  check(s, sqlite3_step(s->put), SQLITE_DONE, "put");
  check(s, sqlite3_reset(s->put), SQLITE_OK, "put");
}

static size_t get(void *store, const path *p, void *buf, size_t cap) {
  sqlite_store *s = store;
  bind(s, s->get, 1, p->text, p->len);
  size_t size = SIZE_MAX;
  int rc = sqlite3_step(s->get);
  if (rc == SQLITE_ROW) {
    size = (size_t)sqlite3_column_bytes(s->get, 0);
    memcpy(buf, sqlite3_column_blob(s->get, 0), size < cap ? size : cap);
  } else {
    check(s, rc, SQLITE_DONE, "get");
  }
  check(s, sqlite3_reset(s->get), SQLITE_OK, "get");
  return size;
}

static void erase(void *store, const path *p) {
  sqlite_store *s = store;
  bind(s, s->erase, 1, p->text, p->len);
  check(s, sqlite3_step(s->erase), SQLITE_DONE, "delete");
  check(s, sqlite3_reset(s->erase), SQLITE_OK, "delete");
}

static size_t scan(void *store, const path *prefix, uint64_t *sum) {
  sqlite_store *s = store;
  path end = *prefix; /* our prefixes end in an ordinary character, so the range ends at the next one */
  end.text[end.len - 1]++;
  bind(s, s->scan, 1, prefix->text, prefix->len);
  bind(s, s->scan, 2, end.text, end.len);
  size_t count = 0;
  int rc;
  for (; (rc = sqlite3_step(s->scan)) == SQLITE_ROW; count++) {
    int len = sqlite3_column_bytes(s->scan, 0);
    const uint8_t *key = sqlite3_column_blob(s->scan, 0);
    *sum += (uint64_t)len + key[len - 1];
  }
  check(s, rc, SQLITE_DONE, "scan");
  check(s, sqlite3_reset(s->scan), SQLITE_OK, "scan");
  return count;
}

static void checkpoint(void *store) {
  sqlite_store *s = store;
  run(s, "PRAGMA synchronous=FULL");
  s->syncing = true;
  run(s, "PRAGMA wal_checkpoint(TRUNCATE)");
}

static void settle(void *store) { (void)store; }

const store_ops store_sqlite = {.name = "SQLite",
                                .open = open_store,
                                .close = close_store,
                                .put = put,
                                .get = get,
                                .erase = erase,
                                .scan = scan,
                                .flush = checkpoint,
                                .checkpoint = checkpoint,
                                .settle = settle};
