/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* space.c - groups, their directories, chunks of map and bitmap, and who may be given which physical page.
 *
 * Two bitmaps for the same pages. `used` is what the state of a checkpoint reaches and goes to disk; `busy` is a superset that is
 * never written: pages freed but still reachable from a header slot or a view, uploads, places chosen for pages that no checkpoint
 * has yet. A crash forgets `busy`, and with it frees exactly what nobody names (I3).
 *
 *     reserve            use                  release                 checkpoint >= version, pins and readers gone
 *   free ----> busy ----------> busy + used -----------> busy (limbo) ----------------------------------> free
 *
 * While a checkpoint runs, `used` must stay the state it stands for: changes by later commits wait as deltas until it ends. Of live
 * bytes a copy is kept for it instead, because the cleaner asks for the newest.
 */
#include "codec.h"
#include "pager_state.h"

enum { PUNCH_BYTES = 1 << 20 };

/* --- Groups and chunks on first use ------------------------------------------------------------------------------------------- */

static int read_checked(pager *p, uint64_t offset, dir_entry entry, uint8_t *buf, const char *what, uint32_t index) {
  if (!entry.written) {
    memset(buf, 0, p->g.page_size);
    return SDB_OK;
  }
  int rc = p->e->storage->read(p->file, offset, buf, p->g.page_size);
  if (rc != SDB_OK) return env_fail(p->e, rc, "cannot read the %s %u at offset %llu", what, index, (unsigned long long)offset);
  if (crc32c(0, buf, p->g.page_size) != entry.crc)
    return env_fail(p->e, SDB_CORRUPT, "the %s %u at offset %llu does not match its checksum; restore a copy", what, index,
                    (unsigned long long)offset);
  return SDB_OK;
}

int root_dir_load(pager *p, uint32_t index) {
  if (p->root_loaded[index]) return SDB_OK;
  dir_entry entry = p->head.root_dir[index];
  int rc = read_checked(p, root_dir_offset(&p->g, index, entry.copy), entry, p->root_dir + (size_t)index * p->g.page_size,
                        "root directory page", index);
  if (rc == SDB_OK) p->root_loaded[index] = true;
  return rc;
}

static void group_free(pager *p, struct group *g) {
  if (!g) return;
  mem_free(p->e, g->dir);
  mem_free(p->e, (void *)(uintptr_t)g->maps);
  mem_free(p->e, g->bitmaps);
  mem_free(p->e, g);
}

static struct group *group_new(pager *p) {
  struct group *g = mem_new(p->e, sizeof *g);
  if (!g) return NULL;
  g->dir = mem_alloc(p->e, p->g.page_size);
  g->maps = mem_new(p->e, p->g.map_chunks * sizeof *g->maps);
  g->bitmaps = mem_new(p->e, p->g.bitmaps * sizeof *g->bitmaps);
  if (g->dir && g->maps && g->bitmaps) return g;
  group_free(p, g);
  return NULL;
}

static int group_load(pager *p, uint32_t index, struct group **out) {
  uint32_t per_page = p->g.page_size / 8;
  int rc = root_dir_load(p, index / per_page);
  if (rc != SDB_OK) return rc;
  struct group *g = group_new(p);
  if (!g) return env_fail(p->e, SDB_NO_MEMORY, "out of memory for the directory of group %u", index);
  dir_entry entry = dir_get(p->root_dir, index);
  rc = read_checked(p, group_dir_offset(&p->g, index, entry.copy), entry, g->dir, "group directory", index);
  if (rc != SDB_OK) {
    group_free(p, g);
    return rc;
  }
  atomic_store(&p->groups[index], g);
  if (index >= atomic_load(&p->group_limit)) atomic_store(&p->group_limit, index + 1);
  *out = g;
  return SDB_OK;
}

int group_get(pager *p, uint32_t index, struct group **out) {
  if (index >= MAX_GROUPS) return env_fail(p->e, SDB_CORRUPT, "a page number lies beyond the largest database");
  *out = atomic_load_explicit(&p->groups[index], memory_order_acquire);
  if (*out) return SDB_OK;
  mutex_lock(&p->load_lock);
  *out = atomic_load(&p->groups[index]);
  int rc = *out ? SDB_OK : group_load(p, index, out);
  mutex_unlock(&p->load_lock);
  return rc;
}

