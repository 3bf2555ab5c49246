/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* log_scan.c - reading the log after a start: how far it is good, and whether what follows is a torn tail or damage.
 *
 * After a good record the next one stands right behind it (same group), at the next sector (next group), or at the beginning of the
 * next segment. It must verify under that segment's salt and its own position, and carry the checksum of its predecessor. When none
 * of the three does, the log ends there. Damage, not a torn tail, when any later valid record says that the end had been synced.
 */
#include "codec.h"
#include "log_state.h"

struct scan {
  log *l;
  uint8_t *bytes; /* of the whole segment */
  const struct segment *segment;
};

static int load(struct scan *sc, const struct segment *s) {
  if (sc->segment == s) return SDB_OK;
  sc->segment = NULL;
  memset(sc->bytes + s->readable, 0, sc->l->segment_size - s->readable);
  if (sc->l->e->storage->read(s->file, 0, sc->bytes, s->readable) != SDB_OK)
    return env_fail(sc->l->e, SDB_IO, "cannot read log segment %04u", s->index);
  sc->segment = s;
  return SDB_OK;
}

bool record_verifies(const uint8_t *r, size_t room, uint64_t salt, uint64_t position) {
  if (room < LOG_RECORD_HEAD) return false;
  uint32_t len = get32(r + 4);
  if (len < LOG_RECORD_HEAD || len > room) return false;
  return get32(r) == crc32c(segment_seed(salt, position), r + 4, len - 4) && (r[28] == LOG_COMMIT || r[28] == LOG_MARK);
}

/* A record that verifies at that offset, whatever its chain. */
static const uint8_t *valid_at(const struct scan *sc, uint64_t offset) {
  uint32_t size = sc->l->segment_size - LOG_SECTOR;
  if (offset < LOG_SECTOR || offset > size) return NULL;
  const uint8_t *r = sc->bytes + offset;
  return record_verifies(r, size - offset, sc->segment->salt, sc->segment->base + offset) ? r : NULL;
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

static const uint8_t *chained_at(const struct scan *sc, uint64_t offset, uint32_t chain) {
  const uint8_t *r = valid_at(sc, offset);
  return r && get32(r + 24) == chain ? r : NULL;
}

static const struct segment *follower(const log *l, const struct segment *s) {
  for (size_t i = 0; i < l->count; i++)
    if (l->segments[i]->state == SEGMENT_LIVE && l->segments[i]->number == s->number + 1 &&
        l->segments[i]->base >= s->base + l->segment_size)
      return l->segments[i];
  return NULL;
}

/* The next good record behind `end`, or NULL. On success *position is where it stands. */
static int next_record(struct scan *sc, const struct segment *s, uint64_t end, uint32_t chain, uint64_t *position,
                       const uint8_t **record) {
  uint64_t offset = end - s->base < LOG_SECTOR ? LOG_SECTOR : end - s->base; /* the end of one segment is the base of the next */
  *record = NULL;
  int rc = load(sc, s);
  if (rc != SDB_OK) return rc;
  uint64_t tries[2] = {offset, align_up(offset, LOG_SECTOR)};
  for (int i = 0; i < 2 && !*record; i++) {
    *record = chained_at(sc, tries[i], chain);
    *position = s->base + tries[i];
  }
  const struct segment *next = *record ? NULL : follower(sc->l, s);
  if (!next) return SDB_OK;
  rc = load(sc, next);
  if (rc != SDB_OK) return rc;
  *record = chained_at(sc, LOG_SECTOR, chain);
  *position = next->base + LOG_SECTOR;
  return SDB_OK;
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
    int rc = load(sc, s);
    if (rc != SDB_OK) return rc;
    for (offset = offset < LOG_SECTOR ? LOG_SECTOR : align_up(offset, LOG_SECTOR); offset < sc->l->segment_size - LOG_SECTOR;
         offset += LOG_SECTOR) {
      const uint8_t *r = valid_at(sc, offset);
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
  int rc = load(sc, s);
  if (rc != SDB_OK) return rc;
  *found = end <= LOG_SECTOR;
  for (uint64_t group = end; group > LOG_SECTOR && !*found;) {
    group -= LOG_SECTOR;
    const uint8_t *r = valid_at(sc, group);
    for (uint64_t at = group; r && at < end && !*found; r = valid_at(sc, at)) {
      at += align_up(get32(r + 4), 8);
      *found = get32(r) == place->chain && align_up(at, LOG_SECTOR) == end;
    }
  }
  return SDB_OK;
}

int log_scan(log *l, const log_place *from, int (*visit)(void *user, const log_record *r), void *user, log_scan_result *result) {
  *result = (log_scan_result){.end = from->position, .chain = from->chain};
  const struct segment *s = segment_of(l, from);
  if (!s) return SDB_OK;
  result->covered = true;
  struct scan sc = {.l = l, .bytes = mem_alloc(l->e, l->segment_size)};
  if (!sc.bytes) return env_fail(l->e, SDB_NO_MEMORY, "out of memory for reading the log");
  int rc = SDB_OK;
  bool follows = true;
  for (;;) {
    const uint8_t *r;
    uint64_t at;
    rc = next_record(&sc, s, result->end, result->chain, &at, &r);
    if (rc != SDB_OK || !r) break;
    log_record record = {.position = at, .sequence = get64(r + 8), .time_ms = get64(r + 32), .kind = r[28], .ops = get16(r + 30)};
    if (!record_open(l, at, sc.bytes + (r - sc.bytes), &record.payload, &record.payload_len)) {
      result->damaged = true; /* somebody changed it, and its checksum too */
      break;
    }
    rc = visit(user, &record);
    if (rc != SDB_OK) break;
    s = sc.segment;
    result->end = at + align_up(get32(r + 4), 8);
    result->chain = get32(r);
    result->records++;
    if (record.kind == LOG_COMMIT) result->sequence = record.sequence;
  }
  if (rc == SDB_OK && result->records == 0) rc = find_before(&sc, s, from, &follows);
  if (!follows) result->damaged = true;
  if (rc == SDB_OK && !result->damaged) rc = find_damage(&sc, s, result->end, &result->damaged);
  result->damaged |= l->cut;
  mem_free(l->e, sc.bytes);
  return rc;
}
