/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* api_async.c - reads in the background; the contract is sdb/sdb.h.
 *
 *     sdb_get_async ---> [ first ... last ] ---> a thread of the pool, or sdb_step ---> callback with what was read
 *                            |
 *     sdb_async_cancel, -----'--------------------------------------------------------> callback with SDB_CANCELLED
 *     sdb_close
 *
 * A request is in the queue or belongs to the one who took it out, under the lock; who took it out calls back, once, and frees it.
 * Everything promised about "exactly once" rests on that. No lock is held while a callback runs.
 */
#include "db.h"

enum { QUEUE = 1024 };

struct request {
  struct request *next;
  sdb_request number;
  sdb_get_callback *callback;
  void *user;
  uint32_t version;
  uint16_t path_len;
  uint8_t path[];
};

static bool has_pool(const sdb *db) { return db->e.threads && db->options.worker_threads > 0; }

void async_init(sdb *db) {
  mutex_init(&db->async.lock);
  cond_init(&db->async.work);
  cond_init(&db->async.done);
}

void async_destroy(sdb *db) {
  assert(!db->async.first && !db->async.running);
  mem_free(&db->e, db->async.threads);
  mutex_destroy(&db->async.lock);
  cond_destroy(&db->async.work);
  cond_destroy(&db->async.done);
}

/* --- The queue ---------------------------------------------------------------------------------------------------------------- */

static void append(struct async *a, struct request *r) {
  r->number = ++a->last_number;
  if (a->last) a->last->next = r;
  else a->first = r;
  a->last = r;
  a->waiting++;
}

/* Takes out the request with that number, or the first one (0). NULL: it is not there. The taker owes the callback. */
static struct request *take(struct async *a, sdb_request number) {
  struct request *before = NULL, *r = a->first;
  while (r && number && r->number != number) {
    before = r;
    r = r->next;
  }
  if (!r) return NULL;
  if (before) before->next = r->next;
  else a->first = r->next;
  if (a->last == r) a->last = before;
  a->waiting--;
  a->running++;
  return r;
}

/* Calls back for a request that was taken out. The lock is held before and after, not meanwhile. */
static void finish(sdb *db, struct request *r, int code, void *data, size_t size, const sdb_info *info) {
  struct async *a = &db->async;
  struct inside here;
  inside_begin(&here, db);
  r->callback(r->user, code, data, size, info);
  inside_end(&here);
  mem_free(&db->e, r);
  mutex_lock(&a->lock);
  a->running--;
  if (a->stopping) cond_broadcast(&a->done);
}

static void cancel(sdb *db, struct request *r) {
  mutex_unlock(&db->async.lock);
  finish(db, r, SDB_CANCELLED, NULL, 0, NULL);
}

/* Returns how many pages of content were read. */
static unsigned serve(sdb *db, struct request *r) {
  void *data = NULL;
  size_t size = 0;
  sdb_info info;
  mutex_unlock(&db->async.lock);
  int rc = sdb_get_alloc(db, r->path, r->path_len, r->version, &data, &size, &info);
  finish(db, r, rc, data, size, rc == SDB_OK ? &info : NULL);
  return (unsigned)(size / db->options.page_size);
}

/* --- Who serves --------------------------------------------------------------------------------------------------------------- */

static void pool_main(void *arg) {
  sdb *db = arg;
  struct async *a = &db->async;
  mutex_lock(&a->lock);
  while (a->first || !a->stopping) {
    struct request *r = take(a, 0);
    if (r) {
      serve(db, r);
      continue;
    }
    a->resting++;
    cond_wait(&a->work, &a->lock);
    a->resting--;
  }
  mutex_unlock(&a->lock);
}

