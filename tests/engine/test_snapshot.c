/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_snapshot.c - snapshots against copies of a plain list, while everything is overwritten, cleaned and checkpointed beside
 * them; what they hold back, and that a crash or their end gives it free. Simulated storage throughout. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "sdb/sdb.h"
#include "seed.h"
#include "simulated.h"

#define NAME "snapshot.sdb"
enum { DOCUMENTS = 120, OPEN = 5, LARGEST = 150000 };

/* Of each document: which write is its current version; 0: none. */
struct state {
  uint32_t write[DOCUMENTS];
  uint64_t count;
};

struct world {
  sim *device;
  sdb *db;
  sdb_options options;
  uint64_t random;
  uint32_t writes;
  struct state now;
  struct kept {
    sdb_snapshot *snapshot;
    struct state state;
  } kept[OPEN];
};

static uint8_t content[LARGEST], read_back[LARGEST];

static uint64_t below(struct world *w, uint64_t n) { return sim_random(&w->random) % n; }

static int path_of(unsigned document, char path[32]) { return snprintf(path, 32, "/snapshot/%u/document", document); }

static uint32_t size_of(uint32_t write) { return write % 11 == 0 ? write * 2654435761u % LARGEST : write * 2654435761u % 1500; }

static void world_init(struct world *w, uint64_t seed) {
  memset(w, 0, sizeof *w);
  w->random = seed * 0x9E3779B97F4A7C15u + 1;
  w->device = sim_new(seed);
  ck_assert_ptr_nonnull(w->device);
  sdb_options_init(&w->options);
  w->options.storage = sim_storage(w->device);
  w->options.threads = false;
  w->options.use_mmap = false;
  w->options.page_size = 4096;
  w->options.page_cache_size = 64;
  w->options.wal_segment_size = 65536;
  w->options.checkpoint_wal_bytes = 65536u << (seed % 3);
  w->options.change_log_bytes = 0;
  w->options.use_compression = false;
}

static void put(struct world *w, unsigned document) {
  char path[32];
  int len = path_of(document, path);
  uint32_t write = ++w->writes, size = size_of(write);
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = below(w, 10) == 0 ? SDB_DURABLE : SDB_NONE;
  model_content(write, 0, content, size);
  ck_assert_int_eq(sdb_put(w->db, path, (size_t)len, content, size, &o, NULL), SDB_OK);
  w->now.count += w->now.write[document] == 0;
  w->now.write[document] = write;
}

static void erase(struct world *w, unsigned document) {
  char path[32];
  int len = path_of(document, path);
  int rc = sdb_delete(w->db, path, (size_t)len, NULL, NULL);
  ck_assert_int_eq(rc, w->now.write[document] ? SDB_OK : SDB_NOT_FOUND);
  w->now.count -= w->now.write[document] != 0;
  w->now.write[document] = 0;
}

static void agrees_at(const sdb_snapshot *s, const struct state *state, unsigned document) {
  char path[32];
  size_t len = (size_t)path_of(document, path), size = 0, got, count;
  uint32_t write = state->write[document], expected = size_of(write);
  sdb_info info, infos[4];
  int rc = sdb_snapshot_get(s, path, len, SDB_CURRENT, read_back, sizeof read_back, &size, &info);
  ck_assert_int_eq(rc, write ? SDB_OK : SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_snapshot_stat(s, path, len, SDB_CURRENT, &info), rc);
  if (!write) return;
  ck_assert_uint_eq(size, expected);
  ck_assert_uint_eq(info.size, expected);
  model_content(write, 0, content, size);
  ck_assert_msg(memcmp(content, read_back, size) == 0, "wrong bytes of document %u", document);
  ck_assert_int_eq(sdb_snapshot_get_range(s, path, len, SDB_CURRENT, size / 2, read_back, 100, &got, NULL), SDB_OK);
  ck_assert(memcmp(content + size / 2, read_back, got) == 0);
  ck_assert_int_eq(sdb_snapshot_versions(s, path, len, infos, 4, &count), SDB_OK);
  ck_assert_uint_ge(count, 1);
  ck_assert_uint_eq(infos[0].version, info.version);
  sdb_reader *reader;
  ck_assert_int_eq(sdb_snapshot_reader_open(s, path, len, SDB_CURRENT, &reader), SDB_OK);
  ck_assert_int_eq(sdb_reader_read(reader, read_back, sizeof read_back, &got), SDB_OK);
  ck_assert_uint_eq(got, size);
  ck_assert(memcmp(content, read_back, size) == 0);
  sdb_reader_close(reader);
}

