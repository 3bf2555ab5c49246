/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* echo.c - what the wire alone costs: a ROUTER that unpacks requests, checks and computes the checksums, packs replies, and stores
 * nothing. Gets are answered with the right content, so that the client can treat it as it treats the service. */
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "wire.h"

typedef struct echo {
  void *router;
  zmq_msg_t peer;
  size_t size, stream_size, streamed;
  uint8_t header[512];
} echo;

static void answer(echo *e, const wire_reply *reply, const void *body, size_t size) {
  zmq_msg_t peer;
  zmq_msg_init(&peer);
  zmq_msg_copy(&peer, &e->peer);
  if (zmq_msg_send(&peer, e->router, ZMQ_SNDMORE) < 0) die("echo: cannot answer");
  frames_send(e->router, e->header, dcf__db__v1__reply__pack(reply, e->header), body, size);
}

static uint64_t number_in(const ProtobufCBinaryData *p) {
  char digits[9] = "";
  const char suffix[] = "/metric";
  size_t tail = 8 + sizeof suffix - 1;
  if (p->len < tail) die("echo: a path that is none of ours");
  memcpy(digits, p->data + p->len - tail, 8);
  return strtoull(digits, NULL, 10);
}

/* The fields that the service fills in its reply to a get or insert. */
static void answer_with_info(echo *e, uint64_t id, uint32_t digest, const uint8_t *body) {
  uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 0x77};
  wire_reply reply;
  Dcf__Db__V1__Info info = DCF__DB__V1__INFO__INIT;
  dcf__db__v1__reply__init(&reply);
  info.id = (ProtobufCBinaryData){.len = sizeof uuid, .data = uuid};
  info.version = info.oldest = 1;
  info.size = e->size;
  info.time_ms = 1700000000000;
  info.digest = digest;
  reply.id = id;
  reply.sequence = id + 1000000;
  reply.epoch = 0x123456789ABCDEF;
  reply.info = &info;
  reply.reached = DCF__DB__V1__DURABILITY__DURABLE;
  if (body) {
    reply.has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
    reply.body_digest = digest;
  }
  answer(e, &reply, body, body ? e->size : 0);
}

/* Bodies of the chunk's size, without checksums: the transport's own pace. */
static void send_chunks(echo *e, uint64_t id, size_t chunk, uint32_t credit) {
  for (; credit && e->streamed < e->stream_size; credit--) {
    size_t left = e->stream_size - e->streamed, n = left < chunk ? left : chunk;
    wire_reply reply;
    dcf__db__v1__reply__init(&reply);
    reply.id = id;
    reply.stream = 1;
    reply.offset = e->streamed;
    const uint8_t *body = content_of(0, e->stream_size) + e->streamed;
    e->streamed += n;
    reply.last = e->streamed == e->stream_size;
    answer(e, &reply, body, n);
  }
}

static void handle(echo *e, const wire_request *request, const void *body, size_t size) {
  static size_t chunk;
  if (request->op_case == DCF__DB__V1__REQUEST__OP_GET) {
    const uint8_t *content = content_of(number_in(&request->get->path), e->size);
    answer_with_info(e, request->id, sdb_crc32c(0, content, e->size), content);
  } else if (request->op_case == DCF__DB__V1__REQUEST__OP_INSERT) {
    uint32_t digest = sdb_crc32c(0, body, size);
    if (digest != request->insert->digest) die("echo: a body was damaged on its way");
    answer_with_info(e, request->id, digest, NULL);
  } else if (request->op_case == DCF__DB__V1__REQUEST__OP_STREAM_OPEN) {
    chunk = request->stream_open->chunk_size;
    e->streamed = 0;
    send_chunks(e, request->id, chunk, request->stream_open->credit);
  } else if (request->op_case == DCF__DB__V1__REQUEST__OP_STREAM_CREDIT) {
    send_chunks(e, request->id, chunk, request->stream_credit->credit);
  } else {
    wire_reply reply;
    dcf__db__v1__reply__init(&reply);
    reply.id = request->id;
    answer(e, &reply, NULL, 0);
  }
}

void echo_main(size_t size, size_t stream_size) {
  char endpoint[64];
  size_t len = sizeof endpoint;
  zmq_msg_t header, body;
  void *context = zmq_ctx_new();
  echo e = {.router = zmq_socket(context, ZMQ_ROUTER), .size = size, .stream_size = stream_size};
  if (!e.router || zmq_bind(e.router, "tcp://127.0.0.1:*")) die("echo: cannot bind: %s", zmq_strerror(zmq_errno()));
  zmq_getsockopt(e.router, ZMQ_LAST_ENDPOINT, endpoint, &len);
  printf("ready listen=%s\n", endpoint);
  fflush(stdout);
  zmq_msg_init(&e.peer), zmq_msg_init(&header), zmq_msg_init(&body);
  while (zmq_msg_recv(&e.peer, e.router, 0) >= 0 && zmq_msg_recv(&header, e.router, 0) >= 0) {
    bool has_body = zmq_msg_more(&header);
    if (has_body && zmq_msg_recv(&body, e.router, 0) < 0) break;
    wire_request *request = dcf__db__v1__request__unpack(NULL, zmq_msg_size(&header), zmq_msg_data(&header));
    if (!request) die("echo: a request cannot be understood");
    handle(&e, request, zmq_msg_data(&body), has_body ? zmq_msg_size(&body) : 0);
    dcf__db__v1__request__free_unpacked(request, NULL);
  }
}