/* Sees to it that somebody will serve one more request: wakes a thread, or starts another. Under the lock. */
static int call_thread(sdb *db) {
  struct async *a = &db->async;
  const sdb_storage *st = db->e.storage;
  unsigned most = db->options.worker_threads;
  if (!a->threads) a->threads = mem_new(&db->e, most * sizeof *a->threads);
  if (!a->threads) return SDB_NO_MEMORY;
  bool all_have_work = a->waiting >= a->resting;
  if (all_have_work && a->started < most && st->thread_start(st->ctx, pool_main, db, &a->threads[a->started]) == SDB_OK)
    a->started++;
  cond_signal(&a->work);
  return a->started > 0 ? SDB_OK : SDB_NO_MEMORY; /* fewer threads than wanted still serve everything */
}

bool async_step(sdb *db, unsigned *budget) {
  struct async *a = &db->async;
  struct request *r;
  if (has_pool(db)) return false;
  mutex_lock(&a->lock);
  while (*budget > 0 && (r = take(a, 0)) != NULL) {
    unsigned cost = 1 + serve(db, r);
    *budget -= cost < *budget ? cost : *budget;
  }
  bool left = a->first != NULL;
  mutex_unlock(&a->lock);
  return left;
}

void async_stop(sdb *db) {
  struct async *a = &db->async;
  struct request *r;
  mutex_lock(&a->lock);
  a->stopping = true;
  while ((r = take(a, 0)) != NULL) cancel(db, r);
  cond_broadcast(&a->work);
  while (a->running > 0) cond_wait(&a->done, &a->lock);
  mutex_unlock(&a->lock);
  while (a->started > 0) db->e.storage->thread_join(db->e.storage->ctx, a->threads[--a->started]);
}

/* --- Calls -------------------------------------------------------------------------------------------------------------------- */

static struct request *request_new(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_get_callback *callback,
                                   void *user) {
  struct request *r = mem_alloc(&db->e, sizeof *r + path_len);
  if (!r) return NULL;
  *r = (struct request){.callback = callback, .user = user, .version = version, .path_len = (uint16_t)path_len};
  memcpy(r->path, path, path_len);
  return r;
}

int sdb_get_async(sdb *db, const void *path, size_t path_len, uint32_t version, sdb_get_callback *callback, void *user,
                  sdb_request *number) {
  struct async *a = &db->async;
  int rc = path_check(db, path, path_len);
  if (rc != SDB_OK) return rc;
  if (!callback) return env_fail(&db->e, SDB_INVALID, "a request needs a callback");
  struct request *r = request_new(db, path, path_len, version, callback, user);
  if (!r) return env_fail(&db->e, SDB_NO_MEMORY, "out of memory for a request");
  mutex_lock(&a->lock);
  if (a->stopping) rc = env_fail(&db->e, SDB_CANCELLED, "the database is being closed");
  else if (a->waiting >= QUEUE) rc = env_fail(&db->e, SDB_BUSY, "%u requests are waiting; try again when some are answered", QUEUE);
  else if (has_pool(db) && call_thread(db) != SDB_OK) rc = env_fail(&db->e, SDB_NO_MEMORY, "cannot start a thread for requests");
  if (rc == SDB_OK) append(a, r);
  if (rc == SDB_OK && number) *number = r->number; /* still under the lock: the request may be gone right behind it */
  mutex_unlock(&a->lock);
  if (rc != SDB_OK) mem_free(&db->e, r);
  return rc;
}

int sdb_async_cancel(sdb *db, sdb_request number) {
  struct async *a = &db->async;
  int rc = handle_check(db);
  if (rc != SDB_OK) return rc;
  mutex_lock(&a->lock);
  struct request *r = number ? take(a, number) : NULL;
  if (r) cancel(db, r);
  mutex_unlock(&a->lock);
  return r ? SDB_OK : SDB_NOT_FOUND;
}

unsigned async_requests(sdb *db) {
  mutex_lock(&db->async.lock);
  unsigned n = db->async.waiting + db->async.running;
  mutex_unlock(&db->async.lock);
  return n;
}
