/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* queue.c - lists, queues and mailboxes.
 *
 * A mailbox's owner must not miss a list that arrives while it goes to sleep. The owner says `asleep`, then looks at `filled`; a
 * sender says `filled`, then looks at `asleep`. Both are sequentially consistent, so at least one of them sees the other. */
#include "queue.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

void list_add(list *l, node *n) {
  n->next = NULL;
  if (l->last) {
    l->last->next = n;
  } else {
    l->first = n;
  }
  l->last = n;
  l->count++;
}

void list_move(list *to, list *from) {
  if (!from->first) return;
  if (to->last) {
    to->last->next = from->first;
  } else {
    to->first = from->first;
  }
  to->last = from->last;
  to->count += from->count;
  *from = (list){0};
}

node *list_take(list *l) {
  node *n = l->first;
  if (!n) return NULL;
  l->first = n->next;
  if (!l->first) l->last = NULL;
  l->count--;
  n->next = NULL;
  return n;
}

int queue_init(queue *q) {
  *q = (queue){0};
  int rc = pthread_mutex_init(&q->lock, NULL);
  if (rc != 0) return rc;
  rc = pthread_cond_init(&q->filled, NULL);
  if (rc != 0) pthread_mutex_destroy(&q->lock);
  return rc;
}

void queue_destroy(queue *q) {
  pthread_cond_destroy(&q->filled);
  pthread_mutex_destroy(&q->lock);
}

void queue_put(queue *q, list *l) {
  if (!l->first) return;
  pthread_mutex_lock(&q->lock);
  size_t came = l->count;
  list_move(&q->list, l);
  unsigned waiting = q->waiting;
  pthread_mutex_unlock(&q->lock);
  if (waiting == 0) return;
  if (came == 1) {
    pthread_cond_signal(&q->filled);
  } else {
    pthread_cond_broadcast(&q->filled);
  }
}

bool queue_take(queue *q, list *l, size_t max) {
  pthread_mutex_lock(&q->lock);
  while (!q->list.first && !q->closed) {
    q->waiting++;
    pthread_cond_wait(&q->filled, &q->lock);
    q->waiting--;
  }
  if (q->list.count <= max) {
    list_move(l, &q->list);
  } else {
    for (node *n; l->count < max && (n = list_take(&q->list)) != NULL;) list_add(l, n);
  }
  pthread_mutex_unlock(&q->lock);
  return l->first != NULL;
}

void queue_close(queue *q) {
  pthread_mutex_lock(&q->lock);
  q->closed = true;
  pthread_cond_broadcast(&q->filled);
  pthread_mutex_unlock(&q->lock);
}

int mailbox_init(mailbox *m) {
  *m = (mailbox){.fd = -1};
  int rc = pthread_mutex_init(&m->lock, NULL);
  if (rc != 0) return rc;
  m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (m->fd >= 0) return 0;
  rc = errno;
  pthread_mutex_destroy(&m->lock);
  return rc;
}

void mailbox_destroy(mailbox *m) {
  close(m->fd);
  pthread_mutex_destroy(&m->lock);
}

void mailbox_nudge(mailbox *m) {
  if (!atomic_exchange(&m->asleep, false)) return;
  const uint64_t one = 1;
  /* The counter cannot be full: it is written once a sleep. */
  ssize_t ignored = write(m->fd, &one, sizeof one);
  (void)ignored;
}

void mailbox_put(mailbox *m, list *l) {
  if (!l->first) return;
  pthread_mutex_lock(&m->lock);
  list_move(&m->list, l);
  atomic_store(&m->filled, true);
  pthread_mutex_unlock(&m->lock);
  mailbox_nudge(m);
}

void mailbox_take(mailbox *m, list *l) {
  if (!atomic_load_explicit(&m->filled, memory_order_relaxed)) return;
  pthread_mutex_lock(&m->lock);
  atomic_store(&m->filled, false);
  list_move(l, &m->list);
  pthread_mutex_unlock(&m->lock);
}

bool mailbox_sleep(mailbox *m) {
  atomic_store(&m->asleep, true);
  if (!atomic_load(&m->filled)) return true;
  atomic_store(&m->asleep, false);
  return false;
}

void mailbox_wake(mailbox *m) {
  atomic_store(&m->asleep, false);
  uint64_t count;
  ssize_t ignored = read(m->fd, &count, sizeof count);
  (void)ignored;
}
