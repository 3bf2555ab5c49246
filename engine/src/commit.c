/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* commit.c - the one order of commits: judged and applied under the writer's lock, made durable by groups, published in order.
 *
 *     lock | judge against the newest state | reserve | apply | append to the log | unlock | wait for a group's sync | reply
 *                                                                                          '-- leader: seal, write, sync, publish
 *
 * Durable commits are applied to the open version, which the leader closes; it is published after the sync. A commit that waits for
 * no sync is visible at once, lazily: the next reader publishes. As long as nobody reads, pages changed once are not copied again.
 * Where readers come in the middle of commits, these publish themselves at their end, so that nobody waits for the next one.
 * It must not overtake a durable one that still waits: then it waits with it. A durable commit first publishes what is lazily
 * visible, so that a reader never publishes it early.
 *
 * A refusal that rests on state nobody has seen yet (a failed condition) waits for that state's fate. Where there was nothing left
 * to do (a known token, a name that is bound, "was not there") the answer is one that somebody may rely on as if he had done it
 * now: it waits for what was done before as the commit itself would have.
 */
#include "codec.h"
#include "db.h"

enum { LOG_BACKLOG = 1 << 20, MAX_UNSYNCED = 1 << 19 };

/* --- Publishing --------------------------------------------------------------------------------------------------------------- */

void note_visible(sdb *db, uint64_t sequence) {
  uint64_t seen = atomic_load(&db->visible_sequence);
  while (sequence > seen && !atomic_compare_exchange_weak(&db->visible_sequence, &seen, sequence)) {}
}

static void publish_open(sdb *db) {
  if (atomic_load(&db->spoiled)) return;
  pager_publish(db->pager, pager_close_version(db->pager), db->last_sequence);
  note_visible(db, db->last_sequence);
  atomic_store(&db->lazy, false);
}

void publish_lazy(sdb *db) {
  if (atomic_load(&db->lazy)) publish_open(db);
}

static bool durable_waiting(const sdb *db) { return db->last_durable > atomic_load(&db->synced_sequence); }

/* Are there readers who come while commits are made? Each commit asks once: without readers the answer is no again soon. */
static bool readers_beside(sdb *db) {
  unsigned commits = atomic_load_explicit(&db->beside, memory_order_relaxed);
  if (commits) atomic_store_explicit(&db->beside, commits - 1, memory_order_relaxed); /* a reader who comes between is no loss */
  return commits > 0;
}

/* What the open version holds waits for no sync. The next reader would publish it, and for that wait for the commit that is being
 * made then; so where readers come in the middle of commits, each is published when it ends. */
static void show_lazily(sdb *db) {
  if (readers_beside(db) || pager_version_heavy(db->pager)) publish_open(db);
  else atomic_store(&db->lazy, true);
}

void note_unlogged(sdb *db) {
  if (!durable_waiting(db)) atomic_store(&db->lazy, true);
}

/* Takes the lead; `turn` is held. Everything appended before belongs to the group, whoever waits for it already. */
static void lead_take(sdb *db) {
  db->leader = true;
  db->group ^= 1;
  atomic_store(&db->group_end, UINT64_MAX);
}

/* Waits, without `turn`, for the end of a group: of the one on its way when `member`, else of the one behind it. */
static void group_wait(sdb *db, bool member) {
  struct gate *gate = &db->group_done[member ? db->group : db->group ^ 1];
  unsigned turn = gate_turn(gate);
  mutex_unlock(&db->turn);
  gate_wait(gate, turn);
}

void lead_begin(sdb *db) {
  mutex_lock(&db->turn);
  while (db->leader) {
    group_wait(db, false);
    mutex_lock(&db->turn);
  }
  lead_take(db);
  mutex_unlock(&db->turn);
}

/* The next leader first: waking all members takes longer than it takes him to begin his sync. */
void lead_end(sdb *db) {
  mutex_lock(&db->turn);
  struct gate *members = &db->group_done[db->group], *next = &db->group_done[db->group ^ 1];
  db->leader = false;
  mutex_unlock(&db->turn);
  gate_open(next, atomic_load(&db->e.sync_failed)); /* one, to lead; all when nobody will lead again */
  gate_open(members, true);
}

void note_synced(sdb *db, uint64_t sequence) {
  atomic_store(&db->synced_sequence, sequence);
  if (db->options.on_synced) db->options.on_synced(db->options.on_synced_user, sequence);
  if (!atomic_load(&db->feed_waiters)) return;
  mutex_lock(&db->feed_lock);
  cond_broadcast(&db->feed_moved);
  mutex_unlock(&db->feed_lock);
}

