/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_lock.c - what keeps readers, commits and the engine's thread from waiting for each other: who comes while a
 * commit is being made has the commits behind it publish themselves, so that he need not wait for the next ones; buffers for
 * changed pages are made ready by the thread; gates lose nobody.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"

/* check.h brings the mathematical `log` along. */
#define log engine_log
#include "db.h"

static sdb *db;
static sdb_storage *memory;

static void start(void) {
  sdb_options options;
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  sdb_options_init(&options);
  options.storage = memory;
  options.durability = SDB_NONE;
  ck_assert_int_eq(sdb_open("things.sdb", &options, &db), SDB_OK);
}

static void finish(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}

static void put(uint32_t value) { ck_assert_int_eq(sdb_put(db, "/one", 4, &value, sizeof value, NULL, NULL), SDB_OK); }

static uint32_t get(void) {
  uint32_t value = 0;
  size_t size;
  ck_assert_int_eq(sdb_get(db, "/one", 4, SDB_CURRENT, &value, sizeof value, &size, NULL), SDB_OK);
  return value;
}

static void *read_one(void *arg) {
  *(uint32_t *)arg = get();
  return NULL;
}

/* A reader who comes while the lock is held. Returns what he has read. */
static uint32_t read_beside(void) {
  pthread_t reader;
  uint32_t value;
  pager_lock(db->pager);
  ck_assert_int_eq(pthread_create(&reader, NULL, read_one, &value), 0);
  while (!atomic_load(&db->beside)) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
  pager_unlock(db->pager);
  pthread_join(reader, NULL);
  return value;
}

START_TEST(commits_beside_readers_publish_themselves) {
  uint32_t value = 1;
  put(value);
  ck_assert(atomic_load(&db->lazy));
  ck_assert_uint_eq(get(), value); /* who meets no commit publishes by himself, and asks for nothing */
  put(++value);
  ck_assert(atomic_load(&db->lazy));
  ck_assert_uint_eq(read_beside(), value);
  for (unsigned i = 0; i < 3 * COMMITS_BESIDE; i++) { /* as long as reads come */
    put(++value);
    ck_assert(!atomic_load(&db->lazy));
    pager_lock(db->pager); /* a reader who needed it would wait for ever */
    ck_assert_uint_eq(get(), value);
    pager_unlock(db->pager);
  }
  for (unsigned i = 0; i < COMMITS_BESIDE; i++) { /* and for some commits after the last */
    put(++value);
    ck_assert(!atomic_load(&db->lazy));
  }
  put(++value);
  ck_assert(atomic_load(&db->lazy));
  ck_assert_uint_eq(get(), value);
}
END_TEST

/* A snapshot is as new as any read. */
START_TEST(a_snapshot_sees_what_has_been_published) {
  sdb_snapshot *snapshot;
  uint32_t value = 0;
  size_t size;
  put(1);
  ck_assert_uint_eq(read_beside(), 1);
  put(2);
  pager_lock(db->pager);
  ck_assert_int_eq(sdb_snapshot_open(db, &snapshot), SDB_OK);
  pager_unlock(db->pager);
  put(3);
  ck_assert_int_eq(sdb_snapshot_get(snapshot, "/one", 4, SDB_CURRENT, &value, sizeof value, &size, NULL), SDB_OK);
  ck_assert_uint_eq(value, 2);
  ck_assert_uint_eq(get(), 3);
  sdb_snapshot_close(snapshot);
}
END_TEST

START_TEST(no_lock_is_taken_without_a_reason) {
  atomic_bool reason = false;
  pager_lock(db->pager);
  ck_assert(!pager_lock_while(db->pager, &reason));
  pager_unlock(db->pager);
  atomic_store(&reason, true);
  ck_assert(pager_lock_while(db->pager, &reason));
  pager_unlock(db->pager);
}
END_TEST

static void pause_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

