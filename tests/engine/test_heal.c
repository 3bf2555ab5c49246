/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_heal.c - what a put brings back of a document whose current record is damaged: itself, and the names that the version before
 * has and that still lead to it. What came behind that version only the damaged record knew.
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

int main(void) {
  Suite *s = suite_create("heal");
  TCase *t = tcase_create("heal");
  tcase_add_loop_test(t, a_put_heals_the_names_that_are_known, 0, 2);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
