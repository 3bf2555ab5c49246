/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* copy.h - a data file copied page by page into another: what backup and restore share. */
#ifndef SDB_COPY_H
#define SDB_COPY_H

#include "image.h"
#include "sdb/care.h"

/* A file on its way to its name: NAME.new until it is synced. */
typedef struct copy {
  env *e; /* of the destination; its sentence is where failures end up */
  image *from;
  const char *name;
  char *fresh; /* NAME.new */
  sdb_file *file;
  bool made;     /* the file stands under its first name */
  uint8_t *used; /* a bit a physical page of the source */
  uint8_t *buffer;
  const sdb_copy_options *options;
  uint64_t done, total; /* bytes */
  uint64_t unsynced;
} copy;

/* Options or their defaults. SDB_INVALID. */
int copy_options(env *e, const sdb_copy_options *given, sdb_copy_options *o);
/* SDB_EXISTS when there is a file of that name; SDB_MISMATCH when a log of one is. */
int copy_destination_free(env *e, const char *name);
/* The file that will be replaced, if there is one, locked until it is closed: whoever had it open would go on with the log that the
 * new one believes to be its own. SDB_LOCKED. */
int copy_hold(env *e, const char *name, sdb_file **old);
/* Creates NAME.new. Whatever follows, copy_end must be called. */
int copy_begin(copy *c, env *e, image *from, const char *name, const sdb_copy_options *o);
/* Copies what stands at fixed places, and learns from it what is used. The source must not begin a checkpoint meanwhile. */
int copy_fixed(copy *c);
/* Copies the used pages. They must not be overwritten meanwhile. */
int copy_pages(copy *c);
/* Writes both slots and syncs. */
int copy_seal(copy *c, const header *h);
/* Reads it again: SDB_CORRUPT unless it is a whole database. */
int copy_verify(const copy *c);
/* Gives the file its name. */
int copy_publish(copy *c);
/* Releases everything; removes NAME.new unless it was published. */
void copy_end(copy *c, bool published);
void copy_report(const copy *c, const header *h, sdb_copy_report *report);

#endif
