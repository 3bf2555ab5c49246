/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* tree.c - the ordered map of tree.h: a prefix B+-tree of the pages of tree_page.h. docs/file-format.md, section 9.
 *
 *                       root                   always inner, its page number never changes
 *                    /    |    \
 *               inner   inner   inner          level 1: separators, as short as tells two leaves apart
 *              /  |  \    ...
 *          leaf leaf leaf                      level 0: keys. No links to neighbours: copying one would mean copying them all
 *
 * How a put stays whole: it goes up from the leaf as far as pages overflow, and on the way each level touches what it is going to
 * need. Only when the uppermost level has all it needs does the first byte change; from there on, downward, nothing can fail.
 * A leaf that overflows gives to a neighbour, if one has room, before it is split: docs/engine.md, "How leaves are kept full".
 */
#include "tree.h"

#include <assert.h>
#include <stdio.h>

#include "tree_page.h"

#define ROOT_LEVEL UINT32_MAX /* for open_page: any but that of a leaf */

enum { AHEAD = 8 }; /* leaves */

struct fence {
  unsigned ahead; /* leaves behind the one that is sought to be fetched from the device meanwhile */
  size_t len;     /* 0: none */
  uint8_t key[TREE_MAX_KEY];
};

/* A page that something points at exists; if not, this is damage. */
static int absent_is_corrupt(int rc) { return rc == SDB_NOT_FOUND ? SDB_CORRUPT : rc; }

static int open_page(struct pager *pager, uint64_t view, uint32_t number, uint32_t level, struct tp *tp) {
  const uint8_t *page;
  int rc = page_read(pager, view, number, &page);
  if (rc) return absent_is_corrupt(rc);
  for (uint32_t i = 0; i < 256; i += 64) __builtin_prefetch(page + i); /* header, fields, heads, starts: at once, not one by one */
  rc = tp_open(tp, page, page_size(pager));
  if (rc) return rc;
  return (level == ROOT_LEVEL ? tp->level > 0 : tp->level == level) ? SDB_OK : SDB_CORRUPT;
}

/* A scan goes on into the leaves behind: `child` and its neighbours. Damage shows when they are read. */
static void fetch_ahead(struct pager *pager, const struct tp *parent, const struct fence *fence, uint64_t child, uint32_t next) {
  uint8_t key[TREE_MAX_KEY];
  size_t len = fence->len;
  if (fence->ahead == 0) return;
  memcpy(key, fence->key, len);
  for (unsigned i = 0; i < fence->ahead; i++) {
    page_prefetch(pager, (uint32_t)child);
    if (tp_step(parent, &next, key, &len, &child) != SDB_OK) return;
  }
}

/* To the leaf that would hold the key. `path`: the page of each level, if not NULL. `fence`: the first separator above the key, if
 * not NULL. Levels fall by one at each step, so it ends. */
static int descend(struct pager *pager, uint64_t view, uint32_t root, const uint8_t *key, size_t len, uint32_t *path,
                   struct fence *fence, struct tp *leaf) {
  uint32_t number = root, level = ROOT_LEVEL;
  for (;;) {
    struct tp_place place;
    int rc = open_page(pager, view, number, level, leaf);
    if (rc) return rc;
    if (path) path[leaf->level] = number;
    if (leaf->level == 0) return SDB_OK;
    rc = tp_find(leaf, key, (uint32_t)len, &place);
    if (!rc && fence) {
      uint8_t above[TREE_MAX_KEY];
      size_t above_len = len;
      uint64_t child;
      uint32_t next;
      memcpy(above, key, len);
      rc = tp_above(leaf, &place, above, &above_len, &child, &next);
      if (!rc) {
        memcpy(fence->key, above, above_len);
        fence->len = above_len;
        if (leaf->level == 1) fetch_ahead(pager, leaf, fence, child, next);
      }
      if (rc == SDB_END) rc = SDB_OK;
    }
    if (!rc) rc = tp_child(leaf, &place, &number);
    if (rc) return rc;
    level = leaf->level - 1;
  }
}

