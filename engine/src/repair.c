/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* repair.c - a new database from what verifies of a damaged one.
 *
 *   1 open     The damaged file opens, if it still does, for reading. A document whose table entry and records verify is copied
 *              from there, and one whose table entry says "free" does not exist. When all is answered so, nothing else is done.
 *   2 scan     Else every page, large content and log record that verifies by itself leaves a trace (repair_scan.c).
 *   3 judge    When the file does not open, the newest copies of table pages are found by their unit headers; the documents that a
 *              table page stands for follow from the records it points at. A trace it points at is alive; a document that it does
 *              not have is dead, unless the trace is newer than the page. A deletion in the log is final: ids are never used twice.
 *   4 choose   Of a document number the document made last; of a document the highest version that verifies, and what stands
 *              directly below it, as many as it kept. Of two documents at one path the one that the table vouches for, then the
 *              newer one.
 *   5 build    (repair_build.c) a whole new database; what nobody vouches for is saved and called "possibly deleted".
 */
#include "repair.h"

#include <stdio.h>

#include "copy.h"

/* Chosen to be saved. */
typedef struct choice {
  uint64_t time_ms;
  size_t first; /* trace of its highest version; those of the document follow */
  bool vouched;
} choice;

void sort(void *items, size_t count, size_t unit_size, int (*compare)(const void *a, const void *b), uint8_t *spare) {
  uint8_t *base = items;
  for (size_t end = count, start = count / 2; end > 1;) {
    size_t root;
    if (start > 0) {
      root = --start;
    } else {
      end--;
      memcpy(spare, base, unit_size);
      memcpy(base, base + end * unit_size, unit_size);
      memcpy(base + end * unit_size, spare, unit_size);
      root = 0;
    }
    for (size_t child; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && compare(base + child * unit_size, base + (child + 1) * unit_size) < 0) child++;
      if (compare(base + root * unit_size, base + child * unit_size) >= 0) break;
      memcpy(spare, base + root * unit_size, unit_size);
      memcpy(base + root * unit_size, base + child * unit_size, unit_size);
      memcpy(base + child * unit_size, spare, unit_size);
    }
  }
}

/* --- Telling ------------------------------------------------------------------------------------------------------------------ */

static void tell(repair *rp, sdb_repair_kind kind, const record *r, const char *reason) {
  sdb_repair_item item = {.kind = kind, .reason = reason};
  if (r) {
    item.path = r->path;
    item.path_len = r->path_len;
    memcpy(item.id, r->id, 16);
    item.version = r->version;
    item.size = r->size;
  }
  if (kind == SDB_REPAIR_SAVED) rp->report.documents++;
  else if (kind == SDB_REPAIR_LOST) rp->report.lost++;
  else rp->report.doubtful++;
  if (rp->item) rp->item(rp->user, &item);
}

static void tell_number(repair *rp, uint64_t document, uint32_t version, const char *reason) {
  sdb_repair_item item = {.kind = SDB_REPAIR_LOST, .reason = reason, .version = version};
  for (int i = 0; i < 5; i++) item.id[11 + i] = (uint8_t)(document >> (32 - 8 * i));
  rp->report.lost++;
  if (rp->item) rp->item(rp->user, &item);
}

/* --- Saving one document ------------------------------------------------------------------------------------------------------ */

/* Where its versions are loaded from; their contents are verified then. *parsed: the record itself verifies, if not its content. */
struct source {
  env *e;
  pager *p;
  int (*load)(repair *rp, const struct source *s, uint32_t version, record *r, bool *parsed);
  const trace *traces; /* of the document, the highest version first */
  size_t count;
  uint64_t document;
  const table_entry *entry;
};

/* The record with its texts in memory of its own: loading another trace overwrites them. */
static int keep_names(repair *rp, const record *r, record *kept, uint8_t **memory) {
  *kept = *r;
  *memory = mem_alloc(&rp->e, (size_t)r->path_len + (r->flags & RECORD_NAMES ? r->names_len : 0));
  if (!*memory) return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for the names of a document");
  memcpy(*memory, r->path, r->path_len);
  kept->path = *memory;
  if (r->flags & RECORD_NAMES) {
    memcpy(*memory + r->path_len, r->names, r->names_len);
    kept->names = *memory + r->path_len;
  }
  return SDB_OK;
}

static bool skippable(int rc) { return rc == SDB_CORRUPT || rc == SDB_NOT_FOUND || rc == SDB_IO; }

static int save_names(repair *rp, const record *named) {
  for (unsigned i = 1; i < record_names(named); i++) {
    size_t len;
    const uint8_t *name = record_name(named, i, &len);
    int rc = build_name(rp, named->id, named->version, name, len);
    if (rc == SDB_CONFLICT) tell(rp, SDB_REPAIR_LOST, named, "a further name of the document belongs to another one by now");
    else if (rc != SDB_OK) return rc;
  }
  return SDB_OK;
}

