/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log_scan.c - reading the log after a start: how far it is good, and whether what follows is a torn tail or damage.
 *
 * After a good record the next one stands right behind it (same group), at the next sector (next group), or at the beginning of the
 * next segment. It must verify under that segment's salt and its own position, and carry the checksum of its predecessor. When none
 * of the three does, the log ends there. Damage, not a torn tail, when any later valid record says that the end had been synced.
 *
 * Segments are read through a window that stays in the processor's cache from the device to the visitor; while one is looked at
 * the device fetches what comes behind it.
 */
#include "codec.h"
#include "log_state.h"

enum { WINDOW = 256 << 10, AHEAD = 4 << 20 };

struct scan {
  log *l;
  uint8_t *bytes; /* of `segment`: `len` of them, from `from` on */
  size_t cap;
  const struct segment *segment;
  uint64_t from, len;
  uint64_t asked; /* position up to which the device was asked to fetch */
};

/* The segment that goes on where this one ends. */
static const struct segment *follower(const log *l, const struct segment *s) {
  for (size_t i = 0; i < l->count; i++)
    if (l->segments[i]->state == SEGMENT_LIVE && l->segments[i]->number == s->number + 1 &&
        l->segments[i]->base >= s->base + l->segment_size)
      return l->segments[i];
  return NULL;
}

static void read_ahead(struct scan *sc, const struct segment *s, uint64_t offset) {
  const sdb_storage *st = sc->l->e->storage;
  uint64_t position = s->base + offset;
  if (!st->prefetch || sc->asked >= position + AHEAD / 2) return;
  for (; s && s->base < position + AHEAD; s = follower(sc->l, s)) {
    uint64_t from = sc->asked > position ? sc->asked : position, to = position + AHEAD;
    if (from < s->base) from = s->base;
    if (to > s->base + s->readable) to = s->base + s->readable;
    if (from < to) st->prefetch(s->file, from - s->base, to - from);
  }
  sc->asked = position + AHEAD;
}

/* Moves the window so that it holds the bytes. Where the segment's file is too short it has zeros. */
static int move_window(struct scan *sc, const struct segment *s, uint64_t offset, uint64_t need) {
  log *l = sc->l;
  uint64_t from = offset / LOG_SECTOR * LOG_SECTOR, end = offset + need;
  if (s == sc->segment && offset < sc->from) /* somebody goes backwards */
    from = end > WINDOW ? align_up(end - WINDOW, LOG_SECTOR) : 0;
  if (from > offset) from = offset / LOG_SECTOR * LOG_SECTOR;
  uint64_t len = end - from > WINDOW ? end - from : WINDOW;
  if (len > l->segment_size - from) len = l->segment_size - from;
  void *bytes = sc->bytes;
  sc->segment = NULL;
  if (!mem_reserve(l->e, &bytes, &sc->cap, len, 1)) return env_fail(l->e, SDB_NO_MEMORY, "out of memory for reading the log");
  sc->bytes = bytes;
  read_ahead(sc, s, from + len);
  uint64_t there = from >= s->readable ? 0 : s->readable - from < len ? s->readable - from : len;
  memset(sc->bytes + there, 0, len - there);
  if (there && l->e->storage->read(s->file, from, sc->bytes, there) != SDB_OK)
    return env_fail(l->e, SDB_IO, "cannot read log segment %04u", s->index);
  sc->segment = s;
  sc->from = from;
  sc->len = len;
  return SDB_OK;
}

static int fetch(struct scan *sc, const struct segment *s, uint64_t offset, uint64_t need, uint8_t **at) {
  bool there = s == sc->segment && offset >= sc->from && offset + need <= sc->from + sc->len;
  int rc = there ? SDB_OK : move_window(sc, s, offset, need);
  if (rc == SDB_OK) *at = sc->bytes + (offset - sc->from);
  return rc;
}

bool record_verifies(const uint8_t *r, size_t room, uint64_t salt, uint64_t position) {
  if (room < LOG_RECORD_HEAD) return false;
  uint32_t len = get32(r + 4);
  if (len < LOG_RECORD_HEAD || len > room) return false;
  return get32(r) == crc32c(segment_seed(salt, position), r + 4, len - 4) && (r[28] == LOG_COMMIT || r[28] == LOG_MARK);
}

