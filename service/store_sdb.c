/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store_sdb.c - the store on libsdb: every entry of the table is one call of sdb.h. */
#include "store.h"

static int get(void *ctx, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap, size_t *size,
               sdb_info *info) {
  return sdb_get(ctx, path, path_len, version, buf, cap, size, info);
}

static int get_range(void *ctx, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf, size_t len,
                     size_t *got, sdb_info *info) {
  return sdb_get_range(ctx, path, path_len, version, offset, buf, len, got, info);
}

static int stat_document(void *ctx, const void *path, size_t path_len, uint32_t version, sdb_info *info) {
  return sdb_stat(ctx, path, path_len, version, info);
}

static int versions(void *ctx, const void *path, size_t path_len, sdb_info *infos, size_t cap, size_t *count) {
  return sdb_versions(ctx, path, path_len, infos, cap, count);
}

static int put(void *ctx, const void *path, size_t path_len, const void *data, size_t len, const sdb_put_options *options,
               sdb_commit *commit) {
  return sdb_put(ctx, path, path_len, data, len, options, commit);
}

static int remove_document(void *ctx, const void *path, size_t path_len, const sdb_put_options *options, sdb_commit *commit) {
  return sdb_delete(ctx, path, path_len, options, commit);
}

static int wait_for(void *ctx, uint64_t sequence) { return sdb_wait(ctx, sequence); }

static int flush(void *ctx) { return sdb_flush(ctx); }

static int cursor_open(void *ctx, const void *prefix, size_t prefix_len, const void *after, size_t after_len, bool infos,
                       store_cursor **cursor) {
  sdb_cursor *opened = NULL;
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.prefix = prefix;
  options.prefix_len = prefix_len;
  options.after = after;
  options.after_len = after_len;
  options.infos = infos;
  int rc = sdb_cursor_open(ctx, &options, &opened);
  if (rc == SDB_OK) *cursor = (store_cursor *)opened;
  return rc;
}

static int cursor_next(store_cursor *cursor, sdb_entry *entry) { return sdb_cursor_next((sdb_cursor *)cursor, entry); }

static void cursor_close(store_cursor *cursor) { sdb_cursor_close((sdb_cursor *)cursor); }

static int reader_open(void *ctx, const void *path, size_t path_len, uint32_t version, store_reader **reader) {
  sdb_reader *opened = NULL;
  int rc = sdb_reader_open(ctx, path, path_len, version, &opened);
  if (rc == SDB_OK) *reader = (store_reader *)opened;
  return rc;
}

static const sdb_info *reader_info(const store_reader *reader) { return sdb_reader_info((const sdb_reader *)reader); }

static int reader_seek(store_reader *reader, uint64_t offset) { return sdb_reader_seek((sdb_reader *)reader, offset); }

static int reader_read(store_reader *reader, void *buf, size_t len, size_t *got) {
  return sdb_reader_read((sdb_reader *)reader, buf, len, got);
}

static void reader_close(store_reader *reader) { sdb_reader_close((sdb_reader *)reader); }

static int writer_open(void *ctx, const void *path, size_t path_len, uint64_t size_hint, const sdb_put_options *options,
                       store_writer **writer) {
  sdb_writer *opened = NULL;
  int rc = sdb_writer_open(ctx, path, path_len, size_hint, options, &opened);
  if (rc == SDB_OK) *writer = (store_writer *)opened;
  return rc;
}

static int writer_write(store_writer *writer, const void *data, size_t len) {
  return sdb_writer_write((sdb_writer *)writer, data, len);
}

static int writer_commit(store_writer *writer, sdb_commit *commit) { return sdb_writer_commit((sdb_writer *)writer, commit); }

static void writer_abort(store_writer *writer) { sdb_writer_abort((sdb_writer *)writer); }

static int state(void *ctx, store_state *out) {
  sdb_stats stats = {.size = sizeof stats};
  int rc = sdb_get_stats(ctx, &stats);
  if (rc != SDB_OK) return rc;
  *out = (store_state){.sequence = stats.sequence, .epoch = stats.epoch, .read_only = stats.log_damaged || stats.sync_failed};
  return SDB_OK;
}

static int statistics(void *ctx, void (*tell)(void *user, const char *name, uint64_t value), void *user) {
  sdb_stats s = {.size = sizeof s};
  int rc = sdb_get_stats(ctx, &s);
  if (rc != SDB_OK) return rc;
  const struct {
    const char *name;
    uint64_t value;
  } figures[] = {
      {"engine_sequence", s.sequence},
      {"engine_synced_sequence", s.synced_sequence},
      {"engine_documents", s.documents},
      {"engine_names", s.names},
      {"engine_content_bytes", s.content_bytes},
      {"engine_page_size", s.page_size},
      {"engine_file_bytes", s.file_bytes},
      {"engine_free_bytes", s.free_bytes},
      {"engine_log_bytes", s.log_bytes},
      {"engine_heap_pages", s.heap_pages},
      {"engine_heap_live_bytes", s.heap_live_bytes},
      {"engine_dirty_pages", s.dirty_pages},
      {"engine_cached_pages", s.cached_pages},
      {"engine_checkpoints", s.checkpoints},
      {"engine_checkpoint_ms", s.checkpoint_ms},
      {"engine_puts", s.puts},
      {"engine_gets", s.gets},
      {"engine_deletes", s.deletes},
      {"engine_commits", s.commits},
      {"engine_syncs", s.syncs},
      {"engine_cache_hits", s.cache_hits},
      {"engine_cache_misses", s.cache_misses},
      {"engine_mapping_faults", s.mapping_faults},
      {"engine_pins", s.pins},
      {"engine_corruptions", s.corruptions},
      {"engine_quarantined", s.quarantined},
      {"engine_rebuilding", s.rebuilding},
      {"engine_repair_needed", s.repair_needed},
      {"engine_scrubs", s.scrubs},
      {"engine_scrub_problems", s.scrub_problems},
      {"engine_recovered_commits", s.recovered_commits},
      {"engine_quick_mode", s.quick_mode},
      {"engine_unchecked_reads", s.unchecked_reads},
      {"engine_log_damaged", s.log_damaged},
      {"engine_sync_failed", s.sync_failed},
  };
  for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) tell(user, figures[i].name, figures[i].value);
  return SDB_OK;
}

static void message(void *ctx, char *buf, size_t len) { sdb_message(ctx, buf, len); }

static int close_store(void *ctx) { return sdb_close(ctx); }

int store_open_sdb(const char *name, const sdb_options *options, store *out) {
  sdb *db = NULL;
  int rc = sdb_open(name, options, &db);
  if (rc != SDB_OK) return rc;
  *out = (store){
      .ctx = db,
      .get = get,
      .get_range = get_range,
      .stat = stat_document,
      .versions = versions,
      .put = put,
      .remove = remove_document,
      .wait = wait_for,
      .flush = flush,
      .cursor_open = cursor_open,
      .cursor_next = cursor_next,
      .cursor_close = cursor_close,
      .reader_open = reader_open,
      .reader_info = reader_info,
      .reader_seek = reader_seek,
      .reader_read = reader_read,
      .reader_close = reader_close,
      .writer_open = writer_open,
      .writer_write = writer_write,
      .writer_commit = writer_commit,
      .writer_abort = writer_abort,
      .state = state,
      .statistics = statistics,
      .message = message,
      .close = close_store,
  };
  return SDB_OK;
}
