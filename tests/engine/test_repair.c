/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_repair.c - a database that lost headers, map, table, trees, log, or any one bit, and what repair makes of it.
 *
 * Whatever the damage: no crash, no wrong byte, the damaged files stay byte for byte as they are, and every document whose record
 * and content still verify is in the new database, which check finds whole. Deleted documents come back only where everything that
 * knew of their end is lost, and then they are told as doubtful.
 *
 * Environment: SDB_SEED, SDB_SEEDS (seed.h); each seed is one damage.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/care.h"
#include "seed.h"
#include "workload.h"

#define DOCUMENTS 120u
#define DELETED 25u
#define PAGE 4096u
#define MENDED "mended.sdb"

static const uint8_t secret[SDB_KEY_SIZE] = "an example of a key, 32 bytes ..";
static const uint8_t *key; /* NULL: not encrypted */
static sim *base_device;   /* closed, or as a crash left it */

typedef struct tally {
  unsigned saved, lost, doubtful;
} tally;

/* --- The database to damage --------------------------------------------------------------------------------------------------- */

static size_t path_of(uint64_t i, char *path) { return (size_t)snprintf(path, 32, "/d/%03" PRIu64, i); }
static uint32_t size_of(uint64_t i) { return i % 40 == 3 ? 70000 : i % 3 == 0 ? 3000 : 40 + (uint32_t)i; }
static uint32_t versions_of(uint64_t i) { return i % 10 == 0 ? 3 : i % 5 == 0 ? 2 : 1; }
static uint64_t seed_of(uint64_t i, uint32_t version) { return (version - 1) * 1000 + i; }
static bool has_name(uint64_t i) { return i % 7 == 0; }
static size_t name_of(uint64_t i, char *name) { return (size_t)snprintf(name, 32, "/n/%03" PRIu64, i); }

static void put(sdb *db, uint64_t i, uint64_t seed) {
  static uint8_t data[70000];
  char path[32];
  sdb_put_options o;
  sdb_put_options_init(&o);
  if (i % 2 == 0) {
    o.content_type = "text/plain";
    o.metadata = "meta";
    o.metadata_len = 4;
    o.expires_ms = 4102444800000; /* 2100 */
  }
  model_content(seed, 0, data, size_of(i));
  size_t len = path_of(i, path);
  ck_assert_int_eq(sdb_put(db, path, len, data, size_of(i), &o, NULL), SDB_OK);
}

/* Second and third versions, and further names before and behind them. */
static void put_again(sdb *db) {
  char path[32], name[32];
  for (uint64_t i = 0; i < DOCUMENTS; i++) {
    if (has_name(i) && i % 2 == 0)
      ck_assert_int_eq(sdb_bind(db, path, path_of(i, path), name, name_of(i, name), NULL, NULL), SDB_OK);
    for (uint32_t v = 2; v <= versions_of(i); v++) put(db, i, seed_of(i, v));
    if (has_name(i) && i % 2 == 1)
      ck_assert_int_eq(sdb_bind(db, path, path_of(i, path), name, name_of(i, name), NULL, NULL), SDB_OK);
  }
}

static void options_for(sdb_options *o, const sim *device) {
  sdb_options_init(o);
  o->storage = sim_storage(device);
  o->threads = false;
  o->use_mmap = false;
  o->page_size = PAGE;
  o->page_cache_size = 64;
  o->wal_segment_size = 65536;
  o->checkpoint_wal_bytes = 8 << 20;
  o->change_log_bytes = 0;
  o->versions_to_keep = 3;
  o->encryption_key = key;
}

/* Documents, some with two versions, and some that were deleted after others took their place. */
static void fill(sdb *db) {
  char path[32];
  for (uint64_t i = 0; i < DELETED; i++) put(db, 500 + i, i);
  for (uint64_t i = 0; i < DOCUMENTS; i++) put(db, i, i);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  for (uint64_t i = 0; i < DELETED; i++) ck_assert_int_eq(sdb_delete(db, path, path_of(500 + i, path), NULL, NULL), SDB_OK);
  put_again(db);
}

