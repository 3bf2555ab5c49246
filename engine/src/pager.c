/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager.c - logical pages: reading at a view, changing by copying, pins and epochs. The picture is in pager.h.
 *
 * Why a reader needs no lock. It enters: takes a slot with the epoch, stores in it a floor (the view published just now), and only
 * then loads the view that it reads. Whoever wants to forget old versions loads `published` first and then looks at the slots: a
 * reader whose floor it does not see yet will load a view not older than that. So no version that a reader may look for is
 * unlinked. What is unlinked (superseded behind every floor and pin, or evicted) gives its memory back only when no slot shows an
 * epoch up to that moment: until then a reader may still hold a pointer to it.
 */
#include "pager_state.h"

/* --- Lists -------------------------------------------------------------------------------------------------------------------- */

void list_push(struct frame_list *l, struct frame *f) {
  f->next = NULL;
  f->prev = l->last;
  if (l->last) l->last->next = f;
  else l->first = f;
  l->last = f;
}

void dirty_push(struct frame_list *l, struct frame *f) {
  f->ahead = f->kind == PAGE_HEAP;
  if (!f->ahead) {
    list_push(l, f);
    return;
  }
  l->ahead++;
  f->prev = NULL;
  f->next = l->first;
  if (l->first) l->first->prev = f;
  else l->last = f;
  l->first = f;
}

void list_remove(struct frame_list *l, struct frame *f) {
  if (f->prev) f->prev->next = f->next;
  else l->first = f->next;
  if (f->next) f->next->prev = f->prev;
  else l->last = f->prev;
  f->prev = f->next = NULL;
  if (f->ahead) l->ahead--;
  f->ahead = false;
}

/* --- Readers ------------------------------------------------------------------------------------------------------------------ */

unsigned pager_enter(pager *p) {
  uintptr_t hint = thread_hint();
  unsigned i = (unsigned)((hint >> 12 ^ hint >> 20) % READER_SLOTS);
  for (;;) {
    for (unsigned tries = 0; tries < READER_SLOTS; tries++, i = (i + 1) % READER_SLOTS) {
      uint64_t idle = 0;
      if (!atomic_compare_exchange_strong(&p->readers[i].epoch, &idle, atomic_load(&p->epoch))) continue;
      atomic_store(&p->readers[i].floor, atomic_load(&p->published));
      p->readers[i].faults = atomic_load_explicit(&p->faults, memory_order_acquire);
      return i;
    }
    thread_yield();
  }
}

void pager_leave(pager *p, unsigned slot) {
  atomic_store_explicit(&p->readers[slot].floor, 0, memory_order_release);
  atomic_store_explicit(&p->readers[slot].epoch, 0, memory_order_release);
}

uint64_t pager_faults(const pager *p) {
  atomic_thread_fence(memory_order_acquire);
  return atomic_load_explicit(&p->faults, memory_order_acquire);
}

bool pager_faulted(const pager *p, unsigned slot) { return pager_faults(p) != p->readers[slot].faults; }

int pager_fault_error(pager *p) {
  return env_fail(p->e, SDB_IO, "the device could not give a page of the data file; look at the system's messages, then run check");
}

uint64_t pager_published(const pager *p) { return atomic_load(&p->published); }

uint64_t epoch_advance(pager *p) { return atomic_fetch_add(&p->epoch, 1); }

uint64_t epoch_oldest(pager *p) {
  uint64_t oldest = atomic_load(&p->epoch);
  for (unsigned i = 0; i < READER_SLOTS; i++) {
    uint64_t e = atomic_load(&p->readers[i].epoch);
    if (e && e < oldest) oldest = e;
  }
  return oldest;
}

uint64_t pager_pin(pager *p, uint64_t *sequence) {
  const sdb_storage *st = p->e->storage;
  mutex_lock(&p->pin_lock);
  uint64_t view = atomic_load(&p->published);
  if (p->pin_count == 0 || p->pins[p->pin_count - 1].view != view) { /* views rise, so the array stays sorted */
    void *pins = p->pins;
    if (!mem_reserve(p->e, &pins, &p->pin_cap, p->pin_count + 1, sizeof *p->pins)) {
      mutex_unlock(&p->pin_lock);
      return 0;
    }
    p->pins = pins;
    p->pins[p->pin_count++] = (struct pin){view, p->published_sequence, st->monotonic_us(st->ctx), 0};
  }
  p->pins[p->pin_count - 1].count++;
  p->open_pins++;
  if (sequence) *sequence = p->published_sequence;
  mutex_unlock(&p->pin_lock);
  return view;
}

/* Under pin_lock. */
static size_t pin_find(const pager *p, uint64_t view) {
  size_t low = 0, high = p->pin_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (p->pins[middle].view < view) low = middle + 1;
    else high = middle;
  }
  assert(low < p->pin_count && p->pins[low].view == view);
  return low;
}

