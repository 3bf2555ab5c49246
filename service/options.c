/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* options.c - parsing and checking of the command line. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "endpoint.h"

static const char help[] =
    "usage: streamdbd --database FILE [OPTION]...\n"
    "\n"
    "Serves the documents of a StreamDB database over ZeroMQ. SIGTERM ends it cleanly.\n"
    "\n"
    "  --database FILE             the database; made when it does not exist\n"
    "  --key-file FILE             the key of an encrypted database: 32 bytes, or 64 hexadecimal digits; a database that is made\n"
    "                              gets it (default $STREAMDB_KEY_FILE, else the digits in $STREAMDB_KEY, else none)\n"
    "  --listen ENDPOINT           where requests are answered: tcp://ADDRESS:PORT of this machine's loopback or ipc://FILE;\n"
    "                              may be given up to 16 times; port * takes a free one (default " DEFAULT_LISTEN
    ")\n"
    "  --events ENDPOINT           where events are published (default " DEFAULT_EVENTS
    ")\n"
    "  --durability LEVEL          what a write that does not say gets: durable, buffered or none (default durable)\n"
    "  --buffered-interval-ms N    how long a buffered write may stay unsynced (default 100)\n"
    "  --versions-to-keep N        readable versions of a document, 1 to 255 (default 2)\n"
    "  --page-cache-size N         pages of memory for the database (default 2048)\n"
    "  --max-db-size SIZE          the data file never grows beyond it; K, M, G, T are understood (default 8T)\n"
    "  --max-document-size SIZE    the largest document accepted, at most 256M (default 256M)\n"
    "  --no-mmap                   read the file with system calls instead of a mapping\n"
    "  --quick-mode                read contents without comparing them with their checksums: faster, and damage goes unseen\n"
    "  --no-create                 fail when the database does not exist\n"
    "  --workers N                 threads for streams, uploads and searches, 1 to 64 (default 2)\n"
    "  --stream-lease-ms N         streams and uploads without progress end after it (default 30000)\n"
    "  --quiet                     log warnings and errors only\n"
    "  --verbose                   log more\n"
    "  --help                      this text\n"
    "  --version                   name and version\n"
    "\n"
    "When everything is bound, one line on stdout says so: ready listen=ENDPOINT... events=ENDPOINT pid=N database=FILE\n"
    "Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong usage, 75 a sync of the storage failed: start it again.\n";

const char *options_help(void) { return help; }

enum option_code {
  OPT_DATABASE = 256,
  OPT_KEY_FILE,
  OPT_LISTEN,
  OPT_EVENTS,
  OPT_DURABILITY,
  OPT_BUFFERED,
  OPT_VERSIONS,
  OPT_CACHE,
  OPT_MAX_DB,
  OPT_MAX_DOCUMENT,
  OPT_NO_MMAP,
  OPT_QUICK,
  OPT_NO_CREATE,
  OPT_WORKERS,
  OPT_LEASE,
  OPT_QUIET,
  OPT_VERBOSE,
  OPT_HELP,
  OPT_VERSION
};

static const struct option long_options[] = {
    {"database", required_argument, NULL, OPT_DATABASE},
    {"key-file", required_argument, NULL, OPT_KEY_FILE},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"events", required_argument, NULL, OPT_EVENTS},
    {"durability", required_argument, NULL, OPT_DURABILITY},
    {"buffered-interval-ms", required_argument, NULL, OPT_BUFFERED},
    {"versions-to-keep", required_argument, NULL, OPT_VERSIONS},
    {"page-cache-size", required_argument, NULL, OPT_CACHE},
    {"max-db-size", required_argument, NULL, OPT_MAX_DB},
    {"max-document-size", required_argument, NULL, OPT_MAX_DOCUMENT},
    {"no-mmap", no_argument, NULL, OPT_NO_MMAP},
    {"quick-mode", no_argument, NULL, OPT_QUICK},
    {"no-create", no_argument, NULL, OPT_NO_CREATE},
    {"workers", required_argument, NULL, OPT_WORKERS},
    {"stream-lease-ms", required_argument, NULL, OPT_LEASE},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"verbose", no_argument, NULL, OPT_VERBOSE},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

typedef struct parsing {
  options *o;
  char *sentence;
  size_t size;
} parsing;

