/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* extent.c - see extent.h.
 *
 * A crash at any time is harmless: until a synced log record names the runs, no bitmap on disk calls them used (I3), and everything
 * they hold is synced before that record is written (I4): a long content syncs itself, so that commits beside it need not wait for
 * it; shorter ones leave it to the group of commits they are in. Bytes are written once; only the head waits for the end, because
 * the checksums, and who this is, are known only then.
 *
 * Chunks are written in parts of four. The first chunk of a part is the probe: when compressing it pays, the chunks of the part are
 * stored one behind the other in as little room as each takes; else the part goes out from the caller's memory as it is, or
 * encrypted. Who the document is, is not known yet when its chunks are encrypted: each is bound to a random number and its index,
 * and the head (extent_head.h), sealed last, binds that number to the document.
 */
#include "extent.h"

#include "codec.h"
#include "compress.h"
#include "extent_head.h"

enum { SYNC_ALONE = 1 << 20, GROW_BYTES = 4 << 20, FEW_RUNS = 8, PART_CHUNKS = 4, PARTS_UNTRIED = 15 };
enum { AHEAD_CHUNKS = 16 }; /* fetched from the device while earlier ones are read */

struct extent_writer {
  env *e;
  pager *p;
  run_list list;
  uint32_t run_room;   /* runs that the head has room for */
  uint32_t chunk_room; /* entries of its chunk table */
  uint64_t size;       /* announced, or SDB_UNKNOWN_SIZE */
  uint64_t most;
  uint64_t written;  /* content bytes taken */
  uint64_t stored;   /* bytes that their chunks take */
  uint64_t capacity; /* bytes of all runs */
  uint32_t digest;
  uint8_t *table; /* chunk table: 8 bytes a chunk */
  size_t table_cap;
  uint32_t chunks;
  uint8_t *chunk; /* the chunk being filled */
  size_t chunk_len;
  uint8_t *part; /* chunks as they are stored; NULL: all stand there as they are */
  bool compress;
  uint8_t binding[HEAD_BINDING]; /* zero without encryption */
  compress_habit habit;
  bool packed; /* some chunk is compressed */
  uint16_t path_len;
  bool kept;
  bool (*room)(void *user);
  void *room_user;
  uint8_t path[SDB_MAX_PATH];
};

struct extent_reader {
  env *e;
  pager *p;
  run_list list;
  uint32_t chunks;
  uint32_t expected; /* chunk that a sequential reader asks for next */
  uint32_t ahead;    /* chunks below were asked of the device */
  uint64_t size;
  bool check;
  uint8_t *stored; /* a chunk as it is stored; NULL: all are stored as they are */
  uint8_t binding[HEAD_BINDING];
  struct chunk {
    uint64_t offset; /* in the string of runs */
    uint32_t crc, len;
    bool snappy;
  } table[];
};

static size_t overhead(const env *e) { return e->cipher ? CIPHER_OVERHEAD : 0; }

static identity chunk_identity(const uint8_t binding[HEAD_BINDING], uint32_t index) {
  identity id = {.bytes = {CIPHER_CHUNK}, .len = 1 + HEAD_BINDING + 4};
  memcpy(id.bytes + 1, binding, HEAD_BINDING);
  put32(id.bytes + 1 + HEAD_BINDING, index);
  return id;
}

static uint32_t chunk_count(uint64_t size) { return (uint32_t)((size + SDB_CHUNK - 1) / SDB_CHUNK); }

/* --- Writing ------------------------------------------------------------------------------------------------------------------ */

