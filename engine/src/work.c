/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* work.c - background work as small steps: buffered syncs, the log's next segment, writing ahead, checkpoints; the cleaner's are in
 * clean.c.
 *
 * Everything is a machine that `work_step` moves by a budget of pages. With threads one thread of the engine calls it, and commits
 * call it too when they outrun it; without, commits and sdb_step() are the only callers. `work` lets one caller in at a time.
 */
#include "db.h"

enum {
  STEP_PAGES = 256,
  MARK_AFTER_US = 1000000,
  EXPIRY_AFTER_US = 1000000,
  RETRY_US = 1000000,
  REST_US = 10000000,
  SUFFIX_PAUSE_US = 1000,
  PUNCH_RUNS = 8,
  GATHER_WORDS = 2048
};

static uint64_t now_us(const sdb *db) { return db->e.storage->monotonic_us(db->e.storage->ctx); }

/* --- Checkpoint --------------------------------------------------------------------------------------------------------------- */

/* Some have been set aside just now: they get a second chance, at another time. */
static int set_aside(sdb *db) {
  db->retry_us = now_us(db) + RETRY_US;
  return env_fail(&db->e, SDB_IO,
                  "cannot read what dropped versions name; the next checkpoint gives their space up, until a scrub");
}

/* Space of dropped records is taken back before the state is fixed, a part at a time so that commits come between. */
static int collect_in_turns(sdb *db) {
  size_t aside = SIZE_MAX;
  int rc = SDB_OK;
  for (bool some = true; rc == SDB_OK && some;) {
    unsigned slot;
    writer_enter(db, &slot);
    if (aside == SIZE_MAX) aside = db->dropped_aside;
    rc = collect(db, 256);
    some = db->dropped_count > db->dropped_aside;
    if (rc == SDB_OK && !some && db->dropped_aside > aside) rc = set_aside(db);
    writer_leave(db, slot);
  }
  return rc;
}

static int checkpoint_begin(sdb *db, bool trim) {
  uint64_t durable, version = 0, sequence = 0;
  unsigned slot;
  int rc = collect_in_turns(db);
  if (rc != SDB_OK) return rc;
  lead_begin(db);
  writer_enter(db, &slot);
  rc = whole_check(db);
  if (rc == SDB_OK) rc = collect_all(db);
  if (rc == SDB_IO) db->retry_us = now_us(db) + RETRY_US;
  if (rc == SDB_OK) {
    publish_lazy(db);
    log_seal(db->log);
    db->unsynced = false;
    db->checkpoint_place = log_end(db->log);
    sequence = db->last_sequence;
    roots fixed;
    rebuild_fix(db, &fixed);
    version = pager_checkpoint_begin(db->pager, &fixed, trim);
    db->checkpoint_wanted = false;
  }
  writer_leave(db, slot);
  if (rc == SDB_OK) {
    log_own(db->log);
    rc = log_write(db->log);
    if (rc == SDB_OK) rc = log_sync(db->log, &durable);
    log_disown(db->log);
    if (rc == SDB_OK) {
      pager_publish(db->pager, version, sequence);
      note_visible(db, sequence);
      note_synced(db, sequence);
      db->checkpointing = true;
      db->checkpoint_begun_us = now_us(db);
    } else {
      pager_lock(db->pager);
      pager_checkpoint_end(db->pager, false);
      pager_unlock(db->pager);
    }
  }
  lead_end(db);
  return rc;
}

/* Recycled segments carry the next round of the log. At rest, and when somebody asked for a checkpoint, they only cost space. */
static unsigned spare_segments(const sdb *db, bool asked) {
  if (asked || now_us(db) - db->last_commit_us >= REST_US) return 0;
  return (unsigned)(db->options.checkpoint_wal_bytes / db->options.wal_segment_size) + 1;
}

