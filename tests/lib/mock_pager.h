/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* mock_pager.h - the pager of page.h in memory, for tests of what stands on it.
 *
 * Every page keeps all its published versions, so old views stay readable for ever. Calls can be made to fail. What page.h demands
 * of the writer is enforced: breaking it ends the test program with one sentence.
 *
 *     struct pager *pager = mock_open(8192);
 *     mock_lock(pager);
 *     mock_begin(pager);                     an operation that touches all first and changes bytes then
 *     tree_put(pager, root, "a", 1, 7);
 *     mock_end(pager);
 *     uint64_t view = mock_publish(pager);   gives up the lock
 *     mock_close(pager);
 *
 * One thread only.
 */
#ifndef SDB_TESTS_MOCK_PAGER_H
#define SDB_TESTS_MOCK_PAGER_H

#include "page.h"

struct pager *mock_open(uint32_t page_size);
void mock_close(struct pager *pager);

void mock_lock(struct pager *pager);
/* What was changed becomes a version, the lock is given up. */
uint64_t mock_publish(struct pager *pager);

/* Between the two, a call that may fail must not come after a change of a page. */
void mock_begin(struct pager *pager);
void mock_end(struct pager *pager);

enum mock_call { MOCK_READ = 1, MOCK_WRITE = 2, MOCK_NEW = 4, MOCK_ALL = 7 };

/* Of the calls in `calls` (bits of mock_call) that may fail from now on, the `nth` one does (0: none), and, if for_good, all behind
 * it. */
void mock_fail(struct pager *pager, unsigned calls, uint64_t nth, bool for_good, int code);
/* Whether a call has failed since. */
bool mock_failed(const struct pager *pager);

/* Pages that exist in the newest state. */
uint32_t mock_pages(const struct pager *pager);
/* Page numbers are below this. */
uint32_t mock_limit(const struct pager *pager);
/* The bytes of the newest version, to damage them; NULL if there is no such page. */
uint8_t *mock_bytes(struct pager *pager, uint32_t number);
/* Ends the program if a published byte was changed. */
void mock_verify(const struct pager *pager);

#endif
