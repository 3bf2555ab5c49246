/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_undo.c - a batch that is refused is taken back whole, although memory runs out or the device fails meanwhile, in a cache
 * that holds a part of the trees only. Every allocation and every read of the batch fails once, and from there on for good.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define log engine_log /* check.h brings the mathematical one along */
#include "db.h"
#include "sdb/sdb.h"
#include "seed.h"
#include "simulated.h"

#define NAME "undo.sdb"
enum { DOCUMENTS = 1500, OPERATIONS = 16 };

static size_t path_of(unsigned i, char path[700]) {
  size_t len = 60 + i * 37 % 500; /* long: few on a page, so the trees are deep */
  int head = snprintf(path, 700, "/%05u/", i * 7919u % 100000u);
  memset(path + head, 'a' + (int)(i % 7), len - (size_t)head);
  return len;
}

static sdb_options options_on(const sim *device, bool encrypted) {
  static const uint8_t key[SDB_KEY_SIZE] = "a key of thirty-two bytes, right";
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.use_mmap = false;
  o.page_size = 4096;
  o.page_cache_size = 64;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 1 << 20;
  o.encryption_key = encrypted ? key : NULL;
  return o;
}

static sdb *open_on(const sim *device, bool encrypted) {
  sdb_options o = options_on(device, encrypted);
  sdb *db;
  ck_assert_int_eq(sdb_open(NAME, &o, &db), SDB_OK);
  return db;
}

static sim *base_of(bool encrypted) {
  sim *device = sim_new(1);
  sdb *db = open_on(device, encrypted);
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[700], name[700];
    size_t len = path_of(i, path);
    o.expires_ms = i % 5 ? 0 : UINT64_C(1) << 45;
    ck_assert_int_eq(sdb_put(db, path, len, &i, sizeof i, &o, NULL), SDB_OK);
    if (i % 4 == 0) ck_assert_int_eq(sdb_bind(db, path, len, name, path_of(DOCUMENTS + i, name), NULL, NULL), SDB_OK);
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  return device;
}

/* Things of every kind all over the trees, and at the end a condition that does not hold. */
static int refused_batch(sdb *db) {
  sdb_batch *batch;
  int rc = sdb_batch_open(db, &batch);
  if (rc != SDB_OK) return rc;
  for (unsigned i = 0; rc == SDB_OK && i < OPERATIONS; i++) {
    char path[700], name[700];
    size_t len = path_of(i * 91, path), name_len = path_of(DOCUMENTS + i * 91, name);
    switch (i % 4) {
      case 0: rc = sdb_batch_delete(batch, path, len, SDB_ANY); break;
      case 1: rc = sdb_batch_put(batch, path, len, "other", 5, NULL); break;
      case 2: rc = sdb_batch_bind(batch, path, len, name, path_of(3 * DOCUMENTS + i, name), SDB_ANY); break;
      default: rc = sdb_batch_put(batch, name, name_len, "new", 3, NULL);
    }
  }
  if (rc == SDB_OK) rc = sdb_batch_expect(batch, "nothing", 7, 5);
  if (rc == SDB_OK) return sdb_batch_commit(batch, NULL, NULL, 0, NULL);
  sdb_batch_abort(batch);
  return rc;
}

static void tell(void *user, const char *sentence) {
  (void)user;
  printf("  %s\n", sentence);
}

static void nothing_happened(sdb *db, const char *what, uint64_t nth, unsigned more) {
  sdb_check_report report = {.size = sizeof report};
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert_uint_eq(stats.documents, DOCUMENTS + more);
  int code = sdb_check(db, tell, NULL, &report);
  ck_assert_msg(code == SDB_OK && report.problems == 0, "%s %" PRIu64 ": check: code %d, %" PRIu64 " problems", what, nth, code,
                report.problems);
  ck_assert_uint_eq(report.documents, DOCUMENTS + more);
  code = sdb_put(db, "after", 5, "it goes on", 10, NULL, NULL);
  ck_assert_msg(code == SDB_OK, "%s %" PRIu64 ": a put afterwards: %s", what, nth, sdb_strerror(code));
  ck_assert_int_eq(sdb_delete(db, "after", 5, NULL, NULL), SDB_OK);
}

static void sweep(const sim *base, bool encrypted, enum sim_kind kind, int fault, bool for_good, const char *what) {
  uint64_t nth = 1, refused = 0, stride = 2 * seed_thin() - 1;
  for (bool struck = true; struck; nth += stride) {
    sim *device = sim_clone(base, nth);
    sdb *db = open_on(device, encrypted);
    sim_fail(device, kind, nth, for_good, fault);
    int code = refused_batch(db);
    struck = sim_failed(device);
    sim_fail_nothing(device);
    ck_assert_msg(code == SDB_CONFLICT || (struck && (code == fault || code == SDB_IO)), "%s %" PRIu64 ": %s", what, nth,
                  sdb_strerror(code));
    refused += code == SDB_CONFLICT;
    nothing_happened(db, what, nth, 0);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    ck_assert_uint_eq(sim_allocations(device), 0);
    sim_free(device);
  }
  printf("%s: %" PRIu64 " calls, refused all the same %" PRIu64 "\n", what, nth - stride, refused);
  ck_assert_uint_gt(nth, OPERATIONS);
}

