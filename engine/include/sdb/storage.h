/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sdb/storage.h - the engine's only door to the outside.
 *
 * Everything the engine wants from the world comes through one table of functions: files, sync, clock, randomness, memory, threads.
 * The library brings three tables: files of the operating system, memory, and (in the tests) a simulated device that fails, tears,
 * drops and reorders. An embedder may bring another one: fill in every member but those that may be NULL, set `size` and `version`,
 * hand it to sdb_open().
 *
 * Editions: a table says its `size` and `version`. The version changes when a member changes its meaning; members are only added at
 * the end, may be NULL, and count as NULL in a table that is too short to have them. A table of a later edition is used as far as
 * it is known. docs/storage.md says more about each member, and what a device must promise.
 *
 * Thread rule: with `thread_start` set, every function may be called from several threads at once, on one file too.
 * Errors: every `int` function returns SDB_OK or one of the codes it names (sdb.h). A table never aborts.
 * Lifetime: sdb_open() copies the table; its `ctx` must outlive every database opened with it. Both are the caller's.
 */
#ifndef SDB_STORAGE_H
#define SDB_STORAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sdb/sdb.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SDB_STORAGE_VERSION 2u /* 2: write_back */

/* Flags of `open`. */
#define SDB_OPEN_READ 0u   /* an existing file, for reading */
#define SDB_OPEN_WRITE 1u  /* an existing file, for reading and writing */
#define SDB_OPEN_CREATE 2u /* a new empty file, replacing one of that name, locked; for reading and writing */

typedef struct sdb_file sdb_file; /* the table's own; opaque to the engine */

