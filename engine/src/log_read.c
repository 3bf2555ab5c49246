/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log_read.c - see log_read.h. */
#include "log_read.h"

#include "codec.h"
#include "log_state.h"

enum { WINDOW = 64 << 10 };

/* Which use of which file: all that a reader keeps of a segment. */
struct place {
  uint64_t number, previous, base, salt, first;
};

struct log_reader {
  log *l;
  struct place in; /* number 0: before the first segment */
  uint32_t offset; /* where the next record may stand */
  uint32_t chain;  /* its checksum of the record before */
  bool any_chain;  /* the record before is not known */
  uint64_t sequence;
  uint8_t *bytes; /* window of the segment */
  size_t cap, len;
  uint32_t from;
};

int log_reader_open(log *l, log_reader **out) {
  log_reader *r = mem_new(l->e, sizeof *r);
  if (!r) return env_fail(l->e, SDB_NO_MEMORY, "out of memory for reading changes");
  r->l = l;
  *out = r;
  return SDB_OK;
}

void log_reader_close(log_reader *r) {
  if (!r) return;
  mem_free(r->l->e, r->bytes);
  mem_free(r->l->e, r);
}

uint64_t log_reader_position(const log_reader *r) { return r->sequence; }

/* --- Segments: `queue` is held ------------------------------------------------------------------------------------------------ */

static struct segment *newest(const log *l) {
  struct segment *top = NULL;
  for (size_t i = 0; i < l->count; i++)
    if (l->segments[i]->state == SEGMENT_LIVE && (!top || l->segments[i]->number > top->number)) top = l->segments[i];
  return top;
}

static struct segment *same(const log *l, const struct place *p) {
  struct segment *s = segment_live(l, p->number);
  return s && s->salt == p->salt ? s : NULL;
}

static struct place place_of(const struct segment *s) {
  return (struct place){.number = s->number, .previous = s->previous, .base = s->base, .salt = s->salt, .first = s->first};
}

/* --- Bytes -------------------------------------------------------------------------------------------------------------------- */

static int trimmed(const log_reader *r) {
  return env_fail(r->l->e, SDB_TRIMMED, "the log behind commit %llu has been recycled", (unsigned long long)r->sequence);
}

/* Where records that may be read end in the segment: what this session wrote counts once it is synced. */
static uint32_t readable_end(const log_reader *r) {
  const log *l = r->l;
  uint64_t end = l->segment_size - LOG_SECTOR, synced = atomic_load(&l->synced_pos);
  if (r->in.base < atomic_load(&l->session_base)) return (uint32_t)end;
  if (synced <= r->in.base) return 0;
  return (uint32_t)(synced - r->in.base < end ? synced - r->in.base : end);
}

static int read_window(log_reader *r, uint32_t offset, size_t len) {
  log *l = r->l;
  void *bytes = r->bytes;
  if (!mem_reserve(l->e, &bytes, &r->cap, len, 1)) return env_fail(l->e, SDB_NO_MEMORY, "out of memory for reading changes");
  r->bytes = bytes;
  r->len = 0;
  mutex_lock(&l->queue);
  struct segment *s = same(l, &r->in);
  if (s) s->readers++;
  uint32_t readable = s ? s->readable : 0;
  mutex_unlock(&l->queue);
  if (!s) return trimmed(r);
  size_t there = offset >= readable ? 0 : readable - offset < len ? readable - offset : len;
  memset(r->bytes + there, 0, len - there); /* a file that was cut: what is missing does not verify */
  int rc = there ? l->e->storage->read(s->file, offset, r->bytes, there) : SDB_OK;
  mutex_lock(&l->queue);
  s->readers--;
  bool kept = same(l, &r->in) == s;
  mutex_unlock(&l->queue);
  if (!kept) return trimmed(r);
  if (rc != SDB_OK) return env_fail(l->e, SDB_IO, "cannot read the log behind commit %llu", (unsigned long long)r->sequence);
  r->from = offset;
  r->len = len;
  return SDB_OK;
}

/* Bytes [offset, offset + need) into the window. SDB_END: that is beyond what may be read. */
static int fetch(log_reader *r, uint32_t offset, size_t need, const uint8_t **at) {
  if (offset < r->from || offset + need > r->from + r->len) {
    uint32_t end = readable_end(r);
    if (offset + need > end) return SDB_END;
    size_t len = end - offset < WINDOW ? end - offset : need < WINDOW ? WINDOW : need;
    int rc = read_window(r, offset, len);
    if (rc != SDB_OK) return rc;
  }
  *at = r->bytes + (offset - r->from);
  return SDB_OK;
}

