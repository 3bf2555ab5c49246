/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sdbc/sdbc.h - the C client of StreamDB's service.
 *
 *     sdbc *client;
 *     sdbc_connect("tcp://127.0.0.1:7600", NULL, &client);
 *     sdbc_insert(client, "/a/b", 4, "hello", 5, NULL, NULL);
 *     sdbc_get_alloc(client, "/a/b", 4, SDBC_CURRENT, &data, &size, NULL);
 *     sdbc_free(data);
 *     sdbc_close(client);
 *
 * Caveats, first:
 *   - sdbc_connect() does not wait for the service. The first call does, for at most `connect_timeout_ms`.
 *   - A write whose reply never came may have been carried out. Inside one call that is harmless: every retry carries the write
 *     token of the first attempt, so the document gets one version. After the call has failed with SDBC_TIMEOUT or
 *     SDBC_UNREACHABLE, a new call is a new write, unless you give both the same token. The service knows a token as long as the
 *     version it made is kept.
 *   - Deletes have no token. A retry that finds nothing, after an attempt whose outcome is not known, reports success with
 *     `sdbc_commit.unknown` set: there is no document now, but it may be somebody else who deleted it.
 *   - Contents above SDBC_MAX_BODY travel as streams: a call that moves one takes longer than a request timeout, which counts from
 *     one chunk to the next.
 *   - Events are a hint. They can be lost on the way, and sdbc_watch_next() says so with SDBC_GAP.
 *   - A handle does not survive fork(): the child must not touch it.
 *
 * Thread rule: a handle, with its cursors, readers and writers, belongs to one thread at a time, because ZeroMQ's sockets do. Open
 * one handle a thread; they share one I/O thread. A watch is a handle of its own. Functions without a handle may be called by any
 * thread. Signals do not end a wait: EINTR is waited through.
 * Sizes are in bytes, times in milliseconds since 1970 (UTC), unless a name says otherwise. Paths are 1 to 1,024 arbitrary bytes.
 * Errors: functions return SDBC_OK (0) or a negative code, and sdbc_message() has the sentence. On an error outputs are untouched.
 * Any call that talks to the service may answer, besides what it lists: SDBC_TIMEOUT, SDBC_UNREACHABLE, SDBC_BUSY, SDBC_STOPPING,
 * SDBC_PROTOCOL, SDBC_IO, SDBC_INTERNAL, SDBC_NO_MEMORY, and SDBC_INVALID for arguments that break the rules written here.
 */
#ifndef SDBC_SDBC_H
#define SDBC_SDBC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SDBC_API __attribute__((visibility("default")))
#define SDBC_MUST_USE __attribute__((warn_unused_result))
#else
#define SDBC_API
#define SDBC_MUST_USE
#endif

#define SDBC_VERSION_STRING "1.0.0"
#define SDBC_DEFAULT_ENDPOINT "tcp://127.0.0.1:7600"
#define SDBC_MAX_PATH 1024u          /* bytes of a path */
#define SDBC_MAX_BODY 1048576u       /* largest content in one message; above it a stream is used */
#define SDBC_MAX_DOCUMENT 268435456u /* bytes of a document, unless the service says less */

/* --- Errors ------------------------------------------------------------------------------------------------------------------- */

