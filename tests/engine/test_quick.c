/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_quick.c - quick mode leaves out the comparison of contents with their checksums, and nothing else.
 *
 * A small and a large document are written, then one byte of a content, of a record's head or of an extent's head is flipped in the
 * data file, on three storages: simulated (no mapping), memory, and files of the system (mapped).
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"
#include "simulated.h"

enum { SMALL = 900, LARGE = 200000 };

static const sdb_storage *st;
static sim *device;
static sdb_storage *memory;
static char directory[64];
static sdb *db;
static uint8_t small_content[SMALL], large_content[LARGE], buf[LARGE];
static unsigned warnings;
static char warned[256];

static void up(int which) {
  directory[0] = '\0';
  device = NULL;
  memory = NULL;
  warnings = 0;
  if (which == 0) {
    device = sim_new(3);
    st = sim_storage(device);
  } else if (which == 1) {
    memory = sdb_storage_memory_new();
    ck_assert_ptr_nonnull(memory);
    st = memory;
  } else {
    snprintf(directory, sizeof directory, "%s", "/tmp/sdb-quick-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    ck_assert_int_eq(chdir(directory), 0);
    st = sdb_storage_file();
  }
  uint64_t random = 11;
  for (size_t i = 0; i < SMALL; i++) small_content[i] = (uint8_t)sim_random(&random);
  for (size_t i = 0; i < LARGE; i++) large_content[i] = (uint8_t)sim_random(&random);
}

static void down(void) {
  if (device) sim_free(device);
  sdb_storage_memory_free(memory);
  if (!directory[0]) return;
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}

static void note_warning(void *user, const char *sentence) {
  ck_assert_ptr_eq(user, &warnings);
  warnings++;
  snprintf(warned, sizeof warned, "%s", sentence);
}

static void open_database(bool quick) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = st;
  o.threads = false;
  o.quick_mode = quick;
  o.warning = note_warning;
  o.warning_user = &warnings;
  ck_assert_int_eq(sdb_open("quick.sdb", &o, &db), SDB_OK);
}