void pager_pin_again(pager *p, uint64_t view) {
  mutex_lock(&p->pin_lock);
  p->pins[pin_find(p, view)].count++;
  p->open_pins++;
  mutex_unlock(&p->pin_lock);
}

void pager_unpin(pager *p, uint64_t view) {
  mutex_lock(&p->pin_lock);
  size_t i = pin_find(p, view);
  p->open_pins--;
  if (--p->pins[i].count == 0) {
    memmove(p->pins + i, p->pins + i + 1, (p->pin_count - i - 1) * sizeof *p->pins);
    p->pin_count--;
    if (view < p->reclaim_from) p->reclaim_from = view;
  }
  mutex_unlock(&p->pin_lock);
}

uint64_t unpinned_oldest(pager *p) {
  uint64_t oldest = atomic_load(&p->published);
  for (unsigned i = 0; i < READER_SLOTS; i++) {
    if (!atomic_load(&p->readers[i].epoch)) continue;
    uint64_t floor = atomic_load(&p->readers[i].floor);
    if (floor < oldest) oldest = floor;
  }
  return oldest;
}

uint64_t pins_oldest(pager *p) {
  mutex_lock(&p->pin_lock);
  uint64_t oldest = atomic_load(&p->published);
  if (p->pin_count > 0 && p->pins[0].view < oldest) oldest = p->pins[0].view;
  mutex_unlock(&p->pin_lock);
  if (p->cp.active && p->cp.version < oldest) oldest = p->cp.version;
  uint64_t unpinned = unpinned_oldest(p);
  return unpinned < oldest ? unpinned : oldest;
}

/* --- Frames ------------------------------------------------------------------------------------------------------------------- */

struct frame *frame_new(pager *p, uint32_t number, uint8_t kind, bool with_data) {
  struct frame *f = mem_new(p->e, sizeof *f);
  uint8_t *data = NULL;
  if (f && with_data) {
    mutex_lock(&p->retire_lock);
    if (p->spares) data = p->spare[--p->spares];
    mutex_unlock(&p->retire_lock);
    if (!data) data = mem_alloc(p->e, p->g.page_size);
  }
  if (!f || (with_data && !data)) {
    mem_free(p->e, f);
    env_fail(p->e, SDB_NO_MEMORY, "out of memory for a page");
    return NULL;
  }
  f->number = number;
  f->kind = kind;
  atomic_init(&f->data, data);
  if (data) atomic_fetch_add_explicit(&p->frames_held, 1, memory_order_relaxed);
  return f;
}

/* A part of the cache that nobody misses. */
static unsigned stock_size(const pager *p) {
  unsigned part = p->config.cache_pages / 16;
  return part < SPARE_BUFFERS / 2 ? part : SPARE_BUFFERS / 2;
}

bool pager_stock_low(const pager *p) { return atomic_load_explicit(&p->spares, memory_order_relaxed) < stock_size(p) / 2; }

void pager_stock(pager *p) {
  while (atomic_load_explicit(&p->spares, memory_order_relaxed) < stock_size(p)) {
    uint8_t *fresh = mem_alloc(p->e, p->g.page_size);
    if (!fresh) return;
    for (uint32_t i = 0; i < p->g.page_size; i += STOCK_TOUCH) fresh[i] = 0;
    mutex_lock(&p->retire_lock);
    bool room = p->spares < SPARE_BUFFERS;
    if (room) p->spare[p->spares++] = fresh;
    mutex_unlock(&p->retire_lock);
    if (!room) mem_free(p->e, fresh);
  }
}

static void frame_free(pager *p, struct frame *f) { /* under retire_lock */
  uint8_t *data = atomic_load_explicit(&f->data, memory_order_relaxed);
  if (data) {
    atomic_fetch_sub_explicit(&p->frames_held, 1, memory_order_relaxed);
    if (p->spares < SPARE_BUFFERS) p->spare[p->spares++] = data;
    else mem_free(p->e, data);
  }
  mem_free(p->e, f);
}

void frame_discard(pager *p, struct frame *f) {
  mutex_lock(&p->retire_lock);
  frame_free(p, f);
  mutex_unlock(&p->retire_lock);
}

void frame_retire(pager *p, struct frame *f) {
  mutex_lock(&p->retire_lock);
  f->leaving = atomic_load_explicit(&f->data, memory_order_relaxed) != NULL;
  if (f->leaving) atomic_fetch_add_explicit(&p->frames_leaving, 1, memory_order_relaxed);
  f->stamp = epoch_advance(p);
  list_push(&p->retired, f);
  uint64_t oldest = epoch_oldest(p);
  while (p->retired.first && p->retired.first->stamp < oldest) {
    struct frame *gone = p->retired.first;
    list_remove(&p->retired, gone);
    if (gone->leaving) atomic_fetch_sub_explicit(&p->frames_leaving, 1, memory_order_relaxed);
    frame_free(p, gone);
  }
  mutex_unlock(&p->retire_lock);
}