/* A large content without its record: names are those of the version before, and how many were kept is not known. */
static int name_bare(repair *rp, const struct source *s, record *named, uint8_t **memory) {
  record r, bare = *named;
  bool parsed;
  uint8_t *texts = *memory;
  tell(rp, SDB_REPAIR_LOST, named,
       "the record of this version: its names, expiry, content type and metadata, as far as it had them");
  named->kept = UINT8_MAX;
  int rc = bare.version > 1 ? s->load(rp, s, bare.version - 1, &r, &parsed) : SDB_NOT_FOUND;
  if (rc != SDB_OK || memcmp(r.id, bare.id, 16) != 0) return SDB_OK;
  rc = keep_names(rp, &r, named, memory);
  if (rc != SDB_OK) {
    *memory = texts;
    return rc;
  }
  mem_free(&rp->e, texts);
  named->version = bare.version;
  named->size = bare.size;
  named->kept = UINT8_MAX;
  return SDB_OK;
}

/* Saves version `current`, which verifies, and those directly below, at most as many as it kept. *named is set when the document
 * can be told about. SDB_CONFLICT: its path belongs to another document. */
static int save(repair *rp, const struct source *s, uint32_t current, record *named, uint8_t **memory) {
  record r;
  bool parsed;
  rp->bare = false;
  int rc = s->load(rp, s, current, &r, &parsed);
  bool bare = rp->bare;
  if (rc == SDB_OK) rc = keep_names(rp, &r, named, memory);
  if (rc == SDB_OK && bare) rc = name_bare(rp, s, named, memory);
  if (rc != SDB_OK) return rc;
  uint32_t oldest = current;
  for (uint32_t most = named->kept; most > 0 && oldest > 1; most--, oldest--) {
    rc = s->load(rp, s, oldest - 1, &r, &parsed);
    if (rc == SDB_OK && memcmp(r.id, named->id, 16) != 0) rc = SDB_CORRUPT;
    if (skippable(rc) && bare) break;
    if (skippable(rc)) {
      r = *named;
      r.version = oldest - 1;
      r.size = 0;
      tell(rp, SDB_REPAIR_LOST, &r, "this older version, or what stood before it, does not verify");
      break;
    }
    if (rc != SDB_OK) return rc;
  }
  for (uint32_t v = oldest; v <= current; v++) {
    rc = s->load(rp, s, v, &r, &parsed);
    if (rc == SDB_OK) rc = build_version(rp, s->e, s->p, &r, named, (uint8_t)(v - oldest), v == oldest);
    if (rc != SDB_OK) return rc;
    rp->report.versions++;
    rp->report.bytes += r.size;
  }
  return save_names(rp, named);
}

/* --- What the database itself answers ----------------------------------------------------------------------------------------- */

static int load_from_database(repair *rp, const struct source *s, uint32_t version, record *r, bool *parsed) {
  int rc = document_version(rp->from, VIEW_HEAD, s->document, s->entry, version, r);
  *parsed = rc == SDB_OK;
  return rc == SDB_OK ? content_good(rp, s->e, s->p, r) : rc;
}

/* The log has something about the document behind the state that the database opened with: then traces decide. */
static int note_newer(repair *rp) {
  const trace *t = rp->traces.items;
  const notice *n = rp->notices.items;
  rp->done_limit = rp->from->roots.doc_limit;
  rp->done = mem_new(&rp->e, rp->done_limit / 8 + 1);
  rp->newer = mem_new(&rp->e, rp->done_limit / 8 + 1);
  if (!rp->done || !rp->newer)
    return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for %llu documents", (unsigned long long)rp->done_limit);
  for (size_t i = 0; i < rp->traces.count; i++)
    if (t[i].seen > rp->from->last_sequence && id_document(t[i].id) < rp->done_limit) bit_put(rp->newer, id_document(t[i].id));
  for (size_t i = 0; i < rp->notices.count; i++)
    if (n[i].sequence > rp->from->last_sequence && id_document(n[i].id) < rp->done_limit) bit_put(rp->newer, id_document(n[i].id));
  return SDB_OK;
}

/* The current version and all that it kept; SDB_CORRUPT and the like: not all of them. */
static int load_all(repair *rp, const struct source *s) {
  record r;
  bool parsed;
  uint32_t version = s->entry->version;
  int rc = s->load(rp, s, version, &r, &parsed);
  for (uint32_t most = rc == SDB_OK ? r.kept : 0; rc == SDB_OK && most > 0 && version > 1; most--)
    rc = s->load(rp, s, --version, &r, &parsed);
  return rc;
}

