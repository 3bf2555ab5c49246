/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* queue.h - how the threads hand things to each other: whole lists under one lock, one wake-up a list.
 *
 *     front --list--> queue   --> committer, workers      (they wait on a condition)
 *     front <--------- mailbox <-- committer, workers     (front waits in poll, with its sockets)
 *
 * A thing in a list begins with a `node`. Lists own nothing: who takes a thing has it.
 */
#ifndef SERVICE_QUEUE_H
#define SERVICE_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct node {
  struct node *next;
} node;

typedef struct list {
  node *first, *last;
  size_t count;
} list;

/* Adds at the end. */
void list_add(list *l, node *n);
/* Moves all of `from` to the end of `to`. */
void list_move(list *to, list *from);
/* Takes the first, NULL when there is none. */
node *list_take(list *l);

typedef struct queue {
  pthread_mutex_t lock;
  pthread_cond_t filled;
  list list;
  unsigned waiting; /* threads in queue_take() */
  bool closed;
} queue;

/* 0, or an errno. */
int queue_init(queue *q);
void queue_destroy(queue *q);
/* Moves the list in. */
void queue_put(queue *q, list *l);
/* Waits for something and takes at most `max`. False: the queue was closed and is empty. */
bool queue_take(queue *q, list *l, size_t max);
/* Lets the takers go once they have emptied it. */
void queue_close(queue *q);

typedef struct mailbox {
  pthread_mutex_t lock;
  list list;
  int fd; /* readable when the owner was asleep and something came */
  atomic_bool filled;
  atomic_bool asleep;
} mailbox;

int mailbox_init(mailbox *m);
void mailbox_destroy(mailbox *m);
/* Moves the list in, and wakes the owner when it sleeps. Any thread. */
void mailbox_put(mailbox *m, list *l);
/* Wakes the owner, if it sleeps, without leaving anything: what it is to notice must be said before, and looked at by the owner
 * between mailbox_sleep() and its poll. Any thread. */
void mailbox_nudge(mailbox *m);
/* Moves everything out, without waiting. The owner. */
void mailbox_take(mailbox *m, list *l);
/* The owner is about to poll `fd`. False: something is there, do not wait. */
bool mailbox_sleep(mailbox *m);
/* The owner is back from poll. */
void mailbox_wake(mailbox *m);

#endif
