/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_parsers.c - headers, records and lists of runs whose checksum is right and whose fields are not: what later arithmetic
 * relies on is refused, whoever wrote it. Every buffer is as long as the parser is told, so that a sanitizer sees a byte read
 * behind it. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "extent_head.h"
#include "layout.h"
#include "record.h"
#include "simulated.h"

/* --- Header slots ------------------------------------------------------------------------------------------------------------- */

static uint8_t slot[SLOT_SIZE];

static header sound_header(void) {
  header h = {.page_size = 8192, .epoch = 7, .checkpoint = 9, .clean = true, .pages_free = 5, .logical_limit = 1000};
  geometry g;
  ck_assert(geometry_init(&g, h.page_size));
  h.pages_total = group_body(&g, 0) + 100;
  h.log = (log_place){.position = 4096 * 5, .chain = 3, .segment = 2, .salt = 11};
  h.roots = (roots){.sequence = 44, .doc_limit = 20, .documents = 19, .names = 21, .path_tree = 1, .suffix_tree = 2, .table = 3};
  h.roots.heap_page = 4, h.roots.heap_fill = PAGE_HEADER + 64;
  return h;
}

static void reseal(void) { put32(slot + 8, crc32c(0, slot + 12, SLOT_SIZE - 12)); }

START_TEST(a_header_is_what_was_written) {
  header h = sound_header(), back;
  for (int i = 0; i < 2; i++) {
    h.encrypted = i == 1;
    memset(h.wrapped, i == 1 ? 0x77 : 0, sizeof h.wrapped);
    h.roots.sweep = h.roots.recount = i == 1;
    h.compatible = i == 1 ? 0x100 : 0;
    h.to_be_read = i == 1 ? 0x200 : 0;
    h.root_dir[0] = (dir_entry){.crc = 5, .count = 6, .copy = 1, .written = true};
    header_encode(&h, slot);
    ck_assert_int_eq(header_decode(&back, slot), SDB_OK);
    ck_assert_uint_eq(back.pages_total, h.pages_total);
    ck_assert_uint_eq(back.roots.documents, h.roots.documents);
    ck_assert_uint_eq(back.log.position, h.log.position);
    ck_assert_uint_eq(back.root_dir[0].count, 6);
    ck_assert(back.compatible == h.compatible && back.to_be_read == h.to_be_read);
    ck_assert(back.clean && back.encrypted == h.encrypted && back.roots.sweep == h.roots.sweep);
    ck_assert_mem_eq(back.wrapped, h.wrapped, sizeof h.wrapped);
  }
  for (size_t at = 0; at < SLOT_SIZE; at += 37) {
    slot[at] ^= 0x10;
    ck_assert_int_eq(header_decode(&back, slot), SDB_NOT_A_DATABASE);
    slot[at] ^= 0x10;
  }
}
END_TEST

