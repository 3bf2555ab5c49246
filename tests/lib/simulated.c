/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* simulated.c - see simulated.h for the fault model; the numbers of its rules are cited here.
 *
 *     node  now     [block 0][hole][block 2] ...       what the process sees, in blocks of 4,096 bytes
 *           held    sector 17: "before the 1st write" <- "before the 2nd write"      (the newest contents stand in `now`)
 *                   sector 40: "before the 1st write"
 *           sizes   what the size was before each change
 *
 * A successful sync forgets `held` and `sizes`; a crash picks one candidate for each sector and one size, and forgets the rest.
 * Names work the same way: `present` is what the process sees, `durable` what the last sync_dir left, `changes` what lies between.
 */
#include "simulated.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u
#define NONE UINT32_MAX
#define START_MS 1700000000000u
#define BOOTED_MS (START_MS - 1000) /* where monotonic_us counts from */
#define GARBAGE 0xA5
#define GARBAGE_ENDS 65536u /* of a larger block only so much at either end: the rest would cost more than all else */

typedef struct held {
  uint64_t sector;
  uint32_t older; /* index of what the sector held before that; NONE: this is what was synced */
  uint32_t pad;
  uint8_t data[SIM_SECTOR];
} held;

typedef struct node {
  struct node *next;
  uint32_t number; /* to find the twin in a clone */
  uint32_t handles, shared_locks;
  bool exclusive_lock;
  uint64_t size;
  uint64_t *sizes; /* older ones, the synced one first */
  size_t size_count, size_cap;
  uint8_t **blocks; /* NULL: zeros */
  bool *used;       /* the block has its place on the device */
  size_t block_count;
  uint64_t used_count;
  held *held;
  uint32_t held_count, held_cap;
  uint32_t in_doubt; /* held[0 .. in_doubt) date from before a failed sync (rule 5) */
  uint32_t *slots;   /* hash from sector to its newest entry in held; NONE: free */
  uint32_t slot_count;
} node;

typedef struct entry {
  char *name;
  node *node;
} entry;

typedef struct names {
  entry *entries; /* sorted */
  size_t count, cap;
} names;

/* What one call did to names: `gone` lost its entry, `name` leads to `node`; either may be NULL. */
typedef struct change {
  char *gone, *name;
  node *node;
} change;

typedef struct allocation {
  struct allocation *prev, *next;
  size_t size;
  uint64_t number;
} allocation;

_Static_assert(sizeof(allocation) % 16 == 0, "what follows is aligned to 16 bytes");

struct sim {
  sdb_storage table;
  uint64_t random_state;
  uint64_t now_ms, jumped_ms;
  node *nodes;
  uint32_t next_number;
  names present, durable;
  change *changes;
  size_t change_count, change_cap;
  size_t open_files;
  uint64_t limit;
  uint64_t calls[SIM_COUNTERS];
  struct {
    bool armed, for_good, struck;
    enum sim_kind kind;
    uint64_t at;
    int code;
  } fault;
  struct {
    struct bad_place {
      const node *node;
      uint64_t from, to;
    } * places;
    size_t count, cap;
    uint64_t chance;
  } bad;
  uint64_t die_at; /* as a count of SIM_CHANGE; 0: never */
  bool dies;       /* in this call or, between calls, the next one */
  bool dead;
  allocation *allocations;
  uint64_t allocation_count, allocation_number;
  void (*watch)(void *user, const sim_event *event);
  void *watch_user;
};

struct sdb_file {
  sim *device;
  node *node;
  bool writable, shared, exclusive;
};

/* --- Help --------------------------------------------------------------------------------------------------------------------- */

/* The simulator's own shortage is nothing a test can go on from. */
static void *must(void *p) {
  if (p == NULL) {
    fputs("simulated storage: out of memory\n", stderr);
    exit(2);
  }
  return p;
}

static void *grow(void *array, size_t *cap, size_t need, size_t unit) {
  if (need <= *cap) return array;
  *cap = need > *cap * 2 ? need : *cap * 2;
  return must(realloc(array, *cap * unit));
}

