/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* flow.h - how many bytes of replies are on their way to a client, counted until ZeroMQ has given them to the system.
 *
 *     reserve (front) -> block (worker fills it) -> message -> socket -> ZeroMQ's thread frees it: bytes come back
 *
 * A high-water mark counts messages, not bytes; this counts bytes, per client and in all, so that slow readers cannot fill the
 * memory.
 */
#ifndef SERVICE_FLOW_H
#define SERVICE_FLOW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

typedef struct flow {
  _Atomic size_t bytes;
  _Atomic size_t refs;
  _Atomic uint64_t *total; /* of all flows; outlives them */
} flow;

/* A flow with one reference; NULL on shortage. */
flow *flow_new(_Atomic uint64_t *total);
void flow_unref(flow *f);
/* Sets `n` bytes aside, if the client's and the common bound allow. */
bool flow_reserve(flow *f, size_t n);
/* The same without asking. */
void flow_take(flow *f, size_t n);
void flow_release(flow *f, size_t n);

/* Memory for the body of a reply. */
typedef struct block {
  flow *flow;
  size_t size;        /* reserved, and given back with the block */
  atomic_bool handed; /* to ZeroMQ */
  uint8_t data[];
} block;

/* Takes over `size` reserved bytes; NULL on shortage, and then they stay reserved. */
block *block_new(flow *f, size_t size);
void block_free(block *b);
/* Makes the first `used` bytes a message, which owns the block then. False on shortage: the block is freed. */
bool block_to_message(block *b, size_t used, zmq_msg_t *message);

#endif
