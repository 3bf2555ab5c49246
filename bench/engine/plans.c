/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* plans.c - the numbers E1 to E19: what is measured, beside whom, and what is aimed at. */
#include <string.h>

#include "plan.h"

#define KB ((size_t)1 << 10)
#define MB ((size_t)1 << 20)
#define PATH_BYTES 38.0 /* of the paths below 10,000 nodes */

static bool wants_any(const struct plan *plan, const char *const *ids) {
  for (; *ids; ids++) {
    if (plan_wants(plan, *ids)) return true;
  }
  return false;
}
#define WANTS_ANY(plan, ...) wants_any(plan, (const char *const[]){__VA_ARGS__, NULL})

static void add_side(contest *c, const char *store) {
  if (store_find(store)) c->sides[c->side_count++].store = store;
}

static contest contest_of(const char *work, const char *tag, uint64_t documents, size_t size, unsigned rounds,
                          const char *const *stores) {
  contest c = {.work = work, .tag = tag, .documents = documents, .size = size, .rounds = rounds};
  for (; *stores; stores++) add_side(&c, *stores);
  return c;
}
#define STORES(...) ((const char *const[]){__VA_ARGS__, NULL})

static series scaled(const series *s, double factor) {
  series r = *s;
  for (unsigned i = 0; i < r.count; i++) r.value[i] *= factor;
  return r;
}

static series *figures_of(contest *c, const char *store, unsigned figure) {
  static series none;
  for (unsigned i = 0; i < c->side_count; i++) {
    if (!strcmp(c->sides[i].store, store)) return &c->sides[i].figures[figure];
  }
  return &none;
}

static unsigned load_rounds(const struct plan *plan) { return (plan->rounds + 2) / 3; }

/* Size of all files over that of the contents and paths. */
static void size_row(struct plan *plan, const contest *load, const char *work, double limit, const char *target) {
  double least = (double)load->documents * ((double)load->size + PATH_BYTES);
  series factors[PLAN_STORES];
  struct row row = {.id = "E13", .work = work, .unit = UNIT_FACTOR, .kind = LIMIT_ABSOLUTE, .limit = limit, .target = target};
  for (unsigned i = 0; i < load->side_count; i++) {
    factors[i] = scaled(&load->sides[i].figures[1], 1 / least);
    if (!i) continue;
    row.peers[row.peer_count].name = load->sides[i].store;
    row.peers[row.peer_count++].series = &factors[i];
  }
  row.ours = &factors[0];
  report_row(&plan->report, &row);
}

/* --- Documents of 100 B ---------------------------------------------------------------------------------------------------------
 */

static void ten_times_as_many(struct plan *plan, const contest *small) {
  contest load = contest_of("load", "many", plan->documents * 10, 100, 1, STORES("sdb"));
  load.fresh = true;
  contest_run(plan, &load);
  contest get = contest_of("get", "many", plan->documents * 10, 100, plan->rounds, STORES("sdb"));
  contest_run(plan, &get);
  report_row(&plan->report, &(struct row){.id = "E15",
                                          .work = "random get of 100 B, ten times as many documents",
                                          .unit = UNIT_TIME,
                                          .ours = &get.sides[0].figures[0],
                                          .peers[0] = {"E1", &small->sides[0].figures[0]},
                                          .peer_count = 1,
                                          .kind = LIMIT_COST,
                                          .limit = 1.5,
                                          .target = "at most 1.5x E1"});
  contest open = contest_of("open", "many", plan->documents * 10, 100, plan->rounds, STORES("sdb"));
  contest_run(plan, &open);
  contest_row(plan, &open, 0,
              (struct row){.id = "E11",
                           .work = "clean open, ten times as many documents",
                           .unit = UNIT_TIME,
                           .kind = LIMIT_ABSOLUTE,
                           .limit = 0.005,
                           .target = "under 5 ms, flat"});
  plan_clean(plan, "many");
}

