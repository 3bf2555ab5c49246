/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* work.h - the pieces of work, and the processes that do them.
 *
 *     the plan (main.c)                    one process for each store (worker.c)
 *       worker_start(work, store, dir) ---->  prepares: opens the store, warms it up
 *       worker_round  -- "round" on a pipe ->  does one round of the work (works*.c)
 *                     <- figures on a pipe --
 *       worker_stop   -- end of the pipe --->  closes the store and ends
 *
 * A process of its own gives every store its own allocator, threads and memory figure; the rounds of several waiting workers
 * alternate, so that all stores see the same weather on the machine.
 */
#ifndef BENCH_WORK_H
#define BENCH_WORK_H

#include <sys/types.h>

#include "store.h"

#define FIGURES_MAX 6u

/* What a worker is to do; the same on both sides. */
struct job {
  const char *work, *store, *dir;
  uint64_t documents; /* in the store, or to be put there */
  size_t size;        /* of one content */
  uint64_t count;     /* pieces of work a round; 0: as the work likes */
};

/* One piece of work, on the worker's side. */
typedef struct bench {
  struct job job;
  const store_ops *ops;
  void *store;
  uint8_t *buf;   /* job.size bytes, at least 1 MB */
  uint64_t fresh; /* documents added by this worker so far */
  rng random;
  double figures[FIGURES_MAX];
  unsigned figure_count;
} bench;

typedef struct work_ops {
  const char *name;
  void (*prepare)(bench *b);
  void (*round)(bench *b);
  void (*finish)(bench *b);
} work_ops;

void bench_figure(bench *b, double value);
/* Runs a worker with its pipes on stdin and stdout until stdin ends. */
void worker_main(const struct job *job);

/* The works, in the order of the table in works.c. */
const work_ops *work_find(const char *name);
void work_load(bench *b); /* documents/s, bytes on the device, bytes of memory that are not the store's */
void work_get_prepare(bench *b);
void work_get(bench *b);               /* seconds a get, of the clock and of the processor */
void work_scan(bench *b);              /* by prefix: seconds a search */
void work_scan_suffix(bench *b);       /* by suffix: seconds a search */
void work_load_messages(bench *b);     /* bytes of all files a document, beyond path and content, log left out */
void work_put(bench *b);               /* durable: seconds a put: mean, median, p99, longest */
void work_put_threads(bench *b);       /* durable, 64 callers: puts/s */
void work_put_beside_load(bench *b);   /* durable, while a thread loads: seconds: mean, median, p99, longest */
void work_get_beside_writer(bench *b); /* readers beside a busy thread, then beside a writer: p99 of both, in seconds */
void work_open(bench *b);              /* seconds an open, seconds of the first get */
void work_crash(bench *b);             /* bytes put that only the log has; the process then ends without closing */
void work_write_large(bench *b);       /* bytes/s */
void work_read_large(bench *b);        /* bytes/s */
void work_churn(bench *b);             /* overwrites/s, data file over what is kept, the same after deleting 90 % */

/* --- The plan's side ---------------------------------------------------------------------------------------------------------- */

typedef struct worker {
  pid_t pid;
  int to, from;         /* pipes */
  uint64_t peak_memory; /* anonymous, sampled while it works */
} worker;

/* false: this build has no such store. */
bool worker_start(worker *w, const struct job *job);
/* One round; figures[] gets FIGURES_MAX values, 0 where there are none. false: the worker failed and said why. */
bool worker_round(worker *w, double *figures);
void worker_stop(worker *w);

#endif
