/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* seed.h - which seeds a random test runs with.
 *
 *   SDB_SEED=n    only seed n: to repeat what a failure printed
 *   SDB_SEEDS=n   seeds 1 to n instead of the test's own number; with SDB_SEED as well, n seeds from that one on
 *   SDB_THIN=n    of very many cases about the nth part, for builds that are slow: tests whose cases are few take no notice, nor
 *                 does what SDB_SEEDS asks for
 *
 *     uint64_t first, count = seed_range("crash", 100, &first);
 *     for (uint64_t seed = first; seed < first + count; seed++) ...
 */
#ifndef SDB_TESTS_SEED_H
#define SDB_TESTS_SEED_H

#include <stdint.h>

/* Prints the range, with the test's name, and returns how many. */
uint64_t seed_range(const char *test, uint64_t default_count, uint64_t *first);

/* What SDB_THIN says, 1 when it says nothing; and that part of `many`, not less than 1. */
uint64_t seed_thin(void);
uint64_t seed_share(uint64_t many);

/* An environment variable as a number; `otherwise` when it is not set or is none. */
uint64_t seed_number(const char *variable, uint64_t otherwise);

#endif