uint64_t sim_random(uint64_t *state) {
  uint64_t z = (*state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static char *copy_name(const char *name) { return name == NULL ? NULL : must(strdup(name)); }

/* --- Held sectors ------------------------------------------------------------------------------------------------------------- */

static uint32_t slot_of(const node *n, uint64_t sector) {
  uint32_t i = (uint32_t)((sector * 0x9E3779B97F4A7C15u) >> 32) & (n->slot_count - 1);
  while (n->slots[i] != NONE && n->held[n->slots[i]].sector != sector) i = (i + 1) & (n->slot_count - 1);
  return i;
}

/* Builds the hash anew with room for `count` entries. Later entries of a sector replace earlier ones. */
static void rehash(node *n, uint32_t count) {
  uint32_t slots = 64;
  while (slots < count * 2) slots *= 2;
  n->slots = must(realloc(n->slots, slots * sizeof *n->slots));
  n->slot_count = slots;
  memset(n->slots, 0xFF, slots * sizeof *n->slots);
  for (uint32_t i = 0; i < n->held_count; i++) n->slots[slot_of(n, n->held[i].sector)] = i;
}

static const uint8_t *sector_data(const node *n, uint64_t sector) {
  static const uint8_t zeros[SIM_SECTOR];
  uint64_t block = sector * SIM_SECTOR / BLOCK;
  if (block >= n->block_count || n->blocks[block] == NULL) return zeros;
  return n->blocks[block] + sector * SIM_SECTOR % BLOCK;
}

/* Keeps what the sector holds now as one of the contents it may have after a crash. */
static void hold(node *n, uint64_t sector) {
  if ((n->held_count + 1) * 2 > n->slot_count) rehash(n, (n->held_count + 1) * 2);
  size_t cap = n->held_cap;
  n->held = grow(n->held, &cap, n->held_count + 1u, sizeof *n->held);
  n->held_cap = (uint32_t)cap;
  uint32_t slot = slot_of(n, sector);
  held *h = &n->held[n->held_count];
  h->sector = sector;
  h->older = n->slots[slot];
  h->pad = 0;
  memcpy(h->data, sector_data(n, sector), SIM_SECTOR);
  n->slots[slot] = n->held_count++;
}

static void hold_size(node *n, uint64_t new_size) {
  if (new_size == n->size) return;
  n->sizes = grow(n->sizes, &n->size_cap, n->size_count + 1, sizeof *n->sizes);
  n->sizes[n->size_count++] = n->size;
  n->size = new_size;
}

/* A successful sync: only sectors that a failed sync left in doubt, and that were not written since, stay held (rule 5). */
static void settle(node *n) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n->in_doubt; i++) {
    if (n->slots[slot_of(n, n->held[i].sector)] >= n->in_doubt) n->held[i].pad = 1;
  }
  for (uint32_t i = 0; i < n->in_doubt; i++) {
    if (n->held[i].pad == 0) n->held[kept++] = n->held[i];
  }
  bool rebuild = n->held_count > 0;
  n->held_count = n->in_doubt = kept;
  n->size_count = 0;
  if (!rebuild) return;
  if (n->slots != NULL) memset(n->slots, 0xFF, n->slot_count * sizeof *n->slots);
  for (uint32_t i = 0; i < kept; i++) {
    uint32_t slot = slot_of(n, n->held[i].sector);
    n->held[i].older = n->slots[slot];
    n->slots[slot] = i;
  }
}

/* --- Contents of a node ------------------------------------------------------------------------------------------------------- */

static uint64_t units_used(const sim *s) {
  uint64_t units = 0;
  for (const node *n = s->nodes; n != NULL; n = n->next) units += n->used_count;
  return units;
}

static void reserve_blocks(node *n, uint64_t count) {
  if (count <= n->block_count) return;
  size_t cap = n->block_count * 2 > count ? n->block_count * 2 : (size_t)count;
  n->blocks = must(realloc(n->blocks, cap * sizeof *n->blocks));
  n->used = must(realloc(n->used, cap * sizeof *n->used));
  memset(n->blocks + n->block_count, 0, (cap - n->block_count) * sizeof *n->blocks);
  memset(n->used + n->block_count, 0, (cap - n->block_count) * sizeof *n->used);
  n->block_count = cap;
}

/* Gives block `index` its place on the device; false when there is none left. */
static bool use_block(sim *s, node *n, uint64_t index) {
  reserve_blocks(n, index + 1);
  if (n->used[index]) return true;
  if (s->limit != UINT64_MAX && (units_used(s) + 1) * BLOCK > s->limit) return false;
  n->used[index] = true;
  n->used_count++;
  return true;
}

static uint8_t *block_for_writing(node *n, uint64_t index) {
  if (n->blocks[index] == NULL) n->blocks[index] = must(calloc(1, BLOCK));
  return n->blocks[index];
}

static void release_block(node *n, uint64_t index) {
  if (n->used[index]) n->used_count--;
  n->used[index] = false;
  free(n->blocks[index]);
  n->blocks[index] = NULL;
}

/* Zeros [from, to), holding what was there; whole blocks lose their place. */
static void clear_range(node *n, uint64_t from, uint64_t to) {
  uint64_t end = (uint64_t)n->block_count * BLOCK;
  if (to > end) to = end;
  while (from < to) {
    uint64_t index = from / BLOCK, stop = (index + 1) * BLOCK < to ? (index + 1) * BLOCK : to;
    if (n->blocks[index] != NULL) {
      for (uint64_t s = from / SIM_SECTOR; s <= (stop - 1) / SIM_SECTOR; s++) hold(n, s);
      memset(n->blocks[index] + from % BLOCK, 0, stop - from);
    }
    if (stop - from == BLOCK) release_block(n, index);
    from = stop;
  }
}

