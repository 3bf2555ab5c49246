/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_keyless.c - sdb_verify() of an encrypted database without its key finds every damage that it finds with the key, in pages,
 * large contents and log, and no damage where there is none.
 *
 * Environment: SDB_SEED, SDB_SEEDS (seed.h).
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "extent_head.h"
#include "sdb/care.h"
#include "seed.h"
#include "simulated.h"

#define NAME "secret.sdb"
#define PAGE 4096u
enum { FIRST = 522 }; /* behind the head of the first group */

static const uint8_t key[SDB_KEY_SIZE] = "first key, thirty-two bytes long";

static sdb_options options_on(const sim *device, bool with_key) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.use_mmap = false;
  o.page_size = PAGE;
  o.page_cache_size = 64;
  o.wal_segment_size = 65536;
  o.checkpoint_wal_bytes = 1 << 20;
  o.change_log_bytes = 0;
  o.encryption_key = with_key ? key : NULL;
  return o;
}

static sdb *open_on(const sim *device) {
  sdb_options o = options_on(device, true);
  sdb *db;
  ck_assert_int_eq(sdb_open(NAME, &o, &db), SDB_OK);
  return db;
}

static void must(sdb *db, int code, const char *call) {
  char message[256] = "";
  if (code != SDB_OK) sdb_message(db, message, sizeof message);
  ck_assert_msg(code == SDB_OK, "%s: %s (%s)", call, sdb_strerror(code), message);
}

static sdb_verify_report verify(const sim *device, bool with_key) {
  sdb_verify_report report = {.size = sizeof report};
  char message[256] = "";
  sdb_options o = options_on(device, with_key);
  o.message = message;
  o.message_size = sizeof message;
  int code = sdb_verify(NAME, &o, NULL, NULL, &report);
  ck_assert_msg(code == SDB_OK, "verify: %s (%s)", sdb_strerror(code), message);
  return report;
}

/* --- A database with everything ----------------------------------------------------------------------------------------------- */

static void fill(uint8_t *content, size_t len, uint64_t seed) {
  bool noise = seed % 3;
  for (size_t i = 0; i < len; i++) content[i] = noise ? (uint8_t)sim_random(&seed) : (uint8_t)(i / 700 + seed);
}

static void put(sdb *db, unsigned path, size_t len, uint64_t seed) {
  static uint8_t content[200000];
  fill(content, len, seed);
  must(db, sdb_put(db, &path, sizeof path, content, len, NULL, NULL), "put");
}

static void stream(sdb *db, unsigned path, unsigned parts, uint64_t seed) {
  static uint8_t content[50000];
  sdb_writer *w;
  must(db, sdb_writer_open(db, &path, sizeof path, SDB_UNKNOWN_SIZE, NULL, &w), "writer");
  for (unsigned i = 0; i < parts; i++) {
    fill(content, sizeof content, seed + i);
    must(db, sdb_writer_write(w, content, sizeof content), "write");
  }
  must(db, sdb_writer_commit(w, NULL), "commit");
}

/* Contents of all sizes, compressed and not, streamed and put, whose pages have had others before. */
static sim *base_of(uint64_t seed, bool closed) {
  sim *device = sim_new(seed);
  sdb *db = open_on(device);
  for (unsigned round = 0; round < 3; round++) {
    for (unsigned i = 0; i < 25; i++) {
      unsigned path = (unsigned)(sim_random(&seed) % 30);
      uint64_t kind = sim_random(&seed) % 8, len = sim_random(&seed);
      if (kind == 0) {
        int code = sdb_delete(db, &path, sizeof path, NULL, NULL);
        ck_assert(code == SDB_OK || code == SDB_NOT_FOUND);
      } else if (kind == 1) stream(db, path, 1 + (unsigned)(len % 4), len);
      else put(db, path, kind < 4 ? 2000 + len % 9000 : kind < 6 ? len % 900 : 60000 + len % 100000, len);
    }
    if (round < 2) must(db, sdb_checkpoint(db), "checkpoint");
  }
  if (closed) {
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    return device;
  }
  sim_die_at(device, 1);
  sdb_close(db);
  sim_crash(device, SIM_DROP_ALL, 1);
  return device;
}

