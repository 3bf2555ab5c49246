/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* segment.c - the log's files: finding them, setting a new one up, recycling, removing. */
#include <stdio.h>

#include "codec.h"
#include "log_state.h"

int segment_file_name(const log *l, uint32_t index, char *buf, size_t len) {
  int n = snprintf(buf, len, "%s.log.%04u", l->name, index);
  return n > 0 && (size_t)n < len ? SDB_OK : env_fail(l->e, SDB_INVALID, "the name of the database is too long");
}

/* Binds a record to this use of this place. */
uint32_t segment_seed(uint64_t salt, uint64_t position) {
  uint8_t bytes[16];
  put64(bytes, salt);
  put64(bytes + 8, position);
  return crc32c(0, bytes, sizeof bytes);
}

struct segment *segment_live(const log *l, uint64_t number) {
  for (size_t i = 0; i < l->count; i++)
    if (l->segments[i]->state == SEGMENT_LIVE && l->segments[i]->number == number) return l->segments[i];
  return NULL;
}

struct segment *segment_of(const log *l, const log_place *place) {
  for (size_t i = 0; i < l->count; i++) {
    struct segment *s = l->segments[i];
    bool reaches = place->position >= s->base && place->position <= s->base + l->segment_size;
    if (s->state == SEGMENT_LIVE && s->number == place->segment && s->salt == place->salt && reaches) return s;
  }
  return NULL;
}

static int add(log *l, sdb_file *file, uint32_t index, enum segment_state state, struct segment **out) {
  struct segment *s = mem_new(l->e, sizeof *s);
  bool room = false;
  if (s) {
    s->file = file;
    s->index = index;
    s->state = state;
    mutex_lock(&l->queue);
    void *segments = l->segments;
    room = mem_reserve(l->e, &segments, &l->cap, l->count + 1, sizeof(struct segment *));
    if (room) {
      l->segments = segments;
      l->segments[l->count++] = s;
    }
    mutex_unlock(&l->queue);
  }
  if (!room) {
    mem_free(l->e, s);
    return env_fail(l->e, SDB_NO_MEMORY, "out of memory for a log segment");
  }
  *out = s;
  return SDB_OK;
}

/* One copy of the header into *s, when it is valid and newer than what *s says. One of another history is refused. */
static int header_take(log *l, struct segment *s, uint64_t offset, uint64_t size) {
  uint8_t head[LOG_SECTOR];
  if (l->e->storage->read(s->file, offset, head, sizeof head) != SDB_OK)
    return env_fail(l->e, SDB_IO, "cannot read log segment %04u", s->index);
  if (memcmp(head, SEGMENT_MAGIC, 8) != 0 || get32(head + 8) != crc32c(0, head + 12, sizeof head - 12)) return SDB_OK;
  if (get32(head + 12) != SEGMENT_FORMAT) return env_fail(l->e, SDB_UNSUPPORTED, "log segment %04u has a newer format", s->index);
  if (memcmp(head + 16, l->config.database_id, 16) != 0 || get64(head + 32) != l->config.epoch)
    return env_fail(
        l->e, SDB_MISMATCH,
        "log segment %04u belongs to another database or history; move the *.log.* files away if the data file is a restored copy",
        s->index);
  uint32_t declared = get32(head + 64);
  if (declared < 16 * LOG_SECTOR || declared % LOG_SECTOR != 0 || get64(head + 48) > UINT64_MAX / 2) return SDB_OK;
  if (l->sized && declared != l->segment_size)
    return env_fail(l->e, SDB_CORRUPT, "the log segments declare different sizes; restore a copy");
  if (s->state == SEGMENT_LIVE && get64(head + 40) < s->number) return SDB_OK;
  s->readable =
      size < declared ? (uint32_t)size : declared; /* a header is written into a file of full, synced size: less is damage */
  s->number = get64(head + 40);
  s->base = get64(head + 48);
  s->salt = get64(head + 56);
  s->previous = get64(head + 72);
  s->state = SEGMENT_LIVE;
  l->segment_size = declared;
  l->sized = true;
  return SDB_OK;
}