/* *answered: the database says all there is to say about the number. */
static int save_answered(repair *rp, uint64_t document, bool *answered) {
  table_entry entry;
  record named = {0};
  uint8_t *memory = NULL;
  *answered = false;
  if (bit_at(rp->newer, document)) return SDB_OK;
  int rc = table_get(rp->from->table, VIEW_HEAD, document, &entry);
  *answered = rc == SDB_NOT_FOUND;
  if (skippable(rc)) return SDB_OK;
  if (rc != SDB_OK) return rc;
  struct source s = {.e = &rp->from->e, .p = rp->from->pager, .load = load_from_database, .document = document, .entry = &entry};
  rc = load_all(rp, &s);
  if (skippable(rc)) return SDB_OK; /* perhaps another copy stands somewhere */
  if (rc == SDB_OK) rc = save(rp, &s, entry.version, &named, &memory);
  if (rc == SDB_OK) tell(rp, SDB_REPAIR_SAVED, &named, "its table entry, records and contents verify");
  if (rc == SDB_CONFLICT) tell(rp, SDB_REPAIR_LOST, &named, "its path leads to another document");
  mem_free(&rp->e, memory);
  *answered = rc == SDB_OK || rc == SDB_CONFLICT;
  return rc == SDB_CONFLICT ? SDB_OK : rc;
}

static int note_named(void *user, const uint8_t *key, size_t len, uint64_t document) {
  repair *rp = user;
  (void)key, (void)len;
  if (document < rp->done_limit) bit_put(rp->named, document);
  return SDB_OK;
}

/* Where the table is damaged, the path tree still says which documents there are, and when it is whole, which there are not. */
static int walk_names(repair *rp) {
  const tree_visitor v = {.user = rp, .entry = note_named};
  rp->named = mem_new(&rp->e, rp->done_limit / 8 + 1);
  if (!rp->named) return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for %llu documents", (unsigned long long)rp->done_limit);
  unsigned slot = pager_enter(rp->from->pager);
  int rc = tree_check(rp->from->pager, VIEW_HEAD, rp->from->roots.path_tree, &v);
  pager_leave(rp->from->pager, slot);
  rp->named_all = rc == SDB_OK;
  return rc == SDB_NO_MEMORY ? rc : SDB_OK;
}

static int save_from_database(repair *rp, bool *all) {
  *all = !rp->log_wanted;
  int rc = note_newer(rp);
  if (rc != SDB_OK) return rc;
  unsigned slot = pager_enter(rp->from->pager);
  for (uint64_t d = 1; rc == SDB_OK && d < rp->done_limit; d++) {
    bool answered;
    rc = save_answered(rp, d, &answered);
    if (answered) bit_put(rp->done, d);
    *all = *all && answered;
    if (d % 256 == 0) {
      pager_leave(rp->from->pager, slot);
      slot = pager_enter(rp->from->pager);
    }
  }
  pager_leave(rp->from->pager, slot);
  return rc == SDB_OK && !*all ? walk_names(rp) : rc;
}

/* --- Table pages by themselves ------------------------------------------------------------------------------------------------ */

/* A table page whose documents are known. */
typedef struct table_page {
  uint64_t index, checkpoint; /* it stands for documents index * T ... */
  uint64_t reflected;         /* commits up to this one are in it; perhaps later ones too */
  uint32_t physical;
} table_page;

static uint32_t table_entries(const repair *rp) { return (rp->g.page_size - PAGE_HEADER) / 16; }

static int by_number(const void *a, const void *b) {
  const unit *x = a, *y = b;
  if (x->number != y->number) return x->number < y->number ? -1 : 1;
  if (x->checkpoint != y->checkpoint) return x->checkpoint > y->checkpoint ? -1 : 1;
  return x->physical < y->physical ? -1 : x->physical > y->physical;
}

/* The newest copy of every logical page is what counts; the others go. Where that one is damaged, what is older proves nothing. */
static void newest_units(repair *rp) {
  unit *u = rp->units.items, spare;
  size_t kept = 0;
  sort(u, rp->units.count, sizeof *u, by_number, (uint8_t *)&spare);
  for (size_t i = 0; i < rp->units.count; i++)
    if (kept == 0 || u[kept - 1].number != u[i].number) u[kept++] = u[i];
  rp->units.count = kept;
}

static const unit *unit_find(const repair *rp, uint32_t number) {
  const unit *u = rp->units.items;
  size_t low = 0, high = rp->units.count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (u[middle].number < number) low = middle + 1;
    else high = middle;
  }
  return low < rp->units.count && u[low].number == number ? &u[low] : NULL;
}

/* The place in a table entry; its highest bits say something else. */
static uint64_t place_in(const uint8_t *entry) { return get48(entry) & ((1ull << 45) - 1); }

/* Heap traces were found in the order of their places and stand together. */
static trace *trace_at(const repair *rp, size_t first, size_t end, uint64_t place) {
  const unit *u = unit_find(rp, place_page(place));
  trace *t = rp->traces.items;
  if (!place || !u || u->bad || u->kind != PAGE_HEAP) return NULL;
  while (first < end) {
    size_t middle = (first + end) / 2;
    if (t[middle].page < u->physical || (t[middle].page == u->physical && t[middle].offset < place_offset(place)))
      first = middle + 1;
    else end = middle;
  }
  return first < rp->traces.count && t[first].from == FROM_HEAP && t[first].page == u->physical &&
                 t[first].offset == place_offset(place)
             ? &t[first]
             : NULL;
}

