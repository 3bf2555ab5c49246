/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* apply.c - one decided change, put into tree, table and heap: by commits and, from the log, by recovery (I5).
 *
 * First everything is touched and allocated, each step harmless alone; then bytes change, and nothing can fail any more. What no
 * version points at afterwards goes to the ring of dropped records, from where `collect` takes the space back in small steps. The
 * ring is in memory only: a checkpoint begins when it is empty, so what it stores as used is what can be reached (I3), and replay
 * fills it again.
 */
#include "db.h"

/* --- Dropped records ------------------------------------------------------------------------------------------------------------
 */

static bool dropped_reserve(sdb *db, size_t more) {
  if (db->dropped_count + more <= db->dropped_cap) return true;
  size_t cap = db->dropped_cap ? 2 * db->dropped_cap : 256;
  struct dropped *ring = mem_alloc(&db->e, cap * sizeof *ring);
  if (!ring) return false;
  for (size_t i = 0; i < db->dropped_count; i++) ring[i] = db->dropped[(db->dropped_head + i) % db->dropped_cap];
  mem_free(&db->e, db->dropped);
  db->dropped = ring;
  db->dropped_head = 0;
  db->dropped_cap = cap;
  return true;
}

static void drop(sdb *db, uint64_t place) {
  if (!place) return;
  assert(db->dropped_count < db->dropped_cap);
  db->dropped[(db->dropped_head + db->dropped_count++) % db->dropped_cap].place = place;
}

/* A record that does not verify keeps its space: nobody knows how much it is. check reports it, repair frees it. */
static int collect_one(sdb *db, uint64_t place) {
  record r;
  run_list l;
  int rc = heap_read(&db->e, db->pager, VIEW_HEAD, place, &r);
  if (rc == SDB_CORRUPT) return SDB_OK;
  if (rc != SDB_OK) return rc;
  rc = pager_admit(db->pager, MAX_RUNS + 1, 0, true);
  if (rc != SDB_OK) return rc;
  bool large = r.flags & RECORD_LARGE && run_list_parse(&l, &r) == SDB_OK;
  for (uint32_t i = 0; rc == SDB_OK && large && i < l.count; i++) rc = pager_know_run(db->pager, l.runs[i]);
  if (rc != SDB_OK) return rc == SDB_CORRUPT ? SDB_OK : rc;
  for (uint32_t i = 0; large && i < l.count; i++) pager_free_run(db->pager, l.runs[i]);
  heap_drop(db->pager, &db->roots, place, r.total);
  return SDB_OK;
}

int collect(sdb *db, unsigned budget) {
  while (db->dropped_count > 0 && budget-- > 0) {
    int rc = collect_one(db, db->dropped[db->dropped_head].place);
    if (rc != SDB_OK) return rc;
    db->dropped_head = (db->dropped_head + 1) % db->dropped_cap;
    db->dropped_count--;
  }
  return SDB_OK;
}

/* --- Document numbers ------------------------------------------------------------------------------------------------------------
 */

static bool claimed(const sdb *db, uint64_t document) {
  for (const struct claim *c = db->claims; c; c = c->next)
    if (c->document == document) return true;
  return false;
}

void document_number_return(sdb *db, uint64_t number) {
  if (number >= db->free_scan) return; /* the scan will come by */
  void *list = db->free_documents;
  if (!mem_reserve(&db->e, &list, &db->free_cap, db->free_count + 1, sizeof *db->free_documents))
    return; /* unused until the next open */
  db->free_documents = list;
  db->free_documents[db->free_count++] = number;
}

/* Numbers freed before the database was opened are found again by looking through the table, a few entries at each need. */
static int scan_free(sdb *db) {
  if (db->roots.doc_limit - 1 <= db->roots.documents) return SDB_OK;
  for (unsigned looked = 0; looked < 512 && db->free_scan < db->roots.doc_limit && db->free_count == 0; looked++) {
    uint64_t number = db->free_scan++;
    table_entry entry;
    int rc = table_get(db->table, VIEW_HEAD, number, &entry);
    if (rc == SDB_NOT_FOUND && !claimed(db, number)) document_number_return(db, number);
    else if (rc != SDB_OK && rc != SDB_NOT_FOUND && rc != SDB_CORRUPT) return rc;
  }
  return SDB_OK;
}

int document_number(sdb *db, uint64_t *number) {
  if (db->free_count == 0) {
    int rc = scan_free(db);
    if (rc != SDB_OK) return rc;
  }
  if (db->free_count > 0) {
    *number = db->free_documents[--db->free_count];
    return SDB_OK;
  }
  if (db->roots.doc_limit >= table_capacity(db->table)) return env_fail(&db->e, SDB_FULL, "the table of documents is full");
  *number = db->roots.doc_limit++;
  if (db->free_scan == *number) db->free_scan++;
  return SDB_OK;
}

/* --- Put -------------------------------------------------------------------------------------------------------------------------
 */

int apply_put_prepare(sdb *db, const struct change *c, struct put_plan *plan) {
  if (!dropped_reserve(db, 2)) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a commit");
  int rc = heap_room(db->pager, &db->roots, c->r.total, &plan->place, &plan->bytes);
  if (rc == SDB_OK) rc = table_touch(db->table, c->document);
  if (rc == SDB_OK && c->created) rc = names_add(db, c->path, c->path_len, c->document);
  return rc;
}

void apply_put(sdb *db, const struct change *c, const struct put_plan *plan) {
  roots *rt = &db->roots;
  table_entry entry = {.current = plan->place, .previous = c->r.kept ? c->entry.current : 0, .version = c->r.version};
  record_write(plan->bytes, &c->r);
  heap_commit(db->pager, rt, plan->place, c->r.total);
  table_set(db->table, c->document, &entry);
  rt->content_bytes += (uint64_t)c->r.size - c->old_size;
  if (c->created) {
    rt->documents++;
    if (c->document >= rt->doc_limit) rt->doc_limit = c->document + 1;
  }
  drop(db, c->entry.previous);
  if (!c->r.kept) drop(db, c->entry.current);
  if (c->r.flags & RECORD_LARGE) {
    run_list l;
    int rc = run_list_parse(&l, &c->r);
    for (uint32_t i = 0; rc == SDB_OK && i < l.count; i++) pager_use_run(db->pager, l.runs[i]);
  }
}

/* --- Delete ----------------------------------------------------------------------------------------------------------------------
 */

int apply_delete(sdb *db, const struct change *c) {
  static const table_entry none = {0};
  if (!dropped_reserve(db, 2)) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a commit");
  int rc = table_touch(db->table, c->document);
  if (rc == SDB_OK) rc = names_remove(db, c->path, c->path_len, c->document);
  if (rc != SDB_OK) return rc;
  table_set(db->table, c->document, &none);
  db->roots.documents--;
  db->roots.content_bytes -= c->old_size;
  drop(db, c->entry.current);
  drop(db, c->entry.previous);
  document_number_return(db, c->document);
  names_tidy(db, c->path, c->path_len);
  return SDB_OK;
}
