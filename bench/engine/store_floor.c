/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* store_floor.c - not a store: the least that the work could cost.
 *
 *   put           one write and one fdatasync into a file whose blocks are all allocated and written, as a preallocated log has
 *                 them
 *   write_large   the bytes into a new file, then fdatasync
 *   read_large    memcpy from memory, piece by piece
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store.h"

#define FILE_BYTES ((size_t)64 << 20)
#define PIECE ((size_t)1 << 20)

typedef struct floor_store {
  int file;
  size_t at;
  char name[512]; /* of the large file */
  uint8_t *large;
  size_t large_size;
} floor_store;

static void write_all(int file, const uint8_t *data, size_t size, size_t at) {
  if (pwrite(file, data, size, (off_t)at) != (ssize_t)size) die("floor: a write failed");
}

static void *open_store(const char *dir) {
  floor_store *s = need(sizeof *s);
  char name[512];
  memset(s, 0, sizeof *s);
  snprintf(name, sizeof name, "%s/written", dir);
  snprintf(s->name, sizeof s->name, "%s/large", dir);
  s->file = open(name, O_RDWR | O_CREAT, 0600);
  if (s->file < 0) die("floor: cannot open %s", name);
  uint8_t *zeros = calloc(1, PIECE);
  if (!zeros) die("out of memory");
  for (size_t at = 0; at < FILE_BYTES; at += PIECE) write_all(s->file, zeros, PIECE, at);
  free(zeros);
  if (fsync(s->file)) die("floor: a sync failed");
  return s;
}

static void close_store(void *store) {
  floor_store *s = store;
  close(s->file);
  free(s->large);
  free(s);
}

static void put(void *store, const path *p, const void *data, size_t size, bool durable) {
  floor_store *s = store;
  (void)p;
  if (s->at + size > FILE_BYTES) s->at = 0;
  write_all(s->file, data, size, s->at);
  s->at += size;
  if (durable && fdatasync(s->file)) die("floor: a sync failed");
}

static void write_large(void *store, const path *p, const uint8_t *data, size_t size) {
  floor_store *s = store;
  (void)p;
  unlink(s->name);
  int file = open(s->name, O_RDWR | O_CREAT, 0600);
  if (file < 0) die("floor: cannot open %s", s->name);
  for (size_t at = 0; at < size; at += PIECE) write_all(file, data + at, size - at < PIECE ? size - at : PIECE, at);
  if (fdatasync(file)) die("floor: a sync failed");
  close(file);
  if (!s->large) {
    s->large = need(size);
    memcpy(s->large, data, size);
    s->large_size = size;
  }
}

static size_t read_large(void *store, const path *p, uint8_t *buf, size_t piece) {
  floor_store *s = store;
  (void)p;
  for (size_t at = 0; at < s->large_size; at += piece) {
    size_t n = s->large_size - at < piece ? s->large_size - at : piece;
    memcpy(buf, s->large + at, n);
    __asm__ volatile("" : : "r"(buf) : "memory"); /* the copy is the work: it must happen */
  }
  return s->large_size;
}

const store_ops store_floor = {
    .name = "floor", .open = open_store, .close = close_store, .put = put, .write_large = write_large, .read_large = read_large};
