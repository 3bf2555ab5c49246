/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workload.c - see workload.h. */
#include "workload.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFERRED_MAX 5u
#define BATCH_MAX 8u

static uint64_t below(workload *w, uint64_t n) { return sim_random(&w->random) % n; }
static bool dead(const workload *w) { return w->device != NULL && sim_dead(w->device); }

static bool may_be_full(const workload *w) { return w->profile == PROFILE_TIGHT && !dead(w); }

__attribute__((format(printf, 2, 3))) static bool fail(workload *w, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(w->why, sizeof w->why, format, args);
  va_end(args);
  return false;
}

static bool fail_call(workload *w, const char *call, int code) {
  char message[256] = "";
  if (w->db != NULL) sdb_message(w->db, message, sizeof message);
  return fail(w, "%s: code %d (%s) [%s]", call, code, sdb_strerror(code), w->db != NULL ? message : w->message);
}

static bool fail_model(workload *w) { return fail(w, "%s: %s", w->doing, model_why(w->model)); }

/* A failing call: the death of the device explains it. */
static bool stop_or_fail(workload *w, const char *call, int code) {
  if (!dead(w)) return fail_call(w, call, code);
  w->stopped = true;
  return true;
}

static bool stop_or_fail_model(workload *w) {
  if (!dead(w)) return fail_model(w);
  w->stopped = true;
  return true;
}

/* Only the simulated clock stands still while something is compared. */
static uint64_t now_ms(const workload *w) {
  const sdb_storage *storage = w->options.storage;
  return w->device != NULL ? storage->now_ms(storage->ctx) : 0;
}

static void tell_time(workload *w) { model_set_now(w->model, now_ms(w)); }

size_t workload_path(uint64_t index, uint8_t *path) {
  static const char odd[] = {'/', '\0', '\xFF', '\x80', '/', '\n', '\0'};
  if (index == 1) {
    path[0] = 'x';
    return 1;
  }
  if (index == 2 || index == 3) { /* the longest; the two differ in their last byte only */
    memset(path, 'y', SDB_MAX_PATH);
    path[SDB_MAX_PATH - 1] = (uint8_t)('0' + index);
    return SDB_MAX_PATH;
  }
  if (index == 4 || index == 5) {
    memcpy(path, odd, sizeof odd);
    return index == 4 ? sizeof odd : 2;
  }
  if (index % 3 == 0)
    return (size_t)snprintf((char *)path, SDB_MAX_PATH, "/messages/sent/%016" PRIx64, index * 0x9E3779B97F4A7C15u);
  return (size_t)snprintf((char *)path, SDB_MAX_PATH, "/p/%" PRIu64, index);
}

static uint32_t random_keep(workload *w) {
  static const uint32_t keeps[] = {1, 2, 2, 2, 3, 4, 7, 40};
  return keeps[below(w, sizeof keeps / sizeof *keeps)];
}

static void choose_profile(workload *w) {
  switch (w->profile) {
    case PROFILE_LARGE:
      w->paths = 1 + (unsigned)below(w, 4);
      w->options.versions_to_keep = 1;
      break;
    case PROFILE_LONG_LOG:
      w->options.checkpoint_wal_bytes = 64 << 20;
      w->paths = 60;
      break;
    case PROFILE_BUSY: w->options.checkpoint_wal_bytes = 1; break;
    case PROFILE_TIGHT:
      w->options.page_size = 4096;
      w->options.max_db_size = 4 << 20;
      w->large_limit = 70000;
      break;
    case PROFILE_ORDINARY:
    case PROFILES: break;
  }
}

/* Every second one is encrypted; with AES-GCM where this processor has it. */
static void choose_encryption(workload *w, uint64_t dice) {
  if (dice >= 3) return;
  w->options.encryption_key = (const uint8_t *)WORKLOAD_KEY;
  if (dice == 2 && sodium_init() >= 0 && crypto_aead_aes256gcm_is_available()) w->options.cipher = SDB_CIPHER_AES_GCM;
}

