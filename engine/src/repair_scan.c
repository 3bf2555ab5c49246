/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* repair_scan.c - everything in a damaged file and its log that verifies, wherever it stands and whatever says so.
 *
 *   1 large contents   heads of extents, by their unit header. One whose every chunk and digest verify owns its pages: what stands
 *                      in them is a document's bytes and is never taken for pages, whatever it looks like
 *   2 pages            heap pages record by record, each by its own checksum. Where a page does not verify, or records do not
 *                      follow one another, every 8th byte may begin one: those are "loose"
 *   3 log              every record that verifies under the salt of its segment, also behind gaps
 */
#include <stdio.h>

#include "codec.h"
#include "compress.h"
#include "extent_head.h"
#include "log_state.h"
#include "repair.h"

void *list_add(repair *rp, list *l, size_t unit_size) {
  if (!mem_reserve(&rp->e, &l->items, &l->cap, l->count + 1, unit_size)) {
    env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for what was found in %s", rp->name);
    return NULL;
  }
  void *at = (uint8_t *)l->items + l->count++ * unit_size;
  memset(at, 0, unit_size);
  return at;
}

static int note_trace(repair *rp, const record *r, trace where) {
  trace *t = list_add(rp, &rp->traces, sizeof *t);
  if (!t) return SDB_NO_MEMORY;
  *t = where;
  memcpy(t->id, r->id, 16);
  t->version = r->version;
  t->time_ms = r->time_ms;
  t->names = (uint8_t)record_names(r);
  return SDB_OK;
}

static int read_at(repair *rp, uint64_t offset, void *buf, size_t len) {
  if (offset > rp->size || len > rp->size - offset) return SDB_IO;
  return rp->e.storage->read(rp->file, offset, buf, len);
}

/* --- Large contents ----------------------------------------------------------------------------------------------------------- */

struct run_read {
  repair *rp;
  uint8_t *to;
};

static int read_run(void *user, run r, uint64_t at, uint64_t n) {
  struct run_read *rr = user;
  int rc = read_at(rr->rp, page_offset(&rr->rp->g, r.start) + at, rr->to, (size_t)n);
  rr->to += n;
  return rc;
}

/* The head of an extent at that page, as the record that once named it. The runs of the record stand behind the head in rp->bytes.
 */
static int head_load(repair *rp, uint32_t page, record *r) {
  enum { MOST = REPAIR_BYTES - 8 - 8 * MAX_RUNS };
  uint8_t *bytes = rp->bytes, *stored = bytes + MOST;
  extent_head h;
  run_list l;
  struct run_read rr = {rp, bytes};
  if (read_at(rp, page_offset(&rp->g, page), bytes, HEAD_PEEK) != SDB_OK) return SDB_CORRUPT;
  if (!head_peek(bytes, page, &l) || l.head_len > MOST) return SDB_CORRUPT;
  if (runs_walk(&l, rp->g.page_bits, 0, l.head_len, read_run, &rr) != SDB_OK) return SDB_CORRUPT;
  if (!head_parse(&h, bytes, l.head_len, page) || !head_open(&rp->e, &h, bytes)) return SDB_CORRUPT;
  *r = (record){.version = h.version, .size = h.size, .digest = h.digest, .time_ms = h.time_ms};
  memcpy(r->id, h.id, 16);
  r->path = h.path;
  r->path_len = h.path_len;
  r->flags = (uint16_t)(RECORD_LARGE | (h.flags & RECORD_SNAPPY));
  run_list_write(stored, &l);
  r->stored = stored;
  r->stored_len = (uint32_t)run_list_size(l.count);
  r->total = (uint32_t)record_measure(r);
  return r->version && r->size ? SDB_OK : SDB_CORRUPT;
}

int content_open(env *e, pager *p, const record *r, extent_reader **x) {
  int rc = extent_open(e, p, r, true, x);
  return rc == SDB_CORRUPT ? extent_open_headless(e, p, r, x) : rc;
}

static int large_good(repair *rp, env *e, pager *p, const record *r) {
  extent_reader *x;
  uint32_t digest = 0;
  int rc = content_open(e, p, r, &x);
  if (rc != SDB_OK) return rc;
  for (uint32_t i = 0; rc == SDB_OK && i < extent_chunks(x); i++) {
    size_t len;
    rc = extent_chunk(x, i, rp->content, &len);
    if (rc == SDB_OK) digest = crc32c(digest, rp->content, len);
  }
  extent_close(x);
  return rc == SDB_OK && digest != r->digest ? SDB_CORRUPT : rc;
}

