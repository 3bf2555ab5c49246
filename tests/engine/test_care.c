/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_care.c - damage to pages of a chosen kind, made by hand while the database is open: who answers, who is healed, what is
 * told.
 *
 * A document is its number: path /d/NNN, content from the number and the version, so that every byte can be judged.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* check.h brings the mathematical `log` along. */
#define log engine_log
#include "db.h"
#undef log

#include "model.h"
#include "simulated.h"

#define NAME "care.sdb"

enum { PAGE = 4096, DOCUMENTS = 200, SIZE = 300 };

static sim *device;
static sdb *db;
static sdb_options options;
static char message[256];
static uint32_t version_of[DOCUMENTS];

static void set_up(void) {
  device = sim_new(1);
  sdb_options_init(&options);
  options.storage = sim_storage(device);
  options.threads = false;
  options.page_size = PAGE;
  options.wal_segment_size = 65536;
  options.use_compression = false;
  options.message = message;
  options.message_size = sizeof message;
  memset(version_of, 0, sizeof version_of);
}

static void open_it(void) {
  int rc = sdb_open(NAME, &options, &db);
  ck_assert_msg(rc == SDB_OK, "open: %s: %s", sdb_strerror(rc), message);
}

static void close_it(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  db = NULL;
}

static void tear_down(void) {
  if (db) sdb_close(db);
  db = NULL;
  ck_assert_uint_eq(sim_open_files(device), 0);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

static const char *why(void) {
  sdb_message(db, message, sizeof message);
  return message;
}

/* --- Documents ---------------------------------------------------------------------------------------------------------------- */

static size_t path_of(unsigned i, char path[16]) { return (size_t)snprintf(path, 16, "/d/%03u", i); }
static uint32_t size_of(unsigned i) { return i % 50 == 49 ? 70000 : SIZE + i; }

static int put(unsigned i) {
  static uint8_t data[70000];
  char path[16];
  size_t len = path_of(i, path);
  model_content(1000 * i + version_of[i] + 1, 0, data, size_of(i));
  int rc = sdb_put(db, path, len, data, size_of(i), NULL, NULL);
  if (rc == SDB_OK) version_of[i]++;
  return rc;
}

static void must_put(unsigned i) {
  int rc = put(i);
  ck_assert_msg(rc == SDB_OK, "put %u: %s: %s", i, sdb_strerror(rc), why());
}

/* SDB_OK: that version is there, and its bytes are right. */
static int look_at(unsigned i, uint32_t version) {
  static uint8_t found[70000], data[70000];
  char path[16];
  size_t len = path_of(i, path), size = 0;
  int rc = sdb_get(db, path, len, version == version_of[i] ? SDB_CURRENT : version, found, sizeof found, &size, NULL);
  if (rc != SDB_OK) return rc;
  model_content(1000 * i + version, 0, data, size_of(i));
  ck_assert_uint_eq(size, size_of(i));
  ck_assert_mem_eq(found, data, size);
  return SDB_OK;
}

static int look(unsigned i) { return look_at(i, version_of[i]); }

/* How many answer SDB_CORRUPT; all others are as they should be. */
static unsigned corrupt(void) {
  unsigned count = 0;
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    int rc = look(i);
    ck_assert_msg(rc == SDB_OK || rc == SDB_CORRUPT, "get %u: %s: %s", i, sdb_strerror(rc), why());
    count += rc != SDB_OK;
  }
  return count;
}

/* A closed database, opened again: nothing of it is in memory. */
static void fill(void) {
  open_it();
  for (unsigned i = 0; i < DOCUMENTS; i++) must_put(i);
  close_it();
  open_it();
}

static sdb_stats stats(void) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

static void tell(void *user, const char *sentence) {
  fprintf(stderr, "problem: %s\n", sentence);
  ++*(unsigned *)user;
}

static void must_be_whole(void) {
  sdb_check_report r = {.size = sizeof r};
  unsigned told = 0;
  ck_assert_int_eq(sdb_check(db, tell, &told, &r), SDB_OK);
  ck_assert_uint_eq(told, 0);
  ck_assert_uint_eq(r.problems, 0);
}

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

struct wanted {
  uint8_t kind;
  unsigned nth;
  uint32_t number, place;
};

static int want(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct wanted *w = user;
  (void)live;
  if (kind != w->kind || !place || number == db->roots.heap_page || w->nth-- > 0) return SDB_OK;
  w->number = number;
  w->place = place;
  return SDB_END;
}

/* The nth page of that kind, the open heap page left out. */
static struct wanted page_of(uint8_t kind, unsigned nth) {
  struct wanted w = {.kind = kind, .nth = nth};
  unsigned slot = pager_enter(db->pager);
  ck_assert_int_eq(pager_walk(db->pager, want, &w), SDB_END);
  pager_leave(db->pager, slot);
  return w;
}

