/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* repair.h - a damaged file read in every way there is, and what was found written into a new one.
 *
 *     repair.c        what the database itself still answers; which of the traces counts; the report
 *     repair_scan.c   traces: every record, large content and log record that verifies, wherever it stands
 *     repair_build.c  the new database
 *
 * A trace is one version of one document, found somewhere. There may be several of a version (the cleaner copies, pages that were
 * given up keep their bytes), of documents that were deleted, and of documents whose number another one has by now.
 */
#ifndef SDB_REPAIR_H
#define SDB_REPAIR_H

#include "db.h"
#include "image.h"
#include "sdb/care.h"

/* The heap has what became of a version, the log as it was put; an extent knows neither names nor description. */
enum trace_from { FROM_HEAP, FROM_LOG, FROM_EXTENT };

typedef struct trace {
  uint8_t id[16];
  uint64_t time_ms;
  uint64_t
      seen; /* heap: the checkpoint its page was written for, 0 when its page does not say; log: its commit's sequence number */
  uint32_t page;   /* heap, extent: physical page; log: number in the file's name */
  uint32_t offset; /* in the page or segment; log: of the record */
  uint32_t inside; /* log: of the operation's body in the record's payload */
  uint32_t version;
  uint32_t len; /* log: of the operation's body */
  uint8_t from;
  uint8_t names;
  bool loose; /* found behind bytes that make no sense: it may be part of another document's content */
  bool live;  /* a table page points at it */
} trace;

/* A page that verifies; or one that does not, but still says who it was. */
typedef struct unit {
  uint32_t number, physical;
  uint64_t checkpoint;
  uint8_t kind;
  bool bad;
} unit;

/* From the log: the document was deleted; or one of its names came or went. */
typedef struct notice {
  uint8_t id[16];
  uint64_t sequence;
  struct log_spot {
    uint32_t segment, offset, inside;
  } at;
  uint32_t len;
  uint8_t op;
} notice;

typedef struct list {
  void *items;
  size_t count, cap;
} list;

typedef struct repair {
  env e;
  const char *name;
  sdb_options options;
  sdb_file *file;
  uint64_t size;
  header head;
  bool has_header, log_wanted;
  geometry g;
  uint32_t pages;
  pager *raw; /* reads runs of the damaged file */
  sdb *from;  /* the damaged database, if it opens; read-only */
  sdb *to;    /* the new one */
  uint64_t applied;
  uint8_t *owned; /* a bit a physical page: part of a large content that verifies whole */
  list traces, units, notices, tables;
  uint8_t *buffer;  /* REPAIR_BUFFER: what is read in large parts */
  uint8_t *bytes;   /* REPAIR_BYTES: of the trace that was loaded last */
  uint8_t *content; /* SDB_CHUNK and more: a small content, or a chunk */
  bool bare;        /* the version loaded last is known by its extent only */
  uint8_t *table;   /* a table page; the number of the one that is there, 0: none */
  uint32_t table_loaded;
  uint8_t *done;  /* a bit a document number: saved, or known not to exist */
  uint8_t *newer; /* ... the log knows more than the database that opened */
  uint8_t *named; /* ... its path tree leads to the document */
  bool named_all; /* and it was walked to its end without damage */
  uint64_t done_limit;
  uint64_t sequence; /* highest that was met */
  void (*item)(void *user, const sdb_repair_item *item);
  void *user;
  sdb_repair_report report;
} repair;

enum { REPAIR_BUFFER = 1 << 20, REPAIR_BYTES = 1 << 17, REPAIR_CONTENT = 1 << 18 };

static inline bool bit_at(const uint8_t *bits, uint64_t i) { return bits[i >> 3] >> (i & 7) & 1; }
static inline void bit_put(uint8_t *bits, uint64_t i) { bits[i >> 3] |= (uint8_t)(1u << (i & 7)); }

/* Room for one more item of `unit` bytes; NULL: out of memory. */
void *list_add(repair *rp, list *l, size_t unit);
/* Sorts in place, without memory of its own. */
void sort(void *items, size_t count, size_t unit, int (*compare)(const void *a, const void *b), uint8_t *spare);

/* repair_scan.c */
int scan_pages(repair *rp);
int scan_log(repair *rp);
/* The record of a trace; good until the next call. SDB_CORRUPT: it is not there any more, or does not verify. */
int trace_load(repair *rp, const trace *t, record *r);
/* A page into `page`, decrypted. SDB_CORRUPT: it does not verify, or cannot be read. */
int page_load(repair *rp, uint32_t physical, uint8_t *page);
/* Database id and wrapped key from a log segment, if there is one. */
int log_identity(repair *rp, header *h);
/* Part of a log record's payload, decrypted; good until the next call that loads something. */
int log_load(repair *rp, struct log_spot at, size_t len, const uint8_t **bytes);
/* A large content, also with a damaged head where it can be read without: compare its digest. */
int content_open(env *e, pager *p, const record *r, extent_reader **x);
/* Does the content of a record verify? `e` and `p` are those of the file that it stands in. */
int content_good(repair *rp, env *e, pager *p, const record *r);

/* repair_build.c */
int build_begin(repair *rp, const char *fresh);
/* Adds a version; `first`: the document does not exist in the new database. Its first path is that of `named`. SDB_CONFLICT:
 * another document has the path. SDB_CORRUPT: the content does not verify. */
int build_version(repair *rp, env *e, pager *p, const record *r, const record *named, uint8_t kept, bool first);
/* Binds a further name; one that another document has is left there. */
int build_name(repair *rp, const uint8_t id[16], uint32_t version, const void *name, size_t len);
int build_end(repair *rp);

#endif
