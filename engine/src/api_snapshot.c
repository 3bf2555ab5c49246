/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_snapshot.c - snapshots: a pinned view and the time of its opening; all reads go through the functions that read "now". */
#include "db.h"

int sdb_snapshot_open(sdb *db, sdb_snapshot **out) {
  const sdb_storage *st = db->e.storage;
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  sdb_snapshot *s = mem_new(&db->e, sizeof *s);
  if (!s) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a snapshot");
  s->db = db;
  rc = reading_pin(db, NULL, &s->view, &s->sequence);
  if (rc != SDB_OK) {
    mem_free(&db->e, s);
    return rc;
  }
  s->now_ms = st->now_ms(st->ctx);
  atomic_fetch_add(&db->snapshots, 1);
  *out = s;
  return SDB_OK;
}

uint64_t sdb_snapshot_sequence(const sdb_snapshot *s) { return s->sequence; }

void sdb_snapshot_close(sdb_snapshot *s) {
  if (!s || handle_check(s->db) != SDB_OK) return;
  sdb *db = s->db;
  pager_unpin(db->pager, s->view);
  atomic_fetch_sub(&db->snapshots, 1);
  mem_free(&db->e, s);
}

int sdb_snapshot_get(const sdb_snapshot *s, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap,
                     size_t *size, sdb_info *info) {
  return read_get(s->db, s, path, path_len, version, buf, cap, size, info);
}

int sdb_snapshot_get_alloc(const sdb_snapshot *s, const void *path, size_t path_len, uint32_t version, void **data, size_t *size,
                           sdb_info *info) {
  return read_get_alloc(s->db, s, path, path_len, version, data, size, info);
}

int sdb_snapshot_get_range(const sdb_snapshot *s, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf,
                           size_t len, size_t *got, sdb_info *info) {
  return read_get_range(s->db, s, path, path_len, version, offset, buf, len, got, info);
}

int sdb_snapshot_stat(const sdb_snapshot *s, const void *path, size_t path_len, uint32_t version, sdb_info *info) {
  return read_stat(s->db, s, path, path_len, version, info);
}

int sdb_snapshot_versions(const sdb_snapshot *s, const void *path, size_t path_len, sdb_info *infos, size_t cap, size_t *count) {
  return read_versions(s->db, s, path, path_len, infos, cap, count);
}

int sdb_snapshot_get_attributes(const sdb_snapshot *s, const void *path, size_t path_len, uint32_t version,
                                sdb_attributes *attributes) {
  return read_attributes(s->db, s, path, path_len, version, attributes);
}

int sdb_snapshot_paths_of(const sdb_snapshot *s, const uint8_t id[16], sdb_path **paths, size_t *count) {
  return read_paths_of(s->db, s, id, paths, count);
}

int sdb_snapshot_cursor_open(const sdb_snapshot *s, const sdb_cursor_options *o, sdb_cursor **cursor) {
  return cursor_open(s->db, s, o, cursor);
}

int sdb_snapshot_reader_open(const sdb_snapshot *s, const void *path, size_t path_len, uint32_t version, sdb_reader **reader) {
  return reader_open(s->db, s, path, path_len, version, reader);
}