/* name, value, DCF's status code, sentence */
#define SDBC_ERRORS(X)                                                                                                             \
  X(SDBC_OK, 0, 0, "done")                                                                                                         \
  X(SDBC_TIMEOUT, -1, -1, "the service did not answer in time")                                                                    \
  X(SDBC_NOT_FOUND, -2, -2, "there is no such document or version")                                                                \
  X(SDBC_INVALID, -3, -3, "an argument is not valid")                                                                              \
  X(SDBC_INTERNAL, -4, -4, "the service broke an internal rule; please report this")                                               \
  X(SDBC_CONFLICT, -5, -5, "the transaction met another one")                                                                      \
  X(SDBC_UNREACHABLE, -6, -1, "the service cannot be reached")                                                                     \
  X(SDBC_BUSY, -7, -1, "the service is busy")                                                                                      \
  X(SDBC_STOPPING, -8, -1, "the service is shutting down")                                                                         \
  X(SDBC_CONDITION, -9, -3, "the expected version is not the current one")                                                         \
  X(SDBC_TOO_LARGE, -10, -3, "the document is larger than the service accepts")                                                    \
  X(SDBC_CORRUPT, -11, -4, "stored data is damaged")                                                                               \
  X(SDBC_DAMAGED, -12, -4, "the content changed on its way: its digest does not match")                                            \
  X(SDBC_FULL, -13, -4, "the service has no space left for writing; deletes still work")                                           \
  X(SDBC_READ_ONLY, -14, -4, "the database is open for reading only")                                                              \
  X(SDBC_IO, -15, -4, "the storage of the service failed")                                                                         \
  X(SDBC_RESET, -16, -3, "the epoch is of another history of the database")                                                        \
  X(SDBC_UNSUPPORTED, -17, -3, "the service does not know this operation")                                                         \
  X(SDBC_PROTOCOL, -18, -4, "the peer does not speak StreamDB's protocol")                                                         \
  X(SDBC_NO_MEMORY, -19, -4, "out of memory")                                                                                      \
  X(SDBC_SMALL_BUFFER, -20, -3, "the buffer is too small for the document")                                                        \
  X(SDBC_END, -21, -2, "there is nothing further")                                                                                 \
  X(SDBC_AGAIN, -22, -1, "nothing is there yet, or too much is in flight")                                                         \
  X(SDBC_GAP, -23, -1, "events were lost")                                                                                         \
  X(SDBC_CLOSED, -24, -1, "the handle was closed before the answer came")

enum {
#define SDBC_X(name, value, status, text) name = value,
  SDBC_ERRORS(SDBC_X)
#undef SDBC_X
};

/* One sentence for a code; static, never NULL. */
SDBC_API const char *sdbc_strerror(int code);

/* The status by which DCF nodes know an error: 0 success, -1 io (worth a retry), -2 not found, -3 invalid input, -4 internal,
 * -5 transaction conflict (worth a retry). */
SDBC_API int sdbc_dcf_status(int code);

/* --- Connection --------------------------------------------------------------------------------------------------------------- */

typedef struct sdbc sdbc; /* a client of one service */

/* Set with sdbc_options_init(), then change what you like. */
typedef struct sdbc_options {
  size_t size;                  /* sizeof(sdbc_options) */
  uint32_t connect_timeout_ms;  /* 5,000: how long a call waits for a connection before it answers SDBC_UNREACHABLE */
  uint32_t request_timeout_ms;  /* 10,000: how long one attempt waits for its reply */
  uint32_t retries;             /* 3: attempts after the first; only after a timeout, a lost connection, BUSY, STOPPING or a
                                   conflict */
  uint32_t backoff_ms;          /* 500: pause before the first retry, doubled before each further one; the service may ask for
                                   more */
  uint32_t max_in_flight;       /* 512: requests of sdbc_submit_*() without an answer; at most 65,000 */
  uint64_t max_in_flight_bytes; /* 8 MB: contents of those requests */
  const char *events;           /* NULL: where events come from; by default the endpoint with its port plus one. Copied */
  void *zmq_context;            /* NULL: one context for all handles of the process; else yours, which must outlive the handle */
  char *message;                /* where sdbc_connect() puts its sentence when it fails; may be NULL */
  size_t message_size;
} sdbc_options;

/* `size` is sizeof(sdbc_options), so that a program and a newer library agree about what is set. */
SDBC_API void sdbc_options_init(sdbc_options *options, size_t size);

/* Makes a client of the service at `endpoint` ("tcp://HOST:PORT", "ipc://FILE"). NULL: SDBC_DEFAULT_ENDPOINT. `options` NULL: the
 * defaults. Connects in the background, and again whenever the connection is lost.
 * SDBC_INVALID (endpoint, options), SDBC_NO_MEMORY. */
SDBC_API SDBC_MUST_USE int sdbc_connect(const char *endpoint, const sdbc_options *options, sdbc **client);

/* Closes the client and what it has under way: callbacks that are still owed are called with SDBC_CLOSED. Cursors, readers and
 * writers must be closed before. Writes without an answer may or may not be carried out. Takes NULL. */
SDBC_API void sdbc_close(sdbc *client);

/* The sentence of the most recent failure on this handle; empty when there was none. The handle's; valid until its next call. */
SDBC_API const char *sdbc_message(const sdbc *client);

/* The commit sequence number and epoch that the last reply carried; 0 before the first. Either pointer may be NULL. */
SDBC_API void sdbc_position(const sdbc *client, uint64_t *sequence, uint64_t *epoch);

