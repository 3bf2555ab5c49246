/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent.c - many threads on one handle: writers of their own documents, readers of all, cursors, streams, checkpoints.
 *
 * Each content says which document and which of its writes it is, and the rest of its bytes follow from that, so that any mixture
 * or stale page shows. A reader also remembers the last write it saw of each document: time must not go back (read your own order).
 * Meant for ThreadSanitizer as much as for the plain build.
 */
#include <check.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sdb/sdb.h"
#include "seed.h"

enum { WRITERS = 4, READERS = 3, DOCUMENTS = 40, LARGEST = 150000 };

static sdb *db;
static char directory[64];
static atomic_bool stop;
static atomic_uint failures;
static char first_failure[256];
static atomic_uint written[WRITERS * DOCUMENTS]; /* acknowledged writes of each document */

__attribute__((format(printf, 1, 2))) static void failed(const char *format, ...) {
  if (atomic_fetch_add(&failures, 1) == 0) {
    va_list args;
    va_start(args, format);
    vsnprintf(first_failure, sizeof first_failure, format, args);
    va_end(args);
  }
  atomic_store(&stop, true);
}

static uint32_t next_random(uint64_t *state) {
  *state = *state * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(*state >> 33);
}

static size_t path_of(unsigned document, char path[64]) {
  return (size_t)snprintf(path, 64, "/w%u/document/%04u", document / DOCUMENTS, document);
}

static size_t content_make(unsigned document, uint32_t write, uint8_t *buf) {
  uint64_t state = (uint64_t)document << 32 | write;
  uint32_t draw = next_random(&state);
  size_t size = 8 + (draw % 10 == 0 ? draw % LARGEST : draw % 3000);
  memcpy(buf, &document, 4);
  memcpy(buf + 4, &write, 4);
  for (size_t i = 8; i < size; i++) buf[i] = (uint8_t)(state >> (i % 8 * 8)) ^ (uint8_t)i;
  return size;
}

/* Which write a content is; 0 when it is not one of that document. */
static uint32_t content_check(unsigned document, const uint8_t *buf, size_t size, uint8_t *scratch) {
  uint32_t said, write;
  if (size < 8) return 0;
  memcpy(&said, buf, 4);
  memcpy(&write, buf + 4, 4);
  if (said != document || content_make(document, write, scratch) != size) return 0;
  return memcmp(buf, scratch, size) == 0 ? write : 0;
}

static void *writer(void *arg) {
  unsigned me = (unsigned)(uintptr_t)arg;
  uint64_t state = seed_number("SDB_SEED", 1) * 977 + me;
  uint8_t *buf = malloc(LARGEST + 8192);
  uint32_t count[DOCUMENTS] = {0};
  sdb_put_options o;
  sdb_put_options_init(&o);
  for (unsigned n = 0; n < 400 && !atomic_load(&stop); n++) {
    char path[64];
    unsigned d = next_random(&state) % DOCUMENTS, document = me * DOCUMENTS + d;
    size_t len = path_of(document, path), size = content_make(document, count[d] + 1, buf);
    o.durability = (sdb_durability)(1 + next_random(&state) % 3);
    int rc;
    if (next_random(&state) % 4 == 0) {
      sdb_writer *w;
      rc = sdb_writer_open(db, path, len, next_random(&state) % 2 ? size : SDB_UNKNOWN_SIZE, &o, &w);
      if (rc == SDB_OK) {
        rc = sdb_writer_write(w, buf, size / 2);
        if (rc == SDB_OK) rc = sdb_writer_write(w, buf + size / 2, size - size / 2);
        if (rc == SDB_OK) rc = sdb_writer_commit(w, NULL);
        else sdb_writer_abort(w);
      }
    } else {
      rc = sdb_put(db, path, len, buf, size, &o, NULL);
    }
    if (rc != SDB_OK) failed("writer %u: %s", me, sdb_strerror(rc));
    atomic_store(&written[document], ++count[d]);
    if (next_random(&state) % 50 == 0) { /* gone, and back with the next write */
      rc = sdb_delete(db, path, len, &o, NULL);
      if (rc != SDB_OK) failed("writer %u: delete: %s", me, sdb_strerror(rc));
    }
  }
  free(buf);
  return NULL;
}

