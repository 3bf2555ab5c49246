/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_changes.c - the feed of changes against a list of what was committed: tiny segments that are recycled under it, checkpoints,
 * crashes, opening again, damage.
 *
 * The list holds every commit with its sequence. At any moment a feed from position p must show exactly the commits of the list
 * behind p up to the last one that is synced, or say TRIMMED and be right about it.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdb/changes.h"
#include "seed.h"
#include "simulated.h"

#define NAME "things.sdb"
enum { PATHS = 24, COMMITS = 4000, OPS = 4, SEGMENT = 65536, GAP = 1 << 20 };

typedef struct item {
  sdb_operation operation;
  char path[16], alias[16]; /* a second name that the document has */
  uint32_t version, size;
  uint64_t time_ms;
  uint8_t id[16], token[16];
  bool has_token;
} item;

typedef struct done {
  uint64_t sequence;
  unsigned count;
  item items[OPS];
} done;

typedef struct world {
  sim *device;
  sdb *db;
  uint64_t seed, random, keep, epoch;
  done *list;
  size_t count;
  uint64_t begun;      /* where the numbers of this session begin */
  bool doc[PATHS];     /* exists */
  bool bound[PATHS];   /* has a second name */
  sdb_changes *follow; /* a feed that goes on from call to call */
  size_t followed;     /* commits of the list that it has shown */
  unsigned trims;
} world;

static uint8_t content[20000];
static const uint8_t key[32] = {1, 2, 3};

static uint64_t below(world *w, uint64_t n) { return sim_random(&w->random) % n; }

static void open_db(world *w) {
  sdb_options o;
  sdb_position newest;
  char message[256] = "";
  sdb_options_init(&o);
  o.storage = sim_storage(w->device);
  o.threads = false;
  o.use_mmap = false;
  o.page_size = 4096;
  o.page_cache_size = 64;
  o.wal_segment_size = SEGMENT;
  o.checkpoint_wal_bytes = 2 * SEGMENT;
  o.change_log_bytes = w->keep;
  o.encryption_key = w->seed % 3 == 1 ? key : NULL;
  o.message = message;
  o.message_size = sizeof message;
  ck_assert_msg(sdb_open(NAME, &o, &w->db) == SDB_OK, "seed %llu: %s", (unsigned long long)w->seed, message);
  ck_assert_int_eq(sdb_changes_range(w->db, NULL, &newest), SDB_OK);
  w->begun = newest.sequence;
  w->epoch = newest.epoch;
}

static void world_init(world *w, uint64_t seed, uint64_t keep) {
  *w = (world){.device = sim_new(seed), .seed = seed, .random = seed * 2654435761u + 1, .keep = keep};
  w->list = calloc(COMMITS, sizeof *w->list);
  ck_assert_ptr_nonnull(w->list);
  open_db(w);
}

static void close_db(world *w) {
  sdb_changes_close(w->follow);
  w->follow = NULL;
  sdb_close(w->db);
  w->db = NULL;
}

static void world_clear(world *w) {
  if (w->db) close_db(w);
  ck_assert_uint_eq(sim_allocations(w->device), 0);
  sim_free(w->device);
  free(w->list);
}

/* --- Work --------------------------------------------------------------------------------------------------------------------- */

static size_t path_of(uint64_t i, char path[16]) { return (size_t)snprintf(path, 16, "/%c/%02u", 'a' + (int)(i % 3), (unsigned)i); }
static size_t name_of(uint64_t i, char path[16]) { return (size_t)snprintf(path, 16, "/n/%02u", (unsigned)i); }

/* `token`: NULL, or what the put was given. */
static void note(done *d, sdb_operation operation, const char *path, const sdb_info *info, uint32_t size, const uint8_t *token) {
  item *it = &d->items[d->count++];
  *it = (item){.operation = operation, .version = info->version, .size = size, .has_token = token != NULL};
  if (operation == SDB_CHANGE_PUT) it->time_ms = info->time_ms;
  memcpy(it->id, info->id, sizeof it->id);
  if (token != NULL) memcpy(it->token, token, sizeof it->token);
  snprintf(it->path, sizeof it->path, "%s", path);
}

