/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* backend_service.c - documents behind a service, through its C client. */
#include <sdbc/sdbc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

#define CONNECT_TIMEOUT_MS 3000u

typedef struct service {
  backend base;
  sdbc *client;
  sdbc_writer *writer;
  sdbc_reader *reader;
  sdbc_cursor *cursor;
  uint64_t search_left;
  sdbc_watch *watch;
} service;

static service *of(backend *b) { return (service *)(void *)b; }

static result outcome(backend *b, int code) {
  if (code == SDBC_OK) return RESULT_OK;
  if (code == SDBC_END) return RESULT_END;
  const char *sentence = sdbc_message(of(b)->client);
  (void)snprintf(b->message, sizeof b->message, "%s", *sentence ? sentence : sdbc_strerror(code));
  return code == SDBC_NOT_FOUND ? RESULT_NOT_FOUND : RESULT_FAILED;
}

static document document_of(const sdbc_info *info) {
  document doc = {
      .version = info->version, .oldest = info->oldest, .size = info->size, .time_ms = info->time_ms, .digest = info->digest};
  memcpy(doc.id, info->id, sizeof doc.id);
  return doc;
}

static commit commit_of(const sdbc_commit *made) {
  static const char *const names[] = {NULL, "durable", "buffered", "none"};
  return (commit){.made = document_of(&made->info),
                  .sequence = made->sequence,
                  .durability = (unsigned)made->reached <= SDBC_NONE ? names[made->reached] : NULL,
                  .created = made->created};
}

static result service_insert(backend *b, bytes path, const void *data, size_t len, commit *made) {
  sdbc_commit done;
  int code = sdbc_insert(of(b)->client, path.data, path.len, data, len, NULL, &done);
  if (code == SDBC_OK) *made = commit_of(&done);
  return outcome(b, code);
}

static result service_write_open(backend *b, bytes path, uint64_t size_hint) {
  uint64_t hint = size_hint == UNKNOWN_SIZE ? SDBC_UNKNOWN_SIZE : size_hint;
  return outcome(b, sdbc_writer_open(of(b)->client, path.data, path.len, hint, NULL, &of(b)->writer));
}

static result service_write(backend *b, const void *data, size_t len) {
  return outcome(b, sdbc_writer_write(of(b)->writer, data, len));
}

static result service_write_commit(backend *b, commit *made) {
  sdbc_commit done;
  int code = sdbc_writer_commit(of(b)->writer, &done);
  if (code == SDBC_OK) *made = commit_of(&done);
  of(b)->writer = NULL;
  return outcome(b, code);
}

static void service_write_abort(backend *b) {
  sdbc_writer_abort(of(b)->writer);
  of(b)->writer = NULL;
}

static result service_read_open(backend *b, bytes path, uint32_t version, uint64_t offset, uint64_t length, document *doc) {
  service *s = of(b);
  int code = sdbc_reader_open(s->client, path.data, path.len, version, offset, length == TO_THE_END ? 0 : length, &s->reader);
  if (code == SDBC_OK) *doc = document_of(sdbc_reader_info(s->reader));
  return outcome(b, code);
}

static result service_read(backend *b, const void **data, size_t *len) {
  return outcome(b, sdbc_reader_next(of(b)->reader, data, len));
}

static void service_read_close(backend *b) {
  sdbc_reader_close(of(b)->reader);
  of(b)->reader = NULL;
}

static result service_stat(backend *b, bytes path, uint32_t version, document *doc) {
  sdbc_info info;
  int code = sdbc_stat(of(b)->client, path.data, path.len, version, &info);
  if (code == SDBC_OK) *doc = document_of(&info);
  return outcome(b, code);
}

static result service_versions(backend *b, bytes path, document *docs, size_t cap, size_t *count) {
  sdbc_info *infos = calloc(cap, sizeof *infos);
  if (!infos) return outcome(b, SDBC_NO_MEMORY);
  int code = sdbc_versions(of(b)->client, path.data, path.len, infos, cap, count);
  if (code == SDBC_OK && *count > cap) *count = cap;
  for (size_t i = 0; code == SDBC_OK && i < *count; i++) docs[i] = document_of(&infos[i]);
  free(infos);
  return outcome(b, code);
}

static result service_remove(backend *b, bytes path, commit *last) {
  sdbc_commit done;
  int code = sdbc_delete(of(b)->client, path.data, path.len, NULL, &done);
  if (code == SDBC_OK) *last = commit_of(&done);
  return outcome(b, code);
}

