/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_check.c - what sdb_check must find where every checksum is right: indexes that contradict the documents, sums that are off,
 * pages that nobody or two reach. Each contradiction is made by hand with the engine's own parts. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simulated.h"

#define log log_of_engine /* check.h brings the logarithm */
#include "db.h"

#define FAR_MS 4102444800000u /* 2100 */

static sim *device;
static sdb *db;
static uint64_t doc_a, doc_b;
static char found[4096]; /* all sentences */

static uint64_t put(const char *path, uint64_t expires_ms) {
  sdb_put_options o;
  sdb_commit commit;
  sdb_put_options_init(&o);
  o.expires_ms = expires_ms;
  ck_assert_int_eq(sdb_put(db, path, strlen(path), path, strlen(path), &o, &commit), SDB_OK);
  return id_document(commit.info.id);
}

static void set_up(void) {
  sdb_options o;
  device = sim_new(1);
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  ck_assert_int_eq(sdb_open("check.sdb", &o, &db), SDB_OK);
  doc_a = put("/a", 0);
  doc_b = put("/b", 0);
  put("/ends", FAR_MS);
  ck_assert_int_eq(sdb_bind(db, "/b", 2, "/name", 5, NULL, NULL), SDB_OK);
}

static void tear_down(void) {
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert_uint_eq(sim_allocations(device), 0);
  sim_free(device);
}

static void tell(void *user, const char *sentence) {
  (void)user;
  size_t len = strlen(found);
  snprintf(found + len, sizeof found - len, "%s\n", sentence);
}

static uint64_t check(void) {
  sdb_check_report report = {.size = sizeof report};
  found[0] = '\0';
  ck_assert_int_eq(sdb_check(db, tell, NULL, &report), SDB_OK);
  sdb_check_report silent = {.size = sizeof silent};
  ck_assert_int_eq(sdb_check(db, NULL, NULL, &silent), SDB_OK);
  ck_assert_uint_eq(silent.problems, report.problems);
  return report.problems;
}

/* --- Contradictions ----------------------------------------------------------------------------------------------------------- */

static void must(int code) { ck_assert_int_eq(code, SDB_OK); }

static void in_tree(uint32_t root, const char *key, uint64_t document) {
  if (document) must(tree_put(db->pager, root, key, strlen(key), document));
  else must(tree_remove(db->pager, root, key, strlen(key)));
}

/* An entry of the expiry tree as apply.c makes it: time and document number, high bytes first. */
static void in_expiry(uint64_t ms, uint64_t document, bool there) {
  uint8_t key[EXPIRY_KEY];
  for (int i = 0; i < 8; i++) key[i] = (uint8_t)(ms >> (56 - 8 * i));
  for (int i = 0; i < 5; i++) key[8 + i] = (uint8_t)(document >> (32 - 8 * i));
  if (there) must(tree_put(db->pager, db->roots.expiry_tree, key, sizeof key, document));
  else must(tree_remove(db->pager, db->roots.expiry_tree, key, sizeof key));
}

static void suffix_lacks_a_name(void) { in_tree(db->roots.suffix_tree, "a/", 0); }
static void suffix_has_a_stranger(void) { in_tree(db->roots.suffix_tree, "zzz/", doc_a); }
static void suffix_leads_elsewhere(void) { in_tree(db->roots.suffix_tree, "a/", doc_b); }
static void suffix_counts_wrong(void) { db->roots.suffix_names++; }
static void path_is_missing(void) { in_tree(db->roots.path_tree, "/a", 0); }
static void path_leads_elsewhere(void) { in_tree(db->roots.path_tree, "/a", doc_b); }
static void path_leads_nowhere(void) { in_tree(db->roots.path_tree, "/zzz", 900); }
static void time_of_nobody(void) { in_expiry(FAR_MS, doc_a, true); }
static void time_of_no_document(void) { in_expiry(FAR_MS, 900, true); }
static void time_is_missing(void) { in_expiry(FAR_MS, doc_b + 1, false); }
static void time_is_no_time(void) { in_tree(db->roots.expiry_tree, "short", doc_a); }
static void documents_counted_wrong(void) { db->roots.documents--; }
static void names_counted_wrong(void) { db->roots.names++; }
static void bytes_counted_wrong(void) { db->roots.content_bytes++; }
static void heap_counted_wrong(void) { db->roots.heap_pages++; }
static void live_counted_wrong(void) { db->roots.heap_live += 8; }

