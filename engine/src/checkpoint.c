/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* checkpoint.c - brings the data file to one whole newer state, in steps, beside readers and commits.
 *
 *   1 pages        every page whose newest frame not newer than C is dirty goes to a free place
 *   2 map          every map chunk with a changed word is written over the copy that does not count; the places that changed hands
 *                  are marked in the bitmaps
 *   3 bitmaps      the same for bitmap chunks
 *   4 directories  groups, then roots: what counts now, with checksums. Sync.
 *   5 slots        (pager_checkpoint_commit) A, sync, B, sync
 *
 * Until slot A is written nothing that a slot reaches has been touched, so a failure before forgets the attempt: the pages written
 * keep their places and stay changed, the marks are taken back, the chunks stay dirty. A failure from slot A on leaves it unknown
 * which state counts on disk; then nothing more may be written by this handle (I7).
 */
#include "codec.h"
#include "pager_state.h"

enum { PHASE_PAGES, PHASE_MAP, PHASE_BITMAPS, PHASE_DIRECTORIES, PHASE_DONE };
enum { GRAVES = 4096 }; /* freed pages to look at in a step */
#define ENTRY_GROUP_DIR UINT32_MAX

/* --- Writing ------------------------------------------------------------------------------------------------------------------ */

static int write_file(pager *p, uint64_t offset, const void *bytes, size_t len) {
  int rc = p->e->storage->write(p->file, offset, bytes, len);
  if (rc != SDB_OK)
    return env_fail(p->e, rc, "cannot write %zu bytes at offset %llu of the data file", len, (unsigned long long)offset);
  return pager_pace(p, offset, len);
}

/* Copies pages into the stage, seals the copies (the frames themselves are published and must not change) and writes them. */
static int frames_write(pager *p, struct frame *const *frames, uint32_t count, uint32_t place) {
  uint32_t size = p->g.page_size;
  uint8_t nonces[STAGE_BYTES / 4096 * CIPHER_NONCE];
  int rc = p->cipher ? cipher_nonces(p->e, nonces, count) : SDB_OK;
  if (rc != SDB_OK) return rc;
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *copy = p->stage + (size_t)i * size;
    memcpy(copy, frames[i]->data, size);
    unit_seal(p->e, copy, size, p->head.checkpoint + 1, nonces + (size_t)i * CIPHER_NONCE);
  }
  rc = write_file(p, page_offset(&p->g, place), p->stage, (size_t)count * size);
  for (uint32_t i = 0; rc == SDB_OK && p->mapped && i < count; i++) space_set_verified(p, place + i);
  return rc;
}

/* Cuts a run where a unit of the file ends, so that the next one begins there and whole units are written in one piece: then the
 * system can keep a unit as one huge page and map it as such, and reading at random costs a third less (docs/engine.md). True: it
 * was cut. */
static bool stay_in_unit(pager *p, run *r) {
  uint32_t unit = STAGE_BYTES / p->g.page_size, room = unit - r->start % unit;
  if (r->count <= room) return false;
  space_unreserve(p, (run){r->start + room, r->count - room});
  r->count = room;
  return true;
}

/* Gives places to the chosen frames: few long runs where there are such, many short ones where free space is scattered. Those that
 * found none return to `back`. */
static int batch_place(pager *p, struct batch *b, struct frame_list *back) {
  uint32_t placed = 0;
  bool cut = false;
  int rc = SDB_OK;
  b->run_count = b->written = 0;
  while (placed < b->count && b->run_count < PLACE_RUNS && !cut) {
    run *r = &b->runs[b->run_count];
    rc = space_alloc(p, b->count - placed, 1, r);
    if (rc != SDB_OK) break;
    cut = stay_in_unit(p, r);
    placed += r->count;
    b->run_count++;
  }
  for (uint32_t i = 0; i < b->count; i++) {
    struct frame *f = b->frames[i];
    f->dirty = i >= placed;
    f->writing = i < placed;
    if (i >= placed) dirty_push(back, f);
    else p->dirty_count--;
  }
  return placed ? SDB_OK : rc;
}

