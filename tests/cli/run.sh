#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# run.sh STREAMDB STREAMDBD: the command line tool, on a service and on a file. Says "ok" or "not ok" of everything it tries and
# ends with "N passed, N failed".
set -uo pipefail
streamdb=$1 streamdbd=$2
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
completion=$tests/../../cli/completion/streamdb
work=$(mktemp -d)
service=''
export LC_ALL=C.UTF-8
unset STREAMDB_SERVER STREAMDB_EVENTS STREAMDB_KEY_FILE STREAMDB_KEY
# shellcheck source=tests/cli/lib.sh
source "$tests/lib.sh"
trap 'stop_service; rm -rf "$work"' EXIT

command -v jq >/dev/null || {
  echo "Bail out! jq is missing, which reads the JSON (Debian: jq)"
  exit 1
}
where=usage
place=()
# shellcheck source=tests/cli/usage.sh
source "$tests/usage.sh"

start_service "$work/served.sdb"
where=service place=(--server "$endpoint" --events "$events")
# shellcheck source=tests/cli/documents.sh
source "$tests/documents.sh"
# shellcheck source=tests/cli/service.sh
source "$tests/service.sh"
stop_service

where=file place=(--database "$work/file.sdb")
# shellcheck source=tests/cli/documents.sh
source "$tests/documents.sh"
# shellcheck source=tests/cli/file.sh
source "$tests/file.sh"

# shellcheck source=tests/cli/key.sh
source "$tests/key.sh"

echo "$passed passed, $failed failed"
((failed == 0))