static int map_load(pager *p, struct group *g, uint32_t group, uint32_t index) {
  uint32_t words = p->g.chunk_words;
  struct map_chunk *c = mem_new(p->e, sizeof *c + words * sizeof c->word[0]);
  uint8_t *page = mem_alloc(p->e, p->g.page_size);
  uint16_t *live = mem_new(p->e, 2 * words * sizeof *live);
  uint32_t *places = mem_new(p->e, words * sizeof *places);
  int rc = c && page && live && places ? SDB_OK : env_fail(p->e, SDB_NO_MEMORY, "out of memory for a chunk of the page map");
  if (rc == SDB_OK) {
    dir_entry entry = dir_get(g->dir, index);
    rc = read_checked(p, chunk_offset(&p->g, group, index, entry.copy), entry, page, "map chunk", group * p->g.map_chunks + index);
  }
  for (uint32_t i = 0; rc == SDB_OK && i < words; i++) {
    uint64_t w = get64(page + 8 * (size_t)i);
    uint32_t place = (uint32_t)w;
    if (w == 0) continue;
    if (place >= p->pages_total || pager_page_fixed(p, place) || (w >> 40) * 8 > p->g.page_size) {
      rc = env_fail(p->e, SDB_CORRUPT, "the page map names an impossible place %u; restore a copy", place);
      break;
    }
    atomic_init(&c->word[i], word_place(place, (uint8_t)(w >> 32)));
    live[i] = (uint16_t)(w >> 40);
    places[i] = place;
    c->used++;
  }
  mem_free(p->e, page);
  if (rc != SDB_OK) {
    mem_free(p->e, c);
    mem_free(p->e, live);
    mem_free(p->e, places);
    return rc;
  }
  c->places = places;
  c->live = live;
  c->stored = live + words;
  atomic_store(&g->maps[index], c);
  return SDB_OK;
}

int map_get(pager *p, uint32_t number, struct map_chunk **chunk, uint32_t *slot) {
  struct group *g;
  uint32_t group = number >> p->g.group_shift, inside = number & (p->g.group_pages - 1);
  uint32_t index = inside >> p->g.chunk_shift;
  int rc = group_get(p, group, &g);
  if (rc != SDB_OK) return rc;
  *slot = inside & (p->g.chunk_words - 1);
  *chunk = atomic_load_explicit(&g->maps[index], memory_order_acquire);
  if (*chunk) return SDB_OK;
  mutex_lock(&p->load_lock);
  if (!atomic_load(&g->maps[index])) rc = map_load(p, g, group, index);
  *chunk = atomic_load(&g->maps[index]);
  mutex_unlock(&p->load_lock);
  return rc;
}

void bitmap_span(const pager *p, uint32_t n, uint64_t *first, uint64_t *end) {
  uint32_t group = n / p->g.bitmaps, b = n % p->g.bitmaps;
  uint64_t covers = p->g.chunk_bits < p->g.group_pages ? p->g.chunk_bits : p->g.group_pages;
  *first = ((uint64_t)group << p->g.group_shift) + b * covers;
  *end = *first + covers < p->pages_total ? *first + covers : p->pages_total;
}

static uint32_t bit_first(const uint8_t *bits, uint32_t from, uint32_t end, bool set) {
  uint8_t skip = set ? 0x00 : 0xFF;
  while (from < end) {
    if ((from & 7) == 0 && bits[from >> 3] == skip) {
      from += 8;
      continue;
    }
    if (bit_get(bits, from) == set) return from;
    from++;
  }
  return end;
}

static uint32_t punch_pages(const pager *p) { return PUNCH_BYTES >> p->g.page_bits; }

/* Which free pages were punched out is not on disk. It can only be those of runs of 1 MB and more: only such are punched, and what
 * is filled again of one leaves such a run or nothing. */
static void holes_suspect(const pager *p, struct bitmap *m, uint32_t count) {
  for (uint32_t i = 0; i < count;) {
    uint32_t start = bit_first(m->busy, i, count, false), stop = bit_first(m->busy, start, count, true);
    i = stop;
    if (stop - start < punch_pages(p)) continue;
    for (uint32_t k = start; k < stop; k++) {
      bit_set(m->busy, k);
      bit_set(m->hole, k);
    }
    m->holes += stop - start;
  }
}

static int bitmap_load(pager *p, struct group *g, uint32_t n) {
  uint32_t group = n / p->g.bitmaps, b = n % p->g.bitmaps, size = p->g.page_size;
  struct bitmap *m = mem_new(p->e, sizeof *m);
  uint8_t *bits = mem_new(p->e, 3 * (size_t)size);
  if (!m || !bits) {
    mem_free(p->e, m);
    mem_free(p->e, bits);
    return env_fail(p->e, SDB_NO_MEMORY, "out of memory for a chunk of the free-space bitmap");
  }
  m->used = bits;
  m->busy = bits + size;
  m->hole = bits + 2 * (size_t)size;
  uint32_t index = p->g.map_chunks + b;
  dir_entry entry = dir_get(g->dir, index);
  int rc = read_checked(p, chunk_offset(&p->g, group, index, entry.copy), entry, m->used, "bitmap chunk", n);
  if (rc != SDB_OK) {
    mem_free(p->e, m);
    mem_free(p->e, bits);
    return rc;
  }
  uint64_t first, end;
  bitmap_span(p, n, &first, &end);
  for (uint64_t i = first; i < first + p->g.chunk_bits && i < (uint64_t)group_body(&p->g, group); i++)
    if (pager_page_fixed(p, (uint32_t)i)) bit_set(m->used, (uint32_t)(i - first));
  memcpy(m->busy, m->used, size);
  uint32_t count = (uint32_t)(end > first ? end - first : 0), unused = 0;
  for (uint32_t i = 0; i < count; i++) unused += !bit_get(m->busy, i);
  if (p->e->storage->fill) holes_suspect(p, m, count);
  m->available = unused - m->holes;
  p->available += m->available;
  p->holes += m->holes;
  p->unloaded -= unused < p->unloaded ? unused : p->unloaded;
  g->bitmaps[b] = m;
  return SDB_OK;
}

