/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sync.h - locks and conditions. Built without threads (SDB_THREADS=0) they cost nothing and waiting is a bug. */
#ifndef SDB_SYNC_H
#define SDB_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#ifndef SDB_THREADS
#define SDB_THREADS 1
#endif

#if SDB_THREADS
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define THREAD_LOCAL _Thread_local
struct mutex {
  pthread_mutex_t m;
};
#define MUTEX_INITIALIZER                                                                                                          \
  { PTHREAD_MUTEX_INITIALIZER }
struct cond {
  pthread_cond_t c;
};

static inline void mutex_init(struct mutex *m) { pthread_mutex_init(&m->m, NULL); }
static inline void mutex_destroy(struct mutex *m) { pthread_mutex_destroy(&m->m); }
static inline void mutex_lock(struct mutex *m) { pthread_mutex_lock(&m->m); }
static inline bool mutex_try(struct mutex *m) { return pthread_mutex_trylock(&m->m) == 0; }
static inline void mutex_unlock(struct mutex *m) { pthread_mutex_unlock(&m->m); }

/* A lock that many readers hold at once, or one writer. */
struct shared {
  pthread_rwlock_t l;
};
static inline void shared_init(struct shared *s) { pthread_rwlock_init(&s->l, NULL); }
static inline void shared_destroy(struct shared *s) { pthread_rwlock_destroy(&s->l); }
static inline void shared_read(struct shared *s) { pthread_rwlock_rdlock(&s->l); }
static inline void shared_write(struct shared *s) { pthread_rwlock_wrlock(&s->l); }
static inline void shared_unlock(struct shared *s) { pthread_rwlock_unlock(&s->l); }

/* A lock that is taken again and again by some, and never long in vain by others: who has waited for some time holds the door until
 * it is his turn, and who comes meanwhile waits at the door. Else whoever gives the lock up and asks again at once is nearly always
 * before the one who has to be woken, and to hand it over every time would cost a change of threads every time. */
enum { DOOR_US = 200, FAIR_TRIES = 64, FAIR_PAUSES = 16 };
struct fair {
  struct mutex m, door;
  atomic_uint starving;
  unsigned tries; /* to take it before sleeping */
};
/* The caller may run on one processor only: while one thread spins no other gets on. */
static inline bool processor_alone(void) {
  int count = 0;
#ifdef __linux__
  unsigned long set[128];
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof set, set);
  for (long i = 0; i < bytes / (long)sizeof *set; i++) count += __builtin_popcountl(set[i]);
#endif
  return count == 1;
}
static inline void fair_init(struct fair *f) {
  mutex_init(&f->m), mutex_init(&f->door), atomic_init(&f->starving, 0);
  f->tries = processor_alone() ? 1 : FAIR_TRIES;
}
static inline void fair_destroy(struct fair *f) { mutex_destroy(&f->m), mutex_destroy(&f->door); }
static inline bool mutex_lock_for(struct mutex *m, long us) {
#ifdef __linux__
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t); /* a jump makes it wait for longer or shorter, nothing else */
  t.tv_nsec += us * 1000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  return pthread_mutex_timedlock(&m->m, &t) == 0;
#else
  (void)us;
  mutex_lock(m);
  return true;
#endif
}
static inline bool fair_starving(struct fair *f) { return atomic_load_explicit(&f->starving, memory_order_relaxed) > 0; }
static inline bool fair_try(struct fair *f) { return !fair_starving(f) && mutex_try(&f->m); }
static inline void processor_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}
static inline void fair_rest(void) {
  for (unsigned k = 0; k < FAIR_PAUSES; k++) processor_pause();
}
static inline void fair_sleep(struct fair *f) {
  if (!fair_starving(f) && mutex_lock_for(&f->m, DOOR_US)) return;
  mutex_lock(&f->door);
  atomic_store_explicit(&f->starving, 1, memory_order_relaxed);
  mutex_lock(&f->m);
  atomic_store_explicit(&f->starving, 0, memory_order_relaxed);
  mutex_unlock(&f->door);
}
/* It is held for less than it takes to sleep and be woken: so who comes looks again for some 30 us before he sleeps, unless there
 * is one processor only. */
static inline void fair_lock(struct fair *f) {
  for (unsigned i = 0; i < f->tries; i++, fair_rest())
    if (fair_try(f)) return;
  fair_sleep(f);
}
/* The same, as long as the reason for it lasts. False: it has not been taken, because there is none any more. */
static inline bool fair_lock_while(struct fair *f, const atomic_bool *reason) {
  for (unsigned i = 0; i < f->tries; i++, fair_rest()) {
    if (!atomic_load(reason)) return false;
    if (fair_try(f)) return true;
  }
  fair_sleep(f);
  return true;
}
static inline void fair_unlock(struct fair *f) { mutex_unlock(&f->m); }

