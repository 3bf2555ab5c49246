/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* db.h - an open database: what document, commit, background work, recovery, check and api share.
 *
 * Locks, outermost first:
 *   work       whoever runs background steps (checkpoint, spill, cleaner): the engine's thread, a commit that helps, sdb_step
 *   writer     pager_lock: judging and applying commits. Not held over a sync, but for a session's first commit, which takes the
 *              mark of a clean close off the slots, and a change of the key; nothing is lazily visible then, so no read needs it
 *   log owner  log_own: writing and syncing the log
 *   turn       the leader of a group commit, and those who wait for it
 */
#ifndef SDB_DB_H
#define SDB_DB_H

#include "compress.h"
#include "extent.h"
#include "heap.h"
#include "hints.h"
#include "log.h"
#include "table.h"
#include "tree.h"

/* Somebody is about to commit a large document there: others wait, so that its version can be written into the extent first. */
struct claim {
  struct claim *next;
  uint64_t document;
  const void *path;
  size_t path_len;
};

enum { RANDOM_POOL = 512, EXPIRY_KEY = 13 };

/* Building the suffix tree; see suffix.c. */
struct suffix_work {
  bool placed; /* `path` is known; else it is to be found from the roots */
  size_t len;  /* 0: at the beginning */
  uint8_t path[SDB_MAX_PATH];
  uint64_t unsaved;  /* names added since a checkpoint was asked for */
  uint64_t after_us; /* not before: something failed */
};

/* A pass over everything; see scrub.c. Under `work`, but for what statistics read. */
struct scrub {
  atomic_bool wanted, running;
  _Atomic uint64_t passes, done, all, problems;
  _Atomic uint64_t due_us; /* next step; while none runs: next pass by the interval */
  unsigned phase;
  uint32_t cursor;   /* fixed place, page, or which tree */
  uint64_t document; /* and of a large one what comes next: */
  uint32_t version;  /* 0: from the current one on */
  uint32_t newest;   /* the current version when it was begun */
  uint32_t chunk;
  uint8_t *buf; /* SDB_CHUNK */
  struct held_page {
    uint32_t place, number;
    bool referred; /* by a document that was looked at */
  } * held;        /* damaged heap pages when the documents were begun */
  size_t held_count, held_cap;
  size_t key_len;
  uint8_t key[SDB_MAX_PATH];
  /* Under the writer's lock: documents below `counted` have so many bytes of content. 0: nothing is being counted. */
  uint64_t counted, bytes;
  bool again; /* since room is being counted something was given up, or could not be looked at: the next pass counts anew */
};

/* Making damaged trees again; see rebuild.c. Under the writer's lock. */
struct rebuild {
  bool given_up;            /* names are lost with their records: only a repair can tell which */
  uint64_t after_us;        /* not before: something failed */
  bool unreadable;          /* something that may have names could not be read */
  bool untimed;             /* ... that may have the time of a document */
  uint64_t expiry_after_us; /* not before: there was */
  bool ready;               /* the fresh tree is complete: the next checkpoint switches */
  bool switching;           /* the checkpoint that runs does */
  bool walking;             /* the old path tree is gone through, from `key` on */
  enum { SWEEP_BEGIN, SWEEP_MARK, SWEEP_SPARE, SWEEP_FREE } sweep;
  unsigned tree; /* which one is gone through */
  uint32_t cursor;
  size_t key_len;
  bool key_after;
  uint8_t key[SDB_MAX_PATH];
};

/* Of the heap; see clean.c. Classes are HEAP_CLASSES parts of a page's room. */
struct cleaner {
  enum { CLEAN_REST, CLEAN_LOOK, CLEAN_MOVE } phase;
  bool all;                    /* every sparse page, whatever the garbage */
  uint32_t cursor;             /* next page of this pass */
  uint64_t end;                /* of the pages in it */
  uint32_t below, most;        /* pages below that class go in this round, at most those below that one in any */
  uint32_t emptied, opened;    /* pages in this round */
  uint64_t dead[HEAP_CLASSES]; /* bytes in pages of each class */
  uint64_t left;               /* garbage that the last round through all sparse pages left */
  uint64_t futile;             /* last commit when it found none to empty */
};

