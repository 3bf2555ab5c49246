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

static unsigned load_rounds(const struct plan *plan) { return (plan->rounds + 2) / 3; }

static uint64_t at_least(double value, uint64_t least) { return value < (double)least ? least : (uint64_t)value; }

/* Size of all files over that of the contents and paths. */
static void size_row(struct plan *plan, const contest *load, const char *store, const char *work, double limit,
                     const char *target) {
  double least = (double)load->documents * ((double)load->size + PATH_BYTES);
  contest factors = *load;
  for (unsigned i = 0; i < load->side_count; i++) factors.sides[i].figures[1] = scaled(&load->sides[i].figures[1], 1 / least);
  contest_row_of(
      plan, &factors, store, 1,
      (struct row){.id = "E13", .work = work, .unit = UNIT_FACTOR, .kind = LIMIT_ABSOLUTE, .limit = limit, .target = target});
}

/* What files take beyond paths and contents, a document; a record's head is 48 bytes of it, and rounding up to 8 about 4. */
static void message_index(struct plan *plan) {
  contest load = contest_of("load-messages", "messages", plan->documents, 100, 1, STORES("sdb-nosuffix", "sdb"));
  load.fresh = true;
  contest_run(plan, &load);
  contest_row_of(plan, &load, "sdb-nosuffix", 0,
                 (struct row){.id = "E13",
                              .work = "bytes a document beyond path and content, /messages/sent/uuid, 100 B",
                              .unit = UNIT_FACTOR,
                              .kind = LIMIT_ABSOLUTE,
                              .limit = 84 + 52,
                              .target = "at most 84 behind a head of 48 and rounding"});
  contest_row_of(plan, &load, "sdb", 0,
                 (struct row){.id = "E13",
                              .work = "... with suffix index",
                              .unit = UNIT_FACTOR,
                              .kind = LIMIT_ABSOLUTE,
                              .limit = 170 + 52,
                              .target = "at most 170 behind them"});
  plan_clean(plan, "messages");
}

/* E19: each variant of ours beside the plain one. */
static void report_variants(struct plan *plan, const contest *c, unsigned figure, unit u, const char *id) {
  static const char *const variants[][2] = {{"sdb-crypt", "encrypted"}, {"sdb-nommap", "without mmap"}};
  for (unsigned i = 0; i < 2; i++) {
    char work[64];
    snprintf(work, sizeof work, "%s %s", id, variants[i][1]);
    report_row(&plan->report, &(struct row){.id = "E19",
                                            .work = work,
                                            .unit = u,
                                            .ours = contest_figures(c, variants[i][0], figure),
                                            .peers[0] = {"sdb", contest_figures(c, "sdb", figure)},
                                            .peer_count = 1,
                                            .target = "reported"});
  }
}

/* --- Documents of 100 B ------------------------------------------------------------------------------------------------------- */

static void ten_times_as_many(struct plan *plan, const contest *small) {
  contest load = contest_of("load", "many", plan->documents * 10, 100, 1, STORES("sdb"));
  load.fresh = true;
  if (plan_wants(plan, "E11")) add_side(&load, "LMDB");
  contest_run(plan, &load);
  if (plan_wants(plan, "E15")) {
    contest get = contest_of("get", "many", plan->documents * 10, 100, plan->rounds, STORES("sdb"));
    contest_run(plan, &get);
    report_row(&plan->report, &(struct row){.id = "E15",
                                            .work = "random get of 100 B, ten times as many documents",
                                            .unit = UNIT_TIME,
                                            .ours = &get.sides[0].figures[0],
                                            .peers[0] = {"E1", contest_figures(small, "sdb", 0)},
                                            .peer_count = 1,
                                            .kind = LIMIT_COST,
                                            .limit = 1.5,
                                            .target = "at most 1.5x E1"});
  }
  if (plan_wants(plan, "E11")) {
    contest open = contest_of("open", "many", plan->documents * 10, 100, plan->rounds, STORES("sdb", "LMDB"));
    contest_run(plan, &open);
    contest_row(plan, &open, 0,
                (struct row){.id = "E11",
                             .work = "clean open, ten times as many documents of 100 B",
                             .unit = UNIT_TIME,
                             .kind = LIMIT_ABSOLUTE,
                             .limit = 0.005,
                             .target = "under 5 ms, flat"});
  }
  plan_clean(plan, "many");
}

static void small_variants(struct plan *plan) {
  contest get = contest_of("get", "small", plan->documents, 100, plan->rounds, STORES("sdb", "sdb-crypt", "sdb-nommap"));
  contest_run(plan, &get);
  report_variants(plan, &get, 0, UNIT_TIME, "E1");
}