void workload_init(workload *w, uint64_t seed, sim *device) {
  *w = (workload){.device = device, .random = seed * 0x2545F4914F6CDD1Du + 1, .doing = "open"};
  sdb_options_init(&w->options);
  w->options.storage = device != NULL ? sim_storage(device) : NULL;
  w->options.create = true;
  w->options.threads = false;
  w->options.use_mmap = false;
  w->options.page_size = 4096u << (below(w, 8) == 0 ? below(w, 5) : below(w, 2));
  w->options.page_cache_size = 64;
  w->options.wal_segment_size = w->options.page_size <= 16384 ? 65536 : 4 * w->options.page_size;
  w->options.checkpoint_wal_bytes = 16384u << below(w, 4);
  w->options.change_log_bytes = 65536 * below(w, 3);
  w->options.versions_to_keep = random_keep(w);
  w->options.message = w->message;
  w->options.message_size = sizeof w->message;
  w->paths = (unsigned)(3 + below(w, 28));
  w->large_limit = 200000;
  w->profile = (profile)below(w, PROFILES);
  choose_profile(w);
  w->options.use_compression = below(w, 4) != 0;
  w->options.quick_mode = seed % 5 == 0;
  choose_encryption(w, below(w, 6));
  w->model = model_new(w->options.versions_to_keep);
}

void workload_clear(workload *w) {
  workload_snapshots_close(w);
  if (w->db != NULL) sdb_close(w->db);
  w->db = NULL;
  model_free(w->model);
  w->model = NULL;
}

/* Around every border a content can meet: none, a page's half, a page, a chunk. */
uint32_t workload_size(workload *w) {
  uint32_t page = w->options.page_size, size;
  uint64_t dice = below(w, 20);
  if (w->profile == PROFILE_LARGE) dice %= 9;
  if (w->profile == PROFILE_LONG_LOG) dice = dice < 4 ? 5 : 7; /* many pages, so that replay runs out of cache */
  switch (dice) {
    case 0: size = 0; break;
    case 1: size = page / 2 - 200 + (uint32_t)below(w, 400); break;
    case 2: size = page - 200 + (uint32_t)below(w, 400); break;
    case 3: size = SDB_CHUNK - 2 + (uint32_t)below(w, 5); break;
    case 4: size = (uint32_t)below(w, 200000); break;
    case 5:
    case 6: size = page / 2 + (uint32_t)below(w, 4 * page); break;
    case 7:
    case 8:
    case 9: size = (uint32_t)below(w, page / 2); break;
    default: size = (uint32_t)below(w, 300); break;
  }
  return size > w->large_limit ? w->large_limit : size;
}

sdb_durability workload_durability(workload *w) {
  static const sdb_durability choices[] = {SDB_DURABLE, SDB_DURABLE, SDB_DEFAULT, SDB_BUFFERED, SDB_NONE, SDB_NONE};
  if (w->profile == PROFILE_LARGE && below(w, 3) != 0) return SDB_NONE;
  return choices[below(w, sizeof choices / sizeof *choices)];
}

/* What the engine says is durable must be; also what a durable commit came after. */
static bool note_durable(workload *w, const sdb_put_options *options, const sdb_commit *commit) {
  bool asked = options->durability == SDB_DURABLE || options->durability == SDB_DEFAULT;
  if (asked && commit->reached != SDB_DURABLE) return fail(w, "%s: not as durable as was asked for", w->doing);
  if (commit->reached == SDB_DURABLE) model_all_durable(w->model);
  return true;
}

/* "Not there" is as durable as was asked, so that a retry of a delete may be believed. */
static bool note_gone(workload *w, const sdb_put_options *options) {
  if (options->durability == SDB_DURABLE || options->durability == SDB_DEFAULT) model_all_durable(w->model);
  return true;
}

static bool note_synced(workload *w) {
  sdb_stats stats = {.size = sizeof stats};
  int code = sdb_get_stats(w->db, &stats);
  if (code != SDB_OK) return stop_or_fail(w, "stats", code);
  model_durable_up_to(w->model, stats.synced_sequence);
  return dead(w) || workload_found_nothing(w, &stats); /* what cannot be read of a dead device is a problem */
}

/* --- Operations --------------------------------------------------------------------------------------------------------------- */

static int write_through_writer(workload *w, const uint8_t *path, size_t path_len, const uint8_t *data, uint32_t size,
                                const sdb_put_options *options, bool commits, sdb_commit *commit) {
  sdb_writer *writer;
  int code = sdb_writer_open(w->db, path, path_len, below(w, 2) == 0 ? size : SDB_UNKNOWN_SIZE, options, &writer);
  if (code != SDB_OK) return code;
  for (uint32_t done = 0; done < size && code == SDB_OK;) {
    uint32_t piece = 1 + (uint32_t)below(w, 90000);
    if (piece > size - done) piece = size - done;
    code = sdb_writer_write(writer, data + done, piece);
    done += piece;
  }
  if (commits && code == SDB_OK) return sdb_writer_commit(writer, commit);
  sdb_writer_abort(writer);
  return code;
}

