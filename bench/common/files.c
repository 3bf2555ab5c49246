/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* files.c - the working directory: made, measured, removed. And what the system says about a process. */
#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

void directory_make(const char *dir) {
  if (mkdir(dir, 0700) && errno != EEXIST) die("cannot make the directory %s: %s", dir, strerror(errno));
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  return remove(name);
}

void directory_remove(const char *dir) {
  if (nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) && errno != ENOENT) die("cannot remove %s: %s", dir, strerror(errno));
}

/* nftw() passes no arguments of ours through. */
static uint64_t sum;
static const char *wanted;

static int sum_one(const char *name, const struct stat *st, int type, struct FTW *ftw) {
  bool counts = !wanted || strstr(name + ftw->base, wanted);
  if (type == FTW_F && counts) sum += (uint64_t)st->st_blocks * 512;
  return 0;
}

uint64_t directory_bytes(const char *dir, const char *part) {
  sum = 0;
  wanted = part;
  if (nftw(dir, sum_one, 16, FTW_PHYS)) die("cannot measure %s: %s", dir, strerror(errno));
  return sum;
}

uint64_t anonymous_memory(int pid) {
  char name[64], line[256];
  snprintf(name, sizeof name, "/proc/%d/status", pid);
  FILE *f = fopen(name, "r");
  if (!f) return 0;
  uint64_t kb = 0;
  while (fgets(line, sizeof line, f)) {
    if (!strncmp(line, "RssAnon:", 8)) kb = strtoull(line + 8, NULL, 10);
  }
  fclose(f);
  return kb * 1024;
}
