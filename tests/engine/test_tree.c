/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_tree.c - the tree on the mock pager, against a sorted array that is too simple to be wrong.
 *
 * SDB_SEED=n repeats a run. SDB_TREE_KEYS=n sets how many keys the measurements take (1,000,000; fewer under a sanitizer).
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../lib/mock_pager.h"
#include "tree.h"

#if defined(__SANITIZE_ADDRESS__)
#define SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW 1
#endif
#endif
#ifndef SLOW
#define SLOW 0
#endif

static const uint32_t page_sizes[] = {4096, 8192, 16384, 32768, 65536};
#define PAGE_SIZES ((int)(sizeof page_sizes / sizeof *page_sizes))

/* --- Random numbers ----------------------------------------------------------------------------------------------------------- */

static uint64_t seed, state;

static uint64_t rnd(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static uint32_t below(uint32_t limit) { return (uint32_t)(rnd() % limit); }
static uint64_t random_value(void) { return 1 + rnd() % (UINT64_C(1) << (1 + below(40))) % ((UINT64_C(1) << 40) - 1); }
static void start(void) { state = seed; }

/* --- The model ---------------------------------------------------------------------------------------------------------------- */

struct entry {
  uint64_t value;
  size_t len;
  uint8_t *key;
};

struct model {
  struct entry *entries;
  size_t count, room;
};

static int compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
  int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
  return order ? order : (a_len > b_len) - (a_len < b_len);
}

