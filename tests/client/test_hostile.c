/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_hostile.c - a peer that answers anything: the client reports an error or a correct result, and never falls over. */
#include <stdio.h>

#include "fake.h"

#define CONTENT "0123456789"

/* --- One kind of wrong answer at a time --------------------------------------------------------------------------------------- */

typedef enum lie {
  EMPTY_HEADER,
  ONE_BYTE,
  NOT_PROTOBUF,
  ENDLESS_VARINT,
  LENGTH_BEYOND_END,
  THREE_FRAMES,
  NO_DIGEST,
  WRONG_DIGEST,
  NO_INFO,
  SHORT_ID,
  OTHER_SIZE,
  OTHER_CONTENT,
  HUGE_HEADER,
  MANY_ENTRIES,
  LIES
} lie;

/* A reply of nothing but entries, each taking three bytes on the wire and far more in memory. */
static void send_many_entries(fake *f, const asked *a) {
  static uint8_t head[1500000];
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  size_t len = dcf__db__v1__reply__pack(&reply, head);
  for (; len + 3 <= sizeof head; len += 3) {
    head[len] = 0x8a; /* field 17, bytes */
    head[len + 1] = 0x01;
    head[len + 2] = 0;
  }
  const void *frames[] = {head};
  fake_send_frames(f, frames, &len, 1);
}

static void send_lie(fake *f, const asked *a, lie which) {
  static uint8_t huge[2200000];
  const void *frames[3] = {huge, huge, huge};
  size_t sizes[3] = {0, 3, 3};
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  PB(Info) *info = fake_info(CONTENT, 10, 1);
  reply.info = info;
  switch (which) {
    case EMPTY_HEADER: fake_send_frames(f, frames, sizes, 1); return;
    case ONE_BYTE: fake_send_frames(f, (const void *[]){"\x08"}, (size_t[]){1}, 1); return;
    case NOT_PROTOBUF: fake_send_frames(f, (const void *[]){"GET / HTTP/1.1\r\n\r\n"}, (size_t[]){18}, 1); return;
    case ENDLESS_VARINT:
      fake_send_frames(f, (const void *[]){"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"}, (size_t[]){13}, 1);
      return;
    case LENGTH_BEYOND_END: fake_send_frames(f, (const void *[]){"\x22\xff\xff\xff\xff\x07xyz"}, (size_t[]){9}, 1); return;
    case THREE_FRAMES: fake_send_frames(f, (const void *[]){"\x08\x01", "x", "y"}, (size_t[]){2, 1, 1}, 3); return;
    case HUGE_HEADER:
      sizes[0] = sizeof huge;
      fake_send_frames(f, frames, sizes, 1);
      return;
    case MANY_ENTRIES: send_many_entries(f, a); return;
    case NO_DIGEST: {
      uint8_t packed[512];
      size_t len = dcf__db__v1__reply__pack(&reply, packed);
      fake_send_frames(f, (const void *[]){packed, CONTENT}, (size_t[]){len, 10}, 2);
      return;
    }
    case WRONG_DIGEST:
      reply.has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
      reply.body_digest = 1;
      break;
    case NO_INFO: reply.info = NULL; break;
    case SHORT_ID: info->id.len = 15; break;
    case OTHER_SIZE: info->size = 11; break;
    case OTHER_CONTENT: info->digest ^= 1; break;
    case LIES: break;
  }
  fake_send(f, &reply, CONTENT, 10);
}

static void lie_once(fake *f, const asked *a, void *user) {
  lie *which = user;
  send_lie(f, a, *which);
  *which = LIES; /* from now on the truth */
}

