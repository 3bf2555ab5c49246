/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_documents.c - versions, names, expiry, attributes, tokens and batches, one rule after the other, on the simulated device. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/sdb.h"
#include "simulated.h"

#define DAY (24ull * 3600 * 1000)

static sim *device;
static sdb *db;
static sdb_options options;

static void open_again(void) {
  if (db != NULL) ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_int_eq(sdb_open("things.sdb", &options, &db), SDB_OK);
}

static void setup(void) {
  device = sim_new(1);
  sdb_options_init(&options);
  options.storage = sim_storage(device);
  options.threads = false;
  options.page_size = 4096;
  options.wal_segment_size = 65536;
  db = NULL;
  open_again();
}

/* Every test ends with a check, and leaves nothing open. */
static void teardown(void) {
  sdb_check_report report = {.size = sizeof report};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

static void crash(void) {
  sim_die_now(device);
  (void)!sdb_close(db); /* the power is gone: whatever it says */
  db = NULL;
  sim_crash(device, SIM_DROP_ALL, 1);
  open_again();
}

static uint64_t now(void) { return options.storage->now_ms(options.storage->ctx); }

static void work(void) {
  bool more = true;
  for (int i = 0; i < 1000 && more; i++) ck_assert_int_eq(sdb_step(db, 100, &more), SDB_OK);
}

static sdb_put_options plain(void) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  return o;
}

static int put_with(const char *path, const char *text, const sdb_put_options *o, sdb_commit *commit) {
  return sdb_put(db, path, strlen(path), text, strlen(text), o, commit);
}

static sdb_commit put(const char *path, const char *text) {
  sdb_commit commit;
  ck_assert_int_eq(put_with(path, text, NULL, &commit), SDB_OK);
  return commit;
}

static int get(const char *path, uint32_t version, char text[64]) {
  size_t size = 0;
  int code = sdb_get(db, path, strlen(path), version, text, 63, &size, NULL);
  text[code == SDB_OK ? size : 0] = 0;
  return code;
}

static void must_be(const char *path, uint32_t version, const char *expected) {
  char text[64];
  ck_assert_int_eq(get(path, version, text), SDB_OK);
  ck_assert_str_eq(text, expected);
}

static void must_fail(const char *path, uint32_t version, int code) {
  char text[64];
  ck_assert_int_eq(get(path, version, text), code);
}

static int bind_name(const char *path, const char *name, sdb_commit *commit) {
  return sdb_bind(db, path, strlen(path), name, strlen(name), NULL, commit);
}
static int unbind_name(const char *name) { return sdb_unbind(db, name, strlen(name), NULL, NULL); }

/* --- Versions ----------------------------------------------------------------------------------------------------------------- */

START_TEST(as_many_versions_as_are_kept) {
  options.versions_to_keep = (uint32_t)_i;
  open_again();
  char text[32];
  unsigned made = (unsigned)_i + 20;
  for (unsigned v = 1; v <= made; v++) {
    snprintf(text, sizeof text, "text %u", v);
    ck_assert_uint_eq(put("/a", text).info.version, v);
  }
  for (int round = 0; round < 3; round++) {
    static sdb_info infos[256];
    size_t count;
    ck_assert_int_eq(sdb_versions(db, "/a", 2, infos, 256, &count), SDB_OK);
    ck_assert_uint_eq(count, (size_t)_i);
    for (unsigned i = 0; i < count; i++) {
      ck_assert_uint_eq(infos[i].version, made - i);
      ck_assert_uint_eq(infos[i].oldest, made - (unsigned)_i + 1);
      snprintf(text, sizeof text, "text %u", made - i);
      must_be("/a", made - i, text);
      ck_assert_uint_eq(infos[i].digest, sdb_crc32c(0, text, strlen(text)));
    }
    must_fail("/a", made - (unsigned)_i, SDB_NOT_FOUND);
    must_fail("/a", made + 1, SDB_NOT_FOUND);
    if (round == 0) crash();
    else open_again();
  }
  if (_i < 3) return;
  options.versions_to_keep = 2; /* counts for what is put from now on */
  open_again();
  must_be("/a", made - 2, _i > 2 ? (snprintf(text, sizeof text, "text %u", made - 2), text) : "");
  put("/a", "new");
  must_be("/a", made, (snprintf(text, sizeof text, "text %u", made), text));
  must_fail("/a", made - 1, SDB_NOT_FOUND);
}
END_TEST

