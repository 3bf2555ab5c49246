/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_corners.c - situations that once went wrong, each built by hand on the simulated device: a sync that fails beside a
 * checkpoint, marks without end, a full disk that meets a crash, damage and forged bytes where the checksums agree.
 *
 * What is poked into the files follows docs/file-format.md; the offsets are named there.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "simulated.h"

#define NAME "things.sdb"

enum { PAGE = 4096, SLOT_B = 65536, ROOT_DIR = 131072, GROUP_HEAD = 393216, MAP_CHUNKS = 256, SECTOR = 4096 };
enum { KIND_INNER = 1, KIND_HEAP = 5 };

static sim *device;
static sdb *db;
static sdb_options options;
static char message[256];
static uint8_t page[PAGE], content[300000];

static void set_up(void) {
  device = sim_new(1);
  sdb_options_init(&options);
  options.storage = sim_storage(device);
  options.threads = false;
  options.use_mmap = false;
  options.page_size = PAGE;
  options.page_cache_size = 64;
  options.wal_segment_size = 65536;
  options.checkpoint_wal_bytes = 64 << 20;
  options.change_log_bytes = 0;
  options.use_compression = false;
  options.message = message;
  options.message_size = sizeof message;
  for (size_t i = 0; i < sizeof content; i++) content[i] = (uint8_t)(i * 2654435761u >> 13);
}

