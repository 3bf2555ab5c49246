/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* progress.c - "[=========>          ]  45%  115.2 MB of 256.0 MB  310.4 MB/s  0:01 left" */
#include "progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "output.h"

#define PATIENCE_US 300000 /* shorter transfers need no bar */
#define REDRAW_US 100000
#define WIDTH 24u

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void progress_begin(progress *p, uint64_t total, bool quiet) {
  *p = (progress){.shown = !quiet && isatty(STDERR_FILENO) == 1, .total = total};
  if (p->shown) p->start = p->last = now_us();
}

static void draw(const progress *p, int64_t now) {
  char done[16], total[16], rate[16], bar[WIDTH + 1];
  uint64_t us = (uint64_t)(now - p->start);
  uint64_t per_second = (uint64_t)((double)p->done * 1e6 / (double)us);
  if (p->total == UINT64_MAX) {
    fprintf(stderr, "\r\033[K%s  %s/s", text_size(p->done, done), text_size(per_second, rate));
    return;
  }
  unsigned share = p->total > 0 ? (unsigned)((double)p->done * 100 / (double)p->total) : 100;
  if (share > 100) share = 100;
  unsigned full = share * WIDTH / 100;
  for (unsigned i = 0; i < WIDTH; i++) bar[i] = i < full ? '=' : i == full ? '>' : ' ';
  bar[WIDTH] = '\0';
  uint64_t left = p->total > p->done && per_second > 0 ? (p->total - p->done) / per_second : 0;
  fprintf(stderr, "\r\033[K[%s] %3u%%  %s of %s  %s/s  %" PRIu64 ":%02" PRIu64 " left", bar, share, text_size(p->done, done),
          text_size(p->total, total), text_size(per_second, rate), left / 60, left % 60);
}

void progress_add(progress *p, uint64_t amount) {
  p->done += amount;
  if (!p->shown) return;
  int64_t now = now_us();
  if (now - p->start < PATIENCE_US || now - p->last < REDRAW_US) return;
  p->last = now;
  p->drawn = true;
  draw(p, now);
}

void progress_end(progress *p) {
  if (p->drawn) fputs("\r\033[K", stderr);
  p->drawn = p->shown = false;
}
