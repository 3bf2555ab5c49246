/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* tree_page.h - what one page of a tree holds: sorted keys with values, front-coded in groups. docs/file-format.md, section 9.
 *
 *     0           64       84         84+4G      84+6G                          end          size
 *     | header    | fields | heads    | starts   | group 0 | group 1 | ... G-1  | free       |
 *
 *     group     an entry whose key stands whole (the restart), then entries that leave out what they share with the one before:
 *               [0 29 |7| /state/node0001/sensor/00012] [26 4 |8| 133] [27 3 |9| 78] ...
 *                shared, rest, value, suffix
 *     starts    where each group begins, counted from the first one
 *     columns   four positions in a key: the first ones at which a restart differs from the one before
 *     heads     of each restart its bytes at the columns, so that a search reads two or three cache lines to find its group. Keys
 *               of one page share long runs in the middle as well: four bytes in a row would hardly tell them apart
 *
 * What lies between two columns is not looked at, so a search by heads may lead astray. Whoever finds a group by them makes sure
 * that its first key is not above the key and that the next group's is, and else searches by whole keys. So columns and heads steer
 * the speed of a search, never its result.
 *
 * A leaf maps keys to document numbers. An inner page maps separators to children: a child holds the keys from its separator on up
 * to the next; `leftmost` holds those before the first separator. Both kinds are edited in place by moving bytes.
 *
 * Thread rule: none of its own; the caller owns the bytes or they do not change.
 * Bytes of a page are never trusted: tp_open checks the fields, everything behind checks each entry as it comes, and a page that
 * cannot be is SDB_CORRUPT. A function that changes a page changes nothing when it fails.
 */
#ifndef SDB_TREE_PAGE_H
#define SDB_TREE_PAGE_H

#include "tree.h"

#define TP_BODY 84u       /* where the heads begin */
#define TP_GROUP_BYTES 6u /* a head and a start */
#define TP_CROWD 16u      /* a group of more entries is split where that does not cost too much room */
#define TP_MAX_VALUE ((UINT64_C(1) << 40) - 1)

/* A page whose fields have been checked. */
struct tp {
  const uint8_t *page;
  uint32_t size;
  uint32_t level; /* 0: a leaf */
  uint32_t groups;
  uint32_t entries;
  uint32_t base; /* of group 0 */
  uint32_t end;
};

/* Where a key is or would be: before the entry at `at`, which is the first one of its group not below the key, or at its group's
 * end. */
struct tp_place {
  bool found;
  uint32_t group;
  uint32_t at;
  uint32_t prev;       /* the entry before it in the group, or 0 */
  uint32_t match_prev; /* bytes shared with `prev` */
  uint32_t match_next; /* bytes shared with the entry at `at`, if there is one in the group */
};

/* Walks entries in order, checks everything about each and keeps its key. */
struct tp_iter {
  const struct tp *tp;
  uint32_t group;
  uint32_t at;   /* the entry */
  uint32_t next; /* where the entry behind it begins */
  uint32_t group_end;
  uint32_t shared; /* as stored: 0 for a restart */
  uint32_t lcp;    /* bytes truly shared with the entry before; 0 for the first one walked */
  uint32_t seen;   /* entries walked */
  bool restart;
  uint64_t value;
  uint32_t len;
  uint8_t key[TREE_MAX_KEY];
};

/* How a page is cut in two. */
struct tp_split {
  uint32_t group;  /* of `at` */
  uint32_t at;     /* the first entry that goes right */
  uint32_t left;   /* entries that stay */
  bool lifted;     /* inner page: the entry at `at` is the separator, its child becomes `leftmost` of the right page */
  bool new_lifted; /* inner page: the new key is the separator */
  uint32_t len;
  uint8_t key[TREE_MAX_KEY]; /* the separator: above all that stays, not above anything that goes */
};

static inline int key_compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
  int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
  return order ? order : (a_len > b_len) - (a_len < b_len);
}

/* Makes an empty page of it. */
void tp_format(uint8_t *page, uint32_t level, uint32_t leftmost);
/* Checks kind and fields. */
int tp_open(struct tp *tp, const uint8_t *page, uint32_t size);
static inline uint32_t tp_leftmost(const struct tp *tp) { return get32(tp->page + 72); }
/* Bytes in use behind the fields, and how many there can be. */
static inline uint32_t tp_used(const struct tp *tp) { return tp->end - TP_BODY; }
static inline uint32_t tp_capacity(const struct tp *tp) { return tp->size - TP_BODY; }

