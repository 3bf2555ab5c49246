/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* tree_edit.c - changing the page of tree_page.h: in place by moving bytes, cut in two, appended to each other.
 *
 * Inserting c between b and d, where d so far left out what it shares with b:
 *
 *     ... [b] [3 |v| ge]  ...            before
 *     ... [b] [3 |v| ga] [4 |v| e] ...   c takes over what it shares with b; d leaves out what it shares with c
 */
#include <assert.h>

#include "tree_entry.h"

void tp_format(uint8_t *page, uint32_t level, uint32_t leftmost) {
  memset(page + PAGE_HEADER, 0, TP_BODY - PAGE_HEADER);
  page[TP_LEVEL] = (uint8_t)level;
  put32(page + TP_LEFTMOST, leftmost);
  page_set_fill(page, TP_BODY);
}

/* --- Moving bytes ------------------------------------------------------------------------------------------------------------- */

/* Puts `len` bytes in the place of `cut` bytes at `at`, which stand in `group`. The caller has seen that there is room. */
static void splice(uint8_t *page, const struct tp *tp, uint32_t group, uint32_t at, uint32_t cut, const uint8_t *bytes,
                   uint32_t len) {
  assert(at + cut <= tp->end && tp->end - cut + len <= tp->size);
  uint8_t *starts = page + TP_BODY + 4 * tp->groups;
  memmove(page + at + len, page + at + cut, tp->end - at - cut);
  memcpy(page + at, bytes, len);
  page_set_fill(page, tp->end - cut + len);
  for (uint32_t g = group + 1; g < tp->groups; g++) put16(starts + 2 * g, (uint16_t)(get16(starts + 2 * g) + len - cut));
}

/* Makes a head, to be renewed, and a start before those of `group`. Room: TP_GROUP_BYTES. */
static void add_group(uint8_t *page, uint32_t size, uint32_t group, uint32_t start) {
  uint32_t groups = get16(page + TP_GROUPS), end = page_fill(page);
  uint32_t head_at = TP_BODY + 4 * group, start_at = TP_BODY + 4 * groups + 2 * group;
  assert(group <= groups && end + TP_GROUP_BYTES <= size);
  (void)size;
  memmove(page + start_at + TP_GROUP_BYTES, page + start_at, end - start_at);
  memmove(page + head_at + 4, page + head_at, start_at - head_at);
  put16(page + start_at + 4, (uint16_t)start);
  put16(page + TP_GROUPS, (uint16_t)(groups + 1));
  page_set_fill(page, end + TP_GROUP_BYTES);
}

static void drop_group(uint8_t *page, uint32_t group) {
  uint32_t groups = get16(page + TP_GROUPS), end = page_fill(page);
  uint32_t head_at = TP_BODY + 4 * group, start_at = TP_BODY + 4 * groups + 2 * group;
  memmove(page + head_at, page + head_at + 4, start_at - head_at - 4);
  memmove(page + start_at - 4, page + start_at + 2, end - start_at - 2);
  put16(page + TP_GROUPS, (uint16_t)(groups - 1));
  page_set_fill(page, end - TP_GROUP_BYTES);
}

/* Chooses the columns anew, and with them all heads: the first positions at which a restart differs from the one before, and where
 * those are fewer, the bytes behind them. */
static void choose_columns(uint8_t *page, uint32_t size) {
  struct tp tp;
  struct tp_entry before, restart;
  uint32_t columns[COLUMNS], count = 0;
  if (tp_open(&tp, page, size) || tp.groups == 0 || !tp_restart(&tp, 0, &before)) return;
  for (uint32_t g = 1; g < tp.groups && tp_restart(&tp, g, &restart); g++, before = restart) {
    uint32_t shorter = before.suffix_len < restart.suffix_len ? before.suffix_len : restart.suffix_len;
    uint32_t column = match(page + before.suffix, page + restart.suffix, shorter), i = count;
    while (i > 0 && columns[i - 1] > column) i--;
    if (i == COLUMNS || (i > 0 && columns[i - 1] == column)) continue;
    if (count < COLUMNS) count++;
    memmove(columns + i + 1, columns + i, (count - 1 - i) * sizeof *columns);
    columns[i] = column;
  }
  for (; count < COLUMNS; count++) columns[count] = count > 0 ? columns[count - 1] + 1 : 0;
  for (uint32_t i = 0; i < COLUMNS; i++) put16(page + TP_COLUMNS + 2 * i, (uint16_t)columns[i]);
  for (uint32_t g = 0; g < tp.groups; g++)
    if (tp_restart(&tp, g, &restart)) put32(page + TP_BODY + 4 * g, key_head(page, page + restart.suffix, restart.suffix_len));
}

