# SPDX-License-Identifier: LGPL-3.0-or-later
# service.sh: what only a service does.
# shellcheck shell=bash disable=SC2154,SC2016

# --- watch ---
# Inserts until the watch, whose output is in $1, has seen one: a subscription takes a moment.
until_seen() {
  local i
  for ((i = 0; i < 100; i++)); do
    printf '%s' "$i" | "$streamdb" "${place[@]}" insert /watched/a >/dev/null
    [[ -s $1 ]] && return 0
    sleep 0.05
  done
  return 1
}

"$streamdb" "${place[@]}" --json watch --count 3 /watched/ >"$work/events" 2>"$work/err" &
watcher=$!
is 'service: watch sees an insert' until_seen "$work/events"
printf 'x' | "$streamdb" "${place[@]}" insert /elsewhere >/dev/null
"$streamdb" "${place[@]}" delete /watched/a >/dev/null
printf 'x' | "$streamdb" "${place[@]}" insert /watched/b >/dev/null
printf 'x' | "$streamdb" "${place[@]}" insert /watched/c >/dev/null
wait "$watcher"
is 'service: watch ends after so many events' test $? = 0
cp "$work/events" "$work/out"
json 'watch, as JSON' 'length == 3 and all(.path | startswith("/watched/")) and .[0].event == "put"'
is 'service: watch says nothing on stderr' test ! -s "$work/err"

"$streamdb" "${place[@]}" watch --count 2 /watched/ >"$work/events" 2>&1 &
watcher=$!
is 'service: watch shows an insert while it runs' until_seen "$work/events"
"$streamdb" "${place[@]}" delete /watched/a >/dev/null
wait "$watcher"
cp "$work/events" "$work/out"
printed 'watch: columns' '^[0-9-]{10} [0-9:]{8}  put  +[0-9]+ +[0-9]+ B  /watched/a$'

"$streamdb" "${place[@]}" watch /watched/ >"$work/events" 2>&1 &
watcher=$!
until_seen "$work/events"
kill -INT "$watcher" 2>/dev/null || kill "$watcher"
# A shell lets its background commands ignore SIGINT, so that SIGTERM has to do.
sleep 0.1
kill "$watcher" 2>/dev/null
wait "$watcher"
is 'service: a watch ends by a signal' test $? -gt 128

# --- environment ---
STREAMDB_SERVER=$endpoint runs 'service: the endpoint from the environment' 0 ping
runs 'service: an option wins over the environment' 0 --server "$endpoint" ping
is 'service: completion of a path' env STREAMDB_SERVER="$endpoint" bash -c '
  compopt() { :; }
  source "$1"
  COMP_WORDS=("$2" get /size/10485) COMP_CWORD=2
  _streamdb
  [[ " ${COMPREPLY[*]} " == *" /size/1048577 "* ]]' _ "$completion" "$streamdb"

# What is completed goes to a shell, and anybody may have chosen it.
for path in '/shell/it'"'"'s' '/shell/a b' '/shell/$(touch pwned)' '/shell/urn:x:1' $'/shell/line\nbreak'; do
  "$streamdb" "${place[@]}" insert "$path" "$work/in" >/dev/null
done
# completion WORD...: what the words are completed to, one a line.
# shellcheck disable=SC2016
completion() {
  STREAMDB_SERVER=$endpoint bash -c '
    compopt() { :; }
    source "$1"
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _streamdb
    printf "%s\n" "${COMPREPLY[@]}"' _ "$completion" "$streamdb" "$@"
}
# shellcheck disable=SC2016
is 'service: completion quotes what a shell would act on' \
  test "$(completion get /shell/)" = '/shell/\$\(touch\ pwned\)
/shell/a\ b
/shell/it\'"'"'s
/shell/urn:x:1'
is 'service: completion behind what is quoted already' test "$(completion get '/shell/a\ ')" = '/shell/a\ b'
is 'service: completion behind a colon, where bash breaks words' test "$(completion get /shell/urn : x : '')" = 1

# --- a get that is interrupted ---
# The service is stopped while the content travels, so that the signal comes in the middle; a transfer that was faster is tried
# again.
head -c 100000000 /dev/zero | "$streamdb" "${place[@]}" insert /large >/dev/null
interrupt() {
  local i reader
  for ((i = 0; i < 20; i++)); do
    env --default-signal=INT "$streamdb" "${place[@]}" get /large -o "$work/large" &
    reader=$!
    until [[ -n $(find "$work" -name 'large.part-*') || -e $work/large ]]; do :; done
    kill -STOP "$service"
    sleep 0.2
    if [[ -n $(find "$work" -name 'large.part-*') ]]; then
      kill -INT "$reader"
      wait "$reader"
      local code=$?
      kill -CONT "$service"
      [[ $code == 130 && -z $(find "$work" -name 'large*') ]]
      return
    fi
    kill -CONT "$service"
    wait "$reader"
    rm -f "$work/large"
  done
  return 1
}
is 'service: Ctrl-C ends a get and leaves no half file' interrupt
runs 'service: and the service goes on' 0 "${place[@]}" ping
