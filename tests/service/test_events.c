/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_events.c - the feed: every commit once, in order, numbered without gaps; prefixes; restarts. */
#include <signal.h>
#include <unistd.h>

#include "harness.h"

static server srv;
static connection con;
static void *subscriber;

static void subscribe(const char *prefix) {
  subscriber = zmq_socket(con.context, ZMQ_SUB);
  int none = 0;
  ck_assert_int_eq(zmq_setsockopt(subscriber, ZMQ_LINGER, &none, sizeof none), 0);
  ck_assert_int_eq(zmq_setsockopt(subscriber, ZMQ_SUBSCRIBE, prefix, strlen(prefix)), 0);
  ck_assert_int_eq(zmq_connect(subscriber, srv.events), 0);
  expect_statistic(&con, "service_subscriptions", 1);
}

static void setup(void) {
  server_start(&srv, NULL);
  connection_open(&con, &srv, ZMQ_DEALER);
}

static void teardown(void) {
  if (subscriber) zmq_close(subscriber);
  connection_close(&con);
  server_remove(&srv);
}

/* The next event; NULL when none comes. Checks that the first frame is the path. */
static PB(Event) * next_event(int ms) {
  zmq_pollitem_t item = {.socket = subscriber, .events = ZMQ_POLLIN};
  if (zmq_poll(&item, 1, ms) <= 0) return NULL;
  zmq_msg_t path, event;
  zmq_msg_init(&path);
  zmq_msg_init(&event);
  ck_assert_int_ge(zmq_msg_recv(&path, subscriber, 0), 0);
  ck_assert(zmq_msg_more(&path));
  ck_assert_int_ge(zmq_msg_recv(&event, subscriber, 0), 0);
  ck_assert(!zmq_msg_more(&event));
  PB(Event) *e = dcf__db__v1__event__unpack(NULL, zmq_msg_size(&event), zmq_msg_data(&event));
  ck_assert_ptr_nonnull(e);
  ck_assert_uint_eq(e->path.len, zmq_msg_size(&path));
  ck_assert_mem_eq(e->path.data, zmq_msg_data(&path), e->path.len);
  zmq_msg_close(&path);
  zmq_msg_close(&event);
  return e;
}

static uint64_t write_one(call *k) {
  answer a = call_ask(&con, k);
  ck_assert_msg(a.reply->code == CODE(OK), "%s", a.reply->message);
  uint64_t sequence = a.reply->sequence;
  answer_free(&a);
  return sequence;
}

START_TEST(an_event_says_what_was_written) {
  subscribe("");
  const uint8_t token[16] = {4, 5, 6};
  call k = call_insert("/e", "hello", 5);
  k.op.insert.token = call_bytes(token, 16);
  uint64_t sequence = write_one(&k);
  PB(Event) *e = next_event(PATIENCE_MS);
  ck_assert_ptr_nonnull(e);
  ck_assert_int_eq(e->kind, DCF__DB__V1__EVENT__KIND__PUT);
  ck_assert_uint_eq(e->number, 1);
  ck_assert_uint_eq(e->sequence, sequence);
  ck_assert_uint_eq(e->info->version, 1);
  ck_assert_uint_eq(e->info->digest, sdb_crc32c(0, "hello", 5));
  ck_assert_uint_eq(e->token.len, 16);
  ck_assert_mem_eq(e->token.data, token, 16);
  dcf__db__v1__event__free_unpacked(e, NULL);

  k.request.id = 0; /* repeated: no event */
  write_one(&k);
  k = call_insert("/e", "x", 1); /* refused: no event */
  k.op.insert.has_expect_version_case = DCF__DB__V1__INSERT__HAS_EXPECT_VERSION_EXPECT_VERSION;
  ck_assert_int_eq(call_code(&con, &k), CODE(CONDITION_FAILED));
  k = call_delete("/e");
  sequence = write_one(&k);
  e = next_event(PATIENCE_MS);
  ck_assert_ptr_nonnull(e);
  ck_assert_int_eq(e->kind, DCF__DB__V1__EVENT__KIND__DELETE);
  ck_assert_uint_eq(e->number, 2);
  ck_assert_uint_eq(e->sequence, sequence);
  ck_assert_uint_eq(e->info->version, 1);
  dcf__db__v1__event__free_unpacked(e, NULL);
}
END_TEST

