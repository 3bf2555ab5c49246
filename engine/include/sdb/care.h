/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sdb/care.h - care for whole databases: backup while writing goes on, verify, restore, repair, scrub.
 *
 *     sdb_backup(db, "copy.sdb", NULL, NULL);          a running database; writers and readers go on
 *     sdb_verify("copy.sdb", NULL, NULL, NULL, NULL);  is the copy whole? nothing is written
 *     sdb_restore("copy.sdb", "things.sdb", NULL, NULL);
 *     sdb_repair("broken.sdb", "mended.sdb", NULL, NULL, NULL, NULL);
 *
 * Rules as in sdb.h: functions return SDB_OK or a negative code, outputs are untouched on an error. A file appears under its final
 * name when it is whole and synced, never before; what a failure or a crash leaves is at most NAME.new, which the next attempt
 * overwrites. No function here ever writes to the file it reads from.
 */
#ifndef SDB_CARE_H
#define SDB_CARE_H

#include "sdb/sdb.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Backup and restore ------------------------------------------------------------------------------------------------------- */

/* Set with sdb_copy_options_init(), then change what you like. */
typedef struct sdb_copy_options {
  size_t size;                       /* sizeof(sdb_copy_options) */
  const struct sdb_storage *storage; /* of the destination (restore: of both). NULL: backup: that of the database; restore: files of
                                        the operating system */
  bool replace;                      /* false: an existing destination is refused with SDB_EXISTS. true: it is replaced, atomically.
                                        Restore never replaces */
  bool verify;                       /* true: the copy is read again and verified before it gets its name */
  const uint8_t *encryption_key; /* of an encrypted database, SDB_KEY_SIZE bytes: only so that `verify` judges documents too. NULL:
                                    it judges checksums */
  /* Called before the first page and after about each megabyte with the bytes copied so far and in all; false cancels
   * (SDB_CANCELLED). May be slow, to make the copy slower. May use the database, but not close it (sdb_close() answers
   * SDB_INVALID). NULL: none. */
  bool (*progress)(void *user, uint64_t done, uint64_t total);
  void *user;
  char *message; /* restore: where the sentence goes when it fails; may be NULL */
  size_t message_size;
} sdb_copy_options;
SDB_API void sdb_copy_options_init(sdb_copy_options *options);

typedef struct sdb_copy_report {
  size_t size; /* set to sizeof(sdb_copy_report) before the call */
  uint8_t database_id[16];
  uint64_t epoch;      /* of the copy */
  uint64_t sequence;   /* the last commit it contains */
  uint64_t documents;  /* in it */
  uint64_t pages;      /* copied */
  uint64_t bytes;      /* copied */
  uint64_t file_bytes; /* length of the copy; what is free in it was not written */
} sdb_copy_report;

/* Writes a copy of the database at the moment of the call: every commit acknowledged before is in it. Commits, reads and
 * checkpoints go on; a commit never waits for the copy (checkpoints wait while the page map, a thousandth of the file, is copied).
 * Pages freed meanwhile are used again when the copy is done. The copy is one file, as after a clean close, with the database's id,
 * epoch, document ids, versions and times; what is encrypted is copied as it is. Do not write to it while the original lives on
 * under the same epoch: sdb_restore() makes a database of it that may go its own way. SDB_EXISTS,
 * SDB_CORRUPT (what was read or copied does not verify: no copy), SDB_READ_ONLY (a log that was only replayed into memory),
 * SDB_CANCELLED, SDB_INVALID (also: the destination is the database itself, or a file of its own), SDB_LOCKED (somebody has the
 * database open that is to be replaced), SDB_FULL, SDB_IO, SDB_DENIED, SDB_NO_MEMORY,
 * SDB_SYNC_FAILED. `options` and `report` may be NULL. */
SDB_API SDB_MUST_USE int sdb_backup(sdb *db, const char *destination, const sdb_copy_options *options, sdb_copy_report *report);

/* Makes a database of a backup, or of any cleanly closed database: a new file with the same database id and a new random epoch, so
 * that positions in the change feed of the original's history answer SDB_RESET. Refuses an existing destination, and one whose log
 * still stands (SDB_MISMATCH). SDB_EXISTS, SDB_NOT_FOUND, SDB_LOCKED, SDB_NOT_A_DATABASE, SDB_UNSUPPORTED, SDB_CORRUPT,
 * SDB_MISMATCH (the source was not closed cleanly), SDB_CANCELLED, SDB_INVALID, SDB_FULL, SDB_IO, SDB_DENIED, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_restore(const char *backup, const char *destination, const sdb_copy_options *options,
                                     sdb_copy_report *report);

/* --- Verify ------------------------------------------------------------------------------------------------------------------- */

