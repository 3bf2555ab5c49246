/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_care.c - a damaged path tree and a damaged heap page are found and mended by the engine's thread, while others
 * read and write; and what wakes that thread. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* check.h brings the mathematical `log` along. */
#define log engine_log
#include "db.h"
#undef log

#define NAME "care.sdb"

enum { DOCUMENTS = 2000, READERS = 2 };

static sdb *db;
static sdb_storage *memory;
static sdb_options options;
static atomic_bool stop;
static atomic_uint wrong, reads, refused, writes;

static size_t path_of(unsigned i, char path[128]) { return (size_t)snprintf(path, 128, "/care/%05u/%060u", i * 7919 % 10007, i); }

/* The content is the path; a rewritten document has it twice. */
static int put(unsigned i, unsigned times) {
  char path[128], content[256];
  sdb_put_options o;
  size_t len = path_of(i, path);
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  memcpy(content, path, len);
  memcpy(content + len, path, len);
  return sdb_put(db, path, len, content, times * len, &o, NULL);
}

static int get(unsigned i) {
  char path[128], content[256];
  size_t len = path_of(i, path), size = 0;
  int rc = sdb_get(db, path, len, SDB_CURRENT, content, sizeof content, &size, NULL);
  bool good = rc != SDB_OK || ((size == len || size == 2 * len) && memcmp(content, path, len) == 0);
  if (!good || (rc != SDB_OK && rc != SDB_CORRUPT)) wrong++;
  return rc;
}

static void *read_all(void *arg) {
  for (unsigned i = (unsigned)(uintptr_t)arg; !stop; i = (i + 7) % DOCUMENTS) {
    refused += get(i) == SDB_CORRUPT;
    reads++;
  }
  return NULL;
}

static void *write_some(void *arg) {
  (void)arg;
  for (unsigned i = 0; !stop; i = (i + 13) % DOCUMENTS) {
    int rc = put(i, 2);
    if (rc != SDB_OK && rc != SDB_CORRUPT) wrong++;
    writes++;
  }
  return NULL;
}

struct wanted {
  uint32_t number, heap, place, heap_place;
};

static int want(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct wanted *w = user;
  (void)live;
  if (number == w->number) w->place = place;
  if (kind == PAGE_HEAP && place && w->heap++ == 3) w->heap_place = place;
  return SDB_OK;
}

static void flip(uint32_t place, uint32_t offset) {
  sdb_file *file;
  uint8_t byte;
  uint64_t at = (uint64_t)place * options.page_size + offset;
  ck_assert_int_eq(memory->open(memory->ctx, NAME, SDB_OPEN_WRITE, &file), SDB_OK);
  ck_assert_int_eq(memory->read(file, at, &byte, 1), SDB_OK);
  byte ^= 1;
  ck_assert_int_eq(memory->write(file, at, &byte, 1), SDB_OK);
  memory->close(file);
}

static void make_damaged(void) {
  struct wanted w = {0};
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  for (unsigned i = 0; i < DOCUMENTS; i++) ck_assert_int_eq(put(i, 1), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  pager_lock(db->pager);
  w.number = db->roots.path_tree;
  unsigned slot = pager_enter(db->pager);
  ck_assert_int_eq(pager_walk(db->pager, want, &w), SDB_OK);
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert(w.place && w.heap_place);
  flip(w.place, 300);
  flip(w.heap_place, 8);
}

static sdb_stats stats(void) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

static bool mended(void) {
  sdb_stats s = stats();
  return s.scrubs > 0 && !s.rebuilding && s.suffix_ready && s.quarantined == 0;
}

START_TEST(others_go_on_while_damage_is_mended) {
  pthread_t readers[READERS], writer;
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  sdb_options_init(&options);
  options.storage = memory;
  options.page_size = 4096;
  options.use_mmap = _i == 0;
  options.checkpoint_wal_bytes = 200000;
  options.wal_segment_size = 65536;
  make_damaged();
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  stop = false;
  for (unsigned i = 0; i < READERS; i++) pthread_create(&readers[i], NULL, read_all, (void *)(uintptr_t)i);
  pthread_create(&writer, NULL, write_some, NULL);
  for (unsigned i = 0; !mended(); i++) {
    if (i % 50 == 0) ck_assert_int_eq(sdb_scrub(db), SDB_OK);
    if (i % 10 == 5) ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  stop = true;
  for (unsigned i = 0; i < READERS; i++) pthread_join(readers[i], NULL);
  pthread_join(writer, NULL);
  ck_assert_uint_eq(wrong, 0);
  for (unsigned i = 0; i < DOCUMENTS; i++) ck_assert_int_eq(get(i), SDB_OK);
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
  printf("care: %u reads (%u refused), %u writes\n", reads, refused, writes);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}
END_TEST

static void hear_synced(void *user, uint64_t sequence) { atomic_store((_Atomic uint64_t *)user, sequence); }

/* The engine's thread means to sleep until the next scrub; the commit is to be on the device within its interval all the same. */
START_TEST(a_buffered_commit_wakes_the_thread) {
  static _Atomic uint64_t synced;
  sdb_put_options o;
  sdb_commit commit;
  memory = sdb_storage_memory_new();
  sdb_options_init(&options);
  options.storage = memory;
  options.scrub_interval_s = 3600;
  options.buffered_interval_ms = 10;
  options.on_synced = hear_synced;
  options.on_synced_user = &synced;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  sdb_put_options_init(&o);
  o.durability = SDB_BUFFERED;
  for (unsigned round = 0; round < 5; round++) {
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* so that it sleeps; else the test says less, never too much */
    ck_assert_int_eq(sdb_put(db, "a", 1, "b", 1, &o, &commit), SDB_OK);
    for (unsigned i = 0; atomic_load(&synced) < commit.sequence; i++) {
      ck_assert_msg(i < 30000, "round %u: nothing was synced", round);
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("concurrent care");
  TCase *t = tcase_create("care");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, others_go_on_while_damage_is_mended, 0, 2);
  tcase_add_test(t, a_buffered_commit_wakes_the_thread);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
