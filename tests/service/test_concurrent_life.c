/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_life.c - starting, stopping and dying: what was acknowledged is there afterwards. */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

static server srv;
static connection con;

static void setup(void) {
  server_start(&srv, NULL);
  connection_open(&con, &srv, ZMQ_DEALER);
}

static void teardown(void) {
  connection_close(&con);
  server_remove(&srv);
}

/* --- Starting ----------------------------------------------------------------------------------------------------------------- */

/* One sentence, on one line. */
static void check_sentence(const char *err, const char *part) {
  ck_assert_msg(strstr(err, part) != NULL, "stderr does not say \"%s\": %s", part, err);
  ck_assert_msg(strchr(err, '\n') == err + strlen(err) - 1, "more than a line: %s", err);
}

START_TEST(a_second_instance_is_refused) {
  char err[2048];
  const char *args[] = {"--database", srv.database, "--listen", "tcp://127.0.0.1:*", "--events", "tcp://127.0.0.1:*", NULL};
  ck_assert_int_eq(run_program(args, err, sizeof err), 1);
  check_sentence(err, srv.database);
  call k = call_ping();
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
}
END_TEST

START_TEST(an_endpoint_in_use_is_refused) {
  char err[2048], other[128];
  snprintf(other, sizeof other, "%s/other.sdb", srv.directory);
  const char *args[] = {"--database", other, "--listen", srv.listen, "--events", "tcp://127.0.0.1:*", "--quiet", NULL};
  ck_assert_int_eq(run_program(args, err, sizeof err), 1);
  check_sentence(err, "in use");
  const char *events[] = {"--database", other, "--listen", "tcp://127.0.0.1:*", "--events", srv.events, "--quiet", NULL};
  ck_assert_int_eq(run_program(events, err, sizeof err), 1);
  check_sentence(err, "in use");
}
END_TEST

/* Not taken away from whoever has the name: neither from another service, nor from a file. */
START_TEST(a_socket_in_use_is_refused) {
  char err[2048], other[128], name[128], ipc[160], text[8] = "";
  snprintf(other, sizeof other, "%s/other.sdb", srv.directory);
  snprintf(name, sizeof name, "%s/socket", srv.directory);
  snprintf(ipc, sizeof ipc, "ipc://%s", name);
  const char *args[] = {"--database", other, "--listen", ipc, "--events", "tcp://127.0.0.1:*", "--quiet", NULL};
  FILE *f = fopen(name, "w");
  ck_assert_ptr_nonnull(f);
  fputs("mine", f);
  fclose(f);
  ck_assert_int_eq(run_program(args, err, sizeof err), 1);
  check_sentence(err, name);
  f = fopen(name, "r");
  ck_assert_ptr_nonnull(f);
  ck_assert_ptr_nonnull(fgets(text, sizeof text, f));
  fclose(f);
  ck_assert_str_eq(text, "mine");
  ck_assert_int_eq(unlink(name), 0);

  connection_close(&con);
  ck_assert_int_eq(server_signal(&srv, SIGKILL), SIGKILL);
  const char *listen[] = {"--listen", ipc, NULL};
  server_restart(&srv, listen);
  ck_assert_int_eq(run_program(args, err, sizeof err), 1);
  check_sentence(err, "in use");
  ck_assert_int_eq(server_signal(&srv, SIGKILL), SIGKILL);
  server_restart(&srv, listen); /* the name that a dead one left behind is nobody's */
  connection_open(&con, &srv, ZMQ_DEALER);
}
END_TEST

START_TEST(what_is_no_database_is_refused) {
  char err[2048], name[128];
  snprintf(name, sizeof name, "%s/text", srv.directory);
  FILE *f = fopen(name, "w");
  ck_assert_ptr_nonnull(f);
  for (int i = 0; i < 100000; i++) fputs("not a database\n", f);
  fclose(f);
  const char *args[] = {"--database", name, "--listen", "tcp://127.0.0.1:*", "--events", "tcp://127.0.0.1:*", NULL};
  ck_assert_int_eq(run_program(args, err, sizeof err), 1);
  check_sentence(err, name);
  const char *missing[] = {"--database", "/nowhere/at/all.sdb", "--no-create", "--events", "tcp://127.0.0.1:*", NULL};
  ck_assert_int_eq(run_program(missing, err, sizeof err), 1);
  check_sentence(err, "/nowhere/at/all.sdb");
}
END_TEST

