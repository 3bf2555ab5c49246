/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* storage_file.c - the storage table for files of the operating system (Linux).
 *
 * What each promise of storage.h rests on:
 * - lock: an open-file-description lock. It belongs to the handle, not to the process, so that a second open in the same process is
 *   refused too, and closing an unrelated descriptor of the file does not lose it.
 * - lock: a file with several hard links is refused, because nothing tells which of its names the log stands beside.
 * - create: the file is locked before it is emptied, and it is the file that still has the name, so that of two processes that
 *   create one name at the same time one gets SDB_LOCKED and neither empties what the other has begun.
 * - sync: fdatasync, contents and the size needed to read them. Never repeated here either: after a failure the kernel may have
 *   dropped the pages, and a second call would report a success that is none.
 * - allocate: fallocate. Where the file system has none, zeros are written, because a file that is merely made longer would run out
 *   of space in the middle of a later write.
 * - map: a shared read-only mapping, which shows writes made through the descriptor. Pages of it that cannot be read are the
 *   business of storage_guard.c, for who asks.
 *
 * Nothing here has state beyond the handle, so the table is one constant.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "sdb/storage.h"
#include "storage_guard.h"
#include "sync.h"

_Static_assert(sizeof(off_t) == 8, "file offsets need 64 bits");
_Static_assert(alignof(max_align_t) >= 16, "storage.h promises memory aligned to 16 bytes");

#define FILE_MODE 0644
#define CREATE_ATTEMPTS 8
#define MARK_BYTES 4096u
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM ((size_t)4 << 20) /* smaller blocks would waste too much of a huge page */

typedef struct mapping {
  void *address;
  size_t len;
} mapping;

struct sdb_file {
  int fd;
  pid_t owner;               /* who opened it */
  const volatile char *mark; /* once locked: 1, and 0 in a process forked off later. NULL: the system has no such memory */
  struct mutex mutex;        /* of the mappings */
  mapping *mappings;         /* not unmapped yet */
  size_t mapping_count, mapping_cap;
  void (*fault)(void *user); /* NULL: mappings are not guarded */
  void *fault_user;
};

static int code_of_errno(int error) {
  switch (error) {
    case ENOENT: return SDB_NOT_FOUND;
    case ENOMEM: return SDB_NO_MEMORY;
    case EACCES:
    case EPERM:
    case EROFS: return SDB_DENIED;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return SDB_FULL;
    case EISDIR:
    case ENXIO: return SDB_NOT_A_DATABASE;
    default: return SDB_IO;
  }
}

static bool offset_fits(uint64_t offset, uint64_t len) { return offset <= INT64_MAX && len <= INT64_MAX - offset; }

/* --- Open, lock, close -------------------------------------------------------------------------------------------------------- */

static int lock_descriptor(int fd, short type) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return SDB_OK;
  if (errno == EAGAIN || errno == EACCES) return SDB_LOCKED;
  return errno == EBADF ? SDB_INVALID : SDB_IO;
}

/* Whether `name` still leads to the open file. */
static int same_file(int fd, const char *name, bool *same) {
  struct stat open_file, named;
  if (fstat(fd, &open_file) != 0) return code_of_errno(errno);
  if (stat(name, &named) != 0) {
    *same = false;
    return errno == ENOENT ? SDB_OK : code_of_errno(errno);
  }
  *same = open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
  return SDB_OK;
}

/* open() beyond the numbers of the standard streams: a program that was started with one of them closed prints to whatever file has
 * its number. The lock belongs to the open file, which the copy shares. O_NONBLOCK: without effect on a file, but a pipe of that
 * name must not hang the caller. */
static int open_beyond_streams(const char *name, int flags) {
  int fd = open(name, flags | O_CLOEXEC | O_NONBLOCK, FILE_MODE);
  if (fd < 0 || fd > STDERR_FILENO) return fd;
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  int error = errno;
  close(fd);
  errno = error;
  return copy;
}

