/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* apply.c - one decided operation, put into trees, table and heap: by commits and, from the log, by recovery (I5).
 *
 *     apply_...   does all of it or nothing: first everything is touched and allocated, then bytes change
 *     apply_undo  takes it back, as long as the writer's lock was not given up: it does not fail (take_back). In the reverse order
 *     apply_end   once the log has it: what cannot be undone (runs change hands, pages are merged, a number is free)
 *
 * What no version points at afterwards goes to the ring of dropped records, from where `collect` takes the space back in small
 * steps. The ring is in memory only: a checkpoint begins when it is empty, so what it stores as used is what can be reached (I3),
 * and replay fills it again. What the device does not give when its turn comes is set aside, so that commits go on beside an
 * unreadable place; the next one that needs the ring empty asks for it once more, and then treats it like what is damaged.
 */
#include "db.h"

/* A further record of the document holds the same runs: only the record goes. */
#define DROP_RECORD_ONLY (1ull << 63)
/* Its turn came, and the device did not give what has to be read for it. */
#define DROP_ASIDE (1ull << 62)

/* --- Dropped records ---------------------------------------------------------------------------------------------------------- */

void note_lost(sdb *db) { db->roots.recount = db->scrub.again = true; }

static int dropped_reserve(sdb *db, size_t more) {
  if (db->dropped_count + more <= db->dropped_cap) return SDB_OK;
  size_t cap = db->dropped_cap ? 2 * db->dropped_cap : 256;
  while (cap < db->dropped_count + more) cap *= 2;
  uint64_t *ring = mem_alloc(&db->e, cap * sizeof *ring);
  if (!ring) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a commit");
  for (size_t i = 0; i < db->dropped_count; i++) ring[i] = db->dropped[(db->dropped_head + i) % db->dropped_cap];
  mem_free(&db->e, db->dropped);
  db->dropped = ring;
  db->dropped_head = 0;
  db->dropped_cap = cap;
  return SDB_OK;
}

static void drop(sdb *db, uint64_t place) {
  assert(db->dropped_count < db->dropped_cap);
  db->dropped[(db->dropped_head + db->dropped_count++) % db->dropped_cap] = place;
}

static int drop_version(sdb *db, const struct change *c, uint32_t version) {
  uint64_t place;
  int rc = document_place(db, VIEW_HEAD, c->document, &c->entry, version, &place);
  if (rc == SDB_OK) drop(db, place);
  return rc == SDB_CORRUPT || rc == SDB_NOT_FOUND ? SDB_OK : rc;
}

/* Drops the versions `from` to `to` of the document as it stands in `entry`. Undone by cutting the ring. What cannot be reached any
 * more because a record on the way is damaged keeps its space, until repair. */
static int drop_versions(sdb *db, const struct change *c, uint32_t from, uint32_t to) {
  if (from > to) return SDB_OK;
  int rc = dropped_reserve(db, (size_t)to - from + 1);
  if (rc == SDB_OK && from == to) return drop_version(db, c, from);
  version_walk walk = document_walk(&c->entry);
  while (rc == SDB_OK && walk.version >= from && walk.version > 0) {
    record r;
    uint64_t place;
    bool goes = walk.version <= to;
    rc = document_walk_next(db, VIEW_HEAD, c->document, &walk, &r, &place);
    if (rc == SDB_CORRUPT) note_lost(db), rc = SDB_OK;
    if (rc == SDB_OK && goes && place) drop(db, place);
  }
  return rc;
}

/* What does not verify, or is not given even when it is asked for the last time, keeps its space: nobody knows how much it is. What
 * it had of large contents the scrub finds. */
static bool given_up(sdb *db, int rc, bool last) {
  bool lost = rc == SDB_CORRUPT || (rc == SDB_IO && last);
  if (lost) note_lost(db);
  return lost;
}

