/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_operations.c - every operation, through DEALER, DEALER with an empty frame, and REQ. */
#include <signal.h>
#include <stdlib.h>

#include "harness.h"

static server srv;
static connection con;

/* The three ways to connect; each test runs with all. */
enum { PLAIN_DEALER, ENVELOPE_DEALER, REQ_SOCKET, WAYS };

static void setup(void) { server_start(&srv, NULL); }

static void teardown(void) {
  connection_close(&con);
  server_remove(&srv);
}

static void connect_by(int way) {
  connection_open(&con, &srv, way == REQ_SOCKET ? ZMQ_REQ : ZMQ_DEALER);
  con.envelope = way == ENVELOPE_DEALER;
}

static void check_content(const char *path, uint32_t version, const void *data, size_t len) {
  call k = call_get(path);
  k.op.get.version = version;
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert(a.has_body);
  ck_assert_uint_eq(zmq_msg_size(&a.body), len);
  ck_assert(len == 0 || memcmp(zmq_msg_data(&a.body), data, len) == 0);
  ck_assert_uint_eq(a.reply->info->size, len);
  ck_assert_uint_eq(a.reply->info->digest, sdb_crc32c(0, data, len));
  answer_free(&a);
}

static void put(const char *path, const void *data, size_t len) {
  call k = call_insert(path, data, len);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
}

START_TEST(ping_tells_name_and_epoch) {
  connect_by(_i);
  call k = call_ping();
  k.request.id = UINT64_C(0xFEDCBA9876543210);
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert_msg(strncmp(a.reply->server, "streamdbd ", 10) == 0, "server is %s", a.reply->server);
  ck_assert_uint_ne(a.reply->epoch, 0);
  answer_free(&a);
}
END_TEST

START_TEST(insert_get_stat_versions_delete) {
  connect_by(_i);
  call k = call_insert("/a/b", "hello", 5);
  k.op.insert.has_digest_case = DCF__DB__V1__INSERT__HAS_DIGEST_DIGEST;
  k.op.insert.digest = sdb_crc32c(0, "hello", 5);
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert(a.reply->created && !a.reply->repeated);
  ck_assert_uint_eq(a.reply->info->version, 1);
  ck_assert_uint_eq(a.reply->info->id.len, 16);
  ck_assert_int_eq(a.reply->reached, DCF__DB__V1__DURABILITY__DURABLE);
  uint64_t sequence = a.reply->sequence;
  ck_assert_uint_gt(sequence, 0);
  answer_free(&a);

  put("/a/b", "world!", 6);
  check_content("/a/b", 0, "world!", 6);
  check_content("/a/b", 1, "hello", 5);

  k = call_stat("/a/b");
  a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->info->version, 2);
  ck_assert_uint_eq(a.reply->info->oldest, 1);
  ck_assert_uint_eq(a.reply->info->size, 6);
  ck_assert_uint_gt(a.reply->sequence, sequence);
  ck_assert(!a.has_body);
  answer_free(&a);

  k = call_versions("/a/b");
  a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->n_entries, 2);
  ck_assert_uint_eq(a.reply->entries[0]->info->version, 2);
  ck_assert_uint_eq(a.reply->entries[1]->info->version, 1);
  answer_free(&a);

  k = call_delete("/a/b");
  a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert_uint_eq(a.reply->info->version, 2);
  answer_free(&a);
  k = call_delete("/a/b");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
  k = call_get("/a/b");
  a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(NOT_FOUND));
  ck_assert_int_eq(a.reply->status, -2);
  ck_assert(!a.has_body);
  answer_free(&a);
  k = call_stat("/a/b");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
  k = call_versions("/a/b");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
}
END_TEST

START_TEST(contents_of_all_sizes) {
  connect_by(_i);
  static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 300000, 1048576};
  uint8_t *data = malloc(1048576);
  fill(data, 1048576, 7);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    char path[32];
    snprintf(path, sizeof path, "/size/%zu", sizes[i]);
    put(path, data, sizes[i]);
    check_content(path, 0, data, sizes[i]);
  }
  free(data);
}
END_TEST

START_TEST(an_insert_without_body_is_empty) {
  connect_by(_i);
  call k = call_insert("/empty", NULL, 0);
  k.body = NULL;
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  check_content("/empty", 0, "", 0);
}
END_TEST