static void forget_document(world *w, uint64_t i) { w->doc[i] = w->bound[i] = false; }

static void one(world *w, const sdb_put_options *o, done *d, sdb_commit *c) {
  char path[16], name[16];
  uint64_t i = below(w, PATHS), kind = below(w, 8);
  size_t len = path_of(i, path), name_len = name_of(i, name);
  uint32_t size = (uint32_t)(below(w, 40) == 0 ? 5000 + below(w, 15000) : below(w, 1200));
  if (!w->doc[i] || kind < 5) {
    ck_assert_int_eq(sdb_put(w->db, path, len, content, size, o, c), SDB_OK);
    note(d, SDB_CHANGE_PUT, path, &c->info, size, o->token);
    if (w->bound[i]) snprintf(d->items[0].alias, 16, "%s", name);
    w->doc[i] = true;
  } else if (kind == 5) {
    ck_assert_int_eq(sdb_delete(w->db, path, len, o, c), SDB_OK);
    note(d, SDB_CHANGE_DELETE, path, &c->info, 0, NULL);
    if (w->bound[i]) snprintf(d->items[0].alias, 16, "%s", name);
    forget_document(w, i);
  } else if (!w->bound[i]) {
    ck_assert_int_eq(sdb_bind(w->db, path, len, name, name_len, o, c), SDB_OK);
    note(d, SDB_CHANGE_BIND, name, &c->info, 0, NULL);
    w->bound[i] = true;
  } else {
    ck_assert_int_eq(sdb_unbind(w->db, name, name_len, o, c), SDB_OK);
    note(d, SDB_CHANGE_UNBIND, name, &c->info, 0, NULL);
    w->bound[i] = false;
  }
}

static void many(world *w, const sdb_put_options *o, done *d, sdb_commit *c) {
  sdb_batch *batch;
  sdb_batch_result results[OPS];
  char paths[OPS][16];
  uint32_t sizes[OPS];
  uint64_t first = below(w, PATHS - OPS);
  ck_assert_int_eq(sdb_batch_open(w->db, &batch), SDB_OK);
  for (unsigned k = 0; k < OPS; k++) {
    size_t len = path_of(first + k, paths[k]);
    sizes[k] = (uint32_t)below(w, 900);
    ck_assert_int_eq(sdb_batch_put(batch, paths[k], len, content, sizes[k], NULL), SDB_OK);
  }
  ck_assert_int_eq(sdb_batch_commit(batch, o, results, OPS, NULL), SDB_OK);
  *c = results[OPS - 1].commit;
  for (unsigned k = 0; k < OPS; k++) {
    note(d, SDB_CHANGE_PUT, paths[k], &results[k].commit.info, sizes[k], NULL);
    if (w->bound[first + k]) name_of(first + k, d->items[k].alias);
    w->doc[first + k] = true;
  }
}

static void commit(world *w, bool durable) {
  sdb_put_options o;
  sdb_commit c;
  uint8_t token[16];
  ck_assert_uint_lt(w->count, COMMITS);
  sim_advance(w->device, below(w, 20));
  done *d = &w->list[w->count];
  *d = (done){0};
  sdb_put_options_init(&o);
  o.durability = durable || below(w, 4) == 0 ? SDB_DURABLE : SDB_NONE;
  if (below(w, 8) == 0) many(w, &o, d, &c);
  else {
    for (size_t i = 0; i < sizeof token; i++) token[i] = (uint8_t)below(w, 256);
    if (below(w, 4) == 0) o.token = token;
    one(w, &o, d, &c);
  }
  d->sequence = c.sequence;
  w->count++;
}

/* --- Comparing ---------------------------------------------------------------------------------------------------------------- */

static uint64_t synced(world *w) {
  sdb_stats stats = {.size = sizeof stats};
  ck_assert_int_eq(sdb_get_stats(w->db, &stats), SDB_OK);
  return stats.synced_sequence;
}

#define expect(w, condition) ck_assert_msg(condition, "seed %llu: %s", (unsigned long long)(w)->seed, #condition)

