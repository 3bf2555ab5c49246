/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_damaged_replay.c - a small database that was not closed, with commits in its log, and each page of the data file damaged in
 * turn.
 *
 *   1. it opens, for reading and for writing, unless the page is one of the fixed places
 *   2. no byte is wrong, no document is as it was before the log, nothing that is there is said not to be there
 *   3. what does not stand on the damaged page is served, as the log has left it
 *   4. a damaged page of a tree costs nothing: the handle writes, everything is served, and after the next crash too
 *   5. where the log cannot be applied whole the handle says so and writes nothing, and the next one finds the same
 *   6. repair saves all of 3
 *
 * Then pairs of pages, of which only 1, 2 and 5 are asked; and a damaged tree far larger than the cache.
 *
 * Environment: SDB_AT=n: only page n. SDB_DEEP=n: 6 with every nth page.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/care.h"
#include "seed.h"
#include "workload.h"

#define NAME WORKLOAD_NAME
#define MENDED "mended.sdb"

enum {
  PAGE = 4096,
  BODY = 393216 / PAGE + 522,
  OLD = 300,
  FRESH = 20,
  DOCUMENTS = OLD + FRESH,
  PAGES = 2048,
  LONG = 90000,
  PAIR = PAGES
};

static sim *device;
static bool encrypted;
static sdb_options options;
static sdb_storage noting;
static const sdb_storage *plain;
static char damage[80];
static uint8_t *image;
static uint64_t pages;
static uint8_t kinds[PAGES]; /* of the page that stands there; 0: none */
static uint8_t content[LONG], found[LONG];

__attribute__((noreturn)) static void report(const char *what, const char *why) {
  ck_abort_msg("%s: %s: %s", damage, what, why);
  abort();
}

/* --- The database ------------------------------------------------------------------------------------------------------------- */

static size_t path_of(unsigned i, char path[64]) {
  return (size_t)snprintf(path, 64, "/%02u/a rather long directory, so that leaves are many/%03u", i * 7 % 50, i);
}
static size_t name_of(unsigned i, char name[64]) { return (size_t)snprintf(name, 64, "/name/%03u", i); }
static uint32_t size_of(unsigned i) { return i % 100 == 5 ? LONG : i * 37 % 300; }

static bool is_new(unsigned i) { return i >= OLD; }
static bool is_deleted(unsigned i) { return !is_new(i) && i % 10 == 7; }
static bool is_bound(unsigned i) { return !is_new(i) && i % 10 == 4; }
static bool is_changed(unsigned i) { return !is_new(i) && !is_deleted(i) && i % 3 == 0; }
static unsigned versions_of(unsigned i) { return is_deleted(i) ? 0 : is_changed(i) ? 2 : 1; }

static void put(sdb *db, unsigned i, unsigned version) {
  char path[64];
  size_t len = path_of(i, path);
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  if (i % 9 == 0) o.expires_ms = 4102444800000; /* 2100 */
  model_content(1000 * version + i, 0, content, size_of(i));
  ck_assert_int_eq(sdb_put(db, path, len, content, size_of(i), &o, NULL), SDB_OK);
}

static void die(sdb *db, sim *on) {
  ck_assert_int_eq(sdb_flush(db), SDB_OK);
  sim_die_at(on, 1);
  sdb_close(db);
  sim_crash(on, SIM_DROP_ALL, 1);
}

/* Pages that are read for the answers about a document, when it is asked for in the checkpoint's state. */
static bool rests[DOCUMENTS][PAGES + 1];
static bool *reading;

static int note_read(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  for (uint64_t p = offset / PAGE; reading != NULL && p <= (offset + len - 1) / PAGE; p++) reading[p] = true;
  return plain->read(file, offset, buf, len);
}

static void find_out(void) {
  sdb_options o = options;
  noting = *plain;
  noting.read = note_read;
  o.storage = &noting;
  o.read_only = true;
  for (unsigned i = 0; i < OLD; i++) {
    char path[64];
    size_t len = path_of(i, path), size;
    sdb *db;
    ck_assert_int_eq(sdb_open(NAME, &o, &db), SDB_OK);
    reading = rests[i];
    ck_assert_int_eq(sdb_get(db, path, len, SDB_CURRENT, found, sizeof found, &size, NULL), SDB_OK);
    reading = NULL;
    sdb_close(db);
  }
  for (unsigned i = OLD; i < DOCUMENTS; i++) /* their numbers are new ones or those of deleted documents */
    for (unsigned k = 0; k < OLD; k++)
      for (uint64_t p = 0; p < PAGES; p++) rests[i][p] |= rests[k][p];
}

