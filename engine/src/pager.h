/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager.h - logical pages over the data file: map, versions, cache, free space, checkpoint. page.h is what trees and heap see of
 * it.
 *
 * The map in memory: one atomic word a logical page.
 *
 *     word ----> 0                      no such page
 *          ----> place | kind           clean: its bytes are at that physical page
 *          ----> frame v9 --> frame v6 --> base (place)
 *                newest      older         the page as the last checkpoint has it
 *
 * A frame knows the version that made it and its predecessor. A reader of view v follows the chain to the first frame that is not
 * newer than v; it takes no lock. The writer never changes a frame that a view can reach: it puts a new one in front (I2, and
 * "published bytes never change"). Versions count published groups of commits, in memory only.
 *
 * What keeps a superseded frame, or a freed run of physical pages, from being used again:
 *   pins       snapshots: a list of versions under a lock (pager_pin). The checkpoint is one of them.
 *   epochs     readers inside pager_enter/leave: a slot a thread with the global epoch it saw. (Fraser, "Practical lock-freedom",
 *              2004.)
 *   slots      a run freed by version w stays until a checkpoint of version >= w has both header slots synced (I3).
 *
 * Locks: `lock`, the writer's, is held for short pieces of work without any sync; commits hold it while they judge and apply.
 */
#ifndef SDB_PAGER_H
#define SDB_PAGER_H

#include "base.h"
#include "layout.h"
#include "page.h"

typedef struct pager pager;
struct frame;

typedef struct run {
  uint32_t start, count; /* physical pages */
} run;

typedef struct pager_config {
  uint32_t cache_pages;
  uint64_t max_bytes;
  bool use_mmap;
  bool fault_guard;
  bool read_only;
  const uint8_t *key; /* the user's, or the recovery key; NULL: none. Not kept */
  bool recovery;
  uint32_t cipher; /* of a new file */
} pager_config;

/* --- Life --------------------------------------------------------------------------------------------------------------------- */

/* Prepares an empty data file in `file`; `first` says page size, id, epoch and time. There is no database before the first
 * checkpoint, whose roots must name a path tree and a table. */
int pager_create(env *e, sdb_file *file, const pager_config *config, const header *first, pager **pager);

/* Reads the slots and judges them (docs/file-format.md, section 13). The header that counts is pager_header(). Writes nothing. */
int pager_open(env *e, sdb_file *file, const pager_config *config, pager **pager);
/* Makes both slots equal, durably, where they may not be: before anything else is written, and after everything has been judged
 * that can refuse the database. */
int pager_settle(pager *p);
/* For repair: a file of which nothing is known but page size, length and, for the key, what `h` says. Only pager_read_run and what
 * says how large it is may be called. SDB_WRONG_KEY. */
int pager_raw(env *e, sdb_file *file, const pager_config *config, const header *h, pager **pager);
/* Frees memory; writes nothing. Takes NULL. */
void pager_close(pager *p);

/* --- Readers ------------------------------------------------------------------------------------------------------------------ */

/* Between enter and leave pointers from page_read stay good. Cheap, no lock; must not nest; keep it short. Returns a slot number.
 */
unsigned pager_enter(pager *p);
void pager_leave(pager *p, unsigned slot);
/* Since the slot was entered a mapped page could not be read: what was seen may be zeros, and no answer may rest on it. */
bool pager_faulted(const pager *p, unsigned slot);
uint64_t pager_faults(const pager *p); /* so far, for who cannot enter. What was read before the call stays before it */
int pager_fault_error(pager *p);       /* the code and sentence for that */
/* The newest published view. Load it after entering. */
uint64_t pager_published(const pager *p);
/* Keeps the view readable until unpinned: for snapshots, cursors, readers. Returns the view pinned, the newest published; 0 when
 * out of memory. `sequence` may be NULL: the last commit that the view contains. Constant time. */
uint64_t pager_pin(pager *p, uint64_t *sequence);
/* Once more, for a view that somebody keeps pinned meanwhile. */
void pager_pin_again(pager *p, uint64_t view);
void pager_unpin(pager *p, uint64_t view);

/* Reads bytes of a run of physical pages (extents): `offset` counts from the run's beginning. */
int pager_read_run(pager *p, run r, uint64_t offset, void *buf, size_t len);
/* Bytes of a run will be read soon: the device may begin to fetch them. Does nothing with a mapping (the system reads ahead). */
bool pager_reads_ahead(const pager *p);
void pager_prefetch_run(pager *p, run r, uint64_t offset, uint64_t len);
/* Writes into a reserved run, and makes all that was written to the data file durable. */
int pager_write_run(pager *p, run r, uint64_t offset, const void *bytes, size_t len);
int pager_sync(pager *p);
/* Postpones a sync: the writer owes one before a log record names what it wrote. Many share it: pager_sync_owed, called before log
 * records are written, syncs once for all. */
