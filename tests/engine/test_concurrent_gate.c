/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_gate.c - no read waits for a sync: while one is held, every read there is comes to its end.
 *
 * The storage holds a chosen sync until it is told to go on: of a group of commits, of contents, of a checkpoint's pieces and
 * slots, of a new log segment, its folder and its head, of a backup. A thread works until it is held there, commits that nobody
 * waits for included, which the next read makes visible. Then other threads read in every way the headers offer. Only when all of
 * them are through does the sync go on; so a read that waited, for a lock that is held over it or for what comes behind it, would
 * wait for ever, and is named. No time is measured.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sdb/care.h"
#include "sdb/changes.h"
#include "sdb/storage.h"

#define NAME "things.sdb"
#define BACKUP "copy.sdb"
#define SLOT_B 65536u
#define FIXED_END 131072u

enum { FILES = 32, READERS = 3, DOCUMENTS = 60, LONG = 200000, UPLOAD = 3 << 20, PATIENCE_S = 60 };

static uint8_t content[UPLOAD];

/* --- A storage with a gate ---------------------------------------------------------------------------------------------------- */

static sdb_storage *memory, table;

/* What an open file is called and what was last written to it: what its next sync is for. */
static struct {
  const sdb_file *file;
  char name[64];
  const char *last;
} files[FILES];

static struct {
  pthread_mutex_t lock;
  pthread_cond_t moved;
  const char *site; /* where to hold; NULL: nowhere */
  bool held, open;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static void pass(const char *site) {
  pthread_mutex_lock(&gate.lock);
  if (gate.site != NULL && strcmp(gate.site, site) == 0 && !gate.held) {
    gate.held = true;
    pthread_cond_broadcast(&gate.moved);
    while (!gate.open) pthread_cond_wait(&gate.moved, &gate.lock);
  }
  pthread_mutex_unlock(&gate.lock);
}

/* The place of a file among those that are open; `lock` is held. */
static int file_index(const sdb_file *file) {
  int i = 0;
  while (i < FILES && files[i].file != file) i++;
  return i;
}

static int open_file(void *ctx, const char *name, unsigned flags, sdb_file **file) {
  int rc = memory->open(ctx, name, flags, file);
  if (rc != SDB_OK) return rc;
  pthread_mutex_lock(&gate.lock);
  int i = file_index(NULL);
  ck_assert_int_lt(i, FILES);
  files[i].file = *file;
  files[i].last = "";
  snprintf(files[i].name, sizeof files[i].name, "%s", name);
  pthread_mutex_unlock(&gate.lock);
  return rc;
}

static void close_file(sdb_file *file) {
  if (file == NULL) return;
  pthread_mutex_lock(&gate.lock);
  files[file_index(file)].file = NULL;
  pthread_mutex_unlock(&gate.lock);
  memory->close(file);
}

static int rename_file(void *ctx, const char *from, const char *to) {
  pthread_mutex_lock(&gate.lock);
  for (int i = 0; i < FILES; i++)
    if (files[i].file != NULL && strcmp(files[i].name, from) == 0) snprintf(files[i].name, sizeof files[i].name, "%s", to);
  pthread_mutex_unlock(&gate.lock);
  return memory->rename(ctx, from, to);
}

static int write_file(sdb_file *file, uint64_t offset, const void *buf, size_t len) {
  pthread_mutex_lock(&gate.lock);
  int i = file_index(file);
  const char *last = offset >= FIXED_END ? "pages" : offset < SLOT_B ? "slot A" : "slot B";
  if (strstr(files[i].name, ".log.") != NULL) last = memcmp(buf, "SDBLOG", 6) == 0 ? "log head" : "log records";
  if (strstr(files[i].name, ".log.new") != NULL) last = "new segment";
  if (strncmp(files[i].name, BACKUP, strlen(BACKUP)) == 0) last = "backup";
  files[i].last = last;
  pthread_mutex_unlock(&gate.lock);
  return memory->write(file, offset, buf, len);
}

static int sync_file(sdb_file *file) {
  pthread_mutex_lock(&gate.lock);
  const char *site = files[file_index(file)].last;
  pthread_mutex_unlock(&gate.lock);
  pass(site);
  return memory->sync(file);
}

static int sync_folder(void *ctx, const char *name) {
  pass("folder");
  return memory->sync_dir(ctx, name);
}

static void hold_at(const char *site) {
  pthread_mutex_lock(&gate.lock);
  gate.site = site;
  gate.held = gate.open = false;
  pthread_mutex_unlock(&gate.lock);
}

static void let_go(void) {
  pthread_mutex_lock(&gate.lock);
  gate.open = true;
  gate.site = NULL;
  pthread_cond_broadcast(&gate.moved);
  pthread_mutex_unlock(&gate.lock);
}

/* Until `*what`, which `lock` guards, is true; false when patience is at its end. */
static bool wait_for(const bool *what) {
  struct timespec until;
  int rc = 0;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_S;
  pthread_mutex_lock(&gate.lock);
  while (!*what && rc == 0) rc = pthread_cond_timedwait(&gate.moved, &gate.lock, &until);
  bool there = *what;
  pthread_mutex_unlock(&gate.lock);
  return there;
}

/* --- The database ------------------------------------------------------------------------------------------------------------- */

static sdb *db;
static const uint8_t key[SDB_KEY_SIZE] = "thirty-two bytes make up a key..";

static void open_it(bool threads, bool encrypted) {
  char message[256] = "";
  sdb_options o;
  sdb_options_init(&o);
  o.storage = &table;
  o.threads = threads;
  o.page_size = 65536;
  o.page_cache_size = 256;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 256 << 20;
  o.use_compression = false;
  o.encryption_key = encrypted ? key : NULL;
  o.message = message;
  o.message_size = sizeof message;
  int rc = sdb_open(NAME, &o, &db);
  ck_assert_msg(rc == SDB_OK, "open: %s: %s", sdb_strerror(rc), message);
}

static int put(const char *path, size_t size, sdb_durability durability) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = durability;
  return sdb_put(db, path, strlen(path), content, size, &o, NULL);
}

