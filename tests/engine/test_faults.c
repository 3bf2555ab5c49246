/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_faults.c - the calls that write and read, with every storage call and allocation failing (sweep.h); and the device full. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sweep.h"

/* --- Acts --------------------------------------------------------------------------------------------------------------------- */

static uint8_t scratch[300000];

static int put_new(fixture *f) { return sweep_put(f, "/new", 100, SDB_DURABLE); }
static int put_over(fixture *f) { return sweep_put(f, "/p/7", 100, SDB_DURABLE); }
static int put_empty(fixture *f) { return sweep_put(f, "/p/7", 0, SDB_DURABLE); }
static int put_large(fixture *f) { return sweep_put(f, "large", 70000, SDB_DURABLE); }
static int put_buffered(fixture *f) { return sweep_put(f, "/p/7", 200, SDB_BUFFERED); }
static int put_unsynced(fixture *f) { return sweep_put(f, "/p/7", 200, SDB_NONE); }

static int put_deferred(fixture *f) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.defer = true;
  model_content(5, 0, scratch, 50);
  sdb_commit commit;
  int code = sdb_put(f->w.db, "/new", 4, scratch, 50, &options, &commit);
  if (code == SDB_OK) code = sdb_wait(f->w.db, commit.sequence);
  return sweep_note_put(f, "/new", 5, 50, code, &commit);
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
    code = sweep_put(f, i % 2 == 0 ? "/p/3" : "/p/30", 1500, i % 4 == 0 ? SDB_DURABLE : SDB_NONE);
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
  return sweep_note_put(f, "/stream", 6, 150000, code, &commit);
}

static int abort_stream(fixture *f) {
  sdb_writer *writer;
  int code = sdb_writer_open(f->w.db, "/stream", 7, 150000, NULL, &writer);
  if (code != SDB_OK) return code;
  for (int i = 0; i < 2 && code == SDB_OK; i++) code = sdb_writer_write(writer, scratch, 50000);
  sdb_writer_abort(writer);
  return code;
}

static int erase(fixture *f) { return sweep_erase(f, "/p/7"); }
static int erase_large(fixture *f) { return sweep_erase(f, "large"); }

static int erase_absent(fixture *f) {
  int code = sdb_delete(f->w.db, "/none", 5, NULL, NULL);
  return code == SDB_NOT_FOUND ? SDB_OK : code == SDB_OK ? SDB_INTERNAL : code;
}

static int get(fixture *f) {
  size_t size;
  int code = sdb_get(f->w.db, "large", 5, SDB_CURRENT, scratch, sizeof scratch, &size, NULL);
  if (code == SDB_OK) ck_assert(size == 69000 && sweep_is_content(69000, scratch, size));
  return code;
}

static int get_alloc(fixture *f) {
  void *data;
  size_t size;
  int code = sdb_get_alloc(f->w.db, "/p/5", 4, SDB_CURRENT, &data, &size, NULL);
  if (code != SDB_OK) return code;
  ck_assert(sweep_is_content(1000 + size, data, size));
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
  return count == SWEEP_FILLERS ? SDB_OK : SDB_INTERNAL;
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
  if (code == SDB_OK) ck_assert(sweep_is_content(size == 69000 ? 69000 : 1000 + size, data, size));
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
    int rc = sweep_close(f);
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

static int scrub(fixture *f) {
  bool more = true;
  sdb_stats s = {.size = sizeof s};
  int code = sdb_scrub(f->w.db);
  for (int i = 0; i < 500 && s.scrubs == 0 && code == SDB_OK; i++) {
    code = sdb_step(f->w.db, 32, &more);
    if (code == SDB_OK) code = sdb_get_stats(f->w.db, &s);
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

static int put_and_close(fixture *f) {
  int code = sweep_put(f, "/p/9", 900, SDB_NONE);
  return code == SDB_OK ? sweep_close(f) : code;
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
    {"scrub", CRASHED, false, scrub},
    {"stats", CLOSED, false, stats},
    {"check", CLOSED, false, check},
    {"close", CLOSED, false, sweep_close},
    {"put-and-close", CRASHED, false, put_and_close},
};
enum { ACTS = sizeof acts / sizeof *acts };

START_TEST(test_sweep) {
  const act *a = &acts[_i % ACTS];
  bool encrypted = _i >= ACTS;
  if (encrypted && !a->opens && _i % 3 != 0) return; /* most of what can fail is the same; a third of the acts shows the rest */
  sweep(a, encrypted);
}
END_TEST

/* --- A full device ------------------------------------------------------------------------------------------------------------ */

static uint32_t fill_up(fixture *f, uint32_t from) {
  char path[16];
  for (uint32_t i = from;; i++) {
    snprintf(path, sizeof path, "/full/%u", i);
    int code = sweep_put(f, path, i % 7 == 0 ? 20000 : 1500, i % 5 == 0 ? SDB_DURABLE : SDB_NONE);
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

/* The log's segment is the only one, and the data file has taken the place of the next: deletes go on, and then puts by themselves.
 */
START_TEST(test_no_space_for_a_segment) {
  enum { DOCUMENT = 1000 };
  static const uint8_t content[DOCUMENT];
  sim *device = sim_new(1);
  sdb *db;
  sdb_options o;
  char path[16];
  unsigned puts = 0, steps = 0;
  bool more;
  int rc;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.page_size = 4096;
  o.page_cache_size = 256;
  o.wal_segment_size = 1 << 20;
  o.change_log_bytes = 0;
  ck_assert_int_eq(sdb_open("small", &o, &db), SDB_OK);
  sim_limit(device, 4000000);
  do {
    snprintf(path, sizeof path, "/%u", puts);
    rc = sdb_put(db, path, strlen(path), content, DOCUMENT, NULL, NULL);
    puts += rc == SDB_OK;
  } while (rc == SDB_OK);
  ck_assert_int_eq(rc, SDB_FULL);
  for (unsigned i = 0; i < puts; i++) {
    snprintf(path, sizeof path, "/%u", i);
    rc = sdb_delete(db, path, strlen(path), NULL, NULL);
    ck_assert_msg(rc == SDB_OK, "delete %u of %u: code %d", i, puts, rc);
  }
  while ((rc = sdb_put(db, "/a", 2, content, DOCUMENT, NULL, NULL)) == SDB_FULL && steps++ < 1000) {
    ck_assert_int_eq(sdb_step(db, 256, &more), SDB_OK);
    sim_advance(device, 100);
  }
  ck_assert_int_eq(rc, SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
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
  tcase_add_test(full, test_no_space_for_a_segment);
  suite_add_tcase(suite, full);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
