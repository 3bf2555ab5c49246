/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_failed_sync.c - each sync that the engine makes fails once, and it is the last thing that the handle wrote (I7).
 *
 * A scripted session meets every place where the engine syncs. It is run once to see which syncs there are, then once for each of
 * them, failing exactly that one. A failed sync has made nothing durable, and what it should have made durable stays in doubt on
 * the device until it is written again. From the failure on:
 *   1. the call that needed it answers SDB_SYNC_FAILED, and so does every later call that writes; nothing more is acknowledged
 *   2. reads go on, and show every commit acknowledged before
 *   3. closed and opened again, or after a power cut, everything acknowledged as durable is there, and check finds nothing
 * A backup is a file of its own: there the failing call alone says so and leaves no copy, and the database goes on.
 *
 * Environment: SDB_NTH=n, SDB_VARIANT=n: only that case.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/care.h"
#include "seed.h"
#include "workload.h"

#define NAME WORKLOAD_NAME
#define BACKUP "copy.sdb"
#define SLOT_B 65536u
#define FIXED_END 131072u

enum { SITES = 64, MANY = 80, UPLOAD = 3 << 20 };

typedef struct session {
  workload w;
  sdb_storage table; /* the device's, with or without pacing */
  sim *device;
  const char *phase;
  char last_write[32]; /* to the data file: what the next sync of it is for */
  uint64_t nth;        /* the sync that fails; 0: none */
  uint64_t syncs;
  char site[64]; /* of the sync that failed */
  bool struck, own_file;
  bool uncertain; /* the last commit of the model may or may not have happened */
  const char *struck_in;
} session;

static const uint8_t key[SDB_KEY_SIZE] = "thirty-two bytes make up a key..";
static const uint8_t new_key[SDB_KEY_SIZE] = "thirty-two bytes, another key...";
static uint8_t content[UPLOAD];
static bool encrypted, paced;

/* --- Sites -------------------------------------------------------------------------------------------------------------------- */

typedef struct census {
  char names[SITES][64];
  unsigned counts[SITES], count;
} census;

static census met;

static void note_site(census *c, const char *name) {
  unsigned i = 0;
  while (i < c->count && strcmp(c->names[i], name) != 0) i++;
  ck_assert_uint_lt(i, SITES);
  if (i == c->count) snprintf(c->names[c->count++], sizeof c->names[0], "%s", name);
  c->counts[i]++;
}

static void note_write(session *s, const sim_event *e) {
  const char *what = e->offset >= FIXED_END ? "pages" : e->offset < SLOT_B ? "slot A" : "slot B";
  bool log = strstr(e->name, ".log.") != NULL;
  if (log) what = memcmp(e->data, "SDBLOG", 6) == 0 ? "head" : "records";
  snprintf(s->last_write, sizeof s->last_write, "%s", what);
}

static void name_site(const session *s, const sim_event *e, char *site, size_t size) {
  if (strcmp(e->call, "sync_dir") == 0) snprintf(site, size, "%s: folder", s->phase);
  else if (strncmp(e->name, BACKUP, strlen(BACKUP)) == 0) snprintf(site, size, "%s: its file", s->phase);
  else if (strstr(e->name, ".log.new") != NULL) snprintf(site, size, "%s: new segment", s->phase);
  else snprintf(site, size, "%s: %s%s", s->phase, strstr(e->name, ".log.") != NULL ? "log " : "", s->last_write);
}

static void watch(void *user, const sim_event *e) {
  session *s = user;
  char site[64];
  if (strcmp(e->call, "write") == 0) note_write(s, e);
  if (strncmp(e->call, "sync", 4) != 0) return;
  s->syncs++;
  name_site(s, e, site, sizeof site);
  if (s->nth == 0) note_site(&met, site);
  if (s->syncs != s->nth) return;
  s->struck = true;
  s->struck_in = s->phase;
  s->own_file = strncmp(e->name, BACKUP, strlen(BACKUP)) == 0;
  snprintf(s->site, sizeof s->site, "%s", site);
}

