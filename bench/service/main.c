/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* main.c - bench-service: streamdbd beside an echo of the same messages, Redis, and the bare device.
 *
 * One client, everything on the loopback. The database is filled through the engine, which also tells what a get costs without the
 * wire (E2); then service, echo program and Redis stand side by side and take turns.
 */
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../engine/store.h"
#include "peer.h"
#include "wire.h"

#define SIZE ((size_t)1024)
#define STREAM_SIZE ((size_t)256 << 20)
#define FLIGHT 256u
#define GETS 200000u
#define GETS_ALONE 5000u
#define INSERTS 50000u
#define INSERTS_ALONE 2000u

typedef struct contest {
  uint64_t documents;
  unsigned rounds;
  const char *dir, *service, *only;
  report report;
  rng random;
  uint64_t fresh; /* the next document that nobody has */
  wire sdb, echo;
  process sdb_process, echo_process;
  redis redis;
  series get_alone_seconds; /* E2: of a get without the wire */
  char files[512], redis_files[512], floor_files[512];
} contest;

static bool wants(const contest *c, const char *id) { return !c->only || strstr(c->only, id); }

/* --- Preparation -------------------------------------------------------------------------------------------------------------- */

static void fill(contest *c) {
  path p;
  uint32_t *order = shuffled((uint32_t)c->documents, 7);
  uint8_t *buf = need(SIZE);
  void *store = store_sdb.open(c->files);
  for (uint64_t i = 0; i < c->documents; i++) {
    path_document(&p, order[i]);
    store_sdb.put(store, &p, content_of(order[i], SIZE), SIZE, false);
  }
  store_sdb.checkpoint(store);
  free(order);
  path *paths = need(GETS * sizeof *paths);
  for (unsigned round = 0; round < c->rounds + 1; round++) {
    for (unsigned i = 0; i < GETS; i++) path_document(&paths[i], rng_below(&c->random, c->documents));
    double begin = now();
    for (unsigned i = 0; i < GETS; i++) {
      if (store_sdb.get(store, &paths[i], buf, SIZE) != SIZE) die("a document is missing");
    }
    if (round) series_add(&c->get_alone_seconds, (now() - begin) / GETS);
  }
  store_sdb.close(store);
  free(paths);
  free(buf);
}

static void start_all(contest *c) {
  char endpoint[256], database[600], cache[16];
  snprintf(database, sizeof database, "%s/documents.sdb", c->files);
  snprintf(cache, sizeof cache, "%u", CACHE_PAGES);
  const char *service[] = {
      c->service,          "--database", database,  "--listen", "tcp://127.0.0.1:*", "--events", "tcp://127.0.0.1:*",
      "--page-cache-size", cache,        "--quiet", NULL};
  c->sdb_process = process_start(service, endpoint, sizeof endpoint);
  wire_open(&c->sdb, endpoint);
  wire_wait(&c->sdb);
  const char *echo[] = {"/proc/self/exe", "--echo", NULL};
  c->echo_process = process_start(echo, endpoint, sizeof endpoint);
  wire_open(&c->echo, endpoint);
  wire_wait(&c->echo);
  redis_start(&c->redis, c->redis_files, c->documents, SIZE);
}

static void stop_all(contest *c) {
  wire_close(&c->sdb);
  wire_close(&c->echo);
  process_stop(&c->sdb_process);
  process_stop(&c->echo_process);
  redis_stop(&c->redis);
}

/* --- Works -------------------------------------------------------------------------------------------------------------------- */

static series rates(const series *seconds) {
  series r = *seconds;
  for (unsigned i = 0; i < r.count; i++) r.value[i] = 1 / r.value[i];
  return r;
}

typedef struct turns {
  series sdb, echo, redis; /* seconds a request */
} turns;

static turns take_turns(contest *c, bool inserts, uint64_t count, unsigned flight) {
  turns t = {0};
  for (unsigned round = 0; round < c->rounds + 1; round++) {
    double sdb, echo, other = 0;
    if (inserts) {
      sdb = wire_inserts(&c->sdb, c->fresh, SIZE, count, flight);
      echo = wire_inserts(&c->echo, c->fresh, SIZE, count, flight);
      if (c->redis.connection) other = redis_sets(&c->redis, c->fresh, SIZE, count, flight);
      c->fresh += count;
    } else {
      sdb = wire_gets(&c->sdb, &c->random, c->documents, SIZE, count, flight);
      echo = wire_gets(&c->echo, &c->random, c->documents, SIZE, count, flight);
      if (c->redis.connection) other = redis_gets(&c->redis, &c->random, c->documents, SIZE, count, flight);
    }
    if (!round) continue; /* the first one only warms up */
    series_add(&t.sdb, sdb / (double)count);
    series_add(&t.echo, echo / (double)count);
    if (other > 0) series_add(&t.redis, other / (double)count);
  }
  return t;
}

