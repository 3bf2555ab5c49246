/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* scrub.c - everything that the newest state reaches, read again from the file and verified, in short steps beside everybody.
 *
 *     fixed       header slots, directories, map and bitmap chunks; those in memory are written anew    (no key needed)
 *     pages       every logical page as it stands in the file                      (no key needed)
 *     trees       every leaf of every tree and the way to it; damage starts a rebuild
 *     empty       the records that are whole leave the damaged heap pages
 *     documents   every version: record, content or chunks; which damaged heap page is still referred to
 *     release     damaged heap pages that nothing refers to are given back; none while the device keeps back what may refer to them
 *     room        where damaged or unreadable records were replaced or dropped: heap pages that are whole count their records
 *     mark        then also pages in use that are not in the map, those of large contents
 *     count       and the bytes of content; each version of each document takes its own out of what was marked
 *     return      what is left there goes, unless some record was damaged: it may be what that one names
 *
 * A step stays in the pager for some pages only and reads the newest published state each time, so it pins nothing and holds no
 * lock that a reader or a commit waits for; only emptying, releasing and counting room change something, a page under one holding
 * of the writer's lock. What is written behind the place that was reached is not looked at: it was just written. Pages that moved
 * meanwhile were written anew as well. Steps are made under `work`, where checkpoints are made too: directories and chunks stand
 * still.
 *
 * Why a damaged heap page without references can go: records are only ever appended to the open page, and a page that is damaged is
 * not; so references to it become fewer and never more, and a page that no document has had since the pass began will not have one.
 * What a damaged record there held of the page's live bytes nobody could tell: it goes with the page.
 */
#include "db.h"

enum { FIXED, PAGES, TREES, EMPTY, DOCUMENTS, RELEASE, ROOM, MARK, COUNT, RETURN, PHASES };
enum {
  STEP_PAGES = 32,
  STAY = 8, /* pages in one stay in the pager */
  COUNT_TURN = 32,
  ROOM_WORDS = 256,
  LEAVES = 8,
  MOST_HELD = 1024,
  PAUSE_US = 10000,
  RETRY_US = 1000000
};

static uint64_t now_us(const sdb *db) { return db->e.storage->monotonic_us(db->e.storage->ctx); }

uint64_t scrub_delay_us(sdb *db) {
  struct scrub *s = &db->scrub;
  bool running = atomic_load(&s->running), wanted = atomic_load(&s->wanted);
  if (db->read_only || (!running && !wanted && !db->options.scrub_interval_s)) return UINT64_MAX;
  uint64_t due = atomic_load(&s->due_us), now = now_us(db);
  if (!running && wanted) return 0;
  if (!running && !due) { /* the interval counts from the opening */
    due = now + db->options.scrub_interval_s * 1000000ull;
    atomic_store(&s->due_us, due);
  }
  return due > now ? due - now : 0;
}

static void problem(sdb *db, const char *sentence) {
  env_fail(&db->e, SDB_CORRUPT, "%s", sentence);
  atomic_fetch_add(&db->scrub.problems, 1);
}

static void slot_problem(void *user, const char *sentence) { problem(user, sentence); }

/* What was found is told and counted, and the pass goes on. Else what keeps it from going on. */
static int found(sdb *db, int rc) {
  if (rc == SDB_CORRUPT || rc == SDB_IO) atomic_fetch_add(&db->scrub.problems, 1);
  return rc == SDB_NO_MEMORY ? rc : SDB_OK;
}

/* --- Pages -------------------------------------------------------------------------------------------------------------------- */

static void next_phase(struct scrub *s) {
  s->phase++;
  s->cursor = s->phase == PAGES || s->phase == ROOM ? 1 : 0;
  s->key_len = 0;
  s->document = 1;
  s->version = s->chunk = 0;
}

/* What is damaged in the file is in memory: a checkpoint makes it whole. */
static void want_checkpoint(sdb *db) {
  unsigned slot;
  writer_enter(db, &slot);
  if (commit_ready(db) == SDB_OK) db->checkpoint_wanted = true;
  writer_leave(db, slot);
}