static void put_bytes(node *n, uint64_t offset, const uint8_t *p, size_t len) {
  while (len > 0) {
    size_t start = (size_t)(offset % BLOCK), part = len < BLOCK - start ? len : BLOCK - start;
    memcpy(block_for_writing(n, offset / BLOCK) + start, p, part);
    offset += part, p += part, len -= part;
  }
}

/* Writes sector by sector. `subset`: each sector only perhaps, from the device's randomness (rule 6). */
static int write_sectors(sim *s, node *n, uint64_t offset, const uint8_t *p, size_t len, bool subset) {
  while (len > 0) {
    size_t start = (size_t)(offset % SIM_SECTOR), part = len < SIM_SECTOR - start ? len : SIM_SECTOR - start;
    if (!subset || sim_random(&s->random_state) % 2 == 0) {
      if (!use_block(s, n, offset / BLOCK)) return SDB_FULL;
      hold(n, offset / SIM_SECTOR);
      put_bytes(n, offset, p, part);
      if (offset + part > n->size) hold_size(n, offset + part);
    }
    offset += part, p += part, len -= part;
  }
  return SDB_OK;
}

static void read_bytes(const node *n, uint64_t offset, uint8_t *p, size_t len) {
  while (len > 0) {
    size_t start = (size_t)(offset % BLOCK), part = len < BLOCK - start ? len : BLOCK - start;
    const uint8_t *block = offset / BLOCK < n->block_count ? n->blocks[offset / BLOCK] : NULL;
    if (block != NULL) memcpy(p, block + start, part);
    else memset(p, 0, part);
    offset += part, p += part, len -= part;
  }
}

static void free_node(node *n) {
  for (size_t i = 0; i < n->block_count; i++) free(n->blocks[i]);
  free(n->blocks);
  free(n->used);
  free(n->held);
  free(n->slots);
  free(n->sizes);
  free(n);
}

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

static size_t name_place(const names *t, const char *name, bool *found) {
  size_t i = 0;
  while (i < t->count && strcmp(t->entries[i].name, name) < 0) i++;
  *found = i < t->count && strcmp(t->entries[i].name, name) == 0;
  return i;
}

static node *name_get(const names *t, const char *name) {
  bool found;
  size_t i = name_place(t, name, &found);
  return found ? t->entries[i].node : NULL;
}

/* NULL as `n` removes. */
static void name_set(names *t, const char *name, node *n) {
  bool found;
  size_t i = name_place(t, name, &found);
  if (n == NULL) {
    if (!found) return;
    free(t->entries[i].name);
    t->count--;
    memmove(t->entries + i, t->entries + i + 1, (t->count - i) * sizeof *t->entries);
    return;
  }
  if (!found) {
    t->entries = grow(t->entries, &t->cap, t->count + 1, sizeof *t->entries);
    memmove(t->entries + i + 1, t->entries + i, (t->count - i) * sizeof *t->entries);
    t->entries[i].name = copy_name(name);
    t->count++;
  }
  t->entries[i].node = n;
}

static void names_clear(names *t) {
  for (size_t i = 0; i < t->count; i++) free(t->entries[i].name);
  free(t->entries);
  *t = (names){0};
}

static void names_copy(names *to, const names *from) {
  names_clear(to);
  for (size_t i = 0; i < from->count; i++) name_set(to, from->entries[i].name, from->entries[i].node);
}

static void apply_change(names *t, const change *c) {
  if (c->gone != NULL) name_set(t, c->gone, NULL);
  if (c->name != NULL) name_set(t, c->name, c->node);
}

static void record_change(sim *s, const char *gone, const char *name, node *n) {
  s->changes = grow(s->changes, &s->change_cap, s->change_count + 1, sizeof *s->changes);
  change *c = &s->changes[s->change_count++];
  *c = (change){.gone = copy_name(gone), .name = copy_name(name), .node = n};
  apply_change(&s->present, c);
}

static void forget_changes(sim *s) {
  for (size_t i = 0; i < s->change_count; i++) {
    free(s->changes[i].gone);
    free(s->changes[i].name);
  }
  s->change_count = 0;
}

static bool names_hold(const names *t, const node *n) {
  for (size_t i = 0; i < t->count; i++) {
    if (t->entries[i].node == n) return true;
  }
  return false;
}

static bool node_needed(const sim *s, const node *n) {
  if (n->handles > 0 || names_hold(&s->present, n) || names_hold(&s->durable, n)) return true;
  for (size_t i = 0; i < s->change_count; i++) {
    if (s->changes[i].node == n) return true;
  }
  return false;
}

static void sweep_nodes(sim *s) {
  node **link = &s->nodes;
  while (*link != NULL) {
    node *n = *link;
    if (node_needed(s, n)) {
      link = &n->next;
    } else {
      *link = n->next;
      free_node(n);
    }
  }
}

