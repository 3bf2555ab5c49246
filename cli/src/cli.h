/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* cli.h - what the parts of the command line tool share.
 *
 *     main.c      arguments --> struct cli, help            commands.h: the table of commands
 *     transfer.c  insert, get, stream                       backend.h: service or file, behind one interface
 *     listing.c   search, versions, stat, delete, watch     output.h: JSON, columns, escapes
 *     care.c      flush, stats, ping                        outfile.h, progress.h
 *     key.c       key export, key change
 *     files.c     backup, check, verify, restore, repair    inspect.h: a decoder of its own
 */
#ifndef STREAMDB_CLI_H
#define STREAMDB_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NOT_FOUND = 3 };

#define TO_THE_END UINT64_MAX

/* A path or prefix: any bytes. */
typedef struct bytes {
  const uint8_t *data;
  size_t len;
} bytes;

struct backend;

typedef struct cli {
  const char *server, *database, *events; /* at most one of server and database */
  uint32_t timeout_ms;                    /* 0: the client's default */
  bool json, base64, long_listing, null_ended, replace;
  const char *output, *key_file;
  uint32_t version;
  uint64_t offset, length, limit, count; /* limit and count: 0 means none */
  bytes path;                            /* the command's first operand; empty when it has none */
  const char *first;                     /* the same as it was given */
  const char *file;                      /* its second, or NULL */
  const char *third;
  struct backend *backend; /* open while the command runs */
} cli;

/* Prints one sentence on stderr, after "streamdb: " and with control bytes as \xNN, and returns EXIT_FAILED. */
__attribute__((format(printf, 1, 2))) int complain(const char *format, ...);

#endif