static void checkpoint_end(sdb *db, bool ok, bool asked) {
  pager_lock(db->pager);
  pager_checkpoint_end(db->pager, ok);
  if (ok) db->checkpoint_tail = db->checkpoint_place.position;
  if (ok) rebuild_fixed(db);
  unsigned spare = spare_segments(db, asked);
  if (ok && (asked || pager_spacious(db->pager))) {
    db->punching = true;
    pager_punch_begin(db->pager, asked);
  }
  pager_unlock(db->pager);
  db->checkpointing = false;
  if (!ok) {
    db->retry_us = now_us(db) + RETRY_US;
    return;
  }
  log_own(db->log);
  log_release(db->log, db->checkpoint_place.position, spare);
  log_disown(db->log);
  atomic_fetch_add(&db->n.checkpoints, 1);
  atomic_store(&db->checkpoint_ms, (now_us(db) - db->checkpoint_begun_us) / 1000);
}

/* One step of a checkpoint that runs. */
static int checkpoint_step(sdb *db, unsigned budget, bool clean, bool asked) {
  bool done = false;
  int rc = pager_checkpoint_step(db->pager, budget, &done);
  if (rc == SDB_OK && done) rc = pager_checkpoint_commit(db->pager, &db->checkpoint_place, clean);
  if (rc != SDB_OK || done) checkpoint_end(db, rc == SDB_OK, asked);
  return rc;
}

/* --- Steps -------------------------------------------------------------------------------------------------------------------- */

static bool checkpoint_due(sdb *db) {
  if (!log_started(db->log)) return false;
  if (db->checkpoint_wanted) return true;
  if (log_tail(db->log) == db->checkpoint_tail) return false;
  if (log_short(db->log)) return true; /* it may free a segment, or pages enough to cut the file */
  return log_tail(db->log) - db->checkpoint_tail >= db->options.checkpoint_wal_bytes || pager_starved(db->pager) ||
         (pager_refused(db->pager) && db->dropped_count > db->dropped_aside);
}

struct pressure work_pressure(sdb *db) {
  struct pressure p = {.suffix = suffix_delay_us(db) == 0 || rebuild_delay_us(db) == 0};
  if (!log_started(db->log)) return p;
  p.clean = clean_debt(db);
  uint64_t log_bytes_open = log_tail(db->log) - db->checkpoint_tail;
  p.help = log_bytes_open > 2 * db->options.checkpoint_wal_bytes || pager_crowded(db->pager);
  p.work = p.help || log_bytes_open >= db->options.checkpoint_wal_bytes || pager_spill_due(db->pager) || pager_starved(db->pager) ||
           log_wants_segment(db->log) || log_backlog(db->log) > 0 ||
           (db->worker && (clean_wanted(db) || pager_stock_low(db->pager)));
  return p;
}

static int buffered_sync(sdb *db, bool *more) {
  pager_lock(db->pager);
  bool waiting = db->unsynced;
  uint64_t since = db->unsynced_since_us, sequence = db->last_sequence;
  pager_unlock(db->pager);
  if (!waiting || now_us(db) - since < db->options.buffered_interval_ms * 1000ull) return SDB_OK;
  *more = true;
  return wait_durable(db, sequence);
}

/* After a second of rest an empty record says that the last group was synced, so that damage in it is told from a torn tail. */
static int mark(sdb *db) {
  uint64_t durable;
  int rc = SDB_OK;
  lead_begin(db);
  pager_lock(db->pager);
  bool wanted = log_wants_mark(db->log) && atomic_load(&db->synced_sequence) == db->last_sequence && log_has_room(db->log, 0);
  if (wanted) rc = log_reserve(db->log, 0);
  if (wanted && rc == SDB_OK) {
    log_append(db->log, LOG_MARK, db->last_sequence, 0, db->e.storage->now_ms(db->e.storage->ctx), 0);
    log_finish(db->log);
    log_seal(db->log);
  }
  pager_unlock(db->pager);
  if (wanted && rc == SDB_OK) {
    log_own(db->log);
    rc = log_write(db->log);
    if (rc == SDB_OK) rc = log_sync(db->log, &durable);
    log_disown(db->log);
  }
  lead_end(db);
  return rc;
}

