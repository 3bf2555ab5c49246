/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* inspect.h - what the parts of `streamdb inspect` share. */
#ifndef STREAMDB_INSPECT_H
#define STREAMDB_INSPECT_H

#include <stdio.h>

#include "cli.h"

typedef struct inspect {
  FILE *file;
  bool json;
  uint8_t slot[2][4096];
  bool read[2], good[2];
  unsigned counts;    /* which slot does */
  uint32_t page_size; /* 0: no slot counts */
  uint32_t group_pages, map_chunks, bitmaps;
} inspect;

static inline uint16_t le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t le32(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
static inline uint64_t le48(const uint8_t *p) { return le32(p) | (uint64_t)le16(p + 4) << 32; }
static inline uint64_t le64(const uint8_t *p) { return le32(p) | (uint64_t)le32(p + 4) << 32; }

/* One line, or one object, a thing. */
void line_begin(const inspect *in, const char *what);
void line_number(const inspect *in, const char *name, uint64_t value);
void line_text(const inspect *in, const char *name, const char *value);
void line_bytes(const inspect *in, const char *name, const uint8_t *data, size_t len); /* at most 1,024, made printable */
void line_hex(const inspect *in, const char *name, const uint8_t *data, size_t len);
void line_good(const inspect *in, bool good);
void line_end(const inspect *in);

bool inspect_read(FILE *file, uint64_t offset, void *to, size_t len);
const char *kind_name(uint8_t kind);

/* inspect_page.c */
enum { INSPECT_MOST = 65536 }; /* bytes that are shown at once */
/* How many bytes what begins with this page has in one piece: a page, or the head of a large content. */
uint32_t inspect_wants(const inspect *in, const uint8_t *page);
/* Shows them (`have`: how many are there), or only the record at `offset`. EXIT_DONE, or EXIT_FAILED when a checksum is wrong. */
int inspect_page(const inspect *in, const uint8_t *page, uint32_t have, uint64_t physical, uint32_t offset);
/* One record, at most `limit` bytes; its whole length, 0: it does not verify. */
uint32_t inspect_record(const inspect *in, const uint8_t *record, size_t limit, uint32_t offset);
/* inspect_log.c */
int inspect_log(const inspect *in, const char *name);

#endif
