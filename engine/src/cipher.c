/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* cipher.c - see cipher.h. */
#include "cipher.h"

#include <sodium.h>

_Static_assert(CIPHER_NONCE == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, "a nonce fills XChaCha20's");
_Static_assert(CIPHER_TAG == crypto_aead_xchacha20poly1305_ietf_ABYTES && CIPHER_TAG == crypto_aead_aes256gcm_ABYTES, "tags");
_Static_assert(SDB_KEY_SIZE == crypto_aead_xchacha20poly1305_ietf_KEYBYTES && SDB_KEY_SIZE == crypto_aead_aes256gcm_KEYBYTES,
               "keys");
_Static_assert(crypto_core_hchacha20_INPUTBYTES + 8 == CIPHER_NONCE && crypto_aead_aes256gcm_NPUBBYTES == 12, "a unit's own key");

/* A wrapped data key. The check is the tag of nothing under the data key: it tells a right recovery copy from a wrong one. */
enum { WRAP_TAG = 24, WRAP_KEY = 40, WRAP_KIND = 72, WRAP_CHECK = 76 };

/* What is authenticated besides the bytes. */
struct data {
  uint8_t bytes[16 + CIPHER_IDENTITY_MAX];
  size_t len;
};

static struct data data_of(const uint8_t database_id[16], const void *identity_bytes, size_t len) {
  struct data d = {.len = 16 + len};
  assert(len <= CIPHER_IDENTITY_MAX);
  memcpy(d.bytes, database_id, 16);
  memcpy(d.bytes + 16, identity_bytes, len);
  return d;
}

static struct data wrap_data(const uint8_t database_id[16], uint32_t kind) {
  uint8_t identity_bytes[8] = "wrap";
  put32(identity_bytes + 4, kind);
  return data_of(database_id, identity_bytes, sizeof identity_bytes);
}

static int kind_ready(env *e, uint32_t kind) {
  if (sodium_init() < 0) return env_fail(e, SDB_IO, "libsodium could not be initialised");
  if (kind == SDB_CIPHER_XCHACHA20) return SDB_OK;
  if (kind != SDB_CIPHER_AES_GCM)
    return env_fail(e, SDB_UNSUPPORTED, "the file is encrypted in a way that this edition does not know");
  if (crypto_aead_aes256gcm_is_available()) return SDB_OK;
  return env_fail(e, SDB_UNSUPPORTED, "this processor has no AES-GCM that libsodium can use; choose XChaCha20-Poly1305");
}

int cipher_new(env *e, uint32_t kind, const uint8_t database_id[16], cipher **out) {
  int rc = kind_ready(e, kind);
  if (rc != SDB_OK) return rc;
  cipher *c = mem_new(e, sizeof *c);
  if (!c) return env_fail(e, SDB_NO_MEMORY, "out of memory for a key");
  c->kind = kind;
  memcpy(c->database_id, database_id, 16);
  if (e->storage->random(e->storage->ctx, c->key, sizeof c->key) != SDB_OK) {
    cipher_drop(e, c);
    return env_fail(e, SDB_IO, "no randomness for a key");
  }
  *out = c;
  return SDB_OK;
}

void cipher_drop(env *e, cipher *c) {
  if (!c) return;
  sodium_memzero(c, sizeof *c);
  mem_free(e, c);
}

static void check_of(const uint8_t key[SDB_KEY_SIZE], const uint8_t database_id[16], const uint8_t *nonce,
                     uint8_t check[CIPHER_TAG]) {
  struct data d = data_of(database_id, "check", 5);
  uint8_t nothing[1] = {0};
  crypto_aead_xchacha20poly1305_ietf_encrypt_detached(nothing, check, NULL, nothing, 0, d.bytes, d.len, NULL, nonce, key);
}

int cipher_wrap(env *e, const cipher *c, const uint8_t key[SDB_KEY_SIZE], uint8_t wrapped[CIPHER_WRAPPED]) {
  struct data d = wrap_data(c->database_id, c->kind);
  uint8_t fresh[CIPHER_WRAPPED] = {0};
  int rc = cipher_nonces(e, fresh, 1);
  if (rc != SDB_OK) return rc;
  crypto_aead_xchacha20poly1305_ietf_encrypt_detached(fresh + WRAP_KEY, fresh + WRAP_TAG, NULL, c->key, sizeof c->key, d.bytes,
                                                      d.len, NULL, fresh, key);
  put32(fresh + WRAP_KIND, c->kind);
  check_of(c->key, c->database_id, fresh, fresh + WRAP_CHECK);
  memcpy(wrapped, fresh, sizeof fresh);
  return SDB_OK;
}

