/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* main.c - bench-engine: the embedded engine beside LMDB, RocksDB, SQLite and the bare device.
 *
 * The plan (plans.c) is a list of phases. A phase loads the stores it needs, lets them take turns at its works, writes its rows and
 * removes the files. The same program, called with --worker, is the process that drives one store (work.h).
 */
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

static void usage(FILE *out) {
  fprintf(out,
          "usage: bench-engine [--documents N] [--scale F] [--rounds N] [--quick] [--dir DIR] [--report FILE] [E1 E4 ...]\n"
          "  --documents N  documents in the stores that are read (1,000,000)\n"
          "  --rounds N     rounds of each work; of a load, a third of them (9)\n"
          "  --scale F      F times as many documents, large ones and overwritten ones included (1; from 0.001 to 10)\n"
          "  --quick        --scale 0.1 --rounds 3\n"
          "  --dir DIR      where the stores are put, on a real device (./bench-work); what it makes there it removes\n"
          "  --report FILE  write the report there as well\n"
          "  E1 E4 ...      only these numbers\n");
}

static uint64_t number(const char *text) {
  char *end;
  uint64_t value = strtoull(text, &end, 10);
  if (end == text || *end) die("%s is not a number", text);
  return value;
}

static double fraction(const char *text) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end || !(value >= 0.001 && value <= 10)) die("--scale must be a number from 0.001 to 10");
  return value;
}

/* The numbers wanted, as the plan keeps them: with commas between. */
static const char *joined(char **words) {
  static char text[512];
  size_t len = 0;
  for (; *words; words++) {
    if (**words != 'E') die("%s is no number of the plan: E1 to E19", *words);
    int n = snprintf(text + len, sizeof text - len, "%s%s", len ? "," : "", *words);
    if (n < 0 || (size_t)n >= sizeof text - len) die("too many numbers");
    len += (size_t)n;
  }
  return len ? text : NULL;
}

static int run_worker(char **argv) {
  struct job job = {.work = argv[2],
                    .store = argv[3],
                    .dir = argv[4],
                    .documents = number(argv[5]),
                    .size = number(argv[6]),
                    .count = number(argv[7])};
  worker_main(&job);
  return 0;
}

int main(int argc, char **argv) {
  static const struct option options[] = {{"documents", required_argument, NULL, 'n'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"quick", no_argument, NULL, 'q'},
                                          {"scale", required_argument, NULL, 's'},
                                          {"dir", required_argument, NULL, 'd'},
                                          {"report", required_argument, NULL, 'w'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
  if (argc == 8 && !strcmp(argv[1], "--worker")) return run_worker(argv);
  struct plan plan = {.documents = 1000000, .scale = 1, .rounds = 9, .dir = "bench-work", .report = {.out = {stdout, NULL}}};
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    switch (c) {
      case 'n': plan.documents = number(optarg); break;
      case 'r': plan.rounds = (unsigned)number(optarg); break;
      case 'q': plan.scale = 0.1, plan.rounds = 3; break;
      case 's': plan.scale = fraction(optarg); break;
      case 'd': plan.dir = optarg; break;
      case 'w':
        plan.report.out[1] = fopen(optarg, "w");
        if (!plan.report.out[1]) die("cannot write %s", optarg);
        break;
      case 'h': usage(stdout); return 0;
      default: usage(stderr); return 2;
    }
  }
  plan.only = joined(argv + optind);
  plan.documents = (uint64_t)((double)plan.documents * plan.scale);
  if (plan.documents < 1000 || plan.documents > UINT32_MAX / 2) die("--documents must be from 1,000 to 2,147,483,647");
  if (!plan.rounds || plan.rounds > SERIES_MAX) die("--rounds must be from 1 to %u", SERIES_MAX);
  plan_run(&plan);
  if (plan.report.out[1]) fclose(plan.report.out[1]);
  return 0;
}