static void flip(uint32_t place, uint32_t offset) {
  uint8_t byte;
  ck_assert(sim_peek(device, NAME, (uint64_t)place * PAGE + offset, &byte, 1));
  byte ^= 0x10;
  ck_assert(sim_poke(device, NAME, (uint64_t)place * PAGE + offset, &byte, 1));
}

/* --- Heap pages --------------------------------------------------------------------------------------------------------------- */

/* Where record `nth` begins in a page as it stands in the file. */
static uint32_t record_in(uint32_t place, unsigned nth, uint32_t *total) {
  uint8_t page[PAGE];
  record r;
  ck_assert(sim_peek(device, NAME, (uint64_t)place * PAGE, page, PAGE));
  uint32_t offset = PAGE_HEADER;
  for (;; offset += r.total) {
    ck_assert_int_eq(record_parse(&r, page + offset, PAGE - offset), SDB_OK);
    if (nth-- == 0) break;
  }
  *total = r.total;
  return offset;
}

/* Only the document whose record was hit is corrupt; its page serves the others, at first touch too. */
START_TEST(records_of_a_damaged_page_are_judged_alone) {
  uint32_t total;
  set_up();
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  uint32_t at = record_in(heap.place, 2, &total);
  flip(heap.place, _i == 0 ? at + 20 : _i == 1 ? at + total - 40 : _i == 2 ? 8 : PAGE - 1); /* head, content, header, empty end */
  ck_assert_uint_eq(corrupt(), _i < 2 ? 1 : 0);
  ck_assert_uint_eq(stats().quarantined, 1);
  ck_assert_uint_gt(stats().corruptions, 0);
  tear_down();
}
END_TEST

/* A page that is whole, but another's: its records may be older ones under ids and versions that were given again, so that none of
 * them is let out, although each verifies by itself. */
START_TEST(another_page_in_its_place_speaks_for_nobody) {
  uint8_t page[PAGE];
  set_up();
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  ck_assert(sim_peek(device, NAME, (uint64_t)heap.place * PAGE, page, PAGE));
  page[8] ^= 1; /* the page's number */
  uint32_t sum = sdb_crc32c(0, page + 4, PAGE - 4);
  for (unsigned i = 0; i < 4; i++) page[i] = (uint8_t)(sum >> 8 * i);
  ck_assert(sim_poke(device, NAME, (uint64_t)heap.place * PAGE, page, PAGE));
  ck_assert_uint_gt(corrupt(), 2);
  ck_assert_uint_eq(stats().quarantined, 1);
  tear_down();
}
END_TEST

/* The content is compared in quick mode too, where the page's checksum does not speak for it. */
START_TEST(quick_mode_checks_what_stands_on_a_damaged_page) {
  uint32_t total;
  set_up();
  options.quick_mode = true;
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  uint32_t at = record_in(heap.place, 2, &total);
  flip(heap.place, at + total - 40);
  ck_assert_uint_eq(corrupt(), 1);
  tear_down();
}
END_TEST

/* An encrypted page is one unit: what was made of it nobody can tell in part. */
START_TEST(an_encrypted_page_stands_or_falls_whole) {
  set_up();
  options.encryption_key = (const uint8_t *)"thirty-two bytes make up a key..";
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  flip(heap.place, 1000);
  ck_assert_uint_gt(corrupt(), 3);
  ck_assert_uint_eq(stats().quarantined, 1);
  tear_down();
}
END_TEST

/* The cleaner moves out what verifies, and the page is free. */
START_TEST(the_cleaner_empties_a_damaged_page) {
  set_up();
  options.versions_to_keep = 1;
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  flip(heap.place, _i == 0 ? 12 : PAGE - 1); /* its fill is wrong, or what is behind it */
  for (unsigned i = 0; i < 4 * DOCUMENTS; i++)
    if (i % 4) must_put(i % DOCUMENTS);
  ck_assert_uint_eq(stats().quarantined, 1);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(corrupt(), 0);
  ck_assert_uint_eq(stats().quarantined, 0);
  must_be_whole();
  tear_down();
}
END_TEST

/* --- Scrub -------------------------------------------------------------------------------------------------------------------- */

static void work_all(void);

static void scrub_all(void) {
  uint64_t passes = stats().scrubs;
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  work_all();
  ck_assert_uint_eq(stats().scrubs, passes + 1);
}

START_TEST(a_scrub_of_a_sound_database_finds_nothing) {
  bool more;
  set_up();
  fill();
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  ck_assert_int_eq(sdb_step(db, 1, &more), SDB_OK);
  ck_assert(more);
  ck_assert_uint_gt(stats().scrub_all, DOCUMENTS);
  for (unsigned i = 0; more && i < 5000; i++) {
    if (i % 3 == 0) must_put(i % DOCUMENTS);
    ck_assert_int_eq(sdb_step(db, 1, &more), SDB_OK);
    ck_assert_uint_le(stats().scrub_done, stats().scrub_all + i);
  }
  ck_assert_uint_eq(stats().scrubs, 1);
  ck_assert_uint_eq(stats().scrub_problems, 0);
  ck_assert_uint_eq(stats().corruptions, 0);
  ck_assert_uint_eq(stats().scrub_all, 0);
  must_be_whole();
  tear_down();
}
END_TEST

