/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_copy.c - backup while writing goes on, verify, restore: on the simulated device, with crashes, failing calls and damage.
 *
 * Environment: SDB_SEED, SDB_SEEDS (seed.h).
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/care.h"
#include "seed.h"
#include "workload.h"

#define COPY "copy.sdb"
#define OTHER "other.sdb"

static bool exists(const sim *device, const char *name) {
  uint64_t size;
  return sim_size(device, name, &size);
}

static void start(workload *w, uint64_t seed, sim *device, unsigned operations) {
  workload_init(w, seed, device);
  ck_assert_msg(workload_open(w), "seed %" PRIu64 ": %s", seed, w->why);
  ck_assert_msg(workload_run(w, operations), "seed %" PRIu64 ": %s", seed, w->why);
}

static uint64_t now_of(sim *device) {
  const sdb_storage *storage = sim_storage(device);
  return storage->now_ms(storage->ctx);
}

/* Opens the file and compares it with the model; its epoch when it is wanted. */
static void require_equal(const workload *like, const char *name, model *m, uint64_t *epoch) {
  sdb_options o = like->options;
  char text[256] = "";
  o.create = false;
  o.read_only = true;
  o.message = text;
  o.message_size = sizeof text;
  sdb *db;
  ck_assert_msg(sdb_open(name, &o, &db) == SDB_OK, "%s", text);
  model_set_now(m, o.storage->now_ms(o.storage->ctx));
  ck_assert_msg(model_equals(m, db), "%s: %s", name, model_why(m));
  ck_assert_msg(model_check(m, db), "%s: %s", name, model_why(m));
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  if (epoch) *epoch = stats.epoch;
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

/* --- Backup beside writers ---------------------------------------------------------------------------------------------------- */

typedef struct beside {
  workload *w;
  unsigned calls, operations;
  bool failed;
} beside;

static void checkpoint(workload *w) {
  int rc = sim_dead(w->device) ? SDB_OK : sdb_checkpoint(w->db);
  ck_assert_msg(rc == SDB_OK || rc == SDB_FULL || sim_dead(w->device), "%s", sdb_strerror(rc));
}

/* All that was copied so far, and more, changes while the copy goes on. */
static bool work_beside(void *user, uint64_t done, uint64_t total) {
  beside *b = user;
  ck_assert_uint_le(done, total);
  if (b->calls++ < 3) {
    b->failed |= !workload_run(b->w, b->operations);
    checkpoint(b->w);
    b->failed |= !workload_run(b->w, b->operations / 2);
    checkpoint(b->w);
    b->failed |= !workload_run(b->w, b->operations / 2);
  }
  return true;
}

START_TEST(test_backup_beside_writers) {
  uint64_t first, count = seed_range("backup beside writers", 120, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    sim *device = sim_new(seed), *elsewhere = sim_new(seed + 1);
    workload w;
    start(&w, seed, device, 40);
    bool apart = seed % 2 == 0;
    w.stay_open = true;
    beside b = {.w = &w, .operations = 40};
    sdb_copy_options o;
    sdb_copy_report report = {.size = sizeof report};
    sdb_copy_options_init(&o);
    o.progress = work_beside;
    o.user = &b;
    if (apart) o.storage = sim_storage(elsewhere);
    model *then = model_clone(w.model);
    int rc = sdb_backup(w.db, COPY, &o, &report);
    char text[256] = "";
    if (rc != SDB_OK) sdb_message(w.db, text, sizeof text);
    ck_assert_msg(rc == SDB_OK, "seed %" PRIu64 ": %s: %s", seed, sdb_strerror(rc), text);
    ck_assert_msg(!b.failed, "seed %" PRIu64 ": %s", seed, w.why);
    ck_assert_uint_gt(b.calls, 0);
    ck_assert(model_counts(then, report.documents));
    workload like = w;
    if (apart) like.options.storage = sim_storage(elsewhere);
    if (apart) sim_advance(elsewhere, now_of(device) - now_of(elsewhere)); /* one clock: documents expire */
    uint64_t epoch;
    require_equal(&like, COPY, then, &epoch);
    ck_assert_uint_eq(epoch, report.epoch);
    ck_assert_msg(workload_verify(&w), "seed %" PRIu64 ": %s", seed, w.why);
    ck_assert_msg(workload_close(&w), "seed %" PRIu64 ": %s", seed, w.why);
    model_free(then);
    workload_clear(&w);
    ck_assert(!exists(apart ? elsewhere : device, COPY ".new"));
    ck_assert_uint_eq(sim_open_files(elsewhere), 0);
    sim_free(device);
    sim_free(elsewhere);
  }
}
END_TEST

/* What the copy kept from being used again is used afterwards: the file does not go on growing. */
START_TEST(test_frozen_space_comes_back) {
  sim *device = sim_new(1);
  workload w;
  workload_init(&w, 1, device);
  w.options.page_size = 4096;
  w.options.versions_to_keep = 1;
  ck_assert_msg(workload_open(&w), "%s", w.why);
  static uint8_t data[60000];
  sdb_stats stats = {.size = sizeof stats};
  uint64_t before = 0;
  for (int round = 0; round < 12; round++) {
    for (int i = 0; i < 20; i++) ck_assert_int_eq(sdb_put(w.db, "/a", 2, data, sizeof data - (size_t)i, NULL, NULL), SDB_OK);
    ck_assert_int_eq(sdb_backup(w.db, COPY, &(sdb_copy_options){.size = sizeof(sdb_copy_options), .replace = true}, NULL), SDB_OK);
    ck_assert_int_eq(sdb_get_stats(w.db, &stats), SDB_OK);
    if (round == 3) before = stats.file_bytes;
  }
  ck_assert_uint_le(stats.file_bytes, before + (1 << 20));
  sdb_close(w.db);
  w.db = NULL;
  workload_clear(&w);
  sim_free(device);
}
END_TEST

static bool close_it(void *user, uint64_t done, uint64_t total) {
  (void)done, (void)total;
  ck_assert_int_eq(sdb_close(user), SDB_INVALID);
  return true;
}

static bool never(void *user, uint64_t done, uint64_t total) {
  (void)user, (void)done, (void)total;
  return false;
}

START_TEST(test_refusals) {
  sim *device = sim_new(2);
  workload w;
  start(&w, 3, device, 40);
  sdb_copy_options o;
  sdb_copy_options_init(&o);
  ck_assert_int_eq(sdb_backup(w.db, WORKLOAD_NAME, NULL, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_backup(w.db, "", NULL, NULL), SDB_INVALID);
  o.progress = never;
  ck_assert_int_eq(sdb_backup(w.db, COPY, &o, NULL), SDB_CANCELLED);
  ck_assert(!exists(device, COPY) && !exists(device, COPY ".new"));
  ck_assert_int_eq(sdb_backup(w.db, COPY, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_backup(w.db, COPY, NULL, NULL), SDB_EXISTS);
  o.replace = true;
  o.progress = close_it;
  o.user = w.db;
  ck_assert_int_eq(sdb_backup(w.db, COPY, &o, NULL), SDB_OK);
  o.progress = NULL;
  o.replace = false;
  o.storage = sim_storage(device);
  ck_assert_int_eq(sdb_restore(COPY, WORKLOAD_NAME, &o, NULL), SDB_EXISTS);
  ck_assert_int_eq(sdb_restore("none", OTHER, &o, NULL), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_restore(WORKLOAD_NAME, OTHER, &o, NULL), SDB_LOCKED);
  o.progress = never;
  ck_assert_int_eq(sdb_restore(COPY, OTHER, &o, NULL), SDB_CANCELLED);
  o.progress = NULL;
  ck_assert(!exists(device, OTHER) && !exists(device, OTHER ".new"));
  ck_assert_int_eq(sdb_verify("none", &w.options, NULL, NULL, NULL), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_verify(WORKLOAD_NAME, &w.options, NULL, NULL, NULL), SDB_LOCKED);
  /* Not closed cleanly: no backup. */
  sim_die_at(device, 1);
  sdb_close(w.db);
  w.db = NULL;
  sim_crash(device, SIM_KEEP_ALL, 1);
  ck_assert_int_eq(sdb_restore(WORKLOAD_NAME, OTHER, &o, NULL), SDB_MISMATCH);
  /* Beside the log of another database. */
  uint64_t size;
  ck_assert(sim_size(device, WORKLOAD_NAME ".log.0000", &size));
  sim *moved = sim_clone(device, 1);
  const sdb_storage *st = sim_storage(moved);
  ck_assert_int_eq(st->rename(st->ctx, WORKLOAD_NAME ".log.0000", OTHER ".log.0000"), SDB_OK);
  o.storage = st;
  ck_assert_int_eq(sdb_restore(COPY, OTHER, &o, NULL), SDB_MISMATCH);
  workload_clear(&w);
  sim_free(moved);
  sim_free(device);
}
END_TEST

/* What would take the original's log away, or the file from under somebody's feet, is refused and leaves all as it was. */
START_TEST(test_refused_places) {
  sim *device = sim_new(2);
  workload w;
  sdb *other;
  start(&w, 3, device, 40);
  sdb_copy_options o;
  sdb_copy_options_init(&o);
  for (int replace = 0; replace < 2; replace++) {
    o.replace = replace;
    ck_assert_int_eq(sdb_backup(w.db, WORKLOAD_NAME ".log.0000", &o, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_backup(w.db, WORKLOAD_NAME ".log.0099", &o, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_backup(w.db, WORKLOAD_NAME ".lock", &o, NULL), SDB_INVALID);
  }
  ck_assert_int_eq(sdb_backup(w.db, COPY, &o, NULL), SDB_OK);
  ck_assert_int_eq(sdb_open(COPY, &w.options, &other), SDB_OK);
  ck_assert_int_eq(sdb_backup(w.db, COPY, &o, NULL), SDB_LOCKED);
  ck_assert(!exists(device, COPY ".new"));
  ck_assert_int_eq(sdb_close(other), SDB_OK);
  ck_assert_int_eq(sdb_backup(w.db, COPY, &o, NULL), SDB_OK);
  sim_die_at(device, 1);
  sdb_close(w.db);
  w.db = NULL;
  sim_crash(device, SIM_DROP_ALL, 1);
  sim_die_at(device, 0);
  ck_assert_msg(workload_recover(&w), "%s", w.why);
  workload_clear(&w);
  sim_free(device);
}
END_TEST

START_TEST(test_restore) {
  uint64_t first, count = seed_range("restore", 40, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    sim *device = sim_new(seed);
    workload w;
    start(&w, seed, device, 60);
    sdb_copy_report backup = {.size = sizeof backup}, restored = {.size = sizeof restored};
    sdb_copy_options o;
    sdb_copy_options_init(&o);
    o.storage = sim_storage(device);
    model *then = model_clone(w.model);
    ck_assert_int_eq(sdb_backup(w.db, COPY, &o, &backup), SDB_OK);
    ck_assert_int_eq(sdb_restore(COPY, OTHER, &o, &restored), SDB_OK);
    ck_assert_mem_eq(backup.database_id, restored.database_id, 16);
    ck_assert_uint_ne(backup.epoch, restored.epoch);
    ck_assert_uint_eq(backup.sequence, restored.sequence);
    uint64_t epoch;
    require_equal(&w, OTHER, then, &epoch);
    ck_assert_uint_eq(epoch, restored.epoch);
    /* It is a database: it takes writes, beside the original. */
    sdb *db;
    sdb_commit commit;
    ck_assert_int_eq(sdb_open(OTHER, &w.options, &db), SDB_OK);
    ck_assert_int_eq(sdb_put(db, "/new", 4, "new", 3, NULL, &commit), SDB_OK);
    ck_assert_uint_gt(commit.sequence, restored.sequence);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    ck_assert_msg(workload_run(&w, 20) && workload_close(&w), "%s", w.why);
    model_free(then);
    workload_clear(&w);
    sim_free(device);
  }
}
END_TEST

/* --- Crash and failing calls -------------------------------------------------------------------------------------------------- */

/* A file under the final name is whole, whenever the power went. */
static void judge_copy(const workload *w, const char *name, model *then, const char *what, uint64_t nth) {
  if (!exists(w->device, name)) return;
  sdb_verify_report report = {.size = sizeof report};
  int rc = sdb_verify(name, &w->options, NULL, NULL, &report);
  ck_assert_msg(rc == SDB_OK && report.problems == 0, "%s %" PRIu64 ": %s, %" PRIu64 " problems", what, nth, sdb_strerror(rc),
                report.problems);
  require_equal(w, name, then, NULL);
}

START_TEST(test_crash_in_backup) {
  bool reached = true;
  uint64_t nth = 1;
  for (; reached; nth++) {
    sim *device = sim_new(7);
    workload w;
    start(&w, 11, device, 60);
    model *then = model_clone(w.model);
    w.stay_open = true;
    beside b = {.w = &w, .operations = 6};
    sdb_copy_options o;
    sdb_copy_options_init(&o);
    o.progress = work_beside;
    o.user = &b;
    sim_die_at(device, nth);
    int rc = sdb_backup(w.db, COPY, &o, NULL);
    reached = sim_dead(device);
    ck_assert_msg(!b.failed, "%s", w.why);
    ck_assert(rc == SDB_OK || reached);
    sdb_close(w.db);
    w.db = NULL;
    sim_crash(device, SIM_RANDOM_SUBSET, nth);
    w.stopped = false;
    judge_copy(&w, COPY, then, "death in call", nth);
    ck_assert_msg(workload_recover(&w) && workload_close(&w), "death in call %" PRIu64 ": %s", nth, w.why);
    model_free(then);
    workload_clear(&w);
    sim_free(device);
  }
  ck_assert_uint_gt(nth, 20);
}
END_TEST

typedef struct call {
  const char *name;
  int (*run)(workload *w);
  const char *makes; /* the file, or NULL */
} call;

static int run_backup(workload *w) { return sdb_backup(w->db, COPY, NULL, NULL); }

static int run_restore(workload *w) {
  sdb_copy_options o;
  sdb_copy_options_init(&o);
  o.storage = w->options.storage;
  return sdb_restore("given.sdb", OTHER, &o, NULL);
}

static int run_verify(workload *w) {
  sdb_verify_report report = {.size = sizeof report};
  int rc = sdb_verify("given.sdb", &w->options, NULL, NULL, &report);
  if (rc == SDB_OK && report.problems > 0) return sim_failed(w->device) ? SDB_IO : SDB_INTERNAL;
  return rc;
}

static const call calls[] = {{"backup", run_backup, COPY}, {"restore", run_restore, OTHER}, {"verify", run_verify, NULL}};

static const struct {
  const char *name;
  enum sim_kind kind;
  int code;
} kinds[] = {{"alloc", SIM_ALLOC, SDB_NO_MEMORY}, {"read", SIM_READ, SDB_IO},    {"write", SIM_WRITE, SDB_IO},
             {"full", SIM_WRITE, SDB_FULL},       {"sync", SIM_SYNC, SDB_IO},    {"size", SIM_SIZE, SDB_FULL},
             {"name", SIM_NAME, SDB_IO},          {"random", SIM_RANDOM, SDB_IO}};

static void sweep_once(const sim *base, const model *base_model, const call *c, size_t kind, uint64_t nth, bool for_good,
                       bool *reached) {
  sim *device = sim_clone(base, nth);
  workload w;
  workload_init(&w, 21, device);
  model_free(w.model);
  w.model = model_clone(base_model);
  ck_assert_msg(workload_open(&w), "%s", w.why);
  uint64_t held = sim_allocations(device);
  size_t open = sim_open_files(device);
  sim_fail(device, kinds[kind].kind, nth, for_good, kinds[kind].code);
  int rc = c->run(&w);
  *reached = sim_failed(device);
  sim_fail_nothing(device);
  char what[100];
  snprintf(what, sizeof what, "%s, %s%s failing, call", c->name, kinds[kind].name, for_good ? " for good" : "");
  ck_assert_msg(rc == SDB_OK || *reached, "%s %" PRIu64 ": %s", what, nth, sdb_strerror(rc));
  ck_assert_msg(rc == SDB_OK || rc == kinds[kind].code || rc == SDB_IO || rc == SDB_SYNC_FAILED, /* nothing is damaged */
                "%s %" PRIu64 ": %s", what, nth, sdb_strerror(rc));
  ck_assert_msg(sim_open_files(device) == open, "%s %" PRIu64 ": a file is left open", what, nth);
  if (c->run != run_backup) ck_assert_msg(sim_allocations(device) == held, "%s %" PRIu64 ": memory is held", what, nth);
  if (rc == SDB_OK && c->makes) ck_assert_msg(exists(device, c->makes), "%s %" PRIu64 ": no file", what, nth);
  if (c->makes) judge_copy(&w, c->makes, w.model, what, nth);
  ck_assert_msg(model_equals(w.model, w.db), "%s %" PRIu64 ": %s", what, nth, model_why(w.model));
  sdb_close(w.db);
  w.db = NULL;
  ck_assert_msg(sim_allocations(device) == 0, "%s %" PRIu64 ": memory is held", what, nth);
  workload_clear(&w);
  sim_free(device);
}

START_TEST(test_failing_calls) {
  sim *base = sim_new(5);
  workload w;
  start(&w, 21, base, 50);
  ck_assert_int_eq(sdb_backup(w.db, "given.sdb", NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_put(w.db, "/z", 2, "z", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_delete(w.db, "/z", 2, NULL, NULL), SDB_OK);
  ck_assert_msg(workload_close(&w), "%s", w.why);
  sim_crash(base, SIM_KEEP_ALL, 1);
  uint64_t runs = 0;
  for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
      bool reached = true;
      for (uint64_t nth = 1; reached; nth += 1 + nth / 40, runs++) {
        sweep_once(base, w.model, &calls[c], kind, nth, false, &reached);
        if (reached) sweep_once(base, w.model, &calls[c], kind, nth, true, &reached);
      }
    }
  }
  printf("failing calls: %" PRIu64 " runs\n", runs);
  workload_clear(&w);
  sim_free(base);
}
END_TEST

/* --- Verify ------------------------------------------------------------------------------------------------------------------- */

static void count_problem(void *user, const char *sentence) {
  ck_assert_uint_gt(strlen(sentence), 10);
  ++*(uint64_t *)user;
}

/* A flipped bit is found, or it is where nothing stands: then all is served. */
START_TEST(test_verify_finds_damage) {
  uint64_t first, count = seed_range("verify", 700, &first), found = 0;
  sim *base = sim_new(9);
  workload w;
  start(&w, 31, base, 60);
  ck_assert_int_eq(sdb_backup(w.db, COPY, NULL, NULL), SDB_OK);
  ck_assert_msg(workload_close(&w), "%s", w.why);
  sim_crash(base, SIM_KEEP_ALL, 1);
  sdb_verify_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_verify(COPY, &w.options, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
  ck_assert(report.clean && report.contents);
  ck_assert(model_counts(w.model, report.documents));
  for (uint64_t seed = first; seed < first + count; seed++) {
    sim *device = sim_clone(base, seed);
    uint64_t random = seed, size, told = 0;
    uint8_t byte, sector[SIM_SECTOR] = {0};
    ck_assert(sim_size(device, COPY, &size));
    uint64_t offset = sim_random(&random) % size;
    for (int i = 0; i < 300; i++) { /* mostly where something stands */
      ck_assert(sim_peek(device, COPY, offset / SIM_SECTOR * SIM_SECTOR, sector, sizeof sector));
      bool zero = true;
      for (size_t k = 0; k < sizeof sector; k++) zero = zero && sector[k] == 0;
      if (!zero) break;
      offset = sim_random(&random) % size;
    }
    ck_assert(sim_peek(device, COPY, offset, &byte, 1));
    byte ^= (uint8_t)(1u << sim_random(&random) % 8);
    ck_assert(sim_poke(device, COPY, offset, &byte, 1));
    w.options.storage = sim_storage(device);
    int rc = sdb_verify(COPY, &w.options, count_problem, &told, &report);
    ck_assert_msg(rc == SDB_OK, "seed %" PRIu64 ", byte %" PRIu64 ": %s", seed, offset, sdb_strerror(rc));
    ck_assert_uint_eq(told, report.problems);
    uint8_t after;
    ck_assert(sim_peek(device, COPY, offset, &after, 1) && after == byte);
    if (report.problems == 0) require_equal(&w, COPY, w.model, NULL);
    found += report.problems > 0;
    ck_assert_uint_eq(sim_allocations(device), 0);
    ck_assert_uint_eq(sim_open_files(device), 0);
    sim_free(device);
  }
  printf("verify: %" PRIu64 " of %" PRIu64 " flips found, the others where nothing stands\n", found, count);
  ck_assert_uint_gt(found, count / 2);
  workload_clear(&w);
  sim_free(base);
}
END_TEST

/* A damaged page of the database never gets into a backup that looks whole. */
START_TEST(test_backup_of_damage) {
  sim *device = sim_new(13);
  workload w;
  start(&w, 41, device, 60);
  ck_assert_msg(workload_close(&w), "%s", w.why);
  uint64_t size, damaged = 0;
  ck_assert(sim_size(device, WORKLOAD_NAME, &size));
  uint32_t page = w.options.page_size;
  uint8_t bytes[65536];
  for (uint64_t at = 393216; at + page <= size && damaged < 12; at += page) {
    ck_assert(sim_peek(device, WORKLOAD_NAME, at, bytes, page));
    if (bytes[4] != 5 || bytes[5] != 1) continue; /* heap pages */
    bytes[100] ^= 1;
    ck_assert(sim_poke(device, WORKLOAD_NAME, at, bytes, page));
    damaged++;
  }
  ck_assert_uint_gt(damaged, 0);
  ck_assert_int_eq(sdb_open(WORKLOAD_NAME, &w.options, &w.db), SDB_OK);
  ck_assert_int_eq(sdb_backup(w.db, COPY, NULL, NULL), SDB_CORRUPT);
  ck_assert(!exists(device, COPY) && !exists(device, COPY ".new"));
  sdb_close(w.db);
  w.db = NULL;
  workload_clear(&w);
  sim_free(device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("copy");
  TCase *copy_case = tcase_create("copy");
  tcase_set_timeout(copy_case, 0);
  tcase_add_test(copy_case, test_backup_beside_writers);
  tcase_add_test(copy_case, test_frozen_space_comes_back);
  tcase_add_test(copy_case, test_refusals);
  tcase_add_test(copy_case, test_refused_places);
  tcase_add_test(copy_case, test_restore);
  tcase_add_test(copy_case, test_crash_in_backup);
  tcase_add_test(copy_case, test_failing_calls);
  tcase_add_test(copy_case, test_verify_finds_damage);
  tcase_add_test(copy_case, test_backup_of_damage);
  suite_add_tcase(suite, copy_case);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
