/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* storage_key.c - keys as people keep them: in a file or in the environment, raw or as digits. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sdb/sdb.h"

static const char recovery_word[] = "recovery:";

bool sdb_key_parse(const void *text, size_t len, sdb_key *key) {
  const char *digits = text;
  size_t word = sizeof recovery_word - 1;
  sdb_key parsed = {.given = true};
  if (len == SDB_KEY_SIZE) {
    memcpy(parsed.bytes, text, SDB_KEY_SIZE);
  } else {
    if (len > 0 && digits[len - 1] == '\n') len--;
    if (len > 0 && digits[len - 1] == '\r') len--;
    parsed.recovery = len > word && memcmp(digits, recovery_word, word) == 0;
    if (parsed.recovery) digits += word, len -= word;
    size_t bytes = 0;
    if (len != 2 * SDB_KEY_SIZE || sodium_hex2bin(parsed.bytes, sizeof parsed.bytes, digits, len, NULL, &bytes, NULL) != 0 ||
        bytes != SDB_KEY_SIZE) {
      sdb_key_wipe(&parsed);
      return false;
    }
  }
  *key = parsed;
  sdb_key_wipe(&parsed);
  return true;
}

void sdb_key_wipe(sdb_key *key) { sodium_memzero(key, sizeof *key); }

__attribute__((format(printf, 4, 5))) static int refuse(int code, char *sentence, size_t size, const char *format, ...) {
  va_list args;
  va_start(args, format);
  if (size) (void)vsnprintf(sentence, size, format, args);
  va_end(args);
  return code;
}

#define FORMS "a key is 32 bytes, or 64 hexadecimal digits, with \"recovery:\" before them if it is a recovery copy"

/* One byte more than the longest form, so that a longer file is told from it. */
static int read_file(const char *file, char *text, size_t cap, size_t *len, bool *exposed, char *sentence, size_t size) {
  struct stat st;
  int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return refuse(errno == ENOENT   ? SDB_NOT_FOUND
                  : errno == EACCES ? SDB_DENIED
                                    : SDB_IO,
                  sentence, size, "cannot read the key file %s: %s", file, strerror(errno));
  *exposed = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 077) != 0;
  ssize_t n = 0;
  for (*len = 0; *len < cap; *len += (size_t)n) {
    n = read(fd, text + *len, cap - *len);
    if (n < 0 && errno == EINTR) n = 0;
    else if (n <= 0) break;
  }
  int error = errno;
  close(fd);
  return n < 0 ? refuse(SDB_IO, sentence, size, "cannot read the key file %s: %s", file, strerror(error)) : SDB_OK;
}

/* What stands where a file's name should, but is the digits of a key: no sentence repeats it. */
static bool is_digits(const char *file) {
  sdb_key key;
  bool is = strlen(file) != SDB_KEY_SIZE && sdb_key_parse(file, strlen(file), &key);
  sdb_key_wipe(&key);
  return is;
}

int sdb_key_find(const char *file, sdb_key *key, char *sentence, size_t size) {
  char text[128];
  size_t len = 0;
  bool exposed = false;
  const char *digits = NULL;
  memset(key, 0, sizeof *key);
  if (size) sentence[0] = '\0';
  if (!file) file = getenv("STREAMDB_KEY_FILE");
  if (!file || !*file) digits = getenv("STREAMDB_KEY");
  if ((!file || !*file) && (!digits || !*digits)) return SDB_OK;
  if (digits) {
    /* 32 characters in the environment are no raw key: half of the digits were lost. */
    if (strlen(digits) != SDB_KEY_SIZE && sdb_key_parse(digits, strlen(digits), key)) return SDB_OK;
    return refuse(SDB_INVALID, sentence, size, "STREAMDB_KEY holds no key: %s", FORMS);
  }
  int rc = read_file(file, text, sizeof text, &len, &exposed, sentence, size);
  if (rc == SDB_OK && !sdb_key_parse(text, len, key)) rc = refuse(SDB_INVALID, sentence, size, "%s holds no key: %s", file, FORMS);
  sodium_memzero(text, sizeof text);
  if (rc == SDB_NOT_FOUND && is_digits(file))
    rc = refuse(SDB_INVALID, sentence, size,
                "a key itself was given, where others can see it, instead of the name of a file that holds it");
  if (rc == SDB_OK && exposed)
    refuse(SDB_OK, sentence, size, "the key file %s can be read by others; take that right away (chmod 600)", file);
  return rc;
}
