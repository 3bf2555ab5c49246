/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* document.c - from a path to the record of one of its versions, in one view. */
#include "db.h"

int path_check(sdb *db, const void *path, size_t len) {
  if (path && len >= 1 && len <= SDB_MAX_PATH) return SDB_OK;
  return env_fail(&db->e, SDB_INVALID, "a path has 1 to %u bytes, not %zu", SDB_MAX_PATH, path ? len : 0);
}

reading reading_begin(sdb *db) {
  if (atomic_load_explicit(&db->lazy, memory_order_acquire)) {
    pager_lock(db->pager);
    publish_lazy(db);
    pager_unlock(db->pager);
  }
  reading r = {.slot = pager_enter(db->pager)};
  r.view = pager_published(db->pager);
  return r;
}

void reading_end(sdb *db, reading r) { pager_leave(db->pager, r.slot); }

static int wrong_record(sdb *db, uint64_t document) {
  return env_fail(&db->e, SDB_CORRUPT,
                  "the table entry of document %llu points at a record of another document or version; restore a copy",
                  (unsigned long long)document);
}

int absent(sdb *db, int code) {
  if (!db->log_damaged) return code;
  return env_fail(&db->e, SDB_CORRUPT,
                  "nothing is there in the state before the log's damage, but it may be in the lost part; restore a copy");
}

int document_version(sdb *db, uint64_t view, uint64_t document, const table_entry *entry, uint32_t version, record *r) {
  bool current = version == SDB_CURRENT || version == entry->version;
  if (!current && (entry->previous == 0 || version != entry->version - 1))
    return absent(db, env_fail(&db->e, SDB_NOT_FOUND, "version %u cannot be read; the current one is %u", version, entry->version));
  int rc = heap_read(&db->e, db->pager, view, current ? entry->current : entry->previous, r);
  if (rc != SDB_OK) return rc;
  if (id_document(r->id) != document || r->version != entry->version - !current) return wrong_record(db, document);
  return SDB_OK;
}

int document_find(sdb *db, uint64_t view, const void *path, size_t len, uint32_t version, record *r, table_entry *entry) {
  uint64_t document;
  table_entry local;
  if (!entry) entry = &local;
  int rc = tree_get(db->pager, view, db->roots.path_tree, path, len, &document);
  if (rc != SDB_OK) return rc == SDB_NOT_FOUND ? absent(db, rc) : rc;
  rc = table_get(db->table, view, document, entry);
  if (rc == SDB_NOT_FOUND)
    return env_fail(&db->e, SDB_CORRUPT, "a path names document %llu, which the table does not have; restore a copy",
                    (unsigned long long)document);
  if (rc != SDB_OK) return rc;
  return document_version(db, view, document, entry, version, r);
}

bool content_is_checked(sdb *db) {
  if (!atomic_load_explicit(&db->quick, memory_order_relaxed)) return true;
  atomic_fetch_add_explicit(&db->n.unchecked, 1, memory_order_relaxed);
  return false;
}

void info_fill(sdb_info *info, const record *r, const table_entry *entry) {
  memcpy(info->id, r->id, 16);
  info->version = r->version;
  info->oldest = entry->previous ? entry->version - 1 : entry->version;
  info->size = r->size;
  info->time_ms = r->time_ms;
  info->digest = r->digest;
}
