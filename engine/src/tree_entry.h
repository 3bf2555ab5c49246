/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* tree_entry.h - one entry of a tree page, byte by byte, and comparing keys. For tree_page.c and tree_edit.c only.
 *
 *     | shared u8 | rest u8 | value | suffix |            rest: bytes of value and suffix
 *     | 255 | shared u16 | rest u16 | value | suffix |    where shared or rest does not fit
 *     value: | count << 5 | top 5 bits | count bytes |    count 0 to 5
 */
#ifndef SDB_TREE_ENTRY_H
#define SDB_TREE_ENTRY_H

#include "tree_page.h"

enum { TP_LEVEL = 64, TP_GROUPS = 66, TP_ENTRIES = 68, TP_APPENDED = 70, TP_LEFTMOST = 72, TP_COLUMNS = 76, COLUMNS = 4 };

#define TP_LONG 255u   /* first byte of the long form */
#define TP_MAX_HEAD 5u /* bytes before the value */
#define TP_MAX_VALUE_LEN 6u
#define TP_MAX_ENTRY (TP_MAX_HEAD + TP_MAX_VALUE_LEN + TREE_MAX_KEY)

struct tp_entry {
  uint32_t shared;
  uint32_t value; /* where it begins */
  uint32_t suffix;
  uint32_t suffix_len;
  uint32_t next;
};

/* As far as needed to skip the entry. */
static inline bool tp_parse_head(const uint8_t *page, uint32_t at, uint32_t end, struct tp_entry *entry) {
  uint32_t rest;
  if (end - at < 4) return false;
  entry->shared = page[at];
  rest = page[at + 1];
  entry->value = at + 2;
  if (entry->shared == TP_LONG) {
    if (end - at < TP_MAX_HEAD + 2) return false;
    entry->shared = get16(page + at + 1);
    rest = get16(page + at + 3);
    entry->value = at + TP_MAX_HEAD;
  }
  entry->next = entry->value + rest;
  return rest >= 2 && rest <= end - entry->value;
}

static inline bool tp_parse_body(const uint8_t *page, struct tp_entry *entry) {
  entry->suffix = entry->value + 1 + (page[entry->value] >> 5);
  entry->suffix_len = entry->next - entry->suffix;
  return entry->suffix < entry->next && entry->suffix_len <= TREE_MAX_KEY;
}

static inline bool tp_parse(const uint8_t *page, uint32_t at, uint32_t end, struct tp_entry *entry) {
  return tp_parse_head(page, at, end, entry) && tp_parse_body(page, entry);
}

static inline uint64_t tp_read_value(const uint8_t *page, const struct tp_entry *entry) {
  const uint8_t *at = page + entry->value;
  uint32_t count = at[0] >> 5;
  uint64_t value = at[0] & 31;
  for (uint32_t i = count; i > 0; i--) value = value << 8 | at[i];
  return value;
}

static inline uint32_t tp_value_len(uint64_t value) {
  uint32_t count = 0;
  while (value >> (5 + 8 * count)) count++;
  return count + 1;
}

static inline uint32_t tp_write_value(uint8_t *at, uint64_t value) {
  uint32_t len = tp_value_len(value);
  for (uint32_t i = 1; i < len; i++, value >>= 8) at[i] = (uint8_t)value;
  at[0] = (uint8_t)((len - 1) << 5 | value);
  return len;
}

static inline uint32_t tp_write_head(uint8_t *at, uint32_t shared, uint32_t rest) {
  if (shared < TP_LONG && rest <= 255) {
    at[0] = (uint8_t)shared, at[1] = (uint8_t)rest;
    return 2;
  }
  at[0] = TP_LONG;
  put16(at + 1, (uint16_t)shared);
  put16(at + 3, (uint16_t)rest);
  return TP_MAX_HEAD;
}

static inline uint32_t first_difference(uint64_t difference) { return (uint32_t)__builtin_ctzll(difference) / 8; }

/* How many bytes from the front are the same. The last bytes are compared again with those before them rather than one by one. */
static inline uint32_t match(const uint8_t *a, const uint8_t *b, uint32_t len) {
  uint64_t difference;
  uint32_t i = 0;
  if (len >= 8) {
    for (; i <= len - 8; i += 8)
      if ((difference = get64(a + i) ^ get64(b + i))) return i + first_difference(difference);
    i = len - 8;
    difference = get64(a + i) ^ get64(b + i);
    return difference ? i + first_difference(difference) : len;
  }
  if (len >= 4) {
    if ((difference = get32(a) ^ get32(b))) return first_difference(difference);
    i = len - 4;
    difference = get32(a + i) ^ get32(b + i);
    return difference ? i + first_difference(difference) : len;
  }
  while (i < len && a[i] == b[i]) i++;
  return i;
}

/* The key's bytes at the columns of a page as a number that orders as they do; zeros where the key has none. */
static inline uint32_t key_head(const uint8_t *page, const uint8_t *key, uint32_t len) {
  uint32_t head = 0;
  for (uint32_t i = 0; i < COLUMNS; i++) {
    uint32_t column = get16(page + TP_COLUMNS + 2 * i);
    head = head << 8 | (column < len ? key[column] : 0u);
  }
  return head;
}

static inline const uint8_t *tp_starts(const struct tp *tp) { return tp->page + TP_BODY + 4 * tp->groups; }

/* Where a group stands; false when that cannot be. */
static inline bool tp_group_range(const struct tp *tp, uint32_t group, uint32_t *start, uint32_t *end) {
  const uint8_t *starts = tp_starts(tp) + 2 * group;
  *start = tp->base + get16(starts);
  *end = group + 1 < tp->groups ? tp->base + get16(starts + 2) : tp->end;
  return *start < *end && *end <= tp->end;
}

static inline bool tp_restart(const struct tp *tp, uint32_t group, struct tp_entry *entry) {
  uint32_t start, end;
  return tp_group_range(tp, group, &start, &end) && tp_parse(tp->page, start, end, entry) && entry->shared == 0;
}

#endif