/* The oldest pinned view; all ones: none. */
static uint64_t pinned_first(pager *p) {
  mutex_lock(&p->pin_lock);
  uint64_t view = p->pin_count ? p->pins[0].view : UINT64_MAX;
  mutex_unlock(&p->pin_lock);
  return view;
}

/* The bytes of a frame that stands in the file but cannot become a word yet: they are read there from now on, so that a view that
 * stays pinned for long does not keep in memory what is written meanwhile. */
static void frame_shed(pager *p, struct frame *f) {
  if (!atomic_load(&f->data) || !f->place || f->kind == PAGE_FREE) return;
  struct frame *carrier = mem_new(p->e, sizeof *carrier);
  if (!carrier) return;
  atomic_init(&carrier->data, atomic_exchange(&f->data, NULL));
  frame_retire(p, carrier); /* readers inside may still be at the bytes */
}

/* A frame that is on disk, or a freed page, and behind which no view looks any more becomes a plain word (a cached frame without
 * mapping). If a pin needs what is behind it, the end of that pin brings it here again; else it waits in the settling list.
 *
 * A heap page need not wait for views that do not have it: they reach heap pages through their own table only. The checkpoint that
 * runs must be waited for, because it takes what a word says for its own. */
void frame_settle(pager *p, struct frame *f, uint64_t oldest) {
  struct map_chunk *c;
  uint32_t slot;
  bool head = map_get(p, f->number, &c, &slot) == SDB_OK && atomic_load(&c->word[slot]) == word_frame(f);
  if (!head) return; /* superseded: the list of old frames takes care of it */
  bool freed = f->kind == PAGE_FREE;
  if (atomic_load(&f->older)) {
    frame_shed(p, f);
    return;
  }
  if (freed && f->version > p->checkpoint_version) {
    f->settling = true;
    list_push(&p->buried, f);
    return;
  }
  if (f->version > oldest && f->kind != PAGE_HEAP) {
    f->settling = true;
    list_push(&p->settling, f);
    return;
  }
  if (f->version > pinned_first(p) || (p->cp.active && f->version > p->cp.version)) {
    frame_shed(p, f);
    f->held = true;
    list_push(&p->held, f);
    return;
  }
  if (freed) {
    atomic_store(&c->word[slot], 0);
    c->used--;
    if (f->number < p->number_hint) p->number_hint = f->number;
  } else if (p->mapped) {
    atomic_store(&c->word[slot], word_place(f->place, f->kind));
  } else if (atomic_load(&f->data)) {
    cache_add(p, f);
    return;
  } else {
    atomic_store(&c->word[slot], word_place(f->place, f->kind));
  }
  frame_retire(p, f);
}

static void settle_list(pager *p, struct frame_list *l, uint64_t oldest) {
  struct frame_list list = *l;
  *l = (struct frame_list){0};
  while (list.first) {
    struct frame *f = list.first;
    list_remove(&list, f);
    f->settling = f->held = false;
    frame_settle(p, f, oldest);
  }
}

void frames_settle_all(pager *p) {
  if (!p->settling.first && !p->held.first && !p->buried.first) return;
  uint64_t oldest = unpinned_oldest(p), pinned = pinned_first(p);
  settle_list(p, &p->settling, oldest);
  if (p->buried_for != p->checkpoint_version) settle_list(p, &p->buried, oldest);
  p->buried_for = p->checkpoint_version;
  if (p->held_for != pinned) settle_list(p, &p->held, oldest);
  p->held_for = pinned;
  if (!p->mapped) cache_bound(p);
}

void frames_look_again(pager *p, uint64_t view) {
  mutex_lock(&p->pin_lock);
  if (view < p->reclaim_from) p->reclaim_from = view;
  mutex_unlock(&p->pin_lock);
}

/* Does a pin, or the checkpoint, stand where only this superseded frame is to be read? Under pin_lock. */
static bool frame_needed(const pager *p, const struct frame *f) {
  if (p->cp.active && f->version <= p->cp.version && p->cp.version < f->superseded) return true;
  size_t low = 0, high = p->pin_count;
  while (low < high) { /* the first pin not below the frame's version */
    size_t middle = low + (high - low) / 2;
    if (p->pins[middle].view < f->version) low = middle + 1;
    else high = middle;
  }
  return low < p->pin_count && p->pins[low].view < f->superseded;
}

/* Out of the list and out of the chain of its page. */
static void frame_unlink(pager *p, struct frame *f) {
  struct frame *older = atomic_load(&f->older);
  if (f->old_prev) f->old_prev->old_next = f->old_next;
  else p->old_first = f->old_next;
  if (f->old_next) f->old_next->old_prev = f->old_prev;
  else p->old_last = f->old_prev;
  p->old_count--;
  atomic_store(&f->newer->older, older);
  if (older) older->newer = f->newer;
}

