/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* judge.c - what an operation means in the newest state: which document, is the condition met, which version, which names.
 *
 * Everything that chance, clock or options decide is decided here and written into the change, so that the log record says it and
 * replay asks nobody (I5). Operations of one commit are judged one after the other, each in the state left by those before it.
 *
 * Claims: a large content carries the identity of its version in its first run, which is synced before the commit. So its commit is
 * rehearsed, its documents and paths are claimed, and whoever else wants to write them waits until it is through.
 */
#include "db.h"

/* --- Claims ------------------------------------------------------------------------------------------------------------------- */

static bool claim_conflicts(const sdb *db, uint64_t document, const void *path, size_t len) {
  for (const struct claim *c = db->claims; c; c = c->next)
    if ((document && c->document == document) || (path && c->path_len == len && memcmp(c->path, path, len) == 0)) return true;
  return false;
}

static int conflicts(sdb *db, const struct change *c, bool *conflict) {
  uint64_t document = c->id ? id_document(c->id) : 0, named = 0;
  int rc = c->path ? names_get(db, VIEW_HEAD, c->path, c->path_len, &document) : SDB_OK;
  if (rc == SDB_OK && c->name) rc = names_get(db, VIEW_HEAD, c->name, c->name_len, &named);
  if (rc != SDB_OK && rc != SDB_NOT_FOUND) return rc;
  *conflict = claim_conflicts(db, document, c->path, c->path_len) || claim_conflicts(db, named, c->name, c->name_len);
  return SDB_OK;
}

int claims_wait(sdb *db, struct change *ops, unsigned count, unsigned *slot) {
  for (unsigned i = 0; db->claims && i < count; i++) {
    bool conflict;
    int rc = conflicts(db, &ops[i], &conflict);
    if (rc != SDB_OK) return rc;
    if (!conflict) continue;
    if (!db->e.threads) return env_fail(&db->e, SDB_INTERNAL, "a large write of the same document is being committed");
    change_leave(db, *slot); /* who waits holds nobody up */
    cond_wait(&db->claim_free, pager_mutex(db->pager));
    *slot = change_enter(db);
    i = UINT32_MAX; /* from the first one again */
  }
  return SDB_OK;
}

static void claim(sdb *db, struct claim *c, uint64_t document, const void *path, size_t len) {
  *c = (struct claim){.next = db->claims, .document = document, .path = path, .path_len = len};
  db->claims = c;
}

void claims_take(sdb *db, struct change *ops, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    claim(db, &ops[i].claims[0], ops[i].document, ops[i].path, ops[i].path_len);
    claim(db, &ops[i].claims[1], 0, ops[i].name, ops[i].name_len);
  }
}

void claims_release(sdb *db, struct change *ops, unsigned count) {
  struct claim **at = &db->claims;
  const struct change *end = ops + count;
  while (*at) {
    const char *c = (const char *)*at;
    if (c >= (const char *)ops && c < (const char *)end) *at = (*at)->next;
    else at = &(*at)->next;
  }
  cond_broadcast(&db->claim_free);
}

/* --- What is there ------------------------------------------------------------------------------------------------------------ */

/* Nothing: the document that the path led to has another name, or none. A put makes a new one; others must not act on a guess. */
static int stray(sdb *db, struct change *c) {
  if (c->op != OP_PUT)
    return env_fail(&db->e, SDB_CORRUPT, "a path leads to document %llu, which does not have that name; write it again",
                    (unsigned long long)c->document);
  c->stray = c->document;
  c->document = 0;
  c->entry = (table_entry){0};
  c->has_old = false;
  return SDB_OK;
}

/* The current record is damaged, and the number may be another document's by now: the version before says whose it is. */
static int judge_predecessor(sdb *db, struct change *c) {
  record r;
  int rc = c->entry.previous ? document_version(db, VIEW_HEAD, c->document, &c->entry, c->entry.version - 1, &r) : SDB_CORRUPT;
  if (rc == SDB_CORRUPT)
    return env_fail(&db->e, rc,
                    "the document with that number is damaged, and it is not known whether it has that id; use its path");
  if (rc == SDB_OK && memcmp(c->id, r.id, 16) != 0) c->document = 0;
  return rc;
}

