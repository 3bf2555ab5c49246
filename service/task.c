/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* task.c - the life of a task, and the replies that every thread makes in the same way. */
#include "task.h"

#include <stdlib.h>
#include <string.h>

#include "service.h"

task *task_new(client *c, flow *f, bool envelope, uint64_t id, pb_bytes path, pb_bytes after) {
  task *t = malloc(sizeof *t + path.len + after.len);
  if (!t) return NULL;
  *t = (task){.kind = TASK_OTHER, .client = c, .flow = f, .envelope = envelope, .id = id, .expect = SDB_ANY};
  zmq_msg_init(&t->body);
  t->path_len = (uint16_t)path.len;
  t->after_len = (uint16_t)after.len;
  if (path.len > 0) memcpy(t->path, path.data, path.len);
  if (after.len > 0) memcpy(t->path + path.len, after.data, after.len);
  atomic_fetch_add(&f->refs, 1);
  return t;
}

void task_free(task *t) {
  if (!t) return;
  zmq_msg_close(&t->body);
  if (t->has_header) zmq_msg_close(&t->header);
  if (t->has_content) zmq_msg_close(&t->content);
  flow_unref(t->flow);
  free(t);
}

block *task_block(task *t, size_t size) {
  if (t->reserved < size) {
    flow_take(t->flow, size - t->reserved);
    t->reserved = size;
  }
  block *b = block_new(t->flow, size);
  if (b) t->reserved -= size;
  return b;
}

/* Without memory for the header there is no reply; the client's patience ends it. */
void task_reply(service *s, task *t, pb_reply *reply) {
  if (reply->code != CODE(OK)) service_count_error(s, reply->code);
  size_t size = dcf__db__v1__reply__get_packed_size(reply);
  if (size <= COUNTED_BODY) {
    t->has_header = reply_pack(reply, &t->header);
    return;
  }
  /* A page of search results is as large as a body, and counted like one. */
  block *b = task_block(t, size);
  if (!b) return;
  dcf__db__v1__reply__pack(reply, b->data);
  t->has_header = block_to_message(b, size, &t->header);
}

void task_fail(service *s, task *t, pb_code code, const char *sentence) {
  pb_reply reply;
  char text[SENTENCE_BYTES];
  service_reply(s, &reply, t->id);
  reply_error(&reply, code, sentence, text);
  task_reply(s, t, &reply);
}

void task_fail_store(service *s, task *t, int rc) {
  char text[SENTENCE_BYTES];
  service_sentence(s, rc, text);
  task_fail(s, t, code_of(rc), text);
}

void task_return(service *s, task *t) {
  list l = {0};
  list_add(&l, &t->node);
  mailbox_put(&s->replies, &l);
}

bool task_expired(service *s, task *t) {
  if (t->begin_by == 0 || service_now() <= t->begin_by) return false;
  task_fail(s, t, CODE(TIMED_OUT), "the request waited longer than its timeout_ms and was not begun");
  return true;
}
