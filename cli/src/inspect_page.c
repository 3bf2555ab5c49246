/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* inspect_page.c - what one page says: unit header, then records, table entries, tree entries, or the head of a large content.
 * docs/file-format.md, sections 5 to 9.
 */
#include <inttypes.h>
#include <sdb/sdb.h>
#include <string.h>

#include "inspect.h"

enum { UNIT = 64, RECORD = 48 };

const char *kind_name(uint8_t kind) {
  static const char *const names[] = {"free", "tree_inner", "tree_leaf", "table", "table_index", "heap", "extent"};
  return kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

/* --- Records ------------------------------------------------------------------------------------------------------------------ */

/* What is left of a record; a part that does not fit ends it. */
typedef struct rest {
  const uint8_t *at;
  size_t left;
  bool bad;
} rest;

static const uint8_t *take(rest *r, size_t len) {
  if (r->bad || len > r->left) {
    r->bad = true;
    return NULL;
  }
  const uint8_t *at = r->at;
  r->at += len;
  r->left -= len;
  return at;
}

/* A text behind its length of one or two bytes. */
static const uint8_t *take_text(rest *r, unsigned width, size_t *len) {
  const uint8_t *n = take(r, width);
  *len = n ? (width == 1 ? *n : le16(n)) : 0;
  return n ? take(r, *len) : NULL;
}

/* The sections in the order of their flags; `in` NULL: goes over them only. */
static void sections(const inspect *in, rest *r, uint16_t flags) {
  const uint8_t *at;
  size_t len;
  if (flags & 4 && (at = take(r, 8)) && in) line_number(in, "expires_ms", le64(at));
  if (flags & 8 && (at = take(r, 16)) && in) line_hex(in, "token", at, 16);
  if (flags & 16 && (at = take_text(r, 1, &len)) && in) line_bytes(in, "content_type", at, len);
  if (flags & 32 && (at = take_text(r, 2, &len)) && in) line_number(in, "metadata_bytes", len);
  if (flags & 64) {
    const uint8_t *count = take(r, 1);
    for (unsigned i = 0; count && i < *count; i++)
      if ((at = take_text(r, 2, &len)) && in) line_bytes(in, "name", at, len);
  }
  if (flags & 128 && (at = take(r, 6)) && in) line_number(in, "older_place", le48(at));
}

static void show_runs(const inspect *in, const uint8_t *stored, uint32_t len) {
  if (len < 8) return;
  line_number(in, "head_bytes", le32(stored));
  line_number(in, "runs", le32(stored + 4));
  for (uint32_t i = 0; i < le32(stored + 4) && 16 + 8ull * i <= len; i++) {
    line_number(in, "first_page", le32(stored + 8 + 8 * (size_t)i));
    line_number(in, "page_count", le32(stored + 12 + 8 * (size_t)i));
  }
}

uint32_t inspect_record(const inspect *in, const uint8_t *record, size_t limit, uint32_t offset) {
  if (limit < RECORD || record[43] != 0xD5) return 0;
  uint16_t flags = le16(record + 38), path_len = le16(record + 40);
  uint32_t stored = le32(record + 44);
  rest r = {record + RECORD, limit - RECORD, false};
  const uint8_t *path = take(&r, path_len);
  sections(NULL, &r, flags);
  size_t head = (size_t)(r.at - record);
  const uint8_t *content = take(&r, stored);
  if (r.bad || path_len < 1 || path_len > 1024) return 0;
  if (le32(record) != sdb_crc32c(0, record + 4, (flags & 1 ? head + stored : head) - 4)) return 0;
  line_begin(in, "record");
  line_number(in, "offset", offset);
  line_bytes(in, "path", path, path_len);
  line_number(in, "version", le32(record + 8));
  line_number(in, "size", le32(record + 12));
  line_number(in, "stored", stored);
  line_number(in, "digest", le32(record + 4));
  line_hex(in, "id", record + 16, 16);
  line_number(in, "time_ms", le48(record + 32));
  line_number(in, "flags", flags);
  line_number(in, "kept", record[42]);
  rest again = {record + RECORD + path_len, limit - RECORD - path_len, false};
  sections(in, &again, flags);
  if (flags & 1) show_runs(in, content, stored);
  else if (!(flags & 2)) line_text(in, "content", sdb_crc32c(0, content, stored) == le32(record + 4) ? "good" : "BAD");
  line_end(in);
  return (uint32_t)((head + stored + 7) / 8 * 8);
}

static void show_heap(const inspect *in, const uint8_t *page, uint32_t used) {
  for (uint32_t at = UNIT; at + RECORD <= used;) {
    uint32_t total = inspect_record(in, page + at, used - at, at);
    if (!total) {
      uint32_t from = at;
      while (at + RECORD <= used && (page[at + 43] != 0xD5 || at == from)) at += 8;
      line_begin(in, "damaged");
      line_number(in, "offset", from);
      line_number(in, "bytes", at + RECORD <= used ? at - from : used - from);
      line_end(in);
      continue;
    }
    at += total;
  }
}

/* --- Table -------------------------------------------------------------------------------------------------------------------- */

static void show_place(const inspect *in, const char *page, const char *offset, uint64_t place) {
  line_number(in, page, place & UINT32_MAX);
  line_number(in, offset, (place >> 32 & 0x1FFF) * 8);
}

static void show_table(const inspect *in, const uint8_t *page) {
  for (uint32_t i = 0; i < (in->page_size - UNIT) / 16; i++) {
    const uint8_t *at = page + UNIT + 16 * (size_t)i;
    if (le64(at) == 0 && le64(at + 8) == 0) continue;
    line_begin(in, "entry");
    line_number(in, "index", i);
    line_number(in, "version", le32(at + 12));
    show_place(in, "current_page", "current_offset", le48(at));
    if (le48(at + 6)) show_place(in, "previous_page", "previous_offset", le48(at + 6));
    if (at[5] & 0x80) line_text(in, "expires", "yes");
    line_end(in);
  }
}

static void show_index(const inspect *in, const uint8_t *page) {
  for (uint32_t i = 0; i < (in->page_size - UNIT) / 4; i++) {
    if (!le32(page + UNIT + 4 * (size_t)i)) continue;
    line_begin(in, "entry");
    line_number(in, "index", i);
    line_number(in, "logical", le32(page + UNIT + 4 * (size_t)i));
    line_end(in);
  }
}

/* --- Tree --------------------------------------------------------------------------------------------------------------------- */

/* The value at the front of `r`: a byte with a count and five bits, then as many bytes. */
static uint64_t take_value(rest *r) {
  const uint8_t *first = take(r, 1), *more;
  unsigned count = first ? *first >> 5 : 0;
  uint64_t value = 0;
  if (!first || count > 5 || !(more = take(r, count))) {
    r->bad = true;
    return 0;
  }
  for (unsigned i = 0; i < count; i++) value |= (uint64_t)more[i] << (8 * i);
  return value | (uint64_t)(*first & 31) << (8 * count);
}

static bool show_entry(const inspect *in, rest *r, uint8_t key[1024], size_t *key_len, bool leaf) {
  const uint8_t *head = take(r, 1);
  size_t shared, len;
  if (!head) return false;
  if (*head == 255) {
    const uint8_t *wide = take(r, 4);
    shared = wide ? le16(wide) : 0, len = wide ? le16(wide + 2) : 0;
  } else {
    const uint8_t *n = take(r, 1);
    shared = *head, len = n ? *n : 0;
  }
  size_t before = r->left;
  uint64_t value = take_value(r);
  size_t suffix = len - (before - r->left);
  if (r->bad || before - r->left > len || shared > *key_len || shared + suffix > 1024) return false;
  const uint8_t *rest_of_key = take(r, suffix);
  if (!rest_of_key) return false;
  memcpy(key + shared, rest_of_key, suffix);
  *key_len = shared + suffix;
  line_begin(in, "key");
  line_bytes(in, "key", key, *key_len);
  line_number(in, leaf ? "document" : "logical", value);
  line_end(in);
  return true;
}

static void show_tree(const inspect *in, const uint8_t *page, uint32_t used) {
  uint8_t key[1024];
  size_t key_len = 0;
  uint32_t groups = le16(page + 66), entries = le16(page + 68);
  uint64_t begin = 84 + 6ull * groups;
  line_begin(in, "tree");
  line_number(in, "level", page[64]);
  line_number(in, "groups", groups);
  line_number(in, "entries", entries);
  if (page[4] == 1) line_number(in, "leftmost", le32(page + 72));
  line_end(in);
  if (begin > used) return;
  rest r = {page + begin, used - begin, false};
  for (uint32_t i = 0; i < entries; i++) {
    if (show_entry(in, &r, key, &key_len, page[4] == 2)) continue;
    line_begin(in, "damaged");
    line_number(in, "entry", i);
    line_end(in);
    return;
  }
}

/* --- Extent ------------------------------------------------------------------------------------------------------------------- */

/* Runs and chunks stand in clear, also where the rest is encrypted. `len`: bytes of the head that are there. */
static void show_extent(const inspect *in, const uint8_t *head, uint32_t len) {
  uint32_t chunks = le32(head + 64), runs = le32(head + 68), sealed = le32(head + 72);
  uint64_t at = 80 + (uint64_t)sealed;
  line_begin(in, "content");
  if (!(head[6] & 1)) {
    line_hex(in, "id", head + 80, 16);
    line_number(in, "version", le32(head + 96));
    line_number(in, "size", le32(head + 100));
    line_number(in, "digest", le32(head + 104));
    line_number(in, "time_ms", le48(head + 112));
    if (le16(head + 108) <= 1024 && at <= len) line_bytes(in, "path", head + 136, le16(head + 108));
  }
  line_number(in, "chunks", chunks);
  line_number(in, "runs", runs);
  line_end(in);
  for (uint32_t i = 0; i < runs && at + 8 <= len; i++, at += 8) {
    line_begin(in, "run");
    line_number(in, "first_page", le32(head + at));
    line_number(in, "pages", le32(head + at + 4));
    line_end(in);
  }
  for (uint32_t i = 0; i < chunks && at + 8 <= len; i++, at += 8) {
    line_begin(in, "chunk");
    line_number(in, "index", i);
    line_number(in, "crc", le32(head + at));
    line_number(in, "stored", le32(head + at + 4) & 0x7FFFFFFF);
    line_text(in, "snappy", head[at + 7] & 0x80 ? "yes" : "no");
    line_end(in);
  }
}

uint32_t inspect_wants(const inspect *in, const uint8_t *page) {
  uint32_t used = le32(page + 12), runs = 80 + le32(page + 72);
  bool longer = page[4] == 6 && used > in->page_size && used <= INSPECT_MOST && runs <= in->page_size - 8;
  return longer && (uint64_t)le32(page + runs + 4) * in->page_size >= used ? used : in->page_size;
}

/* --- Any page ----------------------------------------------------------------------------------------------------------------- */

int inspect_page(const inspect *in, const uint8_t *page, uint32_t have, uint64_t physical, uint32_t offset) {
  uint32_t used = le32(page + 12), size = in->page_size;
  bool large = page[4] == 6, extent = large && le32(page + 8) == physical; /* else: a piece of a content that looks like a head */
  bool encrypted = page[6] & 1, whole = used >= (extent ? 136u : UNIT) && used <= have;
  bool good =
      large == extent && page[5] == (large ? 2 : 1) && whole && le32(page) == sdb_crc32c(0, page + 4, (large ? used : size) - 4);
  if (offset) {
    if (encrypted) return complain("the page is encrypted; only its header can be shown");
    if (offset < UNIT || offset >= size || !inspect_record(in, page + offset, size - offset, offset))
      return complain("no record that verifies stands at offset %u of physical page %" PRIu64, offset, physical);
    return EXIT_DONE;
  }
  line_begin(in, "unit");
  line_number(in, "physical", physical);
  line_text(in, "kind", kind_name(page[4]));
  line_number(in, "number", le32(page + 8));
  line_number(in, "used", used);
  line_number(in, "checkpoint", le64(page + 16));
  line_text(in, "encrypted", encrypted ? "yes" : "no");
  if (extent && used > have) line_text(in, "checksum", "not judged: the head goes on in another run");
  else line_good(in, good);
  line_end(in);
  uint32_t end = whole ? used : have;
  if (encrypted && !extent) return good ? EXIT_DONE : EXIT_FAILED;
  if (page[4] == 1 || page[4] == 2) show_tree(in, page, end);
  else if (page[4] == 3) show_table(in, page);
  else if (page[4] == 4) show_index(in, page);
  else if (page[4] == 5) show_heap(in, page, end);
  else if (extent && end >= 136) show_extent(in, page, end);
  return good || (extent && used > have) ? EXIT_DONE : EXIT_FAILED;
}
