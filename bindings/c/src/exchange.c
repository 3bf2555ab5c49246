/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* exchange.c - requests and replies: sending, matching, timeouts, retries. internal.h has the picture. */
#include <errno.h>
#include <string.h>

#include "internal.h"

#define SLOT_BITS 16
#define LONGEST_PAUSE_MS 60000u

/* --- Lists and slots ---------------------------------------------------------------------------------------------------------- */

static ci_list *list_of(sdbc *h, const ci_request *r) {
  return r->state == CI_QUEUED ? &h->queued : r->state == CI_SENT ? &h->sent : &h->waiting;
}

static void unlink_request(sdbc *h, ci_request *r) {
  if (r->state == CI_FREE) return;
  ci_list *list = list_of(h, r);
  *(r->prev ? &r->prev->next : &list->head) = r->next;
  *(r->next ? &r->next->prev : &list->tail) = r->prev;
  r->next = r->prev = NULL;
  r->state = CI_FREE;
}

static void move(sdbc *h, ci_request *r, ci_state state, int64_t due) {
  unlink_request(h, r);
  r->state = state;
  r->due = due;
  ci_list *list = list_of(h, r);
  r->prev = list->tail;
  *(list->tail ? &list->tail->next : &list->head) = r;
  list->tail = r;
}

ci_request *ci_take(sdbc *h) {
  ci_request *r = h->free_slots;
  if (r) {
    h->free_slots = r->next;
  } else if (h->slots_used < h->slot_count) {
    r = &h->slots[h->slots_used++];
  } else {
    return NULL;
  }
  *r = (ci_request){.id = ++h->serial << SLOT_BITS | (uint64_t)(r - h->slots)};
  return r;
}

void ci_release(sdbc *h, ci_request *r) {
  r->id = 0;
  r->done = NULL;
  r->next = h->free_slots;
  h->free_slots = r;
}

static ci_request *find(sdbc *h, uint64_t id) {
  uint64_t slot = id & ((1u << SLOT_BITS) - 1);
  if (slot >= h->slots_used) return NULL;
  ci_request *r = &h->slots[slot];
  return r->state != CI_FREE && r->id == id ? r : NULL;
}

/* --- Ends and retries --------------------------------------------------------------------------------------------------------- */

static void finish(sdbc *h, ci_request *r, int code, const ci_reply *reply) {
  unlink_request(h, r);
  uint64_t bytes = r->has_body ? zmq_msg_size(&r->body) : 0;
  zmq_msg_close(&r->header);
  if (r->has_body) zmq_msg_close(&r->body);
  if (r->submitted) {
    h->in_flight--;
    h->in_flight_bytes -= bytes;
  }
  r->done(h, r, code, reply);
  ci_release(h, r);
}

bool ci_can_retry(int code) { return code == SDBC_TIMEOUT || code == SDBC_BUSY || code == SDBC_STOPPING || code == SDBC_CONFLICT; }

uint32_t ci_backoff(const sdbc *h, unsigned attempts) {
  uint64_t ms = h->options.backoff_ms;
  for (unsigned i = 1; i < attempts && ms < LONGEST_PAUSE_MS; i++) ms *= 2;
  return ms < LONGEST_PAUSE_MS ? (uint32_t)ms : LONGEST_PAUSE_MS;
}

/* Puts the request up for another attempt, if it has one. */
static bool retry(sdbc *h, ci_request *r, int code, uint32_t at_least_ms) {
  if (r->once || !ci_can_retry(code) || r->attempts > h->options.retries) return false;
  uint32_t ms = ci_backoff(h, r->attempts);
  if (at_least_ms > ms) ms = at_least_ms < LONGEST_PAUSE_MS ? at_least_ms : LONGEST_PAUSE_MS;
  move(h, r, CI_WAITING, ci_now_ms() + ms);
  return true;
}

#define DOUBT "it is not known whether the service did what was asked"
static const char *doubt(const ci_request *r) { return r->unknown ? "; " DOUBT : ""; }

static void no_reply(sdbc *h, ci_request *r, const char *why) {
  r->unknown = true;
  if (retry(h, r, SDBC_TIMEOUT, 0)) return;
  (void)ci_fail(h, SDBC_TIMEOUT, "%s: %s (attempts: %u)%s", h->endpoint, why, r->attempts, doubt(r));
  finish(h, r, SDBC_TIMEOUT, NULL);
}

/* How many are sent now: those whose callback submits the next request must not be counted among the ones that failed. */
static size_t count_sent(const sdbc *h) {
  size_t n = 0;
  for (const ci_request *r = h->sent.head; r; r = r->next) n++;
  return n;
}

