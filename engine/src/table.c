/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* table.c - see table.h. */
#include "table.h"

#define EXPIRES_BIT (1ull << 47) /* in the place of the current version */

struct table {
  env *e;
  pager *p;
  uint32_t root;
  uint32_t fanout;               /* E: page numbers in an index page */
  uint32_t entries;              /* T: entries in a table page */
  struct known *_Atomic known[]; /* known[i][k]: table page i * fanout + k */
};

struct known {
  _Atomic uint32_t number; /* its logical page; 0: not looked up yet */
  _Atomic uintptr_t bytes; /* where it stood when it was read last: to fetch, not to read */
};

int table_new(env *e, pager *p, table **out) {
  uint32_t fanout = (page_size(p) - PAGE_HEADER) / 4;
  table *t = mem_new(e, sizeof *t + fanout * sizeof t->known[0]);
  if (!t) return env_fail(e, SDB_NO_MEMORY, "out of memory for the document table");
  t->e = e;
  t->p = p;
  t->fanout = fanout;
  t->entries = (page_size(p) - PAGE_HEADER) / 16;
  *out = t;
  return SDB_OK;
}

void table_drop(table *t) {
  if (!t) return;
  for (uint32_t i = 0; i < t->fanout; i++) mem_free(t->e, atomic_load(&t->known[i]));
  mem_free(t->e, t);
}

int table_create(pager *p, uint32_t *root) {
  uint8_t *page;
  return page_new(p, PAGE_INDEX, root, &page);
}

void table_set_root(table *t, uint32_t root) { t->root = root; }

uint64_t table_capacity(const table *t) {
  uint64_t n = (uint64_t)t->fanout * t->fanout * t->entries;
  return n < 1ull << 40 ? n : 1ull << 40;
}

static int corrupt(table *t, uint32_t number) {
  return env_fail(t->e, SDB_CORRUPT, "page %u of the document table is missing or of another kind; restore a copy", number);
}

/* Entry `index` of an index page in that view; SDB_NOT_FOUND when it is 0. */
static int index_get(table *t, uint64_t view, uint32_t number, uint32_t index, uint32_t *child) {
  const uint8_t *page;
  int rc = page_read_kind(t->p, view, number, PAGE_INDEX, &page);
  if (rc == SDB_NOT_FOUND || rc == SDB_INVALID) return corrupt(t, number);
  if (rc != SDB_OK) return rc;
  *child = get32(page + PAGE_HEADER + 4 * (size_t)index);
  return *child ? SDB_OK : SDB_NOT_FOUND;
}

static void remember(table *t, uint32_t i, uint32_t k, uint32_t number) {
  struct known *row = atomic_load(&t->known[i]);
  if (!row) {
    struct known *fresh = mem_new(t->e, t->fanout * sizeof *fresh);
    if (!fresh) return; /* looked up again next time */
    if (atomic_compare_exchange_strong(&t->known[i], &row, fresh)) row = fresh;
    else mem_free(t->e, fresh);
  }
  atomic_store_explicit(&row[k].number, number, memory_order_relaxed);
}

uint64_t table_page_end(const table *t, uint64_t document) { return (document / t->entries + 1) * t->entries; }

/* The logical page of the table page that holds the document's entry; *known: what is kept about it, or NULL. */
static int locate(table *t, uint64_t view, uint64_t document, uint32_t *number, struct known **known) {
  *known = NULL;
  if (document == 0 || document >= table_capacity(t)) return SDB_NOT_FOUND;
  uint64_t n = document / t->entries;
  uint32_t i = (uint32_t)(n / t->fanout), k = (uint32_t)(n % t->fanout), index;
  struct known *row = atomic_load_explicit(&t->known[i], memory_order_acquire);
  if (row) *known = row + k;
  *number = row ? atomic_load_explicit(&row[k].number, memory_order_relaxed) : 0;
  if (*number) return SDB_OK;
  int rc = index_get(t, view, t->root, i, &index);
  if (rc == SDB_OK) rc = index_get(t, view, index, k, number);
  if (rc == SDB_OK) remember(t, i, k, *number);
  return rc;
}