/* Adds runs until `bytes` fit. Runs are long ones first: as long as wanted, or at least what keeps their number in bounds. */
static int reserve(extent_writer *w, uint64_t bytes) {
  unsigned bits = pager_geometry(w->p)->page_bits;
  int rc = SDB_OK;
  pager_lock(w->p);
  while (rc == SDB_OK && w->capacity < bytes) {
    uint32_t left = w->run_room - w->list.count;
    if (left == 0) {
      rc = env_fail(w->e, SDB_FULL, "free space is too scattered for a document of %llu bytes", (unsigned long long)bytes);
      break;
    }
    uint32_t want = (uint32_t)((bytes - w->capacity + page_size(w->p) - 1) >> bits), least = want / left;
    run r;
    if (least < 8) least = want < 8 ? want : 8;
    if (left == 1) least = want;
    rc = pager_admit(w->p, 0, want, false);
    if (rc == SDB_OK) rc = pager_reserve_run(w->p, want, least, &r);
    if (rc != SDB_OK) break;
    struct run *last = w->list.count ? &w->list.runs[w->list.count - 1] : NULL;
    if (last && last->start + last->count == r.start) last->count += r.count;
    else w->list.runs[w->list.count++] = r;
    w->capacity += (uint64_t)r.count << bits;
  }
  pager_unlock(w->p);
  return rc;
}

static void give_back_from(extent_writer *w, uint64_t bytes) {
  unsigned bits = pager_geometry(w->p)->page_bits;
  uint64_t pages = (bytes + page_size(w->p) - 1) >> bits, total = w->capacity >> bits;
  pager_lock(w->p);
  while (total > pages) {
    struct run *last = &w->list.runs[w->list.count - 1];
    uint32_t n = total - pages < last->count ? (uint32_t)(total - pages) : last->count;
    pager_give_back(w->p, (run){last->start + last->count - n, n});
    last->count -= n;
    total -= n;
    if (last->count == 0) w->list.count--;
  }
  pager_unlock(w->p);
  w->capacity = total << bits;
}

int extent_begin(env *e, pager *p, const void *path, uint16_t path_len, uint64_t size, uint64_t most, bool compress,
                 extent_writer **out) {
  extent_writer *w = mem_new(e, sizeof *w);
  if (!w) return env_fail(e, SDB_NO_MEMORY, "out of memory for a large document");
  w->e = e;
  w->p = p;
  w->chunk = mem_alloc(e, SDB_CHUNK);
  w->habit.limit = PARTS_UNTRIED;
  w->compress = compress;
  bool changes = compress || e->cipher;
  if (changes) w->part = mem_alloc(e, PART_CHUNKS * (compress_room(SDB_CHUNK) + overhead(e)));
  if (e->cipher && e->storage->random(e->storage->ctx, w->binding, HEAD_BINDING) != SDB_OK) {
    extent_drop(w);
    return env_fail(e, SDB_IO, "no randomness for encryption");
  }
  if (!w->chunk || (changes && !w->part)) {
    extent_drop(w);
    return env_fail(e, SDB_NO_MEMORY, "out of memory for a large document");
  }
  w->size = size;
  w->most = size == SDB_UNKNOWN_SIZE ? most : size;
  w->path_len = path_len;
  memcpy(w->path, path, path_len);
  w->chunk_room = chunk_count(w->most);
  int rc = SDB_OK;
  for (uint32_t room = size == SDB_UNKNOWN_SIZE ? MAX_RUNS : FEW_RUNS;; room = MAX_RUNS) {
    w->run_room = room;
    w->list.head_len = head_length(path_len, room, w->chunk_room);
    rc = reserve(w, w->list.head_len + (size == SDB_UNKNOWN_SIZE ? 0 : size + chunk_count(size) * overhead(e)));
    if (rc == SDB_OK || room == MAX_RUNS) break;
    give_back_from(w, 0);
  }
  if (rc != SDB_OK) {
    extent_drop(w);
    return rc;
  }
  *out = w;
  return SDB_OK;
}

void extent_when_full(extent_writer *w, bool (*room)(void *user), void *user) {
  w->room = room;
  w->room_user = user;
}

struct write_piece {
  extent_writer *w;
  const uint8_t *data;
};

