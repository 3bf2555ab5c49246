/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* listing.c - search, versions, stat, delete, watch. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "commands.h"
#include "output.h"

#define MOST_VERSIONS 256u

static const char *digest_text(const document *doc, char buf[16]) {
  (void)snprintf(buf, 16, "%08" PRIx32, doc->digest);
  return buf;
}

static void print_columns(const document *doc) {
  char size[16], when[32], digest[16];
  printf("%7" PRIu32 "  %10s  %-19s  %s", doc->version, text_size(doc->size, size), text_time(doc->time_ms, when),
         digest_text(doc, digest));
}

static void print_heading(const char *last) { printf("VERSION        SIZE  MODIFIED (UTC)       DIGEST%s\n", last); }

/* --- search ------------------------------------------------------------------------------------------------------------------- */

static void print_entry(const cli *c, bytes path, const document *doc) {
  if (c->json) {
    json_begin();
    json_path(path);
    if (c->long_listing) json_document(doc);
    json_end();
    return;
  }
  if (c->long_listing) {
    print_columns(doc);
    fputs("  ", stdout);
  }
  print_path(path, false);
  putchar(c->null_ended ? '\0' : '\n');
}

int command_search(cli *c) {
  backend *b = c->backend;
  result r = b->calls->search_open(b, c->path, c->long_listing, c->limit);
  if (r != RESULT_OK) return exit_code_of(c, r);
  bool heading = c->long_listing && !c->json && !c->null_ended;
  while (!output_failed()) {
    bytes path;
    document doc;
    r = b->calls->search_next(b, &path, &doc);
    if (r != RESULT_OK) break;
    if (heading) print_heading("    PATH");
    heading = false;
    print_entry(c, path, &doc);
  }
  b->calls->search_close(b);
  return r == RESULT_END || r == RESULT_OK ? EXIT_DONE : exit_code_of(c, r);
}

/* --- versions, stat, delete --------------------------------------------------------------------------------------------------- */

int command_versions(cli *c) {
  static document docs[MOST_VERSIONS];
  size_t count = 0;
  result r = c->backend->calls->versions(c->backend, c->path, docs, MOST_VERSIONS, &count);
  if (r != RESULT_OK) return exit_code_of(c, r);
  if (!c->json) print_heading("");
  for (size_t i = 0; i < count; i++) {
    if (c->json) {
      json_begin();
      json_path(c->path);
      json_document(&docs[i]);
      json_end();
    } else {
      print_columns(&docs[i]);
      putchar('\n');
    }
  }
  return EXIT_DONE;
}

int command_stat(cli *c) {
  document doc;
  result r = c->backend->calls->stat(c->backend, c->path, c->version, &doc);
  if (r != RESULT_OK) return exit_code_of(c, r);
  if (c->json) {
    json_begin();
    json_path(c->path);
    json_document(&doc);
    json_end();
    return EXIT_DONE;
  }
  char id[37], number[32], size[16], when[32], digest[16];
  fputs("path      ", stdout);
  print_path(c->path, true);
  printf("\nid        %s\nversion   %" PRIu32, text_id(doc.id, id), doc.version);
  if (doc.oldest && doc.oldest < doc.version) printf(" (readable from %" PRIu32 ")", doc.oldest);
  printf("\nsize      %s bytes", text_number(doc.size, number));
  if (doc.size >= 1024) printf(" (%s)", text_size(doc.size, size));
  printf("\nmodified  %s.%03u UTC\n", text_time(doc.time_ms, when), (unsigned)(doc.time_ms % 1000));
  printf("digest    %s\n", digest_text(&doc, digest));
  return EXIT_DONE;
}

int command_delete(cli *c) {
  commit last;
  result r = c->backend->calls->remove(c->backend, c->path, &last);
  if (r != RESULT_OK) return exit_code_of(c, r);
  if (c->json) {
    json_begin();
    json_path(c->path);
    json_bool("deleted", true);
    if (last.made.version) json_document(&last.made);
    json_number("sequence", last.sequence);
    json_end();
    return EXIT_DONE;
  }
  fputs("deleted ", stdout);
  print_path(c->path, true);
  if (last.made.version) printf(" (version %" PRIu32 " was the last)", last.made.version);
  putchar('\n');
  return EXIT_DONE;
}

/* --- watch -------------------------------------------------------------------------------------------------------------------- */

static void print_event_json(const event *e) {
  static const char *const kinds[] = {[EVENT_PUT] = "put", [EVENT_DELETE] = "delete", [EVENT_GAP] = "gap"};
  json_begin();
  json_text("event", kinds[e->kind]);
  if (e->kind == EVENT_GAP) {
    if (e->missed) json_number("missed", e->missed);
    json_text("reason", e->reason);
  } else {
    json_path(e->path);
    json_document(&e->made);
    json_number("sequence", e->sequence);
  }
  json_end();
}

static void print_event(const event *e) {
  char when[32], size[16];
  if (e->kind == EVENT_GAP) {
    printf("-- gap -- %s\n", e->reason);
    return;
  }
  bool put = e->kind == EVENT_PUT;
  printf("%s  %-6s  %6" PRIu32 "  %10s  ", text_time(e->made.time_ms, when), put ? "put" : "delete", e->made.version,
         put ? text_size(e->made.size, size) : "-");
  print_path(e->path, true);
  putchar('\n');
}

int command_watch(cli *c) {
  backend *b = c->backend;
  result r = b->calls->watch_open(b, c->path);
  if (r != RESULT_OK) return exit_code_of(c, r);
  if (isatty(STDERR_FILENO) == 1) fprintf(stderr, "watching at %s; Ctrl-C ends\n", b->name);
  uint64_t seen = 0;
  int code = EXIT_DONE;
  while (code == EXIT_DONE && (c->count == 0 || seen < c->count)) {
    event e;
    r = b->calls->watch_next(b, &e);
    if (r != RESULT_OK) {
      code = exit_code_of(c, r);
      break;
    }
    if (c->json) {
      print_event_json(&e);
    } else {
      print_event(&e);
    }
    if (e.kind != EVENT_GAP) seen++;
    code = output_flush();
  }
  b->calls->watch_close(b);
  return code;
}