static void classify(void) {
  image = malloc(PAGES * PAGE);
  ck_assert_ptr_nonnull(image);
  ck_assert(sim_peek(device, NAME, 0, image, pages * PAGE));
  for (uint64_t p = 0; p < pages; p++) {
    const uint8_t *at = image + p * PAGE;
    uint32_t crc = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    bool unit = p >= BODY && crc == sdb_crc32c(0, at + 4, PAGE - 4);
    kinds[p] = unit ? at[4] : 0;
  }
}

static void make_database(void) {
  static const uint8_t key[SDB_KEY_SIZE] = "thirty-two bytes make up a key..";
  sdb *db;
  uint64_t size;
  device = sim_new(1);
  plain = sim_storage(device);
  sdb_options_init(&options);
  options.storage = plain;
  options.threads = false;
  options.page_size = PAGE;
  options.page_cache_size = 256;
  options.wal_segment_size = 1 << 20;
  options.change_log_bytes = 0;
  options.encryption_key = encrypted ? key : NULL;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  for (unsigned i = 0; i < OLD; i++) put(db, i, 1);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_crash(device, SIM_KEEP_ALL, 1);
  ck_assert(sim_size(device, NAME, &size));
  pages = size / PAGE;
  ck_assert_uint_le(pages, PAGES);
  options.create = false;
  memset(rests, 0, sizeof rests);
  find_out();
  classify();
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[64], name[64];
    size_t len = path_of(i, path), name_len = name_of(i, name);
    if (is_new(i) || is_changed(i)) put(db, i, versions_of(i));
    if (is_deleted(i)) ck_assert_int_eq(sdb_delete(db, path, len, NULL, NULL), SDB_OK);
    if (is_bound(i)) ck_assert_int_eq(sdb_bind(db, path, len, name, name_len, NULL, NULL), SDB_OK);
  }
  die(db, device);
}

/* --- Answers ------------------------------------------------------------------------------------------------------------------ */

/* True: it was answered. `name`: of those that lead to the document. */
static bool ask_path(sdb *db, unsigned i, const char *path, size_t len) {
  size_t size;
  sdb_info info;
  int code = sdb_get(db, path, len, SDB_CURRENT, found, sizeof found, &size, &info);
  unsigned version = versions_of(i);
  if (code == SDB_CORRUPT) return false;
  if (version == 0 && code == SDB_NOT_FOUND) return true;
  if (code != SDB_OK) report(path, sdb_strerror(code));
  model_content(1000 * version + i, 0, content, size_of(i));
  if (version == 0) report(path, "is there, although the log deletes it");
  if (info.version != version) report(path, "is not in the state that the log has left");
  if (size != size_of(i) || memcmp(found, content, size) != 0) report(path, "WRONG BYTES");
  return true;
}

static bool ask_document(sdb *db, unsigned i) {
  char path[64], name[64];
  size_t len = path_of(i, path), name_len = name_of(i, name);
  bool whole = ask_path(db, i, path, len);
  if (is_bound(i)) whole &= ask_path(db, i, name, name_len);
  return whole;
}

static bool ask_absent(sdb *db) {
  sdb_info info;
  int code = sdb_stat(db, "/none", 5, SDB_CURRENT, &info);
  if (code != SDB_NOT_FOUND && code != SDB_CORRUPT) report("an absent path", sdb_strerror(code));
  return code == SDB_NOT_FOUND;
}

static bool ask_search(sdb *db, bool by_suffix) {
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_cursor_options o;
  unsigned seen = 0, all = 0;
  sdb_cursor_options_init(&o);
  o.order = by_suffix ? SDB_ORDER_SUFFIX : SDB_ORDER_PATH;
  for (unsigned i = 0; i < DOCUMENTS; i++) all += is_deleted(i) ? 0 : is_bound(i) ? 2 : 1;
  int code = sdb_cursor_open(db, &o, &cursor);
  if (code == SDB_CORRUPT || (by_suffix && code == SDB_BUILDING)) return false;
  if (code != SDB_OK) report("cursor_open", sdb_strerror(code));
  while ((code = sdb_cursor_next(cursor, &entry)) == SDB_OK) seen++;
  sdb_cursor_close(cursor);
  if (code != SDB_END && code != SDB_CORRUPT) report("cursor_next", sdb_strerror(code));
  if (code == SDB_END && seen != all) report("search", "leaves paths out or invents some");
  return code == SDB_END;
}

