/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* internal.h - what the parts of the client share.
 *
 * A request lives in a slot of its handle until it is finished, and stands in exactly one of three lists:
 *
 *     ci_start() --> queued --sent--> sent --reply--> finished: done(), slot free
 *                      ^                |
 *                      |                | timeout, lost connection, BUSY, STOPPING, conflict
 *                      '---- waiting <--'
 *
 * `queued` and `sent` are in the order of their deadlines, because every entry of a list gets the same time. A request's id is
 * (serial << 16 | slot): finding it costs nothing, and a reply to what the slot held before is known as stale.
 *
 * Everything that waits does so in ci_step(), which handles one thing at a time: one message, one expiry or one sleep. A reply's
 * memory (arena and body) is valid until the next message is received, so whoever is woken by a step can use it without a copy.
 *
 * Names: ci_ is visible among these files only.
 */
#ifndef SDBC_INTERNAL_H
#define SDBC_INTERNAL_H

#include <dcf_db.pb-c.h>
#include <stdarg.h>
#include <zmq.h>

#include "sdbc/sdbc.h"

typedef Dcf__Db__V1__Request ci_pb_request;
typedef Dcf__Db__V1__Reply ci_pb_reply;

/* What a peer can make us hold: a header, one frame, and the unpacked form of a header. */
#define CI_MAX_HEADER (2u << 20)
#define CI_MAX_FRAME ((2u << 20) + (64u << 10))
#define CI_MAX_UNPACKED ((size_t)32 << 20)

#define CI_MESSAGE 512u      /* bytes of a failure's sentence */
#define CI_CHUNK 262144u     /* bytes of a stream's chunk, both ways */
#define CI_READER_CREDIT 8u  /* chunks of a reader on their way */
#define CI_WRITER_CREDIT 16u /* most chunks of a writer without an answer */
#define CI_SPARE_SLOTS 512u  /* beyond max_in_flight: for calls that wait, and uploads */
#define CI_TOKEN 16u
#define CI_FOREVER INT64_MAX

/* --- Unpacking: arena.c ------------------------------------------------------------------------------------------------------- */

/* Memory for one unpacked message at a time: freed all at once, and bounded, whatever the peer sends. */
typedef struct ci_block ci_block;
typedef struct ci_arena {
  ci_block *blocks; /* newest first; the last one is kept between messages */
  size_t used;      /* of the newest block */
  size_t total;     /* of all blocks */
  ProtobufCAllocator allocator;
} ci_arena;

void ci_arena_init(ci_arena *arena);
void ci_arena_reset(ci_arena *arena);
void ci_arena_free(ci_arena *arena);

/* --- Requests ----------------------------------------------------------------------------------------------------------------- */

typedef struct ci_reply {
  const ci_pb_reply *head;
  const uint8_t *body; /* not NULL */
  size_t size;
  uint32_t digest; /* CRC32C of the body, checked against the reply's */
} ci_reply;

typedef enum ci_state { CI_FREE = 0, CI_QUEUED, CI_SENT, CI_WAITING } ci_state;

typedef struct ci_request ci_request;
/* Told once how a request ended. `reply` is NULL when there is none; the handle's sentence is set when `code` is not SDBC_OK. */
typedef void ci_done(sdbc *h, ci_request *r, int code, const ci_reply *reply);

struct ci_request {
  ci_request *next, *prev;
  uint64_t id;
  int64_t due; /* queued: must be sent by; sent: must be answered by; waiting: to be queued at */
  ci_state state;
  unsigned attempts; /* sent so far */
  bool once;         /* never sent again: it depends on a stream */
  bool unknown;      /* an attempt was sent, and what became of it is not known */
  bool has_body;
  bool submitted; /* by sdbc_submit_*(): counts against the bounds */
  zmq_msg_t header, body;
  ci_done *done;
  void *context; /* of the one who waits: a waiter, a writer */
  sdbc_callback callback;
  void *user;
};

typedef struct ci_list {
  ci_request *head, *tail;
} ci_list;

/* --- The socket and its monitor: link.c --------------------------------------------------------------------------------------- */

/* A socket and the news about its connection. libzmq connects again by itself, but not after a peer broke the transport's rules: so
 * a link whose connection was lost is renewed. */
typedef struct ci_link {
  void *context;
  bool shared; /* the context is the process's own */
  void *socket, *monitor;
} ci_link;

typedef struct ci_news {
  bool connected, lost;
} ci_news;

/* Any of the next returns SDBC_OK or a code with a sentence in `message` (CI_MESSAGE bytes). */
int ci_link_open(ci_link *link, void *user_context, int type, char *message);
int ci_link_connect(ci_link *link, const char *endpoint, char *message);
void ci_link_close(ci_link *link);
/* Puts a new socket in the place of the old one, subscribed to `prefix` if it is one for events; what the old one still had to send
 * or to receive is forgotten. False, and nothing changed, when there is none to be had. */
bool ci_link_renew(ci_link *link, const char *endpoint, const void *prefix, size_t prefix_len);
/* Reads what the monitor has. */
ci_news ci_link_news(ci_link *link);
/* Waits until the socket can be read, there is news, or `until` comes. SDBC_OK, or SDBC_CLOSED when the context is gone. */
int ci_link_wait(ci_link *link, int64_t until);

/* Writes the events endpoint that belongs to `endpoint`; false when none can be derived. */
bool ci_events_endpoint(const char *endpoint, char *out, size_t len);

int64_t ci_now_ms(void);
int64_t ci_now_us(void);

/* --- The handle --------------------------------------------------------------------------------------------------------------- */

struct sdbc {
  ci_link link;
  char *endpoint, *events; /* events: NULL when none is known */
  sdbc_options options;
  bool in_callback;
  bool closing; /* nothing is begun any more */

