/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store.h - the one way in which the service reaches stored documents.
 *
 * A table of functions. The handlers call nothing else, so another store is another table and no change to them. Types, codes and
 * the meaning of every call are those of sdb/sdb.h; a store that is not libsdb answers in the same terms.
 *
 * Thread rule: as in sdb.h: calls from any thread, a cursor, reader or writer by one thread at a time.
 */
#ifndef SERVICE_STORE_H
#define SERVICE_STORE_H

#include "sdb/sdb.h"

typedef struct store_cursor store_cursor;
typedef struct store_reader store_reader;
typedef struct store_writer store_writer;

typedef struct store_state {
  uint64_t sequence; /* last visible commit */
  uint64_t epoch;
  bool read_only; /* writes will be refused: damaged log, failed sync, or opened so */
} store_state;

typedef struct store store;
struct store {
  void *ctx; /* the first argument of every call */

  int (*get)(void *ctx, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap, size_t *size, sdb_info *info);
  int (*get_range)(void *ctx, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf, size_t len,
                   size_t *got, sdb_info *info);
  int (*stat)(void *ctx, const void *path, size_t path_len, uint32_t version, sdb_info *info);
  int (*versions)(void *ctx, const void *path, size_t path_len, sdb_info *infos, size_t cap, size_t *count);

  int (*put)(void *ctx, const void *path, size_t path_len, const void *data, size_t len, const sdb_put_options *options,
             sdb_commit *commit);
  int (*remove)(void *ctx, const void *path, size_t path_len, const sdb_put_options *options, sdb_commit *commit);
  int (*wait)(void *ctx, uint64_t sequence);
  int (*flush)(void *ctx);

  int (*cursor_open)(void *ctx, const void *prefix, size_t prefix_len, const void *after, size_t after_len, bool infos,
                     store_cursor **cursor);
  int (*cursor_next)(store_cursor *cursor, sdb_entry *entry);
  void (*cursor_close)(store_cursor *cursor);

  int (*reader_open)(void *ctx, const void *path, size_t path_len, uint32_t version, store_reader **reader);
  const sdb_info *(*reader_info)(const store_reader *reader);
  int (*reader_seek)(store_reader *reader, uint64_t offset);
  int (*reader_read)(store_reader *reader, void *buf, size_t len, size_t *got);
  void (*reader_close)(store_reader *reader);

  int (*writer_open)(void *ctx, const void *path, size_t path_len, uint64_t size_hint, const sdb_put_options *options,
                     store_writer **writer);
  int (*writer_write)(store_writer *writer, const void *data, size_t len);
  int (*writer_commit)(store_writer *writer, sdb_commit *commit);
  void (*writer_abort)(store_writer *writer);

  int (*state)(void *ctx, store_state *state);
  /* Tells every figure of the store, by name. */
  int (*statistics)(void *ctx, void (*tell)(void *user, const char *name, uint64_t value), void *user);
  /* The sentence of the most recent failure; empty if there is none. */
  void (*message)(void *ctx, char *buf, size_t len);
  int (*close)(void *ctx);
};

/* Opens the store on libsdb. On failure `options->message` has the sentence. */
int store_open_sdb(const char *name, const sdb_options *options, store *out);

#endif
