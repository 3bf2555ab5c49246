/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* peer.h - the processes beside which the service is measured, and Redis as a client sees it. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <sys/types.h>

#include "bench.h"

typedef struct process {
  pid_t pid; /* 0: none */
} process;

/* Starts a program; with `ready`, waits for its first line, which begins with "ready listen=", and puts the endpoint there. */
process process_start(const char *const *argv, char *ready, size_t len);
/* SIGTERM, then waits. */
void process_stop(process *p);

/* A port of the loopback that nobody used a moment ago. */
unsigned free_port(void);

typedef struct redis {
  process server;
  void *connection; /* NULL: this build or machine has no Redis */
} redis;

/* A server of our own with an append-only file in `dir`, holding `documents` of `size` bytes; from then on it syncs every write. */
void redis_start(redis *r, const char *dir, uint64_t documents, size_t size);
void redis_stop(redis *r);
/* As the works in wire.h: pipelines of `flight` commands. Return seconds. */
double redis_gets(redis *r, rng *random, uint64_t documents, size_t size, uint64_t count, unsigned flight);
double redis_sets(redis *r, uint64_t first, size_t size, uint64_t count, unsigned flight);

#endif
