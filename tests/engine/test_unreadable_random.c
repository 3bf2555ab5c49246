/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_unreadable_random.c - places that the device does not give come and go while documents are written, deleted, cleaned and
 * scrubbed, with snapshots and power cuts between. What is acknowledged is read or answers SDB_IO, nothing else; and when the
 * device gives everything again, everything is there, and one scrub leaves nothing for check to tell.
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
enum { DOCUMENTS = 300, PAGE = 4096, LARGE = 30000, MOST_BAD = 6, MOST_KEPT = 5, VIEWS = 2 };

/* --- The model ---------------------------------------------------------------------------------------------------------------- */

struct version {
  uint32_t value, size;
};
struct document {
  uint32_t version, kept;      /* 0: there is none */
  struct version v[MOST_KEPT]; /* the newest first */
};
struct view {
  sdb_snapshot *at;
  struct document d[DOCUMENTS];
};

static struct play {
  uint64_t state, seed;
  sim *device;
  sdb *db;
  unsigned keep;
  bool suffix, encrypted, large_pages;
  struct document d[DOCUMENTS];
  struct view views[VIEWS];
  unsigned bad; /* places that the device does not give */
  unsigned refused, unread, crashes, given_up;
} t;

static uint64_t below(uint64_t n) { return sim_random(&t.state) % n; }
static size_t path_of(unsigned i, char path[64]) { return (size_t)snprintf(path, 64, "/%05u/%u", i * 7919u % 100000u, i); }
static uint8_t content[LARGE], got[LARGE];

static void fill(struct version v) {
  for (unsigned k = 0; k < v.size; k += 4)
    memcpy(content + k, &(uint32_t){v.value * 2654435761u + k * 40503u}, v.size - k < 4 ? v.size - k : 4);
}

static void made(struct document *d, struct version v) {
  memmove(d->v + 1, d->v, (MOST_KEPT - 1) * sizeof *d->v);
  d->v[0] = v;
  d->version++;
  if (d->kept < t.keep) d->kept++;
}

static void give_all(void) {
  sim_readable(t.device);
  t.bad = 0;
}

static bool accept(int rc) { return rc == SDB_OK || (t.bad && rc == SDB_IO); }

#define holds(what, ...) ck_assert_msg(what, __VA_ARGS__)

static void verify_one(const sdb_snapshot *at, const struct document *d, unsigned i, uint32_t back) {
  char path[64];
  size_t len = path_of(i, path), size = 0;
  uint32_t number = back ? d->version - back : SDB_CURRENT;
  int rc = at ? sdb_snapshot_get(at, path, len, number, got, sizeof got, &size, NULL)
              : sdb_get(t.db, path, len, number, got, sizeof got, &size, NULL);
  char text[256] = "";
  sdb_message(t.db, text, sizeof text);
  if (t.bad && rc == SDB_IO) {
    t.unread++;
    return;
  }
  bool there = back < d->kept;
  holds(rc == (there ? SDB_OK : SDB_NOT_FOUND), "seed %" PRIu64 ": document %u, %u back of %u (kept %u), %s, %u bad: %s %s", t.seed,
        i, back, d->version, d->kept, at ? "snapshot" : "now", t.bad, sdb_strerror(rc), text);
  if (!there) return;
  holds(size == d->v[back].size, "seed %" PRIu64 ": document %u, %u back: size %zu", t.seed, i, back, size);
  fill(d->v[back]);
  holds(memcmp(got, content, size) == 0, "seed %" PRIu64 ": document %u, %u back: other bytes", t.seed, i, back);
}

static void verify_all(const sdb_snapshot *at, const struct document *d) {
  for (unsigned i = 0; i < DOCUMENTS; i++)
    for (uint32_t back = 0; back <= d[i].kept && (back == 0 || back < d[i].version); back++) verify_one(at, &d[i], i, back);
}

/* --- The handle --------------------------------------------------------------------------------------------------------------- */

static int open_db(void) {
  static const uint8_t key[SDB_KEY_SIZE] = {1, 2, 3};
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(t.device);
  o.threads = false;
  o.use_mmap = false;
  o.page_size = t.large_pages ? 8192 : PAGE;
  o.page_cache_size = 64;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 200000;
  o.versions_to_keep = t.keep;
  o.suffix_index = t.suffix;
  o.encryption_key = t.encrypted ? key : NULL;
  return sdb_open(NAME, &o, &t.db);
}

static void drop_views(void) {
  for (unsigned i = 0; i < VIEWS; i++) {
    sdb_snapshot_close(t.views[i].at);
    t.views[i].at = NULL;
  }
}

/* A second attempt gives up what the first set aside; what else may answer SDB_IO is on the way through trees and table. */
static void reopen(bool crash) {
  drop_views();
  if (crash) sim_die_now(t.device);
  int rc = sdb_close(t.db);
  holds(crash || accept(rc), "seed %" PRIu64 ": close: %s", t.seed, sdb_strerror(rc));
  if (crash) sim_crash(t.device, SIM_RANDOM_SUBSET, t.seed + t.crashes++);
  rc = open_db();
  holds(accept(rc), "seed %" PRIu64 ": open: %s", t.seed, sdb_strerror(rc));
  if (rc == SDB_OK) return;
  t.refused++;
  give_all();
  rc = open_db();
  holds(rc == SDB_OK, "seed %" PRIu64 ": open without a bad place: %s", t.seed, sdb_strerror(rc));
}