int tree_create(struct pager *pager, uint32_t *root) {
  uint32_t leaf, inner;
  uint8_t *page;
  int rc = page_new(pager, PAGE_LEAF, &leaf, &page);
  if (rc) return rc;
  tp_format(page, 0, 0);
  rc = page_new(pager, PAGE_INNER, &inner, &page);
  if (rc) {
    page_free(pager, leaf);
    return rc;
  }
  tp_format(page, 1, leaf);
  *root = inner;
  return SDB_OK;
}

int tree_get(struct pager *pager, uint64_t view, uint32_t root, const void *key, size_t len, uint64_t *value) {
  struct tp leaf;
  struct tp_place place;
  uint32_t next;
  if (len == 0 || len > TREE_MAX_KEY) return SDB_INVALID;
  int rc = descend(pager, view, root, key, len, NULL, NULL, &leaf);
  if (!rc) rc = tp_find(&leaf, key, (uint32_t)len, &place);
  if (rc) return rc;
  return place.found ? tp_value(&leaf, place.at, value, &next) : SDB_NOT_FOUND;
}

/* --- Put ---------------------------------------------------------------------------------------------------------------------- */

struct put {
  struct pager *pager;
  uint32_t size;
  uint32_t top; /* level of the root */
  uint32_t path[TREE_MAX_DEPTH];
};

/* SDB_FULL: no room in the page. */
static int put_in_page(const struct put *put, uint8_t *page, const uint8_t *key, uint32_t len, uint64_t value) {
  struct tp tp;
  struct tp_place place;
  uint32_t need, size = put->size;
  int rc = tp_open(&tp, page, size);
  if (!rc) rc = tp_find(&tp, key, len, &place);
  if (rc) return rc;
  if (place.found && tp.level > 0) return SDB_CORRUPT;
  if (place.found) { /* the value that was may be longer */
    page_keep_room(put->pager);
    return tp_set_value(page, size, &place, value, &need);
  }
  rc = tp_insert(page, size, &place, key, len, value, &need);
  if (rc == SDB_FULL &&
      tp_squeeze(page, size, need + 3)) { /* 3: a head behind the key may need its long form in the joined group */
    rc = tp_open(&tp, page, size);
    if (!rc) rc = tp_find(&tp, key, len, &place);
    if (!rc) rc = tp_insert(page, size, &place, key, len, value, &need);
  }
  if (!rc) tp_relieve(page, size, place.group);
  return rc;
}

/* Puts the key on its side of a plan that was carried out and has left room there. */
static void put_beside(const struct put *put, uint8_t *left, uint8_t *right, const struct tp_split *plan, const uint8_t *key,
                       uint32_t len, uint64_t value) {
  int rc = put_in_page(put, key_compare(key, len, plan->key, plan->len) < 0 ? left : right, key, len, value);
  assert(rc == SDB_OK);
  (void)rc;
}

static void cut_and_put(const struct put *put, uint8_t *left, uint8_t *right, const struct tp_split *plan, const uint8_t *key,
                        uint32_t len, uint64_t value) {
  tp_cut(left, right, put->size, plan, (uint32_t)value);
  if (!plan->new_lifted) put_beside(put, left, right, plan, key, len, value);
}

static int insert_at(const struct put *put, uint32_t level, const uint8_t *key, uint32_t len, uint64_t value);

static int split_page(const struct put *put, uint32_t level, uint8_t *page, const struct tp_split *plan, const uint8_t *key,
                      uint32_t len, uint64_t value) {
  uint32_t number;
  uint8_t *right;
  int rc = page_new(put->pager, level > 0 ? PAGE_INNER : PAGE_LEAF, &number, &right);
  if (rc) return rc;
  rc = insert_at(put, level + 1, plan->key, plan->len, number);
  if (rc) {
    page_free(put->pager, number);
    return rc;
  }
  cut_and_put(put, page, right, plan, key, len, value);
  return SDB_OK;
}

