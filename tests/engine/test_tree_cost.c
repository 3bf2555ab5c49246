/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_tree_cost.c - what the tree costs: bytes a path and processor time, printed; how full its pages stay whatever comes.
 *
 * SDB_SEED=n repeats a run. SDB_TREE_KEYS=n sets how many keys the measurements take (1,000,000; fewer under a sanitizer).
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

static uint64_t seed;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int count_page(void *user, uint32_t number) {
  (void)number;
  ++*(uint32_t *)user;
  return SDB_OK;
}

/* A tree without keys; the lock is held. */
static struct pager *new_tree(uint32_t page_size, uint32_t *root) {
  struct pager *pager = mock_open(page_size);
  mock_lock(pager);
  ck_assert_int_eq(tree_create(pager, root), SDB_OK);
  return pager;
}

/* Sound, and no page of it is lost. */
static void check_tree(struct pager *pager, uint32_t root) {
  uint32_t pages = 0;
  tree_visitor visitor = {.user = &pages, .page = count_page};
  ck_assert_int_eq(tree_check(pager, VIEW_HEAD, root, &visitor), SDB_OK);
  ck_assert_uint_eq(pages, mock_pages(pager));
}

/* Bytes in use of those that the pages have. */
static double fullness(struct pager *pager) {
  uint64_t used = 0;
  for (uint32_t i = 1; i < mock_limit(pager); i++)
    if (mock_bytes(pager, i)) used += page_fill(mock_bytes(pager, i));
  return (double)used / ((double)mock_pages(pager) * page_size(pager));
}

#define SLOT 64u        /* a length and a key */
#define LISTINGS 10000u /* of 100 keys each */

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
    case UUIDS: return key_uuid_of(key, i);
    case COUNTERS:
      return (size_t)snprintf((char *)key, SLOT - 1, "/events/device%02u/%010u", (unsigned)(i % 16), (unsigned)(i / 16));
    default:
      len = (size_t)snprintf(text, sizeof text, "/state/node%04u/sensor/%08u/metric", (unsigned)(i % 1000), (unsigned)i);
      for (size_t n = 0; n < len; n++) key[n] = (uint8_t)text[shape == PATHS ? n : len - 1 - n];
      return len;
  }
}

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
  uint32_t root, bad = 0;
  uint64_t value;
  tree_cursor cursor;
  struct pager *pager = new_tree(page_size, &root);
  random_start(seed);
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
  check_tree(pager, root);
  m.per_path = (double)mock_pages(pager) * page_size / count;
  m.fullness = fullness(pager);
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
      {"paths, shuffled, 8 KB", 8192, PATHS, SHUFFLED, 26},
      {"paths, rising, 8 KB", 8192, PATHS, RISING, 30},
      {"paths, falling, 8 KB", 8192, PATHS, FALLING, 28},
      {"reversed paths, shuffled, 8 KB", 8192, REVERSED_PATHS, SHUFFLED, 44},
      {"uuid messages, shuffled, 8 KB", 8192, UUIDS, SHUFFLED, 52},
      {"16 counters, rising, 8 KB", 8192, COUNTERS, RISING, 10},
      {"paths, shuffled, 4 KB", 4096, PATHS, SHUFFLED, 26},
      {"paths, shuffled, 64 KB", 65536, PATHS, SHUFFLED, 26},
  };
  uint32_t count = (uint32_t)seed_number("SDB_TREE_KEYS", SLOW ? 50000 : 1000000);
  printf("%u keys                          put us  get us  list 100 us  bytes a path  full\n", (unsigned)count);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct measured m = measure(rows[i].page_size, count, rows[i].shape, rows[i].order);
    printf("  %-32s %6.3f  %6.3f  %11.2f  %12.1f  %3.0f %%\n", rows[i].name, m.put, m.get, m.list, m.per_path, m.fullness * 100);
    double ends = count < 200000 && rows[i].order == RISING ? 1.2 : 1; /* of few keys the open ends are a larger part */
    ck_assert_double_le(m.per_path, rows[i].per_path * ends);
    ck_assert_double_ge(m.fullness, 0.5);
  }
}
END_TEST

/* Keys in no order fill leaves: one that overflows gives to its neighbours before it is split. Keys that rise side
 * by side leave no gaps but at their ends. */
