/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_hostile.c - what clients must not do: broken frames, random bytes, floods, deafness. A good client works beside
 * each of them and must not notice. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"

#define MIB (1024u * 1024u)

static server srv;
static connection good, bad;

static void setup(void) {
  server_start(&srv, NULL);
  connection_open(&good, &srv, ZMQ_DEALER);
  connection_open(&bad, &srv, ZMQ_DEALER);
  call k = call_insert("/good", "still here", 10);
  ck_assert_int_eq(call_code(&good, &k), CODE(OK));
}

static void teardown(void) {
  connection_close(&good);
  connection_close(&bad);
  server_remove(&srv);
}

static void good_client_works(void) {
  call k = call_get("/good");
  answer a = call_ask(&good, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert_uint_eq(zmq_msg_size(&a.body), 10);
  ck_assert_mem_eq(zmq_msg_data(&a.body), "still here", 10);
  answer_free(&a);
}

static answer after_frames(const void *const *frames, const size_t *sizes, size_t count) {
  send_frames(&bad, frames, sizes, count);
  answer a;
  ck_assert_msg(answer_receive(&bad, &a, PATIENCE_MS), "no answer to broken frames");
  return a;
}

static void expect_malformed(const void *const *frames, const size_t *sizes, size_t count, uint64_t id) {
  answer a = after_frames(frames, sizes, count);
  ck_assert_int_eq(a.reply->code, CODE(MALFORMED));
  ck_assert_int_eq(a.reply->status, -3);
  ck_assert_uint_eq(a.reply->id, id);
  answer_free(&a);
  good_client_works();
}

START_TEST(broken_frames_are_answered) {
  static uint8_t long_header[9000];
  const uint8_t garbage_with_id[] = {0x08, 0xAC, 0x02, 0xFF, 0xFF, 0xFF};
  const uint8_t only_id[] = {0x08, 0x05};
  const uint8_t ping[] = {0x08, 0x06, 0x52, 0x00};
  expect_malformed((const void *[]){""}, (size_t[]){0}, 1, 0);
  expect_malformed((const void *[]){"\xFF\xFF\xFF"}, (size_t[]){3}, 1, 0);
  expect_malformed((const void *[]){garbage_with_id}, (size_t[]){sizeof garbage_with_id}, 1, 300);
  expect_malformed((const void *[]){only_id}, (size_t[]){sizeof only_id}, 1, 5);
  expect_malformed((const void *[]){long_header}, (size_t[]){sizeof long_header}, 1, 0);
  expect_malformed((const void *[]){ping, "a", "b"}, (size_t[]){sizeof ping, 1, 1}, 3, 6);
  expect_malformed((const void *[]){ping, "a", "b", "c", "d", "e"}, (size_t[]){sizeof ping, 1, 1, 1, 1, 1}, 6, 6);
  expect_malformed((const void *[]){ping, "a"}, (size_t[]){sizeof ping, 1}, 2, 6);
  bad.envelope = true;
  expect_malformed((const void *[]){"", "", "x"}, (size_t[]){0, 0, 1}, 3, 0);
  ck_assert_uint_ge(statistic(&good, "service_malformed"), 9);
}
END_TEST

START_TEST(an_unknown_operation_is_unsupported) {
  const uint8_t future[] = {0x08, 0x07, 0xFA, 0x07, 0x02, 0x08, 0x01}; /* field 127, a message */
  answer a = after_frames((const void *[]){future}, (size_t[]){sizeof future}, 1);
  ck_assert_int_eq(a.reply->code, CODE(UNSUPPORTED));
  ck_assert_uint_eq(a.reply->id, 7);
  answer_free(&a);
  good_client_works();
}
END_TEST

/* A header of nothing but unknown fields needs far more memory unpacked than packed. */
START_TEST(a_header_that_blows_up_is_refused) {
  uint8_t header[8192];
  for (size_t i = 0; i + 2 < sizeof header; i += 3) memcpy(header + i, "\xF8\x07\x01", 3);
  header[sizeof header - 2] = 0x08;
  header[sizeof header - 1] = 0x01;
  expect_malformed((const void *[]){header}, (size_t[]){sizeof header}, 1, 0);
}
END_TEST

static void random_message(uint64_t *state) {
  uint8_t bytes[6][300];
  const void *frames[6];
  size_t sizes[6];
  size_t count = 1 + test_random(state) % 6;
  for (size_t i = 0; i < count; i++) {
    sizes[i] = test_random(state) % 4 == 0 ? 0 : test_random(state) % sizeof bytes[0];
    fill(bytes[i], sizes[i], test_random(state));
    frames[i] = bytes[i];
  }
  send_frames(&bad, frames, sizes, count);
}

/* A good request with a few bytes changed, so that what comes behind unpacking is reached as well. */
static void damaged_request(uint64_t *state) {
  uint8_t header[512];
  call kinds[] = {call_ping(),
                  call_insert("/fuzz", "data", 4),
                  call_get("/fuzz"),
                  call_stat("/fuzz"),
                  call_versions("/fuzz"),
                  call_delete("/fuzz"),
                  call_search("/f"),
                  call_flush(),
                  call_statistics(),
                  call_stream_open("/fuzz"),
                  call_stream_credit(3, 4),
                  call_stream_close(3),
                  call_upload_open("/fuzz"),
                  call_upload_chunk(3, 0, "x", 1),
                  call_upload_commit(3),
                  call_upload_abort(3)};
  call *k = &kinds[test_random(state) % (sizeof kinds / sizeof kinds[0])];
  k->request.insert = (PB(Insert) *)(void *)&k->op;
  k->request.id = 77;
  size_t len = dcf__db__v1__request__pack(&k->request, header);
  for (uint64_t changes = test_random(state) % 4; changes > 0; changes--) {
    header[test_random(state) % len] = (uint8_t)test_random(state);
  }
  if (test_random(state) % 4 == 0) len = test_random(state) % (len + 1);
  bool body = test_random(state) % 3 == 0;
  send_frames(&bad, (const void *[]){header, "body"}, (size_t[]){len, 4}, body ? 2 : 1);
}

static void drain(connection *c, int ms) {
  zmq_pollitem_t item = {.socket = c->socket, .events = ZMQ_POLLIN};
  while (zmq_poll(&item, 1, ms) > 0) {
    zmq_msg_t m;
    zmq_msg_init(&m);
    zmq_msg_recv(&m, c->socket, 0);
    zmq_msg_close(&m);
  }
}

START_TEST(random_bytes_harm_nobody) {
  uint64_t state = test_seed();
  for (int i = 0; i < 6000; i++) {
    if (i % 2) {
      random_message(&state);
    } else {
      damaged_request(&state);
    }
    if (i % 50 == 49) {
      drain(&bad, 0);
      good_client_works();
    }
  }
  drain(&bad, 100);
  good_client_works();
}
END_TEST

/* Not ZeroMQ at all, and ZeroMQ with a frame that is announced larger than allowed. */
START_TEST(raw_garbage_on_the_port) {
  struct sockaddr_in to = {.sin_family = AF_INET};
  ck_assert_int_eq(inet_pton(AF_INET, "127.0.0.1", &to.sin_addr), 1);
  to.sin_port = htons((uint16_t)strtoul(strrchr(srv.listen, ':') + 1, NULL, 10));
  uint64_t state = test_seed();
  uint8_t greeting[64] = {0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 0, 'N', 'U', 'L', 'L'}; /* of ZMTP 3.0 */
  for (int i = 0; i < 30; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)(void *)&to, sizeof to), 0);
    uint8_t bytes[512];
    fill(bytes, sizeof bytes, test_random(&state));
    if (i % 2) memcpy(bytes, greeting, sizeof greeting);
    ck_assert_int_gt(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL), 0);
    close(fd);
  }
  good_client_works();
  static uint8_t huge[2 * MIB];
  call k = call_insert("/huge", huge, sizeof huge);
  call_send(&bad, &k);
  answer a;
  ck_assert(!answer_receive(&bad, &a, 200));
  good_client_works();
}
END_TEST

