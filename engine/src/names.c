/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* names.c - which path leads to which document: the one place where the path tree and the suffix tree change, always both.
 *
 *     path tree     /a/photo.jpg -> 17          in byte order: search by prefix
 *     suffix tree   gpj.otohp/a/ -> 17          the path's bytes reversed: search by suffix
 *
 * roots.suffix_built says how far the suffix tree is. What holds at every moment, in memory and in every checkpoint:
 *
 *   S1  every entry of the suffix tree is a name of the path tree, with the same document
 *   S2  every name of the path tree up to the place that the building has reached has its entry in the suffix tree
 *   S3  roots.suffix_names is the number of its entries
 *
 * Commits add and remove names here wherever they stand, behind the place that was reached too: so the building only ever adds what
 * is missing, a commit need not know the place, and replay, which starts from the trees and the place of one checkpoint, keeps S1
 * and S2 without knowing how far the building had come when the crash came. While the tree is being dropped nobody adds to it.
 * Damage that a change meets in the suffix tree is no reason to refuse a commit: the tree is dropped and made again (suffix.c).
 */
#include "db.h"

static const uint8_t *reversed(const void *path, size_t len, uint8_t buf[SDB_MAX_PATH]) {
  bytes_reverse(buf, path, len);
  return buf;
}

/* Is there a suffix tree that has to follow the path tree? */
static bool follows(const sdb *db) { return db->roots.suffix_tree && db->roots.suffix_built != SUFFIX_DROPPING; }

void names_give_up_suffix(sdb *db) {
  db->roots.suffix_built = SUFFIX_DROPPING;
  db->roots.suffix_names = 0;
  names_publish_suffix(db, 0);
}

/* Of a change of the suffix tree. Damage there must not stop commits: the tree can be made again from the path tree. */
static int outcome(sdb *db, int rc) {
  if (rc != SDB_CORRUPT) return rc;
  env_fail(&db->e, rc, "the suffix index is damaged and is made again; searches by suffix wait for it");
  names_give_up_suffix(db);
  return SDB_OK;
}

static int suffix_put(sdb *db, const void *path, size_t len, uint64_t document) {
  uint8_t key[SDB_MAX_PATH];
  int rc = tree_put(db->pager, db->roots.suffix_tree, reversed(path, len, key), len, document);
  if (rc == SDB_OK) db->roots.suffix_names++;
  return outcome(db, rc);
}

void names_give_up_fresh(sdb *db) {
  roots *rt = &db->roots;
  rt->fresh_tree = 0;
  rt->fresh_built = rt->fresh_names = 0;
  rt->sweep = true;
  db->rebuild.sweep = SWEEP_BEGIN;
  db->rebuild.ready = db->rebuild.walking = false;
  atomic_store(&db->path_damaged, true);
}

/* The tree that is going to be the path tree. Damage in it is no reason to refuse either: it is given up, and another one is begun.
 */
static int fresh_outcome(sdb *db, int rc) {
  if (rc != SDB_CORRUPT) return rc;
  names_give_up_fresh(db);
  return SDB_OK;
}

static int fresh_put(sdb *db, const void *path, size_t len, uint64_t document) {
  roots *rt = &db->roots;
  uint64_t before;
  int rc = tree_get(db->pager, VIEW_HEAD, rt->fresh_tree, path, len, &before);
  bool there = rc == SDB_OK;
  if (there || rc == SDB_NOT_FOUND) rc = tree_put(db->pager, rt->fresh_tree, path, len, document);
  if (rc == SDB_OK && !there) rt->fresh_names++;
  return fresh_outcome(db, rc);
}

static int fresh_remove(sdb *db, const void *path, size_t len) {
  int rc = tree_remove(db->pager, db->roots.fresh_tree, path, len);
  if (rc == SDB_OK) db->roots.fresh_names--;
  return rc == SDB_NOT_FOUND ? SDB_OK : fresh_outcome(db, rc); /* the building had not come by */
}

/* Path tree and the one that will be it; both change, or none. */
static int path_put(sdb *db, const void *path, size_t len, uint64_t document) {
  int rc = tree_put(db->pager, db->roots.path_tree, path, len, document);
  if (rc == SDB_CORRUPT) names_note_damage(db, db->roots.path_tree);
  if (rc != SDB_OK || !db->roots.fresh_tree) return rc;
  rc = fresh_put(db, path, len, document);
  if (rc != SDB_OK) take_back(db, tree_remove(db->pager, db->roots.path_tree, path, len));
  return rc;
}

static int path_remove(sdb *db, const void *path, size_t len, uint64_t document) {
  int rc = tree_remove(db->pager, db->roots.path_tree, path, len);
  if (rc == SDB_CORRUPT) names_note_damage(db, db->roots.path_tree);
  if (rc != SDB_OK || !db->roots.fresh_tree) return rc;
  rc = fresh_remove(db, path, len);
  if (rc != SDB_OK) take_back(db, tree_put(db->pager, db->roots.path_tree, path, len, document));
  return rc;
}

int names_add(sdb *db, const void *path, size_t len, uint64_t document) {
  int rc = path_put(db, path, len, document);
  if (rc == SDB_OK && follows(db)) {
    rc = suffix_put(db, path, len, document);
    if (rc != SDB_OK) take_back(db, path_remove(db, path, len, document));
  }
  if (rc == SDB_OK) db->roots.names++;
  return rc;
}

