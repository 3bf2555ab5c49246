/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_transfers.c - streams both ways with a service that cuts, refuses and lies. */
#include <stdio.h>
#include <stdlib.h>

#include "fake.h"

#define SIZE 3000000u
#define CHUNK 262144u

static uint8_t content[SIZE];

static void fill_content(void) {
  uint64_t state = 17;
  for (size_t i = 0; i < SIZE; i++) content[i] = (uint8_t)fake_random(&state);
}

/* --- Reading ------------------------------------------------------------------------------------------------------------------ */

typedef enum fault {
  NONE,
  CUT,         /* the connection, while chunks are on their way */
  SILENCE,     /* no further chunk */
  LEASE,       /* the service ends the stream for lack of progress */
  BUSY_OPEN,   /* once, then it opens */
  GONE,        /* cut, and the version is no longer kept */
  REPLACED,    /* cut, and it is another document now */
  DAMAGE,      /* the service finds damage on its side */
  WRONG_PLACE, /* a chunk that does not follow */
  EARLY_END,
  OVERFLOW,    /* more chunks than there is credit for */
  WRONG_CHUNK, /* a chunk that is not what its digest says */
  WRONG_WHOLE, /* chunks that are right, of another content */
  EMPTY_CHUNK,
  FAULTS
} fault;

typedef struct source {
  fault what;
  bool done; /* the fault has happened */
  uint64_t stream, open_id, offset;
  unsigned opens, sent;
  uint64_t resumed_at;
  uint32_t asked_version;
} source;

static void send_chunk(fake *f, const asked *a, source *s) {
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  reply.id = s->open_id;
  reply.stream = s->stream;
  reply.offset = s->offset;
  size_t size = SIZE - s->offset < CHUNK ? SIZE - s->offset : CHUNK;
  s->offset += size;
  reply.last = s->offset == SIZE;
  bool now = !s->done && s->sent == 4;
  s->sent++;
  if (now) s->done = s->what != OVERFLOW;
  if (now && s->what == WRONG_PLACE) reply.offset--;
  if (now && s->what == EARLY_END) reply.last = true;
  if (now && s->what == EMPTY_CHUNK) size = 0;
  if (now && s->what == WRONG_CHUNK) {
    reply.has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
    reply.body_digest = 4711;
  }
  fake_send(f, &reply, content + reply.offset, size);
  bool given_up = s->what == WRONG_PLACE || s->what == EARLY_END || s->what == EMPTY_CHUNK || s->what == WRONG_CHUNK;
  if (now && given_up) s->stream = 0; /* the client is about to close: nothing may be half on its way then (fake.c) */
}

static void send_end(fake *f, const asked *a, const source *s, PB(Code) code) {
  PB(Reply) reply = fake_reply_to(a, code);
  reply.id = s->open_id;
  reply.stream = s->stream;
  reply.last = true;
  fake_send(f, &reply, NULL, 0);
}

/* What happens instead of the fifth chunk; false: that chunk is sent. */
static bool fault_instead(fake *f, const asked *a, source *s) {
  if (s->done || s->sent != 4) return false;
  bool cut = s->what == CUT || s->what == GONE || s->what == REPLACED;
  if (cut) fake_drop_connections(f);
  if (s->what == LEASE) send_end(f, a, s, CODE(TIMED_OUT));
  if (s->what == DAMAGE) send_end(f, a, s, CODE(CORRUPT));
  s->done = cut || s->what == LEASE || s->what == DAMAGE || s->what == SILENCE;
  return s->done;
}

static void send_chunks(fake *f, const asked *a, source *s, unsigned credit) {
  if (s->what == OVERFLOW) credit = 100;
  while (credit-- > 0 && s->stream && s->offset < SIZE) {
    if (fault_instead(f, a, s)) s->stream = 0;
    if (s->stream) send_chunk(f, a, s);
  }
}