static int bitmap_at(pager *p, uint32_t n, struct bitmap **out) {
  struct group *g;
  int rc = group_get(p, n / p->g.bitmaps, &g);
  if (rc == SDB_OK && !g->bitmaps[n % p->g.bitmaps]) rc = bitmap_load(p, g, n);
  if (rc == SDB_OK) *out = g->bitmaps[n % p->g.bitmaps];
  return rc;
}

uint32_t bitmap_index(const pager *p, uint32_t physical, uint32_t *bit) {
  uint32_t group = physical >> p->g.group_shift, inside = physical & (p->g.group_pages - 1);
  *bit = inside % p->g.chunk_bits;
  return group * p->g.bitmaps + inside / p->g.chunk_bits;
}

int bitmap_get(pager *p, uint32_t physical, struct bitmap **b, uint32_t *bit) {
  return bitmap_at(p, bitmap_index(p, physical, bit), b);
}

/* --- Allocation --------------------------------------------------------------------------------------------------------------- */

/* In one chunk: the first run of `want` clear bits, or, when `any`, of at least `least`; else the longest of at least `least`. */
static bool find_run(const uint8_t *bits, uint32_t from, uint32_t end, uint32_t want, uint32_t least, bool any, run *best) {
  while (from < end) {
    uint32_t start = bit_first(bits, from, end, false);
    if (start == end) break;
    uint32_t limit = end - start < want ? end : start + want;
    uint32_t stop = bit_first(bits, start, limit, true);
    uint32_t count = stop - start;
    if (count >= least && count > best->count) *best = (run){start, count};
    if (best->count >= want || (any && best->count >= least)) return true;
    from = stop;
  }
  return false;
}

/* Bitmap chunks are loaded before their pages become more: what is new was just allocated, and nothing of it a hole. The first one
 * covers more pages from here on, so its count in the directory must follow. */
static int space_extend(pager *p, uint64_t old, uint64_t total) {
  struct bitmap *b;
  uint32_t bit;
  uint64_t covers = p->g.chunk_bits < p->g.group_pages ? p->g.chunk_bits : p->g.group_pages;
  for (uint64_t at = old - 1; at < total; at = (at / covers + 1) * covers) {
    int rc = bitmap_get(p, (uint32_t)at, &b, &bit);
    if (rc != SDB_OK) return rc;
    if (at == old - 1) b->dirty = true;
  }
  p->pages_total = total;
  for (uint64_t at = old; at < total; at++) {
    if (pager_page_fixed(p, (uint32_t)at) || bitmap_get(p, (uint32_t)at, &b, &bit) != SDB_OK) continue; /* loaded above */
    b->available++;
    p->available++;
    p->unused++;
  }
  return SDB_OK;
}

static uint64_t grow_step(const pager *p) {
  uint64_t step = (p->pages_total << p->g.page_bits) / 32;
  return step < 1 << 20 ? 1 << 20 : step > 64 << 20 ? 64 << 20 : step;
}

/* Makes the file longer by at least `need` usable pages if that is allowed and possible. */
static int space_grow(pager *p, uint32_t need) {
  const geometry *g = &p->g;
  uint64_t most = p->config.max_bytes >> g->page_bits;
  if (most > (uint64_t)MAX_GROUPS << g->group_shift) most = (uint64_t)MAX_GROUPS << g->group_shift;
  uint64_t step = grow_step(p);
  uint64_t least = p->pages_total + need + g->head_pages, total = p->pages_total + (step >> g->page_bits);
  if (total < least) total = least;
  if (total > most) total = most;
  p->refused = true; /* until it has succeeded */
  if (total <= p->pages_total)
    return env_fail(p->e, SDB_FULL, "the data file has reached max_db_size (%llu bytes); delete documents or allow more",
                    (unsigned long long)p->config.max_bytes);
  int rc = p->e->storage->allocate(p->file, total << g->page_bits);
  if (rc == SDB_FULL && total > least && least <= most) {
    total = least;
    rc = p->e->storage->allocate(p->file, total << g->page_bits);
  }
  if (rc == SDB_FULL)
    return env_fail(p->e, rc, "the device has no space left for extending the data file to %llu bytes; deletes still work",
                    (unsigned long long)(total << g->page_bits));
  if (rc != SDB_OK)
    return env_fail(p->e, rc, "cannot extend the data file to %llu bytes", (unsigned long long)(total << g->page_bits));
  uint64_t old = p->pages_total;
  p->refused = false;
  return space_extend(p, old, total);
}

