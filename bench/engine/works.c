/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* works.c - the works of one thread: load, get, search, put, open, crash, churn. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "work.h"

#define GETS_A_ROUND 200000u
#define SCANS_A_ROUND 2000u
#define PUTS_A_ROUND 1000u
#define CHURN_ROUNDS 20u

static void prepare_open(bench *b) { b->store = b->ops->open(b->job.dir); }
static void finish_close(bench *b) { b->ops->close(b->store); }
/* A crash leaves everything to the system: nothing is closed. */
static void finish_crash(bench *b) {
  (void)b;
  _exit(0);
}

void work_load(bench *b) {
  uint32_t *order = shuffled((uint32_t)b->job.documents, 7);
  path p;
  double memory = (double)anonymous_memory((int)getpid());
  b->store = b->ops->open(b->job.dir);
  double begin = now();
  for (uint64_t i = 0; i < b->job.documents; i++) {
    path_document(&p, order[i]);
    b->ops->put(b->store, &p, content_of(order[i], b->job.size), b->job.size, false);
  }
  b->ops->checkpoint(b->store);
  bench_figure(b, (double)b->job.documents / (now() - begin));
  b->ops->settle(b->store);
  bench_figure(b, (double)directory_bytes(b->job.dir, NULL));
  bench_figure(b, memory);
  b->ops->close(b->store);
  free(order);
}

static void get_one(bench *b, const path *p, uint64_t i, bool whole) {
  size_t size = b->ops->get(b->store, p, b->buf, b->job.size);
  if (size == SIZE_MAX) die("%s: %.*s is not there", b->ops->name, (int)p->len, p->text);
  content_verify(i, b->job.size, b->buf, size, whole);
}

/* Every document once, so that all caches are as warm as they get, and that each store is seen to have what it was given. */
void work_get_prepare(bench *b) {
  uint32_t *order = shuffled((uint32_t)b->job.documents, 9);
  path p;
  prepare_open(b);
  for (uint64_t i = 0; i < b->job.documents; i++) {
    path_document(&p, order[i]);
    get_one(b, &p, order[i], true);
  }
  free(order);
}

void work_get(bench *b) {
  uint64_t count = b->job.count ? b->job.count : GETS_A_ROUND;
  uint64_t *numbers = need(count * sizeof *numbers);
  path *paths = need(count * sizeof *paths);
  for (uint64_t i = 0; i < count; i++) {
    numbers[i] = rng_below(&b->random, b->job.documents);
    path_document(&paths[i], numbers[i]);
  }
  double begin = now(), processor = processor_now();
  for (uint64_t i = 0; i < count; i++) get_one(b, &paths[i], numbers[i], false);
  bench_figure(b, (now() - begin) / (double)count);
  bench_figure(b, (processor_now() - processor) / (double)count);
  free(numbers);
  free(paths);
}

void work_scan(bench *b) {
  uint64_t count = b->job.count ? b->job.count : SCANS_A_ROUND, found = 0, sum = 0;
  path *prefixes = need(count * sizeof *prefixes);
  for (uint64_t i = 0; i < count; i++) path_node_prefix(&prefixes[i], rng_below(&b->random, b->job.documents / DOCUMENTS_A_NODE));
  double begin = now();
  for (uint64_t i = 0; i < count; i++) found += b->ops->scan(b->store, &prefixes[i], &sum);
  bench_figure(b, (now() - begin) / (double)count);
  if (found != count * DOCUMENTS_A_NODE || !sum) die("%s: searches found %llu paths", b->ops->name, (unsigned long long)found);
  free(prefixes);
}

void work_scan_suffix(bench *b) {
  uint64_t count = b->job.count ? b->job.count : SCANS_A_ROUND, found = 0, wanted = 0, sum = 0;
  path *suffixes = need(count * sizeof *suffixes);
  for (uint64_t i = 0; i < count; i++) wanted += path_suffix(&suffixes[i], b->job.documents, rng_next(&b->random));
  double begin = now();
  for (uint64_t i = 0; i < count; i++) found += b->ops->scan_suffix(b->store, &suffixes[i], &sum);
  bench_figure(b, (now() - begin) / (double)count);
  if (found != wanted || !sum) die("%s: searches found %llu paths", b->ops->name, (unsigned long long)found);
  free(suffixes);
}

/* Documents that were not there before, in no order: their numbers are beyond those loaded. */
void work_put(bench *b) {
  uint64_t count = b->job.count ? b->job.count : PUTS_A_ROUND;
  double *seconds = need(count * sizeof *seconds), total = 0;
  uint32_t *order = shuffled((uint32_t)count, 11 + b->fresh);
  path p;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t number = b->job.documents + b->fresh + order[i];
    path_document(&p, number);
    double begin = now();
    b->ops->put(b->store, &p, content_of(number, b->job.size), b->job.size, true);
    total += seconds[i] = now() - begin;
  }
  b->fresh += count;
  bench_figure(b, total / (double)count);
  bench_figure(b, quantile(seconds, count, 0.5));
  bench_figure(b, quantile(seconds, count, 0.99));
  bench_figure(b, quantile(seconds, count, 1));
  free(order);
  free(seconds);
}

void work_open(bench *b) {
  path p;
  uint64_t number = rng_below(&b->random, b->job.documents);
  path_document(&p, number);
  double begin = now();
  b->store = b->ops->open(b->job.dir);
  double opened = now();
  get_one(b, &p, number, true);
  double got = now();
  b->ops->close(b->store);
  bench_figure(b, opened - begin);
  bench_figure(b, got - opened);
}