static int write_piece(void *user, run r, uint64_t at, uint64_t n) {
  struct write_piece *wp = user;
  int rc = pager_write_run(wp->w->p, r, at, wp->data, (size_t)n);
  wp->data += n;
  return rc;
}

/* More than is needed, so that runs are long, if there is so much. */
static int grow(extent_writer *w, uint64_t need) {
  uint64_t ahead = w->size == SDB_UNKNOWN_SIZE && w->most > w->written ? w->most - w->written : 0;
  int rc = reserve(w, need + (ahead < GROW_BYTES ? ahead : GROW_BYTES));
  if (rc == SDB_FULL) rc = reserve(w, need);
  if (rc == SDB_FULL && w->room && w->room(w->room_user)) rc = reserve(w, need);
  return rc;
}

static int write_string(extent_writer *w, uint64_t offset, const uint8_t *data, uint64_t len) {
  struct write_piece wp = {w, data};
  int rc = w->capacity < offset + len ? grow(w, offset + len) : SDB_OK;
  if (rc != SDB_OK) return rc;
  return runs_walk(&w->list, pager_geometry(w->p)->page_bits, offset, len, write_piece, &wp);
}

/* Enters the next chunk into the table: the content `data`, and what will stand on the device. */
static void note_chunk(extent_writer *w, const uint8_t *data, size_t len, const uint8_t *stored, size_t stored_len, bool snappy) {
  uint8_t *entry = w->table + 8 * (size_t)w->chunks++;
  put32(entry, crc32c(0, stored, stored_len));
  put32(entry + 4, (uint32_t)stored_len | (snappy ? HEAD_SNAPPY : 0));
  w->digest = crc32c(w->digest, data, len);
  w->packed |= snappy;
}

static int chunks_reserve(extent_writer *w, uint32_t more) {
  void *table = w->table;
  if (!mem_reserve(w->e, &table, &w->table_cap, w->chunks + more, 8))
    return env_fail(w->e, SDB_NO_MEMORY, "out of memory for a chunk table");
  w->table = table;
  return SDB_OK;
}

/* One chunk as it is stored, into `to`; compressed bytes (`snappy` of them, 0: it is not compressed) stand behind the seal's place
 * already. Returns its length. */
static size_t store_chunk(extent_writer *w, const uint8_t *data, size_t len, uint8_t *to, size_t snappy, const uint8_t *nonce) {
  uint8_t *body = to + overhead(w->e);
  const uint8_t *from = snappy ? body : data;
  size_t stored = snappy ? snappy : len;
  if (w->e->cipher) {
    identity id = chunk_identity(w->binding, w->chunks);
    memcpy(to, nonce, CIPHER_NONCE);
    cipher_seal(w->e->cipher, &id, nonce, to + CIPHER_NONCE, body, from, stored);
  } else if (!snappy) {
    memcpy(body, from, stored);
  }
  stored += overhead(w->e);
  note_chunk(w, data, len, to, stored, snappy > 0);
  return stored;
}

/* The chunks of `data` into w->part; *used: bytes there, 0: they go out as they are. */
static int pack(extent_writer *w, const uint8_t *data, size_t len, size_t *used) {
  compress_habit all = {.limit = 0}; /* each chunk of a part that pays is tried */
  uint8_t nonces[PART_CHUNKS * CIPHER_NONCE];
  bool pays = w->compress;
  *used = 0;
  if (!w->part) return SDB_OK;
  int rc = w->e->cipher ? cipher_nonces(w->e, nonces, chunk_count(len)) : SDB_OK;
  if (rc != SDB_OK) return rc;
  for (size_t i = 0, at = 0; at < len; i++, at += SDB_CHUNK) {
    size_t n = len - at < SDB_CHUNK ? len - at : SDB_CHUNK;
    uint8_t *to = w->part + *used;
    size_t snappy = pays ? compress_block(i == 0 ? &w->habit : &all, data + at, n, to + overhead(w->e)) : 0;
    if (i == 0) pays = snappy > 0;
    if (!pays && !w->e->cipher) return SDB_OK;
    *used += store_chunk(w, data + at, n, to, snappy, nonces + i * CIPHER_NONCE);
  }
  return SDB_OK;
}