static void spoiled(int *rc) {
  if (*rc != SDB_SYNC_FAILED || !t.bad) return;
  give_all();
  drop_views();
  (void)sdb_close(t.db);
  *rc = open_db();
  holds(*rc == SDB_OK, "seed %" PRIu64 ": open after a change that could not be taken back: %s", t.seed, sdb_strerror(*rc));
}

/* --- What is done ------------------------------------------------------------------------------------------------------------- */

static void put_one(unsigned i) {
  char path[64];
  size_t len = path_of(i, path);
  struct version v = {(uint32_t)below(1u << 30), below(8) == 0 ? 5000 + (uint32_t)below(LARGE - 5000) : 50 + (uint32_t)below(700)};
  fill(v);
  int rc = sdb_put(t.db, path, len, content, v.size, NULL, NULL);
  if (rc == SDB_OK) made(&t.d[i], v);
  spoiled(&rc);
  holds(accept(rc) || (rc == SDB_SYNC_FAILED), "seed %" PRIu64 ": put: %s", t.seed, sdb_strerror(rc));
}

static void delete_one(unsigned i) {
  char path[64];
  size_t len = path_of(i, path);
  int rc = sdb_delete(t.db, path, len, NULL, NULL);
  if (rc == SDB_OK) t.d[i] = (struct document){0};
  if (rc == SDB_NOT_FOUND && !t.d[i].version) rc = SDB_OK;
  spoiled(&rc);
  holds(accept(rc), "seed %" PRIu64 ": delete: %s", t.seed, sdb_strerror(rc));
}

static void names_one(unsigned i) {
  char path[64], name[64];
  size_t len = path_of(i, path), name_len = (size_t)snprintf(name, 64, "/name/%u", i);
  if (!t.d[i].version) return;
  int rc = sdb_bind(t.db, path, len, name, name_len, NULL, NULL);
  spoiled(&rc);
  if (rc == SDB_CONFLICT) rc = SDB_OK;
  holds(accept(rc), "seed %" PRIu64 ": bind: %s", t.seed, sdb_strerror(rc));
  if (below(2)) return;
  rc = sdb_unbind(t.db, name, name_len, NULL, NULL);
  if (rc == SDB_NOT_FOUND) rc = SDB_OK;
  spoiled(&rc);
  holds(accept(rc), "seed %" PRIu64 ": unbind: %s", t.seed, sdb_strerror(rc));
}

static void batch(void) {
  sdb_batch *b;
  unsigned first = (unsigned)below(DOCUMENTS), n = 2 + (unsigned)below(10);
  struct version v[12];
  ck_assert_int_eq(sdb_batch_open(t.db, &b), SDB_OK);
  for (unsigned k = 0; k < n; k++) {
    char path[64];
    size_t len = path_of((first + k) % DOCUMENTS, path);
    v[k] = (struct version){(uint32_t)below(1u << 30), below(12) == 0 ? 5000 + (uint32_t)below(4000) : 50 + (uint32_t)below(700)};
    fill(v[k]);
    sdb_put_options o;
    sdb_put_options_init(&o);
    int rc = sdb_batch_put(b, path, len, content, v[k].size, &o);
    holds(accept(rc), "seed %" PRIu64 ": into a batch: %s", t.seed, sdb_strerror(rc));
    if (rc == SDB_OK) continue;
    sdb_batch_abort(b);
    return;
  }
  int rc = sdb_batch_commit(b, NULL, NULL, 0, NULL);
  for (unsigned k = 0; rc == SDB_OK && k < n; k++) made(&t.d[(first + k) % DOCUMENTS], v[k]);
  spoiled(&rc);
  holds(accept(rc), "seed %" PRIu64 ": batch: %s", t.seed, sdb_strerror(rc));
}

static void view(void) {
  struct view *w = &t.views[below(VIEWS)];
  if (w->at) {
    verify_all(w->at, w->d);
    sdb_snapshot_close(w->at);
    w->at = NULL;
  } else if (sdb_snapshot_open(t.db, &w->at) == SDB_OK) {
    memcpy(w->d, t.d, sizeof t.d);
  } else {
    w->at = NULL;
  }
}

/* Of the heap pages one, as likely as any other. */
struct pick {
  uint32_t place, seen;
};

static int pick_one(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct pick *p = user;
  (void)number, (void)live;
  if (kind == PAGE_HEAP && place && below(++p->seen) == 0) p->place = place;
  return SDB_OK;
}