/* The root's entries move down to two new pages; the root keeps its number and the one separator between them. */
static int split_root(const struct put *put, uint8_t *root, const struct tp_split *plan, const uint8_t *key, uint32_t len,
                      uint64_t value) {
  uint32_t left_number, right_number;
  uint8_t *left, *right;
  if (put->top + 1 >= TREE_MAX_DEPTH) return SDB_FULL;
  int rc = page_new(put->pager, PAGE_INNER, &left_number, &left);
  if (rc) return rc;
  rc = page_new(put->pager, PAGE_INNER, &right_number, &right);
  if (rc) {
    page_free(put->pager, left_number);
    return rc;
  }
  memcpy(left + PAGE_HEADER, root + PAGE_HEADER, page_fill(root) - PAGE_HEADER);
  page_set_fill(left, page_fill(root));
  tp_format(root, put->top + 1, left_number);
  rc = put_in_page(put, root, plan->key, plan->len, right_number);
  assert(rc == SDB_OK);
  cut_and_put(put, left, right, plan, key, len, value);
  return SDB_OK;
}

/* The separator of the child that `place` leads to, and the child before it. False when it is the leftmost. */
static bool neighbour_before(const struct tp *parent, const struct tp_place *place, struct fence *separator, uint32_t *before) {
  struct tp_iter iter;
  uint32_t at = place->found ? place->at : place->prev;
  if (at == 0) return false;
  *before = tp_leftmost(parent);
  tp_iter_start(&iter, parent, place->group > 0 ? place->group - 1 : 0);
  while (!tp_iter_next(&iter)) {
    if (iter.at == at) {
      memcpy(separator->key, iter.key, iter.len);
      separator->len = iter.len;
      return *before != 0;
    }
    *before = (uint32_t)iter.value;
  }
  return false;
}

/* --- Sharing with a neighbour ---
 *
 *     ... | g | m | t | ...            ... | g | k | t | ...      the separator between two leaves becomes the shortest
 *          /     \                          /     \                that tells them apart when entries have moved
 *    g h j k l    m n                  g h j       k l m n
 */

/* A leaf beside another, under the same parent, and the separator between the two. */
struct neighbour {
  uint32_t number; /* 0: none */
  bool right;
  uint32_t used;
  struct fence separator;
};

/* One with hardly any room is left alone: it would soon be asked again. */
static void prefer_emptier(const struct put *put, struct neighbour *best, const struct neighbour *other) {
  struct tp tp;
  if (other->number == put->path[0] || open_page(put->pager, VIEW_HEAD, other->number, 0, &tp)) return;
  if (tp_used(&tp) > tp_capacity(&tp) / 32 * 31 || (best->number != 0 && tp_used(&tp) >= best->used)) return;
  *best = *other;
  best->used = tp_used(&tp);
}

static bool find_neighbour(const struct put *put, const struct tp *parent, const struct tp_place *at, const uint8_t *key,
                           uint32_t len, struct neighbour *best) {
  struct neighbour other = {.right = true};
  uint64_t after;
  uint32_t next;
  best->number = 0;
  memcpy(other.separator.key, key, len);
  other.separator.len = len;
  if (tp_above(parent, at, other.separator.key, &other.separator.len, &after, &next) == SDB_OK) {
    other.number = (uint32_t)after;
    prefer_emptier(put, best, &other);
  }
  other.right = false;
  if (neighbour_before(parent, at, &other.separator, &other.number)) prefer_emptier(put, best, &other);
  return best->number != 0;
}

/* Are leaf and neighbour what they must be, so that moving entries makes no damage worse? The leaf alone has been checked. */
static bool fit_together(const struct put *put, const struct tp *leaf, const struct neighbour *n) {
  struct tp tp;
  struct tp_place place;
  const uint8_t *key = n->separator.key;
  uint32_t len = (uint32_t)n->separator.len;
  if (open_page(put->pager, VIEW_HEAD, n->number, 0, &tp) || tp_sound(&tp)) return false;
  const struct tp *left = n->right ? leaf : &tp, *right = n->right ? &tp : leaf;
  if (tp_find(left, key, len, &place) || place.found || place.at != left->end) return false;
  return tp_find(right, key, len, &place) == SDB_OK && place.at == right->base;
}

