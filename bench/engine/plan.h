/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* plan.h - which work is done on which stores, and how its figures become rows. */
#ifndef BENCH_PLAN_H
#define BENCH_PLAN_H

#include "work.h"

#define PLAN_STORES 10u /* at most so many side by side */

struct plan {
  uint64_t documents;
  double scale; /* of everything whose number is fixed */
  unsigned rounds;
  const char *only; /* NULL: all */
  const char *dir;
  report report;
};

/* The stores of one comparison: ours first. */
typedef struct side {
  const char *store;
  series figures[FIGURES_MAX];
  series memory; /* peak of anonymous memory */
} side;

typedef struct contest {
  const char *work;
  uint64_t documents;
  size_t size;
  uint64_t count; /* pieces of work a round, 0: as the work likes */
  unsigned rounds;
  bool fresh;      /* an empty directory and a new process for every round, else one process for all */
  bool cold;       /* one process for all, but without a round before that only warms up */
  const char *tag; /* part of the directories' names: works with one tag see the same files */
  side sides[PLAN_STORES];
  unsigned side_count;
} contest;

/* true when this number is to be measured. */
bool plan_wants(const struct plan *plan, const char *id);
/* The stores take turns. A store that is not built or fails stays without figures. */
void contest_run(const struct plan *plan, contest *c);
/* A row whose peers are the contest's other sides, in their order. */
void contest_row(struct plan *plan, const contest *c, unsigned figure, struct row row);
/* A row of the side with that name; its peers are the sides that are not ours. */
void contest_row_of(struct plan *plan, const contest *c, const char *store, unsigned figure, struct row row);
/* The figures of one side; empty when there is none of that name. */
const series *contest_figures(const contest *c, const char *store, unsigned figure);
/* Stores of StreamDB are variants of one another, not peers. */
bool store_is_ours(const char *store);
/* Removes what the works with that tag left. */
void plan_clean(const struct plan *plan, const char *tag);

void plan_run(struct plan *plan);

#endif
