/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* commit.c - the one order of commits: judged and applied under the writer's lock, made durable by groups, published in order.
 *
 *     lock | judge against the newest state | reserve | apply | append to the log | unlock | wait for a group's sync | reply
 *                                                                                          '-- leader: seal, write, sync, publish
 *
 * Durable commits are applied to the open version, which the leader closes; it is published after the sync. A commit that waits for
 * no sync is visible at once, lazily: the next reader (or every 64th commit) publishes. It must not overtake a durable one that
 * still waits: then it waits with it. A durable commit first publishes what is lazily visible, so that a reader never publishes it
 * early.
 *
 * A refusal that rests on state nobody has seen yet (failed condition, "was not there", a known token) waits for that state's fate.
 */
#include "codec.h"
#include "db.h"

enum { LAZY_COMMITS = 64, PIECE_LIMIT = 1 << 20, MAX_UNSYNCED = 1 << 19 };

/* --- Publishing
 * -------------------------------------------------------------------------------------------------------------------- */

void publish_lazy(sdb *db) {
  if (!atomic_load(&db->lazy)) return;
  pager_publish(db->pager, pager_close_version(db->pager));
  atomic_store(&db->visible_sequence, db->last_sequence);
  atomic_store(&db->lazy, false);
  db->lazy_count = 0;
}

static bool durable_waiting(const sdb *db) { return db->last_durable > atomic_load(&db->synced_sequence); }

void note_unlogged(sdb *db) {
  if (!durable_waiting(db)) atomic_store(&db->lazy, true);
}

/* Takes the lead; `turn` is held. Everything appended before belongs to the group, whoever waits for it already. */
static void lead_take(sdb *db) {
  db->leader = true;
  db->group ^= 1;
  atomic_store(&db->group_end, UINT64_MAX);
}

