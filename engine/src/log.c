/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log.c - appending, group writes and syncs; see log.h. */
#include "log.h"

#include "codec.h"
#include "log_state.h"

enum { PIECE_BYTES = 256 << 10 };

/* --- Life --------------------------------------------------------------------------------------------------------------------- */

int log_open(env *e, const char *name, const log_config *config, log **out) {
  log *l = mem_new(e, sizeof *l);
  size_t len = strlen(name) + 1;
  if (l) l->name = mem_alloc(e, len);
  if (!l || !l->name) {
    mem_free(e, l);
    return env_fail(e, SDB_NO_MEMORY, "out of memory for the log");
  }
  memcpy(l->name, name, len);
  l->e = e;
  l->config = *config;
  l->segment_size = config->segment_size;
  atomic_init(&l->session_base, UINT64_MAX);
  mutex_init(&l->preparing);
  mutex_init(&l->owner);
  mutex_init(&l->queue);
  int rc = segments_find(l);
  if (rc != SDB_OK) {
    log_close(l);
    return rc;
  }
  *out = l;
  return SDB_OK;
}

static void pieces_free(log *l, struct piece *p) {
  while (p) {
    struct piece *next = p->next;
    mem_free(l->e, p->bytes);
    mem_free(l->e, p);
    p = next;
  }
}

void log_close(log *l) {
  if (!l) return;
  for (size_t i = 0; i < l->count; i++) {
    l->e->storage->close(l->segments[i]->file);
    mem_free(l->e, l->segments[i]);
  }
  pieces_free(l, l->open);
  pieces_free(l, l->sealed_first);
  pieces_free(l, l->idle);
  mem_free(l->e, l->segments);
  mem_free(l->e, l->name);
  mutex_destroy(&l->preparing);
  mutex_destroy(&l->owner);
  mutex_destroy(&l->queue);
  mem_free(l->e, l);
}

static void start(log *l, struct segment *s, uint64_t position) {
  mutex_lock(&l->queue);
  l->current = s;
  mutex_unlock(&l->queue);
  l->tail = position;
  l->written_pos = position;
  atomic_store(&l->synced_pos, position);
  l->stated = position;
  l->started = true;
}

/* Records are read back from where the log ends, along the predecessors. A segment that is not on that way was let go by a process
 * whose removals a crash has undone in part. */
static bool leads_to(const log *l, const struct segment *from, const struct segment *to) {
  while (from && from != to) from = segment_live(l, from->previous);
  return from != NULL;
}

static const struct segment *past_segment(const log *l, const log_place *end) {
  const struct segment *last = NULL;
  for (size_t i = 0; i < l->count; i++) {
    const struct segment *s = l->segments[i];
    bool named = end->segment ? s->number == end->segment && s->salt == end->salt
                              : s->base < end->position && end->position - s->base <= l->segment_size;
    if (s->state == SEGMENT_LIVE && named) last = s;
  }
  return last;
}

void log_past(log *l, const log_place *end, uint64_t sequence) {
  mutex_lock(&l->queue);
  const struct segment *last = past_segment(l, end);
  for (size_t i = 0; i < l->count; i++) {
    struct segment *s = l->segments[i];
    bool unused = s->base >= end->position; /* set up, never used; or by a process whose sync failed */
    if (unused || (s->state == SEGMENT_LIVE && !leads_to(l, last, s))) s->state = SEGMENT_SPARE;
  }
  l->past_segment = last ? last->number : 0;
  l->past_salt = last ? last->salt : 0;
  l->chain = l->past_chain = end->chain;
  l->past_sequence = sequence;
  mutex_unlock(&l->queue);
}

void log_skip(log *l, uint64_t position) {
  uint64_t base = position >= LOG_SECTOR ? position - LOG_SECTOR : 0;
  for (size_t i = 0; i < l->count; i++) {
    const struct segment *s = l->segments[i];
    if (s->number && s->base + l->segment_size > base) base = s->base + l->segment_size;
  }
  l->tail = base + LOG_SECTOR;
}