/* By the clock, when the options say so. */
START_TEST(scrubs_come_by_themselves) {
  set_up();
  options.scrub_interval_s = 60;
  fill();
  work_all();
  ck_assert_uint_eq(stats().scrubs, 0);
  for (unsigned i = 1; i < 4; i++) {
    sim_advance(device, 61000);
    work_all();
    ck_assert_uint_eq(stats().scrubs, i);
  }
  tear_down();
}
END_TEST

/* Whatever kind of place it is. */
START_TEST(a_scrub_finds_every_damaged_place) {
  static const uint8_t kinds[] = {PAGE_INNER, PAGE_LEAF, PAGE_TABLE, PAGE_INDEX, PAGE_HEAP};
  uint64_t offset = 0;
  set_up();
  fill();
  if (_i < 5) {
    struct wanted w = page_of(kinds[_i], 0);
    close_it();
    flip(w.place, 700);
  } else if (_i == 5) { /* a chunk of a large content */
    struct wanted heap = page_of(PAGE_HEAP, 3);
    uint8_t page[PAGE];
    record r;
    run_list l;
    bool some = false;
    for (unsigned k = 0; !some && k < 40; k++) {
      heap = page_of(PAGE_HEAP, k);
      ck_assert(sim_peek(device, NAME, (uint64_t)heap.place * PAGE, page, PAGE));
      for (uint32_t at = PAGE_HEADER; !some && record_parse(&r, page + at, PAGE - at) == SDB_OK; at += r.total)
        some = r.flags & RECORD_LARGE && run_list_parse(&l, &r) == SDB_OK;
    }
    ck_assert(some);
    close_it();
    flip(l.runs[0].start + 10, 100);
  } else {
    const geometry *g = pager_geometry(db->pager);
    dir_entry root = pager_header(db->pager)->root_dir[0];
    uint8_t dir[PAGE];
    offset = _i == 6 ? SLOT_B : root_dir_offset(g, 0, root.copy);
    if (_i > 7) {
      ck_assert(sim_peek(device, NAME, offset, dir, PAGE));
      dir_entry group = dir_get(dir, 0);
      offset = group_dir_offset(g, 0, group.copy);
      ck_assert(sim_peek(device, NAME, offset, dir, PAGE));
      uint32_t entry = _i == 8 ? 0 : g->map_chunks;
      offset = chunk_offset(g, 0, entry, dir_get(dir, entry).copy);
    }
    (void)corrupt(); /* all is loaded */
    flip((uint32_t)(offset / PAGE), 20);
  }
  if (!db) open_it();
  ck_assert_int_eq(sdb_scrub(db), SDB_OK);
  bool more = true;
  while (more && stats().scrubs == 0) ck_assert_int_eq(sdb_step(db, 8, &more), SDB_OK);
  ck_assert_uint_gt(stats().scrub_problems, 0);
  ck_assert_uint_gt(stats().corruptions, 0);
  tear_down();
}
END_TEST

/* What is whole leaves the page; a put heals the one that is not; when nothing refers to it any more the page is given back. */
START_TEST(a_damaged_heap_page_is_healed) {
  uint32_t total;
  set_up();
  fill();
  struct wanted heap = page_of(PAGE_HEAP, 3);
  uint32_t at = record_in(heap.place, 2, &total);
  flip(heap.place, _i == 0 ? at + 20 : at + total - 40);
  scrub_all();
  ck_assert_uint_gt(stats().scrub_problems, 1); /* page and record */
  ck_assert_uint_eq(stats().quarantined, 1);
  ck_assert_uint_eq(corrupt(), 1);
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    uint32_t before = version_of[i];
    if (look(i) == SDB_OK) continue;
    must_put(i);
    ck_assert_int_eq(look(i), SDB_OK);
    ck_assert_int_eq(look_at(i, before), SDB_CORRUPT);
    must_put(i);
    ck_assert_int_eq(look_at(i, before + 1), SDB_OK);
  }
  ck_assert_uint_eq(corrupt(), 0);
  scrub_all();
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(stats().quarantined, 0);
  scrub_all();
  ck_assert_uint_eq(stats().scrub_problems, 0);
  must_be_whole();
  tear_down();
}
END_TEST

/* --- Trees -------------------------------------------------------------------------------------------------------------------- */

/* Long names, so that the path tree has many leaves. */
static size_t long_path(unsigned i, char path[256]) {
  return (size_t)snprintf(path, 256, "/long/%05u/%0200u", i * 7919 % 10007, i);
}

enum { LONG = 400, MANY = 9000 /* so many that there are inner pages below the root */ };
static unsigned longs;