static void make_base(bool closed) {
  sdb_options o;
  sdb *db;
  base_device = sim_new(1);
  options_for(&o, base_device);
  ck_assert_int_eq(sdb_open(WORKLOAD_NAME, &o, &db), SDB_OK);
  if (closed) {
    fill(db);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
  } else {
    for (uint64_t i = 0; i < DELETED; i++) put(db, 500 + i, i);
    for (uint64_t i = 0; i < DOCUMENTS; i++) put(db, i, i);
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    char path[32];
    for (uint64_t i = 0; i < DELETED; i++) ck_assert_int_eq(sdb_delete(db, path, path_of(500 + i, path), NULL, NULL), SDB_OK);
    put_again(db);
    sim_die_at(base_device, 1);
    sdb_close(db);
  }
  sim_crash(base_device, SIM_KEEP_ALL, 1);
}

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

static void zero(sim *device, const char *name, uint64_t offset, uint64_t len) {
  static const uint8_t zeros[PAGE];
  uint64_t size;
  ck_assert(sim_size(device, name, &size));
  for (; len > 0 && offset < size; offset += PAGE, len -= len < PAGE ? len : PAGE)
    ck_assert(sim_poke(device, name, offset, zeros, len < PAGE ? (size_t)len : PAGE));
}

/* Zeroes every page with a unit header of one of these kinds (a bit each); returns how many. */
static unsigned zero_kinds(sim *device, unsigned kinds) {
  uint64_t size;
  unsigned count = 0;
  ck_assert(sim_size(device, WORKLOAD_NAME, &size));
  for (uint64_t at = 393216; at + PAGE <= size; at += PAGE) {
    uint8_t head[64];
    ck_assert(sim_peek(device, WORKLOAD_NAME, at, head, sizeof head));
    bool page = head[5] == 1 && head[4] >= 1 && head[4] <= 5 && head[6] <= 1 && head[7] == 0;
    if (!page || !(kinds >> head[4] & 1)) continue;
    zero(device, WORKLOAD_NAME, at, PAGE);
    count++;
  }
  return count;
}

static void zero_logs(sim *device, bool wholly) {
  for (size_t i = 0; sim_name(device, i) != NULL; i++) {
    uint64_t size;
    if (!strstr(sim_name(device, i), ".log.") || !sim_size(device, sim_name(device, i), &size)) continue;
    zero(device, sim_name(device, i), wholly ? 0 : 8192, wholly ? size : 4096);
  }
}

/* --- Judging ------------------------------------------------------------------------------------------------------------------ */

/* What is told of a document is true of it. Of what is lost it may be no more than the number. */
static void judge_item(const sdb_repair_item *item) {
  uint64_t document = 0, i = UINT64_MAX;
  for (int b = 11; b < 16; b++) document = document << 8 | item->id[b];
  ck_assert(item->reason != NULL && strlen(item->reason) > 10);
  ck_assert_uint_gt(document, 0);
  if (item->path != NULL) {
    char path[32] = "";
    ck_assert_uint_lt(item->path_len, sizeof path);
    memcpy(path, item->path, item->path_len);
    if (sscanf(path, "/d/%" SCNu64, &i) != 1) ck_assert_int_eq(sscanf(path, "/n/%" SCNu64, &i), 1);
  }
  if (item->kind == SDB_REPAIR_LOST) return;
  ck_assert_msg(i < DOCUMENTS || (i >= 500 && i < 500 + DELETED), "a document that never was: %" PRIu64, i);
  ck_assert_uint_eq(item->size, size_of(i));
  ck_assert_uint_ge(item->version, 1);
  ck_assert_uint_le(item->version, i >= 500 ? 1 : versions_of(i));
  ck_assert(item->id[6] >> 4 == 7 && item->id[8] >> 6 == 2);
}

static void count_item(void *user, const sdb_repair_item *item) {
  tally *t = user;
  judge_item(item);
  t->saved += item->kind == SDB_REPAIR_SAVED;
  t->lost += item->kind == SDB_REPAIR_LOST;
  t->doubtful += item->kind == SDB_REPAIR_DOUBTFUL;
}

static uint64_t fingerprint(const sim *device, const char *but) {
  uint64_t sum = 0;
  static uint8_t part[65536];
  for (size_t i = 0; sim_name(device, i) != NULL; i++) {
    const char *name = sim_name(device, i);
    uint64_t size;
    if (but && strncmp(name, but, strlen(but)) == 0) continue;
    ck_assert(sim_size(device, name, &size));
    for (uint64_t at = 0; at < size; at += sizeof part) {
      size_t len = size - at < sizeof part ? (size_t)(size - at) : sizeof part;
      ck_assert(sim_peek(device, name, at, part, len));
      sum = sum * 31 + sdb_crc32c((uint32_t)size, part, len);
    }
  }
  return sum;
}

