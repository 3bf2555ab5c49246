/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* tree.h - an ordered map from byte strings to numbers, on logical pages. Used for paths, reversed paths and expiry.
 *
 * Keys are 1 to TREE_MAX_KEY bytes, ordered bytewise (unsigned, shorter first). Values are 40-bit numbers above 0 (document
 * numbers). The root's page number never changes while the tree lives, so a view is all one needs to read an old state. Thread
 * rule: readers (get, cursor, check) run at any time in a published view; put, remove and tidy are the writer's (page.h). Every
 * call either succeeds or changes nothing.
 */
#ifndef SDB_TREE_H
#define SDB_TREE_H

#include "page.h"

#define TREE_MAX_KEY 1024u
#define TREE_MAX_DEPTH 24u

/* A new empty tree. */
int tree_create(struct pager *pager, uint32_t *root);

/* SDB_NOT_FOUND, SDB_CORRUPT (a damaged or impossible page on the way: never "not found"), SDB_IO, SDB_NO_MEMORY. */
int tree_get(struct pager *pager, uint64_t view, uint32_t root, const void *key, size_t len, uint64_t *value);

/* Inserts, or replaces the value. */
int tree_put(struct pager *pager, uint32_t root, const void *key, size_t len, uint64_t value);

/* SDB_NOT_FOUND. Frees nothing and merges nothing, so that a tree_put of the same key before the commit lock is given up, to undo
 * it, cannot fail (until then leaves do not share room); nor can a tree_remove of a key just put. A whole sequence is undone
 * backwards. Both hold in one stay in the pager that keeps what is read (pager_keep_begin): then the way to the leaf is there. */
int tree_remove(struct pager *pager, uint32_t root, const void *key, size_t len);

/* After a remove that stands: merges the leaf that would hold `key` with a neighbour, or unlinks it, where little is left. Best
 * effort: it does nothing when it cannot. */
void tree_tidy(struct pager *pager, uint32_t root, const void *key, size_t len);

/* Frees at most `budget` leaves of a tree that nobody will read in new views, from the first on, and what is empty above them; with
 * the last one the root: *done. What is left is a tree. SDB_CORRUPT: a page above the leaves is damaged, so that what is below it
 * cannot be found; damaged leaves do no harm. */
int tree_drop_some(struct pager *pager, uint32_t root, unsigned budget, bool *done);

/* Goes through a tree leaf by leaf, in turns: on from the leaf that would hold `key` (TREE_MAX_KEY bytes of room; *len 0: the
 * first), at most `budget` of them; `key` is moved to the first one not gone through. `page`, if not NULL, is told every page on
 * the way, inner ones repeatedly. Every rule of each leaf is checked. SDB_OK: there are more; SDB_END; SDB_CORRUPT, SDB_IO: a
 * damaged page: `key` is behind what cannot be reached for it, and *len 0 when that is all the rest. */
int tree_walk(struct pager *pager, uint64_t view, uint32_t root, uint8_t *key, size_t *len, unsigned budget,
              void (*page)(void *user, uint32_t number), void *user);

/* A place between keys in one view. No pages stay held between calls: it remembers the last key and goes on behind it, taking the
 * short way while the leaf is unchanged within one pager_enter/leave. */
typedef struct tree_cursor {
  struct pager *pager;
  uint64_t view;
  uint32_t root;
  /* the rest is tree.c's own */
  const uint8_t *leaf;  /* NULL: descend again */
  uint32_t next_offset; /* of the next entry in the leaf */
  uint32_t leaves_moved;
  size_t key_len;
  uint8_t key[TREE_MAX_KEY];
  bool after; /* the key was returned already: go on behind it */
} tree_cursor;

/* To the first key >= `key` (after: > `key`). An empty key with len 0 is before all. Cannot fail. */
void tree_cursor_init(tree_cursor *cursor, struct pager *pager, uint64_t view, uint32_t root, const void *key, size_t len,
                      bool after);
/* The next key (in cursor->key, key_len) and its value. SDB_END, SDB_CORRUPT, SDB_IO. The caller must have entered the pager; after
 * leaving it call tree_cursor_pause before entering again. */
int tree_cursor_next(tree_cursor *cursor, uint64_t *value);
void tree_cursor_pause(tree_cursor *cursor);

/* About which part of the keys, 0 to 1, begins with `prefix`: from the pages on the way to both ends of that range, so at most two
 * of each level are read. The caller must have entered the pager. SDB_CORRUPT, SDB_IO. */
int tree_share(struct pager *pager, uint64_t view, uint32_t root, const void *prefix, size_t len, double *share);

/* Walks the whole tree: every page (so that the caller can mark it), every key in order, and every structural rule. `page` and
 * `entry` return SDB_OK to go on, anything else ends the walk and is returned. `problem` is told each broken rule as one sentence;
 * the walk goes on beside the damage and returns the code of the first problem. Functions may be NULL. */
typedef struct tree_visitor {
  void *user;
  int (*page)(void *user, uint32_t number);
  int (*entry)(void *user, const uint8_t *key, size_t len, uint64_t value);
  void (*problem)(void *user, const char *sentence);
} tree_visitor;
int tree_check(struct pager *pager, uint64_t view, uint32_t root, const tree_visitor *visitor);

#endif