static void tear_down(void) {
  if (db != NULL) sdb_close(db);
  db = NULL;
  ck_assert_uint_eq(sim_open_files(device), 0);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

static int try_open(void) { return sdb_open(NAME, &options, &db); }

static void open_it(void) {
  int code = try_open();
  ck_assert_msg(code == SDB_OK, "open: %s: %s", sdb_strerror(code), message);
}

static void close_it(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = NULL;
}

/* The power fails; nothing that was not synced stays. */
static void die(void) {
  sim_die_at(device, 1);
  sdb_close(db);
  db = NULL;
  sim_crash(device, SIM_DROP_ALL, 1);
}

/* Paths of different length have different contents. */
static const uint8_t *content_of(const char *path) { return content + 8 * strlen(path); }

static int put(const char *path, size_t size) { return sdb_put(db, path, strlen(path), content_of(path), size, NULL, NULL); }

static const char *why(void) {
  if (db != NULL) sdb_message(db, message, sizeof message);
  return message;
}

static void must_put(const char *path, size_t size) {
  int code = put(path, size);
  ck_assert_msg(code == SDB_OK, "put %s: %s: %s", path, sdb_strerror(code), why());
}

/* SDB_OK: the document is there with its content. */
static int look(const char *path, size_t size) {
  static uint8_t found[sizeof content];
  size_t got = 0;
  int code = sdb_get(db, path, strlen(path), SDB_CURRENT, found, sizeof found, &got, NULL);
  if (code == SDB_OK) ck_assert_uint_eq(got, size);
  if (code == SDB_OK) ck_assert_mem_eq(found, content_of(path), size);
  return code;
}

static uint64_t problems(void) {
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  return r.problems;
}

static void print_problem(void *user, const char *sentence) {
  (void)user;
  printf("problem: %s\n", sentence);
}

static void must_be_whole(void) {
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, print_problem, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
}

static uint32_t get32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }
static void put32(uint8_t *p, uint32_t v) {
  for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

static void peek(const char *name, uint64_t offset, void *buf, size_t len) {
  ck_assert_msg(sim_peek(device, name, offset, buf, len), "%s has no %zu bytes at %" PRIu64, name, len, offset);
}
static void poke(const char *name, uint64_t offset, const void *buf, size_t len) {
  ck_assert(sim_poke(device, name, offset, buf, len));
}

/* --- Sync and log ------------------------------------------------------------------------------------------------------------- */

static unsigned slot_writes, log_writes;

static void count_writes(void *user, const sim_event *e) {
  (void)user;
  if (strcmp(e->call, "write") != 0) return;
  if (strcmp(e->name, NAME) == 0 && (e->offset == 0 || e->offset == SLOT_B)) slot_writes++;
  if (strstr(e->name, ".log.") != NULL) log_writes++;
}

/* What a failed sync of the log lost must not be named by a header slot. */
START_TEST(a_checkpoint_does_not_complete_after_a_failed_sync) {
  set_up();
  options.checkpoint_wal_bytes = 1;
  open_it();
  must_put("/before", 100);
  for (int i = 0; i < 40; i++) must_put("/fill", 3000);
  bool more = false;
  for (int i = 0; i < 3 || !more; i++) { /* a checkpoint runs */
    must_put("/before", 100);
    ck_assert_int_eq(sdb_step(db, 1, &more), SDB_OK);
    ck_assert_int_lt(i, 50);
  }
  sim_watch(device, count_writes, NULL);
  slot_writes = 0;
  sim_fail(device, SIM_SYNC, 1, false, SDB_IO);
  ck_assert_int_eq(put("/lost", 100), SDB_SYNC_FAILED);
  ck_assert(sim_failed(device));
  for (int i = 0; i < 100; i++) ck_assert_int_eq(sdb_step(db, 100, &more), SDB_OK); /* nothing is done any more */
  ck_assert_int_eq(sdb_checkpoint(db), SDB_SYNC_FAILED);
  ck_assert_int_eq(put("/later", 10), SDB_SYNC_FAILED);
  ck_assert_int_eq(look("/before", 100), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_SYNC_FAILED);
  ck_assert_uint_eq(slot_writes, 0);
  sim_watch(device, NULL, NULL);
  sim_crash(device, SIM_DROP_ALL, 1);
  open_it();
  ck_assert_int_eq(look("/before", 100), SDB_OK);
  ck_assert_int_eq(look("/lost", 100), SDB_NOT_FOUND);
  must_be_whole();
  tear_down();
}
END_TEST

START_TEST(a_rest_is_marked_once) {
  set_up();
  open_it();
  for (int round = 0; round < 3; round++) {
    must_put("/a", 100);
    sim_watch(device, count_writes, NULL);
    log_writes = 0;
    for (int second = 0; second < 20; second++) {
      bool more;
      sim_advance(device, 1100);
      for (int i = 0; i < 5; i++) ck_assert_int_eq(sdb_step(db, 100, &more), SDB_OK);
    }
    ck_assert_uint_eq(log_writes, 1);
    sim_watch(device, NULL, NULL);
  }
  die();
  open_it();
  ck_assert_int_eq(look("/a", 100), SDB_OK);
  tear_down();
}
END_TEST

/* Two groups behind the last sync, of which a crash left only the second: nobody was told of either, so nothing is damaged. */
START_TEST(a_torn_group_before_a_whole_one_is_no_damage) {
  static const uint8_t zeros[512];
  static uint8_t bytes[65536];
  sdb_put_options o;
  sdb_stats stats = {.size = sizeof stats};
  set_up();
  open_it();
  must_put("/synced", 100);
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  for (int i = 0; i < 80; i++) { /* segments are written when they are full, and not synced */
    char path[32];
    snprintf(path, sizeof path, "/unsynced/%03d", i);
    ck_assert_int_eq(sdb_put(db, path, strlen(path), content, 1900, &o, NULL), SDB_OK);
  }
  sim_die_at(device, 1);
  sdb_close(db);
  sim_crash(device, SIM_KEEP_ALL, 1);
  const uint8_t *at = NULL;
  for (size_t i = 0; at == NULL && sim_name(device, i) != NULL; i++) {
    if (strstr(sim_name(device, i), ".log.") == NULL) continue;
    peek(sim_name(device, i), 0, bytes, sizeof bytes);
    at = memmem(bytes, sizeof bytes, "/unsynced/000", 13);
    if (at != NULL) poke(sim_name(device, i), (uint64_t)(at - bytes) / 512 * 512, zeros, sizeof zeros);
  }
  ck_assert_ptr_nonnull(at);
  open_it();
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert(!stats.log_damaged);
  ck_assert_int_eq(look("/synced", 100), SDB_OK);
  ck_assert_int_eq(look("/unsynced/050", 1900), SDB_NOT_FOUND);
  must_put("/later", 10);
  must_be_whole();
  tear_down();
}
END_TEST

static void segment_seal(const char *name, const uint8_t *head, uint64_t size) {
  uint8_t sealed[SECTOR];
  memcpy(sealed, head, SECTOR);
  put32(sealed + 8, sdb_crc32c(0, sealed + 12, SECTOR - 12));
  poke(name, 0, sealed, SECTOR);
  poke(name, size - SECTOR, sealed, SECTOR);
}

START_TEST(segments_that_declare_different_sizes_are_refused) {
  static const uint32_t sizes[] = {131072, 32768 + 32768 + 4096, 1u << 30, 0xFFFFF000u};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    uint8_t head[SECTOR];
    uint64_t size;
    set_up();
    open_it();
    for (int k = 0; k < 60; k++) must_put("/a", 1900);
    die();
    ck_assert(sim_size(device, NAME ".log.0001", &size));
    peek(NAME ".log.0001", 0, head, sizeof head);
    ck_assert_uint_eq(get32(head + 64), options.wal_segment_size);
    put32(head + 64, sizes[i]);
    segment_seal(NAME ".log.0001", head, size);
    ck_assert_int_eq(try_open(), SDB_CORRUPT);
    ck_assert_ptr_nonnull(strstr(message, "different sizes"));
    put32(head + 64, options.wal_segment_size);
    segment_seal(NAME ".log.0001", head, size);
    open_it();
    ck_assert_int_eq(look("/a", 1900), SDB_OK);
    tear_down();
  }
}
END_TEST

/* The logs of `from` in place of those of the device. */
static void take_logs(const sim *from) {
  static uint8_t log[65536];
  for (size_t i = 0; sim_name(device, i) != NULL; i++) {
    const char *name = sim_name(device, i);
    if (strstr(name, ".log.") == NULL) continue;
    ck_assert(sim_peek(from, name, 0, log, sizeof log));
    poke(name, 0, log, sizeof log);
  }
}

/* Two copies of a database go their own ways: number, base and positions of their segments are the same, and so are id and epoch.
 */
