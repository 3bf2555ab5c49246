/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* basic.c - insert, get, search, delete.
 *
 *     basic [ENDPOINT]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdbc/sdbc.h"

static void must(sdbc *client, int code, const char *what) {
  if (code == SDBC_OK) return;
  fprintf(stderr, "basic: %s: %s (%s)\n", what, sdbc_message(client), sdbc_strerror(code));
  exit(1);
}

static void insert(sdbc *client, const char *path, const char *text) {
  sdbc_commit commit;
  must(client, sdbc_insert(client, path, strlen(path), text, strlen(text), NULL, &commit), "insert");
  printf("stored  %-22s version %" PRIu32 ", digest %08" PRIx32 "\n", path, commit.info.version, commit.info.digest);
}

static void read_back(sdbc *client, const char *path) {
  void *data;
  size_t size;
  sdbc_info info;
  must(client, sdbc_get_alloc(client, path, strlen(path), SDBC_CURRENT, &data, &size, &info), "get");
  printf("read    %-22s version %" PRIu32 ": %.*s\n", path, info.version, (int)size, (const char *)data);
  sdbc_free(data);
}

static void list(sdbc *client, const char *prefix) {
  sdbc_cursor *cursor;
  sdbc_entry entry;
  int code;
  must(client, sdbc_cursor_open(client, prefix, strlen(prefix), NULL, 0, 0, true, &cursor), "search");
  while ((code = sdbc_cursor_next(cursor, &entry)) == SDBC_OK) {
    printf("found   %-22.*s %" PRIu64 " bytes\n", (int)entry.path_len, (const char *)entry.path, entry.info.size);
  }
  sdbc_cursor_close(cursor);
  if (code != SDBC_END) must(client, code, "search");
}

int main(int argc, char **argv) {
  const char *endpoint = argc > 1 ? argv[1] : SDBC_DEFAULT_ENDPOINT;
  char message[256];
  sdbc_options options;
  sdbc_options_init(&options, sizeof options);
  options.message = message;
  options.message_size = sizeof message;

  sdbc *client;
  if (sdbc_connect(endpoint, &options, &client) != SDBC_OK) {
    fprintf(stderr, "basic: %s\n", message);
    return 1;
  }
  insert(client, "/example/peers/ada", "{\"rtt\": 12}");
  insert(client, "/example/peers/grace", "{\"rtt\": 9}");
  insert(client, "/example/peers/ada", "{\"rtt\": 11}");
  read_back(client, "/example/peers/ada");
  list(client, "/example/peers/");

  must(client, sdbc_delete(client, "/example/peers/ada", 18, NULL, NULL), "delete");
  must(client, sdbc_delete(client, "/example/peers/grace", 20, NULL, NULL), "delete");
  int code = sdbc_stat(client, "/example/peers/ada", 18, SDBC_CURRENT, NULL);
  printf("deleted: %s\n", sdbc_strerror(code));
  sdbc_close(client);
  return code == SDBC_NOT_FOUND ? 0 : 1;
}