/* What can be put beside a content: a time at which it ends, content type and metadata. */
struct extras {
  bool attributes;
  char type[SDB_MAX_CONTENT_TYPE + 1];
  uint8_t metadata[SDB_MAX_METADATA];
};

static void attributes_of(uint64_t seed, bool some, sdb_put_options *options, struct extras *x) {
  x->attributes = some;
  if (!some) return;
  model_content_type(seed, x->type);
  options->content_type = x->type;
  options->metadata = x->metadata;
  options->metadata_len = model_metadata(seed, x->metadata);
}

static void random_extras(workload *w, uint64_t seed, sdb_put_options *options, struct extras *x) {
  attributes_of(seed, below(w, 3) == 0, options, x);
  if (w->device != NULL && below(w, 10) == 0) options->expires_ms = now_ms(w) + below(w, 5000) - 500;
}

static void token_of(uint64_t seed, uint8_t token[16]) {
  memcpy(token, &seed, 8);
  memcpy(token + 8, "a write", 8);
}

/* Shorter contents are equal now and then. Then what was there before a delete and a put may look like what is there after them,
 * and the model cannot say whether the put with the token survived. */
enum { TELLING = 16 };

/* A write that was done before is asked for again, and must be found: nothing else about the call counts. */
static bool put_again(workload *w, const uint8_t *path, size_t path_len, const uint8_t token[16], uint32_t version) {
  sdb_commit commit;
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.token = token;
  options.durability = workload_durability(w);
  if (below(w, 2)) options.expect = version + 1;
  int code = sdb_put(w->db, path, path_len, "again", 5, &options, &commit);
  if (code == SDB_FULL && may_be_full(w)) return true;
  if (code != SDB_OK) return stop_or_fail(w, "put again", code);
  if (!commit.repeated || commit.created || commit.info.version != version)
    return fail(w, "put again: version %u was made instead of %u found", commit.info.version, version);
  return note_durable(w, &options, &commit);
}

/* The end of a put that the model has not been told of. */
static bool put_ended(workload *w, const uint8_t *path, size_t path_len, uint64_t seed, uint32_t size,
                      const sdb_put_options *options, int code, const sdb_commit *commit) {
  bool attributes = options->metadata != NULL;
  if (code == SDB_FULL && may_be_full(w)) return true;
  if (code == SDB_TOO_LARGE && model_names(w->model, path, path_len) > 1) return true; /* names and metadata fill a page */
  if (code == SDB_OK) {
    if (!model_put_with(w->model, path, path_len, seed, size, options->expires_ms, attributes, commit)) return fail_model(w);
    return note_durable(w, options, commit);
  }
  if (!dead(w)) return stop_or_fail(w, "put", code);
  model_put_with(w->model, path, path_len, seed, size, options->expires_ms, attributes, NULL);
  w->retry.wanted = options->token != NULL && options->expires_ms == 0 && size >= TELLING;
  memcpy(w->retry.path, path, path_len);
  w->retry.path_len = path_len;
  w->retry.commits = model_commits(w->model);
  w->retry.version = model_version(w->model, path, path_len);
  w->retry.seed = seed;
  w->retry.size = size;
  return stop_or_fail(w, "put", code);
}

/* After a crash: a put of unknown outcome is asked for again, and is made once, whatever survived. */
static bool retry(workload *w) {
  uint8_t token[16];
  sdb_put_options options;
  sdb_commit commit;
  uint64_t seed = w->retry.seed;
  uint32_t size = w->retry.size;
  w->retry.wanted = false;
  w->doing = "retry";
  token_of(seed, token);
  if (model_commits(w->model) == w->retry.commits) return put_again(w, w->retry.path, w->retry.path_len, token, w->retry.version);
  uint8_t *data = malloc(size + 1u);
  if (data == NULL) return fail(w, "out of memory");
  model_content(seed, 0, data, size);
  sdb_put_options_init(&options);
  options.token = token;
  int code = sdb_put(w->db, w->retry.path, w->retry.path_len, data, size, &options, &commit);
  free(data);
  return put_ended(w, w->retry.path, w->retry.path_len, seed, size, &options, code, &commit);
}