static bool log_damaged(sdb *db) {
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  return stats.log_damaged;
}

static bool is_tree(uint64_t page) { return page != PAIR && (kinds[page] == 1 || kinds[page] == 2); }

/* True: all of it was answered. */
static bool ask_all(sdb *db, uint64_t page, bool served[DOCUMENTS]) {
  bool whole = true; /* `page` PAIR: documents may be lost for two reasons together */
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    served[i] = ask_document(db, i);
    whole &= served[i];
    if (served[i] || page < BODY || page == PAIR) continue;
    if (is_tree(page)) report("a damaged tree", "takes documents away");
    bool said_gone = is_deleted(i) && log_damaged(db); /* then nothing is said not to be there */
    if (!rests[i][page] && !said_gone) report("a document", "that does not rest on the damaged page is not served");
  }
  whole &= ask_absent(db);
  whole &= ask_search(db, false);
  (void)ask_search(db, true);
  return whole;
}

/* --- Judging ------------------------------------------------------------------------------------------------------------------ */

static struct { uint64_t damages, refused, whole, read_only, repaired; } sum;

static void must_be_free(sim *on) {
  if (sim_allocations(on) != 0 || sim_open_files(on) != 0) report("after closing", "memory is held or a file is open");
}

/* NULL: refused, which only a damaged fixed place may be. */
static sdb *open_damaged(sim *on, uint64_t page, bool read_only) {
  sdb *db;
  char message[256] = "";
  sdb_options o = options;
  o.storage = sim_storage(on);
  o.read_only = read_only;
  o.message = message;
  o.message_size = sizeof message;
  int code = sdb_open(NAME, &o, &db);
  if (code == SDB_OK) return db;
  if (page >= BODY || (code != SDB_CORRUPT && code != SDB_NOT_A_DATABASE)) report("open", message);
  must_be_free(on);
  return NULL;
}

static bool judge_reading(uint64_t page, bool served[DOCUMENTS]) {
  sim *copy = sim_clone(device, 1);
  sdb *db = open_damaged(copy, page, true);
  if (db) {
    (void)ask_all(db, page, served);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    must_be_free(copy);
  }
  sim_free(copy);
  return db != NULL;
}

