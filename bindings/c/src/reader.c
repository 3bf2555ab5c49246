/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* reader.c - reading a document piece by piece.
 *
 *     0 ....... start ....... position ....... arrived ............... end ....... size
 *               |<-- handed out -->|<-- ring of chunks -->|<-- to come -->|
 *
 * The service sends as many chunks as it has credit for; one is granted again for each that was handed out. `arrived` is all that
 * is needed to go on after a lost connection: the same version is opened again from there. A failure shows once the ring is empty.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct sdbc_reader {
  sdbc *h;
  sdbc_reader *next;
  uint64_t stream, open_id; /* stream 0: none is open */
  sdbc_info info;
  uint64_t start, position, arrived, end;
  zmq_msg_t ring[CI_READER_CREDIT];
  unsigned first, count;
  size_t used;        /* bytes of the first chunk handed out */
  unsigned owed;      /* chunks handed out, credit not granted yet */
  unsigned fruitless; /* times it was opened since the last chunk */
  int64_t last_news;  /* ms: when the stream was opened or a chunk came */
  uint32_t digest;    /* of [start, arrived) */
  int failed;         /* SDBC_OK, or why nothing more comes */
  char message[CI_MESSAGE];
  size_t path_len;
  uint8_t path[SDBC_MAX_PATH];
};

static void fail_reader(sdbc_reader *reader, int code, const char *what) {
  reader->stream = 0;
  reader->failed = code;
  ci_say(reader->message, "%s: %s", reader->h->endpoint, what);
}

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

/* Opens a stream for [arrived, end); length 0 means to the end of the document. */
static int open_stream(sdbc_reader *reader, uint32_t version, uint64_t length, ci_reply *reply, sdbc_info *info) {
  Dcf__Db__V1__StreamOpen open = DCF__DB__V1__STREAM_OPEN__INIT;
  open.path = (ProtobufCBinaryData){.data = reader->path, .len = reader->path_len};
  open.version = version;
  open.offset = reader->arrived;
  open.length = length;
  open.chunk_size = CI_CHUNK;
  open.credit = CI_READER_CREDIT - reader->count;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_STREAM_OPEN;
  request.stream_open = &open;
  int code = ci_call(reader->h, &request, NULL, reply);
  if (code != SDBC_OK) return code;
  if (!ci_info(reply->head->info, info)) return ci_protocol(reader->h, "a stream without saying what it is");
  if (!reply->head->stream && !reply->head->last) return ci_protocol(reader->h, "a stream without a number");
  reader->stream = reply->head->last ? 0 : reply->head->stream;
  reader->open_id = reply->head->id;
  reader->owed = 0;
  reader->last_news = ci_now_ms();
  return SDBC_OK;
}

static bool reads_all(const sdbc_reader *reader) { return reader->start == 0 && reader->end == reader->info.size; }

static void check_digest(sdbc_reader *reader) {
  if (reader->arrived == reader->end && reads_all(reader) && reader->digest != reader->info.digest) {
    fail_reader(reader, SDBC_DAMAGED, "the content is not what the document's digest says");
  }
}

int sdbc_reader_open(sdbc *h, const void *path, size_t path_len, uint32_t version, uint64_t offset, uint64_t length,
                     sdbc_reader **reader) {
  int code = ci_enter(h);
  if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
  if (code != SDBC_OK) return code;
  sdbc_reader *r = calloc(1, sizeof *r);
  if (!r) return ci_fail(h, SDBC_NO_MEMORY, "no memory for a reader");
  r->h = h;
  r->path_len = path_len;
  memcpy(r->path, path, path_len);
  r->start = r->position = r->arrived = offset;
  ci_reply reply;
  code = open_stream(r, version, length, &reply, &r->info);
  if (code == SDBC_OK && offset > r->info.size) {
    code = ci_fail(h, SDBC_INVALID, "offset %llu is beyond the end of the document at %llu", (unsigned long long)offset,
                   (unsigned long long)r->info.size);
  }
  if (code != SDBC_OK) {
    free(r);
    return code;
  }
  uint64_t left = r->info.size - offset;
  r->end = offset + (length == 0 || length > left ? left : length);
  if (r->arrived < r->end && r->stream == 0) fail_reader(r, SDBC_PROTOCOL, "the stream ended before it began");
  check_digest(r);
  r->next = h->readers;
  h->readers = r;
  *reader = r;
  return SDBC_OK;
}