static void fill(void) {
  for (int i = 0; i < DOCUMENTS; i++) {
    char path[24];
    snprintf(path, sizeof path, "/d/%d", i);
    ck_assert_int_eq(put(path, 100 + (size_t)i, SDB_NONE), SDB_OK);
  }
  ck_assert_int_eq(put("/d/large", LONG, SDB_DURABLE), SDB_OK);
  ck_assert_int_eq(put("/d/large", LONG - 1, SDB_DURABLE), SDB_OK);
  ck_assert_int_eq(sdb_bind(db, "/d/7", 4, "/name/7", 7, NULL, NULL), SDB_OK);
}

/* --- Work that syncs ---------------------------------------------------------------------------------------------------------- */

static int lazy(void) { return put("/lazy", 10, SDB_NONE); }

static int put_durable(void) {
  int rc = lazy();
  return rc == SDB_OK ? put("/d/1", 500, SDB_DURABLE) : rc;
}
static int put_first(void) { return put("/d/1", 500, SDB_DURABLE); }

static int put_contents(void) {
  int rc = lazy();
  return rc == SDB_OK ? put("/d/2", 50000, SDB_DURABLE) : rc;
}

static int upload(void) {
  sdb_writer *writer;
  int rc = lazy();
  if (rc == SDB_OK) rc = sdb_writer_open(db, "/upload", 7, SDB_UNKNOWN_SIZE, NULL, &writer);
  if (rc != SDB_OK) return rc;
  for (int i = 0; i < 8 && rc == SDB_OK; i++) rc = sdb_writer_write(writer, content, UPLOAD / 8);
  if (rc == SDB_OK) return sdb_writer_commit(writer, NULL);
  sdb_writer_abort(writer);
  return rc;
}

static int put_many(void) {
  int rc = SDB_OK;
  for (int i = 0; i < 150 && rc == SDB_OK; i++) {
    char path[24];
    snprintf(path, sizeof path, "/many/%d", i);
    rc = put(path, 20000, SDB_NONE);
  }
  return rc;
}

static int checkpoint(void) {
  int rc = lazy();
  return rc == SDB_OK ? sdb_checkpoint(db) : rc;
}

static int backup(void) {
  int rc = lazy();
  return rc == SDB_OK ? sdb_backup(db, BACKUP, NULL, NULL) : rc;
}

static int change_key(void) {
  int rc = lazy();
  return rc == SDB_OK ? sdb_change_key(db, key) : rc;
}

