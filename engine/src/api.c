/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api.c - opening, closing, reading single documents, care; the contract is sdb/sdb.h. */
#include <stdio.h>

#include "codec.h"
#include "db.h"

const char *sdb_strerror(int code) {
  switch (code) {
#define SDB_X(name, value, text)                                                                                                   \
  case value: return text;
    SDB_ERRORS(SDB_X)
#undef SDB_X
    default: return "unknown error code";
  }
}

static void message_copy(sdb *db, char *buf, size_t len) {
  mutex_lock(&db->e.message_lock);
  snprintf(buf, len, "%s", db->e.message);
  mutex_unlock(&db->e.message_lock);
}

void sdb_message(sdb *db, char *buf, size_t len) {
  if (!len) return;
  if (handle_check(db) == SDB_OK) message_copy(db, buf, len);
  else snprintf(buf, len, "%s", sdb_strerror(SDB_FORKED));
}

void sdb_options_init(sdb_options *o) {
  *o = (sdb_options){.size = sizeof *o,
                     .create = true,
                     .use_mmap = true,
                     .use_compression = true,
                     .threads = true,
                     .suffix_index = true,
                     .page_size = 8192,
                     .page_cache_size = 2048,
                     .versions_to_keep = 2,
                     .max_document_size = SDB_MAX_DOCUMENT,
                     .max_db_size = 8ull << 40,
                     .durability = SDB_DURABLE,
                     .buffered_interval_ms = 100,
                     .wal_segment_size = 16 << 20,
                     .checkpoint_wal_bytes = 64 << 20,
                     .change_log_bytes = 16 << 20,
                     .worker_threads = 2};
}

void sdb_put_options_init(sdb_put_options *o) { *o = (sdb_put_options){.size = sizeof *o, .expect = SDB_ANY}; }

#define LOG_MOST (1ull << 44) /* twice what a database may have; nobody sees a difference above */

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

static const char *options_wrong(const sdb_options *o) {
  geometry g;
  if (!geometry_init(&g, o->page_size)) return "page_size must be 4096, 8192, 16384, 32768 or 65536";
  if (o->page_cache_size < 64) return "page_cache_size must be at least 64 pages";
  if (o->versions_to_keep < 1 || o->versions_to_keep > 255) return "versions_to_keep must be 1 to 255";
  if (o->max_document_size > SDB_MAX_DOCUMENT) return "max_document_size must be at most 268435456";
  if (o->wal_segment_size % LOG_SECTOR || o->wal_segment_size < 16 * LOG_SECTOR || o->wal_segment_size > 1u << 30)
    return "wal_segment_size must be a multiple of 4096 from 65536 to 1073741824";
  if (o->page_size > o->wal_segment_size / 4) return "wal_segment_size must be at least four times page_size";
  if (o->encryption_key && o->recovery_key) return "encryption_key and recovery_key exclude each other";
  if (o->cipher > SDB_CIPHER_AES_GCM) return "cipher is not one of the known ones";
  if (o->durability > SDB_NONE) return "durability is not one of the known ones";
  if (o->worker_threads > 64) return "worker_threads must be at most 64";
  return o->storage ? storage_wrong(o->storage) : NULL;
}

static pager_config config_of(const sdb *db) {
  return (pager_config){.cache_pages = db->options.page_cache_size,
                        .max_bytes = db->options.max_db_size,
                        .use_mmap = db->options.use_mmap,
                        .fault_guard = db->options.fault_guard,
                        .read_only = db->options.read_only,
                        .key = db->options.recovery_key ? db->options.recovery_key : db->options.encryption_key,
                        .recovery = db->options.recovery_key != NULL,
                        .cipher = db->options.cipher};
}

/* The first checkpoint of a new file: an empty path tree and table. */
static int create_first(const sdb *db, pager *p) {
  roots r = {.doc_limit = 1};
  bool done = false;
  pager_lock(p);
  int rc = tree_create(p, &r.path_tree);
  if (rc == SDB_OK && db->options.suffix_index) rc = tree_create(p, &r.suffix_tree);
  if (r.suffix_tree) r.suffix_built = SUFFIX_COMPLETE;
  if (rc == SDB_OK) rc = table_create(p, &r.table);
  if (rc == SDB_OK) pager_publish(p, pager_checkpoint_begin(p, &r, true), 0);
  pager_unlock(p);
  if (rc != SDB_OK) return rc;
  while (rc == SDB_OK && !done) rc = pager_checkpoint_step(p, 256, &done);
  if (rc == SDB_OK) rc = pager_checkpoint_commit(p, &(log_place){.position = LOG_SECTOR}, true);
  pager_lock(p);
  pager_checkpoint_end(p, rc == SDB_OK);
  pager_unlock(p);
  return rc;
}

