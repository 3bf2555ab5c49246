/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* main.c - streamdb: arguments, help, and the way to a command. Options and commands are tables; help and parsing come from
 * them. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <sdbc/sdbc.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "commands.h"
#include "output.h"

/* --- Tables ------------------------------------------------------------------------------------------------------------------- */

enum {
  O_SERVER = 1 << 0,
  O_DATABASE = 1 << 1,
  O_EVENTS = 1 << 2,
  O_TIMEOUT = 1 << 3,
  O_JSON = 1 << 4,
  O_BASE64 = 1 << 5,
  O_HELP = 1 << 6,
  O_ABOUT = 1 << 7, /* --version before a command: of the program */
  O_OUTPUT = 1 << 8,
  O_VERSION = 1 << 9, /* --version behind a command: of the document */
  O_OFFSET = 1 << 10,
  O_LENGTH = 1 << 11,
  O_LIMIT = 1 << 12,
  O_LONG = 1 << 13,
  O_NULL = 1 << 14,
  O_COUNT = 1 << 15,
  O_REPLACE = 1 << 28,
  O_KEY_FILE = 1 << 29,
  O_EVERYWHERE = O_KEY_FILE | O_SERVER | O_DATABASE | O_EVENTS | O_TIMEOUT | O_JSON | O_BASE64 | O_HELP
};

typedef struct option_row {
  int bit;
  const char *name;
  char letter; /* 0: none */
  const char *value;
  const char *help;
} option_row;

static const option_row option_rows[] = {
    {O_OUTPUT, "output", 'o', "FILE", "write to FILE, which appears only when it is whole; - is standard output"},
    {O_VERSION, "version", 0, "N", "this version instead of the current one"},
    {O_OFFSET, "offset", 0, "N", "begin at byte N"},
    {O_LENGTH, "length", 0, "N", "at most N bytes"},
    {O_LIMIT, "limit", 0, "N", "at most N paths"},
    {O_LONG, "long", 'l', NULL, "with version, size, time and digest"},
    {O_NULL, "null", '0', NULL, "end each path with a zero byte instead of a line end"},
    {O_COUNT, "count", 0, "N", "end after N events"},
    {O_REPLACE, "replace", 0, NULL, "replace FILE when it is there already, in one step"},
    {O_SERVER, "server", 's', "ENDPOINT", "the service (default: $STREAMDB_SERVER, else " SDBC_DEFAULT_ENDPOINT ")"},
    {O_EVENTS, "events", 0, "ENDPOINT", "its event feed (default: $STREAMDB_EVENTS, else the server's port plus one)"},
    {O_DATABASE, "database", 'd', "FILE", "work on a database file, without a service"},
    {O_KEY_FILE, "key-file", 0, "FILE", "the key of an encrypted database file (default: $STREAMDB_KEY_FILE, else $STREAMDB_KEY)"},
    {O_TIMEOUT, "timeout", 0, "MS", "how long one attempt waits for the service, in milliseconds"},
    {O_JSON, "json", 0, NULL, "print JSON, one object on a line"},
    {O_BASE64, "base64", 0, NULL, "PATH and PREFIX are given in base64"},
    {O_HELP, "help", 'h', NULL, "print this and exit"},
    {O_ABOUT, "version", 'V', NULL, "print the program's version and exit"},
};
#define OPTION_COUNT (sizeof option_rows / sizeof *option_rows)

/* Commands on whole files open them themselves: the one that --database names, or their operands. */
typedef enum place { ANYWHERE, SERVICE_ONLY, FILE_ONLY, FILE_ITSELF, OPERANDS_ITSELF } place;

typedef struct command_row {
  const char *name, *operands, *help;
  int (*run)(cli *c);
  int options;        /* beside O_EVERYWHERE */
  int least, most;    /* operands */
  access_kind access; /* to a file */
  place only;         /* where it works */
} command_row;

