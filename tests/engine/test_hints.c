/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_hints.c - hints spare the way through the tree and never lead astray: whatever became of the path or of the document since.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* check.h brings the mathematical `log` along. */
#define log engine_log
#include "db.h"
#undef log

static sdb_storage *memory;
static sdb *db;

static void set_up(uint32_t cache_pages) {
  sdb_options options;
  sdb_options_init(&options);
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  options.storage = memory;
  options.threads = false;
  options.page_cache_size = cache_pages;
  options.durability = SDB_NONE;
  ck_assert_int_eq(sdb_open("hints.sdb", &options, &db), SDB_OK);
}

static void tear_down(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}

static void put(const char *path, const char *content) {
  ck_assert_int_eq(sdb_put(db, path, strlen(path), content, strlen(content), NULL, NULL), SDB_OK);
}

static void expect(const char *path, const char *content) {
  char buf[64];
  size_t size = 0;
  int rc = sdb_get(db, path, strlen(path), SDB_CURRENT, buf, sizeof buf, &size, NULL);
  ck_assert_int_eq(rc, content ? SDB_OK : SDB_NOT_FOUND);
  if (!content) return;
  ck_assert_uint_eq(size, strlen(content));
  ck_assert_mem_eq(buf, content, size);
}

static hint whole_hint_of(const char *path) { return hints_get(db->hints, hints_hash(path, strlen(path))); }
static uint64_t hint_of(const char *path) { return whole_hint_of(path).document; }

/* A hint that was right once, after the document was overwritten, has gone, has given its number to another one, has lost a name.
 */
START_TEST(what_changed_since) {
  set_up(64);
  put("a", "one");
  expect("a", "one");
  uint64_t document = hint_of("a");
  ck_assert_uint_ne(document, 0);
  put("a", "two");
  expect("a", "two");
  ck_assert_int_eq(sdb_bind(db, "a", 1, "b", 1, NULL, NULL), SDB_OK);
  expect("b", "two");
  ck_assert_uint_eq(hint_of("b"), document);
  ck_assert_int_eq(sdb_unbind(db, "a", 1, NULL, NULL), SDB_OK);
  ck_assert_uint_eq(hint_of("a"), document);
  expect("a", NULL);
  expect("b", "two");
  ck_assert_int_eq(sdb_delete(db, "b", 1, NULL, NULL), SDB_OK);
  expect("b", NULL);
  put("c", "three"); /* the number is given again */
  expect("c", "three");
  ck_assert_uint_eq(hint_of("c"), document);
  expect("a", NULL);
  expect("b", NULL);
  put("a", "four");
  expect("a", "four");
  ck_assert_uint_ne(hint_of("a"), document);
  tear_down();
}
END_TEST

/* Wrong hints for every path: another document, one that does not exist, one that cannot. */
START_TEST(wrong_hints) {
  static const hint wrong[] = {
      {.document = 2}, {77, 640, 100}, {(UINT64_C(1) << 40) - 1, 1 << 20, 1}, {2, UINT64_C(1) << 32, 4000}, {1, 1 << 20, 100}};
  set_up(64);
  put("a", "one");
  put("b", "two");
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    hints_put(db->hints, hints_hash("a", 1), wrong[i]);
    hints_put(db->hints, hints_hash("z", 1), wrong[i]);
    ck_assert_uint_eq(hint_of("a"), wrong[i].document);
    expect("a", "one");
    ck_assert_uint_eq(hint_of("a"), 1);
    expect("z", NULL);
  }
  ck_assert_uint_eq(db->e.corruptions, 0);
  tear_down();
}
END_TEST

/* What a hint keeps: the document always; where its record stood, to the line, and about how long it was, as far as both have room.
 */
START_TEST(what_is_kept) {
  static const struct {
    hint given, kept;
  } cases[] = {
      {{7, 8192 + 200, 100}, {7, 8192 + 192, 256}},
      {{7, 8192 + 200, 300}, {7, 8192 + 192, 640}},
      {{7, 8192 + 200, 4000}, {7, 8192 + 192, 1280}},
      {{7, (UINT64_C(1) << 33) - 64, 100}, {7, (UINT64_C(1) << 33) - 64, 256}},
      {{(1 << 25) - 1, 8192, 100}, {(1 << 25) - 1, 8192, 256}},
      {{7, UINT64_C(1) << 33, 100}, {7, 0, 0}},
      {{1 << 25, 8192, 100}, {1 << 25, 0, 0}},
      {{(UINT64_C(1) << 40) - 1, 8192, 100}, {(UINT64_C(1) << 40) - 1, 0, 0}},
      {{7, 0, 100}, {7, 0, 0}},
  };
  set_up(64);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hints_put(db->hints, hints_hash("a", 1), cases[i].given);
    hint kept = whole_hint_of("a");
    ck_assert_uint_eq(kept.document, cases[i].kept.document);
    ck_assert_uint_eq(kept.offset, cases[i].kept.offset);
    ck_assert_uint_eq(kept.length, cases[i].kept.length);
  }
  ck_assert_uint_eq(hint_of("b"), 0);
  tear_down();
}
END_TEST