static bool put(workload *w, const uint8_t *path, size_t path_len, bool stream) {
  uint64_t seed = sim_random(&w->random);
  uint32_t size = workload_size(w), version = model_version(w->model, path, path_len);
  uint8_t *data = malloc(size + 1u);
  if (data == NULL) return fail(w, "out of memory");
  model_content(seed, 0, data, size);
  sdb_put_options options;
  struct extras x;
  sdb_put_options_init(&options);
  random_extras(w, seed, &options, &x);
  options.durability = workload_durability(w);
  if (below(w, 4) == 0) options.expect = version; /* 0 is SDB_ABSENT */
  bool conflict = below(w, 12) == 0;
  if (conflict) options.expect = version + 1;
  uint8_t token[16];
  token_of(seed, token);
  if (below(w, 3) == 0) options.token = token;
  sdb_commit commit;
  int code = stream ? write_through_writer(w, path, path_len, data, size, &options, true, &commit)
                    : sdb_put(w->db, path, path_len, data, size, &options, &commit);
  free(data);
  if (code == SDB_FULL && may_be_full(w)) return true; /* room is asked for before conditions are */
  if (conflict && (code == SDB_CONFLICT || dead(w))) return code == SDB_CONFLICT || stop_or_fail(w, "put", code);
  if (conflict) return fail(w, "put with a condition that does not hold: code %d", code);
  bool good = put_ended(w, path, path_len, seed, size, &options, code, &commit);
  if (!good || code != SDB_OK || options.token == NULL || options.expires_ms != 0 || below(w, 2)) return good;
  return put_again(w, path, path_len, token, commit.info.version);
}

static bool abort_writer(workload *w, const uint8_t *path, size_t path_len) {
  uint32_t size = workload_size(w);
  uint8_t *data = calloc(1, size + 1u);
  if (data == NULL) return fail(w, "out of memory");
  int code = write_through_writer(w, path, path_len, data, size, NULL, false, NULL);
  free(data);
  return code == SDB_OK || (code == SDB_FULL && may_be_full(w)) || stop_or_fail(w, "writer", code);
}

static bool erase(workload *w, const uint8_t *path, size_t path_len) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = workload_durability(w);
  sdb_commit commit;
  bool there = model_has(w->model, path, path_len);
  uint8_t id[16];
  bool by_id = there && below(w, 3) == 0;
  int code = by_id ? sdb_id_of(w->db, path, path_len, id) : SDB_OK;
  if (code == SDB_OK)
    code = by_id ? sdb_delete_id(w->db, id, &options, &commit) : sdb_delete(w->db, path, path_len, &options, &commit);
  if (!there && code == SDB_NOT_FOUND) return note_gone(w, &options);
  if (!there) return code != SDB_OK ? stop_or_fail(w, "delete", code) : fail(w, "delete of an absent document succeeded");
  if (code != SDB_OK) {
    if (dead(w)) model_delete(w->model, path, path_len, NULL);
    return stop_or_fail(w, "delete", code);
  }
  if (!model_delete(w->model, path, path_len, &commit)) return fail_model(w);
  return note_durable(w, &options, &commit);
}

/* Several puts that nobody sees until they are waited for together. */
static bool put_deferred(workload *w) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = SDB_DURABLE;
  options.defer = true;
  uint64_t sequence = 0;
  for (uint64_t i = 0, n = 1 + below(w, DEFERRED_MAX); i < n; i++) {
    uint8_t path[SDB_MAX_PATH], data[300];
    size_t path_len = workload_path(1 + below(w, w->paths), path);
    uint64_t seed = sim_random(&w->random);
    uint32_t size = (uint32_t)below(w, sizeof data);
    model_content(seed, 0, data, size);
    sdb_commit commit;
    int code = sdb_put(w->db, path, path_len, data, size, &options, &commit);
    if (code == SDB_FULL && may_be_full(w)) break;
    if (code != SDB_OK) {
      if (dead(w)) model_put(w->model, path, path_len, seed, size, NULL);
      return stop_or_fail(w, "deferred put", code);
    }
    if (!model_put(w->model, path, path_len, seed, size, &commit)) return fail_model(w);
    sequence = commit.sequence;
  }
  if (sequence == 0) return true;
  int code = sdb_wait(w->db, sequence);
  if (code != SDB_OK) return stop_or_fail(w, "wait", code);
  model_all_durable(w->model);
  return true;
}

/* --- Names -------------------------------------------------------------------------------------------------------------------- */

