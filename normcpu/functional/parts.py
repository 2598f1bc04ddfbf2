# SPDX-License-Identifier: Apache-2.0
"""batch_norm in training with statistics of less than the whole batch: of some positions, or of each ghost batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _core
from .._arrays import NONFINITE, as_choice, as_int, as_running, check_apart, real_of
from .._grouped import Grouped, gradients, normalize, update_running
from .._masks import as_positions
from .._types import Array, BatchNormGradients, BatchNormResult


def as_batch_size(value: Any) -> int | None:
    """virtual_batch_size."""
    size = None if value is None else as_int("virtual_batch_size", value)
    if size is not None and size < 1:
        raise ValueError(f"virtual_batch_size must be at least 1, got {value}")
    return size


def cut(x: Array, axis: int, mask: Any, virtual_batch_size: int | None, name: str = "mask") -> Grouped:
    """x (n, ...) as (parts, n / parts, ...), each with statistics of its own."""
    parts, part = 1, "batch"
    if x.ndim == _core.max_ndim:  # the parts are one axis more
        raise ValueError(f"x must have fewer than {x.ndim} dimensions for {name} or virtual_batch_size, got {x.ndim}")
    if virtual_batch_size is not None:
        size, part = virtual_batch_size, "virtual batch"
        if axis == 0:
            raise ValueError("virtual_batch_size must be None where channel_axis is 0, got a number")
        if x.shape[0] % size:
            raise ValueError(f"virtual_batch_size must divide the {x.shape[0]} samples of x, got {size}")
        parts = x.shape[0] // size
    valid = as_positions(mask, x, axis, parts, part, name)
    shape = (parts, x.shape[0] // parts, *x.shape[1:]) if parts else (0, 1, *x.shape[1:])
    return Grouped(x.reshape(shape), axis + 1, x.shape[axis], valid)


def train(
    g: Grouped, x: Array, running: Mapping[str, Any], momentum: float, biased: bool, nonfinite: str, options: Any,
    return_bits: bool, ghosts: bool,
) -> BatchNormResult:  # fmt: skip
    """batch_norm's result; a part with one value per channel has variance 0, and there is then no update."""
    policy = as_choice("nonfinite", nonfinite, NONFINITE)
    kept = {name: as_running(name, value, g.groups, real_of(x)) for name, value in running.items()}
    if kept["running_mean"] is not None:
        inputs = {"x": x, "mask": g.valid, **kept, **options}
        check_apart(tuple(kept), {name: a for name, a in inputs.items() if hasattr(a, "__array_interface__")})
    made = normalize(g, x, **options, return_bits=return_bits, apart=kept)
    single = bool(x.size) and bool((g.counts < 2).any())
    skipped = not single and update_running(g, made, kept, momentum, biased, policy)
    mean, var = (made.mean, made.var) if ghosts else (made.mean[0], made.var[0])
    return BatchNormResult(made.y, mean, var, made.bits, skipped)


def back(g: Grouped, x: Array, dy: Any, mean: Any, var: Any, *rest: Any) -> BatchNormGradients:
    """batch_norm_backward's result."""
    if g.x.shape[0] == 1:
        mean, var = (m.reshape(1, -1) if getattr(m, "ndim", 0) == 1 else m for m in (mean, var))
    return gradients(g, x, dy, mean, var, *rest)
