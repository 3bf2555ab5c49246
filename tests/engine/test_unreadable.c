/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_unreadable.c - a place of the data file that the device does not give any more: one page after the other of those that hold
 * records or large contents. Only the documents that stand there may notice: everybody else writes, checkpoints, closes and opens
 * as ever, and what was given up because of it comes back by a scrub. Of the two header slots one is enough.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define log engine_log /* check.h brings the mathematical one along */
#include "db.h"
#include "sdb/sdb.h"
#include "seed.h"
#include "simulated.h"

#define NAME "unreadable.sdb"
enum { DOCUMENTS = 150, FRESH = 40, PAGE = 4096, LARGE = 20000 };

/* --- The database ------------------------------------------------------------------------------------------------------------- */

static unsigned versions = 2;

static int open_on(const sim *device, sdb **db) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.use_mmap = false;
  o.page_size = PAGE;
  o.page_cache_size = 64;
  o.versions_to_keep = versions;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 1 << 20;
  return sdb_open(NAME, &o, db);
}

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

static uint8_t content[LARGE];

static size_t path_of(unsigned i, char path[64]) { return (size_t)snprintf(path, 64, "/%05u/%u", i * 7919u % 100000u, i); }

static int put(sdb *db, unsigned i, unsigned round) {
  char path[64];
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  for (unsigned k = 0; k < sizeof content; k += 4) memcpy(content + k, &(uint32_t){(i * 31 + round) * 2654435761u + k}, 4);
  return sdb_put(db, path, path_of(i, path), content, i % 20 == 7 ? LARGE - i : 100 + i, &o, NULL);
}

static void require(sdb *db, unsigned i, unsigned round, uint64_t at) {
  static uint8_t got[LARGE];
  char path[64];
  size_t size = 0;
  int rc = sdb_get(db, path, path_of(i, path), SDB_CURRENT, got, sizeof got, &size, NULL);
  ck_assert_msg(rc == SDB_OK, "bad place %" PRIu64 ": document %u: %s", at, i, sdb_strerror(rc));
  uint32_t first;
  memcpy(&first, got, 4);
  ck_assert_uint_eq(size, i % 20 == 7 ? LARGE - i : 100 + i);
  ck_assert_uint_eq(first, (i * 31 + round) * 2654435761u);
}

/* Two versions of each, checkpointed. */
static sim *base_new(void) {
  sim *device = sim_new(1);
  sdb *db;
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  for (unsigned round = 1; round <= 2; round++)
    for (unsigned i = 0; i < DOCUMENTS; i++) ck_assert_int_eq(put(db, i, round), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  return device;
}

/* --- Places that hold records or large contents ------------------------------------------------------------------------------- */

static uint8_t kinds[4096]; /* of physical pages: PAGE_..., or EXTENT */
enum { EXTENT = 200 };

/* From now on the device does not give the page. */
static void spoil(sim *device, uint64_t page) { sim_unreadable(device, NAME, page * PAGE, PAGE, 0); }

struct sought {
  uint32_t number, place;
};

static int seek_place(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct sought *s = user;
  (void)kind, (void)live;
  if (number == s->number) s->place = place;
  return SDB_OK;
}

static int note_kind(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  (void)user, (void)number, (void)live;
  kinds[place] = kind;
  return SDB_OK;
}

static uint32_t places_of(const sim *base) {
  sim *device = sim_clone(base, 1);
  sdb *db;
  memset(kinds, 0, sizeof kinds);
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  uint32_t total = pager_pages_total(db->pager);
  ck_assert_uint_lt(total, sizeof kinds);
  ck_assert_int_eq(pager_walk(db->pager, note_kind, NULL), SDB_OK);
  for (uint32_t i = 1; i < total; i++) {
    enum page_state state;
    ck_assert_int_eq(pager_page_state(db->pager, i, &state), SDB_OK);
    if (!kinds[i] && state == STATE_USED && !pager_page_fixed(db->pager, i)) kinds[i] = EXTENT;
  }
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
  return total;
}

static void tell(void *user, const char *sentence) {
  (void)user;
  printf("  %s\n", sentence);
}

static uint64_t problems(sdb *db, bool aloud) {
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(db, aloud ? tell : NULL, NULL, &report), SDB_OK);
  return report.problems;
}

