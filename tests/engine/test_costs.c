/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_costs.c - docs/costs.md says what calls cost; here they are measured, and the page is held to it.
 *
 * A warm database of 1,000 small documents on the simulated storage, which has no mapping, so that every page touched is counted by
 * the cache, and every allocation and call of the storage by the device. A row holds when the most that was measured is not above
 * what it says, and not below half of it: then the row is out of date. SDB_COSTS=1 prints the rows as they should be.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "simulated.h"

enum { DOCUMENTS = 1000, SMALL = 100, LARGE = 200000, RUNS = 12 };

static sim *device;
static sdb *db;
static sdb_snapshot *snapshot;
static uint8_t content[LARGE], buf[LARGE];
static uint8_t id[16];
static unsigned run; /* which of the runs of a case this is */

enum { PAGES, ALLOCATIONS, READS, WRITES, SYNCS, FIGURES };

static void must(int rc) { ck_assert_msg(rc == SDB_OK, "%s", sdb_strerror(rc)); }

static size_t path_of(unsigned i, char path[32]) { return (size_t)snprintf(path, 32, "/d/%04u", i); }

static sdb_put_options with(sdb_durability durability) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = durability;
  return o;
}

static void put_at(unsigned i, size_t size, sdb_durability durability) {
  char path[32];
  size_t len = path_of(i, path);
  sdb_put_options o = with(durability);
  must(sdb_put(db, path, len, content + i % 64, size, &o, NULL));
}

/* --- Reads -------------------------------------------------------------------------------------------------------------------- */

static void get_small(void) {
  size_t size;
  must(sdb_get(db, "/d/0500", 7, SDB_CURRENT, buf, sizeof buf, &size, NULL));
}
static void get_large(void) {
  size_t size;
  must(sdb_get(db, "/large", 6, SDB_CURRENT, buf, sizeof buf, &size, NULL));
}
static void get_absent(void) {
  size_t size;
  ck_assert_int_eq(sdb_get(db, "/none", 5, SDB_CURRENT, buf, sizeof buf, &size, NULL), SDB_NOT_FOUND);
}
static void get_alloc(void) {
  void *data;
  size_t size;
  must(sdb_get_alloc(db, "/d/0500", 7, SDB_CURRENT, &data, &size, NULL));
  sdb_free(db, data);
}
static void get_range(void) {
  size_t got;
  must(sdb_get_range(db, "/large", 6, SDB_CURRENT, 100000, buf, 1000, &got, NULL));
}
static void stat_one(void) {
  sdb_info info;
  must(sdb_stat(db, "/d/0500", 7, SDB_CURRENT, &info));
}
static void attributes(void) {
  sdb_attributes a;
  must(sdb_get_attributes(db, "/d/0500", 7, SDB_CURRENT, &a));
}
static void versions(void) {
  sdb_info infos[2];
  size_t count;
  must(sdb_versions(db, "/twice", 6, infos, 2, &count));
  ck_assert_uint_eq(count, 2);
}
static void id_of(void) { must(sdb_id_of(db, "/d/0500", 7, id)); }
static void paths_of(void) {
  sdb_path *paths;
  size_t count;
  must(sdb_paths_of(db, id, &paths, &count));
  sdb_free(db, paths);
}
static void search(const char *prefix, const char *suffix, bool infos, unsigned wanted) {
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_cursor_options o;
  unsigned count = 0;
  int rc;
  sdb_cursor_options_init(&o);
  o.prefix = prefix;
  o.prefix_len = strlen(prefix);
  o.suffix = suffix;
  o.suffix_len = strlen(suffix);
  o.infos = infos;
  must(sdb_cursor_open(db, &o, &cursor));
  while ((rc = sdb_cursor_next(cursor, &entry)) == SDB_OK) count++;
  ck_assert_int_eq(rc, SDB_END);
  ck_assert_uint_eq(count, wanted);
  sdb_cursor_close(cursor);
}
static void search_keys(void) { search("/d/05", "", false, 100); }
static void search_infos(void) { search("/d/05", "", true, 100); }
static void search_suffix(void) { search("", "05", false, 10); }
static void snapshot_open_close(void) {
  sdb_snapshot *s;
  must(sdb_snapshot_open(db, &s));
  sdb_snapshot_close(s);
}
static void snapshot_get(void) {
  size_t size;
  must(sdb_snapshot_get(snapshot, "/d/0500", 7, SDB_CURRENT, buf, sizeof buf, &size, NULL));
}
static void read_stream(void) {
  sdb_reader *reader;
  size_t got = 1;
  must(sdb_reader_open(db, "/large", 6, SDB_CURRENT, &reader));
  while (got > 0) must(sdb_reader_read(reader, buf, 65536, &got));
  sdb_reader_close(reader);
}
static void take(void *user, int code, void *data, size_t size, const sdb_info *info) {
  (void)user, (void)size, (void)info;
  must(code);
  sdb_free(db, data);
}
static void get_async(void) {
  must(sdb_get_async(db, "/d/0500", 7, SDB_CURRENT, take, NULL, NULL));
  must(sdb_step(db, 1, NULL));
}