typedef struct verdict {
  unsigned current, older, missing,
      deleted; /* documents at their last version, at an older one, not there; deleted ones that are back */
  unsigned older_missing, names_missing, sections_missing;
} verdict;

static void judge_older(sdb *db, uint64_t i, const sdb_info *current, verdict *v, const char *what) {
  static uint8_t expected[70000];
  char path[32];
  for (uint32_t n = current->version - 1; n > 0; n--) {
    void *data;
    size_t size;
    if (sdb_get_alloc(db, path, path_of(i, path), n, &data, &size, NULL) != SDB_OK) {
      v->older_missing++;
      continue;
    }
    model_content(seed_of(i, n), 0, expected, size);
    ck_assert_msg(size == size_of(i) && memcmp(data, expected, size) == 0, "%s: %s version %u: WRONG BYTES", what, path, n);
    sdb_free(db, data);
  }
}

static void judge_sections(sdb *db, uint64_t i, const sdb_info *info, verdict *v, const char *what) {
  char name[32];
  sdb_info other;
  if (has_name(i)) {
    int rc = sdb_stat(db, name, name_of(i, name), SDB_CURRENT, &other);
    ck_assert_msg(rc == SDB_NOT_FOUND || (rc == SDB_OK && memcmp(other.id, info->id, 16) == 0), "%s: %s leads elsewhere", what,
                  name);
    v->names_missing += rc != SDB_OK;
  }
  bool whole = info->content_type_len == 10 && info->metadata_len == 4 && info->expires_ms == 4102444800000;
  if (i % 2 == 0 && !whole) v->sections_missing++;
}

static void judge_document(sdb *db, uint64_t i, verdict *v, const char *what) {
  char path[32];
  void *data;
  size_t size, len = path_of(i, path);
  sdb_info info;
  int rc = sdb_get_alloc(db, path, len, SDB_CURRENT, &data, &size, &info);
  bool dead = i >= 500;
  if (rc == SDB_NOT_FOUND) {
    v->missing += !dead;
    return;
  }
  ck_assert_msg(rc == SDB_OK, "%s: %s: %s", what, path, sdb_strerror(rc));
  static uint8_t expected[70000];
  ck_assert_msg(size == size_of(i), "%s: %s has another size", what, path);
  model_content(dead ? i - 500 : seed_of(i, info.version), 0, expected, size);
  ck_assert_msg(memcmp(data, expected, size) == 0, "%s: %s: WRONG BYTES", what, path);
  ck_assert_msg(info.version >= 1 && info.version <= (dead ? 1 : versions_of(i)), "%s: %s has version %u", what, path,
                info.version);
  sdb_free(db, data);
  v->deleted += dead;
  if (dead) return;
  if (info.version == versions_of(i)) v->current++;
  else v->older++;
  judge_older(db, i, &info, v, what);
  judge_sections(db, i, &info, v, what);
}

static void print_problem(void *user, const char *sentence) { printf("%s: %s\n", (const char *)user, sentence); }

