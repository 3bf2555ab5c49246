/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* hints.c - see hints.h.
 *
 * The table doubles while it is more than half full, up to its share of the cache. A hint whose bucket is another one since is
 * looked for in its old one too, and moves when it is found there; one not asked for between two growths is lost. Memory is cleared
 * a block at a time when the first hint goes there: no read pays for all of it, and a small database never touches more than it has
 * hints for.
 */
#include "hints.h"

enum { SLOTS = 8, BLOCK = 65536, BLOCK_BUCKETS = BLOCK / 64 };
enum { LINE = 64, LINE_BITS = 27, NEAR_BITS = 25, FAR_BITS = 40, SIZE_SHIFT = 62 };
/* Both kinds of slot have their tag behind the size. */
#define BITS(from, to) ((UINT64_C(1) << (to)) - (UINT64_C(1) << (from)))
#define NEAR_TAG BITS(LINE_BITS + NEAR_BITS, SIZE_SHIFT)
#define FAR_TAG BITS(FAR_BITS, SIZE_SHIFT)

struct bucket {
  _Atomic uint64_t slot[SLOTS];
};

struct hints {
  env *e;
  pager *p;
  uint64_t most;                  /* buckets, a power of two; 0: no hints at all */
  _Atomic uint64_t mask;          /* buckets in use - 1 */
  atomic_uint_fast64_t filled;    /* slots */
  struct mutex lock;              /* taking and clearing memory */
  struct bucket *_Atomic buckets; /* NULL: none yet; aligned within `memory` */
  void *memory;
  _Atomic uint8_t clear[]; /* a block: its slots may be read */
};

/* With mapping the cache holds changed pages only, of which a checkpoint needs half the room at most; without, it is what saves
 * reading. */
static uint64_t share(const pager *p) {
  uint64_t bytes = pager_cache_bytes(p) / (pager_mapped(p) ? 2 : 8), most = BLOCK;
  if (bytes < BLOCK) return 0;
  while (most * 2 <= bytes) most *= 2;
  return most;
}

int hints_new(env *e, pager *p, hints **out) {
  uint64_t bytes = share(p), blocks = bytes / BLOCK;
  hints *h = mem_new(e, sizeof *h + (size_t)blocks);
  if (!h) return env_fail(e, SDB_NO_MEMORY, "out of memory while opening the database");
  h->e = e;
  h->p = p;
  h->most = bytes / sizeof(struct bucket);
  atomic_init(&h->mask, BLOCK_BUCKETS - 1);
  mutex_init(&h->lock);
  *out = h;
  return SDB_OK;
}

void hints_drop(hints *h) {
  if (!h) return;
  mem_free(h->e, h->memory);
  mutex_destroy(&h->lock);
  mem_free(h->e, h);
}

uint64_t hints_hash(const void *path, size_t len) {
  const uint8_t *p = path;
  uint64_t h = len, tail = 0;
  if (len < 8) memcpy(&tail, p, len);
  else tail = get64(p + len - 8); /* some bytes twice: cheaper than a length that varies */
  for (; len >= 8; len -= 8, p += 8) {
    h = (h ^ get64(p)) * UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 32;
  }
  h = (h ^ tail) * UINT64_C(0xBF58476D1CE4E5B9);
  h = (h ^ h >> 29) * UINT64_C(0x94D049BB133111EB);
  return h ^ h >> 32;
}

/* Takes the memory at the first hint. The cache gives up as much before. */
static bool take_memory(hints *h) {
  if (h->memory) return true;
  size_t bytes = (size_t)h->most * sizeof(struct bucket);
  h->memory = mem_alloc(h->e, bytes + sizeof(struct bucket));
  if (!h->memory) {
    h->most = 0; /* not asked for again */
    return false;
  }
  pager_cache_lend(h->p, bytes);
  uintptr_t at = align_up((uintptr_t)h->memory, sizeof(struct bucket));
  atomic_store_explicit(&h->buckets, (struct bucket *)at, memory_order_release);
  return true;
}

static bool make_clear(hints *h, uint64_t block) {
  if (!mutex_try(&h->lock)) return false; /* somebody else is at it: the next hint will do */
  bool good = h->most > 0 && take_memory(h);
  if (good && !atomic_load_explicit(&h->clear[block], memory_order_relaxed)) {
    memset((void *)(atomic_load_explicit(&h->buckets, memory_order_relaxed) + block * BLOCK_BUCKETS), 0, BLOCK);
    atomic_store_explicit(&h->clear[block], 1, memory_order_release);
  }
  mutex_unlock(&h->lock);
  return good;
}