typedef struct sdbc_pong {
  char server[64];   /* name and version of the service; cut, NUL-terminated */
  uint64_t sequence; /* last visible commit */
  uint64_t epoch;
  uint64_t round_trip_us; /* microseconds from request to reply, retries included */
} sdbc_pong;

/* Asks whether the service answers. `pong` may be NULL. */
SDBC_API SDBC_MUST_USE int sdbc_ping(sdbc *client, sdbc_pong *pong);

/* On return every commit acknowledged so far is durable. */
SDBC_API SDBC_MUST_USE int sdbc_flush(sdbc *client);

/* Calls `each` with every figure the service tells about itself. `name` is valid during the call only. */
SDBC_API SDBC_MUST_USE int sdbc_statistics(sdbc *client, void (*each)(void *user, const char *name, uint64_t value), void *user);

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

#define SDBC_CURRENT 0u     /* as a version: the current one */
#define SDBC_ANY UINT32_MAX /* as an expectation: no condition */
#define SDBC_ABSENT 0u      /* as an expectation: there must be no document at the path */

typedef struct sdbc_info {
  uint8_t id[16];   /* UUID v7 of the document */
  uint32_t version; /* of what was read */
  uint32_t oldest;  /* oldest version that can be read; valid for the current version */
  uint64_t size;    /* of the whole content */
  uint64_t time_ms; /* when the version was made */
  uint32_t digest;  /* CRC32C of the whole content */
} sdbc_info;

typedef enum sdbc_durability {
  SDBC_DEFAULT = 0,  /* what the service is configured to */
  SDBC_DURABLE = 1,  /* answered once the commit is on the device */
  SDBC_BUFFERED = 2, /* answered once it is visible; on the device within the service's interval */
  SDBC_NONE = 3      /* answered once it is visible; on the device with the next flush or durable commit */
} sdbc_durability;

typedef struct sdbc_put_options {
  size_t size;                /* sizeof(sdbc_put_options) */
  sdbc_durability durability; /* SDBC_DEFAULT */
  uint32_t expect;            /* SDBC_ANY; SDBC_ABSENT; or the version that must be current: else SDBC_CONDITION */
  const uint8_t *token;       /* NULL: a random one for each call; or 16 bytes of yours, to make a retry of yours harmless. Not used
                                 by deletes */
  uint64_t epoch;             /* 0; or the epoch under which `expect` was read: SDBC_RESET when the database has another history */
} sdbc_put_options;
SDBC_API void sdbc_put_options_init(sdbc_put_options *options, size_t size);

typedef struct sdbc_commit {
  uint64_t sequence;       /* of the commit; rising */
  uint64_t epoch;          /* of the database */
  sdbc_info info;          /* of the version made; deleted: of the last one */
  sdbc_durability reached; /* what is true of the commit now */
  bool created;            /* a new document came into being */
  bool repeated;           /* the write token was known: the version had been made before */
  bool unknown;            /* an attempt without a reply may have done this, or somebody else: the state is as asked for; `sequence`
                              and `info` are of what is there now (deleted: zero) */
} sdbc_commit;

/* Makes `data` the current version of the document at `path`. `data` may be NULL when `len` is 0; it is copied. `options` and
 * `commit` may be NULL. Retries are harmless (see the caveats). Above SDBC_MAX_BODY the content is uploaded, from the start again
 * at a retry. SDBC_CONDITION, SDBC_TOO_LARGE, SDBC_FULL, SDBC_READ_ONLY, SDBC_RESET, SDBC_DAMAGED, SDBC_CORRUPT. */
SDBC_API SDBC_MUST_USE int sdbc_insert(sdbc *client, const void *path, size_t path_len, const void *data, size_t len,
                                       const sdbc_put_options *options, sdbc_commit *commit);

/* Deletes the document with all its versions. SDBC_NOT_FOUND when there is none (but see the caveats), SDBC_CONDITION,
 * SDBC_READ_ONLY, SDBC_RESET, SDBC_CORRUPT. */
SDBC_API SDBC_MUST_USE int sdbc_delete(sdbc *client, const void *path, size_t path_len, const sdbc_put_options *options,
                                       sdbc_commit *commit);