__attribute__((noreturn)) static void report(const session *s, const char *what, const char *why) {
  char message[256] = "";
  if (s->w.db != NULL) sdb_message(s->w.db, message, sizeof message);
  ck_abort_msg("sync %" PRIu64 " failed (%s), in %s: %s: %s [%s]\n  again: SDB_NTH=%" PRIu64 " SDB_VARIANT=%d", s->nth, s->site,
               s->phase, what, why, message, s->nth, encrypted + 2 * paced);
  abort();
}

/* --- The session -------------------------------------------------------------------------------------------------------------- */

/* What a call that writes may answer; true when it was acknowledged. */
static bool judge(session *s, bool struck_before, int code, const char *call) {
  if (!s->struck || s->own_file) {
    if (code != SDB_OK) report(s, call, sdb_strerror(code));
    return true;
  }
  if (struck_before && code == SDB_OK) report(s, call, "acknowledged after the failed sync");
  if (code != SDB_OK && code != SDB_SYNC_FAILED) report(s, call, sdb_strerror(code));
  return code == SDB_OK;
}

static void put(session *s, const char *path, uint32_t size, sdb_durability durability, bool defer) {
  uint64_t seed = size + 7;
  bool before = s->struck;
  sdb_put_options o;
  sdb_commit commit;
  sdb_put_options_init(&o);
  o.durability = durability;
  o.defer = defer;
  model_content(seed, 0, content, size);
  int code = sdb_put(s->w.db, path, strlen(path), content, size, &o, &commit);
  if (code == SDB_OK && defer) code = sdb_wait(s->w.db, commit.sequence);
  if (judge(s, before, code, "put")) {
    ck_assert_msg(model_put(s->w.model, path, strlen(path), seed, size, &commit), "%s", model_why(s->w.model));
    if (commit.reached == SDB_DURABLE) model_all_durable(s->w.model);
  } else if (!before) {
    model_put(s->w.model, path, strlen(path), seed, size, NULL);
    s->uncertain = true;
  }
}

static void put_one(session *s) { put(s, "/p/7", 100, SDB_DURABLE, false); }
static void put_over(session *s) { put(s, "/p/3", 500, SDB_DURABLE, false); }
static void put_owed(session *s) { put(s, "/owed", 40000, SDB_DURABLE, false); }
static void put_deferred(session *s) { put(s, "/deferred", 10, SDB_DURABLE, true); }

/* Enough for several log segments, and for a checkpoint of more than one piece. */
static void put_many(session *s) {
  for (unsigned i = 0; i < MANY; i++) {
    char path[16];
    snprintf(path, sizeof path, "/many/%u", i);
    put(s, path, 30000, SDB_NONE, false);
  }
}

static void flush(session *s) {
  bool before = s->struck;
  if (judge(s, before, sdb_flush(s->w.db), "flush")) model_all_durable(s->w.model);
}

static void step(session *s, uint64_t ms) {
  bool more = true;
  sim_advance(s->device, ms);
  for (int i = 0; i < 300 && more; i++) {
    int code = sdb_step(s->w.db, 16, &more);
    if (code != SDB_OK && (!s->struck || code != SDB_SYNC_FAILED)) report(s, "step", sdb_strerror(code));
    if (code != SDB_OK) break;
  }
}

static void buffered(session *s) {
  put(s, "/buffered", 50, SDB_BUFFERED, false);
  step(s, 200);
}

static void rest(session *s) { step(s, 1500); }

static void upload(session *s) {
  sdb_writer *writer;
  sdb_commit commit;
  bool before = s->struck;
  model_content(6, 0, content, UPLOAD);
  int code = sdb_writer_open(s->w.db, "/upload", 7, SDB_UNKNOWN_SIZE, NULL, &writer);
  if (code == SDB_OK) {
    for (uint32_t at = 0; at < UPLOAD && code == SDB_OK; at += UPLOAD / 12)
      code = sdb_writer_write(writer, content + at, UPLOAD / 12);
    if (code == SDB_OK) code = sdb_writer_commit(writer, &commit);
    else sdb_writer_abort(writer);
  }
  if (judge(s, before, code, "upload")) {
    ck_assert_msg(model_put(s->w.model, "/upload", 7, 6, UPLOAD, &commit), "%s", model_why(s->w.model));
    model_all_durable(s->w.model);
  } else if (!before) {
    model_put(s->w.model, "/upload", 7, 6, UPLOAD, NULL);
    s->uncertain = true;
  }
}