static void put_long(unsigned i, const char *content) {
  char path[256];
  size_t len = long_path(i, path);
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.durability = SDB_NONE;
  int rc = sdb_put(db, path, len, content, strlen(content), &o, NULL);
  ck_assert_msg(rc == SDB_OK, "put %u: %s: %s", i, sdb_strerror(rc), why());
}

static int look_long(unsigned i, const char *content) {
  char path[256], found[64];
  size_t len = long_path(i, path), size = 0;
  int rc = sdb_get(db, path, len, SDB_CURRENT, found, sizeof found, &size, NULL);
  if (rc == SDB_OK) ck_assert(size == strlen(content) && memcmp(found, content, size) == 0);
  return rc;
}

static void fill_long(unsigned count) {
  longs = count;
  open_it();
  for (unsigned i = 0; i < count; i++) put_long(i, "content");
  close_it();
  open_it();
}

struct visit {
  uint32_t pages[2000];
  unsigned count;
};
static void note_page(void *user, uint32_t number) {
  struct visit *v = user;
  for (unsigned i = 0; i < v->count; i++)
    if (v->pages[i] == number) return;
  v->pages[v->count++] = number;
}

static int place_wanted(void *user, uint32_t number, uint8_t kind, uint32_t place, uint32_t live) {
  struct wanted *w = user;
  (void)live;
  if (number != w->number) return SDB_OK;
  w->place = place;
  w->kind = kind;
  return SDB_OK;
}

static struct wanted page_numbered(uint32_t number) {
  struct wanted w = {.number = number};
  unsigned slot = pager_enter(db->pager);
  ck_assert_int_eq(pager_walk(db->pager, place_wanted, &w), SDB_OK);
  pager_leave(db->pager, slot);
  return w;
}

/* Pages of a tree, leaves and inner ones. Reads them, so open the database again afterwards. */
static struct visit pages_of(uint32_t root) {
  struct visit v = {.count = 0};
  uint8_t key[SDB_MAX_PATH];
  size_t len = 0;
  unsigned slot = pager_enter(db->pager);
  ck_assert_int_eq(tree_walk(db->pager, VIEW_HEAD, root, key, &len, 2000, note_page, &v), SDB_END);
  pager_leave(db->pager, slot);
  return v;
}

enum which { SOME_LEAF, LAST_LEAF, SOME_INNER, ROOT };

static uint32_t damaged_place;

/* Flips a byte in a page of a tree and opens the database again. */
static void damage_tree(uint32_t root, enum which which) {
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  struct visit v = pages_of(root);
  struct wanted w = page_numbered(root);
  for (unsigned i = 0; which != ROOT && i < v.count; i++) {
    struct wanted other = page_numbered(v.pages[i]);
    if (other.kind == PAGE_LEAF && (which == LAST_LEAF || i >= v.count / 2)) w = other;
    if (which == SOME_INNER && other.kind == PAGE_INNER && other.number != root) w = other;
    if (which == SOME_LEAF && w.kind == PAGE_LEAF) break;
  }
  ck_assert_uint_ne(w.place, 0);
  ck_assert((w.number == root) == (which == ROOT));
  close_it();
  damaged_place = w.place;
  flip(w.place, 500);
  open_it();
}

/* Until nothing is left to do. */
static void work_all(void) {
  bool more = true;
  for (unsigned i = 0; more && i < 5000; i++) ck_assert_int_eq(sdb_step(db, 64, &more), SDB_OK);
  ck_assert(!more);
}

static unsigned long_corrupt(const char *content) {
  unsigned count = 0;
  for (unsigned i = 0; i < longs; i++) {
    int rc = look_long(i, content);
    ck_assert_msg(rc == SDB_OK || rc == SDB_CORRUPT, "get %u: %s", i, sdb_strerror(rc));
    count += rc != SDB_OK;
  }
  return count;
}

/* How many names a search by that order finds; -1: damaged. */
static int search(sdb_order order) {
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.order = order;
  int rc = sdb_cursor_open(db, &o, &cursor), count = 0;
  if (rc != SDB_OK) return -1;
  while ((rc = sdb_cursor_next(cursor, &entry)) == SDB_OK) count++;
  sdb_cursor_close(cursor);
  ck_assert_msg(rc == SDB_END || rc == SDB_CORRUPT, "%s", sdb_strerror(rc));
  return rc == SDB_END ? count : -1;
}

