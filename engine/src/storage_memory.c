/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* storage_memory.c - the storage table for files that live in memory only: for databases that need not outlast the process, and
 * for tests. Clock, randomness, memory and threads are those of the operating system's table.
 *
 *     memory_set ---- node "a.sdb" ---- blocks: [0] -> 64 KB   [1] -> (hole)   [2] -> 64 KB
 *         |             ^      ^
 *         |        sdb_file  sdb_file        a handle: what it may do, and the lock it holds
 *         '---------- node "a.sdb.log.0000" ...
 *
 * A hole reads as zeros. A node without a name lives on until its last handle is closed, as a removed file does.
 * There is no mapping: contents are in blocks that come and go, and a copy costs less than keeping them in one place.
 * Order of locks: the set's, then a node's.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "sdb/storage.h"
#include "sync.h"

#define BLOCK 65536u

typedef struct memory_set memory_set;

typedef struct memory_node {
  struct memory_node *next;
  char *name;          /* NULL: removed */
  size_t handles;      /* open; the set's mutex guards it */
  size_t shared_locks; /* holders; the set's mutex guards both */
  bool exclusive_lock;
  struct shared lock; /* guards what follows */
  uint64_t size;
  uint8_t **blocks;   /* NULL: a hole */
  size_t block_count; /* beyond it there are only holes */
} memory_node;

enum lock_held { LOCK_NONE, LOCK_SHARED, LOCK_EXCLUSIVE };

struct sdb_file {
  memory_set *set;
  memory_node *node;
  bool writable;
  enum lock_held held;
};

struct memory_set {
  sdb_storage table;
  struct mutex mutex;
  memory_node *nodes;
};

/* --- Nodes -------------------------------------------------------------------------------------------------------------------- */

static void free_blocks(memory_node *node, size_t from) {
  for (size_t i = from; i < node->block_count; i++) {
    free(node->blocks[i]);
    node->blocks[i] = NULL;
  }
}

static void free_node(memory_node *node) {
  free_blocks(node, 0);
  free(node->blocks);
  shared_destroy(&node->lock);
  free(node->name);
  free(node);
}

static memory_node *find_node(memory_set *set, const char *name) {
  for (memory_node *n = set->nodes; n != NULL; n = n->next) {
    if (n->name != NULL && strcmp(n->name, name) == 0) return n;
  }
  return NULL;
}

static memory_node *add_node(memory_set *set, const char *name) {
  memory_node *node = calloc(1, sizeof *node);
  if (node == NULL) return NULL;
  node->name = strdup(name);
  if (node->name == NULL) {
    free(node);
    return NULL;
  }
  shared_init(&node->lock);
  node->next = set->nodes;
  set->nodes = node;
  return node;
}

/* Frees a node that nothing leads to any more. */
static void drop_node_if_unused(memory_set *set, memory_node *node) {
  if (node->name != NULL || node->handles > 0) return;
  memory_node **link = &set->nodes;
  while (*link != node) link = &(*link)->next;
  *link = node->next;
  free_node(node);
}

static void unname_node(memory_set *set, memory_node *node) {
  free(node->name);
  node->name = NULL;
  drop_node_if_unused(set, node);
}

/* Makes block `index` a real one. The node's lock is held for writing. */
static bool fill_block(memory_node *node, size_t index) {
  if (index >= node->block_count) {
    size_t count = node->block_count * 2 > index + 1 ? node->block_count * 2 : index + 1;
    if (count > SIZE_MAX / sizeof *node->blocks) return false;
    uint8_t **grown = realloc(node->blocks, count * sizeof *grown);
    if (grown == NULL) return false;
    memset(grown + node->block_count, 0, (count - node->block_count) * sizeof *grown);
    node->blocks = grown;
    node->block_count = count;
  }
  if (node->blocks[index] == NULL) node->blocks[index] = calloc(1, BLOCK);
  return node->blocks[index] != NULL;
}

/* Zeros [from, to), giving whole blocks back. */
static void clear_range(memory_node *node, uint64_t from, uint64_t to) {
  uint64_t end = (uint64_t)node->block_count * BLOCK;
  if (to > end) to = end;
  while (from < to) {
    size_t index = (size_t)(from / BLOCK), start = (size_t)(from % BLOCK);
    size_t n = to - from < BLOCK - start ? (size_t)(to - from) : BLOCK - start;
    if (n == BLOCK) {
      free(node->blocks[index]);
      node->blocks[index] = NULL;
    } else if (node->blocks[index] != NULL) {
      memset(node->blocks[index] + start, 0, n);
    }
    from += n;
  }
}

/* --- Open, lock, close -------------------------------------------------------------------------------------------------------- */