static void frame_forget(pager *p, struct frame *f) {
  struct frame *newer = f->newer;
  if (f->dirty) {
    list_remove(f->version <= p->floor && p->cp.active ? &p->cp.to_write : &p->dirty, f);
    f->dirty = false;
    p->dirty_count--;
  }
  cache_remove(p, f);
  if (f->place) space_release_page(p, f->place, f->superseded);
  frame_retire(p, f);
  bool waited = !newer->newer && !newer->dirty && !newer->writing && !newer->settling && !newer->held && !newer->in_ring;
  if (!waited || atomic_load(&newer->older)) return;
  newer->settling = true;
  list_push(&p->settling, newer);
}

/* Superseded frames that no view can read: those between two pins as well, so that a view that stays pinned for long keeps of each
 * page what it sees and no more. Their places are free once no header slot names them. From the newest on down to where the last
 * look ended, or to the oldest view that was unpinned since. */
void frames_reclaim(pager *p) {
  struct frame *gone = NULL, *f = p->old_last, *before;
  if (!f) return;
  uint64_t bound = unpinned_oldest(p);
  mutex_lock(&p->pin_lock);
  uint64_t from = p->reclaim_from;
  p->reclaim_from = bound < p->open_version ? bound : p->open_version - 1; /* published while open, it supersedes further ones */
  if (bound == from) f = NULL; /* what there is belongs to versions that are not published */
  for (; f && f->superseded > from; f = before) {
    before = f->old_prev;
    if (f->superseded > bound || frame_needed(p, f)) continue;
    if (f->writing) {
      if (f->superseded <= p->reclaim_from) p->reclaim_from = f->superseded - 1;
      continue;
    }
    frame_unlink(p, f);
    f->old_next = gone;
    gone = f;
  }
  mutex_unlock(&p->pin_lock);
  while (gone) {
    f = gone;
    gone = f->old_next;
    frame_forget(p, f);
  }
}

/* --- Reading ------------------------------------------------------------------------------------------------------------------ */

uint32_t page_size(const struct pager *p) { return p->g.page_size; }

int page_verify(pager *p, const uint8_t *bytes, uint32_t number, uint32_t place, uint8_t kind) {
  if (unit_valid(bytes, p->g.page_size, number) && bytes[4] == kind) return SDB_OK;
  return env_fail(p->e, SDB_CORRUPT,
                  "page %u (at physical page %u) does not match its checksum or name; run check, and restore a copy", number,
                  place);
}

/* The bytes at a place, when group, mapping and checksum have been seen to before; else NULL. The way of nearly every read. */
static inline const uint8_t *mapped_at(const pager *p, uint32_t place) {
  const struct group *g = atomic_load_explicit(&p->groups[place >> p->g.group_shift], memory_order_acquire);
  if (!g) return NULL;
  const uint8_t *base = atomic_load_explicit(&g->window, memory_order_acquire);
  const _Atomic uint8_t *bits = atomic_load_explicit(&g->verified, memory_order_acquire);
  uint32_t i = place & (p->g.group_pages - 1);
  if (!base || !bits || !(atomic_load_explicit(&bits[i >> 3], memory_order_relaxed) >> (i & 7) & 1)) return NULL;
  return base + page_offset(&p->g, i);
}

/* The bytes at a place, in the mapping; verified at first touch. */
static int read_mapped(pager *p, uint32_t number, uint32_t place, uint8_t kind, const uint8_t **page) {
  *page = mapped_at(p, place);
  if (*page) return SDB_OK;
  const uint8_t *bytes = space_window(p, place, 0);
  if (!bytes) return env_fail(p->e, SDB_IO, "cannot map the data file");
  if (!space_is_verified(p, place)) {
    int rc = page_verify(p, bytes, number, place, kind);
    if (rc != SDB_OK && !p->mapped) return pager_fault_error(p);
    if (rc != SDB_OK) {
      pager_quarantine(p, place, number, kind);
      return rc;
    }
    space_set_verified(p, place);
  }
  *page = bytes;
  return SDB_OK;
}

/* Only the writer reads the newest state. */
static inline bool keeps(const pager *p, uint64_t view) { return view == VIEW_HEAD && p->kept.on; }

static int read_frame(pager *p, uint64_t view, struct frame *f, uint8_t kind, const uint8_t **page) {
  while (f && f->version > view) f = atomic_load_explicit(&f->older, memory_order_acquire);
  if (!f || f->kind == PAGE_FREE) return SDB_NOT_FOUND;
  if (kind && f->kind != kind) return SDB_INVALID;
  const uint8_t *data = atomic_load_explicit(&f->data, memory_order_acquire);
  if (p->mapped && !data) return read_mapped(p, f->number, f->place, f->kind, page);
  if (p->mapped) {
    *page = data;
    return SDB_OK;
  }
  bool keep = keeps(p, view) && !f->dirty;
  if (!data && keep) data = kept_find(p, f->number, f->place);
  if (!data) {
    int rc = cache_load_older(p, f, &data);
    if (rc != SDB_OK) return rc;
  } else {
    cache_hit(p, f);
  }
  *page = data;
  return keep ? kept_add(p, f->number, f->place, data) : SDB_OK;
}

