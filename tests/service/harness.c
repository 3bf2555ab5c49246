/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* harness.c - processes, sockets, requests. */
#include "harness.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGS 32

/* The program, from the build. */
static const char streamdbd[] = STREAMDBD;

/* --- The service -------------------------------------------------------------------------------------------------------------- */

void exec_program(const char *const *args) {
  char *argv[MAX_ARGS + 2];
  size_t n = 0;
  union {
    const char *in;
    char *out;
  } name = {.in = streamdbd};
  argv[n++] = name.out;
  for (; *args && n <= MAX_ARGS; args++) {
    name.in = *args;
    argv[n++] = name.out;
  }
  argv[n] = NULL;
  execv(streamdbd, argv);
  _exit(127);
}

static void read_ready(server *s) {
  char line[1024];
  ck_assert_msg(fgets(line, sizeof line, s->out) != NULL, "the service ended before it was ready");
  ck_assert_msg(strncmp(line, "ready ", 6) == 0, "not a ready line: %s", line);
  char *save = NULL;
  s->listen[0] = s->events[0] = '\0';
  for (char *word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
    if (strncmp(word, "listen=", 7) == 0 && !s->listen[0]) snprintf(s->listen, sizeof s->listen, "%s", word + 7);
    if (strncmp(word, "events=", 7) == 0) snprintf(s->events, sizeof s->events, "%s", word + 7);
  }
  ck_assert(s->listen[0] && s->events[0]);
}

void server_restart(server *s, const char *const *extra) {
  const char *args[MAX_ARGS] = {"--database", s->database,         "--listen", "tcp://127.0.0.1:*",
                                "--events",   "tcp://127.0.0.1:*", "--quiet",  NULL};
  size_t n = 7;
  for (; extra && *extra && n < MAX_ARGS - 1; extra++) args[n++] = *extra;
  args[n] = NULL;
  int fds[2];
  ck_assert_int_eq(pipe(fds), 0);
  s->pid = fork();
  ck_assert_int_ge(s->pid, 0);
  if (s->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(fds[1], STDOUT_FILENO);
    close(fds[0]);
    close(fds[1]);
    exec_program(args);
  }
  close(fds[1]);
  server_attach(s, s->pid, fds[0]);
}

void server_attach(server *s, pid_t pid, int fd) {
  s->pid = pid;
  s->out = fdopen(fd, "r");
  ck_assert_ptr_nonnull(s->out);
  read_ready(s);
}

void server_start(server *s, const char *const *extra) {
  memset(s, 0, sizeof *s);
  snprintf(s->directory, sizeof s->directory, "/tmp/streamdbd-test-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(s->directory));
  snprintf(s->database, sizeof s->database, "%s/test.sdb", s->directory);
  server_restart(s, extra);
}

int server_wait(server *s) {
  int status = 0;
  while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR) continue;
  fclose(s->out);
  s->pid = 0;
  return status;
}

int server_signal(server *s, int signal) {
  kill(s->pid, signal);
  return server_wait(s);
}

void server_remove(server *s) {
  if (s->pid > 0) ck_assert_int_eq(server_signal(s, SIGTERM), 0);
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", s->directory);
  if (s->directory[0]) ck_assert_int_eq(system(command), 0);
}