/* Makes room in a full leaf by moving entries to a neighbour, and puts the key. False: that cannot be, and nothing has changed. */
static bool share(const struct put *put, const struct tp *leaf, const struct tp_place *place, const uint8_t *key, uint32_t len,
                  uint64_t value) {
  struct neighbour n;
  struct tp_split plan;
  struct tp parent;
  struct tp_place at;
  uint8_t *parent_page, *left, *right;
  uint32_t child;
  if (page_room_kept(put->pager)) return false;
  if (open_page(put->pager, VIEW_HEAD, put->path[1], 1, &parent) || tp_find(&parent, key, len, &at)) return false;
  if (!find_neighbour(put, &parent, &at, key, len, &n)) return false;
  if (tp_plan_share(leaf, place, key, len, n.right ? 0 : n.used, n.right ? n.used : 0, &plan)) return false;
  if (!fit_together(put, leaf, &n) || tp_find(&parent, plan.key, plan.len, &at) || at.found) return false;
  if (tp_child(&parent, &at, &child) || child != put->path[0]) return false;
  if (page_write(put->pager, put->path[1], &parent_page)) return false;
  if (page_write(put->pager, n.right ? put->path[0] : n.number, &left)) return false;
  if (page_write(put->pager, n.right ? n.number : put->path[0], &right)) return false;
  if (tp_open(&parent, parent_page, put->size)) return false;
  if (tp_find(&parent, n.separator.key, (uint32_t)n.separator.len, &at) || !at.found) return false;
  if (tp_replace_key(parent_page, put->size, &at, plan.key, plan.len)) return false;
  if (n.right) tp_give_right(left, right, put->size, &plan);
  else tp_give_left(left, right, put->size, &plan);
  put_beside(put, left, right, &plan, key, len, value);
  return true;
}

static int insert_at(const struct put *put, uint32_t level, const uint8_t *key, uint32_t len, uint64_t value) {
  struct tp tp;
  struct tp_place place;
  struct tp_split plan;
  uint8_t *page;
  int rc = page_write(put->pager, put->path[level], &page);
  if (rc) return absent_is_corrupt(rc);
  rc = put_in_page(put, page, key, len, value);
  if (rc != SDB_FULL) return rc;
  rc = tp_open(&tp, page, put->size);
  if (!rc) rc = tp_find(&tp, key, len, &place);
  if (rc) return rc;
  if (level == 0 && share(put, &tp, &place, key, len, value)) return SDB_OK;
  rc = tp_plan_split(&tp, &place, key, len, &plan);
  if (rc) return rc;
  rc = level == put->top ? split_root(put, page, &plan, key, len, value) : split_page(put, level, page, &plan, key, len, value);
  if (rc &&
      rc !=
          SDB_CORRUPT) { /* last resort, and what makes that undoing a remove never fails: with all groups joined it fitted once */
    tp_join_all(page, put->size);
    if (put_in_page(put, page, key, len, value) == SDB_OK) return SDB_OK;
  }
  return rc;
}

int tree_put(struct pager *pager, uint32_t root, const void *key, size_t len, uint64_t value) {
  struct put put = {.pager = pager, .size = page_size(pager)};
  struct tp leaf;
  if (len == 0 || len > TREE_MAX_KEY || value == 0 || value > TP_MAX_VALUE) return SDB_INVALID;
  int rc = descend(pager, VIEW_HEAD, root, key, len, put.path, NULL, &leaf);
  if (rc) return rc;
  while (put.path[put.top] != root) put.top++;
  return insert_at(&put, 0, key, (uint32_t)len, value);
}

/* --- Remove ------------------------------------------------------------------------------------------------------------------- */

int tree_remove(struct pager *pager, uint32_t root, const void *key, size_t len) {
  uint32_t path[TREE_MAX_DEPTH];
  struct tp leaf;
  struct tp_place place;
  uint8_t *page;
  if (len == 0 || len > TREE_MAX_KEY) return SDB_INVALID;
  int rc = descend(pager, VIEW_HEAD, root, key, len, path, NULL, &leaf);
  if (!rc) rc = tp_find(&leaf, key, (uint32_t)len, &place);
  if (!rc && !place.found) rc = SDB_NOT_FOUND;
  if (rc) return rc;
  rc = page_write(pager, path[0], &page);
  if (rc) return absent_is_corrupt(rc);
  page_keep_room(pager);
  return tp_remove(page, page_size(pager), &place);
}

