/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* verify_extents.c - large contents against their checksums, without the records that lead to them, so without a key.
 *
 * Used pages that the map does not name are those of large contents. A head says which of them are its own, and what each chunk
 * must be. What stands inside a content may look like a head as well: an older one of which only the first bytes were overwritten,
 * or a copy of another file. So it goes in two passes:
 *
 *   1 claim    heads whose every chunk verifies take their pages
 *   2 judge    heads on pages that nobody took are damaged contents: told chunk by chunk, and their pages are taken
 *
 * Used pages that are left then have lost their head.
 *
 * A page is taken once, so what is good is read once. What was looked at in vain is counted: a file made for it could have a head
 * on every page, each with all others as its own.
 */
#include "codec.h"
#include "extent_head.h"
#include "verify.h"

enum {
  CHUNK_MOST = SDB_CHUNK + CIPHER_OVERHEAD,
  IN_VAIN = 16,  /* times the file's size, until a pass gives up */
  PAGE_COST = 64 /* what it takes to take a page, in bytes read */
};

struct extents {
  struct verify *v;
  uint8_t *claimed; /* a bit a physical page */
  uint8_t *head;    /* room for the longest */
  uint8_t *chunk;   /* CHUNK_MOST */
  uint32_t longest;
  uint64_t spent; /* by this pass, in bytes */
};

struct gather {
  image *im;
  uint8_t *to;
};

static int gather_piece(void *user, run r, uint64_t at, uint64_t n) {
  struct gather *g = user;
  int rc = image_read(g->im, page_offset(&g->im->g, r.start) + at, g->to, (size_t)n);
  g->to += n;
  return rc;
}

static int gather(const struct extents *x, const run_list *l, uint64_t offset, uint64_t len, uint8_t *to) {
  struct gather g = {x->v->im, to};
  return runs_walk(l, x->v->im->g.page_bits, offset, len, gather_piece, &g);
}

static bool may_hold(const struct verify *v, uint64_t page) {
  return page < v->im->head.pages_total && verify_bit(v->used, page) && !verify_bit(v->named, page) &&
         !image_page_fixed(&v->im->g, page);
}

static uint64_t pages_of(const run_list *l) {
  uint64_t pages = 0;
  for (uint32_t i = 0; i < l->count; i++) pages += l->runs[i].count;
  return pages;
}

static void give_back(const struct extents *x, const run_list *l, uint64_t pages) {
  for (uint32_t i = 0; pages > 0; i++)
    for (uint32_t k = 0; k < l->runs[i].count && pages > 0; k++, pages--) verify_clear(x->claimed, (uint64_t)l->runs[i].start + k);
}

/* Takes the pages of the runs. False, and none is taken: some cannot be their own, or is in two of them. */
static bool take(struct extents *x, const run_list *l) {
  uint64_t taken = 0;
  for (uint32_t i = 0; i < l->count; i++)
    for (uint32_t k = 0; k < l->runs[i].count; k++, taken++) {
      uint64_t page = (uint64_t)l->runs[i].start + k;
      x->spent += PAGE_COST;
      if (!may_hold(x->v, page) || verify_bit(x->claimed, page)) {
        give_back(x, l, taken);
        return false;
      }
      verify_set(x->claimed, page);
    }
  return true;
}

/* The head at that page, its pages taken. SDB_CORRUPT: none that verifies, or its runs are pages that cannot be its own; or what
 * the storage said. */
static int load(struct extents *x, uint32_t page, run_list *l, extent_head *h) {
  int rc = image_read(x->v->im, page_offset(&x->v->im->g, page), x->head, HEAD_PEEK);
  if (rc != SDB_OK) return rc;
  if (!head_peek(x->head, page, l) || l->head_len > x->longest) return SDB_CORRUPT;
  rc = gather(x, l, 0, l->head_len, x->head);
  x->spent += l->head_len;
  if (rc == SDB_OK && (!head_parse(h, x->head, l->head_len, page) || !take(x, l))) rc = SDB_CORRUPT;
  return rc;
}

/* Chunks that do not verify; with `tell` each of them is told. */
static uint32_t count_bad(struct extents *x, const run_list *l, const extent_head *h, bool tell) {
  uint64_t offset = h->len;
  uint32_t bad = 0;
  for (uint32_t i = 0; i < h->chunks && (tell || bad == 0); i++) {
    uint32_t len = head_chunk_stored(h, i);
    int rc = len <= CHUNK_MOST ? gather(x, l, offset, len, x->chunk) : SDB_CORRUPT;
    bool unreadable = rc != SDB_OK && rc != SDB_CORRUPT;
    offset += len;
    x->spent += len <= CHUNK_MOST ? len : 0;
    if (rc == SDB_OK && crc32c(0, x->chunk, len) == head_chunk_crc(h, i)) continue;
    bad++;
    if (!tell) continue;
    x->v->report->unreadable += unreadable;
    verify_tell(x->v, "chunk %u of the large content at physical page %u %s", i, l->runs[0].start,
                unreadable ? "cannot be read" : "does not match its checksum");
  }
  return bad;
}

static void pass(struct extents *x, bool judge) {
  run_list l;
  extent_head h;
  x->spent = 0;
  for (uint64_t page = 0; page < x->v->im->head.pages_total && x->spent / IN_VAIN <= x->v->im->size; page++) {
    if (!may_hold(x->v, page) || verify_bit(x->claimed, page)) continue;
    uint64_t before = x->spent;
    int rc = load(x, (uint32_t)page, &l, &h);
    if (rc == SDB_OK && count_bad(x, &l, &h, judge) > 0 && !judge) {
      give_back(x, &l, pages_of(&l));
    } else if (rc == SDB_OK) {
      x->v->report->pages += pages_of(&l);
      x->spent = before;
    } else if (judge && rc != SDB_CORRUPT) {
      x->v->report->unreadable++;
      verify_tell(x->v, "physical page %llu, of a large content, cannot be read", (unsigned long long)page);
      verify_set(x->claimed, page);
    }
  }
}

static void tell_left(const struct extents *x) {
  uint64_t total = x->v->im->head.pages_total;
  for (uint64_t page = 0, end; page < total; page = end) {
    for (end = page; end < total && may_hold(x->v, end) && !verify_bit(x->claimed, end);) end++;
    if (end > page)
      verify_tell(x->v, "physical pages %llu to %llu hold a large content whose head does not verify", (unsigned long long)page,
                  (unsigned long long)end - 1);
    else end++;
  }
}

int verify_extents(struct verify *v) {
  struct extents x = {.v = v, .longest = head_length(SDB_MAX_PATH, MAX_RUNS, SDB_MAX_DOCUMENT / SDB_CHUNK)};
  x.claimed = mem_new(v->e, v->im->head.pages_total / 8 + 1);
  x.head = mem_alloc(v->e, x.longest);
  x.chunk = mem_alloc(v->e, CHUNK_MOST);
  int rc = x.claimed && x.head && x.chunk ? SDB_OK : env_fail(v->e, SDB_NO_MEMORY, "out of memory for verifying");
  if (rc == SDB_OK) {
    pass(&x, false);
    pass(&x, true);
    if (v->whole_map) tell_left(&x);
  }
  mem_free(v->e, x.claimed);
  mem_free(v->e, x.head);
  mem_free(v->e, x.chunk);
  return rc;
}
