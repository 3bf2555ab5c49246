/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* backend_file.c - documents in a database file, through the engine, without a service. */
#include <sdb/sdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

#define PIECE 262144u

typedef struct file {
  backend base;
  sdb *db;
  sdb_writer *writer;
  sdb_reader *reader;
  uint64_t read_left;
  sdb_cursor *cursor;
  uint8_t piece[PIECE];
} file;

static file *of(backend *b) { return (file *)(void *)b; }

static result outcome(backend *b, int code) {
  if (code == SDB_OK) return RESULT_OK;
  if (code == SDB_END) return RESULT_END;
  char sentence[CLI_MESSAGE / 2];
  sdb_message(of(b)->db, sentence, sizeof sentence);
  bool about_file = code == SDB_FULL || code == SDB_IO || code == SDB_CORRUPT || code == SDB_READ_ONLY || code == SDB_SYNC_FAILED;
  const char *said = sentence[0] ? sentence : sdb_strerror(code);
  bool named = sentence[0] && (!about_file || strstr(sentence, b->name));
  if (named) (void)snprintf(b->message, sizeof b->message, "%s", said);
  else (void)snprintf(b->message, sizeof b->message, "%s: %s", b->name, said);
  return code == SDB_NOT_FOUND ? RESULT_NOT_FOUND : RESULT_FAILED;
}

static document document_of(const sdb_info *info) {
  document doc = {
      .version = info->version, .oldest = info->oldest, .size = info->size, .time_ms = info->time_ms, .digest = info->digest};
  memcpy(doc.id, info->id, sizeof doc.id);
  return doc;
}

static commit commit_of(const sdb_commit *made) {
  static const char *const names[] = {NULL, "durable", "buffered", "none"};
  return (commit){.made = document_of(&made->info),
                  .sequence = made->sequence,
                  .durability = (unsigned)made->reached <= SDB_NONE ? names[made->reached] : NULL,
                  .created = made->created};
}

static result file_insert(backend *b, bytes path, const void *data, size_t len, commit *made) {
  sdb_commit done;
  int code = sdb_put(of(b)->db, path.data, path.len, data, len, NULL, &done);
  if (code == SDB_OK) *made = commit_of(&done);
  return outcome(b, code);
}

static result file_write_open(backend *b, bytes path, uint64_t size_hint) {
  uint64_t hint = size_hint == UNKNOWN_SIZE ? SDB_UNKNOWN_SIZE : size_hint;
  return outcome(b, sdb_writer_open(of(b)->db, path.data, path.len, hint, NULL, &of(b)->writer));
}

static result file_write(backend *b, const void *data, size_t len) {
  return outcome(b, sdb_writer_write(of(b)->writer, data, len));
}

static result file_write_commit(backend *b, commit *made) {
  sdb_commit done;
  int code = sdb_writer_commit(of(b)->writer, &done);
  of(b)->writer = NULL;
  if (code == SDB_OK) *made = commit_of(&done);
  return outcome(b, code);
}

static void file_write_abort(backend *b) {
  sdb_writer_abort(of(b)->writer);
  of(b)->writer = NULL;
}

static void file_read_close(backend *b) {
  sdb_reader_close(of(b)->reader);
  of(b)->reader = NULL;
}

static result file_read_open(backend *b, bytes path, uint32_t version, uint64_t offset, uint64_t length, document *doc) {
  file *f = of(b);
  int code = sdb_reader_open(f->db, path.data, path.len, version, &f->reader);
  if (code != SDB_OK) return outcome(b, code);
  *doc = document_of(sdb_reader_info(f->reader));
  if (offset > doc->size) {
    (void)snprintf(b->message, sizeof b->message, "offset %llu is beyond the end of the document at %llu",
                   (unsigned long long)offset, (unsigned long long)doc->size);
    file_read_close(b);
    return RESULT_FAILED;
  }
  uint64_t left = doc->size - offset;
  f->read_left = length < left ? length : left;
  code = offset > 0 ? sdb_reader_seek(f->reader, offset) : SDB_OK;
  result r = outcome(b, code);
  if (code != SDB_OK) file_read_close(b);
  return r;
}

static result file_read(backend *b, const void **data, size_t *len) {
  file *f = of(b);
  size_t want = f->read_left < PIECE ? (size_t)f->read_left : PIECE;
  size_t got = 0;
  int code = want > 0 ? sdb_reader_read(f->reader, f->piece, want, &got) : SDB_OK;
  if (code != SDB_OK) return outcome(b, code);
  f->read_left -= got;
  *data = f->piece;
  *len = got;
  return RESULT_OK;
}

static result file_stat(backend *b, bytes path, uint32_t version, document *doc) {
  sdb_info info;
  int code = sdb_stat(of(b)->db, path.data, path.len, version, &info);
  if (code == SDB_OK) *doc = document_of(&info);
  return outcome(b, code);
}

static result file_versions(backend *b, bytes path, document *docs, size_t cap, size_t *count) {
  sdb_info *infos = calloc(cap, sizeof *infos);
  if (!infos) {
    (void)snprintf(b->message, sizeof b->message, "out of memory");
    return RESULT_FAILED;
  }
  int code = sdb_versions(of(b)->db, path.data, path.len, infos, cap, count);
  if (code == SDB_OK && *count > cap) *count = cap;
  for (size_t i = 0; code == SDB_OK && i < *count; i++) docs[i] = document_of(&infos[i]);
  free(infos);
  return outcome(b, code);
}