/* When a version was made, by the clock of the storage, is told by every call that tells of versions; and stays. */
START_TEST(a_version_says_when_it_was_made) {
  enum { KEPT = 4 };
  uint64_t made[KEPT + 1];
  sdb_info infos[KEPT], info;
  size_t count, size;
  options.versions_to_keep = KEPT;
  open_again();
  for (uint32_t v = 1; v <= KEPT; v++) {
    sim_advance(device, 1000 * v);
    made[v] = now();
    ck_assert_uint_eq(put("/a", "text").info.time_ms, made[v]);
  }
  sim_advance(device, 5000);
  ck_assert_int_eq(bind_name("/a", "/b", NULL), SDB_OK); /* makes no version */
  for (int round = 0; round < 3; round++) {
    ck_assert_int_eq(sdb_versions(db, "/b", 2, infos, KEPT, &count), SDB_OK);
    ck_assert_uint_eq(count, KEPT);
    for (uint32_t v = 1; v <= KEPT; v++) {
      char text[8];
      ck_assert_uint_eq(infos[KEPT - v].time_ms, made[v]);
      ck_assert_int_eq(sdb_stat(db, "/a", 2, v, &info), SDB_OK);
      ck_assert_uint_eq(info.time_ms, made[v]);
      ck_assert_int_eq(sdb_get(db, "/a", 2, v, text, sizeof text, &size, &info), SDB_OK);
      ck_assert_uint_eq(info.time_ms, made[v]);
    }
    if (round == 0) crash();
    else open_again();
  }
}
END_TEST

static uint64_t pages_touched(void) {
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  return stats.cache_hits + stats.cache_misses;
}

/* Whoever goes through all versions reads each of them once, not from the current one on for each. */
START_TEST(all_versions_cost_one_read_each) {
  enum { MANY = 255, MOST = 2 * MANY + 100 };
  static sdb_info infos[MANY];
  static const uint8_t token[16] = "unknown as yet";
  sdb_put_options o;
  size_t count;
  options.versions_to_keep = MANY;
  open_again();
  for (unsigned v = 0; v < MANY; v++) put("/a", "text");
  uint64_t before = pages_touched();
  ck_assert_int_eq(sdb_versions(db, "/a", 2, infos, MANY, &count), SDB_OK);
  ck_assert_uint_eq(count, MANY);
  ck_assert_uint_le(pages_touched() - before, MOST);
  sdb_put_options_init(&o);
  o.token = token;
  before = pages_touched();
  ck_assert_int_eq(put_with("/a", "text", &o, NULL), SDB_OK);
  ck_assert_uint_le(pages_touched() - before, MOST);
  before = pages_touched();
  ck_assert_int_eq(sdb_delete(db, "/a", 2, NULL, NULL), SDB_OK);
  ck_assert_uint_le(pages_touched() - before, 2 * MOST); /* and the room of each is given back */
}
END_TEST

START_TEST(an_older_version_again) {
  sdb_put_options o = plain();
  sdb_commit commit;
  o.content_type = "text/plain";
  o.metadata = "m";
  o.metadata_len = 1;
  ck_assert_int_eq(put_with("/a", "first", &o, NULL), SDB_OK);
  put("/a", "second");
  ck_assert_int_eq(sdb_restore_version(db, "/a", 2, 1, NULL, &commit), SDB_OK);
  ck_assert_uint_eq(commit.info.version, 3);
  must_be("/a", SDB_CURRENT, "first");
  must_be("/a", 2, "second");
  static sdb_attributes a;
  ck_assert_int_eq(sdb_get_attributes(db, "/a", 2, SDB_CURRENT, &a), SDB_OK);
  ck_assert_str_eq(a.content_type, "text/plain");
  ck_assert(a.metadata_len == 1 && a.metadata[0] == 'm');
  ck_assert_int_eq(sdb_restore_version(db, "/a", 2, 1, NULL, &commit), SDB_NOT_FOUND);
  o = plain();
  o.expect = 2;
  ck_assert_int_eq(sdb_restore_version(db, "/a", 2, 2, &o, &commit), SDB_CONFLICT);
}
END_TEST

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

/* RFC 9562: the time of creation in milliseconds, version 7, variant 2. No two are equal, also of one moment. */
START_TEST(ids_are_uuids_of_version_7) {
  enum { MANY = 50 };
  uint8_t ids[MANY][16], id[16];
  char path[16];
  for (unsigned i = 0; i < MANY; i++) {
    uint64_t ms = 0;
    snprintf(path, sizeof path, "/u/%u", i);
    sdb_commit commit = put(path, "x");
    memcpy(ids[i], commit.info.id, 16);
    for (int b = 0; b < 6; b++) ms = ms << 8 | ids[i][b];
    ck_assert_uint_eq(ms, now());
    ck_assert_uint_eq(ids[i][6] >> 4, 7);
    ck_assert_uint_eq(ids[i][8] >> 6, 2);
    for (unsigned k = 0; k < i; k++) ck_assert(memcmp(ids[i], ids[k], 16) != 0);
    if (i % 3 == 0) sim_advance(device, 777);
  }
  crash();
  for (unsigned i = 0; i < MANY; i++) {
    snprintf(path, sizeof path, "/u/%u", i);
    ck_assert_int_eq(sdb_id_of(db, path, strlen(path), id), SDB_OK);
    ck_assert_mem_eq(id, ids[i], 16);
  }
}
END_TEST