static void lead_leave(sdb *db) {
  db->leader = false;
  gate_open(&db->group_done[db->group], true);
  gate_open(&db->group_done[db->group ^ 1], atomic_load(&db->e.sync_failed)); /* one, to lead; all when nobody will lead again */
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

void lead_end(sdb *db) {
  mutex_lock(&db->turn);
  lead_leave(db);
  mutex_unlock(&db->turn);
}

/* The leader's work: one sync for all who have appended so far. */
static int lead(sdb *db) {
  uint64_t durable;
  pager_lock(db->pager);
  publish_lazy(db);
  log_seal(db->log);
  db->unsynced_since_us = 0;
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
  if (version) pager_publish(db->pager, version);
  if (target > atomic_load(&db->visible_sequence)) atomic_store(&db->visible_sequence, target);
  atomic_store(&db->synced_sequence, target);
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

/* --- Before and after a commit
 * ------------------------------------------------------------------------------------------------------- */

int commit_ready(sdb *db) {
  if (db->read_only)
    return env_fail(&db->e, SDB_READ_ONLY,
                    db->log_damaged ? "the log is damaged; the database is open for reading only until a copy is restored"
                                    : "the database is open for reading only");
  if (atomic_load(&db->e.sync_failed))
    return env_fail(&db->e, SDB_SYNC_FAILED, "an earlier sync failed; nothing more is written until the database is opened again");
  if (log_started(db->log)) return SDB_OK;
  const header *h = pager_header(db->pager);
  uint32_t chain;
  int rc = log_resume(db->log, h->log_position);
  if (rc != SDB_OK) return rc;
  uint64_t tail = log_tail(db->log, &chain);
  db->checkpoint_tail = tail;
  return pager_mark_unclean(db->pager, tail, chain);
}

static sdb_durability durability_of(const sdb *db, const sdb_put_options *o) {
  sdb_durability d = o && o->durability != SDB_DEFAULT ? o->durability : db->options.durability;
  return d == SDB_DEFAULT ? SDB_DURABLE : d;
}

static bool claim_conflicts(const sdb *db, uint64_t document, const void *path, size_t len) {
  for (const struct claim *c = db->claims; c; c = c->next)
    if ((document && c->document == document) || (c->path_len == len && memcmp(c->path, path, len) == 0)) return true;
  return false;
}

/* The current state of the path: its document number (0: none), table entry and current record. `own`: our claim does not stop us.
 */
static int look_up(sdb *db, struct change *c, record *current, bool *has_current) {
  for (;;) {
    *has_current = false;
    c->entry = (table_entry){0};
    c->document = 0;
    c->old_size = 0;
    int rc = tree_get(db->pager, VIEW_HEAD, db->roots.path_tree, c->path, c->path_len, &c->document);
    if (rc != SDB_OK && rc != SDB_NOT_FOUND) return rc;
    if (claim_conflicts(db, c->document, c->path, c->path_len)) {
      if (!db->e.threads) return env_fail(&db->e, SDB_INTERNAL, "a large write of the same document is being committed");
      pager_leave(db->pager, c->slot); /* who waits holds nobody up */
      cond_wait(&db->claim_free, pager_mutex(db->pager));
      c->slot = pager_enter(db->pager);
      continue;
    }
    if (c->document == 0) return SDB_OK;
    rc = table_get(db->table, VIEW_HEAD, c->document, &c->entry);
    if (rc == SDB_NOT_FOUND)
      return env_fail(&db->e, SDB_CORRUPT, "a path names a document that the table does not have; restore a copy");
    if (rc != SDB_OK) return rc;
    rc = document_version(db, VIEW_HEAD, c->document, &c->entry, SDB_CURRENT, current);
    if (rc == SDB_CORRUPT) return SDB_OK; /* a new version heals a damaged one: number and predecessor still count */
    if (rc != SDB_OK) return rc;
    *has_current = true;
    c->old_size = current->size;
    return SDB_OK;
  }
}

static int check_expectation(sdb *db, const sdb_put_options *o, const struct change *c) {
  if (!o || o->expect == SDB_ANY || o->expect == c->entry.version) return SDB_OK;
  if (o->expect == SDB_ABSENT)
    return env_fail(&db->e, SDB_CONFLICT, "the document exists already, at version %u", c->entry.version);
  if (!c->entry.version) return env_fail(&db->e, SDB_CONFLICT, "version %u was expected, but there is no document", o->expect);
  return env_fail(&db->e, SDB_CONFLICT, "version %u was expected, but %u is current", o->expect, c->entry.version);
}

/* Has a kept version been made by the write that carries this token? */
static bool token_known(sdb *db, const struct change *c, const record *current, bool has_current, const uint8_t *token,
                        record *found) {
  if (has_current && current->token && memcmp(current->token, token, 16) == 0) {
    *found = *current;
    return true;
  }
  if (!c->entry.previous) return false;
  return heap_read(&db->e, db->pager, VIEW_HEAD, c->entry.previous, found) == SDB_OK && id_document(found->id) == c->document &&
         found->token && memcmp(found->token, token, 16) == 0;
}

/* What follows once the change is applied and in the log, still under the lock. Returns the sequence to wait for, 0: none. */
static uint64_t commit_order(sdb *db, sdb_durability d) {
  uint64_t sequence = db->last_sequence;
  db->last_commit_us = db->e.storage->monotonic_us(db->e.storage->ctx);
  atomic_fetch_add_explicit(&db->n.commits, 1, memory_order_relaxed);
  if (log_open_bytes(db->log) >= PIECE_LIMIT) log_seal(db->log);
  if (d == SDB_DURABLE) {
    db->last_durable = sequence;
    return sequence;
  }
  if (d == SDB_BUFFERED && !db->unsynced_since_us) db->unsynced_since_us = db->last_commit_us;
  if (durable_waiting(db)) return db->last_durable; /* never visible before an earlier one */
  atomic_store(&db->lazy, true);
  if (++db->lazy_count >= LAZY_COMMITS) publish_lazy(db);
  return sequence - atomic_load(&db->synced_sequence) > MAX_UNSYNCED ? sequence : 0;
}

/* A refusal: its reason must have become visible before it is told. */
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

static int finish(sdb *db, uint64_t sequence, uint64_t wait_for, struct pressure pressure, sdb_durability d,
                  const sdb_put_options *o, sdb_commit *out) {
  int rc = SDB_OK;
  bool deferred = d == SDB_DURABLE && o && o->defer;
  if (wait_for && d != SDB_DURABLE) rc = become_visible(db, sequence, wait_for);
  else if (wait_for && !deferred) rc = wait_durable(db, wait_for);
  if (!wait_for && log_has_sealed(db->log)) { /* a large piece: hand it to the file now, so that memory stays small */
    log_own(db->log);
    rc = log_write(db->log);
    log_disown(db->log);
  }
  if (out) out->reached = d;
  work_after_commit(db, pressure);
  return rc;
}

/* --- Put
 * ----------------------------------------------------------------------------------------------------------------------------- */

/* Log and state, once everything is decided. */
static int store(sdb *db, struct change *c) {
  struct put_plan plan;
  size_t payload = align_up(LOG_OP_HEAD + c->r.total, 8);
  int rc = log_reserve(db->log, payload);
  if (rc == SDB_OK) rc = apply_put_prepare(db, c, &plan);
  if (rc != SDB_OK) return rc;
  uint8_t *op = log_append(db->log, LOG_COMMIT, ++db->last_sequence, 1, c->r.time_ms, payload);
  memset(op, 0, LOG_OP_HEAD);
  op[0] = OP_PUT;
  op[1] = c->created;
  put32(op + 4, c->r.total);
  apply_put(db, c, &plan);
  memcpy(op + LOG_OP_HEAD, plan.bytes, c->r.total);
  log_finish(db->log);
  db->roots.sequence = db->last_sequence;
  return SDB_OK;
}

static void fill_commit(sdb *db, sdb_commit *out, const struct change *c, const record *r, bool repeated) {
  if (!out) return;
  *out = (sdb_commit){.sequence = db->last_sequence, .created = c->created, .repeated = repeated};
  table_entry after = {.version = r->version, .previous = r->kept ? c->entry.current : 0};
  info_fill(&out->info, r, repeated ? &c->entry : &after);
}

/* Decides identity and version; c->r has content, path, token already. */
static int decide(sdb *db, struct change *c, const record *current, bool has_current) {
  uint64_t now = db->e.storage->now_ms(db->e.storage->ctx) & 0xFFFFFFFFFFFFull;
  int rc = SDB_OK;
  c->created = c->document == 0;
  if (c->created) rc = document_number(db, &c->document);
  if (rc != SDB_OK) return rc;
  if (has_current) memcpy(c->r.id, current->id, 16);
  else rc = id_make(&db->e, c->r.id, c->document, now);
  if (rc != SDB_OK) return env_fail(&db->e, rc, "no randomness for a document id");
  if (c->entry.version == UINT32_MAX - 1) return env_fail(&db->e, SDB_FULL, "the document has reached the last version number");
  c->r.version = c->entry.version + 1;
  c->r.kept = db->options.versions_to_keep > 1 && c->entry.current ? 1 : 0;
  c->r.time_ms = now;
  return SDB_OK;
}

/* Judges and applies; the writer's lock is held. *seen: the state a refusal rests on. */
static int put_locked(sdb *db, struct change *c, const sdb_put_options *o, bool *repeated) {
  record current, found;
  bool has_current;
  int rc = commit_ready(db);
  if (rc == SDB_OK) rc = collect(db, 2);
  if (rc == SDB_OK) rc = look_up(db, c, &current, &has_current);
  if (rc != SDB_OK) return rc;
  if (o && o->token && c->document && token_known(db, c, &current, has_current, o->token, &found)) {
    c->r = found;
    *repeated = true;
    return SDB_OK;
  }
  rc = check_expectation(db, o, c);
  if (rc == SDB_OK) rc = pager_admit(db->pager, MAX_RUNS + 8, 8, false);
  if (rc == SDB_OK) rc = decide(db, c, &current, has_current);
  if (rc != SDB_OK) return rc;
  if (durability_of(db, o) == SDB_DURABLE) publish_lazy(db);
  rc = store(db, c);
  if (rc != SDB_OK && c->created) document_number_return(db, c->document);
  return rc;
}

static void change_init(struct change *c, const void *path, size_t path_len, const sdb_put_options *o) {
  *c = (struct change){.path = path, .path_len = path_len};
  c->r.path = path;
  c->r.path_len = (uint16_t)path_len;
  if (o && o->token) c->r.token = o->token, c->r.flags |= RECORD_TOKEN;
}

static int put_end(sdb *db, int rc, struct change *c, bool repeated, const sdb_put_options *o, sdb_commit *out) {
  sdb_durability d = durability_of(db, o);
  uint64_t seen = db->last_sequence, wait_for = 0;
  if (rc == SDB_OK) fill_commit(db, out, c, &c->r, repeated);
  if (rc == SDB_OK && !repeated) wait_for = commit_order(db, d);
  struct pressure pressure = work_pressure(db);
  pager_leave(db->pager, c->slot);
  pager_unlock(db->pager);
  if (rc == SDB_OK && !repeated) return finish(db, seen, wait_for, pressure, d, o, out);
  if (rc == SDB_CONFLICT) return refuse(db, rc, seen);
  if (rc != SDB_OK) return rc;
  if (out) out->reached = d;
  return d == SDB_DURABLE ? wait_durable(db, seen) : refuse(db, SDB_OK, seen);
}

int commit_put(sdb *db, const void *path, size_t path_len, const void *data, const struct content *packed, const sdb_put_options *o,
               sdb_commit *out) {
  struct change c;
  bool repeated = false;
  change_init(&c, path, path_len, o);
  c.r.flags |= packed->flags;
  c.r.size = (uint32_t)packed->size;
  c.r.stored = packed->stored;
  c.r.stored_len = (uint32_t)packed->stored_len;
  c.r.digest = crc32c(0, data, packed->size);
  c.r.total = (uint32_t)record_measure(&c.r);
  pager_lock(db->pager);
  c.slot = pager_enter(db->pager);
  int rc = put_locked(db, &c, o, &repeated);
  return put_end(db, rc, &c, repeated, o, out);
}

/* --- Large documents
 * ------------------------------------------------------------------------------------------------------------------ */

/* Step one: who will this be? Others who want the document wait from here on. */
static int claim_take(sdb *db, struct change *c, struct claim *claim, const sdb_put_options *o, bool *repeated) {
  record current, found;
  bool has_current;
  int rc = commit_ready(db);
  if (rc == SDB_OK) rc = look_up(db, c, &current, &has_current);
  if (rc != SDB_OK) return rc;
  if (o && o->token && c->document && token_known(db, c, &current, has_current, o->token, &found)) {
    c->r = found;
    *repeated = true;
    return SDB_OK;
  }
  rc = check_expectation(db, o, c);
  if (rc == SDB_OK) rc = decide(db, c, &current, has_current);
  if (rc != SDB_OK) return rc;
  *claim = (struct claim){.next = db->claims, .document = c->document, .path = c->path, .path_len = c->path_len};
  db->claims = claim;
  return SDB_OK;
}

static void claim_release(sdb *db, const struct claim *claim) {
  struct claim **at = &db->claims;
  while (*at && *at != claim) at = &(*at)->next;
  if (*at) *at = claim->next;
  cond_broadcast(&db->claim_free);
}

int commit_large(sdb *db, const void *path, size_t path_len, extent_writer *w, const sdb_put_options *o, sdb_commit *out) {
  struct change c;
  struct claim claim;
  bool repeated = false;
  uint8_t stored[8 + 8 * MAX_RUNS];
  change_init(&c, path, path_len, o);
  c.r.flags |= RECORD_LARGE | (extent_packed(w) ? RECORD_SNAPPY : 0);
  c.r.size = (uint32_t)extent_written(w);
  c.r.digest = extent_digest(w);
  c.r.stored = stored;
  c.r.stored_len = (uint32_t)run_list_size(extent_runs(w)->count);
  c.r.total = (uint32_t)record_measure(&c.r);
  run_list_write(stored, extent_runs(w));

  pager_lock(db->pager);
  c.slot = pager_enter(db->pager);
  int rc = claim_take(db, &c, &claim, o, &repeated);
  if (rc != SDB_OK || repeated) return put_end(db, rc, &c, repeated, o, out);
  pager_leave(db->pager, c.slot);
  pager_unlock(db->pager);

  rc = extent_seal(w, &c.r); /* I4 */

  pager_lock(db->pager);
  c.slot = pager_enter(db->pager);
  if (rc == SDB_OK) rc = commit_ready(db);
  if (rc == SDB_OK) rc = collect(db, 2);
  if (rc == SDB_OK) rc = pager_admit(db->pager, MAX_RUNS + 8, 8, false);
  if (rc == SDB_OK && durability_of(db, o) == SDB_DURABLE) publish_lazy(db);
  if (rc == SDB_OK && !c.created) rc = table_get(db->table, VIEW_HEAD, c.document, &c.entry); /* the cleaner may have moved it */
  if (rc == SDB_OK) rc = store(db, &c);
  if (rc == SDB_OK) extent_keep(w);
  else if (c.created) document_number_return(db, c.document);
  claim_release(db, &claim);
  return put_end(db, rc, &c, false, o, out);
}

/* --- Delete
 * --------------------------------------------------------------------------------------------------------------------------- */

static int delete_locked(sdb *db, struct change *c, const sdb_put_options *o, bool *has_current) {
  int rc = commit_ready(db);
  if (rc == SDB_OK) rc = collect(db, 2);
  if (rc == SDB_OK) rc = look_up(db, c, &c->r, has_current);
  if (rc == SDB_OK) rc = check_expectation(db, o, c);
  if (rc == SDB_OK && !c->document) rc = SDB_NOT_FOUND;
  if (rc == SDB_OK) rc = pager_admit(db->pager, 8, 8, true);
  size_t payload = align_up(LOG_OP_HEAD + OP_DELETE_HEAD + c->path_len, 8);
  if (rc == SDB_OK) rc = log_reserve(db->log, payload);
  if (rc != SDB_OK) return rc;
  if (durability_of(db, o) == SDB_DURABLE) publish_lazy(db);
  uint8_t id[16] = {0};
  if (*has_current) memcpy(id, c->r.id, 16);
  else if (id_make(&db->e, id, c->document, 0) != SDB_OK) return env_fail(&db->e, SDB_IO, "no randomness for a document id");
  if (!*has_current) {
    c->r = (record){.version = c->entry.version};
    memcpy(c->r.id, id, 16);
  }
  rc = apply_delete(db, c);
  if (rc != SDB_OK) return rc;
  uint64_t now = db->e.storage->now_ms(db->e.storage->ctx);
  uint8_t *op = log_append(db->log, LOG_COMMIT, ++db->last_sequence, 1, now, payload);
  memset(op, 0, payload);
  op[0] = OP_DELETE;
  put32(op + 4, (uint32_t)(OP_DELETE_HEAD + c->path_len));
  op += LOG_OP_HEAD;
  memcpy(op, id, 16);
  put32(op + 16, c->entry.version);
  put16(op + 22, (uint16_t)c->path_len);
  memcpy(op + OP_DELETE_HEAD, c->path, c->path_len);
  log_finish(db->log);
  db->roots.sequence = db->last_sequence;
  return SDB_OK;
}

int commit_delete(sdb *db, const void *path, size_t path_len, const sdb_put_options *o, sdb_commit *out) {
  struct change c = {.path = path, .path_len = path_len};
  bool has_current = false;
  sdb_durability d = durability_of(db, o);
  pager_lock(db->pager);
  c.slot = pager_enter(db->pager);
  int rc = delete_locked(db, &c, o, &has_current);
  uint64_t seen = db->last_sequence, wait_for = 0;
  if (rc == SDB_OK) {
    fill_commit(db, out, &c, &c.r, false);
    wait_for = commit_order(db, d);
  }
  struct pressure pressure = work_pressure(db);
  pager_leave(db->pager, c.slot);
  pager_unlock(db->pager);
  if (rc == SDB_OK) return finish(db, seen, wait_for, pressure, d, o, out);
  return rc == SDB_CONFLICT || rc == SDB_NOT_FOUND ? refuse(db, rc, seen) : rc;
}
