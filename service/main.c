/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* main.c - streamdbd: options, database, service, exit code. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

#include "options.h"
#include "service.h"

#define EXIT_START 1
#define EXIT_USAGE 2

/* Older libzmq has published holes in its parser of untrusted bytes. */
static bool libzmq_is_safe(void) {
  int major, minor, patch;
  zmq_version(&major, &minor, &patch);
  if (major > 4 || (major == 4 && (minor > 3 || (minor == 3 && patch >= 3)))) return true;
  fprintf(stderr, "streamdbd: libzmq %d.%d.%d is too old to be safe; install 4.3.3 or newer\n", major, minor, patch);
  return false;
}

/* A standard stream that is closed at the start must stay unusable: else a socket gets its number, and what is printed. */
static void occupy_standard_streams(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) < 0) (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

/* Before any thread starts, so that all inherit it: the front takes these signals from a descriptor. */
static void block_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
}

/* Every connection is a descriptor, and the usual soft limit of 1,024 is soon reached. */
static void raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) log_line(LOG_WARNING, "descriptor_limit", "reason=\"%s\"", strerror(errno));
}

static void log_warning(void *user, const char *sentence) {
  (void)user;
  log_line(LOG_WARNING, "engine", "reason=\"%s\"", sentence);
}

/* The key is in memory only while the database is opened. */
static int open_store(options *o, store *st) {
  char sentence[512];
  sdb_key key;
  int rc = sdb_key_find(o->key_file, &key, sentence, sizeof sentence);
  if (rc == SDB_OK) {
    if (sentence[0]) log_line(LOG_WARNING, "key_file", "reason=\"%s\"", sentence);
    sentence[0] = '\0';
    o->engine.message = sentence;
    o->engine.message_size = sizeof sentence;
    o->engine.encryption_key = key.given && !key.recovery ? key.bytes : NULL;
    o->engine.recovery_key = key.given && key.recovery ? key.bytes : NULL;
    rc = store_open_sdb(o->database, &o->engine, st);
    o->engine.encryption_key = o->engine.recovery_key = NULL;
    o->engine.message = NULL;
  }
  sdb_key_wipe(&key);
  if (rc != SDB_OK) fprintf(stderr, "streamdbd: cannot open %s: %s\n", o->database, sentence[0] ? sentence : sdb_strerror(rc));
  return rc;
}

static int serve(options *o) {
  o->engine.warning = log_warning;
  store st;
  int rc = open_store(o, &st);
  if (rc != SDB_OK) return EXIT_START;
  int code = service_run(o, &st);
  rc = st.close(st.ctx);
  /* The log has everything that was acknowledged; only the last checkpoint is missing. */
  if (rc != SDB_OK) log_line(LOG_WARNING, "close", "reason=\"%s\"", sdb_strerror(rc));
  return code;
}

int main(int argc, char *argv[]) {
  occupy_standard_streams();
  options o;
  char sentence[512];
  if (!options_parse(&o, argc, argv, sentence, sizeof sentence)) {
    fprintf(stderr, "streamdbd: %s\n", sentence);
    return EXIT_USAGE;
  }
  if (o.help) {
    fputs(options_help(), stdout);
    return 0;
  }
  if (o.version) {
    printf("streamdbd %s\n", SDB_VERSION_STRING);
    return 0;
  }
  log_set_level(o.log_level);
  if (!libzmq_is_safe()) return EXIT_START;
  block_signals();
  raise_descriptor_limit();
  return serve(&o);
}