START_TEST(a_wrong_answer_to_a_get) {
  lie which = (lie)_i;
  fake *f = fake_start(lie_once, &which);
  sdbc *client = fake_connect(f);
  char buf[16];
  size_t size = 99;
  int code = sdbc_get(client, "/p", 2, 0, buf, sizeof buf, &size, NULL);
  if (_i == HUGE_HEADER) { /* the connection is cut, and the next one tells the truth */
    ck_assert_int_eq(code, SDBC_OK);
  } else {
    int expected = _i == WRONG_DIGEST || _i == OTHER_CONTENT ? SDBC_DAMAGED : SDBC_PROTOCOL;
    ck_assert_msg(code == expected, "lie %d: %s", _i, sdbc_strerror(code));
    ck_assert_uint_eq(size, 99);
    ck_assert_str_ne(sdbc_message(client), "");
  }
  ck_assert_int_eq(sdbc_get(client, "/p", 2, 0, buf, sizeof buf, &size, NULL), SDBC_OK);
  ck_assert_mem_eq(buf, CONTENT, 10);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

/* --- Pages -------------------------------------------------------------------------------------------------------------------- */

static const struct {
  const char *paths[3]; /* NULL: no further */
  bool last;
  bool right;
} pages[] = {
    {{"/a/1", "/a/2", "/a/3"}, true, true}, {{NULL}, true, true},  {{NULL}, false, false}, {{"/a/2", "/a/1"}, true, false},
    {{"/a/1", "/a/1"}, true, false},        {{"/b"}, true, false}, {{"/a"}, true, false},  {{""}, true, false},
};

static void send_page(fake *f, const asked *a, void *user) {
  int which = *(int *)user;
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  PB(Entry) entries[3];
  PB(Entry) * list[3];
  uint8_t texts[3][16];
  for (size_t i = 0; i < 3 && pages[which].paths[i]; i++) {
    dcf__db__v1__entry__init(&entries[i]);
    size_t len = strlen(pages[which].paths[i]);
    memcpy(texts[i], pages[which].paths[i], len);
    entries[i].path = (ProtobufCBinaryData){.data = texts[i], .len = len};
    list[i] = &entries[i];
    reply.n_entries = i + 1;
  }
  reply.entries = list;
  reply.last = pages[which].last;
  fake_send(f, &reply, NULL, 0);
}

START_TEST(pages_are_checked) {
  int which = _i;
  fake *f = fake_start(send_page, &which);
  sdbc *client = fake_connect(f);
  sdbc_page *page = NULL;
  int code = sdbc_search(client, "/a/", 3, NULL, 0, 0, false, &page);
  ck_assert_msg(code == (pages[_i].right ? SDBC_OK : SDBC_PROTOCOL), "page %d: %s", _i, sdbc_message(client));
  if (code == SDBC_OK) {
    ck_assert(sdbc_page_last(page));
    ck_assert_ptr_null(sdbc_page_entry(page, sdbc_page_count(page)));
    bool empty = sdbc_page_count(page) == 0;
    sdbc_page_free(page);
    page = NULL;
    code = sdbc_search(client, "/a/", 3, NULL, 0, 0, true, &page); /* the fake gives no infos */
    ck_assert_int_eq(code, empty ? SDBC_OK : SDBC_PROTOCOL);
    sdbc_page_free(page);
  }
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

/* --- Anything ----------------------------------------------------------------------------------------------------------------- */

typedef struct noise {
  uint64_t state;
} noise;

/* A right answer with some of its bytes changed, or bytes of no meaning at all; sometimes several, sometimes none. */
static void answer_noise(fake *f, const asked *a, void *user) {
  noise *n = user;
  unsigned messages = (unsigned)(fake_random(&n->state) % 3);
  for (unsigned m = 0; m < messages; m++) {
    uint8_t head[600];
    PB(Reply) reply = fake_reply_to(a, (PB(Code))(fake_random(&n->state) % 18));
    reply.info = fake_info(CONTENT, 10, 1);
    reply.stream = fake_random(&n->state) % 4;
    reply.offset = fake_random(&n->state) % 3 * 10;
    reply.last = fake_random(&n->state) % 2;
    reply.credit = (uint32_t)(fake_random(&n->state) % 100);
    PB(Entry) entry = DCF__DB__V1__ENTRY__INIT;
    uint8_t path[] = "/p";
    entry.path = (ProtobufCBinaryData){.data = path, .len = 2};
    entry.info = reply.info;
    PB(Entry) * list[] = {&entry};
    reply.entries = list;
    reply.n_entries = fake_random(&n->state) % 2;
    if (fake_random(&n->state) % 2) {
      reply.has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
      reply.body_digest = sdbc_crc32c(0, CONTENT, 10);
    }
    size_t len = dcf__db__v1__reply__pack(&reply, head);
    unsigned changes = (unsigned)(fake_random(&n->state) % 4);
    for (unsigned i = 0; i < changes; i++) head[fake_random(&n->state) % len] = (uint8_t)fake_random(&n->state);
    if (fake_random(&n->state) % 8 == 0) len = fake_random(&n->state) % (len + 1);
    fake_send_frames(f, (const void *[]){head, CONTENT, CONTENT}, (size_t[]){len, fake_random(&n->state) % 11, 4},
                     1 + fake_random(&n->state) % 3);
  }
}

static void ignore_figure(void *user, const char *name, uint64_t value) {
  (void)value;
  *(size_t *)user += strlen(name);
}

static void ignore_done(void *user, const sdbc_done *done) {
  (void)done;
  ++*(unsigned *)user;
}

static void read_stream(sdbc *client) {
  sdbc_reader *reader;
  if (sdbc_reader_open(client, "/p", 2, 0, 0, 0, &reader) != SDBC_OK) return;
  char buf[64];
  size_t got = 1;
  for (int i = 0; i < 8 && got > 0; i++) {
    if (sdbc_reader_read(reader, buf, sizeof buf, &got) != SDBC_OK) break;
  }
  sdbc_reader_close(reader);
}

static void write_stream(sdbc *client) {
  static char content[600000];
  sdbc_writer *writer;
  if (sdbc_writer_open(client, "/p", 2, SDBC_UNKNOWN_SIZE, NULL, &writer) != SDBC_OK) return;
  if (sdbc_writer_write(writer, content, sizeof content) == SDBC_OK) {
    (void)!sdbc_writer_commit(writer, NULL);
  } else {
    sdbc_writer_abort(writer);
  }
}

static void call_something(sdbc *client, uint64_t choice, unsigned *told) {
  char buf[64];
  size_t size = 0;
  sdbc_info infos[2];
  sdbc_page *page;
  void *data;
  int code;
  switch (choice % 12) {
    case 0: (void)!sdbc_ping(client, &(sdbc_pong){0}); break;
    case 1: (void)!sdbc_insert(client, "/p", 2, CONTENT, 10, NULL, &(sdbc_commit){0}); break;
    case 2:
      code = sdbc_get(client, "/p", 2, 0, buf, sizeof buf, &size, NULL);
      /* Noise that passes every check is the right content. */
      if (code == SDBC_OK) ck_assert_msg(size <= 10 && memcmp(buf, CONTENT, size) == 0, "a wrong content was returned");
      break;
    case 3:
      if (sdbc_get_alloc(client, "/p", 2, 0, &data, &size, NULL) == SDBC_OK) sdbc_free(data);
      break;
    case 4: (void)!sdbc_get_range(client, "/p", 2, 0, 3, buf, 4, &size, NULL); break;
    case 5: (void)!sdbc_stat(client, "/p", 2, 0, infos); break;
    case 6: (void)!sdbc_versions(client, "/p", 2, infos, 2, &size); break;
    case 7:
      if (sdbc_search(client, "", 0, NULL, 0, 0, true, &page) == SDBC_OK) sdbc_page_free(page);
      break;
    case 8: (void)!sdbc_statistics(client, ignore_figure, &size); break;
    case 9: read_stream(client); break;
    case 10: write_stream(client); break;
    default:
      for (int i = 0; i < 5; i++) (void)!sdbc_submit_get(client, "/p", 2, 0, ignore_done, told, NULL);
      (void)!sdbc_poll(client, 5, NULL);
  }
}

START_TEST(noise_never_harms) {
  noise n = {.state = fake_seed() + (uint64_t)_i};
  uint64_t choices = n.state ^ 1;
  fake *f = fake_start(answer_noise, &n);
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.request_timeout_ms = 10;
  options.retries = 1;
  options.backoff_ms = 1;
  sdbc *client;
  ck_assert_int_eq(sdbc_connect(fake_endpoint(f), &options, &client), SDBC_OK);
  unsigned told = 0;
  for (int i = 0; i < 400; i++) call_something(client, fake_random(&choices), &told);
  for (int i = 0; i < 1000 && sdbc_in_flight(client) > 0; i++) ck_assert_int_eq(sdbc_poll(client, 100, NULL), SDBC_OK);
  ck_assert_uint_eq(sdbc_in_flight(client), 0);
  ck_assert_uint_eq(told % 5, 0);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

/* --- Events ------------------------------------------------------------------------------------------------------------------- */

static void no_requests(fake *f, const asked *a, void *user) {
  (void)user;
  fake_answer(f, a, CODE(UNSUPPORTED));
}

START_TEST(noise_in_the_feed) {
  uint64_t state = fake_seed();
  fake *f = fake_start(no_requests, NULL);
  sdbc *client = fake_connect(f);
  sdbc_watch *watch;
  ck_assert_int_eq(sdbc_watch_open(client, "", 0, false, &watch), SDBC_OK);
  uint8_t packed[256];
  PB(Event) event = DCF__DB__V1__EVENT__INIT;
  uint8_t path[] = "/p";
  event.path = (ProtobufCBinaryData){.data = path, .len = 2};
  event.info = fake_info("x", 1, 1);
  event.session = 3;
  unsigned good = 0, bad = 0, gaps = 0;
  for (unsigned i = 1; i <= 2000; i++) {
    event.number = i;
    size_t len = dcf__db__v1__event__pack(&event, packed);
    if (i % 2 == 0) packed[fake_random(&state) % len] = (uint8_t)fake_random(&state);
    fake_publish_frames(f, (const void *[]){"/p", packed, "x"}, (size_t[]){2, i % 10 == 4 ? len / 2 : len, 1},
                        i % 100 == 6   ? 3
                        : i % 100 == 8 ? 1
                                       : 2);
    sdbc_event got;
    int code = sdbc_watch_next(watch, 5, &got);
    if (code == SDBC_OK) good++;
    if (code == SDBC_PROTOCOL) bad++;
    if (code == SDBC_GAP) gaps++;
    ck_assert(code == SDBC_OK || code == SDBC_PROTOCOL || code == SDBC_GAP || code == SDBC_AGAIN);
  }
  ck_assert_uint_gt(good, 100);
  ck_assert_uint_gt(bad, 100);
  ck_assert_uint_gt(gaps, 10);
  sdbc_watch_close(watch);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("hostile");
  TCase *wrong = tcase_create("wrong");
  tcase_set_timeout(wrong, 30);
  tcase_add_loop_test(wrong, a_wrong_answer_to_a_get, 0, LIES);
  tcase_add_loop_test(wrong, pages_are_checked, 0, sizeof pages / sizeof *pages);
  suite_add_tcase(suite, wrong);
  TCase *noisy = tcase_create("noise");
  tcase_set_timeout(noisy, 120);
  tcase_add_loop_test(noisy, noise_never_harms, 0, 4);
  tcase_add_test(noisy, noise_in_the_feed);
  suite_add_tcase(suite, noisy);
  return run_suite(suite);
}
