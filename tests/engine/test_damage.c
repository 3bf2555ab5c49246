/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_damage.c - a small database with damage at random places: a flipped bit, a zeroed sector, pages exchanged, the end cut off.
 *
 * Whatever the damage: no crash, no wrong byte, no "not found" for what is there, no path missing from a search that ends well. A
 * document answers with its content or with SDB_CORRUPT, and when one is corrupt, check says so. A database whose log is damaged
 * shows a state it once had, and says that its log is damaged when that is not the last one.
 *
 * Environment: SDB_SEED, SDB_SEEDS (seed.h); each seed is one damage.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seed.h"
#include "workload.h"

#define DOCUMENTS 120u
#define PAGE 4096u

typedef struct damage {
  uint64_t seed, random;
  char what[200];
} damage;

static sim *base_device;
static bool encrypted; /* the databases of this round are */
static model *base_model;

__attribute__((noreturn)) static void report(const damage *d, const char *what, const char *why) {
  ck_abort_msg("seed %" PRIu64 ", %s: %s: %s\n  again: SDB_SEED=%" PRIu64, d->seed, d->what, what, why, d->seed);
  abort();
}

/* --- The database to damage --------------------------------------------------------------------------------------------------- */

static size_t path_of(uint64_t i, uint8_t *path) { return (size_t)snprintf((char *)path, SDB_MAX_PATH, "/d/%03" PRIu64, i); }

/* Every third document is an extent. */
static uint32_t size_of(uint64_t i) { return i % 40 == 3 ? 70000 : i % 3 == 0 ? 3000 : 40 + (uint32_t)i; }

static void put_document(workload *w, uint64_t i, uint64_t seed) {
  static uint8_t data[70000];
  uint8_t path[SDB_MAX_PATH];
  size_t path_len = path_of(i, path);
  uint32_t size = size_of(i);
  sdb_commit commit;
  model_content(seed, 0, data, size);
  ck_assert_int_eq(sdb_put(w->db, path, path_len, data, size, NULL, &commit), SDB_OK);
  ck_assert_msg(model_put(w->model, path, path_len, seed, size, &commit), "%s", model_why(w->model));
}

static void set_options(workload *w) {
  w->options.page_size = PAGE;
  w->options.versions_to_keep = 2;
  w->options.quick_mode = false; /* which trusts contents */
  w->options.wal_segment_size = 65536;
  w->options.checkpoint_wal_bytes = 8 << 20;
  w->options.change_log_bytes = 0;
  w->options.encryption_key = encrypted ? (const uint8_t *)"thirty-two bytes make up a key.." : NULL;
  w->options.cipher = SDB_CIPHER_DEFAULT;
}

static void open_base(workload *w) {
  base_device = sim_new(1);
  workload_init(w, 1, base_device);
  model_free(w->model);
  w->model = base_model = model_new(2);
  set_options(w);
  ck_assert_msg(workload_open(w), "%s", w->why);
}

static void make_closed_base(void) {
  workload w;
  open_base(&w);
  for (uint64_t i = 0; i < DOCUMENTS; i++) put_document(&w, i, i);
  for (uint64_t i = 0; i < DOCUMENTS; i += 5) put_document(&w, i, 1000 + i);
  ck_assert_msg(workload_close(&w), "%s", w.why);
  sim_crash(base_device, SIM_KEEP_ALL, 1);
}

/* The last commits are in the log only, and the mark that follows them after a rest says that they were synced. */
static void make_logged_base(void) {
  workload w;
  open_base(&w);
  for (uint64_t i = 0; i < 30; i++) put_document(&w, i, i);
  ck_assert_int_eq(sdb_checkpoint(w.db), SDB_OK);
  for (uint64_t i = 0; i < 30; i++) put_document(&w, i, 1000 + i);
  for (int i = 0; i < 5; i++) {
    bool more;
    sim_advance(base_device, 1100);
    ck_assert_int_eq(sdb_step(w.db, 10, &more), SDB_OK);
  }
  ck_assert_int_eq(sdb_flush(w.db), SDB_OK);
  sim_die_at(base_device, 1);
  sdb_close(w.db);
  sim_crash(base_device, SIM_DROP_ALL, 1);
}

static void free_base(void) {
  model_free(base_model);
  sim_free(base_device);
}

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

static bool is_zero(const sim *device, const char *name, uint64_t offset) {
  static const uint8_t zeros[SIM_SECTOR];
  uint8_t sector[SIM_SECTOR];
  return sim_peek(device, name, offset / SIM_SECTOR * SIM_SECTOR, sector, sizeof sector) &&
         memcmp(sector, zeros, sizeof sector) == 0;
}

/* A place in the file, mostly in a sector with something in it. */
static uint64_t choose_offset(damage *d, const sim *device, const char *name, uint64_t size) {
  uint64_t offset = sim_random(&d->random) % size;
  for (int i = 0; i < 500 && is_zero(device, name, offset); i++) offset = sim_random(&d->random) % size;
  return offset;
}

