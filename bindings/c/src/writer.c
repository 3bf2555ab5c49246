/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* writer.c - writing a document piece by piece.
 *
 *     caller's bytes --> [chunk being filled] --full--> ring: [sent][sent][sent] --answered--> gone
 *
 * As many chunks are unanswered as the service gives credit for. They stay in the ring until they are answered, because a busy
 * service may refuse one: those behind it are then refused as well, and when the last has been answered all are sent again in their
 * order.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

typedef struct sent_chunk {
  zmq_msg_t body;
  uint64_t offset;
  bool taken; /* by the service */
} sent_chunk;

struct sdbc_writer {
  sdbc *h;
  sdbc_put_options options;
  uint8_t token[CI_TOKEN];
  uint64_t size_hint;
  uint64_t stream;
  uint64_t queued; /* bytes that went into the ring */
  uint32_t digest; /* of those */
  zmq_msg_t chunk; /* being filled, while `filling` */
  size_t filled;
  bool filling;
  sent_chunk ring[CI_WRITER_CREDIT];
  unsigned first, count;
  unsigned flying; /* requests without an answer */
  unsigned credit;
  bool refused; /* a chunk was: nothing new is sent before all are sent again */
  uint32_t refused_ms;
  unsigned refusals; /* in a row */
  int failed;
  char message[CI_MESSAGE];
  size_t path_len;
  uint8_t path[SDBC_MAX_PATH];
};

static const char upload_lost[] =
    "the upload is gone, with the connection or after a pause longer than the service's lease; nothing of it is stored, begin "
    "again";

static void set_credit(sdbc_writer *w, uint32_t credit) {
  w->credit = credit == 0 ? 1 : credit > CI_WRITER_CREDIT ? CI_WRITER_CREDIT : credit;
}

/* --- Chunks ------------------------------------------------------------------------------------------------------------------- */

static void drop_taken(sdbc_writer *w) {
  while (w->count > 0 && w->ring[w->first].taken) {
    zmq_msg_close(&w->ring[w->first].body);
    w->first = (w->first + 1) % CI_WRITER_CREDIT;
    w->count--;
  }
}

static void fail_writer(sdbc_writer *w, int code, const char *sentence) {
  if (w->failed) return;
  w->failed = code;
  ci_copy_sentence(w->message, sentence);
}

static void chunk_answered(sdbc *h, ci_request *r, int code, const ci_reply *reply) {
  sdbc_writer *w = r->context;
  sent_chunk *chunk = r->user;
  w->flying--;
  if (code == SDBC_OK && reply->head->offset != chunk->offset + zmq_msg_size(&chunk->body)) {
    fail_writer(w, SDBC_PROTOCOL, "the service counts the bytes of the upload otherwise");
  } else if (code == SDBC_OK) {
    chunk->taken = true;
    w->refusals = 0;
    set_credit(w, reply->head->credit);
    drop_taken(w);
  } else if (code == SDBC_BUSY) {
    w->refused = true;
    if (reply->head->retry_after_ms > w->refused_ms) w->refused_ms = reply->head->retry_after_ms;
  } else if (code == SDBC_TIMEOUT || code == SDBC_NOT_FOUND || code == SDBC_STOPPING) {
    fail_writer(w, SDBC_TIMEOUT, upload_lost);
  } else if (code != SDBC_INVALID || !w->refused) {
    fail_writer(w, code, h->message);
  }
}

static int send_chunk(sdbc_writer *w, sent_chunk *chunk) {
  sdbc *h = w->h;
  Dcf__Db__V1__UploadChunk message = DCF__DB__V1__UPLOAD_CHUNK__INIT;
  message.stream = w->stream;
  message.offset = chunk->offset;
  message.has_digest_case = DCF__DB__V1__UPLOAD_CHUNK__HAS_DIGEST_DIGEST;
  message.digest = sdbc_crc32c(0, zmq_msg_data(&chunk->body), zmq_msg_size(&chunk->body));
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_UPLOAD_CHUNK;
  request.upload_chunk = &message;
  ci_request *r = ci_take(h);
  if (!r) return ci_fail(h, SDBC_AGAIN, "too many requests are in flight");
  if (!ci_pack(h, r, &request, NULL, 0)) {
    ci_release(h, r);
    return ci_fail(h, SDBC_NO_MEMORY, "no memory for a chunk");
  }
  zmq_msg_init(&r->body);
  zmq_msg_copy(&r->body, &chunk->body);
  r->has_body = true;
  r->once = true;
  r->done = chunk_answered;
  r->context = w;
  r->user = chunk;
  w->flying++;
  ci_start(h, r);
  return SDBC_OK;
}

