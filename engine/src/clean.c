/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* clean.c - moves what lives in sparse heap pages together, so that those pages are free: as much as new garbage asks for.
 *
 *     look    all heap pages, by how much of each is live: which must go, the emptiest first, to bring the garbage down?
 *     move    one page after the other: records go to the open page, table entries follow, the page is free
 *
 * Garbage is the room of heap pages that is not live. Above a quarter of what lives a round begins, in the background; it ends at a
 * fifth. Above half of it the background does not keep up, and each commit cleans some pages, the more the further above: so the
 * space of the heap is bounded by what lives, whatever the rate of writing. What is nearly dead is cheapest to move, and what is
 * not needed to reach the aim is left to die by itself.
 *
 * A page is sparse below two thirds: then the bound of one half can be kept whatever is written. With records of a third of a page
 * and more that may be in vain, because what is moved leaves as much room unused as before; a round that gained hardly anything
 * says so, and from then on a page is sparse below one half: any two records that leave such pages fit into one.
 */
#include "db.h"

enum {
  WORDS = 1024,
  SLACK_PAGES = 8,
  DEBT_PAGES = 64,
  MOST = 2 * HEAP_CLASSES / 3,
  HALF = HEAP_CLASSES / 2,
  FIRST = HEAP_CLASSES / 3
};

static uint32_t room(const sdb *db) { return page_size(db->pager) - PAGE_HEADER; }

static uint64_t garbage(const sdb *db) {
  uint64_t usable = db->roots.heap_pages * room(db);
  return usable > db->roots.heap_live ? usable - db->roots.heap_live : 0;
}

/* By how much the garbage is above a part of what lives, and above what the last whole round had to leave. */
static uint64_t above(const sdb *db, uint64_t part, uint32_t slack_pages) {
  uint64_t left = db->cleaner.left + db->roots.heap_live / 16, bound = part > left ? part : left, now = garbage(db);
  bound += (uint64_t)slack_pages * page_size(db->pager);
  return now > bound ? now - bound : 0;
}

bool clean_possible(const sdb *db) {
  uint64_t bound = pager_refused(db->pager) ? 0 : db->roots.heap_live / 4; /* a full file has no room for any */
  return garbage(db) > bound + SLACK_PAGES * (uint64_t)page_size(db->pager) && db->cleaner.futile != db->last_sequence;
}

bool clean_wanted(sdb *db) {
  if (garbage(db) < db->cleaner.left) db->cleaner.left = garbage(db);
  return above(db, db->roots.heap_live / 4, SLACK_PAGES) > 0;
}

bool clean_running(const sdb *db) { return db->cleaner.phase != CLEAN_REST; }

unsigned clean_debt(sdb *db) {
  uint64_t pages = above(db, db->roots.heap_live / 2, DEBT_PAGES) / page_size(db->pager);
  if (!pages) return 0;
  if (!clean_running(db)) clean_begin(db, false);
  return pages / 8 < DEBT_PAGES ? 1 + (unsigned)pages / 8 : DEBT_PAGES;
}

/* Through all pages that there are: those that are filled on the way are not looked at again, so that every pass ends. */
static void pass_begin(sdb *db, unsigned phase) {
  db->cleaner.phase = phase;
  db->cleaner.cursor = 1;
  db->cleaner.end = pager_logical_limit(db->pager);
}

void clean_begin(sdb *db, bool all) {
  struct cleaner *c = &db->cleaner;
  if (clean_running(db) && (c->all || !all)) return;
  if (!c->most) c->most = MOST;
  pass_begin(db, all ? CLEAN_MOVE : CLEAN_LOOK);
  c->all = all;
  c->below = FIRST;
  c->emptied = c->opened = 0;
  memset(c->dead, 0, sizeof c->dead);
}

/* --- A page ------------------------------------------------------------------------------------------------------------------- */

struct move {
  sdb *db;
  const uint8_t *page;
  uint32_t number;
  unsigned slot;
  bool damaged;     /* the page does not match its checksum */
  uint8_t *content; /* of its records, to be checked */
};

/* The older version at `place` is reached from the record two versions behind it, if that one is still read: `from`. */
static int find_newer(sdb *db, uint64_t document, const table_entry *entry, const record *r, uint64_t place, uint64_t *from) {
  record current, newer;
  *from = 0;
  if (!entry->previous || r->version + 1 >= entry->version) return SDB_OK;
  int rc = document_version(db, VIEW_HEAD, document, entry, SDB_CURRENT, &current);
  if (rc == SDB_OK && r->version < document_oldest(entry, &current)) return SDB_OK;
  if (rc == SDB_OK) rc = document_place(db, VIEW_HEAD, document, entry, r->version + 2, from);
  if (rc == SDB_OK) rc = heap_read(&db->e, db->pager, VIEW_HEAD, *from, &newer);
  if (rc == SDB_OK && (!(newer.flags & RECORD_OLDER) || newer.older != place)) *from = 0;
  return rc;
}

