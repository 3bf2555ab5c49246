/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* bench.h - what both benchmarks share: test data, time, series of figures, the report.
 *
 * A benchmark stops at the first thing that is not as expected: a store that answers a wrong byte has no speed. So helpers do not
 * return errors, they die() with a sentence.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__GNUC__)
#define BENCH_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define BENCH_PRINTF(text, first)
#endif

/* One sentence on stderr, then exit 1. */
_Noreturn void die(const char *format, ...) BENCH_PRINTF(1, 2);

/* Seconds from a clock that never goes back. */
double now(void);
/* Seconds of processor time that the calling thread has used. */
double processor_now(void);

/* --- Data --------------------------------------------------------------------------------------------------------------------- */

/* Document i stands at /state/node%04d/sensor/%08d/metric; a node has 100 of them. */
#define DOCUMENTS_A_NODE 100u

typedef struct path {
  uint8_t len;
  char text[63];
} path;

typedef struct rng {
  uint64_t state;
} rng;
uint64_t rng_next(rng *r);
uint64_t rng_below(rng *r, uint64_t limit);

void path_document(path *p, uint64_t i);
void path_node_prefix(path *p, uint64_t node);
/* /messages/sent/ and a random UUID that belongs to i. */
void path_message(path *p, uint64_t i);
/* What the paths of 100 of `documents` documents end with, `which` being any number. Returns how many they are: 100 where
 * `documents` is a power of ten. */
uint64_t path_suffix(path *p, uint64_t documents, uint64_t which);

/* Fills the pool that contents are cut from; contents may be up to `largest` bytes. The same in every process. */
void content_init(size_t largest);
/* The incompressible content of document i: a window into the pool, found by its number, so that making it costs nothing. */
const uint8_t *content_of(uint64_t i, size_t size);
/* Dies unless data is the content of document i: length and first bytes, or all of it. */
void content_verify(uint64_t i, size_t size, const void *data, size_t len, bool whole);

/* The numbers 0 to n-1 in random order. */
uint32_t *shuffled(uint32_t n, uint64_t seed);

/* Memory or death. */
void *need(size_t size);

/* --- Files -------------------------------------------------------------------------------------------------------------------- */

void directory_make(const char *dir);
void directory_remove(const char *dir);
/* Bytes that the files below take on the device; with `part` only of those that have it in their name. */
uint64_t directory_bytes(const char *dir, const char *part);
/* Anonymous resident memory of a process, in bytes; 0 if it cannot be told. */
uint64_t anonymous_memory(int pid);

/* --- Figures ------------------------------------------------------------------------------------------------------------------ */

#define SERIES_MAX 64u
typedef struct series {
  double value[SERIES_MAX];
  unsigned count;
} series;
void series_add(series *s, double value);
/* Of the values; q from 0 (least) to 1 (greatest), 0.5 is the median. 0 when there are none. */
double series_quantile(const series *s, double q);
/* The same of an array, which is sorted in place. */
double quantile(double *values, size_t count, double q);

typedef enum unit {
  UNIT_TIME,       /* seconds a piece of work: less is better */
  UNIT_RATE,       /* pieces a second: more is better */
  UNIT_THROUGHPUT, /* bytes a second: more is better */
  UNIT_BYTES,      /* less is better */
  UNIT_FACTOR      /* times as much: less is better */
} unit;
/* Writes the value with its unit, as "1.23 us" or "154,000/s". Returns buf. */
const char *figure(char *buf, size_t len, unit u, double value);

/* --- Report ------------------------------------------------------------------------------------------------------------------- */

typedef enum limit_kind {
  LIMIT_NONE,    /* reported only */
  LIMIT_SPEED,   /* at least `limit` times as good as the peer */
  LIMIT_COST,    /* at most `limit` times the peer's cost */
  LIMIT_ABSOLUTE /* at most `limit`, or for rates at least `limit`, in the row's own unit */
} limit_kind;

#define REPORT_PEERS 8u
struct row {
  const char *id;   /* "E1" */
  const char *work; /* one line */
  unit unit;
  const series *ours; /* empty: could not be measured */
  struct {
    const char *name;
    const series *series;
  } peers[REPORT_PEERS];
  unsigned peer_count; /* the first peer with figures among them is the one compared with */
  limit_kind kind;
  double limit, stretch; /* stretch 0: none */
  const char *target;    /* as text */
};

/* The machine, the table's head, then rows; all as Markdown to every file given. */
typedef struct report {
  FILE *out[2];
} report;
void report_print(report *r, const char *format, ...) BENCH_PRINTF(2, 3);
void report_machine(report *r, const char *dir);
void report_head(report *r);
void report_row(report *r, const struct row *row);

#endif
