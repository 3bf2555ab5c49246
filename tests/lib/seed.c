/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* seed.c - see seed.h. */
#include "seed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define FEW 120u /* seeds that are never thinned: of random work, each a long one */

uint64_t seed_number(const char *variable, uint64_t otherwise) {
  const char *text = getenv(variable);
  if (text == NULL || *text == '\0') return otherwise;
  char *end;
  uint64_t number = strtoull(text, &end, 10);
  return *end == '\0' ? number : otherwise;
}

uint64_t seed_thin(void) {
  uint64_t thin = seed_number("SDB_THIN", 1);
  return thin > 0 ? thin : 1;
}

uint64_t seed_share(uint64_t many) { return many > seed_thin() ? many / seed_thin() : 1; }

uint64_t seed_range(const char *test, uint64_t default_count, uint64_t *first) {
  *first = seed_number("SDB_SEED", 0);
  uint64_t count = seed_number("SDB_SEEDS", *first ? 1 : default_count > FEW ? seed_share(default_count) : default_count);
  if (*first == 0) *first = 1;
  printf("%s: seeds %" PRIu64 " to %" PRIu64 "\n", test, *first, *first + count - 1);
  fflush(stdout);
  return count;
}
