/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* db.h - an open database: what document, commit, background work, recovery, check and api share.
 *
 * Locks, outermost first:
 *   work       whoever runs background steps (checkpoint, spill, cleaner): the engine's thread, a commit that helps, sdb_step
 *   writer     pager_lock: judging and applying commits. Never held over a sync, except while the log's next segment is awaited
 *   log owner  log_own: writing and syncing the log
 *   turn       the leader of a group commit, and those who wait for it
 */
#ifndef SDB_DB_H
#define SDB_DB_H

#include "compress.h"
#include "extent.h"
#include "heap.h"
#include "log.h"
#include "table.h"
#include "tree.h"

/* A record that no version points at any more: its space waits to be taken back in small steps. */
struct dropped {
  uint64_t place;
};

/* Somebody is about to commit a large document there: others wait, so that its version can be written into the extent first. */
struct claim {
  struct claim *next;
  uint64_t document;
  const void *path;
  size_t path_len;
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

struct sdb {
  env e;
  sdb_options options;
  char *name;
  sdb_file *file;
  pager *pager;
  log *log;
  table *table;

  /* Under the writer's lock: the newest state, published or not. */
  roots roots;
  struct dropped *dropped; /* ring of capacity dropped_cap */
  size_t dropped_head, dropped_count, dropped_cap;
  struct claim *claims;
  struct cond claim_free;
  uint64_t *free_documents; /* numbers known to be free */
  size_t free_count, free_cap;
  uint64_t free_scan;       /* numbers below were looked at */
  uint64_t last_sequence;   /* of the last commit appended */
  uint64_t last_durable;    /* of the last that asked for durability */
  uint64_t checkpoint_tail; /* log position of the last checkpoint */
  atomic_bool lazy;         /* visible to whoever looks: the open version holds only commits that wait for no sync */
  unsigned lazy_count;

  /* Group commit. Who waits belongs to the group that is on its way or to the one behind it: each has a gate of its own, so that
   * the end of a group wakes its members and one of the next, who leads that. */
  struct mutex turn;
  struct gate group_done[2];
  unsigned group; /* which of them is on its way */
  bool leader;
  _Atomic uint64_t group_end; /* last sequence in the group on its way; UINT64_MAX while it still takes members */
  _Atomic uint64_t synced_sequence;
  _Atomic uint64_t visible_sequence;

  /* Background. */
  struct mutex work;
  bool checkpointing;
  uint64_t checkpoint_position;
  uint32_t checkpoint_chain;
  uint64_t checkpoint_begun_us;
  _Atomic uint64_t checkpoint_ms;
  uint64_t retry_us; /* after a checkpoint that failed: not before */
  uint32_t clean_cursor;
  bool cleaning;
  struct mutex bell_lock;
  struct cond bell;
  bool rung, stopping;
  atomic_bool asleep; /* the worker waits for the bell and for nothing else */
  void *worker;
  struct async async;
  uint64_t unsynced_since_us; /* when the oldest buffered commit was made; 0: none */
  uint64_t last_commit_us;