static const command_row command_rows[] = {
    {"insert", "PATH [FILE|-]", "store FILE, or standard input, as the current version of PATH", command_insert, 0, 1, 2,
     ACCESS_CREATE, ANYWHERE},
    {"get", "PATH", "print a document, or write it to a file", command_read, O_OUTPUT | O_VERSION, 1, 1, ACCESS_READ, ANYWHERE},
    {"stream", "PATH", "print a part of a document, or write it to a file", command_read,
     O_OUTPUT | O_VERSION | O_OFFSET | O_LENGTH, 1, 1, ACCESS_READ, ANYWHERE},
    {"search", "[PREFIX]", "list the paths that begin with PREFIX, in byte order", command_search, O_LIMIT | O_LONG | O_NULL, 0, 1,
     ACCESS_READ, ANYWHERE},
    {"delete", "PATH", "delete a document with all its versions", command_delete, 0, 1, 1, ACCESS_WRITE, ANYWHERE},
    {"stat", "PATH", "what is known about a document", command_stat, O_VERSION, 1, 1, ACCESS_READ, ANYWHERE},
    {"versions", "PATH", "its readable versions, newest first", command_versions, 0, 1, 1, ACCESS_READ, ANYWHERE},
    {"watch", "[PREFIX]", "print changes below PREFIX as they happen", command_watch, O_COUNT, 0, 1, ACCESS_READ, SERVICE_ONLY},
    {"flush", "", "make everything acknowledged so far durable", command_flush, 0, 0, 0, ACCESS_WRITE, ANYWHERE},
    {"stats", "", "figures of the service or file", command_stats, 0, 0, 0, ACCESS_READ, ANYWHERE},
    {"ping", "", "ask whether the service answers, or the file opens", command_ping, 0, 0, 0, ACCESS_READ, ANYWHERE},
    {"check", "", "prove that a database file is whole (needs --database)", command_check, 0, 0, 0, ACCESS_READ, FILE_ITSELF},
    {"backup", "FILE", "copy a database file into FILE, which appears only when it is whole (needs --database)", command_backup,
     O_REPLACE, 1, 1, ACCESS_WRITE, FILE_ITSELF},
    {"verify", "FILE", "prove that a backup, or a closed database file, is whole", command_verify, 0, 1, 1, ACCESS_READ,
     OPERANDS_ITSELF},
    {"restore", "BACKUP FILE", "make a new database FILE of a backup, with a history of its own", command_restore, 0, 2, 2,
     ACCESS_READ, OPERANDS_ITSELF},
    {"repair", "FILE", "build a new database (needs --output) from all that verifies of a damaged FILE", command_repair, O_OUTPUT,
     1, 1, ACCESS_READ, OPERANDS_ITSELF},
    {"inspect", "FILE [WHAT [N]]", "what stands in a database file: header, map, log, page N, logical N, record PLACE",
     command_inspect, 0, 1, 3, ACCESS_READ, OPERANDS_ITSELF},
    {"key", "export | change FILE", "print a recovery copy of a database file's key, or change its key to the one in FILE",
     command_key, 0, 1, 2, ACCESS_READ, FILE_ONLY},
};
#define COMMAND_COUNT (sizeof command_rows / sizeof *command_rows)

static bool itself(const command_row *command) { return command->only == FILE_ITSELF || command->only == OPERANDS_ITSELF; }

/* --- Help and complaints ------------------------------------------------------------------------------------------------------ */

#define COMPLAINT 6000 /* bytes of a sentence: it may name a file */
#define COLUMN 25      /* what stands left in help */

int complain(const char *format, ...) {
  char sentence[COMPLAINT], shown[COMPLAINT];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(sentence, sizeof sentence, format, args);
  va_end(args);
  fprintf(stderr, "streamdb: %s\n", text_printable((bytes){(const uint8_t *)sentence, strlen(sentence)}, shown, sizeof shown));
  return EXIT_FAILED;
}

int exit_code_of(const cli *c, result r) {
  char path[128];
  if (r == RESULT_OK || r == RESULT_END) return EXIT_DONE;
  if (r == RESULT_NOT_FOUND) {
    const char *what = c->version ? "there is no such version of the document" : "there is no document";
    (void)complain("%s at '%s'", what, text_printable(c->path, path, sizeof path));
    return EXIT_NOT_FOUND;
  }
  return complain("%s", c->backend->message);
}

static int usage_error(const command_row *command) {
  fprintf(stderr, "Try 'streamdb %s%s--help'.\n", command ? command->name : "", command ? " " : "");
  return EXIT_USAGE;
}

static void print_options(int bits) {
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    const option_row *o = &option_rows[i];
    if (!(o->bit & bits)) continue;
    char left[40];
    (void)snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ', o->letter ? "," : " ",
                   o->name, o->value ? " " : "", o->value ? o->value : "");
    printf("  %-*s  %s\n", COLUMN, left, o->help);
  }
}

static int print_help(const command_row *command) {
  if (command) {
    const char *operands = command->operands;
    printf("usage: streamdb %s [options]%s%s\n\n%s.\n\n", command->name, *operands ? " " : "", operands, command->help);
    if (command->options) {
      print_options(command->options);
      putchar('\n');
    }
    print_options(O_EVERYWHERE);
    return output_flush();
  }
  puts(
      "usage: streamdb [--server ENDPOINT | --database FILE] COMMAND ...\n\nDocuments of a StreamDB service, or of a database "
      "file.\n");
  for (size_t i = 0; i < COMMAND_COUNT; i++) {
    char left[40];
    (void)snprintf(left, sizeof left, "%s %s", command_rows[i].name, command_rows[i].operands);
    printf("  %-*s  %s\n", COLUMN, left, command_rows[i].help);
  }
  putchar('\n');
  print_options(O_EVERYWHERE | O_ABOUT);
  puts("\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 not found. 'streamdb COMMAND --help' has a command's options.");
  return output_flush();
}