/* The map's word of a page, when its chunk has been read in; else NULL. */
static inline const _Atomic uint64_t *word_known(const pager *p, uint32_t number) {
  const struct group *g = atomic_load_explicit(&p->groups[number >> p->g.group_shift], memory_order_acquire);
  uint32_t inside = number & (p->g.group_pages - 1);
  if (!g) return NULL;
  const struct map_chunk *c = atomic_load_explicit(&g->maps[inside >> p->g.chunk_shift], memory_order_acquire);
  return c ? &c->word[inside & (p->g.chunk_words - 1)] : NULL;
}

static int read_word(pager *p, uint64_t view, uint32_t number, uint8_t kind, const uint8_t **page) {
  struct map_chunk *c;
  uint32_t slot;
  int rc = map_get(p, number, &c, &slot);
  while (rc == SDB_OK) {
    uint64_t w = atomic_load_explicit(&c->word[slot], memory_order_acquire);
    if (w == 0) return SDB_NOT_FOUND;
    if (!word_is_place(w)) return read_frame(p, view, frame_of(w), kind, page);
    if (kind && kind_of(w) != kind) return SDB_INVALID;
    if (p->mapped) return read_mapped(p, number, place_of(w), kind_of(w), page);
    if (keeps(p, view) && (*page = kept_find(p, number, place_of(w))) != NULL) return SDB_OK;
    rc = cache_load(p, &c->word[slot], w, number, page);
    if (rc == SDB_OK) return keeps(p, view) ? kept_add(p, number, place_of(w), *page) : SDB_OK;
    if (rc == SDB_END) rc = SDB_OK;
  }
  return rc;
}

/* `kind`: 0 for any. Nearly every page read is clean, mapped and was seen to before: those take the short way. */
static inline int read_page(pager *p, uint64_t view, uint32_t number, uint8_t kind, const uint8_t **page) {
  const _Atomic uint64_t *word = number >> p->g.group_shift < MAX_GROUPS && p->mapped ? word_known(p, number) : NULL;
  uint64_t w = word ? atomic_load_explicit(word, memory_order_acquire) : 0;
  if (w && word_is_place(w) && (!kind || kind_of(w) == kind) && (*page = mapped_at(p, place_of(w))) != NULL) return SDB_OK;
  return read_word(p, view, number, kind, page);
}

int page_read(pager *p, uint64_t view, uint32_t number, const uint8_t **page) {
  return read_page(p, view, number, PAGE_FREE, page);
}

int page_read_kind(pager *p, uint64_t view, uint32_t number, enum page_kind kind, const uint8_t **page) {
  return read_page(p, view, number, (uint8_t)kind, page);
}

uint64_t pager_position(pager *p, uint32_t number) {
  struct map_chunk *c;
  uint32_t slot;
  if (!p->mapped || map_get(p, number, &c, &slot) != SDB_OK) return 0;
  uint64_t w = atomic_load_explicit(&c->word[slot], memory_order_relaxed);
  return w && word_is_place(w) ? page_offset(&p->g, place_of(w)) : 0;
}

const uint8_t *pager_fetch(const pager *p, uint64_t offset, uint32_t len) {
  const struct group *g = offset ? atomic_load_explicit(&p->groups[offset >> GROUP_BITS], memory_order_acquire) : NULL;
  const uint8_t *base = g ? atomic_load_explicit(&g->window, memory_order_acquire) : NULL;
  if (!base) return NULL;
  const uint8_t *at = base + (offset & ((1u << GROUP_BITS) - 1));
  for (uint32_t i = 0; i < len; i += 64) __builtin_prefetch(at + i);
  return at;
}

/* Of the page in that view: the physical page, or the bytes in memory. */
static int page_find(pager *p, uint64_t view, uint32_t number, uint32_t *place, const uint8_t **data) {
  struct map_chunk *c;
  uint32_t slot;
  int rc = map_get(p, number, &c, &slot);
  if (rc != SDB_OK) return rc;
  uint64_t w = atomic_load_explicit(&c->word[slot], memory_order_acquire);
  *data = NULL;
  *place = place_of(w);
  if (w == 0) return SDB_NOT_FOUND;
  if (word_is_place(w)) return SDB_OK;
  const struct frame *f = frame_of(w);
  while (f && f->version > view) f = atomic_load_explicit(&f->older, memory_order_acquire);
  if (!f || f->kind == PAGE_FREE) return SDB_NOT_FOUND;
  *data = atomic_load_explicit(&f->data, memory_order_acquire);
  *place = f->place;
  return SDB_OK;
}

