/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_system.c - what the storage table for files, and the reader of keys, make of a system call that fails, is interrupted or
 * does less than it was asked for. The linker puts the functions below in the place of the system's (--wrap). */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sdb/sdb.h"
#include "sdb/storage.h"

/* --- Faults ------------------------------------------------------------------------------------------------------------------- */

/* The next calls of that name fail with `error`; with error 0 the next one transfers one byte. */
static struct {
  const char *call;
  int error;
  unsigned times;
  unsigned struck;
} fault;

static void set_fault(const char *call, int error, unsigned times) {
  fault.call = call;
  fault.error = error;
  fault.times = times;
  fault.struck = 0;
}

/* The fault must have been met as often as it was set. */
static void met(void) {
  ck_assert_msg(fault.times == 0, "%s was called %u times only", fault.call, fault.struck);
  fault.call = NULL;
}

/* One statement, met by the fault as often. */
#define WITH(call, error, times, statement)                                                                                        \
  do {                                                                                                                             \
    set_fault(call, error, times);                                                                                                 \
    statement;                                                                                                                     \
    met();                                                                                                                         \
  } while (0)

static bool strikes(const char *call) {
  if (fault.call == NULL || fault.times == 0 || strcmp(fault.call, call) != 0) return false;
  fault.times--;
  fault.struck++;
  return true;
}

static bool fails(const char *call) {
  if (fault.error == 0 || !strikes(call)) return false;
  errno = fault.error;
  return true;
}

static size_t shorter(const char *call, size_t len) { return fault.error == 0 && len > 1 && strikes(call) ? 1 : len; }

#define WRAP_INT(name, declared, given)                                                                                            \
  int __wrap_##name declared;                                                                                                      \
  int __real_##name declared;                                                                                                      \
  int __wrap_##name declared { return fails(#name) ? -1 : __real_##name given; }