static void small_documents(struct plan *plan) {
  if (!WANTS_ANY(plan, "E1", "E11", "E13", "E15", "E19")) return;
  contest load = contest_of("load", "small", plan->documents, 100, 1, STORES("sdb"));
  load.fresh = true;
  if (WANTS_ANY(plan, "E1", "E13")) add_side(&load, "LMDB"), add_side(&load, "RocksDB");
  if (plan_wants(plan, "E13")) add_side(&load, "sdb-nosuffix");
  if (plan_wants(plan, "E19")) add_side(&load, "sdb-crypt"), add_side(&load, "sdb-nommap");
  contest_run(plan, &load);
  if (plan_wants(plan, "E13")) {
    size_row(plan, &load, "sdb-nosuffix", "all files, 100 B documents, over contents and paths", 2, "at most 2");
    size_row(plan, &load, "sdb", "... with suffix index", 2.4, "at most 2.4");
    message_index(plan);
  }
  contest get = contest_of("get", "small", plan->documents, 100, plan->rounds, STORES("sdb"));
  if (plan_wants(plan, "E1")) add_side(&get, "LMDB"), add_side(&get, "RocksDB");
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
  if (plan_wants(plan, "E19")) small_variants(plan);
  plan_clean(plan, "small");
  if (WANTS_ANY(plan, "E11", "E15")) ten_times_as_many(plan, &get);
}

/* --- Documents of 1 KB -------------------------------------------------------------------------------------------------------- */

/* What the process held at its peak, without what it held before it opened the store. */
static void memory_row(struct plan *plan, const contest *load) {
  contest peaks = *load;
  for (unsigned i = 0; i < load->side_count; i++) {
    series *s = &peaks.sides[i].figures[0];
    *s = load->sides[i].memory;
    for (unsigned round = 0; round < s->count; round++) s->value[round] -= load->sides[i].figures[2].value[round];
  }
  contest_row_of(plan, &peaks, "sdb", 0,
                 (struct row){.id = "E14",
                              .work = "peak of anonymous memory while loading",
                              .unit = UNIT_BYTES,
                              .kind = LIMIT_ABSOLUTE,
                              .limit = (double)(CACHE_BYTES + 64 * MB),
                              .target = "cache plus 64 MB: 201 MB"});
}

static void load_rows(struct plan *plan, const contest *load) {
  if (plan_wants(plan, "E6")) {
    contest_row_of(plan, load, "sdb-nosuffix", 0,
                   (struct row){.id = "E6",
                                .work = "bulk load, 1 KB, no durability, checkpoint included",
                                .unit = UNIT_RATE,
                                .kind = LIMIT_SPEED,
                                .limit = 1.5,
                                .target = "1.5x RocksDB"});
    contest_row_of(plan, load, "sdb", 0,
                   (struct row){.id = "E6",
                                .work = "... with suffix index",
                                .unit = UNIT_RATE,
                                .kind = LIMIT_SPEED,
                                .limit = 1,
                                .target = "1x RocksDB"});
  }
  if (plan_wants(plan, "E13")) {
    size_row(plan, load, "sdb-nosuffix", "all files, 1 KB documents, over contents and paths", 1.25, "at most 1.25");
    size_row(plan, load, "sdb", "... with suffix index", 1.3, "at most 1.3");
  }
  if (plan_wants(plan, "E14")) memory_row(plan, load);
  if (plan_wants(plan, "E19")) report_variants(plan, load, 0, UNIT_RATE, "E6");
}

static void load_kb(struct plan *plan, contest *load) {
  bool all = WANTS_ANY(plan, "E6", "E13", "E14");
  *load = contest_of("load", "kb", plan->documents, KB, WANTS_ANY(plan, "E6", "E17") ? load_rounds(plan) : 1, STORES("sdb"));
  load->fresh = true;
  if (all || WANTS_ANY(plan, "E4", "E5", "E7")) add_side(load, "RocksDB");
  if (all) {
    add_side(load, "RocksDB blob");
    add_side(load, "RocksDB no log");
    add_side(load, "sdb-nosuffix");
  }
  if (all || WANTS_ANY(plan, "E2", "E4", "E7", "E11")) add_side(load, "LMDB");
  if (all || plan_wants(plan, "E4")) add_side(load, "SQLite");
  contest_run(plan, load);
  if (plan_wants(plan, "E19")) { /* not beside the others: eight stores of this size are enough for a device */
    contest variants = contest_of("load", "kb", plan->documents, KB, load_rounds(plan), STORES("sdb-crypt", "sdb-nommap"));
    variants.fresh = true;
    contest_run(plan, &variants);
    for (unsigned i = 0; i < variants.side_count && load->side_count < PLAN_STORES; i++)
      load->sides[load->side_count++] = variants.sides[i];
  }
  load_rows(plan, load);
}