/* Fills the locked, empty `file` and gives it the database's name. */
static int create_as(sdb *db, sdb_file *file, const char *fresh) {
  const sdb_storage *st = db->e.storage;
  header h = {.page_size = db->options.page_size, .created_ms = st->now_ms(st->ctx)};
  pager_config config = config_of(db);
  pager *p = NULL;
  if (st->random(st->ctx, h.database_id, sizeof h.database_id) != SDB_OK || st->random(st->ctx, &h.epoch, sizeof h.epoch) != SDB_OK)
    return env_fail(&db->e, SDB_IO, "no randomness for a database id");
  int rc = pager_create(&db->e, file, &config, &h, &p);
  if (rc == SDB_OK) rc = create_first(db, p);
  pager_close(p);
  if (rc != SDB_OK) return rc;
  rc = st->rename(st->ctx, fresh, db->name);
  if (rc == SDB_OK) rc = st->sync_dir(st->ctx, db->name);
  return rc == SDB_OK ? SDB_OK : env_fail(&db->e, rc, "cannot give the new database its name %s: %s", db->name, sdb_strerror(rc));
}

/* Whoever has `fresh` locked is the only one who may give it the database's name, and keeps the lock. Somebody may have done so
 * after we had looked for the database and before we got our lock: then that one is the database, and db->file stays NULL. */
static int create_file(sdb *db, const char *fresh) {
  const sdb_storage *st = db->e.storage;
  sdb_file *file, *other;
  int rc = st->open(st->ctx, fresh, SDB_OPEN_CREATE, &file);
  if (rc == SDB_NOT_FOUND) return env_fail(&db->e, rc, "cannot create %s: its folder does not exist", fresh);
  if (rc == SDB_LOCKED) return env_fail(&db->e, rc, "%s is being created by another process or handle", db->name);
  if (rc != SDB_OK) return env_fail(&db->e, rc, "cannot create %s: %s", fresh, sdb_strerror(rc));
  int found = st->open(st->ctx, db->name, SDB_OPEN_READ, &other);
  if (found == SDB_OK) st->close(other);
  else if (found == SDB_NOT_FOUND) rc = create_as(db, file, fresh);
  else rc = env_fail(&db->e, found, "cannot open %s: %s", db->name, sdb_strerror(found));
  if (rc == SDB_OK && found == SDB_NOT_FOUND) {
    db->file = file;
    return SDB_OK;
  }
  st->remove(st->ctx, fresh); /* not there when it was renamed before the failure */
  st->close(file);
  return rc;
}

static int create(sdb *db) {
  const sdb_storage *st = db->e.storage;
  size_t len = strlen(db->name) + 16;
  char *name = mem_alloc(&db->e, len);
  sdb_file *stale;
  if (!name) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory");
  snprintf(name, len, "%s.log.0000", db->name);
  int rc = st->open(st->ctx, name, SDB_OPEN_READ, &stale);
  if (rc == SDB_OK) {
    st->close(stale);
    rc = env_fail(&db->e, SDB_MISMATCH,
                  "%s does not exist, but %s of an earlier database does; move the log away or put the data file back", db->name,
                  name);
  } else if (rc == SDB_NOT_FOUND) {
    snprintf(name, len, "%s.new", db->name);
    rc = create_file(db, name);
  }
  mem_free(&db->e, name);
  return rc;
}

static int open_file(sdb *db) {
  const sdb_storage *st = db->e.storage;
  unsigned flags = db->options.read_only ? SDB_OPEN_READ : SDB_OPEN_WRITE;
  int rc = st->open(st->ctx, db->name, flags, &db->file);
  if (rc == SDB_NOT_FOUND && db->options.create && !db->options.read_only) {
    rc = create(db);
    if (rc != SDB_OK) return rc;
    if (!db->file) rc = st->open(st->ctx, db->name, flags, &db->file);
  }
  if (rc == SDB_NOT_FOUND) return env_fail(&db->e, rc, "there is no database %s", db->name);
  if (rc != SDB_OK) return env_fail(&db->e, rc, "cannot open %s: %s", db->name, sdb_strerror(rc));
  rc = st->lock(db->file, !db->options.read_only);
  if (rc == SDB_LOCKED) return holder_refuse(db);
  if (rc == SDB_LINKED)
    return env_fail(&db->e, rc,
                    "%s has other names too (hard links), but its log stands beside one of them only; remove the others", db->name);
  return rc == SDB_OK ? SDB_OK : env_fail(&db->e, rc, "cannot lock %s", db->name);
}

