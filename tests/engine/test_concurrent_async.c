/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_concurrent_async.c - sdb_get_async with a pool of threads: many who ask, cancel and write at once, callbacks that ask again,
 * a close in the middle; and a storage table whose memory or threads run out.
 *
 * One thing is counted in every test: accepted requests and callbacks. In the end they are equal, request by request.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"
#include "seed.h"

enum { DOCUMENTS = 64, ASKERS = 3, ROUNDS = 3000 };

static sdb *db;
static char directory[64];
static atomic_bool closed;
static atomic_uint accepted, answered, cancelled, wrong, late;

/* One request: told exactly once. */
typedef struct ticket {
  atomic_uint calls;
  atomic_uint code; /* negated */
  atomic_ullong number;
  unsigned document;
  unsigned again; /* asks so many times more */
} ticket;

static uint32_t next_random(uint64_t *state) {
  *state = *state * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(*state >> 33);
}

static size_t path_of(unsigned document, char path[32]) { return (size_t)snprintf(path, 32, "/async/%u", document); }

static size_t content_make(unsigned document, uint8_t *buf) {
  size_t size = document % 8 == 0 ? 20000 + document : 50 + document * 7;
  memset(buf, (int)document + 1, size);
  return size;
}

static bool content_right(unsigned document, const uint8_t *data, size_t size) {
  if (size != (document % 8 == 0 ? 20000 + document : 50 + document * 7)) return false;
  for (size_t i = 0; i < size; i++) {
    if (data[i] != (uint8_t)(document + 1)) return false;
  }
  return true;
}

static int ask(ticket *t);

static void tell(void *user, int code, void *data, size_t size, const sdb_info *info) {
  ticket *t = user;
  if (atomic_load(&closed)) atomic_fetch_add(&late, 1);
  if (code == SDB_OK && (!content_right(t->document, data, size) || info->size != size)) atomic_fetch_add(&wrong, 1);
  if (code != SDB_OK && code != SDB_CANCELLED && code != SDB_NO_MEMORY) atomic_fetch_add(&wrong, 1);
  if (code != SDB_OK && (data || info)) atomic_fetch_add(&wrong, 1);
  sdb_free(db, data);
  atomic_store(&t->code, (unsigned)-code);
  atomic_fetch_add(code == SDB_CANCELLED ? &cancelled : &answered, 1);
  atomic_fetch_add(&t->calls, 1);
  if (t->again > 0) {
    t->again--;
    int rc = ask(t);
    if (rc != SDB_OK && rc != SDB_CANCELLED && rc != SDB_BUSY && rc != SDB_NO_MEMORY) atomic_fetch_add(&wrong, 1);
  }
}

static int ask(ticket *t) {
  char path[32];
  size_t len = path_of(t->document, path);
  sdb_request number = 0;
  int rc = sdb_get_async(db, path, len, SDB_CURRENT, tell, t, &number);
  if (rc != SDB_OK) return rc;
  atomic_fetch_add(&accepted, 1);
  atomic_store(&t->number, number);
  return SDB_OK;
}

static void open_database(const sdb_storage *storage, uint32_t workers) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = storage;
  o.worker_threads = workers;
  o.page_cache_size = 64;
  ck_assert_int_eq(sdb_open("async.sdb", &o, &db), SDB_OK);
  atomic_store(&closed, false);
}

static void close_database(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  atomic_store(&closed, true);
}

static void fill(void) {
  static uint8_t buf[40000];
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[32];
    size_t len = path_of(i, path), size = content_make(i, buf);
    ck_assert_int_eq(sdb_put(db, path, len, buf, size, &o, NULL), SDB_OK);
  }
}

