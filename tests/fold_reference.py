# SPDX-License-Identifier: Apache-2.0
"""Layers as formulas, for any float type and any number of spatial axes: what a fold must not change."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from reference import WIDE, wide

from normcpu.fold import Affine

Array = np.ndarray


class Geometry(NamedTuple):
    """One entry per spatial axis."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def per_channel(values: Any, ndim: int, axis: int = 1) -> Array:
    return wide(values).reshape([-1 if k == axis else 1 for k in range(ndim)])


def apply(affine: Affine, x: Array, axis: int = 1) -> Array:
    return x * per_channel(affine.scale, x.ndim, axis) + per_channel(affine.shift, x.ndim, axis)


def magnitude(affine: Affine) -> Affine:
    return Affine(np.abs(affine.scale), np.abs(affine.shift))


def pad(x: Array, pads: Any, fill: Any = None, mode: str = "constant") -> Array:
    """fill: zeros, or a value per channel."""
    widths = ((0, 0), (0, 0), *pads)
    if mode != "constant":
        return np.pad(x, widths, mode)
    inside = np.pad(np.ones(x.shape, bool), widths)
    values = np.zeros(x.shape[1]) if fill is None else fill
    return np.where(inside, np.pad(x, widths), per_channel(values, x.ndim))


def conv(x: Array, weight: Array, bias: Array | None, geometry: Geometry, groups: int = 1, fill: Any = None) -> Array:
    """y[n, o, p] = b[o] + sum over i, t of w[o, i, t] x[n, i, p stride + t dilation]; x (n, i, *s), w (o, i/g, *k)."""
    stride, dilation, pads = geometry
    x, weight = pad(wide(x), pads, fill), wide(weight)
    kernel = weight.shape[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    out = [(s - r) // step + 1 for s, r, step in zip(x.shape[2:], reach, stride, strict=True)]
    x_groups = x.reshape(len(x), groups, -1, *x.shape[2:])
    w_groups = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.zeros((len(x), groups, w_groups.shape[1], *out), WIDE)
    for tap in np.ndindex(*kernel):
        at = [slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in zip(tap, dilation, out, stride, strict=True)]
        seen = x_groups[(slice(None), slice(None), slice(None), *at)]
        y += np.einsum("ngi...,goi->ngo...", seen, w_groups[(..., *tap)])
    y = y.reshape(len(x), -1, *out)
    return y if bias is None else y + per_channel(bias, y.ndim)


def conv_transpose(x: Array, weight: Array, bias: Array | None, geometry: Geometry, groups: int = 1) -> Array:
    """y[n, o, p stride + t dilation] += w[i, o, t] x[n, i, p], pads cut off, then + b[o]; w (i, o/g, *k)."""
    stride, dilation, pads = geometry
    x, weight = wide(x), wide(weight)
    kernel, size = weight.shape[2:], x.shape[2:]
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]
    x_groups = x.reshape(len(x), groups, -1, *size)
    w_groups = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.zeros((len(x), groups, weight.shape[1], *full), WIDE)
    for tap in np.ndindex(*kernel):
        at = [slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilation, size, stride, strict=True)]
        y[(slice(None), slice(None), slice(None), *at)] += np.einsum(
            "ngi...,gio->ngo...", x_groups, w_groups[(..., *tap)]
        )
    y = y.reshape(len(x), -1, *full)
    y = y[(slice(None), slice(None), *[slice(low, n - high) for (low, high), n in zip(pads, full, strict=True)])]
    return y if bias is None else y + per_channel(bias, y.ndim)


# ---- Layers at random ------------------------------------------------------------------------------------


class Layer(NamedTuple):
    x: Array
    weight: Array  # float64
    bias: Array | None
    before: Affine  # per input channel
    after: Affine  # per output channel
    geometry: Geometry
    groups: int
    rng: np.random.Generator


def random_affine(rng: np.random.Generator, channels: int) -> Affine:
    """A BatchNorm's, with negative gammas; some shifts, or all, are 0."""
    affine = Affine.of_batch_norm(
        rng.normal(0, 3, channels),
        rng.uniform(0.01, 9, channels),
        rng.normal(0, 2, channels),
        rng.normal(0, 2, channels),
    )
    return affine._replace(shift=affine.shift * rng.choice([0, 1, 1, 1], channels) * rng.choice([0, 1, 1, 1]))


@st.composite
def layers(draw: st.DrawFn, transposed: bool = False, pads: int = 2) -> Layer:
    spatial, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3, 4]))
    own_in, own_out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    small, each = st.integers(1, 3), [()] * spatial
    kernel, stride = tuple(draw(small) for _ in each), tuple(draw(small) for _ in each)
    dilation = tuple(draw(st.integers(1, 2)) for _ in each)
    margins = tuple((draw(st.integers(0, pads)), draw(st.integers(0, pads))) for _ in each)
    least = [
        max(1 + sum(m) if transposed else d * (k - 1) + 1, 1) for m, d, k in zip(margins, dilation, kernel, strict=True)
    ]
    size = tuple(n + draw(st.integers(0, 3)) for n in least)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = (groups * own_in, own_out) if transposed else (groups * own_out, own_in)
    weight = rng.normal(size=(*shape, *kernel)) * 2.0 ** rng.integers(-9, 9, (*shape, *kernel))
    bias = draw(st.sampled_from([None, rng.normal(size=groups * own_out)]))
    x = rng.normal(size=(2, groups * own_in, *size))
    before, after = random_affine(rng, groups * own_in), random_affine(rng, groups * own_out)
    return Layer(x, weight, bias, before, after, Geometry(stride, dilation, margins), groups, rng)


def assert_same(got: Array, want: Array, size: Array, bound: float = 1e-14) -> None:
    """|got - want| <= bound * size, the sum of the absolute values of all terms."""
    assert got.shape == want.shape
    assert math.prod(got.shape) > 0
    worst = np.max(np.abs(got - want) / np.where(size > 0, size, 1))
    assert worst <= bound, f"{float(worst):.3g} of the sum of absolute terms, at most {bound} expected"