/* Two copies, so that damage to one does not hide acknowledged commits. Without a valid one the segment is unused. */
static int header_read(log *l, struct segment *s) {
  uint64_t size;
  if (l->e->storage->get_size(s->file, &size) != SDB_OK)
    return env_fail(l->e, SDB_IO, "cannot ask for the size of log segment %u", s->index);
  if (size < 16 * LOG_SECTOR) { /* a file gets its name when it has its size, synced */
    l->cut = true;
    return SDB_OK;
  }
  int rc = header_take(l, s, 0, size);
  return rc == SDB_OK ? header_take(l, s, size - LOG_SECTOR, size) : rc;
}

int segments_find(log *l) {
  for (uint32_t index = 0, missing = 0; index < MAX_SEGMENTS && missing < NAME_GAP; index++) {
    char name[4096];
    sdb_file *file;
    struct segment *s;
    int rc = segment_file_name(l, index, name, sizeof name);
    if (rc != SDB_OK) return rc;
    rc = l->e->storage->open(l->e->storage->ctx, name, l->config.read_only ? SDB_OPEN_READ : SDB_OPEN_WRITE, &file);
    if (rc == SDB_NOT_FOUND) {
      missing++;
      continue;
    }
    if (rc != SDB_OK) return env_fail(l->e, rc, "cannot open log segment %04u", index);
    missing = 0;
    rc = add(l, file, index, SEGMENT_SPARE, &s);
    if (rc != SDB_OK) {
      l->e->storage->close(file);
      return rc;
    }
    rc = header_read(l, s);
    if (rc != SDB_OK) return rc;
  }
  return SDB_OK;
}

static bool index_taken(const log *l, uint32_t index) {
  for (size_t i = 0; i < l->count; i++)
    if (l->segments[i]->index == index) return true;
  return false;
}

/* Also where what was not synced could be made anew: after the first failure nothing that the device says is believed (I7). */
static int synced(log *l, int rc) {
  if (rc == SDB_OK) return SDB_OK;
  atomic_store(&l->e->sync_failed, true);
  return env_fail(l->e, SDB_SYNC_FAILED, "a sync of the log failed; nothing more is written until the database is opened again");
}

/* In parts, each sent to the device before the next is made, so that a commit's sync beside it has not the whole file before it. */
static int fill_zeros(log *l, sdb_file *file) {
  enum { PART = 1 << 20 };
  const sdb_storage *st = l->e->storage;
  uint32_t part = l->segment_size < PART ? l->segment_size : PART;
  uint8_t *zeros = mem_new(l->e, part);
  if (!zeros) return SDB_NO_MEMORY;
  int rc = st->allocate(file, l->segment_size);
  for (uint32_t at = 0, len; rc == SDB_OK && at < l->segment_size; at += len) {
    len = l->segment_size - at < part ? l->segment_size - at : part;
    rc = st->write(file, at, zeros, len);
    if (rc == SDB_OK && st->write_back) rc = synced(l, st->write_back(file, at, len, false));
    if (rc == SDB_OK && st->write_back && at) rc = synced(l, st->write_back(file, at - part, part, true));
  }
  mem_free(l->e, zeros);
  return rc;
}

/* A file of zeros, so that later writes change data only and no metadata of the file system. It is made under another name: what
 * has the name of a segment has its size. */
static int file_create(log *l, struct segment **out) {
  const sdb_storage *st = l->e->storage;
  char name[4096], fresh[4096];
  sdb_file *file;
  uint32_t index = 0;
  log_own(l);
  while (index_taken(l, index)) index++;
  log_disown(l);
  int rc =
      index < MAX_SEGMENTS ? segment_file_name(l, index, name, sizeof name) : env_fail(l->e, SDB_FULL, "too many log segments");
  if (rc != SDB_OK) return rc;
  snprintf(fresh, sizeof fresh, "%s.log.new", l->name);
  rc = st->open(st->ctx, fresh, SDB_OPEN_CREATE, &file);
  if (rc != SDB_OK) return env_fail(l->e, rc, "cannot create log segment %04u", index);
  rc = fill_zeros(l, file);
  if (rc == SDB_OK) rc = synced(l, st->sync(file));
  if (rc == SDB_OK) rc = st->rename(st->ctx, fresh, name);
  if (rc == SDB_OK) rc = synced(l, st->sync_dir(st->ctx, name));
  if (rc == SDB_OK) {
    log_own(l);
    rc = add(l, file, index, SEGMENT_TAKEN, out);
    log_disown(l);
  }
  if (rc == SDB_OK) {
    (*out)->name_synced = true;
    return SDB_OK;
  }
  st->close(file);
  st->remove(st->ctx, fresh);
  if (rc == SDB_SYNC_FAILED) return rc;
  return env_fail(l->e, rc, "cannot set up log segment %04u of %u bytes: %s", index, l->segment_size, sdb_strerror(rc));
}