static int step_fixed(sdb *db) {
  struct scrub *s = &db->scrub;
  if (s->cursor == 0) {
    pager_lock(db->pager); /* the first commit after an open writes slots */
    pager_check_slots(db->pager, slot_problem, db);
    pager_unlock(db->pager);
  }
  for (unsigned i = 0; i < STAY; i++) {
    bool mends = false;
    int rc = pager_scrub_fixed(db->pager, &s->cursor, s->buf, &mends);
    if (mends) want_checkpoint(db);
    if (rc == SDB_END) {
      next_phase(s);
      return SDB_OK;
    }
    if (found(db, rc) != SDB_OK) return rc;
  }
  return SDB_OK;
}

static int step_pages(sdb *db) {
  struct scrub *s = &db->scrub;
  int rc = SDB_OK;
  unsigned slot = pager_enter(db->pager);
  for (unsigned i = 0; rc == SDB_OK && i < STAY;) {
    rc = pager_scrub_page(db->pager, &s->cursor, s->buf);
    i += rc != SDB_NOT_FOUND;
    if (rc != SDB_END) rc = found(db, rc);
  }
  pager_leave(db->pager, slot);
  atomic_store(&s->done, s->cursor);
  if (rc == SDB_END) next_phase(s);
  return rc == SDB_END ? SDB_OK : rc;
}

/* --- Trees -------------------------------------------------------------------------------------------------------------------- */

/* A page that the device does not give, twice in a row, is as good as a damaged one. In a published view a tree that was begun or
 * dropped a moment ago may not be whole: only what the writer sees as well is damage.
 */
static bool tree_is_damaged(sdb *db, unsigned which, uint32_t root, const uint8_t *from, size_t len) {
  const roots *rt = &db->roots;
  uint8_t key[SDB_MAX_PATH];
  memcpy(key, from, len);
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  bool current = root == (which == 0 ? rt->path_tree : which == 1 ? rt->suffix_tree : rt->expiry_tree);
  int rc = current ? tree_walk(db->pager, VIEW_HEAD, root, key, &len, LEAVES, NULL, NULL) : SDB_OK;
  bool damaged = trusted(db, slot, SDB_OK) == SDB_OK && (rc == SDB_CORRUPT || rc == SDB_IO);
  if (damaged && which == 2) atomic_store(&db->expiry_damaged, true);
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  if (damaged) names_note_damage(db, root);
  return damaged;
}

static int step_trees(sdb *db) {
  struct scrub *s = &db->scrub;
  uint8_t from[SDB_MAX_PATH];
  size_t len = s->key_len;
  int rc = SDB_END;
  memcpy(from, s->key, len);
  pager_lock(db->pager);
  const uint32_t trees[] = {0, db->roots.suffix_tree, db->roots.expiry_tree};
  pager_unlock(db->pager);
  unsigned slot = pager_enter(db->pager);
  uint64_t view = pager_published(db->pager);
  uint32_t root = s->cursor == 0 ? names_path_tree(db, view) : trees[s->cursor];
  if (root) rc = trusted(db, slot, tree_walk(db->pager, view, root, s->key, &s->key_len, LEAVES, NULL, NULL));
  pager_leave(db->pager, slot);
  if (rc == SDB_OK || rc == SDB_NO_MEMORY) return rc;
  if (rc != SDB_END && tree_is_damaged(db, s->cursor, root, from, len)) (void)found(db, rc);
  s->key_len = 0; /* one damaged page is enough: all of the tree is made again */
  if (++s->cursor == sizeof trees / sizeof *trees) next_phase(s);
  return SDB_OK;
}

/* --- Damaged heap pages ------------------------------------------------------------------------------------------------------- */

