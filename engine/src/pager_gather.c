/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager_gather.c - brings pages from the end of the file to free places before it, so that the end can be given back.
 *
 *     | used . . used . used . | . used . . . used |      used above the bound fit into what is free below it, the reserve besides
 *                              ^ bound
 *
 * Free space that is scattered page by page can neither be punched out nor cut, and a few pages at the end keep a long file. Moving
 * a page means changing it without a change: the next checkpoint writes it to the lowest free place (I2), and what it leaves is
 * free behind that checkpoint. Large contents stay where they are: their places are named in records and in the log.
 */
#include "pager_state.h"

static struct bitmap *loaded(pager *p, uint32_t n, uint64_t *first, uint64_t *end) {
  struct bitmap *b;
  uint32_t bit;
  bitmap_span(p, n, first, end);
  return *first < *end && bitmap_get(p, (uint32_t)*first, &b, &bit) == SDB_OK ? b : NULL;
}

static uint32_t used_in(const struct bitmap *b, uint64_t first, uint64_t end) {
  return (uint32_t)(end - first) - b->available - b->holes;
}

uint32_t pager_gather_bound(pager *p) {
  uint32_t bit, chunks = bitmap_index(p, (uint32_t)(p->pages_total - 1), &bit) + 1, n;
  uint64_t above = 0, free_below = 0, reserve = space_reserve(p) + DELETE_RESERVE, first = 0, end = 0;
  struct bitmap *b = NULL;
  uint64_t worth = 2 * reserve + (p->pages_total - p->unused) / 16;
  if (p->available + p->holes <= worth) return 0;
  for (n = 0; n < chunks; n++) {
    b = loaded(p, n, &first, &end);
    if (b) above += used_in(b, first, end);
  }
  for (n = 0; n < chunks; n++) { /* whole chunks first */
    b = loaded(p, n, &first, &end);
    if (!b) continue;
    if (above - used_in(b, first, end) + reserve <= free_below + b->available) break;
    above -= used_in(b, first, end);
    free_below += b->available;
  }
  if (n == chunks || !b) return 0;
  uint64_t at = first;
  for (; at < end && above + reserve > free_below; at++) {
    bit = (uint32_t)(at - first);
    if (!bit_get(b->busy, bit)) free_below++;
    else if (!bit_get(b->hole, bit)) above--;
  }
  if (above == 0) return 0;
  return p->available > worth || above <= (p->pages_total - at) / 4 ? (uint32_t)at : 0;
}

/* The page at a word stands above the bound and is not on its way elsewhere already. */
static bool stands_above(uint64_t w, uint32_t bound) {
  if (w == 0) return false;
  if (word_is_place(w)) return place_of(w) >= bound;
  const struct frame *f = frame_of(w);
  return f->kind != PAGE_FREE && !f->dirty && !f->writing && f->place >= bound;
}

int pager_gather(pager *p, uint32_t bound, uint32_t *cursor, uint32_t words) {
  for (; words > 0; words--, ++*cursor) {
    struct map_chunk *c;
    uint32_t slot;
    uint8_t *page;
    if (*cursor >= p->logical_limit) return SDB_END;
    int rc = map_get(p, *cursor, &c, &slot);
    if (rc != SDB_OK) return rc;
    if (!stands_above(atomic_load_explicit(&c->word[slot], memory_order_acquire), bound)) continue;
    rc = pager_admit_moving(p, 0, 1);
    if (rc == SDB_OK) rc = page_write(p, *cursor, &page);
    if (rc != SDB_OK && rc != SDB_CORRUPT && rc != SDB_IO) return rc; /* a damaged page stays where it is */
    if (words > 64) words -= 63;                                      /* a copy takes as long as looking at many */
  }
  return SDB_OK;
}
