/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* model.c - see model.h. */
#include "model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_MAX 255u
#define WHY_SIZE 1024u
#define PIECE 7001u /* of a stream that is read: a size that fits nothing */

typedef struct version {
  uint32_t number, size;
  uint64_t seed;
  uint64_t hash;   /* of the content */
  bool attributes; /* content type and metadata were put with it, as the seed says */
  bool known;      /* `info` is what the engine said when it was made */
  sdb_info info;
} version;

typedef struct name {
  uint8_t *path;
  size_t len;
} name;

/* A document with all its names and versions. */
typedef struct body {
  name names[SDB_MAX_NAMES]; /* the oldest first */
  unsigned name_count;
  version *versions; /* newest first */
  unsigned count;
  uint64_t expires_ms;
} body;

/* A path that leads to it. */
typedef struct document {
  const uint8_t *path; /* one of body->names */
  size_t path_len;
  body *body;
} document;

typedef enum action { PUT, DELETE, BIND, UNBIND } action;

typedef struct operation {
  action what;
  uint8_t *path, *name;
  size_t path_len, name_len;
  version made; /* its number and id come from the state */
  uint64_t expires_ms, now_ms;
  unsigned keep;
} operation;

typedef struct group {
  operation *operations;
  size_t count;
  uint64_t sequence; /* 0: not known */
  bool doubtful;     /* whether it survived a crash cannot always be told from what can be read */
} group;

struct model {
  unsigned keep;
  uint64_t now_ms;
  group *commits;
  size_t count, cap;
  bool open;       /* the last commit is being put together */
  uint64_t *marks; /* marks[n]: fingerprint of the state behind n commits */
  size_t mark_cap;
  size_t durable;
  uint64_t last_sequence;
  document *documents; /* sorted by path */
  size_t document_count, document_cap;
  uint64_t mark; /* of the state now; documents that expire are not in it */
  /* After a crash nobody can see which of the states that differ in expired documents alone is the true one. So many documents,
   * with so many bytes, may there be that `documents` does not have; only the engine's counts ever show them. */
  uint64_t hidden, hidden_bytes;
  const sdb_snapshot *at; /* what is compared; NULL: the database as it is now */
  char why[WHY_SIZE];
};

/* --- Help --------------------------------------------------------------------------------------------------------------------- */

static void *must(void *p) {
  if (p == NULL) {
    fputs("model: out of memory\n", stderr);
    exit(2);
  }
  return p;
}

static void *copy_bytes(const void *p, size_t len) {
  void *copy = must(malloc(len + 1));
  memcpy(copy, p, len);
  return copy;
}

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/* One in four contents is noise, two are made of few words, and one changes between the two: what compression sees differs. */
static bool of_words(uint64_t kind, uint64_t offset) {
  switch (kind) {
    case 0: return false;
    case 1: return offset / 40000 % 2 == 0;
    default: return true;
  }
}

void model_content(uint64_t seed, uint64_t offset, void *buf, size_t len) {
  uint8_t *p = buf;
  uint64_t kind = mix(seed) % 4;
  while (len > 0) {
    uint64_t word = mix(seed + (offset / 8 + 1) * 0x9E3779B97F4A7C15u);
    if (of_words(kind, offset / 8 * 8)) word = mix(word % 16) & 0x3F3F3F3F3F3F3F3Fu;
    size_t start = (size_t)(offset % 8), n = len < 8 - start ? len : 8 - start;
    memcpy(p, (uint8_t *)&word + start, n);
    p += n, offset += n, len -= n;
  }
}

static uint64_t hash_bytes(const void *data, size_t len) {
  const uint8_t *p = data;
  uint64_t h = mix(len + 1), word = 0;
  for (; len >= 8; p += 8, len -= 8) {
    memcpy(&word, p, 8);
    h = mix(h ^ word);
  }
  word = 0;
  memcpy(&word, p, len);
  return mix(h ^ word);
}

/* A path as it can be printed. */
static const char *shown(const void *path, size_t len) {
  static char text[2][200];
  static unsigned turn;
  char *out = text[turn++ % 2];
  const uint8_t *p = path;
  size_t n = 0;
  for (size_t i = 0; i < len && n < 150; i++) {
    bool plain = p[i] > 0x20 && p[i] < 0x7F && p[i] != '\\';
    n += (size_t)snprintf(out + n, sizeof text[0] - n, plain ? "%c" : "\\x%02x", p[i]);
  }
  snprintf(out + n, sizeof text[0] - n, len > 60 ? "... (%zu bytes)" : "%.0zu", len > 60 ? len : 0);
  return out;
}

__attribute__((format(printf, 2, 3))) static bool fail(model *m, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(m->why, sizeof m->why, format, args);
  va_end(args);
  return false;
}

/* "Nothing there": with a damaged log the engine must not say so, because it may have been in the lost part. */
static bool nothing(sdb *db, int code, int plainly) {
  sdb_stats stats = {.size = sizeof stats};
  if (code == SDB_OK) return false;
  return sdb_get_stats(db, &stats) == SDB_OK && code == (stats.log_damaged ? SDB_CORRUPT : plainly);
}