struct counters {
  atomic_uint_fast64_t puts, gets, deletes, commits, syncs, checkpoints, unchecked;
};

/* Reads that somebody asked for and will be told about (api_async.c). */
struct async {
  struct mutex lock;
  struct cond work; /* there is a request, or the end */
  struct cond done; /* a request has been served while the end is awaited */
  struct request *first, *last;
  uint64_t last_number;
  unsigned waiting; /* requests in the queue */
  unsigned running; /* requests taken out of it whose callback has not returned */
  unsigned resting; /* threads that wait for `work` */
  unsigned started; /* threads */
  void **threads;
  bool stopping;
};

/* Commits whose callers wait for the writer's lock. A round is what one of them takes and runs; its members wait at one gate. */
enum { COMMIT_GATES = 4 };
struct commit_queue {
  struct mutex lock;
  atomic_bool waiting; /* there are some */
  struct commit *first, *last;
  unsigned round;
  struct gate served[COMMIT_GATES];
};

struct sdb {
  env e;
  sdb_storage storage; /* the table given, as env uses it */
  sdb_options options;
  char *name;
  sdb_file *file;
  pager *pager;
  log *log;
  table *table;
  uint64_t epoch;
  hints *hints;

  /* Under the writer's lock: the newest state, published or not. */
  roots roots;
  uint64_t *dropped; /* ring of places of capacity dropped_cap (apply.c) */
  size_t dropped_head, dropped_count, dropped_cap;
  size_t dropped_aside; /* of them, those that the device did not give */
  struct claim *claims;
  struct change *deletes; /* of the commit that is being judged */
  struct cond claim_free;
  uint64_t *free_documents; /* numbers known to be free */
  size_t free_count, free_cap;
  uint64_t free_scan;          /* numbers below were looked at */
  uint8_t random[RANDOM_POOL]; /* for ids: one call to the storage serves many */
  unsigned random_left;
  _Atomic uint64_t suffix_since; /* the suffix tree is complete in views from this one on; all ones: in none */
  _Atomic uint32_t suffix_root;
  /* The path tree: one root in views from `path_since / 2` on, the other before; the lowest bit says which (names.c). */
  _Atomic uint32_t path_roots[2];
  _Atomic uint64_t path_since;
  /* A reader or the scrub met damage there: to be rebuilt (rebuild.c). */
  atomic_bool path_damaged, suffix_damaged, expiry_damaged;
  atomic_bool expiring; /* some document has, or had, a time at which it ends */
  struct suffix_work suffix;
  struct rebuild rebuild;
  struct scrub scrub;
  bool checkpoint_wanted;   /* although the log does not ask for it */
  uint64_t last_sequence;   /* of the last commit appended */
  uint64_t last_durable;    /* of the last that asked for durability */
  uint64_t checkpoint_tail; /* log position of the last checkpoint */
  atomic_bool spoiled;      /* a change could not be taken back: the open version is never shown, nothing more is written */
  atomic_bool lazy;         /* visible to whoever looks: the open version holds only commits that wait for no sync */
  atomic_uint beside;       /* so many commits are still published when they end, because readers came while one was made */

  /* Group commit. Who waits belongs to the group that is on its way or to the one behind it: each has a gate of its own, so that
   * the end of a group wakes its members and one of the next, who leads that. */
  struct mutex turn;
  struct gate group_done[2];
  unsigned group; /* which of them is on its way */
  bool leader;
  _Atomic uint64_t group_end; /* last sequence in the group on its way; UINT64_MAX while it still takes members */
  _Atomic uint64_t synced_sequence;
  struct commit_queue commits;
  struct mutex feed_lock; /* for those who wait for changes */
  struct cond feed_moved;
  atomic_uint feed_waiters;
  _Atomic uint64_t visible_sequence;

