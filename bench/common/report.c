/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* report.c - from series of figures to a line of a table: median, spread, ratio to the peer, verdict. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "bench.h"

void series_add(series *s, double value) {
  if (s->count < SERIES_MAX) s->value[s->count++] = value;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double quantile(double *values, size_t count, double q) {
  if (!count) return 0;
  qsort(values, count, sizeof *values, compare_doubles);
  double place = q * (double)(count - 1);
  size_t below = (size_t)place;
  if (below + 1 >= count) return values[count - 1];
  return values[below] + (place - (double)below) * (values[below + 1] - values[below]);
}

double series_quantile(const series *s, double q) {
  series copy = *s;
  return quantile(copy.value, copy.count, q);
}

/* 1234567 as "1,234,567". */
static void grouped(char *buf, size_t len, double value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%.0f", value);
  size_t n = strlen(digits), at = 0;
  for (size_t i = 0; i < n && at + 2 < len; i++) {
    if (i && (n - i) % 3 == 0 && digits[i - 1] != '-') buf[at++] = ',';
    buf[at++] = digits[i];
  }
  buf[at] = '\0';
}

const char *figure(char *buf, size_t len, unit u, double value) {
  char text[48];
  switch (u) {
    case UNIT_TIME:
      if (value < 1e-3) {
        snprintf(buf, len, value < 1e-5 ? "%.2f us" : "%.1f us", value * 1e6);
      } else {
        snprintf(buf, len, value < 10 ? "%.2f ms" : "%.0f ms", value * 1e3);
      }
      break;
    case UNIT_RATE:
      grouped(text, sizeof text, value);
      snprintf(buf, len, "%s/s", text);
      break;
    case UNIT_THROUGHPUT:
      grouped(text, sizeof text, value / 1e6);
      snprintf(buf, len, "%s MB/s", text);
      break;
    case UNIT_BYTES:
      grouped(text, sizeof text, value / 1e6);
      snprintf(buf, len, "%s MB", text);
      break;
    case UNIT_FACTOR: snprintf(buf, len, "%.2f", value); break;
  }
  return buf;
}

void report_print(report *r, const char *format, ...) {
  for (unsigned i = 0; i < 2; i++) {
    if (!r->out[i]) continue;
    va_list args;
    va_start(args, format);
    vfprintf(r->out[i], format, args);
    va_end(args);
    fflush(r->out[i]);
  }
}

static const char *file_system(const char *dir) {
  static const struct {
    unsigned long magic;
    const char *name;
  } known[] = {{0xEF53, "ext4"}, {0x58465342, "xfs"}, {0x9123683E, "btrfs"}, {0x2FC12FC1, "zfs"}, {0x794C7630, "overlay"}};
  struct statfs s;
  if (statfs(dir, &s)) return "unknown";
  if ((unsigned long)s.f_type == 0x01021994) die("%s is in memory: give --dir on a real device", dir);
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if ((unsigned long)s.f_type == known[i].magic) return known[i].name;
  }
  return "another";
}

void report_machine(report *r, const char *dir) {
  struct utsname u;
  if (uname(&u)) die("uname failed");
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  report_print(r, "Machine: %ld cores (%s), %.0f GB of memory, Linux %.6s, file system %s, compiler %s.\n\n",
               sysconf(_SC_NPROCESSORS_ONLN), u.machine, (double)pages * (double)page / 1e9, u.release, file_system(dir),
#if defined(__clang__)
               "clang " __clang_version__
#else
               "gcc " __VERSION__
#endif
  );
}

void report_head(report *r) {
  report_print(
      r,
      "Each figure is the median of the rounds, its spread (least to greatest) in brackets. Stores take turns round by round. "
      "The ratio is to the first peer named.\n\n"
      "| # | work | StreamDB | peers | ratio | target | verdict |\n|---|---|---|---|---|---|---|\n");
}

static void print_series(report *r, unit u, const series *s) {
  char median[64], low[64], high[64];
  if (!s->count) {
    report_print(r, "-");
    return;
  }
  figure(median, sizeof median, u, series_quantile(s, 0.5));
  if (s->count == 1) {
    report_print(r, "%s", median);
    return;
  }
  report_print(r, "%s (%s..%s)", median, figure(low, sizeof low, u, series_quantile(s, 0)),
               figure(high, sizeof high, u, series_quantile(s, 1)));
}

static bool more_is_better(unit u) { return u == UNIT_RATE || u == UNIT_THROUGHPUT; }

/* How many times as good as the peer. */
static double advantage(unit u, double ours, double peer) { return more_is_better(u) ? ours / peer : peer / ours; }

static const char *verdict(const struct row *row, double ours, double ratio) {
  switch (row->kind) {
    case LIMIT_NONE: return "reported";
    case LIMIT_SPEED:
      if (row->stretch > 0 && ratio >= row->stretch) return "met, stretch too";
      return ratio >= row->limit ? "met" : "**missed**";
    case LIMIT_COST: return ratio <= row->limit ? "met" : "**missed**";
    case LIMIT_ABSOLUTE: return (more_is_better(row->unit) ? ours >= row->limit : ours <= row->limit) ? "met" : "**missed**";
  }
  return "";
}

void report_row(report *r, const struct row *row) {
  double ours = series_quantile(row->ours, 0.5), ratio = 0;
  report_print(r, "| %s | %s | ", row->id, row->work);
  print_series(r, row->unit, row->ours);
  report_print(r, " | ");
  for (unsigned i = 0, shown = 0; i < row->peer_count; i++) {
    if (!row->peers[i].series->count) continue;
    double peer = series_quantile(row->peers[i].series, 0.5);
    if (!shown && ours > 0 && peer > 0) ratio = advantage(row->unit, ours, peer);
    report_print(r, "%s%s ", shown++ ? "; " : "", row->peers[i].name);
    print_series(r, row->unit, row->peers[i].series);
  }
  if (row->kind == LIMIT_COST && ratio > 0) ratio = 1 / ratio;
  report_print(r, " | ");
  if (ratio > 0) report_print(r, "%.2f%s", ratio, row->kind == LIMIT_COST ? " of its cost" : "x");
  bool measured = row->ours->count && (ratio > 0 || row->kind == LIMIT_ABSOLUTE || row->kind == LIMIT_NONE);
  report_print(r, " | %s | %s |\n", row->target, measured ? verdict(row, ours, ratio) : "not measured");
}