static int put_chunks(extent_writer *w, const uint8_t *data, uint64_t len) {
  while (len > 0) { /* in parts small enough that the bytes are still in the cache when they are written */
    size_t n = len < PART_CHUNKS * SDB_CHUNK ? (size_t)len : PART_CHUNKS * SDB_CHUNK;
    int rc = chunks_reserve(w, chunk_count(n));
    if (rc != SDB_OK) return rc;
    size_t stored;
    rc = pack(w, data, n, &stored);
    if (rc != SDB_OK) return rc;
    bool raw = stored == 0;
    for (size_t at = 0; raw && at < n; at += SDB_CHUNK) {
      size_t one = n - at < SDB_CHUNK ? n - at : SDB_CHUNK;
      note_chunk(w, data + at, one, data + at, one, false);
    }
    if (raw) stored = n;
    rc = write_string(w, w->list.head_len + w->stored, raw ? data : w->part, stored);
    if (rc != SDB_OK) return rc;
    w->stored += stored;
    data += n;
    len -= n;
  }
  return SDB_OK;
}

int extent_write(extent_writer *w, const void *data, size_t len) {
  const uint8_t *d = data;
  if (len > w->most - w->written)
    return env_fail(w->e, SDB_TOO_LARGE, "the document has more than the %llu bytes that were announced or are allowed",
                    (unsigned long long)w->most);
  w->written += len;
  while (len > 0) {
    int rc = SDB_OK;
    if (w->chunk_len == 0 && len >= SDB_CHUNK) { /* whole chunks go out from the caller's memory */
      size_t whole = len / SDB_CHUNK * SDB_CHUNK;
      rc = put_chunks(w, d, whole);
      d += whole;
      len -= whole;
    } else {
      size_t part = SDB_CHUNK - w->chunk_len < len ? SDB_CHUNK - w->chunk_len : len;
      memcpy(w->chunk + w->chunk_len, d, part);
      w->chunk_len += part;
      d += part;
      len -= part;
      if (w->chunk_len == SDB_CHUNK) {
        rc = put_chunks(w, w->chunk, SDB_CHUNK);
        w->chunk_len = 0;
      }
    }
    if (rc != SDB_OK) return rc;
  }
  return SDB_OK;
}

int extent_end(extent_writer *w) {
  if (w->size != SDB_UNKNOWN_SIZE && w->written != w->size)
    return env_fail(w->e, SDB_INVALID, "the document has %llu bytes, but %llu were announced", (unsigned long long)w->written,
                    (unsigned long long)w->size);
  int rc = w->chunk_len ? put_chunks(w, w->chunk, w->chunk_len) : SDB_OK;
  w->chunk_len = 0;
  if (rc == SDB_OK) give_back_from(w, w->list.head_len + w->stored);
  return rc;
}

int extent_seal(extent_writer *w, const record *r) {
  uint8_t nonce[CIPHER_NONCE];
  uint8_t *head = mem_new(w->e, w->list.head_len);
  if (!head) return env_fail(w->e, SDB_NO_MEMORY, "out of memory for the head of a large document");
  int rc = w->e->cipher ? cipher_nonces(w->e, nonce, 1) : SDB_OK;
  if (rc == SDB_OK) {
    record own = *r; /* what is stored counts, whatever the record says of it yet */
    own.size = (uint32_t)w->written;
    own.digest = w->digest;
    head_write(w->e, head, &own, w->path, w->path_len, w->binding, &w->list, w->table, w->chunks, nonce);
    rc = write_string(w, 0, head, w->list.head_len);
  }
  mem_free(w->e, head);
  if (rc == SDB_OK && w->written >= SYNC_ALONE) rc = pager_sync(w->p);
  else if (rc == SDB_OK) pager_owe_sync(w->p); /* one sync for all whose records go out together */
  return rc;
}

