/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* outfile.h - where a content goes: a file that appears only when it is whole, or standard output. */
#ifndef STREAMDB_OUTFILE_H
#define STREAMDB_OUTFILE_H

#include "cli.h"

typedef struct outfile {
  int fd;
  const char *shown; /* for messages */
  char *temporary;   /* NULL: written in place */
  char *target;
} outfile;

/* `name` NULL or "-": standard output. A device or pipe is written in place. Returns EXIT_DONE, or EXIT_FAILED and has said why. */
int outfile_open(outfile *f, const char *name);
int outfile_write(outfile *f, const void *data, size_t len);
/* Makes the file appear under its name. Gone afterwards, whatever is returned. */
int outfile_commit(outfile *f);
/* Leaves the name as it was. */
void outfile_abort(outfile *f);

#endif