START_TEST(the_log_of_a_copy_is_refused) {
  set_up();
  open_it();
  must_put("/both", 100);
  close_it();
  sim *own = device, *other = sim_clone(own, 77);
  for (int k = 0; k < 2; k++) {
    device = k == 0 ? other : own;
    options.storage = sim_storage(device);
    open_it();
    must_put(k == 0 ? "/theirs" : "/mine", 1000);
    if (_i == 1) ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    must_put(k == 0 ? "/theirs2" : "/mine2", 1000);
    die();
  }
  take_logs(other);
  ck_assert_int_eq(try_open(), SDB_MISMATCH);
  ck_assert_ptr_nonnull(strstr(message, "of another time"));
  sim_free(other);
  tear_down();
}
END_TEST

/* An older copy of the segment itself has its number and salt. */
START_TEST(an_older_copy_of_the_log_is_noticed) {
  sdb_stats stats = {.size = sizeof stats};
  set_up();
  open_it();
  must_put("/first", 1000);
  sim *older = sim_clone(device, 5);
  must_put("/second", 1000);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  if (_i == 1) must_put("/third", 1000);
  die();
  take_logs(older);
  open_it();
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert(stats.log_damaged);
  ck_assert_int_eq(look("/second", 1000), SDB_OK);
  ck_assert_int_eq(look("/third", 1000), SDB_CORRUPT);
  ck_assert_int_eq(put("/more", 10), SDB_READ_ONLY);
  sim_free(older);
  tear_down();
}
END_TEST

/* --- Damage where checksums agree --------------------------------------------------------------------------------------------- */

static void page_seal(uint64_t number) {
  put32(page, sdb_crc32c(0, page + 4, PAGE - 4));
  poke(NAME, number * PAGE, page, PAGE);
}

/* Reads pages from `from` on into `page` until one is of that kind and holds the bytes; 0: none. */
static uint64_t find_page(uint64_t from, uint8_t kind, const char *bytes) {
  uint64_t size;
  ck_assert(sim_size(device, NAME, &size));
  for (uint64_t n = from; n < size / PAGE; n++) {
    peek(NAME, n * PAGE, page, PAGE);
    if (page[4] != kind || get32(page) != sdb_crc32c(0, page + 4, PAGE - 4)) continue;
    if (bytes == NULL || memmem(page, PAGE, bytes, strlen(bytes)) != NULL) return n;
  }
  return 0;
}

#define FIRST_PAGE ((GROUP_HEAD / PAGE) + 2 + 2 * (MAP_CHUNKS + 4))

static void damage_heap_page(const char *path) {
  uint64_t number = find_page(FIRST_PAGE, KIND_HEAP, path);
  ck_assert_uint_ne(number, 0);
  uint8_t *at = memmem(page, PAGE, path, strlen(path));
  at[strlen(path) + 5] ^= 0x10; /* in the content */
  poke(NAME, number * PAGE, page, PAGE);
}

/* Nothing is added to the page, and whoever is not on it notices nothing. */
START_TEST(a_damaged_open_heap_page_stops_nobody) {
  set_up();
  open_it();
  must_put("/here", 200);
  must_put("/there", 300);
  close_it();
  damage_heap_page("/here");
  open_it();
  ck_assert_int_eq(look("/here", 200), SDB_CORRUPT);
  ck_assert_int_ne(look("/there", 300), SDB_NOT_FOUND); /* it is on the same page */
  must_put("/new", 100);
  must_put("/here", 250); /* heals */
  ck_assert_int_eq(look("/here", 250), SDB_OK);
  close_it();
  open_it();
  ck_assert_int_eq(look("/here", 250), SDB_OK);
  ck_assert_int_eq(look("/new", 100), SDB_OK);
  ck_assert_int_ne(look("/there", 300), SDB_NOT_FOUND);
  tear_down();
}
END_TEST

START_TEST(a_damaged_open_heap_page_does_not_stop_recovery) {
  set_up();
  open_it();
  must_put("/here", 200);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  for (int i = 0; i < 5; i++) must_put("/logged", 400);
  must_put("/there", 300);
  die();
  damage_heap_page("/here");
  open_it();
  ck_assert_int_eq(look("/here", 200), SDB_CORRUPT);
  ck_assert_int_eq(look("/logged", 400), SDB_OK);
  ck_assert_int_eq(look("/there", 300), SDB_OK);
  must_put("/here", 250);
  ck_assert_int_eq(look("/here", 250), SDB_OK);
  tear_down();
}
END_TEST

/* Runs that no document can have; `other`: the first page of another document's extent. */
static void forge_run(uint8_t *runs, int which, uint32_t other) {
  static const uint32_t forged[][2] = {
      {0, 17},           {1, 1},          {GROUP_HEAD / PAGE, 17},  {FIRST_PAGE - 3, 17}, {0xFFFFFFF0u, 17},
      {0x00F00000u, 17}, {FIRST_PAGE, 0}, {FIRST_PAGE, 0xFFFFFFFFu}};
  enum { FORGED = sizeof forged / sizeof forged[0] };
  if (which < FORGED) {
    put32(runs + 8, forged[which][0]);
    put32(runs + 12, forged[which][1]);
  } else if (which == FORGED) {
    put32(runs + 8, other);
  } else if (which == FORGED + 1) {
    put32(runs + 4, 0xFFFFFFFFu); /* the number of runs */
  } else {
    put32(runs, 0xFFFFFFC0u); /* the length of the extent's head */
  }
}
enum { FORGERIES = 11 };

