/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_storage.c - the contract of storage.h, put to all three tables alike; then what only one of them promises: the file table's
 * locks between handles and its mapping, the simulated device's fault model. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sdb/storage.h"
#include "seed.h"
#include "simulated.h"

enum { TABLE_FILE, TABLE_MEMORY, TABLE_SIMULATED, TABLES };

static const sdb_storage *st; /* the table under test */
static sim *device;           /* of TABLE_SIMULATED */
static char directory[64];    /* of TABLE_FILE */

static void table_up(int which) {
  directory[0] = '\0';
  if (which == TABLE_FILE) {
    snprintf(directory, sizeof directory, "%s", "/tmp/sdb-storage-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    ck_assert_int_eq(chdir(directory), 0);
    st = sdb_storage_file();
  } else if (which == TABLE_MEMORY) {
    st = sdb_storage_memory_new();
    ck_assert_ptr_nonnull(st);
  } else {
    device = sim_new(1);
    st = sim_storage(device);
  }
}

static void table_down(int which) {
  if (which == TABLE_FILE) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_int_eq(system(command), 0);
  } else if (which == TABLE_MEMORY) {
    sdb_storage_memory_free((sdb_storage *)(uintptr_t)st);
  } else {
    ck_assert_uint_eq(sim_open_files(device), 0);
    ck_assert_uint_eq(sim_allocations(device), 0);
    sim_free(device);
  }
}

static sdb_file *open_file(const char *name, unsigned flags) {
  sdb_file *file = NULL;
  ck_assert_int_eq(st->open(st->ctx, name, flags, &file), SDB_OK);
  ck_assert_ptr_nonnull(file);
  return file;
}

static uint64_t size_of(sdb_file *file) {
  uint64_t size = 77;
  ck_assert_int_eq(st->get_size(file, &size), SDB_OK);
  return size;
}

static bool all_bytes(const uint8_t *p, size_t len, uint8_t value) {
  for (size_t i = 0; i < len; i++) {
    if (p[i] != value) return false;
  }
  return true;
}

/* --- The contract ------------------------------------------------------------------------------------------------------------- */

START_TEST(test_open) {
  table_up(_i);
  sdb_file *file = (sdb_file *)&device;
  ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_READ, &file), SDB_NOT_FOUND);
  ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_WRITE, &file), SDB_NOT_FOUND);
  ck_assert_ptr_eq(file, &device);
  file = open_file("a", SDB_OPEN_CREATE);
  ck_assert_uint_eq(size_of(file), 0);
  ck_assert_int_eq(st->write(file, 0, "hello", 5), SDB_OK);
  st->close(file);
  st->close(NULL);

  file = open_file("a", SDB_OPEN_READ);
  char buf[8] = "";
  ck_assert_int_eq(st->read(file, 0, buf, 5), SDB_OK);
  ck_assert_str_eq(buf, "hello");
  ck_assert_int_ne(st->write(file, 0, "x", 1), SDB_OK);
  st->close(file);

  file = open_file("a", SDB_OPEN_CREATE);
  ck_assert_uint_eq(size_of(file), 0);
  st->close(file);
  table_down(_i);
}
END_TEST

START_TEST(test_read_and_write) {
  table_up(_i);
  static uint8_t out[300000], in[300000];
  uint64_t random = 5;
  for (size_t i = 0; i < sizeof out; i++) out[i] = (uint8_t)sim_random(&random);
  sdb_file *file = open_file("a", SDB_OPEN_CREATE);
  ck_assert_int_eq(st->write(file, 65530, out, sizeof out), SDB_OK);
  ck_assert_uint_eq(size_of(file), 65530 + sizeof out);
  ck_assert_int_eq(st->read(file, 65530, in, sizeof in), SDB_OK);
  ck_assert_mem_eq(in, out, sizeof in);
  ck_assert_int_eq(st->read(file, 0, in, 65530), SDB_OK);
  ck_assert(all_bytes(in, 65530, 0));
  ck_assert_int_eq(st->read(file, 65530 + sizeof out, in, 0), SDB_OK);
  ck_assert_int_eq(st->read(file, 65531, in, sizeof in), SDB_IO);
  ck_assert_int_eq(st->read(file, UINT64_MAX - 2, in, 3), SDB_IO);
  ck_assert_int_eq(st->write(file, 0, NULL, 0), SDB_OK);
  ck_assert_int_eq(st->sync(file), SDB_OK);
  st->close(file);
  table_down(_i);
}
END_TEST