  /* Background. */
  struct mutex work;
  bool checkpointing;
  log_place checkpoint_place;
  uint64_t checkpoint_begun_us;
  _Atomic uint64_t checkpoint_ms;
  uint64_t retry_us;      /* after a checkpoint that failed: not before */
  struct cleaner cleaner; /* under the writer's lock */
  bool punching;          /* free runs are being given back to the device */
  struct mutex bell_lock;
  struct cond bell;
  bool rung, stopping;
  atomic_bool asleep; /* the worker waits for the bell and for nothing else */
  void *worker;
  struct async async;
  bool unsynced;              /* some buffered commit waits for its sync */
  uint64_t unsynced_since_us; /* when the oldest of them was made */
  uint64_t last_commit_us;

  atomic_bool quick; /* reads that begin now do not check contents */
  /* Expiry, under the writer's lock. */
  uint8_t expiry_after[EXPIRY_KEY]; /* where the next step goes on */
  size_t expiry_after_len;
  uint64_t expiry_now_ms, expiry_looked_us, expiry_pause_us;
  bool expiry_looked, expiry_more, expiry_pause;
  _Atomic uint64_t expired; /* documents deleted since open */

  atomic_uint_fast64_t snapshots; /* open */
  bool read_only;
  bool holder_told; /* NAME.lock is ours */
  bool log_damaged; /* the state may lack something that the log has, or had */
  struct {
    uint64_t operations; /* of the log that were left out, because what they change is damaged */
    uint8_t *documents;  /* a bit each below `limit`: nobody knows what it is now */
    uint64_t limit;
  } behind;
  uint64_t recovered;
  struct counters n;
  compress_habit habit; /* of small contents */
};

/* --- holder.c: NAME.lock ------------------------------------------------------------------------------------------------------ */

void holder_tell(sdb *db);
void holder_forget(sdb *db);
/* SDB_LOCKED, and who it is, if that is known. */
int holder_refuse(sdb *db);

/* --- document.c: finding and reading versions --------------------------------------------------------------------------------- */

/* SDB_FORKED in a child of the process that opened the handle. Asked before anything else is touched there: locks may be held by
 * threads that the child does not have, and the parent goes on changing the file. Without a file (an open that failed) it is ours.
 */
static inline int handle_check(const sdb *db) {
  return db->file && db->storage.inherited && db->storage.inherited(db->file) ? SDB_FORKED : SDB_OK;
}
/* The handle can be used, and the path is one. */
int path_check(sdb *db, const void *path, size_t len);
/* The document and table entry that a path leads to in a view. */
int document_entry(sdb *db, uint64_t view, const void *path, size_t len, uint64_t *document, table_entry *entry);
/* The record of a version (SDB_CURRENT or a number) in a view, at a time (0: the clock's): what has expired is not found. */
int document_find(sdb *db, uint64_t view, uint64_t now_ms, const void *path, size_t len, uint32_t version, record *r,
                  table_entry *entry);
/* What to answer when nothing is there: `code`, but SDB_CORRUPT when it may stand in the lost part of a damaged log. */
int absent(sdb *db, int code);
bool record_expired(const sdb *db, const record *r, uint64_t now_ms);
/* A version by its table entry; and its place, without the question whether it can still be read. */
int document_version(sdb *db, uint64_t view, uint64_t document, const table_entry *entry, uint32_t version, record *r);
int document_place(sdb *db, uint64_t view, uint64_t document, const table_entry *entry, uint32_t version, uint64_t *place);
/* All versions from the current one down: looking each up by itself would read half of those before it again. */
typedef struct version_walk {
  uint32_t version; /* the next one */
  uint64_t at[2];   /* where it stands, and the one behind it; 0: not known */
} version_walk;
version_walk document_walk(const table_entry *entry);
/* The next one, and where it stands. SDB_CORRUPT with a place: it does not verify; with 0: nobody knows where it stands. */
int document_walk_next(sdb *db, uint64_t view, uint64_t document, version_walk *w, record *r, uint64_t *place);
/* Replay left something out that the log has about it: it is answered SDB_CORRUPT. */
static inline bool document_behind(const sdb *db, uint64_t document) {
  return document < db->behind.limit && db->behind.documents[document >> 3] >> (document & 7) & 1;
}
/* The oldest version that can be read; `current` NULL: the current record is damaged. */
uint32_t document_oldest(const table_entry *entry, const record *current);
/* entry->oldest must be set. */
void info_fill(sdb_info *info, const record *r, const table_entry *entry);
/* Asked once, when a read begins: is the content to be compared with its checksum? Counts the reads for which it is not. On a
 * damaged page it always is. */