static int send_again(sdbc_writer *w) {
  sdbc *h = w->h;
  if (++w->refusals > h->options.retries) return ci_fail(h, SDBC_BUSY, "%s is too busy to take the upload", h->endpoint);
  uint32_t ms = ci_backoff(h, w->refusals);
  int code = ci_pause(h, w->refused_ms > ms ? w->refused_ms : ms);
  w->refused = false;
  w->refused_ms = 0;
  for (unsigned i = 0; code == SDBC_OK && i < w->count; i++) code = send_chunk(w, &w->ring[(w->first + i) % CI_WRITER_CREDIT]);
  return code;
}

/* Until at most `most` chunks are unanswered and none is refused. */
static int settle(sdbc_writer *w, unsigned most) {
  int code = SDBC_OK;
  while (code == SDBC_OK && !w->failed && (w->flying > most || w->refused)) {
    code = w->refused && w->flying == 0 ? send_again(w) : ci_step(w->h, CI_FOREVER);
  }
  if (code != SDBC_OK) fail_writer(w, code, w->h->message);
  return w->failed ? ci_fail(w->h, w->failed, "%s", w->message) : SDBC_OK;
}

/* Sends what was filled so far. */
static int push(sdbc_writer *w) {
  int code = settle(w, w->credit - 1);
  if (code != SDBC_OK) return code;
  sent_chunk *chunk = &w->ring[(w->first + w->count) % CI_WRITER_CREDIT];
  *chunk = (sent_chunk){.offset = w->queued};
  if (w->filled == CI_CHUNK) {
    zmq_msg_init(&chunk->body);
    zmq_msg_move(&chunk->body, &w->chunk);
  } else {
    if (zmq_msg_init_size(&chunk->body, w->filled) != 0) return ci_fail(w->h, SDBC_NO_MEMORY, "no memory for a chunk");
    memcpy(zmq_msg_data(&chunk->body), zmq_msg_data(&w->chunk), w->filled);
  }
  zmq_msg_close(&w->chunk);
  w->digest = sdbc_crc32c(w->digest, zmq_msg_data(&chunk->body), w->filled);
  w->queued += w->filled;
  w->filling = false;
  w->filled = 0;
  w->count++;
  return send_chunk(w, chunk);
}

/* --- The calls ---------------------------------------------------------------------------------------------------------------- */

static int open_upload(sdbc_writer *w) {
  Dcf__Db__V1__UploadOpen open = DCF__DB__V1__UPLOAD_OPEN__INIT;
  open.path = (ProtobufCBinaryData){.data = w->path, .len = w->path_len};
  open.token = (ProtobufCBinaryData){.data = w->token, .len = CI_TOKEN};
  open.durability = (Dcf__Db__V1__Durability)w->options.durability;
  if (w->size_hint != SDBC_UNKNOWN_SIZE) {
    open.has_size_case = DCF__DB__V1__UPLOAD_OPEN__HAS_SIZE_SIZE;
    open.size = w->size_hint;
  }
  if (w->options.expect != SDBC_ANY) {
    open.has_expect_version_case = DCF__DB__V1__UPLOAD_OPEN__HAS_EXPECT_VERSION_EXPECT_VERSION;
    open.expect_version = w->options.expect;
  }
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.epoch = w->options.epoch;
  request.op_case = DCF__DB__V1__REQUEST__OP_UPLOAD_OPEN;
  request.upload_open = &open;
  ci_reply reply;
  int code = ci_call(w->h, &request, NULL, &reply);
  if (code != SDBC_OK) return code;
  if (!reply.head->stream) return ci_protocol(w->h, "an upload without a number");
  w->stream = reply.head->stream;
  set_credit(w, reply.head->credit);
  return SDBC_OK;
}

int sdbc_writer_open(sdbc *h, const void *path, size_t path_len, uint64_t size_hint, const sdbc_put_options *options,
                     sdbc_writer **writer) {
  int code = ci_enter(h);
  if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
  if (code != SDBC_OK) return code;
  sdbc_writer *w = calloc(1, sizeof *w);
  if (!w) return ci_fail(h, SDBC_NO_MEMORY, "no memory for a writer");
  w->h = h;
  w->size_hint = size_hint;
  w->path_len = path_len;
  memcpy(w->path, path, path_len);
  code = ci_put_options(h, options, &w->options, w->token);
  if (code == SDBC_OK) code = open_upload(w);
  if (code != SDBC_OK) {
    free(w);
    return code;
  }
  *writer = w;
  return SDBC_OK;
}

