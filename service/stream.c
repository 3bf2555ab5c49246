/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* stream.c - documents on their way out, chunk by chunk, under the client's credit.
 *
 *              credit, room           turn done, more to come
 *     open --> [ready] --> [busy: a worker reads up to 4 chunks] --> [ready] ... --> gone
 *                 |                                                     ^
 *                 '-- no credit: rests until credit, close or lease ----'  no room for bytes, or parked replies: tried again soon
 *
 * The front owns a stream and lends it to one worker at a time: `busy` says who has `reader` and `offset`. Chunks are deliveries:
 * tasks of their own, sent in the order in which the worker made them. A stream that must end while a worker has it is `closing`,
 * and ends when it comes home. Nothing but home and the sweep destroys streams, so a handler can go on using one after a failed
 * send. */
#include <stdatomic.h>
#include <stdlib.h>

#include "front.h"

struct stream {
  uint64_t number;
  client *client;
  bool envelope;
  uint64_t id; /* of the open; every chunk carries it */
  task *job;   /* one for all turns; the open's names are in it */

  store_reader *reader;
  uint64_t offset, end;
  uint32_t chunk;
  bool ended; /* the last chunk, or the failure, was sent */
  atomic_bool cancel;

  unsigned credit;
  bool busy, waiting, closing;
  bool answer_close; /* the close is answered when the stream is home */
  bool close_envelope;
  uint64_t close_id;
  pb_code end_code; /* not OK: the client is told that the service ended the stream, and why */
  const char *end_sentence;
  int64_t lease_until;
};

/* --- In a worker -------------------------------------------------------------------------------------------------------------- */

static void deliver(service *s, task *d) {
  list l = {0};
  list_add(&l, &d->node);
  mailbox_put(&s->replies, &l);
}

static task *delivery_new(const stream *st) {
  task *d = task_new(st->client, st->job->flow, st->envelope, st->id, (pb_bytes){0}, (pb_bytes){0});
  if (!d) return NULL;
  d->kind = TASK_DELIVERY;
  d->home = front_home;
  return d;
}

/* Says that the stream has failed. Without memory even for that the stream ends silently, and the client's patience with it. */
static void deliver_failure(service *s, stream *st, pb_code code, const char *sentence) {
  st->ended = true;
  task *d = delivery_new(st);
  if (!d) return;
  pb_reply reply;
  char text[SENTENCE_BYTES];
  service_reply(s, &reply, st->id);
  reply_error(&reply, code, sentence, text);
  reply.stream = st->number;
  reply.offset = st->offset;
  reply.last = true;
  task_reply(s, d, &reply);
  deliver(s, d);
}

static void deliver_store_failure(service *s, stream *st, int rc) {
  char text[SENTENCE_BYTES];
  service_sentence(s, rc, text);
  deliver_failure(s, st, code_of(rc), text);
}

static int open_reader(service *s, stream *st, task *job) {
  int rc = s->store.reader_open(s->store.ctx, job->path, job->path_len, job->version, &st->reader);
  if (rc != SDB_OK) return rc;
  uint64_t size = s->store.reader_info(st->reader)->size;
  if (job->offset > size) return SDB_INVALID;
  uint64_t rest = size - job->offset;
  st->offset = job->offset;
  st->end = job->length > 0 && job->length < rest ? job->offset + job->length : size;
  return st->offset > 0 ? s->store.reader_seek(st->reader, st->offset) : SDB_OK;
}

static void open_run(service *s, task *job) {
  stream *st = job->object;
  int rc = SDB_OK;
  pb_reply reply;
  service_reply(s, &reply, st->id);
  if (job->begin_by > 0 && service_now() > job->begin_by) {
    deliver_failure(s, st, CODE(TIMED_OUT), "the request waited longer than its timeout_ms and was not begun");
  } else if ((rc = open_reader(s, st, job)) == SDB_INVALID) {
    deliver_failure(s, st, CODE(INVALID), "the offset lies beyond the end of the document");
  } else if (rc != SDB_OK) {
    deliver_store_failure(s, st, rc);
  } else {
    pb_info info;
    info_fill(&info, s->store.reader_info(st->reader));
    reply.info = &info;
    reply.offset = st->offset;
    reply.last = st->ended = st->offset == st->end;
    reply.stream = st->ended ? 0 : st->number;
    reply.credit = job->limit;
    task *d = delivery_new(st);
    if (d) {
      task_reply(s, d, &reply);
      deliver(s, d);
    } else {
      st->ended = true;
    }
  }
  task_return(s, job);
}