/* The next record of a large document with that path; *runs: its stored part. */
static uint8_t *next_record(uint8_t *from, const uint8_t *end, const char *path, uint8_t **runs) {
  size_t len = strlen(path);
  for (uint8_t *r = from; (size_t)(end - r) >= 48 + len + 16; r += 8) {
    if (r[43] != 0xD5 || (size_t)(r[40] | r[41] << 8) != len || memcmp(r + 48, path, len) != 0) continue;
    *runs = r + 48 + len;
    return r;
  }
  return NULL;
}

static uint8_t *find_record(uint8_t *bytes, size_t len, const char *path, uint8_t **runs) {
  uint8_t *r = next_record(bytes, bytes + len, path, runs);
  ck_assert_msg(r != NULL, "there is no record of %s", path);
  return r;
}

static void record_seal(uint8_t *r, const uint8_t *runs) { put32(r, sdb_crc32c(0, r + 4, (size_t)(runs - r) + get32(r + 44) - 4)); }

static uint32_t first_page_of(const char *path) {
  uint8_t *runs;
  ck_assert_uint_ne(find_page(FIRST_PAGE, KIND_HEAP, path), 0);
  find_record(page, PAGE, path, &runs);
  return get32(runs + 8);
}

START_TEST(forged_runs_in_the_data_file_hurt_only_their_document) {
  uint8_t *runs;
  set_up();
  open_it();
  must_put("/big", 70000);
  must_put("/other", 70000);
  must_put("/small", 100);
  close_it();
  uint32_t other = first_page_of("/other");
  /* Older copies of the page, and of the record in it, may stand there too. */
  for (uint64_t n = find_page(FIRST_PAGE, KIND_HEAP, "/big"); n != 0; n = find_page(n + 1, KIND_HEAP, "/big")) {
    for (uint8_t *r = next_record(page, page + PAGE, "/big", &runs); r; r = next_record(r + 8, page + PAGE, "/big", &runs)) {
      forge_run(runs, _i, other);
      record_seal(r, runs);
    }
    page_seal(n);
  }
  open_it();
  ck_assert_int_eq(look("/big", 70000), SDB_CORRUPT);
  ck_assert_uint_gt(problems(), 0);
  ck_assert_int_eq(look("/other", 70000), SDB_OK);
  must_put("/big", 60000); /* drops the forged version in the end */
  must_put("/big", 60000);
  must_put("/big", 60000);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  for (int i = 0; i < 10; i++) must_put("/more", 70000); /* into what was given back */
  ck_assert_int_eq(sdb_delete(db, "/big", 4, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  for (int i = 0; i < 10; i++) must_put("/more", 70000);
  ck_assert_int_eq(look("/other", 70000), SDB_OK);
  ck_assert_int_eq(look("/small", 100), SDB_OK);
  ck_assert_int_eq(look("/more", 70000), SDB_OK);
  tear_down();
}
END_TEST

/* The record of the last commit in the log, which is that of `path`; *at: its offset. */
static uint8_t *find_log_record(uint8_t *log, size_t size, const char *path, uint64_t *at) {
  uint8_t seed[16], *found = NULL;
  memcpy(seed, log + 56, 8);
  for (uint64_t offset = SECTOR; offset + SECTOR < size; offset += 8) {
    uint8_t *r = log + offset;
    uint64_t position = get64(log + 48) + offset;
    uint32_t len = get32(r + 4);
    if (len < 40 || len > size - SECTOR - offset) continue;
    put32(seed + 8, (uint32_t)position);
    put32(seed + 12, (uint32_t)(position >> 32));
    if (get32(r) != sdb_crc32c(sdb_crc32c(0, seed, 16), r + 4, len - 4)) continue;
    if (memmem(r, len, path, strlen(path)) != NULL) found = r, *at = offset;
  }
  ck_assert_ptr_nonnull(found);
  return found;
}

static void log_seal_record(const uint8_t *log, uint8_t *r, uint64_t offset) {
  uint8_t seed[16];
  uint64_t position = get64(log + 48) + offset;
  memcpy(seed, log + 56, 8);
  put32(seed + 8, (uint32_t)position);
  put32(seed + 12, (uint32_t)(position >> 32));
  put32(r, sdb_crc32c(sdb_crc32c(0, seed, 16), r + 4, get32(r + 4) - 4));
}

START_TEST(forged_runs_in_the_log_are_refused) {
  static uint8_t log[65536];
  uint8_t *runs;
  uint64_t at = 0;
  set_up();
  open_it();
  must_put("/other", 70000);
  close_it();
  uint32_t other = first_page_of("/other");
  open_it();
  must_put("/big", 70000);
  die();
  const char *name = NULL; /* the newest segment */
  for (size_t i = 0; sim_name(device, i) != NULL; i++) {
    uint8_t head[SECTOR];
    if (strstr(sim_name(device, i), ".log.") == NULL) continue;
    peek(sim_name(device, i), 0, head, sizeof head);
    if (name != NULL && get64(head + 40) < get64(log + 40)) continue;
    name = sim_name(device, i);
    peek(name, 0, log, sizeof log);
  }
  ck_assert_ptr_nonnull(name);
  uint8_t *r = find_log_record(log, sizeof log, "/big", &at), *inner = find_record(r, get32(r + 4), "/big", &runs);
  forge_run(runs, _i, other);
  record_seal(inner, runs);
  log_seal_record(log, r, at);
  uint8_t before[4096], after[4096];
  peek(NAME, 0, before, sizeof before);
  poke(name, at, r, get32(r + 4));
  int code = try_open();
  if (code == SDB_OK) { /* runs that could be: then its head gives it away */
    ck_assert_int_eq(_i, FORGERIES - 1);
    ck_assert_int_eq(look("/big", 70000), SDB_CORRUPT);
    ck_assert_int_eq(look("/other", 70000), SDB_OK);
    tear_down();
    return;
  }
  ck_assert_int_eq(code, SDB_CORRUPT);
  ck_assert_ptr_nonnull(strstr(message, "makes no sense"));
  peek(NAME, 0, after, sizeof after);
  ck_assert_mem_eq(before, after, sizeof before);
  tear_down();
}
END_TEST

static size_t long_path(unsigned i, char path[300]) {
  int len = snprintf(path, 300, "/%04u/", i * 7919 % 10000);
  while (len < 250) len += snprintf(path + len, (size_t)(300 - len), "%08x", i * 2654435761u + (unsigned)len);
  return strlen(path);
}

/* Deleting merges pages with their neighbours, and a neighbour may be anything. */
START_TEST(merging_beside_forged_inner_pages_breaks_nothing) {
  enum { PATHS = 900 };
  char path[300];
  uint64_t random = 17 + (uint64_t)_i;
  set_up();
  open_it();
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  for (unsigned i = 0; i < PATHS; i++) ck_assert_int_eq(sdb_put(db, path, long_path(i, path), "x", 1, &o, NULL), SDB_OK);
  close_it();
  unsigned inner = 0;
  for (uint64_t n = find_page(FIRST_PAGE, KIND_INNER, NULL); n != 0; n = find_page(n + 1, KIND_INNER, NULL), inner++) {
    if (sim_random(&random) % 2 == 0) continue;
    uint32_t used = get32(page + 12);
    page[64 + sim_random(&random) % (used - 64)] ^= (uint8_t)(1 + sim_random(&random) % 255);
    page_seal(n);
  }
  ck_assert_uint_gt(inner, 3);
  int code = try_open();
  ck_assert(code == SDB_OK || code == SDB_CORRUPT);
  for (unsigned i = 0; code == SDB_OK && i < PATHS; i++) {
    int gone = sdb_delete(db, path, long_path(i, path), &o, NULL);
    /* A separator that was forged sends a key astray: that is beyond what a search can know, and check tells. */
    ck_assert_msg(gone == SDB_OK || gone == SDB_CORRUPT || gone == SDB_NOT_FOUND, "delete: %s: %s", sdb_strerror(gone), why());
    sdb_info info;
    if (gone == SDB_OK) ck_assert_int_ne(sdb_stat(db, path, strlen(path), SDB_CURRENT, &info), SDB_OK);
  }
  if (db != NULL) {
    sdb_check_report r = {.size = sizeof r};
    int checked = sdb_check(db, NULL, NULL, &r);
    ck_assert(checked == SDB_OK || checked == SDB_CORRUPT);
    (void)sdb_close(db);
    db = NULL;
  }
  tear_down();
}
END_TEST

/* --- Space -------------------------------------------------------------------------------------------------------------------- */

/* The directory's count of free pages is that of the bitmap, within the file. */
static void check_counts(void) {
  uint8_t slot[4096], other[4096], dir[PAGE], entry[8];
  peek(NAME, 0, slot, sizeof slot);
  peek(NAME, SLOT_B, other, sizeof other);
  ck_assert_mem_eq(slot, other, sizeof slot);
  uint64_t total = get64(slot + 88), free_pages = get64(slot + 96), counted = 0, size;
  ck_assert(sim_size(device, NAME, &size));
  ck_assert_uint_eq(size / PAGE, total);
  uint32_t info = get32(slot + 512 + 4);
  peek(NAME, ROOT_DIR + (info >> 30 & 1) * (uint64_t)PAGE, entry, sizeof entry);
  info = get32(entry + 4);
  ck_assert_uint_eq(info >> 31, 1);
  peek(NAME, GROUP_HEAD + (info >> 30 & 1) * (uint64_t)PAGE, dir, sizeof dir);
  for (uint32_t b = 0; b < 4; b++) {
    uint32_t index = MAP_CHUNKS + b, unused = 0;
    info = get32(dir + 8 * index + 4);
    if (info >> 31 == 0) continue;
    peek(NAME, GROUP_HEAD + (2 + 2 * (uint64_t)index + (info >> 30 & 1)) * PAGE, page, PAGE);
    for (uint64_t i = 0; i < 8 * PAGE && b * 8 * PAGE + i < total; i++) unused += !(page[i / 8] >> i % 8 & 1);
    ck_assert_uint_eq(info & 0x3FFFFFFF, unused);
    counted += unused;
  }
  ck_assert_uint_eq(counted, free_pages);
}

START_TEST(free_pages_are_counted_right_while_the_file_grows_and_shrinks) {
  uint64_t sizes[3];
  set_up();
  open_it();
  char path[32];
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 60; i++) {
      snprintf(path, sizeof path, "/%d/%d", round, i);
      must_put(path, 150000);
      if (i % 20 != 0) continue;
      ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
      check_counts();
    }
    ck_assert(sim_size(device, NAME, &sizes[0]));
    for (int i = 0; i < 60; i++) {
      snprintf(path, sizeof path, "/%d/%d", round, i);
      ck_assert_int_eq(sdb_delete(db, path, strlen(path), NULL, NULL), SDB_OK);
    }
    for (int i = 0; i < 3; i++) {
      ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
      check_counts();
    }
    ck_assert(sim_size(device, NAME, &sizes[1]));
    ck_assert_uint_lt(sizes[1], sizes[0]);
    if (round == 1) die(), open_it();
    else close_it(), open_it();
    must_be_whole();
  }
  close_it();
  check_counts();
  tear_down();
}
END_TEST