#define WRAP_SIZE(name, declared, given)                                                                                           \
  ssize_t __wrap_##name declared;                                                                                                  \
  ssize_t __real_##name declared;                                                                                                  \
  ssize_t __wrap_##name declared {                                                                                                 \
    if (fails(#name)) return -1;                                                                                                   \
    len = shorter(#name, len);                                                                                                     \
    return __real_##name given;                                                                                                    \
  }
#define WRAP_POINTER(name, declared, given)                                                                                        \
  void *__wrap_##name declared;                                                                                                    \
  void *__real_##name declared;                                                                                                    \
  void *__wrap_##name declared { return fails(#name) ? NULL : __real_##name given; }

WRAP_INT(fstat64, (int fd, void *st), (fd, st))
WRAP_INT(stat64, (const char *name, void *st), (name, st))
WRAP_INT(ftruncate64, (int fd, off_t size), (fd, size))
WRAP_INT(fdatasync, (int fd), (fd))
WRAP_INT(fsync, (int fd), (fd))
WRAP_INT(fallocate64, (int fd, int mode, off_t offset, off_t len), (fd, mode, offset, len))
WRAP_INT(sync_file_range, (int fd, off_t offset, off_t len, unsigned flags), (fd, offset, len, flags))
WRAP_INT(madvise, (void *address, size_t len, int advice), (address, len, advice))
WRAP_INT(sigaction, (int number, const struct sigaction *action, struct sigaction *before), (number, action, before))
WRAP_SIZE(pread64, (int fd, void *buf, size_t len, off_t offset), (fd, buf, len, offset))
WRAP_SIZE(pwrite64, (int fd, const void *buf, size_t len, off_t offset), (fd, buf, len, offset))
WRAP_SIZE(getrandom, (void *buf, size_t len, unsigned flags), (buf, len, flags))
WRAP_SIZE(read, (int fd, void *buf, size_t len), (fd, buf, len))
WRAP_POINTER(malloc, (size_t len), (len))
WRAP_POINTER(calloc, (size_t count, size_t len), (count, len))
WRAP_POINTER(realloc, (void *p, size_t len), (p, len))
WRAP_POINTER(aligned_alloc, (size_t unit, size_t len), (unit, len))
WRAP_POINTER(strdup, (const char *text), (text))
WRAP_POINTER(strndup, (const char *text, size_t len), (text, len))
WRAP_POINTER(realpath, (const char *name, char *buf), (name, buf))

void *__wrap_mmap64(void *address, size_t len, int protection, int flags, int fd, off_t offset);
void *__real_mmap64(void *address, size_t len, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t len, int protection, int flags, int fd, off_t offset) {
  return fails("mmap64") ? MAP_FAILED : __real_mmap64(address, len, protection, flags, fd, offset);
}

int __wrap_fcntl64(int fd, int command, ...);
int __real_fcntl64(int fd, int command, void *argument);
int __wrap_fcntl64(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  return fails("fcntl64") ? -1 : __real_fcntl64(fd, command, argument);
}

int __wrap_open64(const char *name, int flags, ...);
int __real_open64(const char *name, int flags, ...);
int __wrap_open64(const char *name, int flags, ...) { return fails("open64") ? -1 : __real_open64(name, flags, 0644); }

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
int __real_pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  return fails("pthread_create") ? fault.error : __real_pthread_create(id, attributes, run, argument);
}

/* --- Fixture ------------------------------------------------------------------------------------------------------------------ */

static const sdb_storage *st;
static char directory[64];

static void set_up(void) {
  snprintf(directory, sizeof directory, "%s", "/tmp/sdb-system-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(directory));
  ck_assert_int_eq(chdir(directory), 0);
  unsetenv("STREAMDB_KEY_FILE");
  unsetenv("STREAMDB_KEY");
  st = sdb_storage_file();
}

static void tear_down(void) {
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  ck_assert_int_eq(chdir("/"), 0);
  ck_assert_int_eq(system(command), 0);
}

static sdb_file *file_of(const char *name) {
  sdb_file *file;
  ck_assert_int_eq(st->open(st->ctx, name, SDB_OPEN_CREATE, &file), SDB_OK);
  return file;
}

/* --- Opening ------------------------------------------------------------------------------------------------------------------ */

START_TEST(an_open_that_fails_says_why) {
  static const struct {
    int error, code;
  } cases[] = {{ENOENT, SDB_NOT_FOUND}, {ENOMEM, SDB_NO_MEMORY}, {EACCES, SDB_DENIED}, {EPERM, SDB_DENIED},
               {EROFS, SDB_DENIED},     {ENOSPC, SDB_FULL},      {EDQUOT, SDB_FULL},   {EISDIR, SDB_NOT_A_DATABASE},
               {EIO, SDB_IO},           {EMFILE, SDB_IO}};
  sdb_file *file = file_of("a");
  st->close(file);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (unsigned flags = SDB_OPEN_READ; flags <= SDB_OPEN_CREATE; flags++) {
      file = NULL;
      set_fault("open64", cases[i].error, 1);
      ck_assert_int_eq(st->open(st->ctx, "a", flags, &file), cases[i].code);
      ck_assert_ptr_null(file);
      met();
    }
  }
}
END_TEST

START_TEST(an_open_that_fails_halfway_holds_nothing) {
  static const struct {
    const char *call;
    int error;
    unsigned flags;
    int code;
  } cases[] = {{"calloc", ENOMEM, SDB_OPEN_READ, SDB_NO_MEMORY}, {"fstat64", EIO, SDB_OPEN_READ, SDB_IO},
               {"fcntl64", EIO, SDB_OPEN_CREATE, SDB_IO},        {"fcntl64", EAGAIN, SDB_OPEN_CREATE, SDB_LOCKED},
               {"fcntl64", EACCES, SDB_OPEN_CREATE, SDB_LOCKED}, {"fstat64", EIO, SDB_OPEN_CREATE, SDB_IO},
               {"stat64", EACCES, SDB_OPEN_CREATE, SDB_DENIED},  {"ftruncate64", EIO, SDB_OPEN_CREATE, SDB_IO}};
  sdb_file *file = file_of("a"), *second;
  ck_assert_int_eq(st->write(file, 0, "kept", 4), SDB_OK);
  st->close(file);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int lowest = dup(0);
    close(lowest);
    set_fault(cases[i].call, cases[i].error, 1);
    ck_assert_int_eq(st->open(st->ctx, "a", cases[i].flags, &file), cases[i].code);
    met();
    int again = dup(0);
    ck_assert_int_eq(again, lowest); /* no descriptor is left open */
    close(again);
    char kept[5] = "";
    ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_WRITE, &file), SDB_OK);
    ck_assert_int_eq(st->read(file, 0, kept, 4), SDB_OK);
    ck_assert_str_eq(kept, "kept");
    ck_assert_int_eq(st->lock(file, true), SDB_OK);
    ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_CREATE, &second), SDB_LOCKED);
    st->close(file);
  }
}
END_TEST

