/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* arena.c - memory for one unpacked message at a time.
 *
 *     blocks --> [newest: used | free] --> [full] --> ... --> [first: kept between messages]
 *
 * protobuf-c allocates every field by itself, at sizes the peer decides. Taking them from here makes that cheap, bounded, and free
 * of leaks whatever the message looks like.
 */
#include <stdalign.h>
#include <stdlib.h>

#include "internal.h"

#define BLOCK ((size_t)16 << 10)

struct ci_block {
  ci_block *next;
  size_t size;
  alignas(max_align_t) unsigned char bytes[];
};

static bool add_block(ci_arena *arena, size_t at_least) {
  size_t size = at_least > BLOCK ? at_least : BLOCK;
  if (size > CI_MAX_UNPACKED - arena->total) return false;
  ci_block *block = malloc(sizeof *block + size);
  if (!block) return false;
  block->size = size;
  block->next = arena->blocks;
  arena->blocks = block;
  arena->used = 0;
  arena->total += size;
  return true;
}

static void *take(void *data, size_t size) {
  ci_arena *arena = data;
  if (size > CI_MAX_UNPACKED) return NULL;
  size = (size + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
  if ((!arena->blocks || size > arena->blocks->size - arena->used) && !add_block(arena, size)) return NULL;
  void *p = arena->blocks->bytes + arena->used;
  arena->used += size;
  return p;
}

static void give_back(void *data, void *p) {
  (void)data;
  (void)p;
}

void ci_arena_init(ci_arena *arena) {
  *arena = (ci_arena){.allocator = {.alloc = take, .free = give_back, .allocator_data = arena}};
}

static void drop_until(ci_arena *arena, const ci_block *keep) {
  while (arena->blocks && arena->blocks != keep) {
    ci_block *block = arena->blocks;
    arena->blocks = block->next;
    arena->total -= block->size;
    free(block);
  }
  arena->used = 0;
}

void ci_arena_reset(ci_arena *arena) {
  const ci_block *first = arena->blocks;
  while (first && first->next) first = first->next;
  drop_until(arena, first);
}

void ci_arena_free(ci_arena *arena) { drop_until(arena, NULL); }