/* What a bind must answer; SDB_TOO_LARGE may come instead of SDB_OK where there are several names. */
static int bind_answer(const workload *w, const uint8_t *path, size_t path_len, const uint8_t *name, size_t name_len) {
  if (!model_has(w->model, path, path_len)) return SDB_NOT_FOUND;
  if (model_same(w->model, path, path_len, name, name_len)) return SDB_OK;
  return model_has(w->model, name, name_len) ? SDB_CONFLICT : SDB_OK;
}

static bool too_many_names(const workload *w, const uint8_t *path, size_t path_len, int code) {
  return code == SDB_TOO_LARGE && model_names(w->model, path, path_len) > 0;
}

static bool bind_name(workload *w, const uint8_t *path, size_t path_len) {
  uint8_t name[SDB_MAX_PATH];
  size_t name_len = workload_path(1 + below(w, w->paths), name);
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = workload_durability(w);
  sdb_commit commit;
  int expected = bind_answer(w, path, path_len, name, name_len);
  bool same = model_same(w->model, path, path_len, name, name_len);
  int code = sdb_bind(w->db, path, path_len, name, name_len, &options, &commit);
  if ((code == SDB_FULL && may_be_full(w)) || too_many_names(w, path, path_len, code)) return true;
  if (code != expected) {
    if (dead(w) && expected == SDB_OK && !same) model_bind(w->model, path, path_len, name, name_len, NULL);
    return stop_or_fail(w, "bind", code);
  }
  if (code != SDB_OK) return true;
  if (commit.repeated != same) return fail(w, "bind: repeated is %d", commit.repeated);
  if (!same && !model_bind(w->model, path, path_len, name, name_len, &commit)) return fail_model(w);
  return note_durable(w, &options, &commit);
}

static bool unbind_name(workload *w, const uint8_t *path, size_t path_len) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = workload_durability(w);
  sdb_commit commit;
  bool there = model_has(w->model, path, path_len);
  int code = sdb_unbind(w->db, path, path_len, &options, &commit);
  if (!there && code == SDB_NOT_FOUND) return note_gone(w, &options);
  if (code != SDB_OK) {
    if (dead(w) && there) model_unbind(w->model, path, path_len, NULL);
    return stop_or_fail(w, "unbind", code);
  }
  if (!there) return fail(w, "unbind of an absent path succeeded");
  if (!model_unbind(w->model, path, path_len, &commit)) return fail_model(w);
  return note_durable(w, &options, &commit);
}

static bool restore(workload *w, const uint8_t *path, size_t path_len) {
  sdb_info infos[8];
  size_t count;
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = workload_durability(w);
  if (!model_has(w->model, path, path_len)) return true;
  int code = sdb_versions(w->db, path, path_len, infos, 8, &count);
  if (code != SDB_OK) return stop_or_fail(w, "versions", code);
  uint32_t number = infos[below(w, count < 8 ? count : 8)].version;
  sdb_commit commit;
  code = sdb_restore_version(w->db, path, path_len, number, &options, &commit);
  if ((code == SDB_FULL && may_be_full(w)) || (code == SDB_TOO_LARGE && model_names(w->model, path, path_len) > 1)) return true;
  if (code != SDB_OK) {
    if (dead(w)) model_restored(w->model, path, path_len, number, NULL);
    return stop_or_fail(w, "restore_version", code);
  }
  if (!model_restored(w->model, path, path_len, number, &commit)) return fail_model(w);
  return note_durable(w, &options, &commit);
}

/* --- Batches ------------------------------------------------------------------------------------------------------------------ */

/* A batch being made, and what its operations must answer: the model goes along, as if all succeeded. */
struct batch {
  sdb_batch *batch;
  unsigned count;
  struct {
    int code;
    uint32_t version; /* 0: not compared */
  } expected[BATCH_MAX];
  bool may_be_too_large, changes;
};

static void expect_answer(struct batch *b, int code, uint32_t version) {
  b->expected[b->count].code = code;
  b->expected[b->count++].version = version;
}

