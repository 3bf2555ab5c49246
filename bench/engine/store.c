/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store.c - which stores this build has. Peers are optional: without their package they are missing from the report. */
#include "store.h"

#include <string.h>

static const store_ops *const all[] = {
    &store_sdb,        &store_sdb_nosuffix, &store_sdb_quick,     &store_sdb_crypt,
    &store_sdb_nommap, &store_sdb_buffered, &store_sdb_log,       &store_floor,
#ifdef BENCH_LMDB
    &store_lmdb,
#endif
#ifdef BENCH_ROCKSDB
    &store_rocksdb,    &store_rocksdb_blob, &store_rocksdb_nolog,
#endif
#ifdef BENCH_SQLITE
    &store_sqlite,
#endif
};

const store_ops *store_find(const char *name) {
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (!strcmp(all[i]->name, name)) return all[i];
  }
  return NULL;
}
