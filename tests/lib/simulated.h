/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* simulated.h - a storage device made of memory that crashes, loses, fails and fills up on demand, for the engine's tests.
 *
 * The fault model. What a crash leaves is decided by a seed, within these rules:
 *
 *   1. A sector is 512 bytes, and it is old or new, never a mixture. For a sector written several times since the last successful
 *      sync of its file every one of these contents is possible, and so is the one that was synced.
 *   2. Sectors are independent of each other: any subset of what was not synced may be there, whatever the order of the writes.
 *      Punching and cutting are writes of zeros in this respect.
 *   3. The size of a file is one of the sizes it had since the last successful sync of the file. What a longer size uncovers reads
 *      as what was last there or as zeros.
 *   4. Creations, renames and removals not yet covered by sync_dir are kept or undone one by one; each is atomic.
 *   5. A sync that succeeded holds for ever. A sync that failed has made nothing durable, and what it should have made durable
 *      stays in doubt, also when a later sync of the file succeeds, until it is written again. The process goes on seeing it until
 *      the crash.
 *   6. A write that failed may have written any of its sectors.
 *   7. The call during which the process dies has happened, without a sync, or has not: the crash decides as in 1 to 4. Every later
 *      call of the process fails with SDB_IO and changes nothing.
 *
 * Names are in one directory. There are no threads and no mapping, and time stands still until it is moved by hand. The same seed
 * and the same calls give the same run.
 */
#ifndef SDB_TESTS_SIMULATED_H
#define SDB_TESTS_SIMULATED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sdb/storage.h"

#define SIM_SECTOR 512u

typedef struct sim sim;

enum sim_kind {
  SIM_ALLOC,  /* realloc, except when it frees */
  SIM_READ,   /* read, get_size */
  SIM_WRITE,  /* write */
  SIM_SYNC,   /* sync, sync_dir */
  SIM_SIZE,   /* set_size, allocate, fill, punch */
  SIM_NAME,   /* open, lock, rename, remove */
  SIM_RANDOM, /* random */
  SIM_KINDS,
  SIM_CHANGE = SIM_KINDS, /* every call that can change the device: write, sync, set_size, allocate, fill, punch, rename, remove,
                             sync_dir, and an open that creates */
  SIM_ANY,                /* every call but realloc */
  SIM_COUNTERS
};

enum sim_crash_mode { SIM_DROP_ALL, SIM_KEEP_ALL, SIM_RANDOM_SUBSET };

/* NULL on shortage. Two devices from one seed behave alike. */
sim *sim_new(uint64_t seed);
/* A device with the same files and doubts, nothing open, no faults set and an own table. */
sim *sim_clone(const sim *device, uint64_t seed);
/* The device must have no open file. Takes NULL. */
void sim_free(sim *device);
/* The table to open databases with; the device's. */
const sdb_storage *sim_storage(const sim *device);

/* --- Faults ------------------------------------------------------------------------------------------------------------------- */

/* Fails the `nth` call (1: the next) of a kind, and with `for_good` all after it, with `code`; SIM_ALLOC gives NULL. */
void sim_fail(sim *device, enum sim_kind kind, uint64_t nth, bool for_good, int code);
void sim_fail_nothing(sim *device);
/* Whether the fault that was set has struck. */
bool sim_failed(const sim *device);
/* From now on the device does not give `len` bytes at `offset` of the file: who reads any of them is told SDB_IO. Places add up
 * until sim_readable(); the file keeps them under another name. `chance` (not 0: a seed): every second such read succeeds. */
void sim_unreadable(sim *device, const char *name, uint64_t offset, uint64_t len, uint64_t chance);
void sim_readable(sim *device);
/* The process dies in the `nth` call of kind SIM_CHANGE; 0: it does not. */
void sim_die_at(sim *device, uint64_t nth);
/* From a watcher: the process dies in the very call that is watched. From elsewhere: in the next call of kind SIM_CHANGE. */
void sim_die_now(sim *device);
bool sim_dead(const sim *device);
/* What the power cut leaves. Nothing may be open. Afterwards all is durable and calls work again. */
void sim_crash(sim *device, enum sim_crash_mode mode, uint64_t seed);
/* No more than `bytes` in all files together, in units of 4,096; UINT64_MAX: no limit. Beyond it write and allocate are SDB_FULL.
 */
void sim_limit(sim *device, uint64_t bytes);

/* --- Looking on --------------------------------------------------------------------------------------------------------------- */

uint64_t sim_calls(const sim *device, enum sim_kind kind);
uint64_t sim_bytes_used(const sim *device);
/* Allocations not freed yet; sim_print_leaks() names them by their number, counted from 1. */
uint64_t sim_allocations(const sim *device);
void sim_print_leaks(const sim *device);
size_t sim_open_files(const sim *device);
/* The clock. */
void sim_advance(sim *device, uint64_t ms);
/* Somebody sets the wall clock; what is measured from the start of the machine does not notice. */
void sim_jump(sim *device, uint64_t ms);

typedef struct sim_event {
  const char *call; /* the member's name in sdb_storage: "write", "sync" ... */
  const char *name; /* that the file has now (sync_dir: as given; rename: the old one) */
  uint64_t offset, len;
  const void *data; /* write only */
} sim_event;
/* Called before each call of kind SIM_CHANGE. NULL ends it. */
void sim_watch(sim *device, void (*watch)(void *user, const sim_event *event), void *user);

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

/* The names of the files that exist, in byte order; NULL behind the last. */
const char *sim_name(const sim *device, size_t index);
bool sim_size(const sim *device, const char *name, uint64_t *size);
/* Both act on what is durable and what the process sees. False when there is no such place. */
bool sim_peek(const sim *device, const char *name, uint64_t offset, void *buf, size_t len);
bool sim_poke(sim *device, const char *name, uint64_t offset, const void *data, size_t len);
bool sim_cut(sim *device, const char *name, uint64_t size);

/* A small generator for tests: the next number of the sequence that `state` stands at. */
uint64_t sim_random(uint64_t *state);

#endif