static int batch_write(pager *p, struct batch *b) {
  struct frame **frames = b->frames;
  int rc = SDB_OK;
  while (b->written < b->run_count) {
    run r = b->runs[b->written];
    rc = frames_write(p, frames, r.count, r.start);
    if (rc != SDB_OK) break;
    frames += r.count;
    b->written++;
  }
  return rc;
}

/* A run stands in the file; or, when writing has failed, its frames return to `back`. */
static void run_settle(pager *p, struct frame **frames, run r, bool written, struct frame_list *back) {
  uint64_t oldest = unpinned_oldest(p);
  for (uint32_t i = 0; i < r.count; i++) {
    struct frame *f = frames[i];
    f->writing = false;
    if (written) {
      f->place = r.start + i;
      if (!f->newer) frame_settle(p, f, oldest);
    } else {
      f->dirty = true;
      p->dirty_count++;
      dirty_push(back, f);
    }
  }
  if (!written) space_unreserve(p, r);
}

static void batch_settle(pager *p, struct batch *b, struct frame_list *back) {
  struct frame **frames = b->frames;
  for (uint32_t i = 0; i < b->run_count; frames += b->runs[i++].count) run_settle(p, frames, b->runs[i], i < b->written, back);
}

/* The lock is held on entry and exit, not while it is written. */
static int batch_bring(pager *p, struct batch *b, struct frame_list *back) {
  int rc = batch_place(p, b, back);
  if (rc != SDB_OK) return rc;
  pager_unlock(p);
  rc = batch_write(p, b);
  pager_lock(p);
  batch_settle(p, b, back);
  return rc;
}

/* --- Ahead of the checkpoint -------------------------------------------------------------------------------------------------- */

static bool spillable(const pager *p, const struct frame *f, uint64_t published) {
  return (f->ahead || f->version <= published) && !f->newer && f->number != p->append_page;
}

int pager_ahead_choose(pager *p, unsigned budget, bool *some) {
  struct batch *b = &p->ahead;
  uint32_t limit = STAGE_BYTES / p->g.page_size;
  if (budget < limit) limit = budget;
  b->count = 0;
  frames_reclaim(p);
  frames_settle_all(p);
  uint64_t published = pager_published(p);
  int passes = !pager_spill_due(p) ? 0 : pager_mostly_dirty(p) ? 2 : 1;
  for (int pass = 0; pass < passes && b->count < limit; pass++) { /* full heap pages never change again; then the oldest */
    for (struct frame *f = p->dirty.first, *next; f && (pass || f->ahead) && b->count < limit; f = next) {
      next = f->next;
      if (!spillable(p, f, published)) continue;
      list_remove(&p->dirty, f);
      b->frames[b->count++] = f;
    }
    if (b->count >= limit / 4) break;
  }
  int rc = b->count ? batch_place(p, b, &p->dirty) : SDB_OK;
  *some = rc == SDB_OK && b->count > 0;
  return rc;
}

int pager_ahead_write(pager *p) { return batch_write(p, &p->ahead); }

void pager_ahead_settle(pager *p) { batch_settle(p, &p->ahead, &p->dirty); }

int pager_spill(pager *p, unsigned budget, bool *more) {
  bool some;
  pager_lock(p);
  int rc = pager_ahead_choose(p, budget, &some);
  if (some) {
    pager_unlock(p);
    rc = pager_ahead_write(p);
    pager_lock(p);
    pager_ahead_settle(p);
  }
  *more = rc == SDB_OK && some && pager_spill_due(p);
  pager_unlock(p);
  return rc;
}

/* --- Beginning and pages ------------------------------------------------------------------------------------------------------ */

uint64_t pager_checkpoint_begin(pager *p, const roots *r, bool trim) {
  struct checkpoint *cp = &p->cp;
  assert(!cp->active && p->delta_count == 0);
  frames_reclaim(p);
  cp->version = pager_close_version(p);
  cp->number = p->head.checkpoint + 1;
  cp->r = *r;
  cp->phase = PHASE_PAGES;
  cp->group = cp->chunk = 0;
  cp->pending_count = cp->mark_count = 0;
  cp->to_write = p->dirty;
  p->dirty = (struct frame_list){0};
  cp->graves = p->graves;
  p->graves = (struct frame_list){0};
  p->floor = cp->version;
  p->refused = false;
  cp->head = p->head;
  cp->head.checkpoint = cp->number;
  cp->head.logical_limit = p->logical_limit;
  cp->head.roots = *r;
  cp->trim = trim || space_free(p) > p->pages_total / 2;
  cp->active = true;
  return cp->version;
}