/* Log and lock belong to the file, not to one of the names that lead to it. */
static int resolve_name(sdb *db) {
  const sdb_storage *st = db->e.storage;
  enum { LONGEST = 4096 };
  if (!st->resolve) return SDB_OK;
  char *name = mem_alloc(&db->e, LONGEST);
  if (!name) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory while opening the database");
  int rc = st->resolve(st->ctx, db->name, name, LONGEST);
  if (rc == SDB_OK) {
    mem_free(&db->e, db->name);
    db->name = name;
    return SDB_OK;
  }
  mem_free(&db->e, name);
  if (rc == SDB_NOT_FOUND) return env_fail(&db->e, rc, "cannot open %s: its folder does not exist", db->name);
  return env_fail(&db->e, rc, "cannot find out where %s leads: %s", db->name, sdb_strerror(rc));
}

static int sync_contents(void *user) { return pager_sync_owed(user); }

static int open_parts(sdb *db) {
  pager_config config = config_of(db);
  int rc = resolve_name(db);
  if (rc == SDB_OK) rc = open_file(db);
  if (rc == SDB_OK) rc = pager_open(&db->e, db->file, &config, &db->pager);
  if (rc != SDB_OK) return rc;
  const header *h = pager_header(db->pager);
  uint32_t least = 4 * h->page_size; /* the options know of the page size at creation only */
  log_config lc = {.segment_size = db->options.wal_segment_size < least ? least : db->options.wal_segment_size,
                   .keep_bytes = db->options.change_log_bytes,
                   .epoch = h->epoch,
                   .read_only = db->options.read_only};
  lc.before_write = sync_contents;
  lc.user = db->pager;
  memcpy(lc.database_id, h->database_id, 16);
  memcpy(lc.wrapped, h->wrapped, sizeof lc.wrapped);
  db->roots = h->roots;
  db->epoch = h->epoch;
  rc = log_open(&db->e, db->name, &lc, &db->log);
  if (rc == SDB_OK) rc = table_new(&db->e, db->pager, &db->table);
  if (rc == SDB_OK) rc = hints_new(&db->e, db->pager, &db->hints);
  if (rc != SDB_OK) return rc;
  table_set_root(db->table, db->roots.table);
  names_publish_path(db, db->roots.path_tree, true);
  rc = recover(db);
  if (rc != SDB_OK) return rc;
  names_publish_suffix(db, 0);
  if (db->roots.expiry_tree) atomic_store(&db->expiring, true);
  return SDB_OK;
}

static void release(sdb *db) {
  sdb_storage calls = db->storage; /* outlives the handle, which it frees */
  env e = db->e;
  e.storage = &calls;
  async_destroy(db);
  scrub_drop(db);
  log_close(db->log);
  hints_drop(db->hints);
  table_drop(db->table);
  pager_close(db->pager);
  holder_forget(db);
  e.storage->close(db->file);
  mem_free(&e, db->dropped);
  mem_free(&e, db->free_documents);
  mem_free(&e, db->behind.documents);
  mem_free(&e, db->name);
  mutex_destroy(&db->turn);
  mutex_destroy(&db->feed_lock);
  cond_destroy(&db->feed_moved);
  mutex_destroy(&db->work);
  mutex_destroy(&db->bell_lock);
  mutex_destroy(&db->e.message_lock);
  commit_queue_destroy(&db->commits);
  gate_destroy(&db->group_done[0]);
  gate_destroy(&db->group_done[1]);
  cond_destroy(&db->claim_free);
  cond_destroy(&db->bell);
  mem_free(&e, db);
}

/* Which file, unless the sentence says so itself. There may be no open file to ask whose it is: hence not sdb_message(). */
static void open_message(sdb *db, char *buf, size_t len) {
  char text[256];
  message_copy(db, text, sizeof text);
  snprintf(buf, len, "%s%s%s", strstr(text, db->name) ? "" : db->name, strstr(text, db->name) ? "" : ": ", text);
}