START_TEST(test_sizes) {
  table_up(_i);
  sdb_file *file = open_file("a", SDB_OPEN_CREATE);
  uint8_t buf[100000];
  memset(buf, 7, sizeof buf);
  ck_assert_int_eq(st->write(file, 0, buf, sizeof buf), SDB_OK);
  ck_assert_int_eq(st->set_size(file, 70000), SDB_OK);
  ck_assert_uint_eq(size_of(file), 70000);
  ck_assert_int_eq(st->set_size(file, sizeof buf), SDB_OK);
  ck_assert_int_eq(st->read(file, 0, buf, sizeof buf), SDB_OK);
  ck_assert(all_bytes(buf, 70000, 7));
  ck_assert(all_bytes(buf + 70000, sizeof buf - 70000, 0));

  ck_assert_int_eq(st->allocate(file, 50000), SDB_OK); /* shorter than it is: nothing to do */
  ck_assert_uint_eq(size_of(file), sizeof buf);
  ck_assert_int_eq(st->allocate(file, 500000), SDB_OK);
  ck_assert_uint_eq(size_of(file), 500000);
  ck_assert_int_eq(st->read(file, 400000, buf, sizeof buf), SDB_OK);
  ck_assert(all_bytes(buf, sizeof buf, 0));

  memset(buf, 7, sizeof buf);
  ck_assert_int_eq(st->write(file, 131072, buf, 100000), SDB_OK);
  ck_assert_int_eq(st->punch(file, 131072, 65536), SDB_OK);
  ck_assert_int_eq(st->punch(file, 10000000, 65536), SDB_OK);
  ck_assert_int_eq(st->punch(file, 0, 0), SDB_OK);
  ck_assert_uint_eq(size_of(file), 500000);
  ck_assert_int_eq(st->read(file, 131072, buf, 65536), SDB_OK);
  ck_assert(all_bytes(buf, 65536, 0) || all_bytes(buf, 65536, 7));
  ck_assert_int_eq(st->read(file, 131072 + 65536, buf, 34464), SDB_OK);
  ck_assert(all_bytes(buf, 34464, 7));
  st->close(file);
  table_down(_i);
}
END_TEST

START_TEST(test_names) {
  table_up(_i);
  sdb_file *a = open_file("a", SDB_OPEN_CREATE), *b = open_file("b", SDB_OPEN_CREATE);
  ck_assert_int_eq(st->write(a, 0, "A", 1), SDB_OK);
  ck_assert_int_eq(st->write(b, 0, "B", 1), SDB_OK);
  ck_assert_int_eq(st->rename(st->ctx, "missing", "b"), SDB_NOT_FOUND);
  ck_assert_int_eq(st->rename(st->ctx, "a", "b"), SDB_OK);
  ck_assert_int_eq(st->sync_dir(st->ctx, "b"), SDB_OK);
  char c = 0;
  ck_assert_int_eq(st->read(b, 0, &c, 1), SDB_OK); /* the replaced file lives while it is open */
  ck_assert_int_eq(c, 'B');
  st->close(b);
  b = open_file("b", SDB_OPEN_READ);
  ck_assert_int_eq(st->read(b, 0, &c, 1), SDB_OK);
  ck_assert_int_eq(c, 'A');
  st->close(b);
  sdb_file *none;
  ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_READ, &none), SDB_NOT_FOUND);
  ck_assert_int_eq(st->remove(st->ctx, "a"), SDB_NOT_FOUND);
  ck_assert_int_eq(st->remove(st->ctx, "b"), SDB_OK);
  ck_assert_int_eq(st->remove(st->ctx, "b"), SDB_NOT_FOUND);
  ck_assert_int_eq(st->read(a, 0, &c, 1), SDB_OK);
  ck_assert_int_eq(c, 'A');
  st->close(a);
  table_down(_i);
}
END_TEST

START_TEST(test_locks) {
  table_up(_i);
  sdb_file *none, *a = open_file("a", SDB_OPEN_CREATE);
  ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_CREATE, &none), SDB_LOCKED); /* nobody empties what another one creates */
  ck_assert_int_eq(st->lock(a, true), SDB_OK);
  ck_assert_int_eq(st->lock(a, true), SDB_OK);
  sdb_file *b = open_file("a", SDB_OPEN_WRITE), *c = open_file("a", SDB_OPEN_READ);
  ck_assert_int_eq(st->lock(b, true), SDB_LOCKED);
  ck_assert_int_eq(st->lock(c, false), SDB_LOCKED);
  ck_assert_int_eq(st->lock(c, true), SDB_INVALID);
  st->close(a);
  ck_assert_int_eq(st->lock(c, false), SDB_OK);
  ck_assert_int_eq(st->lock(b, false), SDB_OK);
  ck_assert_int_eq(st->lock(b, true), SDB_LOCKED);
  st->close(c);
  ck_assert_int_eq(st->lock(b, true), SDB_OK);
  c = open_file("a", SDB_OPEN_READ); /* closing another handle of the file must not lose the lock */
  st->close(c);
  c = open_file("a", SDB_OPEN_WRITE);
  ck_assert_int_eq(st->lock(c, true), SDB_LOCKED);
  st->close(c);
  st->close(b);
  table_down(_i);
}
END_TEST