/* The leader's work: one sync for all who have appended so far. */
static int lead(sdb *db) {
  uint64_t durable;
  pager_lock(db->pager);
  publish_lazy(db);
  log_seal(db->log);
  db->unsynced = false;
  uint64_t target = db->last_sequence;
  atomic_store(&db->group_end, target);
  uint64_t version = pager_open_version_used(db->pager) ? pager_close_version(db->pager) : 0;
  pager_unlock(db->pager);
  log_own(db->log);
  int rc = log_write(db->log);
  if (rc == SDB_OK) rc = log_sync(db->log, &durable);
  log_disown(db->log);
  if (rc != SDB_OK) return rc;
  atomic_fetch_add_explicit(&db->n.syncs, 1, memory_order_relaxed);
  if (version) pager_publish(db->pager, version, target);
  note_visible(db, target);
  note_synced(db, target);
  return SDB_OK;
}

int wait_durable(sdb *db, uint64_t sequence) {
  int rc = SDB_OK;
  while (rc == SDB_OK && atomic_load(&db->synced_sequence) < sequence) {
    if (atomic_load(&db->e.sync_failed))
      return env_fail(&db->e, SDB_SYNC_FAILED,
                      "a write or sync failed; whether this commit survives is not known until the database is opened again");
    mutex_lock(&db->turn);
    if (db->leader) {
      group_wait(db, sequence <= atomic_load(&db->group_end));
      continue;
    }
    if (atomic_load(&db->synced_sequence) >= sequence) {
      mutex_unlock(&db->turn);
      return SDB_OK;
    }
    lead_take(db);
    mutex_unlock(&db->turn);
    rc = lead(db);
    lead_end(db);
  }
  return rc;
}

/* --- Before and after a commit ------------------------------------------------------------------------------------------------ */

int whole_check(sdb *db) {
  if (!atomic_load(&db->spoiled)) return SDB_OK;
  return env_fail(&db->e, SDB_SYNC_FAILED,
                  "an earlier change could not be taken back, because its pages could not be read any more; nothing more is "
                  "written until the database is opened again");
}

int commit_ready(sdb *db) {
  if (db->read_only)
    return env_fail(&db->e, SDB_READ_ONLY,
                    db->log_damaged
                        ? "the log is damaged or could not be applied; the database is open for reading only until it is "
                          "repaired or a copy is restored"
                        : "the database is open for reading only");
  int rc = whole_check(db);
  if (rc != SDB_OK) return rc;
  if (atomic_load(&db->e.sync_failed))
    return env_fail(&db->e, SDB_SYNC_FAILED, "an earlier sync failed; nothing more is written until the database is opened again");
  if (log_started(db->log)) return SDB_OK;
  const header *h = pager_header(db->pager);
  rc = log_resume(db->log, h->log.position);
  if (rc != SDB_OK) return rc;
  log_place end = log_end(db->log);
  db->checkpoint_tail = end.position;
  return pager_mark_unclean(db->pager, &end);
}

sdb_durability durability_of(const sdb *db, sdb_durability asked) {
  sdb_durability d = asked != SDB_DEFAULT ? asked : db->options.durability;
  return d == SDB_DEFAULT ? SDB_DURABLE : d;
}

static void sync_soon(sdb *db) {
  if (!db->unsynced) db->unsynced_since_us = db->e.storage->monotonic_us(db->e.storage->ctx);
  db->unsynced = true;
}

/* What follows once the commit is applied and in the log, still under the lock. Returns the sequence to wait for, 0: none. */
static uint64_t commit_order(sdb *db, sdb_durability d) {
  uint64_t sequence = db->last_sequence;
  db->last_commit_us = db->e.storage->monotonic_us(db->e.storage->ctx);
  atomic_fetch_add_explicit(&db->n.commits, 1, memory_order_relaxed);
  if (d == SDB_DURABLE) {
    db->last_durable = sequence;
    return sequence;
  }
  if (d == SDB_BUFFERED) sync_soon(db);
  if (durable_waiting(db)) return db->last_durable; /* never visible before an earlier one */
  show_lazily(db);
  return sequence - atomic_load(&db->synced_sequence) > MAX_UNSYNCED ? sequence : 0;
}