int log_resume(log *l, uint64_t position) {
  uint64_t number = 0, previous = 0;
  struct segment *s;
  log_let_go(l, position);
  log_skip(l, position);
  for (size_t i = 0; i < l->count; i++) {
    const struct segment *t = l->segments[i];
    if (t->number > number) number = t->number;
    if (t->state == SEGMENT_LIVE && t->number > previous) previous = t->number;
  }
  atomic_store(&l->session_base, l->tail - LOG_SECTOR); /* before a reader can find it: nothing in it counts until it is synced */
  int rc = segment_new(l, number + 1, previous, l->tail - LOG_SECTOR, &s);
  if (rc == SDB_OK) start(l, s, l->tail);
  return rc;
}

bool log_started(const log *l) { return l->started; }

/* --- Appending ---------------------------------------------------------------------------------------------------------------- */

static struct piece *piece_get(log *l, size_t need) {
  mutex_lock(&l->queue);
  struct piece *p = l->idle;
  if (p) l->idle = p->next;
  mutex_unlock(&l->queue);
  if (!p) p = mem_new(l->e, sizeof *p);
  if (!p) return NULL;
  p->next = NULL;
  p->len = 0;
  p->sequence = 0;
  if (p->cap >= need) return p;
  size_t cap = need < PIECE_BYTES ? PIECE_BYTES : need;
  uint8_t *bytes = mem_resize(l->e, p->bytes, cap);
  if (!bytes) {
    mem_free(l->e, p->bytes);
    mem_free(l->e, p);
    return NULL;
  }
  p->bytes = bytes;
  p->cap = cap;
  return p;
}

static uint64_t segment_end(const log *l) { return l->current->base + l->segment_size - LOG_SECTOR; }

/* The next segment must be there before the record that needs it is decided. */
static int ensure_next(log *l) {
  mutex_lock(&l->queue);
  bool ready = l->next != NULL;
  mutex_unlock(&l->queue);
  return ready ? SDB_OK : log_prepare(l);
}

/* Bytes of a record's payload as it is stored. An empty one says nothing that could be hidden. */
static size_t stored_size(const log *l, size_t payload) { return l->e->cipher && payload ? CIPHER_OVERHEAD + payload : payload; }

size_t log_largest(const log *l) {
  return l->segment_size / 2 - LOG_SECTOR - LOG_RECORD_HEAD - (l->e->cipher ? CIPHER_OVERHEAD : 0);
}

bool log_has_room(log *l, size_t plain) {
  size_t need = align_up(LOG_RECORD_HEAD + stored_size(l, plain < log_largest(l) ? plain : log_largest(l)), 8);
  if (!l->started || l->tail + need <= segment_end(l)) return true;
  mutex_lock(&l->queue);
  bool ready = l->next != NULL;
  mutex_unlock(&l->queue);
  return ready;
}

int log_reserve(log *l, size_t plain) {
  size_t payload = stored_size(l, plain);
  if (payload > plain && !l->nonce_fresh) {
    int rc = cipher_nonces(l->e, l->nonce, 1);
    if (rc != SDB_OK) return rc;
    l->nonce_fresh = true;
  }
  size_t need = align_up(LOG_RECORD_HEAD + payload, 8);
  if (plain > log_largest(l))
    return env_fail(l->e, SDB_TOO_LARGE, "a commit of %zu bytes does not fit into half a log segment of %u bytes", plain,
                    l->segment_size);
  if (l->open && l->open->len + need + LOG_SECTOR > l->open->cap) log_seal(l); /* which moves the tail to a sector's end */
  if (l->tail + need > segment_end(l)) {
    int rc = ensure_next(l);
    if (rc != SDB_OK) return rc;
    log_seal(l);
    mutex_lock(&l->queue);
    l->current = l->next;
    l->next = NULL;
    mutex_unlock(&l->queue);
    l->tail = l->current->base + LOG_SECTOR;
  }
  if (l->open) return SDB_OK;
  struct piece *p = piece_get(l, need + LOG_SECTOR);
  if (!p) return env_fail(l->e, SDB_NO_MEMORY, "out of memory for the log");
  p->segment = l->current;
  p->offset = (uint32_t)(l->tail - l->current->base);
  l->open = p;
  return SDB_OK;
}