/* The next checkpoint must find a place for every dirty page, and deletes must be able to make some more of them. */
uint64_t space_reserve(const pager *p) {
  uint64_t used = p->pages_total - p->unused, room = used < p->config.cache_pages ? used : p->config.cache_pages;
  return p->dirty_count + DELETE_RESERVE + room / 16;
}

/* The page is no hole any more: free, or held by who says so. */
static void hole_forget(pager *p, struct bitmap *b, uint32_t bit, bool now_free) {
  bit_clear(b->hole, bit);
  b->holes--;
  p->holes--;
  if (!now_free) return;
  bit_clear(b->busy, bit);
  b->available++;
  p->available++;
}

uint64_t space_free(const pager *p) { return p->available + p->holes + p->unloaded; }

/* Forgets the free pages at the end of the file; all of them were free in both slots, because what is freed stays busy until then.
 * The reserve stays: on a full device nobody gives it back. The file itself is cut when a checkpoint that says so is complete. */
void space_shrink(pager *p) {
  uint64_t total = p->pages_total;
  while (total > group_body(&p->g, 0)) {
    struct bitmap *b;
    uint32_t bit;
    if (pager_page_fixed(p, (uint32_t)(total - 1)) || bitmap_get(p, (uint32_t)(total - 1), &b, &bit) != SDB_OK) break;
    bool hole = bit_get(b->hole, bit);
    if (!hole && (bit_get(b->busy, bit) || p->available <= space_reserve(p) + DELETE_RESERVE)) break;
    if (hole) hole_forget(p, b, bit, true); /* no part of the reserve */
    b->dirty = true;
    b->available--;
    p->available--;
    p->unused--;
    total--;
  }
  p->pages_total = total;
  if (p->single_hint >= total) p->single_hint = 0;
}

/* Chunks that are not loaded tell their free pages through the directory, so a search over a large, full file stays small. */
static bool chunk_hopeless(pager *p, uint32_t n, uint32_t least) {
  struct group *g = atomic_load(&p->groups[n / p->g.bitmaps]);
  if (!g) return false;
  struct bitmap *b = g->bitmaps[n % p->g.bitmaps];
  if (b) return b->available < least;
  uint64_t first, end;
  bitmap_span(p, n, &first, &end);
  if (end > p->head.pages_total) return false; /* the file has grown since the directory counted */
  dir_entry entry = dir_get(g->dir, p->g.map_chunks + n % p->g.bitmaps);
  return entry.written && entry.count < least;
}

static int space_search(pager *p, uint32_t from, uint32_t want, uint32_t least, bool any, run *r) {
  uint32_t bit, best_chunk = 0, last = bitmap_index(p, (uint32_t)(p->pages_total - 1), &bit);
  uint32_t n = bitmap_index(p, from, &bit);
  run best = {0, 0};
  for (; n <= last; n++, bit = 0) {
    struct bitmap *b;
    if (chunk_hopeless(p, n, least)) continue;
    int rc = bitmap_at(p, n, &b);
    if (rc != SDB_OK) return rc;
    uint64_t first, end;
    bitmap_span(p, n, &first, &end);
    uint32_t before = best.count;
    bool done = find_run(b->busy, bit, (uint32_t)(end - first), want, least, any, &best);
    if (best.count > before) {
      best_chunk = n;
      *r = (run){(uint32_t)first + best.start, best.count};
    }
    if (done) break;
  }
  if (best.count == 0) return SDB_FULL;
  struct bitmap *b;
  int rc = bitmap_at(p, best_chunk, &b);
  if (rc != SDB_OK) return rc;
  for (uint32_t i = 0; i < best.count; i++) bit_set(b->busy, best.start + i);
  b->available -= best.count;
  p->available -= best.count;
  space_forget_verified(p, *r);
  return SDB_OK;
}