static bool call_failed(model *m, sdb *db, const char *call, const document *d, uint32_t number, int code) {
  char message[256] = "";
  sdb_message(db, message, sizeof message);
  return fail(m, "%s of %s version %u: code %d (%s) [%s]", call, shown(d->path, d->path_len), number, code, sdb_strerror(code),
              message);
}

const char *model_why(const model *m) { return m->why; }

/* --- State -------------------------------------------------------------------------------------------------------------------- */

static int compare_paths(const void *a, size_t a_len, const void *b, size_t b_len) {
  int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
  return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

static size_t place_of(const model *m, const void *path, size_t len, bool *found) {
  size_t low = 0, high = m->document_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (compare_paths(m->documents[middle].path, m->documents[middle].path_len, path, len) < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  *found = low < m->document_count && compare_paths(m->documents[low].path, m->documents[low].path_len, path, len) == 0;
  return low;
}

/* One number for a path and its versions; that of a state is the sum. What expires is left out: it changes without a commit. */
static uint64_t document_mark(const document *d) {
  uint64_t h = hash_bytes(d->path, d->path_len);
  if (d->body->expires_ms != 0) return 0;
  for (unsigned i = 0; i < d->body->count; i++) {
    const version *v = &d->body->versions[i];
    h = mix(h ^ v->hash ^ ((uint64_t)v->number << 32) ^ v->size);
  }
  return h;
}

static uint64_t body_mark(const body *b) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < b->name_count; i++)
    sum += document_mark(&(document){.path = b->names[i].path, .path_len = b->names[i].len, .body = (body *)(uintptr_t)b});
  return sum;
}

static bool gone(const body *b, uint64_t now_ms) { return b->expires_ms != 0 && b->expires_ms <= now_ms; }

static void add_entry(model *m, body *b, const uint8_t *path, size_t len) {
  bool found;
  size_t place = place_of(m, path, len, &found);
  assert(!found);
  if (m->document_count == m->document_cap) {
    m->document_cap = m->document_cap == 0 ? 64 : m->document_cap * 2;
    m->documents = must(realloc(m->documents, m->document_cap * sizeof *m->documents));
  }
  memmove(m->documents + place + 1, m->documents + place, (m->document_count - place) * sizeof *m->documents);
  m->document_count++;
  name *n = &b->names[b->name_count++];
  *n = (name){copy_bytes(path, len), len};
  m->documents[place] = (document){.path = n->path, .path_len = len, .body = b};
}

static void remove_entry(model *m, const uint8_t *path, size_t len) {
  bool found;
  size_t place = place_of(m, path, len, &found);
  assert(found);
  m->document_count--;
  memmove(m->documents + place, m->documents + place + 1, (m->document_count - place) * sizeof *m->documents);
}

static void free_body(body *b) {
  for (unsigned i = 0; i < b->name_count; i++) free(b->names[i].path);
  free(b->versions);
  free(b);
}

static void drop_body(model *m, body *b) {
  m->mark -= body_mark(b);
  for (unsigned i = 0; i < b->name_count; i++) remove_entry(m, b->names[i].path, b->names[i].len);
  free_body(b);
}

/* The document that the path leads to at a time; one that has expired is taken away if `sweep`. */
static body *body_at(model *m, const uint8_t *path, size_t len, uint64_t now_ms, bool sweep) {
  bool found;
  size_t place = place_of(m, path, len, &found);
  body *b = found ? m->documents[place].body : NULL;
  if (b != NULL && gone(b, now_ms)) {
    if (sweep) drop_body(m, b);
    b = NULL;
  }
  return b;
}

static void apply_put(model *m, operation *op) {
  body *b = body_at(m, op->path, op->path_len, op->now_ms, true);
  if (b == NULL) {
    b = must(calloc(1, sizeof *b));
    add_entry(m, b, op->path, op->path_len);
  } else {
    m->mark -= body_mark(b);
  }
  op->made.number = b->count > 0 ? b->versions[0].number + 1 : 1;
  unsigned stay = b->count < op->keep ? b->count : op->keep - 1;
  b->versions = must(realloc(b->versions, (stay + 1) * sizeof *b->versions));
  memmove(b->versions + 1, b->versions, stay * sizeof *b->versions);
  b->versions[0] = op->made;
  b->count = stay + 1;
  b->expires_ms = op->expires_ms;
  m->mark += body_mark(b);
}

static void apply_bind(model *m, const operation *op) {
  body *b = body_at(m, op->path, op->path_len, op->now_ms, false);
  if (b == NULL || b->name_count == SDB_MAX_NAMES) return;
  if (body_at(m, op->name, op->name_len, op->now_ms, true) != NULL) return;
  m->mark -= body_mark(b);
  add_entry(m, b, op->name, op->name_len);
  m->mark += body_mark(b);
}

static void apply_unbind(model *m, const operation *op) {
  body *b = body_at(m, op->path, op->path_len, op->now_ms, false);
  if (b == NULL) return;
  if (b->name_count == 1) {
    drop_body(m, b);
    return;
  }
  m->mark -= body_mark(b);
  remove_entry(m, op->path, op->path_len);
  unsigned i = 0;
  while (compare_paths(b->names[i].path, b->names[i].len, op->path, op->path_len) != 0) i++;
  free(b->names[i].path);
  b->name_count--;
  memmove(&b->names[i], &b->names[i + 1], (b->name_count - i) * sizeof b->names[0]);
  m->mark += body_mark(b);
}

