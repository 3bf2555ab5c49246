/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager_file.c - opening and closing the data file, and what check and the statistics ask of it. */
#include <stdio.h>

#include "codec.h"
#include "pager_state.h"

/* Takes the cipher over, also when there is no memory. */
static pager *pager_new(env *e, sdb_file *file, const pager_config *config, const header *h, cipher *c) {
  pager *p = mem_new(e, sizeof *p);
  if (!p) {
    cipher_drop(e, c);
    return NULL;
  }
  e->cipher = p->cipher = c;
  p->e = e;
  p->file = file;
  p->config = *config;
  p->config.key = NULL;
  atomic_init(&p->cache_pages, config->cache_pages);
  p->head = *h;
  geometry_init(&p->g, h->page_size);
  fair_init(&p->lock);
  mutex_init(&p->load_lock);
  mutex_init(&p->ring_lock);
  mutex_init(&p->pin_lock);
  mutex_init(&p->sync_lock);
  mutex_init(&p->quarantine_lock);
  mutex_init(&p->pace_lock);
  mutex_init(&p->retire_lock);
  p->groups = mem_new(e, MAX_GROUPS * sizeof *p->groups);
  p->root_dir = mem_new(e, ROOT_DIR_BYTES);
  p->stage = mem_alloc(e, STAGE_BYTES);
  atomic_init(&p->published, 1);
  atomic_init(&p->epoch, 1);
  p->published_sequence = h->roots.sequence;
  p->open_version = 2;
  p->checkpoint_version = 1;
  p->floor = 1;
  p->logical_limit = h->logical_limit ? h->logical_limit : 1;
  p->number_hint = 1;
  if (p->groups && p->root_dir && p->stage) return p;
  pager_close(p);
  return NULL;
}

static void group_drop(pager *p, uint32_t index) {
  struct group *g = atomic_load(&p->groups[index]);
  if (!g) return;
  const void *window = atomic_load(&g->window);
  if (window) p->e->storage->unmap(p->file, window, 1u << GROUP_BITS);
  for (uint32_t i = 0; i < p->g.map_chunks; i++) {
    struct map_chunk *c = atomic_load(&g->maps[i]);
    if (!c) continue;
    for (uint32_t k = 0; k < p->g.chunk_words; k++) {
      uint64_t w = atomic_load(&c->word[k]);
      struct frame *f = w == 0 || word_is_place(w) ? NULL : frame_of(w);
      while (f) {
        struct frame *older = atomic_load(&f->older);
        mem_free(p->e, atomic_load(&f->data));
        mem_free(p->e, f);
        f = older;
      }
    }
    mem_free(p->e, c->live);
    mem_free(p->e, c->places);
    mem_free(p->e, c->next);
    mem_free(p->e, c);
  }
  for (uint32_t b = 0; b < p->g.bitmaps; b++) {
    if (!g->bitmaps[b]) continue;
    mem_free(p->e, g->bitmaps[b]->used);
    mem_free(p->e, g->bitmaps[b]);
  }
  mem_free(p->e, (void *)(uintptr_t)atomic_load(&g->verified));
  mem_free(p->e, g->dir);
  mem_free(p->e, (void *)(uintptr_t)g->maps);
  mem_free(p->e, g->bitmaps);
  mem_free(p->e, g);
}

void pager_close(pager *p) {
  if (!p) return;
  for (uint32_t i = 0; p->groups && i < atomic_load(&p->group_limit); i++) group_drop(p, i);
  while (p->retired.first) {
    struct frame *f = p->retired.first;
    list_remove(&p->retired, f);
    mem_free(p->e, atomic_load(&f->data));
    mem_free(p->e, f);
  }
  while (p->spares) mem_free(p->e, p->spare[--p->spares]);
  mem_free(p->e, (void *)(uintptr_t)p->groups);
  mem_free(p->e, p->root_dir);
  mem_free(p->e, p->stage);
  mem_free(p->e, p->pins);
  mem_free(p->e, p->quarantine);
  mem_free(p->e, p->doomed);
  mem_free(p->e, p->orphans);
  mem_free(p->e, p->limbo.items);
  mem_free(p->e, p->spent.items);
  mem_free(p->e, p->cooling.items);
  mem_free(p->e, p->deltas);
  mem_free(p->e, p->cp.pending);
  mem_free(p->e, p->cp.marks);
  if (p->cipher) p->e->cipher = NULL;
  cipher_drop(p->e, p->cipher);
  fair_destroy(&p->lock);
  mutex_destroy(&p->load_lock);
  mutex_destroy(&p->ring_lock);
  mutex_destroy(&p->pin_lock);
  mutex_destroy(&p->sync_lock);
  mutex_destroy(&p->quarantine_lock);
  mutex_destroy(&p->pace_lock);
  mutex_destroy(&p->retire_lock);
  mem_free(p->e, p);
}