/* What a damaged page of the path tree had answers CORRUPT, and is there again once the tree was made anew from the records. */
START_TEST(a_damaged_path_tree_is_made_again) {
  set_up();
  fill_long(_i == SOME_INNER ? MANY : LONG);
  damage_tree(db->roots.path_tree, (enum which)_i);
  unsigned before = long_corrupt("content");
  ck_assert_uint_gt(before, 0);
  if (_i == ROOT) ck_assert_uint_eq(before, longs);
  ck_assert_int_eq(search(SDB_ORDER_PATH), -1);
  ck_assert(stats().rebuilding);
  work_all();
  ck_assert(!stats().rebuilding);
  ck_assert_uint_eq(long_corrupt("content"), 0);
  ck_assert_int_eq(look_long(MANY + 1, ""), SDB_NOT_FOUND);
  ck_assert_int_eq(search(SDB_ORDER_PATH), (int)longs);
  ck_assert_int_eq(search(SDB_ORDER_SUFFIX), (int)longs);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(stats().quarantined, 0);
  must_be_whole();
  close_it();
  open_it();
  ck_assert_uint_eq(long_corrupt("content"), 0);
  must_be_whole();
  tear_down();
}
END_TEST

START_TEST(a_damaged_suffix_tree_is_made_again) {
  set_up();
  fill_long(_i == SOME_INNER ? MANY : LONG);
  damage_tree(db->roots.suffix_tree, (enum which)_i);
  ck_assert_uint_eq(long_corrupt("content"), 0);
  ck_assert_int_eq(search(SDB_ORDER_SUFFIX), -1);
  work_all();
  ck_assert_int_eq(search(SDB_ORDER_SUFFIX), (int)longs);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(stats().quarantined, 0);
  must_be_whole();
  tear_down();
}
END_TEST

static void put_expiring(unsigned i, uint64_t ms) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.expires_ms = ms;
  char path[256];
  size_t len = long_path(i, path);
  ck_assert_int_eq(sdb_put(db, path, len, "x", 1, &o, NULL), SDB_OK);
}

/* Whoever meets it: a commit that changes a time, or the collection. */
START_TEST(a_damaged_expiry_tree_is_made_again) {
  set_up();
  fill_long(LONG);
  uint64_t now = options.storage->now_ms(options.storage->ctx);
  for (unsigned i = 0; i < LONG; i += 2) put_expiring(i, now + 20000 + i);
  damage_tree(db->roots.expiry_tree, _i < 2 ? LAST_LEAF : ROOT);
  if (_i % 2)
    for (unsigned i = 0; i < LONG; i += 4) put_expiring(i, now + 40000);
  sim_advance(device, 2000);
  work_all();
  sim_advance(device, 2000);
  work_all();
  sim_advance(device, 30000);
  work_all();
  sim_advance(device, 2000);
  work_all();
  ck_assert_uint_eq(stats().documents, LONG - (_i % 2 ? LONG / 4 : LONG / 2));
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  must_be_whole();
  tear_down();
}
END_TEST

/* A name that neither the tree nor its record can tell: nobody may say "not found" there, and the rest is served. */
START_TEST(a_name_that_is_lost_in_both_places_is_never_denied) {
  struct wanted heap;
  unsigned lost = 0;
  set_up();
  options.versions_to_keep = 1;
  fill_long(LONG);
  heap = page_of(PAGE_HEAP, 3);
  damage_tree(db->roots.path_tree, ROOT);
  for (uint32_t at = 0; at < PAGE; at += 100) flip(heap.place, at);
  work_all();
  for (unsigned round = 0; round < 2; round++) {
    lost = long_corrupt("content");
    ck_assert_uint_gt(lost, 0);
    work_all();
    ck_assert(stats().repair_needed);
    close_it();
    open_it();
  }
  ck_assert_uint_eq(lost, LONG);
  tear_down();
}
END_TEST

static uint64_t unreadable; /* an offset */
static int read_with_hole(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  if (unreadable && offset <= unreadable && unreadable - offset < len) return SDB_IO;
  return sim_storage(device)->read(file, offset, buf, len);
}

/* Where the current record of a document stands, as a page of the file. */
static uint32_t page_of_record(const uint8_t id[16], uint32_t *offset) {
  table_entry entry;
  unsigned slot = pager_enter(db->pager);
  ck_assert_int_eq(table_get(db->table, VIEW_HEAD, id_document(id), &entry), SDB_OK);
  pager_leave(db->pager, slot);
  *offset = place_offset(entry.current);
  return page_numbered(place_page(entry.current)).place;
}

static void use_hole(void) {
  static sdb_storage holed;
  set_up();
  holed = *sim_storage(device);
  holed.read = read_with_hole;
  options.storage = &holed;
  unreadable = 0;
}

/* Sectors that the device does not give any more are damage as well, once the scrub has met them. */
START_TEST(an_unreadable_page_is_mended) {
  use_hole();
  fill_long(LONG);
  damage_tree(db->roots.path_tree, (enum which)_i);
  close_it();
  flip(damaged_place, 500); /* whole again, but */
  unreadable = (uint64_t)PAGE * damaged_place + 500;
  open_it();
  unsigned failed = 0;
  for (unsigned i = 0; i < longs; i++) {
    int rc = look_long(i, "content");
    ck_assert(rc == SDB_OK || rc == SDB_IO);
    failed += rc != SDB_OK;
  }
  ck_assert_uint_gt(failed, 0);
  scrub_all();
  sim_advance(device, 2000);
  work_all();
  ck_assert_uint_eq(long_corrupt("content"), 0);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(stats().quarantined, 0);
  unreadable = 0;
  must_be_whole();
  tear_down();
}
END_TEST

