/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* service.c - putting the service together and taking it apart again.
 *
 * Order at the end: the front has finished what was accepted; the queues are closed, their threads join; the sockets are closed and
 * the context is terminated, which gives back every block in flight; then nothing refers to the service any more. */
#include "service.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "committer.h"
#include "endpoint.h"
#include "feed.h"
#include "front.h"
#include "log.h"
#include "workers.h"

#define ENDPOINT_BYTES 256

/* --- What all threads use ----------------------------------------------------------------------------------------------------- */

int64_t service_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void service_reply(service *s, pb_reply *reply, uint64_t id) {
  dcf__db__v1__reply__init(reply);
  reply->id = id;
  reply->epoch = s->epoch;
  reply->sequence = atomic_load(&s->sequence);
}

void reply_error(pb_reply *reply, pb_code code, const char *sentence, char *text) {
  snprintf(text, SENTENCE_BYTES, "%s", sentence);
  reply->code = code;
  reply->status = status_of(code);
  reply->message = text;
  if (code == CODE(BUSY)) reply->retry_after_ms = RETRY_SLOTS_MS;
}

/* For failures of the device the store's own sentence says where; for the rest the code says it all. */
void service_sentence(service *s, int rc, char *text) {
  text[0] = '\0';
  if (rc == SDB_TOO_LARGE)
    snprintf(text, SENTENCE_BYTES, "the document is larger than the %llu bytes that this database accepts",
             (unsigned long long)s->options->engine.max_document_size);
  if (rc == SDB_IO || rc == SDB_CORRUPT) s->store.message(s->store.ctx, text, SENTENCE_BYTES);
  if (text[0] == '\0') snprintf(text, SENTENCE_BYTES, "%s", sdb_strerror(rc));
}

sdb_durability service_durability(const service *s, sdb_durability asked) {
  return asked == SDB_DEFAULT ? s->options->engine.durability : asked;
}

void service_count_error(service *s, pb_code code) {
  count_up(&s->counters.errors, 1);
  if (code == CODE(BUSY)) count_up(&s->counters.busy, 1);
}

/* --- Starting ----------------------------------------------------------------------------------------------------------------- */

typedef struct running {
  service s;
  front front;
  void *zmq;
  pthread_t committer;
  pthread_t *workers;
  unsigned threads_started; /* committer first */
  char listen[MAX_LISTEN][ENDPOINT_BYTES];
  char events[ENDPOINT_BYTES];
} running;

static bool failed(const char *what, int error) {
  fprintf(stderr, "streamdbd: cannot start: %s: %s\n", what, zmq_strerror(error));
  return false;
}

static bool open_router(running *r) {
  const options *o = r->s.options;
  void *socket = r->front.router = zmq_socket(r->zmq, ZMQ_ROUTER);
  if (!socket) return failed("no socket", errno);
  int on = 1, send_queue = SEND_QUEUE, receive_queue = RECEIVE_QUEUE;
  int64_t frame = MAX_FRAME;
  zmq_setsockopt(socket, ZMQ_ROUTER_MANDATORY, &on, sizeof on);
  zmq_setsockopt(socket, ZMQ_SNDHWM, &send_queue, sizeof send_queue);
  zmq_setsockopt(socket, ZMQ_RCVHWM, &receive_queue, sizeof receive_queue);
  zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame, sizeof frame);
  for (size_t i = 0; i < o->listen_count; i++) {
    endpoint_prepare(socket, o->listen[i]);
    if (!endpoint_bind(socket, o->listen[i], r->listen[i], sizeof r->listen[i])) return false;
  }
  return true;
}

static bool start_threads(running *r) {
  service *s = &r->s;
  r->workers = calloc(s->options->workers, sizeof *r->workers);
  if (!r->workers) return failed("no memory", ENOMEM);
  int rc = pthread_create(&r->committer, NULL, committer_main, s);
  if (rc != 0) return failed("no thread", rc);
  r->threads_started = 1;
  for (unsigned i = 0; i < s->options->workers; i++) {
    rc = pthread_create(&r->workers[i], NULL, worker_main, s);
    if (rc != 0) return failed("no thread", rc);
    r->threads_started++;
  }
  return true;
}