START_TEST(test_rest_of_the_world) {
  table_up(_i);
  uint64_t t1 = st->monotonic_us(st->ctx), t2 = st->monotonic_us(st->ctx);
  ck_assert(t2 >= t1);
  ck_assert(st->now_ms(st->ctx) > 1600000000000u);
  uint8_t r[4096] = {0}, q[4096] = {0};
  ck_assert_int_eq(st->random(st->ctx, r, sizeof r), SDB_OK);
  ck_assert_int_eq(st->random(st->ctx, q, sizeof q), SDB_OK);
  ck_assert_mem_ne(r, q, sizeof r);
  uint8_t *p = st->realloc(st->ctx, NULL, 100);
  ck_assert_ptr_nonnull(p);
  ck_assert_uint_eq((uintptr_t)p % 16, 0);
  memset(p, 9, 100);
  p = st->realloc(st->ctx, p, 100000);
  ck_assert_ptr_nonnull(p);
  ck_assert(all_bytes(p, 100, 9));
  p = st->realloc(st->ctx, p, 50);
  ck_assert_ptr_nonnull(p);
  ck_assert(all_bytes(p, 50, 9));
  ck_assert_ptr_null(st->realloc(st->ctx, p, 0));
  ck_assert_ptr_null(st->realloc(st->ctx, NULL, 0));
  table_down(_i);
}
END_TEST

static void set_flag(void *arg) { *(int *)arg = 1; }

START_TEST(test_threads) {
  table_up(_i);
  if (_i == TABLE_SIMULATED || !SDB_THREADS) {
    ck_assert(st->thread_start == NULL);
    ck_assert(st->thread_join == NULL);
  } else {
    int flag = 0;
    void *thread = NULL;
    ck_assert_int_eq(st->thread_start(st->ctx, set_flag, &flag, &thread), SDB_OK);
    st->thread_join(st->ctx, thread);
    ck_assert_int_eq(flag, 1);
  }
  table_down(_i);
}
END_TEST

/* --- Files of the operating system -------------------------------------------------------------------------------------------- */

/* Names in memory are names, not paths: no folder of the system has to exist for them. */
START_TEST(test_memory_names) {
  table_up(TABLE_MEMORY);
  sdb_options o;
  sdb_options_init(&o);
  o.storage = st;
  sdb *db;
  void *data;
  size_t size;
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(sdb_open("/no/such/folder/x.sdb", &o, &db), SDB_OK);
    if (i == 0) ck_assert_int_eq(sdb_put(db, "a", 1, "b", 1, NULL, NULL), SDB_OK);
    ck_assert_int_eq(sdb_get_alloc(db, "a", 1, SDB_CURRENT, &data, &size, NULL), SDB_OK);
    sdb_free(db, data);
    ck_assert_int_eq(sdb_close(db), SDB_OK);
    sdb_file *file = open_file("/no/such/folder/x.sdb", SDB_OPEN_READ);
    st->close(file);
  }
  table_down(TABLE_MEMORY);
}
END_TEST

START_TEST(test_file_mapping) {
  table_up(TABLE_FILE);
  sdb_file *file = open_file("a", SDB_OPEN_CREATE);
  ck_assert_int_eq(st->write(file, 0, "one", 3), SDB_OK);
  const char *p = st->map(file, 0, (size_t)1 << 29); /* far beyond the end */
  ck_assert_ptr_nonnull(p);
  ck_assert_mem_eq(p, "one", 3);
  ck_assert_int_eq(st->write(file, 1000000, "two", 3), SDB_OK);
  ck_assert_mem_eq(p + 1000000, "two", 3);
  const char *second = st->map(file, 983040, 65536);
  ck_assert_ptr_nonnull(second);
  ck_assert_mem_eq(second + 1000000 - 983040, "two", 3);
  for (int i = 0; i < 20; i++) ck_assert_ptr_nonnull(st->map(file, 0, 4096)); /* left to close */
  st->unmap(file, p, (size_t)1 << 29);
  ck_assert_ptr_null(st->map(file, 17, 4096));
  ck_assert_ptr_null(st->map(file, 0, 0));
  st->close(file);
  table_down(TABLE_FILE);
}
END_TEST