/* Locks, then looks whether the name still leads here, then empties: in any other order another process's file could be emptied. */
static int create_descriptor(const char *name, int *fd) {
  for (int attempt = 0; attempt < CREATE_ATTEMPTS; attempt++) {
    int f = open_beyond_streams(name, O_RDWR | O_CREAT);
    if (f < 0) return code_of_errno(errno);
    bool same = false;
    int code = lock_descriptor(f, F_WRLCK);
    if (code == SDB_OK) code = same_file(f, name, &same);
    if (code == SDB_OK && same && ftruncate(f, 0) != 0) code = code_of_errno(errno);
    if (code == SDB_OK && same) {
      *fd = f;
      return SDB_OK;
    }
    close(f);
    if (code != SDB_OK) return code;
  }
  return SDB_LOCKED;
}

static int open_descriptor(const char *name, unsigned flags, int *fd) {
  if (flags == SDB_OPEN_CREATE) return create_descriptor(name, fd);
  int f = open_beyond_streams(name, flags == SDB_OPEN_WRITE ? O_RDWR : O_RDONLY);
  if (f < 0) return code_of_errno(errno);
  *fd = f;
  return SDB_OK;
}

static int file_open(void *ctx, const char *name, unsigned flags, sdb_file **file) {
  (void)ctx;
  sdb_file *f = calloc(1, sizeof *f);
  if (f == NULL) return SDB_NO_MEMORY;
  int code = open_descriptor(name, flags, &f->fd);
  if (code != SDB_OK) goto fail_memory;
  struct stat st;
  if (fstat(f->fd, &st) != 0) {
    code = code_of_errno(errno);
    goto fail_descriptor;
  }
  if (!S_ISREG(st.st_mode)) {
    code = SDB_NOT_A_DATABASE;
    goto fail_descriptor;
  }
  mutex_init(&f->mutex);
  f->owner = getpid();
  *file = f;
  return SDB_OK;

fail_descriptor:
  close(f->fd);
fail_memory:
  free(f);
  return code;
}

static void release_mapping(const sdb_file *file, const mapping *m) {
  if (file->fault) guard_remove(m->address);
  munmap(m->address, m->len);
}

static void file_close(sdb_file *file) {
  if (file == NULL) return;
  for (size_t i = 0; i < file->mapping_count; i++) release_mapping(file, &file->mappings[i]);
  free(file->mappings);
  if (file->mark) munmap((void *)(uintptr_t)file->mark, MARK_BYTES);
  mutex_destroy(&file->mutex);
  close(file->fd);
  free(file);
}

/* Memory that a child process finds empty: looking at it costs nothing, while asking for the process's number is a system call. */
static const volatile char *make_mark(void) {
  char *mark = mmap(NULL, MARK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mark == MAP_FAILED) return NULL;
  if (madvise(mark, MARK_BYTES, MADV_WIPEONFORK) != 0) {
    munmap(mark, MARK_BYTES);
    return NULL;
  }
  *mark = 1;
  return mark;
}

static int file_lock(sdb_file *file, bool exclusive) {
  struct stat st;
  if (!file->mark) file->mark = make_mark();
  int code = lock_descriptor(file->fd, exclusive ? F_WRLCK : F_RDLCK);
  if (code != SDB_OK) return code;
  if (fstat(file->fd, &st) != 0) code = code_of_errno(errno);
  else if (st.st_nlink > 1) code = SDB_LINKED;
  return code;
}

static void file_holder(void *ctx, char *buf, size_t len) {
  char host[64] = "";
  (void)ctx;
  if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  (void)snprintf(buf, len, "process %ld%s%s", (long)getpid(), host[0] ? " on " : "", host);
}

static bool file_inherited(const sdb_file *file) { return file->mark ? *file->mark == 0 : getpid() != file->owner; }

/* --- Contents ----------------------------------------------------------------------------------------------------------------- */

