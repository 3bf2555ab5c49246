/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* worker.c - both ends of the pipes between the plan and the processes that work. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

#define SAMPLE_MS 20

void bench_figure(bench *b, double value) {
  if (b->figure_count < FIGURES_MAX) b->figures[b->figure_count++] = value;
}

void worker_main(const struct job *job) {
  const work_ops *work = work_find(job->work);
  size_t buffer = job->size > ((size_t)1 << 20) ? job->size : (size_t)1 << 20;
  bench b = {.job = *job, .ops = store_find(job->store), .random = {.state = 42}};
  char line[64];
  if (!work || !b.ops) die("there is no work %s on %s", job->work, job->store);
  content_init(job->size > 4096 ? job->size : 4096);
  b.buf = need(buffer);
  memset(b.buf, 0, buffer); /* so that no round pays for the first touch */
  if (work->prepare) work->prepare(&b);
  while (fgets(line, sizeof line, stdin)) {
    b.figure_count = 0;
    work->round(&b);
    for (unsigned i = 0; i < b.figure_count; i++) printf("%.9g ", b.figures[i]);
    printf("\n");
    fflush(stdout);
  }
  if (work->finish) work->finish(&b);
  free(b.buf);
}

bool worker_start(worker *w, const struct job *job) {
  int to[2], from[2];
  char documents[24], size[24], count[24];
  if (!store_find(job->store)) return false;
  snprintf(documents, sizeof documents, "%llu", (unsigned long long)job->documents);
  snprintf(size, sizeof size, "%zu", job->size);
  snprintf(count, sizeof count, "%llu", (unsigned long long)job->count);
  if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC)) die("no pipes"); /* a worker must not hold the others' pipes open */
  signal(SIGPIPE, SIG_IGN);                                            /* a worker that died is noticed where it is read from */
  fflush(NULL);
  w->pid = fork();
  if (w->pid < 0) die("cannot start a process");
  if (!w->pid) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left behind when the plan dies */
    dup2(to[0], STDIN_FILENO);
    dup2(from[1], STDOUT_FILENO);
    execl("/proc/self/exe", "bench-engine", "--worker", job->work, job->store, job->dir, documents, size, count, (char *)NULL);
    _exit(127);
  }
  close(to[0]), close(from[1]);
  w->to = to[1];
  w->from = from[0];
  w->peak_memory = 0;
  return true;
}

bool worker_round(worker *w, double *figures) {
  char line[256];
  size_t len = 0;
  memset(figures, 0, FIGURES_MAX * sizeof *figures);
  if (write(w->to, "round\n", 6) != 6) return false;
  while (len < sizeof line - 1 && !memchr(line, '\n', len)) {
    struct pollfd p = {.fd = w->from, .events = POLLIN};
    uint64_t memory = anonymous_memory((int)w->pid);
    if (memory > w->peak_memory) w->peak_memory = memory;
    if (poll(&p, 1, SAMPLE_MS) <= 0) continue;
    ssize_t n = read(w->from, line + len, sizeof line - 1 - len);
    if (n <= 0) return false;
    len += (size_t)n;
  }
  line[len] = '\0';
  char *at = line;
  for (unsigned i = 0; i < FIGURES_MAX; i++) {
    char *end;
    double value = strtod(at, &end);
    if (end == at) break;
    figures[i] = value;
    at = end;
  }
  return true;
}

void worker_stop(worker *w) {
  int status;
  close(w->to);
  close(w->from);
  waitpid(w->pid, &status, 0);
}