static void judge_read_only(sdb *db, sim *copy, uint64_t page) {
  sdb_check_report r = {.size = sizeof r};
  bool served[DOCUMENTS];
  sum.read_only++;
  if (is_tree(page)) report("a damaged tree", "makes the database read-only");
  if (sdb_put(db, "/x", 2, "x", 1, NULL, NULL) != SDB_READ_ONLY) report("a put", "is not refused");
  int code = sdb_check(db, NULL, NULL, &r);
  if (code == SDB_OK && r.problems == 0) report("check", "finds nothing");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = open_damaged(copy, page, false);
  if (!db || !log_damaged(db)) report("the next open", "does not find what the one before found");
  (void)ask_all(db, page, served);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

/* Everything is mended or served, and stays so behind a crash. */
static void judge_writable(sdb *db, sim *copy, uint64_t page) {
  sdb_check_report r = {.size = sizeof r};
  bool more = true, served[DOCUMENTS];
  int code = sdb_put(db, "/x", 2, "x", 1, NULL, NULL);
  if (code != SDB_OK && page >= BODY) report("a put", sdb_strerror(code));
  for (unsigned i = 0; i < 300 && more; i++)
    if (sdb_step(db, 64, &more) != SDB_OK && page >= BODY) report("a step", "fails");
  if (code == SDB_OK && sdb_delete(db, "/x", 2, NULL, NULL) != SDB_OK && page >= BODY) report("a delete", "fails");
  (void)ask_all(db, page, served);
  if (page < BODY) {
    (void)sdb_close(db);
    return;
  }
  die(db, copy);
  db = open_damaged(copy, page, false);
  bool whole = ask_all(db, page, served);
  code = sdb_check(db, NULL, NULL, &r);
  if (is_tree(page) && (code != SDB_OK || r.problems)) report("check", "finds problems although the tree was made again");
  sum.whole += whole;
  code = sdb_close(db);
  if (code != SDB_OK) report("close", sdb_strerror(code));
}

static void judge_writing(uint64_t page) {
  sim *copy = sim_clone(device, 1);
  bool served[DOCUMENTS];
  sdb *db = open_damaged(copy, page, false);
  if (db) {
    (void)ask_all(db, page, served);
    if (log_damaged(db)) judge_read_only(db, copy, page);
    else judge_writable(db, copy, page);
    must_be_free(copy);
  }
  sim_free(copy);
}

static void mend(uint64_t page, const bool served[DOCUMENTS]) {
  sim *copy = sim_clone(device, 1);
  sdb_options o = options;
  sdb *db;
  o.storage = sim_storage(copy);
  int code = sdb_repair(NAME, MENDED, &o, NULL, NULL, NULL);
  if (code != SDB_OK) report("repair", sdb_strerror(code));
  ck_assert_int_eq(sdb_open(MENDED, &o, &db), SDB_OK);
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[64];
    size_t len = path_of(i, path), size;
    sdb_info info;
    code = sdb_get(db, path, len, SDB_CURRENT, found, sizeof found, &size, &info);
    if (code != SDB_OK && code != SDB_NOT_FOUND) report("a repaired document", sdb_strerror(code));
    bool must = served[i] || (page >= BODY && !rests[i][page]);
    if (must && versions_of(i) != (code == SDB_OK ? info.version : 0)) report(path, "is not saved by repair as it was");
    if (code == SDB_OK) model_content(1000 * info.version + i, 0, content, size_of(i));
    if (code == SDB_OK && (size != size_of(i) || memcmp(found, content, size) != 0)) report(path, "repair saved WRONG BYTES");
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sum.repaired++;
  sim_free(copy);
}

static void judge(uint64_t page) {
  static uint64_t turn;
  bool served[DOCUMENTS] = {false};
  sum.damages++;
  if (judge_reading(page, served)) judge_writing(page);
  else sum.refused++;
  if (turn++ % seed_number("SDB_DEEP", 7) == 0) mend(page, served);
}

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

static bool is_empty(uint64_t page) {
  for (size_t i = 0; i < PAGE; i++)
    if (image[page * PAGE + i] != 0) return false;
  return true;
}

START_TEST(every_page_damaged_beside_a_log) {
  static const uint8_t zeros[PAGE];
  uint64_t only = seed_number("SDB_AT", UINT64_MAX), turn = 0;
  encrypted = _i == 1;
  memset(&sum, 0, sizeof sum);
  make_database();
  for (uint64_t p = 0; p < pages; p++) {
    if (is_empty(p) || (only != UINT64_MAX && p != only)) continue;
    if (only == UINT64_MAX && p >= BODY && turn++ % seed_thin() != 0) continue;
    uint64_t at = p * PAGE + (p >= BODY ? 2000 : 100);
    uint8_t byte = image[at] ^ 4, before[PAGE];
    ck_assert(sim_peek(device, NAME, p * PAGE, before, PAGE));
    snprintf(damage, sizeof damage, "SDB_AT=%" PRIu64 ", kind %u, a bit flipped", p, kinds[p]);
    ck_assert(sim_poke(device, NAME, at, &byte, 1));
    judge(p);
    snprintf(damage, sizeof damage, "SDB_AT=%" PRIu64 ", kind %u, zeroed", p, kinds[p]);
    ck_assert(sim_poke(device, NAME, p * PAGE, zeros, PAGE));
    judge(p);
    ck_assert(sim_poke(device, NAME, p * PAGE, before, PAGE));
  }
  printf("%s: %" PRIu64 " damages, %" PRIu64 " refused, %" PRIu64 " without loss, %" PRIu64 " read-only; %" PRIu64 " repaired\n",
         encrypted ? "encrypted" : "plain", sum.damages, sum.refused, sum.whole, sum.read_only, sum.repaired);
  free(image);
  sim_free(device);
}
END_TEST

START_TEST(pairs_of_pages_damaged_beside_a_log) {
  uint64_t first, count = seed_range("damaged pairs", 150, &first);
  encrypted = _i == 1;
  memset(&sum, 0, sizeof sum);
  make_database();
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed, at[2];
    bool served[DOCUMENTS];
    uint8_t byte;
    for (unsigned k = 0; k < 2; k++) {
      do { at[k] = BODY + sim_random(&random) % (pages - BODY); } while (is_empty(at[k]));
      at[k] = at[k] * PAGE + sim_random(&random) % PAGE;
      byte = image[at[k]] ^ 16;
      ck_assert(sim_poke(device, NAME, at[k], &byte, 1));
    }
    snprintf(damage, sizeof damage, "SDB_SEED=%" PRIu64 ", pages %" PRIu64 " and %" PRIu64, seed, at[0] / PAGE, at[1] / PAGE);
    sum.damages++;
    if (judge_reading(PAIR, served)) judge_writing(PAIR);
    for (unsigned k = 0; k < 2; k++) ck_assert(sim_poke(device, NAME, at[k], image + at[k], 1));
  }
  printf("pairs: %" PRIu64 " damages, %" PRIu64 " read-only\n", sum.damages, sum.read_only);
  free(image);
  sim_free(device);
}
END_TEST