/* --- Writes ------------------------------------------------------------------------------------------------------------------- */

static void put_durable(void) { put_at(500, SMALL, SDB_DURABLE); }
static void put_none(void) { put_at(501, SMALL, SDB_NONE); }
static void put_new(void) { put_at(2000 + run, SMALL, SDB_DURABLE); }
static void put_large(void) { must(sdb_put(db, "/large/put", 10, content, LARGE, NULL, NULL)); }
static void delete_one(void) {
  char path[32];
  size_t len = path_of(2000 + run, path);
  must(sdb_delete(db, path, len, NULL, NULL));
}
static void bind_name(void) {
  char name[32];
  int len = snprintf(name, sizeof name, "/name/%u", run);
  must(sdb_bind(db, "/d/0600", 7, name, (size_t)len, NULL, NULL));
}
static void unbind_name(void) {
  char name[32];
  int len = snprintf(name, sizeof name, "/name/%u", run);
  must(sdb_unbind(db, name, (size_t)len, NULL, NULL));
}
static void batch(void) {
  sdb_batch *b;
  must(sdb_batch_open(db, &b));
  for (unsigned i = 0; i < 10; i++) {
    char path[32];
    size_t len = path_of(700 + i, path);
    must(sdb_batch_put(b, path, len, content + run, SMALL, NULL));
  }
  must(sdb_batch_commit(b, NULL, NULL, 0, NULL));
}
static void write_stream(void) {
  sdb_writer *w;
  must(sdb_writer_open(db, "/large/stream", 13, LARGE, NULL, &w));
  for (size_t at = 0; at < LARGE; at += 50000) must(sdb_writer_write(w, content + at, 50000));
  must(sdb_writer_commit(w, NULL));
}
static void restore_version(void) { must(sdb_restore_version(db, "/twice", 6, SDB_CURRENT, NULL, NULL)); }
static void flush_nothing(void) { must(sdb_flush(db)); }
static void put_and_flush(void) {
  put_at(501, SMALL, SDB_NONE);
  must(sdb_flush(db));
}
static void step_idle(void) { must(sdb_step(db, 8, NULL)); }
static void stats(void) {
  sdb_stats s = {.size = sizeof s};
  must(sdb_get_stats(db, &s));
}

/* In the order in which they are run: what one leaves another may use. */
static const struct {
  const char *row;
  void (*run)(void);
} cases[] = {
    {"`sdb_get`, 100 B", get_small},
    {"`sdb_get`, 200 KB", get_large},
    {"`sdb_get`, nothing there", get_absent},
    {"`sdb_get_alloc`, 100 B", get_alloc},
    {"`sdb_get_range`, 1 KB of 200 KB", get_range},
    {"`sdb_stat`", stat_one},
    {"`sdb_get_attributes`", attributes},
    {"`sdb_versions`, 2 of them", versions},
    {"`sdb_id_of`", id_of},
    {"`sdb_paths_of`", paths_of},
    {"`sdb_cursor_open`, `sdb_cursor_next`, `sdb_cursor_close`: 100 paths", search_keys},
    {"the same with `infos`", search_infos},
    {"the same by suffix, 10 paths", search_suffix},
    {"`sdb_snapshot_open`, `sdb_snapshot_close`", snapshot_open_close},
    {"`sdb_snapshot_get`, 100 B", snapshot_get},
    {"`sdb_reader_open`, `sdb_reader_read`, `sdb_reader_close`: 200 KB", read_stream},
    {"`sdb_get_async`, 100 B, served by `sdb_step`", get_async},
    {"`sdb_put`, 100 B, a new version, durable", put_durable},
    {"`sdb_put`, 100 B, a new version, none", put_none},
    {"`sdb_put`, 100 B, a new document, durable", put_new},
    {"`sdb_put`, 200 KB, durable", put_large},
    {"`sdb_delete`, durable", delete_one},
    {"`sdb_bind`, durable", bind_name},
    {"`sdb_unbind`, durable", unbind_name},
    {"`sdb_batch_open`, 10 `sdb_batch_put`, `sdb_batch_commit`, durable", batch},
    {"`sdb_writer_open`, `sdb_writer_write`, `sdb_writer_commit`: 200 KB, durable", write_stream},
    {"`sdb_restore_version`, 100 B, durable", restore_version},
    {"`sdb_flush`, nothing to do", flush_nothing},
    {"`sdb_flush` behind one `sdb_put` with none, both", put_and_flush},
    {"`sdb_step`, nothing to do", step_idle},
    {"`sdb_get_stats`", stats},
};
enum { CASES = sizeof cases / sizeof *cases };

/* --- Measuring ---------------------------------------------------------------------------------------------------------------- */

static uint64_t looked;

static void figures_now(uint64_t figures[FIGURES]) {
  sdb_stats s = {.size = sizeof s};
  uint64_t own = sim_calls(device, SIM_READ);
  must(sdb_get_stats(db, &s));
  looked += sim_calls(device, SIM_READ) - own; /* asking costs a call to the storage itself */
  figures[PAGES] = s.cache_hits + s.cache_misses;
  figures[ALLOCATIONS] = sim_calls(device, SIM_ALLOC);
  figures[READS] = sim_calls(device, SIM_READ) - looked;
  figures[WRITES] = sim_calls(device, SIM_WRITE);
  figures[SYNCS] = sim_calls(device, SIM_SYNC);
}

