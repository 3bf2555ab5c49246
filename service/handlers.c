/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* handlers.c - which operation goes where, the checks they share, and the small ones: ping, insert, delete, flush. */
#include <string.h>

#include "front.h"

/* --- Shared checks ------------------------------------------------------------------------------------------------------------ */

bool front_path_ok(front *f, const request *rq, pb_bytes path) {
  if (path.len >= 1 && path.len <= SDB_MAX_PATH) return true;
  front_fail(f, rq, CODE(INVALID), "a path has 1 to 1,024 bytes");
  return false;
}

bool front_write_ok(front *f, const request *rq, pb_bytes path, pb_durability durability, pb_bytes token, const uint32_t *expect) {
  if (!front_path_ok(f, rq, path)) return false;
  const char *wrong = NULL;
  if ((unsigned)durability > DCF__DB__V1__DURABILITY__NONE) wrong = "the durability is not one of 0 to 3";
  if (token.len != 0 && token.len != 16) wrong = "a token has 16 bytes";
  if (expect && *expect == SDB_ANY) wrong = "the expected version is not a possible version";
  if (wrong) front_fail(f, rq, CODE(INVALID), wrong);
  return !wrong;
}

bool front_room_in(front *f, const request *rq, size_t n) {
  if (rq->client->bytes_in + n > CLIENT_BYTES_IN) {
    front_busy(f, rq, RETRY_BYTES_MS, "this connection has 16 MB of unfinished writes; wait for answers");
    return false;
  }
  if (count_now(&f->s->counters.in_flight_in) + n > TOTAL_BYTES_IN) {
    front_busy(f, rq, RETRY_BYTES_MS, "all connections together have 64 MB of unfinished writes");
    return false;
  }
  return true;
}

bool front_room_job(front *f, const request *rq) {
  if (rq->client->jobs < CLIENT_JOBS && count_now(&f->s->counters.jobs_waiting) < TOTAL_JOBS) return true;
  front_busy(f, rq, RETRY_BYTES_MS, "too much work is waiting for the workers");
  return false;
}

static bool room_write(front *f, const request *rq) {
  if (rq->client->writes < CLIENT_WRITES && count_now(&f->s->counters.writes_waiting) < TOTAL_WRITES) return true;
  front_busy(f, rq, RETRY_BYTES_MS, "too many writes are waiting");
  return false;
}

/* --- Handlers ----------------------------------------------------------------------------------------------------------------- */

static void ping(front *f, const request *rq) {
  pb_reply reply;
  service_reply(f->s, &reply, rq->id);
  reply.server = f->s->name;
  front_reply(f, rq->client, rq->envelope, &reply, NULL);
}

static void submit_write(front *f, task *t) {
  front_account(f, t);
  front_write(f, t);
}

static void insert(front *f, const request *rq) {
  const Dcf__Db__V1__Insert *op = rq->op->insert;
  bool conditional = op->has_expect_version_case == DCF__DB__V1__INSERT__HAS_EXPECT_VERSION_EXPECT_VERSION;
  if (!front_write_ok(f, rq, op->path, op->durability, op->token, conditional ? &op->expect_version : NULL)) return;
  if (zmq_msg_size(rq->body) > MAX_BODY) {
    front_fail(f, rq, CODE(TOO_LARGE), "a body has at most 1 MB; larger contents are uploaded");
    return;
  }
  if (!room_write(f, rq) || !front_room_in(f, rq, zmq_msg_size(rq->body))) return;
  task *t = front_task(f, rq, op->path, (pb_bytes){0});
  if (!t) return;
  t->kind = TASK_INSERT;
  t->durability = (sdb_durability)op->durability;
  if (conditional) t->expect = op->expect_version;
  t->has_token = op->token.len > 0;
  if (t->has_token) memcpy(t->token, op->token.data, sizeof t->token);
  t->has_digest = op->has_digest_case == DCF__DB__V1__INSERT__HAS_DIGEST_DIGEST;
  t->digest = t->has_digest ? op->digest : 0;
  front_take_body(f, rq, t);
  submit_write(f, t);
}

static void delete_document(front *f, const request *rq) {
  const Dcf__Db__V1__Delete *op = rq->op->delete_;
  bool conditional = op->has_expect_version_case == DCF__DB__V1__DELETE__HAS_EXPECT_VERSION_EXPECT_VERSION;
  if (!front_write_ok(f, rq, op->path, op->durability, (pb_bytes){0}, conditional ? &op->expect_version : NULL)) return;
  if (!room_write(f, rq)) return;
  task *t = front_task(f, rq, op->path, (pb_bytes){0});
  if (!t) return;
  t->kind = TASK_DELETE;
  t->durability = (sdb_durability)op->durability;
  if (conditional) t->expect = op->expect_version;
  submit_write(f, t);
}

static void flush(front *f, const request *rq) {
  if (!room_write(f, rq)) return;
  task *t = front_task(f, rq, (pb_bytes){0}, (pb_bytes){0});
  if (!t) return;
  t->kind = TASK_FLUSH;
  submit_write(f, t);
}

/* --- Which goes where --------------------------------------------------------------------------------------------------------- */

static bool may_have_body(const pb_request *op) {
  return op->op_case == DCF__DB__V1__REQUEST__OP_INSERT || op->op_case == DCF__DB__V1__REQUEST__OP_UPLOAD_CHUNK;
}

/* What is wrong with the request before its operation is looked at. */
static pb_code judge(front *f, const request *rq, const char **sentence) {
  const pb_request *op = rq->op;
  if (op->op_case == DCF__DB__V1__REQUEST__OP__NOT_SET && op->base.n_unknown_fields > 0) {
    *sentence = "this service does not know the operation";
    return CODE(UNSUPPORTED);
  }
  if (op->op_case == DCF__DB__V1__REQUEST__OP__NOT_SET) {
    *sentence = "the request names no operation";
    return CODE(MALFORMED);
  }
  if (rq->has_body && !may_have_body(op)) {
    *sentence = "this operation takes no body";
    return CODE(MALFORMED);
  }
  if (f->stopping) {
    *sentence = "the service is shutting down";
    return CODE(STOPPING);
  }
  if (op->epoch != 0 && op->epoch != f->s->epoch) {
    *sentence = "the database has another history than the epoch of the request; read again";
    return CODE(RESET);
  }
  return CODE(OK);
}

void handle_request(front *f, const request *rq) {
  const char *sentence = NULL;
  pb_code code = judge(f, rq, &sentence);
  if (code != CODE(OK)) {
    if (code == CODE(MALFORMED)) count_up(&f->s->counters.malformed, 1);
    front_fail(f, rq, code, sentence);
    return;
  }
  switch (rq->op->op_case) {
    case DCF__DB__V1__REQUEST__OP_PING: ping(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_INSERT: insert(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_GET: read_get(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_STREAM_OPEN: stream_open(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_STREAM_CREDIT: stream_credit(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_STREAM_CLOSE: stream_close(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_UPLOAD_OPEN: upload_open(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_UPLOAD_CHUNK: upload_chunk(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_UPLOAD_COMMIT: upload_commit(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_UPLOAD_ABORT: upload_abort(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_SEARCH: read_search(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_DELETE: delete_document(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_STAT: read_stat(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_VERSIONS: read_versions(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_FLUSH: flush(f, rq); break;
    case DCF__DB__V1__REQUEST__OP_STATISTICS: read_statistics(f, rq); break;
    case DCF__DB__V1__REQUEST__OP__NOT_SET:
    case _DCF__DB__V1__REQUEST__OP__CASE_IS_INT_SIZE:
    default: break; /* judged above */
  }
}