  atomic_bool quick; /* reads that begin now do not check contents */
  bool read_only;
  bool log_damaged;
  uint64_t recovered;
  struct counters n;
  compress_habit habit; /* of small contents */
};

/* --- document.c: finding and reading versions ----------------------------------------------------------------------------------
 */

int path_check(sdb *db, const void *path, size_t len);
int document_size_check(sdb *db, uint64_t len);
bool document_is_large(const sdb *db, size_t path_len, const sdb_put_options *o, uint64_t len);
/* The record of a version (SDB_CURRENT or a number) in a view. *entry may be NULL. */
int document_find(sdb *db, uint64_t view, const void *path, size_t len, uint32_t version, record *r, table_entry *entry);
/* What to answer when nothing is there: `code`, but SDB_CORRUPT when it may stand in the lost part of a damaged log. */
int absent(sdb *db, int code);
/* A version by its table entry. */
int document_version(sdb *db, uint64_t view, uint64_t document, const table_entry *entry, uint32_t version, record *r);
void info_fill(sdb_info *info, const record *r, const table_entry *entry);
/* Asked once, when a read begins: is the content to be compared with its checksum? Counts the reads for which it is not. */
bool content_is_checked(sdb *db);

/* --- document_content.c: small contents ------------------------------------------------------------------------------------------
 */

enum { CONTENT_NEAR = 2048 };
/* A content as it would stand in a record. */
struct content {
  const void *stored; /* the caller's bytes, or packed ones */
  size_t size, stored_len;
  uint16_t flags; /* RECORD_SNAPPY or none */
  void *memory;
  uint8_t near[CONTENT_NEAR];
};
/* Compresses where it pays; else, and on a shortage of memory, the caller's bytes stay as they are. */
void content_pack(sdb *db, const void *data, size_t len, struct content *c);
void content_drop(sdb *db, struct content *c);
/* The content of a record that is not large into `buf` (r->size bytes); with `check` its digest is compared. */
int content_unpack(sdb *db, const record *r, bool check, void *buf);

/* --- Reads -----------------------------------------------------------------------------------------------------------------------
 */

/* A read: enters the pager, makes waiting commits visible, and says which state it sees. */
typedef struct reading {
  unsigned slot;
  uint64_t view;
} reading;
reading reading_begin(sdb *db);
void reading_end(sdb *db, reading r);

/* Operations of a log record (docs/file-format.md, section 10). */
enum { OP_PUT = 1, OP_DELETE = 2, OP_DELETE_HEAD = 24 };

/* --- names.c: the paths of documents
 * -----------------------------------------------------------------------------------------------
 */

/* The writer's, inside pager_enter/leave. Both trees change, or none. A name that is added must not exist (look it up first), and
 * `document` is the one that it leads to. Each counts in the roots. Within the same stay in the pager every sequence of them can be
 * undone backwards, and that cannot fail. */
int names_add(sdb *db, const void *path, size_t len, uint64_t document);
int names_remove(sdb *db, const void *path, size_t len, uint64_t document); /* SDB_NOT_FOUND: there is no such path */
void names_undo_add(sdb *db, const void *path, size_t len, uint64_t document);
void names_undo_remove(sdb *db, const void *path, size_t len, uint64_t document);
/* After removals that stand: merges pages where little is left. Best effort. */
void names_tidy(sdb *db, const void *path, size_t len);

/* --- apply.c: changing the state, for commits and for replay ---------------------------------------------------------------------
 */

struct change {
  const void *path;
  size_t path_len;
  uint64_t document; /* 0: none */
  table_entry entry; /* before */
  record r;          /* put: to be stored; delete: the current one (version and path at least) */
  unsigned slot;     /* of pager_enter, while the commit is judged */
  uint32_t old_size; /* of the current version's content, before */
  bool created;
};

/* Makes room for everything the change needs; may fail and changes nothing then. */
struct put_plan {
  uint64_t place;
  uint8_t *bytes;
};
int apply_put_prepare(sdb *db, const struct change *c, struct put_plan *plan);
void apply_put(sdb *db, const struct change *c, const struct put_plan *plan);
int apply_delete(sdb *db, const struct change *c);
/* Takes back at most `budget` dropped records. */
int collect(sdb *db, unsigned budget);
int document_number(sdb *db, uint64_t *number);
void document_number_return(sdb *db, uint64_t number);

/* --- commit.c -------------------------------------------------------------------------------------------------------------------
 */

/* May the handle write? Starts the log at the first write after an open. Writer's lock held. */
int commit_ready(sdb *db);
/* `data` is the content as given, `packed` as it will be stored. */
int commit_put(sdb *db, const void *path, size_t path_len, const void *data, const struct content *packed, const sdb_put_options *o,
               sdb_commit *out);
int commit_large(sdb *db, const void *path, size_t path_len, extent_writer *w, const sdb_put_options *o, sdb_commit *out);
int commit_delete(sdb *db, const void *path, size_t path_len, const sdb_put_options *o, sdb_commit *out);
/* Returns when everything up to `sequence` is durable and visible. */
int wait_durable(sdb *db, uint64_t sequence);
/* Makes lazily visible commits visible now. Writer's lock held. */
void publish_lazy(sdb *db);
/* A change of places only (cleaner): becomes visible with the next publication. Writer's lock held. */
void note_unlogged(sdb *db);
/* Exclusive right to close versions that wait for a sync. */
void lead_begin(sdb *db);
void lead_end(sdb *db);

/* --- work.c: background
 * ----------------------------------------------------------------------------------------------------------- */

/* One piece of background work of about `budget` pages. */
int work_step(sdb *db, unsigned budget, bool *more);
/* A whole checkpoint now. `clean`: the database is being closed. */
int work_checkpoint(sdb *db, bool clean);
/* What a commit sees of the background's backlog: is there work, and is it so much that commits have to help? */
struct pressure {
  bool work, help;
};
struct pressure work_pressure(sdb *db); /* writer's lock held */
void work_after_commit(sdb *db, struct pressure pressure);
void work_start(sdb *db);
void work_stop(sdb *db);

/* --- api_async.c ----------------------------------------------------------------------------------------------------------------
 */

void async_init(sdb *db);
/* For databases whose requests no thread serves: serves some, takes what that cost off *budget, says whether some are left. */
bool async_step(sdb *db, unsigned *budget);
unsigned async_requests(sdb *db);
/* Cancels the requests that wait, and returns when no callback runs and no thread is left. */
void async_stop(sdb *db);
void async_destroy(sdb *db);

/* --- recover.c
 * -------------------------------------------------------------------------------------------------------------------- */

int recover(sdb *db);

#endif
