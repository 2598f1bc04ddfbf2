# SPDX-License-Identifier: Apache-2.0
"""Folded layers compute what the unfolded ones do: float64 weights, compared in long double."""

from __future__ import annotations

import numpy as np
import pytest
from fold_reference import (
    Geometry,
    Layer,
    apply,
    assert_same,
    conv,
    conv_transpose,
    layers,
    magnitude,
    pad,
    random_affine,
)
from hypothesis import given
from hypothesis import strategies as st
from reference import wide

from normcpu import fold
from normcpu.fold import Affine, Branch

Array = np.ndarray


def absolute(bias: Array | None) -> Array | None:
    return None if bias is None else np.abs(bias)


@given(layers())
def test_conv_then_affine(layer: Layer) -> None:
    x, w, b, _, after, geometry, groups, _ = layer
    w1, b1 = fold.conv_then_affine(w, b, after)
    want = apply(after, conv(x, w, b, geometry, groups))
    size = apply(magnitude(after), conv(np.abs(x), np.abs(w), absolute(b), geometry, groups))
    assert_same(conv(x, w1, b1, geometry, groups), want, size)


@given(layers(transposed=True))
def test_conv_transpose_then_affine(layer: Layer) -> None:
    x, w, b, _, after, geometry, groups, _ = layer
    w1, b1 = fold.conv_transpose_then_affine(w, b, after, groups=groups)
    want = apply(after, conv_transpose(x, w, b, geometry, groups))
    size = apply(magnitude(after), conv_transpose(np.abs(x), np.abs(w), absolute(b), geometry, groups))
    assert_same(conv_transpose(x, w1, b1, geometry, groups), want, size)


@given(layers(pads=0))
def test_affine_then_conv(layer: Layer) -> None:
    x, w, b, before, _, geometry, groups, _ = layer
    w1, b1 = fold.affine_then_conv(before, w, b, groups=groups)
    want = conv(apply(before, wide(x)), w, b, geometry, groups)
    size = conv(apply(magnitude(before), np.abs(wide(x))), np.abs(w), absolute(b), geometry, groups)
    assert_same(conv(x, w1, b1, geometry, groups), want, size)


@pytest.mark.parametrize("mode", ["edge", "wrap", "reflect"])
@given(layers(pads=0))
def test_affine_then_conv_behind_pads_that_copy(mode: str, layer: Layer) -> None:
    x, w, b, before, _, geometry, groups, _ = layer
    pads = [(1, 2)] * (x.ndim - 2)
    w1, b1 = fold.affine_then_conv(before, w, b, groups=groups)
    want = conv(pad(apply(before, wide(x)), pads, mode=mode), w, b, geometry, groups)
    size = conv(
        pad(apply(magnitude(before), np.abs(wide(x))), pads, mode=mode), np.abs(w), absolute(b), geometry, groups
    )
    assert_same(conv(pad(wide(x), pads, mode=mode), w1, b1, geometry, groups), want, size)


@given(layers())
def test_affine_then_padded_conv(layer: Layer) -> None:
    """Both forms; their terms are those of x + t/s, so that is what an error is measured against."""
    x, w, b, before, _, geometry, groups, _ = layer
    folded = fold.affine_then_padded_conv(before, w, b, groups=groups)
    want = conv(apply(before, wide(x)), w, b, geometry, groups)
    size = conv(apply(magnitude(before), np.abs(wide(x))), np.abs(w), absolute(b), geometry, groups)
    ones = np.ones_like(folded.shift)
    assert_same(
        conv(apply(Affine(ones, folded.shift), wide(x)), folded.weight, folded.bias, geometry, groups), want, size
    )
    assert (folded.pad_bias is None) == (b is None and not before.shift.any())
    # Pads of -t/s meet b + W t: as large as t in every tap, inside as at the edges.
    everywhere = size + conv(
        apply(magnitude(before), 0 * wide(x)), np.abs(w), None, geometry, groups, np.abs(before.shift)
    )
    padded = conv(x, folded.weight, folded.pad_bias, geometry, groups, fill=-folded.shift)
    assert_same(padded, want, everywhere)


@given(layers(transposed=True))
def test_affine_then_conv_transpose(layer: Layer) -> None:
    x, w, b, before, _, geometry, groups, _ = layer
    folded = fold.affine_then_conv_transpose(before, w, b, groups=groups)
    assert folded.pad_bias is None
    want = conv_transpose(apply(before, wide(x)), w, b, geometry, groups)
    size = conv_transpose(apply(magnitude(before), np.abs(wide(x))), np.abs(w), absolute(b), geometry, groups)
    moved = apply(Affine(np.ones_like(folded.shift), folded.shift), wide(x))
    assert_same(conv_transpose(moved, folded.weight, folded.bias, geometry, groups), want, size)


