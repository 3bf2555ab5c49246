/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_faults.c - every public call with every storage call and allocation failing, once and for good; and the device full.
 *
 * A sweep fails the 1st, 2nd, 3rd ... call of a kind that a public call makes, until one is not reached any more. After each:
 *   1. the answer is success, or the code that the storage gave (sync and log: SDB_SYNC_FAILED)
 *   2. what the open handle shows is the state before or, on success, the state after; only after a failed sync either
 *   3. the next durable put works; after a failed sync it is refused, and so is every other one
 *   4. the power fails; with even numbers the handle is closed and opened first, and there is more work: what a failed sync left
 *      in doubt must not be trusted by the next open
 *   5. everything acknowledged is there, check finds nothing, no memory is held, no file is open
 *
 * Environment: SDB_ACT=name, SDB_KIND=n, SDB_NTH=n: only that case.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seed.h"
#include "workload.h"

#define FILLERS 40u

typedef struct fixture {
  workload w;
  bool uncertain; /* the last commit of the model may or may not have happened */
} fixture;

enum base { NOTHING, CLOSED, CRASHED, BASES };

typedef struct act {
  const char *name;
  enum base base;
  bool opens; /* it opens the database itself; otherwise it finds it open */
  int (*run)(fixture *f);
} act;

typedef struct kind {
  const char *name;
  enum sim_kind kind;
  int code;
} kind;

static sim *base_devices[BASES];
static model *base_models[BASES];

/* --- Acts --------------------------------------------------------------------------------------------------------------------- */

static uint8_t scratch[300000];

static int note_put(fixture *f, const char *path, uint64_t seed, uint32_t size, int code, const sdb_commit *commit) {
  if (code == SDB_OK) {
    ck_assert_msg(model_put(f->w.model, path, strlen(path), seed, size, commit), "%s", model_why(f->w.model));
    if (commit->reached == SDB_DURABLE) model_all_durable(f->w.model);
  } else if (code == SDB_SYNC_FAILED) {
    model_put(f->w.model, path, strlen(path), seed, size, NULL);
    f->uncertain = true;
  }
  return code;
}

static int put(fixture *f, const char *path, uint32_t size, sdb_durability durability) {
  uint64_t seed = 1000 + size;
  model_content(seed, 0, scratch, size);
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = durability;
  sdb_commit commit;
  int code = sdb_put(f->w.db, path, strlen(path), scratch, size, &options, &commit);
  return note_put(f, path, seed, size, code, &commit);
}

static int put_new(fixture *f) { return put(f, "/new", 100, SDB_DURABLE); }
static int put_over(fixture *f) { return put(f, "/p/7", 100, SDB_DURABLE); }
static int put_empty(fixture *f) { return put(f, "/p/7", 0, SDB_DURABLE); }
static int put_large(fixture *f) { return put(f, "large", 70000, SDB_DURABLE); }
static int put_buffered(fixture *f) { return put(f, "/p/7", 200, SDB_BUFFERED); }
static int put_unsynced(fixture *f) { return put(f, "/p/7", 200, SDB_NONE); }

static int put_deferred(fixture *f) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.defer = true;
  model_content(5, 0, scratch, 50);
  sdb_commit commit;
  int code = sdb_put(f->w.db, "/new", 4, scratch, 50, &options, &commit);
  if (code == SDB_OK) code = sdb_wait(f->w.db, commit.sequence);
  return note_put(f, "/new", 5, 50, code, &commit);
}

static int put_conflict(fixture *f) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.expect = 77;
  int code = sdb_put(f->w.db, "/p/7", 4, "x", 1, &options, NULL);
  return code == SDB_CONFLICT ? SDB_OK : code == SDB_OK ? SDB_INTERNAL : code;
}

/* Enough to fill segments and to make the engine checkpoint by itself. */
static int put_many(fixture *f) {
  int code = SDB_OK;
  for (int i = 0; i < 36 && code == SDB_OK; i++)
    code = put(f, i % 2 == 0 ? "/p/3" : "/p/30", 1500, i % 4 == 0 ? SDB_DURABLE : SDB_NONE);
  return code;
}