START_TEST(test_file_errors) {
  table_up(TABLE_FILE);
  sdb_file *file = NULL;
  ck_assert_int_eq(mkdir("folder", 0700), 0);
  ck_assert_int_eq(mkfifo("pipe", 0600), 0);
  ck_assert_int_eq(st->open(st->ctx, "folder", SDB_OPEN_READ, &file), SDB_NOT_A_DATABASE);
  ck_assert_int_eq(st->open(st->ctx, "folder", SDB_OPEN_WRITE, &file), SDB_NOT_A_DATABASE);
  ck_assert_int_eq(st->open(st->ctx, "folder", SDB_OPEN_CREATE, &file), SDB_NOT_A_DATABASE);
  ck_assert_int_eq(st->open(st->ctx, "pipe", SDB_OPEN_READ, &file), SDB_NOT_A_DATABASE);
  ck_assert_int_eq(st->open(st->ctx, "none/a", SDB_OPEN_CREATE, &file), SDB_NOT_FOUND);
  ck_assert_int_eq(st->sync_dir(st->ctx, "none/a"), SDB_NOT_FOUND);
  ck_assert_int_eq(st->sync_dir(st->ctx, "folder/a"), SDB_OK);
  ck_assert_int_eq(st->sync_dir(st->ctx, "/a"), SDB_OK);
  ck_assert_int_eq(mkdir("closed", 0), 0);
  uid_t user = geteuid();
  if (user == 0) ck_assert_int_eq(seteuid(65534), 0); /* nothing is denied to root */
  ck_assert_int_eq(st->open(st->ctx, "closed/a", SDB_OPEN_CREATE, &file), SDB_DENIED);
  ck_assert_int_eq(st->remove(st->ctx, "closed/a"), SDB_DENIED);
  ck_assert_int_eq(st->sync_dir(st->ctx, "closed/a"), SDB_DENIED);
  ck_assert_int_eq(seteuid(user), 0);
  ck_assert_ptr_null(file);

  file = open_file("a", SDB_OPEN_CREATE);
  ck_assert_int_eq(st->write(file, INT64_MAX, "x", 1), SDB_FULL);
  ck_assert_int_eq(st->write(file, (uint64_t)INT64_MAX + 9, "x", 1), SDB_FULL);
  ck_assert_int_eq(st->set_size(file, UINT64_MAX), SDB_FULL);
  ck_assert_int_eq(st->allocate(file, UINT64_MAX), SDB_FULL);
  ck_assert_int_eq(st->allocate(file, INT64_MAX), SDB_FULL);
  ck_assert_uint_eq(size_of(file), 0);
  st->close(file);

  if (access("/dev/full", W_OK) == 0) ck_assert_int_eq(st->open(st->ctx, "/dev/full", SDB_OPEN_WRITE, &file), SDB_NOT_A_DATABASE);
  table_down(TABLE_FILE);
}
END_TEST

/* A program that was started with its standard streams closed must not print into a file that got their numbers. */
START_TEST(test_file_is_no_standard_stream) {
  table_up(TABLE_FILE);
  int kept[3];
  for (int fd = 0; fd < 3; fd++) ck_assert_int_gt(kept[fd] = dup(fd), 2);
  for (unsigned flags = 0; flags < 2; flags++) {
    for (int fd = 0; fd < 3; fd++) close(fd);
    sdb_file *file = NULL;
    int code = st->open(st->ctx, "a", flags == 0 ? SDB_OPEN_CREATE : SDB_OPEN_WRITE, &file);
    bool closed = true;
    for (int fd = 0; fd < 3; fd++) closed = write(fd, "printed", 7) < 0 && closed;
    for (int fd = 0; fd < 3; fd++) dup2(kept[fd], fd);
    ck_assert_int_eq(code, SDB_OK);
    ck_assert(closed);
    ck_assert_uint_eq(size_of(file), 0);
    ck_assert_int_eq(st->lock(file, true), SDB_OK);
    st->close(file);
  }
  for (int fd = 0; fd < 3; fd++) close(kept[fd]);
  table_down(TABLE_FILE);
}
END_TEST

/* --- The simulated device ----------------------------------------------------------------------------------------------------- */

#define SECTORS 4

