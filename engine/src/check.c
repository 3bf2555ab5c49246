/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* check.c - proves I8 and every checksum: each physical page is fixed, or reached exactly once, or free, or held for a reason.
 *
 *   0 slots      both header slots verify
 *   1 chunks     directories, map and bitmap chunks against their checksums
 *   2 pages      every logical page: its stored bytes verify, its place is its own
 *   3 tree       all rules of the path tree; each path names a document whose record carries that path
 *     suffix     the suffix tree: all rules, and that it agrees with the path tree (check_names.c)
 *   4 documents  each table entry: its records verify, contents match digests, chunks match checksums, extents are their own; the
 *                names and times of the current ones stand in the trees, and no others
 *   5 heap       live bytes of each page are the sum of the records that count
 *   6 bitmap     used is exactly what was reached
 *   7 numbers    the header's sums
 */
#include <stdio.h>

#include "codec.h"
#include "db.h"

struct check {
  sdb *db;
  void (*problem)(void *user, const char *sentence);
  void *user;
  sdb_check_report *report;
  uint8_t *reached; /* a bit a physical page */
  uint8_t *known;   /* a bit a logical page that tree or table reach */
  uint32_t *live;   /* live bytes / 8 of each logical page, as counted */
  uint8_t *page;    /* a page's bytes as stored */
  uint8_t *chunk;   /* SDB_CHUNK */
  uint64_t logical_limit, content_bytes, heap_live, names;
  uint64_t fresh;                     /* entries of the path tree that is being made */
  uint64_t named, expiring, expiries; /* names in records, documents that expire, entries of the expiry tree */
  bool replayed;                      /* pages changed since the checkpoint: what the file uses is not what is reached now */
};

static void say(void *user, const char *sentence) {
  struct check *c = user;
  c->report->problems++;
  if (c->problem) c->problem(c->user, sentence);
}

__attribute__((format(printf, 2, 3))) static void tell(struct check *c, const char *format, ...) {
  char text[256];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  say(c, text);
}

static bool bit(const uint8_t *bits, uint64_t i) { return bits[i >> 3] >> (i & 7) & 1; }
static void set(uint8_t *bits, uint64_t i) { bits[i >> 3] |= (uint8_t)(1u << (i & 7)); }

static void reach(struct check *c, uint32_t physical, const char *what, uint64_t number) {
  if (physical >= pager_pages_total(c->db->pager) || pager_page_fixed(c->db->pager, physical))
    tell(c, "%s %llu stands at physical page %u, where nothing can stand", what, (unsigned long long)number, physical);
  else if (bit(c->reached, physical))
    tell(c, "%s %llu stands at physical page %u, which something else uses too", what, (unsigned long long)number, physical);
  else set(c->reached, physical);
}

/* --- Pages -------------------------------------------------------------------------------------------------------------------- */

static int visit_page(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct check *c = user;
  c->report->heap_pages += kind == PAGE_HEAP;
  c->report->tree_pages += kind == PAGE_INNER || kind == PAGE_LEAF;
  c->report->table_pages += kind == PAGE_TABLE || kind == PAGE_INDEX;
  if (number >= c->logical_limit) tell(c, "logical page %u is beyond the limit", number);
  if (kind != PAGE_HEAP && live) tell(c, "page %u is no heap page but counts %u live bytes", number, live);
  if (!place) return SDB_OK; /* changed since the checkpoint: only in memory */
  reach(c, place, "page", number);
  int rc = pager_read_run(c->db->pager, (run){place, 1}, 0, c->page, page_size(c->db->pager));
  if (rc != SDB_OK) tell(c, "page %u cannot be read at physical page %u", number, place);
  else if (!unit_valid(c->page, page_size(c->db->pager), number) || page_kind(c->page) != kind)
    tell(c, "page %u at physical page %u does not match its checksum or name", number, place);
  else if (!unit_open(&c->db->e, c->page, page_size(c->db->pager)))
    tell(c, "page %u at physical page %u was not encrypted with this key as this page", number, place);
  return SDB_OK;
}

static int visit_structure_page(void *user, uint32_t number) {
  struct check *c = user;
  if (number >= c->logical_limit) tell(c, "a tree or the table names page %u beyond the limit", number);
  else if (bit(c->known, number)) tell(c, "page %u is reached twice", number);
  else set(c->known, number);
  return SDB_OK;
}

/* Of what damaged or unreadable records left. */
static const char *remedy(const struct check *c) { return c->db->roots.recount ? "a scrub" : "repair"; }

