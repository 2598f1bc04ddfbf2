# SPDX-License-Identifier: Apache-2.0
"""What the tests compute on: values that break naive formulas, in every layout that NumPy can express."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from bits import Inputs
from budgets import DTYPES, F16, F64
from hypothesis import strategies as st

Array = np.ndarray

EXTENTS = (1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 49, 64, 65, 100, 196, 1031)
LARGEST = 12_000  # elements


# ---- Values ----------------------------------------------------------------------------------------------


def around(mean: float) -> Any:
    return lambda rng, shape: rng.standard_normal(shape) + mean


def outlier_first(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    values = rng.standard_normal(shape)
    values.reshape(-1)[:1] = 1e6
    return values


def extremes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Every exponent, and the largest values of every type: what does not fit is cut to the type's range."""
    return np.where(rng.random(shape) < 0.1, 1e300, 2.0 ** rng.uniform(-150, 130, shape)) * rng.choice([-1, 1], shape)


VALUES = {
    "random": around(0.0),
    "mean 1e3": around(1e3),
    "mean 1e5": around(1e5),
    "mean 1e7": around(1e7),
    "outlier first": outlier_first,
    "small beside eps": lambda rng, shape: 1e-4 * (1 + 1e-6 * rng.standard_normal(shape)),
    "constant": lambda rng, shape: np.full(shape, rng.choice([0.0, 1.0, -0.1, 1e7 / 3, 1e-40, 3e38])),
    "1e30": lambda rng, shape: rng.standard_normal(shape) * 1e30,
    "subnormal": lambda rng, shape: rng.integers(-50, 50, shape) * 1e-44,
    "extremes": extremes,
    "integers": lambda rng, shape: rng.integers(-9, 9, shape).astype(float),
}


def values(kind: str, shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> Array:
    """Finite values of the dtype; f64 up to 1e150, which is what is promised."""
    made = VALUES[kind](np.random.default_rng(seed), shape)
    largest = {F64: 1e150, F16: 65504.0}.get(dtype, 3.38e38)
    return np.clip(made, -largest, largest).astype(np.float32 if dtype.itemsize < 4 else dtype).astype(dtype)


# ---- Layouts ---------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    order: tuple[int, ...]  # axes from the slowest to the fastest in memory
    steps: tuple[int, ...]  # every how many places along an axis an element lies; negative: backwards
    offset: int  # bytes from a cache line's start


def lay_out(a: Array, layout: Layout) -> Array:
    """The same values elsewhere in memory; what lies between them is NaN bytes."""
    order, steps, offset = layout
    wide = [a.shape[axis] * abs(steps[axis]) for axis in order]
    size = math.prod(wide) * a.itemsize
    raw = np.full(size + offset + 64, 0xFF, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    placed = raw[start : start + size].view(a.dtype).reshape(wide).transpose(np.argsort(order))
    placed = placed[tuple(slice(None, None, abs(s)) for s in steps)][
        tuple(slice(None, None, int(math.copysign(1, s))) for s in steps)
    ]
    placed[...] = a
    return placed


@st.composite
def layouts(draw: st.DrawFn, ndim: int) -> Layout:
    plain = tuple(range(ndim))
    order = draw(
        st.one_of(st.just(plain), st.just(plain[::-1]), st.just((0, *plain[2:], 1)), st.permutations(plain).map(tuple))
    )
    steps = draw(st.one_of(st.just((1,) * ndim), st.tuples(*[st.sampled_from([1, 1, -1, 2, -3])] * ndim)))
    return Layout(order, steps, draw(st.one_of(st.just(0), st.integers(0, 63))))


def moved(inputs: Inputs, layout: Layout) -> Inputs:
    """The same inputs with x, dy and residual elsewhere in memory."""
    other = Inputs.__new__(Inputs)
    other.__dict__.update(inputs.__dict__)
    other.x, other.dy, other.residual = (lay_out(a, layout) for a in (inputs.x, inputs.dy, inputs.residual))
    return other


def plain(ndim: int, offset: int) -> Layout:
    return Layout(tuple(range(ndim)), (1,) * ndim, offset)


def broadcasts(x: Array) -> Array:
    """x with all samples the first one: a view of stride 0."""
    return np.broadcast_to(x[:1], x.shape)


# ---- Batches ---------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    x: Array
    channel_axis: int
    mean: Array
    var: Array
    weight: Array | None
    bias: Array | None
    residual: Array | None
    eps: float
    seed: int


@st.composite
def shapes(draw: st.DrawFn, least: int = 0) -> tuple[int, ...]:
    """2 to 5 axes; any may be 0, unless least is 1."""
    shape: list[int] = []
    for _ in range(draw(st.integers(2, 5))):
        room = max(1, LARGEST // max(1, math.prod(shape)))
        usual = st.sampled_from([e for e in EXTENTS if e <= room])
        shape.append(draw(usual if least else st.one_of(usual, usual, usual, usual, usual, st.just(0))))
    return tuple(draw(st.permutations(shape)))


@st.composite
def batches(draw: st.DrawFn, least: int = 0, kinds: Any = tuple(VALUES), dtypes: Any = tuple(DTYPES)) -> Batch:
    shape = draw(shapes(least))
    dtype = DTYPES[draw(st.sampled_from(dtypes))]
    seed = draw(st.integers(0, 2**16))
    x = values(draw(st.sampled_from(kinds)), shape, dtype, seed)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    x = lay_out(x, draw(layouts(len(shape))))
    real = F64 if dtype == F64 else np.dtype(np.float32)
    rng, c = np.random.default_rng(seed), shape[axis]
    mean, var = rng.normal(0, 3, c).astype(real), rng.uniform(0.01, 9, c).astype(real)
    weight, bias = rng.normal(1, 2, c).astype(real), rng.normal(0, 2, c).astype(real)
    residual = lay_out(values("random", shape, dtype, seed + 1), draw(layouts(len(shape))))
    return Batch(
        x,
        axis,
        mean,
        var,
        draw(st.sampled_from([weight, weight, None])),
        draw(st.sampled_from([bias, bias, None])),
        draw(st.sampled_from([None, None, residual])),
        draw(st.sampled_from([1e-5, 1e-3, 1.0])),
        seed,
    )


def samples_per_channel(x: Array, channel_axis: int) -> int:
    return x.size // max(1, x.shape[channel_axis])
