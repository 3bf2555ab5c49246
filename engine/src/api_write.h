/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_write.h - how calls become operations of a commit: shared by single writes and batches. */
#ifndef SDB_API_WRITE_H
#define SDB_API_WRITE_H

#include "db.h"

enum { RUNS_MAX_BYTES = 8 + 8 * MAX_RUNS };

struct sdb_writer {
  sdb *db;
  uint64_t size;               /* announced, or SDB_UNKNOWN_SIZE */
  struct change asked, change; /* without and with its content */
  sdb_durability durability;
  bool defer;
  extent_writer *extent; /* once the content is known to be large */
  uint8_t *gather;       /* content so far, while it may still be small */
  size_t gathered, gather_cap;
  struct content packed;
  int failed;
  uint8_t stored[RUNS_MAX_BYTES];
  uint8_t texts[]; /* path, token, content type, metadata */
};

int document_size_check(sdb *db, uint64_t len);
/* A put as asked, without its content; checks path and options. The memory stays the caller's. */
int change_put(sdb *db, struct change *c, const void *path, size_t path_len, const sdb_put_options *o);
/* Copies what the caller gave, at most path_len + 16 + 255 + 1,024 bytes, to *at, which moves on. */
void change_keep(struct change *c, uint8_t **at);
/* Has a content of that length its place in an extent? Then extent_of writes it there; else it goes into the record. */
bool change_is_large(const sdb *db, const struct change *c, uint64_t len);
int extent_of(sdb *db, const struct change *c, const void *data, size_t len, extent_writer **w);
/* `packed`: the content as it will be stored. */
void change_small(struct change *c, const struct content *packed);
void change_large(struct change *c, extent_writer *w, uint8_t stored[RUNS_MAX_BYTES]);
/* commit_run(); after SDB_FULL once more, if there was something that a checkpoint could free. */
int commit_try(sdb *db, struct commit *q);
/* Makes the content of a writer that of its change, in an extent if `large`. */
int writer_end(sdb_writer *w, bool large);

#endif
