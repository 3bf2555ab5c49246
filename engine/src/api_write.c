/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_write.c - puts, deletes, names, and writing piece by piece; the contract is sdb/sdb.h. */
#include "api_write.h"

#include "codec.h"

/* --- Options ------------------------------------------------------------------------------------------------------------------ */

int change_put(sdb *db, struct change *c, const void *path, size_t path_len, const sdb_put_options *o) {
  *c = (struct change){.op = OP_PUT, .path = path, .path_len = path_len, .expect = SDB_ANY};
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  c->r.path_len = (uint16_t)path_len;
  if (!o) return SDB_OK;
  if (o->size != sizeof *o || o->durability > SDB_NONE)
    return env_fail(&db->e, SDB_INVALID, "put options were not set with sdb_put_options_init of this library");
  size_t type_len = o->content_type ? strlen(o->content_type) : 0;
  if (type_len > SDB_MAX_CONTENT_TYPE)
    return env_fail(&db->e, SDB_INVALID, "a content type has at most %u bytes, not %zu", SDB_MAX_CONTENT_TYPE, type_len);
  if (o->metadata_len > SDB_MAX_METADATA || (!o->metadata && o->metadata_len))
    return env_fail(&db->e, SDB_INVALID, "metadata has at most %u bytes, not %zu", SDB_MAX_METADATA, o->metadata_len);
  c->expect = o->expect;
  if (o->expires_ms) c->r.flags |= RECORD_EXPIRES;
  if (o->token) c->r.flags |= RECORD_TOKEN;
  if (type_len) c->r.flags |= RECORD_TYPE;
  if (o->metadata_len) c->r.flags |= RECORD_METADATA;
  c->r.expires_ms = o->expires_ms;
  c->r.token = o->token;
  c->r.type = (const uint8_t *)o->content_type;
  c->r.type_len = (uint8_t)type_len;
  c->r.metadata = o->metadata;
  c->r.metadata_len = (uint16_t)o->metadata_len;
  return SDB_OK;
}

/* --- Contents ----------------------------------------------------------------------------------------------------------------- */

/* Copies the bytes to *at, which moves on. */
static const uint8_t *keep(uint8_t **at, const void *bytes, size_t len) {
  uint8_t *to = *at;
  if (len) memcpy(to, bytes, len);
  *at += len;
  return len ? to : NULL;
}

void change_keep(struct change *c, uint8_t **at) {
  c->path = keep(at, c->path, c->path_len);
  c->r.token = keep(at, c->r.token, c->r.token ? 16 : 0);
  c->r.type = keep(at, c->r.type, c->r.type_len);
  c->r.metadata = keep(at, c->r.metadata, c->r.metadata_len);
}

int document_size_check(sdb *db, uint64_t len) {
  if (len <= db->options.max_document_size) return SDB_OK;
  return env_fail(&db->e, SDB_TOO_LARGE, "a document of %llu bytes is larger than the %llu allowed", (unsigned long long)len,
                  (unsigned long long)db->options.max_document_size);
}

bool change_is_large(const sdb *db, const struct change *c, uint64_t len) {
  return record_measure(&c->r) + len > heap_limit(db->pager);
}

void change_small(struct change *c, const struct content *packed) {
  c->r.flags = (uint16_t)((c->r.flags & ~(RECORD_LARGE | RECORD_SNAPPY)) | packed->flags);
  c->r.size = (uint32_t)packed->size;
  c->r.stored = packed->stored;
  c->r.stored_len = (uint32_t)packed->stored_len;
  c->r.digest = packed->digest;
}

void change_large(struct change *c, extent_writer *w, uint8_t stored[RUNS_MAX_BYTES]) {
  c->extent = w;
  c->r.flags = (uint16_t)((c->r.flags & ~RECORD_SNAPPY) | RECORD_LARGE | (extent_packed(w) ? RECORD_SNAPPY : 0));
  c->r.size = (uint32_t)extent_written(w);
  c->r.digest = extent_digest(w);
  c->r.stored = stored;
  c->r.stored_len = (uint32_t)run_list_size(extent_runs(w)->count);
  run_list_write(stored, extent_runs(w));
}

/* --- Room --------------------------------------------------------------------------------------------------------------------- */

/* The file is full: what was deleted before may be waiting for a checkpoint, or stand beside what was not in the same pages. */
static bool room_made(void *user) {
  sdb *db = user;
  pager_lock(db->pager);
  bool waiting = pager_starved(db->pager) || db->dropped_count > 0 || clean_possible(db);
  pager_unlock(db->pager);
  return waiting && work_checkpoint(db, WORK_ASKED) == SDB_OK;
}

