/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* document.c - from a path to the record of one of its versions, in one view.
 *
 *     table entry      current ----> record n   --older--> record n - 2 --older--> record n - 4
 *                      previous ---> record n-1 --older--> record n - 3 --older--> ...
 *
 * How many of them can be read says the current record (`kept`); what stands beyond is not followed. A damaged current record takes
 * the chain behind it along, never the previous version.
 */
#include "db.h"

int path_check(sdb *db, const void *path, size_t len) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (path && len >= 1 && len <= SDB_MAX_PATH) return SDB_OK;
  return env_fail(&db->e, SDB_INVALID, "a path has 1 to %u bytes, not %zu", SDB_MAX_PATH, path ? len : 0);
}

/* Stored only when it has changed: all readers share that line. */
static void note_beside(sdb *db) {
  if (atomic_load_explicit(&db->beside, memory_order_relaxed) != COMMITS_BESIDE)
    atomic_store_explicit(&db->beside, COMMITS_BESIDE, memory_order_relaxed);
}

static void show_waiting(sdb *db) {
  if (atomic_load_explicit(&db->beside, memory_order_relaxed)) note_beside(db);
  if (!atomic_load_explicit(&db->lazy, memory_order_acquire)) return;
  if (!pager_try_lock(db->pager)) {
    note_beside(db);
    if (!pager_lock_while(db->pager, &db->lazy)) return; /* the commit that was on its way has published */
  }
  publish_lazy(db);
  pager_unlock(db->pager);
}

/* Is the newest state that can be shown older than what was acknowledged? */
static bool is_behind(sdb *db) { return atomic_load_explicit(&db->spoiled, memory_order_relaxed) && atomic_load(&db->lazy); }

static int fail_behind(sdb *db) {
  return env_fail(&db->e, SDB_IO, "what was written last cannot be shown any more; open the database again");
}

reading reading_begin(sdb *db, const sdb_snapshot *at) {
  if (!at) show_waiting(db);
  reading r = {.slot = pager_enter(db->pager)};
  r.view = at ? at->view : pager_published(db->pager);
  r.now_ms = at ? at->now_ms : 0;
  r.behind = !at && is_behind(db);
  return r;
}

int trusted(sdb *db, unsigned slot, int rc) { return pager_faulted(db->pager, slot) ? pager_fault_error(db->pager) : rc; }

int reading_end(sdb *db, reading r, int rc) {
  rc = trusted(db, r.slot, rc);
  pager_leave(db->pager, r.slot);
  return r.behind ? fail_behind(db) : rc;
}

int reading_pin(sdb *db, const sdb_snapshot *at, uint64_t *view, uint64_t *sequence) {
  if (at) {
    pager_pin_again(db->pager, at->view);
    if (sequence) *sequence = at->sequence;
    *view = at->view;
    return SDB_OK;
  }
  show_waiting(db);
  if (is_behind(db)) return fail_behind(db);
  *view = pager_pin(db->pager, sequence);
  return *view ? SDB_OK : env_fail(&db->e, SDB_NO_MEMORY, "out of memory for keeping a state readable");
}

static int wrong_record(sdb *db, uint64_t document) {
  return env_fail(&db->e, SDB_CORRUPT,
                  "the table entry of document %llu points at a record of another document or version; restore a copy",
                  (unsigned long long)document);
}

int absent(sdb *db, int code) {
  if (!db->log_damaged) return code;
  return env_fail(&db->e, SDB_CORRUPT,
                  db->behind.operations
                      ? "nothing is there, but it may be in what could not be applied of the log; repair the database"
                      : "nothing is there in the state before the log's damage, but it may be in the lost part; restore a copy");
}

bool record_expired(const sdb *db, const record *r, uint64_t now_ms) {
  if (!(r->flags & RECORD_EXPIRES)) return false;
  return r->expires_ms <= (now_ms ? now_ms : db->e.storage->now_ms(db->e.storage->ctx));
}

static int read_at(sdb *db, uint64_t view, uint64_t document, uint64_t place, uint32_t version, record *r) {
  int rc = heap_read(&db->e, db->pager, view, place, r);
  if (rc != SDB_OK) return rc;
  return id_document(r->id) == document && r->version == version ? SDB_OK : wrong_record(db, document);
}

uint32_t document_oldest(const table_entry *entry, const record *current) {
  uint32_t kept = !entry->previous ? 0 : current && current->kept ? current->kept : 1;
  return entry->version > kept ? entry->version - kept : 1;
}

int document_place(sdb *db, uint64_t view, uint64_t document, const table_entry *entry, uint32_t version, uint64_t *place) {
  uint32_t back = entry->version - version;
  uint64_t at = back % 2 ? entry->previous : entry->current;
  for (uint32_t w = entry->version - back % 2; at && w != version; w -= 2) {
    record r;
    int rc = read_at(db, view, document, at, w, &r);
    if (rc != SDB_OK) return rc;
    at = r.flags & RECORD_OLDER ? r.older : 0;
  }
  *place = at;
  return at ? SDB_OK : SDB_NOT_FOUND;
}

static int nowhere(sdb *db, uint64_t document, uint32_t version) {
  return env_fail(&db->e, SDB_CORRUPT, "version %u of document %llu is not where the version behind it says; restore a copy",
                  version, (unsigned long long)document);
}

version_walk document_walk(const table_entry *entry) {
  return (version_walk){.version = entry->version, .at = {entry->current, entry->previous}};
}