/* The one change that a record in the heap ever sees: where the older version behind it stands. `to` 0: only makes sure that it can
 * be done, before anything else touches the page. */
static int redirect(sdb *db, uint64_t from, uint64_t to) {
  uint8_t *page;
  record r;
  int rc = page_write(db->pager, place_page(from), &page);
  if (rc == SDB_OK) rc = record_parse(&r, page + place_offset(from), page_size(db->pager) - place_offset(from));
  if (rc == SDB_OK && to) record_set_older(page + place_offset(from), &r, to);
  return rc;
}

static int source_read(struct move *m) {
  int rc = page_read_kind(m->db->pager, VIEW_HEAD, m->number, PAGE_HEAP, &m->page);
  m->damaged = rc == SDB_CORRUPT;
  return m->damaged ? page_read_damaged(m->db->pager, VIEW_HEAD, m->number, &m->page) : rc;
}

/* On a damaged page a record that verifies may have a content that does not: then it stays. */
static int content_judge(struct move *m, const record *r) {
  if (!m->damaged || r->flags & RECORD_LARGE) return SDB_OK;
  return content_unpack(m->db, r, true, m->content);
}

/* Do table and records still lead to the record? Its document's entry, and, where that names neither of its places, `from`.
 * SDB_NOT_FOUND: it is dead. SDB_CORRUPT: nobody knows. */
static int living(sdb *db, uint64_t place, const record *r, table_entry *entry, uint64_t *from) {
  uint64_t document = id_document(r->id);
  *from = 0;
  int rc = table_get(db->table, VIEW_HEAD, document, entry);
  if (rc != SDB_OK || entry->current == place || entry->previous == place) return rc;
  rc = find_newer(db, document, entry, r, place, from);
  if (rc == SDB_NOT_FOUND) return SDB_CORRUPT;
  return rc == SDB_OK && !*from ? SDB_NOT_FOUND : rc;
}

static int move_record(void *user, uint32_t offset, const record *r) {
  struct move *m = user;
  sdb *db = m->db;
  table_entry entry;
  uint64_t document = id_document(r->id), place = place_make(m->number, offset), to, from;
  uint8_t *bytes, *at = NULL;
  int rc = living(db, place, r, &entry, &from);
  if (rc == SDB_NOT_FOUND || rc == SDB_CORRUPT) return SDB_OK; /* dead, or nobody knows: then it counts and keeps the page */
  bool named = !from;
  if (rc == SDB_OK && content_judge(m, r) != SDB_OK) return SDB_OK;
  if (rc == SDB_OK && named) rc = table_touch(db->table, document, &at);
  if (rc == SDB_OK && from) rc = redirect(db, from, 0);
  if (rc == SDB_OK) rc = heap_room(db->pager, &db->roots, r->total, &to, &bytes);
  if (rc == SDB_OK) rc = source_read(m); /* as it is now: redirected records may be in it */
  if (rc == SDB_OK) memcpy(bytes, m->page + offset, r->total);
  if (rc == SDB_OK) rc = trusted(db, m->slot, SDB_OK);
  if (rc == SDB_OK && from) rc = redirect(db, from, to);
  if (rc != SDB_OK) return rc;
  heap_commit(db->pager, &db->roots, to, r->total);
  if (entry.current == place) entry.current = to;
  else if (named) entry.previous = to;
  if (named) table_set(at, &entry);
  heap_drop(db->pager, &db->roots, place, r->total);
  return SDB_OK;
}

/* Places only: nothing of it is in the log. */
int clean_page(sdb *db, unsigned slot, uint32_t number) {
  struct move m = {.db = db, .number = number, .slot = slot};
  uint64_t before = db->roots.heap_pages;
  if (number == db->roots.heap_page) return SDB_OK;
  int rc = collect(db, UINT32_MAX); /* a dead record of a large document must give its runs back before the page goes */
  if (rc == SDB_OK && dropped_in(db, number)) return SDB_OK;
  if (rc == SDB_OK) rc = pager_admit_moving(db->pager, page_size(db->pager) / 16, 8);
  if (rc == SDB_OK) rc = source_read(&m);
  if (rc == SDB_OK && m.damaged && !(m.content = mem_alloc(&db->e, SDB_CHUNK)))
    rc = env_fail(&db->e, SDB_NO_MEMORY, "out of memory for emptying a damaged page");
  uint32_t end = rc == SDB_OK && !m.damaged ? page_fill(m.page) : page_size(db->pager);
  if (rc == SDB_OK) rc = heap_walk(m.page, end < page_size(db->pager) ? end : page_size(db->pager), move_record, &m);
  mem_free(&db->e, m.content);
  note_unlogged(db);
  db->cleaner.opened += (uint32_t)(db->roots.heap_pages - before);
  if (rc == SDB_OK && pager_live(db->pager, number) == 0) {
    rc = page_free(db->pager, number);
    if (rc == SDB_OK) db->roots.heap_pages--, db->cleaner.emptied++;
  }
  return rc == SDB_CORRUPT || rc == SDB_NOT_FOUND || rc == SDB_INVALID ? SDB_OK
                                                                       : rc; /* a damaged page stays where it is, for repair */
}