static void gets_in_flight(contest *c) {
  turns t = take_turns(c, false, GETS, FLIGHT);
  series sdb = rates(&t.sdb), echo = rates(&t.echo), other = rates(&t.redis);
  double allowed = series_quantile(&t.echo, 0.5) + 1.5 * series_quantile(&c->get_alone_seconds, 0.5);
  char target[128], least[64];
  snprintf(target, sizeof target, "echo's time plus 1.5x E2: %s", figure(least, sizeof least, UNIT_RATE, 1 / allowed));
  report_row(&c->report, &(struct row){.id = "S1",
                                       .work = "get, 1 KB, 256 in flight",
                                       .unit = UNIT_RATE,
                                       .ours = &sdb,
                                       .peers = {{"echo", &echo}, {"Redis", &other}},
                                       .peer_count = 2,
                                       .kind = LIMIT_ABSOLUTE,
                                       .limit = 1 / allowed,
                                       .target = target});
}

static void gets_alone(contest *c) {
  turns t = take_turns(c, false, GETS_ALONE, 1);
  report_row(&c->report, &(struct row){.id = "S2",
                                       .work = "get, 1 KB, one at a time",
                                       .unit = UNIT_TIME,
                                       .ours = &t.sdb,
                                       .peers = {{"echo", &t.echo}, {"Redis", &t.redis}},
                                       .peer_count = 2,
                                       .kind = LIMIT_COST,
                                       .limit = 1.2,
                                       .target = "at most 1.2x the echo"});
}

static void inserts_in_flight(contest *c) {
  turns t = take_turns(c, true, INSERTS, FLIGHT);
  series sdb = rates(&t.sdb), echo = rates(&t.echo), other = rates(&t.redis);
  report_row(&c->report, &(struct row){.id = "S3",
                                       .work = "durable insert, 1 KB, 256 in flight",
                                       .unit = UNIT_RATE,
                                       .ours = &sdb,
                                       .peers = {{"Redis always", &other}, {"echo", &echo}},
                                       .peer_count = 2,
                                       .kind = LIMIT_SPEED,
                                       .limit = 3,
                                       .target = "3x Redis always"});
}

static void inserts_alone(contest *c) {
  turns t = take_turns(c, true, INSERTS_ALONE, 1);
  series floor = {0};
  path p;
  path_document(&p, 0);
  void *store = store_floor.open(c->floor_files);
  for (unsigned round = 0; round < c->rounds; round++) {
    double begin = now();
    for (unsigned i = 0; i < INSERTS_ALONE; i++) store_floor.put(store, &p, content_of(i, SIZE), SIZE, true);
    series_add(&floor, (now() - begin) / INSERTS_ALONE);
  }
  store_floor.close(store);
  double allowed = series_quantile(&t.echo, 0.5) + series_quantile(&floor, 0.5) + 80e-6;
  char target[128], most[64];
  snprintf(target, sizeof target, "echo plus one write and sync plus 80 us: %s", figure(most, sizeof most, UNIT_TIME, allowed));
  report_row(&c->report, &(struct row){.id = "S4",
                                       .work = "durable insert, 1 KB, one at a time",
                                       .unit = UNIT_TIME,
                                       .ours = &t.sdb,
                                       .peers = {{"echo", &t.echo}, {"one write and sync", &floor}, {"Redis always", &t.redis}},
                                       .peer_count = 3,
                                       .kind = LIMIT_ABSOLUTE,
                                       .limit = allowed,
                                       .target = target});
}

static void streams(contest *c) {
  series in = {0}, raw = {0}, out = {0}, echo = {0};
  path p;
  path_document(&p, 0);
  void *store = store_floor.open(c->floor_files);
  for (unsigned round = 0; round < c->rounds; round++) {
    series_add(&in, (double)STREAM_SIZE / wire_stream_in(&c->sdb, STREAM_SIZE));
    double begin = now();
    store_floor.write_large(store, &p, content_of(0, STREAM_SIZE), STREAM_SIZE);
    series_add(&raw, (double)STREAM_SIZE / (now() - begin));
    series_add(&out, (double)STREAM_SIZE / wire_stream_out(&c->sdb, STREAM_SIZE));
    series_add(&echo, (double)STREAM_SIZE / wire_stream_out(&c->echo, STREAM_SIZE));
  }
  store_floor.close(store);
  report_row(&c->report, &(struct row){.id = "S5",
                                       .work = "stream a 256 MB document out, chunks of 1 MB",
                                       .unit = UNIT_THROUGHPUT,
                                       .ours = &out,
                                       .peers = {{"echo", &echo}},
                                       .peer_count = 1,
                                       .kind = LIMIT_SPEED,
                                       .limit = 0.8,
                                       .target = "0.8x the echo"});
  report_row(&c->report, &(struct row){.id = "S6",
                                       .work = "stream a 256 MB document in, durable",
                                       .unit = UNIT_THROUGHPUT,
                                       .ours = &in,
                                       .peers = {{"raw write and sync", &raw}},
                                       .peer_count = 1,
                                       .kind = LIMIT_SPEED,
                                       .limit = 0.7,
                                       .target = "0.7x a raw write and fdatasync"});
}