void work_release_spares(sdb *db) {
  if (log_spares(db->log) <= 1) return;
  log_own(db->log);
  log_release(db->log, db->checkpoint_tail, 0);
  log_disown(db->log);
}

/* The log rests, or has not gone on since a recovery. */
static void step_rest(sdb *db) {
  pager_lock(db->pager);
  bool idle = now_us(db) - db->last_commit_us >= REST_US;
  pager_unlock(db->pager);
  if (idle) work_release_spares(db);
}

static int step_locked(sdb *db, unsigned budget, bool *more) {
  bool spilling = false;
  *more = false;
  int rc = buffered_sync(db, more);
  if (db->worker) pager_stock(db->pager);
  pager_lock(db->pager);
  bool segment = log_wants_segment(db->log), due = checkpoint_due(db) && now_us(db) >= db->retry_us;
  bool rest = log_wants_mark(db->log) && now_us(db) - db->last_commit_us >= MARK_AFTER_US, suffix = suffix_delay_us(db) == 0;
  bool rebuild = rebuild_delay_us(db) == 0;
  if (pager_mostly_dirty(db->pager) || pager_version_heavy(db->pager)) publish_lazy(db); /* what is to be written or to go */
  if (log_started(db->log) && clean_wanted(db)) clean_begin(db, false);
  bool cleaning = clean_running(db);
  pager_unlock(db->pager);
  if (rc == SDB_OK && rest) rc = mark(db);
  if (rc == SDB_OK) step_rest(db);
  if (rc == SDB_OK && log_backlog(db->log)) {
    log_own(db->log);
    rc = log_write(db->log);
    log_disown(db->log);
  }
  if (rc == SDB_OK && segment) rc = log_prepare(db->log);
  if (rc == SDB_FULL) rc = SDB_OK; /* that must not stop what can free space */
  if (rc == SDB_OK) rc = pager_spill(db->pager, budget, &spilling);
  if (rc == SDB_OK && db->checkpointing) rc = checkpoint_step(db, budget, false, false);
  else if (rc == SDB_OK && due) rc = checkpoint_begin(db, false);
  else if (rc == SDB_OK && db->punching) db->punching = pager_punch(db->pager, PUNCH_RUNS);
  if (rc == SDB_OK && cleaning) rc = clean_step(db, 1 + budget / 16, &cleaning);
  if (rc == SDB_OK && expiry_wanted(db)) rc = expiry_step(db, more);
  if (rc == SDB_OK && rebuild) rc = rebuild_step(db, budget);
  if (rc == SDB_OK && suffix) rc = suffix_step(db, budget);
  if (rc == SDB_OK && scrub_delay_us(db) == 0) rc = scrub_step(db, budget);
  /* The engine's thread pauses between such steps: nobody waits for them, and commits shall hardly notice. */
  pager_lock(db->pager);
  bool wanted = db->checkpoint_wanted && checkpoint_due(db) && now_us(db) >= db->retry_us;
  bool trees = suffix_delay_us(db) == 0 || rebuild_delay_us(db) == 0;
  pager_unlock(db->pager);
  *more |=
      wanted || spilling || db->checkpointing || db->punching || cleaning || ((trees || scrub_delay_us(db) == 0) && !db->worker);
  return rc;
}

static bool trees_wait(sdb *db) {
  pager_lock(db->pager);
  bool due = suffix_delay_us(db) == 0 || rebuild_delay_us(db) == 0;
  pager_unlock(db->pager);
  return due;
}