static void flip_bit(damage *d, sim *device, const char *name, uint64_t offset) {
  uint8_t byte, bit = (uint8_t)(1u << sim_random(&d->random) % 8);
  ck_assert(sim_peek(device, name, offset, &byte, 1));
  byte ^= bit;
  ck_assert(sim_poke(device, name, offset, &byte, 1));
  snprintf(d->what, sizeof d->what, "bit %02x of byte %" PRIu64 " (page %" PRIu64 ") of %s flipped", bit, offset, offset / PAGE,
           name);
}

static void zero_bytes(damage *d, sim *device, const char *name, uint64_t offset, size_t unit) {
  static const uint8_t zeros[PAGE];
  offset = offset / unit * unit;
  sim_poke(device, name, offset, zeros, unit);
  snprintf(d->what, sizeof d->what, "%zu bytes at %" PRIu64 " (page %" PRIu64 ") of %s zeroed", unit, offset, offset / PAGE, name);
}

static void exchange_pages(damage *d, sim *device, const char *name, uint64_t a, uint64_t b) {
  uint8_t one[PAGE], two[PAGE];
  a = a / PAGE * PAGE, b = b / PAGE * PAGE;
  if (!sim_peek(device, name, a, one, PAGE) || !sim_peek(device, name, b, two, PAGE)) return;
  ck_assert(sim_poke(device, name, a, two, PAGE));
  ck_assert(sim_poke(device, name, b, one, PAGE));
  snprintf(d->what, sizeof d->what, "pages %" PRIu64 " and %" PRIu64 " of %s exchanged", a / PAGE, b / PAGE, name);
}

/* `places`: how many may be damaged at once. A log that lost both its last record and the mark behind it looks like one that was
 * torn; no log can tell. */
static void damage_file(damage *d, sim *device, const char *name, int places) {
  uint64_t size = 0;
  ck_assert(sim_size(device, name, &size));
  if (size == 0) return;
  uint64_t offset = choose_offset(d, device, name, size);
  switch (sim_random(&d->random) % (places == 1 ? 9 : 10)) {
    case 0: zero_bytes(d, device, name, offset, SIM_SECTOR); break;
    case 1: zero_bytes(d, device, name, offset, PAGE); break;
    case 2:
      ck_assert(sim_cut(device, name, offset));
      snprintf(d->what, sizeof d->what, "%s cut to %" PRIu64 " bytes", name, offset);
      break;
    case 9: exchange_pages(d, device, name, offset, choose_offset(d, device, name, size)); break;
    default: flip_bit(d, device, name, offset); break;
  }
}

/* --- Judging ------------------------------------------------------------------------------------------------------------------ */

/* True when the version could be read. */
static bool judge_version(const damage *d, sdb *db, uint64_t i, uint32_t version, uint64_t seed) {
  uint8_t path[SDB_MAX_PATH];
  size_t path_len = path_of(i, path), size;
  void *data;
  sdb_info info;
  int code = sdb_get_alloc(db, path, path_len, version, &data, &size, &info);
  if (code == SDB_CORRUPT) return false;
  if (code != SDB_OK) report(d, (const char *)path, sdb_strerror(code));
  uint8_t *expected = malloc(size + 1);
  ck_assert_ptr_nonnull(expected);
  model_content(seed, 0, expected, size);
  if (size != size_of(i) || memcmp(data, expected, size) != 0) report(d, (const char *)path, "WRONG BYTES");
  if (info.size != size || info.digest != sdb_crc32c(0, data, size)) report(d, (const char *)path, "wrong description");
  free(expected);
  sdb_free(db, data);
  return true;
}

static unsigned judge_documents(const damage *d, sdb *db) {
  unsigned corrupt = 0;
  for (uint64_t i = 0; i < DOCUMENTS; i++) {
    bool twice = i % 5 == 0;
    corrupt += judge_version(d, db, i, SDB_CURRENT, twice ? 1000 + i : i) ? 0 : 1;
    if (twice) corrupt += judge_version(d, db, i, 1, i) ? 0 : 1;
  }
  sdb_info info;
  int code = sdb_stat(db, "/none", 5, SDB_CURRENT, &info);
  if (code != SDB_NOT_FOUND && code != SDB_CORRUPT) report(d, "an absent path", sdb_strerror(code));
  return corrupt;
}

/* Paths come in order and none is left out, as far as the search gets. */
static void judge_search(const damage *d, sdb *db) {
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.prefix = "/d/";
  options.prefix_len = 3;
  int code = sdb_cursor_open(db, &options, &cursor);
  if (code == SDB_CORRUPT) return;
  if (code != SDB_OK) report(d, "cursor_open", sdb_strerror(code));
  uint64_t i = 0;
  for (; (code = sdb_cursor_next(cursor, &entry)) == SDB_OK; i++) {
    uint8_t path[SDB_MAX_PATH];
    size_t path_len = path_of(i, path);
    if (entry.path_len != path_len || memcmp(entry.path, path, path_len) != 0)
      report(d, "search", "leaves a path out or invents one");
  }
  sdb_cursor_close(cursor);
  if (code == SDB_END && i != DOCUMENTS) report(d, "search", "ends too early");
  if (code != SDB_END && code != SDB_CORRUPT) report(d, "search", sdb_strerror(code));
}