static void small_documents(struct plan *plan) {
  if (!WANTS_ANY(plan, "E1", "E13", "E15")) return;
  contest load = contest_of("load", "small", plan->documents, 100, 1, STORES("sdb", "LMDB", "RocksDB"));
  load.fresh = true;
  contest_run(plan, &load);
  if (plan_wants(plan, "E13")) size_row(plan, &load, "all files, 100 B documents, over contents and paths", 2, "at most 2");
  contest get = contest_of("get", "small", plan->documents, 100, plan->rounds, STORES("sdb", "LMDB", "RocksDB"));
  if (WANTS_ANY(plan, "E1", "E15")) contest_run(plan, &get);
  if (plan_wants(plan, "E1")) {
    contest_row(plan, &get, 0,
                (struct row){.id = "E1",
                             .work = "random get, 100 B",
                             .unit = UNIT_TIME,
                             .kind = LIMIT_SPEED,
                             .limit = 1.2,
                             .stretch = 1.5,
                             .target = "1.2x LMDB, stretch 1.5x"});
    contest_row(plan, &get, 1, (struct row){.id = "E1", .work = "... processor time", .unit = UNIT_TIME, .target = "-"});
  }
  plan_clean(plan, "small");
  if (plan_wants(plan, "E15")) ten_times_as_many(plan, &get);
}

/* --- Documents of 1 KB ----------------------------------------------------------------------------------------------------------
 */

/* What the process held at its peak, without what it held before it opened the store. */
static void memory_row(struct plan *plan, const contest *load) {
  series peaks[PLAN_STORES];
  struct row row = {.id = "E14",
                    .work = "peak of anonymous memory while loading",
                    .unit = UNIT_BYTES,
                    .ours = &peaks[0],
                    .kind = LIMIT_ABSOLUTE,
                    .limit = (double)(CACHE_BYTES + 64 * MB),
                    .target = "cache plus 64 MB: 201 MB"};
  for (unsigned i = 0; i < load->side_count; i++) {
    peaks[i] = load->sides[i].memory;
    for (unsigned round = 0; round < peaks[i].count; round++) peaks[i].value[round] -= load->sides[i].figures[2].value[round];
    if (!i) continue;
    row.peers[row.peer_count].name = load->sides[i].store;
    row.peers[row.peer_count++].series = &peaks[i];
  }
  report_row(&plan->report, &row);
}

static void load_kb(struct plan *plan, contest *load) {
  bool all = WANTS_ANY(plan, "E6", "E13", "E14");
  *load = contest_of("load", "kb", plan->documents, KB, plan_wants(plan, "E6") ? load_rounds(plan) : 1, STORES("sdb"));
  load->fresh = true;
  if (all || WANTS_ANY(plan, "E4", "E5", "E7")) add_side(load, "RocksDB");
  if (all) {
    add_side(load, "RocksDB blob");
    add_side(load, "RocksDB no log");
  }
  if (all || WANTS_ANY(plan, "E2", "E4", "E7", "E11")) add_side(load, "LMDB");
  if (all || plan_wants(plan, "E4")) add_side(load, "SQLite");
  contest_run(plan, load);
  if (plan_wants(plan, "E6")) {
    contest_row(plan, load, 0,
                (struct row){.id = "E6",
                             .work = "bulk load, 1 KB, no durability, checkpoint included",
                             .unit = UNIT_RATE,
                             .kind = LIMIT_SPEED,
                             .limit = 1.5,
                             .target = "1.5x RocksDB"});
  }
  if (plan_wants(plan, "E13")) size_row(plan, load, "all files, 1 KB documents, over contents and paths", 1.25, "at most 1.25");
  if (plan_wants(plan, "E14")) memory_row(plan, load);
}

