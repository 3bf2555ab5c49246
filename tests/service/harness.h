/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* harness.h - starts the real streamdbd on a database of its own and speaks the protocol to it, frame by frame.
 *
 * Nothing here knows the service's code: requests are built from the contract alone, as another language's client would.
 * The service dies with the test that started it. */
#ifndef TESTS_SERVICE_HARNESS_H
#define TESTS_SERVICE_HARNESS_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <zmq.h>

#include "dcf_db.pb-c.h"
#include "sdb/sdb.h"

#define PB(name) Dcf__Db__V1__##name
#define CODE(name) DCF__DB__V1__CODE__##name
#define OP(name) DCF__DB__V1__REQUEST__OP_##name

#define PATIENCE_MS 10000

/* --- The service -------------------------------------------------------------------------------------------------------------- */

typedef struct server {
  pid_t pid;
  FILE *out;
  char directory[64];
  char database[96];
  char listen[256];
  char events[256];
} server;

/* A new directory, and the service in it. `extra`: further arguments, NULL at the end, or NULL. */
void server_start(server *s, const char *const *extra);
/* The service again, on the same database. */
void server_restart(server *s, const char *const *extra);
/* A service that runs in the child process `pid` already and writes its ready line to `fd`. */
void server_attach(server *s, pid_t pid, int fd);
/* Sends the signal, waits, and returns what waitpid() says. */
int server_signal(server *s, int signal);
/* Waits for its end by itself. */
int server_wait(server *s);
/* Asks it to end if it runs, which must succeed whatever was done to it, and removes the directory. */
void server_remove(server *s);
/* Becomes the program, in a child process. */
void exec_program(const char *const *args);
/* Runs the program with these arguments until it ends; its stderr goes to `err`. Returns the exit code. */
int run_program(const char *const *args, char *err, size_t size);
/* Resident memory of the service, bytes. */
size_t server_memory(const server *s);

/* --- A client ----------------------------------------------------------------------------------------------------------------- */

typedef struct connection {
  void *context;
  void *socket;
  bool envelope; /* a DEALER that sends the empty frame */
  uint64_t next_id;
} connection;

void connection_open(connection *c, const server *s, int type);
void connection_close(connection *c);

typedef struct call {
  PB(Request) request;
  union {
    PB(Ping) ping;
    PB(Insert) insert;
    PB(Get) get;
    PB(StreamOpen) stream_open;
    PB(StreamCredit) stream_credit;
    PB(StreamClose) stream_close;
    PB(UploadOpen) upload_open;
    PB(UploadChunk) upload_chunk;
    PB(UploadCommit) upload_commit;
    PB(UploadAbort) upload_abort;
    PB(Search) search;
    PB(Delete) delete;
    PB(Stat) stat;
    PB(Versions) versions;
    PB(Flush) flush;
    PB(Statistics) statistics;
  } op;
  const void *body;
  size_t body_len;
} call;

typedef struct answer {
  PB(Reply) * reply;
  bool has_body;
  zmq_msg_t body;
} answer;

/* Requests. Paths are NUL-terminated here; `call_bytes` makes other ones. */
ProtobufCBinaryData call_bytes(const void *data, size_t len);
call call_ping(void);
call call_insert(const char *path, const void *data, size_t len);
call call_get(const char *path);
call call_stat(const char *path);
call call_versions(const char *path);
call call_delete(const char *path);
call call_search(const char *prefix);
call call_flush(void);
call call_statistics(void);
call call_stream_open(const char *path);
call call_stream_credit(uint64_t stream, uint32_t credit);
call call_stream_close(uint64_t stream);
call call_upload_open(const char *path);
call call_upload_chunk(uint64_t stream, uint64_t offset, const void *data, size_t len);
call call_upload_commit(uint64_t stream);
call call_upload_abort(uint64_t stream);

/* Sends; returns the id used: the one in the request, or the connection's next when that is 0. */
uint64_t call_send(connection *c, call *k);
/* The next reply; false when none came in time. Checks the body's digest. */
bool answer_receive(connection *c, answer *a, int timeout_ms);
void answer_free(answer *a);
/* Sends and waits for the reply with that id; fails the test when there is none. */
answer call_ask(connection *c, call *k);
/* The same, and only the code is wanted. */
PB(Code) call_code(connection *c, call *k);
/* Sends these frames as they are. */
void send_frames(connection *c, const void *const *frames, const size_t *sizes, size_t count);

/* --- Other -------------------------------------------------------------------------------------------------------------------- */

/* From SDB_SEED or the clock; printed. */
uint64_t test_seed(void);
uint64_t test_random(uint64_t *state);
/* Bytes that depend on the seed and the place alone. */
void fill(void *buf, size_t len, uint64_t seed);
/* One figure of the statistics. */
uint64_t statistic(connection *c, const char *name);

/* Waits until it has that value; fails the test when it does not come. */
void expect_statistic(connection *c, const char *name, uint64_t value);

/* Runs the suite; returns the exit code. */
int harness_run(Suite *suite);

#endif