static node *new_node(sim *s) {
  node *n = must(calloc(1, sizeof *n));
  n->number = s->next_number++;
  n->next = s->nodes;
  s->nodes = n;
  return n;
}

/* --- Faults ------------------------------------------------------------------------------------------------------------------- */

enum verdict { GO, FAIL, DIE, DEAD };

static bool is_change(const char *call) {
  static const char *const changes[] = {"write", "sync",   "set_size", "allocate", "fill",
                                        "punch", "rename", "remove",   "sync_dir", "create"};
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
    if (strcmp(call, changes[i]) == 0) return true;
  }
  return false;
}

static bool fault_strikes(sim *s, enum sim_kind kind, bool changes) {
  if (!s->fault.armed) return false;
  enum sim_kind k = s->fault.kind;
  if (k != kind && !(k == SIM_ANY && kind != SIM_ALLOC) && !(k == SIM_CHANGE && changes)) return false;
  if (s->fault.for_good ? s->calls[k] < s->fault.at : s->calls[k] != s->fault.at) return false;
  s->fault.struck = true;
  return true;
}

/* Counts the call, tells the watcher and says what is to become of it. */
static enum verdict enter(sim *s, enum sim_kind kind, const sim_event *event) {
  bool changes = is_change(event->call);
  s->calls[kind]++;
  s->calls[SIM_ANY]++;
  if (changes) s->calls[SIM_CHANGE]++;
  if (s->dead) return DEAD;
  if (changes && s->watch != NULL) s->watch(s->watch_user, event);
  if (changes && (s->dies || (s->die_at != 0 && s->calls[SIM_CHANGE] == s->die_at))) {
    s->dead = true;
    return DIE;
  }
  return fault_strikes(s, kind, changes) ? FAIL : GO;
}

static int code_of(const sim *s, enum verdict verdict) { return verdict == FAIL ? s->fault.code : SDB_IO; }

void sim_fail(sim *s, enum sim_kind kind, uint64_t nth, bool for_good, int code) {
  s->fault.armed = true;
  s->fault.struck = false;
  s->fault.kind = kind;
  s->fault.at = s->calls[kind] + nth;
  s->fault.for_good = for_good;
  s->fault.code = code;
}

void sim_fail_nothing(sim *s) { s->fault.armed = false; }

void sim_unreadable(sim *s, const char *name, uint64_t offset, uint64_t len, uint64_t chance) {
  const node *n = name_get(&s->present, name);
  assert(n != NULL);
  s->bad.places = grow(s->bad.places, &s->bad.cap, s->bad.count + 1, sizeof *s->bad.places);
  s->bad.places[s->bad.count++] = (struct bad_place){n, offset, offset + len};
  s->bad.chance = chance;
}

void sim_readable(sim *s) { s->bad.count = 0; }

static bool is_unreadable(sim *s, const node *n, uint64_t offset, size_t len) {
  for (size_t i = 0; i < s->bad.count; i++) {
    const struct bad_place *b = &s->bad.places[i];
    if (b->node == n && offset < b->to && offset + len > b->from) return s->bad.chance == 0 || sim_random(&s->bad.chance) % 2 == 0;
  }
  return false;
}

bool sim_failed(const sim *s) { return s->fault.struck; }
void sim_die_at(sim *s, uint64_t nth) { s->die_at = nth == 0 ? 0 : s->calls[SIM_CHANGE] + nth; }
void sim_die_now(sim *s) { s->dies = true; }
bool sim_dead(const sim *s) { return s->dead; }
void sim_limit(sim *s, uint64_t bytes) { s->limit = bytes; }

/* How likely the newest contents of a sector survive differs from crash to crash: the interesting ones are nearly all and nearly
 * none. */
static void crash_node(node *n, enum sim_crash_mode mode, uint64_t *random) {
  uint64_t keep_of_8 = mode == SIM_DROP_ALL ? 0 : mode == SIM_KEEP_ALL ? 8 : sim_random(random) % 9;
  for (uint32_t i = n->held_count; i-- > 0;) {
    uint64_t sector = n->held[i].sector;
    if (n->slots[slot_of(n, sector)] != i || sim_random(random) % 8 < keep_of_8) continue;
    uint32_t choice = i;
    while (n->held[choice].older != NONE && (mode == SIM_DROP_ALL || sim_random(random) % 2 == 0)) choice = n->held[choice].older;
    reserve_blocks(n, sector * SIM_SECTOR / BLOCK + 1);
    put_bytes(n, sector * SIM_SECTOR, n->held[choice].data, SIM_SECTOR);
  }
  uint64_t size = n->size;
  if (n->size_count > 0 && mode == SIM_DROP_ALL) size = n->sizes[0];
  if (n->size_count > 0 && mode == SIM_RANDOM_SUBSET) {
    uint64_t choice = sim_random(random) % (n->size_count + 1);
    if (choice < n->size_count) size = n->sizes[choice];
  }
  n->size = size;
  clear_range(n, size, UINT64_MAX);
  for (uint64_t i = 0; i < n->block_count; i++) {
    if (n->blocks[i] != NULL && !n->used[i]) n->used[i] = true, n->used_count++;
  }
  n->in_doubt = 0;
  settle(n);
}

