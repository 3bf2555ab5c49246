/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* redis.c - Redis through hiredis: the same paths and contents, commands in pipelines. */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "peer.h"

#ifdef BENCH_HIREDIS
#include <hiredis/hiredis.h>

#define LOAD_PIPELINE 256u

static void take_reply(redis *r, int type, uint64_t number, size_t size) {
  void *answer;
  if (redisGetReply(r->connection, &answer) != REDIS_OK) die("redis: no reply");
  redisReply *reply = answer;
  if (reply->type != type) die("redis: %s", reply->type == REDIS_REPLY_ERROR ? reply->str : "a reply of another kind");
  if (type == REDIS_REPLY_STRING) content_verify(number, size, reply->str, reply->len, false);
  freeReplyObject(reply);
}

static void command(redis *r, const char *name, const char *key, const char *value) {
  const char *argv[] = {name, "SET", key, value};
  if (redisAppendCommandArgv(r->connection, 4, argv, NULL)) die("redis: out of memory");
  take_reply(r, REDIS_REPLY_STATUS, 0, 0);
}

double redis_sets(redis *r, uint64_t first, size_t size, uint64_t count, unsigned flight) {
  path p;
  double begin = now();
  for (uint64_t done = 0; done < count;) {
    uint64_t n = count - done < flight ? count - done : flight;
    for (uint64_t i = first + done; i < first + done + n; i++) {
      path_document(&p, i);
      const char *argv[] = {"SET", p.text, (const char *)content_of(i, size)};
      size_t lens[] = {3, p.len, size};
      if (redisAppendCommandArgv(r->connection, 3, argv, lens)) die("redis: out of memory");
    }
    for (uint64_t i = 0; i < n; i++) take_reply(r, REDIS_REPLY_STATUS, 0, 0);
    done += n;
  }
  return now() - begin;
}

double redis_gets(redis *r, rng *random, uint64_t documents, size_t size, uint64_t count, unsigned flight) {
  uint64_t *numbers = need(flight * sizeof *numbers);
  path p;
  double begin = now();
  for (uint64_t done = 0; done < count;) {
    uint64_t n = count - done < flight ? count - done : flight;
    for (uint64_t i = 0; i < n; i++) {
      numbers[i] = rng_below(random, documents);
      path_document(&p, numbers[i]);
      const char *argv[] = {"GET", p.text};
      size_t lens[] = {3, p.len};
      if (redisAppendCommandArgv(r->connection, 2, argv, lens)) die("redis: out of memory");
    }
    for (uint64_t i = 0; i < n; i++) take_reply(r, REDIS_REPLY_STRING, numbers[i], size);
    done += n;
  }
  double seconds = now() - begin;
  free(numbers);
  return seconds;
}

void redis_start(redis *r, const char *dir, uint64_t documents, size_t size) {
  unsigned port = free_port();
  char text[16];
  *r = (redis){0};
  if (access("/usr/bin/redis-server", X_OK)) return;
  snprintf(text, sizeof text, "%u", port);
  const char *argv[] = {"/usr/bin/redis-server",
                        "--port",
                        text,
                        "--bind",
                        "127.0.0.1",
                        "--dir",
                        dir,
                        "--save",
                        "",
                        "--appendonly",
                        "yes",
                        "--appendfsync",
                        "no",
                        "--auto-aof-rewrite-percentage",
                        "0",
                        "--logfile",
                        "/dev/null",
                        NULL};
  r->server = process_start(argv, NULL, 0);
  struct timespec rest = {.tv_nsec = 20000000};
  for (unsigned tries = 0; tries < 250; tries++) {
    redisContext *c = redisConnect("127.0.0.1", (int)port);
    if (c && !c->err) {
      r->connection = c;
      break;
    }
    if (c) redisFree(c);
    nanosleep(&rest, NULL);
  }
  if (!r->connection) die("redis does not answer");
  redis_sets(r, 0, size, documents, LOAD_PIPELINE);
  command(r, "CONFIG", "appendfsync", "always");
}

void redis_stop(redis *r) {
  if (r->connection) redisFree(r->connection);
  r->connection = NULL;
  process_stop(&r->server);
}

#else

void redis_start(redis *r, const char *dir, uint64_t documents, size_t size) {
  (void)dir, (void)documents, (void)size;
  *r = (redis){0};
}
void redis_stop(redis *r) { (void)r; }
double redis_gets(redis *r, rng *random, uint64_t documents, size_t size, uint64_t count, unsigned flight) {
  (void)r, (void)random, (void)documents, (void)size, (void)count, (void)flight;
  return 0;
}
double redis_sets(redis *r, uint64_t first, size_t size, uint64_t count, unsigned flight) {
  (void)r, (void)first, (void)size, (void)count, (void)flight;
  return 0;
}

#endif