bool content_is_checked(sdb *db, const record *r);

/* --- document_content.c: small contents --------------------------------------------------------------------------------------- */

enum { CONTENT_NEAR = 2048 };
/* A content as it would stand in a record. */
struct content {
  const void *stored; /* the caller's bytes, or packed ones */
  size_t size, stored_len;
  uint32_t digest; /* of the caller's bytes */
  uint16_t flags;  /* RECORD_SNAPPY or none */
  void *memory;
  uint8_t near[CONTENT_NEAR];
};
/* Compresses where it pays; else, and on a shortage of memory, the caller's bytes stay as they are. */
void content_pack(sdb *db, const void *data, size_t len, struct content *c);
void content_drop(sdb *db, struct content *c);
/* The content of a record that is not large into `buf` (r->size bytes); with `check` its digest is compared. */
int content_unpack(sdb *db, const record *r, bool check, void *buf);

/* --- Reads -------------------------------------------------------------------------------------------------------------------- */

/* A state kept readable. Never changes once it is open, so any number of threads may use it. */
struct sdb_snapshot {
  sdb *db;
  uint64_t view;     /* pinned */
  uint64_t sequence; /* last commit it contains */
  uint64_t now_ms;   /* of the opening: what had not expired then has not expired in here */
};

/* A read: enters the pager and says which state it sees: a snapshot's, or (at NULL) the newest, waiting commits made visible. */
typedef struct reading {
  unsigned slot;
  uint64_t view, now_ms; /* now_ms 0: the clock's, if anybody asks */
  bool behind;           /* the newest state was asked for and cannot be shown any more (take_back) */
} reading;
reading reading_begin(sdb *db, const sdb_snapshot *at);
/* Returns what to answer: `rc`, or SDB_IO when a mapped page failed meanwhile, so that what was seen may be zeros, and when what
 * was seen is older than what was acknowledged. */
SDB_MUST_USE int reading_end(sdb *db, reading r, int rc);
/* The same for other stays in the pager, before it is left. */
SDB_MUST_USE int trusted(sdb *db, unsigned slot, int rc);
/* The same for what outlives one stay in the pager (cursors, readers): pins it. `sequence` may be NULL: the last commit it
 * contains. SDB_NO_MEMORY, SDB_IO (as reading_end). */
int reading_pin(sdb *db, const sdb_snapshot *at, uint64_t *view, uint64_t *sequence);

/* --- api.c, api_stream.c, api_cursor.c: every read there is, of now (at NULL) or of a snapshot -------------------------------- */

int read_get(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap,
             size_t *size, sdb_info *info);
int read_get_alloc(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, void **data, size_t *size,
                   sdb_info *info);
int read_get_range(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf,
                   size_t len, size_t *got, sdb_info *info);
int read_stat(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, sdb_info *info);
int read_versions(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, sdb_info *infos, size_t cap, size_t *count);
int read_attributes(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, sdb_attributes *a);
int read_paths_of(sdb *db, const sdb_snapshot *at, const uint8_t id[16], sdb_path **paths, size_t *count);
int reader_open(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, sdb_reader **reader);
int cursor_open(sdb *db, const sdb_snapshot *at, const sdb_cursor_options *o, sdb_cursor **cursor);

/* --- names.c: the paths of documents ------------------------------------------------------------------------------------------ */

