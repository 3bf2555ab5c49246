/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_guard.c - a mapped file that the device does not give any more: made by cutting the file under the mapping.
 *
 * Whatever lay behind the cut answers SDB_IO, never "not found", never wrong bytes; what lies before it is served on; the process
 * lives. Without the guard it dies, and signals that are none of ours arrive where they did before.
 */
#define _GNU_SOURCE
#include <check.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define log engine_log /* check.h brings the mathematical one along */
#include "db.h"
#include "sdb/sdb.h"
#include "sdb/storage.h"

enum { DOCUMENTS = 6000, LEN = 700, LARGE = 3 << 20 };

static char directory[64];
static uint8_t large[LARGE], buffer[LARGE];

static void setup(void) {
  snprintf(directory, sizeof directory, "%s", "/tmp/sdb-guard-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(directory));
  ck_assert_int_eq(chdir(directory), 0);
}

static void teardown(void) {
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}

static sdb *open_guarded(bool guard) {
  sdb_options o;
  sdb *db = NULL;
  sdb_options_init(&o);
  o.fault_guard = guard;
  o.use_compression = false;
  o.durability = SDB_NONE;
  ck_assert_int_eq(sdb_open("guard.sdb", &o, &db), SDB_OK);
  return db;
}

static size_t path_of(unsigned i, char path[32]) { return (size_t)snprintf(path, 32, "/document/%06u", i * 7919 % 1000000); }

static void put_document(sdb *db, unsigned i) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE; /* a checkpoint comes behind */
  char path[32];
  size_t len = path_of(i, path);
  memset(buffer, (int)(i % 251 + 1), LEN);
  ck_assert_int_eq(sdb_put(db, path, len, buffer, LEN, &o, NULL), SDB_OK);
}

