/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* copy.c - see copy.h. */
#include "copy.h"

#include <stdio.h>

enum { PART = 1 << 20, SYNC_BYTES = 2 << 20 };

void sdb_copy_options_init(sdb_copy_options *o) { *o = (sdb_copy_options){.size = sizeof *o, .verify = true}; }

int copy_options(env *e, const sdb_copy_options *given, sdb_copy_options *o) {
  sdb_copy_options_init(o);
  if (!given) return SDB_OK;
  if (given->size != sizeof *o)
    return env_fail(e, SDB_INVALID, "copy options were not set with sdb_copy_options_init of this library");
  const char *wrong = given->storage ? storage_wrong(given->storage) : NULL;
  if (wrong) return env_fail(e, SDB_INVALID, "%s", wrong);
  *o = *given;
  return SDB_OK;
}

static int exists(env *e, const char *name, bool *is) {
  sdb_file *file;
  int rc = e->storage->open(e->storage->ctx, name, SDB_OPEN_READ, &file);
  *is = rc != SDB_NOT_FOUND;
  if (rc == SDB_OK) e->storage->close(file);
  if (rc == SDB_OK || rc == SDB_NOT_FOUND || rc == SDB_DENIED) return SDB_OK;
  return env_fail(e, rc, "cannot find out whether %s exists: %s", name, sdb_strerror(rc));
}

int copy_destination_free(env *e, const char *name) {
  bool is;
  size_t len = strlen(name) + 16;
  int rc = exists(e, name, &is);
  if (rc != SDB_OK) return rc;
  if (is) return env_fail(e, SDB_EXISTS, "%s exists already; choose another name or move it away", name);
  char *log = mem_alloc(e, len);
  if (!log) return env_fail(e, SDB_NO_MEMORY, "out of memory");
  snprintf(log, len, "%s.log.0000", name);
  rc = exists(e, log, &is);
  if (rc == SDB_OK && is)
    rc = env_fail(e, SDB_MISMATCH, "%s does not exist, but %s of an earlier database does; move it away", name, log);
  mem_free(e, log);
  return rc;
}

int copy_hold(env *e, const char *name, sdb_file **old) {
  const sdb_storage *st = e->storage;
  sdb_file *file;
  int rc = st->open(st->ctx, name, SDB_OPEN_WRITE, &file);
  bool exclusive = rc != SDB_DENIED;
  if (!exclusive) rc = st->open(st->ctx, name, SDB_OPEN_READ, &file);
  if (rc == SDB_NOT_FOUND || rc == SDB_DENIED)
    return SDB_OK; /* nothing is there; or whatever it is, the directory's rights decide */
  if (rc != SDB_OK) return env_fail(e, rc, "cannot open %s, which is to be replaced: %s", name, sdb_strerror(rc));
  rc = st->lock(file, exclusive);
  if (rc == SDB_OK || rc == SDB_LINKED) { /* only this one of its names will lead elsewhere */
    *old = file;
    return SDB_OK;
  }
  st->close(file);
  return env_fail(e, rc, rc == SDB_LOCKED ? "%s is in use by another process or handle" : "cannot lock %s", name);
}

int copy_begin(copy *c, env *e, image *from, const char *name, const sdb_copy_options *o) {
  size_t len = strlen(name) + 8;
  *c = (copy){.e = e, .from = from, .name = name, .options = o};
  c->fresh = mem_alloc(e, len);
  c->buffer = mem_alloc(e, PART);
  c->used = mem_new(e, from->head.pages_total / 8 + 1);
  if (!c->fresh || !c->buffer || !c->used) return env_fail(e, SDB_NO_MEMORY, "out of memory for copying a database");
  snprintf(c->fresh, len, "%s.new", name);
  int rc = e->storage->open(e->storage->ctx, c->fresh, SDB_OPEN_CREATE, &c->file);
  if (rc != SDB_OK) return env_fail(e, rc, "cannot create %s: %s", c->fresh, sdb_strerror(rc));
  c->made = true;
  rc = e->storage->set_size(c->file, from->head.pages_total * from->head.page_size);
  if (rc != SDB_OK) return env_fail(e, rc, "cannot give %s its length: %s", c->fresh, sdb_strerror(rc));
  c->total = (from->head.pages_total - from->head.pages_free) * from->head.page_size;
  return SDB_OK;
}

/* The device may be shared with commits that sync: its queue is kept small. */
static int put(copy *c, uint64_t offset, const void *bytes, size_t len) {
  const sdb_storage *st = c->e->storage;
  int rc = st->write(c->file, offset, bytes, len);
  c->unsynced += len;
  c->done += len;
  if (rc == SDB_OK && c->unsynced >= SYNC_BYTES) {
    c->unsynced = 0;
    rc = st->sync(c->file);
  }
  return rc == SDB_OK ? SDB_OK : env_fail(c->e, rc, "cannot write %s: %s", c->fresh, sdb_strerror(rc));
}

static int tell(copy *c) {
  if (!c->options->progress || c->options->progress(c->options->user, c->done < c->total ? c->done : c->total, c->total))
    return SDB_OK;
  return env_fail(c->e, SDB_CANCELLED, "copying was cancelled; %s was not made", c->name);
}

