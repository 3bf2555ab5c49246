/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_cursor.c - searches: a walk over a range of the path tree or of the suffix tree; the contract is sdb/sdb.h.
 *
 * In both trees the search is the same: keys that begin with `head` and end with `tail`.
 *
 *     by path     head = prefix             tail = suffix
 *     by suffix   head = suffix reversed    tail = prefix reversed       (and the keys are paths reversed)
 *
 * The head is a range of the tree, the tail is tested at each of its keys. Entries are fetched by batches, so that one stay in the
 * pager serves many of them and the tree goes on in the leaf where it is.
 */
#include "db.h"

enum {
  FIRST_BATCH = 16,
  BATCH = 128,
  BATCH_BYTES = 16384,
  ITEM_BYTES = SDB_MAX_PATH + SDB_MAX_CONTENT_TYPE + SDB_MAX_METADATA,
  STAY = 4096, /* keys examined in one stay in the pager */
  PROBE = 256  /* keys of each range counted in lockstep before the rest is estimated */
};

/* One behind the other in the text: path, content type, metadata. */
struct item {
  uint32_t offset;
  uint16_t len, metadata_len;
  uint8_t type_len;
};

struct bytes {
  uint16_t len;
  uint8_t at[SDB_MAX_PATH];
};

struct sdb_cursor {
  sdb *db;
  uint64_t view, now_ms;
  sdb_order order;
  bool infos, attributes, ended, paused;
  int failed;           /* behind the entries of the batch */
  uint64_t left;        /* of the limit */
  uint64_t budget;      /* 0: none */
  uint64_t spent;       /* of the budget */
  unsigned batch;       /* entries to fetch next time */
  unsigned next, count; /* in items */
  size_t used;          /* of text */
  const uint8_t *place; /* what the caller knows of: where to go on behind */
  size_t place_len;
  struct bytes head, tail, passed;
  tree_cursor tree;
  struct item items[BATCH];
  sdb_info info[BATCH]; /* where they are wanted: a search for paths alone does not touch them */
  uint8_t text[BATCH_BYTES];
};

/* --- Bytes forwards and backwards --------------------------------------------------------------------------------------------- */

static void copy(const sdb_cursor *c, uint8_t *to, const void *bytes, size_t len) {
  if (c->order == SDB_ORDER_SUFFIX) bytes_reverse(to, bytes, len);
  else if (len) memcpy(to, bytes, len);
}

static void keep(const sdb_cursor *c, struct bytes *to, const void *bytes, size_t len) {
  copy(c, to->at, bytes, len);
  to->len = (uint16_t)len;
}

static bool begins(const tree_cursor *t, const struct bytes *head) {
  return t->key_len >= head->len && memcmp(t->key, head->at, head->len) == 0;
}

static bool ends(const tree_cursor *t, const struct bytes *tail) {
  if (tail->len == 0) return true;
  return t->key_len >= tail->len && memcmp(t->key + t->key_len - tail->len, tail->at, tail->len) == 0;
}

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

void sdb_cursor_options_init(sdb_cursor_options *o) { *o = (sdb_cursor_options){.size = sizeof *o}; }

static int options_check(sdb *db, const sdb_cursor_options *o) {
  if (o->size != sizeof *o || o->order > SDB_ORDER_SUFFIX)
    return env_fail(&db->e, SDB_INVALID, "cursor options were not set with sdb_cursor_options_init of this library");
  bool missing = (!o->prefix && o->prefix_len) || (!o->suffix && o->suffix_len) || (!o->after && o->after_len);
  if (missing || o->prefix_len > SDB_MAX_PATH || o->suffix_len > SDB_MAX_PATH || o->after_len > SDB_MAX_PATH)
    return env_fail(&db->e, SDB_INVALID, "a prefix, a suffix and a position have at most %u bytes", SDB_MAX_PATH);
  if (o->order == SDB_ORDER_AUTO && o->after_len && o->prefix_len && o->suffix_len)
    return env_fail(&db->e, SDB_INVALID, "a search by prefix and suffix goes on in the order that it began with; say which");
  return SDB_OK;
}