static void erase(session *s) {
  sdb_commit commit;
  bool before = s->struck;
  int code = sdb_delete(s->w.db, "/p/9", 4, NULL, &commit);
  if (judge(s, before, code, "delete")) {
    ck_assert_msg(model_delete(s->w.model, "/p/9", 4, &commit), "%s", model_why(s->w.model));
    model_all_durable(s->w.model);
  } else if (!before) {
    model_delete(s->w.model, "/p/9", 4, NULL);
    s->uncertain = true;
  }
}

static void batch(session *s) {
  sdb_batch *b;
  sdb_batch_result results[2];
  bool before = s->struck;
  model_content(5, 0, content, 70000);
  int code = sdb_batch_open(s->w.db, &b);
  if (code == SDB_OK) {
    code = sdb_batch_put(b, "/b/1", 4, content, 40, NULL);
    if (code == SDB_OK) code = sdb_batch_put(b, "/b/2", 4, content, 70000, NULL);
    if (code == SDB_OK) code = sdb_batch_commit(b, NULL, results, 2, NULL);
    else sdb_batch_abort(b);
  }
  bool good = judge(s, before, code, "batch");
  if (before && !good) return;
  model_begin(s->w.model);
  model_put(s->w.model, "/b/1", 4, 5, 40, good ? &results[0].commit : NULL);
  model_put(s->w.model, "/b/2", 4, 5, 70000, good ? &results[1].commit : NULL);
  model_end(s->w.model, good ? results[0].commit.sequence : 0);
  if (good) model_all_durable(s->w.model);
  else s->uncertain = true;
}

static void checkpoint(session *s) {
  bool before = s->struck;
  if (judge(s, before, sdb_checkpoint(s->w.db), "checkpoint")) model_all_durable(s->w.model);
}

static void change_key(session *s) {
  bool before = s->struck;
  if (!encrypted) return;
  int code = sdb_change_key(s->w.db, new_key);
  if (judge(s, before, code, "change of the key")) s->w.options.encryption_key = new_key;
}

static void backup(session *s) {
  bool before = s->struck;
  int code = sdb_backup(s->w.db, BACKUP, NULL, NULL);
  if (s->struck && !before && s->own_file) {
    if (code != SDB_SYNC_FAILED && code != SDB_IO) report(s, "the backup", sdb_strerror(code));
    uint64_t size;
    bool whole = strcmp(s->site, "backup: folder") == 0; /* only its name is in doubt */
    if ((!whole && sim_size(s->device, BACKUP, &size)) || sim_size(s->device, BACKUP ".new", &size))
      report(s, "the backup", "is there");
  } else if (judge(s, before, code, "backup")) {
    model_all_durable(s->w.model);
  }
}

static const struct phase {
  const char *name;
  void (*run)(session *s);
} phases[] = {
    {"put", put_one},           {"put, contents owed", put_owed},
    {"deferred", put_deferred}, {"buffered", buffered},
    {"delete", erase},          {"batch", batch},
    {"many", put_many},         {"flush", flush},
    {"upload", upload},         {"rest", rest},
    {"checkpoint", checkpoint}, {"change of the key", change_key},
    {"more", put_many},         {"backup", backup},
    {"put again", put_one},     {"second checkpoint", checkpoint},
    {"last put", put_over},
};
enum { PHASES = sizeof phases / sizeof *phases };

/* What every session must meet. A place that the engine does not sync any more, or that the script misses, shows here. */
static const char *const sites[] = {
    "open: slot B", /* the second slot, before anything else is written */
    "open: pages",  /* the checkpoint behind a recovery */
    "open: slot A",
    "put: folder", /* the first segment of a session */
    "put: log head",
    "put: log records",
    "put, contents owed: pages", /* before the record that names the content */
    "deferred: log records",
    "buffered: log records",
    "delete: log records",
    "batch: pages",
    "batch: log records",
    "many: new segment",
    "many: folder",
    "many: log head",
    "flush: log records",
    "upload: pages",
    "upload: log records",
    "rest: log records", /* the mark */
    "checkpoint: pages",
    "checkpoint: slot A",
    "checkpoint: slot B",
    "backup: its file",
    "backup: folder",
    "close: pages",
    "close: slot A",
    "close: slot B",
    "change of the key: slot A", /* this and the next: only where it is encrypted */
    "change of the key: slot B",
};

