/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_store_failures.c - the service on a store that fails where the test says: another table behind store.h.
 *
 * The child process runs the service; the store is libsdb on memory, wrapped. What fails is said by the path, so that one service
 * can be asked for every failure: "/fail/CODE" answers that code. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "sdb/storage.h"
#include "service.h"

static server srv;
static connection con;

/* --- The store ---------------------------------------------------------------------------------------------------------------- */

static store real;
static int sync_fails_after = -1; /* waits that succeed; -1: all */
static unsigned wait_ms;

/* The code in a path "/fail/CODE", else SDB_OK. */
static int failure_of(const void *path, size_t len) {
  char text[64] = "";
  memcpy(text, path, len < sizeof text - 1 ? len : sizeof text - 1);
  return strncmp(text, "/fail/", 6) == 0 ? (int)strtol(text + 6, NULL, 10) : SDB_OK;
}

static int get(void *ctx, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap, size_t *size,
               sdb_info *info) {
  int rc = failure_of(path, path_len);
  return rc != SDB_OK ? rc : real.get(ctx, path, path_len, version, buf, cap, size, info);
}

/* Whether the caller is a worker: the front is the process's first thread. */
static bool in_worker(void) { return syscall(SYS_gettid) != getpid(); }

/* "/thread" says who asks: version 1 is the front, 2 a worker. "/device" is a read that the system's cache cannot answer. */
static int stat_document(void *ctx, const void *path, size_t path_len, uint32_t version, sdb_info *info) {
  if (path_len != 7 || memcmp(path, "/thread", 7) != 0) return real.stat(ctx, path, path_len, version, info);
  *info = (sdb_info){.version = in_worker() ? 2 : 1};
  return SDB_OK;
}

static int device = -1;

static int get_range(void *ctx, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf, size_t len,
                     size_t *got, sdb_info *info) {
  if (path_len != 7 || memcmp(path, "/device", 7) != 0)
    return real.get_range(ctx, path, path_len, version, offset, buf, len, got, info);
  static _Alignas(4096) char sector[4096];
  *got = 0;
  *info = (sdb_info){.version = 1};
  return pread(device, sector, sizeof sector, 0) == (ssize_t)sizeof sector ? SDB_OK : SDB_IO;
}

static int put(void *ctx, const void *path, size_t path_len, const void *data, size_t len, const sdb_put_options *how,
               sdb_commit *commit) {
  int rc = failure_of(path, path_len);
  return rc != SDB_OK ? rc : real.put(ctx, path, path_len, data, len, how, commit);
}

static int wait_for(void *ctx, uint64_t sequence) {
  usleep(wait_ms * 1000);
  int rc = real.wait(ctx, sequence);
  if (sync_fails_after == 0) return SDB_SYNC_FAILED;
  if (sync_fails_after > 0) sync_fails_after--;
  return rc;
}

static int cursor_open(void *ctx, const void *prefix, size_t prefix_len, const void *after, size_t after_len, bool infos,
                       store_cursor **cursor) {
  int rc = failure_of(prefix, prefix_len);
  return rc != SDB_OK ? rc : real.cursor_open(ctx, prefix, prefix_len, after, after_len, infos, cursor);
}

static int reads; /* the fifth read of the process fails */

static int reader_read(store_reader *reader, void *buf, size_t len, size_t *got) {
  return ++reads == 5 ? SDB_CORRUPT : real.reader_read(reader, buf, len < 1000 ? len : 1000, got);
}

static int writes; /* the third write of the process fails */

static int writer_write(store_writer *writer, const void *data, size_t len) {
  return ++writes == 3 ? SDB_FULL : real.writer_write(writer, data, len);
}

static int serve(void) {
  char sentence[256];
  options o;
  const char *words[] = {"streamdbd", "--database",        "memory", "--listen", "tcp://127.0.0.1:*",
                         "--events",  "tcp://127.0.0.1:*", "--quiet"};
  char *argv[8];
  for (int i = 0; i < 8; i++) argv[i] = strdup(words[i]);
  if (!options_parse(&o, 8, argv, sentence, sizeof sentence)) return 2;
  sdb_storage *storage = sdb_storage_memory_new();
  o.engine.storage = storage;
  if (store_open_sdb("memory", &o.engine, &real) != SDB_OK) return 1;
  store failing = real;
  failing.get = get;
  failing.put = put;
  failing.stat = stat_document;
  failing.get_range = get_range;
  failing.wait = wait_for;
  failing.cursor_open = cursor_open;
  failing.reader_read = reader_read;
  failing.writer_write = writer_write;
  int code = service_run(&o, &failing);
  real.close(real.ctx);
  sdb_storage_memory_free(storage);
  for (int i = 0; i < 8; i++) free(argv[i]);
  return code;
}