/* One key further in both ranges by turns: the one that ends first is the shorter. If neither does soon, their parts of the two
 * trees, which have equally many keys, are compared. A range that cannot be read is not chosen. */
static sdb_order shorter(sdb_cursor *c, uint32_t suffix_tree) {
  const struct bytes *prefix = &c->head, *suffix = &c->tail;
  pager *p = c->db->pager;
  tree_cursor by_path, by_suffix;
  uint64_t document;
  double path_share = 1, suffix_share = 1;
  uint32_t path_tree = names_path_tree(c->db, c->view);
  tree_cursor_init(&by_path, p, c->view, path_tree, prefix->at, prefix->len, false);
  tree_cursor_init(&by_suffix, p, c->view, suffix_tree, suffix->at, suffix->len, false);
  for (unsigned i = 0; i < PROBE; i++) {
    int rc = tree_cursor_next(&by_path, &document);
    if (rc == SDB_OK && !begins(&by_path, prefix)) rc = SDB_END;
    if (rc != SDB_OK) return rc == SDB_END ? SDB_ORDER_PATH : SDB_ORDER_SUFFIX;
    rc = tree_cursor_next(&by_suffix, &document);
    if (rc == SDB_OK && !begins(&by_suffix, suffix)) rc = SDB_END;
    if (rc != SDB_OK) return rc == SDB_END ? SDB_ORDER_SUFFIX : SDB_ORDER_PATH;
  }
  int rc = tree_share(p, c->view, path_tree, prefix->at, prefix->len, &path_share);
  if (rc == SDB_OK) rc = tree_share(p, c->view, suffix_tree, suffix->at, suffix->len, &suffix_share);
  return rc == SDB_OK && suffix_share < path_share ? SDB_ORDER_SUFFIX : SDB_ORDER_PATH;
}

/* Decides the order, and finds the tree that goes with it. */
static int choose(sdb_cursor *c, const sdb_cursor_options *o, uint32_t *root) {
  sdb *db = c->db;
  bool both = o->prefix_len && o->suffix_len;
  c->order = o->order;
  if (c->order == SDB_ORDER_AUTO && !both) c->order = o->suffix_len ? SDB_ORDER_SUFFIX : SDB_ORDER_PATH;
  *root = names_path_tree(db, c->view);
  if (c->order == SDB_ORDER_PATH) return SDB_OK;
  int rc = names_suffix_tree(db, c->view, root);
  if (c->order == SDB_ORDER_SUFFIX) return rc;
  if (rc != SDB_OK) {
    c->order = SDB_ORDER_PATH;
    return SDB_OK;
  }
  c->order = SDB_ORDER_PATH; /* each as it stands in its tree */
  keep(c, &c->head, o->prefix, o->prefix_len);
  c->order = SDB_ORDER_SUFFIX;
  keep(c, &c->tail, o->suffix, o->suffix_len);
  unsigned slot = pager_enter(db->pager);
  c->order = shorter(c, *root);
  pager_leave(db->pager, slot);
  if (c->order == SDB_ORDER_PATH) *root = names_path_tree(db, c->view);
  return SDB_OK;
}

/* To the head's range, or behind `after` if that is later. */
static void start(sdb_cursor *c, const sdb_cursor_options *o, uint32_t root) {
  bool by_path = c->order == SDB_ORDER_PATH;
  keep(c, &c->head, by_path ? o->prefix : o->suffix, by_path ? o->prefix_len : o->suffix_len);
  keep(c, &c->tail, by_path ? o->suffix : o->prefix, by_path ? o->suffix_len : o->prefix_len);
  keep(c, &c->passed, o->after, o->after_len);
  const struct bytes *head = &c->head, *after = &c->passed;
  size_t both = after->len < head->len ? after->len : head->len;
  int order = memcmp(after->at, head->at, both);
  bool behind = after->len > 0 && (order > 0 || (order == 0 && after->len >= head->len));
  const struct bytes *from = behind ? after : head;
  tree_cursor_init(&c->tree, c->db->pager, c->view, root, from->at, from->len, behind);
  if (after->len) memcpy(c->passed.at, o->after, after->len); /* from here on as the caller sees it */
  c->place = c->passed.at;
  c->place_len = c->passed.len;
}