/* The head of a group that has got another first key. Other columns are chosen where these do not tell it from its neighbours. */
static void renew_head(uint8_t *page, uint32_t size, uint32_t group) {
  struct tp tp;
  struct tp_entry restart;
  uint8_t *at = page + TP_BODY + 4 * group;
  if (tp_open(&tp, page, size) || !tp_restart(&tp, group, &restart)) return;
  uint32_t head = key_head(page, page + restart.suffix, restart.suffix_len);
  put32(at, head);
  bool apart = (group == 0 || get32(at - 4) < head) && (group + 1 == tp.groups || head < get32(at + 4));
  if (!apart) choose_columns(page, size);
}

/* The last key of a group. */
static bool last_key(const struct tp *tp, uint32_t group, uint8_t *key, size_t *len) {
  uint32_t at, end;
  uint64_t value;
  *len = 0;
  if (!tp_group_range(tp, group, &at, &end)) return false;
  while (at < end)
    if (tp_step(tp, &at, key, len, &value)) return false;
  return at == end;
}

static void set_entries(uint8_t *page, uint32_t entries, uint32_t appended) {
  put16(page + TP_ENTRIES, (uint16_t)entries);
  put16(page + TP_APPENDED, (uint16_t)appended);
}

static uint32_t write_entry(uint8_t *at, uint32_t shared, const uint8_t *key, uint32_t len, uint64_t value) {
  uint32_t n = tp_write_head(at, shared, tp_value_len(value) + len - shared);
  n += tp_write_value(at + n, value);
  memcpy(at + n, key + shared, len - shared);
  return n + len - shared;
}

/* The head and the value of `entry` as it will be when it shares that much and has a suffix of that length. */
static uint32_t write_front(uint8_t *at, const uint8_t *page, const struct tp_entry *entry, uint32_t shared, uint32_t suffix_len) {
  uint32_t value_len = entry->suffix - entry->value;
  uint32_t n = tp_write_head(at, shared, value_len + suffix_len);
  memcpy(at + n, page + entry->value, value_len);
  return n + value_len;
}

/* --- One entry ---------------------------------------------------------------------------------------------------------------- */

int tp_insert(uint8_t *page, uint32_t size, const struct tp_place *place, const uint8_t *key, uint32_t len, uint64_t value,
              uint32_t *need) {
  uint8_t bytes[TP_MAX_ENTRY + TP_MAX_HEAD + 8];
  struct tp tp;
  struct tp_entry next;
  uint32_t start, end, cut = 0, appended = get16(page + TP_APPENDED);
  if (tp_open(&tp, page, size)) return SDB_CORRUPT;
  if (tp.groups == 0) {
    uint32_t n = write_entry(bytes, 0, key, len, value);
    *need = n + TP_GROUP_BYTES;
    if (tp.end + *need > size) return SDB_FULL;
    add_group(page, size, 0, 0);
    set_entries(page, 1, 1);
    if (tp_open(&tp, page, size)) return SDB_CORRUPT;
    splice(page, &tp, 0, tp.base, 0, bytes, n);
    choose_columns(page, size);
    return SDB_OK;
  }
  if (!tp_group_range(&tp, place->group, &start, &end)) return SDB_CORRUPT;
  bool first = place->at == start, last = place->at == tp.end;
  uint32_t n = write_entry(bytes, first ? 0 : place->match_prev, key, len, value);
  if (place->at < end) {
    if (!tp_parse(page, place->at, end, &next)) return SDB_CORRUPT;
    if (place->match_next > next.shared) {
      uint32_t more = place->match_next - next.shared;
      if (more >= next.suffix_len) return SDB_CORRUPT;
      n += write_front(bytes + n, page, &next, place->match_next, next.suffix_len - more);
      cut = next.suffix + more - place->at;
    }
  }
  *need = n - cut;
  if (tp.end + n - cut > size) return SDB_FULL;
  splice(page, &tp, place->group, place->at, cut, bytes, n);
  set_entries(page, tp.entries + 1, last ? appended + 1 : 0);
  if (first) renew_head(page, size, place->group);
  return SDB_OK;
}