START_TEST(a_header_that_makes_no_sense_is_refused) {
  static const struct {
    unsigned at, width;
    uint64_t value;
    int code;
  } cases[] = {
      {12, 2, 99, SDB_UNSUPPORTED},   /* major format */
      {16, 4, 1, SDB_OK},             /* a feature that nobody need know */
      {20, 4, 1, SDB_OK},             /* one that a writer must know */
      {24, 4, 0x80, SDB_UNSUPPORTED}, /* one that a reader must know */
      {28, 4, 0, SDB_CORRUPT},        /* page size */
      {28, 4, 12345, SDB_CORRUPT},
      {28, 4, 1 << 20, SDB_CORRUPT},
      {56, 8, 0, SDB_CORRUPT},    /* checkpoint */
      {64, 8, 4097, SDB_CORRUPT}, /* log position */
      {88, 8, 1, SDB_CORRUPT},    /* pages in all: not even the fixed ones */
      {88, 8, UINT64_MAX, SDB_CORRUPT},
      {96, 8, 1ull << 40, SDB_CORRUPT}, /* free pages: more than there are */
      {104, 8, 0, SDB_CORRUPT},         /* logical pages */
      {104, 8, UINT64_MAX, SDB_CORRUPT},
      {112, 8, 0, SDB_CORRUPT}, /* document numbers */
      {112, 8, (1ull << 40) + 1, SDB_CORRUPT},
      {120, 8, 20, SDB_CORRUPT},   /* documents: as many as numbers, of which 0 is none */
      {128, 4, 1000, SDB_CORRUPT}, /* path tree */
      {128, 4, 0, SDB_CORRUPT},
      {132, 4, 1000, SDB_CORRUPT}, /* suffix tree */
      {136, 4, 1000, SDB_CORRUPT}, /* expiry tree */
      {140, 4, 1000, SDB_CORRUPT}, /* table */
      {140, 4, 0, SDB_CORRUPT},
      {144, 4, 1000, SDB_CORRUPT},            /* open heap page */
      {148, 4, PAGE_HEADER - 8, SDB_CORRUPT}, /* and how full it is */
      {148, 4, 8200, SDB_CORRUPT},
      {148, 4, PAGE_HEADER + 1, SDB_CORRUPT},
      {232, 4, 1000, SDB_CORRUPT}, /* path tree that is being made */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    header h = sound_header(), back;
    header_encode(&h, slot);
    if (cases[i].width == 2) put16(slot + cases[i].at, (uint16_t)cases[i].value);
    if (cases[i].width == 4) put32(slot + cases[i].at, (uint32_t)cases[i].value);
    if (cases[i].width == 8) put64(slot + cases[i].at, cases[i].value);
    reseal();
    int code = header_decode(&back, slot);
    ck_assert_msg(code == cases[i].code, "offset %u, %llu: answered %d", cases[i].at, (unsigned long long)cases[i].value, code);
  }
  header h = sound_header(), back;
  h.roots.heap_page = h.roots.heap_fill = 0; /* none is open */
  header_encode(&h, slot);
  ck_assert_int_eq(header_decode(&back, slot), SDB_OK);
}
END_TEST

/* --- Records ------------------------------------------------------------------------------------------------------------------ */

static const uint8_t two_names[] = "\x02\x00/b\x03\x00/cc"; /* lengths in two bytes each */
enum { ALL = RECORD_EXPIRES | RECORD_TOKEN | RECORD_TYPE | RECORD_METADATA | RECORD_NAMES | RECORD_OLDER };

static record sound_record(uint16_t flags) {
  record r = {.version = 5, .kept = 2, .size = 11, .flags = flags, .path = (const uint8_t *)"/a", .path_len = 2, .older = 8};
  r.expires_ms = 99;
  r.token = (const uint8_t *)"sixteen bytes ok";
  r.type = (const uint8_t *)"text", r.type_len = 4;
  r.metadata = (const uint8_t *)"meta!", r.metadata_len = 5;
  r.names = two_names, r.names_len = sizeof two_names - 1, r.name_count = 2;
  r.stored = (const uint8_t *)"hello world", r.stored_len = 11;
  r.total = (uint32_t)record_measure(&r);
  return r;
}

/* In a buffer that ends where the record does. */
static uint8_t *written(const record *r) {
  uint8_t *bytes = malloc(r->total);
  ck_assert_ptr_nonnull(bytes);
  record_write(bytes, r);
  return bytes;
}

static int parse_exact(const uint8_t *bytes, size_t len) {
  record r;
  uint8_t *copy = malloc(len ? len : 1);
  ck_assert_ptr_nonnull(copy);
  memcpy(copy, bytes, len);
  int rc = record_parse(&r, copy, len);
  free(copy);
  return rc;
}

START_TEST(a_record_that_is_cut_is_none) {
  static const uint16_t flags[] = {0, RECORD_EXPIRES, RECORD_TOKEN, RECORD_TYPE, RECORD_METADATA, RECORD_NAMES, RECORD_OLDER, ALL};
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
    record r = sound_record(flags[i]), back;
    uint8_t *bytes = written(&r);
    ck_assert_int_eq(record_parse(&back, bytes, r.total), SDB_OK);
    ck_assert_uint_eq(back.total, r.total);
    ck_assert_mem_eq(back.stored, "hello world", 11);
    ck_assert_uint_eq(record_names(&back), flags[i] & RECORD_NAMES ? 3 : 1);
    ck_assert(record_has_name(&back, "/cc", 3) == ((flags[i] & RECORD_NAMES) != 0));
    ck_assert(record_has_name(&back, "/a", 2) && !record_has_name(&back, "/cd", 3) && !record_has_name(&back, "/c", 2));
    for (size_t len = 0; len < r.total; len++) ck_assert_int_eq(parse_exact(bytes, len), SDB_CORRUPT);
    free(bytes);
  }
}
END_TEST