static int file_read(sdb_file *file, uint64_t offset, void *buf, size_t len) {
  if (!offset_fits(offset, len)) return SDB_IO;
  uint8_t *p = buf;
  while (len > 0) {
    ssize_t n = pread(file->fd, p, len, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return SDB_IO;
    p += n;
    offset += (uint64_t)n;
    len -= (size_t)n;
  }
  return SDB_OK;
}

static int file_write(sdb_file *file, uint64_t offset, const void *buf, size_t len) {
  if (!offset_fits(offset, len)) return SDB_FULL;
  const uint8_t *p = buf;
  while (len > 0) {
    ssize_t n = pwrite(file->fd, p, len, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return code_of_errno(errno);
    if (n == 0) return SDB_IO;
    p += n;
    offset += (uint64_t)n;
    len -= (size_t)n;
  }
  return SDB_OK;
}

static int file_sync(sdb_file *file) { return fdatasync(file->fd) == 0 ? SDB_OK : SDB_IO; }

#ifdef SYNC_FILE_RANGE_WRITE
static int file_write_back(sdb_file *file, uint64_t offset, uint64_t len, bool wait) {
  unsigned flags = wait ? SYNC_FILE_RANGE_WAIT_BEFORE : SYNC_FILE_RANGE_WRITE;
  if (sync_file_range(file->fd, (off_t)offset, (off_t)len, flags) == 0) return SDB_OK;
  return errno == ENOSYS || errno == ESPIPE || errno == EINVAL ? SDB_OK
                                                               : SDB_IO; /* a file system without it: the sync does it all */
}
#endif

static int file_get_size(sdb_file *file, uint64_t *size) {
  struct stat st;
  if (fstat(file->fd, &st) != 0) return SDB_IO;
  *size = (uint64_t)st.st_size;
  return SDB_OK;
}

static int file_set_size(sdb_file *file, uint64_t size) {
  if (!offset_fits(size, 0)) return SDB_FULL;
  int result;
  do { result = ftruncate(file->fd, (off_t)size); } while (result != 0 && errno == EINTR);
  return result == 0 ? SDB_OK : code_of_errno(errno);
}

static int write_zeros(sdb_file *file, uint64_t offset, uint64_t end) {
  static const uint8_t zeros[65536];
  while (offset < end) {
    size_t n = end - offset < sizeof zeros ? (size_t)(end - offset) : sizeof zeros;
    int code = file_write(file, offset, zeros, n);
    if (code != SDB_OK) return code;
    offset += n;
  }
  return SDB_OK;
}

static int file_allocate(sdb_file *file, uint64_t size) {
  uint64_t old_size;
  if (!offset_fits(size, 0)) return SDB_FULL;
  int code = file_get_size(file, &old_size);
  if (code != SDB_OK || size <= old_size) return code;
  int result;
  do { result = fallocate(file->fd, 0, (off_t)old_size, (off_t)(size - old_size)); } while (result != 0 && errno == EINTR);
  if (result == 0) return SDB_OK;
  code = errno == EOPNOTSUPP || errno == ENOSYS ? write_zeros(file, old_size, size) : code_of_errno(errno);
  /* A failure may leave a part; what was there before must not change, so a failing cut has nothing to add to the code. */
  if (code != SDB_OK && ftruncate(file->fd, (off_t)old_size) != 0) return code;
  return code;
}

/* Where nothing can be punched out there is nothing to fill. */
static int file_fill(sdb_file *file, uint64_t offset, uint64_t len) {
  if (!offset_fits(offset, len)) return SDB_FULL;
  int result;
  do { result = fallocate(file->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len); } while (result != 0 && errno == EINTR);
  return result == 0 || errno == EOPNOTSUPP || errno == ENOSYS ? SDB_OK : code_of_errno(errno);
}

static int file_get_allocated(sdb_file *file, uint64_t *bytes) {
  struct stat st;
  if (fstat(file->fd, &st) != 0) return SDB_IO;
  *bytes = (uint64_t)st.st_blocks * 512;
  return SDB_OK;
}

static int file_punch(sdb_file *file, uint64_t offset, uint64_t len) {
  if (len == 0 || !offset_fits(offset, len)) return SDB_OK;
  int result;
  do {
    result = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
  } while (result != 0 && errno == EINTR);
  return result != 0 && errno == EIO ? SDB_IO : SDB_OK;
}

static void file_prefetch(sdb_file *file, uint64_t offset, uint64_t len) {
  if (offset_fits(offset, len)) (void)posix_fadvise(file->fd, (off_t)offset, (off_t)len, POSIX_FADV_WILLNEED);
}

/* --- Mapping ------------------------------------------------------------------------------------------------------------------ */

/* Room first, so that a mapping that exists is always on the list. */
static bool reserve_mapping(sdb_file *file) {
  if (file->mapping_count < file->mapping_cap) return true;
  size_t cap = file->mapping_cap == 0 ? 8 : file->mapping_cap * 2;
  mapping *grown = realloc(file->mappings, cap * sizeof *grown);
  if (grown == NULL) return false;
  file->mappings = grown;
  file->mapping_cap = cap;
  return true;
}

static const void *file_map(sdb_file *file, uint64_t offset, size_t len) {
  if (len == 0 || !offset_fits(offset, len)) return NULL;
  void *address = NULL;
  mutex_lock(&file->mutex);
  if (reserve_mapping(file)) {
    address = mmap(NULL, len, PROT_READ, MAP_SHARED, file->fd, (off_t)offset);
    if (address == MAP_FAILED) {
      address = NULL;
    } else if (file->fault && !guard_add(address, len, file->fault, file->fault_user)) {
      munmap(address, len);
      address = NULL;
    } else {
      file->mappings[file->mapping_count++] = (mapping){address, len};
    }
  }
  mutex_unlock(&file->mutex);
  return address;
}

static void file_unmap(sdb_file *file, const void *address, size_t len) {
  mutex_lock(&file->mutex);
  for (size_t i = 0; i < file->mapping_count; i++) {
    if (file->mappings[i].address == address && file->mappings[i].len == len) {
      release_mapping(file, &file->mappings[i]);
      file->mappings[i] = file->mappings[--file->mapping_count];
      break;
    }
  }
  mutex_unlock(&file->mutex);
}

static int file_guard(sdb_file *file, void (*fault)(void *user), void *user) {
  if (!guard_install()) return SDB_IO;
  file->fault = fault;
  file->fault_user = user;
  return SDB_OK;
}

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

static int file_rename(void *ctx, const char *from, const char *to) {
  (void)ctx;
  return rename(from, to) == 0 ? SDB_OK : code_of_errno(errno);
}

static int file_remove(void *ctx, const char *name) {
  (void)ctx;
  return unlink(name) == 0 ? SDB_OK : code_of_errno(errno);
}

/* The directory of `name`, to be freed; NULL on shortage. */
static char *directory_of(const char *name) {
  const char *slash = strrchr(name, '/');
  if (slash == NULL) return strdup(".");
  return slash == name ? strdup("/") : strndup(name, (size_t)(slash - name));
}

static int file_sync_dir(void *ctx, const char *name) {
  (void)ctx;
  char *directory = directory_of(name);
  if (directory == NULL) return SDB_NO_MEMORY;
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int code = fd < 0 ? code_of_errno(errno) : SDB_OK;
  free(directory);
  if (fd < 0) return code;
  /* EINVAL: the file system has no such call because it orders names itself. */
  if (fsync(fd) != 0 && errno != EINVAL) code = SDB_IO;
  close(fd);
  return code;
}

/* --- Clock, randomness, memory ------------------------------------------------------------------------------------------------ */

static uint64_t file_now_ms(void *ctx) {
  (void)ctx;
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t file_monotonic_us(void *ctx) {
  (void)ctx;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int file_random(void *ctx, void *buf, size_t len) {
  (void)ctx;
  uint8_t *p = buf;
  while (len > 0) {
    ssize_t n = getrandom(p, len, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return SDB_IO;
    p += n;
    len -= (size_t)n;
  }
  return SDB_OK;
}

static void *file_realloc(void *ctx, void *p, size_t len) {
  (void)ctx;
  if (len == 0) {
    free(p);
    return NULL;
  }
  if (p != NULL || len < HUGE_FROM) return realloc(p, len);
  /* Large tables are read at random: with huge pages a read does not wait for the address translation as well. */
  size_t size = (len + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  void *table = aligned_alloc(HUGE_PAGE, size);
#ifdef MADV_HUGEPAGE
  if (table != NULL) madvise(table, size, MADV_HUGEPAGE);
#endif
  return table;
}

/* --- Threads ------------------------------------------------------------------------------------------------------------------ */

#if SDB_THREADS
typedef struct file_thread {
  pthread_t id;
  void (*run)(void *arg);
  void *arg;
} file_thread;

static void *thread_main(void *arg) {
  file_thread *thread = arg;
  thread->run(thread->arg);
  return NULL;
}

/* Signals belong to the program's own threads: the new one starts with all of them blocked, but those that it causes itself. */
static int file_thread_start(void *ctx, void (*run)(void *arg), void *arg, void **thread) {
  (void)ctx;
  file_thread *t = malloc(sizeof *t);
  if (t == NULL) return SDB_NO_MEMORY;
  t->run = run;
  t->arg = arg;
  sigset_t all, before;
  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGFPE);
  sigdelset(&all, SIGILL);
  sigdelset(&all, SIGSEGV);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&t->id, NULL, thread_main, t);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error != 0) {
    free(t);
    return SDB_NO_MEMORY;
  }
  *thread = t;
  return SDB_OK;
}

static void file_thread_join(void *ctx, void *thread) {
  (void)ctx;
  file_thread *t = thread;
  pthread_join(t->id, NULL);
  free(t);
}
#endif

/* The folder's own name, and behind it the last part of `name`: for files that do not exist yet. */
static char *resolve_absent(const char *name) {
  const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
  char *folder = slash ? strndup(name, (size_t)(slash - name) + 1) : strdup("."), *real = folder ? realpath(folder, NULL) : NULL;
  free(folder);
  if (!real) return NULL;
  size_t len = strlen(real) + strlen(last) + 2;
  char *whole = malloc(len);
  if (whole) snprintf(whole, len, "%s%s%s", real, real[1] ? "/" : "", last);
  free(real);
  return whole;
}

static int file_resolve(void *ctx, const char *name, char *buf, size_t len) {
  (void)ctx;
  char *real = realpath(name, NULL);
  if (!real && errno == ENOENT) real = resolve_absent(name);
  if (!real)
    return errno == ENOENT || errno == ENOTDIR ? SDB_NOT_FOUND
           : errno == EACCES                   ? SDB_DENIED
           : errno == ENOMEM                   ? SDB_NO_MEMORY
                                               : SDB_IO;
  int n = snprintf(buf, len, "%s", real);
  free(real);
  return n >= 0 && (size_t)n < len ? SDB_OK : SDB_INVALID;
}

static const sdb_storage file_table = {
    .size = sizeof(sdb_storage),
    .version = SDB_STORAGE_VERSION,
    .ctx = NULL,
    .open = file_open,
    .close = file_close,
    .lock = file_lock,
    .read = file_read,
    .write = file_write,
    .sync = file_sync,
    .get_size = file_get_size,
    .set_size = file_set_size,
    .allocate = file_allocate,
    .punch = file_punch,
    .map = file_map,
    .unmap = file_unmap,
    .rename = file_rename,
    .remove = file_remove,
    .sync_dir = file_sync_dir,
    .resolve = file_resolve,
    .now_ms = file_now_ms,
    .monotonic_us = file_monotonic_us,
    .random = file_random,
    .realloc = file_realloc,
#if SDB_THREADS
    .thread_start = file_thread_start,
    .thread_join = file_thread_join,
#endif
#ifdef SYNC_FILE_RANGE_WRITE
    .write_back = file_write_back,
#endif
    .inherited = file_inherited,
    .prefetch = file_prefetch,
    .fill = file_fill,
    .get_allocated = file_get_allocated,
    .holder = file_holder,
    .guard = file_guard,
};

const sdb_storage *sdb_storage_file(void) { return &file_table; }
