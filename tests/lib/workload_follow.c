/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload_follow.c - the feed of changes beside random work: see workload.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "workload.h"

static bool broken(workload *w, const char *what, uint64_t sequence) {
  snprintf(w->why, sizeof w->why, "changes behind %" PRIu64 ": %s (commit %" PRIu64 ")", w->seen.sequence, what, sequence);
  return false;
}

/* A call that failed: the death of the device explains it. */
static bool failed(workload *w, const char *call, int code) {
  char message[256] = "";
  if (w->device != NULL && sim_dead(w->device)) {
    w->stopped = true;
    return true;
  }
  sdb_message(w->db, message, sizeof message);
  snprintf(w->why, sizeof w->why, "changes behind %" PRIu64 ": %s: code %d [%s]", w->seen.sequence, call, code, message);
  return false;
}

/* Commits of the model between where it was left and `bound` that are not among those shown, which are in order. */
static bool none_is_missing(workload *w, const uint64_t *shown, size_t count, uint64_t bound) {
  size_t at = 0;
  for (size_t i = 0; i < model_commits(w->model); i++) {
    uint64_t sequence = model_sequence(w->model, i);
    if (sequence <= w->seen.sequence || sequence > bound) continue;
    while (at < count && shown[at] < sequence) at++;
    if (at == count || shown[at] != sequence) return broken(w, "a synced commit is not shown", sequence);
  }
  return true;
}

static bool read_on(workload *w, sdb_changes *feed, uint64_t bound) {
  uint64_t *shown = NULL, last = w->seen.sequence;
  size_t count = 0, cap = 0;
  sdb_change change;
  sdb_position seen = w->seen; /* as of a change shown last: at the end of a feed it may be where a session begins */
  int code;
  bool good = true, whole = true;
  while (good && (code = sdb_changes_next(feed, &change)) == SDB_OK) {
    if (whole && change.sequence <= last) good = broken(w, "shown twice or out of order", change.sequence);
    if (!whole && change.sequence != last) good = broken(w, "begins before the one before it has ended", change.sequence);
    last = change.sequence;
    whole = change.last;
    if (!whole) continue;
    if (count == cap) shown = realloc(shown, (cap = 2 * cap + 64) * sizeof *shown);
    if (shown == NULL) return broken(w, "out of memory", 0);
    shown[count++] = change.sequence;
    sdb_changes_position(feed, &seen);
  }
  if (good && code != SDB_END) good = failed(w, "changes_next", code);
  else if (good) good = none_is_missing(w, shown, count, bound);
  free(shown);
  if (good && !w->stopped) w->seen = seen;
  w->seen_commit |= count > 0;
  return good;
}

bool workload_follow(workload *w) {
  sdb_stats stats = {.size = sizeof stats};
  sdb_position newest;
  sdb_changes *feed;
  int code = sdb_get_stats(w->db, &stats);
  if (code != SDB_OK) return failed(w, "stats", code);
  code = w->seen.epoch == 0 ? SDB_TRIMMED : sdb_changes_open(w->db, &w->seen, "", 0, &feed);
  bool begun = code == SDB_RESET && !w->seen_commit; /* in a session that ended without a commit: nobody knows it any more */
  if (code == SDB_TRIMMED || begun) {                /* or the first time: from here on */
    code = sdb_changes_range(w->db, NULL, &newest);
    if (code != SDB_OK) return failed(w, "changes_range", code);
    w->seen = newest;
    w->seen_commit = false;
    return true;
  }
  if (code == SDB_RESET) return broken(w, "a position that was shown is said to be lost", w->seen.sequence);
  if (code != SDB_OK) return failed(w, "changes_open", code);
  bool good = read_on(w, feed, stats.synced_sequence);
  sdb_changes_close(feed);
  return good;
}