static size_t model_find(const struct model *model, const uint8_t *key, size_t len, bool *found) {
  size_t low = 0, high = model->count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (compare(model->entries[middle].key, model->entries[middle].len, key, len) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  *found = low < model->count && compare(model->entries[low].key, model->entries[low].len, key, len) == 0;
  return low;
}

static void model_put(struct model *model, const uint8_t *key, size_t len, uint64_t value) {
  bool found;
  size_t at = model_find(model, key, len, &found);
  if (!found) {
    if (model->count == model->room) {
      model->room = model->room * 2 + 64;
      model->entries = realloc(model->entries, model->room * sizeof *model->entries);
      ck_assert_ptr_nonnull(model->entries);
    }
    memmove(model->entries + at + 1, model->entries + at, (model->count - at) * sizeof *model->entries);
    model->count++;
    model->entries[at].key = malloc(len);
    ck_assert_ptr_nonnull(model->entries[at].key);
    memcpy(model->entries[at].key, key, len);
    model->entries[at].len = len;
  }
  model->entries[at].value = value;
}

static void model_remove(struct model *model, const uint8_t *key, size_t len) {
  bool found;
  size_t at = model_find(model, key, len, &found);
  if (!found) return;
  free(model->entries[at].key);
  model->count--;
  memmove(model->entries + at, model->entries + at + 1, (model->count - at) * sizeof *model->entries);
}

static void model_free(struct model *model) {
  for (size_t i = 0; i < model->count; i++) free(model->entries[i].key);
  free(model->entries);
  *model = (struct model){0};
}

static struct model model_copy(const struct model *model) {
  struct model copy = {0};
  for (size_t i = 0; i < model->count; i++) model_put(&copy, model->entries[i].key, model->entries[i].len, model->entries[i].value);
  return copy;
}

/* --- Comparing ---------------------------------------------------------------------------------------------------------------- */

struct walk {
  const struct model *model;
  size_t at;
  uint32_t pages;
  bool *seen;
  uint32_t limit;
};

static int walk_page(void *user, uint32_t number) {
  struct walk *walk = user;
  ck_assert_uint_lt(number, walk->limit);
  ck_assert_msg(!walk->seen[number], "page %u is reached twice", (unsigned)number);
  walk->seen[number] = true;
  walk->pages++;
  return SDB_OK;
}

static int walk_entry(void *user, const uint8_t *key, size_t len, uint64_t value) {
  struct walk *walk = user;
  ck_assert_uint_lt(walk->at, walk->model->count);
  const struct entry *entry = &walk->model->entries[walk->at++];
  ck_assert_int_eq(compare(key, len, entry->key, entry->len), 0);
  ck_assert_uint_eq(value, entry->value);
  return SDB_OK;
}

static void walk_problem(void *user, const char *sentence) {
  (void)user;
  fprintf(stderr, "tree_check: %s\n", sentence);
}

/* The tree in that view is sound and holds just what the model does. Answers its pages. */
static uint32_t compare_check(struct pager *pager, uint64_t view, uint32_t root, const struct model *model) {
  struct walk walk = {.model = model, .limit = mock_limit(pager)};
  walk.seen = calloc(walk.limit, sizeof *walk.seen);
  ck_assert_ptr_nonnull(walk.seen);
  tree_visitor visitor = {&walk, walk_page, walk_entry, walk_problem};
  ck_assert_int_eq(tree_check(pager, view, root, &visitor), SDB_OK);
  ck_assert_uint_eq(walk.at, model->count);
  if (view == VIEW_HEAD) ck_assert_uint_eq(walk.pages, mock_pages(pager)); /* nothing is lost either */
  free(walk.seen);
  return walk.pages;
}

static void compare_cursor(struct pager *pager, uint64_t view, uint32_t root, const struct model *model) {
  tree_cursor cursor;
  uint64_t value;
  tree_cursor_init(&cursor, pager, view, root, NULL, 0, false);
  for (size_t i = 0; i < model->count; i++) {
    ck_assert_int_eq(tree_cursor_next(&cursor, &value), SDB_OK);
    ck_assert_int_eq(compare(cursor.key, cursor.key_len, model->entries[i].key, model->entries[i].len), 0);
    ck_assert_uint_eq(value, model->entries[i].value);
    if (below(50) == 0) tree_cursor_pause(&cursor);
  }
  ck_assert_int_eq(tree_cursor_next(&cursor, &value), SDB_END);
  ck_assert_int_eq(tree_cursor_next(&cursor, &value), SDB_END);
}

static void compare_get(struct pager *pager, uint64_t view, uint32_t root, const struct model *model, const uint8_t *key, size_t len) {
  bool found;
  uint64_t value = 77;
  size_t at = model_find(model, key, len, &found);
  ck_assert_int_eq(tree_get(pager, view, root, key, len, &value), found ? SDB_OK : SDB_NOT_FOUND);
  ck_assert_uint_eq(value, found ? model->entries[at].value : 77);
}

static void compare_seek(struct pager *pager, uint64_t view, uint32_t root, const struct model *model, const uint8_t *key, size_t len,
                         bool after) {
  bool found;
  tree_cursor cursor;
  uint64_t value;
  size_t at = model_find(model, key, len, &found);
  if (found && after) at++;
  tree_cursor_init(&cursor, pager, view, root, key, len, after);
  for (uint32_t i = below(20) + 1; i > 0; i--, at++) {
    int rc = tree_cursor_next(&cursor, &value);
    if (at >= model->count) {
      ck_assert_int_eq(rc, SDB_END);
      return;
    }
    ck_assert_int_eq(rc, SDB_OK);
    ck_assert_int_eq(compare(cursor.key, cursor.key_len, model->entries[at].key, model->entries[at].len), 0);
    ck_assert_uint_eq(value, model->entries[at].value);
  }
}

/* --- Keys --------------------------------------------------------------------------------------------------------------------- */

typedef size_t key_maker(uint8_t *key);

static size_t key_path(uint8_t *key) {
  uint32_t i = below(100000);
  return (size_t)sprintf((char *)key, "/state/node%04u/sensor/%08u/metric", (unsigned)(i % 1000), (unsigned)i);
}

static size_t key_uuid(uint8_t *key) {
  uint64_t a = rnd(), b = rnd();
  return (size_t)sprintf((char *)key, "/messages/sent/%08x-%04x-4%03x-%04x-%012" PRIx64, (unsigned)(a >> 32), (unsigned)(a >> 16 & 0xffff),
                         (unsigned)(a & 0xfff), (unsigned)(b >> 48 & 0x3fff) | 0x8000u, b & 0xffffffffffff);
}

/* Few different bytes, zeros and 0xFF among them, so that prefixes of each other abound. */
static size_t key_small(uint8_t *key) {
  static const uint8_t bytes[] = {0, 0, 1, 'a', 0xFE, 0xFF};
  size_t len = 1 + below(12);
  for (size_t i = 0; i < len; i++) key[i] = bytes[below(sizeof bytes)];
  return len;
}

static size_t key_any(uint8_t *key) {
  size_t len = 1 + below(below(20) == 0 ? TREE_MAX_KEY : 40);
  for (size_t i = 0; i < len; i++) key[i] = (uint8_t)rnd();
  return len;
}

/* 1,024 bytes, all but the last the same; or cut somewhere. */
static size_t key_long(uint8_t *key) {
  memset(key, 'x', TREE_MAX_KEY);
  key[TREE_MAX_KEY - 1] = (uint8_t)rnd();
  return below(3) == 0 ? TREE_MAX_KEY - below(300) : TREE_MAX_KEY;
}

/* a^n b */
static size_t key_comb(uint8_t *key) {
  size_t len = 1 + below(TREE_MAX_KEY);
  memset(key, 'a', len);
  key[len - 1] = (uint8_t)('b' + below(3));
  return len;
}

/* Long and different from the first bytes on: the fewest entries a page. */
static size_t key_fat(uint8_t *key) {
  size_t len = TREE_MAX_KEY - below(24);
  for (size_t i = 0; i < len; i++) key[i] = i < 8 ? (uint8_t)below(4) : (uint8_t)rnd();
  return len;
}

/* Shares a long way with others, then differs, then is long again: long separators. */
static size_t key_deep(uint8_t *key) {
  size_t shared = 500 + below(8) * 60;
  memset(key, 'p', TREE_MAX_KEY);
  for (size_t i = shared; i < shared + 3; i++) key[i] = (uint8_t)below(256);
  return shared + 3 + below((uint32_t)(TREE_MAX_KEY - shared - 2));
}

static key_maker *const makers[] = {key_path, key_uuid, key_small, key_any, key_long, key_comb, key_fat, key_deep};
#define MAKERS ((int)(sizeof makers / sizeof *makers))

/* A key of the model, or a new one, or one beside a key of the model. */
static size_t some_key(const struct model *model, key_maker *make, uint8_t *key) {
  if (model->count == 0 || below(2) == 0) return make(key);
  const struct entry *entry = &model->entries[below((uint32_t)model->count)];
  size_t len = entry->len;
  memcpy(key, entry->key, len);
  switch (below(6)) {
    case 0:
      if (len > 1) len--;
      break;
    case 1:
      if (len < TREE_MAX_KEY) key[len++] = below(2) ? 0 : 0xFF;
      break;
    case 2: key[len - 1]++; break;
    default: break;
  }
  return len;
}

/* --- Against the model -------------------------------------------------------------------------------------------------------- */

struct fixture {
  struct pager *pager;
  uint32_t root;
  struct model model;
};

static void set_up(struct fixture *f, uint32_t page_size) {
  *f = (struct fixture){.pager = mock_open(page_size)};
  mock_lock(f->pager);
  ck_assert_int_eq(tree_create(f->pager, &f->root), SDB_OK);
}

static void tear_down(struct fixture *f) {
  mock_verify(f->pager);
  model_free(&f->model);
  mock_close(f->pager);
}

static void put(struct fixture *f, const uint8_t *key, size_t len, uint64_t value) {
  mock_begin(f->pager);
  ck_assert_int_eq(tree_put(f->pager, f->root, key, len, value), SDB_OK);
  mock_end(f->pager);
  model_put(&f->model, key, len, value);
}

static void take(struct fixture *f, const uint8_t *key, size_t len) {
  bool found;
  model_find(&f->model, key, len, &found);
  mock_begin(f->pager);
  ck_assert_int_eq(tree_remove(f->pager, f->root, key, len), found ? SDB_OK : SDB_NOT_FOUND);
  mock_end(f->pager);
  model_remove(&f->model, key, len);
}

static void compare_all(struct fixture *f, uint64_t view) {
  compare_check(f->pager, view, f->root, &f->model);
  compare_cursor(f->pager, view, f->root, &f->model);
}

START_TEST(random_operations) {
  uint32_t size = page_sizes[_i / MAKERS];
  key_maker *make = makers[_i % MAKERS];
  uint32_t rounds = SLOW ? 1500 : 6000;
  struct fixture f;
  uint8_t key[TREE_MAX_KEY];
  start();
  set_up(&f, size);
  for (uint32_t i = 0; i < rounds; i++) {
    size_t len = some_key(&f.model, make, key);
    bool shrinking = i / 1000 % 3 == 2;
    if (below(10) < (shrinking ? 3 : 7)) {
      put(&f, key, len, random_value());
    } else {
      take(&f, key, len);
      if (below(2)) tree_tidy(f.pager, f.root, key, len);
    }
    compare_get(f.pager, VIEW_HEAD, f.root, &f.model, key, len);
    len = some_key(&f.model, make, key);
    compare_get(f.pager, VIEW_HEAD, f.root, &f.model, key, len);
    compare_seek(f.pager, VIEW_HEAD, f.root, &f.model, key, len, below(2));
    if (i % 500 == 499) {
      compare_all(&f, VIEW_HEAD);
      mock_publish(f.pager);
      mock_lock(f.pager);
    }
  }
  while (f.model.count > 0) {
    const struct entry *entry = &f.model.entries[below((uint32_t)f.model.count)];
    size_t len = entry->len;
    memcpy(key, entry->key, len);
    take(&f, key, len);
    tree_tidy(f.pager, f.root, key, len);
    if (f.model.count % 500 == 0) compare_all(&f, VIEW_HEAD);
  }
  tear_down(&f);
}
END_TEST

START_TEST(one_byte_keys) {
  struct fixture f;
  start();
  set_up(&f, 4096);
  for (uint32_t i = 0; i < 256; i++) {
    uint8_t key = (uint8_t)(i * 167);
    put(&f, &key, 1, i + 1);
  }
  compare_all(&f, VIEW_HEAD);
  for (uint32_t i = 0; i < 256; i += 2) {
    uint8_t key = (uint8_t)i;
    take(&f, &key, 1);
  }
  compare_all(&f, VIEW_HEAD);
  tear_down(&f);
}
END_TEST

START_TEST(arguments) {
  struct fixture f;
  uint8_t key[TREE_MAX_KEY + 1] = {0};
  uint64_t value = 5;
  set_up(&f, 4096);
  ck_assert_int_eq(tree_put(f.pager, f.root, key, 0, 1), SDB_INVALID);
  ck_assert_int_eq(tree_put(f.pager, f.root, key, TREE_MAX_KEY + 1, 1), SDB_INVALID);
  ck_assert_int_eq(tree_put(f.pager, f.root, key, 1, 0), SDB_INVALID);
  ck_assert_int_eq(tree_put(f.pager, f.root, key, 1, UINT64_C(1) << 40), SDB_INVALID);
  ck_assert_int_eq(tree_get(f.pager, VIEW_HEAD, f.root, key, 0, &value), SDB_INVALID);
  ck_assert_int_eq(tree_get(f.pager, VIEW_HEAD, f.root, key, TREE_MAX_KEY + 1, &value), SDB_INVALID);
  ck_assert_int_eq(tree_remove(f.pager, f.root, key, 0), SDB_INVALID);
  ck_assert_int_eq(tree_remove(f.pager, f.root, key, TREE_MAX_KEY + 1), SDB_INVALID);
  ck_assert_uint_eq(value, 5);
  for (uint32_t i = 0; i < 40; i++) { /* every length of a value */
    key[0] = (uint8_t)i;
    put(&f, key, 1, UINT64_C(1) << i);
    put(&f, key, 2, (UINT64_C(2) << i) - 1);
  }
  compare_all(&f, VIEW_HEAD);
  tear_down(&f);
}
END_TEST

START_TEST(old_views) {
  enum { VIEWS = 12 };
  struct fixture f;
  struct model models[VIEWS];
  uint64_t views[VIEWS];
  uint8_t key[TREE_MAX_KEY];
  start();
  set_up(&f, 4096);
  for (int v = 0; v < VIEWS; v++) {
    for (int i = 0; i < 400; i++) {
      size_t len = some_key(&f.model, v % 2 ? key_path : key_small, key);
      if (below(3)) {
        put(&f, key, len, random_value());
      } else {
        take(&f, key, len);
        tree_tidy(f.pager, f.root, key, len);
      }
    }
    views[v] = mock_publish(f.pager);
    models[v] = model_copy(&f.model);
    mock_lock(f.pager);
  }
  for (int v = 0; v < VIEWS; v++) {
    compare_check(f.pager, views[v], f.root, &models[v]);
    compare_cursor(f.pager, views[v], f.root, &models[v]);
    for (int i = 0; i < 500; i++) {
      size_t len = some_key(&models[v], key_path, key);
      compare_get(f.pager, views[v], f.root, &models[v], key, len);
      compare_seek(f.pager, views[v], f.root, &models[v], key, len, below(2));
    }
    model_free(&models[v]);
  }
  tear_down(&f);
}
END_TEST

/* A cursor that is paused goes on behind its last key whatever the writer did meanwhile. */
START_TEST(cursor_while_writing) {
  struct fixture f;
  tree_cursor cursor;
  uint8_t key[TREE_MAX_KEY], last[TREE_MAX_KEY];
  size_t last_len = 0;
  uint64_t value;
  start();
  set_up(&f, 4096);
  for (int i = 0; i < 3000; i++) put(&f, key, key_path(key), random_value());
  tree_cursor_init(&cursor, f.pager, VIEW_HEAD, f.root, NULL, 0, false);
  for (;;) {
    bool found;
    size_t at = model_find(&f.model, last, last_len, &found);
    if (found) at++;
    int rc = tree_cursor_next(&cursor, &value);
    if (at == f.model.count) {
      ck_assert_int_eq(rc, SDB_END);
      break;
    }
    ck_assert_int_eq(rc, SDB_OK);
    ck_assert_int_eq(compare(cursor.key, cursor.key_len, f.model.entries[at].key, f.model.entries[at].len), 0);
    memcpy(last, cursor.key, cursor.key_len);
    last_len = cursor.key_len;
    for (uint32_t i = below(3); i > 0; i--) {
      size_t len = some_key(&f.model, key_path, key);
      if (below(2)) {
        take(&f, key, len);
        tree_tidy(f.pager, f.root, key, len);
      } else {
        put(&f, key, len, random_value());
      }
    }
    tree_cursor_pause(&cursor);
  }
  tear_down(&f);
}
END_TEST

/* --- Faults ------------------------------------------------------------------------------------------------------------------- */

/* One operation with each of its calls failing in turn, until none is met. */
static void sweep(struct fixture *f, bool putting, const uint8_t *key, size_t len, bool for_good) {
  uint64_t value = random_value();
  for (uint64_t nth = 1;; nth++) {
    bool found;
    model_find(&f->model, key, len, &found);
    mock_fail(f->pager, MOCK_ALL, nth, for_good, below(2) ? SDB_IO : SDB_FULL);
    mock_begin(f->pager);
    int rc = putting ? tree_put(f->pager, f->root, key, len, value) : tree_remove(f->pager, f->root, key, len);
    mock_end(f->pager);
    bool failed = mock_failed(f->pager);
    mock_fail(f->pager, 0, 0, false, 0);
    if (rc == SDB_OK) {
      if (putting)
        model_put(&f->model, key, len, value);
      else
        model_remove(&f->model, key, len);
    } else if (!failed) {
      ck_assert(!putting && !found);
      ck_assert_int_eq(rc, SDB_NOT_FOUND);
    } else {
      ck_assert(rc == SDB_IO || rc == SDB_FULL);
    }
    compare_check(f->pager, VIEW_HEAD, f->root, &f->model);
    compare_get(f->pager, VIEW_HEAD, f->root, &f->model, key, len);
    if (!failed || rc == SDB_OK) return;
  }
}

START_TEST(faults) {
  static key_maker *const kinds[] = {key_path, key_long, key_fat, key_deep};
  struct fixture f;
  uint8_t key[TREE_MAX_KEY];
  key_maker *make = kinds[_i / 2];
  uint32_t warm = make == key_path ? 1500 : 150;
  start();
  set_up(&f, 4096);
  for (uint32_t i = 0; i < warm; i++) put(&f, key, make(key), random_value());
  for (int i = 0; i < (SLOW ? 150 : 400); i++) {
    mock_publish(f.pager);
    mock_lock(f.pager);
    size_t len = some_key(&f.model, make, key);
    bool putting = below(4) > 0;
    sweep(&f, putting, key, len, _i % 2);
    if (!putting) { /* tidying may stop anywhere */
      mock_fail(f.pager, MOCK_ALL, 1 + below(12), _i % 2, SDB_IO);
      tree_tidy(f.pager, f.root, key, len);
      mock_fail(f.pager, 0, 0, false, 0);
      compare_check(f.pager, VIEW_HEAD, f.root, &f.model);
    }
  }
  tear_down(&f);
}
END_TEST

START_TEST(creation_faults) {
  for (uint64_t nth = 1; nth <= 2; nth++) {
    struct pager *pager = mock_open(8192);
    uint32_t root;
    mock_lock(pager);
    mock_fail(pager, MOCK_NEW, nth, false, SDB_FULL);
    ck_assert_int_eq(tree_create(pager, &root), SDB_FULL);
    ck_assert_uint_eq(mock_pages(pager), 0);
    mock_close(pager);
  }
}
END_TEST

/* A batch is undone backwards although no page can be had any more: neither new nor for writing. */
START_TEST(undo_never_fails) {
  enum { STEPS = 40 };
  struct step {
    uint8_t key[TREE_MAX_KEY];
    size_t len;
    uint64_t before, after; /* 0: not there */
  };
  struct fixture f;
  struct step *steps = calloc(STEPS, sizeof *steps);
  key_maker *make = makers[_i];
  ck_assert_ptr_nonnull(steps);
  start();
  set_up(&f, 4096);
  for (uint32_t i = 0; i < 400; i++) put(&f, steps->key, make(steps->key), random_value());
  for (int round = 0; round < (SLOW ? 40 : 150); round++) {
    mock_publish(f.pager);
    mock_lock(f.pager);
    struct model before = model_copy(&f.model);
    size_t near = below((uint32_t)f.model.count);
    for (int i = 0; i < STEPS; i++) {
      struct step *step = &steps[i];
      const struct entry *entry = &f.model.entries[(near + below(8)) % f.model.count];
      step->len = entry->len;
      memcpy(step->key, entry->key, step->len);
      if (below(3) == 0 && step->len > 0) step->key[step->len - 1 - below((uint32_t)(step->len > 6 ? 6 : step->len))]++;
      if (below(3) == 0) step->len = make(step->key);
      uint64_t value = 0;
      tree_get(f.pager, VIEW_HEAD, f.root, step->key, step->len, &value);
      step->before = value;
      step->after = value == 0 || below(3) == 0 ? random_value() : 0;
      if (step->after)
        put(&f, step->key, step->len, step->after);
      else
        take(&f, step->key, step->len);
      if (f.model.count < 20) break;
    }
    mock_fail(f.pager, MOCK_WRITE | MOCK_NEW, 1, true, SDB_FULL);
    for (int i = STEPS - 1; i >= 0; i--) {
      if (steps[i].len == 0) continue;
      if (steps[i].before)
        put(&f, steps[i].key, steps[i].len, steps[i].before);
      else
        take(&f, steps[i].key, steps[i].len);
      steps[i].len = 0;
    }
    mock_fail(f.pager, 0, 0, false, 0);
    compare_check(f.pager, VIEW_HEAD, f.root, &before);
    model_free(&before);
  }
  free(steps);
  tear_down(&f);
}
END_TEST

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

static int count_entry(void *user, const uint8_t *key, size_t len, uint64_t value) {
  (void)key, (void)len, (void)value;
  ++*(uint32_t *)user;
  return SDB_OK;
}

static void acceptable(int rc) {
  ck_assert_msg(rc == SDB_OK || rc == SDB_NOT_FOUND || rc == SDB_END || rc == SDB_CORRUPT || rc == SDB_FULL, "code %d", rc);
}

/* Everything is called; whatever it answers, it must end and stay within the pages. */
static void call_all(struct fixture *f, key_maker *make) {
  uint8_t key[TREE_MAX_KEY];
  uint64_t value;
  tree_cursor cursor;
  uint32_t entries = 0;
  tree_visitor visitor = {&entries, NULL, count_entry, NULL};
  acceptable(tree_check(f->pager, VIEW_HEAD, f->root, &visitor));
  for (int i = 0; i < 10; i++) {
    size_t len = some_key(&f->model, make, key);
    acceptable(tree_get(f->pager, VIEW_HEAD, f->root, key, len, &value));
    tree_cursor_init(&cursor, f->pager, VIEW_HEAD, f->root, key, i == 0 ? 0 : len, false);
    int rc = SDB_OK;
    for (uint32_t n = 0; rc == SDB_OK; n++) {
      uint8_t last[TREE_MAX_KEY];
      size_t last_len = n > 0 ? cursor.key_len : 0;
      memcpy(last, cursor.key, last_len);
      rc = tree_cursor_next(&cursor, &value);
      if (rc == SDB_OK) ck_assert_int_gt(compare(cursor.key, cursor.key_len, last, last_len), 0);
      if (i > 0 && n > 30) break;
    }
    acceptable(rc);
    len = some_key(&f->model, make, key);
    acceptable(tree_remove(f->pager, f->root, key, len));
    tree_tidy(f->pager, f->root, key, len);
    len = some_key(&f->model, make, key);
    acceptable(tree_put(f->pager, f->root, key, len, random_value()));
  }
}

/* Mostly in the first part, where the fields are. Kind and number are the pager's. */
static void damage(struct fixture *f) {
  uint32_t size = page_size(f->pager);
  uint8_t *page = NULL, *other = NULL;
  while (!page) page = mock_bytes(f->pager, 1 + below(mock_limit(f->pager) - 1));
  while (!other) other = mock_bytes(f->pager, 1 + below(mock_limit(f->pager) - 1));
  switch (below(8)) {
    case 0: /* all of it */
      for (uint32_t i = PAGE_HEADER + below(size - PAGE_HEADER); i < size; i++) page[i] = (uint8_t)rnd();
      break;
    case 1: page_set_fill(page, below(4) ? below(size + 300) : (uint32_t)rnd()); break;
    case 2: memcpy(page + PAGE_HEADER, other + PAGE_HEADER, size - PAGE_HEADER); break;
    case 3: page[4] = (uint8_t)below(7); break;
    default:
      for (uint32_t i = 1 + below(3); i > 0; i--) {
        uint32_t fill = page_fill(page) <= size && page_fill(page) > PAGE_HEADER ? page_fill(page) : size;
        uint32_t at = PAGE_HEADER + below(below(2) ? 48 : fill - PAGE_HEADER);
        page[at] = below(2) ? (uint8_t)rnd() : (uint8_t)(page[at] ^ 1u << below(8));
      }
  }
}

START_TEST(hostile_pages) {
  key_maker *make = makers[_i % MAKERS];
  start();
  for (int round = 0; round < (SLOW ? 60 : 200); round++) {
    struct fixture f;
    uint8_t key[TREE_MAX_KEY];
    state = seed + (uint64_t)round;
    set_up(&f, below(4) ? 4096 : 8192);
    uint32_t keys = 1 + below(make == key_path || make == key_uuid || make == key_small ? 1000 : 60);
    for (uint32_t i = 0; i < keys; i++) put(&f, key, make(key), random_value());
    for (int i = 0; i < 8; i++) {
      damage(&f);
      call_all(&f, make);
    }
    model_free(&f.model);
    mock_close(f.pager);
  }
}
END_TEST

/* A root that is its own child, pages of the wrong level, children that are not there. */
START_TEST(wrong_children) {
  struct fixture f;
  uint8_t key[TREE_MAX_KEY];
  uint64_t value;
  tree_cursor cursor;
  tree_visitor nothing = {0};
  start();
  set_up(&f, 4096);
  for (int i = 0; i < 3000; i++) put(&f, key, key_path(key), random_value());
  size_t len = (size_t)sprintf((char *)key, "/"); /* before all: leads to the leftmost child */
  uint8_t *root = mock_bytes(f.pager, f.root);
  uint32_t leftmost = get32(root + 76);
  const uint32_t wrong[] = {f.root, 0, mock_limit(f.pager) + 5, UINT32_MAX};
  for (int i = 0; i < 4; i++) {
    put32(root + 76, wrong[i]);
    ck_assert_int_eq(tree_get(f.pager, VIEW_HEAD, f.root, key, len, &value), SDB_CORRUPT);
    ck_assert_int_eq(tree_put(f.pager, f.root, key, len, 1), SDB_CORRUPT);
    ck_assert_int_eq(tree_remove(f.pager, f.root, key, len), SDB_CORRUPT);
    tree_cursor_init(&cursor, f.pager, VIEW_HEAD, f.root, NULL, 0, false);
    ck_assert_int_eq(tree_cursor_next(&cursor, &value), SDB_CORRUPT);
    ck_assert_int_eq(tree_check(f.pager, VIEW_HEAD, f.root, &nothing), SDB_CORRUPT);
  }
  put32(root + 76, leftmost);
  compare_all(&f, VIEW_HEAD);
  ck_assert_int_eq(tree_get(f.pager, VIEW_HEAD, leftmost, key, len, &value), root[64] > 1 ? SDB_NOT_FOUND : SDB_CORRUPT);
  ck_assert_int_eq(tree_get(f.pager, VIEW_HEAD, 0, key, len, &value), SDB_CORRUPT);
  tear_down(&f);
}
END_TEST

static int stop_at_third(void *user, uint32_t number) {
  (void)number;
  return ++*(int *)user == 3 ? SDB_END : SDB_OK;
}

START_TEST(visitor_stops) {
  struct fixture f;
  uint8_t key[TREE_MAX_KEY];
  int pages = 0;
  tree_visitor visitor = {.user = &pages, .page = stop_at_third};
  start();
  set_up(&f, 4096);
  for (int i = 0; i < 2000; i++) put(&f, key, key_path(key), random_value());
  ck_assert_int_eq(tree_check(f.pager, VIEW_HEAD, f.root, &visitor), SDB_END);
  ck_assert_int_eq(pages, 3);
  tear_down(&f);
}
END_TEST

/* --- Space and time ----------------------------------------------------------------------------------------------------------- */

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static uint32_t key_count(void) {
  const char *text = getenv("SDB_TREE_KEYS");
  return text ? (uint32_t)strtoul(text, NULL, 10) : SLOW ? 50000 : 1000000;
}

enum order { SHUFFLED, RISING, FALLING };
enum shape { PATHS, REVERSED_PATHS, UUIDS, COUNTERS };

/* 0 to count - 1 in that order. */
static uint32_t *sequence(uint32_t count, enum order order) {
  uint32_t *numbers = malloc(count * sizeof *numbers);
  ck_assert_ptr_nonnull(numbers);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t at = order == SHUFFLED ? below(i + 1) : i;
    numbers[i] = numbers[at];
    numbers[at] = order == FALLING ? count - 1 - i : i;
  }
  return numbers;
}