START_TEST(names_are_equal) {
  sdb_commit first = put("/a", "one"), commit;
  ck_assert_int_eq(bind_name("/a", "/b", &commit), SDB_OK);
  ck_assert_uint_eq(commit.info.version, 1);
  ck_assert_uint_eq(commit.info.names, 2);
  ck_assert_int_eq(bind_name("/b", "/a", &commit), SDB_OK);
  ck_assert(commit.repeated);
  must_be("/b", SDB_CURRENT, "one");
  commit = put("/b", "two");
  ck_assert_uint_eq(commit.info.version, 2);
  ck_assert_mem_eq(commit.info.id, first.info.id, 16);
  must_be("/a", SDB_CURRENT, "two");
  must_be("/a", 1, "one");
  sdb_path *paths;
  size_t count;
  crash();
  ck_assert_int_eq(sdb_paths_of(db, first.info.id, &paths, &count), SDB_OK);
  ck_assert_uint_eq(count, 2);
  ck_assert(paths[0].len == 2 && memcmp(paths[0].path, "/a", 2) == 0 && memcmp(paths[1].path, "/b", 2) == 0);
  sdb_free(db, paths);
  put("/c", "other");
  ck_assert_int_eq(bind_name("/a", "/c", NULL), SDB_CONFLICT);
  ck_assert_int_eq(bind_name("/none", "/d", NULL), SDB_NOT_FOUND);
  ck_assert_int_eq(unbind_name("/a"), SDB_OK);
  must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
  must_be("/b", SDB_CURRENT, "two");
  crash();
  must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
  must_be("/b", 1, "one");
  ck_assert_int_eq(unbind_name("/b"), SDB_OK); /* the last one */
  ck_assert_int_eq(sdb_paths_of(db, first.info.id, &paths, &count), SDB_NOT_FOUND);
  ck_assert_int_eq(unbind_name("/b"), SDB_NOT_FOUND);
}
END_TEST

START_TEST(as_many_names_as_fit) {
  char name[SDB_MAX_PATH];
  sdb_commit commit;
  put("/a", "x");
  for (unsigned i = 1; i < SDB_MAX_NAMES; i++) {
    snprintf(name, sizeof name, "/name/%u", i);
    ck_assert_int_eq(bind_name("/a", name, &commit), SDB_OK);
    ck_assert_uint_eq(commit.info.names, i + 1);
  }
  ck_assert_int_eq(bind_name("/a", "/one/more", NULL), SDB_TOO_LARGE);
  must_be("/name/63", SDB_CURRENT, "x");
  put("/b", "y");
  unsigned bound = 0;
  memset(name, 'n', sizeof name);
  int code = SDB_OK;
  for (; code == SDB_OK; bound++) { /* a page of 4,096 bytes has room for three of these */
    name[0] = (char)('a' + bound);
    code = sdb_bind(db, "/b", 2, name, sizeof name, NULL, NULL);
  }
  ck_assert_int_eq(code, SDB_TOO_LARGE);
  ck_assert_uint_eq(bound, 4);
  static char text[1500]; /* does not fit beside the names, but into an extent */
  for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * i * 31 / 7);
  ck_assert_int_eq(sdb_put(db, "/b", 2, text, sizeof text, NULL, &commit), SDB_OK);
  ck_assert_uint_eq(commit.info.names, 4);
  name[0] = 'b';
  char got[1500];
  size_t size;
  ck_assert_int_eq(sdb_get(db, name, sizeof name, SDB_CURRENT, got, sizeof got, &size, NULL), SDB_OK);
  ck_assert(size == sizeof text && memcmp(got, text, size) == 0);
  ck_assert_int_eq(sdb_delete(db, name, sizeof name, NULL, &commit), SDB_OK);
  must_fail("/b", SDB_CURRENT, SDB_NOT_FOUND);
}
END_TEST

