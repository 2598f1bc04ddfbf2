# SPDX-License-Identifier: Apache-2.0
"""What is there without any data: the time of a call and of the import, the size of the wheel, the build.

python benches/overhead.py [--build]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).parent.parent


def best(call, number=2000, repeat=50):
    """Nanoseconds."""
    return 1e9 * min(timeit.repeat(call, number=number, repeat=repeat)) / number


def calls():
    """Yields (what, nanoseconds) of batch normalization of 16 elements."""
    import normcpu

    x, out = np.ones((1, 16, 1, 1), np.float32), np.ones((1, 16, 1, 1), np.float32)
    mean, var, weight, bias = (np.ones(16, np.float32) for _ in range(4))
    batch_norm = normcpu.batch_norm
    yield "batch_norm, 16 elements", best(lambda: batch_norm(x, mean, var, weight, bias))
    yield "batch_norm, 16 elements, out=", best(lambda: batch_norm(x, mean, var, weight, bias, out=out))
    yield "an empty function called so", best(lambda: (lambda *_: None)(x, mean, var, weight, bias))
    try:
        import torch
    except ImportError:
        return
    norm = torch.nn.functional.batch_norm
    tensors = [torch.from_numpy(a) for a in (x, mean, var, weight, bias)]
    yield "torch.nn.functional.batch_norm", best(lambda: norm(*tensors))


def import_seconds(rounds=15):
    """Beyond NumPy's, in a fresh interpreter with a warm file cache."""
    code = "import numpy, time; t = time.perf_counter(); import normcpu; print(time.perf_counter() - t)"
    run = [sys.executable, "-c", code]
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as installed: compiled
    return min(float(subprocess.check_output(run, cwd=ROOT, env=environ)) for _ in range(rounds))


def build():
    """(seconds of a clean build, bytes of the wheel), made in a copy of the tree."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignore = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.so", "*.egg-info", "results")
        shutil.copytree(ROOT, tree, ignore=ignore)
        start = time.perf_counter()
        subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext"], cwd=tree, check=True)
        seconds = time.perf_counter() - start
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*wheel, "-w", folder, tree], check=True)
        return seconds, next(Path(folder).glob("*.whl")).stat().st_size


def table(with_build=False):
    """Rows (what, value, limit)."""
    rows = [(what, f"{ns:.0f} ns", "1500 ns" if "16" in what else "") for what, ns in calls()]
    rows.append(("import beyond NumPy's", f"{1e3 * import_seconds():.1f} ms", "20 ms"))
    if with_build:
        seconds, size = build()
        rows.append(("clean build", f"{seconds:.1f} s", "60 s"))
        rows.append(("wheel", f"{size / 1e6:.2f} MB", "1 MB"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", action="store_true", help="also build the wheel, in a copy of the tree")
    print(tabulate(table(parser.parse_args().build), headers=("", "measured", "at most"), tablefmt="simple"))
