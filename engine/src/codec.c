/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* codec.c - CRC32C by ISA-L where it is there, else by small tables, four bytes or, of what is short, four bits at a time. */
#include "codec.h"

#include <string.h>

#include "bytes.h"
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

/* Tables are made in each call, so that there is none to initialise and no state. The fast road is the library above. */
#define BIT(c) (((c) >> 1) ^ (((c)&1u) ? POLYNOMIAL : 0u))
static uint32_t step4(uint32_t c) { return c = BIT(c), c = BIT(c), c = BIT(c), BIT(c); }

enum { WORTH_TABLES = 1024 }; /* bytes: from here on making them is less than they save */

/* A nibble at a time. */
static uint32_t crc_short(uint32_t crc, const uint8_t *p, size_t len) {
  uint32_t table[16];
  for (uint32_t i = 0; i < 16; i++) table[i] = step4(i);
  for (size_t i = 0; i < len; i++) {
    crc ^= p[i];
    crc = crc >> 4 ^ table[crc & 15];
    crc = crc >> 4 ^ table[crc & 15];
  }
  return crc;
}

/* Four bytes at a time: table[k] says what a byte becomes with k bytes behind it. Takes whole words. */
static uint32_t crc_long(uint32_t crc, const uint8_t *p, size_t len) {
  uint32_t table[4][256], c = 1;
  table[0][0] = 0;
  for (uint32_t bit = 128; bit > 0; bit >>= 1) {
    c = BIT(c);
    for (uint32_t i = 0; i < 256; i += 2 * bit) table[0][i + bit] = c ^ table[0][i];
  }
  for (unsigned k = 1; k < 4; k++)
    for (unsigned i = 0; i < 256; i++) table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 255];
  for (size_t i = 0; i < len; i += 4) {
    crc ^= get32(p + i);
    crc = table[3][crc & 255] ^ table[2][crc >> 8 & 255] ^ table[1][crc >> 16 & 255] ^ table[0][crc >> 24];
  }
  return crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len) {
  const uint8_t *p = data;
  size_t words = len < WORTH_TABLES ? 0 : len / 4 * 4;
  crc = ~crc;
  if (words > 0) crc = crc_long(crc, p, words);
  return ~crc_short(crc, p + words, len - words);
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