int commit_try(sdb *db, struct commit *q) {
  int rc = commit_run(db, q);
  return rc == SDB_FULL && room_made(db) ? commit_run(db, q) : rc;
}

static int commit_one(sdb *db, struct change *c, const sdb_put_options *o, sdb_commit *out) {
  struct commit q = {.ops = c, .count = 1, .durability = o ? o->durability : SDB_DEFAULT, .defer = o && o->defer};
  int rc = commit_try(db, &q);
  if (rc == SDB_OK && out) *out = c->result;
  return rc;
}

static int extent_start(sdb *db, const struct change *c, uint64_t size, extent_writer **w) {
  uint64_t most = db->options.max_document_size;
  bool compress = db->options.use_compression;
  int rc = extent_begin(&db->e, db->pager, c->path, (uint16_t)c->path_len, size, most, compress, w);
  if (rc == SDB_FULL && room_made(db))
    rc = extent_begin(&db->e, db->pager, c->path, (uint16_t)c->path_len, size, most, compress, w);
  if (rc == SDB_OK) extent_when_full(*w, room_made, db);
  return rc;
}

int extent_of(sdb *db, const struct change *c, const void *data, size_t len, extent_writer **w) {
  int rc = extent_start(db, c, len, w);
  if (rc != SDB_OK) return rc;
  rc = extent_write(*w, data, len);
  if (rc == SDB_OK) rc = extent_end(*w);
  if (rc == SDB_OK) return SDB_OK;
  extent_drop(*w);
  return rc;
}

/* --- Put ---------------------------------------------------------------------------------------------------------------------- */

static int put_large(sdb *db, const struct change *asked, const void *data, size_t len, const sdb_put_options *o, sdb_commit *out) {
  struct change c = *asked;
  uint8_t stored[RUNS_MAX_BYTES];
  extent_writer *w;
  pager_lock(db->pager);
  int rc = commit_ready(db); /* refuse before anything is written */
  pager_unlock(db->pager);
  if (rc == SDB_OK) rc = extent_of(db, &c, data, len, &w);
  if (rc != SDB_OK) return rc;
  change_large(&c, w, stored);
  rc = commit_one(db, &c, o, out);
  extent_drop(w);
  return rc;
}

/* Beside many names even a small content may not fit into a page. */
static int put_as_fits(sdb *db, const struct change *asked, const void *data, size_t len, const sdb_put_options *o,
                       sdb_commit *out) {
  struct content packed;
  struct change c = *asked;
  int rc = SDB_TOO_LARGE;
  content_pack(db, data, len, &packed);
  bool small = !change_is_large(db, asked, packed.stored_len);
  if (small) {
    change_small(&c, &packed);
    rc = commit_one(db, &c, o, out);
  }
  content_drop(db, &packed);
  return rc == SDB_TOO_LARGE ? put_large(db, asked, data, len, o, out) : rc;
}

int sdb_put(sdb *db, const void *path, size_t path_len, const void *data, size_t len, const sdb_put_options *o, sdb_commit *out) {
  struct change c;
  int rc = change_put(db, &c, path, path_len, o);
  if (rc == SDB_OK && !data && len) rc = env_fail(&db->e, SDB_INVALID, "no data was given, but %zu bytes of it", len);
  if (rc == SDB_OK) rc = document_size_check(db, len);
  if (rc != SDB_OK) return rc;
  rc = put_as_fits(db, &c, data, len, o, out);
  if (rc == SDB_OK) atomic_fetch_add_explicit(&db->n.puts, 1, memory_order_relaxed);
  return rc;
}

/* --- Names and deletes -------------------------------------------------------------------------------------------------------- */

/* Deletes, binds and unbinds use durability, defer and expect of the options. */
static int commit_other(sdb *db, struct change *c, const sdb_put_options *o, sdb_commit *out) {
  struct change unused;
  int rc = change_put(db, &unused, "x", 1, o);
  if (rc != SDB_OK) return rc;
  c->expect = o ? o->expect : SDB_ANY;
  return commit_one(db, c, o, out);
}

int sdb_delete(sdb *db, const void *path, size_t path_len, const sdb_put_options *o, sdb_commit *out) {
  struct change c = {.op = OP_DELETE, .path = path, .path_len = path_len};
  int rc = path_check(db, path, path_len);
  if (rc == SDB_OK) rc = commit_other(db, &c, o, out);
  if (rc == SDB_OK) atomic_fetch_add_explicit(&db->n.deletes, 1, memory_order_relaxed);
  return rc;
}