/* Joins two neighbours that `separator` in `parent` tells apart, and frees the right one. */
static bool merge(struct pager *pager, uint32_t parent, uint32_t left, uint32_t right, uint32_t level,
                  const struct fence *separator) {
  uint32_t size = page_size(pager), need, child;
  struct tp l, r, p;
  struct tp_place place;
  uint8_t *parent_page, *left_page, *right_page;
  if (left == right || open_page(pager, VIEW_HEAD, left, level, &l) || open_page(pager, VIEW_HEAD, right, level, &r)) return false;
  uint32_t lifted = level > 0 ? (uint32_t)separator->len + 32 : 0; /* 32: more than all that an entry and its group take beside */
  /* Not full, so that the next put does not split it again. */
  uint32_t limit = l.entries == 0 || r.entries == 0 ? tp_capacity(&l) : tp_capacity(&l) / 4 * 3;
  if (tp_used(&l) + tp_used(&r) + lifted > limit || tp_sound(&l) || tp_sound(&r)) return false;
  if (open_page(pager, VIEW_HEAD, parent, level + 1, &p) || tp_sound(&p)) return false;
  if (level > 0 && (tp_find(&l, separator->key, (uint32_t)separator->len, &place) || place.found || place.at != l.end))
    return false; /* damaged */
  if (page_write(pager, parent, &parent_page) || page_write(pager, left, &left_page) || page_write(pager, right, &right_page))
    return false;
  if (tp_open(&p, parent_page, size) || tp_find(&p, separator->key, (uint32_t)separator->len, &place) || !place.found) return false;
  if (tp_child(&p, &place, &child) || child != right || tp_remove(parent_page, size, &place)) return false;
  if (level > 0) {
    int rc = tp_open(&l, left_page, size);
    if (!rc) rc = tp_find(&l, separator->key, (uint32_t)separator->len, &place);
    if (!rc) rc = tp_insert(left_page, size, &place, separator->key, (uint32_t)separator->len, tp_leftmost(&r), &need);
    assert(rc == SDB_OK);
    (void)rc;
  }
  tp_append(left_page, right_page, size);
  page_free(pager, right);
  return true;
}

/* Merges the child of `parent` that the key leads to, if little is left in it. */
static void tidy_child(struct pager *pager, uint32_t parent, const struct tp *tp, const uint8_t *key, size_t len) {
  struct fence separator;
  struct tp child_tp;
  struct tp_place place;
  uint64_t after;
  uint32_t child, before, next, level = tp->level - 1;
  if (tp_find(tp, key, (uint32_t)len, &place) || tp_child(tp, &place, &child)) return;
  if (open_page(pager, VIEW_HEAD, child, level, &child_tp) || tp_used(&child_tp) >= tp_capacity(&child_tp) / 4) return;
  memcpy(separator.key, key, len);
  separator.len = len;
  if (tp_above(tp, &place, separator.key, &separator.len, &after, &next) == SDB_OK &&
      merge(pager, parent, child, (uint32_t)after, level, &separator))
    return;
  if (neighbour_before(tp, &place, &separator, &before)) merge(pager, parent, before, child, level, &separator);
}

/* A root with a single child takes over what that one holds, unless it is a leaf: the root stays an inner page. */
static bool shrink_root(struct pager *pager, uint32_t root, const struct tp *tp) {
  uint32_t child = tp_leftmost(tp);
  uint8_t *root_page, *child_page;
  struct tp child_tp;
  if (tp->level < 2 || tp->entries > 0 || child == root) return false;
  if (open_page(pager, VIEW_HEAD, child, tp->level - 1, &child_tp)) return false;
  if (page_write(pager, root, &root_page) || page_write(pager, child, &child_page)) return false;
  memcpy(root_page + PAGE_HEADER, child_page + PAGE_HEADER, page_fill(child_page) - PAGE_HEADER);
  page_set_fill(root_page, page_fill(child_page));
  page_free(pager, child);
  return true;
}

