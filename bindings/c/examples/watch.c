/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* watch.c - the changes below a prefix, as they come.
 *
 *     watch PREFIX COUNT [ENDPOINT [EVENTS]]     ends after COUNT events; exit code 1 when none came for ten seconds
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdbc/sdbc.h"

static void show(const sdbc_event *event) {
  if (event->kind == SDBC_EVENT_DELETE) {
    printf("deleted  %.*s\n", (int)event->path_len, (const char *)event->path);
  } else {
    printf("version %-3" PRIu32 " %.*s (%" PRIu64 " bytes)\n", event->info.version, (int)event->path_len, (const char *)event->path,
           event->info.size);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: watch PREFIX COUNT [ENDPOINT [EVENTS]]\n");
    return 2;
  }
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  if (argc > 4) options.events = argv[4];
  sdbc *client;
  sdbc_watch *watch;
  int code = sdbc_connect(argc > 3 ? argv[3] : NULL, &options, &client);
  if (code != SDBC_OK) {
    fprintf(stderr, "watch: %s\n", sdbc_strerror(code));
    return 1;
  }
  code = sdbc_watch_open(client, argv[1], strlen(argv[1]), false, &watch);
  if (code != SDBC_OK) {
    fprintf(stderr, "watch: %s\n", sdbc_message(client));
    sdbc_close(client);
    return 1;
  }
  printf("watching\n");
  fflush(stdout);
  long left = strtol(argv[2], NULL, 10);
  while (left > 0) {
    sdbc_event event;
    code = sdbc_watch_next(watch, 10000, &event);
    if (code == SDBC_OK) {
      show(&event);
      left--;
    } else if (code == SDBC_GAP) {
      /* Whoever keeps a copy reads again what matters now: a search with infos, comparing versions. */
      printf("gap: %s\n", sdbc_watch_message(watch));
    } else {
      fprintf(stderr, "watch: %s\n", code == SDBC_AGAIN ? "nothing happened for ten seconds" : sdbc_watch_message(watch));
      break;
    }
    fflush(stdout);
  }
  sdbc_watch_close(watch);
  sdbc_close(client);
  return left == 0 ? 0 : 1;
}
