/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_space.c - what the data file takes on the device: free space is given back, taken again, and never needed in vain. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"
#include "seed.h"
#include "simulated.h"

enum { DOCUMENTS = 6000, LEN = 1500, PAGE = 8192, SEEDS = 4 };

static uint8_t bytes[LEN];
static uint32_t version[DOCUMENTS]; /* what was put last; 0: deleted */

static size_t path_of(unsigned i, char path[32]) { return (size_t)snprintf(path, 32, "/space/%06u", i * 7919 % 1000000); }

static sdb_options options_on(const sim *device) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.page_size = PAGE;
  o.page_cache_size = 256;
  o.use_compression = false;
  o.durability = SDB_BUFFERED;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 2 << 20;
  o.change_log_bytes = 0;
  return o;
}

static sdb *open_on(const sim *device) {
  char message[256] = "";
  sdb_options o = options_on(device);
  sdb *db = NULL;
  o.message = message;
  o.message_size = sizeof message;
  int rc = sdb_open("space.sdb", &o, &db);
  ck_assert_msg(rc == SDB_OK, "%s", message);
  return db;
}

static int put(sdb *db, unsigned i, uint32_t n) {
  char path[32];
  size_t len = path_of(i, path);
  memset(bytes, (int)(i * 31 + n * 7 + 1), LEN);
  int rc = sdb_put(db, path, len, bytes, LEN, NULL, NULL);
  if (rc == SDB_OK) version[i] = n;
  return rc;
}

static int drop(sdb *db, unsigned i) {
  char path[32];
  int rc = sdb_delete(db, path, path_of(i, path), NULL, NULL);
  if (rc == SDB_OK) version[i] = 0;
  return rc;
}

static void tell(void *user, const char *sentence) {
  (void)user;
  printf("%s\n", sentence);
}

static void verify(sdb *db, uint64_t seed) {
  uint8_t found[LEN];
  char path[32];
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    size_t size = 0;
    int rc = sdb_get(db, path, path_of(i, path), SDB_CURRENT, found, LEN, &size, NULL);
    ck_assert_msg(rc == (version[i] ? SDB_OK : SDB_NOT_FOUND), "seed %" PRIu64 ": document %u: %s", seed, i, sdb_strerror(rc));
    if (rc == SDB_OK) ck_assert_uint_eq(found[LEN - 1], (uint8_t)(i * 31 + version[i] * 7 + 1));
  }
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(db, tell, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
}

static sdb_stats stats_of(sdb *db) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

