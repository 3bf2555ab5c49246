/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sweep.c - see sweep.h. */
#include "sweep.h"

#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seed.h"

typedef struct kind {
  const char *name;
  enum sim_kind kind;
  int code;
} kind;

#define FIRST_CALLS 8u /* of a kind, which are all tried */

static sim *base_devices[BASES];
static model *base_models[BASES];
static uint8_t scratch[300000];

/* --- Help for acts ------------------------------------------------------------------------------------------------------------ */

int sweep_note_put(fixture *f, const char *path, uint64_t seed, uint32_t size, int code, const sdb_commit *commit) {
  if (code == SDB_OK) {
    ck_assert_msg(model_put(f->w.model, path, strlen(path), seed, size, commit), "%s", model_why(f->w.model));
    if (commit->reached == SDB_DURABLE) model_all_durable(f->w.model);
  } else if (code == SDB_SYNC_FAILED) {
    model_put(f->w.model, path, strlen(path), seed, size, NULL);
    f->uncertain = true;
  }
  return code;
}

int sweep_put(fixture *f, const char *path, uint32_t size, sdb_durability durability) {
  uint64_t seed = 1000 + size;
  model_content(seed, 0, scratch, size);
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = durability;
  sdb_commit commit;
  int code = sdb_put(f->w.db, path, strlen(path), scratch, size, &options, &commit);
  return sweep_note_put(f, path, seed, size, code, &commit);
}

int sweep_erase(fixture *f, const char *path) {
  sdb_commit commit;
  int code = sdb_delete(f->w.db, path, strlen(path), NULL, &commit);
  if (code == SDB_OK) {
    ck_assert_msg(model_delete(f->w.model, path, strlen(path), &commit), "%s", model_why(f->w.model));
    model_all_durable(f->w.model);
  } else if (code == SDB_SYNC_FAILED) {
    model_delete(f->w.model, path, strlen(path), NULL);
    f->uncertain = true;
  }
  return code;
}

bool sweep_is_content(uint64_t seed, const void *data, size_t size) {
  uint8_t *expected = malloc(size + 1);
  ck_assert_ptr_nonnull(expected);
  model_content(seed, 0, expected, size);
  bool same = memcmp(expected, data, size) == 0;
  free(expected);
  return same;
}

int sweep_close(fixture *f) {
  sdb *db = f->w.db;
  f->w.db = NULL;
  int code = sdb_close(db);
  if (code == SDB_OK) model_all_durable(f->w.model);
  return code;
}

/* --- Kinds of faults ---------------------------------------------------------------------------------------------------------- */