uint8_t *log_append(log *l, uint8_t kind, uint64_t sequence, uint16_t ops, uint64_t time_ms, size_t plain) {
  struct piece *p = l->open;
  size_t payload = stored_size(l, plain);
  uint32_t len = (uint32_t)(LOG_RECORD_HEAD + payload);
  assert(p && p->len + align_up(len, 8) + LOG_SECTOR <= p->cap);
  uint8_t *r = p->bytes + p->len;
  uint64_t synced = atomic_load(&l->synced_pos);
  put32(r + 4, len);
  put64(r + 8, sequence);
  put64(r + 16, synced);
  put32(r + 24, l->chain);
  r[28] = kind;
  r[29] = payload > plain ? LOG_ENCRYPTED : 0;
  put16(r + 30, ops);
  put64(r + 32, time_ms);
  memset(r + len, 0, align_up(len, 8) - len);
  l->record = r;
  l->record_len = len;
  if (synced > l->stated) l->stated = synced;
  if (kind == LOG_COMMIT) p->sequence = l->last_sequence = sequence;
  if (!l->current->first) { /* read by others; written here only, and where a segment is set up */
    mutex_lock(&l->queue);
    l->current->first = kind == LOG_COMMIT ? sequence : sequence + 1;
    mutex_unlock(&l->queue);
  }
  return r + LOG_RECORD_HEAD + (payload - plain);
}

static void record_seal(log *l) {
  uint8_t *nonce = l->record + LOG_RECORD_HEAD, *plain = nonce + CIPHER_OVERHEAD;
  identity id = record_identity(l->tail, l->record);
  assert(l->nonce_fresh);
  l->nonce_fresh = false;
  memcpy(nonce, l->nonce, CIPHER_NONCE);
  cipher_seal(l->e->cipher, &id, nonce, nonce + CIPHER_NONCE, plain, plain, l->record_len - LOG_RECORD_HEAD - CIPHER_OVERHEAD);
}

void log_finish(log *l) {
  if (l->record[29] & LOG_ENCRYPTED) record_seal(l);
  l->chain = crc32c(segment_seed(l->current->salt, l->tail), l->record + 4, l->record_len - 4);
  put32(l->record, l->chain);
  size_t padded = align_up(l->record_len, 8);
  l->open->len += padded;
  l->tail += padded;
  if (l->record[28] == LOG_COMMIT) l->commit_end = l->tail;
}

void log_seal(log *l) {
  struct piece *p = l->open;
  if (!p) return;
  l->open = NULL;
  p->filled = p->len;
  size_t padded = align_up(p->len, LOG_SECTOR);
  memset(p->bytes + p->len, 0, padded - p->len);
  l->tail += padded - p->len;
  p->len = padded;
  mutex_lock(&l->queue);
  if (p->len == 0) {
    p->next = l->idle;
    l->idle = p;
  } else {
    if (l->sealed_last) l->sealed_last->next = p;
    else l->sealed_first = p;
    l->sealed_last = p;
    l->sealed_bytes += p->len;
  }
  mutex_unlock(&l->queue);
}

uint64_t log_tail(const log *l) { return l->tail; }

log_place log_end(const log *l) {
  const struct segment *s = l->current;
  return (log_place){
      .position = l->tail, .chain = l->chain, .segment = s ? s->number : l->past_segment, .salt = s ? s->salt : l->past_salt};
}

size_t log_backlog(log *l) { return atomic_load_explicit(&l->sealed_bytes, memory_order_relaxed); }

bool log_wants_mark(const log *l) { return l->started && !l->open && l->stated < l->commit_end; }

void log_set_wrapped(log *l, const uint8_t wrapped[CIPHER_WRAPPED]) {
  memcpy(l->config.wrapped, wrapped, sizeof l->config.wrapped);
}

