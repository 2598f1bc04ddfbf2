# SPDX-License-Identifier: Apache-2.0
"""Convolutions, linear layers and pools for generated C: layers and shapes, and their sums in the stated order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from normcpu import embed

ACTIVATIONS = (None, None, "relu", "relu6", "leaky_relu", "hardswish", "sigmoid", "gelu")


class Case(NamedTuple):
    layer: Any
    shape: tuple[int, ...]
    x: np.ndarray

    def __repr__(self) -> str:
        options = {k: getattr(v, "shape", v) for k, v in vars(self.layer).items()}
        return f"{type(self.layer).__name__} {options} on {self.shape}"


@st.composite
def cases(draw: Any) -> Case:
    make = draw(st.sampled_from([_conv, _conv, _conv, _linear, _pool]))
    layer, shape = make(draw)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Case(layer, shape, (rng.normal(size=shape) * draw(st.sampled_from([1, 1e-3, 1e4]))).astype(np.float32))


def _window(draw: Any, rank: int) -> tuple[list[int], dict[str, Any], list[int]]:
    """Kernel, options and sizes that go together, asymmetric padding too."""
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    sizes, padding = [], []
    for k, d in zip(kernel, dilation, strict=True):
        extent = d * (k - 1) + 1
        pads = [draw(st.integers(0, extent - 1)) for _ in range(2)] if draw(st.booleans()) else [0, 0]
        size = draw(st.integers(max(1, extent - sum(pads)), extent + 5))
        # Every window must hold some of x: a dilated one may step over a short axis.
        starts = range(-pads[0], size + pads[1] - extent + 1)
        if not all(any(0 <= s + i * d < size for i in range(k)) for s in starts):
            size, pads = extent + 2, [0, 0]
        sizes.append(size)
        padding.append(pads)
    if draw(st.booleans()) and padding[0] == padding[-1] and padding[0][0] == padding[0][1]:
        padding = padding[0][0]  # type: ignore[assignment]
    return kernel, {"stride": stride, "padding": padding, "dilation": dilation}, sizes


def _weights(draw: Any, *shape: int) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = (rng.normal(size=shape) * draw(st.sampled_from([1, 0.01]))).astype(np.float32)
    bias = rng.normal(size=shape[0]).astype(np.float32) if draw(st.booleans()) else None
    options = {"activation": draw(st.sampled_from(ACTIVATIONS)), "stored": draw(st.sampled_from(["float32", "int8"]))}
    return {"weight": weight, "bias": bias, **options}


def _conv(draw: Any) -> tuple[Any, tuple[int, ...]]:
    kernel, options, sizes = _window(draw, draw(st.integers(1, 2)))
    groups, inner, outer = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 4, 5, 8]))
    weights = _weights(draw, groups * outer, inner, *kernel)
    return embed.Conv(groups=groups, **weights, **options), (draw(st.integers(1, 2)), groups * inner, *sizes)


def _linear(draw: Any) -> tuple[Any, tuple[int, ...]]:
    inner, outer = draw(st.integers(1, 40)), draw(st.integers(1, 9))
    return embed.Linear(**_weights(draw, outer, inner)), draw(st.sampled_from([(inner,), (1, inner), (2, 3, inner)]))


def _pool(draw: Any) -> tuple[Any, tuple[int, ...]]:
    kernel, options, sizes = _window(draw, draw(st.integers(1, 2)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *sizes)
    kind = draw(st.sampled_from([embed.MaxPool, embed.AveragePool, embed.GlobalAveragePool]))
    if kind is embed.GlobalAveragePool:
        return kind(), shape
    if kind is embed.AveragePool:
        if max(options.pop("dilation")) > 1:  # its windows are denser than those that the padding was drawn for
            options["padding"] = 0
        options["count_include_pad"] = draw(st.booleans())
    return kind(kernel, **options), shape


# ---- The definition --------------------------------------------------------------------------------------


def sums(layer: Any, x: np.ndarray, weight: np.ndarray, bias: Any, scale: Any) -> np.ndarray:
    """Before the activation, one product after the other in the type of x: bias + w x + w x + ..., over input channels,
    then rows, then columns of the kernel; with a scale, (0 + q x + q x + ...) * scale + bias."""
    if isinstance(layer, embed.Linear):
        shape, groups = (*x.shape[:-1], len(weight)), 1
    else:
        out, taps = windows(x.shape[2:], weight.shape[2:], layer.stride, layer.padding, layer.dilation)
        shape, groups = (len(x), len(weight), *out), layer.groups
    y = np.zeros(shape, x.dtype)
    for at in np.ndindex(*shape):
        o = at[-1] if isinstance(layer, embed.Linear) else at[1]
        total = x.dtype.type(0) if bias is None or scale is not None else bias[o]
        for i in range(weight.shape[1]):
            if isinstance(layer, embed.Linear):
                total = total + weight[o, i] * x[(*at[:-1], i)]
                continue
            channel = o // (len(weight) // groups) * weight.shape[1] + i
            for tap, of in taps(at[2:]):
                total = total + weight[(o, i, *tap)] * x[(at[0], channel, *of)]
        if scale is not None:
            total = total * scale[o]
            total = total if bias is None else total + bias[o]
        y[at] = total
    return y


def pooled(layer: Any, x: np.ndarray) -> np.ndarray:
    """The largest, or a sum from 0 over rows, then columns of the window, divided by a count."""
    if isinstance(layer, embed.GlobalAveragePool):
        layer = embed.AveragePool(x.shape[2:])
    stride = layer.kernel if layer.stride is None else layer.stride
    out, taps = windows(x.shape[2:], layer.kernel, stride, layer.padding, getattr(layer, "dilation", 1))
    y = np.zeros((*x.shape[:2], *out), x.dtype)
    for at in np.ndindex(*y.shape):
        seen = [x[(*at[:2], *of)] for _, of in taps(at[2:])]
        if isinstance(layer, embed.MaxPool):
            y[at] = np.max(seen)
            continue
        total = x.dtype.type(0)
        for value in seen:
            total = total + value
        y[at] = total / x.dtype.type(np.prod(layer.kernel) if layer.count_include_pad else len(seen))
    return y


def windows(sizes: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """(outputs on each axis, the taps within x of the window at a place, in order: (place in the window, in x))."""
    axes = range(len(sizes))
    k, s, d = ([value] * len(sizes) if isinstance(value, int) else value for value in (kernel, stride, dilation))
    pads = [
        (p, p) if isinstance(p, int) else p for p in ([padding] * len(sizes) if isinstance(padding, int) else padding)
    ]
    out = tuple((sizes[a] + sum(pads[a]) - d[a] * (k[a] - 1) - 1) // s[a] + 1 for a in axes)

    def taps(at: tuple[int, ...]) -> Any:
        for tap in np.ndindex(*k):
            of = tuple(at[a] * s[a] - pads[a][0] + tap[a] * d[a] for a in axes)
            if all(0 <= of[a] < sizes[a] for a in axes):
                yield tap, of

    return out, taps