int sdb_open(const char *name, const sdb_options *options, sdb **out) {
  sdb_options o;
  sdb_options_init(&o);
  if (options && options->size == sizeof o) o = *options;
  const char *wrong =
      options && options->size != sizeof o ? "options were not set with sdb_options_init of this library" : options_wrong(&o);
  if (!name || !*name || !out) wrong = "a name and a place for the handle are needed";
  if (wrong) {
    if (options && options->size == sizeof o && o.message && o.message_size) snprintf(o.message, o.message_size, "%s", wrong);
    return SDB_INVALID;
  }
  sdb_storage calls;
  storage_adopt(&calls, o.storage ? o.storage : sdb_storage_file());
  env e = {.storage = &calls};
  e.threads = o.threads && SDB_THREADS && e.storage->thread_start;
  sdb *db = mem_new(&e, sizeof *db);
  size_t len = strlen(name) + 1;
  if (db) db->name = mem_alloc(&e, len);
  if (!db || !db->name) {
    mem_free(&e, db);
    if (o.message && o.message_size) snprintf(o.message, o.message_size, "out of memory while opening the database");
    return SDB_NO_MEMORY;
  }
  memcpy(db->name, name, len);
  db->storage = calls;
  db->e.storage = &db->storage;
  db->e.threads = e.threads;
  db->options = o;
  if (o.checkpoint_wal_bytes > LOG_MOST) db->options.checkpoint_wal_bytes = LOG_MOST; /* is multiplied */
  db->read_only = o.read_only;
  db->free_scan = 1;
  db->habit.limit = 63;
  mutex_init(&db->e.message_lock);
  mutex_init(&db->turn);
  mutex_init(&db->feed_lock);
  cond_init(&db->feed_moved);
  mutex_init(&db->work);
  mutex_init(&db->bell_lock);
  commit_queue_init(&db->commits);
  gate_init(&db->group_done[0]);
  gate_init(&db->group_done[1]);
  cond_init(&db->claim_free);
  cond_init(&db->bell);
  async_init(db);
  int rc = open_parts(db);
  if (rc != SDB_OK) {
    if (o.message && o.message_size) open_message(db, o.message, o.message_size);
    release(db);
    return rc;
  }
  db->options.encryption_key = db->options.recovery_key = NULL; /* the caller's; not needed any more */
  holder_tell(db);
  work_start(db);
  sdb_set_quick_mode(db, o.quick_mode);
  *out = db;
  return SDB_OK;
}

static THREAD_LOCAL const struct inside *inside; /* the innermost */

void inside_begin(struct inside *here, const sdb *db) {
  *here = (struct inside){.db = db, .outer = inside};
  inside = here;
}

void inside_end(const struct inside *here) { inside = here->outer; }

static bool inside_of(const sdb *db) {
  const struct inside *i = inside;
  while (i && i->db != db) i = i->outer;
  return i != NULL;
}

int sdb_close(sdb *db) {
  if (!db) return SDB_OK;
  int rc = handle_check(db);
  if (rc != SDB_OK) { /* the file alone: the rest may be half changed, and what it counts on is the parent's */
    db->e.storage->close(db->file);
    return rc;
  }
  if (inside_of(db))
    return env_fail(&db->e, SDB_INVALID, "a callback cannot close the database that calls it; close it when it has returned");
  async_stop(db); /* first: callbacks that still run find the database as it ever was */
  work_stop(db);
  if (!db->read_only && atomic_load(&db->e.sync_failed)) rc = SDB_SYNC_FAILED;
  else if (!db->read_only && log_started(db->log)) rc = work_checkpoint(db, WORK_CLOSE);
  else if (!db->read_only) work_release_spares(db);
  release(db);
  return rc;
}

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

int sdb_wait(sdb *db, uint64_t sequence) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  pager_lock(db->pager);
  uint64_t last = db->last_sequence;
  pager_unlock(db->pager);
  if (sequence > last) return env_fail(&db->e, SDB_INVALID, "commit %llu has not been made", (unsigned long long)sequence);
  return wait_durable(db, sequence);
}

/* Content of a record into `buf`, checked unless in quick mode. */
static int content_read(sdb *db, const record *r, void *buf) {
  bool check = content_is_checked(db, r);
  if (r->flags & RECORD_LARGE) return extent_read(&db->e, db->pager, r, buf, check);
  return content_unpack(db, r, check, buf);
}