static void check_part(const uint8_t *data, size_t size, uint64_t offset, uint64_t length, size_t expect) {
  call k = call_get("/part");
  k.op.get.offset = offset;
  k.op.get.length = length;
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert_uint_eq(zmq_msg_size(&a.body), expect);
  ck_assert(expect == 0 || memcmp(zmq_msg_data(&a.body), data + offset, expect) == 0);
  ck_assert_uint_eq(a.reply->info->size, size);
  answer_free(&a);
}

START_TEST(parts_of_a_document) {
  connect_by(_i);
  const size_t size = 900000;
  uint8_t *data = malloc(size);
  fill(data, size, 8);
  put("/part", data, size);
  check_part(data, size, 0, 1, 1);
  check_part(data, size, 10, 65536, 65536);
  check_part(data, size, 10, 65537, 65537);
  check_part(data, size, 70000, 0, size - 70000);
  check_part(data, size, size - 5, 100, 5);
  check_part(data, size, size, 0, 0);
  check_part(data, size, size + 1000000, 10, 0);
  check_part(data, size, 1, UINT64_MAX, size - 1);
  free(data);
}
END_TEST

START_TEST(conditions_and_tokens) {
  connect_by(_i);
  uint8_t token[16] = {1, 2, 3};
  call k = call_insert("/c", "one", 3);
  k.op.insert.has_expect_version_case = DCF__DB__V1__INSERT__HAS_EXPECT_VERSION_EXPECT_VERSION;
  k.op.insert.expect_version = 0;
  k.op.insert.token = call_bytes(token, 16);
  answer a = call_ask(&con, &k);
  ck_assert(a.reply->code == CODE(OK) && a.reply->created);
  answer_free(&a);

  k.request.id = 0;
  a = call_ask(&con, &k);
  ck_assert_msg(a.reply->code == CODE(OK) && a.reply->repeated && !a.reply->created, "a retry is harmless");
  ck_assert_uint_eq(a.reply->info->version, 1);
  answer_free(&a);

  k.request.id = 0;
  k.op.insert.token = call_bytes(NULL, 0);
  a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(CONDITION_FAILED));
  ck_assert_int_eq(a.reply->status, -3);
  answer_free(&a);

  k.request.id = 0;
  k.op.insert.expect_version = 1;
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));

  call d = call_delete("/c");
  d.op.delete.has_expect_version_case = DCF__DB__V1__DELETE__HAS_EXPECT_VERSION_EXPECT_VERSION;
  d.op.delete.expect_version = 1;
  ck_assert_int_eq(call_code(&con, &d), CODE(CONDITION_FAILED));
  d.request.id = 0;
  d.op.delete.expect_version = 2;
  ck_assert_int_eq(call_code(&con, &d), CODE(OK));
}
END_TEST

START_TEST(durability_levels_and_flush) {
  connect_by(_i);
  for (int level = DCF__DB__V1__DURABILITY__DEFAULT; level <= DCF__DB__V1__DURABILITY__NONE; level++) {
    call k = call_insert("/level", "x", 1);
    k.op.insert.durability = (PB(Durability))level;
    answer a = call_ask(&con, &k);
    ck_assert_int_eq(a.reply->code, CODE(OK));
    if (level <= DCF__DB__V1__DURABILITY__DURABLE) ck_assert_int_eq(a.reply->reached, DCF__DB__V1__DURABILITY__DURABLE);
    ck_assert_int_ne(a.reply->reached, DCF__DB__V1__DURABILITY__DEFAULT);
    answer_free(&a);
    check_content("/level", 0, "x", 1);
  }
  call k = call_flush();
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
}
END_TEST

START_TEST(search_by_prefix_in_pages) {
  connect_by(_i);
  for (int i = 0; i < 25; i++) {
    char path[32];
    snprintf(path, sizeof path, "/s/%02d", i);
    put(path, path, strlen(path));
  }
  put("/r", "", 0);
  put("/t", "", 0);
  char after[32] = "";
  int seen = 0;
  bool last = false;
  while (!last) {
    call k = call_search("/s/");
    k.op.search.limit = 10;
    k.op.search.infos = true;
    k.op.search.after = call_bytes(after, strlen(after));
    answer a = call_ask(&con, &k);
    ck_assert_int_eq(a.reply->code, CODE(OK));
    for (size_t i = 0; i < a.reply->n_entries; i++) {
      char expect[32];
      snprintf(expect, sizeof expect, "/s/%02d", seen++);
      ck_assert_uint_eq(a.reply->entries[i]->path.len, strlen(expect));
      ck_assert_mem_eq(a.reply->entries[i]->path.data, expect, strlen(expect));
      ck_assert_uint_eq(a.reply->entries[i]->info->size, strlen(expect));
      snprintf(after, sizeof after, "%s", expect);
    }
    last = a.reply->last;
    ck_assert(last == (seen == 25));
    answer_free(&a);
  }
  call k = call_search("/nothing");
  answer a = call_ask(&con, &k);
  ck_assert(a.reply->code == CODE(OK) && a.reply->n_entries == 0 && a.reply->last);
  answer_free(&a);
  k = call_search("");
  a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->n_entries, 27);
  ck_assert_ptr_null(a.reply->entries[0]->info);
  answer_free(&a);
}
END_TEST