/* The writer's, inside pager_enter/leave. Both trees change, or none. A name that is added must not exist (look it up first), and
 * `document` is the one that it leads to. Each counts in the roots. Within the same stay in the pager (change_enter) every sequence
 * of them can be undone backwards, which takes neither memory nor reads from a file; where it fails all the same, because a mapped
 * page cannot be had any more, the handle is done for (take_back). */
int names_add(sdb *db, const void *path, size_t len, uint64_t document);
int names_remove(sdb *db, const void *path, size_t len, uint64_t document); /* SDB_NOT_FOUND: there is no such path */
void names_undo_add(sdb *db, const void *path, size_t len, uint64_t document);
void names_undo_remove(sdb *db, const void *path, size_t len, uint64_t document);
/* After removals that stand: merges pages where little is left. Best effort. */
void names_tidy(sdb *db, const void *path, size_t len);
/* What the roots say of the suffix tree is so from now on (opening, complete, dropped); complete in views from `since` on. */
void names_publish_suffix(sdb *db, uint64_t since);
/* For building: the entry of one name, unless it is there. */
int names_index(sdb *db, const void *path, size_t len, uint64_t document);
/* From here on nothing follows or reads the suffix tree: it is to be dropped. */
void names_give_up_suffix(sdb *db);
/* The same of the tree that was going to be the path tree. */
void names_give_up_fresh(sdb *db);
/* The suffix tree, when it is complete in that view. SDB_BUILDING, SDB_INVALID: there is none. Any thread. */
int names_suffix_tree(sdb *db, uint64_t view, uint32_t *root);

/* The path tree as it stands in that view. Any thread. */
uint32_t names_path_tree(const sdb *db, uint64_t view);
/* From the open version on it is that one (opening: in all views). */
void names_publish_path(sdb *db, uint32_t root, bool opening);
/* What a path leads to in that view; damage met there is noted. As tree_get. */
int names_get(sdb *db, uint64_t view, const void *path, size_t len, uint64_t *document);
/* A search met damage in the tree with that root. */
void names_note_damage(sdb *db, uint32_t root);

/* --- Operations and commits --------------------------------------------------------------------------------------------------- */

/* Codes as in a log record (docs/file-format.md, section 10); OP_EXPECT is a condition alone and stands in no log. */
enum { OP_EXPECT = 0, OP_PUT = 1, OP_DELETE = 2, OP_BIND = 3, OP_UNBIND = 4, OP_NAMES_HEAD = 22 };
enum { CAUSE_CALLER = 0, CAUSE_EXPIRED = 1 };

/* One operation of a commit: what was asked, what was found, what was decided, and what it takes to undo it. */
struct change {
  /* Asked. */
  uint8_t op, cause;
  const void *path; /* the name used; NULL: by id */
  size_t path_len;
  const uint8_t *id; /* 16 bytes */
  const void *name;  /* bind: the further name; unbind: the one that goes */
  size_t name_len;
  uint32_t expect;
  extent_writer *extent; /* put of a large content */
  record r;              /* put: content and sections; after applying: the record as it stands */

  /* Found: the state before. */
  uint64_t document; /* 0: none */
  table_entry entry;
  record old; /* the current one, with has_old */
  bool has_old, expired;
  uint64_t stray; /* the path led to this document, which does not have the name */
  record named;   /* delete: only names, those that go */

  /* Decided. */
  bool decided; /* number, id, version and time stand: a rehearsal fixed them */
  bool created, repeated;
  uint64_t number;       /* of a new document */
  struct change *before; /* the expired document that has to go first */

  /* Applied. */
  bool done;
  uint64_t place, removed; /* of the new record; a bit a name of `named` */
  uint8_t *bytes, *at;     /* where that record is written, and the document's entry in the table */
  void *scratch;
  uint64_t documents, content_bytes;
  size_t dropped;
  struct change *next_delete;

  struct claim claims[2];
  int code; /* SDB_OK, or SDB_NOT_FOUND where a lenient commit goes on */
  sdb_commit result;
};

/* --- apply.c: changing the state, for commits and for replay ------------------------------------------------------------------ */