/* --- Before and after --------------------------------------------------------------------------------------------------------- */

static sim *base_device;
static model *base_model;

static void session_init(session *s, sim *device, model *m) {
  *s = (session){.device = device, .phase = "open"};
  workload_init(&s->w, 1, device);
  model_free(s->w.model);
  s->w.model = m;
  s->table = *sim_storage(device);
  if (!paced) s->table.write_back = NULL;
  s->w.options.storage = &s->table;
  s->w.options.page_size = 65536; /* so that few documents make a checkpoint of several pieces */
  s->w.options.page_cache_size = 256;
  s->w.options.versions_to_keep = 2;
  s->w.options.wal_segment_size = 1 << 20;
  s->w.options.checkpoint_wal_bytes = 64 << 20;
  s->w.options.change_log_bytes = 0;
  s->w.options.max_db_size = 1 << 30;
  s->w.options.use_compression = false;
  s->w.options.encryption_key = encrypted ? key : NULL;
  s->w.options.cipher = SDB_CIPHER_DEFAULT;
  s->w.profile = PROFILE_ORDINARY;
}

static void must(const session *s, bool good) {
  if (!good) report(s, "the workload", s->w.why);
}

/* A database that was not closed. */
static void make_base(void) {
  session s;
  base_device = sim_new(1);
  session_init(&s, base_device, model_new(2));
  must(&s, workload_open(&s.w));
  for (unsigned i = 0; i < 20; i++) {
    char path[16];
    snprintf(path, sizeof path, "/p/%u", i);
    put(&s, path, 300 + i, SDB_DURABLE, false);
  }
  sim_die_at(base_device, 1);
  sdb_close(s.w.db);
  sim_crash(base_device, SIM_DROP_ALL, 1);
  base_model = s.w.model;
}

static void free_base(void) {
  model_free(base_model);
  sim_free(base_device);
}

static void script(session *s) {
  for (unsigned i = 0; i < PHASES; i++) {
    s->phase = phases[i].name;
    phases[i].run(s);
  }
}

/* Reads go on, and every call that writes is refused in its own words. */
static void judge_handle(session *s) {
  sdb_stats stats = {.size = sizeof stats};
  sdb_writer *writer;
  ck_assert_int_eq(sdb_get_stats(s->w.db, &stats), SDB_OK);
  s->phase = "the handle";
  if (!stats.sync_failed) report(s, "statistics", "do not tell of the failed sync");
  model *live = model_clone(s->w.model);
  model_require(live, model_commits(live) - s->uncertain);
  if (!model_adopt(live, s->w.db)) report(s, "what can be read", model_why(live));
  model_free(live);
  int codes[] = {sdb_put(s->w.db, "/p/1", 4, "x", 1, NULL, NULL),
                 sdb_delete(s->w.db, "/p/1", 4, NULL, NULL),
                 sdb_delete(s->w.db, "/none", 5, NULL, NULL),
                 sdb_bind(s->w.db, "/p/1", 4, "/name", 5, NULL, NULL),
                 sdb_unbind(s->w.db, "/p/1", 4, NULL, NULL),
                 sdb_restore_version(s->w.db, "/p/1", 4, SDB_CURRENT, NULL, NULL),
                 sdb_flush(s->w.db),
                 sdb_checkpoint(s->w.db)};
  for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] != SDB_SYNC_FAILED) report(s, "a call that writes", sdb_strerror(codes[i]));
  int code = sdb_writer_open(s->w.db, "/p/1", 4, SDB_UNKNOWN_SIZE, NULL, &writer);
  if (code == SDB_OK) code = sdb_writer_commit(writer, NULL);
  if (code != SDB_SYNC_FAILED) report(s, "a writer", sdb_strerror(code));
}