static void write_sectors(sdb_file *file, uint8_t value) {
  uint8_t buf[SECTORS * SIM_SECTOR];
  memset(buf, value, sizeof buf);
  ck_assert_int_eq(st->write(file, 0, buf, sizeof buf), SDB_OK);
}

/* What stands in the sectors, one digit each; fails on a mixture. */
static unsigned read_sectors(sdb_file *file) {
  unsigned digits = 0;
  for (unsigned i = 0; i < SECTORS; i++) {
    uint8_t buf[SIM_SECTOR];
    ck_assert_int_eq(st->read(file, i * SIM_SECTOR, buf, sizeof buf), SDB_OK);
    ck_assert(all_bytes(buf, sizeof buf, buf[0]));
    digits = digits * 10 + buf[0];
  }
  return digits;
}

START_TEST(test_crash_of_sectors) {
  bool seen[4444] = {false};
  unsigned different = 0;
  for (uint64_t seed = 0; seed < 4000; seed++) {
    table_up(TABLE_SIMULATED);
    sdb_file *file = open_file("a", SDB_OPEN_CREATE);
    write_sectors(file, 1);
    ck_assert_int_eq(st->sync(file), SDB_OK);
    ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_OK);
    write_sectors(file, 2);
    write_sectors(file, 3);
    ck_assert_uint_eq(read_sectors(file), 3333);
    st->close(file);
    enum sim_crash_mode mode = seed == 0 ? SIM_DROP_ALL : seed == 1 ? SIM_KEEP_ALL : SIM_RANDOM_SUBSET;
    sim_crash(device, mode, seed);
    file = open_file("a", SDB_OPEN_READ);
    unsigned state = read_sectors(file);
    if (mode == SIM_DROP_ALL) ck_assert_uint_eq(state, 1111);
    if (mode == SIM_KEEP_ALL) ck_assert_uint_eq(state, 3333);
    different += seen[state] ? 0 : 1;
    seen[state] = true;
    st->close(file);
    table_down(TABLE_SIMULATED);
  }
  ck_assert_uint_eq(different, 81); /* every sector each of its three contents, in every combination */
}
END_TEST

START_TEST(test_crash_of_sizes) {
  bool seen[4] = {false};
  for (uint64_t seed = 0; seed < 100; seed++) {
    table_up(TABLE_SIMULATED);
    sdb_file *file = open_file("a", SDB_OPEN_CREATE);
    ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_OK);
    ck_assert_int_eq(st->allocate(file, SIM_SECTOR), SDB_OK);
    ck_assert_int_eq(st->sync(file), SDB_OK);
    uint8_t byte = 1;
    ck_assert_int_eq(st->write(file, SIM_SECTOR * 3 - 1, &byte, 1), SDB_OK);
    ck_assert_int_eq(st->set_size(file, SIM_SECTOR * 2), SDB_OK);
    st->close(file);
    sim_crash(device, SIM_RANDOM_SUBSET, seed);
    file = open_file("a", SDB_OPEN_READ);
    uint64_t size = size_of(file);
    ck_assert(size % SIM_SECTOR == 0 && size >= SIM_SECTOR && size <= 3 * SIM_SECTOR);
    seen[size / SIM_SECTOR] = true;
    st->close(file);
    table_down(TABLE_SIMULATED);
  }
  ck_assert(seen[1] && seen[2] && seen[3]);
}
END_TEST

START_TEST(test_crash_of_names) {
  unsigned outcomes[2][2][2] = {0};
  for (uint64_t seed = 0; seed < 100; seed++) {
    table_up(TABLE_SIMULATED);
    st->close(open_file("old", SDB_OPEN_CREATE));
    st->close(open_file("gone", SDB_OPEN_CREATE));
    ck_assert_int_eq(st->sync_dir(st->ctx, "old"), SDB_OK);
    ck_assert_int_eq(st->rename(st->ctx, "old", "new"), SDB_OK);
    ck_assert_int_eq(st->remove(st->ctx, "gone"), SDB_OK);
    st->close(open_file("more", SDB_OPEN_CREATE));
    sim_crash(device, SIM_RANDOM_SUBSET, seed);
    uint64_t size;
    bool renamed = sim_size(device, "new", &size);
    ck_assert(renamed != sim_size(device, "old", &size));
    outcomes[renamed][sim_size(device, "gone", &size)][sim_size(device, "more", &size)]++;
    table_down(TABLE_SIMULATED);
  }
  for (int i = 0; i < 8; i++) ck_assert_uint_gt(outcomes[i >> 2][i >> 1 & 1][i & 1], 0);
}
END_TEST

