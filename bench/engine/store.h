/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store.h - what a workload sees of a store, so that the same loop drives all of them.
 *
 * A store lives in a directory of its own. All functions die() on an error. Workloads of several threads use StreamDB, LMDB and
 * RocksDB only, which bear it; a function that a store cannot offer is NULL, and the plan gives the store no such work.
 */
#ifndef BENCH_STORE_H
#define BENCH_STORE_H

#include "bench.h"

/* The cache that every store with one of its own is given: 16,384 pages of 8 KB. */
#define CACHE_PAGES 16384u
#define CACHE_BYTES ((size_t)CACHE_PAGES * 8192)

typedef struct store_ops {
  const char *name;
  void *(*open)(const char *dir);
  void (*close)(void *store);
  /* Visible to everybody on return; `durable`: and on the device. */
  void (*put)(void *store, const path *p, const void *data, size_t size, bool durable);
  /* Copies the content into `buf`, which is large enough, and returns its size; SIZE_MAX: there is none. */
  size_t (*get)(void *store, const path *p, void *buf, size_t cap);
  void (*erase)(void *store, const path *p);
  /* Calls nobody: looks at every path that begins with the prefix, adds up its bytes in *sum, and returns how many there are. */
  size_t (*scan)(void *store, const path *prefix, uint64_t *sum);
  /* The same for paths that end with the suffix. NULL: the store has no such search. */
  size_t (*scan_suffix)(void *store, const path *suffix, uint64_t *sum);
  /* What was put is on the device. */
  void (*flush)(void *store);
  /* What was put is where a clean open finds it without replaying a log. */
  void (*checkpoint)(void *store);
  /* Background work has come to rest. */
  void (*settle)(void *store);
  /* One large document, in pieces of at most 1 MB: written durably; read into `buf` of 1 MB over and over. */
  void (*write_large)(void *store, const path *p, const uint8_t *data, size_t size);
  size_t (*read_large)(void *store, const path *p, uint8_t *buf, size_t piece);
} store_ops;

extern const store_ops store_sdb;          /* StreamDB at its defaults, except the cache */
extern const store_ops store_sdb_nosuffix; /* the same without the suffix index */
extern const store_ops store_sdb_quick;    /* the same in quick mode */
extern const store_ops store_sdb_crypt;    /* the same, encrypted */
extern const store_ops store_sdb_nommap;   /* the same without mmap */
extern const store_ops store_sdb_buffered; /* the same, puts that are not durable being buffered instead of none */
extern const store_ops store_sdb_log;      /* the same with 1 GB of log between checkpoints, to have something to recover */
extern const store_ops store_floor;        /* no store at all: what the device and memory can do */
extern const store_ops store_lmdb;
extern const store_ops store_rocksdb;       /* with its log, not synced unless durable */
extern const store_ops store_rocksdb_blob;  /* the same, with values in blob files */
extern const store_ops store_rocksdb_nolog; /* without a log: puts are on the device after a flush */
extern const store_ops store_sqlite;

/* The store of that name, or NULL when this build has none. */
const store_ops *store_find(const char *name);

#endif