static size_t shaped_key(uint8_t *key, uint32_t i, enum shape shape) {
  char text[80];
  size_t len;
  switch (shape) {
    case UUIDS: { /* of the number, not of what came before */
      uint64_t kept = state;
      state = i;
      len = key_uuid(key);
      state = kept;
      return len;
    }
    case COUNTERS: return (size_t)sprintf((char *)key, "/events/device%02u/%010u", (unsigned)(i % 16), (unsigned)(i / 16));
    default:
      len = (size_t)sprintf(text, "/state/node%04u/sensor/%08u/metric", (unsigned)(i % 1000), (unsigned)i);
      for (size_t n = 0; n < len; n++) key[n] = (uint8_t)text[shape == PATHS ? n : len - 1 - n];
      return len;
  }
}

#define SLOT 64u       /* a length and a key */
#define LISTINGS 10000u /* of 100 keys each */

struct measured {
  double put, get, list, per_path, fullness;
};

/* Keys as they would come in: one behind the other in memory, each after its length. */
static uint8_t *make_keys(uint32_t count, enum shape shape, enum order order) {
  uint32_t *numbers = sequence(count, order);
  uint8_t *keys = malloc((size_t)count * SLOT);
  ck_assert_ptr_nonnull(keys);
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *slot = keys + (size_t)i * SLOT;
    slot[0] = (uint8_t)shaped_key(slot + 1, numbers[i], shape);
  }
  free(numbers);
  return keys;
}

