/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload_key.c - change of the key in the middle of random work: see workload.h. */
#include <stdio.h>
#include <string.h>

#include "workload.h"

static const char *const keys[] = {WORKLOAD_KEY, "a second key for the same database", "a third one, of the same length too"};
enum { KEYS = sizeof keys / sizeof *keys };

static bool broken(workload *w, const char *what, int code) {
  if (w->device != NULL && sim_dead(w->device)) {
    w->stopped = true;
    return true;
  }
  snprintf(w->why, sizeof w->why, "key: %s: code %d (%s) [%s]", what, code, sdb_strerror(code), w->message);
  return false;
}

bool workload_change_key(workload *w) {
  const uint8_t *old = w->options.encryption_key, *new = old;
  while (memcmp(new, old, SDB_KEY_SIZE) == 0) new = (const uint8_t *)keys[sim_random(&w->random) % KEYS];
  int code = sdb_change_key(w->db, new);
  if (code == SDB_OK) {
    w->options.encryption_key = new;
    w->key_before = old;
    return true;
  }
  if (code == SDB_FULL && w->profile == PROFILE_TIGHT) return true; /* of the checkpoint that comes first */
  if (w->device != NULL && sim_dead(w->device)) w->key_in_doubt = new;
  return broken(w, "change", code);
}

/* Does the key open what the crash has left? Tried on a copy, because an open changes the device. */
static int try_on_copy(workload *w, const uint8_t *key) {
  sim *copy = sim_clone(w->device, w->random);
  sdb_options o = w->options;
  sdb *db;
  o.storage = sim_storage(copy);
  o.encryption_key = key;
  int code = sdb_open(WORKLOAD_NAME, &o, &db);
  if (code == SDB_OK) sdb_close(db);
  sim_free(copy);
  return code;
}

bool workload_find_key(workload *w) {
  const uint8_t *old = w->options.encryption_key, *new = w->key_in_doubt;
  w->key_in_doubt = NULL;
  int with_old = try_on_copy(w, old), with_new = try_on_copy(w, new);
  bool one = (with_old == SDB_OK && with_new == SDB_WRONG_KEY) || (with_old == SDB_WRONG_KEY && with_new == SDB_OK);
  if (!one) {
    snprintf(w->why, sizeof w->why, "after a change of the key that was cut short the old one gives %d, the new one %d [%s]",
             with_old, with_new, w->message);
    return false;
  }
  w->options.encryption_key = with_new == SDB_OK ? new : old;
  w->key_before = with_new == SDB_OK ? old : new;
  return true;
}

bool workload_refuses_key(workload *w) {
  sdb *db;
  sdb_options o = w->options;
  o.encryption_key = w->key_before;
  int code = sdb_open(WORKLOAD_NAME, &o, &db);
  if (code == SDB_OK) sdb_close(db);
  return code == SDB_WRONG_KEY || broken(w, "the one before is not refused", code);
}
