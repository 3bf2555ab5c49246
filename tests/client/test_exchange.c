/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_exchange.c - requests and replies with a service that loses, refuses and repeats. */
#include <stdio.h>
#include <time.h>

#include "fake.h"

/* What a handler has seen and shall do; written by its thread while the test waits for an answer. */
typedef struct script {
  unsigned lose;   /* so many requests are not answered */
  PB(Code) refuse; /* then so many are answered with this */
  unsigned refusals;
  unsigned seen;
  PB(Code) finally; /* what the others get */
  uint8_t tokens[8][16];
  uint64_t ids[8];
  int64_t times[8];
} script;

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void follow(fake *f, const asked *a, void *user) {
  script *s = user;
  if (s->seen < 8) {
    s->ids[s->seen] = a->request->id;
    s->times[s->seen] = now_ms();
    if (a->request->op_case == OP(INSERT)) {
      ck_assert_uint_eq(a->request->insert->token.len, 16);
      memcpy(s->tokens[s->seen], a->request->insert->token.data, 16);
    }
  }
  s->seen++;
  if (s->lose > 0) {
    s->lose--;
    return;
  }
  PB(Reply) reply = fake_reply_to(a, s->refusals > 0 ? s->refuse : s->finally);
  if (s->refusals > 0) s->refusals--;
  if (reply.code == CODE(OK)) reply.info = fake_info("abc", 3, 5);
  bool content = reply.code == CODE(OK) && a->request->op_case == OP(GET);
  fake_send(f, &reply, content ? "abc" : NULL, 3);
}

static int insert(sdbc *client, sdbc_commit *commit) { return sdbc_insert(client, "/p", 2, "abc", 3, NULL, commit); }

