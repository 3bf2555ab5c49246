/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_every_byte.c - a small database with each of its bytes flipped in turn, each page zeroed, exchanged, written over with
 * another, or the end of the file.
 *
 * First it is found out which pages of the file each answer rests on, by looking at what is read for it. Then, for every damage:
 *   1. nothing crashes, no byte is wrong, nothing that is there is said not to be there, no search leaves a path out
 *   2. what does not rest on the damaged page is served as ever; one header slot is never missed
 *   3. now and then: a handle that writes goes on beside the damage, and a put heals a damaged document
 *   4. now and then: repair brings back every version whose record and content stand on other pages, and invents nothing
 *
 * Environment: SDB_STRIDE=n: every nth byte (1: all of them); SDB_DEEP=n: 3 and 4 with every nth damage. SDB_AT=n: only that byte.
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
  SLOT_B_PAGE = 65536 / PAGE,
  BODY = 393216 / PAGE + 522,
  DOCUMENTS = 36,
  PAGES = 2048,
  LONG = 150000,
  ANSWERS = DOCUMENTS + 3
};

typedef struct pages {
  bool used[PAGES];
} pages;

static sim *device;
static uint64_t file_size;
static bool encrypted;
static sdb_options options;
static sdb_storage noting;
static const sdb_storage *plain;
static const uint8_t key[SDB_KEY_SIZE] = "thirty-two bytes make up a key..";
static char damage[160];
static uint8_t content[LONG], scratch[LONG];
static bool served[DOCUMENTS]; /* the current content was given, whatever else was not */

__attribute__((noreturn)) static void report(const char *what, const char *why) {
  ck_abort_msg("%s: %s: %s", damage, what, why);
  abort();
}

/* --- The database ------------------------------------------------------------------------------------------------------------- */

static size_t path_of(unsigned i, char *path) { return (size_t)snprintf(path, 16, "/d/%02u", i); }
static size_t name_of(unsigned i, char *name) { return (size_t)snprintf(name, 16, "/n/%02u", i); }
static uint32_t size_of(unsigned i) { return i == 5 ? LONG : i == 6 ? 5000 : i == 7 ? 0 : 20 + 25 * i; }
static unsigned versions_of(unsigned i) { return i % 4 == 0 ? 2 : 1; }
static bool has_name(unsigned i) { return i % 5 == 0; }
static uint64_t seed_of(unsigned i, unsigned version) { return 1000 * version + i; }

static void put(sdb *db, unsigned i, unsigned version) {
  char path[16];
  size_t len = path_of(i, path);
  sdb_put_options o;
  sdb_put_options_init(&o);
  if (i % 3 == 0) {
    o.content_type = "text/plain";
    o.metadata = path;
    o.metadata_len = len;
  }
  if (i % 7 == 0) o.expires_ms = 4102444800000; /* 2100 */
  model_content(seed_of(i, version), 0, content, size_of(i));
  ck_assert_int_eq(sdb_put(db, path, len, content, size_of(i), &o, NULL), SDB_OK);
}

