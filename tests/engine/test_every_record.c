/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_every_record.c - a log with each of its bytes flipped in turn, each record zeroed, exchanged with the next, repeated in its
 * place, or the file ending there.
 *
 * The database died with all of these commits in its log only, synced, and the mark behind them. Whatever the damage: it opens with
 * a state that it once had, whole; when that is not the last one it says that its log is damaged, takes no writes and never says
 * "not found". Or it is refused, as CORRUPT or because the log is not one of it any more.
 *
 * Environment: SDB_STRIDE=n: every nth byte (1: all of them). SDB_AT=n: only that byte of each segment.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seed.h"
#include "workload.h"

enum { SEGMENT = 65536, SECTOR = 4096, RECORDS = 64, RECORD_HEAD = 40 };

typedef struct place {
  char name[32];
  uint32_t offset, len;
} place;

static sim *base_device;
static model *base_model;
static bool encrypted;
static place records[RECORDS];
static unsigned record_count;
static char damage[160];
static struct { unsigned damages, refused, older; } sum;

__attribute__((noreturn)) static void report(const char *what, const char *why) {
  ck_abort_msg("%s: %s: %s", damage, what, why);
  abort();
}

/* --- The database ------------------------------------------------------------------------------------------------------------- */

static void session_init(workload *w, sim *device, model *m) {
  workload_init(w, 1, device);
  model_free(w->model);
  w->model = m;
  w->options.page_size = 4096;
  w->options.versions_to_keep = 2;
  w->options.wal_segment_size = SEGMENT;
  w->options.checkpoint_wal_bytes = 8 << 20;
  w->options.change_log_bytes = 0;
  w->options.encryption_key = encrypted ? (const uint8_t *)"thirty-two bytes make up a key.." : NULL;
  w->options.cipher = SDB_CIPHER_DEFAULT;
}

static void put(workload *w, unsigned i, uint32_t size) {
  static uint8_t data[100000];
  char path[16];
  size_t len = (size_t)snprintf(path, sizeof path, "/d/%u", i % 12);
  sdb_commit commit;
  model_content(i, 0, data, size);
  ck_assert_int_eq(sdb_put(w->db, path, len, data, size, NULL, &commit), SDB_OK);
  ck_assert_msg(model_put(w->model, path, len, i, size, &commit), "%s", model_why(w->model));
}

static void change_names(workload *w) {
  sdb_commit commit;
  ck_assert_int_eq(sdb_bind(w->db, "/d/1", 4, "/name", 5, NULL, &commit), SDB_OK);
  ck_assert_msg(model_bind(w->model, "/d/1", 4, "/name", 5, &commit), "%s", model_why(w->model));
  ck_assert_int_eq(sdb_delete(w->db, "/d/2", 4, NULL, &commit), SDB_OK);
  ck_assert_msg(model_delete(w->model, "/d/2", 4, &commit), "%s", model_why(w->model));
  ck_assert_int_eq(sdb_unbind(w->db, "/d/1", 4, NULL, &commit), SDB_OK);
  ck_assert_msg(model_unbind(w->model, "/d/1", 4, &commit), "%s", model_why(w->model));
}

/* Groups begin at sectors; in a group records stand one behind the other, and zeros follow. */
static void find_records(void) {
  record_count = 0;
  for (size_t i = 0; sim_name(base_device, i) != NULL; i++) {
    static uint8_t bytes[SEGMENT];
    const char *name = sim_name(base_device, i);
    if (strstr(name, ".log.") == NULL || !sim_peek(base_device, name, 0, bytes, SEGMENT)) continue;
    for (uint32_t at = SECTOR; at < SEGMENT - SECTOR;) {
      uint32_t len = bytes[at + 4] | (uint32_t)bytes[at + 5] << 8 | (uint32_t)bytes[at + 6] << 16;
      if (len < RECORD_HEAD || len > SEGMENT - at) {
        at = at / SECTOR * SECTOR + SECTOR;
        continue;
      }
      ck_assert_uint_lt(record_count, RECORDS);
      place *r = &records[record_count++];
      snprintf(r->name, sizeof r->name, "%s", name);
      r->offset = at;
      r->len = (len + 7) / 8 * 8;
      at += r->len;
    }
  }
}