START_TEST(test_refused_batches) {
  bool encrypted = _i == 1, for_good = _i == 1;
  sim *base = base_of(encrypted);
  sweep(base, encrypted, SIM_READ, SDB_IO, for_good, for_good ? "reads, for good" : "reads");
  sweep(base, encrypted, SIM_ALLOC, SDB_NO_MEMORY, for_good, for_good ? "allocations, for good" : "allocations");
  sim_free(base);
}
END_TEST

/* A step back that failed: the state is neither that before nor that after, so nobody is shown it. What was acknowledged and would
 * be in it is not denied either. */
START_TEST(test_what_cannot_be_taken_back) {
  sim *device = base_of(false);
  sdb *db = open_on(device, false);
  sdb_snapshot *before, *after;
  sdb_cursor *cursor;
  sdb_reader *reader;
  sdb_put_options o;
  sdb_cursor_options search;
  char value[8], message[256];
  size_t size;
  sdb_put_options_init(&o);
  sdb_cursor_options_init(&search);
  ck_assert_int_eq(sdb_put(db, "durable", 7, "one", 3, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_snapshot_open(db, &before), SDB_OK);
  if (_i == 1) {
    o.durability = SDB_NONE;
    ck_assert_int_eq(sdb_put(db, "seen", 4, "two", 3, &o, NULL), SDB_OK); /* acknowledged, and published by the next reader */
  }
  take_back(db, SDB_IO);
  int code = _i == 1 ? SDB_IO : SDB_OK;
  ck_assert_int_eq(sdb_put(db, "more", 4, "x", 1, NULL, NULL), SDB_SYNC_FAILED);
  sdb_message(db, message, sizeof message);
  ck_assert_msg(strstr(message, "could not be taken back") != NULL, "%s", message);
  ck_assert_int_eq(sdb_delete(db, "durable", 7, NULL, NULL), SDB_SYNC_FAILED);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_SYNC_FAILED);
  ck_assert_int_eq(sdb_get(db, "durable", 7, SDB_CURRENT, value, sizeof value, &size, NULL), code);
  if (_i == 1) ck_assert_int_eq(sdb_get(db, "seen", 4, SDB_CURRENT, value, sizeof value, &size, NULL), SDB_IO);
  ck_assert_int_eq(sdb_snapshot_open(db, &after), code);
  if (code == SDB_OK) sdb_snapshot_close(after);
  ck_assert_int_eq(sdb_cursor_open(db, &search, &cursor), code);
  if (code == SDB_OK) sdb_cursor_close(cursor);
  ck_assert_int_eq(sdb_reader_open(db, "durable", 7, SDB_CURRENT, &reader), code);
  if (code == SDB_OK) sdb_reader_close(reader);
  ck_assert_int_eq(sdb_snapshot_get(before, "durable", 7, SDB_CURRENT, value, sizeof value, &size, NULL), SDB_OK);
  sdb_snapshot_close(before);
  ck_assert_int_eq(sdb_close(db), SDB_SYNC_FAILED);
  db = open_on(device, false);
  code = sdb_get(db, "seen", 4, SDB_CURRENT, value, sizeof value, &size, NULL); /* was never promised to be durable */
  nothing_happened(db, "after a step back that failed", 1, code == SDB_OK ? 2 : 1);
  ck_assert_int_eq(sdb_get(db, "durable", 7, SDB_CURRENT, value, sizeof value, &size, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* Whoever waited for the writer's lock while it happened, to begin a checkpoint, does not show it either; and a check does not take
 * it for damage of the file. */
START_TEST(test_no_checkpoint_of_what_cannot_be_taken_back) {
  sim *device = base_of(false);
  sdb *db = open_on(device, false);
  sdb_check_report report = {.size = sizeof report};
  char path[700], value[8];
  size_t size, len = path_of(3, path);
  uint64_t document;
  ck_assert_int_eq(sdb_put(db, "durable", 7, "one", 3, NULL, NULL), SDB_OK);
  pager_lock(db->pager);
  unsigned slot = change_enter(db);
  ck_assert_int_eq(names_get(db, VIEW_HEAD, path, len, &document), SDB_OK);
  ck_assert_int_eq(names_remove(db, path, len, document), SDB_OK);
  take_back(db, SDB_IO);
  change_leave(db, slot);
  pager_unlock(db->pager);
  ck_assert_int_eq(work_checkpoint(db, WORK_CLOSE), SDB_SYNC_FAILED);
  ck_assert_int_eq(sdb_check(db, tell, NULL, &report), SDB_SYNC_FAILED);
  ck_assert_uint_eq(report.problems, 0);
  ck_assert_int_eq(sdb_get(db, path, len, SDB_CURRENT, value, sizeof value, &size, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_SYNC_FAILED);
  db = open_on(device, false);
  nothing_happened(db, "after a checkpoint that was not begun", 1, 1);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* A name that is given back to a suffix index in the making, which has come by it already, is not missing there in the end,
 * although its page cannot be read meanwhile. */
START_TEST(test_suffix_index_in_the_making) {
  sim *base = base_of(false);
  for (unsigned nth = 1; nth <= 8; nth++) {
    sim *device = sim_clone(base, nth);
    sdb_options options = options_on(device, false);
    sdb *db;
    char path[700];
    uint8_t key[SDB_MAX_PATH] = {0};
    size_t len = path_of(0, path), key_len = 0;
    uint64_t document;
    bool more = true;
    options.suffix_index = false;
    ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
    while (more) ck_assert_int_eq(sdb_step(db, 64, &more), SDB_OK);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    db = open_on(device, false);
    while (db->roots.suffix_names < DOCUMENTS) ck_assert_int_eq(sdb_step(db, 1, &more), SDB_OK);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    db = open_on(device, false); /* nothing is dirty */
    ck_assert_uint_ne(db->roots.suffix_built, SUFFIX_COMPLETE);
    pager_lock(db->pager);
    unsigned slot = pager_enter(db->pager); /* keeps nothing, as where pages are read in a mapping */
    ck_assert_int_eq(names_get(db, VIEW_HEAD, path, len, &document), SDB_OK);
    ck_assert_int_eq(names_remove(db, path, len, document), SDB_OK);
    (void)tree_walk(db->pager, VIEW_HEAD, db->roots.path_tree, key, &key_len, DOCUMENTS, NULL, NULL);
    sim_fail(device, SIM_READ, nth, true, SDB_IO);
    names_undo_remove(db, path, len, document);
    sim_fail_nothing(device);
    bool spoiled = atomic_load(&db->spoiled);
    note_unlogged(db);
    pager_leave(db->pager, slot);
    pager_unlock(db->pager);
    for (more = !spoiled; more;) ck_assert_int_eq(sdb_step(db, 64, &more), SDB_OK);
    if (!spoiled) nothing_happened(db, "given back", nth, 0);
    ck_assert_int_eq(sdb_close(db), spoiled ? SDB_SYNC_FAILED : SDB_OK);
    sim_free(device);
  }
  sim_free(base);
}
END_TEST

/* --- An allocator that gives no pieces as large as what the table remembers its pages in -------------------------------------- */

static const sdb_storage *generous;

static void *give_small(void *ctx, void *p, size_t len) {
  return len == (4096 - PAGE_HEADER) / 4 * 16 ? NULL : generous->realloc(ctx, p, len);
}

/* Moving records reads nothing between what can fail and what must not. */
START_TEST(test_moving_without_memory) {
  sim *base = base_of(false);
  enum sim_kind kind = _i == 0 ? SIM_READ : SIM_ALLOC;
  uint64_t nth = 1, stride = 17 * seed_thin();
  for (bool struck = true; struck; nth += stride) {
    sim *device = sim_clone(base, nth);
    sdb_options options = options_on(device, false);
    sdb_put_options o;
    sdb *db;
    bool more = true;
    generous = options.storage;
    sdb_storage mean = *generous;
    mean.realloc = give_small;
    options.storage = &mean;
    options.versions_to_keep = 1;
    ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
    sdb_put_options_init(&o);
    o.durability = SDB_NONE;
    for (unsigned i = 1; i < DOCUMENTS; i += 2) {
      char path[700];
      ck_assert_int_eq(sdb_put(db, path, path_of(i, path), "other", 5, &o, NULL), SDB_OK);
    }
    pager_lock(db->pager);
    clean_begin(db, true);
    pager_unlock(db->pager);
    sim_fail(device, kind, nth, false, kind == SIM_READ ? SDB_IO : SDB_NO_MEMORY);
    for (int rc = SDB_OK; rc == SDB_OK && more;) rc = clean_step(db, 8, &more);
    struck = sim_failed(device);
    sim_fail_nothing(device);
    nothing_happened(db, "moved", nth, 0);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
  printf("moving: %" PRIu64 " calls\n", nth - stride);
  ck_assert_uint_gt(nth, 100);
  sim_free(base);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("undo");
  TCase *batches = tcase_create("batches");
  tcase_set_timeout(batches, 300);
  tcase_add_loop_test(batches, test_refused_batches, 0, 2);
  tcase_add_loop_test(batches, test_what_cannot_be_taken_back, 0, 2);
  tcase_add_test(batches, test_no_checkpoint_of_what_cannot_be_taken_back);
  tcase_add_test(batches, test_suffix_index_in_the_making);
  tcase_add_loop_test(batches, test_moving_without_memory, 0, 2);
  suite_add_tcase(suite, batches);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