static void read_kb(struct plan *plan) {
  if (plan_wants(plan, "E2")) {
    contest get = contest_of("get", "kb", plan->documents, KB, plan->rounds, STORES("sdb", "LMDB"));
    contest_run(plan, &get);
    contest_row(plan, &get, 0,
                (struct row){.id = "E2",
                             .work = "random get, 1 KB",
                             .unit = UNIT_TIME,
                             .kind = LIMIT_SPEED,
                             .limit = 1.4,
                             .stretch = 2,
                             .target = "1.4x LMDB, stretch 2x"});
    contest_row(plan, &get, 1, (struct row){.id = "E2", .work = "... processor time", .unit = UNIT_TIME, .target = "-"});
  }
  if (plan_wants(plan, "E7")) {
    contest scan = contest_of("scan", "kb", plan->documents, KB, plan->rounds, STORES("sdb", "LMDB", "RocksDB"));
    contest_run(plan, &scan);
    contest_row(plan, &scan, 0,
                (struct row){.id = "E7",
                             .work = "prefix search, 100 paths, 1 KB documents",
                             .unit = UNIT_TIME,
                             .kind = LIMIT_SPEED,
                             .limit = 4,
                             .target = "4x LMDB"});
  }
  if (plan_wants(plan, "E8")) {
    contest scan = contest_of("scan-suffix", "kb", plan->documents, KB, plan->rounds, STORES("sdb"));
    contest_run(plan, &scan);
    contest_row(plan, &scan, 0,
                (struct row){.id = "E8", .work = "suffix search, 100 paths, 1 KB documents", .unit = UNIT_TIME, .target = "-"});
    contest_row(plan, &scan, 1,
                (struct row){.id = "E8",
                             .work = "... a path found, against prefix search beside it",
                             .unit = UNIT_FACTOR,
                             .kind = LIMIT_ABSOLUTE,
                             .limit = 1.5,
                             .target = "1.5x E7"});
  }
  if (plan_wants(plan, "E11")) {
    contest open = contest_of("open", "kb", plan->documents, KB, plan->rounds, STORES("sdb", "LMDB"));
    contest_run(plan, &open);
    contest_row(plan, &open, 0,
                (struct row){.id = "E11",
                             .work = "clean open, files cached by the system",
                             .unit = UNIT_TIME,
                             .kind = LIMIT_ABSOLUTE,
                             .limit = 0.005,
                             .target = "under 5 ms, flat"});
    contest_row(plan, &open, 1, (struct row){.id = "E11", .work = "... and its first get", .unit = UNIT_TIME, .target = "-"});
  }
}

static void put_kb(struct plan *plan) {
  contest put = contest_of("put", "kb", plan->documents, KB, plan->rounds, STORES("sdb", "floor", "RocksDB", "SQLite", "LMDB"));
  if (WANTS_ANY(plan, "E4", "E18")) contest_run(plan, &put);
  if (plan_wants(plan, "E4")) {
    contest_row(plan, &put, 0,
                (struct row){.id = "E4",
                             .work = "durable put, 1 KB, one caller, mean",
                             .unit = UNIT_TIME,
                             .kind = LIMIT_COST,
                             .limit = 1.25,
                             .target = "at most 1.25x the floor"});
    contest_row(plan, &put, 1, (struct row){.id = "E4", .work = "... median", .unit = UNIT_TIME, .target = "-"});
    contest_row(plan, &put, 2, (struct row){.id = "E4", .work = "... p99", .unit = UNIT_TIME, .target = "-"});
  }
  if (plan_wants(plan, "E5")) {
    contest many = contest_of("put-threads", "kb", plan->documents, KB, plan->rounds, STORES("sdb", "RocksDB"));
    contest_run(plan, &many);
    contest_row(plan, &many, 0,
                (struct row){.id = "E5",
                             .work = "durable put, 1 KB, 64 concurrent callers",
                             .unit = UNIT_RATE,
                             .kind = LIMIT_SPEED,
                             .limit = 2,
                             .stretch = 4,
                             .target = "2x RocksDB, stretch 4x"});
  }
  if (!plan_wants(plan, "E18")) return;
  contest beside = contest_of("put-beside-load", "kb", plan->documents, KB, load_rounds(plan), STORES("sdb"));
  contest_run(plan, &beside);
  report_row(&plan->report, &(struct row){.id = "E18",
                                          .work = "durable put beside a bulk load, p99",
                                          .unit = UNIT_TIME,
                                          .ours = &beside.sides[0].figures[2],
                                          .peers[0] = {"idle median", figures_of(&put, "sdb", 1)},
                                          .peer_count = 1,
                                          .kind = LIMIT_COST,
                                          .limit = 10,
                                          .target = "at most 10x the idle median"});
  contest_row(plan, &beside, 3,
              (struct row){
                  .id = "E18", .work = "... longest", .unit = UNIT_TIME, .kind = LIMIT_ABSOLUTE, .limit = 0.1, .target = "100 ms"});
}