int table_get(table *t, uint64_t view, uint64_t document, table_entry *entry) {
  uint32_t number;
  struct known *known;
  const uint8_t *page;
  size_t offset = PAGE_HEADER + 16 * (size_t)(document % t->entries);
  int rc = locate(t, view, document, &number, &known);
  uintptr_t bytes = known ? atomic_load_explicit(&known->bytes, memory_order_relaxed) : 0;
  __builtin_prefetch((const void *)(bytes + offset)); /* while the map is asked */
  if (rc == SDB_OK) rc = page_read_kind(t->p, view, number, PAGE_TABLE, &page);
  if (rc == SDB_INVALID) return corrupt(t, number);
  if (rc != SDB_OK) return rc; /* a page made behind this view: the number was free */
  if (known && bytes != (uintptr_t)page) atomic_store_explicit(&known->bytes, (uintptr_t)page, memory_order_relaxed);
  const uint8_t *at = page + offset;
  uint64_t current = get48(at);
  *entry = (table_entry){
      .current = current & ~EXPIRES_BIT, .previous = get48(at + 6), .version = get32(at + 12), .expires = current & EXPIRES_BIT};
  return entry->version ? SDB_OK : SDB_NOT_FOUND;
}

/* Child `index` of an index page, made when it is not there. */
static int index_make(table *t, uint32_t number, uint32_t index, enum page_kind kind, uint32_t *child) {
  int rc = index_get(t, VIEW_HEAD, number, index, child);
  if (rc != SDB_NOT_FOUND) return rc;
  uint8_t *parent, *fresh;
  rc = page_write(t->p, number, &parent);
  if (rc == SDB_OK) rc = page_new(t->p, kind, child, &fresh);
  if (rc == SDB_OK) put32(parent + PAGE_HEADER + 4 * (size_t)index, *child);
  return rc;
}

int table_touch(table *t, uint64_t document, uint8_t **at) {
  if (document == 0 || document >= table_capacity(t)) return env_fail(t->e, SDB_FULL, "the table of documents is full");
  uint64_t n = document / t->entries;
  uint32_t index, number;
  struct known *known;
  uint8_t *page;
  int rc = locate(t, VIEW_HEAD, document, &number, &known);
  if (rc == SDB_NOT_FOUND) {
    rc = index_make(t, t->root, (uint32_t)(n / t->fanout), PAGE_INDEX, &index);
    if (rc == SDB_OK) rc = index_make(t, index, (uint32_t)(n % t->fanout), PAGE_TABLE, &number);
    if (rc == SDB_OK) remember(t, (uint32_t)(n / t->fanout), (uint32_t)(n % t->fanout), number);
  }
  if (rc == SDB_OK) rc = page_write(t->p, number, &page);
  if (rc == SDB_NOT_FOUND || (rc == SDB_OK && page_kind(page) != PAGE_TABLE)) return corrupt(t, number);
  if (rc == SDB_OK) *at = page + PAGE_HEADER + 16 * (document % t->entries);
  return rc;
}

void table_set(uint8_t *at, const table_entry *entry) {
  put48(at, entry->current | (entry->expires ? EXPIRES_BIT : 0));
  put48(at + 6, entry->previous);
  put32(at + 12, entry->version);
}

int table_walk_pages(table *t, uint64_t view, int (*visit)(void *user, uint32_t number), void *user) {
  int rc = visit(user, t->root);
  for (uint32_t i = 0; rc == SDB_OK && i < t->fanout; i++) {
    uint32_t index, number;
    rc = index_get(t, view, t->root, i, &index);
    if (rc == SDB_NOT_FOUND) {
      rc = SDB_OK;
      continue;
    }
    if (rc == SDB_OK) rc = visit(user, index);
    for (uint32_t k = 0; rc == SDB_OK && k < t->fanout; k++) {
      rc = index_get(t, view, index, k, &number);
      if (rc == SDB_OK) rc = visit(user, number);
      if (rc == SDB_NOT_FOUND) rc = SDB_OK;
    }
  }
  return rc;
}
