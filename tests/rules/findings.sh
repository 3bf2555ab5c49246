#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# findings.sh: makes small bad trees, one fault each, and expects script/check-rules to name it; and a good one, in which it must
# find nothing.
set -euo pipefail
check=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/script/check-rules
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
licence='/* SPDX-License-Identifier: LGPL-3.0-or-later */'
failures=0

# file NAME [LINE...]: writes a file of the tree, the licence line first where it is C.
file() {
  local name=$1
  shift
  mkdir -p "$tree/$(dirname "$name")"
  { [[ $name != *.[ch] ]] || echo "$licence" && printf '%s\n' "$@"; } >"$tree/$name"
}

good_tree() {
  rm -rf "${tree:?}"/*
  file engine/include/sdb/sdb.h '#ifndef SDB_H' '#define SDB_H' 'int sdb_open(void);' '#endif'
  file engine/src/api.c '#include "codec.h"' '#include "sdb/sdb.h"' 'int sdb_open(void) { return codec(); }'
  file engine/src/codec.h 'int codec(void);'
  file engine/src/codec.c '#include "codec.h"' '#include <stdlib.h>' 'int codec(void) { return 0; }'
  file engine/src/storage_file.c '#include <stdlib.h>' 'void *take(void) { return malloc(1); }'
  file service/main.c '#include "dcf_db.pb-c.h"' '#include "sdb/sdb.h"' 'static const char *const names[] = {"database"};'
  file cli/main.c '#include "sdb/sdb.h"' '#include "sdbc/sdbc.h"' 'static const char *const names[] = {"insert"};'
  file bindings/c/include/sdbc/sdbc.h 'int sdbc_open(void);'
  file script/go '# SPDX-License-Identifier: LGPL-3.0-or-later' 'true'
  chmod +x "$tree/script/go"
  file docs/page.md '# A page' '## One, two'
  file README.md '[a page](docs/page.md#one-two)' '' '```sh' 'script/go' 'streamdb insert /a b' 'streamdbd --database x' '```'
  cp "$(dirname "$check")/../.clang-format" "$tree/"
}

# finds WORDS: the tree as it stands now must give exactly this finding.
finds() {
  local words
  if words=$("$check" "$tree"); then
    echo "not found: $1"
  elif ! grep -qF -- "$1" <<<"$words"; then
    echo "expected: $1"
    echo "$words"
  elif ! grep -q '^1 findings' <<<"$words"; then
    echo "more than: $1"
    echo "$words"
  else
    good_tree
    return
  fi
  failures=$((failures + 1))
  good_tree
}

good_tree
"$check" "$tree" || { echo 'a good tree was refused' && failures=1; }

file engine/src/codec.c '#include "sdbc/sdbc.h"'
finds 'engine/src/codec.c:2: engine may not use bindings/c ("sdbc/sdbc.h").'
file engine/src/codec.c '#include <zmq.h>'
finds 'engine/src/codec.c:2: the engine may not include <zmq.h>.'
file engine/src/codec.h '#include "api.h"'
file engine/src/api.h 'int api(void);'
finds 'engine/src/codec.h:2: "api.h" belongs to a part above'
file engine/src/unheard.c 'int unheard(void) { return 0; }'
finds "'unheard' has no place in the order"
file engine/include/sdb/sdb.h '#include "codec.h"'
echo 'int codec(void);' >"$tree/engine/include/codec.h"
sed -i "1i $licence" "$tree/engine/include/codec.h"
finds 'a public header includes "codec.h"'
file service/main.c '#include "sdbc/sdbc.h"' 'static const char *const names[] = {"database"};'
finds 'service may not use bindings/c'
file service/main.c '#include "codec.h"' 'static const char *const names[] = {"database"};'
finds '"codec.h" is no header of service'
file cli/main.c '#include "dcf_db.pb-c.h"' 'static const char *const names[] = {"insert"};'
finds 'cli may not use proto'
file bindings/c/src/client.c '#include "sdb/sdb.h"'
finds 'bindings/c may not use engine'
file cli/main.c '#include "../engine/src/codec.h"' 'static const char *const names[] = {"insert"};'
finds 'leaves its folder'
file service/CMakeLists.txt '# SPDX-License-Identifier: LGPL-3.0-or-later' 'target_link_libraries(streamdbd PRIVATE' '  sdbc)'
finds 'service/CMakeLists.txt:3: service may not link this library.'

file engine/src/codec.c '#include <stdlib.h>' 'int codec(void) { return malloc(1) != 0; }'
finds 'engine/src/codec.c:3: only storage_*.c and sync.h speak to the system'
file engine/src/codec.c 'int codec(void) { return pthread_mutex_lock(0); }'
finds 'engine/src/codec.c:2: only storage_*.c and sync.h speak to the system'
file engine/src/codec.c '/* malloc(1) */ int codec(void) { return s->realloc(0); }'
"$check" "$tree" || { echo 'a member and a comment were taken for calls' && failures=$((failures + 1)); }
file cli/main.c 'static const char *const names[] = {"insert"};' 'int copy(char *a) { return sprintf(a, "x"); }'
finds 'cli/main.c:3: this function is banned'

file engine/src/codec.c "$(yes '/* a line */' | head -n 1000)"
finds 'engine/src/codec.c: 1001 lines; at most 1000.'
file engine/src/codec.c 'int codec(void) {' "$(yes '  codec();' | head -n 99)" '}'
finds 'codec() has 101 lines; at most 100.'
echo "# $(printf '%0131d' 0)" >>"$tree/script/go"
finds 'the line is longer than 132 columns.'

printf 'int codec(void);\n' >"$tree/engine/src/codec.h"
finds 'engine/src/codec.h: the line that names the licence is missing.'
printf '%s\n/*\ta */\n' "$licence" >"$tree/engine/src/codec.c"
finds 'engine/src/codec.c:2: a tab'
file docs/page.md '# A page ' '## One, two'
finds 'docs/page.md:1: blanks at the end of the line.'
printf '# A page\n## One, two' >"$tree/docs/page.md"
finds 'docs/page.md: the last line has no end.'
file engine/src/codec.c '/* /home/somebody/tree */'
finds 'a path of one machine.'
file engine/src/codec.c '/* TODO: the rest */'
finds 'something unfinished.'
file engine/src/codec.c '// so'
finds 'engine/src/codec.c:2: comments are written'
chmod -x "$tree/script/go"
file README.md 'Nothing.'
finds 'script/go: a script that cannot be run'

file bindings/c/include/sdbc/sdbc.h 'size_t sdbc_open(void);'
if [[ $("$check" "$tree") != *"does not compile alone with '"*"-std=c17'"* ]]; then
  echo 'a header that needs another passes'
  failures=$((failures + 1))
fi
good_tree
file bindings/c/include/sdbc/sdbc.h 'int sdbc_open(int new);'
finds 'bindings/c/include/sdbc/sdbc.h: does not compile alone'
file engine/src/codec.c 'int   codec(void) { return 0; }'
finds 'engine/src/codec.c: clang-format would change'

file README.md '[nowhere](docs/none.md)'
finds "README.md: the link to 'docs/none.md' leads nowhere."
file README.md '[nowhere](docs/page.md#three)'
finds "README.md: 'docs/page.md#three' names no heading."
file README.md '```sh' 'script/none' '```'
finds "README.md: there is no command 'script/none'."
file README.md '```sh' 'streamdb explode /a' '```'
finds "README.md: the command line has no command 'explode'."
file README.md '```sh' 'streamdbd --explode' '```'
finds "README.md: the service has no option '--explode'."

echo "$failures failures"
((failures == 0))