START_TEST(a_page_is_cut_at_its_bytes) {
  connect_by(PLAIN_DEALER);
  char path[1025];
  memset(path, 'p', sizeof path - 1);
  path[1024] = '\0';
  for (int i = 0; i < 1200; i++) {
    char number[16];
    snprintf(number, sizeof number, "%04d", i);
    memcpy(path, number, 4);
    call k = call_insert(path, "", 0);
    k.op.insert.durability = DCF__DB__V1__DURABILITY__NONE;
    ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  }
  call k = call_search("");
  k.op.search.limit = 10000;
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert(!a.reply->last && a.reply->n_entries > 500 && a.reply->n_entries < 1200);
  size_t first = a.reply->n_entries;
  char after[1024];
  memcpy(after, a.reply->entries[first - 1]->path.data, sizeof after);
  answer_free(&a);
  k.request.id = 0;
  k.op.search.after = call_bytes(after, sizeof after);
  a = call_ask(&con, &k);
  ck_assert(a.reply->last);
  ck_assert_uint_eq(first + a.reply->n_entries, 1200);
  answer_free(&a);
}
END_TEST

START_TEST(statistics_count) {
  connect_by(_i);
  uint64_t before = statistic(&con, "service_writes");
  put("/st", "x", 1);
  ck_assert_uint_eq(statistic(&con, "service_writes"), before + 1);
  ck_assert_uint_eq(statistic(&con, "engine_documents"), 1);
  ck_assert_uint_ge(statistic(&con, "service_requests"), 4);
  ck_assert_uint_eq(statistic(&con, "service_in_flight_in"), 0);
}
END_TEST

/* docs/protocol.md promises a meaning for each. */
START_TEST(the_protocol_page_names_every_figure) {
  connect_by(PLAIN_DEALER);
  static char page[200000];
  FILE *f = fopen(PROTOCOL_PAGE, "r");
  ck_assert_ptr_nonnull(f);
  page[fread(page, 1, sizeof page - 1, f)] = '\0';
  fclose(f);
  call k = call_statistics();
  answer a = call_ask(&con, &k);
  ck_assert_uint_gt(a.reply->n_statistics, 40);
  for (size_t i = 0; i < a.reply->n_statistics; i++) {
    char cell[64];
    snprintf(cell, sizeof cell, "`%s`", a.reply->statistics[i]->key);
    ck_assert_msg(strstr(page, cell) != NULL, "docs/protocol.md does not name %s", cell);
  }
  answer_free(&a);
}
END_TEST

START_TEST(wrong_fields_are_named) {
  connect_by(_i);
  static uint8_t big[1048577];
  char path[1026];
  memset(path, 'x', sizeof path);
  path[1025] = '\0';
  call k = call_get(path);
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_get("");
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_insert("", "x", 1);
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_insert("/w", "x", 1);
  k.op.insert.token = call_bytes("short", 5);
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_insert("/w", "x", 1);
  k.op.insert.durability = (PB(Durability))9;
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_insert("/w", "x", 1);
  k.op.insert.has_expect_version_case = DCF__DB__V1__INSERT__HAS_EXPECT_VERSION_EXPECT_VERSION;
  k.op.insert.expect_version = UINT32_MAX;
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_insert("/w", "x", 1);
  k.op.insert.has_digest_case = DCF__DB__V1__INSERT__HAS_DIGEST_DIGEST;
  k.op.insert.digest = 12345;
  ck_assert_int_eq(call_code(&con, &k), CODE(DIGEST_MISMATCH));
  k = call_insert("/w", big, sizeof big);
  ck_assert_int_eq(call_code(&con, &k), CODE(TOO_LARGE));
  k = call_search("");
  k.op.search.limit = 10001;
  ck_assert_int_eq(call_code(&con, &k), CODE(INVALID));
  k = call_get("/w");
  k.body = "body";
  k.body_len = 4;
  ck_assert_int_eq(call_code(&con, &k), CODE(MALFORMED));
  k = call_get("/w");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
}
END_TEST