/* Goes on where the lost stream ended. */
static int reopen(sdbc_reader *reader) {
  sdbc *h = reader->h;
  if (reader->fruitless++ > h->options.retries) {
    return ci_fail(h, SDBC_TIMEOUT, "%s: no chunk came in time, also after asking again (attempts: %u)", h->endpoint,
                   reader->fruitless);
  }
  if (reader->fruitless > 1) {
    int code = ci_pause(h, ci_backoff(h, reader->fruitless - 1));
    if (code != SDBC_OK) return code;
  }
  ci_reply reply;
  sdbc_info info;
  int code = open_stream(reader, reader->info.version, reader->end - reader->arrived, &reply, &info);
  if (code == SDBC_NOT_FOUND) {
    return ci_fail(h, SDBC_NOT_FOUND, "version %u is no longer kept, so that reading cannot go on at %llu", reader->info.version,
                   (unsigned long long)reader->arrived);
  }
  if (code != SDBC_OK) return code;
  if (memcmp(info.id, reader->info.id, sizeof info.id) == 0 && info.size == reader->info.size &&
      info.digest == reader->info.digest) {
    if (reader->stream == 0) fail_reader(reader, SDBC_PROTOCOL, "the stream ended before it began");
    return SDBC_OK;
  }
  fail_reader(reader, SDBC_NOT_FOUND, "the document was deleted and made anew while it was read");
  return SDBC_OK;
}

/* --- Arriving ----------------------------------------------------------------------------------------------------------------- */

void ci_readers_lost(sdbc *h) {
  for (sdbc_reader *reader = h->readers; reader; reader = reader->next) reader->stream = 0;
}

static void stream_ended(sdbc_reader *reader, const ci_pb_reply *head) {
  int code = ci_code(head);
  reader->stream = 0;
  if (ci_can_retry(code) || code == SDBC_NOT_FOUND)
    return; /* the next read asks again, and learns more if there is more to
               learn */
  reader->failed = code;
  ci_copy_sentence(reader->message, head->message && *head->message ? head->message : sdbc_strerror(code));
}

static void take_chunk(sdbc_reader *reader, const ci_reply *reply) {
  bool fits = reply->head->offset == reader->arrived && reply->size <= reader->end - reader->arrived && reply->size > 0 &&
              reader->count < CI_READER_CREDIT;
  if (!fits) {
    fail_reader(reader, SDBC_PROTOCOL, "sent a chunk that does not belong where it came");
    return;
  }
  zmq_msg_t *to = &reader->ring[(reader->first + reader->count) % CI_READER_CREDIT];
  zmq_msg_init(to);
  if (zmq_msg_move(to, &reader->h->body_frame) != 0) {
    fail_reader(reader, SDBC_INTERNAL, "a chunk could not be kept");
    return;
  }
  reader->count++;
  reader->arrived += reply->size;
  reader->fruitless = 0;
  reader->last_news = ci_now_ms();
  reader->digest = sdbc_crc32c_join(reader->digest, reply->digest, reply->size);
  if (reply->head->last) reader->stream = 0;
  if (reply->head->last && reader->arrived != reader->end) fail_reader(reader, SDBC_PROTOCOL, "ended a stream too early");
  check_digest(reader);
}

void ci_reader_accept(sdbc *h, const ci_reply *reply, int code) {
  sdbc_reader *reader = h->readers;
  while (reader && (reader->stream != reply->head->stream || reader->open_id != reply->head->id)) reader = reader->next;
  if (!reader) return;
  if (code != SDBC_OK) {
    fail_reader(reader, code, sdbc_strerror(code));
  } else if (ci_code(reply->head) != SDBC_OK) {
    stream_ended(reader, reply->head);
  } else {
    take_chunk(reader, reply);
  }
}

/* --- Handing out -------------------------------------------------------------------------------------------------------------- */

