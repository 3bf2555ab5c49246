/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* front.c - the loop, sending, and the bookkeeping of clients and tasks. */
#include "front.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "log.h"

#define MESSAGES_PER_TURN 256
#define HANDOVER_EVERY 64 /* messages, so that the committer begins while the socket is still being emptied */

/* --- Sending ------------------------------------------------------------------------------------------------------------------ */

typedef enum send_result { SEND_DONE, SEND_FULL, SEND_GONE } send_result;

/* Room and existence of the peer are judged at the first frame; the others then follow it. */
static send_result send_frames(front *f, const client *c, bool envelope, zmq_msg_t *header, zmq_msg_t *content) {
  int rc;
  do { rc = zmq_send(f->router, c->id, c->id_len, ZMQ_SNDMORE | ZMQ_DONTWAIT); } while (rc < 0 && errno == EINTR);
  if (rc < 0) return errno == EAGAIN ? SEND_FULL : SEND_GONE;
  if (envelope) zmq_send(f->router, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
  if (content) count_up(&f->s->counters.bytes_out, zmq_msg_size(content));
  zmq_msg_send(header, f->router, (content ? ZMQ_SNDMORE : 0) | ZMQ_DONTWAIT);
  if (content) zmq_msg_send(content, f->router, ZMQ_DONTWAIT);
  count_up(&f->s->counters.replies, 1);
  return SEND_DONE;
}

static void drop_parked(front *f, client *c) {
  count_down(&f->s->counters.parked, c->parked.count);
  count_up(&f->s->counters.dropped, c->parked.count);
  for (node *n; (n = list_take(&c->parked)) != NULL;) task_free(task_of(n));
}

static void client_gone(front *f, client *c) {
  count_up(&f->s->counters.dropped, 1);
  drop_parked(f, c);
  streams_drop(f, c);
  uploads_drop(f, c);
}

static void park(front *f, client *c, task *t) {
  list_add(&c->parked, &t->node);
  count_up(&f->s->counters.parked, 1);
  if (c->in_parked_list) return;
  c->in_parked_list = true;
  c->next_parked = f->parked;
  f->parked = c;
}

void front_send_task(front *f, task *t) {
  client *c = t->client;
  if (!t->has_header) {
    task_free(t);
    return;
  }
  send_result r = c->parked.count > 0 ? SEND_FULL : send_frames(f, c, t->envelope, &t->header, t->has_content ? &t->content : NULL);
  if (r == SEND_FULL) {
    park(f, c, t);
    return;
  }
  task_free(t);
  if (r == SEND_GONE) client_gone(f, c);
}

void front_reply(front *f, client *c, bool envelope, pb_reply *reply, zmq_msg_t *content) {
  zmq_msg_t header;
  if (reply->code != CODE(OK)) service_count_error(f->s, reply->code);
  send_result r = SEND_GONE;
  if (reply_pack(reply, &header)) {
    r = c->parked.count > 0 ? SEND_FULL : send_frames(f, c, envelope, &header, content);
    task *t = NULL;
    if (r == SEND_FULL) t = task_new(c, c->flow, envelope, reply->id, (pb_bytes){0}, (pb_bytes){0});
    if (t) {
      zmq_msg_init(&t->header);
      zmq_msg_move(&t->header, &header);
      t->has_header = true;
      if (content) {
        zmq_msg_init(&t->content);
        zmq_msg_move(&t->content, content);
        t->has_content = true;
      }
      park(f, c, t);
    }
    zmq_msg_close(&header);
    if (r == SEND_GONE) client_gone(f, c);
  }
  if (content) zmq_msg_close(content);
}

void front_fail(front *f, const request *rq, pb_code code, const char *sentence) {
  pb_reply reply;
  char text[SENTENCE_BYTES];
  service_reply(f->s, &reply, rq->id);
  reply_error(&reply, code, sentence, text);
  front_reply(f, rq->client, rq->envelope, &reply, NULL);
}

void front_busy(front *f, const request *rq, uint32_t retry_after_ms, const char *sentence) {
  pb_reply reply;
  char text[SENTENCE_BYTES];
  service_reply(f->s, &reply, rq->id);
  reply_error(&reply, CODE(BUSY), sentence, text);
  reply.retry_after_ms = retry_after_ms;
  front_reply(f, rq->client, rq->envelope, &reply, NULL);
}

/* Tries what is parked; clients whose replies all went leave the list. */
static void retry_parked(front *f) {
  client **link = &f->parked;
  while (*link) {
    client *c = *link;
    send_result r = SEND_DONE;
    while (c->parked.count > 0 && r == SEND_DONE) {
      task *t = task_of(c->parked.first);
      r = send_frames(f, c, t->envelope, &t->header, t->has_content ? &t->content : NULL);
      if (r != SEND_DONE) break;
      task_free(task_of(list_take(&c->parked)));
      count_down(&f->s->counters.parked, 1);
    }
    if (r == SEND_GONE) client_gone(f, c);
    if (c->parked.count > 0) {
      link = &c->next_parked;
    } else {
      *link = c->next_parked;
      c->in_parked_list = false;
    }
  }
}

/* --- Tasks -------------------------------------------------------------------------------------------------------------------- */

task *front_task(front *f, const request *rq, pb_bytes path, pb_bytes after) {
  task *t = task_new(rq->client, rq->client->flow, rq->envelope, rq->id, path, after);
  if (!t) {
    front_busy(f, rq, RETRY_SLOTS_MS, "the service is out of memory");
    return NULL;
  }
  t->begin_by = rq->begin_by;
  t->home = front_home;
  return t;
}

void front_account(front *f, task *t) {
  client *c = t->client;
  f->tasks++;
  c->tasks++;
  if (t->kind == TASK_OTHER) {
    c->jobs++;
    count_up(&f->s->counters.jobs_waiting, 1);
  } else {
    c->writes++;
    count_up(&f->s->counters.writes_waiting, 1);
  }
}

static void settle(front *f, task *t) {
  client *c = t->client;
  f->tasks--;
  c->tasks--;
  if (t->kind == TASK_OTHER) {
    c->jobs--;
    count_down(&f->s->counters.jobs_waiting, 1);
  } else {
    c->writes--;
    count_down(&f->s->counters.writes_waiting, 1);
  }
  c->bytes_in -= t->charged;
  count_down(&f->s->counters.in_flight_in, t->charged);
  t->charged = 0;
  flow_release(t->flow, t->reserved);
  t->reserved = 0;
}

void front_write(front *f, task *t) { list_add(&f->writes, &t->node); }

void front_job(front *f, task *t) { list_add(&f->jobs, &t->node); }

void front_home(front *f, task *t) { front_send_task(f, t); }

void front_take_body(front *f, const request *rq, task *t) {
  t->charged = zmq_msg_size(rq->body);
  rq->client->bytes_in += t->charged;
  count_up(&f->s->counters.in_flight_in, t->charged);
  zmq_msg_move(&t->body, rq->body);
}

static void hand_over(front *f) {
  queue_put(&f->s->writes, &f->writes);
  queue_put(&f->s->jobs, &f->jobs);
}

static bool take_home(front *f) {
  list l = {0};
  mailbox_take(&f->s->replies, &l);
  bool any = l.first != NULL;
  for (node *n; (n = list_take(&l)) != NULL;) {
    task *t = task_of(n);
    if (t->kind != TASK_DELIVERY) settle(f, t);
    t->home(f, t);
  }
  return any;
}

/* --- Receiving ---------------------------------------------------------------------------------------------------------------- */

/* At most one line a second, so that a hostile peer cannot fill the log either. The address stands in the payload's metadata; the
 * first frame loses it in libzmq before 4.3.5. */
static void complain(front *f, incoming *in, const char *what) {
  if (f->now < f->next_complaint) return;
  f->next_complaint = f->now + 1000;
  const char *peer = zmq_msg_gets(in->has_body ? &in->body : &in->header, "Peer-Address");
  log_line(LOG_WARNING, what, "peer=%s malformed=%llu dropped=%llu", peer ? peer : "unknown",
           (unsigned long long)count_now(&f->s->counters.malformed), (unsigned long long)count_now(&f->s->counters.dropped));
}

static void refuse_malformed(front *f, incoming *in, request *rq) {
  const void *data = zmq_msg_data(&in->header);
  size_t len = zmq_msg_size(&in->header);
  count_up(&f->s->counters.malformed, 1);
  complain(f, in, "malformed");
  rq->id = request_salvage_id(data, len);
  const char *sentence = "the header is not a dcf.db.v1.Request";
  if (in->too_many) {
    sentence = "a message has a header and at most one body, and this one has more frames";
  } else if (len > MAX_HEADER) {
    sentence = "the header is longer than 8,192 bytes; contents belong into the body frame";
  }
  front_fail(f, rq, CODE(MALFORMED), sentence);
}

static void handle(front *f, incoming *in) {
  count_up(&f->s->counters.requests, 1);
  client *c = client_get(&f->clients, zmq_msg_data(&in->peer), zmq_msg_size(&in->peer));
  if (!c || c->parked.count >= PARKED_REPLIES) {
    count_up(&f->s->counters.dropped, 1);
    complain(f, in, c ? "client_does_not_read" : "too_many_clients");
    return;
  }
  c->seen = f->now;
  request rq = {.client = c, .envelope = in->envelope, .body = &in->body, .has_body = in->has_body};
  if (!in->too_many) rq.op = request_unpack(&f->arena, zmq_msg_data(&in->header), zmq_msg_size(&in->header));
  if (!rq.op) {
    refuse_malformed(f, in, &rq);
    return;
  }
  rq.id = rq.op->id;
  if (rq.op->timeout_ms > 0) rq.begin_by = f->now + rq.op->timeout_ms;
  if (in->has_body) count_up(&f->s->counters.bytes_in, zmq_msg_size(&in->body));
  handle_request(f, &rq);
}

/* A page that had to come from the device held everybody up: for a while reads are the workers' business. A mapped page shows as a
 * major fault, one that is read with a system call as blocks of input. */
static void notice_device_reads(front *f) {
  struct rusage usage;
  if (getrusage(RUSAGE_THREAD, &usage) != 0) return;
  long reads = usage.ru_majflt + usage.ru_inblock;
  if (reads > f->device_reads) f->cold_until = f->now + COLD_MS;
  f->device_reads = reads;
}

static bool receive(front *f) {
  int got = 0;
  f->now = service_now();
  for (; got < MESSAGES_PER_TURN; got++) {
    incoming in;
    int rc = incoming_receive(f->router, &in);
    if (rc == EINTR) continue;
    if (rc != 0) break;
    handle(f, &in);
    incoming_close(&in);
    if (got % HANDOVER_EVERY == HANDOVER_EVERY - 1) hand_over(f);
  }
  hand_over(f);
  if (got > 0) notice_device_reads(f);
  return got > 0;
}

/* --- Care --------------------------------------------------------------------------------------------------------------------- */

static void begin_stop(front *f, const char *why) {
  if (f->stopping) return;
  f->stopping = true;
  log_line(LOG_INFO, "stopping", "reason=%s requests_under_way=%zu", why, f->tasks);
  streams_stop(f);
  uploads_stop(f);
}

static void check_stop(front *f) {
  struct signalfd_siginfo info;
  if (read(f->signals, &info, sizeof info) == (ssize_t)sizeof info) begin_stop(f, "signal");
  if (atomic_load(&f->s->exit_code) != 0) begin_stop(f, "storage");
}

static void sweep_clients(front *f) {
  for (client *c = f->clients.all, *next; c; c = next) {
    next = c->next_all;
    if (f->now - c->seen > CLIENT_IDLE_MS && client_idle(c)) client_forget(&f->clients, c);
  }
  atomic_store_explicit(&f->s->counters.clients, f->clients.count, memory_order_relaxed);
}

static void look_after(front *f) {
  f->now = service_now();
  if ((f->parked || f->streams_waiting) && f->now >= f->next_retry) {
    retry_parked(f);
    streams_retry(f);
    f->next_retry = f->now + RETRY_SEND_MS;
  }
  if (f->now >= f->next_sweep) {
    check_stop(f);
    streams_sweep(f);
    uploads_sweep(f);
    sweep_clients(f);
    f->next_sweep = f->now + SWEEP_MS;
  }
  if (atomic_load_explicit(&f->s->exit_code, memory_order_relaxed) != 0) check_stop(f);
}

/* When all that was accepted is answered; replies that nobody fetches hold the end up for a moment only. */
static bool finished(front *f) {
  if (!f->stopping || f->tasks > 0) return false;
  if (count_now(&f->s->counters.streams) + count_now(&f->s->counters.uploads) > 0) return false;
  if (!f->parked) return true;
  if (f->stop_sending_at == 0) f->stop_sending_at = f->now + STOP_SEND_MS;
  return f->now >= f->stop_sending_at;
}

static void sleep_until_something(front *f) {
  hand_over(f);
  if (!mailbox_sleep(&f->s->replies)) return;
  zmq_pollitem_t items[] = {
      {.socket = f->router, .events = ZMQ_POLLIN},
      {.fd = f->s->replies.fd, .events = ZMQ_POLLIN},
      {.fd = f->signals, .events = ZMQ_POLLIN},
  };
  const counters *c = &f->s->counters;
  long timeout = f->stopping || count_now(&c->streams) + count_now(&c->uploads) > 0 ? SWEEP_MS : IDLE_MS;
  if (f->parked || f->streams_waiting) timeout = RETRY_SEND_MS;
  zmq_poll(items, 3, timeout);
  mailbox_wake(&f->s->replies);
  if (items[2].revents) check_stop(f);
}

bool front_prepare(front *f) {
  if (!client_table_init(&f->clients, &f->s->counters.in_flight_out)) return false;
  /* Numbers of an earlier start must not fit by chance: begin anywhere in 40 bits. */
  if (getrandom(&f->generation, sizeof f->generation, 0) != (ssize_t)sizeof f->generation) return false;
  f->generation = (f->generation >> 24) + 1;
  return true;
}

void front_run(front *f) {
  f->now = service_now();
  notice_device_reads(f);
  f->cold_until = 0;
  while (!finished(f)) {
    bool busy = receive(f);
    if (take_home(f)) busy = true;
    look_after(f);
    if (!busy) sleep_until_something(f);
  }
  for (client *c = f->clients.all; c; c = c->next_all) drop_parked(f, c);
}
