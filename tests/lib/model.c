/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* model.c - see model.h. */
#include "model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_MAX 2u
#define WHY_SIZE 1024u
#define PIECE 7001u /* of a stream that is read: a size that fits nothing */

typedef struct version {
  uint32_t number, size;
  uint64_t seed;
  uint64_t hash; /* of the content */
  bool known;    /* `info` is what the engine said when it was made */
  sdb_info info;
} version;

typedef struct document {
  uint8_t *path;
  size_t path_len;
  version versions[KEEP_MAX]; /* newest first */
  unsigned count;
} document;

typedef struct operation {
  bool is_delete;
  uint8_t *path;
  size_t path_len;
  version made; /* its number and id come from the state */
  uint64_t sequence;
} operation;

struct model {
  unsigned keep;
  operation *operations;
  size_t count, cap;
  uint64_t *marks; /* marks[n]: fingerprint of the state behind n commits */
  size_t mark_cap;
  size_t durable;
  uint64_t last_sequence;
  document *documents; /* sorted by path */
  size_t document_count, document_cap;
  uint64_t mark; /* of the state now */
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
static bool of_words(uint64_t seed, uint64_t offset) {
  switch (mix(seed) % 4) {
    case 0: return false;
    case 1: return offset / 40000 % 2 == 0;
    default: return true;
  }
}

void model_content(uint64_t seed, uint64_t offset, void *buf, size_t len) {
  uint8_t *p = buf;
  while (len > 0) {
    uint64_t word = mix(seed + (offset / 8 + 1) * 0x9E3779B97F4A7C15u);
    if (of_words(seed, offset / 8 * 8)) word = mix(word % 16) & 0x3F3F3F3F3F3F3F3Fu;
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

/* One number for a document's path and versions; that of a state is the sum. */
static uint64_t document_mark(const document *d) {
  uint64_t h = hash_bytes(d->path, d->path_len);
  for (unsigned i = 0; i < d->count; i++)
    h = mix(h ^ d->versions[i].hash ^ ((uint64_t)d->versions[i].number << 32) ^ d->versions[i].size);
  return h;
}

static document *insert_document(model *m, size_t place, const operation *op) {
  if (m->document_count == m->document_cap) {
    m->document_cap = m->document_cap == 0 ? 64 : m->document_cap * 2;
    m->documents = must(realloc(m->documents, m->document_cap * sizeof *m->documents));
  }
  memmove(m->documents + place + 1, m->documents + place, (m->document_count - place) * sizeof *m->documents);
  m->document_count++;
  document *d = &m->documents[place];
  *d = (document){.path = copy_bytes(op->path, op->path_len), .path_len = op->path_len};
  return d;
}

static void apply_put(model *m, operation *op) {
  bool found;
  size_t place = place_of(m, op->path, op->path_len, &found);
  document *d = found ? &m->documents[place] : insert_document(m, place, op);
  if (found) m->mark -= document_mark(d);
  op->made.number = found ? d->versions[0].number + 1 : 1;
  if (d->count == m->keep) d->count--;
  memmove(d->versions + 1, d->versions, d->count * sizeof *d->versions);
  d->versions[0] = op->made;
  d->count++;
  m->mark += document_mark(d);
}

static void apply_delete(model *m, const operation *op) {
  bool found;
  size_t place = place_of(m, op->path, op->path_len, &found);
  if (!found) return;
  document *d = &m->documents[place];
  m->mark -= document_mark(d);
  free(d->path);
  m->document_count--;
  memmove(d, d + 1, (m->document_count - place) * sizeof *d);
}

static void apply(model *m, operation *op) {
  if (op->is_delete) {
    apply_delete(m, op);
  } else {
    apply_put(m, op);
  }
}

static void clear_state(model *m) {
  for (size_t i = 0; i < m->document_count; i++) free(m->documents[i].path);
  m->document_count = 0;
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
  return found ? m->documents[place].versions[0].number : 0;
}

/* --- History ------------------------------------------------------------------------------------------------------------------ */

static void note_mark(model *m) {
  if (m->count + 1 > m->mark_cap) {
    m->mark_cap = m->mark_cap == 0 ? 64 : m->mark_cap * 2;
    m->marks = must(realloc(m->marks, m->mark_cap * sizeof *m->marks));
  }
  m->marks[m->count] = m->mark;
}

static void append(model *m, operation op) {
  if (m->count == m->cap) {
    m->cap = m->cap == 0 ? 64 : m->cap * 2;
    m->operations = must(realloc(m->operations, m->cap * sizeof *m->operations));
  }
  m->operations[m->count] = op;
  apply(m, &m->operations[m->count]);
  m->count++;
  note_mark(m);
}

model *model_new(unsigned keep) {
  assert(keep >= 1 && keep <= KEEP_MAX);
  model *m = must(calloc(1, sizeof *m));
  m->keep = keep;
  note_mark(m);
  return m;
}

model *model_clone(const model *from) {
  model *m = model_new(from->keep);
  for (size_t i = 0; i < from->count; i++) {
    operation op = from->operations[i];
    op.path = copy_bytes(op.path, op.path_len);
    append(m, op);
  }
  m->durable = from->durable;
  m->last_sequence = from->last_sequence;
  return m;
}

void model_free(model *m) {
  if (m == NULL) return;
  clear_state(m);
  model_truncate(m, 0);
  free(m->operations);
  free(m->documents);
  free(m->marks);
  free(m);
}

/* Sequence numbers rise for ever, those of commits that a crash took included. */
static bool note_sequence(model *m, const sdb_commit *commit) {
  if (commit->sequence <= m->last_sequence) {
    return fail(m, "sequence %" PRIu64 " was given after %" PRIu64, commit->sequence, m->last_sequence);
  }
  m->last_sequence = commit->sequence;
  return true;
}

bool model_put(model *m, const void *path, size_t path_len, uint64_t seed, uint32_t size, const sdb_commit *commit) {
  operation op = {.path = copy_bytes(path, path_len), .path_len = path_len, .made = {.size = size, .seed = seed}};
  uint8_t *content = must(malloc(size + 1u));
  model_content(seed, 0, content, size);
  op.made.hash = hash_bytes(content, size);
  uint32_t digest = sdb_crc32c(0, content, size), before = model_version(m, path, path_len);
  free(content);
  if (commit != NULL) {
    op.sequence = commit->sequence;
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
  return note_sequence(m, commit);
}

bool model_delete(model *m, const void *path, size_t path_len, const sdb_commit *commit) {
  uint32_t before = model_version(m, path, path_len);
  operation op = {.is_delete = true, .path = copy_bytes(path, path_len), .path_len = path_len};
  if (commit != NULL) op.sequence = commit->sequence;
  append(m, op);
  if (commit == NULL) return true;
  if (commit->info.version != before)
    return fail(m, "delete of %s reports version %u, not %u", shown(path, path_len), commit->info.version, before);
  return note_sequence(m, commit);
}

size_t model_commits(const model *m) { return m->count; }
size_t model_durable(const model *m) { return m->durable; }
void model_all_durable(model *m) { m->durable = m->count; }
void model_require(model *m, size_t commits) { m->durable = commits; }

void model_durable_up_to(model *m, uint64_t sequence) {
  while (m->durable < m->count && m->operations[m->durable].sequence != 0 && m->operations[m->durable].sequence <= sequence)
    m->durable++;
}

void model_truncate(model *m, size_t commits) {
  for (size_t i = commits; i < m->count; i++) free(m->operations[i].path);
  m->count = commits;
  if (m->durable > commits) m->durable = commits;
  clear_state(m);
  for (size_t i = 0; i < commits; i++) apply(m, &m->operations[i]);
}

/* --- Comparing ---------------------------------------------------------------------------------------------------------------- */

static bool info_agrees(model *m, const document *d, unsigned index, const sdb_info *info) {
  const version *v = &d->versions[index];
  const char *name = shown(d->path, d->path_len);
  if (info->version != v->number) return fail(m, "%s: version %u instead of %u", name, info->version, v->number);
  if (info->size != v->size) return fail(m, "%s version %u: size %" PRIu64 " instead of %u", name, v->number, info->size, v->size);
  uint32_t oldest = d->versions[d->count - 1].number;
  if (index == 0 && info->oldest != oldest) return fail(m, "%s: oldest is %u instead of %u", name, info->oldest, oldest);
  if (!v->known) return true;
  if (memcmp(info->id, v->info.id, sizeof info->id) != 0) return fail(m, "%s version %u: another id", name, v->number);
  if (info->time_ms != v->info.time_ms) return fail(m, "%s version %u: another time", name, v->number);
  if (info->digest != v->info.digest) return fail(m, "%s version %u: another digest", name, v->number);
  return true;
}

static bool content_agrees(model *m, const document *d, unsigned index, uint64_t offset, const uint8_t *got, size_t len) {
  uint8_t *expected = must(malloc(len + 1));
  model_content(d->versions[index].seed, offset, expected, len);
  bool same = memcmp(got, expected, len) == 0;
  size_t i = 0;
  while (!same && got[i] == expected[i]) i++;
  free(expected);
  if (same) return true;
  return fail(m, "%s version %u: WRONG BYTE at %" PRIu64, shown(d->path, d->path_len), d->versions[index].number, offset + i);
}

static bool read_whole(model *m, sdb *db, const document *d, unsigned index) {
  const version *v = &d->versions[index];
  uint32_t number = index == 0 ? SDB_CURRENT : v->number;
  void *data;
  size_t size;
  sdb_info info;
  int code = sdb_get_alloc(db, d->path, d->path_len, number, &data, &size, &info);
  if (code != SDB_OK) return call_failed(m, db, "get", d, number, code);
  bool good = size == v->size ||
              fail(m, "%s version %u: got %zu bytes instead of %u", shown(d->path, d->path_len), v->number, size, v->size);
  good = good && info_agrees(m, d, index, &info) && content_agrees(m, d, index, 0, data, size);
  sdb_free(db, data);
  return good;
}

static bool read_range(model *m, sdb *db, const document *d, unsigned index) {
  const version *v = &d->versions[index];
  uint8_t buf[300];
  uint64_t offset = v->size == 0 ? 0 : mix(v->seed) % v->size;
  size_t got = 0, expected = v->size - offset < sizeof buf ? (size_t)(v->size - offset) : sizeof buf;
  int code = sdb_get_range(db, d->path, d->path_len, v->number, offset, buf, sizeof buf, &got, NULL);
  if (code != SDB_OK) return call_failed(m, db, "get_range", d, v->number, code);
  if (got != expected)
    return fail(m, "%s version %u: range of %zu bytes instead of %zu", shown(d->path, d->path_len), v->number, got, expected);
  return content_agrees(m, d, index, offset, buf, got);
}

static bool read_stream(model *m, sdb *db, const document *d, unsigned index) {
  const version *v = &d->versions[index];
  sdb_reader *reader;
  int code = sdb_reader_open(db, d->path, d->path_len, v->number, &reader);
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
  sdb_info infos[KEEP_MAX + 1];
  size_t count = 0;
  int code = sdb_versions(db, d->path, d->path_len, infos, KEEP_MAX + 1, &count);
  if (code != SDB_OK) return call_failed(m, db, "versions", d, 0, code);
  if (count != d->count) return fail(m, "%s: %zu readable versions instead of %u", shown(d->path, d->path_len), count, d->count);
  for (unsigned i = 0; i < d->count; i++) {
    if (!info_agrees(m, d, i, &infos[i])) return false;
  }
  uint32_t absent[2] = {d->versions[0].number + 1, d->versions[d->count - 1].number - 1};
  for (int i = 0; i < 2; i++) {
    if (absent[i] == SDB_CURRENT) continue;
    code = sdb_stat(db, d->path, d->path_len, absent[i], &infos[0]);
    if (!nothing(db, code, SDB_NOT_FOUND)) return call_failed(m, db, "stat (absent)", d, absent[i], code);
  }
  return true;
}

static bool document_agrees(model *m, sdb *db, const document *d) {
  sdb_info info;
  int code = sdb_stat(db, d->path, d->path_len, SDB_CURRENT, &info);
  if (code != SDB_OK) return call_failed(m, db, "stat", d, SDB_CURRENT, code);
  if (!info_agrees(m, d, 0, &info) || !versions_agree(m, db, d)) return false;
  for (unsigned i = 0; i < d->count; i++) {
    if (!read_whole(m, db, d, i) || !read_range(m, db, d, i)) return false;
    if (d->versions[i].seed % 4 == 0 && !read_stream(m, db, d, i)) return false;
  }
  return true;
}

bool model_equals_at(model *m, sdb *db, const void *path, size_t path_len) {
  bool found;
  size_t place = place_of(m, path, path_len, &found);
  if (found) return document_agrees(m, db, &m->documents[place]);
  sdb_info info;
  int code = sdb_stat(db, path, path_len, SDB_CURRENT, &info);
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
  int code = sdb_cursor_open(db, &options, &cursor);
  if (code != SDB_OK) return fail(m, "cursor_open for %s: code %d", shown(prefix, prefix_len), code);
  bool good = true;
  for (;; place++) {
    sdb_entry entry;
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

static bool counts_agree(model *m, const sdb_stats *stats) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < m->document_count; i++) bytes += m->documents[i].versions[0].size;
  if (stats->documents != m->document_count) {
    return fail(m, "stats: %" PRIu64 " documents instead of %zu", stats->documents, m->document_count);
  }
  return stats->content_bytes == bytes ||
         fail(m, "stats: %" PRIu64 " bytes of content instead of %" PRIu64, stats->content_bytes, bytes);
}

bool model_equals(model *m, sdb *db) {
  sdb_stats stats = {.size = sizeof stats};
  int code = sdb_get_stats(db, &stats);
  if (code != SDB_OK) return fail(m, "stats: code %d", code);
  if (!stats.sync_failed && !counts_agree(m, &stats)) return false; /* else they may count what nobody will see */
  if (!search_agrees(m, db, "", 0, NULL, 0)) return false;
  for (size_t i = 0; i < m->document_count; i++) {
    const document *d = &m->documents[i];
    if (!document_agrees(m, db, d)) return false;
    size_t prefix_len = mix(m->mark + i) % (d->path_len + 1);
    const document *after = &m->documents[mix(m->mark ^ i) % m->document_count];
    if (i % 4 == 0 && !search_agrees(m, db, d->path, prefix_len, after->path, after->path_len)) return false;
  }
  return model_equals_at(m, db, "\xFF\xFE no such path", 15);
}

/* Reads what is there without knowing what should be. */
static bool observe_document(model *m, sdb *db, const sdb_entry *entry, uint64_t *mark) {
  document d = {.path = copy_bytes(entry->path, entry->path_len), .path_len = entry->path_len};
  sdb_info infos[KEEP_MAX];
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
      d.versions[d.count++] = (version){.number = infos[i].version, .size = (uint32_t)size, .hash = hash_bytes(data, size)};
      sdb_free(db, data);
    }
  }
  *mark += document_mark(&d);
  free(d.path);
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
  m->durable = commits;
  return true;
}

bool model_adopt(model *m, sdb *db) {
  uint64_t mark = 0;
  bool known = false;
  if (!observe(m, db, &mark)) return false;
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
  if (report.documents != m->document_count) {
    return fail(m, "check counts %" PRIu64 " documents instead of %zu", report.documents, m->document_count);
  }
  return true;
}
