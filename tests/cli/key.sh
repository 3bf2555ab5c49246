# SPDX-License-Identifier: LGPL-3.0-or-later
# key.sh: encrypted database files: keys from files and from the environment, recovery copies, change of the key; and a service that
# has one.
# shellcheck shell=bash disable=SC2154

umask 077
where=key place=(--database "$work/secret.sdb")
head -c 32 /dev/urandom >"$work/key.raw"
od -An -v -tx1 "$work/key.raw" | tr -d ' \n' >"$work/key.hex"
echo >>"$work/key.hex"
head -c 32 /dev/urandom >"$work/key.new"
printf 'a secret thing' >"$work/secret"

here 'a file is made with a key' 0 --key-file "$work/key.raw" insert /hidden/path "$work/secret"
is 'key: no path and no content stands in the file' bash -c "! grep -qE 'hidden|secret thing' '$work'/secret.sdb*"
before=$(sha256sum "$work"/secret.sdb)
here 'without its key' 1 get /hidden/path
complained 'without its key: says so' 'is encrypted'
here 'with another key' 1 --key-file "$work/key.new" get /hidden/path
complained 'with another key: says so' 'does not open'
is 'key: and the file is as it was' test "$before" = "$(sha256sum "$work"/secret.sdb)"
here 'with the key in digits' 0 --key-file "$work/key.hex" get /hidden/path
same 'with the key in digits: the content' "$work/secret"
STREAMDB_KEY_FILE=$work/key.hex here 'with the file of the environment' 0 get /hidden/path
STREAMDB_KEY=$(<"$work/key.hex") here 'with the digits of the environment' 0 get /hidden/path
STREAMDB_KEY_FILE=$work/key.new here 'the option is asked first' 0 --key-file "$work/key.raw" get /hidden/path
STREAMDB_KEY=zz here 'nonsense in the environment' 1 get /hidden/path
complained 'nonsense in the environment: says where' 'STREAMDB_KEY '
here 'a key file that is not there' 1 --key-file "$work/none" get /hidden/path
complained 'a key file that is not there: names it' "$work/none"
here 'a key in the place of its file' 1 --key-file "$(<"$work/key.hex")" get /hidden/path
complained 'a key in the place of its file: is not repeated' 'a key itself was given'
is 'key: nor is it' bash -c "! grep -qF '$(<"$work/key.hex")' '$work/err'"
here 'what is no key' 1 --key-file "$work/secret" get /hidden/path
complained 'what is no key: says what one is' '64 hexadecimal digits'
chmod 644 "$work/key.raw"
"$streamdb" "${place[@]}" --key-file "$work/key.raw" stat /hidden/path >"$work/out" 2>"$work/err"
is 'key: a key file that others may read does not stop it' test $? = 0
complained 'a key file that others may read: is warned of' 'chmod 600'
chmod 600 "$work/key.raw"

here 'check' 0 --key-file "$work/key.raw" check
printed 'check: judges documents' 'documents 1, contents '

# Every checksum without the key: a byte in the middle of a large content.
head -c 300000 /dev/urandom >"$work/large"
here 'a large one' 0 --key-file "$work/key.raw" insert /large "$work/large"
here 'check without the key' 0 check
printed 'check without the key: says what it did not do' 'problems 0; only checksums were judged'
here 'check without the key, as JSON' 0 --json check
json 'check without the key, as JSON' '.[0] | .checked and .problems == 0 and (.contents | not)'
here 'check with another key' 1 --key-file "$work/key.new" check
runs 'verify without the key' 0 --json verify "$work/secret.sdb"
json 'verify without the key' '.[0] | .verified and .problems == 0 and (.contents | not)'
page=$("$streamdb" --json --database "$work/secret.sdb" --key-file "$work/key.raw" check | jq .pages)
for ((page--; page > 0; page--)); do
  "$streamdb" --json inspect "$work/secret.sdb" page "$page" >"$work/out" 2>/dev/null || continue
  jq -se 'any(.what == "content")' "$work/out" >/dev/null && break
done
json 'inspect without the key: runs and chunks of a large content' \
  '[.[].what] == ["unit", "content", "run", "chunk", "chunk", "chunk", "chunk", "chunk"]'
json 'inspect without the key: neither path nor size' '.[1] | has("path") or has("size") | not'
cp "$work/secret.sdb" "$work/flipped.sdb"
at=$((page * 8192 + 200000))
old=$(dd if="$work/flipped.sdb" bs=1 skip=$at count=1 status=none | od -An -tu1)
printf "\\x$(printf %02x $((old ^ 1)))" | dd of="$work/flipped.sdb" bs=1 seek=$at conv=notrunc status=none
"$streamdb" --database "$work/flipped.sdb" check >"$work/out" 2>"$work/err"
is 'key: check of a damaged content without the key fails' test $? = 1
printed 'check of a damaged content without the key: says where' \
  "^problem: chunk [0-9] of the large content at physical page $page does not match its checksum"
here 'the large one goes' 0 --key-file "$work/key.raw" delete /large

here 'export' 0 --key-file "$work/key.raw" key export
printed 'export: a recovery copy' '^recovery:[0-9a-f]{64}$'
cp "$work/out" "$work/key.recovery"
here 'export, as JSON' 0 --json --key-file "$work/key.raw" key export
json 'export, as JSON' '.[0].recovery_key | test("^recovery:[0-9a-f]{64}$")'
here 'change' 0 --key-file "$work/key.raw" key change "$work/key.new"
here 'with the key before' 1 --key-file "$work/key.raw" get /hidden/path
here 'with the new key' 0 --key-file "$work/key.new" get /hidden/path
same 'with the new key: the content' "$work/secret"
here 'with the recovery copy' 0 --key-file "$work/key.recovery" get /hidden/path
here 'to a recovery copy' 1 --key-file "$work/key.new" key change "$work/key.recovery"
complained 'to a recovery copy: says why not' 'no key to change to'
here 'change by the recovery copy' 0 --json --key-file "$work/key.recovery" key change "$work/key.raw"
json 'change by the recovery copy' '.[0].changed'
here 'with the first key again' 0 --key-file "$work/key.raw" get /hidden/path

runs 'key: a key for a file that has none' 1 --database "$work/file.sdb" --key-file "$work/key.raw" get /digits
complained 'a key for a file that has none: says so' 'not encrypted'
runs 'key: export of a file that has none' 1 --database "$work/file.sdb" key export

# A service with a key, from a file and from the environment.
"$streamdbd" --database "$work/secret.sdb" --listen 'tcp://127.0.0.1:*' --events 'tcp://127.0.0.1:*' 2>"$work/err"
is 'key: a service without the key does not start' test $? = 1
complained 'a service without the key: says why' 'is encrypted'
"$streamdbd" --database "$work/secret.sdb" --key-file "$work/none" 2>"$work/err"
is 'key: nor with a key file that is not there' test $? = 1
export STREAMDB_KEY_FILE=$work/key.raw
start_service "$work/secret.sdb"
unset STREAMDB_KEY_FILE
runs 'key: a service with the key answers' 0 --server "$endpoint" get /hidden/path
same 'a service with the key: the content' "$work/secret"
runs 'key: and stores' 0 --server "$endpoint" insert /hidden/too "$work/secret"
stop_service
is 'key: still nothing is readable' bash -c "! grep -qE 'hidden|secret thing' '$work'/secret.sdb*"
here 'what the service stored' 0 --key-file "$work/key.raw" get /hidden/too
same 'what the service stored' "$work/secret"