static const kind kinds[] = {
    {"alloc", SIM_ALLOC, SDB_NO_MEMORY}, {"read", SIM_READ, SDB_IO}, {"write", SIM_WRITE, SDB_IO},
    {"write-full", SIM_WRITE, SDB_FULL}, {"sync", SIM_SYNC, SDB_IO}, {"size", SIM_SIZE, SDB_IO},
    {"size-full", SIM_SIZE, SDB_FULL},   {"name", SIM_NAME, SDB_IO}, {"random", SIM_RANDOM, SDB_IO},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* --- Bases -------------------------------------------------------------------------------------------------------------------- */

static bool encrypted; /* the databases of this sweep are */

void fixture_init(fixture *f, sim *device, model *m) {
  *f = (fixture){0};
  workload_init(&f->w, 1, device);
  model_free(f->w.model);
  f->w.model = m;
  f->w.options.page_size = 4096;
  f->w.options.versions_to_keep = 2;
  f->w.options.change_log_bytes = 0;
  f->w.options.encryption_key = encrypted ? (const uint8_t *)"thirty-two bytes make up a key.." : NULL;
  f->w.options.cipher = SDB_CIPHER_DEFAULT;
  f->w.options.checkpoint_wal_bytes = 32768;
  f->w.options.max_db_size = 1 << 30;
  f->w.profile = PROFILE_ORDINARY;
}

static void fill(fixture *f) {
  char path[16];
  for (unsigned i = 0; i < SWEEP_FILLERS; i++) {
    snprintf(path, sizeof path, "/p/%u", i);
    ck_assert_int_eq(sweep_put(f, path, 300 + i, SDB_NONE), SDB_OK);
  }
}

static void make_bases(void) {
  fixture f;
  base_devices[NOTHING] = sim_new(1);
  base_models[NOTHING] = model_new(2);

  sim *device = sim_new(2);
  fixture_init(&f, device, model_new(2));
  ck_assert_msg(workload_open(&f.w), "%s", f.w.why);
  fill(&f);
  ck_assert_int_eq(sweep_put(&f, "twice", 10, SDB_NONE), SDB_OK);
  ck_assert_int_eq(sweep_put(&f, "twice", 3000, SDB_NONE), SDB_OK);
  model_content(69000, 0, scratch, 69000);
  sdb_commit commit;
  ck_assert_int_eq(sdb_put(f.w.db, "large", 5, scratch, 69000, NULL, &commit), SDB_OK);
  ck_assert_int_eq(sweep_note_put(&f, "large", 69000, 69000, SDB_OK, &commit), SDB_OK);
  ck_assert_msg(workload_close(&f.w), "%s", f.w.why);
  sim_crash(device, SIM_KEEP_ALL, 1);
  base_devices[CLOSED] = device;
  base_models[CLOSED] = f.w.model;

  device = sim_clone(device, 3);
  fixture_init(&f, device, model_clone(base_models[CLOSED]));
  ck_assert_msg(workload_open(&f.w), "%s", f.w.why);
  ck_assert_int_eq(sweep_put(&f, "/p/11", 5000, SDB_DURABLE), SDB_OK);
  ck_assert_int_eq(sweep_put(&f, "/p/12", 70001, SDB_DURABLE), SDB_OK);
  ck_assert_int_eq(sweep_erase(&f, "/p/13"), SDB_OK);
  ck_assert_int_eq(sweep_put(&f, "/p/13", 40, SDB_DURABLE), SDB_OK);
  sim_die_at(device, 1);
  sdb_close(f.w.db);
  sim_crash(device, SIM_DROP_ALL, 1);
  base_devices[CRASHED] = device;
  base_models[CRASHED] = f.w.model;
}

static void free_bases(void) {
  for (int i = 0; i < BASES; i++) {
    model_free(base_models[i]);
    sim_free(base_devices[i]);
  }
}

/* --- One case ----------------------------------------------------------------------------------------------------------------- */

typedef struct fault_case {
  const act *act;
  const kind *kind;
  uint64_t nth;
  bool for_good;
  int code; /* that the act answered */
} fault_case;

__attribute__((noreturn)) static void report(const fault_case *c, const char *what, const char *why) {
  ck_abort_msg("%s with %s %" PRIu64 " failing %s (answer %d): %s: %s\n  again: SDB_ACT=%s SDB_KIND=%s SDB_NTH=%" PRIu64,
               c->act->name, c->kind->name, c->nth, c->for_good ? "for good" : "once", c->code, what, why, c->act->name,
               c->kind->name, c->nth);
  abort();
}

static bool sync_failed(const fixture *f) {
  sdb_stats s = {.size = sizeof s};
  return sdb_get_stats(f->w.db, &s) == SDB_OK && s.sync_failed;
}

static void judge_answer(const fault_case *c, bool struck) {
  bool sync = (c->kind->kind == SIM_SYNC || c->kind->kind == SIM_WRITE) &&
              c->code == SDB_SYNC_FAILED; /* a write to the log counts as one */
  if (c->code == SDB_OK || (struck && (c->code == c->kind->code || sync))) return;
  report(c, "the answer", struck ? "is neither success nor what the storage said" : "is an error without a fault");
}

/* What the handle shows, and whether it still works. */
static void judge_handle(const fault_case *c, fixture *f) {
  model *live = model_clone(f->w.model);
  model_require(live, model_commits(live) - (f->uncertain ? 1 : 0));
  if (!model_adopt(live, f->w.db)) report(c, "the open handle", model_why(live));
  model_free(live);
  bool failed = sync_failed(f);
  if (f->uncertain && !failed) report(c, "the handle", "answered SDB_SYNC_FAILED and goes on");
  for (int i = 0; i < 2; i++) {
    fixture later = *f;
    int code = sweep_put(&later, "/later", 1000 + (uint32_t)i, SDB_DURABLE);
    if (failed && code != SDB_SYNC_FAILED) report(c, "a put after the failed sync", sdb_strerror(code));
    if (failed) model_truncate(f->w.model, model_commits(f->w.model) - 1); /* refused: known not to be there */
    if (!failed && code != SDB_OK) report(c, "a put after the fault", sdb_strerror(code));
  }
}

static void reopen(const fault_case *c, fixture *f, const char *when) {
  f->uncertain = false;
  if (!workload_recover(&f->w)) report(c, when, f->w.why);
}

static void cut_power(const fault_case *c, fixture *f, enum sim_crash_mode mode) {
  sim_die_at(f->w.device, 1);
  sdb_close(f->w.db);
  f->w.db = NULL;
  if (!workload_close(&f->w)) report(c, "close without power", f->w.why);
  sim_crash(f->w.device, mode, c->nth * 31);
}

static void close_handle(const fault_case *c, fixture *f) {
  int code = sdb_close(f->w.db);
  f->w.db = NULL;
  if (code != SDB_OK && code != SDB_SYNC_FAILED) report(c, "close", sdb_strerror(code));
}

/* A second device failure after the first: the next process dies somewhere in its first work. */
static void die_after_reopening(const fault_case *c, fixture *f) {
  uint64_t random = c->nth;
  close_handle(c, f);
  sim_die_at(f->w.device, 1 + sim_random(&random) % 40);
  reopen(c, f, "open after close");
  if (!f->w.stopped &&
      (!workload_run(&f->w, 5) || (!f->w.stopped && sdb_checkpoint(f->w.db) != SDB_OK && !sim_dead(f->w.device)))) {
    report(c, "work after reopening", f->w.why);
  }
  cut_power(c, f, SIM_RANDOM_SUBSET);
  reopen(c, f, "open after close, work and a crash");
}

static void judge_aftermath(const fault_case *c, fixture *f) {
  switch (c->nth % 4) {
    case 0: die_after_reopening(c, f); break;
    case 1:
      cut_power(c, f, SIM_DROP_ALL);
      reopen(c, f, "open after a crash");
      break;
    case 2:
      close_handle(c, f);
      reopen(c, f, "open after close");
      if (sweep_put(f, "/after", 2500, SDB_DURABLE) != SDB_OK) report(c, "put after reopening", "failed");
      cut_power(c, f, SIM_DROP_ALL);
      reopen(c, f, "open after close, put and a crash");
      break;
    default:
      cut_power(c, f, SIM_RANDOM_SUBSET);
      reopen(c, f, "open after a crash");
      break;
  }
  if (!workload_close(&f->w)) report(c, "the last close", f->w.why);
}

/* False when the fault was not reached. */
static bool try_case(fault_case *c) {
  fixture f;
  sim *device = sim_clone(base_devices[c->act->base], c->nth);
  fixture_init(&f, device, model_clone(base_models[c->act->base]));
  if (!c->act->opens && !workload_open(&f.w)) report(c, "open without a fault", f.w.why);
  sim_fail(device, c->kind->kind, c->nth, c->for_good, c->kind->code);
  c->code = c->act->run(&f);
  bool struck = sim_failed(device);
  sim_fail_nothing(device);
  judge_answer(c, struck);
  if (f.w.db != NULL) judge_handle(c, &f);
  if (f.w.db == NULL && (sim_open_files(device) != 0 || sim_allocations(device) != 0)) {
    sim_print_leaks(device);
    report(c, "after closing", "memory is held or a file is open");
  }
  judge_aftermath(c, &f);
  workload_clear(&f.w);
  sim_free(device);
  return struck;
}

void sweep(const act *a, bool in_encrypted) {
  const char *only_act = getenv("SDB_ACT"), *only_kind = getenv("SDB_KIND");
  uint64_t only_nth = seed_number("SDB_NTH", 0), stride = seed_thin() | 1; /* odd: all four aftermaths come */
  fault_case c = {.act = a};
  encrypted = in_encrypted;
  if (only_act != NULL && strcmp(only_act, a->name) != 0) return;
  make_bases();
  for (int k = 0; k < KINDS; k++) {
    c.kind = &kinds[k];
    if (only_kind != NULL && strcmp(only_kind, c.kind->name) != 0) continue;
    for (int mode = 0; mode < 2; mode++) {
      c.for_good = mode == 1;
      for (c.nth = only_nth != 0 ? only_nth : 1; try_case(&c) && only_nth == 0;) c.nth += c.nth < FIRST_CALLS ? 1 : stride;
    }
  }
  free_bases();
}
