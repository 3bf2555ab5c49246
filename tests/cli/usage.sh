# SPDX-License-Identifier: LGPL-3.0-or-later
# usage.sh: what needs neither a service nor a file: help, and arguments that are wrong.
# shellcheck shell=bash disable=SC2154

runs 'help' 0 --help
printed 'help names the commands' '^  versions PATH'
printed 'help names the exit codes' '3 not found'
is 'help: commands stand in one column' test "$(grep -E '^  [a-z]' "$work/out" | grep -cvE '^  .{25}  [^ ]')" = 0
runs 'version' 0 --version
printed 'version is a number' '^streamdb [0-9]+\.[0-9]+\.[0-9]+$'
commands=(insert get stream search delete stat versions watch flush stats ping check key backup verify restore repair inspect)
for command in "${commands[@]}"; do
  runs "help of $command" 0 "$command" --help
  printed "help of $command says how it is used" "^usage: streamdb $command "
  is "help of $command: no line ends in a space" bash -c '! grep -q " $" "$1"' _ "$work/out"
done

runs 'no command' 2
complained 'no command: says so' '^streamdb: a command is missing'
runs 'an unknown command' 2 frobnicate
runs 'an unknown option' 2 get --frobnicate /a
runs 'an option of another command' 2 get --limit 3 /a
runs 'an operand too few' 2 get
runs 'an operand too many' 2 get /a /b
runs 'an operand where none belongs' 2 flush now
runs 'no number' 2 search --limit many /a
runs 'a negative number' 2 stream --offset -1 /a
runs 'a number with something behind' 2 stream --length 10x /a
runs 'a number beyond all bounds' 2 stream --length 99999999999999999999 /a
complained 'a number beyond all bounds: names the bound' 'from 0 to 18446744073709551614,'
runs 'a version beyond all bounds' 2 get --version 4294967296 /a
complained 'a version beyond all bounds: names the bound' 'from 1 to 2147483647,'
runs 'an argument that would draw on the terminal' 1 --database "$work/escaped.sdb" insert /a $'\e[31m\nred'
complained 'an argument that would draw on the terminal: is escaped' "^streamdb: cannot read '.x1b.31m.x0ared': "
runs 'a version of 0' 2 get --version 0 /a
runs 'a service and a file' 2 --server tcp://127.0.0.1:1 --database x get /a
runs 'an empty path' 2 get ''
runs 'a path of 1,025 bytes' 2 get "$(printf '%01025d' 0)"
runs 'what is not base64' 2 --base64 get '@@@'
runs 'JSON and the content on one output' 2 --json get /a
runs 'watch on a file' 2 --database "$work/none.sdb" watch
complained 'watch on a file: names what it needs' 'needs a running service'
runs 'backup without a database' 2 backup x.sdb
runs 'verify of a service' 2 --server tcp://127.0.0.1:1 verify x.sdb
runs 'repair without a place for the new file' 2 repair x.sdb
runs 'inspect of what is not there' 2 inspect "$work/none.sdb" nothing 1 2
runs 'check of a service' 2 --server tcp://127.0.0.1:1 check
complained 'check of a service: names what it needs' '--database'
runs 'key of a service' 2 --server tcp://127.0.0.1:1 key export
complained 'key of a service: names what it needs' '--database'
runs 'key without a verb' 2 --database x key
runs 'key with another verb' 2 --database x key frobnicate
runs 'key change without a file' 2 --database x key change
runs 'key export with a file' 2 --database x key export y
runs 'a key file for a service' 2 --server tcp://127.0.0.1:1 --key-file x ping
runs 'what is no endpoint' 2 --server nonsense ping
runs 'a file without a name' 2 --database '' ping
complained 'a file without a name: says so' '--database needs the name of a file'
runs 'nobody at the endpoint' 1 --server tcp://127.0.0.1:1 --timeout 200 ping
complained 'nobody at the endpoint: names it' 'tcp://127\.0\.0\.1:1 '
STREAMDB_SERVER=tcp://127.0.0.1:2 runs 'nobody at the endpoint of the environment' 1 --timeout 200 ping
complained 'nobody at the endpoint of the environment: names it' 'tcp://127\.0\.0\.1:2 '

# --- completion ---
# completes EXPECTED WORD...: the words, the last being completed, give at least this one.
completes() (
  compopt() { :; }
  # shellcheck source=cli/completion/streamdb
  source "$completion"
  local expected=$1
  shift
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
  _streamdb
  printf '%s\n' "${COMPREPLY[@]}" | grep -qxF -- "$expected"
)
is 'completion of a command' completes versions streamdb ver
is 'completion of an option' completes --offset streamdb stream --o
is 'completion of an option before the command' completes --database streamdb --da
