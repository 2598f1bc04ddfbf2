# SPDX-License-Identifier: Apache-2.0
"""What the tests of states share."""

from __future__ import annotations

import numpy as np

NAMES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def state(c=3, seed=0, prefix=""):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=c), rng.normal(size=c), rng.normal(size=c), rng.uniform(0.5, 2, c)]
    values = [array.astype(np.float32) for array in arrays] + [np.array(seed + 7)]
    return {prefix + name: value for name, value in zip(NAMES, values, strict=True)}


def changed(**changes):
    result = state() | changes
    return {name: value for name, value in result.items() if value is not None}