static inline void cond_init(struct cond *c) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&c->c, &attr);
  pthread_condattr_destroy(&attr);
}
static inline void cond_destroy(struct cond *c) { pthread_cond_destroy(&c->c); }
static inline void cond_wait(struct cond *c, struct mutex *m) { pthread_cond_wait(&c->c, &m->m); }
/* Waits at most `us` microseconds; may return early. */
static inline void cond_wait_for(struct cond *c, struct mutex *m, uint64_t us) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_sec += (time_t)(us / 1000000);
  t.tv_nsec += (long)(us % 1000000) * 1000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  pthread_cond_timedwait(&c->c, &m->m, &t);
}
static inline void cond_signal(struct cond *c) { pthread_cond_signal(&c->c); }
static inline void cond_broadcast(struct cond *c) { pthread_cond_broadcast(&c->c); }

/* A gate that many pass at once. Who will wait reads its turn first (gate_turn), makes sure that there is a reason to wait, and
 * waits until the turn is another; may return early. Unlike behind a condition nobody queues for a lock on the way out. */
struct gate {
  atomic_uint turn;
  atomic_uint waiting; /* nobody: there is nothing to call the system for */
#ifndef __linux__
  struct mutex m;
  struct cond c;
#endif
};
static inline unsigned gate_turn(struct gate *g) { return atomic_load(&g->turn); }
#ifdef __linux__
static inline void gate_init(struct gate *g) { atomic_init(&g->turn, 0), atomic_init(&g->waiting, 0); }
static inline void gate_destroy(struct gate *g) { (void)g; }
/* Either the opener finds that somebody waits, or who is about to wait finds another turn: each changes his word first. */
static inline void gate_wait(struct gate *g, unsigned turn) {
  atomic_fetch_add(&g->waiting, 1);
  syscall(SYS_futex, &g->turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
  atomic_fetch_sub(&g->waiting, 1);
}
static inline void gate_open(struct gate *g, bool all) {
  atomic_fetch_add(&g->turn, 1);
  if (!atomic_load(&g->waiting)) return;
  syscall(SYS_futex, &g->turn, FUTEX_WAKE_PRIVATE, all ? INT_MAX : 1, NULL, NULL, 0);
}
#else
static inline void gate_init(struct gate *g) { atomic_init(&g->turn, 0), mutex_init(&g->m), cond_init(&g->c); }
static inline void gate_destroy(struct gate *g) { mutex_destroy(&g->m), cond_destroy(&g->c); }
static inline void gate_wait(struct gate *g, unsigned turn) {
  mutex_lock(&g->m);
  if (atomic_load(&g->turn) == turn) cond_wait(&g->c, &g->m);
  mutex_unlock(&g->m);
}
static inline void gate_open(struct gate *g, bool all) {
  mutex_lock(&g->m);
  atomic_fetch_add(&g->turn, 1);
  if (all) cond_broadcast(&g->c);
  else cond_signal(&g->c);
  mutex_unlock(&g->m);
}
#endif
static inline void thread_yield(void) { sched_yield(); }
/* A number that differs between threads that run at the same time, mostly. */
static inline uintptr_t thread_hint(void) { return (uintptr_t)pthread_self(); }
#else
#include <stdatomic.h>

#define THREAD_LOCAL
struct mutex {
  char none;
};
#define MUTEX_INITIALIZER                                                                                                          \
  { 0 }
struct cond {
  char none;
};
struct gate {
  char none;
};
struct shared {
  char none;
};
static inline void shared_init(struct shared *s) { (void)s; }
static inline void shared_destroy(struct shared *s) { (void)s; }
static inline void shared_read(struct shared *s) { (void)s; }
static inline void shared_write(struct shared *s) { (void)s; }
static inline void shared_unlock(struct shared *s) { (void)s; }
static inline void gate_init(struct gate *g) { (void)g; }
static inline void gate_destroy(struct gate *g) { (void)g; }
static inline unsigned gate_turn(struct gate *g) { return (void)g, 0; }
static inline void gate_wait(struct gate *g, unsigned turn) { (void)g, (void)turn; }
static inline void gate_open(struct gate *g, bool all) { (void)g, (void)all; }
struct fair {
  struct mutex m;
};
static inline void mutex_init(struct mutex *m) { (void)m; }
static inline void mutex_destroy(struct mutex *m) { (void)m; }
static inline void mutex_lock(struct mutex *m) { (void)m; }
static inline bool mutex_try(struct mutex *m) { return (void)m, true; }
static inline void mutex_unlock(struct mutex *m) { (void)m; }
static inline void fair_init(struct fair *f) { (void)f; }
static inline void fair_destroy(struct fair *f) { (void)f; }
static inline bool fair_try(struct fair *f) { return (void)f, true; }
static inline void fair_lock(struct fair *f) { (void)f; }
static inline bool fair_lock_while(struct fair *f, const atomic_bool *reason) { return (void)f, (void)reason, true; }
static inline void fair_unlock(struct fair *f) { (void)f; }
static inline void cond_init(struct cond *c) { (void)c; }
static inline void cond_destroy(struct cond *c) { (void)c; }
static inline void cond_wait(struct cond *c, struct mutex *m) { (void)c, (void)m; }
static inline void cond_wait_for(struct cond *c, struct mutex *m, uint64_t us) { (void)c, (void)m, (void)us; }
static inline void cond_signal(struct cond *c) { (void)c; }
static inline void cond_broadcast(struct cond *c) { (void)c; }
static inline void thread_yield(void) {}
static inline uintptr_t thread_hint(void) { return 0; }
#endif

#endif