/* From the root down, so that a page whose parent had only this child left has got neighbours when its turn comes. */
void tree_tidy(struct pager *pager, uint32_t root, const void *key, size_t len) {
  uint32_t number = root, level = ROOT_LEVEL;
  if (len == 0 || len > TREE_MAX_KEY) return;
  for (;;) {
    struct tp tp;
    struct tp_place place;
    if (open_page(pager, VIEW_HEAD, number, level, &tp) || tp.level == 0) return;
    if (number == root && shrink_root(pager, root, &tp)) continue;
    if (tp.entries > 0) {
      tidy_child(pager, number, &tp, key, len);
      if (open_page(pager, VIEW_HEAD, number, tp.level, &tp)) return;
    }
    level = tp.level - 1;
    if (tp_find(&tp, key, (uint32_t)len, &place) || tp_child(&tp, &place, &number)) return;
  }
}

/* --- Drop --------------------------------------------------------------------------------------------------------------------- */

/* Frees the leaf that is leftmost. It must be one, unless its bytes are damaged: then what points at it is believed. */
static int free_leaf(struct pager *pager, uint32_t number) {
  struct tp tp;
  const uint8_t *page;
  int rc = page_read(pager, VIEW_HEAD, number, &page);
  if (rc == SDB_NOT_FOUND) return SDB_OK;
  if (rc == SDB_OK && open_page(pager, VIEW_HEAD, number, 0, &tp) && page_kind(page) != PAGE_LEAF) return SDB_CORRUPT;
  return rc == SDB_OK || rc == SDB_CORRUPT ? page_free(pager, number) : rc;
}

/* The first leaf, and the pages above it that had no other child. All of them are touched before the first is freed. */
static int drop_first(struct pager *pager, uint32_t root, bool *done) {
  uint32_t path[TREE_MAX_DEPTH], number = root, level = ROOT_LEVEL, top = 0,
                                 rest = 0; /* rest: the lowest with another child; 0: none */
  uint8_t *page = NULL;
  struct tp tp;
  int rc;
  do {
    rc = open_page(pager, VIEW_HEAD, number, level, &tp);
    if (!rc) rc = tp_sound(&tp);
    if (rc) return rc;
    if (number == root) top = tp.level;
    if (tp.entries > 0) rest = tp.level;
    path[tp.level] = number;
    number = tp_leftmost(&tp);
    level = tp.level - 1;
  } while (level > 0);
  for (level = 1; !rc && level <= (rest ? rest : top); level++) rc = absent_is_corrupt(page_write(pager, path[level], &page));
  if (!rc) rc = free_leaf(pager, number);
  if (rc) return rc;
  if (rest) tp_shift(page, page_size(pager));
  for (level = 1; level < (rest ? rest : top + 1); level++) page_free(pager, path[level]);
  *done = rest == 0;
  return SDB_OK;
}

int tree_drop_some(struct pager *pager, uint32_t root, unsigned budget, bool *done) {
  int rc = SDB_OK;
  *done = false;
  while (rc == SDB_OK && budget-- > 0 && !*done) rc = drop_first(pager, root, done);
  return rc;
}

/* --- Cursor ------------------------------------------------------------------------------------------------------------------- */

void tree_cursor_init(tree_cursor *cursor, struct pager *pager, uint64_t view, uint32_t root, const void *key, size_t len,
                      bool after) {
  cursor->pager = pager;
  cursor->view = view;
  cursor->root = root;
  cursor->leaf = NULL;
  cursor->next_offset = 0;
  cursor->leaves_moved = 0;
  cursor->key_len = len < TREE_MAX_KEY ? len : TREE_MAX_KEY;
  cursor->after = after || len > TREE_MAX_KEY; /* what begins like the key and is shorter is before it */
  if (cursor->key_len > 0) memcpy(cursor->key, key, cursor->key_len);
}

void tree_cursor_pause(tree_cursor *cursor) { cursor->leaf = NULL; }

/* A cursor that comes from one leaf into the next goes through more of them: how many to fetch now. */
static unsigned read_ahead(tree_cursor *cursor) {
  if (cursor->leaves_moved++ % (AHEAD / 2) != 0) return 0;
  return AHEAD;
}

