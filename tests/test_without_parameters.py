# SPDX-License-Identifier: Apache-2.0
"""Local response, Lp and mean-variance normalization: reference.py, finite differences, PyTorch, and the layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
from bits import digest
from budgets import BUDGETS, DTYPES, F32, F64, assert_close, column
from cases import VALUES, batches, lay_out, layouts, values
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer

import normcpu

Array = np.ndarray
KINDS = [kind for kind in VALUES if kind != "extremes"]  # of f64: squares of 1e-150 are no doubles


@st.composite
def axes_of(draw: st.DrawFn, ndim: int) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(0, ndim - 1), min_size=1, max_size=ndim, unique=True)))


@settings(max_examples=120)
@given(batches(least=1, kinds=KINDS), st.data())
def test_mean_variance_normalization(b: Any, data: st.DataObject) -> None:
    axes = data.draw(axes_of(b.x.ndim))
    out = lay_out(np.zeros_like(b.x), data.draw(layouts(b.x.ndim)))
    y = normcpu.mean_variance_normalization(b.x, axes, eps=1e-6, out=out)
    want, size = reference.mean_variance_normalization(b.x, axes, 1e-6)
    assert y is out
    assert_close(y, want, size, BUDGETS["mean_variance"][column(b.x.dtype)], "mean_variance")


@settings(max_examples=120)
@given(batches(least=1, kinds=KINDS), st.sampled_from([1, 2, math.inf]), st.data())
def test_lp_normalize(b: Any, p: float, data: st.DataObject) -> None:
    axes = data.draw(axes_of(b.x.ndim))
    activation = data.draw(st.sampled_from([None, "relu"]))
    y = normcpu.lp_normalize(b.x, p, axes, eps=1e-30, residual=b.residual, activation=activation)
    want = reference.lp_normalize(b.x, p, axes, 1e-30)
    extra = reference.wide(0 if b.residual is None else b.residual)
    before, size = want + extra, np.abs(want) + np.abs(extra)
    want = np.maximum(before, 0) if activation else before
    assert_close(y, want, size, BUDGETS["lp_normalize"][column(b.x.dtype)], "lp_normalize")


@settings(max_examples=120)
@given(
    batches(least=1, kinds=KINDS), st.integers(1, 9), st.sampled_from([0.75, 0.5, 1.0, 2.25, 0.3]),
    st.sampled_from(["pytorch", "onnx"]), st.data(),
)  # fmt: skip
def test_local_response_norm(b: Any, size: int, beta: float, placing: Any, data: st.DataObject) -> None:
    out = lay_out(np.zeros_like(b.x), data.draw(layouts(b.x.ndim)))
    options = {"channel_axis": b.channel_axis, "placing": placing}
    y = normcpu.local_response_norm(b.x, size, 0.5, beta, 1.5, out=out, **options)
    want = reference.local_response_norm(b.x, size, 0.5, beta, 1.5, **options)
    assert_close(y, want, np.abs(want), BUDGETS["local_response_norm"][column(b.x.dtype)], "local_response_norm")
    after = normcpu.local_response_norm(b.x, size, 0.5, beta, 1.5, activation="relu", **options)
    assert digest((after,)) == digest((np.where(after > 0, y, 0).astype(y.dtype),))


@pytest.mark.parametrize("size", range(1, 8))
def test_an_even_window_has_two_places(size: int) -> None:
    x = np.zeros((1, 9), np.float64)
    x[0, 4] = 1.0
    for placing, before, after in (("pytorch", size // 2, (size - 1) // 2), ("onnx", (size - 1) // 2, size // 2)):
        d = normcpu.local_response_norm(np.ones_like(x) * 1e-3 + x, size, size, 1.0, 0.0, placing=placing)
        reached = np.flatnonzero(d[0] < 0.01) if size > 1 else [4]
        seen = [i for i in range(9) if 4 - after <= i <= 4 + before]
        assert [i for i in reached if i != 4] == [i for i in seen if i != 4]


FUNCTIONS = [
    *((normcpu.lp_normalize, normcpu.lp_normalize_backward, {"p": p}) for p in (1, 2, math.inf)),
    (normcpu.mean_variance_normalization, normcpu.mean_variance_normalization_backward, {"axis": (0, 2)}),
    (normcpu.mean_variance_normalization, normcpu.mean_variance_normalization_backward, {"axis": (1,), "eps": 0.1}),
    *(
        (normcpu.local_response_norm, normcpu.local_response_norm_backward, {"size": n, "alpha": 2, "placing": placing})
        for n in (1, 2, 5) for placing in ("pytorch", "onnx")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("forward", "backward", "options"), FUNCTIONS)
def test_gradients_are_finite_differences(forward: Any, backward: Any, options: Any) -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3))
    dx, step = backward(dy, x, **options), 1e-6
    for at in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[at] = step
        change = ((forward(x + moved, **options) - forward(x - moved, **options)) * dy).sum() / (2 * step)
        assert dx[at] == pytest.approx(change, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("forward", "backward", "options"), FUNCTIONS)
def test_gradients_of_every_dtype_and_layout(forward: Any, backward: Any, options: Any, dtype: str) -> None:
    x, dy = values("random", (3, 5, 40), DTYPES[dtype]), values("random", (3, 5, 40), DTYPES[dtype], 1)
    want = backward(dy.astype(float), x.astype(float), **options)
    epsilon = {"f64": 1e-14, "f32": 1e-6, "f16": 2e-3, "bf16": 2e-2}[dtype]
    for layout in ("C", "F"):
        dx = backward(dy.copy(layout), x.copy(layout), **options)
        assert dx.dtype == DTYPES[dtype]
        np.testing.assert_allclose(dx.astype(float), want, rtol=epsilon, atol=epsilon)


def test_zeros_stay_zeros() -> None:
    x = np.float32([[0, 0, 0], [3, 0, 4]])
    for p in (1, 2, math.inf):
        for eps in (0.0, 1e-12):
            assert normcpu.lp_normalize(x, p, eps=eps)[0].tolist() == [0, 0, 0]
    assert normcpu.mean_variance_normalization(np.full((2, 3), 7, F32), 1).tolist() == [[0] * 3] * 2


def test_gradients_of_small_rows_leave_the_others_alone() -> None:
    """Also of zeros, of NaN, and in place; a row of which the norm is below eps is divided by that."""
    x, dy = values("random", (5, 40), F32), values("random", (5, 40), F32, 1)
    want = normcpu.lp_normalize_backward(dy, x)
    x[1], x[3] = 1e-20, np.nan
    for gradient in (dy.copy(), dy.copy()[:, ::-1][:, ::-1]):
        dx = normcpu.lp_normalize_backward(gradient, x, eps=1e-3, out=gradient)
        assert dx is gradient
        assert digest((dx[[0, 2, 4]],)) == digest((want[[0, 2, 4]],))
        np.testing.assert_allclose(dx[1], dy[1] / 1e-3, rtol=1e-6)
        assert np.isnan(dx[3]).all()
    x[1] = 0
    assert np.array_equal(normcpu.lp_normalize_backward(dy, x, eps=0.0)[1], dy[1])


def test_gradients_of_constant_groups_leave_the_others_alone() -> None:
    x, dy = values("random", (3, 4, 5), F32), values("random", (3, 4, 5), F32, 1)
    x[1] = 7
    for axes in ((1, 2), (1,)):
        dx = normcpu.mean_variance_normalization_backward(dy, x, axes, eps=0.5)
        want = (dy[1] - dy[1].mean(tuple(a - 1 for a in axes), keepdims=True)) / 0.5
        np.testing.assert_allclose(dx[1], want, rtol=1e-5, atol=1e-6)
        others = normcpu.mean_variance_normalization_backward(dy[[0, 2]], x[[0, 2]], axes, eps=0.5)
        assert digest((dx[[0, 2]],)) == digest((others,))
    for shape in ((0, 4), (4, 0), (0, 2, 3, 4)):
        empty = np.zeros(shape, F32)
        assert normcpu.mean_variance_normalization_backward(empty, empty, 1).shape == shape
        assert normcpu.mean_variance_normalization_backward(empty, empty, 0).shape == shape


def test_what_is_large_fits() -> None:
    x = np.float32([[1e30, -2e30, 2e30], [3e38, 0, 0]])
    np.testing.assert_allclose(normcpu.lp_normalize(x), [[1 / 3, -2 / 3, 2 / 3], [1, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(normcpu.local_response_norm(x[:1], 1, 1.0, 0.5, 0.0), [[1, -1, 1]], rtol=1e-6)


LAYERS = [
    (normcpu.LocalResponseNorm(3, alpha=0.5), normcpu.local_response_norm, normcpu.local_response_norm_backward,
     {"size": 3, "alpha": 0.5}, "LocalResponseNorm(3, alpha=0.5, beta=0.75, k=1.0)"),
    (normcpu.LpNormalization(1, axis=(0, 2)), normcpu.lp_normalize, normcpu.lp_normalize_backward,
     {"p": 1, "axis": (0, 2), "eps": 0.0}, "LpNormalization(p=1, axis=(0, 2), eps=0.0)"),
    (normcpu.MeanVarianceNormalization((0, 2)), normcpu.mean_variance_normalization,
     normcpu.mean_variance_normalization_backward, {"axis": (0, 2)},
     "MeanVarianceNormalization(axis=(0, 2), eps=1e-09)"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "forward", "backward", "options", "shown"), LAYERS)
def test_layers(layer: Any, forward: Any, backward: Any, options: dict[str, Any], shown: str) -> None:
    assert repr(layer) == shown
    x = values("random", (2, 6, 5), F64)
    assert digest((layer(x),)) == digest((forward(x, **options),))
    assert digest((layer.backward(x),)) == digest((backward(x, x, **options),))
    with pytest.raises(RuntimeError, match="call the layer in training mode first"):
        layer.backward(x)
    layer(x, out=x)
    with pytest.raises(RuntimeError, match="may have overwritten x"):
        layer.backward(x)
    assert layer.state_dict() == {}


@pytest.mark.peers
@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_pytorch(size: int) -> None:
    torch = peer("torch")
    x = values("random", (2, 6, 5, 4), F64)
    for ours, theirs in (
        (normcpu.LocalResponseNorm(size, 0.5, 0.75, 2.0)(x), torch.nn.LocalResponseNorm(size, 0.5, 0.75, 2.0)),
        (normcpu.lp_normalize(x, 2, 2), lambda t: torch.nn.functional.normalize(t, 2, 2)),
        (normcpu.LpNormalization(1)(x), lambda t: torch.nn.functional.normalize(t, 1, -1)),
    ):
        np.testing.assert_allclose(ours, theirs(torch.from_numpy(x)).numpy(), rtol=1e-13)
