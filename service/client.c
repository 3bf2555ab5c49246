/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* client.c - a chained hash table. A peer may choose its routing id, so the hash is seeded. */
#include "client.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "bounds.h"
#include "task.h"

#define BUCKETS_AT_START 256u

bool client_table_init(client_table *t, _Atomic uint64_t *bytes_out) {
  *t = (client_table){.mask = BUCKETS_AT_START - 1, .bytes_out = bytes_out};
  t->buckets = calloc(BUCKETS_AT_START, sizeof(client *));
  return t->buckets && getrandom(&t->seed, sizeof t->seed, 0) == (ssize_t)sizeof t->seed;
}

static void client_free(client *c) {
  for (node *n; (n = list_take(&c->parked)) != NULL;) task_free(task_of(n));
  flow_unref(c->flow);
  free(c);
}

void client_table_free(client_table *t) {
  for (client *c = t->all, *next; c; c = next) {
    next = c->next_all;
    client_free(c);
  }
  free(t->buckets);
  *t = (client_table){0};
}

static uint64_t hash_id(uint64_t seed, const uint8_t *id, size_t len) {
  uint64_t h = seed ^ len;
  for (size_t i = 0; i < len; i++) {
    h = (h ^ id[i]) * UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 29;
  }
  return h;
}

static bool same(const client *c, const void *id, size_t len) { return c->id_len == len && memcmp(c->id, id, len) == 0; }

/* Doubling is best effort: without memory the chains grow longer. */
static void grow(client_table *t) {
  size_t size = (t->mask + 1) * 2;
  client **buckets = calloc(size, sizeof(client *));
  if (!buckets) return;
  for (client *c = t->all; c; c = c->next_all) {
    client **bucket = &buckets[c->hash & (size - 1)];
    c->next = *bucket;
    *bucket = c;
  }
  free(t->buckets);
  t->buckets = buckets;
  t->mask = size - 1;
}

static client *client_new(client_table *t, const void *id, size_t len, uint64_t hash) {
  if (t->count >= MAX_CLIENTS || len > UINT8_MAX) return NULL;
  client *c = malloc(sizeof *c + len);
  if (!c) return NULL;
  *c = (client){.hash = hash, .id_len = (uint8_t)len, .flow = flow_new(t->bytes_out)};
  if (!c->flow) {
    free(c);
    return NULL;
  }
  memcpy(c->id, id, len);
  if (t->count > t->mask) grow(t);
  client **bucket = &t->buckets[hash & t->mask];
  c->next = *bucket;
  *bucket = c;
  c->next_all = t->all;
  if (t->all) t->all->prev_all = c;
  t->all = c;
  t->count++;
  return c;
}

client *client_get(client_table *t, const void *id, size_t len) {
  if (t->last && same(t->last, id, len)) return t->last;
  uint64_t hash = hash_id(t->seed, id, len);
  client *c = t->buckets[hash & t->mask];
  while (c && !same(c, id, len)) c = c->next;
  if (!c) c = client_new(t, id, len, hash);
  if (c) t->last = c;
  return c;
}

bool client_idle(const client *c) {
  return c->tasks == 0 && c->streams == 0 && c->uploads == 0 && c->parked.count == 0 && !c->in_parked_list;
}

void client_forget(client_table *t, client *c) {
  client **link = &t->buckets[c->hash & t->mask];
  while (*link != c) link = &(*link)->next;
  *link = c->next;
  if (c->prev_all) {
    c->prev_all->next_all = c->next_all;
  } else {
    t->all = c->next_all;
  }
  if (c->next_all) c->next_all->prev_all = c->prev_all;
  if (t->last == c) t->last = NULL;
  t->count--;
  client_free(c);
}