int run_program(const char *const *args, char *err, size_t size) {
  int fds[2];
  ck_assert_int_eq(pipe(fds), 0);
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(PATIENCE_MS / 1000);
    dup2(fds[1], STDERR_FILENO);
    if (freopen("/dev/null", "w", stdout) == NULL) _exit(127);
    close(fds[0]);
    close(fds[1]);
    exec_program(args);
  }
  close(fds[1]);
  size_t used = 0;
  for (ssize_t n; (n = read(fds[0], err + used, size - 1 - used)) > 0;) used += (size_t)n;
  err[used] = '\0';
  close(fds[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

size_t server_memory(const server *s) {
  char name[64];
  snprintf(name, sizeof name, "/proc/%ld/statm", (long)s->pid);
  FILE *f = fopen(name, "r");
  ck_assert_ptr_nonnull(f);
  unsigned long total, resident;
  ck_assert_int_eq(fscanf(f, "%lu %lu", &total, &resident), 2);
  fclose(f);
  return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* --- Requests ----------------------------------------------------------------------------------------------------------------- */

ProtobufCBinaryData call_bytes(const void *data, size_t len) {
  union {
    const void *in;
    void *out;
  } p = {.in = data};
  return (ProtobufCBinaryData){.len = len, .data = p.out};
}

static ProtobufCBinaryData text(const char *s) { return call_bytes(s, strlen(s)); }

static call call_new(PB(Request__OpCase) op) {
  call k;
  memset(&k, 0, sizeof k);
  dcf__db__v1__request__init(&k.request);
  k.request.op_case = op;
  return k;
}

#define CALL(name, NAME)                                                                                                           \
  call k = call_new(OP(NAME));                                                                                                     \
  dcf__db__v1__##name##__init(&k.op.name)

call call_ping(void) {
  CALL(ping, PING);
  return k;
}

call call_insert(const char *path, const void *data, size_t len) {
  CALL(insert, INSERT);
  k.op.insert.path = text(path);
  k.body = data ? data : "";
  k.body_len = len;
  return k;
}

call call_get(const char *path) {
  CALL(get, GET);
  k.op.get.path = text(path);
  return k;
}

call call_stat(const char *path) {
  CALL(stat, STAT);
  k.op.stat.path = text(path);
  return k;
}

call call_versions(const char *path) {
  CALL(versions, VERSIONS);
  k.op.versions.path = text(path);
  return k;
}

call call_delete(const char *path) {
  CALL(delete, DELETE);
  k.op.delete.path = text(path);
  return k;
}

call call_search(const char *prefix) {
  CALL(search, SEARCH);
  k.op.search.prefix = text(prefix);
  return k;
}

call call_flush(void) {
  CALL(flush, FLUSH);
  return k;
}

call call_statistics(void) {
  CALL(statistics, STATISTICS);
  return k;
}

call call_stream_open(const char *path) {
  call k = call_new(OP(STREAM_OPEN));
  dcf__db__v1__stream_open__init(&k.op.stream_open);
  k.op.stream_open.path = text(path);
  return k;
}

call call_stream_credit(uint64_t stream, uint32_t credit) {
  call k = call_new(OP(STREAM_CREDIT));
  dcf__db__v1__stream_credit__init(&k.op.stream_credit);
  k.op.stream_credit.stream = stream;
  k.op.stream_credit.credit = credit;
  return k;
}

call call_stream_close(uint64_t stream) {
  call k = call_new(OP(STREAM_CLOSE));
  dcf__db__v1__stream_close__init(&k.op.stream_close);
  k.op.stream_close.stream = stream;
  return k;
}

call call_upload_open(const char *path) {
  call k = call_new(OP(UPLOAD_OPEN));
  dcf__db__v1__upload_open__init(&k.op.upload_open);
  k.op.upload_open.path = text(path);
  return k;
}

call call_upload_chunk(uint64_t stream, uint64_t offset, const void *data, size_t len) {
  call k = call_new(OP(UPLOAD_CHUNK));
  dcf__db__v1__upload_chunk__init(&k.op.upload_chunk);
  k.op.upload_chunk.stream = stream;
  k.op.upload_chunk.offset = offset;
  k.body = data;
  k.body_len = len;
  return k;
}

call call_upload_commit(uint64_t stream) {
  call k = call_new(OP(UPLOAD_COMMIT));
  dcf__db__v1__upload_commit__init(&k.op.upload_commit);
  k.op.upload_commit.stream = stream;
  return k;
}

call call_upload_abort(uint64_t stream) {
  call k = call_new(OP(UPLOAD_ABORT));
  dcf__db__v1__upload_abort__init(&k.op.upload_abort);
  k.op.upload_abort.stream = stream;
  return k;
}

/* --- The wire ----------------------------------------------------------------------------------------------------------------- */

static void set(void *socket, int option, int value) { ck_assert_int_eq(zmq_setsockopt(socket, option, &value, sizeof value), 0); }

void connection_open(connection *c, const server *s, int type) {
  memset(c, 0, sizeof *c);
  c->context = zmq_ctx_new();
  c->socket = zmq_socket(c->context, type);
  ck_assert_ptr_nonnull(c->socket);
  c->next_id = 1;
  set(c->socket, ZMQ_LINGER, 0);
  ck_assert_int_eq(zmq_connect(c->socket, s->listen), 0);
}

void connection_close(connection *c) {
  if (!c->socket) return;
  zmq_close(c->socket);
  zmq_ctx_term(c->context);
  memset(c, 0, sizeof *c);
}

uint64_t call_send(connection *c, call *k) {
  uint8_t header[4096];
  /* The structure may have been copied since it was made. */
  k->request.insert = (PB(Insert) *)(void *)&k->op;
  if (k->request.id == 0) k->request.id = c->next_id++;
  size_t len = dcf__db__v1__request__get_packed_size(&k->request);
  ck_assert_uint_le(len, sizeof header);
  dcf__db__v1__request__pack(&k->request, header);
  const void *frames[3];
  size_t sizes[3], n = 0;
  if (c->envelope) {
    frames[n] = "";
    sizes[n++] = 0;
  }
  frames[n] = header;
  sizes[n++] = len;
  if (k->body) {
    frames[n] = k->body;
    sizes[n++] = k->body_len;
  }
  send_frames(c, frames, sizes, n);
  return k->request.id;
}

void send_frames(connection *c, const void *const *frames, const size_t *sizes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    int rc = zmq_send(c->socket, frames[i], sizes[i], i + 1 < count ? ZMQ_SNDMORE : 0);
    ck_assert_msg(rc >= 0, "zmq_send: %s", zmq_strerror(errno));
  }
}

bool answer_receive(connection *c, answer *a, int timeout_ms) {
  zmq_pollitem_t item = {.socket = c->socket, .events = ZMQ_POLLIN};
  if (zmq_poll(&item, 1, timeout_ms) <= 0) return false;
  zmq_msg_t header;
  zmq_msg_init(&header);
  ck_assert_int_ge(zmq_msg_recv(&header, c->socket, 0), 0);
  if (c->envelope) {
    ck_assert_uint_eq(zmq_msg_size(&header), 0);
    ck_assert(zmq_msg_more(&header));
    ck_assert_int_ge(zmq_msg_recv(&header, c->socket, 0), 0);
  }
  a->reply = dcf__db__v1__reply__unpack(NULL, zmq_msg_size(&header), zmq_msg_data(&header));
  ck_assert_msg(a->reply != NULL, "the reply is not a Reply");
  a->has_body = zmq_msg_more(&header);
  zmq_msg_init(&a->body);
  if (a->has_body) {
    ck_assert_int_ge(zmq_msg_recv(&a->body, c->socket, 0), 0);
    ck_assert(!zmq_msg_more(&a->body));
    ck_assert_int_eq(a->reply->has_body_digest_case, DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST);
    ck_assert_uint_eq(a->reply->body_digest, sdb_crc32c(0, zmq_msg_data(&a->body), zmq_msg_size(&a->body)));
  }
  zmq_msg_close(&header);
  if (a->reply->code != CODE(OK)) {
    ck_assert_int_lt(a->reply->status, 0);
    ck_assert_msg(a->reply->message[0] != '\0', "an error without a sentence");
  } else {
    ck_assert_int_eq(a->reply->status, 0);
  }
  return true;
}

void answer_free(answer *a) {
  dcf__db__v1__reply__free_unpacked(a->reply, NULL);
  zmq_msg_close(&a->body);
}

answer call_ask(connection *c, call *k) {
  uint64_t id = call_send(c, k);
  answer a;
  ck_assert_msg(answer_receive(c, &a, PATIENCE_MS), "no answer to operation %d", (int)k->request.op_case);
  ck_assert_uint_eq(a.reply->id, id);
  return a;
}

PB(Code) call_code(connection *c, call *k) {
  answer a = call_ask(c, k);
  PB(Code) code = a.reply->code;
  answer_free(&a);
  return code;
}

/* --- Other -------------------------------------------------------------------------------------------------------------------- */

uint64_t test_seed(void) {
  const char *given = getenv("SDB_SEED");
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)now.tv_nsec * 2654435761u + (uint64_t)now.tv_sec;
  printf("SDB_SEED=%llu\n", (unsigned long long)seed);
  fflush(stdout);
  return seed;
}

uint64_t test_random(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

void fill(void *buf, size_t len, uint64_t seed) {
  uint8_t *p = buf;
  for (size_t i = 0; i < len; i += 8) {
    uint64_t word = test_random(&seed);
    memcpy(p + i, &word, len - i < 8 ? len - i : 8);
  }
}

uint64_t statistic(connection *c, const char *name) {
  call k = call_statistics();
  answer a = call_ask(c, &k);
  ck_assert_int_eq(a.reply->code, CODE(OK));
  uint64_t value = 0;
  bool found = false;
  for (size_t i = 0; i < a.reply->n_statistics; i++) {
    if (strcmp(a.reply->statistics[i]->key, name) != 0) continue;
    value = a.reply->statistics[i]->value;
    found = true;
  }
  answer_free(&a);
  ck_assert_msg(found, "no statistic %s", name);
  return value;
}

void expect_statistic(connection *c, const char *name, uint64_t value) {
  uint64_t now = statistic(c, name);
  for (int waited = 0; now != value && waited < PATIENCE_MS; waited += 20) {
    usleep(20000);
    now = statistic(c, name);
  }
  ck_assert_msg(now == value, "%s stays %llu", name, (unsigned long long)now);
}

int harness_run(Suite *suite) {
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures == 0 ? 0 : 1;
}
