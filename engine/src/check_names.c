/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* check_names.c - the suffix tree against the path tree: S1 to S3 of names.c. */
#include <stdio.h>

#include "db.h"

struct names_check {
  sdb *db;
  const tree_visitor *outer; /* its functions for pages and problems */
  uint32_t other;            /* the tree in which the reversed key is looked up */
  uint64_t entries, missing, wrong;
};

static int visit_page(void *user, uint32_t number) {
  struct names_check *c = user;
  return c->outer->page ? c->outer->page(c->outer->user, number) : SDB_OK;
}

static void tell(void *user, const char *sentence) {
  struct names_check *c = user;
  if (c->outer->problem) c->outer->problem(c->outer->user, sentence);
}

static int visit_key(void *user, const uint8_t *key, size_t len, uint64_t document) {
  struct names_check *c = user;
  uint8_t back[SDB_MAX_PATH];
  uint64_t found;
  c->entries++;
  bytes_reverse(back, key, len);
  int rc = tree_get(c->db->pager, VIEW_HEAD, c->other, back, len, &found);
  if (rc == SDB_NO_MEMORY || rc == SDB_IO) return rc;
  c->missing += rc != SDB_OK;
  c->wrong += rc == SDB_OK && found != document;
  return SDB_OK;
}

static void say_count(struct names_check *c, uint64_t count, const char *what) {
  char text[160];
  if (count == 0) return;
  snprintf(text, sizeof text, "%llu %s", (unsigned long long)count, what);
  tell(c, text);
}

static void compare(struct names_check *c, const struct names_check *paths) {
  const roots *rt = &c->db->roots;
  bool complete = rt->suffix_built == SUFFIX_COMPLETE;
  char text[160];
  say_count(c, c->missing, "entries of the suffix tree are no names in the path tree");
  say_count(c, c->wrong, "entries of the suffix tree lead to another document than their names do");
  if (complete) say_count(c, paths->missing, "names are missing in the suffix tree");
  if (c->entries == rt->suffix_names && (!complete || c->entries == rt->names)) return;
  snprintf(text, sizeof text, "the suffix tree has %llu entries, but %llu are stored for it and there are %llu names",
           (unsigned long long)c->entries, (unsigned long long)rt->suffix_names, (unsigned long long)rt->names);
  tell(c, text);
}

/* A tree that is being dropped is only looked at page by page. Of one that is being built every entry must be a name. */
int check_names(sdb *db, const tree_visitor *outer) {
  const roots *rt = &db->roots;
  if (!rt->suffix_tree) return SDB_OK;
  struct names_check suffixes = {.db = db, .outer = outer, .other = rt->path_tree};
  struct names_check paths = {.db = db, .outer = outer, .other = rt->suffix_tree};
  bool dropping = rt->suffix_built == SUFFIX_DROPPING;
  tree_visitor v = {.user = &suffixes, .page = visit_page, .entry = dropping ? NULL : visit_key, .problem = tell};
  int rc = tree_check(db->pager, VIEW_HEAD, rt->suffix_tree, &v);
  if (rc != SDB_OK || dropping) return rc == SDB_CORRUPT ? SDB_OK : rc; /* told already */
  v = (tree_visitor){.user = &paths, .entry = visit_key};
  if (rt->suffix_built == SUFFIX_COMPLETE) rc = tree_check(db->pager, VIEW_HEAD, rt->path_tree, &v);
  if (rc == SDB_CORRUPT) return SDB_OK;
  if (rc == SDB_OK) compare(&suffixes, &paths);
  return rc;
}