int read_get(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap,
             size_t *size, sdb_info *info) {
  record r;
  table_entry entry;
  sdb_info filled;
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  reading in = reading_begin(db, at);
  rc = document_find(db, in.view, in.now_ms, path, path_len, version, &r, &entry);
  size_t found = rc == SDB_OK ? r.size : 0;
  if (rc == SDB_OK && (r.size > cap || (!buf && r.size))) rc = SDB_SMALL_BUFFER;
  if (rc == SDB_OK) rc = content_read(db, &r, buf);
  if (rc == SDB_OK && info) info_fill(&filled, &r, &entry);
  rc = reading_end(db, in, rc);
  if (size && (rc == SDB_OK || rc == SDB_SMALL_BUFFER)) *size = found;
  if (rc == SDB_OK && info) *info = filled;
  atomic_fetch_add_explicit(&db->n.gets, 1, memory_order_relaxed);
  return rc;
}

int read_get_alloc(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, void **data, size_t *size,
                   sdb_info *info) {
  record r;
  table_entry entry;
  sdb_info filled;
  void *copy = NULL;
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  reading in = reading_begin(db, at);
  rc = document_find(db, in.view, in.now_ms, path, path_len, version, &r, &entry);
  if (rc == SDB_OK && !(copy = mem_alloc(&db->e, r.size)))
    rc = env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a document of %u bytes", r.size);
  if (rc == SDB_OK) rc = content_read(db, &r, copy);
  if (rc == SDB_OK && info) info_fill(&filled, &r, &entry);
  size_t len = rc == SDB_OK ? r.size : 0;
  rc = reading_end(db, in, rc);
  if (rc == SDB_OK) {
    *data = copy;
    *size = len;
    if (info) *info = filled;
  }
  if (rc != SDB_OK) mem_free(&db->e, copy);
  atomic_fetch_add_explicit(&db->n.gets, 1, memory_order_relaxed);
  return rc;
}

void sdb_free(sdb *db, void *p) { mem_free(&db->e, p); }

int read_stat(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, sdb_info *info) {
  record r;
  table_entry entry;
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  reading in = reading_begin(db, at);
  rc = document_find(db, in.view, in.now_ms, path, path_len, version, &r, &entry);
  sdb_info filled;
  if (rc == SDB_OK) info_fill(&filled, &r, &entry);
  rc = reading_end(db, in, rc);
  if (rc == SDB_OK) *info = filled;
  return rc;
}

int read_versions(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, sdb_info *infos, size_t cap, size_t *count) {
  record r;
  table_entry entry = {0};
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  reading in = reading_begin(db, at);
  rc = document_find(db, in.view, in.now_ms, path, path_len, SDB_CURRENT, &r, &entry);
  size_t all = rc == SDB_OK ? entry.version - entry.oldest + 1 : 0;
  uint64_t document = rc == SDB_OK ? id_document(r.id) : 0, place;
  version_walk walk = document_walk(&entry);
  for (size_t n = 0; rc == SDB_OK && n < all && n < cap; n++) {
    rc = document_walk_next(db, in.view, document, &walk, &r, &place);
    if (rc == SDB_OK) info_fill(&infos[n], &r, &entry);
  }
  rc = reading_end(db, in, rc);
  if (rc == SDB_OK) *count = all;
  return rc;
}

int read_attributes(sdb *db, const sdb_snapshot *at, const void *path, size_t path_len, uint32_t version, sdb_attributes *a) {
  record r;
  table_entry entry;
  sdb_attributes filled;
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  reading in = reading_begin(db, at);
  rc = document_find(db, in.view, in.now_ms, path, path_len, version, &r, &entry);
  if (rc == SDB_OK) {
    filled = (sdb_attributes){.expires_ms = r.flags & RECORD_EXPIRES ? r.expires_ms : 0};
    if (r.flags & RECORD_TYPE) memcpy(filled.content_type, r.type, r.type_len);
    if (r.flags & RECORD_METADATA && r.metadata_len <= SDB_MAX_METADATA) {
      memcpy(filled.metadata, r.metadata, r.metadata_len);
      filled.metadata_len = r.metadata_len;
    }
  }
  rc = reading_end(db, in, rc);
  if (rc == SDB_OK) *a = filled;
  return rc;
}