static int batch_put(workload *w, struct batch *b, const uint8_t *path, size_t path_len) {
  uint64_t seed = sim_random(&w->random);
  uint32_t size = workload_size(w), before = model_version(w->model, path, path_len);
  uint8_t *data = malloc(size + 1u);
  if (data == NULL) return SDB_NO_MEMORY;
  model_content(seed, 0, data, size);
  sdb_put_options options;
  struct extras x;
  sdb_put_options_init(&options);
  random_extras(w, seed, &options, &x);
  if (below(w, 4) == 0) options.expect = before;
  int code = SDB_OK;
  if (below(w, 4) == 0) {
    sdb_writer *writer;
    code = sdb_writer_open(w->db, path, path_len, SDB_UNKNOWN_SIZE, &options, &writer);
    if (code == SDB_OK) code = sdb_writer_write(writer, data, size);
    if (code == SDB_OK) code = sdb_batch_put_writer(b->batch, writer);
  } else {
    code = sdb_batch_put(b->batch, path, path_len, data, size, &options);
  }
  free(data);
  if (code != SDB_OK) return code;
  b->may_be_too_large |= model_names(w->model, path, path_len) > 1;
  model_put_with(w->model, path, path_len, seed, size, options.expires_ms, x.attributes, NULL);
  expect_answer(b, SDB_OK, before + 1);
  b->changes = true;
  return SDB_OK;
}

static int batch_remove(workload *w, struct batch *b, const uint8_t *path, size_t path_len, bool unbind) {
  uint32_t version = model_version(w->model, path, path_len);
  int code = unbind ? sdb_batch_unbind(b->batch, path, path_len, SDB_ANY) : sdb_batch_delete(b->batch, path, path_len, version);
  if (code != SDB_OK) return code;
  if (version != 0 && unbind) model_unbind(w->model, path, path_len, NULL);
  if (version != 0 && !unbind) model_delete(w->model, path, path_len, NULL);
  expect_answer(b, version != 0 ? SDB_OK : SDB_NOT_FOUND, version);
  b->changes |= version != 0;
  return SDB_OK;
}

static int batch_bind(workload *w, struct batch *b, const uint8_t *path, size_t path_len) {
  uint8_t name[SDB_MAX_PATH];
  size_t name_len = workload_path(1 + below(w, w->paths), name);
  if (bind_answer(w, path, path_len, name, name_len) != SDB_OK) return SDB_OK; /* it would fail, and all with it */
  int code = sdb_batch_bind(b->batch, path, path_len, name, name_len, SDB_ANY);
  if (code != SDB_OK) return code;
  b->may_be_too_large = true;
  expect_answer(b, SDB_OK, model_version(w->model, path, path_len));
  if (model_same(w->model, path, path_len, name, name_len)) return SDB_OK;
  model_bind(w->model, path, path_len, name, name_len, NULL);
  b->changes = true;
  return SDB_OK;
}

static int batch_add(workload *w, struct batch *b) {
  uint8_t path[SDB_MAX_PATH];
  size_t path_len = workload_path(1 + below(w, w->paths), path);
  uint32_t version = model_version(w->model, path, path_len);
  switch (below(w, 10)) {
    case 0:
    case 1: return batch_remove(w, b, path, path_len, false);
    case 2: return batch_remove(w, b, path, path_len, true);
    case 3:
    case 4: return batch_bind(w, b, path, path_len);
    case 5: expect_answer(b, SDB_OK, 0); return sdb_batch_expect(b->batch, path, path_len, version);
    default: return batch_put(w, b, path, path_len);
  }
}

static bool results_agree(workload *w, const struct batch *b, const sdb_batch_result *results) {
  for (unsigned i = 0; i < b->count; i++) {
    if (results[i].code != b->expected[i].code) return fail(w, "operation %u of a batch: code %d", i, results[i].code);
    if (b->expected[i].code == SDB_OK && b->expected[i].version != 0 && results[i].commit.info.version != b->expected[i].version)
      return fail(w, "operation %u of a batch: version %u", i, results[i].commit.info.version);
  }
  return true;
}

static bool batch_ended(workload *w, struct batch *b, size_t before, bool conflict) {
  sdb_put_options options;
  sdb_put_options_init(&options);
  options.durability = workload_durability(w);
  sdb_batch_result results[BATCH_MAX];
  size_t failed = 0;
  unsigned count = b->count;
  int code = sdb_batch_commit(b->batch, &options, results, BATCH_MAX, &failed);
  bool made = code == SDB_OK && b->changes;
  if (!model_end(w->model, made ? results[0].commit.sequence : 0)) return fail_model(w);
  bool refused = (code == SDB_CONFLICT && conflict && failed + 1 == count) || (code == SDB_FULL && may_be_full(w)) ||
                 (code == SDB_TOO_LARGE && b->may_be_too_large);
  if (refused || !b->changes || (conflict && dead(w))) model_truncate(w->model, before);
  if (refused) return true;
  if (code != SDB_OK) return stop_or_fail(w, "batch", code);
  if (conflict) return fail(w, "a batch with a condition that does not hold succeeded");
  if (!results_agree(w, b, results)) return false;
  if (options.durability == SDB_DURABLE || options.durability == SDB_DEFAULT) model_all_durable(w->model);
  return true;
}

