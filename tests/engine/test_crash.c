/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_crash.c - random work on the simulated device, with the process dying in one storage call after the other.
 *
 * For each seed the work is done once to count the calls that change the device; then again for each call, dying in it. What the
 * power cut leaves is decided anew for each subset, from a copy of the device. Then:
 *   1. open: the state must be the one behind some commit, not older than what was acknowledged as durable; check finds nothing.
 *      Of two keys exactly one opens. A put or batch of unknown outcome is asked for again, and is done once
 *   2. meanwhile, or in the work that follows, the device may die once more: crash, and 1 again
 *   3. more work, compare, check, close
 *   4. a last crash that drops all that was not synced: a clean close has left everything durable
 *
 * Environment: SDB_SEED or SDB_SEEDS (seed.h). SDB_CRASH_AT=n only that call, SDB_SUBSET=n only that subset, SDB_DELICATE=1 with
 * the second death in a header slot: as a failure prints them. SDB_SUBSETS=n how many; SDB_EVERY_CALL=1 every call with all seeds
 * (else with one seed in ten, and a sample with the others, a smaller one with SDB_THIN); SDB_OPERATIONS=n.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seed.h"
#include "simulated.h"
#include "workload.h"

#define SAMPLE 30u        /* calls tried with most seeds, besides */
#define DELICATE_MAX 200u /* the header slots, which are tried with every seed */
#define SLOT_B 65536u
#define FIXED_END 131072u

typedef struct crash_case {
  uint64_t seed, crash_at;
  unsigned subset, operations;
  bool delicate; /* the next death is in a header slot as well */
  char last_call[160];
  char why[1800];
} crash_case;

static bool is_slot_write(const sim_event *event) {
  return strcmp(event->call, "write") == 0 && strcmp(event->name, WORKLOAD_NAME) == 0 && event->offset < FIXED_END;
}

static void note_call(void *user, const sim_event *event) {
  crash_case *c = user;
  snprintf(c->last_call, sizeof c->last_call, "%s %s at %" PRIu64 ", %" PRIu64 " bytes", event->call, event->name, event->offset,
           event->len);
}

static bool explain(crash_case *c, const char *phase, const workload *w) {
  snprintf(c->why, sizeof c->why, "%s: %s", phase, w->why);
  return false;
}

/* Recovers, unless the device dies again before it is done. */
static bool recover(crash_case *c, workload *w, const char *phase) {
  w->options.create = model_durable(w->model) == 0; /* what was acknowledged must be found */
  if (!workload_recover(w)) return explain(c, phase, w);
  if (!w->stopped && !workload_run(w, 6)) return explain(c, phase, w);
  if (!w->stopped) return true;
  if (!workload_close(w)) return explain(c, phase, w);
  return true;
}

static bool finish(crash_case *c, workload *w) {
  if (!workload_run(w, 6) || !workload_verify(w)) return explain(c, "work after recovery", w);
  if (!workload_close(w)) return explain(c, "close after recovery", w);
  sim_crash(w->device, SIM_DROP_ALL, c->seed);
  if (!workload_recover(w)) return explain(c, "open after a clean close", w);
  if (!workload_close(w)) return explain(c, "last close", w);
  return true;
}

/* The most delicate moment of an open is its header slots: the process dies while it writes one of them. */
typedef struct slot_death {
  sim *device;
  uint64_t left; /* slot writes until then */
} slot_death;

static void die_in_slot(void *user, const sim_event *event) {
  slot_death *d = user;
  if (is_slot_write(event) && --d->left == 0) sim_die_now(d->device);
}

/* The first recovery, in which the device may die again; then the second. */
static bool recover_twice(crash_case *c, workload *w) {
  slot_death death = {w->device, 1 + sim_random(&w->random) % (c->delicate ? 2 : 4)};
  switch (c->delicate ? 1 : sim_random(&w->random) % 3) {
    case 0: sim_die_at(w->device, 1 + sim_random(&w->random) % 40); break;
    case 1: sim_watch(w->device, die_in_slot, &death); break;
    default: break;
  }
  bool good = recover(c, w, "first recovery");
  sim_watch(w->device, NULL, NULL);
  if (good && !w->stopped && sim_dead(w->device)) { /* in a call whose failure the engine may ignore: cutting a file, say */
    good = workload_close(w) || explain(c, "close of a dead device", w);
    w->stopped = true;
  }
  if (good && w->stopped) {
    sim_crash(w->device, SIM_RANDOM_SUBSET, w->random);
    good = recover(c, w, "recovery after a crash in the first recovery");
  }
  sim_die_at(w->device, 0);
  return good;
}

