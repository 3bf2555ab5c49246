/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* reads.c - get, stat, versions, search, statistics.
 *
 * A small get, or a stat, is answered in the front with no allocation of ours: the content is read into the front's own buffer,
 * because its size is known only then, and copied once into a message of that size. Whatever is larger, or slower, is a worker's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front.h"

#define FIRST_GUESS (4u * KIB)
#define READ_TRIES 8       /* a document that grows each time between asking its size and reading it */
#define ENTRY_OVERHEAD 80u /* packed bytes of an entry beyond its path, its info included */
#define MAX_VERSIONS 255u

/* --- Get ---------------------------------------------------------------------------------------------------------------------- */

static const char not_in_a_reply[] = "the content is larger than 1 MB; read it as a stream or in parts";

static void fail_store(front *f, const request *rq, int rc) {
  char text[SENTENCE_BYTES];
  service_sentence(f->s, rc, text);
  front_fail(f, rq, code_of(rc), text);
}

/* A body that is small enough is copied into the message; a larger one is counted until it has left. */
static bool make_body(front *f, const request *rq, size_t size, zmq_msg_t *body) {
  if (size <= COUNTED_BODY) {
    if (zmq_msg_init_size(body, size) == 0) {
      memcpy(zmq_msg_data(body), f->scratch, size);
      return true;
    }
  } else if (!flow_reserve(rq->client->flow, size)) {
    front_busy(f, rq, RETRY_BYTES_MS, "too many bytes of replies are on their way; read them first");
    return false;
  } else {
    block *b = block_new(rq->client->flow, size);
    if (!b) {
      flow_release(rq->client->flow, size);
    } else {
      memcpy(b->data, f->scratch, size);
      if (block_to_message(b, size, body)) return true;
    }
  }
  front_busy(f, rq, RETRY_SLOTS_MS, "the service is out of memory");
  return false;
}

/* A job for a worker, with room for `bytes` of reply; submitted next. NULL: there is no room, and the client was told. */
static task *job_new(front *f, const request *rq, pb_bytes path, pb_bytes after, size_t bytes, void (*run)(service *, task *)) {
  if (!front_room_job(f, rq)) return NULL;
  if (!flow_reserve(rq->client->flow, bytes)) {
    front_busy(f, rq, RETRY_BYTES_MS, "too many bytes of replies are on their way; read them first");
    return NULL;
  }
  task *t = front_task(f, rq, path, after);
  if (!t) {
    flow_release(rq->client->flow, bytes);
    return NULL;
  }
  t->reserved = bytes;
  t->run = run;
  return t;
}

static void submit(front *f, task *t) {
  front_account(f, t);
  front_job(f, t);
}

static void get_run(service *s, task *t);

static void get_in_worker(front *f, const request *rq, size_t size) {
  const Dcf__Db__V1__Get *op = rq->op->get;
  task *t = job_new(f, rq, op->path, (pb_bytes){0}, size, get_run);
  if (!t) return;
  t->version = op->version;
  t->offset = op->offset;
  t->length = op->length;
  submit(f, t);
}

static bool is_part(const Dcf__Db__V1__Get *op) { return op->offset != 0 || op->length != 0; }

void read_get(front *f, const request *rq) {
  const Dcf__Db__V1__Get *op = rq->op->get;
  if (!front_path_ok(f, rq, op->path)) return;
  if (f->now < f->cold_until) {
    get_in_worker(f, rq, FIRST_GUESS);
    return;
  }
  service *s = f->s;
  pb_reply reply;
  service_reply(s, &reply, rq->id);
  sdb_info info;
  size_t size = 0;
  int rc;
  if (is_part(op)) {
    /* One byte more than fits here shows that there is more, without a second look at another state. */
    size_t want = op->length > 0 && op->length <= INLINE_READ ? (size_t)op->length : INLINE_READ + 1;
    rc = s->store.get_range(s->store.ctx, op->path.data, op->path.len, op->version, op->offset, f->scratch, want, &size, &info);
    if (rc == SDB_OK && size > INLINE_READ) {
      size_t part = op->length > 0 && op->length < MAX_BODY ? (size_t)op->length : MAX_BODY;
      get_in_worker(f, rq, part);
      return;
    }
  } else {
    rc = s->store.get(s->store.ctx, op->path.data, op->path.len, op->version, f->scratch, INLINE_READ, &size, &info);
    if (rc == SDB_SMALL_BUFFER) {
      get_in_worker(f, rq, size <= MAX_BODY ? size : FIRST_GUESS);
      return;
    }
  }
  if (rc != SDB_OK) {
    fail_store(f, rq, rc);
    return;
  }
  zmq_msg_t body;
  if (!make_body(f, rq, size, &body)) return;
  pb_info out;
  info_fill(&out, &info);
  reply.info = &out;
  reply.has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
  reply.body_digest = is_part(op) ? sdb_crc32c(0, f->scratch, size) : info.digest;
  front_reply(f, rq->client, rq->envelope, &reply, &body);
}

