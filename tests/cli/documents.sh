# SPDX-License-Identifier: LGPL-3.0-or-later
# documents.sh: everything that works alike on a service and on a file; run once for each.
# shellcheck shell=bash disable=SC2154,SC1003

# --- in and out ---
for size in 0 1 1000 65536 1048576 1048577 5000000; do
  head -c "$size" /dev/urandom >"$work/in"
  here "insert of $size bytes" 0 insert "/size/$size" "$work/in"
  printed "insert of $size bytes: says what was stored" "^stored /size/$size: version 1, .* digest [0-9a-f]{8}, new$"
  here "get of $size bytes" 0 get "/size/$size"
  same "get of $size bytes: the same" "$work/in"
  rm -f "$work/copy"
  here "get of $size bytes into a file" 0 get "/size/$size" -o "$work/copy"
  is "$where: get of $size bytes into a file: the same" cmp -s "$work/in" "$work/copy"
  here "insert of $size bytes from standard input" 0 insert "/stdin/$size" - <"$work/in"
  "$streamdb" "${place[@]}" insert "/pipe/$size" < <(cat "$work/in") >/dev/null
  here "get of what came through a pipe, $size bytes" 0 get "/pipe/$size"
  same "get of what came through a pipe, $size bytes: the same" "$work/in"
done

for text in one two three; do printf '%s' "$text" | "$streamdb" "${place[@]}" insert /v >/dev/null; done
here 'get' 0 get /v
prints 'get: the current version' three
here 'get of a version' 0 get --version 2 /v
prints 'get of a version: that one' two
here 'get of a version that is no longer kept' 3 get --version 1 /v
here 'get of a version, option last' 0 get /v --version 3
here 'get of nothing' 3 get /nothing
is "$where: get of nothing: prints nothing" test ! -s "$work/out"
here 'stat of nothing' 3 stat /nothing
here 'versions of nothing' 3 versions /nothing
here 'delete of nothing' 3 delete /nothing
here 'stream of nothing' 3 stream /nothing -o "$work/copy"
here 'insert of a file that is not there' 1 insert /x "$work/not-there"
complained 'insert of a file that is not there: names it' 'not-there.*No such file'
here 'insert of a directory' 1 insert /x "$work"
here 'after a failed insert nothing is there' 3 stat /x

head -c 268435457 /dev/zero | "$streamdb" "${place[@]}" insert /too/large >"$work/out" 2>"$work/err"
is "$where: a document of 256 MB and one byte is refused" test "${PIPESTATUS[1]}" = 1
is "$where: and not there" test -z "$("$streamdb" "${place[@]}" search /too/)"

# --- parts ---
printf '0123456789' | "$streamdb" "${place[@]}" insert /digits >/dev/null
here 'stream' 0 stream /digits
prints 'stream: all' 0123456789
here 'stream of a part' 0 stream /digits --offset 3 --length 4
prints 'stream of a part: that' 3456
here 'stream up to the end' 0 stream /digits --offset 8 --length 100
prints 'stream up to the end: what there is' 89
here 'stream from the end' 0 stream /digits --offset 10
prints 'stream from the end: nothing' ''
here 'stream of nothing at all' 0 stream /digits --offset 2 --length 0
prints 'stream of nothing at all: nothing' ''
here 'stream from beyond the end' 1 stream /digits --offset 11
"$streamdb" "${place[@]}" get /size/5000000 >"$work/in"
here 'stream of a large part' 0 stream /size/5000000 --offset 1000001 --length 3000000
tail -c +1000002 "$work/in" | head -c 3000000 >"$work/part"
same 'stream of a large part: that' "$work/part"

# --- files that appear when they are whole ---
printf 'old' >"$work/kept"
here 'a get that fails' 3 get /nothing -o "$work/kept"
is "$where: a get that fails leaves the file" test "$(<"$work/kept")" = old
here 'a get into a folder that is not there' 1 get /digits -o "$work/no/where"
here 'a get into a folder' 1 get /digits -o "$work"
here 'a get into a device' 0 get /digits -o /dev/null
is "$where: a get into a device leaves it one" test -c /dev/null
ln -sf kept "$work/link"
chmod 640 "$work/kept"
here 'a get through a symbolic link' 0 get /digits -o "$work/link"
is "$where: a get through a symbolic link writes its target" test -L "$work/link" -a "$(<"$work/kept")" = 0123456789
is "$where: and keeps its rights" test "$(stat -c %a "$work/kept")" = 640
here 'a get to standard output by name' 0 get /digits -o -
prints 'a get to standard output by name: there' 0123456789
(
  trap '' XFSZ
  ulimit -f 1024
  "$streamdb" "${place[@]}" get /size/5000000 -o "$work/kept" 2>/dev/null
)
is "$where: a get that finds no space fails" test $? = 1
is "$where: and leaves the file" test "$(<"$work/kept")" = 0123456789
is "$where: no half file is left anywhere" test -z "$(find "$work" -name '*.part-*')"

# --- outputs that fail ---
for command in 'get /digits' 'get /size/5000000' 'search /' 'stat /digits' 'stats' 'ping' '--json versions /v'; do
  # shellcheck disable=SC2086
  "$streamdb" "${place[@]}" $command >/dev/full 2>"$work/err"
  is "$where: $command to a full device fails" test $? = 1
  complained "$command to a full device: says why" '^streamdb: .*No space left'
done
"$streamdb" "${place[@]}" get /size/5000000 2>"$work/err" | head -c 10 >/dev/null
is "$where: a reader that leaves ends it quietly" test "${PIPESTATUS[0]}" = 141 -a ! -s "$work/err"