int sdb_delete_id(sdb *db, const uint8_t id[16], const sdb_put_options *o, sdb_commit *out) {
  struct change c = {.op = OP_DELETE, .id = id};
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!id) return env_fail(&db->e, SDB_INVALID, "an id of 16 bytes is needed");
  rc = commit_other(db, &c, o, out);
  if (rc == SDB_OK) atomic_fetch_add_explicit(&db->n.deletes, 1, memory_order_relaxed);
  return rc;
}

int sdb_bind(sdb *db, const void *path, size_t path_len, const void *name, size_t name_len, const sdb_put_options *o,
             sdb_commit *out) {
  struct change c = {.op = OP_BIND, .path = path, .path_len = path_len, .name = name, .name_len = name_len};
  int rc = path_check(db, path, path_len);
  if (rc == SDB_OK) rc = path_check(db, name, name_len);
  return rc == SDB_OK ? commit_other(db, &c, o, out) : rc;
}

int sdb_unbind(sdb *db, const void *name, size_t name_len, const sdb_put_options *o, sdb_commit *out) {
  struct change c = {.op = OP_UNBIND, .path = name, .path_len = name_len, .name = name, .name_len = name_len};
  int rc = path_check(db, name, name_len);
  return rc == SDB_OK ? commit_other(db, &c, o, out) : rc;
}

/* --- Writer ------------------------------------------------------------------------------------------------------------------- */

enum { GATHER_BYTES = 1 << 20 }; /* of an unknown size, before it is taken for large */

int sdb_writer_open(sdb *db, const void *path, size_t path_len, uint64_t size_hint, const sdb_put_options *o, sdb_writer **out) {
  struct change c;
  int rc = change_put(db, &c, path, path_len, o);
  if (rc == SDB_OK && size_hint != SDB_UNKNOWN_SIZE) rc = document_size_check(db, size_hint);
  if (rc == SDB_OK) {
    pager_lock(db->pager);
    rc = commit_ready(db);
    pager_unlock(db->pager);
  }
  if (rc != SDB_OK) return rc;
  size_t texts = path_len + 16 + c.r.type_len + c.r.metadata_len;
  sdb_writer *w = mem_new(&db->e, sizeof *w + texts);
  if (!w) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a writer");
  w->db = db;
  w->size = size_hint;
  w->change = c;
  w->durability = o ? o->durability : SDB_DEFAULT;
  w->defer = o && o->defer;
  uint8_t *at = w->texts;
  change_keep(&w->change, &at);
  w->asked = w->change;
  bool open_end = size_hint == SDB_UNKNOWN_SIZE || (db->options.use_compression && size_hint <= SDB_CHUNK);
  if (!open_end && change_is_large(db, &c, size_hint)) /* else the end tells whether it is large */
    rc = extent_start(db, &c, size_hint, &w->extent);
  if (rc != SDB_OK) {
    sdb_writer_abort(w);
    return rc;
  }
  *out = w;
  return SDB_OK;
}

static int gather_more(sdb_writer *w, const void *data, size_t len) {
  void *p = w->gather;
  if (!mem_reserve(&w->db->e, &p, &w->gather_cap, w->gathered + len, 1))
    return env_fail(&w->db->e, SDB_NO_MEMORY, "out of memory for a writer");
  w->gather = p;
  if (len) memcpy(w->gather + w->gathered, data, len);
  w->gathered += len;
  return SDB_OK;
}

/* From memory into an extent. */
static int become_large(sdb_writer *w, uint64_t size) {
  sdb *db = w->db;
  int rc = extent_start(db, &w->change, size, &w->extent);
  if (rc == SDB_OK) rc = extent_write(w->extent, w->gather, w->gathered);
  mem_free(&db->e, w->gather);
  w->gather = NULL;
  w->gather_cap = 0;
  return rc;
}

int sdb_writer_write(sdb_writer *w, const void *data, size_t len) {
  int rc = handle_check(w->db);
  if (rc != SDB_OK) return rc;
  if (w->failed != SDB_OK) return w->failed;
  if (!data && len) return w->failed = env_fail(&w->db->e, SDB_INVALID, "no data was given, but %zu bytes of it", len);
  uint64_t so_far = w->extent ? extent_written(w->extent) : w->gathered;
  if (w->size != SDB_UNKNOWN_SIZE && len > w->size - so_far)
    rc = env_fail(&w->db->e, SDB_INVALID, "more bytes than the %llu that were announced", (unsigned long long)w->size);
  else if (len > w->db->options.max_document_size - so_far)
    rc = env_fail(&w->db->e, SDB_TOO_LARGE, "the document has more than the %llu bytes allowed",
                  (unsigned long long)w->db->options.max_document_size);
  if (rc == SDB_OK && !w->extent && w->gathered + len > GATHER_BYTES) rc = become_large(w, SDB_UNKNOWN_SIZE);
  if (rc == SDB_OK) rc = w->extent ? extent_write(w->extent, data, len) : gather_more(w, data, len);
  return w->failed = rc;
}

