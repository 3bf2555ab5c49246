/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* layout.h - where things stand in the data file, and the header slot. docs/file-format.md, sections 2 to 5, in code.
 *
 *   0        64 K      128 K            384 K
 *   | slot A  | slot B  | root directory | group 0: directory x2, map chunks x2, bitmap chunks x2, pages ... | group 1: ...
 *                                         '------------------------- 512 MB from offset 0 -----------------'
 */
#ifndef SDB_LAYOUT_H
#define SDB_LAYOUT_H

#include "base.h"
#include "cipher.h"

enum {
  SLOT_SIZE = 4096,
  SLOT_B = 65536,
  ROOT_DIR_OFFSET = 131072,
  ROOT_DIR_BYTES = 131072, /* one copy of all root directory pages */
  GROUP_BITS = 29,
  MAX_GROUPS = 16384,
  MAX_ROOT_PAGES = 32,
  FORMAT_MAJOR = 1,
  FEATURE_ENCRYPTED = 1,
  WRAPPED_OFFSET = 256 /* of the wrapped data key, in slots and segment headers */
};

#define SLOT_MAGIC "\x89SDB\r\n\x1a\n"

typedef struct geometry {
  uint32_t page_size;
  unsigned page_bits;
  uint32_t group_pages; /* G: physical pages, and map words, of a group */
  unsigned group_shift; /* log2 G */
  uint32_t map_chunks;  /* M */
  uint32_t chunk_words; /* map words in a chunk */
  unsigned chunk_shift; /* log2 of them */
  uint32_t bitmaps;     /* B */
  uint32_t chunk_bits;  /* pages that a bitmap chunk covers */
  uint32_t root_pages;  /* R */
  uint32_t first_head;  /* physical page where the head of group 0 begins */
  uint32_t head_pages;  /* fixed pages at the head of every group */
} geometry;

/* False when `page_size` is not one of the five that are allowed. */
bool geometry_init(geometry *g, uint32_t page_size);

static inline uint64_t page_offset(const geometry *g, uint32_t page) { return (uint64_t)page << g->page_bits; }
/* First physical page of a group's head, and the first page behind it. */
uint32_t group_head(const geometry *g, uint32_t group);
static inline uint32_t group_body(const geometry *g, uint32_t group) { return group_head(g, group) + g->head_pages; }
/* File offsets of the copies (0, 1) of the fixed things. `entry` counts through map chunks, then bitmap chunks. */
uint64_t root_dir_offset(const geometry *g, uint32_t index, unsigned copy);
uint64_t group_dir_offset(const geometry *g, uint32_t group, unsigned copy);
uint64_t chunk_offset(const geometry *g, uint32_t group, uint32_t entry, unsigned copy);

/* A directory entry: which copy counts, and its checksum. */
typedef struct dir_entry {
  uint32_t crc;
  uint32_t count;
  unsigned copy;
  bool written;
} dir_entry;
dir_entry dir_get(const uint8_t *dir, uint32_t index);
void dir_put(uint8_t *dir, uint32_t index, dir_entry entry);

/* The numbers that belong to one state of the database. */
#define SUFFIX_COMPLETE UINT64_MAX
#define SUFFIX_DROPPING (UINT64_MAX - 1)

typedef struct roots {
  uint64_t sequence;  /* last commit contained */
  uint64_t doc_limit; /* document numbers in use are below; at least 1 */
  uint64_t documents;
  uint64_t names;
  uint64_t content_bytes;
  uint32_t path_tree, suffix_tree, expiry_tree, table; /* logical pages */
  uint32_t heap_page, heap_fill;                       /* the open heap page */
  uint64_t heap_pages, heap_live;                      /* pages, and bytes of records that count */
  uint64_t suffix_built; /* how far the suffix tree is: a document number (names.c), SUFFIX_COMPLETE or SUFFIX_DROPPING */
  uint64_t suffix_names; /* its entries */
  /* Rebuilding of damaged trees (rebuild.c). */
  uint32_t fresh_tree;   /* will be the path tree; 0: none */
  uint64_t fresh_built;  /* the names of all documents below are in it */
  uint64_t fresh_names;  /* its entries */
  uint64_t expiry_built; /* the times of all documents below are in the expiry tree; 0: of all */
  bool sweep;            /* pages of trees may stand that nothing reaches */
  bool recount;          /* damaged records were replaced or dropped: content_bytes has their size, and what they named may be
                            nobody's; to be counted again (scrub.c) */
} roots;

/* Where replay starts: a position, the checksum of the record before it, and which use of which segment holds it. */
typedef struct log_place {
  uint64_t position;
  uint32_t chain;
  uint64_t segment, salt; /* segment 0: none yet */
} log_place;

typedef struct header {
  uint32_t compatible; /* features of newer editions that nobody need know of; kept as they are */
  uint32_t to_be_read; /* ... that only who writes must know: not 0: for reading only */
  uint32_t page_size;
  uint8_t database_id[16];
  uint64_t epoch;
  uint64_t checkpoint;
  log_place log;
  bool clean;
  bool encrypted;
  uint8_t wrapped[CIPHER_WRAPPED]; /* data key */
  uint64_t pages_total, pages_free, logical_limit;
  roots roots;
  uint64_t created_ms, written_ms;
  dir_entry root_dir[MAX_ROOT_PAGES];
} header;

void header_encode(const header *h, uint8_t slot[SLOT_SIZE]);
/* SDB_OK, SDB_NOT_A_DATABASE (magic or checksum), SDB_UNSUPPORTED (format or features), SDB_CORRUPT (fields out of range). */
int header_decode(header *h, const uint8_t slot[SLOT_SIZE]);

/* The unit header of pages and extents. */
enum { UNIT_NONCE = 24, UNIT_TAG = 48, UNIT_ENCRYPTED = 1 }; /* offsets in it, and its flag */
void unit_init(uint8_t *unit, uint8_t kind, uint32_t number);
/* Of a page: stamps, encrypts where the database is encrypted (`nonce`: a fresh one, else not looked at), and seals: checksum over
 * [4, len).
 */
void unit_seal(const env *e, uint8_t *unit, size_t len, uint64_t checkpoint, const uint8_t *nonce);
/* True when checksum, layout and number agree. Needs no key. */
bool unit_valid(const uint8_t *unit, size_t len, uint32_t number);
/* Decrypts a valid unit where it stands. False: it is not encrypted although the database is, or the other way round, or it was not
 * sealed with this key as this unit. */
bool unit_open(const env *e, uint8_t *unit, size_t len);

#endif