static const struct work {
  const char *what, *site;
  int (*run)(void);
  bool first; /* nothing was written since the database was opened */
  bool encrypted;
  bool with_writer; /* it syncs under the writer's lock: statistics, which say where the writer stands, wait */
} works[] = {
    {"a group of commits", "log records", put_durable, false, false, false},
    {"contents owed", "pages", put_contents, false, false, false},
    {"an upload", "pages", upload, false, false, false},
    {"a new segment", "new segment", put_many, false, false, false},
    {"a new segment's folder", "folder", put_many, false, false, false},
    {"a new segment's head", "log head", put_many, false, false, false},
    {"a checkpoint's log", "log records", checkpoint, false, false, false},
    {"a checkpoint's pages", "pages", checkpoint, false, false, false},
    {"slot A", "slot A", checkpoint, false, false, false},
    {"slot B", "slot B", checkpoint, false, false, false},
    {"a backup", "backup", backup, false, false, false},
    {"a change of the key", "slot A", change_key, false, true, true},
    {"a first commit's segment", "log head", put_first, true, false, true},
    {"a first commit's slot", "slot A", put_first, true, false, true},
};
enum { WORKS = sizeof works / sizeof *works };

static void *run_work(void *arg) {
  const struct work *w = arg;
  return (void *)(intptr_t)w->run();
}

/* A commit beside, which may have to wait for the sync, and then must keep nobody else. */
static void *run_beside(void *arg) {
  (void)arg;
  return (void *)(intptr_t)put("/beside", 10, SDB_NONE);
}

/* --- Reads -------------------------------------------------------------------------------------------------------------------- */

typedef struct reading {
  const char *_Atomic doing;
  const struct work *work;
  sdb_snapshot *snapshot;
} reading;

static struct {
  unsigned running;
  bool done;
} readers;

static bool answered;

static void take(void *user, int code, void *data, size_t size, const sdb_info *info) {
  (void)info;
  bool *there = user;
  ck_assert_int_eq(code, SDB_OK);
  ck_assert_mem_eq(data, content, size);
  sdb_free(db, data);
  pthread_mutex_lock(&gate.lock);
  *there = true;
  pthread_cond_broadcast(&gate.moved);
  pthread_mutex_unlock(&gate.lock);
}

static void get_documents(reading *r) {
  static const char *const paths[] = {"/d/3", "/d/large", "/name/7"};
  for (unsigned i = 0; i < 3; i++) {
    size_t size, len = strlen(paths[i]), got, count;
    uint8_t piece[1000], id[16];
    void *data;
    sdb_info info[3];
    sdb_attributes attributes;
    sdb_path *names;
    r->doing = "sdb_get";
    int rc = sdb_get(db, paths[i], len, SDB_CURRENT, piece, sizeof piece, &size, NULL);
    ck_assert(rc == SDB_OK || rc == SDB_SMALL_BUFFER);
    r->doing = "sdb_get_alloc";
    ck_assert_int_eq(sdb_get_alloc(db, paths[i], len, SDB_CURRENT, &data, &size, NULL), SDB_OK);
    ck_assert_mem_eq(data, content, size);
    sdb_free(db, data);
    r->doing = "sdb_get_range";
    ck_assert_int_eq(sdb_get_range(db, paths[i], len, SDB_CURRENT, 50, piece, 40, &got, NULL), SDB_OK);
    ck_assert_mem_eq(piece, content + 50, 40);
    r->doing = "sdb_stat";
    ck_assert_int_eq(sdb_stat(db, paths[i], len, SDB_CURRENT, info), SDB_OK);
    r->doing = "sdb_get_attributes";
    ck_assert_int_eq(sdb_get_attributes(db, paths[i], len, SDB_CURRENT, &attributes), SDB_OK);
    r->doing = "sdb_versions";
    ck_assert_int_eq(sdb_versions(db, paths[i], len, info, 3, &count), SDB_OK);
    r->doing = "sdb_id_of";
    ck_assert_int_eq(sdb_id_of(db, paths[i], len, id), SDB_OK);
    r->doing = "sdb_paths_of";
    ck_assert_int_eq(sdb_paths_of(db, id, &names, &count), SDB_OK);
    sdb_free(db, names);
  }
  r->doing = "sdb_stat of nothing";
  sdb_info info;
  ck_assert_int_eq(sdb_stat(db, "/none", 5, SDB_CURRENT, &info), SDB_NOT_FOUND);
}

