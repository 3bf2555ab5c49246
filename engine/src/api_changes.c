/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_changes.c - the feed of changes; the contract is sdb/changes.h.
 *
 * log_read.c brings whole commits; here they are taken apart into changes, one ahead, so that the last one of a commit says so.
 */
#include "sdb/changes.h"

#include "db.h"
#include "log_read.h"

struct sdb_changes {
  sdb *db;
  log_reader *reader;
  bool placed;    /* the reader stands where the feed does; false: behind commit `done`, which exists */
  int failed;     /* SDB_OK, or what is told from now on */
  uint64_t done;  /* shown whole, or passed over */
  log_record now; /* the commit being shown */
  unsigned op;    /* the operation to look at next */
  size_t at;      /* where it stands in the payload */
  bool ahead;     /* `change` is the next one to be shown */
  sdb_change change;
  uint16_t prefix_len;
  uint8_t prefix[SDB_MAX_PATH];
};

static uint64_t bound_of(sdb *db) { return atomic_load(&db->synced_sequence); }

static int place(sdb_changes *f, uint64_t bound) {
  int rc = log_reader_seek(f->reader, f->done, bound);
  f->placed = rc == SDB_OK;
  return rc;
}

static bool arguments_good(const sdb_position *after, const void *prefix, size_t prefix_len, sdb_changes **feed) {
  return after && feed && prefix_len <= SDB_MAX_PATH && (prefix || !prefix_len);
}

int sdb_changes_open(sdb *db, const sdb_position *after, const void *prefix, size_t prefix_len, sdb_changes **feed) {
  if (handle_check(db) != SDB_OK) return SDB_FORKED;
  if (!arguments_good(after, prefix, prefix_len, feed))
    return env_fail(&db->e, SDB_INVALID, "a feed needs a position, a place for the handle and a prefix of at most %u bytes",
                    SDB_MAX_PATH);
  if (after->epoch != db->epoch)
    return env_fail(&db->e, SDB_RESET, "the position belongs to another epoch of the database: its history was replaced");
  sdb_changes *f = mem_new(&db->e, sizeof *f);
  if (!f) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a feed of changes");
  f->db = db;
  f->done = after->sequence;
  f->prefix_len = (uint16_t)prefix_len;
  if (prefix_len) memcpy(f->prefix, prefix, prefix_len);
  uint64_t bound = bound_of(db);
  int rc = log_reader_open(db->log, &f->reader);
  if (rc == SDB_OK && f->done != bound) rc = place(f, bound);
  if (rc != SDB_OK) {
    sdb_changes_close(f);
    return rc;
  }
  *feed = f;
  return SDB_OK;
}

void sdb_changes_close(sdb_changes *f) {
  if (!f || handle_check(f->db) != SDB_OK) return;
  log_reader_close(f->reader);
  mem_free(&f->db->e, f);
}

/* --- Taking a commit apart ---------------------------------------------------------------------------------------------------- */

static bool wanted(const sdb_changes *f, const record *names, sdb_change *c) {
  for (unsigned i = 0; i < record_names(names); i++) {
    c->path = record_name(names, i, &c->path_len);
    if (c->path_len >= f->prefix_len && memcmp(c->path, f->prefix, f->prefix_len) == 0) return true;
  }
  return false;
}

static void describe_put(const record *r, sdb_change *c) {
  memcpy(c->id, r->id, 16);
  c->version = r->version;
  c->size = r->size;
  c->digest = r->digest;
  c->time_ms = r->time_ms;
  c->expires_ms = r->flags & RECORD_EXPIRES ? r->expires_ms : 0;
  c->token = r->token;
  if (r->flags & RECORD_TYPE) c->content_type = (const char *)r->type, c->content_type_len = r->type_len;
  if (r->flags & RECORD_METADATA) c->metadata = r->metadata, c->metadata_len = r->metadata_len;
}

/* One operation. SDB_END: it is not for this feed. */
static int describe(const sdb_changes *f, uint8_t code, const uint8_t *body, uint32_t len, sdb_change *c) {
  record r;
  *c = (sdb_change){.sequence = f->now.sequence, .commit_ms = f->now.time_ms, .operation = (sdb_operation)code};
  if (code == OP_PUT) {
    if (record_parse(&r, body, len) != SDB_OK) return SDB_CORRUPT;
    describe_put(&r, c);
  } else {
    if (code > OP_UNBIND || code < OP_DELETE || !op_names_parse(body, len, &r)) return SDB_CORRUPT;
    memcpy(c->id, body, 16);
    c->version = get32(body + 16);
    c->expired = code == OP_DELETE && body[20] == CAUSE_EXPIRED;
  }
  return wanted(f, &r, c) ? SDB_OK : SDB_END;
}

