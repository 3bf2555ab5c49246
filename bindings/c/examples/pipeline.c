/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pipeline.c - many requests in flight: inserts, then gets, with their rates.
 *
 *     pipeline [COUNT [ENDPOINT]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sdbc/sdbc.h"

#define CONTENT 1000u

typedef struct tally {
  unsigned long good, bad;
  char content[CONTENT];
} tally;

static void inserted(void *user, const sdbc_done *done) {
  tally *t = user;
  if (done->code == SDBC_OK) t->good++;
  if (done->code != SDBC_OK && t->bad++ == 0) fprintf(stderr, "pipeline: insert: %s\n", done->message);
}

static void got(void *user, const sdbc_done *done) {
  tally *t = user;
  bool right = done->code == SDBC_OK && done->size == CONTENT && memcmp(done->data, t->content, CONTENT) == 0;
  if (right) t->good++;
  if (!right && t->bad++ == 0) fprintf(stderr, "pipeline: get: %s\n", done->code == SDBC_OK ? "another content" : done->message);
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int submit(sdbc *client, tally *t, bool writing, unsigned long number) {
  char path[64];
  int len = snprintf(path, sizeof path, "/example/pipeline/%06lu", number);
  if (writing) return sdbc_submit_insert(client, path, (size_t)len, t->content, CONTENT, NULL, inserted, t, NULL);
  return sdbc_submit_get(client, path, (size_t)len, SDBC_CURRENT, got, t, NULL);
}

/* Keeps as many in flight as the client allows, and serves the answers as they come. */
static int run(sdbc *client, bool writing, unsigned long count) {
  static tally t;
  t.good = t.bad = 0;
  memset(t.content, 'x', CONTENT);
  double start = seconds();
  for (unsigned long i = 0; i < count || sdbc_in_flight(client) > 0;) {
    int code = i < count ? submit(client, &t, writing, i) : SDBC_AGAIN;
    if (code == SDBC_OK) {
      i++;
      continue;
    }
    if (code == SDBC_AGAIN) code = sdbc_poll(client, 1000, NULL);
    if (code != SDBC_OK) {
      fprintf(stderr, "pipeline: %s\n", sdbc_message(client));
      return 1;
    }
  }
  double took = seconds() - start;
  printf("%s: %lu of %lu in %.2f s, %.0f a second\n", writing ? "inserts" : "gets   ", t.good, count, took, (double)count / took);
  return t.good == count ? 0 : 1;
}

int main(int argc, char **argv) {
  unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 10000;
  sdbc *client;
  int code = sdbc_connect(argc > 2 ? argv[2] : NULL, NULL, &client);
  if (code != SDBC_OK) {
    fprintf(stderr, "pipeline: %s\n", sdbc_strerror(code));
    return 1;
  }
  int result = run(client, true, count);
  if (result == 0) result = run(client, false, count);
  sdbc_close(client);
  return result;
}
