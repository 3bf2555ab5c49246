/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_parts.c - the parts of the service that sockets show too late or too seldom: the table of clients, the count of bytes, ids
 * of broken headers, endpoints, command lines. */
#include <getopt.h>

#include "bounds.h"
#include "client.h"
#include "endpoint.h"
#include "harness.h"
#include "message.h"
#include "options.h"

/* --- Clients ------------------------------------------------------------------------------------------------------------------ */

START_TEST(clients_are_found_and_forgotten) {
  static client *known[MAX_CLIENTS];
  _Atomic uint64_t total = 0;
  client_table t;
  ck_assert(client_table_init(&t, &total));
  for (uint32_t i = 0; i < MAX_CLIENTS; i++) {
    known[i] = client_get(&t, &i, sizeof i);
    ck_assert_ptr_nonnull(known[i]);
  }
  uint32_t one_more = MAX_CLIENTS;
  ck_assert_msg(client_get(&t, &one_more, sizeof one_more) == NULL, "the table is bounded");
  for (uint32_t i = 0; i < MAX_CLIENTS; i++) ck_assert_ptr_eq(client_get(&t, &i, sizeof i), known[i]);
  ck_assert(client_idle(known[7]));
  known[7]->tasks = 1;
  ck_assert(!client_idle(known[7]));
  for (uint32_t i = 0; i < MAX_CLIENTS; i += 2) client_forget(&t, known[i]);
  ck_assert_uint_eq(t.count, MAX_CLIENTS / 2);
  for (uint32_t i = 1; i < MAX_CLIENTS; i += 2) ck_assert_ptr_eq(client_get(&t, &i, sizeof i), known[i]);
  client *again = client_get(&t, &one_more, sizeof one_more);
  ck_assert(again && again->tasks == 0 && again->flow->bytes == 0);
  client_table_free(&t);
}
END_TEST

START_TEST(ids_of_all_lengths) {
  _Atomic uint64_t total = 0;
  client_table t;
  uint8_t id[256] = {0};
  ck_assert(client_table_init(&t, &total));
  for (size_t len = 1; len <= 255; len++) ck_assert_uint_eq(client_get(&t, id, len)->id_len, len);
  ck_assert_uint_eq(t.count, 255);
  ck_assert_ptr_null(client_get(&t, id, 256));
  client_table_free(&t);
}
END_TEST

/* --- Bytes -------------------------------------------------------------------------------------------------------------------- */

START_TEST(bytes_come_back_when_messages_are_closed) {
  _Atomic uint64_t total = 0;
  flow *f = flow_new(&total);
  ck_assert(flow_reserve(f, CLIENT_BYTES_OUT));
  ck_assert_msg(!flow_reserve(f, 1), "a client's bytes are bounded");
  flow_release(f, CLIENT_BYTES_OUT - 100000);
  block *b = block_new(f, 100000);
  ck_assert_ptr_nonnull(b);
  zmq_msg_t m;
  ck_assert(block_to_message(b, 50000, &m));
  ck_assert_uint_eq(total, 100000);
  flow_unref(f); /* the message still holds it */
  zmq_msg_close(&m);
  ck_assert_uint_eq(total, 0);

  flow *many[5];
  for (int i = 0; i < 5; i++) {
    many[i] = flow_new(&total);
    ck_assert(flow_reserve(many[i], CLIENT_BYTES_OUT) == (i < 4));
  }
  for (int i = 0; i < 5; i++) {
    if (i < 4) flow_release(many[i], CLIENT_BYTES_OUT);
    flow_unref(many[i]);
  }
  ck_assert_uint_eq(total, 0);
}
END_TEST

/* --- Headers ------------------------------------------------------------------------------------------------------------------ */