START_TEST(a_flood_of_writes_gets_busy) {
  static uint8_t body[MIB];
  enum { N = 200 };
  for (int i = 0; i < N; i++) {
    call k = call_insert("/flood", body, sizeof body);
    call_send(&bad, &k);
    if (i % 20 == 0) good_client_works();
  }
  int done = 0, busy = 0;
  for (int i = 0; i < N; i++) {
    answer a;
    ck_assert(answer_receive(&bad, &a, PATIENCE_MS));
    if (a.reply->code == CODE(OK)) done++;
    if (a.reply->code == CODE(BUSY)) busy++;
    if (a.reply->code == CODE(BUSY)) ck_assert_uint_gt(a.reply->retry_after_ms, 0);
    answer_free(&a);
  }
  ck_assert_int_eq(done + busy, N);
  ck_assert_int_ge(done, 16);
  expect_statistic(&good, "service_in_flight_in", 0);
  ck_assert_uint_eq(statistic(&good, "service_busy"), (uint64_t)busy);
  ck_assert_uint_lt(server_memory(&srv), 400u * MIB);
}
END_TEST

/* It asks for 3 GB and reads nothing. */
START_TEST(a_deaf_client_costs_only_itself) {
  static uint8_t body[MIB];
  call k = call_insert("/mega", body, sizeof body);
  ck_assert_int_eq(call_code(&good, &k), CODE(OK));
  for (int i = 0; i < 3000; i++) {
    k = call_get("/mega");
    k.request.id = 0;
    call_send(&bad, &k);
    if (i % 200 == 0) good_client_works();
  }
  usleep(200000);
  good_client_works();
  ck_assert_uint_lt(server_memory(&srv), 300u * MIB);
  ck_assert_uint_le(statistic(&good, "service_in_flight_out"), 17u * MIB);
  connection_close(&bad);
  expect_statistic(&good, "service_parked", 0);
  expect_statistic(&good, "service_in_flight_out", 0);
}
END_TEST

