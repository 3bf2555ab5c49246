/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* layout.c - offsets and header slots; see layout.h and docs/file-format.md. */
#include "layout.h"

#include "codec.h"
#include "page.h"

_Static_assert(UNIT_TAG + CIPHER_TAG == PAGE_HEADER, "the seal fills the header");
_Static_assert(SLOT_B + SLOT_SIZE <= ROOT_DIR_OFFSET, "slots stand before the root directory");
_Static_assert(512 + 8 * MAX_ROOT_PAGES <= SLOT_SIZE, "root directory entries fit into a slot");

bool geometry_init(geometry *g, uint32_t page_size) {
  unsigned bits = 12;
  while (bits <= 16 && 1u << bits != page_size) bits++;
  if (bits > 16) return false;
  g->page_size = page_size;
  g->page_bits = bits;
  g->group_shift = GROUP_BITS - bits;
  g->group_pages = 1u << g->group_shift;
  g->map_chunks = g->group_pages / (page_size / 8);
  g->chunk_words = page_size / 8;
  g->chunk_shift = bits - 3;
  g->chunk_bits = page_size * 8;
  g->bitmaps = g->group_pages > g->chunk_bits ? g->group_pages / g->chunk_bits : 1;
  g->root_pages = ROOT_DIR_BYTES / page_size;
  g->first_head = (ROOT_DIR_OFFSET + 2 * ROOT_DIR_BYTES) / page_size;
  g->head_pages = 2 + 2 * (g->map_chunks + g->bitmaps);
  return true;
}

uint32_t group_head(const geometry *g, uint32_t group) { return group == 0 ? g->first_head : group << g->group_shift; }

uint64_t root_dir_offset(const geometry *g, uint32_t index, unsigned copy) {
  return ROOT_DIR_OFFSET + ((uint64_t)index * 2 + copy) * g->page_size;
}

uint64_t group_dir_offset(const geometry *g, uint32_t group, unsigned copy) { return page_offset(g, group_head(g, group) + copy); }

uint64_t chunk_offset(const geometry *g, uint32_t group, uint32_t entry, unsigned copy) {
  return page_offset(g, group_head(g, group) + 2 + 2 * entry + copy);
}

dir_entry dir_get(const uint8_t *dir, uint32_t index) {
  uint32_t info = get32(dir + 8 * (size_t)index + 4);
  return (dir_entry){
      .crc = get32(dir + 8 * (size_t)index), .count = info & 0x3FFFFFFFu, .copy = info >> 30 & 1u, .written = (info >> 31) != 0};
}

void dir_put(uint8_t *dir, uint32_t index, dir_entry entry) {
  put32(dir + 8 * (size_t)index, entry.crc);
  put32(dir + 8 * (size_t)index + 4, entry.count | (uint32_t)entry.copy << 30 | (entry.written ? 1u << 31 : 0));
}

void header_encode(const header *h, uint8_t slot[SLOT_SIZE]) {
  memset(slot, 0, SLOT_SIZE);
  memcpy(slot, SLOT_MAGIC, 8);
  put16(slot + 12, FORMAT_MAJOR);
  put32(slot + 16, h->compatible);
  put32(slot + 20, h->to_be_read);
  put32(slot + 24, h->encrypted ? FEATURE_ENCRYPTED : 0);
  put32(slot + 28, h->page_size);
  memcpy(slot + 32, h->database_id, 16);
  put64(slot + 48, h->epoch);
  put64(slot + 56, h->checkpoint);
  put64(slot + 64, h->log.position);
  put64(slot + 72, h->roots.sequence);
  put32(slot + 80, h->log.chain);
  put32(slot + 84, h->clean);
  put64(slot + 88, h->pages_total);
  put64(slot + 96, h->pages_free);
  put64(slot + 104, h->logical_limit);
  put64(slot + 112, h->roots.doc_limit);
  put64(slot + 120, h->roots.documents);
  put32(slot + 128, h->roots.path_tree);
  put32(slot + 132, h->roots.suffix_tree);
  put32(slot + 136, h->roots.expiry_tree);
  put32(slot + 140, h->roots.table);
  put32(slot + 144, h->roots.heap_page);
  put32(slot + 148, h->roots.heap_fill);
  put64(slot + 152, h->roots.content_bytes);
  put64(slot + 160, h->roots.names);
  put64(slot + 168, h->created_ms);
  put64(slot + 176, h->written_ms);
  put64(slot + 184, h->roots.suffix_built);
  put64(slot + 192, h->roots.heap_pages);
  put64(slot + 200, h->roots.heap_live);
  put64(slot + 216, h->log.segment);
  put64(slot + 224, h->log.salt);
  put64(slot + 208, h->roots.suffix_names);
  put32(slot + 232, h->roots.fresh_tree);
  put32(slot + 236, h->roots.sweep);
  put64(slot + 240, h->roots.fresh_built);
  put64(slot + 248, h->roots.fresh_names);
  put64(slot + 352, h->roots.expiry_built);
  put32(slot + 360, h->roots.recount);
  if (h->encrypted) memcpy(slot + WRAPPED_OFFSET, h->wrapped, sizeof h->wrapped);
  for (uint32_t i = 0; i < MAX_ROOT_PAGES; i++) dir_put(slot + 512, i, h->root_dir[i]);
  put32(slot + 8, crc32c(0, slot + 12, SLOT_SIZE - 12));
}