typedef struct sdb_storage {
  uint32_t size;    /* sizeof(struct sdb_storage) */
  uint32_t version; /* SDB_STORAGE_VERSION */
  void *ctx;        /* passed to every function that takes no file */

  /* Files. Names are NUL-terminated and used as given. */

  /* Opens `name` and sets *file. SDB_NOT_FOUND, SDB_IO, SDB_NO_MEMORY, SDB_DENIED, SDB_NOT_A_DATABASE (not a file).
   * SDB_OPEN_CREATE also takes the exclusive lock, and empties an existing file only once it has it: SDB_LOCKED when somebody else
   * holds a lock of that file, which is left as it is; SDB_FULL. SDB_NOT_FOUND: the folder does not exist. */
  int (*open)(void *ctx, const char *name, unsigned flags, sdb_file **file);
  /* Closes; never fails, takes NULL. Does not sync. Releases the file's lock and mapping. */
  void (*close)(sdb_file *file);
  /* Takes the exclusive (or shared) lock of the file without waiting: SDB_LOCKED when another holder exists; SDB_LINKED when the
   * file has several names that `resolve` cannot make one (hard links): the files that belong to it stand beside one of them only.
   * The lock belongs to the handle: a rename does not loosen it. */
  int (*lock)(sdb_file *file, bool exclusive);
  /* Reads exactly `len` bytes; a read beyond the end is SDB_IO. */
  int (*read)(sdb_file *file, uint64_t offset, void *buf, size_t len);
  /* Writes exactly `len` bytes, extending the file when needed. SDB_IO, SDB_FULL. After an error any part may be written. */
  int (*write)(sdb_file *file, uint64_t offset, const void *buf, size_t len);
  /* On SDB_OK all that was written to the file before the call is durable, its size included. Never retried by the engine. */
  int (*sync)(sdb_file *file);
  /* The file's size in bytes. */
  int (*get_size)(sdb_file *file, uint64_t *size);
  /* Makes the file exactly `size` bytes long; new bytes read as zeros. */
  int (*set_size)(sdb_file *file, uint64_t size);
  /* Extends the file to at least `size` bytes with space that later writes will not run out of. SDB_FULL, SDB_IO. */
  int (*allocate)(sdb_file *file, uint64_t size);
  /* Gives the range back to the device; it reads as zeros or as before. May do nothing. */
  int (*punch)(sdb_file *file, uint64_t offset, uint64_t len);
  /* Returns an address where [offset, offset + len) of the file can be read until close, showing later writes, valid also where the
   * file does not reach yet (reading there is the caller's fault). NULL: not possible. Both members NULL: the table has no mapping,
   * and the engine reads. */
  const void *(*map)(sdb_file *file, uint64_t offset, size_t len);
  void (*unmap)(sdb_file *file, const void *address, size_t len);

  /* Names. */

  /* Replaces `to` atomically. Handles of the file that was `from` go on, with their locks. */
  int (*rename)(void *ctx, const char *from, const char *to);
  /* Removes; SDB_NOT_FOUND when there is none. */
  int (*remove)(void *ctx, const char *name);
  /* Makes the names in the directory that holds `name` durable: creations, renames and removals before the call. */
  int (*sync_dir)(void *ctx, const char *name);

  /* Writes the one name that all names of the file share (symbolic links followed) into `buf`; the file need not exist, its folder
   * must: SDB_NOT_FOUND. SDB_INVALID when it does not fit. NULL where every file has one name only. */
  int (*resolve)(void *ctx, const char *name, char *buf, size_t len);

  /* Clock, randomness, memory. */

  uint64_t (*now_ms)(void *ctx);       /* wall clock, ms since 1970 */
  uint64_t (*monotonic_us)(void *ctx); /* never goes back */
  int (*random)(void *ctx, void *buf, size_t len);
  /* As realloc(): NULL allocates, 0 frees and returns NULL. 16-byte aligned. NULL on shortage. */
  void *(*realloc)(void *ctx, void *p, size_t len);

  /* Threads. Both NULL: the engine starts none, and background work happens in commits and in sdb_step(). */

  /* Starts run(arg) in a new thread. SDB_NO_MEMORY. */
  int (*thread_start)(void *ctx, void (*run)(void *arg), void *arg, void **thread);
  /* Waits for its end and releases it. */
  void (*thread_join)(void *ctx, void *thread);

  /* Since version 1, but a table may leave them out: NULL. */

  /* Pace of large writes. Begins to bring to the device what was written in the range, so that a later sync finds little to do;
   * with `wait` it returns when that is done. Promises nothing: only `sync` makes durable. SDB_IO counts as a failed sync. NULL:
   * the engine syncs every 2 MB instead. */
  int (*write_back)(sdb_file *file, uint64_t offset, uint64_t len, bool wait);

  /* true when the file was opened by another process, that is, in a child after fork(). Asked at the beginning of every call of a
   * database, so it must be fast. NULL: never, as in memory that the child has a copy of. */
  bool (*inherited)(const sdb_file *file);
  /* The range will be read soon: begins to fetch it and does not wait. A hint: it fails without a word. */
  void (*prefetch)(sdb_file *file, uint64_t offset, uint64_t len);
  /* Called before any `map` of the file: from now on a page of a mapping that the device cannot give reads as zeros instead of
   * ending the process, and before anybody sees them `fault(user)` is called, in the thread that touched the page and possibly
   * inside a signal handler: it only changes atomic variables. SDB_IO, SDB_NO_MEMORY. */
  int (*guard)(sdb_file *file, void (*fault)(void *user), void *user);
  /* Gives a range inside the file, which may have been punched, space that later writes will not run out of; what it reads as does
   * not matter. NULL: the engine punches nothing out of the data file. SDB_FULL, SDB_IO. */
  int (*fill)(sdb_file *file, uint64_t offset, uint64_t len);
  /* The space that the file takes on the device, in bytes: less than its size where ranges were punched out. */
  int (*get_allocated)(sdb_file *file, uint64_t *bytes);
  /* Writes a few words into `buf` that tell others who this process is, NUL-terminated: what NAME.lock says, for whoever is told
   * SDB_LOCKED. NULL: there is no NAME.lock. */
  void (*holder)(void *ctx, char *buf, size_t len);
} sdb_storage;

/* Files of the operating system. One table for the whole process, without state. */
SDB_API const sdb_storage *sdb_storage_file(void);

/* A new, empty set of files in memory; released with sdb_storage_memory_free() after the last database on it is closed. NULL on
 * shortage. The same set can be opened again after a close. */
SDB_API sdb_storage *sdb_storage_memory_new(void);
SDB_API void sdb_storage_memory_free(sdb_storage *storage);

#ifdef __cplusplus
}
#endif
#endif
