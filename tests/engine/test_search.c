/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_search.c - searches by prefix, by suffix and by both against a plain list; the suffix index built and dropped beside commits
 * and crashes; damage in it. Simulated storage throughout. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "seed.h"
#include "simulated.h"

#define NAME "search.sdb"
enum { PATHS = 300, LONGEST = 40 };

struct text {
  size_t len;
  uint8_t at[SDB_MAX_PATH];
};

/* The list: what should be there, sorted by path. */
struct list {
  size_t count;
  struct text paths[PATHS];
};

struct world {
  sim *device;
  sdb *db;
  sdb_options options;
  uint64_t random;
  struct list there;
};

static uint64_t below(struct world *w, uint64_t n) { return sim_random(&w->random) % n; }

static int compare(const struct text *a, const struct text *b) {
  int order = memcmp(a->at, b->at, a->len < b->len ? a->len : b->len);
  return order ? order : (a->len > b->len) - (a->len < b->len);
}

static int by_path(const void *a, const void *b) { return compare(a, b); }

static struct text turned(const struct text *t) {
  struct text back = {.len = t->len};
  for (size_t i = 0; i < t->len; i++) back.at[i] = t->at[t->len - 1 - i];
  return back;
}

static int by_suffix(const void *a, const void *b) {
  struct text x = turned(a), y = turned(b);
  return compare(&x, &y);
}

/* Few different bytes, so that paths begin and end alike; zeros and 0xFF among them. */
static struct text random_text(struct world *w, size_t least, size_t most) {
  static const uint8_t bytes[] = {'a', 'b', '/', '.', 0, 0xFF, 0xFE};
  struct text t = {.len = least + below(w, most - least + 1)};
  for (size_t i = 0; i < t.len; i++) t.at[i] = bytes[below(w, below(w, 3) == 0 ? sizeof bytes : 2)];
  if (t.len > 0 && below(w, 60) == 0) {
    size_t len = t.len + below(w, SDB_MAX_PATH - t.len + 1);
    memset(t.at + t.len, 'a', len - t.len);
    t.len = len;
  }
  return t;
}

static size_t place_of(const struct list *l, const struct text *t) {
  size_t i = 0;
  while (i < l->count && compare(&l->paths[i], t) < 0) i++;
  return i;
}

static bool has(const struct list *l, const struct text *t) {
  size_t i = place_of(l, t);
  return i < l->count && compare(&l->paths[i], t) == 0;
}

static void list_add(struct list *l, const struct text *t) {
  size_t i = place_of(l, t);
  memmove(&l->paths[i + 1], &l->paths[i], (l->count++ - i) * sizeof *l->paths);
  l->paths[i] = *t;
}

static void list_remove(struct list *l, const struct text *t) {
  size_t i = place_of(l, t);
  memmove(&l->paths[i], &l->paths[i + 1], (--l->count - i) * sizeof *l->paths);
}

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
  w->options.checkpoint_wal_bytes = 65536;
}

static void world_open(struct world *w) { ck_assert_int_eq(sdb_open(NAME, &w->options, &w->db), SDB_OK); }

static void world_close(struct world *w) {
  ck_assert_int_eq(sdb_close(w->db), SDB_OK);
  w->db = NULL;
}

static void world_clear(struct world *w) {
  if (w->db) world_close(w);
  ck_assert_uint_eq(sim_allocations(w->device), 0);
  sim_free(w->device);
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

/* A put of a path that is not there, or a delete of one that is. */
static int change(struct world *w, bool *put, struct text *t, sdb_durability durability) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = durability;
  *put = w->there.count == 0 || (w->there.count < PATHS && below(w, 3) != 0);
  if (*put) {
    do *t = random_text(w, 1, LONGEST);
    while (has(&w->there, t));
    return sdb_put(w->db, t->at, t->len, "x", 1, &o, NULL);
  }
  *t = w->there.paths[below(w, w->there.count)];
  return sdb_delete(w->db, t->at, t->len, &o, NULL);
}