START_TEST(test_whole) {
  uint64_t first, count = seed_range("whole", 12, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    for (int closed = 0; closed < 2; closed++) {
      sim *device = base_of(seed, closed);
      sdb_verify_report with = verify(device, true), without = verify(device, false);
      ck_assert_uint_eq(with.problems, 0);
      ck_assert_msg(without.problems == 0, "seed %" PRIu64 ": a false alarm", seed);
      ck_assert(with.contents && !without.contents);
      if (closed) ck_assert_uint_eq(without.pages, with.pages); /* not one used page was passed over */
      sim_free(device);
    }
  }
}
END_TEST

static void flip(sim *device, const char *name, uint64_t at) {
  uint8_t byte;
  ck_assert(sim_peek(device, name, at, &byte, 1));
  byte ^= 0x20;
  ck_assert(sim_poke(device, name, at, &byte, 1));
}

/* A flipped byte in each page. */
START_TEST(test_every_page) {
  uint64_t first, count = (seed_range("every page", 1, &first) + 2) / 3; /* each is a whole file */
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed, size;
    unsigned noticed = 0, unnoticed = 0;
    sim *device = base_of(seed, true);
    ck_assert(sim_size(device, NAME, &size));
    for (uint64_t page = FIRST; page < size / PAGE; page++) {
      uint64_t at = page * PAGE + sim_random(&random) % PAGE;
      flip(device, NAME, at);
      uint64_t with = verify(device, true).problems, without = verify(device, false).problems;
      ck_assert_msg((with > 0) == (without > 0),
                    "seed %" PRIu64 ", offset %" PRIu64 ": %" PRIu64 " problems with the key, %" PRIu64 " without", seed, at, with,
                    without);
      noticed += without > 0, unnoticed += without == 0;
      flip(device, NAME, at);
    }

    ck_assert_uint_gt(noticed, 50);
    ck_assert_uint_gt(unnoticed, 0); /* what is free */
    sim_free(device);
  }
}
END_TEST

/* The log of a database that was not closed. */
START_TEST(test_every_part_of_the_log) {
  unsigned noticed = 0;
  uint64_t first, count = (seed_range("log", 1, &first) + 2) / 3; /* each is a whole file */
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed;
    sim *device = base_of(seed, false);
    for (size_t i = 0; sim_name(device, i); i++) {
      uint64_t size;
      const char *name = sim_name(device, i);
      if (!strstr(name, ".log.") || !sim_size(device, name, &size)) continue;
      for (uint64_t at = 0; at < size; at += 1 + sim_random(&random) % 300) {
        flip(device, name, at);
        uint64_t with = verify(device, true).problems, without = verify(device, false).problems;
        ck_assert_msg((with > 0) == (without > 0), "seed %" PRIu64 ", %s at %" PRIu64 ": %" PRIu64 " and %" PRIu64, seed, name, at,
                      with, without);
        noticed += without > 0;
        flip(device, name, at);
      }
    }
    sim_free(device);
  }
  ck_assert_uint_gt(noticed, 10);
}
END_TEST

START_TEST(test_missing_log) {
  sim *device = base_of(1, false);
  const sdb_storage *st = sim_storage(device);
  for (unsigned i = 0; i < 8; i++) {
    char name[64];
    snprintf(name, sizeof name, NAME ".log.%04u", i);
    int code = st->remove(st->ctx, name);
    ck_assert(code == SDB_OK || code == SDB_NOT_FOUND);
  }
  ck_assert_uint_eq(verify(device, false).problems, 1);
  sim_free(device);
}
END_TEST

/* --- A single large content --------------------------------------------------------------------------------------------------- */

/* Where the only extent of the file begins. */
static uint64_t find_extent(sim *device, uint8_t head[HEAD_PEEK], run_list *l) {
  for (uint64_t page = FIRST; sim_peek(device, NAME, page * PAGE, head, HEAD_PEEK); page++)
    if (head_peek(head, (uint32_t)page, l)) return page * PAGE;
  ck_abort_msg("no large content");
  return 0;
}

