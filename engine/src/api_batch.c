/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_batch.c - operations of several documents in one commit; the contract is sdb/sdb.h.
 *
 * A batch is a growing list of operations, each with one block of memory for what the caller gave. Contents that are large, or that
 * the one log record of the commit has no room for, go into extents at once; so a batch is bounded by its small contents and names.
 */
#include "api_write.h"

enum { MOST_OPERATIONS = 32768 };

struct item {
  uint8_t *block; /* path, name, token, texts, content */
  uint8_t *stored;
  extent_writer *extent;
  sdb_writer *writer;
};

struct sdb_batch {
  sdb *db;
  struct change *ops;
  struct item *items;
  size_t count, op_cap, item_cap;
  size_t log_bytes; /* at least so much the log record will have */
};

int sdb_batch_open(sdb *db, sdb_batch **out) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  sdb_batch *b = mem_new(&db->e, sizeof *b);
  if (!b) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a batch");
  b->db = db;
  *out = b;
  return SDB_OK;
}

void sdb_batch_abort(sdb_batch *b) {
  if (!b || handle_check(b->db) != SDB_OK) return;
  sdb *db = b->db;
  for (size_t i = 0; i < b->count; i++) {
    extent_drop(b->items[i].extent);
    sdb_writer_abort(b->items[i].writer);
    mem_free(&db->e, b->items[i].stored);
    mem_free(&db->e, b->items[i].block);
  }
  mem_free(&db->e, b->ops);
  mem_free(&db->e, b->items);
  mem_free(&db->e, b);
}

size_t sdb_batch_count(const sdb_batch *b) { return b->count; }

/* Room for one more operation, with a block of `len` bytes; it counts once `added` is called. */
static int make_room(sdb_batch *b, size_t len, struct change **op, struct item **item) {
  sdb *db = b->db;
  void *ops = b->ops, *items = b->items;
  if (b->count == MOST_OPERATIONS)
    return env_fail(&db->e, SDB_TOO_LARGE, "a batch has at most %d operations; commit it and begin another", MOST_OPERATIONS);
  bool room = mem_reserve(&db->e, &ops, &b->op_cap, b->count + 1, sizeof *b->ops);
  b->ops = ops;
  room = room && mem_reserve(&db->e, &items, &b->item_cap, b->count + 1, sizeof *b->items);
  b->items = items;
  uint8_t *block = room ? mem_alloc(&db->e, len ? len : 1) : NULL;
  if (!block) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a batch");
  *op = &b->ops[b->count];
  *item = &b->items[b->count];
  **item = (struct item){.block = block};
  return SDB_OK;
}

static int added(sdb_batch *b, size_t log_bytes) {
  struct item *item = &b->items[b->count];
  if (b->log_bytes + log_bytes > log_largest(b->db->log)) {
    extent_drop(item->extent);
    mem_free(&b->db->e, item->stored);
    mem_free(&b->db->e, item->block);
    return env_fail(&b->db->e, SDB_TOO_LARGE, "the batch has as much as one commit can hold; commit it and begin another");
  }
  b->log_bytes += log_bytes;
  b->count++;
  return SDB_OK;
}

/* The content of a put into an extent. */
static int move_out(sdb_batch *b, struct change *op, struct item *item, const void *data, size_t len) {
  sdb *db = b->db;
  item->stored = mem_alloc(&db->e, RUNS_MAX_BYTES);
  if (!item->stored) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a batch");
  pager_lock(db->pager);
  int rc = commit_ready(db);
  pager_unlock(db->pager);
  if (rc == SDB_OK) rc = extent_of(db, op, data, len, &item->extent);
  if (rc != SDB_OK) {
    item->extent = NULL;
    mem_free(&db->e, item->stored);
    item->stored = NULL;
    return rc;
  }
  change_large(op, item->extent, item->stored);
  return SDB_OK;
}

/* A content that stands in the operation, once it turns out that there is no room for it in the record. */
static int move_stored_out(sdb_batch *b, struct change *op, struct item *item) {
  sdb *db = b->db;
  void *data = mem_alloc(&db->e, op->r.size ? op->r.size : 1);
  if (!data) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a batch");
  int rc = content_unpack(db, &op->r, true, data);
  if (rc == SDB_OK) rc = move_out(b, op, item, data, op->r.size);
  mem_free(&db->e, data);
  return rc;
}

static int put_packed(sdb_batch *b, const struct change *asked, const void *data, size_t len, const struct content *packed) {
  struct change *op;
  struct item *item;
  size_t head = (size_t)record_measure(&asked->r) + LOG_OP_HEAD + 8;
  size_t texts = asked->path_len + 16u + asked->r.type_len + asked->r.metadata_len;
  bool large = change_is_large(b->db, asked, packed->stored_len) ||
               b->log_bytes + head + packed->stored_len > log_largest(b->db->log) / 2; /* the rest is for names */
  int rc = make_room(b, texts + (large ? 0 : packed->stored_len), &op, &item);
  if (rc != SDB_OK) return rc;
  *op = *asked;
  uint8_t *at = item->block;
  change_keep(op, &at);
  if (!large) {
    change_small(op, packed);
    if (packed->stored_len) memcpy(at, packed->stored, packed->stored_len);
    op->r.stored = at;
    return added(b, head + packed->stored_len);
  }
  rc = move_out(b, op, item, data, len);
  if (rc == SDB_OK) return added(b, head + op->r.stored_len);
  mem_free(&b->db->e, item->block);
  return rc;
}

