/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_recovery.c - a log of many windows and segments, read after a power cut: records of all sizes wherever they fall, extents
 * named late in it, a cache far smaller than what is replayed, reads that fail, and a device that gives other bytes when it is read
 * once more. Each with and without encryption. What a log that was damaged for good says is in test_damage.c.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sdb/sdb.h"
#include "seed.h"
#include "simulated.h"

#define NAME "many.sdb"

enum { PAGE = 4096, SEGMENT = 1 << 20, COMMITS = 420, BATCH = 250, SMALL = 1900, LARGE = 70000, SECTOR = 4096 };

static sim *device;
static sdb *db;
static sdb_options options;
static char message[256];
static uint8_t content[LARGE + 4096], found[LARGE];

/* --- The device, seen through a glass ----------------------------------------------------------------------------------------- */

static sdb_storage glass;
static struct {
  sdb_file *log[64]; /* by segment */
  unsigned begun;    /* times the records of the first segment were begun with */
  unsigned from;     /* the reading that the glass begins to change, and the first that it leaves alone again */
  unsigned until;
  unsigned segment;
  uint64_t offset; /* of the first byte that changes */
  bool zeros;      /* it and all behind it, in all later segments too; else one bit of it */
  uint64_t prefetched;
} seen;

static unsigned segment_of(const sdb_file *file) {
  for (unsigned i = 0; i < 64; i++)
    if (file && seen.log[i] == file) return i;
  return 64;
}

static int glass_open(void *ctx, const char *name, unsigned mode, sdb_file **file) {
  int rc = sim_storage(device)->open(ctx, name, mode, file);
  unsigned index;
  if (rc == SDB_OK && sscanf(name, NAME ".log.%u", &index) == 1 && index < 64) seen.log[index] = *file;
  return rc;
}

static int glass_read(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  int rc = sim_storage(device)->read(file, offset, buf, len);
  unsigned segment = segment_of(file);
  if (rc != SDB_OK || segment == 64) return rc;
  seen.begun += segment == 0 && offset == SECTOR && len > SECTOR;
  if (seen.begun < seen.from || seen.begun >= seen.until || len <= SECTOR || segment < seen.segment) return rc;
  uint64_t at = segment > seen.segment || seen.offset < offset ? 0 : seen.offset - offset;
  if (at >= len) return rc;
  if (seen.zeros) memset((uint8_t *)buf + at, 0, len - at);
  else if (segment == seen.segment && seen.offset >= offset) ((uint8_t *)buf)[at] ^= 4;
  return rc;
}

static void glass_prefetch(sdb_file *file, uint64_t offset, uint64_t len) {
  ck_assert_uint_lt(segment_of(file), 64);
  ck_assert_uint_gt(len, 0);
  ck_assert_uint_le(offset + len, SEGMENT);
  seen.prefetched += len;
}

/* --- The database ------------------------------------------------------------------------------------------------------------- */

static void set_options(bool encrypted) {
  glass = *sim_storage(device);
  glass.open = glass_open;
  glass.read = glass_read;
  glass.prefetch = glass_prefetch;
  memset(&seen, 0, sizeof seen);
  sdb_options_init(&options);
  options.storage = &glass;
  options.threads = false;
  options.page_size = PAGE;
  options.page_cache_size = 64;
  options.wal_segment_size = SEGMENT;
  options.checkpoint_wal_bytes = 64 << 20;
  options.change_log_bytes = 0;
  options.use_compression = false;
  options.encryption_key = encrypted ? (const uint8_t *)"thirty-two bytes make up a key.." : NULL;
  options.message = message;
  options.message_size = sizeof message;
}

static int try_open(void) {
  memset(seen.log, 0, sizeof seen.log);
  seen.begun = 0;
  return sdb_open(NAME, &options, &db);
}

static void open_it(void) {
  int code = try_open();
  ck_assert_msg(code == SDB_OK, "open: %s: %s", sdb_strerror(code), message);
}

static void die(sim *on) {
  sim_die_at(on, 1);
  sdb_close(db);
  db = NULL;
  sim_crash(on, SIM_DROP_ALL, 1);
}

static size_t path_of(char path[32], unsigned i) { return (size_t)snprintf(path, 32, "/d/%06u", i); }
static const uint8_t *content_of(unsigned i) { return content + i * 7 % 4096; }
static size_t size_of(unsigned i) { return i % 61 == 5 ? LARGE : i % 17 == 3 ? 2900 : i * 37 % SMALL; }

