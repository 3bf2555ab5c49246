/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* storage_guard.h - for storage_file.c: what happens when a page of a mapping cannot be read.
 *
 * The kernel answers such a read with SIGBUS, which ends the process. With the guard in place a page of a window put under it is
 * replaced by zeros instead, and the window's owner is told before anybody can see them.
 */
#ifndef SDB_STORAGE_GUARD_H
#define SDB_STORAGE_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* Sets the process's handler of SIGBUS, once and for good: signals that concern no window go on to the handler before it. */
bool guard_install(void);
/* Puts a mapping under the guard: `fault(user)` is called in the thread that touched a failing page, inside the signal handler.
 * False on shortage. */
bool guard_add(const void *address, size_t len, void (*fault)(void *user), void *user);
/* Before the mapping goes. Nobody reads it any more. */
void guard_remove(const void *address);

#endif