static int step_pages(pager *p, unsigned budget) {
  struct checkpoint *cp = &p->cp;
  struct batch b = {.count = 0};
  uint32_t limit = STAGE_BYTES / p->g.page_size;
  if (budget < limit) limit = budget;
  pager_lock(p);
  while (cp->to_write.first && b.count < limit) {
    struct frame *f = cp->to_write.first;
    list_remove(&cp->to_write, f);
    bool superseded = f->newer && f->superseded <= cp->version;
    if (!superseded) {
      b.frames[b.count++] = f;
      continue;
    }
    f->dirty = false;
    p->dirty_count--;
  }
  for (unsigned i = 0; i < GRAVES && cp->graves.first; i++) { /* their words become empty when the checkpoint is complete */
    struct frame *f = cp->graves.first;
    list_remove(&cp->graves, f);
    f->dirty = false;
    frame_settle(p, f, 0);
  }
  int rc = b.count ? batch_bring(p, &b, &cp->to_write) : SDB_OK;
  if (rc == SDB_OK && !cp->to_write.first && !cp->graves.first) cp->phase = PHASE_MAP;
  pager_unlock(p);
  return rc;
}

/* --- Map ---------------------------------------------------------------------------------------------------------------------- */

static int pending_add(pager *p, uint32_t group, uint32_t index, const uint8_t *bytes, uint32_t count, dir_entry before) {
  struct checkpoint *cp = &p->cp;
  void *pending = cp->pending;
  if (!mem_reserve(p->e, &pending, &cp->pending_cap, cp->pending_count + 1, sizeof *cp->pending))
    return env_fail(p->e, SDB_NO_MEMORY, "out of memory for a checkpoint");
  cp->pending = pending;
  dir_entry entry = {
      .crc = crc32c(0, bytes, p->g.page_size), .count = count, .copy = before.written ? !before.copy : 0, .written = true};
  cp->pending[cp->pending_count++] = (struct pending_entry){group, index, entry};
  return SDB_OK;
}

static int mark_place(pager *p, uint32_t place, bool used) {
  struct checkpoint *cp = &p->cp;
  struct bitmap *b;
  uint32_t bit;
  void *marks = cp->marks;
  if (!mem_reserve(p->e, &marks, &cp->mark_cap, cp->mark_count + 1, sizeof *cp->marks))
    return env_fail(p->e, SDB_NO_MEMORY, "out of memory for a checkpoint");
  cp->marks = marks;
  int rc = bitmap_get(p, place, &b, &bit);
  if (rc != SDB_OK) return rc;
  cp->marks[cp->mark_count++] = (struct mark){place, bit_get(b->used, bit)};
  space_mark(p, (run){place, 1}, used);
  return SDB_OK;
}

/* The word of the state of version C as it goes to disk. *later: a newer frame stands before it. */
static uint64_t word_at(const pager *p, const struct map_chunk *c, uint32_t slot, bool *later) {
  uint64_t w = atomic_load(&c->word[slot]);
  uint32_t place = place_of(w);
  uint8_t kind = kind_of(w);
  if (w == 0) return 0;
  if (!word_is_place(w)) {
    const struct frame *f = frame_of(w);
    *later |= f->version > p->cp.version;
    while (f && f->version > p->cp.version) f = atomic_load(&f->older);
    if (!f || f->kind == PAGE_FREE) return 0;
    assert(f->place); /* step 1 wrote it */
    place = f->place;
    kind = f->kind;
  }
  return place | (uint64_t)kind << 32 | (uint64_t)(kind == PAGE_HEAP ? (c->behind ? c->stored : c->live)[slot] : 0) << 40;
}

