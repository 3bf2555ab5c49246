#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# symbols.sh LIBRARY INCLUDE: what the shared library exports is exactly what its public headers declare.
set -euo pipefail
exported=$(nm -D --defined-only "$1" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
declared=$(find "$2" -name '*.h' -exec grep -hE '^SDBC?_API ' {} + | grep -oE '\bsdbc?_[a-z0-9_]+ *\(' | tr -d ' (' | sort)
[[ -n $declared ]] || { echo "no declaration found below $2" && exit 1; }
diff <(echo "$declared") <(echo "$exported") || { echo "< declared only, > exported only" && exit 1; }
echo "$(wc -l <<<"$exported") functions, exported as declared."