"$streamdb" "${place[@]}" stat /digits >&- 2>"$work/err"
is "$where: no standard output at all fails" test $? = 1
complained 'no standard output at all: says so' '^streamdb: cannot write to standard output: '
"$streamdb" "${place[@]}" insert /digits <&- 2>"$work/err" >"$work/out"
is "$where: no standard input at all fails" test $? = 1
complained 'no standard input at all: says so' '^streamdb: cannot read standard input: '
"$streamdb" "${place[@]}" insert /closed "$work/in" <&- >&- 2>&-
here 'what was inserted with all streams closed' 0 get /closed
same 'what was inserted with all streams closed' "$work/in"
[[ $where != file ]] || here 'and the file is whole' 0 check

# --- lists ---
here 'search' 0 search /size/
prints 'search: in byte order' "$(printf '/size/%s\n' 0 1 1000 1048576 1048577 5000000 65536)"
here 'search with a limit' 0 search --limit 2 /size/
prints 'search with a limit: so many' "$(printf '/size/%s\n' 0 1)"
here 'search for what is not there' 0 search /zzz
prints 'search for what is not there: nothing' ''
here 'search for everything' 0 search
printed 'search for everything: everything' '^/stdin/1000$'
here 'a long search' 0 search -l /size/1
printed 'a long search: columns' '^ +1 +1\.0 MB  [0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}  [0-9a-f]{8}  /size/1048576$'
here 'a search that ends paths with a zero byte' 0 search -0 /size/1
is "$where: it does" test "$(tr '\0' '\n' <"$work/out" | wc -l)" = 4
here 'versions' 0 versions /v
printed 'versions: the newest' '^ +3 +5 B '
here 'stat' 0 stat /v
printed 'stat: the version' '^version +3 \(readable from 2\)$'
printed 'stat: the id' '^id +[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$'
here 'stat of a version' 0 stat --version 2 /v
printed 'stat of a version: that one' '^version +2$'

# --- JSON ---
printf 'json' >"$work/in"
here 'insert, as JSON' 0 --json insert '/json/"quoted"\' "$work/in"
json 'insert, as JSON' '.[0] | .path == "/json/\"quoted\"\\" and .version == 1 and .size == 4 and .created'
json 'insert, as JSON: how safe it is' '.[0].durability == "durable"'
here 'get, as JSON' 0 get --json '/json/"quoted"\' -o "$work/copy"
json 'get, as JSON' '.[0] | .size == 4 and (.file | endswith("/copy")) and (.digest | test("^[0-9a-f]{8}$"))'
here 'stat, as JSON' 0 --json stat /v
json 'stat, as JSON' '.[0] | .path == "/v" and .version == 3 and .oldest == 2 and .time_ms > 1700000000000'
here 'versions, as JSON' 0 --json versions /v
json 'versions, as JSON' 'map(.version) == [3, 2]'
here 'search, as JSON' 0 --json search -l /size/
json 'search, as JSON' 'length == 7 and all(.version == 1) and (map(.size) | add) == 7163690'
here 'a short search, as JSON' 0 --json search /size/
json 'a short search, as JSON' 'length == 7 and all(keys == ["path"])'
here 'stats, as JSON' 0 --json stats
json 'stats, as JSON' 'length == 1 and (.[0] | length > 5 and all(type == "number"))'
here 'ping, as JSON' 0 --json ping
json 'ping, as JSON' '.[0].sequence > 10'
here 'flush, as JSON' 0 --json flush
json 'flush, as JSON' '.[0].flushed'
here 'delete, as JSON' 0 --json delete '/json/"quoted"\'
json 'delete, as JSON' '.[0] | .deleted and .version == 1'

# --- paths of any bytes ---
odd=$'/odd/\xff\x01\n'
here 'insert at a path that is no text' 0 insert "$odd" "$work/in"
is "$where: its path is shown without control bytes" grep -qF '/odd/\xff\x01\x0a: version 1' "$work/out"
here 'search for it, as JSON' 0 --json search /odd/
json 'search for it, as JSON' '.[0] | has("path") == false and .path_base64 == "L29kZC//AQo="'
here 'get of it' 0 get "$odd"
same 'get of it: the same' "$work/in"
here 'get of it, by base64' 0 --base64 get L29kZC//AQo=
same 'get of it, by base64: the same' "$work/in"
here 'insert at a path with a zero byte' 0 --base64 insert L29kZC8AeA== "$work/in"
here 'search for it by base64' 0 --base64 --json search L29kZC8A
json 'search for it by base64' 'map(.path) == ["/odd/\u0000x"]'
here 'insert at a path of letters beyond ASCII' 0 --json insert '/odd/grün' "$work/in"
json 'insert at a path of letters beyond ASCII' '.[0].path == "/odd/grün"'
long=$(printf '%01024d' 7)
here 'insert at a path of 1,024 bytes' 0 insert "$long" "$work/in"
here 'get of a path of 1,024 bytes' 0 get "$long"
same 'get of a path of 1,024 bytes: the same' "$work/in"
here 'a path that looks like an option' 0 insert -- --path "$work/in"
here 'get of a path that looks like an option' 0 get -- --path

# --- progress ---
command=$(printf '%q ' "$streamdb" "${place[@]}" insert /slow)
script -qec "{ for i in 1 2 3 4 5 6 7 8; do head -c 400000 /dev/zero; sleep 0.1; done; } | $command" /dev/null >"$work/out" 2>&1
printed 'a slow transfer shows its progress on a terminal' '[0-9.]+ [KM]B  [0-9.]+ [KM]?B/s'
printed 'and then what was stored' 'stored /slow: version 1, 3,200,000 bytes'

# --- ends ---
here 'delete' 0 delete /v
here 'delete again' 3 delete /v
here 'flush' 0 flush
here 'ping' 0 ping
