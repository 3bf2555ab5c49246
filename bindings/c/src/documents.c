/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* documents.c - the calls on one document that wait for their answer. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* --- Requests ----------------------------------------------------------------------------------------------------------------- */

/* protobuf-c's byte fields point to non-const, also in what is only sent. */
static ProtobufCBinaryData bytes(const void *data, size_t len) {
  union {
    const void *in;
    uint8_t *out;
  } at = {data};
  return (ProtobufCBinaryData){.data = at.out, .len = len};
}

/* The enumerations have the same values: the wire's are written beside ours in the header. */
static Dcf__Db__V1__Durability wire_durability(sdbc_durability durability) { return (Dcf__Db__V1__Durability)durability; }

void ci_fill_insert(ci_pb_request *request, Dcf__Db__V1__Insert *insert, const void *path, size_t path_len, const void *data,
                    size_t len, const sdbc_put_options *options) {
  dcf__db__v1__request__init(request);
  dcf__db__v1__insert__init(insert);
  insert->path = bytes(path, path_len);
  insert->durability = wire_durability(options->durability);
  insert->token = bytes(options->token, CI_TOKEN);
  insert->has_digest_case = DCF__DB__V1__INSERT__HAS_DIGEST_DIGEST;
  insert->digest = sdbc_crc32c(0, data, len);
  if (options->expect != SDBC_ANY) {
    insert->has_expect_version_case = DCF__DB__V1__INSERT__HAS_EXPECT_VERSION_EXPECT_VERSION;
    insert->expect_version = options->expect;
  }
  request->epoch = options->epoch;
  request->op_case = DCF__DB__V1__REQUEST__OP_INSERT;
  request->insert = insert;
}

void ci_fill_delete(ci_pb_request *request, Dcf__Db__V1__Delete *message, const void *path, size_t path_len,
                    const sdbc_put_options *options) {
  dcf__db__v1__request__init(request);
  dcf__db__v1__delete__init(message);
  message->path = bytes(path, path_len);
  message->durability = wire_durability(options->durability);
  if (options->expect != SDBC_ANY) {
    message->has_expect_version_case = DCF__DB__V1__DELETE__HAS_EXPECT_VERSION_EXPECT_VERSION;
    message->expect_version = options->expect;
  }
  request->epoch = options->epoch;
  request->op_case = DCF__DB__V1__REQUEST__OP_DELETE;
  request->delete_ = message;
}

void ci_fill_get(ci_pb_request *request, Dcf__Db__V1__Get *get, const void *path, size_t path_len, uint32_t version) {
  dcf__db__v1__request__init(request);
  dcf__db__v1__get__init(get);
  get->path = bytes(path, path_len);
  get->version = version;
  request->op_case = DCF__DB__V1__REQUEST__OP_GET;
  request->get = get;
}

void ci_fill_stat(ci_pb_request *request, Dcf__Db__V1__Stat *stat, const void *path, size_t path_len, uint32_t version) {
  dcf__db__v1__request__init(request);
  dcf__db__v1__stat__init(stat);
  stat->path = bytes(path, path_len);
  stat->version = version;
  request->op_case = DCF__DB__V1__REQUEST__OP_STAT;
  request->stat = stat;
}

/* --- Writing ------------------------------------------------------------------------------------------------------------------ */

/* Uploads the whole; a retry begins at the start, under the same token. */
static int upload(sdbc *h, const void *path, size_t path_len, const void *data, size_t len, const sdbc_put_options *options,
                  sdbc_commit *commit) {
  for (unsigned attempts = 1;; attempts++) {
    sdbc_writer *writer;
    int code = sdbc_writer_open(h, path, path_len, len, options, &writer);
    if (code == SDBC_OK) {
      code = sdbc_writer_write(writer, data, len);
      if (code == SDBC_OK) {
        code = sdbc_writer_commit(writer, commit);
      } else {
        sdbc_writer_abort(writer);
      }
    }
    if (!ci_can_retry(code) || attempts > h->options.retries) return code;
    code = ci_pause(h, ci_backoff(h, attempts));
    if (code != SDBC_OK) return code;
  }
}

int sdbc_insert(sdbc *h, const void *path, size_t path_len, const void *data, size_t len, const sdbc_put_options *options,
                sdbc_commit *commit) {
  uint8_t token[CI_TOKEN];
  sdbc_put_options o;
  int code = ci_enter(h);
  if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
  if (code == SDBC_OK) code = ci_put_options(h, options, &o, token);
  if (code != SDBC_OK) return code;
  if (!data && len > 0) return ci_fail(h, SDBC_INVALID, "there is no content");
  o.size = sizeof o;
  if (len > SDBC_MAX_BODY) return upload(h, path, path_len, data, len, &o, commit);
  if (!data) data = "";
  Dcf__Db__V1__Insert insert;
  ci_pb_request request;
  ci_reply reply;
  ci_fill_insert(&request, &insert, path, path_len, data, len, &o);
  code = ci_call(h, &request, &(ci_call_options){.body = data, .size = len}, &reply);
  return code == SDBC_OK ? ci_commit(h, reply.head, commit) : code;
}

