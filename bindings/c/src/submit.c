/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* submit.c - requests whose answers come to a callback. */
#include <string.h>

#include "internal.h"

/* What a kind of request makes of its reply; the sentence is set when the code it returns is not SDBC_OK. */
typedef int interpret(sdbc *h, const ci_request *r, int code, const ci_reply *reply, sdbc_done *done, sdbc_info *info,
                      sdbc_commit *commit);

static void tell(sdbc *h, ci_request *r, int code, const ci_reply *reply, interpret *what) {
  sdbc_info info;
  sdbc_commit commit;
  sdbc_done done = {.ticket = r->id};
  done.code = what(h, r, code, reply, &done, &info, &commit);
  /* The callback may fail at submitting something, which must not change what it is being told. */
  char message[CI_MESSAGE];
  message[0] = '\0';
  if (done.code != SDBC_OK) memcpy(message, h->message, sizeof message);
  done.message = message;
  bool outer = h->in_callback;
  h->in_callback = true;
  h->completed++;
  r->callback(r->user, &done);
  h->in_callback = outer;
}

static int interpret_get(sdbc *h, const ci_request *r, int code, const ci_reply *reply, sdbc_done *done, sdbc_info *info,
                         sdbc_commit *commit) {
  (void)r;
  (void)commit;
  if (code == SDBC_OK) {
    code = ci_check_whole(h, reply, info);
    if (code != SDBC_OK) return code;
    done->data = reply->body;
    done->size = reply->size;
    done->info = info;
  } else if (code == SDBC_TOO_LARGE && reply && ci_info(reply->head->info, info)) {
    done->info = info;
  }
  return code;
}

static int interpret_stat(sdbc *h, const ci_request *r, int code, const ci_reply *reply, sdbc_done *done, sdbc_info *info,
                          sdbc_commit *commit) {
  (void)r;
  (void)commit;
  if (code != SDBC_OK) return code;
  if (!ci_info(reply->head->info, info)) return ci_protocol(h, "nothing about the document");
  done->info = info;
  return SDBC_OK;
}

static int interpret_insert(sdbc *h, const ci_request *r, int code, const ci_reply *reply, sdbc_done *done, sdbc_info *info,
                            sdbc_commit *commit) {
  (void)r;
  (void)info;
  if (code == SDBC_OK) code = ci_commit(h, reply->head, commit);
  if (code == SDBC_OK) done->commit = commit;
  return code;
}

static int interpret_delete(sdbc *h, const ci_request *r, int code, const ci_reply *reply, sdbc_done *done, sdbc_info *info,
                            sdbc_commit *commit) {
  (void)info;
  code = ci_delete_outcome(h, code, r->unknown, reply, commit);
  if (code == SDBC_OK) done->commit = commit;
  return code;
}

static void get_done(sdbc *h, ci_request *r, int code, const ci_reply *reply) { tell(h, r, code, reply, interpret_get); }
static void stat_done(sdbc *h, ci_request *r, int code, const ci_reply *reply) { tell(h, r, code, reply, interpret_stat); }
static void insert_done(sdbc *h, ci_request *r, int code, const ci_reply *reply) { tell(h, r, code, reply, interpret_insert); }
static void delete_done(sdbc *h, ci_request *r, int code, const ci_reply *reply) { tell(h, r, code, reply, interpret_delete); }

/* May be called inside a callback, so it leaves the sentence alone unless it fails. */
static int enter(sdbc *h, const void *path, size_t path_len, sdbc_callback callback, size_t bytes) {
  if (!h) return SDBC_INVALID;
  if (h->closing) return ci_fail(h, SDBC_CLOSED, "%s", sdbc_strerror(SDBC_CLOSED));
  if (!callback) return ci_fail(h, SDBC_INVALID, "there is no callback for the answer");
  int code = ci_check_path(h, path, path_len);
  if (code != SDBC_OK) return code;
  uint64_t most = h->options.max_in_flight_bytes;
  bool too_much = bytes > 0 && h->in_flight_bytes > 0 && (h->in_flight_bytes >= most || bytes > most - h->in_flight_bytes);
  if (h->in_flight >= h->options.max_in_flight || too_much) {
    return ci_fail(h, SDBC_AGAIN, "%zu requests with %llu bytes are in flight", h->in_flight,
                   (unsigned long long)h->in_flight_bytes);
  }
  return SDBC_OK;
}