/* Nothing the peer sent before can be relied on either: what was sent is over. */
static void garbage(sdbc *h) {
  h->met_garbage = false;
  for (size_t n = count_sent(h); n > 0 && h->sent.head; n--) {
    (void)ci_fail(h, SDBC_PROTOCOL, "%s sent something that is no reply of a StreamDB service; is this the right endpoint?",
                  h->endpoint);
    finish(h, h->sent.head, SDBC_PROTOCOL, NULL);
  }
  ci_readers_lost(h);
}

/* When there is no new socket to be had, libzmq connects the old one again, which is news then. */
static void renew(sdbc *h) {
  h->connected = h->lost = false;
  (void)ci_link_renew(&h->link, h->endpoint, NULL, 0);
}

static void connection_lost(sdbc *h) {
  renew(h);
  for (size_t n = count_sent(h); n > 0 && h->sent.head; n--) {
    no_reply(h, h->sent.head, "the connection was lost before the reply came");
  }
  ci_readers_lost(h);
}

void ci_finish_all(sdbc *h, int code) {
  h->closing = true;
  ci_list *lists[] = {&h->sent, &h->waiting, &h->queued};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    while (lists[i]->head) {
      (void)ci_fail(h, code, "%s", sdbc_strerror(code));
      finish(h, lists[i]->head, code, NULL);
    }
  }
}

static void tell_nobody(sdbc *h, ci_request *r, int code, const ci_reply *reply) {
  (void)h;
  (void)r;
  (void)code;
  (void)reply;
}

void ci_forget(sdbc *h, const void *context) {
  for (uint32_t i = 0; i < h->slots_used; i++) {
    ci_request *r = &h->slots[i];
    if (r->state != CI_FREE && r->context == context) r->done = tell_nobody;
  }
}

/* --- Sending ------------------------------------------------------------------------------------------------------------------ */

static bool send_copy(sdbc *h, zmq_msg_t *frame, int flags) {
  zmq_msg_t copy;
  zmq_msg_init(&copy);
  if (zmq_msg_copy(&copy, frame) == 0 && zmq_msg_send(&copy, h->link.socket, flags | ZMQ_DONTWAIT) >= 0) return true;
  zmq_msg_close(&copy);
  return false;
}

/* The second frame follows the first into the same pipe; should that vanish in between, the reply is missed and asked for again. */
static bool send_frames(sdbc *h, ci_request *r) {
  if (!r->has_body) return send_copy(h, &r->header, 0);
  if (!send_copy(h, &r->header, ZMQ_SNDMORE)) return false;
  (void)send_copy(h, &r->body, 0);
  return true;
}

static void send_queued(sdbc *h) {
  if (!h->queued.head || !h->connected) return;
  int64_t due = ci_now_ms() + h->options.request_timeout_ms;
  while (h->queued.head && send_frames(h, h->queued.head)) {
    h->queued.head->attempts++;
    move(h, h->queued.head, CI_SENT, due);
  }
}

void ci_start(sdbc *h, ci_request *r) {
  move(h, r, CI_QUEUED, ci_now_ms() + h->options.connect_timeout_ms);
  send_queued(h);
}

bool ci_send_only(sdbc *h, ci_pb_request *request) {
  ci_request r = {.id = ++h->serial << SLOT_BITS | ((1u << SLOT_BITS) - 1)};
  if (!ci_pack(h, &r, request, NULL, 0)) return false;
  bool sent = h->connected && send_frames(h, &r);
  zmq_msg_close(&r.header);
  return sent;
}

/* --- Receiving ---------------------------------------------------------------------------------------------------------------- */

/* False when nothing is there. Frames beyond the second are thrown away and make the message garbage. */
static bool receive(sdbc *h, bool *has_body, bool *too_many) {
  *has_body = *too_many = false;
  if (zmq_msg_recv(&h->head_frame, h->link.socket, ZMQ_DONTWAIT) < 0) return false;
  if (zmq_msg_size(&h->head_frame) == 0 && zmq_msg_more(&h->head_frame) &&
      zmq_msg_recv(&h->head_frame, h->link.socket, ZMQ_DONTWAIT) < 0) {
    return false;
  }
  if (!zmq_msg_more(&h->head_frame)) return true;
  if (zmq_msg_recv(&h->body_frame, h->link.socket, ZMQ_DONTWAIT) < 0) return true;
  *has_body = true;
  while (zmq_msg_more(&h->body_frame)) {
    *too_many = true;
    if (zmq_msg_recv(&h->body_frame, h->link.socket, ZMQ_DONTWAIT) < 0) break;
  }
  return true;
}

static void answer(sdbc *h, ci_request *r, int code, const ci_reply *reply) {
  if (code == SDBC_OK) {
    code = ci_code(reply->head);
    if (code != SDBC_OK) {
      const char *sentence = reply->head->message;
      ci_copy_sentence(h->message, sentence && *sentence ? sentence : sdbc_strerror(code));
    }
  } else {
    (void)ci_fail(h, code, "%s: %s", h->endpoint, sdbc_strerror(code));
  }
  /* A late word about an earlier attempt does not count while the next one is being prepared, unless it settles the matter. */
  if (ci_can_retry(code) && r->state != CI_SENT) return;
  if (retry(h, r, code, reply->head->retry_after_ms)) return;
  finish(h, r, code, reply);
}