int ci_delete_outcome(sdbc *h, int code, bool unknown, const ci_reply *reply, sdbc_commit *commit) {
  if (code == SDBC_OK) return ci_commit(h, reply->head, commit);
  if (code != SDBC_NOT_FOUND || !unknown) return code;
  if (commit) *commit = (sdbc_commit){.sequence = reply->head->sequence, .epoch = reply->head->epoch, .unknown = true};
  h->message[0] = '\0';
  return SDBC_OK;
}

int sdbc_delete(sdbc *h, const void *path, size_t path_len, const sdbc_put_options *options, sdbc_commit *commit) {
  sdbc_put_options o;
  int code = ci_enter(h);
  if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
  if (code == SDBC_OK) code = ci_put_options(h, options, &o, NULL);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Delete message;
  ci_pb_request request;
  ci_reply reply;
  bool unknown = false;
  ci_fill_delete(&request, &message, path, path_len, &o);
  code = ci_call(h, &request, &(ci_call_options){.unknown = &unknown}, &reply);
  return ci_delete_outcome(h, code, unknown, &reply, commit);
}

/* --- Reading ------------------------------------------------------------------------------------------------------------------ */

int ci_check_whole(sdbc *h, const ci_reply *reply, sdbc_info *info) {
  if (!ci_info(reply->head->info, info)) return ci_protocol(h, "a content without saying what it is");
  if (info->size != reply->size) return ci_protocol(h, "a content of another size than its document");
  if (info->digest != reply->digest) return ci_fail(h, SDBC_DAMAGED, "the content is not what the document's digest says");
  return SDBC_OK;
}

/* Reads `len` bytes of a version whose size is known to be that, or a part of it, through a stream. */
static int read_stream(sdbc *h, const void *path, size_t path_len, const sdbc_info *info, uint64_t offset, void *buf, size_t len) {
  sdbc_reader *reader;
  int code = sdbc_reader_open(h, path, path_len, info->version, offset, len, &reader);
  if (code != SDBC_OK) return code;
  size_t at = 0;
  if (memcmp(sdbc_reader_info(reader)->id, info->id, sizeof info->id) != 0) {
    code = ci_fail(h, SDBC_NOT_FOUND, "the document was replaced by another while it was read");
  }
  while (code == SDBC_OK && at < len) {
    size_t got = 0;
    code = sdbc_reader_read(reader, (uint8_t *)buf + at, len - at, &got);
    if (code == SDBC_OK && got == 0) code = ci_protocol(h, "less of a document than it has");
    at += got;
  }
  sdbc_reader_close(reader);
  return code;
}

/* Where a content goes: into the caller's buffer, or into one that is made. */
typedef struct target {
  void *buf;
  size_t cap;
  bool allocate;
} target;

static int make_room(sdbc *h, target *to, uint64_t size) {
  if (size > SIZE_MAX - 1) return ci_fail(h, SDBC_NO_MEMORY, "no memory for a content of %llu bytes", (unsigned long long)size);
  if (to->allocate) {
    to->buf = malloc(size > 0 ? (size_t)size : 1);
    to->cap = (size_t)size;
    if (!to->buf) return ci_fail(h, SDBC_NO_MEMORY, "no memory for a content of %llu bytes", (unsigned long long)size);
  }
  if (size <= to->cap) return SDBC_OK;
  return ci_fail(h, SDBC_SMALL_BUFFER, "the document has %llu bytes, the buffer %zu", (unsigned long long)size, to->cap);
}

static int fetch(sdbc *h, const void *path, size_t path_len, uint32_t version, target *to, sdbc_info *info) {
  int code = ci_enter(h);
  if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Get get;
  ci_pb_request request;
  ci_reply reply;
  ci_fill_get(&request, &get, path, path_len, version);
  code = ci_call(h, &request, NULL, &reply);
  if (code == SDBC_OK) {
    code = ci_check_whole(h, &reply, info);
    if (code == SDBC_OK) code = make_room(h, to, info->size);
    if (code == SDBC_OK && reply.size > 0) memcpy(to->buf, reply.body, reply.size);
    return code;
  }
  if (code != SDBC_TOO_LARGE || !reply.head || !ci_info(reply.head->info, info)) return code;
  if (info->size > SDBC_MAX_DOCUMENT) return ci_protocol(h, "a size that no document has");
  code = make_room(h, to, info->size);
  if (code == SDBC_OK) code = read_stream(h, path, path_len, info, 0, to->buf, (size_t)info->size);
  return code;
}