static void serve_reader(fake *f, const asked *a, void *user) {
  source *s = user;
  if (a->request->op_case == OP(STREAM_CREDIT) && a->request->stream_credit->stream == s->stream) {
    send_chunks(f, a, s, a->request->stream_credit->credit);
  }
  if (a->request->op_case == OP(PING)) fake_answer(f, a, CODE(OK));
  if (a->request->op_case == OP(GET)) {
    PB(Reply) large = fake_reply_to(a, CODE(TOO_LARGE));
    large.info = fake_info(content, SIZE, 6);
    fake_send(f, &large, NULL, 0);
  }
  if (a->request->op_case != OP(STREAM_OPEN)) return;
  s->opens++;
  s->asked_version = a->request->stream_open->version;
  s->resumed_at = a->request->stream_open->offset;
  if (s->what == BUSY_OPEN && s->opens == 1) {
    fake_answer(f, a, CODE(BUSY));
    return;
  }
  if (s->what == GONE && s->done) {
    fake_answer(f, a, CODE(NOT_FOUND));
    return;
  }
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  reply.info = fake_info(content, SIZE, 6);
  if (s->what == REPLACED && s->done) reply.info->digest ^= 1;
  if (s->what == WRONG_WHOLE) reply.info->digest ^= 1;
  reply.stream = s->stream = 10 + s->opens;
  s->open_id = a->request->id;
  s->offset = s->resumed_at;
  fake_send(f, &reply, NULL, 0);
  if (s->what == REPLACED && s->done) s->stream = 0; /* as above */
  send_chunks(f, a, s, a->request->stream_open->credit);
}

static int expected_of_reader(fault what) {
  switch (what) {
    case GONE:
    case REPLACED: return SDBC_NOT_FOUND;
    case DAMAGE: return SDBC_CORRUPT;
    case WRONG_PLACE:
    case EARLY_END:
    case OVERFLOW:
    case EMPTY_CHUNK: return SDBC_PROTOCOL;
    case WRONG_CHUNK:
    case WRONG_WHOLE: return SDBC_DAMAGED;
    case NONE:
    case CUT:
    case SILENCE:
    case LEASE:
    case BUSY_OPEN:
    case FAULTS: break;
  }
  return SDBC_OK;
}