static void apply_delete(model *m, const operation *op) {
  body *b = body_at(m, op->path, op->path_len, op->now_ms, false);
  if (b != NULL) drop_body(m, b);
}

static void apply(model *m, operation *op) {
  switch (op->what) {
    case PUT: apply_put(m, op); break;
    case DELETE: apply_delete(m, op); break;
    case BIND: apply_bind(m, op); break;
    case UNBIND: apply_unbind(m, op); break;
  }
}

static void clear_state(model *m) {
  while (m->document_count > 0) drop_body(m, m->documents[0].body);
  m->mark = 0;
}

size_t model_documents(const model *m) { return m->document_count; }

const uint8_t *model_path(const model *m, size_t index, size_t *path_len) {
  *path_len = m->documents[index].path_len;
  return m->documents[index].path;
}

bool model_has(const model *m, const void *path, size_t path_len) { return model_version(m, path, path_len) != 0; }

uint32_t model_version(const model *m, const void *path, size_t path_len) {
  bool found;
  size_t place = place_of(m, path, path_len, &found);
  return found && !gone(m->documents[place].body, m->now_ms) ? m->documents[place].body->versions[0].number : 0;
}

unsigned model_names(const model *m, const void *path, size_t path_len) {
  bool found;
  size_t place = place_of(m, path, path_len, &found);
  return found && !gone(m->documents[place].body, m->now_ms) ? m->documents[place].body->name_count : 0;
}

bool model_same(const model *m, const void *a, size_t a_len, const void *b, size_t b_len) {
  bool found_a, found_b;
  size_t at_a = place_of(m, a, a_len, &found_a), at_b = place_of(m, b, b_len, &found_b);
  return found_a && found_b && m->documents[at_a].body == m->documents[at_b].body;
}

void model_set_now(model *m, uint64_t now_ms) { m->now_ms = now_ms; }
void model_set_keep(model *m, unsigned keep) { m->keep = keep; }

/* --- Attributes --------------------------------------------------------------------------------------------------------------- */

size_t model_content_type(uint64_t seed, char *type) {
  int len = mix(seed) % 3 == 0 ? 0 : snprintf(type, SDB_MAX_CONTENT_TYPE + 1, "type/%0*u", (int)(mix(seed) % 250), 7u);
  if (len == 0) type[0] = 0;
  return (size_t)len < SDB_MAX_CONTENT_TYPE ? (size_t)len : SDB_MAX_CONTENT_TYPE;
}

size_t model_metadata(uint64_t seed, uint8_t *metadata) {
  size_t len = mix(seed + 1) % 3 == 0 ? mix(seed + 2) % (SDB_MAX_METADATA + 1) : mix(seed + 2) % 20;
  model_content(seed + 3, 0, metadata, len);
  return len;
}

/* --- History ------------------------------------------------------------------------------------------------------------------ */

static void note_mark(model *m) {
  if (m->count + 1 > m->mark_cap) {
    m->mark_cap = m->mark_cap == 0 ? 64 : m->mark_cap * 2;
    m->marks = must(realloc(m->marks, m->mark_cap * sizeof *m->marks));
  }
  m->marks[m->count] = m->mark;
}

void model_begin(model *m) {
  assert(!m->open);
  if (m->count == m->cap) {
    m->cap = m->cap == 0 ? 64 : m->cap * 2;
    m->commits = must(realloc(m->commits, m->cap * sizeof *m->commits));
  }
  m->commits[m->count] = (group){0};
  m->open = true;
}

static void append(model *m, operation op) {
  bool single = !m->open;
  if (single) model_begin(m);
  group *c = &m->commits[m->count];
  c->operations = must(realloc(c->operations, (c->count + 1) * sizeof *c->operations));
  c->operations[c->count] = op;
  apply(m, &c->operations[c->count++]);
  if (!single) return;
  m->open = false;
  m->count++;
  note_mark(m);
}

/* Sequence numbers rise for ever, those of commits that a crash took included. */
static bool note_sequence(model *m, uint64_t sequence) {
  if (sequence <= m->last_sequence) return fail(m, "sequence %" PRIu64 " was given after %" PRIu64, sequence, m->last_sequence);
  m->last_sequence = sequence;
  m->commits[m->count - 1].sequence = sequence;
  return true;
}

bool model_end(model *m, uint64_t sequence) {
  assert(m->open);
  m->open = false;
  m->count++;
  note_mark(m);
  return sequence == 0 || note_sequence(m, sequence);
}

/* In a batch the sequence comes with its end. */
static bool note_commit(model *m, const sdb_commit *commit) { return m->open || note_sequence(m, commit->sequence); }

model *model_new(unsigned keep) {
  assert(keep >= 1 && keep <= KEEP_MAX);
  model *m = must(calloc(1, sizeof *m));
  m->keep = keep;
  note_mark(m);
  return m;
}

model *model_clone(const model *from) {
  model *m = model_new(from->keep);
  m->now_ms = from->now_ms;
  for (size_t i = 0; i < from->count; i++) {
    model_begin(m);
    for (size_t k = 0; k < from->commits[i].count; k++) {
      operation op = from->commits[i].operations[k];
      op.path = copy_bytes(op.path, op.path_len);
      if (op.name != NULL) op.name = copy_bytes(op.name, op.name_len);
      append(m, op);
    }
    m->commits[m->count].sequence = from->commits[i].sequence;
    model_end(m, 0);
  }
  m->durable = from->durable;
  m->last_sequence = from->last_sequence;
  m->hidden = from->hidden;
  m->hidden_bytes = from->hidden_bytes;
  return m;
}