int content_good(repair *rp, env *e, pager *p, const record *r) {
  if (r->flags & RECORD_LARGE) return large_good(rp, e, p, r);
  if (r->size > REPAIR_CONTENT) return SDB_CORRUPT;
  if (!(r->flags & RECORD_SNAPPY)) return crc32c(0, r->stored, r->size) == r->digest ? SDB_OK : SDB_CORRUPT;
  return compress_undo(r->stored, r->stored_len, rp->content, r->size) && crc32c(0, rp->content, r->size) == r->digest
             ? SDB_OK
             : SDB_CORRUPT;
}

static int scan_extent(repair *rp, uint32_t page) {
  record r;
  run_list l;
  if (head_load(rp, page, &r) != SDB_OK) return SDB_OK;
  uint64_t seen = get64(rp->bytes + 16);
  int rc = large_good(rp, &rp->e, rp->raw, &r);
  if (rc == SDB_NO_MEMORY) return rc;
  if (rc != SDB_OK || run_list_parse(&l, &r) != SDB_OK) return SDB_OK;
  for (uint32_t i = 0; i < l.count; i++)
    for (uint32_t k = 0; k < l.runs[i].count && l.runs[i].start + k < rp->pages; k++) bit_put(rp->owned, l.runs[i].start + k);
  rp->report.large_contents++;
  return note_trace(rp, &r, (trace){.from = FROM_EXTENT, .page = page, .seen = seen});
}

/* --- Pages -------------------------------------------------------------------------------------------------------------------- */

/* Where the record behind a damaged one stands, if its lengths can be believed: another record stands there, or nothing. Else 0. */
static uint32_t behind(const uint8_t *page, uint32_t at, uint32_t end, uint32_t total) {
  record r;
  uint32_t next = at + total;
  if (total < RECORD_HEAD || total > end - at) return 0;
  bool nothing = end - next < RECORD_HEAD || get64(page + next) == 0;
  return nothing || record_parse(&r, page + next, end - next) == SDB_OK ? next : 0;
}

static int scan_records(repair *rp, const uint8_t *page, uint32_t physical, uint32_t end, uint64_t seen) {
  bool loose = false;
  for (uint32_t at = PAGE_HEADER; at + RECORD_HEAD <= end;) {
    record r = {0};
    if (record_parse(&r, page + at, end - at) != SDB_OK) {
      uint32_t next = behind(page, at, end, r.total);
      loose |= !next;
      at = next ? next : at + 8;
      continue;
    }
    int rc = note_trace(rp, &r, (trace){.from = FROM_HEAP, .page = physical, .offset = at, .seen = seen, .loose = loose});
    if (rc != SDB_OK) return rc;
    at += r.total;
  }
  return SDB_OK;
}

static int note_unit(repair *rp, const uint8_t *page, uint32_t physical, bool bad) {
  unit *u = list_add(rp, &rp->units, sizeof *u);
  if (!u) return SDB_NO_MEMORY;
  *u = (unit){
      .number = page_number(page), .physical = physical, .checkpoint = get64(page + 16), .kind = page_kind(page), .bad = bad};
  return SDB_OK;
}

int page_load(repair *rp, uint32_t physical, uint8_t *page) {
  uint32_t size = rp->g.page_size;
  if (read_at(rp, page_offset(&rp->g, physical), page, size) != SDB_OK) return SDB_CORRUPT;
  return unit_valid(page, size, page_number(page)) && unit_open(&rp->e, page, size) ? SDB_OK : SDB_CORRUPT;
}

static int scan_page(repair *rp, uint8_t *page, uint32_t physical) {
  uint32_t size = rp->g.page_size, fill = page_fill(page);
  bool good = unit_valid(page, size, page_number(page)) && unit_open(&rp->e, page, size);
  bool named = page[5] == 1 && page_number(page) != 0 && get64(page + 16) != 0 && fill >= PAGE_HEADER && fill <= size;
  int rc = good || named ? note_unit(rp, page, physical, !good) : SDB_OK;
  if (rc != SDB_OK) return rc;
  if (!good && rp->e.cipher) return SDB_OK; /* one authenticated whole: nothing of it can be read */
  if (!good) return scan_records(rp, page, physical, size, named ? get64(page + 16) : 0);
  if (page_kind(page) != PAGE_HEAP) return SDB_OK;
  rp->report.heap_pages++;
  return scan_records(rp, page, physical, fill < size ? fill : size, get64(page + 16));
}