static int collect_one(sdb *db, uint64_t dropped, bool last) {
  record r;
  run_list l;
  uint64_t place = dropped & ~(DROP_RECORD_ONLY | DROP_ASIDE);
  int rc = heap_read(&db->e, db->pager, VIEW_HEAD, place, &r);
  if (given_up(db, rc, last)) return SDB_OK;
  if (rc != SDB_OK) return rc;
  rc = pager_admit(db->pager, MAX_RUNS + 1, 0, true);
  if (rc != SDB_OK) return rc;
  bool large = r.flags & RECORD_LARGE && !(dropped & DROP_RECORD_ONLY) && run_list_parse(&l, &r) == SDB_OK;
  for (uint32_t i = 0; rc == SDB_OK && large && i < l.count; i++) rc = pager_know_run(db->pager, l.runs[i]);
  if (rc == SDB_OK && large) rc = extent_verify(&db->e, db->pager, &r); /* a forged record may name the runs of others */
  if (given_up(db, rc, last)) { /* what stands there is not this version's, or nobody can tell */
    large = false;
    rc = SDB_OK;
  }
  if (rc != SDB_OK) return rc;
  for (uint32_t i = 0; large && i < l.count; i++) pager_free_run(db->pager, l.runs[i]);
  heap_drop(db->pager, &db->roots, place, r.total);
  return SDB_OK;
}

/* The first of the ring goes, or to its end (SDB_IO), or stays where it is. */
static int collect_first(sdb *db, bool last) {
  uint64_t dropped = db->dropped[db->dropped_head];
  bool aside = dropped & DROP_ASIDE;
  int rc = aside && !last ? SDB_IO : collect_one(db, dropped, aside);
  if (rc != SDB_OK && rc != SDB_IO) return rc;
  db->dropped_head = (db->dropped_head + 1) % db->dropped_cap;
  db->dropped_count--;
  db->dropped_aside -= aside;
  if (rc == SDB_IO) drop(db, dropped | DROP_ASIDE);
  db->dropped_aside += rc == SDB_IO;
  return rc;
}

int collect(sdb *db, unsigned budget) {
  while (db->dropped_count > db->dropped_aside && budget-- > 0) {
    int rc = collect_first(db, false);
    if (rc != SDB_OK && rc != SDB_IO) return rc;
  }
  return SDB_OK;
}

int collect_all(sdb *db) {
  int failed = SDB_OK;
  for (size_t n = db->dropped_count; n > 0; n--) {
    int rc = collect_first(db, true);
    if (rc != SDB_OK && rc != SDB_IO) return rc;
    if (rc == SDB_IO) failed = rc;
  }
  return failed;
}

bool dropped_in(const sdb *db, uint32_t page) {
  for (size_t i = 0; i < db->dropped_count; i++)
    if (place_page(db->dropped[(db->dropped_head + i) % db->dropped_cap]) == page) return true;
  return false;
}

/* --- Document numbers --------------------------------------------------------------------------------------------------------- */

/* Free as the table says, and yet not to be had: somebody is about to write it, or its delete may still be undone. */
static bool spoken_for(const sdb *db, uint64_t document) {
  for (const struct claim *c = db->claims; c; c = c->next)
    if (c->document == document) return true;
  for (const struct change *c = db->deletes; c; c = c->next_delete)
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
    if (rc == SDB_NOT_FOUND && !spoken_for(db, number)) document_number_return(db, number);
    else if (rc == SDB_IO) db->free_scan = table_page_end(db->table, number); /* they are unused until the next open */
    else if (rc != SDB_OK && rc != SDB_NOT_FOUND && rc != SDB_CORRUPT) return rc;
  }
  return SDB_OK;
}

/* The next of those that are free. It is asked for once more: what said so may have been zeros in the place of a page. */
static int reuse(sdb *db, uint64_t *number) {
  int rc = SDB_OK;
  if (db->free_count == 0) rc = scan_free(db);
  while (rc == SDB_OK && db->free_count > 0) {
    table_entry entry;
    *number = db->free_documents[--db->free_count];
    rc = table_get(db->table, VIEW_HEAD, *number, &entry);
    if (rc == SDB_NOT_FOUND) return SDB_OK;
    if (rc == SDB_IO || rc == SDB_CORRUPT) rc = SDB_OK; /* unused until the next open */
  }
  return rc == SDB_OK ? SDB_NOT_FOUND : rc;
}

int document_number(sdb *db, uint64_t *number) {
  int rc = reuse(db, number);
  if (rc != SDB_NOT_FOUND) return rc;
  if (db->roots.doc_limit >= table_capacity(db->table)) return env_fail(&db->e, SDB_FULL, "the table of documents is full");
  *number = db->roots.doc_limit++;
  if (db->free_scan == *number) db->free_scan++;
  return SDB_OK;
}

/* --- Expiry tree: time, document -> document ---------------------------------------------------------------------------------- */

