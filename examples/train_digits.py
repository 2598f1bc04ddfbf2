# SPDX-License-Identifier: Apache-2.0
"""Learn batch statistics from a stream of real images, freeze them, and use them.

scikit-learn's handwritten digits (1,797 of 8 x 8 pixels) pass through 64 fixed 3 x 3 filters, batch
normalization and a ReLU; a linear map on what comes out reads the digit.  Then the layer is timed on one
batch and compared with float64, next to NumPy and, where it is installed, PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import normcpu

Array = np.ndarray[Any, Any]
FILTERS, BATCH, EPOCHS = 64, 256, 8
EPS = 1e-5


def convolve(images: Array, filters: Array) -> Array:
    """(n, 8, 8) and (c, 3, 3) to (n, c, 8, 8), channel-major as PyTorch lays it out."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
    return np.ascontiguousarray(np.einsum("nhwij,cij->nchw", windows, filters, optimize=True))


def stream(images: Array, rng: np.random.Generator) -> Iterator[Array]:
    """Batches in a new order each epoch, each moved by up to a pixel: never the same batch twice."""
    for _ in range(EPOCHS):
        for chosen in np.array_split(rng.permutation(len(images)), len(images) // BATCH):
            yield np.roll(images[chosen], rng.integers(-1, 2, 2), (1, 2))


def features(norm: normcpu.BatchNorm2d, images: Array, filters: Array) -> Array:
    """Mean and maximum of 2 x 2 fields, and a one: (n, 64 * 2 * 16 + 1)."""
    y = norm(convolve(images, filters)).reshape(len(images), FILTERS, 4, 2, 4, 2)
    pooled = [y.mean((3, 5)).reshape(len(images), -1), y.max((3, 5)).reshape(len(images), -1)]
    return np.hstack([*pooled, np.ones((len(images), 1), np.float32)])


def train(images: Array, digits: Array, filters: Array, rng: np.random.Generator) -> tuple[normcpu.BatchNorm2d, float]:
    """The layer with the statistics of the stream, frozen, and the share of unseen digits read right."""
    norm = normcpu.BatchNorm2d(FILTERS, eps=EPS, momentum=None, activation="relu")
    seen, unseen = slice(0, 1400), slice(1400, None)
    for batch in stream(images[seen], rng):
        norm(convolve(batch, filters))
    norm.freeze().eval()

    inputs = features(norm, images[seen], filters)
    targets = np.eye(10, dtype=np.float32)[digits[seen]]
    ridge = 100 * np.eye(inputs.shape[1], dtype=np.float32)
    readout = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
    guesses = (features(norm, images[unseen], filters) @ readout).argmax(1)
    return norm, float((guesses == digits[unseen]).mean())


def numpy_norm(x: Array, mean: Array, var: Array) -> Array:
    """By the formula, as most people would write it: in the dtype of x."""
    y: Array = (x - mean[:, None, None]) / np.sqrt(var[:, None, None] + x.dtype.type(EPS))
    return y


def contestants(mean: Array, var: Array) -> dict[str, dict[str, Callable[[Array], Any]]]:
    """By operation and name, functions of x (n, c, h, w)."""
    axes = (0, 2, 3)
    rows: dict[str, dict[str, Callable[[Array], Any]]] = {
        "training": {
            "normcpu": lambda x: normcpu.batch_norm(x, None, None, training=True, eps=EPS),
            "NumPy": lambda x: numpy_norm(x, x.mean(axes), x.var(axes)),
        },
        "frozen": {
            "normcpu": lambda x: normcpu.batch_norm(x, mean, var, eps=EPS),
            "NumPy": lambda x: numpy_norm(x, mean, var),
        },
    }
    try:
        import torch
    except ImportError:
        return rows
    torch_norm = torch.nn.functional.batch_norm
    given = torch.from_numpy(mean), torch.from_numpy(var)
    rows["training"]["PyTorch"] = lambda x: torch_norm(torch.from_numpy(x), None, None, training=True, eps=EPS).numpy()
    rows["frozen"]["PyTorch"] = lambda x: torch_norm(torch.from_numpy(x), *given, eps=EPS).numpy()
    return rows


def shortest(call: Callable[[], object], seconds: float = 0.3) -> float:
    """Seconds of the shortest call."""
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - start)
    return best


def ulp_error(y: Array, exact: Array) -> float:
    """The largest error, in units of the last place of float32 at |y|, or at 1 where |y| is less."""
    return float((np.abs(y - exact) / np.spacing(np.maximum(np.abs(exact), 1).astype(np.float32))).max())


def main() -> None:
    digits = load_digits()
    images = digits.images.astype(np.float32)
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((FILTERS, 3, 3), np.float32)
    norm, accuracy = train(images, digits.target, filters, rng)
    print(f"{len(images)} real images; after {norm.num_batches_tracked} batches the statistics are frozen,")
    print(f"and {accuracy:.1%} of the digits that were not in the stream are read right.\n")

    assert norm.running_mean is not None
    assert norm.running_var is not None
    x = convolve(images[:BATCH], filters)
    wide = x.astype(np.float64)
    exact = {name: functions["NumPy"] for name, functions in contestants(norm.running_mean, norm.running_var).items()}
    print(f"One batch, {' x '.join(map(str, x.shape))} float32, threads: {normcpu.get_num_threads()}\n")
    print(f"{'batch norm':12}{'by':10}{'microseconds':>14}{'GB/s':>8}{'largest error':>20}")
    for name, functions in contestants(norm.running_mean, norm.running_var).items():
        for who, function in functions.items():
            seconds = shortest(lambda function=function: function(x))  # type: ignore[misc]
            error = ulp_error(function(x), exact[name](wide))
            print(f"{name:12}{who:10}{seconds * 1e6:14.0f}{2 * x.nbytes / seconds / 1e9:8.1f}{error:16.2f} ulp")


if __name__ == "__main__":
    main()
