/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* wire.c - see wire.h. */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"

#define CHUNK ((size_t)1 << 20)
#define STREAM_CREDIT 8u
#define PATIENCE_MS 30000

#define REQUEST_INIT DCF__DB__V1__REQUEST__INIT

void wire_open(wire *w, const char *endpoint) {
  int patience = PATIENCE_MS, linger = 0;
  w->context = zmq_ctx_new();
  w->socket = zmq_socket(w->context, ZMQ_DEALER);
  if (!w->socket) die("no socket: %s", zmq_strerror(zmq_errno()));
  zmq_setsockopt(w->socket, ZMQ_RCVTIMEO, &patience, sizeof patience);
  zmq_setsockopt(w->socket, ZMQ_SNDTIMEO, &patience, sizeof patience);
  zmq_setsockopt(w->socket, ZMQ_LINGER, &linger, sizeof linger);
  if (zmq_connect(w->socket, endpoint)) die("cannot connect to %s: %s", endpoint, zmq_strerror(zmq_errno()));
}

void wire_close(wire *w) {
  zmq_close(w->socket);
  zmq_ctx_term(w->context);
}

void frames_send(void *socket, const uint8_t *header, size_t header_size, const void *body, size_t size) {
  if (zmq_send(socket, header, header_size, body ? ZMQ_SNDMORE : 0) < 0 || (body && zmq_send(socket, body, size, 0) < 0)) {
    die("cannot send: %s", zmq_strerror(zmq_errno()));
  }
}

void wire_send(wire *w, const wire_request *request, const void *body, size_t size) {
  if (dcf__db__v1__request__get_packed_size(request) > sizeof w->header) die("a request is too long");
  frames_send(w->socket, w->header, dcf__db__v1__request__pack(request, w->header), body, size);
}

wire_reply *wire_receive(wire *w, zmq_msg_t *body) {
  zmq_msg_t header;
  zmq_msg_init(&header);
  zmq_msg_init(body);
  if (zmq_msg_recv(&header, w->socket, 0) < 0) die("no reply: %s", zmq_strerror(zmq_errno()));
  bool has_body = zmq_msg_more(&header);
  if (has_body && zmq_msg_recv(body, w->socket, 0) < 0) die("half a reply: %s", zmq_strerror(zmq_errno()));
  wire_reply *reply = dcf__db__v1__reply__unpack(NULL, zmq_msg_size(&header), zmq_msg_data(&header));
  zmq_msg_close(&header);
  if (!reply) die("a reply cannot be understood");
  if (reply->status) die("the service answered %d: %s", (int)reply->status, reply->message);
  if (reply->has_body_digest_case == DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST &&
      sdb_crc32c(0, zmq_msg_data(body), zmq_msg_size(body)) != reply->body_digest) {
    die("a body was damaged on its way");
  }
  return reply;
}

void wire_release(wire_reply *reply, zmq_msg_t *body) {
  dcf__db__v1__reply__free_unpacked(reply, NULL);
  zmq_msg_close(body);
}

void wire_wait(wire *w) {
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__Ping ping = DCF__DB__V1__PING__INIT;
  zmq_msg_t body;
  request.op_case = DCF__DB__V1__REQUEST__OP_PING;
  request.ping = &ping;
  wire_send(w, &request, NULL, 0);
  wire_release(wire_receive(w, &body), &body);
}

static ProtobufCBinaryData bytes_of(path *p) { return (ProtobufCBinaryData){.len = p->len, .data = (uint8_t *)p->text}; }

static void send_get(wire *w, uint64_t id, uint64_t number) {
  path p;
  path_document(&p, number);
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__Get get = DCF__DB__V1__GET__INIT;
  get.path = bytes_of(&p);
  request.id = id;
  request.op_case = DCF__DB__V1__REQUEST__OP_GET;
  request.get = &get;
  wire_send(w, &request, NULL, 0);
}

double wire_gets(wire *w, rng *r, uint64_t documents, size_t size, uint64_t count, unsigned flight) {
  uint64_t *numbers = need(count * sizeof *numbers), sent = 0;
  zmq_msg_t body;
  for (uint64_t i = 0; i < count; i++) numbers[i] = rng_below(r, documents);
  double begin = now();
  for (uint64_t answered = 0; answered < count; answered++) {
    for (; sent < count && sent < answered + flight; sent++) send_get(w, sent, numbers[sent]);
    wire_reply *reply = wire_receive(w, &body);
    if (reply->id >= count) die("a reply nobody asked for");
    content_verify(numbers[reply->id], size, zmq_msg_data(&body), zmq_msg_size(&body), false);
    wire_release(reply, &body);
  }
  double seconds = now() - begin;
  free(numbers);
  return seconds;
}

static void send_insert(wire *w, uint64_t number, size_t size) {
  path p;
  path_document(&p, number);
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__Insert insert = DCF__DB__V1__INSERT__INIT;
  const uint8_t *content = content_of(number, size);
  insert.path = bytes_of(&p);
  insert.durability = DCF__DB__V1__DURABILITY__DURABLE;
  insert.has_digest_case = DCF__DB__V1__INSERT__HAS_DIGEST_DIGEST;
  insert.digest = sdb_crc32c(0, content, size);
  request.id = number;
  request.op_case = DCF__DB__V1__REQUEST__OP_INSERT;
  request.insert = &insert;
  wire_send(w, &request, content, size);
}