/* --- Identity ----------------------------------------------------------------------------------------------------------------- */

int sdb_id_of(sdb *db, const void *path, size_t path_len, uint8_t id[16]) {
  sdb_info info;
  int rc = sdb_stat(db, path, path_len, SDB_CURRENT, &info);
  if (rc == SDB_OK) memcpy(id, info.id, 16);
  return rc;
}

/* One piece of memory: the array, then the bytes. */
static int copy_paths(sdb *db, const record *r, sdb_path **paths, size_t *count) {
  unsigned n = record_names(r);
  sdb_path *list = mem_alloc(&db->e, n * sizeof *list + r->path_len + (r->flags & RECORD_NAMES ? r->names_len : 0));
  if (!list) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for the paths of a document");
  uint8_t *at = (uint8_t *)(list + n);
  for (unsigned i = 0; i < n; i++) {
    const uint8_t *name = record_name(r, i, &list[i].len);
    memcpy(at, name, list[i].len);
    list[i].path = at;
    at += list[i].len;
  }
  *paths = list;
  *count = n;
  return SDB_OK;
}

int read_paths_of(sdb *db, const sdb_snapshot *at, const uint8_t id[16], sdb_path **paths, size_t *count) {
  record r;
  table_entry entry;
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!id || !paths || !count) return env_fail(&db->e, SDB_INVALID, "an id of 16 bytes and a place for the paths are needed");
  reading in = reading_begin(db, at);
  rc = table_get(db->table, in.view, id_document(id), &entry);
  if (rc == SDB_OK) rc = document_version(db, in.view, id_document(id), &entry, SDB_CURRENT, &r);
  if (rc == SDB_OK && (memcmp(r.id, id, 16) != 0 || record_expired(db, &r, in.now_ms))) rc = SDB_NOT_FOUND;
  if (rc == SDB_OK) rc = copy_paths(db, &r, paths, count);
  if (rc == SDB_NOT_FOUND) rc = absent(db, rc);
  int good = reading_end(db, in, rc);
  if (rc == SDB_OK && good != SDB_OK) mem_free(&db->e, *paths);
  return good;
}

int sdb_get(sdb *db, const void *path, size_t path_len, uint32_t version, void *buf, size_t cap, size_t *size, sdb_info *info) {
  return read_get(db, NULL, path, path_len, version, buf, cap, size, info);
}

int sdb_get_alloc(sdb *db, const void *path, size_t path_len, uint32_t version, void **data, size_t *size, sdb_info *info) {
  return read_get_alloc(db, NULL, path, path_len, version, data, size, info);
}

int sdb_stat(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_info *info) {
  return read_stat(db, NULL, path, path_len, version, info);
}

int sdb_versions(sdb *db, const void *path, size_t path_len, sdb_info *infos, size_t cap, size_t *count) {
  return read_versions(db, NULL, path, path_len, infos, cap, count);
}

int sdb_get_attributes(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_attributes *a) {
  return read_attributes(db, NULL, path, path_len, version, a);
}

int sdb_paths_of(sdb *db, const uint8_t id[16], sdb_path **paths, size_t *count) {
  return read_paths_of(db, NULL, id, paths, count);
}

/* --- Encryption --------------------------------------------------------------------------------------------------------------- */

int sdb_change_key(sdb *db, const uint8_t *key) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!key) return env_fail(&db->e, SDB_INVALID, "no key was given");
  if (!db->e.cipher) return env_fail(&db->e, SDB_INVALID, "the database is not encrypted; a key is given when it is made");
  if (db->read_only) return env_fail(&db->e, SDB_READ_ONLY, "the database is open for reading only");
  return work_change_key(db, key);
}

int sdb_key_export(sdb *db, uint8_t *recovery_key) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!recovery_key) return env_fail(&db->e, SDB_INVALID, "no place for the recovery key was given");
  if (pager_data_key(db->pager, recovery_key)) return SDB_OK;
  return env_fail(&db->e, SDB_INVALID, "the database is not encrypted");
}

/* --- Care --------------------------------------------------------------------------------------------------------------------- */

int sdb_flush(sdb *db) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (db->read_only) return SDB_OK;
  if (atomic_load(&db->e.sync_failed)) return env_fail(&db->e, SDB_SYNC_FAILED, "an earlier sync failed; open the database again");
  pager_lock(db->pager);
  uint64_t last = db->last_sequence;
  pager_unlock(db->pager);
  return wait_durable(db, last);
}

