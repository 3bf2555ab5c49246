/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* files.c - backup, check, verify, restore, repair: commands on whole database files, which open them themselves. */
#include <inttypes.h>
#include <sdb/care.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "output.h"

/* Options with the key that was given; `key` must be wiped. EXIT_FAILED: said why. */
static int options_for(const cli *c, sdb_options *o, sdb_key *key, char *message) {
  sdb_options_init(o);
  o->create = false;
  o->message = message;
  o->message_size = CLI_MESSAGE;
  message[0] = '\0';
  if (sdb_key_find(c->key_file, key, message, CLI_MESSAGE) != SDB_OK) return complain("%s", message);
  if (message[0]) (void)complain("%s", message);
  message[0] = '\0';
  o->encryption_key = key->given && !key->recovery ? key->bytes : NULL;
  o->recovery_key = key->given && key->recovery ? key->bytes : NULL;
  return EXIT_DONE;
}

static int failed(int code, const char *message) { return complain("%s", message[0] ? message : sdb_strerror(code)); }

static void print_sentence(void *user, const char *sentence) {
  char text[CLI_MESSAGE];
  const cli *c = user;
  if (c->json) json_texts_add(sentence);
  else printf("problem: %s\n", text_printable((bytes){(const uint8_t *)sentence, strlen(sentence)}, text, sizeof text));
}

/* The object that --json prints begins with the sentences, and with what was done: `verb`. */
static void sentences_begin(const cli *c) {
  if (!c->json) return;
  json_begin();
  json_texts_begin("sentences");
}

static void sentences_end(const cli *c, const char *verb, bool done) {
  if (!c->json) return;
  json_texts_end();
  json_bool(verb, done);
}

/* --- Copies ------------------------------------------------------------------------------------------------------------------- */

static void print_copy(const cli *c, const char *verb, const char *name, const sdb_copy_report *r) {
  char documents[32], size[16];
  if (c->json) {
    json_begin();
    json_text("file", name);
    json_number("documents", r->documents);
    json_number("sequence", r->sequence);
    json_number("pages", r->pages);
    json_number("bytes", r->bytes);
    json_number("file_bytes", r->file_bytes);
    json_end();
  } else {
    printf("%s: %s, documents %s, copied %s, up to commit %" PRIu64 "\n", name, verb, text_number(r->documents, documents),
           text_size(r->bytes, size), r->sequence);
  }
}

int command_backup(cli *c) {
  char message[CLI_MESSAGE];
  sdb_options o;
  sdb_copy_options copy;
  sdb_key key;
  sdb *db;
  sdb_copy_report report = {.size = sizeof report};
  int code = options_for(c, &o, &key, message);
  if (code != EXIT_DONE) return code;
  sdb_copy_options_init(&copy);
  copy.replace = c->replace;
  copy.encryption_key = o.encryption_key;
  int rc = sdb_open(c->database, &o, &db);
  if (rc == SDB_OK) {
    rc = sdb_backup(db, c->first, &copy, &report);
    if (rc != SDB_OK) sdb_message(db, message, sizeof message);
    int closed = sdb_close(db);
    if (rc == SDB_OK) rc = closed;
  }
  sdb_key_wipe(&key);
  if (rc != SDB_OK) return failed(rc, message);
  print_copy(c, "backed up", c->first, &report);
  return EXIT_DONE;
}

int command_restore(cli *c) {
  char message[CLI_MESSAGE];
  sdb_options o;
  sdb_copy_options copy;
  sdb_key key;
  sdb_copy_report report = {.size = sizeof report};
  int code = options_for(c, &o, &key, message);
  if (code != EXIT_DONE) return code;
  sdb_copy_options_init(&copy);
  copy.encryption_key = o.encryption_key;
  copy.message = message;
  copy.message_size = sizeof message;
  int rc = sdb_restore(c->first, c->file, &copy, &report);
  sdb_key_wipe(&key);
  if (rc != SDB_OK) return failed(rc, message);
  print_copy(c, "restored", c->file, &report);
  return EXIT_DONE;
}

/* --- Verify ------------------------------------------------------------------------------------------------------------------- */

static int verify_file(cli *c, const char *verb, const char *name, const sdb_options *o, const char *message) {
  char documents[32], pages[32], problems[32];
  sdb_verify_report r = {.size = sizeof r};
  sentences_begin(c);
  int rc = sdb_verify(name, o, print_sentence, c, &r);
  sentences_end(c, verb, rc == SDB_OK);
  if (c->json && rc == SDB_OK) {
    json_number("problems", r.problems);
    json_bool("contents", r.contents);
    json_bool("clean", r.clean);
    json_number("sequence", r.sequence);
    json_number("pages", r.pages);
    json_number("documents", r.documents);
    json_number("versions", r.versions);
    json_number("bytes", r.bytes);
  }
  if (c->json) json_end();
  if (rc != SDB_OK) return failed(rc, message);
  if (!c->json) {
    printf("%s: pages %s, documents %s, problems %s%s%s\n", name, text_number(r.pages, pages), text_number(r.documents, documents),
           text_number(r.problems, problems),
           r.contents || r.problems ? "" : "; only checksums were judged, what is in the documents takes the key",
           r.clean ? "" : "; not closed cleanly: its log belongs to it");
  }
  return r.problems == 0 ? EXIT_DONE : EXIT_FAILED;
}

