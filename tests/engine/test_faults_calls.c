/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_faults_calls.c - the calls for names, batches, snapshots, searches, changes, keys and care, with every storage call and
 * allocation failing (sweep.h). And no call of the public headers is left out: those that are swept neither here nor in
 * test_faults.c are listed with the reason. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/care.h"
#include "sdb/changes.h"
#include "sweep.h"

static uint8_t scratch[300000];
static bool encrypted;

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

/* The model is told what became of the last commit; `told` says it to the model. */
static int note(fixture *f, int code, bool told) {
  ck_assert_msg(code != SDB_OK || told, "%s", model_why(f->w.model));
  if (code == SDB_OK) model_all_durable(f->w.model);
  if (code == SDB_SYNC_FAILED) f->uncertain = true;
  return code;
}

static bool happened(int code) { return code == SDB_OK || code == SDB_SYNC_FAILED; }

static int bind_name(fixture *f) {
  sdb_commit commit;
  int code = sdb_bind(f->w.db, "/p/7", 4, "/name", 5, NULL, &commit);
  bool told = happened(code) && model_bind(f->w.model, "/p/7", 4, "/name", 5, code == SDB_OK ? &commit : NULL);
  return note(f, code, told);
}

static int unbind_name(fixture *f, const char *path) {
  sdb_commit commit;
  int code = sdb_unbind(f->w.db, path, strlen(path), NULL, &commit);
  bool told = happened(code) && model_unbind(f->w.model, path, strlen(path), code == SDB_OK ? &commit : NULL);
  return note(f, code, told);
}

static int unbind_last(fixture *f) { return unbind_name(f, "/p/8"); }

static int bind_and_unbind(fixture *f) {
  int code = bind_name(f);
  return code == SDB_OK ? unbind_name(f, "/p/7") : code;
}

static int erase_by_id(fixture *f) {
  uint8_t id[16];
  sdb_commit commit;
  int code = sdb_id_of(f->w.db, "large", 5, id);
  if (code != SDB_OK) return code;
  code = sdb_delete_id(f->w.db, id, NULL, &commit);
  bool told = happened(code) && model_delete(f->w.model, "large", 5, code == SDB_OK ? &commit : NULL);
  return note(f, code, told);
}

static int ask_names(fixture *f) {
  uint8_t id[16];
  sdb_path *paths;
  size_t count;
  sdb_attributes attributes;
  int code = sdb_id_of(f->w.db, "/p/5", 4, id);
  if (code == SDB_OK) code = sdb_get_attributes(f->w.db, "/p/5", 4, SDB_CURRENT, &attributes);
  if (code == SDB_OK) code = sdb_paths_of(f->w.db, id, &paths, &count);
  if (code != SDB_OK) return code;
  ck_assert(count == 1 && paths[0].len == 4 && memcmp(paths[0].path, "/p/5", 4) == 0);
  sdb_free(f->w.db, paths);
  return SDB_OK;
}

static int restore_version(fixture *f) {
  sdb_commit commit;
  int code = sdb_restore_version(f->w.db, "twice", 5, 1, NULL, &commit);
  bool told = happened(code) && model_restored(f->w.model, "twice", 5, 1, code == SDB_OK ? &commit : NULL);
  return note(f, code, told);
}

static int restore_large(fixture *f) {
  sdb_commit commit;
  int code = sdb_restore_version(f->w.db, "large", 5, SDB_CURRENT, NULL, &commit);
  bool told = happened(code) && model_restored(f->w.model, "large", 5, 1, code == SDB_OK ? &commit : NULL);
  return note(f, code, told);
}

/* --- Expiry ------------------------------------------------------------------------------------------------------------------- */

static uint64_t now(const fixture *f) { return f->w.options.storage->now_ms(f->w.options.storage->ctx); }

/* A small and a large document end, with a second name, and are collected; one of them is written over before that. */
static int put_until(fixture *f, const char *path, uint32_t size, uint64_t expires_ms) {
  sdb_put_options o;
  sdb_commit commit;
  uint64_t seed = 1000 + size;
  sdb_put_options_init(&o);
  o.expires_ms = expires_ms;
  model_content(seed, 0, scratch, size);
  int code = sdb_put(f->w.db, path, strlen(path), scratch, size, &o, &commit);
  bool told = happened(code) &&
              model_put_with(f->w.model, path, strlen(path), seed, size, expires_ms, false, code == SDB_OK ? &commit : NULL);
  return note(f, code, told);
}

