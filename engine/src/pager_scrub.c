/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager_scrub.c - for the background: the file's pages and fixed places read again and compared with their checksums, and pages of
 * trees that nothing reaches; see pager.h. Checksums are over the bytes as stored: none of this needs a key. */
#include <stdio.h>

#include "codec.h"
#include "pager_state.h"

/* --- Pages -------------------------------------------------------------------------------------------------------------------- */

/* Where the newest version that has a place in the file stands; 0: none has. */
static uint32_t place_in_file(uint64_t w, uint8_t *kind) {
  if (w == 0) return 0;
  *kind = kind_of(w);
  if (word_is_place(w)) return place_of(w);
  const struct frame *f = frame_of(w);
  while (f && !f->place) f = atomic_load_explicit(&f->older, memory_order_acquire);
  if (!f || f->kind == PAGE_FREE) return 0;
  *kind = f->kind;
  return f->place;
}

int pager_scrub_page(pager *p, uint32_t *number, uint8_t *buf) {
  struct map_chunk *c;
  uint32_t slot, n = *number;
  uint8_t kind = PAGE_FREE;
  uint32_t place = 0;
  pager_lock(p); /* frames get their places under it */
  bool end = n >= p->logical_limit;
  int rc = end ? SDB_END : map_get(p, n, &c, &slot);
  if (rc == SDB_OK) place = place_in_file(atomic_load(&c->word[slot]), &kind);
  pager_unlock(p);
  if (end) return rc;
  *number = rc == SDB_OK ? n + 1 : (n | (p->g.chunk_words - 1)) + 1; /* what the chunk says is lost for all of its pages */
  if (rc != SDB_OK) return rc;
  if (!place) return SDB_NOT_FOUND;
  rc = p->e->storage->read(p->file, page_offset(&p->g, place), buf, p->g.page_size);
  if (rc != SDB_OK) rc = env_fail(p->e, SDB_IO, "cannot read physical page %u of the data file", place);
  else rc = page_verify(p, buf, n, place, kind);
  if (rc == SDB_OK) pager_lift(p, place);
  else pager_quarantine(p, place, n, kind);
  return rc;
}

/* --- Fixed places ------------------------------------------------------------------------------------------------------------- */

static int fixed_one(pager *p, uint64_t offset, dir_entry entry, const char *what, uint32_t index, uint8_t *buf) {
  if (!entry.written) return SDB_NOT_FOUND;
  int rc = p->e->storage->read(p->file, offset, buf, p->g.page_size);
  if (rc != SDB_OK) return env_fail(p->e, SDB_IO, "%s %u at offset %llu cannot be read", what, index, (unsigned long long)offset);
  if (crc32c(0, buf, p->g.page_size) == entry.crc) return SDB_OK;
  return env_fail(p->e, SDB_CORRUPT, "%s %u at offset %llu does not match its checksum", what, index, (unsigned long long)offset);
}

/* The entry that says what counts; the lock because of the first commit behind an open, which writes the header anew. */
static dir_entry entry_of(pager *p, const struct group *g, uint32_t index) {
  mutex_lock(&p->load_lock);
  dir_entry entry = g ? dir_get(g->dir, index) : p->head.root_dir[index];
  mutex_unlock(&p->load_lock);
  return entry;
}

/* Has the next checkpoint write a chunk of the group from memory, and with it group directory and root page. `chunk` all ones: any.
 * False: it is not in memory. */
static bool rewrite(pager *p, const struct group *g, uint32_t chunk) {
  bool found = false;
  pager_lock(p);
  for (uint32_t i = 0; !found && i < p->g.map_chunks + p->g.bitmaps; i++) {
    if (chunk != UINT32_MAX && i != chunk) continue;
    struct map_chunk *c = i < p->g.map_chunks ? atomic_load(&g->maps[i]) : NULL;
    struct bitmap *b = i < p->g.map_chunks ? NULL : g->bitmaps[i - p->g.map_chunks];
    if (c) c->dirty = true;
    if (b) b->dirty = true;
    found = c || b;
  }
  pager_unlock(p);
  return found;
}

int pager_scrub_fixed(pager *p, uint32_t *index, uint8_t *buf, bool *mends) {
  uint32_t i = *index, per_group = 1 + p->g.map_chunks + p->g.bitmaps;
  ++*index;
  *mends = false;
  if (i < p->g.root_pages) {
    dir_entry e = entry_of(p, NULL, i);
    int rc = fixed_one(p, root_dir_offset(&p->g, i, e.copy), e, "root directory page", i, buf);
    struct group *first = atomic_load(&p->groups[i * (p->g.page_size / 8)]);
    if (rc == SDB_CORRUPT) *mends = p->root_loaded[i] && first && rewrite(p, first, UINT32_MAX);
    return rc;
  }
  i -= p->g.root_pages;
  uint32_t group = i / per_group, entry = i % per_group;
  mutex_lock(&p->load_lock);
  uint64_t total = p->head.pages_total;
  mutex_unlock(&p->load_lock);
  struct group *g;
  if (group >= (total + p->g.group_pages - 1) >> p->g.group_shift) return SDB_END;
  int rc = group_get(p, group, &g);
  if (rc != SDB_OK) {
    *index = p->g.root_pages + (group + 1) * per_group;
    return rc;
  }
  if (entry == 0) {
    dir_entry e = dir_get(p->root_dir, group);
    rc = fixed_one(p, group_dir_offset(&p->g, group, e.copy), e, "group directory", group, buf);
    if (rc == SDB_CORRUPT) *mends = rewrite(p, g, UINT32_MAX);
    return rc;
  }
  dir_entry e = entry_of(p, g, entry - 1);
  rc = fixed_one(p, chunk_offset(&p->g, group, entry - 1, e.copy), e, entry - 1 < p->g.map_chunks ? "map chunk" : "bitmap chunk",
                 entry - 1, buf);
  if (rc == SDB_CORRUPT) *mends = rewrite(p, g, entry - 1);
  return rc;
}

