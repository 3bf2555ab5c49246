/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_streams.c - documents out and in by chunks: credit, offsets, ends, leases, bounds, several at once. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "harness.h"

#define KIB 1024u
#define BIG (3u * 1024u * 1024u + 17u)

static server srv;
static connection con;
static uint8_t *data; /* BIG bytes */

static void begin(const char *const *extra) {
  server_start(&srv, extra);
  connection_open(&con, &srv, ZMQ_DEALER);
  data = malloc(BIG);
  fill(data, BIG, 42);
}

static void setup(void) { begin(NULL); }

static void setup_short_lease(void) {
  static const char *const extra[] = {"--stream-lease-ms", "200", NULL};
  begin(extra);
}

static void teardown(void) {
  connection_close(&con);
  server_remove(&srv);
  free(data);
}

/* --- Helpers ------------------------------------------------------------------------------------------------------------------ */

static uint64_t open_upload(connection *c, const char *path) {
  call k = call_upload_open(path);
  answer a = call_ask(c, &k);
  ck_assert_msg(a.reply->code == CODE(OK), "upload_open: %s", a.reply->message);
  ck_assert_uint_gt(a.reply->credit, 0);
  uint64_t stream = a.reply->stream;
  ck_assert_uint_ne(stream, 0);
  answer_free(&a);
  return stream;
}

static void upload(connection *c, const char *path, const uint8_t *bytes, size_t len, size_t chunk) {
  uint64_t stream = open_upload(c, path);
  for (size_t offset = 0; offset < len; offset += chunk) {
    size_t n = len - offset < chunk ? len - offset : chunk;
    call k = call_upload_chunk(stream, offset, bytes + offset, n);
    k.op.upload_chunk.has_digest_case = DCF__DB__V1__UPLOAD_CHUNK__HAS_DIGEST_DIGEST;
    k.op.upload_chunk.digest = sdb_crc32c(0, bytes + offset, n);
    answer a = call_ask(c, &k);
    ck_assert_msg(a.reply->code == CODE(OK), "upload_chunk: %s", a.reply->message);
    ck_assert_uint_eq(a.reply->offset, offset + n);
    answer_free(&a);
  }
  call k = call_upload_commit(stream);
  k.op.upload_commit.has_digest_case = DCF__DB__V1__UPLOAD_COMMIT__HAS_DIGEST_DIGEST;
  k.op.upload_commit.digest = sdb_crc32c(0, bytes, len);
  answer a = call_ask(c, &k);
  ck_assert_msg(a.reply->code == CODE(OK), "upload_commit: %s", a.reply->message);
  ck_assert_uint_eq(a.reply->info->size, len);
  ck_assert_uint_eq(a.reply->info->digest, sdb_crc32c(0, bytes, len));
  answer_free(&a);
}

typedef struct opened {
  uint64_t id, stream;
  bool last;
} opened;

static opened open_stream(connection *c, call *k) {
  answer a = call_ask(c, k);
  ck_assert_msg(a.reply->code == CODE(OK), "stream_open: %s", a.reply->message);
  ck_assert(!a.has_body);
  opened o = {.id = k->request.id, .stream = a.reply->stream, .last = a.reply->last};
  answer_free(&a);
  return o;
}

/* The next chunk of the stream, compared with `bytes`. Returns its length. */
static size_t take_chunk(connection *c, opened *o, uint64_t offset, const uint8_t *bytes) {
  answer a;
  ck_assert_msg(answer_receive(c, &a, PATIENCE_MS), "no chunk at %llu", (unsigned long long)offset);
  ck_assert_uint_eq(a.reply->id, o->id);
  ck_assert_msg(a.reply->code == CODE(OK), "chunk: %s", a.reply->message);
  ck_assert_uint_eq(a.reply->stream, o->stream);
  ck_assert_uint_eq(a.reply->offset, offset);
  size_t n = zmq_msg_size(&a.body);
  ck_assert_mem_eq(zmq_msg_data(&a.body), bytes + offset, n);
  o->last = a.reply->last;
  answer_free(&a);
  return n;
}

static void expect_silence(connection *c, int ms) {
  answer a;
  ck_assert_msg(!answer_receive(c, &a, ms), "a reply that nobody asked for");
}

