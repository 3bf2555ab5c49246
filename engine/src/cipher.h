/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* cipher.h - encryption of what reaches the storage, unit by unit: a page, a log record, a chunk, the head of an extent.
 *
 *     user's key --XChaCha20-Poly1305--> data key --(random 24-byte nonce)--> a unit: | nonce 24 | tag 16 | ciphertext |
 *                 wrapped, in every header slot
 *
 * XChaCha20-Poly1305 uses the nonce as it is. For AES-256-GCM, whose 12 bytes are too few to draw at random, a unit has a key of
 * its own: HChaCha20(data key, first 16 bytes of the nonce); the last 8 bytes and four zeros are the nonce under it. What a unit is
 * and where it belongs (its identity) is authenticated with it, so none can stand in for another. Nonces come from the storage's
 * randomness each time: a generator with a state of its own would repeat them in a copy of a running machine (I9).
 */
#ifndef SDB_CIPHER_H
#define SDB_CIPHER_H

#include "base.h"

enum {
  CIPHER_NONCE = 24,
  CIPHER_TAG = 16,
  CIPHER_OVERHEAD = CIPHER_NONCE + CIPHER_TAG,
  CIPHER_WRAPPED = 96, /* a wrapped data key in a slot or segment header: docs/file-format.md, section 3 */
  CIPHER_IDENTITY_MAX = 64
};

/* First byte of an identity; pages and heads of extents have their page kind there (page.h). */
enum { CIPHER_CHUNK = 16, CIPHER_LOG = 17 };

typedef struct cipher {
  uint32_t kind; /* SDB_CIPHER_XCHACHA20 or SDB_CIPHER_AES_GCM */
  uint8_t database_id[16];
  uint8_t key[SDB_KEY_SIZE]; /* the data key */
} cipher;

typedef struct identity {
  uint8_t bytes[CIPHER_IDENTITY_MAX];
  size_t len;
} identity;

/* A new cipher with a random data key. SDB_UNSUPPORTED: this machine does not have that kind; SDB_IO, SDB_NO_MEMORY. */
int cipher_new(env *e, uint32_t kind, const uint8_t database_id[16], cipher **out);
/* Wraps the data key under the user's. SDB_IO: no randomness. */
int cipher_wrap(env *e, const cipher *c, const uint8_t key[SDB_KEY_SIZE], uint8_t wrapped[CIPHER_WRAPPED]);
/* The cipher of a database from what stands in its header, by the user's key or (`recovery`) by the data key itself.
 * SDB_WRONG_KEY, SDB_UNSUPPORTED, SDB_NO_MEMORY. */
int cipher_unwrap(env *e, const uint8_t wrapped[CIPHER_WRAPPED], const uint8_t database_id[16], const uint8_t key[SDB_KEY_SIZE],
                  bool recovery, cipher **out);
/* Wipes and frees. Takes NULL. */
void cipher_drop(env *e, cipher *c);

/* `count` random nonces, one behind the other. SDB_IO. */
int cipher_nonces(env *e, uint8_t *nonces, size_t count);
/* Encrypts `len` bytes under a nonce that was never used; `to` may be `from`. Cannot fail. */
void cipher_seal(const cipher *c, const identity *id, const uint8_t nonce[CIPHER_NONCE], uint8_t tag[CIPHER_TAG], uint8_t *to,
                 const uint8_t *from, size_t len);
/* Decrypts; false: these are not the bytes that were sealed as that unit. `to` may be `from`. */
bool cipher_open(const cipher *c, const identity *id, const uint8_t nonce[CIPHER_NONCE], const uint8_t tag[CIPHER_TAG], uint8_t *to,
                 const uint8_t *from, size_t len);

#endif
