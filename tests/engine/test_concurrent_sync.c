/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_sync.c - a device tells of a failed write once, to whoever asks first. Here that is an upload which waits for
 * what it wrote some time ago; a commit whose sync succeeds meanwhile must not be acknowledged (I7).
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"

enum { PART = 1 << 20, PARTS = 8, SMALL = 20000 };

static sdb_storage *memory, glass;
static sdb *db;
static uint8_t content[PART];
static _Atomic(sdb_file *) data_file;
static atomic_bool armed, told, asked;

static void pause_ms(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

static int glass_open(void *ctx, const char *name, unsigned mode, sdb_file **file) {
  int rc = memory->open(ctx, name, mode, file);
  if (rc == SDB_OK && strstr(name, ".log") == NULL) atomic_store(&data_file, *file);
  return rc;
}

/* Has the news, and keeps it for a while. */
static int glass_write_back(sdb_file *file, uint64_t offset, uint64_t len, bool wait) {
  (void)offset, (void)len;
  if (!wait || file != atomic_load(&data_file) || !atomic_exchange(&armed, false)) return SDB_OK;
  atomic_store(&told, true);
  for (unsigned i = 0; i < 500 && !atomic_load(&asked); i++) pause_ms();
  for (unsigned i = 0; i < 100 && atomic_load(&asked); i++) pause_ms();
  return SDB_IO;
}

static int glass_sync(sdb_file *file) {
  if (file == atomic_load(&data_file) && atomic_load(&told)) atomic_store(&asked, true);
  return memory->sync(file);
}

static void *upload(void *arg) {
  sdb_writer *w;
  int rc = sdb_writer_open(db, "/large", 6, SDB_UNKNOWN_SIZE, NULL, &w);
  ck_assert_int_eq(rc, SDB_OK);
  for (unsigned i = 0; i < PARTS && rc == SDB_OK; i++) rc = sdb_writer_write(w, content, PART);
  *(int *)arg = rc;
  sdb_writer_abort(w);
  return NULL;
}

START_TEST(a_failure_that_somebody_knows_of_is_everybodys) {
  pthread_t uploader;
  sdb_options options;
  int uploaded = SDB_OK;
  memory = sdb_storage_memory_new();
  glass = *memory;
  glass.open = glass_open;
  glass.sync = glass_sync;
  glass.write_back = glass_write_back;
  sdb_options_init(&options);
  options.storage = &glass;
  options.use_compression = false;
  ck_assert_int_eq(sdb_open("d", &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/small", 6, content, SMALL, NULL, NULL), SDB_OK);
  atomic_store(&armed, true);
  pthread_create(&uploader, NULL, upload, &uploaded);
  while (!atomic_load(&told)) pause_ms();
  ck_assert_int_eq(sdb_put(db, "/small", 6, content, SMALL, NULL, NULL), SDB_SYNC_FAILED);
  pthread_join(uploader, NULL);
  ck_assert_int_eq(uploaded, SDB_SYNC_FAILED);
  ck_assert_int_eq(sdb_close(db), SDB_SYNC_FAILED);
  sdb_storage_memory_free(memory);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("concurrent sync");
  TCase *t = tcase_create("sync");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, a_failure_that_somebody_knows_of_is_everybodys);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
