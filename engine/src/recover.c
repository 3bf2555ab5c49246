/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* recover.c - from a checkpoint and a log to the state before the crash.
 *
 *   1 read    every record from the slot's position is verified; extents that it names are taken out of free space
 *   2 apply   the same records again, through the same code as commits, without clock, options or chance (I5)
 *   3 seal    a whole checkpoint; the first write begins a fresh log segment with a fresh salt (I7)
 *
 * After a clean close there is nothing behind the position, the log is not even looked at, and none of this happens. Opened for
 * reading, step 3 is left out: the applied state lives in memory. Damage in the middle of the log (not a torn tail) makes the
 * database read-only.
 *
 * Damage in the data file that step 2 meets:
 *
 *     suffix, expiry tree      another one is begun, as when a commit meets it (names.c, rebuild.c)
 *     path tree                made again at once, to its end, from the records as they are at that operation; then it goes on
 *     path tree, names lost    the operation is left out and its document answers SDB_CORRUPT; everything else is applied.
 *       table, map             Nothing counts on disk then: the log alone has what was left out, so it must stay
 *     bitmap                   applied in memory: which place is free is not known
 */
#include "db.h"

enum { SEQUENCE_GAP = 1 << 20, BREATHE_EVERY = 64, UNIT_PAGES = 256 };

enum beside_state { BESIDE_IDLE, BESIDE_GIVEN, BESIDE_WRITTEN, BESIDE_END };

/* A second thread writes pages ahead while the replay goes on: one batch at a time, chosen and settled by the replay, so that it
 * needs no lock. */
struct beside {
  sdb *db;
  void *thread; /* NULL: none */
  struct mutex lock;
  struct cond moved;
  enum beside_state state;
  int written;
};

struct replay {
  sdb *db;
  uint64_t after; /* sequence that the checkpoint contains */
  uint64_t applied;
  bool blind; /* which places are free is not known: nothing may be written */
  unsigned slot;
  struct beside beside;
};

static int bad(sdb *db, const log_record *r) {
  return env_fail(&db->e, SDB_CORRUPT, "the log record of commit %llu verifies but makes no sense; restore a copy",
                  (unsigned long long)r->sequence);
}

/* Calls `op` for each operation of a commit. */
static int for_ops(struct replay *rp, const log_record *r,
                   int (*op)(struct replay *rp, const log_record *r, uint8_t code, uint8_t flags, const uint8_t *body,
                             uint32_t len)) {
  size_t at = 0;
  if (r->kind != LOG_COMMIT || r->sequence <= rp->after) return SDB_OK;
  for (unsigned i = 0; i < r->ops; i++) {
    if (r->payload_len - at < LOG_OP_HEAD) return bad(rp->db, r);
    uint32_t len = get32(r->payload + at + 4);
    if (len > r->payload_len - at - LOG_OP_HEAD) return bad(rp->db, r);
    int rc = op(rp, r, r->payload[at], r->payload[at + 1], r->payload + at + LOG_OP_HEAD, len);
    if (rc != SDB_OK) return rc;
    at += align_up(LOG_OP_HEAD + len, 8);
    if (at > r->payload_len) at = r->payload_len;
  }
  return SDB_OK;
}

/* --- Pass 1 ------------------------------------------------------------------------------------------------------------------- */

bool op_names_parse(const uint8_t *body, uint32_t len, record *named) {
  size_t at = OP_NAMES_HEAD;
  unsigned count = len >= OP_NAMES_HEAD ? body[21] : 0;
  if (count < 1 || count > MAX_NAMES) return false;
  for (unsigned i = 0; i < count; i++) {
    size_t n = len - at >= 2 ? get16(body + at) : 0;
    if (n < 1 || n > SDB_MAX_PATH || n > len - at - 2) return false;
    at += 2 + n;
  }
  *named =
      (record){.path = body + OP_NAMES_HEAD + 2, .path_len = get16(body + OP_NAMES_HEAD), .flags = count > 1 ? RECORD_NAMES : 0};
  named->names = named->path + named->path_len;
  named->names_len = (uint32_t)(body + len - named->names);
  named->name_count = (uint8_t)(count - 1);
  return at == len;
}

static int verify_op(struct replay *rp, const log_record *r, uint8_t code, uint8_t flags, const uint8_t *body, uint32_t len) {
  record rec;
  run_list l;
  (void)flags;
  if (code == OP_DELETE || code == OP_BIND || code == OP_UNBIND)
    return op_names_parse(body, len, &rec) && (code == OP_DELETE || record_names(&rec) == 1) ? SDB_OK : bad(rp->db, r);
  if (code != OP_PUT || record_parse(&rec, body, len) != SDB_OK || rec.total != len) return bad(rp->db, r);
  if (rec.total > page_size(rp->db->pager) - PAGE_HEADER || rec.flags & RECORD_OLDER) return bad(rp->db, r);
  if (!(rec.flags & RECORD_LARGE)) return SDB_OK;
  if (run_list_parse(&l, &rec) != SDB_OK) return bad(rp->db, r);
  for (uint32_t i = 0; i < l.count; i++) {
    int rc = pager_hold_run(rp->db->pager, l.runs[i]);
    rp->blind |= rc == SDB_CORRUPT;
    if (rc != SDB_OK && rc != SDB_CORRUPT) return rc == SDB_INVALID ? bad(rp->db, r) : rc;
  }
  return SDB_OK;
}

