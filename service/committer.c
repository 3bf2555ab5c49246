/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* committer.c - group commit.
 *
 *     take all that waits -> apply each in order, deferred -> one wait for the highest sequence -> replies, then events
 *
 * While the device syncs, the next group gathers. Because nobody else commits, the order of this thread is the order of sequences,
 * of replies and of events. Nothing of a group is told before the wait: also a failed condition, a missing document and a known
 * token can rest on a write of the same group, and share its fate. */
#include "committer.h"

#include "feed.h"
#include "service.h"
#include "task.h"
#include "upload.h"

#define ALL_REFUSED "an earlier sync failed; the service stops and starts again, and this write may or may not be stored"

typedef struct group {
  list tasks;
  uint64_t highest; /* deferred sequence to wait for; 0: none */
  uint64_t visible; /* highest sequence of all */
  bool flush;
  int flushed; /* answer of the store */
  int fate;    /* of the wait */
} group;

static void apply_document(service *s, group *g, task *t) {
  sdb_put_options put;
  sdb_put_options_init(&put);
  put.durability = service_durability(s, t->durability);
  put.defer = put.durability == SDB_DURABLE;
  put.expect = t->expect;
  put.token = t->has_token ? t->token : NULL;
  if (t->kind == TASK_DELETE) {
    t->rc = s->store.remove(s->store.ctx, t->path, t->path_len, &put, &t->commit);
  } else if (t->kind == TASK_UPLOAD_COMMIT) {
    upload_do_commit(s, t);
  } else {
    const void *data = zmq_msg_data(&t->body);
    size_t len = zmq_msg_size(&t->body);
    if (t->has_digest && sdb_crc32c(0, data, len) != t->digest) {
      t->refused = CODE(DIGEST_MISMATCH);
      return;
    }
    t->rc = s->store.put(s->store.ctx, t->path, t->path_len, data, len, &put, &t->commit);
  }
  if (t->rc != SDB_OK || t->refused != CODE(OK)) return;
  if (put.defer && t->commit.sequence > g->highest) g->highest = t->commit.sequence;
  if (t->commit.sequence > g->visible) g->visible = t->commit.sequence;
}

static void apply(service *s, group *g, task *t) {
  if (task_expired(s, t)) return;
  if (t->kind == TASK_FLUSH) {
    g->flush = true;
  } else {
    apply_document(s, g, t);
  }
}

/* Once a sync has failed nobody knows what the device has, and nothing is acknowledged any more. The service ends, so that its
 * supervisor starts it again and recovery finds out. */
static void note_failed_sync(service *s, int rc) {
  int none = 0;
  if (rc == SDB_SYNC_FAILED) atomic_compare_exchange_strong(&s->exit_code, &none, EXIT_SYNC_FAILED);
}

static void settle_group(service *s, group *g) {
  if (g->highest > 0) g->fate = s->store.wait(s->store.ctx, g->highest);
  if (g->flush) g->flushed = s->store.flush(s->store.ctx);
  note_failed_sync(s, g->fate);
  note_failed_sync(s, g->flushed);
  if (g->fate == SDB_OK && g->visible > atomic_load(&s->sequence)) atomic_store(&s->sequence, g->visible);
}

/* Verdicts that no other write could have changed. */
static bool rests_on_nothing(const task *t) {
  return t->refused != CODE(OK) || t->rc == SDB_INVALID || t->rc == SDB_TOO_LARGE || t->rc == SDB_READ_ONLY;
}

static void reply_commit(service *s, task *t) {
  pb_reply reply;
  pb_info info;
  service_reply(s, &reply, t->id);
  info_fill(&info, &t->commit.info);
  reply.info = &info;
  reply.sequence = t->commit.sequence;
  reply.reached = (pb_durability)t->commit.reached;
  reply.created = t->commit.created;
  reply.repeated = t->commit.repeated;
  task_reply(s, t, &reply);
}

/* Returns whether the write was done. */
static bool conclude(service *s, const group *g, task *t) {
  if (t->has_header) return false;
  if (t->refused == CODE(DIGEST_MISMATCH)) {
    task_fail(s, t, t->refused, "the body is not what its digest says; nothing was stored");
  } else if (t->kind == TASK_FLUSH) {
    pb_reply reply;
    service_reply(s, &reply, t->id);
    reply.reached = DCF__DB__V1__DURABILITY__DURABLE;
    if (g->flushed == SDB_OK && g->fate == SDB_OK) {
      task_reply(s, t, &reply);
    } else {
      task_fail_store(s, t, g->fate != SDB_OK ? g->fate : g->flushed);
    }
  } else if (g->fate != SDB_OK && !rests_on_nothing(t)) {
    task_fail(s, t, CODE(IO), ALL_REFUSED);
  } else if (t->rc != SDB_OK) {
    note_failed_sync(s, t->rc);
    task_fail_store(s, t, t->rc);
  } else {
    /* What was deferred has been waited for. */
    if (service_durability(s, t->durability) == SDB_DURABLE) t->commit.reached = SDB_DURABLE;
    reply_commit(s, t);
    return !t->commit.repeated;
  }
  return false;
}

static void commit_group(service *s, group *g) {
  if (atomic_load(&s->exit_code) != 0) {
    g->fate = SDB_SYNC_FAILED;
  } else {
    for (node *n = g->tasks.first; n; n = n->next) apply(s, g, task_of(n));
    settle_group(s, g);
  }
  list events = {0};
  for (node *n = g->tasks.first; n; n = n->next) {
    task *t = task_of(n);
    if (!conclude(s, g, t)) continue;
    count_up(&s->counters.writes, 1);
    feed_add(s->feed, &events, t);
  }
  count_up(&s->counters.groups, 1);
  mailbox_put(&s->replies, &g->tasks);
  feed_send(s->feed, &events);
}

void *committer_main(void *arg) {
  service *s = arg;
  group g = {0};
  while (queue_take(&s->writes, &g.tasks, GROUP_WRITES)) {
    commit_group(s, &g);
    g = (group){0};
  }
  return NULL;
}
