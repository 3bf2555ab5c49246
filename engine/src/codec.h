/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* codec.h - checksums of what stands on disk. CRC32C (Castagnoli), as in RFC 3720: initial value and final inversion all ones. */
#ifndef SDB_CODEC_H
#define SDB_CODEC_H

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to begin) over `len` bytes. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/* Copies and checksums in one pass over the cache: continues `crc` over the bytes while they are copied. */
uint32_t crc32c_copy(uint32_t crc, void *restrict to, const void *restrict from, size_t len);

#endif
