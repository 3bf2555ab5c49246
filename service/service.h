/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* service.h - the running service: what its threads share.
 *
 *     clients ==> ROUTER   front (main thread): owns the socket and all state of clients, answers small reads itself
 *                            |--> writes: committer   one thread, the only one that commits, in groups
 *                            |--> jobs: workers       streams, uploads, searches, large reads
 *                            '<-- replies             mailbox
 *     committer --> feed: XPUB, owned by the publisher's thread
 */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

#include "counters.h"
#include "message.h"
#include "options.h"
#include "queue.h"
#include "store.h"

#define SENTENCE_BYTES 256

typedef struct feed feed;

typedef struct service {
  const options *options;
  store store;
  uint64_t epoch;
  char name[64];             /* and version, as ping tells them */
  _Atomic uint64_t sequence; /* every commit up to it is visible */
  atomic_int exit_code;      /* not 0: the service must end, with this code */
  counters counters;
  queue writes, jobs;
  mailbox replies;
  feed *feed;
} service;

/* Runs the service on an open store until a signal ends it: binds, says `ready` on stdout, serves, finishes what was accepted.
 * The store stays the caller's. SIGTERM and SIGINT must be blocked. Returns the exit code; on a failure to start it has said why.
 */
int service_run(const options *o, const store *st);

/* Monotonic clock, ms. */
int64_t service_now(void);

/* A reply to request `id` with what every reply carries. */
void service_reply(service *s, pb_reply *reply, uint64_t id);
/* Makes it an error; the sentence is copied into `text`, of SENTENCE_BYTES, which must live until packing. */
void reply_error(pb_reply *reply, pb_code code, const char *sentence, char *text);
/* The sentence for an answer of the store, of SENTENCE_BYTES. */
void service_sentence(service *s, int rc, char *text);
/* What `asked` means here. */
sdb_durability service_durability(const service *s, sdb_durability asked);
void service_count_error(service *s, pb_code code);

#endif