/* A random data key for a new file, wrapped into its header. */
static int key_make(env *e, const pager_config *config, header *h, cipher **c) {
  int rc = config->recovery ? env_fail(e, SDB_INVALID, "a recovery key opens a database that exists; it does not make one")
                            : cipher_new(e, config->cipher ? config->cipher : SDB_CIPHER_XCHACHA20, h->database_id, c);
  if (rc == SDB_OK) rc = cipher_wrap(e, *c, config->key, h->wrapped);
  h->encrypted = rc == SDB_OK;
  if (rc == SDB_OK) return SDB_OK;
  cipher_drop(e, *c);
  return rc;
}

/* Whether key and database belong together, before anything is written. */
static int key_take(env *e, const pager_config *config, const header *h, cipher **c) {
  if (!h->encrypted && !config->key) return SDB_OK;
  if (!h->encrypted) return env_fail(e, SDB_WRONG_KEY, "the database is not encrypted, but a key was given; open it without one");
  if (!config->key) return env_fail(e, SDB_WRONG_KEY, "the database is encrypted; give its key to open it");
  return cipher_unwrap(e, h->wrapped, h->database_id, config->key, config->recovery, c);
}

int pager_create(env *e, sdb_file *file, const pager_config *config, const header *first, pager **out) {
  header h = *first;
  geometry g;
  if (!geometry_init(&g, h.page_size))
    return env_fail(e, SDB_INVALID, "page_size %u is not 4096, 8192, 16384, 32768 or 65536", h.page_size);
  h.checkpoint = 0;
  h.logical_limit = 1;
  h.pages_total = group_body(&g, 0);
  h.pages_free = 0;
  if (h.pages_total << g.page_bits > config->max_bytes)
    return env_fail(e, SDB_FULL, "max_db_size is too small for an empty database");
  cipher *c = NULL;
  if (config->key) {
    int made = key_make(e, config, &h, &c);
    if (made != SDB_OK) return made;
  }
  pager *p = pager_new(e, file, config, &h, c);
  if (!p) return env_fail(e, SDB_NO_MEMORY, "out of memory while creating the database");
  p->pages_total = h.pages_total;
  for (uint32_t i = 0; i < p->g.root_pages; i++) p->root_loaded[i] = true;
  int rc = e->storage->set_size(file, h.pages_total << g.page_bits);
  if (rc != SDB_OK) {
    pager_close(p);
    return env_fail(e, rc, "cannot write the new data file");
  }
  *out = p;
  return SDB_OK;
}

/* Called inside a signal handler. The order is what readers rely on: whoever begins behind this does not look at the mapping, and
 * whoever is inside finds the count changed. */
static void note_fault(void *user) {
  pager *p = user;
  atomic_store(&p->mapped, false);
  atomic_fetch_add(&p->faults, 1);
}

int pager_raw(env *e, sdb_file *file, const pager_config *config, const header *h, pager **out) {
  cipher *c = NULL;
  int rc = key_take(e, config, h, &c);
  if (rc != SDB_OK) return rc;
  pager *p = pager_new(e, file, config, h, c);
  if (!p) return env_fail(e, SDB_NO_MEMORY, "out of memory for reading the data file");
  p->pages_total = h->pages_total;
  *out = p;
  return SDB_OK;
}

