/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload.h - random work on a database beside its model, from a seed.
 *
 *     workload w;
 *     workload_init(&w, seed, device);            decides options, paths and sizes
 *     workload_open(&w) && workload_run(&w, 40) && workload_verify(&w) && workload_close(&w)
 *
 * A function returns false when something is wrong that no fault explains; w.why says what. When the device died in a call,
 * `stopped` is set and true is returned: what that call would have done is in the model as a commit of unknown outcome.
 */
#ifndef SDB_TESTS_WORKLOAD_H
#define SDB_TESTS_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "model.h"
#include "sdb/changes.h"
#include "sdb/sdb.h"
#include "sdb/storage.h"
#include "simulated.h"

#define WORKLOAD_NAME "things.sdb"
#define WORKLOAD_SNAPSHOTS 4u
#define WORKLOAD_CONDITIONS 6u
#define WORKLOAD_KEY "the key that all workloads share." /* to begin with */

/* What the seed chose: where bugs hide differs. */
typedef enum profile {
  PROFILE_ORDINARY,
  PROFILE_LARGE,    /* few documents, most of them extents, most of them unsynced: space changes hands quickly */
  PROFILE_LONG_LOG, /* no checkpoint but those asked for: recovery has much to do */
  PROFILE_BUSY,     /* a checkpoint nearly always runs */
  PROFILE_TIGHT,    /* the data file cannot grow: freed space must be used, and SDB_FULL is an answer */
  PROFILES
} profile;

/* A put or a delete in a batch, under the condition that the document's version is `expect`. */
struct workload_operation {
  bool remove;
  unsigned path; /* of the universe */
  uint64_t seed;
  uint32_t size, expect;
};

typedef struct workload {
  sim *device; /* NULL: another storage, which does not die; see options.storage */
  sdb *db;     /* NULL: not open */
  model *model;
  sdb_options options;
  uint64_t random;
  profile profile;
  unsigned paths;       /* size of the universe of paths */
  uint32_t large_limit; /* no content is longer */
  bool stopped;         /* the device died */
  bool stay_open;       /* somebody else uses the handle too: it is not closed in between */
  sdb_position seen;    /* up to where the feed of changes was followed; epoch 0: nowhere */
  bool seen_commit;     /* that is a commit's place, not where the feed was begun */
  struct {
    bool wanted;
    uint8_t path[SDB_MAX_PATH];
    size_t path_len, commits; /* of the model, that one included */
    uint64_t seed;            /* of content and token */
    uint32_t size, version;
  } retry; /* a put with a token whose outcome nobody knows: to be asked for again */
  struct {
    bool wanted;
    unsigned count;
    struct workload_operation operations[WORKLOAD_CONDITIONS];
  } again;                     /* a batch whose outcome nobody knows: to be asked for again */
  const uint8_t *key_before;   /* the last key that opens no longer; NULL: there is none */
  const uint8_t *key_in_doubt; /* the process died in the change to it: it opens, or options.encryption_key does */
  struct {
    sdb_snapshot *snapshot;
    model *model; /* as it was then */
  } snapshots[WORKLOAD_SNAPSHOTS];
  unsigned snapshot_count;
  const char *doing; /* the last operation */
  char message[256]; /* of the engine's last sdb_open */
  char why[1400];
} workload;

void workload_init(workload *w, uint64_t seed, sim *device);
/* Closes without looking at the result, and frees the model. The device is the caller's. */
void workload_clear(workload *w);

bool workload_open(workload *w);
/* Stops early when the device dies. */
bool workload_run(workload *w, unsigned operations);
/* The database equals the model and check finds nothing. The device may die in it. */
bool workload_verify(workload *w);
/* After a crash: opens, finds the state that survived, verifies. The device may die again: then `stopped` is set. */
bool workload_recover(workload *w);
/* Closes; afterwards no file is open and no memory held. */
bool workload_close(workload *w);

/* Follows the feed of changes from where it was left, also before a crash: every synced commit of the model is shown, each once and
 * in order, and a position that was shown is never one that was lost. Only what was recycled may be missed, and that is told. */
bool workload_follow(workload *w);

/* Backs up, restores, and compares what was restored. */
bool workload_backup(workload *w);

/* Opens a snapshot, or compares one that is open with what there was when it was opened, and closes it. */
bool workload_snapshot(workload *w);
/* Compares all that are open; closes them without a look. No snapshot outlives workload_run(). */
bool workload_snapshots_verify(workload *w);
void workload_snapshots_close(workload *w);

/* Makes a batch in which every operation has the version as its condition. Again: the same batch with the same conditions, which by
 * now hold or do not: the first time, and after a crash when its outcome is not known. It happens whole or not at all, and is
 * refused at the first condition that does not hold. */
bool workload_batch_under_conditions(workload *w);
bool workload_batch_again(workload *w);

/* Changes the key of an encrypted database. After a crash in it exactly one of the two opens, and workload_find_key() finds out
 * which; the one before is refused. */
bool workload_change_key(workload *w);
bool workload_find_key(workload *w);
bool workload_refuses_key(workload *w);

/* Asks for a scrub, and goes on with it for some steps, or to its end; then everything reads as before. Whatever is done while one
 * runs, it finds nothing. */
bool workload_scrub(workload *w);
bool workload_found_nothing(workload *w, const sdb_stats *stats);

uint32_t workload_size(workload *w);
sdb_durability workload_durability(workload *w);

/* Path `index` of the universe, into `path` (SDB_MAX_PATH bytes); returns its length. */
size_t workload_path(uint64_t index, uint8_t *path);

#endif
