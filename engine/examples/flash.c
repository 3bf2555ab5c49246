/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* flash.c - a database on a storage table of one's own: a small flash device, here an array in memory.
 *
 * Such a device writes whole blocks, never over what a block holds, and each block bears only so many erasures. So a write goes to
 * the next free block in turn, and the old block is free afterwards: wear spreads by itself. There is no thread, no mapping and no
 * folder, and the clock is the only thing asked of the system.
 *
 *     node "a.sdb" ---> blocks 7, 3, 9, hole, 12      next free one: 13, 14, ... and around
 *
 * What the engine wants of each function, and what it may leave out, is in docs/storage.md. Build and run:
 *
 *     cc -std=c17 flash.c -lsdb -o flash && ./flash
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"

enum { BLOCK = 4096, BLOCKS = 2048, SPARE = 8, NODES = 64, NAME = 64, NONE = 0 };

/* A file of the device. Its name is one entry of a table, so that a rename is one step. */
typedef struct node {
  char name[NAME]; /* "": no such file */
  uint64_t size;
  uint32_t *blocks; /* NONE: a hole, reads as zeros */
  size_t count;
  unsigned handles;
  bool locked;
} node;

typedef struct flash {
  uint8_t (*bytes)[BLOCK];
  bool *used;
  uint32_t *erased; /* how often each block was */
  uint32_t next, free;
  uint64_t programmed, syncs, random;
  node nodes[NODES];
} flash;

struct sdb_file {
  flash *f;
  node *n;
  bool writable, locked;
};

/* --- Blocks ------------------------------------------------------------------------------------------------------------------- */

/* A free block, the next in turn. `reserve`: how many must be left for those who change a block they already have. */
static uint32_t block_take(flash *f, uint32_t reserve) {
  if (f->free <= reserve) return NONE;
  while (f->used[f->next] || f->next == NONE) f->next = (f->next + 1) % BLOCKS;
  uint32_t b = f->next;
  f->next = (f->next + 1) % BLOCKS;
  f->used[b] = true;
  f->erased[b]++;
  f->free--;
  return b;
}

static void block_give(flash *f, uint32_t b) {
  if (b == NONE) return;
  f->used[b] = false;
  f->free++;
}

/* Writes a part of a block: into another one, with what the old one holds around it. */
static int block_program(flash *f, uint32_t *at, size_t offset, const uint8_t *data, size_t len) {
  uint32_t b = block_take(f, *at == NONE ? SPARE : 0);
  if (b == NONE) return SDB_FULL;
  if (*at == NONE) memset(f->bytes[b], 0, BLOCK);
  else memcpy(f->bytes[b], f->bytes[*at], BLOCK);
  memcpy(f->bytes[b] + offset, data, len);
  block_give(f, *at);
  *at = b;
  f->programmed++;
  return SDB_OK;
}

static bool node_room(node *n, uint64_t size) {
  size_t need = (size_t)((size + BLOCK - 1) / BLOCK);
  if (need <= n->count) return true;
  uint32_t *grown = realloc(n->blocks, need * sizeof *grown);
  if (!grown) return false;
  memset(grown + n->count, 0, (need - n->count) * sizeof *grown);
  n->blocks = grown;
  n->count = need;
  return true;
}

static void node_cut(flash *f, node *n, uint64_t size) {
  size_t keep = (size_t)((size + BLOCK - 1) / BLOCK);
  for (size_t i = keep; i < n->count; i++) {
    block_give(f, n->blocks[i]);
    n->blocks[i] = NONE;
  }
  size_t inside = (size_t)(size % BLOCK);
  if (size < n->size && inside && keep <= n->count && n->blocks[keep - 1] != NONE)
    memset(f->bytes[n->blocks[keep - 1]] + inside, 0, BLOCK - inside); /* new bytes of a longer file must be zeros */
}

/* A file without name goes with its last handle. */
static void node_drop(flash *f, node *n) {
  if (n->name[0] || n->handles) return;
  node_cut(f, n, 0);
  free(n->blocks);
  *n = (node){.count = 0};
}

