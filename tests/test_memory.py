# SPDX-License-Identifier: Apache-2.0
"""Memory that cannot be had is a MemoryError: nothing leaks, and what is tracked stays bit for bit."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import native
import numpy as np
import pytest

from normcpu import BatchNorm1d, batch_norm


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is replaced by LD_PRELOAD")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="LD_PRELOAD is taken, by a sanitizer's allocator")
def test_scratch_that_cannot_be_had(tmp_path: Path) -> None:
    library = native.compiled("failing_malloc", tmp_path)
    done = subprocess.run(
        [sys.executable, str(native.HERE / "failing_memory.py")],
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    failures = ast.literal_eval(done.stdout)
    assert min(failures[name] for name in ("training", "backward", "moments", "layer")) > 0


def test_a_result_that_cannot_be_had() -> None:
    """2^46 elements of 4 bytes are more than any address space of 47 bits."""
    x = np.broadcast_to(np.float32([[[1], [2]]]), (2, 2, 1 << 45))
    mean, var = np.float32([3, 4]), np.float32([5, 6])
    with pytest.raises(MemoryError):
        batch_norm(x, mean, var, training=True)
    layer = BatchNorm1d(2)
    with pytest.raises(MemoryError):
        layer(x)
    assert mean.tolist() == [3, 4]
    assert var.tolist() == [5, 6]
    assert layer.running_mean is not None
    assert layer.running_mean.tolist() == [0, 0]
    assert layer.num_batches_tracked == 0