void sim_crash(sim *s, enum sim_crash_mode mode, uint64_t seed) {
  assert(s->open_files == 0);
  uint64_t random = seed ^ 0x5DEECE66Du;
  for (size_t i = 0; i < s->change_count; i++) {
    bool keep = mode == SIM_KEEP_ALL || (mode == SIM_RANDOM_SUBSET && sim_random(&random) % 2 == 0);
    if (keep) apply_change(&s->durable, &s->changes[i]);
  }
  forget_changes(s);
  names_copy(&s->present, &s->durable);
  sweep_nodes(s);
  for (node *n = s->nodes; n != NULL; n = n->next) crash_node(n, mode, &random);
  s->dead = false;
  s->die_at = 0;
  s->dies = false;
  s->fault.armed = false;
}

/* --- The table: files --------------------------------------------------------------------------------------------------------- */

/* The name that it has: a rename changes that of an open file too. */
static const char *name_of(const sdb_file *file) {
  const names *t = &file->device->present;
  for (size_t i = 0; i < t->count; i++) {
    if (t->entries[i].node == file->node) return t->entries[i].name;
  }
  return "a removed file";
}

static bool lock_node(sdb_file *file, bool exclusive) {
  node *n = file->node;
  uint32_t others = n->shared_locks - (file->shared ? 1u : 0u);
  if ((n->exclusive_lock && !file->exclusive) || (exclusive && others > 0)) return false;
  n->shared_locks = others + (exclusive ? 0u : 1u);
  n->exclusive_lock = exclusive;
  file->shared = !exclusive;
  file->exclusive = exclusive;
  return true;
}

/* Emptying an existing file, or a new one with its name. */
static node *create_node(sim *s, const char *name) {
  node *n = name_get(&s->present, name);
  if (n == NULL) {
    n = new_node(s);
    record_change(s, NULL, name, n);
  } else {
    clear_range(n, 0, UINT64_MAX);
    hold_size(n, 0);
  }
  return n;
}

static int sim_open(void *ctx, const char *name, unsigned flags, sdb_file **file) {
  sim *s = ctx;
  bool create = flags == SDB_OPEN_CREATE;
  enum verdict verdict = enter(s, SIM_NAME, &(sim_event){.call = create ? "create" : "open", .name = name});
  node *n = name_get(&s->present, name);
  bool locked = create && n != NULL && (n->exclusive_lock || n->shared_locks > 0);
  if (verdict == DIE && !locked) create_node(s, name);
  if (verdict != GO) return code_of(s, verdict);
  if (n == NULL && !create) return SDB_NOT_FOUND;
  if (locked) return SDB_LOCKED;
  if (create) n = create_node(s, name);
  sdb_file *f = must(calloc(1, sizeof *f));
  *f = (sdb_file){.device = s, .node = n, .writable = flags != SDB_OPEN_READ};
  if (create) lock_node(f, true);
  n->handles++;
  s->open_files++;
  *file = f;
  return SDB_OK;
}

static void sim_close(sdb_file *file) {
  if (file == NULL) return;
  if (file->shared) file->node->shared_locks--;
  if (file->exclusive) file->node->exclusive_lock = false;
  file->node->handles--;
  file->device->open_files--;
  free(file);
}

static int sim_lock(sdb_file *file, bool exclusive) {
  enum verdict verdict = enter(file->device, SIM_NAME, &(sim_event){.call = "lock", .name = name_of(file)});
  if (verdict != GO) return code_of(file->device, verdict);
  if (exclusive && !file->writable) return SDB_INVALID;
  return lock_node(file, exclusive) ? SDB_OK : SDB_LOCKED;
}

static int sim_read(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  sim_event event = {.call = "read", .name = name_of(file), .offset = offset, .len = len};
  enum verdict verdict = enter(file->device, SIM_READ, &event);
  bool bad = verdict == GO && is_unreadable(file->device, file->node, offset, len);
  if (verdict != GO || bad) {
    memset(buf, GARBAGE, len);
    return bad ? SDB_IO : code_of(file->device, verdict);
  }
  if (offset > file->node->size || len > file->node->size - offset) return SDB_IO;
  read_bytes(file->node, offset, buf, len);
  return SDB_OK;
}

static int sim_write(sdb_file *file, uint64_t offset, const void *buf, size_t len) {
  sim *s = file->device;
  enum verdict verdict = enter(s, SIM_WRITE, &(sim_event){"write", name_of(file), offset, len, buf});
  if (!file->writable) return SDB_IO;
  if (verdict == DEAD) return SDB_IO;
  int code = write_sectors(s, file->node, offset, buf, len, verdict == FAIL);
  return verdict == GO ? code : code_of(s, verdict);
}