static PB(Code) next_code(connection *c, bool *last) {
  answer a;
  ck_assert(answer_receive(c, &a, PATIENCE_MS));
  PB(Code) code = a.reply->code;
  if (last) *last = a.reply->last;
  answer_free(&a);
  return code;
}

/* --- Out ---------------------------------------------------------------------------------------------------------------------- */

START_TEST(a_stream_under_credit) {
  con.envelope = _i == 1;
  const size_t size = _i == 0 ? 300u * KIB : BIG;
  upload(&con, "/big", data, size, 1024 * KIB);
  call k = call_stream_open("/big");
  k.op.stream_open.credit = 1;
  k.op.stream_open.chunk_size = 100u * KIB;
  opened o = open_stream(&con, &k);
  size_t offset = 0;
  while (!o.last) {
    offset += take_chunk(&con, &o, offset, data);
    if (o.last) break;
    if (offset < 400u * KIB) expect_silence(&con, 20);
    call credit = call_stream_credit(o.stream, 1);
    call_send(&con, &credit);
  }
  ck_assert_uint_eq(offset, size);
  expect_statistic(&con, "service_streams", 0);
  call credit = call_stream_credit(o.stream, 1);
  ck_assert_int_eq(call_code(&con, &credit), CODE(NOT_FOUND));
}
END_TEST

START_TEST(plenty_of_credit_and_default_chunks) {
  upload(&con, "/big", data, BIG, 300000);
  call k = call_stream_open("/big");
  k.op.stream_open.credit = 1000;
  opened o = open_stream(&con, &k);
  size_t offset = 0;
  while (!o.last) {
    size_t n = take_chunk(&con, &o, offset, data);
    ck_assert(o.last || n == 262144);
    offset += n;
  }
  ck_assert_uint_eq(offset, BIG);
}
END_TEST

START_TEST(resuming_at_an_offset_and_a_part) {
  upload(&con, "/big", data, BIG, 1000000);
  call k = call_stream_open("/big");
  k.op.stream_open.offset = 1234567;
  k.op.stream_open.length = 500001;
  opened o = open_stream(&con, &k);
  size_t offset = 1234567;
  while (!o.last) offset += take_chunk(&con, &o, offset, data);
  ck_assert_uint_eq(offset, 1234567 + 500001);
}
END_TEST

START_TEST(ends_of_documents) {
  upload(&con, "/one", data, 1, 1);
  call k = call_insert("/empty", "", 0);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_stream_open("/empty");
  opened o = open_stream(&con, &k);
  ck_assert(o.last && o.stream == 0);
  k = call_stream_open("/one");
  k.op.stream_open.offset = 1;
  o = open_stream(&con, &k);
  ck_assert(o.last);
  k = call_stream_open("/one");
  o = open_stream(&con, &k);
  ck_assert_uint_eq(take_chunk(&con, &o, 0, data), 1);
  ck_assert(o.last);
  k = call_stream_open("/one");
  k.op.stream_open.offset = 2;
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_stream_open("/none");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
  k = call_stream_open("/one");
  k.op.stream_open.chunk_size = 1024 * KIB + 1;
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  expect_silence(&con, 20);
}
END_TEST

START_TEST(the_version_is_pinned) {
  upload(&con, "/pin", data, BIG, 1000000);
  call k = call_stream_open("/pin");
  k.op.stream_open.credit = 1;
  opened o = open_stream(&con, &k);
  size_t offset = take_chunk(&con, &o, 0, data);
  for (int i = 0; i < 3; i++) {
    call put = call_insert("/pin", "new", 3);
    ck_assert_int_eq(call_code(&con, &put), CODE(OK));
  }
  call gone = call_delete("/pin");
  ck_assert_int_eq(call_code(&con, &gone), CODE(OK));
  while (!o.last) {
    call credit = call_stream_credit(o.stream, 4);
    call_send(&con, &credit);
    for (int i = 0; i < 4 && !o.last; i++) offset += take_chunk(&con, &o, offset, data);
  }
  ck_assert_uint_eq(offset, BIG);
}
END_TEST

