/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_heal.c - what a put brings back of a document whose current record is damaged: itself, and the names that the version before
 * has and that still lead to it; and what the scrub brings back of what the damaged record named.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "simulated.h"

#define NAME "heal.sdb"
#define MARK "the record that goes bad"

enum { LARGE = 100000 };

static sim *device;
static sdb *db;
static sdb_options options;
static uint8_t large[LARGE], found[LARGE];

static void open_it(void) { ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK); }

static void close_it(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = NULL;
}

static void die(void) {
  sim_die_at(device, 1);
  sdb_close(db);
  sim_crash(device, SIM_DROP_ALL, 1);
}

static void put(const char *path, const void *data, size_t len, bool marked) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  if (marked) o.metadata = MARK, o.metadata_len = sizeof MARK - 1;
  ck_assert_int_eq(sdb_put(db, path, strlen(path), data, len, &o, NULL), SDB_OK);
}

static void bind(const char *path, const char *name) {
  ck_assert_int_eq(sdb_bind(db, path, strlen(path), name, strlen(name), NULL, NULL), SDB_OK);
}

static int look(const char *path, const void *data, size_t len) {
  size_t got = 0;
  int code = sdb_get(db, path, strlen(path), SDB_CURRENT, found, sizeof found, &got, NULL);
  if (code == SDB_OK) ck_assert_uint_eq(got, len);
  if (code == SDB_OK) ck_assert_mem_eq(found, data, len);
  return code;
}

/* Every record in the data file that is marked. */
static void damage(void) {
  uint64_t size;
  unsigned seen = 0;
  ck_assert(sim_size(device, NAME, &size));
  uint8_t *image = malloc(size);
  ck_assert_ptr_nonnull(image);
  ck_assert(sim_peek(device, NAME, 0, image, size));
  for (uint64_t at = 0; at + sizeof MARK < size; at++) {
    if (memcmp(image + at, MARK, sizeof MARK - 1) != 0) continue;
    image[at] ^= 1;
    ck_assert(sim_poke(device, NAME, at, image + at, 1));
    seen++;
  }
  free(image);
  ck_assert_uint_gt(seen, 0);
}

static void set_up(void) {
  device = sim_new(1);
  sdb_options_init(&options);
  options.storage = sim_storage(device);
  options.threads = false;
  options.page_size = 4096;
  options.page_cache_size = 64;
  options.use_compression = false;
  for (size_t i = 0; i < sizeof large; i++) large[i] = (uint8_t)(i * 2654435761u >> 13);
  open_it();
}

