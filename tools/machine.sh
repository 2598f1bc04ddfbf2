# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
# The foreign CPUs that this library is tried on, to be sourced after `machine=NAME`: what Debian, gcc and setup.py call
# each, and what runs its programs here.  A tool that is missing is named with its package.

case $machine in
aarch64) # Not the default CPU: emulating its pointer authentication takes seven times as long.
  arch=aarch64 debian=arm64 triple=aarch64-linux-gnu emulator=(qemu-aarch64-static -cpu cortex-a72)
  ;;
armv7) # VFP, and scalar.h alone: the vectors of NEON flush subnormals here.
  arch=arm debian=armhf triple=arm-linux-gnueabihf emulator=(qemu-arm-static -cpu cortex-a15)
  ;;
riscv64)
  arch=riscv64 debian=riscv64 triple=riscv64-linux-gnu emulator=(qemu-riscv64-static)
  ;;
x86-baseline) # The last CPU without AVX.  Of the C tests, those of scalar.h: the others would be illegal instructions.
  arch=none debian="" triple=x86_64-linux-gnu emulator=(qemu-x86_64-static -cpu Nehalem)
  ;;
*)
  echo "unknown machine $machine: see tools/machine.sh" >&2
  exit 2
  ;;
esac

# need PROGRAM PACKAGES...
need() {
  command -v "$1" >/dev/null || { echo "$0: no $1 here.  On Debian: apt-get install ${*:2}" >&2; exit 2; }
}
need "$triple-gcc" "gcc-${triple/_/-}" ${debian:+libc6-dev-$debian-cross}
need "${emulator[0]}" qemu-user-static