/* The lowest run of at least `least` holes. SDB_NOT_FOUND. */
static int hole_find(pager *p, uint32_t least, struct bitmap **b, run *r) {
  uint32_t bit, last = bitmap_index(p, (uint32_t)(p->pages_total - 1), &bit);
  for (uint32_t n = 0; n <= last && p->holes > 0; n++) {
    struct group *g = atomic_load(&p->groups[n / p->g.bitmaps]);
    *b = g ? g->bitmaps[n % p->g.bitmaps] : NULL;
    if (!*b || (*b)->holes < least) continue;
    uint64_t first, end;
    bitmap_span(p, n, &first, &end);
    for (uint32_t i = 0, count = (uint32_t)(end - first); i < count;) {
      uint32_t start = bit_first((*b)->hole, i, count, true), stop = bit_first((*b)->hole, start, count, false);
      if (stop - start >= least && stop > start) {
        *r = (run){(uint32_t)first + start, stop - start};
        return SDB_OK;
      }
      i = stop;
    }
  }
  return SDB_NOT_FOUND;
}

/* Space for punched pages, low places first: as much at a time as the file would grow, and never so that a run of holes is left
 * that the next open would not suspect. */
static int hole_fill(pager *p, uint32_t need, uint32_t least) {
  struct bitmap *b;
  run r;
  int rc = hole_find(p, least, &b, &r);
  if (rc != SDB_OK) return rc;
  uint32_t step = (uint32_t)(grow_step(p) >> p->g.page_bits), whole = r.count;
  for (uint32_t want = need > step ? need : step;; want = need < punch_pages(p) ? punch_pages(p) : need) {
    r.count = want < whole && whole - want >= punch_pages(p) ? want : whole;
    rc = p->e->storage->fill(p->file, page_offset(&p->g, r.start), page_offset(&p->g, r.count));
    if (rc != SDB_FULL || want <= need || want <= punch_pages(p)) break;
  }
  if (rc != SDB_OK) {
    p->refused |= rc == SDB_FULL;
    return env_fail(p->e, rc, "cannot get space for %u pages inside the data file", r.count);
  }
  uint32_t bit = 0;
  (void)bitmap_index(p, r.start, &bit);
  for (uint32_t i = 0; i < r.count; i++) hole_forget(p, b, bit + i, true);
  if (r.start < p->single_hint) p->single_hint = r.start;
  return SDB_OK;
}

/* More pages to allocate from: holes inside the file, else a longer one. */
static int space_more(pager *p, uint32_t need, uint32_t least) {
  int rc = hole_fill(p, need, least);
  return rc == SDB_NOT_FOUND ? space_grow(p, need) : rc;
}

/* Loads one more bitmap that has free pages, so that they count. SDB_END: there is none. */
static int space_load_more(pager *p) {
  uint32_t bit, last = bitmap_index(p, (uint32_t)(p->pages_total - 1), &bit);
  while (p->unloaded > 0 && p->load_next <= last) {
    struct bitmap *b;
    uint32_t n = p->load_next++;
    struct group *g = atomic_load(&p->groups[n / p->g.bitmaps]);
    if (g && (g->bitmaps[n % p->g.bitmaps] || chunk_hopeless(p, n, 1))) continue;
    int rc = bitmap_at(p, n, &b);
    if (rc != SDB_OK) p->load_next = n; /* again next time */
    return rc;
  }
  return SDB_END;
}

int space_alloc(pager *p, uint32_t want, uint32_t least, run *r) {
  bool any = least == 1; /* single pages: the lowest place; runs: the longest */
  for (int attempt = 0; attempt < 3; attempt++) {
    if (p->available + p->unloaded >= least) {
      uint32_t from = any ? p->single_hint : 0;
      int rc = space_search(p, from, want, least, any, r);
      if (rc == SDB_FULL && from > 0) rc = space_search(p, 0, want, least, any, r);
      if (rc == SDB_OK && any) p->single_hint = r->start + r->count;
      if (p->single_hint >= p->pages_total) p->single_hint = 0;
      if (rc != SDB_FULL) return rc;
    }
    if (attempt == 0) space_reclaim(p);
    else if (attempt == 1) {
      int rc = space_more(p, want, least);
      if (rc != SDB_OK) return rc;
    }
  }
  return env_fail(p->e, SDB_FULL, "no free run of %u pages in the data file", least);
}

int space_ensure_group(pager *p, uint32_t group) {
  uint64_t need = group_body(&p->g, group);
  while (p->pages_total < need) {
    int rc = space_grow(p, (uint32_t)(need - p->pages_total));
    if (rc != SDB_OK) return rc;
  }
  return SDB_OK;
}

/* --- Punching ----------------------------------------------------------------------------------------------------------------- */

/* The highest free run of at least 1 MB in a chunk. */
static bool highest_run(const pager *p, const struct bitmap *b, uint32_t count, run *r) {
  r->count = 0;
  for (uint32_t i = 0; i < count;) {
    uint32_t start = bit_first(b->busy, i, count, false), stop = bit_first(b->busy, start, count, true);
    if (stop - start >= punch_pages(p)) *r = (run){start, stop - start};
    i = stop;
  }
  return r->count > 0;
}

