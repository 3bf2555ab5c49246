/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* compress.c - see compress.h. */
#include "compress.h"

#include <snappy-c.h>

enum { SAMPLE = 64, NOISY = 48 }; /* of 64 random bytes 57 differ, of text and numbers about 30 */

size_t compress_room(size_t len) { return snappy_max_compressed_length(len); }

static bool looks_noisy(const uint8_t *data, size_t len) {
  uint64_t seen[4] = {0};
  size_t step = len / SAMPLE;
  for (unsigned i = 0; i < SAMPLE; i++) seen[data[i * step] >> 6] |= 1ull << (data[i * step] & 63);
  int distinct = 0;
  for (unsigned i = 0; i < 4; i++) distinct += __builtin_popcountll(seen[i]);
  return distinct >= NOISY;
}

/* True when a block of that kind is worth a try. */
static bool worth_a_try(compress_habit *habit, bool noisy) {
  unsigned skip = atomic_load_explicit(&habit->kinds[noisy].skip, memory_order_relaxed);
  if (skip == 0) return true;
  atomic_store_explicit(&habit->kinds[noisy].skip, skip - 1, memory_order_relaxed);
  return false;
}

static void note(compress_habit *habit, bool noisy, bool paid) {
  unsigned misses = atomic_load_explicit(&habit->kinds[noisy].misses, memory_order_relaxed);
  misses = paid ? 0 : 2 * misses + 1;
  if (misses > habit->limit) misses = habit->limit;
  atomic_store_explicit(&habit->kinds[noisy].misses, misses, memory_order_relaxed);
  atomic_store_explicit(&habit->kinds[noisy].skip, misses, memory_order_relaxed);
}

size_t compress_block(compress_habit *habit, const void *data, size_t len, void *out) {
  if (len < COMPRESS_LEAST) return 0;
  bool noisy = looks_noisy(data, len);
  if (!worth_a_try(habit, noisy)) return 0;
  size_t stored = compress_room(len);
  bool paid = snappy_compress(data, len, out, &stored) == SNAPPY_OK && stored <= len - len / 8;
  note(habit, noisy, paid);
  return paid ? stored : 0;
}

bool compress_undo(const void *stored, size_t stored_len, void *out, size_t len) {
  size_t says;
  if (snappy_uncompressed_length(stored, stored_len, &says) != SNAPPY_OK || says != len) return false;
  return snappy_uncompress(stored, stored_len, out, &says) == SNAPPY_OK && says == len;
}
