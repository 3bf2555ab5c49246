/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_shortage.c - the service while memory, threads, descriptors or sockets are not to be had.
 *
 * The linker puts the functions below in the place of the system's, for the service's own code; the child process runs the service,
 * and a page of memory shared with it says which of its calls fails. Each is made to fail once, until one is not reached any more.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "sdb/storage.h"
#include "service.h"

static server srv;
static connection con;

/* --- Faults ------------------------------------------------------------------------------------------------------------------- */

typedef struct control {
  _Atomic int fail_at; /* 1: the next call; 0 and less: none */
  _Atomic bool struck;
} control;

static control *shared;
static bool serving; /* in the child: what the test itself asks for is given */

static bool fails(int error) {
  if (!serving || atomic_load(&shared->fail_at) <= 0 || atomic_fetch_sub(&shared->fail_at, 1) != 1) return false;
  atomic_store(&shared->struck, true);
  errno = error;
  return true;
}

static void fail_at(int nth) {
  atomic_store(&shared->struck, false);
  atomic_store(&shared->fail_at, nth);
}

#define WRAP(type, name, declared, given, error, failure)                                                                          \
  type __wrap_##name declared;                                                                                                     \
  type __real_##name declared;                                                                                                     \
  type __wrap_##name declared { return fails(error) ? failure : __real_##name given; }

WRAP(void *, malloc, (size_t len), (len), ENOMEM, NULL)
WRAP(void *, calloc, (size_t count, size_t len), (count, len), ENOMEM, NULL)
WRAP(void *, realloc, (void *p, size_t len), (p, len), ENOMEM, NULL)
WRAP(int, zmq_msg_init_size, (zmq_msg_t * m, size_t len), (m, len), ENOMEM, -1)
WRAP(int, zmq_msg_init_data, (zmq_msg_t * m, void *data, size_t len, zmq_free_fn *release, void *hint),
     (m, data, len, release, hint), ENOMEM, -1)
WRAP(void *, zmq_ctx_new, (void), (), EMFILE, NULL)
WRAP(void *, zmq_socket, (void *context, int type), (context, type), EMFILE, NULL)
WRAP(int, eventfd, (unsigned count, int flags), (count, flags), EMFILE, -1)
WRAP(int, signalfd, (int fd, const sigset_t *set, int flags), (fd, set, flags), EMFILE, -1)
WRAP(ssize_t, getrandom, (void *buf, size_t len, unsigned flags), (buf, len, flags), ENOSYS, -1)
WRAP(int, pthread_mutex_init, (pthread_mutex_t * m, const pthread_mutexattr_t *attributes), (m, attributes), ENOMEM, ENOMEM)
WRAP(int, pthread_cond_init, (pthread_cond_t * c, const pthread_condattr_t *attributes), (c, attributes), ENOMEM, ENOMEM)
WRAP(int, pthread_create, (pthread_t * id, const pthread_attr_t *attributes, void *(*run)(void *), void *argument),
     (id, attributes, run, argument), EAGAIN, EAGAIN)

/* --- The service -------------------------------------------------------------------------------------------------------------- */

static int serve(int first_fault) {
  char sentence[256];
  options o;
  store st;
  const char *words[] = {"streamdbd", "--database",        "memory", "--listen", "tcp://127.0.0.1:*",
                         "--events",  "tcp://127.0.0.1:*", "--quiet"};
  char *argv[8];
  for (int i = 0; i < 8; i++) argv[i] = strdup(words[i]);
  if (!options_parse(&o, 8, argv, sentence, sizeof sentence)) return 2;
  sdb_storage *storage = sdb_storage_memory_new();
  o.engine.storage = storage;
  if (store_open_sdb("memory", &o.engine, &st) != SDB_OK) return 3;
  fail_at(first_fault);
  serving = true;
  int code = service_run(&o, &st);
  serving = false;
  st.close(st.ctx);
  sdb_storage_memory_free(storage);
  for (int i = 0; i < 8; i++) free(argv[i]);
  return code;
}

/* Its standard output and error go to the two descriptors. */
static pid_t run(int first_fault, int *out, int *err) {
  int fds[2], errors[2];
  ck_assert_int_eq(pipe(fds), 0);
  ck_assert_int_eq(pipe(errors), 0);
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
    dup2(errors[1], STDERR_FILENO);
    close(fds[0]), close(fds[1]), close(errors[0]), close(errors[1]);
    exit(serve(first_fault));
  }
  close(fds[1]);
  close(errors[1]);
  *out = fds[0];
  *err = errors[0];
  return pid;
}

static void setup(void) {
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ck_assert_ptr_ne(shared, MAP_FAILED);
}

/* --- Starting ----------------------------------------------------------------------------------------------------------------- */

/* It starts, or it says in one sentence why not and ends with 1. */
START_TEST(a_start_that_fails_says_why) {
  unsigned refused = 0;
  bool struck = true;
  for (int nth = 1; struck; nth++) {
    int out, err, status;
    char line[1000] = "";
    pid_t pid = run(nth, &out, &err);
    FILE *lines = fdopen(out, "r");
    bool ready = fgets(line, sizeof line, lines) != NULL;
    struck = atomic_load(&shared->struck);
    fail_at(0);
    if (ready) kill(pid, SIGTERM);
    size_t used = 0;
    for (ssize_t n; (n = read(err, line + used, sizeof line - 1 - used)) > 0;) used += (size_t)n;
    line[used] = '\0';
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == (ready ? 0 : 1), "call %d failed: status %x, '%s'", nth, status,
                  line);
    if (!ready) ck_assert_msg(strstr(line, "cannot start: ") != NULL, "call %d failed: '%s' does not say why", nth, line);
    refused += !ready;
    fclose(lines);
    close(err);
  }
  ck_assert_uint_gt(refused, 10);
}
END_TEST