static void search(reading *r, const char *prefix, const char *suffix, unsigned at_least) {
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.prefix = prefix;
  o.prefix_len = strlen(prefix);
  o.suffix = suffix;
  o.suffix_len = strlen(suffix);
  o.infos = true;
  unsigned count = 0;
  r->doing = "sdb_cursor_open";
  ck_assert_int_eq(sdb_cursor_open(db, &o, &cursor), SDB_OK);
  r->doing = "sdb_cursor_next";
  while (sdb_cursor_next(cursor, &entry) == SDB_OK) count++;
  sdb_cursor_close(cursor);
  ck_assert_uint_ge(count, at_least);
}

static void stream(reading *r, sdb_reader *reader) {
  static _Thread_local uint8_t piece[70000];
  size_t got = 1, at = 0;
  for (; got > 0; at += got) {
    r->doing = "sdb_reader_read";
    ck_assert_int_eq(sdb_reader_read(reader, piece, sizeof piece, &got), SDB_OK);
    ck_assert_mem_eq(piece, content + at, got);
  }
  ck_assert_uint_eq(at, LONG - 1);
  sdb_reader_close(reader);
}

static void read_snapshot(reading *r, const sdb_snapshot *s) {
  size_t size, got, count;
  void *data;
  uint8_t piece[40];
  sdb_info info[3];
  sdb_path *names;
  sdb_attributes attributes;
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_reader *reader;
  r->doing = "a read of a snapshot";
  ck_assert_int_eq(sdb_snapshot_get_alloc(s, "/d/5", 4, SDB_CURRENT, &data, &size, info), SDB_OK);
  ck_assert_mem_eq(data, content, size);
  ck_assert_int_eq(sdb_snapshot_get(s, "/d/5", 4, SDB_CURRENT, data, size, &size, NULL), SDB_OK);
  sdb_free(db, data);
  ck_assert_int_eq(sdb_snapshot_get_range(s, "/d/large", 8, SDB_CURRENT, 1000, piece, 40, &got, NULL), SDB_OK);
  ck_assert_int_eq(sdb_snapshot_stat(s, "/d/5", 4, SDB_CURRENT, info), SDB_OK);
  ck_assert_int_eq(sdb_snapshot_versions(s, "/d/large", 8, info, 3, &count), SDB_OK);
  ck_assert_int_eq(sdb_snapshot_get_attributes(s, "/d/5", 4, SDB_CURRENT, &attributes), SDB_OK);
  ck_assert_int_eq(sdb_snapshot_paths_of(s, info[0].id, &names, &count), SDB_OK);
  sdb_free(db, names);
  ck_assert_int_eq(sdb_snapshot_cursor_open(s, NULL, &cursor), SDB_OK);
  while (sdb_cursor_next(cursor, &entry) == SDB_OK) {}
  sdb_cursor_close(cursor);
  ck_assert_int_eq(sdb_snapshot_reader_open(s, "/d/large", 8, SDB_CURRENT, &reader), SDB_OK);
  stream(r, reader);
}

static void follow_changes(reading *r) {
  sdb_position oldest, newest;
  sdb_changes *feed;
  sdb_change change;
  r->doing = "sdb_changes_range";
  ck_assert_int_eq(sdb_changes_range(db, &oldest, &newest), SDB_OK);
  r->doing = "sdb_changes_open";
  ck_assert_int_eq(sdb_changes_open(db, &oldest, "", 0, &feed), SDB_OK);
  r->doing = "sdb_changes_next";
  while (sdb_changes_next(feed, &change) == SDB_OK) {}
  sdb_changes_close(feed);
}

static void ask_statistics(reading *r) {
  sdb_stats stats = {.size = sizeof stats};
  r->doing = "sdb_get_stats";
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
}