START_TEST(the_longest_path_and_any_bytes) {
  connect_by(_i);
  uint8_t path[1024];
  fill(path, sizeof path, 9);
  path[3] = '\0';
  call k = call_insert("", "deep", 4);
  k.op.insert.path = call_bytes(path, sizeof path);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_get("");
  k.op.get.path = call_bytes(path, sizeof path);
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  ck_assert_mem_eq(zmq_msg_data(&a.body), "deep", 4);
  answer_free(&a);
  k = call_search("");
  a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->n_entries, 1);
  ck_assert_mem_eq(a.reply->entries[0]->path.data, path, sizeof path);
  answer_free(&a);
}
END_TEST

START_TEST(another_epoch_is_reset) {
  connect_by(_i);
  call k = call_ping();
  answer a = call_ask(&con, &k);
  uint64_t epoch = a.reply->epoch;
  answer_free(&a);
  k.request.id = 0;
  k.request.epoch = epoch;
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k.request.id = 0;
  k.request.epoch = epoch + 1;
  ck_assert_int_eq(call_code(&con, &k), CODE(RESET));
}
END_TEST

START_TEST(many_requests_in_flight) {
  connect_by(PLAIN_DEALER);
  enum { N = 900 };
  for (int i = 0; i < N; i++) {
    char path[32];
    snprintf(path, sizeof path, "/m/%d", i);
    call k = call_insert(path, &i, sizeof i);
    k.request.id = (uint64_t)i + 1;
    call_send(&con, &k);
  }
  static bool answered[N + 1];
  for (int i = 0; i < N; i++) {
    answer a;
    ck_assert(answer_receive(&con, &a, PATIENCE_MS));
    ck_assert_int_eq(a.reply->code, CODE(OK));
    ck_assert(a.reply->id >= 1 && a.reply->id <= N && !answered[a.reply->id]);
    answered[a.reply->id] = true;
    answer_free(&a);
  }
  for (int i = 0; i < N; i++) {
    char path[32];
    snprintf(path, sizeof path, "/m/%d", i);
    check_content(path, 0, &i, sizeof i);
  }
  ck_assert_uint_lt(statistic(&con, "service_groups"), N);
}
END_TEST

START_TEST(all_versions_that_are_kept_are_told) {
  enum { KEPT = 255 };
  ck_assert_int_eq(server_signal(&srv, SIGTERM), 0);
  server_restart(&srv, (const char *[]){"--versions-to-keep", "255", "--no-mmap", NULL});
  connection_open(&con, &srv, ZMQ_DEALER);
  for (int i = 0; i < KEPT + 5; i++) {
    call k = call_insert("/many", "x", 1);
    k.op.insert.durability = DCF__DB__V1__DURABILITY__NONE;
    ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  }
  call k = call_versions("/many");
  answer a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->n_entries, KEPT);
  for (unsigned i = 0; i < KEPT; i++) ck_assert_uint_eq(a.reply->entries[i]->info->version, KEPT + 5 - i);
  answer_free(&a);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("operations");
  TCase *tc = tcase_create("each way");
  tcase_set_timeout(tc, 60);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_loop_test(tc, ping_tells_name_and_epoch, 0, WAYS);
  tcase_add_loop_test(tc, insert_get_stat_versions_delete, 0, WAYS);
  tcase_add_loop_test(tc, contents_of_all_sizes, 0, WAYS);
  tcase_add_loop_test(tc, an_insert_without_body_is_empty, 0, WAYS);
  tcase_add_loop_test(tc, parts_of_a_document, 0, WAYS);
  tcase_add_loop_test(tc, conditions_and_tokens, 0, WAYS);
  tcase_add_loop_test(tc, durability_levels_and_flush, 0, WAYS);
  tcase_add_loop_test(tc, search_by_prefix_in_pages, 0, WAYS);
  tcase_add_loop_test(tc, statistics_count, 0, WAYS);
  tcase_add_loop_test(tc, wrong_fields_are_named, 0, WAYS);
  tcase_add_loop_test(tc, the_longest_path_and_any_bytes, 0, WAYS);
  tcase_add_loop_test(tc, another_epoch_is_reset, 0, WAYS);
  tcase_add_test(tc, all_versions_that_are_kept_are_told);
  tcase_add_test(tc, a_page_is_cut_at_its_bytes);
  tcase_add_test(tc, many_requests_in_flight);
  tcase_add_test(tc, the_protocol_page_names_every_figure);
  suite_add_tcase(suite, tc);
  return harness_run(suite);
}
