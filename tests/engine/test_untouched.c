/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_untouched.c - what only reads and what is refused leaves every file, and the folder, byte for byte as it was.
 *
 * Each case is built on the simulated device, where every call that could change something is counted as well; the read-only handle
 * once more on files of the system.
 */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sdb/care.h"
#include "sdb/changes.h"
#include "simulated.h"

#define NAME "things.sdb"
#define FIRST_LOG NAME ".log.0000"

enum { FILES = 16, SLOT_A = 0, SLOT_B = 65536, SLOT = 4096, DOCUMENTS = 40, LONG = 150000 };

static const uint8_t key[SDB_KEY_SIZE] = "thirty-two bytes make up a key..";
static const uint8_t other_key[SDB_KEY_SIZE] = "thirty-two bytes of another key.";
static uint8_t content[LONG];
static char message[256];

/* --- What stands on the device ------------------------------------------------------------------------------------------------ */

typedef struct picture {
  size_t count;
  char *names[FILES];
  uint8_t *bytes[FILES];
  uint64_t sizes[FILES];
} picture;

static picture take_picture(const sim *device) {
  picture p = {0};
  for (const char *name; (name = sim_name(device, p.count)) != NULL; p.count++) {
    ck_assert_uint_lt(p.count, FILES);
    ck_assert(sim_size(device, name, &p.sizes[p.count]));
    p.names[p.count] = strdup(name);
    p.bytes[p.count] = malloc(p.sizes[p.count] + 1);
    ck_assert(p.sizes[p.count] == 0 || sim_peek(device, name, 0, p.bytes[p.count], p.sizes[p.count]));
  }
  return p;
}

static void drop_picture(picture *p) {
  for (size_t i = 0; i < p->count; i++) {
    free(p->names[i]);
    free(p->bytes[i]);
  }
}

/* `prefix`: only files whose name begins so. */
static void must_be_as(const picture *before, const sim *device, const char *prefix, const char *what) {
  picture now = take_picture(device);
  size_t b = 0, n = 0;
  for (;; b++, n++) {
    while (b < before->count && strncmp(before->names[b], prefix, strlen(prefix)) != 0) b++;
    while (n < now.count && strncmp(now.names[n], prefix, strlen(prefix)) != 0) n++;
    if (b == before->count && n == now.count) break;
    ck_assert_msg(b < before->count, "%s: there is a new file %s", what, now.names[n < now.count ? n : 0]);
    ck_assert_msg(n < now.count, "%s: %s is gone", what, before->names[b]);
    ck_assert_msg(strcmp(before->names[b], now.names[n]) == 0, "%s: %s instead of %s", what, now.names[n], before->names[b]);
    ck_assert_msg(before->sizes[b] == now.sizes[n], "%s: %s has another size", what, now.names[n]);
    ck_assert_msg(memcmp(before->bytes[b], now.bytes[n], now.sizes[n]) == 0, "%s: %s changed", what, now.names[n]);
  }
  drop_picture(&now);
}

/* --- Databases ---------------------------------------------------------------------------------------------------------------- */

static sdb_options options_on(const sim *device, const uint8_t *with_key, bool read_only) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = device != NULL ? sim_storage(device) : NULL;
  o.threads = device == NULL;
  o.use_mmap = device == NULL;
  o.page_size = 4096;
  o.wal_segment_size = 65536;
  o.checkpoint_wal_bytes = 64 << 20;
  o.encryption_key = with_key;
  o.read_only = read_only;
  o.message = message;
  o.message_size = sizeof message;
  return o;
}

static sdb *open_with(const sdb_options *o) {
  sdb *db = NULL;
  int code = sdb_open(NAME, o, &db);
  ck_assert_msg(code == SDB_OK, "open: %s: %s", sdb_strerror(code), message);
  return db;
}

static size_t path_of(unsigned i, char path[16]) { return (size_t)snprintf(path, 16, "/d/%u", i); }

static void put(sdb *db, unsigned i, size_t size) {
  char path[16];
  ck_assert_int_eq(sdb_put(db, path, path_of(i, path), content + i, size, NULL, NULL), SDB_OK);
}

static void fill(sdb *db) {
  for (unsigned i = 0; i < DOCUMENTS; i++) put(db, i, 50 + 40 * i);
  put(db, 3, LONG - 3);
  ck_assert_int_eq(sdb_bind(db, "/d/4", 4, "/name", 5, NULL, NULL), SDB_OK);
}