static struct measured measure(uint32_t page_size, uint32_t count, enum shape shape, enum order order) {
  struct measured m;
  struct pager *pager = mock_open(page_size);
  uint32_t root, bad = 0;
  uint64_t value, used = 0;
  tree_cursor cursor;
  mock_lock(pager);
  ck_assert_int_eq(tree_create(pager, &root), SDB_OK);
  start();
  uint8_t *keys = make_keys(count, shape, order), *others = make_keys(count, shape, SHUFFLED);
  double begin = now();
  for (const uint8_t *key = keys; key < keys + (size_t)count * SLOT; key += SLOT)
    bad += tree_put(pager, root, key + 1, key[0], 1 + (uint64_t)(key - keys) / SLOT) != SDB_OK;
  m.put = (now() - begin) / count * 1e6;
  begin = now();
  for (const uint8_t *key = others; key < others + (size_t)count * SLOT; key += SLOT)
    bad += tree_get(pager, VIEW_HEAD, root, key + 1, key[0], &value) != SDB_OK;
  m.get = (now() - begin) / count * 1e6;
  begin = now();
  for (const uint8_t *key = others; key < others + (size_t)LISTINGS * SLOT; key += SLOT) {
    tree_cursor_init(&cursor, pager, VIEW_HEAD, root, key + 1, key[0], false);
    for (int i = 0; i < 100; i++)
      if (tree_cursor_next(&cursor, &value)) break;
  }
  m.list = (now() - begin) / LISTINGS * 1e6;
  ck_assert_uint_eq(bad, 0);
  ck_assert_int_eq(tree_check(pager, VIEW_HEAD, root, &(tree_visitor){0}), SDB_OK);
  for (uint32_t i = 1; i < mock_limit(pager); i++) used += page_fill(mock_bytes(pager, i));
  m.per_path = (double)mock_pages(pager) * page_size / count;
  m.fullness = (double)used / ((double)mock_pages(pager) * page_size);
  free(keys);
  free(others);
  mock_close(pager);
  return m;
}