static void start(void) {
  int fds[2];
  ck_assert_int_eq(pipe(fds), 0);
  fflush(stdout);
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    dup2(fds[1], STDOUT_FILENO);
    close(fds[0]);
    close(fds[1]);
    exit(serve());
  }
  close(fds[1]);
  server_attach(&srv, pid, fds[0]);
  connection_open(&con, &srv, ZMQ_DEALER);
}

static void teardown(void) {
  connection_close(&con);
  server_remove(&srv);
}

/* --- Tests -------------------------------------------------------------------------------------------------------------------- */

/* The read that met the device has waited; those that follow are not to hold everybody up. */
START_TEST(what_comes_from_the_device_is_read_by_workers) {
  static _Alignas(4096) char sector[4096];
  char name[] = "device-XXXXXX";
  device = mkstemp(name);
  ck_assert_int_ge(device, 0);
  ck_assert_int_eq(write(device, sector, sizeof sector), (int)sizeof sector);
  ck_assert_int_eq(fsync(device), 0);
  struct rusage before, after;
  bool direct = fcntl(device, F_SETFL, O_DIRECT) == 0;
  getrusage(RUSAGE_SELF, &before);
  direct = direct && pread(device, sector, sizeof sector, 0) == (ssize_t)sizeof sector;
  getrusage(RUSAGE_SELF, &after);
  ck_assert_int_eq(unlink(name), 0);
  start();
  bool by_worker = false;
  for (int i = 0; i < 50 && !by_worker; i++) {
    call k = call_get("/device");
    k.op.get.length = 1;
    ck_assert_int_eq(call_code(&con, &k), CODE(OK));
    k = call_stat("/thread");
    answer a = call_ask(&con, &k);
    by_worker = a.reply->info->version == 2;
    answer_free(&a);
  }
  /* Where the system does not count such reads there is nothing to go by. */
  if (direct && after.ru_inblock > before.ru_inblock) ck_assert(by_worker);
}
END_TEST

START_TEST(every_failure_has_its_code) {
  static const struct {
    int rc;
    int code, status;
  } expected[] = {
      {SDB_IO, CODE(IO), -4},
      {SDB_NOT_FOUND, CODE(NOT_FOUND), -2},
      {SDB_INVALID, CODE(INVALID), -3},
      {SDB_NO_MEMORY, CODE(BUSY), -1},
      {SDB_TOO_LARGE, CODE(TOO_LARGE), -3},
      {SDB_CORRUPT, CODE(CORRUPT), -4},
      {SDB_FULL, CODE(FULL), -4},
      {SDB_READ_ONLY, CODE(READ_ONLY), -4},
      {SDB_DENIED, CODE(IO), -4},
      {SDB_INTERNAL, CODE(INTERNAL), -4},
  };
  start();
  for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
    char path[32];
    snprintf(path, sizeof path, "/fail/%d", expected[i].rc);
    call calls[] = {call_get(path), call_insert(path, "x", 1), call_search(path)};
    for (size_t c = 0; c < 3; c++) {
      answer a = call_ask(&con, &calls[c]);
      ck_assert_int_eq(a.reply->code, expected[i].code);
      ck_assert_int_eq(a.reply->status, expected[i].status);
      answer_free(&a);
    }
  }
  ck_assert_int_eq(server_signal(&srv, SIGTERM), 0);
}
END_TEST

/* After the failed sync: no write is acknowledged, the reads of the moment are answered, the process ends with its own code. Writes
 * of one group share its fate, also the one that failed its condition because of the other. */
START_TEST(a_failed_sync_ends_the_service) {
  sync_fails_after = 2;
  start();
  for (int i = 0; i < 2; i++) {
    call k = call_insert("/before", "x", 1);
    ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  }
  for (int i = 0; i < 10; i++) {
    call k = call_insert("/after", "x", 1);
    k.op.insert.has_expect_version_case = DCF__DB__V1__INSERT__HAS_EXPECT_VERSION_EXPECT_VERSION;
    call_send(&con, &k);
  }
  int io = 0;
  for (int i = 0; i < 10; i++) {
    answer a;
    if (!answer_receive(&con, &a, PATIENCE_MS)) break; /* what arrives after the stop finds nobody: silence acknowledges nothing */
    ck_assert(a.reply->code == CODE(IO) || a.reply->code == CODE(STOPPING));
    if (a.reply->code == CODE(IO)) io++;
    answer_free(&a);
  }
  ck_assert_int_ge(io, 1);
  int status = server_wait(&srv);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 75, "status %d", status);
}
END_TEST