START_TEST(test_failed_sync_stays_in_doubt) {
  bool lost = false, kept = false;
  for (uint64_t seed = 0; seed < 100; seed++) {
    table_up(TABLE_SIMULATED);
    sdb_file *file = open_file("a", SDB_OPEN_CREATE);
    write_sectors(file, 1);
    ck_assert_int_eq(st->sync(file), SDB_OK);
    ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_OK);
    write_sectors(file, 2);
    sim_fail(device, SIM_SYNC, 1, false, SDB_IO);
    ck_assert_int_eq(st->sync(file), SDB_IO);
    ck_assert(sim_failed(device));
    ck_assert_uint_eq(read_sectors(file), 2222);
    uint8_t again[SIM_SECTOR];
    memset(again, 4, sizeof again);
    ck_assert_int_eq(st->write(file, 0, again, sizeof again), SDB_OK);
    ck_assert_int_eq(st->sync(file), SDB_OK);
    st->close(file);
    sim_crash(device, SIM_RANDOM_SUBSET, seed);
    file = open_file("a", SDB_OPEN_READ);
    unsigned state = read_sectors(file);
    ck_assert_uint_eq(state / 1000, 4); /* written again and synced: safe */
    lost = lost || state % 10 == 1;
    kept = kept || state % 10 == 2;
    st->close(file);
    table_down(TABLE_SIMULATED);
  }
  ck_assert(lost && kept);
}
END_TEST

START_TEST(test_death) {
  table_up(TABLE_SIMULATED);
  sdb_file *file = open_file("a", SDB_OPEN_CREATE);
  ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_OK);
  write_sectors(file, 1);
  ck_assert_int_eq(st->sync(file), SDB_OK);
  sim_die_at(device, 2);
  write_sectors(file, 2);
  uint8_t buf[SECTORS * SIM_SECTOR];
  memset(buf, 3, sizeof buf);
  ck_assert_int_eq(st->write(file, 0, buf, sizeof buf), SDB_IO);
  ck_assert(sim_dead(device));
  ck_assert_int_eq(st->read(file, 0, buf, 1), SDB_IO);
  ck_assert_int_eq(st->sync(file), SDB_IO);
  st->close(file);
  sim *clone = sim_clone(device, 9);
  sim_crash(device, SIM_KEEP_ALL, 0);
  file = open_file("a", SDB_OPEN_READ);
  ck_assert_uint_eq(read_sectors(file), 3333);
  st->close(file);
  sim *first = device;
  device = clone;
  st = sim_storage(clone);
  sim_crash(clone, SIM_DROP_ALL, 0);
  file = open_file("a", SDB_OPEN_READ);
  ck_assert_uint_eq(read_sectors(file), 1111);
  st->close(file);
  table_down(TABLE_SIMULATED);
  sim_free(first);
}
END_TEST

START_TEST(test_faults_by_count) {
  table_up(TABLE_SIMULATED);
  sdb_file *file = open_file("a", SDB_OPEN_CREATE);
  write_sectors(file, 1);
  uint8_t byte;
  sim_fail(device, SIM_READ, 2, false, SDB_IO);
  ck_assert_int_eq(st->read(file, 0, &byte, 1), SDB_OK);
  ck_assert(!sim_failed(device));
  ck_assert_int_eq(st->read(file, 0, &byte, 1), SDB_IO);
  ck_assert_int_eq(st->read(file, 0, &byte, 1), SDB_OK);
  sim_fail(device, SIM_WRITE, 1, true, SDB_FULL);
  ck_assert_int_eq(st->write(file, 0, &byte, 1), SDB_FULL);
  ck_assert_int_eq(st->write(file, 0, &byte, 1), SDB_FULL);
  ck_assert_int_eq(st->read(file, 0, &byte, 1), SDB_OK);
  sim_fail_nothing(device);
  ck_assert_int_eq(st->write(file, 0, &byte, 1), SDB_OK);
  sim_fail(device, SIM_ALLOC, 1, false, SDB_NO_MEMORY);
  ck_assert_ptr_null(st->realloc(st->ctx, NULL, 1));
  void *p = st->realloc(st->ctx, NULL, 1);
  ck_assert_ptr_nonnull(p);
  ck_assert_uint_eq(sim_allocations(device), 1);
  st->realloc(st->ctx, p, 0);
  sim_fail(device, SIM_ANY, 1, false, SDB_IO);
  ck_assert_int_eq(st->lock(file, true), SDB_IO);
  st->close(file);
  table_down(TABLE_SIMULATED);
}
END_TEST

