/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* fake.h - a service that does what a test tells it: loses requests, answers nonsense, drops connections. It stores nothing. */
#ifndef TESTS_CLIENT_FAKE_H
#define TESTS_CLIENT_FAKE_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "dcf_db.pb-c.h"
#include "sdbc/sdbc.h"

#define PB(name) Dcf__Db__V1__##name
#define CODE(name) DCF__DB__V1__CODE__##name
#define OP(name) DCF__DB__V1__REQUEST__OP_##name

typedef struct fake fake;

typedef struct asked {
  const PB(Request) * request;
  const uint8_t *body; /* NULL: there was no body frame */
  size_t size;
} asked;

/* Called in the fake's thread for every request. */
typedef void fake_handler(fake *f, const asked *a, void *user);

fake *fake_start(fake_handler *handler, void *user);
void fake_stop(fake *f);
const char *fake_endpoint(const fake *f);
const char *fake_events(const fake *f);
/* How many requests came so far. */
unsigned fake_count(const fake *f);

/* --- In the handler ----------------------------------------------------------------------------------------------------------- */

/* A reply to `a` with this code and its status. */
PB(Reply) fake_reply_to(const asked *a, PB(Code) code);
/* Sends it; with a body its digest is filled in, unless it is set already. `body` NULL: no body frame. */
void fake_send(fake *f, PB(Reply) * reply, const void *body, size_t size);
/* A reply without anything else. */
void fake_answer(fake *f, const asked *a, PB(Code) code);
/* Frames as they are. */
void fake_send_frames(fake *f, const void *const *frames, const size_t *sizes, size_t count);
/* Cuts every connection; clients connect again by themselves. */
void fake_drop_connections(fake *f);

/* What is known of a content, as version `version`. The result is valid until the next call. */
PB(Info) * fake_info(const void *content, size_t size, uint32_t version);

/* --- Outside of it ------------------------------------------------------------------------------------------------------------ */

/* Publishes an event of a put at `path`. */
void fake_publish(fake *f, uint64_t session, uint64_t number, const char *path);
void fake_publish_frames(fake *f, const void *const *frames, const size_t *sizes, size_t count);
/* Cuts the connections of the event feed. */
void fake_drop_watchers(fake *f);

/* --- What tests of the client share ------------------------------------------------------------------------------------------- */

/* A client of the fake that waits long for an answer, and one that gives up soon, for tests in which answers are lost. */
sdbc *fake_connect(const fake *f);
sdbc *fake_connect_hasty(const fake *f);
/* Runs the suite; the exit code. */
int run_suite(Suite *suite);
/* From SDB_SEED or the clock; printed. */
uint64_t fake_seed(void);
uint64_t fake_random(uint64_t *state);

#endif
