/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* verify.h - what verify.c and verify_extents.c share: a file looked at from outside, and what was found in it. */
#ifndef SDB_VERIFY_H
#define SDB_VERIFY_H

#include "image.h"
#include "sdb/care.h"

struct verify {
  env *e;
  image *im;
  void (*problem)(void *user, const char *sentence);
  void *user;
  sdb_verify_report *report;
  uint8_t *named; /* a bit a physical page: the map names it */
  uint8_t *used;  /* ... a bitmap calls it used */
  uint8_t *page;
  bool whole_map, whole_bitmap;
};

static inline bool verify_bit(const uint8_t *bits, uint64_t i) { return bits[i >> 3] >> (i & 7) & 1; }
static inline void verify_set(uint8_t *bits, uint64_t i) { bits[i >> 3] |= (uint8_t)(1u << (i & 7)); }
static inline void verify_clear(uint8_t *bits, uint64_t i) { bits[i >> 3] &= (uint8_t) ~(1u << (i & 7)); }

/* Counts a problem and tells it. */
__attribute__((format(printf, 2, 3))) void verify_tell(struct verify *v, const char *format, ...);

/* Large contents: every head and chunk against its checksum. The bitmap must be whole. SDB_NO_MEMORY. */
int verify_extents(struct verify *v);

#endif