/* The name under which a feed with that prefix shows it; NULL: not at all. */
static const char *shown_as(const item *it, const char *prefix) {
  if (strncmp(it->path, prefix, strlen(prefix)) == 0) return it->path;
  return it->alias[0] && strncmp(it->alias, prefix, strlen(prefix)) == 0 ? it->alias : NULL;
}

/* Reads one commit of the list out of the feed, as far as it concerns `prefix`. */
static void expect_commit(world *w, sdb_changes *feed, const done *d, const char *prefix) {
  unsigned left = 0;
  for (unsigned i = 0; i < d->count; i++) left += shown_as(&d->items[i], prefix) != NULL;
  for (unsigned i = 0; i < d->count; i++) {
    sdb_change c;
    const item *it = &d->items[i];
    const char *path = shown_as(it, prefix);
    if (!path) continue;
    int rc = sdb_changes_next(feed, &c);
    ck_assert_msg(rc == SDB_OK, "seed %llu: commit %llu: %s", (unsigned long long)w->seed, (unsigned long long)d->sequence,
                  sdb_strerror(rc));
    expect(w, c.sequence == d->sequence);
    expect(w, c.operation == it->operation);
    expect(w, c.path_len == strlen(path) && memcmp(c.path, path, c.path_len) == 0);
    expect(w, c.version == it->version && c.size == it->size && memcmp(c.id, it->id, sizeof c.id) == 0);
    expect(w, c.time_ms == it->time_ms && c.expires_ms == 0 && !c.expired);
    expect(w, (c.token != NULL) == it->has_token && (!c.token || memcmp(c.token, it->token, sizeof it->token) == 0));
    expect(w, c.operation != SDB_CHANGE_PUT || c.digest == sdb_crc32c(0, content, c.size));
    expect(w, c.last == (--left == 0));
  }
}

static sdb_position at(const world *w, uint64_t sequence) { return (sdb_position){.epoch = w->epoch, .sequence = sequence}; }

/* A feed from a position is right: complete, or rightly trimmed. */
static void expect_from(world *w, uint64_t position, const char *prefix) {
  sdb_position p = at(w, position), oldest, now;
  sdb_changes *feed;
  sdb_change c;
  uint64_t bound = synced(w);
  ck_assert_int_eq(sdb_changes_range(w->db, &oldest, NULL), SDB_OK);
  int rc = sdb_changes_open(w->db, &p, prefix, strlen(prefix), &feed);
  if (rc == SDB_TRIMMED) {
    w->trims++;
    expect(w, oldest.sequence > position);
    return;
  }
  ck_assert_msg(rc == SDB_OK, "seed %llu: opening at %llu of %llu: %s", (unsigned long long)w->seed, (unsigned long long)position,
                (unsigned long long)bound, sdb_strerror(rc));
  expect(w, oldest.sequence <= position);
  for (size_t i = 0; i < w->count; i++)
    if (w->list[i].sequence > position && w->list[i].sequence <= bound) expect_commit(w, feed, &w->list[i], prefix);
  expect(w, sdb_changes_next(feed, &c) == SDB_END);
  expect(w, sdb_changes_next(feed, &c) == SDB_END);
  sdb_changes_position(feed, &now);
  expect(w, now.sequence == bound && now.epoch == w->epoch);
  sdb_changes_close(feed);
}

