/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* transfer.c - insert, get, stream: contents in and out, in constant memory. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend.h"
#include "commands.h"
#include "outfile.h"
#include "output.h"
#include "progress.h"

/* --- insert ------------------------------------------------------------------------------------------------------------------- */

typedef struct source {
  int fd;
  const char *shown;
  uint64_t size; /* UNKNOWN_SIZE for what is no ordinary file */
} source;

static bool is_standard_input(const char *name) { return !name || strcmp(name, "-") == 0; }

int insert_operands(const cli *c) {
  if (is_standard_input(c->file) || access(c->file, R_OK) == 0) return EXIT_DONE;
  return complain("cannot read '%s': %s", c->file, strerror(errno));
}

static int source_open(source *s, const char *name) {
  *s = (source){.fd = STDIN_FILENO, .shown = "standard input", .size = UNKNOWN_SIZE};
  if (!is_standard_input(name)) {
    s->shown = name;
    s->fd = open(name, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0) return complain("cannot read '%s': %s", name, strerror(errno));
  }
  struct stat st;
  /* Files of size 0 may still have content, as those in /proc do. */
  if (fstat(s->fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
    off_t at = lseek(s->fd, 0, SEEK_CUR);
    if (at >= 0 && at <= st.st_size) s->size = (uint64_t)(st.st_size - at);
  }
  return EXIT_DONE;
}

static void source_close(source *s) {
  if (s->fd != STDIN_FILENO) (void)close(s->fd);
}

/* Fills `buf` unless the end comes first; *got less than `len` is the end. */
static int source_read(source *s, uint8_t *buf, size_t len, size_t *got) {
  *got = 0;
  while (*got < len) {
    ssize_t n = read(s->fd, buf + *got, len - *got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return complain("cannot read %s: %s", s->shown, strerror(errno));
    if (n == 0) break;
    *got += (size_t)n;
  }
  return EXIT_DONE;
}

/* The rest of a content whose first `got` bytes are in `buf`. */
static int write_stream(cli *c, source *s, uint8_t *buf, size_t cap, size_t got, commit *made) {
  backend *b = c->backend;
  result r = b->calls->write_open(b, c->path, s->size);
  if (r != RESULT_OK) return exit_code_of(c, r);
  progress p;
  progress_begin(&p, s->size, c->json);
  int code = EXIT_DONE;
  while (code == EXIT_DONE && r == RESULT_OK && got > 0) {
    r = b->calls->write(b, buf, got);
    progress_add(&p, got);
    if (r == RESULT_OK) code = source_read(s, buf, cap, &got);
  }
  if (code != EXIT_DONE || r != RESULT_OK) {
    b->calls->write_abort(b);
  } else {
    r = b->calls->write_commit(b, made);
  }
  progress_end(&p);
  return code != EXIT_DONE ? code : exit_code_of(c, r);
}

static int insert_from(cli *c, source *s, commit *made) {
  size_t cap = SMALL_CONTENT + 1; /* one more than goes into one call, to see whether there is more */
  uint8_t *buf = malloc(cap);
  if (!buf) return complain("out of memory");
  size_t got;
  int code = source_read(s, buf, cap, &got);
  if (code == EXIT_DONE && got < cap) {
    code = exit_code_of(c, c->backend->calls->insert(c->backend, c->path, buf, got, made));
  } else if (code == EXIT_DONE) {
    code = write_stream(c, s, buf, cap, got, made);
  }
  free(buf);
  return code;
}

static void print_commit(const cli *c, const commit *made) {
  if (c->json) {
    json_begin();
    json_path(c->path);
    json_document(&made->made);
    json_number("sequence", made->sequence);
    if (made->durability) json_text("durability", made->durability);
    json_bool("created", made->created);
    json_end();
    return;
  }
  char number[32];
  fputs("stored ", stdout);
  print_path(c->path, true);
  printf(": version %" PRIu32 ", %s bytes, digest %08" PRIx32 "%s\n", made->made.version, text_number(made->made.size, number),
         made->made.digest, made->created ? ", new" : "");
}

int command_insert(cli *c) {
  source s;
  commit made;
  int code = source_open(&s, c->file);
  if (code != EXIT_DONE) return code;
  code = insert_from(c, &s, &made);
  source_close(&s);
  if (code == EXIT_DONE) print_commit(c, &made);
  return code;
}

/* --- get, stream -------------------------------------------------------------------------------------------------------------- */

static int copy_out(cli *c, outfile *out, uint64_t total) {
  backend *b = c->backend;
  bool to_terminal = out->fd == STDOUT_FILENO && output_is_terminal();
  progress p;
  progress_begin(&p, total, c->json || to_terminal);
  int code = EXIT_DONE;
  for (;;) {
    const void *data;
    size_t len;
    result r = b->calls->read(b, &data, &len);
    if (r != RESULT_OK) {
      progress_end(&p);
      return exit_code_of(c, r);
    }
    if (len == 0) break;
    code = outfile_write(out, data, len);
    if (code != EXIT_DONE) break;
    progress_add(&p, len);
  }
  progress_end(&p);
  return code;
}

static int read_document(cli *c, document *doc) {
  backend *b = c->backend;
  uint64_t length = c->length;
  result r = length == 0 ? b->calls->stat(b, c->path, c->version, doc)
                         : b->calls->read_open(b, c->path, c->version, c->offset, length, doc);
  if (r != RESULT_OK) return exit_code_of(c, r);
  outfile out;
  int code = outfile_open(&out, c->output);
  if (code == EXIT_DONE) {
    uint64_t left = doc->size > c->offset ? doc->size - c->offset : 0;
    if (length > 0) code = copy_out(c, &out, left < length ? left : length);
    if (code == EXIT_DONE) {
      code = outfile_commit(&out);
    } else {
      outfile_abort(&out);
    }
  }
  if (length > 0) b->calls->read_close(b);
  return code;
}

int command_read(cli *c) {
  bool to_output = !c->output || strcmp(c->output, "-") == 0;
  if (c->json && to_output) {
    (void)complain("--json describes the document on standard output, so its content needs -o FILE");
    return EXIT_USAGE;
  }
  document doc;
  int code = read_document(c, &doc);
  if (code != EXIT_DONE || !c->json) return code;
  json_begin();
  json_path(c->path);
  json_document(&doc);
  json_text("file", c->output);
  json_end();
  return EXIT_DONE;
}