void pager_owe_sync(pager *p);
int pager_sync_owed(pager *p);
/* Called behind every write to the data file: keeps what the device has queued small and on its way, so that neither commits that
 * sync the log beside it nor the sync at the end have long to wait. */
int pager_pace(pager *p, uint64_t offset, size_t len);
/* The same bytes in the mapping, or NULL without one. Valid while the run is kept from reuse. */
const uint8_t *pager_run_bytes(pager *p, run r, uint64_t offset);

/* Where a page that is read in the mapping stands in the data file; 0: it is not, at the moment. */
uint64_t pager_position(pager *p, uint32_t number);
/* Has the processor fetch bytes of the data file that will probably be read in the mapping. Returns where they are, or NULL; they
 * are not to be read there. */
const uint8_t *pager_fetch(const pager *p, uint64_t offset, uint32_t len);

/* The cache as configured, and whether clean pages are read in the mapping and take none of it. */
uint64_t pager_cache_bytes(const pager *p);
bool pager_mapped(const pager *p);
/* From now on pages may take that much less of the cache: the caller uses it otherwise. */
void pager_cache_lend(pager *p, uint64_t bytes);

/* Buffers for changed pages, of memory that the system has already given: to get it while a page is being copied takes longer than
 * the copy. pager_stock makes them beside everything else, when there are few. */
bool pager_stock_low(const pager *p);
void pager_stock(pager *p);

/* --- The writer --------------------------------------------------------------------------------------------------------------- */

/* From here on, until the end or another begin, pages that the writer has read can be read again without memory and device,
 * whatever is evicted meanwhile: who takes changes back goes the ways that he came. Within one stay in the pager. */
void pager_keep_begin(struct pager *p);
void pager_keep_end(struct pager *p);

void pager_lock(pager *p);
bool pager_try_lock(pager *p);
/* As pager_lock, but false, and not taken, when the reason for it goes while it is waited for. */
bool pager_lock_while(pager *p, const atomic_bool *reason);
void pager_unlock(pager *p);
struct mutex *pager_mutex(pager *p);

/* Closes the version that collects changes and returns its number; it may be published when its log is as durable as was asked. */
uint64_t pager_close_version(pager *p);
/* Makes the version visible. Versions are published in order. `sequence`: the last commit that it contains. As long as nobody can
 * read (recovery) the open version may be published too: then its pages are changed where they are and written ahead all the same.
 */
void pager_publish(pager *p, uint64_t version, uint64_t sequence);
/* The version that collects changes now. */
uint64_t pager_open_version(const pager *p);
/* Any changes since the last close? */
bool pager_open_version_used(const pager *p);

/* Makes room in the lists for a commit that uses or frees `runs` runs and changes live bytes of as many pages, so that
 * nothing below can fail; and refuses (SDB_FULL) when, `pages` more being taken, a checkpoint might not find space. `freeing`
 * operations may use the reserve. */
int pager_admit(pager *p, size_t runs, uint32_t pages, bool freeing);
/* For the cleaner, which takes pages to free more of them: as above, but out of the reserve, as long as the next checkpoint finds
 * places and deletes find half of theirs. */
int pager_admit_moving(pager *p, size_t runs, uint32_t pages);

/* A heap page to append to in place: bytes beyond its fill are invisible to all views, so no copy is needed unless a checkpoint has
 * taken the page as it stands. */
int pager_append(pager *p, uint32_t number, uint8_t **page);
/* Live bytes of a heap page. */
void pager_live_add(pager *p, uint32_t number, int32_t bytes);
uint32_t pager_live(pager *p, uint32_t number);

/* Physical runs for extents: reserved in memory until used or given back. At most `want` pages, at least `least`. */
int pager_reserve_run(pager *p, uint32_t want, uint32_t least, run *r);
void pager_give_back(pager *p, run r);
/* The commit being applied names the run (reserves it as well when recovery does so), or drops it. */
void pager_use_run(pager *p, run r);
void pager_free_run(pager *p, run r);
/* Before freeing: loads what says who uses those pages, so that freeing cannot fail. SDB_CORRUPT: not pages that a document
 * can have. */
int pager_know_run(pager *p, run r);
/* Recovery: nobody may be given these pages. SDB_INVALID when they are outside the file or taken by something else; SDB_CORRUPT
 * when what says so is damaged. */
int pager_hold_run(pager *p, run r);

/* --- Background --------------------------------------------------------------------------------------------------------------- */

