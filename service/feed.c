/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* feed.c - the publisher. The thread owns the socket; the committer talks to it through a mailbox. */
#include "feed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "endpoint.h"
#include "service.h"
#include "task.h"

typedef struct event {
  node node;
  size_t path_len, packed_len;
  uint8_t bytes[]; /* path, packed Event */
} event;

struct feed {
  service *s;
  void *socket;
  mailbox events;
  pthread_t thread;
  uint64_t session;
  uint64_t number; /* the committer's */
  atomic_size_t waiting;
  atomic_bool stop;
};

/* --- In the committer --------------------------------------------------------------------------------------------------------- */

static event *build(const feed *f, const task *t) {
  pb_event e;
  pb_info info;
  dcf__db__v1__event__init(&e);
  info_fill(&info, &t->commit.info);
  e.number = f->number;
  e.session = f->session;
  e.kind = t->kind == TASK_DELETE ? DCF__DB__V1__EVENT__KIND__DELETE : DCF__DB__V1__EVENT__KIND__PUT;
  e.sequence = t->commit.sequence;
  e.epoch = f->s->epoch;
  e.info = &info;
  uint8_t path[SDB_MAX_PATH], token[16];
  memcpy(path, t->path, t->path_len);
  memcpy(token, t->token, sizeof token);
  e.path = (pb_bytes){.len = t->path_len, .data = path};
  if (t->has_token) e.token = (pb_bytes){.len = sizeof token, .data = token};
  size_t packed = dcf__db__v1__event__get_packed_size(&e);
  event *out = malloc(sizeof *out + t->path_len + packed);
  if (!out) return NULL;
  out->path_len = t->path_len;
  out->packed_len = packed;
  memcpy(out->bytes, t->path, t->path_len);
  dcf__db__v1__event__pack(&e, out->bytes + t->path_len);
  return out;
}

void feed_add(feed *f, list *events, const task *t) {
  counters *c = &f->s->counters;
  f->number++;
  count_up(&c->events, 1);
  if (count_now(&c->subscriptions) == 0) return;
  event *e = atomic_load(&f->waiting) + events->count < EVENTS_WAITING ? build(f, t) : NULL;
  if (e) {
    list_add(events, &e->node);
  } else {
    count_up(&c->events_dropped, 1);
  }
}

void feed_send(feed *f, list *events) {
  atomic_fetch_add(&f->waiting, events->count);
  mailbox_put(&f->events, events);
}

/* --- In the publisher --------------------------------------------------------------------------------------------------------- */

/* The socket tells the first subscription and the last unsubscription of each prefix. */
static void take_subscriptions(feed *f) {
  for (;;) {
    uint8_t first = 0;
    int n = zmq_recv(f->socket, &first, 1, ZMQ_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;
    if (n > 0 && first == 1) count_up(&f->s->counters.subscriptions, 1);
    if (n > 0 && first == 0) count_down(&f->s->counters.subscriptions, 1);
  }
}

static bool publish(feed *f) {
  list l = {0};
  mailbox_take(&f->events, &l);
  bool any = l.first != NULL;
  atomic_fetch_sub(&f->waiting, l.count);
  for (node *n; (n = list_take(&l)) != NULL;) {
    event *e = (event *)(void *)n;
    /* Without room in a subscriber's queue the socket drops the event for that subscriber. */
    if (zmq_send(f->socket, e->bytes, e->path_len, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0) {
      zmq_send(f->socket, e->bytes + e->path_len, e->packed_len, ZMQ_DONTWAIT);
    }
    free(e);
  }
  return any;
}

static void *feed_main(void *arg) {
  feed *f = arg;
  for (;;) {
    bool stop = atomic_load(&f->stop);
    take_subscriptions(f);
    bool any = publish(f);
    if (stop) break;
    if (any || !mailbox_sleep(&f->events)) continue;
    if (!atomic_load(&f->stop)) {
      zmq_pollitem_t items[] = {{.socket = f->socket, .events = ZMQ_POLLIN}, {.fd = f->events.fd, .events = ZMQ_POLLIN}};
      zmq_poll(items, 2, -1);
    }
    mailbox_wake(&f->events);
  }
  return NULL;
}

/* --- Start and stop ----------------------------------------------------------------------------------------------------------- */

static void *open_socket(void *zmq, const char *endpoint, char *bound, size_t bound_size) {
  void *socket = zmq_socket(zmq, ZMQ_XPUB);
  if (!socket) {
    fprintf(stderr, "streamdbd: cannot start: no socket for events: %s\n", zmq_strerror(errno));
    return NULL;
  }
  endpoint_prepare(socket, endpoint);
  int backlog = EVENT_QUEUE;
  int64_t frame = MAX_SUBSCRIPTION;
  zmq_setsockopt(socket, ZMQ_SNDHWM, &backlog, sizeof backlog);
  zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame, sizeof frame);
  if (endpoint_bind(socket, endpoint, bound, bound_size)) return socket;
  zmq_close(socket);
  return NULL;
}

feed *feed_start(service *s, void *zmq, const char *endpoint, char *bound, size_t bound_size) {
  feed *f = calloc(1, sizeof *f);
  if (!f) {
    fprintf(stderr, "streamdbd: cannot start: no memory for events\n");
    return NULL;
  }
  f->s = s;
  f->socket = open_socket(zmq, endpoint, bound, bound_size);
  if (!f->socket) {
    free(f);
    return NULL;
  }
  bool ready = getrandom(&f->session, sizeof f->session, 0) == (ssize_t)sizeof f->session && mailbox_init(&f->events) == 0;
  if (ready && pthread_create(&f->thread, NULL, feed_main, f) == 0) return f;
  fprintf(stderr, "streamdbd: cannot start: no thread for events\n");
  if (ready) mailbox_destroy(&f->events);
  zmq_close(f->socket);
  free(f);
  return NULL;
}

void feed_stop(feed *f) {
  if (!f) return;
  atomic_store(&f->stop, true);
  mailbox_nudge(&f->events);
  pthread_join(f->thread, NULL);
  zmq_close(f->socket);
  mailbox_destroy(&f->events);
  free(f);
}
