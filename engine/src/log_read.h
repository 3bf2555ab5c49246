/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log_read.h - reading the retained log while it is written, for the feed of changes.
 *
 *      lineage:  segment 3 <- 4 <- 5 | <- 7 (a new session) <- 8 (current)       each header names its predecessor
 *                 ^ may be recycled at any time                   ^ read up to what is synced, never further
 *
 * A reader follows the chain of checksums from record to record, across segments and sessions, so that a record that is missing or
 * damaged is always noticed. It does not hold the log: a segment is looked up again, by number and salt, around every read.
 *
 * A position is the sequence of the last commit seen. `bound` is the last commit that is synced: nothing behind it is shown.
 * Thread rule: a reader belongs to one thread at a time; beside it the log may be written, released and recycled.
 */
#ifndef SDB_LOG_READ_H
#define SDB_LOG_READ_H

#include "log.h"

typedef struct log_reader log_reader;

/* SDB_NO_MEMORY. Takes a few hundred bytes, and with the first read a buffer for one record, at least 64 KB. */
int log_reader_open(log *l, log_reader **r);
void log_reader_close(log_reader *r);

/* Goes behind commit `position`. SDB_TRIMMED: the log does not reach back so far. SDB_RESET: there is no such commit, because it is
 * in the future, or was lost in a crash before it was synced. SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY. */
int log_reader_seek(log_reader *r, uint64_t position, uint64_t bound);
/* The next commit up to `bound`; *record is good until the next call. SDB_END: there is none. SDB_TRIMMED: what comes next has been
 * recycled. SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY. After an error other than SDB_END seek again. */
int log_reader_next(log_reader *r, uint64_t bound, log_record *record);
/* The sequence of the last commit passed; at the end of what earlier sessions left, where this session's numbers begin. */
uint64_t log_reader_position(const log_reader *r);
/* The oldest position that log_reader_seek accepts. Moves the reader: seek afterwards. */
int log_reader_oldest(log_reader *r, uint64_t bound, uint64_t *position);

#endif