static int write_stream(fixture *f) {
  sdb_writer *writer;
  sdb_commit commit;
  model_content(6, 0, scratch, 150000);
  int code = sdb_writer_open(f->w.db, "/stream", 7, SDB_UNKNOWN_SIZE, NULL, &writer);
  if (code != SDB_OK) return code;
  for (int i = 0; i < 3 && code == SDB_OK; i++) code = sdb_writer_write(writer, scratch + i * 50000, 50000);
  if (code == SDB_OK) {
    code = sdb_writer_commit(writer, &commit);
  } else {
    sdb_writer_abort(writer);
  }
  return note_put(f, "/stream", 6, 150000, code, &commit);
}

static int abort_stream(fixture *f) {
  sdb_writer *writer;
  int code = sdb_writer_open(f->w.db, "/stream", 7, 150000, NULL, &writer);
  if (code != SDB_OK) return code;
  for (int i = 0; i < 2 && code == SDB_OK; i++) code = sdb_writer_write(writer, scratch, 50000);
  sdb_writer_abort(writer);
  return code;
}

static int erase_path(fixture *f, const char *path) {
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

static int erase(fixture *f) { return erase_path(f, "/p/7"); }
static int erase_large(fixture *f) { return erase_path(f, "large"); }

static int erase_absent(fixture *f) {
  int code = sdb_delete(f->w.db, "/none", 5, NULL, NULL);
  return code == SDB_NOT_FOUND ? SDB_OK : code == SDB_OK ? SDB_INTERNAL : code;
}

static bool is_content(uint64_t seed, const void *data, size_t size) {
  uint8_t *expected = malloc(size + 1);
  ck_assert_ptr_nonnull(expected);
  model_content(seed, 0, expected, size);
  bool same = memcmp(expected, data, size) == 0;
  free(expected);
  return same;
}

static int get(fixture *f) {
  size_t size;
  int code = sdb_get(f->w.db, "large", 5, SDB_CURRENT, scratch, sizeof scratch, &size, NULL);
  if (code == SDB_OK) ck_assert(size == 69000 && is_content(69000, scratch, size));
  return code;
}

static int get_alloc(fixture *f) {
  void *data;
  size_t size;
  int code = sdb_get_alloc(f->w.db, "/p/5", 4, SDB_CURRENT, &data, &size, NULL);
  if (code != SDB_OK) return code;
  ck_assert(is_content(1000 + size, data, size));
  sdb_free(f->w.db, data);
  return SDB_OK;
}

static int get_range(fixture *f) {
  size_t got;
  int code = sdb_get_range(f->w.db, "large", 5, SDB_CURRENT, 65000, scratch, 3000, &got, NULL);
  if (code == SDB_OK) ck_assert_uint_eq(got, 3000);
  return code;
}

static int stat_path(fixture *f) {
  sdb_info info;
  return sdb_stat(f->w.db, "/p/12", 5, SDB_CURRENT, &info);
}

static int stat_absent(fixture *f) {
  sdb_info info;
  int code = sdb_stat(f->w.db, "/none", 5, SDB_CURRENT, &info);
  return code == SDB_NOT_FOUND ? SDB_OK : code == SDB_OK ? SDB_INTERNAL : code;
}

static int versions(fixture *f) {
  sdb_info infos[2];
  size_t count;
  return sdb_versions(f->w.db, "twice", 5, infos, 2, &count);
}

static int search(fixture *f) {
  sdb_cursor *cursor;
  sdb_entry entry;
  unsigned count = 0;
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.prefix = "/p/";
  options.prefix_len = 3;
  options.infos = true;
  int code = sdb_cursor_open(f->w.db, &options, &cursor);
  if (code != SDB_OK) return code;
  while ((code = sdb_cursor_next(cursor, &entry)) == SDB_OK) count++;
  sdb_cursor_close(cursor);
  if (code != SDB_END) return code;
  return count == FILLERS ? SDB_OK : SDB_INTERNAL;
}

static int read_stream(fixture *f) {
  sdb_reader *reader;
  int code = sdb_reader_open(f->w.db, "large", 5, SDB_CURRENT, &reader);
  if (code != SDB_OK) return code;
  size_t got = 0;
  code = sdb_reader_seek(reader, 60000);
  for (int i = 0; i < 9 && code == SDB_OK; i++) code = sdb_reader_read(reader, scratch, 1000, &got);
  sdb_reader_close(reader);
  return code;
}

static int close_it(fixture *f);

/* Three requests, the second cancelled; `close` leaves the third to sdb_close(). Each must be told once, whatever fails. */
typedef struct answer {
  unsigned calls;
  int code;
  sdb *db;
} answer;

static void take_answer(void *user, int code, void *data, size_t size, const sdb_info *info) {
  answer *a = user;
  (void)info;
  a->calls++;
  a->code = code;
  if (code == SDB_OK) ck_assert(is_content(size == 69000 ? 69000 : 1000 + size, data, size));
  sdb_free(a->db, data);
}

static int get_async(fixture *f, bool close) {
  static const char *const paths[] = {"/p/5", "/p/6", "large"};
  answer answers[3] = {{.db = f->w.db}, {.db = f->w.db}, {.db = f->w.db}};
  bool accepted[3] = {false}, more;
  sdb_request second = 0;
  int code = SDB_OK;
  for (int i = 0; i < 3 && code == SDB_OK; i++) {
    code = sdb_get_async(f->w.db, paths[i], strlen(paths[i]), SDB_CURRENT, take_answer, &answers[i], i == 1 ? &second : NULL);
    accepted[i] = code == SDB_OK;
  }
  ck_assert_int_eq(sdb_async_cancel(f->w.db, second), accepted[1] ? SDB_OK : SDB_NOT_FOUND);
  for (int i = 0; i < (close ? 1 : 3); i++) {
    int rc = sdb_step(f->w.db, 1, &more);
    if (code == SDB_OK) code = rc;
  }
  if (close) {
    int rc = close_it(f);
    if (code == SDB_OK) code = rc;
  }
  for (int i = 0; i < 3; i++) {
    ck_assert_uint_eq(answers[i].calls, accepted[i]);
    if (code == SDB_OK && answers[i].code != SDB_CANCELLED) code = answers[i].code;
  }
  return code;
}

static int get_async_and_step(fixture *f) { return get_async(f, false); }
static int get_async_and_close(fixture *f) { return get_async(f, true); }

static int flush(fixture *f) { return sdb_flush(f->w.db); }
static int checkpoint(fixture *f) { return sdb_checkpoint(f->w.db); }

static int step(fixture *f) {
  bool more = true;
  int code = SDB_OK;
  for (int i = 0; i < 50 && more && code == SDB_OK; i++) {
    sim_advance(f->w.device, 200);
    code = sdb_step(f->w.db, 8, &more);
  }
  return code;
}

static int stats(fixture *f) {
  sdb_stats s = {.size = sizeof s};
  return sdb_get_stats(f->w.db, &s);
}

static int check(fixture *f) {
  sdb_check_report report = {.size = sizeof report};
  int code = sdb_check(f->w.db, NULL, NULL, &report);
  if (code == SDB_OK && report.problems > 0)
    return sim_failed(f->w.device) ? SDB_IO : SDB_INTERNAL; /* what it cannot read is a problem */
  return code;
}

static int open_it(fixture *f) {
  int code = sdb_open(WORKLOAD_NAME, &f->w.options, &f->w.db);
  if (code != SDB_OK) f->w.db = NULL;
  return code;
}

static int close_it(fixture *f) {
  sdb *db = f->w.db;
  f->w.db = NULL;
  int code = sdb_close(db);
  if (code == SDB_OK) model_all_durable(f->w.model);
  return code;
}

static int put_and_close(fixture *f) {
  int code = put(f, "/p/9", 900, SDB_NONE);
  return code == SDB_OK ? close_it(f) : code;
}

static const act acts[] = {
    {"open-new", NOTHING, true, open_it},
    {"open", CLOSED, true, open_it},
    {"recover", CRASHED, true, open_it},
    {"put-new", CLOSED, false, put_new},
    {"put-over", CRASHED, false, put_over},
    {"put-empty", CLOSED, false, put_empty},
    {"put-large", CRASHED, false, put_large},
    {"put-buffered", CLOSED, false, put_buffered},
    {"put-unsynced", CLOSED, false, put_unsynced},
    {"put-deferred", CLOSED, false, put_deferred},
    {"put-conflict", CLOSED, false, put_conflict},
    {"put-many", CLOSED, false, put_many},
    {"writer", CLOSED, false, write_stream},
    {"writer-abort", CLOSED, false, abort_stream},
    {"delete", CLOSED, false, erase},
    {"delete-large", CRASHED, false, erase_large},
    {"delete-absent", CLOSED, false, erase_absent},
    {"get", CLOSED, false, get},
    {"get-alloc", CLOSED, false, get_alloc},
    {"get-range", CLOSED, false, get_range},
    {"stat", CLOSED, false, stat_path},
    {"stat-absent", CLOSED, false, stat_absent},
    {"versions", CLOSED, false, versions},
    {"search", CLOSED, false, search},
    {"reader", CLOSED, false, read_stream},
    {"get-async", CLOSED, false, get_async_and_step},
    {"get-async-close", CRASHED, false, get_async_and_close},
    {"flush", CRASHED, false, flush},
    {"checkpoint", CRASHED, false, checkpoint},
    {"step", CRASHED, false, step},
    {"stats", CLOSED, false, stats},
    {"check", CLOSED, false, check},
    {"close", CLOSED, false, close_it},
    {"put-and-close", CRASHED, false, put_and_close},
};
enum { ACTS = sizeof acts / sizeof *acts };

static const kind kinds[] = {
    {"alloc", SIM_ALLOC, SDB_NO_MEMORY}, {"read", SIM_READ, SDB_IO}, {"write", SIM_WRITE, SDB_IO},
    {"write-full", SIM_WRITE, SDB_FULL}, {"sync", SIM_SYNC, SDB_IO}, {"size", SIM_SIZE, SDB_IO},
    {"size-full", SIM_SIZE, SDB_FULL},   {"name", SIM_NAME, SDB_IO}, {"random", SIM_RANDOM, SDB_IO},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* --- Bases -------------------------------------------------------------------------------------------------------------------- */

static bool encrypted; /* the databases of this sweep are */

static void fixture_init(fixture *f, sim *device, model *m) {
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
  for (unsigned i = 0; i < FILLERS; i++) {
    snprintf(path, sizeof path, "/p/%u", i);
    ck_assert_int_eq(put(f, path, 300 + i, SDB_NONE), SDB_OK);
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
  ck_assert_int_eq(put(&f, "twice", 10, SDB_NONE), SDB_OK);
  ck_assert_int_eq(put(&f, "twice", 3000, SDB_NONE), SDB_OK);
  model_content(69000, 0, scratch, 69000);
  sdb_commit commit;
  ck_assert_int_eq(sdb_put(f.w.db, "large", 5, scratch, 69000, NULL, &commit), SDB_OK);
  ck_assert_int_eq(note_put(&f, "large", 69000, 69000, SDB_OK, &commit), SDB_OK);
  ck_assert_msg(workload_close(&f.w), "%s", f.w.why);
  sim_crash(device, SIM_KEEP_ALL, 1);
  base_devices[CLOSED] = device;
  base_models[CLOSED] = f.w.model;

  device = sim_clone(device, 3);
  fixture_init(&f, device, model_clone(base_models[CLOSED]));
  ck_assert_msg(workload_open(&f.w), "%s", f.w.why);
  ck_assert_int_eq(put(&f, "/p/11", 5000, SDB_DURABLE), SDB_OK);
  ck_assert_int_eq(put(&f, "/p/12", 70001, SDB_DURABLE), SDB_OK);
  ck_assert_int_eq(erase_path(&f, "/p/13"), SDB_OK);
  ck_assert_int_eq(put(&f, "/p/13", 40, SDB_DURABLE), SDB_OK);
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
    int code = put(&later, "/later", 1000 + (uint32_t)i, SDB_DURABLE);
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
      if (put(f, "/after", 2500, SDB_DURABLE) != SDB_OK) report(c, "put after reopening", "failed");
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

START_TEST(test_sweep) {
  const char *only_act = getenv("SDB_ACT"), *only_kind = getenv("SDB_KIND");
  uint64_t only_nth = seed_number("SDB_NTH", 0);
  fault_case c = {.act = &acts[_i % ACTS]};
  encrypted = _i >= ACTS;
  if (encrypted && !c.act->opens && _i % 3 != 0) return; /* most of what can fail is the same; a third of the acts shows the rest */
  if (only_act != NULL && strcmp(only_act, c.act->name) != 0) return;
  make_bases();
  for (int k = 0; k < KINDS; k++) {
    c.kind = &kinds[k];
    if (only_kind != NULL && strcmp(only_kind, c.kind->name) != 0) continue;
    for (int mode = 0; mode < 2; mode++) {
      c.for_good = mode == 1;
      for (c.nth = only_nth != 0 ? only_nth : 1; try_case(&c) && only_nth == 0;) c.nth++;
    }
  }
  free_bases();
}
END_TEST

/* --- A full device ------------------------------------------------------------------------------------------------------------ */

static uint32_t fill_up(fixture *f, uint32_t from) {
  char path[16];
  for (uint32_t i = from;; i++) {
    snprintf(path, sizeof path, "/full/%u", i);
    int code = put(f, path, i % 7 == 0 ? 20000 : 1500, i % 5 == 0 ? SDB_DURABLE : SDB_NONE);
    if (code == SDB_FULL) return i;
    ck_assert_msg(code == SDB_OK, "put %u on a device that fills up: code %d", i, code);
    ck_assert_msg(i < from + 5000, "the device does not fill up");
  }
}

/* Deletes about one document in ten; that must always work. */
static unsigned thin_out(fixture *f, uint64_t *random) {
  unsigned deleted = 0;
  for (size_t i = model_documents(f->w.model); i-- > 0;) {
    if (sim_random(random) % 10 != 0) continue;
    uint8_t path[SDB_MAX_PATH];
    size_t len;
    const uint8_t *p = model_path(f->w.model, i, &len);
    memcpy(path, p, len);
    sdb_commit commit;
    int code = sdb_delete(f->w.db, path, len, NULL, &commit);
    ck_assert_msg(code == SDB_OK, "delete on a full device: code %d", code);
    ck_assert_msg(model_delete(f->w.model, path, len, &commit), "%s", model_why(f->w.model));
    model_all_durable(f->w.model);
    deleted++;
  }
  return deleted;
}

static void judge_round(fixture *f, unsigned round) { ck_assert_msg(workload_verify(&f->w), "round %u: %s", round, f->w.why); }

START_TEST(test_full_device) {
  fixture f;
  sim *device = sim_new(1);
  uint64_t random = 1;
  fixture_init(&f, device, model_new(2));
  sim_limit(device, 5 << 20);
  ck_assert_msg(workload_open(&f.w), "%s", f.w.why);
  uint32_t next = fill_up(&f, 0);
  ck_assert_uint_gt(next, 100);
  for (unsigned round = 0; round < 50; round++) {
    if (round % 5 == 0) judge_round(&f, round);
    ck_assert_uint_gt(thin_out(&f, &random), 0);
    ck_assert_int_eq(sdb_checkpoint(f.w.db), SDB_OK);
    uint32_t before = next;
    next = fill_up(&f, next);
    ck_assert_msg(next > before, "round %u: deleting and a checkpoint made no room", round);
    if (round % 10 == 9) {
      ck_assert_int_eq(sdb_flush(f.w.db), SDB_OK);
      model_all_durable(f.w.model);
      sim_die_at(device, 1);
      ck_assert_msg(workload_close(&f.w), "%s", f.w.why);
      sim_crash(device, SIM_RANDOM_SUBSET, round);
      ck_assert_msg(workload_recover(&f.w), "round %u: open of a full device after a crash: %s", round, f.w.why);
    }
  }
  ck_assert_msg(workload_close(&f.w), "%s", f.w.why);
  workload_clear(&f.w);
  sim_free(device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("faults");
  TCase *sweep = tcase_create("sweep");
  tcase_set_timeout(sweep, 600);
  tcase_add_loop_test(sweep, test_sweep, 0, 2 * ACTS);
  suite_add_tcase(suite, sweep);
  TCase *full = tcase_create("full");
  tcase_set_timeout(full, 300);
  tcase_add_test(full, test_full_device);
  suite_add_tcase(suite, full);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
