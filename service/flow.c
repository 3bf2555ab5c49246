/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* flow.c - reservations, and blocks that give them back from ZeroMQ's own thread. */
#include "flow.h"

#include <stdlib.h>
#include <string.h>

#include "bounds.h"

flow *flow_new(_Atomic uint64_t *total) {
  flow *f = malloc(sizeof *f);
  if (!f) return NULL;
  atomic_init(&f->bytes, 0);
  atomic_init(&f->refs, 1);
  f->total = total;
  return f;
}

void flow_unref(flow *f) {
  if (atomic_fetch_sub(&f->refs, 1) == 1) free(f);
}

/* Only the front reserves; others give back, or take a little more for a document that grew. So the bounds need no
 * compare-and-swap loop.
 *
 * A client may have as much as is left for all others: k clients that never read hold k/(k+1) of the whole between them, and as
 * much as each of them has is free for the next. */
bool flow_reserve(flow *f, size_t n) {
  size_t own = atomic_load(&f->bytes) + n;
  uint64_t all = atomic_load(f->total);
  if (own > CLIENT_BYTES_OUT || all > TOTAL_BYTES_OUT || own > TOTAL_BYTES_OUT - all) return false;
  flow_take(f, n);
  return true;
}

void flow_take(flow *f, size_t n) {
  atomic_fetch_add(&f->bytes, n);
  atomic_fetch_add(f->total, n);
}

void flow_release(flow *f, size_t n) {
  atomic_fetch_sub(&f->bytes, n);
  atomic_fetch_sub(f->total, n);
}

block *block_new(flow *f, size_t size) {
  block *b = malloc(sizeof *b + size);
  if (!b) return NULL;
  atomic_fetch_add(&f->refs, 1);
  b->flow = f;
  b->size = size;
  return b;
}

void block_free(block *b) {
  flow_release(b->flow, b->size);
  flow_unref(b->flow);
  free(b);
}

/* ZeroMQ's thread sees what the worker wrote, because its queues are barriers; `handed` says the same in our own words, to readers
 * and to race detectors that do not see into the library. */
static void sent(void *data, void *hint) {
  (void)data;
  block *b = hint;
  if (atomic_load_explicit(&b->handed, memory_order_acquire)) block_free(b);
}

bool block_to_message(block *b, size_t used, zmq_msg_t *message) {
  if (used <= COUNTED_BODY) {
    bool ok = zmq_msg_init_size(message, used) == 0;
    if (ok) memcpy(zmq_msg_data(message), b->data, used);
    block_free(b);
    return ok;
  }
  atomic_store_explicit(&b->handed, true, memory_order_release);
  if (zmq_msg_init_data(message, b->data, used, sent, b) == 0) return true;
  block_free(b);
  return false;
}