static void reply_too_large(service *s, task *t) {
  pb_reply reply;
  char text[SENTENCE_BYTES];
  pb_info out;
  sdb_info info;
  int rc = s->store.stat(s->store.ctx, t->path, t->path_len, t->version, &info);
  if (rc != SDB_OK) {
    task_fail_store(s, t, rc);
    return;
  }
  service_reply(s, &reply, t->id);
  reply_error(&reply, CODE(TOO_LARGE), not_in_a_reply, text);
  info_fill(&out, &info);
  reply.info = &out;
  task_reply(s, t, &reply);
}

static void reply_content(service *s, task *t, pb_reply *reply, const sdb_info *info, block *b, size_t size, uint32_t digest) {
  pb_info out;
  info_fill(&out, info);
  reply->info = &out;
  reply->has_body_digest_case = DCF__DB__V1__REPLY__HAS_BODY_DIGEST_BODY_DIGEST;
  reply->body_digest = digest;
  t->has_content = block_to_message(b, size, &t->content);
  if (t->has_content) {
    task_reply(s, t, reply);
  } else {
    task_fail_store(s, t, SDB_NO_MEMORY);
  }
}

static void get_whole(service *s, task *t, pb_reply *reply) {
  size_t cap = t->reserved;
  for (int i = 0; i < READ_TRIES; i++) {
    block *b = task_block(t, cap);
    if (!b) {
      task_fail_store(s, t, SDB_NO_MEMORY);
      return;
    }
    size_t size = 0;
    sdb_info info;
    int rc = s->store.get(s->store.ctx, t->path, t->path_len, t->version, b->data, cap, &size, &info);
    if (rc == SDB_OK) {
      reply_content(s, t, reply, &info, b, size, info.digest);
      return;
    }
    block_free(b);
    if (rc != SDB_SMALL_BUFFER) {
      task_fail_store(s, t, rc);
      return;
    }
    if (size > MAX_BODY) {
      reply_too_large(s, t);
      return;
    }
    cap = size;
  }
  task_fail(s, t, CODE(BUSY), "the document kept growing while it was read");
}

static void get_part(service *s, task *t, pb_reply *reply) {
  size_t cap = t->length > 0 && t->length <= MAX_BODY ? (size_t)t->length : MAX_BODY + 1;
  block *b = task_block(t, cap);
  if (!b) {
    task_fail_store(s, t, SDB_NO_MEMORY);
    return;
  }
  size_t size = 0;
  sdb_info info;
  int rc = s->store.get_range(s->store.ctx, t->path, t->path_len, t->version, t->offset, b->data, cap, &size, &info);
  if (rc == SDB_OK && size <= MAX_BODY) {
    reply_content(s, t, reply, &info, b, size, sdb_crc32c(0, b->data, size));
    return;
  }
  block_free(b);
  if (rc == SDB_OK) {
    reply_too_large(s, t);
  } else {
    task_fail_store(s, t, rc);
  }
}

static void get_run(service *s, task *t) {
  if (!task_expired(s, t)) {
    pb_reply reply;
    service_reply(s, &reply, t->id);
    if (t->offset != 0 || t->length != 0) {
      get_part(s, t, &reply);
    } else {
      get_whole(s, t, &reply);
    }
  }
  task_return(s, t);
}

/* --- Stat, versions ----------------------------------------------------------------------------------------------------------- */

static void stat_run(service *s, task *t) {
  if (!task_expired(s, t)) {
    pb_reply reply;
    pb_info out;
    sdb_info info;
    service_reply(s, &reply, t->id);
    int rc = s->store.stat(s->store.ctx, t->path, t->path_len, t->version, &info);
    if (rc == SDB_OK) {
      info_fill(&out, &info);
      reply.info = &out;
      task_reply(s, t, &reply);
    } else {
      task_fail_store(s, t, rc);
    }
  }
  task_return(s, t);
}