/* The feed that goes on from call to call. */
static void follow(world *w) {
  uint64_t bound = synced(w);
  sdb_position p = at(w, w->followed ? w->list[w->followed - 1].sequence : 0);
  if (!w->follow) {
    int rc = sdb_changes_open(w->db, &p, NULL, 0, &w->follow);
    if (rc == SDB_TRIMMED) {
      w->trims++;
      while (w->followed < w->count && w->list[w->followed].sequence <= bound) w->followed++;
      return;
    }
    expect(w, rc == SDB_OK);
  }
  while (w->followed < w->count && w->list[w->followed].sequence <= bound) {
    sdb_position now;
    sdb_changes_position(w->follow, &now);
    sdb_position oldest;
    ck_assert_int_eq(sdb_changes_range(w->db, &oldest, NULL), SDB_OK);
    if (oldest.sequence > now.sequence) { /* recycled under it: it must say so, or show what it had read before */
      sdb_change c;
      int rc = sdb_changes_next(w->follow, &c);
      expect(w, rc == SDB_TRIMMED || rc == SDB_OK);
      if (rc == SDB_TRIMMED) {
        expect(w, sdb_changes_next(w->follow, &c) == SDB_TRIMMED);
        w->trims++;
      }
      sdb_changes_close(w->follow);
      w->follow = NULL;
      while (w->followed < w->count && w->list[w->followed].sequence <= bound) w->followed++;
      return;
    }
    expect_commit(w, w->follow, &w->list[w->followed], "");
    w->followed++;
  }
}

static uint64_t any_position(world *w) {
  uint64_t bound = synced(w);
  if (!w->count || below(w, 10) == 0) return below(w, 2) ? bound : w->begun;
  uint64_t sequence = w->list[below(w, 3) ? w->count - 1 - below(w, w->count < 60 ? w->count : 60) : below(w, w->count)].sequence;
  return sequence <= bound ? sequence : bound;
}

static void work(world *w, unsigned commits) {
  static const char *const prefixes[] = {"", "/a/", "/n/", "/b/1", "/none"};
  for (unsigned i = 0; i < commits; i++) {
    commit(w, false);
    if (below(w, 12) == 0) expect_from(w, any_position(w), prefixes[below(w, 5)]);
    if (below(w, 9) == 0) follow(w);
    if (below(w, 90) == 0) ck_assert_int_eq(sdb_checkpoint(w->db), SDB_OK);
  }
}

/* --- Tests -------------------------------------------------------------------------------------------------------------------- */

START_TEST(shows_every_synced_commit_once) {
  uint64_t first, seeds = seed_range("changes", 12, &first), trims = 0;
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    world w;
    world_init(&w, seed, SEGMENT * (1 + seed % 5));
    expect_from(&w, 0, "");
    for (unsigned round = 0; round < 4; round++) {
      work(&w, 150);
      close_db(&w);
      open_db(&w);
      for (unsigned i = 0; i < 5; i++) expect_from(&w, any_position(&w), "");
    }
    trims += w.trims;
    world_clear(&w);
  }
  if (seeds > 5) ck_assert_uint_gt(trims, 0);
}
END_TEST

/* What survived a crash, by the feed itself: all that was synced, in order; then the database must agree. */
static void adopt(world *w, uint64_t last_synced) {
  sdb_position oldest;
  sdb_changes *feed;
  sdb_change c;
  size_t i = 0;
  int rc;
  ck_assert_int_eq(sdb_changes_range(w->db, &oldest, NULL), SDB_OK);
  ck_assert_int_eq(sdb_changes_open(w->db, &oldest, NULL, 0, &feed), SDB_OK);
  while (i < w->count && w->list[i].sequence <= oldest.sequence) i++;
  while ((rc = sdb_changes_next(feed, &c)) == SDB_OK) {
    expect(w, i < w->count && w->list[i].sequence == c.sequence);
    if (c.last) i++;
  }
  expect(w, rc == SDB_END);
  expect(w, i > 0 || w->count == 0 || last_synced == 0);
  uint64_t last = i ? w->list[i - 1].sequence : 0;
  expect(w, last >= last_synced);
  expect(w, (w->begun - last) % GAP == 0); /* sessions without a commit that survived skip numbers as well */
  sdb_changes_close(feed);
  w->count = i;
  memset(w->doc, 0, sizeof w->doc);
  memset(w->bound, 0, sizeof w->bound);
  for (uint64_t k = 0; k < PATHS; k++) { /* the state says the same as the list */
    char path[16], name[16];
    uint32_t version = 0;
    sdb_info info;
    size_t len = path_of(k, path), name_len = name_of(k, name);
    for (size_t n = 0; n < w->count; n++)
      for (unsigned o = 0; o < w->list[n].count; o++) {
        const item *it = &w->list[n].items[o];
        if (strcmp(it->path, path) == 0) version = it->operation == SDB_CHANGE_DELETE ? 0 : it->version;
        if (strcmp(it->path, path) == 0 && version == 0) w->bound[k] = false;
        if (strcmp(it->path, name) == 0) w->bound[k] = it->operation == SDB_CHANGE_BIND;
      }
    rc = sdb_stat(w->db, path, len, SDB_CURRENT, &info);
    expect(w, version ? rc == SDB_OK && info.version == version : rc == SDB_NOT_FOUND);
    w->doc[k] = version != 0;
    w->bound[k] = version != 0 && w->bound[k];
    expect(w, (sdb_stat(w->db, name, name_len, SDB_CURRENT, &info) == SDB_OK) == w->bound[k]);
  }
  if (w->followed > w->count) w->followed = w->count;
}