/* Takes the next run to punch out from what can be allocated. High places first, and never the reserve: it must be there when the
 * device is full. */
static bool punch_take(pager *p, run *r) {
  uint64_t keep = space_reserve(p) + DELETE_RESERVE + p->punch_keep, first, end;
  for (; p->punch_next > 0; p->punch_next--) {
    uint32_t n = p->punch_next - 1;
    struct group *g = atomic_load(&p->groups[n / p->g.bitmaps]);
    struct bitmap *b = g ? g->bitmaps[n % p->g.bitmaps] : NULL;
    bitmap_span(p, n, &first, &end);
    if (!b || end <= first || !highest_run(p, b, (uint32_t)(end - first), r)) continue;
    if (p->available < keep + punch_pages(p)) return false;
    if (p->available - r->count < keep) {
      uint32_t most = (uint32_t)(p->available - keep);
      *r = (run){r->start + r->count - most, most};
    }
    for (uint32_t i = 0; i < r->count; i++) {
      bit_set(b->busy, r->start + i);
      bit_set(b->hole, r->start + i);
    }
    b->available -= r->count;
    p->available -= r->count;
    b->holes += r->count;
    p->holes += r->count;
    r->start += (uint32_t)first;
    return true;
  }
  return false;
}

void pager_punch_begin(pager *p, bool all) {
  uint32_t bit;
  p->punch_keep = all ? 0 : p->turnover;
  p->punch_next = p->e->storage->fill ? bitmap_index(p, (uint32_t)(p->pages_total - 1), &bit) + 1 : 0;
}

bool pager_punch(pager *p, unsigned budget) {
  run r;
  bool some = true;
  while (some && budget-- > 0) {
    pager_lock(p);
    some = punch_take(p, &r);
    pager_unlock(p);
    if (some) (void)p->e->storage->punch(p->file, page_offset(&p->g, r.start), page_offset(&p->g, r.count)); /* only space */
  }
  return some;
}

/* --- From reserved to used and back ------------------------------------------------------------------------------------------- */

void space_unreserve(pager *p, run r) {
  for (uint32_t i = 0; i < r.count; i++) {
    struct bitmap *b;
    uint32_t bit;
    if (bitmap_get(p, r.start + i, &b, &bit) != SDB_OK || !bit_get(b->busy, bit)) continue; /* loaded when it was reserved */
    bit_clear(b->busy, bit);
    b->available++;
    p->available++;
    pager_lift(p, r.start + i);
  }
  if (r.count && r.start < p->single_hint) p->single_hint = r.start;
}

void space_mark(pager *p, run r, bool used) {
  for (uint32_t i = 0; i < r.count; i++) {
    struct bitmap *b;
    uint32_t bit;
    if (bitmap_get(p, r.start + i, &b, &bit) != SDB_OK) continue;          /* loaded when it was reserved */
    if (bit_get(b->used, bit) != used) p->unused += used ? UINT64_MAX : 1; /* minus or plus one */
    if (used) {
      bit_set(b->used, bit);
      if (!bit_get(b->busy, bit)) bit_set(b->busy, bit), b->available--, p->available--;
    } else {
      bit_clear(b->used, bit);
      pager_orphans_spare(p, (run){r.start + i, 1});
      pager_lift(p, r.start + i);
    }
    b->dirty = true;
  }
}

static void queue_push(pager *p, struct run_queue *q, struct limbo_run item) {
  if (q->head == q->count) q->head = q->count = 0;
  if (q->head > 1024 && q->head > q->count / 2) {
    memmove(q->items, q->items + q->head, (q->count - q->head) * sizeof *q->items);
    q->count -= q->head;
    q->head = 0;
  }
  void *items = q->items;
  if (!mem_reserve(p->e, &items, &q->cap, q->count + 1, sizeof *q->items)) return; /* held until the next open: safe, only unused */
  q->items = items;
  q->items[q->count++] = item;
}

void space_release(pager *p, run r, uint64_t version) {
  if (r.count) queue_push(p, &p->limbo, (struct limbo_run){r, version});
}

/* A page written ahead of a checkpoint and superseded before one named it (`used` says so, being the state of both slots while no
 * checkpoint runs) need not wait for the next. A copy being made may stand for an older one, which did name it. */
void space_release_page(pager *p, uint32_t place, uint64_t version) {
  struct bitmap *b;
  uint32_t bit;
  bool named = p->cp.active || p->frozen || bitmap_get(p, place, &b, &bit) != SDB_OK || bit_get(b->used, bit);
  if (named) queue_push(p, &p->spent, (struct limbo_run){{place, 1}, version});
  else queue_push(p, &p->cooling, (struct limbo_run){{place, 1}, epoch_advance(p)});
}