void model_free(model *m) {
  if (m == NULL) return;
  model_truncate(m, 0);
  free(m->commits);
  free(m->documents);
  free(m->marks);
  free(m);
}

bool model_put_with(model *m, const void *path, size_t path_len, uint64_t seed, uint32_t size, uint64_t expires_ms, bool attributes,
                    const sdb_commit *commit) {
  operation op = {.what = PUT,
                  .path = copy_bytes(path, path_len),
                  .path_len = path_len,
                  .made = {.size = size, .seed = seed, .attributes = attributes},
                  .expires_ms = expires_ms,
                  .now_ms = m->now_ms,
                  .keep = m->keep};
  uint8_t *content = must(malloc(size + 1u));
  model_content(seed, 0, content, size);
  op.made.hash = hash_bytes(content, size);
  uint32_t digest = sdb_crc32c(0, content, size), before = model_version(m, path, path_len);
  free(content);
  if (commit != NULL) {
    op.made.known = true;
    op.made.info = commit->info;
  }
  append(m, op);
  if (commit == NULL) return true;
  const sdb_info *info = &commit->info;
  if (info->version != before + 1) return fail(m, "put of %s made version %u of %u", shown(path, path_len), info->version, before);
  if (commit->created != (before == 0)) return fail(m, "put of %s: created is %d", shown(path, path_len), commit->created);
  if (commit->repeated) return fail(m, "put of %s: repeated without a token", shown(path, path_len));
  if (info->size != size || info->digest != digest) return fail(m, "put of %s: size or digest is wrong", shown(path, path_len));
  return note_commit(m, commit);
}

bool model_put(model *m, const void *path, size_t path_len, uint64_t seed, uint32_t size, const sdb_commit *commit) {
  return model_put_with(m, path, path_len, seed, size, 0, false, commit);
}

bool model_restored(model *m, const void *path, size_t path_len, uint32_t number, const sdb_commit *commit) {
  bool found;
  const body *b = m->documents[place_of(m, path, path_len, &found)].body;
  assert(found);
  for (unsigned i = 0; i < b->count; i++) {
    version v = b->versions[i];
    if (v.number == number) return model_put_with(m, path, path_len, v.seed, v.size, 0, v.attributes, commit);
  }
  return fail(m, "version %u of %s was restored, which could not be read", number, shown(path, path_len));
}

static bool remove_path(model *m, action what, const char *call, const void *path, size_t path_len, const sdb_commit *commit) {
  uint32_t before = model_version(m, path, path_len);
  append(m, (operation){.what = what, .path = copy_bytes(path, path_len), .path_len = path_len, .now_ms = m->now_ms});
  if (commit == NULL) return true;
  if (commit->info.version != before)
    return fail(m, "%s of %s reports version %u, not %u", call, shown(path, path_len), commit->info.version, before);
  return note_commit(m, commit);
}

bool model_delete(model *m, const void *path, size_t path_len, const sdb_commit *commit) {
  return remove_path(m, DELETE, "delete", path, path_len, commit);
}

bool model_unbind(model *m, const void *path, size_t path_len, const sdb_commit *commit) {
  return remove_path(m, UNBIND, "unbind", path, path_len, commit);
}

bool model_bind(model *m, const void *path, size_t path_len, const void *new_name, size_t name_len, const sdb_commit *commit) {
  uint32_t before = model_version(m, path, path_len);
  append(m, (operation){.what = BIND,
                        .path = copy_bytes(path, path_len),
                        .path_len = path_len,
                        .name = copy_bytes(new_name, name_len),
                        .name_len = name_len,
                        .now_ms = m->now_ms});
  if (commit == NULL) return true;
  if (commit->info.version != before) return fail(m, "bind of %s reports version %u", shown(path, path_len), commit->info.version);
  return note_commit(m, commit);
}

uint64_t model_sequence(const model *m, size_t index) { return m->commits[index].doubtful ? 0 : m->commits[index].sequence; }
size_t model_commits(const model *m) { return m->count; }
size_t model_durable(const model *m) { return m->durable; }
void model_all_durable(model *m) { m->durable = m->count; }
void model_require(model *m, size_t commits) { m->durable = commits; }

void model_durable_up_to(model *m, uint64_t sequence) {
  while (m->durable < m->count && m->commits[m->durable].sequence != 0 && m->commits[m->durable].sequence <= sequence) m->durable++;
}

static void free_commit(group *c) {
  for (size_t i = 0; i < c->count; i++) {
    free(c->operations[i].path);
    free(c->operations[i].name);
  }
  free(c->operations);
}

void model_truncate(model *m, size_t commits) {
  assert(!m->open);
  for (size_t i = commits; i < m->count; i++) free_commit(&m->commits[i]);
  m->count = commits;
  if (m->durable > commits) m->durable = commits;
  clear_state(m);
  for (size_t i = 0; i < commits; i++)
    for (size_t k = 0; k < m->commits[i].count; k++) apply(m, &m->commits[i].operations[k]);
}

