/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_arguments.c - what the public calls refuse: with which code, with a sentence that names the reason, and without a trace in
 * the database or in what the caller handed out. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/care.h"
#include "sdb/changes.h"
#include "sdb/sdb.h"
#include "sdb/storage.h"

enum { LIMIT = 100000 };

static sdb_storage *memory;
static sdb *db;
static uint8_t bytes[LIMIT + 1], too_long[SDB_MAX_PATH + 1];

static void set_up(void) {
  sdb_options o;
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  sdb_options_init(&o);
  o.storage = memory;
  o.threads = false;
  o.max_document_size = LIMIT;
  ck_assert_int_eq(sdb_open("a.sdb", &o, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/a", 2, "abc", 3, NULL, NULL), SDB_OK);
}

/* Nothing of what was refused is there. */
static void tear_down(void) {
  sdb_stats s = {.size = sizeof s};
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  ck_assert_uint_eq(s.documents, 1);
  ck_assert_uint_eq(s.pins, 0);
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}

static void refused(int code, int expected, const char *word) {
  char text[256];
  sdb_message(db, text, sizeof text);
  ck_assert_msg(code == expected, "answered %d, not %d: %s", code, expected, text);
  ck_assert_msg(strstr(text, word) != NULL, "the sentence '%s' does not say '%s'", text, word);
}

/* --- Codes -------------------------------------------------------------------------------------------------------------------- */

START_TEST(every_code_has_a_sentence_of_its_own) {
  static const int codes[] = {
#define SDB_X(name, value, text) value,
      SDB_ERRORS(SDB_X)
#undef SDB_X
  };
  enum { CODES = sizeof codes / sizeof *codes };
  for (size_t i = 0; i < CODES; i++) {
    ck_assert_uint_gt(strlen(sdb_strerror(codes[i])), 3);
    for (size_t k = 0; k < i; k++) {
      ck_assert_int_ne(codes[i], codes[k]);
      ck_assert_str_ne(sdb_strerror(codes[i]), sdb_strerror(codes[k]));
    }
    ck_assert_str_ne(sdb_strerror(codes[i]), sdb_strerror(12345));
  }
}
END_TEST

START_TEST(a_message_is_cut_to_its_place) {
  char text[8] = "xxxxxxx";
  ck_assert_int_eq(sdb_wait(db, 1000), SDB_INVALID);
  sdb_message(db, text, 0);
  ck_assert_str_eq(text, "xxxxxxx");
  sdb_message(db, text, 5);
  ck_assert_str_eq(text, "comm");
}
END_TEST

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

static void expect_refused(sdb_options *o, const char *word) {
  char message[256] = "";
  sdb *none = (sdb *)memory;
  o->storage = o->storage ? o->storage : memory;
  o->message = message;
  o->message_size = sizeof message;
  ck_assert_int_eq(sdb_open("b.sdb", o, &none), SDB_INVALID);
  ck_assert_ptr_eq(none, memory);
  ck_assert_msg(strstr(message, word) != NULL, "the sentence '%s' does not say '%s'", message, word);
  o->message = NULL;
  ck_assert_int_eq(sdb_open("b.sdb", o, &none), SDB_INVALID);
  sdb_options_init(o);
}

START_TEST(options_out_of_their_range) {
  static const uint8_t key[SDB_KEY_SIZE] = "k";
  static const uint32_t page_sizes[] = {0, 2048, 5000, 8193, 131072}, segments[] = {0, 61440, 65536 + 512, (1u << 30) + 4096};
  sdb_options o;
  sdb_options_init(&o);
  for (size_t i = 0; i < sizeof page_sizes / sizeof *page_sizes; i++) o.page_size = page_sizes[i], expect_refused(&o, "page_size");
  for (size_t i = 0; i < sizeof segments / sizeof *segments; i++)
    o.wal_segment_size = segments[i], expect_refused(&o, "wal_segment_size");
  o.page_size = 32768, o.wal_segment_size = 65536, expect_refused(&o, "four times page_size");
  o.page_cache_size = 63, expect_refused(&o, "page_cache_size");
  o.versions_to_keep = 0, expect_refused(&o, "versions_to_keep");
  o.versions_to_keep = 256, expect_refused(&o, "versions_to_keep");
  o.max_document_size = SDB_MAX_DOCUMENT + 1ull, expect_refused(&o, "max_document_size");
  o.encryption_key = o.recovery_key = key, expect_refused(&o, "exclude");
  o.cipher = (sdb_cipher)(SDB_CIPHER_AES_GCM + 1), expect_refused(&o, "cipher");
  o.durability = (sdb_durability)(SDB_NONE + 1), expect_refused(&o, "durability");
  o.worker_threads = 65, expect_refused(&o, "worker_threads");
  ck_assert_int_eq(sdb_open("", &o, &(sdb *){NULL}), SDB_INVALID);
  ck_assert_int_eq(sdb_open(NULL, &o, &(sdb *){NULL}), SDB_INVALID);
  ck_assert_int_eq(sdb_open("b.sdb", &o, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_open("", NULL, &(sdb *){NULL}), SDB_INVALID);
}
END_TEST

/* Of options of another edition not even the place for the sentence is where this one has it. */
START_TEST(options_of_another_edition) {
  char message[16] = "untouched";
  sdb *none;
  sdb_options o;
  sdb_options_init(&o);
  o.size--;
  o.message = message;
  o.message_size = sizeof message;
  ck_assert_int_eq(sdb_open("b.sdb", &o, &none), SDB_INVALID);
  ck_assert_str_eq(message, "untouched");
}
END_TEST

/* A log without its data file is a database that lost its head: a new one in its place would end what is left of it. */
START_TEST(a_database_is_not_made_beside_the_log_of_another) {
  char message[256];
  sdb *none;
  sdb_file *file;
  sdb_options o;
  sdb_options_init(&o);
  o.storage = memory;
  o.message = message;
  o.message_size = sizeof message;
  ck_assert_int_eq(memory->open(memory->ctx, "b.sdb.log.0000", SDB_OPEN_CREATE, &file), SDB_OK);
  memory->close(file);
  ck_assert_int_eq(sdb_open("b.sdb", &o, &none), SDB_MISMATCH);
  ck_assert_ptr_nonnull(strstr(message, "b.sdb.log.0000"));
  ck_assert_int_eq(memory->open(memory->ctx, "b.sdb", SDB_OPEN_READ, &file), SDB_NOT_FOUND);
}
END_TEST

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

START_TEST(paths_that_are_none) {
  static const struct {
    const void *path;
    size_t len;
  } wrong[] = {{"", 0}, {NULL, 0}, {NULL, 5}, {too_long, sizeof too_long}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    const void *p = wrong[i].path;
    size_t len = wrong[i].len, size = 77;
    sdb_info info;
    sdb_attributes attributes;
    sdb_reader *reader;
    sdb_writer *writer;
    void *data = NULL;
    uint8_t id[16];
    ck_assert_int_eq(sdb_put(db, p, len, "x", 1, NULL, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_delete(db, p, len, NULL, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_get(db, p, len, SDB_CURRENT, bytes, sizeof bytes, &size, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_get_alloc(db, p, len, SDB_CURRENT, &data, &size, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_get_range(db, p, len, SDB_CURRENT, 0, bytes, 1, &size, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_stat(db, p, len, SDB_CURRENT, &info), SDB_INVALID);
    ck_assert_int_eq(sdb_versions(db, p, len, &info, 1, &size), SDB_INVALID);
    ck_assert_int_eq(sdb_get_attributes(db, p, len, SDB_CURRENT, &attributes), SDB_INVALID);
    ck_assert_int_eq(sdb_reader_open(db, p, len, SDB_CURRENT, &reader), SDB_INVALID);
    ck_assert_int_eq(sdb_writer_open(db, p, len, SDB_UNKNOWN_SIZE, NULL, &writer), SDB_INVALID);
    ck_assert_int_eq(sdb_restore_version(db, p, len, 1, NULL, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_bind(db, p, len, "/b", 2, NULL, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_bind(db, "/a", 2, p, len, NULL, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_unbind(db, p, len, NULL, NULL), SDB_INVALID);
    ck_assert_int_eq(sdb_id_of(db, p, len, id), SDB_INVALID);
    ck_assert_uint_eq(size, 77);
    ck_assert_ptr_null(data);
  }
}
END_TEST

START_TEST(put_options_out_of_their_range) {
  sdb_put_options o;
  char type[SDB_MAX_CONTENT_TYPE + 2];
  memset(type, 't', sizeof type);
  type[SDB_MAX_CONTENT_TYPE + 1] = '\0';
  sdb_put_options_init(&o);
  o.size++;
  refused(sdb_put(db, "/b", 2, "x", 1, &o, NULL), SDB_INVALID, "sdb_put_options_init");
  refused(sdb_delete(db, "/a", 2, &o, NULL), SDB_INVALID, "sdb_put_options_init");
  refused(sdb_unbind(db, "/a", 2, &o, NULL), SDB_INVALID, "sdb_put_options_init");
  refused(sdb_restore_version(db, "/a", 2, 1, &o, NULL), SDB_INVALID, "sdb_put_options_init");
  sdb_put_options_init(&o);
  o.durability = (sdb_durability)(SDB_NONE + 1);
  refused(sdb_put(db, "/b", 2, "x", 1, &o, NULL), SDB_INVALID, "sdb_put_options_init");
  sdb_put_options_init(&o);
  o.content_type = type;
  refused(sdb_put(db, "/b", 2, "x", 1, &o, NULL), SDB_INVALID, "content type");
  sdb_put_options_init(&o);
  o.metadata = bytes, o.metadata_len = SDB_MAX_METADATA + 1;
  refused(sdb_put(db, "/b", 2, "x", 1, &o, NULL), SDB_INVALID, "metadata");
  o.metadata = NULL, o.metadata_len = 1;
  refused(sdb_put(db, "/b", 2, "x", 1, &o, NULL), SDB_INVALID, "metadata");
}
END_TEST

START_TEST(contents_that_are_none_or_too_much) {
  size_t size;
  sdb_commit commit = {.sequence = 5};
  refused(sdb_put(db, "/b", 2, NULL, 1, NULL, &commit), SDB_INVALID, "no data");
  refused(sdb_put(db, "/b", 2, bytes, LIMIT + 1, NULL, &commit), SDB_TOO_LARGE, "100000 allowed");
  ck_assert_uint_eq(commit.sequence, 5);
  ck_assert_int_eq(sdb_get(db, "/a", 2, SDB_CURRENT, NULL, 100, &size, NULL), SDB_SMALL_BUFFER);
  ck_assert_uint_eq(size, 3);
  ck_assert_int_eq(sdb_get(db, "/a", 2, SDB_CURRENT, bytes, 2, NULL, NULL), SDB_SMALL_BUFFER);
  ck_assert_int_eq(sdb_get(db, "/a", 2, SDB_CURRENT, bytes, 3, NULL, NULL), SDB_OK);
}
END_TEST

START_TEST(ids_that_are_none) {
  uint8_t id[16];
  sdb_path *paths;
  size_t count;
  ck_assert_int_eq(sdb_id_of(db, "/a", 2, id), SDB_OK);
  refused(sdb_delete_id(db, NULL, NULL, NULL), SDB_INVALID, "id");
  refused(sdb_paths_of(db, NULL, &paths, &count), SDB_INVALID, "id");
  refused(sdb_paths_of(db, id, NULL, &count), SDB_INVALID, "id");
  refused(sdb_paths_of(db, id, &paths, NULL), SDB_INVALID, "id");
  id[15] ^= 1;
  ck_assert_int_eq(sdb_paths_of(db, id, &paths, &count), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_delete_id(db, id, NULL, NULL), SDB_NOT_FOUND);
  memset(id, 0xFF, sizeof id);
  ck_assert_int_eq(sdb_paths_of(db, id, &paths, &count), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_delete_id(db, id, NULL, NULL), SDB_NOT_FOUND);
}
END_TEST

START_TEST(keys_where_there_is_none) {
  uint8_t key[SDB_KEY_SIZE] = {0};
  refused(sdb_change_key(db, NULL), SDB_INVALID, "no key");
  refused(sdb_key_export(db, NULL), SDB_INVALID, "no place");
  refused(sdb_change_key(db, key), SDB_INVALID, "not encrypted");
  refused(sdb_key_export(db, key), SDB_INVALID, "not encrypted");
}
END_TEST

/* --- Streams ------------------------------------------------------------------------------------------------------------------ */

static sdb_writer *writer_of(uint64_t size) {
  sdb_writer *w;
  ck_assert_int_eq(sdb_writer_open(db, "/w", 2, size, NULL, &w), SDB_OK);
  return w;
}

/* A writer that was told something wrong stays wrong: what would be committed is not what the caller meant. */
START_TEST(writers_that_are_told_something_else) {
  sdb_writer *w;
  refused(sdb_writer_open(db, "/w", 2, LIMIT + 1, NULL, &w), SDB_TOO_LARGE, "100000 allowed");
  for (int i = 0; i < 2; i++) {
    uint64_t size = i == 0 ? 10 : 90000; /* in memory; in the data file */
    w = writer_of(size);
    ck_assert_int_eq(sdb_writer_write(w, bytes, 5), SDB_OK);
    refused(sdb_writer_write(w, bytes, size - 4), SDB_INVALID, "announced");
    ck_assert_int_eq(sdb_writer_write(w, bytes, size - 5), SDB_INVALID);
    ck_assert_int_eq(sdb_writer_commit(w, NULL), SDB_INVALID);
    w = writer_of(size);
    ck_assert_int_eq(sdb_writer_write(w, bytes, size - 1), SDB_OK);
    refused(sdb_writer_commit(w, NULL), SDB_INVALID, "were announced");
  }
  w = writer_of(SDB_UNKNOWN_SIZE);
  ck_assert_int_eq(sdb_writer_write(w, bytes, LIMIT), SDB_OK);
  refused(sdb_writer_write(w, bytes, 1), SDB_TOO_LARGE, "100000 bytes allowed");
  ck_assert_int_eq(sdb_writer_commit(w, NULL), SDB_TOO_LARGE);
  w = writer_of(SDB_UNKNOWN_SIZE);
  refused(sdb_writer_write(w, NULL, 1), SDB_INVALID, "no data");
  sdb_writer_abort(w);
  sdb_writer_abort(NULL);
}
END_TEST

START_TEST(a_reader_stays_inside) {
  sdb_reader *r;
  char buf[8];
  size_t got;
  ck_assert_int_eq(sdb_reader_open(db, "/a", 2, SDB_CURRENT, &r), SDB_OK);
  refused(sdb_reader_seek(r, 4), SDB_INVALID, "beyond");
  ck_assert_int_eq(sdb_reader_read(r, buf, sizeof buf, &got), SDB_OK);
  ck_assert_uint_eq(got, 3);
  ck_assert_int_eq(sdb_reader_seek(r, 3), SDB_OK);
  ck_assert_int_eq(sdb_reader_read(r, buf, sizeof buf, &got), SDB_OK);
  ck_assert_uint_eq(got, 0);
  sdb_reader_close(r);
  sdb_reader_close(NULL);
}
END_TEST

/* --- Batches ------------------------------------------------------------------------------------------------------------------ */

START_TEST(operations_that_a_batch_does_not_take) {
  sdb_batch *b;
  sdb_put_options o;
  sdb *other;
  sdb_writer *w;
  sdb_options options;
  sdb_put_options_init(&o);
  sdb_options_init(&options);
  options.storage = memory;
  options.threads = false;
  ck_assert_int_eq(sdb_batch_open(db, &b), SDB_OK);
  refused(sdb_batch_put(b, "", 0, "x", 1, NULL), SDB_INVALID, "path");
  refused(sdb_batch_put(b, "/b", 2, NULL, 1, NULL), SDB_INVALID, "no data");
  refused(sdb_batch_put(b, "/b", 2, bytes, LIMIT + 1, NULL), SDB_TOO_LARGE, "100000 allowed");
  refused(sdb_batch_bind(b, "/a", 2, NULL, 0, SDB_ANY), SDB_INVALID, "name");
  refused(sdb_batch_bind(b, "/a", 2, "", 0, SDB_ANY), SDB_INVALID, "path");
  refused(sdb_batch_delete(b, too_long, sizeof too_long, SDB_ANY), SDB_INVALID, "path");
  refused(sdb_batch_unbind(b, NULL, 0, SDB_ANY), SDB_INVALID, "path");
  refused(sdb_batch_expect(b, NULL, 2, 1), SDB_INVALID, "path");

  ck_assert_int_eq(sdb_open("other.sdb", &options, &other), SDB_OK);
  ck_assert_int_eq(sdb_writer_open(other, "/w", 2, SDB_UNKNOWN_SIZE, NULL, &w), SDB_OK);
  refused(sdb_batch_put_writer(b, w), SDB_INVALID, "another database");
  ck_assert_int_eq(sdb_close(other), SDB_OK);
  w = writer_of(10);
  refused(sdb_batch_put_writer(b, w), SDB_INVALID, "announced");
  ck_assert_uint_eq(sdb_batch_count(b), 0);

  size_t failed = 9;
  ck_assert_int_eq(sdb_batch_delete(b, "/a", 2, SDB_ANY), SDB_OK);
  o.size--;
  refused(sdb_batch_commit(b, &o, NULL, 0, &failed), SDB_INVALID, "sdb_put_options_init");
  ck_assert_uint_eq(failed, 1);
  sdb_batch_abort(NULL);
}
END_TEST

START_TEST(a_batch_has_so_many_operations_and_no_more) {
  enum { MOST = 32768 };
  sdb_batch *b;
  sdb_batch_result one;
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.defer = true;
  ck_assert_int_eq(sdb_batch_open(db, &b), SDB_OK);
  for (int i = 0; i < MOST; i++) ck_assert_int_eq(sdb_batch_expect(b, "/a", 2, 1), SDB_OK);
  refused(sdb_batch_expect(b, "/a", 2, 1), SDB_TOO_LARGE, "at most 32768");
  refused(sdb_batch_put(b, "/b", 2, "x", 1, NULL), SDB_TOO_LARGE, "at most 32768");
  refused(sdb_batch_put_writer(b, writer_of(SDB_UNKNOWN_SIZE)), SDB_TOO_LARGE, "at most 32768");
  ck_assert_uint_eq(sdb_batch_count(b), MOST);
  ck_assert_int_eq(sdb_batch_commit(b, &o, &one, 1, NULL), SDB_OK);
  ck_assert_int_eq(one.code, SDB_OK);
}
END_TEST

/* --- Searches, changes, statistics -------------------------------------------------------------------------------------------- */

START_TEST(search_options_out_of_their_range) {
  sdb_cursor_options o, good;
  sdb_cursor *c;
  sdb_cursor_options_init(&good);
  for (int i = 0; i < 8; i++) {
    o = good;
    switch (i) {
      case 0: o.size++; break;
      case 1: o.order = (sdb_order)(SDB_ORDER_SUFFIX + 1); break;
      case 2: o.prefix_len = 1; break;
      case 3: o.suffix_len = 1; break;
      case 4: o.after_len = 1; break;
      case 5: o.prefix = too_long, o.prefix_len = sizeof too_long; break;
      case 6: o.suffix = too_long, o.suffix_len = sizeof too_long; break;
      default: o.after = too_long, o.after_len = sizeof too_long;
    }
    refused(sdb_cursor_open(db, &o, &c), SDB_INVALID, i < 2 ? "sdb_cursor_options_init" : "at most");
  }
  sdb_cursor_close(NULL);
  sdb_snapshot_close(NULL);
}
END_TEST

START_TEST(reports_of_another_edition) {
  sdb_stats s = {.size = sizeof s - 1};
  sdb_check_report check = {.size = sizeof check + 1};
  sdb_copy_options o;
  sdb_copy_report copied = {.size = 1};
  sdb_verify_report verified = {.size = 1};
  sdb_repair_report repaired = {.size = 1};
  sdb_options options;
  sdb_options_init(&options);
  options.storage = memory;
  sdb_copy_options_init(&o);
  refused(sdb_get_stats(db, &s), SDB_INVALID, "sdb_stats.size");
  refused(sdb_get_stats(db, NULL), SDB_INVALID, "sdb_stats.size");
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &check), SDB_INVALID);
  ck_assert_int_eq(sdb_check(db, NULL, NULL, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_backup(db, "copy.sdb", NULL, &copied), SDB_INVALID);
  o.size++;
  ck_assert_int_eq(sdb_backup(db, "copy.sdb", &o, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_restore("copy.sdb", "new.sdb", &o, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_verify("copy.sdb", &options, NULL, NULL, &verified), SDB_INVALID);
  ck_assert_int_eq(sdb_repair("copy.sdb", "new.sdb", &options, NULL, NULL, &repaired), SDB_INVALID);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("arguments");
  tcase_add_checked_fixture(t, set_up, tear_down);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, every_code_has_a_sentence_of_its_own);
  tcase_add_test(t, a_message_is_cut_to_its_place);
  tcase_add_test(t, options_out_of_their_range);
  tcase_add_test(t, options_of_another_edition);
  tcase_add_test(t, a_database_is_not_made_beside_the_log_of_another);
  tcase_add_test(t, paths_that_are_none);
  tcase_add_test(t, put_options_out_of_their_range);
  tcase_add_test(t, contents_that_are_none_or_too_much);
  tcase_add_test(t, ids_that_are_none);
  tcase_add_test(t, keys_where_there_is_none);
  tcase_add_test(t, writers_that_are_told_something_else);
  tcase_add_test(t, a_reader_stays_inside);
  tcase_add_test(t, operations_that_a_batch_does_not_take);
  tcase_add_test(t, a_batch_has_so_many_operations_and_no_more);
  tcase_add_test(t, search_options_out_of_their_range);
  tcase_add_test(t, reports_of_another_edition);
  Suite *s = suite_create("arguments");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
