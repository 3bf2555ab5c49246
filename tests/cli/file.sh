# SPDX-License-Identifier: LGPL-3.0-or-later
# file.sh: what only a database file does.
# shellcheck shell=bash disable=SC2154

for command in 'get /a' 'search' 'stat /a' 'versions /a' 'delete /a' 'flush' 'stats' 'ping' 'check'; do
  # shellcheck disable=SC2086
  runs "file: $command on a file that is not there" 1 --database "$work/none.sdb" $command
  complained "$command on a file that is not there: names it" 'none\.sdb'
done
is 'file: none of them made it' test ! -e "$work/none.sdb"
runs 'file: insert of what cannot be read' 1 --database "$work/none.sdb" insert /a "$work/missing"
is 'file: and no database is made for it' test ! -e "$work/none.sdb"
runs 'file: insert where there is no folder' 1 --database "$work/no/folder/new.sdb" insert /a "$work/in"
complained 'insert where there is no folder: says that' 'folder does not exist'
printf 'no database' >"$work/text"
runs 'file: a file that is no database' 1 --database "$work/text" search
is 'file: and it is left as it was' test "$(<"$work/text")" = 'no database'

before=$(sha256sum "$work"/file.sdb*)
for command in 'get /digits' 'search -l' 'stat /digits' 'versions /digits' 'stats' 'ping' 'check'; do
  # shellcheck disable=SC2086
  here "$command, reading only" 0 $command
done
is 'file: reading changes nothing' test "$before" = "$(sha256sum "$work"/file.sdb*)"

here 'check' 0 check
printed 'check: finds nothing' ' problems 0$'
here 'check, as JSON' 0 --json check
json 'check, as JSON' '.[0] | .checked and .problems == 0 and .sentences == [] and .documents > 10'

# A second user is told so.
"$streamdb" "${place[@]}" insert /locked <(sleep 2; echo held) >/dev/null &
holder=$!
sleep 0.5
here 'a file that is in use' 1 insert /x "$work/in"
complained 'a file that is in use: says so' 'in use'
wait "$holder"
here 'when it is free again' 0 get /locked

# A limit on the size of files stands for a disk that is full: there is no room for the log.
real=$streamdb
on_a_full_disk() (
  trap '' XFSZ
  ulimit -f 8192
  "$real" "$@"
)
streamdb=on_a_full_disk
here 'insert on a full disk' 1 insert /more "$work/in"
complained 'insert on a full disk: names the file' 'file\.sdb: '
complained 'insert on a full disk: names the reason' 'no space'
streamdb=$real
here 'nothing was inserted' 3 get /more

# Damage in the middle of a large content.
cp "$work/file.sdb" "$work/bad.sdb"
content=$(LC_ALL=C grep -abom1 'marked for damage' "$work/bad.sdb" | head -n 1 | cut -d: -f1)
is 'file: the content to damage is not there yet' test -z "$content"
{
  head -c 2000000 /dev/zero
  printf 'marked for damage'
  head -c 2000000 /dev/zero
} | "$streamdb" --database "$work/bad.sdb" insert /damaged >/dev/null
content=$(LC_ALL=C grep -abom1 'marked for damage' "$work/bad.sdb" | head -n 1 | cut -d: -f1)
is 'file: the content to damage is found' test -n "$content"
printf 'X' | dd of="$work/bad.sdb" bs=1 seek="$content" conv=notrunc status=none
runs 'file: get of a damaged document' 1 --database "$work/bad.sdb" get /damaged -o "$work/damaged"
is 'file: and no file is made of it' test ! -e "$work/damaged"
runs 'file: another document is not affected' 0 --database "$work/bad.sdb" get /digits
"$streamdb" --database "$work/bad.sdb" check >"$work/out" 2>"$work/err"
is 'file: check of a damaged file fails' test $? = 1
printed 'check of a damaged file: says what is wrong' '^problem: '
"$streamdb" --database "$work/bad.sdb" --json check >"$work/out" 2>"$work/err"
json 'check of a damaged file, as JSON' '.[0] | .problems > 0 and (.sentences | length) > 0'

# Whole files. The damaged content above is the only loss.
runs 'backup' 0 --database "$work/file.sdb" backup "$work/copy.sdb"
printed 'backup: says what it copied' 'backed up, documents'
runs 'backup: does not overwrite' 1 --database "$work/file.sdb" backup "$work/copy.sdb"
runs 'backup: replaces when told to' 0 --database "$work/file.sdb" --json backup --replace "$work/copy.sdb"
json 'backup, as JSON' '.[0] | .documents > 10 and .bytes > 0'
runs 'verify' 0 verify "$work/copy.sdb"
printed 'verify: finds nothing' ' problems 0$'
runs 'verify, as JSON' 0 --json verify "$work/copy.sdb"
json 'verify, as JSON' '.[0] | .verified and .contents and .clean and .problems == 0'
runs 'verify of nothing' 1 verify "$work/none.sdb"
runs 'restore' 0 restore "$work/copy.sdb" "$work/restored.sdb"
runs 'restore: does not overwrite' 1 restore "$work/copy.sdb" "$work/restored.sdb"
runs 'restore: the documents are there' 0 --database "$work/restored.sdb" stat /digits
"$streamdb" verify "$work/bad.sdb" >"$work/out" 2>"$work/err"
is 'verify of a damaged file fails' test $? = 1
runs 'repair' 0 repair "$work/bad.sdb" --output "$work/mended.sdb"
printed 'repair: says what is lost' '^lost: /damaged, version 1'
runs 'repair: the others are there' 0 --database "$work/mended.sdb" get /digits
runs 'repair: the lost one is not' 3 --database "$work/mended.sdb" stat /damaged
runs 'repair, as JSON' 0 --json repair "$work/bad.sdb" --output "$work/mended2.sdb"
json 'repair, as JSON' '.[0] | .repaired and .lost >= 1 and .documents > 10'

# The decoder follows the file from the header to a record, and says what is damaged.
runs 'inspect' 0 inspect "$work/copy.sdb"
printed 'inspect: a slot counts' '^slot slot=A state=counts '
runs 'inspect, as JSON' 0 --json inspect "$work/copy.sdb" header
json 'inspect, as JSON' '.[0] | .what == "slot" and .clean == 1'
logical=$(jq -r 'select(.slot == "A") | .path_tree' "$work/out")
runs 'inspect map' 0 inspect "$work/copy.sdb" map
printed 'inspect map: a heap page' ' kind=heap '
while runs 'inspect logical' 0 --json inspect "$work/copy.sdb" logical "$logical"; do
  jq -e 'select(.what == "tree" and .level > 0)' "$work/out" >/dev/null || break
  logical=$(jq -r 'select(.what == "tree") | .leftmost' "$work/out")
done
is 'inspect: the path tree leads to documents' jq -s -e 'any(.[]; .what == "key" and .document > 0)' "$work/out"
runs 'inspect: a page that is not there' 1 inspect "$work/copy.sdb" page 99999999
runs 'inspect: wrong use' 2 inspect "$work/copy.sdb" page
runs 'inspect: no file' 1 inspect "$work/none.sdb"
cp "$work/copy.sdb" "$work/flipped.sdb"
printf 'X' | dd of="$work/flipped.sdb" bs=1 seek=100 conv=notrunc status=none
"$streamdb" inspect "$work/flipped.sdb" >"$work/out" 2>"$work/err"
is 'inspect of a damaged slot fails' test $? = 1
printed 'inspect of a damaged slot: the other one counts' '^slot slot=B state=counts '
