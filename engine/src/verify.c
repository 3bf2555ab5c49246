/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* verify.c - is a closed database whole? First what needs no key: slots, fixed parts, every page that the map names, map against
 * bitmap, and the log where it counts. Then, where that found nothing and the database opens, what check.c proves; else the large
 * contents, as far as they say themselves what they must be (verify_extents.c).
 */
#include "verify.h"

#include <stdio.h>

#include "db.h"
#include "sdb/care.h"

void verify_tell(struct verify *v, const char *format, ...) {
  char text[256];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  v->report->problems++;
  if (v->problem) v->problem(v->user, text);
}

static void verify_page(struct verify *v, uint64_t number, uint32_t place, uint8_t kind) {
  const geometry *g = &v->im->g;
  if (place >= v->im->head.pages_total || image_page_fixed(g, place))
    verify_tell(v, "page %llu stands at physical page %u, where nothing can stand", (unsigned long long)number, place);
  else if (verify_bit(v->named, place))
    verify_tell(v, "page %llu stands at physical page %u, which another page uses too", (unsigned long long)number, place);
  else {
    verify_set(v->named, place);
    v->report->pages++;
    int rc = image_read(v->im, page_offset(g, place), v->page, g->page_size);
    v->report->unreadable += rc != SDB_OK && rc != SDB_CORRUPT;
    if (rc != SDB_OK) verify_tell(v, "page %llu cannot be read at physical page %u", (unsigned long long)number, place);
    else if (!unit_valid(v->page, g->page_size, (uint32_t)number) || page_kind(v->page) != kind)
      verify_tell(v, "page %llu at physical page %u does not match its checksum or name", (unsigned long long)number, place);
  }
}

static int verify_part(void *user, const part *p) {
  struct verify *v = user;
  const geometry *g = &v->im->g;
  if (!p->bytes) {
    if (p->kind != PART_BITMAP) v->whole_map = false;
    if (p->kind != PART_MAP) v->whole_bitmap = false;
    v->report->unreadable += p->code != SDB_CORRUPT;
    verify_tell(v, "%s %u of group %u at offset %llu %s", part_name(p->kind), p->index, p->group, (unsigned long long)p->offset,
                p->code == SDB_CORRUPT ? "does not match its checksum" : "cannot be read");
    return SDB_OK;
  }
  if (p->kind == PART_MAP) {
    for (uint32_t i = 0; i < g->chunk_words; i++) {
      uint64_t w = get64(p->bytes + 8 * (size_t)i), number = part_first_word(g, p) + i;
      if (w) verify_page(v, number, (uint32_t)w, (uint8_t)(w >> 32));
    }
  } else if (p->kind == PART_BITMAP) {
    uint64_t first = part_first_bit(g, p);
    for (uint64_t i = 0; i < g->chunk_bits && first + i < v->im->head.pages_total; i++)
      if (verify_bit(p->bytes, i)) verify_set(v->used, first + i);
  }
  return SDB_OK;
}

static void compare(struct verify *v) {
  const geometry *g = &v->im->g;
  for (uint64_t i = 0; i < v->im->head.pages_total; i++) {
    if (image_page_fixed(g, i)) continue;
    bool named = verify_bit(v->named, i), used = verify_bit(v->used, i);
    if (named && !used) verify_tell(v, "physical page %llu is named by the map but not marked used", (unsigned long long)i);
  }
}

static int verify_image(struct verify *v) {
  const image *im = v->im;
  v->report->unreadable += im->unreadable;
  if (!im->valid[0]) verify_tell(v, "header slot A does not verify");
  if (!im->valid[1]) verify_tell(v, "header slot B does not verify");
  if (im->valid[0] && im->valid[1] && !im->equal) verify_tell(v, "the header slots differ: the last checkpoint was not finished");
  if (im->head.pages_total * im->head.page_size > im->size)
    verify_tell(v, "the file is cut short: %llu bytes instead of %llu", (unsigned long long)im->size,
                (unsigned long long)(im->head.pages_total * im->head.page_size));
  v->named = mem_new(v->e, im->head.pages_total / 8 + 1);
  v->used = mem_new(v->e, im->head.pages_total / 8 + 1);
  v->page = mem_alloc(v->e, im->g.page_size);
  v->whole_map = v->whole_bitmap = true;
  int rc = v->named && v->used && v->page ? image_walk(v->im, verify_part, v)
                                          : env_fail(v->e, SDB_NO_MEMORY, "out of memory for verifying");
  if (rc == SDB_OK && v->whole_map && v->whole_bitmap) compare(v);
  return rc;
}

static void verify_free(struct verify *v) {
  mem_free(v->e, v->named);
  mem_free(v->e, v->used);
  mem_free(v->e, v->page);
}

