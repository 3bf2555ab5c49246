/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* sdb/sdb.h - StreamDB's embedded engine.
 *
 * Binary documents of 0 bytes to 256 MB at string paths of 1 to 1,024 arbitrary bytes. What was acknowledged as durable survives a
 * crash at any point; wrong bytes are never returned; "not found" is never said falsely.
 *
 *     sdb *db;
 *     sdb_open("things.sdb", NULL, &db);
 *     sdb_put(db, "/a/b", 4, "hello", 5, NULL, NULL);
 *     sdb_get_alloc(db, "/a/b", 4, SDB_CURRENT, &data, &size, NULL);
 *     sdb_free(db, data);
 *     sdb_close(db);
 *
 * Caveats, first:
 *   - A handle does not survive fork(). In the child every call answers SDB_FORKED and touches nothing (calls that give nothing
 * back do nothing), and sdb_close() lets go of the file alone, so that its lock does not outlive the parent's handle. A child that
 *     wants the database opens it anew, when the parent has closed it.
 *   - One handle per database file, in this process as in others: a second open answers SDB_LOCKED, by whatever name. Handles that
 *     only read may stand beside each other.
 *   - SDB_NONE may lose every commit since the last flush or checkpoint in a crash, SDB_BUFFERED those of the last
 *     `buffered_interval_ms`. Neither loses order: what survives is the state at some moment, whole.
 *   - After SDB_SYNC_FAILED nothing more is written by the handle (the device's state is unknown). Reads go on; they answer SDB_IO
 *     when what was acknowledged last cannot be shown. Close and open again.
 *   - SDB_CORRUPT names damage that was found. While the log is damaged, or could not be applied because the data file is
 *     (sdb_stats.log_damaged), what could be is served, nothing is written, and SDB_CORRUPT also stands for "not found": what is
 *     missing may be in the rest.
 *
 * Thread rule: every function may be called by any thread at any time, except that a cursor, reader or writer belongs to one thread
 * at a time; they and snapshots must be closed before their database.
 * Sizes are in bytes, times in milliseconds since 1970 (UTC), unless a name says otherwise.
 * Errors: functions return SDB_OK (0) or a negative code. On an error outputs are untouched and the database is as before.
 */
#ifndef SDB_SDB_H
#define SDB_SDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SDB_API __attribute__((visibility("default")))
#define SDB_MUST_USE __attribute__((warn_unused_result))
#else
#define SDB_API
#define SDB_MUST_USE
#endif

#define SDB_VERSION_STRING "1.0.0"
#define SDB_MAX_PATH 1024u          /* bytes of a path */
#define SDB_MAX_NAMES 64u           /* of a document */
#define SDB_MAX_CONTENT_TYPE 255u   /* bytes */
#define SDB_MAX_METADATA 1024u      /* bytes */
#define SDB_MAX_DOCUMENT 268435456u /* bytes of a document, unless options say less */
#define SDB_CHUNK 65536u            /* unit of reading and checking large contents */

/* --- Errors ------------------------------------------------------------------------------------------------------------------- */

/* name, value, sentence */
#define SDB_ERRORS(X)                                                                                                              \
  X(SDB_OK, 0, "done")                                                                                                             \
  X(SDB_IO, -1, "the storage reported an input/output error")                                                                      \
  X(SDB_NOT_FOUND, -2, "there is no such document or version")                                                                     \
  X(SDB_INVALID, -3, "an argument is not valid")                                                                                   \
  X(SDB_NO_MEMORY, -4, "out of memory")                                                                                            \
  X(SDB_CONFLICT, -5, "the condition on the version does not hold")                                                                \
  X(SDB_TOO_LARGE, -6, "the document is larger than the database accepts")                                                         \
  X(SDB_CORRUPT, -7, "stored data is damaged")                                                                                     \
  X(SDB_FULL, -8, "no space is left for writing")                                                                                  \
  X(SDB_READ_ONLY, -9, "the database is open for reading only")                                                                    \
  X(SDB_LOCKED, -10, "the database is in use by another process or handle")                                                        \
  X(SDB_NOT_A_DATABASE, -11, "the file is not a StreamDB database")                                                                \
  X(SDB_UNSUPPORTED, -12, "the file needs a newer edition of this library")                                                        \
  X(SDB_MISMATCH, -13, "the log does not belong to the data file")                                                                 \
  X(SDB_SYNC_FAILED, -14, "an earlier sync failed; nothing more is written until the database is opened again")                    \
  X(SDB_DENIED, -15, "permission denied")                                                                                          \
  X(SDB_LINKED, -30, "the file has more than one name (hard links)")                                                               \
  X(SDB_SMALL_BUFFER, -16, "the buffer is too small for the document")                                                             \
  X(SDB_END, -17, "there is nothing further")                                                                                      \
  X(SDB_INTERNAL, -18, "an internal rule was broken; please report this")                                                          \
  X(SDB_CANCELLED, -19, "the caller cancelled it")                                                                                 \
  X(SDB_EXISTS, -20, "the destination exists already and was left as it is")                                                       \
  X(SDB_BUSY, -21, "too many requests are waiting; try again when some are answered")                                              \
  X(SDB_WRONG_KEY, -22, "the key and the database do not belong together")                                                         \
  X(SDB_MORE, -23, "the budget of paths to examine is used up; there may be more")                                                 \
  X(SDB_BUILDING, -24, "the suffix index is being built; ask again later")                                                         \
  X(SDB_FORKED, -25, "the handle was opened by the parent process; open the database in this one")                                 \
  X(SDB_TRIMMED, -26, "the log no longer reaches back to that position")                                                           \
  X(SDB_RESET, -27, "there is no such position in the history of the database")

enum {
#define SDB_X(name, value, text) name = value,
  SDB_ERRORS(SDB_X)
#undef SDB_X
};

typedef struct sdb sdb; /* an open database */

/* One sentence for a code; static, never NULL. */
SDB_API const char *sdb_strerror(int code);

/* The sentence of the most recent failure on this handle, with names and numbers; copied, cut and NUL-terminated. Empty if none. */
SDB_API void sdb_message(sdb *db, char *buf, size_t len);

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

typedef enum sdb_durability {
  SDB_DEFAULT = 0,  /* what the options of the database say */
  SDB_DURABLE = 1,  /* on return the commit is on the device */
  SDB_BUFFERED = 2, /* on return it is visible; it is on the device within `buffered_interval_ms` */
  SDB_NONE = 3      /* on return it is visible; it is on the device after the next flush, checkpoint or durable commit */
} sdb_durability;

typedef enum sdb_cipher {
  SDB_CIPHER_DEFAULT = 0,   /* XChaCha20-Poly1305, so that the file can be read on any machine */
  SDB_CIPHER_XCHACHA20 = 1, /* XChaCha20-Poly1305 */
  SDB_CIPHER_AES_GCM = 2    /* AES-256-GCM; only on processors that have it (x86-64 with AES and CLMUL) */
} sdb_cipher;

#define SDB_KEY_SIZE 32u

struct sdb_storage;

/* Set with sdb_options_init(), then change what you like. */
typedef struct sdb_options {
  size_t size;                       /* sizeof(sdb_options) */
  const struct sdb_storage *storage; /* NULL: files of the operating system. Must outlive the database */
  bool create;                       /* true: make the database when the file does not exist */
  bool read_only;                    /* false */
  bool use_mmap;                     /* true: read clean pages through a mapping where the storage has one */
  bool use_compression;              /* true: contents written from now on are stored compressed (snappy) where that pays; each says
                                        itself whether it is, so it may differ from open to open */
  bool fault_guard;                  /* false; true: a mapped page that the device cannot give makes a read answer SDB_IO instead of
                                        ending the process. Sets a handler of SIGBUS for the whole process, for good; what does not
                                        concern a database goes on to the handler before it. A program that sets one later passes
                                        on to it what it does not know. */
  bool threads;                      /* true: background work in a thread of the engine; false: in commits and sdb_step() */
  uint32_t page_size;                /* 8,192; a power of two, 4,096 to 65,536; used at creation */
  uint32_t page_cache_size;          /* 2,048 pages, clean and dirty together; at least 64. A sixteenth of it, at most 128, is kept
                                        ready beside that */
  bool suffix_index;             /* true: an index for searching by suffix, made in the background where there is none; false: one
                                    that is there is dropped. See sdb_cursor_open() */
  uint32_t versions_to_keep;     /* 2: 1 to 255 readable versions of a document; counts for what is put from now on. Above 2 a
                                    put reads half as many records as it keeps versions, to find the one that goes */
  uint64_t max_document_size;    /* 256 MB */
  uint64_t max_db_size;          /* 8 TB; the data file never grows beyond it */
  sdb_durability durability;     /* SDB_DURABLE; what SDB_DEFAULT means */
  uint32_t buffered_interval_ms; /* 100 */
  uint32_t wal_segment_size;     /* 16 MB; a multiple of 4,096, 64 KB to 1 GB, at least four pages; used at creation */
  uint64_t checkpoint_wal_bytes; /* 64 MB of log between checkpoints */
  uint64_t change_log_bytes;     /* 16 MB of log kept behind the checkpoint */
  uint32_t worker_threads;       /* 2: threads that serve sdb_get_async(), 0 to 64, started when first needed */
  bool quick_mode;               /* false; true: contents are not compared with their checksums, see sdb_set_quick_mode() */
  void (*warning)(void *user, const char *sentence); /* NULL; told in one sentence what an operator should know, in the thread of
                                                        the call that is the reason. It must not call the database */
  void *warning_user;
  uint32_t scrub_interval_s;     /* 0: only when sdb_scrub() asks; else the file is read again and verified that often */
  const uint8_t *encryption_key; /* NULL: not encrypted. SDB_KEY_SIZE bytes, needed during sdb_open() only */
  const uint8_t *recovery_key;   /* NULL; else what sdb_key_export() gave, instead of encryption_key; not for creating */
  sdb_cipher cipher;             /* SDB_CIPHER_DEFAULT; used at creation */
  char *message;                 /* where sdb_open() puts its sentence when it fails; may be NULL */
  size_t message_size;
  /* NULL, or called whenever more commits have become durable and visible, with the newest: so that one thread can serve many feeds
   * (sdb/changes.h). In some thread inside a call of the engine: it must be quick and must not call the database. */
  void (*on_synced)(void *user, uint64_t sequence);
  void *on_synced_user;
} sdb_options;

SDB_API void sdb_options_init(sdb_options *options);

/* Opens, creating the file if asked, and recovers what a crash left. `options` NULL: the defaults. The name is copied.
 * SDB_NOT_FOUND, SDB_LOCKED, SDB_LINKED, SDB_NOT_A_DATABASE, SDB_UNSUPPORTED, SDB_MISMATCH, SDB_INVALID, SDB_DENIED, SDB_FULL,
 * SDB_IO, SDB_NO_MEMORY. SDB_WRONG_KEY: the database is encrypted and this is not its key, or there is none, or there is one and
 * the database is not encrypted; nothing was written then. A log with damage in the middle opens read-only: see
 * sdb_stats.log_damaged. So does one that cannot be applied whole after an unclean end, because table, map or bitmap of the data
 * file are damaged: documents that are changed there answer SDB_CORRUPT, all others are served as the log has left them, and
 * sdb_repair() (sdb/care.h) saves what file and log have. A damaged index is no reason: it is made again from the documents, during
 * the open where the log needs it. SDB_CORRUPT: header slots or the first directory are damaged. SDB_UNSUPPORTED: a newer edition
 * wrote it; where the sentence says so, it can be opened for reading only.
 *
 * Opened for reading only after an unclean end, all pages that the log changes stay in memory, whatever page_cache_size says: about
 * 1.2 times the log where it has new documents (58 MB for 200,000 of 100 B), up to three pages a commit where it changes documents
 * all over a large database.
 */
SDB_API SDB_MUST_USE int sdb_open(const char *name, const sdb_options *options, sdb **db);

/* Finishes background work, checkpoints and closes; afterwards the data file alone is the database. Takes NULL. The handle is gone
 * whatever is returned; an error means that the last checkpoint did not succeed, which loses nothing: the next open recovers. But
 * for SDB_INVALID: a callback of sdb_get_async() or sdb_backup() has called it; nothing has happened and the handle is as it was.
 */
SDB_API int sdb_close(sdb *db);

/* --- Encryption ---------------------------------------------------------------------------------------------------------------
 *
 * A database made with an encryption_key stays encrypted: paths, contents and everything else that says something about them, in
 * the data file and in the log. What is encrypted with is a random data key, which stands in the file wrapped under the caller's
 * key. */

/* From now on the database opens with `key` (SDB_KEY_SIZE bytes) and not with the one before. Only the wrapping is written anew, so
 * it is done in two syncs, while commits wait; whoever kept the old key and an old copy of the file can still read what was written
 * later: to shut him out copy the documents into a new database. When it fails with SDB_SYNC_FAILED or the process dies in it, one
 * of the two keys opens the database. SDB_INVALID (not encrypted), SDB_READ_ONLY, SDB_SYNC_FAILED, SDB_IO. */
SDB_API SDB_MUST_USE int sdb_change_key(sdb *db, const uint8_t *key);

/* Copies the data key itself (SDB_KEY_SIZE bytes): opens the database as recovery_key when the caller's key is lost, whatever
 * sdb_change_key() did meanwhile. As secret as the key. SDB_INVALID: the database is not encrypted. */
SDB_API SDB_MUST_USE int sdb_key_export(sdb *db, uint8_t *recovery_key);

/* A key as programs get it. Wipe it after sdb_open(). */
typedef struct sdb_key {
  uint8_t bytes[SDB_KEY_SIZE];
  bool given;
  bool recovery; /* for recovery_key, not for encryption_key */
} sdb_key;

/* From 32 raw bytes or from 64 hexadecimal digits, which may have `recovery:` before them and a line end behind. False: neither. */
SDB_API SDB_MUST_USE bool sdb_key_parse(const void *text, size_t len, sdb_key *key);
/* What a program does with its option for a key file: reads `file`; when that is NULL, the file that $STREAMDB_KEY_FILE names; when
 * there is none, the digits in $STREAMDB_KEY; else key->given stays false. Always writes one sentence: the reason of a failure, a
 * warning beside SDB_OK when others than its owner may read the file, else none. SDB_NOT_FOUND, SDB_DENIED, SDB_IO, SDB_INVALID (no
 * key is in it, or `file` is the digits of a key: arguments are seen by others). */
SDB_API SDB_MUST_USE int sdb_key_find(const char *file, sdb_key *key, char *sentence, size_t size);
SDB_API void sdb_key_wipe(sdb_key *key);

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

#define SDB_CURRENT 0u     /* as a version: the current one */
#define SDB_ANY UINT32_MAX /* as an expectation: no condition */
#define SDB_ABSENT 0u      /* as an expectation: there must be no document at the path */

typedef struct sdb_info {
  uint8_t id[16];           /* UUID v7 (RFC 9562) of the document: stays the same through all versions and names */
  uint32_t version;         /* of what was read */
  uint32_t oldest;          /* oldest version that can be read */
  uint64_t size;            /* of the content */
  uint64_t time_ms;         /* when the version was made */
  uint64_t expires_ms;      /* when the document ends; 0: never */
  uint32_t digest;          /* CRC32C of the content */
  uint16_t names;           /* how many paths lead to the document */
  uint16_t metadata_len;    /* sdb_get_attributes() has it */
  uint8_t content_type_len; /* the same */
} sdb_info;

typedef struct sdb_put_options {
  size_t size;               /* sizeof(sdb_put_options) */
  sdb_durability durability; /* SDB_DEFAULT */
  uint32_t expect;           /* SDB_ANY; SDB_ABSENT; or the version that must be current: else SDB_CONFLICT */
  const uint8_t *token;      /* NULL, or 16 bytes naming this write: a second put with the token of a kept version of the document
                                changes nothing and reports that version, so that a retry is harmless */
  bool defer;          /* durable only: return once the commit has its place in the order; nobody sees it and nobody may be told
                          before sdb_wait() of its sequence returns */
  uint64_t expires_ms; /* 0: never. Else from that moment on the document is gone for every read and write, with all its
                          versions and names; the current version's time counts */
  const char *content_type; /* NULL, or text of at most SDB_MAX_CONTENT_TYPE bytes kept with this version */
  const void *metadata;     /* NULL, or bytes kept with this version */
  size_t metadata_len;      /* at most SDB_MAX_METADATA */
} sdb_put_options;
SDB_API void sdb_put_options_init(sdb_put_options *options);

typedef struct sdb_commit {
  uint64_t sequence;      /* of the commit; rising */
  sdb_info info;          /* of the version made (deleted: the last one) */
  sdb_durability reached; /* SDB_DURABLE, SDB_BUFFERED or SDB_NONE */
  bool created;           /* a new document came into being */
  bool repeated;          /* the write token was known: nothing was done */
} sdb_commit;

/* Makes `data` the current version of the document at `path`. `options` and `commit` may be NULL. `data` is copied; it may be NULL
 * when `len` is 0. Costs a copy into the log and one into a page, and a share of one sync; above half a page the content is written
 * to the data file once, synced, and named by the log.
 * SDB_INVALID (path), SDB_TOO_LARGE, SDB_CONFLICT, SDB_FULL, SDB_READ_ONLY, SDB_SYNC_FAILED, SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_put(sdb *db, const void *path, size_t path_len, const void *data, size_t len,
                                 const sdb_put_options *options, sdb_commit *commit);

/* Deletes the document with all its names and versions. SDB_NOT_FOUND when there is none, and then nothing was written; the answer
 * waits until what it rests on is as durable as was asked, so that a retry may be believed. Uses durability, defer and expect.
 * `commit` tells the last version. */
SDB_API SDB_MUST_USE int sdb_delete(sdb *db, const void *path, size_t path_len, const sdb_put_options *options, sdb_commit *commit);
/* The same by the document's id. SDB_CORRUPT when its record is damaged and none tells whose it is: delete it by path then. */
SDB_API SDB_MUST_USE int sdb_delete_id(sdb *db, const uint8_t id[16], const sdb_put_options *options, sdb_commit *commit);

/* Makes version `version` of the document its current one again, by putting a copy of its content, content type and metadata as a
 * new version; it does not expire unless the options say so. Streams: constant memory. What is copied is the version as it is when
 * the call begins: a document that is deleted meanwhile is made anew, unless sdb_put_options.expect refuses. As sdb_put(), and
 * SDB_NOT_FOUND. */
SDB_API SDB_MUST_USE int sdb_restore_version(sdb *db, const void *path, size_t path_len, uint32_t version,
                                             const sdb_put_options *options, sdb_commit *commit);

/* --- Identity and names ------------------------------------------------------------------------------------------------------- */

/* Lets `name` lead to the document at `path` too; both are equal from then on, and a put through either makes the next version of
 * the one document. The version stays. Binding a name that leads there already changes nothing (commit->repeated). All names with
 * the metadata must fit into one page. Uses durability, defer and expect.
 * SDB_NOT_FOUND (path), SDB_CONFLICT (the name belongs to another document, or expect), SDB_TOO_LARGE, and those of sdb_put(). */
SDB_API SDB_MUST_USE int sdb_bind(sdb *db, const void *path, size_t path_len, const void *name, size_t name_len,
                                  const sdb_put_options *options, sdb_commit *commit);
/* Takes the name away; the last one takes the document along. SDB_NOT_FOUND, and those of sdb_delete(). */
SDB_API SDB_MUST_USE int sdb_unbind(sdb *db, const void *name, size_t name_len, const sdb_put_options *options, sdb_commit *commit);

SDB_API SDB_MUST_USE int sdb_id_of(sdb *db, const void *path, size_t path_len, uint8_t id[16]);

typedef struct sdb_path {
  const uint8_t *path;
  size_t len;
} sdb_path;
/* All paths of the document, the oldest first; one piece of memory, released with sdb_free(). SDB_NOT_FOUND, SDB_CORRUPT,
 * SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_paths_of(sdb *db, const uint8_t id[16], sdb_path **paths, size_t *count);

/* Returns once every commit up to `sequence` is durable and visible. SDB_SYNC_FAILED: it is not known whether it is. */
SDB_API SDB_MUST_USE int sdb_wait(sdb *db, uint64_t sequence);

/* Copies the content of a version (SDB_CURRENT, or a number) into `buf`. *size is set to the content's size, also when the answer
 * is SDB_SMALL_BUFFER. `info` may be NULL. One copy, no allocation. SDB_NOT_FOUND, SDB_SMALL_BUFFER, SDB_CORRUPT, SDB_INVALID,
 * SDB_IO, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_get(sdb *db, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap, size_t *size,
                                 sdb_info *info);

/* The same into memory of the engine's allocator, released with sdb_free(). An empty document gives a pointer as well. */
SDB_API SDB_MUST_USE int sdb_get_alloc(sdb *db, const void *path, size_t path_len, uint32_t version, void **data, size_t *size,
                                       sdb_info *info);
SDB_API void sdb_free(sdb *db, void *p);

/* Copies at most `len` bytes from `offset`; *got says how many: less only at the end, 0 at or beyond it. Checks whole chunks. */
SDB_API SDB_MUST_USE int sdb_get_range(sdb *db, const void *path, size_t path_len, uint32_t version, uint64_t offset, void *buf,
                                       size_t len, size_t *got, sdb_info *info);

/* What is known of a version, without its content. SDB_NOT_FOUND, SDB_CORRUPT, SDB_INVALID, SDB_IO. */
SDB_API SDB_MUST_USE int sdb_stat(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_info *info);

typedef struct sdb_attributes {
  uint64_t expires_ms;                         /* of that version; 0: never */
  char content_type[SDB_MAX_CONTENT_TYPE + 1]; /* NUL-terminated; empty: none */
  uint8_t metadata[SDB_MAX_METADATA];
  size_t metadata_len;
} sdb_attributes;
/* What was put beside the content of a version. */
SDB_API SDB_MUST_USE int sdb_get_attributes(sdb *db, const void *path, size_t path_len, uint32_t version,
                                            sdb_attributes *attributes);

/* The readable versions, newest first, at most `cap`; *count is how many there are. SDB_NOT_FOUND, SDB_CORRUPT, SDB_INVALID. */
SDB_API SDB_MUST_USE int sdb_versions(sdb *db, const void *path, size_t path_len, sdb_info *infos, size_t cap, size_t *count);

/* --- Reading in the background ------------------------------------------------------------------------------------------------ */

typedef uint64_t sdb_request; /* names a request of a database; never used twice, never 0 */

/* Told once what became of a request. `code` as sdb_get_alloc() would return it, or SDB_CANCELLED. `data` belongs to the callback,
 * which releases it with sdb_free(), then or later, before the database is closed; NULL unless `code` is SDB_OK. `info` is good
 * during the call; NULL unless `code` is SDB_OK. It may call the database, other requests included, but not close it: sdb_close()
 * answers SDB_INVALID there. */
typedef void sdb_get_callback(void *user, int code, void *data, size_t size, const sdb_info *info);

/* Asks for a version to be read and `callback` to be told, and returns without waiting for storage. The path is copied. What is
 * read is the state when the request is served, so everything visible now is seen. *request (may be NULL) is set before the
 * callback is called. On SDB_OK the callback is called exactly once, and has returned when sdb_close() returns, which cancels what
 * still waits then; on an error it is not called.
 *
 * Who serves: up to `worker_threads` threads of the database, in no certain order; the first requests start them. Where there are
 * none (sdb_options.threads or worker_threads say so, or the storage table has none) sdb_step() alone, in order, in the thread that
 * calls it.
 *
 * Not more than 1,024 wait: SDB_BUSY. SDB_INVALID, SDB_NO_MEMORY (memory or thread), SDB_CANCELLED (the database is being closed).
 */
SDB_API SDB_MUST_USE int sdb_get_async(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_get_callback *callback,
                                       void *user, sdb_request *request);

/* Withdraws a request that nobody serves yet. Never waits. May be called with any request at any time, by callbacks too.
 *   SDB_OK          its callback was called with SDB_CANCELLED, by this call, and has returned
 *   SDB_NOT_FOUND   it does not wait any more: its callback was called, is being called, or will be, with what was read */
SDB_API int sdb_async_cancel(sdb *db, sdb_request request);

/* --- Search ------------------------------------------------------------------------------------------------------------------- */

typedef struct sdb_cursor sdb_cursor;

/* In which order paths come. */
typedef enum sdb_order {
  SDB_ORDER_AUTO = 0,  /* by path; by suffix when only a suffix is given; with both, whichever range is shorter */
  SDB_ORDER_PATH = 1,  /* bytes of the path */
  SDB_ORDER_SUFFIX = 2 /* bytes of the path read backwards */
} sdb_order;

/* Set with sdb_cursor_options_init(), then change what you like. */
typedef struct sdb_cursor_options {
  size_t size;        /* sizeof(sdb_cursor_options) */
  const void *prefix; /* only paths that begin with these bytes */
  size_t prefix_len;  /* 0: all */
  const void *suffix; /* and end with these; they may overlap */
  size_t suffix_len;  /* 0: all */
  sdb_order order;    /* SDB_ORDER_AUTO */
  const void *after;  /* only paths behind this one in that order; it need not exist */
  size_t after_len;   /* 0: from the beginning. With a prefix and a suffix `order` must be said too: see sdb_cursor_position() */
  uint64_t limit;     /* 0; else SDB_END after that many entries */
  uint64_t budget;    /* 0; else SDB_MORE after examining that many paths since the opening or the last SDB_MORE */
  bool infos;         /* false; fill sdb_entry.info: one page touch more an entry */
  bool attributes;    /* false; fill content type and metadata of sdb_entry: the same page touch */
} sdb_cursor_options;
SDB_API void sdb_cursor_options_init(sdb_cursor_options *options);

typedef struct sdb_entry {
  const uint8_t *path; /* the cursor's; valid until its next call */
  size_t path_len;
  sdb_info info; /* zero unless the cursor was opened with `infos` */
  /* Of the current version; NULL and 0 unless it has them and the cursor was opened with `attributes`. As long valid as the path.
   */
  const char *content_type; /* not NUL-terminated */
  size_t content_type_len;
  const uint8_t *metadata;
  size_t metadata_len;
} sdb_entry;

/* Walks the paths that fit, in the state of the moment of the call. `options` NULL: all paths. What is examined, and paid for, is
 * the range of the prefix (by path) or that of the suffix (by suffix), from `after` on: a search for both chooses the shorter one
 * when it is opened. A cursor pins the state it reads: close it soon. By suffix it needs the suffix index: SDB_BUILDING while that
 * is being made (sdb_message and the statistics say how far it is), SDB_INVALID without one. A search for both then takes the range
 * of its prefix instead, unless SDB_ORDER_SUFFIX was asked for. SDB_INVALID, SDB_BUILDING, SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_cursor_open(sdb *db, const sdb_cursor_options *options, sdb_cursor **cursor);
/* SDB_OK: an entry. SDB_MORE: the budget is used up; call again to go on with a new one, or close and go on later from the
 * position. SDB_END: nothing further, or the limit. SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY: told from then on; open another cursor. */
SDB_API SDB_MUST_USE int sdb_cursor_next(sdb_cursor *cursor, sdb_entry *entry);
/* Where the cursor stands: what to give as `order` and `after` to go on behind what it has said so far, also after a restart. Of a
 * cursor that has returned an entry last this is that entry's path; behind SDB_MORE it may be a path that was examined and does not
 * fit. *after_len 0: at the beginning. The bytes are the cursor's, valid until its next call. */
SDB_API void sdb_cursor_position(const sdb_cursor *cursor, sdb_order *order, const void **after, size_t *after_len);
SDB_API void sdb_cursor_close(sdb_cursor *cursor);

/* --- Streams ------------------------------------------------------------------------------------------------------------------ */

typedef struct sdb_reader sdb_reader;
typedef struct sdb_writer sdb_writer;

/* Reads one version piece by piece, from the state of the moment of the call, whatever is written meanwhile. Holds one chunk. */
SDB_API SDB_MUST_USE int sdb_reader_open(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_reader **reader);
SDB_API const sdb_info *sdb_reader_info(const sdb_reader *reader);
/* At most `len` bytes; *got 0 means the end. SDB_CORRUPT names the chunk in sdb_message(). */
SDB_API SDB_MUST_USE int sdb_reader_read(sdb_reader *reader, void *buf, size_t len, size_t *got);
/* Goes to `offset`; beyond the end is SDB_INVALID. */
SDB_API SDB_MUST_USE int sdb_reader_seek(sdb_reader *reader, uint64_t offset);
SDB_API void sdb_reader_close(sdb_reader *reader);

#define SDB_UNKNOWN_SIZE UINT64_MAX
/* Writes one document piece by piece in constant memory (about 1 MB). `size_hint` is the exact size if it is known (the commit is
 * SDB_INVALID when it was another), else SDB_UNKNOWN_SIZE. Nothing is visible before sdb_writer_commit(). */
SDB_API SDB_MUST_USE int sdb_writer_open(sdb *db, const void *path, size_t path_len, uint64_t size_hint,
                                         const sdb_put_options *options, sdb_writer **writer);
SDB_API SDB_MUST_USE int sdb_writer_write(sdb_writer *writer, const void *data, size_t len);
/* As sdb_put() for what was written. The writer is gone whatever is returned. */
SDB_API SDB_MUST_USE int sdb_writer_commit(sdb_writer *writer, sdb_commit *commit);
/* Forgets what was written and releases the writer. Takes NULL. */
SDB_API void sdb_writer_abort(sdb_writer *writer);

/* --- Batches ------------------------------------------------------------------------------------------------------------------ */

/* Operations that happen together or not at all: one log record, one place in the order, one sync. Each sees what those before it
 * in the batch did. Belongs to one thread at a time. */
typedef struct sdb_batch sdb_batch;

typedef struct sdb_batch_result {
  int code;          /* SDB_OK; SDB_NOT_FOUND: a delete or unbind of what was not there; then nothing was to be done */
  sdb_commit commit; /* valid for puts, binds, and for deletes and unbinds of what was there */
} sdb_batch_result;

SDB_API SDB_MUST_USE int sdb_batch_open(sdb *db, sdb_batch **batch);
/* Adds a put. The content is copied; a large one, or one that the log record has no room for, is written to the data file at once.
 * Uses expect, token, expiry, content type and metadata of the options. A failed call adds nothing. SDB_TOO_LARGE also when the
 * batch has as much as one commit can hold: half a log segment of names and small contents, 32,768 operations. */
SDB_API SDB_MUST_USE int sdb_batch_put(sdb_batch *batch, const void *path, size_t path_len, const void *data, size_t len,
                                       const sdb_put_options *options);
/* Adds what was written to `writer`, which is the batch's from here on, whatever is returned. */
SDB_API SDB_MUST_USE int sdb_batch_put_writer(sdb_batch *batch, sdb_writer *writer);
/* `expect`: as in sdb_put_options. */
SDB_API SDB_MUST_USE int sdb_batch_delete(sdb_batch *batch, const void *path, size_t path_len, uint32_t expect);
SDB_API SDB_MUST_USE int sdb_batch_bind(sdb_batch *batch, const void *path, size_t path_len, const void *name, size_t name_len,
                                        uint32_t expect);
SDB_API SDB_MUST_USE int sdb_batch_unbind(sdb_batch *batch, const void *name, size_t name_len, uint32_t expect);
/* A condition on a document that the batch need not change: its version, or SDB_ABSENT. */
SDB_API SDB_MUST_USE int sdb_batch_expect(sdb_batch *batch, const void *path, size_t path_len, uint32_t version);
SDB_API size_t sdb_batch_count(const sdb_batch *batch);

/* Does it all, or nothing. The batch is gone whatever is returned. Uses durability and defer of the options. `results` has room for
 * `cap` results, one an operation in order, filled on success; may be NULL with 0. *failed: which operation was the reason, or the
 * count when none was; may be NULL. SDB_CONFLICT, SDB_NOT_FOUND (bind), and those of sdb_put(). */
SDB_API SDB_MUST_USE int sdb_batch_commit(sdb_batch *batch, const sdb_put_options *options, sdb_batch_result *results, size_t cap,
                                          size_t *failed);
/* Forgets it. Takes NULL. */
SDB_API void sdb_batch_abort(sdb_batch *batch);

/* --- Snapshots ---------------------------------------------------------------------------------------------------------------- */

/* The state of one moment, for as long as it is needed: contents, versions, searches and what had not expired then, whatever is
 * written meanwhile. Any number of threads may use a snapshot at the same time; nobody while or after it is closed. Close it before
 * its database. What only snapshots keep is counted in sdb_stats.pinned_bytes; it is freed once they are closed, and by a restart.
 */
typedef struct sdb_snapshot sdb_snapshot;

/* Of the newest visible state. Constant time, no copy, no waiting. SDB_NO_MEMORY. */
SDB_API SDB_MUST_USE int sdb_snapshot_open(sdb *db, sdb_snapshot **snapshot);
/* The last commit that it contains: all up to it are in, none behind it. */
SDB_API uint64_t sdb_snapshot_sequence(const sdb_snapshot *snapshot);
SDB_API void sdb_snapshot_close(sdb_snapshot *snapshot); /* takes NULL */

/* As the calls without `snapshot` in their name. Memory of sdb_snapshot_get_alloc() is released with sdb_free(). Cursors and
 * readers stay good when the snapshot is closed before them. */
SDB_API SDB_MUST_USE int sdb_snapshot_get(const sdb_snapshot *snapshot, const void *path, size_t path_len, uint32_t version,
                                          void *buf, size_t cap, size_t *size, sdb_info *info);
SDB_API SDB_MUST_USE int sdb_snapshot_get_alloc(const sdb_snapshot *snapshot, const void *path, size_t path_len, uint32_t version,
                                                void **data, size_t *size, sdb_info *info);
SDB_API SDB_MUST_USE int sdb_snapshot_get_range(const sdb_snapshot *snapshot, const void *path, size_t path_len, uint32_t version,
                                                uint64_t offset, void *buf, size_t len, size_t *got, sdb_info *info);
SDB_API SDB_MUST_USE int sdb_snapshot_stat(const sdb_snapshot *snapshot, const void *path, size_t path_len, uint32_t version,
                                           sdb_info *info);
SDB_API SDB_MUST_USE int sdb_snapshot_versions(const sdb_snapshot *snapshot, const void *path, size_t path_len, sdb_info *infos,
                                               size_t cap, size_t *count);
SDB_API SDB_MUST_USE int sdb_snapshot_get_attributes(const sdb_snapshot *snapshot, const void *path, size_t path_len,
                                                     uint32_t version, sdb_attributes *attributes);
SDB_API SDB_MUST_USE int sdb_snapshot_paths_of(const sdb_snapshot *snapshot, const uint8_t id[16], sdb_path **paths, size_t *count);
SDB_API SDB_MUST_USE int sdb_snapshot_cursor_open(const sdb_snapshot *snapshot, const sdb_cursor_options *options,
                                                  sdb_cursor **cursor);
SDB_API SDB_MUST_USE int sdb_snapshot_reader_open(const sdb_snapshot *snapshot, const void *path, size_t path_len, uint32_t version,
                                                  sdb_reader **reader);

/* --- Care --------------------------------------------------------------------------------------------------------------------- */

/* On return every commit acknowledged so far is durable. SDB_SYNC_FAILED, SDB_IO. */
SDB_API SDB_MUST_USE int sdb_flush(sdb *db);

/* Brings the data file up to date and releases log and freed space. Others read and write meanwhile. Nothing is lost when it fails,
 * and it can be tried again: SDB_READ_ONLY, SDB_IO, SDB_FULL, SDB_CORRUPT (a place that all of it needs), SDB_NO_MEMORY,
 * SDB_SYNC_FAILED. Space of dropped versions that the device does not give is a reason for SDB_IO once; the next time it is given
 * up, until a scrub. */
SDB_API SDB_MUST_USE int sdb_checkpoint(sdb *db);

/* Does at most about `budget` units (pages) of background work; *more says whether some is left. For databases without threads:
 * call it when there is nothing better to do, and at least every `buffered_interval_ms` if that promise is to hold. What it does, a
 * step at a time: requests of sdb_get_async(), whose callbacks it calls; the sync that buffered commits wait for; the mark behind
 * the last commit after a second of rest; the log's next segment; writing changed pages ahead; the checkpoint when it is due; the
 * cleaner. Without it commits do what cannot wait, so that nothing is lost but time. Harmless beside threads. SDB_IO, SDB_FULL,
 * SDB_SYNC_FAILED, SDB_NO_MEMORY: of that work; the database goes on. */
SDB_API SDB_MUST_USE int sdb_step(sdb *db, unsigned budget, bool *more);

/* Asks for a scrub: everything that the database reaches is read again from the file and compared with its checksums (directories,
 * pages, records, contents, structure of the indexes), in the background, or in sdb_step(), a little at a time, while others read
 * and write. It pins nothing. What is found damaged is counted (sdb_stats.scrub_problems, quarantined) and told by sdb_message();
 * an index is made again, a heap page is emptied of the records that are whole, and given back once no damaged document refers to
 * it. A damaged document answers SDB_CORRUPT, its older versions may be readable, and a put heals it. While one runs, a further one
 * is nothing new. SDB_READ_ONLY: there is no background work; sdb_check() does the same at once. */
SDB_API SDB_MUST_USE int sdb_scrub(sdb *db);

/* Quick mode: reads that begin from now on do not compare contents with their checksums, so that a flipped bit in a content is
 * returned as if it were right. Heads of records, pages, chunk tables, structure and length are checked as ever, and so is
 * everything that sdb_check() looks at. A reader keeps what was on when it was opened. Turning it on is told to
 * sdb_options.warning; sdb_stats.quick_mode and unchecked_reads say that it is on and how much went unchecked. */
SDB_API void sdb_set_quick_mode(sdb *db, bool on);

typedef struct sdb_stats {
  size_t size; /* set to sizeof(sdb_stats) before the call */
  uint8_t database_id[16];
  uint64_t epoch;
  uint64_t sequence;        /* last visible commit */
  uint64_t synced_sequence; /* last durable commit */
  uint64_t documents, names;
  uint64_t content_bytes; /* current versions */
  uint64_t page_size, file_bytes, free_bytes, log_bytes;
  uint64_t allocated_bytes; /* of the data file on the device: less than file_bytes where free space was given back */
  uint64_t heap_pages, heap_live_bytes;
  uint64_t dirty_pages, cached_pages;
  uint64_t checkpoints, checkpoint_ms; /* how many since open; time of the last one */
  uint64_t puts, gets, deletes, commits, syncs;
  uint64_t expired;                  /* documents deleted because their time had come, since open */
  uint64_t cache_hits, cache_misses; /* without mmap */
  uint64_t suffix_names;             /* of `names`, how many the suffix index has; fewer while it is built */
  bool suffix_ready;                 /* searches by suffix are answered */
  uint64_t mapping_faults;           /* mapped pages that the device could not give; from the first on the file is read without */
  uint64_t snapshots;                /* open */
  uint64_t pins;                     /* what keeps an older state readable: open snapshots, cursors and readers */
  uint64_t oldest_pin_sequence;      /* last commit in the oldest of those states; 0: none */
  uint64_t oldest_pin_ms;            /* how long ago it was pinned */
  uint64_t pinned_bytes;             /* of pages that only those keep: as they were before a change (in memory or in the file), and
                                        freed ones of large contents that the last checkpoint would have released */
  uint64_t corruptions;              /* damaged pages, records and chunks met since open */
  uint64_t quarantined;              /* damaged pages of the data file that something still refers to, as far as they were met since
                                        open: nobody is given them. Not 0: see sdb_scrub() */
  bool rebuilding;                   /* a damaged index is being made again from the documents: until then what its damaged part
                                        has is answered SDB_CORRUPT. In the background, or in sdb_step() */
  bool repair_needed;                /* it cannot be: what it would be made from is damaged as well, and only sdb_repair() can tell
                                        what there was; or something of the log could not be applied */
  uint64_t scrubs;                   /* passes completed since open */
  uint64_t scrub_done, scrub_all;    /* of the pass that runs: pages and documents looked at, of about so many; 0: none runs */
  uint64_t scrub_problems;           /* damaged places that the pass that runs has found, else the last one */
  uint64_t recovered_commits;        /* replayed at open */
  uint64_t requests;                 /* of sdb_get_async(): waiting or being served */
  uint64_t unchecked_reads;          /* since open: contents read, or readers opened, in quick mode */
  bool quick_mode;                   /* on now */
  bool log_damaged;                  /* the log had damage in the middle, or could not be applied whole: open read-only */
  bool sync_failed;
} sdb_stats;
SDB_API SDB_MUST_USE int sdb_get_stats(sdb *db, sdb_stats *stats);

typedef struct sdb_check_report {
  size_t size; /* set to sizeof(sdb_check_report) before the call */
  uint64_t pages, free_pages, fixed_pages, heap_pages, tree_pages, table_pages, extent_pages;
  uint64_t documents, versions, names, bytes;
  uint64_t problems;
} sdb_check_report;

/* Proves that every page is reachable exactly once or free or held for a reason, that trees, table and records agree, and that
 * every checksum holds. Each problem is told to `problem` (may be NULL) as one sentence; it must not call the database. Writers
 * wait meanwhile, readers do not. SDB_OK also when there are problems: look at the count. SDB_NO_MEMORY, SDB_IO; SDB_SYNC_FAILED
 * where what is in memory is no state of the database any more: open it again. */
SDB_API SDB_MUST_USE int sdb_check(sdb *db, void (*problem)(void *user, const char *sentence), void *user,
                                   sdb_check_report *report);

/* CRC32C of `len` bytes continuing `crc` (0 to begin): the digest of documents. */
SDB_API uint32_t sdb_crc32c(uint32_t crc, const void *data, size_t len);

#ifdef __cplusplus
}
#endif
#endif