static void expiry_key(uint8_t key[EXPIRY_KEY], uint64_t ms, uint64_t document) {
  for (int i = 0; i < 8; i++) key[i] = (uint8_t)(ms >> (56 - 8 * i));
  for (int i = 0; i < 5; i++) key[8 + i] = (uint8_t)(document >> (32 - 8 * i));
}

int expiry_note(sdb *db, uint64_t ms, uint64_t document) {
  uint8_t key[EXPIRY_KEY];
  expiry_key(key, ms, document);
  return tree_put(db->pager, db->roots.expiry_tree, key, sizeof key, document);
}

/* What a damaged tree lacks, the one that is made in its place will have. */
static int expiry_add(sdb *db, uint64_t ms, uint64_t document) {
  int rc = SDB_OK;
  if (!ms) return SDB_OK;
  if (!db->roots.expiry_tree) rc = tree_create(db->pager, &db->roots.expiry_tree);
  atomic_store(&db->expiring, true);
  if (rc == SDB_OK) rc = expiry_note(db, ms, document);
  if (rc != SDB_CORRUPT) return rc;
  rc = rebuild_expiry(db);
  return rc == SDB_OK ? expiry_note(db, ms, document) : rc;
}

/* A missing entry is no reason to refuse: check reports it. */
static int expiry_remove(sdb *db, uint64_t ms, uint64_t document) {
  uint8_t key[EXPIRY_KEY];
  if (!ms || !db->roots.expiry_tree) return SDB_OK;
  expiry_key(key, ms, document);
  int rc = tree_remove(db->pager, db->roots.expiry_tree, key, sizeof key);
  if (rc == SDB_CORRUPT) rc = rebuild_expiry(db);
  return rc == SDB_NOT_FOUND ? SDB_OK : rc;
}

static void expiry_undo(sdb *db, uint64_t now, uint64_t before, uint64_t document) {
  take_back(db, expiry_remove(db, now, document));
  take_back(db, expiry_add(db, before, document));
}

static int expiry_change(sdb *db, uint64_t before, uint64_t after, uint64_t document) {
  if (before == after) return SDB_OK;
  int rc = expiry_remove(db, before, document);
  if (rc != SDB_OK) return rc;
  rc = expiry_add(db, after, document);
  if (rc != SDB_OK) expiry_undo(db, 0, before, document);
  return rc;
}

static uint64_t expires_of(const record *r, bool known) { return known && r->flags & RECORD_EXPIRES ? r->expires_ms : 0; }

/* --- Put ---------------------------------------------------------------------------------------------------------------------- */

static void counters_save(const sdb *db, struct change *c) {
  c->documents = db->roots.documents;
  c->content_bytes = db->roots.content_bytes;
  c->dropped = db->dropped_count;
}

/* Scrub counts the sum again, document by document: those that it has counted change there too. */
static void content_change(sdb *db, uint64_t document, uint64_t bytes) {
  db->roots.content_bytes += bytes;
  if (document < db->scrub.counted) db->scrub.bytes += bytes;
}

/* What is replaced or deleted. How much a damaged record counted nobody can tell. */
static uint64_t content_of(sdb *db, const struct change *c) {
  bool lost = !c->has_old && !c->created;
  if (lost) note_lost(db);
  if (lost && c->entry.expires) atomic_store(&db->expiry_damaged, true); /* it has an entry at a time that nobody knows */
  return c->has_old ? c->old.size : 0;
}

static void counters_restore(sdb *db, const struct change *c) {
  db->roots.documents = c->documents;
  content_change(db, c->document, c->content_bytes - db->roots.content_bytes);
  db->dropped_count = c->dropped;
}

static int too_large(sdb *db) {
  return env_fail(&db->e, SDB_TOO_LARGE, "the names, metadata and description of the document do not fit into a page of %u bytes",
                  page_size(db->pager));
}

/* The record's bytes into the heap and its place into the table. The first half may fail and changes nothing then. */
static int place_record(sdb *db, struct change *c) {
  c->r.total = (uint32_t)record_measure(&c->r);
  if (c->r.total > page_size(db->pager) - PAGE_HEADER) return too_large(db);
  int rc = heap_room(db->pager, &db->roots, c->r.total, &c->place, &c->bytes);
  if (rc == SDB_OK) rc = table_touch(db->table, c->document, &c->at);
  return rc;
}