static int verify_record(void *user, const log_record *r) { return for_ops(user, r, verify_op); }

/* --- Pass 2 ------------------------------------------------------------------------------------------------------------------- */

/* The state before, as a commit found it. */
static int fetch(sdb *db, struct change *c) {
  int rc = table_get(db->table, VIEW_HEAD, c->document, &c->entry);
  if (rc == SDB_NOT_FOUND) return SDB_OK;
  if (rc != SDB_OK) return rc;
  rc = document_version(db, VIEW_HEAD, c->document, &c->entry, SDB_CURRENT, &c->old);
  c->has_old = rc == SDB_OK;
  return rc == SDB_CORRUPT ? SDB_OK : rc;
}

static int replay_put(sdb *db, const log_record *r, struct change *c, const uint8_t *body, uint32_t len) {
  if (record_parse(&c->r, body, len) != SDB_OK) return bad(db, r);
  c->document = id_document(c->r.id);
  int rc = fetch(db, c);
  if (rc != SDB_OK) return rc;
  if (c->created ? c->entry.version != 0 : c->r.version != c->entry.version + 1) return bad(db, r);
  if (c->created) rc = names_get(db, VIEW_HEAD, c->r.path, c->r.path_len, &c->stray);
  if (rc == SDB_NOT_FOUND) c->stray = 0;
  else if (rc != SDB_OK) return rc;
  rc = pager_admit(db->pager, MAX_RUNS + 8, 8, true);
  return rc == SDB_OK ? apply_put(db, c) : rc;
}

static int replay_names(sdb *db, const log_record *r, struct change *c, const uint8_t *body, uint32_t len) {
  c->document = id_document(body);
  if (!op_names_parse(body, len, &c->named)) return bad(db, r);
  int rc = fetch(db, c);
  if (rc != SDB_OK) return rc;
  if (c->entry.version == 0) return bad(db, r);
  c->name = c->named.path;
  c->name_len = c->named.path_len;
  rc = pager_admit(db->pager, 8, 8, true);
  if (rc == SDB_OK) rc = c->op == OP_DELETE ? apply_delete(db, c) : apply_names(db, c);
  return rc == SDB_NOT_FOUND ? bad(db, r) : rc;
}

static int apply_once(sdb *db, const log_record *r, uint8_t code, bool created, const uint8_t *body, uint32_t len) {
  struct change c = {.op = code, .created = created};
  int rc = code == OP_PUT ? replay_put(db, r, &c, body, len) : replay_names(db, r, &c, body, len);
  if (rc == SDB_OK) apply_end(db, &c);
  mem_free(&db->e, c.scratch);
  return rc;
}

int recover_apply(sdb *db, uint8_t code, bool created, const uint8_t *body, uint32_t len) {
  const log_record none = {.sequence = db->last_sequence};
  return apply_once(db, &none, code, created, body, len);
}

static void beside_main(void *arg) {
  struct beside *b = arg;
  mutex_lock(&b->lock);
  for (;;) {
    while (b->state == BESIDE_IDLE || b->state == BESIDE_WRITTEN) cond_wait(&b->moved, &b->lock);
    if (b->state == BESIDE_END) break;
    mutex_unlock(&b->lock);
    int rc = pager_ahead_write(b->db->pager);
    mutex_lock(&b->lock);
    b->written = rc;
    b->state = BESIDE_WRITTEN;
    cond_signal(&b->moved);
  }
  mutex_unlock(&b->lock);
}

static void beside_start(struct beside *b, sdb *db) {
  const sdb_storage *st = db->e.storage;
  *b = (struct beside){.db = db};
  mutex_init(&b->lock);
  cond_init(&b->moved);
  if (db->e.threads && !db->read_only && st->thread_start(st->ctx, beside_main, b, &b->thread) != SDB_OK) b->thread = NULL;
}

static void beside_set(struct beside *b, enum beside_state state) {
  mutex_lock(&b->lock);
  b->state = state;
  cond_signal(&b->moved);
  mutex_unlock(&b->lock);
}