static unsigned fill(unsigned *next) {
  char path[32];
  unsigned count = 0;
  for (int code = SDB_OK; code == SDB_OK; count++) {
    snprintf(path, sizeof path, "/full/%u", *next);
    code = put(path, *next % 3 == 0 ? 20000 : 500);
    if (code == SDB_OK) ++*next;
    else ck_assert_msg(code == SDB_FULL, "put: %s: %s", sdb_strerror(code), why());
    ck_assert_uint_lt(count, 100000);
  }
  return count - 1;
}

/* `round`: even: the device is full; odd: max_db_size is reached. */
START_TEST(a_full_disk_survives_a_crash_and_is_left_by_deletes) {
  unsigned next = 0, first = 0;
  char path[32];
  set_up();
  options.checkpoint_wal_bytes = 1 << 20;
  if (_i % 2 == 1) options.max_db_size = 8 << 20;
  open_it();
  must_put("/keep", 1000);
  if (_i % 2 == 0) sim_limit(device, sim_bytes_used(device) + (8 << 20));
  ck_assert_uint_gt(fill(&next), 20);
  for (int round = 0; round < 4; round++) {
    die();
    open_it();
    ck_assert_int_eq(look("/keep", 1000), SDB_OK);
    must_be_whole();
    fill(&next);
    for (unsigned end = first + (next - first) / 3; first < end; first++) {
      snprintf(path, sizeof path, "/full/%u", first);
      int code = sdb_delete(db, path, strlen(path), NULL, NULL);
      ck_assert_msg(code == SDB_OK, "delete: %s: %s", sdb_strerror(code), why());
    }
    ck_assert_msg(fill(&next) > 3, "after deleting a third there is room again");
  }
  for (unsigned i = first; i < next; i++) {
    snprintf(path, sizeof path, "/full/%u", i);
    ck_assert_int_eq(look(path, i % 3 == 0 ? 20000 : 500), SDB_OK);
  }
  tear_down();
}
END_TEST

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

