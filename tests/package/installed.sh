#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# installed.sh BUILD COMPILER: installs the build under a temporary prefix, and uses it as a stranger would. The first C example of
# README.md is compiled through pkg-config and run; that and an example of the client are compiled through find_package and run.
set -euo pipefail
build=$1
compiler=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

cmake --install "$build" --prefix "$prefix" >"$work/log"
library=$(dirname "$(find "$prefix" -name libsdb.so)")
for name in include/sdb/sdb.h include/sdb/storage.h include/sdbc/sdbc.h bin/streamdbd bin/streamdb \
  share/bash-completion/completions/streamdb share/doc/StreamDB/LICENSE share/doc/StreamDB/LICENSE.GPL-3.0 \
  share/doc/StreamDB/docs/protocol.md share/doc/StreamDB/proto/dcf_db.proto; do
  [[ -s $prefix/$name ]] || { echo "$name was not installed" && exit 1; }
done
for name in libsdb.so libsdb.so.1 libsdbc.so libsdbc.so.1; do
  [[ -e $library/$name ]] || { echo "$name was not installed" && exit 1; }
done
"$prefix/bin/streamdb" --help >/dev/null
"$prefix/bin/streamdbd" --help >/dev/null

mkdir "$work/source" "$work/run"
awk '/^```c$/ { on = 1; next } /^```/ { if (on) exit } on' "$top/README.md" >"$work/source/first.c"
cp "$top/bindings/c/examples/basic.c" "$work/source/client.c"
cp "$here/consumer/CMakeLists.txt" "$work/source/"

echo 'Through pkg-config:'
export PKG_CONFIG_PATH=$library/pkgconfig
cd "$work/run"
for program in first:sdb client:sdbc; do
  # shellcheck disable=SC2046
  "$compiler" -std=c17 -Wall -Wextra -Werror -o "${program%:*}" "$work/source/${program%:*}.c" \
    $(pkg-config --cflags --libs "${program#*:}") "-Wl,-rpath,$library"
done
./first

echo 'Through find_package:'
cmake -G Ninja -S "$work/source" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$compiler" >>"$work/log"
cmake --build "$work/build" >>"$work/log"
rm -f things.sdb*
"$work/build/first"

source "$top/script/lib.sh"
start_service "$prefix/bin/streamdbd" "$work/service.sdb" "$work/service.log"
trap 'kill "$service" 2>/dev/null || true; rm -rf "$work"' EXIT
"$work/build/client" "$endpoint"
"$work/run/client" "$endpoint"
kill "$service"
wait "$service"