/* Several operations at once; every sixth batch has a last condition that does not hold, and then nothing happens. */
static bool batch(workload *w) {
  struct batch b = {0};
  size_t before = model_commits(w->model);
  int code = sdb_batch_open(w->db, &b.batch);
  if (code != SDB_OK) return stop_or_fail(w, "batch_open", code);
  model_begin(w->model);
  for (uint64_t n = below(w, BATCH_MAX - 1); n > 0 && code == SDB_OK; n--) code = batch_add(w, &b);
  bool conflict = below(w, 6) == 0;
  if (code == SDB_OK && conflict) {
    code = sdb_batch_expect(b.batch, "/p/1", 4, 7); /* nobody writes there */
    b.count++;
  }
  if (code == SDB_OK) return batch_ended(w, &b, before, conflict);
  sdb_batch_abort(b.batch);
  model_end(w->model, 0);
  model_truncate(w->model, before);
  return (code == SDB_FULL && may_be_full(w)) || stop_or_fail(w, "batch", code);
}

/* --- The rest ----------------------------------------------------------------------------------------------------------------- */

static bool make_durable(workload *w, const char *call, int code) {
  if (code != SDB_OK) return stop_or_fail(w, call, code);
  model_all_durable(w->model);
  return true;
}

static bool step(workload *w) {
  bool more;
  if (w->device != NULL) sim_advance(w->device, below(w, 3) * 700);
  tell_time(w);
  for (uint64_t n = 1 + below(w, 4); n > 0; n--) {
    int code = sdb_step(w->db, (unsigned)(1 + below(w, 40)), &more);
    if (code != SDB_OK) return stop_or_fail(w, "step", code);
    if (!more) break;
  }
  return true;
}

static bool reopen(workload *w) {
  workload_snapshots_close(w);
  int code = sdb_close(w->db);
  w->db = NULL;
  if (code != SDB_OK) return stop_or_fail(w, "close", code);
  model_all_durable(w->model);
  if (w->profile != PROFILE_LARGE && below(w, 4) == 0) w->options.versions_to_keep = random_keep(w);
  model_set_keep(w->model, w->options.versions_to_keep);
  return workload_open(w);
}

/* What a read in the background is told: to be what an ordinary one says. */
struct answer {
  sdb *db;
  unsigned calls;
  int code;
  uint32_t crc;
};

static void take_answer(void *user, int code, void *data, size_t size, const sdb_info *info) {
  struct answer *a = user;
  (void)info;
  a->calls++;
  a->code = code;
  a->crc = code == SDB_OK ? sdb_crc32c(0, data, size) : 0;
  sdb_free(a->db, data);
}

static bool look_later(workload *w, const uint8_t *path, size_t path_len) {
  struct answer a = {.db = w->db};
  sdb_info info;
  bool more;
  int code = sdb_get_async(w->db, path, path_len, SDB_CURRENT, take_answer, &a, NULL);
  for (int i = 0; code == SDB_OK && a.calls == 0 && i < 10; i++) code = sdb_step(w->db, 1, &more);
  if (code != SDB_OK || (a.code != SDB_OK && a.code != SDB_NOT_FOUND)) return stop_or_fail(w, "get_async", code ? code : a.code);
  code = sdb_stat(w->db, path, path_len, SDB_CURRENT, &info);
  if (code != a.code || a.calls != 1)
    return dead(w) ? stop_or_fail(w, "stat", code) : fail(w, "get_async: code %d, %u calls", a.code, a.calls);
  return code != SDB_OK || info.digest == a.crc || fail(w, "get_async: WRONG BYTES");
}

static bool look(workload *w, const uint8_t *path, size_t path_len) {
  if (!w->options.threads && path_len % 2 == 0) return look_later(w, path, path_len);
  return model_equals_at(w->model, w->db, path, path_len) || stop_or_fail_model(w);
}