static int map_image(pager *p, struct map_chunk *c, uint32_t *next, uint8_t *image, uint32_t *used) {
  bool later = false;
  c->dirty = false;
  *used = 0;
  for (uint32_t i = 0; i < p->g.chunk_words; i++) {
    uint64_t now = word_at(p, c, i, &later);
    uint32_t old = c->places[i];
    put64(image + 8 * (size_t)i, now);
    next[i] = (uint32_t)now;
    *used += now != 0;
    if (next[i] == old) continue;
    int rc = old ? mark_place(p, old, false) : SDB_OK;
    if (rc == SDB_OK && now) rc = mark_place(p, next[i], true);
    if (rc != SDB_OK) return rc;
  }
  c->dirty |= later;
  return SDB_OK;
}

static int write_map_chunk(pager *p, struct group *g, uint32_t group, uint32_t index) {
  struct map_chunk *c = atomic_load(&g->maps[index]);
  uint8_t *image = p->stage;
  uint32_t used = 0, *next = mem_alloc(p->e, p->g.chunk_words * sizeof *next);
  if (!next) return env_fail(p->e, SDB_NO_MEMORY, "out of memory for a checkpoint");
  pager_lock(p);
  unsigned slot = pager_enter(p); /* clean frames may be evicted while their words are read */
  int rc = space_ensure_group(p, group);
  if (rc == SDB_OK) rc = map_image(p, c, next, image, &used);
  if (rc == SDB_OK) rc = pending_add(p, group, index, image, used, dir_get(g->dir, index));
  if (rc == SDB_OK) c->next = next;
  else c->dirty = true;
  pager_leave(p, slot);
  pager_unlock(p);
  if (rc != SDB_OK) {
    mem_free(p->e, next);
    return rc;
  }
  return write_file(p, chunk_offset(&p->g, group, index, p->cp.pending[p->cp.pending_count - 1].entry.copy), image, p->g.page_size);
}

/* --- Bitmaps and directories -------------------------------------------------------------------------------------------------- */

static int write_bitmap_chunk(pager *p, struct group *g, uint32_t group, uint32_t b) {
  struct bitmap *m = g->bitmaps[b];
  uint32_t index = p->g.map_chunks + b;
  pager_lock(p);
  memcpy(p->stage, m->used, p->g.page_size);
  uint64_t covers = p->g.chunk_bits < p->g.group_pages ? p->g.chunk_bits : p->g.group_pages;
  uint64_t first = ((uint64_t)group << p->g.group_shift) + b * covers;
  uint64_t end = first + covers < p->cp.head.pages_total ? first + covers : p->cp.head.pages_total;
  uint32_t unused = 0;
  for (uint64_t i = first; i < end; i++) unused += !bit_get(p->stage, (uint32_t)(i - first));
  int rc = pending_add(p, group, index, p->stage, unused, dir_get(g->dir, index));
  if (rc == SDB_OK) m->dirty = false;
  pager_unlock(p);
  if (rc != SDB_OK) return rc;
  return write_file(p, chunk_offset(&p->g, group, index, p->cp.pending[p->cp.pending_count - 1].entry.copy), p->stage,
                    p->g.page_size);
}

/* Walks the dirty map (or bitmap) chunks of all loaded groups, `budget` of them a call. */
static int step_chunks(pager *p, unsigned budget, bool bitmaps) {
  struct checkpoint *cp = &p->cp;
  uint32_t chunks = bitmaps ? p->g.bitmaps : p->g.map_chunks;
  for (; cp->group < atomic_load(&p->group_limit); cp->group++, cp->chunk = 0) {
    struct group *g = atomic_load(&p->groups[cp->group]);
    for (; g && cp->chunk < chunks; cp->chunk++) {
      struct map_chunk *c = bitmaps ? NULL : atomic_load(&g->maps[cp->chunk]);
      pager_lock(p);
      bool dirty = bitmaps ? g->bitmaps[cp->chunk] && g->bitmaps[cp->chunk]->dirty : c && c->dirty;
      pager_unlock(p);
      if (!dirty) continue;
      if (budget-- == 0) return SDB_OK;
      int rc = bitmaps ? write_bitmap_chunk(p, g, cp->group, cp->chunk) : write_map_chunk(p, g, cp->group, cp->chunk);
      if (rc != SDB_OK) return rc;
    }
  }
  cp->group = cp->chunk = 0;
  if (!bitmaps) { /* from here on the counts must fit together */
    pager_lock(p);
    if (cp->trim) space_shrink(p);
    cp->head.pages_total = p->pages_total;
    cp->head.pages_free = p->unused;
    pager_unlock(p);
  }
  cp->phase++;
  return SDB_OK;
}