/* Two of them in one batch: each is found not to fit when its turn comes, and moves out; the rest of the batch stays as it was. */
START_TEST(contents_beside_many_names_in_a_batch) {
  static char text[1500];
  char name[SDB_MAX_PATH], got[1500];
  size_t size, failed = 0;
  sdb_batch *batch;
  sdb_batch_result results[3];
  for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * i * 31 / 7);
  memset(name, 'n', sizeof name);
  for (int d = 0; d < 2; d++) {
    put(d == 0 ? "/a" : "/b", "x");
    for (int i = 0; i < 3; i++) {
      name[0] = (char)('a' + 3 * d + i);
      ck_assert_int_eq(sdb_bind(db, d == 0 ? "/a" : "/b", 2, name, sizeof name, NULL, NULL), SDB_OK);
    }
  }
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  ck_assert_int_eq(sdb_batch_put(batch, "/a", 2, text, sizeof text, NULL), SDB_OK);
  ck_assert_int_eq(sdb_batch_put(batch, "/c", 2, "small", 5, NULL), SDB_OK);
  ck_assert_int_eq(sdb_batch_put(batch, "/b", 2, text, sizeof text - 1, NULL), SDB_OK);
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, results, 3, &failed), SDB_OK);
  ck_assert_uint_eq(failed, 3);
  crash();
  for (int d = 0; d < 2; d++) {
    name[0] = (char)('a' + 3 * d);
    ck_assert_int_eq(sdb_get(db, name, sizeof name, SDB_CURRENT, got, sizeof got, &size, NULL), SDB_OK);
    ck_assert(size == sizeof text - (size_t)d && memcmp(got, text, size) == 0);
  }
  must_be("/c", SDB_CURRENT, "small");
}
END_TEST

START_TEST(delete_by_id) {
  sdb_commit a = put("/a", "one"), commit;
  ck_assert_int_eq(bind_name("/a", "/b", NULL), SDB_OK);
  ck_assert_int_eq(sdb_delete_id(db, a.info.id, NULL, &commit), SDB_OK);
  ck_assert_uint_eq(commit.info.version, 1);
  must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
  must_fail("/b", SDB_CURRENT, SDB_NOT_FOUND);
  sdb_commit b = put("/a", "two"); /* perhaps the same number, never the same document */
  ck_assert(memcmp(a.info.id, b.info.id, 16) != 0);
  ck_assert_int_eq(sdb_delete_id(db, a.info.id, NULL, &commit), SDB_NOT_FOUND);
  must_be("/a", SDB_CURRENT, "two");
}
END_TEST

/* --- Conditions and tokens ---------------------------------------------------------------------------------------------------- */

START_TEST(a_token_makes_a_retry_harmless) {
  static const uint8_t token[16] = "this very write", other[16] = "and another one";
  sdb_put_options o = plain();
  sdb_commit first, again;
  o.token = token;
  o.expect = SDB_ABSENT;
  ck_assert_int_eq(put_with("/a", "one", &o, &first), SDB_OK);
  ck_assert_int_eq(put_with("/a", "one", &o, &again), SDB_OK); /* before any condition */
  ck_assert(again.repeated && again.info.version == 1);
  crash();
  put("/a", "two");
  ck_assert_int_eq(put_with("/a", "one", &o, &again), SDB_OK); /* the version before is kept */
  ck_assert(again.repeated && again.info.version == 1);
  must_be("/a", SDB_CURRENT, "two");
  put("/a", "three");
  ck_assert_int_eq(put_with("/a", "one", &o, &again), SDB_CONFLICT); /* forgotten with its version */
  o.token = other;
  ck_assert_int_eq(put_with("/a", "four", &o, &again), SDB_CONFLICT);
  o.expect = 3;
  ck_assert_int_eq(put_with("/a", "four", &o, &again), SDB_OK);
  ck_assert(!again.repeated && again.info.version == 4);
}
END_TEST

/* --- Expiry ------------------------------------------------------------------------------------------------------------------- */

static sdb_commit put_until(const char *path, const char *text, uint64_t ms) {
  sdb_put_options o = plain();
  sdb_commit commit;
  o.expires_ms = ms;
  ck_assert_int_eq(put_with(path, text, &o, &commit), SDB_OK);
  return commit;
}

static uint64_t documents(void) {
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
  return stats.documents;
}

static size_t found(void) {
  sdb_cursor *cursor;
  sdb_entry entry;
  size_t n = 0;
  ck_assert_int_eq(sdb_cursor_open(db, NULL, &cursor), SDB_OK);
  while (sdb_cursor_next(cursor, &entry) == SDB_OK) n++;
  sdb_cursor_close(cursor);
  return n;
}

