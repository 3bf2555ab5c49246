/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* storage_guard.c - see storage_guard.h.
 *
 * Signals are the process's, so this is the one place of the engine with a state of its own: the list of windows under guard, and
 * the handler that was there before. The list only grows (a window that goes leaves its entry for the next one), so that the
 * handler, which may interrupt anything and may take no lock, can walk it at any moment.
 */
#define _GNU_SOURCE
#include "storage_guard.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sync.h"

struct window {
  struct window *next;     /* never changes once the window is on the list */
  _Atomic uintptr_t start; /* 0: nobody's. Written last, and read before and after the rest */
  _Atomic uintptr_t end;
  _Atomic(void *) user;
  void (*_Atomic fault)(void *user);
};

static struct mutex list_lock = MUTEX_INITIALIZER; /* of all changes */
static _Atomic(struct window *) windows;
static bool installed;
static struct sigaction before;
static uintptr_t system_page;

/* --- The signal --------------------------------------------------------------------------------------------------------------- */

/* The owner hears of it first: whoever sees the zeros can find out that they are none of the file's. */
static bool cover(uintptr_t address) {
  for (struct window *w = atomic_load(&windows); w; w = w->next) {
    uintptr_t start = atomic_load(&w->start), end = atomic_load(&w->end);
    void *user = atomic_load(&w->user);
    void (*fault)(void *) = atomic_load(&w->fault);
    if (start == 0 || address < start || address >= end || atomic_load(&w->start) != start) continue;
    fault(user);
    void *page = (void *)(address & ~(system_page - 1));
    return mmap(page, system_page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page;
  }
  return false;
}

/* As if the guard were not there. Where that means the end, the default is put back and the instruction, or the signal, repeated.
 */
static void pass_on(int signal_number, siginfo_t *info, void *context) {
  bool sent = info->si_code <= 0; /* by somebody; not by the memory */
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal_number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal_number);
  } else if (before.sa_handler == SIG_DFL || !sent) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(SIGBUS, &standard, NULL);
    if (sent) raise(SIGBUS);
  }
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context) {
  int error = errno;
  if (info->si_code <= 0 || !cover((uintptr_t)info->si_addr)) pass_on(signal_number, info, context);
  errno = error;
}

/* --- The list ----------------------------------------------------------------------------------------------------------------- */

bool guard_install(void) {
  mutex_lock(&list_lock);
  if (!installed) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigemptyset(&action.sa_mask);
    system_page = (uintptr_t)sysconf(_SC_PAGESIZE);
    installed = sigaction(SIGBUS, NULL, &before) == 0 && sigaction(SIGBUS, &action, NULL) == 0;
  }
  bool good = installed;
  mutex_unlock(&list_lock);
  return good;
}

bool guard_add(const void *address, size_t len, void (*fault)(void *user), void *user) {
  mutex_lock(&list_lock);
  struct window *w = atomic_load(&windows);
  while (w && atomic_load(&w->start)) w = w->next;
  bool fresh = !w;
  if (fresh) w = calloc(1, sizeof *w);
  if (w) {
    atomic_store(&w->end, (uintptr_t)address + len);
    atomic_store(&w->user, user);
    atomic_store(&w->fault, fault);
    atomic_store(&w->start, (uintptr_t)address);
    if (fresh) {
      w->next = atomic_load(&windows);
      atomic_store(&windows, w);
    }
  }
  mutex_unlock(&list_lock);
  return w != NULL;
}

void guard_remove(const void *address) {
  mutex_lock(&list_lock);
  for (struct window *w = atomic_load(&windows); w; w = w->next)
    if (atomic_load(&w->start) == (uintptr_t)address) atomic_store(&w->start, 0);
  mutex_unlock(&list_lock);
}
