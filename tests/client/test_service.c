/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_service.c - the client with the real service: every call, the examples, and a service that is killed. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "sdbc/sdbc.h"

static server service;
static sdbc *client;
static char endpoint[256];

static void begin(void) {
  server_start(&service, NULL);
  snprintf(endpoint, sizeof endpoint, "%s", service.listen);
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.events = service.events;
  options.backoff_ms = 20;
  ck_assert_int_eq(sdbc_connect(service.listen, &options, &client), SDBC_OK);
}

static void end(void) {
  sdbc_close(client);
  server_remove(&service);
}

#define OK(call) ck_assert_msg((call) == SDBC_OK, #call ": %s", sdbc_message(client))

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

static const size_t sizes[] = {0, 1, 100, 4000, 8192, 65535, 65536, 65537, 1048575, 1048576, 1048577, 5000000};

START_TEST(what_is_stored_comes_back) {
  size_t size = sizes[_i];
  uint8_t *content = malloc(size + 1), *buf = malloc(size + 1);
  fill(content, size, 3);
  sdbc_commit commit;
  OK(sdbc_insert(client, "/doc", 4, content, size, NULL, &commit));
  ck_assert_uint_eq(commit.info.version, 1);
  ck_assert_uint_eq(commit.info.size, size);
  ck_assert_uint_eq(commit.info.digest, sdbc_crc32c(0, content, size));
  ck_assert_int_eq(commit.reached, SDBC_DURABLE);
  ck_assert(commit.created && !commit.repeated && !commit.unknown);

  size_t got = 0;
  sdbc_info info;
  OK(sdbc_get(client, "/doc", 4, SDBC_CURRENT, buf, size, &got, &info));
  ck_assert_uint_eq(got, size);
  ck_assert_int_eq(memcmp(buf, content, size), 0);
  ck_assert_mem_eq(info.id, commit.info.id, 16);
  void *data;
  OK(sdbc_get_alloc(client, "/doc", 4, 1, &data, &got, &info));
  ck_assert_ptr_nonnull(data);
  ck_assert_int_eq(memcmp(data, content, size), 0);
  sdbc_free(data);
  if (size > 0) {
    got = 0;
    ck_assert_int_eq(sdbc_get(client, "/doc", 4, 0, buf, size - 1, &got, NULL), SDBC_SMALL_BUFFER);
    ck_assert_uint_eq(got, size);
  }
  OK(sdbc_stat(client, "/doc", 4, 0, &info));
  ck_assert_uint_eq(info.size, size);
  free(content);
  free(buf);
}
END_TEST