/* From the root. A leaf may have nothing behind the key; then the search goes on from the separator above it. */
static int seek(tree_cursor *cursor, uint64_t *value) {
  uint8_t key[TREE_MAX_KEY];
  size_t len = cursor->key_len;
  bool after = cursor->after, moved = false;
  memcpy(key, cursor->key, len);
  for (;;) {
    struct tp leaf;
    struct tp_place place;
    struct fence fence;
    uint32_t next;
    fence.len = 0;
    fence.ahead = moved ? read_ahead(cursor) : 0;
    int rc = descend(cursor->pager, cursor->view, cursor->root, key, len, NULL, &fence, &leaf);
    if (!rc) rc = tp_find(&leaf, key, (uint32_t)len, &place);
    if (rc) return rc;
    if (place.found && !after) rc = tp_value(&leaf, place.at, value, &next);
    else rc = tp_above(&leaf, &place, key, &len, value, &next);
    if (rc == SDB_OK) {
      cursor->leaf = leaf.page;
      cursor->next_offset = next;
      cursor->after = true;
      cursor->key_len = len;
      memcpy(cursor->key, key, len);
    }
    if (rc != SDB_END || fence.len == 0) return rc;
    memcpy(key, fence.key, fence.len);
    len = fence.len;
    after = false;
    moved = true;
  }
}

int tree_cursor_next(tree_cursor *cursor, uint64_t *value) {
  if (cursor->leaf) {
    struct tp tp;
    int rc = tp_open(&tp, cursor->leaf, page_size(cursor->pager));
    if (!rc) rc = tp_step(&tp, &cursor->next_offset, cursor->key, &cursor->key_len, value);
    if (!rc) return SDB_OK;
    cursor->leaf = NULL;
    if (rc != SDB_END) return rc;
  }
  return seek(cursor, value);
}

/* --- Walk --------------------------------------------------------------------------------------------------------------------- */

int tree_walk(struct pager *pager, uint64_t view, uint32_t root, uint8_t *key, size_t *len, unsigned budget,
              void (*page)(void *user, uint32_t number), void *user) {
  for (; budget > 0; budget--) {
    uint32_t path[TREE_MAX_DEPTH] = {0};
    struct fence fence = {.len = 0};
    struct tp leaf;
    int rc = descend(pager, view, root, key, *len, path, &fence, &leaf);
    for (uint32_t level = 0; page && level < TREE_MAX_DEPTH; level++)
      if (path[level]) page(user, path[level]);
    if (!rc) rc = tp_sound(&leaf);
    if (rc && rc != SDB_CORRUPT && rc != SDB_IO) return rc;
    memcpy(key, fence.key, fence.len);
    *len = fence.len;
    if (rc) return rc;
    if (fence.len == 0) return SDB_END;
  }
  return SDB_OK;
}

/* --- Parts -------------------------------------------------------------------------------------------------------------------- */

/* About which part of the keys is below `key`: children of a page count as equally full, entries as equally long. */
static int part_below(struct pager *pager, uint64_t view, uint32_t root, const uint8_t *key, size_t len, double *part) {
  uint32_t number = root, level = ROOT_LEVEL;
  double width = 1;
  for (*part = 0;;) {
    struct tp tp;
    struct tp_place place;
    int rc = open_page(pager, view, number, level, &tp);
    if (!rc) rc = tp_find(&tp, key, (uint32_t)len, &place);
    if (rc) return rc;
    double before = tp.end > tp.base ? (double)(place.at - tp.base) / (tp.end - tp.base) * tp.entries : 0;
    if (tp.level == 0) {
      *part += tp.entries ? width * before / tp.entries : 0;
      return SDB_OK;
    }
    width /= tp.entries + 1;
    *part += width * (before + (place.found ? 1 : 0));
    rc = tp_child(&tp, &place, &number);
    if (rc) return rc;
    level = tp.level - 1;
  }
}

int tree_share(struct pager *pager, uint64_t view, uint32_t root, const void *prefix, size_t len, double *share) {
  uint8_t end[TREE_MAX_KEY];
  double below = 0, up_to = 1;
  if (len > TREE_MAX_KEY) return SDB_INVALID;
  if (len > 0) memcpy(end, prefix, len);
  int rc = len > 0 ? part_below(pager, view, root, prefix, len, &below) : SDB_OK;
  while (len > 0 && end[len - 1] == 0xFF) len--;
  if (len > 0) { /* the first key behind all that begin so */
    end[len - 1]++;
    if (!rc) rc = part_below(pager, view, root, end, len, &up_to);
  }
  if (!rc) *share = up_to > below ? up_to - below : 0;
  return rc;
}

