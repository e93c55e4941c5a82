#!/usr/bin/env bash
# Runs both test suites with an environment's Python: scripts/run_tests.sh VENV
#
# The second one runs also when the first one fails; both closing lines come again at the end, and it fails if either
# suite does.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

python="$(cd "$1/bin" && pwd)/python"
color=no
if [ -t 1 ]; then color=yes; fi
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
failed=0

suite() { # FOLDER [OPTION ...]
    local folder=$1 output="$outputs/${#closing[@]}"
    shift
    (cd "$folder" && "$python" -m pytest -q -n 2 --dist loadfile --color="$color" "$@") | tee "$output" || failed=1
    closing+=("$(tail -n 1 "$output")")
}

closing=()
suite .
suite integrations/langchain --benchmark-disable
printf '\ntests: %s\nintegrations/langchain/tests: %s\n' "${closing[@]}"
exit "$failed"
