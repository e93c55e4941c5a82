#!/usr/bin/env bash
# Builds the source distributions and wheels of both packages into dist/: scripts/release.sh PYTHON
#
# Of what is committed, so that nothing that lies around gets in. Then what is in them is checked, and the wheels are
# installed into a clean environment, where the demo and the README's example have to run. Tags and uploads nothing.
set -euo pipefail

python=$(realpath --no-symlinks "$1")
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

git diff --quiet HEAD || echo "What is not committed is left out."
mkdir "$work/source"
git archive HEAD | tar -x -C "$work/source"

echo "Building ..."
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
rm -rf dist
for package in . integrations/langchain; do
    "$work/build/bin/python" -m build --outdir "$root/dist" "$work/source/$package" >"$work/build.log" 2>&1 ||
        { tail -n 20 "$work/build.log"; exit 1; }
done
"$python" scripts/check_release.py dist "$work/source"

echo "Installing the wheels into a clean environment ..."
"$python" -m venv "$work/clean"
"$work/clean/bin/pip" install --quiet --constraint constraints.txt torch
"$work/clean/bin/pip" install --quiet dist/*.whl
cd "$work" # away from the checkout, so that only what is installed can be imported
"$work/clean/bin/kv-memory" demo
"$work/clean/bin/python" -c "from langchain_kv_memory import ErasableChatModel"
awk '/^```python/ { inside = 1; next } /^```/ { if (inside) exit } inside' "$root/README.md" >example.py
OMP_WAIT_POLICY=PASSIVE "$work/clean/bin/python" example.py | tee example.txt
[ "$(sed -n '1p;$p' example.txt)" = "$(printf 'delivered\nunknown')" ] || { echo "The example says something else."; exit 1; }
echo "Built and checked: $(cd "$root" && echo dist/*)"
