/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_codec.c - checksums; compression: what is stored smaller, what is left as it is, and what hostile bytes can do (nothing).
 *
 * Environment: SDB_SEED, SDB_SEEDS (seed.h).
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "compress.h"
#include "seed.h"
#include "workload.h"

enum { TEXT, NOISE, MIXED, CONTENTS };
enum { LARGEST = 20 * SDB_CHUNK };

static uint8_t content[LARGEST], got[LARGEST];

/* Text: words and numbers. Mixed: 50,000 bytes of one, then of the other. */
static void fill(int what, uint64_t seed, size_t len) {
  static const char *const words[] = {"temperature", "humidity", "node", "state", "sensor", "value", "unit", "celsius"};
  uint64_t random = seed;
  for (size_t at = 0; at < len;) {
    char piece[64];
    uint64_t n = sim_random(&random);
    bool text = what == TEXT || (what == MIXED && at / 50000 % 2 == 0);
    int size = text ? snprintf(piece, sizeof piece, "{\"%s\":%u} ", words[n % 8], (unsigned)(n >> 32) % 1000) : 8;
    if (!text) memcpy(piece, &n, 8);
    for (int i = 0; i < size && at < len; i++) content[at++] = (uint8_t)piece[i];
  }
}

static sdb *open_on(sim *device, bool compress, uint32_t page_size) {
  char message[256] = "";
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.use_mmap = false;
  o.use_compression = compress;
  o.page_size = page_size;
  o.wal_segment_size = 1 << 20;
  o.message = message;
  o.message_size = sizeof message;
  sdb *db;
  int code = sdb_open("codec.sdb", &o, &db);
  ck_assert_msg(code == SDB_OK, "open: %s", message);
  return db;
}

static void must(sdb *db, int code, const char *call) {
  if (code == SDB_OK) return;
  char message[256];
  sdb_message(db, message, sizeof message);
  ck_abort_msg("%s: %s (%s)", call, sdb_strerror(code), message);
}