int sdbc_get(sdbc *h, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap, size_t *size, sdbc_info *info) {
  target to = {.buf = buf, .cap = buf ? cap : 0};
  sdbc_info read;
  int code = fetch(h, path, path_len, version, &to, &read);
  if (size && (code == SDBC_OK || code == SDBC_SMALL_BUFFER)) *size = (size_t)read.size;
  if (info && code == SDBC_OK) *info = read;
  return code;
}

int sdbc_get_alloc(sdbc *h, const void *path, size_t path_len, uint32_t version, void **data, size_t *size, sdbc_info *info) {
  target to = {.allocate = true};
  sdbc_info read;
  int code = fetch(h, path, path_len, version, &to, &read);
  if (code != SDBC_OK) {
    free(to.buf);
    return code;
  }
  *data = to.buf;
  *size = (size_t)read.size;
  if (info) *info = read;
  return SDBC_OK;
}

void sdbc_free(void *p) { free(p); }

static uint64_t part_size(const sdbc_info *info, uint64_t offset, size_t len) {
  uint64_t left = offset < info->size ? info->size - offset : 0;
  return left < len ? left : len;
}

/* A part that fits into one message. */
static int small_range(sdbc *h, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf, size_t len,
                       size_t *got, sdbc_info *info) {
  Dcf__Db__V1__Get get;
  ci_pb_request request;
  ci_reply reply;
  ci_fill_get(&request, &get, path, path_len, version);
  get.offset = offset;
  get.length = len;
  int code = ci_call(h, &request, NULL, &reply);
  if (code != SDBC_OK) return code;
  if (!ci_info(reply.head->info, info)) return ci_protocol(h, "a content without saying what it is");
  if (reply.size != part_size(info, offset, len)) return ci_protocol(h, "another part of a document than was asked for");
  if (reply.size > 0) memcpy(buf, reply.body, reply.size);
  *got = reply.size;
  return SDBC_OK;
}

int sdbc_get_range(sdbc *h, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf, size_t len,
                   size_t *got, sdbc_info *info) {
  sdbc_info read;
  size_t n = 0;
  int code;
  if (len > 0 && len <= SDBC_MAX_BODY && buf) {
    code = ci_enter(h);
    if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
    if (code == SDBC_OK) code = small_range(h, path, path_len, version, offset, buf, len, &n, &read);
  } else {
    code = sdbc_stat(h, path, path_len, version, &read);
    if (code == SDBC_OK && !buf && len > 0) code = ci_fail(h, SDBC_INVALID, "there is no buffer");
    if (code == SDBC_OK) n = (size_t)part_size(&read, offset, len);
    if (code == SDBC_OK && n > 0) code = read_stream(h, path, path_len, &read, offset, buf, n);
  }
  if (code != SDBC_OK) return code;
  *got = n;
  if (info) *info = read;
  return SDBC_OK;
}

int sdbc_stat(sdbc *h, const void *path, size_t path_len, uint32_t version, sdbc_info *info) {
  int code = ci_enter(h);
  if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Stat stat;
  ci_pb_request request;
  ci_reply reply;
  sdbc_info read;
  ci_fill_stat(&request, &stat, path, path_len, version);
  code = ci_call(h, &request, NULL, &reply);
  if (code != SDBC_OK) return code;
  if (!ci_info(reply.head->info, &read)) return ci_protocol(h, "nothing about the document");
  if (info) *info = read;
  return SDBC_OK;
}

int sdbc_versions(sdbc *h, const void *path, size_t path_len, sdbc_info *infos, size_t cap, size_t *count) {
  int code = ci_enter(h);
  if (code == SDBC_OK) code = ci_check_path(h, path, path_len);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Versions versions = DCF__DB__V1__VERSIONS__INIT;
  versions.path = bytes(path, path_len);
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_VERSIONS;
  request.versions = &versions;
  ci_reply reply;
  code = ci_call(h, &request, NULL, &reply);
  if (code != SDBC_OK) return code;
  sdbc_info checked;
  for (size_t i = 0; i < reply.head->n_entries; i++) {
    if (!ci_info(reply.head->entries[i]->info, &checked)) return ci_protocol(h, "a version without saying what it is");
  }
  for (size_t i = 0; i < reply.head->n_entries && i < cap; i++) (void)ci_info(reply.head->entries[i]->info, &infos[i]);
  if (count) *count = reply.head->n_entries;
  return SDBC_OK;
}
