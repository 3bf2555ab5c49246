/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* restore.c - a backup becomes a database with a history of its own: the same pages and id, another epoch. */
#include <stdio.h>

#include "copy.h"
#include "db.h"

static int restore_image(env *e, image *im, const char *destination, const sdb_copy_options *o, sdb_copy_report *report) {
  copy c;
  bool published = false;
  uint64_t epoch;
  if (!im->head.clean)
    return env_fail(e, SDB_MISMATCH,
                    "the file was not closed cleanly: it is no backup; open it as a database together with its log");
  if (im->head.pages_total * im->head.page_size > im->size)
    return env_fail(e, SDB_CORRUPT, "the backup is cut short: %llu bytes instead of %llu", (unsigned long long)im->size,
                    (unsigned long long)(im->head.pages_total * im->head.page_size));
  if (e->storage->random(e->storage->ctx, &epoch, sizeof epoch) != SDB_OK) return env_fail(e, SDB_IO, "no randomness for an epoch");
  header h = im->head;
  h.epoch = epoch;
  h.checkpoint++;
  h.written_ms = e->storage->now_ms(e->storage->ctx);
  int rc = copy_begin(&c, e, im, destination, o);
  if (rc == SDB_OK) rc = copy_fixed(&c);
  if (rc == SDB_OK) rc = copy_pages(&c);
  if (rc == SDB_OK) rc = copy_seal(&c, &h);
  if (rc == SDB_OK && o->verify) rc = copy_verify(&c);
  if (rc == SDB_OK) {
    rc = copy_publish(&c);
    published = true;
  }
  if (rc == SDB_OK) copy_report(&c, &h, report);
  copy_end(&c, published);
  return rc;
}

int sdb_restore(const char *backup, const char *destination, const sdb_copy_options *options, sdb_copy_report *report) {
  sdb_copy_options o;
  env e = {.storage = sdb_storage_file()};
  image im;
  mutex_init(&e.message_lock);
  int rc = copy_options(&e, options, &o);
  if (rc == SDB_OK && (!backup || !*backup || !destination || !*destination || (report && report->size != sizeof *report)))
    rc = env_fail(&e, SDB_INVALID, "restore needs the names of a backup and of a new database, and the report's size set");
  sdb_storage calls;
  if (rc == SDB_OK && o.storage) {
    storage_adopt(&calls, o.storage);
    e.storage = &calls;
  }
  if (rc == SDB_OK) rc = copy_destination_free(&e, destination);
  if (rc == SDB_OK) rc = image_open_name(&e, backup, &im);
  if (rc == SDB_OK) {
    rc = restore_image(&e, &im, destination, &o, report);
    image_close(&im);
  }
  if (rc != SDB_OK && options && options->size == sizeof o && options->message && options->message_size)
    snprintf(options->message, options->message_size, "%s", e.message);
  mutex_destroy(&e.message_lock);
  return rc;
}