static bool mapping_works(pager *p) {
  if (!p->config.use_mmap || !p->e->storage->map || p->cipher) return false; /* what is encrypted cannot be used where it stands */
  if (p->config.fault_guard && p->e->storage->guard && p->e->storage->guard(p->file, note_fault, p) != SDB_OK) return false;
  const void *probe = p->e->storage->map(p->file, 0, 1u << GROUP_BITS);
  if (!probe) return false;
  p->e->storage->unmap(p->file, probe, 1u << GROUP_BITS);
  return true;
}

/* The decision table of docs/file-format.md, section 13. */
static int choose_slot(env *e, sdb_file *file, header *best, bool *differ, unsigned *from) {
  uint8_t bytes[2][SLOT_SIZE];
  header h[2];
  int rc[2];
  uint64_t size;
  if (e->storage->get_size(file, &size) != SDB_OK) return env_fail(e, SDB_IO, "cannot ask for the size of the data file");
  for (unsigned i = 0; i < 2; i++) {
    rc[i] = SDB_NOT_A_DATABASE;
    if (size < i * (uint64_t)SLOT_B + SLOT_SIZE) continue;
    rc[i] = e->storage->read(file, i * (uint64_t)SLOT_B, bytes[i], SLOT_SIZE);
    if (rc[i] == SDB_OK) rc[i] = header_decode(&h[i], bytes[i]);
    else rc[i] = SDB_IO;
  }
  if (rc[0] != SDB_OK && rc[1] != SDB_OK) {
    int worst = rc[0] == SDB_NOT_A_DATABASE ? rc[1] : rc[0];
    if (rc[0] == SDB_IO || rc[1] == SDB_IO) return env_fail(e, SDB_IO, "cannot read header slot %c", rc[0] == SDB_IO ? 'A' : 'B');
    if (worst == SDB_UNSUPPORTED) return env_fail(e, worst, "the file was written by a newer edition; open it with that");
    if (worst == SDB_CORRUPT) return env_fail(e, worst, "both header slots hold impossible numbers; restore a copy");
    return env_fail(e, SDB_NOT_A_DATABASE,
                    "the file has no valid header slot; it is not a StreamDB database and was left as it is");
  }
  if (rc[0] == SDB_OK && rc[1] == SDB_OK) {
    if (memcmp(h[0].database_id, h[1].database_id, 16) != 0 || h[0].page_size != h[1].page_size)
      return env_fail(e, SDB_CORRUPT, "the two header slots belong to different databases; restore a copy");
    *from = h[1].checkpoint > h[0].checkpoint;
    *differ = memcmp(bytes[0], bytes[1], SLOT_SIZE) != 0;
  } else {
    *from = rc[1] == SDB_OK;
    *differ = true;
  }
  *best = h[*from];
  if (best->pages_total * best->page_size > size)
    return env_fail(e, SDB_CORRUPT, "the data file is cut short: %llu bytes instead of %llu; restore a copy",
                    (unsigned long long)size, (unsigned long long)(best->pages_total * best->page_size));
  return SDB_OK;
}

int pager_settle(pager *p) {
  const sdb_storage *st = p->e->storage;
  uint8_t slot[SLOT_SIZE];
  if (!p->unsettled || p->config.read_only) return SDB_OK;
  header_encode(&p->head, slot);
  int rc = st->write(p->file, (1 - p->slot) * (uint64_t)SLOT_B, slot, SLOT_SIZE);
  if (rc == SDB_OK) rc = st->sync(p->file);
  if (rc != SDB_OK) return env_fail(p->e, rc, "cannot write the second header slot");
  p->unsettled = false;
  return SDB_OK;
}