static void change_list(struct list *l, bool put, const struct text *t) {
  if (put) list_add(l, t);
  else list_remove(l, t);
}

static void work(struct world *w, unsigned changes) {
  while (changes-- > 0) {
    bool put;
    struct text t;
    ck_assert_int_eq(change(w, &put, &t, SDB_NONE), SDB_OK);
    change_list(&w->there, put, &t);
  }
}

/* --- Searching ---------------------------------------------------------------------------------------------------------------- */

static bool fits(const struct text *t, const struct text *prefix, const struct text *suffix) {
  return t->len >= prefix->len && t->len >= suffix->len && memcmp(t->at, prefix->at, prefix->len) == 0 &&
         memcmp(t->at + t->len - suffix->len, suffix->at, suffix->len) == 0;
}

struct search {
  struct text prefix, suffix, after;
  sdb_order order;
  uint64_t limit, budget;
};

static sdb_cursor_options options_of(const struct search *s) {
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.prefix = s->prefix.at, o.prefix_len = s->prefix.len;
  o.suffix = s->suffix.at, o.suffix_len = s->suffix.len;
  o.after = s->after.at, o.after_len = s->after.len;
  o.order = s->order;
  o.limit = s->limit, o.budget = s->budget;
  return o;
}

/* Walks it all. At each SDB_MORE, and at random, the cursor is thrown away and another one goes on from its position. */
static size_t walk(struct world *w, struct search s, struct list *found) {
  sdb_cursor_options o = options_of(&s);
  sdb_cursor *c;
  size_t examined = 0;
  uint64_t left = s.limit;
  ck_assert_int_eq(sdb_cursor_open(w->db, &o, &c), SDB_OK);
  found->count = 0;
  for (;;) {
    sdb_entry e;
    int rc = sdb_cursor_next(c, &e);
    if (rc == SDB_END) break;
    if (rc == SDB_OK) {
      ck_assert_uint_lt(found->count, PATHS);
      found->paths[found->count].len = e.path_len;
      memcpy(found->paths[found->count++].at, e.path, e.path_len);
      left -= s.limit != 0;
    } else {
      ck_assert_int_eq(rc, SDB_MORE);
      ck_assert_uint_ne(s.budget, 0);
      examined += s.budget;
    }
    if (below(w, 4) != 0) continue;
    const void *at;
    sdb_cursor_position(c, &s.order, &at, &s.after.len);
    memcpy(s.after.at, at, s.after.len);
    sdb_cursor_close(c);
    if (s.limit && left == 0) return examined;
    s.limit = left;
    o = options_of(&s);
    ck_assert_int_eq(sdb_cursor_open(w->db, &o, &c), SDB_OK);
  }
  sdb_cursor_close(c);
  return examined;
}

static void compare_search(struct world *w, const struct search *s) {
  static struct list expected, found;
  sdb_cursor_options o = options_of(s);
  sdb_cursor *c;
  const void *at;
  size_t len;
  sdb_order order;
  ck_assert_int_eq(sdb_cursor_open(w->db, &o, &c), SDB_OK);
  sdb_cursor_position(c, &order, &at, &len); /* which one it chose */
  sdb_cursor_close(c);
  if (s->order != SDB_ORDER_AUTO) ck_assert_int_eq(order, s->order);
  else if (!s->prefix.len != !s->suffix.len) ck_assert_int_eq(order, s->suffix.len ? SDB_ORDER_SUFFIX : SDB_ORDER_PATH);
  int (*rule)(const void *, const void *) = order == SDB_ORDER_PATH ? by_path : by_suffix;
  expected.count = 0;
  for (size_t i = 0; i < w->there.count; i++) {
    const struct text *t = &w->there.paths[i];
    if (fits(t, &s->prefix, &s->suffix) && (s->after.len == 0 || rule(t, &s->after) > 0)) expected.paths[expected.count++] = *t;
  }
  qsort(expected.paths, expected.count, sizeof *expected.paths, rule);
  if (s->limit && expected.count > s->limit) expected.count = s->limit;
  size_t examined = walk(w, *s, &found);
  ck_assert_uint_eq(found.count, expected.count);
  for (size_t i = 0; i < found.count; i++) ck_assert_int_eq(compare(&found.paths[i], &expected.paths[i]), 0);
  ck_assert_uint_le(examined, (uint64_t)w->there.count + s->budget);
}

