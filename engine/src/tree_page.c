/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* tree_page.c - reading the page of tree_page.h: search, single steps, the walk that checks everything. */
#include "tree_page.h"

#include "tree_entry.h"

int tp_open(struct tp *tp, const uint8_t *page, uint32_t size) {
  tp->page = page;
  tp->size = size;
  tp->level = page[TP_LEVEL];
  tp->groups = get16(page + TP_GROUPS);
  tp->entries = get16(page + TP_ENTRIES);
  tp->base = TP_BODY + TP_GROUP_BYTES * tp->groups;
  tp->end = page_fill(page);
  if (page_kind(page) != (tp->level == 0 ? PAGE_LEAF : PAGE_INNER) || tp->level >= TREE_MAX_DEPTH) return SDB_CORRUPT;
  if (tp->end > size || tp->base > tp->end) return SDB_CORRUPT;
  if (tp->groups > tp->entries || (tp->groups == 0 && (tp->entries > 0 || tp->end != tp->base))) return SDB_CORRUPT;
  return SDB_OK;
}

/* --- Search ------------------------------------------------------------------------------------------------------------------- */

/* The last group whose head is not above the key's, or the first one. */
static uint32_t guess_group(const struct tp *tp, const uint8_t *key, uint32_t len) {
  const uint8_t *heads = tp->page + TP_BODY;
  uint32_t head = key_head(tp->page, key, len), at = 0, half;
  for (uint32_t n = tp->groups; n > 1; n -= half) {
    half = n / 2;
    at += get32(heads + 4 * (at + half)) <= head ? half : 0;
  }
  return at;
}

/* Is the group's first key above the key? */
static bool restart_above(const struct tp *tp, uint32_t group, const uint8_t *key, uint32_t len, bool *above) {
  struct tp_entry restart;
  if (!tp_restart(tp, group, &restart)) return false;
  *above = key_compare(tp->page + restart.suffix, restart.suffix_len, key, len) > 0;
  return true;
}

/* The last group whose first key is not above the key, from a wrong guess (too_high: its first key is above): in growing steps,
 * because the right one is near or, where heads are equal, behind a run of them. */
static bool mend_guess(const struct tp *tp, const uint8_t *key, uint32_t len, bool too_high, uint32_t *group) {
  uint32_t low = too_high ? 0 : *group + 1, high = too_high ? *group : tp->groups, step = 1; /* it is in [low, high) */
  bool above = too_high;
  while (high - low > step && above == too_high) {
    uint32_t probe = too_high ? high - step : low + step;
    if (!restart_above(tp, probe, key, len, &above)) return false;
    if (above) high = probe;
    else low = probe;
    step *= 2;
  }
  while (high - low > 1) {
    uint32_t middle = low + (high - low) / 2;
    if (!restart_above(tp, middle, key, len, &above)) return false;
    if (above) high = middle;
    else low = middle;
  }
  *group = low;
  return true;
}

/* Compares an entry with the key, both known to share *m bytes; makes *m all they share. */
static inline int weigh(const uint8_t *suffix, uint32_t suffix_len, const uint8_t *key, uint32_t len, uint32_t *m) {
  uint32_t rest = len - *m;
  uint32_t k = match(suffix, key + *m, suffix_len < rest ? suffix_len : rest);
  *m += k;
  if (k == suffix_len) return k == rest ? 0 : -1;
  return k == rest || suffix[k] > key[*m] ? 1 : -1;
}

/* Goes through the group until an entry is not below the key. Because keys are sorted, what an entry shares with the one before
 * decides most comparisons: with m bytes of the key matched by the entry before, one that shares more is below the key as well, one
 * that shares less is above it. */