static int read_fully(service *s, stream *st, uint8_t *buf, size_t want) {
  size_t have = 0;
  while (have < want) {
    size_t got = 0;
    int rc = s->store.reader_read(st->reader, buf + have, want - have, &got);
    if (rc != SDB_OK) return rc;
    if (got == 0) return SDB_INTERNAL;
    have += got;
  }
  return SDB_OK;
}

static int send_chunk(service *s, stream *st, task *job) {
  size_t want = st->end - st->offset < st->chunk ? (size_t)(st->end - st->offset) : st->chunk;
  task *d = delivery_new(st);
  if (!d) return SDB_NO_MEMORY;
  block *b = task_block(job, want);
  if (!b) {
    task_free(d);
    return SDB_NO_MEMORY;
  }
  int rc = read_fully(s, st, b->data, want);
  if (rc != SDB_OK) {
    block_free(b);
    task_free(d);
    return rc;
  }
  pb_reply reply;
  service_reply(s, &reply, st->id);
  reply.stream = st->number;
  reply.offset = st->offset;
  reply.last = st->offset + want == st->end;
  reply.has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
  reply.body_digest = sdb_crc32c(0, b->data, want);
  d->has_content = block_to_message(b, want, &d->content);
  if (!d->has_content) {
    task_free(d);
    return SDB_NO_MEMORY;
  }
  task_reply(s, d, &reply);
  st->offset += want;
  st->ended = reply.last;
  deliver(s, d);
  return SDB_OK;
}

static void turn_run(service *s, task *job) {
  stream *st = job->object;
  for (unsigned i = 0; i < job->budget && !st->ended && !atomic_load(&st->cancel); i++) {
    int rc = send_chunk(s, st, job);
    if (rc != SDB_OK) deliver_store_failure(s, st, rc);
  }
  task_return(s, job);
}

/* --- In the front ------------------------------------------------------------------------------------------------------------- */

static stream *find(front *f, const client *c, uint64_t number) {
  stream *st = f->streams[number % MAX_SLOTS];
  return st && st->number == number && st->client == c && !st->closing ? st : NULL;
}

static void say_end(front *f, const stream *st) {
  pb_reply reply;
  char text[SENTENCE_BYTES];
  service_reply(f->s, &reply, st->id);
  reply_error(&reply, st->end_code, st->end_sentence, text);
  reply.stream = st->number;
  reply.offset = st->offset;
  reply.last = true;
  front_reply(f, st->client, st->envelope, &reply, NULL);
}

static void destroy(front *f, stream *st) {
  client *c = st->client;
  f->streams[st->number % MAX_SLOTS] = NULL;
  if (st->end_code != CODE(OK) && !st->ended) say_end(f, st);
  if (st->answer_close) {
    pb_reply reply;
    service_reply(f->s, &reply, st->close_id);
    front_reply(f, c, st->close_envelope, &reply, NULL);
  }
  if (st->reader) f->s->store.reader_close(st->reader);
  c->streams--;
  count_down(&f->s->counters.streams, 1);
  task_free(st->job);
  free(st);
}

/* Ends it now, or when its worker is done with it. */
static void finish(front *f, stream *st) {
  st->closing = true;
  atomic_store(&st->cancel, true);
  if (!st->busy) destroy(f, st);
}

static void submit(front *f, stream *st) {
  st->busy = true;
  front_account(f, st->job);
  front_job(f, st->job);
}

/* Gives it a turn, if it has credit and there is room for the bytes. */
static void pump(front *f, stream *st) {
  st->waiting = false;
  if (st->busy || st->closing || st->credit == 0) return;
  unsigned chunks = st->credit < CHUNKS_PER_TURN ? st->credit : CHUNKS_PER_TURN;
  uint64_t rest = st->end - st->offset;
  uint64_t bytes = (uint64_t)chunks * st->chunk < rest ? (uint64_t)chunks * st->chunk : rest;
  bool room = st->client->parked.count == 0 && flow_reserve(st->client->flow, (size_t)bytes);
  if (!room && st->client->parked.count == 0) {
    chunks = 1;
    bytes = st->chunk < rest ? st->chunk : rest;
    room = flow_reserve(st->client->flow, (size_t)bytes);
  }
  if (!room) {
    st->waiting = true;
    f->streams_waiting = true;
    return;
  }
  st->credit -= chunks;
  st->job->reserved = (size_t)bytes;
  st->job->budget = chunks;
  submit(f, st);
}

static void job_home(front *f, task *t) {
  stream *st = t->object;
  st->busy = false;
  t->run = turn_run;
  st->lease_until = f->now + f->s->options->stream_lease_ms;
  if (st->ended || st->closing) {
    destroy(f, st);
  } else {
    pump(f, st);
  }
}