/* --- Owner -------------------------------------------------------------------------------------------------------------------- */

void log_own(log *l) { mutex_lock(&l->owner); }
bool log_try_own(log *l) { return mutex_try(&l->owner); }
void log_disown(log *l) { mutex_unlock(&l->owner); }

int log_write(log *l) {
  for (;;) {
    mutex_lock(&l->queue);
    struct piece *p = l->sealed_first;
    mutex_unlock(&l->queue);
    if (!p) return SDB_OK;
    if (atomic_load(&l->e->sync_failed))
      return env_fail(l->e, SDB_SYNC_FAILED, "an earlier write to the log failed; open the database again");
    int rc = l->config.before_write ? l->config.before_write(l->config.user) : SDB_OK;
    if (rc != SDB_OK) return rc;
    rc = l->e->storage->write(p->segment->file, p->offset, p->bytes, p->len);
    if (rc != SDB_OK) {
      /* The commits in it are already part of the state in memory: nothing behind them may be acknowledged. */
      atomic_store(&l->e->sync_failed, true);
      return env_fail(l->e, SDB_SYNC_FAILED, "writing %zu bytes to log segment %04u failed (%s); open the database again", p->len,
                      p->segment->index, sdb_strerror(rc));
    }
    p->segment->unsynced = true;
    l->written_pos = p->segment->base + p->offset + p->filled;
    if (p->sequence) l->written_sequence = p->sequence;
    mutex_lock(&l->queue);
    l->sealed_first = p->next;
    l->sealed_bytes -= p->len;
    if (!p->next) l->sealed_last = NULL;
    bool keep = p->cap <= 4 * PIECE_BYTES;
    p->next = l->idle;
    if (keep) l->idle = p;
    mutex_unlock(&l->queue);
    if (keep) continue;
    p->next = NULL;
    pieces_free(l, p);
  }
}

int log_sync(log *l, uint64_t *sequence) {
  uint64_t pos = l->written_pos, seq = l->written_sequence;
  if (pos > atomic_load(&l->synced_pos)) {
    for (size_t i = 0; i < l->count; i++) {
      struct segment *s = l->segments[i];
      if (!s->unsynced) continue;
      if (l->e->storage->sync(s->file) != SDB_OK) {
        atomic_store(&l->e->sync_failed, true);
        return env_fail(l->e, SDB_SYNC_FAILED,
                        "a sync of the log failed; nothing more is written until the database is opened again");
      }
      s->unsynced = false;
    }
    atomic_store(&l->synced_pos, pos);
    atomic_store(&l->synced_sequence, seq);
  }
  *sequence = seq;
  return SDB_OK;
}

bool log_wants_segment(log *l) { /* the writer asks: tail is its own */
  mutex_lock(&l->queue);
  bool wants = l->started && !l->next && l->tail - l->current->base > l->segment_size / 2;
  mutex_unlock(&l->queue);
  return wants;
}

static int prepare(log *l) {
  mutex_lock(&l->queue);
  struct segment *last = l->current;
  bool wants = l->started && !l->next;
  mutex_unlock(&l->queue);
  if (!wants) return SDB_OK;
  if (atomic_load(&l->e->sync_failed))
    return env_fail(l->e, SDB_SYNC_FAILED, "an earlier sync failed; nothing more is written until the database is opened again");
  struct segment *s;
  int rc = segment_new(l, last->number + 1, last->number, last->base + l->segment_size, &s);
  if (rc != SDB_OK) return rc;
  mutex_lock(&l->queue);
  l->next = s;
  mutex_unlock(&l->queue);
  return SDB_OK;
}

bool log_short(log *l) { return atomic_load_explicit(&l->full, memory_order_relaxed) && log_wants_segment(l); }

int log_prepare(log *l) {
  mutex_lock(&l->preparing);
  int rc = prepare(l);
  atomic_store(&l->full, rc == SDB_FULL);
  mutex_unlock(&l->preparing);
  return rc;
}