static void spoil(void) {
  uint64_t size = t.large_pages ? 8192 : PAGE, places[MOST_BAD];
  unsigned n = 1 + (unsigned)below(MOST_BAD);
  give_all();
  pager_lock(t.db->pager);
  unsigned slot = pager_enter(t.db->pager);
  for (unsigned i = 0; i < n; i++) {
    struct pick p = {(uint32_t)below(pager_pages_total(t.db->pager)), 0};
    if (i % 3) ck_assert_int_eq(pager_walk(t.db->pager, pick_one, &p), SDB_OK);
    places[i] = p.place * size;
  }
  pager_leave(t.db->pager, slot);
  pager_unlock(t.db->pager);
  uint64_t chance = below(2) * (1 + below(1u << 20));
  for (t.bad = 0; t.bad < n; t.bad++) sim_unreadable(t.device, NAME, places[t.bad], PAGE, chance);
}

static void step(unsigned budget) {
  bool more;
  int rc = sdb_step(t.db, budget, &more);
  spoiled(&rc);
  holds(accept(rc), "seed %" PRIu64 ": step: %s", t.seed, sdb_strerror(rc));
}

static void checkpoint(void) {
  int rc = sdb_checkpoint(t.db);
  spoiled(&rc);
  holds(accept(rc), "seed %" PRIu64 ": checkpoint: %s", t.seed, sdb_strerror(rc));
  if (rc == SDB_IO) sim_advance(t.device, below(3000));
}

static void act(void) {
  unsigned i = (unsigned)below(DOCUMENTS);
  switch (below(40)) {
    case 0: spoil(); break;
    case 1: give_all(); break;
    case 2: view(); break;
    case 3: checkpoint(); break;
    case 4: ck_assert(sdb_scrub(t.db) != SDB_INVALID); break;
    case 5: sim_advance(t.device, below(2000)); break;
    case 6:
      if (below(2) == 0) reopen(below(2));
      break;
    case 7: batch(); break;
    case 8: names_one(i); break;
    case 9:
    case 10: delete_one(i); break;
    case 11:
    case 12:
    case 13:
    case 14:
    case 15: step(1 + (unsigned)below(40)); break;
    case 16: verify_one(NULL, &t.d[i], i, 0); break;
    default: put_one(i);
  }
}

static bool tell_all;
static void tell(void *user, const char *sentence) {
  (void)user;
  if (tell_all) printf("  seed %" PRIu64 ": %s\n", t.seed, sentence);
}

static uint64_t problems(bool aloud) {
  sdb_check_report report = {.size = sizeof report};
  tell_all = aloud;
  int rc = sdb_check(t.db, tell, NULL, &report);
  holds(rc == SDB_OK, "seed %" PRIu64 ": check: %s", t.seed, sdb_strerror(rc));
  return report.problems;
}

static void scrub(void) {
  bool more = true;
  sim_advance(t.device, 5000);
  while (more || atomic_load(&t.db->scrub.running)) {
    sim_advance(t.device, 1000);
    ck_assert_int_eq(sdb_step(t.db, 64, &more), SDB_OK);
  }
  ck_assert_int_eq(sdb_scrub(t.db), SDB_OK);
  do {
    sim_advance(t.device, 1000);
    ck_assert_int_eq(sdb_step(t.db, 64, &more), SDB_OK);
  } while (more || atomic_load(&t.db->scrub.running));
}

static void heal(void) {
  give_all();
  verify_all(NULL, t.d);
  for (unsigned i = 0; i < VIEWS; i++)
    if (t.views[i].at) verify_all(t.views[i].at, t.views[i].d);
  if (problems(false)) t.given_up++;
  scrub();
  holds(problems(true) == 0, "seed %" PRIu64 ": a scrub has not found it all", t.seed);
  verify_all(NULL, t.d);
}

static void one_seed(uint64_t seed) {
  t = (struct play){.state = seed * 77 + 5, .seed = seed};
  t.keep = 1 + (unsigned)(seed % MOST_KEPT);
  t.suffix = below(2), t.encrypted = below(3) == 0, t.large_pages = below(4) == 0;
  t.device = sim_new(seed);
  ck_assert_int_eq(open_db(), SDB_OK);
  for (unsigned round = 0; round < 4; round++) {
    for (unsigned n = 0; n < 600; n++) act();
    heal();
  }
  drop_views();
  ck_assert_int_eq(sdb_close(t.db), SDB_OK);
  ck_assert_uint_eq(sim_allocations(t.device), 0);
  sim_free(t.device);
}

START_TEST(test_places_come_and_go) {
  uint64_t first, count = seed_range("unreadable, random", seed_share(20), &first);
  unsigned given_up = 0, unread = 0, refused = 0;
  for (uint64_t seed = first; seed < first + count; seed++) {
    one_seed(seed);
    given_up += t.given_up, unread += t.unread, refused += t.refused;
  }
  printf("%u reads answered SDB_IO, %u opens, %u times a scrub had something to count\n", unread, refused, given_up);
  if (count >= 20) ck_assert(unread > 0 && given_up > 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("unreadable, random");
  TCase *places = tcase_create("places");
  tcase_set_timeout(places, 600);
  tcase_add_test(places, test_places_come_and_go);
  suite_add_tcase(suite, places);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