/* The name goes away between opening and locking, each time: somebody else is creating it. */
START_TEST(a_name_that_never_stays_is_somebody_elses) {
  sdb_file *file;
  set_fault("stat64", ENOENT, 8);
  ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_CREATE, &file), SDB_LOCKED);
  met();
  set_fault("stat64", ENOENT, 3);
  ck_assert_int_eq(st->open(st->ctx, "a", SDB_OPEN_CREATE, &file), SDB_OK);
  met();
  st->close(file);
}
END_TEST

START_TEST(a_lock_that_fails_says_why) {
  sdb_file *file = file_of("a");
  set_fault("fcntl64", EIO, 1);
  ck_assert_int_eq(st->lock(file, true), SDB_IO);
  met();
  set_fault("fstat64", EIO, 1);
  ck_assert_int_eq(st->lock(file, true), SDB_IO);
  met();
  st->close(file);
}
END_TEST

/* Without the memory that a child finds empty, the process's number tells a child. */
START_TEST(a_child_is_known_without_the_mark_too) {
  static const char *const calls[] = {"mmap64", "madvise"};
  for (int i = 0; i < 2; i++) {
    sdb_file *file = file_of("a");
    set_fault(calls[i], EINVAL, 1);
    ck_assert_int_eq(st->lock(file, true), SDB_OK);
    met();
    ck_assert(!st->inherited(file));
    pid_t child = fork();
    if (child == 0) _exit(st->inherited(file) ? 5 : 6);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(WEXITSTATUS(status), 5);
    st->close(file);
  }
}
END_TEST

/* --- Contents ----------------------------------------------------------------------------------------------------------------- */

START_TEST(what_is_interrupted_goes_on) {
  sdb_file *file = file_of("a");
  char buf[8] = "";
  uint8_t random[16];
  WITH("pwrite64", EINTR, 3, ck_assert_int_eq(st->write(file, 0, "abcdef", 6), SDB_OK));
  WITH("pwrite64", 0, 3, ck_assert_int_eq(st->write(file, 0, "ABCDEF", 6), SDB_OK));
  WITH("pread64", EINTR, 3, ck_assert_int_eq(st->read(file, 0, buf, 6), SDB_OK));
  ck_assert_str_eq(buf, "ABCDEF");
  memset(buf, 0, sizeof buf);
  WITH("pread64", 0, 3, ck_assert_int_eq(st->read(file, 0, buf, 6), SDB_OK));
  ck_assert_str_eq(buf, "ABCDEF");
  WITH("getrandom", EINTR, 3, ck_assert_int_eq(st->random(st->ctx, random, sizeof random), SDB_OK));
  WITH("getrandom", 0, 3, ck_assert_int_eq(st->random(st->ctx, random, sizeof random), SDB_OK));
  WITH("ftruncate64", EINTR, 2, ck_assert_int_eq(st->set_size(file, 100), SDB_OK));
  WITH("fallocate64", EINTR, 2, ck_assert_int_eq(st->allocate(file, 20000), SDB_OK));
  WITH("fallocate64", EINTR, 2, ck_assert_int_eq(st->fill(file, 0, 4096), SDB_OK));
  WITH("fallocate64", EINTR, 2, ck_assert_int_eq(st->punch(file, 0, 4096), SDB_OK));
  st->close(file);
}
END_TEST