/* --- Working ------------------------------------------------------------------------------------------------------------------ */

enum { LARGE = 200000, SILENCE_MS = 300 };
static uint8_t body[LARGE];

/* The reply with that id, if one comes: without memory for a reply there is none. */
static int code_within(uint64_t id, answer *a) {
  for (int waited = 0; waited < PATIENCE_MS; waited += SILENCE_MS) {
    while (answer_receive(&con, a, SILENCE_MS)) {
      if (a->reply->id == id) return (int)a->reply->code;
      answer_free(a);
    }
    if (atomic_load(&shared->struck)) break;
  }
  return -1;
}

static int ask(call k) {
  answer a;
  uint64_t id = call_send(&con, &k);
  int code = code_within(id, &a);
  if (code >= 0) answer_free(&a);
  return code;
}

static int do_ping(void) { return ask(call_ping()); }
static int do_insert(void) { return ask(call_insert("/new", "abc", 3)); }
static int do_get(void) { return ask(call_get("/d/1")); }
static int do_get_large(void) { return ask(call_get("/large")); }
static int do_stat(void) { return ask(call_stat("/d/1")); }
static int do_versions(void) { return ask(call_versions("/d/1")); }
static int do_search(void) { return ask(call_search("/d/")); }
static int do_flush(void) { return ask(call_flush()); }
static int do_statistics(void) { return ask(call_statistics()); }

static int do_delete(void) {
  int code = ask(call_delete("/new"));
  return code == CODE(NOT_FOUND) ? CODE(OK) : code;
}

static int do_get_part(void) {
  call k = call_get("/large");
  k.op.get.offset = 100;
  k.op.get.length = LARGE / 2;
  return ask(k);
}

/* Up to its end, or until nothing comes; then it is closed, which may be too late. */
static int do_stream(void) {
  answer a;
  call k = call_stream_open("/large");
  k.op.stream_open.chunk_size = 50000;
  k.op.stream_open.credit = 100;
  uint64_t id = call_send(&con, &k), stream = 0;
  int code;
  for (bool last = false; !last;) {
    code = code_within(id, &a);
    if (code < 0) break;
    if (a.reply->stream != 0) stream = a.reply->stream;
    last = a.reply->last || code != CODE(OK);
    answer_free(&a);
  }
  if (code < 0 && stream != 0) ask(call_stream_close(stream));
  return code;
}

static int do_upload(void) {
  answer a;
  call k = call_upload_open("/upload");
  uint64_t id = call_send(&con, &k);
  int code = code_within(id, &a);
  if (code < 0) return code;
  uint64_t stream = a.reply->stream;
  answer_free(&a);
  if (code == CODE(OK)) code = ask(call_upload_chunk(stream, 0, body, 60000));
  if (code == CODE(OK)) code = ask(call_upload_commit(stream));
  if (code != CODE(OK) && stream != 0) ask(call_upload_abort(stream));
  return code;
}

static const struct {
  const char *name;
  int (*act)(void);
} acts[] = {{"ping", do_ping},           {"insert", do_insert},         {"get", do_get},
            {"get large", do_get_large}, {"get part", do_get_part},     {"stat", do_stat},
            {"versions", do_versions},   {"search", do_search},         {"delete", do_delete},
            {"flush", do_flush},         {"statistics", do_statistics}, {"stream", do_stream},
            {"upload", do_upload}};
enum { ACTS = sizeof acts / sizeof acts[0] };

static void start_with_documents(void) {
  int out, err;
  pid_t pid = run(0, &out, &err);
  server_attach(&srv, pid, out);
  connection_open(&con, &srv, ZMQ_DEALER);
  fill(body, LARGE, 1);
  for (int i = 0; i < 300; i++) {
    char path[16];
    snprintf(path, sizeof path, "/d/%d", i);
    ck_assert_int_eq(ask(call_insert(path, body, 100)), CODE(OK));
  }
  ck_assert_int_eq(ask(call_insert("/large", body, LARGE)), CODE(OK));
}

/* Whatever was short, it is answered or, without memory for an answer, not; nothing is held on to, and the next one is served. */
START_TEST(a_request_that_finds_no_memory_ends_nothing) {
  start_with_documents();
  bool struck = true;
  unsigned failures = 0;
  for (int nth = 1; struck; nth++) {
    fail_at(nth);
    int code = acts[_i].act();
    struck = atomic_load(&shared->struck);
    fail_at(0);
    bool short_of = code == -1 || code == CODE(BUSY) || code == CODE(NOT_FOUND); /* an upload that ended: not found */
    ck_assert_msg(code == CODE(OK) || (struck && short_of), "%s, call %d failed: answered %d", acts[_i].name, nth, code);
    failures += code != CODE(OK);
    ck_assert_msg(acts[_i].act() == CODE(OK), "%s behind call %d that failed", acts[_i].name, nth);
  }
  ck_assert_uint_gt(failures, 0);
  expect_statistic(&con, "service_streams", 0);
  expect_statistic(&con, "service_writes_waiting", 0);
  expect_statistic(&con, "service_jobs_waiting", 1); /* the one that asks */
  expect_statistic(&con, "service_in_flight_in", 0);
  connection_close(&con);
  ck_assert_int_eq(server_signal(&srv, SIGTERM), 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("shortage");
  TCase *tc = tcase_create("shortage");
  tcase_set_timeout(tc, 100);
  tcase_add_checked_fixture(tc, setup, NULL);
  tcase_add_test(tc, a_start_that_fails_says_why);
  tcase_add_loop_test(tc, a_request_that_finds_no_memory_ends_nothing, 0, ACTS);
  suite_add_tcase(suite, tc);
  return harness_run(suite);
}
