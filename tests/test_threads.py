# SPDX-License-Identifier: Apache-2.0
"""The process around a call: threads, forks, signals, the environment.  Nothing here is timed; a hang fails by
the time limit of a child process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bits
import native
import pytest

import normcpu
from normcpu import _core

pytestmark = pytest.mark.alone
MOST_SECONDS = 120  # of a child: far more than it needs on any machine


def large() -> bits.Inputs:
    """16 MB: a team pays."""
    return bits.Inputs((4, 16, 65_536), bits.DTYPES["f32"])


def every_result(inputs: bits.Inputs) -> str:
    return bits.digest(bits.train(inputs) + bits.backward(inputs) + tuple(normcpu.moments(inputs.x)))


def child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        text=True,
        capture_output=True,
        timeout=MOST_SECONDS,
    )


def output(code: str, **environment: str) -> str:
    done = child(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- Threads ---------------------------------------------------------------------------------------------


def test_eight_python_threads_at_once() -> None:
    """Each with data of its own: whoever has the team, no result is another's."""
    _core.set_num_threads(2)
    inputs = [bits.Inputs((4, 16, 16_384), bits.DTYPES["f32"], seed=seed) for seed in range(8)]  # 4 MB: a team pays
    want = [every_result(i) for i in inputs]
    together = threading.Barrier(8, timeout=MOST_SECONDS)

    def work(i: bits.Inputs) -> list[str]:
        together.wait()
        return [every_result(i) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, inputs)) == [[each] * 5 for each in want]


# Run with tests/c/nested.c: every thread of a region of OpenMP's calls at once.
NESTED = f"""
    import ctypes, os, sys; sys.path.insert(0, {os.path.dirname(bits.__file__)!r})
    import bits, normcpu
    normcpu.set_num_threads(2)
    inputs = [bits.Inputs((2, 4, 65_536), bits.DTYPES["f32"], seed=seed) for seed in range(4)]
    result = lambda i: bits.digest(bits.train(i) + bits.backward(i))
    want, got = [result(i) for i in inputs], dict()
    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def call(thread):
        got[thread] = [result(inputs[thread]) for _ in range(3)]
    nested = ctypes.CDLL(os.environ["NESTED"])
    for levels in (1, 2):
        got.clear()
        assert nested.call_in_region(4, levels, call) == 4
        assert got == dict((i, [want[i]] * 3) for i in range(4)), levels
        assert result(inputs[0]) == want[0]
    print("same")
"""


def test_nested_in_a_region_of_openmp(tmp_path: Path) -> None:
    assert output(NESTED, NESTED=str(native.compiled("nested", tmp_path, "-fopenmp"))) == "same"


def test_the_number_of_threads() -> None:
    for threads in (1, 2, 3):
        normcpu.set_num_threads(threads)
        expected = 1 if _core.threading_name() == "serial" else threads
        assert normcpu.get_num_threads() == expected
    show = "import normcpu; print(normcpu.get_num_threads())"
    assert output(show, OMP_NUM_THREADS="1") == "1"
    if _core.threading_name() != "serial":
        assert output(show, OMP_NUM_THREADS="3") == "3"
        assert output(show, OMP_NUM_THREADS="3", NORMCPU_NUM_THREADS="2") == "2"


HASH = f"""
    import sys; sys.path.insert(0, {os.path.dirname(bits.__file__)!r})
    import bits
    i = bits.Inputs((4, 16, 65_536), bits.DTYPES["f32"])
    print(bits.digest(bits.train(i) + bits.backward(i)))
"""


def test_one_thread_of_openmp_gives_the_same_bits() -> None:
    inputs = large()
    want = bits.digest(bits.train(inputs) + bits.backward(inputs))
    assert output(HASH, OMP_NUM_THREADS="1") == want
    assert output(HASH, OMP_NUM_THREADS="4") == want


def test_without_the_openmp_extension() -> None:
    """Where libgomp cannot be loaded, everything works on the calling thread."""
    code = "import sys; sys.modules['normcpu._omp'] = None\n" + textwrap.dedent(HASH)
    code += "import normcpu._core as c; print(c.threading_name(), c.get_num_threads())"
    inputs = large()
    assert output(code).split() == [bits.digest(bits.train(inputs) + bits.backward(inputs)), "serial", "1"]


