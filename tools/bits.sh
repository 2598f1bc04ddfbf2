#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/bits.py must print the same everywhere: each instruction set of this CPU, x86 without AVX, arm64, no OpenMP.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python out=$PWD/build/bits.txt
mkdir -p build

same() { # WHERE COMMAND...
  printf '%-8s ' "$1"
  "${@:2}" tests/bits.py --compare "$out" || differ=1
}

NORMCPU_ISA=scalar $python tests/bits.py >"$out"
differ=0
for isa in $($python -c 'from normcpu import _core; print(*(i for i in _core.isas_built() if _core.isa_supported(i)))'); do
  same "$isa" env NORMCPU_ISA="$isa" $python
done
# x86 without AVX.  OpenBLAS needs telling, or it takes the host's CPU for granted and dies.
same nehalem env OPENBLAS_CORETYPE=Nehalem qemu-x86_64-static -cpu Nehalem $python
same serial tools/variant.sh serial
same aarch64 tools/variant.sh aarch64
exit $differ
