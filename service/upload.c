/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* upload.c - documents on their way in.
 *
 *     open --> [busy: worker opens the writer] --> [ready] <--> [busy: worker writes the chunks that wait]
 *                                                     |
 *                                                     |--> [busy: committer commits] --> gone
 *                                                     '--> [busy: worker forgets the writer] --> gone     abort, lease, client gone
 *
 * Chunks and the commit wait in `pending`, in the order in which they came; a worker gets all the chunks up to the commit at once.
 * The front owns an upload; while `busy`, the writer and what was received belong to the other thread. Offsets are judged where the
 * bytes are written, so a chunk behind a refused one is refused as well. */
#include "upload.h"

#include <stdlib.h>
#include <string.h>

#include "front.h"

struct upload {
  uint64_t number;
  client *client;
  task *closer; /* made at the open, so that forgetting the writer never lacks memory */

  store_writer *writer;
  uint64_t received;
  uint32_t crc; /* of what was received */
  int failed;   /* the store refused a chunk: all that follows gets the same */
  sdb_put_options put;
  uint8_t token[16];
  uint64_t size_hint;

  list pending;
  unsigned unanswered; /* pending chunks and those with the worker */
  bool busy, closing, committing, dead;
  bool answer_abort, abort_envelope;
  uint64_t abort_id;
  int64_t lease_until;

  uint16_t path_len;
  uint8_t path[];
};

/* --- In other threads --------------------------------------------------------------------------------------------------------- */

static void reply_progress(service *s, task *t, const upload *u, pb_code code, const char *sentence) {
  pb_reply reply;
  char text[SENTENCE_BYTES];
  service_reply(s, &reply, t->id);
  if (code != CODE(OK)) reply_error(&reply, code, sentence, text);
  reply.stream = u->number;
  reply.offset = u->received;
  reply.credit = UPLOAD_CREDIT;
  task_reply(s, t, &reply);
}

static void reply_store_failure(service *s, task *t, const upload *u, int rc) {
  char text[SENTENCE_BYTES];
  service_sentence(s, rc, text);
  reply_progress(s, t, u, code_of(rc), text);
}

static void open_run(service *s, task *t) {
  upload *u = t->object;
  if (task_expired(s, t)) {
    u->dead = true;
  } else {
    int rc = s->store.writer_open(s->store.ctx, u->path, u->path_len, u->size_hint, &u->put, &u->writer);
    u->dead = rc != SDB_OK;
    if (u->dead) {
      task_fail_store(s, t, rc);
    } else {
      reply_progress(s, t, u, CODE(OK), NULL);
    }
  }
  task_return(s, t);
}

static void write_chunk(service *s, upload *u, task *t) {
  const void *data = zmq_msg_data(&t->body);
  size_t len = zmq_msg_size(&t->body);
  if (task_expired(s, t)) return;
  if (u->failed != SDB_OK) {
    reply_store_failure(s, t, u, u->failed);
    return;
  }
  if (t->offset != u->received) {
    reply_progress(s, t, u, CODE(INVALID), "the offset of the chunk is not where the last accepted one ended");
    return;
  }
  if (t->has_digest && sdb_crc32c(0, data, len) != t->digest) {
    reply_progress(s, t, u, CODE(DIGEST_MISMATCH), "the body is not what its digest says");
    return;
  }
  int rc = s->store.writer_write(u->writer, data, len);
  if (rc != SDB_OK) {
    u->failed = rc;
    reply_store_failure(s, t, u, rc);
    return;
  }
  u->received += len;
  u->crc = sdb_crc32c(u->crc, data, len);
  reply_progress(s, t, u, CODE(OK), NULL);
}

static void chunks_run(service *s, task *t) {
  upload *u = t->object;
  while (t) {
    task *behind = t->chain;
    write_chunk(s, u, t);
    task_return(s, t);
    t = behind;
  }
}

static void forget_run(service *s, task *t) {
  upload *u = t->object;
  s->store.writer_abort(u->writer);
  u->writer = NULL;
  task_return(s, t);
}

void upload_do_commit(service *s, task *t) {
  upload *u = t->object;
  if (u->failed != SDB_OK) {
    t->rc = u->failed;
  } else if (t->has_digest && t->digest != u->crc) {
    t->refused = CODE(DIGEST_MISMATCH);
  } else {
    t->rc = s->store.writer_commit(u->writer, &t->commit);
    u->writer = NULL;
  }
  if (u->writer) s->store.writer_abort(u->writer);
  u->writer = NULL;
  u->dead = true;
}

/* --- In the front ------------------------------------------------------------------------------------------------------------- */

static upload *find(front *f, const client *c, uint64_t number) {
  upload *u = f->uploads[number % MAX_SLOTS];
  return u && u->number == number && u->client == c && !u->closing ? u : NULL;
}