enum state { CLEAN, CRASHED, BETWEEN_SLOTS, STATES };

static void die(sim *device, sdb *db) {
  sim_die_at(device, 1);
  sdb_close(db);
  sim_crash(device, SIM_DROP_ALL, 1);
}

static bool slot_b_next(const sim_event *e) {
  return strcmp(e->call, "write") == 0 && strcmp(e->name, NAME) == 0 && e->offset == SLOT_B;
}
static void die_before_slot_b(void *user, const sim_event *e) {
  if (slot_b_next(e)) sim_die_now(user);
}

/* A database after a clean close; with commits that are in the log only; with a checkpoint that stands in one slot only. */
static sim *make(enum state state, const uint8_t *with_key) {
  sim *device = sim_new(1);
  sdb_options o = options_on(device, with_key, false);
  sdb *db = open_with(&o);
  fill(db);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  if (state == CLEAN) {
    sim_crash(device, SIM_KEEP_ALL, 1);
    return device;
  }
  db = open_with(&o);
  for (unsigned i = 0; i < DOCUMENTS; i += 3) put(db, i, 1500);
  if (state == BETWEEN_SLOTS) {
    sim_watch(device, die_before_slot_b, device);
    ck_assert_int_ne(sdb_checkpoint(db), SDB_OK);
    sim_watch(device, NULL, NULL);
    sdb_close(db);
    sim_crash(device, SIM_DROP_ALL, 1);
  } else {
    die(device, db);
  }
  return device;
}

/* --- A handle that only reads ------------------------------------------------------------------------------------------------- */

static void take(void *user, int code, void *data, size_t size, const sdb_info *info) {
  (void)size, (void)info;
  ck_assert(code == SDB_OK || code == SDB_CANCELLED); /* by the close, where threads serve */
  sdb_free(user, data);
}

static void read_document(sdb *db, unsigned i) {
  char path[16];
  size_t len = path_of(i, path), size, got, count;
  void *data;
  sdb_info infos[4];
  sdb_attributes attributes;
  sdb_path *paths;
  sdb_reader *reader;
  ck_assert_int_eq(sdb_get_alloc(db, path, len, SDB_CURRENT, &data, &size, &infos[0]), SDB_OK);
  ck_assert_mem_eq(data, content + i, size);
  ck_assert_int_eq(sdb_get_range(db, path, len, SDB_CURRENT, 10, data, 20, &got, NULL), SDB_OK);
  ck_assert_int_eq(sdb_get_attributes(db, path, len, SDB_CURRENT, &attributes), SDB_OK);
  ck_assert_int_eq(sdb_paths_of(db, infos[0].id, &paths, &count), SDB_OK);
  ck_assert_int_eq(sdb_versions(db, path, len, infos, 4, &count), SDB_OK);
  ck_assert_int_eq(sdb_reader_open(db, path, len, SDB_CURRENT, &reader), SDB_OK);
  ck_assert_int_eq(sdb_reader_read(reader, data, 10, &got), SDB_OK);
  ck_assert_int_eq(sdb_get_async(db, path, len, SDB_CURRENT, take, db, NULL), SDB_OK);
  sdb_reader_close(reader);
  sdb_free(db, paths);
  sdb_free(db, data);
}

static void search_all(sdb *db) {
  sdb_cursor *cursor;
  sdb_entry entry;
  sdb_cursor_options o;
  sdb_cursor_options_init(&o);
  o.suffix = "7";
  o.suffix_len = 1;
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(sdb_cursor_open(db, i == 0 ? NULL : &o, &cursor), SDB_OK);
    while (sdb_cursor_next(cursor, &entry) == SDB_OK) {}
    sdb_cursor_close(cursor);
  }
}