/* Makes the entry that `iter` stands at a restart. */
static void split_group(uint8_t *page, const struct tp_iter *iter) {
  uint8_t bytes[TP_MAX_ENTRY];
  const struct tp *tp = iter->tp;
  uint32_t n = write_entry(bytes, 0, iter->key, iter->len, iter->value), group = iter->group, at = iter->at - tp->base;
  uint32_t size = tp->size;
  splice(page, tp, group, iter->at, iter->next - iter->at, bytes, n);
  add_group(page, size, group + 1, at);
  renew_head(page, size, group + 1);
}

void tp_relieve(uint8_t *page, uint32_t size, uint32_t group) {
  struct tp tp;
  struct tp_iter iter;
  struct tp_entry entry;
  uint32_t start, end, count = 0;
  if (tp_open(&tp, page, size) || group >= tp.groups || !tp_group_range(&tp, group, &start, &end)) return;
  for (uint32_t at = start; at < end; at = entry.next, count++)
    if (!tp_parse_head(page, at, end, &entry)) return;
  if (count <= TP_CROWD) return;
  bool appending = end == tp.end && get16(page + TP_APPENDED) > 0; /* then this group stays full */
  tp_iter_start(&iter, &tp, group);
  for (uint32_t i = appending ? count : count / 2 + 1; i > 0; i--)
    if (tp_iter_next(&iter)) return;
  uint32_t cost = iter.shared + TP_GROUP_BYTES + 3; /* 3: the head may need the long form */
  if (2 * cost <= end - start && tp.end + cost <= size) split_group(page, &iter);
}

int tp_set_value(uint8_t *page, uint32_t size, const struct tp_place *place, uint64_t value, uint32_t *need) {
  uint8_t bytes[TP_MAX_HEAD + TP_MAX_VALUE_LEN];
  struct tp tp;
  struct tp_entry entry;
  if (tp_open(&tp, page, size) || !tp_parse(page, place->at, tp.end, &entry)) return SDB_CORRUPT;
  uint32_t cut = entry.suffix - place->at;
  uint32_t n = tp_write_head(bytes, entry.shared, tp_value_len(value) + entry.suffix_len);
  n += tp_write_value(bytes + n, value);
  *need = n > cut ? n - cut : 0;
  if (tp.end + *need > size) return SDB_FULL;
  splice(page, &tp, place->group, place->at, cut, bytes, n);
  return SDB_OK;
}

int tp_remove(uint8_t *page, uint32_t size, const struct tp_place *place) {
  uint8_t bytes[TP_MAX_ENTRY + 8];
  struct tp tp;
  struct tp_entry gone, next;
  uint32_t start, end, cut, n = 0;
  if (tp_open(&tp, page, size) || !tp_group_range(&tp, place->group, &start, &end)) return SDB_CORRUPT;
  if (!tp_parse(page, place->at, end, &gone)) return SDB_CORRUPT;
  bool first = place->at == start, last = gone.next == end;
  cut = gone.next - place->at;
  if (!last) {
    if (!tp_parse(page, gone.next, end, &next)) return SDB_CORRUPT;
    if (next.shared > gone.shared) { /* it takes over what it shares with the one that goes and that one did not leave out */
      uint32_t more = next.shared - gone.shared;
      if (more > gone.suffix_len || more + next.suffix_len > TREE_MAX_KEY) return SDB_CORRUPT;
      n = write_front(bytes, page, &next, gone.shared, more + next.suffix_len);
      memcpy(bytes + n, page + gone.suffix, more);
      n += more;
      cut = next.suffix - place->at;
      if (n > cut) return SDB_CORRUPT;
    }
  }
  splice(page, &tp, place->group, place->at, cut, bytes, n);
  if (first && last) {
    drop_group(page, place->group);
  } else if (first) {
    renew_head(page, size, place->group);
  }
  set_entries(page, tp.entries - 1, 0);
  return SDB_OK;
}