static void set_record(sdb *db, struct change *c, uint64_t previous) {
  table_entry entry = {.current = c->place, .previous = previous, .version = c->r.version, .expires = c->r.flags & RECORD_EXPIRES};
  record_write(c->bytes, &c->r);
  heap_commit(db->pager, &db->roots, c->place, c->r.total);
  table_set(c->at, &entry);
  c->done = true;
}

static int add_first_name(sdb *db, struct change *c) {
  int rc = c->stray ? names_remove(db, c->r.path, c->r.path_len, c->stray) : SDB_OK;
  if (rc != SDB_OK) return rc;
  rc = names_add(db, c->r.path, c->r.path_len, c->document);
  if (rc != SDB_OK && c->stray) names_undo_remove(db, c->r.path, c->r.path_len, c->stray);
  return rc;
}

int apply_put(sdb *db, struct change *c) {
  uint64_t before = expires_of(&c->old, c->has_old), after = expires_of(&c->r, true);
  counters_save(db, c);
  c->r.flags &= (uint16_t)~RECORD_OLDER;
  if (c->r.kept >= 2 && c->entry.previous) {
    c->r.flags |= RECORD_OLDER;
    c->r.older = c->entry.previous;
  }
  int rc = SDB_OK;
  if (!c->created) rc = drop_versions(db, c, document_oldest(&c->entry, c->has_old ? &c->old : NULL), c->r.version - c->r.kept - 1);
  if (rc == SDB_OK) rc = place_record(db, c);
  if (rc == SDB_OK) rc = expiry_change(db, before, after, c->document);
  if (rc == SDB_OK && c->created) {
    rc = add_first_name(db, c);
    if (rc != SDB_OK) expiry_undo(db, after, before, c->document);
  }
  if (rc != SDB_OK) {
    counters_restore(db, c);
    return rc;
  }
  set_record(db, c, c->r.kept ? c->entry.current : 0);
  content_change(db, c->document, c->r.size - content_of(db, c));
  db->roots.documents += c->created;
  if (c->document >= db->roots.doc_limit) db->roots.doc_limit = c->document + 1;
  return SDB_OK;
}

static void undo_put(sdb *db, struct change *c) {
  uint64_t before = expires_of(&c->old, c->has_old), after = expires_of(&c->r, true);
  if (c->created) {
    names_undo_add(db, c->r.path, c->r.path_len, c->document);
    if (c->stray) names_undo_remove(db, c->r.path, c->r.path_len, c->stray);
  }
  if (before != after) expiry_undo(db, after, before, c->document);
  heap_undo(db->pager, &db->roots, c->place, c->r.total);
}

/* --- Delete ------------------------------------------------------------------------------------------------------------------- */

/* All names of the document; those that lead elsewhere, or nowhere, are left alone. c->removed says which went. */
static int remove_names(sdb *db, struct change *c) {
  int rc = SDB_OK;
  for (unsigned i = 0; rc == SDB_OK && i < record_names(&c->named); i++) {
    size_t len;
    uint64_t document = 0;
    const uint8_t *name = record_name(&c->named, i, &len);
    rc = names_get(db, VIEW_HEAD, name, len, &document);
    if (rc == SDB_OK && document == c->document) {
      rc = names_remove(db, name, len, c->document);
      if (rc == SDB_OK) c->removed |= 1ull << i;
    } else if (rc == SDB_NOT_FOUND) {
      rc = SDB_OK;
    }
  }
  return rc;
}

static void undo_names(sdb *db, struct change *c) {
  for (unsigned i = record_names(&c->named); i-- > 0;) {
    size_t len;
    const uint8_t *name = record_name(&c->named, i, &len);
    if (c->removed >> i & 1) names_undo_remove(db, name, len, c->document);
  }
  c->removed = 0;
}

int apply_delete(sdb *db, struct change *c) {
  static const table_entry none = {0};
  uint64_t expires = expires_of(&c->old, c->has_old);
  counters_save(db, c);
  int rc = drop_versions(db, c, document_oldest(&c->entry, c->has_old ? &c->old : NULL), c->entry.version);
  if (rc == SDB_OK) rc = table_touch(db->table, c->document, &c->at);
  if (rc == SDB_OK) rc = expiry_change(db, expires, 0, c->document);
  if (rc == SDB_OK) {
    rc = remove_names(db, c);
    if (rc != SDB_OK) {
      undo_names(db, c);
      if (expires) expiry_undo(db, 0, expires, c->document);
    }
  }
  if (rc != SDB_OK) {
    counters_restore(db, c);
    return rc;
  }
  table_set(c->at, &none);
  db->roots.documents--;
  content_change(db, c->document, 0 - content_of(db, c));
  c->next_delete = db->deletes;
  db->deletes = c;
  c->done = true;
  return SDB_OK;
}

