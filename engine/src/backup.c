/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* backup.c - a copy of a running database: the pages of its last checkpoint, as they stand.
 *
 *   1 checkpoint   all that was acknowledged is in the data file
 *   2 freeze       what that checkpoint reaches is not used again (space.c); frames and views are not held, so memory does not grow
 *   3 fixed parts  directories, map and bitmaps, while no other checkpoint runs: each has two places only
 *   4 pages        those that the bitmaps call used, beside commits and checkpoints
 *   5 slots        the checkpoint's header, marked clean: no log is needed. Sync, verify, rename
 *
 * Nothing is decoded but the parts of step 3, which carry neither path nor content: an encrypted database needs no key.
 */
#include "copy.h"
#include "db.h"

/* A log segment would be replaced, or taken for one; NAME.lock is removed at the close. */
static bool is_beside(const sdb *db, const char *name) {
  size_t len = strlen(db->name);
  if (strncmp(name, db->name, len) != 0) return false;
  return strncmp(name + len, ".log.", 5) == 0 || strcmp(name + len, ".lock") == 0;
}

static int destination_check(sdb *db, env *e, const char *name, const sdb_copy_options *o) {
  enum { LONGEST = 4096 };
  const sdb_storage *st = e->storage;
  if (st->open == db->e.storage->open && st->ctx == db->e.storage->ctx) { /* the same names lead to the same files */
    char *real = st->resolve ? mem_alloc(e, LONGEST) : NULL;
    if (st->resolve && !real) return env_fail(e, SDB_NO_MEMORY, "out of memory");
    int rc = real ? st->resolve(st->ctx, name, real, LONGEST) : SDB_OK;
    bool same = rc == SDB_OK && strcmp(real ? real : name, db->name) == 0;
    bool own = rc == SDB_OK && is_beside(db, real ? real : name);
    mem_free(e, real);
    if (rc == SDB_NOT_FOUND) return env_fail(e, rc, "cannot create %s: its folder does not exist", name);
    if (rc != SDB_OK) return env_fail(e, rc, "cannot find out where %s leads: %s", name, sdb_strerror(rc));
    if (same) return env_fail(e, SDB_INVALID, "a database cannot be its own backup");
    if (own) return env_fail(e, SDB_INVALID, "%s is a name of one of the database's own files", name);
  }
  return o->replace ? SDB_OK : copy_destination_free(e, name);
}

/* Steps 1 to 3. *frozen is set as soon as there is something to thaw. */
static int begin(sdb *db, env *e, const char *name, const sdb_copy_options *o, image *im, copy *c, bool *frozen) {
  if (db->log_damaged || (db->read_only && db->recovered))
    return env_fail(e, SDB_READ_ONLY, "the log was replayed into memory only: open the database for writing first, or repair it");
  if (!db->read_only) {
    int rc = sdb_checkpoint(db);
    if (rc != SDB_OK) return rc;
  }
  mutex_lock(&db->work);
  pager_lock(db->pager);
  pager_freeze(db->pager);
  *frozen = true;
  const header h = *pager_header(db->pager);
  pager_unlock(db->pager);
  image_of(&db->e, db->file, &h, im);
  int rc = copy_begin(c, e, im, name, o);
  if (rc == SDB_OK) rc = copy_fixed(c);
  mutex_unlock(&db->work);
  return rc;
}

static int backup(sdb *db, env *e, const char *name, const sdb_copy_options *o, sdb_copy_report *report) {
  image im;
  copy c = {.e = e};
  bool frozen = false, published = false;
  sdb_file *old = NULL;
  int rc = destination_check(db, e, name, o);
  if (rc == SDB_OK && o->replace) rc = copy_hold(e, name, &old);
  if (rc != SDB_OK) return rc;
  rc = begin(db, e, name, o, &im, &c, &frozen);
  if (rc == SDB_OK) rc = copy_pages(&c);
  if (frozen) {
    pager_lock(db->pager);
    pager_thaw(db->pager);
    pager_unlock(db->pager);
  }
  if (rc == SDB_OK) {
    im.head.clean = true;
    rc = copy_seal(&c, &im.head);
  }
  if (rc == SDB_OK && o->verify) rc = copy_verify(&c);
  if (rc == SDB_OK) {
    rc = copy_publish(&c);
    published = true;
  }
  if (rc == SDB_OK) copy_report(&c, &im.head, report);
  copy_end(&c, published);
  e->storage->close(old);
  return rc;
}

int sdb_backup(sdb *db, const char *destination, const sdb_copy_options *options, sdb_copy_report *report) {
  sdb_copy_options o;
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!destination || !*destination) return env_fail(&db->e, SDB_INVALID, "a backup needs a name");
  if (report && report->size != sizeof *report) return env_fail(&db->e, SDB_INVALID, "set sdb_copy_report.size before the call");
  rc = copy_options(&db->e, options, &o);
  if (rc != SDB_OK) return rc;
  sdb_storage calls;
  storage_adopt(&calls, o.storage ? o.storage : db->e.storage);
  env e = {.storage = &calls};
  mutex_init(&e.message_lock);
  struct inside here;
  inside_begin(&here, db);
  rc = backup(db, &e, destination, &o, report);
  inside_end(&here);
  if (rc != SDB_OK && e.message[0]) env_fail(&db->e, rc == SDB_CORRUPT ? SDB_OK : rc, "%s", e.message);
  mutex_destroy(&e.message_lock);
  return rc;
}