uint64_t extent_written(const extent_writer *w) { return w->written; }
uint32_t extent_digest(const extent_writer *w) { return w->digest; }
bool extent_packed(const extent_writer *w) { return w->packed; }
const run_list *extent_runs(const extent_writer *w) { return &w->list; }
void extent_keep(extent_writer *w) { w->kept = true; }

void extent_drop(extent_writer *w) {
  if (!w) return;
  if (!w->kept && w->list.count) give_back_from(w, 0);
  mem_free(w->e, w->table);
  mem_free(w->e, w->chunk);
  mem_free(w->e, w->part);
  mem_free(w->e, w);
}

/* --- Reading ------------------------------------------------------------------------------------------------------------------ */

struct read_piece {
  pager *p;
  uint8_t *to;
  uint32_t crc;
  bool check;
};

static int read_piece(void *user, run r, uint64_t at, uint64_t n) {
  struct read_piece *rp = user;
  uint64_t faults = pager_faults(rp->p);
  const uint8_t *bytes = pager_run_bytes(rp->p, r, at);
  uint32_t crc = rp->crc;
  if (bytes) {
    if (rp->check) rp->crc = crc32c_copy(crc, rp->to, bytes, (size_t)n);
    else memcpy(rp->to, bytes, (size_t)n);
  }
  if (!bytes || pager_faults(rp->p) != faults) { /* no mapping, or what was copied may be zeros that are none of the file's */
    rp->crc = crc;
    int rc = pager_read_run(rp->p, r, at, rp->to, (size_t)n);
    if (rc != SDB_OK) return rc;
    if (rp->check) rp->crc = crc32c(rp->crc, rp->to, (size_t)n);
  }
  rp->to += n;
  return SDB_OK;
}

static int list_of(env *e, pager *p, const record *r, run_list *l) {
  uint64_t bytes = 0;
  int rc = run_list_parse(l, r);
  for (uint32_t i = 0; rc == SDB_OK && i < l->count; i++) {
    uint32_t end = l->runs[i].start + l->runs[i].count;
    if (end > pager_pages_total(p) ||
        (l->runs[i].start >> pager_geometry(p)->group_shift) != ((end - 1) >> pager_geometry(p)->group_shift))
      rc = SDB_CORRUPT;
    bytes += (uint64_t)l->runs[i].count << pager_geometry(p)->page_bits;
  }
  if (rc == SDB_OK && bytes < l->head_len + (r->flags & RECORD_SNAPPY ? 0ull : r->size)) rc = SDB_CORRUPT;
  return rc == SDB_OK ? SDB_OK : env_fail(e, SDB_CORRUPT, "a large document names impossible runs of pages; restore a copy");
}

/* The content is stored as it is: no chunk needs looking at. */
static int read_plain(env *e, pager *p, const record *r, void *buf, bool check) {
  run_list l;
  struct read_piece rp = {.p = p, .to = buf, .check = check};
  int rc = list_of(e, p, r, &l);
  if (rc == SDB_OK) rc = runs_walk(&l, pager_geometry(p)->page_bits, l.head_len, r->size, read_piece, &rp);
  if (rc == SDB_OK && check && rp.crc != r->digest)
    rc = env_fail(e, SDB_CORRUPT, "the content of a large document (%u bytes) does not match its digest", r->size);
  return rc;
}

int extent_read(env *e, pager *p, const record *r, void *buf, bool check) {
  extent_reader *x;
  uint32_t digest = 0;
  uint8_t *to = buf;
  if (!(r->flags & RECORD_SNAPPY) && !e->cipher) return read_plain(e, p, r, buf, check);
  int rc = extent_open(e, p, r, check, &x);
  if (rc != SDB_OK) return rc;
  for (uint32_t i = 0; rc == SDB_OK && i < x->chunks; i++) {
    size_t len = 0;
    rc = extent_chunk(x, i, to, &len);
    if (check) digest = crc32c(digest, to, len);
    to += len;
  }
  extent_close(x);
  if (rc == SDB_OK && check && digest != r->digest)
    rc = env_fail(e, SDB_CORRUPT, "the content of a large document (%u bytes) does not match its digest", r->size);
  return rc;
}