static sim *one_content(size_t len) {
  sim *device = sim_new(3);
  sdb *db = open_on(device);
  put(db, 1, len, 1);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  return device;
}

/* Each sentence says which chunk, and each chunk is judged. */
static char told[8][160];
static unsigned sentences;
static void listen(void *user, const char *sentence) {
  (void)user;
  if (sentences < 8) snprintf(told[sentences], sizeof told[0], "%s", sentence);
  sentences++;
}

START_TEST(test_sentences) {
  uint8_t head[HEAD_PEEK];
  run_list l;
  char expected[160];
  sim *device = one_content(150000);
  uint64_t at = find_extent(device, head, &l), chunk = 65536 + CIPHER_OVERHEAD;
  sdb_options o = options_on(device, false);
  flip(device, NAME, at + l.head_len + 100);
  flip(device, NAME, at + l.head_len + 2 * chunk + 100);
  sentences = 0;
  ck_assert_int_eq(sdb_verify(NAME, &o, listen, NULL, NULL), SDB_OK);
  ck_assert_uint_eq(sentences, 2);
  snprintf(expected, sizeof expected, "chunk 0 of the large content at physical page %" PRIu64 " does not match its checksum",
           at / PAGE);
  ck_assert_str_eq(told[0], expected);
  snprintf(expected, sizeof expected, "chunk 2 of the large content at physical page %" PRIu64 " does not match its checksum",
           at / PAGE);
  ck_assert_str_eq(told[1], expected);
  flip(device, NAME, at + 200);
  sentences = 0;
  ck_assert_int_eq(sdb_verify(NAME, &o, listen, NULL, NULL), SDB_OK);
  ck_assert_uint_eq(sentences, 1); /* without the head nobody knows of chunks */
  snprintf(expected, sizeof expected, "physical pages %" PRIu64 " to %" PRIu64 " hold a large content whose head does not verify",
           at / PAGE, at / PAGE + l.runs[0].count - 1);
  ck_assert_str_eq(told[0], expected);
  sim_free(device);
}
END_TEST

static uint64_t unreadable; /* an offset */
static sdb_storage lower;
static int read_but_there(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  return unreadable && offset <= unreadable && unreadable - offset < len ? SDB_IO : lower.read(file, offset, buf, len);
}

