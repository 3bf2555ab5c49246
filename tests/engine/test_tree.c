/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_tree.c - the tree on the mock pager, against a sorted array that is too simple to be wrong.
 *
 * SDB_SEED=n repeats a run.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "keys.h"
#include "mock_pager.h"
#include "seed.h"
#include "tree.h"
#include "tree_page.h"

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

static uint64_t seed;

static void start(void) { random_start(seed); }
static uint64_t random_value(void) { return 1 + random_number() % (UINT64_C(1) << (1 + below(40))) % ((UINT64_C(1) << 40) - 1); }

/* Like ck_assert, which is too slow for what runs a million times. */
#define HOLDS(condition)                                                                                                           \
  do {                                                                                                                             \
    if (!(condition)) ck_abort_msg("not so: %s", #condition);                                                                      \
  } while (0)

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
    if (compare(model->entries[middle].key, model->entries[middle].len, key, len) < 0) low = middle + 1;
    else high = middle;
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
  HOLDS(number < walk->limit);
  ck_assert_msg(!walk->seen[number], "page %u is reached twice", (unsigned)number);
  walk->seen[number] = true;
  walk->pages++;
  return SDB_OK;
}

static int walk_entry(void *user, const uint8_t *key, size_t len, uint64_t value) {
  struct walk *walk = user;
  HOLDS(walk->at < walk->model->count);
  const struct entry *entry = &walk->model->entries[walk->at++];
  HOLDS(compare(key, len, entry->key, entry->len) == 0);
  HOLDS(value == entry->value);
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
    HOLDS(tree_cursor_next(&cursor, &value) == SDB_OK);
    HOLDS(compare(cursor.key, cursor.key_len, model->entries[i].key, model->entries[i].len) == 0);
    HOLDS(value == model->entries[i].value);
    if (below(50) == 0) tree_cursor_pause(&cursor);
  }
  HOLDS(tree_cursor_next(&cursor, &value) == SDB_END);
  HOLDS(tree_cursor_next(&cursor, &value) == SDB_END);
}

static void compare_get(struct pager *pager, uint64_t view, uint32_t root, const struct model *model, const uint8_t *key,
                        size_t len) {
  bool found;
  uint64_t value = 77;
  size_t at = model_find(model, key, len, &found);
  HOLDS(tree_get(pager, view, root, key, len, &value) == (found ? SDB_OK : SDB_NOT_FOUND));
  HOLDS(value == (found ? model->entries[at].value : 77));
}

static void compare_seek(struct pager *pager, uint64_t view, uint32_t root, const struct model *model, const uint8_t *key,
                         size_t len, bool after) {
  bool found;
  tree_cursor cursor;
  uint64_t value;
  size_t at = model_find(model, key, len, &found);
  if (found && after) at++;
  tree_cursor_init(&cursor, pager, view, root, key, len, after);
  for (uint32_t i = below(20) + 1; i > 0; i--, at++) {
    int rc = tree_cursor_next(&cursor, &value);
    if (at >= model->count) {
      HOLDS(rc == SDB_END);
      return;
    }
    HOLDS(rc == SDB_OK);
    HOLDS(compare(cursor.key, cursor.key_len, model->entries[at].key, model->entries[at].len) == 0);
    HOLDS(value == model->entries[at].value);
  }
}

/* --- Keys --------------------------------------------------------------------------------------------------------------------- */

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
  HOLDS(tree_put(f->pager, f->root, key, len, value) == SDB_OK);
  mock_end(f->pager);
  model_put(&f->model, key, len, value);
}

static void take(struct fixture *f, const uint8_t *key, size_t len) {
  bool found;
  model_find(&f->model, key, len, &found);
  mock_begin(f->pager);
  HOLDS(tree_remove(f->pager, f->root, key, len) == (found ? SDB_OK : SDB_NOT_FOUND));
  mock_end(f->pager);
  model_remove(&f->model, key, len);
}

static void compare_all(struct fixture *f, uint64_t view) {
  compare_check(f->pager, view, f->root, &f->model);
  compare_cursor(f->pager, view, f->root, &f->model);
}