int cursor_open(sdb *db, const sdb_snapshot *at, const sdb_cursor_options *o, sdb_cursor **out) {
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  sdb_cursor_options all;
  uint32_t root;
  sdb_cursor_options_init(&all);
  if (!o) o = &all;
  rc = options_check(db, o);
  if (rc != SDB_OK) return rc;
  sdb_cursor *c = mem_alloc(&db->e, sizeof *c);
  if (!c) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a search");
  c->db = db;
  c->infos = o->infos;
  c->attributes = o->attributes;
  c->ended = c->paused = false;
  c->failed = SDB_OK;
  c->left = o->limit ? o->limit : UINT64_MAX;
  c->budget = o->budget;
  c->spent = 0;
  c->batch = o->limit && o->limit < BATCH ? (unsigned)o->limit : FIRST_BATCH;
  c->next = c->count = 0;
  c->view = 0;
  c->now_ms = at ? at->now_ms : 0;
  rc = reading_pin(db, at, &c->view, NULL);
  if (rc == SDB_OK) rc = choose(c, o, &root);
  if (rc != SDB_OK) {
    sdb_cursor_close(c);
    return rc;
  }
  start(c, o, root);
  *out = c;
  return SDB_OK;
}

int sdb_cursor_open(sdb *db, const sdb_cursor_options *o, sdb_cursor **cursor) { return cursor_open(db, NULL, o, cursor); }

void sdb_cursor_close(sdb_cursor *c) {
  if (!c || handle_check(c->db) != SDB_OK) return;
  if (c->view) pager_unpin(c->db->pager, c->view);
  mem_free(&c->db->e, c);
}

/* --- Walking ------------------------------------------------------------------------------------------------------------------ */

static void keep_attributes(sdb_cursor *c, struct item *it, const record *r) {
  uint8_t *to = c->text + it->offset + it->len;
  if (r->flags & RECORD_TYPE) {
    it->type_len = r->type_len;
    memcpy(to, r->type, r->type_len);
  }
  if (r->flags & RECORD_METADATA && r->metadata_len <= SDB_MAX_METADATA) {
    it->metadata_len = r->metadata_len;
    memcpy(to + it->type_len, r->metadata, r->metadata_len);
  }
}

/* What is to be known of the document of a key. SDB_NOT_FOUND: it has expired. */
static int look(sdb_cursor *c, uint64_t document, struct item *it) {
  sdb *db = c->db;
  table_entry entry;
  record r;
  bool wanted = c->infos || c->attributes;
  if (!wanted && !atomic_load_explicit(&db->expiring, memory_order_relaxed)) return SDB_OK;
  int rc = table_get(db->table, c->view, document, &entry);
  if (rc == SDB_NOT_FOUND)
    return env_fail(&db->e, SDB_CORRUPT, "a path names a document that the table does not have; restore a copy");
  if (rc != SDB_OK || (!wanted && !entry.expires)) return rc;
  rc = document_version(db, c->view, document, &entry, SDB_CURRENT, &r);
  if (rc != SDB_OK) return rc;
  if (record_expired(db, &r, c->now_ms)) return SDB_NOT_FOUND;
  entry.oldest = document_oldest(&entry, &r);
  if (c->infos) {
    c->info[c->count] = (sdb_info){0};
    info_fill(&c->info[c->count], &r, &entry);
  }
  if (c->attributes) keep_attributes(c, it, &r);
  return SDB_OK;
}

