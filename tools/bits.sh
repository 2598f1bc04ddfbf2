#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/bits.py must print the same everywhere: for each instruction set of this CPU, and without OpenMP; or, where
# variants of tools/variant.sh are named, in those.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
out=$(mktemp)
trap 'rm -f "$out"' EXIT

same() { # WHERE COMMAND...
  printf '%-12s ' "$1"
  "${@:2}" tests/bits.py --compare "$out" || differ=1
}

NORMCPU_ISA=scalar $python tests/bits.py >"$out"
differ=0
for variant; do same "$variant" tools/variant.sh "$variant"; done
(($#)) || {
  for isa in $($python -c 'from normcpu import _core; print(*(i for i in _core.isas_built() if _core.isa_supported(i)))'); do
    same "$isa" env NORMCPU_ISA="$isa" $python
  done
  same serial tools/variant.sh serial
}
exit $differ