START_TEST(space_and_time) {
  static const struct {
    const char *name;
    uint32_t page_size;
    enum shape shape;
    enum order order;
    double per_path; /* at most */
  } rows[] = {
      {"paths, shuffled, 8 KB", 8192, PATHS, SHUFFLED, 40},
      {"paths, rising, 8 KB", 8192, PATHS, RISING, 40},
      {"paths, falling, 8 KB", 8192, PATHS, FALLING, 40},
      {"reversed paths, shuffled, 8 KB", 8192, REVERSED_PATHS, SHUFFLED, 68},
      {"uuid messages, shuffled, 8 KB", 8192, UUIDS, SHUFFLED, 68},
      {"16 counters, rising, 8 KB", 8192, COUNTERS, RISING, 20},
      {"paths, shuffled, 4 KB", 4096, PATHS, SHUFFLED, 40},
      {"paths, shuffled, 64 KB", 65536, PATHS, SHUFFLED, 40},
  };
  uint32_t count = key_count();
  printf("%u keys                          put us  get us  list 100 us  bytes a path  full\n", (unsigned)count);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct measured m = measure(rows[i].page_size, count, rows[i].shape, rows[i].order);
    printf("  %-32s %6.3f  %6.3f  %11.2f  %12.1f  %3.0f %%\n", rows[i].name, m.put, m.get, m.list, m.per_path, m.fullness * 100);
    ck_assert_double_le(m.per_path, rows[i].per_path);
    ck_assert_double_ge(m.fullness, 0.5);
  }
}
END_TEST