/* Which documents a table page stands for: what most of the records say that it points at. */
static bool table_index(const repair *rp, const uint8_t *page, size_t first, size_t end, uint64_t *index) {
  uint32_t entries = table_entries(rp), votes = 0;
  for (uint32_t i = 0; i < entries; i++) {
    const uint8_t *at = page + PAGE_HEADER + 16 * (size_t)i;
    const trace *t = trace_at(rp, first, end, place_in(at));
    if (!t || id_document(t->id) % entries != i) continue;
    uint64_t says = id_document(t->id) / entries;
    if (votes == 0) *index = says;
    votes += says == *index ? 1 : UINT32_MAX;
  }
  return votes > 0;
}

/* What the page points at is known to be current up to the checkpoint that the page was written for. */
static void mark_live(const repair *rp, const uint8_t *page, size_t first, size_t end) {
  uint32_t entries = table_entries(rp);
  for (uint32_t i = 0; i < 2 * entries; i++) {
    const uint8_t *at = page + PAGE_HEADER + 16 * (size_t)(i / 2) + 6 * (size_t)(i % 2);
    trace *t = trace_at(rp, first, end, place_in(at));
    if (!t || id_document(t->id) % entries != i / 2) continue;
    t->live = true;
    if (t->seen < get64(page + 16)) t->seen = get64(page + 16);
  }
}

static int by_index(const void *a, const void *b) {
  const table_page *x = a, *y = b;
  if (x->index != y->index) return x->index < y->index ? -1 : 1;
  return x->checkpoint > y->checkpoint ? -1 : x->checkpoint < y->checkpoint;
}

static int find_tables(repair *rp, size_t first, size_t end) {
  const unit *u = rp->units.items;
  for (size_t i = 0; i < rp->units.count; i++) {
    uint64_t index = 0;
    uint8_t *page = rp->bytes;
    if (u[i].kind != PAGE_TABLE || u[i].bad) continue;
    if (page_load(rp, u[i].physical, page) != SDB_OK) continue;
    if (!table_index(rp, page, first, end, &index)) continue;
    mark_live(rp, page, first, end);
    table_page *t = list_add(rp, &rp->tables, sizeof *t);
    if (!t) return SDB_NO_MEMORY;
    *t = (table_page){.index = index, .checkpoint = u[i].checkpoint, .physical = u[i].physical};
  }
  table_page spare;
  sort(rp->tables.items, rp->tables.count, sizeof spare, by_index, (uint8_t *)&spare);
  return SDB_OK;
}

/* The newest table page that stands for the document; NULL: none was found. */
static table_page *table_of(const repair *rp, uint64_t document) {
  uint64_t index = document / table_entries(rp);
  table_page *t = rp->tables.items;
  size_t low = 0, high = rp->tables.count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (t[middle].index < index) low = middle + 1;
    else high = middle;
  }
  return low < rp->tables.count && t[low].index == index ? &t[low] : NULL;
}

/* --- Choosing ----------------------------------------------------------------------------------------------------------------- */

/* By document number; of one number the document made last first (an id begins with its time); of one document the highest version
 * first; of one version what the table points at first, then what is sure and new. */
static int by_document(const void *a, const void *b) {
  const trace *x = a, *y = b;
  uint64_t dx = id_document(x->id), dy = id_document(y->id);
  if (dx != dy) return dx < dy ? -1 : 1;
  int ids = memcmp(y->id, x->id, 16);
  if (ids) return ids;
  if (x->version != y->version) return x->version > y->version ? -1 : 1;
  if (x->live != y->live) return x->live ? -1 : 1;
  if ((x->from == FROM_EXTENT) != (y->from == FROM_EXTENT)) return x->from == FROM_EXTENT ? 1 : -1;
  if (x->loose != y->loose) return x->loose ? 1 : -1;
  if (x->from != y->from) return (int)x->from - (int)y->from;
  if (x->seen != y->seen) return x->seen > y->seen ? -1 : 1;
  /* One version written again with other names: behind the first in one page; else a name too many is better than one lost. */
  if (x->page == y->page) return x->offset > y->offset ? -1 : x->offset < y->offset;
  return (int)y->names - (int)x->names;
}

static int by_id(const void *a, const void *b) {
  const notice *x = a, *y = b;
  int ids = memcmp(x->id, y->id, 16);
  return ids ? ids : x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static const notice *notices_of(const repair *rp, const uint8_t id[16], size_t *count) {
  const notice *n = rp->notices.items;
  size_t low = 0, high = rp->notices.count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (memcmp(n[middle].id, id, 16) < 0) low = middle + 1;
    else high = middle;
  }
  *count = 0;
  while (low + *count < rp->notices.count && memcmp(n[low + *count].id, id, 16) == 0) ++*count;
  return n + low;
}

static bool deleted(const repair *rp, const uint8_t id[16]) {
  size_t count;
  const notice *n = notices_of(rp, id, &count);
  for (size_t i = 0; i < count; i++)
    if (n[i].op == OP_DELETE) return true;
  return false;
}

