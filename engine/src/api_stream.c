/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_stream.c - cursors over paths, readers and writers of one document; the contract is sdb/sdb.h.
 *
 * A cursor and a reader pin the view they were opened in. A cursor fetches entries by batches, so that one stay in the pager serves
 * many of them and the tree goes on in the leaf where it is.
 */
#include "codec.h"
#include "db.h"

/* --- Cursor
 * --------------------------------------------------------------------------------------------------------------------------- */

enum { FIRST_BATCH = 16, BATCH = 128, BATCH_BYTES = 16384 };

struct item {
  uint32_t offset;
  uint16_t len;
  sdb_info info;
};

struct sdb_cursor {
  sdb *db;
  uint64_t view;
  bool infos, ended;
  int failed;           /* behind the entries of the batch */
  unsigned batch;       /* entries to fetch next time */
  unsigned next, count; /* in items */
  size_t used;          /* of bytes */
  uint16_t prefix_len;
  uint8_t prefix[SDB_MAX_PATH];
  tree_cursor tree;
  struct item items[BATCH];
  uint8_t bytes[BATCH_BYTES];
};

static uint64_t pin_now(sdb *db) {
  reading in = reading_begin(db); /* makes waiting commits visible */
  uint64_t view = pager_pin(db->pager);
  reading_end(db, in);
  return view;
}

int sdb_cursor_open(sdb *db, const void *prefix, size_t prefix_len, const void *after, size_t after_len, bool infos,
                    sdb_cursor **out) {
  if (prefix_len > SDB_MAX_PATH || after_len > SDB_MAX_PATH || (!prefix && prefix_len) || (!after && after_len))
    return env_fail(&db->e, SDB_INVALID, "a prefix and a position have at most %u bytes", SDB_MAX_PATH);
  sdb_cursor *c = mem_alloc(&db->e, sizeof *c);
  if (!c) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a search");
  c->db = db;
  c->infos = infos;
  c->ended = false;
  c->failed = SDB_OK;
  c->batch = FIRST_BATCH;
  c->next = c->count = 0;
  c->prefix_len = (uint16_t)prefix_len;
  if (prefix_len) memcpy(c->prefix, prefix, prefix_len);
  c->view = pin_now(db);
  if (!c->view) {
    mem_free(&db->e, c);
    return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a search");
  }
  /* Whichever is later: the prefix itself, or the place behind `after`. */
  size_t both = after_len < prefix_len ? after_len : prefix_len;
  int order = both ? memcmp(after, prefix, both) : 0;
  bool behind = after_len > 0 && (order > 0 || (order == 0 && after_len >= prefix_len));
  if (behind) tree_cursor_init(&c->tree, db->pager, c->view, db->roots.path_tree, after, after_len, true);
  else tree_cursor_init(&c->tree, db->pager, c->view, db->roots.path_tree, c->prefix, prefix_len, false);
  *out = c;
  return SDB_OK;
}

static int fetch_info(sdb_cursor *c, uint64_t document, sdb_info *info) {
  table_entry entry;
  record r;
  int rc = table_get(c->db->table, c->view, document, &entry);
  if (rc == SDB_NOT_FOUND)
    return env_fail(&c->db->e, SDB_CORRUPT, "a path names a document that the table does not have; restore a copy");
  if (rc == SDB_OK) rc = document_version(c->db, c->view, document, &entry, SDB_CURRENT, &r);
  if (rc == SDB_OK) info_fill(info, &r, &entry);
  return rc;
}