/* --- Comparing ---------------------------------------------------------------------------------------------------------------- */

/* Each reads what is compared: the database, or a snapshot of it. */
static int stat_of(const model *m, sdb *db, const void *path, size_t len, uint32_t number, sdb_info *info) {
  return m->at ? sdb_snapshot_stat(m->at, path, len, number, info) : sdb_stat(db, path, len, number, info);
}
static int whole_of(const model *m, sdb *db, const document *d, uint32_t number, void **data, size_t *size, sdb_info *info) {
  return m->at ? sdb_snapshot_get_alloc(m->at, d->path, d->path_len, number, data, size, info)
               : sdb_get_alloc(db, d->path, d->path_len, number, data, size, info);
}
static int range_of(const model *m, sdb *db, const document *d, uint32_t number, uint64_t offset, void *buf, size_t len,
                    size_t *got) {
  return m->at ? sdb_snapshot_get_range(m->at, d->path, d->path_len, number, offset, buf, len, got, NULL)
               : sdb_get_range(db, d->path, d->path_len, number, offset, buf, len, got, NULL);
}
static int attributes_of(const model *m, sdb *db, const document *d, uint32_t number, sdb_attributes *got) {
  return m->at ? sdb_snapshot_get_attributes(m->at, d->path, d->path_len, number, got)
               : sdb_get_attributes(db, d->path, d->path_len, number, got);
}
static int names_of(const model *m, sdb *db, const uint8_t id[16], sdb_path **paths, size_t *count) {
  return m->at ? sdb_snapshot_paths_of(m->at, id, paths, count) : sdb_paths_of(db, id, paths, count);
}
static int versions_of(const model *m, sdb *db, const document *d, sdb_info *infos, size_t cap, size_t *count) {
  return m->at ? sdb_snapshot_versions(m->at, d->path, d->path_len, infos, cap, count)
               : sdb_versions(db, d->path, d->path_len, infos, cap, count);
}
static int stream_of(const model *m, sdb *db, const document *d, uint32_t number, sdb_reader **reader) {
  return m->at ? sdb_snapshot_reader_open(m->at, d->path, d->path_len, number, reader)
               : sdb_reader_open(db, d->path, d->path_len, number, reader);
}
static int search_of(const model *m, sdb *db, const sdb_cursor_options *options, sdb_cursor **cursor) {
  return m->at ? sdb_snapshot_cursor_open(m->at, options, cursor) : sdb_cursor_open(db, options, cursor);
}

static bool info_agrees(model *m, const document *d, unsigned index, const sdb_info *info) {
  const version *v = &d->body->versions[index];
  uint32_t oldest = d->body->versions[d->body->count - 1].number;
  const char *wrong = NULL;
  if (info->version != v->number) wrong = "version";
  else if (info->size != v->size) wrong = "size";
  else if (index == 0 && info->oldest != oldest) wrong = "oldest version";
  else if (index == 0 && info->expires_ms != d->body->expires_ms) wrong = "time of expiry";
  else if (index == 0 && info->names != d->body->name_count) wrong = "number of names";
  else if (v->known && memcmp(info->id, v->info.id, sizeof info->id) != 0) wrong = "id";
  else if (v->known && info->time_ms != v->info.time_ms) wrong = "time";
  else if (v->known && info->digest != v->info.digest) wrong = "digest";
  if (wrong == NULL) return true;
  return fail(m, "%s version %u: another %s (version %u of %u, %" PRIu64 " of %u bytes, oldest %u of %u)",
              shown(d->path, d->path_len), v->number, wrong, info->version, v->number, info->size, v->size, info->oldest, oldest);
}

static bool content_agrees(model *m, const document *d, unsigned index, uint64_t offset, const uint8_t *got, size_t len) {
  uint8_t *expected = must(malloc(len + 1));
  model_content(d->body->versions[index].seed, offset, expected, len);
  bool same = memcmp(got, expected, len) == 0;
  size_t i = 0;
  while (!same && got[i] == expected[i]) i++;
  free(expected);
  if (same) return true;
  return fail(m, "%s version %u: WRONG BYTE at %" PRIu64, shown(d->path, d->path_len), d->body->versions[index].number, offset + i);
}

static bool read_whole(model *m, sdb *db, const document *d, unsigned index) {
  const version *v = &d->body->versions[index];
  uint32_t number = index == 0 ? SDB_CURRENT : v->number;
  void *data;
  size_t size;
  sdb_info info;
  int code = whole_of(m, db, d, number, &data, &size, &info);
  if (code != SDB_OK) return call_failed(m, db, "get", d, number, code);
  bool good = size == v->size ||
              fail(m, "%s version %u: got %zu bytes instead of %u", shown(d->path, d->path_len), v->number, size, v->size);
  good = good && info_agrees(m, d, index, &info) && content_agrees(m, d, index, 0, data, size);
  sdb_free(db, data);
  return good;
}