/* Writes dirty pages to their new places ahead of the checkpoint: full heap pages, which never change again, as soon as they are
 * enough for a unit of the file; others, the oldest first, when dirty pages fill most of the cache and only if they are published.
 * Called without the lock, by one thread at a time. *more: there are still too many. */
int pager_spill(pager *p, unsigned budget, bool *more);
/* Its three parts, for who goes on meanwhile: under the lock *some pages get their places; they are written by anybody, without the
 * lock; under the lock again they count as written, or not. */
int pager_ahead_choose(pager *p, unsigned budget, bool *some);
int pager_ahead_write(pager *p);
void pager_ahead_settle(pager *p);
/* True when there is something to write ahead, and so much that commits have to help. Under the lock. */
bool pager_spill_due(const pager *p);
bool pager_crowded(const pager *p);
/* True when dirty pages of all kinds are to be written ahead. Under the lock. */
bool pager_mostly_dirty(const pager *p);
/* True when the open version keeps many copies of changed pages in memory, which go when it is published. Under the lock. */
bool pager_version_heavy(const pager *p);
/* True when a checkpoint should free space soon: there are hardly more free pages than it needs itself. Under the lock. */
bool pager_starved(const pager *p);
/* True when somebody was refused space since the last checkpoint began. Under the lock. */
bool pager_refused(const pager *p);

/* A checkpoint, in steps; one at a time.
 *   begin    under the lock, at a moment between commits: fixes the state (`roots`, the open version is closed). Returns its
 *            version, which the caller must publish (once the log is synced) before the first step. `trim`: the file is cut behind
 *            its last used page; else only when half of it is free.
 *   step     without the lock: writes at most `budget` units; *done after the last page, chunk and directory is written and synced.
 *   commit   without the lock: writes slot A, syncs, slot B, syncs.
 *   end      under the lock: the new state counts (ok) or is forgotten; freed space becomes usable. */
uint64_t pager_checkpoint_begin(pager *p, const roots *r, bool trim);
int pager_checkpoint_step(pager *p, unsigned budget, bool *done);
int pager_checkpoint_commit(pager *p, const log_place *place, bool clean);
void pager_checkpoint_end(pager *p, bool ok);
/* Gives free runs of 1 MB and more back to the device: begin under the lock, when a checkpoint has ended; then some runs a call,
 * without the lock, by one thread at a time. True: perhaps more. Unless `all`, what the next checkpoint's time will take again, as
 * far as the last ones tell, is left. */
void pager_punch_begin(pager *p, bool all);
bool pager_punch(pager *p, unsigned budget);
/* Free pages are so many that it is worth while. Under the lock. */
bool pager_spacious(const pager *p);
/* The place from which on used pages fit into free places before it; 0: free space is not so scattered that it is worth while.
 * Under the lock. Then pages from there on are brought to lower places with the next checkpoint, `words` words a call, as changes
 * of the open version. SDB_END: the last one was reached. Under the lock, inside enter/leave. */
uint32_t pager_gather_bound(pager *p);
int pager_gather(pager *p, uint32_t bound, uint32_t *cursor, uint32_t words);
/* Rewrites both slots without the "clean" mark: the first change after a clean open. */
int pager_mark_unclean(pager *p, const log_place *place);
/* Wraps the data key under another of the user's, in both slots. Under the lock, no checkpoint running. */
int pager_change_key(pager *p, const uint8_t *key);
/* The data key; false: there is none. */
bool pager_data_key(const pager *p, uint8_t *key);
/* For the cleaner: adds up the room of heap pages that is not live, from *cursor on, by how much of each is; looks at `words`
 * words. SDB_END: the end was reached. Under the lock, inside enter/leave. */
enum { HEAP_CLASSES = 24 };
int pager_count_sparse(pager *p, uint32_t *cursor, uint32_t words, uint64_t dead[HEAP_CLASSES]);
/* The next heap page from *cursor on whose live bytes are below `below`; looks at `words` words at most.
 * SDB_NOT_FOUND: none among those; SDB_END: the end was reached. Under the lock, inside enter/leave. */
int pager_next_sparse(pager *p, uint32_t *cursor, uint32_t words, uint32_t below, uint32_t *number);

/* A copy of the last complete checkpoint is being made: what it reaches is not used again until thawed, whatever is freed
 * meanwhile. Nests. Under the lock. */
void pager_freeze(pager *p);
void pager_thaw(pager *p);

/* --- Pages that nothing reaches ----------------------------------------------------------------------------------------------- */

/* For sweeping trees; all under the lock. A set of logical pages, empty at first, from which every page that is freed is taken out,
 * so that a number that is used again is not in it. SDB_NO_MEMORY. */