static int expire(fixture *f) {
  bool more = true;
  model_set_now(f->w.model, now(f));
  int code = put_until(f, "/p/7", 60, now(f) + 1000);
  if (code == SDB_OK) code = bind_name(f);
  if (code == SDB_OK) code = put_until(f, "/end", 9000, now(f) + 1000);
  if (code == SDB_OK) code = put_until(f, "/over", 70, now(f) + 1000);
  sim_advance(f->w.device, 2000);
  model_set_now(f->w.model, now(f));
  if (code == SDB_OK) code = sweep_put(f, "/over", 80, SDB_DURABLE);
  for (int i = 0; i < 50 && more && code == SDB_OK; i++) {
    sim_advance(f->w.device, 100);
    code = sdb_step(f->w.db, 8, &more);
  }
  model_set_now(f->w.model, now(f));
  sdb_stats s = {.size = sizeof s};
  if (code == SDB_OK && !sim_failed(f->w.device) && sdb_get_stats(f->w.db, &s) == SDB_OK) ck_assert_uint_eq(s.expired, 2);
  return code;
}

/* --- Batches ------------------------------------------------------------------------------------------------------------------ */

static int add_stream(fixture *f, sdb_batch *b) {
  sdb_writer *writer;
  model_content(9, 0, scratch, 80000);
  int code = sdb_writer_open(f->w.db, "/b/stream", 9, SDB_UNKNOWN_SIZE, NULL, &writer);
  if (code != SDB_OK) return code;
  code = sdb_writer_write(writer, scratch, 80000);
  if (code == SDB_OK) return sdb_batch_put_writer(b, writer);
  sdb_writer_abort(writer);
  return code;
}

static int add_operations(fixture *f, sdb_batch *b) {
  model_content(8, 0, scratch, 9000);
  int code = sdb_batch_put(b, "/b/small", 8, scratch, 60, NULL);
  if (code == SDB_OK) code = sdb_batch_put(b, "/b/large", 8, scratch, 9000, NULL);
  if (code == SDB_OK) code = add_stream(f, b);
  if (code == SDB_OK) code = sdb_batch_delete(b, "/p/3", 4, SDB_ANY);
  if (code == SDB_OK) code = sdb_batch_bind(b, "/p/4", 4, "/b/name", 7, SDB_ANY);
  if (code == SDB_OK) code = sdb_batch_unbind(b, "/p/6", 4, SDB_ANY);
  if (code == SDB_OK) code = sdb_batch_expect(b, "/p/9", 4, 1);
  if (code == SDB_OK) ck_assert_uint_eq(sdb_batch_count(b), 7);
  return code;
}

static int batch(fixture *f) {
  sdb_batch *b;
  sdb_batch_result r[7];
  int code = sdb_batch_open(f->w.db, &b);
  if (code != SDB_OK) return code;
  code = add_operations(f, b);
  if (code != SDB_OK) {
    sdb_batch_abort(b);
    return code;
  }
  code = sdb_batch_commit(b, NULL, r, 7, NULL);
  if (!happened(code)) return code;
  model *m = f->w.model;
  bool good = code == SDB_OK;
  model_begin(m);
  bool told = model_put(m, "/b/small", 8, 8, 60, good ? &r[0].commit : NULL) &&
              model_put(m, "/b/large", 8, 8, 9000, good ? &r[1].commit : NULL) &&
              model_put(m, "/b/stream", 9, 9, 80000, good ? &r[2].commit : NULL) &&
              model_delete(m, "/p/3", 4, good ? &r[3].commit : NULL) &&
              model_bind(m, "/p/4", 4, "/b/name", 7, good ? &r[4].commit : NULL) &&
              model_unbind(m, "/p/6", 4, good ? &r[5].commit : NULL);
  return note(f, code, model_end(m, good ? r[0].commit.sequence : 0) && told);
}

