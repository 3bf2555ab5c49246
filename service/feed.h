/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* feed.h - publishes commits on the XPUB socket, from a thread of its own.
 *
 * Events are numbered by the committer, in the order of commits, whether anybody listens or not; they are built only when somebody
 * does. What the publisher or a subscriber cannot keep up with is dropped, and the numbers show it. */
#ifndef SERVICE_FEED_H
#define SERVICE_FEED_H

#include <stddef.h>

#include "queue.h"

typedef struct service service;
typedef struct task task;
typedef struct feed feed;

/* Binds and starts. `bound` gets the endpoint. NULL: it has said why on stderr. */
feed *feed_start(service *s, void *zmq, const char *endpoint, char *bound, size_t bound_size);
/* Publishes what was handed over, ends the thread and closes the socket. Takes NULL. */
void feed_stop(feed *f);

/* In the committer: numbers the commit of a write that was done, and adds its event to the list if anybody listens. */
void feed_add(feed *f, list *events, const task *t);
/* Hands the list over. */
void feed_send(feed *f, list *events);

#endif