static int suffix_remove(sdb *db, const void *path, size_t len, uint64_t document) {
  uint8_t key[SDB_MAX_PATH];
  roots *rt = &db->roots;
  int rc = tree_remove(db->pager, rt->suffix_tree, reversed(path, len, key), len);
  if (rc == SDB_OK) rt->suffix_names--;
  if (rc == SDB_NOT_FOUND) rc = rt->suffix_built == SUFFIX_COMPLETE ? SDB_CORRUPT : SDB_OK; /* the building had not come by */
  if (rt->suffix_built == document) rt->suffix_built = 0; /* the place that was reached is no name of it any more, perhaps */
  return outcome(db, rc);
}

int names_remove(sdb *db, const void *path, size_t len, uint64_t document) {
  int rc = path_remove(db, path, len, document);
  if (rc != SDB_OK) return rc;
  if (follows(db)) {
    rc = suffix_remove(db, path, len, document);
    if (rc != SDB_OK) {
      take_back(db, path_put(db, path, len, document));
      return rc;
    }
  }
  db->roots.names--;
  return SDB_OK;
}

void names_undo_add(sdb *db, const void *path, size_t len, uint64_t document) {
  take_back(db, names_remove(db, path, len, document));
}

/* Nobody knows of a suffix tree in the making whether it had the entry: where that cannot be given back, another tree is begun. */
void names_undo_remove(sdb *db, const void *path, size_t len, uint64_t document) {
  take_back(db, tree_put(db->pager, db->roots.path_tree, path, len, document));
  if (db->roots.fresh_tree && fresh_put(db, path, len, document) != SDB_OK) names_give_up_fresh(db);
  if (follows(db)) {
    int rc = suffix_put(db, path, len, document);
    if (db->roots.suffix_built == SUFFIX_COMPLETE) take_back(db, rc);
    else if (rc != SDB_OK) names_give_up_suffix(db);
  }
  db->roots.names++;
}

int names_index(sdb *db, const void *path, size_t len, uint64_t document) {
  uint8_t key[SDB_MAX_PATH];
  uint64_t found;
  int rc = tree_get(db->pager, VIEW_HEAD, db->roots.suffix_tree, reversed(path, len, key), len, &found);
  return rc == SDB_NOT_FOUND ? suffix_put(db, path, len, document) : outcome(db, rc);
}

void names_tidy(sdb *db, const void *path, size_t len) {
  uint8_t key[SDB_MAX_PATH];
  tree_tidy(db->pager, db->roots.path_tree, path, len);
  if (db->roots.fresh_tree) tree_tidy(db->pager, db->roots.fresh_tree, path, len);
  if (follows(db)) tree_tidy(db->pager, db->roots.suffix_tree, reversed(path, len, key), len);
}

/* --- The path tree of a view -------------------------------------------------------------------------------------------------- */

uint32_t names_path_tree(const sdb *db, uint64_t view) {
  uint64_t since = atomic_load_explicit(&db->path_since, memory_order_acquire);
  unsigned newest = since & 1;
  return atomic_load_explicit(&db->path_roots[view >= since >> 1 ? newest : !newest], memory_order_acquire);
}

/* The place that is written is that of the root before the last change: nobody reads a view that old (rebuild.c waits for that), so
 * whoever has loaded `path_since` before finds what it says. */
void names_publish_path(sdb *db, uint32_t root, bool opening) {
  uint64_t since = atomic_load(&db->path_since), newest = opening ? 0 : !(since & 1);
  atomic_store(&db->path_roots[newest], root);
  atomic_store(&db->path_since, opening ? 0 : pager_open_version(db->pager) << 1 | newest);
}

void names_note_damage(sdb *db, uint32_t root) {
  bool path = root == names_path_tree(db, VIEW_HEAD), suffix = root == atomic_load(&db->suffix_root);
  if (path && !atomic_exchange(&db->path_damaged, true)) work_ring(db);
  if (!path && suffix && !atomic_exchange(&db->suffix_damaged, true)) work_ring(db);
}

int names_get(sdb *db, uint64_t view, const void *path, size_t len, uint64_t *document) {
  uint32_t root = names_path_tree(db, view);
  int rc = tree_get(db->pager, view, root, path, len, document);
  if (rc == SDB_CORRUPT) {
    names_note_damage(db, root);
    env_fail(&db->e, rc,
             "the part of the path index that would have this path is damaged; it is made again, and may be asked then");
  }
  return rc;
}

/* --- Who may search by suffix ------------------------------------------------------------------------------------------------- */

void names_publish_suffix(sdb *db, uint64_t since) {
  bool complete = db->roots.suffix_tree && db->roots.suffix_built == SUFFIX_COMPLETE;
  atomic_store(&db->suffix_since, UINT64_MAX);
  atomic_store(&db->suffix_root, db->roots.suffix_tree);
  if (complete) atomic_store(&db->suffix_since, since);
}

int names_suffix_tree(sdb *db, uint64_t view, uint32_t *root) {
  uint64_t since = atomic_load(&db->suffix_since);
  uint32_t found = atomic_load(&db->suffix_root);
  if (view >= since && since == atomic_load(&db->suffix_since)) { /* looked at twice: that root belongs to it */
    *root = found;
    return SDB_OK;
  }
  pager_lock(db->pager);
  roots rt = db->roots;
  pager_unlock(db->pager);
  if (!db->options.suffix_index && (!rt.suffix_tree || rt.suffix_built >= SUFFIX_DROPPING))
    return env_fail(&db->e, SDB_INVALID, "there is no suffix index; open the database with suffix_index to have one made");
  if (rt.suffix_tree && rt.suffix_built == SUFFIX_COMPLETE)
    return env_fail(&db->e, SDB_BUILDING, "the suffix index was not complete when this snapshot was opened; open another one");
  return env_fail(&db->e, SDB_BUILDING, "the suffix index is being built: %llu of %llu names; ask again later",
                  (unsigned long long)rt.suffix_names, (unsigned long long)rt.names);
}
