/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* rebuild.c - a damaged tree is made again from the records, in short turns beside commits.
 *
 *     path tree    old tree serves, its damaged ranges answer SDB_CORRUPT
 *                  fresh tree: names of all records, by document number; then what the old tree has beside them (documents whose
 *                  record is damaged); as many as there are names? then it is the path tree of the next checkpoint
 *     expiry tree  an empty one takes its place at once: reads ask the records, only collecting waits for the building
 *     suffix tree  dropped and made again by suffix.c
 *     sweep        what the old tree had: all pages of trees but those that a walk through the living ones meets. A damaged inner
 * page hides what is below it, so pages are not found from above
 *
 * How far each is stands in the roots, and so in every checkpoint, together with the tree that it is about. As with the suffix tree
 * (names.c) commits change the fresh tree wherever they stand, and the building only adds what is missing; so replay keeps it right
 * without knowing how far it had come, and a crash falls back to the last checkpoint, tree and place together. The switch is made
 * by a checkpoint, in memory once that is complete: commits that the old tree could not have taken are replayed on the new one
 * only.
 *
 * Replay that meets damage in the path tree cannot go on without it, so there the same is done at once, to the end, with the
 * records as they are at that operation. Nobody reads yet, so the fresh tree takes the place of the old one without a checkpoint.
 *
 * Nothing is lost silently: a name whose record and whose place in the tree are both damaged is in neither, and then the count of
 * names, which the roots keep, is not reached. The old tree stays, its ranges go on answering SDB_CORRUPT, until `repair`.
 */
#include "db.h"

enum {
  TURN = 64, /* documents, names or pages under one holding of the writer's lock */
  LEAVES = 16,
  WORDS = 4096,
  RETRY_US = 1000000,
  AGAIN_US = 60000000
};

static uint64_t now_us(const sdb *db) { return db->e.storage->monotonic_us(db->e.storage->ctx); }

static bool path_running(const sdb *db) {
  return !db->rebuild.given_up && (db->roots.fresh_tree || atomic_load(&db->path_damaged));
}

static bool path_due(const sdb *db) { return path_running(db) && !db->rebuild.ready; }

/* While the path tree is damaged nobody knows which pages it has. */
static bool sweep_due(const sdb *db) { return db->roots.sweep && !atomic_load(&db->path_damaged); }

static bool expiry_due(const sdb *db) {
  if (!db->roots.expiry_built && !atomic_load(&db->expiry_damaged)) return false;
  return db->rebuild.expiry_after_us == 0 || now_us(db) >= db->rebuild.expiry_after_us;
}

static bool suffix_due(const sdb *db) { return db->roots.suffix_tree && atomic_load(&db->suffix_damaged); }

bool rebuild_running(const sdb *db) {
  return path_running(db) || db->roots.expiry_built || atomic_load(&db->expiry_damaged) || suffix_due(db);
}

uint64_t rebuild_delay_us(const sdb *db) {
  bool expiry = db->roots.expiry_built || atomic_load(&db->expiry_damaged);
  bool due = path_due(db) || expiry_due(db) || suffix_due(db) || sweep_due(db);
  if (db->read_only || (!due && !expiry)) return UINT64_MAX;
  uint64_t after = due ? db->rebuild.after_us : db->rebuild.expiry_after_us, now = after ? now_us(db) : 0;
  return now < after ? after - now : 0;
}

/* --- Path tree ---------------------------------------------------------------------------------------------------------------- */

static int path_begin(sdb *db) {
  uint32_t root;
  int rc = tree_create(db->pager, &root);
  if (rc != SDB_OK) return rc;
  db->roots.fresh_tree = root;
  db->roots.fresh_built = 1;
  db->roots.fresh_names = 0;
  db->rebuild.walking = false;
  return SDB_OK;
}

static int path_take(sdb *db, const uint8_t *name, size_t len, uint64_t document) {
  uint64_t there;
  int rc = pager_admit(db->pager, 0, 8, db->read_only); /* read only it stays in memory */
  if (rc == SDB_OK) rc = tree_get(db->pager, VIEW_HEAD, db->roots.fresh_tree, name, len, &there);
  if (rc != SDB_NOT_FOUND) return rc;
  rc = tree_put(db->pager, db->roots.fresh_tree, name, len, document);
  if (rc == SDB_OK) db->roots.fresh_names++;
  return rc;
}

