/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* image.c - see image.h. */
#include "image.h"

#include "codec.h"

bool image_page_fixed(const geometry *g, uint64_t physical) {
  return physical < group_body(g, (uint32_t)(physical >> g->group_shift));
}

int image_read(image *im, uint64_t offset, void *buf, size_t len) {
  if (offset > im->size || len > im->size - offset) return SDB_CORRUPT;
  return im->e->storage->read(im->file, offset, buf, len);
}

void image_of(env *e, sdb_file *file, const header *h, image *im) {
  *im = (image){.e = e, .file = file, .size = h->pages_total * h->page_size, .head = *h, .valid = {true, true}, .equal = true};
  geometry_init(&im->g, h->page_size);
}

int image_open(env *e, sdb_file *file, image *im) {
  uint8_t bytes[2][SLOT_SIZE];
  header h[2];
  int rc[2];
  *im = (image){.e = e, .file = file};
  if (e->storage->get_size(file, &im->size) != SDB_OK) return env_fail(e, SDB_IO, "cannot ask for the size of the data file");
  for (unsigned i = 0; i < 2; i++) {
    rc[i] = SDB_NOT_A_DATABASE;
    if (im->size < i * (uint64_t)SLOT_B + SLOT_SIZE) continue;
    rc[i] = image_read(im, i * (uint64_t)SLOT_B, bytes[i], SLOT_SIZE);
    im->unreadable += rc[i] != SDB_OK;
    if (rc[i] == SDB_OK) rc[i] = header_decode(&h[i], bytes[i]);
    im->valid[i] = rc[i] == SDB_OK;
  }
  if (!im->valid[0] && !im->valid[1]) {
    int worst = rc[0] == SDB_NOT_A_DATABASE ? rc[1] : rc[0];
    return env_fail(e, worst, "no header slot of the file counts: %s", sdb_strerror(worst));
  }
  if (im->valid[0] && im->valid[1]) {
    if (memcmp(h[0].database_id, h[1].database_id, 16) != 0 || h[0].page_size != h[1].page_size)
      return env_fail(e, SDB_CORRUPT, "the two header slots belong to different databases");
    im->equal = memcmp(bytes[0], bytes[1], SLOT_SIZE) == 0;
  }
  unsigned from = !im->valid[0] || (im->valid[1] && h[1].checkpoint > h[0].checkpoint);
  im->head = h[from];
  geometry_init(&im->g, im->head.page_size);
  return SDB_OK;
}

int image_open_name(env *e, const char *name, image *im) {
  sdb_file *file;
  int rc = e->storage->open(e->storage->ctx, name, SDB_OPEN_READ, &file);
  if (rc == SDB_NOT_FOUND) return env_fail(e, rc, "there is no file %s", name);
  if (rc != SDB_OK) return env_fail(e, rc, "cannot open %s: %s", name, sdb_strerror(rc));
  rc = e->storage->lock(file, false);
  if (rc == SDB_OK) rc = image_open(e, file, im);
  else env_fail(e, rc, rc == SDB_LOCKED ? "%s is in use by another process or handle" : "cannot lock %s", name);
  if (rc != SDB_OK) e->storage->close(file);
  return rc;
}

void image_close(image *im) {
  if (im->file) im->e->storage->close(im->file);
  im->file = NULL;
}

const char *part_name(enum part_kind kind) {
  static const char *const names[] = {"root directory page", "group directory", "map chunk", "bitmap chunk"};
  return names[kind];
}

/* --- The parts ---------------------------------------------------------------------------------------------------------------- */

struct walk {
  image *im;
  int (*visit)(void *user, const part *p);
  void *user;
  uint8_t *root, *dir, *chunk; /* a page each */
};

/* Reads the copy that counts into `buf` and shows it. *good: it verifies. */
static int show(struct walk *w, part p, dir_entry entry, uint8_t *buf, bool *good) {
  uint32_t size = w->im->g.page_size;
  p.code = image_read(w->im, p.offset, buf, size);
  if (p.code == SDB_OK && crc32c(0, buf, size) != entry.crc) p.code = SDB_CORRUPT;
  *good = p.code == SDB_OK;
  p.bytes = *good ? buf : NULL;
  return w->visit(w->user, &p);
}

static int walk_group(struct walk *w, uint32_t group, dir_entry entry) {
  const geometry *g = &w->im->g;
  part p = {.kind = PART_GROUP, .group = group, .offset = group_dir_offset(g, group, entry.copy)};
  bool good;
  int rc = show(w, p, entry, w->dir, &good);
  for (uint32_t i = 0; rc == SDB_OK && good && i < g->map_chunks + g->bitmaps; i++) {
    bool map = i < g->map_chunks, whole;
    entry = dir_get(w->dir, i);
    if (!entry.written) continue;
    p = (part){.kind = map ? PART_MAP : PART_BITMAP, .group = group, .index = map ? i : i - g->map_chunks};
    p.offset = chunk_offset(g, group, i, entry.copy);
    rc = show(w, p, entry, w->chunk, &whole);
  }
  return rc;
}

static int walk_root(struct walk *w, uint32_t index) {
  const geometry *g = &w->im->g;
  dir_entry entry = w->im->head.root_dir[index];
  uint32_t groups = (uint32_t)((w->im->head.pages_total + g->group_pages - 1) >> g->group_shift), per_page = g->page_size / 8;
  part p = {.kind = PART_ROOT, .index = index, .offset = root_dir_offset(g, index, entry.copy)};
  bool good;
  if (!entry.written) return SDB_OK;
  int rc = show(w, p, entry, w->root, &good);
  for (uint32_t i = 0; rc == SDB_OK && good && i < per_page && index * per_page + i < groups; i++) {
    entry = dir_get(w->root, i);
    if (entry.written) rc = walk_group(w, index * per_page + i, entry);
  }
  return rc;
}

int image_walk(image *im, int (*visit)(void *user, const part *p), void *user) {
  size_t size = im->g.page_size;
  uint8_t *bytes = mem_alloc(im->e, 3 * size);
  struct walk w = {.im = im, .visit = visit, .user = user, .root = bytes, .dir = bytes + size, .chunk = bytes + 2 * size};
  if (!bytes) return env_fail(im->e, SDB_NO_MEMORY, "out of memory for reading the data file");
  int rc = SDB_OK;
  for (uint32_t i = 0; rc == SDB_OK && i < im->g.root_pages; i++) rc = walk_root(&w, i);
  mem_free(im->e, bytes);
  return rc;
}