/* --- Check -------------------------------------------------------------------------------------------------------------------- */

struct check {
  struct pager *pager;
  uint64_t view;
  const tree_visitor *visitor;
  int verdict;
};

struct bound {
  const uint8_t *key;
  size_t len; /* 0: none */
};

static void broken(struct check *check, int rc, uint32_t number, const char *what) {
  char sentence[160];
  snprintf(sentence, sizeof sentence, "tree page %u %s", (unsigned)number, what);
  if (check->visitor->problem) check->visitor->problem(check->visitor->user, sentence);
  if (check->verdict == SDB_OK) check->verdict = rc;
}

/* The next entry of a page, which must stand within its bounds. Tells what is wrong. */
static int check_next(struct check *check, uint32_t number, struct tp_iter *iter, struct bound low, struct bound high) {
  int rc = tp_iter_next(iter);
  if (rc == SDB_END && iter->seen == iter->tp->entries) return rc;
  if (rc) {
    broken(check, SDB_CORRUPT, number, "has an entry that breaks a rule");
    return SDB_CORRUPT;
  }
  int order = low.len > 0 ? key_compare(iter->key, iter->len, low.key, low.len) : 1;
  bool beyond = high.len > 0 && key_compare(iter->key, iter->len, high.key, high.len) >= 0;
  if (order > 0 && !beyond) return SDB_OK;
  if (order == 0 && !beyond && iter->tp->level == 0) return SDB_OK;
  broken(check, SDB_CORRUPT, number, "has a key outside the bounds that the page above sets");
  return SDB_CORRUPT;
}

static int check_leaf(struct check *check, uint32_t number, const struct tp *tp, struct bound low, struct bound high) {
  struct tp_iter iter;
  tp_iter_start(&iter, tp, 0);
  while (check_next(check, number, &iter, low, high) == SDB_OK) {
    int stop = check->visitor->entry ? check->visitor->entry(check->visitor->user, iter.key, iter.len, iter.value) : SDB_OK;
    if (stop) return stop;
  }
  return SDB_OK;
}

static int check_page(struct check *check, uint32_t number, uint32_t level, struct bound low, struct bound high);

static int check_inner(struct check *check, uint32_t number, const struct tp *tp, struct bound low, struct bound high) {
  struct tp_iter iter;
  uint8_t separator[TREE_MAX_KEY];
  struct bound from = low;
  uint32_t child = tp_leftmost(tp);
  int rc;
  tp_iter_start(&iter, tp, 0);
  do {
    rc = check_next(check, number, &iter, low, high);
    if (rc && rc != SDB_END) break;
    int stop = check_page(check, child, tp->level - 1, from, rc == SDB_END ? high : (struct bound){iter.key, iter.len});
    if (stop) return stop;
    memcpy(separator, iter.key, iter.len);
    from = (struct bound){separator, iter.len};
    child = (uint32_t)iter.value;
  } while (rc == SDB_OK);
  return SDB_OK;
}

/* Non-zero only when the visitor wants no more. Even where a damaged tree reaches a page on many ways this ends soon: at all but
 * one of them the page's separators are outside the bounds, and then its children are not looked at. */
static int check_page(struct check *check, uint32_t number, uint32_t level, struct bound low, struct bound high) {
  struct tp tp;
  int rc = check->visitor->page ? check->visitor->page(check->visitor->user, number) : SDB_OK;
  if (rc) return rc;
  rc = open_page(check->pager, check->view, number, level, &tp);
  if (rc) {
    broken(check, rc, number, rc == SDB_CORRUPT ? "is damaged, or missing, or not of the level it should be" : "cannot be read");
    return SDB_OK;
  }
  return tp.level > 0 ? check_inner(check, number, &tp, low, high) : check_leaf(check, number, &tp, low, high);
}

int tree_check(struct pager *pager, uint64_t view, uint32_t root, const tree_visitor *visitor) {
  struct check check = {pager, view, visitor, SDB_OK};
  int stop = check_page(&check, root, ROOT_LEVEL, (struct bound){0}, (struct bound){0});
  return stop ? stop : check.verdict;
}
