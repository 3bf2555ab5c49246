/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* holder.c - NAME.lock: text that names who has the database open. Information only, for the sentence of whoever is refused: the
 * lock itself belongs to the data file, so nothing depends on this one, whether it cannot be written or a crash leaves it behind.
 */
#include <stdio.h>

#include "db.h"

enum { TEXT = 128 };

static char *lock_name(const sdb *db) {
  size_t len = strlen(db->name) + sizeof ".lock";
  char *name = mem_alloc(&db->e, len);
  if (name) (void)snprintf(name, len, "%s.lock", db->name);
  return name;
}

void holder_tell(sdb *db) {
  const sdb_storage *st = db->e.storage;
  char text[TEXT] = "";
  sdb_file *file;
  char *name = st->holder && !db->read_only ? lock_name(db) : NULL;
  if (!name) return;
  st->holder(st->ctx, text, sizeof text);
  if (st->open(st->ctx, name, SDB_OPEN_CREATE, &file) == SDB_OK) {
    db->holder_told = true;
    (void)st->write(file, 0, text, strlen(text));
    st->close(file);
  }
  mem_free(&db->e, name);
}

void holder_forget(sdb *db) {
  char *name = db->holder_told ? lock_name(db) : NULL;
  if (name) (void)db->e.storage->remove(db->e.storage->ctx, name);
  mem_free(&db->e, name);
}

/* Printable only: whoever may write beside the database may write anything into it. */
int holder_refuse(sdb *db) {
  const sdb_storage *st = db->e.storage;
  char text[TEXT] = "";
  uint64_t size = 0;
  sdb_file *file;
  char *name = st->holder ? lock_name(db) : NULL;
  if (name && st->open(st->ctx, name, SDB_OPEN_READ, &file) == SDB_OK) {
    bool whole = st->get_size(file, &size) == SDB_OK && size < TEXT && st->read(file, 0, text, (size_t)size) == SDB_OK;
    if (!whole) text[0] = '\0';
    st->close(file);
  }
  mem_free(&db->e, name);
  for (char *c = text; *c; c++)
    if (*c < ' ' || *c > '~') *c = '?';
  return env_fail(&db->e, SDB_LOCKED, "%s is in use by another process or handle%s%s%s", db->name, text[0] ? " (" : "", text,
                  text[0] ? ")" : "");
}