/* The checksum that fits, whatever the fields have become; of the sections only names. */
static void reseal_record(uint8_t *bytes, const record *r) {
  size_t covered = RECORD_HEAD + r->path_len;
  if (r->flags & RECORD_NAMES) covered += 1 + r->names_len;
  put32(bytes, crc32c(0, bytes + 4, covered - 4));
}

START_TEST(a_record_that_makes_no_sense_is_none) {
  static const struct {
    unsigned at, width;
    uint32_t value;
  } cases[] = {
      {8, 4, 2},              /* version: not above how many older ones it keeps */
      {12, 4, 12},            /* size: another than what is stored, and it is not compressed */
      {38, 2, 0x8000},        /* a flag that is not known */
      {38, 2, RECORD_SNAPPY}, /* compressed to more than it was */
      {38, 2, RECORD_OLDER},  /* a section that is not there */
      {40, 2, 0},             /* length of the path */
      {40, 2, SDB_MAX_PATH + 1},
      {43, 1, 0},  /* the mark of a record */
      {44, 4, 13}, /* stored bytes: more than there are */
      {44, 4, UINT32_MAX},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    record r = sound_record(0);
    uint8_t *bytes = written(&r);
    if (cases[i].width == 1) bytes[cases[i].at] = (uint8_t)cases[i].value;
    if (cases[i].width == 2) put16(bytes + cases[i].at, (uint16_t)cases[i].value);
    if (cases[i].width == 4) put32(bytes + cases[i].at, cases[i].value);
    reseal_record(bytes, &r);
    int code = parse_exact(bytes, r.total);
    ck_assert_msg(code == SDB_CORRUPT, "offset %u, %u: answered %d", cases[i].at, cases[i].value, code);
    free(bytes);
  }
  record r = sound_record(RECORD_LARGE);
  r.size = SDB_MAX_DOCUMENT + 1;
  uint8_t *bytes = written(&r);
  ck_assert_int_eq(parse_exact(bytes, r.total), SDB_CORRUPT);
  free(bytes);
  r = sound_record(RECORD_SNAPPY);
  r.size = SDB_CHUNK + 1;
  bytes = written(&r);
  ck_assert_int_eq(parse_exact(bytes, r.total), SDB_CORRUPT);
  free(bytes);
}
END_TEST

/* Names: how many, and the length of each. */
START_TEST(names_that_make_no_sense_are_none) {
  static const struct {
    unsigned at;
    uint16_t value;
  } cases[] = {{0, 0}, {0, MAX_NAMES}, {0, 3}, {1, 0}, {1, SDB_MAX_PATH + 1}, {1, 1000}, {5, 0}, {5, 900}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    record r = sound_record(RECORD_NAMES);
    uint8_t *bytes = written(&r), *names = bytes + RECORD_HEAD + r.path_len;
    if (cases[i].at == 0) names[0] = (uint8_t)cases[i].value;
    else put16(names + cases[i].at, cases[i].value);
    reseal_record(bytes, &r);
    int code = parse_exact(bytes, r.total);
    ck_assert_msg(code == SDB_CORRUPT, "offset %u, %u: answered %d", cases[i].at, cases[i].value, code);
    free(bytes);
  }
}
END_TEST

/* --- Lists of runs ------------------------------------------------------------------------------------------------------------ */