static bool attributes_agree(model *m, sdb *db, const document *d, unsigned index) {
  const version *v = &d->body->versions[index];
  static sdb_attributes got;
  char type[SDB_MAX_CONTENT_TYPE + 1] = "";
  uint8_t metadata[SDB_MAX_METADATA];
  int code = attributes_of(m, db, d, v->number, &got);
  if (code != SDB_OK) return call_failed(m, db, "get_attributes", d, v->number, code);
  size_t len = v->attributes ? model_metadata(v->seed, metadata) : 0;
  if (v->attributes) model_content_type(v->seed, type);
  if (got.metadata_len != len || memcmp(got.metadata, metadata, len) != 0)
    return fail(m, "%s version %u: other metadata", shown(d->path, d->path_len), v->number);
  return strcmp(got.content_type, type) == 0 ||
         fail(m, "%s version %u: another content type", shown(d->path, d->path_len), v->number);
}

static bool paths_agree(model *m, sdb *db, const document *d, const sdb_info *info) {
  sdb_path *paths;
  size_t count;
  int code = names_of(m, db, info->id, &paths, &count);
  if (code != SDB_OK) return call_failed(m, db, "paths_of", d, 0, code);
  bool good = count == d->body->name_count;
  for (size_t i = 0; good && i < count; i++)
    good = compare_paths(paths[i].path, paths[i].len, d->body->names[i].path, d->body->names[i].len) == 0;
  sdb_free(db, paths);
  return good || fail(m, "%s: paths_of says other paths", shown(d->path, d->path_len));
}

static bool read_range(model *m, sdb *db, const document *d, unsigned index) {
  const version *v = &d->body->versions[index];
  uint8_t buf[300];
  uint64_t offset = v->size == 0 ? 0 : mix(v->seed) % v->size;
  size_t got = 0, expected = v->size - offset < sizeof buf ? (size_t)(v->size - offset) : sizeof buf;
  int code = range_of(m, db, d, v->number, offset, buf, sizeof buf, &got);
  if (code != SDB_OK) return call_failed(m, db, "get_range", d, v->number, code);
  if (got != expected)
    return fail(m, "%s version %u: range of %zu bytes instead of %zu", shown(d->path, d->path_len), v->number, got, expected);
  return content_agrees(m, d, index, offset, buf, got);
}

static bool read_stream(model *m, sdb *db, const document *d, unsigned index) {
  const version *v = &d->body->versions[index];
  sdb_reader *reader;
  int code = stream_of(m, db, d, v->number, &reader);
  if (code != SDB_OK) return call_failed(m, db, "reader_open", d, v->number, code);
  bool good = info_agrees(m, d, index, sdb_reader_info(reader));
  uint8_t buf[PIECE];
  uint64_t offset = 0;
  size_t got = 1;
  while (good && got > 0) {
    code = sdb_reader_read(reader, buf, sizeof buf, &got);
    if (code != SDB_OK) good = call_failed(m, db, "reader_read", d, v->number, code);
    if (good && got > v->size - offset) good = fail(m, "%s: the stream is too long", shown(d->path, d->path_len));
    good = good && content_agrees(m, d, index, offset, buf, got);
    offset += got;
  }
  if (good && offset != v->size) good = fail(m, "%s: the stream ended at %" PRIu64, shown(d->path, d->path_len), offset);
  sdb_reader_close(reader);
  return good;
}

/* The version list, and that the neighbours of the readable versions are absent, not wrong. */
static bool versions_agree(model *m, sdb *db, const document *d) {
  static sdb_info infos[KEEP_MAX + 1];
  size_t count = 0;
  int code = versions_of(m, db, d, infos, KEEP_MAX + 1, &count);
  if (code != SDB_OK) return call_failed(m, db, "versions", d, 0, code);
  if (count != d->body->count)
    return fail(m, "%s: %zu readable versions instead of %u", shown(d->path, d->path_len), count, d->body->count);
  for (unsigned i = 0; i < d->body->count; i++) {
    if (!info_agrees(m, d, i, &infos[i])) return false;
  }
  uint32_t absent[2] = {d->body->versions[0].number + 1, d->body->versions[d->body->count - 1].number - 1};
  for (int i = 0; i < 2; i++) {
    if (absent[i] == SDB_CURRENT) continue;
    code = stat_of(m, db, d->path, d->path_len, absent[i], &infos[0]);
    if (!nothing(db, code, SDB_NOT_FOUND)) return call_failed(m, db, "stat (absent)", d, absent[i], code);
  }
  return true;
}

static bool document_agrees(model *m, sdb *db, const document *d) {
  sdb_info info;
  int code = stat_of(m, db, d->path, d->path_len, SDB_CURRENT, &info);
  if (code != SDB_OK) return call_failed(m, db, "stat", d, SDB_CURRENT, code);
  if (!info_agrees(m, d, 0, &info) || !versions_agree(m, db, d) || !paths_agree(m, db, d, &info)) return false;
  for (unsigned i = 0; i < d->body->count; i++) {
    if (!read_whole(m, db, d, i) || !read_range(m, db, d, i) || !attributes_agree(m, db, d, i)) return false;
    if (d->body->versions[i].seed % 4 == 0 && !read_stream(m, db, d, i)) return false;
  }
  return true;
}

bool model_equals_at(model *m, sdb *db, const void *path, size_t path_len) {
  bool found;
  size_t place = place_of(m, path, path_len, &found);
  if (found && !gone(m->documents[place].body, m->now_ms)) return document_agrees(m, db, &m->documents[place]);
  sdb_info info;
  int code = stat_of(m, db, path, path_len, SDB_CURRENT, &info);
  return nothing(db, code, SDB_NOT_FOUND) || fail(m, "stat of the absent %s: code %d", shown(path, path_len), code);
}

