/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* works_threads.c - the works of several threads: many durable callers at once, a caller beside a load, readers beside a writer. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "work.h"

#define CALLERS 64u
#define PUTS_A_CALLER 200u
#define TIMED_PUTS 2000u
#define TIMED_GETS 200000u

typedef struct caller {
  bench *b;
  pthread_t thread;
  uint64_t first, count;
  atomic_bool *stop;
} caller;

static void start(caller *c, void *(*run)(void *)) {
  if (pthread_create(&c->thread, NULL, run, c)) die("cannot start a thread");
}

static void *put_durably(void *arg) {
  caller *c = arg;
  path p;
  for (uint64_t i = c->first; i < c->first + c->count; i++) {
    path_document(&p, i);
    c->b->ops->put(c->b->store, &p, content_of(i, c->b->job.size), c->b->job.size, true);
  }
  return NULL;
}

void work_put_threads(bench *b) {
  caller callers[CALLERS];
  uint64_t count = b->job.count ? b->job.count : PUTS_A_CALLER;
  double begin = now();
  for (unsigned i = 0; i < CALLERS; i++) {
    callers[i] = (caller){.b = b, .first = b->job.documents + b->fresh, .count = count};
    b->fresh += count;
    start(&callers[i], put_durably);
  }
  for (unsigned i = 0; i < CALLERS; i++) pthread_join(callers[i].thread, NULL);
  bench_figure(b, (double)(CALLERS * count) / (now() - begin));
}

/* Overwrites loaded documents at random without waiting for the device, until told to stop. */
static void *write_without_pause(void *arg) {
  caller *c = arg;
  rng r = {.state = 5};
  path p;
  for (c->count = 0; !atomic_load(c->stop); c->count++) {
    uint64_t i = rng_below(&r, c->b->job.documents);
    path_document(&p, i);
    c->b->ops->put(c->b->store, &p, content_of(i, c->b->job.size), c->b->job.size, false);
  }
  return NULL;
}

void work_put_beside_load(bench *b) {
  atomic_bool stop = false;
  caller loader = {.b = b, .stop = &stop};
  uint64_t wanted = b->job.count;
  b->job.count = wanted ? wanted : TIMED_PUTS;
  start(&loader, write_without_pause);
  work_put(b);
  atomic_store(&stop, true);
  pthread_join(loader.thread, NULL);
  b->job.count = wanted;
}

/* Takes a core as a writer would, without touching the store. */
static void *busy_without_store(void *arg) {
  caller *c = arg;
  rng r = {.state = 6};
  while (!atomic_load(c->stop)) c->count += rng_next(&r) & 1;
  return NULL;
}

static double slowest_gets(bench *b, void *(*beside)(void *)) {
  atomic_bool stop = false;
  caller other = {.b = b, .stop = &stop};
  uint64_t count = b->job.count ? b->job.count : TIMED_GETS;
  double *seconds = need(count * sizeof *seconds);
  path p;
  start(&other, beside);
  for (uint64_t i = 0; i < count; i++) {
    uint64_t number = rng_below(&b->random, b->job.documents);
    path_document(&p, number);
    double begin = now();
    size_t size = b->ops->get(b->store, &p, b->buf, b->job.size);
    seconds[i] = now() - begin;
    content_verify(number, b->job.size, b->buf, size, false);
  }
  atomic_store(&stop, true);
  pthread_join(other.thread, NULL);
  double p99 = quantile(seconds, count, 0.99);
  free(seconds);
  return p99;
}

void work_get_beside_writer(bench *b) {
  bench_figure(b, slowest_gets(b, busy_without_store));
  bench_figure(b, slowest_gets(b, write_without_pause));
}
