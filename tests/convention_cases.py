# SPDX-License-Identifier: Apache-2.0
"""The frameworks' defaults, and a state in each one's names."""

from __future__ import annotations

import numpy as np

# The defaults as the frameworks document them: momentum, eps, channel axis.
DOCUMENTED = {
    "pytorch": (0.1, 1e-5, 1),
    "keras": (0.99, 1e-3, -1),
    "keras_fused": (0.99, 1e-3, -1),
    "keras_std": (0.9, 1e-6, -1),
    "flax": (0.99, 1e-5, -1),
    "flax_nnx": (0.99, 1e-5, -1),
    "onnx": (0.9, 1e-5, 1),
    "textbook": (0.9, 1e-5, 1),
}


def arrays(c=3, seed=0):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=c), rng.normal(size=c), rng.normal(size=c), rng.uniform(0.5, 2, c))
    return [value.astype(np.float32) for value in values]


STATES = {
    "pytorch": lambda g, b, m, v: {"weight": g, "bias": b, "running_mean": m, "running_var": v},
    "keras": lambda g, b, m, v: {"gamma": g, "beta": b, "moving_mean": m, "moving_variance": v},
    "keras_fused": lambda g, b, m, v: {"gamma": g, "beta": b, "moving_mean": m, "moving_variance": v},
    "flax": lambda g, b, m, v: {"params": {"scale": g, "bias": b}, "batch_stats": {"mean": m, "var": v}},
    "flax_nnx": lambda g, b, m, v: {"scale": g, "bias": b, "mean": m, "var": v},
    "onnx": lambda g, b, m, v: {"scale": g, "B": b, "input_mean": m, "input_var": v},
    "textbook": lambda g, b, m, v: {"gamma": g, "beta": b, "moving_mean": m, "moving_var": v},
}


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_equal(got[name], value)
        else:
            assert got[name].dtype == value.dtype
            np.testing.assert_array_equal(got[name], value)