static void make(void) {
  open_database(false);
  ck_assert_int_eq(sdb_put(db, "small", 5, small_content, SMALL, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "large", 5, large_content, LARGE, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

/* Flips one bit of the data file, `offset` bytes behind the place where `needle` stands: in every place where it does. */
static void flip(const void *needle, size_t len, int64_t offset) {
  sdb_file *file;
  uint64_t size;
  unsigned found = 0;
  ck_assert_int_eq(st->open(st->ctx, "quick.sdb", SDB_OPEN_WRITE, &file), SDB_OK);
  ck_assert_int_eq(st->get_size(file, &size), SDB_OK);
  uint8_t *bytes = malloc((size_t)size);
  ck_assert_ptr_nonnull(bytes);
  ck_assert_int_eq(st->read(file, 0, bytes, (size_t)size), SDB_OK);
  for (uint64_t i = 0; i + len <= size; i++) {
    if (memcmp(bytes + i, needle, len) != 0) continue;
    uint8_t *at = bytes + i + offset;
    *at ^= 0x10;
    ck_assert_int_eq(st->write(file, i + (uint64_t)offset, at, 1), SDB_OK);
    found++;
  }
  free(bytes);
  st->close(file);
  ck_assert_uint_eq(found, 1);
}

static int read_as_stream(const char *path, size_t *size) {
  sdb_reader *r;
  size_t got = 1;
  *size = 0;
  int rc = sdb_reader_open(db, path, strlen(path), SDB_CURRENT, &r);
  if (rc != SDB_OK) return rc;
  for (; rc == SDB_OK && got > 0; *size += got) rc = sdb_reader_read(r, buf + *size, 50000, &got);
  sdb_reader_close(r);
  return rc;
}

/* One way to read a content into `buf`. */
static int read_one(int way, const char *path, size_t *size) {
  void *data;
  int rc;
  switch (way) {
    case 0: return sdb_get(db, path, strlen(path), SDB_CURRENT, buf, sizeof buf, size, NULL);
    case 1:
      rc = sdb_get_alloc(db, path, strlen(path), SDB_CURRENT, &data, size, NULL);
      if (rc != SDB_OK) return rc;
      memcpy(buf, data, *size);
      sdb_free(db, data);
      return SDB_OK;
    case 2: return sdb_get_range(db, path, strlen(path), SDB_CURRENT, 0, buf, sizeof buf, size, NULL);
    default: return read_as_stream(path, size);
  }
}
enum { WAYS = 4 };

/* All ways of reading answer `code`, or, with SDB_OK, `expected` with a single bit changed. */
static void expect(const char *path, int code, const uint8_t *expected, size_t len) {
  for (int way = 0; way < WAYS; way++) {
    size_t size = 0, differ = 0;
    memset(buf, 0, sizeof buf);
    int rc = read_one(way, path, &size);
    ck_assert_msg(rc == code, "%s, way %d: %s instead of %s", path, way, sdb_strerror(rc), sdb_strerror(code));
    if (rc != SDB_OK) continue;
    ck_assert_uint_eq(size, len);
    for (size_t i = 0; i < len; i++) differ += buf[i] != expected[i];
    ck_assert_uint_eq(differ, 1);
  }
}

static sdb_stats stats(void) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

START_TEST(test_content) {
  up(_i);
  make();
  flip(large_content + 150000, 64, 10);
  open_database(false);
  ck_assert_uint_eq(warnings, 0);
  ck_assert(!stats().quick_mode);
  expect("large", SDB_CORRUPT, NULL, 0);
  char sentence[256];
  sdb_message(db, sentence, sizeof sentence);
  ck_assert_msg(strstr(sentence, "chunk 2 ") != NULL, "%s", sentence); /* byte 150,010 is in the third */
  ck_assert_uint_eq(stats().unchecked_reads, 0);

  sdb_set_quick_mode(db, true);
  ck_assert_uint_eq(warnings, 1);
  ck_assert_msg(strstr(warned, "quick mode") != NULL, "%s", warned);
  sdb_set_quick_mode(db, true);
  ck_assert_uint_eq(warnings, 1);
  expect("large", SDB_OK, large_content, LARGE);
  ck_assert(stats().quick_mode);
  ck_assert_uint_eq(stats().unchecked_reads, WAYS);

  /* check is not quick; and neither is what comes after */
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_ge(report.problems, 1);
  sdb_set_quick_mode(db, false);
  expect("large", SDB_CORRUPT, NULL, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);

  open_database(true);
  ck_assert_uint_eq(warnings, 2);
  ck_assert(stats().quick_mode);
  expect("large", SDB_OK, large_content, LARGE);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  down();
}
END_TEST

/* The page of a small document is verified when it is first touched; what changes under the mapping afterwards is seen by the
 * content's own checksum alone. */
START_TEST(test_small_content) {
  up(2);
  make();
  open_database(false);
  size_t size;
  ck_assert_int_eq(read_one(0, "small", &size), SDB_OK);
  flip(small_content + 100, 64, 10);
  expect("small", SDB_CORRUPT, NULL, 0);
  sdb_set_quick_mode(db, true);
  expect("small", SDB_OK, small_content, SMALL);
  ck_assert_uint_eq(stats().unchecked_reads, WAYS);
  sdb_set_quick_mode(db, false);
  expect("small", SDB_CORRUPT, NULL, 0);

  sdb_set_quick_mode(db, true);
  flip(small_content, 64, -45); /* the version in the record's head: 8 bytes behind its beginning, 40 before the path */
  expect("small", SDB_CORRUPT, NULL, 0);
  ck_assert_uint_eq(stats().unchecked_reads, WAYS);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  down();
}
END_TEST

/* A head that was damaged before the database is opened. */
START_TEST(test_heads) {
  up(_i);
  make();
  flip(small_content, 64, -45);
  open_database(true);
  expect("small", SDB_CORRUPT, NULL, 0);
  ck_assert_uint_eq(stats().unchecked_reads, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  down();
}
END_TEST

START_TEST(test_chunk_table) {
  up(_i);
  make();
  uint8_t length_of_chunk[4] = {0, 0, 1, 0}, checksum[8];
  uint32_t crc = sdb_crc32c(0, large_content + 65536, 65536);
  for (int i = 0; i < 4; i++) checksum[i] = (uint8_t)(crc >> 8 * i);
  memcpy(checksum + 4, length_of_chunk, 4);
  flip(checksum, sizeof checksum, 6); /* the length of chunk 1: the extent's head does not verify any more */
  open_database(true);
  size_t size;
  ck_assert_int_eq(read_as_stream("large", &size), SDB_CORRUPT);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  down();
}
END_TEST

/* An error leaves the mode as it was, and a reader keeps the mode in which it was opened. */
START_TEST(test_mode_of_a_reader) {
  up(_i);
  make();
  flip(large_content + 150000, 64, 10);
  open_database(false);
  sdb_reader *checked, *quick;
  size_t got;
  ck_assert_int_eq(sdb_reader_open(db, "large", 5, SDB_CURRENT, &checked), SDB_OK);
  sdb_set_quick_mode(db, true);
  ck_assert_int_eq(sdb_get(db, "absent", 6, SDB_CURRENT, buf, sizeof buf, &got, NULL), SDB_NOT_FOUND);
  ck_assert(stats().quick_mode);
  ck_assert_int_eq(sdb_reader_open(db, "large", 5, SDB_CURRENT, &quick), SDB_OK);
  sdb_set_quick_mode(db, false);
  ck_assert_int_eq(sdb_reader_read(checked, buf, LARGE, &got), SDB_CORRUPT);
  ck_assert_int_eq(sdb_reader_read(quick, buf, LARGE, &got), SDB_OK);
  ck_assert_uint_eq(got, LARGE);
  ck_assert(!stats().quick_mode);
  sdb_reader_close(checked);
  sdb_reader_close(quick);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  down();
}
END_TEST

int main(void) {
  TCase *t = tcase_create("quick");
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, test_content, 0, 3);
  tcase_add_test(t, test_small_content);
  tcase_add_loop_test(t, test_heads, 0, 3);
  tcase_add_loop_test(t, test_chunk_table, 0, 3);
  tcase_add_loop_test(t, test_mode_of_a_reader, 0, 3);
  Suite *s = suite_create("quick");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? 1 : 0;
}