static int batch_that_fails(fixture *f) {
  sdb_batch *b;
  size_t failed = 0;
  int code = sdb_batch_open(f->w.db, &b);
  if (code != SDB_OK) return code;
  code = sdb_batch_put(b, "/b/small", 8, scratch, 60, NULL);
  if (code == SDB_OK) code = sdb_batch_expect(b, "/p/9", 4, 7);
  if (code != SDB_OK) {
    sdb_batch_abort(b);
    return code;
  }
  code = sdb_batch_commit(b, NULL, NULL, 0, &failed);
  if (code == SDB_CONFLICT) ck_assert_uint_eq(failed, 1);
  return code == SDB_CONFLICT ? SDB_OK : code == SDB_OK ? SDB_INTERNAL : code;
}

/* --- Reads -------------------------------------------------------------------------------------------------------------------- */

static int walk(sdb_cursor *cursor, unsigned expected) {
  sdb_entry entry;
  sdb_order order;
  const void *after;
  size_t after_len;
  unsigned count = 0;
  int code;
  while ((code = sdb_cursor_next(cursor, &entry)) == SDB_OK) count++;
  sdb_cursor_position(cursor, &order, &after, &after_len);
  sdb_cursor_close(cursor);
  if (code != SDB_END) return code;
  return count == expected ? SDB_OK : SDB_INTERNAL;
}

static int search_by_suffix(fixture *f) {
  sdb_cursor *cursor;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.suffix = "7";
  o.suffix_len = 1;
  o.infos = true;
  int code = sdb_cursor_open(f->w.db, &o, &cursor);
  return code == SDB_OK ? walk(cursor, 4) : code; /* 7, 17, 27, 37 */
}

static int search_by_both(fixture *f) {
  sdb_cursor *cursor;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.prefix = "/p/1";
  o.prefix_len = 4;
  o.suffix = "5";
  o.suffix_len = 1;
  int code = sdb_cursor_open(f->w.db, &o, &cursor);
  return code == SDB_OK ? walk(cursor, 1) : code;
}

static int read_large(sdb_reader *reader) {
  size_t got = 1, at = 0;
  int code = SDB_OK;
  ck_assert_uint_eq(sdb_reader_info(reader)->size, SWEEP_LARGE);
  for (; code == SDB_OK && got > 0; at += code == SDB_OK ? got : 0) code = sdb_reader_read(reader, scratch + at, 50000, &got);
  sdb_reader_close(reader);
  if (code == SDB_OK) ck_assert(at == SWEEP_LARGE && sweep_is_content(SWEEP_LARGE, scratch, at));
  return code;
}

static int read_snapshot(const fixture *f, const sdb_snapshot *s) {
  sdb_info infos[2];
  sdb_attributes attributes;
  sdb_path *paths;
  sdb_cursor *cursor;
  sdb_reader *reader;
  void *data;
  size_t size, got, count;
  int code = sdb_snapshot_get(s, "/p/7", 4, SDB_CURRENT, scratch, sizeof scratch, &size, infos);
  if (code == SDB_OK) ck_assert(size == 307 && sweep_is_content(1307, scratch, size));
  if (code == SDB_OK) code = sdb_snapshot_get_range(s, "large", 5, SDB_CURRENT, 65000, scratch, 3000, &got, NULL);
  if (code == SDB_OK) code = sdb_snapshot_stat(s, "/p/7", 4, SDB_CURRENT, infos);
  if (code == SDB_OK) code = sdb_snapshot_versions(s, "twice", 5, infos, 2, &count);
  if (code == SDB_OK) code = sdb_snapshot_get_attributes(s, "/p/7", 4, SDB_CURRENT, &attributes);
  if (code == SDB_OK) code = sdb_snapshot_paths_of(s, infos[0].id, &paths, &count);
  if (code == SDB_OK) sdb_free(f->w.db, paths);
  if (code == SDB_OK) code = sdb_snapshot_get_alloc(s, "/p/7", 4, SDB_CURRENT, &data, &size, NULL);
  if (code == SDB_OK) sdb_free(f->w.db, data);
  if (code == SDB_OK) code = sdb_snapshot_cursor_open(s, NULL, &cursor);
  if (code == SDB_OK) code = walk(cursor, SWEEP_FILLERS + 2);
  if (code == SDB_OK) code = sdb_snapshot_reader_open(s, "large", 5, SDB_CURRENT, &reader);
  return code == SDB_OK ? read_large(reader) : code;
}

