/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_model.c - long random work without faults, on every storage, compared with the model; and the borders of sizes and paths. */
#include <check.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "seed.h"
#include "workload.h"

static char directory[64];
static sdb_storage *memory;

static void into_directory(void) {
  snprintf(directory, sizeof directory, "%s", "/tmp/sdb-model-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(directory));
  ck_assert_int_eq(chdir(directory), 0);
}

static void out_of_directory(void) {
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}

/* --- Random work -------------------------------------------------------------------------------------------------------------- */

enum { ON_DEVICE, ON_MEMORY, ON_FILES, ON_FILES_MAPPED, ON_FILES_THREADED, STORAGES };

/* Files whose syncs are mostly left out: nothing crashes here, and a busy device would take minutes over them. */
static sdb_storage files;
static atomic_uint syncs;

static bool is_left_out(void) { return atomic_fetch_add(&syncs, 1) % 50 != 0; }
static int sync_file(sdb_file *file) { return is_left_out() ? SDB_OK : sdb_storage_file()->sync(file); }
static int sync_dir(void *ctx, const char *name) { return is_left_out() ? SDB_OK : sdb_storage_file()->sync_dir(ctx, name); }

static void choose_storage(workload *w, int which) {
  if (which == ON_DEVICE) return;
  files = *sdb_storage_file();
  files.sync = sync_file;
  files.sync_dir = sync_dir;
  w->options.storage = which == ON_MEMORY ? memory : &files;
  w->options.use_mmap = which >= ON_FILES_MAPPED;
  w->options.threads = which == ON_FILES_THREADED;
}

static void must_hold(bool good, const workload *w, uint64_t seed, int storage) {
  ck_assert_msg(good, "seed %" PRIu64 ", storage %d, %s: %s", seed, storage, w->doing, w->why);
}

static void work_long(uint64_t seed, int storage, unsigned paths, unsigned rounds, unsigned operations) {
  into_directory();
  sim *device = storage == ON_DEVICE ? sim_new(seed) : NULL;
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  workload w;
  workload_init(&w, seed, device);
  choose_storage(&w, storage);
  w.paths = paths;
  if (paths > 100) w.large_limit = 500;
  if (storage >= ON_FILES) operations /= 4; /* real files take their time */
  must_hold(workload_open(&w), &w, seed, storage);
  for (unsigned i = 0; i < rounds; i++) {
    must_hold(workload_run(&w, operations), &w, seed, storage);
    must_hold(workload_verify(&w), &w, seed, storage);
  }
  must_hold(workload_close(&w), &w, seed, storage);
  must_hold(workload_open(&w) && workload_verify(&w) && workload_close(&w), &w, seed, storage);
  workload_clear(&w);
  sdb_storage_memory_free(memory);
  sim_free(device);
  out_of_directory();
}

START_TEST(test_random_work) {
  uint64_t first, count = seed_range("random work", 4, &first);
  for (uint64_t seed = first; seed < first + count; seed++) work_long(seed, _i, 5 + (unsigned)(seed % 40), 4, 150);
}
END_TEST

START_TEST(test_many_paths) {
  uint64_t first, count = seed_range("many paths", 2, &first);
  for (uint64_t seed = first; seed < first + count; seed++) work_long(seed, _i, 3000, 3, 2500);
}
END_TEST

/* --- Borders ------------------------------------------------------------------------------------------------------------------ */

static void put_and_compare(workload *w, uint32_t size) {
  uint8_t path[SDB_MAX_PATH];
  size_t path_len = workload_path(size % 8 + 1, path);
  uint8_t *data = malloc(size + 1u);
  ck_assert_ptr_nonnull(data);
  model_content(size, 0, data, size);
  sdb_commit commit;
  ck_assert_int_eq(sdb_put(w->db, path, path_len, size == 0 ? NULL : data, size, NULL, &commit), SDB_OK);
  ck_assert_msg(model_put(w->model, path, path_len, size, size, &commit), "%s", model_why(w->model));
  ck_assert_msg(model_equals_at(w->model, w->db, path, path_len), "size %u: %s", size, model_why(w->model));
  sdb_writer *writer;
  ck_assert_int_eq(sdb_writer_open(w->db, path, path_len, size % 2 == 0 ? size : SDB_UNKNOWN_SIZE, NULL, &writer), SDB_OK);
  ck_assert_int_eq(sdb_writer_write(writer, data, size), SDB_OK);
  ck_assert_int_eq(sdb_writer_commit(writer, &commit), SDB_OK);
  ck_assert_msg(model_put(w->model, path, path_len, size, size, &commit), "%s", model_why(w->model));
  ck_assert_msg(model_equals_at(w->model, w->db, path, path_len), "size %u, streamed: %s", size, model_why(w->model));
  free(data);
}

START_TEST(test_sizes_at_borders) {
  memory = sdb_storage_memory_new();
  workload w;
  workload_init(&w, 1, NULL);
  w.options.storage = memory;
  w.options.page_size = 4096u << _i;
  w.options.wal_segment_size = 1 << 20;
  ck_assert_msg(workload_open(&w), "%s", w.why);
  uint32_t page = w.options.page_size;
  const uint32_t borders[] = {1, page / 2, page - 64, page, 2 * page, 32768, SDB_CHUNK, 2 * SDB_CHUNK, 16 * SDB_CHUNK};
  for (size_t i = 0; i < sizeof borders / sizeof *borders; i++) {
    for (uint32_t size = borders[i] - 1; size <= borders[i] + 1; size++) put_and_compare(&w, size);
  }
  /* Where a record stops fitting: every size around half a page, whatever else the record holds. */
  for (uint32_t size = page / 2 - 150; size < page / 2 + 10; size += 3) put_and_compare(&w, size);
  ck_assert_msg(workload_verify(&w), "%s", w.why);
  ck_assert_msg(workload_close(&w), "%s", w.why);
  ck_assert_msg(workload_open(&w) && workload_verify(&w), "%s", w.why);
  workload_clear(&w);
  sdb_storage_memory_free(memory);
}
END_TEST

START_TEST(test_refused) {
  memory = sdb_storage_memory_new();
  workload w;
  workload_init(&w, 1, NULL);
  w.options.storage = memory;
  w.options.max_document_size = 1000;
  ck_assert_msg(workload_open(&w), "%s", w.why);
  uint8_t path[SDB_MAX_PATH + 1], data[1001] = {0};
  memset(path, 'p', sizeof path);
  sdb_info info;
  ck_assert_int_eq(sdb_put(w.db, path, 0, data, 1, NULL, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_put(w.db, path, sizeof path, data, 1, NULL, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_put(w.db, NULL, 5, data, 1, NULL, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_put(w.db, path, 5, NULL, 1, NULL, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_stat(w.db, path, 0, SDB_CURRENT, &info), SDB_INVALID);
  ck_assert_int_eq(sdb_stat(w.db, path, sizeof path, SDB_CURRENT, &info), SDB_INVALID);
  ck_assert_int_eq(sdb_put(w.db, path, 5, data, sizeof data, NULL, NULL), SDB_TOO_LARGE);
  sdb_writer *writer;
  ck_assert_int_eq(sdb_writer_open(w.db, path, 5, sizeof data, NULL, &writer), SDB_TOO_LARGE);
  ck_assert_int_eq(sdb_writer_open(w.db, path, 5, SDB_UNKNOWN_SIZE, NULL, &writer), SDB_OK);
  ck_assert_int_eq(sdb_writer_write(writer, data, 1000), SDB_OK);
  ck_assert_int_eq(sdb_writer_write(writer, data, 1), SDB_TOO_LARGE);
  sdb_writer_abort(writer);
  ck_assert_int_eq(sdb_writer_open(w.db, path, 5, 10, NULL, &writer), SDB_OK);
  ck_assert_int_eq(sdb_writer_write(writer, data, 9), SDB_OK);
  ck_assert_int_eq(sdb_writer_commit(writer, NULL), SDB_INVALID); /* not the size that was announced */
  ck_assert_msg(workload_verify(&w), "%s", w.why);
  workload_clear(&w);
  sdb_storage_memory_free(memory);
}
END_TEST

/* 256 MB through a writer and a reader; a byte more is refused. */
START_TEST(test_largest_document) {
  into_directory();
  workload w;
  workload_init(&w, 1, NULL);
  w.options.wal_segment_size = 1 << 20;
  ck_assert_msg(workload_open(&w), "%s", w.why);
  enum { PIECE = 1 << 20 };
  static uint8_t piece[PIECE], got_piece[PIECE];
  sdb_writer *writer;
  ck_assert_int_eq(sdb_writer_open(w.db, "a", 1, SDB_UNKNOWN_SIZE, NULL, &writer), SDB_OK);
  for (uint64_t offset = 0; offset < SDB_MAX_DOCUMENT; offset += PIECE) {
    model_content(7, offset, piece, PIECE);
    ck_assert_int_eq(sdb_writer_write(writer, piece, PIECE), SDB_OK);
  }
  ck_assert_int_eq(sdb_writer_commit(writer, NULL), SDB_OK);
  sdb_reader *reader;
  ck_assert_int_eq(sdb_reader_open(w.db, "a", 1, SDB_CURRENT, &reader), SDB_OK);
  ck_assert_uint_eq(sdb_reader_info(reader)->size, SDB_MAX_DOCUMENT);
  for (uint64_t offset = 0; offset < SDB_MAX_DOCUMENT;) {
    size_t got;
    ck_assert_int_eq(sdb_reader_read(reader, got_piece, PIECE, &got), SDB_OK);
    ck_assert_uint_gt(got, 0);
    model_content(7, offset, piece, got);
    ck_assert(memcmp(got_piece, piece, got) == 0);
    offset += got;
  }
  sdb_reader_close(reader);
  ck_assert_int_eq(sdb_writer_open(w.db, "b", 1, SDB_MAX_DOCUMENT + 1ull, NULL, &writer), SDB_TOO_LARGE);
  ck_assert_int_eq(sdb_put(w.db, "b", 1, piece, SDB_MAX_DOCUMENT + 1ull, NULL, NULL), SDB_TOO_LARGE);
  workload_clear(&w);
  out_of_directory();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("model");
  TCase *random = tcase_create("random");
  tcase_set_timeout(random, 0);
  tcase_add_loop_test(random, test_random_work, 0, STORAGES);
  tcase_add_loop_test(random, test_many_paths, 0, STORAGES);
  suite_add_tcase(suite, random);
  TCase *borders = tcase_create("borders");
  tcase_set_timeout(borders, 300);
  tcase_add_loop_test(borders, test_sizes_at_borders, 0, 5);
  tcase_add_test(borders, test_refused);
  tcase_add_test(borders, test_largest_document);
  suite_add_tcase(suite, borders);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