static sdb *filled(const sim *device) {
  sdb *db = open_on(device);
  for (unsigned i = 0; i < DOCUMENTS; i++) ck_assert_int_eq(put(db, i, 1), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  return db;
}

static void drop_nine_of_ten(sdb *db, uint64_t *random) {
  uint64_t left = sim_random(random) % 10;
  for (unsigned i = 0; i < DOCUMENTS; i++)
    if (i % 10 != left) ck_assert_int_eq(drop(db, i), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
}

/* --- Given back --------------------------------------------------------------------------------------------------------------- */

START_TEST(test_deleted_space_is_given_back) {
  uint64_t first, count = seed_range("space", SEEDS, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed;
    sim *device = sim_new(seed);
    sdb *db = filled(device);
    uint64_t before = stats_of(db).allocated_bytes;
    drop_nine_of_ten(db, &random);
    sdb_stats s = stats_of(db);
    uint64_t left = s.content_bytes + s.documents * 50, log = s.log_bytes, held = sim_bytes_used(device);
    printf("seed %" PRIu64 ": %" PRIu64 " bytes on the device before, %" PRIu64 " of %" PRIu64 " after; %" PRIu64 " are left\n",
           seed, before, s.allocated_bytes, s.file_bytes, left);
    ck_assert_uint_lt(s.allocated_bytes, before / 3);
    /* The head of the group and the reserve of a checkpoint are there in the smallest database too. */
    ck_assert_uint_le(s.allocated_bytes, 2 * left + (132 + 128 + 48 + 256 / 4) * PAGE);
    ck_assert_uint_le(held, s.allocated_bytes + log + (1 << 20) + 65536); /* a segment's removal may not be durable yet */
    verify(db, seed);
    for (unsigned i = 0; i < DOCUMENTS; i += 2) ck_assert_int_eq(put(db, i, 2), SDB_OK); /* and taken again */
    verify(db, seed);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    db = open_on(device); /* which pages were punched out is not known any more */
    for (unsigned i = 1; i < DOCUMENTS; i += 2) ck_assert_int_eq(put(db, i, 3), SDB_OK);
    verify(db, seed);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
}
END_TEST

/* --- The power fails while space is given back -------------------------------------------------------------------------------- */

static uint64_t punched;

static void count_punches(void *user, const sim_event *event) {
  sim *device = user;
  if (strcmp(event->call, "punch") == 0 && --punched == 0) sim_die_now(device);
}

START_TEST(test_crash_while_punching) {
  uint64_t first, count = seed_range("space crash", 2 * SEEDS, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed, left;
    sim *device = sim_new(seed);
    sdb *db = filled(device);
    left = sim_random(&random) % 10;
    for (unsigned i = 0; i < DOCUMENTS; i++)
      if (i % 10 != left) ck_assert_int_eq(drop(db, i), SDB_OK);
    ck_assert_int_eq(sdb_flush(db), SDB_OK);
    punched = 1;
    sim_watch(device, count_punches, device);
    for (unsigned round = 0; round < 3 && !sim_dead(device); round++) {
      int rc = sdb_checkpoint(db);
      ck_assert(rc == SDB_OK || sim_dead(device));
    }
    ck_assert_msg(sim_dead(device), "seed %" PRIu64 ": nothing was punched out", seed);
    sim_watch(device, NULL, NULL);
    sdb_close(db);
    sim_crash(device, SIM_RANDOM_SUBSET, seed);
    db = open_on(device);
    verify(db, seed);
    for (unsigned i = 0; i < DOCUMENTS; i += 3) ck_assert_int_eq(put(db, i, 2), SDB_OK);
    verify(db, seed);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
}
END_TEST

static uint64_t events;

static void count_events(void *user, const sim_event *event) {
  sim *device = user;
  (void)event;
  if (--events == 0) sim_die_now(device);
}

/* Documents that were written over at random stand all over the file. The power fails at the given event of the checkpoint that
 * brings them together; returns how many there were. */
static uint64_t crash_while_gathering(uint64_t seed, uint64_t at) {
  uint64_t random = seed;
  sim *device = sim_new(seed);
  sdb *db = filled(device);
  for (unsigned i = 0; i < 6 * DOCUMENTS; i++) {
    bool more;
    ck_assert_int_eq(put(db, (unsigned)(sim_random(&random) % DOCUMENTS), 2 + i / DOCUMENTS), SDB_OK);
    if (i % 16 == 0) ck_assert_int_eq(sdb_step(db, 8, &more), SDB_OK);
  }
  ck_assert_int_eq(sdb_flush(db), SDB_OK);
  events = at;
  sim_watch(device, count_events, device);
  int rc = sdb_checkpoint(db);
  ck_assert(rc == SDB_OK || sim_dead(device));
  sim_watch(device, NULL, NULL);
  uint64_t seen = at - events;
  sdb_close(db);
  sim_crash(device, SIM_RANDOM_SUBSET, seed);
  db = open_on(device);
  verify(db, seed);
  for (unsigned i = 0; i < DOCUMENTS; i += 3) ck_assert_int_eq(put(db, i, 2), SDB_OK);
  verify(db, seed);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
  return seen;
}

START_TEST(test_crash_while_gathering) {
  uint64_t first, count = seed_range("gathering crash", SEEDS, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed + 1000, all = crash_while_gathering(seed, UINT64_MAX);
    ck_assert_uint_gt(all, 100);
    (void)crash_while_gathering(seed, 1 + sim_random(&random) % all);
  }
}
END_TEST

/* --- The device is full when space is needed again ---------------------------------------------------------------------------- */

/* Somebody else took what was given back. Deletes and checkpoints work from the reserve; writing resumes by itself. */
START_TEST(test_given_back_and_gone) {
  uint64_t first, count = seed_range("space full", SEEDS, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed;
    unsigned refused = 0;
    sim *device = sim_new(seed);
    sdb *db = filled(device);
    drop_nine_of_ten(db, &random);
    bool reopen = seed % 2;
    if (reopen) {
      ck_assert_int_eq(sdb_close(db), SDB_OK);
      db = open_on(device);
      ck_assert_int_eq(put(db, 0, 2), SDB_OK); /* the log takes its space */
      ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    }
    sim_limit(device, sim_bytes_used(device));
    for (unsigned i = 0; i < DOCUMENTS; i++) {
      int rc = put(db, i, 4);
      ck_assert_msg(rc == SDB_OK || rc == SDB_FULL, "seed %" PRIu64 ": put %u: %s", seed, i, sdb_strerror(rc));
      refused += rc == SDB_FULL;
    }
    ck_assert_uint_gt(refused, 0);
    verify(db, seed);
    for (unsigned i = 0; i < DOCUMENTS; i++) {
      int rc = version[i] && i % 2 ? drop(db, i) : SDB_OK;
      ck_assert_msg(rc == SDB_OK, "seed %" PRIu64 ": delete %u: %s", seed, i, sdb_strerror(rc));
    }
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    verify(db, seed);
    sim_limit(device, UINT64_MAX);
    for (unsigned i = 0; i < DOCUMENTS; i++) ck_assert_int_eq(put(db, i, 5), SDB_OK);
    verify(db, seed);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
}
END_TEST

/* --- Overwritten again and again ---------------------------------------------------------------------------------------------- */

/* What any database has: the head of the group, and the reserve of a checkpoint. */
enum { FIXED = (132 + 128 + 48 + 256 / 4) * PAGE, CHURNED = 4000, LARGEST = 2048 };

static uint32_t sizes[2][CHURNED]; /* of the current version and of the one before */

static uint64_t kept_bytes(unsigned documents) {
  uint64_t sum = 0;
  char path[32];
  for (unsigned i = 0; i < documents; i++)
    for (unsigned k = 0; k < 2; k++)
      if (sizes[k][i]) sum += sizes[k][i] + path_of(i, path);
  return sum;
}

static void churn(sdb *db, unsigned i, uint64_t *random) {
  static uint8_t content[LARGEST];
  char path[32];
  size_t len = path_of(i, path);
  sizes[1][i] = sizes[0][i];
  sizes[0][i] = 200 + (uint32_t)(sim_random(random) % (LARGEST - 199));
  memset(content, (int)i, sizes[0][i]);
  ck_assert_int_eq(sdb_put(db, path, len, content, sizes[0][i], NULL, NULL), SDB_OK);
}

/* Of the heap at any time, and of the file at rest, in proportion to what is kept; `step`: somebody calls sdb_step, so that commits
 * hardly have to help. */
static void churn_round(sdb *db, uint64_t *random, bool step) {
  bool more;
  for (unsigned i = 0; i < CHURNED; i++) {
    churn(db, (unsigned)(sim_random(random) % CHURNED), random);
    if (step && i % 16 == 0) ck_assert_int_eq(sdb_step(db, 8, &more), SDB_OK);
    sdb_stats s = stats_of(db);
    ck_assert_uint_le(s.heap_pages * PAGE, s.heap_live_bytes * 8 / 5 + 96 * PAGE);
  }
}

START_TEST(test_churn_is_bounded) {
  uint64_t first, count = seed_range("space churn", SEEDS, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed;
    sim *device = sim_new(seed);
    sdb *db = open_on(device);
    memset(sizes, 0, sizeof sizes);
    for (unsigned i = 0; i < CHURNED; i++) churn(db, i, &random);
    for (unsigned round = 1; round < 10; round++) churn_round(db, &random, seed % 2);
    ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    sdb_stats s = stats_of(db);
    uint64_t kept = kept_bytes(CHURNED), left = kept_bytes(CHURNED / 10);
    ck_assert_uint_le(s.allocated_bytes, kept * 9 / 5 + FIXED);
    ck_assert_uint_le(s.heap_pages * PAGE, s.heap_live_bytes * 4 / 3 + 8 * PAGE);
    printf("seed %" PRIu64 ": %" PRIu64 " bytes for %" PRIu64 ", ", seed, s.allocated_bytes, kept);
    for (unsigned i = CHURNED / 10; i < CHURNED; i++) ck_assert_int_eq(drop(db, i), SDB_OK);
    for (unsigned i = 0; i < 2; i++) ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    s = stats_of(db);
    printf("%" PRIu64 " for %" PRIu64 " when the others are deleted\n", s.allocated_bytes, left);
    ck_assert_uint_le(s.allocated_bytes, 2 * left + FIXED);
    sdb_check_report report = {.size = sizeof report};
    ck_assert_int_eq(sdb_check(db, tell, NULL, &report), SDB_OK);
    ck_assert_uint_eq(report.problems, 0);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
}
END_TEST

/* --- The log ------------------------------------------------------------------------------------------------------------------ */

/* What a round of the log needs is kept while commits come; after a checkpoint that somebody asks for, and at rest, what is kept
 * for readers of changes and one segment to go on with. The names that are left have gaps, and a start finds them all. */
START_TEST(test_log_is_given_back) {
  enum { SEGMENT = 1 << 20, ROUND = 8 << 20 };
  uint64_t first, count = seed_range("space log", SEEDS, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    bool asked = seed % 2;
    uint64_t most = 0;
    sim *device = sim_new(seed);
    sdb_options o = options_on(device);
    sdb *db = NULL;
    o.checkpoint_wal_bytes = ROUND;
    o.change_log_bytes = SEGMENT;
    ck_assert_int_eq(sdb_open("space.sdb", &o, &db), SDB_OK);
    for (uint32_t round = 1; round <= 4; round++)
      for (unsigned i = 0; i < DOCUMENTS; i++) {
        ck_assert_int_eq(put(db, i, round), SDB_OK);
        if (stats_of(db).log_bytes > most) most = stats_of(db).log_bytes;
      }
    uint64_t before = stats_of(db).log_bytes;
    if (asked) ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
    else sim_advance(device, 60000);
    for (bool more = true; more;) ck_assert_int_eq(sdb_step(db, 64, &more), SDB_OK);
    printf("seed %" PRIu64 ": the log had %" PRIu64 " bytes, %" PRIu64 " at most, and has %" PRIu64 "\n", seed, before, most,
           stats_of(db).log_bytes);
    ck_assert_uint_gt(before, 4 * SEGMENT);
    ck_assert_uint_le(most, 3 * ROUND);
    ck_assert_uint_le(stats_of(db).log_bytes, (asked ? 0 : ROUND) + 3 * SEGMENT);
    for (unsigned i = 0; i < DOCUMENTS; i += 5) ck_assert_int_eq(put(db, i, 5), SDB_OK);
    ck_assert_int_eq(sdb_flush(db), SDB_OK);
    sim_die_now(device);
    sdb_close(db);
    sim_crash(device, SIM_RANDOM_SUBSET, seed);
    ck_assert_int_eq(sdb_open("space.sdb", &o, &db), SDB_OK);
    verify(db, seed);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sim_free(device);
  }
}
END_TEST

/* --- max_db_size -------------------------------------------------------------------------------------------------------------- */

/* A tenth of the documents goes: scattered, so that no page is free, or (_i) those that were written one after the other. */
START_TEST(test_fill_delete_a_tenth_write_again) {
  enum { ROUNDS = 50, MOST = 12 << 20 };
  sim *device = sim_new(1);
  sdb_options o;
  sdb *db = NULL;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.page_cache_size = 256;
  o.use_compression = false;
  o.durability = SDB_BUFFERED;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 2 << 20;
  o.max_db_size = MOST;
  ck_assert_int_eq(sdb_open("space.sdb", &o, &db), SDB_OK);
  memset(version, 0, sizeof version);
  for (uint32_t round = 1; round <= ROUNDS; round++) {
    unsigned kept = 0, written = 0, gone = 0, tenth;
    for (unsigned i = 0; i < DOCUMENTS; i++) {
      int rc = version[i] ? SDB_OK : put(db, i, round);
      ck_assert_msg(rc == SDB_OK || rc == SDB_FULL, "round %u: %s", round, sdb_strerror(rc));
      if (rc == SDB_FULL) break;
      written += version[i] == round;
    }
    ck_assert_msg(written > 0, "round %u: writing did not resume", round);
    ck_assert_uint_le(stats_of(db).file_bytes, MOST);
    for (unsigned i = 0; i < DOCUMENTS; i++) kept += version[i] != 0;
    tenth = kept / 10;
    for (unsigned i = 0; i < DOCUMENTS; i++) {
      bool goes = _i ? i >= round * tenth % kept && gone < tenth : (i + round) % 10 == 0;
      if (!version[i] || !goes) continue;
      ck_assert_int_eq(drop(db, i), SDB_OK);
      gone++;
    }
    ck_assert_uint_gt(gone, 0);
    ck_assert_uint_gt(kept, 4000); /* the cleaner keeps up, out of the reserve */
  }
  verify(db, 1);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

enum { BY_PUT, BY_WRITER, BY_WRITER_UNKNOWN, BY_BATCH, BY_BATCH_WRITER, WAYS };

static int write_pieces(sdb *db, const char *path, size_t len, uint64_t size, const uint8_t *content, size_t whole,
                        sdb_writer **w) {
  int rc = sdb_writer_open(db, path, len, size, NULL, w);
  for (size_t at = 0; rc == SDB_OK && at < whole; at += whole / 4) {
    rc = sdb_writer_write(*w, content + at, whole / 4);
    if (rc != SDB_OK) sdb_writer_abort(*w);
  }
  return rc;
}

static int write_by(int way, sdb *db, unsigned i, const uint8_t *content, size_t whole) {
  char path[32];
  size_t len = path_of(i, path);
  sdb_batch *batch;
  sdb_writer *w;
  if (way == BY_PUT) return sdb_put(db, path, len, content, whole, NULL, NULL);
  if (way == BY_WRITER || way == BY_WRITER_UNKNOWN) {
    int rc = write_pieces(db, path, len, way == BY_WRITER ? whole : SDB_UNKNOWN_SIZE, content, whole, &w);
    return rc == SDB_OK ? sdb_writer_commit(w, NULL) : rc;
  }
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  int rc = way == BY_BATCH ? sdb_batch_put(batch, path, len, content, whole, NULL)
                           : write_pieces(db, path, len, SDB_UNKNOWN_SIZE, content, whole, &w);
  if (rc == SDB_OK && way == BY_BATCH_WRITER) rc = sdb_batch_put_writer(batch, w);
  if (rc == SDB_OK) return sdb_batch_commit(batch, NULL, NULL, 0, NULL);
  sdb_batch_abort(batch);
  return rc;
}

/* Large contents: whatever way they are written, the next one has the room that deletes have left, without any step between. */
START_TEST(test_fill_delete_and_write_large_ones_again) {
  enum { WHOLE = 4 << 19, MOST = 24 << 20 };
  static uint8_t content[WHOLE];
  sim *device = sim_new(1);
  sdb_options o = options_on(device);
  sdb *db = NULL;
  unsigned made = 0;
  int rc = SDB_OK;
  o.max_db_size = MOST;
  ck_assert_int_eq(sdb_open("space.sdb", &o, &db), SDB_OK);
  while ((rc = write_by(_i, db, made, content, WHOLE)) == SDB_OK) made++;
  ck_assert_int_eq(rc, SDB_FULL);
  ck_assert_uint_ge(made, 9); /* the file holds eleven, and a reserve */
  for (unsigned round = 0; round < 20; round++) {
    char path[32];
    size_t len = path_of(round, path);
    ck_assert_int_eq(sdb_delete(db, path, len, NULL, NULL), SDB_OK);
    rc = write_by(_i, db, made + round, content, WHOLE);
    ck_assert_msg(rc == SDB_OK, "round %u: %s", round, sdb_strerror(rc));
  }
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* --- Pages made beside a checkpoint ------------------------------------------------------------------------------------------- */

static sdb *open_file(const char *name) {
  sdb_options o;
  sdb *db = NULL;
  sdb_options_init(&o);
  o.threads = false;
  o.page_cache_size = 64;
  o.use_compression = false;
  o.durability = SDB_BUFFERED;
  o.wal_segment_size = 1 << 20;
  o.checkpoint_wal_bytes = 2 << 20;
  ck_assert_int_eq(sdb_open(name, &o, &db), SDB_OK);
  return db;
}

/* Commits and makes visible, so that all of it may be written ahead. */
static void put_visibly(sdb *db, unsigned from, unsigned count) {
  sdb_batch *batch;
  sdb_info info;
  char path[32];
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  for (unsigned i = from; i < from + count; i++) {
    size_t len = path_of(i, path);
    memset(bytes, (int)(i * 31 + 7 + 1), LEN);
    ck_assert_int_eq(sdb_batch_put(batch, path, len, bytes, LEN, NULL), SDB_OK);
    version[i] = 1;
  }
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_OK);
  ck_assert_int_eq(sdb_stat(db, path, path_of(from, path), SDB_CURRENT, &info), SDB_OK);
}

/* What the process leaves when it ends at this moment. */
static void verify_killed(void) {
  ck_assert_int_eq(system("rm -rf killed && mkdir killed && cp space.sdb* killed"), 0);
  sdb *db = open_file("killed/space.sdb");
  verify(db, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

/* With a mapping, where a page that was written is a mere place at once. What commits beside a checkpoint make is no part of it,
 * also when it is written before the checkpoint is complete: the state that it stands for reaches all that it says is used. */
START_TEST(test_pages_made_beside_a_checkpoint) {
  enum { BATCH = 200 };
  char directory[] = "/tmp/sdb-space-XXXXXX", command[64];
  ck_assert_ptr_nonnull(mkdtemp(directory));
  ck_assert_int_eq(chdir(directory), 0);
  sdb *db = open_file("space.sdb");
  unsigned kills = 0;
  memset(version, 0, sizeof version);
  for (unsigned i = 0; i < DOCUMENTS; i += BATCH) {
    uint64_t checkpoints = stats_of(db).checkpoints;
    put_visibly(db, i, BATCH);
    if (stats_of(db).checkpoints == checkpoints) continue;
    ck_assert_int_eq(sdb_flush(db), SDB_OK);
    verify_killed();
    kills++;
  }
  ck_assert_uint_ge(kills, 2);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("space");
  TCase *tc = tcase_create("space");
  tcase_set_timeout(tc, 300);
  tcase_add_test(tc, test_deleted_space_is_given_back);
  tcase_add_test(tc, test_crash_while_punching);
  tcase_add_test(tc, test_crash_while_gathering);
  tcase_add_test(tc, test_given_back_and_gone);
  tcase_add_test(tc, test_churn_is_bounded);
  tcase_add_test(tc, test_log_is_given_back);
  tcase_add_loop_test(tc, test_fill_delete_a_tenth_write_again, 0, 2);
  tcase_add_loop_test(tc, test_fill_delete_and_write_large_ones_again, 0, WAYS);
  tcase_add_test(tc, test_pages_made_beside_a_checkpoint);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
