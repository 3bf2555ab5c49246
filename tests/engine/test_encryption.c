/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* test_encryption.c - nothing readable reaches the storage, no nonce is used twice, no unit can stand in for another, and keys: the
 * wrong one, a change of it cut short at every call, the recovery copy. What the model, crash, damage and fault tests do, they do
 * on encrypted databases too.
 *
 * Environment: SDB_SEED, SDB_SEEDS (seed.h).
 */
#include <check.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cipher.h"
#include "codec.h"
#include "sdb/care.h"
#include "seed.h"
#include "workload.h"

#define NAME "secret.sdb"
#define PAGE 4096u

static const uint8_t key_a[SDB_KEY_SIZE] = "first key, thirty-two bytes long";
static const uint8_t key_b[SDB_KEY_SIZE] = "other key, thirty-two bytes long";

static bool have_aes(void) { return sodium_init() >= 0 && crypto_aead_aes256gcm_is_available(); }

static sdb_options options_on(const sim *device, const uint8_t *key) {
  sdb_options o;
  sdb_options_init(&o);
  o.storage = sim_storage(device);
  o.threads = false;
  o.use_mmap = false;
  o.page_size = PAGE;
  o.page_cache_size = 64;
  o.wal_segment_size = 65536;
  o.checkpoint_wal_bytes = 65536;
  o.change_log_bytes = 0;
  o.encryption_key = key;
  return o;
}

static sdb *open_with(const sdb_options *options) {
  char message[256] = "";
  sdb_options o = *options;
  sdb *db;
  o.message = message;
  o.message_size = sizeof message;
  int code = sdb_open(NAME, &o, &db);
  ck_assert_msg(code == SDB_OK, "open: %s (%s)", sdb_strerror(code), message);
  return db;
}

static void must(sdb *db, int code, const char *call) {
  if (code == SDB_OK) return;
  char message[256];
  sdb_message(db, message, sizeof message);
  ck_abort_msg("%s: %s (%s)", call, sdb_strerror(code), message);
}

/* A power cut: nothing is synced any more, and what was synced is there. */
static void cut_power(sim *device, sdb *db) {
  sim_die_at(device, 1);
  sdb_close(db);
  sim_crash(device, SIM_DROP_ALL, 1);
}

/* --- Nothing readable (I9) ---------------------------------------------------------------------------------------------------- */

/* The second: as the suffix tree has it. */
static const char *const secrets[] = {"HIDDENPATH", "HTAPNEDDIH", "HIDDENCONTENT", "HIDDENTYPE", "HIDDENMETADATA", "HIDDENNAME"};
enum { SECRETS = sizeof secrets / sizeof *secrets };

static unsigned found[SECRETS];

static void look_for_secrets(void *user, const sim_event *event) {
  (void)user;
  if (!event->data) return;
  for (int i = 0; i < SECRETS; i++) {
    if (memmem(event->data, event->len, secrets[i], strlen(secrets[i]))) found[i]++;
  }
}

static size_t secret_path(unsigned i, char *path, size_t size) {
  return (size_t)snprintf(path, size, "/HIDDENPATH/%u/HIDDENPATH", i);
}

static void secret_content(uint8_t *content, size_t len, unsigned i) {
  static const char word[] = "HIDDENCONTENT ";
  for (size_t at = 0; at < len; at++) content[at] = i % 3 ? (uint8_t)word[at % 14] : (uint8_t)(word[at % 14] + (at / 14 % 5 == 4));
}

static void secret_work(sdb *db) {
  static uint8_t content[200000];
  char path[64];
  sdb_put_options o;
  sdb_put_options_init(&o);
  for (unsigned i = 0; i < 150; i++) {
    size_t path_len = secret_path(i % 60, path, sizeof path);
    size_t len = i % 10 == 3 ? 150000 : i % 10 == 6 ? 5000 : 20 + 7 * (size_t)i;
    o.durability = i % 4 ? SDB_NONE : SDB_DURABLE;
    secret_content(content, len, i);
    o.content_type = "text/HIDDENTYPE";
    o.metadata = "HIDDENMETADATA";
    o.metadata_len = 14;
    must(db, sdb_put(db, path, path_len, content, len, &o, NULL), "put");
    if (i % 23 == 1) {
      char name[32];
      int name_len = snprintf(name, sizeof name, "/HIDDENNAME/%u", i);
      int code = sdb_bind(db, path, path_len, name, (size_t)name_len, NULL, NULL);
      ck_assert(code == SDB_OK || code == SDB_CONFLICT);
      if (i % 2) must(db, sdb_restore_version(db, path, path_len, SDB_CURRENT, NULL, NULL), "restore");
    }
    if (i % 17 == 0) must(db, sdb_delete(db, path, path_len, &o, NULL), "delete");
    if (i % 20 == 0) {
      sdb_writer *w;
      must(db, sdb_writer_open(db, path, path_len, SDB_UNKNOWN_SIZE, NULL, &w), "writer");
      for (int k = 0; k < 30; k++) must(db, sdb_writer_write(w, content, 60000), "write");
      if (i % 40 == 0) sdb_writer_abort(w);
      else must(db, sdb_writer_commit(w, NULL), "commit");
    }
    if (i % 50 == 49) must(db, sdb_checkpoint(db), "checkpoint");
  }
}