static void search_kb(struct plan *plan) {
  contest scan = contest_of("scan", "kb", plan->documents, KB, plan->rounds, STORES("sdb"));
  if (plan_wants(plan, "E7")) add_side(&scan, "LMDB"), add_side(&scan, "RocksDB");
  contest_run(plan, &scan);
  if (plan_wants(plan, "E7")) {
    contest_row(plan, &scan, 0,
                (struct row){.id = "E7",
                             .work = "prefix search, 100 paths, 1 KB documents",
                             .unit = UNIT_TIME,
                             .kind = LIMIT_SPEED,
                             .limit = 4,
                             .target = "4x LMDB"});
  }
  if (!plan_wants(plan, "E8")) return;
  contest suffix = contest_of("scan-suffix", "kb", plan->documents, KB, plan->rounds, STORES("sdb"));
  contest_run(plan, &suffix);
  report_row(&plan->report, &(struct row){.id = "E8",
                                          .work = "suffix search, 100 paths, 1 KB documents",
                                          .unit = UNIT_TIME,
                                          .ours = &suffix.sides[0].figures[0],
                                          .peers[0] = {"E7", contest_figures(&scan, "sdb", 0)},
                                          .peer_count = 1,
                                          .kind = LIMIT_COST,
                                          .limit = 1.5,
                                          .target = "at most 1.5x E7"});
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
  if (WANTS_ANY(plan, "E7", "E8")) search_kb(plan);
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
                                          .peers[0] = {"idle median", contest_figures(&put, "sdb", 1)},
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

static void variants_kb(struct plan *plan) {
  contest get = contest_of("get", "kb", plan->documents, KB, plan->rounds, STORES("sdb", "sdb-crypt", "sdb-nommap"));
  contest_run(plan, &get);
  report_variants(plan, &get, 0, UNIT_TIME, "E2");
  contest put = contest_of("put", "kb", plan->documents, KB, plan->rounds, STORES("sdb", "sdb-crypt", "sdb-nommap"));
  contest_run(plan, &put);
  report_variants(plan, &put, 0, UNIT_TIME, "E4");
}

/* --- Large documents ---------------------------------------------------------------------------------------------------------- */

static void large_gets(struct plan *plan, const char *tag, const char *work, size_t size, uint64_t documents, uint64_t count) {
  contest load = contest_of("load", tag, documents, size, 1, STORES("sdb", "sdb-quick", "LMDB"));
  load.fresh = true;
  contest_run(plan, &load);
  contest get = contest_of("get", tag, documents, size, plan->rounds, STORES("sdb", "sdb-quick", "LMDB"));
  get.count = count;
  contest_run(plan, &get);
  contest_row_of(
      plan, &get, "sdb", 0,
      (struct row){
          .id = "E3", .work = work, .unit = UNIT_TIME, .kind = LIMIT_SPEED, .limit = 0.75, .target = "0.75x LMDB with checks"});
  contest_row_of(
      plan, &get, "sdb-quick", 0,
      (struct row){.id = "E3", .work = "... quick mode", .unit = UNIT_TIME, .kind = LIMIT_SPEED, .limit = 1, .target = "1x LMDB"});
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
    contest c = contest_of("read-large", "stream", 0, 256 * MB, plan->rounds, STORES("sdb", "sdb-quick", "floor"));
    contest_run(plan, &c);
    contest_row_of(plan, &c, "sdb", 0,
                   (struct row){.id = "E10",
                                .work = "read one document of 256 MB as a stream, checks on",
                                .unit = UNIT_THROUGHPUT,
                                .kind = LIMIT_SPEED,
                                .limit = 0.5,
                                .target = "0.5x memcpy"});
    contest_row_of(plan, &c, "sdb-quick", 0,
                   (struct row){.id = "E10",
                                .work = "... quick mode",
                                .unit = UNIT_THROUGHPUT,
                                .kind = LIMIT_SPEED,
                                .limit = 0.8,
                                .target = "0.8x memcpy"});
  }
  plan_clean(plan, "stream");
}

/* --- Recovery, churn ---------------------------------------------------------------------------------------------------------- */

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
  contest c = contest_of("churn", "churn", at_least(100000 * plan->scale, 1000), 2 * KB, 1, STORES("sdb-buffered"));
  c.fresh = true;
  contest_run(plan, &c);
  report_row(&plan->report, &(struct row){.id = "E17",
                                          .work = "20 random overwrites of each document, 200 B to 2 KB",
                                          .unit = UNIT_RATE,
                                          .ours = &c.sides[0].figures[0],
                                          .peers[0] = {"E6", contest_figures(load, "sdb", 0)},
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
    if (plan_wants(plan, "E19")) variants_kb(plan);
    plan_clean(plan, "kb");
  }
  if (plan_wants(plan, "E3")) {
    large_gets(plan, "64k", "random get, 64 KB", 64 * KB, at_least(4000 * plan->scale, 400), 2000);
    large_gets(plan, "1m", "random get, 1 MB", MB, at_least(300 * plan->scale, 30), 300);
  }
  streams(plan);
  if (plan_wants(plan, "E12")) recovery(plan);
  if (plan_wants(plan, "E17")) churn(plan, &load);
}