static verdict judge_mended(sim *device, const char *what) {
  verdict v = {0};
  sdb_options o;
  sdb *db;
  options_for(&o, device);
  o.create = false;
  char text[256] = "";
  o.message = text;
  o.message_size = sizeof text;
  ck_assert_msg(sdb_open(MENDED, &o, &db) == SDB_OK, "%s: %s", what, text);
  for (uint64_t i = 0; i < DOCUMENTS; i++) judge_document(db, i, &v, what);
  for (uint64_t i = 500; i < 500 + DELETED; i++) judge_document(db, i, &v, what);
  sdb_check_report r = {.size = sizeof r};
  char name[100];
  snprintf(name, sizeof name, "%s", what);
  ck_assert_int_eq(sdb_check(db, print_problem, name, &r), SDB_OK);
  ck_assert_msg(r.problems == 0, "%s: the new database has problems", what);
  ck_assert_uint_eq(r.documents, v.current + v.older + v.deleted);
  ck_assert_int_eq(sdb_put(db, "/new", 4, "new", 3, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  return v;
}

/* Repairs and judges; nothing but the new database may have changed. */
static int repair(sim *device, const char *what, tally *t, verdict *v, sdb_repair_report *report) {
  sdb_options o;
  char text[256] = "";
  options_for(&o, device);
  o.message = text;
  o.message_size = sizeof text;
  uint64_t before = fingerprint(device, MENDED);
  *t = (tally){0};
  *report = (sdb_repair_report){.size = sizeof *report};
  int rc = sdb_repair(WORKLOAD_NAME, MENDED, &o, count_item, t, report);
  ck_assert_msg(fingerprint(device, MENDED) == before, "%s: the original was changed", what);
  ck_assert_msg(sim_allocations(device) == 0 && sim_open_files(device) == 0, "%s: memory is held or a file is open", what);
  if (rc != SDB_OK) {
    ck_assert_msg(text[0], "%s: no sentence for %s", what, sdb_strerror(rc));
    return rc;
  }
  ck_assert_uint_eq(report->documents, t->saved);
  ck_assert_uint_eq(report->lost, t->lost);
  ck_assert_uint_eq(report->doubtful, t->doubtful);
  *v = judge_mended(device, what);
  return rc;
}

/* --- Losses ------------------------------------------------------------------------------------------------------------------- */

enum loss {
  NOTHING,
  HEADERS,
  FIXED, /* root directories, group directories, map and bitmap chunks */
  MAP_AND_HEADERS,
  TABLE,
  TREES,
  TREES_TABLE_HEADERS,
  LOG_WHOLLY,
  LOG_PARTLY,
  LOG_AND_HEADERS,
  LOSSES
};

static const char *const loss_names[] = {
    "nothing", "headers",           "fixed parts",    "map and headers", "table", "trees", "trees, table and headers",
    "log",     "a part of the log", "log and headers"};

static void lose(sim *device, enum loss loss) {
  if (loss == HEADERS || loss == MAP_AND_HEADERS || loss == TREES_TABLE_HEADERS || loss == LOG_AND_HEADERS)
    zero(device, WORKLOAD_NAME, 0, 131072);
  if (loss == FIXED || loss == MAP_AND_HEADERS) zero(device, WORKLOAD_NAME, 131072, 262144 + 522 * PAGE);
  if (loss == TABLE || loss == TREES_TABLE_HEADERS) ck_assert_uint_gt(zero_kinds(device, 1 << 3 | 1 << 4), 0);
  if (loss == TREES || loss == TREES_TABLE_HEADERS) ck_assert_uint_gt(zero_kinds(device, 1 << 1 | 1 << 2), 0);
  if (loss == LOG_WHOLLY || loss == LOG_AND_HEADERS) zero_logs(device, true);
  if (loss == LOG_PARTLY) zero_logs(device, false);
}

START_TEST(test_losses_when_closed) {
  make_base(true);
  for (enum loss loss = NOTHING; loss < LOSSES; loss++) {
    sim *device = sim_clone(base_device, loss);
    tally t;
    verdict v;
    sdb_repair_report report;
    lose(device, loss);
    int rc = repair(device, loss_names[loss], &t, &v, &report);
    ck_assert_msg(rc == SDB_OK, "%s: %s", loss_names[loss], sdb_strerror(rc));
    bool table_lost = loss == TABLE || loss == TREES_TABLE_HEADERS;
    printf("closed, %s lost: %u current, %u older, %u missing, %u deleted are back, %u doubtful, %u lost\n", loss_names[loss],
           v.current, v.older, v.missing, v.deleted, t.doubtful, t.lost);
    ck_assert_uint_eq(v.current, DOCUMENTS);
    ck_assert_uint_eq(t.lost, 0);
    ck_assert_msg(v.older_missing + v.names_missing + v.sections_missing == 0, "%s: %u older ones, %u names, %u sections missing",
                  loss_names[loss], v.older_missing, v.names_missing, v.sections_missing);
    if (!table_lost) ck_assert_uint_eq(v.deleted + t.doubtful, 0);
    else ck_assert_uint_ge(t.doubtful, v.deleted);
    sim_free(device);
  }
  sim_free(base_device);
}
END_TEST

/* Not closed: the last commits are in the log, and perhaps in pages that were written ahead. Without the log they may be lost. */
START_TEST(test_losses_after_a_crash) {
  make_base(false);
  for (enum loss loss = NOTHING; loss < LOSSES; loss++) {
    sim *device = sim_clone(base_device, loss);
    tally t;
    verdict v;
    sdb_repair_report report;
    lose(device, loss);
    int rc = repair(device, loss_names[loss], &t, &v, &report);
    ck_assert_msg(rc == SDB_OK, "%s: %s", loss_names[loss], sdb_strerror(rc));
    printf("crashed, %s lost: %u current, %u older, %u missing, %u deleted are back, %u doubtful, %u lost\n", loss_names[loss],
           v.current, v.older, v.missing, v.deleted, t.doubtful, t.lost);
    ck_assert_uint_eq(v.missing, 0);
    bool log_lost = loss == LOG_WHOLLY || loss == LOG_PARTLY || loss == LOG_AND_HEADERS;
    if (!log_lost) ck_assert_uint_eq(v.current, DOCUMENTS);
    if (!log_lost) ck_assert_uint_eq(v.deleted + v.names_missing + v.sections_missing, 0);
    sim_free(device);
  }
  sim_free(base_device);
}
END_TEST

/* The same with encryption: the key is wrapped in slots and log segments. */
START_TEST(test_losses_encrypted) {
  key = secret;
  for (unsigned closed = 0; closed < 2; closed++) {
    make_base(closed);
    for (enum loss loss = NOTHING; loss < LOG_WHOLLY; loss++) {
      sim *device = sim_clone(base_device, loss);
      tally t;
      verdict v;
      sdb_repair_report report;
      lose(device, loss);
      int rc = repair(device, loss_names[loss], &t, &v, &report);
      ck_assert_msg(rc == SDB_OK, "%s: %s", loss_names[loss], sdb_strerror(rc));
      ck_assert_msg(v.current == DOCUMENTS && t.lost == 0, "%s: %u current, %u lost", loss_names[loss], v.current, t.lost);
      ck_assert_msg(v.deleted <= t.doubtful, "%s: %u deleted ones are back", loss_names[loss], v.deleted);
      sim_free(device);
    }
    sim *device = sim_clone(base_device, 1);
    sdb_options o;
    options_for(&o, device);
    o.encryption_key = NULL;
    ck_assert_int_eq(sdb_repair(WORKLOAD_NAME, MENDED, &o, NULL, NULL, NULL), SDB_WRONG_KEY);
    o.encryption_key = key;
    lose(device, LOG_AND_HEADERS);
    ck_assert_int_eq(sdb_repair(WORKLOAD_NAME, MENDED, &o, NULL, NULL, NULL), SDB_WRONG_KEY);
    ck_assert_uint_eq(sim_allocations(device), 0);
    sim_free(device);
    sim_free(base_device);
  }
  key = NULL;
}
END_TEST

/* --- Any one bit -------------------------------------------------------------------------------------------------------------- */

START_TEST(test_any_bit) {
  make_base(true);
  uint64_t first, count = seed_range("repair, any bit", 500, &first), touched = 0;
  for (uint64_t seed = first; seed < first + count; seed++) {
    sim *device = sim_clone(base_device, seed);
    uint64_t random = seed, size, offset;
    uint8_t byte, sector[SIM_SECTOR];
    char what[100];
    ck_assert(sim_size(device, WORKLOAD_NAME, &size));
    for (int i = 0; i < 300; i++) {
      offset = sim_random(&random) % size;
      ck_assert(sim_peek(device, WORKLOAD_NAME, offset / SIM_SECTOR * SIM_SECTOR, sector, sizeof sector));
      bool empty = true;
      for (size_t k = 0; k < sizeof sector; k++) empty = empty && sector[k] == 0;
      if (!empty) break;
    }
    ck_assert(sim_peek(device, WORKLOAD_NAME, offset, &byte, 1));
    byte ^= (uint8_t)(1u << sim_random(&random) % 8);
    ck_assert(sim_poke(device, WORKLOAD_NAME, offset, &byte, 1));
    snprintf(what, sizeof what, "seed %" PRIu64 ", byte %" PRIu64 " (page %" PRIu64 ")", seed, offset, offset / PAGE);
    if (seed % 4 == 0) zero(device, WORKLOAD_NAME, 0, 131072); /* and no header either */
    tally t;
    verdict v;
    sdb_repair_report report;
    int rc = repair(device, what, &t, &v, &report);
    ck_assert_msg(rc == SDB_OK, "%s: %s", what, sdb_strerror(rc));
    /* Behind a record whose lengths are damaged an older copy, before a name came, is surer. */
    ck_assert_msg(v.sections_missing <= 1 && v.names_missing <= 4 && v.older_missing <= 2,
                  "%s: %u sections, %u names, %u older ones missing", what, v.sections_missing, v.names_missing, v.older_missing);
    ck_assert_msg(v.older + v.missing <= 1, "%s: %u older, %u missing", what, v.older, v.missing);
    ck_assert_msg(v.older + v.missing == 0 || t.lost > 0, "%s: the loss was not told", what);
    bool identity = offset % PAGE < 24; /* of a page: then nobody can tell that it was the newest of its name */
    ck_assert_msg(identity || t.doubtful >= v.deleted, "%s: %u deleted ones are back, %u are told as doubtful", what, v.deleted,
                  t.doubtful);
    touched += v.older + v.missing;
    sim_free(device);
  }
  printf("repair, any bit: %" PRIu64 " of %" PRIu64 " damages cost a version\n", touched, count);
  sim_free(base_device);
}
END_TEST

/* --- Failing calls ------------------------------------------------------------------------------------------------------------ */

static const struct {
  const char *name;
  enum sim_kind kind;
  int code;
} kinds[] = {{"alloc", SIM_ALLOC, SDB_NO_MEMORY}, {"read", SIM_READ, SDB_IO},    {"write", SIM_WRITE, SDB_IO},
             {"full", SIM_WRITE, SDB_FULL},       {"sync", SIM_SYNC, SDB_IO},    {"size", SIM_SIZE, SDB_FULL},
             {"name", SIM_NAME, SDB_IO},          {"random", SIM_RANDOM, SDB_IO}};

START_TEST(test_failing_calls) {
  make_base(false);
  uint64_t runs = 0;
  for (unsigned lost = 0; lost < 2; lost++) {
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
      bool reached = true;
      for (uint64_t nth = 1; reached; nth += 1 + nth / 8, runs++) {
        sim *device = sim_clone(base_device, nth);
        sdb_options o;
        char what[100];
        if (lost) zero(device, WORKLOAD_NAME, 0, 131072);
        uint64_t before = fingerprint(device, MENDED);
        options_for(&o, device);
        sim_fail(device, kinds[kind].kind, nth, nth % 2 == 0, kinds[kind].code);
        int rc = sdb_repair(WORKLOAD_NAME, MENDED, &o, NULL, NULL, NULL);
        reached = sim_failed(device);
        sim_fail_nothing(device);
        snprintf(what, sizeof what, "%s %" PRIu64 " fails", kinds[kind].name, nth);
        ck_assert_msg(rc == SDB_OK || reached, "%s: %s", what, sdb_strerror(rc));
        ck_assert_msg(sim_allocations(device) == 0 && sim_open_files(device) == 0, "%s: memory is held or a file is open", what);
        ck_assert_msg(fingerprint(device, MENDED) == before, "%s: the original was changed", what);
        uint64_t size;
        if (rc == SDB_OK) (void)judge_mended(device, what);
        else if (sim_size(device, MENDED, &size)) (void)judge_mended(device, what); /* only its name was not synced */
        sim_free(device);
      }
    }
  }
  printf("repair, failing calls: %" PRIu64 " runs\n", runs);
  sim_free(base_device);
}
END_TEST

START_TEST(test_refusals) {
  make_base(true);
  sdb_options o;
  options_for(&o, base_device);
  char text[256] = "";
  o.message = text;
  o.message_size = sizeof text;
  ck_assert_int_eq(sdb_repair(WORKLOAD_NAME, WORKLOAD_NAME, &o, NULL, NULL, NULL), SDB_EXISTS);
  ck_assert_int_eq(sdb_repair("none", MENDED, &o, NULL, NULL, NULL), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_repair("", MENDED, &o, NULL, NULL, NULL), SDB_INVALID);
  sdb *db;
  ck_assert_int_eq(sdb_open(WORKLOAD_NAME, &o, &db), SDB_OK);
  ck_assert_int_eq(sdb_repair(WORKLOAD_NAME, MENDED, &o, NULL, NULL, NULL), SDB_LOCKED);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  uint64_t size;
  ck_assert(sim_size(base_device, WORKLOAD_NAME, &size));
  zero(base_device, WORKLOAD_NAME, 0, size);
  ck_assert_int_eq(sdb_repair(WORKLOAD_NAME, MENDED, &o, NULL, NULL, NULL), SDB_NOT_A_DATABASE);
  ck_assert(!sim_size(base_device, MENDED, &size));
  ck_assert_uint_eq(sim_allocations(base_device), 0);
  sim_free(base_device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("repair");
  TCase *repair_case = tcase_create("repair");
  tcase_set_timeout(repair_case, 0);
  tcase_add_test(repair_case, test_losses_when_closed);
  tcase_add_test(repair_case, test_losses_after_a_crash);
  tcase_add_test(repair_case, test_losses_encrypted);
  tcase_add_test(repair_case, test_any_bit);
  tcase_add_test(repair_case, test_failing_calls);
  tcase_add_test(repair_case, test_refusals);
  suite_add_tcase(suite, repair_case);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
