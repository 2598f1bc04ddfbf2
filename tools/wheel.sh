#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build sdist and wheel, check the wheel's size and the time a clean build takes, and test the wheel on every CPython
# from 3.11 that is here: the first with the oldest NumPy that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."
max_bytes=1000000 max_seconds=60
python=$PWD/.venv/bin/python
rm -rf dist build/wheel
mkdir -p build/wheel

# The limit is on the processors' time, which a busy machine does not lengthen: two cores for so long.
TIMEFORMAT="%R %U %S"
took=$({ time $python -m build --no-isolation >build/wheel/log 2>&1; } 2>&1) || { cat build/wheel/log; exit 1; }
read -r real user system <<<"$took"
echo "clean build, with packing and unpacking: $real s, of the processors $user + $system s"
awk "BEGIN { exit $user + $system > 2 * $max_seconds }" || { echo "more than 2 x $max_seconds s"; exit 1; }

wheel=$(echo "$PWD"/dist/*.whl)
bytes=$(stat --format %s "$wheel")
echo "${wheel##*/}: $bytes bytes"
$python -m zipfile --list "$wheel"
((bytes <= max_bytes)) || { echo "more than $max_bytes bytes"; exit 1; }

cp -r tests pyproject.toml build/wheel
numpy=$(sed -n 's/^dependencies = \["numpy>=\(.*\)"\]$/numpy==\1.*/p' pyproject.toml)
for minor in 11 12 13 14; do
  # pyenv's own first: its shim on PATH may stand for no interpreter.
  found=$(compgen -G "$HOME/.pyenv/versions/3.$minor.*/bin/python" || command -v "python3.$minor" || true)
  [ -n "$found" ] || { echo "CPython 3.$minor: not here"; continue; }
  venv=build/wheel/venv-3.$minor
  "$found" -m venv "$venv"
  "$venv/bin/pip" install --quiet --requirement .venv/have-test.txt "${numpy:-numpy}" "$wheel"
  (cd build/wheel && "venv-3.$minor/bin/python" -m pytest -q -m "not slow and not huge and not peers" \
    tests/test_batch_norm.py tests/test_layers.py tests/test_moments.py)
  (cd build/wheel && "venv-3.$minor/bin/python" -c 'import importlib.metadata as installed, normcpu._core as c
assert installed.version("normcpu") == c.version, "__init__.py and normcpu.h say different versions"')
  numpy=
done
