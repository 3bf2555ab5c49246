/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sdb/changes.h - what was committed since a position: a feed that loses nothing, or says so.
 *
 *     sdb_changes_open(db, &position, "/state/", 7, &feed);
 *     for (;;) {
 *       int rc = sdb_changes_next(feed, &change);
 *       if (rc == SDB_END) rc = sdb_changes_wait(feed, 1000);       or sdb_options.on_synced, for one thread with many feeds
 *       else if (rc == SDB_OK && change.last) sdb_changes_position(feed, &position);     remember it: go on from there
 *       else if (rc == SDB_TRIMMED || rc == SDB_RESET) ...          list everything anew, then go on from a position taken before
 *     }
 *
 * Shown are synced commits only, in their order, each once, none left out. They come from the log, of which `change_log_bytes` stay
 * behind each checkpoint. A feed holds nothing: when it is too slow the log goes on without it, and it is told SDB_TRIMMED. Damage
 * is told as SDB_CORRUPT, never passed over. Closing, opening and crashes do not end a feed's history: open another one at the
 * position of the old.
 *
 * Positions. The number of the last commit seen, and the epoch of the database. After an unclean end numbers go on 2^20 higher:
 * nothing lies between, so the number of the last commit that survived and the one that the new session begins with mean the same
 * place, while any number between them is one of a commit that was lost before it was synced: SDB_RESET. (Of sessions that ended
 * uncleanly without a commit, only the last one's beginning is known.)
 */
#ifndef SDB_CHANGES_H
#define SDB_CHANGES_H

#include "sdb/sdb.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sdb_position {
  uint64_t epoch; /* renewed by restore and repair: what was before is another history */
  uint64_t sequence;
} sdb_position;

typedef enum sdb_operation {
  SDB_CHANGE_PUT = 1,
  SDB_CHANGE_DELETE = 2, /* of the document with all its names */
  SDB_CHANGE_BIND = 3,   /* `path` leads to the document from now on */
  SDB_CHANGE_UNBIND = 4  /* `path` leads nowhere any more; the document lives on */
} sdb_operation;

typedef struct sdb_change {
  uint64_t sequence; /* of the commit */
  uint64_t commit_ms;
  sdb_operation operation;
  bool last;           /* no further change of this commit will be shown */
  bool expired;        /* the engine deleted it, at its time */
  const uint8_t *path; /* the first name of the document that begins with the prefix; valid until the feed's next call */
  size_t path_len;
  uint8_t id[16];
  uint32_t version; /* made by the put; else the current one at that moment */

  /* Of the version that a put made; else zero. Pointers are valid until the feed's next call. */
  uint32_t size;
  uint32_t digest;      /* CRC32C of the content */
  uint64_t time_ms;     /* of the version */
  uint64_t expires_ms;  /* 0: never */
  const uint8_t *token; /* 16 bytes, or NULL */
  const char *content_type;
  size_t content_type_len;
  const uint8_t *metadata;
  size_t metadata_len;
} sdb_change;

typedef struct sdb_changes sdb_changes;

/* Opens a feed of what was committed behind `after`, of documents with a name that begins with `prefix` (0 bytes: of all). Costs
 * nothing when `after` is the newest position, else a look at the beginning of each log segment and the reading of one of them.
 * SDB_TRIMMED: the log does not reach back so far (sdb_changes_range says how far). SDB_RESET: the position is in the future, was
 * lost in a crash, or belongs to another epoch. SDB_INVALID, SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_changes_open(sdb *db, const sdb_position *after, const void *prefix, size_t prefix_len,
                                          sdb_changes **feed);
/* The next change. SDB_END: nothing newer is synced; ask again later. SDB_TRIMMED, SDB_CORRUPT (also at the end of a log whose end
 * is lost), SDB_IO, SDB_NO_MEMORY: told from then on; *change is untouched. */
SDB_API SDB_MUST_USE int sdb_changes_next(sdb_changes *feed, sdb_change *change);
/* Waits until something newer than what the feed has read is synced: SDB_OK. SDB_END after `timeout_ms`, and at once where the
 * database has no threads. SDB_SYNC_FAILED: nothing will come any more. */
SDB_API SDB_MUST_USE int sdb_changes_wait(sdb_changes *feed, uint32_t timeout_ms);
/* Where to go on: the last commit that the feed has shown whole, or passed over because no path of it begins with the prefix. */
SDB_API void sdb_changes_position(const sdb_changes *feed, sdb_position *position);
/* Takes NULL. */
SDB_API void sdb_changes_close(sdb_changes *feed);

/* From where on changes can be had now, and the newest position. Either may be NULL. SDB_IO, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_changes_range(sdb *db, sdb_position *oldest, sdb_position *newest);

#ifdef __cplusplus
}
#endif
#endif
