/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_claims.c - more threads than the engine has reader slots wait for one path while a large content of it is being
 * written. Readers go on meanwhile, and in the end everybody has been served.
 *
 * The storage is memory whose sync of the data file waits at a gate, as a slow device would.
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

int main(void) {
  Suite *suite = suite_create("claims");
  TCase *claims = tcase_create("claims");
  tcase_set_timeout(claims, 120);
  tcase_add_test(claims, waiters_hold_nothing_that_others_need);
  suite_add_tcase(suite, claims);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int count = srunner_ntests_failed(runner);
  srunner_free(runner);
  return count == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