START_TEST(test_full_device) {
  table_up(TABLE_SIMULATED);
  sdb_file *file = open_file("a", SDB_OPEN_CREATE);
  sim_limit(device, 5 * 4096);
  uint8_t buf[4096] = {1};
  ck_assert_int_eq(st->allocate(file, 4 * 4096), SDB_OK);
  ck_assert_int_eq(st->allocate(file, 6 * 4096), SDB_FULL);
  ck_assert_uint_eq(size_of(file), 4 * 4096);
  ck_assert_int_eq(st->write(file, 4 * 4096, buf, 4096), SDB_OK);
  ck_assert_int_eq(st->write(file, 5 * 4096, buf, 4096), SDB_FULL);
  ck_assert_int_eq(st->write(file, 0, buf, 4096), SDB_OK); /* allocated: cannot run out */
  ck_assert_uint_eq(sim_bytes_used(device), 5 * 4096);
  ck_assert_int_eq(st->punch(file, 4096, 4096), SDB_OK);
  ck_assert_int_eq(st->write(file, 5 * 4096, buf, 4096), SDB_OK);
  st->close(file);
  table_down(TABLE_SIMULATED);
}
END_TEST

static void count_event(void *user, const sim_event *event) {
  unsigned *digits = user;
  *digits = *digits * 10 + (strcmp(event->call, "write") == 0 ? 1 : strcmp(event->call, "sync") == 0 ? 2 : 3);
  ck_assert_str_eq(event->name, "a");
}

START_TEST(test_watch_and_damage) {
  table_up(TABLE_SIMULATED);
  unsigned digits = 0;
  sim_watch(device, count_event, &digits);
  sdb_file *file = open_file("a", SDB_OPEN_CREATE);
  write_sectors(file, 1);
  ck_assert_int_eq(st->sync(file), SDB_OK);
  ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_OK);
  st->close(file);
  ck_assert_uint_eq(digits, 3123);
  ck_assert_str_eq(sim_name(device, 0), "a");
  ck_assert_ptr_null(sim_name(device, 1));
  uint8_t byte = 0;
  ck_assert(sim_peek(device, "a", 600, &byte, 1));
  ck_assert_uint_eq(byte, 1);
  byte = 9;
  ck_assert(sim_poke(device, "a", 600, &byte, 1));
  byte = 0;
  ck_assert(sim_peek(device, "a", 600, &byte, 1));
  ck_assert_uint_eq(byte, 9);
  ck_assert(sim_cut(device, "a", 600));
  ck_assert(!sim_peek(device, "a", 600, &byte, 1));
  ck_assert(!sim_poke(device, "b", 0, &byte, 1));
  uint64_t before = st->now_ms(st->ctx);
  sim_advance(device, 250);
  ck_assert_uint_eq(st->now_ms(st->ctx), before + 250);
  table_down(TABLE_SIMULATED);
}
END_TEST

/* Random writes, cuts, punches and syncs on two tables at once: what the process sees must never differ. */
START_TEST(test_tables_agree) {
  uint64_t first, count = seed_range("tables agree", 20, &first);
  for (uint64_t seed = first; seed < first + count; seed++) {
    uint64_t random = seed;
    sim *s = sim_new(seed);
    sdb_storage *memory = sdb_storage_memory_new();
    const sdb_storage *tables[2] = {sim_storage(s), memory};
    sdb_file *files[2];
    for (int t = 0; t < 2; t++) ck_assert_int_eq(tables[t]->open(tables[t]->ctx, "a", SDB_OPEN_CREATE, &files[t]), SDB_OK);
    for (int i = 0; i < 300; i++) {
      static uint8_t buf[2][400000];
      uint64_t what = sim_random(&random) % 8, offset = sim_random(&random) % 200000, len = sim_random(&random) % 20000;
      uint64_t sizes[2];
      memset(buf[0], (int)(sim_random(&random) % 256), len);
      for (int t = 0; t < 2; t++) {
        int code = what < 4    ? tables[t]->write(files[t], offset, buf[0], len)
                   : what == 4 ? tables[t]->set_size(files[t], offset)
                   : what == 5 ? tables[t]->punch(files[t], offset, len)
                   : what == 6 ? tables[t]->allocate(files[t], offset)
                               : tables[t]->sync(files[t]);
        ck_assert_int_eq(code, SDB_OK);
        ck_assert_int_eq(tables[t]->get_size(files[t], &sizes[t]), SDB_OK);
      }
      ck_assert_msg(sizes[0] == sizes[1], "seed %llu step %d: sizes differ", (unsigned long long)seed, i);
      for (int t = 0; t < 2; t++) ck_assert_int_eq(tables[t]->read(files[t], 0, buf[t], sizes[0]), SDB_OK);
      ck_assert_msg(memcmp(buf[0], buf[1], sizes[0]) == 0, "seed %llu step %d: contents differ", (unsigned long long)seed, i);
    }
    for (int t = 0; t < 2; t++) tables[t]->close(files[t]);
    sdb_storage_memory_free(memory);
    sim_free(s);
  }
}
END_TEST