static bool operate(workload *w) {
  static const char *const names[] = {"put",        "writer",   "abort",      "delete", "recreate", "deferred", "flush",
                                      "checkpoint", "step",     "reopen",     "bind",   "unbind",   "restore",  "batch",
                                      "backup",     "snapshot", "conditions", "key",    "scrub",    "look"};
  static const unsigned weights[] = {28, 6, 2, 6, 3, 5, 4, 4, 9, 3, 7, 3, 2, 5, 1, 2, 3, 2, 2, 3};
  uint8_t path[SDB_MAX_PATH];
  size_t path_len = workload_path(1 + below(w, w->paths), path);
  uint64_t dice = below(w, 100);
  unsigned what = 0;
  for (; dice >= weights[what]; what++) dice -= weights[what];
  w->doing = names[what];
  switch (what) {
    case 0: return put(w, path, path_len, false);
    case 1: return put(w, path, path_len, true);
    case 2: return abort_writer(w, path, path_len);
    case 3: return erase(w, path, path_len);
    case 4: return erase(w, path, path_len) && (w->stopped || put(w, path, path_len, false));
    case 5: return put_deferred(w);
    case 6: return make_durable(w, "flush", sdb_flush(w->db));
    case 7: return make_durable(w, "checkpoint", sdb_checkpoint(w->db));
    case 8: return step(w);
    case 9: return w->stay_open || reopen(w);
    case 10: return bind_name(w, path, path_len);
    case 11: return unbind_name(w, path, path_len);
    case 12: return restore(w, path, path_len);
    case 13: return batch(w);
    case 14: return w->stay_open || (w->paths > 100 && below(w, 20) != 0) || workload_backup(w); /* each reads everything */
    case 15: return w->stay_open || (w->paths > 100 && below(w, 20) != 0) || workload_snapshot(w);
    case 16: return workload_batch_under_conditions(w);
    case 17: return w->stay_open || w->options.encryption_key == NULL || workload_change_key(w);
    case 18: return workload_scrub(w);
    default: return look(w, path, path_len);
  }
}

/* --- The whole ---------------------------------------------------------------------------------------------------------------- */

bool workload_open(workload *w) {
  if (w->key_before != NULL && below(w, 3) == 0 && !workload_refuses_key(w)) return false;
  if (w->stopped) return true;
  int code = sdb_open(WORKLOAD_NAME, &w->options, &w->db);
  if (code == SDB_OK) return true;
  w->db = NULL;
  return stop_or_fail(w, "open", code);
}

bool workload_run(workload *w, unsigned operations) {
  for (unsigned i = 0; i < operations && !w->stopped; i++) {
    tell_time(w);
    if (!operate(w)) return false;
    if (!w->stopped && !note_synced(w)) return false;
    if (!w->stopped && i % 4 == 3 && !workload_follow(w)) return false;
    if (dead(w)) w->stopped = true; /* also when the call did not need what failed */
  }
  bool good = workload_snapshots_verify(w);
  workload_snapshots_close(w);
  return good;
}

bool workload_verify(workload *w) {
  w->doing = "verify";
  tell_time(w);
  return (model_equals(w->model, w->db) && model_check(w->model, w->db)) || stop_or_fail_model(w);
}

bool workload_recover(workload *w) {
  w->stopped = false;
  w->doing = "recover";
  tell_time(w);
  if (w->key_in_doubt != NULL && !workload_find_key(w)) return false;
  if (!workload_open(w) || w->stopped) return w->stopped;
  bool check = below(w, 2) == 0; /* not always: it begins with a checkpoint, and hides what is wrong without one */
  if (!model_adopt(w->model, w->db) || (check && !model_check(w->model, w->db))) return stop_or_fail_model(w);
  if (!workload_follow(w)) return false;
  if (w->retry.wanted && !dead(w) && !retry(w)) return false;
  if (w->again.wanted && !dead(w) && !workload_batch_again(w)) return false;
  if (dead(w)) w->stopped = true;
  return true;
}

bool workload_close(workload *w) {
  if (w->db != NULL) {
    int code = sdb_close(w->db);
    w->db = NULL;
    if (code != SDB_OK && !dead(w)) return fail(w, "close: code %d (%s)", code, sdb_strerror(code));
    if (code == SDB_OK && !dead(w)) model_all_durable(w->model);
  }
  if (w->device == NULL) return true;
  if (sim_open_files(w->device) != 0) return fail(w, "close left %zu files open", sim_open_files(w->device));
  if (sim_allocations(w->device) == 0) return true;
  sim_print_leaks(w->device);
  return fail(w, "close left %" PRIu64 " allocations", sim_allocations(w->device));
}
