/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload_scrub.c - scrubs in the middle of random work: see workload.h. */
#include <inttypes.h>
#include <stdio.h>

#include "workload.h"

#define STEPS_MAX 100000u

static bool broken(workload *w, const char *what, int code) {
  char message[256] = "";
  if (w->device != NULL && sim_dead(w->device)) {
    w->stopped = true;
    return true;
  }
  sdb_message(w->db, message, sizeof message);
  snprintf(w->why, sizeof w->why, "scrub: %s: code %d (%s) [%s]", what, code, sdb_strerror(code), message);
  return false;
}

/* Steps until more than `passes` are complete. */
static bool finish(workload *w, uint64_t passes) {
  sdb_stats stats = {.size = sizeof stats};
  bool more;
  int code = sdb_get_stats(w->db, &stats);
  unsigned budget = 1 + (unsigned)(sim_random(&w->random) % 60), steps = 0;
  while (code == SDB_OK && stats.scrubs == passes && steps++ < STEPS_MAX) {
    code = sdb_step(w->db, budget, &more);
    if (code == SDB_OK) code = sdb_get_stats(w->db, &stats);
  }
  if (code != SDB_OK) return broken(w, "step", code);
  return stats.scrubs > passes || broken(w, "does not end", code);
}

bool workload_scrub(workload *w) {
  sdb_stats stats = {.size = sizeof stats};
  bool more, whole = !w->options.threads && sim_random(&w->random) % 2 == 0;
  int code = sdb_get_stats(w->db, &stats);
  if (code == SDB_OK) code = sdb_scrub(w->db);
  for (uint64_t n = sim_random(&w->random) % 6; n > 0 && code == SDB_OK; n--)
    code = sdb_step(w->db, 1 + (unsigned)(sim_random(&w->random) % 40), &more);
  if (code != SDB_OK) return broken(w, "asked for", code);
  if (!whole) return true; /* it goes on beside the work that follows */
  if (!finish(w, stats.scrubs)) return false;
  return w->stopped || w->paths > 100 || model_equals(w->model, w->db) || broken(w, model_why(w->model), SDB_OK);
}

bool workload_found_nothing(workload *w, const sdb_stats *stats) {
  if (stats->scrub_problems == 0 && stats->quarantined == 0) return true;
  snprintf(w->why, sizeof w->why, "%s: a scrub finds %" PRIu64 " problems in what is whole, %" PRIu64 " quarantined", w->doing,
           stats->scrub_problems, stats->quarantined);
  return false;
}