static void make_database(void) {
  sdb *db;
  device = sim_new(1);
  plain = sim_storage(device);
  sdb_options_init(&options);
  options.storage = plain;
  options.threads = false;
  options.page_size = PAGE;
  options.page_cache_size = 256;
  options.wal_segment_size = 65536;
  options.change_log_bytes = 0;
  options.encryption_key = encrypted ? key : NULL;
  ck_assert_int_eq(sdb_open(NAME, &options, &db), SDB_OK);
  for (unsigned version = 1; version <= 2; version++) {
    for (unsigned i = 0; i < DOCUMENTS; i++)
      if (versions_of(i) >= version) put(db, i, version);
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  }
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[16], name[16];
    size_t len = path_of(i, path), name_len = name_of(i, name);
    if (has_name(i)) ck_assert_int_eq(sdb_bind(db, path, len, name, name_len, NULL, NULL), SDB_OK);
  }
  ck_assert_int_eq(sdb_put(db, "/gone", 5, "x", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_delete(db, "/gone", 5, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_crash(device, SIM_KEEP_ALL, 1);
  ck_assert(sim_size(device, NAME, &file_size));
  ck_assert_uint_le(file_size / PAGE, PAGES);
  options.create = false;
}

/* --- Answers ------------------------------------------------------------------------------------------------------------------ */

static bool damaged(int code, const char *what) {
  if (code == SDB_OK) return false;
  if (code != SDB_CORRUPT) report(what, sdb_strerror(code));
  return true;
}

/* Content and description of one version: right, or false. */
static bool ask_version(sdb *db, unsigned i, uint32_t version) {
  char path[16];
  size_t len = path_of(i, path), size, got;
  sdb_info info;
  sdb_attributes attributes;
  void *data;
  uint8_t piece[100];
  if (damaged(sdb_get_alloc(db, path, len, version, &data, &size, &info), path)) return false;
  model_content(seed_of(i, version), 0, scratch, size_of(i));
  bool right = size == size_of(i) && memcmp(data, scratch, size) == 0;
  sdb_free(db, data);
  if (!right) report(path, "WRONG BYTES");
  served[i] |= version == versions_of(i);
  if (info.version != version || info.size != size || info.digest != sdb_crc32c(0, scratch, size))
    report(path, "wrong description");
  if (damaged(sdb_get_range(db, path, len, version, size / 2, piece, sizeof piece, &got, NULL), path)) return false;
  if (memcmp(piece, scratch + size / 2, got) != 0) report(path, "WRONG BYTES in a range");
  if (damaged(sdb_get_attributes(db, path, len, version, &attributes), path)) return false;
  bool extras = i % 3 == 0;
  if (strcmp(attributes.content_type, extras ? "text/plain" : "") != 0 || attributes.metadata_len != (extras ? len : 0) ||
      memcmp(attributes.metadata, path, attributes.metadata_len) != 0 || (attributes.expires_ms != 0) != (i % 7 == 0))
    report(path, "wrong attributes");
  return true;
}

static bool ask_names(sdb *db, unsigned i) {
  char path[16], name[16];
  size_t len = path_of(i, path), name_len = name_of(i, name), count;
  uint8_t id[16], other[16];
  sdb_path *paths;
  if (damaged(sdb_id_of(db, path, len, id), path)) return false;
  if (has_name(i) && damaged(sdb_id_of(db, name, name_len, other), name)) return false;
  if (has_name(i) && memcmp(id, other, sizeof id) != 0) report(name, "leads to another document");
  if (damaged(sdb_paths_of(db, id, &paths, &count), path)) return false;
  if (count != 1u + has_name(i) || paths[0].len != len || memcmp(paths[0].path, path, len) != 0) report(path, "wrong names");
  sdb_free(db, paths);
  return true;
}

/* Everything about a document: true when all of it was answered. */
static bool ask_document(sdb *db, unsigned i) {
  char path[16];
  size_t len = path_of(i, path), count;
  sdb_info infos[3];
  bool whole = true;
  for (uint32_t v = versions_of(i); v > 0; v--) whole &= ask_version(db, i, v);
  whole &= ask_names(db, i);
  if (damaged(sdb_versions(db, path, len, infos, 3, &count), path)) return false;
  if (count > versions_of(i)) report(path, "too many versions");
  if (whole && count != versions_of(i)) report(path, "a version is not listed");
  return whole;
}

static bool ask_absent(sdb *db) {
  sdb_info info;
  bool whole = true;
  static const char *const absent[] = {"/gone", "/d/990", "/a"};
  for (unsigned i = 0; i < 3; i++) {
    int code = sdb_stat(db, absent[i], strlen(absent[i]), SDB_CURRENT, &info);
    if (code == SDB_OK) report(absent[i], "is there");
    if (code != SDB_NOT_FOUND) whole &= !damaged(code, absent[i]);
  }
  return whole;
}

static bool ask_search(sdb *db, bool by_suffix) {
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.order = by_suffix ? SDB_ORDER_SUFFIX : SDB_ORDER_PATH;
  if (damaged(sdb_cursor_open(db, &o, &cursor), "cursor_open")) return false;
  unsigned seen = 0, all = DOCUMENTS;
  int code;
  for (unsigned i = 0; i < DOCUMENTS; i++) all += has_name(i);
  char last[16] = "";
  while ((code = sdb_cursor_next(cursor, &entry)) == SDB_OK) {
    char path[16] = "", order[16] = "";
    if (entry.path_len >= sizeof path) report("search", "invents a path");
    memcpy(path, entry.path, entry.path_len);
    for (size_t k = 0; k < entry.path_len; k++) order[k] = by_suffix ? path[entry.path_len - 1 - k] : path[k];
    if (strcmp(order, last) <= 0) report("search", "paths are out of order");
    unsigned number = (unsigned)strtoul(path + 3, NULL, 10);
    char expected[16];
    if (path[1] == 'd') path_of(number, expected);
    else name_of(number, expected);
    if (number >= DOCUMENTS || strcmp(path, expected) != 0 || (path[1] == 'n' && !has_name(number)))
      report("search", "invents a path");
    memcpy(last, order, sizeof last);
    seen++;
  }
  sdb_cursor_close(cursor);
  if (code == SDB_END && seen != all) report("search", "leaves paths out");
  return code == SDB_END || !damaged(code, "cursor_next");
}

/* Answer `n` of ANSWERS. */
static bool ask(sdb *db, unsigned n) {
  if (n < DOCUMENTS) return ask_document(db, n);
  if (n == DOCUMENTS) return ask_absent(db);
  return ask_search(db, n == DOCUMENTS + 1);
}

/* --- What answers rest on ----------------------------------------------------------------------------------------------------- */

static pages *reading; /* where reads are noted */
static pages of_open, of_answer[ANSWERS];

static int note_read(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  for (uint64_t p = offset / PAGE; reading != NULL && p <= (offset + len - 1) / PAGE; p++) reading->used[p] = true;
  return plain->read(file, offset, buf, len);
}

static int open_for(bool writing, const sdb_storage *storage, sdb **db) {
  sdb_options o = options;
  o.read_only = !writing;
  o.storage = storage;
  return sdb_open(NAME, &o, db);
}

static void find_out(void) {
  noting = *plain;
  noting.read = note_read;
  snprintf(damage, sizeof damage, "without damage");
  for (unsigned n = 0; n < ANSWERS; n++) {
    sdb *db;
    reading = &of_open;
    ck_assert_int_eq(open_for(false, &noting, &db), SDB_OK);
    reading = &of_answer[n];
    if (!ask(db, n)) report("the database", "is damaged");
    reading = NULL;
    sdb_close(db);
  }
}

/* --- Judging ------------------------------------------------------------------------------------------------------------------ */

typedef struct tally {
  uint64_t damages, refused, harmless, healed, repaired, lost;
} tally;

static tally sum;

static bool is_slot(uint64_t page) { return page == 0 || page == SLOT_B_PAGE; }

/* Pages a and b are damaged, and all from `cut` on. */
static bool rests_on(const pages *p, uint64_t a, uint64_t b, uint64_t cut) {
  for (uint64_t i = cut; i < PAGES; i++)
    if (p->used[i]) return true;
  return p->used[a] || p->used[b];
}

static bool may_be_refused(int code) {
  return code == SDB_CORRUPT || code == SDB_NOT_A_DATABASE || code == SDB_UNSUPPORTED || code == SDB_MISMATCH ||
         (code == SDB_WRONG_KEY && encrypted);
}

/* Which answers are whole; false when the database does not open. */
static bool judge(uint64_t a, uint64_t b, uint64_t cut, bool whole[ANSWERS]) {
  sdb *db;
  bool all = true, needed = rests_on(&of_open, a, b, cut) && !(is_slot(a) && a == b);
  int code = open_for(false, plain, &db);
  memset(served, 0, sizeof served);
  sum.damages++;
  if (code != SDB_OK) {
    if (!needed && cut == PAGES) report("open", sdb_strerror(code));
    if (!may_be_refused(code)) report("open", sdb_strerror(code));
    sum.refused++;
    return false;
  }
  for (unsigned n = 0; n < ANSWERS; n++) {
    whole[n] = ask(db, n);
    all &= whole[n];
    if (!whole[n] && !needed && !rests_on(&of_answer[n], a, b, cut))
      report("an answer", "that does not rest on the damaged page is not given");
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sum.harmless += all;
  if (sim_allocations(device) != 0 || sim_open_files(device) != 0) report("after closing", "memory is held or a file is open");
  return true;
}

/* A handle that writes: what was served is served, and a put heals. */
static void heal(const bool whole[ANSWERS]) {
  sim *copy = sim_clone(device, 1);
  sdb *db;
  int code = open_for(true, sim_storage(copy), &db);
  if (code != SDB_OK) report("open for writing", sdb_strerror(code));
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[16];
    size_t len = path_of(i, path), size;
    if (whole[i]) continue;
    code = sdb_put(db, path, len, "healed", 6, NULL, NULL);
    if (code != SDB_OK && code != SDB_CORRUPT) report("a put", sdb_strerror(code));
    if (code != SDB_OK) continue;
    code = sdb_get(db, path, len, SDB_CURRENT, scratch, sizeof scratch, &size, NULL);
    if (code != SDB_OK || size != 6 || memcmp(scratch, "healed", 6) != 0) report(path, "was put and is not there");
    sum.healed++;
  }
  for (unsigned i = 0; i < DOCUMENTS; i++)
    if (whole[i] && !ask_document(db, i)) report("a whole document", "is damaged by writing beside it");
  code = sdb_close(db);
  if (code != SDB_OK && code != SDB_CORRUPT && code != SDB_SYNC_FAILED) report("close", sdb_strerror(code));
  if (sim_open_files(copy) != 0 || sim_allocations(copy) != 0) report("after writing", "memory is held or a file is open");
  sim_free(copy);
}

static const uint8_t *base_image;

static bool is_index(uint64_t page) {
  const uint8_t *p = base_image + page * PAGE;
  uint32_t crc = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
  return page < BODY || (crc == sdb_crc32c(0, p + 4, PAGE - 4) && p[4] >= 1 && p[4] <= 4); /* tree or table */
}

/* Whether record or content of the document are on that page. */
static bool stands_on(unsigned i, uint64_t page) { return (of_open.used[page] || of_answer[i].used[page]) && !is_index(page); }

static void mend(uint64_t a, uint64_t b, const bool whole[ANSWERS]) {
  sim *copy = sim_clone(device, 1);
  sdb_options o = options;
  o.storage = sim_storage(copy);
  sdb *db;
  int code = sdb_repair(NAME, MENDED, &o, NULL, NULL, NULL);
  if (code != SDB_OK) report("repair", sdb_strerror(code));
  code = sdb_open(MENDED, &o, &db);
  if (code != SDB_OK) report("open of the repaired", sdb_strerror(code));
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    char path[16];
    size_t len = path_of(i, path);
    unsigned current = versions_of(i);
    sdb_info info;
    bool must = whole[i] || served[i] || (!stands_on(i, a) && !stands_on(i, b));
    code = sdb_stat(db, path, len, SDB_CURRENT, &info);
    if (code == SDB_OK && (info.version == 0 || info.version > current)) report(path, "repair invents a version");
    if (must && (code != SDB_OK || info.version != current)) report(path, "verifies and is not in the repaired database");
    if (code == SDB_OK) {
      void *data;
      size_t size;
      ck_assert_int_eq(sdb_get_alloc(db, path, len, SDB_CURRENT, &data, &size, NULL), SDB_OK);
      model_content(seed_of(i, info.version), 0, scratch, size_of(i));
      if (size != size_of(i) || memcmp(data, scratch, size) != 0) report(path, "repair saved WRONG BYTES");
      sdb_free(db, data);
      sum.repaired++;
    } else {
      sum.lost++;
    }
  }
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  if (r.problems != 0) report("the repaired database", "has problems");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(copy);
}

static void judge_all(uint64_t a, uint64_t b, uint64_t cut, uint64_t turn) {
  bool whole[ANSWERS] = {false};
  uint64_t deep = seed_number("SDB_DEEP", 40);
  bool opens = judge(a, b, cut, whole);
  if (opens && turn % deep == 0) heal(whole);
  if (cut == PAGES && turn % deep == deep / 2) mend(a, b, whole);
}

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

static bool is_empty(uint64_t page) {
  for (size_t i = 0; i < PAGE; i++)
    if (base_image[page * PAGE + i] != 0) return false;
  return true;
}

static void set_up(void) {
  make_database();
  find_out();
  uint8_t *image = malloc(file_size);
  ck_assert_ptr_nonnull(image);
  ck_assert(sim_peek(device, NAME, 0, image, file_size));
  base_image = image;
  sum = (tally){0};
}

static void tear_down(const char *what) {
  printf("%s%s: %" PRIu64 " damages, %" PRIu64 " refused, %" PRIu64 " without effect; %" PRIu64 " documents healed, %" PRIu64
         " repaired, %" PRIu64 " lost to repair\n",
         what, encrypted ? ", encrypted" : "", sum.damages, sum.refused, sum.harmless, sum.healed, sum.repaired, sum.lost);
  free((void *)(uintptr_t)base_image);
  base_image = NULL;
  sim_free(device);
}

static void flip(uint64_t at) {
  uint8_t byte = base_image[at] ^ (uint8_t)(1u << at % 8);
  snprintf(damage, sizeof damage, "SDB_AT=%" PRIu64 " (page %" PRIu64 ", byte %" PRIu64 ") flipped", at, at / PAGE, at % PAGE);
  ck_assert(sim_poke(device, NAME, at, &byte, 1));
}

START_TEST(every_byte_flipped) {
  encrypted = _i == 1;
  set_up();
  uint64_t stride = seed_number("SDB_STRIDE", seed_thin() * (encrypted ? 211 : 61)), only = seed_number("SDB_AT", UINT64_MAX),
           turn = 0;
  for (uint64_t at = only != UINT64_MAX ? only : 0; at < file_size; at += stride) {
    /* Of pages that hold nothing a few bytes, unless every byte is asked for. */
    if (stride > 1 && only == UINT64_MAX && is_empty(at / PAGE) && at % PAGE >= stride) continue;
    flip(at);
    judge_all(at / PAGE, at / PAGE, PAGES, turn++);
    ck_assert(sim_poke(device, NAME, at, base_image + at, 1));
    if (only != UINT64_MAX) break;
  }
  tear_down("bytes flipped");
}
END_TEST

static void restore_pages(uint64_t a, uint64_t b) {
  ck_assert(sim_poke(device, NAME, a * PAGE, base_image + a * PAGE, PAGE));
  ck_assert(sim_poke(device, NAME, b * PAGE, base_image + b * PAGE, PAGE));
}

static void zero(uint64_t a, uint64_t b) {
  static const uint8_t zeros[PAGE];
  (void)b;
  snprintf(damage, sizeof damage, "page %" PRIu64 " zeroed", a);
  ck_assert(sim_poke(device, NAME, a * PAGE, zeros, PAGE));
}

static void exchange(uint64_t a, uint64_t b) {
  snprintf(damage, sizeof damage, "pages %" PRIu64 " and %" PRIu64 " exchanged", a, b);
  ck_assert(sim_poke(device, NAME, a * PAGE, base_image + b * PAGE, PAGE));
  ck_assert(sim_poke(device, NAME, b * PAGE, base_image + a * PAGE, PAGE));
}

static void overwrite(uint64_t a, uint64_t b) {
  snprintf(damage, sizeof damage, "page %" PRIu64 " written over with page %" PRIu64, a, b);
  ck_assert(sim_poke(device, NAME, a * PAGE, base_image + b * PAGE, PAGE));
}

/* Half a page is its own, the rest that of another: a write that was torn where none may be. */
static void tear(uint64_t a, uint64_t b) {
  snprintf(damage, sizeof damage, "half of page %" PRIu64 " written over with page %" PRIu64, a, b);
  ck_assert(sim_poke(device, NAME, a * PAGE + PAGE / 2, base_image + b * PAGE + PAGE / 2, PAGE / 2));
}

START_TEST(every_page_damaged) {
  static void (*const damages[])(uint64_t a, uint64_t b) = {zero, exchange, overwrite, tear};
  uint64_t random = 1, turn = 0, filled[PAGES], count = 0;
  encrypted = _i == 1;
  set_up();
  for (uint64_t p = 0; p < file_size / PAGE; p++)
    if (!is_empty(p)) filled[count++] = p;
  for (uint64_t i = 0; i < count; i++) {
    for (unsigned k = 0; k < sizeof damages / sizeof *damages; k++) {
      uint64_t a = filled[i], b = k % 2 == 1 && i + 1 < count ? filled[i + 1] : filled[sim_random(&random) % count];
      bool both = damages[k] == exchange;
      damages[k](a, b);
      judge_all(a, both ? b : a, PAGES, turn++);
      restore_pages(a, b);
    }
  }
  tear_down("pages damaged");
}
END_TEST

/* The file ends early: at each page that holds something, and in its middle. */
START_TEST(every_end) {
  encrypted = _i == 1;
  set_up();
  sim *whole_device = device;
  for (uint64_t p = file_size / PAGE; p-- > 0;) {
    if (is_empty(p) && p % 16 != 0) continue;
    for (uint64_t part = 0; part < 2; part++) {
      bool whole[ANSWERS];
      device = sim_clone(whole_device, 1);
      plain = sim_storage(device);
      snprintf(damage, sizeof damage, "cut to %" PRIu64 " bytes", p * PAGE + part * PAGE / 2);
      ck_assert(sim_cut(device, NAME, p * PAGE + part * PAGE / 2));
      judge(p, p, p, whole);
      sim_free(device);
    }
  }
  device = whole_device;
  tear_down("ends");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("every byte");
  TCase *t = tcase_create("every byte");
  tcase_set_timeout(t, 0); /* SDB_STRIDE decides how long it takes */
  tcase_add_loop_test(t, every_byte_flipped, 0, 2);
  tcase_add_loop_test(t, every_page_damaged, 0, 2);
  tcase_add_loop_test(t, every_end, 0, 2);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