int pager_doom_begin(pager *p);
/* Puts in the pages of trees among `words` numbers from *cursor on. SDB_END: all were looked at. */
int pager_doom_trees(pager *p, uint32_t *cursor, uint32_t words);
void pager_doom_spare(pager *p, uint32_t number);
/* The first of the set from *cursor on; false: there is none. */
bool pager_doomed(pager *p, uint32_t *cursor);
void pager_doom_end(pager *p);
/* The oldest view that anybody can be reading. */
uint64_t pager_oldest_view(pager *p);

/* Physical pages that no document has, because the record that named them was damaged when it was replaced or dropped; all under
 * the lock. A set: at first the pages in use that hold no logical page, which are those of large contents. From there on every page
 * that is freed goes out of it by itself, and none comes in; the caller spares what documents have. */
/* The next part, from *cursor 0 on; waits, with SDB_OK, while a checkpoint runs. SDB_END: that was the last one. */
int pager_orphans_mark(pager *p, uint32_t *cursor);
void pager_orphans_spare(pager *p, run r);
/* The first run of the set from *cursor on, to be freed. SDB_END: there is none; SDB_BUSY: a checkpoint runs, and what was freed
 * meanwhile may still be in the set. */
int pager_orphans_next(pager *p, uint32_t *cursor, run *r);
bool pager_orphans_any(const pager *p); /* is somebody looking for them? */
void pager_orphans_end(pager *p);

/* --- Quarantine (pager_quarantine.c) ------------------------------------------------------------------------------------------ */

/* A physical page that was found damaged while something refers to it. Kept in memory only: on disk it is used, because it is
 * reached, and so nobody is given it, also after a crash (I3); who is damaged is found out again by the next touch or scrub. */
struct quarantined {
  uint32_t place, number; /* physical page; logical page, 0 for one of an extent */
  uint8_t kind;
};

/* For scrubbing. The page *number as it stands in the file, inside enter and leave; *number becomes the next to be looked at.
 * `buf`: page_size bytes. SDB_NOT_FOUND: there is none in the file; SDB_END: no further; SDB_CORRUPT, SDB_IO. */
int pager_scrub_page(pager *p, uint32_t *number, uint8_t *buf);
/* The same for directories, map and bitmap chunks, counted from 0. While no checkpoint makes progress. *mends: what is damaged is
 * in memory, and the next checkpoint writes it to its other place. */
int pager_scrub_fixed(pager *p, uint32_t *index, uint8_t *buf, bool *mends);

/* Any thread, any lock held. Does nothing when it is known already, or memory is short. */
void pager_quarantine(pager *p, uint32_t place, uint32_t number, uint8_t kind);
/* Nothing refers to the place any more, or it has been read whole since. */
void pager_lift(pager *p, uint32_t place);
uint64_t pager_quarantined(const pager *p);
/* The first entry whose place is not below. False: there is none. */
bool pager_next_quarantined(pager *p, uint32_t from, struct quarantined *q);

/* --- Looking at it ------------------------------------------------------------------------------------------------------------ */

const header *pager_header(const pager *p); /* of the last complete checkpoint. Under the lock */
const geometry *pager_geometry(const pager *p);

typedef struct pager_stats {
  uint64_t file_bytes, allocated_bytes, free_pages, dirty_pages, cached_pages, hits, misses, faults, logical_pages;
  uint64_t pins, oldest_sequence, oldest_us; /* the oldest pin: last commit in its view, time since it was pinned; 0: none */
  uint64_t pinned_pages;                     /* versions of pages, and freed pages, that only pins keep */
} pager_stats;
void pager_get_stats(pager *p, pager_stats *s);

/* Tells of header slots that do not verify; while one does, the next open for writing repairs the other. Nobody may be writing
 * them. */
void pager_check_slots(pager *p, void (*problem)(void *user, const char *sentence), void *user);
/* For check: walks logical pages in use in the writer's state (number, kind, place or 0 when not on disk, live bytes). Under the
 * lock, inside enter/leave. */
int pager_walk(pager *p, int (*visit)(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live), void *user);
enum page_state { STATE_FREE, STATE_USED, STATE_HELD };
/* What the bitmap (with what is held in memory) says of a physical page. Under the lock. */
int pager_page_state(pager *p, uint32_t physical, enum page_state *state);
bool pager_page_fixed(const pager *p, uint32_t physical);
uint32_t pager_pages_total(const pager *p);
uint64_t pager_logical_limit(const pager *p);
/* Pages were changed since the last checkpoint: what is used on disk is not what is reached now. Under the lock. */
bool pager_changed(const pager *p);
/* Verifies the stored bytes of all directories, map and bitmap chunks against their checksums. */
int pager_check_chunks(pager *p, void (*problem)(void *user, const char *sentence), void *user);

#endif
