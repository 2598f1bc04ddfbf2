#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prove the library on a CPU that this machine emulates (tools/machine.sh lists them): the C tests, generated C, and the
# bits of every operation, equal to this machine's; on aarch64 the Python tests too.
set -euo pipefail
cd "$(dirname "$0")/.."
machine=$1
# shellcheck source=tools/machine.sh
. tools/machine.sh

.venv/bin/python tests/c/run.py --cc "$triple-gcc" --flags=-static --arch "${triple%%-*}" --run "${emulator[*]}" --stride 20011
.venv/bin/python tests/devices/run.py "$machine"
tools/bits.sh "$machine"
[ "$machine" != aarch64 ] || HYPOTHESIS_PROFILE=brief \
  tools/tests.sh "not slow and not huge and not peers and not native_only" tools/variant.sh "$machine"