static int header_write(log *l, struct segment *s) {
  uint8_t head[LOG_SECTOR] = {0};
  memcpy(head, SEGMENT_MAGIC, 8);
  put32(head + 12, SEGMENT_FORMAT);
  memcpy(head + 16, l->config.database_id, 16);
  put64(head + 32, l->config.epoch);
  put64(head + 40, s->number);
  put64(head + 48, s->base);
  put64(head + 56, s->salt);
  put32(head + 64, l->segment_size);
  put64(head + 72, s->previous);
  memcpy(head + SEGMENT_WRAPPED, l->config.wrapped, sizeof l->config.wrapped);
  put32(head + 8, crc32c(0, head + 12, sizeof head - 12));
  int rc = l->e->storage->write(s->file, 0, head, sizeof head);
  if (rc == SDB_OK) rc = l->e->storage->write(s->file, l->segment_size - LOG_SECTOR, head, sizeof head);
  if (rc != SDB_OK) return env_fail(l->e, rc, "cannot write the header of log segment %04u: %s", s->index, sdb_strerror(rc));
  return synced(l, l->e->storage->sync(s->file));
}

static void set_state(log *l, struct segment *s, enum segment_state state) {
  mutex_lock(&l->queue);
  s->state = state;
  mutex_unlock(&l->queue);
}

/* A spare file of the right size; NULL: there is none. One with a number that is to be given again comes first: it was set up,
 * never used, and must not stay beside its namesake. Else the lowest name, so that the highest are free to be removed. */
static int spare_find(const log *l, uint64_t number, struct segment **found) {
  *found = NULL;
  for (size_t i = 0; i < l->count; i++) {
    uint64_t size;
    struct segment *s = l->segments[i];
    if (s->state != SEGMENT_SPARE) continue;
    if (l->e->storage->get_size(s->file, &size) != SDB_OK)
      return env_fail(l->e, SDB_IO, "cannot ask for the size of log segment %04u", s->index);
    if (size != l->segment_size) continue;
    bool first = *found && (*found)->number >= number;
    if (!*found || (!first && (s->number >= number || s->index < (*found)->index))) *found = s;
  }
  return SDB_OK;
}

/* The oldest segment that is kept for readers of changes only. */
static struct segment *kept_find(const log *l) {
  struct segment *found = NULL;
  for (size_t i = 0; i < l->count; i++) {
    struct segment *s = l->segments[i];
    bool whole = s->readable == l->segment_size;
    if (s->state != SEGMENT_LIVE || s == l->current || s == l->next || s->base + l->segment_size > l->covered || !whole) continue;
    if (!found || s->number < found->number) found = s;
  }
  return found;
}

/* A file that nobody needs becomes the caller's; NULL: there is none. `kept`: of those that readers of changes would still like. */
static int take(log *l, uint64_t number, bool kept, struct segment **out) {
  int rc = SDB_OK;
  log_own(l);
  if (kept) *out = kept_find(l);
  else rc = spare_find(l, number, out);
  if (rc == SDB_OK && *out) set_state(l, *out, SEGMENT_TAKEN);
  log_disown(l);
  return rc;
}

/* The file says what it is from now on. */
static int set_up(log *l, struct segment *s, uint64_t number, uint64_t previous, uint64_t base) {
  uint64_t salt;
  int rc = s->name_synced ? SDB_OK : synced(l, l->e->storage->sync_dir(l->e->storage->ctx, l->name));
  if (rc != SDB_OK) return rc;
  s->name_synced = true;
  if (l->e->storage->random(l->e->storage->ctx, &salt, sizeof salt) != SDB_OK)
    return env_fail(l->e, SDB_IO, "no randomness for the log");
  mutex_lock(&l->queue);
  s->number = number;
  s->previous = previous;
  s->base = base;
  s->salt = salt;
  s->first = 0;
  s->readable = l->segment_size;
  mutex_unlock(&l->queue);
  return header_write(l, s);
}