static void recover(session *s, const char *when) {
  s->phase = when;
  s->uncertain = false;
  if (workload_recover(&s->w)) return;
  if (strcmp(s->struck_in, "change of the key") != 0) report(s, "opening", s->w.why);
  s->w.options.encryption_key = new_key; /* one of the two opens it */
  must(s, workload_recover(&s->w));
}

static void cut_power(session *s, enum sim_crash_mode mode) {
  sim_die_at(s->device, 1);
  if (s->w.db != NULL) sdb_close(s->w.db);
  s->w.db = NULL;
  sim_crash(s->device, mode, s->nth);
}

/* What is in doubt must not be trusted by the next open either: it works on, and only then the power fails. */
static void judge_aftermath(session *s) {
  if (s->nth % 2 == 0) cut_power(s, s->nth % 4 == 0 ? SIM_DROP_ALL : SIM_RANDOM_SUBSET);
  if (s->w.db != NULL) {
    int code = sdb_close(s->w.db);
    s->w.db = NULL;
    if (code != (s->own_file ? SDB_OK : SDB_SYNC_FAILED)) report(s, "the close", sdb_strerror(code));
  }
  recover(s, "opening again");
  s->struck = false;
  s->nth = 0;
  put(s, "/after", 2500, SDB_DURABLE, false);
  cut_power(s, SIM_DROP_ALL);
  recover(s, "opening again, work and a power cut");
  must(s, workload_verify(&s->w) && workload_close(&s->w));
}

/* A database with the nth sync of its session failing; false when there are not so many. */
static bool fail_sync(uint64_t nth) {
  session s;
  sim *device = sim_clone(base_device, nth);
  session_init(&s, device, model_clone(base_model));
  s.nth = nth;
  sim_watch(device, watch, &s);
  sim_fail(device, SIM_SYNC, nth, false, SDB_IO);
  int code = sdb_open(NAME, &s.w.options, &s.w.db);
  if (s.struck && code == SDB_OK) report(&s, "open", "did not notice");
  if (code != SDB_OK) s.w.db = NULL;
  if (!s.struck || code == SDB_OK) {
    must(&s, code == SDB_OK && model_adopt(s.w.model, s.w.db));
    script(&s);
    s.phase = "close";
    if (s.struck && !s.own_file) judge_handle(&s);
    if (!s.struck || s.own_file) {
      code = sdb_close(s.w.db);
      s.w.db = NULL;
      if (s.struck && !s.own_file && code != SDB_SYNC_FAILED) report(&s, "close", sdb_strerror(code));
    }
  }
  bool struck = s.struck;
  sim_watch(device, NULL, NULL);
  sim_fail_nothing(device);
  if (struck) judge_aftermath(&s);
  workload_clear(&s.w);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
  return struck;
}

static void look_around(void) {
  session s;
  sim *device = sim_clone(base_device, 1);
  met = (census){0};
  session_init(&s, device, model_clone(base_model));
  sim_watch(device, watch, &s);
  must(&s, workload_open(&s.w) && model_adopt(s.w.model, s.w.db));
  script(&s);
  s.phase = "close";
  must(&s, workload_close(&s.w));
  workload_clear(&s.w);
  sim_free(device);
  for (unsigned i = 0; i < met.count; i++) printf("%5u %s\n", met.counts[i], met.names[i]);
  for (unsigned i = 0; i < sizeof sites / sizeof *sites - (encrypted ? 0 : 2); i++) {
    unsigned k = 0;
    while (k < met.count && strcmp(met.names[k], sites[i]) != 0) k++;
    ck_assert_msg(k < met.count, "no sync was met at '%s'", sites[i]);
  }
}

START_TEST(every_sync_fails_once) {
  uint64_t only = seed_number("SDB_NTH", 0), variant = seed_number("SDB_VARIANT", (uint64_t)_i);
  if (variant != (uint64_t)_i) return;
  encrypted = _i % 2 == 1;
  paced = _i >= 2;
  make_base();
  look_around();
  for (uint64_t nth = only != 0 ? only : 1; fail_sync(nth) && only == 0;) nth++;
  free_base();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("failed_sync");
  TCase *t = tcase_create("failed sync");
  tcase_set_timeout(t, 600);
  tcase_add_loop_test(t, every_sync_fails_once, 0, 3);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
