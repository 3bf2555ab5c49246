/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* mock_pager.c - see mock_pager.h.
 *
 *     newest[number] --> frame (version 9) --> frame (version 4) --> ...      a frame without data: the page was freed
 */
#include "mock_pager.h"

#include <stdio.h>
#include <stdlib.h>

struct frame {
  uint64_t version; /* that will contain it, or does */
  uint64_t sum;     /* of the bytes, when published */
  uint8_t *data;
  struct frame *older;
  uint64_t operation; /* the last one that took it for writing */
};

/* A page as it was when the running operation took it. */
struct before {
  const struct frame *frame;
  uint8_t *copy;
};

struct pager {
  uint32_t size;
  uint32_t limit;
  uint32_t room;
  uint32_t pages;
  struct frame **newest;
  uint32_t *unused;
  uint32_t unused_count;
  uint64_t version; /* published last */
  bool locked;
  bool room_kept;
  bool strict;
  uint64_t operation;
  struct before *before;
  size_t before_count, before_room;
  unsigned fail_calls;
  uint64_t fail_nth, calls;
  bool fail_for_good, failed;
  int fail_code;
};

static void demand(bool condition, const char *sentence) {
  if (condition) return;
  fprintf(stderr, "mock pager: %s\n", sentence);
  abort();
}

static void *allocate(size_t size) {
  void *memory = calloc(1, size);
  demand(memory != NULL, "out of memory");
  return memory;
}

static void *enlarge(void *memory, size_t size) {
  memory = realloc(memory, size);
  demand(memory != NULL, "out of memory");
  return memory;
}

static uint64_t sum_of(const struct pager *pager, const uint8_t *data) {
  uint64_t sum = 0xcbf29ce484222325u;
  for (uint32_t i = 0; i < pager->size; i += 8) sum = (sum ^ get64(data + i)) * 0x100000001b3u;
  return sum;
}

struct pager *mock_open(uint32_t page_size) {
  struct pager *pager = allocate(sizeof *pager);
  pager->size = page_size;
  pager->limit = 1;
  return pager;
}

static void forget_before(struct pager *pager) {
  for (size_t i = 0; i < pager->before_count; i++) free(pager->before[i].copy);
  pager->before_count = 0;
}

void mock_close(struct pager *pager) {
  for (uint32_t i = 1; i < pager->limit; i++)
    for (struct frame *frame = pager->newest[i], *older; frame; frame = older) {
      older = frame->older;
      free(frame->data);
      free(frame);
    }
  forget_before(pager);
  free(pager->before);
  free(pager->newest);
  free(pager->unused);
  free(pager);
}

void mock_lock(struct pager *pager) {
  demand(!pager->locked, "the lock was taken twice");
  pager->locked = true;
}

uint64_t mock_publish(struct pager *pager) {
  demand(pager->locked, "published without the lock");
  pager->room_kept = false;
  pager->locked = false;
  pager->version++;
  for (uint32_t i = 1; i < pager->limit; i++) {
    struct frame *frame = pager->newest[i];
    if (frame->version == pager->version && frame->data) frame->sum = sum_of(pager, frame->data);
  }
  return pager->version;
}

void mock_begin(struct pager *pager) {
  forget_before(pager);
  pager->operation++;
  pager->strict = true;
}

void mock_end(struct pager *pager) {
  forget_before(pager);
  pager->strict = false;
}

void mock_fail(struct pager *pager, unsigned calls, uint64_t nth, bool for_good, int code) {
  pager->fail_calls = calls;
  pager->fail_nth = nth;
  pager->fail_for_good = for_good;
  pager->fail_code = code;
  pager->calls = 0;
  pager->failed = false;
}

bool mock_failed(const struct pager *pager) { return pager->failed; }
uint32_t mock_pages(const struct pager *pager) { return pager->pages; }
uint32_t mock_limit(const struct pager *pager) { return pager->limit; }

static struct frame *newest(const struct pager *pager, uint32_t number) {
  struct frame *frame = number > 0 && number < pager->limit ? pager->newest[number] : NULL;
  return frame && frame->data ? frame : NULL;
}

uint8_t *mock_bytes(struct pager *pager, uint32_t number) {
  struct frame *frame = newest(pager, number);
  return frame ? frame->data : NULL;
}

void mock_verify(const struct pager *pager) {
  for (uint32_t i = 1; i < pager->limit; i++)
    for (const struct frame *frame = pager->newest[i]; frame; frame = frame->older)
      if (frame->data && frame->version <= pager->version)
        demand(frame->sum == sum_of(pager, frame->data), "a published page was changed");
}

