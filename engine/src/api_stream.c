/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_stream.c - cursors over paths and readers of one document; the contract is sdb/sdb.h.
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
  entry.oldest = rc == SDB_OK ? document_oldest(&entry, &r) : 0;
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
  int rc = document_find(db, r->view, 0, path, path_len, version, &rec, &entry);
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