START_TEST(closing_early) {
  upload(&con, "/big", data, BIG, 1000000);
  call k = call_stream_open("/big");
  k.op.stream_open.credit = 64;
  k.op.stream_open.chunk_size = 10000;
  opened o = open_stream(&con, &k);
  call end = call_stream_close(o.stream);
  uint64_t id = call_send(&con, &end);
  for (bool answered = false; !answered;) {
    answer a;
    ck_assert(answer_receive(&con, &a, PATIENCE_MS));
    ck_assert_int_eq(a.reply->code, CODE(OK));
    answered = a.reply->id == id;
    answer_free(&a);
  }
  expect_silence(&con, 50);
  expect_statistic(&con, "service_streams", 0);
}
END_TEST

START_TEST(sixteen_streams_and_no_more) {
  upload(&con, "/big", data, BIG, 1000000);
  opened o[16];
  for (int i = 0; i < 16; i++) {
    call k = call_stream_open("/big");
    k.op.stream_open.credit = 1;
    k.op.stream_open.chunk_size = 1000;
    o[i] = open_stream(&con, &k);
    take_chunk(&con, &o[i], 0, data);
  }
  call k = call_stream_open("/big");
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(BUSY));
  ck_assert_int_eq(a.reply->status, -1);
  ck_assert_uint_gt(a.reply->retry_after_ms, 0);
  answer_free(&a);

  connection other;
  connection_open(&other, &srv, ZMQ_DEALER);
  k = call_stream_open("/big");
  opened theirs = open_stream(&other, &k);
  take_chunk(&other, &theirs, 0, data);
  call foreign = call_stream_close(o[0].stream);
  uint64_t id = call_send(&other, &foreign);
  for (bool answered = false; !answered;) {
    ck_assert(answer_receive(&other, &a, PATIENCE_MS));
    answered = a.reply->id == id;
    if (answered) ck_assert_int_eq(a.reply->code, CODE(NOT_FOUND));
    answer_free(&a);
  }
  connection_close(&other);

  call end = call_stream_close(o[3].stream);
  ck_assert_int_eq(call_code(&con, &end), CODE(OK));
  k = call_stream_open("/big");
  k.op.stream_open.credit = 1;
  o[3] = open_stream(&con, &k);
  take_chunk(&con, &o[3], 0, data);
}
END_TEST

START_TEST(an_idle_stream_ends_by_its_lease) {
  upload(&con, "/big", data, BIG, 1000000);
  call k = call_stream_open("/big");
  k.op.stream_open.credit = 1;
  opened o = open_stream(&con, &k);
  take_chunk(&con, &o, 0, data);
  bool last = false;
  ck_assert_int_eq(next_code(&con, &last), CODE(TIMED_OUT));
  ck_assert(last);
  call credit = call_stream_credit(o.stream, 1);
  ck_assert_int_eq(call_code(&con, &credit), CODE(NOT_FOUND));
  expect_statistic(&con, "service_streams", 0);
}
END_TEST

START_TEST(several_streams_at_once) {
  enum { N = 8 };
  upload(&con, "/big", data, BIG, 1000000);
  opened o[N];
  size_t offset[N] = {0};
  size_t open = N;
  for (uint64_t i = 0; i < N; i++) {
    call k = call_stream_open("/big");
    k.request.id = 1000 + i;
    k.op.stream_open.chunk_size = (uint32_t)(50000 + 7777 * i);
    call_send(&con, &k);
    o[i] = (opened){.id = 1000 + i};
  }
  while (open > 0) {
    answer a;
    ck_assert(answer_receive(&con, &a, PATIENCE_MS));
    if (a.reply->id < 1000) { /* credit that met the end of its stream */
      ck_assert_int_eq(a.reply->code, CODE(NOT_FOUND));
      answer_free(&a);
      continue;
    }
    size_t i = a.reply->id - 1000;
    ck_assert(i < N && a.reply->code == CODE(OK));
    o[i].stream = a.reply->stream;
    ck_assert_uint_eq(a.reply->offset, offset[i]);
    if (a.has_body) {
      ck_assert_mem_eq(zmq_msg_data(&a.body), data + offset[i], zmq_msg_size(&a.body));
      offset[i] += zmq_msg_size(&a.body);
      call credit = call_stream_credit(o[i].stream, 1);
      if (a.reply->last) {
        open--;
      } else {
        call_send(&con, &credit);
      }
    }
    answer_free(&a);
  }
  for (size_t i = 0; i < N; i++) ck_assert_uint_eq(offset[i], BIG);
}
END_TEST