static void random_search(struct world *w) {
  struct search s = {.limit = below(w, 3) == 0 ? 1 + below(w, 20) : 0, .budget = below(w, 2) == 0 ? 1 + below(w, 20) : 0};
  const struct text *some = &w->there.paths[below(w, w->there.count)], *other = &w->there.paths[below(w, w->there.count)];
  if (below(w, 2)) s.prefix = *some, s.prefix.len = below(w, some->len < 4 ? some->len + 1 : 4);
  if (below(w, 2)) {
    s.suffix.len = below(w, other->len < 4 ? other->len + 1 : 4);
    memcpy(s.suffix.at, other->at + other->len - s.suffix.len, s.suffix.len);
  }
  if (below(w, 8) == 0) s.prefix = random_text(w, 0, 5);
  if (below(w, 8) == 0) s.suffix = random_text(w, 0, 5);
  s.order = (sdb_order)below(w, 3);
  if (below(w, 2)) {
    s.after = below(w, 2) ? random_text(w, 1, 6) : w->there.paths[below(w, w->there.count)];
    if (s.order == SDB_ORDER_AUTO && s.prefix.len && s.suffix.len) s.order = SDB_ORDER_SUFFIX;
  }
  compare_search(w, &s);
}

static void test_searches_of(uint64_t seed) {
  static struct world w;
  world_init(&w, seed);
  world_open(&w);
  for (int round = 0; round < 6; round++) {
    work(&w, 150);
    for (int i = 0; i < 60; i++) random_search(&w);
    if (round == 3) {
      world_close(&w);
      world_open(&w);
    }
  }
  check_clean(w.db);
  world_clear(&w);
}

START_TEST(test_searches) {
  uint64_t first, count = seed_range("searches", 6, &first);
  for (uint64_t seed = first; seed < first + count; seed++) test_searches_of(seed);
}
END_TEST