/* Copies the content of a version (SDBC_CURRENT, or a number) into `buf`. *size is set to the content's size, also when the answer
 * is SDBC_SMALL_BUFFER. `info` may be NULL. SDBC_NOT_FOUND, SDBC_SMALL_BUFFER, SDBC_CORRUPT, SDBC_DAMAGED. */
SDBC_API SDBC_MUST_USE int sdbc_get(sdbc *client, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap,
                                    size_t *size, sdbc_info *info);

/* The same into memory of the library, released with sdbc_free(). An empty document gives a pointer as well. */
SDBC_API SDBC_MUST_USE int sdbc_get_alloc(sdbc *client, const void *path, size_t path_len, uint32_t version, void **data,
                                          size_t *size, sdbc_info *info);
/* Releases what sdbc_get_alloc() gave. Takes NULL. Any thread. */
SDBC_API void sdbc_free(void *p);

/* Copies at most `len` bytes from `offset`; *got says how many: less only at the end, 0 at or beyond it. All of one version.
 * SDBC_NOT_FOUND, SDBC_CORRUPT, SDBC_DAMAGED. */
SDBC_API SDBC_MUST_USE int sdbc_get_range(sdbc *client, const void *path, size_t path_len, uint32_t version, uint64_t offset,
                                          void *buf, size_t len, size_t *got, sdbc_info *info);

/* What is known of a version, without its content. SDBC_NOT_FOUND, SDBC_CORRUPT. */
SDBC_API SDBC_MUST_USE int sdbc_stat(sdbc *client, const void *path, size_t path_len, uint32_t version, sdbc_info *info);

/* The readable versions, newest first, at most `cap`; *count is how many there are. SDBC_NOT_FOUND, SDBC_CORRUPT. */
SDBC_API SDBC_MUST_USE int sdbc_versions(sdbc *client, const void *path, size_t path_len, sdbc_info *infos, size_t cap,
                                         size_t *count);

/* --- Search ------------------------------------------------------------------------------------------------------------------- */

typedef struct sdbc_entry {
  const uint8_t *path; /* the page's or cursor's; valid until it is freed, or the cursor's next call */
  size_t path_len;
  sdbc_info info; /* zero unless infos were asked for */
} sdbc_entry;

typedef struct sdbc_page sdbc_page;

/* One page of the paths that begin with `prefix` (0 bytes: all), in byte order, behind `after` (0 bytes: from the first). `limit`
 * 0: 1,000; the service gives at most 10,000 and may give fewer. `infos`: fill sdbc_entry.info. The page is released with
 * sdbc_page_free(); it does not need the client any more. SDBC_CORRUPT. */
SDBC_API SDBC_MUST_USE int sdbc_search(sdbc *client, const void *prefix, size_t prefix_len, const void *after, size_t after_len,
                                       uint32_t limit, bool infos, sdbc_page **page);
SDBC_API size_t sdbc_page_count(const sdbc_page *page);
/* NULL beyond the last. The page's; valid until it is freed. */
SDBC_API const sdbc_entry *sdbc_page_entry(const sdbc_page *page, size_t index);
/* Whether nothing lies behind this page. Else: search again, after its last path. */
SDBC_API bool sdbc_page_last(const sdbc_page *page);
/* Takes NULL. */
SDBC_API void sdbc_page_free(sdbc_page *page);

typedef struct sdbc_cursor sdbc_cursor;

/* Walks the same paths page by page, `page_size` (0: 1,000) at a time. Each page is in the state of its moment: paths that come and
 * go meanwhile may be missing or not, others are met exactly once. Asks the service at the first sdbc_cursor_next(). */
SDBC_API SDBC_MUST_USE int sdbc_cursor_open(sdbc *client, const void *prefix, size_t prefix_len, const void *after,
                                            size_t after_len, uint32_t page_size, bool infos, sdbc_cursor **cursor);
/* SDBC_OK, SDBC_END behind the last, SDBC_CORRUPT. After another error the same call tries again at the same place. */
SDBC_API SDBC_MUST_USE int sdbc_cursor_next(sdbc_cursor *cursor, sdbc_entry *entry);
/* Takes NULL. */
SDBC_API void sdbc_cursor_close(sdbc_cursor *cursor);

/* --- Streams ------------------------------------------------------------------------------------------------------------------ */

typedef struct sdbc_reader sdbc_reader;
typedef struct sdbc_writer sdbc_writer;

#define SDBC_UNKNOWN_SIZE UINT64_MAX