/* A refusal, or an answer without a commit: its reason must have become visible before it is told. */
static int refuse(sdb *db, int code, uint64_t seen) {
  int rc = SDB_OK;
  if (seen > atomic_load(&db->visible_sequence)) {
    bool lazy = atomic_load(&db->lazy);
    if (lazy) {
      pager_lock(db->pager);
      publish_lazy(db);
      pager_unlock(db->pager);
    }
    if (seen > atomic_load(&db->visible_sequence)) rc = wait_durable(db, seen);
  }
  return rc == SDB_OK ? code : rc;
}

/* A commit that waits for no sync of its own, but for durable ones before it: the group that freed those may have been closed
 * before this one was applied. */
static int become_visible(sdb *db, uint64_t sequence, uint64_t wait_for) {
  int rc = wait_durable(db, wait_for);
  while (rc == SDB_OK && atomic_load(&db->visible_sequence) < sequence) {
    pager_lock(db->pager);
    wait_for = db->last_durable;
    bool lazy = !durable_waiting(db);
    if (lazy) atomic_store(&db->lazy, true);
    pager_unlock(db->pager);
    if (lazy) break;
    rc = wait_durable(db, wait_for);
  }
  return rc;
}

/* Pieces of the log that nobody waits for go to the file so that memory stays small: by the engine's thread, where there is one and
 * it comes round, else here. Only where much has gathered is an owner waited for who syncs. */
static int write_backlog(sdb *db) {
  size_t backlog = log_backlog(db->log);
  if (backlog <= (db->worker ? LOG_BACKLOG : 0)) return SDB_OK;
  if (backlog > 4 * LOG_BACKLOG) log_own(db->log);
  else if (!log_try_own(db->log)) return SDB_OK;
  int rc = log_write(db->log);
  log_disown(db->log);
  return rc;
}

static int finish(sdb *db, const struct commit *q) {
  int rc = SDB_OK;
  bool durable = q->durability == SDB_DURABLE;
  if (!q->background) work_wake(db, q->pressure);
  if (q->wait_for && !durable) rc = become_visible(db, q->seen, q->wait_for);
  else if (q->wait_for && !q->defer) rc = wait_durable(db, q->wait_for);
  if (!q->wait_for) rc = write_backlog(db);
  if (!q->background) work_after_commit(db, q->pressure);
  return rc;
}

/* --- Log record --------------------------------------------------------------------------------------------------------------- */

/* Places do not go into the log: without the one of an older version. */
static bool is_image(const struct change *c) { return !(c->r.flags & RECORD_OLDER); }

static uint32_t body_size(const struct change *c) {
  uint32_t n = OP_NAMES_HEAD;
  if (c->op == OP_PUT && is_image(c)) return c->r.total;
  if (c->op == OP_PUT) {
    record r = c->r;
    r.flags &= (uint16_t)~RECORD_OLDER;
    return (uint32_t)record_measure(&r);
  }
  if (c->op != OP_DELETE) return n + 2 + (uint32_t)c->name_len;
  for (unsigned i = 0; i < record_names(&c->named); i++) {
    size_t len;
    record_name(&c->named, i, &len);
    n += 2 + (uint32_t)len;
  }
  return n;
}

static void write_put(uint8_t *body, const struct change *c, uint32_t size) {
  if (is_image(c)) {
    memcpy(body, c->bytes, size);
  } else {
    record r = c->r;
    r.flags &= (uint16_t)~RECORD_OLDER;
    r.total = size;
    record_write(body, &r);
  }
}

static uint8_t *write_name(uint8_t *at, const void *name, size_t len) {
  put16(at, (uint16_t)len);
  memcpy(at + 2, name, len);
  return at + 2 + len;
}

static void write_names(uint8_t *body, const struct change *c) {
  uint8_t *at = body + OP_NAMES_HEAD;
  memcpy(body, c->result.info.id, 16);
  put32(body + 16, c->result.info.version);
  body[20] = c->cause;
  body[21] = c->op == OP_DELETE ? (uint8_t)record_names(&c->named) : 1;
  if (c->op != OP_DELETE) write_name(at, c->name, c->name_len);
  for (unsigned i = 0; c->op == OP_DELETE && i < record_names(&c->named); i++) {
    size_t len;
    const uint8_t *name = record_name(&c->named, i, &len);
    at = write_name(at, name, len);
  }
}

static size_t op_size(const struct change *c) { return c->done ? align_up(LOG_OP_HEAD + body_size(c), 8) : 0; }