int page_read_damaged(pager *p, uint64_t view, uint32_t number, const uint8_t **page) {
  uint32_t place;
  const uint8_t *bytes;
  if (p->cipher) return SDB_CORRUPT;
  int rc = page_find(p, view, number, &place, page);
  if (rc != SDB_OK || *page) return rc;
  bytes = space_window(p, place, 0);
  if (!bytes) {
    struct frame *carrier = frame_new(p, number, PAGE_FREE, true); /* no part of the cache: good for this stay only */
    if (!carrier) return SDB_NO_MEMORY;
    rc = p->e->storage->read(p->file, page_offset(&p->g, place), carrier->data, p->g.page_size);
    bytes = carrier->data;
    frame_retire(p, carrier);
    if (rc != SDB_OK) return env_fail(p->e, SDB_IO, "cannot read physical page %u of the data file", place);
  }
  /* Whole, so it is another page, which the device put here: a record in it may be as it was before a crash, and yet have the id
   * and version that somebody looks for. */
  if (unit_valid(bytes, p->g.page_size, get32(bytes + 8)))
    return env_fail(p->e, SDB_CORRUPT, "another page than %u stands at physical page %u", number, place);
  *page = bytes;
  return SDB_OK;
}

/* --- Writing ------------------------------------------------------------------------------------------------------------------ */

static void frame_supersede(pager *p, struct frame *old, struct frame *f) {
  assert(old->kind != PAGE_FREE); /* so it is not buried */
  if (old->settling) list_remove(&p->settling, old);
  if (old->held) list_remove(&p->held, old);
  old->settling = old->held = false;
  old->newer = f;
  old->superseded = f->version;
  bool kept = p->cp.active && old->version <= p->cp.version; /* the checkpoint needs it, published or not */
  p->open_copies += !kept && atomic_load(&old->data) != NULL;
  old->old_next = NULL;
  old->old_prev = p->old_last;
  if (p->old_last) p->old_last->old_next = old;
  else p->old_first = old;
  p->old_last = old;
  p->old_count++;
}

static void frame_make_dirty(pager *p, struct frame *f, struct map_chunk *c) {
  dirty_push(&p->dirty, f);
  f->dirty = true;
  p->dirty_count++;
  c->dirty = true;
  p->open_used = true;
  if (!p->mapped) cache_bound(p); /* a clean page gives way */
}

/* Puts a new frame of the open version in front: a copy of the page, or (kind PAGE_FREE) its grave. */
static int frame_replace(pager *p, struct map_chunk *c, uint32_t slot, uint32_t number, bool grave, struct frame **out) {
  const uint8_t *bytes = NULL;
  uint64_t faults = pager_faults(p);
  int rc = grave ? SDB_OK : page_read(p, VIEW_HEAD, number, &bytes);
  if (rc != SDB_OK) return rc;
  struct frame *f = frame_new(p, number, PAGE_FREE, !grave), *base = NULL;
  if (!f) return SDB_NO_MEMORY;
  if (bytes) {
    memcpy(f->data, bytes, p->g.page_size);
    f->kind = f->data[4];
    if (pager_faults(p) != faults) { /* a copy of zeros must not become the page */
      frame_discard(p, f);
      return pager_fault_error(p);
    }
  }
  f->version = p->open_version;
  for (;;) {
    uint64_t w = atomic_load(&c->word[slot]);
    struct frame *old = frame_of(w);
    if (word_is_place(w)) {
      if (!base && !(base = frame_new(p, number, kind_of(w), false))) break;
      base->place = place_of(w);
      base->kind = kind_of(w);
      old = base;
    }
    atomic_store(&f->older, old); /* readers may meet the frame as soon as it is in the word */
    if (!atomic_compare_exchange_strong(&c->word[slot], &w, word_frame(f))) continue; /* an eviction came between */
    if (old != base) mem_free(p->e, base);
    cache_remove(p, old);
    frame_supersede(p, old, f);
    frame_make_dirty(p, f, c);
    *out = f;
    return SDB_OK;
  }
  frame_discard(p, f);
  return SDB_NO_MEMORY;
}

/* The newest frame, when it may be changed where it is: made by the open version (or, for appending, behind the last checkpoint's
 * state) and not on its way to disk. */
static struct frame *writable(struct map_chunk *c, uint32_t slot, uint64_t above) {
  uint64_t w = atomic_load_explicit(&c->word[slot], memory_order_acquire);
  if (w == 0 || word_is_place(w)) return NULL;
  struct frame *f = frame_of(w);
  return f->version > above && f->dirty && !f->writing && f->kind != PAGE_FREE ? f : NULL;
}

static int write_above(pager *p, uint32_t number, uint64_t above, uint8_t **page) {
  struct map_chunk *c;
  uint32_t slot;
  int rc = map_get(p, number, &c, &slot);
  if (rc != SDB_OK) return rc;
  struct frame *f = writable(c, slot, above);
  if (!f) rc = frame_replace(p, c, slot, number, false, &f);
  if (rc != SDB_OK) return rc;
  p->open_used = true;
  *page = f->data;
  return SDB_OK;
}

void page_keep_room(pager *p) { p->room_kept = true; }
bool page_room_kept(const pager *p) { return p->room_kept; }

int page_write(pager *p, uint32_t number, uint8_t **page) { return write_above(p, number, p->open_version - 1, page); }

int pager_append(pager *p, uint32_t number, uint8_t **page) {
  p->append_page = number;
  return write_above(p, number, p->floor, page);
}

