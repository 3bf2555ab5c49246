/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* witness.c - remembers what a service acknowledged, and holds it to its word.
 *
 *     witness load ENDPOINT RECORD COUNT    inserts numbered messages, many at once, until COUNT or until the service is gone;
 *                                           writes the number of every acknowledged one to RECORD, a line each
 *     witness verify ENDPOINT RECORD        reads every document that RECORD names, and compares it byte for byte
 *
 * `load` exits 0 also when the service went away: that is what it is for. `verify` exits 0 only when nothing is missing or wrong.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdbc/sdbc.h"

enum { PATH_MAX_BYTES = 64, CONTENT_MAX = 1200 };

typedef struct witness {
  sdbc *client;
  FILE *record;
  uint64_t good, bad;
  bool gone; /* the service does not answer any more */
  char why[200];
} witness;

static size_t path_of(uint64_t number, char path[PATH_MAX_BYTES]) {
  return (size_t)snprintf(path, PATH_MAX_BYTES, "/messages/sent/%010" PRIu64, number);
}

/* 100 to 1,100 bytes that follow from the number alone. */
static size_t content_of(uint64_t number, char content[CONTENT_MAX]) {
  uint64_t state = number * 0x9E3779B97F4A7C15u + 1;
  size_t want = 100 + (size_t)(state >> 32) % 1000;
  size_t len = (size_t)snprintf(content, CONTENT_MAX, "{\"message\":%" PRIu64 ",\"text\":\"", number);
  while (len < want) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    content[len++] = (char)('a' + (state >> 33) % 26);
  }
  memcpy(content + len, "\"}", 2);
  return len + 2;
}

/* The callback knows the request by its number, which travels as the user pointer beside the witness. */
typedef struct request {
  witness *w;
  uint64_t number;
} request;

static request *request_new(witness *w, uint64_t number) {
  request *r = malloc(sizeof *r);
  if (r) *r = (request){w, number};
  return r;
}

static void failed(witness *w, const sdbc_done *done) {
  w->bad++;
  if (w->why[0] == '\0') snprintf(w->why, sizeof w->why, "%s", done->message);
}

static void inserted(void *user, const sdbc_done *done) {
  request *r = user;
  if (done->code == SDBC_OK && done->commit->reached == SDBC_DURABLE) {
    fprintf(r->w->record, "%" PRIu64 "\n", r->number);
    r->w->good++;
  } else {
    failed(r->w, done);
    r->w->gone = true;
  }
  free(r);
}

static void got(void *user, const sdbc_done *done) {
  request *r = user;
  char content[CONTENT_MAX];
  size_t size = content_of(r->number, content);
  if (done->code == SDBC_OK && done->size == size && memcmp(done->data, content, size) == 0) r->w->good++;
  else failed(r->w, done);
  free(r);
}

static int submit(witness *w, bool writing, uint64_t number) {
  char path[PATH_MAX_BYTES], content[CONTENT_MAX];
  size_t path_len = path_of(number, path), size = content_of(number, content);
  request *r = request_new(w, number);
  if (!r) return SDBC_NO_MEMORY;
  int rc = writing ? sdbc_submit_insert(w->client, path, path_len, content, size, NULL, inserted, r, NULL)
                   : sdbc_submit_get(w->client, path, path_len, SDBC_CURRENT, got, r, NULL);
  if (rc != SDBC_OK) free(r);
  return rc;
}

/* Submits, making room by taking answers when too much is under way. */
static int submit_when_possible(witness *w, bool writing, uint64_t number) {
  int rc;
  while ((rc = submit(w, writing, number)) == SDBC_AGAIN && !w->gone) {
    rc = sdbc_poll(w->client, 1000, NULL);
    if (rc != SDBC_OK && rc != SDBC_AGAIN) return rc;
  }
  return rc;
}

static void drain(witness *w) {
  while (!w->gone && sdbc_in_flight(w->client) > 0) {
    int rc = sdbc_poll(w->client, 1000, NULL);
    if (rc != SDBC_OK && rc != SDBC_AGAIN) w->gone = true;
  }
}

static int load(witness *w, uint64_t count) {
  for (uint64_t number = 0; number < count && !w->gone; number++) {
    if (submit_when_possible(w, true, number) != SDBC_OK) w->gone = true;
  }
  drain(w);
  return 0;
}

static int verify(witness *w) {
  uint64_t number, asked = 0;
  while (fscanf(w->record, "%" SCNu64, &number) == 1) {
    asked++;
    if (submit_when_possible(w, false, number) != SDBC_OK) {
      w->bad++;
      snprintf(w->why, sizeof w->why, "%s", sdbc_message(w->client));
      break;
    }
  }
  drain(w);
  return w->bad == 0 && w->good == asked ? 0 : 1;
}

int main(int argc, char **argv) {
  bool loading = argc == 5 && strcmp(argv[1], "load") == 0;
  if (!loading && !(argc == 4 && strcmp(argv[1], "verify") == 0)) {
    fprintf(stderr, "usage: witness load ENDPOINT RECORD COUNT | witness verify ENDPOINT RECORD\n");
    return 2;
  }
  witness w = {0};
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.connect_timeout_ms = 5000;
  options.request_timeout_ms = loading ? 1000 : 10000;
  if (loading) options.retries = 0;
  w.record = fopen(argv[3], loading ? "w" : "r");
  if (!w.record) {
    perror(argv[3]);
    return 1;
  }
  int rc = sdbc_connect(argv[2], &options, &w.client);
  if (rc != SDBC_OK) {
    fprintf(stderr, "witness: %s\n", sdbc_strerror(rc));
    return 1;
  }
  int result = loading ? load(&w, strtoull(argv[4], NULL, 10)) : verify(&w);
  sdbc_close(w.client);
  if (fclose(w.record) != 0) result = 1;
  printf("%" PRIu64 " %s\n", w.good, loading ? "acknowledged" : "as acknowledged");
  if (w.bad > 0) fprintf(stderr, "%" PRIu64 " not: %s\n", w.bad, w.why);
  return result;
}
