/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* outfile.c - writes beside the target and renames, so that a failure leaves no half file; also when a signal ends the program. */
#include "outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the signal handler removes. */
static char *volatile unfinished;
static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};

static void remove_and_end(int number) {
  char *name = unfinished;
  if (name) (void)unlink(name);
  (void)signal(number, SIG_DFL);
  (void)raise(number);
}

static void catch_signals(void) {
  struct sigaction action, old;
  memset(&action, 0, sizeof action);
  action.sa_handler = remove_and_end;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof ending_signals / sizeof *ending_signals; i++) {
    /* A signal that was ignored when the program began (nohup) stays ignored. */
    if (sigaction(ending_signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
      (void)sigaction(ending_signals[i], &action, NULL);
  }
}

static mode_t usual_mode(void) {
  mode_t mask = umask(0);
  (void)umask(mask);
  return 0666 & ~mask;
}

static int open_beside(outfile *f, const char *name, const struct stat *old) {
  f->target = old ? realpath(name, NULL) : strdup(name);
  size_t len = f->target ? strlen(f->target) + sizeof ".part-XXXXXX" : 0;
  f->temporary = len > 0 ? malloc(len) : NULL;
  if (!f->temporary) return complain("cannot write '%s': %s", name, strerror(errno));
  (void)snprintf(f->temporary, len, "%s.part-XXXXXX", f->target);
  catch_signals();
  f->fd = mkstemp(f->temporary);
  if (f->fd < 0) {
    int error = errno;
    free(f->temporary);
    f->temporary = NULL;
    return complain("cannot write '%s': %s", name, strerror(error));
  }
  unfinished = f->temporary;
  (void)fchmod(f->fd, old ? old->st_mode & 07777 : usual_mode());
  return EXIT_DONE;
}

int outfile_open(outfile *f, const char *name) {
  *f = (outfile){.fd = STDOUT_FILENO, .shown = "standard output"};
  if (!name || strcmp(name, "-") == 0) return EXIT_DONE;
  f->shown = name;
  f->fd = -1;
  struct stat st;
  bool there = stat(name, &st) == 0;
  if (!there || S_ISREG(st.st_mode)) {
    int code = open_beside(f, name, there ? &st : NULL);
    if (code != EXIT_DONE) outfile_abort(f);
    return code;
  }
  f->fd = open(name, O_WRONLY | O_CLOEXEC);
  return f->fd >= 0 ? EXIT_DONE : complain("cannot write '%s': %s", name, strerror(errno));
}

int outfile_write(outfile *f, const void *data, size_t len) {
  const uint8_t *from = data;
  while (len > 0) {
    ssize_t n = write(f->fd, from, len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return complain("cannot write to %s: %s", f->shown, strerror(errno));
    from += n;
    len -= (size_t)n;
  }
  return EXIT_DONE;
}

static void forget(outfile *f) {
  unfinished = NULL;
  free(f->temporary);
  free(f->target);
  *f = (outfile){.fd = -1};
}

int outfile_commit(outfile *f) {
  if (f->fd == STDOUT_FILENO) return EXIT_DONE;
  bool synced = !f->temporary || fsync(f->fd) == 0;
  bool closed = close(f->fd) == 0;
  f->fd = -1;
  if (synced && closed && (!f->temporary || rename(f->temporary, f->target) == 0)) {
    forget(f);
    return EXIT_DONE;
  }
  int code = complain("cannot write '%s': %s", f->shown, strerror(errno));
  outfile_abort(f);
  return code;
}

void outfile_abort(outfile *f) {
  if (f->fd > STDERR_FILENO) (void)close(f->fd);
  if (f->temporary) (void)unlink(f->temporary);
  forget(f);
}