/* Looks for the next change of the commit at hand; f->ahead says whether there is one. */
static int look_ahead(sdb_changes *f) {
  f->ahead = false;
  while (f->op < f->now.ops) {
    const uint8_t *op = f->now.payload + f->at;
    size_t left = f->now.payload_len - f->at;
    uint32_t len = left >= LOG_OP_HEAD ? get32(op + 4) : UINT32_MAX;
    int rc = left >= LOG_OP_HEAD && len <= left - LOG_OP_HEAD ? describe(f, op[0], op + LOG_OP_HEAD, len, &f->change) : SDB_CORRUPT;
    if (rc == SDB_CORRUPT)
      return env_fail(&f->db->e, rc, "the log record of commit %llu verifies but makes no sense",
                      (unsigned long long)f->now.sequence);
    size_t size = align_up(LOG_OP_HEAD + (size_t)len, 8);
    f->at += size < left ? size : left;
    f->op++;
    f->ahead = rc == SDB_OK;
    if (f->ahead) return SDB_OK;
  }
  return SDB_OK;
}

/* The next commit with something for this feed. */
static int next_commit(sdb_changes *f) {
  uint64_t bound = bound_of(f->db);
  int rc = SDB_OK;
  if (!f->placed && f->done == bound) return absent(f->db, SDB_END);
  if (!f->placed) rc = place(f, bound);
  while (rc == SDB_OK) {
    rc = log_reader_next(f->reader, bound, &f->now);
    if (rc == SDB_END) f->done = log_reader_position(f->reader);
    if (rc == SDB_END) return absent(f->db, SDB_END);
    if (rc != SDB_OK) break;
    f->op = 0;
    f->at = 0;
    rc = look_ahead(f);
    if (rc == SDB_OK && f->ahead) return SDB_OK;
    if (rc == SDB_OK) f->done = f->now.sequence;
  }
  return rc;
}

int sdb_changes_next(sdb_changes *f, sdb_change *out) {
  int rc = handle_check(f->db);
  if (rc == SDB_OK) rc = f->failed;
  if (rc == SDB_OK && !f->ahead) rc = next_commit(f);
  if (rc == SDB_END) return rc;
  sdb_change found = f->change;
  if (rc == SDB_OK) rc = look_ahead(f);
  if (rc != SDB_OK) return f->failed = rc;
  found.last = !f->ahead;
  if (found.last) f->done = found.sequence;
  *out = found;
  return SDB_OK;
}

void sdb_changes_position(const sdb_changes *f, sdb_position *position) {
  *position = (sdb_position){.epoch = f->db->epoch, .sequence = f->done};
}

int sdb_changes_range(sdb *db, sdb_position *oldest, sdb_position *newest) {
  uint64_t epoch = db->epoch, bound = bound_of(db);
  if (handle_check(db) != SDB_OK) return SDB_FORKED;
  if (oldest) {
    log_reader *r;
    uint64_t sequence;
    int rc = log_reader_open(db->log, &r);
    if (rc != SDB_OK) return rc;
    rc = log_reader_oldest(r, bound, &sequence);
    log_reader_close(r);
    if (rc != SDB_OK) return rc;
    *oldest = (sdb_position){.epoch = epoch, .sequence = sequence};
  }
  if (newest) *newest = (sdb_position){.epoch = epoch, .sequence = bound};
  return SDB_OK;
}

/* --- Waiting ------------------------------------------------------------------------------------------------------------------ */

int sdb_changes_wait(sdb_changes *f, uint32_t timeout_ms) {
  sdb *db = f->db;
  const sdb_storage *st = db->e.storage;
  uint64_t end = st->monotonic_us(st->ctx) + timeout_ms * 1000ull, now = 0;
  uint64_t seen = f->placed ? log_reader_position(f->reader) : f->done;
  bool failed = false;
  if (handle_check(db) != SDB_OK) return SDB_FORKED;
  if (f->ahead || f->failed != SDB_OK) return f->failed;
  atomic_fetch_add(&db->feed_waiters, 1);
  mutex_lock(&db->feed_lock);
  while (bound_of(db) <= seen && db->e.threads && now < end) {
    failed = atomic_load(&db->e.sync_failed);
    now = st->monotonic_us(st->ctx);
    if (failed) break;
    if (now < end) cond_wait_for(&db->feed_moved, &db->feed_lock, end - now < 100000 ? end - now : 100000);
  }
  mutex_unlock(&db->feed_lock);
  atomic_fetch_sub(&db->feed_waiters, 1);
  if (bound_of(db) > seen) return SDB_OK;
  return failed ? env_fail(&db->e, SDB_SYNC_FAILED, "a write or sync failed; no further change becomes durable") : SDB_END;
}