void read_stat(front *f, const request *rq) {
  const Dcf__Db__V1__Stat *op = rq->op->stat;
  if (!front_path_ok(f, rq, op->path)) return;
  if (f->now < f->cold_until) {
    task *t = job_new(f, rq, op->path, (pb_bytes){0}, 0, stat_run);
    if (!t) return;
    t->version = op->version;
    submit(f, t);
    return;
  }
  service *s = f->s;
  pb_reply reply;
  service_reply(s, &reply, rq->id);
  sdb_info info;
  int rc = s->store.stat(s->store.ctx, op->path.data, op->path.len, op->version, &info);
  if (rc != SDB_OK) {
    fail_store(f, rq, rc);
    return;
  }
  pb_info out;
  info_fill(&out, &info);
  reply.info = &out;
  front_reply(f, rq->client, rq->envelope, &reply, NULL);
}

/* Each version stands at a place of its own. */
static void versions_run(service *s, task *t) {
  sdb_info infos[MAX_VERSIONS];
  size_t count = 0;
  pb_reply reply;
  service_reply(s, &reply, t->id);
  int rc = s->store.versions(s->store.ctx, t->path, t->path_len, infos, MAX_VERSIONS, &count);
  if (rc != SDB_OK) {
    task_fail_store(s, t, rc);
    return;
  }
  if (count > MAX_VERSIONS) count = MAX_VERSIONS;
  pb_info out[MAX_VERSIONS];
  pb_entry entries[MAX_VERSIONS];
  pb_entry *pointers[MAX_VERSIONS];
  for (size_t i = 0; i < count; i++) {
    info_fill(&out[i], &infos[i]);
    dcf__db__v1__entry__init(&entries[i]);
    entries[i].info = &out[i];
    pointers[i] = &entries[i];
  }
  reply.n_entries = count;
  reply.entries = pointers;
  reply.last = true;
  task_reply(s, t, &reply);
}

static void versions_job(service *s, task *t) {
  if (!task_expired(s, t)) versions_run(s, t);
  task_return(s, t);
}

void read_versions(front *f, const request *rq) {
  const Dcf__Db__V1__Versions *op = rq->op->versions;
  if (!front_path_ok(f, rq, op->path)) return;
  task *t = job_new(f, rq, op->path, (pb_bytes){0}, (size_t)MAX_VERSIONS * ENTRY_OVERHEAD, versions_job);
  if (t) submit(f, t);
}

/* --- Search ------------------------------------------------------------------------------------------------------------------- */

/* A page under construction. Paths are copied one behind the other, and found again by offset because the memory may move. */
typedef struct page {
  sdb_info *infos;
  uint32_t *ends; /* where the path of each entry ends in `paths` */
  size_t count, room;
  uint8_t *paths;
  size_t path_bytes, path_room;
  size_t packed; /* about */
  bool complete;
} page;

static void page_free(page *p) {
  free(p->infos);
  free(p->ends);
  free(p->paths);
}

static bool page_grow(page *p, size_t path_len) {
  if (p->count == p->room) {
    size_t room = p->room ? p->room * 2 : 64;
    sdb_info *infos = realloc(p->infos, room * sizeof *infos);
    if (infos) p->infos = infos;
    uint32_t *ends = infos ? realloc(p->ends, room * sizeof *ends) : NULL;
    if (!ends) return false;
    p->ends = ends;
    p->room = room;
  }
  if (p->path_room - p->path_bytes < path_len) {
    size_t room = p->path_room * 2 + path_len + 1024;
    uint8_t *paths = realloc(p->paths, room);
    if (!paths) return false;
    p->paths = paths;
    p->path_room = room;
  }
  return true;
}

static int page_read(service *s, const task *t, store_cursor *cursor, page *p) {
  for (;;) {
    sdb_entry entry;
    int rc = s->store.cursor_next(cursor, &entry);
    if (rc == SDB_END) {
      p->complete = true;
      return SDB_OK;
    }
    if (rc != SDB_OK) return rc;
    size_t bytes = entry.path_len + ENTRY_OVERHEAD;
    if (p->count == t->limit || p->packed + bytes > MAX_PAGE_BYTES) return SDB_OK;
    if (!page_grow(p, entry.path_len)) return SDB_NO_MEMORY;
    memcpy(p->paths + p->path_bytes, entry.path, entry.path_len);
    p->path_bytes += entry.path_len;
    p->ends[p->count] = (uint32_t)p->path_bytes;
    p->infos[p->count] = entry.info;
    p->count++;
    p->packed += bytes;
  }
}

