/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log_state.h - the log's own data, shared by log.c (writing), segment.c (files) and log_scan.c (recovery). */
#ifndef SDB_LOG_STATE_H
#define SDB_LOG_STATE_H

#include "log.h"

#define SEGMENT_MAGIC "SDBLOG\x01\n"

enum { MAX_SEGMENTS = 10000, NAME_GAP = 8, SEGMENT_FORMAT = 1, SEGMENT_WRAPPED = 256 };

/* Taken: a spare that is being set up, so that nobody else takes or removes it. */
enum segment_state { SEGMENT_SPARE, SEGMENT_TAKEN, SEGMENT_LIVE };

struct segment {
  sdb_file *file;
  uint32_t index; /* of the file's name */
  uint64_t number, base, salt;
  uint64_t previous; /* number of the segment whose records come before; 0: none. Session borders leave numbers out */
  uint64_t first;    /* sequence of the first commit in it, as far as known: else 0. Under `queue` */
  unsigned readers;  /* reading it just now: the file stays open. Under `queue` */
  uint32_t readable; /* bytes the file has, less than its size when it was cut */
  enum segment_state state;
  bool unsynced;
  bool name_synced; /* by this process; a name found at a start may be one whose sync failed */
};

/* A part of a group on its way to one segment. */
struct piece {
  struct piece *next;
  struct segment *segment;
  uint32_t offset;
  uint8_t *bytes;
  size_t len, cap;
  size_t filled;     /* of `len`, without the padding; once sealed */
  uint64_t sequence; /* of its last commit; 0: none */
};

struct log {
  env *e;
  log_config config;
  char *name;            /* of the data file */
  uint32_t segment_size; /* of the files that exist, else as configured */

  struct mutex preparing; /* setting the next segment up; outside `owner`, which is only held to take and to add one */
  struct mutex owner;
  struct mutex queue; /* segments' list and identities, current and next, sealed pieces; held for a few instructions. What the owner
                         changes under it the owner may read without it */

  struct segment **segments;
  size_t count, cap;
  struct segment *current, *next;

  struct piece *open;
  struct piece *sealed_first, *sealed_last;
  _Atomic size_t sealed_bytes; /* changed under `queue` */
  struct piece *idle;          /* for reuse */

  uint64_t tail; /* position of the next record */
  uint32_t chain;
  uint64_t last_sequence;
  uint64_t written_pos, written_sequence; /* handed to the file: behind the last record, so that no padding seems to be missing */
  _Atomic uint64_t synced_pos, synced_sequence;
  uint64_t commit_end; /* position behind the last commit */
  uint64_t stated;     /* highest "known to be synced" that a record carries */
  atomic_bool started; /* read by background work before it takes a lock */
  atomic_bool full;    /* the device had no space for the next segment when it was asked last */
  uint64_t covered;    /* a checkpoint that is whole contains everything before this position */
  /* What earlier sessions left: the last record's checksum, the use of a segment that it stands in (0: it is not kept), and where
   * the numbers of this session begin. */
  uint32_t past_chain;
  uint64_t past_segment, past_salt;
  uint64_t past_sequence;
  _Atomic uint64_t session_base; /* of the first segment of this session; UINT64_MAX: none yet */
  bool sized;                    /* by a segment that exists */
  bool cut;                      /* some segment's file is shorter than a segment can be */

  uint8_t *record; /* being appended */
  uint32_t record_len;
  uint8_t nonce[CIPHER_NONCE]; /* of the next record that is encrypted: drawn where failing is allowed */
  bool nonce_fresh;
};

/* segment.c */
int segment_file_name(const log *l, uint32_t index, char *buf, size_t len);
/* Live, of that use, and reaching to the place; NULL: none. */
struct segment *segment_of(const log *l, const log_place *place);
/* The live one of that number; NULL: none. `queue` is held. */
struct segment *segment_live(const log *l, uint64_t number);
/* Recycles or creates; header synced. One at a time, and not by who holds log_own: that takes long. */
int segment_new(log *l, uint64_t number, uint64_t previous, uint64_t base, struct segment **out);
int segments_find(log *l);
/* Everything before `position` is in a complete checkpoint: what is older than what is to be kept becomes spare. Returns how many.
 */
unsigned log_let_go(log *l, uint64_t position);
uint32_t segment_seed(uint64_t salt, uint64_t position);

/* log_scan.c: does a record verify that stands at `r`, `room` bytes before the end of what may hold records? */
bool record_verifies(const uint8_t *r, size_t room, uint64_t salt, uint64_t position);

/* log_scan.c: what is authenticated with the payload of a record. */
identity record_identity(uint64_t position, const uint8_t *record);
/* The payload of a record that verifies, decrypted where it stands; false: it is not what was written there. */
bool record_open(const log *l, uint64_t position, uint8_t *record, const uint8_t **payload, size_t *len);

#endif