/* An entry's neighbours in its group, and its own value. */
struct between {
  uint64_t value, behind_value;
  uint32_t end;                  /* of the entry behind, or of its own where there is none */
  size_t before_len, behind_len; /* 0: there is none */
  uint8_t before[TREE_MAX_KEY], behind[TREE_MAX_KEY];
};

static int find_between(const struct tp *tp, const struct tp_place *place, struct between *b) {
  uint32_t start, end;
  b->before_len = b->behind_len = 0;
  if (!tp_group_range(tp, place->group, &start, &end)) return SDB_CORRUPT;
  for (b->end = start; b->end < place->at;)
    if (tp_step(tp, &b->end, b->before, &b->before_len, &b->value)) return SDB_CORRUPT;
  memcpy(b->behind, b->before, b->before_len);
  b->behind_len = b->before_len;
  if (b->end != place->at || tp_step(tp, &b->end, b->behind, &b->behind_len, &b->value)) return SDB_CORRUPT;
  if (b->end < end) return tp_step(tp, &b->end, b->behind, &b->behind_len, &b->behind_value) ? SDB_CORRUPT : SDB_OK;
  b->behind_len = 0;
  return SDB_OK;
}

int tp_replace_key(uint8_t *page, uint32_t size, const struct tp_place *place, const uint8_t *key, uint32_t len) {
  uint8_t bytes[2 * TP_MAX_ENTRY];
  struct between b;
  struct tp tp;
  if (tp_open(&tp, page, size) || find_between(&tp, place, &b)) return SDB_CORRUPT;
  uint32_t before_len = (uint32_t)b.before_len, behind_len = (uint32_t)b.behind_len, cut = b.end - place->at;
  if (before_len > 0 && key_compare(b.before, before_len, key, len) >= 0) return SDB_CORRUPT;
  if (behind_len > 0 && key_compare(key, len, b.behind, behind_len) >= 0) return SDB_CORRUPT;
  uint32_t n = write_entry(bytes, match(b.before, key, before_len < len ? before_len : len), key, len, b.value);
  if (behind_len > 0)
    n += write_entry(bytes + n, match(key, b.behind, behind_len < len ? behind_len : len), b.behind, behind_len, b.behind_value);
  if (tp.end + n > size + cut) return SDB_FULL;
  splice(page, &tp, place->group, place->at, cut, bytes, n);
  if (before_len == 0) renew_head(page, size, place->group);
  return SDB_OK;
}

void tp_shift(uint8_t *page, uint32_t size) {
  struct tp tp;
  struct tp_iter iter;
  struct tp_place place;
  int rc = tp_open(&tp, page, size);
  tp_iter_start(&iter, &tp, 0);
  if (!rc) rc = tp_iter_next(&iter);
  if (!rc) rc = tp_find(&tp, iter.key, iter.len, &place);
  if (!rc) rc = tp_remove(page, size, &place);
  assert(rc == SDB_OK);
  if (!rc) put32(page + TP_LEFTMOST, (uint32_t)iter.value);
}

/* --- Joining groups ----------------------------------------------------------------------------------------------------------- */

static uint32_t count_group(const struct tp *tp, uint32_t group) {
  struct tp_entry entry;
  uint32_t at, end, count = 0;
  if (!tp_group_range(tp, group, &at, &end)) return TP_CROWD;
  for (; at < end && tp_parse_head(tp->page, at, end, &entry); at = entry.next) count++;
  return count;
}

