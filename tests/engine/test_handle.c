/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_handle.c - what a handle stands for: one process, one file, one storage table.
 *
 * A child process that inherits a handle must not do harm with it; a second handle on the file is refused; tables of other editions
 * are taken or refused as sdb/storage.h says.
 */
#include <check.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sdb/care.h"
#include "sdb/changes.h"
#include "sdb/sdb.h"
#include "sdb/storage.h"
#include "simulated.h"

static char directory[64];

static void setup(void) {
  snprintf(directory, sizeof directory, "%s", "/tmp/sdb-handle-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(directory));
  ck_assert_int_eq(chdir(directory), 0);
}

static void teardown(void) {
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}

static int open_with(const char *name, const sdb_storage *storage, bool read_only, sdb **db) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = storage;
  o.read_only = read_only;
  return sdb_open(name, &o, db);
}

/* --- fork() ------------------------------------------------------------------------------------------------------------------- */

typedef struct inherited {
  sdb *db;
  sdb_cursor *cursor;
  sdb_reader *reader;
  sdb_writer *writer;
  sdb_snapshot *snapshot;
  sdb_batch *batch;
  sdb_changes *feed;
} inherited;

static unsigned warnings;

static void count_warning(void *user, const char *sentence) {
  (void)user, (void)sentence;
  warnings++;
}

static void never(void *user, int code, void *data, size_t size, const sdb_info *info) {
  (void)user, (void)code, (void)data, (void)size, (void)info;
  abort();
}

/* The calls of snapshots, batches, readers and feeds that have no twin in try_all(). */
static int try_parts(const inherited *h) {
  void *data;
  size_t n;
  sdb_info info;
  sdb_attributes attributes;
  char buf[8];
  sdb_position position = {0};
  sdb_changes *feed;
  sdb_change change;
  sdb_reader_info(h->reader);
  sdb_batch_count(h->batch);
  sdb_snapshot_sequence(h->snapshot);
  sdb_changes_position(h->feed, &position);
  const int answers[] = {sdb_reader_seek(h->reader, 0),
                         sdb_reader_seek(h->reader, UINT64_MAX),
                         sdb_batch_bind(h->batch, "a", 1, "n", 1, SDB_ANY),
                         sdb_batch_bind(h->batch, "a", 1, NULL, 0, SDB_ANY),
                         sdb_batch_unbind(h->batch, "n", 1, SDB_ANY),
                         sdb_batch_expect(h->batch, "a", 1, 1),
                         sdb_batch_put_writer(h->batch, h->writer),
                         sdb_snapshot_get_alloc(h->snapshot, "a", 1, SDB_CURRENT, &data, &n, NULL),
                         sdb_snapshot_get_range(h->snapshot, "a", 1, SDB_CURRENT, 0, buf, 1, &n, NULL),
                         sdb_snapshot_versions(h->snapshot, "a", 1, &info, 1, &n),
                         sdb_snapshot_get_attributes(h->snapshot, "a", 1, SDB_CURRENT, &attributes),
                         sdb_scrub(h->db),
                         sdb_changes_range(h->db, &position, &position),
                         sdb_changes_open(h->db, &position, NULL, 0, &feed),
                         sdb_changes_next(h->feed, &change),
                         sdb_changes_wait(h->feed, 1000)};
  for (int i = 0; i < (int)(sizeof answers / sizeof *answers); i++) {
    if (answers[i] != SDB_FORKED) return 50 + i + 1;
  }
  sdb_set_quick_mode(h->db, true); /* does nothing, so tells nobody */
  sdb_changes_close(h->feed);
  return warnings == 0 ? 0 : 99;
}