struct count {
  sdb *db;
  uint32_t number, live;
  bool doubt;
};

static int count_record(void *user, uint32_t offset, const record *r) {
  struct count *c = user;
  table_entry entry;
  uint64_t from;
  int rc = living(c->db, place_make(c->number, offset), r, &entry, &from);
  if (rc == SDB_OK) c->live += r->total;
  if (rc == SDB_CORRUPT) c->doubt = true;
  return rc == SDB_NOT_FOUND || rc == SDB_CORRUPT ? SDB_OK : rc;
}

int clean_count(sdb *db, unsigned slot, uint32_t number) {
  struct count c = {.db = db, .number = number};
  const uint8_t *page;
  int rc = collect(db, UINT32_MAX);
  if (rc == SDB_OK && dropped_in(db, number)) rc = SDB_IO;
  if (rc == SDB_OK) rc = page_read_kind(db->pager, VIEW_HEAD, number, PAGE_HEAP, &page);
  if (rc == SDB_OK) rc = heap_walk(page, page_fill(page), count_record, &c);
  rc = trusted(db, slot, rc); /* what was read as zeros is dead for nobody */
  uint32_t counted = pager_live(db->pager, number);
  if (rc != SDB_OK || c.doubt || c.live >= counted) return rc;
  heap_drop(db->pager, &db->roots, place_make(number, PAGE_HEADER), counted - c.live);
  note_unlogged(db);
  return SDB_OK;
}

/* --- Rounds ------------------------------------------------------------------------------------------------------------------- */

static bool reached(const sdb *db) { return !db->cleaner.all && garbage(db) <= db->roots.heap_live / 5; }

/* Below which class pages must go to reach the aim. */
static void choose(sdb *db) {
  struct cleaner *c = &db->cleaner;
  uint64_t aim = db->roots.heap_live / 5, now = garbage(db), sum = 0;
  for (c->below = 0; c->below < c->most && (c->below == 0 || sum + aim < now); c->below++) sum += c->dead[c->below];
  pass_begin(db, CLEAN_MOVE);
}

/* All pages have been looked at. */
static void pass_end(sdb *db) {
  struct cleaner *c = &db->cleaner;
  if (c->all && c->below < c->most) { /* the emptiest came first: on a full device there is little room to move */
    c->below = c->most;
    pass_begin(db, CLEAN_MOVE);
    return;
  }
  c->phase = CLEAN_REST;
  if (c->below < c->most) return; /* what died meanwhile is for the next round */
  c->left = garbage(db);
  if (c->emptied == 0) c->futile = db->last_sequence;
  if (c->emptied > 0 && 4ull * c->opened > 3ull * c->emptied) c->most = HALF;
}

static int clean_some(sdb *db, unsigned slot) {
  struct cleaner *c = &db->cleaner;
  uint32_t number;
  if (c->phase == CLEAN_LOOK) {
    int rc = pager_count_sparse(db->pager, &c->cursor, WORDS, c->dead);
    if (rc == SDB_END) choose(db);
    return rc == SDB_END ? SDB_OK : rc;
  }
  if (reached(db)) {
    c->phase = CLEAN_REST;
    return SDB_OK;
  }
  int rc = pager_next_sparse(db->pager, &c->cursor, WORDS, c->below * room(db) / HEAP_CLASSES, &number);
  if (rc == SDB_OK && number >= c->end) rc = SDB_END;
  if (rc == SDB_END) pass_end(db);
  if (rc != SDB_OK) return rc == SDB_END || rc == SDB_NOT_FOUND ? SDB_OK : rc;
  rc = clean_page(db, slot, number);
  return rc == SDB_IO ? SDB_OK : rc; /* a page that the device does not give: the others are not to wait for it */
}

int clean_step(sdb *db, unsigned budget, bool *more) {
  int rc = SDB_OK;
  for (*more = true; rc == SDB_OK && *more && budget > 0; budget--) {
    unsigned slot;
    writer_enter(db, &slot);
    if (clean_running(db)) rc = clean_some(db, slot);
    if (rc != SDB_OK) db->cleaner.phase = CLEAN_REST;
    if (rc != SDB_OK && rc != SDB_FULL) db->cleaner.left = garbage(db); /* not again before there is more */
    *more = clean_running(db);
    writer_leave(db, slot);
  }
  return rc == SDB_FULL ? SDB_OK : rc;
}
