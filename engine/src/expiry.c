/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* expiry.c - documents whose time has come are deleted, by ordinary logged deletes with the cause `expired`.
 *
 *     expiry tree    time 8 bytes big-endian, document 5 bytes -> document       (the first key is the next to go)
 *
 * Nobody has to wait for this: every read compares the time itself. A step looks at the first entries up to now and commits one
 * batch. An entry whose document cannot be deleted (it is damaged) is passed over until the next round.
 *
 * A clock that jumps ahead by more than a day, also while the database was closed, is not believed at once: nothing is collected
 * for an hour, so that somebody can put it right. Reads follow the clock; what they hid comes back with it.
 */
#include "db.h"

enum { DELETES = 64, LOOK_US = 1000000 };
#define DAY_MS (24ull * 3600 * 1000)
#define PAUSE_US (3600ull * 1000 * 1000)

static uint64_t mono_us(const sdb *db) { return db->e.storage->monotonic_us(db->e.storage->ctx); }

bool expiry_wanted(sdb *db) {
  pager_lock(db->pager);
  bool wanted = db->roots.expiry_tree && !db->read_only && (db->expiry_more || mono_us(db) - db->expiry_looked_us >= LOOK_US);
  pager_unlock(db->pager);
  return wanted;
}

/* Notes the time; true: it cannot be trusted yet. */
static bool paused(sdb *db, uint64_t now_ms, uint64_t now_us) {
  uint64_t passed_ms = db->expiry_now_ms && db->expiry_looked ? (now_us - db->expiry_looked_us) / 1000 : 0;
  bool jumped = db->expiry_now_ms && now_ms > db->expiry_now_ms + passed_ms + DAY_MS;
  if (jumped) {
    db->expiry_pause = true;
    db->expiry_pause_us = now_us;
  }
  db->expiry_now_ms = now_ms;
  db->expiry_looked_us = now_us;
  db->expiry_looked = true;
  if (db->expiry_pause && now_us - db->expiry_pause_us >= PAUSE_US) db->expiry_pause = false;
  return db->expiry_pause;
}

static uint64_t key_ms(const uint8_t *key) {
  uint64_t ms = 0;
  for (int i = 0; i < 8; i++) ms = ms << 8 | key[i];
  return ms;
}

/* Does the entry still say what its document says? Else it is a leftover of a damaged record and can go. */
static int look(sdb *db, uint64_t document, uint64_t ms, uint8_t id[16], bool *stale) {
  table_entry entry;
  record r;
  *stale = false;
  int rc = table_get(db->table, VIEW_HEAD, document, &entry);
  if (rc == SDB_OK) rc = document_version(db, VIEW_HEAD, document, &entry, SDB_CURRENT, &r);
  *stale = rc == SDB_NOT_FOUND || (rc == SDB_OK && (!(r.flags & RECORD_EXPIRES) || r.expires_ms != ms));
  if (rc == SDB_OK) memcpy(id, r.id, 16);
  return rc;
}

/* Up to DELETES documents that have expired; `ids` are theirs. */
static int gather(sdb *db, uint64_t now_ms, uint8_t ids[DELETES][16], unsigned *count, bool *more) {
  tree_cursor cursor;
  uint64_t document;
  int rc = SDB_OK;
  bool after = db->expiry_after_len > 0;
  tree_cursor_init(&cursor, db->pager, VIEW_HEAD, db->roots.expiry_tree, db->expiry_after, db->expiry_after_len, after);
  *more = false;
  for (unsigned looked = 0; looked < DELETES; looked++) {
    bool stale;
    rc = tree_cursor_next(&cursor, &document);
    if (rc == SDB_END || (rc == SDB_OK && (cursor.key_len != EXPIRY_KEY || key_ms(cursor.key) > now_ms))) {
      db->expiry_after_len = 0;
      return SDB_OK;
    }
    if (rc == SDB_CORRUPT) atomic_store(&db->expiry_damaged, true);
    if (rc != SDB_OK) return rc;
    memcpy(db->expiry_after, cursor.key, EXPIRY_KEY);
    db->expiry_after_len = EXPIRY_KEY;
    rc = look(db, document, key_ms(cursor.key), ids[*count], &stale);
    if (rc == SDB_OK && !stale) ++*count;
    if (stale) {
      rc = tree_remove(db->pager, db->roots.expiry_tree, cursor.key, cursor.key_len);
      note_unlogged(db);
      tree_cursor_pause(&cursor);
    }
    if (rc != SDB_OK && rc != SDB_CORRUPT && rc != SDB_NOT_FOUND && rc != SDB_IO) return rc;
  }
  *more = true;
  return SDB_OK;
}

static int delete_all(sdb *db, uint8_t ids[DELETES][16], unsigned count) {
  struct change *ops = mem_new(&db->e, count * sizeof *ops);
  if (!ops) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for deleting what has expired");
  for (unsigned i = 0; i < count; i++)
    ops[i] = (struct change){.op = OP_DELETE, .cause = CAUSE_EXPIRED, .id = ids[i], .expect = SDB_ANY};
  struct commit q = {.ops = ops, .count = count, .durability = SDB_BUFFERED, .lenient = true, .background = true};
  int rc = commit_run(db, &q);
  for (unsigned i = 0; rc == SDB_OK && i < count; i++) db->expired += ops[i].code == SDB_OK;
  mem_free(&db->e, ops);
  return rc;
}

int expiry_step(sdb *db, bool *more) {
  uint8_t ids[DELETES][16];
  unsigned count = 0;
  bool some = false;
  uint64_t now_ms = db->e.storage->now_ms(db->e.storage->ctx);
  pager_lock(db->pager);
  int rc = SDB_OK;
  if (!paused(db, now_ms, mono_us(db))) {
    unsigned slot = pager_enter(db->pager);
    rc = gather(db, now_ms, ids, &count, &some);
    int seen = trusted(db, slot, SDB_OK);
    if (seen != SDB_OK) atomic_store(&db->expiry_damaged, true); /* entries may have been taken for leftovers */
    if (seen != SDB_OK) rc = seen;
    pager_leave(db->pager, slot);
  }
  db->expiry_more = some;
  pager_unlock(db->pager);
  if (rc == SDB_OK && count > 0) rc = delete_all(db, ids, count);
  *more |= some;
  return rc == SDB_CORRUPT ? SDB_OK : rc; /* counted; the next round tries again */
}