int segment_new(log *l, uint64_t number, uint64_t previous, uint64_t base, struct segment **out) {
  struct segment *s;
  int rc = take(l, number, false, &s);
  if (rc == SDB_OK && !s) {
    rc = file_create(l, &s);
    struct segment *kept = NULL; /* a full device must not stop commits: they may be deletes. Who reads that far back is told */
    if (rc == SDB_FULL && take(l, number, true, &kept) == SDB_OK && kept) s = kept, rc = SDB_OK;
  }
  if (rc != SDB_OK) return rc;
  rc = set_up(l, s, number, previous, base);
  set_state(l, s, rc == SDB_OK ? SEGMENT_LIVE : SEGMENT_SPARE);
  *out = s;
  return rc;
}

/* False: somebody is reading it. */
static bool segment_drop(log *l, size_t i) {
  struct segment *s = l->segments[i];
  char name[4096];
  mutex_lock(&l->queue);
  bool idle = s->readers == 0;
  if (idle) l->segments[i] = l->segments[--l->count];
  mutex_unlock(&l->queue);
  if (!idle) return false;
  l->e->storage->close(s->file);
  if (segment_file_name(l, s->index, name, sizeof name) == SDB_OK) l->e->storage->remove(l->e->storage->ctx, name);
  mem_free(l->e, s);
  return true;
}

unsigned log_let_go(log *l, uint64_t position) {
  uint64_t keep = position > l->config.keep_bytes ? position - l->config.keep_bytes : 0;
  unsigned spares = 0;
  mutex_lock(&l->queue);
  l->covered = position;
  for (size_t i = 0; i < l->count; i++) {
    struct segment *s = l->segments[i];
    bool done = s != l->current && s != l->next && s->base + l->segment_size <= keep;
    if (s->state == SEGMENT_LIVE && done) s->state = SEGMENT_SPARE;
    spares += s->state == SEGMENT_SPARE;
  }
  mutex_unlock(&l->queue);
  return spares;
}

/* A start looks for names in their order and gives up after NAME_GAP that are missing: would it still find all others? */
static bool can_miss(const log *l, uint32_t index) {
  int64_t below = -1, above = -1;
  for (size_t i = 0; i < l->count; i++) {
    int64_t other = l->segments[i]->index;
    if (other < index && other > below) below = other;
    if (other > index && (above < 0 || other < above)) above = other;
  }
  return above < 0 || above - below - 1 < NAME_GAP;
}

/* The spare with the highest name that can go, as an index into the list. */
static bool removable(log *l, size_t *found) {
  const struct segment *top = NULL;
  mutex_lock(&l->queue);
  for (size_t i = 0; i < l->count; i++) {
    const struct segment *s = l->segments[i];
    if (s->state != SEGMENT_SPARE || (top && s->index < top->index) || !can_miss(l, s->index)) continue;
    top = s;
    *found = i;
  }
  mutex_unlock(&l->queue);
  return top != NULL;
}

void log_release(log *l, uint64_t position, unsigned spare) {
  size_t i = 0;
  unsigned spares = log_let_go(l, position);
  mutex_lock(&l->queue);
  if (spare == 0 && !l->next && !kept_find(l)) spare = 1;
  mutex_unlock(&l->queue);
  while (spares > spare && removable(l, &i) && segment_drop(l, i)) spares--;
}

unsigned log_spares(log *l) {
  unsigned spares = 0;
  mutex_lock(&l->queue);
  for (size_t i = 0; i < l->count; i++) spares += l->segments[i]->state == SEGMENT_SPARE;
  mutex_unlock(&l->queue);
  return spares;
}

uint64_t log_bytes(log *l) {
  mutex_lock(&l->queue);
  uint64_t bytes = l->count * (uint64_t)l->segment_size;
  mutex_unlock(&l->queue);
  return bytes;
}