int sdbc_writer_write(sdbc_writer *w, const void *data, size_t len) {
  int code = ci_enter(w->h);
  if (code != SDBC_OK) return code;
  if (w->failed) return ci_fail(w->h, w->failed, "%s", w->message);
  if (!data && len > 0) return ci_fail(w->h, SDBC_INVALID, "there is no content");
  const uint8_t *from = data;
  while (len > 0) {
    if (!w->filling && zmq_msg_init_size(&w->chunk, CI_CHUNK) != 0) return ci_fail(w->h, SDBC_NO_MEMORY, "no memory for a chunk");
    w->filling = true;
    size_t n = CI_CHUNK - w->filled < len ? CI_CHUNK - w->filled : len;
    memcpy((uint8_t *)zmq_msg_data(&w->chunk) + w->filled, from, n);
    w->filled += n;
    from += n;
    len -= n;
    if (w->filled < CI_CHUNK) continue;
    code = push(w);
    if (code != SDBC_OK) {
      fail_writer(w, code, w->h->message);
      return code;
    }
  }
  return SDBC_OK;
}

static void release(sdbc_writer *w) {
  ci_forget(w->h, w);
  if (w->filling) zmq_msg_close(&w->chunk);
  for (unsigned i = 0; i < w->count; i++) zmq_msg_close(&w->ring[(w->first + i) % CI_WRITER_CREDIT].body);
  free(w);
}

void sdbc_writer_abort(sdbc_writer *w) {
  if (!w) return;
  Dcf__Db__V1__UploadAbort message = DCF__DB__V1__UPLOAD_ABORT__INIT;
  message.stream = w->stream;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_UPLOAD_ABORT;
  request.upload_abort = &message;
  (void)ci_send_only(w->h, &request); /* when it cannot be sent, the upload ends with its connection */
  release(w);
}

/* The commit was asked for and the answer lost: the document itself tells whether it was done. */
static int look_whether_stored(sdbc_writer *w, sdbc_commit *commit) {
  sdbc_info info;
  int code = sdbc_stat(w->h, w->path, w->path_len, SDBC_CURRENT, &info);
  if (code == SDBC_OK && info.size == w->queued && info.digest == w->digest) {
    if (commit) *commit = (sdbc_commit){.sequence = w->h->sequence, .epoch = w->h->epoch, .info = info, .unknown = true};
    return SDBC_OK;
  }
  return ci_fail(w->h, SDBC_TIMEOUT, "%s: the answer to the commit was lost, and something else is stored now", w->h->endpoint);
}

static int commit_upload(sdbc_writer *w, sdbc_commit *commit) {
  Dcf__Db__V1__UploadCommit message = DCF__DB__V1__UPLOAD_COMMIT__INIT;
  message.stream = w->stream;
  message.has_digest_case = DCF__DB__V1__UPLOAD_COMMIT__HAS_DIGEST_DIGEST;
  message.digest = w->digest;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_UPLOAD_COMMIT;
  request.upload_commit = &message;
  ci_reply reply;
  bool unknown = false;
  int code = ci_call(w->h, &request, &(ci_call_options){.unknown = &unknown}, &reply);
  if (code == SDBC_OK) return ci_commit(w->h, reply.head, commit);
  if (code == SDBC_NOT_FOUND && unknown) return look_whether_stored(w, commit);
  return code == SDBC_NOT_FOUND ? ci_fail(w->h, SDBC_TIMEOUT, "%s", upload_lost) : code;
}

int sdbc_writer_commit(sdbc_writer *w, sdbc_commit *commit) {
  sdbc *h = w->h;
  int code = ci_enter(h);
  if (code == SDBC_OK && w->failed) code = ci_fail(h, w->failed, "%s", w->message);
  if (code == SDBC_OK && w->size_hint != SDBC_UNKNOWN_SIZE && w->queued + w->filled != w->size_hint) {
    code = ci_fail(h, SDBC_INVALID, "%llu bytes were announced and %llu written", (unsigned long long)w->size_hint,
                   (unsigned long long)(w->queued + w->filled));
  }
  if (code == SDBC_OK && w->filled > 0) code = push(w);
  if (code == SDBC_OK) code = settle(w, 0);
  if (code == SDBC_OK) code = commit_upload(w, commit);
  if (code == SDBC_OK) {
    release(w);
  } else {
    sdbc_writer_abort(w);
  }
  return code;
}