/* The number of the first call that does not answer SDB_FORKED; 0: all do. */
static int try_all(const inherited *h) {
  sdb *db = h->db;
  char buf[64];
  void *data;
  size_t n;
  bool more;
  sdb_info info;
  sdb_entry entry;
  sdb_cursor *cursor;
  sdb_reader *reader;
  sdb_writer *writer;
  sdb_snapshot *snapshot;
  sdb_batch *batch;
  sdb_attributes attributes;
  sdb_path *paths;
  uint8_t id[16] = {0};
  sdb_stats stats = {.size = sizeof stats};
  sdb_check_report report = {.size = sizeof report};
  const int answers[] = {sdb_put(db, "a", 1, "x", 1, NULL, NULL),
                         sdb_delete(db, "a", 1, NULL, NULL),
                         sdb_get(db, "a", 1, SDB_CURRENT, buf, sizeof buf, &n, NULL),
                         sdb_get_alloc(db, "a", 1, SDB_CURRENT, &data, &n, NULL),
                         sdb_get_range(db, "a", 1, SDB_CURRENT, 0, buf, 1, &n, NULL),
                         sdb_stat(db, "a", 1, SDB_CURRENT, &info),
                         sdb_versions(db, "a", 1, &info, 1, &n),
                         sdb_get_async(db, "a", 1, SDB_CURRENT, never, NULL, NULL),
                         sdb_async_cancel(db, 1),
                         sdb_cursor_open(db, NULL, &cursor),
                         sdb_cursor_next(h->cursor, &entry),
                         sdb_reader_open(db, "a", 1, SDB_CURRENT, &reader),
                         sdb_reader_read(h->reader, buf, 1, &n),
                         sdb_writer_open(db, "a", 1, SDB_UNKNOWN_SIZE, NULL, &writer),
                         sdb_writer_write(h->writer, "x", 1),
                         sdb_writer_commit(h->writer, NULL),
                         sdb_wait(db, 1),
                         sdb_flush(db),
                         sdb_checkpoint(db),
                         sdb_step(db, 1, &more),
                         sdb_get_stats(db, &stats),
                         sdb_check(db, NULL, NULL, &report),
                         sdb_backup(db, "copy.sdb", NULL, NULL),
                         sdb_get_attributes(db, "a", 1, SDB_CURRENT, &attributes),
                         sdb_delete_id(db, id, NULL, NULL),
                         sdb_bind(db, "a", 1, "n", 1, NULL, NULL),
                         sdb_unbind(db, "n", 1, NULL, NULL),
                         sdb_id_of(db, "a", 1, id),
                         sdb_paths_of(db, id, &paths, &n),
                         sdb_restore_version(db, "a", 1, 1, NULL, NULL),
                         sdb_change_key(db, id),
                         sdb_key_export(db, id),
                         sdb_batch_open(db, &batch),
                         sdb_batch_put(h->batch, "a", 1, "x", 1, NULL),
                         sdb_batch_delete(h->batch, "a", 1, SDB_ANY),
                         sdb_batch_commit(h->batch, NULL, NULL, 0, NULL),
                         sdb_snapshot_open(db, &snapshot),
                         sdb_snapshot_get(h->snapshot, "a", 1, SDB_CURRENT, buf, sizeof buf, &n, NULL),
                         sdb_snapshot_stat(h->snapshot, "a", 1, SDB_CURRENT, &info),
                         sdb_snapshot_paths_of(h->snapshot, id, &paths, &n),
                         sdb_snapshot_cursor_open(h->snapshot, NULL, &cursor),
                         sdb_snapshot_reader_open(h->snapshot, "a", 1, SDB_CURRENT, &reader)};
  int parts = try_parts(h);
  if (parts != 0) return parts;
  sdb_cursor_close(h->cursor);
  sdb_reader_close(h->reader);
  sdb_writer_abort(h->writer);
  sdb_snapshot_close(h->snapshot);
  for (int i = 0; i < (int)(sizeof answers / sizeof *answers); i++) {
    if (answers[i] != SDB_FORKED) return i + 1;
  }
  sdb_message(db, buf, sizeof buf);
  if (strncmp(buf, sdb_strerror(SDB_FORKED), 20) != 0) return 100;
  return sdb_close(db) == SDB_FORKED ? 0 : 101;
}

