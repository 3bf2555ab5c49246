/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* heap.h - records in pages, appended. A page is filled once; dead records leave by the cleaner, which moves the living.
 *
 *     | unit header | rec | rec | dead | rec | ......... |      place = logical page, offset / 8
 *                                              ^ fill
 */
#ifndef SDB_HEAP_H
#define SDB_HEAP_H

#include "record.h"

static inline uint64_t place_make(uint32_t page, uint32_t offset) { return page | (uint64_t)(offset / 8) << 32; }
static inline uint32_t place_page(uint64_t place) { return (uint32_t)place; }
static inline uint32_t place_offset(uint64_t place) { return (uint32_t)(place >> 32) * 8; }

/* Largest record that lives in the heap; above it the content goes to an extent. */
static inline uint32_t heap_limit(const pager *p) { return pager_geometry(p)->page_size / 2; }

/* The record at a place. SDB_CORRUPT: it does not verify; `env` has the sentence. Good as long as the page pointer would be. On a
 * page that does not match its checksum each record is judged by its own; then r->suspect. */
int heap_read(env *e, pager *p, uint64_t view, uint64_t place, record *r);

/* Room for `total` bytes in the open page of the roots, which may become another page. Nothing counts before heap_commit. */
int heap_room(pager *p, roots *rt, uint32_t total, uint64_t *place, uint8_t **bytes);
void heap_commit(pager *p, roots *rt, uint64_t place, uint32_t total);
/* Takes back a heap_commit before the writer's lock was given up: its room is free again if nothing stands behind it. */
void heap_undo(pager *p, roots *rt, uint64_t place, uint32_t total);
/* A record at that place does not count any more. */
void heap_drop(pager *p, roots *rt, uint64_t place, uint32_t total);

/* Walks the records of a page up to `end`: its fill, or all of a damaged page. Bytes that are no record are skipped, 8 at a time,
 * up to the next that verifies. visit returns SDB_OK to go on. */
int heap_walk(const uint8_t *page, uint32_t end, int (*visit)(void *user, uint32_t offset, const record *r), void *user);

#endif