START_TEST(parts) {
  size_t size = 3000000;
  uint8_t *content = malloc(size), *buf = malloc(size);
  fill(content, size, 4);
  OK(sdbc_insert(client, "/doc", 4, content, size, NULL, NULL));
  const struct {
    uint64_t offset;
    size_t len, expect;
  } cases[] = {{0, 10, 10},
               {2999990, 100, 10},
               {3000000, 10, 0},
               {4000000, 10, 0},
               {100, 1048576, 1048576},
               {100, 2000000, 2000000},
               {1500000, 2000000, 1500000},
               {5000000, 2000000, 0},
               {7, 0, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t got = 99;
    sdbc_info info;
    OK(sdbc_get_range(client, "/doc", 4, 0, cases[i].offset, buf, cases[i].len, &got, &info));
    ck_assert_uint_eq(got, cases[i].expect);
    ck_assert_uint_eq(info.size, size);
    if (got > 0) ck_assert_int_eq(memcmp(buf, content + cases[i].offset, got), 0);
  }
  free(content);
  free(buf);
}
END_TEST

START_TEST(versions_and_conditions) {
  sdbc_commit commit;
  sdbc_put_options options;
  sdbc_put_options_init(&options, sizeof options);
  options.expect = SDBC_ABSENT;
  OK(sdbc_insert(client, "/v", 2, "one", 3, &options, &commit));
  ck_assert_int_eq(sdbc_insert(client, "/v", 2, "two", 3, &options, NULL), SDBC_CONDITION);
  options.expect = 1;
  options.durability = SDBC_BUFFERED;
  options.epoch = commit.epoch;
  OK(sdbc_insert(client, "/v", 2, "two", 3, &options, &commit));
  ck_assert_uint_eq(commit.info.version, 2);
  ck_assert(!commit.created);
  options.epoch ^= 1;
  ck_assert_int_eq(sdbc_insert(client, "/v", 2, "three", 5, &options, NULL), SDBC_RESET);

  sdbc_info infos[4];
  size_t count;
  OK(sdbc_versions(client, "/v", 2, infos, 4, &count));
  ck_assert_uint_eq(count, 2);
  ck_assert_uint_eq(infos[0].version, 2);
  ck_assert_uint_eq(infos[1].version, 1);
  char buf[8];
  OK(sdbc_get(client, "/v", 2, 1, buf, sizeof buf, &count, NULL));
  ck_assert_mem_eq(buf, "one", 3);
  ck_assert_int_eq(sdbc_get(client, "/v", 2, 7, buf, sizeof buf, &count, NULL), SDBC_NOT_FOUND);

  options = (sdbc_put_options){.size = sizeof options, .expect = 1};
  ck_assert_int_eq(sdbc_delete(client, "/v", 2, &options, NULL), SDBC_CONDITION);
  OK(sdbc_delete(client, "/v", 2, NULL, &commit));
  ck_assert_uint_eq(commit.info.version, 2);
  ck_assert_int_eq(sdbc_delete(client, "/v", 2, NULL, NULL), SDBC_NOT_FOUND);
  ck_assert_int_eq(sdbc_stat(client, "/v", 2, 0, NULL), SDBC_NOT_FOUND);
  ck_assert_int_eq(sdbc_versions(client, "/v", 2, infos, 4, &count), SDBC_NOT_FOUND);
}
END_TEST

START_TEST(a_token_makes_a_repeated_insert_harmless) {
  const uint8_t token[16] = "a write of mine";
  sdbc_put_options options;
  sdbc_put_options_init(&options, sizeof options);
  options.token = token;
  sdbc_commit commit;
  OK(sdbc_insert(client, "/t", 2, "x", 1, &options, &commit));
  OK(sdbc_insert(client, "/t", 2, "x", 1, &options, &commit));
  ck_assert(commit.repeated);
  ck_assert_uint_eq(commit.info.version, 1);
}
END_TEST

START_TEST(paths_are_any_bytes) {
  uint8_t path[1024];
  for (size_t i = 0; i < sizeof path; i++) path[i] = (uint8_t)(i * 7);
  for (size_t len = 1; len <= sizeof path; len += 341) {
    path[0] = (uint8_t)len;
    OK(sdbc_insert(client, path, len, path, len, NULL, NULL));
    uint8_t buf[1024];
    size_t got;
    OK(sdbc_get(client, path, len, 0, buf, sizeof buf, &got, NULL));
    ck_assert_uint_eq(got, len);
    ck_assert_mem_eq(buf, path, len);
  }
}
END_TEST

/* --- The service as a whole --------------------------------------------------------------------------------------------------- */

static void find_documents(void *user, const char *name, uint64_t value) {
  if (strcmp(name, "engine_documents") == 0) *(uint64_t *)user = value;
}

START_TEST(care) {
  sdbc_pong pong;
  OK(sdbc_insert(client, "/one", 4, "1", 1, NULL, NULL));
  OK(sdbc_ping(client, &pong));
  ck_assert_ptr_nonnull(strstr(pong.server, "streamdbd"));
  uint64_t sequence, epoch, documents = 0;
  sdbc_position(client, &sequence, &epoch);
  ck_assert_uint_eq(sequence, pong.sequence);
  ck_assert_uint_eq(epoch, pong.epoch);
  OK(sdbc_flush(client));
  OK(sdbc_statistics(client, find_documents, &documents));
  ck_assert_uint_eq(documents, 1);
}
END_TEST

START_TEST(searching) {
  static const char content[250];
  char path[32];
  for (int i = 0; i < 250; i++) {
    int len = snprintf(path, sizeof path, "/s/%03d", i);
    sdbc_put_options options;
    sdbc_put_options_init(&options, sizeof options);
    options.durability = SDBC_NONE;
    OK(sdbc_insert(client, path, (size_t)len, content, (size_t)i, &options, NULL));
  }
  OK(sdbc_insert(client, "/t", 2, NULL, 0, NULL, NULL));
  sdbc_cursor *cursor;
  OK(sdbc_cursor_open(client, "/s/", 3, "/s/009", 6, 100, true, &cursor));
  sdbc_entry entry;
  int code, i = 10;
  for (; (code = sdbc_cursor_next(cursor, &entry)) == SDBC_OK; i++) {
    snprintf(path, sizeof path, "/s/%03d", i);
    ck_assert_uint_eq(entry.path_len, 6);
    ck_assert_mem_eq(entry.path, path, 6);
    ck_assert_uint_eq(entry.info.size, (size_t)i);
  }
  ck_assert_int_eq(code, SDBC_END);
  ck_assert_int_eq(sdbc_cursor_next(cursor, &entry), SDBC_END);
  ck_assert_int_eq(i, 250);
  sdbc_cursor_close(cursor);
  sdbc_page *page;
  OK(sdbc_search(client, NULL, 0, NULL, 0, 7, false, &page));
  ck_assert_uint_eq(sdbc_page_count(page), 7);
  ck_assert(!sdbc_page_last(page));
  sdbc_page_free(page);
  OK(sdbc_search(client, "/nothing", 8, NULL, 0, 0, false, &page));
  ck_assert_uint_eq(sdbc_page_count(page), 0);
  ck_assert(sdbc_page_last(page));
  sdbc_page_free(page);
}
END_TEST

START_TEST(watching) {
  sdbc_watch *watch;
  sdbc_event event;
  OK(sdbc_watch_open(client, "/w/", 3, false, &watch));
  int code = SDBC_AGAIN;
  for (int i = 0; i < 200 && code == SDBC_AGAIN; i++) {
    OK(sdbc_insert(client, "/w/a", 4, "x", 1, NULL, NULL));
    code = sdbc_watch_next(watch, 50, &event);
  }
  ck_assert_int_eq(code, SDBC_OK);
  OK(sdbc_insert(client, "/other", 6, "x", 1, NULL, NULL));
  OK(sdbc_delete(client, "/w/a", 4, NULL, NULL));
  while ((code = sdbc_watch_next(watch, 5000, &event)) == SDBC_OK && event.kind == SDBC_EVENT_PUT) {}
  ck_assert_int_eq(code, SDBC_OK);
  ck_assert_mem_eq(event.path, "/w/a", 4);
  const uint8_t token[16] = "known by me";
  sdbc_put_options options;
  sdbc_put_options_init(&options, sizeof options);
  options.token = token;
  OK(sdbc_insert(client, "/w/b", 4, "x", 1, &options, NULL));
  ck_assert_int_eq(sdbc_watch_next(watch, 5000, &event), SDBC_OK);
  ck_assert(event.has_token);
  ck_assert_mem_eq(event.token, token, 16);
  sdbc_watch_close(watch);
}
END_TEST

/* --- Many at once ------------------------------------------------------------------------------------------------------------- */

#define MANY 3000u

static unsigned finished;

static void check_done(void *user, const sdbc_done *done) {
  size_t *size = user;
  ck_assert_msg(done->code == SDBC_OK, "%s", done->message);
  if (done->commit) ck_assert_uint_eq(done->commit->info.version, 1);
  if (done->info) {
    ck_assert_uint_eq(done->size, *size);
    ck_assert_uint_eq(done->info->digest, sdbc_crc32c(0, done->data, done->size));
  }
  finished++;
}

START_TEST(many_in_flight) {
  static size_t expected[MANY];
  static uint8_t content[20000];
  fill(content, sizeof content, 9);
  for (unsigned pass = 0; pass < 2; pass++) {
    finished = 0;
    for (unsigned i = 0; i < MANY;) {
      char path[32];
      size_t len = (size_t)snprintf(path, sizeof path, "/m/%u", i);
      expected[i] = i * 7 % sizeof content;
      int code = pass == 0 ? sdbc_submit_insert(client, path, len, content, expected[i], NULL, check_done, &expected[i], NULL)
                           : sdbc_submit_get(client, path, len, 0, check_done, &expected[i], NULL);
      if (code == SDBC_AGAIN) {
        OK(sdbc_poll(client, 10000, NULL));
      } else {
        ck_assert_int_eq(code, SDBC_OK);
        i++;
      }
    }
    while (sdbc_in_flight(client) > 0) OK(sdbc_poll(client, 10000, NULL));
    ck_assert_uint_eq(finished, MANY);
  }
}
END_TEST

/* --- A service that is killed ------------------------------------------------------------------------------------------------- */

/* With the client's endpoint beside a new one. */
static void restart_at_the_same_place(void) {
  server_signal(&service, SIGKILL);
  server_restart(&service, (const char *[]){"--listen", endpoint, NULL});
}

START_TEST(reading_goes_on_after_a_kill) {
  size_t size = 20000000, at = 0, got = 1;
  uint8_t *content = malloc(size), *buf = malloc(size);
  fill(content, size, 5);
  OK(sdbc_insert(client, "/big", 4, content, size, NULL, NULL));
  sdbc_reader *reader;
  OK(sdbc_reader_open(client, "/big", 4, 0, 0, 0, &reader));
  while (at < size && got > 0) {
    OK(sdbc_reader_read(reader, buf + at, 1000000 < size - at ? 1000000 : size - at, &got));
    bool halfway = at < size / 2 && at + got >= size / 2;
    at += got;
    if (halfway) restart_at_the_same_place();
  }
  ck_assert_uint_eq(at, size);
  ck_assert_int_eq(memcmp(buf, content, size), 0);
  OK(sdbc_reader_read(reader, buf, 1, &got));
  ck_assert_uint_eq(got, 0);
  sdbc_reader_close(reader);
  free(content);
  free(buf);
}
END_TEST

START_TEST(writing_goes_on_after_a_kill) {
  for (uint32_t i = 1; i <= 10; i++) {
    sdbc_commit commit;
    OK(sdbc_insert(client, "/k", 2, &i, sizeof i, NULL, &commit));
    ck_assert_uint_eq(commit.info.version, i);
    if (i % 5 == 0) restart_at_the_same_place();
  }
  sdbc_info info;
  OK(sdbc_stat(client, "/k", 2, 0, &info));
  ck_assert_uint_eq(info.version, 10);
}
END_TEST

/* --- The examples ------------------------------------------------------------------------------------------------------------- */

static void run(const char *command) {
  int status = system(command);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s", command);
}

START_TEST(the_examples_run) {
  char command[2048];
  snprintf(command, sizeof command, EXAMPLE_BASIC " %s", service.listen);
  run(command);
  snprintf(command, sizeof command, EXAMPLE_PIPELINE " 500 %s", service.listen);
  run(command);
  snprintf(command, sizeof command,
           "cd %s && head -c 3000000 /dev/urandom >up && " EXAMPLE_STREAM " up up /file %s && " EXAMPLE_STREAM
           " down /file down %s && cmp up down",
           service.directory, service.listen, service.listen);
  run(command);
  snprintf(command, sizeof command, EXAMPLE_WATCH " /example/ 1 %s %s", service.listen, service.events);
  FILE *watch = popen(command, "r");
  char line[256];
  ck_assert_ptr_nonnull(fgets(line, sizeof line, watch));
  ck_assert_str_eq(line, "watching\n");
  for (int i = 0; i < 20; i++) {
    OK(sdbc_insert(client, "/example/x", 10, "x", 1, NULL, NULL));
    usleep(10000);
  }
  ck_assert_ptr_nonnull(fgets(line, sizeof line, watch));
  ck_assert_ptr_nonnull(strstr(line, "/example/x"));
  ck_assert_int_eq(pclose(watch), 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("client");
  TCase *documents = tcase_create("documents");
  tcase_set_timeout(documents, 60);
  tcase_add_checked_fixture(documents, begin, end);
  tcase_add_loop_test(documents, what_is_stored_comes_back, 0, sizeof sizes / sizeof *sizes);
  tcase_add_test(documents, parts);
  tcase_add_test(documents, versions_and_conditions);
  tcase_add_test(documents, a_token_makes_a_repeated_insert_harmless);
  tcase_add_test(documents, paths_are_any_bytes);
  tcase_add_test(documents, care);
  tcase_add_test(documents, searching);
  tcase_add_test(documents, watching);
  tcase_add_test(documents, many_in_flight);
  tcase_add_test(documents, reading_goes_on_after_a_kill);
  tcase_add_test(documents, writing_goes_on_after_a_kill);
  tcase_add_test(documents, the_examples_run);
  suite_add_tcase(suite, documents);
  return harness_run(suite);
}