/* Of a state that is over when it is read. */
static int snapshot(fixture *f) {
  sdb_snapshot *s;
  int code = sdb_snapshot_open(f->w.db, &s);
  if (code != SDB_OK) return code;
  ck_assert_uint_gt(sdb_snapshot_sequence(s), 0);
  code = sweep_put(f, "/p/7", 900, SDB_DURABLE);
  if (code == SDB_OK) code = read_snapshot(f, s);
  sdb_snapshot_close(s);
  return code;
}

static int quick_read(fixture *f) {
  void *data;
  size_t size;
  sdb_set_quick_mode(f->w.db, true);
  int code = sdb_get_alloc(f->w.db, "large", 5, SDB_CURRENT, &data, &size, NULL);
  sdb_set_quick_mode(f->w.db, false);
  if (code == SDB_OK) sdb_free(f->w.db, data);
  return code;
}

static int follow_changes(fixture *f) {
  sdb_position oldest, newest;
  sdb_changes *feed;
  sdb_change change;
  unsigned seen = 0;
  int code = sdb_changes_range(f->w.db, &oldest, &newest);
  if (code == SDB_OK) code = sdb_changes_open(f->w.db, &newest, "/p", 2, &feed);
  if (code != SDB_OK) return code;
  code = sweep_put(f, "/p/7", 100, SDB_DURABLE);
  if (code == SDB_OK) code = sdb_changes_wait(feed, 0);
  if (code == SDB_END) code = SDB_OK; /* no threads: it does not wait */
  while (code == SDB_OK && (code = sdb_changes_next(feed, &change)) == SDB_OK) seen++;
  sdb_changes_position(feed, &newest);
  sdb_changes_close(feed);
  if (code != SDB_END) return code;
  return seen == 1 ? SDB_OK : SDB_INTERNAL;
}

/* --- Keys and care ------------------------------------------------------------------------------------------------------------ */

static int keys(fixture *f) {
  uint8_t exported[SDB_KEY_SIZE];
  static const uint8_t same[SDB_KEY_SIZE + 1] = "thirty-two bytes make up a key..";
  int code = sdb_key_export(f->w.db, exported);
  if (code == SDB_OK) code = sdb_change_key(f->w.db, same);
  return !encrypted && code == SDB_INVALID ? SDB_OK : code;
}

/* What a copy cannot read it takes for damaged. */
static int unreadable(const fixture *f, int code) { return code == SDB_CORRUPT && sim_failed(f->w.device) ? SDB_IO : code; }

static int backup(fixture *f) {
  sdb_copy_options o;
  sdb_copy_options_init(&o);
  o.verify = true;
  o.replace = true;
  return unreadable(f, sdb_backup(f->w.db, "copy.sdb", &o, NULL));
}

/* Of a closed database, which the end of the case opens again. */
static int verify(fixture *f) {
  sdb_verify_report r = {.size = sizeof r};
  int code = sdb_verify(WORKLOAD_NAME, &f->w.options, NULL, NULL, &r);
  if (code == SDB_OK && r.problems > 0) return sim_failed(f->w.device) ? SDB_OK : SDB_INTERNAL; /* what it cannot read is one */
  return code;
}

static int restore(fixture *f) {
  sdb_copy_options o;
  sdb_copy_options_init(&o);
  o.storage = f->w.options.storage;
  return unreadable(f, sdb_restore(WORKLOAD_NAME, "restored.sdb", &o, NULL));
}

static int repair(fixture *f) {
  sdb_repair_report r = {.size = sizeof r};
  return sdb_repair(WORKLOAD_NAME, "mended.sdb", &f->w.options, NULL, NULL, &r);
}

