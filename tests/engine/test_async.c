/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_async.c - sdb_get_async without threads: served by sdb_step() alone, so that every order of events can be had. What threads
 * make of it is in test_concurrent_async.c; failing allocations and reads are in test_faults.c. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "simulated.h"

enum { DOCUMENTS = 20, QUEUE = 1024, LARGE = 100000 };

static sim *device;
static sdb *db;

/* What a callback saw. */
typedef struct told {
  unsigned calls;
  int code;
  size_t size;
  void *data; /* kept: the test's to free */
  sdb_info info;
  unsigned order; /* among all callbacks, from 1 */
  bool again;     /* asks for the same once more */
  int again_code;
  struct told *second; /* of which the answer is told here */
  sdb_request self;
  int cancel_self;
} told;

static unsigned callbacks;

static size_t path_of(unsigned i, char path[32]) { return (size_t)snprintf(path, 32, "/d/%u", i); }

static void tell(void *user, int code, void *data, size_t size, const sdb_info *info) {
  told *t = user;
  t->calls++;
  t->code = code;
  t->size = size;
  t->data = data;
  t->order = ++callbacks;
  if (info) t->info = *info;
  ck_assert((code == SDB_OK) == (data != NULL && info != NULL));
  t->cancel_self = sdb_async_cancel(db, t->self);
  if (t->again) t->again_code = sdb_get_async(db, "/d/1", 4, SDB_CURRENT, tell, t->second, NULL);
}

static void ask(unsigned document, told *t) {
  char path[32];
  size_t len = path_of(document, path);
  ck_assert_int_eq(sdb_get_async(db, path, len, SDB_CURRENT, tell, t, &t->self), SDB_OK);
  ck_assert_uint_ne(t->self, 0);
}

static bool step(unsigned budget) {
  bool more = false;
  ck_assert_int_eq(sdb_step(db, budget, &more), SDB_OK);
  return more;
}

static uint64_t requests(void) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s.requests;
}

static void forget(told *t) {
  sdb_free(db, t->data);
  *t = (told){0};
}

static void open_database(bool read_only) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.read_only = read_only;
  ck_assert_int_eq(sdb_open("async.sdb", &o, &db), SDB_OK);
}

static void setup(void) {
  static uint8_t content[LARGE];
  callbacks = 0;
  device = sim_new(1);
  open_database(false);
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[32];
    size_t len = path_of(i, path);
    memset(content, (int)i, 100 + i);
    ck_assert_int_eq(sdb_put(db, path, len, content, 100 + i, NULL, NULL), SDB_OK);
  }
  memset(content, 77, LARGE);
  ck_assert_int_eq(sdb_put(db, "/large", 6, content, LARGE, NULL, NULL), SDB_OK);
}