static void read_everything(reading *r) {
  sdb_snapshot *own;
  sdb_reader *reader;
  char message[64];
  get_documents(r);
  search(r, "/d/", "", DOCUMENTS);
  search(r, "", "7", 2);
  search(r, "/d/", "1", 2);
  r->doing = "sdb_reader_open";
  ck_assert_int_eq(sdb_reader_open(db, "/d/large", 8, SDB_CURRENT, &reader), SDB_OK);
  stream(r, reader);
  r->doing = "sdb_snapshot_open";
  ck_assert_int_eq(sdb_snapshot_open(db, &own), SDB_OK);
  read_snapshot(r, own);
  r->doing = "sdb_snapshot_close";
  sdb_snapshot_close(own);
  read_snapshot(r, r->snapshot);
  if (!r->work->with_writer) ask_statistics(r);
  r->doing = "sdb_message";
  sdb_message(db, message, sizeof message);
  r->doing = "sdb_set_quick_mode";
  sdb_set_quick_mode(db, false);
  follow_changes(r);
  r->doing = "nothing";
}

static void *run_reads(void *arg) {
  reading *r = arg;
  for (int i = 0; i < 3; i++) read_everything(r);
  pthread_mutex_lock(&gate.lock);
  readers.done = --readers.running == 0;
  pthread_cond_broadcast(&gate.moved);
  pthread_mutex_unlock(&gate.lock);
  return NULL;
}

/* --- All of it ---------------------------------------------------------------------------------------------------------------- */

static void must_come_back(const struct work *w, const reading *r, bool back) {
  if (back) return;
  char stuck[200] = "";
  for (int i = 0; i < READERS; i++) snprintf(stuck + strlen(stuck), sizeof stuck - strlen(stuck), " %s;", (const char *)r[i].doing);
  ck_abort_msg("while the sync of %s was held, these did not come back:%s", w->what, stuck);
}

static void hold_and_read(const struct work *w, bool threads) {
  pthread_t worker, beside, thread[READERS];
  reading r[READERS];
  sdb_snapshot *snapshot;
  void *result;
  ck_assert_int_eq(sdb_snapshot_open(db, &snapshot), SDB_OK);
  hold_at(w->site);
  ck_assert_int_eq(pthread_create(&worker, NULL, run_work, (void *)(uintptr_t)w), 0);
  ck_assert_msg(wait_for(&gate.held), "%s: nothing was synced at '%s'", w->what, w->site);
  ck_assert_int_eq(pthread_create(&beside, NULL, run_beside, NULL), 0);
  readers.running = READERS;
  readers.done = false;
  for (int i = 0; i < READERS; i++) {
    r[i] = (reading){.doing = "nothing", .work = w, .snapshot = snapshot};
    ck_assert_int_eq(pthread_create(&thread[i], NULL, run_reads, &r[i]), 0);
  }
  must_come_back(w, r, wait_for(&readers.done));
  if (threads) {
    answered = false;
    ck_assert_int_eq(sdb_get_async(db, "/d/4", 4, SDB_CURRENT, take, &answered, NULL), SDB_OK);
    ck_assert_msg(wait_for(&answered), "%s: an asynchronous read did not come back", w->what);
  }
  let_go(); /* held until here */
  for (int i = 0; i < READERS; i++) pthread_join(thread[i], NULL);
  pthread_join(beside, &result);
  ck_assert_int_eq((int)(intptr_t)result, SDB_OK);
  pthread_join(worker, &result);
  ck_assert_msg((intptr_t)result == SDB_OK, "%s: %s", w->what, sdb_strerror((int)(intptr_t)result));
  sdb_snapshot_close(snapshot);
}

START_TEST(no_read_waits_for_a_sync) {
  const struct work *w = &works[_i % WORKS];
  bool threads = _i >= WORKS;
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  table = *memory;
  table.open = open_file;
  table.close = close_file;
  table.rename = rename_file;
  table.write = write_file;
  table.sync = sync_file;
  table.sync_dir = sync_folder;
  table.write_back = NULL; /* so that large writes are synced on the way */
  open_it(threads, w->encrypted);
  fill();
  if (w->first) {
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    open_it(threads, w->encrypted);
  }
  hold_and_read(w, threads);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sdb_storage_memory_free(memory);
}
END_TEST

int main(void) {
  uint32_t state = 1;
  for (size_t i = 0; i < sizeof content; i++) content[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
  Suite *suite = suite_create("gate");
  TCase *t = tcase_create("gate");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, no_read_waits_for_a_sync, 0, 2 * WORKS);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
