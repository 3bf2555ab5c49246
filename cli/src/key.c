/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* key.c - key export, key change. */
#include <sdb/sdb.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "backend.h"
#include "commands.h"
#include "output.h"

static bool verb_is(const cli *c, const char *verb) {
  return c->path.len == strlen(verb) && memcmp(c->path.data, verb, c->path.len) == 0;
}

bool key_changes(const cli *c) { return verb_is(c, "change"); }

static int export_key(cli *c) {
  uint8_t key[SDB_KEY_SIZE];
  char text[16 + 2 * SDB_KEY_SIZE] = "recovery:";
  result r = c->backend->calls->key_export(c->backend, key);
  if (r != RESULT_OK) return exit_code_of(c, r);
  size_t word = strlen(text);
  (void)sodium_bin2hex(text + word, sizeof text - word, key, sizeof key);
  if (c->json) {
    json_begin();
    json_text("recovery_key", text);
    json_end();
  } else {
    puts(text);
  }
  sodium_memzero(key, sizeof key);
  sodium_memzero(text, sizeof text);
  return EXIT_DONE;
}

static int change_key(cli *c) {
  sdb_key key;
  char sentence[CLI_MESSAGE];
  int code = sdb_key_find(c->file, &key, sentence, sizeof sentence);
  if (code != SDB_OK) return complain("%s", sentence);
  if (key.recovery) {
    sdb_key_wipe(&key);
    return complain("%s holds a recovery copy, which is no key to change to; take 32 random bytes", c->file);
  }
  if (sentence[0]) (void)complain("%s", sentence);
  result r = c->backend->calls->key_change(c->backend, key.bytes);
  sdb_key_wipe(&key);
  if (r != RESULT_OK) return exit_code_of(c, r);
  if (c->json) {
    json_begin();
    json_bool("changed", true);
    json_end();
  } else {
    printf("%s: from now on it opens with the key in %s\n", c->backend->name, c->file);
  }
  return EXIT_DONE;
}

int command_key(cli *c) { return key_changes(c) ? change_key(c) : export_key(c); }

int key_operands(const cli *c) {
  if (verb_is(c, "export") && !c->file) return EXIT_DONE;
  if (verb_is(c, "change") && c->file) return EXIT_DONE;
  (void)complain("key takes 'export', or 'change' and a file with the new key");
  return EXIT_USAGE;
}