/* Calls `visit` for all pages that may hold something: not the fixed ones, not those of a large content. Unreadable ones are
 * skipped. */
static int each_page(repair *rp, int (*visit)(repair *rp, uint8_t *page, uint32_t physical)) {
  uint32_t size = rp->g.page_size, per = REPAIR_BUFFER / size;
  for (uint32_t first = 0; first < rp->pages; first += per) {
    uint32_t count = rp->pages - first < per ? rp->pages - first : per;
    bool whole = read_at(rp, page_offset(&rp->g, first), rp->buffer, (size_t)count * size) == SDB_OK;
    for (uint32_t i = 0; i < count; i++) {
      uint8_t *page = rp->buffer + (size_t)i * size;
      if (image_page_fixed(&rp->g, first + i) || bit_at(rp->owned, first + i)) continue;
      if (!whole && read_at(rp, page_offset(&rp->g, first + i), page, size) != SDB_OK) {
        rp->report.unreadable_pages++;
        continue;
      }
      int rc = visit(rp, page, first + i);
      if (rc != SDB_OK) return rc;
    }
  }
  return SDB_OK;
}

static int look_for_extent(repair *rp, uint8_t *page, uint32_t physical) {
  rp->report.pages++;
  return page_kind(page) == PAGE_EXTENT && page_number(page) == physical ? scan_extent(rp, physical) : SDB_OK;
}

int scan_pages(repair *rp) {
  int rc = each_page(rp, look_for_extent);
  return rc == SDB_OK ? each_page(rp, scan_page) : rc;
}

/* --- Log ---------------------------------------------------------------------------------------------------------------------- */

struct log_file {
  uint8_t *bytes;
  uint32_t len;
  uint32_t index;
  struct segment segment;
};

static bool segment_head(struct log_file *f, uint32_t at) {
  const uint8_t *h = f->bytes + at;
  if (memcmp(h, SEGMENT_MAGIC, 8) != 0 || get32(h + 8) != crc32c(0, h + 12, LOG_SECTOR - 12) || get32(h + 12) != SEGMENT_FORMAT)
    return false;
  if (f->segment.state == SEGMENT_LIVE && get64(h + 40) < f->segment.number) return true;
  f->segment = (struct segment){.number = get64(h + 40), .base = get64(h + 48), .salt = get64(h + 56), .state = SEGMENT_LIVE};
  return true;
}

static int scan_op(repair *rp, const uint8_t *body, uint8_t code, uint32_t len, struct log_spot at, uint64_t sequence) {
  record rec;
  if (code == OP_PUT) {
    if (record_parse(&rec, body, len) != SDB_OK) return SDB_OK;
    trace t = {.from = FROM_LOG, .page = at.segment, .offset = at.offset, .inside = at.inside, .len = len, .seen = sequence};
    return note_trace(rp, &rec, t);
  }
  if (len < 16) return SDB_OK;
  notice *n = list_add(rp, &rp->notices, sizeof *n);
  if (!n) return SDB_NO_MEMORY;
  *n = (notice){.sequence = sequence, .at = at, .len = len, .op = code};
  memcpy(n->id, body, 16);
  return SDB_OK;
}

/* The payload of a record that verifies; decrypts it where it stands. */
static bool payload_open(repair *rp, uint64_t position, uint8_t *bytes, const uint8_t **payload, size_t *len) {
  const log l = {.e = &rp->e};
  return record_open(&l, position, bytes, payload, len);
}

static int scan_ops(repair *rp, const struct log_file *f, uint32_t at) {
  uint8_t *r = f->bytes + at;
  const uint8_t *payload;
  size_t len, pos = 0;
  uint64_t sequence = get64(r + 8);
  unsigned ops = get16(r + 30);
  if (!payload_open(rp, f->segment.base + at, r, &payload, &len)) return SDB_OK;
  if (sequence > rp->sequence) rp->sequence = sequence;
  rp->report.log_records++;
  for (unsigned i = 0; i < ops && pos < len && len - pos >= LOG_OP_HEAD; i++) {
    uint8_t code = payload[pos];
    uint32_t body = get32(payload + pos + 4);
    if (body > len - pos - LOG_OP_HEAD) break;
    pos += LOG_OP_HEAD;
    int rc = scan_op(rp, payload + pos, code, body, (struct log_spot){f->index, at, (uint32_t)pos}, sequence);
    if (rc != SDB_OK) return rc;
    pos += align_up(body, 8);
  }
  return SDB_OK;
}