/* --- Parsing ------------------------------------------------------------------------------------------------------------------ */

static bool parse_number(const char *text, uint64_t most, uint64_t *out) {
  if (*text < '0' || *text > '9') return false;
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || *end != '\0' || value > most) return false;
  *out = value;
  return true;
}

/* Takes one option's value. False: it is wrong, which has been said. */
static bool take_option(cli *c, const option_row *o, const char *value) {
  uint64_t most = o->bit == O_VERSION || o->bit == O_TIMEOUT ? INT32_MAX : UINT64_MAX - 1;
  uint64_t number = 0;
  bool is_number = o->value && (strcmp(o->value, "N") == 0 || strcmp(o->value, "MS") == 0);
  bool positive = o->bit & (O_VERSION | O_TIMEOUT | O_LIMIT | O_COUNT);
  if (is_number && (!parse_number(value, most, &number) || (positive && number == 0))) {
    (void)complain("--%s takes a number from %d to %" PRIu64 ", not '%s'", o->name, positive, most, value);
    return false;
  }
  switch (o->bit) {
    case O_SERVER: c->server = value; break;
    case O_DATABASE: c->database = value; break;
    case O_EVENTS: c->events = value; break;
    case O_TIMEOUT: c->timeout_ms = (uint32_t)number; break;
    case O_JSON: c->json = true; break;
    case O_BASE64: c->base64 = true; break;
    case O_REPLACE: c->replace = true; break;
    case O_KEY_FILE: c->key_file = value; break;
    case O_OUTPUT: c->output = value; break;
    case O_VERSION: c->version = (uint32_t)number; break;
    case O_OFFSET: c->offset = number; break;
    case O_LENGTH: c->length = number; break;
    case O_LIMIT: c->limit = number; break;
    case O_LONG: c->long_listing = true; break;
    case O_NULL: c->null_ended = true; break;
    case O_COUNT: c->count = number; break;
    default: break;
  }
  return true;
}

typedef struct parsed {
  bool help, about;
} parsed;

/* Parses options from optind on; those before the command end at its name. EXIT_DONE or EXIT_USAGE. */
static int parse_options(cli *c, int argc, char **argv, int bits, bool stop_at_operand, parsed *p) {
  struct option longs[OPTION_COUNT + 1];
  char shorts[3 + 2 * OPTION_COUNT + 1];
  size_t n = 0, s = 0;
  if (stop_at_operand) shorts[s++] = '+';
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    const option_row *o = &option_rows[i];
    if (!(o->bit & bits)) continue;
    longs[n++] = (struct option){o->name, o->value ? required_argument : no_argument, NULL, 256 + (int)i};
    if (o->letter) shorts[s++] = o->letter;
    if (o->letter && o->value) shorts[s++] = ':';
  }
  longs[n] = (struct option){0};
  shorts[s] = '\0';
  int got;
  while ((got = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
    const option_row *o = got >= 256 ? &option_rows[got - 256] : NULL;
    for (size_t i = 0; !o && i < OPTION_COUNT; i++) {
      if (got != '?' && option_rows[i].letter == got) o = &option_rows[i];
    }
    if (!o) return EXIT_USAGE; /* getopt_long() has said why */
    p->help |= o->bit == O_HELP;
    p->about |= o->bit == O_ABOUT;
    if (!take_option(c, o, optarg)) return EXIT_USAGE;
  }
  return EXIT_DONE;
}

static const command_row *find_command(const char *name) {
  for (size_t i = 0; i < COMMAND_COUNT; i++) {
    if (strcmp(command_rows[i].name, name) == 0) return &command_rows[i];
  }
  return NULL;
}

/* The first operand as bytes. */
static int take_path(cli *c, const command_row *command, const char *text) {
  static uint8_t decoded[2048];
  c->path = (bytes){(const uint8_t *)text, strlen(text)};
  if (c->base64) {
    size_t len;
    if (sodium_base642bin(decoded, sizeof decoded, text, strlen(text), NULL, &len, NULL, sodium_base64_VARIANT_ORIGINAL) != 0) {
      (void)complain("'%s' is not base64 of at most %zu bytes", text, sizeof decoded);
      return EXIT_USAGE;
    }
    c->path = (bytes){decoded, len};
  }
  bool prefix = command->least == 0;
  if (c->path.len <= SDBC_MAX_PATH && (prefix || c->path.len > 0)) return EXIT_DONE;
  (void)complain("a %s has %d to %u bytes, not %zu", prefix ? "prefix" : "path", prefix ? 0 : 1, SDBC_MAX_PATH, c->path.len);
  return EXIT_USAGE;
}

