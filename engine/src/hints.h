/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* hints.h - which document a path probably leads to: a table in memory, filled by reads, that spares them the way through the tree.
 *
 *     hash of the path --> bucket of 8 slots, one cache line:   | size 2 | tag 10 | document 25 | line 27 |
 *                                                          or   |  0   |     tag 22  |  document 40       |
 *
 * A slot is only a hint. Whoever takes it reads the document's current record in his own view and believes it if that record has
 * the path as one of its names; else he asks the tree. So nothing has to be forgotten when names change, slots need no version, and
 * whatever stands in them is harmless.
 *
 * `line` says where in the data file the record stood, in units of 64 bytes, and `size` about how long it was: enough to have its
 * bytes fetched from memory while the table is asked where it stands. Nobody reads what is found there.
 *
 * Memory: a share of the page cache that is given up for it. It is taken at the first hint, and touched as hints come.
 * Thread rule: any thread, no lock; a slot is one atomic word.
 */
#ifndef SDB_HINTS_H
#define SDB_HINTS_H

#include "pager.h"

typedef struct hints hints;

typedef struct hint {
  uint64_t document; /* 0: none */
  uint64_t offset;   /* of the record in the data file, rounded down to 64; 0: not known */
  uint32_t length;   /* of the record, about */
} hint;

/* SDB_NO_MEMORY. */
int hints_new(env *e, pager *p, hints **out);
/* Takes NULL. */
void hints_drop(hints *h);

uint64_t hints_hash(const void *path, size_t len);
hint hints_get(hints *h, uint64_t hash);
/* Remembers it, where there is memory. */
void hints_put(hints *h, uint64_t hash, hint what);

#endif