/* A search for both ends takes the shorter range, also where neither is short: seen by what it examines. */
START_TEST(test_shorter_range) {
  struct world w;
  world_init(&w, 1);
  world_open(&w);
  for (unsigned i = 0; i < 4000; i++) { /* 4,000 begin with /all, of which 800 end with .jpg, and 40 begin with /all/few */
    char path[64];
    int len = snprintf(path, sizeof path, "/all/%s/%05u%s", i % 100 == 0 ? "few" : "many", i, i % 5 == 0 ? ".jpg" : ".txt");
    sdb_put_options o;
    sdb_put_options_init(&o);
    o.durability = SDB_NONE;
    ck_assert_int_eq(sdb_put(w.db, path, (size_t)len, "x", 1, &o, NULL), SDB_OK);
  }
  static const struct {
    const char *prefix, *suffix;
    sdb_order order;
    size_t range, found;
  } cases[] = {{"/all", ".jpg", SDB_ORDER_SUFFIX, 800, 800},     {"/all/few", ".jpg", SDB_ORDER_PATH, 40, 40},
               {"/all", "7.txt", SDB_ORDER_SUFFIX, 400, 400},    {"/all", "00.jpg", SDB_ORDER_SUFFIX, 40, 40},
               {"/all/many", "t", SDB_ORDER_SUFFIX, 3200, 3200}, {"/none", ".jpg", SDB_ORDER_PATH, 0, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sdb_cursor_options o;
    sdb_cursor_options_init(&o);
    o.prefix = cases[i].prefix, o.prefix_len = strlen(cases[i].prefix);
    o.suffix = cases[i].suffix, o.suffix_len = strlen(cases[i].suffix);
    o.budget = 1;
    sdb_cursor *c;
    sdb_entry e;
    int rc;
    size_t examined = 0, found = 0;
    ck_assert_int_eq(sdb_cursor_open(w.db, &o, &c), SDB_OK);
    while ((rc = sdb_cursor_next(c, &e)) != SDB_END) {
      if (rc == SDB_MORE) examined++;
      else found++;
      ck_assert(rc == SDB_OK || rc == SDB_MORE);
    }
    sdb_order order;
    const void *at;
    size_t len;
    sdb_cursor_position(c, &order, &at, &len);
    ck_assert_msg(order == cases[i].order, "case %zu", i);
    ck_assert_uint_eq(examined, cases[i].range);
    ck_assert_uint_eq(found, cases[i].found);
    sdb_cursor_close(c);
  }
  world_clear(&w);
}
END_TEST

START_TEST(test_refused) {
  struct world w;
  world_init(&w, 1);
  world_open(&w);
  sdb_cursor *c;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.prefix = "a", o.prefix_len = SDB_MAX_PATH + 1;
  ck_assert_int_eq(sdb_cursor_open(w.db, &o, &c), SDB_INVALID);
  o.prefix = NULL, o.prefix_len = 1;
  ck_assert_int_eq(sdb_cursor_open(w.db, &o, &c), SDB_INVALID);
  o.prefix = o.suffix = o.after = "a", o.prefix_len = o.suffix_len = o.after_len = 1;
  ck_assert_int_eq(sdb_cursor_open(w.db, &o, &c), SDB_INVALID); /* behind in which order? */
  o.order = SDB_ORDER_PATH;
  ck_assert_int_eq(sdb_cursor_open(w.db, &o, &c), SDB_OK);
  sdb_cursor_close(c);
  o.size--;
  ck_assert_int_eq(sdb_cursor_open(w.db, &o, &c), SDB_INVALID);
  world_clear(&w);
}
END_TEST

/* --- Building and dropping ---------------------------------------------------------------------------------------------------- */

static int suffix_search(struct world *w) {
  sdb_cursor *c;
  struct search s = {.suffix = {1, "a"}};
  sdb_cursor_options o = options_of(&s);
  int rc = sdb_cursor_open(w->db, &o, &c);
  if (rc == SDB_OK) sdb_cursor_close(c);
  return rc;
}

static void compare_both_ways(struct world *w) {
  for (int i = 0; i < 30; i++) random_search(w);
  struct search all = {.order = SDB_ORDER_SUFFIX};
  compare_search(w, &all);
}

static void finish_work(struct world *w) {
  bool more = true;
  while (more) ck_assert_int_eq(sdb_step(w->db, 100, &more), SDB_OK);
}

START_TEST(test_built_later) {
  static struct world w;
  world_init(&w, 7);
  w.options.suffix_index = false;
  world_open(&w);
  work(&w, 500);
  ck_assert_uint_gt(w.there.count, 100);
  ck_assert_int_eq(suffix_search(&w), SDB_INVALID);
  struct search s = {.prefix = {1, "a"}, .suffix = {1, "a"}};
  compare_search(&w, &s); /* by path, without an index */
  world_close(&w);

  w.options.suffix_index = true;
  world_open(&w);
  ck_assert_int_eq(suffix_search(&w), SDB_BUILDING);
  sdb_snapshot *before;
  ck_assert_int_eq(sdb_snapshot_open(w.db, &before), SDB_OK);
  bool more;
  ck_assert_int_eq(sdb_step(w.db, 1, &more), SDB_OK); /* the empty tree */
  ck_assert_int_eq(sdb_step(w.db, 1, &more), SDB_OK); /* the first names */
  ck_assert(more);
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(w.db, &stats), SDB_OK);
  ck_assert(!stats.suffix_ready);
  ck_assert_uint_gt(stats.suffix_names, 0);
  ck_assert_uint_lt(stats.suffix_names, stats.names);
  char message[256], progress[64];
  ck_assert_int_eq(suffix_search(&w), SDB_BUILDING);
  sdb_message(w.db, message, sizeof message);
  snprintf(progress, sizeof progress, "%" PRIu64 " of %" PRIu64, stats.suffix_names, stats.names);
  ck_assert_ptr_nonnull(strstr(message, progress));
  check_clean(w.db);
  finish_work(&w);
  ck_assert_int_eq(suffix_search(&w), SDB_OK);
  ck_assert_int_eq(sdb_get_stats(w.db, &stats), SDB_OK);
  ck_assert(stats.suffix_ready);
  ck_assert_uint_eq(stats.suffix_names, stats.names);
  sdb_cursor *c;
  sdb_cursor_options o = options_of(&(struct search){.suffix = {1, "a"}});
  ck_assert_int_eq(sdb_snapshot_cursor_open(before, &o, &c), SDB_BUILDING); /* that state had no whole index */
  sdb_snapshot_close(before);
  compare_both_ways(&w);
  check_clean(w.db);
  world_close(&w);

  w.options.suffix_index = false; /* dropped, and its space is free */
  world_open(&w);
  ck_assert_int_eq(suffix_search(&w), SDB_OK); /* until it begins */
  sdb_check_report with = {.size = sizeof with}, without = {.size = sizeof without};
  ck_assert_int_eq(sdb_check(w.db, NULL, NULL, &with), SDB_OK);
  finish_work(&w);
  ck_assert_int_eq(suffix_search(&w), SDB_INVALID);
  check_clean(w.db);
  ck_assert_int_eq(sdb_check(w.db, NULL, NULL, &without), SDB_OK);
  ck_assert_uint_lt(without.tree_pages, with.tree_pages);
  world_clear(&w);
}
END_TEST