static void expect_refused(world *w, sdb_position p) {
  sdb_changes *feed;
  expect(w, sdb_changes_open(w->db, &p, NULL, 0, &feed) == SDB_RESET);
}

START_TEST(goes_on_behind_a_crash) {
  static const enum sim_crash_mode modes[] = {SIM_RANDOM_SUBSET, SIM_DROP_ALL, SIM_KEEP_ALL};
  uint64_t first, seeds = seed_range("changes behind crashes", 25, &first);
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    world w;
    world_init(&w, seed, SEGMENT * 5);
    for (unsigned round = 0; round < 4; round++) {
      work(&w, (unsigned)below(&w, 120));
      if (below(&w, 2)) commit(&w, true);
      uint64_t last_synced = synced(&w), before = w.count ? w.list[w.count - 1].sequence : 0, begun = w.begun;
      sdb_changes_close(w.follow);
      w.follow = NULL;
      sim_die_at(w.device, 1); /* the close comes too late */
      sdb_close(w.db);
      sim_crash(w.device, modes[below(&w, 3)], seed + round);
      sim_die_at(w.device, 0);
      open_db(&w);
      adopt(&w, last_synced > begun ? last_synced : 0);
      uint64_t last = w.count ? w.list[w.count - 1].sequence : 0;
      if (w.begun != last) {
        if (before > last) expect_refused(&w, at(&w, last + 1)); /* it was seen, but lost */
        expect_refused(&w, at(&w, w.begun - 1));
        if (last) expect_from(&w, last, "");
      }
      expect_refused(&w, at(&w, w.begun + 1));
      expect_refused(&w, (sdb_position){.epoch = w.epoch + 1, .sequence = w.begun});
      expect_from(&w, w.begun, "");
      if (below(&w, 3) == 0) { /* and the same when nothing was written in between */
        close_db(&w);
        open_db(&w);
        expect_from(&w, w.begun, "");
        if (last) expect_from(&w, last, "");
      }
      commit(&w, true);
      if (last) expect_from(&w, last, "");
      expect_from(&w, w.begun, "");
      if (w.begun > last + 1) expect_refused(&w, at(&w, w.begun - 1));
    }
    world_clear(&w);
  }
}
END_TEST

START_TEST(nothing_is_kept_where_nothing_shall_be) {
  world w;
  world_init(&w, 1, 0);
  sdb_position start = at(&w, 0), oldest, newest;
  sdb_changes *feed;
  for (unsigned i = 0; i < 400; i++) commit(&w, true);
  ck_assert_int_eq(sdb_checkpoint(w.db), SDB_OK);
  ck_assert_int_eq(sdb_changes_open(w.db, &start, NULL, 0, &feed), SDB_TRIMMED);
  ck_assert_int_eq(sdb_changes_range(w.db, &oldest, &newest), SDB_OK);
  ck_assert_uint_gt(oldest.sequence, 0);
  ck_assert_uint_eq(newest.sequence, w.list[w.count - 1].sequence);
  expect_from(&w, oldest.sequence, "");
  world_clear(&w);
}
END_TEST

/* --- What is told of a version ------------------------------------------------------------------------------------------------ */