static uint8_t *write_op(uint8_t *at, const struct change *c) {
  uint32_t size = body_size(c);
  if (!c->done) return at;
  memset(at, 0, LOG_OP_HEAD);
  at[0] = c->op;
  at[1] = c->created;
  put32(at + 4, size);
  if (c->op == OP_PUT) write_put(at + LOG_OP_HEAD, c, size);
  else write_names(at + LOG_OP_HEAD, c);
  size_t whole = op_size(c);
  memset(at + LOG_OP_HEAD + size, 0, whole - LOG_OP_HEAD - size);
  return at + whole;
}

/* The record of the commit: everything that was applied, in order. SDB_TOO_LARGE, SDB_IO, SDB_FULL, SDB_NO_MEMORY. */
static int log_commit(sdb *db, const struct commit *q, uint64_t now_ms, bool *changed) {
  size_t payload = 0;
  unsigned count = 0;
  for (unsigned i = 0; i < q->count; i++) {
    const struct change *c = &q->ops[i];
    payload += op_size(c) + (c->before ? op_size(c->before) : 0);
    count += c->done ? 1 : 0;
    count += c->before && c->before->done ? 1 : 0;
  }
  *changed = count > 0;
  if (!count) return SDB_OK;
  int rc = log_reserve(db->log, payload);
  if (rc != SDB_OK) return rc;
  uint8_t *at = log_append(db->log, LOG_COMMIT, ++db->last_sequence, (uint16_t)count, now_ms, payload);
  for (unsigned i = 0; i < q->count; i++) {
    if (q->ops[i].before) at = write_op(at, q->ops[i].before);
    at = write_op(at, &q->ops[i]);
  }
  log_finish(db->log);
  db->roots.sequence = db->last_sequence;
  return SDB_OK;
}

/* --- A commit ----------------------------------------------------------------------------------------------------------------- */

static void undo_all(sdb *db, const struct commit *q, unsigned count) {
  while (count-- > 0) judge_undo(db, &q->ops[count]);
}

static int judge_all(sdb *db, struct commit *q, uint64_t now_ms) {
  for (unsigned i = 0; i < q->count; i++) {
    int rc = judge(db, &q->ops[i], now_ms, q->lenient);
    if (rc == SDB_OK) continue;
    q->failed = i;
    undo_all(db, q, i);
    return rc;
  }
  return SDB_OK;
}

static bool is_growing(const struct change *c) { return c->op == OP_PUT || c->op == OP_BIND; }

/* Does it only take things away? Then it may use what is kept for that. */
static bool is_freeing(const struct commit *q) {
  for (unsigned i = 0; i < q->count; i++)
    if (is_growing(&q->ops[i])) return false;
  return true;
}

/* Space and lists for what the operations may need. */
static int admit(sdb *db, const struct commit *q) {
  size_t runs = 0;
  uint32_t pages = 4;
  for (unsigned i = 0; i < q->count; i++) {
    const struct change *c = &q->ops[i];
    runs += c->extent ? MAX_RUNS + 8u : 8u;
    pages += is_growing(c) ? 4 : 1;
  }
  return pager_admit(db->pager, runs, pages, is_freeing(q));
}

static int prepare(sdb *db, const struct commit *q) {
  int rc = commit_ready(db);
  if (rc == SDB_OK) rc = collect(db, 2 * q->count);
  if (rc == SDB_OK) rc = admit(db, q);
  if (rc == SDB_OK && q->durability == SDB_DURABLE) publish_lazy(db);
  return rc;
}

static bool is_large(const struct commit *q) {
  for (unsigned i = 0; i < q->count; i++)
    if (q->ops[i].extent) return true;
  return false;
}

/* Whether the log has room for what the operations can come to: each has at most a page of names and small content, and may delete
 * an expired document first. */
static bool has_room(sdb *db, const struct commit *q) {
  if (log_short(db->log) && !is_freeing(q)) return false;
  return log_has_room(db->log, q->count * 2 * ((size_t)page_size(db->pager) + OP_NAMES_HEAD));
}

/* Awaits the log's next segment. Its syncs take their time, and whoever makes lazy commits visible needs the writer's lock. */
static int make_room(sdb *db, unsigned *slot) {
  change_leave(db, *slot);
  pager_unlock(db->pager);
  int rc = log_prepare(db->log);
  pager_lock(db->pager);
  *slot = change_enter(db);
  return rc;
}

/* On a full device deletes take what is left of the segment: most come to far less than they could. */
static int wait_turn(sdb *db, const struct commit *q, unsigned *slot) {
  for (bool full = false;;) {
    int rc = claims_wait(db, q->ops, q->count, slot);
    if (rc != SDB_OK || full || has_room(db, q)) return rc;
    rc = make_room(db, slot);
    full = rc == SDB_FULL && is_freeing(q);
    if (rc != SDB_OK && !full) return rc;
  }
}