@given(layers(pads=0))
def test_chains_and_batch_norms(layer: Layer) -> None:
    """Affine, convolution, affine, affine into one convolution; and the chain written as one BatchNorm."""
    x, w, b, before, after, geometry, groups, rng = layer
    last = random_affine(rng, after.scale.size)
    both = after.then(last)
    inner = fold.affine_then_conv(before, w, b, groups=groups)
    w1, b1 = fold.conv_then_affine(inner.weight, inner.bias, both)
    y = conv(apply(before, wide(x)), w, b, geometry, groups)
    sizes = conv(apply(magnitude(before), np.abs(wide(x))), np.abs(w), absolute(b), geometry, groups)
    want, size = apply(last, apply(after, y)), apply(magnitude(last), apply(magnitude(after), sizes))
    assert_same(conv(x, w1, b1, geometry, groups), want, size)
    eps = 1e-3
    norm = Affine.of_batch_norm(*both.as_batch_norm(np.float64, eps), eps=eps)
    assert_same(apply(norm, y), want, size)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Array, Array, Array | None, Affine, Affine]:
    i, o = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    w = rng.normal(size=(o, i)) * 2.0 ** rng.integers(-9, 9, (o, i))
    bias = draw(st.sampled_from([None, rng.normal(size=o)]))
    return rng.normal(size=(3, i)), w, bias, random_affine(rng, i), random_affine(rng, o)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    y = np.einsum("ni,oi->no", wide(x), wide(w))
    return y if b is None else y + b


@pytest.mark.parametrize("transposed", [False, True])
@given(matrices())
def test_linear(transposed: bool, problem: tuple[Array, Array, Array | None, Affine, Affine]) -> None:
    x, w, b, before, after = problem
    given_weight = w.T if transposed else w
    w1, b1 = fold.linear_then_affine(given_weight, b, after, transposed=transposed)
    size = linear(np.abs(x), np.abs(w), absolute(b))
    folded = linear(x, w1.T if transposed else w1, b1)
    assert_same(folded, apply(after, linear(x, w, b)), apply(magnitude(after), size))

    w1, b1 = fold.affine_then_linear(before, given_weight, b, transposed=transposed)
    size = linear(apply(magnitude(before), np.abs(wide(x))), np.abs(w), absolute(b))
    folded = linear(x, w1.T if transposed else w1, b1)
    assert_same(folded, linear(apply(before, wide(x)), w, b), size)


@pytest.mark.parametrize("transposed", [False, True])
@given(matrices())
def test_centred_linear(transposed: bool, problem: tuple[Array, Array, Array | None, Affine, Affine]) -> None:
    x, w, b, _, _ = problem
    w1, b1 = fold.centre_linear(w.T if transposed else w, b, transposed=transposed)
    y, size = linear(x, w, b), linear(np.abs(x), np.abs(w), absolute(b))
    want = y - y.mean(1, keepdims=True)
    assert_same(linear(x, w1.T if transposed else w1, b1), want, size + size.mean(1, keepdims=True))


def with_kernel(layer: Layer, kernel: tuple[int, ...]) -> Array:
    return layer.rng.normal(size=(*layer.weight.shape[:2], *kernel))