static void note_problem(void *user, const char *sentence) {
  if (strstr(sentence, "header slot") != NULL) strncat(user, sentence, 200);
}

START_TEST(check_tells_of_a_header_slot_that_does_not_verify) {
  char told[600] = "";
  uint8_t byte;
  set_up();
  open_it();
  must_put("/a", 100);
  close_it();
  uint64_t offset = (_i == 0 ? 0 : SLOT_B) + 100;
  peek(NAME, offset, &byte, 1);
  byte ^= 1;
  poke(NAME, offset, &byte, 1);
  options.read_only = true;
  open_it();
  sdb_check_report r = {.size = sizeof r};
  ck_assert_int_eq(sdb_check(db, note_problem, told, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 1);
  ck_assert_ptr_nonnull(strstr(told, _i == 0 ? "slot A" : "slot B"));
  close_it();
  options.read_only = false; /* opening for writing repairs it */
  open_it();
  must_be_whole();
  poke(NAME, offset, &byte, 1); /* and while it is open */
  r = (sdb_check_report){.size = sizeof r};
  byte ^= 2;
  poke(NAME, offset, &byte, 1);
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 1);
  tear_down();
}
END_TEST

static uint64_t clock_us;
static uint64_t read_clock(void *ctx) {
  (void)ctx;
  return clock_us;
}

/* A commit made when the clock stands at zero waits for its sync like any other. */
START_TEST(a_buffered_commit_at_the_clocks_zero_is_synced) {
  bool more;
  sdb_stats stats = {.size = sizeof stats};
  sdb_put_options o;
  set_up();
  sdb_storage storage = *options.storage;
  storage.monotonic_us = read_clock;
  options.storage = &storage;
  clock_us = 0;
  open_it();
  sdb_put_options_init(&o);
  o.durability = SDB_BUFFERED;
  ck_assert_int_eq(sdb_put(db, "/a", 2, content_of("/a"), 1, &o, NULL), SDB_OK);
  clock_us = (options.buffered_interval_ms + 1) * 1000;
  ck_assert_int_eq(sdb_step(db, 10, &more), SDB_OK);
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert_uint_eq(stats.synced_sequence, stats.sequence);
  die();
  open_it();
  ck_assert_int_eq(look("/a", 1), SDB_OK);
  tear_down();
}
END_TEST