/* All or nothing each, under the writer's lock. */
int apply_put(sdb *db, struct change *c);
int apply_delete(sdb *db, struct change *c);
int apply_names(sdb *db, struct change *c); /* bind, unbind */
/* Takes back what was applied, in the reverse order, before the lock was given up. Cannot fail. */
void apply_undo(sdb *db, struct change *c);
/* Once the log has it. */
void apply_end(sdb *db, struct change *c);
/* Takes back the space of at most `budget` dropped records. What the device does not give is set aside: no reason to fail. */
int collect(sdb *db, unsigned budget);
/* Of all, so that the ring is empty. SDB_IO: some that the device does not give have been set aside just now; the next time they
 * are given up (roots.recount). */
int collect_all(sdb *db);
/* Something that was damaged or is not given has been replaced or dropped: a scrub has to count. */
void note_lost(sdb *db);
/* Is there one of that heap page? */
bool dropped_in(const sdb *db, uint32_t page);
/* The time of a document that expires, into the expiry tree. */
int expiry_note(sdb *db, uint64_t ms, uint64_t document);
int document_number(sdb *db, uint64_t *number);
void document_number_return(sdb *db, uint64_t number);

/* --- judge.c: what an operation means in the newest state --------------------------------------------------------------------- */

/* Judges and applies one operation; undone already when it fails. `now_ms`: of the commit. `lenient`: what is not there need not be
 * removed. Writer's lock held. */
int judge(sdb *db, struct change *c, uint64_t now_ms, bool lenient);
void judge_undo(sdb *db, struct change *c);
/* Waits until nobody else is about to write a large content to one of the documents. The lock is given up meanwhile. */
int claims_wait(sdb *db, struct change *ops, unsigned count, unsigned *slot);
void claims_take(sdb *db, struct change *ops, unsigned count);
void claims_release(sdb *db, struct change *ops, unsigned count);

/* --- commit.c ----------------------------------------------------------------------------------------------------------------- */

/* What a commit sees of the background's backlog: is there work, and is it so much that commits have to help? */
struct pressure {
  bool work, help;
  bool suffix;    /* a suffix tree is being made or dropped */
  bool sync;      /* the first commit that is to be synced within the interval: the thread may mean to sleep for longer */
  unsigned clean; /* how many steps of the cleaner the commit has to do */
};

struct commit {
  struct change *ops;
  unsigned count;
  sdb_durability durability;
  bool defer;
  bool lenient;
  bool background; /* does not help with background work */
  unsigned failed; /* which operation; count: none of them */

  /* What came of it, for its caller to act on without the lock. */
  int rc;
  bool changed;
  bool done_before;  /* there was nothing left to do */
  uint64_t seen;     /* the newest commit when it was judged, itself included */
  uint64_t wait_for; /* the commit whose sync it awaits; 0: none */
  struct pressure pressure;
  /* commit_queue.c */
  struct commit *next;
  atomic_int state;
};

/* Is the newest state that after some commit (take_back)? Else nobody may go by it, nor store it: SDB_SYNC_FAILED. Writer's lock
 * held: the answer holds as long. */
int whole_check(sdb *db);
/* May the handle write? Starts the log at the first write after an open. Writer's lock held. */
int commit_ready(sdb *db);
sdb_durability durability_of(const sdb *db, sdb_durability asked);
/* Judges, applies, logs and waits as long as was asked; all operations or none. */
int commit_run(sdb *db, struct commit *q);
/* The part under the writer's lock, which is held; what came of it stands in the commit. May give the lock up meanwhile where
 * commit_would_wait says so, and for large contents. */