static uint64_t record_line(const char *path) {
  uint64_t document;
  table_entry entry;
  unsigned slot = pager_enter(db->pager);
  ck_assert_int_eq(document_entry(db, pager_published(db->pager), path, strlen(path), &document, &entry), SDB_OK);
  uint64_t page = pager_position(db->pager, place_page(entry.current));
  pager_leave(db->pager, slot);
  return page ? (page + place_offset(entry.current)) / 64 * 64 : 0;
}

/* A read that met the record elsewhere than its hint said says where it stands: in memory only, written, written anew. */
START_TEST(where_it_stands) {
  char name[] = "/tmp/sdb-hints-XXXXXX", file[64];
  sdb_options options;
  sdb_options_init(&options);
  options.threads = false;
  ck_assert_ptr_nonnull(mkdtemp(name));
  snprintf(file, sizeof file, "%s/hints.sdb", name);
  ck_assert_int_eq(sdb_open(file, &options, &db), SDB_OK);
  for (int i = 0; i < 3; i++) {
    put("a", "one");
    expect("a", "one");
    ck_assert_uint_eq(whole_hint_of("a").offset, 0);
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    expect("a", "one");
    ck_assert_uint_ne(record_line("a"), 0);
    ck_assert_uint_eq(whole_hint_of("a").offset, record_line("a"));
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  char command[96];
  snprintf(command, sizeof command, "rm -r %s", name);
  ck_assert_int_eq(system(command), 0);
}
END_TEST

/* More hints than there is room for, or fewer: the newest is there, unless the table grew with it; none says anything but what was
 * put. _i: pages of cache. */
START_TEST(many_hints) {
  static const uint32_t cache[] = {64, 1024};
  const uint64_t count = 50000;
  char path[24];
  uint64_t at_once = 0, known = 0;
  set_up(cache[_i]);
  uint64_t room = (uint64_t)cache[_i] * 8192 / (pager_mapped(db->pager) ? 2 : 8) / 8;
  for (uint64_t i = 1; i <= count; i++) {
    snprintf(path, sizeof path, "path/%llu", (unsigned long long)i);
    hints_put(db->hints, hints_hash(path, strlen(path)), (hint){.document = i});
    at_once += hint_of(path) == i;
  }
  ck_assert_uint_ge(at_once, count - 8);
  for (uint64_t i = 1; i <= count; i++) {
    snprintf(path, sizeof path, "path/%llu", (unsigned long long)i);
    uint64_t document = hint_of(path);
    ck_assert_uint_le(document, count);
    known += document == i;
  }
  ck_assert_uint_gt(known, (room < count ? room : count) / 3); /* each growth leaves half of them behind */
  ck_assert_uint_le(known, room);
  tear_down();
}
END_TEST

/* What is seldom asked for is not lost when the table grows, and counts once. */
START_TEST(growing) {
  const uint64_t count = 50000;
  char path[24];
  uint64_t known = 0;
  set_up(4096);
  for (uint64_t i = 1; i <= count; i++) {
    snprintf(path, sizeof path, "path/%llu", (unsigned long long)i);
    hints_put(db->hints, hints_hash(path, strlen(path)), (hint){.document = i});
    if (i % 2000 && i < count) continue;
    known = 0;
    for (uint64_t k = 1; k <= i; k++) {
      snprintf(path, sizeof path, "path/%llu", (unsigned long long)k);
      known += hint_of(path) == k;
    }
  }
  ck_assert_uint_gt(known, count - count / 20);
  tear_down();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("hints");
  TCase *hints_case = tcase_create("hints");
  tcase_add_test(hints_case, what_changed_since);
  tcase_add_test(hints_case, wrong_hints);
  tcase_add_test(hints_case, what_is_kept);
  tcase_add_test(hints_case, where_it_stands);
  tcase_add_loop_test(hints_case, many_hints, 0, 2);
  tcase_add_test(hints_case, growing);
  suite_add_tcase(suite, hints_case);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