/* What the restart behind `group` shares with the last key of it: the bytes that joining saves. */
static bool shared_behind(const struct tp *tp, uint32_t group, struct tp_entry *restart, uint32_t *shared) {
  uint8_t key[TREE_MAX_KEY];
  size_t len;
  if (!tp_restart(tp, group + 1, restart) || !last_key(tp, group, key, &len)) return false;
  *shared = match(key, tp->page + restart->suffix, len < restart->suffix_len ? (uint32_t)len : restart->suffix_len);
  return *shared < restart->suffix_len;
}

/* Joins the group behind to this one. */
static bool join_group(uint8_t *page, uint32_t size, uint32_t group) {
  uint8_t bytes[TP_MAX_HEAD + 8];
  struct tp tp;
  struct tp_entry restart;
  uint32_t at, end, shared;
  if (tp_open(&tp, page, size) || !shared_behind(&tp, group, &restart, &shared)) return false;
  if (!tp_group_range(&tp, group + 1, &at, &end)) return false;
  uint32_t n = write_front(bytes, page, &restart, shared, restart.suffix_len - shared), cut = restart.suffix + shared - at;
  if (n > cut) return false;
  splice(page, &tp, group + 1, at, cut, bytes, n);
  drop_group(page, group + 1);
  return true;
}

bool tp_squeeze(uint8_t *page, uint32_t size, uint32_t need) {
  struct tp tp;
  struct tp_entry restart;
  if (tp_open(&tp, page, size) || tp.groups == 0 || tp.entries >= TP_CROWD / 2 * tp.groups) return false;
  uint32_t room = size - tp.end, count = count_group(&tp, 0), shared, next;
  for (uint32_t g = 0; g + 1 < tp.groups && room < need; g++) {
    next = count_group(&tp, g + 1);
    if (count + next <= TP_CROWD) {
      if (!shared_behind(&tp, g, &restart, &shared)) return false;
      room += shared + TP_GROUP_BYTES;
      count += next;
    } else {
      count = next;
    }
  }
  if (room < need) return false;
  for (uint32_t g = 0; size - page_fill(page) < need;) {
    if (tp_open(&tp, page, size) || g + 1 >= tp.groups) return false;
    if (count_group(&tp, g) + count_group(&tp, g + 1) > TP_CROWD || !join_group(page, size, g)) g++;
  }
  return true;
}

void tp_join_all(uint8_t *page, uint32_t size) {
  while (get16(page + TP_GROUPS) > 1 && join_group(page, size, 0)) continue;
}

/* --- Two pages ---------------------------------------------------------------------------------------------------------------- */

/* The best place to cut that was seen so far. Cutting before an element: `left` bytes come before it, `extra` more are needed on
 * the right because its first key must stand whole there. */
struct choice {
  uint64_t score;
  uint32_t total; /* bytes of all entries, the new one included */
  uint32_t goal;  /* how many should come before the cut; */
  uint32_t slack; /* as near as this to it the shortest separator decides */
  uint32_t left_room, right_room;
  bool behind_new; /* only there */
};

static bool better_cut(struct choice *best, uint32_t left, uint32_t extra, uint32_t separator_len) {
  if (left > best->left_room || best->total - left + extra > best->right_room) return false;
  uint32_t distance = left > best->goal ? left - best->goal : best->goal - left;
  uint64_t score = distance <= best->slack ? ((uint64_t)separator_len << 20) + distance : (UINT64_C(1) << 40) + distance;
  if (score >= best->score) return false;
  best->score = score;
  return true;
}

static void set_plan(struct tp_split *plan, uint32_t group, uint32_t at, uint32_t left, const uint8_t *key, uint32_t len) {
  plan->group = group;
  plan->at = at;
  plan->left = left;
  plan->len = len;
  memcpy(plan->key, key, len);
}

/* The new key alone goes right. */
static void plan_end(const struct tp *tp, const struct tp_place *place, const uint8_t *key, uint32_t len, struct tp_split *plan) {
  bool inner = tp->level > 0;
  set_plan(plan, place->group, place->at, tp->entries, key, inner ? len : place->match_prev + 1);
  plan->lifted = false, plan->new_lifted = inner;
}