/* After removing everything with tidying, what is left is the root and one leaf. */
START_TEST(tidying_gives_back) {
  struct fixture f;
  uint8_t key[TREE_MAX_KEY];
  uint32_t count = 20000;
  start();
  set_up(&f, 4096);
  for (uint32_t i = 0; i < count; i++) ck_assert_int_eq(tree_put(f.pager, f.root, key, shaped_key(key, i, PATHS), i + 1), SDB_OK);
  uint32_t full = mock_pages(f.pager);
  uint32_t *numbers = sequence(count, (enum order)_i);
  for (uint32_t i = 0; i < count; i++) {
    size_t len = shaped_key(key, numbers[i], PATHS);
    ck_assert_int_eq(tree_remove(f.pager, f.root, key, len), SDB_OK);
    tree_tidy(f.pager, f.root, key, len);
    if (i == count / 10 * 9) ck_assert_uint_lt(mock_pages(f.pager), full / 2);
  }
  free(numbers);
  ck_assert_uint_eq(compare_check(f.pager, VIEW_HEAD, f.root, &f.model), 2);
  tear_down(&f);
}
END_TEST

/* Ways to fill pages badly: each must leave them half full on average. */
START_TEST(occupancy_under_attack) {
  enum { KEYS = 3000 };
  struct fixture f;
  uint8_t key[TREE_MAX_KEY];
  uint64_t used = 0;
  start();
  set_up(&f, 4096);
  for (uint32_t i = 0; i < KEYS; i++) {
    size_t len = 0;
    switch (_i) {
      case 0: /* each a prefix of the next */
        len = 1 + i % TREE_MAX_KEY;
        memset(key, 'a', len);
        key[0] = (uint8_t)(i / TREE_MAX_KEY);
        break;
      case 1: len = key_comb(key); break;
      case 2: len = key_fat(key); break;
      case 3: /* a tiny one after each long one */
        if (i % 2) {
          len = key_fat(key);
        } else {
          put32(key, (uint32_t)rnd());
          len = 4;
        }
        break;
      case 4: /* falling, just behind a rising run */
        put32(key, 0);
        key[0] = (uint8_t)(i % 128 == 127 ? 255 : i / 128);
        key[1] = (uint8_t)(i % 128 == 127 ? 255 - i / 128 : i);
        len = 2;
        break;
      default: len = key_deep(key); break;
    }
    mock_begin(f.pager);
    ck_assert_int_eq(tree_put(f.pager, f.root, key, len, i + 1), SDB_OK);
    mock_end(f.pager);
  }
  for (uint32_t i = 1; i < mock_limit(f.pager); i++) used += page_fill(mock_bytes(f.pager, i));
  ck_assert_int_eq(tree_check(f.pager, VIEW_HEAD, f.root, &(tree_visitor){0}), SDB_OK);
  if (mock_pages(f.pager) > 8) ck_assert_uint_ge(used * 100 / ((uint64_t)mock_pages(f.pager) * 4096), 45);
  tear_down(&f);
}
END_TEST

