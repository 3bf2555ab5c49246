/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* keys.c - see keys.h. */
#include "keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t state;

void random_start(uint64_t seed) { state = seed; }

uint64_t random_number(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

uint32_t below(uint32_t limit) { return (uint32_t)(random_number() % limit); }

size_t key_path(uint8_t *key) {
  uint32_t i = below(100000);
  return (size_t)snprintf((char *)key, KEY_ROOM, "/state/node%04u/sensor/%08u/metric", (unsigned)(i % 1000), (unsigned)i);
}

size_t key_uuid(uint8_t *key) {
  uint64_t a = random_number(), b = random_number();
  return (size_t)snprintf((char *)key, KEY_ROOM, "/messages/sent/%08x-%04x-4%03x-%04x-%012" PRIx64, (unsigned)(a >> 32),
                          (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xfff), (unsigned)(b >> 48 & 0x3fff) | 0x8000u,
                          b & 0xffffffffffff);
}

size_t key_small(uint8_t *key) {
  static const uint8_t bytes[] = {0, 0, 1, 'a', 0xFE, 0xFF};
  size_t len = 1 + below(12);
  for (size_t i = 0; i < len; i++) key[i] = bytes[below(sizeof bytes)];
  return len;
}

size_t key_any(uint8_t *key) {
  size_t len = 1 + below(below(20) == 0 ? KEY_ROOM : 40);
  for (size_t i = 0; i < len; i++) key[i] = (uint8_t)random_number();
  return len;
}

size_t key_long(uint8_t *key) {
  memset(key, 'x', KEY_ROOM);
  key[KEY_ROOM - 1] = (uint8_t)random_number();
  return below(3) == 0 ? KEY_ROOM - below(300) : KEY_ROOM;
}

size_t key_comb(uint8_t *key) {
  size_t len = 1 + below(KEY_ROOM);
  memset(key, 'a', len);
  key[len - 1] = (uint8_t)('b' + below(3));
  return len;
}

size_t key_fat(uint8_t *key) {
  size_t len = KEY_ROOM - below(24);
  for (size_t i = 0; i < len; i++) key[i] = i < 8 ? (uint8_t)below(4) : (uint8_t)random_number();
  return len;
}

size_t key_deep(uint8_t *key) {
  size_t shared = 500 + below(8) * 60;
  memset(key, 'p', KEY_ROOM);
  for (size_t i = shared; i < shared + 3; i++) key[i] = (uint8_t)below(256);
  return shared + 3 + below((uint32_t)(KEY_ROOM - shared - 2));
}

key_maker *const key_makers[KEY_MAKERS] = {key_path, key_uuid, key_small, key_any, key_long, key_comb, key_fat, key_deep};

size_t key_uuid_of(uint8_t *key, uint64_t number) {
  uint64_t kept = state;
  state = number;
  size_t len = key_uuid(key);
  state = kept;
  return len;
}
