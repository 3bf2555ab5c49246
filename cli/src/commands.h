/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* commands.h - the commands; each returns an exit code and has then said what was wrong. */
#ifndef STREAMDB_COMMANDS_H
#define STREAMDB_COMMANDS_H

#include "cli.h"

int command_insert(cli *c);
int command_read(cli *c); /* get and stream */
int command_search(cli *c);
int command_delete(cli *c);
int command_stat(cli *c);
int command_versions(cli *c);
int command_watch(cli *c);
int command_flush(cli *c);
int command_stats(cli *c);
int command_ping(cli *c);
int command_check(cli *c);
int command_backup(cli *c);
int command_verify(cli *c);
int command_restore(cli *c);
int command_repair(cli *c);
int command_inspect(cli *c);
int command_key(cli *c);
int key_operands(const cli *c);    /* EXIT_DONE, or EXIT_USAGE, which has been said */
int insert_operands(const cli *c); /* EXIT_DONE, or EXIT_FAILED, which has been said: before a database is made in vain */
bool key_changes(const cli *c);    /* the command writes */

#endif