/* The names in the record of one document. A damaged record has none: the old tree may know them. */
static int path_document(sdb *db, uint64_t document) {
  table_entry entry;
  record r;
  int rc = table_get(db->table, VIEW_HEAD, document, &entry);
  if (rc != SDB_OK) return rc == SDB_NOT_FOUND ? SDB_OK : rc;
  rc = document_version(db, VIEW_HEAD, document, &entry, SDB_CURRENT, &r);
  db->rebuild.unreadable |= rc == SDB_IO;
  if (rc != SDB_OK) return rc == SDB_CORRUPT || rc == SDB_IO ? SDB_OK : rc;
  for (unsigned i = 0; rc == SDB_OK && i < record_names(&r); i++) {
    size_t len;
    const uint8_t *name = record_name(&r, i, &len);
    rc = path_take(db, name, len, document);
  }
  return rc;
}

static int path_documents(sdb *db) {
  int rc = SDB_OK;
  for (unsigned i = 0; rc == SDB_OK && i < TURN && db->roots.fresh_built < db->roots.doc_limit; i++) {
    rc = path_document(db, db->roots.fresh_built);
    if (rc == SDB_OK) db->roots.fresh_built++;
  }
  return rc;
}

/* Behind a damaged page of the old tree. SDB_END: that was the rest of it. */
static int path_skip(sdb *db) {
  struct rebuild *b = &db->rebuild;
  int rc = tree_walk(db->pager, VIEW_HEAD, db->roots.path_tree, b->key, &b->key_len, 1, NULL, NULL);
  b->key_after = false;
  b->unreadable |= rc == SDB_IO;
  if (rc == SDB_CORRUPT || rc == SDB_IO) rc = b->key_len ? SDB_OK : SDB_END;
  return rc;
}

/* What can be read of the old tree; what records have said is there already. SDB_END: all of it. */
static int path_old(sdb *db) {
  struct rebuild *b = &db->rebuild;
  tree_cursor old;
  uint64_t document;
  int rc = SDB_OK;
  if (!b->walking) b->key_len = 0, b->key_after = false;
  b->walking = true;
  tree_cursor_init(&old, db->pager, VIEW_HEAD, db->roots.path_tree, b->key, b->key_len, b->key_after);
  for (unsigned i = 0; rc == SDB_OK && i < TURN; i++) {
    rc = tree_cursor_next(&old, &document);
    if (rc == SDB_CORRUPT || rc == SDB_IO) return path_skip(db);
    if (rc == SDB_OK) rc = path_take(db, old.key, old.key_len, document);
    if (rc != SDB_OK) return rc;
    memcpy(b->key, old.key, old.key_len);
    b->key_len = old.key_len;
    b->key_after = true;
  }
  return rc;
}

static int path_end(sdb *db) {
  roots *rt = &db->roots;
  uint64_t lost = rt->names - rt->fresh_names;
  if (lost && db->rebuild.unreadable) { /* the device may give next time what it did not this time */
    rt->fresh_built = 1;
    db->rebuild.walking = db->rebuild.unreadable = false;
    db->rebuild.after_us = now_us(db) + AGAIN_US;
    return SDB_OK;
  }
  if (lost) {
    names_give_up_fresh(db);
    db->rebuild.given_up = true;
    return env_fail(&db->e, SDB_CORRUPT,
                    "the path index is damaged, and so are documents that it named: %llu names are lost; repair the database",
                    (unsigned long long)lost);
  }
  db->rebuild.ready = true;
  db->checkpoint_wanted = true;
  return SDB_OK;
}

/* Where views are read that are older than the last switch nobody could say which tree they mean. */
void rebuild_fix(sdb *db, roots *fixed) {
  uint64_t since = atomic_load(&db->path_since) >> 1;
  *fixed = db->roots;
  db->rebuild.switching = db->rebuild.ready && db->roots.fresh_tree && (!since || pager_oldest_view(db->pager) >= since);
  if (!db->rebuild.switching) return;
  fixed->path_tree = db->roots.fresh_tree;
  fixed->fresh_tree = 0;
  fixed->fresh_built = fixed->fresh_names = 0;
  fixed->sweep = true;
}

static void path_switch(sdb *db, bool opening) {
  roots *rt = &db->roots;
  rt->path_tree = rt->fresh_tree;
  rt->fresh_tree = 0;
  rt->fresh_built = rt->fresh_names = 0;
  rt->sweep = true;
  db->rebuild.sweep = SWEEP_BEGIN;
  db->rebuild.ready = db->rebuild.switching = db->rebuild.walking = false;
  db->suffix.after_us = 0;
  names_publish_path(db, rt->path_tree, opening);
  atomic_store(&db->path_damaged, false);
}

