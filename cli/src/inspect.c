/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* inspect.c - what stands in a database file, byte by byte as docs/file-format.md has it. Decodes by itself, without the engine, so
 * that the two can be held against each other; changes nothing, takes no lock, and believes no byte it did not check.
 *
 * A line, or with --json an object, for each thing: a slot, a directory, a chunk, a page, a record, an entry.
 */
#include "inspect.h"

#include <inttypes.h>
#include <sdb/sdb.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "output.h"

/* --- Lines -------------------------------------------------------------------------------------------------------------------- */

void line_begin(const inspect *in, const char *what) {
  if (in->json) {
    json_begin();
    json_text("what", what);
  } else {
    printf("%s", what);
  }
}

void line_number(const inspect *in, const char *name, uint64_t value) {
  if (in->json) json_number(name, value);
  else printf(" %s=%" PRIu64, name, value);
}

void line_text(const inspect *in, const char *name, const char *value) {
  if (in->json) json_text(name, value);
  else printf(" %s=%s", name, value);
}

void line_bytes(const inspect *in, const char *name, const uint8_t *data, size_t len) {
  char text[4 * 1024 + 1];
  (void)text_printable((bytes){data, len}, text, sizeof text);
  line_text(in, name, text);
}

void line_hex(const inspect *in, const char *name, const uint8_t *data, size_t len) {
  char text[80];
  for (size_t i = 0; i < len && 2 * i + 2 < sizeof text; i++) (void)snprintf(text + 2 * i, 3, "%02x", data[i]);
  line_text(in, name, text);
}

void line_good(const inspect *in, bool good) { line_text(in, "checksum", good ? "good" : "BAD"); }

void line_end(const inspect *in) {
  if (in->json) json_end();
  else putchar('\n');
}

/* --- Reading ------------------------------------------------------------------------------------------------------------------ */

bool inspect_read(FILE *file, uint64_t offset, void *to, size_t len) {
  return offset <= INT64_MAX && fseeko(file, (off_t)offset, SEEK_SET) == 0 && fread(to, 1, len, file) == len;
}

static uint32_t slot_number(const inspect *in, unsigned slot, unsigned offset) { return le32(in->slot[slot] + offset); }

/* A slot that counts: magic, checksum, format, page size. */
static bool slot_good(const uint8_t *s) {
  uint32_t size = le32(s + 28);
  return memcmp(s, "\x89SDB\r\n\x1a\n", 8) == 0 && le32(s + 8) == sdb_crc32c(0, s + 12, 4084) && le16(s + 12) == 1 &&
         size >= 4096 && size <= 65536 && (size & (size - 1)) == 0;
}

static void take_geometry(inspect *in, uint32_t page_size) {
  in->page_size = page_size;
  in->group_pages = (1u << 29) / page_size;
  in->map_chunks = 8 * in->group_pages / page_size;
  in->bitmaps = in->group_pages / (8 * page_size) ? in->group_pages / (8 * page_size) : 1;
}

static void load_slots(inspect *in) {
  for (unsigned i = 0; i < 2; i++) {
    in->read[i] = inspect_read(in->file, i * 65536ull, in->slot[i], sizeof in->slot[i]);
    in->good[i] = in->read[i] && slot_good(in->slot[i]);
  }
  in->counts = !in->good[0] || (in->good[1] && le64(in->slot[1] + 56) > le64(in->slot[0] + 56));
  if (in->good[in->counts]) take_geometry(in, slot_number(in, in->counts, 28));
}