int writer_end(sdb_writer *w, bool large) {
  sdb *db = w->db;
  int rc = w->failed;
  uint64_t size = w->extent ? extent_written(w->extent) : w->gathered;
  if (rc == SDB_OK && w->size != SDB_UNKNOWN_SIZE && size != w->size)
    rc = env_fail(&db->e, SDB_INVALID, "the document has %llu bytes, but %llu were announced", (unsigned long long)size,
                  (unsigned long long)w->size);
  if (rc == SDB_OK && !w->extent) {
    content_drop(db, &w->packed);
    content_pack(db, w->gather, w->gathered, &w->packed);
    change_small(&w->change, &w->packed);
    if (large || change_is_large(db, &w->asked, w->packed.stored_len)) rc = become_large(w, size);
  }
  if (rc == SDB_OK && w->extent) rc = extent_end(w->extent);
  if (rc == SDB_OK && w->extent) change_large(&w->change, w->extent, w->stored);
  return rc;
}

static int writer_commit(sdb_writer *w, sdb_commit *commit) {
  struct change c = w->change;
  struct commit q = {.ops = &c, .count = 1, .durability = w->durability, .defer = w->defer};
  int rc = commit_try(w->db, &q);
  if (rc == SDB_OK && commit) *commit = c.result;
  return rc;
}

int sdb_writer_commit(sdb_writer *w, sdb_commit *commit) {
  sdb *db = w->db;
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  rc = writer_end(w, false);
  if (rc == SDB_OK) rc = writer_commit(w, commit);
  if (rc == SDB_TOO_LARGE && !w->extent && w->failed == SDB_OK) { /* beside many names even a small content may not fit */
    rc = writer_end(w, true);
    if (rc == SDB_OK) rc = writer_commit(w, commit);
  }
  if (rc == SDB_OK) atomic_fetch_add_explicit(&db->n.puts, 1, memory_order_relaxed);
  sdb_writer_abort(w);
  return rc;
}

void sdb_writer_abort(sdb_writer *w) {
  if (!w || handle_check(w->db) != SDB_OK) return;
  sdb *db = w->db;
  extent_drop(w->extent);
  content_drop(db, &w->packed);
  mem_free(&db->e, w->gather);
  mem_free(&db->e, w);
}

/* --- An older version again --------------------------------------------------------------------------------------------------- */

static int copy_content(sdb_reader *from, sdb_writer *to) {
  sdb *db = to->db;
  uint8_t *piece = mem_alloc(&db->e, SDB_CHUNK);
  size_t got = 1;
  int rc = piece ? SDB_OK : env_fail(&db->e, SDB_NO_MEMORY, "out of memory for copying a document");
  while (rc == SDB_OK && got > 0) {
    rc = sdb_reader_read(from, piece, SDB_CHUNK, &got);
    if (rc == SDB_OK) rc = sdb_writer_write(to, piece, got);
  }
  mem_free(&db->e, piece);
  return rc;
}

int sdb_restore_version(sdb *db, const void *path, size_t path_len, uint32_t version, const sdb_put_options *o,
                        sdb_commit *commit) {
  sdb_reader *reader;
  sdb_writer *writer = NULL;
  sdb_attributes a;
  sdb_put_options full;
  sdb_snapshot *now; /* content and attributes of one moment */
  struct change asked;
  int rc = change_put(db, &asked, path, path_len, o);
  if (rc == SDB_OK) rc = sdb_snapshot_open(db, &now);
  if (rc != SDB_OK) return rc;
  rc = sdb_snapshot_get_attributes(now, path, path_len, version, &a);
  if (rc == SDB_OK) rc = sdb_snapshot_reader_open(now, path, path_len, version, &reader);
  sdb_snapshot_close(now);
  if (rc != SDB_OK) return rc;
  sdb_put_options_init(&full);
  if (o) full = *o;
  if (!full.content_type) full.content_type = a.content_type;
  if (!full.metadata_len) full.metadata = a.metadata, full.metadata_len = a.metadata_len;
  rc = sdb_writer_open(db, path, path_len, sdb_reader_info(reader)->size, &full, &writer);
  if (rc == SDB_OK) rc = copy_content(reader, writer);
  sdb_reader_close(reader);
  if (rc == SDB_OK) return sdb_writer_commit(writer, commit);
  sdb_writer_abort(writer);
  return rc;
}
