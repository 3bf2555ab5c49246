# SPDX-License-Identifier: LGPL-3.0-or-later
# lib.sh: what the tests of the command line share: counting, running a command, and looking at what it printed.
# shellcheck shell=bash disable=SC2154

passed=0 failed=0

ok() {
  passed=$((passed + 1))
  printf 'ok %d - %s\n' $((passed + failed)) "$1"
}

not_ok() {
  failed=$((failed + 1))
  printf 'not ok %d - %s\n' $((passed + failed)) "$1"
  shift
  (($# == 0)) || printf '#   %s\n' "$@"
}

# is NAME COMMAND...: the command succeeds.
is() {
  local name=$1
  shift
  if "$@"; then ok "$name"; else not_ok "$name" "failed: $*"; fi
}

# runs NAME EXIT ARGUMENT...: streamdb with these arguments ends so; its output is in $work/out and $work/err. What fails says so in
# one sentence, and what succeeds says nothing on stderr.
runs() {
  local name=$1 expected=$2 got=0
  shift 2
  "$streamdb" "$@" >"$work/out" 2>"$work/err" || got=$?
  if ((got != expected)); then
    not_ok "$name" "exit code $got instead of $expected" "$(head -c 300 "$work/err")"
  elif ((expected == 0)) && [[ -s $work/err ]]; then
    not_ok "$name" "stderr: $(head -c 300 "$work/err")"
  elif ((expected == 1 || expected == 3)) && [[ $(wc -l <"$work/err") -ne 1 || $(<"$work/err") != "streamdb: "* ]]; then
    not_ok "$name" "not one sentence: $(head -c 300 "$work/err")"
  else
    ok "$name"
  fi
}

# here NAME EXIT ARGUMENT...: the same with the place (a service or a file) that is being tested.
here() {
  local name=$1 expected=$2
  shift 2
  runs "$where: $name" "$expected" "${place[@]}" "$@"
}

# prints NAME TEXT: stdout of the last command was exactly this and a line end.
prints() {
  if [[ $(<"$work/out") == "$2" ]]; then ok "$where: $1"; else not_ok "$where: $1" "printed: $(head -c 300 "$work/out")"; fi
}

# printed NAME PATTERN, complained NAME PATTERN: stdout or stderr of the last command contain this.
printed() {
  if grep -qE -- "$2" "$work/out"; then ok "$where: $1"; else not_ok "$where: $1" "printed: $(head -c 300 "$work/out")"; fi
}
complained() {
  if grep -qE -- "$2" "$work/err"; then ok "$where: $1"; else not_ok "$where: $1" "stderr: $(head -c 300 "$work/err")"; fi
}

# json NAME FILTER: every line of stdout is one JSON object, and FILTER is true of all of them together (as an array).
json() {
  if ! jq -e . "$work/out" >/dev/null 2>&1; then
    not_ok "$where: $1" "no JSON: $(head -c 300 "$work/out")"
  elif [[ $(jq -s -c "$2" "$work/out" 2>&1) != true ]]; then
    not_ok "$where: $1" "not true: $2" "printed: $(head -c 300 "$work/out")"
  elif [[ $(wc -l <"$work/out") -ne $(jq -s length "$work/out") ]]; then
    not_ok "$where: $1" "not one object a line"
  else
    ok "$where: $1"
  fi
}

# same NAME FILE: stdout of the last command was the file's content.
same() { is "$where: $1" cmp -s "$work/out" "$2"; }

start_service() {
  "$streamdbd" --quiet --database "$1" --listen 'tcp://127.0.0.1:*' --events 'tcp://127.0.0.1:*' \
    >"$work/ready" 2>"$work/service.err" &
  service=$!
  local i
  for ((i = 0; i < 200; i++)); do
    grep -q '^ready' "$work/ready" && break
    sleep 0.05
  done
  endpoint=$(sed -n 's/.* listen=\([^ ]*\).*/\1/p;s/^ready listen=\([^ ]*\).*/\1/p' "$work/ready" | head -n 1)
  events=$(sed -n 's/.* events=\([^ ]*\).*/\1/p' "$work/ready")
  [[ -n $endpoint && -n $events ]] || {
    echo "Bail out! the service did not start: $(<"$work/service.err")"
    exit 1
  }
}

stop_service() {
  [[ -z ${service:-} ]] && return
  kill -CONT "$service" 2>/dev/null || true
  kill "$service" 2>/dev/null || true
  wait "$service" 2>/dev/null || true
  service=
}