static uint32_t chunk_size(const extent_reader *x, uint32_t index) {
  uint64_t left = x->size - (uint64_t)index * SDB_CHUNK;
  return left < SDB_CHUNK ? (uint32_t)left : SDB_CHUNK;
}

/* Where each chunk stands. False: lengths that cannot be. */
static bool take_table(extent_reader *x, const extent_head *h, uint64_t capacity) {
  uint64_t offset = x->list.head_len;
  for (uint32_t i = 0; i < x->chunks; i++) {
    struct chunk *c = &x->table[i];
    uint64_t plain = chunk_size(x, i) + overhead(x->e);
    *c = (struct chunk){offset, head_chunk_crc(h, i), head_chunk_stored(h, i), head_chunk_snappy(h, i)};
    if (c->len <= overhead(x->e) || (c->snappy ? c->len >= plain : c->len != plain)) return false;
    offset += c->len;
  }
  return offset <= capacity;
}

static bool take_head(extent_reader *x, const record *r, uint8_t *bytes) {
  extent_head h;
  uint64_t capacity = 0;
  if (!head_parse(&h, bytes, x->list.head_len, x->list.runs[0].start) || !head_open(x->e, &h, bytes)) return false;
  if (memcmp(h.id, r->id, 16) != 0 || h.version != r->version || h.size != r->size || h.chunks != x->chunks ||
      h.runs != x->list.count) /* its path is the name that was used; the document may have others now */
    return false;
  for (uint32_t i = 0; i < x->list.count; i++) capacity += (uint64_t)x->list.runs[i].count << pager_geometry(x->p)->page_bits;
  memcpy(x->binding, h.binding, HEAD_BINDING);
  return take_table(x, &h, capacity);
}

static int read_head(extent_reader *x, const record *r) {
  uint8_t *head = mem_alloc(x->e, x->list.head_len);
  struct read_piece rp = {.p = x->p, .to = head};
  if (!head) return env_fail(x->e, SDB_NO_MEMORY, "out of memory for reading a large document");
  int rc = runs_walk(&x->list, pager_geometry(x->p)->page_bits, 0, x->list.head_len, read_piece, &rp);
  if (rc == SDB_OK && !take_head(x, r, head))
    rc = env_fail(x->e, SDB_CORRUPT, "the head of a large document at physical page %u does not verify; restore a copy",
                  x->list.runs[0].start);
  mem_free(x->e, head);
  return rc;
}

static int reader_new(env *e, pager *p, const record *r, bool check, extent_reader **out) {
  run_list l;
  int rc = list_of(e, p, r, &l);
  if (rc != SDB_OK) return rc;
  uint32_t chunks = chunk_count(r->size);
  extent_reader *x = mem_new(e, sizeof *x + chunks * sizeof x->table[0]);
  if (!x) return env_fail(e, SDB_NO_MEMORY, "out of memory for reading a large document");
  x->e = e;
  x->p = p;
  x->list = l;
  x->chunks = chunks;
  x->expected = UINT32_MAX; /* the first chunk alone is no sequence */
  x->size = r->size;
  x->check = check;
  *out = x;
  return SDB_OK;
}

int extent_open(env *e, pager *p, const record *r, bool check, extent_reader **out) {
  extent_reader *x;
  bool changed = r->flags & RECORD_SNAPPY || e->cipher;
  int rc = reader_new(e, p, r, check, &x);
  if (rc != SDB_OK) return rc;
  if (changed && !(x->stored = mem_alloc(e, SDB_CHUNK + overhead(e))))
    rc = env_fail(e, SDB_NO_MEMORY, "out of memory for reading a large document");
  if (rc == SDB_OK) rc = read_head(x, r);
  if (rc == SDB_OK) *out = x;
  else extent_close(x);
  return rc;
}