/* One page whose documents may expire cannot be read: the path tree is made again all the same, and what expires is known once the
 * page can be read. */
START_TEST(an_unreadable_page_holds_up_no_rebuilding) {
  unsigned failed = 0;
  char path[256];
  uint8_t id[16];
  uint32_t offset;
  use_hole();
  fill_long(LONG);
  uint64_t now = options.storage->now_ms(options.storage->ctx);
  for (unsigned i = 0; i < LONG; i++) put_expiring(i, now + 1000000 + i);
  ck_assert_int_eq(sdb_id_of(db, path, long_path(100, path), id), SDB_OK);
  damage_tree(db->roots.expiry_tree, ROOT);
  damage_tree(db->roots.path_tree, SOME_LEAF);
  uint32_t place = page_of_record(id, &offset);
  close_it();
  unreadable = (uint64_t)PAGE * place + offset;
  open_it();
  for (unsigned i = 0; i < LONG; i++) failed += look_long(i, "x") == SDB_CORRUPT;
  ck_assert_uint_gt(failed, 0);
  failed = 0;
  sim_advance(device, 2000);
  work_all();
  sim_advance(device, 2000);
  work_all();
  for (unsigned i = 0; i < LONG; i++) failed += look_long(i, "x") != SDB_OK;
  ck_assert_msg(failed > 0 && failed < 40, "%u", failed); /* those of the page */
  failed = 0;
  unreadable = 0;
  sim_advance(device, 61000);
  work_all();
  sim_advance(device, 61000);
  work_all();
  for (unsigned i = 0; i < LONG; i++) failed += look_long(i, "x") != SDB_OK;
  ck_assert_uint_eq(failed, 0);
  ck_assert(!stats().rebuilding);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  must_be_whole();
  tear_down();
}
END_TEST

/* A read that fails half way has not moved the reader: asked again it leaves nothing out. */
START_TEST(a_reader_goes_on_where_it_failed) {
  static uint8_t data[4 * SDB_CHUNK], found[4 * SDB_CHUNK];
  uint8_t head[SDB_CHUNK];
  sdb_reader *reader;
  size_t got = 0;
  use_hole();
  options.use_mmap = false;
  open_it();
  model_content(7, 0, data, sizeof data);
  ck_assert_int_eq(sdb_put(db, "/large", 6, data, sizeof data, NULL, NULL), SDB_OK);
  close_it();
  uint64_t size, at = 0;
  ck_assert(sim_size(device, NAME, &size));
  for (uint64_t offset = 0; offset + SDB_CHUNK <= size && !at; offset += 64) {
    ck_assert(sim_peek(device, NAME, offset, head, 64));
    if (memcmp(head, data + 2 * SDB_CHUNK, 64) == 0) at = offset;
  }
  ck_assert_uint_ne(at, 0);
  open_it();
  ck_assert_int_eq(sdb_reader_open(db, "/large", 6, SDB_CURRENT, &reader), SDB_OK);
  unreadable = at + 100;
  ck_assert_int_eq(sdb_reader_read(reader, found, sizeof found, &got), SDB_IO);
  unreadable = 0;
  ck_assert_int_eq(sdb_reader_read(reader, found, sizeof found, &got), SDB_OK);
  ck_assert_uint_eq(got, sizeof found);
  ck_assert_mem_eq(found, data, sizeof data);
  sdb_reader_close(reader);
  tear_down();
}
END_TEST