@given(layers(pads=2), st.integers(1, 3))
def test_parallel_convs(layer: Layer, count: int) -> None:
    """Kernels smaller by 0, 2 or 4 in each axis, whose pads are smaller by half of that times the dilation."""
    x, _, _, _, _, (stride, dilation, _), groups, rng = layer
    spatial = x.ndim - 2
    smaller = [[2 * int(e) for e in rng.integers(0, 3, spatial)] for _ in range(count)]
    smaller[0] = [0] * spatial
    kernel = tuple(int(k) + 4 for k in rng.integers(1, 3, spatial))
    branches, want, size = [], 0, 0
    for less in smaller:
        w = with_kernel(layer, tuple(k - e for k, e in zip(kernel, less, strict=True)))
        b = rng.normal(size=len(w)) if rng.random() < 0.5 else None
        affine = random_affine(rng, len(w)) if rng.random() < 0.8 else None
        pads = tuple((4 * d - d * e // 2,) * 2 for d, e in zip(dilation, less, strict=True))
        geometry = Geometry(stride, dilation, pads)
        known = Affine.of(np.ones(len(w))) if affine is None else affine
        want = want + apply(known, conv(x, w, b, geometry, groups))
        size = size + apply(magnitude(known), conv(np.abs(x), np.abs(w), absolute(b), geometry, groups))
        branches.append(Branch(w, b, affine))
    w1, b1 = fold.parallel_convs(branches, groups=groups)
    assert w1.shape[2:] == kernel
    assert_same(
        conv(x, w1, b1, Geometry(stride, dilation, tuple((4 * d, 4 * d) for d in dilation)), groups), want, size
    )


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_an_identity_with_its_batch_norm_beside_convs(spatial: int, groups: int) -> None:
    """A block of RepVGG and MobileOne: 3 and 1 and identity, each with a BatchNorm."""
    rng = np.random.default_rng(spatial)
    x = rng.normal(size=(2, 6, *[5] * spatial))
    w3, w1 = rng.normal(size=(6, 6 // groups, *[3] * spatial)), rng.normal(size=(6, 6 // groups, *[1] * spatial))
    norms = [random_affine(rng, 6) for _ in range(3)]
    ones = (1,) * spatial
    same, point = Geometry(ones, ones, ((1, 1),) * spatial), Geometry(ones, ones, ((0, 0),) * spatial)
    want = apply(norms[0], conv(x, w3, None, same, groups)) + apply(norms[1], conv(x, w1, None, point, groups))
    want = want + apply(norms[2], wide(x)) + x
    folded = fold.parallel_convs(
        [Branch(w3, None, norms[0]), Branch(w1, None, norms[1]), Branch(affine=norms[2]), Branch()], groups=groups
    )
    assert_same(conv(x, *folded, same, groups), want, 10 + np.abs(want))


@given(layers(pads=0))
def test_pointwise_then_conv_and_pools(layer: Layer) -> None:
    x, _, b, _, _, geometry, _, rng = layer
    spatial, middle = x.ndim - 2, int(rng.integers(1, 5))
    ones = Geometry((1,) * spatial, (1,) * spatial, ((0, 0),) * spatial)
    w1, b1 = rng.normal(size=(middle, x.shape[1], *[1] * spatial)), rng.normal(size=middle)
    w2 = rng.normal(size=(3, middle, *layer.weight.shape[2:]))
    b2 = None if b is None else rng.normal(size=3)
    for first_bias in (b1, None):
        w, made = fold.pointwise_then_conv(w1, first_bias, w2, b2)
        want = conv(conv(x, w1, first_bias, ones), w2, b2, geometry)
        size = conv(conv(np.abs(x), np.abs(w1), absolute(first_bias), ones), np.abs(w2), absolute(b2), geometry)
        assert_same(conv(x, w, made, geometry), want, size)
    kernel = layer.weight.shape[2:]
    pool = fold.average_pool_conv(x.shape[1], kernel, dtype=np.float64)
    depthwise = fold.average_pool_conv(x.shape[1], kernel, x.shape[1], np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=tuple(range(2, x.ndim)))
    want = wide(windows).mean(axis=tuple(range(-spatial, 0)))
    assert_same(conv(x, pool, None, ones), want, np.ones_like(want))
    assert_same(conv(x, depthwise, None, ones, x.shape[1]), want, np.ones_like(want))


@given(st.integers(0, 2**16), st.booleans(), st.sampled_from([0, 1]))
def test_int8_weights(seed: int, zero_points: bool, axis: int) -> None:
    """The integers stay integers of the same grid, and what they stand for is the folded weight."""
    rng = np.random.default_rng(seed)
    o, i = rng.integers(1, 9, 2)
    q = rng.integers(-127, 128, (o, i) if axis == 0 else (i, o)).astype(np.int8)
    scale = rng.uniform(0.01, 1, o if seed % 2 else ())
    zero = rng.integers(-127, 128, o).astype(np.int8) if zero_points else None
    affine = random_affine(rng, o)
    affine.scale[rng.random(o) < 0.1] = 0
    made = fold.quantized_then_affine(q, np.asarray(scale), zero, None, affine, axis=axis)
    assert made.weight.dtype == np.int8

    def values(q: Array, scale: Array, zero: Array | None) -> Array:
        shape = [-1 if k == axis else 1 for k in range(2)]
        from_zero = q - (0 if zero is None else zero.astype(int).reshape(shape))
        return wide(from_zero) * wide(np.broadcast_to(scale, o)).reshape(shape)

    want = values(q, scale, zero) * wide(affine.scale).reshape([-1 if k == axis else 1 for k in range(2)])
    assert_same(values(made.weight, made.scale, made.zero_point), want, np.abs(want), 2.0**-53)
    same = np.abs(made.weight.astype(int)) == np.abs(q.astype(int))
    assert same[(slice(None),) * axis + (affine.scale != 0,)].all()
    assert np.array_equal(affine.shift, np.zeros(o) if made.bias is None else made.bias)
