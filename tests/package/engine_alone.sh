#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# engine_alone.sh COMPILER: the engine without service, threads and ISA-L builds, and runs the first C example of README.md.
set -euo pipefail
compiler=$1
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake -G Ninja -S "$top" -B "$work/build" -DCMAKE_C_COMPILER="$compiler" \
  -DSDB_BUILD_SERVICE=OFF -DSDB_BUILD_TESTS=OFF -DSDB_THREADS=OFF -DSDB_ISAL=OFF
cmake --build "$work/build" -j 2
cmake --install "$work/build" --prefix "$work/prefix"
library=$(dirname "$(find "$work/prefix" -name libsdb.so)")
if ldd "$library/libsdb.so" | grep -q isal; then
  echo 'the engine still needs ISA-L'
  exit 1
fi
# Without threads nothing of the system's is called that has to do with them. What is undefined in the library is what it calls.
if nm -D --undefined-only "$library/libsdb.so" | grep -E ' U (pthread_|sched_|thrd_|mtx_|cnd_|sem_|syscall|clone)'; then
  echo 'the engine built without threads calls the functions above'
  exit 1
fi
awk '/^```c$/ { on = 1; next } /^```/ { if (on) exit } on' "$top/README.md" >"$work/first.c"
cd "$work"
"$compiler" -std=c17 -o first first.c "-I$work/prefix/include" "-L$library" -lsdb "-Wl,-rpath,$library"
./first