/* --- Files -------------------------------------------------------------------------------------------------------------------- */

static node *find(flash *f, const char *name) {
  for (node *n = f->nodes; n < f->nodes + NODES; n++) {
    if (n->name[0] && strcmp(n->name, name) == 0) return n;
  }
  return NULL;
}

static node *add(flash *f, const char *name) {
  for (node *n = f->nodes; n < f->nodes + NODES; n++) {
    if (n->name[0] || n->handles) continue;
    snprintf(n->name, sizeof n->name, "%s", name);
    return n;
  }
  return NULL;
}

static int flash_open(void *ctx, const char *name, unsigned flags, sdb_file **file) {
  flash *f = ctx;
  node *n = find(f, name);
  if (!n && flags != SDB_OPEN_CREATE) return SDB_NOT_FOUND;
  if (strlen(name) >= NAME) return SDB_INVALID;
  if (n && flags == SDB_OPEN_CREATE && n->locked) return SDB_LOCKED; /* emptying what another handle works on: never */
  if (!n && !(n = add(f, name))) return SDB_FULL;
  sdb_file *h = malloc(sizeof *h);
  if (!h) {
    if (flags == SDB_OPEN_CREATE && !n->handles && !n->size) n->name[0] = '\0';
    return SDB_NO_MEMORY;
  }
  *h = (sdb_file){.f = f, .n = n, .writable = flags != SDB_OPEN_READ};
  n->handles++;
  if (flags == SDB_OPEN_CREATE) {
    node_cut(f, n, 0);
    n->size = 0;
    n->locked = h->locked = true;
  }
  *file = h;
  return SDB_OK;
}

static void flash_close(sdb_file *h) {
  if (!h) return;
  h->n->handles--;
  if (h->locked) h->n->locked = false;
  node_drop(h->f, h->n);
  free(h);
}

/* One database, one handle: readers beside each other are refused here as well, which the engine takes for what it is. */
static int flash_lock(sdb_file *h, bool exclusive) {
  if (exclusive && !h->writable) return SDB_INVALID;
  if (h->n->locked && !h->locked) return SDB_LOCKED;
  h->n->locked = h->locked = true;
  return SDB_OK;
}

static int flash_read(sdb_file *h, uint64_t offset, void *buf, size_t len) {
  uint8_t *to = buf;
  if (offset > h->n->size || len > h->n->size - offset) return SDB_IO;
  while (len > 0) {
    size_t i = (size_t)(offset / BLOCK), inside = (size_t)(offset % BLOCK), part = len < BLOCK - inside ? len : BLOCK - inside;
    uint32_t b = i < h->n->count ? h->n->blocks[i] : NONE;
    if (b == NONE) memset(to, 0, part);
    else memcpy(to, h->f->bytes[b] + inside, part);
    to += part;
    offset += part;
    len -= part;
  }
  return SDB_OK;
}

static int flash_write(sdb_file *h, uint64_t offset, const void *buf, size_t len) {
  const uint8_t *from = buf;
  if (!h->writable) return SDB_IO;
  if (offset > (uint64_t)BLOCKS * BLOCK || len > (uint64_t)BLOCKS * BLOCK - offset) return SDB_FULL;
  if (!node_room(h->n, offset + len)) return SDB_NO_MEMORY;
  while (len > 0) {
    size_t inside = (size_t)(offset % BLOCK), part = len < BLOCK - inside ? len : BLOCK - inside;
    int rc = block_program(h->f, &h->n->blocks[offset / BLOCK], inside, from, part);
    if (rc != SDB_OK) return rc;
    from += part;
    offset += part;
    len -= part;
    if (h->n->size < offset) h->n->size = offset;
  }
  return SDB_OK;
}

/* A programmed block is durable at once. A device with a cache of its own would be told to empty it here. */
static int flash_sync(sdb_file *h) {
  h->f->syncs++;
  return SDB_OK;
}