static void set_up(void) {
  workload w;
  bool more;
  base_device = sim_new(1);
  session_init(&w, base_device, model_new(2));
  ck_assert_msg(workload_open(&w), "%s", w.why);
  for (unsigned i = 0; i < 12; i++) put(&w, i, 100);
  ck_assert_msg(workload_close(&w) && workload_open(&w), "%s", w.why);
  for (unsigned i = 20; i < 40; i++) put(&w, i, i == 25 ? 90000 : i % 4 == 0 ? 1500 : 40 + i);
  change_names(&w);
  for (int i = 0; i < 5; i++) {
    sim_advance(base_device, 1100);
    ck_assert_int_eq(sdb_step(w.db, 10, &more), SDB_OK);
  }
  sim_die_at(base_device, 1);
  sdb_close(w.db);
  sim_crash(base_device, SIM_DROP_ALL, 1);
  base_model = w.model;
  find_records();
  ck_assert_uint_ge(record_count, 24);
  memset(&sum, 0, sizeof sum);
}

static void tear_down(const char *what) {
  printf("%s%s: %u damages, %u refused, %u with an older state\n", what, encrypted ? ", encrypted" : "", sum.damages, sum.refused,
         sum.older);
  model_free(base_model);
  sim_free(base_device);
}

/* --- Judging ------------------------------------------------------------------------------------------------------------------ */

static void judge_state(workload *w) {
  sdb_stats stats = {.size = sizeof stats};
  sdb_info info;
  size_t all = model_commits(w->model);
  ck_assert_int_eq(sdb_get_stats(w->db, &stats), SDB_OK);
  model_require(w->model, 0);
  if (!model_adopt(w->model, w->db)) report("the state", model_why(w->model));
  int code = sdb_stat(w->db, "/never", 6, SDB_CURRENT, &info);
  if (code != (stats.log_damaged ? SDB_CORRUPT : SDB_NOT_FOUND)) report("an absent path", sdb_strerror(code));
  if (model_commits(w->model) == all) return;
  sum.older++;
  if (!stats.log_damaged) report("commits are missing", "and nobody says that the log is damaged");
  code = sdb_put(w->db, "/x", 2, "x", 1, NULL, NULL);
  if (code != SDB_READ_ONLY) report("a put into a damaged database", sdb_strerror(code));
}

/* `writing`: a handle that would write; else one that only reads, on the device itself. */
static void judge(sim *device, bool writing) {
  workload w;
  sim *own = writing ? sim_clone(device, 1) : device;
  session_init(&w, own, model_clone(base_model));
  w.options.create = false;
  w.options.read_only = !writing;
  sum.damages++;
  int code = sdb_open(WORKLOAD_NAME, &w.options, &w.db);
  if (code == SDB_OK) {
    judge_state(&w);
    sdb_close(w.db);
  } else if (code != SDB_CORRUPT && code != SDB_MISMATCH) {
    report("open", sdb_strerror(code));
  } else {
    sum.refused++;
  }
  w.db = NULL;
  if (sim_open_files(own) != 0 || sim_allocations(own) != 0) report("after closing", "memory is held or a file is open");
  workload_clear(&w);
  if (writing) sim_free(own);
}

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

static void flip(const char *name, uint64_t at, unsigned turn) {
  uint8_t byte, other;
  ck_assert(sim_peek(base_device, name, at, &byte, 1));
  other = byte ^ (uint8_t)(1u << at % 8);
  snprintf(damage, sizeof damage, "SDB_AT=%" PRIu64 " of %s flipped", at, name);
  ck_assert(sim_poke(base_device, name, at, &other, 1));
  judge(base_device, turn % 16 == 0);
  ck_assert(sim_poke(base_device, name, at, &byte, 1));
}