static int do_write(sdb_file *f) { return st->write(f, 0, "x", 1); }
static int do_set_size(sdb_file *f) { return st->set_size(f, 5); }
static int do_allocate(sdb_file *f) { return st->allocate(f, 1 << 20); }
static int do_fill(sdb_file *f) { return st->fill(f, 0, 4096); }
static int do_punch(sdb_file *f) { return st->punch(f, 0, 4096); }
static int do_sync(sdb_file *f) { return st->sync(f); }
static int do_write_back(sdb_file *f) { return st->write_back(f, 0, 4096, true) | st->write_back(f, 0, 4096, false); }
static int do_read(sdb_file *f) { return st->read(f, 0, &(char){0}, 1); }
static int do_get_size(sdb_file *f) { return st->get_size(f, &(uint64_t){0}); }
static int do_get_allocated(sdb_file *f) { return st->get_allocated(f, &(uint64_t){0}); }

START_TEST(a_call_that_fails_says_why) {
  static const struct {
    int (*act)(sdb_file *file);
    const char *call;
    int error, code;
  } cases[] = {
      {do_write, "pwrite64", EIO, SDB_IO},
      {do_write, "pwrite64", ENOSPC, SDB_FULL},
      {do_write, "pwrite64", EDQUOT, SDB_FULL},
      {do_read, "pread64", EIO, SDB_IO},
      {do_set_size, "ftruncate64", EFBIG, SDB_FULL},
      {do_set_size, "ftruncate64", EIO, SDB_IO},
      {do_allocate, "fallocate64", ENOSPC, SDB_FULL},
      {do_allocate, "fallocate64", EIO, SDB_IO},
      {do_allocate, "fstat64", EIO, SDB_IO},
      {do_fill, "fallocate64", ENOSPC, SDB_FULL},
      {do_fill, "fallocate64", EOPNOTSUPP, SDB_OK}, /* nothing can be punched there either */
      {do_fill, "fallocate64", ENOSYS, SDB_OK},
      {do_punch, "fallocate64", EIO, SDB_IO},
      {do_punch, "fallocate64", EOPNOTSUPP, SDB_OK}, /* it may do nothing */
      {do_sync, "fdatasync", EIO, SDB_IO},
      {do_sync, "fdatasync", ENOSPC, SDB_IO},
      {do_write_back, "sync_file_range", EIO, SDB_IO},
      {do_write_back, "sync_file_range", ENOSYS, SDB_OK}, /* the sync does it all */
      {do_write_back, "sync_file_range", ESPIPE, SDB_OK},
      {do_write_back, "sync_file_range", EINVAL, SDB_OK},
      {do_get_size, "fstat64", EIO, SDB_IO},
      {do_get_allocated, "fstat64", EIO, SDB_IO},
  };
  sdb_file *file = file_of("a");
  ck_assert_int_eq(st->write(file, 0, "begin", 5), SDB_OK);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint64_t size;
    set_fault(cases[i].call, cases[i].error, 1);
    ck_assert_msg(cases[i].act(file) == cases[i].code, "%s with %s", cases[i].call, strerror(cases[i].error));
    met();
    ck_assert_int_eq(st->get_size(file, &size), SDB_OK);
    ck_assert_uint_eq(size, 5);
  }
  ck_assert_int_eq(st->fill(file, UINT64_MAX, 1), SDB_FULL);
  ck_assert_int_eq(st->punch(file, UINT64_MAX, 1), SDB_OK);
  st->prefetch(file, UINT64_MAX, 1);
  st->close(file);
}
END_TEST