START_TEST(runs_that_make_no_sense_are_none) {
  static const struct {
    unsigned at;
    uint32_t value;
  } cases[] = {{0, 63}, {4, 0}, {4, 1}, {4, 3}, {4, MAX_RUNS + 1}, {8, 0}, {12, 0}, {8, UINT32_MAX}, {16, UINT32_MAX - 2}, {20, 0}};
  run_list list = {.head_len = 128, .count = 2, .runs = {{100, 5}, {200, 7}}}, back;
  uint8_t stored[64];
  record r = {.flags = RECORD_LARGE, .stored = stored, .stored_len = (uint32_t)run_list_size(2)};
  run_list_write(stored, &list);
  ck_assert_int_eq(run_list_parse(&back, &r), SDB_OK);
  ck_assert(back.count == 2 && back.head_len == 128 && back.runs[1].start == 200 && back.runs[1].count == 7);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    run_list_write(stored, &list);
    put32(stored + cases[i].at, cases[i].value);
    ck_assert_msg(run_list_parse(&back, &r) == SDB_CORRUPT, "offset %u, %u was taken", cases[i].at, cases[i].value);
  }
  run_list_write(stored, &list);
  r.flags = 0;
  ck_assert_int_eq(run_list_parse(&back, &r), SDB_CORRUPT);
  r.flags = RECORD_LARGE;
  r.stored_len = 15;
  ck_assert_int_eq(run_list_parse(&back, &r), SDB_CORRUPT);
}
END_TEST

/* --- Heads of large contents -------------------------------------------------------------------------------------------------- */

/* A head of every shape of lengths, cut and changed anywhere: what is accepted names nothing outside its bytes. */
START_TEST(a_head_that_makes_no_sense_is_refused) {
  static uint8_t sound[HEAD_PEEK], table[8 * 40], path[SDB_MAX_PATH];
  static const uint8_t binding[HEAD_BINDING];
  env e = {0};
  run_list l = {.count = 3, .runs = {{700, 2}, {900, 1}, {800, 5}}}, peeked;
  record r = {.version = 4, .size = 40 * 65536, .digest = 77, .time_ms = 5};
  extent_head h;
  uint64_t random = 1;
  memset(path, 'p', sizeof path);
  for (uint16_t path_len = 1; path_len <= SDB_MAX_PATH; path_len = (uint16_t)(path_len * 3 + 1)) {
    memset(sound, 0, sizeof sound);
    l.head_len = head_length(path_len, l.count, 40);
    ck_assert_uint_le(l.head_len, HEAD_PEEK);
    head_write(&e, sound, &r, path, path_len, binding, &l, table, 40, NULL);
    ck_assert(head_peek(sound, 700, &peeked) && head_parse(&h, sound, l.head_len, 700) && head_open(&e, &h, sound));
    ck_assert(peeked.count == 3 && peeked.runs[2].start == 800 && h.chunks == 40 && h.path_len == path_len && h.size == r.size);
    ck_assert(!head_peek(sound, 701, &peeked) && !head_parse(&h, sound, l.head_len, 701));
    ck_assert(!head_parse(&h, sound, l.head_len - 64, 700));
    for (unsigned round = 0; round < 4000; round++) {
      uint8_t *copy = malloc(l.head_len), *peek = malloc(HEAD_PEEK);
      ck_assert(copy && peek);
      memcpy(copy, sound, l.head_len);
      size_t at = 4 + sim_random(&random) % (round % 2 ? 140 : l.head_len - 4);
      copy[at] = (uint8_t)sim_random(&random);
      put32(copy, crc32c(0, copy + 4, l.head_len - 4));
      memset(peek, 0, HEAD_PEEK);
      memcpy(peek, copy, l.head_len);
      (void)head_peek(peek, 700, &peeked);
      if (head_parse(&h, copy, l.head_len, 700)) {
        ck_assert(h.run_table >= copy && h.chunk_table + 8 * (size_t)h.chunks <= copy + l.head_len);
        if (head_open(&e, &h, copy)) ck_assert(h.path + h.path_len <= h.run_table);
      }
      free(copy);
      free(peek);
    }
  }
}
END_TEST

int main(void) {
  TCase *t = tcase_create("parsers");
  tcase_add_test(t, a_header_is_what_was_written);
  tcase_add_test(t, a_header_that_makes_no_sense_is_refused);
  tcase_add_test(t, a_record_that_is_cut_is_none);
  tcase_add_test(t, a_record_that_makes_no_sense_is_none);
  tcase_add_test(t, names_that_make_no_sense_are_none);
  tcase_add_test(t, runs_that_make_no_sense_are_none);
  tcase_add_test(t, a_head_that_makes_no_sense_is_refused);
  Suite *s = suite_create("parsers");
  suite_add_tcase(s, t);
  SRunner *runner = srunner_create(s);
  srunner_run_all(runner, CK_ENV);
  int bad = srunner_ntests_failed(runner);
  srunner_free(runner);
  return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