int tp_find(const struct tp *tp, const uint8_t *key, uint32_t len, struct tp_place *place);
/* The value of the entry at `at`, which tp_find gave, and where the entry behind it begins. */
int tp_value(const struct tp *tp, uint32_t at, uint64_t *value, uint32_t *next);
/* Of an inner page: the child that holds the key of `place`. */
int tp_child(const struct tp *tp, const struct tp_place *place, uint32_t *child);
/* The first entry above the key of `place`: SDB_END if the page has none. `key` holds that key, has room for TREE_MAX_KEY bytes and
 * receives the entry's. `next`: where the entry behind it begins. */
int tp_above(const struct tp *tp, const struct tp_place *place, uint8_t *key, size_t *len, uint64_t *value, uint32_t *next);
/* The entry at *at for a sequential reader whose `key` holds the key before (or nothing, at the beginning of a group): its key goes
 * there, *at behind it. SDB_END at the page's end. */
int tp_step(const struct tp *tp, uint32_t *at, uint8_t *key, size_t *len, uint64_t *value);

/* From the first entry of `group` on. */
void tp_iter_start(struct tp_iter *iter, const struct tp *tp, uint32_t group);
/* SDB_END behind the last. */
int tp_iter_next(struct tp_iter *iter);
/* Every rule of a page. */
int tp_sound(const struct tp *tp);

/* The following change a page. SDB_FULL: there is no room. */

/* Inserts a key that is not there. `need`: if there is no room, the bytes it takes. */
int tp_insert(uint8_t *page, uint32_t size, const struct tp_place *place, const uint8_t *key, uint32_t len, uint64_t value,
              uint32_t *need);
/* Splits the group when it is crowded and there is room. */
void tp_relieve(uint8_t *page, uint32_t size, uint32_t group);
int tp_set_value(uint8_t *page, uint32_t size, const struct tp_place *place, uint64_t value, uint32_t *need);
int tp_remove(uint8_t *page, uint32_t size, const struct tp_place *place);
/* Gives the entry at `place` another key, which is between those of its neighbours on the page; between those in its own group is
 * checked. */
int tp_replace_key(uint8_t *page, uint32_t size, const struct tp_place *place, const uint8_t *key, uint32_t len);
/* Inner page that has an entry and is sound: the leftmost child goes, the first entry's takes its place. */
void tp_shift(uint8_t *page, uint32_t size);
/* Makes room for `need` bytes by joining small groups. False, and no change, when that is not enough. */
bool tp_squeeze(uint8_t *page, uint32_t size, uint32_t need);
/* Joins all groups: no other form of the same entries takes less room. */
void tp_join_all(uint8_t *page, uint32_t size);
/* Where to cut a page that has no room for a key (place: of that key), so that it fits on its side. Checks the whole page. */
int tp_plan_split(const struct tp *tp, const struct tp_place *place, const uint8_t *key, uint32_t len, struct tp_split *plan);
/* Moves what goes right to an empty page (leftmost: its child if new_lifted). The page is one that tp_plan_split has checked. */
void tp_cut(uint8_t *left, uint8_t *right, uint32_t size, const struct tp_split *plan, uint32_t leftmost);
/* The same for a leaf that shares with a neighbour, which has `before` bytes of keys below or `behind` bytes of keys above: both
 * come to have about as much. SDB_FULL: that cannot be, or the key goes on with others that rise, which fill pages without gaps. */
int tp_plan_share(const struct tp *tp, const struct tp_place *place, const uint8_t *key, uint32_t len, uint32_t before,
                  uint32_t behind, struct tp_split *plan);
/* Leaves: moves what goes right to the front of `right`, or what stays left to the end of `left`. The page is one that
 * tp_plan_share has checked, the other is sound. */
void tp_give_right(uint8_t *left, uint8_t *right, uint32_t size, const struct tp_split *plan);
void tp_give_left(uint8_t *left, uint8_t *right, uint32_t size, const struct tp_split *plan);
/* Appends all of `right`, whose keys are above; both are sound and there is room. */
void tp_append(uint8_t *left, const uint8_t *right, uint32_t size);

#endif
