/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* backend.h - where documents are: behind a service, or in a file. Commands know only this.
 *
 * Calls return one of the results below; when it is not RESULT_OK or RESULT_END, `message` has the sentence.
 */
#ifndef STREAMDB_BACKEND_H
#define STREAMDB_BACKEND_H

#include "cli.h"

typedef enum result { RESULT_OK, RESULT_END, RESULT_NOT_FOUND, RESULT_FAILED } result;

#define SMALL_CONTENT 1048576u /* what is inserted in one call; above it the content is written as a stream */
#define UNKNOWN_SIZE UINT64_MAX

typedef struct document {
  uint8_t id[16];
  uint32_t version, oldest;
  uint64_t size, time_ms;
  uint32_t digest;
} document;

typedef struct commit {
  document made; /* deleted: the last version; all zero when that is not known */
  uint64_t sequence;
  const char *durability; /* "durable", "buffered", "none", or NULL when it is not known */
  bool created;
} commit;

typedef struct event {
  enum { EVENT_PUT, EVENT_DELETE, EVENT_GAP } kind;
  bytes path; /* valid until the next event */
  document made;
  uint64_t sequence;
  uint64_t missed;    /* gap: how many; 0 when that is not known */
  const char *reason; /* gap: one sentence; valid until the next event */
} event;

typedef struct pong {
  char server[64];
  uint64_t sequence;
  uint64_t round_trip_us; /* 0 when nothing was asked over a connection */
  uint64_t documents;     /* of a file */
} pong;

typedef struct backend backend;

typedef struct backend_calls {
  bool is_service;
  result (*insert)(backend *b, bytes path, const void *data, size_t len, commit *made);
  /* One writer, one reader, one search and one watch at a time. */
  result (*write_open)(backend *b, bytes path, uint64_t size_hint);
  result (*write)(backend *b, const void *data, size_t len);
  result (*write_commit)(backend *b, commit *made);
  void (*write_abort)(backend *b);
  /* `length` TO_THE_END: to the end. */
  result (*read_open)(backend *b, bytes path, uint32_t version, uint64_t offset, uint64_t length, document *doc);
  /* *len 0: the end. *data is valid until the next call. */
  result (*read)(backend *b, const void **data, size_t *len);
  void (*read_close)(backend *b);
  result (*stat)(backend *b, bytes path, uint32_t version, document *doc);
  result (*versions)(backend *b, bytes path, document *docs, size_t cap, size_t *count);
  result (*remove)(backend *b, bytes path, commit *last);
  result (*search_open)(backend *b, bytes prefix, bool infos, uint64_t limit);
  result (*search_next)(backend *b, bytes *path, document *doc);
  void (*search_close)(backend *b);
  /* NULL for a file. */
  result (*watch_open)(backend *b, bytes prefix);
  result (*watch_next)(backend *b, event *e);
  void (*watch_close)(backend *b);
  result (*flush)(backend *b);
  result (*stats)(backend *b, void (*each)(void *user, const char *name, uint64_t value), void *user);
  result (*ping)(backend *b, pong *answer);
  /* NULL for a service. */
  /* NULL for a service. `key` has SDB_KEY_SIZE bytes. */
  result (*key_export)(backend *b, uint8_t *key);
  result (*key_change)(backend *b, const uint8_t *key);
  /* RESULT_FAILED: with the sentence in `message` (of CLI_MESSAGE bytes), because the backend is gone. */
  result (*close)(backend *b, char *message);
} backend_calls;

#define CLI_MESSAGE 600

struct backend {
  const backend_calls *calls;
  const char *name; /* endpoint or file, for messages */
  char message[CLI_MESSAGE];
};

/* How a command uses a file. */
typedef enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_CREATE } access_kind;

/* The exit code for a result; says what was wrong. */
int exit_code_of(const cli *c, result r);

/* NULL: the sentence is in `message` (of CLI_MESSAGE bytes). */
backend *backend_open_service(const cli *c, char *message, int *exit_code);
backend *backend_open_file(const cli *c, access_kind access, char *message, int *exit_code);

#endif