static bool scan_group(const struct tp *tp, const uint8_t *key, uint32_t len, struct tp_place *place) {
  const uint8_t *page = tp->page;
  struct tp_entry entry;
  uint32_t at, end, k = 0, m = 0, prev = 0;
  if (!tp_group_range(tp, place->group, &at, &end)) return false;
  __builtin_prefetch(page + at + 64); /* may be behind the page: harmless */
  __builtin_prefetch(page + at + 128);
  if (!tp_parse(page, at, end, &entry) || entry.shared != 0) return false;
  int order = weigh(page + entry.suffix, entry.suffix_len, key, len, &k);
  while (order < 0) {
    m = k;
    do {
      prev = at;
      at = entry.next;
      if (at == end) {
        *place = (struct tp_place){.group = place->group, .at = at, .prev = prev, .match_prev = m};
        return true;
      }
      if (!tp_parse_head(page, at, end, &entry)) return false;
    } while (entry.shared > m);
    if (entry.shared < m) {
      k = entry.shared;
      break;
    }
    if (!tp_parse_body(page, &entry)) return false;
    order = weigh(page + entry.suffix, entry.suffix_len, key, len, &k);
  }
  *place = (struct tp_place){order == 0, place->group, at, prev, m, k};
  return true;
}

/* Is the key behind the end of its group, so that the next one may be where it belongs? */
static bool passed_group(const struct tp *tp, const struct tp_place *place) {
  return !place->found && place->group + 1 < tp->groups && place->at == tp->base + get16(tp_starts(tp) + 2 * (place->group + 1));
}

int tp_find(const struct tp *tp, const uint8_t *key, uint32_t len, struct tp_place *place) {
  *place = (struct tp_place){.at = tp->base};
  if (tp->groups == 0) return SDB_OK;
  place->group = guess_group(tp, key, len);
  if (!scan_group(tp, key, len, place)) return SDB_CORRUPT;
  bool too_high = place->group > 0 && place->prev == 0 && !place->found, above = true;
  if (!too_high && passed_group(tp, place) && !restart_above(tp, place->group + 1, key, len, &above)) return SDB_CORRUPT;
  if (!too_high && above) return SDB_OK;
  if (!mend_guess(tp, key, len, too_high, &place->group)) return SDB_CORRUPT;
  return scan_group(tp, key, len, place) ? SDB_OK : SDB_CORRUPT;
}

static int checked_value(const struct tp *tp, const struct tp_entry *entry, uint64_t *value) {
  uint64_t v = tp_read_value(tp->page, entry);
  if (v == 0 || v > (tp->level > 0 ? UINT32_MAX : TP_MAX_VALUE)) return SDB_CORRUPT;
  *value = v;
  return SDB_OK;
}

int tp_value(const struct tp *tp, uint32_t at, uint64_t *value, uint32_t *next) {
  struct tp_entry entry;
  if (!tp_parse(tp->page, at, tp->end, &entry)) return SDB_CORRUPT;
  *next = entry.next;
  return checked_value(tp, &entry, value);
}

int tp_child(const struct tp *tp, const struct tp_place *place, uint32_t *child) {
  uint64_t value = tp_leftmost(tp);
  uint32_t next, at = place->found ? place->at : place->prev;
  if (at != 0) {
    int rc = tp_value(tp, at, &value, &next);
    if (rc) return rc;
  }
  *child = (uint32_t)value;
  return value == 0 ? SDB_CORRUPT : SDB_OK;
}

int tp_above(const struct tp *tp, const struct tp_place *place, uint8_t *key, size_t *len, uint64_t *value, uint32_t *next) {
  struct tp_entry entry;
  uint32_t at = place->at;
  if (place->found) {
    if (!tp_parse_head(tp->page, at, tp->end, &entry)) return SDB_CORRUPT;
    at = entry.next;
  }
  if (at == tp->end) return SDB_END;
  /* What it shares with the entry before, the key shares as well: that entry is the key, or nearer to it, or in another group. */
  if (!tp_parse(tp->page, at, tp->end, &entry) || entry.shared > *len) return SDB_CORRUPT;
  const uint8_t *suffix = tp->page + entry.suffix;
  if (key_compare(suffix, entry.suffix_len, key + entry.shared, *len - entry.shared) <= 0) return SDB_CORRUPT;
  if (entry.shared + entry.suffix_len > TREE_MAX_KEY || checked_value(tp, &entry, value)) return SDB_CORRUPT;
  memcpy(key + entry.shared, suffix, entry.suffix_len);
  *len = entry.shared + entry.suffix_len;
  *next = entry.next;
  return SDB_OK;
}