/* Where a directory's entry says that the copy stands which counts: of map chunks, then bitmaps; all ones: of the group directory.
 */
static uint64_t chunk_place(uint32_t index) {
  uint8_t slot[4096], entry[8], dir[PAGE];
  peek(NAME, 0, slot, sizeof slot);
  peek(NAME, ROOT_DIR + (get32(slot + 512 + 4) >> 30 & 1) * (uint64_t)PAGE, entry, sizeof entry);
  uint64_t group = GROUP_HEAD + (get32(entry + 4) >> 30 & 1) * (uint64_t)PAGE;
  if (index == UINT32_MAX) return group;
  peek(NAME, group, dir, sizeof dir);
  return GROUP_HEAD + (2 + 2 * (uint64_t)index + (get32(dir + 8 * (size_t)index + 4) >> 30 & 1)) * PAGE;
}

static void damage_chunk(uint32_t index) {
  uint64_t chunk = chunk_place(index);
  peek(NAME, chunk, page, PAGE);
  page[PAGE - 1] ^= 1;
  poke(NAME, chunk, page, PAGE);
}

/* What a chunk says is in memory once it was read, and the next checkpoint asks nobody else. */
START_TEST(a_chunk_in_memory_may_go_bad_on_the_device) {
  sdb_check_report r = {.size = sizeof r};
  static const uint32_t places[] = {0, MAP_CHUNKS, UINT32_MAX};
  set_up();
  open_it();
  must_put("/a", 70000);
  for (unsigned i = 0; i < 3; i++) {
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    damage_chunk(places[i]);
    must_put("/b", 300 + i);
  }
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  close_it();
  open_it();
  ck_assert_int_eq(look("/a", 70000), SDB_OK);
  ck_assert_int_eq(look("/b", 302), SDB_OK);
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
  ck_assert_uint_eq(r.problems, 0);
  tear_down();
}
END_TEST

/* Nothing is written there any more, but the scrub finds it and has it written anew. */
START_TEST(scrub_has_bad_chunks_written_from_memory) {
  static const uint32_t places[] = {0, MAP_CHUNKS, UINT32_MAX};
  set_up();
  open_it();
  must_put("/a", 70000);
  for (unsigned i = 0; i < 3; i++) {
    sdb_check_report r = {.size = sizeof r};
    sdb_stats stats = {.size = sizeof stats};
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    damage_chunk(places[i]);
    ck_assert_int_eq(sdb_scrub(db), SDB_OK);
    for (bool more = true; more || stats.scrubs == i;) {
      ck_assert_int_eq(sdb_step(db, 1000, &more), SDB_OK);
      ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
    }
    ck_assert_uint_eq(stats.scrub_problems, 1);
    ck_assert_int_eq(sdb_check(db, NULL, NULL, &r), SDB_OK);
    ck_assert_uint_eq(r.problems, 0);
  }
  tear_down();
}
END_TEST