/* --- Records ------------------------------------------------------------------------------------------------------------------ */

/* The record that stands at `offset` and follows the last one. SDB_END: there is none. */
static int record_at(log_reader *r, uint32_t offset, const uint8_t **record) {
  int rc = fetch(r, offset, LOG_RECORD_HEAD, record);
  if (rc != SDB_OK) return rc;
  uint32_t len = get32(*record + 4);
  if (len < LOG_RECORD_HEAD || len > r->l->segment_size / 2) return SDB_END;
  if (!r->any_chain && get32(*record + 24) != r->chain) return SDB_END;
  rc = fetch(r, offset, len, record);
  if (rc != SDB_OK) return rc;
  if (!record_verifies(*record, len, r->in.salt, r->in.base + offset)) return SDB_END;
  uint64_t sequence = get64(*record + 8);
  return (*record)[28] == LOG_COMMIT ? (sequence > r->sequence || r->any_chain ? SDB_OK : SDB_END) : SDB_OK;
}

static void enter(log_reader *r, const struct place *p) {
  r->in = *p;
  r->offset = LOG_SECTOR;
  r->len = 0;
}

/* Into the segment whose predecessor is the reader's. SDB_END: it is not there yet. */
static int next_segment(log_reader *r) {
  struct place p = {0};
  mutex_lock(&r->l->queue);
  struct segment *s = newest(r->l);
  bool here = r->in.number == 0 || same(r->l, &r->in);
  for (; s && s->number > r->in.number; s = segment_live(r->l, s->previous)) {
    if (s->previous != r->in.number) continue;
    p = place_of(s);
    break;
  }
  mutex_unlock(&r->l->queue);
  if (!here) return trimmed(r);
  if (!p.number) return SDB_END;
  enter(r, &p);
  return SDB_OK;
}

/* The next record of either kind in this segment: right behind the last one, or at the next sector. */
static int step_here(log_reader *r, const uint8_t **record) {
  uint32_t tries[2] = {r->offset, (uint32_t)align_up(r->offset, LOG_SECTOR)};
  if (r->in.number == 0) return SDB_END;
  for (int i = 0; i < (tries[0] == tries[1] ? 1 : 2); i++) {
    int rc = record_at(r, tries[i], record);
    if (rc == SDB_END) continue;
    if (rc != SDB_OK) return rc;
    r->any_chain = false;
    r->chain = get32(*record);
    r->offset = tries[i] + (uint32_t)align_up(get32(*record + 4), 8);
    return SDB_OK;
  }
  return SDB_END;
}

static int step(log_reader *r, const uint8_t **record) {
  for (;;) {
    int rc = step_here(r, record);
    if (rc != SDB_END || r->any_chain) return rc; /* a segment's own first record: that of another is none instead */
    rc = next_segment(r);
    if (rc != SDB_OK) return rc;
  }
}

/* No record follows, though commits up to `bound` are synced. That is right only where this session has none yet: then what earlier
 * ones left ends here. */
static int end_of_records(log_reader *r, uint64_t bound) {
  if (bound == r->l->past_sequence && r->chain == r->l->past_chain && !r->any_chain) {
    r->sequence = bound;
    return SDB_END;
  }
  return env_fail(r->l->e, SDB_CORRUPT, "the log is damaged behind commit %llu: changes up to commit %llu cannot be read",
                  (unsigned long long)r->sequence, (unsigned long long)bound);
}

int log_reader_next(log_reader *r, uint64_t bound, log_record *out) {
  while (r->sequence < bound) {
    const uint8_t *at;
    int rc = step(r, &at);
    if (rc == SDB_END) return end_of_records(r, bound);
    if (rc != SDB_OK) return rc;
    if (at[28] != LOG_COMMIT) continue;
    r->sequence = get64(at + 8);
    uint64_t position = r->in.base + r->offset - align_up(get32(at + 4), 8);
    *out = (log_record){
        .position = position, .sequence = r->sequence, .time_ms = get64(at + 32), .kind = at[28], .ops = get16(at + 30)};
    if (record_open(r->l, position, r->bytes + (at - r->bytes), &out->payload, &out->payload_len)) return SDB_OK;
    return env_fail(r->l->e, SDB_CORRUPT, "the log record of commit %llu is not what was written there",
                    (unsigned long long)r->sequence);
  }
  return SDB_END;
}

