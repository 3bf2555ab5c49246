/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* codec.c - CRC32C by ISA-L where it is there, else by a small table, four bits at a time. */
#include "codec.h"

#include <string.h>

#include "sdb/sdb.h"

#if defined(SDB_HAVE_ISAL)
#include <isa-l/crc.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t len) {
  const uint8_t *p = data;
  crc = ~crc;
  while (len > 0) { /* ISA-L counts in int */
    int part = len > (1u << 30) ? 1 << 30 : (int)len;
    union {
      const uint8_t *in;
      unsigned char *out;
    } cast = {.in = p}; /* its declaration lacks a const; it does not write */
    crc = crc32_iscsi(cast.out, part, crc);
    p += part;
    len -= (size_t)part;
  }
  return ~crc;
}

#else

#define POLYNOMIAL 0x82F63B78u /* Castagnoli, bits reversed */

/* Computed by the compiler, so that there is no table to initialise and no state. */
#define BIT(c) (((c) >> 1) ^ (((c)&1u) ? POLYNOMIAL : 0u))
static uint32_t step4(uint32_t c) { return c = BIT(c), c = BIT(c), c = BIT(c), BIT(c); }

uint32_t crc32c(uint32_t crc, const void *data, size_t len) {
  /* A nibble at a time: small and portable; the fast road is the library above. */
  uint32_t table[16];
  for (uint32_t i = 0; i < 16; i++) table[i] = step4(i);
  const uint8_t *p = data;
  crc = ~crc;
  for (size_t i = 0; i < len; i++) {
    crc ^= p[i];
    crc = crc >> 4 ^ table[crc & 15];
    crc = crc >> 4 ^ table[crc & 15];
  }
  return ~crc;
}

#endif

/* In blocks small enough that the copy is still in the first-level cache when it is read again. While that goes on the memory would
 * be idle: the next block is fetched meanwhile. */
uint32_t crc32c_copy(uint32_t crc, void *restrict to, const void *restrict from, size_t len) {
  enum { BLOCK = 12288, LINE = 64 }; /* above 8 KB compilers call memcpy; below some copy in a slow loop of their own */
  uint8_t *t = to;
  const uint8_t *f = from;
  while (len > 0) {
    size_t part = len < BLOCK ? len : BLOCK, next = len - part < BLOCK ? len - part : BLOCK;
    memcpy(t, f, part);
    for (size_t i = 0; i < next; i += LINE) __builtin_prefetch(f + part + i, 0, 2); /* into the second level: the first is in use */
    crc = crc32c(crc, t, part);
    t += part;
    f += part;
    len -= part;
  }
  return crc;
}

uint32_t sdb_crc32c(uint32_t crc, const void *data, size_t len) { return crc32c(crc, data, len); }
