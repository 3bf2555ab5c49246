/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* client.c - the handle, its options, and the calls about the service as a whole. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "internal.h"

/* --- Options ------------------------------------------------------------------------------------------------------------------ */

static void read_options(void *to, size_t size, const void *from, size_t from_size) {
  memcpy(to, from, from_size < size ? from_size : size);
}

static sdbc_options default_options(void) {
  return (sdbc_options){.size = sizeof(sdbc_options),
                        .connect_timeout_ms = 5000,
                        .request_timeout_ms = 10000,
                        .retries = 3,
                        .backoff_ms = 500,
                        .max_in_flight = 512,
                        .max_in_flight_bytes = 8u << 20};
}

void sdbc_options_init(sdbc_options *options, size_t size) {
  sdbc_options defaults = default_options();
  defaults.size = size;
  memset(options, 0, size);
  read_options(options, size, &defaults, sizeof defaults);
}

void sdbc_put_options_init(sdbc_put_options *options, size_t size) {
  sdbc_put_options defaults = {.size = size, .expect = SDBC_ANY};
  memset(options, 0, size);
  read_options(options, size, &defaults, sizeof defaults);
}

static bool next_random(sdbc *h, uint8_t token[CI_TOKEN]) {
  if (h->random_used + CI_TOKEN > sizeof h->random) {
    if (getrandom(h->random, sizeof h->random, 0) != (ssize_t)sizeof h->random) return false;
    h->random_used = 0;
  }
  memcpy(token, h->random + h->random_used, CI_TOKEN);
  h->random_used += CI_TOKEN;
  return true;
}

int ci_put_options(sdbc *h, const sdbc_put_options *from, sdbc_put_options *to, uint8_t token[CI_TOKEN]) {
  *to = (sdbc_put_options){.expect = SDBC_ANY};
  if (from && from->size < sizeof from->size) return ci_fail(h, SDBC_INVALID, "sdbc_put_options.size is not set");
  if (from) read_options(to, sizeof *to, from, from->size);
  if ((unsigned)to->durability > SDBC_NONE) return ci_fail(h, SDBC_INVALID, "there is no durability %d", (int)to->durability);
  if (!token) return SDBC_OK;
  if (to->token) {
    memcpy(token, to->token, CI_TOKEN);
  } else if (!next_random(h, token)) {
    return ci_fail(h, SDBC_INTERNAL, "the system gives no random bytes for a write token: %s", strerror(errno));
  }
  to->token = token;
  return SDBC_OK;
}

/* --- Opening and closing ------------------------------------------------------------------------------------------------------ */

static int check_options(const sdbc_options *o, char *message) {
  if (o->request_timeout_ms == 0 || o->request_timeout_ms > INT32_MAX || o->connect_timeout_ms > INT32_MAX) {
    ci_say(message, "timeouts are 1 to %d ms", INT32_MAX);
    return SDBC_INVALID;
  }
  if (o->max_in_flight == 0 || o->max_in_flight > 65000) {
    ci_say(message, "max_in_flight is 1 to 65,000");
    return SDBC_INVALID;
  }
  return SDBC_OK;
}

static bool allocate(sdbc *h, const char *endpoint) {
  char events[CI_MESSAGE];
  const char *from = h->options.events;
  if (!from && ci_events_endpoint(endpoint, events, sizeof events)) from = events;
  h->slot_count = h->options.max_in_flight + CI_SPARE_SLOTS;
  h->slots = calloc(h->slot_count, sizeof *h->slots);
  h->endpoint = strdup(endpoint);
  if (from) h->events = strdup(from);
  return h->slots && h->endpoint && (h->events || !from);
}

static int connect_handle(const char *endpoint, const sdbc_options *options, char *message, sdbc **client) {
  int code = check_options(options, message);
  if (code != SDBC_OK) return code;
  sdbc *h = calloc(1, sizeof *h);
  if (!h) {
    ci_say(message, "%s", sdbc_strerror(SDBC_NO_MEMORY));
    return SDBC_NO_MEMORY;
  }
  h->options = *options;
  h->random_used = sizeof h->random;
  ci_arena_init(&h->arena);
  zmq_msg_init(&h->head_frame);
  zmq_msg_init(&h->body_frame);
  if (!allocate(h, endpoint)) {
    ci_say(message, "%s", sdbc_strerror(SDBC_NO_MEMORY));
    code = SDBC_NO_MEMORY;
  }
  if (code == SDBC_OK) code = ci_link_open(&h->link, options->zmq_context, ZMQ_DEALER, message);
  if (code == SDBC_OK) code = ci_link_connect(&h->link, endpoint, message);
  if (code != SDBC_OK) {
    sdbc_close(h);
    return code;
  }
  /* The caller's memory is not kept. */
  h->options.events = NULL;
  h->options.message = NULL;
  *client = h;
  return SDBC_OK;
}