/* Everything that the snapshot sees, by both trees. */
static void agrees(const sdb_snapshot *s, const struct state *state) {
  for (unsigned d = 0; d < DOCUMENTS; d++) agrees_at(s, state, d);
  for (int order = SDB_ORDER_PATH; order <= SDB_ORDER_SUFFIX; order++) {
    sdb_cursor_options o;
    sdb_cursor_options_init(&o);
    o.order = (sdb_order)order;
    sdb_cursor *c;
    sdb_entry e;
    uint64_t count = 0;
    int rc;
    ck_assert_int_eq(sdb_snapshot_cursor_open(s, &o, &c), SDB_OK);
    while ((rc = sdb_cursor_next(c, &e)) == SDB_OK) {
      unsigned d = (unsigned)strtoul((const char *)e.path + strlen("/snapshot/"), NULL, 10);
      ck_assert(d < DOCUMENTS && state->write[d]);
      count++;
    }
    sdb_cursor_close(c);
    ck_assert_int_eq(rc, SDB_END);
    ck_assert_uint_eq(count, state->count);
  }
}

static void open_one(struct world *w, struct kept *k) {
  ck_assert_int_eq(sdb_snapshot_open(w->db, &k->snapshot), SDB_OK);
  k->state = w->now;
}

static void close_one(struct kept *k) {
  sdb_snapshot_close(k->snapshot);
  k->snapshot = NULL;
}

static sdb_stats stats_of(sdb *db) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

static void told(void *user, const char *sentence) {
  (void)user;
  printf("check: %s\n", sentence);
}

