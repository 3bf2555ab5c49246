/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* contest.c - several stores at one work, taking turns. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"

bool plan_wants(const struct plan *plan, const char *id) {
  size_t len = strlen(id);
  if (!plan->only) return true;
  for (const char *at = plan->only; (at = strstr(at, id)); at += len) {
    bool begins = at == plan->only || at[-1] == ',';
    if (begins && (at[len] == ',' || at[len] == '\0')) return true;
  }
  return false;
}

static void store_directory(const struct plan *plan, const char *tag, const char *store, char *buf, size_t len) {
  if ((size_t)snprintf(buf, len, "%s/%s-%s", plan->dir, tag, store) >= len) die("--dir is too long");
  for (char *at = buf + strlen(plan->dir); *at; at++) {
    if (*at == ' ') *at = '-';
  }
}

static void take(side *s, worker *w, const double *figures) {
  for (unsigned i = 0; i < FIGURES_MAX; i++) series_add(&s->figures[i], figures[i]);
  series_add(&s->memory, (double)w->peak_memory);
}

static void run_fresh(const struct job *job, side *s) {
  worker w;
  double figures[FIGURES_MAX];
  directory_remove(job->dir);
  directory_make(job->dir);
  if (!worker_start(&w, job)) return;
  if (worker_round(&w, figures)) take(s, &w, figures);
  worker_stop(&w);
}

static void run_standing(struct job *jobs, contest *c) {
  worker workers[PLAN_STORES];
  bool alive[PLAN_STORES];
  double figures[FIGURES_MAX];
  for (unsigned i = 0; i < c->side_count; i++) {
    directory_make(jobs[i].dir);
    alive[i] = worker_start(&workers[i], &jobs[i]);
  }
  unsigned warm_up = c->cold ? 0 : 1;
  for (unsigned round = 0; round < c->rounds + warm_up; round++) {
    for (unsigned i = 0; i < c->side_count; i++) {
      if (!alive[i]) continue;
      if (!worker_round(&workers[i], figures)) {
        worker_stop(&workers[i]);
        alive[i] = false;
      } else if (round >= warm_up) {
        take(&c->sides[i], &workers[i], figures);
      }
    }
  }
  for (unsigned i = 0; i < c->side_count; i++) {
    if (alive[i]) worker_stop(&workers[i]);
  }
}

void contest_run(const struct plan *plan, contest *c) {
  char names[PLAN_STORES][512];
  struct job jobs[PLAN_STORES];
  for (unsigned i = 0; i < c->side_count; i++) {
    store_directory(plan, c->tag, c->sides[i].store, names[i], sizeof names[i]);
    jobs[i] = (struct job){.work = c->work,
                           .store = c->sides[i].store,
                           .dir = names[i],
                           .documents = c->documents,
                           .size = c->size,
                           .count = c->count};
  }
  fprintf(stderr, "bench: %s, %s\n", c->tag, c->work);
  if (!c->fresh) {
    run_standing(jobs, c);
    return;
  }
  for (unsigned round = 0; round < c->rounds; round++) {
    for (unsigned i = 0; i < c->side_count; i++) run_fresh(&jobs[i], &c->sides[i]);
  }
}

void contest_row(struct plan *plan, const contest *c, unsigned figure, struct row row) {
  row.ours = &c->sides[0].figures[figure];
  for (unsigned i = 1; i < c->side_count; i++) {
    row.peers[row.peer_count].name = c->sides[i].store;
    row.peers[row.peer_count++].series = &c->sides[i].figures[figure];
  }
  report_row(&plan->report, &row);
}

bool store_is_ours(const char *store) { return strncmp(store, "sdb", 3) == 0; }

const series *contest_figures(const contest *c, const char *store, unsigned figure) {
  static const series none;
  for (unsigned i = 0; i < c->side_count; i++) {
    if (!strcmp(c->sides[i].store, store)) return &c->sides[i].figures[figure];
  }
  return &none;
}

void contest_row_of(struct plan *plan, const contest *c, const char *store, unsigned figure, struct row row) {
  row.ours = contest_figures(c, store, figure);
  for (unsigned i = 0; i < c->side_count; i++) {
    if (store_is_ours(c->sides[i].store)) continue;
    row.peers[row.peer_count].name = c->sides[i].store;
    row.peers[row.peer_count++].series = &c->sides[i].figures[figure];
  }
  report_row(&plan->report, &row);
}

void plan_clean(const struct plan *plan, const char *tag) {
  static const char *const stores[] = {"sdb",          "sdb-nosuffix",   "sdb-quick", "sdb-crypt", "sdb-nommap",
                                       "sdb-buffered", "sdb-log",        "floor",     "LMDB",      "RocksDB",
                                       "RocksDB blob", "RocksDB no log", "SQLite"};
  char name[512];
  for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) {
    store_directory(plan, tag, stores[i], name, sizeof name);
    directory_remove(name);
  }
}