static void table_says_it_expires(void) {
  table_entry entry;
  uint8_t *at;
  must(table_get(db->table, VIEW_HEAD, doc_a, &entry));
  must(table_touch(db->table, doc_a, &at));
  entry.expires = true;
  table_set(at, &entry);
}

static void page_of_nobody(void) {
  uint32_t root;
  must(tree_create(db->pager, &root));
}

static void page_of_two(void) { must(tree_create(db->pager, &db->roots.fresh_tree)), db->roots.expiry_tree = db->roots.fresh_tree; }

static void fresh_counts_wrong(void) {
  must(tree_create(db->pager, &db->roots.fresh_tree));
  db->roots.fresh_names = 5;
}

static const struct {
  void (*make)(void);
  const char *says;
} cases[] = {
    {suffix_lacks_a_name, "1 names are missing in the suffix tree"},
    {suffix_lacks_a_name, "the suffix tree has 3 entries, but 4 are stored for it and there are 4 names"},
    {suffix_has_a_stranger, "1 entries of the suffix tree are no names in the path tree"},
    {suffix_leads_elsewhere, "1 entries of the suffix tree lead to another document"},
    {suffix_counts_wrong, "the suffix tree has 4 entries, but 5 are stored"},
    {path_is_missing, "a path of document 1 does not lead to it"},
    {path_is_missing, "names: stored 4, counted 3"},
    {path_leads_elsewhere, "a path of document 1 does not lead to it"},
    {path_leads_nowhere, "a path names document 900, which the table does not have"},
    {time_of_nobody, "the expiry tree has a time for document 1 that the document does not have"},
    {time_of_no_document, "the expiry tree has a time for document 900"},
    {time_is_missing, "documents that expire and entries of the expiry tree: stored 1, counted 0"},
    {time_is_no_time, "the expiry tree has a time for document 1"},
    {documents_counted_wrong, "documents: stored 2, counted 3"},
    {names_counted_wrong, "names: stored 5, counted 4"},
    {bytes_counted_wrong, "bytes of content: stored 10, counted 9"},
    {heap_counted_wrong, "heap pages: stored"},
    {live_counted_wrong, "live bytes in the heap: stored"},
    {table_says_it_expires, "the table does not say whether document 1 expires"},
    {page_of_nobody, "is reached from nowhere"},
    {page_of_two, "is reached twice"},
    {fresh_counts_wrong, "the path index that is being made does not have the names it counts"},
};
enum { CASES = sizeof cases / sizeof *cases };

static void change(void (*make)(void)) {
  pager_lock(db->pager);
  unsigned slot = pager_enter(db->pager);
  must(pager_admit(db->pager, 0, 8, false));
  make();
  note_unlogged(db);
  pager_leave(db->pager, slot);
  pager_unlock(db->pager);
}

START_TEST(a_contradiction_is_found) {
  ck_assert_uint_eq(check(), 0);
  ck_assert_str_eq(found, "");
  change(cases[_i].make);
  ck_assert_uint_gt(check(), 0);
  ck_assert_msg(strstr(found, cases[_i].says) != NULL, "not found: %s\n%s", cases[_i].says, found);
}
END_TEST

/* --- Times that nobody has any more ------------------------------------------------------------------------------------------- */

static void make_leftovers(void) {
  in_expiry(1, doc_a, true);     /* the document has no time */
  in_expiry(2, 900, true);       /* there is no such document */
  in_expiry(3, doc_b + 1, true); /* it has another */
}

/* Entries that a damaged record left behind are taken away when their time has come, and nothing with them. */
START_TEST(leftovers_in_the_expiry_tree_go) {
  sdb_stats s = {.size = sizeof s};
  bool more = true;
  change(make_leftovers);
  ck_assert_uint_gt(check(), 0);
  sim_advance(device, 2000);
  while (more) ck_assert_int_eq(sdb_step(db, 100, &more), SDB_OK);
  ck_assert_msg(check() == 0, "%s", found);
  ck_assert_int_eq(sdb_get_stats(db, &s), SDB_OK);
  ck_assert_uint_eq(s.documents, 3);
  ck_assert_uint_eq(s.expired, 0);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("check");
  tcase_add_checked_fixture(t, set_up, tear_down);
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, a_contradiction_is_found, 0, CASES);
  tcase_add_test(t, leftovers_in_the_expiry_tree_go);
  Suite *s = suite_create("check");
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int bad = srunner_ntests_failed(r);
  srunner_free(r);
  return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