/* A file system that cannot allocate: zeros are written, and what was begun is taken back when the device is full. */
START_TEST(space_is_taken_by_writing_where_it_must_be) {
  static const int errors[] = {EOPNOTSUPP, ENOSYS};
  enum { SIZE = 200000 };
  static uint8_t buf[SIZE];
  sdb_file *file = file_of("a");
  uint64_t size, allocated;
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(st->set_size(file, 0), SDB_OK);
    WITH("fallocate64", errors[i], 1, ck_assert_int_eq(st->allocate(file, SIZE), SDB_OK));
    ck_assert_int_eq(st->read(file, 0, buf, SIZE), SDB_OK);
    for (size_t k = 0; k < SIZE; k++) ck_assert_uint_eq(buf[k], 0);
    ck_assert_int_eq(st->get_allocated(file, &allocated), SDB_OK);
    ck_assert_uint_ge(allocated, SIZE);
  }
  ck_assert_int_eq(st->set_size(file, 70000), SDB_OK);
  WITH("fallocate64", ENOSPC, 1, ck_assert_int_eq(st->allocate(file, SIZE), SDB_FULL));
  ck_assert_int_eq(st->get_size(file, &size), SDB_OK);
  ck_assert_uint_eq(size, 70000);
  st->close(file);
}
END_TEST

/* --- Mapping ------------------------------------------------------------------------------------------------------------------ */

static void nothing(void *user) { (void)user; }

START_TEST(a_mapping_that_is_not_to_be_had_is_none) {
  sdb_file *file = file_of("a");
  ck_assert_int_eq(st->write(file, 0, "mapped", 6), SDB_OK);
  WITH("realloc", ENOMEM, 1, ck_assert_ptr_null(st->map(file, 0, 4096)));
  WITH("mmap64", ENOMEM, 1, ck_assert_ptr_null(st->map(file, 0, 4096)));
  WITH("sigaction", EINVAL, 1, ck_assert_int_eq(st->guard(file, nothing, NULL), SDB_IO));
  ck_assert_int_eq(st->guard(file, nothing, NULL), SDB_OK);
  WITH("calloc", ENOMEM, 1, ck_assert_ptr_null(st->map(file, 0, 4096)));
  const char *first = st->map(file, 0, 4096), *second = st->map(file, 0, 8192);
  ck_assert_ptr_nonnull(first);
  ck_assert_ptr_nonnull(second);
  ck_assert_mem_eq(second, "mapped", 6);
  st->unmap(file, first, 8192); /* no such mapping */
  ck_assert_mem_eq(first, "mapped", 6);
  st->unmap(file, first, 4096);
  ck_assert_ptr_nonnull(st->map(file, 0, 4096)); /* where the first one's guard stood */
  ck_assert_mem_eq(second, "mapped", 6);
  st->close(file);
}
END_TEST

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

START_TEST(names_that_cannot_be_made_durable) {
  WITH("strdup", ENOMEM, 1, ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_NO_MEMORY));
  WITH("strndup", ENOMEM, 1, ck_assert_int_eq(st->sync_dir(st->ctx, "./a"), SDB_NO_MEMORY));
  WITH("fsync", EIO, 1, ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_IO));
  WITH("fsync", EINVAL, 1, ck_assert_int_eq(st->sync_dir(st->ctx, "a"), SDB_OK)); /* it orders names itself */
}
END_TEST

START_TEST(names_that_lead_nowhere) {
  static const struct {
    const char *call;
    int error, code;
    unsigned times;
  } cases[] = {{"realpath", EACCES, SDB_DENIED, 1},
               {"realpath", ENOMEM, SDB_NO_MEMORY, 1},
               {"realpath", ELOOP, SDB_IO, 1},
               {"realpath", ENOTDIR, SDB_NOT_FOUND, 1},
               {"realpath", ENOENT, SDB_NOT_FOUND, 2}};
  char buf[4096] = "untouched";
  st->close(file_of("a"));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    set_fault(cases[i].call, cases[i].error, cases[i].times);
    ck_assert_int_eq(st->resolve(st->ctx, "a", buf, sizeof buf), cases[i].code);
    met();
  }
  ck_assert_str_eq(buf, "untouched");
  WITH("strdup", ENOMEM, 1, ck_assert_int_eq(st->resolve(st->ctx, "absent", buf, sizeof buf), SDB_NO_MEMORY));
  WITH("strndup", ENOMEM, 1, ck_assert_int_eq(st->resolve(st->ctx, "./absent", buf, sizeof buf), SDB_NO_MEMORY));
  WITH("malloc", ENOMEM, 1, ck_assert_int_eq(st->resolve(st->ctx, "absent", buf, sizeof buf), SDB_NO_MEMORY));
  ck_assert_int_eq(st->resolve(st->ctx, "absent", buf, 5), SDB_INVALID);
  ck_assert_int_eq(st->resolve(st->ctx, "/absent", buf, sizeof buf), SDB_OK);
  ck_assert_str_eq(buf, "/absent");
  ck_assert_int_eq(st->resolve(st->ctx, "nowhere/absent", buf, sizeof buf), SDB_NOT_FOUND);
}
END_TEST