static bool in_record(const char *name, uint64_t at) {
  for (unsigned i = 0; i < record_count; i++)
    if (strcmp(records[i].name, name) == 0 && at >= records[i].offset && at < records[i].offset + records[i].len) return true;
  return false;
}

/* Every nth byte of records; of heads, which stand twice, and of padding fewer. */
START_TEST(every_byte_flipped) {
  encrypted = _i == 1;
  set_up();
  uint64_t stride = seed_number("SDB_STRIDE", seed_thin() * (encrypted ? 19 : 7)), only = seed_number("SDB_AT", UINT64_MAX);
  unsigned turn = 0;
  for (size_t i = 0; sim_name(base_device, i) != NULL; i++) {
    const char *name = sim_name(base_device, i);
    uint64_t size = 0, counted = 0;
    if (strstr(name, ".log.") == NULL || !sim_size(base_device, name, &size)) continue;
    for (uint64_t at = 0; at < size; at++) {
      bool wanted = only != UINT64_MAX ? at == only : counted++ % (stride * (stride == 1 || in_record(name, at) ? 1 : 40)) == 0;
      if (wanted) flip(name, at, turn++);
    }
  }
  tear_down("bytes of the log flipped");
}
END_TEST

static void read_record(unsigned i, uint8_t *bytes) {
  ck_assert(sim_peek(base_device, records[i].name, records[i].offset, bytes, records[i].len));
}

static void write_at(sim *device, unsigned i, const uint8_t *bytes, uint32_t len) {
  if (len > SEGMENT - records[i].offset) len = SEGMENT - records[i].offset;
  ck_assert(sim_poke(device, records[i].name, records[i].offset, bytes, len));
}

enum { ZEROED, EXCHANGED, REPEATED, CUT_BEFORE, CUT_INSIDE, DAMAGES };

static void damage_record(sim *device, unsigned i, int what) {
  static const char *const names[] = {"zeroed", "exchanged with the next", "written over with the one before", "cut off",
                                      "cut in two"};
  static uint8_t one[SEGMENT], two[SEGMENT];
  snprintf(damage, sizeof damage, "record %u of %u (%s at %u) %s", i, record_count, records[i].name, records[i].offset,
           names[what]);
  memset(one, 0, sizeof one);
  switch (what) {
    case ZEROED: write_at(device, i, one, records[i].len); break;
    case EXCHANGED:
      read_record(i, one);
      read_record(i + 1, two);
      write_at(device, i, two, records[i + 1].len);
      write_at(device, i + 1, one, records[i].len);
      break;
    case REPEATED:
      read_record(i - 1, one);
      write_at(device, i, one, records[i - 1].len);
      break;
    case CUT_BEFORE: ck_assert(sim_cut(device, records[i].name, records[i].offset)); break;
    default: ck_assert(sim_cut(device, records[i].name, records[i].offset + records[i].len / 2)); break;
  }
}

/* A log that lost its last commit and the mark behind it at once looks like one that was torn; no log can tell. So the last two are
 * not exchanged. */
START_TEST(every_record_damaged) {
  encrypted = _i == 1;
  set_up();
  for (unsigned i = 0; i < record_count; i++) {
    for (int what = 0; what < DAMAGES; what++) {
      if ((what == EXCHANGED && i + 2 >= record_count) || (what == REPEATED && i == 0)) continue;
      for (int writing = 0; writing < 2; writing++) {
        sim *device = sim_clone(base_device, 1);
        damage_record(device, i, what);
        judge(device, writing == 1);
        sim_free(device);
      }
    }
  }
  tear_down("records damaged");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("every record");
  TCase *t = tcase_create("every record");
  tcase_set_timeout(t, 0); /* SDB_STRIDE decides how long it takes */
  tcase_add_loop_test(t, every_byte_flipped, 0, 2);
  tcase_add_loop_test(t, every_record_damaged, 0, 2);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