START_TEST(ids_of_broken_headers) {
  const struct {
    uint8_t bytes[12];
    size_t len;
    uint64_t id;
  } cases[] = {
      {{0}, 0, 0},
      {{0x08}, 1, 0},
      {{0x08, 0x00}, 2, 0},
      {{0x08, 0x01}, 2, 1},
      {{0x08, 0x80, 0x01, 0xFF}, 4, 128},
      {{0x08, 0xFF, 0xFF}, 3, 0},
      {{0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 11, UINT64_MAX},
      {{0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 12, 0},
      {{0x10, 0x01}, 2, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    ck_assert_uint_eq(request_salvage_id(cases[i].bytes, cases[i].len), cases[i].id);
  }
}
END_TEST

START_TEST(unpacking_stays_in_its_arena) {
  static arena a;
  uint64_t state = test_seed();
  uint8_t bytes[MAX_HEADER + 1];
  for (int i = 0; i < 20000; i++) {
    size_t len = test_random(&state) % (i % 10 ? 40 : sizeof bytes);
    fill(bytes, len, test_random(&state));
    const pb_request *r = request_unpack(&a, bytes, len);
    ck_assert_uint_le(a.used, ARENA_BYTES);
    ck_assert(!r || len <= MAX_HEADER);
  }
}
END_TEST

START_TEST(every_code_has_a_status) {
  const int expected[] = {0, -1, -1, -4, -2, -3, -3, -3, -3, -4, -4, -4, -4, -1, -3, -3, -3};
  for (int code = CODE(OK); code <= CODE(UNSUPPORTED); code++) ck_assert_int_eq(status_of((pb_code)code), expected[code]);
  ck_assert_int_eq(status_of((pb_code)99), -4);
}
END_TEST

/* --- Endpoints and options ---------------------------------------------------------------------------------------------------- */

START_TEST(only_this_machine) {
  static const char *const good[] = {"tcp://127.0.0.1:7600", "tcp://127.255.0.9:1", "tcp://127.0.0.1:*",
                                     "tcp://localhost:0",    "tcp://[::1]:7600",    "ipc:///run/streamdb"};
  static const char *const bad[] = {"",
                                    "tcp://",
                                    "tcp://:1",
                                    "tcp://127.0.0.1",
                                    "tcp://127.0.0.1:",
                                    "tcp://0.0.0.0:1",
                                    "tcp://*:1",
                                    "tcp://128.0.0.1:1",
                                    "tcp://[::]:1",
                                    "tcp://127.0.0.1.example.org:1",
                                    "tcp://lo:1",
                                    "udp://127.0.0.1:1",
                                    "ipc://"};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) ck_assert_msg(!endpoint_refusal(good[i]), "%s", good[i]);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) ck_assert_msg(endpoint_refusal(bad[i]) != NULL, "%s", bad[i]);
}
END_TEST

START_TEST(sizes_with_units) {
  static const struct {
    const char *text;
    uint64_t value;
  } cases[] = {{"1048576", 1048576}, {"1024K", 1048576}, {"5M", 5242880}, {"2G", UINT64_C(2) << 30}, {"1T", UINT64_C(1) << 40}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char sentence[256], program[] = "streamdbd", name[] = "--max-db-size", database[] = "--database=x", value[32];
    snprintf(value, sizeof value, "%s", cases[i].text);
    char *argv[] = {program, database, name, value, NULL};
    options o;
    optind = 1;
    ck_assert_msg(options_parse(&o, 4, argv, sentence, sizeof sentence), "%s", sentence);
    ck_assert_uint_eq(o.engine.max_db_size, cases[i].value);
    ck_assert_str_eq(o.listen[0], DEFAULT_LISTEN);
    ck_assert_str_eq(o.events, DEFAULT_EVENTS);
  }
}
END_TEST

/* The words, one after the other; the options keep pointers to them. */
static bool parses(options *o, const char *const *words, char *sentence, size_t size) {
  static char texts[24][64];
  char *argv[25];
  int argc = 0;
  for (; words[argc]; argc++) {
    snprintf(texts[argc], sizeof texts[argc], "%s", words[argc]);
    argv[argc] = texts[argc];
  }
  argv[argc] = NULL;
  optind = 1;
  return options_parse(o, argc, argv, sentence, size);
}

START_TEST(options_are_what_was_said) {
  char sentence[256];
  options o;
  const char *all[] = {"streamdbd",
                       "--database=x",
                       "--key-file=k",
                       "--listen=ipc:///a",
                       "--listen=tcp://127.0.0.1:1",
                       "--events=ipc:///e",
                       "--durability=none",
                       "--buffered-interval-ms=7",
                       "--versions-to-keep=255",
                       "--page-cache-size=64",
                       "--max-document-size=1K",
                       "--no-mmap",
                       "--quick-mode",
                       "--no-create",
                       "--workers=64",
                       "--stream-lease-ms=10",
                       "--verbose",
                       NULL};
  ck_assert_msg(parses(&o, all, sentence, sizeof sentence), "%s", sentence);
  ck_assert_str_eq(o.database, "x");
  ck_assert_str_eq(o.key_file, "k");
  ck_assert_uint_eq(o.listen_count, 2);
  ck_assert_str_eq(o.listen[1], "tcp://127.0.0.1:1");
  ck_assert_str_eq(o.events, "ipc:///e");
  ck_assert(o.engine.durability == SDB_NONE && o.engine.buffered_interval_ms == 7 && o.engine.versions_to_keep == 255);
  ck_assert(o.engine.page_cache_size == 64 && o.engine.max_document_size == 1024);
  ck_assert(!o.engine.use_mmap && o.engine.quick_mode && !o.engine.create);
  ck_assert(o.workers == 64 && o.stream_lease_ms == 10 && o.log_level == LOG_DEBUG);
}
END_TEST

START_TEST(options_that_are_none) {
  static const struct {
    const char *words[3], *says;
  } cases[] = {{{"--nonsense"}, "--nonsense"},
               {{"--workers"}, "--workers"},
               {{"--quiet=yes"}, "--quiet"},
               {{"--database=x", "more"}, "\"more\" is too much"},
               {{NULL}, "--database FILE"},
               {{"--database="}, "--database FILE"},
               {{"--workers=0"}, "from 1 to 64"},
               {{"--workers=65"}, "from 1 to 64"},
               {{"--workers="}, "from 1 to 64"},
               {{"--workers=-1"}, "from 1 to 64"},
               {{"--workers=2K"}, "from 1 to 64"},
               {{"--workers=99999999999999999999"}, "from 1 to 64"},
               {{"--max-db-size=1X"}, "--max-db-size"},
               {{"--max-db-size=1MB"}, "--max-db-size"},
               {{"--max-db-size=18446744073709551615T"}, "--max-db-size"},
               {{"--durability=sure"}, "--durability"},
               {{"--listen=tcp://0.0.0.0:1"}, "tcp://0.0.0.0:1"},
               {{"--events=no"}, "the endpoint no"}};
  char sentence[256];
  options o;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const char *words[] = {"streamdbd", cases[i].words[0], cases[i].words[1], NULL};
    ck_assert(!parses(&o, words, sentence, sizeof sentence));
    ck_assert_msg(strstr(sentence, cases[i].says) != NULL, "case %zu: '%s'", i, sentence);
  }
  const char *many[20] = {"streamdbd"};
  for (int i = 1; i < 18; i++) many[i] = "--listen=ipc:///x";
  ck_assert(!parses(&o, many, sentence, sizeof sentence));
  ck_assert_ptr_nonnull(strstr(sentence, "at most 16 times"));
  ck_assert(parses(&o, (const char *[]){"streamdbd", "--help", "--nonsense", NULL}, sentence, sizeof sentence) && o.help);
  ck_assert(parses(&o, (const char *[]){"streamdbd", "--version", NULL}, sentence, sizeof sentence) && o.version);
}
END_TEST

START_TEST(every_code_of_the_store_has_one_of_the_protocol) {
  ck_assert_int_eq(code_of(SDB_OK), CODE(OK));
  ck_assert_int_eq(code_of(SDB_TRIMMED), CODE(RESET));
  ck_assert_int_eq(code_of(SDB_RESET), CODE(RESET));
  ck_assert_int_eq(code_of(12345), CODE(INTERNAL));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("parts");
  TCase *tc = tcase_create("parts");
  tcase_set_timeout(tc, 60);
  tcase_add_test(tc, clients_are_found_and_forgotten);
  tcase_add_test(tc, ids_of_all_lengths);
  tcase_add_test(tc, bytes_come_back_when_messages_are_closed);
  tcase_add_test(tc, ids_of_broken_headers);
  tcase_add_test(tc, unpacking_stays_in_its_arena);
  tcase_add_test(tc, every_code_has_a_status);
  tcase_add_test(tc, only_this_machine);
  tcase_add_test(tc, sizes_with_units);
  tcase_add_test(tc, options_are_what_was_said);
  tcase_add_test(tc, options_that_are_none);
  tcase_add_test(tc, every_code_of_the_store_has_one_of_the_protocol);
  suite_add_tcase(suite, tc);
  return harness_run(suite);
}