int extent_open_headless(env *e, pager *p, const record *r, extent_reader **out) {
  if (r->flags & RECORD_SNAPPY || e->cipher) return SDB_CORRUPT;
  int rc = reader_new(e, p, r, false, out);
  for (uint32_t i = 0; rc == SDB_OK && i < (*out)->chunks; i++)
    (*out)->table[i] = (struct chunk){.offset = (*out)->list.head_len + (uint64_t)i * SDB_CHUNK, .len = chunk_size(*out, i)};
  return rc;
}

/* Content from the stored bytes of a chunk, which its checksum has approved. */
static bool unpack(extent_reader *x, uint32_t index, uint8_t *buf, size_t size) {
  const struct chunk *c = &x->table[index];
  size_t n = c->len - overhead(x->e);
  uint8_t *body = x->stored + overhead(x->e);
  if (x->e->cipher) {
    identity id = chunk_identity(x->binding, index);
    if (!cipher_open(x->e->cipher, &id, x->stored, x->stored + CIPHER_NONCE, c->snappy ? body : buf, body, n)) return false;
  }
  return !c->snappy || compress_undo(body, n, buf, size);
}

static int fetch_piece(void *user, run r, uint64_t at, uint64_t n) {
  pager_prefetch_run(user, r, at, n);
  return SDB_OK;
}

/* A reader that goes on where it was: the next half of the chunks ahead, once the half before is being read. */
static void read_ahead(extent_reader *x, uint32_t index) {
  bool sequential = index == x->expected;
  x->expected = index + 1;
  if (!sequential || !pager_reads_ahead(x->p)) return;
  if (x->ahead <= index) x->ahead = index + 1;
  if (x->ahead - index > AHEAD_CHUNKS / 2) return;
  uint32_t end = x->chunks < x->ahead + AHEAD_CHUNKS ? x->chunks : x->ahead + AHEAD_CHUNKS;
  if (end > x->ahead) {
    uint64_t from = x->table[x->ahead].offset, to = x->table[end - 1].offset + x->table[end - 1].len;
    (void)runs_walk(&x->list, pager_geometry(x->p)->page_bits, from, to - from, fetch_piece,
                    x->p); /* impossible places show when they are read */
  }
  x->ahead = end;
}

int extent_chunk(extent_reader *x, uint32_t index, void *buf, size_t *len) {
  const struct chunk *c = &x->table[index];
  bool changed = c->snappy || x->e->cipher;
  struct read_piece rp = {.p = x->p, .to = changed ? x->stored : buf, .check = x->check};
  size_t n = chunk_size(x, index);
  read_ahead(x, index);
  if (changed && !x->stored) return env_fail(x->e, SDB_CORRUPT, "a large document has a chunk of a kind that its record denies");
  int rc = runs_walk(&x->list, pager_geometry(x->p)->page_bits, c->offset, c->len, read_piece, &rp);
  if (rc == SDB_OK && ((x->check && rp.crc != c->crc) || (changed && !unpack(x, index, buf, n))))
    rc = env_fail(x->e, SDB_CORRUPT, "chunk %u of a large document (physical page %u) does not match its checksum", index,
                  x->list.runs[0].start);
  if (rc == SDB_OK) *len = n;
  return rc;
}

int extent_verify(env *e, pager *p, const record *r) {
  extent_reader *x;
  int rc = extent_open(e, p, r, true, &x);
  if (rc == SDB_OK) extent_close(x);
  return rc;
}

uint32_t extent_chunks(const extent_reader *x) { return x->chunks; }

void extent_close(extent_reader *x) {
  if (!x) return;
  mem_free(x->e, x->stored);
  mem_free(x->e, x);
}