static int copy_part(void *user, const part *p) {
  copy *c = user;
  const geometry *g = &c->from->g;
  if (!p->bytes && p->code != SDB_CORRUPT)
    return env_fail(c->e, p->code, "%s %u of group %u at offset %llu cannot be read: %s", part_name(p->kind), p->index, p->group,
                    (unsigned long long)p->offset, sdb_strerror(p->code));
  if (!p->bytes)
    return env_fail(c->e, SDB_CORRUPT, "%s %u of group %u at offset %llu does not verify; run check, then repair",
                    part_name(p->kind), p->index, p->group, (unsigned long long)p->offset);
  if (p->kind == PART_BITMAP) {
    uint64_t first = part_first_bit(g, p);
    for (uint64_t i = 0; i < g->chunk_bits && first + i < c->from->head.pages_total; i++)
      if (p->bytes[i >> 3] >> (i & 7) & 1 && !image_page_fixed(g, first + i))
        c->used[(first + i) >> 3] |= (uint8_t)(1u << ((first + i) & 7));
  }
  return put(c, p->offset, p->bytes, g->page_size);
}

int copy_fixed(copy *c) { return image_walk(c->from, copy_part, c); }

/* Runs of used pages, at most PART bytes each; neighbours that are free are not read. */
int copy_pages(copy *c) {
  const geometry *g = &c->from->g;
  uint64_t total = c->from->head.pages_total, most = PART >> g->page_bits, told = c->done;
  int rc = tell(c);
  for (uint64_t at = 0; rc == SDB_OK && at < total;) {
    uint64_t n = 0;
    while (n < most && at + n < total && c->used[(at + n) >> 3] >> ((at + n) & 7) & 1) n++;
    if (n == 0) {
      at += c->used[at >> 3] == 0 && (at & 7) == 0 ? 8 : 1;
      continue;
    }
    rc = image_read(c->from, at << g->page_bits, c->buffer, (size_t)(n << g->page_bits));
    if (rc != SDB_OK)
      return env_fail(c->e, rc, "cannot read physical pages %llu to %llu", (unsigned long long)at,
                      (unsigned long long)(at + n - 1));
    rc = put(c, at << g->page_bits, c->buffer, (size_t)(n << g->page_bits));
    if (rc != SDB_OK) return rc;
    at += n;
    if (c->done - told < PART) continue;
    told = c->done;
    rc = tell(c);
  }
  return rc;
}

int copy_seal(copy *c, const header *h) {
  uint8_t slot[SLOT_SIZE];
  header_encode(h, slot);
  int rc = put(c, 0, slot, SLOT_SIZE);
  if (rc == SDB_OK) rc = put(c, SLOT_B, slot, SLOT_SIZE);
  if (rc != SDB_OK) return rc;
  rc = c->e->storage->sync(c->file);
  if (rc != SDB_OK) return env_fail(c->e, rc, "cannot sync %s", c->fresh);
  c->e->storage->close(c->file);
  c->file = NULL;
  if (c->options->progress) (void)c->options->progress(c->options->user, c->total, c->total);
  return SDB_OK;
}

int copy_verify(const copy *c) {
  char text[256] = "";
  sdb_options o;
  sdb_options_init(&o);
  o.storage = c->e->storage;
  o.page_cache_size = 256;
  o.encryption_key = c->options->encryption_key;
  o.message = text;
  o.message_size = sizeof text;
  sdb_verify_report report = {.size = sizeof report};
  int rc = sdb_verify(c->fresh, &o, NULL, NULL, &report);
  if (rc != SDB_OK) return env_fail(c->e, rc, "the copy could not be verified: %s", text);
  if (report.problems == 0) return SDB_OK;
  if (report.unreadable)
    return env_fail(c->e, SDB_IO, "the copy was not kept, because the storage could not read %llu places of it again",
                    (unsigned long long)report.unreadable);
  return env_fail(c->e, SDB_CORRUPT, "the copy has %llu problems and was not kept; verify and check say which",
                  (unsigned long long)report.problems);
}

int copy_publish(copy *c) {
  const sdb_storage *st = c->e->storage;
  int rc = st->rename(st->ctx, c->fresh, c->name);
  if (rc != SDB_OK) return env_fail(c->e, rc, "cannot rename %s to %s", c->fresh, c->name);
  rc = st->sync_dir(st->ctx, c->name);
  return rc == SDB_OK ? SDB_OK : env_fail(c->e, rc, "%s is whole, but its name could not be synced", c->name);
}

void copy_end(copy *c, bool published) {
  const sdb_storage *st = c->e->storage;
  if (c->file) st->close(c->file);
  if (c->made && !published) st->remove(st->ctx, c->fresh); /* else the name is not there, or somebody else's */
  mem_free(c->e, c->fresh);
  mem_free(c->e, c->buffer);
  mem_free(c->e, c->used);
}

void copy_report(const copy *c, const header *h, sdb_copy_report *report) {
  if (!report) return;
  memcpy(report->database_id, h->database_id, 16);
  report->epoch = h->epoch;
  report->sequence = h->roots.sequence;
  report->documents = h->roots.documents;
  report->bytes = c->done;
  report->pages = c->done / h->page_size;
  report->file_bytes = h->pages_total * h->page_size;
}