START_TEST(a_client_that_vanishes_leaves_nothing) {
  upload(&con, "/big", data, BIG, 1000000);
  for (int round = 0; round < 20; round++) {
    connection other;
    connection_open(&other, &srv, ZMQ_DEALER);
    call k = call_stream_open("/big");
    k.op.stream_open.credit = 64;
    k.op.stream_open.chunk_size = 5000;
    call_send(&other, &k);
    k = call_upload_open("/left");
    call_send(&other, &k);
    answer a;
    ck_assert(answer_receive(&other, &a, PATIENCE_MS));
    answer_free(&a);
    connection_close(&other);
  }
  expect_statistic(&con, "service_streams", 0);
  expect_statistic(&con, "service_uploads", 0);
  expect_statistic(&con, "engine_pins", 0);
  expect_statistic(&con, "service_in_flight_out", 0);
}
END_TEST

/* --- In ----------------------------------------------------------------------------------------------------------------------- */

START_TEST(chunks_in_flight) {
  con.envelope = true;
  uint64_t stream = open_upload(&con, "/fly");
  const size_t chunk = 100000;
  size_t sent = 0, unanswered = 0, got = 0;
  while (got < BIG) {
    while (sent < BIG && unanswered < 4) {
      size_t n = BIG - sent < chunk ? BIG - sent : chunk;
      call k = call_upload_chunk(stream, sent, data + sent, n);
      call_send(&con, &k);
      sent += n;
      unanswered++;
    }
    answer a;
    ck_assert(answer_receive(&con, &a, PATIENCE_MS));
    ck_assert_msg(a.reply->code == CODE(OK), "%s", a.reply->message);
    got = a.reply->offset;
    unanswered--;
    answer_free(&a);
  }
  call k = call_upload_commit(stream);
  answer a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->info->digest, sdb_crc32c(0, data, BIG));
  answer_free(&a);
  k = call_stream_open("/fly");
  opened o = open_stream(&con, &k);
  size_t offset = 0;
  while (!o.last) {
    offset += take_chunk(&con, &o, offset, data);
    call credit = call_stream_credit(o.stream, 1);
    if (!o.last) call_send(&con, &credit);
  }
  ck_assert_uint_eq(offset, BIG);
}
END_TEST

START_TEST(an_upload_through_req) {
  connection req;
  connection_open(&req, &srv, ZMQ_REQ);
  upload(&req, "/req", data, 1000000, 300000);
  connection_close(&req);
  call k = call_stat("/req");
  answer a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->info->digest, sdb_crc32c(0, data, 1000000));
  answer_free(&a);
}
END_TEST

START_TEST(a_wrong_offset_or_digest_costs_only_the_chunk) {
  uint64_t stream = open_upload(&con, "/o");
  call k = call_upload_chunk(stream, 5, data, 10);
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(INVALID));
  ck_assert_uint_eq(a.reply->offset, 0);
  answer_free(&a);
  k = call_upload_chunk(stream, 0, data, 10);
  k.op.upload_chunk.has_digest_case = DCF__DB__V1__UPLOAD_CHUNK__HAS_DIGEST_DIGEST;
  k.op.upload_chunk.digest = 1;
  ck_assert_int_eq(call_code(&con, &k), CODE(DIGEST_MISMATCH));
  k = call_upload_chunk(stream, 0, data, 10);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_upload_chunk(stream, 10, "", 0);
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_upload_commit(stream);
  k.op.upload_commit.has_digest_case = DCF__DB__V1__UPLOAD_COMMIT__HAS_DIGEST_DIGEST;
  k.op.upload_commit.digest = 1;
  ck_assert_int_eq(call_code(&con, &k), CODE(DIGEST_MISMATCH));
  k = call_upload_commit(stream);
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
  k = call_stat("/o");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
}
END_TEST