/* What the new key takes at most. */
static uint32_t cost_of(uint32_t len) { return TP_MAX_HEAD + TP_MAX_VALUE_LEN + len + TP_GROUP_BYTES; }

/* Two sides to be filled as equally as can be, of which one has `before` or `behind` bytes already. */
static struct choice choice_of(const struct tp *tp, const struct tp_place *place, uint32_t len, uint32_t before, uint32_t behind) {
  uint32_t total = tp_used(tp), room = tp_capacity(tp);
  if (place->found) room -= TP_MAX_VALUE_LEN + 3; /* only its value grows, on whichever side */
  else total += cost_of(len);
  uint32_t half = (before + total + behind) / 2;
  return (struct choice){.score = UINT64_MAX,
                         .total = total,
                         .goal = half > before ? half - before : 0,
                         .left_room = room > before ? room - before : 0,
                         .right_room = room > behind ? room - behind : 0};
}

/* SDB_FULL: wherever it is cut, one side has too much. *newest: the entry with the greatest value. */
static int plan_cut(const struct tp *tp, const struct tp_place *place, const uint8_t *key, uint32_t len, struct choice best,
                    struct tp_split *plan, uint32_t *newest) {
  bool inner = tp->level > 0, passed = place->found, behind_new = false;
  uint32_t cost = cost_of(len), left = 0;
  uint64_t greatest = 0;
  struct tp_iter iter;
  int rc;
  tp_iter_start(&iter, tp, 0);
  while (!(rc = tp_iter_next(&iter))) {
    uint32_t before = iter.seen - 1, lcp = behind_new ? match(key, iter.key, len < iter.len ? len : iter.len) : iter.lcp;
    if (!passed && iter.at == place->at) {
      uint32_t n = inner ? len : place->match_prev + 1;
      if (!best.behind_new && before > 0 && better_cut(&best, left, place->match_prev + 9, n)) {
        set_plan(plan, place->group, place->at, before, key, n);
        plan->lifted = false, plan->new_lifted = inner;
      }
      left += cost;
      passed = behind_new = true;
      lcp = match(key, iter.key, len < iter.len ? len : iter.len);
    }
    uint32_t n = inner ? iter.len : lcp + 1;
    if ((behind_new || (before > 0 && !best.behind_new)) && better_cut(&best, left, iter.restart ? 0 : iter.shared + 9, n)) {
      set_plan(plan, iter.group, iter.at, before, iter.key, n);
      plan->lifted = inner, plan->new_lifted = false;
    }
    left += iter.next - iter.at + (iter.restart ? TP_GROUP_BYTES : 0);
    behind_new = false;
    if (iter.value > greatest) {
      greatest = iter.value;
      *newest = iter.at;
    }
  }
  if (rc != SDB_END || iter.seen != tp->entries) return SDB_CORRUPT;
  if (!passed && !best.behind_new && better_cut(&best, left, 0, inner ? len : place->match_prev + 1))
    plan_end(tp, place, key, len, plan);
  return best.score == UINT64_MAX ? SDB_FULL : SDB_OK;
}

/* Does the key go on with what rises here? Then nothing will come between the old keys, so they stay together and leave no gap. At
 * the page's end it is seen from how they came; before it from the key before being the newest, as document numbers rise while none
 * is used again. A wrong guess makes unequal pages, nothing else. */
static bool goes_on(const struct tp *tp, const struct tp_place *place, uint32_t newest) {
  if (place->found || place->prev == 0) return false;
  if (place->at == tp->end && 2 * (uint32_t)get16(tp->page + TP_APPENDED) >= tp->entries) return true;
  return tp->level == 0 && newest == place->prev;
}