int sdb_checkpoint(sdb *db) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (db->read_only) return env_fail(&db->e, SDB_READ_ONLY, "the database is open for reading only");
  if (atomic_load(&db->e.sync_failed)) return env_fail(&db->e, SDB_SYNC_FAILED, "an earlier sync failed; open the database again");
  pager_lock(db->pager);
  bool started = log_started(db->log);
  pager_unlock(db->pager);
  return started ? work_checkpoint(db, WORK_ASKED) : SDB_OK;
}

int sdb_step(sdb *db, unsigned budget, bool *more) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!budget) budget = 1;
  bool some = false, waiting = async_step(db, &budget);
  rc = work_step(db, budget, &some);
  if (more) *more = some || waiting;
  return rc;
}

void sdb_set_quick_mode(sdb *db, bool on) {
  if (handle_check(db) != SDB_OK) return;
  bool was = atomic_exchange(&db->quick, on);
  if (on && !was && db->options.warning)
    db->options.warning(db->options.warning_user,
                        "quick mode is on: contents are not compared with their checksums, and damage to them will be returned");
}

int sdb_get_stats(sdb *db, sdb_stats *s) {
  pager_stats ps;
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  if (!s || s->size != sizeof *s) return env_fail(&db->e, SDB_INVALID, "set sdb_stats.size to sizeof(sdb_stats) before the call");
  memset(s, 0, sizeof *s);
  s->size = sizeof *s;
  pager_get_stats(db->pager, &ps);
  pager_lock(db->pager);
  const header *h = pager_header(db->pager);
  memcpy(s->database_id, h->database_id, 16);
  s->epoch = h->epoch;
  s->page_size = h->page_size;
  s->documents = db->roots.documents;
  s->names = db->roots.names;
  s->content_bytes = db->roots.content_bytes;
  s->suffix_names = db->roots.suffix_names;
  s->suffix_ready = atomic_load(&db->suffix_since) != UINT64_MAX;
  s->heap_pages = db->roots.heap_pages;
  s->heap_live_bytes = db->roots.heap_live;
  s->rebuilding = rebuild_running(db);
  s->repair_needed = db->rebuild.given_up || db->behind.operations > 0;
  pager_unlock(db->pager);
  s->sequence = atomic_load(&db->visible_sequence);
  s->synced_sequence = atomic_load(&db->synced_sequence);
  s->file_bytes = ps.file_bytes;
  s->allocated_bytes = ps.allocated_bytes;
  s->free_bytes = ps.free_pages * s->page_size;
  s->log_bytes = log_bytes(db->log);
  s->dirty_pages = ps.dirty_pages;
  s->cached_pages = ps.cached_pages;
  s->cache_hits = ps.hits;
  s->cache_misses = ps.misses;
  s->snapshots = atomic_load(&db->snapshots);
  s->mapping_faults = ps.faults;
  s->pins = ps.pins;
  s->oldest_pin_sequence = ps.oldest_sequence;
  s->oldest_pin_ms = ps.oldest_us / 1000;
  s->pinned_bytes = ps.pinned_pages * s->page_size;
  s->checkpoints = atomic_load(&db->n.checkpoints);
  s->checkpoint_ms = atomic_load(&db->checkpoint_ms);
  s->puts = atomic_load(&db->n.puts);
  s->gets = atomic_load(&db->n.gets);
  s->deletes = atomic_load(&db->n.deletes);
  s->expired = atomic_load(&db->expired);
  s->commits = atomic_load(&db->n.commits);
  s->syncs = atomic_load(&db->n.syncs);
  s->corruptions = atomic_load(&db->e.corruptions);
  s->quarantined = pager_quarantined(db->pager);
  s->scrubs = atomic_load(&db->scrub.passes);
  s->scrub_done = atomic_load(&db->scrub.done);
  s->scrub_all = atomic_load(&db->scrub.all);
  s->scrub_problems = atomic_load(&db->scrub.problems);
  s->recovered_commits = db->recovered;
  s->requests = async_requests(db);
  s->unchecked_reads = atomic_load(&db->n.unchecked);
  s->quick_mode = atomic_load(&db->quick);
  s->log_damaged = db->log_damaged;
  s->sync_failed = atomic_load(&db->e.sync_failed);
  return SDB_OK;
}