START_TEST(what_has_expired_is_gone) {
  sdb_commit commit = put_until("/a", "one", now() + 1000);
  ck_assert_uint_eq(commit.info.expires_ms, now() + 1000);
  ck_assert_int_eq(bind_name("/a", "/b", NULL), SDB_OK);
  put("/stays", "x");
  sim_advance(device, 999);
  must_be("/b", SDB_CURRENT, "one");
  ck_assert_uint_eq(found(), 3);
  sim_advance(device, 1);
  must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
  must_fail("/b", 1, SDB_NOT_FOUND);
  ck_assert_uint_eq(found(), 1);
  sdb_path *paths;
  size_t count;
  ck_assert_int_eq(sdb_paths_of(db, commit.info.id, &paths, &count), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_delete(db, "/a", 2, NULL, NULL), SDB_NOT_FOUND);
  ck_assert_int_eq(unbind_name("/b"), SDB_NOT_FOUND);
  ck_assert_int_eq(bind_name("/a", "/c", NULL), SDB_NOT_FOUND);
  ck_assert_uint_eq(documents(), 2); /* not collected yet */
  if (_i == 0) {
    sim_advance(device, 2000);
    work();
    ck_assert_uint_eq(documents(), 1);
    sdb_stats stats = {.size = sizeof stats};
    ck_assert_int_eq(sdb_get_stats(db, &stats), SDB_OK);
    ck_assert_uint_eq(stats.expired, 1);
    crash();
    must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
    must_be("/stays", SDB_CURRENT, "x");
  } else { /* its place is free for others at once */
    sdb_put_options o = plain();
    o.expect = SDB_ABSENT;
    ck_assert_int_eq(put_with("/a", "two", &o, &commit), SDB_OK);
    ck_assert(commit.created && commit.info.version == 1 && commit.info.expires_ms == 0);
    must_fail("/b", SDB_CURRENT, SDB_NOT_FOUND);
    ck_assert_int_eq(bind_name("/stays", "/b", NULL), SDB_OK);
    crash();
    must_be("/a", SDB_CURRENT, "two");
    must_be("/b", SDB_CURRENT, "x");
    ck_assert_uint_eq(documents(), 2);
  }
}
END_TEST

START_TEST(the_last_version_says_when) {
  put_until("/a", "one", now() + 1000);
  put_until("/a", "two", now() + 5000);
  put_until("/b", "one", now() + 1000);
  put("/b", "two");
  sim_advance(device, 2000);
  work();
  must_be("/a", SDB_CURRENT, "two");
  must_be("/b", SDB_CURRENT, "two");
  open_again();
  sim_advance(device, 4000);
  work();
  must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
  ck_assert_uint_eq(documents(), 1);
}
END_TEST

/* A clock that is ahead by more than a day is not believed for an hour. */
START_TEST(a_clock_that_jumps) {
  put_until("/a", "one", now() + 1000);
  work();
  sim_jump(device, 2 * DAY);
  must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
  sim_advance(device, 1000); /* it is looked at every second */
  work();
  ck_assert_uint_eq(documents(), 1);
  sim_advance(device, 3500 * 1000);
  work();
  ck_assert_uint_eq(documents(), 1);
  sim_advance(device, 200 * 1000);
  work();
  ck_assert_uint_eq(documents(), 0);
}
END_TEST

/* At most 64 go in a commit, so that nobody waits for all of them. */
START_TEST(many_expire_at_once) {
  char path[32];
  sdb_stats before = {.size = sizeof before}, after = before;
  for (int i = 0; i < 500; i++) {
    snprintf(path, sizeof path, "/m/%d", i);
    put_until(path, "x", now() + 1000 + (uint64_t)i);
  }
  sim_advance(device, 60000);
  ck_assert_int_eq(sdb_get_stats(db, &before), SDB_OK);
  work();
  ck_assert_uint_eq(documents(), 0);
  ck_assert_uint_eq(found(), 0);
  ck_assert_int_eq(sdb_get_stats(db, &after), SDB_OK);
  ck_assert_uint_eq(after.expired, 500);
  ck_assert_uint_ge(after.sequence - before.sequence, (500 + 63) / 64);
}
END_TEST

/* --- Attributes --------------------------------------------------------------------------------------------------------------- */