static void readers_beside_writer(struct plan *plan) {
  contest c = contest_of("get-beside-writer", "kb", plan->documents, KB, load_rounds(plan), STORES("sdb"));
  contest_run(plan, &c);
  report_row(&plan->report, &(struct row){.id = "E16",
                                          .work = "get, 1 KB, beside a writer without pause, p99",
                                          .unit = UNIT_TIME,
                                          .ours = &c.sides[0].figures[1],
                                          .peers[0] = {"beside a busy thread", &c.sides[0].figures[0]},
                                          .peer_count = 1,
                                          .kind = LIMIT_COST,
                                          .limit = 3,
                                          .target = "at most 3x"});
}

static void without_mmap(struct plan *plan) {
  contest load = contest_of("load", "kb", plan->documents, KB, 1, STORES("sdb-nommap"));
  load.fresh = true;
  contest_run(plan, &load);
  contest_row(plan, &load, 0, (struct row){.id = "E19", .work = "E6 without mmap", .unit = UNIT_RATE, .target = "reported"});
  contest get = contest_of("get", "kb", plan->documents, KB, plan->rounds, STORES("sdb-nommap", "sdb"));
  contest_run(plan, &get);
  contest_row(plan, &get, 0, (struct row){.id = "E19", .work = "E2 without mmap", .unit = UNIT_TIME, .target = "reported"});
  contest put = contest_of("put", "kb", plan->documents, KB, plan->rounds, STORES("sdb-nommap", "sdb"));
  contest_run(plan, &put);
  contest_row(plan, &put, 0, (struct row){.id = "E19", .work = "E4 without mmap", .unit = UNIT_TIME, .target = "reported"});
}

/* --- Large documents ------------------------------------------------------------------------------------------------------------
 */

static void large_gets(struct plan *plan, const char *tag, const char *work, size_t size, uint64_t documents, uint64_t count) {
  contest load = contest_of("load", tag, documents, size, 1, STORES("sdb", "LMDB"));
  load.fresh = true;
  contest_run(plan, &load);
  contest get = contest_of("get", tag, documents, size, plan->rounds, STORES("sdb", "LMDB"));
  get.count = count;
  contest_run(plan, &get);
  contest_row(
      plan, &get, 0,
      (struct row){
          .id = "E3", .work = work, .unit = UNIT_TIME, .kind = LIMIT_SPEED, .limit = 0.75, .target = "0.75x LMDB with checks"});
  plan_clean(plan, tag);
}

static void streams(struct plan *plan) {
  if (plan_wants(plan, "E9")) {
    contest c = contest_of("write-large", "stream", 0, 256 * MB, load_rounds(plan), STORES("sdb", "floor"));
    contest_run(plan, &c);
    contest_row(plan, &c, 0,
                (struct row){.id = "E9",
                             .work = "write one document of 256 MB durably",
                             .unit = UNIT_THROUGHPUT,
                             .kind = LIMIT_SPEED,
                             .limit = 0.8,
                             .target = "0.8x a raw write and fdatasync"});
  }
  if (plan_wants(plan, "E10")) {
    contest c = contest_of("read-large", "stream", 0, 256 * MB, plan->rounds, STORES("sdb", "floor"));
    contest_run(plan, &c);
    contest_row(plan, &c, 0,
                (struct row){.id = "E10",
                             .work = "read one document of 256 MB as a stream, checks on",
                             .unit = UNIT_THROUGHPUT,
                             .kind = LIMIT_SPEED,
                             .limit = 0.5,
                             .target = "0.5x memcpy"});
  }
  plan_clean(plan, "stream");
}

