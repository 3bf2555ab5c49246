/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* fake.c - see fake.h.
 *
 * One thread owns the sockets. What the test's own thread asks for (publishing, dropping, stopping) travels to it over a pair of
 * sockets, one message a wish, answered when it is done.
 *
 * libzmq 4.3.4 loses the memory of a message of which half has arrived, when its socket is closed while a reply is still on its way
 * out: the end of the replies is then noticed before the end of the pipe. So the socket of requests is closed only when it is at
 * rest.
 */
#include "fake.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <zmq.h>

enum wish { STOP = 1, PUBLISH, DROP_WATCHERS };
enum { REST_MS = 50 };

struct fake {
  fake_handler *handler;
  void *user;
  void *context, *router, *feed;
  void *ask, *told; /* the test's end of the pair, and the thread's */
  pthread_t thread;
  char endpoint[128], events[128];
  atomic_uint count;
  bool drop;                 /* the handler wants the connections cut */
  zmq_msg_t peer;            /* who sent the request being handled */
  const void *const *frames; /* of PUBLISH */
  const size_t *sizes;
  size_t frame_count;
};

static void bind_to(void *socket, const char *endpoint, char *bound, size_t len) {
  /* The port of a socket just closed is free a moment later. */
  for (int i = 0; zmq_bind(socket, endpoint) != 0; i++) {
    ck_assert_msg(i < 500, "cannot bind %s", endpoint);
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  ck_assert_int_eq(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &len), 0);
}

static void *open_socket(fake *f, int type, const char *endpoint, char *bound, size_t len) {
  void *socket = zmq_socket(f->context, type);
  int linger_ms = 1000; /* what was sent before a connection is cut arrives */
  ck_assert_ptr_nonnull(socket);
  zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
  bind_to(socket, endpoint, bound, len);
  return socket;
}

/* Throws away what comes until nothing has come, or gone, for a while. */
static void come_to_rest(fake *f) {
  zmq_pollitem_t item = {.socket = f->router, .events = ZMQ_POLLIN};
  while (zmq_poll(&item, 1, REST_MS) > 0) {
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    zmq_msg_recv(&frame, f->router, ZMQ_DONTWAIT);
    zmq_msg_close(&frame);
  }
}

static void reopen(fake *f, void **socket, int type, char *bound, size_t len) {
  char endpoint[128];
  snprintf(endpoint, sizeof endpoint, "%s", bound);
  zmq_close(*socket);
  *socket = open_socket(f, type, endpoint, bound, len);
}

static void handle(fake *f) {
  zmq_msg_t head, body;
  zmq_msg_init(&f->peer);
  zmq_msg_init(&head);
  zmq_msg_init(&body);
  zmq_msg_recv(&f->peer, f->router, 0);
  zmq_msg_recv(&head, f->router, 0);
  bool has_body = zmq_msg_more(&head);
  if (has_body) zmq_msg_recv(&body, f->router, 0);
  PB(Request) *request = dcf__db__v1__request__unpack(NULL, zmq_msg_size(&head), zmq_msg_data(&head));
  ck_assert_ptr_nonnull(request);
  atomic_fetch_add(&f->count, 1);
  asked a = {.request = request, .body = has_body ? zmq_msg_data(&body) : NULL, .size = zmq_msg_size(&body)};
  f->handler(f, &a, f->user);
  dcf__db__v1__request__free_unpacked(request, NULL);
  zmq_msg_close(&head);
  zmq_msg_close(&body);
  zmq_msg_close(&f->peer);
  if (f->drop) {
    come_to_rest(f);
    reopen(f, &f->router, ZMQ_ROUTER, f->endpoint, sizeof f->endpoint);
  }
  f->drop = false;
}

static void send_all(void *socket, const void *const *frames, const size_t *sizes, size_t count) {
  for (size_t i = 0; i < count; i++) zmq_send(socket, frames[i], sizes[i], i + 1 < count ? ZMQ_SNDMORE : 0);
}

/* False: the thread ends. */
static bool grant(fake *f, int wish) {
  if (wish == PUBLISH) send_all(f->feed, f->frames, f->sizes, f->frame_count);
  if (wish == DROP_WATCHERS) reopen(f, &f->feed, ZMQ_XPUB, f->events, sizeof f->events);
  zmq_send(f->told, &wish, sizeof wish, 0);
  return wish != STOP;
}

static void *serve(void *user) {
  fake *f = user;
  for (;;) {
    zmq_pollitem_t items[] = {{.socket = f->told, .events = ZMQ_POLLIN}, {.socket = f->router, .events = ZMQ_POLLIN}};
    if (zmq_poll(items, 2, -1) < 0) continue;
    int wish;
    if (items[0].revents && zmq_recv(f->told, &wish, sizeof wish, 0) == (int)sizeof wish && !grant(f, wish)) return NULL;
    if (items[1].revents) handle(f);
  }
}

static void wish_for(fake *f, int wish) {
  zmq_send(f->ask, &wish, sizeof wish, 0);
  zmq_recv(f->ask, &wish, sizeof wish, 0);
}