static void refuse_writes(sdb *db) {
  sdb_writer *writer;
  sdb_batch *batch;
  ck_assert_int_eq(sdb_put(db, "/d/1", 4, "x", 1, NULL, NULL), SDB_READ_ONLY);
  ck_assert_int_eq(sdb_delete(db, "/d/1", 4, NULL, NULL), SDB_READ_ONLY);
  ck_assert_int_eq(sdb_bind(db, "/d/1", 4, "/n", 2, NULL, NULL), SDB_READ_ONLY);
  ck_assert_int_eq(sdb_unbind(db, "/d/1", 4, NULL, NULL), SDB_READ_ONLY);
  ck_assert_int_eq(sdb_restore_version(db, "/d/1", 4, 1, NULL, NULL), SDB_READ_ONLY);
  int code = sdb_writer_open(db, "/d/1", 4, SDB_UNKNOWN_SIZE, NULL, &writer);
  if (code == SDB_OK) code = sdb_writer_commit(writer, NULL);
  ck_assert_int_eq(code, SDB_READ_ONLY);
  code = sdb_batch_open(db, &batch);
  if (code == SDB_OK) {
    code = sdb_batch_put(batch, "/d/1", 4, "x", 1, NULL);
    if (code == SDB_OK) code = sdb_batch_commit(batch, NULL, NULL, 0, NULL);
    else sdb_batch_abort(batch);
  }
  ck_assert_int_eq(code, SDB_READ_ONLY);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_READ_ONLY);
}

/* Everything that a handle can be asked. */
static void use(sdb *db) {
  bool more;
  sdb_stats stats = {.size = sizeof stats};
  sdb_check_report report = {.size = sizeof report};
  sdb_snapshot *snapshot;
  sdb_position oldest, newest;
  sdb_changes *feed;
  sdb_change change;
  for (unsigned i = 0; i < DOCUMENTS; i++) read_document(db, i);
  for (int i = 0; i < 50; i++) ck_assert_int_eq(sdb_step(db, 10, &more), SDB_OK);
  search_all(db);
  ck_assert_int_eq(sdb_snapshot_open(db, &snapshot), SDB_OK);
  sdb_snapshot_close(snapshot);
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
  if (sdb_changes_range(db, &oldest, &newest) == SDB_OK && sdb_changes_open(db, &oldest, "", 0, &feed) == SDB_OK) {
    while (sdb_changes_next(feed, &change) == SDB_OK) {}
    sdb_changes_close(feed);
  }
  int code = sdb_flush(db);
  ck_assert(code == SDB_OK || code == SDB_READ_ONLY);
  refuse_writes(db);
}

START_TEST(reading_only_writes_nothing) {
  const uint8_t *with_key = _i >= STATES ? key : NULL;
  sim *device = make((enum state)(_i % STATES), with_key);
  picture before = take_picture(device);
  uint64_t changes = sim_calls(device, SIM_CHANGE);
  for (int round = 0; round < 2; round++) {
    sdb_options o = options_on(device, with_key, true);
    sdb *db = open_with(&o);
    use(db);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
  }
  must_be_as(&before, device, "", "reading");
  ck_assert_uint_eq(sim_calls(device, SIM_CHANGE), changes);
  sdb_options o = options_on(device, with_key, false);
  sdb *db = open_with(&o); /* and it was no damage that stood there all the time */
  put(db, 1, 100);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  drop_picture(&before);
  sim_free(device);
}
END_TEST

/* --- Files of the system ------------------------------------------------------------------------------------------------------ */

static char folder[] = "/tmp/sdb-untouched-XXXXXX";

/* Names, sizes, contents and times of modification, in one number. */
static uint64_t fingerprint(void) {
  uint64_t sum = 0;
  DIR *d = opendir(".");
  ck_assert_ptr_nonnull(d);
  for (const struct dirent *e; (e = readdir(d)) != NULL;) {
    struct stat s;
    if (e->d_name[0] == '.') continue;
    ck_assert_int_eq(stat(e->d_name, &s), 0);
    uint8_t *bytes = malloc((size_t)s.st_size + 1);
    FILE *f = fopen(e->d_name, "rb");
    ck_assert(f != NULL && bytes != NULL && fread(bytes, 1, (size_t)s.st_size, f) == (size_t)s.st_size);
    uint32_t crc = sdb_crc32c(sdb_crc32c(0, e->d_name, strlen(e->d_name)), bytes, (size_t)s.st_size);
    uint64_t state = crc ^ (uint64_t)s.st_mtim.tv_nsec << 32 ^ (uint64_t)s.st_mtim.tv_sec;
    sum += sim_random(&state);
    fclose(f);
    free(bytes);
  }
  closedir(d);
  return sum;
}