static void judge_check(const damage *d, sdb *db, unsigned corrupt) {
  sdb_check_report r = {.size = sizeof r};
  int code = sdb_check(db, NULL, NULL, &r);
  if (code != SDB_OK && code != SDB_CORRUPT) report(d, "check", sdb_strerror(code));
  if (code == SDB_OK && corrupt > 0 && r.problems == 0) report(d, "check", "finds nothing although a document is corrupt");
}

static bool refused_properly(int code) {
  return code == SDB_CORRUPT || code == SDB_NOT_A_DATABASE || code == SDB_UNSUPPORTED || code == SDB_MISMATCH;
}

static void judge_end(const damage *d, workload *w) {
  if (w->db != NULL) sdb_close(w->db);
  w->db = NULL;
  if (sim_open_files(w->device) != 0 || sim_allocations(w->device) != 0)
    report(d, "after closing", "memory is held or a file is open");
}

START_TEST(test_damaged_file) {
  encrypted = _i == 1;
  make_closed_base();
  uint64_t first, count = seed_range("damaged file", encrypted ? 750 : 1500, &first), refused = 0, harmless = 0;
  for (uint64_t seed = first; seed < first + count; seed++) {
    damage d = {.seed = seed, .random = seed};
    workload w;
    sim *device = sim_clone(base_device, seed);
    workload_init(&w, seed, device);
    set_options(&w);
    damage_file(&d, device, WORKLOAD_NAME, 2);
    int code = sdb_open(WORKLOAD_NAME, &w.options, &w.db);
    if (code != SDB_OK) {
      if (!refused_properly(code)) report(&d, "open", sdb_strerror(code));
      w.db = NULL;
      refused++;
    } else {
      unsigned corrupt = judge_documents(&d, w.db);
      judge_search(&d, w.db);
      judge_check(&d, w.db, corrupt);
      harmless += corrupt == 0 ? 1 : 0;
    }
    judge_end(&d, &w);
    workload_clear(&w);
    sim_free(device);
  }
  printf("damaged file: %" PRIu64 " of %" PRIu64 " refused, %" PRIu64 " without a corrupt document\n", refused, count, harmless);
  free_base();
}
END_TEST

/* The newest state or, said loudly, an older one. */
static void judge_log(const damage *d, workload *w) {
  sdb_stats stats = {.size = sizeof stats};
  size_t all = model_commits(w->model);
  ck_assert_int_eq(sdb_get_stats(w->db, &stats), SDB_OK);
  model_require(w->model, 0);
  if (!model_adopt(w->model, w->db)) report(d, "the state", model_why(w->model));
  if (model_commits(w->model) == all) return;
  if (!stats.log_damaged) report(d, "commits are missing", "and nobody says that the log is damaged");
  if (sdb_put(w->db, "/x", 2, "x", 1, NULL, NULL) == SDB_OK) report(d, "the damaged database", "accepts writes");
}

static const char *choose_log(damage *d, const sim *device) {
  const char *logs[16];
  unsigned count = 0;
  for (size_t i = 0; sim_name(device, i) != NULL && count < 16; i++) {
    if (strstr(sim_name(device, i), ".log.") != NULL) logs[count++] = sim_name(device, i);
  }
  ck_assert_uint_gt(count, 0);
  return logs[sim_random(&d->random) % count];
}

START_TEST(test_damaged_log) {
  encrypted = _i == 1;
  make_logged_base();
  uint64_t first, count = seed_range("damaged log", encrypted ? 500 : 1000, &first), refused = 0;
  for (uint64_t seed = first; seed < first + count; seed++) {
    damage d = {.seed = seed, .random = seed};
    workload w;
    sim *device = sim_clone(base_device, seed);
    workload_init(&w, seed, device);
    model_free(w.model);
    w.model = model_clone(base_model);
    set_options(&w);
    damage_file(&d, device, choose_log(&d, device), 1);
    int code = sdb_open(WORKLOAD_NAME, &w.options, &w.db);
    if (code == SDB_OK) {
      judge_log(&d, &w);
    } else {
      if (!refused_properly(code)) report(&d, "open", sdb_strerror(code));
      w.db = NULL;
      refused++;
    }
    judge_end(&d, &w);
    workload_clear(&w);
    sim_free(device);
  }
  printf("damaged log: %" PRIu64 " of %" PRIu64 " refused\n", refused, count);
  free_base();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("damage");
  TCase *damage_case = tcase_create("damage");
  tcase_set_timeout(damage_case, 0);
  tcase_add_loop_test(damage_case, test_damaged_file, 0, 2);
  tcase_add_loop_test(damage_case, test_damaged_log, 0, 2);
  suite_add_tcase(suite, damage_case);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