static size_t free_slot(front *f) {
  size_t i = 0;
  while (i < MAX_SLOTS && f->streams[i]) i++;
  return i;
}

static stream *stream_new(front *f, const request *rq, size_t slot) {
  const Dcf__Db__V1__StreamOpen *op = rq->op->stream_open;
  stream *st = calloc(1, sizeof *st);
  if (!st) {
    front_busy(f, rq, RETRY_SLOTS_MS, "the service is out of memory");
    return NULL;
  }
  st->job = front_task(f, rq, op->path, (pb_bytes){0});
  if (!st->job) {
    free(st);
    return NULL;
  }
  st->number = f->generation++ * MAX_SLOTS + slot;
  st->client = rq->client;
  st->envelope = rq->envelope;
  st->id = rq->id;
  st->chunk = op->chunk_size ? op->chunk_size : CHUNK_DEFAULT;
  st->credit = op->credit ? op->credit : CREDIT_DEFAULT;
  if (st->credit > CREDIT_MAX) st->credit = CREDIT_MAX;
  st->lease_until = f->now + f->s->options->stream_lease_ms;
  st->job->object = st;
  st->job->limit = st->credit;
  st->job->version = op->version;
  st->job->offset = op->offset;
  st->job->length = op->length;
  st->job->run = open_run;
  st->job->home = job_home;
  return st;
}

void stream_open(front *f, const request *rq) {
  const Dcf__Db__V1__StreamOpen *op = rq->op->stream_open;
  if (!front_path_ok(f, rq, op->path)) return;
  if (op->chunk_size > CHUNK_MAX) {
    front_fail(f, rq, CODE(INVALID), "a chunk has at most 1 MB");
    return;
  }
  size_t slot = free_slot(f);
  if (slot == MAX_SLOTS || rq->client->streams >= CLIENT_SLOTS) {
    front_busy(f, rq, RETRY_SLOTS_MS, "too many streams are open; close one first");
    return;
  }
  stream *st = stream_new(f, rq, slot);
  if (!st) return;
  f->streams[slot] = st;
  rq->client->streams++;
  count_up(&f->s->counters.streams, 1);
  count_up(&f->s->counters.streams_opened, 1);
  submit(f, st);
}

void stream_credit(front *f, const request *rq) {
  const Dcf__Db__V1__StreamCredit *op = rq->op->stream_credit;
  stream *st = find(f, rq->client, op->stream);
  if (!st) {
    front_fail(f, rq, CODE(NOT_FOUND), "this connection has no such stream, or it has ended");
    return;
  }
  st->credit = op->credit < CREDIT_MAX - st->credit ? st->credit + op->credit : CREDIT_MAX;
  st->lease_until = f->now + f->s->options->stream_lease_ms;
  pump(f, st);
}

void stream_close(front *f, const request *rq) {
  stream *st = find(f, rq->client, rq->op->stream_close->stream);
  if (!st) {
    front_fail(f, rq, CODE(NOT_FOUND), "this connection has no such stream, or it has ended");
    return;
  }
  st->answer_close = true;
  st->close_id = rq->id;
  st->close_envelope = rq->envelope;
  finish(f, st);
}

void streams_retry(front *f) {
  if (!f->streams_waiting) return;
  f->streams_waiting = false;
  /* Begin elsewhere each time, so that the room that came free does not always go to the same. */
  size_t begin = (size_t)f->generation++ % MAX_SLOTS;
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    stream *st = f->streams[(begin + i) % MAX_SLOTS];
    if (st && st->waiting) pump(f, st);
  }
}

void streams_sweep(front *f) {
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    stream *st = f->streams[i];
    if (!st || st->busy) continue;
    if (st->closing) {
      destroy(f, st);
    } else if (f->now > st->lease_until) {
      count_up(&f->s->counters.leases_ended, 1);
      st->end_code = CODE(TIMED_OUT);
      st->end_sentence = "the stream made no progress for the time of its lease";
      finish(f, st);
    }
  }
}

void streams_drop(front *f, client *c) {
  if (c->streams == 0) return;
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    stream *st = f->streams[i];
    if (!st || st->client != c) continue;
    st->closing = true;
    st->answer_close = false;
    st->end_code = CODE(OK);
    atomic_store(&st->cancel, true);
  }
}

void streams_stop(front *f) {
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    stream *st = f->streams[i];
    if (!st) continue;
    if (!st->closing) {
      st->end_code = CODE(STOPPING);
      st->end_sentence = "the service is shutting down";
    }
    finish(f, st);
  }
}