int main(void) {
  const char *text = getenv("SDB_SEED");
  seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
  printf("SDB_SEED=%" PRIu64 "\n", seed);
  setvbuf(stdout, NULL, _IOLBF, 0);

  Suite *suite = suite_create("tree");
  TCase *model = tcase_create("model");
  tcase_set_timeout(model, 300);
  tcase_add_loop_test(model, random_operations, 0, PAGE_SIZES * MAKERS);
  tcase_add_test(model, one_byte_keys);
  tcase_add_test(model, arguments);
  tcase_add_test(model, old_views);
  tcase_add_test(model, cursor_while_writing);
  suite_add_tcase(suite, model);

  TCase *fault = tcase_create("faults");
  tcase_set_timeout(fault, 300);
  tcase_add_loop_test(fault, faults, 0, 8);
  tcase_add_test(fault, creation_faults);
  tcase_add_loop_test(fault, undo_never_fails, 0, MAKERS);
  suite_add_tcase(suite, fault);

  TCase *damaged = tcase_create("damage");
  tcase_set_timeout(damaged, 300);
  tcase_add_loop_test(damaged, hostile_pages, 0, MAKERS);
  tcase_add_test(damaged, wrong_children);
  tcase_add_test(damaged, visitor_stops);
  suite_add_tcase(suite, damaged);

  TCase *cost = tcase_create("cost");
  tcase_set_timeout(cost, 300);
  tcase_add_loop_test(cost, tidying_gives_back, SHUFFLED, FALLING + 1);
  tcase_add_loop_test(cost, occupancy_under_attack, 0, 6);
  tcase_add_test(cost, space_and_time);
  suite_add_tcase(suite, cost);

  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