/* A record that verifies at that offset, whatever its chain; NULL: none. Good until the next one is looked for. */
static int valid_at(struct scan *sc, const struct segment *s, uint64_t offset, uint8_t **record) {
  uint64_t end = sc->l->segment_size - LOG_SECTOR;
  *record = NULL;
  if (offset < LOG_SECTOR || offset > end || end - offset < LOG_RECORD_HEAD) return SDB_OK;
  uint8_t *r;
  int rc = fetch(sc, s, offset, LOG_RECORD_HEAD, &r);
  if (rc != SDB_OK) return rc;
  uint32_t len = get32(r + 4);
  if (len < LOG_RECORD_HEAD || len > end - offset) return SDB_OK;
  rc = fetch(sc, s, offset, len, &r);
  if (rc == SDB_OK && record_verifies(r, len, s->salt, s->base + offset)) *record = r;
  return rc;
}

/* Position and all of the head behind the checksum. */
identity record_identity(uint64_t position, const uint8_t *record) {
  identity id = {.bytes = {CIPHER_LOG}, .len = 9 + LOG_RECORD_HEAD - 4};
  put64(id.bytes + 1, position);
  memcpy(id.bytes + 9, record + 4, LOG_RECORD_HEAD - 4);
  return id;
}

bool record_open(const log *l, uint64_t position, uint8_t *record, const uint8_t **payload, size_t *len) {
  bool encrypted = record[29] & LOG_ENCRYPTED;
  uint8_t *stored = record + LOG_RECORD_HEAD;
  *payload = stored;
  *len = get32(record + 4) - LOG_RECORD_HEAD;
  if (!encrypted) return !l->e->cipher || *len == 0;
  if (!l->e->cipher || *len < CIPHER_OVERHEAD) return false;
  *payload = stored + CIPHER_OVERHEAD;
  *len -= CIPHER_OVERHEAD;
  identity id = record_identity(position, record);
  return cipher_open(l->e->cipher, &id, stored, stored + CIPHER_NONCE, stored + CIPHER_OVERHEAD, *payload, *len);
}

static int chained_at(struct scan *sc, const struct segment *s, uint64_t offset, uint32_t chain, uint8_t **record) {
  int rc = valid_at(sc, s, offset, record);
  if (*record && get32(*record + 24) != chain) *record = NULL;
  return rc;
}

/* The next good record behind what was read so far, or NULL. *s becomes its segment, *position is where it stands. */
static int next_record(struct scan *sc, const struct segment **s, const log_scan_result *so_far, uint64_t *position,
                       uint8_t **record) {
  uint64_t end = so_far->end - (*s)->base,
           offset = end < LOG_SECTOR ? LOG_SECTOR : end; /* one segment's end is the next one's base */
  uint64_t tries[2] = {offset, align_up(offset, LOG_SECTOR)};
  *record = NULL;
  for (int i = 0; i < 2 && !*record; i++) {
    int rc = chained_at(sc, *s, tries[i], so_far->chain, record);
    if (rc != SDB_OK) return rc;
    *position = (*s)->base + tries[i];
  }
  const struct segment *next = *record ? NULL : follower(sc->l, *s);
  if (!next) return SDB_OK;
  int rc = chained_at(sc, next, LOG_SECTOR, so_far->chain, record);
  *position = next->base + LOG_SECTOR;
  if (*record) *s = next;
  return rc;
}

/* The next segment that exists, also behind a missing one. */
static const struct segment *later(const log *l, const struct segment *s) {
  const struct segment *found = NULL;
  for (size_t i = 0; i < l->count; i++) {
    const struct segment *t = l->segments[i];
    if (t->state == SEGMENT_LIVE && t->number > s->number && t->base > s->base && (!found || t->number < found->number)) found = t;
  }
  return found;
}

/* Looks at every sector behind the end, in this segment and all that follow. A segment that was cut where the log ends is damage.
 */
