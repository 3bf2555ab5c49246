/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* care.c - flush, stats, ping. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "commands.h"
#include "output.h"

int command_flush(cli *c) {
  result r = c->backend->calls->flush(c->backend);
  if (r != RESULT_OK) return exit_code_of(c, r);
  if (c->json) {
    json_begin();
    json_bool("flushed", true);
    json_end();
  } else {
    puts("flushed: everything acknowledged so far is durable");
  }
  return EXIT_DONE;
}

/* --- stats -------------------------------------------------------------------------------------------------------------------- */

typedef struct figure {
  char name[64];
  uint64_t value;
} figure;

typedef struct figures {
  figure *all;
  size_t count, cap;
  bool failed;
} figures;

static void collect(void *user, const char *name, uint64_t value) {
  figures *f = user;
  if (f->count == f->cap) {
    size_t cap = f->cap ? f->cap * 2 : 64;
    figure *more = realloc(f->all, cap * sizeof *more);
    if (!more) {
      f->failed = true;
      return;
    }
    f->all = more;
    f->cap = cap;
  }
  figure *to = &f->all[f->count++];
  (void)text_printable((bytes){(const uint8_t *)name, strlen(name)}, to->name, sizeof to->name);
  to->value = value;
}

static int by_name(const void *a, const void *b) { return strcmp(((const figure *)a)->name, ((const figure *)b)->name); }

static void print_figures(const figures *f) {
  int widest = 0;
  char number[32];
  for (size_t i = 0; i < f->count; i++) {
    int width = (int)strlen(f->all[i].name);
    if (width > widest) widest = width;
  }
  for (size_t i = 0; i < f->count; i++) printf("%-*s  %20s\n", widest, f->all[i].name, text_number(f->all[i].value, number));
}

int command_stats(cli *c) {
  figures f = {0};
  result r = c->backend->calls->stats(c->backend, collect, &f);
  int code = r != RESULT_OK ? exit_code_of(c, r) : f.failed ? complain("out of memory") : EXIT_DONE;
  if (code == EXIT_DONE) {
    if (f.count > 0) qsort(f.all, f.count, sizeof *f.all, by_name);
    if (c->json) {
      json_begin();
      for (size_t i = 0; i < f.count; i++) json_number(f.all[i].name, f.all[i].value);
      json_end();
    } else {
      print_figures(&f);
    }
  }
  free(f.all);
  return code;
}

/* --- ping --------------------------------------------------------------------------------------------------------------------- */

int command_ping(cli *c) {
  pong p;
  backend *b = c->backend;
  result r = b->calls->ping(b, &p);
  if (r != RESULT_OK) return exit_code_of(c, r);
  if (c->json) {
    json_begin();
    json_text(b->calls->is_service ? "endpoint" : "database", b->name);
    json_text("server", p.server);
    json_number("sequence", p.sequence);
    if (b->calls->is_service) json_number("round_trip_us", p.round_trip_us);
    if (!b->calls->is_service) json_number("documents", p.documents);
    json_end();
    return EXIT_DONE;
  }
  char server[128], number[32];
  (void)text_printable((bytes){(const uint8_t *)p.server, strlen(p.server)}, server, sizeof server);
  if (b->calls->is_service) {
    printf("%s answers in %.2f ms: %s, sequence %" PRIu64 "\n", b->name, (double)p.round_trip_us / 1000, server, p.sequence);
  } else {
    printf("%s opens: %s, documents %s, sequence %" PRIu64 "\n", b->name, server, text_number(p.documents, number), p.sequence);
  }
  return EXIT_DONE;
}
