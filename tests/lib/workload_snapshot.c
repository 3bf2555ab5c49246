/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload_snapshot.c - snapshots that stay open while random work goes on: see workload.h. */
#include <stdio.h>

#include "workload.h"

static bool broken(workload *w, const char *what, int code, const char *why) {
  if (w->device != NULL && sim_dead(w->device)) {
    w->stopped = true;
    return true;
  }
  snprintf(w->why, sizeof w->why, "snapshot: %s: code %d (%s) [%.900s]", what, code, sdb_strerror(code), why);
  return false;
}

static bool open_one(workload *w) {
  sdb_snapshot *snapshot;
  int code = sdb_snapshot_open(w->db, &snapshot);
  if (code != SDB_OK) return broken(w, "open", code, "");
  w->snapshots[w->snapshot_count].snapshot = snapshot;
  w->snapshots[w->snapshot_count++].model = model_clone(w->model);
  return true;
}

static bool compare(workload *w, unsigned i) {
  model *then = w->snapshots[i].model;
  return model_equals_snapshot(then, w->db, w->snapshots[i].snapshot) || broken(w, "another state", SDB_OK, model_why(then));
}

static void close_one(workload *w, unsigned i) {
  sdb_snapshot_close(w->snapshots[i].snapshot);
  model_free(w->snapshots[i].model);
  w->snapshots[i] = w->snapshots[--w->snapshot_count];
}

bool workload_snapshot(workload *w) {
  unsigned i = (unsigned)(sim_random(&w->random) % WORKLOAD_SNAPSHOTS);
  if (i >= w->snapshot_count) return open_one(w);
  bool good = compare(w, i);
  close_one(w, i);
  return good;
}

bool workload_snapshots_verify(workload *w) {
  for (unsigned i = 0; i < w->snapshot_count && !w->stopped; i++) {
    if (!compare(w, i)) return false;
  }
  return true;
}

void workload_snapshots_close(workload *w) {
  while (w->snapshot_count > 0) close_one(w, 0);
}