int work_step(sdb *db, unsigned budget, bool *more) {
  *more = false;
  if (db->read_only || atomic_load(&db->e.sync_failed)) return SDB_OK;
  bool due = log_started(db->log) || expiry_wanted(db) || trees_wait(db) || scrub_delay_us(db) == 0;
  if (!due && log_spares(db->log) <= 1) return SDB_OK;
  int rc = SDB_OK;
  mutex_lock(&db->work);
  if (due) rc = step_locked(db, budget ? budget : 1, more);
  else step_rest(db);
  mutex_unlock(&db->work);
  return rc;
}

/* What was moved so far may be written ahead, once it is visible. */
static int spill_moved(sdb *db) {
  bool more;
  pager_lock(db->pager);
  publish_lazy(db);
  pager_unlock(db->pager);
  return pager_spill(db->pager, STEP_PAGES, &more);
}

static int clean_all(sdb *db) {
  int rc = SDB_OK;
  pager_lock(db->pager);
  if (clean_possible(db)) clean_begin(db, true);
  bool more = clean_running(db);
  pager_unlock(db->pager);
  while (rc == SDB_OK && more) {
    rc = clean_step(db, 64, &more);
    if (rc == SDB_OK) rc = spill_moved(db);
  }
  return rc;
}

/* Brings pages down from the end of the file, if that is worth while; *some: a checkpoint makes it count. */
static int gather_all(sdb *db, bool *some) {
  uint32_t cursor = 1;
  pager_lock(db->pager);
  uint32_t bound = pager_gather_bound(db->pager);
  pager_unlock(db->pager);
  *some = bound > 0;
  int rc = *some ? SDB_OK : SDB_END;
  while (rc == SDB_OK) {
    unsigned slot;
    writer_enter(db, &slot);
    rc = pager_gather(db->pager, bound, &cursor, GATHER_WORDS);
    note_unlogged(db);
    writer_leave(db, slot);
    if (rc == SDB_OK) rc = spill_moved(db);
  }
  return rc == SDB_END || rc == SDB_FULL ? SDB_OK : rc;
}

static int checkpoint_all(sdb *db, enum work_why why) {
  int rc = checkpoint_begin(db, true);
  while (rc == SDB_OK && db->checkpointing) rc = checkpoint_step(db, STEP_PAGES, why != WORK_ASKED, why != WORK_RECOVERED);
  while (rc == SDB_OK && db->punching) db->punching = pager_punch(db->pager, PUNCH_RUNS);
  return rc;
}

int work_checkpoint(sdb *db, enum work_why why) {
  int rc = SDB_OK;
  bool again = false;
  mutex_lock(&db->work);
  while (rc == SDB_OK && db->checkpointing) rc = checkpoint_step(db, STEP_PAGES, false, false);
  if (rc == SDB_OK && why == WORK_ASKED) rc = clean_all(db);
  if (rc == SDB_OK) rc = checkpoint_all(db, why);
  if (rc == SDB_OK && why == WORK_ASKED) rc = gather_all(db, &again);
  if (rc == SDB_OK && again) rc = checkpoint_all(db, why);
  mutex_unlock(&db->work);
  return rc;
}

/* No checkpoint may be on its way, because it would write the slots with the key before. */
int work_change_key(sdb *db, const uint8_t *key) {
  int rc = SDB_OK;
  mutex_lock(&db->work);
  while (rc == SDB_OK && db->checkpointing) rc = checkpoint_step(db, STEP_PAGES, false, false);
  if (rc == SDB_OK) {
    pager_lock(db->pager);
    publish_lazy(db); /* so that no read needs the lock to make it visible */
    rc = pager_change_key(db->pager, key);
    log_own(db->log);
    log_set_wrapped(db->log, pager_header(db->pager)->wrapped);
    log_disown(db->log);
    pager_unlock(db->pager);
  }
  mutex_unlock(&db->work);
  return rc;
}

/* --- The worker --------------------------------------------------------------------------------------------------------------- */

void work_ring(sdb *db) {
  mutex_lock(&db->bell_lock);
  db->rung = true;
  cond_signal(&db->bell);
  mutex_unlock(&db->bell_lock);
}