/* Where there is room is not known: what the log has is applied in memory, and nothing is written. */
START_TEST(a_log_is_read_although_a_bitmap_is_damaged) {
  sdb_stats stats = {.size = sizeof stats};
  char text[256];
  set_up();
  open_it();
  must_put("/a", 70000);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  must_put("/b", 70000);
  die();
  damage_chunk(MAP_CHUNKS);
  open_it();
  sdb_message(db, text, sizeof text);
  ck_assert_ptr_nonnull(strstr(text, "open for reading only"));
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert(stats.log_damaged);
  ck_assert_int_eq(look("/a", 70000), SDB_OK);
  ck_assert_int_eq(look("/b", 70000), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/c", 2, "c", 1, NULL, NULL), SDB_READ_ONLY);
  tear_down();
}
END_TEST

/* "Never" in other words: nothing that is computed from it may come out small. */
START_TEST(a_checkpoint_may_be_put_off_for_ever) {
  static const uint64_t bytes[] = {64 << 20, 1ull << 63, UINT64_MAX};
  uint64_t writes[3];
  for (unsigned k = 0; k < 3; k++) {
    sdb_put_options o;
    set_up();
    options.checkpoint_wal_bytes = bytes[k];
    open_it();
    must_put("/a", 10);
    sdb_put_options_init(&o);
    o.durability = SDB_NONE;
    uint64_t before = sim_calls(device, SIM_WRITE);
    for (unsigned i = 0; i < 50; i++) ck_assert_int_eq(sdb_put(db, "/a", 2, content_of("/a"), 10, &o, NULL), SDB_OK);
    writes[k] = sim_calls(device, SIM_WRITE) - before;
    tear_down();
  }
  ck_assert_uint_eq(writes[1], writes[0]);
  ck_assert_uint_eq(writes[2], writes[0]);
}
END_TEST

static void create_meanwhile(void *user, const sim_event *e) {
  sdb **other = user;
  if (*other != NULL || strcmp(e->call, "create") != 0) return;
  sim_watch(device, NULL, NULL);
  ck_assert_int_eq(sdb_open(NAME, &options, other), SDB_OK);
  ck_assert_int_eq(sdb_put(*other, "/theirs", 7, content_of("/theirs"), 1, NULL, NULL), SDB_OK);
}

/* Two want to create one database: the other one is done between our look for it and our lock. */
START_TEST(who_comes_second_does_not_replace_the_database) {
  sdb *other = NULL;
  set_up();
  sim_watch(device, create_meanwhile, &other);
  ck_assert_int_eq(try_open(), SDB_LOCKED);
  ck_assert_ptr_nonnull(other);
  ck_assert_int_eq(sdb_close(other), SDB_OK);
  for (size_t i = 0; sim_name(device, i) != NULL; i++) ck_assert_str_ne(sim_name(device, i), NAME ".new");
  open_it();
  ck_assert_int_eq(look("/theirs", 1), SDB_OK);
  tear_down();
}
END_TEST

static unsigned unlocked_renames;

static void look_at_rename(void *user, const sim_event *e) {
  sdb_file *file;
  const sdb_storage *st = user;
  if (strcmp(e->call, "rename") != 0 || strcmp(e->name, NAME ".new") != 0) return;
  ck_assert_int_eq(st->open(st->ctx, e->name, SDB_OPEN_WRITE, &file), SDB_OK);
  unlocked_renames += st->lock(file, true) != SDB_LOCKED;
  st->close(file);
}

START_TEST(a_new_file_is_locked_before_it_has_its_name) {
  set_up();
  unlocked_renames = 0;
  sim_watch(device, look_at_rename, (void *)(uintptr_t)options.storage);
  open_it();
  sim_watch(device, NULL, NULL);
  ck_assert_uint_eq(unlocked_renames, 0);
  sdb *second;
  ck_assert_int_eq(sdb_open(NAME, &options, &second), SDB_LOCKED);
  tear_down();
}
END_TEST

/* The segments are as large as the pages need, whatever the options of a later open say: a page full of names can be deleted. */
START_TEST(segments_have_room_for_a_page_of_names) {
  enum { NAMES = 60, LONG = 1000 };
  set_up();
  const sdb_storage *st = sim_storage(device);
  uint8_t name[LONG] = {0};
  options.page_size = 65536;
  options.wal_segment_size = 1 << 20;
  open_it();
  ck_assert_int_eq(sdb_put(db, "a", 1, "x", 1, NULL, NULL), SDB_OK);
  for (int i = 0; i < NAMES; i++) {
    name[0] = (uint8_t)i;
    ck_assert_int_eq(sdb_bind(db, "a", 1, name, LONG, NULL, NULL), SDB_OK);
  }
  close_it();
  ck_assert_int_eq(st->remove(st->ctx, NAME ".log.0000"), SDB_OK); /* after a clean close the data file is the database */
  options.page_size = PAGE;
  options.wal_segment_size = 65536;
  open_it();
  ck_assert_int_eq(sdb_put(db, "a", 1, "y", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_delete(db, "a", 1, NULL, NULL), SDB_OK);
  tear_down();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("corners");
  TCase *corners = tcase_create("corners");
  tcase_set_timeout(corners, 120);
  tcase_add_test(corners, a_checkpoint_does_not_complete_after_a_failed_sync);
  tcase_add_test(corners, a_rest_is_marked_once);
  tcase_add_test(corners, a_torn_group_before_a_whole_one_is_no_damage);
  tcase_add_test(corners, a_torn_group_before_a_whole_one_is_no_damage);
  tcase_add_test(corners, segments_that_declare_different_sizes_are_refused);
  tcase_add_loop_test(corners, the_log_of_a_copy_is_refused, 0, 2);
  tcase_add_loop_test(corners, an_older_copy_of_the_log_is_noticed, 0, 2);
  tcase_add_test(corners, a_damaged_open_heap_page_stops_nobody);
  tcase_add_test(corners, a_damaged_open_heap_page_does_not_stop_recovery);
  tcase_add_loop_test(corners, forged_runs_in_the_data_file_hurt_only_their_document, 0, FORGERIES);
  tcase_add_loop_test(corners, forged_runs_in_the_log_are_refused, 0, FORGERIES);
  tcase_add_loop_test(corners, merging_beside_forged_inner_pages_breaks_nothing, 0, 40);
  tcase_add_test(corners, free_pages_are_counted_right_while_the_file_grows_and_shrinks);
  tcase_add_loop_test(corners, a_full_disk_survives_a_crash_and_is_left_by_deletes, 0, 2);
  tcase_add_loop_test(corners, check_tells_of_a_header_slot_that_does_not_verify, 0, 2);
  tcase_add_test(corners, a_buffered_commit_at_the_clocks_zero_is_synced);
  tcase_add_test(corners, a_chunk_in_memory_may_go_bad_on_the_device);
  tcase_add_test(corners, scrub_has_bad_chunks_written_from_memory);
  tcase_add_test(corners, a_checkpoint_may_be_put_off_for_ever);
  tcase_add_test(corners, a_log_is_read_although_a_bitmap_is_damaged);
  tcase_add_test(corners, who_comes_second_does_not_replace_the_database);
  tcase_add_test(corners, a_new_file_is_locked_before_it_has_its_name);
  tcase_add_test(corners, segments_have_room_for_a_page_of_names);
  suite_add_tcase(suite, corners);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