START_TEST(a_lost_insert_is_sent_again_with_its_token) {
  script s = {.lose = 2};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect_hasty(f);
  sdbc_commit commit;
  ck_assert_int_eq(insert(client, &commit), SDBC_OK);
  ck_assert_uint_eq(commit.info.version, 5);
  ck_assert_uint_eq(commit.sequence, 40);
  ck_assert_uint_eq(commit.epoch, 7);
  unsigned attempts = s.seen;
  ck_assert_uint_ge(attempts, 3);
  ck_assert_mem_eq(s.tokens[0], s.tokens[1], 16);
  ck_assert_mem_eq(s.tokens[0], s.tokens[2], 16);
  ck_assert_int_eq(insert(client, &commit), SDBC_OK);
  ck_assert_mem_ne(s.tokens[0], s.tokens[attempts], 16);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

START_TEST(a_token_of_the_caller_is_used) {
  script s = {.lose = 1};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect_hasty(f);
  const uint8_t token[16] = {9, 8, 7};
  sdbc_put_options options;
  sdbc_put_options_init(&options, sizeof options);
  options.token = token;
  ck_assert_int_eq(sdbc_insert(client, "/p", 2, NULL, 0, &options, NULL), SDBC_OK);
  ck_assert_mem_eq(s.tokens[0], token, 16);
  ck_assert_mem_eq(s.tokens[1], token, 16);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

static const PB(Code) passing[] = {CODE(BUSY), CODE(STOPPING), CODE(TIMED_OUT)};

START_TEST(a_passing_refusal_is_tried_again) {
  script s = {.refuse = passing[_i], .refusals = 3};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect(f);
  ck_assert_int_eq(insert(client, NULL), SDBC_OK);
  ck_assert_uint_eq(s.seen, 4);
  /* 10, 20 and 40 ms lie between the attempts. */
  ck_assert_int_ge(s.times[1] - s.times[0], 9);
  ck_assert_int_ge(s.times[2] - s.times[1], 19);
  ck_assert_int_ge(s.times[3] - s.times[2], 39);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

START_TEST(attempts_are_bounded) {
  script s = {.refuse = CODE(BUSY), .refusals = 100};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect_hasty(f);
  ck_assert_int_eq(insert(client, NULL), SDBC_BUSY);
  ck_assert_uint_eq(s.seen, 4);
  s.refusals = 0;
  s.lose = 100;
  s.seen = 0;
  ck_assert_int_eq(insert(client, NULL), SDBC_TIMEOUT);
  ck_assert_ptr_nonnull(strstr(sdbc_message(client), "not known"));
  ck_assert_uint_eq(s.seen, 4);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

static const struct {
  PB(Code) from;
  int to;
} lasting[] = {{CODE(CONDITION_FAILED), SDBC_CONDITION},
               {CODE(IO), SDBC_IO},
               {CODE(CORRUPT), SDBC_CORRUPT},
               {CODE(FULL), SDBC_FULL},
               {CODE(INVALID), SDBC_INVALID},
               {CODE(NOT_FOUND), SDBC_NOT_FOUND},
               {CODE(READ_ONLY), SDBC_READ_ONLY},
               {CODE(RESET), SDBC_RESET},
               {CODE(UNSUPPORTED), SDBC_UNSUPPORTED},
               {CODE(INTERNAL), SDBC_INTERNAL},
               {CODE(MALFORMED), SDBC_PROTOCOL}};

START_TEST(a_lasting_refusal_is_not_tried_again) {
  script s = {.finally = lasting[_i].from};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect(f);
  ck_assert_int_eq(insert(client, NULL), lasting[_i].to);
  ck_assert_uint_eq(s.seen, 1);
  ck_assert_str_ne(sdbc_message(client), "");
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

static void answer_unknown_code(fake *f, const asked *a, void *user) {
  static const int32_t statuses[] = {-5, -3, -2, -9};
  unsigned *seen = user;
  PB(Reply) reply = fake_reply_to(a, (PB(Code))77);
  reply.status = statuses[(*seen)++ % 4];
  fake_send(f, &reply, NULL, 0);
}

START_TEST(an_unknown_code_is_judged_by_its_status) {
  unsigned seen = 0;
  fake *f = fake_start(answer_unknown_code, &seen);
  sdbc *client = fake_connect(f);
  ck_assert_int_eq(sdbc_flush(client), SDBC_INVALID); /* -5 is tried again, -3 is not */
  ck_assert_uint_eq(seen, 2);
  ck_assert_int_eq(sdbc_flush(client), SDBC_NOT_FOUND);
  ck_assert_int_eq(sdbc_flush(client), SDBC_INTERNAL);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

START_TEST(a_delete_that_finds_nothing_after_a_lost_answer_is_done) {
  script s = {.lose = 1, .finally = CODE(NOT_FOUND)};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect_hasty(f);
  sdbc_commit commit;
  ck_assert_int_eq(sdbc_delete(client, "/p", 2, NULL, &commit), SDBC_OK);
  ck_assert(commit.unknown);
  ck_assert_uint_eq(commit.info.version, 0);
  ck_assert_int_eq(sdbc_delete(client, "/p", 2, NULL, &commit), SDBC_NOT_FOUND);
  s.refuse = CODE(BUSY); /* a refusal leaves no doubt */
  s.refusals = 1;
  ck_assert_int_eq(sdbc_delete(client, "/p", 2, NULL, &commit), SDBC_NOT_FOUND);
  s.refuse = CODE(TIMED_OUT); /* nor does a request that was not begun */
  s.refusals = 1;
  ck_assert_int_eq(sdbc_delete(client, "/p", 2, NULL, &commit), SDBC_NOT_FOUND);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

static void answer_twice(fake *f, const asked *a, void *user) {
  uint64_t *old = user;
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  reply.info = fake_info("old", 3, 1);
  reply.id = *old;
  fake_send(f, &reply, "old", 3);
  reply.id = a->request->id + 1000;
  fake_send(f, &reply, "old", 3);
  reply.id = *old = a->request->id;
  reply.has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST__NOT_SET;
  reply.info = fake_info("new", 3, 2);
  fake_send(f, &reply, "new", 3);
  fake_send(f, &reply, "new", 3);
}

START_TEST(stale_replies_are_skipped) {
  uint64_t old = 0;
  fake *f = fake_start(answer_twice, &old);
  sdbc *client = fake_connect(f);
  for (int i = 0; i < 20; i++) {
    char buf[8];
    size_t size;
    sdbc_info info;
    ck_assert_int_eq(sdbc_get(client, "/p", 2, SDBC_CURRENT, buf, sizeof buf, &size, &info), SDBC_OK);
    ck_assert_uint_eq(info.version, 2);
    ck_assert_mem_eq(buf, "new", 3);
  }
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

static void drop_first(fake *f, const asked *a, void *user) {
  unsigned *seen = user;
  if ((*seen)++ == 0) {
    fake_drop_connections(f);
  } else {
    follow(f, a, &(script){0});
  }
}

START_TEST(a_lost_connection_is_noticed_before_the_timeout) {
  unsigned seen = 0;
  fake *f = fake_start(drop_first, &seen);
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.backoff_ms = 10;
  sdbc *client;
  ck_assert_int_eq(sdbc_connect(fake_endpoint(f), &options, &client), SDBC_OK);
  int64_t start = now_ms();
  ck_assert_int_eq(insert(client, NULL), SDBC_OK);
  ck_assert_int_lt(now_ms() - start, 5000); /* the request timeout is ten seconds */
  ck_assert_uint_eq(seen, 2);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

START_TEST(nobody_there) {
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.connect_timeout_ms = 200;
  sdbc *client;
  ck_assert_int_eq(sdbc_connect("tcp://127.0.0.1:1", &options, &client), SDBC_OK);
  int64_t start = now_ms();
  ck_assert_int_eq(sdbc_ping(client, NULL), SDBC_UNREACHABLE);
  int64_t took = now_ms() - start;
  ck_assert_int_ge(took, 199);
  ck_assert_int_lt(took, 3000);
  ck_assert_ptr_nonnull(strstr(sdbc_message(client), "tcp://127.0.0.1:1"));
  sdbc_watch *watch;
  ck_assert_int_eq(sdbc_watch_open(client, "", 0, false, &watch), SDBC_UNREACHABLE);
  sdbc_close(client);
}
END_TEST

START_TEST(arguments_are_checked) {
  char message[200] = "";
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.message = message;
  options.message_size = sizeof message;
  sdbc *client = NULL;
  ck_assert_int_eq(sdbc_connect("nonsense", &options, &client), SDBC_INVALID);
  ck_assert_ptr_nonnull(strstr(message, "nonsense"));
  options.max_in_flight = 0;
  ck_assert_int_eq(sdbc_connect(NULL, &options, &client), SDBC_INVALID);
  ck_assert_ptr_null(client);
  ck_assert_int_eq(sdbc_ping(NULL, NULL), SDBC_INVALID);
  ck_assert_str_eq(sdbc_message(NULL), "");

  ck_assert_int_eq(sdbc_connect("ipc:///tmp/nobody", NULL, &client), SDBC_OK);
  char path[1025] = {0};
  ck_assert_int_eq(sdbc_stat(client, "", 0, 0, NULL), SDBC_INVALID);
  ck_assert_int_eq(sdbc_stat(client, path, sizeof path, 0, NULL), SDBC_INVALID);
  ck_assert_int_eq(sdbc_stat(client, NULL, 4, 0, NULL), SDBC_INVALID);
  ck_assert_int_eq(sdbc_insert(client, "/p", 2, NULL, 4, NULL, NULL), SDBC_INVALID);
  sdbc_watch *watch;
  ck_assert_int_eq(sdbc_watch_open(client, "", 0, false, &watch), SDBC_INVALID);
  ck_assert_str_ne(sdbc_message(client), "");
  sdbc_page *page;
  ck_assert_int_eq(sdbc_search(client, path, sizeof path, NULL, 0, 0, false, &page), SDBC_INVALID);
  sdbc_put_options put;
  sdbc_put_options_init(&put, sizeof put);
  put.durability = (sdbc_durability)9;
  ck_assert_int_eq(sdbc_insert(client, "/p", 2, NULL, 0, &put, NULL), SDBC_INVALID);
  put.size = 0;
  ck_assert_int_eq(sdbc_insert(client, "/p", 2, NULL, 0, &put, NULL), SDBC_INVALID);
  sdbc_close(client);
}
END_TEST

/* --- Many at once ------------------------------------------------------------------------------------------------------------- */

typedef struct tally {
  sdbc *client;
  unsigned good, closed, other;
  int inner; /* what a waiting call inside the callback answered */
  unsigned again;
} tally;

static void count_done(void *user, const sdbc_done *done) {
  tally *t = user;
  if (done->code == SDBC_OK) t->good++;
  if (done->code == SDBC_CLOSED) t->closed++;
  if (done->code != SDBC_OK && done->code != SDBC_CLOSED) t->other++;
  t->inner = sdbc_ping(t->client, NULL);
  if (t->again > 0) {
    t->again--;
    ck_assert_int_eq(sdbc_submit_get(t->client, "/p", 2, 0, count_done, t, NULL), SDBC_OK);
  }
}

START_TEST(submitted_requests_are_bounded_and_answered_once) {
  script s = {0};
  fake *f = fake_start(follow, &s);
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.max_in_flight = 10;
  options.max_in_flight_bytes = 100;
  sdbc *client;
  ck_assert_int_eq(sdbc_connect(fake_endpoint(f), &options, &client), SDBC_OK);
  tally t = {.client = client, .again = 30};
  uint64_t first, second;
  ck_assert_int_eq(sdbc_submit_get(client, "/p", 2, 0, count_done, &t, &first), SDBC_OK);
  ck_assert_int_eq(sdbc_submit_stat(client, "/p", 2, 0, count_done, &t, &second), SDBC_OK);
  ck_assert_uint_ne(first, second);
  char big[200] = {0};
  ck_assert_int_eq(sdbc_submit_insert(client, "/p", 2, big, sizeof big, NULL, count_done, &t, NULL), SDBC_OK); /* the first may be
                                                                                                                  larger */
  ck_assert_int_eq(sdbc_submit_insert(client, "/p", 2, big, 1, NULL, count_done, &t, NULL), SDBC_AGAIN);
  for (int i = 3; i < 10; i++) ck_assert_int_eq(sdbc_submit_delete(client, "/p", 2, NULL, count_done, &t, NULL), SDBC_OK);
  ck_assert_int_eq(sdbc_submit_get(client, "/p", 2, 0, count_done, &t, NULL), SDBC_AGAIN);
  ck_assert_uint_eq(sdbc_in_flight(client), 10);
  size_t all = 0;
  while (sdbc_in_flight(client) > 0) {
    size_t now;
    ck_assert_int_eq(sdbc_poll(client, 5000, &now), SDBC_OK);
    all += now;
  }
  ck_assert_uint_eq(all, 40);
  ck_assert_uint_eq(t.good, 40);
  ck_assert_int_eq(t.inner, SDBC_INVALID);
  ck_assert_uint_eq(s.seen, 40);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

START_TEST(calls_that_wait_serve_the_others) {
  script s = {.lose = 1};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect_hasty(f);
  tally t = {.client = client};
  ck_assert_int_eq(sdbc_submit_get(client, "/p", 2, 0, count_done, &t, NULL), SDBC_OK);
  for (int i = 0; i < 100 && t.good == 0; i++) ck_assert_int_eq(sdbc_stat(client, "/p", 2, 0, NULL), SDBC_OK);
  while (t.good == 0) ck_assert_int_eq(sdbc_poll(client, 1000, NULL), SDBC_OK);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

START_TEST(closing_tells_those_who_wait) {
  script s = {.lose = 1000};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect(f);
  tally t = {.client = client};
  for (int i = 0; i < 5; i++) ck_assert_int_eq(sdbc_submit_get(client, "/p", 2, 0, count_done, &t, NULL), SDBC_OK);
  size_t completed = 7;
  ck_assert_int_eq(sdbc_poll(client, 20, &completed), SDBC_OK);
  ck_assert_uint_eq(completed, 0);
  sdbc_close(client);
  ck_assert_uint_eq(t.closed, 5);
  ck_assert_int_eq(t.inner, SDBC_CLOSED);
  fake_stop(f);
}
END_TEST

START_TEST(large_contents_do_not_fit_into_a_submitted_request) {
  script s = {0};
  fake *f = fake_start(follow, &s);
  sdbc *client = fake_connect(f);
  static char big[SDBC_MAX_BODY + 1];
  ck_assert_int_eq(sdbc_submit_insert(client, "/p", 2, big, sizeof big, NULL, count_done, NULL, NULL), SDBC_TOO_LARGE);
  ck_assert_uint_eq(sdbc_in_flight(client), 0);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

/* --- Digests ------------------------------------------------------------------------------------------------------------------ */

START_TEST(digests) {
  ck_assert_uint_eq(sdbc_crc32c(0, "123456789", 9), 0xe3069283u);
  ck_assert_uint_eq(sdbc_crc32c(0, "", 0), 0);
  uint64_t state = fake_seed();
  static uint8_t data[100000];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)fake_random(&state);
  uint32_t whole = sdbc_crc32c(0, data, sizeof data);
  for (int i = 0; i < 200; i++) {
    size_t cut = (size_t)(fake_random(&state) % (sizeof data + 1));
    uint32_t first = sdbc_crc32c(0, data, cut), second = sdbc_crc32c(0, data + cut, sizeof data - cut);
    ck_assert_uint_eq(sdbc_crc32c(first, data + cut, sizeof data - cut), whole);
    ck_assert_uint_eq(sdbc_crc32c_join(first, second, sizeof data - cut), whole);
  }
}
END_TEST

START_TEST(codes_have_sentences) {
  for (int code = 0; code >= SDBC_CLOSED; code--) ck_assert_str_ne(sdbc_strerror(code), sdbc_strerror(1));
  ck_assert_int_eq(sdbc_dcf_status(SDBC_TIMEOUT), -1);
  ck_assert_int_eq(sdbc_dcf_status(SDBC_CONDITION), -3);
  ck_assert_int_eq(sdbc_dcf_status(SDBC_CORRUPT), -4);
  ck_assert_int_eq(sdbc_dcf_status(SDBC_CONFLICT), -5);
  ck_assert_int_eq(sdbc_dcf_status(1234), -4);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("exchange");
  TCase *retry = tcase_create("retry");
  tcase_set_timeout(retry, 30);
  tcase_add_test(retry, a_lost_insert_is_sent_again_with_its_token);
  tcase_add_test(retry, a_token_of_the_caller_is_used);
  tcase_add_loop_test(retry, a_passing_refusal_is_tried_again, 0, 3);
  tcase_add_test(retry, attempts_are_bounded);
  tcase_add_loop_test(retry, a_lasting_refusal_is_not_tried_again, 0, sizeof lasting / sizeof *lasting);
  tcase_add_test(retry, an_unknown_code_is_judged_by_its_status);
  tcase_add_test(retry, a_delete_that_finds_nothing_after_a_lost_answer_is_done);
  tcase_add_test(retry, stale_replies_are_skipped);
  tcase_add_test(retry, a_lost_connection_is_noticed_before_the_timeout);
  tcase_add_test(retry, nobody_there);
  tcase_add_test(retry, arguments_are_checked);
  suite_add_tcase(suite, retry);
  TCase *many = tcase_create("many");
  tcase_set_timeout(many, 30);
  tcase_add_test(many, submitted_requests_are_bounded_and_answered_once);
  tcase_add_test(many, calls_that_wait_serve_the_others);
  tcase_add_test(many, closing_tells_those_who_wait);
  tcase_add_test(many, large_contents_do_not_fit_into_a_submitted_request);
  suite_add_tcase(suite, many);
  TCase *other = tcase_create("other");
  tcase_add_test(other, digests);
  tcase_add_test(other, codes_have_sentences);
  suite_add_tcase(suite, other);
  return run_suite(suite);
}
