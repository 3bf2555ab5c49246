/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_recovery.c - replay beside the thread that writes ahead for it: all is there afterwards, a write that fails in
 * that thread is the open's error and costs nothing, and without the thread it is the same.
 */
#include <check.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"

enum { DOCUMENTS = 6000, SIZE = 700, CACHE = 256 };

static sdb_storage *memory, glass;
static sdb *db;
static sdb_options options;
static char message[256];
static uint8_t content[SIZE + 256], found[SIZE];

/* All files but the log fail from a write on, or everything does once the process is dead. */
static atomic_int writes_left;
static atomic_bool dead;
static _Atomic(sdb_file *) data_file;

static int glass_open(void *ctx, const char *name, unsigned mode, sdb_file **file) {
  int rc = memory->open(ctx, name, mode, file);
  if (rc == SDB_OK && strcmp(name, "d") == 0) atomic_store(&data_file, *file);
  return rc;
}
static int glass_write(sdb_file *file, uint64_t offset, const void *bytes, size_t len) {
  bool fails = file == atomic_load(&data_file) && len > 4096 && atomic_fetch_sub(&writes_left, 1) == 0;
  return fails || atomic_load(&dead) ? SDB_IO : memory->write(file, offset, bytes, len);
}
static int glass_sync(sdb_file *file) { return atomic_load(&dead) ? SDB_IO : memory->sync(file); }
static int no_thread(void *ctx, void (*run)(void *arg), void *arg, void **thread) {
  (void)ctx, (void)run, (void)arg, (void)thread;
  return SDB_NO_MEMORY;
}

static int try_open(void) { return sdb_open("d", &options, &db); }

static void open_it(void) {
  int code = try_open();
  ck_assert_msg(code == SDB_OK, "open: %s: %s", sdb_strerror(code), message);
}

static void close_it(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = NULL;
}

static void die(void) {
  atomic_store(&dead, true);
  (void)!sdb_close(db);
  atomic_store(&dead, false);
  db = NULL;
}

static size_t path_of(char path[32], unsigned i) { return (size_t)snprintf(path, 32, "/d/%07u", i * 7919u % 1000003u); }

static void set_up(void) {
  sdb_put_options o;
  memory = sdb_storage_memory_new();
  glass = *memory;
  glass.open = glass_open;
  glass.write = glass_write;
  glass.sync = glass_sync;
  atomic_store(&writes_left, -1);
  sdb_options_init(&options);
  options.storage = &glass;
  options.page_size = 4096;
  options.page_cache_size = CACHE;
  options.wal_segment_size = 1 << 20;
  options.checkpoint_wal_bytes = 1 << 30;
  options.use_compression = false;
  options.message = message;
  options.message_size = sizeof message;
  for (size_t i = 0; i < sizeof content; i++) content[i] = (uint8_t)(i * 2654435761u >> 13);
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  open_it();
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[32];
    size_t len = path_of(path, i);
    ck_assert_int_eq(sdb_put(db, path, len, content + i % 256, SIZE, &o, NULL), SDB_OK);
  }
  ck_assert_int_eq(sdb_flush(db), SDB_OK);
  die();
}

static void tear_down(void) {
  close_it();
  sdb_storage_memory_free(memory);
}

static void must_have_all(void) {
  sdb_check_report r = {.size = sizeof r};
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[32];
    size_t got, len = path_of(path, i);
    ck_assert_int_eq(sdb_get(db, path, len, SDB_CURRENT, found, sizeof found, &got, NULL), SDB_OK);
    ck_assert_uint_eq(got, SIZE);
    ck_assert_mem_eq(found, content + i % 256, SIZE);
  }
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
}

START_TEST(nothing_is_lost_beside_the_thread) {
  sdb_stats stats = {.size = sizeof stats};
  set_up();
  if (_i == 1) glass.thread_start = no_thread;
  open_it();
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert_uint_eq(stats.recovered_commits, DOCUMENTS);
  must_have_all();
  tear_down();
}
END_TEST

/* Every damaged leaf is met while the other thread writes; the whole tree is made again then. */
START_TEST(a_damaged_tree_is_made_again_beside_the_thread) {
  sdb_file *file;
  uint64_t size;
  uint8_t page[4096];
  unsigned damaged = 0;
  set_up();
  open_it();
  close_it();
  open_it();
  for (unsigned i = 0; i < DOCUMENTS; i += 2) {
    char path[32];
    size_t len = path_of(path, i);
    ck_assert_int_eq(sdb_delete(db, path, len, NULL, NULL), SDB_OK);
    ck_assert_int_eq(sdb_put(db, path, len, content + i % 256, SIZE, NULL, NULL), SDB_OK);
  }
  die();
  ck_assert_int_eq(memory->open(memory->ctx, "d", SDB_OPEN_WRITE, &file), SDB_OK);
  ck_assert_int_eq(memory->get_size(file, &size), SDB_OK);
  for (uint64_t at = 393216 + 522 * sizeof page; at < size; at += sizeof page) {
    ck_assert_int_eq(memory->read(file, at, page, sizeof page), SDB_OK);
    if (page[4] != 2 || at / sizeof page % 5) continue; /* a leaf */
    page[2000] ^= 1;
    ck_assert_int_eq(memory->write(file, at, page, sizeof page), SDB_OK);
    damaged++;
  }
  memory->close(file);
  ck_assert_uint_gt(damaged, 2);
  if (_i == 1) glass.thread_start = no_thread;
  open_it();
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  sdb_stats stats = {.size = sizeof stats};
  for (bool more = true; more || stats.scrubs == 0;) { /* what the tree was is collected */
    ck_assert_int_eq(sdb_step(db, 1000, &more), SDB_OK);
    ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  }
  must_have_all();
  tear_down();
}
END_TEST

START_TEST(a_write_that_fails_there_is_an_error_of_the_open) {
  set_up();
  for (int nth = 0; nth < 12; nth += 1 + nth / 3) {
    atomic_store(&writes_left, nth);
    ck_assert_msg(try_open() == SDB_IO, "write %d", nth);
    ck_assert_ptr_nonnull(strstr(message, "cannot write"));
    atomic_store(&writes_left, -1);
  }
  open_it();
  must_have_all();
  tear_down();
}
END_TEST

int main(void) {
  Suite *s = suite_create("concurrent recovery");
  TCase *tc = tcase_create("recovery");
  tcase_set_timeout(tc, 300);
  tcase_add_loop_test(tc, nothing_is_lost_beside_the_thread, 0, 2);
  tcase_add_loop_test(tc, a_damaged_tree_is_made_again_beside_the_thread, 0, 2);
  tcase_add_test(tc, a_write_that_fails_there_is_an_error_of_the_open);
  suite_add_tcase(s, tc);
  SRunner *sr = srunner_create(s);
  srunner_run_all(sr, CK_ENV);
  int failed = srunner_ntests_failed(sr);
  srunner_free(sr);
  return failed ? 1 : 0;
}