void commit_locked(sdb *db, struct commit *q);
bool commit_would_wait(sdb *db, const struct commit *q);
/* Returns when everything up to `sequence` is durable and visible. */
int wait_durable(sdb *db, uint64_t sequence);
/* Commits up to `sequence` are durable and visible now: tells whoever wants to know. The leader only. */
void note_synced(sdb *db, uint64_t sequence);
/* Everything up to `sequence` is visible; others may have said more meanwhile. */
void note_visible(sdb *db, uint64_t sequence);
/* Makes lazily visible commits visible now. Writer's lock held. */
void publish_lazy(sdb *db);
/* How many commits are, after a reader who came while one was made. */
enum { COMMITS_BESIDE = 8 };
/* A change of places only (cleaner): becomes visible with the next publication. Writer's lock held. */
void note_unlogged(sdb *db);
/* What became of a step back. Failed, the newest state is neither that before the change nor that after: nobody is shown it, and as
 * after a failed sync nothing more is written; what was acknowledged is in the log. */
static inline void take_back(sdb *db, int rc) {
  if (rc == SDB_OK) return;
  atomic_store(&db->spoiled, true);
  atomic_store(&db->e.sync_failed, true);
}
/* A commit's stay in the pager, under the writer's lock: what it reads can be read again, so that it can be undone. */
static inline unsigned change_enter(sdb *db) {
  unsigned slot = pager_enter(db->pager);
  pager_keep_begin(db->pager);
  return slot;
}
static inline void change_leave(sdb *db, unsigned slot) {
  pager_keep_end(db->pager);
  pager_leave(db->pager, slot);
}
/* The writer's lock, and a stay in the pager. */
static inline void writer_enter(sdb *db, unsigned *slot) {
  pager_lock(db->pager);
  *slot = pager_enter(db->pager);
}
static inline void writer_leave(sdb *db, unsigned slot) {
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
}
/* Exclusive right to close versions that wait for a sync. */
void lead_begin(sdb *db);
void lead_end(sdb *db);

/* --- commit_queue.c: who waits for the writer's lock -------------------------------------------------------------------------- */

void commit_queue_init(struct commit_queue *cq);
void commit_queue_destroy(struct commit_queue *cq);
/* Runs a commit of small contents under the writer's lock, or has it run by another caller. False: it has not been run, and the
 * caller must do that with the lock himself, because it has to wait for something. */
bool commit_queue_run(sdb *db, struct commit *q);

/* --- work.c: background ------------------------------------------------------------------------------------------------------- */

/* One piece of background work of about `budget` pages. */
int work_step(sdb *db, unsigned budget, bool *more);
/* A whole checkpoint now, and why: the last two need nothing behind it and move no records before. */
enum work_why { WORK_ASKED, WORK_RECOVERED, WORK_CLOSE };
int work_checkpoint(sdb *db, enum work_why why);
/* At rest segments that wait to be used again only cost space: they go, but for one. */
void work_release_spares(sdb *db);
/* Wraps the data key anew; the state stays what it is. */
int work_change_key(sdb *db, const uint8_t *key);
struct pressure work_pressure(sdb *db); /* writer's lock held */
/* What a commit does for the background: wakes the thread, before it waits for a sync, so that the two do not ask for the processor
 * at once; and afterwards its own share. */
void work_wake(sdb *db, struct pressure pressure);
void work_after_commit(sdb *db, struct pressure pressure);
void work_ring(sdb *db); /* wakes the thread, where there is one */
void work_start(sdb *db);
void work_stop(sdb *db);

/* --- clean.c: the heap's garbage ---------------------------------------------------------------------------------------------- */

/* Writer's lock held: there is garbage that cleaning might remove; so much that it should, in the background; the steps that a
 * commit has to do, because the background does not keep up. */
bool clean_possible(const sdb *db);
bool clean_wanted(sdb *db);
unsigned clean_debt(sdb *db);
/* Begins a round, unless one is on its way: as far as garbage asks for it, or (`all`) all sparse pages. Writer's lock held. */
void clean_begin(sdb *db, bool all);
bool clean_running(const sdb *db);
/* Moves what lives in a heap page, as far as it verifies, into the open one; empty, the page is free. Writer's lock held, inside
 * enter and leave. */