static int find_damage(struct scan *sc, const struct segment *s, uint64_t end, bool *damaged) {
  uint64_t offset = align_up(end - s->base, 8);
  *damaged = s->readable < sc->l->segment_size;
  for (; s && !*damaged; s = later(sc->l, s), offset = LOG_SECTOR) {
    for (offset = offset < LOG_SECTOR ? LOG_SECTOR : align_up(offset, LOG_SECTOR); offset < sc->l->segment_size - LOG_SECTOR;
         offset += LOG_SECTOR) {
      uint8_t *r;
      int rc = valid_at(sc, s, offset, &r);
      if (rc != SDB_OK) return rc;
      if (r && get64(r + 16) > end) *damaged = true;
    }
  }
  return SDB_OK;
}

/* Whether the record that a place follows stands before it, asked when none follows: an older copy of this very segment has
 * neither. Groups begin at sectors; the last one before the place is looked for backwards. A place at the segment's beginning
 * follows nothing in it. */
static int find_before(struct scan *sc, const struct segment *s, const log_place *place, bool *found) {
  uint64_t end = place->position - s->base;
  *found = end <= LOG_SECTOR;
  for (uint64_t group = end; group > LOG_SECTOR && !*found;) {
    uint8_t *r;
    group -= LOG_SECTOR;
    int rc = valid_at(sc, s, group, &r);
    for (uint64_t at = group; rc == SDB_OK && r && at < end && !*found;) {
      at += align_up(get32(r + 4), 8);
      *found = get32(r) == place->chain && align_up(at, LOG_SECTOR) == end;
      rc = valid_at(sc, s, at, &r);
    }
    if (rc != SDB_OK) return rc;
  }
  return SDB_OK;
}

/* Visits the records behind so_far->end, none beyond `limit`. *s becomes the last one's segment. */
static int visit_records(struct scan *sc, const struct segment **s, uint64_t limit, log_visit *visit, void *user,
                         log_scan_result *so_far) {
  for (;;) {
    uint8_t *r;
    uint64_t at = 0;
    int rc = so_far->end < limit ? next_record(sc, s, so_far, &at, &r) : SDB_END;
    if (rc != SDB_OK || !r) return rc == SDB_END ? SDB_OK : rc;
    uint64_t end = at + align_up(get32(r + 4), 8);
    log_record record = {.position = at, .sequence = get64(r + 8), .time_ms = get64(r + 32), .kind = r[28], .ops = get16(r + 30)};
    if (end > limit) return SDB_OK;
    if (visit && !record_open(sc->l, at, r, &record.payload, &record.payload_len)) {
      so_far->damaged = true; /* somebody changed it, and its checksum too */
      return SDB_OK;
    }
    if (visit) rc = visit(user, &record);
    if (rc != SDB_OK) return rc;
    so_far->end = end;
    so_far->chain = get32(r);
    so_far->records++;
    if (record.kind == LOG_COMMIT) so_far->sequence = record.sequence;
  }
}

int log_scan(log *l, const log_place *from, log_visit *visit, void *user, log_scan_result *result) {
  *result = (log_scan_result){.end = from->position, .chain = from->chain};
  const struct segment *s = segment_of(l, from);
  if (!s) return SDB_OK;
  result->covered = true;
  struct scan sc = {.l = l};
  bool follows = true;
  int rc = visit_records(&sc, &s, UINT64_MAX, visit, user, result);
  if (rc == SDB_OK && result->records == 0) rc = find_before(&sc, s, from, &follows);
  if (!follows) result->damaged = true;
  if (rc == SDB_OK && !result->damaged) rc = find_damage(&sc, s, result->end, &result->damaged);
  result->damaged |= l->cut;
  mem_free(l->e, sc.bytes);
  return rc;
}

int log_scan_again(log *l, const log_place *from, const log_scan_result *first, log_visit *visit, void *user) {
  log_scan_result again = {.end = from->position, .chain = from->chain};
  const struct segment *s = segment_of(l, from);
  struct scan sc = {.l = l};
  int rc = s ? visit_records(&sc, &s, first->end, visit, user, &again) : SDB_OK;
  mem_free(l->e, sc.bytes);
  if (rc != SDB_OK || (again.end == first->end && again.chain == first->chain)) return rc;
  return env_fail(l->e, SDB_IO, "log segment %04u gave other bytes at position %llu when it was read once more; open it again",
                  s ? s->index : 0, (unsigned long long)again.end);
}