/* The entries with `prefix` behind `after`. */
static bool search_agrees(model *m, sdb *db, const void *prefix, size_t prefix_len, const void *after, size_t after_len) {
  bool found;
  size_t place = place_of(m, prefix, prefix_len, &found);
  if (after_len > 0) {
    size_t behind = place_of(m, after, after_len, &found);
    behind += found ? 1 : 0;
    if (behind > place) place = behind;
  }
  sdb_cursor *cursor;
  sdb_cursor_options options;
  sdb_cursor_options_init(&options);
  options.prefix = prefix;
  options.prefix_len = prefix_len;
  options.after = after;
  options.after_len = after_len;
  options.infos = true;
  int code = search_of(m, db, &options, &cursor);
  if (code != SDB_OK) return fail(m, "cursor_open for %s: code %d", shown(prefix, prefix_len), code);
  bool good = true;
  for (;; place++) {
    sdb_entry entry;
    while (place < m->document_count && gone(m->documents[place].body, m->now_ms)) place++;
    const document *d = place < m->document_count ? &m->documents[place] : NULL;
    if (d != NULL && (d->path_len < prefix_len || memcmp(d->path, prefix, prefix_len) != 0)) d = NULL;
    code = sdb_cursor_next(cursor, &entry);
    if (nothing(db, code, SDB_END)) code = SDB_END;
    if (code == SDB_END && d == NULL) break;
    if (code == SDB_END) good = fail(m, "search for %s ends before %s", shown(prefix, prefix_len), shown(d->path, d->path_len));
    if (good && code != SDB_OK) good = fail(m, "search for %s: code %d", shown(prefix, prefix_len), code);
    if (good && d == NULL) good = fail(m, "search for %s finds %s", shown(prefix, prefix_len), shown(entry.path, entry.path_len));
    if (good && compare_paths(entry.path, entry.path_len, d->path, d->path_len) != 0) {
      good = fail(m, "search finds %s instead of %s", shown(entry.path, entry.path_len), shown(d->path, d->path_len));
    }
    good = good && info_agrees(m, d, 0, &entry.info);
    if (!good) break;
  }
  sdb_cursor_close(cursor);
  return good;
}

/* How many documents and bytes of content there are, with and without what has expired: when that goes is the engine's affair. */
static void count_documents(const model *m, uint64_t documents[2], uint64_t bytes[2]) {
  for (size_t i = 0; i < m->document_count; i++) {
    const body *b = m->documents[i].body;
    if (b->names[0].path != m->documents[i].path) continue; /* once a document */
    for (int all = gone(b, m->now_ms) ? 1 : 0; all < 2; all++) {
      documents[all]++;
      bytes[all] += b->versions[0].size;
    }
  }
  documents[1] += m->hidden;
  bytes[1] += m->hidden_bytes;
}

bool model_counts(const model *m, uint64_t counted) {
  uint64_t documents[2] = {0}, bytes[2] = {0};
  count_documents(m, documents, bytes);
  return counted >= documents[0] && counted <= documents[1];
}

static bool counts_agree(model *m, const sdb_stats *stats) {
  uint64_t documents[2] = {0}, bytes[2] = {0};
  count_documents(m, documents, bytes);
  if (stats->documents < documents[0] || stats->documents > documents[1])
    return fail(m, "stats: %" PRIu64 " documents instead of %" PRIu64, stats->documents, documents[0]);
  return (stats->content_bytes >= bytes[0] && stats->content_bytes <= bytes[1]) ||
         fail(m, "stats: %" PRIu64 " bytes of content instead of %" PRIu64, stats->content_bytes, bytes[0]);
}

static bool all_agree(model *m, sdb *db) {
  if (!search_agrees(m, db, "", 0, NULL, 0)) return false;
  for (size_t i = 0; i < m->document_count; i++) {
    const document *d = &m->documents[i];
    if (gone(d->body, m->now_ms) ? !model_equals_at(m, db, d->path, d->path_len) : !document_agrees(m, db, d)) return false;
    size_t prefix_len = mix(m->mark + i) % (d->path_len + 1);
    const document *after = &m->documents[mix(m->mark ^ i) % m->document_count];
    if (i % 4 == 0 && !search_agrees(m, db, d->path, prefix_len, after->path, after->path_len)) return false;
  }
  return model_equals_at(m, db, "\xFF\xFE no such path", 15);
}

bool model_equals(model *m, sdb *db) {
  sdb_stats stats = {.size = sizeof stats};
  int code = sdb_get_stats(db, &stats);
  if (code != SDB_OK) return fail(m, "stats: code %d", code);
  if (!stats.sync_failed && !counts_agree(m, &stats)) return false; /* else they may count what nobody will see */
  return all_agree(m, db);
}

bool model_equals_snapshot(model *m, sdb *db, const sdb_snapshot *snapshot) {
  m->at = snapshot;
  bool good = all_agree(m, db);
  m->at = NULL;
  return good;
}