static int read_current(sdb *db, struct change *c, uint64_t now_ms) {
  int rc = table_get(db->table, VIEW_HEAD, c->document, &c->entry);
  if (rc == SDB_NOT_FOUND && c->id) {
    c->document = 0;
    return SDB_OK;
  }
  if (rc == SDB_NOT_FOUND) return stray(db, c);
  if (rc != SDB_OK) return rc;
  rc = document_version(db, VIEW_HEAD, c->document, &c->entry, SDB_CURRENT, &c->old);
  if (rc == SDB_CORRUPT && c->id) return judge_predecessor(db, c);
  if (rc == SDB_CORRUPT) return SDB_OK; /* a new version heals a damaged one: number and predecessor still count */
  if (rc != SDB_OK) return rc;
  c->has_old = true;
  c->entry.oldest = document_oldest(&c->entry, &c->old);
  if (c->id && memcmp(c->id, c->old.id, 16) != 0) { /* another document took the number over */
    c->document = 0;
    c->has_old = false;
    return SDB_OK;
  }
  if (c->path && !record_has_name(&c->old, c->path, c->path_len)) return stray(db, c);
  c->expired = record_expired(db, &c->old, now_ms);
  return SDB_OK;
}

static int find(sdb *db, struct change *c, uint64_t now_ms) {
  c->document = c->id ? id_document(c->id) : 0;
  c->entry = (table_entry){0};
  c->has_old = c->expired = false;
  c->stray = 0;
  if (c->path) {
    int rc = names_get(db, VIEW_HEAD, c->path, c->path_len, &c->document);
    if (rc == SDB_NOT_FOUND) return SDB_OK;
    if (rc != SDB_OK) return rc;
  }
  return read_current(db, c, now_ms);
}

/* --- Conditions --------------------------------------------------------------------------------------------------------------- */

static int check_expectation(sdb *db, const struct change *c) {
  uint32_t version = c->expired ? 0 : c->entry.version;
  if (c->expect == SDB_ANY || c->expect == version) return SDB_OK;
  if (c->expect == SDB_ABSENT) return env_fail(&db->e, SDB_CONFLICT, "the document exists already, at version %u", version);
  if (!version) return env_fail(&db->e, SDB_CONFLICT, "version %u was expected, but there is no document", c->expect);
  return env_fail(&db->e, SDB_CONFLICT, "version %u was expected, but %u is current", c->expect, version);
}

/* Has a kept version been made by the write that carries this token? Only what is damaged is passed over: a version that cannot be
 * read just now may be the one, and the write would be done twice. */
static int token_find(sdb *db, const struct change *c, record *found, bool *known) {
  *known = false;
  if (!(c->r.flags & RECORD_TOKEN) || !c->document || c->expired) return SDB_OK;
  uint32_t oldest = document_oldest(&c->entry, c->has_old ? &c->old : NULL);
  version_walk walk = document_walk(&c->entry);
  while (walk.version >= oldest && !*known) {
    uint64_t place;
    int rc = document_walk_next(db, VIEW_HEAD, c->document, &walk, found, &place);
    if (rc != SDB_OK && rc != SDB_CORRUPT) return rc;
    *known = rc == SDB_OK && found->token && memcmp(found->token, c->r.token, 16) == 0;
  }
  return SDB_OK;
}

/* --- Decisions ---------------------------------------------------------------------------------------------------------------- */

static int new_id(sdb *db, uint8_t id[16], uint64_t document, uint64_t now_ms) {
  const sdb_storage *st = db->e.storage;
  if (db->random_left < 16) {
    if (st->random(st->ctx, db->random, sizeof db->random) != SDB_OK)
      return env_fail(&db->e, SDB_IO, "no randomness for a document id");
    db->random_left = sizeof db->random;
  }
  db->random_left -= 16;
  id_make(id, db->random + db->random_left, document, now_ms);
  return SDB_OK;
}

/* A damaged document is put again: those names of the version before that still lead to it go on. Names that came later only the
 * damaged record had; they answer SDB_CORRUPT until they are written. */
static int keep_names(sdb *db, struct change *c) {
  record r;
  int rc = c->entry.previous ? document_version(db, VIEW_HEAD, c->document, &c->entry, c->entry.version - 1, &r) : SDB_CORRUPT;
  if (rc != SDB_OK) return rc == SDB_NO_MEMORY ? rc : SDB_OK;
  mem_free(&db->e, c->scratch); /* of a rehearsal */
  uint8_t *at = c->scratch = mem_alloc(&db->e, (size_t)MAX_NAMES * (2 + SDB_MAX_PATH));
  if (!at) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for the names of a document");
  unsigned count = 0;
  for (unsigned i = 0; i < record_names(&r) && count < MAX_NAMES - 1; i++) {
    size_t len;
    uint64_t document;
    const uint8_t *name = record_name(&r, i, &len);
    if (len == c->path_len && memcmp(name, c->path, len) == 0) continue;
    if (names_get(db, VIEW_HEAD, name, len, &document) != SDB_OK || document != c->document) continue;
    put16(at, (uint16_t)len);
    memcpy(at + 2, name, len);
    at += 2 + len;
    count++;
  }
  c->r.flags |= count ? RECORD_NAMES : 0;
  c->r.names = c->scratch;
  c->r.names_len = (uint32_t)(at - (uint8_t *)c->scratch);
  c->r.name_count = (uint8_t)count;
  return SDB_OK;
}