static result service_search_open(backend *b, bytes prefix, bool infos, uint64_t limit) {
  service *s = of(b);
  uint32_t page = limit > 0 && limit < 1000 ? (uint32_t)limit : 1000;
  s->search_left = limit > 0 ? limit : UINT64_MAX;
  return outcome(b, sdbc_cursor_open(s->client, prefix.data, prefix.len, NULL, 0, page, infos, &s->cursor));
}

static result service_search_next(backend *b, bytes *path, document *doc) {
  if (of(b)->search_left-- == 0) return RESULT_END;
  sdbc_entry entry;
  int code = sdbc_cursor_next(of(b)->cursor, &entry);
  if (code == SDBC_OK) {
    *path = (bytes){entry.path, entry.path_len};
    *doc = document_of(&entry.info);
  }
  return outcome(b, code);
}

static void service_search_close(backend *b) {
  sdbc_cursor_close(of(b)->cursor);
  of(b)->cursor = NULL;
}

static result service_watch_open(backend *b, bytes prefix) {
  return outcome(b, sdbc_watch_open(of(b)->client, prefix.data, prefix.len, false, &of(b)->watch));
}

static result service_watch_next(backend *b, event *e) {
  sdbc_event got;
  int code = sdbc_watch_next(of(b)->watch, -1, &got);
  if (code == SDBC_OK) {
    *e = (event){.kind = got.kind == SDBC_EVENT_DELETE ? EVENT_DELETE : EVENT_PUT,
                 .path = {got.path, got.path_len},
                 .made = document_of(&got.info),
                 .sequence = got.sequence};
    return RESULT_OK;
  }
  const char *sentence = sdbc_watch_message(of(b)->watch);
  if (code == SDBC_GAP) {
    *e = (event){.kind = EVENT_GAP, .missed = got.missed, .reason = sentence};
    return RESULT_OK;
  }
  (void)snprintf(b->message, sizeof b->message, "%s", *sentence ? sentence : sdbc_strerror(code));
  return RESULT_FAILED;
}

static void service_watch_close(backend *b) {
  sdbc_watch_close(of(b)->watch);
  of(b)->watch = NULL;
}

static result service_flush(backend *b) { return outcome(b, sdbc_flush(of(b)->client)); }

static result service_stats(backend *b, void (*each)(void *user, const char *name, uint64_t value), void *user) {
  return outcome(b, sdbc_statistics(of(b)->client, each, user));
}

static result service_ping(backend *b, pong *answer) {
  sdbc_pong got;
  int code = sdbc_ping(of(b)->client, &got);
  if (code == SDBC_OK) {
    *answer = (pong){.sequence = got.sequence, .round_trip_us = got.round_trip_us};
    memcpy(answer->server, got.server, sizeof answer->server);
  }
  return outcome(b, code);
}

static result service_close(backend *b, char *message) {
  (void)message;
  sdbc_close(of(b)->client);
  free(of(b));
  return RESULT_OK;
}

static const backend_calls service_calls = {
    .is_service = true,
    .insert = service_insert,
    .write_open = service_write_open,
    .write = service_write,
    .write_commit = service_write_commit,
    .write_abort = service_write_abort,
    .read_open = service_read_open,
    .read = service_read,
    .read_close = service_read_close,
    .stat = service_stat,
    .versions = service_versions,
    .remove = service_remove,
    .search_open = service_search_open,
    .search_next = service_search_next,
    .search_close = service_search_close,
    .watch_open = service_watch_open,
    .watch_next = service_watch_next,
    .watch_close = service_watch_close,
    .flush = service_flush,
    .stats = service_stats,
    .ping = service_ping,
    .close = service_close,
};

backend *backend_open_service(const cli *c, char *message, int *exit_code) {
  *exit_code = EXIT_FAILED;
  service *s = calloc(1, sizeof *s);
  if (!s) {
    (void)snprintf(message, CLI_MESSAGE, "out of memory");
    return NULL;
  }
  s->base.calls = &service_calls;
  s->base.name = c->server;
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.connect_timeout_ms = c->timeout_ms && c->timeout_ms < CONNECT_TIMEOUT_MS ? c->timeout_ms : CONNECT_TIMEOUT_MS;
  if (c->timeout_ms) options.request_timeout_ms = c->timeout_ms;
  options.events = c->events;
  options.message = message;
  options.message_size = CLI_MESSAGE;
  int code = sdbc_connect(c->server, &options, &s->client);
  if (code == SDBC_OK) return &s->base;
  if (code == SDBC_INVALID) *exit_code = EXIT_USAGE; /* it is no endpoint */
  free(s);
  return NULL;
}