/* Finds out which versions the large contents will be, and writes that into their extents, which are synced then (I4). */
static int rehearse(sdb *db, struct commit *q, uint64_t now_ms, unsigned *slot) {
  int rc = judge_all(db, q, now_ms);
  if (rc != SDB_OK) return rc;
  undo_all(db, q, q->count);
  claims_take(db, q->ops, q->count);
  change_leave(db, *slot);
  pager_unlock(db->pager);
  for (unsigned i = 0; rc == SDB_OK && i < q->count; i++) {
    struct change *c = &q->ops[i];
    if (!c->extent || c->repeated) continue;
    rc = extent_seal(c->extent, &c->r);
    q->failed = i;
  }
  pager_lock(db->pager);
  *slot = change_enter(db);
  while (rc == SDB_OK && !has_room(db, q)) rc = make_room(db, slot);
  return rc == SDB_OK ? prepare(db, q) : rc;
}

static void end_ops(sdb *db, const struct commit *q, bool done) {
  for (unsigned i = 0; i < q->count; i++) {
    struct change *c = &q->ops[i];
    if (c->before && done) apply_end(db, c->before);
    if (done) apply_end(db, c);
    if (c->extent && c->done) extent_keep(c->extent);
    if (c->number && !(c->done && c->created)) document_number_return(db, c->number);
    c->number = 0;
    c->decided = false;
    c->result.sequence = db->last_sequence;
    c->result.reached = q->durability;
    mem_free(&db->e, c->before);
    mem_free(&db->e, c->scratch);
    c->before = NULL;
    c->scratch = NULL;
  }
}

/* Everything that needs the lock. */
static int run_locked(sdb *db, struct commit *q, bool *changed) {
  uint64_t now_ms = db->e.storage->now_ms(db->e.storage->ctx) & 0xFFFFFFFFFFFFull;
  bool large = is_large(q);
  unsigned slot = change_enter(db);
  q->failed = q->count;
  int rc = wait_turn(db, q, &slot);
  if (rc == SDB_OK) rc = prepare(db, q);
  if (rc == SDB_OK && large) rc = rehearse(db, q, now_ms, &slot);
  if (rc == SDB_OK) rc = judge_all(db, q, now_ms);
  if (rc == SDB_OK) {
    q->failed = q->count;
    rc = trusted(db, slot, SDB_OK);
    if (rc == SDB_OK) rc = log_commit(db, q, now_ms, changed);
    if (rc != SDB_OK) undo_all(db, q, q->count);
  }
  if (rc != SDB_OK) rc = trusted(db, slot, rc); /* a refusal may rest on zeros as well */
  end_ops(db, q, rc == SDB_OK);
  if (large) claims_release(db, q->ops, q->count);
  change_leave(db, slot);
  return rc;
}

void commit_locked(sdb *db, struct commit *q) {
  q->changed = false;
  q->wait_for = 0;
  q->rc = run_locked(db, q, &q->changed);
  q->seen = db->last_sequence;
  bool unsynced = db->unsynced, absent = q->rc == SDB_NOT_FOUND && q->failed < q->count && q->ops[q->failed].code == q->rc;
  q->done_before = q->rc == SDB_OK ? !q->changed : absent;
  if (q->rc == SDB_OK && q->changed) q->wait_for = commit_order(db, q->durability);
  if (q->done_before && q->durability == SDB_BUFFERED && q->seen > atomic_load(&db->synced_sequence)) sync_soon(db);
  q->pressure = work_pressure(db);
  q->pressure.sync = db->unsynced && !unsynced;
}

bool commit_would_wait(sdb *db, const struct commit *q) { return db->claims || !has_room(db, q); }

int commit_run(sdb *db, struct commit *q) {
  q->durability = durability_of(db, q->durability);
  if (is_large(q) || !commit_queue_run(db, q)) {
    pager_lock(db->pager);
    commit_locked(db, q);
    pager_unlock(db->pager);
  }
  if (q->rc == SDB_OK && q->changed) return finish(db, q);
  if (q->done_before && q->pressure.sync && db->worker) work_ring(db);
  if (q->done_before && q->durability == SDB_DURABLE) {
    int synced = wait_durable(db, q->seen);
    return synced == SDB_OK ? q->rc : synced;
  }
  return q->done_before || q->rc == SDB_CONFLICT || q->rc == SDB_NOT_FOUND ? refuse(db, q->rc, q->seen) : q->rc;
}