int pager_open(env *e, sdb_file *file, const pager_config *config, pager **out) {
  header h;
  bool differ;
  unsigned from;
  cipher *c = NULL;
  int rc = choose_slot(e, file, &h, &differ, &from);
  if (rc == SDB_OK && h.to_be_read && !config->read_only)
    rc = env_fail(e, SDB_UNSUPPORTED,
                  "the file was written by a newer edition, and this one must not write to it; open it for reading only");
  if (rc == SDB_OK) rc = key_take(e, config, &h, &c);
  if (rc != SDB_OK) {
    cipher_drop(e, c);
    return rc;
  }
  pager *p = pager_new(e, file, config, &h, c);
  if (!p) return env_fail(e, SDB_NO_MEMORY, "out of memory while opening the database");
  uint64_t size, most = (uint64_t)MAX_GROUPS << p->g.group_shift;
  rc = e->storage->get_size(file, &size);
  if (rc != SDB_OK) {
    pager_close(p);
    return env_fail(e, SDB_IO, "cannot ask for the size of the data file");
  }
  /* Pages that the file gained after the header was written are free, but the log may name extents there. */
  p->pages_total = size >> p->g.page_bits;
  if (p->pages_total > most) p->pages_total = most;
  p->unloaded = p->unused = h.pages_free;
  for (uint64_t i = h.pages_total; i < p->pages_total; i++) {
    bool body = !pager_page_fixed(p, (uint32_t)i);
    p->unloaded += body;
    p->unused += body;
  }
  p->slot = from;
  p->unsettled = differ || !h.clean; /* equal bytes may not be synced */
  p->mapped = mapping_works(p);
  *out = p;
  return SDB_OK;
}

/* --- Looking at it ------------------------------------------------------------------------------------------------------------ */

bool pager_data_key(const pager *p, uint8_t *key) {
  if (p->cipher) memcpy(key, p->cipher->key, sizeof p->cipher->key);
  return p->cipher != NULL;
}

const header *pager_header(const pager *p) { return &p->head; }
const geometry *pager_geometry(const pager *p) { return &p->g; }
bool pager_mapped(const pager *p) { return p->mapped; }
uint64_t pager_cache_bytes(const pager *p) { return (uint64_t)p->config.cache_pages << p->g.page_bits; }
void pager_cache_lend(pager *p, uint64_t bytes) {
  atomic_fetch_sub_explicit(&p->cache_pages, (uint32_t)(bytes >> p->g.page_bits), memory_order_relaxed);
}
uint32_t pager_pages_total(const pager *p) { return (uint32_t)p->pages_total; }

bool pager_page_fixed(const pager *p, uint32_t physical) {
  uint32_t group = physical >> p->g.group_shift;
  return physical < group_body(&p->g, group);
}

void pager_get_stats(pager *p, pager_stats *s) {
  uint64_t now_us = p->e->storage->monotonic_us(p->e->storage->ctx);
  *s = (pager_stats){0};
  pager_lock(p);
  frames_reclaim(p);
  space_reclaim(p);
  s->pinned_pages = p->old_count;
  for (size_t i = p->limbo.head; i < p->limbo.count && p->limbo.items[i].version <= p->checkpoint_version; i++)
    s->pinned_pages += p->limbo.items[i].r.count;
  s->file_bytes = p->pages_total << p->g.page_bits;
  s->free_pages = space_free(p);
  s->dirty_pages = p->dirty_count;
  s->logical_pages = p->logical_limit - 1;
  pager_unlock(p);
  s->allocated_bytes = s->file_bytes;
  if (p->e->storage->get_allocated) (void)p->e->storage->get_allocated(p->file, &s->allocated_bytes);
  s->cached_pages = atomic_load(&p->frames_held);
  for (unsigned i = 0; i < HIT_COUNTERS; i++) s->hits += atomic_load(&p->hits[i].hits);
  s->misses = atomic_load(&p->misses);
  s->faults = atomic_load(&p->faults);
  mutex_lock(&p->pin_lock);
  s->pins = p->open_pins;
  if (p->pin_count == 0) s->pinned_pages = 0; /* then a checkpoint or a reader inside holds them, for a moment */
  s->oldest_sequence = p->pin_count ? p->pins[0].sequence : 0;
  s->oldest_us = p->pin_count ? now_us - p->pins[0].since_us : 0;
  mutex_unlock(&p->pin_lock);
}