/* The most of each figure; the first run only warms up. */
static void measure(void (*call)(void), uint64_t most[FIGURES]) {
  uint64_t before[FIGURES], after[FIGURES];
  memset(most, 0, FIGURES * sizeof *most);
  for (run = 0; run < RUNS; run++) {
    figures_now(before);
    call();
    figures_now(after);
    for (int i = 0; run > 0 && i < FIGURES; i++) {
      uint64_t cost = after[i] - before[i];
      if (cost > most[i]) most[i] = cost;
    }
  }
}

static void setup(void) {
  uint64_t random = 9;
  device = sim_new(1);
  for (size_t i = 0; i < LARGE; i++) content[i] = (uint8_t)sim_random(&random);
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  must(sdb_open("costs.sdb", &o, &db));
  for (unsigned i = 0; i < DOCUMENTS; i++) put_at(i, SMALL, SDB_NONE);
  must(sdb_put(db, "/large", 6, content, LARGE, NULL, NULL));
  for (int i = 0; i < 2; i++) must(sdb_put(db, "/twice", 6, content, SMALL, NULL, NULL));
  must(sdb_checkpoint(db));
  must(sdb_snapshot_open(db, &snapshot));
}

static void teardown(void) {
  sdb_snapshot_close(snapshot);
  must(sdb_close(db));
  sim_free(device);
}

/* --- The page ----------------------------------------------------------------------------------------------------------------- */

static char *read_text(const char *name) {
  FILE *f = fopen(name, "r");
  ck_assert_msg(f != NULL, "cannot open %s", name);
  char *text = calloc(1, 1 << 20);
  ck_assert_ptr_nonnull(text);
  size_t len = fread(text, 1, (1 << 20) - 1, f);
  ck_assert_uint_gt(len, 0);
  fclose(f);
  return text;
}

/* The cells behind the row's name. */
static const char *find_row(const char *page, const char *row) {
  char line[256];
  snprintf(line, sizeof line, "\n| %s |", row);
  const char *at = strstr(page, line);
  ck_assert_msg(at != NULL, "docs/costs.md has no row '%s'", row);
  return at + strlen(line);
}

START_TEST(test_rows) {
  char *page = read_text(SDB_SOURCE "/docs/costs.md");
  static const char *const names[] = {"page touches", "allocations", "reads", "writes", "syncs"};
  bool print = getenv("SDB_COSTS") != NULL;
  for (int c = 0; c < CASES; c++) {
    uint64_t most[FIGURES];
    measure(cases[c].run, most);
    if (print) {
      printf("| %s |", cases[c].row);
      for (int i = 0; i < FIGURES; i++) printf(" %" PRIu64 " |", most[i]);
      printf("\n");
      continue;
    }
    const char *at = find_row(page, cases[c].row);
    for (int i = 0; i < FIGURES; i++) {
      char *end;
      unsigned long said = strtoul(at, &end, 10);
      ck_assert_msg(end != at && strncmp(end, " |", 2) == 0, "row '%s': %s: not a number", cases[c].row, names[i]);
      ck_assert_msg(most[i] <= said, "row '%s' says %lu %s, and there are %" PRIu64, cases[c].row, said, names[i], most[i]);
      ck_assert_msg(said <= 2 * most[i] + 2, "row '%s' says %lu %s, and there are only %" PRIu64 ": bring it up to date",
                    cases[c].row, said, names[i], most[i]);
      at = end + 2;
    }
  }
  free(page);
}
END_TEST

/* Every public call has its place in the page. */
START_TEST(test_nothing_is_missing) {
  static const char *const headers[] = {"sdb.h", "care.h", "changes.h", "storage.h"};
  char *page = read_text(SDB_SOURCE "/docs/costs.md");
  unsigned calls = 0;
  for (unsigned h = 0; h < sizeof headers / sizeof *headers; h++) {
    char name[512];
    snprintf(name, sizeof name, "%s/engine/include/sdb/%s", SDB_SOURCE, headers[h]);
    char *text = read_text(name);
    for (const char *at = text; (at = strstr(at, "\nSDB_API ")) != NULL; at++) {
      const char *paren = strchr(at, '('), *begin = paren;
      while (begin[-1] == '_' || (begin[-1] >= 'a' && begin[-1] <= 'z') || (begin[-1] >= '0' && begin[-1] <= '9')) begin--;
      char quoted[80];
      snprintf(quoted, sizeof quoted, "`%.*s`", (int)(paren - begin), begin);
      ck_assert_msg(strstr(page, quoted) != NULL, "docs/costs.md does not name %s", quoted);
      calls++;
    }
    free(text);
  }
  ck_assert_uint_gt(calls, 50);
  free(page);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("costs");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, test_rows);
  tcase_add_test(t, test_nothing_is_missing);
  Suite *s = suite_create("costs");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? 1 : 0;
}