/* The version that a table page has for the document; 0: none. The page is read again when it is another than the last time. */
static uint32_t table_version(repair *rp, const table_page *page, uint64_t document) {
  if (rp->table_loaded != page->physical && page_load(rp, page->physical, rp->table) != SDB_OK) {
    rp->table_loaded = 0;
    return 0;
  }
  rp->table_loaded = page->physical;
  return get32(rp->table + PAGE_HEADER + 16 * (document % table_entries(rp)) + 12);
}

/* The version that the database or a table page says is the current one; 0: none, or nobody knows. */
static uint32_t known_version(repair *rp, uint64_t document) {
  table_entry entry;
  const table_page *page = table_of(rp, document);
  if (rp->from) {
    unsigned slot = pager_enter(rp->from->pager);
    int rc = table_get(rp->from->table, VIEW_HEAD, document, &entry);
    pager_leave(rp->from->pager, slot);
    if (rc == SDB_OK) return entry.version;
  }
  return page ? table_version(rp, page, document) : 0;
}

/* Old segments of the log stay for a while. Where a table page points at what a log record made, it has all that came before. */
static void note_reflected(const repair *rp) {
  const trace *t = rp->traces.items, *live = NULL;
  for (size_t i = 0; i < rp->traces.count; i++) {
    if (!live || memcmp(live->id, t[i].id, 16) != 0) live = NULL;
    if (!live && t[i].live) live = &t[i];
    table_page *page = live && t[i].from == FROM_LOG ? table_of(rp, id_document(t[i].id)) : NULL;
    if (page && t[i].seen > page->reflected) page->reflected = t[i].seen;
  }
  for (size_t i = 0; rp->has_header && i < rp->tables.count; i++)
    ((table_page *)rp->tables.items)[i].reflected = rp->head.roots.sequence;
}

/* Does anybody vouch for the document, and is it sure that it is gone? `t`: its traces. */
static void judge_traces(repair *rp, const trace *t, size_t count, bool *vouched, bool *gone) {
  uint64_t document = id_document(t->id);
  const table_page *page = table_of(rp, document);
  bool newer = false;
  *vouched = known_version(rp, document) != 0; /* the record it means may be lost: an older one is all there is */
  for (size_t i = 0; i < count; i++) {
    bool logged = t[i].from == FROM_LOG && (page ? t[i].seen > page->reflected : !rp->from || t[i].seen > rp->from->last_sequence);
    *vouched |= t[i].live || (logged && (rp->from || rp->has_header));
    newer |= logged || (page && t[i].from == FROM_HEAP && t[i].seen > page->checkpoint);
  }
  if (page && table_version(rp, page, document))
    *vouched = true; /* the record it means may be lost: an older one is all there is */
  bool asked = document < rp->done_limit && rp->named;
  *vouched |= asked && bit_at(rp->named, document);
  *gone = deleted(rp, t->id) || ((page || (asked && rp->named_all)) && !*vouched && !newer);
}

static int choose(repair *rp, list *choices) {
  const trace *t = rp->traces.items;
  for (size_t i = 0, next; i < rp->traces.count; i = next) {
    uint64_t document = id_document(t[i].id);
    bool chosen = document == 0 || (document < rp->done_limit && bit_at(rp->done, document));
    for (next = i; next < rp->traces.count && id_document(t[next].id) == document;) {
      size_t first = next;
      bool vouched, gone;
      while (next < rp->traces.count && memcmp(t[next].id, t[first].id, 16) == 0) next++;
      if (chosen) continue;
      judge_traces(rp, t + first, next - first, &vouched, &gone);
      if (gone) continue;
      choice *c = list_add(rp, choices, sizeof *c);
      if (!c) return SDB_NO_MEMORY;
      *c = (choice){.time_ms = t[first].time_ms, .first = first, .vouched = vouched};
      chosen = true; /* one that had the number before is certainly gone */
    }
  }
  return SDB_OK;
}

static int by_trust(const void *a, const void *b) {
  const choice *x = a, *y = b;
  if (x->vouched != y->vouched) return x->vouched ? -1 : 1;
  if (x->time_ms != y->time_ms) return x->time_ms > y->time_ms ? -1 : 1;
  return x->first < y->first ? -1 : x->first > y->first;
}

/* --- Saving from traces ------------------------------------------------------------------------------------------------------- */

/* The first trace of the version that verifies, content included, so that a bad copy does not hide a good one. */
static int load_from_traces(repair *rp, const struct source *s, uint32_t version, record *r, bool *parsed) {
  int rc = SDB_NOT_FOUND;
  *parsed = false;
  for (size_t i = 0; i < s->count; i++) {
    if (s->traces[i].version != version) continue;
    rc = trace_load(rp, &s->traces[i], r);
    *parsed = rc == SDB_OK;
    rp->bare = s->traces[i].from == FROM_EXTENT;
    if (rc == SDB_OK) rc = content_good(rp, s->e, s->p, r);
    if (rc == SDB_OK || !skippable(rc)) return rc;
  }
  return rc;
}

/* The highest version that verifies, 0: none. What is higher than the table's and not newer than its page was lost in a crash,
 * before the version that counts was made. Those that do not verify are told. */