/* --- Bind and unbind ---------------------------------------------------------------------------------------------------------- */

/* The names of c->r become those of c->old with c->name added or taken out; c->scratch holds them. */
static int change_names(sdb *db, struct change *c) {
  uint8_t *at = c->scratch = mem_alloc(&db->e, (size_t)MAX_NAMES * (2 + SDB_MAX_PATH));
  unsigned count = 0;
  if (!at) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for the names of a document");
  for (unsigned i = 0; i <= record_names(&c->old); i++) {
    size_t len = c->name_len;
    const uint8_t *name = c->name;
    if (i < record_names(&c->old)) {
      name = record_name(&c->old, i, &len);
      if (c->op == OP_UNBIND && len == c->name_len && memcmp(name, c->name, len) == 0) continue;
    } else if (c->op == OP_UNBIND) {
      break;
    }
    if (count++ == 0) {
      c->r.path = name;
      c->r.path_len = (uint16_t)len;
    } else {
      put16(at, (uint16_t)len);
      memcpy(at + 2, name, len);
      at += 2 + len;
    }
  }
  c->r.flags = (uint16_t)((c->r.flags & ~RECORD_NAMES) | (count > 1 ? RECORD_NAMES : 0));
  c->r.names = c->scratch;
  c->r.names_len = (uint32_t)(at - (uint8_t *)c->scratch);
  c->r.name_count = (uint8_t)(count - 1);
  return SDB_OK;
}

/* The current record is written once more with other names; version, content and runs stay what they are. Without a record that
 * verifies (replay only) the trees alone change: a new version will heal it. */
int apply_names(sdb *db, struct change *c) {
  int rc = SDB_OK;
  counters_save(db, c);
  c->r = c->old;
  if (c->has_old) {
    rc = change_names(db, c);
    if (rc == SDB_OK) rc = dropped_reserve(db, 1);
    if (rc == SDB_OK) rc = place_record(db, c);
  }
  if (rc != SDB_OK) return rc;
  rc = c->op == OP_BIND ? names_add(db, c->name, c->name_len, c->document) : names_remove(db, c->name, c->name_len, c->document);
  if (rc != SDB_OK) return rc;
  if (c->has_old) {
    drop(db, c->entry.current | DROP_RECORD_ONLY);
    set_record(db, c, c->entry.previous);
  }
  c->done = true;
  return SDB_OK;
}

static void undo_apply_names(sdb *db, struct change *c) {
  if (c->op == OP_BIND) names_undo_add(db, c->name, c->name_len, c->document);
  else names_undo_remove(db, c->name, c->name_len, c->document);
  if (c->has_old) heap_undo(db->pager, &db->roots, c->place, c->r.total);
}

/* --- Undoing and ending ------------------------------------------------------------------------------------------------------- */

void apply_undo(sdb *db, struct change *c) {
  if (!c->done) return;
  table_set(c->at, &c->entry);
  if (c->op == OP_PUT) undo_put(db, c);
  else if (c->op != OP_DELETE) undo_apply_names(db, c);
  else {
    assert(db->deletes == c);
    db->deletes = c->next_delete;
    undo_names(db, c);
    if (expires_of(&c->old, c->has_old)) expiry_undo(db, 0, c->old.expires_ms, c->document);
  }
  counters_restore(db, c);
  c->done = false;
}

void apply_end(sdb *db, struct change *c) {
  run_list l;
  db->deletes = NULL; /* the commit stands */
  if (!c->done) return;
  if (c->op == OP_PUT && c->r.flags & RECORD_LARGE) {
    int rc = run_list_parse(&l, &c->r);
    for (uint32_t i = 0; rc == SDB_OK && i < l.count; i++) pager_use_run(db->pager, l.runs[i]);
  }
  for (unsigned i = 0; c->removed && i < record_names(&c->named); i++) {
    size_t len;
    const uint8_t *name = record_name(&c->named, i, &len);
    if (c->removed >> i & 1) names_tidy(db, name, len);
  }
  if (c->op == OP_UNBIND) names_tidy(db, c->name, c->name_len);
  if (c->op == OP_DELETE) document_number_return(db, c->document);
}