/* Identity, version and names of what is put. */
static int decide_put(sdb *db, struct change *c, uint64_t now_ms) {
  int rc = SDB_OK;
  c->created = c->document == 0;
  if (c->created && !c->number) rc = document_number(db, &c->number);
  if (rc != SDB_OK) return rc;
  if (c->created) c->document = c->number;
  if (c->entry.version >= UINT32_MAX - 1) return env_fail(&db->e, SDB_FULL, "the document has reached the last version number");
  if (c->has_old) memcpy(c->r.id, c->old.id, 16);
  else if (!c->decided) rc = new_id(db, c->r.id, c->document, now_ms);
  if (rc != SDB_OK) return rc;
  uint32_t kept = c->entry.version ? c->entry.version - document_oldest(&c->entry, c->has_old ? &c->old : NULL) + 1 : 0;
  if (kept > db->options.versions_to_keep - 1) kept = db->options.versions_to_keep - 1;
  c->r.kept = (uint8_t)kept;
  c->r.version = c->entry.version + 1;
  c->r.time_ms = now_ms;
  c->r.path = c->path;
  c->r.path_len = (uint16_t)c->path_len;
  c->r.flags &= (uint16_t) ~(RECORD_NAMES | RECORD_OLDER);
  if (c->has_old) { /* whatever name was used, the document keeps them all */
    c->r.path = c->old.path;
    c->r.path_len = c->old.path_len;
    c->r.flags |= c->old.flags & RECORD_NAMES;
    c->r.names = c->old.names;
    c->r.names_len = c->old.names_len;
    c->r.name_count = c->old.name_count;
  } else if (!c->created) {
    rc = keep_names(db, c);
  }
  c->decided = rc == SDB_OK;
  return rc;
}

/* --- Operations --------------------------------------------------------------------------------------------------------------- */

static void fill_result(struct change *c, const record *r, uint32_t oldest) {
  table_entry entry = {.oldest = oldest};
  c->result = (sdb_commit){.created = c->created, .repeated = c->repeated};
  info_fill(&c->result.info, r, &entry);
}

/* Which names go with the document: those of its current record; damaged, those of the one before and the one that was used. */
static int name_the_names(sdb *db, struct change *c) {
  c->named = c->old;
  if (c->has_old) return SDB_OK;
  if (c->path) {
    c->named = (record){.path = c->path, .path_len = (uint16_t)c->path_len};
    return SDB_OK;
  }
  return document_version(db, VIEW_HEAD, c->document, &c->entry, c->entry.version - 1, &c->named);
}

static int remove_document(sdb *db, struct change *c) {
  int rc = name_the_names(db, c);
  if (rc != SDB_OK) return rc;
  if (c->has_old) {
    fill_result(c, &c->old, c->entry.oldest);
    return apply_delete(db, c);
  }
  c->result = (sdb_commit){.info.version = c->entry.version};
  if (c->id) memcpy(c->result.info.id, c->id, 16);
  else rc = new_id(db, c->result.info.id, c->document, 0); /* nobody can read it any more; the number counts */
  return rc == SDB_OK ? apply_delete(db, c) : rc;
}

/* What has expired is gone for everybody: whoever wants its place takes it away first, in the same commit. */
static int remove_expired(sdb *db, struct change *c, const void *path, size_t len, uint64_t now_ms) {
  struct change *d = mem_new(&db->e, sizeof *d);
  if (!d) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a commit");
  *d = (struct change){.op = OP_DELETE, .cause = CAUSE_EXPIRED, .path = path, .path_len = len, .expect = SDB_ANY};
  int rc = find(db, d, now_ms);
  if (rc == SDB_OK) rc = remove_document(db, d);
  if (rc == SDB_OK) c->before = d;
  else mem_free(&db->e, d);
  return rc;
}