static int highest_version(repair *rp, const struct source *s, uint32_t *version) {
  const table_page *page = table_of(rp, s->document);
  uint32_t known = known_version(rp, s->document);
  uint64_t up_to = rp->from ? rp->head.checkpoint : page ? page->checkpoint : 0;
  *version = 0;
  for (size_t i = 0; i < s->count; i++) {
    const trace *t = &s->traces[i];
    record r;
    bool parsed;
    if (i > 0 && t->version == t[-1].version) continue;
    if (known && t->version > known && t->from == FROM_HEAP && t->seen <= up_to) continue;
    int rc = load_from_traces(rp, s, t->version, &r, &parsed);
    if (rc == SDB_OK) *version = t->version;
    if (rc == SDB_OK || !skippable(rc)) return rc;
    if (parsed) tell(rp, SDB_REPAIR_LOST, &r, "the content of this version does not verify");
  }
  return SDB_OK;
}

/* The one name that a bind or unbind is about. */
static bool name_of(repair *rp, const notice *n, uint8_t name[SDB_MAX_PATH], size_t *len) {
  const uint8_t *body;
  if ((n->op != OP_BIND && n->op != OP_UNBIND) || n->len < OP_NAMES_HEAD + 3) return false;
  *len = n->len - OP_NAMES_HEAD - 2;
  if (*len > SDB_MAX_PATH || log_load(rp, n->at, n->len, &body) != SDB_OK) return false;
  if (get16(body + OP_NAMES_HEAD) != *len) return false;
  memcpy(name, body + OP_NAMES_HEAD + 2, *len);
  return true;
}

/* Names that came behind the record, as far as the log has them: one that went again later is left out. */
static int follow_names(repair *rp, const record *named) {
  uint8_t name[SDB_MAX_PATH], later[SDB_MAX_PATH];
  size_t count, len, later_len;
  const notice *n = notices_of(rp, named->id, &count);
  for (size_t i = 0; i < count; i++) {
    if (n[i].op != OP_BIND || !name_of(rp, &n[i], name, &len)) continue;
    bool gone = false;
    for (size_t k = i + 1; k < count && !gone; k++)
      gone = n[k].op == OP_UNBIND && name_of(rp, &n[k], later, &later_len) && later_len == len && memcmp(name, later, len) == 0;
    int rc = gone ? SDB_OK : build_name(rp, named->id, named->version, name, len);
    if (rc != SDB_OK && rc != SDB_CONFLICT) return rc;
  }
  return SDB_OK;
}

static int save_choice(repair *rp, const choice *c) {
  const trace *all = rp->traces.items;
  record named = {0};
  uint8_t *memory = NULL;
  struct source s = {.e = &rp->e, .p = rp->raw, .load = load_from_traces, .traces = all + c->first};
  s.document = id_document(s.traces->id);
  while (c->first + s.count < rp->traces.count && memcmp(all[c->first + s.count].id, s.traces->id, 16) == 0) s.count++;
  uint32_t current;
  int rc = highest_version(rp, &s, &current);
  if (rc == SDB_OK) rc = current ? save(rp, &s, current, &named, &memory) : SDB_NOT_FOUND;
  if (rc == SDB_OK) rc = follow_names(rp, &named);
  if (rc == SDB_OK) {
    uint32_t known = known_version(rp, s.document);
    if (known > current) tell_number(rp, s.document, known, "the table has this version, but no record of it verifies");
    tell(rp, SDB_REPAIR_SAVED, &named,
         c->vouched ? "the table or the log names its record" : "found in a page that nobody vouches for");
    if (!c->vouched) tell(rp, SDB_REPAIR_DOUBTFUL, &named, "possibly deleted: what could say so is lost");
  } else if (rc == SDB_CONFLICT) {
    tell(rp, SDB_REPAIR_DOUBTFUL, &named, "possibly deleted: its path belongs to another document, which is newer");
    rc = SDB_OK;
  } else if (rc == SDB_NOT_FOUND) {
    tell_number(rp, s.document, s.traces->version, "no version of the document verifies");
    rc = SDB_OK;
  }
  mem_free(&rp->e, memory);
  return rc;
}

/* What a table has, and nothing was found of. Traces are sorted by document. */
static void tell_missing(repair *rp) {
  const trace *t = rp->traces.items;
  const table_page *page = rp->tables.items;
  size_t i = 0;
  uint64_t limit = rp->done_limit;
  for (size_t k = 0; k < rp->tables.count; k++)
    if ((page[k].index + 1) * table_entries(rp) > limit) limit = (page[k].index + 1) * table_entries(rp);
  for (uint64_t d = 1; d < limit; d++) {
    if (d < rp->done_limit && bit_at(rp->done, d)) continue;
    while (i < rp->traces.count && id_document(t[i].id) < d) i++;
    if (i < rp->traces.count && id_document(t[i].id) == d) continue;
    uint32_t version = known_version(rp, d);
    if (version) tell_number(rp, d, version, "the table has the document, but no record of it verifies");
  }
}