/* A record stands behind another one or at the beginning of a sector. */
static int scan_segment(repair *rp, const struct log_file *f) {
  uint32_t end = f->len - LOG_SECTOR;
  for (uint32_t at = LOG_SECTOR; at + LOG_RECORD_HEAD <= end;) {
    const uint8_t *r = f->bytes + at;
    uint32_t len = get32(r + 4);
    bool commit = r[28] == LOG_COMMIT,
         good = len >= LOG_RECORD_HEAD && len <= end - at &&
                get32(r) == crc32c(segment_seed(f->segment.salt, f->segment.base + at), r + 4, len - 4);
    if (!good) {
      at = (uint32_t)align_up(at + 1, LOG_SECTOR);
      continue;
    }
    int rc = commit ? scan_ops(rp, f, at) : SDB_OK;
    if (rc != SDB_OK) return rc;
    at += (uint32_t)align_up(len, 8);
  }
  return SDB_OK;
}

static int log_name(const repair *rp, uint32_t index, char *name, size_t len) {
  int n = snprintf(name, len, "%s.log.%04u", rp->name, index);
  return n > 0 && (size_t)n < len ? SDB_OK : SDB_INVALID;
}

/* A segment that belongs to another database is left alone. */
static bool foreign(const repair *rp, const struct log_file *f, uint32_t at) {
  return rp->has_header && memcmp(f->bytes + at + 16, rp->head.database_id, 16) != 0;
}

static int scan_file(repair *rp, sdb_file *file, uint32_t index) {
  uint64_t size;
  if (rp->e.storage->get_size(file, &size) != SDB_OK || size < 4 * LOG_SECTOR || size > 1u << 30) return SDB_OK;
  struct log_file f = {.len = (uint32_t)size, .index = index, .bytes = mem_alloc(&rp->e, (size_t)size)};
  if (!f.bytes) return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for a log segment");
  int rc = SDB_OK;
  for (uint32_t at = 0; at < f.len; at += LOG_SECTOR) { /* what cannot be read is zeros */
    uint32_t len = f.len - at < LOG_SECTOR ? f.len - at : LOG_SECTOR;
    if (rp->e.storage->read(file, at, f.bytes + at, len) != SDB_OK) memset(f.bytes + at, 0, len);
  }
  uint32_t last = f.len / LOG_SECTOR * LOG_SECTOR - LOG_SECTOR;
  bool first = segment_head(&f, 0) && !foreign(rp, &f, 0), second = segment_head(&f, last) && !foreign(rp, &f, last);
  if (first || second) rc = scan_segment(rp, &f);
  mem_free(&rp->e, f.bytes);
  return rc;
}

static int each_segment(repair *rp, int (*visit)(repair *rp, sdb_file *file, uint32_t index)) {
  char name[4096];
  int rc = SDB_OK;
  for (uint32_t index = 0, missing = 0; rc == SDB_OK && index < MAX_SEGMENTS && missing < NAME_GAP; index++) {
    sdb_file *file;
    if (log_name(rp, index, name, sizeof name) != SDB_OK) break;
    if (rp->e.storage->open(rp->e.storage->ctx, name, SDB_OPEN_READ, &file) != SDB_OK) {
      missing++;
      continue;
    }
    missing = 0;
    rc = visit(rp, file, index);
    rp->e.storage->close(file);
  }
  return rc;
}

int scan_log(repair *rp) { return each_segment(rp, scan_file); }

/* Either copy of a segment's header, into rp->bytes. */
static int take_identity(repair *rp, sdb_file *file, uint32_t index) {
  struct log_file f = {.bytes = rp->bytes, .index = index};
  uint64_t size;
  if (rp->e.storage->get_size(file, &size) != SDB_OK || size < 4 * LOG_SECTOR) return SDB_OK;
  bool found = rp->e.storage->read(file, 0, rp->bytes, LOG_SECTOR) == SDB_OK && segment_head(&f, 0);
  if (!found)
    found = rp->e.storage->read(file, size / LOG_SECTOR * LOG_SECTOR - LOG_SECTOR, rp->bytes, LOG_SECTOR) == SDB_OK &&
            segment_head(&f, 0);
  return found ? SDB_END : SDB_OK;
}