double wire_inserts(wire *w, uint64_t first, size_t size, uint64_t count, unsigned flight) {
  uint64_t sent = 0;
  zmq_msg_t body;
  double begin = now();
  for (uint64_t answered = 0; answered < count; answered++) {
    for (; sent < count && sent < answered + flight; sent++) send_insert(w, first + sent, size);
    wire_reply *reply = wire_receive(w, &body);
    if (reply->id - first >= count || reply->reached != DCF__DB__V1__DURABILITY__DURABLE) die("an insert was not made durable");
    wire_release(reply, &body);
  }
  return now() - begin;
}

static void send_credit(wire *w, uint64_t stream, uint32_t credit) {
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__StreamCredit more = DCF__DB__V1__STREAM_CREDIT__INIT;
  more.stream = stream;
  more.credit = credit;
  request.id = 2;
  request.op_case = DCF__DB__V1__REQUEST__OP_STREAM_CREDIT;
  request.stream_credit = &more;
  wire_send(w, &request, NULL, 0);
}

double wire_stream_out(wire *w, size_t size) {
  path p;
  path_document(&p, 0);
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__StreamOpen open = DCF__DB__V1__STREAM_OPEN__INIT;
  zmq_msg_t body;
  size_t received = 0, granted = STREAM_CREDIT;
  open.path = bytes_of(&p);
  open.chunk_size = (uint32_t)CHUNK;
  open.credit = STREAM_CREDIT;
  request.id = 1;
  request.op_case = DCF__DB__V1__REQUEST__OP_STREAM_OPEN;
  request.stream_open = &open;
  double begin = now();
  wire_send(w, &request, NULL, 0);
  for (bool last = false; !last;) {
    wire_reply *reply = wire_receive(w, &body);
    size_t n = zmq_msg_size(&body);
    if (n && memcmp(zmq_msg_data(&body), content_of(0, size) + received, n < 16 ? n : 16)) die("a stream has wrong bytes");
    received += n;
    last = reply->last;
    if (!last && n && granted * CHUNK < size) {
      send_credit(w, reply->stream, 1);
      granted++;
    }
    wire_release(reply, &body);
  }
  double seconds = now() - begin;
  if (received != size) die("a stream had %zu bytes, not %zu", received, size);
  return seconds;
}

static uint64_t upload_open(wire *w, size_t size, uint32_t *credit) {
  path p;
  path_document(&p, 0);
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__UploadOpen open = DCF__DB__V1__UPLOAD_OPEN__INIT;
  zmq_msg_t body;
  open.path = bytes_of(&p);
  open.has_size_case = DCF__DB__V1__UPLOAD_OPEN__HAS_SIZE_SIZE;
  open.size = size;
  open.durability = DCF__DB__V1__DURABILITY__DURABLE;
  request.op_case = DCF__DB__V1__REQUEST__OP_UPLOAD_OPEN;
  request.upload_open = &open;
  wire_send(w, &request, NULL, 0);
  wire_reply *reply = wire_receive(w, &body);
  uint64_t stream = reply->stream;
  *credit = reply->credit;
  wire_release(reply, &body);
  return stream;
}

static void upload_chunk(wire *w, uint64_t stream, size_t at, size_t size) {
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__UploadChunk chunk = DCF__DB__V1__UPLOAD_CHUNK__INIT;
  const uint8_t *content = content_of(0, size) + at;
  size_t n = size - at < CHUNK ? size - at : CHUNK;
  chunk.stream = stream;
  chunk.offset = at;
  chunk.has_digest_case = DCF__DB__V1__UPLOAD_CHUNK__HAS_DIGEST_DIGEST;
  chunk.digest = sdb_crc32c(0, content, n);
  request.op_case = DCF__DB__V1__REQUEST__OP_UPLOAD_CHUNK;
  request.upload_chunk = &chunk;
  wire_send(w, &request, content, n);
}

double wire_stream_in(wire *w, size_t size) {
  uint32_t credit;
  size_t sent = 0, answered = 0;
  zmq_msg_t body;
  double begin = now();
  uint64_t stream = upload_open(w, size, &credit);
  for (; answered < size; answered += CHUNK) {
    for (; sent < size && sent < answered + credit * CHUNK; sent += CHUNK) upload_chunk(w, stream, sent, size);
    wire_release(wire_receive(w, &body), &body);
  }
  wire_request request = REQUEST_INIT;
  Dcf__Db__V1__UploadCommit commit = DCF__DB__V1__UPLOAD_COMMIT__INIT;
  commit.stream = stream;
  request.op_case = DCF__DB__V1__REQUEST__OP_UPLOAD_COMMIT;
  request.upload_commit = &commit;
  wire_send(w, &request, NULL, 0);
  wire_release(wire_receive(w, &body), &body);
  return now() - begin;
}