/* A call that may fail: whether it does. */
static bool fails(struct pager *pager, enum mock_call call) {
  if (pager->strict)
    for (size_t i = 0; i < pager->before_count; i++)
      demand(memcmp(pager->before[i].copy, pager->before[i].frame->data, pager->size) == 0,
             "a call that may fail came after a change");
  if (pager->fail_nth == 0 || !(pager->fail_calls & call)) return false;
  pager->calls++;
  if (pager->fail_for_good ? pager->calls < pager->fail_nth : pager->calls != pager->fail_nth) return false;
  pager->failed = true;
  return true;
}

static bool touched(const struct pager *pager, const struct frame *frame) { return frame->version > pager->version; }

uint32_t page_size(const struct pager *pager) { return pager->size; }

int page_read(struct pager *pager, uint64_t view, uint32_t number, const uint8_t **page) {
  const struct frame *frame = number > 0 && number < pager->limit ? pager->newest[number] : NULL;
  if (!(frame && view == VIEW_HEAD && touched(pager, frame)) && (pager->strict || pager->fail_nth) && fails(pager, MOCK_READ))
    return pager->fail_code;
  while (frame && frame->version > view) frame = frame->older;
  if (!frame || !frame->data) return SDB_NOT_FOUND;
  *page = frame->data;
  return SDB_OK;
}

void page_keep_room(struct pager *pager) {
  demand(pager->locked, "page_keep_room without the lock");
  pager->room_kept = true;
}

bool page_room_kept(const struct pager *pager) { return pager->room_kept; }

static void remember(struct pager *pager, struct frame *frame) {
  if (!pager->strict || frame->operation == pager->operation) return;
  frame->operation = pager->operation;
  if (pager->before_count == pager->before_room) {
    pager->before_room = pager->before_room * 2 + 8;
    pager->before = enlarge(pager->before, pager->before_room * sizeof *pager->before);
  }
  uint8_t *copy = allocate(pager->size);
  memcpy(copy, frame->data, pager->size);
  pager->before[pager->before_count++] = (struct before){frame, copy};
}

static struct frame *add_frame(struct pager *pager, uint32_t number, const uint8_t *data) {
  struct frame *frame = allocate(sizeof *frame);
  frame->version = pager->version + 1;
  frame->older = pager->newest[number];
  frame->data = allocate(pager->size);
  if (data) memcpy(frame->data, data, pager->size);
  pager->newest[number] = frame;
  return frame;
}

int page_write(struct pager *pager, uint32_t number, uint8_t **page) {
  demand(pager->locked, "page_write without the lock");
  struct frame *frame = newest(pager, number);
  if (!frame) return SDB_NOT_FOUND;
  if (!touched(pager, frame)) {
    if (fails(pager, MOCK_WRITE)) return pager->fail_code;
    frame = add_frame(pager, number, frame->data);
  }
  remember(pager, frame);
  *page = frame->data;
  return SDB_OK;
}

int page_new(struct pager *pager, enum page_kind kind, uint32_t *number, uint8_t **page) {
  demand(pager->locked, "page_new without the lock");
  if (fails(pager, MOCK_NEW)) return pager->fail_code;
  if (pager->unused_count == 0) {
    if (pager->limit >= pager->room) {
      pager->room = pager->room * 2 + 64;
      pager->newest = enlarge(pager->newest, pager->room * sizeof *pager->newest);
      pager->unused = enlarge(pager->unused, pager->room * sizeof *pager->unused);
    }
    pager->newest[pager->limit] = NULL;
    pager->unused[pager->unused_count++] = pager->limit++;
  }
  *number = pager->unused[--pager->unused_count];
  struct frame *frame = add_frame(pager, *number, NULL);
  frame->operation = pager->operation;
  frame->data[4] = (uint8_t)kind;
  frame->data[5] = 1;
  put32(frame->data + 8, *number);
  page_set_fill(frame->data, PAGE_HEADER);
  *page = frame->data;
  pager->pages++;
  return SDB_OK;
}

int page_free(struct pager *pager, uint32_t number) {
  demand(pager->locked, "page_free without the lock");
  struct frame *frame = newest(pager, number);
  demand(frame != NULL, "page_free of a page that does not exist");
  demand(touched(pager, frame), "page_free of a page that was not touched");
  for (size_t i = pager->before_count; i-- > 0;)
    if (pager->before[i].frame == frame) {
      free(pager->before[i].copy);
      pager->before[i] = pager->before[--pager->before_count];
    }
  free(frame->data);
  frame->data = NULL;
  pager->unused[pager->unused_count++] = number;
  pager->pages--;
  return SDB_OK;
}

void page_prefetch(struct pager *pager, uint32_t number) { (void)pager, (void)number; }