START_TEST(a_stop_finishes_what_was_accepted) {
  wait_ms = 300;
  start();
  call k = call_insert("/accepted", "x", 1);
  uint64_t accepted = call_send(&con, &k);
  usleep(100000);
  kill(srv.pid, SIGTERM);
  usleep(50000);
  kill(srv.pid, SIGTERM);
  k = call_ping();
  answer a = call_ask(&con, &k);
  ck_assert_int_eq(a.reply->code, CODE(STOPPING));
  answer_free(&a);
  ck_assert(answer_receive(&con, &a, PATIENCE_MS));
  ck_assert_uint_eq(a.reply->id, accepted);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  answer_free(&a);
  ck_assert_int_eq(server_wait(&srv), 0);
}
END_TEST

START_TEST(a_long_queue_of_writes_is_busy) {
  wait_ms = 500;
  start();
  enum { N = 5000 };
  for (int i = 0; i < N; i++) {
    call k = call_insert("/q", "x", 1);
    call_send(&con, &k);
  }
  int busy = 0;
  for (int i = 0; i < N; i++) {
    answer a;
    ck_assert(answer_receive(&con, &a, PATIENCE_MS));
    ck_assert(a.reply->code == CODE(OK) || a.reply->code == CODE(BUSY));
    if (a.reply->code == CODE(BUSY)) {
      busy++;
      ck_assert_uint_gt(a.reply->retry_after_ms, 0);
    }
    answer_free(&a);
  }
  ck_assert_int_gt(busy, 0);
  ck_assert_int_le(busy, N - 4096);
}
END_TEST

START_TEST(a_stream_that_fails_in_the_middle) {
  static uint8_t body[10000];
  start();
  call k = call_insert("/s", body, sizeof body);
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  k = call_stream_open("/s");
  k.op.stream_open.chunk_size = 2000;
  k.op.stream_open.credit = 10;
  ck_assert_int_eq(call_code(&con, &k), CODE(OK));
  uint64_t offset = 0;
  for (bool last = false; !last;) {
    answer a;
    ck_assert(answer_receive(&con, &a, PATIENCE_MS));
    ck_assert_uint_eq(a.reply->id, k.request.id);
    last = a.reply->last;
    ck_assert_uint_eq(a.reply->offset, offset);
    if (a.reply->code == CODE(OK)) offset += zmq_msg_size(&a.body);
    ck_assert(last == (a.reply->code == CODE(CORRUPT)));
    answer_free(&a);
  }
  ck_assert_uint_eq(offset, 4000);
  expect_statistic(&con, "service_streams", 0);
}
END_TEST

START_TEST(an_upload_that_fails_in_the_middle) {
  start();
  call k = call_upload_open("/u");
  answer a = call_ask(&con, &k);
  uint64_t stream = a.reply->stream;
  answer_free(&a);
  for (uint64_t i = 0; i < 4; i++) {
    k = call_upload_chunk(stream, i * 4, "data", 4);
    a = call_ask(&con, &k);
    ck_assert_int_eq(a.reply->code, i < 2 ? CODE(OK) : CODE(FULL));
    ck_assert_uint_eq(a.reply->offset, i < 2 ? (i + 1) * 4 : 8);
    answer_free(&a);
  }
  k = call_upload_commit(stream);
  ck_assert_int_eq(call_code(&con, &k), CODE(FULL));
  k = call_upload_commit(stream);
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
  k = call_get("/u");
  ck_assert_int_eq(call_code(&con, &k), CODE(NOT_FOUND));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("store failures");
  TCase *tc = tcase_create("failures");
  tcase_set_timeout(tc, 60);
  tcase_add_checked_fixture(tc, NULL, teardown);
  tcase_add_test(tc, what_comes_from_the_device_is_read_by_workers);
  tcase_add_test(tc, every_failure_has_its_code);
  tcase_add_test(tc, a_failed_sync_ends_the_service);
  tcase_add_test(tc, a_stop_finishes_what_was_accepted);
  tcase_add_test(tc, a_long_queue_of_writes_is_busy);
  tcase_add_test(tc, a_stream_that_fails_in_the_middle);
  tcase_add_test(tc, an_upload_that_fails_in_the_middle);
  suite_add_tcase(suite, tc);
  return harness_run(suite);
}