int log_identity(repair *rp, header *h) {
  static const uint8_t none[CIPHER_WRAPPED];
  int rc = each_segment(rp, take_identity);
  if (rc != SDB_END) return rc;
  memcpy(h->database_id, rp->bytes + 16, 16);
  memcpy(h->wrapped, rp->bytes + 256, CIPHER_WRAPPED);
  h->encrypted = memcmp(h->wrapped, none, CIPHER_WRAPPED) != 0;
  return SDB_OK;
}

/* --- A trace again ------------------------------------------------------------------------------------------------------------ */

/* Into memory of its own: a record may be as long as half a segment. The checksum was seen to hold when the log was scanned; what
 * counts now is that record and content verify. */
static int load_record(repair *rp, sdb_file *file, struct log_spot at, size_t len) {
  uint8_t head[LOG_SECTOR];
  struct log_file f = {.bytes = head, .index = at.segment};
  uint64_t size, back;
  int rc = rp->e.storage->get_size(file, &size);
  back = rc == SDB_OK ? size / LOG_SECTOR * LOG_SECTOR - LOG_SECTOR : 0;
  bool known = rc == SDB_OK && rp->e.storage->read(file, 0, head, sizeof head) == SDB_OK && segment_head(&f, 0);
  known |= rc == SDB_OK && rp->e.storage->read(file, back, head, sizeof head) == SDB_OK && segment_head(&f, 0);
  if (rc == SDB_OK) rc = known ? rp->e.storage->read(file, at.offset, head, LOG_RECORD_HEAD) : SDB_CORRUPT;
  if (rc != SDB_OK) return rc;
  uint32_t total = get32(head + 4);
  if (total < LOG_RECORD_HEAD || total > size - at.offset) return SDB_CORRUPT;
  uint8_t *bytes = mem_alloc(&rp->e, total);
  const uint8_t *payload;
  size_t payload_len;
  if (!bytes) return env_fail(&rp->e, SDB_NO_MEMORY, "out of memory for a log record");
  rc = rp->e.storage->read(file, at.offset, bytes, total);
  if (rc == SDB_OK && !payload_open(rp, f.segment.base + at.offset, bytes, &payload, &payload_len)) rc = SDB_CORRUPT;
  if (rc == SDB_OK && (at.inside > payload_len || len > payload_len - at.inside)) rc = SDB_CORRUPT;
  if (rc == SDB_OK) memcpy(rp->bytes, payload + at.inside, len);
  mem_free(&rp->e, bytes);
  return rc;
}

int log_load(repair *rp, struct log_spot at, size_t len, const uint8_t **bytes) {
  char name[4096];
  sdb_file *file;
  *bytes = rp->bytes;
  if (len > REPAIR_BYTES || log_name(rp, at.segment, name, sizeof name) != SDB_OK) return SDB_CORRUPT;
  int rc = rp->e.storage->open(rp->e.storage->ctx, name, SDB_OPEN_READ, &file);
  if (rc != SDB_OK) return env_fail(&rp->e, rc, "cannot open log segment %04u again", at.segment);
  rc = load_record(rp, file, at, len);
  rp->e.storage->close(file);
  return rc;
}

int trace_load(repair *rp, const trace *t, record *r) {
  int rc;
  if (t->from == FROM_EXTENT) {
    rc = head_load(rp, t->page, r);
  } else if (t->from == FROM_LOG) {
    const uint8_t *bytes;
    rc = log_load(rp, (struct log_spot){t->page, t->offset, t->inside}, t->len, &bytes);
    if (rc == SDB_OK) rc = record_parse(r, bytes, t->len);
  } else {
    rc = page_load(rp, t->page, rp->bytes);
    if (rc != SDB_OK && !rp->e.cipher) rc = read_at(rp, page_offset(&rp->g, t->page), rp->bytes, rp->g.page_size);
    rc = rc == SDB_OK ? record_parse(r, rp->bytes + t->offset, rp->g.page_size - t->offset) : SDB_CORRUPT;
  }
  if (rc == SDB_OK && (r->version != t->version || memcmp(r->id, t->id, 16) != 0)) rc = SDB_CORRUPT;
  return rc;
}
