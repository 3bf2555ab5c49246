/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload_backup.c - backups in the middle of random work: see workload.h. */
#include <stdio.h>
#include <string.h>

#include "sdb/care.h"
#include "workload.h"

#define COPY "beside.sdb"
#define RESTORED "anew.sdb"

static bool broken(workload *w, const char *what, int code, const char *why) {
  if (w->device != NULL && sim_dead(w->device)) {
    w->stopped = true;
    return true;
  }
  snprintf(w->why, sizeof w->why, "backup: %s: code %d (%s) [%.600s]", what, code, sdb_strerror(code), why);
  return false;
}

/* What the last backup has left, or a crash in it. */
static void clear_away(const sdb_storage *st) {
  char name[64];
  (void)st->remove(st->ctx, RESTORED);
  for (unsigned i = 0; i < 4; i++) {
    snprintf(name, sizeof name, RESTORED ".log.%04u", i);
    (void)st->remove(st->ctx, name);
  }
}

/* It has all that was acknowledged, and a history of its own. */
static bool compare(workload *w, uint64_t epoch) {
  sdb *db;
  sdb_stats stats = {.size = sizeof stats};
  sdb_options o = w->options;
  o.create = false;
  o.read_only = sim_random(&w->random) % 2 == 0;
  int code = sdb_open(RESTORED, &o, &db);
  if (code != SDB_OK) return broken(w, "the restored database does not open", code, w->message);
  code = sdb_get_stats(db, &stats);
  bool good = model_equals(w->model, db) && model_check(w->model, db);
  if (!good) good = broken(w, "another state", SDB_OK, model_why(w->model));
  else if (code != SDB_OK || stats.epoch == epoch) good = broken(w, "the epoch is the same", code, "");
  code = sdb_close(db);
  return good && code != SDB_OK ? broken(w, "the restored database does not close", code, "") : good;
}

bool workload_backup(workload *w) {
  const sdb_storage *st = w->options.storage != NULL ? w->options.storage : sdb_storage_file();
  char message[256] = "";
  sdb_copy_options o;
  sdb_copy_report report = {.size = sizeof report};
  sdb_copy_options_init(&o);
  o.encryption_key = w->options.encryption_key;
  o.replace = true;
  o.message = message;
  o.message_size = sizeof message;
  int code = sdb_backup(w->db, COPY, &o, &report);
  if (code != SDB_OK) {
    sdb_message(w->db, message, sizeof message);
    return broken(w, "sdb_backup", code, message);
  }
  model_all_durable(w->model);
  clear_away(st);
  o.storage = st;
  code = sdb_restore(COPY, RESTORED, &o, NULL);
  if (code != SDB_OK) return broken(w, "sdb_restore", code, message);
  bool good = compare(w, report.epoch);
  if (!w->stopped) clear_away(st);
  return good;
}