bool pager_starved(const pager *p) {
  bool held =
      p->old_first || p->limbo.head < p->limbo.count || p->spent.head < p->spent.count; /* by versions to be published, too */
  if (p->refused && held) return true;
  return p->available + p->unloaded < p->dirty_count + DELETE_RESERVE;
}

bool pager_spacious(const pager *p) { return p->available > p->pages_total / 4 + p->turnover; }

bool pager_refused(const pager *p) { return p->refused; }

static void queue_cool(pager *p, struct run_queue *q, uint64_t bound) {
  if (q->head == q->count || q->items[q->head].version > bound) return;
  uint64_t stamp = epoch_advance(p);
  while (q->head < q->count && q->items[q->head].version <= bound)
    queue_push(p, &p->cooling, (struct limbo_run){q->items[q->head++].r, stamp});
}

void space_reclaim(pager *p) {
  uint64_t slots = p->checkpoint_version, pins = pins_oldest(p);
  if (p->frozen && p->frozen_version < slots) slots = p->frozen_version;
  queue_cool(p, &p->limbo, pins < slots ? pins : slots);
  queue_cool(p, &p->spent, slots);
  struct run_queue *q = &p->cooling;
  if (q->head == q->count) return;
  uint64_t oldest = epoch_oldest(p);
  while (q->head < q->count && q->items[q->head].version < oldest) space_unreserve(p, q->items[q->head++].r);
}

/* A later copy may hold more than it needs while an earlier one goes on; never less. */
void pager_freeze(pager *p) {
  if (p->frozen++ == 0) p->frozen_version = p->checkpoint_version;
}

void pager_thaw(pager *p) {
  p->frozen--;
  space_reclaim(p);
}

void space_fold(pager *p) {
  if (p->cp.active) return;
  for (size_t i = 0; i < p->delta_count; i++) { space_mark(p, p->deltas[i].r, p->deltas[i].use); }
  p->delta_count = 0;
}

static void delta_add(pager *p, struct delta d) {
  assert(p->delta_count < p->delta_cap); /* pager_admit made room */
  p->deltas[p->delta_count++] = d;
  space_fold(p);
}

static int deltas_reserve(pager *p, size_t runs) {
  void *deltas = p->deltas;
  if (!mem_reserve(p->e, &deltas, &p->delta_cap, p->delta_count + 2 * runs, sizeof *p->deltas))
    return env_fail(p->e, SDB_NO_MEMORY, "out of memory for the list of changes");
  p->deltas = deltas;
  return SDB_OK;
}

/* Makes sure of so many pages to allocate from. */
static int space_have(pager *p, uint64_t need) {
  if (p->available >= need) return SDB_OK;
  space_reclaim(p);
  int rc = SDB_OK;
  while (rc == SDB_OK && p->available < need) rc = space_load_more(p);
  if (rc == SDB_END) rc = SDB_OK;
  for (uint64_t before = UINT64_MAX; rc == SDB_OK && p->available < need && p->available != before;) {
    before = p->available;
    rc = space_more(p, (uint32_t)(need - p->available), 1);
  }
  if (rc == SDB_OK && p->available < need)
    rc = env_fail(p->e, SDB_FULL, "the data file has only %llu free pages left, kept for deletes and checkpoints",
                  (unsigned long long)p->available);
  return rc;
}

int pager_admit(pager *p, size_t runs, uint32_t pages, bool freeing) {
  int rc = deltas_reserve(p, runs);
  return rc != SDB_OK || freeing ? rc : space_have(p, space_reserve(p) + pages);
}

int pager_admit_moving(pager *p, size_t runs, uint32_t pages) {
  int rc = deltas_reserve(p, runs);
  return rc == SDB_OK ? space_have(p, p->dirty_count + DELETE_RESERVE / 2 + pages) : rc;
}

int pager_reserve_run(pager *p, uint32_t want, uint32_t least, run *r) {
  return space_alloc(p, want, want > 1 && least < 2 ? 2 : least, r); /* a run of one page only where one is enough */
}
void pager_give_back(pager *p, run r) { space_unreserve(p, r); }

void pager_use_run(pager *p, run r) { delta_add(p, (struct delta){.r = r, .use = true}); }

void pager_free_run(pager *p, run r) {
  delta_add(p, (struct delta){.r = r, .use = false});
  space_release(p, r, p->open_version);
  p->open_used = true;
}

int pager_know_run(pager *p, run r) {
  if (r.count == 0 || r.start >= p->pages_total || r.count > p->pages_total - r.start) return SDB_CORRUPT;
  for (uint32_t i = r.start; i < r.start + r.count; i++) {
    struct bitmap *b;
    uint32_t bit;
    int rc = bitmap_get(p, i, &b, &bit);
    if (rc != SDB_OK) return rc;
    if (pager_page_fixed(p, i) || !bit_get(b->busy, bit) || bit_get(b->hole, bit)) return SDB_CORRUPT;
  }
  return SDB_OK;
}