void rebuild_fixed(sdb *db) {
  if (!db->rebuild.switching || !db->roots.fresh_tree) return;
  path_switch(db, false);
  note_unlogged(db); /* the next read sees it */
}

static int path_turn(sdb *db) {
  int rc = SDB_OK;
  if (!db->roots.fresh_tree) rc = path_begin(db);
  else if (db->roots.fresh_built < db->roots.doc_limit) rc = path_documents(db);
  else rc = path_old(db);
  if (rc == SDB_END) return path_end(db);
  if (rc != SDB_CORRUPT) return rc;
  names_give_up_fresh(db);
  db->rebuild.given_up = true;
  return env_fail(&db->e, rc, "the path index is damaged, and so is what it would be made from; repair the database");
}

/* The names are as many in every state between two operations, so the tree is as good there as behind a checkpoint; and as nobody
 * reads, it takes the old one's place at once. */
int rebuild_path_now(sdb *db, int (*between)(void *user), void *user) {
  struct rebuild *b = &db->rebuild;
  int rc = b->given_up ? SDB_CORRUPT : SDB_OK;
  while (rc == SDB_OK && !b->ready) {
    rc = path_turn(db);
    if (rc == SDB_OK && b->after_us) rc = SDB_IO; /* what was not given may be had at another time */
    if (rc == SDB_OK) rc = between(user);
  }
  b->after_us = 0;
  if (rc == SDB_OK) path_switch(db, true);
  return rc;
}

/* --- Expiry tree -------------------------------------------------------------------------------------------------------------- */

int rebuild_expiry(sdb *db) {
  uint32_t root;
  int rc = tree_create(db->pager, &root);
  if (rc != SDB_OK) return rc;
  db->roots.expiry_tree = root;
  db->roots.expiry_built = 1;
  db->roots.sweep = true;
  db->rebuild.sweep = SWEEP_BEGIN;
  db->expiry_after_len = 0;
  atomic_store(&db->expiry_damaged, false);
  return SDB_OK;
}

static int expiry_document(sdb *db, uint64_t document) {
  table_entry entry;
  record r;
  int rc = table_get(db->table, VIEW_HEAD, document, &entry);
  if (rc == SDB_OK && !entry.expires) return SDB_OK;
  if (rc == SDB_OK) rc = document_version(db, VIEW_HEAD, document, &entry, SDB_CURRENT, &r);
  db->rebuild.untimed |= rc == SDB_IO;
  if (rc == SDB_NOT_FOUND || rc == SDB_CORRUPT || rc == SDB_IO) return SDB_OK; /* nobody knows its time, and it is not collected */
  if (rc == SDB_OK) rc = pager_admit(db->pager, 0, 8, false);
  return rc == SDB_OK && r.flags & RECORD_EXPIRES ? expiry_note(db, r.expires_ms, document) : rc;
}

static int expiry_turn(sdb *db) {
  roots *rt = &db->roots;
  int rc = SDB_OK;
  if (atomic_load(&db->expiry_damaged)) return rebuild_expiry(db);
  for (unsigned i = 0; rc == SDB_OK && i < TURN && rt->expiry_built < rt->doc_limit; i++) {
    rc = expiry_document(db, rt->expiry_built);
    if (rc == SDB_OK) rt->expiry_built++;
  }
  if (rc == SDB_CORRUPT) return rebuild_expiry(db);
  if (rc != SDB_OK || rt->expiry_built < rt->doc_limit) return rc;
  bool again = db->rebuild.untimed; /* the device may give next time what it did not this time */
  rt->expiry_built = again;
  db->rebuild.untimed = false;
  db->rebuild.expiry_after_us = again ? now_us(db) + AGAIN_US : 0;
  return SDB_OK;
}

/* --- Sweep -------------------------------------------------------------------------------------------------------------------- */

static void spare(void *user, uint32_t number) {
  sdb *db = user;
  pager_doom_spare(db->pager, number);
}

/* A living tree that cannot be gone through: it is made again, and the sweep begins anew. */
static int sweep_met_damage(sdb *db) {
  roots *rt = &db->roots;
  db->rebuild.sweep = SWEEP_BEGIN;
  switch (db->rebuild.tree) {
    case 0: atomic_store(&db->path_damaged, true); return SDB_OK;
    case 1: names_give_up_fresh(db); return SDB_OK;
    case 2:
      names_give_up_suffix(db);
      rt->suffix_tree = 0;
      rt->suffix_built = 0;
      names_publish_suffix(db, 0);
      return SDB_OK;
    default: return rebuild_expiry(db);
  }
}