/* Settles the batch that was given; *busy: it is still being written, and `wait` was not asked for. */
static int beside_take(struct beside *b, bool wait, bool *busy) {
  mutex_lock(&b->lock);
  while (wait && b->state == BESIDE_GIVEN) cond_wait(&b->moved, &b->lock);
  bool written = b->state == BESIDE_WRITTEN;
  *busy = b->state == BESIDE_GIVEN;
  if (written) b->state = BESIDE_IDLE;
  mutex_unlock(&b->lock);
  if (!written) return SDB_OK;
  pager_ahead_settle(b->db->pager);
  return b->written;
}

static int beside_turn(struct beside *b) {
  pager *p = b->db->pager;
  for (;;) {
    bool busy, some = false, crowded = pager_crowded(p);
    int rc = beside_take(b, crowded, &busy);
    if (rc != SDB_OK || busy) return rc;
    rc = pager_ahead_choose(p, UNIT_PAGES, &some);
    if (some) beside_set(b, BESIDE_GIVEN);
    if (rc != SDB_OK || !some || !crowded) return rc;
  }
}

static int beside_stop(struct beside *b) {
  bool busy;
  int rc = SDB_OK;
  if (b->thread) {
    rc = beside_take(b, true, &busy);
    beside_set(b, BESIDE_END);
    b->db->e.storage->thread_join(b->db->e.storage->ctx, b->thread);
  }
  mutex_destroy(&b->lock);
  cond_destroy(&b->moved);
  return rc;
}

static int write_ahead(sdb *db) {
  bool more = pager_spill_due(db->pager) && !db->read_only;
  int rc = SDB_OK;
  pager_unlock(db->pager);
  while (rc == SDB_OK && more) rc = pager_spill(db->pager, UNIT_PAGES, &more);
  pager_lock(db->pager);
  return rc;
}

/* Now and then the pager is left, so that memory of pages that were replaced comes back. */
static int breathe(void *user) {
  struct replay *rp = user;
  pager_leave(rp->db->pager, rp->slot);
  int rc = rp->beside.thread ? beside_turn(&rp->beside) : write_ahead(rp->db);
  rp->slot = pager_enter(rp->db->pager);
  return rc;
}

/* *mended: the path tree was what was damaged, and is whole again. */
static int mend(struct replay *rp, bool *mended) {
  sdb *db = rp->db;
  *mended = false;
  if (!atomic_load(&db->path_damaged) || db->rebuild.given_up) return SDB_OK;
  int rc = rebuild_path_now(db, breathe, rp);
  *mended = rc == SDB_OK;
  return rc == SDB_CORRUPT ? SDB_OK : rc;
}

/* A number behind the last one is that of no document that anybody can find. */
static int leave_out(sdb *db, const uint8_t id[16]) {
  uint64_t document = id_document(id), limit = align_up(db->roots.doc_limit, 8);
  db->behind.operations++;
  if (document >= limit) return SDB_OK;
  if (limit > db->behind.limit) {
    uint8_t *bits = mem_resize(&db->e, db->behind.documents, limit / 8);
    if (!bits) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for %llu documents", (unsigned long long)limit);
    memset(bits + db->behind.limit / 8, 0, (limit - db->behind.limit) / 8);
    db->behind.documents = bits;
    db->behind.limit = limit;
  }
  db->behind.documents[document >> 3] |= (uint8_t)(1u << (document & 7));
  return SDB_OK;
}

static int apply_op(struct replay *rp, const log_record *r, uint8_t code, uint8_t flags, const uint8_t *body, uint32_t len) {
  sdb *db = rp->db;
  record named;
  bool created = code == OP_PUT && flags & 1, mended = false;
  int rc = apply_once(db, r, code, created, body, len), made = rc == SDB_CORRUPT ? mend(rp, &mended) : SDB_OK;
  if (made != SDB_OK) return made;
  if (mended) rc = apply_once(db, r, code, created, body, len);
  if (rc != SDB_CORRUPT) return rc;
  if (code != OP_PUT) return leave_out(db, body);
  rc = record_parse(&named, body, len);
  return rc == SDB_OK ? leave_out(db, named.id) : rc;
}

static int apply_record(void *user, const log_record *r) {
  struct replay *rp = user;
  sdb *db = rp->db;
  if (r->kind != LOG_COMMIT || r->sequence <= rp->after) return SDB_OK;
  int rc = collect(db, 2);
  if (rc == SDB_OK) rc = for_ops(rp, r, apply_op);
  if (rc != SDB_OK) return rc;
  db->last_sequence = db->roots.sequence = r->sequence;
  bool due = pager_spill_due(db->pager) && !db->read_only; /* a record may be half a segment: asked after each */
  return ++rp->applied % BREATHE_EVERY == 0 || due ? breathe(rp) : SDB_OK;
}