static int visit_orphan(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct check *c = user;
  (void)place;
  if (kind == PAGE_HEAP) {
    if (c->live[number] * 8ull != live)
      tell(c, "heap page %u counts %u live bytes, but its records have %llu; %s counts them anew", number, live,
           (unsigned long long)c->live[number] * 8, remedy(c));
    if (bit(c->known, number)) tell(c, "heap page %u is also part of a tree or the table", number);
  } else if (number < c->logical_limit && !bit(c->known, number)) {
    if (c->db->roots.sweep && (kind == PAGE_INNER || kind == PAGE_LEAF)) return SDB_OK; /* of a damaged tree; being collected */
    tell(c, "page %u (kind %u) is reached from nowhere", number, kind);
  }
  return SDB_OK;
}

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

static int check_extent(struct check *c, const record *r) {
  extent_reader *x;
  run_list l;
  uint32_t digest = 0;
  if (run_list_parse(&l, r) == SDB_OK)
    for (uint32_t i = 0; i < l.count; i++)
      for (uint32_t k = 0; k < l.runs[i].count && l.runs[i].count <= pager_pages_total(c->db->pager); k++) {
        reach(c, l.runs[i].start + k, "an extent of document", id_document(r->id));
        c->report->extent_pages++;
      }
  int rc = extent_open(&c->db->e, c->db->pager, r, true, &x);
  if (rc == SDB_NO_MEMORY) return rc;
  if (rc != SDB_OK) {
    tell(c, "the extent of document %llu version %u does not verify", (unsigned long long)id_document(r->id), r->version);
    return SDB_OK;
  }
  for (uint32_t i = 0; i < extent_chunks(x); i++) {
    size_t len;
    rc = extent_chunk(x, i, c->chunk, &len);
    if (rc != SDB_OK)
      tell(c, "chunk %u of document %llu version %u does not verify", i, (unsigned long long)id_document(r->id), r->version);
    else digest = crc32c(digest, c->chunk, len);
    if (rc != SDB_OK) break;
  }
  if (rc == SDB_OK && digest != r->digest)
    tell(c, "document %llu version %u does not match its digest", (unsigned long long)id_document(r->id), r->version);
  extent_close(x);
  return SDB_OK;
}

/* Its place in the heap, its extent and its content. */
static int check_record(struct check *c, uint64_t place, const record *r) {
  c->report->versions++;
  c->heap_live += r->total;
  if (place_page(place) < c->logical_limit) c->live[place_page(place)] += r->total / 8;
  if (r->flags & RECORD_LARGE) return check_extent(c, r);
  if (content_unpack(c->db, r, true, c->chunk) != SDB_OK)
    tell(c, "version %u of document %llu does not match its digest", r->version, (unsigned long long)id_document(r->id));
  return SDB_OK;
}

static int check_version(struct check *c, uint64_t document, const table_entry *entry, uint32_t version, record *r) {
  uint64_t place = 0;
  int rc = document_version(c->db, VIEW_HEAD, document, entry, version, r);
  if (rc == SDB_OK) rc = document_place(c->db, VIEW_HEAD, document, entry, version, &place);
  if (rc == SDB_NO_MEMORY || rc == SDB_IO) return rc;
  if (rc == SDB_OK) return check_record(c, place, r);
  tell(c, "version %u of document %llu cannot be read", version, (unsigned long long)document);
  return SDB_CORRUPT;
}

/* Every name of the current record leads to the document, and its time stands in the expiry tree. */
static int check_current(struct check *c, uint64_t document, const table_entry *entry, const record *r) {
  uint64_t named = 0;
  c->content_bytes += r->size;
  for (unsigned i = 0; i < record_names(r); i++) {
    size_t len;
    const uint8_t *name = record_name(r, i, &len);
    int rc = tree_get(c->db->pager, VIEW_HEAD, c->db->roots.path_tree, name, len, &named);
    if (rc == SDB_NO_MEMORY) return rc;
    if (rc != SDB_OK || named != document) tell(c, "a path of document %llu does not lead to it", (unsigned long long)document);
    else c->named++;
  }
  bool expires = r->flags & RECORD_EXPIRES;
  c->expiring += expires;
  if (expires != entry->expires) tell(c, "the table does not say whether document %llu expires", (unsigned long long)document);
  return SDB_OK;
}

