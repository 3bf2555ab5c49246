/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* counters.h - what the service counts about itself. The names are those of the statistics reply, behind `service_`. */
#ifndef SERVICE_COUNTERS_H
#define SERVICE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

/* name, what. docs/protocol.md section 13 has the same list. */
#define COUNTERS(X)                                                                                                                \
  X(requests, "requests received since the start")                                                                                 \
  X(replies, "replies and chunks handed to the socket")                                                                            \
  X(errors, "replies with a code other than OK")                                                                                   \
  X(busy, "replies with BUSY")                                                                                                     \
  X(malformed, "messages that could not be understood")                                                                            \
  X(dropped, "requests and replies dropped: client gone or deaf")                                                                  \
  X(bytes_in, "bytes of bodies received")                                                                                          \
  X(bytes_out, "bytes of bodies sent")                                                                                             \
  X(writes, "writes committed")                                                                                                    \
  X(groups, "group commits")                                                                                                       \
  X(streams_opened, "streams opened")                                                                                              \
  X(uploads_opened, "uploads opened")                                                                                              \
  X(leases_ended, "streams and uploads ended by their lease")                                                                      \
  X(events, "events numbered")                                                                                                     \
  X(events_dropped, "events the publisher had no room for")                                                                        \
  X(clients, "connections remembered now")                                                                                         \
  X(streams, "streams open now")                                                                                                   \
  X(uploads, "uploads open now")                                                                                                   \
  X(writes_waiting, "writes accepted and not answered now")                                                                        \
  X(jobs_waiting, "other work with the workers now")                                                                               \
  X(in_flight_in, "bytes received and not worked off now")                                                                         \
  X(in_flight_out, "bytes of replies not sent now")                                                                                \
  X(parked, "replies waiting for a slow client now")                                                                               \
  X(subscriptions, "event subscriptions now")

typedef struct counters {
#define X(name, what) _Atomic uint64_t name;
  COUNTERS(X)
#undef X
} counters;

static inline void count_up(_Atomic uint64_t *counter, uint64_t by) {
  atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static inline void count_down(_Atomic uint64_t *counter, uint64_t by) {
  atomic_fetch_sub_explicit(counter, by, memory_order_relaxed);
}

static inline uint64_t count_now(const _Atomic uint64_t *counter) { return atomic_load_explicit(counter, memory_order_relaxed); }

#endif
