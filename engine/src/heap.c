/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* heap.c - see heap.h. */
#include "heap.h"

int heap_read(env *e, pager *p, uint64_t view, uint64_t place, record *r) {
  const uint8_t *page;
  uint32_t number = place_page(place), offset = place_offset(place), size = page_size(p);
  int rc = page_read_kind(p, view, number, PAGE_HEAP, &page);
  bool suspect = rc == SDB_CORRUPT;
  if (suspect) rc = page_read_damaged(p, view, number, &page);
  if (rc == SDB_NOT_FOUND || rc == SDB_INVALID || (rc == SDB_OK && (offset < PAGE_HEADER || offset >= size)))
    return env_fail(e, SDB_CORRUPT, "the table points at page %u offset %u, where no record can be; restore a copy", number,
                    offset);
  if (rc != SDB_OK) return rc;
  for (uint32_t i = 64; i < 256; i += 64) __builtin_prefetch(page + offset + i); /* head, path, content: at once, not one by one */
  if (record_parse(r, page + offset, size - offset) == SDB_OK) {
    r->suspect = suspect;
    return SDB_OK;
  }
  return env_fail(e, SDB_CORRUPT,
                  "the record at page %u offset %u does not match its checksum; write the document again or restore a copy", number,
                  offset);
}

int heap_room(pager *p, roots *rt, uint32_t total, uint64_t *place, uint8_t **bytes) {
  uint8_t *page;
  int rc = SDB_CORRUPT;
  if (rt->heap_page && rt->heap_fill + total <= page_size(p)) {
    rc = pager_append(p, rt->heap_page, &page);
    if (rc == SDB_OK && page_kind(page) != PAGE_HEAP) rc = SDB_CORRUPT;
    if (rc != SDB_OK && rc != SDB_CORRUPT && rc != SDB_NOT_FOUND && rc != SDB_IO) return rc;
  }
  if (rc != SDB_OK) { /* none, full, damaged, or the device does not give it: what stands there stays, and nothing is added to it */
    uint32_t number;
    rc = page_new(p, PAGE_HEAP, &number, &page);
    if (rc != SDB_OK) return rc;
    rt->heap_page = number;
    rt->heap_fill = PAGE_HEADER;
    rt->heap_pages++;
  }
  *place = place_make(rt->heap_page, rt->heap_fill);
  *bytes = page + rt->heap_fill;
  return SDB_OK;
}

void heap_commit(pager *p, roots *rt, uint64_t place, uint32_t total) {
  uint8_t *page = NULL;
  int rc = pager_append(p, place_page(place), &page);
  assert(rc == SDB_OK && page); /* heap_room touched it under the same lock */
  (void)rc;
  rt->heap_fill += total;
  rt->heap_live += total;
  page_set_fill(page, rt->heap_fill);
  pager_live_add(p, place_page(place), (int32_t)total);
}

void heap_undo(pager *p, roots *rt, uint64_t place, uint32_t total) {
  uint8_t *page;
  heap_drop(p, rt, place, total);
  if (place_page(place) != rt->heap_page || place_offset(place) + total != rt->heap_fill) return;
  if (pager_append(p, rt->heap_page, &page) != SDB_OK) return;
  rt->heap_fill -= total;
  page_set_fill(page, rt->heap_fill);
}

void heap_drop(pager *p, roots *rt, uint64_t place, uint32_t total) {
  rt->heap_live -= total;
  pager_live_add(p, place_page(place), -(int32_t)total);
}

int heap_walk(const uint8_t *page, uint32_t end, int (*visit)(void *user, uint32_t offset, const record *r), void *user) {
  uint32_t offset = PAGE_HEADER;
  while (offset + RECORD_HEAD <= end) {
    record r;
    if (record_parse(&r, page + offset, end - offset) != SDB_OK) {
      offset += 8;
      continue;
    }
    int rc = visit(user, offset, &r);
    if (rc != SDB_OK) return rc;
    offset += r.total;
  }
  return SDB_OK;
}