static int flash_get_size(sdb_file *h, uint64_t *size) {
  *size = h->n->size;
  return SDB_OK;
}

static int flash_set_size(sdb_file *h, uint64_t size) {
  if (!h->writable) return SDB_IO;
  if (!node_room(h->n, size)) return SDB_NO_MEMORY;
  node_cut(h->f, h->n, size);
  h->n->size = size;
  return SDB_OK;
}

/* Space that later writes will not run out of: each block is one of the file's own from now on. */
static int flash_allocate(sdb_file *h, uint64_t size) {
  static const uint8_t nothing[1];
  size_t before = h->n->count;
  if (size <= h->n->size) return SDB_OK;
  if (size > (uint64_t)BLOCKS * BLOCK) return SDB_FULL;
  if (!node_room(h->n, size)) return SDB_NO_MEMORY;
  for (size_t i = 0; i < h->n->count; i++) {
    if (h->n->blocks[i] != NONE) continue;
    int rc = block_program(h->f, &h->n->blocks[i], 0, nothing, 0);
    if (rc == SDB_OK) continue;
    node_cut(h->f, h->n, (uint64_t)before * BLOCK);
    return rc;
  }
  h->n->size = size;
  return SDB_OK;
}

/* Whole blocks go back; what is left of others may stay. */
static int flash_punch(sdb_file *h, uint64_t offset, uint64_t len) {
  uint64_t end = offset + len < h->n->size ? offset + len : h->n->size;
  for (uint64_t i = (offset + BLOCK - 1) / BLOCK; (i + 1) * BLOCK <= end; i++) {
    block_give(h->f, h->n->blocks[i]);
    h->n->blocks[i] = NONE;
  }
  return SDB_OK;
}

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

static int flash_remove(void *ctx, const char *name) {
  node *n = find(ctx, name);
  if (!n) return SDB_NOT_FOUND;
  n->name[0] = '\0';
  node_drop(ctx, n);
  return SDB_OK;
}

static int flash_rename(void *ctx, const char *from, const char *to) {
  node *n = find(ctx, from);
  if (!n) return SDB_NOT_FOUND;
  if (strlen(to) >= NAME) return SDB_INVALID;
  if (find(ctx, to) == n) return SDB_OK;
  flash_remove(ctx, to);
  snprintf(n->name, sizeof n->name, "%s", to);
  return SDB_OK;
}

/* The table of names is written through. */
static int flash_sync_dir(void *ctx, const char *name) {
  (void)ctx, (void)name;
  return SDB_OK;
}

/* --- Clock, randomness, memory ------------------------------------------------------------------------------------------------ */