/* --- Memory, randomness, threads ---------------------------------------------------------------------------------------------- */

START_TEST(shortage_is_told) {
  uint8_t random[16];
  WITH("getrandom", ENOSYS, 1, ck_assert_int_eq(st->random(st->ctx, random, sizeof random), SDB_IO));
  WITH("realloc", ENOMEM, 1, ck_assert_ptr_null(st->realloc(st->ctx, NULL, 100)));
  WITH("aligned_alloc", ENOMEM, 1, ck_assert_ptr_null(st->realloc(st->ctx, NULL, 8 << 20)));
  uint8_t *large = st->realloc(st->ctx, NULL, 8 << 20);
  ck_assert_ptr_nonnull(large);
  large[(8 << 20) - 1] = 1;
  large = st->realloc(st->ctx, large, 9 << 20);
  ck_assert_uint_eq(large[(8 << 20) - 1], 1);
  st->realloc(st->ctx, large, 0);
#if SDB_THREADS
  void *thread = NULL;
  WITH("malloc", ENOMEM, 1, ck_assert_int_eq(st->thread_start(st->ctx, nothing, NULL, &thread), SDB_NO_MEMORY));
  WITH("pthread_create", EAGAIN, 1, ck_assert_int_eq(st->thread_start(st->ctx, nothing, NULL, &thread), SDB_NO_MEMORY));
  ck_assert_ptr_null(thread);
#endif
}
END_TEST

/* --- Keys --------------------------------------------------------------------------------------------------------------------- */

#define DIGITS "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

static void key_file(const char *name, const void *bytes, size_t len, mode_t mode) {
  FILE *f = fopen(name, "w");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(fwrite(bytes, 1, len, f), len);
  ck_assert_int_eq(fclose(f), 0);
  ck_assert_int_eq(chmod(name, mode), 0);
}

/* What sdb_key_find() answers; its sentence holds `word`, or there is none. A key that is found is 0, 1, 2 ... 31. */
static void find_key(const char *file, int code, bool given, bool recovery, const char *word) {
  sdb_key key;
  char sentence[300];
  memset(&key, 0xAA, sizeof key);
  ck_assert_int_eq(sdb_key_find(file, &key, sentence, sizeof sentence), code);
  ck_assert(key.given == given && key.recovery == recovery);
  for (int i = 0; i < (int)SDB_KEY_SIZE; i++) ck_assert_int_eq(key.bytes[i], given ? i : 0);
  if (word == NULL) ck_assert_str_eq(sentence, "");
  else ck_assert_msg(strstr(sentence, word) != NULL, "'%s' does not say '%s'", sentence, word);
  ck_assert_ptr_null(strstr(sentence, DIGITS));
  ck_assert_int_eq(sdb_key_find(file, &key, NULL, 0), code);
}

