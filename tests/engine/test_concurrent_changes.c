/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_changes.c - feeds beside writers, checkpoints and the recycling of tiny segments, on real files and threads.
 *
 * Each writer overwrites one document of its own, so its versions rise by one. A feed must show them without a gap from where it
 * begins, in one order of commits that rises; a feed that was trimmed begins anew at the oldest position.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sdb/changes.h"

enum { WRITERS = 4, FEEDS = 4, PUTS = 700, SEGMENT = 65536 };

static sdb *db;
static char directory[64];
static atomic_bool stop;
static atomic_uint wrong, trims, shown;
static atomic_uint_fast64_t told, last_sequence;

static void on_synced(void *user, uint64_t sequence) {
  (void)user;
  if (sequence < atomic_load(&told)) atomic_fetch_add(&wrong, 1);
  atomic_store(&told, sequence);
}

static void *write_documents(void *arg) {
  unsigned writer = (unsigned)(uintptr_t)arg;
  char path[16];
  uint8_t content[1500] = {0};
  size_t len = (size_t)snprintf(path, sizeof path, "/w/%u", writer);
  for (unsigned i = 0; i < PUTS; i++) {
    sdb_put_options o;
    sdb_commit commit;
    sdb_put_options_init(&o);
    o.durability = i % 3 ? SDB_NONE : SDB_DURABLE;
    if (i + 1 == PUTS) o.durability = SDB_DURABLE;
    memcpy(content, &i, sizeof i);
    if (sdb_put(db, path, len, content, 300 + (i * 7 + writer) % 1200, &o, &commit) != SDB_OK) atomic_fetch_add(&wrong, 1);
    for (uint64_t seen = atomic_load(&last_sequence); seen < commit.sequence;)
      if (atomic_compare_exchange_weak(&last_sequence, &seen, commit.sequence)) break;
    if (i % 100 == 99 && sdb_checkpoint(db) != SDB_OK) atomic_fetch_add(&wrong, 1);
  }
  return NULL;
}

/* What a feed has seen; versions of 0 are not known. */
typedef struct seen {
  uint32_t versions[WRITERS];
  uint64_t sequence;
} seen;

static void look(seen *s, const sdb_change *c) {
  unsigned writer = c->path_len == 4 ? (unsigned)(c->path[3] - '0') : WRITERS;
  bool good = writer < WRITERS && c->operation == SDB_CHANGE_PUT && c->sequence > s->sequence && c->last;
  if (good && s->versions[writer] && c->version != s->versions[writer] + 1) good = false;
  if (good && c->size != 300 + ((c->version - 1) * 7 + writer) % 1200) good = false;
  if (!good) atomic_fetch_add(&wrong, 1);
  else s->versions[writer] = c->version;
  s->sequence = c->sequence;
}

/* Another feed, from the oldest position: again, when that one is trimmed in between. */
static sdb_changes *begin(seen *s) {
  sdb_position p;
  sdb_changes *feed = NULL;
  int rc;
  do {
    rc = sdb_changes_range(db, &p, NULL);
    if (rc == SDB_OK) rc = sdb_changes_open(db, &p, "/w/", 3, &feed);
  } while (rc == SDB_TRIMMED);
  if (rc != SDB_OK) atomic_fetch_add(&wrong, 1);
  *s = (seen){.sequence = p.sequence};
  return feed;
}

static void *read_changes(void *arg) {
  bool slow = (uintptr_t)arg % 2 == 1;
  seen s;
  sdb_changes *feed = begin(&s);
  while (feed) {
    sdb_change c;
    bool finished = atomic_load(&stop);
    int rc = sdb_changes_next(feed, &c);
    if (rc == SDB_OK) {
      look(&s, &c);
      if (atomic_fetch_add(&shown, 1) % 64 == 0 && slow) usleep(3000);
    } else if (rc == SDB_END) {
      if (finished) break;
      rc = sdb_changes_wait(feed, 20);
      if (rc != SDB_OK && rc != SDB_END) atomic_fetch_add(&wrong, 1);
    } else {
      sdb_changes_close(feed);
      feed = NULL;
      if (rc == SDB_TRIMMED) feed = begin(&s);
      else fprintf(stderr, "a feed ended with %s\n", sdb_strerror(rc)), atomic_fetch_add(&wrong, 1);
      atomic_fetch_add(&trims, 1);
    }
  }
  if (s.sequence != atomic_load(&last_sequence)) atomic_fetch_add(&wrong, 1);
  sdb_changes_close(feed);
  return NULL;
}

START_TEST(feeds_lose_nothing_beside_writers) {
  char name[96];
  sdb_options o;
  pthread_t writers[WRITERS], feeds[FEEDS];
  snprintf(directory, sizeof directory, "/tmp/sdb-changes-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(directory));
  snprintf(name, sizeof name, "%s/things.sdb", directory);
  sdb_options_init(&o);
  o.wal_segment_size = SEGMENT;
  o.checkpoint_wal_bytes = 2 * SEGMENT;
  o.change_log_bytes = 3 * SEGMENT;
  o.page_cache_size = 256;
  o.on_synced = on_synced;
  ck_assert_int_eq(sdb_open(name, &o, &db), SDB_OK);
  for (uintptr_t i = 0; i < FEEDS; i++) ck_assert_int_eq(pthread_create(&feeds[i], NULL, read_changes, (void *)i), 0);
  for (uintptr_t i = 0; i < WRITERS; i++) ck_assert_int_eq(pthread_create(&writers[i], NULL, write_documents, (void *)i), 0);
  for (unsigned i = 0; i < WRITERS; i++) pthread_join(writers[i], NULL);
  atomic_store(&stop, true);
  for (unsigned i = 0; i < FEEDS; i++) pthread_join(feeds[i], NULL);
  ck_assert_uint_eq(atomic_load(&wrong), 0);
  ck_assert_uint_eq(atomic_load(&last_sequence), WRITERS * PUTS);
  ck_assert_uint_eq(atomic_load(&told), WRITERS * PUTS);
  ck_assert_uint_gt(atomic_load(&shown), 0);
  printf("%u changes shown, %u times trimmed\n", atomic_load(&shown), atomic_load(&trims));
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", directory);
  ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("concurrent_changes");
  TCase *tests = tcase_create("concurrent_changes");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, feeds_lose_nothing_beside_writers);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