void pager_live_add(pager *p, uint32_t number, int32_t bytes) {
  struct map_chunk *c;
  uint32_t slot;
  if (map_get(p, number, &c, &slot) != SDB_OK) return; /* loaded: the page has been read or written */
  if (p->cp.active && !c->behind) {
    memcpy(c->stored, c->live, p->g.chunk_words * sizeof *c->live);
    c->behind = true;
  }
  c->live[slot] = (uint16_t)(c->live[slot] + bytes / 8);
  if (!p->cp.active) c->dirty = true;
}

void space_live_fold(pager *p) {
  for (uint32_t i = 0; i < atomic_load(&p->group_limit); i++) {
    struct group *g = atomic_load(&p->groups[i]);
    for (uint32_t k = 0; g && k < p->g.map_chunks; k++) {
      struct map_chunk *c = atomic_load(&g->maps[k]);
      if (!c || !c->behind) continue;
      c->behind = false;
      c->dirty = true;
    }
  }
}

int pager_hold_run(pager *p, run r) {
  if (r.count == 0 || r.start >= p->pages_total || r.count > p->pages_total - r.start) return SDB_INVALID;
  for (uint32_t i = 0; i < r.count; i++) {
    struct bitmap *b;
    uint32_t bit;
    int rc = bitmap_get(p, r.start + i, &b, &bit);
    if (rc != SDB_OK) return rc;
    if (bit_get(b->used, bit)) return SDB_INVALID;
    if (bit_get(b->hole, bit)) {
      hole_forget(p, b, bit, false);
      continue;
    }
    if (bit_get(b->busy, bit)) continue; /* the same extent named again */
    bit_set(b->busy, bit);
    b->available--;
    p->available--;
  }
  return SDB_OK;
}

/* --- First touch and mapping -------------------------------------------------------------------------------------------------- */

static _Atomic uint8_t *verified_bits(pager *p, uint32_t physical, bool make) {
  struct group *g = atomic_load_explicit(&p->groups[physical >> p->g.group_shift], memory_order_acquire);
  if (!g && (!make || group_get(p, physical >> p->g.group_shift, &g) != SDB_OK)) return NULL;
  _Atomic uint8_t *bits = atomic_load_explicit(&g->verified, memory_order_acquire);
  if (bits || !make) return bits;
  _Atomic uint8_t *fresh = mem_new(p->e, p->g.group_pages / 8);
  if (!fresh) return NULL;
  if (atomic_compare_exchange_strong(&g->verified, &bits, fresh)) return fresh;
  mem_free(p->e, (void *)(uintptr_t)fresh);
  return bits;
}

bool space_is_verified(pager *p, uint32_t physical) {
  _Atomic uint8_t *bits = verified_bits(p, physical, false);
  uint32_t i = physical & (p->g.group_pages - 1);
  return bits && (atomic_load_explicit(&bits[i >> 3], memory_order_relaxed) >> (i & 7) & 1);
}

void space_set_verified(pager *p, uint32_t physical) {
  _Atomic uint8_t *bits = verified_bits(p, physical, true);
  uint32_t i = physical & (p->g.group_pages - 1);
  if (bits) atomic_fetch_or_explicit(&bits[i >> 3], (uint8_t)(1u << (i & 7)), memory_order_relaxed);
}

void space_forget_verified(pager *p, run r) {
  for (uint32_t k = 0; k < r.count; k++) {
    _Atomic uint8_t *bits = verified_bits(p, r.start + k, false);
    uint32_t i = (r.start + k) & (p->g.group_pages - 1);
    if (bits) atomic_fetch_and_explicit(&bits[i >> 3], (uint8_t) ~(1u << (i & 7)), memory_order_relaxed);
  }
}

const uint8_t *space_window(pager *p, uint32_t physical, uint64_t offset) {
  struct group *g;
  if (!p->mapped || group_get(p, physical >> p->g.group_shift, &g) != SDB_OK) return NULL;
  const void *base = atomic_load_explicit(&g->window, memory_order_acquire);
  if (!base) {
    mutex_lock(&p->load_lock);
    base = atomic_load(&g->window);
    if (!base) {
      base = p->e->storage->map(p->file, (uint64_t)(physical >> p->g.group_shift) << GROUP_BITS, 1u << GROUP_BITS);
      atomic_store(&g->window, base);
    }
    mutex_unlock(&p->load_lock);
  }
  if (!base) return NULL;
  return (const uint8_t *)base + page_offset(&p->g, physical & (p->g.group_pages - 1)) + offset;
}