int cipher_unwrap(env *e, const uint8_t wrapped[CIPHER_WRAPPED], const uint8_t database_id[16], const uint8_t key[SDB_KEY_SIZE],
                  bool recovery, cipher **out) {
  uint32_t kind = get32(wrapped + WRAP_KIND);
  int rc = kind_ready(e, kind);
  if (rc != SDB_OK) return rc;
  cipher *c = mem_new(e, sizeof *c);
  if (!c) return env_fail(e, SDB_NO_MEMORY, "out of memory for a key");
  struct data d = wrap_data(database_id, kind);
  uint8_t check[CIPHER_TAG];
  bool good = true;
  c->kind = kind;
  memcpy(c->database_id, database_id, 16);
  if (recovery) memcpy(c->key, key, sizeof c->key);
  else
    good = crypto_aead_xchacha20poly1305_ietf_decrypt_detached(c->key, NULL, wrapped + WRAP_KEY, sizeof c->key, wrapped + WRAP_TAG,
                                                               d.bytes, d.len, wrapped, key) == 0;
  if (good) {
    check_of(c->key, database_id, wrapped, check);
    good = sodium_memcmp(check, wrapped + WRAP_CHECK, sizeof check) == 0;
  }
  if (good) {
    *out = c;
    return SDB_OK;
  }
  cipher_drop(e, c);
  return env_fail(e, SDB_WRONG_KEY,
                  recovery ? "this is not the recovery key of the database; it was left as it is"
                           : "the key does not open the database; it was left as it is (if a change of the key was cut short, the "
                             "other one does)");
}

int cipher_nonces(env *e, uint8_t *nonces, size_t count) {
  if (e->storage->random(e->storage->ctx, nonces, count * CIPHER_NONCE) == SDB_OK) return SDB_OK;
  return env_fail(e, SDB_IO, "no randomness for encryption");
}

/* The key and nonce of one unit under AES-256-GCM. */
static void unit_key(const cipher *c, const uint8_t nonce[CIPHER_NONCE], uint8_t key[SDB_KEY_SIZE], uint8_t short_nonce[12]) {
  crypto_core_hchacha20(key, nonce, c->key, NULL);
  memcpy(short_nonce, nonce + 16, 8);
  memset(short_nonce + 8, 0, 4);
}

void cipher_seal(const cipher *c, const identity *id, const uint8_t nonce[CIPHER_NONCE], uint8_t tag[CIPHER_TAG], uint8_t *to,
                 const uint8_t *from, size_t len) {
  struct data d = data_of(c->database_id, id->bytes, id->len);
  uint8_t key[SDB_KEY_SIZE], short_nonce[12];
  if (c->kind == SDB_CIPHER_XCHACHA20) {
    crypto_aead_xchacha20poly1305_ietf_encrypt_detached(to, tag, NULL, from, len, d.bytes, d.len, NULL, nonce, c->key);
    return;
  }
  unit_key(c, nonce, key, short_nonce);
  crypto_aead_aes256gcm_encrypt_detached(to, tag, NULL, from, len, d.bytes, d.len, NULL, short_nonce, key);
  sodium_memzero(key, sizeof key);
}

bool cipher_open(const cipher *c, const identity *id, const uint8_t nonce[CIPHER_NONCE], const uint8_t tag[CIPHER_TAG], uint8_t *to,
                 const uint8_t *from, size_t len) {
  struct data d = data_of(c->database_id, id->bytes, id->len);
  uint8_t key[SDB_KEY_SIZE], short_nonce[12];
  if (c->kind == SDB_CIPHER_XCHACHA20)
    return crypto_aead_xchacha20poly1305_ietf_decrypt_detached(to, NULL, from, len, tag, d.bytes, d.len, nonce, c->key) == 0;
  unit_key(c, nonce, key, short_nonce);
  bool good = crypto_aead_aes256gcm_decrypt_detached(to, NULL, from, len, tag, d.bytes, d.len, short_nonce, key) == 0;
  sodium_memzero(key, sizeof key);
  return good;
}