static bool after_crash(crash_case *c, workload *w) {
  static const enum sim_crash_mode modes[] = {SIM_RANDOM_SUBSET, SIM_DROP_ALL, SIM_RANDOM_SUBSET, SIM_KEEP_ALL};
  sim_crash(w->device, modes[(c->subset + c->crash_at) % 4], w->random);
  return recover_twice(c, w) && finish(c, w);
}

/* Tries one subset on a copy of the dead device. */
static bool try_subset(crash_case *c, const workload *dead) {
  workload w = *dead;
  w.device =
      sim_clone(dead->device, ~(c->seed + c->subset)); /* its randomness does not begin anew: ids and epochs would come again */
  w.model = model_clone(dead->model);
  w.options.storage = sim_storage(w.device);
  w.options.message = w.message;
  w.random = c->seed * 1000003 + c->crash_at * 101 + c->subset;
  w.stopped = false;
  bool good = after_crash(c, &w);
  workload_clear(&w);
  sim_free(w.device);
  return good;
}

static bool work(crash_case *c, workload *w) {
  if (!workload_open(w)) return explain(c, "first open", w);
  if (!workload_run(w, c->operations)) return explain(c, "work", w);
  if (!w->stopped && !workload_verify(w)) return explain(c, "work", w);
  if (!workload_close(w)) return explain(c, w->stopped ? "close of the dead" : "close", w);
  return true;
}

/* The calls of one run, and which of them write a header slot. */
typedef struct census {
  sim *device;
  uint64_t calls, delicate[DELICATE_MAX];
  unsigned delicate_count;
} census;

static void count_slots(void *user, const sim_event *event) {
  census *n = user;
  if (is_slot_write(event) && n->delicate_count < DELICATE_MAX) n->delicate[n->delicate_count++] = sim_calls(n->device, SIM_CHANGE);
}

static bool count_calls(crash_case *c, census *n) {
  *n = (census){.device = sim_new(c->seed)};
  workload w;
  workload_init(&w, c->seed, n->device);
  if (w.profile == PROFILE_LONG_LOG) c->operations *= 3;
  sim_watch(n->device, count_slots, n);
  bool good = work(c, &w);
  n->calls = sim_calls(n->device, SIM_CHANGE);
  workload_clear(&w);
  sim_free(n->device);
  return good;
}

static bool crash_in_call(crash_case *c, unsigned subsets) {
  sim *device = sim_new(c->seed);
  workload w;
  workload_init(&w, c->seed, device);
  sim_watch(device, note_call, c);
  sim_die_at(device, c->crash_at);
  uint64_t only = seed_number("SDB_SUBSET", UINT64_MAX);
  bool good = work(c, &w);
  for (c->subset = 0; good && c->subset < subsets; c->subset++) {
    if (only == UINT64_MAX || only == c->subset) good = try_subset(c, &w);
    if (!good) break;
  }
  workload_clear(&w);
  sim_free(device);
  return good;
}

static void must_hold(bool good, const crash_case *c) {
  if (good) return;
  ck_abort_msg("seed %" PRIu64 ", crash in call %" PRIu64 " (%s), subset %u: %s\n  again: SDB_SEED=%" PRIu64
               " SDB_CRASH_AT=%" PRIu64 " SDB_SUBSET=%u SDB_DELICATE=%d",
               c->seed, c->crash_at, c->last_call, c->subset, c->why, c->seed, c->crash_at, c->subset, c->delicate);
}

static void crash_at(crash_case *c, uint64_t call, unsigned subsets) {
  c->crash_at = call;
  must_hold(crash_in_call(c, subsets), c);
}

static void crash_one_seed(uint64_t seed) {
  crash_case c = {.seed = seed, .operations = (unsigned)seed_number("SDB_OPERATIONS", 20 + seed % 30)};
  census n;
  uint64_t at = seed_number("SDB_CRASH_AT", 0), random = seed;
  must_hold(count_calls(&c, &n), &c);
  if (at != 0) {
    c.delicate = seed_number("SDB_DELICATE", 0) != 0;
    crash_at(&c, at, 8);
    return;
  }
  if (seed_number("SDB_EVERY_CALL", seed % 10 == 1) != 0) {
    unsigned subsets = (unsigned)seed_number("SDB_SUBSETS", 1);
    for (uint64_t i = 1; i <= n.calls; i++) crash_at(&c, i, subsets);
  } else {
    for (uint64_t i = seed_share(SAMPLE); i > 0; i--) crash_at(&c, 1 + sim_random(&random) % n.calls, 1);
  }
  c.delicate = true;
  for (unsigned i = 0; i < n.delicate_count; i++) crash_at(&c, n.delicate[i], (unsigned)seed_number("SDB_SUBSETS", seed_share(3)));
}