/* Every bound that later arithmetic relies on. */
static bool header_sane(const header *h, const geometry *g) {
  uint64_t most = (uint64_t)MAX_GROUPS << g->group_shift;
  const roots *r = &h->roots;
  if (h->checkpoint == 0 || h->pages_total < group_body(g, 0) || h->pages_total > most) return false;
  if (h->pages_free > h->pages_total || h->logical_limit < 1 || h->logical_limit > most) return false;
  if (r->doc_limit < 1 || r->doc_limit > 1ull << 40 || r->documents >= r->doc_limit) return false;
  if (r->path_tree >= h->logical_limit || r->suffix_tree >= h->logical_limit || r->expiry_tree >= h->logical_limit) return false;
  if (r->fresh_tree >= h->logical_limit) return false;
  if (r->table >= h->logical_limit || r->heap_page >= h->logical_limit) return false;
  if (r->path_tree == 0 || r->table == 0) return false;
  if (r->heap_page && (r->heap_fill < PAGE_HEADER || r->heap_fill > g->page_size || r->heap_fill % 8)) return false;
  return h->log.position % 4096 == 0;
}

int header_decode(header *h, const uint8_t slot[SLOT_SIZE]) {
  if (memcmp(slot, SLOT_MAGIC, 8) != 0 || get32(slot + 8) != crc32c(0, slot + 12, SLOT_SIZE - 12)) return SDB_NOT_A_DATABASE;
  if (get16(slot + 12) != FORMAT_MAJOR || (get32(slot + 24) & ~(uint32_t)FEATURE_ENCRYPTED) != 0) return SDB_UNSUPPORTED;
  memset(h, 0, sizeof *h);
  h->compatible = get32(slot + 16);
  h->to_be_read = get32(slot + 20);
  h->encrypted = get32(slot + 24) & FEATURE_ENCRYPTED;
  memcpy(h->wrapped, slot + WRAPPED_OFFSET, sizeof h->wrapped);
  h->page_size = get32(slot + 28);
  memcpy(h->database_id, slot + 32, 16);
  h->epoch = get64(slot + 48);
  h->checkpoint = get64(slot + 56);
  h->log.position = get64(slot + 64);
  h->roots.sequence = get64(slot + 72);
  h->log.chain = get32(slot + 80);
  h->clean = get32(slot + 84) == 1;
  h->pages_total = get64(slot + 88);
  h->pages_free = get64(slot + 96);
  h->logical_limit = get64(slot + 104);
  h->roots.doc_limit = get64(slot + 112);
  h->roots.documents = get64(slot + 120);
  h->roots.path_tree = get32(slot + 128);
  h->roots.suffix_tree = get32(slot + 132);
  h->roots.expiry_tree = get32(slot + 136);
  h->roots.table = get32(slot + 140);
  h->roots.heap_page = get32(slot + 144);
  h->roots.heap_fill = get32(slot + 148);
  h->roots.content_bytes = get64(slot + 152);
  h->roots.names = get64(slot + 160);
  h->created_ms = get64(slot + 168);
  h->written_ms = get64(slot + 176);
  h->roots.suffix_built = get64(slot + 184);
  h->roots.suffix_names = get64(slot + 208);
  h->roots.fresh_tree = get32(slot + 232);
  h->roots.sweep = get32(slot + 236) != 0;
  h->roots.fresh_built = get64(slot + 240);
  h->roots.fresh_names = get64(slot + 248);
  h->roots.expiry_built = get64(slot + 352);
  h->roots.recount = get32(slot + 360) != 0;
  h->roots.heap_pages = get64(slot + 192);
  h->roots.heap_live = get64(slot + 200);
  h->log.segment = get64(slot + 216);
  h->log.salt = get64(slot + 224);
  for (uint32_t i = 0; i < MAX_ROOT_PAGES; i++) h->root_dir[i] = dir_get(slot + 512, i);
  geometry g;
  if (!geometry_init(&g, h->page_size) || !header_sane(h, &g)) return SDB_CORRUPT;
  return SDB_OK;
}

void unit_init(uint8_t *unit, uint8_t kind, uint32_t number) {
  memset(unit, 0, PAGE_HEADER);
  unit[4] = kind;
  unit[5] = 1;
  put32(unit + 8, number);
  put32(unit + 12, PAGE_HEADER);
}

/* Kind, layout, flags, number, bytes used and checkpoint: all of the header that is not the seal itself. */
static identity unit_identity(const uint8_t *unit) {
  identity id = {.len = UNIT_NONCE - 4};
  memcpy(id.bytes, unit + 4, id.len);
  return id;
}

void unit_seal(const env *e, uint8_t *unit, size_t len, uint64_t checkpoint, const uint8_t *nonce) {
  put64(unit + 16, checkpoint);
  if (e->cipher) {
    put16(unit + 6, get16(unit + 6) | UNIT_ENCRYPTED);
    identity id = unit_identity(unit);
    memcpy(unit + UNIT_NONCE, nonce, CIPHER_NONCE);
    cipher_seal(e->cipher, &id, nonce, unit + UNIT_TAG, unit + PAGE_HEADER, unit + PAGE_HEADER, len - PAGE_HEADER);
  }
  put32(unit, crc32c(0, unit + 4, len - 4));
}

bool unit_open(const env *e, uint8_t *unit, size_t len) {
  if (((get16(unit + 6) & UNIT_ENCRYPTED) != 0) != (e->cipher != NULL)) return false;
  if (!e->cipher) return true;
  identity id = unit_identity(unit);
  return cipher_open(e->cipher, &id, unit + UNIT_NONCE, unit + UNIT_TAG, unit + PAGE_HEADER, unit + PAGE_HEADER, len - PAGE_HEADER);
}

bool unit_valid(const uint8_t *unit, size_t len, uint32_t number) {
  return get32(unit + 8) == number && unit[5] == 1 && get32(unit) == crc32c(0, unit + 4, len - 4);
}