/* One database, whichever way leads to it; and a file with several names of its own right is refused. */
START_TEST(test_links) {
  table_up(TABLE_FILE);
  char message[256];
  sdb_options options;
  sdb_options_init(&options);
  options.message = message;
  options.message_size = sizeof message;
  sdb *db, *second;
  struct stat info;
  ck_assert_int_eq(mkdir("far", 0755), 0);
  ck_assert_int_eq(symlink("far/real.sdb", "alias.sdb"), 0);
  ck_assert_int_eq(symlink("far", "near"), 0);
  ck_assert_int_eq(sdb_open("far/real.sdb", &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/a", 2, "x", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_open("alias.sdb", &options, &second), SDB_LOCKED);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_int_eq(sdb_open("alias.sdb", &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_put(db, "/b", 2, "x", 1, NULL, NULL), SDB_OK);
  ck_assert_int_eq(sdb_open("near/real.sdb", &options, &second), SDB_LOCKED);
  ck_assert_int_eq(stat("far/real.sdb.log.0000", &info), 0);
  ck_assert_int_ne(stat("alias.sdb.log.0000", &info), 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);

  options.create = false;
  ck_assert_int_eq(sdb_open("far/absent.sdb", &options, &db), SDB_NOT_FOUND);
  ck_assert_ptr_nonnull(strstr(message, "absent.sdb"));
  ck_assert_int_eq(sdb_open("nowhere/absent.sdb", &options, &db), SDB_NOT_FOUND);
  options.create = true;

  ck_assert_int_eq(link("far/real.sdb", "hard.sdb"), 0);
  for (int i = 0; i < 4; i++) {
    options.read_only = i % 2 == 1;
    ck_assert_int_eq(sdb_open(i < 2 ? "hard.sdb" : "far/real.sdb", &options, &db), SDB_LINKED);
    ck_assert_ptr_nonnull(strstr(message, i < 2 ? "hard.sdb" : "real.sdb"));
    ck_assert_ptr_nonnull(strstr(message, "hard links"));
  }
  ck_assert_int_eq(unlink("hard.sdb"), 0);
  options.read_only = false;
  ck_assert_int_eq(sdb_open("far/real.sdb", &options, &db), SDB_OK);
  ck_assert_int_eq(sdb_stat(db, "/b", 2, SDB_CURRENT, &(sdb_info){0}), SDB_OK);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  table_down(TABLE_FILE);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("storage");
  TCase *contract = tcase_create("contract");
  tcase_add_loop_test(contract, test_open, 0, TABLES);
  tcase_add_loop_test(contract, test_read_and_write, 0, TABLES);
  tcase_add_loop_test(contract, test_sizes, 0, TABLES);
  tcase_add_loop_test(contract, test_names, 0, TABLES);
  tcase_add_loop_test(contract, test_locks, 0, TABLES);
  tcase_add_loop_test(contract, test_rest_of_the_world, 0, TABLES);
  tcase_add_loop_test(contract, test_threads, 0, TABLES);
  suite_add_tcase(suite, contract);
  TCase *files = tcase_create("files");
  tcase_add_test(files, test_memory_names);
  tcase_add_test(files, test_file_mapping);
  tcase_add_test(files, test_file_errors);
  tcase_add_test(files, test_file_is_no_standard_stream);
  tcase_add_test(files, test_links);
  suite_add_tcase(suite, files);
  TCase *simulated = tcase_create("simulated");
  tcase_set_timeout(simulated, 60);
  tcase_add_test(simulated, test_crash_of_sectors);
  tcase_add_test(simulated, test_crash_of_sizes);
  tcase_add_test(simulated, test_crash_of_names);
  tcase_add_test(simulated, test_failed_sync_stays_in_doubt);
  tcase_add_test(simulated, test_death);
  tcase_add_test(simulated, test_faults_by_count);
  tcase_add_test(simulated, test_full_device);
  tcase_add_test(simulated, test_watch_and_damage);
  tcase_add_test(simulated, test_tables_agree);
  suite_add_tcase(suite, simulated);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