/* --- Positions ---------------------------------------------------------------------------------------------------------------- */

static void stand_before(log_reader *r, const struct place *p) {
  enter(r, p);
  r->any_chain = true;
  r->sequence = 0;
}

/* The sequence of the first commit in a segment; 0: it has none that can be read. Looks once, then it is known. */
static int first_of(log_reader *r, struct place *p) {
  const uint8_t *at;
  if (p->first) return SDB_OK;
  stand_before(r, p);
  int rc = step_here(r, &at);
  if (rc == SDB_END) return SDB_OK;
  if (rc != SDB_OK) return rc;
  p->first = get64(at + 8) + (at[28] != LOG_COMMIT);
  mutex_lock(&r->l->queue);
  struct segment *s = same(r->l, p);
  if (s) s->first = p->first;
  mutex_unlock(&r->l->queue);
  return SDB_OK;
}

/* From the newest segment back: the first in which a commit not newer than `position` stands. *oldest is the last one looked at
 * that has commits. */
static int find_segment(log_reader *r, uint64_t position, struct place *found, struct place *oldest) {
  *found = *oldest = (struct place){0};
  mutex_lock(&r->l->queue);
  struct segment *s = newest(r->l);
  while (s) {
    struct place p = place_of(s);
    mutex_unlock(&r->l->queue);
    int rc = first_of(r, &p);
    if (rc == SDB_TRIMMED) return SDB_OK; /* just recycled, and all before it */
    if (rc != SDB_OK) return rc;
    if (p.first) *oldest = p;
    if (p.first && p.first <= position) {
      *found = p;
      return SDB_OK;
    }
    mutex_lock(&r->l->queue);
    s = p.previous ? segment_live(r->l, p.previous) : NULL;
  }
  mutex_unlock(&r->l->queue);
  return SDB_OK;
}

static int no_such_commit(const log_reader *r, uint64_t position, uint64_t bound) {
  return env_fail(r->l->e, SDB_RESET, "there is no commit %llu: it lies beyond the last, %llu, or was lost in a crash",
                  (unsigned long long)position, (unsigned long long)bound);
}

/* Through the segment and those behind it until the commit is found. */
static int walk_to(log_reader *r, uint64_t position, uint64_t bound) {
  for (;;) {
    log_reader before = *r;
    const uint8_t *at;
    int rc = step(r, &at);
    if (rc == SDB_END) {
      rc = end_of_records(r, bound);
      if (rc != SDB_END) return rc;
      return position == bound ? SDB_OK : no_such_commit(r, position, bound);
    }
    if (rc != SDB_OK) return rc;
    if (at[28] != LOG_COMMIT) continue;
    r->sequence = get64(at + 8);
    if (r->sequence == position) return SDB_OK;
    if (r->sequence < position) continue;
    if (r->sequence != position + 1) return no_such_commit(r, position, bound);
    r->in = before.in; /* where a session begins: nothing stands between */
    r->offset = before.offset;
    r->chain = before.chain;
    r->any_chain = before.any_chain;
    r->sequence = position;
    r->len = 0;
    return SDB_OK;
  }
}

int log_reader_seek(log_reader *r, uint64_t position, uint64_t bound) {
  struct place found, oldest;
  if (position > bound) return no_such_commit(r, position, bound);
  int rc = find_segment(r, position, &found, &oldest);
  if (rc != SDB_OK) return rc;
  if (found.number) {
    stand_before(r, &found);
    return walk_to(r, position, bound);
  }
  if (oldest.number && position + 1 == oldest.first) {
    stand_before(r, &oldest);
    r->sequence = position;
    return SDB_OK;
  }
  r->sequence = position;
  if (oldest.number || position != r->l->past_sequence || position != bound) return trimmed(r);
  r->in = (struct place){0}; /* nothing is kept, and nothing has been committed since */
  r->any_chain = false;
  r->chain = r->l->past_chain;
  mutex_lock(&r->l->queue);
  struct segment *s = newest(r->l);
  if (s) r->in = place_of(s);
  mutex_unlock(&r->l->queue);
  r->offset = LOG_SECTOR;
  r->len = 0;
  return SDB_OK;
}

int log_reader_oldest(log_reader *r, uint64_t bound, uint64_t *position) {
  struct place found, oldest;
  int rc = find_segment(r, 0, &found, &oldest);
  if (rc == SDB_OK) *position = oldest.number && oldest.first <= bound ? oldest.first - 1 : bound;
  return rc;
}