/* What an operator should know of the database stands in the log, beside the reason why the service does not start. */
START_TEST(a_warning_of_the_engine_is_logged) {
  char err[2048], other[128], key[128];
  snprintf(other, sizeof other, "%s/other.sdb", srv.directory);
  snprintf(key, sizeof key, "%s/key", srv.directory);
  FILE *f = fopen(key, "w");
  ck_assert_ptr_nonnull(f);
  fputs("thirty-two bytes make up a key..", f);
  fclose(f);
  ck_assert_int_eq(chmod(key, 0644), 0);
  const char *args[] = {"--database", other, "--key-file", key, "--quick-mode", "--listen", srv.listen, "--quiet", NULL};
  ck_assert_int_eq(run_program(args, err, sizeof err), 1);
  ck_assert_ptr_nonnull(strstr(err, "level=warning event=key_file"));
  ck_assert_ptr_nonnull(strstr(err, "level=warning event=engine"));
  ck_assert_ptr_nonnull(strstr(err, "in use"));
}
END_TEST

START_TEST(wrong_usage_is_one_sentence) {
  char err[2048];
  static const char *const wrong[][5] = {
      {NULL},
      {"--database", "x", "--listen", "tcp://0.0.0.0:7600", NULL},
      {"--database", "x", "--listen", "tcp://*:7600", NULL},
      {"--database", "x", "--listen", "tcp://192.168.0.1:7600", NULL},
      {"--database", "x", "--listen", "tcp://127.evil.example:1", NULL},
      {"--database", "x", "--events", "inproc://x", NULL},
      {"--database", "x", "--events", "ipc://", NULL},
      {"--database", "x", "--listen", "tcp://127.0.0.1", NULL},
      {"--database", "x", "--workers", "0", NULL},
      {"--database", "x", "--workers", "many", NULL},
      {"--database", "x", "--max-db-size", "12Q", NULL},
      {"--database", "x", "--max-db-size", "99999999T", NULL},
      {"--database", "x", "--durability", "maybe", NULL},
      {"--database", "x", "--no-such-option", NULL},
      {"--database", "x", "surplus", NULL},
      {"--database", NULL},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    ck_assert_int_eq(run_program(wrong[i], err, sizeof err), 2);
    check_sentence(err, "streamdbd: ");
  }
  ck_assert_int_eq(run_program((const char *[]){"--help", NULL}, err, sizeof err), 0);
  ck_assert_int_eq(run_program((const char *[]){"--version", NULL}, err, sizeof err), 0);
}
END_TEST

/* One of them, or all three. Nothing that is printed may end up in the database or in a connection. */
START_TEST(closed_standard_streams_do_no_harm) {
  char socket[128], ipc[160], fresh[128];
  snprintf(socket, sizeof socket, "%s/socket", srv.directory);
  snprintf(fresh, sizeof fresh, "%s/fresh.sdb", srv.directory);
  snprintf(ipc, sizeof ipc, "ipc://%s", socket);
  connection_close(&con);
  ck_assert_int_eq(server_signal(&srv, SIGTERM), 0);
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int fd = 0; fd < 3; fd++) {
      if (_i == fd || _i == 3) close(fd);
    }
    exec_program((const char *[]){"--database", fresh, "--listen", ipc, "--events", "tcp://127.0.0.1:*", NULL});
  }
  for (int ms = 0; access(socket, F_OK) != 0 && ms < PATIENCE_MS; ms += 10) usleep(10000);
  snprintf(srv.listen, sizeof srv.listen, "%s", ipc);
  connection_open(&con, &srv, ZMQ_DEALER);
  call k = call_ping();
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  char magic[4] = "";
  FILE *f = fopen(fresh, "rb");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(fread(magic, 1, sizeof magic, f), sizeof magic);
  fclose(f);
  ck_assert_mem_eq(magic, "\x89SDB", sizeof magic);
  connection_close(&con);
  kill(pid, SIGTERM);
  int status = 0;
  ck_assert_int_eq(waitpid(pid, &status, 0), pid);
  ck_assert_int_eq(status, 0);
  server_restart(&srv, NULL);
  connection_open(&con, &srv, ZMQ_DEALER);
}
END_TEST

