/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* watch.c - the subscription to changes.
 *
 * The service counts what it publishes. A watch that receives everything sees a loss as a jump of that count; each event is looked
 * at for its number first and for its prefix then. A gap is reported before the event that revealed it, which waits for the next
 * call.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MAX_EVENT (64u << 10)
#define SKIPPED_PER_LOOK 64u /* events of other prefixes between looks at the clock */

struct sdbc_watch {
  ci_link link;
  char *endpoint;
  uint32_t connect_timeout_ms;
  bool narrow;
  bool known; /* number and session are of the last event */
  bool lost;  /* the connection went away, which has still to be acted on */
  bool back;  /* it is there again, which has still to be told */
  uint64_t number, session;
  bool has_event; /* one that is not delivered yet */
  sdbc_event event;
  zmq_msg_t topic, body;
  ci_arena arena;
  char message[CI_MESSAGE];
  size_t prefix_len;
  uint8_t prefix[SDBC_MAX_PATH];
};

static int fail_watch(sdbc_watch *w, int code, const char *sentence) {
  ci_say(w->message, "%s: %s", w->endpoint, sentence);
  return code;
}

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

static void note_news(sdbc_watch *w) {
  ci_news news = ci_link_news(&w->link);
  if (news.connected) w->back = true;
  if (news.lost) w->lost = true;
}

static int wait_for_connection(sdbc_watch *w) {
  int64_t until = ci_now_ms() + w->connect_timeout_ms;
  while (!w->back) {
    if (ci_now_ms() >= until)
      return fail_watch(w, SDBC_UNREACHABLE, "the event feed cannot be reached; is the service running there?");
    if (ci_link_wait(&w->link, until) != SDBC_OK) return fail_watch(w, SDBC_CLOSED, "the ZeroMQ context was ended");
    note_news(w);
  }
  w->back = false;
  return SDBC_OK;
}

static int open_watch(sdbc_watch *w, void *context) {
  int code = ci_link_open(&w->link, context, ZMQ_SUB, w->message);
  if (code != SDBC_OK) return code;
  if (zmq_setsockopt(w->link.socket, ZMQ_SUBSCRIBE, w->prefix, w->narrow ? w->prefix_len : 0) != 0) {
    return fail_watch(w, SDBC_NO_MEMORY, zmq_strerror(errno));
  }
  code = ci_link_connect(&w->link, w->endpoint, w->message);
  return code == SDBC_OK ? wait_for_connection(w) : code;
}

int sdbc_watch_open(sdbc *h, const void *prefix, size_t prefix_len, bool narrow, sdbc_watch **watch) {
  int code = ci_enter(h);
  if (code != SDBC_OK) return code;
  if (prefix_len > SDBC_MAX_PATH || (prefix_len > 0 && !prefix)) {
    return ci_fail(h, SDBC_INVALID, "a prefix has at most %u bytes", SDBC_MAX_PATH);
  }
  if (!h->events) return ci_fail(h, SDBC_INVALID, "no events endpoint follows from %s; set it in the options", h->endpoint);
  sdbc_watch *w = calloc(1, sizeof *w);
  if (!w) return ci_fail(h, SDBC_NO_MEMORY, "no memory for a watch");
  zmq_msg_init(&w->topic);
  zmq_msg_init(&w->body);
  ci_arena_init(&w->arena);
  w->narrow = narrow;
  w->connect_timeout_ms = h->options.connect_timeout_ms;
  w->prefix_len = prefix_len;
  if (prefix_len > 0) memcpy(w->prefix, prefix, prefix_len);
  w->endpoint = strdup(h->events);
  code = w->endpoint ? open_watch(w, h->options.zmq_context) : SDBC_NO_MEMORY;
  if (code != SDBC_OK) {
    (void)ci_fail(h, code, "%s", w->message[0] ? w->message : sdbc_strerror(code));
    sdbc_watch_close(w);
    return code;
  }
  *watch = w;
  return SDBC_OK;
}

/* --- Receiving ---------------------------------------------------------------------------------------------------------------- */

/* The next message: SDBC_OK, SDBC_AGAIN, or SDBC_PROTOCOL when it is not of two frames. */
static int receive(sdbc_watch *w) {
  if (zmq_msg_recv(&w->topic, w->link.socket, ZMQ_DONTWAIT) < 0) return SDBC_AGAIN;
  if (!zmq_msg_more(&w->topic)) return SDBC_PROTOCOL;
  if (zmq_msg_recv(&w->body, w->link.socket, ZMQ_DONTWAIT) < 0) return SDBC_PROTOCOL;
  int code = SDBC_OK;
  while (zmq_msg_more(&w->body)) {
    code = SDBC_PROTOCOL;
    if (zmq_msg_recv(&w->body, w->link.socket, ZMQ_DONTWAIT) < 0) break;
  }
  return code;
}