START_TEST(reading_with_a_fault) {
  source s = {.what = (fault)_i};
  fill_content();
  fake *f = fake_start(serve_reader, &s);
  sdbc *client = s.what == SILENCE ? fake_connect_hasty(f) : fake_connect(f);
  sdbc_reader *reader;
  ck_assert_int_eq(sdbc_reader_open(client, "/big", 4, 0, 0, 0, &reader), SDBC_OK);
  ck_assert_uint_eq(sdbc_reader_info(reader)->version, 6);
  if (s.what == OVERFLOW) ck_assert_int_eq(sdbc_ping(client, NULL), SDBC_OK); /* lets everything arrive before anything is read */
  uint8_t *read = malloc(SIZE + 1);
  size_t at = 0, got = 1;
  int code = SDBC_OK;
  while (code == SDBC_OK && got > 0) {
    got = 0;
    code = sdbc_reader_read(reader, read + at, at == SIZE ? 1 : SIZE - at < 100000 ? SIZE - at : 100000, &got);
    at += got;
    ck_assert_uint_le(at, SIZE);
    ck_assert_uint_eq(sdbc_reader_offset(reader), at);
  }
  ck_assert_msg(code == expected_of_reader(s.what), "fault %d: %s: %s", _i, sdbc_strerror(code), sdbc_message(client));
  ck_assert_mem_eq(read, content, at); /* also before an error no wrong byte was handed out */
  if (code == SDBC_OK) ck_assert_uint_eq(at, SIZE);
  if (code != SDBC_OK) ck_assert_str_ne(sdbc_message(client), "");
  if (s.what == CUT || s.what == SILENCE || s.what == LEASE) {
    ck_assert_uint_ge(s.opens, 2);
    ck_assert_uint_eq(s.asked_version, 6);
    ck_assert_uint_gt(s.resumed_at, 0);
  }
  sdbc_reader_close(reader);
  free(read);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

START_TEST(a_large_get_goes_through_a_stream) {
  source s = {.what = CUT};
  fill_content();
  fake *f = fake_start(serve_reader, &s);
  sdbc *client = fake_connect(f);
  void *data;
  size_t size;
  sdbc_info info;
  ck_assert_int_eq(sdbc_get_alloc(client, "/big", 4, 0, &data, &size, &info), SDBC_OK);
  ck_assert_uint_eq(size, SIZE);
  ck_assert_mem_eq(data, content, SIZE);
  ck_assert_uint_eq(s.opens, 2);
  sdbc_free(data);
  char small[10];
  ck_assert_int_eq(sdbc_get(client, "/big", 4, 0, small, sizeof small, &size, &info), SDBC_SMALL_BUFFER);
  ck_assert_uint_eq(size, SIZE);
  sdbc_close(client);
  fake_stop(f);
}
END_TEST

/* --- Writing ------------------------------------------------------------------------------------------------------------------ */

typedef enum writing {
  WRITE_FINE,
  REFUSE_ONE,  /* a chunk is refused as BUSY, and those behind it therefore as INVALID */
  CUT_MIDWAY,  /* the connection is lost between chunks, once */
  LOSE_ANSWER, /* it is stored, and the commit's answer is lost */
  LOSE_COMMIT, /* the commit is lost with the connection, once: nothing is stored */
  NO_SPACE,
  WRONG_COUNT,
  WRITINGS
} writing;

typedef struct sink {
  writing what;
  bool done;
  uint8_t *bytes;
  size_t size;
  bool open, stored;
  unsigned opens, aborts;
  uint8_t tokens[4][16];
} sink;

static void take_chunk(fake *f, const asked *a, sink *s) {
  const PB(UploadChunk) *chunk = a->request->upload_chunk;
  bool third = s->size == 2 * CHUNK && !s->done;
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  if (third && s->what == CUT_MIDWAY) {
    s->done = true;
    s->open = false;
    fake_drop_connections(f);
    return;
  }
  ck_assert_uint_eq(chunk->digest, sdbc_crc32c(0, a->body, a->size));
  if (!s->open) {
    fake_answer(f, a, CODE(NOT_FOUND));
  } else if (chunk->offset != s->size) {
    fake_answer(f, a, CODE(INVALID));
  } else if (third && s->what == REFUSE_ONE) {
    s->done = true;
    fake_answer(f, a, CODE(BUSY));
  } else if (third && s->what == NO_SPACE) {
    fake_answer(f, a, CODE(FULL));
  } else {
    ck_assert_uint_le(s->size + a->size, SIZE);
    memcpy(s->bytes + s->size, a->body, a->size);
    s->size += a->size;
    reply.offset = s->size - (third && s->what == WRONG_COUNT);
    reply.credit = 4;
    fake_send(f, &reply, NULL, 0);
  }
}

static void take_commit(fake *f, const asked *a, sink *s) {
  bool lose = !s->done && (s->what == LOSE_ANSWER || s->what == LOSE_COMMIT);
  if (!s->open) {
    fake_answer(f, a, CODE(NOT_FOUND));
    return;
  }
  s->open = false;
  s->done = true;
  s->stored = !(lose && s->what == LOSE_COMMIT);
  if (lose) {
    fake_drop_connections(f);
    return;
  }
  ck_assert_uint_eq(a->request->upload_commit->digest, sdbc_crc32c(0, s->bytes, s->size));
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  reply.info = fake_info(s->bytes, s->size, 9);
  reply.created = true;
  fake_send(f, &reply, NULL, 0);
}

static void serve_writer(fake *f, const asked *a, void *user) {
  sink *s = user;
  PB(Reply) reply = fake_reply_to(a, CODE(OK));
  switch ((int)a->request->op_case) {
    case OP(UPLOAD_OPEN):
      memcpy(s->tokens[s->opens % 4], a->request->upload_open->token.data, 16);
      s->opens++;
      s->open = true;
      s->size = 0;
      reply.stream = s->opens;
      reply.credit = 4;
      fake_send(f, &reply, NULL, 0);
      break;
    case OP(UPLOAD_CHUNK): take_chunk(f, a, s); break;
    case OP(UPLOAD_COMMIT): take_commit(f, a, s); break;
    case OP(STAT):
      if (s->stored) reply.info = fake_info(s->bytes, s->size, 9);
      if (!s->stored) reply = fake_reply_to(a, CODE(NOT_FOUND));
      fake_send(f, &reply, NULL, 0);
      break;
    default: s->aborts += a->request->op_case == OP(UPLOAD_ABORT);
  }
}

static int expected_of_writer(writing what) {
  if (what == CUT_MIDWAY || what == LOSE_COMMIT) return SDBC_TIMEOUT;
  if (what == NO_SPACE) return SDBC_FULL;
  return what == WRONG_COUNT ? SDBC_PROTOCOL : SDBC_OK;
}

START_TEST(writing_with_a_fault) {
  sink s = {.what = (writing)_i, .bytes = malloc(SIZE)};
  fill_content();
  fake *f = fake_start(serve_writer, &s);
  sdbc *client = fake_connect(f);
  sdbc_writer *writer;
  sdbc_commit commit = {0};
  ck_assert_int_eq(sdbc_writer_open(client, "/big", 4, SDBC_UNKNOWN_SIZE, NULL, &writer), SDBC_OK);
  int code = SDBC_OK;
  for (size_t at = 0; at < SIZE && code == SDBC_OK; at += 60000) code = sdbc_writer_write(writer, content + at, 60000);
  if (code == SDBC_OK) {
    code = sdbc_writer_commit(writer, &commit);
  } else {
    sdbc_writer_abort(writer);
  }
  ck_assert_msg(code == expected_of_writer(s.what), "fault %d: %s: %s", _i, sdbc_strerror(code), sdbc_message(client));
  if (code == SDBC_OK) {
    ck_assert_uint_eq(s.size, SIZE);
    ck_assert_mem_eq(s.bytes, content, SIZE);
    ck_assert_uint_eq(commit.info.size, SIZE);
    ck_assert(commit.unknown == (s.what == LOSE_ANSWER));
  } else {
    ck_assert_str_ne(sdbc_message(client), "");
  }
  sdbc_close(client);
  fake_stop(f);
  free(s.bytes);
}
END_TEST

START_TEST(a_large_insert_begins_again) {
  sink s = {.what = (writing)_i, .bytes = malloc(SIZE)};
  fill_content();
  fake *f = fake_start(serve_writer, &s);
  sdbc *client = fake_connect(f);
  sdbc_commit commit = {0};
  int code = sdbc_insert(client, "/big", 4, content, SIZE, NULL, &commit);
  int expected = expected_of_writer(s.what);
  ck_assert_msg(code == (expected == SDBC_TIMEOUT ? SDBC_OK : expected), "fault %d: %s", _i, sdbc_message(client));
  if (code == SDBC_OK) {
    ck_assert_mem_eq(s.bytes, content, SIZE);
    ck_assert_uint_eq(s.opens, expected == SDBC_TIMEOUT ? 2 : 1);
    if (s.opens == 2) ck_assert_mem_eq(s.tokens[0], s.tokens[1], 16);
  }
  sdbc_close(client);
  fake_stop(f);
  free(s.bytes);
}
END_TEST

START_TEST(sizes_are_kept_to) {
  sink s = {.bytes = malloc(SIZE)};
  fake *f = fake_start(serve_writer, &s);
  sdbc *client = fake_connect(f);
  sdbc_writer *writer;
  ck_assert_int_eq(sdbc_writer_open(client, "/big", 4, 100, NULL, &writer), SDBC_OK);
  ck_assert_int_eq(sdbc_writer_write(writer, content, 99), SDBC_OK);
  ck_assert_int_eq(sdbc_writer_commit(writer, NULL), SDBC_INVALID);
  ck_assert_int_eq(sdbc_writer_open(client, "/big", 4, SDBC_UNKNOWN_SIZE, NULL, &writer), SDBC_OK);
  ck_assert_int_eq(sdbc_writer_commit(writer, NULL), SDBC_OK);
  ck_assert_uint_eq(s.size, 0);
  ck_assert_int_eq(sdbc_writer_open(client, "/big", 4, SDBC_UNKNOWN_SIZE, NULL, &writer), SDBC_OK);
  sdbc_writer_abort(writer);
  ck_assert_int_eq(sdbc_stat(client, "/big", 4, 0, NULL), SDBC_OK);
  ck_assert_uint_eq(s.aborts, 2);
  sdbc_writer_abort(NULL);
  sdbc_reader_close(NULL);
  sdbc_close(client);
  fake_stop(f);
  free(s.bytes);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("transfers");
  TCase *reading = tcase_create("reading");
  tcase_set_timeout(reading, 60);
  tcase_add_loop_test(reading, reading_with_a_fault, 0, FAULTS);
  tcase_add_test(reading, a_large_get_goes_through_a_stream);
  suite_add_tcase(suite, reading);
  TCase *write = tcase_create("writing");
  tcase_set_timeout(write, 60);
  tcase_add_loop_test(write, writing_with_a_fault, 0, WRITINGS);
  tcase_add_loop_test(write, a_large_insert_begins_again, 0, WRITINGS);
  tcase_add_test(write, sizes_are_kept_to);
  suite_add_tcase(suite, write);
  return run_suite(suite);
}