static int take_lock(sdb_file *file, enum lock_held wanted) {
  memory_node *node = file->node;
  size_t other_shared = node->shared_locks - (file->held == LOCK_SHARED ? 1u : 0u);
  bool other_exclusive = node->exclusive_lock && file->held != LOCK_EXCLUSIVE;
  if (other_exclusive || (wanted == LOCK_EXCLUSIVE && other_shared > 0)) return SDB_LOCKED;
  node->shared_locks = other_shared + (wanted == LOCK_SHARED ? 1u : 0u);
  node->exclusive_lock = wanted == LOCK_EXCLUSIVE;
  file->held = wanted;
  return SDB_OK;
}

static int attach(memory_set *set, const char *name, unsigned flags, sdb_file *file) {
  memory_node *node = find_node(set, name);
  if (node == NULL && flags != SDB_OPEN_CREATE) return SDB_NOT_FOUND;
  if (node == NULL && (node = add_node(set, name)) == NULL) return SDB_NO_MEMORY;
  *file = (sdb_file){.set = set, .node = node, .writable = flags != SDB_OPEN_READ};
  if (flags == SDB_OPEN_CREATE) {
    int code = take_lock(file, LOCK_EXCLUSIVE);
    if (code != SDB_OK) return code;
    shared_write(&node->lock);
    free_blocks(node, 0);
    node->size = 0;
    shared_unlock(&node->lock);
  }
  node->handles++;
  return SDB_OK;
}

static int memory_open(void *ctx, const char *name, unsigned flags, sdb_file **file) {
  memory_set *set = ctx;
  sdb_file *f = malloc(sizeof *f);
  if (f == NULL) return SDB_NO_MEMORY;
  mutex_lock(&set->mutex);
  int code = attach(set, name, flags, f);
  mutex_unlock(&set->mutex);
  if (code != SDB_OK) {
    free(f);
    return code;
  }
  *file = f;
  return SDB_OK;
}

static void memory_close(sdb_file *file) {
  if (file == NULL) return;
  memory_set *set = file->set;
  mutex_lock(&set->mutex);
  take_lock(file, LOCK_NONE);
  file->node->handles--;
  drop_node_if_unused(set, file->node);
  mutex_unlock(&set->mutex);
  free(file);
}

static int memory_lock(sdb_file *file, bool exclusive) {
  if (exclusive && !file->writable) return SDB_INVALID;
  mutex_lock(&file->set->mutex);
  int code = take_lock(file, exclusive ? LOCK_EXCLUSIVE : LOCK_SHARED);
  mutex_unlock(&file->set->mutex);
  return code;
}

/* --- Contents ----------------------------------------------------------------------------------------------------------------- */

static void copy_out(const memory_node *node, uint64_t offset, uint8_t *p, size_t len) {
  while (len > 0) {
    size_t index = (size_t)(offset / BLOCK), start = (size_t)(offset % BLOCK);
    size_t n = len < BLOCK - start ? len : BLOCK - start;
    const uint8_t *block = index < node->block_count ? node->blocks[index] : NULL;
    if (block != NULL) {
      memcpy(p, block + start, n);
    } else {
      memset(p, 0, n);
    }
    p += n;
    offset += n;
    len -= n;
  }
}

static int memory_read(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  memory_node *node = file->node;
  shared_read(&node->lock);
  int code = offset <= node->size && len <= node->size - offset ? SDB_OK : SDB_IO;
  if (code == SDB_OK) copy_out(node, offset, buf, len);
  shared_unlock(&node->lock);
  return code;
}

static int copy_in(memory_node *node, uint64_t offset, const uint8_t *p, size_t len) {
  while (len > 0) {
    size_t index = (size_t)(offset / BLOCK), start = (size_t)(offset % BLOCK);
    size_t n = len < BLOCK - start ? len : BLOCK - start;
    if (!fill_block(node, index)) return SDB_FULL;
    memcpy(node->blocks[index] + start, p, n);
    p += n;
    offset += n;
    len -= n;
    if (node->size < offset) node->size = offset;
  }
  return SDB_OK;
}

static int memory_write(sdb_file *file, uint64_t offset, const void *buf, size_t len) {
  if (!file->writable) return SDB_IO;
  if (offset > INT64_MAX || len > INT64_MAX - offset) return SDB_FULL;
  shared_write(&file->node->lock);
  int code = copy_in(file->node, offset, buf, len);
  shared_unlock(&file->node->lock);
  return code;
}

/* Memory is as durable as it will ever be. */
static int memory_sync(sdb_file *file) {
  (void)file;
  return SDB_OK;
}

static int memory_get_size(sdb_file *file, uint64_t *size) {
  shared_read(&file->node->lock);
  *size = file->node->size;
  shared_unlock(&file->node->lock);
  return SDB_OK;
}

