/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_watch.c - the subscription: what it passes on, and that it tells what was lost. */
#include <stdio.h>
#include <time.h>

#include "fake.h"

static void no_requests(fake *f, const asked *a, void *user) {
  (void)user;
  fake_answer(f, a, CODE(UNSUPPORTED));
}

static fake *f;
static sdbc *client;
static sdbc_watch *watch;

static uint64_t base; /* the tests' events begin with number 2 after this */

static void publish(uint64_t number, const char *path) { fake_publish(f, 5, base + number, path); }

/* The subscription arrives a moment after the connection: events are published until one is seen. */
static void open_watch(const char *prefix, bool narrow) {
  f = fake_start(no_requests, NULL);
  client = fake_connect(f);
  ck_assert_int_eq(sdbc_watch_open(client, prefix, strlen(prefix), narrow, &watch), SDBC_OK);
  char path[64];
  snprintf(path, sizeof path, "%sbegin", prefix);
  sdbc_event event = {0};
  base = 0;
  for (int code = SDBC_AGAIN; code == SDBC_AGAIN; code = sdbc_watch_next(watch, 20, &event)) fake_publish(f, 5, ++base, path);
  while (event.number < base) ck_assert_int_eq(sdbc_watch_next(watch, 5000, &event), SDBC_OK);
  base--;
}

static void close_watch(void) {
  sdbc_watch_close(watch);
  sdbc_close(client);
  fake_stop(f);
}

static void expect_event(const char *path, uint64_t number) {
  sdbc_event event;
  ck_assert_msg(sdbc_watch_next(watch, 5000, &event) == SDBC_OK, "%s: %s", path, sdbc_watch_message(watch));
  ck_assert_uint_eq(event.path_len, strlen(path));
  ck_assert_mem_eq(event.path, path, event.path_len);
  ck_assert_uint_eq(event.number, event.session == 5 ? base + number : number);
  ck_assert_uint_eq(event.info.version, 1);
}

static uint64_t expect_gap(void) {
  sdbc_event event;
  int code = sdbc_watch_next(watch, 5000, &event);
  ck_assert_msg(code == SDBC_GAP, "no gap but %d: %s", code, sdbc_watch_message(watch));
  ck_assert_str_ne(sdbc_watch_message(watch), "");
  return event.missed;
}

static void expect_nothing(void) {
  sdbc_event event;
  ck_assert_int_eq(sdbc_watch_next(watch, 100, &event), SDBC_AGAIN);
}

START_TEST(events_below_the_prefix_come_in_order) {
  open_watch("/a/", false);
  publish(2, "/a/1");
  publish(3, "/b/1");
  publish(4, "/a/2");
  expect_event("/a/1", 2);
  expect_event("/a/2", 4);
  expect_nothing();
  close_watch();
}
END_TEST

START_TEST(a_lost_event_is_told_even_under_another_prefix) {
  open_watch("/a/", false);
  publish(2, "/a/1");
  publish(6, "/b/1"); /* 3, 4 and 5 may have been below /a/ */
  publish(7, "/a/2");
  expect_event("/a/1", 2);
  ck_assert_uint_eq(expect_gap(), 3);
  expect_event("/a/2", 7);
  publish(9, "/a/3");
  ck_assert_uint_eq(expect_gap(), 1);
  expect_event("/a/3", 9);
  expect_nothing();
  close_watch();
}
END_TEST

START_TEST(a_restarted_service_is_a_gap) {
  open_watch("/a/", false);
  publish(2, "/a/1");
  fake_publish(f, 6, 1, "/a/2");
  expect_event("/a/1", 2);
  ck_assert_uint_eq(expect_gap(), 0);
  expect_event("/a/2", 1);
  close_watch();
}
END_TEST

START_TEST(a_lost_connection_is_a_gap) {
  open_watch("/a/", false);
  publish(2, "/a/1");
  expect_event("/a/1", 2);
  fake_drop_watchers(f);
  ck_assert_uint_eq(expect_gap(), 0);
  nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
  publish(9, "/a/2");
  expect_event("/a/2", 9); /* the numbers between were told about already */
  close_watch();
}
END_TEST

START_TEST(a_narrow_watch_does_not_count) {
  open_watch("/a/", true);
  publish(2, "/a/1");
  publish(20, "/a/2");
  expect_event("/a/1", 2);
  expect_event("/a/2", 20);
  close_watch();
}
END_TEST

START_TEST(a_number_that_does_not_rise_is_no_event) {
  open_watch("", false);
  publish(2, "/a/1");
  publish(2, "/a/1");
  expect_event("/a/1", 2);
  sdbc_event event;
  ck_assert_int_eq(sdbc_watch_next(watch, 5000, &event), SDBC_PROTOCOL);
  expect_nothing();
  close_watch();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("watch");
  TCase *all = tcase_create("watch");
  tcase_set_timeout(all, 60);
  tcase_add_test(all, events_below_the_prefix_come_in_order);
  tcase_add_test(all, a_lost_event_is_told_even_under_another_prefix);
  tcase_add_test(all, a_restarted_service_is_a_gap);
  tcase_add_test(all, a_lost_connection_is_a_gap);
  tcase_add_test(all, a_narrow_watch_does_not_count);
  tcase_add_test(all, a_number_that_does_not_rise_is_no_event);
  suite_add_tcase(suite, all);
  return run_suite(suite);
}