static uint64_t clock_of(const world *w) { return sim_storage(w->device)->now_ms(sim_storage(w->device)->ctx); }

static void put_until(world *w, const char *path, uint64_t expires_ms, sdb_commit *c) {
  sdb_put_options o;
  sdb_put_options_init(&o);
  o.expires_ms = expires_ms;
  o.content_type = "text/plain";
  o.metadata = "opaque";
  o.metadata_len = 6;
  ck_assert_int_eq(sdb_put(w->db, path, strlen(path), content, 30, &o, c), SDB_OK);
}

static sdb_change next_of(world *w, sdb_changes *feed, sdb_operation operation, const char *path, const sdb_commit *of) {
  sdb_change c;
  ck_assert_int_eq(sdb_changes_next(feed, &c), SDB_OK);
  ck_assert_int_eq(c.operation, operation);
  ck_assert(c.path_len == strlen(path) && memcmp(c.path, path, c.path_len) == 0);
  ck_assert(memcmp(c.id, of->info.id, 16) == 0 && c.version == of->info.version);
  expect(w, c.expired == (operation == SDB_CHANGE_DELETE));
  return c;
}

/* What expires is shown with its time, and its end as a delete with that cause: by the engine itself, and by a put that writes over
 * it before the engine has come by, in the commit of that put. */
START_TEST(tells_what_expires) {
  world w;
  world_init(&w, (uint64_t)_i, SEGMENT * 5);
  sdb_position start = at(&w, synced(&w));
  sdb_commit first, second, over;
  sdb_changes *feed;
  sdb_change c;
  uint64_t end = clock_of(&w) + 1000;
  put_until(&w, "/a", end, &first);
  put_until(&w, "/b", end, &second);
  ck_assert_int_eq(sdb_bind(w.db, "/b", 2, "/b/too", 6, NULL, NULL), SDB_OK);
  sim_advance(w.device, 1000);
  ck_assert_int_eq(sdb_put(w.db, "/a", 2, content, 5, NULL, &over), SDB_OK);
  ck_assert(over.created);
  for (bool more = true; more;) ck_assert_int_eq(sdb_step(w.db, 100, &more), SDB_OK);
  ck_assert_int_eq(sdb_flush(w.db), SDB_OK);
  for (int round = 0; round < 2; round++) { /* and the same behind a restart */
    ck_assert_int_eq(sdb_changes_open(w.db, &start, NULL, 0, &feed), SDB_OK);
    for (int i = 0; i < 2; i++) {
      c = next_of(&w, feed, SDB_CHANGE_PUT, i == 0 ? "/a" : "/b", i == 0 ? &first : &second);
      ck_assert(c.expires_ms == end && c.size == 30 && c.last && c.commit_ms == end - 1000);
      ck_assert(c.content_type_len == 10 && memcmp(c.content_type, "text/plain", 10) == 0);
      ck_assert(c.metadata_len == 6 && memcmp(c.metadata, "opaque", 6) == 0);
    }
    next_of(&w, feed, SDB_CHANGE_BIND, "/b/too", &second);
    c = next_of(&w, feed, SDB_CHANGE_DELETE, "/a", &first);
    ck_assert(!c.last && c.sequence == over.sequence);
    c = next_of(&w, feed, SDB_CHANGE_PUT, "/a", &over);
    ck_assert(c.last && c.sequence == over.sequence && c.expires_ms == 0 && c.content_type_len == 0 && c.metadata_len == 0);
    next_of(&w, feed, SDB_CHANGE_DELETE, "/b", &second);
    ck_assert_int_eq(sdb_changes_next(feed, &c), SDB_END);
    sdb_changes_close(feed);
    if (round == 0) close_db(&w), open_db(&w);
  }
  world_clear(&w);
}
END_TEST

