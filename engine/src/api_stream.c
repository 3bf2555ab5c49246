/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_stream.c - readers of one document; the contract is sdb/sdb.h. A reader pins the view that it was opened in. */
#include "codec.h"
#include "db.h"

/* --- Reader ------------------------------------------------------------------------------------------------------------------- */

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

static int reader_fill(sdb_reader *r, uint64_t now_ms, const void *path, size_t path_len, uint32_t version) {
  sdb *db = r->db;
  record rec;
  table_entry entry;
  int rc = document_find(db, r->view, now_ms, path, path_len, version, &rec, &entry);
  if (rc != SDB_OK) return rc;
  bool check = content_is_checked(db, &rec);
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

int reader_open(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, sdb_reader **out) {
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  sdb_reader *r = mem_new(&db->e, sizeof *r);
  if (!r) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a reader");
  r->db = db;
  rc = reading_pin(db, at, &r->view, NULL);
  if (rc == SDB_OK) {
    unsigned slot = pager_enter(db->pager);
    rc = trusted(db, slot, reader_fill(r, at ? at->now_ms : 0, path, path_len, version));
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
  uint64_t from = r->offset;
  int rc = handle_check(r->db);
  if (rc != SDB_OK) return rc;
  while (done < len && r->offset < r->info.size) {
    uint32_t index = r->extent ? (uint32_t)(r->offset / SDB_CHUNK) : 0;
    size_t inside = r->extent ? (size_t)(r->offset % SDB_CHUNK) : (size_t)r->offset;
    uint64_t left = r->info.size - r->offset;
    bool direct = r->extent && inside == 0 && (len - done >= SDB_CHUNK || len - done >= left) && index != r->chunk_index;
    size_t n = 0;
    if (direct) rc = extent_chunk(r->extent, index, to + done, &n); /* a whole chunk goes where it is wanted */
    else if (r->extent && index != r->chunk_index) {
      r->chunk_index = UINT32_MAX;
      rc = extent_chunk(r->extent, index, r->chunk, &r->chunk_len);
      if (rc == SDB_OK) r->chunk_index = index;
    }
    if (rc != SDB_OK) {
      r->offset = from; /* who asks again, or seeks, has missed nothing */
      return rc;
    }
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
  int rc = handle_check(r->db);
  if (rc != SDB_OK) return rc;
  if (offset > r->info.size)
    return env_fail(&r->db->e, SDB_INVALID, "offset %llu is beyond the document's %llu bytes", (unsigned long long)offset,
                    (unsigned long long)r->info.size);
  r->offset = offset;
  return SDB_OK;
}

void sdb_reader_close(sdb_reader *r) {
  if (!r || handle_check(r->db) != SDB_OK) return;
  extent_close(r->extent);
  mem_free(&r->db->e, r->chunk);
  if (r->view) pager_unpin(r->db->pager, r->view);
  mem_free(&r->db->e, r);
}

int read_get_range(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf,
                   size_t len, size_t *got, sdb_info *info) {
  sdb_reader *r;
  int rc = reader_open(db, at, path, path_len, version, &r);
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

int sdb_reader_open(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_reader **reader) {
  return reader_open(db, NULL, path, path_len, version, reader);
}

int sdb_get_range(sdb *db, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf, size_t len, size_t *got,
                  sdb_info *info) {
  return read_get_range(db, NULL, path, path_len, version, offset, buf, len, got, info);
}