static void put(unsigned i) {
  char path[32];
  size_t len = path_of(path, i);
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  ck_assert_int_eq(sdb_put(db, path, len, content_of(i), size_of(i), &o, NULL), SDB_OK);
}

/* One record, larger than a window. */
static void put_batch(unsigned from) {
  sdb_batch *batch;
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  for (unsigned i = from; i < from + BATCH; i++) {
    char path[32];
    size_t len = path_of(path, i);
    ck_assert_int_eq(sdb_batch_put(batch, path, len, content_of(i), SMALL, NULL), SDB_OK);
  }
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_OK);
}

enum what { A_BATCH, A_DELETE, A_PUT };
static enum what what_is(unsigned n) { return n % 40 == 39 ? A_BATCH : n % 11 == 10 ? A_DELETE : A_PUT; }

/* A commit of the run; every thirteenth is followed by a put of the document twelve before. */
static void commit(unsigned n) {
  char path[32];
  size_t len = path_of(path, n - 1);
  if (what_is(n) == A_BATCH) put_batch(10000 + n * BATCH);
  else if (what_is(n) == A_PUT) put(n);
  else ck_assert_int_eq(sdb_delete(db, path, len, NULL, NULL), what_is(n - 1) == A_PUT ? SDB_OK : SDB_NOT_FOUND);
  if (n % 13 == 12) put(n - 12);
}

static int look(unsigned i, size_t size) {
  char path[32];
  size_t got = 0, len = path_of(path, i);
  int code = sdb_get(db, path, len, SDB_CURRENT, found, sizeof found, &got, NULL);
  if (code == SDB_OK) ck_assert_uint_eq(got, size);
  if (code == SDB_OK) ck_assert_mem_eq(found, content_of(i), size);
  return code;
}

static void must_be_whole(void) {
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
}

static void must_have_all(void) {
  bool there[COMMITS] = {false};
  for (unsigned n = 0; n < COMMITS; n++) {
    if (what_is(n) == A_PUT) there[n] = true;
    if (what_is(n) == A_DELETE) there[n - 1] = false;
    if (n % 13 == 12) there[n - 12] = true;
  }
  for (unsigned n = 0; n < COMMITS; n++) {
    ck_assert_int_eq(look(n, size_of(n)), there[n] ? SDB_OK : SDB_NOT_FOUND);
    for (unsigned i = n % 40; what_is(n) == A_BATCH && i < BATCH; i += 37)
      ck_assert_int_eq(look(10000 + n * BATCH + i, SMALL), SDB_OK);
  }
  must_be_whole();
}

/* A log of some megabytes with nothing of it in the data file. */
static void set_up(bool encrypted) {
  device = sim_new(1);
  set_options(encrypted);
  for (size_t i = 0; i < sizeof content; i++) content[i] = (uint8_t)(i * 2654435761u >> 13);
  open_it();
  for (unsigned n = 0; n < COMMITS; n++) commit(n);
  ck_assert_int_eq(sdb_flush(db), SDB_OK);
  die(device);
}

