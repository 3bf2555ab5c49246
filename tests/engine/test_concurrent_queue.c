/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_queue.c - commits that wait for the writer's lock are run by the first of them (commit_queue.c).
 *
 * The test itself holds the lock until all callers stand in the queue, so that every run has the same crowd. The storage is memory
 * whose sync can be made to fail.
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

/* check.h brings the mathematical `log` along. */
#define log engine_log
#include "db.h"

enum { CALLERS = 48, ROUNDS = 20 };

static sdb *db;
static sdb_storage glass, *memory;
static atomic_bool broken;

/* What a caller is to do, and what it was told. */
struct caller {
  pthread_t thread;
  unsigned number, round;
  sdb_durability durability;
  enum { PUT, PUT_FIRST, DELETE_MISSING, BATCH } what;
  int told;
  sdb_commit commit;
};

static void pause_ms(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

static int sync_or_break(sdb_file *file) { return atomic_load(&broken) ? SDB_IO : memory->sync(file); }

static void start(void) {
  sdb_options options;
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  glass = *memory;
  glass.sync = sync_or_break;
  atomic_store(&broken, false);
  sdb_options_init(&options);
  options.storage = &glass;
  ck_assert_int_eq(sdb_open("queue.sdb", &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/there", 6, "x", 1, NULL, NULL), SDB_OK);
}

static size_t path_of(char path[32], const struct caller *c) {
  return (size_t)snprintf(path, 32, "/caller/%02u/%02u", c->number, c->round);
}

static int put_and_bind(const struct caller *c, const char *path, size_t len, const sdb_put_options *options) {
  char name[40];
  size_t name_len = (size_t)snprintf(name, sizeof name, "/also%s", path);
  sdb_batch *batch;
  int rc = sdb_batch_open(db, &batch);
  if (rc != SDB_OK) return rc;
  rc = sdb_batch_put(batch, path, len, &c->number, sizeof c->number, NULL);
  if (rc == SDB_OK) rc = sdb_batch_bind(batch, path, len, name, name_len, SDB_ANY);
  if (rc == SDB_OK) return sdb_batch_commit(batch, options, NULL, 0, NULL);
  sdb_batch_abort(batch);
  return rc;
}

static void *call(void *arg) {
  struct caller *c = arg;
  char path[32];
  size_t len = path_of(path, c);
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = c->durability;
  switch (c->what) {
    case PUT: c->told = sdb_put(db, path, len, &c->number, sizeof c->number, &options, &c->commit); break;
    case PUT_FIRST:
      len = (size_t)snprintf(path, sizeof path, "/first/%02u", c->round);
      options.expect = SDB_ABSENT;
      c->told = sdb_put(db, path, len, &c->number, sizeof c->number, &options, &c->commit);
      break;
    case DELETE_MISSING: c->told = sdb_delete(db, path, len, &options, NULL); break;
    case BATCH: c->told = put_and_bind(c, path, len, &options); break;
  }
  return NULL;
}

static unsigned queued(void) {
  unsigned count = 0;
  mutex_lock(&db->commits.lock);
  for (const struct commit *q = db->commits.first; q; q = q->next) count++;
  mutex_unlock(&db->commits.lock);
  return count;
}

/* All of them call while somebody else has the lock. */
static void crowd(struct caller *callers, unsigned round, bool durable_only) {
  static const sdb_durability kinds[] = {SDB_DURABLE, SDB_BUFFERED, SDB_NONE};
  pager_lock(db->pager);
  for (unsigned i = 0; i < CALLERS; i++) {
    callers[i] = (struct caller){.number = i, .round = round, .durability = durable_only ? SDB_DURABLE : kinds[(i / 4) % 3]};
    callers[i].what = durable_only ? PUT : i % 4;
    ck_assert_int_eq(pthread_create(&callers[i].thread, NULL, call, &callers[i]), 0);
  }
  while (queued() < CALLERS) pause_ms();
}

static void go(struct caller *callers) {
  pager_unlock(db->pager);
  for (unsigned i = 0; i < CALLERS; i++) ck_assert_int_eq(pthread_join(callers[i].thread, NULL), 0);
}

static void finish(void) {
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}

static void is_there(const char *path, size_t len, unsigned number) {
  unsigned found;
  size_t size;
  ck_assert_int_eq(sdb_get(db, path, len, SDB_CURRENT, &found, sizeof found, &size, NULL), SDB_OK);
  ck_assert_uint_eq(found, number);
}

static uint64_t syncs(void) {
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  return stats.syncs;
}

START_TEST(everybody_is_told_what_became_of_his_own) {
  struct caller callers[CALLERS];
  start();
  for (unsigned round = 0; round < ROUNDS; round++) {
    unsigned firsts = 0;
    crowd(callers, round, false);
    go(callers);
    for (unsigned i = 0; i < CALLERS; i++) {
      const struct caller *c = &callers[i];
      char path[48] = "/also";
      size_t len = path_of(path + 5, c);
      if (c->what == DELETE_MISSING) ck_assert_int_eq(c->told, SDB_NOT_FOUND);
      else if (c->what == PUT_FIRST && c->told == SDB_CONFLICT) continue;
      else ck_assert_int_eq(c->told, SDB_OK);
      if (c->what == PUT || c->what == BATCH) is_there(path + 5, len, i);
      if (c->what == BATCH) is_there(path, 5 + len, i);
      if (c->what == PUT || c->what == PUT_FIRST) ck_assert_int_eq(c->commit.reached, c->durability);
      if (c->what != PUT_FIRST) continue;
      firsts++;
      is_there(path, (size_t)snprintf(path, sizeof path, "/first/%02u", round), i);
    }
    ck_assert_uint_eq(firsts, 1);
  }
  finish();
}
END_TEST

START_TEST(a_crowd_takes_one_sync) {
  struct caller callers[CALLERS];
  start();
  uint64_t before = syncs();
  crowd(callers, 0, true);
  go(callers);
  ck_assert_uint_eq(syncs(), before + 1);
  for (unsigned i = 0; i < CALLERS; i++) ck_assert_int_eq(callers[i].told, SDB_OK);
  for (unsigned i = 0; i < CALLERS; i++) ck_assert_uint_eq(callers[i].commit.info.version, 1);
  finish();
}
END_TEST

START_TEST(a_failed_sync_is_told_to_all) {
  struct caller callers[CALLERS];
  start();
  crowd(callers, 0, true);
  atomic_store(&broken, true);
  go(callers);
  for (unsigned i = 0; i < CALLERS; i++) ck_assert_int_eq(callers[i].told, SDB_SYNC_FAILED);
  ck_assert_int_eq(sdb_put(db, "/there", 6, "y", 1, NULL, NULL), SDB_SYNC_FAILED);
  atomic_store(&broken, false);
  (void)!sdb_close(db);
  sdb_storage_memory_free(memory);
}
END_TEST

/* With documents claimed by a large write nobody may wait for in another's name: each runs his own. */
START_TEST(who_would_have_to_wait_runs_his_own) {
  struct caller callers[CALLERS];
  struct claim other = {.document = UINT64_MAX};
  start();
  crowd(callers, 0, true);
  db->claims = &other;
  go(callers);
  pager_lock(db->pager);
  db->claims = NULL;
  pager_unlock(db->pager);
  for (unsigned i = 0; i < CALLERS; i++) ck_assert_int_eq(callers[i].told, SDB_OK);
  finish();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("queue");
  TCase *queue = tcase_create("queue");
  tcase_set_timeout(queue, 300);
  tcase_add_test(queue, everybody_is_told_what_became_of_his_own);
  tcase_add_test(queue, a_crowd_takes_one_sync);
  tcase_add_test(queue, a_failed_sync_is_told_to_all);
  tcase_add_test(queue, who_would_have_to_wait_runs_his_own);
  suite_add_tcase(suite, queue);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int count = srunner_ntests_failed(runner);
  srunner_free(runner);
  return count == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
