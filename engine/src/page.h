/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* page.h - what trees, table and heap see of the pager: logical pages, read at a version, changed by copying.
 *
 * A page is `page_size` bytes and begins with the 64-byte unit header (docs/file-format.md, section 5); the header belongs to the
 * pager, except `fill`, the rest to the page's owner.
 *
 *   view      a number: the state after all that was published as that version. VIEW_HEAD is the writer's own newest state.
 *   writer    whoever holds the commit lock; one at a time. Only the writer calls page_write, page_new and page_free.
 *   lifetime  a pointer from page_read stays good until the calling thread leaves the pager (pager_leave in pager.h). A pointer
 * from page_write or page_new stays good until the writer gives up the commit lock; the bytes may be changed until then.
 *
 * Faults: page_read, page_write and page_new may fail (SDB_IO, SDB_CORRUPT, SDB_NO_MEMORY, SDB_FULL) and change nothing then.
 * So an operation first touches all it is going to change with page_write and page_new, and only then changes bytes: from there on
 * nothing can fail. A page touched and left as it was is harmless. page_write of a page that was already touched since the commit
 * lock was taken cannot fail; nor can page_free of one, which gives the number back.
 */
#ifndef SDB_PAGE_H
#define SDB_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "sdb/sdb.h"

#define PAGE_HEADER 64u
#define VIEW_HEAD UINT64_MAX

enum page_kind {
  PAGE_FREE = 0,
  PAGE_INNER = 1,
  PAGE_LEAF = 2,
  PAGE_TABLE = 3,
  PAGE_INDEX = 4,
  PAGE_HEAP = 5,
  PAGE_EXTENT = 6 /* only as a unit's kind: extents are not logical pages */
};

struct pager;

static inline uint8_t page_kind(const uint8_t *page) { return page[4]; }
static inline uint32_t page_number(const uint8_t *page) { return get32(page + 8); }
static inline uint32_t page_fill(const uint8_t *page) { return get32(page + 12); }
static inline void page_set_fill(uint8_t *page, uint32_t fill) { put32(page + 12, fill); }

uint32_t page_size(const struct pager *pager);

/* SDB_NOT_FOUND when the page does not exist in that view. A page of another kind than the caller needs is the caller's to refuse
 * (SDB_CORRUPT). */
int page_read(struct pager *pager, uint64_t view, uint32_t number, const uint8_t **page);
/* The same, and SDB_INVALID (without a message) when the page is of another kind. The map knows it: the page's own header, a wait
 * for memory, is not looked at. */
int page_read_kind(struct pager *pager, uint64_t view, uint32_t number, enum page_kind kind, const uint8_t **page);
/* After SDB_CORRUPT from one of these: the bytes as they stand in the file, whatever the page's checksum says, for who can judge
 * parts of them by checksums of their own. Good as long as those of page_read. SDB_CORRUPT when they are another page's, and when
 * they are encrypted: then only the whole page can be told from what somebody made of it. */
int page_read_damaged(struct pager *pager, uint64_t view, uint32_t number, const uint8_t **page);
int page_write(struct pager *pager, uint32_t number, uint8_t **page);
/* Something was taken out of a page that may have to be put back, without fail, before the lock is given up: until then the room it
 * has left must not be filled by what comes from another page. */
void page_keep_room(struct pager *pager);
bool page_room_kept(const struct pager *pager);
/* A new page of that kind, zero behind its header. */
int page_new(struct pager *pager, enum page_kind kind, uint32_t *number, uint8_t **page);
int page_free(struct pager *pager, uint32_t number);
/* The page will be read soon: the device may begin to fetch it. Does nothing where pages are mapped or in memory. */
void page_prefetch(struct pager *pager, uint32_t number);

#endif