int sdbc_connect(const char *endpoint, const sdbc_options *options, sdbc **client) {
  sdbc_options o = default_options();
  char message[CI_MESSAGE] = "";
  int code = SDBC_OK;
  if (options && options->size < sizeof options->size) { return SDBC_INVALID; }
  if (options) read_options(&o, sizeof o, options, options->size);
  if (!client) {
    ci_say(message, "there is no place for the handle");
    code = SDBC_INVALID;
  } else {
    code = connect_handle(endpoint ? endpoint : SDBC_DEFAULT_ENDPOINT, &o, message, client);
  }
  if (code != SDBC_OK && o.message && o.message_size > 0) (void)snprintf(o.message, o.message_size, "%s", message);
  return code;
}

void sdbc_close(sdbc *h) {
  if (!h) return;
  ci_finish_all(h, SDBC_CLOSED);
  ci_link_close(&h->link);
  zmq_msg_close(&h->head_frame);
  zmq_msg_close(&h->body_frame);
  ci_arena_free(&h->arena);
  free(h->slots);
  free(h->endpoint);
  free(h->events);
  free(h);
}

const char *sdbc_message(const sdbc *h) { return h ? h->message : ""; }

void sdbc_position(const sdbc *h, uint64_t *sequence, uint64_t *epoch) {
  if (sequence) *sequence = h->sequence;
  if (epoch) *epoch = h->epoch;
}

/* --- What calls have in common ------------------------------------------------------------------------------------------------ */

int ci_enter(sdbc *h) {
  if (!h) return SDBC_INVALID;
  if (h->closing) return ci_fail(h, SDBC_CLOSED, "%s", sdbc_strerror(SDBC_CLOSED));
  if (h->in_callback) return ci_fail(h, SDBC_INVALID, "inside a callback only sdbc_submit_...() may be called");
  h->message[0] = '\0';
  return SDBC_OK;
}

int ci_check_path(sdbc *h, const void *path, size_t path_len) {
  if (path && path_len > 0 && path_len <= SDBC_MAX_PATH) return SDBC_OK;
  return ci_fail(h, SDBC_INVALID, "a path has 1 to %u bytes, not %zu", SDBC_MAX_PATH, path ? path_len : 0);
}

int ci_protocol(sdbc *h, const char *what) { return ci_fail(h, SDBC_PROTOCOL, "%s answered %s", h->endpoint, what); }

int ci_commit(sdbc *h, const ci_pb_reply *head, sdbc_commit *commit) {
  sdbc_commit made = {
      .sequence = head->sequence, .epoch = head->epoch, .created = head->created != 0, .repeated = head->repeated != 0};
  if (!ci_info(head->info, &made.info)) return ci_protocol(h, "a write without saying what was written");
  if (head->reached >= DCF__DB__V1__DURABILITY__DURABLE && head->reached <= DCF__DB__V1__DURABILITY__NONE) {
    made.reached = (sdbc_durability)head->reached;
  }
  if (commit) *commit = made;
  return SDBC_OK;
}

/* --- The service as a whole --------------------------------------------------------------------------------------------------- */

int sdbc_ping(sdbc *h, sdbc_pong *pong) {
  int code = ci_enter(h);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Ping ping = DCF__DB__V1__PING__INIT;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_PING;
  request.ping = &ping;
  int64_t start = ci_now_us();
  ci_reply reply;
  code = ci_call(h, &request, NULL, &reply);
  if (code != SDBC_OK || !pong) return code;
  *pong =
      (sdbc_pong){.sequence = reply.head->sequence, .epoch = reply.head->epoch, .round_trip_us = (uint64_t)(ci_now_us() - start)};
  (void)snprintf(pong->server, sizeof pong->server, "%s", reply.head->server);
  return SDBC_OK;
}

int sdbc_flush(sdbc *h) {
  int code = ci_enter(h);
  if (code != SDBC_OK) return code;
  Dcf__Db__V1__Flush flush = DCF__DB__V1__FLUSH__INIT;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_FLUSH;
  request.flush = &flush;
  ci_reply reply;
  return ci_call(h, &request, NULL, &reply);
}

int sdbc_statistics(sdbc *h, void (*each)(void *user, const char *name, uint64_t value), void *user) {
  int code = ci_enter(h);
  if (code != SDBC_OK) return code;
  if (!each) return ci_fail(h, SDBC_INVALID, "there is nobody to tell the statistics to");
  Dcf__Db__V1__Statistics statistics = DCF__DB__V1__STATISTICS__INIT;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_STATISTICS;
  request.statistics = &statistics;
  ci_reply reply;
  code = ci_call(h, &request, NULL, &reply);
  if (code != SDBC_OK) return code;
  /* The figures stand in the handle's memory: no call may receive anything before all are told. */
  h->in_callback = true;
  for (size_t i = 0; i < reply.head->n_statistics; i++)
    each(user, reply.head->statistics[i]->key, reply.head->statistics[i]->value);
  h->in_callback = false;
  return SDBC_OK;
}
