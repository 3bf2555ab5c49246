/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager_cache.c - clean pages in memory, where there is no mapping to read them from.
 *
 *     hand -> f3 -> f7 -> f1 -> ... -> back to f3        every clean frame is in the ring; dirty ones are not
 *             uses 2      0     3
 *
 * The hand goes round when there are more frames than page_cache_size: it takes one use from each frame it passes and evicts the
 * first that has none. A page just read has none either and stands where the hand comes last, so what is read once by a long scan
 * goes before what is read again and again. This is the clock with a count (GCLOCK): nearly as good as true LRU on skewed reads,
 * and a hit costs no lock, only a store while the count is not full.
 *
 * Frames are shared with the writer: a dirty frame counts too, and is bounded by writing ahead (pager_spill).
 */
#include "pager_state.h"

enum { SWEEP = 256, GONE = 16 };

/* --- The ring ----------------------------------------------------------------------------------------------------------------- */

static void ring_remove(pager *p, struct frame *f) { /* under ring_lock */
  if (!f->in_ring) return;
  if (f->ring_next == f) {
    p->ring_hand = NULL;
  } else {
    f->ring_prev->ring_next = f->ring_next;
    f->ring_next->ring_prev = f->ring_prev;
    if (p->ring_hand == f) p->ring_hand = f->ring_next;
  }
  f->in_ring = false;
}

static void ring_add(pager *p, struct frame *f) { /* under ring_lock */
  if (!p->ring_hand) {
    f->ring_prev = f->ring_next = p->ring_hand = f;
  } else {
    f->ring_next = p->ring_hand;
    f->ring_prev = p->ring_hand->ring_prev;
    f->ring_prev->ring_next = f->ring_next->ring_prev = f;
  }
  f->in_ring = true;
}

void cache_add(pager *p, struct frame *f) {
  mutex_lock(&p->ring_lock);
  ring_add(p, f);
  mutex_unlock(&p->ring_lock);
}

/* Asks under the lock, because a reader that loads the page puts the frame into word and ring in one step. */
void cache_remove(pager *p, struct frame *f) {
  mutex_lock(&p->ring_lock);
  ring_remove(p, f);
  mutex_unlock(&p->ring_lock);
}

/* Frames whose memory is not already on its way back. */
static bool over_full(const pager *p) {
  uint32_t held = atomic_load_explicit(&p->frames_held, memory_order_relaxed);
  uint32_t leaving = atomic_load_explicit(&p->frames_leaving, memory_order_relaxed);
  return held > leaving && held - leaving > atomic_load_explicit(&p->cache_pages, memory_order_relaxed);
}

/* The frame's word becomes a plain place again. False: it was used, or the writer has just put another frame in front. */
static bool evict(pager *p, struct frame *f) {
  struct map_chunk *c;
  uint32_t slot;
  uint8_t uses = atomic_load_explicit(&f->uses, memory_order_relaxed);
  if (uses) {
    atomic_store_explicit(&f->uses, (uint8_t)(uses - 1), memory_order_relaxed);
    return false;
  }
  if (map_get(p, f->number, &c, &slot) != SDB_OK) return false;
  uint64_t word = word_frame(f);
  if (!atomic_compare_exchange_strong(&c->word[slot], &word, word_place(f->place, f->kind))) return false;
  ring_remove(p, f);
  return true;
}

void cache_bound(pager *p) {
  struct frame *gone[GONE];
  while (over_full(p)) {
    unsigned count = 0, excess = 0;
    mutex_lock(&p->ring_lock);
    uint32_t held = atomic_load(&p->frames_held) - atomic_load(&p->frames_leaving);
    uint32_t most = atomic_load_explicit(&p->cache_pages, memory_order_relaxed);
    if (held > most) excess = held - most;
    for (unsigned steps = 0; steps < SWEEP && count < GONE && count < excess && p->ring_hand; steps++) {
      struct frame *f = p->ring_hand;
      p->ring_hand = f->ring_next;
      if (evict(p, f)) gone[count++] = f;
    }
    bool empty = !p->ring_hand;
    mutex_unlock(&p->ring_lock);
    for (unsigned i = 0; i < count; i++) frame_retire(p, gone[i]);
    if (empty) return; /* all that is left is dirty: writing ahead brings it down */
  }
}

/* --- Filling ------------------------------------------------------------------------------------------------------------------ */

int cache_fill(pager *p, uint32_t number, uint32_t place, uint8_t kind, uint8_t *buf) {
  int rc = p->e->storage->read(p->file, page_offset(&p->g, place), buf, p->g.page_size);
  if (rc != SDB_OK) return env_fail(p->e, SDB_IO, "cannot read physical page %u of the data file", place);
  rc = page_verify(p, buf, number, place, kind);
  if (rc == SDB_OK && unit_open(p->e, buf, p->g.page_size)) return SDB_OK;
  pager_quarantine(p, place, number, kind);
  if (rc != SDB_OK) return rc;
  return env_fail(p->e, SDB_CORRUPT, "page %u (at physical page %u) was not encrypted with this key as this page; restore a copy",
                  number, place);
}