/* The lowest number whose word is empty. */
static int number_find(pager *p, uint32_t *number, struct map_chunk **chunk, uint32_t *slot) {
  uint64_t most = (uint64_t)MAX_GROUPS << p->g.group_shift;
  for (uint64_t n = p->number_hint ? p->number_hint : 1; n < most;) {
    int rc = map_get(p, (uint32_t)n, chunk, slot);
    if (rc != SDB_OK) return rc;
    if ((*chunk)->used == p->g.chunk_words) {
      n += p->g.chunk_words - *slot;
      continue;
    }
    if (atomic_load_explicit(&(*chunk)->word[*slot], memory_order_relaxed) == 0) {
      *number = (uint32_t)n;
      return SDB_OK;
    }
    n++;
  }
  return env_fail(p->e, SDB_FULL, "the page map is full");
}

int page_new(pager *p, enum page_kind kind, uint32_t *number, uint8_t **page) {
  struct map_chunk *c;
  uint32_t slot, n = 0;
  int rc = number_find(p, &n, &c, &slot);
  if (rc != SDB_OK) return rc;
  struct frame *f = frame_new(p, n, (uint8_t)kind, true);
  if (!f) return SDB_NO_MEMORY;
  memset(f->data, 0, p->g.page_size);
  unit_init(f->data, (uint8_t)kind, n);
  f->version = p->open_version;
  c->used++;
  c->live[slot] = 0;
  atomic_store(&c->word[slot], word_frame(f));
  frame_make_dirty(p, f, c);
  if (n >= p->logical_limit) p->logical_limit = (uint64_t)n + 1;
  p->number_hint = n + 1;
  *number = n;
  *page = f->data;
  return SDB_OK;
}

int page_free(pager *p, uint32_t number) {
  struct map_chunk *c;
  uint32_t slot;
  int rc = map_get(p, number, &c, &slot);
  if (rc != SDB_OK) return rc;
  struct frame *f = writable(c, slot, p->open_version - 1);
  if (f) f->kind = PAGE_FREE; /* the touched copy becomes the grave */
  else rc = frame_replace(p, c, slot, number, true, &f);
  if (rc != SDB_OK) return rc;
  list_remove(&p->dirty, f);
  p->dirty_count--;
  list_push(&p->graves, f);
  pager_doom_spare(p, number);
  return SDB_OK;
}

/* --- Versions ----------------------------------------------------------------------------------------------------------------- */

void pager_lock(pager *p) { fair_lock(&p->lock); }
bool pager_lock_while(pager *p, const atomic_bool *reason) { return fair_lock_while(&p->lock, reason); }
bool pager_try_lock(pager *p) { return fair_try(&p->lock); }
void pager_unlock(pager *p) {
  p->room_kept = false;
  fair_unlock(&p->lock);
}
struct mutex *pager_mutex(pager *p) {
  return &p->lock.m;
}

uint64_t pager_close_version(pager *p) {
  p->open_used = false;
  p->open_copies = 0;
  return p->open_version++;
}

void pager_publish(pager *p, uint64_t version, uint64_t sequence) {
  mutex_lock(&p->pin_lock); /* a pin is taken of a version that is published, and reclaiming looks at both */
  if (version >= atomic_load(&p->published)) {
    atomic_store(&p->published, version);
    p->published_sequence = sequence;
  }
  mutex_unlock(&p->pin_lock);
}

uint64_t pager_open_version(const pager *p) { return p->open_version; }
bool pager_open_version_used(const pager *p) { return p->open_used; }

int pager_read_run(pager *p, run r, uint64_t offset, void *buf, size_t len) {
  if (p->e->storage->read(p->file, page_offset(&p->g, r.start) + offset, buf, len) == SDB_OK) return SDB_OK;
  return env_fail(p->e, SDB_IO, "cannot read %zu bytes of physical page %u", len, r.start);
}

int pager_write_run(pager *p, run r, uint64_t offset, const void *bytes, size_t len) {
  if (atomic_load(&p->e->sync_failed)) return env_fail(p->e, SDB_SYNC_FAILED, "an earlier sync failed; open the database again");
  int rc = p->e->storage->write(p->file, page_offset(&p->g, r.start) + offset, bytes, len);
  if (rc != SDB_OK) return env_fail(p->e, rc, "cannot write %zu bytes at physical page %u", len, r.start);
  return pager_pace(p, page_offset(&p->g, r.start) + offset, len);
}

/* One at a time: a kernel tells a failed write once, to whichever sync asks first, so a success that overlaps a failure means
 * nothing. */
int pager_sync(pager *p) {
  mutex_lock(&p->sync_lock);
  bool good = !atomic_load(&p->e->sync_failed) && p->e->storage->sync(p->file) == SDB_OK;
  if (!good) atomic_store(&p->e->sync_failed, true);
  mutex_unlock(&p->sync_lock);
  if (good) return SDB_OK;
  return env_fail(p->e, SDB_SYNC_FAILED,
                  "a sync of the data file failed; nothing more is written until the database is opened again");
}