static int write_directory(pager *p, uint32_t group, uint32_t index, uint64_t offset, const uint8_t *image, dir_entry before) {
  int rc = pending_add(p, group, index, image, 0, before);
  if (rc != SDB_OK) return rc;
  return write_file(p, offset + (before.written ? !before.copy : 0) * (uint64_t)p->g.page_size, image, p->g.page_size);
}

static int step_directories(pager *p) {
  struct checkpoint *cp = &p->cp;
  uint8_t *image = p->stage;
  size_t chunks = cp->pending_count; /* sorted by group, as two ascending sequences: maps, then bitmaps */
  for (uint32_t group = 0; group < atomic_load(&p->group_limit); group++) {
    bool any = false;
    struct group *g = atomic_load(&p->groups[group]);
    for (size_t i = 0; g && i < chunks; i++) {
      if (cp->pending[i].group != group) continue;
      if (!any) memcpy(image, g->dir, p->g.page_size);
      any = true;
      dir_put(image, cp->pending[i].index, cp->pending[i].entry);
    }
    if (!any) continue;
    dir_entry before = dir_get(p->root_dir, group);
    int rc = write_directory(p, group, ENTRY_GROUP_DIR, group_dir_offset(&p->g, group, 0), image, before);
    if (rc != SDB_OK) return rc;
  }
  size_t groups = cp->pending_count;
  uint32_t per_page = p->g.page_size / 8;
  for (uint32_t r = 0; r < p->g.root_pages; r++) {
    bool any = false;
    for (size_t i = chunks; i < groups; i++) {
      if (cp->pending[i].group / per_page != r) continue;
      if (!any) memcpy(image, p->root_dir + (size_t)r * p->g.page_size, p->g.page_size);
      any = true;
      dir_put(image, cp->pending[i].group % per_page, cp->pending[i].entry);
    }
    if (!any) continue;
    int rc = write_directory(p, MAX_GROUPS + r, 0, root_dir_offset(&p->g, r, 0), image, p->head.root_dir[r]);
    if (rc != SDB_OK) return rc;
    cp->head.root_dir[r] = cp->pending[cp->pending_count - 1].entry;
  }
  int rc = pager_sync(p);
  if (rc == SDB_OK) cp->phase = PHASE_DONE;
  return rc;
}

/* --- The machine -------------------------------------------------------------------------------------------------------------- */

int pager_checkpoint_step(pager *p, unsigned budget, bool *done) {
  int rc = SDB_OK;
  switch (p->cp.phase) {
    case PHASE_PAGES: rc = step_pages(p, budget); break;
    case PHASE_MAP: rc = step_chunks(p, budget, false); break;
    case PHASE_BITMAPS: rc = step_chunks(p, budget, true); break;
    case PHASE_DIRECTORIES: rc = step_directories(p); break;
    default: break;
  }
  *done = p->cp.phase == PHASE_DONE;
  return rc;
}

static int write_slots(pager *p, const header *h) {
  uint8_t slot[SLOT_SIZE];
  header_encode(h, slot);
  for (unsigned i = 0; i < 2; i++) {
    if (atomic_load(&p->e->sync_failed)) return env_fail(p->e, SDB_SYNC_FAILED, "an earlier sync failed; open the database again");
    int rc = write_file(p, i * (uint64_t)SLOT_B, slot, SLOT_SIZE);
    if (rc == SDB_OK) rc = pager_sync(p);
    if (rc != SDB_OK) {
      atomic_store(&p->e->sync_failed, true); /* which header counts is unknown from here on */
      return rc;
    }
  }
  return SDB_OK;
}