static int check_document(struct check *c, uint64_t document, table_entry *entry) {
  record r;
  int rc = check_version(c, document, entry, entry->version, &r);
  if (rc != SDB_OK && rc != SDB_CORRUPT) return rc;
  entry->oldest = document_oldest(entry, rc == SDB_OK ? &r : NULL);
  rc = rc == SDB_OK ? check_current(c, document, entry, &r) : SDB_OK;
  for (uint32_t v = entry->version - 1; rc == SDB_OK && v >= entry->oldest && v > 0; v--) {
    rc = check_version(c, document, entry, v, &r);
    if (rc == SDB_CORRUPT) rc = SDB_OK;
  }
  return rc;
}

static int check_documents(struct check *c) {
  for (uint64_t d = 1; d < c->db->roots.doc_limit; d++) {
    table_entry entry;
    int rc = table_get(c->db->table, VIEW_HEAD, d, &entry);
    if (rc == SDB_NOT_FOUND) continue;
    if (rc == SDB_NO_MEMORY || rc == SDB_IO) return rc;
    if (rc != SDB_OK) {
      tell(c, "the table entry of document %llu cannot be read", (unsigned long long)d);
      continue;
    }
    c->report->documents++;
    rc = check_document(c, d, &entry);
    if (rc != SDB_OK) return rc;
  }
  return SDB_OK;
}

static int visit_expiry(void *user, const uint8_t *key, size_t len, uint64_t document) {
  struct check *c = user;
  table_entry entry;
  record r;
  uint64_t ms = 0;
  c->expiries++;
  for (int i = 0; i < 8 && len == EXPIRY_KEY; i++) ms = ms << 8 | key[i];
  int rc = table_get(c->db->table, VIEW_HEAD, document, &entry);
  if (rc == SDB_OK) rc = document_version(c->db, VIEW_HEAD, document, &entry, SDB_CURRENT, &r);
  if (rc == SDB_NO_MEMORY || rc == SDB_IO) return rc;
  if (rc != SDB_OK || len != EXPIRY_KEY || !(r.flags & RECORD_EXPIRES) || r.expires_ms != ms)
    tell(c, "the expiry tree has a time for document %llu that the document does not have", (unsigned long long)document);
  return SDB_OK;
}

static int check_expiry(struct check *c) {
  tree_visitor v = {.user = c, .page = visit_structure_page, .entry = visit_expiry, .problem = say};
  if (!c->db->roots.expiry_tree) return SDB_OK;
  return tree_check(c->db->pager, VIEW_HEAD, c->db->roots.expiry_tree, &v);
}

static int visit_path(void *user, const uint8_t *key, size_t len, uint64_t document) {
  struct check *c = user;
  table_entry entry;
  (void)key, (void)len;
  c->names++;
  int rc = table_get(c->db->table, VIEW_HEAD, document, &entry);
  if (rc == SDB_NO_MEMORY) return rc;
  if (rc != SDB_OK) tell(c, "a path names document %llu, which the table does not have", (unsigned long long)document);
  return SDB_OK;
}

static int visit_fresh(void *user, const uint8_t *key, size_t len, uint64_t document) {
  struct check *c = user;
  (void)key, (void)len, (void)document;
  c->fresh++;
  return SDB_OK;
}

/* The tree that is going to be the path tree. */
static int check_fresh(struct check *c) {
  const roots *rt = &c->db->roots;
  tree_visitor v = {.user = c, .page = visit_structure_page, .entry = visit_fresh, .problem = say};
  int rc = tree_check(c->db->pager, VIEW_HEAD, rt->fresh_tree, &v);
  if (rc == SDB_OK && c->fresh != rt->fresh_names) tell(c, "the path index that is being made does not have the names it counts");
  return rc;
}

/* --- Bitmap and sums ---------------------------------------------------------------------------------------------------------- */

static int check_bitmap(struct check *c) {
  uint32_t total = pager_pages_total(c->db->pager);
  for (uint32_t i = 0; i < total; i++) {
    enum page_state state;
    if (pager_page_fixed(c->db->pager, i)) {
      c->report->fixed_pages++;
      continue;
    }
    int rc = pager_page_state(c->db->pager, i, &state);
    if (rc == SDB_NO_MEMORY || rc == SDB_IO) return rc;
    if (rc != SDB_OK) {
      tell(c, "the free-space bitmap cannot be read at page %u", i);
      return SDB_OK;
    }
    c->report->free_pages += state == STATE_FREE;
    if (bit(c->reached, i) && state != STATE_USED) tell(c, "physical page %u is reached but not marked used", i);
    if (!bit(c->reached, i) && state == STATE_USED && !c->replayed)
      tell(c,
           "physical page %u is marked used but reached from nowhere: of a record that was damaged or unreadable; a scrub gives it "
           "back",
           i);
  }
  c->report->pages = total;
  return SDB_OK;
}