static int save_traces(repair *rp) {
  list choices = {0};
  trace trace_spare;
  choice choice_spare;
  notice notice_spare;
  size_t first = 0, end;
  trace *t = rp->traces.items;
  while (first < rp->traces.count && t[first].from != FROM_HEAP) first++;
  for (end = first; end < rp->traces.count && t[end].from == FROM_HEAP;) end++;
  newest_units(rp);
  int rc = find_tables(rp, first, end);
  if (rc == SDB_OK) {
    sort(rp->traces.items, rp->traces.count, sizeof trace_spare, by_document, (uint8_t *)&trace_spare);
    sort(rp->notices.items, rp->notices.count, sizeof notice_spare, by_id, (uint8_t *)&notice_spare);
    note_reflected(rp);
    rc = choose(rp, &choices);
  }
  if (rc == SDB_OK) sort(choices.items, choices.count, sizeof choice_spare, by_trust, (uint8_t *)&choice_spare);
  for (size_t i = 0; rc == SDB_OK && i < choices.count; i++) rc = save_choice(rp, (const choice *)choices.items + i);
  if (rc == SDB_OK) tell_missing(rp);
  mem_free(&rp->e, choices.items);
  return rc;
}

/* --- Beginning and end -------------------------------------------------------------------------------------------------------- */

/* Without a header: the page size under which most pages verify, of a part of the file at its beginning, middle and end. */
static int probe_page_size(repair *rp) {
  enum { WANTED = 32, MOST = 65536 };
  uint32_t best = 0, best_count = 0;
  for (uint32_t size = 4096; size <= MOST; size *= 2) {
    uint32_t count = 0;
    for (uint64_t at = 0; at + size <= rp->size && count < WANTED; at += size) {
      uint8_t *page = rp->buffer;
      if (rp->e.storage->read(rp->file, at, page, size) != SDB_OK) continue;
      uint8_t kind = page_kind(page);
      if (kind < PAGE_INNER || kind > PAGE_HEAP || page_fill(page) > size) continue;
      count += unit_valid(page, size, page_number(page));
    }
    if (count > best_count) best = size, best_count = count;
  }
  if (!best)
    return env_fail(&rp->e, SDB_NOT_A_DATABASE, "no header slot and no page of %s verifies: there is nothing to save", rp->name);
  geometry_init(&rp->g, best);
  return SDB_OK;
}

/* The key is wrapped in every slot and every log segment. */
static int open_raw(repair *rp) {
  header h = rp->head;
  uint64_t pages = rp->size >> rp->g.page_bits, most = (uint64_t)MAX_GROUPS << rp->g.group_shift;
  const sdb_options *o = &rp->options;
  const pager_config config = {.cache_pages = 64,
                               .read_only = true,
                               .key = o->recovery_key ? o->recovery_key : o->encryption_key,
                               .recovery = o->recovery_key != NULL};
  rp->pages = (uint32_t)(pages < most ? pages : most);
  h.page_size = rp->g.page_size;
  h.pages_total = rp->pages;
  if (!rp->has_header) {
    int rc = log_identity(rp, &h);
    if (rc != SDB_OK) return rc;
    if (config.key && !h.encrypted)
      return env_fail(&rp->e, SDB_WRONG_KEY,
                      "a key was given, but neither header slots nor log have it wrapped: without them nothing can be "
                      "decrypted; if the database is not encrypted, leave the key away");
  }
  if (h.encrypted && !o->encryption_key)
    return env_fail(&rp->e, SDB_WRONG_KEY, "the database is encrypted; repair needs its encryption_key, for the new database too");
  return pager_raw(&rp->e, rp->file, &config, &h, &rp->raw);
}

static int open_damaged(repair *rp) {
  const sdb_storage *st = rp->e.storage;
  image im;
  char text[256] = "";
  sdb_options o = rp->options;
  int rc = st->open(st->ctx, rp->name, SDB_OPEN_READ, &rp->file);
  if (rc != SDB_OK) return env_fail(&rp->e, rc, "cannot open %s: %s", rp->name, sdb_strerror(rc));
  rc = st->lock(rp->file, false);
  if (rc != SDB_OK) return env_fail(&rp->e, rc, "%s is in use by another process or handle", rp->name);
  rc = image_open(&rp->e, rp->file, &im);
  if (rc == SDB_IO) return rc;
  rp->size = im.size;
  rp->has_header = rc == SDB_OK;
  if (rc == SDB_UNSUPPORTED) return rc;
  if (rp->has_header) {
    rp->head = im.head;
    rp->g = im.g;
    rp->sequence = im.head.roots.sequence;
  }
  rc = rp->has_header ? SDB_OK : probe_page_size(rp);
  if (rc == SDB_OK) rc = open_raw(rp);
  if (rc != SDB_OK || !rp->has_header) return rc;
  o.read_only = true;
  o.create = false;
  o.threads = false;
  o.message = text;
  o.message_size = sizeof text;
  rc = sdb_open(rp->name, &o, &rp->from);
  if (rc != SDB_OK) rp->from = NULL;
  if (rp->from && rp->from->behind.operations) { /* traces tell better than a state from which something was left out */
    (void)sdb_close(rp->from);
    rp->from = NULL;
  }
  return rc == SDB_NO_MEMORY ? env_fail(&rp->e, rc, "%s", text) : SDB_OK;
}

