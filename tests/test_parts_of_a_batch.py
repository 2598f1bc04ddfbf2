# SPDX-License-Identifier: Apache-2.0
"""Statistics of some positions, or of each ghost batch, for batch_norm and the layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from bits import DTYPES, digest
from budgets import BUDGETS, F32, F64, assert_close, assert_moments, column
from cases import values
from test_batch_norm import check_forward

import normcpu

Array = np.ndarray
CASES = [  # shape, channel axis, virtual batch size
    ((6, 3, 40), 1, None), ((6, 3, 40), 1, 2), ((6, 40, 3), -1, 3), ((6, 40, 3), -1, None), ((8, 5, 7, 7), 1, 4),
    ((8, 7, 7, 5), -1, 2), ((12, 33), 1, 4), ((4, 2, 5000), 1, 1), ((3, 4, 9), 0, None),
]  # fmt: skip


def mask_of(x: Array, axis: int, seed: int, kind: str) -> Array | None:
    shape = np.delete(x.shape, axis)
    if kind == "none":
        return None
    rng = np.random.default_rng(seed)
    if kind == "lengths":  # of padded sequences
        return np.arange(shape[-1]) < rng.integers(2, max(3, shape[-1]), (*shape[:-1], 1))
    return rng.random(shape) < 0.8


def as_groups(a: Any, axis: int, size: int | None) -> tuple[Array, int]:
    """The batch as samples of the reference: one, or a ghost batch each."""
    return np.reshape(a, (1 if size is None else len(a) // size, -1, *np.shape(a)[1:])), axis % np.ndim(a) + 1


@pytest.mark.parametrize("kind", ["none", "lengths", "random"])
@pytest.mark.parametrize(("shape", "axis", "size"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_reference(dtype: str, shape: tuple[int, ...], axis: int, size: int | None, kind: str) -> None:
    if kind == "none" and size is None:
        return
    x, dy = values("mean 1e3", shape, DTYPES[dtype]), values("random", shape, DTYPES[dtype], 1)
    c, real, k = shape[axis], F64 if dtype == "f64" else F32, column(DTYPES[dtype])
    weight, bias = np.linspace(-2, 2, c, dtype=real), np.linspace(3, -1, c, dtype=real)
    mask = mask_of(x, axis, 3, kind)
    mean, var = np.full(c, 5, real), np.full(c, 2, real)
    out = normcpu.batch_norm(
        x, mean, var, weight, bias, True, 0.25, channel_axis=axis, mask=mask, virtual_batch_size=size, return_stats=True
    )
    parts, at = as_groups(x, axis, size)
    masks = None if mask is None else mask.reshape(len(parts), -1)
    want = reference.group_norm(parts, c, weight, bias, channel_axis=at, mask=masks)
    shaped = (lambda a: a[0]) if size is None else (lambda a: a)
    assert_moments(out.mean, out.var, (shaped(want.mean), shaped(want.var)), DTYPES[dtype])
    check_forward(out.y, want._replace(y=want.y.reshape(shape), size=want.size.reshape(shape)), "train", None, "parts")
    counts = np.longdouble(parts[0].size // c if mask is None else masks.sum(1)[:, None])
    tracked = (want.var * counts / (counts - 1)).mean(0)
    error = np.sqrt(want.var).mean(0) * 2.0 ** (-50 if dtype == "f64" else -22)
    assert_close(mean, 3.75 + want.mean.mean(0) / 4, 5 + np.abs(want.mean).mean(0), 3.0, "parts mean", error=error)
    assert_close(var, 1.5 + tracked / 4, 2 + tracked, BUDGETS["running_var"][k], "parts var")

    got = normcpu.batch_norm_backward(
        dy, x, out.mean, out.var, weight, channel_axis=axis, statistics_mask=mask, virtual_batch_size=size
    )
    stats = (np.reshape(m, (len(parts), c)) for m in (out.mean, out.var))
    back = reference.group_norm_backward(
        as_groups(dy, axis, size)[0], parts, *stats, c, weight, channel_axis=at, mask=masks
    )
    for name in ("dx", "dweight", "dbias"):
        made = getattr(got, name)
        want_of, size_of = (getattr(back, f"{name}{end}").reshape(made.shape) for end in ("", "_size"))
        assert_close(made, want_of, size_of, BUDGETS[f"backward {name}"][k], f"parts {name}")


def test_a_mask_of_ones_is_no_mask() -> None:
    x = values("random", (4, 3, 50), F32)
    ones = np.ones((4, 50), bool)
    out = normcpu.batch_norm(x, None, None, training=True, mask=ones, return_stats=True)
    plain = normcpu.batch_norm(x, None, None, training=True, return_stats=True)
    np.testing.assert_allclose(out.y, plain.y, rtol=0, atol=1e-6)
    np.testing.assert_allclose(out.var, plain.var, rtol=1e-7)


@pytest.mark.parametrize("axis", [1, -1])
def test_what_is_masked_has_no_say(axis: int) -> None:
    """Not even NaN: lengths, threads and what lies in the padding change no bit of the rest."""
    x = values("random", (3, 4, 90) if axis == 1 else (3, 90, 4), F32)
    mask = np.arange(90) < np.array([[90], [17], [1]])
    padded = np.where(np.expand_dims(mask, axis), x, np.float32(np.nan))
    for function in (
        lambda a: normcpu.group_norm(a, 2, channel_axis=axis, mask=mask),
        lambda a: normcpu.instance_norm(a, channel_axis=axis, mask=mask),
        lambda a: normcpu.batch_norm(a, None, None, training=True, channel_axis=axis, mask=mask),
    ):
        kept, clean = (np.moveaxis(function(a), axis, -1)[mask] for a in (padded, x))
        assert digest((kept,)) == digest((clean,))
        assert np.isfinite(kept).all()


def test_ghost_batches_are_batches() -> None:
    x = values("random", (6, 3, 5, 5), F32)
    out = normcpu.batch_norm(x, None, None, training=True, virtual_batch_size=2, return_stats=True)
    assert out.mean.shape == (3, 3)
    for i in range(3):
        part = normcpu.batch_norm(x[2 * i : 2 * i + 2], None, None, training=True, return_stats=True)
        assert digest((part.y, part.mean, part.var)) == digest((out.y[2 * i : 2 * i + 2], out.mean[i], out.var[i]))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_the_layer(activation: Any) -> None:
    layer = normcpu.BatchNorm1d(3, virtual_batch_size=2, activation=activation)
    assert "virtual_batch_size=2" in repr(layer)
    x, dy = values("random", (6, 3, 10), F32), values("random", (6, 3, 10), F32, 1)
    mask = np.random.default_rng(0).random((6, 10)) < 0.7
    y = layer(x, mask=mask)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    options = {"activation": activation, "virtual_batch_size": 2}
    want = normcpu.batch_norm(x, mean, var, None, None, True, mask=mask, return_stats=True, **options)
    assert digest((y, layer.running_mean, layer.running_var)) == digest((want.y, mean, var))
    gradients = normcpu.batch_norm_backward(
        dy, x, want.mean, want.var, statistics_mask=mask, y=want.y if activation else None, **options
    )
    assert digest((layer.backward(dy), layer.weight_grad)) == digest((gradients.dx, gradients.dweight))
    # Evaluation knows no ghosts: any number of samples, the running statistics, each sample by itself.
    alone = layer.eval()(x[:1])
    assert digest((alone,)) == digest((layer(x)[:1],))
    assert digest((alone,)) == digest((normcpu.batch_norm(x[:1], mean, var, activation=activation),))


def test_a_part_of_one_value() -> None:
    x = values("random", (4, 3), F32)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normcpu.batch_norm(x, None, None, training=True, virtual_batch_size=1)
    mean, var, bias = np.zeros(3, np.float32), np.ones(3, np.float32), np.float32([1, 2, 3])
    y = normcpu.batch_norm(x, mean, var, None, bias, True, virtual_batch_size=1, single_value="zero")
    assert (y == bias).all()
    y = normcpu.batch_norm(x, mean, var, None, bias, True, virtual_batch_size=1, single_value="running")
    assert digest((y,)) == digest((normcpu.batch_norm(x, mean, var, None, bias),))
    assert mean.tolist() == [0, 0, 0]
    assert var.tolist() == [1, 1, 1]