/* What followed the last checkpoint, when the database was not closed cleanly. */
static int verify_log(struct verify *v, const char *name) {
  const header *h = &v->im->head;
  log_config config = {.segment_size = 4 * h->page_size, .epoch = h->epoch, .read_only = true};
  log_scan_result result;
  log *l;
  memcpy(config.database_id, h->database_id, 16);
  int rc = log_open(v->e, name, &config, &l);
  if (rc == SDB_MISMATCH) verify_tell(v, "the log beside the file is another database's, or of another time");
  if (rc != SDB_OK) return rc == SDB_MISMATCH ? SDB_OK : rc;
  rc = log_scan(l, &h->log, NULL, NULL, &result);
  if (rc == SDB_OK && !result.covered) verify_tell(v, "the file was not closed cleanly, and its log is missing or of another time");
  if (rc == SDB_OK && result.covered && result.damaged)
    verify_tell(v, "the log is damaged behind position %llu", (unsigned long long)result.end);
  log_close(l);
  return rc;
}

static void pass_on(void *user, const char *sentence) { verify_tell(user, "%s", sentence); }

/* What only an open database shows. One that does not open although its pages verify is a problem itself. */
static int verify_contents(struct verify *v, const char *name, const sdb_options *given) {
  char text[256] = "";
  sdb_options o = *given;
  sdb *db;
  o.read_only = true;
  o.create = false;
  o.message = text;
  o.message_size = sizeof text;
  int rc = sdb_open(name, &o, &db);
  if (rc == SDB_NO_MEMORY || rc == SDB_IO || rc == SDB_LOCKED || rc == SDB_WRONG_KEY) return env_fail(v->e, rc, "%s", text);
  if (rc != SDB_OK) {
    verify_tell(v, "it does not open: %s", text);
    return SDB_OK;
  }
  sdb_check_report r = {.size = sizeof r};
  rc = sdb_check(db, pass_on, v, &r);
  if (rc == SDB_OK) {
    v->report->contents = true;
    v->report->documents = r.documents;
    v->report->versions = r.versions;
    v->report->bytes = r.bytes;
    v->report->pages = r.pages - r.free_pages - r.fixed_pages;
  } else {
    sdb_message(db, text, sizeof text);
    env_fail(v->e, rc, "%s", text);
  }
  sdb_close(db);
  return rc;
}

static int verify(env *e, const char *name, const sdb_options *o, void (*problem)(void *user, const char *sentence), void *user,
                  sdb_verify_report *report) {
  image im;
  int rc = image_open_name(e, name, &im);
  if (rc != SDB_OK) return rc;
  *report = (sdb_verify_report){.size = sizeof *report};
  memcpy(report->database_id, im.head.database_id, 16);
  report->epoch = im.head.epoch;
  report->checkpoint = im.head.checkpoint;
  report->sequence = im.head.roots.sequence;
  report->documents = im.head.roots.documents;
  report->clean = im.head.clean;
  report->file_bytes = im.size;
  struct verify v = {.e = e, .im = &im, .problem = problem, .user = user, .report = report};
  bool locked = im.head.encrypted && !o->encryption_key && !o->recovery_key;
  rc = verify_image(&v);
  if (rc == SDB_OK && !im.head.clean) rc = verify_log(&v, name);
  bool open = rc == SDB_OK && !locked && report->problems == 0;
  if (rc == SDB_OK && !open && v.whole_bitmap) rc = verify_extents(&v);
  verify_free(&v);
  image_close(&im);
  return open ? verify_contents(&v, name, o) : rc;
}

int sdb_verify(const char *name, const sdb_options *options, void (*problem)(void *user, const char *sentence), void *user,
               sdb_verify_report *report) {
  sdb_options o;
  sdb_verify_report own = {.size = sizeof own};
  sdb_options_init(&o);
  if (options && options->size != sizeof o) return SDB_INVALID;
  if (options) o = *options;
  sdb_storage calls;
  const char *wrong = o.storage ? storage_wrong(o.storage) : NULL;
  storage_adopt(&calls, o.storage && !wrong ? o.storage : sdb_storage_file());
  env e = {.storage = &calls};
  mutex_init(&e.message_lock);
  int rc = wrong ? env_fail(&e, SDB_INVALID, "%s", wrong)
           : name && *name && (!report || report->size == sizeof *report)
               ? verify(&e, name, &o, problem, user, &own)
               : env_fail(&e, SDB_INVALID, "verify needs a name, and the report's size set");
  if (rc == SDB_OK && report) *report = own;
  if (rc != SDB_OK && o.message && o.message_size) snprintf(o.message, o.message_size, "%s", e.message);
  mutex_destroy(&e.message_lock);
  return rc;
}
