/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* stream.c - a large file up and down, in constant memory.
 *
 *     stream up FILE PATH [ENDPOINT]
 *     stream down PATH FILE [ENDPOINT]
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sdbc/sdbc.h"

static int complain(sdbc *client, int code, const char *what) {
  fprintf(stderr, "stream: %s: %s (%s)\n", what, sdbc_message(client), sdbc_strerror(code));
  return 1;
}

static int up(sdbc *client, const char *name, const char *path) {
  static char piece[65536];
  FILE *file = fopen(name, "rb");
  if (!file) {
    perror(name);
    return 1;
  }
  sdbc_writer *writer;
  int code = sdbc_writer_open(client, path, strlen(path), SDBC_UNKNOWN_SIZE, NULL, &writer);
  if (code != SDBC_OK) {
    fclose(file);
    return complain(client, code, "open");
  }
  size_t n;
  while (code == SDBC_OK && (n = fread(piece, 1, sizeof piece, file)) > 0) code = sdbc_writer_write(writer, piece, n);
  int unread = ferror(file);
  fclose(file);
  if (code != SDBC_OK || unread) {
    if (unread) perror(name);
    if (code != SDBC_OK) (void)complain(client, code, "write");
    sdbc_writer_abort(writer);
    return 1;
  }
  sdbc_commit commit;
  code = sdbc_writer_commit(writer, &commit);
  if (code != SDBC_OK) return complain(client, code, "commit");
  printf("stored %" PRIu64 " bytes as version %" PRIu32 ", digest %08" PRIx32 "\n", commit.info.size, commit.info.version,
         commit.info.digest);
  return 0;
}

static int down(sdbc *client, const char *path, const char *name) {
  sdbc_reader *reader;
  int code = sdbc_reader_open(client, path, strlen(path), SDBC_CURRENT, 0, 0, &reader);
  if (code != SDBC_OK) return complain(client, code, "open");
  FILE *file = fopen(name, "wb");
  const void *piece;
  size_t n = 1;
  bool written = file != NULL;
  /* The reader checks each chunk, and at the end the whole: only then is the file what the document is. */
  while (written && n > 0 && (code = sdbc_reader_next(reader, &piece, &n)) == SDBC_OK) written = fwrite(piece, 1, n, file) == n;
  if (file && fclose(file) != 0) written = false;
  if (written && code == SDBC_OK) {
    const sdbc_info *info = sdbc_reader_info(reader);
    printf("read %" PRIu64 " bytes of version %" PRIu32 ", digest %08" PRIx32 "\n", info->size, info->version, info->digest);
  }
  if (!written) perror(name);
  if (code != SDBC_OK) (void)complain(client, code, "read");
  sdbc_reader_close(reader);
  return written && code == SDBC_OK ? 0 : 1;
}

int main(int argc, char **argv) {
  bool is_up = argc > 3 && strcmp(argv[1], "up") == 0;
  bool is_down = argc > 3 && strcmp(argv[1], "down") == 0;
  if (!is_up && !is_down) {
    fprintf(stderr, "usage: stream up FILE PATH [ENDPOINT]\n       stream down PATH FILE [ENDPOINT]\n");
    return 2;
  }
  sdbc *client;
  int code = sdbc_connect(argc > 4 ? argv[4] : NULL, NULL, &client);
  if (code != SDBC_OK) {
    fprintf(stderr, "stream: %s\n", sdbc_strerror(code));
    return 1;
  }
  int result = is_up ? up(client, argv[2], argv[3]) : down(client, argv[2], argv[3]);
  sdbc_close(client);
  return result;
}