fake *fake_start(fake_handler *handler, void *user) {
  fake *f = calloc(1, sizeof *f);
  ck_assert_ptr_nonnull(f);
  f->handler = handler;
  f->user = user;
  f->context = zmq_ctx_new();
  f->router = open_socket(f, ZMQ_ROUTER, "tcp://127.0.0.1:*", f->endpoint, sizeof f->endpoint);
  f->feed = open_socket(f, ZMQ_XPUB, "tcp://127.0.0.1:*", f->events, sizeof f->events);
  char ignored[64];
  f->told = open_socket(f, ZMQ_PAIR, "inproc://wishes", ignored, sizeof ignored);
  f->ask = zmq_socket(f->context, ZMQ_PAIR);
  ck_assert_int_eq(zmq_connect(f->ask, "inproc://wishes"), 0);
  ck_assert_int_eq(pthread_create(&f->thread, NULL, serve, f), 0);
  return f;
}

void fake_stop(fake *f) {
  wish_for(f, STOP);
  pthread_join(f->thread, NULL);
  zmq_close(f->ask);
  zmq_close(f->told);
  come_to_rest(f);
  zmq_close(f->router);
  zmq_close(f->feed);
  zmq_ctx_term(f->context);
  free(f);
}

const char *fake_endpoint(const fake *f) { return f->endpoint; }
const char *fake_events(const fake *f) { return f->events; }
unsigned fake_count(const fake *f) { return atomic_load(&f->count); }

/* --- In the handler ----------------------------------------------------------------------------------------------------------- */

PB(Reply) fake_reply_to(const asked *a, PB(Code) code) {
  PB(Reply) reply;
  dcf__db__v1__reply__init(&reply);
  reply.id = a->request->id;
  reply.code = code;
  reply.epoch = 7;
  reply.sequence = 40;
  if (code == CODE(BUSY) || code == CODE(TIMED_OUT) || code == CODE(STOPPING)) reply.status = -1;
  if (code == CODE(NOT_FOUND)) reply.status = -2;
  if (code == CODE(INVALID) || code == CODE(CONDITION_FAILED) || code == CODE(TOO_LARGE)) reply.status = -3;
  if (code == CODE(IO) || code == CODE(CORRUPT)) reply.status = -4;
  return reply;
}

void fake_send_frames(fake *f, const void *const *frames, const size_t *sizes, size_t count) {
  zmq_send(f->router, zmq_msg_data(&f->peer), zmq_msg_size(&f->peer), ZMQ_SNDMORE);
  send_all(f->router, frames, sizes, count);
}

void fake_send(fake *f, PB(Reply) * reply, const void *body, size_t size) {
  uint8_t packed[65536];
  if (body && reply->has_body_digest_case == DCF__DB__V1__REPLY__HAS_BODY_DIGEST__NOT_SET) {
    reply->has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
    reply->body_digest = sdbc_crc32c(0, body, size);
  }
  ck_assert_uint_le(dcf__db__v1__reply__get_packed_size(reply), sizeof packed);
  size_t len = dcf__db__v1__reply__pack(reply, packed);
  fake_send_frames(f, (const void *[]){packed, body}, (const size_t[]){len, size}, body ? 2 : 1);
}

void fake_answer(fake *f, const asked *a, PB(Code) code) {
  PB(Reply) reply = fake_reply_to(a, code);
  fake_send(f, &reply, NULL, 0);
}

void fake_drop_connections(fake *f) { f->drop = true; }

PB(Info) * fake_info(const void *content, size_t size, uint32_t version) {
  static uint8_t id[16] = {1, 0x8f, 0, 0, 0, 0, 0x70};
  static PB(Info) info;
  dcf__db__v1__info__init(&info);
  info.id = (ProtobufCBinaryData){.data = id, .len = sizeof id};
  info.version = version;
  info.oldest = 1;
  info.size = size;
  info.time_ms = 1732320000000;
  info.digest = sdbc_crc32c(0, content, size);
  return &info;
}

/* --- Events ------------------------------------------------------------------------------------------------------------------- */

void fake_publish_frames(fake *f, const void *const *frames, const size_t *sizes, size_t count) {
  f->frames = frames;
  f->sizes = sizes;
  f->frame_count = count;
  wish_for(f, PUBLISH);
}

void fake_publish(fake *f, uint64_t session, uint64_t number, const char *path) {
  uint8_t packed[2048], name[1024];
  size_t len = strlen(path);
  memcpy(name, path, len);
  PB(Event) event = DCF__DB__V1__EVENT__INIT;
  event.number = number;
  event.session = session;
  event.path = (ProtobufCBinaryData){.data = name, .len = len};
  event.info = fake_info("x", 1, 1);
  event.sequence = number;
  size_t size = dcf__db__v1__event__pack(&event, packed);
  fake_publish_frames(f, (const void *[]){path, packed}, (const size_t[]){len, size}, 2);
}

void fake_drop_watchers(fake *f) { wish_for(f, DROP_WATCHERS); }

/* --- What tests share --------------------------------------------------------------------------------------------------------- */

static sdbc *connect_with(const fake *f, uint32_t request_timeout_ms) {
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.connect_timeout_ms = 5000;
  options.request_timeout_ms = request_timeout_ms;
  options.backoff_ms = 10;
  options.events = f->events;
  sdbc *client;
  ck_assert_int_eq(sdbc_connect(f->endpoint, &options, &client), SDBC_OK);
  return client;
}

sdbc *fake_connect(const fake *f) { return connect_with(f, 5000); }
sdbc *fake_connect_hasty(const fake *f) { return connect_with(f, 200); }

int run_suite(Suite *suite) {
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

uint64_t fake_seed(void) {
  const char *text = getenv("SDB_SEED");
  uint64_t seed = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
  printf("SDB_SEED=%" PRIu64 "\n", seed);
  fflush(stdout);
  return seed;
}

uint64_t fake_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