START_TEST(all_options_and_several_endpoints) {
  connection_close(&con);
  ck_assert_int_eq(server_signal(&srv, SIGINT), 0);
  char ipc[128];
  snprintf(ipc, sizeof ipc, "ipc://%s/socket", srv.directory);
  const char *extra[] = {"--listen",
                         ipc,
                         "--listen",
                         "tcp://[::1]:0",
                         "--durability",
                         "buffered",
                         "--page-cache-size",
                         "256",
                         "--versions-to-keep",
                         "1",
                         "--no-mmap",
                         "--buffered-interval-ms",
                         "10",
                         "--max-document-size",
                         "2M",
                         "--max-db-size",
                         "1G",
                         "--workers",
                         "1",
                         NULL};
  server_restart(&srv, extra);
  snprintf(srv.listen, sizeof srv.listen, "%s", ipc);
  connection_open(&con, &srv, ZMQ_DEALER);
  call k = call_insert("/o", "1", 1);
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->reached, DCF__DB__V1__DURABILITY__BUFFERED);
  answer_free(&a);
  k.request.id = 0;
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_versions("/o");
  a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->n_entries, 1);
  answer_free(&a);
  k = call_upload_open("/big");
  k.op.upload_open.has_size_case = DCF__DB__V1__UPLOAD_OPEN__HAS_SIZE_SIZE;
  k.op.upload_open.size = 2097153;
  a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(TOO_LARGE));
  ck_assert_ptr_nonnull(strstr(a.reply->message, "2097152 bytes"));
  answer_free(&a);
}
END_TEST

/* --- Stopping under load ------------------------------------------------------------------------------------------------------ */

enum { WRITES = 20000, IN_FLIGHT = 200 };

typedef struct load {
  bool acknowledged[WRITES];
  int sent, answered, done, stopping;
} load;

static void content_of(int i, char *buf, size_t size) { snprintf(buf, size, "content of %d and then some", i); }

static void send_one(load *l) {
  char path[32], content[64];
  snprintf(path, sizeof path, "/l/%d", l->sent);
  content_of(l->sent, content, sizeof content);
  call k = call_insert(path, content, strlen(content));
  k.request.id = (uint64_t)l->sent + 1;
  call_send(&con, &k);
  l->sent++;
}

static bool take_one(load *l, int ms) {
  answer a;
  if (!answer_receive(&con, &a, ms)) return false;
  l->answered++;
  if (a.reply->code == CODE(OK)) {
    l->acknowledged[a.reply->id - 1] = true;
    l->done++;
  } else {
    ck_assert_int_eq(a.reply->code, CODE(STOPPING));
    ck_assert_int_eq(a.reply->status, -1);
    l->stopping++;
  }
  answer_free(&a);
  return true;
}

/* Inserts until `enough` are acknowledged, with many in flight; then the signal; then what still comes. */
static int run_load(load *l, int enough, int signal) {
  while (l->done < enough) {
    while (l->sent < WRITES && l->sent - l->answered < IN_FLIGHT) send_one(l);
    ck_assert(take_one(l, PATIENCE_MS));
  }
  kill(srv.pid, signal);
  if (signal == SIGTERM) {
    for (int i = 0; i < 300; i++) send_one(l);
    kill(srv.pid, signal);
  }
  while (take_one(l, 300)) continue;
  return server_wait(&srv);
}