/* --- A large tree ------------------------------------------------------------------------------------------------------------- */

enum { MANY = 12000 };

static void put_many(sdb *db, unsigned from, unsigned step, const char *text) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  for (unsigned i = from; i < MANY; i += step) {
    char path[64];
    size_t len = path_of(i, path);
    ck_assert_int_eq(sdb_put(db, path, len, text, strlen(text), &o, NULL), SDB_OK);
  }
}

static void look_many(sdb *db) {
  for (unsigned i = 0; i < MANY; i++) {
    char path[64], text[8];
    size_t len = path_of(i, path), size;
    ck_assert_int_eq(sdb_get(db, path, len, SDB_CURRENT, text, sizeof text, &size, NULL), SDB_OK);
    ck_assert_mem_eq(text, i % 2 ? "new" : "old", 3);
  }
}

/* Every second document stands in the data file, the others in the log, all over the tree. */
static void make_many(void) {
  sdb *db;
  device = sim_new(1);
  sdb_options_init(&options);
  options.storage = sim_storage(device);
  options.threads = false;
  options.page_size = PAGE;
  options.page_cache_size = 96;
  options.wal_segment_size = 1 << 20;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  put_many(db, 0, 2, "old");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  put_many(db, 1, 2, "new");
  die(db, device);
}

/* Every so many leaves of path tree and suffix tree. */
static void damage_leaves(unsigned every) {
  uint64_t size, seen = 0;
  uint8_t page[PAGE];
  ck_assert(sim_size(device, NAME, &size));
  for (uint64_t p = BODY; p < size / PAGE; p++) {
    ck_assert(sim_peek(device, NAME, p * PAGE, page, PAGE));
    if (page[4] != 2 || seen++ % every != 0) continue;
    page[3000] ^= 1;
    ck_assert(sim_poke(device, NAME, p * PAGE, page, PAGE));
  }
  ck_assert_uint_gt(seen, 100); /* or the test is about less than it says */
}

static void print_problem(void *user, const char *sentence) {
  (void)user;
  printf("%s\n", sentence);
}

START_TEST(a_large_tree_is_made_again) {
  sdb_check_report r = {.size = sizeof r};
  sdb *db;
  make_many();
  damage_leaves(_i == 0 ? 50 : 1);
  options.read_only = true;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  ck_assert(!log_damaged(db));
  look_many(db);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  options.read_only = false;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  ck_assert(!log_damaged(db));
  look_many(db);
  ck_assert_int_eq(sdb_scrub(db), SDB_OK); /* some leaves of the other tree were not asked for */
  for (bool more = true; more;) ck_assert_int_eq(sdb_step(db, 1000, &more), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  look_many(db);
  ck_assert_int_eq(sdb_check(db, print_problem, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* Where there is no room for a whole tree the open says so, and the next one that finds room does it. */
START_TEST(no_room_to_make_it_again) {
  unsigned refused = 0;
  sdb *db;
  make_many();
  damage_leaves(50);
  sim *kept = device;
  for (uint64_t nth = 1; nth < 5; nth++) {
    device = sim_clone(kept, nth);
    options.storage = sim_storage(device);
    sim_fail(device, SIM_SIZE, nth, true, SDB_FULL);
    int code = sdb_open(NAME, &options, &db);
    sim_fail_nothing(device);
    ck_assert(code == SDB_OK || code == SDB_FULL);
    refused += code == SDB_FULL;
    if (code == SDB_FULL) ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
    ck_assert(!log_damaged(db));
    look_many(db);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
  ck_assert_uint_gt(refused, 0);
  sim_free(kept);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("damaged replay");
  TCase *t = tcase_create("damaged replay");
  tcase_set_timeout(t, 0);
  tcase_add_loop_test(t, every_page_damaged_beside_a_log, 0, 2);
  tcase_add_loop_test(t, pairs_of_pages_damaged_beside_a_log, 0, 2);
  tcase_add_loop_test(t, a_large_tree_is_made_again, 0, 2);
  tcase_add_test(t, no_room_to_make_it_again);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
