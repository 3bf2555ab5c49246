/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_cache.c - the page cache where nothing is mapped: what it keeps, how much, and what it fetches ahead. */
#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"
#include "seed.h"
#include "simulated.h"

enum { PAGE = 8192, SLACK = 32 }; /* frames beyond the limit: copies of pages that wait for a group of commits, or for readers */

/* --- A storage that notes what is fetched ahead and what is read -------------------------------------------------------------- */

enum { NOTES = 65536 };

struct range {
  uint64_t offset, len;
};

static sdb_storage *memory, noting;
static struct range fetched[NOTES];
static size_t fetched_count, reads_foreseen, reads_unforeseen;

static void note_prefetch(sdb_file *file, uint64_t offset, uint64_t len) {
  (void)file;
  ck_assert_uint_lt(fetched_count, NOTES);
  fetched[fetched_count++] = (struct range){offset, len};
}

static int note_read(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  bool foreseen = false;
  for (size_t i = 0; i < fetched_count && !foreseen; i++)
    foreseen = fetched[i].offset <= offset && offset + len <= fetched[i].offset + fetched[i].len;
  if (foreseen) reads_foreseen++;
  else reads_unforeseen++;
  return memory->read(file, offset, buf, len);
}

static void forget_notes(void) { fetched_count = reads_foreseen = reads_unforeseen = 0; }

static void setup(void) {
  memory = sdb_storage_memory_new();
  ck_assert_ptr_nonnull(memory);
  noting = *memory;
  noting.prefetch = note_prefetch;
  noting.read = note_read;
  forget_notes();
}

static void teardown(void) { sdb_storage_memory_free(memory); }

/* --- Helpers ------------------------------------------------------------------------------------------------------------------ */

static sdb *open_with(const sdb_storage *storage, uint32_t cache_pages) {
  char message[256] = "";
  sdb_options o;
  sdb_options_init(&o);
  o.storage = storage;
  o.threads = false;
  o.page_size = PAGE;
  o.page_cache_size = cache_pages;
  o.use_compression = false; /* contents here are easy to make, and as large as they seem */
  o.durability = SDB_NONE;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 4 << 20;
  o.change_log_bytes = 0;
  o.message = message;
  o.message_size = sizeof message;
  sdb *db = NULL;
  int rc = sdb_open("cache.sdb", &o, &db);
  ck_assert_msg(rc == SDB_OK, "open: %d %s", rc, message);
  return db;
}

static sdb_stats stats_of(sdb *db) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

static size_t path_of(unsigned i, char path[64]) {
  return (size_t)snprintf(path, 64, "/state/node%04u/sensor/%08u/metric", i % 1000, i);
}

static void put(sdb *db, unsigned i, uint32_t len) {
  static uint8_t bytes[65536];
  char path[64];
  size_t path_len = path_of(i, path);
  memset(bytes, (int)(i % 251), len);
  ck_assert_int_eq(sdb_put(db, path, path_len, bytes, len, NULL, NULL), SDB_OK);
}

static void get(sdb *db, unsigned i, uint32_t len) {
  static uint8_t bytes[65536];
  char path[64];
  size_t path_len = path_of(i, path), size = 0;
  ck_assert_int_eq(sdb_get(db, path, path_len, SDB_CURRENT, bytes, sizeof bytes, &size, NULL), SDB_OK);
  ck_assert_uint_eq(size, len);
  ck_assert_uint_eq(bytes[len - 1], i % 251);
}

static void shuffle(unsigned *items, unsigned count, uint64_t *random) {
  for (unsigned i = 0; i < count; i++) items[i] = i;
  for (unsigned i = count; i > 1; i--) {
    unsigned k = (unsigned)(sim_random(random) % i), other = items[k];
    items[k] = items[i - 1];
    items[i - 1] = other;
  }
}

/* --- What it keeps ------------------------------------------------------------------------------------------------------------ */

/* Cumulative weights of 1 / rank^0.99. */
static double *zipf_new(unsigned count) {
  double *sum = malloc(count * sizeof *sum), total = 0;
  ck_assert_ptr_nonnull(sum);
  for (unsigned i = 0; i < count; i++) sum[i] = total += 1 / pow(i + 1, 0.99);
  return sum;
}