int command_verify(cli *c) {
  char message[CLI_MESSAGE];
  sdb_options o;
  sdb_key key;
  int code = options_for(c, &o, &key, message);
  if (code != EXIT_DONE) return code;
  code = verify_file(c, "verified", c->first, &o, message);
  sdb_key_wipe(&key);
  return code;
}

/* --- Check -------------------------------------------------------------------------------------------------------------------- */

static int check_open(cli *c, sdb *db) {
  char message[CLI_MESSAGE] = "";
  sdb_check_report r = {.size = sizeof r};
  sentences_begin(c);
  int rc = sdb_check(db, print_sentence, c, &r);
  if (rc != SDB_OK) sdb_message(db, message, sizeof message);
  sentences_end(c, "checked", rc == SDB_OK);
  if (c->json && rc == SDB_OK) {
    json_number("problems", r.problems);
    json_number("pages", r.pages);
    json_number("free_pages", r.free_pages);
    json_number("documents", r.documents);
    json_number("versions", r.versions);
    json_number("bytes", r.bytes);
  }
  if (c->json) json_end();
  if (rc != SDB_OK) return failed(rc, message);
  if (!c->json) {
    char documents[32], pages[32], size[16], problems[32];
    printf("%s: pages %s, documents %s, contents %s, problems %s\n", c->database, text_number(r.pages, pages),
           text_number(r.documents, documents), text_size(r.bytes, size), text_number(r.problems, problems));
  }
  return r.problems == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* An encrypted file without its key is judged by its checksums. */
int command_check(cli *c) {
  char message[CLI_MESSAGE];
  sdb_options o;
  sdb_key key;
  sdb *db;
  int code = options_for(c, &o, &key, message);
  if (code != EXIT_DONE) return code;
  o.read_only = true;
  int rc = sdb_open(c->database, &o, &db);
  if (rc == SDB_OK) {
    code = check_open(c, db);
    (void)sdb_close(db); /* read-only: there is nothing to lose */
  } else {
    code = rc == SDB_WRONG_KEY && !key.given ? verify_file(c, "checked", c->database, &o, message) : failed(rc, message);
  }
  sdb_key_wipe(&key);
  return code;
}

/* --- Repair ------------------------------------------------------------------------------------------------------------------- */

static void print_item(void *user, const sdb_repair_item *item) {
  const cli *c = user;
  char path[256], number[40], line[512];
  if (item->kind == SDB_REPAIR_SAVED) return;
  const char *what = item->kind == SDB_REPAIR_LOST ? "lost" : "possibly deleted";
  if (item->path) (void)text_printable((bytes){item->path, item->path_len}, path, sizeof path);
  else (void)snprintf(path, sizeof path, "a document with id ...%s", text_id(item->id, number) + 26);
  (void)snprintf(line, sizeof line, "%s: %s, version %" PRIu32 ": %s", what, path, item->version, item->reason);
  if (c->json) json_texts_add(line);
  else puts(line);
}

int command_repair(cli *c) {
  char message[CLI_MESSAGE], documents[32], lost[32], doubtful[32], size[16];
  sdb_options o;
  sdb_key key;
  sdb_repair_report r = {.size = sizeof r};
  if (!c->output) {
    (void)complain("repair never changes the damaged file: say where the new one goes with --output NEW");
    return EXIT_USAGE;
  }
  int code = options_for(c, &o, &key, message);
  if (code != EXIT_DONE) return code;
  sentences_begin(c);
  int rc = sdb_repair(c->first, c->output, &o, print_item, c, &r);
  sdb_key_wipe(&key);
  sentences_end(c, "repaired", rc == SDB_OK);
  if (c->json && rc == SDB_OK) {
    json_text("file", c->output);
    json_bool("header_found", r.header_found);
    json_bool("opened", r.opened);
    json_number("documents", r.documents);
    json_number("versions", r.versions);
    json_number("bytes", r.bytes);
    json_number("lost", r.lost);
    json_number("possibly_deleted", r.doubtful);
  }
  if (c->json) json_end();
  if (rc != SDB_OK) return failed(rc, message);
  if (!c->json)
    printf("%s: saved documents %s (%s), lost %s, possibly deleted %s\n", c->output, text_number(r.documents, documents),
           text_size(r.bytes, size), text_number(r.lost, lost), text_number(r.doubtful, doubtful));
  return EXIT_DONE;
}