int tp_plan_split(const struct tp *tp, const struct tp_place *place, const uint8_t *key, uint32_t len, struct tp_split *plan) {
  struct choice choice = choice_of(tp, place, len, 0, 0);
  uint32_t newest = 0;
  choice.slack = tp_capacity(tp) / 16;
  int rc = plan_cut(tp, place, key, len, choice, plan, &newest);
  if (rc == SDB_CORRUPT || !goes_on(tp, place, newest)) return rc == SDB_FULL ? SDB_CORRUPT : rc;
  if (place->at == tp->end) {
    plan_end(tp, place, key, len, plan);
    return SDB_OK;
  }
  choice.behind_new = true; /* what is behind does not rise: it goes out of the way, if the key finds room then */
  return plan_cut(tp, place, key, len, choice, plan, &newest) == SDB_OK || rc == SDB_OK ? SDB_OK : SDB_CORRUPT;
}

int tp_plan_share(const struct tp *tp, const struct tp_place *place, const uint8_t *key, uint32_t len, uint32_t before,
                  uint32_t behind, struct tp_split *plan) {
  struct choice choice = choice_of(tp, place, len, before, behind);
  uint32_t newest = 0;
  choice.slack = tp_capacity(tp) / 32;
  int rc = plan_cut(tp, place, key, len, choice, plan, &newest);
  return rc == SDB_OK && goes_on(tp, place, newest) ? SDB_FULL : rc;
}

/* Puts the entry that `iter` stands at, made a restart, and all behind it before what the right page has. */
static void fill_right(uint8_t *right, uint32_t entries, const struct tp_iter *iter) {
  const struct tp *tp = iter->tp;
  struct tp r;
  uint8_t first[TP_MAX_ENTRY];
  if (tp_open(&r, right, tp->size)) return;
  uint32_t came = tp->groups - iter->group, groups = came + r.groups, base = TP_BODY + TP_GROUP_BYTES * groups;
  uint32_t n = write_entry(first, 0, iter->key, iter->len, iter->value), length = n + tp->end - iter->next;
  uint8_t *starts = right + TP_BODY + 4 * groups;
  assert(base + length + r.end - r.base <= tp->size);
  memmove(right + base + length, right + r.base, r.end - r.base);
  memmove(starts + 2 * came, tp_starts(&r), 2 * r.groups);
  for (uint32_t g = came; g < groups; g++) put16(starts + 2 * g, (uint16_t)(get16(starts + 2 * g) + length));
  put16(starts, 0);
  for (uint32_t g = 1; g < came; g++) {
    uint32_t start = tp->base + get16(tp_starts(tp) + 2 * (iter->group + g));
    put16(starts + 2 * g, (uint16_t)(start - iter->next + n));
  }
  memcpy(right + base, first, n);
  memcpy(right + base + n, tp->page + iter->next, tp->end - iter->next);
  page_set_fill(right, base + length + r.end - r.base);
  put16(right + TP_GROUPS, (uint16_t)groups);
  set_entries(right, entries + r.entries, get16(right + TP_APPENDED));
  choose_columns(right, tp->size);
}

/* Groups of which something stands before `at`, which is in `group` or at its end. */
static uint32_t groups_before(const struct tp *tp, uint32_t group, uint32_t at) {
  uint32_t start, end;
  return group + (group < tp->groups && tp_group_range(tp, group, &start, &end) && at > start);
}

/* Keeps what stands before `at`. */
static void truncate_page(uint8_t *page, const struct tp *tp, uint32_t group, uint32_t at, uint32_t entries) {
  uint32_t kept = groups_before(tp, group, at), length = at - tp->base;
  uint32_t base = TP_BODY + TP_GROUP_BYTES * kept;
  memmove(page + TP_BODY + 4 * kept, tp_starts(tp), 2 * kept);
  memmove(page + base, page + tp->base, length);
  put16(page + TP_GROUPS, (uint16_t)kept);
  page_set_fill(page, base + length);
  set_entries(page, entries, 0);
  choose_columns(page, tp->size);
}

/* To the first entry that goes right. SDB_END: none does. */
static int find_cut(struct tp_iter *iter, const struct tp *tp, const struct tp_split *plan) {
  int rc;
  tp_iter_start(iter, tp, plan->group);
  while (!(rc = tp_iter_next(iter)) && iter->at != plan->at) continue;
  return rc;
}