static void teardown(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

START_TEST(test_served_in_order_by_steps) {
  told t[3] = {{0}};
  for (unsigned i = 0; i < 3; i++) ask(i, &t[i]);
  ck_assert_uint_eq(callbacks, 0);
  ck_assert_uint_eq(requests(), 3);
  ck_assert(step(1)); /* one unit, one request */
  ck_assert_uint_eq(callbacks, 1);
  ck_assert_uint_eq(requests(), 2);
  while (step(8)) {}
  for (unsigned i = 0; i < 3; i++) {
    ck_assert_uint_eq(t[i].calls, 1);
    ck_assert_int_eq(t[i].code, SDB_OK);
    ck_assert_uint_eq(t[i].order, i + 1);
    ck_assert_uint_eq(t[i].size, 100 + i);
    ck_assert_uint_eq(t[i].info.version, 1);
    ck_assert_uint_eq(((uint8_t *)t[i].data)[99], i);
    ck_assert_int_eq(t[i].cancel_self, SDB_NOT_FOUND); /* its own callback runs: too late */
    forget(&t[i]);
  }
  ck_assert_uint_eq(requests(), 0);
}
END_TEST

START_TEST(test_large_content_costs_more_of_the_budget) {
  told t[2] = {{0}};
  ck_assert_int_eq(sdb_get_async(db, "/large", 6, SDB_CURRENT, tell, &t[0], NULL), SDB_OK);
  ask(1, &t[1]);
  ck_assert(step(10));
  ck_assert_uint_eq(t[0].calls, 1);
  ck_assert_uint_eq(t[1].calls, 0);
  step(10);
  ck_assert_uint_eq(t[1].calls, 1);
  ck_assert_uint_eq(t[0].size, LARGE);
  forget(&t[0]);
  forget(&t[1]);
}
END_TEST

START_TEST(test_cancel) {
  told t[4] = {{0}};
  for (unsigned i = 0; i < 4; i++) ask(i, &t[i]);
  for (unsigned i = 1; i < 4; i += 2) { /* from the middle, and the last */
    ck_assert_int_eq(sdb_async_cancel(db, t[i].self), SDB_OK);
    ck_assert_uint_eq(t[i].calls, 1);
    ck_assert_int_eq(t[i].code, SDB_CANCELLED);
    ck_assert_ptr_null(t[i].data);
    ck_assert_int_eq(sdb_async_cancel(db, t[i].self), SDB_NOT_FOUND);
  }
  told last = {0};
  ask(9, &last); /* behind a cancelled last one */
  while (step(8)) {}
  ck_assert_int_eq(sdb_async_cancel(db, t[0].self), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_async_cancel(db, 0), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_async_cancel(db, UINT64_MAX), SDB_NOT_FOUND);
  for (unsigned i = 0; i < 4; i++) {
    ck_assert_uint_eq(t[i].calls, 1);
    ck_assert_int_eq(t[i].code, i % 2 ? SDB_CANCELLED : SDB_OK);
    forget(&t[i]);
  }
  ck_assert_uint_eq(last.calls, 1);
  ck_assert_uint_eq(last.size, 109);
  forget(&last);
}
END_TEST

START_TEST(test_queue_is_bounded) {
  told *t = calloc(QUEUE + 1, sizeof *t);
  ck_assert_ptr_nonnull(t);
  for (unsigned i = 0; i < QUEUE; i++) ask(i % DOCUMENTS, &t[i]);
  ck_assert_int_eq(sdb_get_async(db, "/d/1", 4, SDB_CURRENT, tell, &t[QUEUE], NULL), SDB_BUSY);
  ck_assert(step(1));
  ask(5, &t[QUEUE]);
  while (step(100)) {}
  for (unsigned i = 0; i <= QUEUE; i++) {
    ck_assert_uint_eq(t[i].calls, 1);
    ck_assert_int_eq(t[i].code, SDB_OK);
    sdb_free(db, t[i].data);
  }
  free(t);
}
END_TEST

static void close_it(void *user, int code, void *data, size_t size, const sdb_info *info) {
  (void)size, (void)info;
  ck_assert_int_eq(code, user ? SDB_OK : SDB_CANCELLED);
  sdb_free(db, data);
  callbacks++;
  ck_assert_int_eq(sdb_close(db), SDB_INVALID);
  char sentence[256];
  sdb_message(db, sentence, sizeof sentence);
  ck_assert_ptr_nonnull(strstr(sentence, "callback"));
}

/* Whoever calls back: a step, one who cancels, a close. The handle stays good. */
START_TEST(test_callbacks_do_not_close) {
  sdb_request request;
  ck_assert_int_eq(sdb_get_async(db, "/d/1", 4, SDB_CURRENT, close_it, &request, NULL), SDB_OK);
  ck_assert(!step(1));
  ck_assert_int_eq(sdb_get_async(db, "/d/1", 4, SDB_CURRENT, close_it, NULL, &request), SDB_OK);
  ck_assert_int_eq(sdb_async_cancel(db, request), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/d/1", 4, "x", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_get_async(db, "/d/1", 4, SDB_CURRENT, close_it, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_uint_eq(callbacks, 3);
  open_database(false);
}
END_TEST

/* Answered with SDB_CANCELLED before close returns; a callback that asks for more is refused. */
START_TEST(test_close_cancels) {
  told t[3] = {{0}}, second = {0};
  for (unsigned i = 0; i < 3; i++) ask(i, &t[i]);
  t[1].again = true;
  t[1].second = &second;
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  for (unsigned i = 0; i < 3; i++) {
    ck_assert_uint_eq(t[i].calls, 1);
    ck_assert_int_eq(t[i].code, SDB_CANCELLED);
  }
  ck_assert_int_eq(t[1].again_code, SDB_CANCELLED);
  ck_assert_uint_eq(second.calls, 0);
  open_database(false);
}
END_TEST

static void put_and_step(void *user, int code, void *data, size_t size, const sdb_info *info) {
  told *t = user;
  (void)info;
  t->calls++;
  ck_assert_int_eq(code, SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/made/by/a/callback", 19, data, size, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_delete(db, "/d/7", 4, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  sdb_free(db, data);
  step(1); /* serves the next one, inside this callback */
  ck_assert_uint_eq(t->second->calls, 1);
}

START_TEST(test_callbacks_use_the_database) {
  told t = {0}, second = {0}, third = {0};
  t.second = &second;
  second.again = true;
  second.second = &third;
  ck_assert_int_eq(sdb_get_async(db, "/d/3", 4, SDB_CURRENT, put_and_step, &t, NULL), SDB_OK);
  ask(2, &second);
  step(1);
  ck_assert_uint_eq(t.calls, 1);
  while (step(8)) {}
  ck_assert_int_eq(second.again_code, SDB_OK);
  ck_assert_uint_eq(third.calls, 1);
  ck_assert_uint_eq(third.size, 101);
  sdb_info info;
  ck_assert_int_eq(sdb_stat(db, "/made/by/a/callback", 19, SDB_CURRENT, &info), SDB_OK);
  ck_assert_uint_eq(info.size, 103);
  ck_assert_int_eq(sdb_stat(db, "/d/7", 4, SDB_CURRENT, &info), SDB_NOT_FOUND);
  forget(&second);
  forget(&third);
}
END_TEST

/* The state is that of the moment of service; versions can be named; what is not there is said so. */
START_TEST(test_what_is_read) {
  told old = {0}, now = {0}, absent = {0};
  ck_assert_int_eq(sdb_get_async(db, "/d/4", 4, 1, tell, &old, NULL), SDB_OK);
  ask(4, &now);
  ck_assert_int_eq(sdb_get_async(db, "/none", 5, SDB_CURRENT, tell, &absent, NULL), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/d/4", 4, "new", 3, NULL, NULL), SDB_OK);
  while (step(8)) {}
  ck_assert_uint_eq(old.size, 104);
  ck_assert_uint_eq(now.size, 3);
  ck_assert_uint_eq(now.info.version, 2);
  ck_assert_int_eq(absent.code, SDB_NOT_FOUND);
  ck_assert_uint_eq(absent.calls, 1);
  forget(&old);
  forget(&now);
}
END_TEST

START_TEST(test_wrong_arguments) {
  told t = {0};
  sdb_request request = 99;
  char path[SDB_MAX_PATH + 1] = "";
  ck_assert_int_eq(sdb_get_async(db, "", 0, SDB_CURRENT, tell, &t, &request), SDB_INVALID);
  ck_assert_int_eq(sdb_get_async(db, path, sizeof path, SDB_CURRENT, tell, &t, &request), SDB_INVALID);
  ck_assert_int_eq(sdb_get_async(db, "/d/1", 4, SDB_CURRENT, NULL, &t, &request), SDB_INVALID);
  ck_assert_uint_eq(request, 99);
  ck_assert(!step(1));
  ck_assert_uint_eq(t.calls, 0);
}
END_TEST

/* A handle that has nothing to do in the background serves requests all the same. */
START_TEST(test_read_only_and_failed_handles) {
  told t = {0};
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  open_database(true);
  ask(1, &t);
  ck_assert(!step(1));
  ck_assert_int_eq(t.code, SDB_OK);
  forget(&t);
  ck_assert_int_eq(sdb_close(db), SDB_OK);

  open_database(false);
  ck_assert_int_eq(sdb_put(db, "/d/1", 4, "x", 1, NULL, NULL), SDB_OK);
  sim_fail(device, SIM_SYNC, 1, false, SDB_IO);
  ck_assert_int_eq(sdb_put(db, "/d/1", 4, "x", 1, NULL, NULL), SDB_SYNC_FAILED);
  ask(2, &t);
  ck_assert(!step(1));
  ck_assert_int_eq(t.code, SDB_OK);
  forget(&t);
  ck_assert_int_eq(sdb_close(db), SDB_SYNC_FAILED);
  open_database(false);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("async");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, test_served_in_order_by_steps);
  tcase_add_test(t, test_large_content_costs_more_of_the_budget);
  tcase_add_test(t, test_cancel);
  tcase_add_test(t, test_queue_is_bounded);
  tcase_add_test(t, test_close_cancels);
  tcase_add_test(t, test_callbacks_do_not_close);
  tcase_add_test(t, test_callbacks_use_the_database);
  tcase_add_test(t, test_what_is_read);
  tcase_add_test(t, test_wrong_arguments);
  tcase_add_test(t, test_read_only_and_failed_handles);
  Suite *s = suite_create("async");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? 1 : 0;
}