void work_crash(bench *b) {
  path p;
  b->store = b->ops->open(b->job.dir);
  for (uint64_t i = 0; i < b->job.documents; i++) {
    path_document(&p, i);
    b->ops->put(b->store, &p, content_of(i, b->job.size), b->job.size, false);
  }
  b->ops->flush(b->store);
  bench_figure(b, (double)(b->job.documents * (p.len + b->job.size)));
}

static size_t churn_size(rng *r) { return 200 + rng_below(r, 2048 - 200 + 1); }

/* `sizes` are those of the current versions and, one array behind, of those before them: both are kept. */
static void churn_overwrite(bench *b, size_t *sizes) {
  uint64_t n = b->job.documents;
  path p;
  for (uint64_t i = 0; i < n * CHURN_ROUNDS; i++) {
    uint64_t number = i < n ? i : rng_below(&b->random, n);
    path_document(&p, number);
    sizes[n + number] = sizes[number];
    sizes[number] = churn_size(&b->random);
    b->ops->put(b->store, &p, content_of(i, sizes[number]), sizes[number], false);
  }
}

/* The log's size is its own affair: it does not depend on what is kept. */
static double churn_bytes(const bench *b) {
  return (double)(directory_bytes(b->job.dir, NULL) - directory_bytes(b->job.dir, ".log."));
}

static double churn_kept(const bench *b, const size_t *sizes, uint64_t documents) {
  path p;
  double kept = 0;
  for (uint64_t i = 0; i < documents; i++) {
    path_document(&p, i);
    kept += (double)(sizes[i] + p.len);
    if (sizes[b->job.documents + i]) kept += (double)(sizes[b->job.documents + i] + p.len);
  }
  return kept;
}

void work_churn(bench *b) {
  uint64_t n = b->job.documents, left = n / 10;
  size_t *sizes = need(2 * n * sizeof *sizes);
  path p;
  memset(sizes, 0, 2 * n * sizeof *sizes);
  b->store = b->ops->open(b->job.dir);
  double begin = now();
  churn_overwrite(b, sizes);
  b->ops->checkpoint(b->store);
  bench_figure(b, (double)(n * CHURN_ROUNDS) / (now() - begin));
  b->ops->settle(b->store);
  bench_figure(b, churn_bytes(b) / churn_kept(b, sizes, n));
  for (uint64_t i = left; i < n; i++) {
    path_document(&p, i);
    b->ops->erase(b->store, &p);
  }
  for (unsigned i = 0; i < 2; i++) {
    b->ops->checkpoint(b->store);
    b->ops->settle(b->store);
  }
  bench_figure(b, churn_bytes(b) / churn_kept(b, sizes, left));
  b->ops->close(b->store);
  free(sizes);
}

/* Paths as messages have them: in no order, and each shares only its beginning with others. */
void work_load_messages(bench *b) {
  path p;
  double contents = 0;
  b->store = b->ops->open(b->job.dir);
  for (uint64_t i = 0; i < b->job.documents; i++) {
    path_message(&p, i);
    b->ops->put(b->store, &p, content_of(i, b->job.size), b->job.size, false);
    contents += (double)(p.len + b->job.size);
  }
  for (unsigned i = 0; i < 2; i++) { /* the second one cuts what the first has freed */
    b->ops->checkpoint(b->store);
    b->ops->settle(b->store);
  }
  bench_figure(b, (churn_bytes(b) - contents) / (double)b->job.documents);
  b->ops->close(b->store);
}

void work_write_large(bench *b) {
  path p;
  path_document(&p, 0);
  double begin = now();
  b->ops->write_large(b->store, &p, content_of(0, b->job.size), b->job.size);
  bench_figure(b, (double)b->job.size / (now() - begin));
}

/* The piece is what a reader that hands the content on would hold. */
void work_read_large(bench *b) {
  path p;
  path_document(&p, 0);
  double begin = now();
  size_t size = b->ops->read_large(b->store, &p, b->buf, (size_t)1 << 20);
  bench_figure(b, (double)size / (now() - begin));
  if (size != b->job.size) die("%s: the stream has %zu bytes", b->ops->name, size);
}

static void prepare_large(bench *b) {
  prepare_open(b);
  work_write_large(b);
  work_read_large(b);
}

const work_ops *work_find(const char *name) {
  static const work_ops works[] = {
      {"load", NULL, work_load, NULL},
      {"get", work_get_prepare, work_get, finish_close},
      {"load-messages", NULL, work_load_messages, NULL},
      {"scan", prepare_open, work_scan, finish_close},
      {"scan-suffix", prepare_open, work_scan_suffix, finish_close},
      {"put", prepare_open, work_put, finish_close},
      {"put-threads", prepare_open, work_put_threads, finish_close},
      {"put-beside-load", prepare_open, work_put_beside_load, finish_close},
      {"get-beside-writer", work_get_prepare, work_get_beside_writer, finish_close},
      {"open", NULL, work_open, NULL},
      {"crash", NULL, work_crash, finish_crash},
      {"churn", NULL, work_churn, NULL},
      {"write-large", prepare_open, work_write_large, finish_close},
      {"read-large", prepare_large, work_read_large, finish_close},
  };
  for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
    if (!strcmp(works[i].name, name)) return &works[i];
  }
  return NULL;
}
