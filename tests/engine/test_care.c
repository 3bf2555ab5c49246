/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_care.c - damage to pages of a chosen kind, made by hand while the database is open: who answers, who is healed, what is
 * told.
 *
 * A document is its number: path /d/NNN, content from the number and the version, so that every byte can be judged.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* check.h brings the mathematical `log` along. */
#define log engine_log
#include "db.h"
#undef log

#include "model.h"
#include "simulated.h"

#define NAME "care.sdb"

enum { PAGE = 4096, DOCUMENTS = 200, SIZE = 300 };

static sim *device;
static sdb *db;
static sdb_options options;
static char message[256];
static uint32_t version_of[DOCUMENTS];

static void set_up(void) {
  device = sim_new(1);
  sdb_options_init(&options);
  options.storage = sim_storage(device);
  options.threads = false;
  options.page_size = PAGE;
  options.wal_segment_size = 65536;
  options.use_compression = false;
  options.message = message;
  options.message_size = sizeof message;
  memset(version_of, 0, sizeof version_of);
}

static void open_it(void) {
  int rc = sdb_open(NAME, &options, &db);
  ck_assert_msg(rc == SDB_OK, "open: %s: %s", sdb_strerror(rc), message);
}

static void close_it(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = NULL;
}

static void tear_down(void) {
  if (db) sdb_close(db);
  db = NULL;
  ck_assert_uint_eq(sim_open_files(device), 0);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

static const char *why(void) {
  sdb_message(db, message, sizeof message);
  return message;
}

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

static size_t path_of(unsigned i, char path[16]) { return (size_t)snprintf(path, 16, "/d/%03u", i); }
static uint32_t size_of(unsigned i) { return i % 50 == 49 ? 70000 : SIZE + i; }

static int put(unsigned i) {
  static uint8_t data[70000];
  char path[16];
  size_t len = path_of(i, path);
  model_content(1000 * i + version_of[i] + 1, 0, data, size_of(i));
  int rc = sdb_put(db, path, len, data, size_of(i), NULL, NULL);
  if (rc == SDB_OK) version_of[i]++;
  return rc;
}

static void must_put(unsigned i) {
  int rc = put(i);
  ck_assert_msg(rc == SDB_OK, "put %u: %s: %s", i, sdb_strerror(rc), why());
}

/* SDB_OK: that version is there, and its bytes are right. */
static int look_at(unsigned i, uint32_t version) {
  static uint8_t found[70000], data[70000];
  char path[16];
  size_t len = path_of(i, path), size = 0;
  int rc = sdb_get(db, path, len, version == version_of[i] ? SDB_CURRENT : version, found, sizeof found, &size, NULL);
  if (rc != SDB_OK) return rc;
  model_content(1000 * i + version, 0, data, size_of(i));
  ck_assert_uint_eq(size, size_of(i));
  ck_assert_mem_eq(found, data, size);
  return SDB_OK;
}

static int look(unsigned i) { return look_at(i, version_of[i]); }

/* How many answer SDB_CORRUPT; all others are as they should be. */
static unsigned corrupt(void) {
  unsigned count = 0;
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    int rc = look(i);
    ck_assert_msg(rc == SDB_OK || rc == SDB_CORRUPT, "get %u: %s: %s", i, sdb_strerror(rc), why());
    count += rc != SDB_OK;
  }
  return count;
}

/* A closed database, opened again: nothing of it is in memory. */
static void fill(void) {
  open_it();
  for (unsigned i = 0; i < DOCUMENTS; i++) must_put(i);
  close_it();
  open_it();
}

static sdb_stats stats(void) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

static void tell(void *user, const char *sentence) {
  printf("problem: %s\n", sentence);
  ++*(unsigned *)user;
}

static void must_be_whole(void) {
  sdb_check_report r = {.size = sizeof r};
  unsigned told = 0;
  ck_assert_int_eq(sdb_check(db, tell, &told, &r), SDB_OK);
  ck_assert_uint_eq(told, 0);
  ck_assert_uint_eq(r.problems, 0);
}

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

struct wanted {
  uint8_t kind;
  unsigned nth;
  uint32_t number, place;
};

static int want(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct wanted *w = user;
  (void)live;
  if (kind != w->kind || !place || number == db->roots.heap_page || w->nth-- > 0) return SDB_OK;
  w->number = number;
  w->place = place;
  return SDB_END;
}

