/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* options.h - what can be said on the command line. */
#ifndef SERVICE_OPTIONS_H
#define SERVICE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log.h"
#include "sdb/sdb.h"

#define MAX_LISTEN 16
#define DEFAULT_LISTEN "tcp://127.0.0.1:7600"
#define DEFAULT_EVENTS "tcp://127.0.0.1:7601"

typedef struct options {
  const char *database, *key_file;
  const char *listen[MAX_LISTEN];
  size_t listen_count;
  const char *events;
  unsigned workers;
  uint32_t stream_lease_ms;
  log_level log_level;
  sdb_options engine;
  bool help, version;
} options;

/* Defaults, then the arguments; strings are kept as pointers into `argv`. False: `sentence` says what is wrong with them. */
bool options_parse(options *o, int argc, char *argv[], char *sentence, size_t size);

/* The text of --help. */
const char *options_help(void);

#endif