/* What has been built is not built again after a restart, or a crash behind a checkpoint: it goes on behind the watermark. */
START_TEST(test_goes_on_being_built) {
  enum { MANY = 2000 };
  struct world w;
  world_init(&w, 11);
  w.options.suffix_index = false;
  world_open(&w);
  for (unsigned i = 0; i < MANY; i++) {
    char path[32];
    int len = snprintf(path, sizeof path, "/later/%u", i);
    sdb_put_options o;
    sdb_put_options_init(&o);
    o.durability = SDB_NONE;
    ck_assert_int_eq(sdb_put(w.db, path, (size_t)len, "x", 1, &o, NULL), SDB_OK);
  }
  world_close(&w);
  w.options.suffix_index = true;
  world_open(&w);
  uint64_t built = 0;
  for (unsigned starts = 0; starts < 6; starts++) {
    bool more;
    sdb_stats stats = {.size = sizeof stats};
    for (int i = 0; i < 3; i++) ck_assert_int_eq(sdb_step(w.db, 1, &more), SDB_OK);
    ck_assert_int_eq(sdb_get_stats(w.db, &stats), SDB_OK);
    ck_assert_uint_gt(stats.suffix_names, built); /* each turn brings new ones, also the first of a session */
    built = stats.suffix_names;
    ck_assert_uint_lt(built, MANY);
    ck_assert_int_eq(suffix_search(&w), SDB_BUILDING);
    if (starts % 2 == 0) {
      world_close(&w);
    } else {
      ck_assert_int_eq(sdb_checkpoint(w.db), SDB_OK);
      sim_die_now(w.device);
      (void)sdb_close(w.db);
      sim_crash(w.device, SIM_DROP_ALL, starts);
    }
    world_open(&w);
    ck_assert_int_eq(sdb_get_stats(w.db, &stats), SDB_OK);
    ck_assert_uint_eq(stats.suffix_names, built);
    ck_assert_int_eq(suffix_search(&w), SDB_BUILDING);
    check_clean(w.db);
  }
  finish_work(&w);
  ck_assert_int_eq(suffix_search(&w), SDB_OK);
  check_clean(w.db);
  world_clear(&w);
}
END_TEST

/* The option is turned on and off, work goes on beside, and the process dies anywhere. What is there afterwards is the list before
 * or behind the change that was cut off, every search agrees, and in the end there is an index, or none and no page of it. */