/* The device gives the place again. Of space nothing is lost, once a scrub has counted. */
static bool scrub_finds_it_all(const sim *device, const unsigned newest[], uint64_t at) {
  sdb *db;
  bool more = true;
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  for (unsigned i = 0; i < DOCUMENTS + 2 * FRESH; i++) require(db, i, newest[i], at);
  bool some = problems(db, false) > 0;
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  while (more) ck_assert_int_eq(sdb_step(db, 64, &more), SDB_OK);
  ck_assert_msg(problems(db, true) == 0, "bad place %" PRIu64 ": a scrub has not counted all", at);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  return some;
}

/* All documents are written again, so the versions before the last are dropped, and with them what stands at the bad place. */
static bool one_place(const sim *base, uint64_t at, bool crash) {
  sim *device = sim_clone(base, at + 1);
  unsigned newest[DOCUMENTS + 2 * FRESH], refused = 0;
  sdb *db;
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  sim_unreadable(device, NAME, at, PAGE, 0);
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    int rc = put(db, i, 3);
    ck_assert_msg(rc == SDB_OK || rc == SDB_IO, "bad place %" PRIu64 ": %s", at, sdb_strerror(rc));
    newest[i] = rc == SDB_OK ? 3 : 2;
    refused += rc != SDB_OK;
  }
  ck_assert_msg(refused <= PAGE / 100, "bad place %" PRIu64 ": %u documents cannot be written", at, refused);
  for (unsigned i = DOCUMENTS; i < DOCUMENTS + FRESH; i++) ck_assert_int_eq(put(db, i, newest[i] = 4), SDB_OK);
  ck_assert_int_eq(sdb_flush(db), SDB_OK);
  if (crash) {
    sim_die_now(device);
    (void)sdb_close(db);
    ck_assert(sim_dead(device));
    sim_crash(device, SIM_KEEP_ALL, at);
  } else {
    int rc = sdb_checkpoint(db);
    ck_assert_msg(rc == SDB_OK || rc == SDB_IO, "bad place %" PRIu64 ": %s", at, sdb_strerror(rc));
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
  }
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  for (unsigned i = DOCUMENTS + FRESH; i < DOCUMENTS + 2 * FRESH; i++) ck_assert_int_eq(put(db, i, newest[i] = 5), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_readable(device);
  bool some = scrub_finds_it_all(device, newest, at);
  sim_free(device);
  return some;
}

START_TEST(test_one_bad_place) {
  sim *base = base_new();
  uint32_t total = places_of(base), heap = 0, extents = 0, given_up = 0, tried = 0;
  for (uint32_t i = 1; i < total; i++) {
    if (kinds[i] != PAGE_HEAP && kinds[i] != EXTENT) continue;
    if (tried++ % seed_thin() != 0) continue;
    heap += kinds[i] == PAGE_HEAP;
    extents += kinds[i] == EXTENT;
    given_up += one_place(base, (uint64_t)i * PAGE, _i == 1);
  }
  printf("%s: %u heap pages, %u pages of large contents; %u times a scrub had something to count\n", _i == 1 ? "crash" : "close",
         heap, extents, given_up);
  ck_assert_uint_gt(heap, 0);
  ck_assert_uint_gt(extents, 0);
  ck_assert_uint_gt(given_up, 0);
  sim_free(base);
}
END_TEST