START_TEST(keys_in_files) {
  uint8_t raw[SDB_KEY_SIZE + 1];
  char much[200];
  for (size_t i = 0; i < sizeof raw; i++) raw[i] = (uint8_t)i;
  memset(much, '0', sizeof much);
  key_file("raw", raw, SDB_KEY_SIZE, 0600);
  key_file("digits", DIGITS "\n", 65, 0400);
  key_file("recovery", "recovery:" DIGITS "\r\n", 75, 0600);
  key_file("open", raw, SDB_KEY_SIZE, 0640);
  key_file("short", raw, SDB_KEY_SIZE - 1, 0600);
  key_file("long", raw, SDB_KEY_SIZE + 1, 0644);
  key_file("much", much, sizeof much, 0600);
  key_file("empty", "", 0, 0600);
  find_key("raw", SDB_OK, true, false, NULL);
  find_key("digits", SDB_OK, true, false, NULL);
  find_key("recovery", SDB_OK, true, true, NULL);
  find_key("open", SDB_OK, true, false, "chmod 600");
  find_key("short", SDB_INVALID, false, false, "short holds no key");
  find_key("long", SDB_INVALID, false, false, "long holds no key");
  find_key("much", SDB_INVALID, false, false, "much holds no key");
  find_key("empty", SDB_INVALID, false, false, "empty holds no key");
  find_key("absent", SDB_NOT_FOUND, false, false, "absent");
  find_key(DIGITS, SDB_INVALID, false, false, "a key itself"); /* and it is not repeated */
  find_key("recovery:" DIGITS, SDB_INVALID, false, false, "a key itself");
  find_key(".", SDB_IO, false, false, "cannot read the key file .");
  find_key("raw/none", SDB_IO, false, false, "raw/none");
  WITH("read", EINTR, 1, find_key("raw", SDB_OK, true, false, NULL));
  WITH("read", 0, 2, find_key("digits", SDB_OK, true, false, NULL));
  WITH("read", EIO, 2, find_key("raw", SDB_IO, false, false, "cannot read the key file raw"));
  uid_t user = geteuid();
  if (user == 0) { /* nothing is denied to root */
    ck_assert_int_eq(chmod(directory, 0755), 0);
    ck_assert_int_eq(seteuid(65534), 0);
    find_key("raw", SDB_DENIED, false, false, "raw");
    ck_assert_int_eq(seteuid(user), 0);
  }
}
END_TEST

START_TEST(keys_in_the_environment) {
  key_file("digits", DIGITS, 64, 0600);
  find_key(NULL, SDB_OK, false, false, NULL);
  find_key("", SDB_OK, false, false, NULL);
  setenv("STREAMDB_KEY", DIGITS, 1);
  find_key(NULL, SDB_OK, true, false, NULL);
  setenv("STREAMDB_KEY", "recovery:" DIGITS, 1);
  find_key(NULL, SDB_OK, true, true, NULL);
  setenv("STREAMDB_KEY", "0123456789abcdef0123456789abcdef", 1); /* half of the digits were lost */
  find_key(NULL, SDB_INVALID, false, false, "STREAMDB_KEY holds no key");
  setenv("STREAMDB_KEY", "nonsense", 1);
  find_key(NULL, SDB_INVALID, false, false, "STREAMDB_KEY holds no key");
  setenv("STREAMDB_KEY_FILE", "digits", 1); /* goes before */
  find_key(NULL, SDB_OK, true, false, NULL);
  setenv("STREAMDB_KEY_FILE", "absent", 1);
  find_key(NULL, SDB_NOT_FOUND, false, false, "absent");
  setenv("STREAMDB_KEY_FILE", "", 1);
  setenv("STREAMDB_KEY", "", 1);
  find_key(NULL, SDB_OK, false, false, NULL);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("system");
  tcase_add_checked_fixture(t, set_up, tear_down);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, an_open_that_fails_says_why);
  tcase_add_test(t, an_open_that_fails_halfway_holds_nothing);
  tcase_add_test(t, a_name_that_never_stays_is_somebody_elses);
  tcase_add_test(t, a_lock_that_fails_says_why);
  tcase_add_test(t, a_child_is_known_without_the_mark_too);
  tcase_add_test(t, what_is_interrupted_goes_on);
  tcase_add_test(t, a_call_that_fails_says_why);
  tcase_add_test(t, space_is_taken_by_writing_where_it_must_be);
  tcase_add_test(t, a_mapping_that_is_not_to_be_had_is_none);
  tcase_add_test(t, names_that_cannot_be_made_durable);
  tcase_add_test(t, names_that_lead_nowhere);
  tcase_add_test(t, shortage_is_told);
  tcase_add_test(t, keys_in_files);
  tcase_add_test(t, keys_in_the_environment);
  Suite *s = suite_create("system");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