void pager_owe_sync(pager *p) { atomic_store(&p->sync_owed, true); }

int pager_sync_owed(pager *p) {
  return atomic_load(&p->sync_owed) && atomic_exchange(&p->sync_owed, false) ? pager_sync(p) : SDB_OK;
}

static int device_failed(pager *p) {
  atomic_store(&p->e->sync_failed, true);
  return env_fail(p->e, SDB_SYNC_FAILED,
                  "writing the data file failed in the background; nothing more is written until the database is opened again");
}

/* Under sync_lock: what it is told of a failed write no sync will be told any more. */
static int pace_wait(pager *p, struct span s) {
  mutex_lock(&p->sync_lock);
  int rc = p->e->storage->write_back(p->file, s.from, s.to - s.from, true);
  if (rc != SDB_OK) rc = device_failed(p);
  mutex_unlock(&p->sync_lock);
  return rc;
}

/* One span is written by the device while the next is filled, whoever fills it: the end of the span before is waited for. */
int pager_pace(pager *p, uint64_t offset, size_t len) {
  const sdb_storage *st = p->e->storage;
  struct span now = {0}, before = {0};
  mutex_lock(&p->pace_lock);
  struct span *s = &p->paced;
  if (!s->bytes || offset < s->from) s->from = offset;
  if (!s->bytes || offset + len > s->to) s->to = offset + len;
  s->bytes += len;
  if (s->bytes >= (st->write_back ? PACE_BYTES : 2 * PACE_BYTES)) {
    now = *s;
    before = p->begun;
    p->begun = now;
    *s = (struct span){0};
  }
  mutex_unlock(&p->pace_lock);
  if (!now.bytes) return SDB_OK;
  if (!st->write_back) return pager_sync(p);
  if (st->write_back(p->file, now.from, now.to - now.from, false) != SDB_OK) return device_failed(p);
  return before.bytes ? pace_wait(p, before) : SDB_OK;
}

const uint8_t *pager_run_bytes(pager *p, run r, uint64_t offset) { return space_window(p, r.start, offset); }

uint64_t pager_logical_limit(const pager *p) { return p->logical_limit; }
bool pager_changed(const pager *p) { return p->dirty_count > 0 || p->graves.first; }

/* Without a mapping clean pages need room as well. */
bool pager_mostly_dirty(const pager *p) {
  uint32_t pages = p->cache_pages;
  return p->dirty_count > (p->mapped ? pages - pages / 4 : pages / 2);
}

bool pager_spill_due(const pager *p) {
  uint32_t unit = STAGE_BYTES >> p->g.page_bits, eighth = p->cache_pages / 8;
  return p->dirty.ahead > (unit < eighth ? unit : eighth) || pager_mostly_dirty(p);
}

bool pager_crowded(const pager *p) {
  uint32_t pages = p->cache_pages;
  return p->dirty_count >= pages - pages / 8;
}

bool pager_version_heavy(const pager *p) { return p->open_copies > p->cache_pages / 16; }

uint32_t pager_live(pager *p, uint32_t number) {
  struct map_chunk *c;
  uint32_t slot;
  return map_get(p, number, &c, &slot) == SDB_OK ? c->live[slot] * 8u : 0;
}

/* The heap page at a word. False: none. */
static bool heap_at(struct map_chunk *c, uint32_t slot) {
  uint64_t w = atomic_load_explicit(&c->word[slot], memory_order_acquire);
  return (w == 0 ? PAGE_FREE : word_is_place(w) ? kind_of(w) : frame_of(w)->kind) == PAGE_HEAP;
}

int pager_count_sparse(pager *p, uint32_t *cursor, uint32_t words, uint64_t dead[HEAP_CLASSES]) {
  uint32_t room = p->g.page_size - PAGE_HEADER;
  for (; words > 0; words--, ++*cursor) {
    struct map_chunk *c;
    uint32_t slot;
    if (*cursor >= p->logical_limit) return SDB_END;
    int rc = map_get(p, *cursor, &c, &slot);
    if (rc != SDB_OK) return rc;
    if (!heap_at(c, slot) || c->live[slot] * 8u >= room) continue;
    dead[c->live[slot] * 8u * HEAP_CLASSES / room] += room - c->live[slot] * 8u;
  }
  return SDB_OK;
}

int pager_next_sparse(pager *p, uint32_t *cursor, uint32_t words, uint32_t below, uint32_t *number) {
  for (; words > 0; words--, ++*cursor) {
    struct map_chunk *c;
    uint32_t slot;
    if (*cursor >= p->logical_limit) return SDB_END;
    int rc = map_get(p, *cursor, &c, &slot);
    if (rc != SDB_OK) return rc;
    if (!heap_at(c, slot) || c->live[slot] * 8u >= below) continue;
    *number = (*cursor)++;
    return SDB_OK;
  }
  return SDB_NOT_FOUND;
}