START_TEST(leaves_are_filled) {
  static const struct {
    enum shape shape;
    enum order order;
    double fullness;
  } rows[] = {{PATHS, SHUFFLED, 0.80},
              {REVERSED_PATHS, SHUFFLED, 0.80},
              {UUIDS, SHUFFLED, 0.80},
              {PATHS, FALLING, 0.75},
              {COUNTERS, RISING, 0.80}};
  uint32_t root, count = SLOW && rows[_i].order == SHUFFLED ? 50000 : 200000; /* what rises leaves 16 open ends */
  uint8_t key[SLOT];
  struct pager *pager = new_tree(8192, &root);
  random_start(seed);
  uint32_t *numbers = sequence(count, rows[_i].order);
  for (uint32_t i = 0; i < count; i++)
    ck_assert_int_eq(tree_put(pager, root, key, shaped_key(key, numbers[i], rows[_i].shape), i + 1), SDB_OK);
  check_tree(pager, root);
  printf("  %u leaves and more, %.1f %% full\n", (unsigned)mock_pages(pager), fullness(pager) * 100);
  ck_assert_double_ge(fullness(pager), rows[_i].fullness);
  free(numbers);
  mock_close(pager);
}
END_TEST

/* After removing everything with tidying, what is left is the root and one leaf. */
START_TEST(tidying_gives_back) {
  uint8_t key[TREE_MAX_KEY];
  uint32_t root, count = 20000;
  struct pager *pager = new_tree(4096, &root);
  random_start(seed);
  for (uint32_t i = 0; i < count; i++) ck_assert_int_eq(tree_put(pager, root, key, shaped_key(key, i, PATHS), i + 1), SDB_OK);
  uint32_t full = mock_pages(pager), *numbers = sequence(count, (enum order)_i);
  for (uint32_t i = 0; i < count; i++) {
    size_t len = shaped_key(key, numbers[i], PATHS);
    ck_assert_int_eq(tree_remove(pager, root, key, len), SDB_OK);
    tree_tidy(pager, root, key, len);
    if (i == count / 10 * 9) ck_assert_uint_lt(mock_pages(pager), full / 2);
  }
  free(numbers);
  check_tree(pager, root);
  ck_assert_uint_eq(mock_pages(pager), 2);
  mock_close(pager);
}
END_TEST

/* The i-th key of an attack on the occupancy. */
static size_t attack(uint8_t *key, int kind, uint32_t i) {
  size_t len;
  switch (kind) {
    case 0: /* each the beginning of the next */
      len = 1 + i % TREE_MAX_KEY;
      memset(key, 'a', len);
      key[0] = (uint8_t)(i / TREE_MAX_KEY);
      return len;
    case 1: /* a tiny one after each long one */
      if (i % 2) return key_fat(key);
      put32(key, (uint32_t)random_number());
      return 4;
    case 2: /* a rising run fills its pages, then a falling one comes in behind its end */
      memset(key, 'x', 60);
      key[0] = (uint8_t)(i / 200);
      key[1] = i % 200 >= 100;
      key[2] = (uint8_t)(i % 200 >= 100 ? 255 - i % 200 : i % 200);
      return 60;
    default: return key_makers[kind - 3](key);
  }
}

/* Nothing that comes leaves pages less than about half full on average. */
START_TEST(occupancy_under_attack) {
  uint8_t key[TREE_MAX_KEY];
  uint32_t root;
  struct pager *pager = new_tree(4096, &root);
  random_start(seed);
  for (uint32_t i = 0; i < 5000; i++) {
    size_t len = attack(key, _i, i);
    ck_assert_int_eq(tree_put(pager, root, key, len, i + 1), SDB_OK);
  }
  check_tree(pager, root);
  printf("  attack %d: %u pages, %.0f %% full\n", _i, (unsigned)mock_pages(pager), fullness(pager) * 100);
  if (mock_pages(pager) > 8) ck_assert_double_ge(fullness(pager), 0.45);
  mock_close(pager);
}
END_TEST

int main(void) {
  seed = seed_number("SDB_SEED", (uint64_t)time(NULL));
  printf("SDB_SEED=%" PRIu64 "\n", seed);
  setvbuf(stdout, NULL, _IOLBF, 0);
  Suite *suite = suite_create("tree cost");
  TCase *cost = tcase_create("cost");
  tcase_set_timeout(cost, 300);
  tcase_add_loop_test(cost, tidying_gives_back, SHUFFLED, FALLING + 1);
  tcase_add_loop_test(cost, occupancy_under_attack, 0, 3 + KEY_MAKERS);
  tcase_add_loop_test(cost, leaves_are_filled, 0, 5);
  tcase_add_test(cost, space_and_time);
  suite_add_tcase(suite, cost);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
