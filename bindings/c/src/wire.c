/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* wire.c - messages to frames and back. Whatever a peer sends ends in a reply, a code, or nothing. */
#include <string.h>

#include "internal.h"

bool ci_pack(sdbc *h, ci_request *r, ci_pb_request *request, const void *body, size_t size) {
  request->id = r->id;
  request->timeout_ms = h->options.request_timeout_ms;
  size_t packed = dcf__db__v1__request__get_packed_size(request);
  if (zmq_msg_init_size(&r->header, packed) != 0) return false;
  dcf__db__v1__request__pack(request, zmq_msg_data(&r->header));
  r->has_body = body != NULL;
  if (!body) return true;
  if (zmq_msg_init_size(&r->body, size) != 0) {
    zmq_msg_close(&r->header);
    return false;
  }
  if (size > 0) memcpy(zmq_msg_data(&r->body), body, size);
  return true;
}

int ci_unpack(sdbc *h, bool has_body, ci_reply *reply) {
  static const uint8_t nothing[1];
  size_t size = zmq_msg_size(&h->head_frame);
  if (size == 0 || size > CI_MAX_HEADER) return SDBC_PROTOCOL;
  ci_arena_reset(&h->arena);
  ci_pb_reply *head = dcf__db__v1__reply__unpack(&h->arena.allocator, size, zmq_msg_data(&h->head_frame));
  if (!head) return SDBC_PROTOCOL;
  *reply = (ci_reply){.head = head, .body = nothing};
  if (!has_body) return SDBC_OK;
  reply->size = zmq_msg_size(&h->body_frame);
  if (reply->size > 0) reply->body = zmq_msg_data(&h->body_frame);
  if (head->has_body_digest_case != DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST) return SDBC_PROTOCOL;
  reply->digest = sdbc_crc32c(0, reply->body, reply->size);
  return reply->digest == head->body_digest ? SDBC_OK : SDBC_DAMAGED;
}

/* A code that this edition does not know is judged by its status. */
static int code_of_status(int32_t status) {
  switch (status) {
    case 0: return SDBC_OK;
    case -1: return SDBC_BUSY;
    case -2: return SDBC_NOT_FOUND;
    case -3: return SDBC_INVALID;
    case -5: return SDBC_CONFLICT;
    default: return SDBC_INTERNAL;
  }
}

int ci_code(const ci_pb_reply *head) {
  static const struct {
    Dcf__Db__V1__Code from;
    int to;
  } codes[] = {
      {DCF__DB__V1__CODE__BUSY, SDBC_BUSY},
      {DCF__DB__V1__CODE__TIMED_OUT, SDBC_TIMEOUT},
      {DCF__DB__V1__CODE__IO, SDBC_IO},
      {DCF__DB__V1__CODE__NOT_FOUND, SDBC_NOT_FOUND},
      {DCF__DB__V1__CODE__MALFORMED, SDBC_PROTOCOL},
      {DCF__DB__V1__CODE__INVALID, SDBC_INVALID},
      {DCF__DB__V1__CODE__TOO_LARGE, SDBC_TOO_LARGE},
      {DCF__DB__V1__CODE__CONDITION_FAILED, SDBC_CONDITION},
      {DCF__DB__V1__CODE__CORRUPT, SDBC_CORRUPT},
      {DCF__DB__V1__CODE__FULL, SDBC_FULL},
      {DCF__DB__V1__CODE__READ_ONLY, SDBC_READ_ONLY},
      {DCF__DB__V1__CODE__INTERNAL, SDBC_INTERNAL},
      {DCF__DB__V1__CODE__STOPPING, SDBC_STOPPING},
      {DCF__DB__V1__CODE__RESET, SDBC_RESET},
      {DCF__DB__V1__CODE__DIGEST_MISMATCH, SDBC_DAMAGED},
      {DCF__DB__V1__CODE__UNSUPPORTED, SDBC_UNSUPPORTED},
  };
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    if (codes[i].from == head->code) return codes[i].to;
  }
  return code_of_status(head->status);
}

bool ci_info(const Dcf__Db__V1__Info *from, sdbc_info *to) {
  if (!from || from->id.len != sizeof to->id) return false;
  *to = (sdbc_info){
      .version = from->version, .oldest = from->oldest, .size = from->size, .time_ms = from->time_ms, .digest = from->digest};
  memcpy(to->id, from->id.data, sizeof to->id);
  return true;
}