/* Reads a part of one version piece by piece: `length` bytes from `offset`; 0: to the end. Holds a few chunks of 256 KB. Each
 * chunk's digest is checked, and the whole content's when it is read entirely. When the connection is lost, reading goes on at its
 * place and version. SDBC_NOT_FOUND, SDBC_CORRUPT; SDBC_INVALID when `offset` is beyond the end. */
SDBC_API SDBC_MUST_USE int sdbc_reader_open(sdbc *client, const void *path, size_t path_len, uint32_t version, uint64_t offset,
                                            uint64_t length, sdbc_reader **reader);
/* The version that is read. The reader's. */
SDBC_API const sdbc_info *sdbc_reader_info(const sdbc_reader *reader);
/* Copies at most `len` bytes; *got is 0 only at the end (or when `len` is). SDBC_CORRUPT, SDBC_DAMAGED; SDBC_NOT_FOUND when the
 * version was dropped while the connection was lost. */
SDBC_API SDBC_MUST_USE int sdbc_reader_read(sdbc_reader *reader, void *buf, size_t len, size_t *got);
/* The same without a copy: *data points to the next *size bytes, the reader's, valid until its next call. *size 0 means the end. */
SDBC_API SDBC_MUST_USE int sdbc_reader_next(sdbc_reader *reader, const void **data, size_t *size);
/* Where in the document the next read begins. */
SDBC_API uint64_t sdbc_reader_offset(const sdbc_reader *reader);
/* Takes NULL. */
SDBC_API void sdbc_reader_close(sdbc_reader *reader);

/* Writes one document piece by piece in constant memory. `size_hint` is the exact size if it is known (committing another one is
 * SDBC_INVALID), else SDBC_UNKNOWN_SIZE. Nothing is visible before sdbc_writer_commit(). When the connection is lost, or nothing is
 * written for longer than the service's lease (30 s), the upload is lost: the next call answers SDBC_TIMEOUT, and writing begins
 * again with a new writer.
 * SDBC_TOO_LARGE, SDBC_FULL, SDBC_READ_ONLY, SDBC_CONDITION, SDBC_RESET. */
SDBC_API SDBC_MUST_USE int sdbc_writer_open(sdbc *client, const void *path, size_t path_len, uint64_t size_hint,
                                            const sdbc_put_options *options, sdbc_writer **writer);
/* Copies `data`, and waits while the service has not taken what was sent before. After an error only sdbc_writer_abort() is
 * left. */
SDBC_API SDBC_MUST_USE int sdbc_writer_write(sdbc_writer *writer, const void *data, size_t len);
/* Sends the rest and the digest of the whole, and makes it the current version. The writer is gone whatever is returned. When the
 * reply is lost and the document at the path has just this size and digest, the answer is SDBC_OK with `unknown` set. */
SDBC_API SDBC_MUST_USE int sdbc_writer_commit(sdbc_writer *writer, sdbc_commit *commit);
/* Forgets what was written and releases the writer. Takes NULL. */
SDBC_API void sdbc_writer_abort(sdbc_writer *writer);

/* --- Many at once ------------------------------------------------------------------------------------------------------------- */

/* One answered request. Everything in it is valid during the callback only. */
typedef struct sdbc_done {
  uint64_t ticket;
  int code;                  /* SDBC_OK, or why not */
  const char *message;       /* the sentence when `code` is not SDBC_OK, else empty */
  const void *data;          /* get: the content */
  size_t size;               /* get: its size */
  const sdbc_info *info;     /* get, stat: of the version. Not NULL when `code` is SDBC_OK */
  const sdbc_commit *commit; /* insert, delete: the commit. Not NULL when `code` is SDBC_OK */
} sdbc_done;

/* Called by sdbc_poll(), by sdbc_close(), and by any other call of the handle that waits for the service, in its thread. It may
 * submit further requests; other calls of the same handle answer SDBC_INVALID inside it. */
typedef void (*sdbc_callback)(void *user, const sdbc_done *done);

/* Each queues one request and returns at once; its answer comes through `callback`, exactly once, in any order. Timeouts, retries
 * and write tokens are as in the calls that wait. `ticket` may be NULL. Contents are copied.
 * SDBC_AGAIN: too much is in flight, call sdbc_poll() first. SDBC_TOO_LARGE: contents above SDBC_MAX_BODY need sdbc_insert() or a
 * stream (a get of such a document completes with SDBC_TOO_LARGE and its info). SDBC_INVALID, SDBC_NO_MEMORY. */
