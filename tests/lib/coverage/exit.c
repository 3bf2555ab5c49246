/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* exit.c - children of tests leave through _exit(), and what was counted in them would go with them. Linked into the programs of
 * the preset `coverage` with -Wl,--wrap=_exit. */
void __gcov_dump(void);
_Noreturn void __wrap__exit(int status);
_Noreturn void __real__exit(int status);

_Noreturn void __wrap__exit(int status) {
  __gcov_dump();
  __real__exit(status);
}