START_TEST(the_thread_keeps_buffers_ready) {
  for (uint32_t i = 0; i < 3000; i++) {
    char path[16];
    size_t len = (size_t)snprintf(path, sizeof path, "/%u", i * 2654435761u);
    ck_assert_int_eq(sdb_put(db, path, len, path, len, NULL, NULL), SDB_OK);
  }
  put(1); /* finds that there are enough, or rings */
  for (unsigned i = 0; pager_stock_low(db->pager); i++) {
    ck_assert_msg(i < 30000, "nobody makes buffers ready");
    pause_ms(1);
  }
  pager_stock(db->pager); /* ends, although nobody takes any */
  ck_assert(!pager_stock_low(db->pager));
}
END_TEST

/* Two who add to what the lock protects, and hold it while the other one comes. */
static void *add_under_lock(void *arg) {
  unsigned *sum = arg;
  for (unsigned i = 0; i < 2000; i++) {
    pager_lock(db->pager);
    unsigned before = *sum;
    if (i % 100 == 0) thread_yield();
    *sum = before + 1;
    pager_unlock(db->pager);
  }
  return NULL;
}

START_TEST(one_processor_is_enough) {
  unsigned long all[128] = {0}, one[128] = {0};
  pthread_t threads[3];
  unsigned sum = 0, first = 0;
  struct fair f;
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof all, all);
  ck_assert_int_gt(bytes, 0);
  bool several = !processor_alone();
  while (!all[first]) first++;
  one[first] = all[first] & -all[first];
  ck_assert_int_eq(syscall(SYS_sched_setaffinity, 0, sizeof one, one), 0);
  ck_assert(processor_alone());
  fair_init(&f);
  ck_assert_uint_eq(f.tries, 1);
  fair_destroy(&f);
  finish(); /* what is opened now knows */
  start();
  for (unsigned i = 0; i < 3; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, add_under_lock, &sum), 0);
  for (unsigned i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  ck_assert_uint_eq(sum, 3 * 2000);
  ck_assert_int_eq(syscall(SYS_sched_setaffinity, 0, (size_t)bytes, all), 0);
  ck_assert(processor_alone() == !several);
}
END_TEST

enum { PASSING = 6, TURNS = 20000 };

static struct gate passage;
static atomic_uint opened, arrived;

static void *pass(void *arg) {
  (void)arg;
  for (unsigned i = 1; i <= TURNS; i++) {
    while (atomic_load(&opened) < i) {
      unsigned turn = gate_turn(&passage);
      if (atomic_load(&opened) < i) gate_wait(&passage, turn);
    }
    atomic_fetch_add(&arrived, 1);
  }
  return NULL;
}

/* Opened when some wait already and others are about to. One who is lost waits for ever. */
START_TEST(a_gate_loses_nobody) {
  pthread_t threads[PASSING];
  gate_init(&passage);
  for (unsigned i = 0; i < PASSING; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, pass, NULL), 0);
  for (unsigned i = 1; i <= TURNS; i++) {
    atomic_store(&opened, i);
    gate_open(&passage, true);
    while (i % 4 == 0 && atomic_load(&arrived) < i * PASSING) thread_yield();
  }
  for (unsigned i = 0; i < PASSING; i++) pthread_join(threads[i], NULL);
  ck_assert_uint_eq(atomic_load(&arrived), TURNS * PASSING);
  gate_destroy(&passage);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("lock");
  TCase *lock = tcase_create("lock");
  tcase_add_checked_fixture(lock, start, finish);
  tcase_add_test(lock, commits_beside_readers_publish_themselves);
  tcase_add_test(lock, a_snapshot_sees_what_has_been_published);
  tcase_add_test(lock, no_lock_is_taken_without_a_reason);
  tcase_add_test(lock, the_thread_keeps_buffers_ready);
  tcase_add_test(lock, one_processor_is_enough);
  tcase_set_timeout(lock, 120);
  suite_add_tcase(suite, lock);
  TCase *gate = tcase_create("gate");
  tcase_set_timeout(gate, 120);
  tcase_add_test(gate, a_gate_loses_nobody);
  suite_add_tcase(suite, gate);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int count = srunner_ntests_failed(runner);
  srunner_free(runner);
  return count == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
