/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload_again.c - batches under conditions, asked for again when nobody knows what became of them: see workload.h. */
#include <stdio.h>
#include <stdlib.h>

#include "workload.h"

static bool dead(const workload *w) { return w->device != NULL && sim_dead(w->device); }

static bool broken(workload *w, const char *what, int code, size_t at) {
  if (dead(w)) {
    w->stopped = true;
    return true;
  }
  snprintf(w->why, sizeof w->why, "batch under conditions: %s: code %d (%s), operation %zu", what, code, sdb_strerror(code), at);
  return false;
}

/* What the model makes of it: as far as the conditions hold. */
struct attempt {
  unsigned failing; /* the first whose condition does not hold; the count: all do */
  bool may_be_too_large;
};

static int add(workload *w, sdb_batch *batch, unsigned i, struct attempt *a) {
  struct workload_operation *o = &w->again.operations[i];
  uint8_t path[SDB_MAX_PATH];
  size_t path_len = workload_path(o->path, path);
  uint32_t version = model_version(w->model, path, path_len);
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.expect = o->expect;
  bool holds = a->failing == w->again.count && version == o->expect;
  if (!holds && a->failing == w->again.count) a->failing = i;
  a->may_be_too_large |= model_names(w->model, path, path_len) > 1;
  if (o->remove) {
    if (holds) model_delete(w->model, path, path_len, NULL);
    return sdb_batch_delete(batch, path, path_len, o->expect);
  }
  uint8_t *data = malloc(o->size + 1u);
  if (data == NULL) return SDB_NO_MEMORY;
  model_content(o->seed, 0, data, o->size);
  if (holds) model_put(w->model, path, path_len, o->seed, o->size, NULL);
  int code = sdb_batch_put(batch, path, path_len, data, o->size, &options);
  free(data);
  return code;
}

static bool versions_agree(workload *w, const sdb_batch_result *results) {
  for (unsigned i = 0; i < w->again.count; i++) {
    const struct workload_operation *o = &w->again.operations[i];
    if (results[i].code != SDB_OK || results[i].commit.info.version != o->expect + (o->remove ? 0 : 1))
      return broken(w, "another version", results[i].code, i);
  }
  return true;
}

/* All of it happened, or nothing did: the model knows no third state, and is told which. */
static bool judge(workload *w, const struct attempt *a, size_t before, int code, size_t failed, const sdb_batch_result *results) {
  bool all_hold = a->failing == w->again.count, full = code == SDB_FULL && w->profile == PROFILE_TIGHT;
  bool good = model_end(w->model, code == SDB_OK ? results[0].commit.sequence : 0) || broken(w, "order of commits", code, 0);
  w->again.wanted = code != SDB_OK && all_hold && dead(w);
  if (w->again.wanted) return broken(w, "no answer", code, failed);
  if (code != SDB_OK || !all_hold) model_truncate(w->model, before);
  if (dead(w) && code != SDB_OK) return broken(w, "no answer", code, failed);
  if (full || (code == SDB_TOO_LARGE && a->may_be_too_large)) return good;
  if (!all_hold && code == SDB_CONFLICT && failed == a->failing) return good;
  if (!all_hold || code != SDB_OK) return broken(w, all_hold ? "refused" : "not refused at the first condition", code, failed);
  return good && versions_agree(w, results);
}

bool workload_batch_again(workload *w) {
  sdb_batch *batch;
  sdb_batch_result results[WORKLOAD_CONDITIONS];
  struct attempt a = {.failing = w->again.count};
  size_t before = model_commits(w->model), failed = 0;
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = workload_durability(w);
  int code = sdb_batch_open(w->db, &batch);
  if (code != SDB_OK) return broken(w, "open", code, 0);
  w->again.wanted = false;
  model_begin(w->model);
  for (unsigned i = 0; i < w->again.count && code == SDB_OK; i++) code = add(w, batch, i, &a);
  if (code != SDB_OK) {
    sdb_batch_abort(batch);
    model_end(w->model, 0);
    model_truncate(w->model, before);
    return (code == SDB_FULL && w->profile == PROFILE_TIGHT) || broken(w, "not added", code, 0);
  }
  code = sdb_batch_commit(batch, &options, results, WORKLOAD_CONDITIONS, &failed);
  if (!judge(w, &a, before, code, failed, results)) return false;
  bool durable = options.durability == SDB_DURABLE || options.durability == SDB_DEFAULT;
  if (code == SDB_OK && durable) model_all_durable(w->model);
  return true;
}

bool workload_batch_under_conditions(workload *w) {
  uint64_t first = sim_random(&w->random);
  w->again.count = 2 + (unsigned)(sim_random(&w->random) % (WORKLOAD_CONDITIONS - 1));
  if (w->again.count > w->paths) w->again.count = w->paths;
  for (unsigned i = 0; i < w->again.count; i++) {
    uint8_t path[SDB_MAX_PATH];
    struct workload_operation *o = &w->again.operations[i];
    o->path = 1 + (unsigned)((first + i) % w->paths);
    o->expect = model_version(w->model, path, workload_path(o->path, path));
    o->remove = o->expect != 0 && sim_random(&w->random) % 4 == 0;
    o->seed = sim_random(&w->random);
    o->size = workload_size(w);
  }
  return workload_batch_again(w) && (w->stopped || sim_random(&w->random) % 4 != 0 || workload_batch_again(w));
}