static void expect(struct check *c, const char *what, uint64_t stored, uint64_t counted) {
  if (stored != counted) tell(c, "%s: stored %llu, counted %llu", what, (unsigned long long)stored, (unsigned long long)counted);
}

static void check_sums(struct check *c) {
  const roots *r = &c->db->roots;
  expect(c, "documents", r->documents, c->report->documents);
  expect(c, "names", r->names, c->names);
  expect(c, "names in the path tree and in the documents", c->names, c->named);
  if (!r->expiry_built) expect(c, "documents that expire and entries of the expiry tree", c->expiring, c->expiries);
  if (!r->recount) expect(c, "bytes of content", r->content_bytes, c->content_bytes);
  expect(c, "heap pages", r->heap_pages, c->report->heap_pages);
  expect(c, "live bytes in the heap", r->heap_live, c->heap_live);
  c->report->names = c->names;
  c->report->bytes = c->content_bytes;
}

/* --- All of it ---------------------------------------------------------------------------------------------------------------- */

static int check_all(struct check *c) {
  sdb *db = c->db;
  tree_visitor v = {.user = c, .page = visit_structure_page, .entry = visit_path, .problem = say};
  if (db->behind.operations) tell(c, "%llu operations of the log could not be applied", (unsigned long long)db->behind.operations);
  else if (db->log_damaged)
    tell(c, "the log is damaged: commits behind number %llu are lost", (unsigned long long)db->last_sequence);
  int rc = whole_check(db);
  if (rc == SDB_OK) rc = collect_all(db);
  if (rc == SDB_OK) rc = pager_check_chunks(db->pager, say, c);
  if (rc == SDB_OK) rc = pager_walk(db->pager, visit_page, c);
  if (rc == SDB_OK) rc = tree_check(db->pager, VIEW_HEAD, db->roots.path_tree, &v);
  if (rc == SDB_OK && db->roots.fresh_tree) rc = check_fresh(c);
  if (rc == SDB_OK) rc = check_names(db, &v);
  if (rc == SDB_OK) rc = table_walk_pages(db->table, VIEW_HEAD, visit_structure_page, c);
  if (rc == SDB_OK) rc = check_documents(c);
  if (rc == SDB_OK) rc = check_expiry(c);
  if (rc == SDB_OK) rc = pager_walk(db->pager, visit_orphan, c);
  if (rc == SDB_OK) rc = check_bitmap(c);
  if (rc == SDB_OK) check_sums(c);
  if (rc == SDB_CORRUPT || rc == SDB_NOT_FOUND) {
    char text[256];
    sdb_message(db, text, sizeof text);
    tell(c, "the check had to stop: %s", text);
    rc = SDB_OK;
  }
  return rc;
}

int sdb_check(sdb *db, void (*problem)(void *user, const char *sentence), void *user, sdb_check_report *report) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!report || report->size != sizeof *report) return env_fail(&db->e, SDB_INVALID, "set sdb_check_report.size before the call");
  *report = (sdb_check_report){.size = sizeof *report};
  struct check c = {.db = db, .problem = problem, .user = user, .report = report};
  mutex_lock(&db->work);
  pager_lock(db->pager);
  pager_check_slots(db->pager, say, &c); /* first: a checkpoint writes both anew */
  pager_unlock(db->pager);
  mutex_unlock(&db->work);
  if (!db->read_only && !atomic_load(&db->e.sync_failed)) { /* so that what is used on disk is what is reached now */
    rc = sdb_checkpoint(db);
    if (rc != SDB_OK) return rc;
  }
  mutex_lock(&db->work);
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  c.logical_limit = pager_logical_limit(db->pager);
  c.replayed = pager_changed(db->pager);
  c.reached = mem_new(&db->e, pager_pages_total(db->pager) / 8 + 1);
  c.known = mem_new(&db->e, c.logical_limit / 8 + 1);
  c.live = mem_new(&db->e, c.logical_limit * sizeof *c.live);
  c.page = mem_alloc(&db->e, page_size(db->pager));
  c.chunk = mem_alloc(&db->e, SDB_CHUNK);
  rc = c.reached && c.known && c.live && c.page && c.chunk ? check_all(&c)
                                                           : env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a check");
  mem_free(&db->e, c.reached);
  mem_free(&db->e, c.known);
  mem_free(&db->e, c.live);
  mem_free(&db->e, c.page);
  mem_free(&db->e, c.chunk);
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  mutex_unlock(&db->work);
  return rc;
}