/* The segment in which the log ends; and how many there are. */
static unsigned newest_segment(world *w, char name[32]) {
  uint64_t most = 0, number = 0;
  unsigned count = 0;
  for (unsigned i = 0; i < 32; i++) {
    char other[32];
    uint8_t head[48];
    snprintf(other, sizeof other, NAME ".log.%04u", i);
    if (!sim_peek(w->device, other, 0, head, sizeof head) || memcmp(head, "SDBLOG", 6) != 0) continue;
    for (unsigned k = 0; k < 8; k++) number = number << 8 | head[47 - k];
    count++;
    if (number > most) snprintf(name, 32, "%s", other), most = number;
  }
  return count;
}

/* Several files were given up, and a crash brought some back: the older without the newer is no history to go on with, and a feed
 * from there is trimmed, not damaged. Closed: by a close, or by the recovery from a crash. */
START_TEST(a_segment_whose_followers_are_gone_is_none) {
  world w;
  char name[32];
  world_init(&w, 1, SEGMENT * 5);
  for (unsigned i = 0; i < 300; i++) commit(&w, true);
  if (_i) {
    sim_die_at(w.device, 1);
    sdb_close(w.db);
    sim_crash(w.device, SIM_DROP_ALL, 1);
    sim_die_at(w.device, 0);
    open_db(&w);
  }
  close_db(&w);
  ck_assert_uint_gt(newest_segment(&w, name), 2);
  const sdb_storage *st = sim_storage(w.device);
  ck_assert_int_eq(st->remove(st->ctx, name), SDB_OK);
  open_db(&w);
  for (unsigned written = 0; written < 2; written++) {
    sdb_position oldest, newest;
    ck_assert_int_eq(sdb_changes_range(w.db, &oldest, &newest), SDB_OK);
    ck_assert_uint_ge(oldest.sequence, w.list[299].sequence);
    for (unsigned i = 0; i < 300; i += 7) expect_from(&w, w.list[i].sequence, "");
    expect_from(&w, oldest.sequence, "");
    ck_assert_uint_eq(w.trims, 43 * (written + 1));
    if (!written) commit(&w, true);
  }
  world_clear(&w);
}
END_TEST

/* --- Damage ------------------------------------------------------------------------------------------------------------------- */

/* Flips a bit somewhere in the log behind the database's back. A feed shows a true beginning of the list; then it ends rightly, or
 * says CORRUPT or TRIMMED. It never leaves out or invents. */
START_TEST(damage_is_told) {
  uint64_t first, seeds = seed_range("changes of a damaged log", 60, &first);
  unsigned corrupt = 0;
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    world w;
    char name[32];
    uint8_t byte;
    world_init(&w, seed, SEGMENT * 8);
    unsigned commits = 200 + (unsigned)below(&w, 200);
    for (unsigned i = 0; i < commits; i++) commit(&w, i + 1 == commits);
    snprintf(name, sizeof name, NAME ".log.%04u", (unsigned)below(&w, 4));
    uint64_t offset = below(&w, SEGMENT);
    if (sim_peek(w.device, name, offset, &byte, 1)) {
      byte ^= (uint8_t)(1u << below(&w, 8));
      sim_poke(w.device, name, offset, &byte, 1);
    }
    sdb_position p;
    sdb_changes *feed = NULL;
    sdb_change c;
    ck_assert_int_eq(sdb_changes_range(w.db, &p, NULL), SDB_OK);
    size_t i = 0;
    if (below(&w, 2)) p.sequence = w.list[below(&w, w.count)].sequence;
    while (i < w.count && w.list[i].sequence <= p.sequence) i++;
    int rc = sdb_changes_open(w.db, &p, NULL, 0, &feed);
    unsigned shown = 0;
    while (rc == SDB_OK && (rc = sdb_changes_next(feed, &c)) == SDB_OK) {
      expect(&w, i < w.count && c.sequence == w.list[i].sequence);
      const item *it = &w.list[i].items[shown++];
      expect(&w, c.operation == it->operation && c.version == it->version && c.path_len == strlen(it->path) &&
                     memcmp(c.path, it->path, c.path_len) == 0);
      if (c.last) i++, shown = 0;
    }
    expect(&w, rc == SDB_END || rc == SDB_CORRUPT || rc == SDB_TRIMMED);
    if (rc == SDB_END) expect(&w, i == w.count);
    if (rc == SDB_CORRUPT) {
      corrupt++;
      if (feed) expect(&w, sdb_changes_next(feed, &c) == SDB_CORRUPT);
    }
    sdb_changes_close(feed);
    world_clear(&w);
  }
  printf("damaged log: %u of %llu told\n", corrupt, (unsigned long long)seeds);
  if (seeds > 30) ck_assert_uint_gt(corrupt, 0);
}
END_TEST

