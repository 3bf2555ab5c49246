# SPDX-License-Identifier: LGPL-3.0-or-later
# shellcheck shell=bash disable=SC2034
# lib.sh - what the scripts beside it share. Sourced, never run. Afterwards the current folder is the top of the tree.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
jobs=$(nproc)

build_packages=(gcc libc6-dev cmake ninja-build pkg-config libzmq3-dev libczmq-dev libprotobuf-c-dev protobuf-c-compiler
  libsodium-dev libisal-dev libsnappy-dev check)
test_packages=(g++ clang clang-format universal-ctags jq)

if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' dim='' red='' green='' plain=''
fi

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# The packages of the list that are not installed, one a line.
missing_packages() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

# Runs a command as root: directly, or through sudo, which may ask for a password only when somebody sits at a terminal.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif sudo -n true 2>/dev/null; then
    sudo -n "$@"
  elif [[ -t 0 ]] && command -v sudo >/dev/null; then
    sudo "$@"
  else
    return 1
  fi
}

# Installs what is missing of the packages. Touches no network when nothing is.
need_packages() {
  local missing log
  if ! command -v dpkg-query >/dev/null; then
    echo "This is not a Debian system; these packages, by their names there, are taken as present: $*." >&2
    return
  fi
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  echo "Installing ${#missing[@]} packages: ${missing[*]}"
  log=$(mktemp)
  if ! { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    die "these packages are missing and could not be installed, please install them: ${missing[*]}"
  fi
  rm -f "$log"
}

# build PRESET [TARGET...]: configures and builds; prints the compiler's words only when something is wrong.
build() {
  local preset=$1 log
  shift
  log=$(mktemp)
  if ! { cmake --preset "$preset" && cmake --build --preset "$preset" -j "$jobs" ${1:+--target "$@"}; } >"$log" 2>&1; then
    awk '/^FAILED|^CMake Error/ { on = 1 } on && !/^(: &&|\/[^ ]*\/(cc|gcc|clang|ccache) )/' "$log" | head -n 40 >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

# start_service PROGRAM DATABASE LOG: starts a service on free loopback ports and waits until it is ready.
# Sets service (its pid), endpoint and events.
start_service() {
  local out=$3.ready line=''
  : >"$out"
  "$1" --database "$2" --listen 'tcp://127.0.0.1:*' --events 'tcp://127.0.0.1:*' >"$out" 2>>"$3" &
  service=$!
  for _ in $(seq 600); do
    line=$(grep -m 1 '^ready ' "$out") && break
    kill -0 "$service" 2>/dev/null || break
    sleep 0.05
  done
  [[ -n $line ]] || { tail -n 3 "$3" >&2 && die "the service did not start, see $3"; }
  endpoint=$(sed -E 's/.* listen=([^ ]+).*/\1/' <<<"$line")
  events=$(sed -E 's/.* events=([^ ]+).*/\1/' <<<"$line")
}