/* Document numbers are used again. Where the record that says whose it is now is damaged, an id of before must not delete it. */
START_TEST(an_old_id_does_not_delete_a_damaged_document) {
  sdb_commit first;
  uint8_t id[16], found[8];
  uint32_t offset;
  size_t size = 77;
  set_up();
  open_it();
  ck_assert_int_eq(sdb_put(db, "/old", 4, "old", 3, NULL, &first), SDB_OK);
  ck_assert_int_eq(sdb_delete(db, "/old", 4, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/new", 4, "one", 3, NULL, NULL), SDB_OK);
  if (_i == 1) ck_assert_int_eq(sdb_put(db, "/new", 4, "two", 3, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_id_of(db, "/new", 4, id), SDB_OK);
  ck_assert_uint_eq(id_document(id), id_document(first.info.id));
  close_it();
  open_it();
  uint32_t place = page_of_record(id, &offset);
  close_it();
  flip(place, offset + 20);
  open_it();
  ck_assert_int_eq(sdb_get(db, "/new", 4, SDB_CURRENT, found, sizeof found, &size, NULL), SDB_CORRUPT);
  ck_assert_uint_eq(size, 77);
  ck_assert_int_eq(sdb_delete_id(db, first.info.id, NULL, NULL), _i == 1 ? SDB_NOT_FOUND : SDB_CORRUPT);
  ck_assert_int_eq(sdb_get(db, "/new", 4, SDB_CURRENT, found, sizeof found, &size, NULL), SDB_CORRUPT);
  ck_assert_int_eq(sdb_get(db, "/new", 4, 1, found, sizeof found, &size, NULL), _i == 1 ? SDB_OK : SDB_CORRUPT);
  ck_assert_int_eq(sdb_delete_id(db, id, NULL, NULL), _i == 1 ? SDB_OK : SDB_CORRUPT);
  tear_down();
}
END_TEST

/* --- Beside commits, and crashes ---------------------------------------------------------------------------------------------- */

/* What each long path should have: the number in its content, 0: nothing. `doubt`: what it may have instead, if the last call died.
 */
static unsigned holds[LONG], doubted = LONG, doubt;

static int write_long(unsigned i, unsigned number) {
  char path[256], text[16];
  size_t len = long_path(i, path);
  int text_len = snprintf(text, sizeof text, "%u", number);
  return number ? sdb_put(db, path, len, text, (size_t)text_len, NULL, NULL) : sdb_delete(db, path, len, NULL, NULL);
}

static bool holds_now(unsigned i, unsigned number) {
  char path[256], text[16], found[64];
  size_t len = long_path(i, path), size = 0;
  int text_len = snprintf(text, sizeof text, "%u", number);
  int rc = sdb_get(db, path, len, SDB_CURRENT, found, sizeof found, &size, NULL);
  ck_assert_msg(rc == SDB_OK || rc == SDB_CORRUPT || rc == SDB_NOT_FOUND, "get: %s", sdb_strerror(rc));
  if (rc == SDB_OK) return number && size == (size_t)text_len && memcmp(found, text, size) == 0;
  return rc == SDB_CORRUPT || number == 0;
}

/* One write somewhere. False: the device died. */
static bool change_one(uint64_t *random, unsigned number) {
  unsigned i = (unsigned)(sim_random(random) % LONG), wanted = sim_random(random) % 4 ? number : 0;
  int rc = write_long(i, wanted);
  if (rc == SDB_OK) holds[i] = wanted;
  if (rc == SDB_OK || rc == SDB_CORRUPT || (rc == SDB_NOT_FOUND && !holds[i])) return true;
  ck_assert_msg(sim_dead(device), "write: %s: %s", sdb_strerror(rc), why());
  doubted = i;
  doubt = wanted;
  return false;
}

static void judge_long(void) {
  for (unsigned i = 0; i < LONG; i++) { ck_assert_msg(holds_now(i, holds[i]), "path %u should hold %u", i, holds[i]); }
}

/* Commits go on beside the rebuilding, a snapshot from before it reads what it always has, and a crash anywhere loses nothing. */
START_TEST(rebuilding_beside_commits_and_crashes) {
  uint64_t random = (uint64_t)_i + 1;
  bool more = true;
  set_up();
  options.checkpoint_wal_bytes = 20000;
  fill_long(LONG);
  close_it();
  open_it();
  unsigned number = 1;
  for (unsigned i = 0; i < LONG; i++) {
    ck_assert_int_eq(write_long(i, number), SDB_OK);
    holds[i] = number;
  }
  doubted = LONG;
  damage_tree(_i % 3 == 2 ? db->roots.suffix_tree : db->roots.path_tree, _i % 2 ? ROOT : SOME_LEAF);
  (void)search(SDB_ORDER_PATH);
  (void)search(SDB_ORDER_SUFFIX);
  for (unsigned crash = 0; crash < 3; crash++) {
    sim_die_at(device, 1 + sim_random(&random) % 150);
    bool alive = true;
    for (unsigned i = 0; alive && i < 200; i++) {
      alive = change_one(&random, ++number);
      if (alive && sdb_step(db, 1 + (unsigned)(sim_random(&random) % 2), &more) != SDB_OK) alive = !sim_dead(device);
      sim_advance(device, 300);
    }
    if (!alive) {
      sdb_close(db);
      db = NULL;
      sim_crash(device, SIM_RANDOM_SUBSET, random);
      open_it();
      if (doubted < LONG && !holds_now(doubted, holds[doubted])) holds[doubted] = doubt;
      doubted = LONG;
    }
    sim_die_at(device, 0);
    judge_long();
  }
  (void)search(SDB_ORDER_PATH);
  (void)search(SDB_ORDER_SUFFIX);
  work_all();
  judge_long();
  int there = 0;
  for (unsigned i = 0; i < LONG; i++) there += holds[i] != 0;
  ck_assert_int_eq(search(SDB_ORDER_PATH), there);
  ck_assert_int_eq(search(SDB_ORDER_SUFFIX), there);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(stats().quarantined, 0);
  must_be_whole();
  tear_down();
}
END_TEST

/* --- Faults ------------------------------------------------------------------------------------------------------------------- */

static void reopen(void) {
  sdb_close(db);
  db = NULL;
  sim_fail_nothing(device);
  open_it();
}

/* Every call failing once, or for good, while damage of each kind is found and mended: afterwards all is as if none had failed. */
static bool survives(const sim *base, enum sim_kind kind, uint64_t nth, bool for_good) {
  bool more = true;
  device = sim_clone(base, nth);
  options.storage = sim_storage(device);
  open_it();
  sim_fail(device, kind, nth, for_good, SDB_IO);
  int rc = sdb_scrub(db);
  ck_assert_int_eq(rc, SDB_OK);
  for (unsigned i = 0; i < 200 && more && !stats().sync_failed; i++)
    if (sdb_step(db, 64, &more) != SDB_OK) sim_advance(device, 1100);
  bool struck = sim_failed(device);
  reopen(); /* what is finished and what is not stands in the roots */
  for (unsigned i = 0; i < 2; i++) {
    sim_advance(device, 2000);
    scrub_all();
  }
  ck_assert_uint_eq(long_corrupt("content"), 0);
  ck_assert_int_eq(search(SDB_ORDER_PATH), (int)longs);
  ck_assert_int_eq(search(SDB_ORDER_SUFFIX), (int)longs);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(stats().quarantined, 0);
  must_be_whole();
  tear_down();
  return struck;
}

START_TEST(mending_survives_every_fault) {
  static const enum sim_kind kinds[] = {SIM_ALLOC, SIM_READ, SIM_WRITE, SIM_SYNC, SIM_SIZE};
  set_up();
  fill_long(60);
  struct wanted heap = page_of(PAGE_HEAP, 1);
  damage_tree(db->roots.path_tree, ROOT);
  flip(heap.place, 8); /* its header: all records are whole */
  close_it();
  sim *base = device;
  unsigned struck = 0;
  for (uint64_t nth = 1; survives(base, kinds[_i], nth, false); nth += nth < 40 ? 1 : 7) struck++;
  for (uint64_t nth = 1; survives(base, kinds[_i], nth, true); nth += nth < 10 ? 1 : 17) struck++;
  ck_assert_uint_gt(struck, 0);
  printf("mending: %u faults of kind %d\n", struck, (int)kinds[_i]);
  sim_free(base);
}
END_TEST

/* --- Main --------------------------------------------------------------------------------------------------------------------- */

int main(void) {
  Suite *suite = suite_create("care");
  TCase *heap = tcase_create("heap");
  tcase_set_timeout(heap, 60);
  tcase_add_loop_test(heap, records_of_a_damaged_page_are_judged_alone, 0, 4);
  tcase_add_test(heap, another_page_in_its_place_speaks_for_nobody);
  tcase_add_test(heap, quick_mode_checks_what_stands_on_a_damaged_page);
  tcase_add_test(heap, an_encrypted_page_stands_or_falls_whole);
  tcase_add_loop_test(heap, the_cleaner_empties_a_damaged_page, 0, 2);
  suite_add_tcase(suite, heap);
  TCase *scrub = tcase_create("scrub");
  tcase_set_timeout(scrub, 60);
  tcase_add_test(scrub, a_scrub_of_a_sound_database_finds_nothing);
  tcase_add_test(scrub, scrubs_come_by_themselves);
  tcase_add_loop_test(scrub, a_scrub_finds_every_damaged_place, 0, 10);
  tcase_add_loop_test(scrub, a_damaged_heap_page_is_healed, 0, 2);
  suite_add_tcase(suite, scrub);
  TCase *trees = tcase_create("trees");
  tcase_set_timeout(trees, 60);
  tcase_add_loop_test(trees, a_damaged_path_tree_is_made_again, SOME_LEAF, ROOT + 1);
  tcase_add_loop_test(trees, a_damaged_suffix_tree_is_made_again, SOME_LEAF, ROOT + 1);
  tcase_add_loop_test(trees, a_damaged_expiry_tree_is_made_again, 0, 4);
  tcase_add_loop_test(trees, an_unreadable_page_is_mended, SOME_LEAF, LAST_LEAF + 1);
  tcase_add_test(trees, an_unreadable_page_holds_up_no_rebuilding);
  tcase_add_test(trees, a_reader_goes_on_where_it_failed);
  tcase_add_loop_test(trees, an_old_id_does_not_delete_a_damaged_document, 0, 2);
  tcase_add_test(trees, a_name_that_is_lost_in_both_places_is_never_denied);
  tcase_add_loop_test(trees, rebuilding_beside_commits_and_crashes, 0, 60);
  suite_add_tcase(suite, trees);
  TCase *faults = tcase_create("faults");
  tcase_set_timeout(faults, 0);
  tcase_add_loop_test(faults, mending_survives_every_fault, 0, 5);
  suite_add_tcase(suite, faults);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