static int memory_set_size(sdb_file *file, uint64_t size) {
  memory_node *node = file->node;
  if (!file->writable) return SDB_IO;
  if (size > INT64_MAX) return SDB_FULL;
  shared_write(&node->lock);
  if (size < node->size) clear_range(node, size, node->size);
  node->size = size;
  shared_unlock(&node->lock);
  return SDB_OK;
}

static int memory_allocate(sdb_file *file, uint64_t size) {
  memory_node *node = file->node;
  if (!file->writable) return SDB_IO;
  if (size > INT64_MAX) return SDB_FULL;
  int code = SDB_OK;
  shared_write(&node->lock);
  if (size > node->size) {
    for (uint64_t i = node->size / BLOCK; i <= (size - 1) / BLOCK && code == SDB_OK; i++) {
      if (!fill_block(node, (size_t)i)) code = SDB_FULL;
    }
    if (code == SDB_OK) node->size = size;
  }
  shared_unlock(&node->lock);
  return code;
}

static int memory_fill(sdb_file *file, uint64_t offset, uint64_t len) {
  memory_node *node = file->node;
  if (!file->writable) return SDB_IO;
  int code = SDB_OK;
  shared_write(&node->lock);
  for (uint64_t i = offset / BLOCK; len > 0 && i <= (offset + len - 1) / BLOCK && code == SDB_OK; i++)
    if (!fill_block(node, (size_t)i)) code = SDB_FULL;
  shared_unlock(&node->lock);
  return code;
}

static int memory_get_allocated(sdb_file *file, uint64_t *bytes) {
  memory_node *node = file->node;
  *bytes = 0;
  shared_read(&node->lock);
  for (size_t i = 0; i < node->block_count; i++) *bytes += node->blocks[i] ? BLOCK : 0;
  shared_unlock(&node->lock);
  return SDB_OK;
}

static int memory_punch(sdb_file *file, uint64_t offset, uint64_t len) {
  memory_node *node = file->node;
  if (!file->writable) return SDB_IO;
  shared_write(&node->lock);
  if (offset < node->size) clear_range(node, offset, len < node->size - offset ? offset + len : node->size);
  shared_unlock(&node->lock);
  return SDB_OK;
}

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

static int memory_rename(void *ctx, const char *from, const char *to) {
  memory_set *set = ctx;
  char *name = strdup(to);
  if (name == NULL) return SDB_NO_MEMORY;
  mutex_lock(&set->mutex);
  memory_node *node = find_node(set, from), *replaced = find_node(set, to);
  if (node != NULL && node != replaced) {
    if (replaced != NULL) unname_node(set, replaced);
    char *old_name = node->name;
    node->name = name;
    name = old_name;
  }
  mutex_unlock(&set->mutex);
  free(name);
  return node != NULL ? SDB_OK : SDB_NOT_FOUND;
}

static int memory_remove(void *ctx, const char *name) {
  memory_set *set = ctx;
  mutex_lock(&set->mutex);
  memory_node *node = find_node(set, name);
  if (node != NULL) unname_node(set, node);
  mutex_unlock(&set->mutex);
  return node != NULL ? SDB_OK : SDB_NOT_FOUND;
}

static int memory_sync_dir(void *ctx, const char *name) {
  (void)ctx, (void)name;
  return SDB_OK;
}

/* --- The table ---------------------------------------------------------------------------------------------------------------- */

sdb_storage *sdb_storage_memory_new(void) {
  memory_set *set = calloc(1, sizeof *set);
  if (set == NULL) return NULL;
  mutex_init(&set->mutex);
  const sdb_storage *system = sdb_storage_file();
  set->table = (sdb_storage){.size = sizeof set->table,
                             .version = SDB_STORAGE_VERSION,
                             .ctx = set,
                             .open = memory_open,
                             .close = memory_close,
                             .lock = memory_lock,
                             .read = memory_read,
                             .write = memory_write,
                             .sync = memory_sync,
                             .get_size = memory_get_size,
                             .set_size = memory_set_size,
                             .allocate = memory_allocate,
                             .punch = memory_punch,
                             .rename = memory_rename,
                             .remove = memory_remove,
                             .sync_dir = memory_sync_dir,
                             .now_ms = system->now_ms,
                             .monotonic_us = system->monotonic_us,
                             .random = system->random,
                             .realloc = system->realloc,
                             .thread_start = system->thread_start,
                             .thread_join = system->thread_join,
                             .fill = memory_fill,
                             .get_allocated = memory_get_allocated};
  return &set->table;
}

void sdb_storage_memory_free(sdb_storage *storage) {
  if (storage == NULL) return;
  memory_set *set = storage->ctx;
  while (set->nodes != NULL) {
    memory_node *next = set->nodes->next;
    free_node(set->nodes);
    set->nodes = next;
  }
  mutex_destroy(&set->mutex);
  free(set);
}