static void check_load(const load *l) {
  connection_close(&con);
  server_restart(&srv, NULL);
  connection_open(&con, &srv, ZMQ_DEALER);
  int missing = 0;
  for (int i = 0; i < l->sent; i++) {
    char path[32], content[64];
    snprintf(path, sizeof path, "/l/%d", i);
    content_of(i, content, sizeof content);
    call k = call_get(path);
    answer a = call_ask(&con, &k);
    if (a.reply->code == CODE(OK)) {
      ck_assert_uint_eq(zmq_msg_size(&a.body), strlen(content));
      ck_assert_mem_eq(zmq_msg_data(&a.body), content, strlen(content));
    } else {
      ck_assert_int_eq(a.reply->code, CODE(NOT_FOUND));
      if (l->acknowledged[i]) missing++;
    }
    answer_free(&a);
  }
  ck_assert_msg(missing == 0, "%d of %d acknowledged inserts are gone", missing, l->done);
}

START_TEST(sigterm_under_load) {
  static load l;
  int status = run_load(&l, 3000, SIGTERM);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
  ck_assert_int_ge(l.done, 3000);
  check_load(&l);
}
END_TEST

START_TEST(sigkill_under_load) {
  static load l;
  int status = run_load(&l, 1000 + 700 * _i, SIGKILL);
  ck_assert(WIFSIGNALED(status));
  check_load(&l);
}
END_TEST

START_TEST(a_stop_tells_streams_and_forgets_uploads) {
  static uint8_t body[1000000];
  call k = call_insert("/s", body, sizeof body);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_upload_open("/u");
  answer a = call_ask(&con, &k);
  uint64_t upload = a.reply->stream;
  answer_free(&a);
  k = call_upload_chunk(upload, 0, body, sizeof body);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_stream_open("/s");
  k.op.stream_open.credit = 1;
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  uint64_t id = k.request.id;
  ck_assert(answer_receive(&con, &a, PATIENCE_MS));
  answer_free(&a);
  kill(srv.pid, SIGTERM);
  ck_assert(answer_receive(&con, &a, PATIENCE_MS));
  ck_assert_uint_eq(a.reply->id, id);
  ck_assert_int_eq(a.reply->code, CODE(STOPPING));
  ck_assert(a.reply->last);
  answer_free(&a);
  ck_assert_int_eq(server_wait(&srv), 0);
  connection_close(&con);
  server_restart(&srv, NULL);
  connection_open(&con, &srv, ZMQ_DEALER);
  k = call_stat("/u");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
}
END_TEST

START_TEST(an_idle_service_stops_at_once_and_keeps_everything) {
  call k = call_insert("/keep", "me", 2);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_insert("/keep/buffered", "me", 2);
  k.op.insert.durability = DCF__DB__V1__DURABILITY__NONE;
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  ck_assert_int_eq(server_signal(&srv, SIGTERM), 0);
  connection_close(&con);
  server_restart(&srv, NULL);
  connection_open(&con, &srv, ZMQ_DEALER);
  k = call_search("/keep");
  answer a = call_ask(&con, &k);
  ck_assert_uint_eq(a.reply->n_entries, 2);
  answer_free(&a);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("life");
  TCase *tc = tcase_create("life");
  tcase_set_timeout(tc, 60);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, a_second_instance_is_refused);
  tcase_add_test(tc, an_endpoint_in_use_is_refused);
  tcase_add_test(tc, a_socket_in_use_is_refused);
  tcase_add_test(tc, what_is_no_database_is_refused);
  tcase_add_test(tc, a_warning_of_the_engine_is_logged);
  tcase_add_test(tc, wrong_usage_is_one_sentence);
  tcase_add_loop_test(tc, closed_standard_streams_do_no_harm, 0, 4);
  tcase_add_test(tc, all_options_and_several_endpoints);
  tcase_add_test(tc, sigterm_under_load);
  tcase_add_loop_test(tc, sigkill_under_load, 0, 5);
  tcase_add_test(tc, a_stop_tells_streams_and_forgets_uploads);
  tcase_add_test(tc, an_idle_service_stops_at_once_and_keeps_everything);
  suite_add_tcase(suite, tc);
  return harness_run(suite);
}