void work_wake(sdb *db, struct pressure pressure) {
  bool asleep = atomic_load_explicit(&db->asleep, memory_order_relaxed);
  if (db->worker && (pressure.work || pressure.sync || asleep)) work_ring(db);
}

void work_after_commit(sdb *db, struct pressure pressure) {
  bool more = true;
  if (pressure.clean) (void)clean_step(db, pressure.clean, &more);
  /* Without a thread every commit builds a little of the suffix tree. */
  if (!db->worker && pressure.suffix && !pressure.work) (void)work_step(db, 1, &more);
  if (!db->worker && pressure.work) (void)work_step(db, STEP_PAGES, &more); /* an error shows at the next checkpoint or flush */
  /* One step outweighs by far what a commit adds, so the backlog shrinks, and no single caller carries a whole checkpoint. */
  if (db->worker && pressure.help) (void)work_step(db, STEP_PAGES, &more); /* a whole unit of the file */
}

/* Until when the worker may sleep: 0 for "until the bell rings". */
static uint64_t sleep_us(sdb *db) {
  uint64_t us = UINT64_MAX, now = now_us(db);
  pager_lock(db->pager);
  if (!db->read_only && !atomic_load(&db->e.sync_failed)) {
    uint64_t suffix = suffix_delay_us(db), rebuild = rebuild_delay_us(db);
    us = suffix < rebuild ? suffix : rebuild;
    if (us == 0) us = SUFFIX_PAUSE_US;
    uint64_t scrub = scrub_delay_us(db);
    if (scrub < us) us = scrub ? scrub : 1;
    if (db->roots.expiry_tree && us > EXPIRY_AFTER_US) us = EXPIRY_AFTER_US;
    if (log_spares(db->log) > 1 && us > REST_US) us = REST_US;
    if (log_started(db->log)) {
      bool rest = log_wants_mark(db->log) || db->last_sequence > atomic_load(&db->synced_sequence);
      if (rest && us > MARK_AFTER_US) us = MARK_AFTER_US;
      if (checkpoint_due(db) && db->retry_us > now && us > db->retry_us - now) us = db->retry_us - now;
      uint64_t interval = db->options.buffered_interval_ms * 1000ull;
      if (db->unsynced && us > interval) us = interval;
    }
  }
  pager_unlock(db->pager);
  return us == UINT64_MAX ? 0 : us;
}

static void worker_main(void *arg) {
  sdb *db = arg;
  for (;;) {
    bool more = true;
    while (more && work_step(db, STEP_PAGES, &more) == SDB_OK) {}
    atomic_store(&db->asleep, true);
    uint64_t us = sleep_us(db);
    atomic_store(&db->asleep, us == 0);
    mutex_lock(&db->bell_lock);
    if (!db->rung && !db->stopping) {
      if (us) cond_wait_for(&db->bell, &db->bell_lock, us);
      else cond_wait(&db->bell, &db->bell_lock);
    }
    db->rung = false;
    bool stop = db->stopping;
    mutex_unlock(&db->bell_lock);
    atomic_store(&db->asleep, false);
    if (stop) return;
  }
}

void work_start(sdb *db) {
  const sdb_storage *st = db->e.storage;
  if (!db->e.threads || db->read_only) return;
  mutex_lock(&db->work); /* the thread's first step waits until it can see that there is a thread */
  if (st->thread_start(st->ctx, worker_main, db, &db->worker) != SDB_OK) db->worker = NULL;
  mutex_unlock(&db->work);
}

void work_stop(sdb *db) {
  if (!db->worker) return;
  mutex_lock(&db->bell_lock);
  db->stopping = true;
  cond_signal(&db->bell);
  mutex_unlock(&db->bell_lock);
  db->e.storage->thread_join(db->e.storage->ctx, db->worker);
  db->worker = NULL;
}