START_TEST(reading_only_leaves_the_folder) {
  ck_assert_ptr_nonnull(mkdtemp(folder));
  ck_assert_int_eq(chdir(folder), 0);
  sdb_options o = options_on(NULL, NULL, false);
  sdb *db = open_with(&o);
  fill(db);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  uint64_t before = fingerprint();
  o.read_only = true;
  sdb *first = open_with(&o), *second = open_with(&o);
  use(first);
  ck_assert_int_eq(sdb_close(first), SDB_OK);
  use(second);
  ck_assert_int_eq(sdb_close(second), SDB_OK);
  ck_assert_uint_eq(fingerprint(), before);
  ck_assert_int_eq(unlink(NAME), 0);
  ck_assert_int_eq(sdb_open(NAME, &o, &db), SDB_NOT_FOUND); /* `create` means nothing here */
  ck_assert_int_ne(access(NAME, F_OK), 0);
  ck_assert_int_eq(chdir("/"), 0);
  char command[64];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  ck_assert_int_eq(system(command), 0);
}
END_TEST

/* --- Refused ------------------------------------------------------------------------------------------------------------------ */

static void put_number(uint8_t *p, uint32_t v) {
  for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

/* Changes a number in a header slot and makes the checksum fit. */
static void forge_slot(sim *device, uint64_t slot, size_t offset, uint32_t bits) {
  uint8_t s[SLOT];
  ck_assert(sim_peek(device, NAME, slot, s, SLOT));
  s[offset] ^= (uint8_t)bits;
  put_number(s + 8, sdb_crc32c(0, s + 12, SLOT - 12));
  ck_assert(sim_poke(device, NAME, slot, s, SLOT));
}

static void forge_slots(sim *device, size_t offset, uint32_t bits) {
  forge_slot(device, SLOT_A, offset, bits);
  forge_slot(device, SLOT_B, offset, bits);
}

static void damage(sim *device, const char *name, uint64_t offset) {
  uint8_t byte;
  ck_assert(sim_peek(device, name, offset, &byte, 1));
  byte ^= 0x40;
  ck_assert(sim_poke(device, name, offset, &byte, 1));
}

static void newer_format(sim *device) { forge_slots(device, 12, 2); }
static void unknown_feature(sim *device) { forge_slots(device, 24, 0x80); }
static void feature_to_be_read(sim *device) { forge_slots(device, 20, 0x10); }
static void compatible_feature(sim *device) { forge_slots(device, 16, 0x20); }
static void odd_page_size(sim *device) { forge_slots(device, 29, 0x01); }
static void another_id(sim *device) { forge_slot(device, SLOT_B, 32, 0x01); }
static void both_slots(sim *device) {
  damage(device, NAME, SLOT_A + 100);
  damage(device, NAME, SLOT_B + 100);
}
static void no_magic(sim *device) {
  damage(device, NAME, SLOT_A);
  damage(device, NAME, SLOT_B);
}
static void cut_short(sim *device) { ck_assert(sim_cut(device, NAME, 300000)); }
static void emptied(sim *device) { ck_assert(sim_cut(device, NAME, 0)); }
static void a_text(sim *device) {
  ck_assert(sim_cut(device, NAME, 20));
  ck_assert(sim_poke(device, NAME, 0, "this is not for you.", 20));
}
static void forge_segment(sim *device, size_t offset) {
  uint8_t s[SLOT];
  ck_assert(sim_peek(device, FIRST_LOG, 0, s, SLOT));
  s[offset] ^= 1;
  put_number(s + 8, sdb_crc32c(0, s + 12, SLOT - 12));
  ck_assert(sim_poke(device, FIRST_LOG, 0, s, SLOT));
  ck_assert(sim_poke(device, FIRST_LOG, 65536 - SLOT, s, SLOT));
}
static void another_log(sim *device) { forge_segment(device, 16); }
static void another_epoch(sim *device) { forge_segment(device, 32); }
static void log_lost(sim *device) {
  const sdb_storage *st = sim_storage(device);
  for (int i = 0; i < FILES; i++) {
    char name[32];
    snprintf(name, sizeof name, NAME ".log.%04d", i);
    st->remove(st->ctx, name);
  }
}
static void data_lost(sim *device) { ck_assert_int_eq(sim_storage(device)->remove(sim_storage(device)->ctx, NAME), SDB_OK); }
static void nothing(sim *device) { (void)device; }

static const struct refusal {
  const char *what;
  void (*prepare)(sim *device);
  const uint8_t *made_with, *opened_with;
  bool any_log; /* also where the log does not matter */
  int code;
} refusals[] = {
    {"wrong key", nothing, key, other_key, true, SDB_WRONG_KEY},
    {"no key", nothing, key, NULL, true, SDB_WRONG_KEY},
    {"a key too many", nothing, NULL, key, true, SDB_WRONG_KEY},
    {"both slots damaged", both_slots, NULL, NULL, true, SDB_NOT_A_DATABASE},
    {"both slots damaged, encrypted", both_slots, key, key, true, SDB_NOT_A_DATABASE},
    {"no magic", no_magic, NULL, NULL, true, SDB_NOT_A_DATABASE},
    {"a text", a_text, NULL, NULL, true, SDB_NOT_A_DATABASE},
    {"emptied", emptied, NULL, NULL, true, SDB_NOT_A_DATABASE},
    {"newer format", newer_format, NULL, NULL, true, SDB_UNSUPPORTED},
    {"unknown feature", unknown_feature, NULL, NULL, true, SDB_UNSUPPORTED},
    {"odd page size", odd_page_size, NULL, NULL, true, SDB_CORRUPT},
    {"two databases in one", another_id, NULL, NULL, true, SDB_CORRUPT},
    {"cut short", cut_short, NULL, NULL, true, SDB_CORRUPT},
    {"the log of another database", another_log, NULL, NULL, false, SDB_MISMATCH},
    {"the log of another epoch", another_epoch, NULL, NULL, false, SDB_MISMATCH},
    {"the log lost", log_lost, NULL, NULL, false, SDB_MISMATCH},
    {"the data file lost", data_lost, NULL, NULL, false, SDB_MISMATCH},
};
enum { REFUSALS = sizeof refusals / sizeof *refusals };

static void refuse(const struct refusal *r, enum state state, bool read_only) {
  sim *device = make(state, r->made_with);
  r->prepare(device);
  sim_crash(device, SIM_KEEP_ALL, 1); /* what was prepared is durable */
  picture before = take_picture(device);
  uint64_t changes = sim_calls(device, SIM_CHANGE);
  sdb_options o = options_on(device, r->opened_with, read_only);
  sdb *db = NULL;
  message[0] = '\0';
  int code = sdb_open(NAME, &o, &db);
  char what[512];
  snprintf(what, sizeof what, "%s, state %d, read only %d, code %d (%s)", r->what, state, read_only, code, message);
  if (r->prepare == data_lost && read_only) ck_assert_msg(code == SDB_NOT_FOUND, "%s", what);
  else ck_assert_msg(code == r->code, "%s", what);
  ck_assert_msg(strlen(message) > 15, "%s: no sentence", what);
  must_be_as(&before, device, "", what);
  ck_assert_msg(sim_calls(device, SIM_CHANGE) == changes, "%s: something was written", what);
  ck_assert_uint_eq(sim_open_files(device), 0);
  ck_assert_uint_eq(sim_allocations(device), 0);
  drop_picture(&before);
  sim_free(device);
}

START_TEST(a_refused_open_writes_nothing) {
  for (int state = CLEAN; state < STATES; state++) {
    if (state == CLEAN && !refusals[_i].any_log) continue;
    refuse(&refusals[_i], (enum state)state, false);
    refuse(&refusals[_i], (enum state)state, true);
  }
}
END_TEST

static uint8_t slot_byte(const sim *device, const char *name, uint64_t slot, size_t offset) {
  uint8_t byte;
  ck_assert(sim_peek(device, name, slot + offset, &byte, 1));
  return byte;
}

/* What a newer edition says may be read by others, but not written: so it is, and copies of it say the same. */
START_TEST(a_feature_to_be_read_is_read) {
  enum { PLACE = 20, BIT = 0x10 };
  for (int state = CLEAN; state < STATES; state++) {
    const struct refusal r = {"a feature to be read", feature_to_be_read, NULL, NULL, true, SDB_UNSUPPORTED};
    refuse(&r, (enum state)state, false);
    ck_assert_msg(strstr(message, "for reading only") != NULL, "%s", message);
    sim *device = make((enum state)state, NULL);
    feature_to_be_read(device);
    sim_crash(device, SIM_KEEP_ALL, 1);
    picture before = take_picture(device);
    sdb_options o = options_on(device, NULL, true);
    sdb *db = open_with(&o);
    use(db);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    must_be_as(&before, device, "", "a feature to be read");
    if (state == CLEAN) {
      sdb_copy_options c;
      sdb_copy_options_init(&c);
      c.storage = sim_storage(device);
      c.verify = true;
      ck_assert_int_eq(sdb_restore(NAME, "restored.sdb", &c, NULL), SDB_OK);
      ck_assert_uint_eq(slot_byte(device, "restored.sdb", SLOT_A, PLACE), BIT);
      ck_assert_uint_eq(slot_byte(device, "restored.sdb", SLOT_B, PLACE), BIT);
    }
    drop_picture(&before);
    sim_free(device);
  }
}
END_TEST

/* What others need not know of stands in the way of nothing, and stays. */
START_TEST(a_compatible_feature_is_kept) {
  enum { PLACE = 16, BIT = 0x20 };
  for (int state = CLEAN; state < STATES; state++) {
    sim *device = make((enum state)state, NULL);
    compatible_feature(device);
    sim_crash(device, SIM_KEEP_ALL, 1);
    sdb_options o = options_on(device, NULL, false);
    sdb *db = open_with(&o);
    put(db, 1, 900);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    ck_assert_uint_eq(slot_byte(device, NAME, SLOT_A, PLACE), BIT);
    ck_assert_uint_eq(slot_byte(device, NAME, SLOT_B, PLACE), BIT);
    sim_free(device);
  }
}
END_TEST

/* A record in the middle of the log is damaged: served, but for reading only, and nothing is mended in passing. */
START_TEST(a_damaged_log_is_left_alone) {
  sim *device = make(CRASHED, NULL);
  unsigned found = 0;
  for (size_t i = 0; sim_name(device, i) != NULL; i++) {
    static uint8_t bytes[65536];
    const char *name = sim_name(device, i);
    if (strstr(name, ".log.") == NULL) continue;
    ck_assert(sim_peek(device, name, 0, bytes, sizeof bytes));
    const uint8_t *at = memmem(bytes, sizeof bytes, content, 1000);
    if (at == NULL) continue;
    damage(device, name, (uint64_t)(at - bytes));
    found++;
  }
  ck_assert_uint_ge(found, 1);
  picture before = take_picture(device);
  uint64_t changes = sim_calls(device, SIM_CHANGE);
  sdb_options o = options_on(device, NULL, false);
  sdb *db = open_with(&o);
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  ck_assert(stats.log_damaged);
  refuse_writes(db);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  must_be_as(&before, device, "", "a damaged log");
  ck_assert_uint_eq(sim_calls(device, SIM_CHANGE), changes);
  drop_picture(&before);
  sim_free(device);
}
END_TEST

/* --- Care --------------------------------------------------------------------------------------------------------------------- */

/* What verify, restore and repair read from stays as it was, damaged or not. */
START_TEST(care_leaves_its_source) {
  for (int state = CLEAN; state < STATES; state++) {
    for (int damaged = 0; damaged < 2; damaged++) {
      sim *device = make((enum state)state, NULL);
      if (damaged) both_slots(device);
      picture before = take_picture(device);
      sdb_options o = options_on(device, NULL, false);
      sdb_verify_report v = {.size = sizeof v};
      sdb_copy_options c;
      sdb_copy_options_init(&c);
      c.storage = sim_storage(device);
      c.verify = true;
      int code = sdb_verify(NAME, &o, NULL, NULL, &v);
      ck_assert_int_eq(code, damaged ? SDB_NOT_A_DATABASE : SDB_OK);
      code = sdb_restore(NAME, "restored.sdb", &c, NULL);
      ck_assert_int_eq(code, damaged ? SDB_NOT_A_DATABASE : state == CLEAN ? SDB_OK : SDB_MISMATCH);
      code = sdb_repair(NAME, "repaired.sdb", &o, NULL, NULL, NULL);
      ck_assert_msg(code == SDB_OK, "repair, state %d, damaged %d: %s: %s", state, damaged, sdb_strerror(code), message);
      must_be_as(&before, device, NAME, "care");
      drop_picture(&before);
      sim_free(device);
    }
  }
}
END_TEST

int main(void) {
  uint64_t state = 1;
  for (size_t i = 0; i < sizeof content; i++) content[i] = (uint8_t)sim_random(&state);
  Suite *suite = suite_create("untouched");
  TCase *t = tcase_create("untouched");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, reading_only_writes_nothing, 0, 2 * STATES);
  tcase_add_test(t, reading_only_leaves_the_folder);
  tcase_add_loop_test(t, a_refused_open_writes_nothing, 0, REFUSALS);
  tcase_add_test(t, a_feature_to_be_read_is_read);
  tcase_add_test(t, a_compatible_feature_is_kept);
  tcase_add_test(t, a_damaged_log_is_left_alone);
  tcase_add_test(t, care_leaves_its_source);
  suite_add_tcase(suite, t);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