static result file_remove(backend *b, bytes path, commit *last) {
  sdb_commit done;
  int code = sdb_delete(of(b)->db, path.data, path.len, NULL, &done);
  if (code == SDB_OK) *last = commit_of(&done);
  return outcome(b, code);
}

static result file_search_open(backend *b, bytes prefix, bool infos, uint64_t limit) {
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.prefix = prefix.data;
  options.prefix_len = prefix.len;
  options.limit = limit;
  options.infos = infos;
  return outcome(b, sdb_cursor_open(of(b)->db, &options, &of(b)->cursor));
}

static result file_search_next(backend *b, bytes *path, document *doc) {
  sdb_entry entry;
  int code = sdb_cursor_next(of(b)->cursor, &entry);
  if (code == SDB_OK) {
    *path = (bytes){entry.path, entry.path_len};
    *doc = document_of(&entry.info);
  }
  return outcome(b, code);
}

static void file_search_close(backend *b) {
  sdb_cursor_close(of(b)->cursor);
  of(b)->cursor = NULL;
}

static result file_flush(backend *b) { return outcome(b, sdb_flush(of(b)->db)); }

static result file_stats(backend *b, void (*each)(void *user, const char *name, uint64_t value), void *user) {
  sdb_stats s = {.size = sizeof s};
  int code = sdb_get_stats(of(b)->db, &s);
  if (code != SDB_OK) return outcome(b, code);
  const struct {
    const char *name;
    uint64_t value;
  } figures[] = {
      {"documents", s.documents},
      {"names", s.names},
      {"content_bytes", s.content_bytes},
      {"sequence", s.sequence},
      {"synced_sequence", s.synced_sequence},
      {"file_bytes", s.file_bytes},
      {"free_bytes", s.free_bytes},
      {"log_bytes", s.log_bytes},
      {"page_size", s.page_size},
      {"heap_pages", s.heap_pages},
      {"heap_live_bytes", s.heap_live_bytes},
      {"recovered_commits", s.recovered_commits},
      {"unchecked_reads", s.unchecked_reads},
      {"quick_mode", s.quick_mode},
      {"corruptions", s.corruptions},
      {"quarantined", s.quarantined},
      {"rebuilding", s.rebuilding},
      {"repair_needed", s.repair_needed},
      {"scrubs", s.scrubs},
      {"scrub_problems", s.scrub_problems},
      {"log_damaged", s.log_damaged},
  };
  for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) each(user, figures[i].name, figures[i].value);
  return RESULT_OK;
}

static result file_ping(backend *b, pong *answer) {
  sdb_stats s = {.size = sizeof s};
  int code = sdb_get_stats(of(b)->db, &s);
  if (code == SDB_OK)
    *answer = (pong){.server = "StreamDB engine " SDB_VERSION_STRING, .sequence = s.sequence, .documents = s.documents};
  return outcome(b, code);
}

static result file_key_export(backend *b, uint8_t *key) { return outcome(b, sdb_key_export(of(b)->db, key)); }
static result file_key_change(backend *b, const uint8_t *key) { return outcome(b, sdb_change_key(of(b)->db, key)); }

static result file_close(backend *b, char *message) {
  int code = sdb_close(of(b)->db);
  if (code != SDB_OK) {
    (void)snprintf(message, CLI_MESSAGE, "%s: closing failed, the next opening recovers what was committed: %s", b->name,
                   sdb_strerror(code));
  }
  free(of(b));
  return code == SDB_OK ? RESULT_OK : RESULT_FAILED;
}

static const backend_calls file_calls = {
    .is_service = false,
    .insert = file_insert,
    .write_open = file_write_open,
    .write = file_write,
    .write_commit = file_write_commit,
    .write_abort = file_write_abort,
    .read_open = file_read_open,
    .read = file_read,
    .read_close = file_read_close,
    .stat = file_stat,
    .versions = file_versions,
    .remove = file_remove,
    .search_open = file_search_open,
    .search_next = file_search_next,
    .search_close = file_search_close,
    .flush = file_flush,
    .stats = file_stats,
    .ping = file_ping,
    .key_export = file_key_export,
    .key_change = file_key_change,
    .close = file_close,
};

backend *backend_open_file(const cli *c, access_kind access, char *message, int *exit_code) {
  *exit_code = EXIT_FAILED;
  file *f = calloc(1, sizeof *f);
  if (!f) {
    (void)snprintf(message, CLI_MESSAGE, "out of memory");
    return NULL;
  }
  f->base.calls = &file_calls;
  f->base.name = c->database;
  message[0] = '\0';
  sdb_options options;
  sdb_options_init(&options);
  options.create = access == ACCESS_CREATE;
  options.read_only = access == ACCESS_READ;
  options.message = message;
  options.message_size = CLI_MESSAGE;
  sdb_key key;
  int code = sdb_key_find(c->key_file, &key, message, CLI_MESSAGE);
  if (code == SDB_OK) {
    if (message[0]) (void)complain("%s", message);
    message[0] = '\0';
    options.encryption_key = key.given && !key.recovery ? key.bytes : NULL;
    options.recovery_key = key.given && key.recovery ? key.bytes : NULL;
    code = sdb_open(c->database, &options, &f->db);
  }
  sdb_key_wipe(&key);
  if (code == SDB_OK) return &f->base;
  if (!message[0]) (void)snprintf(message, CLI_MESSAGE, "%s: %s", c->database, sdb_strerror(code));
  free(f);
  return NULL;
}