/* Of the next one the records that are whole go elsewhere; it is remembered if it is still there. */
static int step_empty(sdb *db) {
  struct scrub *s = &db->scrub;
  struct quarantined q;
  void *held = s->held;
  if (!pager_next_quarantined(db->pager, s->cursor, &q) || s->held_count == MOST_HELD) {
    next_phase(s);
    return SDB_OK;
  }
  s->cursor = q.place + 1;
  if (q.kind != PAGE_HEAP) return SDB_OK;
  if (!mem_reserve(&db->e, &held, &s->held_cap, s->held_count + 1, sizeof *s->held))
    return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a scrub");
  s->held = held;
  s->held[s->held_count++] = (struct held_page){q.place, q.number, false};
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  int rc = commit_ready(db);
  if (rc == SDB_OK) rc = clean_page(db, slot, q.number);
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  return rc == SDB_NO_MEMORY || rc == SDB_SYNC_FAILED ? rc : SDB_OK; /* no room, or it cannot be read: it stays */
}

static void refer(struct scrub *s, uint64_t place) {
  for (size_t i = 0; place && i < s->held_count; i++)
    if (s->held[i].number == place_page(place)) s->held[i].referred = true;
}

/* Something that could not be read may lead to any of them. */
static void refer_to_all(struct scrub *s) {
  for (size_t i = 0; i < s->held_count; i++) s->held[i].referred = true;
}

/* The page is damaged as it was, and nothing refers to it. */
static int release(sdb *db, const struct held_page *h) {
  struct quarantined q;
  const uint8_t *page;
  roots *rt = &db->roots;
  if (!pager_next_quarantined(db->pager, h->place, &q) || q.place != h->place || q.number != h->number) return SDB_OK;
  if (h->number == rt->heap_page) return SDB_OK;
  int rc = collect_all(db);
  if (rc == SDB_OK) rc = pager_admit(db->pager, 1, 0, true);
  if (rc != SDB_OK) return rc;
  rc = page_read_kind(db->pager, VIEW_HEAD, h->number, PAGE_HEAP, &page);
  if (rc != SDB_CORRUPT && rc != SDB_IO) return SDB_OK;
  uint32_t live = pager_live(db->pager, h->number);
  rc = page_free(db->pager, h->number);
  if (rc != SDB_OK) return rc;
  rt->heap_live -= live;
  rt->heap_pages--;
  pager_live_add(db->pager, h->number, -(int32_t)live);
  note_unlogged(db);
  db->checkpoint_wanted = true;
  return SDB_OK;
}

static int step_release(sdb *db) {
  struct scrub *s = &db->scrub;
  int rc = SDB_OK;
  if (s->held_count == 0) {
    next_phase(s);
    return SDB_OK;
  }
  const struct held_page h = s->held[--s->held_count];
  if (h.referred) return SDB_OK;
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  rc = commit_ready(db);
  if (rc == SDB_OK) rc = release(db, &h);
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  return rc == SDB_NO_MEMORY || rc == SDB_SYNC_FAILED ? rc : SDB_OK;
}

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

/* Chunks from s->chunk on. SDB_END: all are looked at; SDB_OK: the budget is used up. */
static int scrub_extent(sdb *db, const record *r, unsigned *budget) {
  struct scrub *s = &db->scrub;
  extent_reader *x;
  int rc = extent_open(&db->e, db->pager, r, true, &x);
  if (rc != SDB_OK) return rc;
  for (; rc == SDB_OK && s->chunk < extent_chunks(x) && *budget > 0; *budget -= *budget < STAY ? *budget : STAY) {
    size_t len;
    rc = extent_chunk(x, s->chunk, s->buf, &len);
    if (rc == SDB_OK) s->chunk++;
  }
  if (rc == SDB_OK && s->chunk == extent_chunks(x)) rc = SDB_END;
  extent_close(x);
  return rc;
}