static void crash_while_building(uint64_t seed) {
  static struct world w;
  static struct list other;
  world_init(&w, seed);
  w.options.suffix_index = false;
  world_open(&w);
  work(&w, 400);
  ck_assert_int_eq(sdb_close(w.db), SDB_OK);
  for (int round = 0; round < 8; round++) {
    w.options.suffix_index = below(&w, 3) != 0;
    sim_die_at(w.device, 1 + below(&w, 120));
    int rc = sdb_open(NAME, &w.options, &w.db);
    bool doubt = false;
    if (rc != SDB_OK) w.db = NULL;
    for (int i = 0; rc == SDB_OK && i < 40; i++) {
      bool put = false, more;
      struct text t;
      if (below(&w, 3) == 0) rc = sdb_step(w.db, (unsigned)(1 + below(&w, 60)), &more);
      else if (below(&w, 12) == 0) rc = sdb_checkpoint(w.db);
      else {
        rc = change(&w, &put, &t, SDB_DURABLE);
        if (rc != SDB_OK) {
          doubt = true;
          other = w.there;
          change_list(&other, put, &t);
        } else {
          change_list(&w.there, put, &t);
        }
      }
    }
    ck_assert_msg(rc == SDB_OK || sim_dead(w.device), "round %d: %d", round, rc);
    if (w.db) (void)sdb_close(w.db);
    sim_die_at(w.device, 0);
    sim_crash(w.device, SIM_RANDOM_SUBSET, seed * 100 + (uint64_t)round);
    world_open(&w);
    sdb_stats stats = {.size = sizeof stats};
    ck_assert_int_eq(sdb_get_stats(w.db, &stats), SDB_OK);
    if (doubt && stats.documents == other.count) w.there = other;
    ck_assert_uint_eq(stats.documents, w.there.count);
    check_clean(w.db);
    if (below(&w, 2)) finish_work(&w);
    if (below(&w, 2) && suffix_search(&w) == SDB_OK) compare_both_ways(&w);
    world_close(&w);
  }
  world_open(&w);
  finish_work(&w);
  check_clean(w.db);
  if (w.options.suffix_index) compare_both_ways(&w);
  else ck_assert_int_eq(suffix_search(&w), SDB_INVALID);
  world_clear(&w);
}

START_TEST(test_crashes) {
  uint64_t first, count = seed_range("crashes while the suffix index is built", 25, &first);
  for (uint64_t seed = first; seed < first + count; seed++) crash_while_building(seed);
}
END_TEST

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

static bool holds(const uint8_t *page, const char *text) { return memmem(page + 80, 4096 - 80, text, strlen(text)) != NULL; }

/* Breaks the leaves of the suffix tree that hold only reversed paths which begin with `mark`. */
static unsigned break_pages(struct world *w, const char *mark) {
  uint64_t size;
  uint8_t page[4096];
  unsigned broken = 0;
  ck_assert(sim_size(w->device, NAME, &size));
  for (uint64_t at = 0; at + sizeof page <= size; at += sizeof page) {
    ck_assert(sim_peek(w->device, NAME, at, page, sizeof page));
    if (page[4] != 2 || page[64] != 0 || !holds(page, "egamad") || !holds(page, mark) || holds(page, "aaa.") || holds(page, "ccc."))
      continue;
    page[2000] ^= 1;
    ck_assert(sim_poke(w->device, NAME, at, page, sizeof page));
    broken++;
  }
  return broken;
}

static int count_paths(sdb *db, const char *prefix, const char *suffix, unsigned *count) {
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.prefix = prefix, o.prefix_len = strlen(prefix);
  o.suffix = suffix, o.suffix_len = strlen(suffix);
  sdb_cursor *c;
  sdb_entry e;
  int rc = sdb_cursor_open(db, &o, &c);
  *count = 0;
  if (rc != SDB_OK) return rc;
  while ((rc = sdb_cursor_next(c, &e)) == SDB_OK) ++*count;
  sdb_cursor_close(c);
  return rc == SDB_END ? SDB_OK : rc;
}