static void page_reply(service *s, task *t, pb_reply *reply, const page *p) {
  struct packing {
    pb_entry entry;
    pb_info info;
  } *packing = calloc(p->count ? p->count : 1, sizeof *packing);
  pb_entry **pointers = calloc(p->count ? p->count : 1, sizeof *pointers);
  if (!packing || !pointers) {
    task_fail_store(s, t, SDB_NO_MEMORY);
  } else {
    size_t begin = 0;
    for (size_t i = 0; i < p->count; i++) {
      pb_entry *e = &packing[i].entry;
      dcf__db__v1__entry__init(e);
      e->path = (pb_bytes){.len = p->ends[i] - begin, .data = p->paths + begin};
      begin = p->ends[i];
      if (t->infos) {
        info_fill(&packing[i].info, &p->infos[i]);
        e->info = &packing[i].info;
      }
      pointers[i] = e;
    }
    reply->entries = pointers;
    reply->n_entries = p->count;
    reply->last = p->complete;
    task_reply(s, t, reply);
  }
  free(packing);
  free(pointers);
}

static void search_run(service *s, task *t) {
  if (!task_expired(s, t)) {
    pb_reply reply;
    service_reply(s, &reply, t->id);
    page p = {0};
    store_cursor *cursor;
    int rc = s->store.cursor_open(s->store.ctx, t->path, t->path_len, t->path + t->path_len, t->after_len, t->infos, &cursor);
    if (rc == SDB_OK) {
      rc = page_read(s, t, cursor, &p);
      s->store.cursor_close(cursor);
    }
    if (rc == SDB_OK) {
      page_reply(s, t, &reply, &p);
    } else {
      task_fail_store(s, t, rc);
    }
    page_free(&p);
  }
  task_return(s, t);
}

void read_search(front *f, const request *rq) {
  const Dcf__Db__V1__Search *op = rq->op->search;
  if (op->prefix.len > SDB_MAX_PATH || op->after.len > SDB_MAX_PATH) {
    front_fail(f, rq, CODE(INVALID), "prefix and after have at most 1,024 bytes");
    return;
  }
  if (op->limit > MAX_SEARCH_LIMIT) {
    front_fail(f, rq, CODE(INVALID), "the limit of a search is at most 10,000");
    return;
  }
  uint32_t limit = op->limit ? op->limit : SEARCH_LIMIT;
  size_t bytes = (size_t)limit * (SDB_MAX_PATH + ENTRY_OVERHEAD);
  if (bytes > MAX_PAGE_BYTES) bytes = MAX_PAGE_BYTES;
  task *t = job_new(f, rq, op->prefix, op->after, bytes, search_run);
  if (!t) return;
  t->limit = limit;
  t->infos = op->infos;
  submit(f, t);
}

/* --- Statistics --------------------------------------------------------------------------------------------------------------- */

#define MAX_FIGURES 128u

typedef struct figures {
  size_t count;
  pb_figure all[MAX_FIGURES];
  pb_figure *pointers[MAX_FIGURES];
  char names[MAX_FIGURES][40];
} figures;

static void tell(void *user, const char *name, uint64_t value) {
  figures *all = user;
  if (all->count == MAX_FIGURES) return;
  pb_figure *one = &all->all[all->count];
  char *copy = all->names[all->count];
  dcf__db__v1__reply__statistics_entry__init(one);
  snprintf(copy, sizeof all->names[0], "%s", name);
  one->key = copy;
  one->value = value;
  all->pointers[all->count++] = one;
}

static void statistics_run(service *s, task *t) {
  figures *all = calloc(1, sizeof *all);
  int rc = all ? s->store.statistics(s->store.ctx, tell, all) : SDB_NO_MEMORY;
  if (rc != SDB_OK) {
    task_fail_store(s, t, rc);
  } else {
    const counters *c = &s->counters;
#define X(name, what) tell(all, "service_" #name, count_now(&c->name));
    COUNTERS(X)
#undef X
    pb_reply reply;
    service_reply(s, &reply, t->id);
    reply.server = s->name;
    reply.statistics = all->pointers;
    reply.n_statistics = all->count;
    task_reply(s, t, &reply);
  }
  free(all);
  task_return(s, t);
}

void read_statistics(front *f, const request *rq) {
  task *t = job_new(f, rq, (pb_bytes){0}, (pb_bytes){0}, 0, statistics_run);
  if (t) submit(f, t);
}