static int decode(sdbc_watch *w, sdbc_event *event) {
  size_t size = zmq_msg_size(&w->body);
  if (size == 0 || size > MAX_EVENT) return SDBC_PROTOCOL;
  ci_arena_reset(&w->arena);
  const Dcf__Db__V1__Event *e = dcf__db__v1__event__unpack(&w->arena.allocator, size, zmq_msg_data(&w->body));
  if (!e || e->path.len == 0 || e->path.len > SDBC_MAX_PATH || e->path.len != zmq_msg_size(&w->topic)) return SDBC_PROTOCOL;
  if (memcmp(e->path.data, zmq_msg_data(&w->topic), e->path.len) != 0) return SDBC_PROTOCOL;
  if (e->kind != DCF__DB__V1__EVENT__KIND__PUT && e->kind != DCF__DB__V1__EVENT__KIND__DELETE) return SDBC_PROTOCOL;
  *event = (sdbc_event){.kind = e->kind == DCF__DB__V1__EVENT__KIND__DELETE ? SDBC_EVENT_DELETE : SDBC_EVENT_PUT,
                        .path = e->path.data,
                        .path_len = e->path.len,
                        .sequence = e->sequence,
                        .epoch = e->epoch,
                        .number = e->number,
                        .session = e->session,
                        .has_token = e->token.len == CI_TOKEN};
  if (!ci_info(e->info, &event->info)) return SDBC_PROTOCOL;
  if (event->has_token) memcpy(event->token, e->token.data, CI_TOKEN);
  return SDBC_OK;
}

/* Compares the event's place in the count with the last one's. */
static int count(sdbc_watch *w, const sdbc_event *event, uint64_t *missed) {
  bool same = w->known && event->session == w->session;
  uint64_t last = w->number;
  if (same && event->number <= last) return SDBC_PROTOCOL;
  bool restarted = w->known && !same;
  w->known = true;
  w->session = event->session;
  w->number = event->number;
  *missed = same ? event->number - last - 1 : 0;
  if (restarted) return fail_watch(w, SDBC_GAP, "the service was restarted; events may be missing");
  if (*missed == 0 || w->narrow) return SDBC_OK;
  ci_say(w->message, "%s: %llu events were lost", w->endpoint, (unsigned long long)*missed);
  return SDBC_GAP;
}

static bool wanted(const sdbc_watch *w, const sdbc_event *event) {
  return event->path_len >= w->prefix_len && (w->prefix_len == 0 || memcmp(event->path, w->prefix, w->prefix_len) == 0);
}

/* SDBC_OK and SDBC_GAP are for the caller; SDBC_AGAIN: nothing is there; SDBC_END: an event of no interest was passed over. */
static int take(sdbc_watch *w, sdbc_event *event) {
  int code = receive(w);
  if (code == SDBC_AGAIN) return code;
  uint64_t missed = 0;
  if (code == SDBC_OK) code = decode(w, &w->event);
  if (code == SDBC_OK) code = count(w, &w->event, &missed);
  if (code == SDBC_PROTOCOL) return fail_watch(w, SDBC_PROTOCOL, "something that is no event was skipped");
  w->has_event = wanted(w, &w->event);
  if (code == SDBC_GAP) {
    *event = (sdbc_event){.missed = missed, .number = w->number, .session = w->session};
    return SDBC_GAP;
  }
  if (!w->has_event) return SDBC_END;
  w->has_event = false;
  *event = w->event;
  return SDBC_OK;
}

static void renew(sdbc_watch *w) {
  w->lost = w->back = false;
  if (!ci_link_renew(&w->link, w->endpoint, w->prefix, w->narrow ? w->prefix_len : 0)) w->back = true; /* libzmq tries by itself */
}

static int connection_back(sdbc_watch *w, sdbc_event *event) {
  w->back = false;
  w->known = false;
  *event = (sdbc_event){.number = w->number, .session = w->session};
  return fail_watch(w, SDBC_GAP, "the connection was lost and is back; events may be missing");
}

int sdbc_watch_next(sdbc_watch *w, int timeout_ms, sdbc_event *event) {
  w->message[0] = '\0';
  if (w->has_event) {
    w->has_event = false;
    *event = w->event;
    return SDBC_OK;
  }
  int64_t until = timeout_ms < 0 ? CI_FOREVER : ci_now_ms() + timeout_ms;
  for (unsigned skipped = 0;;) {
    int code = take(w, event);
    if (code == SDBC_END) {
      if (++skipped % SKIPPED_PER_LOOK == 0 && ci_now_ms() >= until) return SDBC_AGAIN;
      continue;
    }
    if (code != SDBC_AGAIN) return code;
    /* Everything is read that came before the connection went away. */
    if (w->lost) renew(w);
    if (w->back) return connection_back(w, event);
    if (ci_now_ms() >= until) return SDBC_AGAIN;
    if (ci_link_wait(&w->link, until) != SDBC_OK) return fail_watch(w, SDBC_CLOSED, "the ZeroMQ context was ended");
    note_news(w);
  }
}

const char *sdbc_watch_message(const sdbc_watch *w) { return w ? w->message : ""; }

void sdbc_watch_close(sdbc_watch *w) {
  if (!w) return;
  ci_link_close(&w->link);
  zmq_msg_close(&w->topic);
  zmq_msg_close(&w->body);
  ci_arena_free(&w->arena);
  free(w->endpoint);
  free(w);
}