  ci_request *slots;
  uint32_t slot_count, slots_used; /* those from slots_used on were never used */
  ci_request *free_slots;          /* linked by next */
  uint64_t serial;
  ci_list queued, sent, waiting;

  size_t in_flight; /* submitted requests, and their contents */
  uint64_t in_flight_bytes;
  size_t completed; /* callbacks called so far; wraps */

  zmq_msg_t head_frame, body_frame; /* of the last message */
  ci_arena arena;                   /* of the last message */
  bool connected;                   /* requests may be sent */
  bool lost;                        /* the connection went away, which has still to be acted on */
  bool met_garbage;                 /* so has something that is no reply */

  sdbc_reader *readers;
  uint64_t sequence, epoch;
  uint8_t random[256]; /* random bytes, not used yet from random_used on */
  size_t random_used;
  char message[CI_MESSAGE];
};

/* --- exchange.c --------------------------------------------------------------------------------------------------------------- */

/* A free slot with an id, or NULL. It is started or released next. */
ci_request *ci_take(sdbc *h);
void ci_release(sdbc *h, ci_request *r);
/* Queues it and sends what can be sent. `done` must be set. */
void ci_start(sdbc *h, ci_request *r);
/* Handles one thing: a message, an expiry, a lost connection; or waits for one until `until`. SDBC_OK, or SDBC_CLOSED when the
 * context is gone, with everything finished. */
int ci_step(sdbc *h, int64_t until);
/* Ends every request with `code`; nothing is begun on the handle any more. */
void ci_finish_all(sdbc *h, int code);
/* Lets requests that would tell `context` tell nobody. */
void ci_forget(sdbc *h, const void *context);
/* Serves the handle for `ms`. */
int ci_pause(sdbc *h, uint32_t ms);

/* Sends a request nobody waits for: an answer is skipped. False when it cannot be sent now. */
bool ci_send_only(sdbc *h, ci_pb_request *request);

typedef struct ci_call_options {
  const void *body; /* NULL: no body frame */
  size_t size;
  bool once;
  bool *unknown; /* NULL, or where to put ci_request.unknown */
} ci_call_options;

/* Sends and waits for the reply, which is valid until the next step. `options` may be NULL. `reply` is set whenever the service
 * answered, also with an error, else its head is NULL. */
int ci_call(sdbc *h, ci_pb_request *request, const ci_call_options *options, ci_reply *reply);

/* How long a retry after `attempts` waits. */
uint32_t ci_backoff(const sdbc *h, unsigned attempts);
bool ci_can_retry(int code);

/* --- wire.c ------------------------------------------------------------------------------------------------------------------- */

/* Packs into r->header and copies the body, if it is not NULL, into r->body. False: out of memory, nothing to release. */
bool ci_pack(sdbc *h, ci_request *r, ci_pb_request *request, const void *body, size_t size);
/* Unpacks the handle's frames and checks the body. SDBC_OK, SDBC_PROTOCOL, SDBC_DAMAGED (`reply` is then set as well). */
int ci_unpack(sdbc *h, bool has_body, ci_reply *reply);
/* The code of a reply. */
int ci_code(const ci_pb_reply *head);
/* False when it is missing or malformed. */
bool ci_info(const Dcf__Db__V1__Info *from, sdbc_info *to);

/* --- error.c ------------------------------------------------------------------------------------------------------------------ */

/* Remembers the sentence and returns the code. */
__attribute__((format(printf, 3, 4))) int ci_fail(sdbc *h, int code, const char *format, ...);
__attribute__((format(printf, 2, 3))) void ci_say(char *message, const char *format, ...);
/* Takes over a sentence that came from the peer: one line, cut. */
void ci_copy_sentence(char *message, const char *from);

/* --- client.c ----------------------------------------------------------------------------------------------------------------- */

/* SDBC_OK when a call that waits may begin: forgets the last sentence. */
int ci_enter(sdbc *h);
int ci_check_path(sdbc *h, const void *path, size_t path_len);
/* Reads options of any older size; fills a token when asked for and none is given. */
int ci_put_options(sdbc *h, const sdbc_put_options *from, sdbc_put_options *to, uint8_t token[CI_TOKEN]);
/* SDBC_OK, or SDBC_PROTOCOL. */
int ci_commit(sdbc *h, const ci_pb_reply *head, sdbc_commit *commit);
int ci_protocol(sdbc *h, const char *what);

/* --- documents.c: what the calls that wait and the submitted ones share ------------------------------------------------------- */

void ci_fill_insert(ci_pb_request *request, Dcf__Db__V1__Insert *insert, const void *path, size_t path_len, const void *data,
                    size_t len, const sdbc_put_options *options);
void ci_fill_delete(ci_pb_request *request, Dcf__Db__V1__Delete *message, const void *path, size_t path_len,
                    const sdbc_put_options *options);
void ci_fill_get(ci_pb_request *request, Dcf__Db__V1__Get *get, const void *path, size_t path_len, uint32_t version);
void ci_fill_stat(ci_pb_request *request, Dcf__Db__V1__Stat *stat, const void *path, size_t path_len, uint32_t version);
/* Checks that a get's reply holds a whole content. */
int ci_check_whole(sdbc *h, const ci_reply *reply, sdbc_info *info);
/* What a delete's outcome means, when an earlier attempt is `unknown`. */
int ci_delete_outcome(sdbc *h, int code, bool unknown, const ci_reply *reply, sdbc_commit *commit);

/* --- reader.c ----------------------------------------------------------------------------------------------------------------- */

/* A message that belongs to a stream and to no request. `code` is that of ci_unpack(). */
void ci_reader_accept(sdbc *h, const ci_reply *reply, int code);
void ci_readers_lost(sdbc *h);

#endif