static int save_all(repair *rp) {
  bool all = false;
  rp->log_wanted = !rp->from || rp->from->log_damaged;
  int rc = rp->log_wanted ? scan_log(rp) : SDB_OK;
  if (rc == SDB_OK && rp->from) {
    if (rp->from->last_sequence > rp->sequence) rp->sequence = rp->from->last_sequence;
    rc = save_from_database(rp, &all);
  }
  if (rc != SDB_OK || all) return rc;
  if (!rp->log_wanted && rp->from->recovered) rc = scan_log(rp); /* the only place of what was replayed, but for memory */
  if (rc != SDB_OK) return rc;
  rp->owned = mem_new(&rp->e, rp->pages / 8 + 1);
  if (!rp->owned) return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for a repair");
  rc = scan_pages(rp);
  return rc == SDB_OK ? save_traces(rp) : rc;
}

static void release(repair *rp) {
  if (rp->from) (void)sdb_close(rp->from);
  if (rp->to) (void)sdb_close(rp->to);
  pager_close(rp->raw);
  if (rp->file) rp->e.storage->close(rp->file);
  mem_free(&rp->e, rp->traces.items);
  mem_free(&rp->e, rp->units.items);
  mem_free(&rp->e, rp->notices.items);
  mem_free(&rp->e, rp->tables.items);
  mem_free(&rp->e, rp->owned);
  mem_free(&rp->e, rp->done);
  mem_free(&rp->e, rp->newer);
  mem_free(&rp->e, rp->named);
  mem_free(&rp->e, rp->buffer);
  mem_free(&rp->e, rp->bytes);
  mem_free(&rp->e, rp->content);
  mem_free(&rp->e, rp->table);
}

static int run_repair(repair *rp, const char *destination, const char *fresh) {
  const sdb_storage *st = rp->e.storage;
  rp->buffer = mem_alloc(&rp->e, REPAIR_BUFFER);
  rp->bytes = mem_alloc(&rp->e, REPAIR_BYTES);
  rp->content = mem_alloc(&rp->e, REPAIR_CONTENT);
  rp->table = mem_alloc(&rp->e, 65536);
  if (!rp->buffer || !rp->bytes || !rp->content || !rp->table) return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for a repair");
  int rc = open_damaged(rp);
  if (rc == SDB_OK) rc = build_begin(rp, fresh);
  if (rc == SDB_OK) rc = save_all(rp);
  if (rc == SDB_OK) rc = build_end(rp);
  if (rc == SDB_OK) rc = st->rename(st->ctx, fresh, destination);
  if (rc == SDB_OK) rc = st->sync_dir(st->ctx, destination);
  rp->report.page_size = rp->g.page_size;
  rp->report.header_found = rp->has_header;
  rp->report.opened = rp->from != NULL;
  return rc;
}

int sdb_repair(const char *damaged, const char *destination, const sdb_options *options,
               void (*item)(void *user, const sdb_repair_item *item), void *user, sdb_repair_report *report) {
  sdb_options o;
  sdb_options_init(&o);
  if (options && options->size != sizeof o) return SDB_INVALID;
  if (options) o = *options;
  repair rp = {.name = damaged, .options = o, .item = item, .user = user, .report = {.size = sizeof rp.report}};
  sdb_storage calls;
  const char *wrong = o.storage ? storage_wrong(o.storage) : NULL;
  storage_adopt(&calls, o.storage && !wrong ? o.storage : sdb_storage_file());
  rp.e.storage = &calls;
  if (!damaged || !*damaged || !destination || !*destination || (report && report->size != sizeof *report))
    wrong = "repair needs the names of a damaged file and of a new one, and the report's size set";
  mutex_init(&rp.e.message_lock);
  int rc = wrong ? env_fail(&rp.e, SDB_INVALID, "%s", wrong) : copy_destination_free(&rp.e, destination);
  size_t len = rc == SDB_OK ? strlen(destination) + 8 : 0;
  char *fresh = rc == SDB_OK ? mem_alloc(&rp.e, len) : NULL;
  if (rc == SDB_OK && !fresh) rc = env_fail(&rp.e, SDB_NO_MEMORY, "out of memory for a repair");
  if (rc == SDB_OK) {
    snprintf(fresh, len, "%s.new", destination);
    rc = run_repair(&rp, destination, fresh);
    release(&rp);
    if (rc != SDB_OK) rp.e.storage->remove(rp.e.storage->ctx, fresh);
  }
  if (rc == SDB_OK && report) *report = rp.report;
  if (rc != SDB_OK && o.message && o.message_size) snprintf(o.message, o.message_size, "%s", rp.e.message);
  mem_free(&rp.e, fresh);
  mutex_destroy(&rp.e.message_lock);
  return rc;
}