/* It was given when it was asked for again: nothing is given up. */
START_TEST(test_what_was_unreadable_for_a_while) {
  sim *base = base_new();
  uint32_t total = places_of(base);
  size_t aside = 0;
  for (uint32_t i = 1; i < total; i++) {
    if (kinds[i] != PAGE_HEAP && kinds[i] != EXTENT) continue;
    sim *device = sim_clone(base, i);
    sdb *db;
    ck_assert_int_eq(open_on(device, &db), SDB_OK);
    spoil(device, i);
    for (unsigned k = 0; k < DOCUMENTS; k++) {
      int rc = put(db, k, 3);
      ck_assert(rc == SDB_OK || rc == SDB_IO);
    }
    aside += db->dropped_aside;
    sim_readable(device);
    ck_assert_uint_eq(problems(db, true), 0);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
  ck_assert_uint_gt(aside, 0);
  sim_free(base);
}
END_TEST

enum { MANY = 150 };

/* More is set aside than is looked at in one turn, and still the first checkpoint is the only one that fails; it says why. */
START_TEST(test_many_at_once) {
  const unsigned large[] = {7, 27, 47};
  sim *device = sim_new(1);
  sdb *db;
  sdb_batch *batch;
  char text[256], path[64];
  versions = MANY;
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  for (unsigned round = 0; round < MANY; round++)
    for (unsigned i = 0; i < 3; i++) ck_assert_int_eq(put(db, large[i], round), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  (void)places_of(device);
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  for (uint64_t i = 0; i < sizeof kinds; i++)
    if (kinds[i] == EXTENT) spoil(device, i);
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  for (unsigned i = 0; i < 3; i++) ck_assert_int_eq(sdb_batch_delete(batch, path, path_of(large[i], path), SDB_ANY), SDB_OK);
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_OK);
  ck_assert_uint_eq(db->dropped_count, 3 * MANY);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_IO);
  sdb_message(db, text, sizeof text);
  ck_assert_msg(strstr(text, "dropped"), "%s", text);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  sim_readable(device);
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  for (bool more = true; more;) ck_assert_int_eq(sdb_step(db, 64, &more), SDB_OK);
  ck_assert_uint_eq(problems(db, true), 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

static void scrub_whole(sdb *db) {
  bool more = true;
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  while (more) ck_assert_int_eq(sdb_step(db, 64, &more), SDB_OK);
}

static void put_if_given(sdb *db, unsigned from, unsigned to) {
  for (unsigned i = from; i < to; i++) {
    int rc = put(db, i, 3);
    ck_assert(rc == SDB_OK || rc == SDB_IO);
  }
}

static bool is_given_up(sdb *db) {
  int rc = sdb_checkpoint(db);
  if (rc != SDB_OK) rc = sdb_checkpoint(db);
  ck_assert_int_eq(rc, SDB_OK);
  return db->roots.recount;
}

enum { ASIDE_BEFORE, LOST_WHILE_COUNTING };

/* A scrub that comes upon what is still set aside, or in the middle of which something is given up, leaves that to the next one. */
START_TEST(test_scrub_that_comes_early) {
  sim *base = base_new();
  uint32_t total = places_of(base);
  unsigned tried = 0;
  for (uint32_t i = 1; i < total; i++) {
    if (kinds[i] != PAGE_HEAP && kinds[i] != EXTENT) continue;
    sim *device = sim_clone(base, i);
    sdb *db;
    bool more = true;
    ck_assert_int_eq(open_on(device, &db), SDB_OK);
    spoil(device, i);
    put_if_given(db, 0, DOCUMENTS / 2);
    bool lost = is_given_up(db);
    put_if_given(db, DOCUMENTS / 2, DOCUMENTS);
    sim_readable(device);
    if (lost && db->dropped_aside > 0) {
      tried++;
      ck_assert_int_eq(sdb_scrub(db), SDB_OK);
      for (bool told = false; more;) {
        ck_assert_int_eq(sdb_step(db, 1, &more), SDB_OK);
        if (_i != LOST_WHILE_COUNTING || !db->scrub.counted || told) continue;
        told = true;
        spoil(device, i);
        ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
        sim_readable(device);
      }
      ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
      scrub_whole(db);
      ck_assert_msg(problems(db, true) == 0, "bad place %" PRIu32 ": the next scrub has not counted all", i);
    }
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
  ck_assert_uint_gt(tried, 0);
  sim_free(base);
}
END_TEST

/* Two places at once: what stands at one of them is led to by what stands at the other, and a scrub must not take it for nobody's.
 */
START_TEST(test_chain_through_two_places) {
  enum { OF = 3, KEPT = 5, FILL = 20 };
  sim *base = sim_new(1);
  sdb *db;
  uint32_t at[KEPT + 1] = {0};
  versions = KEPT;
  ck_assert_int_eq(open_on(base, &db), SDB_OK);
  for (unsigned round = 1; round <= KEPT; round++) { /* each version on a page of its own */
    ck_assert_int_eq(put(db, OF, round), SDB_OK);
    for (unsigned i = 0; i < FILL; i++) ck_assert_int_eq(put(db, round * FILL + i, 1), SDB_OK);
  }
  for (unsigned i = FILL; i < (KEPT + 1) * FILL; i++) {
    char path[64];
    ck_assert_int_eq(sdb_delete(db, path, path_of(i, path), NULL, NULL), SDB_OK);
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_int_eq(open_on(base, &db), SDB_OK);
  for (uint32_t version = 1; version <= KEPT; version++) {
    char path[64];
    table_entry entry;
    uint64_t document, place;
    unsigned slot;
    writer_enter(db, &slot);
    ck_assert_int_eq(document_entry(db, VIEW_HEAD, path, path_of(OF, path), &document, &entry), SDB_OK);
    ck_assert_int_eq(document_place(db, VIEW_HEAD, document, &entry, version, &place), SDB_OK);
    struct sought page = {place_page(place), 0};
    ck_assert_int_eq(pager_walk(db->pager, seek_place, &page), SDB_OK);
    at[version] = page.place;
    writer_leave(db, slot);
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  for (unsigned a = 1; a <= KEPT; a++)
    for (unsigned b = 1; b < a; b++) {
      static uint8_t got[LARGE];
      char path[64];
      size_t size;
      if (at[a] == at[b]) continue;
      sim *device = sim_clone(base, a);
      ck_assert_int_eq(open_on(device, &db), SDB_OK);
      spoil(device, at[a]);
      spoil(device, at[b]);
      scrub_whole(db);
      sim_readable(device);
      ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
      for (uint32_t version = 1; version <= KEPT; version++) {
        int rc = sdb_get(db, path, path_of(OF, path), version, got, sizeof got, &size, NULL);
        ck_assert_msg(rc == SDB_OK, "places of versions %u and %u: version %u: %s", a, b, version, sdb_strerror(rc));
      }
      ck_assert_uint_eq(problems(db, true), 0);
      ck_assert_int_eq(sdb_close(db), SDB_OK);
      sim_free(device);
    }
  sim_free(base);
}
END_TEST

/* One slot is enough, whichever counts: the other one leads to the same state, with the log. */
START_TEST(test_one_slot) {
  const uint64_t slots[2] = {0, SLOT_B};
  bool crash = _i & 2;
  sim *device = base_new();
  sdb *db;
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  for (unsigned i = 0; i < DOCUMENTS; i++) ck_assert_int_eq(put(db, i, 3), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  for (unsigned i = 0; i < DOCUMENTS / 2; i++) ck_assert_int_eq(put(db, i, 4), SDB_OK);
  ck_assert_int_eq(sdb_flush(db), SDB_OK);
  if (crash) sim_die_now(device);
  int rc = sdb_close(db);
  ck_assert(crash ? sim_dead(device) : rc == SDB_OK);
  if (crash) sim_crash(device, SIM_DROP_ALL, 1);
  uint64_t bad = slots[_i & 1];
  sim_unreadable(device, NAME, bad, SLOT_SIZE, 0);
  sim_unreadable(device, NAME, slots[1 - (_i & 1)], SLOT_SIZE, 0);
  ck_assert_int_eq(open_on(device, &db), SDB_IO);
  sim_readable(device);
  sim_unreadable(device, NAME, bad, SLOT_SIZE, 0);
  for (unsigned round = 0; round < 3; round++) {
    ck_assert_int_eq(open_on(device, &db), SDB_OK);
    for (unsigned i = 0; i < DOCUMENTS; i++) require(db, i, i >= DOCUMENTS / 2 ? 3 : round ? 5 : 4, bad);
    for (unsigned i = 0; i < DOCUMENTS / 2; i++) ck_assert_int_eq(put(db, i, 5), SDB_OK);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
  }
  sim_readable(device);
  ck_assert_int_eq(open_on(device, &db), SDB_OK);
  ck_assert_uint_eq(problems(db, true), 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("unreadable");
  TCase *places = tcase_create("places");
  tcase_set_timeout(places, 300);
  tcase_add_loop_test(places, test_one_bad_place, 0, 2);
  tcase_add_test(places, test_what_was_unreadable_for_a_while);
  tcase_add_test(places, test_many_at_once);
  tcase_add_test(places, test_chain_through_two_places);
  tcase_add_loop_test(places, test_scrub_that_comes_early, 0, 2);
  tcase_add_loop_test(places, test_one_slot, 0, 4);
  suite_add_tcase(suite, places);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
