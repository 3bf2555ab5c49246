/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* compress.h - snappy, one block at a time, where it pays.
 *
 * A block is stored compressed when that saves at least an eighth of it. What does not compress costs next to nothing: the bytes of
 * a small sample say whether the block looks like noise, and for noise and for the rest a habit is kept each. After a block that
 * did not pay one of its kind is passed over untried, then 3, then 7, up to the habit's limit; one that pays resets it.
 */
#ifndef SDB_COMPRESS_H
#define SDB_COMPRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { COMPRESS_LEAST = 64 }; /* bytes; below, a record's padding eats what could be saved */

/* Shared by threads without a lock: a count that gets lost costs one try. */
typedef struct compress_habit {
  struct {
    atomic_uint misses, skip;
  } kinds[2];
  unsigned limit; /* at most that many blocks are passed over; one less than a power of two */
} compress_habit;

/* Room that compress_block needs for a block of `len` bytes. */
size_t compress_room(size_t len);
/* Compresses into `out`; the length, or 0 when the block is better stored as it is. */
size_t compress_block(compress_habit *habit, const void *data, size_t len, void *out);
/* The block of exactly `len` bytes back; false: `stored` is no such block. Whatever the bytes are, no more than `len` are written.
 */
bool compress_undo(const void *stored, size_t stored_len, void *out, size_t len);

#endif