static void read_one(unsigned document, uint32_t *seen, uint8_t *buf, uint8_t *scratch, bool stream) {
  char path[64];
  size_t len = path_of(document, path), size = 0;
  uint32_t before = atomic_load(&written[document]);
  int rc;
  if (stream) {
    sdb_reader *r;
    rc = sdb_reader_open(db, path, len, SDB_CURRENT, &r);
    for (size_t got = 1; rc == SDB_OK && got > 0; size += got) rc = sdb_reader_read(r, buf + size, 20000, &got);
    if (rc == SDB_OK || size) sdb_reader_close(r);
  } else {
    rc = sdb_get(db, path, len, SDB_CURRENT, buf, LARGEST + 8192, &size, NULL);
  }
  if (rc == SDB_NOT_FOUND) return; /* deleted, or not yet written */
  if (rc != SDB_OK) {
    char message[200];
    sdb_message(db, message, sizeof message);
    failed("reading %s%s: %s (%s)", path, stream ? " as a stream" : "", sdb_strerror(rc), message);
    return;
  }
  uint32_t write = content_check(document, buf, size, scratch);
  if (write == 0) failed("%s holds %zu wrong bytes", path, size);
  else if (write < *seen || write < before)
    failed("%s went back from write %u (acknowledged %u) to %u", path, *seen, before, write);
  else *seen = write;
}

static void list_all(void) {
  sdb_cursor *c;
  sdb_entry e;
  char last[64] = "";
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.prefix = "/w";
  options.prefix_len = 2;
  options.infos = true;
  int rc = sdb_cursor_open(db, &options, &c);
  if (rc != SDB_OK) {
    failed("cursor: %s", sdb_strerror(rc));
    return;
  }
  while ((rc = sdb_cursor_next(c, &e)) == SDB_OK) {
    char path[64];
    snprintf(path, sizeof path, "%.*s", (int)e.path_len, (const char *)e.path);
    if (strcmp(last, path) >= 0) failed("%s is listed behind %s", path, last);
    if (e.info.version == 0) failed("%s is listed without a version", path);
    memcpy(last, path, sizeof last);
  }
  if (rc != SDB_END) failed("listing: %s", sdb_strerror(rc));
  sdb_cursor_close(c);
}

static void *reader(void *arg) {
  uint64_t state = seed_number("SDB_SEED", 1) * 331 + (uintptr_t)arg;
  uint8_t *buf = malloc(LARGEST + 28192), *scratch = malloc(LARGEST + 8192);
  uint32_t *seen = calloc(WRITERS * DOCUMENTS, sizeof *seen);
  while (!atomic_load(&stop)) {
    unsigned document = next_random(&state) % (WRITERS * DOCUMENTS);
    read_one(document, &seen[document], buf, scratch, next_random(&state) % 3 == 0);
    if (next_random(&state) % 40 == 0) list_all();
  }
  free(buf);
  free(scratch);
  free(seen);
  return NULL;
}

static void *keeper(void *arg) {
  (void)arg;
  while (!atomic_load(&stop)) {
    int rc = sdb_checkpoint(db);
    if (rc != SDB_OK) failed("checkpoint: %s", sdb_strerror(rc));
    rc = sdb_flush(db);
    if (rc != SDB_OK) failed("flush: %s", sdb_strerror(rc));
    usleep(3000);
  }
  return NULL;
}

static void tell_problem(void *user, const char *sentence) {
  (void)user;
  failed("check: %s", sentence);
}

static void open_database(bool map) {
  char message[256] = "";
  sdb_options o;
  sdb_options_init(&o);
  o.use_mmap = map;
  o.page_cache_size = 64;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 1 << 20;
  o.change_log_bytes = 0;
  o.buffered_interval_ms = 5;
  o.message = message;
  o.message_size = sizeof message;
  int rc = sdb_open("concurrent.sdb", &o, &db);
  ck_assert_msg(rc == SDB_OK, "%s", message);
}

static void verify_all(void) {
  uint8_t *buf = malloc(LARGEST + 8192), *scratch = malloc(LARGEST + 8192);
  for (unsigned d = 0; d < WRITERS * DOCUMENTS; d++) {
    uint32_t seen = 0;
    read_one(d, &seen, buf, scratch, false);
  }
  free(buf);
  free(scratch);
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(db, tell_problem, NULL, &report), SDB_OK);
  ck_assert_msg(atomic_load(&failures) == 0, "%u failures, first: %s", atomic_load(&failures), first_failure);
  ck_assert_uint_eq(report.problems, 0);
}