static bool start(running *r) {
  service *s = &r->s;
  store_state state;
  int rc = s->store.state(s->store.ctx, &state);
  if (rc != SDB_OK) return failed(sdb_strerror(rc), EIO);
  s->epoch = state.epoch;
  atomic_store(&s->sequence, state.sequence);
  if (state.read_only)
    log_line(LOG_WARNING, "read_only", "reason=\"the log is damaged; writes are refused until the database is repaired\"");

  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  r->front.signals = signalfd(-1, &stop, SFD_NONBLOCK | SFD_CLOEXEC);
  if (r->front.signals < 0) return failed("no signal descriptor", errno);

  r->zmq = zmq_ctx_new();
  if (!r->zmq) return failed("no ZeroMQ context", errno);
  if (!front_prepare(&r->front)) return failed("no table of connections", errno);
  if (!open_router(r)) return false;
  s->feed = feed_start(s, r->zmq, s->options->events, r->events, sizeof r->events);
  return s->feed && start_threads(r);
}

static void say_ready(const running *r) {
  const options *o = r->s.options;
  printf("ready");
  for (size_t i = 0; i < o->listen_count; i++) printf(" listen=%s", r->listen[i]);
  printf(" events=%s pid=%ld database=%s\n", r->events, (long)getpid(), o->database);
  fflush(stdout);
  log_line(LOG_INFO, "started", "version=%s listen=%s events=%s epoch=%llu sequence=%llu workers=%u", SDB_VERSION_STRING,
           r->listen[0], r->events, (unsigned long long)r->s.epoch, (unsigned long long)atomic_load(&r->s.sequence), o->workers);
}

/* --- Ending ------------------------------------------------------------------------------------------------------------------- */

static void stop(running *r) {
  service *s = &r->s;
  queue_close(&s->writes);
  queue_close(&s->jobs);
  if (r->threads_started > 0) pthread_join(r->committer, NULL);
  for (unsigned i = 1; i < r->threads_started; i++) pthread_join(r->workers[i - 1], NULL);
  free(r->workers);
  feed_stop(s->feed);
  client_table_free(&r->front.clients);
  if (r->front.router) zmq_close(r->front.router);
  if (r->zmq) zmq_ctx_term(r->zmq);
  if (r->front.signals >= 0) close(r->front.signals);
  mailbox_destroy(&s->replies);
  queue_destroy(&s->jobs);
  queue_destroy(&s->writes);
}

static running *running_new(const options *o, const store *st) {
  running *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->s.options = o;
  r->s.store = *st;
  r->front.s = &r->s;
  r->front.signals = -1;
  snprintf(r->s.name, sizeof r->s.name, "streamdbd %s", SDB_VERSION_STRING);
  int rc = queue_init(&r->s.writes);
  if (rc == 0 && (rc = queue_init(&r->s.jobs)) != 0) queue_destroy(&r->s.writes);
  if (rc == 0 && (rc = mailbox_init(&r->s.replies)) != 0) {
    queue_destroy(&r->s.jobs);
    queue_destroy(&r->s.writes);
  }
  if (rc == 0) return r;
  free(r);
  return NULL;
}

int service_run(const options *o, const store *st) {
  running *r = running_new(o, st);
  if (!r) {
    failed("no memory", ENOMEM);
    return 1;
  }
  int code = 1;
  if (start(r)) {
    say_ready(r);
    front_run(&r->front);
    code = atomic_load(&r->s.exit_code);
  }
  stop(r);
  const counters *c = &r->s.counters;
  log_line(LOG_INFO, "stopped", "exit=%d requests=%llu writes=%llu errors=%llu", code, (unsigned long long)count_now(&c->requests),
           (unsigned long long)count_now(&c->writes), (unsigned long long)count_now(&c->errors));
  free(r);
  return code;
}