int cache_load(pager *p, _Atomic uint64_t *word, uint64_t w, uint32_t number, const uint8_t **page) {
  atomic_fetch_add_explicit(&p->misses, 1, memory_order_relaxed);
  struct frame *f = frame_new(p, number, kind_of(w), true);
  if (!f) return SDB_NO_MEMORY;
  f->place = place_of(w);
  int rc = cache_fill(p, number, f->place, f->kind, f->data);
  if (rc == SDB_OK) { /* the word and the ring change together: a writer that meets the frame takes it out of the ring again */
    mutex_lock(&p->ring_lock);
    if (atomic_compare_exchange_strong(word, &w, word_frame(f))) ring_add(p, f);
    else rc = SDB_END;
    mutex_unlock(&p->ring_lock);
  }
  if (rc != SDB_OK) {
    frame_discard(p, f);
    return rc;
  }
  *page = f->data; /* evicted or not: the caller's epoch keeps it */
  cache_bound(p);
  return SDB_OK;
}

int cache_load_older(pager *p, struct frame *f, const uint8_t **page) {
  atomic_fetch_add_explicit(&p->misses, 1, memory_order_relaxed);
  uint8_t *buf = mem_alloc(p->e, p->g.page_size), *none = NULL;
  if (!buf) return env_fail(p->e, SDB_NO_MEMORY, "out of memory for a page");
  int rc = cache_fill(p, f->number, f->place, f->kind, buf);
  struct frame *carrier = rc == SDB_OK && over_full(p) ? mem_new(p->e, sizeof *carrier) : NULL;
  if (carrier) { /* the cache is full, and what a pin holds is not evicted: good for this stay only */
    atomic_init(&carrier->data, buf);
    atomic_fetch_add_explicit(&p->frames_held, 1, memory_order_relaxed);
    frame_retire(p, carrier);
    *page = buf;
    return SDB_OK;
  }
  if (rc != SDB_OK || !atomic_compare_exchange_strong(&f->data, &none, buf)) {
    mem_free(p->e, buf);
    if (rc == SDB_OK) *page = none;
    return rc;
  }
  atomic_fetch_add_explicit(&p->frames_held, 1, memory_order_relaxed);
  *page = buf;
  return SDB_OK;
}

/* --- What the writer has read ------------------------------------------------------------------------------------------------- */

static struct kept_page *kept_slot(struct kept_page *pages, size_t cap, uint64_t turn, uint32_t number) {
  size_t i = (number * UINT32_C(2654435761)) & (cap - 1);
  while (pages[i].turn == turn && pages[i].number != number) i = (i + 1) & (cap - 1);
  return &pages[i];
}

static bool kept_grow(pager *p) {
  struct kept *k = &p->kept;
  size_t cap = 2 * k->cap;
  struct kept_page *pages = mem_new(p->e, cap * sizeof *pages);
  if (!pages) return false;
  for (size_t i = 0; i < k->cap; i++)
    if (k->pages[i].turn == k->turn) *kept_slot(pages, cap, k->turn, k->pages[i].number) = k->pages[i];
  if (k->pages != k->first) mem_free(p->e, k->pages);
  k->pages = pages;
  k->cap = cap;
  return true;
}

int kept_add(pager *p, uint32_t number, uint32_t place, const uint8_t *data) {
  struct kept *k = &p->kept;
  struct kept_page *at = kept_slot(k->pages, k->cap, k->turn, number);
  if (at->turn != k->turn) {
    if (2 * (k->count + 1) > k->cap && !kept_grow(p)) return env_fail(p->e, SDB_NO_MEMORY, "out of memory for what a change reads");
    at = kept_slot(k->pages, k->cap, k->turn, number);
    k->count++;
  }
  *at = (struct kept_page){number, place, k->turn, data};
  return SDB_OK;
}

const uint8_t *kept_find(pager *p, uint32_t number, uint32_t place) {
  struct kept *k = &p->kept;
  const struct kept_page *at = kept_slot(k->pages, k->cap, k->turn, number);
  return at->turn == k->turn && at->place == place ? at->data : NULL;
}

void pager_keep_begin(pager *p) {
  struct kept *k = &p->kept;
  if (p->mapped) return; /* what is mapped can be read */
  if (!k->pages) k->pages = k->first, k->cap = KEPT_FIRST;
  k->turn++;
  k->count = 0;
  k->on = true;
}

void pager_keep_end(pager *p) {
  struct kept *k = &p->kept;
  k->on = false;
  if (k->pages == k->first) return;
  mem_free(p->e, k->pages);
  k->pages = NULL;
}

/* --- Reading ahead ------------------------------------------------------------------------------------------------------------ */

bool pager_reads_ahead(const pager *p) { return !p->mapped && p->e->storage->prefetch; }

void page_prefetch(pager *p, uint32_t number) {
  struct map_chunk *c;
  uint32_t slot;
  if (!pager_reads_ahead(p) || map_get(p, number, &c, &slot) != SDB_OK) return;
  uint64_t w = atomic_load_explicit(&c->word[slot], memory_order_acquire);
  if (w == 0 || !word_is_place(w)) return;
  p->e->storage->prefetch(p->file, page_offset(&p->g, place_of(w)), p->g.page_size);
}

void pager_prefetch_run(pager *p, run r, uint64_t offset, uint64_t len) {
  if (pager_reads_ahead(p)) p->e->storage->prefetch(p->file, page_offset(&p->g, r.start) + offset, len);
}
