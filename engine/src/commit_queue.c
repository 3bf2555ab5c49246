/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* commit_queue.c - one caller runs the commits of all who wait for the writer's lock.
 *
 *     lock held by A       B: first, waits for the lock --> takes all of the queue, runs it in order, unlocks, waits for the sync,
 *     queue: B <- C <- D   C, D: sleep ----------------------------------------------------------- wakes the others at once
 *
 * A lock handed from caller to caller costs each of them a sleep and a wake, which is more than a commit; and they sleep once more
 * until the group's sync. Here a caller sleeps once, until its commit is durable, and the pages that commits share stay in one
 * processor's cache. Known as flat combining (Hendler, Incze, Shavit, Tzafrir: "Flat Combining and the Synchronization-Parallelism
 * Tradeoff", SPAA 2010); here whoever finds the queue empty waits for the lock, so nobody looks for work when leaving it.
 *
 * Rules:
 *   - a commit that would have to give the lock up (claimed documents, no room in the log) goes back to its caller, who runs it
 *     himself: nobody else waits for that;
 *   - the state of a commit is stored last: its caller may be gone from then on, and the commit stands on his stack;
 *   - who sleeps is woken whatever happened, and finds out himself.
 */
#include "db.h"

enum { QUEUED, RUN, RETURNED };

void commit_queue_init(struct commit_queue *cq) {
  mutex_init(&cq->lock);
  for (unsigned i = 0; i < COMMIT_GATES; i++) gate_init(&cq->served[i]);
}

void commit_queue_destroy(struct commit_queue *cq) {
  mutex_destroy(&cq->lock);
  for (unsigned i = 0; i < COMMIT_GATES; i++) gate_destroy(&cq->served[i]);
}

/* Runs the commits; the writer's lock is held. Returns whether all of them wait for a sync, the last for that of *last. */
static bool run_all(sdb *db, struct commit *batch, uint64_t *last) {
  bool durable = true;
  struct commit *next;
  for (struct commit *q = batch; q; q = next) {
    bool back = commit_would_wait(db, q);
    next = q->next;
    if (!back) commit_locked(db, q);
    if (!back && q->wait_for && q->durability == SDB_DURABLE && !q->defer) *last = q->wait_for; /* sequences rise */
    else durable = false;
    atomic_store(&q->state, back ? RETURNED : RUN);
  }
  return durable;
}

static void lead_queue(sdb *db) {
  struct commit_queue *cq = &db->commits;
  uint64_t last = 0;
  pager_lock(db->pager);
  mutex_lock(&cq->lock);
  struct commit *batch = cq->first;
  struct gate *served = &cq->served[cq->round++ % COMMIT_GATES];
  bool alone = !batch->next;
  cq->first = cq->last = NULL;
  atomic_store(&cq->waiting, false);
  mutex_unlock(&cq->lock);
  bool durable = run_all(db, batch, &last);
  pager_unlock(db->pager);
  if (alone) return;
  if (durable) (void)wait_durable(db, last); /* each asks again, and hears of the failure himself */
  gate_open(served, true);
}

/* At the end of the queue. Returns the gate to wait at; NULL: q is the first. */
static struct gate *join(struct commit_queue *cq, struct commit *q) {
  q->next = NULL;
  atomic_init(&q->state, QUEUED);
  mutex_lock(&cq->lock);
  struct gate *served = cq->first ? &cq->served[cq->round % COMMIT_GATES] : NULL;
  if (cq->first) cq->last->next = q;
  else cq->first = q;
  cq->last = q;
  atomic_store(&cq->waiting, true);
  mutex_unlock(&cq->lock);
  return served;
}

bool commit_queue_run(sdb *db, struct commit *q) {
  struct commit_queue *cq = &db->commits;
  if (!atomic_load_explicit(&cq->waiting, memory_order_relaxed) && pager_try_lock(db->pager)) {
    commit_locked(db, q);
    pager_unlock(db->pager);
    return true;
  }
  struct gate *served = join(cq, q);
  if (!served) lead_queue(db);
  while (served) {
    unsigned turn = gate_turn(served);
    if (atomic_load(&q->state) != QUEUED) break;
    gate_wait(served, turn);
  }
  return atomic_load(&q->state) == RUN;
}
