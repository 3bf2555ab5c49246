/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* front.h - the thread that owns the ROUTER socket and everything known of clients.
 *
 * One turn: take what the socket has (up to a bound), answer what can be answered at once, hand the rest over in two lists, send
 * what came back, look after leases and slow peers, and sleep only when nothing was there. It never waits for a disk, a peer or a
 * thread.
 *
 * A reply that the peer's queue does not take is parked with its client and tried again; replies of one client keep their order.
 */
#ifndef SERVICE_FRONT_H
#define SERVICE_FRONT_H

#include "client.h"
#include "message.h"
#include "service.h"
#include "task.h"

typedef struct stream stream;
typedef struct upload upload;

/* One request while it is handled. */
typedef struct request {
  client *client;
  bool envelope;
  uint64_t id;
  const pb_request *op;
  zmq_msg_t *body; /* moved out by who keeps it */
  bool has_body;
  int64_t begin_by;
} request;

struct front {
  service *s;
  void *router;
  int signals; /* signalfd */
  client_table clients;
  client *parked; /* clients with parked replies */
  stream *streams[MAX_SLOTS];
  upload *uploads[MAX_SLOTS];
  uint64_t generation;  /* makes numbers of streams and uploads unique */
  bool streams_waiting; /* some have credit but no room for bytes */
  list writes, jobs;    /* of this turn */
  size_t tasks;         /* with other threads */
  int64_t now, next_sweep, next_retry, next_complaint;
  int64_t cold_until;
  long device_reads; /* of this thread, as the system counts them */
  bool stopping;
  int64_t stop_sending_at;
  arena arena;
  uint8_t scratch[INLINE_READ + 1];
};

/* All that can fail, before anybody is told that the service is ready. `f` has s and signals set, the rest zero. The clients are to
 * be freed whatever is returned. */
bool front_prepare(front *f);
/* Serves until a signal or a fatal failure, and finishes what was accepted. */
void front_run(front *f);

/* --- For the handlers --------------------------------------------------------------------------------------------------------- */

/* Answers now. `content` may be NULL; it is consumed. */
void front_reply(front *f, client *c, bool envelope, pb_reply *reply, zmq_msg_t *content);
/* Answers with an error in one sentence. */
void front_fail(front *f, const request *rq, pb_code code, const char *sentence);
void front_busy(front *f, const request *rq, uint32_t retry_after_ms, const char *sentence);
/* Sends the task's reply, if it has one, and frees the task: now, or when the peer takes it. */
void front_send_task(front *f, task *t);

/* A task for the request, with id, deadline and names. NULL: out of memory, and the client was told. */
task *front_task(front *f, const request *rq, pb_bytes path, pb_bytes after);
/* Counts the task as under way until it comes home. */
void front_account(front *f, task *t);
/* Hands it over at the end of the turn. */
void front_write(front *f, task *t);
void front_job(front *f, task *t);
/* The plain `home`: send and free. */
void front_home(front *f, task *t);

/* Whether the path is one; else the client was told. */
bool front_path_ok(front *f, const request *rq, pb_bytes path);
/* What insert and upload_open have in common; else the client was told. */
bool front_write_ok(front *f, const request *rq, pb_bytes path, pb_durability durability, pb_bytes token, const uint32_t *expect);
/* Whether the client may have `n` more bytes received; else it was told. */
bool front_room_in(front *f, const request *rq, size_t n);
/* Whether the client may have one more job with the workers; else it was told. */
bool front_room_job(front *f, const request *rq);
/* Moves the body of the request into the task and counts it. */
void front_take_body(front *f, const request *rq, task *t);

/* --- Handlers by file --------------------------------------------------------------------------------------------------------- */

void handle_request(front *f, const request *rq); /* handlers.c */

void read_get(front *f, const request *rq); /* reads.c */
void read_stat(front *f, const request *rq);
void read_versions(front *f, const request *rq);
void read_search(front *f, const request *rq);
void read_statistics(front *f, const request *rq);

void stream_open(front *f, const request *rq); /* stream.c */
void stream_credit(front *f, const request *rq);
void stream_close(front *f, const request *rq);
void streams_retry(front *f);           /* those that wait for room */
void streams_sweep(front *f);           /* leases */
void streams_drop(front *f, client *c); /* the client is gone */
void streams_stop(front *f);            /* the service stops */

void upload_open(front *f, const request *rq); /* upload.c */
void upload_chunk(front *f, const request *rq);
void upload_commit(front *f, const request *rq);
void upload_abort(front *f, const request *rq);
void uploads_sweep(front *f);
void uploads_drop(front *f, client *c);
void uploads_stop(front *f); /* forgets those that no commit was sent for */

#endif