/* Takes one message. False when there is none. */
static bool handle_message(sdbc *h) {
  bool has_body, too_many;
  if (!receive(h, &has_body, &too_many)) return false;
  ci_reply reply = {0};
  int code = too_many ? SDBC_PROTOCOL : ci_unpack(h, has_body, &reply);
  if (code == SDBC_PROTOCOL) {
    h->met_garbage = true;
    return true;
  }
  if (reply.head->sequence) h->sequence = reply.head->sequence;
  if (reply.head->epoch) h->epoch = reply.head->epoch;
  ci_request *r = find(h, reply.head->id);
  if (r) {
    answer(h, r, code, &reply);
  } else if (reply.head->stream) {
    ci_reader_accept(h, &reply, code);
  }
  return true;
}

/* --- Time --------------------------------------------------------------------------------------------------------------------- */

/* Acts on one deadline that has passed. */
static bool expire(sdbc *h, int64_t now) {
  if (h->sent.head && h->sent.head->due <= now) {
    no_reply(h, h->sent.head, "no reply came in time");
    return true;
  }
  ci_request *r = h->queued.head;
  if (r && r->due <= now) {
    renew(h);
    (void)ci_fail(h, SDBC_UNREACHABLE, "%s cannot be reached%s; %s", h->endpoint, r->unknown ? " any more" : "",
                  r->unknown ? DOUBT : "is the service running there?");
    finish(h, r, SDBC_UNREACHABLE, NULL);
    return true;
  }
  bool moved = false;
  for (ci_request *next, *w = h->waiting.head; w; w = next) {
    next = w->next;
    if (w->due > now) continue;
    move(h, w, CI_QUEUED, now + h->options.connect_timeout_ms);
    moved = true;
  }
  return moved;
}

static int64_t next_due(const sdbc *h, int64_t until) {
  if (h->sent.head && h->sent.head->due < until) until = h->sent.head->due;
  if (h->queued.head && h->queued.head->due < until) until = h->queued.head->due;
  for (const ci_request *r = h->waiting.head; r; r = r->next) {
    if (r->due < until) until = r->due;
  }
  return until;
}

int ci_step(sdbc *h, int64_t until) {
  send_queued(h);
  if (h->met_garbage) {
    garbage(h);
    return SDBC_OK;
  }
  if (handle_message(h)) return SDBC_OK;
  /* Only now is everything read that came before the connection went away. */
  if (h->lost) {
    connection_lost(h);
    return SDBC_OK;
  }
  if (expire(h, ci_now_ms())) return SDBC_OK;
  if (ci_link_wait(&h->link, next_due(h, until)) != SDBC_OK) {
    ci_finish_all(h, SDBC_CLOSED);
    return ci_fail(h, SDBC_CLOSED, "the ZeroMQ context of the handle was ended");
  }
  ci_news news = ci_link_news(&h->link);
  if (news.connected) h->connected = true;
  if (news.lost) h->lost = true;
  return SDBC_OK;
}

int ci_pause(sdbc *h, uint32_t ms) {
  int64_t until = ci_now_ms() + ms;
  int code = SDBC_OK;
  while (code == SDBC_OK && ci_now_ms() < until) code = ci_step(h, until);
  return code;
}

/* --- Calls that wait ---------------------------------------------------------------------------------------------------------- */

typedef struct waiter {
  bool finished, unknown;
  int code;
  ci_reply reply;
} waiter;

static void wake(sdbc *h, ci_request *r, int code, const ci_reply *reply) {
  (void)h;
  waiter *w = r->context;
  *w = (waiter){.finished = true, .unknown = r->unknown, .code = code};
  if (reply) w->reply = *reply;
}

int ci_call(sdbc *h, ci_pb_request *request, const ci_call_options *options, ci_reply *reply) {
  static const ci_call_options plain;
  if (!options) options = &plain;
  *reply = (ci_reply){0};
  ci_request *r = ci_take(h);
  if (!r) return ci_fail(h, SDBC_AGAIN, "too many requests are in flight");
  if (!ci_pack(h, r, request, options->body, options->size)) {
    ci_release(h, r);
    return ci_fail(h, SDBC_NO_MEMORY, "no memory for a request of %zu bytes", options->size);
  }
  waiter w = {0};
  r->done = wake;
  r->context = &w;
  r->once = options->once;
  ci_start(h, r);
  while (!w.finished) (void)ci_step(h, CI_FOREVER);
  if (options->unknown) *options->unknown = w.unknown;
  *reply = w.reply;
  return w.code;
}