/* --- Header ------------------------------------------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  uint16_t offset;
  uint8_t size;
} slot_fields[] = {{"format", 12, 2},       {"minor", 14, 2},        {"compatible", 16, 4},     {"read_only_compatible", 20, 4},
                   {"incompatible", 24, 4}, {"page_size", 28, 4},    {"epoch", 48, 8},          {"checkpoint", 56, 8},
                   {"log_position", 64, 8}, {"sequence", 72, 8},     {"log_chain", 80, 4},      {"clean", 84, 4},
                   {"pages", 88, 8},        {"free_pages", 96, 8},   {"logical_limit", 104, 8}, {"document_limit", 112, 8},
                   {"documents", 120, 8},   {"path_tree", 128, 4},   {"suffix_tree", 132, 4},   {"expiry_tree", 136, 4},
                   {"table", 140, 4},       {"heap_page", 144, 4},   {"heap_fill", 148, 4},     {"content_bytes", 152, 8},
                   {"names", 160, 8},       {"created_ms", 168, 8},  {"written_ms", 176, 8},    {"suffix_built", 184, 8},
                   {"heap_pages", 192, 8},  {"heap_live", 200, 8},   {"suffix_names", 208, 8},  {"fresh_tree", 232, 4},
                   {"sweep", 236, 4},       {"fresh_built", 240, 8}, {"fresh_names", 248, 8},   {"expiry_built", 352, 8},
                   {"recount", 360, 4}};

static void show_slots(inspect *in) {
  for (unsigned i = 0; i < 2; i++) {
    const uint8_t *s = in->slot[i];
    line_begin(in, "slot");
    line_text(in, "slot", i ? "B" : "A");
    if (!in->read[i]) {
      line_text(in, "state", "unreadable");
    } else {
      line_text(in, "state", !in->good[i] ? "BAD" : i == in->counts ? "counts" : "good");
      line_hex(in, "database_id", s + 32, 16);
      for (size_t k = 0; k < sizeof slot_fields / sizeof *slot_fields; k++) {
        const uint8_t *at = s + slot_fields[k].offset;
        unsigned size = slot_fields[k].size;
        line_number(in, slot_fields[k].name, size == 2 ? le16(at) : size == 4 ? le32(at) : le64(at));
      }
    }
    line_end(in);
  }
}

/* --- Directories, map, bitmap ------------------------------------------------------------------------------------------------- */

typedef struct copy {
  uint32_t crc, count, which;
  bool written;
} copy;

static copy entry_at(const uint8_t *at) {
  uint32_t info = le32(at + 4);
  return (copy){le32(at), info & 0x3FFFFFFF, info >> 30 & 1, info >> 31};
}

/* Reads the copy that counts of the thing whose first copy is at `offset`. */
static bool load_copy(inspect *in, copy c, uint64_t offset, uint8_t *to) {
  return c.written && inspect_read(in->file, offset + c.which * (uint64_t)in->page_size, to, in->page_size) &&
         sdb_crc32c(0, to, in->page_size) == c.crc;
}

static uint64_t group_start(uint32_t group) { return group ? (uint64_t)group << 29 : 393216; }

/* The group's directory into `to`. */
static bool load_group(inspect *in, uint32_t group, uint8_t *to) {
  uint32_t per_page = in->page_size / 8, root = group / per_page;
  if (root >= 131072 / in->page_size) return false;
  copy c = entry_at(in->slot[in->counts] + 512 + 8 * (size_t)root);
  if (!load_copy(in, c, 131072 + 2ull * root * in->page_size, to)) return false;
  return load_copy(in, entry_at(to + 8 * (size_t)(group % per_page)), group_start(group), to);
}

static bool load_chunk(inspect *in, const uint8_t *dir, uint32_t group, uint32_t index, uint8_t *to) {
  return load_copy(in, entry_at(dir + 8 * (size_t)index), group_start(group) + (2 + 2ull * index) * in->page_size, to);
}

static void show_words(const inspect *in, const uint8_t *chunk, uint64_t first) {
  for (uint32_t i = 0; i < in->page_size / 8; i++) {
    const uint8_t *w = chunk + 8 * (size_t)i;
    if (le64(w) == 0) continue;
    line_begin(in, "page");
    line_number(in, "logical", first + i);
    line_number(in, "physical", le32(w));
    line_text(in, "kind", kind_name(w[4]));
    line_number(in, "live_bytes", 8 * (uint64_t)(w[5] | w[6] << 8 | w[7] << 16));
    line_end(in);
  }
}

