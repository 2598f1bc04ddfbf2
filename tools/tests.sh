#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The Python tests that pytest's expression MARKS selects: on every core, and then, one after the other, those that
# want the machine or its memory for themselves (the marks alone and huge).
#
#     tools/tests.sh "not peers" .venv/bin/python [ARGUMENTS OF PYTEST]
#     tools/tests.sh "not peers" tools/variant.sh asan [-s]
set -uo pipefail
marks=$1 run=()
shift
while (($#)) && [[ $1 != -* && $1 != tests/* ]]; do
  run+=("$1")
  shift
done

# Generated C is compiled by its own tests, the same in each variant of the library.
[[ ${run[0]} != tools/variant.sh ]] || set -- --ignore-glob='*/test_embed_*' "$@"
status=0
# Teams of several processes share the cores here: whoever waits must not spin.
GOMP_SPINCOUNT=1000 "${run[@]}" -m pytest -q -n auto --dist worksteal -m "($marks) and not (alone or huge)" "$@" || status=$?
"${run[@]}" -m pytest -q -m "($marks) and (alone or huge)" "$@" || status=$?
exit $status
