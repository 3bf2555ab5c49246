/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* model.h - what a database should hold, kept as plainly as possible, to compare an open one with.
 *
 * The model is the history of commits and the state they lead to:
 *
 *     commit   1    2    3    4    5    6 (outcome unknown)
 *              ............^ durable: these must survive a crash
 *     state    paths -> document: the last versions (number, content, attributes, id, time), when it expires
 *
 * After a crash the database must equal the state behind some commit from `durable` on: model_adopt() finds out which one and
 * continues from there. Contents are generated from a seed, so that the model stores numbers and any byte can be judged.
 *
 * A function that compares returns true when all is well; else model_why() says what is wrong, in one sentence.
 */
#ifndef SDB_TESTS_MODEL_H
#define SDB_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sdb/sdb.h"

typedef struct model model;

/* `keep`: how many versions stay readable, 1 to 255. */
model *model_new(unsigned keep);
void model_set_keep(model *m, unsigned keep);  /* for what is put from now on */
void model_set_now(model *m, uint64_t now_ms); /* what expires by then is gone */
model *model_clone(const model *m);
void model_free(model *m);
const char *model_why(const model *m);

/* Bytes `offset` to `offset + len` of the content with that seed. */
void model_content(uint64_t seed, uint64_t offset, void *buf, size_t len);

/* --- History ------------------------------------------------------------------------------------------------------------------ */

/* A put or delete that was done, or, with `commit` NULL, one whose outcome is not known. What the engine said in `commit` must
 * agree with the state. */
bool model_put(model *m, const void *path, size_t path_len, uint64_t seed, uint32_t size, const sdb_commit *commit);
bool model_delete(model *m, const void *path, size_t path_len, const sdb_commit *commit);

/* With a time at which the document ends (0: never); `attributes`: with content type and metadata of that seed (below). */
bool model_put_with(model *m, const void *path, size_t path_len, uint64_t seed, uint32_t size, uint64_t expires_ms, bool attributes,
                    const sdb_commit *commit);
/* An older version was put again. */
bool model_restored(model *m, const void *path, size_t path_len, uint32_t number, const sdb_commit *commit);
bool model_bind(model *m, const void *path, size_t path_len, const void *new_name, size_t name_len, const sdb_commit *commit);
bool model_unbind(model *m, const void *path, size_t path_len, const sdb_commit *commit);
/* What is noted between the two is one commit. `sequence` 0: the outcome is not known. */
void model_begin(model *m);
bool model_end(model *m, uint64_t sequence);

/* The content type (NUL-terminated, SDB_MAX_CONTENT_TYPE + 1 bytes) and metadata (SDB_MAX_METADATA bytes) of a seed; their lengths.
 */
size_t model_content_type(uint64_t seed, char *type);
size_t model_metadata(uint64_t seed, uint8_t *metadata);

size_t model_commits(const model *m);
/* The engine's number of commit `index`; 0: not known, or it may have been lost in a crash without a trace. */
uint64_t model_sequence(const model *m, size_t index);
/* All commits so far must survive a crash; or those up to a sequence number. */
void model_all_durable(model *m);
void model_durable_up_to(model *m, uint64_t sequence);
/* The number of commits that must survive; or that number, said outright. */
size_t model_durable(const model *m);
void model_require(model *m, size_t commits);
/* Forgets all behind the first `commits`. */
void model_truncate(model *m, size_t commits);

/* --- State -------------------------------------------------------------------------------------------------------------------- */

/* Paths, those of documents that have expired included. */
size_t model_documents(const model *m);
/* Can a database in this state count so many documents? What has expired may have been collected, or not. */
bool model_counts(const model *m, uint64_t counted);
/* Path `index` in byte order. */
const uint8_t *model_path(const model *m, size_t index, size_t *path_len);
bool model_has(const model *m, const void *path, size_t path_len);
/* The number of the current version; 0 when there is no such document. */
uint32_t model_version(const model *m, const void *path, size_t path_len);

/* How many names the document has; 0: there is none. */
unsigned model_names(const model *m, const void *path, size_t path_len);
/* Do both paths lead to one document? */
bool model_same(const model *m, const void *a, size_t a_len, const void *b, size_t b_len);

/* --- Comparing ---------------------------------------------------------------------------------------------------------------- */

/* Everything that can be read: paths in order, all readable versions with their contents and descriptions, absent ones, counts. */
bool model_equals(model *m, sdb *db);
/* The same of a snapshot, with the model as it was when that was opened; counts aside. */
bool model_equals_snapshot(model *m, sdb *db, const sdb_snapshot *snapshot);
/* One document (or its absence). */
bool model_equals_at(model *m, sdb *db, const void *path, size_t path_len);
/* As model_equals for the state behind one of the commits from model_durable() on; forgets what did not survive, and takes what did
 * as durable. */
bool model_adopt(model *m, sdb *db);
/* sdb_check() finds no problem, and counts what the model counts. */
bool model_check(model *m, sdb *db);

#endif