static void tell_stream(sdbc_reader *reader, uint32_t credit) {
  Dcf__Db__V1__StreamCredit grant = DCF__DB__V1__STREAM_CREDIT__INIT;
  Dcf__Db__V1__StreamClose end = DCF__DB__V1__STREAM_CLOSE__INIT;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  grant.stream = end.stream = reader->stream;
  grant.credit = credit;
  if (credit > 0) {
    request.op_case = DCF__DB__V1__REQUEST__OP_STREAM_CREDIT;
    request.stream_credit = &grant;
  } else {
    request.op_case = DCF__DB__V1__REQUEST__OP_STREAM_CLOSE;
    request.stream_close = &end;
  }
  if (ci_send_only(reader->h, &request)) reader->owed = 0;
}

static void drop_used_chunk(sdbc_reader *reader) {
  if (reader->count == 0 || reader->used < zmq_msg_size(&reader->ring[reader->first])) return;
  zmq_msg_close(&reader->ring[reader->first]);
  reader->first = (reader->first + 1) % CI_READER_CREDIT;
  reader->count--;
  reader->used = 0;
  reader->owed++;
  if (reader->stream && reader->arrived < reader->end && reader->owed >= CI_READER_CREDIT / 2) tell_stream(reader, reader->owed);
}

/* Until a chunk is there, or the end. */
static int fill(sdbc_reader *reader) {
  sdbc *h = reader->h;
  int code = ci_enter(h);
  if (code != SDBC_OK) return code;
  drop_used_chunk(reader);
  while (code == SDBC_OK && reader->count == 0) {
    if (reader->failed) return ci_fail(h, reader->failed, "%s", reader->message);
    if (reader->position == reader->end) return SDBC_OK;
    if (reader->stream == 0) {
      code = reopen(reader);
    } else if (ci_now_ms() - reader->last_news >= (int64_t)h->options.request_timeout_ms) {
      tell_stream(reader, 0);
      reader->stream = 0;
    } else {
      code = ci_step(h, reader->last_news + h->options.request_timeout_ms);
    }
  }
  return code;
}

int sdbc_reader_next(sdbc_reader *reader, const void **data, size_t *size) {
  int code = fill(reader);
  if (code != SDBC_OK) return code;
  *data = "";
  *size = 0;
  if (reader->count == 0) return SDBC_OK;
  zmq_msg_t *chunk = &reader->ring[reader->first];
  *data = (const uint8_t *)zmq_msg_data(chunk) + reader->used;
  *size = zmq_msg_size(chunk) - reader->used;
  reader->used += *size;
  reader->position += *size;
  return SDBC_OK;
}

int sdbc_reader_read(sdbc_reader *reader, void *buf, size_t len, size_t *got) {
  size_t done = 0;
  while (done < len) {
    /* What is in the ring is given before anything is waited for. */
    drop_used_chunk(reader);
    if (done > 0 && reader->count == 0) break;
    int code = fill(reader);
    if (code != SDBC_OK) return code;
    if (reader->count == 0) break;
    zmq_msg_t *chunk = &reader->ring[reader->first];
    size_t left = zmq_msg_size(chunk) - reader->used;
    size_t n = left < len - done ? left : len - done;
    memcpy((uint8_t *)buf + done, (const uint8_t *)zmq_msg_data(chunk) + reader->used, n);
    reader->used += n;
    reader->position += n;
    done += n;
  }
  *got = done;
  return SDBC_OK;
}

const sdbc_info *sdbc_reader_info(const sdbc_reader *reader) { return &reader->info; }
uint64_t sdbc_reader_offset(const sdbc_reader *reader) { return reader->position; }

void sdbc_reader_close(sdbc_reader *reader) {
  if (!reader) return;
  if (reader->stream) tell_stream(reader, 0);
  for (unsigned i = 0; i < reader->count; i++) zmq_msg_close(&reader->ring[(reader->first + i) % CI_READER_CREDIT]);
  sdbc_reader **link = &reader->h->readers;
  while (*link != reader) link = &(*link)->next;
  *link = reader->next;
  free(reader);
}
