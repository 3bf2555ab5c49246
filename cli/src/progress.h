/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* progress.h - the bar on the terminal during long transfers. */
#ifndef STREAMDB_PROGRESS_H
#define STREAMDB_PROGRESS_H

#include "cli.h"

typedef struct progress {
  bool shown, drawn;
  uint64_t total, done; /* total: UINT64_MAX when it is not known */
  int64_t start, last;  /* microseconds */
} progress;

/* Shows nothing when stderr is no terminal, when `quiet`, or before the transfer has taken a moment. */
void progress_begin(progress *p, uint64_t total, bool quiet);
void progress_add(progress *p, uint64_t amount);
/* Removes the bar. */
void progress_end(progress *p);

#endif