START_TEST(test_crash_anywhere) {
  uint64_t first, count = seed_range("crash", 100, &first);
  for (uint64_t seed = first; seed < first + count; seed++) crash_one_seed(seed);
}
END_TEST

/* --- The order of writes ------------------------------------------------------------------------------------------------------ */

#define LOGS 64u
#define SLOT 4096u
#define WRAPPED 256u /* in a slot: the wrapped key, which ends at EXPIRY_FROM */
#define EXPIRY_FROM 352u

/* What is written and not synced, and the first rule that was broken. */
typedef struct order {
  bool pages, slot_a, slot_b;
  bool log[LOGS], log_header[LOGS], log_used[LOGS];
  uint64_t log_end[LOGS];    /* position behind the segment, as its header says */
  uint8_t slot[SLOT];        /* as it was written last */
  uint64_t slot_position[2]; /* where replay would start: as written, the older one while both are not synced */
  char broken[200];
} order;

static void break_rule(order *o, const char *rule, const sim_event *event) {
  if (o->broken[0] != '\0') return;
  snprintf(o->broken, sizeof o->broken, "%s (%s %s at %" PRIu64 ")", rule, event->call, event->name, event->offset);
}

static uint64_t number_at(const void *data, size_t offset) {
  const uint8_t *p = data;
  uint64_t n = 0;
  for (unsigned i = 0; i < 8; i++) n |= (uint64_t)p[offset + i] << 8 * i;
  return n;
}

/* A segment with records that replay may need keeps its file (I10). */
static void watch_recycling(order *o, const sim_event *event, unsigned segment) {
  uint64_t needed = o->slot_position[0] < o->slot_position[1] ? o->slot_position[0] : o->slot_position[1];
  if (o->log_used[segment] && o->log_end[segment] > needed) break_rule(o, "a log segment given up that replay may need", event);
  o->log_used[segment] = false;
}

static void watch_log(order *o, const sim_event *event, unsigned segment) {
  if (strcmp(event->call, "remove") == 0) watch_recycling(o, event, segment);
  if (strcmp(event->call, "sync") == 0) o->log[segment] = o->log_header[segment] = false;
  if (strcmp(event->call, "write") != 0) return;
  o->log[segment] = true;
  if (memcmp(event->data, "SDBLOG", 6) != 0) {
    if (o->log_header[segment]) break_rule(o, "a record before its segment's header was synced", event);
    o->log_used[segment] = true;
  } else if (event->offset == 0) { /* the copy at the end says the same */
    uint64_t end = number_at(event->data, 48) + (number_at(event->data, 64) & UINT32_MAX);
    if (end != o->log_end[segment]) watch_recycling(o, event, segment); /* else the same once more, to be sure of it */
    o->log_header[segment] = true;
    o->log_end[segment] = end;
  }
}

/* A change of the key writes what the slots say once more: of pages it names none but those that are there. */
static bool says_the_same(const uint8_t *a, const uint8_t *b) {
  return memcmp(a + 64, b + 64, WRAPPED - 64) == 0 && memcmp(a + EXPIRY_FROM, b + EXPIRY_FROM, SLOT - EXPIRY_FROM) == 0;
}

static void watch_data(order *o, const sim_event *event) {
  if (strcmp(event->call, "sync") == 0) o->pages = o->slot_a = o->slot_b = false;
  if (strcmp(event->call, "write") != 0) return;
  if (event->offset >= FIXED_END) {
    o->pages = true;
    return;
  }
  if (o->pages && (event->len != SLOT || !says_the_same(event->data, o->slot)))
    break_rule(o, "a header slot before the pages it names were synced", event);
  if (event->len == SLOT) memcpy(o->slot, event->data, SLOT);
  if (event->offset < SLOT_B ? o->slot_b : o->slot_a) break_rule(o, "one header slot while the other was not synced", event);
  o->slot_position[event->offset >= SLOT_B] = number_at(event->data, 64);
  if (event->offset < SLOT_B) {
    o->slot_a = true;
  } else {
    o->slot_b = true;
  }
}

static void watch_order(void *user, const sim_event *event) {
  order *o = user;
  unsigned segment;
  if (strcmp(event->name, WORKLOAD_NAME) == 0) watch_data(o, event);
  if (sscanf(event->name, WORKLOAD_NAME ".log.%4u", &segment) == 1 && segment < LOGS) watch_log(o, event, segment);
}