static unsigned zipf_draw(const double *sum, unsigned count, uint64_t *random) {
  double at = (double)(sim_random(random) >> 11) / (double)(1ull << 53) * sum[count - 1];
  unsigned low = 0, high = count - 1;
  while (low < high) {
    unsigned middle = (low + high) / 2;
    if (sum[middle] < at) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* With small documents scattered over pages that hold fifty each, pages are far less unlike than documents: where 1,000 bytes could
 * reach 92 % with the best choice of pages and true LRU has 90, 100 bytes could reach 80 and LRU has 71. Hints then take the inner
 * pages of the tree, which always hit, out of the count. */
struct work {
  uint32_t len;
  unsigned documents;
  double least;
};

static double hit_rate(sdb *db, const struct work *w, const unsigned *rank, const double *zipf, unsigned gets, uint64_t *random) {
  sdb_stats before = stats_of(db);
  for (unsigned i = 0; i < gets; i++) get(db, rank[zipf_draw(zipf, w->documents, random)], w->len);
  sdb_stats after = stats_of(db);
  double hits = (double)(after.cache_hits - before.cache_hits), misses = (double)(after.cache_misses - before.cache_misses);
  return hits / (hits + misses);
}

static const struct work works[] = {{1000, 16000, 0.80}, {100, 60000, 0.65}};

START_TEST(test_skewed_reads_hit) {
  const struct work *w = &works[_i];
  uint64_t first, count = seed_range("cache", 1, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed;
    unsigned *rank = malloc(w->documents * sizeof *rank);
    double *zipf = zipf_new(w->documents);
    setup();
    sdb *db = open_with(memory, 1024);
    shuffle(rank, w->documents, &random);
    for (unsigned i = 0; i < w->documents; i++) put(db, rank[i], w->len);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    shuffle(rank, w->documents, &random);
    db = open_with(memory, 64);
    sdb_stats s = stats_of(db);
    unsigned pages = (unsigned)(s.file_bytes / PAGE - s.free_bytes / PAGE);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    unsigned cache = pages / 6;
    db = open_with(memory, cache);
    hit_rate(db, w, rank, zipf, w->documents, &random);
    double rate = hit_rate(db, w, rank, zipf, w->documents, &random);
    s = stats_of(db);
    printf("%u B: %u pages, cache %u: %.1f %% of all page reads are hits\n", w->len, pages, cache, rate * 100);
    ck_assert_msg(rate >= w->least, "seed %" PRIu64 ": only %.1f %%", seed, rate * 100);
    ck_assert_uint_le(s.cached_pages, cache + SLACK);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    teardown();
    free(zipf);
    free(rank);
  }
}
END_TEST

/* What a scan reads once does not push out what is read all the time. */
START_TEST(test_a_scan_leaves_the_hot_pages) {
  enum { DOCUMENTS = 8000, HOT = 300 };
  uint64_t first, random;
  seed_range("cache scan", 1, &first);
  random = first;
  setup();
  sdb *db = open_with(memory, 1024);
  for (unsigned i = 0; i < DOCUMENTS; i++) put(db, i, 1000);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = open_with(memory, 300);
  for (unsigned round = 0; round < 4; round++)
    for (unsigned i = 0; i < HOT; i++) get(db, i, 1000);
  for (unsigned i = HOT; i < DOCUMENTS; i += 1 + (unsigned)(sim_random(&random) % 8)) { /* each page once or twice */
    get(db, i, 1000);
    get(db, i % HOT, 1000);
  }
  sdb_stats before = stats_of(db);
  for (unsigned i = 0; i < HOT; i++) get(db, i, 1000);
  ck_assert_uint_le(stats_of(db).cache_misses - before.cache_misses, HOT / 10);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  teardown();
}
END_TEST

/* --- How much it keeps -------------------------------------------------------------------------------------------------------- */

START_TEST(test_clean_and_dirty_pages_are_bounded) {
  enum { CACHE = 256, DOCUMENTS = 8000 };
  uint64_t first, random;
  seed_range("cache bound", 1, &first);
  random = first;
  setup();
  sdb *db = open_with(memory, CACHE);
  uint64_t most = 0;
  for (unsigned i = 0; i < 4 * DOCUMENTS; i++) {
    if (i < DOCUMENTS || sim_random(&random) % 2) put(db, (unsigned)(i < DOCUMENTS ? i : sim_random(&random) % DOCUMENTS), 900);
    else get(db, (unsigned)(sim_random(&random) % DOCUMENTS), 900);
    uint64_t pages = stats_of(db).cached_pages;
    if (pages > most) most = pages;
  }
  printf("at most %" PRIu64 " pages in memory, %d allowed\n", most, CACHE);
  ck_assert_uint_le(most, CACHE + SLACK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  teardown();
}
END_TEST

/* --- What it fetches ahead ---------------------------------------------------------------------------------------------------- */

START_TEST(test_streams_are_fetched_ahead) {
  enum { SIZE = 4 << 20 };
  static uint8_t bytes[SIZE];
  size_t got;
  setup();
  sdb *db = open_with(memory, 64);
  ck_assert_int_eq(sdb_put(db, "/large", 6, bytes, SIZE, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = open_with(&noting, 64);
  sdb_reader *r;
  ck_assert_int_eq(sdb_reader_open(db, "/large", 6, SDB_CURRENT, &r), SDB_OK);
  forget_notes();
  for (unsigned i = 0; i < SIZE / SDB_CHUNK; i++) ck_assert_int_eq(sdb_reader_read(r, bytes, SDB_CHUNK, &got), SDB_OK);
  ck_assert_uint_eq(reads_unforeseen, 2); /* two chunks make a sequence */
  ck_assert_uint_eq(reads_foreseen, SIZE / SDB_CHUNK - 2);
  ck_assert_uint_le(fetched_count, SIZE / SDB_CHUNK / 8 + 2);
  forget_notes();
  uint64_t random = 1;
  for (unsigned i = 0; i < 100; i++) { /* whoever jumps about is not served chunks that he does not ask for */
    unsigned chunk = (unsigned)(i % 2 ? sim_random(&random) % 32 : 32 + sim_random(&random) % 32);
    ck_assert_int_eq(sdb_reader_seek(r, chunk * (uint64_t)SDB_CHUNK), SDB_OK);
    ck_assert_int_eq(sdb_reader_read(r, bytes, SDB_CHUNK, &got), SDB_OK);
  }
  ck_assert_uint_le(fetched_count, 4);
  sdb_reader_close(r);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  teardown();
}
END_TEST

START_TEST(test_scans_are_fetched_ahead) {
  enum { DOCUMENTS = 30000 };
  uint64_t random = 1;
  unsigned *order = malloc(DOCUMENTS * sizeof *order), seen = 0;
  setup();
  sdb *db = open_with(memory, 2048);
  shuffle(order, DOCUMENTS, &random);
  for (unsigned i = 0; i < DOCUMENTS; i++) put(db, order[i], 10);
  free(order);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = open_with(&noting, 2048);
  for (unsigned i = 0; i < 100; i++) get(db, i * 7, 10);
  ck_assert_uint_eq(fetched_count, 0); /* single gets foresee nothing */
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = open_with(&noting, 2048);
  forget_notes();
  sdb_cursor *c;
  sdb_entry entry;
  ck_assert_int_eq(sdb_cursor_open(db, NULL, &c), SDB_OK);
  while (sdb_cursor_next(c, &entry) == SDB_OK) seen++;
  sdb_cursor_close(c);
  ck_assert_uint_eq(seen, DOCUMENTS);
  printf("a scan: %zu reads foreseen, %zu not, %zu ranges fetched\n", reads_foreseen, reads_unforeseen, fetched_count);
  ck_assert_uint_ge(reads_foreseen, 50);
  ck_assert_uint_le(reads_unforeseen, 8 + reads_foreseen / 8);
  ck_assert_uint_le(fetched_count, 2 * reads_foreseen + 8);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  teardown();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cache");
  TCase *tc = tcase_create("cache");
  tcase_set_timeout(tc, 120);
  tcase_add_loop_test(tc, test_skewed_reads_hit, 0, (int)(sizeof works / sizeof *works));
  tcase_add_test(tc, test_a_scan_leaves_the_hot_pages);
  tcase_add_test(tc, test_clean_and_dirty_pages_are_bounded);
  tcase_add_test(tc, test_streams_are_fetched_ahead);
  tcase_add_test(tc, test_scans_are_fetched_ahead);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