/* --- Faults and arguments ----------------------------------------------------------------------------------------------------- */

START_TEST(every_read_and_allocation_may_fail) {
  static const enum sim_kind kinds[] = {SIM_ALLOC, SIM_READ};
  world w;
  world_init(&w, 5, SEGMENT * 8);
  for (unsigned i = 0; i < 200; i++) commit(&w, true);
  sdb_position start, newest;
  ck_assert_int_eq(sdb_changes_range(w.db, &start, &newest), SDB_OK);
  for (unsigned k = 0; k < 2; k++) {
    bool struck = true;
    for (uint64_t nth = 1; struck; nth++) {
      sdb_changes *feed = NULL;
      sdb_change c;
      uint64_t held = sim_allocations(w.device);
      unsigned shown = 0;
      sim_fail(w.device, kinds[k], nth, false, SDB_IO);
      int rc = sdb_changes_open(w.db, &start, NULL, 0, &feed);
      while (rc == SDB_OK && (rc = sdb_changes_next(feed, &c)) == SDB_OK) shown++;
      struck = sim_failed(w.device);
      sim_fail_nothing(w.device);
      expect(&w, struck ? rc == (kinds[k] == SIM_ALLOC ? SDB_NO_MEMORY : SDB_IO) : rc == SDB_END && shown > 100);
      sdb_changes_close(feed);
      ck_assert_uint_eq(sim_allocations(w.device), held);
    }
  }
  world_clear(&w);
}
END_TEST

START_TEST(arguments_are_checked_and_nothing_to_wait_for_is_told) {
  world w;
  world_init(&w, 6, SEGMENT);
  sdb_position p = at(&w, 0);
  sdb_changes *feed;
  sdb_change c;
  char prefix[SDB_MAX_PATH + 1] = "";
  ck_assert_int_eq(sdb_changes_open(w.db, NULL, NULL, 0, &feed), SDB_INVALID);
  ck_assert_int_eq(sdb_changes_open(w.db, &p, NULL, 1, &feed), SDB_INVALID);
  ck_assert_int_eq(sdb_changes_open(w.db, &p, prefix, sizeof prefix, &feed), SDB_INVALID);
  ck_assert_int_eq(sdb_changes_open(w.db, &p, NULL, 0, &feed), SDB_OK);
  ck_assert_int_eq(sdb_changes_next(feed, &c), SDB_END);
  ck_assert_int_eq(sdb_changes_wait(feed, 1000), SDB_END); /* no threads: at once */
  commit(&w, true);
  ck_assert_int_eq(sdb_changes_wait(feed, 1000), SDB_OK);
  expect_commit(&w, feed, &w.list[0], "");
  ck_assert_int_eq(sdb_changes_wait(feed, 0), SDB_END);
  sdb_changes_close(feed);
  sdb_changes_close(NULL);
  world_clear(&w);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("changes");
  TCase *tests = tcase_create("changes");
  for (size_t i = 0; i < sizeof content; i++) content[i] = (uint8_t)(i * 2654435761u >> 11);
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, shows_every_synced_commit_once);
  tcase_add_test(tests, goes_on_behind_a_crash);
  tcase_add_test(tests, nothing_is_kept_where_nothing_shall_be);
  tcase_add_loop_test(tests, tells_what_expires, 0, 2); /* plain, encrypted */
  tcase_add_loop_test(tests, a_segment_whose_followers_are_gone_is_none, 0, 2);
  tcase_add_test(tests, damage_is_told);
  tcase_add_test(tests, every_read_and_allocation_may_fail);
  tcase_add_test(tests, arguments_are_checked_and_nothing_to_wait_for_is_told);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failures = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
