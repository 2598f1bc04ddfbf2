#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prove the library on a CPU that this machine emulates (tools/machine.sh lists them): the C tests, the library in one
# file, generated C, and the bits of every operation, equal to this machine's; on aarch64 the Python tests too.
set -euo pipefail
cd "$(dirname "$0")/.."
machine=$1
# shellcheck source=tools/machine.sh
. tools/machine.sh

.venv/bin/python tests/c/run.py --cc "$triple-gcc" --flags=-static --arch "$arch" --run "${emulator[*]}" \
  --stride 20011 --share 11

# The C library in one file, for the instruction set that this compiler's flags allow.
single=build/single-$machine
.venv/bin/python tools/amalgamate.py "$single"
"$triple-gcc" -std=c11 -O2 -Wall -Wextra -Wconversion -pedantic -Werror -c "$single/normcpu.c" -o "$single/normcpu.o"
"$triple-gcc" -std=c11 -O2 -static -I"$single" tests/c/test_promises.c "$single/normcpu.o" -o "$single/test_promises" -lm
"${emulator[@]}" "$single/test_promises" 20011 11
echo "$machine: the library in one file keeps its promises"

.venv/bin/python tests/devices/run.py "$machine"
tools/bits.sh "$machine"
# Every fifth of a test's cases, and not what is the same on each CPU and takes long here: training networks, a hundred
# pools of forked processes, and large arrays on threads.
[ "$machine" != aarch64 ] || HYPOTHESIS_PROFILE=emulated tools/tests.sh "not slow and not huge and not peers" \
  tools/variant.sh aarch64 --share 5 -k "not fork and not test_examples and not (test_same_bits and test_threads)"