static bool log_synced(const order *o) {
  for (unsigned i = 0; i < LOGS; i++) {
    if (o->log[i]) return false;
  }
  return true;
}

START_TEST(test_order_of_writes) {
  uint64_t first, count = seed_range("order of writes", 20, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    sim *device = sim_new(seed);
    workload w;
    order o = {0};
    workload_init(&w, seed, device);
    sim_watch(device, watch_order, &o);
    bool good = workload_open(&w);
    for (int i = 0; good && i < 100; i++) {
      good = workload_run(&w, 1);
      bool acknowledged = model_commits(w.model) > 0 && model_durable(w.model) == model_commits(w.model);
      ck_assert_msg(!good || !acknowledged || log_synced(&o), "seed %" PRIu64 ": %s was acknowledged, the log not synced", seed,
                    w.doing);
    }
    good = good && workload_close(&w);
    ck_assert_msg(good, "seed %" PRIu64 ": %s", seed, w.why);
    ck_assert_msg(o.broken[0] == '\0', "seed %" PRIu64 ": written too early: %s", seed, o.broken);
    workload_clear(&w);
    sim_free(device);
  }
}
END_TEST

START_TEST(test_syncs_of_a_commit) {
  sim *device = sim_new(1);
  workload w;
  workload_init(&w, 1, device);
  w.options.wal_segment_size = 1 << 20;
  w.options.checkpoint_wal_bytes = 8 << 20;
  ck_assert_msg(workload_open(&w), "%s", w.why);
  ck_assert_int_eq(sdb_put(w.db, "a", 1, "b", 1, NULL, NULL), SDB_OK);
  uint64_t syncs = sim_calls(device, SIM_SYNC);
  for (int i = 0; i < 50; i++) ck_assert_int_eq(sdb_put(w.db, "a", 1, "b", 1, NULL, NULL), SDB_OK);
  ck_assert_uint_eq(sim_calls(device, SIM_SYNC) - syncs, 50);

  sdb_put_options options;
  sdb_put_options_init(&options);
  options.defer = true;
  sdb_commit commit;
  syncs = sim_calls(device, SIM_SYNC);
  for (int i = 0; i < 50; i++) ck_assert_int_eq(sdb_put(w.db, "a", 1, "b", 1, &options, &commit), SDB_OK);
  ck_assert_int_eq(sdb_wait(w.db, commit.sequence), SDB_OK);
  ck_assert_uint_eq(sim_calls(device, SIM_SYNC) - syncs, 1); /* who waits together shares a sync */

  options.defer = false;
  options.durability = SDB_NONE;
  syncs = sim_calls(device, SIM_SYNC);
  for (int i = 0; i < 50; i++) ck_assert_int_eq(sdb_put(w.db, "a", 1, "b", 1, &options, &commit), SDB_OK);
  ck_assert_uint_eq(sim_calls(device, SIM_SYNC) - syncs, 0);
  ck_assert_int_eq(sdb_close(w.db), SDB_OK);
  w.db = NULL;
  workload_clear(&w);
  sim_free(device);
}
END_TEST

/* Buffered commits reach the device when their interval is over and background work gets its turn. */
START_TEST(test_buffered_interval) {
  sim *device = sim_new(1);
  workload w;
  workload_init(&w, 1, device);
  ck_assert_msg(workload_open(&w), "%s", w.why);
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = SDB_BUFFERED;
  sdb_commit commit;
  ck_assert_int_eq(sdb_put(w.db, "a", 1, "b", 1, &options, &commit), SDB_OK);
  sim_advance(device, w.options.buffered_interval_ms);
  bool more;
  ck_assert_int_eq(sdb_step(w.db, 10, &more), SDB_OK);
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(w.db, &stats), SDB_OK);
  ck_assert_uint_ge(stats.synced_sequence, commit.sequence);
  workload_clear(&w);
  sim_free(device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("crash");
  TCase *order_case = tcase_create("order");
  tcase_set_timeout(order_case, 120);
  tcase_add_test(order_case, test_order_of_writes);
  tcase_add_test(order_case, test_syncs_of_a_commit);
  tcase_add_test(order_case, test_buffered_interval);
  suite_add_tcase(suite, order_case);
  TCase *crash = tcase_create("crash");
  tcase_set_timeout(crash, 0); /* SDB_SEEDS decides how long it takes */
  tcase_add_test(crash, test_crash_anywhere);
  suite_add_tcase(suite, crash);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