typedef struct sdb_verify_report {
  size_t size; /* set to sizeof(sdb_verify_report) before the call */
  uint8_t database_id[16];
  uint64_t epoch, checkpoint, sequence;
  uint64_t file_bytes;
  uint64_t pages; /* physical ones in use that were verified */
  uint64_t documents, versions, bytes;
  uint64_t problems;
  uint64_t unreadable; /* of the problems: places that the storage answered an error for; all others do not match */
  bool clean;          /* closed cleanly: the file alone is the database */
  bool contents;       /* documents and indexes were judged too; false: there are problems before that, or no key was given */
} sdb_verify_report;

/* Proves that a closed database or a backup is whole, reading only: both header slots, directories, map, free-space bitmap, every
 * page and, where it was not closed cleanly, the log against their checksums; and, where all that is good and it opens (an
 * encrypted one: with options->encryption_key), trees, table, records and contents, as sdb_check() does. Where it does not come to
 * that, large contents are judged by their checksums as well, so an encrypted database needs no key for any of them (but for
 * contents that only the log of an unclean one names). Each problem is told to `problem` as one sentence. SDB_OK also when there
 * are problems: look at the count. Holds a shared lock on the file meanwhile. Of `options` (NULL: defaults) storage,
 * page_cache_size, use_mmap, key and message are used. SDB_NOT_FOUND, SDB_LOCKED, SDB_NOT_A_DATABASE, SDB_UNSUPPORTED, SDB_INVALID,
 * SDB_IO, SDB_DENIED, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_verify(const char *name, const sdb_options *options, void (*problem)(void *user, const char *sentence),
                                    void *user, sdb_verify_report *report);

/* --- Repair ------------------------------------------------------------------------------------------------------------------- */

typedef enum sdb_repair_kind {
  SDB_REPAIR_SAVED,   /* the document is in the new database */
  SDB_REPAIR_LOST,    /* a document, or one of its versions or names, that is not */
  SDB_REPAIR_DOUBTFUL /* possibly deleted before the damage: nothing that verifies says that it still existed. It is in the new
                         database when SDB_REPAIR_SAVED was told of it too; else another document has its path */
} sdb_repair_kind;

typedef struct sdb_repair_item {
  sdb_repair_kind kind;
  const uint8_t *path; /* NULL when it is not known; valid during the call */
  size_t path_len;
  uint8_t id[16];   /* all zero but for the document number when that is all that is known */
  uint32_t version; /* 0: not known */
  uint32_t size;
  const char *reason; /* one sentence without a dot */
} sdb_repair_item;

typedef struct sdb_repair_report {
  size_t size;               /* set to sizeof(sdb_repair_report) before the call */
  bool header_found, opened; /* a header slot counted; the damaged file could still be opened for reading */
  uint32_t page_size;
  uint64_t pages, heap_pages, unreadable_pages, large_contents, log_records; /* looked at by scanning; 0 when that was not needed */
  uint64_t documents, versions, bytes;                                       /* saved */
  uint64_t lost, doubtful;                                                   /* items told */
} sdb_repair_report;

/* Builds a new database from all that verifies of a damaged one: file and log, whatever is lost of headers, map, table, trees or
 * log. The original is only read, and stays byte for byte as it is. Of each document the highest version whose record and content
 * verify is saved with its id, time and version, and those below it that it kept. No content is ever saved that does not match its
 * digest. The new database has an own id and epoch. Takes about 50 bytes of memory a record found and a bit a page.
 *
 * "Possibly deleted": deleted documents leave their bytes in free space until it is used again. Whatever the table (as the database
 * has it, or as its pages are found by themselves) or the log says about a document number decides; where both are lost for a
 * number, what was found is saved and told as SDB_REPAIR_DOUBTFUL. Of two documents at one path the one that is vouched for, then
 * the newer one, has it.
 *
 * `item` is called for each document saved and each loss; may be NULL. Of `options` storage, cache, keys and the settings of a new
 * database are used; page_size is that of the original. An encrypted original needs its key (recovery_key, else encryption_key),
 * and a header slot or a log segment that still has it wrapped; the new database is encrypted under encryption_key.
 * SDB_EXISTS, SDB_NOT_FOUND, SDB_LOCKED, SDB_NOT_A_DATABASE (nothing in it verifies), SDB_UNSUPPORTED, SDB_WRONG_KEY,
 * SDB_MISMATCH (a log stands beside the destination), SDB_INVALID, SDB_FULL, SDB_IO, SDB_DENIED, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_repair(const char *damaged, const char *destination, const sdb_options *options,
                                    void (*item)(void *user, const sdb_repair_item *item), void *user, sdb_repair_report *report);

#ifdef __cplusplus
}
#endif
#endif
