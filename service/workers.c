/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workers.c - one job at a time, oldest first. Streams work in short turns, so that nobody waits for a whole document. */
#include "workers.h"

#include "service.h"
#include "task.h"

void *worker_main(void *arg) {
  service *s = arg;
  list l = {0};
  while (queue_take(&s->jobs, &l, 1)) {
    task *t = task_of(list_take(&l));
    t->run(s, t);
  }
  return NULL;
}