/* A client whose own queue takes one message; a bound counts for connections made after it was set. */
static void open_deaf(connection *c) {
  int one = 1;
  connection_open(c, &srv, ZMQ_DEALER);
  ck_assert_int_eq(zmq_setsockopt(c->socket, ZMQ_RCVHWM, &one, sizeof one), 0);
  ck_assert_int_eq(zmq_disconnect(c->socket, srv.listen), 0);
  ck_assert_int_eq(zmq_connect(c->socket, srv.listen), 0);
}

/* Between them they could hold all that the service may have on its way. */
START_TEST(deaf_clients_leave_room_for_others) {
  static uint8_t body[MIB];
  enum { DEAF = 8, ASKED = 40, ROUNDS = 4 };
  connection deaf[DEAF];
  call k = call_insert("/mega", body, sizeof body);
  ck_assert_int_eq(call_code(&good, &k), CODE(OK));
  for (int i = 0; i < DEAF; i++) open_deaf(&deaf[i]);
  /* Some of it goes into the system's buffers, so they ask again. */
  for (int i = 0; i < ROUNDS * DEAF * ASKED; i++) {
    k = call_get("/mega");
    call_send(&deaf[i % DEAF], &k);
    if (i % (DEAF * ASKED) == 0) usleep(100000);
  }
  usleep(100000);
  k = call_get("/mega");
  ck_assert_int_eq(call_code(&good, &k), CODE(OK));
  k = call_search("");
  ck_assert_int_eq(call_code(&good, &k), CODE(OK));
  k = call_stream_open("/mega");
  k.op.stream_open.chunk_size = MIB;
  answer a = call_ask(&good, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  answer_free(&a);
  ck_assert(answer_receive(&good, &a, PATIENCE_MS));
  ck_assert_uint_eq(zmq_msg_size(&a.body), MIB);
  answer_free(&a);
  for (int i = 0; i < DEAF; i++) connection_close(&deaf[i]);
  expect_statistic(&good, "service_in_flight_out", 0);
}
END_TEST

/* Small replies are not counted in bytes: the queue's length and the parking place bound them. */
START_TEST(a_deaf_client_of_small_replies) {
  connection deaf;
  open_deaf(&deaf);
  static uint8_t body[3000];
  call k = call_insert("/small", body, sizeof body);
  ck_assert_int_eq(call_code(&good, &k), CODE(OK));
  for (int i = 0; i < 20000; i++) {
    k = call_get("/small");
    call_send(&deaf, &k);
    if (i % 2000 == 0) good_client_works();
  }
  usleep(100000);
  good_client_works();
  ck_assert_uint_le(statistic(&good, "service_parked"), 256);
  ck_assert_uint_lt(server_memory(&srv), 300u * MIB);
  connection_close(&deaf);
  good_client_works();
}
END_TEST

START_TEST(many_connections_come_and_go) {
  for (int i = 0; i < 100; i++) {
    connection c;
    connection_open(&c, &srv, i % 2 ? ZMQ_DEALER : ZMQ_REQ);
    call k = call_get("/good");
    ck_assert_int_eq(call_code(&c, &k), CODE(OK));
    connection_close(&c);
  }
  good_client_works();
}
END_TEST

START_TEST(a_request_that_waited_too_long) {
  static uint8_t body[MIB];
  for (int i = 0; i < 12; i++) {
    call k = call_insert("/slow", body, sizeof body);
    call_send(&bad, &k);
  }
  int late = 0;
  for (int i = 0; i < 200; i++) {
    call k = call_insert("/late", "x", 1);
    k.request.timeout_ms = 1;
    call_send(&bad, &k);
  }
  for (int i = 0; i < 212; i++) {
    answer a;
    ck_assert(answer_receive(&bad, &a, PATIENCE_MS));
    ck_assert(a.reply->code == CODE(OK) || a.reply->code == CODE(TIMED_OUT));
    if (a.reply->code == CODE(TIMED_OUT)) late++;
    answer_free(&a);
  }
  call k = call_versions("/late");
  answer a = call_ask(&good, &k);
  if (late == 200) {
    ck_assert_int_eq(a.reply->code, CODE(NOT_FOUND));
  } else {
    ck_assert_uint_eq(a.reply->entries[0]->info->version, 200u - (unsigned)late);
  }
  answer_free(&a);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("hostile");
  TCase *tc = tcase_create("beside a good client");
  tcase_set_timeout(tc, 60);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, broken_frames_are_answered);
  tcase_add_test(tc, an_unknown_operation_is_unsupported);
  tcase_add_test(tc, a_header_that_blows_up_is_refused);
  tcase_add_test(tc, random_bytes_harm_nobody);
  tcase_add_test(tc, raw_garbage_on_the_port);
  tcase_add_test(tc, a_flood_of_writes_gets_busy);
  tcase_add_test(tc, a_deaf_client_costs_only_itself);
  tcase_add_test(tc, deaf_clients_leave_room_for_others);
  tcase_add_test(tc, a_deaf_client_of_small_replies);
  tcase_add_test(tc, many_connections_come_and_go);
  tcase_add_test(tc, a_request_that_waited_too_long);
  suite_add_tcase(suite, tc);
  return harness_run(suite);
}