static void tear_down(void) {
  close_it();
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

static void judge_names(const void *data, size_t len) {
  ck_assert_int_eq(look("/a", data, len), SDB_OK);
  ck_assert_int_eq(look("/b", data, len), SDB_OK);
  ck_assert_int_eq(look("/c", data, len), SDB_OK);
  ck_assert_int_eq(look("/gone", data, len), SDB_NOT_FOUND);
  ck_assert_int_eq(look("/late", data, len), SDB_CORRUPT);
}

START_TEST(a_put_heals_the_names_that_are_known) {
  const void *data = _i ? (const void *)large : "healed";
  size_t len = _i ? sizeof large : 6;
  set_up();
  put("/a", "first", 5, false);
  bind("/a", "/b");
  bind("/a", "/gone");
  bind("/a", "/c");
  put("/b", "second", 6, true);
  bind("/c", "/late");
  ck_assert_int_eq(sdb_unbind(db, "/gone", 5, NULL, NULL), SDB_OK);
  close_it();
  damage();
  open_it();
  ck_assert_int_eq(look("/a", "", 0), SDB_CORRUPT);
  put("/b", data, len, false);
  judge_names(data, len);
  die();
  open_it();
  judge_names(data, len);
  put("/late", "late", 4, false); /* written again it is a document of its own */
  ck_assert_int_eq(look("/late", "late", 4), SDB_OK);
  ck_assert_int_eq(look("/c", data, len), SDB_OK);
  tear_down();
}
END_TEST

/* --- What a damaged record named ---------------------------------------------------------------------------------------------- */

static sdb_stats stats(void) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

static uint64_t used_bytes(void) { return stats().file_bytes - stats().free_bytes; }

static void scrub_all(void) {
  uint64_t passes = stats().scrubs;
  bool more = true;
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  while (more || stats().scrubs == passes) ck_assert_int_eq(sdb_step(db, 8, &more), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
}

static unsigned lost_pages;
static void count_lost(void *user, const char *sentence) {
  (void)user;
  lost_pages += strstr(sentence, "used") != NULL;
}

static unsigned pages_of_nobody(void) {
  sdb_check_report r = {.size = sizeof r};
  lost_pages = 0;
  ck_assert_int_eq(sdb_check(db, count_lost, NULL, &r), SDB_OK);
  return lost_pages;
}

/* A version of 100 KB whose record goes bad is replaced, and then dropped or not: nobody can say what it named, but the scrub sees
 * what all others do not name. */
START_TEST(what_a_damaged_record_named_comes_back) {
  set_up();
  put("/other", large + 5, LARGE - 5, false);
  put("/other", large + 6, LARGE - 6, false);
  put("/a", "first", 5, false);
  put("/a", large, LARGE, true);
  put("/b", large + 1, LARGE - 1, _i == 1);
  close_it();
  damage();
  open_it();
  put("/a", "third", 5, false);
  put("/a", "fourth", 6, false); /* the damaged one goes */
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_gt(pages_of_nobody(), 0);
  uint64_t before = used_bytes();
  scrub_all();
  if (_i == 1) { /* a further record is damaged: the pages may be what that one names */
    ck_assert_uint_gt(pages_of_nobody(), 0);
    put("/b", "healed", 6, false);
    put("/b", "healed", 6, false);
    scrub_all();
  }
  ck_assert_uint_eq(pages_of_nobody(), 0);
  ck_assert_uint_le(used_bytes() + LARGE * 9 / 10, before);
  ck_assert_int_eq(look("/a", "fourth", 6), SDB_OK);
  ck_assert_int_eq(look("/other", large + 6, LARGE - 6), SDB_OK);
  die();
  open_it();
  ck_assert_uint_eq(pages_of_nobody(), 0);
  ck_assert_int_eq(look("/other", large + 6, LARGE - 6), SDB_OK);
  if (_i == 0) ck_assert_int_eq(look("/b", large + 1, LARGE - 1), SDB_OK);
  tear_down();
}
END_TEST

/* Beside the pass documents come, change and go, and some read an older state. */
START_TEST(only_what_is_nobodys_comes_back) {
  enum { OTHERS = 40 };
  uint64_t random = (uint64_t)_i + 1;
  uint32_t size[OTHERS] = {0};
  sdb_snapshot *at;
  set_up();
  put("/a", large, LARGE, true);
  close_it();
  damage();
  open_it();
  for (unsigned turn = 0; turn < 400; turn++) {
    char path[16];
    bool more;
    unsigned i = (unsigned)(sim_random(&random) % OTHERS);
    snprintf(path, sizeof path, "/o/%02u", i);
    if (turn == 100) put("/a", "healed", 6, false);
    if (turn == 101) put("/a", "healed", 6, false);
    if (turn % 20 == 0) ck_assert_int_eq(sdb_scrub(db), SDB_OK);
    if (turn % 50 == 7) ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    if (turn == 200) ck_assert_int_eq(sdb_snapshot_open(db, &at), SDB_OK);
    size[i] = sim_random(&random) % 4 ? 5000 + (uint32_t)(sim_random(&random) % 60000) : 0;
    if (size[i]) put(path, large + i, size[i], false);
    else (void)!sdb_delete(db, path, strlen(path), NULL, NULL);
    for (unsigned k = 0; k < 3; k++) ck_assert_int_eq(sdb_step(db, 1 + (unsigned)(sim_random(&random) % 9), &more), SDB_OK);
    for (unsigned k = i; k < OTHERS; k += 7) {
      snprintf(path, sizeof path, "/o/%02u", k);
      ck_assert_int_eq(look(path, large + k, size[k]), size[k] ? SDB_OK : SDB_NOT_FOUND);
    }
  }
  sdb_snapshot_close(at);
  scrub_all();
  ck_assert_uint_eq(pages_of_nobody(), 0);
  die();
  open_it();
  ck_assert_uint_eq(pages_of_nobody(), 0);
  for (unsigned k = 0; k < OTHERS; k++) {
    char path[16];
    snprintf(path, sizeof path, "/o/%02u", k);
    ck_assert_int_eq(look(path, large + k, size[k]), size[k] ? SDB_OK : SDB_NOT_FOUND);
  }
  tear_down();
}
END_TEST

int main(void) {
  Suite *s = suite_create("heal");
  TCase *t = tcase_create("heal");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, a_put_heals_the_names_that_are_known, 0, 2);
  tcase_add_loop_test(t, what_a_damaged_record_named_comes_back, 0, 2);
  tcase_add_loop_test(t, only_what_is_nobodys_comes_back, 0, 10);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
