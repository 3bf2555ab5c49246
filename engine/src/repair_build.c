/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* repair_build.c - the new database. Every version goes through the code that replays a log, so that records, trees and table come
 * to be as a commit would have made them; contents are verified while they are copied.
 */
#include <stdio.h>

#include "codec.h"
#include "repair.h"

enum { PUBLISH_EVERY = 64 };

int build_begin(repair *rp, const char *fresh) {
  const sdb_storage *st = rp->e.storage;
  char text[256] = "";
  sdb_options o = rp->options;
  o.create = true;
  o.read_only = false;
  o.threads = false;
  o.recovery_key = NULL; /* opens the damaged one */
  o.page_size = rp->g.page_size;
  if (o.wal_segment_size < 4 * o.page_size) o.wal_segment_size = 4 * o.page_size;
  o.message = text;
  o.message_size = sizeof text;
  int rc = st->remove(st->ctx, fresh); /* of an earlier attempt */
  if (rc != SDB_OK && rc != SDB_NOT_FOUND) return env_fail(&rp->e, rc, "cannot remove %s of an earlier attempt", fresh);
  rc = sdb_open(fresh, &o, &rp->to);
  return rc == SDB_OK ? SDB_OK : env_fail(&rp->e, rc, "%s", text);
}

/* One operation as from a log; see apply_record in recover.c. */
static int apply(repair *rp, uint8_t op, bool created, const uint8_t *body, uint32_t len) {
  sdb *db = rp->to;
  bool more = true;
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  int rc = collect(db, 2);
  if (rc == SDB_OK) rc = recover_apply(db, op, created, body, len);
  pager_leave(db->pager, slot);
  if (++rp->applied % PUBLISH_EVERY == 0) pager_publish(db->pager, pager_close_version(db->pager), db->last_sequence);
  bool due = pager_spill_due(db->pager);
  pager_unlock(db->pager);
  while (rc == SDB_OK && due && more) rc = pager_spill(db->pager, 256, &more);
  if (rc != SDB_OK) {
    char text[256];
    sdb_message(db, text, sizeof text);
    env_fail(&rp->e, rc, "%s", text);
  }
  return rc;
}

/* Who has that name in the new database? 0: nobody. */
static int owner(repair *rp, const void *path, size_t len, uint64_t *document) {
  sdb *db = rp->to;
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  int rc = tree_get(db->pager, VIEW_HEAD, db->roots.path_tree, path, len, document);
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
  if (rc == SDB_NOT_FOUND) *document = 0;
  return rc == SDB_NOT_FOUND ? SDB_OK : rc;
}

static int put_record(repair *rp, record *r, bool first) {
  r->total = (uint32_t)record_measure(r);
  if (r->total > rp->g.page_size - PAGE_HEADER) return SDB_TOO_LARGE;
  uint8_t *body = mem_alloc(&rp->e, r->total);
  if (!body) return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for a record");
  record_write(body, r);
  int rc = apply(rp, OP_PUT, first, body, r->total);
  mem_free(&rp->e, body);
  return rc;
}

static int copy_chunks(repair *rp, env *e, pager *p, const record *r, extent_writer *w) {
  extent_reader *x;
  uint32_t digest = 0;
  int rc = content_open(e, p, r, &x);
  if (rc != SDB_OK) return rc;
  for (uint32_t i = 0; rc == SDB_OK && i < extent_chunks(x); i++) {
    size_t len;
    rc = extent_chunk(x, i, rp->content, &len);
    if (rc == SDB_OK) digest = crc32c(digest, rp->content, len);
    if (rc == SDB_OK) rc = extent_write(w, rp->content, len);
  }
  extent_close(x);
  if (rc == SDB_OK) rc = extent_end(w);
  return rc == SDB_OK && digest != r->digest ? SDB_CORRUPT : rc;
}

static int put_large(repair *rp, env *e, pager *p, const record *from, record *r, bool first) {
  uint8_t stored[8 + 8 * MAX_RUNS];
  extent_writer *w;
  sdb *db = rp->to;
  int rc = extent_begin(&db->e, db->pager, r->path, r->path_len, r->size, r->size, (from->flags & RECORD_SNAPPY) != 0, &w);
  if (rc != SDB_OK) return env_fail(&rp->e, rc, "no room in the new database: %s", db->e.message);
  rc = copy_chunks(rp, e, p, from, w);
  if (rc == SDB_OK) {
    r->flags = (uint16_t)((r->flags & ~RECORD_SNAPPY) | (extent_packed(w) ? RECORD_SNAPPY : 0));
    r->stored = stored;
    r->stored_len = (uint32_t)run_list_size(extent_runs(w)->count);
    run_list_write(stored, extent_runs(w));
    rc = extent_seal(w, r);
  }
  if (rc == SDB_OK) rc = put_record(rp, r, first);
  if (rc == SDB_OK) extent_keep(w);
  extent_drop(w);
  return rc;
}

int build_version(repair *rp, env *e, pager *p, const record *from, const record *named, uint8_t kept, bool first) {
  record r = *from;
  uint64_t other = 0;
  r.flags &= (uint16_t) ~(RECORD_NAMES | RECORD_OLDER);
  r.path = named->path;
  r.path_len = named->path_len;
  r.kept = kept;
  int rc = first ? owner(rp, r.path, r.path_len, &other) : SDB_OK;
  if (rc == SDB_OK && other) return SDB_CONFLICT;
  if (rc != SDB_OK) return rc;
  if (r.flags & RECORD_LARGE) return put_large(rp, e, p, from, &r, first);
  rc = content_good(rp, e, p, &r);
  return rc == SDB_OK ? put_record(rp, &r, first) : rc;
}

int build_name(repair *rp, const uint8_t id[16], uint32_t version, const void *name, size_t len) {
  uint8_t body[OP_NAMES_HEAD + 2 + SDB_MAX_PATH] = {0};
  uint64_t other;
  int rc = owner(rp, name, len, &other);
  if (rc != SDB_OK || other) return rc == SDB_OK && other != id_document(id) ? SDB_CONFLICT : rc;
  memcpy(body, id, 16);
  put32(body + 16, version);
  body[21] = 1;
  put16(body + OP_NAMES_HEAD, (uint16_t)len);
  memcpy(body + OP_NAMES_HEAD + 2, name, len);
  return apply(rp, OP_BIND, false, body, (uint32_t)(OP_NAMES_HEAD + 2 + len));
}

int build_end(repair *rp) {
  sdb *db = rp->to;
  pager_lock(db->pager);
  pager_publish(db->pager, pager_close_version(db->pager), db->last_sequence);
  if (rp->sequence > db->last_sequence) db->last_sequence = rp->sequence;
  pager_unlock(db->pager);
  int rc = recover_seal(db);
  if (rc != SDB_OK) env_fail(&rp->e, rc, "the new database could not be completed: %s", db->e.message);
  int closed = sdb_close(db);
  rp->to = NULL;
  return rc == SDB_OK ? closed : rc;
}