void tp_cut(uint8_t *left, uint8_t *right, uint32_t size, const struct tp_split *plan, uint32_t leftmost) {
  struct tp tp;
  struct tp_iter iter;
  int rc = tp_open(&tp, left, size);
  if (!rc) rc = find_cut(&iter, &tp, plan);
  if (!rc && plan->lifted) {
    leftmost = (uint32_t)iter.value;
    rc = tp_iter_next(&iter);
  }
  tp_format(right, tp.level, leftmost);
  if (!rc) fill_right(right, tp.entries - plan->left - plan->lifted, &iter);
  truncate_page(left, &tp, plan->group, plan->at, plan->left);
}

void tp_give_right(uint8_t *left, uint8_t *right, uint32_t size, const struct tp_split *plan) {
  struct tp tp;
  struct tp_iter iter;
  if (tp_open(&tp, left, size)) return;
  if (!find_cut(&iter, &tp, plan)) fill_right(right, tp.entries - plan->left, &iter);
  truncate_page(left, &tp, plan->group, plan->at, plan->left);
}

/* Appends of `r`, whose keys are above, the first `came` groups, which take the first `more` bytes. */
static void append(uint8_t *left, const struct tp *r, uint32_t came, uint32_t more, uint32_t entries) {
  struct tp l;
  if (tp_open(&l, left, r->size) || came == 0) return;
  uint32_t groups = l.groups + came, base = TP_BODY + TP_GROUP_BYTES * groups, length = l.end - l.base;
  uint8_t *starts = left + TP_BODY + 4 * groups;
  assert(base + length + more <= r->size);
  memmove(left + base, left + l.base, length);
  memmove(starts, tp_starts(&l), 2 * l.groups);
  for (uint32_t g = 0; g < came; g++) put16(starts + 2 * (l.groups + g), (uint16_t)(length + get16(tp_starts(r) + 2 * g)));
  memcpy(left + base + length, r->page + r->base, more);
  put16(left + TP_GROUPS, (uint16_t)groups);
  page_set_fill(left, base + length + more);
  set_entries(left, l.entries + entries, 0);
  choose_columns(left, r->size);
}

void tp_append(uint8_t *left, const uint8_t *right, uint32_t size) {
  struct tp r;
  if (tp_open(&r, right, size)) return;
  append(left, &r, r.groups, r.end - r.base, r.entries);
}

/* Keeps the entry that `iter` stands at, made a restart, and all behind it. */
static void drop_before(uint8_t *page, const struct tp_iter *iter, uint32_t entries) {
  uint8_t first[TP_MAX_ENTRY];
  const struct tp *tp = iter->tp;
  uint32_t groups = tp->groups - iter->group, base = TP_BODY + TP_GROUP_BYTES * groups, rest = tp->end - iter->next;
  uint32_t n = write_entry(first, 0, iter->key, iter->len, iter->value);
  uint8_t *starts = page + TP_BODY + 4 * groups;
  assert(base + n + rest <= tp->size);
  for (uint32_t g = 1; g < groups; g++) { /* starts go down, so each is read before it is written over */
    uint32_t start = tp->base + get16(tp_starts(tp) + 2 * (iter->group + g));
    put16(starts + 2 * g, (uint16_t)(start - iter->next + n));
  }
  put16(starts, 0);
  memmove(page + base + n, page + iter->next, rest);
  memcpy(page + base, first, n);
  page_set_fill(page, base + n + rest);
  put16(page + TP_GROUPS, (uint16_t)groups);
  set_entries(page, entries, 0);
  choose_columns(page, tp->size);
}

void tp_give_left(uint8_t *left, uint8_t *right, uint32_t size, const struct tp_split *plan) {
  struct tp tp;
  struct tp_iter iter;
  if (tp_open(&tp, right, size)) return;
  append(left, &tp, groups_before(&tp, plan->group, plan->at), plan->at - tp.base, plan->left);
  if (find_cut(&iter, &tp, plan)) tp_format(right, tp.level, tp_leftmost(&tp));
  else drop_before(right, &iter, tp.entries - plan->left);
}
