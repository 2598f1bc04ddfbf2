#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build a copy of the tree in another way, under build/, and run Python in it:
#
#     tools/variant.sh serial  -m pytest      without OpenMP
#     tools/variant.sh asan    -m pytest -s   AddressSanitizer and UBSan (-s: pytest would swallow a report)
#     tools/variant.sh asan-flags             prints the flags of asan
#     tools/variant.sh tsan    -m pytest -s   ThreadSanitizer: clang, LLVM's OpenMP, and Archer, which knows its barriers
#     tools/variant.sh aarch64 -m pytest      a Debian Python for arm64 under qemu-user; armv7, riscv64: without pytest
#     tools/variant.sh x86-baseline -m pytest this Python, on an emulated CPU without AVX
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

# Python and NumPy for a foreign CPU, of the first Debian that has them for riscv64; PyPI has the tests' requirements
# for arm64 alone.  sys.executable must be something that this machine can run.
foreign_python() {
  local part=$system.part
  rm -rf "$part"
  "$root/tools/foreign.sh" trixie "$debian" "$part" python3 python3-numpy libpython3-dev libgomp1 libstdc++6
  version=$(cd "$part/usr/include" && echo python3.*)
  mkdir "$part/site"
  [ "$debian" != arm64 ] || "$root/.venv/bin/pip" install --quiet --target "$part/site" \
    --requirement "$root/.venv/have-test.txt" --python-version "${version#python}" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64
  echo "import sys; sys.executable = '$system/python'" >"$part/site/sitecustomize.py"
  cat >"$part/python" <<END
#!/bin/sh
export PYTHONHOME='$system/usr' PYTHONPATH="\$PYTHONPATH:$system/site"
exec ${emulator[*]} -L '$system' -E LD_LIBRARY_PATH='$system/usr/lib/$triple/blas:$system/usr/lib/$triple/lapack' \
  '$system/usr/bin/$version' "\$@"
END
  chmod +x "$part/python"
  mv "$part" "$system"
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
aarch64 | armv7 | riscv64)
  machine=$name
  # shellcheck source=tools/machine.sh
  . "$root/tools/machine.sh"
  system=$root/build/$debian
  [ -d "$system" ] || foreign_python
  # Of the C library's own headers, which are the cross compiler's, only the folder that has pyconfig.h.
  mkdir -p "$tree/headers"
  ln -sfn "$system/usr/include/$triple" "$tree/headers/$triple"
  export CC=$triple-gcc LDSHARED="$triple-gcc -shared"
  CFLAGS="-I$tree/headers -I$(echo "$system"/usr/include/python3.*)"
  export CFLAGS="$CFLAGS -I$system/usr/lib/python3/dist-packages/numpy/_core/include"
  export _PYTHON_HOST_PLATFORM=linux-$debian SETUPTOOLS_EXT_SUFFIX=.so NORMCPU_TARGET_ARCH=$arch
  export GOMP_SPINCOUNT=1000 # an emulated thread that spins keeps the others from working
  run=("$system/python")
  ;;
x86-baseline) # OpenBLAS needs telling, or it takes the host's CPU for granted and dies.
  machine=$name
  # shellcheck source=tools/machine.sh
  . "$root/tools/machine.sh"
  run=(env OPENBLAS_CORETYPE=Nehalem "${emulator[@]}" "${run[@]}")
  reuse=("$root"/build/temp.*)
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
