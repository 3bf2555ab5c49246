/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* extent.h - large contents: written once, straight to the data file, in constant memory; read whole, in part, or as a stream.
 * Layout: docs/file-format.md, section 7.
 *
 *     runs on the device       | run 0               | run 1      | run 2  |
 *     one string of bytes      | head: identity, path, runs, chunk table | chunk 0 (of 64 KB) | chunk 1 | ... | last |
 */
#ifndef SDB_EXTENT_H
#define SDB_EXTENT_H

#include "record.h"

typedef struct extent_writer extent_writer;

/* Begins a content for that path. `size` is exact, or SDB_UNKNOWN_SIZE (then at most `most` bytes will come). `compress`: chunks
 * are stored compressed where it pays. Reserves space. */
int extent_begin(env *e, pager *p, const void *path, uint16_t path_len, uint64_t size, uint64_t most, bool compress,
                 extent_writer **w);
/* Calls `room` when the file is full while the content grows: true, if trying again makes sense. */
void extent_when_full(extent_writer *w, bool (*room)(void *user), void *user);
/* Appends content. SDB_FULL, SDB_IO, SDB_TOO_LARGE (more than was announced), SDB_NO_MEMORY. */
int extent_write(extent_writer *w, const void *data, size_t len);
/* Writes the last chunk and gives back space that was not needed; no more content after it. */
int extent_end(extent_writer *w);
/* Writes the head for that identity and syncs everything, or owes that to the next write of the log (pager_owe_sync): afterwards a
 * log record may name the extent (I4). May be repeated. */
int extent_seal(extent_writer *w, const record *r);
uint64_t extent_written(const extent_writer *w);
uint32_t extent_digest(const extent_writer *w);
/* Some chunk is compressed: the record must say so (RECORD_SNAPPY). */
bool extent_packed(const extent_writer *w);
const run_list *extent_runs(const extent_writer *w);
/* The commit took the runs over. */
void extent_keep(extent_writer *w);
/* Releases the writer; runs that nobody took over are free again. Takes NULL. */
void extent_drop(extent_writer *w);

/* Reads the whole content into `buf` (r->size bytes) and compares its digest; `check` false: does not. */
int extent_read(env *e, pager *p, const record *r, void *buf, bool check);

/* An open content: runs and chunk table, for reading parts. `check` false: chunks are not compared with their checksums. */
typedef struct extent_reader extent_reader;
int extent_open(env *e, pager *p, const record *r, bool check, extent_reader **x);
/* The same of a content whose head is damaged, where it is stored as it is: its chunks are compared with nothing, so their digest
 * must be. SDB_CORRUPT: compressed or encrypted, nothing can be read without the head. */
int extent_open_headless(env *e, pager *p, const record *r, extent_reader **x);
/* Chunk `index` into `buf` (SDB_CHUNK bytes of room); *len: its bytes. */
int extent_chunk(extent_reader *x, uint32_t index, void *buf, size_t *len);
uint32_t extent_chunks(const extent_reader *x);
void extent_close(extent_reader *x);
/* Whether the runs that a record names hold the extent of that very version. SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY. */
int extent_verify(env *e, pager *p, const record *r);

#endif