/* --- The whole ---------------------------------------------------------------------------------------------------------------- */

static void run(contest *c) {
  snprintf(c->files, sizeof c->files, "%s/service-sdb", c->dir);
  snprintf(c->redis_files, sizeof c->redis_files, "%s/service-redis", c->dir);
  snprintf(c->floor_files, sizeof c->floor_files, "%s/service-floor", c->dir);
  const char *const dirs[] = {c->files, c->redis_files, c->floor_files};
  directory_make(c->dir);
  for (unsigned i = 0; i < 3; i++) {
    directory_remove(dirs[i]);
    directory_make(dirs[i]);
  }
  c->fresh = c->documents;
  fill(c);
  start_all(c);
  report_print(&c->report, "# StreamDB's service beside others\n\n%llu documents of 1 KB, %u rounds, one client, tcp loopback.\n\n",
               (unsigned long long)c->documents, c->rounds);
  report_machine(&c->report, c->dir);
  report_head(&c->report);
  report_row(&c->report, &(struct row){.id = "E2",
                                       .work = "random get, 1 KB, without the wire",
                                       .unit = UNIT_TIME,
                                       .ours = &c->get_alone_seconds,
                                       .target = "-"});
  if (wants(c, "S1")) gets_in_flight(c);
  if (wants(c, "S2")) gets_alone(c);
  if (wants(c, "S3")) inserts_in_flight(c);
  if (wants(c, "S4")) inserts_alone(c);
  if (wants(c, "S5") || wants(c, "S6")) streams(c);
  stop_all(c);
  for (unsigned i = 0; i < 3; i++) directory_remove(dirs[i]);
}

static void usage(FILE *out) {
  fprintf(
      out,
      "usage: bench-service --service FILE [--documents N] [--rounds N] [--quick] [--only S1,S3,...] [--dir DIR] [--report FILE]\n"
      "  --service FILE  the streamdbd to measure\n"
      "  --documents N   documents it serves (1,000,000)\n"
      "  --rounds N      rounds of each work (9)\n"
      "  --quick         100,000 documents and 3 rounds\n"
      "  --only LIST     only these numbers\n"
      "  --dir DIR       where the databases are put, on a real device (./bench-work); what it makes there it removes\n"
      "  --report FILE   write the report there as well\n");
}

static uint64_t number(const char *text, uint64_t most) {
  char *end;
  uint64_t value = strtoull(text, &end, 10);
  if (end == text || *end || !value || value > most) die("%s is not a number from 1 to %llu", text, (unsigned long long)most);
  return value;
}

int main(int argc, char **argv) {
  static const struct option options[] = {{"service", required_argument, NULL, 's'},
                                          {"documents", required_argument, NULL, 'n'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"quick", no_argument, NULL, 'q'},
                                          {"only", required_argument, NULL, 'o'},
                                          {"dir", required_argument, NULL, 'd'},
                                          {"report", required_argument, NULL, 'w'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
  content_init(STREAM_SIZE);
  if (argc == 2 && !strcmp(argv[1], "--echo")) {
    echo_main(SIZE, STREAM_SIZE);
    return 1;
  }
  contest c = {.documents = 1000000, .rounds = 9, .dir = "bench-work", .random = {.state = 42}, .report = {.out = {stdout, NULL}}};
  for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    switch (o) {
      case 's': c.service = optarg; break;
      case 'n': c.documents = number(optarg, 90000000); break;
      case 'r': c.rounds = (unsigned)number(optarg, SERIES_MAX); break;
      case 'q': c.documents = 100000, c.rounds = 3; break;
      case 'o': c.only = optarg; break;
      case 'd': c.dir = optarg; break;
      case 'w':
        c.report.out[1] = fopen(optarg, "we");
        if (!c.report.out[1]) die("cannot write %s", optarg);
        break;
      case 'h': usage(stdout); return 0;
      default: usage(stderr); return 2;
    }
  }
  if (!c.service) {
    usage(stderr);
    return 2;
  }
  run(&c);
  if (c.report.out[1]) fclose(c.report.out[1]);
  return 0;
}