/* --- Recovery, churn ------------------------------------------------------------------------------------------------------------
 */

static void recovery(struct plan *plan) {
  series rates = {0};
  uint64_t documents = plan->documents / 5;
  for (unsigned round = 0; round < load_rounds(plan); round++) {
    contest crash = contest_of("crash", "crash", documents, KB, 1, STORES("sdb-log"));
    crash.fresh = true;
    contest_run(plan, &crash);
    contest open = contest_of("open", "crash", documents, KB, 1, STORES("sdb-log"));
    open.cold = true;
    contest_run(plan, &open);
    double seconds = series_quantile(&open.sides[0].figures[0], 0.5);
    if (seconds > 0) series_add(&rates, series_quantile(&crash.sides[0].figures[0], 0.5) / seconds);
  }
  report_row(&plan->report, &(struct row){.id = "E12",
                                          .work = "recovery, 1 KB records, bytes of paths and contents",
                                          .unit = UNIT_THROUGHPUT,
                                          .ours = &rates,
                                          .kind = LIMIT_ABSOLUTE,
                                          .limit = 200e6,
                                          .target = "200 MB of log a second"});
  plan_clean(plan, "crash");
}

static void churn(struct plan *plan, const contest *load) {
  contest c = contest_of("churn", "churn", 100000, 2 * KB, 1, STORES("sdb-buffered"));
  c.fresh = true;
  contest_run(plan, &c);
  report_row(&plan->report, &(struct row){.id = "E17",
                                          .work = "20 random overwrites of each document, 200 B to 2 KB",
                                          .unit = UNIT_RATE,
                                          .ours = &c.sides[0].figures[0],
                                          .peers[0] = {"E6", &load->sides[0].figures[0]},
                                          .peer_count = 1,
                                          .kind = LIMIT_SPEED,
                                          .limit = 0.8,
                                          .target = "0.8x E6's rate"});
  contest_row(plan, &c, 1,
              (struct row){.id = "E17",
                           .work = "... data file over the kept versions",
                           .unit = UNIT_FACTOR,
                           .kind = LIMIT_ABSOLUTE,
                           .limit = 1.8,
                           .target = "at most 1.8"});
  contest_row(plan, &c, 2,
              (struct row){.id = "E17",
                           .work = "... data file after deleting 90 % and two checkpoints",
                           .unit = UNIT_FACTOR,
                           .kind = LIMIT_ABSOLUTE,
                           .limit = 2,
                           .target = "at most 2"});
  plan_clean(plan, "churn");
}

void plan_run(struct plan *plan) {
  directory_make(plan->dir);
  report_print(&plan->report, "# StreamDB's engine beside others\n\n%llu documents, %u rounds.\n\n",
               (unsigned long long)plan->documents, plan->rounds);
  report_machine(&plan->report, plan->dir);
  report_head(&plan->report);
  small_documents(plan);
  contest load = {0};
  if (WANTS_ANY(plan, "E2", "E4", "E5", "E6", "E7", "E8", "E11", "E13", "E14", "E16", "E17", "E18", "E19")) {
    load_kb(plan, &load);
    read_kb(plan);
    put_kb(plan);
    if (plan_wants(plan, "E16")) readers_beside_writer(plan);
    if (plan_wants(plan, "E19")) without_mmap(plan);
    plan_clean(plan, "kb");
  }
  if (plan_wants(plan, "E3")) {
    large_gets(plan, "64k", "random get, 64 KB", 64 * KB, 4000, 2000);
    large_gets(plan, "1m", "random get, 1 MB", MB, 300, 300);
  }
  streams(plan);
  if (plan_wants(plan, "E12")) recovery(plan);
  if (plan_wants(plan, "E17")) churn(plan, &load);
}