static void tear_down(void) {
  if (db != NULL) sdb_close(db);
  db = NULL;
  ck_assert_uint_eq(sim_open_files(device), 0);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

/* --- Tests -------------------------------------------------------------------------------------------------------------------- */

START_TEST(all_of_a_long_log_is_there) {
  sdb_stats stats = {.size = sizeof stats};
  uint64_t size;
  set_up(_i);
  open_it();
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert_uint_ge(stats.recovered_commits, COMMITS);
  ck_assert(sim_size(device, NAME ".log.0003", &size)); /* or the test is about less than it says */
  ck_assert_uint_gt(seen.prefetched, 3 * SEGMENT);
  must_have_all();
  die(device); /* nothing was written since: what recovery made is whole */
  open_it();
  must_have_all();
  tear_down();
}
END_TEST

static void no_new_file(void *user, const sim_event *e) {
  (void)user;
  ck_assert_str_ne(e->call, "create");
}

/* The segments that were read are what the log goes on with. */
START_TEST(the_log_goes_on_in_the_files_that_are_there) {
  set_up(_i);
  open_it();
  sim_watch(device, no_new_file, NULL);
  for (unsigned i = 0; i < 4; i++) put_batch(200000 + i * BATCH);
  sim_watch(device, NULL, NULL);
  tear_down();
}
END_TEST

START_TEST(every_read_may_fail_once) {
  set_up(_i);
  sim *kept = device;
  for (uint64_t nth = 1;; nth += nth < 20 ? 1 : 23 * seed_thin()) {
    device = sim_clone(kept, nth);
    set_options(_i);
    sim_fail(device, SIM_READ, nth, false, SDB_IO);
    int code = try_open();
    bool struck = sim_failed(device);
    sim_fail_nothing(device);
    ck_assert_msg(code == SDB_OK || (struck && code == SDB_IO), "read %" PRIu64 ": %s", nth, sdb_strerror(code));
    if (code != SDB_OK) open_it(); /* what merges pages where little is left may fail: they stay as they are */
    must_have_all();
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    db = NULL;
    tear_down();
    if (!struck) break;
  }
  device = kept;
  tear_down();
}
END_TEST

/* The first reading finds all; in the second a bit differs, or the end of the log has gone. Nothing may rest on that reading. */
START_TEST(a_second_reading_that_differs_is_an_error) {
  static const struct {
    unsigned segment;
    uint64_t offset;
    bool zeros;
  } cases[] = {{0, SECTOR + 4, false}, {0, 300000, false}, {1, SECTOR + 100, false}, {2, 700001, false},
               {0, SECTOR, true},      {1, SECTOR, true},  {2, 262144, true},        {3, 8192, true}};
  set_up(_i);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    seen.segment = cases[i].segment;
    seen.offset = cases[i].offset;
    seen.zeros = cases[i].zeros;
    seen.from = 2;
    seen.until = 3;
    ck_assert_msg(try_open() == SDB_IO, "case %zu", i);
    ck_assert_ptr_nonnull(strstr(message, "gave other bytes"));
    ck_assert_uint_eq(seen.begun, 2);
    seen.until = 0;
  }
  open_it();
  must_have_all();
  tear_down();
}
END_TEST

/* The first reading ends early, the second would find more: extents named there were not reserved, so they count as not read. */
START_TEST(a_second_reading_goes_no_further_than_the_first) {
  set_up(_i);
  seen.segment = 2;
  seen.offset = 262144;
  seen.zeros = true;
  seen.from = 1;
  seen.until = 2;
  open_it();
  ck_assert_uint_ge(seen.begun, 2);
  ck_assert_int_eq(look(10000 + 39 * BATCH, SMALL), SDB_OK);
  ck_assert_int_eq(look(10000 + 399 * BATCH, SMALL), SDB_NOT_FOUND);
  must_be_whole();
  tear_down();
}
END_TEST

static uint64_t data_size(void) {
  uint64_t size = 0;
  ck_assert(sim_size(device, NAME, &size));
  return size;
}

/* Pages of trees are changed and written ahead again and again while a log is replayed that is far larger than the cache: each goes
 * to a new place, and the one before is free for another. */
START_TEST(replaying_takes_no_more_space_than_the_work_did) {
  enum { PATHS = 20000 };
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  device = sim_new(1);
  set_options(_i);
  open_it();
  for (unsigned i = 0; i < PATHS; i++) {
    char path[32];
    size_t len = path_of(path, (unsigned)(i * 104729ull % 1000003));
    ck_assert_int_eq(sdb_put(db, path, len, content, 10, &o, NULL), SDB_OK);
  }
  ck_assert_int_eq(sdb_flush(db), SDB_OK);
  uint64_t before = data_size();
  die(device);
  open_it();
  ck_assert_uint_le(data_size(), 2 * before);
  must_be_whole();
  tear_down();
}
END_TEST

int main(void) {
  Suite *s = suite_create("recovery");
  TCase *tc = tcase_create("recovery");
  tcase_set_timeout(tc, 300);
  tcase_add_loop_test(tc, all_of_a_long_log_is_there, 0, 2);
  tcase_add_loop_test(tc, replaying_takes_no_more_space_than_the_work_did, 0, 2);
  tcase_add_loop_test(tc, the_log_goes_on_in_the_files_that_are_there, 0, 2);
  tcase_add_loop_test(tc, every_read_may_fail_once, 0, 2);
  tcase_add_loop_test(tc, a_second_reading_that_differs_is_an_error, 0, 2);
  tcase_add_loop_test(tc, a_second_reading_goes_no_further_than_the_first, 0, 2);
  suite_add_tcase(s, tc);
  SRunner *sr = srunner_create(s);
  srunner_run_all(sr, CK_ENV);
  int failed = srunner_ntests_failed(sr);
  srunner_free(sr);
  return failed ? 1 : 0;
}