START_TEST(events_come_in_order) {
  subscribe("");
  enum { N = 2000 };
  connection others[3];
  for (int i = 0; i < 3; i++) connection_open(&others[i], &srv, ZMQ_DEALER);
  for (int i = 0; i < N; i++) {
    char path[32];
    snprintf(path, sizeof path, "/o/%d", i % 100);
    call k = call_insert(path, &i, sizeof i);
    if (i % 5 == 4) k.op.insert.durability = DCF__DB__V1__DURABILITY__BUFFERED;
    call_send(&others[i % 3], &k);
  }
  uint64_t sequence = 0, session = 0;
  for (uint64_t i = 1; i <= N; i++) {
    PB(Event) *e = next_event(PATIENCE_MS);
    ck_assert_msg(e != NULL, "event %llu did not come", (unsigned long long)i);
    ck_assert_uint_eq(e->number, i);
    ck_assert_uint_gt(e->sequence, sequence);
    ck_assert(session == 0 || session == e->session);
    sequence = e->sequence;
    session = e->session;
    dcf__db__v1__event__free_unpacked(e, NULL);
  }
  ck_assert_ptr_null(next_event(20));
  for (int i = 0; i < 3; i++) connection_close(&others[i]);
}
END_TEST

START_TEST(a_subscription_is_a_prefix) {
  subscribe("/in/");
  const char *const paths[] = {"/in/a", "/out/a", "/in", "/in/b"};
  for (int i = 0; i < 4; i++) {
    call k = call_insert(paths[i], "x", 1);
    write_one(&k);
  }
  PB(Event) *e = next_event(PATIENCE_MS);
  ck_assert(e && e->number == 1 && e->path.len == 5);
  dcf__db__v1__event__free_unpacked(e, NULL);
  e = next_event(PATIENCE_MS);
  ck_assert(e && e->number == 4 && e->path.len == 5);
  dcf__db__v1__event__free_unpacked(e, NULL);
  ck_assert_ptr_null(next_event(20));
}
END_TEST

START_TEST(an_upload_is_an_event_when_it_is_committed) {
  subscribe("");
  static uint8_t body[100000];
  call k = call_upload_open("/up");
  answer a = call_ask(&con, &k);
  uint64_t stream = a.reply->stream;
  answer_free(&a);
  k = call_upload_chunk(stream, 0, body, sizeof body);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  ck_assert_ptr_null(next_event(50));
  k = call_upload_commit(stream);
  uint64_t sequence = write_one(&k);
  PB(Event) *e = next_event(PATIENCE_MS);
  ck_assert_ptr_nonnull(e);
  ck_assert_uint_eq(e->sequence, sequence);
  ck_assert_uint_eq(e->info->size, sizeof body);
  ck_assert_mem_eq(e->path.data, "/up", 3);
  dcf__db__v1__event__free_unpacked(e, NULL);
}
END_TEST

START_TEST(a_restart_is_another_session) {
  subscribe("");
  call k = call_insert("/e", "1", 1);
  write_one(&k);
  PB(Event) *e = next_event(PATIENCE_MS);
  ck_assert_ptr_nonnull(e);
  uint64_t session = e->session, sequence = e->sequence;
  dcf__db__v1__event__free_unpacked(e, NULL);
  zmq_close(subscriber);
  connection_close(&con);
  ck_assert_int_eq(server_signal(&srv, SIGTERM), 0);
  server_restart(&srv, NULL);
  connection_open(&con, &srv, ZMQ_DEALER);
  subscribe("");
  k = call_insert("/e", "2", 1);
  write_one(&k);
  e = next_event(PATIENCE_MS);
  ck_assert_ptr_nonnull(e);
  ck_assert_uint_ne(e->session, session);
  ck_assert_uint_eq(e->number, 1);
  ck_assert_uint_gt(e->sequence, sequence);
  dcf__db__v1__event__free_unpacked(e, NULL);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("events");
  TCase *tc = tcase_create("events");
  tcase_set_timeout(tc, 60);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, an_event_says_what_was_written);
  tcase_add_test(tc, events_come_in_order);
  tcase_add_test(tc, a_subscription_is_a_prefix);
  tcase_add_test(tc, an_upload_is_an_event_when_it_is_committed);
  tcase_add_test(tc, a_restart_is_another_session);
  suite_add_tcase(suite, tc);
  return harness_run(suite);
}
