/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager_quarantine.c - which physical pages were found damaged; see pager.h. A short sorted list: a device that damages more places
 * than fit has to be replaced, and counting them is no help. */
#include "pager_state.h"

enum { MOST = 4096 };

/* Under the lock: the index of the first entry whose place is not below. */
static size_t find(const pager *p, uint32_t place) {
  size_t low = 0, high = atomic_load(&p->quarantine_count);
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (p->quarantine[middle].place < place) low = middle + 1;
    else high = middle;
  }
  return low;
}

void pager_quarantine(pager *p, uint32_t place, uint32_t number, uint8_t kind) {
  mutex_lock(&p->quarantine_lock);
  size_t count = atomic_load(&p->quarantine_count), i = find(p, place);
  bool known = i < count && p->quarantine[i].place == place;
  void *list = p->quarantine;
  if (!known && count < MOST && mem_reserve(p->e, &list, &p->quarantine_cap, count + 1, sizeof *p->quarantine)) {
    p->quarantine = list;
    memmove(p->quarantine + i + 1, p->quarantine + i, (count - i) * sizeof *p->quarantine);
    p->quarantine[i] = (struct quarantined){place, number, kind};
    atomic_store(&p->quarantine_count, count + 1);
  }
  mutex_unlock(&p->quarantine_lock);
}

void pager_lift(pager *p, uint32_t place) {
  if (!atomic_load_explicit(&p->quarantine_count, memory_order_relaxed)) return;
  mutex_lock(&p->quarantine_lock);
  size_t count = atomic_load(&p->quarantine_count), i = find(p, place);
  if (i < count && p->quarantine[i].place == place) {
    memmove(p->quarantine + i, p->quarantine + i + 1, (count - i - 1) * sizeof *p->quarantine);
    atomic_store(&p->quarantine_count, count - 1);
  }
  mutex_unlock(&p->quarantine_lock);
}

uint64_t pager_quarantined(const pager *p) { return atomic_load(&p->quarantine_count); }

bool pager_next_quarantined(pager *p, uint32_t from, struct quarantined *q) {
  mutex_lock(&p->quarantine_lock);
  size_t i = find(p, from);
  bool some = i < atomic_load(&p->quarantine_count);
  if (some) *q = p->quarantine[i];
  mutex_unlock(&p->quarantine_lock);
  return some;
}