/* The nth page of that kind, the open heap page left out. */
static struct wanted page_of(uint8_t kind, unsigned nth) {
  struct wanted w = {.kind = kind, .nth = nth};
  unsigned slot = pager_enter(db->pager);
  ck_assert_int_eq(pager_walk(db->pager, want, &w), SDB_END);
  pager_leave(db->pager, slot);
  return w;
}

static void flip(uint32_t place, uint32_t offset) {
  uint8_t byte;
  ck_assert(sim_peek(device, NAME, (uint64_t)place * PAGE + offset, &byte, 1));
  byte ^= 0x10;
  ck_assert(sim_poke(device, NAME, (uint64_t)place * PAGE + offset, &byte, 1));
}

/* --- Heap pages --------------------------------------------------------------------------------------------------------------- */

/* Where record `nth` begins in a page as it stands in the file. */
static uint32_t record_in(uint32_t place, unsigned nth, uint32_t *total) {
  uint8_t page[PAGE];
  record r;
  ck_assert(sim_peek(device, NAME, (uint64_t)place * PAGE, page, PAGE));
  uint32_t offset = PAGE_HEADER;
  for (;; offset += r.total) {
    ck_assert_int_eq(record_parse(&r, page + offset, PAGE - offset), SDB_OK);
    if (nth-- == 0) break;
  }
  *total = r.total;
  return offset;
}

/* Only the document whose record was hit is corrupt; its page serves the others, at first touch too. */
START_TEST(records_of_a_damaged_page_are_judged_alone) {
  uint32_t total;
  set_up();
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  uint32_t at = record_in(heap.place, 2, &total);
  flip(heap.place, _i == 0 ? at + 20 : _i == 1 ? at + total - 40 : _i == 2 ? 8 : PAGE - 1); /* head, content, header, empty end */
  ck_assert_uint_eq(corrupt(), _i < 2 ? 1 : 0);
  ck_assert_uint_eq(stats().quarantined, 1);
  ck_assert_uint_gt(stats().corruptions, 0);
  tear_down();
}
END_TEST

/* The content is compared in quick mode too, where the page's checksum does not speak for it. */
START_TEST(quick_mode_checks_what_stands_on_a_damaged_page) {
  uint32_t total;
  set_up();
  options.quick_mode = true;
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  uint32_t at = record_in(heap.place, 2, &total);
  flip(heap.place, at + total - 40);
  ck_assert_uint_eq(corrupt(), 1);
  tear_down();
}
END_TEST

/* An encrypted page is one unit: what was made of it nobody can tell in part. */
START_TEST(an_encrypted_page_stands_or_falls_whole) {
  set_up();
  options.encryption_key = (const uint8_t *)"thirty-two bytes make up a key..";
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  flip(heap.place, 1000);
  ck_assert_uint_gt(corrupt(), 3);
  ck_assert_uint_eq(stats().quarantined, 1);
  tear_down();
}
END_TEST

/* The cleaner moves out what verifies, and the page is free. */
START_TEST(the_cleaner_empties_a_damaged_page) {
  set_up();
  options.versions_to_keep = 1;
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  flip(heap.place, _i == 0 ? 12 : PAGE - 1); /* its fill is wrong, or what is behind it */
  for (unsigned i = 0; i < 4 * DOCUMENTS; i++)
    if (i % 4) must_put(i % DOCUMENTS);
  ck_assert_uint_eq(stats().quarantined, 1);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(corrupt(), 0);
  ck_assert_uint_eq(stats().quarantined, 0);
  must_be_whole();
  tear_down();
}
END_TEST

/* --- Main --------------------------------------------------------------------------------------------------------------------- */

int main(void) {
  Suite *suite = suite_create("care");
  TCase *heap = tcase_create("heap");
  tcase_set_timeout(heap, 60);
  tcase_add_loop_test(heap, records_of_a_damaged_page_are_judged_alone, 0, 4);
  tcase_add_test(heap, quick_mode_checks_what_stands_on_a_damaged_page);
  tcase_add_test(heap, an_encrypted_page_stands_or_falls_whole);
  tcase_add_loop_test(heap, the_cleaner_empties_a_damaged_page, 0, 2);
  suite_add_tcase(suite, heap);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
