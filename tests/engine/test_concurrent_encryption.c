/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_encryption.c - an encrypted, compressing database with threads: writers and readers go on while the key changes
 * and checkpoints run; afterwards the last key opens it and every document is whole.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "sdb/storage.h"

enum { WRITERS = 2, DOCUMENTS = 40, ROUNDS = 30, CHANGES = 60, LARGE = 90000 };

static sdb *db;
static atomic_bool ended;

static uint32_t size_of(unsigned writer, unsigned i) { return i % 10 == 9 ? LARGE : 300 + 17 * i + writer; }

static void check_content(unsigned writer, unsigned i, const uint8_t *data, size_t size) {
  static _Thread_local uint8_t expected[LARGE];
  ck_assert_uint_eq(size, size_of(writer, i));
  model_content(1000 * writer + i, 0, expected, size);
  ck_assert(memcmp(data, expected, size) == 0);
}

static void read_all(bool must_exist) {
  for (unsigned writer = 0; writer < WRITERS; writer++) {
    for (unsigned i = 0; i < DOCUMENTS; i++) {
      const unsigned path[2] = {writer, i};
      void *data;
      size_t size;
      int code = sdb_get_alloc(db, path, sizeof path, SDB_CURRENT, &data, &size, NULL);
      ck_assert(code == SDB_OK || (code == SDB_NOT_FOUND && !must_exist));
      if (code != SDB_OK) continue;
      check_content(writer, i, data, size);
      sdb_free(db, data);
    }
  }
}

static void *write_documents(void *arg) {
  unsigned writer = *(unsigned *)arg;
  uint8_t *data = malloc(LARGE);
  sdb_put_options o;
  sdb_put_options_init(&o);
  ck_assert_ptr_nonnull(data);
  for (unsigned round = 0; round < ROUNDS; round++) {
    for (unsigned i = 0; i < DOCUMENTS; i++) {
      const unsigned path[2] = {writer, i};
      model_content(1000 * writer + i, 0, data, size_of(writer, i));
      o.durability = i % 3 ? SDB_NONE : SDB_DURABLE;
      ck_assert_int_eq(sdb_put(db, path, sizeof path, data, size_of(writer, i), &o, NULL), SDB_OK);
    }
  }
  free(data);
  return NULL;
}

static void *read_documents(void *arg) {
  while (!atomic_load(&ended)) read_all(false);
  return arg;
}

START_TEST(test_change_beside_work) {
  uint8_t key[SDB_KEY_SIZE] = "the first key";
  sdb_storage *memory = sdb_storage_memory_new();
  sdb_options o;
  sdb_options_init(&o);
  o.storage = memory;
  o.encryption_key = key;
  o.page_cache_size = 64;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 1 << 18;
  atomic_store(&ended, false);
  ck_assert_int_eq(sdb_open("a.sdb", &o, &db), SDB_OK);
  pthread_t writers[WRITERS], reader;
  unsigned numbers[WRITERS];
  for (unsigned i = 0; i < WRITERS; i++) {
    numbers[i] = i;
    ck_assert_int_eq(pthread_create(&writers[i], NULL, write_documents, &numbers[i]), 0);
  }
  ck_assert_int_eq(pthread_create(&reader, NULL, read_documents, NULL), 0);
  for (unsigned i = 0; i < CHANGES; i++) {
    uint8_t recovery[SDB_KEY_SIZE];
    key[31] = (uint8_t)i;
    ck_assert_int_eq(sdb_change_key(db, key), SDB_OK);
    ck_assert_int_eq(sdb_key_export(db, recovery), SDB_OK);
    if (i % 4 == 1) ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  }
  for (unsigned i = 0; i < WRITERS; i++) ck_assert_int_eq(pthread_join(writers[i], NULL), 0);
  atomic_store(&ended, true);
  ck_assert_int_eq(pthread_join(reader, NULL), 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  key[31] = 0;
  ck_assert_int_eq(sdb_open("a.sdb", &o, &db), SDB_WRONG_KEY);
  key[31] = CHANGES - 1;
  ck_assert_int_eq(sdb_open("a.sdb", &o, &db), SDB_OK);
  read_all(true);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("concurrent_encryption");
  TCase *threads = tcase_create("threads");
  tcase_set_timeout(threads, 300);
  tcase_add_test(threads, test_change_beside_work);
  suite_add_tcase(suite, threads);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