START_TEST(sizes_conditions_and_tokens_of_uploads) {
  uint8_t token[16] = {9};
  call k = call_upload_open("/u");
  k.op.upload_open.has_size_case = DCF__DB__V1__UPLOAD_OPEN__HAS_SIZE_SIZE;
  k.op.upload_open.size = 11;
  answer a = call_ask(&con, &k);
  uint64_t stream = a.reply->stream;
  answer_free(&a);
  k = call_upload_chunk(stream, 0, data, 10);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_upload_commit(stream);
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));

  for (int round = 0; round < 2; round++) {
    k = call_upload_open("/u");
    k.op.upload_open.token = call_bytes(token, 16);
    k.op.upload_open.has_expect_version_case = DCF__DB__V1__UPLOAD_OPEN__HAS_EXPECT_VERSION_EXPECT_VERSION;
    a = call_ask(&con, &k);
    stream = a.reply->stream;
    answer_free(&a);
    k = call_upload_chunk(stream, 0, data, 100000);
    ck_assert_int_eq(call_code(&con, &k), CODE(OK));
    k = call_upload_commit(stream);
    a = call_ask(&con, &k);
    ck_assert_msg(a.reply->code == CODE(OK), "%s", a.reply->message);
    ck_assert(a.reply->repeated == (round == 1) && a.reply->created == (round == 0));
    ck_assert_uint_eq(a.reply->info->version, 1);
    answer_free(&a);
  }
  k = call_upload_open("/u");
  k.op.upload_open.has_size_case = DCF__DB__V1__UPLOAD_OPEN__HAS_SIZE_SIZE;
  k.op.upload_open.size = 268435457;
  ck_assert_int_eq(call_code(&con, &k), CODE(TOO_LARGE));
  k.op.upload_open.size = UINT64_MAX;
  ck_assert_int_eq(call_code(&con, &k), CODE(TOO_LARGE));
}
END_TEST

START_TEST(abort_and_bounds_of_uploads) {
  uint64_t streams[16];
  for (int i = 0; i < 16; i++) streams[i] = open_upload(&con, "/x");
  call k = call_upload_open("/x");
  ck_assert_int_eq(call_code(&con, &k), CODE(BUSY));
  for (int i = 0; i < 16; i++) {
    k = call_upload_chunk(streams[i], 0, data, 1000);
    call_send(&con, &k);
    k = call_upload_abort(streams[i]);
    uint64_t id = call_send(&con, &k);
    answer a;
    for (bool answered = false; !answered;) {
      ck_assert(answer_receive(&con, &a, PATIENCE_MS));
      answered = a.reply->id == id;
      if (answered) ck_assert_int_eq(a.reply->code, CODE(OK));
      answer_free(&a);
    }
  }
  k = call_upload_abort(streams[0]);
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
  expect_statistic(&con, "service_uploads", 0);
  k = call_stat("/x");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
}
END_TEST

START_TEST(an_idle_upload_ends_by_its_lease) {
  uint64_t stream = open_upload(&con, "/x");
  call k = call_upload_chunk(stream, 0, data, 1000);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  usleep(500000);
  k = call_upload_commit(stream);
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
  expect_statistic(&con, "service_leases_ended", 1);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("streams");
  TCase *tc = tcase_create("streams");
  tcase_set_timeout(tc, 60);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_loop_test(tc, a_stream_under_credit, 0, 2);
  tcase_add_test(tc, plenty_of_credit_and_default_chunks);
  tcase_add_test(tc, resuming_at_an_offset_and_a_part);
  tcase_add_test(tc, ends_of_documents);
  tcase_add_test(tc, the_version_is_pinned);
  tcase_add_test(tc, closing_early);
  tcase_add_test(tc, sixteen_streams_and_no_more);
  tcase_add_test(tc, several_streams_at_once);
  tcase_add_test(tc, chunks_in_flight);
  tcase_add_test(tc, an_upload_through_req);
  tcase_add_test(tc, a_wrong_offset_or_digest_costs_only_the_chunk);
  tcase_add_test(tc, sizes_conditions_and_tokens_of_uploads);
  tcase_add_test(tc, abort_and_bounds_of_uploads);
  suite_add_tcase(suite, tc);
  TCase *leases = tcase_create("leases");
  tcase_set_timeout(leases, 60);
  tcase_add_checked_fixture(leases, setup_short_lease, teardown);
  tcase_add_test(leases, an_idle_stream_ends_by_its_lease);
  tcase_add_test(leases, an_idle_upload_ends_by_its_lease);
  tcase_add_test(leases, a_client_that_vanishes_leaves_nothing);
  suite_add_tcase(suite, leases);
  return harness_run(suite);
}