static void setup(void) {
  snprintf(directory, sizeof directory, "%s", "/tmp/sdb-async-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(directory));
  ck_assert_int_eq(chdir(directory), 0);
}

static void teardown(void) {
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}

/* --- Many at once ------------------------------------------------------------------------------------------------------------- */

static ticket *tickets; /* of all askers */
static atomic_uint cancels;

static void *asker(void *arg) {
  uintptr_t me = (uintptr_t)arg;
  uint64_t random = seed_number("SDB_SEED", 1) * 131 + me;
  for (unsigned i = 0; i < ROUNDS; i++) {
    ticket *t = &tickets[me * ROUNDS + i];
    t->document = next_random(&random) % DOCUMENTS;
    t->again = next_random(&random) % 10 == 0 ? 2 : 0;
    int rc;
    while ((rc = ask(t)) == SDB_BUSY) usleep(100);
    if (rc != SDB_OK) atomic_fetch_add(&wrong, 1);
    if (next_random(&random) % 3 == 0) { /* one of the last few, whatever has become of it */
      unsigned back = next_random(&random) % 20;
      uint64_t number = atomic_load(&tickets[me * ROUNDS + (i > back ? i - back : 0)].number);
      rc = sdb_async_cancel(db, number);
      if (rc == SDB_OK) atomic_fetch_add(&cancels, 1);
      else if (rc != SDB_NOT_FOUND) atomic_fetch_add(&wrong, 1);
    }
  }
  return NULL;
}

static void *writer(void *arg) {
  static uint8_t buf[40000];
  atomic_bool *stop = arg;
  uint64_t random = 7;
  while (!atomic_load(stop)) {
    char path[32];
    unsigned document = next_random(&random) % DOCUMENTS;
    size_t len = path_of(document, path), size = content_make(document, buf);
    if (sdb_put(db, path, len, buf, size, NULL, NULL) != SDB_OK) atomic_fetch_add(&wrong, 1);
  }
  return NULL;
}

START_TEST(test_all_at_once) {
  pthread_t askers[ASKERS], other;
  atomic_bool stop = false;
  printf("async: seed %llu\n", (unsigned long long)seed_number("SDB_SEED", 1));
  tickets = calloc(ASKERS * ROUNDS, sizeof *tickets);
  ck_assert_ptr_nonnull(tickets);
  open_database(NULL, 1 + 2 * (uint32_t)_i);
  fill();
  for (uintptr_t i = 0; i < ASKERS; i++) ck_assert_int_eq(pthread_create(&askers[i], NULL, asker, (void *)i), 0);
  ck_assert_int_eq(pthread_create(&other, NULL, writer, &stop), 0);
  for (int i = 0; i < ASKERS; i++) pthread_join(askers[i], NULL);
  atomic_store(&stop, true);
  pthread_join(other, NULL);
  close_database(); /* with requests that wait and others that are being served and ask again */
  ck_assert_uint_eq(atomic_load(&wrong), 0);
  ck_assert_uint_eq(atomic_load(&late), 0);
  ck_assert_uint_eq(atomic_load(&accepted), atomic_load(&answered) + atomic_load(&cancelled));
  ck_assert_uint_ge(atomic_load(&cancelled), atomic_load(&cancels));
  unsigned calls = 0;
  for (unsigned i = 0; i < ASKERS * ROUNDS; i++) {
    unsigned n = atomic_load(&tickets[i].calls);
    ck_assert_uint_ge(n, 1);
    ck_assert_uint_le(n, 3);
    calls += n;
  }
  ck_assert_uint_eq(calls, atomic_load(&accepted));
  free(tickets);
}
END_TEST

/* --- Cancel against a request that is being served ---------------------------------------------------------------------------- */

static atomic_bool gate_open;
static atomic_uint inside;

static void wait_at_gate(void *user, int code, void *data, size_t size, const sdb_info *info) {
  atomic_fetch_add(&inside, 1);
  while (!atomic_load(&gate_open)) usleep(100);
  if (sdb_close(db) != SDB_INVALID) atomic_fetch_add(&wrong, 1); /* although another thread is closing it */
  tell(user, code, data, size, info);
}

/* Once the close has cancelled what waits, which it does before it waits for what runs. */
static void *open_gate_soon(void *arg) {
  const ticket *waiter = arg;
  while (atomic_load(&waiter->calls) == 0) usleep(100);
  atomic_store(&gate_open, true);
  return NULL;
}

/* One thread, held in a callback: what waits behind it can be cancelled, it itself cannot; close waits for it. */
START_TEST(test_cancel_and_close_beside_a_running_callback) {
  ticket held = {.document = 1}, waiting = {.document = 2}, left = {.document = 3};
  sdb_request number;
  pthread_t opener;
  open_database(NULL, 1);
  fill();
  ck_assert_int_eq(sdb_get_async(db, "/async/1", 8, SDB_CURRENT, wait_at_gate, &held, &number), SDB_OK);
  while (atomic_load(&inside) == 0) usleep(100);
  ck_assert_int_eq(ask(&waiting), SDB_OK);
  ck_assert_int_eq(ask(&left), SDB_OK);
  ck_assert_int_eq(sdb_async_cancel(db, number), SDB_NOT_FOUND);
  ck_assert_uint_eq(atomic_load(&held.calls), 0);
  ck_assert_int_eq(sdb_async_cancel(db, atomic_load(&waiting.number)), SDB_OK);
  ck_assert_uint_eq(atomic_load(&waiting.calls), 1);
  ck_assert_uint_eq(atomic_load(&waiting.code), -SDB_CANCELLED);
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  ck_assert_uint_eq(s.requests, 2);
  ck_assert_int_eq(pthread_create(&opener, NULL, open_gate_soon, &left), 0);
  close_database();
  pthread_join(opener, NULL);
  ck_assert_uint_eq(atomic_load(&held.calls), 1);
  ck_assert_uint_eq(atomic_load(&held.code), 0);
  ck_assert_uint_eq(atomic_load(&left.calls), 1);
  ck_assert_uint_eq(atomic_load(&left.code), -SDB_CANCELLED);
  ck_assert_uint_eq(atomic_load(&late), 0);
  ck_assert_uint_eq(atomic_load(&wrong), 0);
}
END_TEST

/* --- No memory, no thread ----------------------------------------------------------------------------------------------------- */

static atomic_uint allocations_left, threads_left;
static atomic_int held;

static void *limited_realloc(void *ctx, void *p, size_t len) {
  (void)ctx;
  if (len == 0) {
    if (p) atomic_fetch_sub(&held, 1);
    free(p);
    return NULL;
  }
  unsigned left = atomic_load(&allocations_left);
  while (left > 0 && left != UINT32_MAX && !atomic_compare_exchange_weak(&allocations_left, &left, left - 1)) {}
  if (left == 0) return NULL;
  void *q = realloc(p, len);
  if (q && !p) atomic_fetch_add(&held, 1);
  return q;
}

static int limited_thread_start(void *ctx, void (*run)(void *arg), void *arg, void **thread) {
  unsigned left = atomic_load(&threads_left);
  if (left == 0) return SDB_NO_MEMORY;
  atomic_store(&threads_left, left - 1);
  return sdb_storage_file()->thread_start(ctx, run, arg, thread);
}

static sdb_storage limited_table(void) {
  sdb_storage t = *sdb_storage_file();
  t.realloc = limited_realloc;
  t.thread_start = limited_thread_start;
  atomic_store(&allocations_left, UINT32_MAX);
  atomic_store(&threads_left, 1000);
  return t;
}

enum { FEW = 8 };

/* Asks FEW times; what is accepted is told once, what is refused never. Returns how many were accepted. */
static unsigned ask_few(void) {
  ticket few[FEW] = {{.document = 0}};
  unsigned yes = 0;
  bool taken[FEW];
  for (unsigned i = 0; i < FEW; i++) {
    few[i].document = i;
    int rc = ask(&few[i]);
    ck_assert_msg(rc == SDB_OK || rc == SDB_NO_MEMORY, "%s", sdb_strerror(rc));
    taken[i] = rc == SDB_OK;
    yes += taken[i];
  }
  atomic_store(&allocations_left, UINT32_MAX);
  close_database();
  for (unsigned i = 0; i < FEW; i++) ck_assert_uint_eq(atomic_load(&few[i].calls), taken[i]);
  ck_assert_uint_eq(atomic_load(&wrong), 0);
  ck_assert_int_eq(atomic_load(&held), 0);
  return yes;
}

START_TEST(test_allocations_run_out) {
  sdb_storage table = limited_table();
  unsigned none = 0, some = 0, all = 0, left = 0;
  open_database(&table, 2);
  fill();
  close_database();
  while (left <= 4 * FEW) { /* by then there is enough for all of them, whatever the threads do meanwhile */
    open_database(&table, 2);
    atomic_store(&allocations_left, left++);
    unsigned yes = ask_few();
    none += yes == 0;
    some += yes > 0 && yes < FEW;
    all += yes == FEW;
  }
  ck_assert_uint_gt(none, 0);
  ck_assert_uint_gt(some, 0);
  ck_assert_uint_gt(all, 0);
}
END_TEST

START_TEST(test_threads_run_out) {
  sdb_storage table = limited_table();
  open_database(&table, 4);
  fill();
  atomic_store(&threads_left, 0);
  ticket refused = {.document = 1};
  ck_assert_int_eq(ask(&refused), SDB_NO_MEMORY);
  ck_assert_uint_eq(atomic_load(&refused.calls), 0);
  atomic_store(&threads_left, 1); /* one of the four: it serves everything */
  ck_assert_uint_eq(ask_few(), FEW);
  ck_assert_uint_eq(atomic_load(&refused.calls), 0);
}
END_TEST

/* --- How many ----------------------------------------------------------------------------------------------------------------- */

static atomic_uint at_once, most_at_once, wanted_at_once;

/* Stays until as many callbacks run as are wanted, or for long. */
static void stay(void *user, int code, void *data, size_t size, const sdb_info *info) {
  (void)user, (void)size, (void)info;
  unsigned now = atomic_fetch_add(&at_once, 1) + 1, most = atomic_load(&most_at_once);
  while (now > most && !atomic_compare_exchange_weak(&most_at_once, &most, now)) {}
  for (int i = 0; i < 20000 && atomic_load(&most_at_once) < atomic_load(&wanted_at_once); i++) usleep(1000);
  atomic_fetch_sub(&at_once, 1);
  sdb_free(db, data);
  atomic_fetch_add(code == SDB_OK ? &answered : &wrong, 1);
}

/* As many requests are served at once as there are threads, and no more. */
START_TEST(test_as_many_as_threads) {
  unsigned threads = (unsigned)_i, asked = 4 * threads;
  char path[32];
  open_database(NULL, threads);
  fill();
  atomic_store(&wanted_at_once, threads);
  for (unsigned i = 0; i < asked; i++)
    ck_assert_int_eq(sdb_get_async(db, path, path_of(i, path), SDB_CURRENT, stay, NULL, NULL), SDB_OK);
  for (int i = 0; i < 60000 && atomic_load(&answered) < asked; i++) usleep(1000);
  ck_assert_uint_eq(atomic_load(&answered), asked);
  ck_assert_uint_eq(atomic_load(&wrong), 0);
  ck_assert_uint_eq(atomic_load(&most_at_once), threads);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("concurrent_async");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, test_all_at_once, 0, 2);
  tcase_add_test(t, test_cancel_and_close_beside_a_running_callback);
  tcase_add_test(t, test_allocations_run_out);
  tcase_add_test(t, test_threads_run_out);
  tcase_add_loop_test(t, test_as_many_as_threads, 1, 5);
  Suite *s = suite_create("concurrent_async");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? 1 : 0;
}
