/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* keys.h - random keys that are hard on ordered structures, for tests. One thread only. */
#ifndef SDB_TESTS_KEYS_H
#define SDB_TESTS_KEYS_H

#include <stddef.h>
#include <stdint.h>

#define KEY_ROOM 1024u /* bytes that every maker may fill */
#define KEY_MAKERS 8

/* The same seed gives the same numbers. */
void random_start(uint64_t seed);
uint64_t random_number(void);
/* 0 to limit - 1 */
uint32_t below(uint32_t limit);

/* Fills `key` and answers its length, at least 1. */
typedef size_t key_maker(uint8_t *key);

size_t key_path(uint8_t *key);  /* as sensors have them */
size_t key_uuid(uint8_t *key);  /* as messages have them */
size_t key_small(uint8_t *key); /* few different bytes, zeros and 0xFF among them: prefixes of each other abound */
size_t key_any(uint8_t *key);   /* any bytes, seldom long */
size_t key_long(uint8_t *key);  /* 1,024 bytes, all but the last the same; or cut somewhere */
size_t key_comb(uint8_t *key);  /* a^n b */
size_t key_fat(uint8_t *key);   /* long and different from the first bytes on: the fewest to a page */
size_t key_deep(uint8_t *key);  /* the same for a long way, then different, then long again: long separators */
extern key_maker *const key_makers[KEY_MAKERS];

/* key_uuid of a number, whatever was drawn before. */
size_t key_uuid_of(uint8_t *key, uint64_t number);

#endif