static int sim_sync(sdb_file *file) {
  uint64_t size = file->node->size;
  enum verdict verdict = enter(file->device, SIM_SYNC, &(sim_event){.call = "sync", .name = name_of(file), .len = size});
  if (verdict == GO) settle(file->node);
  if (verdict == FAIL) file->node->in_doubt = file->node->held_count;
  return verdict == GO ? SDB_OK : code_of(file->device, verdict);
}

/* What is on its way to the device counts as what any unsynced write does: a crash keeps it or not. */
static int sim_write_back(sdb_file *file, uint64_t offset, uint64_t len, bool wait) {
  (void)wait;
  enum verdict verdict =
      enter(file->device, SIM_WRITE, &(sim_event){.call = "write_back", .name = name_of(file), .offset = offset, .len = len});
  return verdict == GO ? SDB_OK : code_of(file->device, verdict);
}

static int sim_get_size(sdb_file *file, uint64_t *size) {
  enum verdict verdict = enter(file->device, SIM_READ, &(sim_event){.call = "get_size", .name = name_of(file)});
  if (verdict != GO) return code_of(file->device, verdict);
  *size = file->node->size;
  return SDB_OK;
}

static int sim_set_size(sdb_file *file, uint64_t size) {
  enum verdict verdict = enter(file->device, SIM_SIZE, &(sim_event){.call = "set_size", .name = name_of(file), .offset = size});
  if (!file->writable) return SDB_IO;
  if (verdict == GO || verdict == DIE) {
    if (size < file->node->size) clear_range(file->node, size, UINT64_MAX);
    hold_size(file->node, size);
  }
  return verdict == GO ? SDB_OK : code_of(file->device, verdict);
}

static int sim_allocate(sdb_file *file, uint64_t size) {
  sim *s = file->device;
  node *n = file->node;
  enum verdict verdict = enter(s, SIM_SIZE, &(sim_event){.call = "allocate", .name = name_of(file), .offset = size});
  if (!file->writable) return SDB_IO;
  if (verdict == FAIL || verdict == DEAD) return code_of(s, verdict);
  if (size > n->size) {
    uint64_t first = n->size / BLOCK, last = (size - 1) / BLOCK, need = 0;
    reserve_blocks(n, last + 1);
    for (uint64_t i = first; i <= last; i++) need += n->used[i] ? 0 : 1;
    if (s->limit != UINT64_MAX && (units_used(s) + need) * BLOCK > s->limit) return SDB_FULL;
    for (uint64_t i = first; i <= last; i++) n->used[i] = true;
    n->used_count += need;
    hold_size(n, size);
  }
  return verdict == GO ? SDB_OK : code_of(s, verdict);
}

static int sim_fill(sdb_file *file, uint64_t offset, uint64_t len) {
  sim *s = file->device;
  node *n = file->node;
  enum verdict verdict = enter(s, SIM_SIZE, &(sim_event){.call = "fill", .name = name_of(file), .offset = offset, .len = len});
  if (!file->writable) return SDB_IO;
  if (verdict == FAIL || verdict == DEAD) return code_of(s, verdict);
  uint64_t first = offset / BLOCK, last = (offset + len - 1) / BLOCK, need = 0;
  reserve_blocks(n, last + 1);
  for (uint64_t i = first; i <= last; i++) need += n->used[i] ? 0 : 1;
  if (s->limit != UINT64_MAX && (units_used(s) + need) * BLOCK > s->limit) return SDB_FULL;
  for (uint64_t i = first; i <= last; i++) n->used[i] = true;
  n->used_count += need;
  return verdict == GO ? SDB_OK : code_of(s, verdict);
}

static int sim_get_allocated(sdb_file *file, uint64_t *bytes) {
  enum verdict verdict = enter(file->device, SIM_READ, &(sim_event){.call = "get_allocated", .name = name_of(file)});
  *bytes = file->node->used_count * BLOCK;
  return verdict == GO ? SDB_OK : code_of(file->device, verdict);
}

static int sim_punch(sdb_file *file, uint64_t offset, uint64_t len) {
  sim_event event = {.call = "punch", .name = name_of(file), .offset = offset, .len = len};
  enum verdict verdict = enter(file->device, SIM_SIZE, &event);
  if (!file->writable) return SDB_IO;
  if ((verdict == GO || verdict == DIE) && offset < file->node->size) {
    clear_range(file->node, offset, len < file->node->size - offset ? offset + len : file->node->size);
  }
  return verdict == GO ? SDB_OK : code_of(file->device, verdict);
}

static const void *sim_map(sdb_file *file, uint64_t offset, size_t len) {
  (void)file, (void)offset, (void)len;
  return NULL;
}

static void sim_unmap(sdb_file *file, const void *address, size_t len) { (void)file, (void)address, (void)len; }

/* --- The table: names --------------------------------------------------------------------------------------------------------- */

