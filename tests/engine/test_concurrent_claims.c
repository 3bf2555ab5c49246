/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_claims.c - more threads than the engine has reader slots wait for one path while a large content of it is being
 * written. Readers go on meanwhile, and in the end everybody has been served. Contents of different documents wait for nobody.
 *
 * The storage is memory whose sync of the data file waits at a gate, or the writes of one thread, as a slow device would.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"

#define NAME "things.sdb"

enum { WAITERS = 150, LARGE = 400000 };

static sdb *db;
static sdb_storage table;
static const sdb_storage *memory;
static _Atomic(sdb_file *) data_file;
static atomic_bool gate_shut, at_gate;
static atomic_uint done, failed;
static uint8_t large[LARGE];

static void pause_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

static int open_noted(void *ctx, const char *name, unsigned flags, sdb_file **file) {
  int code = memory->open(ctx, name, flags, file);
  if (code == SDB_OK && (strcmp(name, NAME) == 0 || strcmp(name, NAME ".new") == 0)) atomic_store(&data_file, *file);
  return code;
}

static int sync_gated(sdb_file *file) {
  while (file == atomic_load(&data_file) && atomic_load(&gate_shut)) {
    atomic_store(&at_gate, true);
    pause_ms(1);
  }
  return memory->sync(file);
}

static _Thread_local bool is_slow; /* the writes of this thread wait */

static int write_gated(sdb_file *file, uint64_t offset, const void *buf, size_t len) {
  while (is_slow && file == atomic_load(&data_file) && atomic_load(&gate_shut)) {
    atomic_store(&at_gate, true);
    pause_ms(1);
  }
  return memory->write(file, offset, buf, len);
}

static void *put_large(void *arg) {
  (void)arg;
  failed += sdb_put(db, "/one", 4, large, sizeof large, NULL, NULL) != SDB_OK;
  return NULL;
}

static void *put_small(void *arg) {
  uint8_t byte = (uint8_t)(uintptr_t)arg;
  failed += sdb_put(db, "/one", 4, &byte, 1, NULL, NULL) != SDB_OK;
  done++;
  return NULL;
}

static void *read_meanwhile(void *arg) {
  uint8_t found;
  size_t size;
  (void)arg;
  for (int i = 0; i < 200; i++) {
    failed += sdb_get(db, "/one", 4, SDB_CURRENT, &found, 1, &size, NULL) != SDB_OK;
    failed += sdb_get(db, "/two", 4, SDB_CURRENT, &found, 1, &size, NULL) != SDB_NOT_FOUND;
  }
  return NULL;
}

START_TEST(waiters_hold_nothing_that_others_need) {
  sdb_options options;
  pthread_t first, other, waiters[WAITERS];
  sdb_storage *files = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(files);
  memory = files;
  table = *files;
  table.open = open_noted;
  table.sync = sync_gated;
  sdb_options_init(&options);
  options.storage = &table;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/one", 4, "x", 1, NULL, NULL), SDB_OK);

  atomic_store(&gate_shut, true);
  ck_assert_int_eq(pthread_create(&first, NULL, put_large, NULL), 0);
  while (!atomic_load(&at_gate)) pause_ms(1);
  for (uintptr_t i = 0; i < WAITERS; i++) ck_assert_int_eq(pthread_create(&waiters[i], NULL, put_small, (void *)i), 0);
  pause_ms(100); /* most of them have come to wait */
  ck_assert_int_eq(pthread_create(&other, NULL, read_meanwhile, NULL), 0);
  ck_assert_int_eq(pthread_join(other, NULL), 0);
  ck_assert_uint_eq(done, 0);
  atomic_store(&gate_shut, false);
  ck_assert_int_eq(pthread_join(first, NULL), 0);
  for (unsigned i = 0; i < WAITERS; i++) ck_assert_int_eq(pthread_join(waiters[i], NULL), 0);

  ck_assert_uint_eq(failed, 0);
  sdb_info info;
  ck_assert_int_eq(sdb_stat(db, "/one", 4, SDB_CURRENT, &info), SDB_OK);
  ck_assert_uint_eq(info.version, WAITERS + 2);
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(files);
}
END_TEST

/* --- Beside each other -------------------------------------------------------------------------------------------------------- */

enum { BY_PUT, BY_WRITER, BY_BATCH, WAYS };

static int write_one(int way, const char *path) {
  sdb_writer *w;
  sdb_batch *b;
  size_t len = strlen(path);
  if (way == BY_PUT) return sdb_put(db, path, len, large, sizeof large, NULL, NULL);
  if (way == BY_WRITER) {
    int rc = sdb_writer_open(db, path, len, sizeof large, NULL, &w);
    if (rc == SDB_OK) rc = sdb_writer_write(w, large, sizeof large);
    return rc == SDB_OK ? sdb_writer_commit(w, NULL) : rc;
  }
  int rc = sdb_batch_open(db, &b);
  if (rc == SDB_OK) rc = sdb_batch_put(b, path, len, large, sizeof large, NULL);
  return rc == SDB_OK ? sdb_batch_commit(b, NULL, NULL, 0, NULL) : rc;
}

static void *write_slowly(void *arg) {
  is_slow = true;
  failed += write_one(*(const int *)arg, "/slow") != SDB_OK;
  return NULL;
}

static void *write_others(void *arg) {
  (void)arg;
  for (int way = 0; way < WAYS; way++) failed += write_one(way, "/other") != SDB_OK;
  failed += sdb_put(db, "/small", 6, "x", 1, NULL, NULL) != SDB_OK;
  atomic_store(&done, 1);
  return NULL;
}

/* While one content is held up half written, those of other documents, large and small, are written and committed. */
START_TEST(contents_are_written_beside_each_other) {
  sdb_options options;
  pthread_t slow, others;
  sdb_storage *files = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(files);
  memory = files;
  table = *files;
  table.open = open_noted;
  table.write = write_gated;
  sdb_options_init(&options);
  options.storage = &table;
  options.use_compression = false;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/first", 6, "x", 1, NULL, NULL), SDB_OK); /* marks the file as in use, which all wait for */
  atomic_store(&gate_shut, true);
  ck_assert_int_eq(pthread_create(&slow, NULL, write_slowly, &_i), 0);
  while (!atomic_load(&at_gate)) pause_ms(1);
  ck_assert_int_eq(pthread_create(&others, NULL, write_others, NULL), 0);
  for (int i = 0; i < 20000 && !atomic_load(&done); i++) pause_ms(1);
  ck_assert_msg(atomic_load(&done), "another document waits for a content that is being written");
  sdb_info info;
  ck_assert_int_eq(sdb_stat(db, "/other", 6, SDB_CURRENT, &info), SDB_OK);
  ck_assert_uint_eq(info.version, WAYS);
  ck_assert_int_eq(sdb_stat(db, "/slow", 5, SDB_CURRENT, &info), SDB_NOT_FOUND);
  atomic_store(&gate_shut, false);
  ck_assert_int_eq(pthread_join(slow, NULL), 0);
  ck_assert_int_eq(pthread_join(others, NULL), 0);
  ck_assert_uint_eq(failed, 0);
  ck_assert_int_eq(sdb_stat(db, "/slow", 5, SDB_CURRENT, &info), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(files);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("claims");
  TCase *claims = tcase_create("claims");
  tcase_set_timeout(claims, 120);
  tcase_add_test(claims, waiters_hold_nothing_that_others_need);
  tcase_add_loop_test(claims, contents_are_written_beside_each_other, 0, WAYS);
  suite_add_tcase(suite, claims);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int count = srunner_ntests_failed(runner);
  srunner_free(runner);
  return count == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