static void check_clean(sdb *db) {
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(db, told, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
}

static void operate(struct world *w) {
  bool more = true;
  struct kept *k = &w->kept[below(w, OPEN)];
  unsigned document = (unsigned)below(w, DOCUMENTS);
  uint64_t dice = below(w, 100);
  if (dice < 70) put(w, document);
  else if (dice < 78) erase(w, document);
  else if (dice < 82) ck_assert_int_eq(sdb_checkpoint(w->db), SDB_OK);
  else if (dice < 90) ck_assert_int_eq(sdb_step(w->db, (unsigned)(1 + below(w, 60)), &more), SDB_OK);
  else if (!k->snapshot) open_one(w, k);
  else if (dice < 92) close_one(k);
  else if (dice < 94) agrees(k->snapshot, &k->state);
  else agrees_at(k->snapshot, &k->state, document);
}

static void work_beside(uint64_t seed) {
  static struct world w;
  world_init(&w, seed);
  ck_assert_int_eq(sdb_open(NAME, &w.options, &w.db), SDB_OK);
  for (int i = 0; i < 700; i++) operate(&w);
  for (int i = 0; i < OPEN; i++) {
    if (w.kept[i].snapshot) agrees(w.kept[i].snapshot, &w.kept[i].state);
    close_one(&w.kept[i]);
  }
  sdb_stats s = stats_of(w.db);
  ck_assert_uint_eq(s.snapshots, 0);
  ck_assert_uint_eq(s.pins, 0);
  ck_assert_uint_eq(s.pinned_bytes, 0);
  ck_assert_uint_eq(s.oldest_pin_sequence, 0);
  check_clean(w.db);
  ck_assert_int_eq(sdb_close(w.db), SDB_OK);
  ck_assert_uint_eq(sim_allocations(w.device), 0);
  sim_free(w.device);
}

START_TEST(test_work_beside) {
  uint64_t first, count = seed_range("snapshots beside work", 8, &first);
  for (uint64_t seed = first; seed < first + count; seed++) work_beside(seed);
}
END_TEST

/* One snapshot stays open while everything is overwritten again and again: what it costs does not grow with that. */
START_TEST(test_cost_is_bounded) {
  static struct world w;
  world_init(&w, 1);
  ck_assert_int_eq(sdb_open(NAME, &w.options, &w.db), SDB_OK);
  for (uint32_t d = 0; d < DOCUMENTS; d++) {
    do w.writes++;
    while ((w.writes + 1) % 11 == 0); /* small ones */
    put(&w, d);
  }
  ck_assert_int_eq(sdb_checkpoint(w.db), SDB_OK);
  open_one(&w, &w.kept[0]);
  sdb_stats before = stats_of(w.db);
  ck_assert_uint_eq(before.snapshots, 1);
  ck_assert_uint_eq(before.oldest_pin_sequence, sdb_snapshot_sequence(w.kept[0].snapshot));
  ck_assert_uint_eq(before.oldest_pin_sequence, before.sequence);
  uint64_t pinned[2], cached[2], bytes[2];
  for (int round = 0; round < 40; round++) {
    for (unsigned d = 0; d < DOCUMENTS; d++) {
      while ((w.writes + 1) % 11 == 0) w.writes++;
      put(&w, d);
    }
    ck_assert_int_eq(sdb_checkpoint(w.db), SDB_OK);
    if (round % 13 == 0) agrees(w.kept[0].snapshot, &w.kept[0].state);
    if (round != 9 && round != 39) continue;
    sdb_stats s = stats_of(w.db);
    pinned[round == 39] = s.pinned_bytes;
    cached[round == 39] = s.cached_pages;
    bytes[round == 39] = s.file_bytes;
  }
  sim_advance(w.device, 5000);
  ck_assert_uint_ge(stats_of(w.db).oldest_pin_ms, 5000);
  ck_assert_uint_gt(pinned[0], 0);
  ck_assert_msg(pinned[1] <= pinned[0] + pinned[0] / 4, "pinned bytes grow from %ju to %ju", (uintmax_t)pinned[0],
                (uintmax_t)pinned[1]);
  ck_assert_msg(cached[1] <= cached[0] + 64, "pages in memory grow from %ju to %ju", (uintmax_t)cached[0], (uintmax_t)cached[1]);
  ck_assert_msg(bytes[1] <= bytes[0] + bytes[0] / 4, "the file grows from %ju to %ju", (uintmax_t)bytes[0], (uintmax_t)bytes[1]);

  /* A crash gives it free, and so does the end of the snapshot. */
  sim *copy = sim_clone(w.device, 5);
  sdb_options o = w.options;
  sdb *other;
  sim_crash(copy, SIM_KEEP_ALL, 5);
  o.storage = sim_storage(copy);
  ck_assert_int_eq(sdb_open(NAME, &o, &other), SDB_OK);
  sdb_stats after_crash = stats_of(other), held = stats_of(w.db);
  ck_assert_uint_eq(after_crash.pinned_bytes, 0);
  ck_assert_uint_gt(after_crash.free_bytes + (held.file_bytes - after_crash.file_bytes), held.free_bytes);
  check_clean(other);
  ck_assert_int_eq(sdb_close(other), SDB_OK);
  sim_free(copy);
  close_one(&w.kept[0]);
  ck_assert_uint_eq(stats_of(w.db).pinned_bytes, 0);
  check_clean(w.db);
  ck_assert_int_eq(sdb_close(w.db), SDB_OK);
  ck_assert_uint_eq(sim_allocations(w.device), 0);
  sim_free(w.device);
}
END_TEST

/* Of several it is the oldest one that the figures tell of, whichever is closed first. */
START_TEST(test_oldest_is_told) {
  enum { MANY = 4, PAUSE = 1000 };
  static const unsigned order[MANY] = {2, 0, 3, 1};
  static struct world w;
  sdb_snapshot *s[MANY];
  uint64_t sequence[MANY];
  bool open[MANY];
  world_init(&w, 4);
  ck_assert_int_eq(sdb_open(NAME, &w.options, &w.db), SDB_OK);
  for (unsigned i = 0; i < MANY; i++) {
    put(&w, i);
    ck_assert_int_eq(sdb_snapshot_open(w.db, &s[i]), SDB_OK);
    sequence[i] = sdb_snapshot_sequence(s[i]);
    ck_assert_uint_eq(sequence[i], stats_of(w.db).sequence);
    open[i] = true;
    sim_advance(w.device, PAUSE);
  }
  for (unsigned i = 0; i < MANY; i++) {
    unsigned oldest = 0;
    while (!open[oldest]) oldest++;
    sdb_stats now = stats_of(w.db);
    ck_assert_uint_eq(now.snapshots, MANY - i);
    ck_assert_uint_eq(now.pins, MANY - i);
    ck_assert_uint_eq(now.oldest_pin_sequence, sequence[oldest]);
    ck_assert_uint_ge(now.oldest_pin_ms, (uint64_t)(MANY - oldest) * PAUSE);
    ck_assert_uint_lt(now.oldest_pin_ms, (uint64_t)(MANY - oldest) * PAUSE + PAUSE / 2);
    sdb_snapshot_close(s[order[i]]);
    open[order[i]] = false;
  }
  ck_assert_uint_eq(stats_of(w.db).oldest_pin_sequence, 0);
  ck_assert_uint_eq(stats_of(w.db).oldest_pin_ms, 0);
  ck_assert_int_eq(sdb_close(w.db), SDB_OK);
  sim_free(w.device);
}
END_TEST

/* Cursors and readers of a snapshot outlive it. */
START_TEST(test_outlived) {
  static struct world w;
  world_init(&w, 2);
  ck_assert_int_eq(sdb_open(NAME, &w.options, &w.db), SDB_OK);
  for (unsigned d = 0; d < DOCUMENTS; d++) put(&w, d);
  struct kept *k = &w.kept[0];
  open_one(&w, k);
  char path[32];
  size_t len = (size_t)path_of(10, path), got;
  sdb_reader *reader;
  sdb_cursor *cursor;
  ck_assert_int_eq(sdb_snapshot_reader_open(k->snapshot, path, len, SDB_CURRENT, &reader), SDB_OK);
  ck_assert_int_eq(sdb_snapshot_cursor_open(k->snapshot, NULL, &cursor), SDB_OK);
  for (unsigned d = 0; d < DOCUMENTS; d++) erase(&w, d);
  close_one(k);
  ck_assert_int_eq(sdb_checkpoint(w.db), SDB_OK);
  for (unsigned d = 0; d < DOCUMENTS; d++) put(&w, d);
  ck_assert_int_eq(sdb_checkpoint(w.db), SDB_OK);
  unsigned count = 0;
  sdb_entry e;
  while (sdb_cursor_next(cursor, &e) == SDB_OK) count++;
  ck_assert_uint_eq(count, DOCUMENTS);
  ck_assert_int_eq(sdb_reader_read(reader, read_back, sizeof read_back, &got), SDB_OK);
  ck_assert_uint_eq(got, size_of(k->state.write[10]));
  model_content(k->state.write[10], 0, content, got);
  ck_assert(memcmp(content, read_back, got) == 0);
  sdb_reader_close(reader);
  sdb_cursor_close(cursor);
  check_clean(w.db);
  ck_assert_int_eq(sdb_close(w.db), SDB_OK);
  sim_free(w.device);
}
END_TEST

/* What had not expired when a snapshot was opened has not expired in it. */
START_TEST(test_expiry) {
  static struct world w;
  world_init(&w, 3);
  ck_assert_int_eq(sdb_open(NAME, &w.options, &w.db), SDB_OK);
  const sdb_storage *st = w.options.storage;
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.expires_ms = st->now_ms(st->ctx) + 1000;
  ck_assert_int_eq(sdb_put(w.db, "soon", 4, "x", 1, &o, NULL), SDB_OK);
  sdb_snapshot *s;
  sdb_info info;
  sdb_cursor *of_snapshot, *of_now;
  sdb_entry e;
  ck_assert_int_eq(sdb_snapshot_open(w.db, &s), SDB_OK);
  sim_advance(w.device, 2000);
  ck_assert_int_eq(sdb_snapshot_stat(s, "soon", 4, SDB_CURRENT, &info), SDB_OK);
  ck_assert_int_eq(sdb_stat(w.db, "soon", 4, SDB_CURRENT, &info), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_snapshot_cursor_open(s, NULL, &of_snapshot), SDB_OK);
  ck_assert_int_eq(sdb_cursor_open(w.db, NULL, &of_now), SDB_OK);
  ck_assert_int_eq(sdb_cursor_next(of_snapshot, &e), SDB_OK);
  ck_assert_int_eq(sdb_cursor_next(of_now, &e), SDB_END);
  sdb_cursor_close(of_snapshot);
  sdb_cursor_close(of_now);
  sdb_snapshot_close(s);
  ck_assert_int_eq(sdb_close(w.db), SDB_OK);
  sim_free(w.device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("snapshot");
  TCase *tests = tcase_create("snapshot");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, test_work_beside);
  tcase_add_test(tests, test_cost_is_bounded);
  tcase_add_test(tests, test_oldest_is_told);
  tcase_add_test(tests, test_outlived);
  tcase_add_test(tests, test_expiry);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
