/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* crc32c.c - the digest of documents: CRC32C (Castagnoli), reflected, "123456789" giving e3069283. */
#include <isa-l.h>

#include "sdbc/sdbc.h"

#define POLYNOMIAL 0x82f63b78u /* reflected: bit 31 is the coefficient of x^0 */
#define ONE 0x80000000u

uint32_t sdbc_crc32c(uint32_t crc, const void *data, size_t len) {
  /* ISA-L takes a pointer to non-const, reads only, and counts in int. */
  union {
    const void *in;
    unsigned char *out;
  } at = {data};
  crc = ~crc;
  while (len > 0) {
    int step = len > (1u << 30) ? 1 << 30 : (int)len;
    crc = crc32_iscsi(at.out, step, crc);
    at.out += step;
    len -= (size_t)step;
  }
  return ~crc;
}

/* The product of two polynomials modulo the CRC's. */
static uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = ONE; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = b & 1 ? (b >> 1) ^ POLYNOMIAL : b >> 1;
  }
  return product;
}

/* Appending n bytes multiplies what the first part left in the register by x^(8n); the inversions cancel out. */
uint32_t sdbc_crc32c_join(uint32_t first, uint32_t second, uint64_t second_len) {
  uint32_t power = ONE >> 8; /* x^8 */
  uint32_t factor = ONE;
  for (uint64_t n = second_len; n > 0; n >>= 1) {
    if (n & 1) factor = multiply(factor, power);
    power = multiply(power, power);
  }
  return multiply(factor, first) ^ second;
}