/* Nobody reads yet, so no state in between is kept: pages are copied once at most, and the lock is not given up for others. */
static int apply_log(struct replay *rp, const log_place *from, const log_scan_result *verified) {
  pager *p = rp->db->pager;
  pager_lock(p);
  pager_publish(p, pager_open_version(p), rp->db->last_sequence);
  beside_start(&rp->beside, rp->db);
  rp->slot = pager_enter(p);
  int rc = log_scan_again(rp->db->log, from, verified, apply_record, rp);
  /* The first chance of what the device does not give; the checkpoint's is the last. */
  if (rc == SDB_OK) rc = collect(rp->db, UINT32_MAX);
  if (rc == SDB_OK && whole_check(rp->db) != SDB_OK) rc = SDB_IO; /* half an operation is no state, not even to be read */
  pager_leave(p, rp->slot);
  int written = beside_stop(&rp->beside);
  if (rc == SDB_OK) rc = written;
  pager_publish(p, pager_close_version(p), rp->db->last_sequence);
  pager_unlock(p);
  return rc;
}

/* --- All of it ---------------------------------------------------------------------------------------------------------------- */

/* A checkpoint that needs nothing behind it: from here on every byte that counts was made durable by this process. The first write
 * begins a fresh segment with a fresh salt; what stands before is kept for readers of changes, as behind any checkpoint. */
int recover_seal(sdb *db) {
  db->last_sequence += SEQUENCE_GAP; /* I6 */
  db->roots.sequence = db->last_sequence;
  atomic_store(&db->visible_sequence, db->last_sequence);
  atomic_store(&db->synced_sequence, db->last_sequence);
  db->last_commit_us = db->e.storage->monotonic_us(db->e.storage->ctx); /* the log is about to go on */
  log_own(db->log);
  log_skip(db->log, pager_header(db->pager)->log.position);
  log_disown(db->log);
  return work_checkpoint(db, WORK_RECOVERED);
}

/* Opened all the same: what verifies is served, and nothing is written, so that log and file stay what a repair needs. */
static int only_read(sdb *db, const log_scan_result *result) {
  unsigned long long sequence = (unsigned long long)db->last_sequence, left_out = (unsigned long long)db->behind.operations;
  db->read_only = db->log_damaged = true;
  if (result->damaged)
    env_fail(
        &db->e, SDB_CORRUPT,
        "the log is damaged behind commit %llu (position %llu); open for reading only, with the state before that; restore a copy",
        sequence, (unsigned long long)result->end);
  else if (left_out)
    env_fail(&db->e, SDB_CORRUPT,
             "%llu operations of the log could not be applied, because what they change is damaged; open for reading only, without "
             "them; repair the database or restore a copy",
             left_out);
  else
    env_fail(&db->e, SDB_CORRUPT,
             "the log was applied in memory only, because what says where there is room in the data file is damaged; open for "
             "reading only; repair the database or restore a copy");
  return SDB_OK;
}

int recover(sdb *db) {
  const header h = *pager_header(db->pager);
  struct replay rp = {.db = db, .after = h.roots.sequence};
  log_scan_result result;
  db->last_sequence = h.roots.sequence;
  db->checkpoint_tail = h.log.position;
  db->expiry_now_ms = h.written_ms;
  atomic_store(&db->visible_sequence, db->last_sequence);
  atomic_store(&db->synced_sequence, db->last_sequence);
  if (h.clean) log_past(db->log, &h.log, h.roots.sequence);
  if (h.clean)
    return pager_settle(db->pager); /* the mark is taken off, synced, before the first record is written (commit_ready) */
  int rc = log_scan(db->log, &h.log, verify_record, &rp, &result);
  if (rc != SDB_OK) return rc;
  if (!result.covered)
    return env_fail(&db->e, SDB_MISMATCH,
                    "the log is missing, unreadable or of another time: %s was not closed cleanly, and no *.log.* file beside it "
                    "holds what followed; put them back or restore a copy",
                    db->name);
  if (!result.damaged) rc = pager_settle(db->pager);
  if (rc != SDB_OK) return rc;
  if (result.records) {
    if (result.damaged || rp.blind) db->read_only = true;
    rc = apply_log(&rp, &h.log, &result);
  }
  if (rc == SDB_OK && pager_faults(db->pager)) rc = pager_fault_error(db->pager); /* what was judged may rest on zeros */
  if (rc != SDB_OK) return rc;
  db->recovered = rp.applied;
  atomic_store(&db->visible_sequence, db->last_sequence);
  atomic_store(&db->synced_sequence, db->last_sequence);
  log_place end = {.position = result.end, .chain = result.chain};
  bool damaged = result.damaged || rp.blind || db->behind.operations > 0;
  log_past(db->log, &end, db->last_sequence + (db->read_only || damaged ? 0 : SEQUENCE_GAP));
  if (damaged) return only_read(db, &result);
  if (db->read_only) return SDB_OK;
  rc = recover_seal(db);
  return rc == SDB_CORRUPT ? only_read(db, &result) : rc;
}
