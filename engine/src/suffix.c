/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* suffix.c - the suffix tree of a database that was made or used without it is built, and one that is not wanted any more is
 * dropped, in short turns beside commits.
 *
 *     (no tree) --begin--> building --every name--> complete --opened without suffix_index, or damage met--> dropping --> (no tree)
 *
 * Building walks the path tree, not the records: names stand there close together, also those of a damaged record. How far it has
 * come is a path in memory. In the roots, and so in every checkpoint, it is the document which that path leads to: paths are never
 * written in clear outside units, and the least of a document's names is not behind the one that was reached, so a start goes on
 * there and adds again, in vain, at most what lies between the two. A commit that takes a name from that document resets it to 0,
 * the beginning (names.c). Nothing of this is in the log: a crash falls back to the last checkpoint, tree and place together.
 */
#include "db.h"

enum {
  NAMES_A_TURN = 64, /* under one holding of the writer's lock */
  LEAVES_A_TURN = 16,
  SAVE_AFTER = 1 << 18, /* names, then a checkpoint keeps them */
  RETRY_US = 1000000
};

static uint64_t now_us(const sdb *db) { return db->e.storage->monotonic_us(db->e.storage->ctx); }

uint64_t suffix_delay_us(const sdb *db) {
  const roots *rt = &db->roots;
  bool wanted = db->options.suffix_index;
  if (db->read_only || (rt->suffix_tree ? wanted && rt->suffix_built == SUFFIX_COMPLETE : !wanted)) return UINT64_MAX;
  if (db->suffix.after_us == 0 || db->suffix.after_us == UINT64_MAX) return db->suffix.after_us;
  uint64_t now = now_us(db);
  return now < db->suffix.after_us ? db->suffix.after_us - now : 0;
}

/* --- Turns -------------------------------------------------------------------------------------------------------------------- */

static int begin(sdb *db) {
  roots *rt = &db->roots;
  uint32_t root;
  int rc = tree_create(db->pager, &root);
  if (rc != SDB_OK) return rc;
  rt->suffix_tree = root;
  rt->suffix_built = rt->suffix_names = 0;
  db->suffix.placed = true;
  db->suffix.len = 0;
  names_publish_suffix(db, 0);
  return SDB_OK;
}

/* The place to go on behind after a start: just before the least name of the document that was reached. What cannot be read is no
 * place: then from the beginning. */
static void find_place(sdb *db) {
  struct suffix_work *s = &db->suffix;
  table_entry entry;
  record r;
  uint64_t document = db->roots.suffix_built;
  s->placed = true;
  s->len = 0;
  if (!document || table_get(db->table, VIEW_HEAD, document, &entry) != SDB_OK ||
      document_version(db, VIEW_HEAD, document, &entry, SDB_CURRENT, &r) != SDB_OK)
    return;
  for (unsigned i = 0; i < record_names(&r); i++) {
    size_t len;
    const uint8_t *name = record_name(&r, i, &len);
    size_t both = len < s->len ? len : s->len;
    int order = memcmp(name, s->path, both);
    if (i > 0 && (order > 0 || (order == 0 && len >= s->len))) continue;
    memcpy(s->path, name, len);
    s->len = len;
  }
}

static int build_one(sdb *db, tree_cursor *paths) {
  struct suffix_work *s = &db->suffix;
  uint64_t document;
  int rc = pager_admit(db->pager, 0, 8, false);
  if (rc == SDB_OK) rc = tree_cursor_next(paths, &document);
  if (rc == SDB_OK) rc = names_index(db, paths->key, paths->key_len, document);
  if (rc != SDB_OK || !db->roots.suffix_tree || db->roots.suffix_built == SUFFIX_DROPPING) return rc;
  memcpy(s->path, paths->key, paths->key_len);
  s->len = paths->key_len;
  db->roots.suffix_built = document;
  s->unsaved++;
  return SDB_OK;
}

static int build(sdb *db) {
  struct suffix_work *s = &db->suffix;
  tree_cursor paths;
  int rc = SDB_OK;
  if (!s->placed) find_place(db);
  tree_cursor_init(&paths, db->pager, VIEW_HEAD, db->roots.path_tree, s->path, s->len, s->len > 0);
  for (unsigned i = 0; i < NAMES_A_TURN && rc == SDB_OK && db->roots.suffix_built != SUFFIX_DROPPING; i++)
    rc = build_one(db, &paths);
  if (rc == SDB_END) {
    db->roots.suffix_built = SUFFIX_COMPLETE;
    names_publish_suffix(db, pager_open_version(db->pager));
    rc = SDB_OK;
  }
  if (s->unsaved < SAVE_AFTER && db->roots.suffix_built != SUFFIX_COMPLETE) return rc;
  s->unsaved = 0;
  db->checkpoint_wanted = true;
  return rc;
}

static int drop(sdb *db) {
  roots *rt = &db->roots;
  bool done;
  if (rt->suffix_built != SUFFIX_DROPPING) names_give_up_suffix(db);
  int rc = tree_drop_some(db->pager, rt->suffix_tree, LEAVES_A_TURN, &done);
  if (rc == SDB_CORRUPT || rc == SDB_IO) { /* what stands below the damaged page is not found from above */
    rt->sweep = true;
    db->rebuild.sweep = SWEEP_BEGIN;
    done = true;
    rc = SDB_OK;
  }
  if (rc != SDB_OK || !done) return rc;
  rt->suffix_tree = 0;
  rt->suffix_built = 0;
  names_publish_suffix(db, 0);
  db->checkpoint_wanted = true;
  return SDB_OK;
}

static int turn(sdb *db) {
  const roots *rt = &db->roots;
  int rc = commit_ready(db);
  if (rc == SDB_OK && !rt->suffix_tree) rc = begin(db);
  else if (rc == SDB_OK && (rt->suffix_built == SUFFIX_DROPPING || !db->options.suffix_index)) rc = drop(db);
  else if (rc == SDB_OK) rc = build(db);
  note_unlogged(db);
  if (rc == SDB_CORRUPT) { /* in the path tree, which is made again first; the end of that is the end of the wait */
    names_note_damage(db, rt->path_tree);
    db->suffix.after_us = UINT64_MAX;
    return SDB_OK;
  }
  if (rc != SDB_OK) db->suffix.after_us = now_us(db) + RETRY_US;
  return rc;
}

int suffix_step(sdb *db, unsigned budget) {
  bool due = true;
  int rc = SDB_OK;
  for (unsigned done = 0; due && rc == SDB_OK && done < budget; done += NAMES_A_TURN) {
    pager_lock(db->pager);
    unsigned slot = pager_enter(db->pager);
    due = suffix_delay_us(db) == 0;
    if (due) rc = turn(db);
    pager_leave(db->pager, slot);
    pager_unlock(db->pager);
    thread_yield(); /* commits that wait for the lock get it */
  }
  return rc;
}