/* --- Pages of large contents that no document has ----------------------------------------------------------------------------- */

/* Used pages of a bitmap chunk. */
static int orphans_used(pager *p, uint32_t n) {
  struct bitmap *b;
  uint32_t bit;
  uint64_t first, end;
  bitmap_span(p, n, &first, &end);
  if (end > p->orphans_limit) end = p->orphans_limit;
  if (end <= first) return SDB_OK;
  int rc = bitmap_get(p, (uint32_t)first, &b, &bit);
  for (uint64_t i = first; rc == SDB_OK && i < end; i++)
    if (bit_get(b->used, (uint32_t)(i - first)) && !pager_page_fixed(p, (uint32_t)i)) bit_set(p->orphans, (uint32_t)i);
  return rc;
}

/* Places of logical pages in the last checkpoint: with no checkpoint on its way, those that are marked used. */
static int orphans_placed(pager *p, uint32_t number) {
  struct map_chunk *c;
  uint32_t slot;
  int rc = map_get(p, number, &c, &slot);
  for (uint32_t i = 0; rc == SDB_OK && i < p->g.chunk_words; i++)
    if (c->places[i] && c->places[i] < p->orphans_limit) bit_clear(p->orphans, c->places[i]);
  return rc;
}

int pager_orphans_mark(pager *p, uint32_t *cursor) {
  uint32_t bit;
  if (p->cp.active) return SDB_OK;
  if (*cursor == 0) {
    pager_orphans_end(p);
    p->orphans = mem_new(p->e, p->pages_total / 8 + 1);
    if (!p->orphans) return env_fail(p->e, SDB_NO_MEMORY, "out of memory for finding pages that no document has");
    p->orphans_limit = p->pages_total;
  }
  uint32_t bitmaps = bitmap_index(p, (uint32_t)(p->orphans_limit - 1), &bit) + 1, n = (*cursor)++;
  if (n < bitmaps) return orphans_used(p, n);
  uint64_t number = (uint64_t)(n - bitmaps) * p->g.chunk_words;
  return number < p->logical_limit ? orphans_placed(p, (uint32_t)number) : SDB_END;
}

void pager_orphans_spare(pager *p, run r) {
  for (uint64_t i = r.start; p->orphans && i < (uint64_t)r.start + r.count && i < p->orphans_limit; i++)
    bit_clear(p->orphans, (uint32_t)i);
}

int pager_orphans_next(pager *p, uint32_t *cursor, run *r) {
  if (p->cp.active) return SDB_BUSY;
  while (*cursor < p->orphans_limit && !bit_get(p->orphans, *cursor)) ++*cursor;
  if (*cursor >= p->orphans_limit) return SDB_END;
  *r = (run){.start = *cursor};
  while (*cursor < p->orphans_limit && bit_get(p->orphans, *cursor)) ++*cursor, r->count++;
  return SDB_OK;
}

bool pager_orphans_any(const pager *p) { return p->orphans != NULL; }

void pager_orphans_end(pager *p) {
  mem_free(p->e, p->orphans);
  p->orphans = NULL;
  p->orphans_limit = 0;
}

/* --- Pages that nothing reaches ----------------------------------------------------------------------------------------------- */

int pager_doom_begin(pager *p) {
  pager_doom_end(p);
  p->doomed = mem_new(p->e, p->logical_limit / 8 + 1);
  if (!p->doomed) return env_fail(p->e, SDB_NO_MEMORY, "out of memory for finding pages that nothing reaches");
  p->doomed_limit = (uint32_t)p->logical_limit;
  return SDB_OK;
}

int pager_doom_trees(pager *p, uint32_t *cursor, uint32_t words) {
  for (; words > 0 && *cursor < p->doomed_limit; words--, ++*cursor) {
    struct map_chunk *c;
    uint32_t slot;
    int rc = map_get(p, *cursor, &c, &slot);
    if (rc != SDB_OK) return rc;
    uint64_t w = atomic_load_explicit(&c->word[slot], memory_order_acquire);
    uint8_t kind = w == 0 ? PAGE_FREE : word_is_place(w) ? kind_of(w) : frame_of(w)->kind;
    if (kind == PAGE_INNER || kind == PAGE_LEAF) bit_set(p->doomed, *cursor);
  }
  return *cursor < p->doomed_limit ? SDB_OK : SDB_END;
}

void pager_doom_spare(pager *p, uint32_t number) {
  if (p->doomed && number < p->doomed_limit) bit_clear(p->doomed, number);
}

bool pager_doomed(pager *p, uint32_t *cursor) {
  while (*cursor < p->doomed_limit && !bit_get(p->doomed, *cursor)) ++*cursor;
  return *cursor < p->doomed_limit;
}

void pager_doom_end(pager *p) {
  mem_free(p->e, p->doomed);
  p->doomed = NULL;
  p->doomed_limit = 0;
}

uint64_t pager_oldest_view(pager *p) { return pins_oldest(p); }