static void setup(void) {
  snprintf(directory, sizeof directory, "%s", "/tmp/sdb-concurrent-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(directory));
  ck_assert_int_eq(chdir(directory), 0);
}

static void teardown(void) {
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}

START_TEST(all_at_once) {
  pthread_t writers[WRITERS], others[READERS + 1];
  printf("concurrent: seed %llu\n", (unsigned long long)seed_number("SDB_SEED", 1));
  open_database(_i == 0);
  for (uintptr_t i = 0; i < WRITERS; i++) ck_assert_int_eq(pthread_create(&writers[i], NULL, writer, (void *)i), 0);
  for (uintptr_t i = 0; i < READERS; i++) ck_assert_int_eq(pthread_create(&others[i], NULL, reader, (void *)i), 0);
  ck_assert_int_eq(pthread_create(&others[READERS], NULL, keeper, NULL), 0);
  for (int i = 0; i < WRITERS; i++) pthread_join(writers[i], NULL);
  atomic_store(&stop, true);
  for (int i = 0; i <= READERS; i++) pthread_join(others[i], NULL);
  verify_all();
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  open_database(_i == 0);
  verify_all();
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}
END_TEST

/* Writers of one document meet: large and small, conditional. Exactly the successful ones count. */
static void *contender(void *arg) {
  uintptr_t me = (uintptr_t)arg, won = 0;
  static const uint8_t bytes[20000];
  sdb_put_options o;
  sdb_put_options_init(&o);
  for (int n = 0; n < 100; n++) {
    sdb_info info = {0};
    int rc = sdb_stat(db, "/one", 4, SDB_CURRENT, &info);
    if (rc != SDB_OK && rc != SDB_NOT_FOUND) failed("stat: %s", sdb_strerror(rc));
    o.expect = rc == SDB_OK ? info.version : SDB_ABSENT;
    rc = sdb_put(db, "/one", 4, bytes, me % 2 ? sizeof bytes : 100, &o, NULL);
    if (rc == SDB_OK) won++;
    else if (rc != SDB_CONFLICT) failed("put: %s", sdb_strerror(rc));
  }
  return (void *)won;
}

START_TEST(conditional_writes_are_serial) {
  pthread_t threads[4];
  uintptr_t won = 0;
  sdb_info info;
  open_database(true);
  for (uintptr_t i = 0; i < 4; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, contender, (void *)i), 0);
  for (int i = 0; i < 4; i++) {
    void *n;
    pthread_join(threads[i], &n);
    won += (uintptr_t)n;
  }
  ck_assert_int_eq(sdb_stat(db, "/one", 4, SDB_CURRENT, &info), SDB_OK);
  ck_assert_msg(atomic_load(&failures) == 0, "%s", first_failure);
  ck_assert_uint_eq(info.version, won);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}
END_TEST

/* Metadata and content of each version say the same number. */
static void *numberer(void *arg) {
  sdb_put_options o;
  (void)arg;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  for (uint32_t n = 0; !atomic_load(&stop); n++) {
    o.metadata = &n;
    o.metadata_len = sizeof n;
    int rc = sdb_put(db, "/n", 2, &n, sizeof n, &o, NULL);
    if (rc != SDB_OK) failed("put: %s", sdb_strerror(rc));
  }
  return NULL;
}

START_TEST(a_restored_version_is_that_of_one_moment) {
  pthread_t thread;
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  open_database(true);
  ck_assert_int_eq(sdb_put(db, "/n", 2, "\0\0\0\0", 4, NULL, NULL), SDB_OK);
  ck_assert_int_eq(pthread_create(&thread, NULL, numberer, NULL), 0);
  for (unsigned i = 0; i < 3000 && !atomic_load(&stop); i++) {
    sdb_commit commit;
    sdb_attributes a;
    uint32_t content;
    size_t size;
    int rc = sdb_restore_version(db, "/n", 2, SDB_CURRENT, &o, &commit);
    if (rc != SDB_OK) failed("restore: %s", sdb_strerror(rc));
    uint32_t version = commit.info.version; /* it may be gone by now */
    if (sdb_get_attributes(db, "/n", 2, version, &a) != SDB_OK || a.metadata_len != 4) continue;
    if (sdb_get(db, "/n", 2, version, &content, sizeof content, &size, NULL) != SDB_OK) continue;
    if (memcmp(a.metadata, &content, 4) != 0) failed("version %u has the metadata of another", (unsigned)version);
  }
  atomic_store(&stop, true);
  pthread_join(thread, NULL);
  ck_assert_msg(atomic_load(&failures) == 0, "%s", first_failure);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}
END_TEST

/* Beside commits of all kinds. */
START_TEST(the_visible_commit_never_steps_back) {
  pthread_t writers[WRITERS];
  uint64_t seen = 0;
  open_database(true);
  for (uintptr_t i = 0; i < WRITERS; i++) ck_assert_int_eq(pthread_create(&writers[i], NULL, writer, (void *)i), 0);
  for (unsigned i = 0; i < 20000 && !atomic_load(&stop); i++) {
    sdb_stats stats = {.size = sizeof stats};
    ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
    if (stats.sequence < seen)
      failed("commit %llu was visible, %llu is", (unsigned long long)seen, (unsigned long long)stats.sequence);
    seen = stats.sequence;
  }
  for (int i = 0; i < WRITERS; i++) pthread_join(writers[i], NULL);
  ck_assert_msg(atomic_load(&failures) == 0, "%s", first_failure);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("concurrent");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, all_at_once, 0, 2);
  tcase_add_test(t, conditional_writes_are_serial);
  tcase_add_test(t, a_restored_version_is_that_of_one_moment);
  tcase_add_test(t, the_visible_commit_never_steps_back);
  Suite *s = suite_create("concurrent");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? 1 : 0;
}
