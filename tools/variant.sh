#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build a copy of the tree in another way, under build/, and run Python in it:
#
#     tools/variant.sh serial  -m pytest      without OpenMP
#     tools/variant.sh asan    -m pytest -s   AddressSanitizer and UBSan (-s: pytest would swallow a report)
#     tools/variant.sh asan-flags             prints the flags of asan
#     tools/variant.sh tsan    -m pytest -s   ThreadSanitizer: clang, LLVM's OpenMP, and Archer, which knows its barriers
#     tools/variant.sh aarch64 -m pytest      a Debian Python for arm64 under qemu-user
set -euo pipefail
name=$1
shift
# gcc takes 100 s for one file of plain C with -g (its tracking of variables) and with every lane's scope marked.
asan="-fsanitize=address,undefined -fno-sanitize-address-use-after-scope -fno-omit-frame-pointer -g1 -O1"
[ "$name" != asan-flags ] || { echo "$asan"; exit; }
root=$(cd "$(dirname "$0")/.." && pwd)
tree=$root/build/$name
build=("$root/.venv/bin/python")
run=("$root/.venv/bin/python")
reuse=()

# The arm64 Python: this one's minor version must be this Debian's.
foreign_python() {
  "$root/tools/foreign.sh" arm64 "$system" python3 "libpython$version-dev" libgomp1 libstdc++6
  "$root/.venv/bin/pip" install --quiet --target "$system/site" --requirement "$root/.venv/have-test.txt" \
    --python-version "$version" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64
}

case $name in
serial)
  export NORMCPU_NO_OPENMP=1
  reuse=("$root"/build/temp.*) # the objects are the same
  ;;
asan)
  export CFLAGS=$asan LDFLAGS="-fsanitize=address,undefined"
  # malloc returns NULL for what it cannot give, as everywhere: tests ask for it.
  export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  run=(env LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" "${run[@]}")
  ;;
tsan)
  export CC=clang-19 LDSHARED="clang-19 -shared"
  export CFLAGS="-fsanitize=thread -shared-libsan -g -O1" LDFLAGS="-fsanitize=thread -shared-libsan"
  export OMP_TOOL_LIBRARIES TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1 OPENBLAS_NUM_THREADS=1
  OMP_TOOL_LIBRARIES=$(llvm-config-19 --libdir)/libarcher.so
  run=(env LD_PRELOAD="$(clang-19 -print-file-name=libclang_rt.tsan-x86_64.so)" "${run[@]}")
  ;;
aarch64)
  triple=aarch64-linux-gnu system=$root/build/arm64
  version=$("${build[@]}" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [ -d "$system" ] || foreign_python
  # Only pyconfig.h's folder: the C library's own headers are the cross compiler's.
  mkdir -p "$tree/headers"
  ln -sfn "$system/usr/include/$triple" "$tree/headers/$triple"
  export CC=$triple-gcc LDSHARED="$triple-gcc -shared"
  export CFLAGS="-I$tree/headers -I$system/usr/include/python$version"
  export _PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX=.so NORMCPU_TARGET_ARCH=aarch64
  # Not the default CPU: emulating its pointer authentication takes seven times as long.
  run=(env PYTHONHOME="$system/usr" PYTHONPATH="$tree:$system/site" qemu-aarch64-static -cpu cortex-a72 -L "$system"
    "$system/usr/bin/python$version")
  ;;
*)
  echo "unknown variant $name: see the top of $0" >&2
  exit 2
  ;;
esac

mkdir -p "$tree/build"
cd "$root"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from - | tar --extract --directory "$tree"
((${#reuse[@]} == 0)) || cp --archive --update --target-directory "$tree/build" "${reuse[@]}"
cd "$tree"
"${build[@]}" setup.py --quiet build_ext --inplace
export PYTHONPATH=$tree
exec "${run[@]}" "$@"
