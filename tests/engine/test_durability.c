/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_durability.c - an answer is worth what it says: how durable a commit is, also one for which nothing was left to do. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "simulated.h"

enum { FILLERS = 400, FILLER = 3000 };

static const uint8_t token[16] = "a certain write";

static sim *device;
static sdb *db;

static void open_again(void) {
  sdb_options o;
  char message[256] = "";
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.use_mmap = false;
  o.page_cache_size = 64;
  o.wal_segment_size = 65536;
  o.message = message;
  o.message_size = sizeof message;
  int rc = sdb_open("things.sdb", &o, &db);
  ck_assert_msg(rc == SDB_OK, "%s", message);
}

static void up(void) {
  device = sim_new(1);
  open_again();
}

static void down(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}

/* The power fails, and whatever was not synced is lost. */
static void crash(void) {
  sim_die_at(device, 1);
  (void)sdb_close(db);
  sim_crash(device, SIM_DROP_ALL, 1);
  sim_die_at(device, 0);
  open_again();
}

static sdb_put_options as(sdb_durability durability, const uint8_t *write) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = durability;
  o.token = write;
  return o;
}

static int put(const char *path, sdb_durability durability, const uint8_t *write, sdb_commit *commit) {
  sdb_put_options o = as(durability, write);
  return sdb_put(db, path, strlen(path), "x", 1, &o, commit);
}

static bool is_there(const char *path) {
  sdb_info info;
  int rc = sdb_stat(db, path, strlen(path), SDB_CURRENT, &info);
  ck_assert(rc == SDB_OK || rc == SDB_NOT_FOUND);
  return rc == SDB_OK;
}

/* The promise of SDB_BUFFERED. */
static void interval_passes(void) {
  bool more = true;
  sim_advance(device, 100);
  while (more) ck_assert_int_eq(sdb_step(db, 100, &more), SDB_OK);
}

/* Each way to take `path` away, with that durability. */
enum { DELETE, DELETE_ID, UNBIND, BATCH, WAYS };

static int take_away(int way, const char *path, const uint8_t id[16], sdb_durability durability) {
  sdb_put_options o = as(durability, NULL);
  sdb_batch *batch;
  sdb_batch_result result;
  size_t len = strlen(path);
  if (way == DELETE) return sdb_delete(db, path, len, &o, NULL);
  if (way == DELETE_ID) return sdb_delete_id(db, id, &o, NULL);
  if (way == UNBIND) return sdb_unbind(db, path, len, &o, NULL);
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  ck_assert_int_eq(sdb_batch_delete(batch, path, len, SDB_ANY), SDB_OK);
  int rc = sdb_batch_commit(batch, &o, &result, 1, NULL);
  return rc == SDB_OK ? result.code : rc;
}

/* A delete with SDB_NONE is acknowledged, and again with more: "not there" is as durable as was asked then. */
START_TEST(gone_is_as_durable_as_asked) {
  sdb_commit commit;
  up();
  for (int buffered = 0; buffered < 2; buffered++) {
    ck_assert_int_eq(put("a", SDB_DURABLE, NULL, &commit), SDB_OK);
    ck_assert_int_eq(take_away(_i, "a", commit.info.id, SDB_NONE), SDB_OK);
    ck_assert_int_eq(take_away(_i, "a", commit.info.id, buffered ? SDB_BUFFERED : SDB_DURABLE), SDB_NOT_FOUND);
    if (buffered) interval_passes();
    crash();
    ck_assert(!is_there("a"));
  }
  down();
}
END_TEST

/* A write that was done with SDB_NONE is asked for again with more. */
START_TEST(a_repeated_write_is_as_durable_as_asked) {
  sdb_commit commit;
  up();
  for (int buffered = 0; buffered < 2; buffered++) {
    sdb_durability asked = buffered ? SDB_BUFFERED : SDB_DURABLE;
    const char *path = buffered ? "b" : "a", *name = buffered ? "d" : "c";
    ck_assert_int_eq(put(path, SDB_NONE, token, NULL), SDB_OK);
    ck_assert_int_eq(put(path, asked, token, &commit), SDB_OK);
    ck_assert(commit.repeated && commit.reached == asked && commit.info.version == 1);
    if (buffered) interval_passes();
    crash();
    ck_assert(is_there(path));

    sdb_put_options none = as(SDB_NONE, NULL), more = as(asked, NULL);
    ck_assert_int_eq(sdb_bind(db, path, 1, name, 1, &none, NULL), SDB_OK);
    ck_assert_int_eq(sdb_bind(db, path, 1, name, 1, &more, &commit), SDB_OK);
    ck_assert(commit.repeated && commit.reached == asked);
    if (buffered) interval_passes();
    crash();
    ck_assert(is_there(name));
  }
  down();
}
END_TEST

static void fill(unsigned from, unsigned to) {
  static uint8_t filler[FILLER];
  uint64_t random = from;
  for (unsigned i = from; i < to; i++) {
    char path[24];
    sdb_put_options none = as(SDB_NONE, NULL);
    for (size_t k = 0; k < FILLER; k++) filler[k] = (uint8_t)sim_random(&random);
    ck_assert_int_eq(sdb_put(db, path, (size_t)snprintf(path, sizeof path, "/filler/%u", i), filler, FILLER, &none, NULL), SDB_OK);
  }
}

/* The version that a write has made cannot be read just now: it must not be made a second time. */
START_TEST(a_write_is_not_repeated_because_a_read_fails) {
  sdb_commit commit;
  bool reached = true;
  up();
  ck_assert_int_eq(put("a", SDB_DURABLE, token, NULL), SDB_OK);
  fill(0, FILLERS / 2);
  ck_assert_int_eq(put("a", SDB_DURABLE, NULL, NULL), SDB_OK); /* in another page */
  fill(FILLERS / 2, FILLERS);
  for (unsigned nth = 1; reached; nth++) {
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    open_again();
    sim_fail(device, SIM_READ, nth, false, SDB_IO);
    int rc = put("a", SDB_DURABLE, token, &commit);
    reached = sim_failed(device);
    sim_fail_nothing(device);
    ck_assert_msg(rc == SDB_OK || rc == SDB_IO, "read %u fails: %s", nth, sdb_strerror(rc));
    ck_assert_msg(rc != SDB_OK || commit.repeated, "read %u fails: version %u is made", nth, commit.info.version);
  }
  down();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("durability");
  TCase *tests = tcase_create("durability");
  tcase_set_timeout(tests, 60);
  tcase_add_loop_test(tests, gone_is_as_durable_as_asked, 0, WAYS);
  tcase_add_test(tests, a_repeated_write_is_as_durable_as_asked);
  tcase_add_test(tests, a_write_is_not_repeated_because_a_read_fails);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