static uint64_t flash_now_ms(void *ctx) {
  struct timespec t;
  (void)ctx;
  return timespec_get(&t, TIME_UTC) ? (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000 : 0;
}

static uint64_t flash_monotonic_us(void *ctx) {
  (void)ctx;
  return (uint64_t)clock() * (1000000 / CLOCKS_PER_SEC);
}

/* A device would ask its generator. Ids must not repeat, so the state is seeded with the time: good enough without encryption. */
static int flash_random(void *ctx, void *buf, size_t len) {
  flash *f = ctx;
  uint8_t *to = buf;
  for (size_t i = 0; i < len; i++) {
    f->random = f->random * 6364136223846793005u + 1442695040888963407u;
    to[i] = (uint8_t)(f->random >> 56);
  }
  return SDB_OK;
}

static void *flash_realloc(void *ctx, void *p, size_t len) {
  (void)ctx;
  if (len > 0) return realloc(p, len);
  free(p);
  return NULL;
}

/* --- The device --------------------------------------------------------------------------------------------------------------- */

static bool flash_make(flash *f) {
  *f = (flash){.next = 1, .free = BLOCKS - 1, .random = flash_now_ms(NULL)};
  f->bytes = malloc((size_t)BLOCKS * BLOCK);
  f->used = calloc(BLOCKS, sizeof *f->used);
  f->erased = calloc(BLOCKS, sizeof *f->erased);
  return f->bytes && f->used && f->erased;
}

static void flash_unmake(flash *f) {
  for (node *n = f->nodes; n < f->nodes + NODES; n++) free(n->blocks);
  free(f->bytes);
  free(f->used);
  free(f->erased);
}

static sdb_storage flash_table(flash *f) {
  return (sdb_storage){.size = sizeof(sdb_storage),
                       .version = SDB_STORAGE_VERSION,
                       .ctx = f,
                       .open = flash_open,
                       .close = flash_close,
                       .lock = flash_lock,
                       .read = flash_read,
                       .write = flash_write,
                       .sync = flash_sync,
                       .get_size = flash_get_size,
                       .set_size = flash_set_size,
                       .allocate = flash_allocate,
                       .punch = flash_punch,
                       .rename = flash_rename,
                       .remove = flash_remove,
                       .sync_dir = flash_sync_dir,
                       .now_ms = flash_now_ms,
                       .monotonic_us = flash_monotonic_us,
                       .random = flash_random,
                       .realloc = flash_realloc};
}

static void must(int rc, const char *what) {
  if (rc == SDB_OK) return;
  fprintf(stderr, "flash: %s: %s\n", what, sdb_strerror(rc));
  exit(EXIT_FAILURE);
}

static void report(const flash *f) {
  uint32_t most = 0, least = UINT32_MAX;
  for (uint32_t b = 1; b < BLOCKS; b++) {
    if (f->erased[b] > most) most = f->erased[b];
    if (f->erased[b] < least) least = f->erased[b];
  }
  printf("%llu blocks programmed, %llu syncs, %u of %d blocks free; the most worn block was erased %u times, the least %u\n",
         (unsigned long long)f->programmed, (unsigned long long)f->syncs, f->free, BLOCKS - 1, most, least);
}

int main(void) {
  flash f;
  sdb *db;
  sdb_options o;
  char path[32], text[200];
  if (!flash_make(&f)) return EXIT_FAILURE;
  sdb_storage table = flash_table(&f);
  sdb_options_init(&o);
  o.storage = &table;
  o.page_size = BLOCK;
  o.wal_segment_size = 256 * 1024; /* the device is small */
  o.checkpoint_wal_bytes = 1024 * 1024;
  o.change_log_bytes = 0;
  o.page_cache_size = 128;

  must(sdb_open("readings.sdb", &o, &db), "open");
  sdb_put_options unsynced;
  sdb_put_options_init(&unsynced);
  unsynced.durability = SDB_BUFFERED;
  for (int i = 0; i < 100000; i++) {
    snprintf(path, sizeof path, "/sensor/%03d", i % 500);
    int len = snprintf(text, sizeof text, "{\"reading\": %d}", i);
    must(sdb_put(db, path, strlen(path), text, (size_t)len, i % 100 ? &unsynced : NULL, NULL), "put");
    must(sdb_step(db, 4, NULL), "step"); /* there is no thread: background work is done here, a little at a time */
  }
  must(sdb_close(db), "close");

  must(sdb_open("readings.sdb", &o, &db), "open again");
  for (int i = 0; i < 500; i++) {
    size_t size;
    snprintf(path, sizeof path, "/sensor/%03d", i);
    must(sdb_get(db, path, strlen(path), SDB_CURRENT, text, sizeof text - 1, &size, NULL), "get");
    text[size] = '\0';
    int reading;
    if (sscanf(text, "{\"reading\": %d}", &reading) != 1 || reading != 99500 + i) must(SDB_CORRUPT, path);
  }
  sdb_check_report check = {.size = sizeof check};
  must(sdb_check(db, NULL, NULL, &check), "check");
  if (check.problems || check.documents != 500) must(SDB_CORRUPT, "check");
  must(sdb_close(db), "close");
  report(&f);
  flash_unmake(&f);
  return EXIT_SUCCESS;
}