START_TEST(attributes_up_to_their_borders) {
  static char type[SDB_MAX_CONTENT_TYPE + 2];
  static uint8_t metadata[SDB_MAX_METADATA + 1];
  static sdb_attributes a;
  sdb_put_options o = plain();
  memset(type, 't', sizeof type - 1);
  memset(metadata, 0xA5, sizeof metadata);
  o.content_type = type;
  ck_assert_int_eq(put_with("/a", "one", &o, NULL), SDB_INVALID);
  type[SDB_MAX_CONTENT_TYPE] = 0;
  o.metadata = metadata;
  o.metadata_len = sizeof metadata;
  ck_assert_int_eq(put_with("/a", "one", &o, NULL), SDB_INVALID);
  must_fail("/a", SDB_CURRENT, SDB_NOT_FOUND);
  o.metadata_len = SDB_MAX_METADATA;
  sdb_commit commit;
  ck_assert_int_eq(put_with("/a", "one", &o, &commit), SDB_OK);
  ck_assert_uint_eq(commit.info.metadata_len, SDB_MAX_METADATA);
  ck_assert_uint_eq(commit.info.content_type_len, SDB_MAX_CONTENT_TYPE);
  put("/a", "two"); /* each version has its own */
  crash();
  ck_assert_int_eq(sdb_get_attributes(db, "/a", 2, 1, &a), SDB_OK);
  ck_assert_str_eq(a.content_type, type);
  ck_assert(a.metadata_len == SDB_MAX_METADATA && memcmp(a.metadata, metadata, SDB_MAX_METADATA) == 0);
  ck_assert_int_eq(sdb_get_attributes(db, "/a", 2, 2, &a), SDB_OK);
  ck_assert(a.metadata_len == 0 && a.content_type[0] == 0);
}
END_TEST

/* What stands beside the contents, entry by entry: every third document has a type, every second metadata, each of another length;
 * together more than a cursor holds at once. */
START_TEST(searches_tell_attributes) {
  static uint8_t metadata[SDB_MAX_METADATA];
  static char type[SDB_MAX_CONTENT_TYPE + 1];
  enum { MANY = 200 };
  memset(metadata, 0x5A, sizeof metadata);
  memset(type, 't', sizeof type - 1);
  for (unsigned i = 0; i < MANY; i++) {
    sdb_put_options o = plain();
    char path[32];
    snprintf(path, sizeof path, "/typed/%04u", i);
    type[SDB_MAX_CONTENT_TYPE - i] = 0;
    if (i % 3 == 0) o.content_type = type;
    if (i % 2 == 0) o.metadata = metadata, o.metadata_len = SDB_MAX_METADATA - i;
    ck_assert_int_eq(put_with(path, "x", &o, NULL), SDB_OK);
    type[SDB_MAX_CONTENT_TYPE - i] = 't';
  }
  for (int asked = 0; asked < 4; asked++) {
    sdb_cursor_options o;
    sdb_cursor *cursor;
    sdb_entry entry;
    unsigned i = 0;
    int rc;
    sdb_cursor_options_init(&o);
    o.infos = asked & 1;
    o.attributes = asked & 2;
    ck_assert_int_eq(sdb_cursor_open(db, &o, &cursor), SDB_OK);
    for (; (rc = sdb_cursor_next(cursor, &entry)) == SDB_OK; i++) {
      size_t type_len = o.attributes && i % 3 == 0 ? SDB_MAX_CONTENT_TYPE - i : 0;
      size_t metadata_len = o.attributes && i % 2 == 0 ? SDB_MAX_METADATA - i : 0;
      ck_assert_uint_eq(entry.path_len, strlen("/typed/0000"));
      ck_assert_uint_eq(entry.content_type_len, type_len);
      ck_assert_uint_eq(entry.metadata_len, metadata_len);
      ck_assert((entry.content_type != NULL) == (type_len > 0) && (entry.metadata != NULL) == (metadata_len > 0));
      if (type_len > 0) ck_assert_mem_eq(entry.content_type, type, type_len);
      if (metadata_len > 0) ck_assert_mem_eq(entry.metadata, metadata, metadata_len);
      ck_assert_uint_eq(entry.info.version, o.infos ? 1 : 0);
    }
    ck_assert_int_eq(rc, SDB_END);
    ck_assert_uint_eq(i, MANY);
    sdb_cursor_close(cursor);
  }
}
END_TEST

/* --- Batches ------------------------------------------------------------------------------------------------------------------ */

static void batch_put(sdb_batch *batch, const char *path, const char *text, uint32_t expect) {
  sdb_put_options o = plain();
  o.expect = expect;
  ck_assert_int_eq(sdb_batch_put(batch, path, strlen(path), text, strlen(text), &o), SDB_OK);
}