int pager_checkpoint_commit(pager *p, const log_place *place, bool clean) {
  header *h = &p->cp.head;
  h->log = *place;
  h->clean = clean;
  h->written_ms = p->e->storage->now_ms(p->e->storage->ctx);
  return write_slots(p, h);
}

int pager_mark_unclean(pager *p, const log_place *place) {
  header h = p->head;
  h.checkpoint++;
  h.clean = false;
  h.log = *place;
  int rc = write_slots(p, &h);
  mutex_lock(&p->load_lock);
  if (rc == SDB_OK) p->head = h;
  mutex_unlock(&p->load_lock);
  return rc;
}

int pager_change_key(pager *p, const uint8_t *key) {
  header h = p->head;
  assert(!p->cp.active);
  h.checkpoint++;
  int rc = cipher_wrap(p->e, p->cipher, key, h.wrapped);
  if (rc == SDB_OK) rc = write_slots(p, &h);
  mutex_lock(&p->load_lock);
  if (rc == SDB_OK) p->head = h;
  mutex_unlock(&p->load_lock);
  return rc;
}

/* The chunk of the map that was written: the places in it are those of the last checkpoint from now on, or it is to be written
 * anew.
 */
static void map_settle(pager *p, struct map_chunk *c, bool ok) {
  mem_free(p->e, ok ? c->places : c->next);
  if (ok) c->places = c->next;
  else c->dirty = true;
  c->next = NULL;
}

static void checkpoint_apply(pager *p) {
  struct checkpoint *cp = &p->cp;
  mutex_lock(&p->load_lock); /* readers load chunks by what the directories say */
  for (size_t i = 0; i < cp->pending_count; i++) {
    struct pending_entry *e = &cp->pending[i];
    if (e->group >= MAX_GROUPS) continue; /* in the header */
    if (e->index == ENTRY_GROUP_DIR) dir_put(p->root_dir, e->group, e->entry);
    else dir_put(atomic_load(&p->groups[e->group])->dir, e->index, e->entry);
    if (e->index < p->g.map_chunks) map_settle(p, atomic_load(&atomic_load(&p->groups[e->group])->maps[e->index]), true);
  }
  p->head = cp->head;
  mutex_unlock(&p->load_lock);
  p->checkpoint_version = cp->version;
  if (cp->trim && p->head.pages_total == p->pages_total) /* a file that could not be cut is only longer than it need be */
    (void)p->e->storage->set_size(p->file, p->pages_total << p->g.page_bits);
}

static void checkpoint_forget(pager *p) {
  struct checkpoint *cp = &p->cp;
  while (cp->mark_count) {
    struct mark *m = &cp->marks[--cp->mark_count];
    space_mark(p, (run){m->place, 1}, m->was_used);
  }
  for (size_t i = 0; i < cp->pending_count; i++) {
    struct pending_entry *e = &cp->pending[i];
    if (e->group >= MAX_GROUPS || e->index == ENTRY_GROUP_DIR) continue;
    struct group *g = atomic_load(&p->groups[e->group]);
    if (e->index < p->g.map_chunks) map_settle(p, atomic_load(&g->maps[e->index]), false);
    else g->bitmaps[e->index - p->g.map_chunks]->dirty = true;
  }
  struct frame_list later = p->dirty;
  p->dirty = cp->to_write;
  while (later.first) {
    struct frame *f = later.first;
    list_remove(&later, f);
    dirty_push(&p->dirty, f);
  }
  while (cp->graves.first) {
    struct frame *f = cp->graves.first;
    list_remove(&cp->graves, f);
    list_push(&p->graves, f);
  }
}

void pager_checkpoint_end(pager *p, bool ok) {
  if (ok) checkpoint_apply(p);
  else checkpoint_forget(p);
  p->cp.to_write = (struct frame_list){0};
  p->cp.active = false;
  frames_look_again(p, p->cp.version);
  space_fold(p);
  space_live_fold(p);
  frames_reclaim(p);
  p->held_for = 0;
  frames_settle_all(p);
  uint64_t before = p->available;
  space_reclaim(p);
  uint64_t freed = p->available - before;
  p->turnover = freed < p->freed ? freed : p->freed;
  p->freed = freed;
}