static void close_clean(sdb *db, sdb_check_report *report) {
  *report = (sdb_check_report){.size = sizeof *report};
  must(db, sdb_check(db, NULL, NULL, report), "check");
  ck_assert_uint_eq(report->problems, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

/* --- Round trips -------------------------------------------------------------------------------------------------------------- */

static void put_streamed(sdb *db, const char *path, size_t len, size_t piece, uint64_t hint) {
  sdb_writer *w;
  must(db, sdb_writer_open(db, path, strlen(path), hint, NULL, &w), "writer_open");
  for (size_t at = 0; at < len; at += piece)
    must(db, sdb_writer_write(w, content + at, len - at < piece ? len - at : piece), "write");
  must(db, sdb_writer_commit(w, NULL), "commit");
}

static void read_whole(sdb *db, const char *path, size_t len) {
  size_t size = 0;
  sdb_info info;
  memset(got, 0xEE, len);
  must(db, sdb_get(db, path, strlen(path), SDB_CURRENT, got, len, &size, &info), "get");
  ck_assert_uint_eq(size, len);
  ck_assert_uint_eq(info.size, len);
  ck_assert_uint_eq(info.digest, sdb_crc32c(0, content, len)); /* of the content as it was given */
  ck_assert_msg(memcmp(got, content, len) == 0, "%s: other bytes", path);
}

static void read_parts(sdb *db, const char *path, size_t len) {
  sdb_reader *r;
  size_t at = 0, n;
  must(db, sdb_reader_open(db, path, strlen(path), SDB_CURRENT, &r), "reader_open");
  do {
    must(db, sdb_reader_read(r, got, 70001, &n), "read");
    ck_assert_msg(memcmp(got, content + at, n) == 0, "%s: other bytes behind %zu", path, at);
    at += n;
  } while (n > 0);
  sdb_reader_close(r);
  ck_assert_uint_eq(at, len);
  for (size_t offset = 0; offset < len; offset += len / 7 + 1) {
    must(db, sdb_get_range(db, path, strlen(path), SDB_CURRENT, offset, got, 1000, &n, NULL), "get_range");
    ck_assert_uint_eq(n, len - offset < 1000 ? len - offset : 1000);
    ck_assert_msg(memcmp(got, content + offset, n) == 0, "%s: other bytes at %zu", path, offset);
  }
}

START_TEST(test_round_trips) {
  static const size_t borders[] = {0,         COMPRESS_LEAST, 512,           2048,          4096,       16384,
                                   SDB_CHUNK, 2 * SDB_CHUNK,  4 * SDB_CHUNK, 5 * SDB_CHUNK, LARGEST - 1};
  static const size_t pieces[] = {1000, SDB_CHUNK, 3 * SDB_CHUNK + 17, LARGEST};
  sim *device = sim_new(1);
  sdb *db = open_on(device, _i % 2 == 0, 4096u << _i);
  for (int what = 0; what < CONTENTS; what++) {
    for (size_t b = 0; b < sizeof borders / sizeof *borders; b++) {
      for (size_t len = borders[b] ? borders[b] - 1 : 0; len <= borders[b] + 1; len++) {
        fill(what, len, len);
        must(db, sdb_put(db, "put", 3, content, len, NULL, NULL), "put");
        read_whole(db, "put", len);
        put_streamed(db, "streamed", len, pieces[len % 4], b % 2 ? len : SDB_UNKNOWN_SIZE);
        read_whole(db, "streamed", len);
        read_parts(db, "streamed", len);
      }
    }
  }
  sdb_check_report report;
  close_clean(db, &report);
  db = open_on(device, _i % 2 != 0, 4096u << _i); /* the option is of the moment: what is stored says itself what it is */
  read_whole(db, "put", LARGEST);
  read_parts(db, "streamed", LARGEST);
  close_clean(db, &report);
  sim_free(device);
}
END_TEST

/* --- What it takes ------------------------------------------------------------------------------------------------------------ */

static uint64_t extent_pages(bool compress, int what, size_t len, unsigned count) {
  sim *device = sim_new(1);
  sdb *db = open_on(device, compress, 8192);
  for (unsigned i = 0; i < count; i++) {
    char path[16];
    fill(what, i, len);
    snprintf(path, sizeof path, "%u", i);
    must(db, sdb_put(db, path, strlen(path), content, len, NULL, NULL), "put");
  }
  sdb_check_report report;
  close_clean(db, &report);
  sim_free(device);
  return report.extent_pages;
}

START_TEST(test_extents_shrink) {
  uint64_t plain = extent_pages(false, TEXT, 10 * SDB_CHUNK, 3), packed = extent_pages(true, TEXT, 10 * SDB_CHUNK, 3);
  ck_assert_msg(packed < plain / 2, "text: %" PRIu64 " pages instead of %" PRIu64, packed, plain);
  uint64_t mixed = extent_pages(true, MIXED, 20 * SDB_CHUNK, 3);
  ck_assert_msg(mixed < plain * 2 * 85 / 100, "mixed: %" PRIu64 " pages instead of %" PRIu64, mixed, plain * 2);
  ck_assert_uint_eq(extent_pages(true, NOISE, 10 * SDB_CHUNK, 3), plain); /* noise takes no byte more */
  ck_assert_uint_gt(extent_pages(false, TEXT, 8000, 3), 0);
  ck_assert_uint_eq(extent_pages(true, TEXT, 8000, 3), 0); /* fits into a record when it is packed */
}
END_TEST

static uint64_t live_bytes(bool compress, int what) {
  sim *device = sim_new(1);
  sdb *db = open_on(device, compress, 8192);
  for (unsigned i = 0; i < 100; i++) {
    fill(what, i, 1000);
    must(db, sdb_put(db, &i, sizeof i, content, 1000, NULL, NULL), "put");
  }
  sdb_stats stats = {.size = sizeof stats};
  must(db, sdb_get_stats(db, &stats), "stats");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
  return stats.heap_live_bytes;
}

START_TEST(test_records_shrink) {
  ck_assert_uint_lt(live_bytes(true, TEXT), live_bytes(false, TEXT) * 2 / 3);
  ck_assert_uint_eq(live_bytes(true, NOISE), live_bytes(false, NOISE));
}
END_TEST

/* --- The habit ---------------------------------------------------------------------------------------------------------------- */

/* How many of `count` blocks of noise are compressed in vain. */
static unsigned tries(compress_habit *habit, unsigned count) {
  static uint8_t out[2 * SDB_CHUNK];
  unsigned tried = 0;
  for (unsigned i = 0; i < count; i++) {
    fill(NOISE, i, 4096);
    unsigned before = atomic_load(&habit->kinds[1].skip);
    ck_assert_uint_eq(compress_block(habit, content, 4096, out), 0);
    tried += before == 0;
  }
  return tried;
}

START_TEST(test_noise_costs_little) {
  static uint8_t out[2 * SDB_CHUNK];
  compress_habit habit = {.limit = 63};
  unsigned tried = tries(&habit, 1000);
  ck_assert_msg(tried >= 1000 / 64 && tried <= 1000 / 64 + 8, "%u of 1000 blocks were tried", tried);
  fill(TEXT, 1, 4096); /* what does not look like noise is none of noise's business */
  ck_assert_uint_gt(compress_block(&habit, content, 4096, out), 0);
  /* Looks like noise, but repeats itself: found out after 63 blocks, and from then on always. */
  fill(NOISE, 1, 1024);
  for (int i = 1; i < 4; i++) memcpy(content + 1024 * i, content, 1024);
  unsigned passed = 0;
  while (compress_block(&habit, content, 4096, out) == 0) ck_assert_uint_lt(++passed, 64);
  for (int i = 0; i < 100; i++) ck_assert_uint_gt(compress_block(&habit, content, 4096, out), 0);
}
END_TEST

/* --- Hostile bytes ------------------------------------------------------------------------------------------------------------ */

START_TEST(test_hostile_blocks) {
  static uint8_t out[2 * SDB_CHUNK], bad[2 * SDB_CHUNK];
  uint64_t first, count = seed_range("hostile blocks", 20000, &first);
  compress_habit habit = {.limit = 0};
  fill(TEXT, 1, 5000);
  size_t len = compress_block(&habit, content, 5000, out);
  ck_assert_uint_gt(len, 0);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed;
    size_t n = len, room = 5000;
    memcpy(bad, out, len);
    for (unsigned i = 0; i <= seed % 4; i++) bad[sim_random(&random) % len] = (uint8_t)sim_random(&random);
    if (seed % 5 == 0) n = sim_random(&random) % len;
    if (seed % 7 == 0) room = sim_random(&random) % 10000;
    uint8_t *to = malloc(room + 1); /* a sanitizer watches its end; this byte does so without one */
    ck_assert_ptr_nonnull(to);
    to[room] = 0x5A;
    (void)compress_undo(bad, n, to, room);
    ck_assert_uint_eq(to[room], 0x5A);
    free(to);
  }
  ck_assert(compress_undo(out, len, got, 5000) && memcmp(got, content, 5000) == 0);
  ck_assert(!compress_undo(out, len, got, 4999) && !compress_undo(out, len, got, 5001) && !compress_undo(out, 0, got, 0));
}
END_TEST

/* A bit at a time, as its definition says. */
static uint32_t plain_crc(const uint8_t *p, size_t len) {
  uint32_t crc = UINT32_MAX;
  for (size_t i = 0; i < len; i++) {
    crc ^= p[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

START_TEST(test_checksum) {
  ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xE3069283u);
  fill(NOISE, 3, 70000);
  for (size_t len = 0; len < 70000; len += len < 20 || (len > 1000 && len < 1050) ? 1 : 1 + len / 3) {
    for (size_t from = 0; from < 5 && from <= len; from++) {
      size_t half = len / 2;
      uint32_t crc = plain_crc(content + from, len - from);
      ck_assert_uint_eq(crc32c(0, content + from, len - from), crc);
      ck_assert_uint_eq(crc32c_copy(0, got, content + from, len - from), crc);
      if (from <= half) ck_assert_uint_eq(crc32c(crc32c(0, content + from, half - from), content + half, len - half), crc);
    }
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("codec");
  TCase *checksum = tcase_create("checksum");
  tcase_add_test(checksum, test_checksum);
  suite_add_tcase(suite, checksum);
  TCase *compression = tcase_create("compression");
  tcase_set_timeout(compression, 120);
  tcase_add_loop_test(compression, test_round_trips, 0, 5);
  tcase_add_test(compression, test_extents_shrink);
  tcase_add_test(compression, test_records_shrink);
  tcase_add_test(compression, test_noise_costs_little);
  tcase_add_test(compression, test_hostile_blocks);
  suite_add_tcase(suite, compression);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