static bool wrong(const parsing *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool wrong(const parsing *p, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(p->sentence, p->size, format, args);
  va_end(args);
  return false;
}

/* A number from `least` to `most`; with `units`, K, M, G and T multiply. */
static bool number(const parsing *p, const char *name, const char *text, bool units, uint64_t least, uint64_t most, uint64_t *out) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  bool ok = text[0] >= '0' && text[0] <= '9' && errno == 0;
  if (ok && units && *end != '\0') {
    static const char letters[] = "KMGT";
    const char *unit = strchr(letters, *end);
    unsigned shift = unit ? 10 * (unsigned)(unit - letters + 1) : 0;
    ok = unit && value <= UINT64_MAX >> shift;
    if (ok) value <<= shift;
    end++;
  }
  if (!ok || *end != '\0' || value < least || value > most) {
    return wrong(p, "--%s is a number from %llu to %llu, and \"%s\" is not", name, (unsigned long long)least,
                 (unsigned long long)most, text);
  }
  *out = value;
  return true;
}

static bool number32(const parsing *p, const char *name, const char *text, uint32_t least, uint32_t most, uint32_t *out) {
  uint64_t value;
  if (!number(p, name, text, false, least, most, &value)) return false;
  *out = (uint32_t)value;
  return true;
}

static bool endpoint(const parsing *p, const char *text, const char **out) {
  const char *refusal = endpoint_refusal(text);
  if (refusal) return wrong(p, "the endpoint %s %s", text, refusal);
  *out = text;
  return true;
}

static bool durability(const parsing *p, const char *text) {
  static const char *const names[] = {"durable", "buffered", "none"};
  for (int i = 0; i < 3; i++) {
    if (strcmp(text, names[i]) != 0) continue;
    p->o->engine.durability = (sdb_durability)(SDB_DURABLE + i);
    return true;
  }
  return wrong(p, "--durability is durable, buffered or none, and \"%s\" is not", text);
}

static bool add_listen(const parsing *p, const char *text) {
  options *o = p->o;
  if (o->listen_count == MAX_LISTEN) return wrong(p, "--listen can be given at most %d times", MAX_LISTEN);
  return endpoint(p, text, &o->listen[o->listen_count]) && ++o->listen_count > 0;
}

static bool take(const parsing *p, int code, const char *name) {
  options *o = p->o;
  sdb_options *e = &o->engine;
  switch (code) {
    case OPT_DATABASE: o->database = optarg; return true;
    case OPT_KEY_FILE: o->key_file = optarg; return true;
    case OPT_LISTEN: return add_listen(p, optarg);
    case OPT_EVENTS: return endpoint(p, optarg, &o->events);
    case OPT_DURABILITY: return durability(p, optarg);
    case OPT_BUFFERED: return number32(p, name, optarg, 1, 60000, &e->buffered_interval_ms);
    case OPT_VERSIONS: return number32(p, name, optarg, 1, 255, &e->versions_to_keep);
    case OPT_CACHE: return number32(p, name, optarg, 64, 1u << 28, &e->page_cache_size);
    case OPT_MAX_DB: return number(p, name, optarg, true, MIB, UINT64_C(8) << 40, &e->max_db_size);
    case OPT_MAX_DOCUMENT: return number(p, name, optarg, true, 1, SDB_MAX_DOCUMENT, &e->max_document_size);
    case OPT_NO_MMAP: e->use_mmap = false; return true;
    case OPT_QUICK: e->quick_mode = true; return true;
    case OPT_NO_CREATE: e->create = false; return true;
    case OPT_WORKERS: return number32(p, name, optarg, 1, 64, &o->workers);
    case OPT_LEASE: return number32(p, name, optarg, 10, 3600000, &o->stream_lease_ms);
    case OPT_QUIET: o->log_level = LOG_WARNING; return true;
    case OPT_VERBOSE: o->log_level = LOG_DEBUG; return true;
    case OPT_HELP: o->help = true; return true;
    case OPT_VERSION: o->version = true; return true;
    default: return wrong(p, "this option is not known or lacks its value: see --help");
  }
}

bool options_parse(options *o, int argc, char *argv[], char *sentence, size_t size) {
  *o = (options){.events = DEFAULT_EVENTS, .workers = 2, .stream_lease_ms = LEASE_MS, .log_level = LOG_INFO};
  sdb_options_init(&o->engine);
  o->engine.fault_guard = true;
  const parsing p = {.o = o, .sentence = sentence, .size = size};
  opterr = 0;
  for (;;) {
    int index = 0;
    int given = optind;
    int code = getopt_long(argc, argv, "", long_options, &index);
    if (code == -1) break;
    if (code == '?') return wrong(&p, "the option %s is not known or is not used as it should be: see --help", argv[given]);
    if (!take(&p, code, long_options[index].name)) return false;
    if (o->help || o->version) return true;
  }
  if (optind < argc) return wrong(&p, "the argument \"%s\" is too much: see --help", argv[optind]);
  if (!o->database || o->database[0] == '\0') return wrong(&p, "say which database to serve: --database FILE");
  if (o->listen_count == 0) o->listen[o->listen_count++] = DEFAULT_LISTEN;
  return true;
}