START_TEST(all_of_a_batch_or_nothing) {
  static char large[100000];
  sdb_batch *batch;
  sdb_batch_result results[8];
  size_t failed = 99;
  memset(large, 'L', sizeof large);
  for (size_t i = 0; i < sizeof large; i += 7) large[i] = (char)(i * 2654435761u >> 8);
  put("/old", "x");
  for (int round = 0; round < 2; round++) { /* at first its last condition does not hold */
    sdb_writer *writer;
    ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
    batch_put(batch, "/a", "one", SDB_ABSENT);
    batch_put(batch, "/a", "two", 1); /* sees what came before it */
    ck_assert_int_eq(sdb_batch_bind(batch, "/a", 2, "/also", 5, 2), SDB_OK);
    ck_assert_int_eq(sdb_batch_delete(batch, "/old", 4, 1), SDB_OK);
    ck_assert_int_eq(sdb_batch_delete(batch, "/none", 5, SDB_ANY), SDB_OK);
    ck_assert_int_eq(sdb_writer_open(db, "/large", 6, SDB_UNKNOWN_SIZE, NULL, &writer), SDB_OK);
    ck_assert_int_eq(sdb_writer_write(writer, large, sizeof large), SDB_OK);
    ck_assert_int_eq(sdb_batch_put_writer(batch, writer), SDB_OK);
    ck_assert_int_eq(sdb_batch_expect(batch, "/watched", 8, round == 0 ? 7 : SDB_ABSENT), SDB_OK);
    ck_assert_uint_eq(sdb_batch_count(batch), 7);
    int code = sdb_batch_commit(batch, NULL, results, 8, &failed);
    if (round == 0) {
      ck_assert_int_eq(code, SDB_CONFLICT);
      ck_assert_uint_eq(failed, 6);
      must_be("/old", SDB_CURRENT, "x");
      ck_assert_uint_eq(documents(), 1);
      ck_assert_uint_eq(found(), 1);
      crash();
      ck_assert_uint_eq(found(), 1);
    } else {
      ck_assert_int_eq(code, SDB_OK);
      ck_assert_uint_eq(failed, 7);
    }
  }
  ck_assert_int_eq(results[0].commit.info.version, 1);
  ck_assert_int_eq(results[1].commit.info.version, 2);
  ck_assert_int_eq(results[2].commit.info.names, 2);
  ck_assert_int_eq(results[3].code, SDB_OK);
  ck_assert_int_eq(results[4].code, SDB_NOT_FOUND);
  for (int i = 1; i < 6; i++) ck_assert_uint_eq(results[i].commit.sequence, results[0].commit.sequence);
  crash();
  must_be("/also", SDB_CURRENT, "two");
  must_fail("/old", SDB_CURRENT, SDB_NOT_FOUND);
  static char got[sizeof large];
  size_t size;
  ck_assert_int_eq(sdb_get(db, "/large", 6, SDB_CURRENT, got, sizeof got, &size, NULL), SDB_OK);
  ck_assert(size == sizeof large && memcmp(got, large, size) == 0);
}
END_TEST

/* More than a log record holds: the contents go elsewhere, and at some point the batch says that it is full. */
START_TEST(a_batch_that_grows) {
  static char noise[1800];
  sdb_batch *batch;
  char path[200];
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  unsigned count = 0;
  int code = SDB_OK;
  while (code == SDB_OK) {
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)((i * 2654435761u + count * 40503u) >> 11);
    snprintf(path, sizeof path, "/%0150u", count);
    code = sdb_batch_put(batch, path, strlen(path), noise, sizeof noise, NULL);
    if (code == SDB_OK) count++;
  }
  ck_assert_int_eq(code, SDB_TOO_LARGE);
  ck_assert_uint_gt(count * sizeof noise, options.wal_segment_size);
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_OK);
  crash();
  ck_assert_uint_eq(found(), count);
}
END_TEST

START_TEST(batches_that_do_nothing) {
  sdb_batch *batch;
  sdb_stats before = {.size = sizeof before}, after = {.size = sizeof after};
  ck_assert_int_eq(sdb_get_stats(db, &before), SDB_OK);
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_OK);
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  ck_assert_int_eq(sdb_batch_unbind(batch, "/none", 5, SDB_ANY), SDB_OK);
  ck_assert_int_eq(sdb_batch_expect(batch, "/none", 5, SDB_ABSENT), SDB_OK);
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_OK);
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  batch_put(batch, "/a", "x", SDB_ANY);
  sdb_batch_abort(batch);
  ck_assert_int_eq(sdb_get_stats(db, &after), SDB_OK);
  ck_assert_uint_eq(before.sequence, after.sequence);
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  ck_assert_int_eq(sdb_batch_put(batch, "", 0, "x", 1, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_batch_put(batch, "/a", 2, NULL, 1, NULL), SDB_INVALID);
  ck_assert_int_eq(sdb_batch_bind(batch, "/a", 2, NULL, 0, SDB_ANY), SDB_INVALID);
  ck_assert_uint_eq(sdb_batch_count(batch), 0);
  sdb_batch_abort(batch);
}
END_TEST