static int scrub_version(sdb *db, uint64_t view, const table_entry *entry, uint32_t version, unsigned *budget) {
  struct scrub *s = &db->scrub;
  record r;
  int rc = document_version(db, view, s->document, entry, version, &r);
  if (rc != SDB_OK) return rc;
  if (r.flags & RECORD_OLDER) refer(s, r.older);
  if (r.flags & RECORD_LARGE) return scrub_extent(db, &r, budget);
  rc = content_unpack(db, &r, true, s->buf);
  return rc == SDB_OK ? SDB_END : rc;
}

/* The versions of a document from s->version on. SDB_END: all. */
static int scrub_document(sdb *db, unsigned slot, uint64_t view, unsigned *budget) {
  struct scrub *s = &db->scrub;
  table_entry entry;
  record r;
  int rc = table_get(db->table, view, s->document, &entry);
  if (rc != SDB_OK) return rc == SDB_NOT_FOUND ? SDB_END : rc;
  if (!s->version || s->newest != entry.version) {
    s->version = s->newest = entry.version;
    s->chunk = 0;
    refer(s, entry.current);
    refer(s, entry.previous);
  }
  rc = document_version(db, view, s->document, &entry, SDB_CURRENT, &r);
  uint32_t oldest = document_oldest(&entry, rc == SDB_OK ? &r : NULL);
  for (; *budget > 0; s->chunk = 0) {
    rc = trusted(db, slot, scrub_version(db, view, &entry, s->version, budget));
    if (rc == SDB_OK) return SDB_OK;
    if (rc == SDB_IO && entry.previous) refer_to_all(s); /* what is behind that version the device may show another time */
    if (rc != SDB_END && found(db, rc) != SDB_OK) return rc;
    if (*budget > 0) --*budget;
    if (s->version-- <= oldest) return SDB_END;
  }
  return SDB_OK;
}

/* A page of the table, which is counted once; unless it is so new that it is not in the view. */
static void table_lost(sdb *db) {
  struct scrub *s = &db->scrub;
  table_entry entry;
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  int rc = trusted(db, slot, table_get(db->table, VIEW_HEAD, s->document, &entry));
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  uint64_t asked = s->document++;
  if (rc == SDB_OK || rc == SDB_NOT_FOUND) return;
  (void)found(db, rc);
  s->document = table_page_end(db->table, asked);
  refer_to_all(s);
}

static int step_documents(sdb *db) {
  struct scrub *s = &db->scrub;
  unsigned budget = STAY;
  int rc = SDB_END;
  pager_lock(db->pager);
  uint64_t limit = db->roots.doc_limit, before = s->document;
  pager_unlock(db->pager);
  unsigned slot = pager_enter(db->pager);
  uint64_t view = pager_published(db->pager);
  while (rc == SDB_END && budget > 0 && s->document < limit) {
    rc = scrub_document(db, slot, view, &budget);
    if (rc != SDB_END) break;
    s->document++;
    s->version = s->chunk = 0;
    if (budget > 0) budget--;
  }
  pager_leave(db->pager, slot);
  if (rc != SDB_END && rc != SDB_OK && rc != SDB_NO_MEMORY) {
    table_lost(db);
    s->version = s->chunk = 0;
    rc = SDB_OK;
  }
  atomic_fetch_add(&s->done, s->document - before);
  if (rc != SDB_NO_MEMORY && s->document >= limit) next_phase(s);
  return rc == SDB_NO_MEMORY ? rc : SDB_OK;
}

/* --- Room of what was given up ------------------------------------------------------------------------------------------------ */

static int step_room(sdb *db) {
  struct scrub *s = &db->scrub;
  uint32_t number;
  unsigned slot;
  writer_enter(db, &slot);
  int rc = db->roots.recount ? commit_ready(db) : SDB_END;
  if (s->cursor == 1) s->again = false;
  int next = rc == SDB_OK ? pager_next_sparse(db->pager, &s->cursor, ROOM_WORDS, UINT32_MAX, &number) : rc;
  if (next == SDB_OK) rc = clean_count(db, slot, number);
  s->again |= rc == SDB_IO || rc == SDB_NO_MEMORY || next == SDB_IO || next == SDB_NO_MEMORY;
  writer_leave(db, slot);
  if (next == SDB_OK || next == SDB_NOT_FOUND) return rc == SDB_NO_MEMORY ? rc : SDB_OK;
  next_phase(s);
  return next == SDB_NO_MEMORY ? next : SDB_OK;
}