int pager_walk(pager *p, int (*visit)(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live), void *user) {
  for (uint64_t n = 1; n < p->logical_limit; n++) {
    struct map_chunk *c;
    uint32_t slot;
    int rc = map_get(p, (uint32_t)n, &c, &slot);
    if (rc != SDB_OK) return rc;
    uint64_t w = atomic_load(&c->word[slot]);
    if (w == 0) continue;
    const struct frame *f = word_is_place(w) ? NULL : frame_of(w);
    uint8_t kind = f ? f->kind : kind_of(w);
    if (kind == PAGE_FREE) continue;
    rc = visit(user, (uint32_t)n, kind, f ? f->place : place_of(w), c->live[slot] * 8u);
    if (rc != SDB_OK) return rc;
  }
  return SDB_OK;
}

int pager_page_state(pager *p, uint32_t physical, enum page_state *state) {
  struct bitmap *b;
  uint32_t bit;
  int rc = bitmap_get(p, physical, &b, &bit);
  if (rc == SDB_OK)
    *state = bit_get(b->used, bit) ? STATE_USED : bit_get(b->busy, bit) && !bit_get(b->hole, bit) ? STATE_HELD : STATE_FREE;
  return rc;
}

static void check_one(pager *p, uint64_t offset, dir_entry entry, const char *what, uint32_t index, uint8_t *buf,
                      void (*problem)(void *user, const char *sentence), void *user) {
  if (!entry.written) return;
  const char *wrong = NULL;
  if (p->e->storage->read(p->file, offset, buf, p->g.page_size) != SDB_OK) wrong = "cannot be read";
  else if (crc32c(0, buf, p->g.page_size) != entry.crc) wrong = "does not match its checksum";
  if (!wrong) return;
  char text[128];
  snprintf(text, sizeof text, "%s %u at offset %llu %s", what, index, (unsigned long long)offset, wrong);
  problem(user, text);
}

void pager_check_slots(pager *p, void (*problem)(void *user, const char *sentence), void *user) {
  uint8_t slot[SLOT_SIZE];
  for (unsigned i = 0; i < 2; i++) {
    header h;
    const char *wrong = NULL;
    int rc = p->e->storage->read(p->file, i * (uint64_t)SLOT_B, slot, sizeof slot);
    if (rc != SDB_OK) wrong = "cannot be read";
    else if (header_decode(&h, slot) != SDB_OK) wrong = "is not valid";
    else if (memcmp(h.database_id, p->head.database_id, 16) != 0) wrong = "belongs to another database";
    if (!wrong) continue;
    char text[128];
    snprintf(text, sizeof text, "header slot %c at offset %llu %s", 'A' + i, (unsigned long long)i * SLOT_B, wrong);
    problem(user, text);
  }
}

int pager_check_chunks(pager *p, void (*problem)(void *user, const char *sentence), void *user) {
  uint8_t *buf = mem_alloc(p->e, p->g.page_size);
  if (!buf) return SDB_NO_MEMORY;
  for (uint32_t i = 0; i < p->g.root_pages; i++) {
    dir_entry entry = p->head.root_dir[i];
    check_one(p, root_dir_offset(&p->g, i, entry.copy), entry, "root directory page", i, buf, problem, user);
  }
  uint32_t groups = (uint32_t)((p->head.pages_total + p->g.group_pages - 1) >> p->g.group_shift);
  for (uint32_t i = 0; i < groups; i++) {
    struct group *g;
    int rc = group_get(p, i, &g);
    if (rc == SDB_NO_MEMORY) {
      mem_free(p->e, buf);
      return rc;
    }
    if (rc != SDB_OK) {
      problem(user, "a group directory cannot be read");
      continue;
    }
    dir_entry entry = dir_get(p->root_dir, i);
    check_one(p, group_dir_offset(&p->g, i, entry.copy), entry, "group directory", i, buf, problem, user);
    for (uint32_t k = 0; k < p->g.map_chunks + p->g.bitmaps; k++) {
      entry = dir_get(g->dir, k);
      check_one(p, chunk_offset(&p->g, i, k, entry.copy), entry, k < p->g.map_chunks ? "map chunk" : "bitmap chunk", k, buf,
                problem, user);
    }
  }
  mem_free(p->e, buf);
  return SDB_OK;
}