/* Examines one key more; into the batch if it fits. SDB_END: none further in the range. */
static int fetch_one(sdb_cursor *c) {
  uint64_t document;
  int rc = tree_cursor_next(&c->tree, &document);
  if (rc == SDB_CORRUPT) names_note_damage(c->db, c->tree.root);
  if (rc != SDB_OK) return rc;
  if (!begins(&c->tree, &c->head)) return SDB_END;
  c->spent++;
  if (!ends(&c->tree, &c->tail)) return SDB_OK;
  struct item *it = &c->items[c->count];
  *it = (struct item){.offset = (uint32_t)c->used, .len = (uint16_t)c->tree.key_len};
  rc = look(c, document, it);
  if (rc != SDB_OK) return rc == SDB_NOT_FOUND ? SDB_OK : rc;
  copy(c, c->text + c->used, c->tree.key, c->tree.key_len);
  c->used += (size_t)it->len + it->type_len + it->metadata_len;
  c->count++;
  return SDB_OK;
}

static bool budget_used(const sdb_cursor *c) { return c->budget && c->spent >= c->budget; }

static void fetch(sdb_cursor *c) {
  int rc = SDB_OK;
  unsigned most = c->left < c->batch ? (unsigned)c->left : c->batch;
  c->next = c->count = 0;
  c->used = 0;
  if (c->place != c->passed.at) { /* stands in the text */
    memcpy(c->passed.at, c->place, c->place_len);
    c->passed.len = (uint16_t)c->place_len;
    c->place = c->passed.at;
  }
  unsigned slot = pager_enter(c->db->pager);
  for (unsigned i = 0; i < STAY && rc == SDB_OK && c->count < most && c->used + ITEM_BYTES <= BATCH_BYTES && !budget_used(c); i++)
    rc = fetch_one(c);
  tree_cursor_pause(&c->tree);
  if (trusted(c->db, slot, SDB_OK) != SDB_OK) { /* none of the batch counts */
    rc = SDB_IO;
    c->count = 0;
  }
  pager_leave(c->db->pager, slot);
  c->batch = BATCH;
  c->left -= c->count;
  if (rc == SDB_OK && c->left == 0) c->ended = true;
  else if (rc == SDB_OK) c->paused = budget_used(c);
  if (rc == SDB_END) rc = absent(c->db, rc);
  if (rc == SDB_END) c->ended = true;
  else c->failed = rc; /* the entry that failed must not be passed over: told behind the good ones, and from then on */
}

int sdb_cursor_next(sdb_cursor *c, sdb_entry *entry) {
  int rc = handle_check(c->db);
  if (rc != SDB_OK) return rc;
  while (c->next == c->count) {
    if (c->ended) return SDB_END;
    if (c->failed != SDB_OK) return c->failed;
    if (c->paused) {
      c->paused = false;
      c->spent = 0;
      keep(c, &c->passed, c->tree.key, c->tree.key_len);
      c->place = c->passed.at;
      c->place_len = c->passed.len;
      return SDB_MORE;
    }
    fetch(c);
  }
  const struct item *it = &c->items[c->next++];
  c->place = c->text + it->offset;
  c->place_len = it->len;
  const uint8_t *type = c->place + it->len, *metadata = type + it->type_len;
  *entry = (sdb_entry){.path = c->place,
                       .path_len = c->place_len,
                       .content_type = it->type_len ? (const char *)type : NULL,
                       .content_type_len = it->type_len,
                       .metadata = it->metadata_len ? metadata : NULL,
                       .metadata_len = it->metadata_len};
  if (c->infos) entry->info = c->info[c->next - 1];
  return SDB_OK;
}

void sdb_cursor_position(const sdb_cursor *c, sdb_order *order, const void **after, size_t *after_len) {
  *order = c->order;
  *after = c->place;
  *after_len = c->place_len;
}