# ---- Forks -----------------------------------------------------------------------------------------------


FORKED = [bits.Inputs((2, 4, 65_536), bits.DTYPES["f32"], seed=seed) for seed in range(4)]  # 2 MB each: a team pays


def in_child(seed: int) -> str:
    return bits.digest(bits.train(FORKED[seed]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_after_use() -> None:
    """libgomp's pool does not survive a fork: without care the child waits for threads that are not there."""
    _core.set_num_threads(2)
    want = [in_child(seed) for seed in range(4)]
    context = multiprocessing.get_context("fork")
    for _ in range(100):
        in_child(0)  # the parent's team is alive
        with context.Pool(4) as pool:
            assert pool.map_async(in_child, range(4), chunksize=1).get(MOST_SECONDS) == want


# ---- Signals ---------------------------------------------------------------------------------------------

# No memory is behind these arrays: x repeats one element, and out is not touched before the statistics are known.
INTERRUPTED = """
    import os, signal, threading
    import numpy as np, normcpu
    normcpu.set_num_threads({threads})
    x = np.broadcast_to(np.float32([[[1.5]]]), (1, 1, 1 << {bits}))
    mean, var = np.float32([0.25]), np.float32([4.0])
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted", mean[0], var[0])
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt_in_a_long_reduction(threads: int) -> None:
    assert output(INTERRUPTED.format(threads=threads, bits=40, call="normcpu.moments(x)")) == "interrupted 0.25 4.0"


@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt_leaves_running_statistics(threads: int) -> None:
    """4 GB of output that is never written: the first pass over x takes longer than the signal."""
    call = "normcpu.batch_norm(x, mean, var, training=True, out=np.empty(x.shape, x.dtype))"
    assert output(INTERRUPTED.format(threads=threads, bits=30, call=call)) == "interrupted 0.25 4.0"


def test_a_handler_that_does_not_raise_does_not_stop_the_call() -> None:
    code = """
        import signal
        import numpy as np, normcpu
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        x = np.broadcast_to(np.float32([[1.5, 2.5]]), (1 << 28, 2))
        result = normcpu.moments(x)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(result.mean, result.var, bool(seen))
    """
    assert output(code) == "2.0 0.25 True"


# ---- The environment -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sse9", "AVX2 ", "neon" if "neon" not in _core.isas_built() else "avx2"])
def test_an_unknown_instruction_set_is_an_import_error(name: str) -> None:
    done = child("import normcpu; normcpu.batch_norm", NORMCPU_ISA=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "NORMCPU_ISA" in last
    assert repr(name) in last
    assert "scalar" in last


def test_the_floating_point_environment_is_left_as_found() -> None:
    """No flush to zero by a startup file of -ffast-math, none after a call, and no stale exception flags in NumPy."""
    code = """
        import numpy as np, normcpu
        assert np.float64(5e-324) + 0 == 5e-324 and np.float64(5e-324) > 0
        assert np.float32(1e-45) * np.float32(1) > 0
        x = (np.arange(40, dtype=np.float32) * np.float32(1e-45)).reshape(2, 2, 10)
        y = normcpu.scale_shift(x)
        assert np.array_equal(x, y) and y[1, 1, 9] > 0
        normcpu.batch_norm(x, None, None, training=True)
        with np.errstate(all="raise"):
            normcpu.batch_norm(np.full((2, 2), np.inf, np.float32), None, None, training=True)
            np.array([1.0, 2.0]) / np.array([2.0, 4.0])
        assert np.array([5e-324])[0] * 1.0 > 0
        print("kept")
    """
    assert output(code) == "kept"


def test_import_does_not_start_threads_or_touch_the_environment() -> None:
    code = """
        import os, threading
        import numpy
        before, tasks = dict(os.environ), len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
        import normcpu
        assert dict(os.environ) == before
        print((len(os.listdir("/proc/self/task")) if tasks else 0) - tasks)
    """
    assert output(code) == "0"