/* --- What damaged records named ----------------------------------------------------------------------------------------------- */

/* Pages that large contents may have: the documents spare theirs while they are counted. */
static int step_mark(sdb *db) {
  unsigned slot;
  writer_enter(db, &slot);
  int rc = db->roots.recount ? commit_ready(db) : SDB_END;
  if (rc == SDB_OK) rc = trusted(db, slot, pager_orphans_mark(db->pager, &db->scrub.cursor));
  if (rc != SDB_OK && rc != SDB_END) pager_orphans_end(db->pager);
  writer_leave(db, slot);
  if (rc == SDB_OK) return SDB_OK;
  next_phase(&db->scrub);
  return rc == SDB_NO_MEMORY ? rc : SDB_OK;
}

/* As the writer sees them, so that whatever is in use has its document or is in the ring of what was dropped. While one record is
 * damaged nobody knows what it names. */
static int spare_versions(sdb *db, const table_entry *entry, unsigned *looked) {
  record r;
  uint64_t place;
  uint32_t oldest = 1;
  int rc = SDB_OK;
  version_walk walk = document_walk(entry);
  while (rc == SDB_OK && walk.version >= oldest && walk.version > 0) {
    run_list l;
    bool current = walk.version == entry->version;
    ++*looked;
    rc = document_walk_next(db, VIEW_HEAD, db->scrub.counted, &walk, &r, &place);
    if (rc == SDB_OK && current) {
      db->scrub.bytes += r.size;
      oldest = document_oldest(entry, &r);
    }
    if (rc == SDB_OK && r.flags & RECORD_LARGE) rc = run_list_parse(&l, &r) == SDB_OK ? SDB_OK : SDB_CORRUPT;
    for (uint32_t i = 0; rc == SDB_OK && r.flags & RECORD_LARGE && i < l.count; i++) pager_orphans_spare(db->pager, l.runs[i]);
  }
  return rc;
}

/* The next document. */
static int count_one(sdb *db, unsigned *looked) {
  struct scrub *s = &db->scrub;
  table_entry entry;
  ++*looked;
  int rc = table_get(db->table, VIEW_HEAD, s->counted, &entry);
  if (rc == SDB_OK) rc = spare_versions(db, &entry, looked);
  if (rc == SDB_NO_MEMORY || rc == SDB_IO) return rc;
  if (rc != SDB_OK && rc != SDB_NOT_FOUND) pager_orphans_end(db->pager);
  s->counted++;
  return SDB_OK;
}

static int return_some(sdb *db) {
  int rc = commit_ready(db);
  if (rc == SDB_OK) rc = collect_all(db); /* versions that were dropped before their document was looked at are in there */
  for (unsigned i = 0; rc == SDB_OK && i < STAY; i++) {
    run r;
    rc = pager_admit(db->pager, 1, 0, true);
    if (rc == SDB_OK) rc = pager_orphans_next(db->pager, &db->scrub.cursor, &r);
    if (rc == SDB_OK) pager_free_run(db->pager, r);
    if (rc == SDB_OK) db->checkpoint_wanted = true;
  }
  note_unlogged(db);
  return rc;
}

/* What nobody has spared is nobody's: free, once no snapshot and no header slot can mean it, like any run. */
static int step_return(sdb *db) {
  unsigned slot;
  writer_enter(db, &slot);
  int rc = pager_orphans_any(db->pager) ? trusted(db, slot, return_some(db)) : SDB_END;
  if (rc == SDB_BUSY) rc = SDB_OK;
  if (rc != SDB_OK) pager_orphans_end(db->pager);
  writer_leave(db, slot);
  if (rc == SDB_OK) return SDB_OK;
  next_phase(&db->scrub);
  return rc == SDB_NO_MEMORY ? rc : SDB_OK;
}