START_TEST(test_unreadable) {
  uint8_t head[HEAD_PEEK];
  run_list l;
  sim *device = one_content(150000);
  uint64_t at = find_extent(device, head, &l);
  sdb_options o = options_on(device, false);
  sdb_verify_report report = {.size = sizeof report};
  lower = *o.storage;
  sdb_storage table = lower;
  table.read = read_but_there;
  o.storage = &table;
  unreadable = at + l.head_len + 70000;
  ck_assert_int_eq(sdb_verify(NAME, &o, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 1);
  ck_assert_uint_eq(report.unreadable, 1);
  unreadable = at + 100; /* its head */
  ck_assert_int_eq(sdb_verify(NAME, &o, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 2); /* and the pages behind are nobody's */
  ck_assert_uint_eq(report.unreadable, 1);
  sim_free(device);
}
END_TEST

/* Somebody who knows checksums changes what stands in clear: nobody is given wrong bytes, and nothing is read outside. */
START_TEST(test_forged_heads) {
  static uint8_t bytes[8192], content[150000], got[150000];
  run_list l;
  unsigned path = 1, corrupt = 0;
  uint64_t random = 5;
  fill(content, sizeof content, 1);
  for (unsigned field = 64; field < 80 + 192 + 8 + 24; field += 1) {
    sim *device = one_content(sizeof content);
    uint64_t at = find_extent(device, bytes, &l);
    size_t size;
    ck_assert(sim_peek(device, NAME, at, bytes, l.head_len));
    bytes[field] ^= (uint8_t)(1u << sim_random(&random) % 8);
    uint32_t crc = crc32c(0, bytes + 4, l.head_len - 4);
    for (unsigned i = 0; i < 4; i++) bytes[i] = (uint8_t)(crc >> 8 * i);
    ck_assert(sim_poke(device, NAME, at, bytes, l.head_len));
    (void)verify(device, false);
    sdb *db = open_on(device);
    int code = sdb_get(db, &path, sizeof path, SDB_CURRENT, got, sizeof got, &size, NULL);
    ck_assert_msg(code == SDB_CORRUPT || (code == SDB_OK && memcmp(got, content, sizeof got) == 0), "byte %u: %s", field,
                  sdb_strerror(code));
    corrupt += code == SDB_CORRUPT;
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
  ck_assert_uint_gt(corrupt, 80);
}
END_TEST

/* Somebody makes a file of heads that all lay claim to the same pages. Chunks: what is in those pages, and a last one that is not;
 * `twice`: none, but the pages twice. */
static void forge(sim *device, uint32_t page, run shared, const uint8_t *bytes, bool twice) {
  static uint8_t head[PAGE];
  uint32_t slices = shared.count * PAGE / SDB_CHUNK, chunks = twice ? 0 : slices + 2, runs = twice ? 3 : 2, sealed = 64;
  uint32_t len = head_length(1, runs, chunks), kind = PAGE_EXTENT | 2 << 8 | UNIT_ENCRYPTED << 16;
  ck_assert_uint_le(len, PAGE);
  memset(head, 0, sizeof head);
  put32(head + 4, kind);
  put32(head + 8, page);
  put32(head + 12, len);
  put32(head + 64, chunks);
  put32(head + 68, runs);
  put32(head + 72, sealed);
  uint8_t *at = head + 80 + sealed;
  for (uint32_t i = 0; i < runs; i++, at += 8) {
    put32(at, i ? shared.start : page);
    put32(at + 4, i ? shared.count : 1);
  }
  for (uint32_t i = 0; i < chunks; i++, at += 8) {
    const uint8_t *stored = i == 0 ? head + len : bytes + (size_t)(i - 1) * SDB_CHUNK;
    uint32_t stored_len = i == 0 ? PAGE - len : SDB_CHUNK;
    put32(at, i <= slices ? crc32c(0, stored, stored_len) : 1);
    put32(at + 4, i <= slices ? stored_len : 1);
  }
  put32(head, crc32c(0, head + 4, len - 4));
  ck_assert(sim_poke(device, NAME, (uint64_t)page * PAGE, head, PAGE));
}

START_TEST(test_many_heads) {
  enum { SIZE = 4 << 20 };
  static uint8_t bytes[SIZE + (1 << 20)];
  uint8_t head[HEAD_PEEK];
  char expected[160];
  run_list found[2];
  uint64_t random = 7;
  sim *device = sim_new(3);
  sdb *db = open_on(device);
  for (unsigned i = 0; i < SIZE; i++) bytes[i] = (uint8_t)sim_random(&random);
  for (unsigned path = 0; path < 2; path++) must(db, sdb_put(db, &path, sizeof path, bytes, SIZE, NULL, NULL), "put");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  for (unsigned page = FIRST, i = 0; i < 2; page++) {
    ck_assert(sim_peek(device, NAME, (uint64_t)page * PAGE, head, HEAD_PEEK));
    i += head_peek(head, page, &found[i]);
  }
  run ours = found[0].runs[0], shared = found[1].runs[0];
  ck_assert_uint_le(shared.count * PAGE, sizeof bytes);
  ck_assert(sim_peek(device, NAME, (uint64_t)shared.start * PAGE, bytes, shared.count * PAGE));
  forge(device, ours.start, shared, bytes, true);
  sdb_options o = options_on(device, false);
  sentences = 0;
  ck_assert_int_eq(sdb_verify(NAME, &o, listen, NULL, NULL), SDB_OK);
  ck_assert_uint_eq(sentences, 1); /* nobody has a page twice: it is no head */
  snprintf(expected, sizeof expected, "physical pages %u to %u hold a large content whose head does not verify", ours.start,
           ours.start + ours.count - 1);
  ck_assert_str_eq(told[0], expected);
  for (uint32_t i = 0; i < ours.count; i++) forge(device, ours.start + i, shared, bytes, false);
  uint64_t before = sim_calls(device, SIM_READ);
  ck_assert_uint_gt(verify(device, false).problems, 0);
  ck_assert_uint_lt(sim_calls(device, SIM_READ) - before, 10000);
  sim_free(device);
}
END_TEST

/* --- Heads that do not fit into their first run ------------------------------------------------------------------------------- */

enum { HOLE = 32000, HOLES = 90 };

/* Some content stands in several runs, the first of them shorter than the head where that has more than `least` bytes. */
static bool in_pieces(const sim *device, uint32_t least) {
  uint8_t head[HEAD_PEEK];
  run_list l;
  for (uint64_t page = FIRST; sim_peek(device, NAME, page * PAGE, head, HEAD_PEEK); page++)
    if (head_peek(head, (uint32_t)page, &l) && l.count > 1 && l.head_len > least &&
        (least < PAGE || l.head_len > l.runs[0].count * PAGE))
      return true;
  return false;
}

/* Free space in holes of eight pages; an upload of unknown size wants more for its head. */
START_TEST(test_head_in_pieces) {
  sim *device = sim_new(4);
  sdb_options o = options_on(device, true);
  o.max_db_size = 24u << 20;
  sdb *db;
  ck_assert_int_eq(sdb_open(NAME, &o, &db), SDB_OK);
  unsigned last = 0;
  static uint8_t content[HOLE + 6000];
  fill(content, sizeof content, 1);
  while (sdb_put(db, &last, sizeof last, content, HOLE, NULL, NULL) == SDB_OK) last++;
  ck_assert_uint_gt(last, 2 * HOLES);
  for (unsigned i = 0; i < last; i += 2) must(db, sdb_delete(db, &i, sizeof i, NULL, NULL), "delete");
  must(db, sdb_checkpoint(db), "checkpoint");
  must(db, sdb_checkpoint(db), "checkpoint");
  unsigned path = last + 1;
  for (unsigned i = 0; i < HOLES / 3 && !in_pieces(device, 1); i++) { /* what there is of longer free runs */
    path++;
    must(db, sdb_put(db, &path, sizeof path, content, HOLE + 6000, NULL, NULL), "put");
  }
  path++;
  stream(db, path, 30, 1);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_msg(in_pieces(device, 32768), "the head stands in one piece");
  sdb_verify_report report = verify(device, false);
  ck_assert_uint_eq(report.problems, 0);
  ck_assert_uint_eq(report.pages, verify(device, true).pages);

  sdb_repair_report repaired = {.size = sizeof repaired};
  uint8_t zeros[PAGE] = {0};
  ck_assert(sim_poke(device, NAME, 0, zeros, PAGE)); /* one slot, so that the key is known; */
  uint64_t map = (uint64_t)PAGE * (393216 / PAGE + 2);
  for (unsigned i = 0; i < 512; i++) ck_assert(sim_poke(device, NAME, map + (uint64_t)i * PAGE, zeros, PAGE)); /* no map */
  o = options_on(device, true);
  ck_assert_int_eq(sdb_repair(NAME, "mended.sdb", &o, NULL, NULL, &repaired), SDB_OK);
  ck_assert_int_eq(sdb_open("mended.sdb", &o, &db), SDB_OK);
  static uint8_t got[1500000];
  size_t size;
  must(db, sdb_get(db, &path, sizeof path, SDB_CURRENT, got, sizeof got, &size, NULL), "get");
  ck_assert_uint_eq(size, sizeof got);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("keyless");
  TCase *files = tcase_create("files");
  tcase_set_timeout(files, 0);
  tcase_add_test(files, test_whole);
  tcase_add_test(files, test_every_page);
  tcase_add_test(files, test_every_part_of_the_log);
  tcase_add_test(files, test_missing_log);
  suite_add_tcase(suite, files);
  TCase *contents = tcase_create("contents");
  tcase_set_timeout(contents, 0);
  tcase_add_test(contents, test_sentences);
  tcase_add_test(contents, test_unreadable);
  tcase_add_test(contents, test_forged_heads);
  tcase_add_test(contents, test_many_heads);
  tcase_add_test(contents, test_head_in_pieces);
  suite_add_tcase(suite, contents);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