int tp_step(const struct tp *tp, uint32_t *at, uint8_t *key, size_t *len, uint64_t *value) {
  struct tp_entry entry;
  if (*at == tp->end) return SDB_END;
  if (*at > tp->end || !tp_parse(tp->page, *at, tp->end, &entry) || entry.shared > *len) return SDB_CORRUPT;
  const uint8_t *suffix = tp->page + entry.suffix;
  if (entry.shared == 0) {
    if (key_compare(key, *len, suffix, entry.suffix_len) >= 0) return SDB_CORRUPT;
  } else if (entry.shared < *len && key[entry.shared] >= suffix[0]) {
    return SDB_CORRUPT;
  }
  if (entry.shared + entry.suffix_len > TREE_MAX_KEY || checked_value(tp, &entry, value)) return SDB_CORRUPT;
  memcpy(key + entry.shared, suffix, entry.suffix_len);
  *len = entry.shared + entry.suffix_len;
  *at = entry.next;
  return SDB_OK;
}

/* --- The walk that checks everything ------------------------------------------------------------------------------------------ */

void tp_iter_start(struct tp_iter *iter, const struct tp *tp, uint32_t group) {
  iter->tp = tp;
  iter->group = group;
  iter->group_end = 0;
  iter->next = 0;
  iter->seen = 0;
  iter->len = 0;
}

/* Enters the group: iter->next becomes its first byte. */
static bool enter_group(struct tp_iter *iter) {
  uint32_t start, behind = iter->group == 0 ? iter->tp->base : iter->next;
  if (!tp_group_range(iter->tp, iter->group, &start, &iter->group_end)) return false;
  if (start != behind && (iter->group == 0 || iter->seen > 0)) return false;
  iter->next = start;
  return true;
}

static bool restart_ok(const struct tp_iter *iter, const struct tp_entry *entry) {
  const struct tp *tp = iter->tp;
  const uint8_t *suffix = tp->page + entry->suffix;
  if (entry->shared != 0) return false;
  if (iter->seen > 0 && key_compare(iter->key, iter->len, suffix, entry->suffix_len) >= 0) return false;
  return get32(tp->page + TP_BODY + 4 * iter->group) == key_head(tp->page, suffix, entry->suffix_len);
}

int tp_iter_next(struct tp_iter *iter) {
  const struct tp *tp = iter->tp;
  struct tp_entry entry;
  iter->restart = iter->next == iter->group_end;
  if (iter->restart) {
    if (iter->group_end != 0) iter->group++;
    if (iter->group >= tp->groups) return SDB_END;
    if (!enter_group(iter)) return SDB_CORRUPT;
  }
  if (!tp_parse(tp->page, iter->next, iter->group_end, &entry) || iter->seen == tp->entries) return SDB_CORRUPT;
  const uint8_t *suffix = tp->page + entry.suffix;
  if (iter->restart) {
    if (!restart_ok(iter, &entry)) return SDB_CORRUPT;
    iter->lcp = match(iter->key, suffix, iter->len < entry.suffix_len ? iter->len : entry.suffix_len);
  } else {
    if (entry.shared > iter->len || (entry.shared < iter->len && iter->key[entry.shared] >= suffix[0])) return SDB_CORRUPT;
    iter->lcp = entry.shared;
  }
  if (entry.shared + entry.suffix_len > TREE_MAX_KEY || checked_value(tp, &entry, &iter->value)) return SDB_CORRUPT;
  uint8_t canonical[TP_MAX_HEAD];
  uint32_t value_len = entry.suffix - entry.value;
  if (value_len != tp_value_len(iter->value)) return SDB_CORRUPT;
  if (tp_write_head(canonical, entry.shared, value_len + entry.suffix_len) != entry.value - iter->next) return SDB_CORRUPT;
  memcpy(iter->key + entry.shared, suffix, entry.suffix_len);
  iter->len = entry.shared + entry.suffix_len;
  iter->shared = entry.shared;
  iter->at = iter->next;
  iter->next = entry.next;
  iter->seen++;
  return SDB_OK;
}

int tp_sound(const struct tp *tp) {
  struct tp_iter iter;
  int rc;
  tp_iter_start(&iter, tp, 0);
  while (!(rc = tp_iter_next(&iter))) continue;
  return rc == SDB_END && iter.seen == tp->entries ? SDB_OK : SDB_CORRUPT;
}