/* A bucket, when its memory is clear; else NULL. */
static struct bucket *bucket_at(hints *h, uint64_t index) {
  struct bucket *buckets = atomic_load_explicit(&h->buckets, memory_order_acquire);
  if (!buckets || !atomic_load_explicit(&h->clear[index / BLOCK_BUCKETS], memory_order_acquire)) return NULL;
  return buckets + index;
}

/* Bytes to fetch, by the size in a slot; none: the slot does not know where. */
static const uint32_t lengths[] = {0, 256, 640, 1280};

static uint64_t slot_make(uint64_t hash, hint what) {
  uint64_t line = what.offset / LINE, size = what.length <= lengths[1] ? 1 : what.length <= lengths[2] ? 2 : 3;
  if (!line || line >> LINE_BITS || what.document >> NEAR_BITS) return (hash & FAR_TAG) | what.document;
  return size << SIZE_SHIFT | (hash & NEAR_TAG) | what.document << LINE_BITS | line;
}

static bool slot_fits(uint64_t slot, uint64_t hash) {
  uint64_t tag = slot >> SIZE_SHIFT ? NEAR_TAG : FAR_TAG;
  return ((slot ^ hash) & tag) == 0 && slot;
}

static hint slot_hint(uint64_t slot) {
  uint64_t size = slot >> SIZE_SHIFT;
  if (!size) return (hint){.document = slot & BITS(0, FAR_BITS)};
  return (hint){slot >> LINE_BITS & BITS(0, NEAR_BITS), (slot & BITS(0, LINE_BITS)) * LINE, lengths[size]};
}

/* The slot of a hash in a bucket, and what stood in it; 0: none. Looks at all by what both kinds have of the tag before it decides:
 * where the right one stands no processor can guess. */
static uint64_t slot_find(hints *h, uint64_t index, uint64_t hash, _Atomic uint64_t **at) {
  unsigned maybe = 0;
  struct bucket *b = bucket_at(h, index);
  if (!b) return 0;
  for (unsigned i = 0; i < SLOTS; i++)
    maybe |= (unsigned)(((atomic_load_explicit(&b->slot[i], memory_order_relaxed) ^ hash) & NEAR_TAG) == 0) << i;
  for (; maybe; maybe &= maybe - 1) {
    *at = &b->slot[__builtin_ctz(maybe)];
    uint64_t slot = atomic_load_explicit(*at, memory_order_relaxed);
    if (slot_fits(slot, hash)) return slot;
  }
  return 0;
}

static void grow(hints *h) {
  if (!mutex_try(&h->lock)) return;
  uint64_t mask = atomic_load_explicit(&h->mask, memory_order_relaxed);
  if (2 * (mask + 1) <= h->most) atomic_store_explicit(&h->mask, 2 * mask + 1, memory_order_relaxed);
  mutex_unlock(&h->lock);
}

void hints_put(hints *h, uint64_t hash, hint what) {
  uint64_t mask = atomic_load_explicit(&h->mask, memory_order_relaxed), index = hash & mask;
  struct bucket *b = bucket_at(h, index);
  if (!b) {
    if (!make_clear(h, index / BLOCK_BUCKETS)) return;
    b = atomic_load_explicit(&h->buckets, memory_order_relaxed) + index;
  }
  unsigned to = hash >> 32 & (SLOTS - 1); /* whom it drives out when there is no better place */
  uint64_t old = atomic_load_explicit(&b->slot[to], memory_order_relaxed);
  for (unsigned i = 0; i < SLOTS; i++) {
    uint64_t slot = atomic_load_explicit(&b->slot[i], memory_order_relaxed);
    if (slot && !slot_fits(slot, hash)) continue;
    to = i;
    old = slot;
    if (slot) break;
  }
  atomic_store_explicit(&b->slot[to], slot_make(hash, what), memory_order_relaxed);
  if (!old && atomic_fetch_add_explicit(&h->filled, 1, memory_order_relaxed) >= (mask + 1) * SLOTS / 2) grow(h);
}

hint hints_get(hints *h, uint64_t hash) {
  _Atomic uint64_t *at;
  uint64_t mask = atomic_load_explicit(&h->mask, memory_order_relaxed), index = hash & mask, before = hash & mask >> 1;
  uint64_t slot = slot_find(h, index, hash, &at);
  if (slot || before == index) return slot_hint(slot);
  slot = slot_find(h, before, hash, &at);
  if (!slot) return (hint){0};
  hint what = slot_hint(slot);
  if (atomic_compare_exchange_strong_explicit(at, &slot, 0, memory_order_relaxed, memory_order_relaxed))
    atomic_fetch_sub_explicit(&h->filled, 1, memory_order_relaxed);
  hints_put(h, hash, what);
  return what;
}