/* Reads what is there without knowing what should be. */
static bool observe_document(model *m, sdb *db, const sdb_entry *entry, uint64_t *mark) {
  static version versions[KEEP_MAX];
  static sdb_info infos[KEEP_MAX];
  body b = {.versions = versions};
  document d = {.path = copy_bytes(entry->path, entry->path_len), .path_len = entry->path_len, .body = &b};
  size_t count = 0;
  int code = sdb_versions(db, d.path, d.path_len, infos, KEEP_MAX, &count);
  bool good = code == SDB_OK || call_failed(m, db, "versions", &d, 0, code);
  if (good && (count == 0 || count > KEEP_MAX)) good = fail(m, "%s: %zu versions", shown(d.path, d.path_len), count);
  for (size_t i = 0; good && i < count; i++) {
    void *data;
    size_t size;
    code = sdb_get_alloc(db, d.path, d.path_len, infos[i].version, &data, &size, NULL);
    if (code != SDB_OK) {
      good = call_failed(m, db, "get", &d, infos[i].version, code);
    } else {
      versions[b.count++] = (version){.number = infos[i].version, .size = (uint32_t)size, .hash = hash_bytes(data, size)};
      sdb_free(db, data);
    }
  }
  if (good) b.expires_ms = infos[0].expires_ms;
  *mark += document_mark(&d);
  free((void *)(uintptr_t)d.path);
  return good;
}

static bool observe(model *m, sdb *db, uint64_t *mark) {
  sdb_cursor *cursor;
  int code = sdb_cursor_open(db, NULL, &cursor);
  if (code != SDB_OK) return fail(m, "cursor_open: code %d", code);
  bool good = true;
  sdb_entry entry;
  while (good && (code = sdb_cursor_next(cursor, &entry)) == SDB_OK) good = observe_document(m, db, &entry, mark);
  if (good && !nothing(db, code, SDB_END)) good = fail(m, "cursor_next: code %d", code);
  sdb_cursor_close(cursor);
  return good;
}

/* No allowed state fits: says how the nearest allowed ones differ, and whether an older one fits. */
static bool explain(model *m, sdb *db, uint64_t mark) {
  size_t older = m->durable;
  while (older > 0 && m->marks[older] != mark) older--;
  bool lost = m->marks[older] == mark;
  model *last = model_clone(m), *first = model_clone(m);
  model_truncate(first, m->durable);
  bool as_last = model_equals(last, db), as_first = model_equals(first, db);
  fail(m, "the database is in none of the states after commits %zu to %zu%s. After %zu: %s. After %zu: %s", m->durable, m->count,
       lost ? ", but in an older one: ACKNOWLEDGED COMMITS ARE LOST" : "", m->durable, as_first ? "fits" : first->why, m->count,
       as_last ? "fits" : last->why);
  if (lost) printf("model: the state is that after commit %zu\n", older);
  model_free(first);
  model_free(last);
  return false;
}

/* Several states can have one fingerprint: empty documents of one path differ by their ids only. */
static bool adopt_state(model *m, sdb *db, size_t commits) {
  model *candidate = model_clone(m);
  model_truncate(candidate, commits);
  bool good = model_equals(candidate, db) || fail(m, "%s", candidate->why);
  model_free(candidate);
  if (!good) return false;
  model_truncate(m, commits);
  for (size_t i = m->durable; i < commits; i++) m->commits[i].doubtful = true;
  m->durable = commits;
  return true;
}

/* Whatever has expired in one of the states that may have survived may still be there. */
static void note_hidden(model *m) {
  uint64_t most[2] = {0};
  for (size_t commits = m->durable; commits <= m->count; commits++) {
    model *candidate = model_clone(m);
    uint64_t documents[2] = {0}, bytes[2] = {0};
    model_truncate(candidate, commits);
    count_documents(candidate, documents, bytes);
    if (documents[1] - documents[0] > most[0]) most[0] = documents[1] - documents[0];
    if (bytes[1] - bytes[0] > most[1]) most[1] = bytes[1] - bytes[0];
    model_free(candidate);
  }
  m->hidden = most[0];
  m->hidden_bytes = most[1];
}

bool model_adopt(model *m, sdb *db) {
  uint64_t mark = 0;
  bool known = false;
  if (m->durable == m->count && model_equals(m, db)) return true; /* only one state is allowed */
  if (!observe(m, db, &mark)) return false;
  if (m->durable < m->count) note_hidden(m);
  for (size_t commits = m->count + 1; commits-- > m->durable;) {
    if (m->marks[commits] != mark) continue;
    if (adopt_state(m, db, commits)) return true;
    known = true;
  }
  return known ? false : explain(m, db, mark);
}

static void note_problem(void *user, const char *sentence) {
  model *m = user;
  size_t used = strlen(m->why);
  snprintf(m->why + used, sizeof m->why - used, " {%s}", sentence);
}

bool model_check(model *m, sdb *db) {
  sdb_check_report report = {.size = sizeof report};
  snprintf(m->why, sizeof m->why, "check:");
  int code = sdb_check(db, note_problem, m, &report);
  if (code != SDB_OK) return fail(m, "check: code %d", code);
  if (report.problems != 0) return false;
  uint64_t documents[2] = {0}, bytes[2] = {0};
  count_documents(m, documents, bytes);
  return (report.documents >= documents[0] && report.documents <= documents[1]) ||
         fail(m, "check counts %" PRIu64 " documents instead of %" PRIu64, report.documents, documents[0]);
}