static int take_operands(cli *c, const command_row *command, int argc, char **argv) {
  int count = argc - optind;
  if (count < command->least || count > command->most) {
    (void)complain("%s takes %s", command->name, *command->operands ? command->operands : "no operands");
    return usage_error(command);
  }
  if (count > 1) c->file = argv[optind + 1];
  if (count > 0) c->first = argv[optind];
  if (count > 2) c->third = argv[optind + 2];
  if (itself(command)) return EXIT_DONE;
  if (count > 0) return take_path(c, command, argv[optind]);
  c->path = (bytes){(const uint8_t *)"", 0};
  return EXIT_DONE;
}

static int choose_place(cli *c, const command_row *command) {
  const char *wrong = NULL;
  if (c->database && !*c->database) wrong = "--database needs the name of a file";
  if (c->server && c->database) wrong = "--server and --database exclude each other";
  if (c->database && command->only == SERVICE_ONLY)
    wrong = "watch needs a running service, because a file has no feed of changes: say --server ENDPOINT";
  if (!c->database && command->only == FILE_ONLY)
    wrong = "key works on a file, not on a service: stop the service and say --database FILE";
  if (itself(command) && c->server) wrong = "this command works on files, not on a service";
  if (!c->database && command->only == FILE_ITSELF)
    wrong = command->run == command_backup
                ? "backup copies a database file: say which with --database FILE"
                : "check reads a file, not a service: stop the service that has it open and say --database FILE";
  if (command->only == OPERANDS_ITSELF && c->database) wrong = "this command takes its files as operands, not with --database";
  if (c->server && c->key_file) wrong = "--key-file belongs to --database: a service has the key of its own database";
  if (wrong) {
    (void)complain("%s", wrong);
    return EXIT_USAGE;
  }
  if (c->database || itself(command)) return EXIT_DONE;
  const char *server = getenv("STREAMDB_SERVER"), *events = getenv("STREAMDB_EVENTS");
  if (!c->events && events && *events) c->events = events;
  if (!c->server) c->server = server && *server ? server : SDBC_DEFAULT_ENDPOINT;
  return EXIT_DONE;
}

/* --- Running ------------------------------------------------------------------------------------------------------------------ */

static int run(cli *c, const command_row *command) {
  char message[CLI_MESSAGE] = "";
  if (itself(command)) {
    int done = command->run(c), arrived = output_flush();
    return done == EXIT_DONE ? arrived : done;
  }
  access_kind access = command->run == command_key && key_changes(c) ? ACCESS_WRITE : command->access;
  int code;
  c->backend = c->database ? backend_open_file(c, access, message, &code) : backend_open_service(c, message, &code);
  if (!c->backend) {
    (void)complain("%s", message);
    return code;
  }
  code = command->run(c);
  int flushed = output_flush();
  if (code == EXIT_DONE) code = flushed;
  if (c->backend->calls->close(c->backend, message) != RESULT_OK) {
    (void)complain("%s", message);
    if (code == EXIT_DONE) code = EXIT_FAILED;
  }
  return code;
}

/* A standard stream that is closed at the start must stay unusable: else a file or socket gets its number, and what is printed. */
static void occupy_standard_streams(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) < 0) (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

int main(int argc, char **argv) {
  occupy_standard_streams();
  static char name[] = "streamdb"; /* what getopt_long() calls the program */
  if (argc > 0) argv[0] = name;
  cli c = {.length = TO_THE_END};
  parsed p = {0};
  if (parse_options(&c, argc, argv, O_EVERYWHERE | O_ABOUT, true, &p) != EXIT_DONE) return usage_error(NULL);
  if (p.help) return print_help(NULL);
  if (p.about) {
    puts("streamdb " SDBC_VERSION_STRING);
    return output_flush();
  }
  if (optind >= argc) {
    (void)complain("a command is missing");
    return usage_error(NULL);
  }
  const command_row *command = find_command(argv[optind]);
  if (!command) {
    (void)complain("there is no command '%s'", argv[optind]);
    return usage_error(NULL);
  }
  argc -= optind;
  argv += optind;
  argv[0] = name;
  optind = 0; /* begin anew, with permutation */
  if (parse_options(&c, argc, argv, O_EVERYWHERE | command->options, false, &p) != EXIT_DONE) return usage_error(command);
  if (p.help) return print_help(command);
  int code = take_operands(&c, command, argc, argv);
  if (code == EXIT_DONE && command->run == command_key) code = key_operands(&c);
  if (code == EXIT_DONE) code = choose_place(&c, command);
  if (code == EXIT_DONE && command->run == command_insert) code = insert_operands(&c);
  return code == EXIT_DONE ? run(&c, command) : code;
}