static upload *find_or_fail(front *f, const request *rq, uint64_t number) {
  upload *u = find(f, rq->client, number);
  if (!u) front_fail(f, rq, CODE(NOT_FOUND), "this connection has no such upload, or it has ended");
  return u;
}

static void answer_pending(front *f, upload *u) {
  for (node *n; (n = list_take(&u->pending)) != NULL;) {
    task *t = task_of(n);
    t->home = front_home;
    task_fail(f->s, t, CODE(NOT_FOUND), "the upload has ended");
    task_return(f->s, t);
  }
}

static void destroy(front *f, upload *u) {
  client *c = u->client;
  answer_pending(f, u);
  f->uploads[u->number % MAX_SLOTS] = NULL;
  c->uploads--;
  count_down(&f->s->counters.uploads, 1);
  if (u->answer_abort) {
    pb_reply reply;
    service_reply(f->s, &reply, u->abort_id);
    front_reply(f, c, u->abort_envelope, &reply, NULL);
  }
  task_free(u->closer);
  free(u);
}

/* Ends it now, or when it is home. The writer is forgotten by a worker. */
static void finish(front *f, upload *u) {
  u->closing = true;
  if (u->busy) return;
  if (!u->writer) {
    destroy(f, u);
    return;
  }
  u->busy = true;
  front_account(f, u->closer);
  front_job(f, u->closer);
}

static void pump(front *f, upload *u) {
  if (u->busy || u->closing || !u->pending.first) return;
  u->busy = true;
  task *first = task_of(list_take(&u->pending));
  if (first->kind == TASK_UPLOAD_COMMIT) {
    front_write(f, first);
    return;
  }
  task *last = first;
  while (u->pending.first && task_of(u->pending.first)->kind != TASK_UPLOAD_COMMIT) {
    last->chain = task_of(list_take(&u->pending));
    last = last->chain;
  }
  front_job(f, first);
}

/* The upload is back from another thread, whose reply was just sent. */
static void come_home(front *f, upload *u) {
  u->busy = false;
  u->lease_until = f->now + f->s->options->stream_lease_ms;
  if (u->dead || u->closing || (f->stopping && !u->committing)) {
    finish(f, u);
  } else {
    pump(f, u);
  }
}

static void open_home(front *f, task *t) {
  upload *u = t->object;
  front_send_task(f, t);
  come_home(f, u);
}

static void chunk_home(front *f, task *t) {
  upload *u = t->object;
  bool more = t->chain != NULL;
  u->unanswered--;
  front_send_task(f, t);
  if (!more) come_home(f, u);
}

static void commit_home(front *f, task *t) {
  upload *u = t->object;
  u->committing = false;
  front_send_task(f, t);
  come_home(f, u);
}

static void closer_home(front *f, task *t) { destroy(f, ((upload *)t->object)); }

static upload *upload_new(front *f, const request *rq, size_t slot) {
  const Dcf__Db__V1__UploadOpen *op = rq->op->upload_open;
  upload *u = calloc(1, sizeof *u + op->path.len);
  if (!u) {
    front_busy(f, rq, RETRY_SLOTS_MS, "the service is out of memory");
    return NULL;
  }
  u->closer = front_task(f, rq, (pb_bytes){0}, (pb_bytes){0});
  if (!u->closer) {
    free(u);
    return NULL;
  }
  u->closer->object = u;
  u->closer->run = forget_run;
  u->closer->home = closer_home;
  u->number = f->generation++ * MAX_SLOTS + slot;
  u->client = rq->client;
  u->lease_until = f->now + f->s->options->stream_lease_ms;
  u->size_hint = SDB_UNKNOWN_SIZE;
  if (op->has_size_case == DCF__DB__V1__UPLOAD_OPEN__HAS_SIZE_SIZE) /* the number that means unknown is too large as well */
    u->size_hint = op->size < SDB_UNKNOWN_SIZE ? op->size : SDB_UNKNOWN_SIZE - 1;
  sdb_put_options_init(&u->put);
  u->put.durability = service_durability(f->s, (sdb_durability)op->durability);
  u->put.defer = u->put.durability == SDB_DURABLE;
  if (op->has_expect_version_case == DCF__DB__V1__UPLOAD_OPEN__HAS_EXPECT_VERSION_EXPECT_VERSION)
    u->put.expect = op->expect_version;
  if (op->token.len > 0) {
    memcpy(u->token, op->token.data, sizeof u->token);
    u->put.token = u->token;
  }
  u->path_len = (uint16_t)op->path.len;
  memcpy(u->path, op->path.data, op->path.len);
  return u;
}