static int sim_rename(void *ctx, const char *from, const char *to) {
  sim *s = ctx;
  enum verdict verdict = enter(s, SIM_NAME, &(sim_event){.call = "rename", .name = from});
  if (verdict == FAIL || verdict == DEAD) return code_of(s, verdict);
  node *n = name_get(&s->present, from);
  if (n == NULL) return SDB_NOT_FOUND;
  record_change(s, from, to, n);
  return verdict == GO ? SDB_OK : SDB_IO;
}

static int sim_remove(void *ctx, const char *name) {
  sim *s = ctx;
  enum verdict verdict = enter(s, SIM_NAME, &(sim_event){.call = "remove", .name = name});
  if (verdict == FAIL || verdict == DEAD) return code_of(s, verdict);
  if (name_get(&s->present, name) == NULL) return SDB_NOT_FOUND;
  record_change(s, name, NULL, NULL);
  return verdict == GO ? SDB_OK : SDB_IO;
}

static int sim_sync_dir(void *ctx, const char *name) {
  sim *s = ctx;
  enum verdict verdict = enter(s, SIM_SYNC, &(sim_event){.call = "sync_dir", .name = name});
  if (verdict != GO) return code_of(s, verdict);
  forget_changes(s);
  names_copy(&s->durable, &s->present);
  sweep_nodes(s);
  return SDB_OK;
}

/* --- The table: clock, randomness, memory ------------------------------------------------------------------------------------- */

static uint64_t sim_now_ms(void *ctx) { return ((sim *)ctx)->now_ms + ((sim *)ctx)->jumped_ms; }
static uint64_t sim_monotonic_us(void *ctx) { return (((sim *)ctx)->now_ms - BOOTED_MS) * 1000; }

static int sim_fill_random(void *ctx, void *buf, size_t len) {
  sim *s = ctx;
  enum verdict verdict = enter(s, SIM_RANDOM, &(sim_event){.call = "random", .name = ""});
  if (verdict != GO) return code_of(s, verdict);
  uint8_t *p = buf;
  for (size_t i = 0; i < len; i++) p[i] = (uint8_t)sim_random(&s->random_state);
  return SDB_OK;
}

static void free_allocation(sim *s, allocation *a) {
  if (a->next != NULL) a->next->prev = a->prev;
  if (a->prev != NULL) a->prev->next = a->next;
  if (s->allocations == a) s->allocations = a->next;
  s->allocation_count--;
  free(a);
}

static void fill_garbage(uint8_t *p, size_t len) {
  bool large = len > 2 * GARBAGE_ENDS;
  memset(p, GARBAGE, large ? GARBAGE_ENDS : len);
  if (large) memset(p + len - GARBAGE_ENDS, GARBAGE, GARBAGE_ENDS);
}

/* New memory is full of garbage and a grown block always moves, so that mistakes show in every run. */
static void *sim_realloc(void *ctx, void *p, size_t len) {
  sim *s = ctx;
  allocation *old = p == NULL ? NULL : (allocation *)p - 1;
  if (len == 0) {
    if (old != NULL) free_allocation(s, old);
    return NULL;
  }
  s->calls[SIM_ALLOC]++;
  if (fault_strikes(s, SIM_ALLOC, false) || len > SIZE_MAX / 2) return NULL;
  allocation *a = malloc(sizeof *a + len);
  if (a == NULL) return NULL;
  *a = (allocation){.next = s->allocations, .size = len, .number = ++s->allocation_number};
  if (a->next != NULL) a->next->prev = a;
  s->allocations = a;
  s->allocation_count++;
  size_t kept = old == NULL ? 0 : old->size < len ? old->size : len;
  fill_garbage((uint8_t *)(a + 1) + kept, len - kept);
  if (old != NULL) {
    memcpy(a + 1, p, kept);
    free_allocation(s, old);
  }
  return a + 1;
}

/* --- The device --------------------------------------------------------------------------------------------------------------- */

sim *sim_new(uint64_t seed) {
  sim *s = must(calloc(1, sizeof *s));
  s->random_state = seed;
  s->now_ms = START_MS;
  s->limit = UINT64_MAX;
  s->table = (sdb_storage){
      .size = sizeof(sdb_storage),
      .version = SDB_STORAGE_VERSION,
      .ctx = s,
      .open = sim_open,
      .close = sim_close,
      .lock = sim_lock,
      .read = sim_read,
      .write = sim_write,
      .sync = sim_sync,
      .get_size = sim_get_size,
      .set_size = sim_set_size,
      .allocate = sim_allocate,
      .punch = sim_punch,
      .fill = sim_fill,
      .get_allocated = sim_get_allocated,
      .map = sim_map,
      .unmap = sim_unmap,
      .rename = sim_rename,
      .remove = sim_remove,
      .sync_dir = sim_sync_dir,
      .now_ms = sim_now_ms,
      .monotonic_us = sim_monotonic_us,
      .random = sim_fill_random,
      .realloc = sim_realloc,
      .write_back = sim_write_back,
  };
  return s;
}