/* One more entry into the batch. SDB_END: no further one, or none that begins with the prefix. */
static int fetch_one(sdb_cursor *c) {
  uint64_t document;
  int rc = tree_cursor_next(&c->tree, &document);
  if (rc != SDB_OK) return rc;
  size_t len = c->tree.key_len;
  if (len < c->prefix_len || memcmp(c->tree.key, c->prefix, c->prefix_len) != 0) return SDB_END;
  struct item *it = &c->items[c->count];
  if (c->infos) rc = fetch_info(c, document, &it->info);
  else memset(&it->info, 0, sizeof it->info);
  if (rc != SDB_OK) return rc;
  it->offset = (uint32_t)c->used;
  it->len = (uint16_t)len;
  memcpy(c->bytes + c->used, c->tree.key, len);
  c->used += len;
  c->count++;
  return SDB_OK;
}

static int fetch(sdb_cursor *c) {
  int rc = SDB_OK;
  c->next = c->count = 0;
  c->used = 0;
  unsigned slot = pager_enter(c->db->pager);
  while (rc == SDB_OK && c->count < c->batch && c->used + SDB_MAX_PATH <= BATCH_BYTES) rc = fetch_one(c);
  tree_cursor_pause(&c->tree);
  pager_leave(c->db->pager, slot);
  c->batch = BATCH;
  if (rc == SDB_END) rc = absent(c->db, rc);
  if (rc == SDB_END) c->ended = true;
  else c->failed = rc; /* the entry that failed must not be passed over: told behind the good ones, and from then on */
  return c->count > 0 || c->ended ? SDB_OK : rc;
}

int sdb_cursor_next(sdb_cursor *c, sdb_entry *entry) {
  if (c->next == c->count) {
    if (c->ended) return SDB_END;
    if (c->failed != SDB_OK) return c->failed;
    int rc = fetch(c);
    if (rc != SDB_OK) return rc;
    if (c->count == 0) return SDB_END;
  }
  const struct item *it = &c->items[c->next++];
  *entry = (sdb_entry){.path = c->bytes + it->offset, .path_len = it->len, .info = it->info};
  return SDB_OK;
}

void sdb_cursor_close(sdb_cursor *c) {
  if (!c) return;
  pager_unpin(c->db->pager, c->view);
  mem_free(&c->db->e, c);
}

/* --- Reader
 * ---------------------------------------------------------------------------------------------------------------------------- */

struct sdb_reader {
  sdb *db;
  uint64_t view;
  sdb_info info;
  uint64_t offset;
  extent_reader *extent; /* NULL: a small document, all of it in chunk */
  uint32_t chunk_index;  /* in chunk; UINT32_MAX: none */
  size_t chunk_len;
  uint8_t *chunk;
};

static int reader_fill(sdb_reader *r, const void *path, size_t path_len, uint32_t version) {
  sdb *db = r->db;
  record rec;
  table_entry entry;
  int rc = document_find(db, r->view, path, path_len, version, &rec, &entry);
  if (rc != SDB_OK) return rc;
  bool check = content_is_checked(db);
  info_fill(&r->info, &rec, &entry);
  r->chunk = mem_alloc(&db->e, rec.flags & RECORD_LARGE ? SDB_CHUNK : rec.size);
  if (!r->chunk) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a reader");
  if (rec.flags & RECORD_LARGE) {
    r->chunk_index = UINT32_MAX;
    return extent_open(&db->e, db->pager, &rec, check, &r->extent);
  }
  r->chunk_len = rec.size;
  return content_unpack(db, &rec, check, r->chunk);
}

int sdb_reader_open(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_reader **out) {
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  sdb_reader *r = mem_new(&db->e, sizeof *r);
  if (!r) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a reader");
  r->db = db;
  r->view = pin_now(db);
  rc = r->view ? SDB_OK : env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a reader");
  if (rc == SDB_OK) {
    unsigned slot = pager_enter(db->pager);
    rc = reader_fill(r, path, path_len, version);
    pager_leave(db->pager, slot);
  }
  if (rc != SDB_OK) {
    sdb_reader_close(r);
    return rc;
  }
  *out = r;
  return SDB_OK;
}

const sdb_info *sdb_reader_info(const sdb_reader *r) { return &r->info; }