SDBC_API SDBC_MUST_USE int sdbc_submit_get(sdbc *client, const void *path, size_t path_len, uint32_t version,
                                           sdbc_callback callback, void *user, uint64_t *ticket);
SDBC_API SDBC_MUST_USE int sdbc_submit_stat(sdbc *client, const void *path, size_t path_len, uint32_t version,
                                            sdbc_callback callback, void *user, uint64_t *ticket);
SDBC_API SDBC_MUST_USE int sdbc_submit_insert(sdbc *client, const void *path, size_t path_len, const void *data, size_t len,
                                              const sdbc_put_options *options, sdbc_callback callback, void *user,
                                              uint64_t *ticket);
SDBC_API SDBC_MUST_USE int sdbc_submit_delete(sdbc *client, const void *path, size_t path_len, const sdbc_put_options *options,
                                              sdbc_callback callback, void *user, uint64_t *ticket);

/* Sends what is queued and delivers what has arrived. Returns when at least one callback was called, nothing is in flight, or
 * `timeout_ms` have passed (0: at once; negative: no limit). *completed, if not NULL, is how many callbacks were called. SDBC_OK
 * also when there were none. */
SDBC_API SDBC_MUST_USE int sdbc_poll(sdbc *client, int timeout_ms, size_t *completed);

/* How many submitted requests have no answer yet. */
SDBC_API size_t sdbc_in_flight(const sdbc *client);

/* --- Events ------------------------------------------------------------------------------------------------------------------- */

typedef struct sdbc_watch sdbc_watch;

typedef enum sdbc_event_kind { SDBC_EVENT_PUT = 0, SDBC_EVENT_DELETE = 1 } sdbc_event_kind;

typedef struct sdbc_event {
  sdbc_event_kind kind;
  const uint8_t *path; /* the watch's; valid until its next call */
  size_t path_len;
  sdbc_info info;    /* of the version made; deleted: of the last one */
  uint64_t sequence; /* of the commit */
  uint64_t epoch;
  uint64_t number;   /* counts what the service publishes */
  uint64_t session;  /* of this start of the service */
  uint8_t token[16]; /* the write's, when has_token: how a writer knows its own events */
  bool has_token;
  uint64_t missed; /* with SDBC_GAP: how many events of any path were lost; 0 when that is not known */
} sdbc_event;

/* Subscribes to changes of the paths that begin with `prefix` (0 bytes: all), and waits for the connection for at most
 * `connect_timeout_ms`. The watch keeps nothing of the client and may be used by another thread.
 * So that a lost event is noticed by its number, the watch receives all events and passes on those under its prefix. With `narrow`
 * only those travel, and just a lost connection or a restarted service shows as a gap: for a small share of a busy feed.
 * SDBC_UNREACHABLE, SDBC_INVALID (no events endpoint can be derived: set sdbc_options.events). */
SDBC_API SDBC_MUST_USE int sdbc_watch_open(sdbc *client, const void *prefix, size_t prefix_len, bool narrow, sdbc_watch **watch);

/* The next event, waiting for at most `timeout_ms` (negative: no limit).
 * SDBC_OK; SDBC_AGAIN: none came; SDBC_GAP: events were lost, `event->missed` of them, and those that follow come with the next
 * calls; SDBC_PROTOCOL: something that is no event was skipped. */
SDBC_API SDBC_MUST_USE int sdbc_watch_next(sdbc_watch *watch, int timeout_ms, sdbc_event *event);

/* The sentence of the watch's most recent failure. The watch's; valid until its next call. */
SDBC_API const char *sdbc_watch_message(const sdbc_watch *watch);
/* Takes NULL. */
SDBC_API void sdbc_watch_close(sdbc_watch *watch);

/* --- Digests ------------------------------------------------------------------------------------------------------------------ */

/* CRC32C of `len` bytes continuing `crc` (0 to begin): the digest of documents. */
SDBC_API uint32_t sdbc_crc32c(uint32_t crc, const void *data, size_t len);

/* The digest of two contents joined, from their digests and the length of the second. */
SDBC_API uint32_t sdbc_crc32c_join(uint32_t first, uint32_t second, uint64_t second_len);

#ifdef __cplusplus
}
#endif
#endif