START_TEST(random_operations) {
  uint32_t size = page_sizes[_i / KEY_MAKERS];
  key_maker *make = key_makers[_i % KEY_MAKERS];
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
      if (putting) model_put(&f->model, key, len, value);
      else model_remove(&f->model, key, len);
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

/* --- Sharing: a full leaf gives entries to a neighbour ------------------------------------------------------------------------ */

static double leaves_filled(const struct fixture *f) {
  uint64_t used = 0, leaves = 0;
  for (uint32_t i = 1; i < mock_limit(f->pager); i++) {
    const uint8_t *page = mock_bytes(f->pager, i);
    if (!page || page_kind(page) != PAGE_LEAF) continue;
    used += page_fill(page);
    leaves++;
  }
  return (double)used / ((double)leaves * page_size(f->pager));
}

/* Puts and removes in turns of their own: between a remove and the end of its turn nothing is shared. */
START_TEST(sharing_keeps_all) {
  enum { TURNS = 5 };
  key_maker *make = key_makers[_i % KEY_MAKERS];
  uint32_t puts = make == key_path || make == key_uuid ? 1500 : 400;
  uint64_t views[TURNS];
  struct model models[TURNS];
  struct fixture f;
  uint8_t key[TREE_MAX_KEY];
  start();
  set_up(&f, page_sizes[_i / KEY_MAKERS]);
  for (int turn = 0; turn < TURNS; turn++) {
    for (uint32_t i = 0; i < puts; i++) {
      size_t len = make(key);
      put(&f, key, len, random_value());
    }
    compare_all(&f, VIEW_HEAD);
    if (turn == 0 && mock_pages(f.pager) > 20 && puts > 1000) ck_assert_double_gt(leaves_filled(&f), 0.7);
    views[turn] = mock_publish(f.pager);
    models[turn] = model_copy(&f.model);
    mock_lock(f.pager);
    for (uint32_t i = 0; i < puts / 2; i++) {
      size_t len = some_key(&f.model, make, key);
      take(&f, key, len);
      tree_tidy(f.pager, f.root, key, len);
    }
    compare_all(&f, VIEW_HEAD);
    mock_publish(f.pager);
    mock_lock(f.pager);
  }
  for (int turn = 0; turn < TURNS; turn++) {
    compare_all(&(struct fixture){f.pager, f.root, models[turn]}, views[turn]);
    model_free(&models[turn]);
  }
  tear_down(&f);
}
END_TEST

/* Every call of puts that share fails in turn. Those are found by the root having changed and, unless a split has helped where a
 * call has failed only once, no page having come. */
START_TEST(faults_while_sharing) {
  key_maker *make = _i / 2 ? key_uuid : key_path;
  struct fixture f;
  uint8_t key[TREE_MAX_KEY], root[4096];
  uint32_t shared = 0;
  start();
  set_up(&f, 4096);
  for (uint32_t i = 0; i < 700; i++) put(&f, key, make(key), random_value());
  for (uint32_t i = 0; shared < (SLOW ? 6 : 20); i++) {
    ck_assert_uint_lt(i, 5000);
    mock_publish(f.pager);
    mock_lock(f.pager);
    uint32_t pages = mock_pages(f.pager);
    memcpy(root, mock_bytes(f.pager, f.root), sizeof root);
    size_t len = make(key);
    sweep(&f, true, key, len, _i % 2);
    shared += (mock_pages(f.pager) == pages || _i % 2 == 0) && memcmp(root, mock_bytes(f.pager, f.root), sizeof root) != 0;
  }
  compare_all(&f, VIEW_HEAD);
  tear_down(&f);
}
END_TEST

/* Three leaves of keys with the beginnings a, b and c: the middle one full, the others as full as `others` says. */
static void three_leaves(struct fixture *f, uint32_t others, uint32_t leaf[3]) {
  uint8_t key[64];
  set_up(f, 4096);
  for (uint32_t i = 0; i < 3; i++) {
    uint8_t *page;
    ck_assert_int_eq(page_new(f->pager, PAGE_LEAF, &leaf[i], &page), SDB_OK);
    tp_format(page, 0, 0);
  }
  ck_assert_int_eq(page_free(f->pager, get32(mock_bytes(f->pager, f->root) + 72)), SDB_OK);
  tp_format(mock_bytes(f->pager, f->root), 1, leaf[0]);
  for (uint32_t i = 1; i < 3; i++) {
    struct tp tp;
    struct tp_place place;
    uint32_t need;
    uint8_t separator = (uint8_t)('a' + i);
    ck_assert_int_eq(tp_open(&tp, mock_bytes(f->pager, f->root), 4096), SDB_OK);
    ck_assert_int_eq(tp_find(&tp, &separator, 1, &place), SDB_OK);
    ck_assert_int_eq(tp_insert(mock_bytes(f->pager, f->root), 4096, &place, &separator, 1, leaf[i], &need), SDB_OK);
  }
  for (uint32_t i = 0; i < 3; i++)
    for (uint32_t n = 0; page_fill(mock_bytes(f->pager, leaf[i])) < (i == 1 ? 4096 - 40 : others); n++) {
      size_t len =
          (size_t)snprintf((char *)key, sizeof key, "%c%08u......", (char)('a' + i), (unsigned)(n * 7919 % 100000000 * 1000));
      put(f, key, len, UINT64_C(1) << 39);
    }
  ck_assert_uint_eq(mock_pages(f->pager), 4);
  compare_all(f, VIEW_HEAD);
  mock_publish(f->pager);
  mock_lock(f->pager);
}

/* Into the middle leaf, between keys that are there. */
static size_t between(uint8_t *key, uint32_t n) {
  return (size_t)snprintf((char *)key, 64, "b%08u+%03u", (unsigned)(7919 * (1 + n * 3)) * 1000, (unsigned)n);
}

START_TEST(gives_to_the_emptier) {
  struct fixture f;
  uint8_t key[64];
  uint32_t leaf[3], before[3];
  three_leaves(&f, 2000, leaf);
  put(&f, key, (size_t)snprintf((char *)key, sizeof key, _i ? "a.more" : "c.more"), 5);
  for (int i = 0; i < 3; i++) before[i] = page_fill(mock_bytes(f.pager, leaf[i]));
  for (uint32_t n = 0; page_fill(mock_bytes(f.pager, leaf[1])) >= before[1]; n++) put(&f, key, between(key, n), 1);
  ck_assert_uint_eq(mock_pages(f.pager), 4);
  for (int i = 0; i < 3; i += 2) {
    if ((i == 0) == (_i == 0)) ck_assert_uint_gt(page_fill(mock_bytes(f.pager, leaf[i])), before[i] + 500);
    else ck_assert_uint_eq(page_fill(mock_bytes(f.pager, leaf[i])), before[i]);
  }
  compare_all(&f, VIEW_HEAD);
  tear_down(&f);
}
END_TEST

static uint8_t *middle_restart(uint8_t *page) {
  uint32_t groups = get16(page + 66), starts = 84 + 4 * groups;
  return page + starts + 2 * groups + get16(page + starts + groups / 2 * 2);
}

/* Damage beside it neither refuses what goes into a leaf nor gets anything of it. */
START_TEST(damaged_neighbours) {
  struct fixture f;
  uint8_t key[64], damaged[2][4096];
  uint32_t leaf[3], n;
  three_leaves(&f, 2000, leaf);
  uint8_t *page[2] = {mock_bytes(f.pager, leaf[0]), mock_bytes(f.pager, leaf[2])}, other[4096];
  memcpy(other, page[0], sizeof other);
  for (int i = 0; i < 2; i++) {
    switch (_i) {
      case 0: page[i][4] = PAGE_INNER; break;
      case 1: page_set_fill(page[i], 5000); break;
      case 2: *middle_restart(page[i]) = 3; break;                 /* it would leave out bytes */
      case 3: memset(page[i] + 84 + 30, 0, 4096 - 84 - 30); break; /* all behind the first heads */
      case 4:
        memcpy(page[i] + 64, i ? other + 64 : page[1] + 64, 4096 - 64); /* whole, with keys that belong elsewhere */
        page_set_fill(page[i], page_fill(i ? other : page[1]));
        break;
      default: put32(mock_bytes(f.pager, f.root) + 72, f.root); break; /* the leaf on the left is not one */
    }
  }
  for (int i = 0; i < 2; i++) memcpy(damaged[i], page[i], 4096);
  for (n = 0; n < 60; n++) {
    size_t len = between(key, n);
    mock_begin(f.pager);
    ck_assert_int_eq(tree_put(f.pager, f.root, key, len, n + 1), SDB_OK);
    mock_end(f.pager);
  }
  for (int i = 0; i < (_i < 5 ? 2 : 0); i++) ck_assert_mem_eq(mock_bytes(f.pager, leaf[2 * i]), damaged[i], 4096);
  while (n-- > 0) {
    uint64_t value;
    ck_assert_int_eq(tree_get(f.pager, VIEW_HEAD, f.root, key, between(key, n), &value), SDB_OK);
    ck_assert_uint_eq(value, n + 1);
  }
  model_free(&f.model);
  mock_close(f.pager);
}
END_TEST

/* What was removed, or got a shorter value, finds its room again although the leaf beside it overflowed meanwhile. */
START_TEST(room_is_kept) {
  struct fixture f;
  uint8_t key[64];
  struct entry gone[80];
  uint32_t leaf[3], count = 0, n;
  three_leaves(&f, 4096 - 40, leaf);
  for (size_t i = 0; count < 80; i += 4) /* from both sides of the one that overflows */
    if (f.model.entries[i].key[0] != 'b') gone[count++] = f.model.entries[i];
  for (n = 0; n < count; n++) {
    gone[n].key = memcpy(malloc(gone[n].len), gone[n].key, gone[n].len);
    if (_i) put(&f, gone[n].key, gone[n].len, 1);
    else take(&f, gone[n].key, gone[n].len);
  }
  for (n = 0; n < 30; n++) put(&f, key, between(key, n), 1);
  ck_assert_uint_gt(mock_pages(f.pager), 4);
  mock_fail(f.pager, MOCK_WRITE | MOCK_NEW, 1, true, SDB_FULL);
  while (n-- > 0) take(&f, key, between(key, n));
  while (count-- > 0) {
    put(&f, gone[count].key, gone[count].len, gone[count].value);
    free(gone[count].key);
  }
  mock_fail(f.pager, 0, 0, false, 0);
  compare_all(&f, VIEW_HEAD);
  tear_down(&f);
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
  key_maker *make = key_makers[_i];
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
      if (step->after) put(&f, step->key, step->len, step->after);
      else take(&f, step->key, step->len);
      if (f.model.count < 20) break;
    }
    mock_fail(f.pager, MOCK_WRITE | MOCK_NEW, 1, true, SDB_FULL);
    for (int i = STEPS - 1; i >= 0; i--) {
      if (steps[i].len == 0) continue;
      if (steps[i].before) put(&f, steps[i].key, steps[i].len, steps[i].before);
      else take(&f, steps[i].key, steps[i].len);
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

static size_t numbered(uint8_t *key, uint32_t number) {
  memset(key, 'p', 40);
  return 40 + (size_t)snprintf((char *)key + 40, TREE_MAX_KEY - 40, "%04u", (unsigned)number);
}

/* What came and went has left more restarts in a leaf than there is room for when its longest key comes back. Where keys rose
 * behind that one, groups are full and joined only in need; where they rose before it, groups are small and are joined at once. */
START_TEST(undo_in_a_crowded_leaf) {
  struct fixture f;
  uint8_t key[TREE_MAX_KEY], longest[900];
  uint32_t count = 0, split = 0;
  set_up(&f, 4096);
  memset(longest, _i ? 'z' : 'a', sizeof longest);
  put(&f, longest, sizeof longest, 7);
  uint8_t *leaf = mock_bytes(f.pager, get32(mock_bytes(f.pager, f.root) + 72));
  for (; page_fill(leaf) < 4096 - 64; count++) put(&f, key, numbered(key, 4 * count), count + 1);
  ck_assert_uint_eq(mock_pages(f.pager), 2);
  uint32_t groups = get16(leaf + 66);
  take(&f, longest, sizeof longest);
  for (; page_fill(leaf) < 4096 - 64; split++) put(&f, key, numbered(key, 1 + split + split / 3), 1);
  ck_assert_uint_gt(get16(leaf + 66), groups);
  mock_fail(f.pager, MOCK_WRITE | MOCK_NEW, 1, true, SDB_FULL);
  while (split-- > 0) take(&f, key, numbered(key, 1 + split + split / 3));
  ck_assert_uint_gt(page_fill(leaf) + sizeof longest, 4096);
  put(&f, longest, sizeof longest, 7);
  ck_assert_int_eq(mock_failed(f.pager), _i == 0); /* whether it has asked for a page first */
  mock_fail(f.pager, 0, 0, false, 0);
  compare_all(&f, VIEW_HEAD);
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
      for (uint32_t i = PAGE_HEADER + below(size - PAGE_HEADER); i < size; i++) page[i] = (uint8_t)random_number();
      break;
    case 1: page_set_fill(page, below(4) ? below(size + 300) : (uint32_t)random_number()); break;
    case 2: memcpy(page + PAGE_HEADER, other + PAGE_HEADER, size - PAGE_HEADER); break;
    case 3: page[4] = (uint8_t)below(7); break;
    default:
      for (uint32_t i = 1 + below(3); i > 0; i--) {
        uint32_t fill = page_fill(page) <= size && page_fill(page) > PAGE_HEADER ? page_fill(page) : size;
        uint32_t at = PAGE_HEADER + below(below(2) ? 48 : fill - PAGE_HEADER);
        page[at] = (uint8_t)(below(2) ? random_number() : page[at] ^ 1u << below(8));
      }
  }
}

START_TEST(hostile_pages) {
  key_maker *make = key_makers[_i % KEY_MAKERS];
  start();
  for (int round = 0; round < (SLOW ? 60 : 200); round++) {
    struct fixture f;
    uint8_t key[TREE_MAX_KEY];
    random_start(seed + (uint64_t)round);
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
  size_t len = 1; /* "/" is before all: leads to the leftmost child */
  key[0] = '/';
  uint8_t *root = mock_bytes(f.pager, f.root);
  uint32_t leftmost = get32(root + 72);
  const uint32_t wrong[] = {f.root, 0, mock_limit(f.pager) + 5, UINT32_MAX};
  for (int i = 0; i < 4; i++) {
    put32(root + 72, wrong[i]);
    ck_assert_int_eq(tree_get(f.pager, VIEW_HEAD, f.root, key, len, &value), SDB_CORRUPT);
    ck_assert_int_eq(tree_put(f.pager, f.root, key, len, 1), SDB_CORRUPT);
    ck_assert_int_eq(tree_remove(f.pager, f.root, key, len), SDB_CORRUPT);
    tree_cursor_init(&cursor, f.pager, VIEW_HEAD, f.root, NULL, 0, false);
    ck_assert_int_eq(tree_cursor_next(&cursor, &value), SDB_CORRUPT);
    ck_assert_int_eq(tree_check(f.pager, VIEW_HEAD, f.root, &nothing), SDB_CORRUPT);
  }
  put32(root + 72, leftmost);
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

int main(void) {
  seed = seed_number("SDB_SEED", (uint64_t)time(NULL));
  printf("SDB_SEED=%" PRIu64 "\n", seed);
  setvbuf(stdout, NULL, _IOLBF, 0);

  Suite *suite = suite_create("tree");
  TCase *model = tcase_create("model");
  tcase_set_timeout(model, 300);
  tcase_add_loop_test(model, random_operations, 0, PAGE_SIZES * KEY_MAKERS);
  tcase_add_test(model, one_byte_keys);
  tcase_add_test(model, arguments);
  tcase_add_test(model, old_views);
  tcase_add_test(model, cursor_while_writing);
  suite_add_tcase(suite, model);

  TCase *fault = tcase_create("faults");
  tcase_set_timeout(fault, 300);
  tcase_add_loop_test(fault, faults, 0, 8);
  tcase_add_test(fault, creation_faults);
  tcase_add_loop_test(fault, undo_never_fails, 0, KEY_MAKERS);
  tcase_add_loop_test(fault, undo_in_a_crowded_leaf, 0, 2);
  suite_add_tcase(suite, fault);

  TCase *sharing = tcase_create("sharing");
  tcase_set_timeout(sharing, 300);
  tcase_add_loop_test(sharing, sharing_keeps_all, 0, PAGE_SIZES * KEY_MAKERS);
  tcase_add_loop_test(sharing, faults_while_sharing, 0, 4);
  tcase_add_loop_test(sharing, gives_to_the_emptier, 0, 2);
  tcase_add_loop_test(sharing, damaged_neighbours, 0, 6);
  tcase_add_loop_test(sharing, room_is_kept, 0, 2);
  suite_add_tcase(suite, sharing);

  TCase *damaged = tcase_create("damage");
  tcase_set_timeout(damaged, 300);
  tcase_add_loop_test(damaged, hostile_pages, 0, KEY_MAKERS);
  tcase_add_test(damaged, wrong_children);
  tcase_add_test(damaged, visitor_stops);
  suite_add_tcase(suite, damaged);

  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