void upload_open(front *f, const request *rq) {
  const Dcf__Db__V1__UploadOpen *op = rq->op->upload_open;
  bool conditional = op->has_expect_version_case == DCF__DB__V1__UPLOAD_OPEN__HAS_EXPECT_VERSION_EXPECT_VERSION;
  if (!front_write_ok(f, rq, op->path, op->durability, op->token, conditional ? &op->expect_version : NULL)) return;
  size_t slot = 0;
  while (slot < MAX_SLOTS && f->uploads[slot]) slot++;
  if (slot == MAX_SLOTS || rq->client->uploads >= CLIENT_SLOTS) {
    front_busy(f, rq, RETRY_SLOTS_MS, "too many uploads are open; commit or abort one first");
    return;
  }
  upload *u = upload_new(f, rq, slot);
  if (!u) return;
  task *t = front_task(f, rq, (pb_bytes){0}, (pb_bytes){0});
  if (!t) {
    task_free(u->closer);
    free(u);
    return;
  }
  t->object = u;
  t->run = open_run;
  t->home = open_home;
  f->uploads[slot] = u;
  rq->client->uploads++;
  count_up(&f->s->counters.uploads, 1);
  count_up(&f->s->counters.uploads_opened, 1);
  u->busy = true;
  front_account(f, t);
  front_job(f, t);
}

void upload_chunk(front *f, const request *rq) {
  const Dcf__Db__V1__UploadChunk *op = rq->op->upload_chunk;
  size_t len = zmq_msg_size(rq->body);
  if (len == 0 || len > MAX_BODY) {
    front_fail(f, rq, len ? CODE(TOO_LARGE) : CODE(INVALID), "a chunk has a body of 1 byte to 1 MB");
    return;
  }
  upload *u = find_or_fail(f, rq, op->stream);
  if (!u) return;
  if (u->committing) {
    front_fail(f, rq, CODE(INVALID), "the upload is being committed");
    return;
  }
  if (u->unanswered >= UPLOAD_PENDING) {
    front_busy(f, rq, RETRY_BYTES_MS, "more chunks of the upload are unanswered than its credit allows");
    return;
  }
  if (!front_room_in(f, rq, len)) return;
  task *t = front_task(f, rq, (pb_bytes){0}, (pb_bytes){0});
  if (!t) return;
  t->object = u;
  t->offset = op->offset;
  t->has_digest = op->has_digest_case == DCF__DB__V1__UPLOAD_CHUNK__HAS_DIGEST_DIGEST;
  t->digest = t->has_digest ? op->digest : 0;
  t->run = chunks_run;
  t->home = chunk_home;
  front_take_body(f, rq, t);
  front_account(f, t);
  u->unanswered++;
  u->lease_until = f->now + f->s->options->stream_lease_ms;
  list_add(&u->pending, &t->node);
  pump(f, u);
}

void upload_commit(front *f, const request *rq) {
  const Dcf__Db__V1__UploadCommit *op = rq->op->upload_commit;
  upload *u = find_or_fail(f, rq, op->stream);
  if (!u) return;
  if (u->committing) {
    front_fail(f, rq, CODE(INVALID), "the upload is being committed");
    return;
  }
  task *t = front_task(f, rq, (pb_bytes){.len = u->path_len, .data = u->path}, (pb_bytes){0});
  if (!t) return;
  t->kind = TASK_UPLOAD_COMMIT;
  t->object = u;
  t->durability = u->put.durability;
  t->has_token = u->put.token != NULL;
  memcpy(t->token, u->token, sizeof t->token);
  t->has_digest = op->has_digest_case == DCF__DB__V1__UPLOAD_COMMIT__HAS_DIGEST_DIGEST;
  t->digest = t->has_digest ? op->digest : 0;
  t->home = commit_home;
  front_account(f, t);
  u->committing = true;
  list_add(&u->pending, &t->node);
  pump(f, u);
}

void upload_abort(front *f, const request *rq) {
  upload *u = find_or_fail(f, rq, rq->op->upload_abort->stream);
  if (!u) return;
  if (u->committing) {
    front_fail(f, rq, CODE(INVALID), "the upload is being committed");
    return;
  }
  u->answer_abort = true;
  u->abort_id = rq->id;
  u->abort_envelope = rq->envelope;
  finish(f, u);
}

/* Accepted work is finished first: an upload with something pending has not been silent. */
void uploads_sweep(front *f) {
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    upload *u = f->uploads[i];
    if (!u || u->busy) continue;
    if (u->closing) {
      finish(f, u);
    } else if (f->now > u->lease_until) {
      count_up(&f->s->counters.leases_ended, 1);
      finish(f, u);
    }
  }
}

/* A commit that was accepted is done even though nobody waits for its answer. */
void uploads_drop(front *f, client *c) {
  if (c->uploads == 0) return;
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    upload *u = f->uploads[i];
    if (!u || u->client != c || u->committing) continue;
    u->closing = true;
    u->answer_abort = false;
  }
}

void uploads_stop(front *f) {
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    upload *u = f->uploads[i];
    if (u && !u->committing) finish(f, u);
  }
}