/* A document that is deleted and made again in a batch that fails must keep its number: another one once got it. */
START_TEST(a_number_is_not_given_out_twice) {
  sdb_batch *batch;
  crash(); /* so that free numbers are looked for from the start */
  put("/a", "one");
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  ck_assert_int_eq(sdb_batch_delete(batch, "/a", 2, SDB_ANY), SDB_OK);
  batch_put(batch, "/b", "two", SDB_ANY);
  ck_assert_int_eq(sdb_batch_expect(batch, "/c", 2, 5), SDB_OK);
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_CONFLICT);
  put("/d", "three");
  must_be("/a", SDB_CURRENT, "one");
  must_be("/d", SDB_CURRENT, "three");
}
END_TEST

/* --- Figures ------------------------------------------------------------------------------------------------------------------ */

static sdb_stats stats(void) {
  sdb_stats s = {.size = sizeof s};
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  return s;
}

/* What was done is counted, once, where it happened. */
START_TEST(what_is_done_is_counted) {
  sdb_batch *batch;
  sdb_stats before = stats(), after;
  char text[64];
  put("/a", "one");
  put("/a", "two");
  must_be("/a", 1, "one");
  ck_assert_int_eq(get("/none", SDB_CURRENT, text), SDB_NOT_FOUND);
  ck_assert_int_eq(sdb_batch_open(db, &batch), SDB_OK);
  batch_put(batch, "/b", "three", SDB_ANY);
  batch_put(batch, "/c", "four", SDB_ANY);
  ck_assert_int_eq(sdb_batch_delete(batch, "/a", 2, SDB_ANY), SDB_OK);
  ck_assert_int_eq(sdb_batch_commit(batch, NULL, NULL, 0, NULL), SDB_OK);
  ck_assert_int_eq(sdb_delete(db, "/c", 2, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_delete(db, "/none", 5, NULL, NULL), SDB_NOT_FOUND);
  after = stats();
  ck_assert_uint_eq(after.puts - before.puts, 4);
  ck_assert_uint_eq(after.gets - before.gets, 2);
  ck_assert_uint_eq(after.deletes - before.deletes, 2);
  ck_assert_uint_eq(after.commits - before.commits, 4);
  ck_assert_uint_eq(after.syncs - before.syncs, 4); /* each alone; what was not there was known to be durable */
  ck_assert_uint_eq(after.sequence - before.sequence, 4);
  ck_assert_uint_eq(after.synced_sequence, after.sequence);
  ck_assert_uint_eq(after.documents, 1);
  ck_assert_uint_eq(after.names, 1);
  ck_assert_uint_eq(after.content_bytes, 5);
  ck_assert_int_eq(sdb_checkpoint(db), SDB_OK);
  ck_assert_uint_eq(stats().checkpoints, before.checkpoints + 1);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("documents");
  TCase *all = tcase_create("documents");
  static const int kept[] = {1, 2, 3, 4, 9, 255};
  tcase_set_timeout(all, 120);
  tcase_add_checked_fixture(all, setup, teardown);
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
    tcase_add_loop_test(all, as_many_versions_as_are_kept, kept[i], kept[i] + 1);
  tcase_add_test(all, a_version_says_when_it_was_made);
  tcase_add_test(all, all_versions_cost_one_read_each);
  tcase_add_test(all, an_older_version_again);
  tcase_add_test(all, ids_are_uuids_of_version_7);
  tcase_add_test(all, names_are_equal);
  tcase_add_test(all, as_many_names_as_fit);
  tcase_add_test(all, contents_beside_many_names_in_a_batch);
  tcase_add_test(all, delete_by_id);
  tcase_add_test(all, a_token_makes_a_retry_harmless);
  tcase_add_loop_test(all, what_has_expired_is_gone, 0, 2);
  tcase_add_test(all, the_last_version_says_when);
  tcase_add_test(all, a_clock_that_jumps);
  tcase_add_test(all, many_expire_at_once);
  tcase_add_test(all, attributes_up_to_their_borders);
  tcase_add_test(all, searches_tell_attributes);
  tcase_add_test(all, all_of_a_batch_or_nothing);
  tcase_add_test(all, a_batch_that_grows);
  tcase_add_test(all, batches_that_do_nothing);
  tcase_add_test(all, a_number_is_not_given_out_twice);
  tcase_add_test(all, what_is_done_is_counted);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
