/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log.h - the newest truth: an append-only log in segments, synced by groups. Format and crash argument: docs/file-format.md, 10
 * to 13.
 *
 *      position b        b + 4096                                     b + size
 *      | segment header | rec rec rec ~pad~ | rec ~pad~ | rec rec ... | next segment
 *                        '---- group -------'            ^ open piece: in memory, appended under the writer's lock
 *                                                        sealed pieces: in order, waiting for their owner to write and sync them
 *
 * Who may do what: reserve, append and seal are the writer's (pager_lock held). Writing, syncing, adding and releasing segments
 * is the owner's: whoever holds log_own (I10). The writer's lock may be held when the owner's is taken, never the other way round.
 * A segment is made and its header synced beside the owner's work (log_prepare), so that no commit waits for it.
 */
#ifndef SDB_LOG_H
#define SDB_LOG_H

#include "cipher.h"
#include "layout.h"

enum {
  LOG_SECTOR = 4096,
  LOG_RECORD_HEAD = 40,
  LOG_OP_HEAD = 8,
  LOG_COMMIT = 1,
  LOG_MARK = 2,
  LOG_ENCRYPTED = 1 /* a record's flag */
};

typedef struct log_config {
  uint32_t segment_size;
  uint64_t keep_bytes; /* of log behind the checkpoint */
  uint8_t database_id[16];
  uint64_t epoch;
  bool read_only;
  int (*before_write)(void *user); /* makes durable what the records that go out next name (I4); NULL: nothing to do */
  void *user;
  uint8_t wrapped[CIPHER_WRAPPED]; /* data key, for the headers of segments */
} log_config;

typedef struct log log;

/* Opens the segments NAME.log.NNNN that exist. The size of existing segments counts, whatever the configuration says.
 * SDB_MISMATCH: a segment of another database or epoch. */
int log_open(env *e, const char *name, const log_config *config, log **l);
void log_close(log *l);

typedef struct log_record {
  uint64_t position, sequence, time_ms;
  uint8_t kind;
  uint16_t ops;
  const uint8_t *payload;
  size_t payload_len;
} log_record;

typedef struct log_scan_result {
  uint64_t end;      /* position behind the last good record, or where the scan began */
  uint64_t sequence; /* of the last commit; 0: none */
  uint32_t chain;
  uint64_t records;
  bool covered; /* the very segment that the place names is there */
  bool damaged; /* what stands behind `end`, or before it, had been synced once */
} log_scan_result;

/* Returns SDB_OK to go on. What the record points at is good during the call only. */
typedef int log_visit(void *user, const log_record *r);
/* Visits the records from a place on. `visit` NULL: they are judged by their checksums alone, which takes no key. SDB_IO,
 * SDB_NO_MEMORY, or what visit returned. */
int log_scan(log *l, const log_place *from, log_visit *visit, void *user, log_scan_result *result);
/* Visits the records that a scan from the same place has found, and no others. SDB_IO: the device gives other bytes than it did. */
int log_scan_again(log *l, const log_place *from, const log_scan_result *first, log_visit *visit, void *user);

/* What earlier sessions left ends at `end`, whose segment is looked for when it is not named; commits of this one get numbers above
 * `sequence`. Called once, before anything else but scans. */
void log_past(log *l, const log_place *end, uint64_t sequence);
/* The first write after a clean close or a recovery: begins a fresh segment behind all that exist and behind `position`, up to
 * which a checkpoint contains everything. What a process before left in its last segment is not gone on with: whether its header
 * was ever synced is not known (I7). */
int log_resume(log *l, uint64_t position);
/* Recovery: moves the tail behind everything that exists (at least `position`), where no record will ever stand, without a segment.
 */
void log_skip(log *l, uint64_t position);

/* --- The writer --------------------------------------------------------------------------------------------------------------- */

/* The largest payload of a record. */
size_t log_largest(const log *l);
/* Makes sure that a record with that payload can be appended: afterwards append cannot fail. SDB_TOO_LARGE above half a segment. */
int log_reserve(log *l, size_t payload);
/* False: a record with that payload would have to wait for another segment. */
bool log_has_room(log *l, size_t payload);
/* Appends a record; the caller fills the payload and calls log_finish at once. */
uint8_t *log_append(log *l, uint8_t kind, uint64_t sequence, uint16_t ops, uint64_t time_ms, size_t payload);
void log_finish(log *l);
/* Closes the open group: what was appended so far goes out with the next log_write. */
void log_seal(log *l);
/* Position where the next group will begin, once sealed; log_end: as a place for a header slot. */
uint64_t log_tail(const log *l);
log_place log_end(const log *l);
/* Bytes of sealed pieces that wait for being written. */
size_t log_backlog(log *l);
/* True when the current segment is half full and its successor is not set up. */
bool log_wants_segment(log *l);
/* True when the device has no space for that successor: what is left of the segment is for deletes then, and a checkpoint may free
 * another one. */
bool log_short(log *l);
/* True when the last group is not yet covered by a later record's "known to be synced". */
bool log_wants_mark(const log *l);

/* --- The owner ---------------------------------------------------------------------------------------------------------------- */

void log_own(log *l);
bool log_try_own(log *l); /* false: somebody else does */
void log_disown(log *l);
/* Writes the sealed pieces. SDB_IO, SDB_FULL: nothing after it may be acknowledged. */
int log_write(log *l);
/* Syncs what was written; *sequence is set to the last commit that is durable now. A failure is final (I7). */
int log_sync(log *l, uint64_t *sequence);
/* Everything before `position` is in a complete checkpoint: segments behind it, and behind what is to be kept, are recycled.
 * `spare`: how many of them stay; files beyond that are removed. One more segment can always be had, so that deletes work on a full
 * device: the next one, a spare, or one kept for readers of changes. */
void log_release(log *l, uint64_t position, unsigned spare);

/* Segments from now on carry this wrapped data key. */
void log_set_wrapped(log *l, const uint8_t wrapped[CIPHER_WRAPPED]);

/* --- Anybody ------------------------------------------------------------------------------------------------------------------ */

/* Sets the next segment up, so that the writer need not wait for it; nothing when it is there already. Neither lock is needed. */
int log_prepare(log *l);
/* Segments that only wait to be used again. */
unsigned log_spares(log *l);

uint64_t log_bytes(log *l); /* of all segment files */
bool log_started(const log *l);

#endif
