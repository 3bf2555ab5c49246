/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* search.c - pages of paths, and the cursor that walks over them.
 *
 * A page is one piece of memory: sdbc_page, its entries, and behind them the bytes of all paths.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct sdbc_page {
  size_t count;
  bool last;
  sdbc_entry entries[];
};

struct sdbc_cursor {
  sdbc *h;
  sdbc_page *page; /* NULL before the first */
  size_t next;     /* in the page */
  uint32_t page_size;
  bool infos;
  size_t prefix_len, after_len;
  uint8_t prefix[SDBC_MAX_PATH], after[SDBC_MAX_PATH];
};

static int compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
  size_t n = a_len < b_len ? a_len : b_len;
  int order = n > 0 ? memcmp(a, b, n) : 0;
  return order != 0 ? order : a_len < b_len ? -1 : a_len > b_len;
}

/* A page whose paths are not the asked ones, rising, would let a cursor walk for ever. */
static bool plausible(const ci_pb_reply *head, const uint8_t *prefix, size_t prefix_len, const uint8_t *after, size_t after_len,
                      bool infos) {
  for (size_t i = 0; i < head->n_entries; i++) {
    const Dcf__Db__V1__Entry *entry = head->entries[i];
    sdbc_info info;
    if (entry->path.len == 0 || entry->path.len > SDBC_MAX_PATH || entry->path.len < prefix_len) return false;
    if (prefix_len > 0 && memcmp(entry->path.data, prefix, prefix_len) != 0) return false;
    if (compare(entry->path.data, entry->path.len, after, after_len) <= 0) return false;
    if (infos && !ci_info(entry->info, &info)) return false;
    after = entry->path.data;
    after_len = entry->path.len;
  }
  return head->n_entries > 0 || head->last;
}

static sdbc_page *make_page(const ci_pb_reply *head, bool infos) {
  size_t bytes = 0;
  for (size_t i = 0; i < head->n_entries; i++) bytes += head->entries[i]->path.len;
  sdbc_page *page = calloc(1, sizeof *page + head->n_entries * sizeof *page->entries + bytes);
  if (!page) return NULL;
  page->count = head->n_entries;
  page->last = head->last != 0;
  uint8_t *to = (uint8_t *)&page->entries[page->count];
  for (size_t i = 0; i < page->count; i++) {
    const Dcf__Db__V1__Entry *entry = head->entries[i];
    memcpy(to, entry->path.data, entry->path.len);
    page->entries[i].path = to;
    page->entries[i].path_len = entry->path.len;
    if (infos) (void)ci_info(entry->info, &page->entries[i].info);
    to += entry->path.len;
  }
  return page;
}

static int check_search(sdbc *h, const void *prefix, size_t prefix_len, const void *after, size_t after_len) {
  if ((prefix_len > 0 && !prefix) || (after_len > 0 && !after))
    return ci_fail(h, SDBC_INVALID, "there are no bytes to search with");
  if (prefix_len <= SDBC_MAX_PATH && after_len <= SDBC_MAX_PATH) return SDBC_OK;
  return ci_fail(h, SDBC_INVALID, "a prefix has at most %u bytes", SDBC_MAX_PATH);
}

int sdbc_search(sdbc *h, const void *prefix, size_t prefix_len, const void *after, size_t after_len, uint32_t limit, bool infos,
                sdbc_page **page) {
  int code = ci_enter(h);
  if (code == SDBC_OK) code = check_search(h, prefix, prefix_len, after, after_len);
  if (code != SDBC_OK) return code;
  uint8_t prefix_copy[SDBC_MAX_PATH], after_copy[SDBC_MAX_PATH];
  if (prefix_len > 0) memcpy(prefix_copy, prefix, prefix_len);
  if (after_len > 0) memcpy(after_copy, after, after_len);
  Dcf__Db__V1__Search search = DCF__DB__V1__SEARCH__INIT;
  search.prefix = (ProtobufCBinaryData){.data = prefix_copy, .len = prefix_len};
  search.after = (ProtobufCBinaryData){.data = after_copy, .len = after_len};
  search.limit = limit;
  search.infos = infos;
  ci_pb_request request = DCF__DB__V1__REQUEST__INIT;
  request.op_case = DCF__DB__V1__REQUEST__OP_SEARCH;
  request.search = &search;
  ci_reply reply;
  code = ci_call(h, &request, NULL, &reply);
  if (code != SDBC_OK) return code;
  if (!plausible(reply.head, prefix_copy, prefix_len, after_copy, after_len, infos))
    return ci_protocol(h, "other paths than were asked for");
  sdbc_page *made = make_page(reply.head, infos);
  if (!made) return ci_fail(h, SDBC_NO_MEMORY, "no memory for a page of %zu paths", reply.head->n_entries);
  *page = made;
  return SDBC_OK;
}

size_t sdbc_page_count(const sdbc_page *page) { return page->count; }
bool sdbc_page_last(const sdbc_page *page) { return page->last; }
const sdbc_entry *sdbc_page_entry(const sdbc_page *page, size_t index) {
  return index < page->count ? &page->entries[index] : NULL;
}
void sdbc_page_free(sdbc_page *page) { free(page); }

int sdbc_cursor_open(sdbc *h, const void *prefix, size_t prefix_len, const void *after, size_t after_len, uint32_t page_size,
                     bool infos, sdbc_cursor **cursor) {
  int code = ci_enter(h);
  if (code == SDBC_OK) code = check_search(h, prefix, prefix_len, after, after_len);
  if (code != SDBC_OK) return code;
  sdbc_cursor *c = calloc(1, sizeof *c);
  if (!c) return ci_fail(h, SDBC_NO_MEMORY, "no memory for a cursor");
  c->h = h;
  c->page_size = page_size;
  c->infos = infos;
  c->prefix_len = prefix_len;
  c->after_len = after_len;
  if (prefix_len > 0) memcpy(c->prefix, prefix, prefix_len);
  if (after_len > 0) memcpy(c->after, after, after_len);
  *cursor = c;
  return SDBC_OK;
}

int sdbc_cursor_next(sdbc_cursor *c, sdbc_entry *entry) {
  while (!c->page || c->next == c->page->count) {
    if (c->page && c->page->last) return SDBC_END;
    sdbc_page *page;
    int code = sdbc_search(c->h, c->prefix, c->prefix_len, c->after, c->after_len, c->page_size, c->infos, &page);
    if (code != SDBC_OK) return code;
    sdbc_page_free(c->page);
    c->page = page;
    c->next = 0;
    if (page->count > 0) {
      const sdbc_entry *end = &page->entries[page->count - 1];
      memcpy(c->after, end->path, end->path_len);
      c->after_len = end->path_len;
    }
  }
  *entry = c->page->entries[c->next++];
  return SDBC_OK;
}

void sdbc_cursor_close(sdbc_cursor *c) {
  if (!c) return;
  sdbc_page_free(c->page);
  free(c);
}