static void start(inherited *h) {
  sdb_options o;
  sdb_position now;
  sdb_options_init(&o);
  o.warning = count_warning;
  ck_assert_int_eq(sdb_open("forked.sdb", &o, &h->db), SDB_OK);
  ck_assert_int_eq(sdb_changes_range(h->db, NULL, &now), SDB_OK);
  ck_assert_int_eq(sdb_changes_open(h->db, &now, NULL, 0, &h->feed), SDB_OK);
  ck_assert_int_eq(sdb_put(h->db, "a", 1, "parent", 6, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_cursor_open(h->db, NULL, &h->cursor), SDB_OK);
  ck_assert_int_eq(sdb_snapshot_open(h->db, &h->snapshot), SDB_OK);
  ck_assert_int_eq(sdb_batch_open(h->db, &h->batch), SDB_OK);
  ck_assert_int_eq(sdb_batch_put(h->batch, "in/a/batch", 10, "x", 1, NULL), SDB_OK);
  ck_assert_int_eq(sdb_reader_open(h->db, "a", 1, SDB_CURRENT, &h->reader), SDB_OK);
  ck_assert_int_eq(sdb_writer_open(h->db, "b", 1, SDB_UNKNOWN_SIZE, NULL, &h->writer), SDB_OK);
}

/* In the child all is refused. The parent does not notice: its cursor, reader and writer go on, and nothing was written. The child
 * lives on while the parent closes and opens again, which works because the child has let go of the file's lock. */
START_TEST(test_child) {
  inherited h;
  int done[2], end[2], status;
  char byte = 0;
  start(&h);
  ck_assert_int_eq(pipe(done), 0);
  ck_assert_int_eq(pipe(end), 0);
  pid_t child = fork();
  ck_assert_int_ge(child, 0);
  if (child == 0) {
    close(end[1]);
    int answer = try_all(&h);
    if (write(done[1], "x", 1) != 1 || read(end[0], &byte, 1) != 0) answer = 102;
    _exit(answer);
  }
  close(end[0]);
  ck_assert_int_eq((int)read(done[0], &byte, 1), 1);
  sdb_entry entry;
  char buf[16];
  size_t n;
  ck_assert_int_eq(sdb_cursor_next(h.cursor, &entry), SDB_OK);
  sdb_cursor_close(h.cursor);
  ck_assert_int_eq(sdb_reader_read(h.reader, buf, sizeof buf, &n), SDB_OK);
  ck_assert_uint_eq(n, 6);
  ck_assert_mem_eq(buf, "parent", 6);
  sdb_reader_close(h.reader);
  ck_assert_int_eq(sdb_writer_write(h.writer, "by the parent", 13), SDB_OK);
  ck_assert_int_eq(sdb_writer_commit(h.writer, NULL), SDB_OK);
  ck_assert_int_eq(sdb_batch_commit(h.batch, NULL, NULL, 0, NULL), SDB_OK);
  sdb_change change;
  ck_assert_int_eq(sdb_changes_next(h.feed, &change), SDB_OK);
  sdb_changes_close(h.feed);
  sdb_snapshot_close(h.snapshot);
  ck_assert_int_eq(sdb_close(h.db), SDB_OK);

  ck_assert_int_eq(open_with("forked.sdb", NULL, false, &h.db), SDB_OK);
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(h.db, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
  ck_assert_uint_eq(report.documents, 3);
  ck_assert_int_eq(sdb_close(h.db), SDB_OK);
  close(end[1]);
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child's call %d was not refused", WEXITSTATUS(status));
}
END_TEST

/* A child that opens the database itself finds it locked, and open to it when the parent is done. */
START_TEST(test_child_opens_anew) {
  inherited h;
  int status;
  start(&h);
  pid_t child = fork();
  ck_assert_int_ge(child, 0);
  if (child == 0) {
    sdb *own;
    if (sdb_close(h.db) != SDB_FORKED) _exit(1);
    if (open_with("forked.sdb", NULL, false, &own) != SDB_LOCKED) _exit(2);
    int rc;
    for (int i = 0; (rc = open_with("forked.sdb", NULL, false, &own)) == SDB_LOCKED && i < 5000; i++) usleep(1000);
    if (rc != SDB_OK || sdb_put(own, "a", 1, "child", 5, NULL, NULL) != SDB_OK || sdb_close(own) != SDB_OK) _exit(3);
    _exit(0);
  }
  usleep(20000);
  sdb_cursor_close(h.cursor);
  sdb_reader_close(h.reader);
  sdb_writer_abort(h.writer);
  sdb_batch_abort(h.batch);
  sdb_changes_close(h.feed);
  sdb_snapshot_close(h.snapshot);
  ck_assert_int_eq(sdb_close(h.db), SDB_OK);
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "step %d failed in the child", WEXITSTATUS(status));
}
END_TEST

/* --- An open that fails ------------------------------------------------------------------------------------------------------- */

/* Whatever stage it fails in, there is a code, a sentence that names the file, and nothing that is held. */
START_TEST(test_failed_open) {
  static const struct {
    const char *name;
    bool create;
    int code;
  } cases[] = {{"missing.sdb", false, SDB_NOT_FOUND}, {"no/folder/x.sdb", true, SDB_NOT_FOUND}, {".", true, SDB_NOT_A_DATABASE}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char message[256] = "";
    sdb *db = NULL;
    sdb_options o;
    sdb_options_init(&o);
    o.create = cases[i].create;
    o.message = message;
    o.message_size = sizeof message;
    ck_assert_int_eq(sdb_open(cases[i].name, &o, &db), cases[i].code);
    ck_assert_ptr_null(db);
    ck_assert_msg(strlen(message) > 20, "%s: '%s'", cases[i].name, message);
  }
}
END_TEST

/* --- One handle a file -------------------------------------------------------------------------------------------------------- */

START_TEST(test_second_handle) {
  sim *device = sim_new(1);
  sdb_storage *memory = sdb_storage_memory_new();
  const sdb_storage *tables[] = {NULL, memory, sim_storage(device)};
  for (int i = 0; i < 3; i++) {
    sdb *first, *second, *third;
    ck_assert_int_eq(open_with("one.sdb", tables[i], false, &first), SDB_OK);
    ck_assert_int_eq(open_with("one.sdb", tables[i], false, &second), SDB_LOCKED);
    ck_assert_int_eq(open_with("one.sdb", tables[i], true, &second), SDB_LOCKED);
    if (i == 0) {
      ck_assert_int_eq(symlink("one.sdb", "other.sdb"), 0);
      ck_assert_int_eq(open_with("other.sdb", NULL, false, &second), SDB_LOCKED);
    }
    ck_assert_int_eq(sdb_put(first, "a", 1, "x", 1, NULL, NULL), SDB_OK);
    ck_assert_int_eq(sdb_close(first), SDB_OK);
    ck_assert_int_eq(open_with("one.sdb", tables[i], true, &first), SDB_OK);
    ck_assert_int_eq(open_with("one.sdb", tables[i], true, &second), SDB_OK);
    ck_assert_int_eq(open_with("one.sdb", tables[i], false, &third), SDB_LOCKED);
    ck_assert_int_eq(sdb_close(first), SDB_OK);
    ck_assert_int_eq(sdb_close(second), SDB_OK);
  }
  sdb_storage_memory_free(memory);
  sim_free(device);
}
END_TEST

/* Whoever is refused is told who has it, as far as that can be known. */
START_TEST(test_who_has_it) {
  char message[256] = "", expected[64], text[256] = "";
  sdb *first, *second;
  sdb_options o;
  sdb_options_init(&o);
  o.message = message;
  o.message_size = sizeof message;
  snprintf(expected, sizeof expected, "process %ld", (long)getpid());
  ck_assert_int_eq(sdb_open("held.sdb", &o, &first), SDB_OK);
  FILE *lock = fopen("held.sdb.lock", "r");
  ck_assert_ptr_nonnull(lock);
  ck_assert_ptr_nonnull(fgets(text, sizeof text, lock));
  fclose(lock);
  ck_assert_msg(strncmp(text, expected, strlen(expected)) == 0, "%s", text);
  ck_assert_int_eq(sdb_open("held.sdb", &o, &second), SDB_LOCKED);
  ck_assert_msg(strstr(message, text) != NULL, "%s", message);
  lock = fopen("held.sdb.lock", "w"); /* anybody may write anything into it */
  ck_assert_ptr_nonnull(lock);
  fputs("\033[2Jnobody\n", lock);
  fclose(lock);
  ck_assert_int_eq(sdb_open("held.sdb", &o, &second), SDB_LOCKED);
  ck_assert_msg(strstr(message, "(?[2Jnobody?)") != NULL, "%s", message);
  ck_assert_int_eq(sdb_close(first), SDB_OK);
  ck_assert_int_ne(access("held.sdb.lock", F_OK), 0);
  o.read_only = true;
  ck_assert_int_eq(sdb_open("held.sdb", &o, &first), SDB_OK);
  ck_assert_int_ne(access("held.sdb.lock", F_OK), 0);
  ck_assert_int_eq(sdb_close(first), SDB_OK);
}
END_TEST

/* --- Editions of the storage table -------------------------------------------------------------------------------------------- */

static void expect_open(const sdb_storage *table, int code) {
  sdb *db;
  ck_assert_int_eq(open_with("edition.sdb", table, false, &db), code);
  if (code != SDB_OK) return;
  ck_assert_int_eq(sdb_put(db, "a", 1, "x", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

/* What a compiler of an older edition left behind the table must not be looked at. */
START_TEST(test_shorter_and_longer_tables) {
  struct {
    sdb_storage table;
    uint64_t of_a_later_edition[4];
  } longer = {.table = *sdb_storage_file()};
  uint32_t first_edition = offsetof(sdb_storage, thread_join) + sizeof longer.table.thread_join;
  memset(longer.of_a_later_edition, 0xAB, sizeof longer.of_a_later_edition);
  longer.table.size = sizeof longer;
  expect_open(&longer.table, SDB_OK);
  longer.table.size = first_edition;
  memset((uint8_t *)&longer + first_edition, 0xAB, sizeof longer - first_edition);
  expect_open(&longer.table, SDB_OK);
  longer.table.size = first_edition - 1;
  expect_open(&longer.table, SDB_INVALID);
}
END_TEST

START_TEST(test_wrong_tables) {
  sdb_storage table = *sdb_storage_file();
  table.version++;
  expect_open(&table, SDB_INVALID);
  static const size_t needed[] = {
#define AT(member) offsetof(sdb_storage, member)
      AT(open),  AT(close),  AT(lock),   AT(read),     AT(write),  AT(sync),         AT(get_size), AT(set_size), AT(allocate),
      AT(punch), AT(rename), AT(remove), AT(sync_dir), AT(now_ms), AT(monotonic_us), AT(random),   AT(realloc)
#undef AT
  };
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    table = *sdb_storage_file();
    memset((uint8_t *)&table + needed[i], 0, sizeof(void (*)(void)));
    expect_open(&table, SDB_INVALID);
  }
  table = *sdb_storage_file();
  table.unmap = NULL;
  expect_open(&table, SDB_INVALID);
  table.map = NULL;
  expect_open(&table, SDB_OK);
  if (table.thread_start) {
    table.thread_join = NULL;
    expect_open(&table, SDB_INVALID);
    table.thread_start = NULL;
  }
  table.resolve = NULL;
  table.inherited = NULL;
  expect_open(&table, SDB_OK);
}
END_TEST

/* The engine has a copy: what the caller does with its table afterwards is nobody's business. */
START_TEST(test_table_is_copied) {
  sdb_storage table = *sdb_storage_file();
  sdb *db;
  ck_assert_int_eq(open_with("copied.sdb", &table, false, &db), SDB_OK);
  memset(&table, 0, sizeof table);
  ck_assert_int_eq(sdb_put(db, "a", 1, "x", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("handle");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, test_child);
  tcase_add_test(t, test_child_opens_anew);
  tcase_add_test(t, test_failed_open);
  tcase_add_test(t, test_second_handle);
  tcase_add_test(t, test_who_has_it);
  tcase_add_test(t, test_shorter_and_longer_tables);
  tcase_add_test(t, test_wrong_tables);
  tcase_add_test(t, test_table_is_copied);
  Suite *s = suite_create("handle");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? 1 : 0;
}