int sdb_reader_read(sdb_reader *r, void *buf, size_t len, size_t *got) {
  uint8_t *to = buf;
  size_t done = 0;
  while (done < len && r->offset < r->info.size) {
    uint32_t index = r->extent ? (uint32_t)(r->offset / SDB_CHUNK) : 0;
    size_t inside = r->extent ? (size_t)(r->offset % SDB_CHUNK) : (size_t)r->offset;
    uint64_t left = r->info.size - r->offset;
    bool direct = r->extent && inside == 0 && (len - done >= SDB_CHUNK || len - done >= left) && index != r->chunk_index;
    size_t n = 0;
    int rc = SDB_OK;
    if (direct) rc = extent_chunk(r->extent, index, to + done, &n); /* a whole chunk goes where it is wanted */
    else if (r->extent && index != r->chunk_index) {
      r->chunk_index = UINT32_MAX;
      rc = extent_chunk(r->extent, index, r->chunk, &r->chunk_len);
      if (rc == SDB_OK) r->chunk_index = index;
    }
    if (rc != SDB_OK) return rc;
    if (!direct) {
      n = r->chunk_len - inside < len - done ? r->chunk_len - inside : len - done;
      memcpy(to + done, r->chunk + inside, n);
    }
    done += n;
    r->offset += n;
  }
  *got = done;
  return SDB_OK;
}

int sdb_reader_seek(sdb_reader *r, uint64_t offset) {
  if (offset > r->info.size)
    return env_fail(&r->db->e, SDB_INVALID, "offset %llu is beyond the document's %llu bytes", (unsigned long long)offset,
                    (unsigned long long)r->info.size);
  r->offset = offset;
  return SDB_OK;
}

void sdb_reader_close(sdb_reader *r) {
  if (!r) return;
  extent_close(r->extent);
  mem_free(&r->db->e, r->chunk);
  if (r->view) pager_unpin(r->db->pager, r->view);
  mem_free(&r->db->e, r);
}

int sdb_get_range(sdb *db, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf, size_t len, size_t *got,
                  sdb_info *info) {
  sdb_reader *r;
  int rc = sdb_reader_open(db, path, path_len, version, &r);
  if (rc != SDB_OK) return rc;
  size_t n = 0;
  if (offset < r->info.size) {
    r->offset = offset;
    rc = sdb_reader_read(r, buf, len, &n);
  }
  if (rc == SDB_OK) {
    *got = n;
    if (info) *info = r->info;
  }
  sdb_reader_close(r);
  return rc;
}

/* --- Writer
 * ---------------------------------------------------------------------------------------------------------------------------- */

enum { GATHER_BYTES = 1 << 20 }; /* of an unknown size, before it is taken for large */

struct sdb_writer {
  sdb *db;
  uint64_t size; /* announced, or SDB_UNKNOWN_SIZE */
  sdb_put_options options;
  uint8_t token[16];
  extent_writer *extent; /* once the content is known to be large */
  uint8_t *gather;       /* content so far, while it may still be small */
  size_t gathered, gather_cap;
  int failed;
  uint16_t path_len;
  uint8_t path[SDB_MAX_PATH];
};

