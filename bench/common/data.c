/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* data.c - paths and contents that cost next to nothing to make, so that a loop over a store measures the store. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

#define POOL_SPREAD ((size_t)8 << 20)

static struct {
  uint8_t *bytes;
  size_t spread; /* contents begin below this */
  size_t largest;
} pool;

_Noreturn void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("bench: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(1);
}

static double clock_seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double now(void) { return clock_seconds(CLOCK_MONOTONIC); }
double processor_now(void) { return clock_seconds(CLOCK_THREAD_CPUTIME_ID); }

void *need(size_t size) {
  void *p = malloc(size ? size : 1);
  if (!p) die("out of memory (%zu bytes)", size);
  return p;
}

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

#define STEP 0x9E3779B97F4A7C15u
#define POOL_SEED 1u

uint64_t rng_next(rng *r) { return mix(r->state += STEP); }

__extension__ typedef unsigned __int128 wide;
uint64_t rng_below(rng *r, uint64_t limit) { return (uint64_t)(((wide)rng_next(r) * limit) >> 64); }

static void append(path *p, const char *text) {
  size_t n = strlen(text);
  memcpy(p->text + p->len, text, n);
  p->len = (uint8_t)(p->len + n);
}

static void append_number(path *p, uint64_t v, unsigned digits) {
  char text[21];
  unsigned at = sizeof text;
  text[--at] = '\0';
  do text[--at] = (char)('0' + v % 10), v /= 10;
  while (v || sizeof text - 1 - at < digits);
  append(p, text + at);
}

void path_node_prefix(path *p, uint64_t node) {
  p->len = 0;
  append(p, "/state/node");
  append_number(p, node, 4);
  append(p, "/");
}

void path_document(path *p, uint64_t i) {
  path_node_prefix(p, i / DOCUMENTS_A_NODE);
  append(p, "sensor/");
  append_number(p, i, 8);
  append(p, "/metric");
}

void path_message(path *p, uint64_t i) {
  static const char digits[] = "0123456789abcdef";
  static const uint8_t dashes[16] = {[4] = 1, [6] = 1, [8] = 1, [10] = 1};
  p->len = 0;
  append(p, "/messages/sent/");
  for (unsigned at = 0; at < 16; at++) {
    uint64_t half = mix(2 * i + at / 8 + 1) >> (at % 8 * 8) & 255;
    if (dashes[at]) p->text[p->len++] = '-';
    p->text[p->len++] = digits[half >> 4];
    p->text[p->len++] = digits[half & 15];
  }
}

uint64_t path_suffix(path *p, uint64_t documents, uint64_t which) {
  unsigned digits = 0;
  uint64_t groups = 1;
  for (; documents / groups > 100; groups *= 10) digits++;
  p->len = 0;
  append_number(p, which % groups, digits);
  append(p, "/metric");
  return documents / groups;
}

void content_init(size_t largest) {
  pool.spread = POOL_SPREAD;
  pool.largest = largest;
  size_t size = pool.spread + (largest + 7) / 8 * 8;
  pool.bytes = need(size);
  rng r = {.state = POOL_SEED};
  for (size_t at = 0; at < size; at += 8) {
    uint64_t v = rng_next(&r);
    memcpy(pool.bytes + at, &v, 8);
  }
}

/* The first of the pool's words that belongs to document i. */
static uint64_t window(uint64_t i) { return mix(i + 1) % (pool.spread / 8); }

const uint8_t *content_of(uint64_t i, size_t size) {
  if (size > pool.largest) die("a content of %zu bytes was not prepared", size);
  return pool.bytes + window(i) * 8;
}

void content_verify(uint64_t i, size_t size, const void *data, size_t len, bool whole) {
  if (len != size) die("document %llu has %zu bytes, not %zu", (unsigned long long)i, len, size);
  uint64_t first = mix(POOL_SEED + (window(i) + 1) * STEP); /* computed: reading the pool would cost a cache miss a get */
  bool same = whole || size < 8 ? !memcmp(content_of(i, size), data, size) : !memcmp(&first, data, 8);
  if (!same) die("document %llu: wrong bytes", (unsigned long long)i);
}

uint32_t *shuffled(uint32_t n, uint64_t seed) {
  uint32_t *order = need((size_t)n * sizeof *order);
  rng r = {.state = seed};
  for (uint32_t i = 0; i < n; i++) order[i] = i;
  for (uint32_t i = n; i > 1; i--) {
    uint32_t j = (uint32_t)rng_below(&r, i), t = order[j];
    order[j] = order[i - 1];
    order[i - 1] = t;
  }
  return order;
}
