/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* client.h - what the front knows of each connection, found by routing id.
 *
 *     buckets[hash] -> client -> client        chained; all in one list too, for the sweep
 *
 * ZeroMQ does not tell that a peer has gone. A client is forgotten after a minute of silence when nothing of it is under way, and
 * what it had open is closed as soon as a send finds the peer gone or a lease ends. A client outlives its tasks in other threads.
 */
#ifndef SERVICE_CLIENT_H
#define SERVICE_CLIENT_H

#include "flow.h"
#include "queue.h"

typedef struct client client;
struct client {
  client *next; /* in its bucket */
  client *prev_all, *next_all;
  client *next_parked; /* in the list of those with parked replies */
  uint64_t hash;
  int64_t seen;          /* last message, ms */
  unsigned tasks;        /* with other threads */
  unsigned writes, jobs; /* of those: with the committer, with the workers */
  unsigned streams, uploads;
  size_t bytes_in; /* received and not worked off */
  flow *flow;
  list parked; /* tasks whose reply the socket did not take */
  bool in_parked_list;
  uint8_t id_len;
  uint8_t id[];
};

typedef struct client_table {
  client **buckets;
  size_t mask, count;
  uint64_t seed;
  client *all;
  client *last; /* found last: the next message is often from the same */
  _Atomic uint64_t *bytes_out;
} client_table;

/* False on shortage. */
bool client_table_init(client_table *t, _Atomic uint64_t *bytes_out);
/* Frees all. */
void client_table_free(client_table *t);
/* Finds or makes the client. NULL: too many, or out of memory. */
client *client_get(client_table *t, const void *id, size_t len);
/* Whether nothing of it is under way. */
bool client_idle(const client *c);
void client_forget(client_table *t, client *c);

#endif