static void show_map(inspect *in, uint8_t *dir, uint8_t *chunk) {
  uint64_t groups = (le64(in->slot[in->counts] + 88) + in->group_pages - 1) / in->group_pages;
  for (uint32_t g = 0; g < groups && g < 16384; g++) {
    bool good = load_group(in, g, dir);
    line_begin(in, "group_directory");
    line_number(in, "group", g);
    line_good(in, good);
    line_end(in);
    for (uint32_t i = 0; good && i < in->map_chunks + in->bitmaps && 8 * i + 8 <= in->page_size; i++) {
      bool map = i < in->map_chunks;
      copy c = entry_at(dir + 8 * (size_t)i);
      if (!c.written) continue;
      bool whole = load_chunk(in, dir, g, i, chunk);
      line_begin(in, map ? "map_chunk" : "bitmap_chunk");
      line_number(in, "group", g);
      line_number(in, "index", map ? i : i - in->map_chunks);
      line_number(in, "copy", c.which);
      line_number(in, map ? "used" : "free", c.count);
      line_good(in, whole);
      line_end(in);
      if (map && whole) show_words(in, chunk, (uint64_t)g * in->group_pages + (uint64_t)i * (in->page_size / 8));
    }
  }
}

/* Where a logical page stands; 0: it does not exist, or what would say so is damaged. */
static uint32_t find_logical(inspect *in, uint64_t number, uint8_t *dir, uint8_t *chunk) {
  uint32_t group = (uint32_t)(number / in->group_pages), inside = (uint32_t)(number % in->group_pages), words = in->page_size / 8;
  if (number >= 16384ull * in->group_pages || !load_group(in, group, dir) || !load_chunk(in, dir, group, inside / words, chunk))
    return 0;
  return le32(chunk + 8 * (size_t)(inside % words));
}

/* --- The command -------------------------------------------------------------------------------------------------------------- */

static bool number_of(const char *text, uint64_t *number) {
  char *end;
  if (!text || *text < '0' || *text > '9') return false;
  *number = strtoull(text, &end, 0);
  return *end == '\0';
}

static int wrong_use(void) {
  (void)complain("inspect takes FILE and one of: header, map, log, page N, logical N, record PLACE");
  return EXIT_USAGE;
}

/* Physical page of what was asked for. EXIT_DONE, or what to end with. */
static int choose_page(inspect *in, const char *what, uint64_t number, uint8_t *dir, uint8_t *chunk, uint64_t *physical) {
  *physical = number;
  if (strcmp(what, "page") == 0) return EXIT_DONE;
  *physical = find_logical(in, number & UINT32_MAX, dir, chunk);
  if (*physical) return EXIT_DONE;
  return complain("the map has no logical page %" PRIu64 ", or cannot be read; try the pages themselves", number & UINT32_MAX);
}

static int show(inspect *in, const cli *c, uint8_t *dir, uint8_t *chunk, uint8_t *page) {
  const char *what = c->file ? c->file : "header";
  uint64_t number = 0, physical;
  if (strcmp(what, "log") == 0) return inspect_log(in, c->first);
  load_slots(in);
  if (strcmp(what, "header") == 0) {
    show_slots(in);
    return in->good[0] && in->good[1] ? EXIT_DONE : EXIT_FAILED;
  }
  bool place = strcmp(what, "record") == 0, needs_map = place || strcmp(what, "logical") == 0, map = strcmp(what, "map") == 0;
  if (!in->page_size && (needs_map || map)) return complain("no header slot counts, so there is no map");
  if (map) {
    show_map(in, dir, chunk);
    return EXIT_DONE;
  }
  if ((!needs_map && strcmp(what, "page") != 0) || !number_of(c->third, &number)) return wrong_use();
  if (!in->page_size) take_geometry(in, 8192);
  int code = choose_page(in, what, number, dir, chunk, &physical);
  if (code != EXIT_DONE) return code;
  if (!inspect_read(in->file, physical * in->page_size, page, in->page_size))
    return complain("page %" PRIu64 " is behind the end of the file, or cannot be read", physical);
  uint32_t have = in->page_size, wants = inspect_wants(in, page);
  if (wants > have && inspect_read(in->file, physical * in->page_size, page, wants)) have = wants;
  return inspect_page(in, page, have, physical, place ? (uint32_t)(number >> 32) * 8 : 0);
}

int command_inspect(cli *c) {
  inspect in = {.json = c->json, .file = fopen(c->first, "rb")};
  uint8_t *memory = malloc(3 * (size_t)INSPECT_MOST);
  int code = !in.file  ? complain("cannot open '%s'", c->first)
             : !memory ? complain("out of memory")
                       : show(&in, c, memory, memory + INSPECT_MOST, memory + 2 * (size_t)INSPECT_MOST);
  if (in.file) (void)fclose(in.file);
  free(memory);
  return code;
}