START_TEST(test_damage) {
  struct world w;
  world_init(&w, 3);
  world_open(&w);
  for (unsigned i = 0; i < 1500; i++) { /* suffixes .aaa, .bbb, .ccc, each over several leaves */
    char path[64];
    int len = snprintf(path, sizeof path, "/damage/%u/%04u.%c%c%c", i % 7, i, 'a' + i % 3, 'a' + i % 3, 'a' + i % 3);
    sdb_put_options o;
    sdb_put_options_init(&o);
    o.durability = SDB_NONE;
    ck_assert_int_eq(sdb_put(w.db, path, (size_t)len, "x", 1, &o, NULL), SDB_OK);
  }
  world_close(&w);
  ck_assert_uint_gt(break_pages(&w, "bbb."), 0);
  world_open(&w);
  unsigned count;
  ck_assert_int_eq(count_paths(w.db, "", ".bbb", &count), SDB_CORRUPT);
  ck_assert_int_eq(count_paths(w.db, "", ".ccc", &count), SDB_OK); /* another range */
  ck_assert_uint_eq(count, 500);
  ck_assert_int_eq(count_paths(w.db, "/damage/", "", &count), SDB_OK);
  ck_assert_uint_eq(count, 1500);
  ck_assert_int_eq(count_paths(w.db, "/damage/3/", ".bbb", &count), SDB_OK); /* the whole range by suffix is not readable */
  ck_assert_uint_eq(count, 71);
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(w.db, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_gt(report.problems, 0);
  /* A commit that meets the damage is not refused: the index is made again. */
  for (unsigned i = 0; i < 200; i++) {
    char path[64];
    int len = snprintf(path, sizeof path, "/new/%u.bbb", i * 37);
    ck_assert_int_eq(sdb_put(w.db, path, (size_t)len, "x", 1, NULL, NULL), SDB_OK);
  }
  finish_work(&w);
  ck_assert_int_eq(count_paths(w.db, "", ".bbb", &count), SDB_OK);
  ck_assert_uint_eq(count, 700);
  check_clean(w.db);
  world_clear(&w);
}
END_TEST

/* --- Faults ------------------------------------------------------------------------------------------------------------------- */

/* Every allocation, read, write and sync of building and dropping fails once: nothing is lost, and a later try succeeds. */
static void sweep(enum sim_kind kind, bool build) {
  static struct world w;
  world_init(&w, 11);
  w.options.suffix_index = !build;
  world_open(&w);
  work(&w, 300);
  world_close(&w);
  for (uint64_t nth = 1;; nth += 1 + nth / 8) {
    w.options.suffix_index = build;
    sim *device = sim_clone(w.device, nth);
    struct world copy = w;
    copy.device = device;
    copy.options.storage = sim_storage(device);
    world_open(&copy);
    sim_fail(device, kind, nth, false, SDB_IO);
    bool more = true;
    int rc = SDB_OK;
    while (more && rc == SDB_OK) rc = sdb_step(copy.db, 100, &more);
    bool struck = sim_failed(device);
    sim_fail_nothing(device);
    (void)sdb_close(copy.db);
    world_open(&copy);
    finish_work(&copy);
    check_clean(copy.db);
    ck_assert_int_eq(suffix_search(&copy), build ? SDB_OK : SDB_INVALID);
    world_clear(&copy);
    if (!struck) break;
  }
  world_clear(&w);
}

START_TEST(test_faults) {
  static const enum sim_kind kinds[] = {SIM_ALLOC, SIM_READ, SIM_WRITE, SIM_SYNC, SIM_SIZE};
  sweep(kinds[_i / 2], _i % 2);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("search");
  TCase *tests = tcase_create("search");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, test_searches);
  tcase_add_test(tests, test_shorter_range);
  tcase_add_test(tests, test_refused);
  tcase_add_test(tests, test_built_later);
  tcase_add_test(tests, test_goes_on_being_built);
  tcase_add_test(tests, test_crashes);
  tcase_add_test(tests, test_damage);
  tcase_add_loop_test(tests, test_faults, 0, 10);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