static void *copy_array(const void *array, size_t count, size_t unit) {
  if (count == 0) return NULL;
  void *copy = must(malloc(count * unit));
  memcpy(copy, array, count * unit);
  return copy;
}

static node *clone_node(const node *n) {
  node *c = must(malloc(sizeof *c));
  *c = *n;
  c->handles = c->shared_locks = 0;
  c->exclusive_lock = false;
  c->sizes = copy_array(n->sizes, n->size_count, sizeof *n->sizes);
  c->size_cap = n->size_count;
  c->blocks = copy_array(n->blocks, n->block_count, sizeof *n->blocks);
  c->used = copy_array(n->used, n->block_count, sizeof *n->used);
  for (size_t i = 0; i < n->block_count; i++) c->blocks[i] = n->blocks[i] == NULL ? NULL : copy_array(n->blocks[i], 1, BLOCK);
  c->held = copy_array(n->held, n->held_count, sizeof *n->held);
  c->held_cap = n->held_count;
  c->slots = copy_array(n->slots, n->slot_count, sizeof *n->slots);
  return c;
}

static node *twin(const sim *s, const node *n) {
  if (n == NULL) return NULL;
  node *t = s->nodes;
  while (t->number != n->number) t = t->next;
  return t;
}

sim *sim_clone(const sim *device, uint64_t seed) {
  sim *s = sim_new(seed);
  s->now_ms = device->now_ms;
  s->jumped_ms = device->jumped_ms;
  s->limit = device->limit;
  s->next_number = device->next_number;
  node **link = &s->nodes;
  for (const node *n = device->nodes; n != NULL; n = n->next) {
    *link = clone_node(n);
    link = &(*link)->next;
  }
  for (size_t i = 0; i < device->durable.count; i++) {
    name_set(&s->durable, device->durable.entries[i].name, twin(s, device->durable.entries[i].node));
  }
  names_copy(&s->present, &s->durable);
  for (size_t i = 0; i < device->change_count; i++) {
    const change *c = &device->changes[i];
    record_change(s, c->gone, c->name, twin(s, c->node));
  }
  return s;
}

void sim_free(sim *s) {
  if (s == NULL) return;
  assert(s->open_files == 0);
  while (s->nodes != NULL) {
    node *next = s->nodes->next;
    free_node(s->nodes);
    s->nodes = next;
  }
  names_clear(&s->present);
  names_clear(&s->durable);
  forget_changes(s);
  free(s->changes);
  free(s->bad.places);
  while (s->allocations != NULL) free_allocation(s, s->allocations);
  free(s);
}

const sdb_storage *sim_storage(const sim *s) { return &s->table; }

/* --- Looking on and damage ---------------------------------------------------------------------------------------------------- */

uint64_t sim_calls(const sim *s, enum sim_kind kind) { return s->calls[kind]; }
uint64_t sim_bytes_used(const sim *s) { return units_used(s) * BLOCK; }
uint64_t sim_allocations(const sim *s) { return s->allocation_count; }
size_t sim_open_files(const sim *s) { return s->open_files; }
void sim_advance(sim *s, uint64_t ms) { s->now_ms += ms; }
void sim_jump(sim *s, uint64_t ms) { s->jumped_ms += ms; }

void sim_print_leaks(const sim *s) {
  for (const allocation *a = s->allocations; a != NULL; a = a->next) {
    fprintf(stderr, "  allocation %" PRIu64 " of %zu bytes was not freed\n", a->number, a->size);
  }
}

void sim_watch(sim *s, void (*watch)(void *user, const sim_event *event), void *user) {
  s->watch = watch;
  s->watch_user = user;
}

const char *sim_name(const sim *s, size_t index) { return index < s->present.count ? s->present.entries[index].name : NULL; }

bool sim_size(const sim *s, const char *name, uint64_t *size) {
  const node *n = name_get(&s->present, name);
  if (n != NULL) *size = n->size;
  return n != NULL;
}

bool sim_peek(const sim *s, const char *name, uint64_t offset, void *buf, size_t len) {
  const node *n = name_get(&s->present, name);
  if (n == NULL || offset > n->size || len > n->size - offset) return false;
  read_bytes(n, offset, buf, len);
  return true;
}

bool sim_poke(sim *s, const char *name, uint64_t offset, const void *data, size_t len) {
  node *n = name_get(&s->present, name);
  if (n == NULL || offset > n->size || len > n->size - offset) return false;
  reserve_blocks(n, (offset + len + BLOCK - 1) / BLOCK);
  put_bytes(n, offset, data, len);
  return true;
}

bool sim_cut(sim *s, const char *name, uint64_t size) {
  node *n = name_get(&s->present, name);
  if (n == NULL || size > n->size) return false;
  clear_range(n, size, UINT64_MAX);
  n->size = size;
  return true;
}