static int judge_put(sdb *db, struct change *c, uint64_t now_ms) {
  record found;
  int rc = token_find(db, c, &found, &c->repeated);
  if (rc == SDB_OK && c->repeated) fill_result(c, &found, document_oldest(&c->entry, c->has_old ? &c->old : NULL));
  if (rc != SDB_OK || c->repeated) return rc;
  rc = check_expectation(db, c);
  if (rc == SDB_OK && c->expired) {
    rc = remove_expired(db, c, c->path, c->path_len, now_ms);
    if (rc == SDB_OK) rc = find(db, c, now_ms);
  }
  if (rc == SDB_OK) rc = decide_put(db, c, now_ms);
  if (rc == SDB_OK) rc = apply_put(db, c);
  if (rc != SDB_OK) return rc;
  fill_result(c, &c->r, c->r.version - c->r.kept);
  return SDB_OK;
}

static int judge_delete(sdb *db, struct change *c, bool lenient) {
  int rc = check_expectation(db, c);
  bool there = c->document && c->expired == (c->cause == CAUSE_EXPIRED);
  if (rc == SDB_OK && there) return remove_document(db, c);
  if (rc == SDB_OK) c->code = SDB_NOT_FOUND;
  return rc == SDB_OK && !lenient ? SDB_NOT_FOUND : rc;
}

static int names_taken(sdb *db, const struct change *c) {
  size_t bytes = 2 + c->name_len;
  if (record_names(&c->old) >= MAX_NAMES) return env_fail(&db->e, SDB_TOO_LARGE, "a document has at most %u names", MAX_NAMES);
  if (c->old.total + bytes + 8 <= page_size(db->pager) - PAGE_HEADER) return SDB_OK;
  return env_fail(&db->e, SDB_TOO_LARGE, "the names of the document do not fit into a page of %u bytes", page_size(db->pager));
}

static int judge_bind(sdb *db, struct change *c, uint64_t now_ms) {
  struct change other = {.op = OP_EXPECT, .path = c->name, .path_len = c->name_len};
  int rc = check_expectation(db, c);
  if (rc != SDB_OK) return rc;
  if (!c->document || c->expired) return env_fail(&db->e, SDB_NOT_FOUND, "there is no document to bind the name to");
  if (!c->has_old) return env_fail(&db->e, SDB_CORRUPT, "the document is damaged; write it again before it gets another name");
  rc = find(db, &other, now_ms);
  if (rc != SDB_OK) return rc;
  if (other.document == c->document) {
    c->repeated = true;
    fill_result(c, &c->old, c->entry.oldest);
    return SDB_OK;
  }
  if (other.document && !other.expired)
    return env_fail(&db->e, SDB_CONFLICT, "the name belongs to another document, at version %u", other.entry.version);
  rc = names_taken(db, c);
  if (rc == SDB_OK && other.expired) rc = remove_expired(db, c, c->name, c->name_len, now_ms);
  if (rc == SDB_OK) rc = apply_names(db, c);
  if (rc == SDB_OK) fill_result(c, &c->r, c->entry.oldest);
  return rc;
}

/* The last name takes the document along. */
static int judge_unbind(sdb *db, struct change *c, bool lenient) {
  int rc = check_expectation(db, c);
  if (rc != SDB_OK) return rc;
  if (!c->document || c->expired) {
    c->code = SDB_NOT_FOUND;
    return lenient ? SDB_OK : SDB_NOT_FOUND;
  }
  if (!c->has_old) return env_fail(&db->e, SDB_CORRUPT, "the document is damaged; write it again or delete it");
  if (record_names(&c->old) == 1) {
    c->op = OP_DELETE;
    return remove_document(db, c);
  }
  rc = apply_names(db, c);
  if (rc == SDB_OK) fill_result(c, &c->r, c->entry.oldest);
  return rc;
}

int judge(sdb *db, struct change *c, uint64_t now_ms, bool lenient) {
  if (c->op == OP_DELETE && c->name) c->op = OP_UNBIND; /* judged before, when the name was the last one */
  c->code = SDB_OK;
  c->repeated = c->created = false;
  int rc = find(db, c, now_ms);
  if (rc == SDB_OK) {
    switch (c->op) {
      case OP_PUT: rc = judge_put(db, c, now_ms); break;
      case OP_DELETE: rc = judge_delete(db, c, lenient); break;
      case OP_BIND: rc = judge_bind(db, c, now_ms); break;
      case OP_UNBIND: rc = judge_unbind(db, c, lenient); break;
      default: rc = check_expectation(db, c);
    }
  }
  if (rc != SDB_OK) judge_undo(db, c);
  return rc;
}

void judge_undo(sdb *db, struct change *c) {
  apply_undo(db, c);
  if (c->before) apply_undo(db, c->before);
  mem_free(&db->e, c->before);
  mem_free(&db->e, c->scratch);
  c->before = NULL;
  c->scratch = NULL;
}