/* --- Sum ---------------------------------------------------------------------------------------------------------------------- */

static int step_count(sdb *db) {
  struct scrub *s = &db->scrub;
  roots *rt = &db->roots;
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  int rc = rt->recount ? commit_ready(db) : SDB_END;
  if (rc == SDB_OK && s->counted == 0) s->counted = 1, s->bytes = 0;
  for (unsigned n = 0; rc == SDB_OK && n < COUNT_TURN && s->counted < rt->doc_limit;) rc = trusted(db, slot, count_one(db, &n));
  if (rc == SDB_OK && s->counted >= rt->doc_limit) {
    rt->content_bytes = s->bytes;
    rt->recount = s->again;
    db->checkpoint_wanted = true;
    rc = SDB_END;
  }
  if (rc != SDB_OK && rc != SDB_END) pager_orphans_end(db->pager); /* not all were looked at */
  if (rc != SDB_OK) s->counted = 0;
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  if (rc == SDB_OK) return SDB_OK;
  next_phase(s);
  return rc == SDB_NO_MEMORY ? rc : SDB_OK; /* the next pass tries again */
}

/* --- A pass ------------------------------------------------------------------------------------------------------------------- */

static int begin(sdb *db) {
  struct scrub *s = &db->scrub;
  if (!s->buf && !(s->buf = mem_alloc(&db->e, SDB_CHUNK))) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a scrub");
  pager_lock(db->pager);
  atomic_store(&s->all, pager_logical_limit(db->pager) + db->roots.doc_limit);
  pager_unlock(db->pager);
  atomic_store(&s->done, 0);
  atomic_store(&s->problems, 0);
  s->phase = FIXED;
  s->cursor = 0;
  s->held_count = 0;
  atomic_store(&s->running, true);
  atomic_store(&s->wanted, false);
  return SDB_OK;
}

static void end(sdb *db) {
  struct scrub *s = &db->scrub;
  scrub_drop(db);
  atomic_store(&s->running, false);
  atomic_store(&s->done, 0);
  atomic_store(&s->all, 0);
  atomic_fetch_add(&s->passes, 1);
  atomic_store(&s->due_us, now_us(db) + db->options.scrub_interval_s * 1000000ull);
}

void scrub_drop(sdb *db) {
  struct scrub *s = &db->scrub;
  mem_free(&db->e, s->buf);
  mem_free(&db->e, s->held);
  s->buf = NULL;
  s->held = NULL;
  s->held_count = s->held_cap = 0;
}

static int piece(sdb *db) {
  switch (db->scrub.phase) {
    case FIXED: return step_fixed(db);
    case PAGES: return step_pages(db);
    case TREES: return step_trees(db);
    case EMPTY: return step_empty(db);
    case DOCUMENTS: return step_documents(db);
    case RELEASE: return step_release(db);
    case ROOM: return step_room(db);
    case MARK: return step_mark(db);
    case COUNT: return step_count(db);
    default: return step_return(db);
  }
}

int scrub_step(sdb *db, unsigned budget) {
  struct scrub *s = &db->scrub;
  int rc = atomic_load(&s->running) ? SDB_OK : begin(db);
  if (budget > STEP_PAGES) budget = STEP_PAGES;
  for (unsigned spent = 0; rc == SDB_OK && spent < budget && s->phase < PHASES; spent += STAY) rc = piece(db);
  if (rc == SDB_OK && s->phase == PHASES) end(db);
  else atomic_store(&s->due_us, rc != SDB_OK ? now_us(db) + RETRY_US : db->worker ? now_us(db) + PAUSE_US : 0);
  return rc;
}

int sdb_scrub(sdb *db) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (db->read_only) return env_fail(&db->e, SDB_READ_ONLY, "the database is open for reading only; check it instead");
  if (!atomic_load(&db->scrub.running)) atomic_store(&db->scrub.wanted, true);
  work_ring(db);
  return SDB_OK;
}
