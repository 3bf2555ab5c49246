/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* table.h - the array from document number to the places of its versions. Layout: docs/file-format.md, section 8.
 *
 *     root page -> index pages -> table pages of 16-byte entries        (fixed shape: a number says where its entry stands)
 *
 * Which logical page is table page t never changes once it exists, so that is remembered in memory and a lookup reads one page.
 */
#ifndef SDB_TABLE_H
#define SDB_TABLE_H

#include "pager.h"

typedef struct table_entry {
  uint64_t current, previous; /* places of records; previous 0: none */
  uint32_t version;           /* of the current one; 0: the number is free */
  bool expires;               /* the current one has a time at which it ends */
  uint32_t oldest;            /* not stored: oldest readable version, set by who reads the current record */
} table_entry;

typedef struct table table;

int table_new(env *e, pager *p, table **t);
void table_drop(table *t);
/* The root page of a new, empty table. */
int table_create(pager *p, uint32_t *root);
void table_set_root(table *t, uint32_t root);

/* Document numbers that fit. */
uint64_t table_capacity(const table *t);
/* The first number behind it whose entry stands on another page. */
uint64_t table_page_end(const table *t, uint64_t document);
/* SDB_NOT_FOUND: free. SDB_CORRUPT, SDB_IO, SDB_NO_MEMORY. */
int table_get(table *t, uint64_t view, uint64_t document, table_entry *entry);
/* The writer: makes the entry's page changeable. *at is the entry's until the lock is given up: so table_set needs neither memory
 * nor reads, also where nothing could be remembered. */
int table_touch(table *t, uint64_t document, uint8_t **at);
void table_set(uint8_t *at, const table_entry *entry);
/* For check: the pages of the table itself. */
int table_walk_pages(table *t, uint64_t view, int (*visit)(void *user, uint32_t number), void *user);

#endif
