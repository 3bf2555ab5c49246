/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* task.h - a request on its way through the threads, and the reply on its way back.
 *
 *     front: task_new() --queue--> committer or worker: run() fills the reply --mailbox--> front: home() sends it and settles
 *
 * The thread that holds a task owns all of it, but never looks into `client`, which is the front's.
 */
#ifndef SERVICE_TASK_H
#define SERVICE_TASK_H

#include "flow.h"
#include "message.h"
#include "queue.h"

typedef struct service service;
typedef struct front front;
typedef struct client client;
typedef struct task task;

typedef enum task_kind { TASK_INSERT, TASK_DELETE, TASK_FLUSH, TASK_UPLOAD_COMMIT, TASK_OTHER, TASK_DELIVERY } task_kind;

struct task {
  node node; /* first: a task in a list is its node */
  task_kind kind;
  void (*run)(service *s, task *t); /* in a worker; must put the task into the mailbox */
  void (*home)(front *f, task *t);  /* in the front, after its reply was sent; frees or keeps the task */

  client *client;
  flow *flow; /* the client's; a reference */
  bool envelope;
  uint64_t id;
  int64_t begin_by; /* on the monotonic clock, ms; 0: no limit */
  size_t charged;   /* bytes of `body` counted as received */
  size_t reserved;  /* bytes reserved in `flow` and not yet in a block */

  uint32_t version, limit;
  uint64_t offset, length;
  bool infos;
  sdb_durability durability;
  uint32_t expect;
  bool has_digest;
  uint32_t digest;
  bool has_token;
  uint8_t token[16];
  void *object;    /* the stream or upload it works for */
  unsigned budget; /* of a stream: chunks it may send in this turn */
  task *chain;     /* of an upload: the chunk behind this one in the same turn */
  zmq_msg_t body;

  int rc;          /* what the store answered; the service's own verdict stands in `refused` */
  pb_code refused; /* not OK: the service refused the write before it reached the store */
  sdb_commit commit;

  bool has_header, has_content;
  zmq_msg_t header, content;

  uint16_t path_len, after_len;
  uint8_t path[]; /* path, then after */
};

/* For `c`, with room for the names. NULL on shortage. */
task *task_new(client *c, flow *f, bool envelope, uint64_t id, pb_bytes path, pb_bytes after);
/* Closes what it holds. Takes NULL. */
void task_free(task *t);

static inline task *task_of(node *n) { return (task *)(void *)n; }

/* A block out of what is reserved for the task; the reservation grows when it must. NULL on shortage. */
block *task_block(task *t, size_t size);

/* Packs the reply into the task. */
void task_reply(service *s, task *t, pb_reply *reply);
/* The reply is an error in one sentence. */
void task_fail(service *s, task *t, pb_code code, const char *sentence);
/* The reply is the error that the store reported. */
void task_fail_store(service *s, task *t, int rc);
/* Sends the task to the front. */
void task_return(service *s, task *t);
/* Whether it waited longer than its client wants; then the reply says so. */
bool task_expired(service *s, task *t);

#endif
