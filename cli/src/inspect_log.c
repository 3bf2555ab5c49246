/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* inspect_log.c - the segments of a log: headers, records, operations. docs/file-format.md, section 10. */
#include <inttypes.h>
#include <sdb/sdb.h>
#include <stdlib.h>
#include <string.h>

#include "inspect.h"

enum { SECTOR = 4096, HEAD = 40, OP = 8 };

static bool header_good(const uint8_t *h) {
  return memcmp(h, "SDBLOG\x01\n", 8) == 0 && le32(h + 8) == sdb_crc32c(0, h + 12, SECTOR - 12);
}

static void show_header(const inspect *in, const uint8_t *h, const char *which) {
  line_begin(in, "segment");
  line_text(in, "copy", which);
  line_good(in, header_good(h));
  line_hex(in, "database_id", h + 16, 16);
  line_number(in, "epoch", le64(h + 32));
  line_number(in, "number", le64(h + 40));
  line_number(in, "base", le64(h + 48));
  line_number(in, "size", le32(h + 64));
  line_end(in);
}

static const char *op_name(uint8_t code) {
  static const char *const names[] = {"none", "put", "delete", "bind", "unbind"};
  return code < sizeof names / sizeof *names ? names[code] : "unknown";
}

static void show_ops(const inspect *in, const uint8_t *r, uint32_t len) {
  uint32_t at = HEAD;
  for (unsigned i = 0; i < le16(r + 30) && len - at >= OP; i++) {
    uint8_t code = r[at];
    uint32_t body = le32(r + at + 4);
    if (body > len - at - OP) return;
    line_begin(in, "operation");
    line_text(in, "op", op_name(code));
    line_number(in, "flags", r[at + 1]);
    line_number(in, "bytes", body);
    if (code != 1 && body >= 22) {
      line_hex(in, "id", r + at + OP, 16);
      line_number(in, "version", le32(r + at + OP + 16));
      line_number(in, "cause", r[at + OP + 20]);
      if (body >= 24 && le16(r + at + OP + 22) <= body - 24) line_bytes(in, "name", r + at + OP + 24, le16(r + at + OP + 22));
    }
    line_end(in);
    if (code == 1) (void)inspect_record(in, r + at + OP, body, 0);
    uint64_t next = at + OP + ((uint64_t)body + 7) / 8 * 8;
    if (next > len) return;
    at = (uint32_t)next;
  }
}

static uint32_t seed_of(uint64_t salt, uint64_t position) {
  uint8_t raw[16];
  for (unsigned i = 0; i < 8; i++) raw[i] = (uint8_t)(salt >> (8 * i)), raw[8 + i] = (uint8_t)(position >> (8 * i));
  return sdb_crc32c(0, raw, sizeof raw);
}

/* Records stand behind one another or at the beginning of a sector. */
static void show_records(const inspect *in, const uint8_t *data, uint32_t size, const uint8_t *header) {
  uint64_t base = le64(header + 48), salt = le64(header + 56);
  for (uint64_t at = SECTOR; at + HEAD <= size - SECTOR;) {
    const uint8_t *r = data + at;
    uint32_t len = le32(r + 4);
    if (len < HEAD || len > size - SECTOR - at || le32(r) != sdb_crc32c(seed_of(salt, base + at), r + 4, len - 4)) {
      at = (at / SECTOR + 1) * SECTOR;
      continue;
    }
    line_begin(in, r[28] == 1 ? "commit" : "mark");
    line_number(in, "position", base + at);
    line_number(in, "sequence", le64(r + 8));
    line_number(in, "synced", le64(r + 16));
    line_number(in, "operations", le16(r + 30));
    line_number(in, "time_ms", le64(r + 32));
    line_text(in, "encrypted", r[29] & 1 ? "yes" : "no");
    line_end(in);
    if (!(r[29] & 1)) show_ops(in, r, len);
    at += ((uint64_t)len + 7) / 8 * 8;
  }
}

static int show_segment(const inspect *in, FILE *file, const char *name) {
  enum { LARGEST = 1 << 30 };
  if (fseeko(file, 0, SEEK_END) != 0) return complain("cannot read '%s'", name);
  off_t size = ftello(file);
  if (size < 4 * SECTOR || size > LARGEST || size % SECTOR != 0) return complain("'%s' is no log segment: its size is wrong", name);
  uint8_t *data = malloc((size_t)size);
  if (!data) return complain("out of memory");
  int code = EXIT_DONE;
  if (inspect_read(file, 0, data, (size_t)size)) {
    const uint8_t *first = data, *last = data + size - SECTOR, *counts = header_good(first) ? first : last;
    if (header_good(first) && header_good(last) && le64(last + 40) > le64(first + 40)) counts = last;
    show_header(in, first, "first");
    show_header(in, last, "last");
    if (header_good(counts)) show_records(in, data, (uint32_t)size, counts);
  } else {
    code = complain("cannot read '%s'", name);
  }
  free(data);
  return code;
}

int inspect_log(const inspect *in, const char *name) {
  int code = EXIT_DONE;
  unsigned found = 0;
  for (unsigned index = 0; index < 10000 && code == EXIT_DONE; index++) {
    char segment[4096];
    (void)snprintf(segment, sizeof segment, "%s.log.%04u", name, index);
    FILE *file = fopen(segment, "rb");
    if (!file && index >= found + 8) break;
    if (!file) continue;
    found = index + 1;
    line_begin(in, "file");
    line_text(in, "name", segment);
    line_end(in);
    code = show_segment(in, file, segment);
    (void)fclose(file);
  }
  return found ? code : complain("there is no log beside '%s'", name);
}