int document_walk_next(sdb *db, uint64_t view, uint64_t document, version_walk *w, record *r, uint64_t *place) {
  uint32_t version = w->version--;
  *place = w->at[0];
  w->at[0] = w->at[1];
  w->at[1] = 0;
  int rc = *place ? read_at(db, view, document, *place, version, r) : nowhere(db, document, version);
  if (rc == SDB_OK && r->flags & RECORD_OLDER) w->at[1] = r->older;
  return rc;
}

static int not_kept(sdb *db, const table_entry *entry, uint32_t version) {
  return absent(db, env_fail(&db->e, SDB_NOT_FOUND, "version %u cannot be read; the current one is %u", version, entry->version));
}

int document_version(sdb *db, uint64_t view, uint64_t document, const table_entry *entry, uint32_t version, record *r) {
  uint64_t place;
  if (document_behind(db, document))
    return env_fail(&db->e, SDB_CORRUPT,
                    "the log has changes of document %llu that could not be applied, because what they change is damaged; repair "
                    "the database",
                    (unsigned long long)document);
  if (version == SDB_CURRENT || version == entry->version) return read_at(db, view, document, entry->current, entry->version, r);
  if (version > entry->version || !entry->previous) return not_kept(db, entry, version);
  if (version == entry->version - 1) return read_at(db, view, document, entry->previous, version, r);
  int rc = read_at(db, view, document, entry->current, entry->version, r);
  if (rc != SDB_OK && rc != SDB_CORRUPT) return rc;
  bool damaged = rc == SDB_CORRUPT;
  if (!damaged && version < document_oldest(entry, r)) return not_kept(db, entry, version);
  if (damaged && entry->version - version > UINT8_MAX) return not_kept(db, entry, version);
  rc = document_place(db, view, document, entry, version, &place);
  if (rc == SDB_OK) rc = read_at(db, view, document, place, version, r);
  return rc == SDB_NOT_FOUND ? nowhere(db, document, version) : rc;
}

int document_entry(sdb *db, uint64_t view, const void *path, size_t len, uint64_t *document, table_entry *entry) {
  int rc = names_get(db, view, path, len, document);
  if (rc != SDB_OK) return rc == SDB_NOT_FOUND ? absent(db, rc) : rc;
  rc = table_get(db->table, view, *document, entry);
  if (rc == SDB_NOT_FOUND)
    return env_fail(&db->e, SDB_CORRUPT, "a path names document %llu, which the table does not have; restore a copy",
                    (unsigned long long)*document);
  return rc;
}

static void remember(sdb *db, uint64_t hash, uint64_t document, const table_entry *entry, const record *r) {
  uint64_t page = pager_position(db->pager, place_page(entry->current));
  hints_put(db->hints, hash, (hint){document, page ? page + place_offset(entry->current) : 0, r->total});
}

/* By what an earlier read has found out, if it holds in this view as well. The record is on its way from memory while the table
 * says where it stands; usually it is the one. */
static bool find_by_hint(sdb *db, uint64_t view, uint64_t hash, const void *path, size_t len, uint64_t *document, record *r,
                         table_entry *entry) {
  hint known = hints_get(db->hints, hash);
  *document = known.document;
  if (!known.document) return false;
  const uint8_t *fetched = pager_fetch(db->pager, known.offset, known.length);
  if (table_get(db->table, view, *document, entry) != SDB_OK ||
      document_version(db, view, *document, entry, SDB_CURRENT, r) != SDB_OK || !record_has_name(r, path, len))
    return false;
  if ((uintptr_t)(r->path - RECORD_HEAD) / 64 != (uintptr_t)fetched / 64) remember(db, hash, *document, entry, r);
  return true;
}

int document_find(sdb *db, uint64_t view, uint64_t now_ms, const void *path, size_t len, uint32_t version, record *r,
                  table_entry *entry) {
  uint64_t document, hash = hints_hash(path, len);
  bool hinted = find_by_hint(db, view, hash, path, len, &document, r, entry);
  int rc = hinted ? SDB_OK : document_entry(db, view, path, len, &document, entry);
  if (rc != SDB_OK) return rc;
  if (!hinted) rc = document_version(db, view, document, entry, SDB_CURRENT, r);
  entry->oldest = document_oldest(entry, rc == SDB_OK ? r : NULL);
  if (rc == SDB_OK && !hinted) {
    if (!record_has_name(r, path, len))
      return env_fail(&db->e, SDB_CORRUPT, "a path leads to document %llu, which does not have that name; write it again",
                      (unsigned long long)document);
    remember(db, hash, document, entry, r);
  }
  if (rc == SDB_OK && record_expired(db, r, now_ms)) return absent(db, SDB_NOT_FOUND);
  if (version == SDB_CURRENT || version == entry->version || (rc != SDB_OK && rc != SDB_CORRUPT)) return rc;
  return document_version(db, view, document, entry, version, r); /* a damaged document offers its predecessors */
}

bool content_is_checked(sdb *db, const record *r) {
  if (r->suspect || !atomic_load_explicit(&db->quick, memory_order_relaxed)) return true;
  atomic_fetch_add_explicit(&db->n.unchecked, 1, memory_order_relaxed);
  return false;
}

void info_fill(sdb_info *info, const record *r, const table_entry *entry) {
  memcpy(info->id, r->id, 16);
  info->version = r->version;
  info->oldest = entry->oldest;
  info->size = r->size;
  info->time_ms = r->time_ms;
  info->expires_ms = r->flags & RECORD_EXPIRES ? r->expires_ms : 0;
  info->digest = r->digest;
  info->names = (uint16_t)record_names(r);
  info->content_type_len = r->flags & RECORD_TYPE ? r->type_len : 0;
  info->metadata_len = r->flags & RECORD_METADATA ? r->metadata_len : 0;
}