static void run_secret_work(const uint8_t *key, sdb_cipher kind, bool compress) {
  sim *device = sim_new(7);
  sdb_options o = options_on(device, key);
  o.cipher = kind;
  o.use_compression = compress;
  memset(found, 0, sizeof found);
  sim_watch(device, look_for_secrets, NULL);
  sdb *db = open_with(&o);
  secret_work(db);
  cut_power(device, db); /* recovery writes what the log holds once more */
  db = open_with(&o);
  secret_work(db);
  sdb_check_report report = {.size = sizeof report};
  must(db, sdb_check(db, NULL, NULL, &report), "check");
  ck_assert_uint_eq(report.problems, 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}

START_TEST(test_nothing_readable) {
  bool compress = _i % 2;
  run_secret_work(NULL, SDB_CIPHER_DEFAULT, false);
  for (int i = 0; i < SECRETS; i++) ck_assert_msg(found[i] > 0, "'%s' is not found although it is written in clear", secrets[i]);
  run_secret_work(key_a, SDB_CIPHER_XCHACHA20, compress);
  for (int i = 0; i < SECRETS; i++) ck_assert_msg(found[i] == 0, "'%s' was written %u times", secrets[i], found[i]);
  if (!have_aes()) return;
  run_secret_work(key_a, SDB_CIPHER_AES_GCM, compress);
  for (int i = 0; i < SECRETS; i++) ck_assert_msg(found[i] == 0, "AES: '%s' was written %u times", secrets[i], found[i]);
}
END_TEST

/* --- No nonce twice (I9) ------------------------------------------------------------------------------------------------------ */

/* The linker puts this in front of every use of cipher_seal. */
void __real_cipher_seal(const cipher *c, const identity *id, const uint8_t nonce[CIPHER_NONCE], uint8_t tag[CIPHER_TAG],
                        uint8_t *to, const uint8_t *from, size_t len);
void __wrap_cipher_seal(const cipher *c, const identity *id, const uint8_t nonce[CIPHER_NONCE], uint8_t tag[CIPHER_TAG],
                        uint8_t *to, const uint8_t *from, size_t len);

static struct {
  uint8_t (*pairs)[SDB_KEY_SIZE + CIPHER_NONCE];
  uint32_t *slots; /* index + 1 */
  size_t count, cap;
  unsigned repeated;
} seen;

static void remember(const uint8_t *key, const uint8_t *nonce) {
  enum { SLOTS = 1 << 20 };
  if (!seen.slots) seen.slots = calloc(SLOTS, sizeof *seen.slots);
  if (seen.count == seen.cap) {
    seen.cap = seen.cap ? 2 * seen.cap : 1024;
    seen.pairs = realloc(seen.pairs, seen.cap * sizeof *seen.pairs);
  }
  ck_assert(seen.slots != NULL && seen.pairs != NULL && seen.count < SLOTS / 2);
  uint8_t *pair = seen.pairs[seen.count];
  memcpy(pair, key, SDB_KEY_SIZE);
  memcpy(pair + SDB_KEY_SIZE, nonce, CIPHER_NONCE);
  uint32_t slot = crc32c(0, pair, sizeof *seen.pairs) % SLOTS;
  for (; seen.slots[slot]; slot = (slot + 1) % SLOTS) {
    if (memcmp(seen.pairs[seen.slots[slot] - 1], pair, sizeof *seen.pairs) != 0) continue;
    seen.repeated++;
    return;
  }
  seen.slots[slot] = (uint32_t)++seen.count;
}

void __wrap_cipher_seal(const cipher *c, const identity *id, const uint8_t nonce[CIPHER_NONCE], uint8_t tag[CIPHER_TAG],
                        uint8_t *to, const uint8_t *from, size_t len) {
  remember(c->key, nonce);
  __real_cipher_seal(c, id, nonce, tag, to, from, len);
}

/* Works until the device dies, crashes it, recovers; then goes on with two copies of the same machine. */
static void work_and_copy(uint64_t seed) {
  sim *device = sim_new(seed);
  workload w;
  workload_init(&w, seed, device);
  w.options.encryption_key = key_a;
  ck_assert_msg(workload_open(&w), "%s", w.why);
  for (int round = 0; round < 4; round++) {
    sim_die_at(device, 150 + seed % 100);
    ck_assert_msg(workload_run(&w, 60) && workload_close(&w), "seed %" PRIu64 ": %s", seed, w.why);
    sim_crash(device, SIM_RANDOM_SUBSET, seed + (uint64_t)round);
    ck_assert_msg(workload_recover(&w) && !w.stopped, "seed %" PRIu64 ": %s", seed, w.why);
  }
  sim_die_at(device, 1);
  ck_assert_msg(workload_close(&w), "%s", w.why);
  for (uint64_t copy = 0; copy < 2; copy++) {
    workload twin = w; /* the same file, key and numbers; only what the system's randomness gives is another */
    twin.device = sim_clone(device, 1000 * seed + copy);
    sim_crash(twin.device, SIM_DROP_ALL, 1);
    twin.options.storage = sim_storage(twin.device);
    twin.options.message = twin.message;
    twin.model = model_clone(w.model);
    twin.stopped = false;
    ck_assert_msg(workload_recover(&twin) && workload_run(&twin, 40) && workload_close(&twin), "copy: %s", twin.why);
    workload_clear(&twin);
    sim_free(twin.device);
  }
  workload_clear(&w);
  sim_free(device);
}

START_TEST(test_no_nonce_twice) {
  uint64_t first, count = seed_range("nonces", 12, &first);
  for (uint64_t seed = first; seed < first + count; seed++) work_and_copy(seed);
  printf("nonces: %zu units sealed\n", seen.count);
  ck_assert_uint_gt(seen.count, 1000);
  ck_assert_uint_eq(seen.repeated, 0);
  remember(seen.pairs[5], seen.pairs[5] + SDB_KEY_SIZE); /* a repetition would have been seen */
  ck_assert_uint_eq(seen.repeated, 1);
}
END_TEST

/* --- Units -------------------------------------------------------------------------------------------------------------------- */

static bool opens(const cipher *c, const identity *id, const uint8_t *unit, size_t len) {
  uint8_t out[101]; /* a longer unit is tried as well */
  return cipher_open(c, id, unit, unit + CIPHER_NONCE, out, unit + CIPHER_OVERHEAD, len);
}

static void try_units(sdb_cipher kind) {
  cipher c = {.kind = kind, .database_id = "database", .key = "data key"};
  identity id = {.bytes = "who and where", .len = 13};
  uint8_t plain[100], unit[CIPHER_OVERHEAD + 101] = {0}, out[100];
  for (size_t len = 0; len <= sizeof plain; len += 25) {
    size_t total = CIPHER_OVERHEAD + len;
    model_content(len, 0, plain, sizeof plain);
    model_content(len + 1, 0, unit, CIPHER_NONCE);
    cipher_seal(&c, &id, unit, unit + CIPHER_NONCE, unit + CIPHER_OVERHEAD, plain, len);
    ck_assert(cipher_open(&c, &id, unit, unit + CIPHER_NONCE, out, unit + CIPHER_OVERHEAD, len) && memcmp(out, plain, len) == 0);
    for (size_t i = 0; i < 8 * total; i++) {
      unit[i / 8] ^= (uint8_t)(1u << i % 8);
      ck_assert_msg(!opens(&c, &id, unit, len), "bit %zu of a unit of %zu bytes", i, len);
      unit[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    ck_assert(opens(&c, &id, unit, len) && !opens(&c, &id, unit, len + 1) && (len == 0 || !opens(&c, &id, unit, len - 1)));
    for (size_t i = 0; i < id.len; i++) {
      identity other = id;
      other.bytes[i] ^= 1;
      ck_assert(!opens(&c, &other, unit, len)); /* another unit */
      other = id;
      other.len = i;
      ck_assert(!opens(&c, &other, unit, len));
    }
    cipher other = c;
    other.database_id[0] ^= 1;
    ck_assert(!opens(&other, &id, unit, len));
    other = c;
    other.key[31] ^= 1;
    ck_assert(!opens(&other, &id, unit, len));
  }
}

START_TEST(test_units) {
  ck_assert_int_ge(sodium_init(), 0);
  try_units(SDB_CIPHER_XCHACHA20);
  if (have_aes()) try_units(SDB_CIPHER_AES_GCM);
}
END_TEST

static uint64_t number(const uint8_t *p, unsigned bytes) {
  uint64_t n = 0;
  for (unsigned i = 0; i < bytes; i++) n |= (uint64_t)p[i] << 8 * i;
  return n;
}

/* A page as docs/file-format.md says, section 5, with libsodium alone. */
static bool page_by_the_book(const uint8_t *page, const uint8_t *database_id, const uint8_t *key, sdb_cipher kind, uint8_t *plain) {
  uint8_t data[36];
  memcpy(data, database_id, 16);
  memcpy(data + 16, page + 4, 20);
  const uint8_t *nonce = page + 24, *tag = page + 48;
  if (kind == SDB_CIPHER_XCHACHA20)
    return crypto_aead_xchacha20poly1305_ietf_decrypt_detached(plain, NULL, page + 64, PAGE - 64, tag, data, 36, nonce, key) == 0;
  uint8_t unit_key[32], unit_nonce[12] = {0};
  crypto_core_hchacha20(unit_key, nonce, key, NULL);
  memcpy(unit_nonce, nonce + 16, 8);
  return crypto_aead_aes256gcm_decrypt_detached(plain, NULL, page + 64, PAGE - 64, tag, data, 36, unit_nonce, unit_key) == 0;
}

/* Whether the place holds a page that was written: kind and checksum agree. */
static bool is_page(const uint8_t *page) {
  return page[4] >= 1 && page[4] <= 5 && page[5] == 1 && number(page, 4) == crc32c(0, page + 4, PAGE - 4);
}

START_TEST(test_pages_as_documented) {
  sdb_cipher kind = _i ? SDB_CIPHER_AES_GCM : SDB_CIPHER_XCHACHA20;
  if (_i && !have_aes()) return;
  sim *device = sim_new(3);
  sdb_options o = options_on(device, key_a);
  o.cipher = kind;
  sdb *db = open_with(&o);
  secret_work(db);
  uint8_t key[SDB_KEY_SIZE], page[PAGE], plain[PAGE], slot[PAGE];
  must(db, sdb_key_export(db, key), "export");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  ck_assert(sim_peek(device, NAME, 0, slot, sizeof slot));
  ck_assert_uint_eq(number(slot + 24, 4), 1);
  ck_assert_uint_eq(number(slot + 256 + 72, 4), (uint64_t)kind);
  unsigned pages = 0, readable = 0;
  for (uint64_t at = 128 * PAGE; sim_peek(device, NAME, at, page, PAGE); at += PAGE) {
    if (!is_page(page)) continue;
    pages++;
    ck_assert_msg(page_by_the_book(page, slot + 32, key, kind, plain), "the page at %" PRIu64, at);
    readable += memmem(plain, PAGE - 64, "HIDDEN", 6) != NULL;
  }
  ck_assert_uint_gt(pages, 8);
  ck_assert_uint_gt(readable, 2);
  sim_free(device);
}
END_TEST

/* --- Units changed or exchanged by somebody who knows checksums, but no key --------------------------------------------------- */

enum { DOCUMENTS = 60 };

static uint32_t document_size(unsigned i) { return i % 12 == 5 ? 140000 : 100 + 10 * i; }

static void put_documents(sdb *db) {
  static uint8_t content[140000];
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    model_content(i, 0, content, document_size(i));
    must(db, sdb_put(db, &i, sizeof i, content, document_size(i), NULL, NULL), "put");
  }
}

/* How many documents answer SDB_CORRUPT; nothing else but the right bytes is allowed. */
static unsigned count_corrupt(sdb *db) {
  static uint8_t expected[140000], content[140000];
  unsigned corrupt = 0;
  for (unsigned i = 0; i < DOCUMENTS; i++) {
    size_t size;
    int code = sdb_get(db, &i, sizeof i, SDB_CURRENT, content, sizeof content, &size, NULL);
    ck_assert_msg(code == SDB_OK || code == SDB_CORRUPT, "document %u: %s", i, sdb_strerror(code));
    corrupt += code == SDB_CORRUPT;
    model_content(i, 0, expected, document_size(i));
    if (code == SDB_OK)
      ck_assert_msg(size == document_size(i) && memcmp(content, expected, size) == 0, "document %u: WRONG BYTES", i);
  }
  return corrupt;
}

/* Opens the changed copy: refused as damaged, or every document right or corrupt, and check tells. */
static void judge(sim *device, const char *what, uint64_t at) {
  sdb_options o = options_on(device, key_a);
  sdb_check_report report = {.size = sizeof report};
  sdb *db;
  int code = sdb_open(NAME, &o, &db);
  if (code == SDB_CORRUPT) return;
  ck_assert_msg(code == SDB_OK, "%s at %" PRIu64 ": open: %s", what, at, sdb_strerror(code));
  (void)count_corrupt(db);
  must(db, sdb_check(db, NULL, NULL, &report), "check");
  ck_assert_msg(report.problems > 0, "%s at %" PRIu64 ": nobody noticed", what, at);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
}

static void seal_again(uint8_t *page) {
  uint32_t crc = crc32c(0, page + 4, PAGE - 4);
  for (unsigned i = 0; i < 4; i++) page[i] = (uint8_t)(crc >> 8 * i);
}

static sim *closed_base(void) {
  sim *device = sim_new(5);
  sdb_options o = options_on(device, key_a);
  o.use_compression = false; /* extents are as long as their documents then */
  sdb *db = open_with(&o);
  put_documents(db);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  return device;
}

/* Pages that count: what map and tables reach; the file also holds older ones, which nobody may notice. */
static size_t live_pages(sim *base, uint64_t *offsets, size_t cap) {
  size_t count = 0;
  uint8_t page[PAGE], zeros[PAGE] = {0};
  for (uint64_t at = 128 * PAGE; count < cap && sim_peek(base, NAME, at, page, PAGE); at += PAGE) {
    if (!is_page(page)) continue;
    sim *device = sim_clone(base, 1);
    sdb_options o = options_on(device, key_a);
    o.read_only = true;
    sdb_check_report report = {.size = sizeof report};
    sdb *db;
    ck_assert(sim_poke(device, NAME, at, zeros, PAGE));
    bool live = sdb_open(NAME, &o, &db) != SDB_OK;
    if (!live) {
      must(db, sdb_check(db, NULL, NULL, &report), "check");
      live = report.problems > 0;
      ck_assert_int_eq(sdb_close(db), SDB_OK);
    }
    if (live) offsets[count++] = at;
    sim_free(device);
  }
  return count;
}

START_TEST(test_forged_pages) {
  sim *base = closed_base();
  uint64_t offsets[64], random = 1;
  size_t count = live_pages(base, offsets, 64);
  ck_assert_uint_gt(count, 8);
  for (size_t i = 0; i < count; i++) {
    uint8_t page[PAGE], other[PAGE];
    for (int round = 0; round < 6; round++) { /* a byte of the ciphertext, the tag, the nonce, or of the header's fields */
      static const unsigned borders[] = {64, PAGE, 48, 64, 24, 48, 12, 24, 64, PAGE, 6, 8};
      sim *device = sim_clone(base, 1);
      ck_assert(sim_peek(device, NAME, offsets[i], page, PAGE));
      unsigned from = borders[2 * round], to = borders[2 * round + 1];
      page[from + sim_random(&random) % (to - from)] ^= (uint8_t)(1u << sim_random(&random) % 8);
      seal_again(page);
      ck_assert(sim_poke(device, NAME, offsets[i], page, PAGE));
      judge(device, "a changed page", offsets[i]);
      sim_free(device);
    }
    sim *device = sim_clone(base, 1); /* the bytes of another page, under this one's number */
    ck_assert(sim_peek(device, NAME, offsets[i], page, PAGE));
    ck_assert(sim_peek(device, NAME, offsets[(i + 1) % count], other, PAGE));
    memcpy(other + 4, page + 4, 4), memcpy(other + 8, page + 8, 4);
    seal_again(other);
    ck_assert(sim_poke(device, NAME, offsets[i], other, PAGE));
    judge(device, "another page", offsets[i]);
    sim_free(device);
  }
  sim_free(base);
}
END_TEST

/* Every 512 bytes of every extent: its head, its chunks. */
START_TEST(test_changed_extents) {
  sim *base = closed_base();
  uint8_t page[PAGE];
  unsigned tried = 0;
  for (uint64_t at = 128 * PAGE; sim_peek(base, NAME, at, page, PAGE); at += PAGE) {
    if (page[4] != 6 || page[5] != 2 || number(page + 8, 4) != at / PAGE || number(page + 12, 4) > 2 * PAGE) continue;
    for (uint64_t offset = 600; offset < 140000; offset += 9000, tried++) {
      sim *device = sim_clone(base, 1);
      uint8_t byte;
      ck_assert(sim_peek(device, NAME, at + offset, &byte, 1));
      byte ^= 0x10;
      ck_assert(sim_poke(device, NAME, at + offset, &byte, 1));
      judge(device, "an extent", at + offset);
      sim_free(device);
    }
  }
  ck_assert_uint_gt(tried, 50);
  sim_free(base);
}
END_TEST

typedef struct place {
  uint64_t offset; /* in the segment's file */
  uint32_t len;
} place;

/* The records of a segment, as docs/file-format.md says, section 10. */
static size_t log_records(const uint8_t *segment, size_t size, place *places, size_t cap) {
  size_t count = 0;
  uint8_t seed[16];
  memcpy(seed, segment + 56, 8);
  for (uint64_t at = 4096; at + 40 < size - 4096 && count < cap;) {
    uint64_t position = number(segment + 48, 8) + at;
    uint32_t len = (uint32_t)number(segment + at + 4, 4);
    for (unsigned i = 0; i < 8; i++) seed[8 + i] = (uint8_t)(position >> 8 * i);
    bool good =
        len >= 40 && len <= size - 4096 - at && number(segment + at, 4) == crc32c(crc32c(0, seed, 16), segment + at + 4, len - 4);
    if (good) places[count++] = (place){at, len};
    at = good ? (at + len + 7) / 8 * 8 : (at / 4096 + 1) * 4096;
  }
  return count;
}

static void seal_record(uint8_t *segment, place p) {
  uint8_t seed[16];
  uint64_t position = number(segment + 48, 8) + p.offset;
  memcpy(seed, segment + 56, 8);
  for (unsigned i = 0; i < 8; i++) seed[8 + i] = (uint8_t)(position >> 8 * i);
  uint32_t crc = crc32c(crc32c(0, seed, 16), segment + p.offset + 4, p.len - 4);
  for (unsigned i = 0; i < 4; i++) segment[p.offset + i] = (uint8_t)(crc >> 8 * i);
}

/* The last record of a log gets the payload of the one before, a changed byte, or a payload in clear. */
START_TEST(test_forged_log) {
  sim *device = sim_new(9);
  sdb_options o = options_on(device, key_a);
  sdb *db = open_with(&o);
  for (uint8_t i = 0; i < 9; i++) must(db, sdb_put(db, "same", 4, &i, 1, NULL, NULL), "put");
  cut_power(device, db);
  static uint8_t segment[65536];
  place places[32];
  const char *name = NAME ".log.0000";
  ck_assert(sim_peek(device, name, 0, segment, sizeof segment));
  size_t count = log_records(segment, sizeof segment, places, 32);
  ck_assert_uint_eq(count, 9);
  place last = places[count - 1], before = places[count - 2];
  ck_assert_uint_eq(last.len, before.len);
  ck_assert_uint_eq(segment[last.offset + 29], 1);
  uint8_t *stored = segment + last.offset + 40;
  switch (_i) {
    case 0: memcpy(stored, segment + before.offset + 40, last.len - 40); break;
    case 1: stored[24 + 16 + 5] ^= 1; break;
    case 2: segment[last.offset + 32] ^= 1; break; /* the time of the commit */
    default: segment[last.offset + 29] = 0; break;
  }
  seal_record(segment, last);
  ck_assert(sim_poke(device, name, 0, segment, sizeof segment));
  db = open_with(&o);
  sdb_stats stats = {.size = sizeof stats};
  must(db, sdb_get_stats(db, &stats), "stats");
  ck_assert(stats.log_damaged);
  ck_assert_int_eq(sdb_put(db, "same", 4, "x", 1, NULL, NULL), SDB_READ_ONLY);
  uint8_t value;
  size_t size;
  sdb_info info;
  must(db, sdb_get(db, "same", 4, SDB_CURRENT, &value, 1, &size, &info), "get");
  ck_assert_uint_eq(value, 7); /* the state before */
  ck_assert_uint_eq(info.version, 8);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* --- Keys --------------------------------------------------------------------------------------------------------------------- */

static void must_refuse(sim *device, sdb_options o, const char *word) {
  char message[256] = "";
  uint64_t changes = sim_calls(device, SIM_CHANGE);
  sdb *db;
  o.message = message;
  o.message_size = sizeof message;
  ck_assert_int_eq(sdb_open(NAME, &o, &db), SDB_WRONG_KEY);
  ck_assert_msg(strstr(message, word) != NULL && strstr(message, NAME) != NULL, "%s", message);
  ck_assert_uint_eq(sim_calls(device, SIM_CHANGE), changes); /* not one call that could change a byte */
  ck_assert_uint_eq(sim_open_files(device), 0);
  ck_assert_uint_eq(sim_allocations(device), 0);
}

START_TEST(test_wrong_keys) {
  bool crashed = _i % 2;
  sim *device = sim_new(2), *plain = sim_new(4);
  sdb_options with_a = options_on(device, key_a), with_b = options_on(device, key_b), without = options_on(device, NULL);
  sdb_options recovery = options_on(device, NULL), on_plain = options_on(plain, NULL);
  sdb *db = open_with(&with_a);
  put_documents(db);
  if (crashed) cut_power(device, db);
  else ck_assert_int_eq(sdb_close(db), SDB_OK);
  must_refuse(device, without, "is encrypted");
  must_refuse(device, with_b, "does not open");
  recovery.recovery_key = key_a;
  must_refuse(device, recovery, "recovery key");
  without.read_only = with_b.read_only = true;
  must_refuse(device, without, "is encrypted");
  must_refuse(device, with_b, "does not open");
  with_a.recovery_key = key_a;
  ck_assert_int_eq(sdb_open(NAME, &with_a, &db), SDB_INVALID);
  with_a.recovery_key = NULL;
  db = open_with(&with_a);
  ck_assert_uint_eq(count_corrupt(db), 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);

  db = open_with(&on_plain);
  put_documents(db);
  uint8_t key[SDB_KEY_SIZE] = {0};
  ck_assert_int_eq(sdb_change_key(db, key_b), SDB_INVALID);
  ck_assert_int_eq(sdb_key_export(db, key), SDB_INVALID);
  if (crashed) cut_power(plain, db);
  else ck_assert_int_eq(sdb_close(db), SDB_OK);
  on_plain.encryption_key = key_a;
  must_refuse(plain, on_plain, "not encrypted");
  sdb_options fresh = options_on(device, NULL);
  fresh.recovery_key = key_a;
  ck_assert_int_eq(sdb_open("new.sdb", &fresh, &db), SDB_INVALID); /* makes no database */
  sim_free(device);
  sim_free(plain);
}
END_TEST

START_TEST(test_recovery_key) {
  sim *device = sim_new(2);
  sdb_options o = options_on(device, key_a);
  uint8_t recovery[SDB_KEY_SIZE], again[SDB_KEY_SIZE];
  sdb *db = open_with(&o);
  put_documents(db);
  must(db, sdb_key_export(db, recovery), "export");
  ck_assert_int_ne(memcmp(recovery, key_a, SDB_KEY_SIZE), 0);
  must(db, sdb_change_key(db, key_b), "change");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  must_refuse(device, o, "does not open");
  o.encryption_key = NULL;
  o.recovery_key = recovery;
  db = open_with(&o);
  ck_assert_uint_eq(count_corrupt(db), 0);
  must(db, sdb_change_key(db, key_a), "change"); /* the user's key was lost: here is another */
  must(db, sdb_key_export(db, again), "export");
  ck_assert_mem_eq(recovery, again, SDB_KEY_SIZE);
  must(db, sdb_put(db, "more", 4, "more", 4, NULL, NULL), "put");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  o.recovery_key = NULL;
  o.encryption_key = key_a;
  db = open_with(&o);
  ck_assert_uint_eq(count_corrupt(db), 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  o.read_only = true;
  db = open_with(&o);
  ck_assert_int_eq(sdb_change_key(db, key_b), SDB_READ_ONLY);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

static bool parses(const char *text, size_t len, bool recovery) {
  sdb_key key;
  uint8_t expected[SDB_KEY_SIZE];
  for (unsigned i = 0; i < SDB_KEY_SIZE; i++) expected[i] = (uint8_t)(0x10 + i);
  if (!sdb_key_parse(text, len, &key)) return false;
  ck_assert_mem_eq(key.bytes, expected, SDB_KEY_SIZE);
  ck_assert(key.given && key.recovery == recovery);
  sdb_key_wipe(&key);
  ck_assert(!key.given && key.bytes[5] == 0);
  return true;
}

START_TEST(test_forms_of_a_key) {
  char raw[33], digits[128], text[160];
  for (int i = 0; i < 32; i++) raw[i] = (char)(0x10 + i);
  raw[32] = '\n';
  for (int i = 0; i < 32; i++) snprintf(digits + 2 * i, 3, i % 2 ? "%02x" : "%02X", 0x10 + i);
  ck_assert(parses(raw, 32, false));
  ck_assert(!parses(raw, 31, false) && !parses(raw, 33, false) && !parses(raw, 0, false));
  static const char *const ends[] = {"", "\n", "\r\n"};
  for (int i = 0; i < 3; i++) {
    snprintf(text, sizeof text, "recovery:%s%s", digits, ends[i]);
    ck_assert(parses(text, strlen(text), true));
    ck_assert(parses(text + 9, strlen(text) - 9, false));
  }
  static const char *const wrong[] = {"", "\n", "recovery:", "recovery:\n", "00", "Recovery:"};
  for (int i = 0; i < 6; i++) ck_assert(!parses(wrong[i], strlen(wrong[i]), false));
  ck_assert(!parses(digits, 63, false) && !parses(digits, 62, false));
  snprintf(text, sizeof text, "%s\n\n", digits);
  ck_assert(!parses(text, strlen(text), false));
  digits[10] = 'g';
  ck_assert(!parses(digits, 64, false));
}
END_TEST

/* True when the database opens with that key; then its documents must be there. */
static bool opens_with(sim *device, const uint8_t *key) {
  sdb_options o = options_on(device, key);
  sdb *db;
  int code = sdb_open(NAME, &o, &db);
  ck_assert_msg(code == SDB_OK || code == SDB_WRONG_KEY, "open: %s", sdb_strerror(code));
  if (code != SDB_OK) return false;
  ck_assert_uint_eq(count_corrupt(db), 0);
  sdb_check_report report = {.size = sizeof report};
  must(db, sdb_check(db, NULL, NULL, &report), "check");
  ck_assert_uint_eq(report.problems, 0);
  must(db, sdb_put(db, "later", 5, "later", 5, NULL, NULL), "put");
  cut_power(device, db); /* so that the second open has a log to replay, with segments made under this key */
  return true;
}

/* The process dies in every call of a change: one key opens, the same one from then on. _i: on a clean file, with commits in the
 * log, and while a checkpoint is on its way. */
START_TEST(test_change_cut_short) {
  unsigned old_ones = 0, new_ones = 0;
  for (uint64_t die_at = 1;; die_at++) {
    for (uint64_t subset = 0; subset < 6; subset++) {
      sim *device = sim_new(11);
      sdb_options o = options_on(device, key_a);
      sdb *db = open_with(&o);
      put_documents(db);
      if (_i == 0) {
        ck_assert_int_eq(sdb_close(db), SDB_OK);
        db = open_with(&o);
      }
      bool more;
      if (_i == 2) {
        for (unsigned i = 0; i < 600; i++) must(db, sdb_put(db, "fill", 4, "some more of the log", 20, NULL, NULL), "put");
        must(db, sdb_step(db, 1, &more), "step");
      }
      sim_die_at(device, die_at);
      int code = sdb_change_key(db, key_b);
      bool died = sim_dead(device);
      sim_die_at(device, died ? 0 : 1);
      sdb_close(db);
      sim_crash(device, subset % 2 ? SIM_RANDOM_SUBSET : subset ? SIM_KEEP_ALL : SIM_DROP_ALL, subset * 77 + die_at);
      bool old = opens_with(device, key_a), new = opens_with(device, key_b);
      ck_assert_msg(old != new, "call %" PRIu64 ", subset %" PRIu64 ": %s", die_at, subset,
                    old ? "both keys open" : "no key opens");
      if (code == SDB_OK) ck_assert_msg(new, "the change was acknowledged and is lost");
      ck_assert(opens_with(device, old ? key_a : key_b)); /* and it stays so */
      old_ones += old, new_ones += new;
      sim_free(device);
      if (died) continue;
      ck_assert_uint_gt(old_ones, 0);
      ck_assert_uint_gt(new_ones, 0);
      return;
    }
  }
}
END_TEST

/* Copying needs no key, and the copy is as secret as the original. */
START_TEST(test_backup_without_key) {
  sim *device = sim_new(2);
  sdb_options o = options_on(device, key_a);
  sdb *db = open_with(&o);
  memset(found, 0, sizeof found);
  sim_watch(device, look_for_secrets, NULL);
  secret_work(db);
  put_documents(db);
  sdb_copy_options copy;
  sdb_copy_options_init(&copy);
  must(db, sdb_backup(db, "backup.sdb", &copy, NULL), "backup");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  for (int i = 0; i < SECRETS; i++) ck_assert_uint_eq(found[i], 0);
  copy.storage = sim_storage(device);
  ck_assert_int_eq(sdb_restore("backup.sdb", "restored.sdb", &copy, NULL), SDB_OK);
  sdb_verify_report report = {.size = sizeof report};
  o.encryption_key = NULL;
  ck_assert_int_eq(sdb_verify("restored.sdb", &o, NULL, NULL, &report), SDB_OK);
  ck_assert_uint_eq(report.problems, 0);
  ck_assert(!report.contents); /* only its checksums could be looked at */
  o.encryption_key = key_b;
  ck_assert_int_eq(sdb_verify("restored.sdb", &o, NULL, NULL, &report), SDB_WRONG_KEY);
  o.encryption_key = key_a;
  ck_assert_int_eq(sdb_verify("restored.sdb", &o, NULL, NULL, &report), SDB_OK);
  ck_assert(report.contents && report.problems == 0);
  ck_assert_int_eq(sdb_open("restored.sdb", &o, &db), SDB_OK);
  ck_assert_uint_eq(count_corrupt(db), 0);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

/* What a reader needs is in the header; every segment made later carries the new wrapping for the day when no header is left. */
START_TEST(test_segments_carry_the_key) {
  sim *device = sim_new(2);
  sdb_options o = options_on(device, key_a);
  sdb *db = open_with(&o);
  must(db, sdb_put(db, "a", 1, "a", 1, NULL, NULL), "put");
  uint8_t slot[96], segment[96];
  ck_assert(sim_peek(device, NAME, 256, slot, 96) && sim_peek(device, NAME ".log.0000", 256, segment, 96));
  ck_assert_mem_eq(slot, segment, 96);
  must(db, sdb_change_key(db, key_b), "change");
  must(db, sdb_checkpoint(db), "checkpoint");
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  o.encryption_key = key_b;
  db = open_with(&o);
  must(db, sdb_put(db, "a", 1, "b", 1, NULL, NULL), "put");
  bool newest = false;
  ck_assert(sim_peek(device, NAME, 256, slot, 96));
  for (size_t i = 0; sim_name(device, i) != NULL; i++)
    newest |= strstr(sim_name(device, i), ".log.") && sim_peek(device, sim_name(device, i), 256, segment, 96) &&
              !memcmp(slot, segment, 96);
  ck_assert(newest);
  ck_assert_int_eq(sdb_close(db), SDB_OK);
  sim_free(device);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("encryption");
  TCase *storage = tcase_create("storage");
  tcase_set_timeout(storage, 300);
  tcase_add_loop_test(storage, test_nothing_readable, 0, 2);
  tcase_add_test(storage, test_no_nonce_twice);
  tcase_add_test(storage, test_units);
  tcase_add_loop_test(storage, test_pages_as_documented, 0, 2);
  tcase_add_test(storage, test_forged_pages);
  tcase_add_test(storage, test_changed_extents);
  tcase_add_loop_test(storage, test_forged_log, 0, 4);
  suite_add_tcase(suite, storage);
  TCase *keys = tcase_create("keys");
  tcase_set_timeout(keys, 300);
  tcase_add_loop_test(keys, test_wrong_keys, 0, 2);
  tcase_add_test(keys, test_forms_of_a_key);
  tcase_add_test(keys, test_recovery_key);
  tcase_add_loop_test(keys, test_change_cut_short, 0, 3);
  tcase_add_test(keys, test_segments_carry_the_key);
  tcase_add_test(keys, test_backup_without_key);
  suite_add_tcase(suite, keys);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
