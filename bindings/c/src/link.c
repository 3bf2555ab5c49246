/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* link.c - sockets, their monitors, and the process's context.
 *
 * All handles share one context, because libzmq 4.3.4 closes the source of randomness with the first context that ends, under the
 * feet of the others. It ends with the last handle.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

#define HEARTBEAT_MS 2000          /* a silent peer is asked this often whether it lives */
#define HEARTBEAT_TIMEOUT_MS 10000 /* and given up after this */
#define RECONNECT_MS 50
#define RECONNECT_MAX_MS 1000
#define EVENTS_QUEUE 100000 /* events waiting here before libzmq drops some */

static pthread_mutex_t context_lock = PTHREAD_MUTEX_INITIALIZER;
static void *context_shared;
static unsigned context_users;

static void *context_take(void) {
  pthread_mutex_lock(&context_lock);
  if (!context_shared) context_shared = zmq_ctx_new();
  void *context = context_shared;
  if (context) context_users++;
  pthread_mutex_unlock(&context_lock);
  return context;
}

static void context_release(void) {
  pthread_mutex_lock(&context_lock);
  if (--context_users == 0) {
    while (zmq_ctx_term(context_shared) != 0 && errno == EINTR) {}
    context_shared = NULL;
  }
  pthread_mutex_unlock(&context_lock);
}

int64_t ci_now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t ci_now_ms(void) { return ci_now_us() / 1000; }

static bool set_int(void *socket, int option, int value) { return zmq_setsockopt(socket, option, &value, sizeof value) == 0; }

static bool set_options(void *socket, int type) {
  int64_t max_frame = CI_MAX_FRAME;
  bool done = set_int(socket, ZMQ_LINGER, 0) && set_int(socket, ZMQ_IPV6, 1) && set_int(socket, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) &&
              set_int(socket, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) && set_int(socket, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
              set_int(socket, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) &&
              zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_frame, sizeof max_frame) == 0;
  if (type == ZMQ_SUB) return done && set_int(socket, ZMQ_RCVHWM, EVENTS_QUEUE);
  /* What is sent is bounded by slots and credit, not by libzmq. ZMQ_IMMEDIATE would throw away replies that have arrived when the
   * connection is lost, so requests wait for a connection on our side instead. */
  return done && set_int(socket, ZMQ_SNDHWM, 0);
}

static bool open_monitor(ci_link *link) {
  static atomic_uint number;
  char name[64];
  (void)snprintf(name, sizeof name, "inproc://sdbc-monitor-%u-%p", atomic_fetch_add(&number, 1), (void *)link);
  if (zmq_socket_monitor(link->socket, name, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) != 0) return false;
  link->monitor = zmq_socket(link->context, ZMQ_PAIR);
  return link->monitor && set_int(link->monitor, ZMQ_LINGER, 0) && zmq_connect(link->monitor, name) == 0;
}

int ci_link_open(ci_link *link, void *user_context, int type, char *message) {
  *link = (ci_link){.context = user_context, .shared = !user_context};
  if (!user_context) link->context = context_take();
  if (link->context) link->socket = zmq_socket(link->context, type);
  if (link->socket && set_options(link->socket, type) && open_monitor(link)) return SDBC_OK;
  ci_say(message, "cannot open a ZeroMQ socket: %s", zmq_strerror(errno));
  ci_link_close(link);
  return SDBC_NO_MEMORY;
}

int ci_link_connect(ci_link *link, const char *endpoint, char *message) {
  if (zmq_connect(link->socket, endpoint) == 0) return SDBC_OK;
  ci_say(message, "'%s' is not an endpoint to connect to (%s); write it as tcp://HOST:PORT or ipc://FILE", endpoint,
         zmq_strerror(errno));
  return SDBC_INVALID;
}

bool ci_link_renew(ci_link *link, const char *endpoint, const void *prefix, size_t prefix_len) {
  int type = 0;
  size_t size = sizeof type;
  char ignored[CI_MESSAGE];
  ci_link fresh;
  if (zmq_getsockopt(link->socket, ZMQ_TYPE, &type, &size) != 0) return false;
  if (ci_link_open(&fresh, link->shared ? NULL : link->context, type, ignored) != SDBC_OK) return false;
  bool subscribed = type != ZMQ_SUB || zmq_setsockopt(fresh.socket, ZMQ_SUBSCRIBE, prefix, prefix_len) == 0;
  if (!subscribed || ci_link_connect(&fresh, endpoint, ignored) != SDBC_OK) {
    ci_link_close(&fresh);
    return false;
  }
  ci_link_close(link);
  *link = fresh;
  return true;
}

/* The socket lives on in libzmq's threads for a moment. An event of it that finds nobody at the other end of the monitor would wait
 * there for ever, and everything else with it; so there are no events any more before the monitor goes. */
void ci_link_close(ci_link *link) {
  if (link->socket) zmq_socket_monitor(link->socket, NULL, 0);
  if (link->socket) zmq_close(link->socket);
  if (link->monitor) zmq_close(link->monitor);
  if (link->shared && link->context) context_release();
  *link = (ci_link){0};
}

ci_news ci_link_news(ci_link *link) {
  ci_news news = {0};
  zmq_msg_t frame;
  zmq_msg_init(&frame);
  while (zmq_msg_recv(&frame, link->monitor, ZMQ_DONTWAIT) >= 0) {
    uint16_t event = 0;
    if (zmq_msg_size(&frame) >= sizeof event) memcpy(&event, zmq_msg_data(&frame), sizeof event);
    if (event == ZMQ_EVENT_DISCONNECTED) news.lost = true;
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) news.connected = true;
    while (zmq_msg_more(&frame) && zmq_msg_recv(&frame, link->monitor, ZMQ_DONTWAIT) >= 0) {}
  }
  zmq_msg_close(&frame);
  return news;
}

int ci_link_wait(ci_link *link, int64_t until) {
  zmq_pollitem_t items[2] = {{.socket = link->socket, .events = ZMQ_POLLIN}, {.socket = link->monitor, .events = ZMQ_POLLIN}};
  long timeout = -1;
  if (until != CI_FOREVER) {
    int64_t left = until - ci_now_ms();
    timeout = left < 0 ? 0 : left > INT_MAX ? INT_MAX : (long)left;
  }
  if (zmq_poll(items, 2, timeout) >= 0 || errno == EINTR) return SDBC_OK;
  return SDBC_CLOSED;
}

bool ci_events_endpoint(const char *endpoint, char *out, size_t len) {
  const char *colon = strrchr(endpoint, ':');
  if (strncmp(endpoint, "tcp://", 6) != 0 || colon < endpoint + 6) return false;
  char *end;
  unsigned long port = strtoul(colon + 1, &end, 10);
  if (end == colon + 1 || *end != '\0' || port == 0 || port >= 65535) return false;
  int n = snprintf(out, len, "%.*s:%lu", (int)(colon - endpoint), endpoint, port + 1);
  return n > 0 && (size_t)n < len;
}
