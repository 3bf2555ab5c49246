/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* bytes.h - little-endian numbers in byte strings. Nothing else in the engine interprets bytes from a disk. */
#ifndef SDB_BYTES_H
#define SDB_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t get32(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
static inline uint64_t get48(const uint8_t *p) { return get32(p) | (uint64_t)get16(p + 4) << 32; }
static inline uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }

static inline void put16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8); }
static inline void put32(uint8_t *p, uint32_t v) { put16(p, (uint16_t)v), put16(p + 2, (uint16_t)(v >> 16)); }
static inline void put48(uint8_t *p, uint64_t v) { put32(p, (uint32_t)v), put16(p + 4, (uint16_t)(v >> 32)); }
static inline void put64(uint8_t *p, uint64_t v) { put32(p, (uint32_t)v), put32(p + 4, (uint32_t)(v >> 32)); }

static inline uint64_t align_up(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

/* The same bytes from behind, eight at a time: searches by suffix turn every path they find. */
static inline void bytes_reverse(uint8_t *to, const uint8_t *from, size_t len) {
  size_t i = 0;
  for (; i + 8 <= len; i += 8) put64(to + i, __builtin_bswap64(get64(from + len - i - 8)));
  for (; i < len; i++) to[i] = from[len - 1 - i];
}

#endif
