/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* image.h - a data file looked at from outside, without a pager: slots, directories, chunks, pages. For backup, verify and repair.
 *
 * Nothing here writes to the file, and nothing believes it: every offset that is read follows from the geometry and the file's
 * size, and what does not match its checksum is handed out as damaged, never used.
 */
#ifndef SDB_IMAGE_H
#define SDB_IMAGE_H

#include "base.h"
#include "layout.h"

typedef struct image {
  env *e;
  sdb_file *file;
  uint64_t size; /* of the file, in bytes */
  header head;   /* the slot that counts */
  geometry g;
  bool valid[2];       /* slots */
  bool equal;          /* both are valid and say the same */
  unsigned unreadable; /* slots that the storage answered an error for */
} image;

/* Looks at the slots of an open file; takes no lock. SDB_NOT_A_DATABASE, SDB_UNSUPPORTED, SDB_CORRUPT (no slot counts, or they
 * belong to different databases), SDB_IO. A file that is cut short is no error here. */
int image_open(env *e, sdb_file *file, image *im);
/* The same by name with a shared lock: SDB_NOT_FOUND, SDB_LOCKED. Closed by image_close. */
int image_open_name(env *e, const char *name, image *im);
void image_close(image *im);
/* An image of a file in use: its header as the pager knows it. */
void image_of(env *e, sdb_file *file, const header *h, image *im);

/* The things at fixed places, parents before children. */
enum part_kind { PART_ROOT, PART_GROUP, PART_MAP, PART_BITMAP };
typedef struct part {
  enum part_kind kind;
  uint32_t group, index; /* root directory page: index. Chunks: number in the group, from 0 for each kind */
  uint64_t offset;       /* of the copy that counts */
  const uint8_t *bytes;  /* a page; NULL: damaged or unreadable, and all below it is not visited */
  int code;              /* then SDB_CORRUPT, also beyond the end of the file, or what the storage said */
} part;
/* Visits every part that was written. visit returns SDB_OK to go on. SDB_NO_MEMORY, or what visit returned. */
int image_walk(image *im, int (*visit)(void *user, const part *p), void *user);
const char *part_name(enum part_kind kind);

/* The logical page of word `i` of a map chunk, and the physical page of bit `i` of a bitmap chunk. */
static inline uint64_t part_first_word(const geometry *g, const part *p) {
  return ((uint64_t)p->group << g->group_shift) + (uint64_t)p->index * g->chunk_words;
}
static inline uint64_t part_first_bit(const geometry *g, const part *p) {
  return ((uint64_t)p->group << g->group_shift) + (uint64_t)p->index * g->chunk_bits;
}
static inline uint64_t image_pages(const image *im) { return im->size >> im->g.page_bits; }
/* A page at a fixed place of its group, or before the first group. */
bool image_page_fixed(const geometry *g, uint64_t physical);

/* Reads bytes; SDB_CORRUPT beyond the end. */
int image_read(image *im, uint64_t offset, void *buf, size_t len);

#endif