static void fill(void) {
  ck_assert_int_eq(system("rm -f guard.sdb*"), 0);
  sdb *db = open_guarded(false);
  for (size_t i = 0; i < LARGE; i++) large[i] = (uint8_t)(i * 31 >> 7);
  for (unsigned i = 0; i < DOCUMENTS; i++) put_document(db, i);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  for (unsigned round = 0; round < 3; round++) {
    for (unsigned i = round; i < DOCUMENTS; i += 20) put_document(db, i);
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  }
  ck_assert_int_eq(sdb_put(db, "/large", 6, large, LARGE, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

/* OK with the right bytes, or SDB_IO. Returns how many failed. */
static unsigned read_all(sdb *db) {
  unsigned failed = 0;
  char path[32];
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    size_t size = 0, len = path_of(i, path);
    int rc = sdb_get(db, path, len, SDB_CURRENT, buffer, LEN, &size, NULL);
    if (rc == SDB_IO) {
      failed++;
      continue;
    }
    ck_assert_msg(rc == SDB_OK, "document %u: %s", i, sdb_strerror(rc));
    unsigned wrong = 0; /* each assertion is a system call: not one a byte */
    for (unsigned k = 0; k < LEN; k++) wrong += buffer[k] != i % 251 + 1;
    ck_assert_msg(size == LEN && wrong == 0, "document %u: %zu bytes, %u of them wrong", i, size, wrong);
  }
  return failed;
}

static int scan(sdb *db, unsigned *seen) {
  sdb_cursor *c;
  sdb_entry entry;
  *seen = 0;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.infos = true;
  int rc = sdb_cursor_open(db, &o, &c);
  ck_assert_int_eq(rc, SDB_OK);
  while ((rc = sdb_cursor_next(c, &entry)) == SDB_OK) ++*seen;
  sdb_cursor_close(c);
  return rc;
}

static uint64_t faults_of(sdb *db) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s.mapping_faults;
}

/* Keeps `share` percent of the file. */
static void cut(unsigned share) {
  struct stat st;
  ck_assert_int_eq(stat("guard.sdb", &st), 0);
  ck_assert_int_eq(truncate("guard.sdb", st.st_size / 100 * share / 65536 * 65536), 0);
}

/* --- Reads -------------------------------------------------------------------------------------------------------------------- */

static const unsigned shares[] = {60, 15};

START_TEST(test_reads_answer_io) {
  unsigned share = shares[_i / 2], seen;
  bool warm = _i % 2; /* pages were seen, checked, and are not checked again */
  fill();
  sdb *db = open_guarded(true);
  if (warm) {
    ck_assert_uint_eq(read_all(db), 0);
    ck_assert_int_eq(scan(db, &seen), SDB_END);
  }
  ck_assert_int_eq(system("cp guard.sdb copy"), 0);
  cut(share);
  unsigned failed = read_all(db);
  int end = scan(db, &seen);
  printf("%u %% of the file left, %s: %u of %d gets fail, a scan ends with %d after %u entries, %" PRIu64 " faults\n", share,
         warm ? "warm" : "fresh", failed, DOCUMENTS, end, seen, faults_of(db));
  ck_assert_uint_gt(faults_of(db), 0);
  ck_assert(end == SDB_IO || (end == SDB_END && seen == DOCUMENTS + 1));
  ck_assert_uint_le(failed, DOCUMENTS);
  ck_assert_uint_le(read_all(db), failed); /* nothing is blamed for another page's fault for ever */
  ck_assert_int_eq(system("dd if=copy of=guard.sdb conv=notrunc status=none"), 0);
  ck_assert_uint_eq(read_all(db), 0); /* the handle lives on: what the device gives again is served */
  ck_assert_int_eq(scan(db, &seen), SDB_END);
  ck_assert_uint_eq(seen, DOCUMENTS + 1);
  sdb_close(db);
}
END_TEST

START_TEST(test_streams_answer_io) {
  size_t got = 0, total = 0;
  int rc;
  fill();
  sdb *db = open_guarded(true);
  sdb_reader *r;
  ck_assert_int_eq(sdb_reader_open(db, "/large", 6, SDB_CURRENT, &r), SDB_OK);
  ck_assert_int_eq(sdb_reader_read(r, buffer, SDB_CHUNK, &got), SDB_OK);
  cut(3); /* the large content lies behind */
  total = got;
  while ((rc = sdb_reader_read(r, buffer, SDB_CHUNK, &got)) == SDB_OK && got) {
    ck_assert_mem_eq(buffer, large + total, got);
    total += got;
  }
  ck_assert_int_eq(rc, SDB_IO);
  ck_assert_uint_ge(faults_of(db), 1);
  ck_assert_int_eq(sdb_get(db, "/large", 6, SDB_CURRENT, buffer, LARGE, &total, NULL), SDB_IO);
  sdb_reader_close(r);
  sdb_close(db);
}
END_TEST

/* A commit judges by what it reads: an existing document must not be made a second time because its leaf reads as zeros. Once new
 * pages have been written behind the cut, what was lost between reads as zeros without an error of the device: that is damage. */
START_TEST(test_commits_answer_io) {
  char path[32];
  unsigned refused = 0;
  fill();
  sdb *db = open_guarded(true);
  ck_assert_uint_eq(read_all(db), 0);
  cut(50);
  for (unsigned i = 0; i < DOCUMENTS; i += 3) {
    sdb_commit commit = {0};
    size_t len = path_of(i, path);
    int rc = sdb_put(db, path, len, "new", 3, NULL, &commit);
    if (rc == SDB_OK) ck_assert(!commit.created && commit.info.version >= 2);
    else if (rc == SDB_IO || rc == SDB_CORRUPT) refused++;
    else {
      char text[256];
      sdb_message(db, text, sizeof text);
      ck_abort_msg("document %u: %s: %s", i, sdb_strerror(rc), text);
    }
    if (i % 9 == 0) {
      rc = sdb_delete(db, path, len, NULL, NULL);
      ck_assert_msg(rc == SDB_OK || rc == SDB_IO || rc == SDB_CORRUPT, "document %u: %s", i, sdb_strerror(rc));
    }
  }
  ck_assert_uint_gt(refused, 0);
  sdb_close(db);
}
END_TEST

/* --- What counts as living ---------------------------------------------------------------------------------------------------- */

enum { SIZE = 8192, MOST_PAGES = 4096 };

static uint32_t heap[MOST_PAGES], heaps, tables[MOST_PAGES], table_count; /* numbers; places */

static int note_page(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  const uint32_t *end = user;
  if (kind == PAGE_HEAP && live && place && place < *end && heaps < MOST_PAGES) heap[heaps++] = number;
  if (kind == PAGE_TABLE && place && table_count < MOST_PAGES) tables[table_count++] = place;
  return SDB_OK;
}

static void note_pages(sdb *db, uint32_t end) {
  unsigned slot;
  heaps = table_count = 0;
  writer_enter(db, &slot);
  ck_assert_int_eq(pager_walk(db->pager, note_page, &end), SDB_OK);
  writer_leave(db, slot);
}

/* The table is asked what of a heap page is dead: where it reads as zeros, nothing is. */
static int count_all(sdb *db) {
  unsigned slot;
  writer_enter(db, &slot);
  int rc = commit_ready(db);
  for (uint32_t i = 0; rc == SDB_OK && i < heaps; i++) {
    uint32_t live = pager_live(db->pager, heap[i]);
    rc = clean_count(db, slot, heap[i]);
    ck_assert_msg(pager_live(db->pager, heap[i]) == live, "page %u counted %u and now %u", heap[i], live,
                  pager_live(db->pager, heap[i]));
  }
  writer_leave(db, slot);
  return rc;
}

/* Half a page is gone: its name and kind are read, and behind them zeros. */
START_TEST(test_nothing_dies_of_zeros) {
  unsigned failed = 0;
  fill();
  ck_assert_int_eq(system("cp guard.sdb copy"), 0);
  for (uint32_t i = 0; i == 0 || i < table_count; i++) {
    ck_assert_int_eq(system("rm -f guard.sdb*; cp copy guard.sdb"), 0);
    sdb *db = open_guarded(true);
    ck_assert_uint_eq(read_all(db), 0);
    note_pages(db, UINT32_MAX);
    ck_assert_uint_gt(table_count, i);
    uint32_t place = tables[i];
    note_pages(db, place);
    ck_assert_int_eq(truncate("guard.sdb", place * (off_t)SIZE + 4096), 0);
    failed += count_all(db) == SDB_IO && faults_of(db) > 0;
    sdb_close(db);
  }
  ck_assert_uint_gt(failed, 0);
}
END_TEST

/* --- Numbers that are free ---------------------------------------------------------------------------------------------------- */

static const uint8_t *mapped; /* the beginning of the file */

static const void *note_map(sdb_file *file, uint64_t offset, size_t len) {
  const void *at = sdb_storage_file()->map(file, offset, len);
  if (offset == 0) mapped = at;
  return at;
}

/* Half a page of the table is not given for once, while a free number is looked for: those of documents seem free. */
START_TEST(test_no_number_is_given_twice) {
  sdb_storage calls = *sdb_storage_file();
  sdb_options o;
  char path[32];
  sdb *db;
  fill();
  db = open_guarded(false);
  ck_assert_int_eq(sdb_delete(db, path, path_of(DOCUMENTS - 1, path), NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  calls.map = note_map;
  sdb_options_init(&o);
  o.storage = &calls;
  o.fault_guard = true;
  o.threads = false;
  ck_assert_int_eq(sdb_open("guard.sdb", &o, &db), SDB_OK);
  for (unsigned i = 0; i < DOCUMENTS - 1; i++) {
    size_t size;
    ck_assert_int_eq(sdb_get(db, path, path_of(i, path), SDB_CURRENT, buffer, LEN, &size, NULL), SDB_OK);
  }
  note_pages(db, UINT32_MAX);
  int empty = open("empty", O_RDWR | O_CREAT, 0600);
  ck_assert_int_ge(empty, 0);
  for (uint32_t i = 0; i < table_count; i++) {
    void *half = (void *)(uintptr_t)(mapped + tables[i] * (uint64_t)SIZE + 4096);
    ck_assert_ptr_eq(mmap(half, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, empty, 0), half);
  }
  int rc = sdb_put(db, "/fresh", 6, "fresh", 5, NULL, NULL);
  ck_assert_int_eq(rc, SDB_IO);
  ck_assert_uint_gt(faults_of(db), 0);
  for (unsigned i = 0; i < 20; i++) {
    size_t len = (size_t)snprintf(path, sizeof path, "/fresh/%u", i);
    ck_assert_int_eq(sdb_put(db, path, len, "fresh", 5, NULL, NULL), SDB_OK);
  }
  for (unsigned i = 0; i < DOCUMENTS - 1; i++) {
    size_t size;
    rc = sdb_get(db, path, path_of(i, path), SDB_CURRENT, buffer, LEN, &size, NULL);
    ck_assert_msg(rc == SDB_OK && size == LEN, "document %u: %s", i, sdb_strerror(rc));
  }
  close(empty);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}
END_TEST

/* --- What is not trusted ------------------------------------------------------------------------------------------------------ */

static void (*engine_fault)(void *user);
static void *engine_user;
static bool fault_while_reading;

static int note_guard(sdb_file *file, void (*fault)(void *user), void *user) {
  engine_fault = fault;
  engine_user = user;
  return sdb_storage_file()->guard(file, fault, user);
}

/* A read asks for the time between finding a document that expires and telling of it. */
static uint64_t time_with_fault(void *ctx) {
  if (fault_while_reading) engine_fault(engine_user);
  return sdb_storage_file()->now_ms(ctx);
}

enum { GET, GET_ALLOC, GET_RANGE, STAT, VERSIONS, ATTRIBUTES, ID, READER, READS };

/* What the call would hand out lies between marks that must stay. */
static int read_document(sdb *db, int what, uint8_t *out) {
  size_t *size = (size_t *)(void *)(out + 4096);
  void **data = (void **)(void *)(out + 5000);
  switch (what) {
    case GET: return sdb_get(db, "/d", 2, SDB_CURRENT, (uint8_t[64]){0}, 64, size, (sdb_info *)(void *)out);
    case GET_ALLOC: return sdb_get_alloc(db, "/d", 2, SDB_CURRENT, data, size, (sdb_info *)(void *)out);
    case GET_RANGE: return sdb_get_range(db, "/d", 2, SDB_CURRENT, 0, (uint8_t[64]){0}, 64, size, (sdb_info *)(void *)out);
    case STAT: return sdb_stat(db, "/d", 2, SDB_CURRENT, (sdb_info *)(void *)out);
    case VERSIONS: return sdb_versions(db, "/d", 2, NULL, 0, size);
    case ATTRIBUTES: return sdb_get_attributes(db, "/d", 2, SDB_CURRENT, (sdb_attributes *)(void *)out);
    case ID: return sdb_id_of(db, "/d", 2, out);
    default: return sdb_reader_open(db, "/d", 2, SDB_CURRENT, (sdb_reader **)(void *)data);
  }
}

/* Another thread, say, met a page that the device did not give while this one read: the read does not count, and says nothing. */
START_TEST(test_what_is_not_trusted_says_nothing) {
  static _Alignas(16) uint8_t out[8192], before[8192];
  sdb_storage calls = *sdb_storage_file();
  sdb_options o;
  sdb_put_options how;
  sdb *db;
  calls.guard = note_guard;
  calls.now_ms = time_with_fault;
  sdb_options_init(&o);
  o.storage = &calls;
  o.fault_guard = true;
  o.threads = false;
  ck_assert_int_eq(sdb_open("untrusted.sdb", &o, &db), SDB_OK);
  sdb_put_options_init(&how);
  how.content_type = "text/plain";
  how.expires_ms = 4102444800000; /* 2100 */
  ck_assert_int_eq(sdb_put(db, "/d", 2, "content", 7, &how, NULL), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  memset(out, 0x5A, sizeof out);
  memcpy(before, out, sizeof out);
  fault_while_reading = true;
  ck_assert_int_eq(read_document(db, _i, out), SDB_IO);
  fault_while_reading = false;
  ck_assert_mem_eq(out, before, sizeof out);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}
END_TEST

/* All threads hit the same hole at once: only where the engine may be called by several. */
#if SDB_THREADS
static sdb *shared;

static void *reader(void *arg) {
  (void)arg;
  char path[32];
  uint8_t bytes[LEN];
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    size_t size, len = path_of(i, path);
    int rc = sdb_get(shared, path, len, SDB_CURRENT, bytes, LEN, &size, NULL);
    if (rc != SDB_OK && rc != SDB_IO) return (void *)(intptr_t)rc;
    for (unsigned k = 0; rc == SDB_OK && k < LEN; k++)
      if (bytes[k] != i % 251 + 1) return (void *)1;
  }
  return NULL;
}

START_TEST(test_threads_at_one_hole) {
  pthread_t threads[4];
  fill();
  shared = open_guarded(true);
  ck_assert_uint_eq(read_all(shared), 0);
  for (unsigned i = 0; i < 4; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, reader, NULL), 0);
  usleep(500);
  cut(40);
  for (unsigned i = 0; i < 4; i++) {
    void *wrong;
    ck_assert_int_eq(pthread_join(threads[i], &wrong), 0);
    ck_assert_msg(wrong == NULL, "a thread saw %d", (int)(intptr_t)wrong);
  }
  ck_assert_uint_gt(read_all(shared), 0);
  sdb_close(shared);
}
END_TEST
#endif

/* --- Signals ------------------------------------------------------------------------------------------------------------------ */

/* How a child that does this ends: its exit status, or minus the signal. Sanitizers catch SIGBUS themselves; the default is put in
 * place first. */
static int end_of(void (*act)(void)) {
  fflush(stdout);
  pid_t child = fork();
  ck_assert_int_ge(child, 0);
  if (child == 0) {
    signal(SIGBUS, SIG_DFL);
    act();
    _exit(7);
  }
  int status;
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* A page of a file of our own that is not there. */
static volatile const uint8_t *foreign_page(void) {
  FILE *f = fopen("foreign", "w+");
  ck_assert_ptr_nonnull(f);
  ck_assert_int_eq(ftruncate(fileno(f), 65536), 0);
  volatile const uint8_t *p = mmap(NULL, 65536, PROT_READ, MAP_SHARED, fileno(f), 0);
  ck_assert_int_eq(ftruncate(fileno(f), 0), 0);
  return p;
}

static volatile const uint8_t *touched;
static sigjmp_buf back;

static void read_without_guard(void) {
  sdb *db = open_guarded(false);
  cut(10);
  read_all(db);
}

static void touch_foreign(void) {
  open_guarded(true);
  (void)*foreign_page();
}

static void send_signal(void) {
  open_guarded(true);
  kill(getpid(), SIGBUS);
  usleep(100000);
}

static void send_ignored(void) {
  signal(SIGBUS, SIG_IGN);
  open_guarded(true);
  kill(getpid(), SIGBUS);
  usleep(1000);
  _exit(9);
}

static void touch_ignored(void) {
  signal(SIGBUS, SIG_IGN);
  touch_foreign();
}

static void handle_with_info(int number, siginfo_t *info, void *context) {
  (void)context;
  if (number == SIGBUS && (volatile const uint8_t *)info->si_addr == touched) siglongjmp(back, 1);
  _exit(8);
}

static void handle(int number) { _exit(number == SIGBUS ? 11 : 8); }

static void touch_handled_with_info(void) {
  struct sigaction action = {.sa_sigaction = handle_with_info, .sa_flags = SA_SIGINFO};
  sigaction(SIGBUS, &action, NULL);
  open_guarded(true);
  touched = foreign_page();
  if (sigsetjmp(back, 1) == 0) (void)*touched;
  else _exit(10);
}

static void touch_handled(void) {
  signal(SIGBUS, handle);
  touch_foreign();
}

START_TEST(test_signals_of_others) {
  fill();
  ck_assert_int_eq(end_of(read_without_guard), -SIGBUS);
  fill();
  ck_assert_int_eq(end_of(touch_foreign), -SIGBUS);
  ck_assert_int_eq(end_of(send_signal), -SIGBUS);
  ck_assert_int_eq(end_of(send_ignored), 9);
  ck_assert_int_eq(end_of(touch_ignored), -SIGBUS);
  ck_assert_int_eq(end_of(touch_handled_with_info), 10);
  ck_assert_int_eq(end_of(touch_handled), 11);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("guard");
  TCase *tc = tcase_create("guard");
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_set_timeout(tc, 120);
  tcase_add_loop_test(tc, test_reads_answer_io, 0, 2 * (int)(sizeof shares / sizeof *shares));
  tcase_add_test(tc, test_streams_answer_io);
  tcase_add_test(tc, test_commits_answer_io);
  tcase_add_test(tc, test_nothing_dies_of_zeros);
  tcase_add_test(tc, test_no_number_is_given_twice);
#if SDB_THREADS
  tcase_add_test(tc, test_threads_at_one_hole);
#endif
  tcase_add_test(tc, test_signals_of_others);
  suite_add_tcase(suite, tc);
  TCase *trust = tcase_create("trust");
  tcase_add_checked_fixture(trust, setup, teardown);
  tcase_add_loop_test(trust, test_what_is_not_trusted_says_nothing, 0, READS);
  suite_add_tcase(suite, trust);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
