/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_sync.c - which syncs commits cost, and in what order: contents before the log records that name them, one sync for many. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "simulated.h"

enum { MANY = 8, MIDDLE = 20000, LONG = 3 << 20 };

static uint8_t content[LONG];

typedef struct watched {
  unsigned data_syncs, log_syncs, spoiled;
  unsigned now, pending; /* documents from `pending` to `now` have contents in the data file that were not synced since */
} watched;

static void path_of(unsigned document, char path[24]) { snprintf(path, 24, "document-%06u", document); }

static bool names_pending(const watched *w, const sim_event *event) {
  for (unsigned i = w->pending; i && i <= w->now; i++) {
    char path[24];
    path_of(i, path);
    if (memmem(event->data, event->len, path, strlen(path))) return true;
  }
  return false;
}

static bool is_log(const char *name) { return strstr(name, ".log.") != NULL; }

static void watch(void *user, const sim_event *event) {
  watched *w = user;
  bool sync = strcmp(event->call, "sync") == 0, write = strcmp(event->call, "write") == 0;
  if (is_log(event->name)) {
    w->log_syncs += sync;
    w->spoiled += write && names_pending(w, event);
  } else {
    w->data_syncs += sync;
    if (sync) w->pending = 0;
    bool contents = write && event->len >= 4096 && memcmp(event->data, content, 64) == 0; /* not a checkpoint's page */
    if (contents && !w->pending) w->pending = w->now;
  }
}

static sdb *open_on(sim *device) {
  sdb_options options;
  sdb *db = NULL;
  sdb_options_init(&options);
  options.storage = sim_storage(device);
  options.threads = false;
  options.use_compression = false; /* sizes decide here */
  options.wal_segment_size = 1 << 20;
  ck_assert_int_eq(sdb_open("things.sdb", &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "first", 5, "x", 1, NULL, NULL), SDB_OK);
  return db;
}

static sdb_commit put(sdb *db, watched *w, size_t size, bool defer, sdb_durability durability) {
  sdb_put_options o;
  sdb_commit commit;
  char path[24];
  sdb_put_options_init(&o);
  o.defer = defer;
  o.durability = durability;
  path_of(++w->now, path);
  ck_assert_int_eq(sdb_put(db, path, strlen(path), content, size, &o, &commit), SDB_OK);
  return commit;
}

START_TEST(contents_of_a_group_share_a_sync) {
  sim *device = sim_new(1);
  sdb *db = open_on(device);
  watched w = {0};
  sdb_commit last = {0};
  sim_watch(device, watch, &w);
  for (unsigned i = 0; i < MANY; i++) last = put(db, &w, MIDDLE, true, SDB_DURABLE);
  ck_assert_uint_eq(w.data_syncs + w.log_syncs, 0);
  ck_assert_int_eq(sdb_wait(db, last.sequence), SDB_OK);
  ck_assert_uint_eq(w.data_syncs, 1);
  ck_assert_uint_eq(w.log_syncs, 1);
  ck_assert_uint_eq(w.spoiled, 0);
  put(db, &w, 10, false, SDB_DURABLE); /* nothing is owed any more */
  ck_assert_uint_eq(w.data_syncs, 1);
  sim_watch(device, NULL, NULL);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* Also where the record goes out without anybody waiting for it: with a full piece of the log, or at the end of a segment. */
START_TEST(no_record_overtakes_its_content) {
  sim *device = sim_new(2);
  sdb *db = open_on(device);
  watched w = {0};
  sim_watch(device, watch, &w);
  for (unsigned i = 0; i < 600; i++) put(db, &w, i % 3 ? 3000 : MIDDLE, false, SDB_NONE);
  ck_assert_uint_gt(w.data_syncs, 0);
  ck_assert_uint_eq(w.spoiled, 0);
  unsigned before = w.data_syncs;
  put(db, &w, LONG, false, SDB_DURABLE);
  ck_assert_uint_gt(w.data_syncs, before);
  ck_assert_uint_eq(w.spoiled, 0);
  sim_watch(device, NULL, NULL);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* A failure to write in the background is one to sync: final. */
START_TEST(a_failed_write_back_is_final) {
  sim *device = sim_new(3);
  sdb *db = open_on(device);
  sdb_put_options o;
  unsigned nth;
  sdb_put_options_init(&o);
  for (nth = 1;; nth++) { /* find the write-back among the writes: it alone is answered as a failed sync before any log write */
    sim_fail(device, SIM_WRITE, nth, false, SDB_IO);
    int rc = sdb_put(db, "long", 4, content, LONG, &o, NULL);
    ck_assert(rc == SDB_OK || rc == SDB_IO || rc == SDB_SYNC_FAILED);
    ck_assert_int_ne(rc, SDB_OK);
    if (rc == SDB_SYNC_FAILED) break;
  }
  sim_fail_nothing(device);
  ck_assert_uint_gt(nth, 1);
  ck_assert_int_eq(sdb_put(db, "b", 1, "x", 1, &o, NULL), SDB_SYNC_FAILED);
  ck_assert_int_eq(sdb_close(db), SDB_SYNC_FAILED);
  ck_assert_uint_eq(sim_open_files(device), 0);
  sim_free(device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("sync");
  TCase *tests = tcase_create("sync");
  uint64_t state = 1;
  for (size_t i = 0; i < sizeof content; i++) content[i] = (uint8_t)sim_random(&state); /* nothing to compress */
  tcase_add_test(tests, contents_of_a_group_share_a_sync);
  tcase_add_test(tests, no_record_overtakes_its_content);
  tcase_add_test(tests, a_failed_write_back_is_final);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
