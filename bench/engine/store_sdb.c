/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store_sdb.c - StreamDB through its public calls. */
#include <inttypes.h>

#include "sdb/sdb.h"
#include "store.h"

#define PIECE ((size_t)1 << 20)

static void check(sdb *db, int rc, const char *what) {
  char message[512] = "";
  if (rc == SDB_OK) return;
  if (db) sdb_message(db, message, sizeof message);
  die("sdb: %s: %s. %s", what, sdb_strerror(rc), message);
}

static sdb *open_with(const char *dir, void (*change)(sdb_options *options)) {
  char name[512], message[512] = "";
  snprintf(name, sizeof name, "%s/documents.sdb", dir);
  sdb_options options;
  sdb_options_init(&options);
  options.page_cache_size = CACHE_PAGES;
  options.message = message;
  options.message_size = sizeof message;
  if (change) change(&options);
  sdb *db;
  int rc = sdb_open(name, &options, &db);
  if (rc) die("sdb: open: %s. %s", sdb_strerror(rc), message);
  return db;
}

static const uint8_t key[32] = "measured, and not kept secret...";

static void without_suffix(sdb_options *options) { options->suffix_index = false; }
static void quickly(sdb_options *options) { options->quick_mode = true; }
static void encrypted(sdb_options *options) { options->encryption_key = key; }
static void without_mmap(sdb_options *options) { options->use_mmap = false; }
static void with_long_log(sdb_options *options) { options->checkpoint_wal_bytes = (uint64_t)1 << 30; }

static void *open_default(const char *dir) { return open_with(dir, NULL); }
static void *open_nosuffix(const char *dir) { return open_with(dir, without_suffix); }
static void *open_quick(const char *dir) { return open_with(dir, quickly); }
static void *open_crypt(const char *dir) { return open_with(dir, encrypted); }
static void *open_nommap(const char *dir) { return open_with(dir, without_mmap); }
static void *open_log(const char *dir) { return open_with(dir, with_long_log); }

static void close_store(void *store) { check(NULL, sdb_close(store), "close"); }

static void put_as(void *store, const path *p, const void *data, size_t size, sdb_durability durability) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = durability;
  check(store, sdb_put(store, p->text, p->len, data, size, &options, NULL), "put");
}

static void put(void *store, const path *p, const void *data, size_t size, bool durable) {
  put_as(store, p, data, size, durable ? SDB_DURABLE : SDB_NONE);
}

static void put_buffered(void *store, const path *p, const void *data, size_t size, bool durable) {
  put_as(store, p, data, size, durable ? SDB_DURABLE : SDB_BUFFERED);
}

static size_t get(void *store, const path *p, void *buf, size_t cap) {
  size_t size;
  int rc = sdb_get(store, p->text, p->len, SDB_CURRENT, buf, cap, &size, NULL);
  if (rc == SDB_NOT_FOUND) return SIZE_MAX;
  check(store, rc, "get");
  return size;
}

static void erase(void *store, const path *p) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = SDB_NONE;
  check(store, sdb_delete(store, p->text, p->len, &options, NULL), "delete");
}

static size_t search(void *store, const sdb_cursor_options *options, uint64_t *sum) {
  sdb_cursor *cursor;
  check(store, sdb_cursor_open(store, options, &cursor), "search");
  size_t count = 0;
  sdb_entry entry;
  int rc;
  for (; (rc = sdb_cursor_next(cursor, &entry)) == SDB_OK; count++) *sum += entry.path_len + entry.path[entry.path_len - 1];
  if (rc != SDB_END) check(store, rc, "search");
  sdb_cursor_close(cursor);
  return count;
}

static size_t scan(void *store, const path *prefix, uint64_t *sum) {
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.prefix = prefix->text;
  options.prefix_len = prefix->len;
  return search(store, &options, sum);
}

static size_t scan_suffix(void *store, const path *suffix, uint64_t *sum) {
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.suffix = suffix->text;
  options.suffix_len = suffix->len;
  return search(store, &options, sum);
}

static void flush(void *store) { check(store, sdb_flush(store), "flush"); }
static void checkpoint(void *store) { check(store, sdb_checkpoint(store), "checkpoint"); }

static void settle(void *store) {
  bool more = true;
  while (more) check(store, sdb_step(store, 1024, &more), "step");
}

static void write_large(void *store, const path *p, const uint8_t *data, size_t size) {
  sdb_writer *writer;
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = SDB_DURABLE;
  check(store, sdb_writer_open(store, p->text, p->len, size, &options, &writer), "write a stream");
  for (size_t at = 0; at < size; at += PIECE) {
    check(store, sdb_writer_write(writer, data + at, size - at < PIECE ? size - at : PIECE), "write a stream");
  }
  check(store, sdb_writer_commit(writer, NULL), "commit a stream");
}

static size_t read_large(void *store, const path *p, uint8_t *buf, size_t piece) {
  sdb_reader *reader;
  check(store, sdb_reader_open(store, p->text, p->len, SDB_CURRENT, &reader), "read a stream");
  size_t total = 0, got;
  do {
    check(store, sdb_reader_read(reader, buf, piece, &got), "read a stream");
    total += got;
  } while (got);
  sdb_reader_close(reader);
  return total;
}

#define SDB_STORE(store_name, store_open, store_put)                                                                               \
  {                                                                                                                                \
    .name = store_name, .open = store_open, .close = close_store, .put = store_put, .get = get, .erase = erase, .scan = scan,      \
    .scan_suffix = scan_suffix, .flush = flush, .checkpoint = checkpoint, .settle = settle, .write_large = write_large,            \
    .read_large = read_large                                                                                                       \
  }

const store_ops store_sdb = SDB_STORE("sdb", open_default, put);
const store_ops store_sdb_nosuffix = SDB_STORE("sdb-nosuffix", open_nosuffix, put);
const store_ops store_sdb_quick = SDB_STORE("sdb-quick", open_quick, put);
const store_ops store_sdb_crypt = SDB_STORE("sdb-crypt", open_crypt, put);
const store_ops store_sdb_nommap = SDB_STORE("sdb-nommap", open_nommap, put);
const store_ops store_sdb_buffered = SDB_STORE("sdb-buffered", open_default, put_buffered);
const store_ops store_sdb_log = SDB_STORE("sdb-log", open_log, put);
