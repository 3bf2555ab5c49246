/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* wire.h - the service's protocol as a client speaks it, without a client library in between: one DEALER socket, protobuf-c.
 *
 * The same client measures the service and the echo program (echo.c), so what it costs itself is on both sides.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <zmq.h>

#include "bench.h"
#include "dcf_db.pb-c.h"

typedef Dcf__Db__V1__Request wire_request;
typedef Dcf__Db__V1__Reply wire_reply;

typedef struct wire {
  void *context, *socket;
  uint8_t header[2048];
} wire;

void wire_open(wire *w, const char *endpoint);
void wire_close(wire *w);

/* Waits until a ping is answered. */
void wire_wait(wire *w);

/* Packs and sends the header, and the body when there is one. */
void wire_send(wire *w, const wire_request *request, const void *body, size_t size);

/* The next reply, whose status must be 0, and its body; both are the caller's. The body's checksum is verified when the reply has
 * one. */
wire_reply *wire_receive(wire *w, zmq_msg_t *body);
void wire_release(wire_reply *reply, zmq_msg_t *body);

/* Sends one header, and a body of `size` bytes copied from `body`, through any socket of ours. */
void frames_send(void *socket, const uint8_t *header, size_t header_size, const void *body, size_t size);

/* --- Works -------------------------------------------------------------------------------------------------------------------- */

/* `flight` requests are under way at any time, until `count` are answered. Return seconds; with `each`, also those of every one. */
double wire_gets(wire *w, rng *r, uint64_t documents, size_t size, uint64_t count, unsigned flight);
/* Documents first, first+1, ... durably. */
double wire_inserts(wire *w, uint64_t first, size_t size, uint64_t count, unsigned flight);
/* Document 0 out and in, in chunks of 1 MB. Return seconds. */
double wire_stream_out(wire *w, size_t size);
double wire_stream_in(wire *w, size_t size);

/* --- The echo program --------------------------------------------------------------------------------------------------------- */

/* Answers gets and inserts with the same frames, packing and checksums as the service, and streams with bodies of the chunk's size;
 * stores nothing. Runs until its endpoint's process is ended. Tells the endpoint on stdout as the service does. */
void echo_main(size_t size, size_t stream_size);

#endif
