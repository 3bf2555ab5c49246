/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sweep.h - an act on a database, with every storage call and allocation that it makes failing, once and for good.
 *
 * A sweep fails the 1st, 2nd, 3rd ... call of a kind that the act makes, until one is not reached any more. After each:
 *   1. the answer is success, or the code that the storage gave (sync and log: SDB_SYNC_FAILED)
 *   2. what the open handle shows is the state before or, on success, the state after; only after a failed sync either
 *   3. the next durable put works; after a failed sync it is refused, and so is every other one
 *   4. the power fails; with even numbers the handle is closed and opened first, and there is more work: what a failed sync left
 *      in doubt must not be trusted by the next open
 *   5. everything acknowledged is there, check finds nothing, no memory is held, no file is open
 *
 * Environment: SDB_ACT=name, SDB_KIND=name, SDB_NTH=n: only that case. SDB_THIN (seed.h): of each kind the first calls, and
 * a sample of those behind.
 */
#ifndef SDB_TESTS_SWEEP_H
#define SDB_TESTS_SWEEP_H

#include "workload.h"

/* Documents /p/0 to /p/39, of 300 bytes and their number; besides "twice", of two versions, and "large". */
#define SWEEP_FILLERS 40u
#define SWEEP_LARGE 69000u

typedef struct fixture {
  workload w;
  bool uncertain; /* the last commit of the model may or may not have happened */
} fixture;

enum base { NOTHING, CLOSED, CRASHED, BASES };

typedef struct act {
  const char *name;
  enum base base;
  bool opens; /* it opens the database itself; otherwise it finds it open */
  int (*run)(fixture *f);
} act;

/* All kinds of faults; `encrypted`: in an encrypted database. Ends the test where something is wrong. */
void sweep(const act *a, bool encrypted);

/* A fixture on a device, which takes the model. */
void fixture_init(fixture *f, sim *device, model *m);

/* Help for acts: what they do is noted in the model. */
int sweep_put(fixture *f, const char *path, uint32_t size, sdb_durability durability); /* its seed is 1000 + size */
/* The outcome of one commit that the model was told of with `commit` NULL, or is not told of when it was refused. */
int sweep_note_put(fixture *f, const char *path, uint64_t seed, uint32_t size, int code, const sdb_commit *commit);
int sweep_erase(fixture *f, const char *path);
int sweep_close(fixture *f);
bool sweep_is_content(uint64_t seed, const void *data, size_t size);

#endif