int clean_page(sdb *db, unsigned slot, uint32_t number);
/* What a heap page counts as living and is not, because it was given up when it was dropped, counts no more. A damaged page stays
 * as it is: SDB_CORRUPT. SDB_IO: it cannot be told now. Writer's lock held, inside enter and leave. */
int clean_count(sdb *db, unsigned slot, uint32_t number);
/* At most about `budget` pages of a round. Any thread, without the writer's lock. */
int clean_step(sdb *db, unsigned budget, bool *more);

/* --- api.c: calls that call back ---------------------------------------------------------------------------------------------- */

/* A thread is in a call that calls back and that sdb_close() waits for or must not take the database from: closed in there, it
 * would wait for itself. Lives on the caller's stack; begins and ends nest. */
struct inside {
  const sdb *db;
  const struct inside *outer;
};
void inside_begin(struct inside *here, const sdb *db);
void inside_end(const struct inside *here);

/* --- api_async.c -------------------------------------------------------------------------------------------------------------- */

void async_init(sdb *db);
/* For databases whose requests no thread serves: serves some, takes what that cost off *budget, says whether some are left. */
bool async_step(sdb *db, unsigned *budget);
unsigned async_requests(sdb *db);
/* Cancels the requests that wait, and returns when no callback runs and no thread is left. */
void async_stop(sdb *db);
void async_destroy(sdb *db);

/* --- check_names.c ------------------------------------------------------------------------------------------------------------ */

/* For check: proves that the suffix tree agrees with the path tree; its pages and problems go to `outer`. Under the lock. */
int check_names(sdb *db, const tree_visitor *outer);

/* --- suffix.c ----------------------------------------------------------------------------------------------------------------- */

/* How long until there is something to build or to drop; all ones: never. Writer's lock held. */
uint64_t suffix_delay_us(const sdb *db);
/* About `budget` names of it. */
int suffix_step(sdb *db, unsigned budget);

/* --- scrub.c: everything is verified, a little at a time ---------------------------------------------------------------------- */

/* How long until the next step; all ones: never. */
uint64_t scrub_delay_us(sdb *db);
/* One step of about `budget` pages. `work` held. */
int scrub_step(sdb *db, unsigned budget);
void scrub_drop(sdb *db);

/* --- rebuild.c: damaged trees are made again ---------------------------------------------------------------------------------- */

/* How long until there is something to make again; all ones: never. Writer's lock held. */
uint64_t rebuild_delay_us(const sdb *db);
/* Is some tree damaged, as far as is known, and not made again yet? Writer's lock held. */
bool rebuild_running(const sdb *db);
/* About `budget` names of it. */
int rebuild_step(sdb *db, unsigned budget);
/* The roots as the checkpoint that begins stores them; and that it is complete. Writer's lock held. */
void rebuild_fix(sdb *db, roots *fixed);
void rebuild_fixed(sdb *db);
/* For replay: the path tree is made again to its end, from the records as they are now; `between` is called after each turn, and
 * may leave pager and lock. SDB_CORRUPT: it cannot be. Writer's lock held, inside enter and leave, before anybody reads. */
int rebuild_path_now(sdb *db, int (*between)(void *user), void *user);
/* Another, empty expiry tree, to be filled from the records. Writer's lock held, inside enter and leave. */
int rebuild_expiry(sdb *db);

/* --- expiry.c: what has expired is deleted ------------------------------------------------------------------------------------ */

/* One batch of deletes; *more: there are others. */
int expiry_step(sdb *db, bool *more);
/* Is there anything to look for? */
bool expiry_wanted(sdb *db);

/* --- recover.c ---------------------------------------------------------------------------------------------------------------- */

int recover(sdb *db);
/* The names in the body of a delete, bind or unbind, as those of a record. False: they make no sense. */
bool op_names_parse(const uint8_t *body, uint32_t len, record *named);
/* For repair. Applies one operation as replay does; writer's lock held, inside enter and leave. */
int recover_apply(sdb *db, uint8_t code, bool created, const uint8_t *body, uint32_t len);
/* A whole checkpoint that needs no log behind it. */
int recover_seal(sdb *db);

#endif