int sdb_batch_put(sdb_batch *b, const void *path, size_t path_len, const void *data, size_t len, const sdb_put_options *o) {
  sdb *db = b->db;
  struct change asked;
  struct content packed;
  int rc = change_put(db, &asked, path, path_len, o);
  if (rc == SDB_OK && !data && len) rc = env_fail(&db->e, SDB_INVALID, "no data was given, but %zu bytes of it", len);
  if (rc == SDB_OK) rc = document_size_check(db, len);
  if (rc != SDB_OK) return rc;
  content_pack(db, data, len, &packed);
  rc = put_packed(b, &asked, data, len, &packed);
  content_drop(db, &packed);
  return rc;
}

int sdb_batch_put_writer(sdb_batch *b, sdb_writer *w) {
  struct change *op;
  struct item *item;
  int rc = handle_check(b->db);
  if (rc != SDB_OK) return rc;
  rc = w->db == b->db ? SDB_OK : env_fail(&b->db->e, SDB_INVALID, "the writer belongs to another database");
  if (rc == SDB_OK) rc = writer_end(w, w->gathered + b->log_bytes + RECORD_HEAD > log_largest(b->db->log) / 2);
  if (rc == SDB_OK) rc = make_room(b, 0, &op, &item);
  if (rc == SDB_OK) {
    *op = w->change;
    rc = added(b, (size_t)record_measure(&w->change.r) + LOG_OP_HEAD + 8);
  }
  if (rc == SDB_OK) item->writer = w;
  else sdb_writer_abort(w);
  return rc;
}

/* Operations without content: a path, perhaps a name, a condition. */
static int add_plain(sdb_batch *b, uint8_t code, const void *path, size_t path_len, const void *name, size_t name_len,
                     uint32_t expect) {
  struct change *op;
  struct item *item;
  int rc = path_check(b->db, path, path_len);
  if (rc == SDB_OK && name) rc = path_check(b->db, name, name_len);
  if (rc == SDB_OK) rc = make_room(b, path_len + name_len, &op, &item);
  if (rc != SDB_OK) return rc;
  memcpy(item->block, path, path_len);
  if (name) memcpy(item->block + path_len, name, name_len);
  *op = (struct change){.op = code, .path = item->block, .path_len = path_len, .expect = expect};
  if (name) op->name = item->block + path_len, op->name_len = name_len;
  if (code == OP_UNBIND) op->name = item->block, op->name_len = path_len;
  return added(b, LOG_OP_HEAD + OP_NAMES_HEAD + 16 + path_len + name_len);
}

int sdb_batch_delete(sdb_batch *b, const void *path, size_t path_len, uint32_t expect) {
  return add_plain(b, OP_DELETE, path, path_len, NULL, 0, expect);
}

int sdb_batch_bind(sdb_batch *b, const void *path, size_t path_len, const void *name, size_t name_len, uint32_t expect) {
  int rc = handle_check(b->db);
  if (rc == SDB_OK && !name) rc = env_fail(&b->db->e, SDB_INVALID, "a name of 1 to %u bytes is needed", SDB_MAX_PATH);
  if (rc != SDB_OK) return rc;
  return add_plain(b, OP_BIND, path, path_len, name, name_len, expect);
}

int sdb_batch_unbind(sdb_batch *b, const void *name, size_t name_len, uint32_t expect) {
  return add_plain(b, OP_UNBIND, name, name_len, NULL, 0, expect);
}

int sdb_batch_expect(sdb_batch *b, const void *path, size_t path_len, uint32_t version) {
  return add_plain(b, OP_EXPECT, path, path_len, NULL, 0, version);
}

/* Once more with what did not fit beside its document's names, or after making room. */
static int attempt(sdb_batch *b, struct commit *q) {
  int rc = commit_try(b->db, q);
  while (rc == SDB_TOO_LARGE && q->failed < q->count && q->ops[q->failed].op == OP_PUT && !q->ops[q->failed].extent) {
    rc = move_stored_out(b, &q->ops[q->failed], &b->items[q->failed]);
    if (rc == SDB_OK) rc = commit_try(b->db, q);
  }
  return rc;
}

static void count_one(sdb *db, const struct change *c) {
  if (c->code != SDB_OK) return;
  if (c->op == OP_PUT) atomic_fetch_add_explicit(&db->n.puts, 1, memory_order_relaxed);
  if (c->op == OP_DELETE) atomic_fetch_add_explicit(&db->n.deletes, 1, memory_order_relaxed);
}

int sdb_batch_commit(sdb_batch *b, const sdb_put_options *o, sdb_batch_result *results, size_t cap, size_t *failed) {
  struct change unused;
  struct commit q = {.ops = b->ops,
                     .count = (unsigned)b->count,
                     .durability = o ? o->durability : SDB_DEFAULT,
                     .defer = o && o->defer,
                     .lenient = true,
                     .failed = (unsigned)b->count};
  int rc = change_put(b->db, &unused, "x", 1, o);
  if (rc == SDB_OK) rc = attempt(b, &q);
  if (failed) *failed = q.failed;
  for (size_t i = 0; rc == SDB_OK && i < b->count; i++) {
    if (results && i < cap) results[i] = (sdb_batch_result){.code = q.ops[i].code, .commit = q.ops[i].result};
    count_one(b->db, &q.ops[i]);
  }
  sdb_batch_abort(b);
  return rc;
}
