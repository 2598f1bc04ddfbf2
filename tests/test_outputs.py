# SPDX-License-Identifier: Apache-2.0
"""Where results go: out= of any layout, in place, masks, and what empty arrays give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normcpu import Moments, batch_norm, batch_norm_backward, moments, scale_shift

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MEAN, VAR = np.array([5.0, 10.0, 15.0], np.float32), np.array([4.0, 1.0, 0.25], np.float32)
Y = batch_norm(X, MEAN, VAR)


def test_output_has_the_layout_of_the_input() -> None:
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(X, 1, -1)), -1, 1)
    assert batch_norm(channels_last, MEAN, VAR).strides == channels_last.strides
    assert np.array_equal(batch_norm(channels_last, MEAN, VAR), Y)
    assert batch_norm(np.broadcast_to(X[:1], X.shape), MEAN, VAR).flags.writeable


@pytest.mark.parametrize("training", [False, True])
def test_in_place(training: bool) -> None:
    expected = batch_norm(X, MEAN.copy(), VAR.copy(), training=training, residual=X[::-1].copy())
    for target in ("x", "residual"):
        x, residual = X.copy(), X[::-1].copy()
        out = {"x": x, "residual": residual}[target]
        assert batch_norm(x, MEAN.copy(), VAR.copy(), training=training, residual=residual, out=out) is out
        assert np.array_equal(out, expected)
    gradients = batch_norm_backward(X[::-1].copy(), X, MEAN, VAR, training=training)
    dy = X[::-1].copy()
    assert batch_norm_backward(dy, X, MEAN, VAR, training=training, out=dy).dx is dy
    assert np.array_equal(dy, gradients.dx)


def test_masks_of_any_layout() -> None:
    """C reads the bits side by side, so another layout is copied; nothing writes them, so they may be read-only."""
    x = np.random.default_rng(0).normal(size=(2, 3, 20)).astype(np.float32)
    mask = np.random.default_rng(1).integers(0, 256, (2, 3, 3)).astype(np.uint8)
    passed = np.unpackbits(mask, axis=-1, bitorder="little")[..., :20]
    spread = np.zeros((2, 3, 9), np.uint8)
    spread[..., ::3] = mask
    frozen = mask.copy()
    frozen.flags.writeable = False
    for bits in (mask, np.asfortranarray(mask), spread[..., ::3], mask[::-1].copy()[::-1], frozen):
        got = batch_norm_backward(x, x, MEAN, VAR, activation="relu", mask=bits, residual=True)
        assert np.array_equal(got.dresidual, x * passed)
        np.testing.assert_allclose(got.dbias, (x * passed).sum((0, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_output_of_the_shortest_way(dtype: Any) -> None:
    """Contiguous arrays and nothing else go to C at once; every other out takes the long way to the same bits."""
    parameters = [p.astype(dtype) for p in (MEAN, VAR)]
    expected = batch_norm(X.astype(dtype), *parameters)
    room = np.empty((2, 3, 8), dtype)
    inside = room.reshape(-1)[1:25].reshape(X.shape)
    for out in (np.empty_like(expected), np.empty_like(expected, order="F"), room[..., ::2], inside):
        assert batch_norm(X.astype(dtype), *parameters, out=out) is out
        assert np.array_equal(out, expected)
    x = X.astype(dtype)
    assert batch_norm(x, *parameters, out=x) is x
    assert np.array_equal(x, expected)
    neighbours = np.concatenate([X.ravel(), np.full(24, np.nan)]).astype(dtype).reshape(2, *X.shape)
    batch_norm(neighbours[0], *parameters, out=neighbours[1])
    assert np.array_equal(neighbours[1], expected)


def test_interleaved_memory_is_not_overlap() -> None:
    both = np.zeros((2, 3, 8), np.float32)
    both[..., ::2] = X
    batch_norm(both[..., ::2], MEAN, VAR, out=both[..., 1::2])
    assert np.array_equal(both[..., 1::2], Y)
    assert np.array_equal(both[..., ::2], X)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4), (0, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    x, c = np.zeros(shape, np.float32), shape[1]
    mean, var = np.full(c, 7, np.float32), np.full(c, 7, np.float32)
    assert batch_norm(x, mean, var).shape == shape
    result = batch_norm(x, mean, var, training=True, return_stats=True, activation="relu", return_mask=True)
    assert result.y.shape == shape
    assert np.isnan(result.mean).all()
    assert (mean == 7).all()
    assert (var == 7).all()
    gradients = batch_norm_backward(x, x, result.mean, result.var, activation="relu", mask=result.mask, residual=True)
    assert gradients.dx.shape == gradients.dresidual.shape == shape
    assert np.array_equal(gradients.dweight, np.zeros(c))
    assert scale_shift(x).shape == shape
    assert np.isnan(moments(x).mean)
    assert Moments.of(x).count == 0