/* A page that is in a tree now and was there when they were marked is met: its lower bound never changes while it lives, splitting
 * and merging included, and the walk passes every bound. What was made since is not marked. */
static int sweep_spare(sdb *db) {
  struct rebuild *b = &db->rebuild;
  const uint32_t trees[] = {db->roots.path_tree, db->roots.fresh_tree, db->roots.suffix_tree, db->roots.expiry_tree};
  int rc = SDB_END;
  if (trees[b->tree]) rc = tree_walk(db->pager, VIEW_HEAD, trees[b->tree], b->key, &b->key_len, LEAVES, spare, db);
  if (rc == SDB_CORRUPT) return sweep_met_damage(db);
  if (rc == SDB_IO) b->sweep = SWEEP_BEGIN; /* the walk has passed something over */
  if (rc != SDB_END) return rc;
  b->key_len = 0;
  b->cursor = 0;
  if (++b->tree == sizeof trees / sizeof *trees) b->sweep = SWEEP_FREE;
  return SDB_OK;
}

static int sweep_free(sdb *db) {
  struct rebuild *b = &db->rebuild;
  int rc = SDB_OK;
  for (unsigned i = 0; rc == SDB_OK && i < TURN; i++) {
    if (!pager_doomed(db->pager, &b->cursor)) {
      pager_doom_end(db->pager);
      b->sweep = SWEEP_BEGIN;
      db->roots.sweep = false;
      db->checkpoint_wanted = true;
      return SDB_OK;
    }
    rc = page_free(db->pager, b->cursor);
  }
  return rc;
}

static int sweep_turn(sdb *db) {
  struct rebuild *b = &db->rebuild;
  int rc = SDB_OK;
  switch (b->sweep) {
    case SWEEP_BEGIN:
      rc = pager_doom_begin(db->pager);
      b->cursor = 1;
      if (rc == SDB_OK) b->sweep = SWEEP_MARK;
      return rc;
    case SWEEP_MARK:
      rc = pager_doom_trees(db->pager, &b->cursor, WORDS);
      if (rc != SDB_END) return rc;
      b->tree = 0;
      b->key_len = 0;
      b->sweep = SWEEP_SPARE;
      return SDB_OK;
    case SWEEP_SPARE: return sweep_spare(db);
    default: return sweep_free(db);
  }
}

/* --- Turns -------------------------------------------------------------------------------------------------------------------- */

/* A mapped page failed during the turn. What it read may have been zeros, so nothing follows from what it did not find: whatever
 * is being gone through is gone through from its beginning. */
static void doubt(sdb *db, const roots *before) {
  roots *rt = &db->roots;
  db->rebuild.given_up = false;
  db->rebuild.sweep = SWEEP_BEGIN;
  if (before->expiry_built) rt->expiry_built = 1;
  if (!rt->fresh_tree || db->rebuild.ready) return; /* complete: it has as many names as there are */
  rt->fresh_built = 1;
  db->rebuild.walking = false;
}

static int turn(sdb *db, unsigned slot) {
  const roots before = db->roots;
  int rc = commit_ready(db);
  db->rebuild.after_us = 0;
  if (rc == SDB_OK && atomic_exchange(&db->suffix_damaged, false) && db->roots.suffix_tree) names_give_up_suffix(db);
  if (rc == SDB_OK) {
    if (expiry_due(db)) rc = expiry_turn(db);
    else if (path_due(db)) rc = path_turn(db);
    else if (sweep_due(db)) rc = sweep_turn(db);
  }
  note_unlogged(db);
  int seen = trusted(db, slot, SDB_OK);
  if (seen != SDB_OK) doubt(db, &before);
  if (seen != SDB_OK) rc = seen;
  if (rc != SDB_OK) db->rebuild.after_us = now_us(db) + (rc == SDB_CORRUPT ? AGAIN_US : RETRY_US);
  return rc == SDB_CORRUPT ? SDB_OK : rc; /* told, and given up */
}

int rebuild_step(sdb *db, unsigned budget) {
  bool due = true;
  int rc = SDB_OK;
  for (unsigned done = 0; due && rc == SDB_OK && done < budget; done += TURN) {
    pager_lock(db->pager);
    unsigned slot = pager_enter(db->pager);
    due = rebuild_delay_us(db) == 0;
    if (due) rc = turn(db, slot);
    pager_leave(db->pager, slot);
    pager_unlock(db->pager);
    thread_yield(); /* commits that wait for the lock get it */
  }
  return rc;
}