static int submit(sdbc *h, ci_pb_request *request, const void *body, size_t size, ci_done *done, sdbc_callback callback, void *user,
                  uint64_t *ticket) {
  ci_request *r = ci_take(h);
  if (!r) return ci_fail(h, SDBC_AGAIN, "too many requests are in flight");
  if (!ci_pack(h, r, request, body, size)) {
    ci_release(h, r);
    return ci_fail(h, SDBC_NO_MEMORY, "no memory for a request of %zu bytes", size);
  }
  r->done = done;
  r->callback = callback;
  r->user = user;
  r->submitted = true;
  h->in_flight++;
  h->in_flight_bytes += size;
  if (ticket) *ticket = r->id;
  ci_start(h, r);
  return SDBC_OK;
}

int sdbc_submit_get(sdbc *h, const void *path, size_t path_len, uint32_t version, sdbc_callback callback, void *user,
                    uint64_t *ticket) {
  int code = enter(h, path, path_len, callback, 0);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Get get;
  ci_pb_request request;
  ci_fill_get(&request, &get, path, path_len, version);
  return submit(h, &request, NULL, 0, get_done, callback, user, ticket);
}

int sdbc_submit_stat(sdbc *h, const void *path, size_t path_len, uint32_t version, sdbc_callback callback, void *user,
                     uint64_t *ticket) {
  int code = enter(h, path, path_len, callback, 0);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Stat stat;
  ci_pb_request request;
  ci_fill_stat(&request, &stat, path, path_len, version);
  return submit(h, &request, NULL, 0, stat_done, callback, user, ticket);
}

int sdbc_submit_insert(sdbc *h, const void *path, size_t path_len, const void *data, size_t len, const sdbc_put_options *options,
                       sdbc_callback callback, void *user, uint64_t *ticket) {
  uint8_t token[CI_TOKEN];
  sdbc_put_options o;
  int code = enter(h, path, path_len, callback, len);
  if (code == SDBC_OK) code = ci_put_options(h, options, &o, token);
  if (code != SDBC_OK) return code;
  if (!data && len > 0) return ci_fail(h, SDBC_INVALID, "there is no content");
  if (len > SDBC_MAX_BODY)
    return ci_fail(h, SDBC_TOO_LARGE, "contents above %u bytes need sdbc_insert() or a stream", SDBC_MAX_BODY);
  if (!data) data = "";
  Dcf__Db__V1__Insert insert;
  ci_pb_request request;
  ci_fill_insert(&request, &insert, path, path_len, data, len, &o);
  return submit(h, &request, data, len, insert_done, callback, user, ticket);
}

int sdbc_submit_delete(sdbc *h, const void *path, size_t path_len, const sdbc_put_options *options, sdbc_callback callback,
                       void *user, uint64_t *ticket) {
  sdbc_put_options o;
  int code = enter(h, path, path_len, callback, 0);
  if (code == SDBC_OK) code = ci_put_options(h, options, &o, NULL);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Delete message;
  ci_pb_request request;
  ci_fill_delete(&request, &message, path, path_len, &o);
  return submit(h, &request, NULL, 0, delete_done, callback, user, ticket);
}

int sdbc_poll(sdbc *h, int timeout_ms, size_t *completed) {
  int code = ci_enter(h);
  if (code != SDBC_OK) return code;
  int64_t until = timeout_ms < 0 ? CI_FOREVER : ci_now_ms() + timeout_ms;
  size_t before = h->completed;
  /* What has arrived is delivered without looking at the clock between; a busy service cannot keep this going for ever. */
  size_t seen = before;
  while (code == SDBC_OK && h->in_flight > 0 && h->completed - before < h->options.max_in_flight) {
    code = ci_step(h, h->completed == before ? until : 0);
    if (h->completed == seen && (h->completed != before || ci_now_ms() >= until)) break;
    seen = h->completed;
  }
  if (completed) *completed = h->completed - before;
  return code;
}

size_t sdbc_in_flight(const sdbc *h) { return h->in_flight; }