int sdb_writer_open(sdb *db, const void *path, size_t path_len, uint64_t size_hint, const sdb_put_options *o, sdb_writer **out) {
  int rc = path_check(db, path, path_len);
  if (rc == SDB_OK && o && (o->size != sizeof *o || o->durability > SDB_NONE))
    rc = env_fail(&db->e, SDB_INVALID, "put options were not set with sdb_put_options_init of this library");
  if (rc == SDB_OK && size_hint != SDB_UNKNOWN_SIZE) rc = document_size_check(db, size_hint);
  if (rc == SDB_OK) {
    pager_lock(db->pager);
    rc = commit_ready(db);
    pager_unlock(db->pager);
  }
  if (rc != SDB_OK) return rc;
  sdb_writer *w = mem_new(&db->e, sizeof *w);
  if (!w) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a writer");
  w->db = db;
  w->size = size_hint;
  w->path_len = (uint16_t)path_len;
  memcpy(w->path, path, path_len);
  sdb_put_options_init(&w->options);
  if (o) w->options = *o;
  if (w->options.token) {
    memcpy(w->token, w->options.token, 16);
    w->options.token = w->token;
  }
  bool open_end = size_hint == SDB_UNKNOWN_SIZE || (db->options.use_compression && size_hint <= SDB_CHUNK);
  if (!open_end && document_is_large(db, path_len, &w->options, size_hint)) /* else the end tells whether it is large */
    rc = extent_begin(&db->e, db->pager, path, w->path_len, size_hint, size_hint, db->options.use_compression, &w->extent);
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
  int rc = extent_begin(&db->e, db->pager, w->path, w->path_len, size, db->options.max_document_size, db->options.use_compression,
                        &w->extent);
  if (rc == SDB_OK) rc = extent_write(w->extent, w->gather, w->gathered);
  mem_free(&db->e, w->gather);
  w->gather = NULL;
  w->gather_cap = 0;
  return rc;
}

int sdb_writer_write(sdb_writer *w, const void *data, size_t len) {
  if (w->failed != SDB_OK) return w->failed;
  if (!data && len) return w->failed = env_fail(&w->db->e, SDB_INVALID, "no data was given, but %zu bytes of it", len);
  uint64_t so_far = w->extent ? extent_written(w->extent) : w->gathered;
  int rc = SDB_OK;
  if (w->size != SDB_UNKNOWN_SIZE && len > w->size - so_far)
    rc = env_fail(&w->db->e, SDB_INVALID, "more bytes than the %llu that were announced", (unsigned long long)w->size);
  else if (len > w->db->options.max_document_size - so_far)
    rc = env_fail(&w->db->e, SDB_TOO_LARGE, "the document has more than the %llu bytes allowed",
                  (unsigned long long)w->db->options.max_document_size);
  if (rc == SDB_OK && !w->extent && w->gathered + len > GATHER_BYTES) rc = become_large(w, SDB_UNKNOWN_SIZE);
  if (rc == SDB_OK) rc = w->extent ? extent_write(w->extent, data, len) : gather_more(w, data, len);
  return w->failed = rc;
}

int sdb_writer_commit(sdb_writer *w, sdb_commit *commit) {
  sdb *db = w->db;
  int rc = w->failed;
  uint64_t size = w->extent ? extent_written(w->extent) : w->gathered;
  if (rc == SDB_OK && w->size != SDB_UNKNOWN_SIZE && size != w->size)
    rc = env_fail(&db->e, SDB_INVALID, "the document has %llu bytes, but %llu were announced", (unsigned long long)size,
                  (unsigned long long)w->size);
  struct content packed = {0};
  if (rc == SDB_OK && !w->extent) content_pack(db, w->gather, w->gathered, &packed);
  if (rc == SDB_OK && !w->extent && document_is_large(db, w->path_len, &w->options, packed.stored_len)) rc = become_large(w, size);
  if (rc == SDB_OK && w->extent) rc = extent_end(w->extent);
  if (rc == SDB_OK)
    rc = w->extent ? commit_large(db, w->path, w->path_len, w->extent, &w->options, commit)
                   : commit_put(db, w->path, w->path_len, w->gather, &packed, &w->options, commit);
  content_drop(db, &packed);
  if (rc == SDB_OK) atomic_fetch_add_explicit(&db->n.puts, 1, memory_order_relaxed);
  sdb_writer_abort(w);
  return rc;
}

void sdb_writer_abort(sdb_writer *w) {
  if (!w) return;
  sdb *db = w->db;
  extent_drop(w->extent);
  mem_free(&db->e, w->gather);
  mem_free(&db->e, w);
}
