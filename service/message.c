/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* message.c - frames, unpacking into an arena, codes. */
#include "message.h"

#include <errno.h>

/* --- Frames ------------------------------------------------------------------------------------------------------------------- */

static bool receive_frame(zmq_msg_t *frame, void *socket) {
  zmq_msg_init(frame);
  return zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) >= 0;
}

/* The frames of a message arrive together, so the later ones are there when the first is. */
static void drop_rest(void *socket, bool more) {
  while (more) {
    zmq_msg_t frame;
    more = receive_frame(&frame, socket) && zmq_msg_more(&frame);
    zmq_msg_close(&frame);
  }
}

int incoming_receive(void *socket, incoming *in) {
  if (!receive_frame(&in->peer, socket)) return errno;
  in->envelope = in->has_body = in->too_many = false;
  zmq_msg_init(&in->header);
  zmq_msg_init(&in->body);
  if (!zmq_msg_more(&in->peer)) return 0;

  zmq_msg_recv(&in->header, socket, ZMQ_DONTWAIT);
  bool more = zmq_msg_more(&in->header);
  if (zmq_msg_size(&in->header) == 0 && more) {
    in->envelope = true;
    zmq_msg_recv(&in->header, socket, ZMQ_DONTWAIT);
    more = zmq_msg_more(&in->header);
  }
  if (!more) return 0;

  in->has_body = true;
  zmq_msg_recv(&in->body, socket, ZMQ_DONTWAIT);
  if (!zmq_msg_more(&in->body)) return 0;
  in->too_many = true;
  drop_rest(socket, true);
  return 0;
}

void incoming_close(incoming *in) {
  zmq_msg_close(&in->peer);
  zmq_msg_close(&in->header);
  zmq_msg_close(&in->body);
}

/* --- Unpacking ---------------------------------------------------------------------------------------------------------------- */

static void *arena_alloc(void *user, size_t size) {
  arena *a = user;
  const size_t align = _Alignof(max_align_t);
  if (size > ARENA_BYTES - a->used) return NULL;
  void *p = a->bytes + a->used;
  size_t rounded = (size + align - 1) / align * align;
  a->used = rounded > ARENA_BYTES - a->used ? ARENA_BYTES : a->used + rounded;
  return p;
}

static void arena_free(void *user, void *p) {
  (void)user;
  (void)p;
}

pb_request *request_unpack(arena *a, const void *data, size_t len) {
  if (len == 0 || len > MAX_HEADER) return NULL;
  a->used = 0;
  ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = a};
  return dcf__db__v1__request__unpack(&allocator, len, data);
}

uint64_t request_salvage_id(const void *data, size_t len) {
  const uint8_t *p = data;
  const uint8_t id_tag = 1 << 3;
  if (len == 0 || p[0] != id_tag) return 0;
  uint64_t id = 0;
  for (size_t i = 1; i < len && i <= 10; i++) {
    id |= (uint64_t)(p[i] & 0x7f) << (7 * (i - 1));
    if ((p[i] & 0x80) == 0) return id;
  }
  return 0;
}

/* --- Replies ------------------------------------------------------------------------------------------------------------------ */

pb_code code_of(int rc) {
  switch (rc) {
    case SDB_OK: return CODE(OK);
    case SDB_NOT_FOUND: return CODE(NOT_FOUND);
    case SDB_INVALID: return CODE(INVALID);
    case SDB_BUSY:
    case SDB_NO_MEMORY: return CODE(BUSY);
    case SDB_CONFLICT: return CODE(CONDITION_FAILED);
    case SDB_TRIMMED:
    case SDB_RESET: return CODE(RESET);
    case SDB_TOO_LARGE: return CODE(TOO_LARGE);
    case SDB_CORRUPT: return CODE(CORRUPT);
    case SDB_FULL: return CODE(FULL);
    case SDB_READ_ONLY: return CODE(READ_ONLY);
    case SDB_IO:
    case SDB_DENIED:
    case SDB_SYNC_FAILED: return CODE(IO);
    default: return CODE(INTERNAL);
  }
}

int32_t status_of(pb_code code) {
  switch (code) {
    case CODE(OK): return 0;
    case CODE(BUSY):
    case CODE(TIMED_OUT):
    case CODE(STOPPING): return -1;
    case CODE(NOT_FOUND): return -2;
    case CODE(MALFORMED):
    case CODE(INVALID):
    case CODE(TOO_LARGE):
    case CODE(CONDITION_FAILED):
    case CODE(RESET):
    case CODE(DIGEST_MISMATCH):
    case CODE(UNSUPPORTED): return -3;
    case CODE(IO):
    case CODE(CORRUPT):
    case CODE(FULL):
    case CODE(READ_ONLY):
    case CODE(INTERNAL):
    default: return -4;
  }
}

void info_fill(pb_info *out, const sdb_info *from) {
  dcf__db__v1__info__init(out);
  /* Packing only reads, but protobuf-c's type for bytes cannot say so. */
  union {
    const uint8_t *in;
    uint8_t *out;
  } id = {.in = from->id};
  out->id = (pb_bytes){.len = sizeof from->id, .data = id.out};
  out->version = from->version;
  out->oldest = from->oldest;
  out->size = from->size;
  out->time_ms = from->time_ms;
  out->digest = from->digest;
}

bool reply_pack(const pb_reply *reply, zmq_msg_t *header) {
  if (zmq_msg_init_size(header, dcf__db__v1__reply__get_packed_size(reply)) != 0) return false;
  dcf__db__v1__reply__pack(reply, zmq_msg_data(header));
  return true;
}