static const act acts[] = {
    {"bind", CLOSED, false, bind_name},
    {"bind-unbind", CRASHED, false, bind_and_unbind},
    {"unbind-last", CLOSED, false, unbind_last},
    {"delete-id", CRASHED, false, erase_by_id},
    {"names", CLOSED, false, ask_names},
    {"restore-version", CLOSED, false, restore_version},
    {"restore-large", CRASHED, false, restore_large},
    {"expire", CLOSED, false, expire},
    {"batch", CRASHED, false, batch},
    {"batch-fails", CLOSED, false, batch_that_fails},
    {"search-suffix", CLOSED, false, search_by_suffix},
    {"search-both", CLOSED, false, search_by_both},
    {"snapshot", CLOSED, false, snapshot},
    {"quick", CLOSED, false, quick_read},
    {"changes", CLOSED, false, follow_changes},
    {"keys", CRASHED, false, keys},
    {"backup", CRASHED, false, backup},
    {"verify", CLOSED, true, verify},
    {"restore", CLOSED, true, restore},
    {"repair", CLOSED, true, repair},
};
enum { ACTS = sizeof acts / sizeof *acts };

START_TEST(test_sweep) {
  encrypted = _i >= ACTS;
  const act *a = &acts[_i % ACTS];
  if (encrypted && _i % 3 != 0 && a->run != keys) return; /* most of what can fail is the same */
  sweep(a, encrypted);
}
END_TEST

/* --- None is left out --------------------------------------------------------------------------------------------------------- */

/* Neither storage nor memory of the engine stands behind these. */
static const char *const cannot_fail[] = {
    "sdb_strerror",     /* a constant */
    "sdb_options_init", /* constants, like the other _init */
    "sdb_put_options_init",
    "sdb_cursor_options_init",
    "sdb_copy_options_init",
    "sdb_message", /* a copy; asked in every case that fails */
    "sdb_crc32c",  /* arithmetic */
    "sdb_key_parse",
    "sdb_key_wipe",
    "sdb_key_find", /* the system's files, not the storage's: test_encryption.c */
};

static char *read_text(const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", SDB_SOURCE, name);
  FILE *file = fopen(path, "r");
  ck_assert_msg(file != NULL, "%s cannot be opened", path);
  char *text = calloc(1, 200000);
  ck_assert(text != NULL && fread(text, 1, 199999, file) > 0);
  fclose(file);
  return text;
}

static bool is_used(const char *text, const char *name) {
  size_t len = strlen(name);
  for (const char *at = text; (at = strstr(at, name)) != NULL; at += len)
    if (at[len] == '(' && at[-1] != '_') return true;
  return false;
}

START_TEST(test_nothing_is_missing) {
  static const char *const headers[] = {"sdb.h", "care.h", "changes.h"};
  char *texts[] = {read_text("tests/engine/test_faults.c"), read_text("tests/engine/test_faults_calls.c"),
                   read_text("tests/lib/sweep.c")};
  unsigned calls = 0;
  for (unsigned h = 0; h < sizeof headers / sizeof *headers; h++) {
    char name[64];
    snprintf(name, sizeof name, "engine/include/sdb/%s", headers[h]);
    char *header = read_text(name);
    for (const char *at = header; (at = strstr(at, "\nSDB_API ")) != NULL; at++, calls++) {
      const char *end = strchr(at, '('), *begin = end;
      while (begin[-1] == '_' || (begin[-1] >= 'a' && begin[-1] <= 'z') || (begin[-1] >= '0' && begin[-1] <= '9')) begin--;
      snprintf(name, sizeof name, "%.*s", (int)(end - begin), begin);
      bool covered = false;
      for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++) covered |= is_used(texts[i], name);
      for (unsigned i = 0; i < sizeof cannot_fail / sizeof *cannot_fail; i++) covered |= strcmp(name, cannot_fail[i]) == 0;
      ck_assert_msg(covered, "no sweep of faults calls %s", name);
    }
    free(header);
  }
  ck_assert_uint_gt(calls, 70);
  for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++) free(texts[i]);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("faults of calls");
  TCase *t = tcase_create("sweep");
  tcase_set_timeout(t, 600);
  tcase_add_loop_test(t, test_sweep, 0, 2 * ACTS);
  tcase_add_test(t, test_nothing_is_missing);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
