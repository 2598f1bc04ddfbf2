# SPDX-License-Identifier: Apache-2.0
"""Running statistics, single values and non-finite data: what changes, what stays bit for bit, what is reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from bits import digest
from budgets import DTYPES, F64
from cases import values

import normcpu

Array = np.ndarray
SHAPES = [((4, 5, 33), 1), ((4, 5, 3, 3), 1), ((40, 5), 1), ((6, 7, 5), -1)]
POISON = [np.nan, np.inf, -np.inf]


def setting(dtype: str, shape: tuple[int, ...]) -> tuple[Array, dict[str, Array], Array, Array]:
    real = np.float64 if dtype == "f64" else np.float32
    rng = np.random.default_rng(0)
    affine = {"weight": rng.normal(size=5).astype(real), "bias": rng.normal(size=5).astype(real)}
    return values("random", shape, DTYPES[dtype]), affine, rng.normal(size=5).astype(real), rng.random(5).astype(real)


def channel(a: Array, axis: int, which: Any) -> Array:
    return np.moveaxis(a, axis, 0)[which]


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_poisoned_channel_stays_alone(dtype: str, shape: tuple[int, ...], axis: int, poison: float) -> None:
    x, affine, mean, var = setting(dtype, shape)
    clean = normcpu.batch_norm(x, None, None, **affine, training=True, channel_axis=axis, return_stats=True)
    dirty = x.copy()
    channel(dirty, axis, 2).flat[3] = poison
    got = normcpu.batch_norm(dirty, None, None, **affine, training=True, channel_axis=axis, return_stats=True)
    others = [0, 1, 3, 4]
    assert digest((channel(got.y, axis, others),)) == digest((channel(clean.y, axis, others),))
    assert digest((got.mean[others], got.var[others])) == digest((clean.mean[others], clean.var[others]))
    assert np.isnan(channel(got.y, axis, 2).astype(float)).all()
    assert not np.isfinite(got.mean[2])
    assert not np.isfinite(got.var[2])

    dy = values("random", shape, DTYPES[dtype], 1)
    good, bad = (
        normcpu.batch_norm_backward(dy, data, r.mean, r.var, affine["weight"], channel_axis=axis)
        for data, r in ((x, clean), (dirty, got))
    )
    assert digest((channel(good.dx, axis, others),)) == digest((channel(bad.dx, axis, others),))
    assert np.isnan(channel(bad.dx, axis, 2).astype(float)).all()
    assert digest((good.dweight[others], good.dbias[others])) == digest((bad.dweight[others], bad.dbias[others]))

    frozen, fine = (normcpu.batch_norm(data, mean, var, **affine, channel_axis=axis) for data in (dirty, x))
    same = reference.wide(dirty) == reference.wide(x)
    assert np.array_equal(frozen[same], fine[same])
    assert not np.isfinite(frozen[~same].astype(float)).any()


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "leaky_relu", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"]
)
def test_nan_passes_through_activations(activation: str) -> None:
    for dtype in DTYPES.values():
        if dtype == F64 and activation not in ("relu", "relu6", "leaky_relu", "hardswish"):
            continue
        x = np.full((1, 1, 40), np.nan, dtype)
        assert np.isnan(normcpu.scale_shift(x, activation=activation).astype(float)).all()


# ---- The update ------------------------------------------------------------------------------------------

# x made of it -> what the update of float buffers would write
WRECKS = {"nan": np.nan, "inf": np.inf, "a variance beyond float": 3e38}


@pytest.mark.parametrize("wreck", WRECKS)
@pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f64"])
def test_nonfinite_updates(dtype: str, policy: str, wreck: str) -> None:
    x, affine, mean, var = setting(dtype, (4, 5, 33))
    x[0, 2, 3] = WRECKS[wreck]
    if dtype == "f64" and wreck == "a variance beyond float":
        x[0, 2, 3] = 1e200  # 1e400 is beyond double
    old = mean.copy(), var.copy()
    kwargs = dict(affine, training=True, nonfinite=policy, return_stats=True)
    if policy == "raise":
        with pytest.raises(FloatingPointError, match="running"):
            normcpu.batch_norm(x, mean, var, **kwargs)
    else:
        with np.errstate(all="ignore"):
            out = normcpu.batch_norm(x, mean, var, **kwargs)
        assert out.skipped == (policy == "skip")
    if policy == "propagate":
        assert not np.isfinite(var[2])
        assert np.isfinite(np.delete(mean, 2)).all()
        assert np.isfinite(np.delete(var, 2)).all()
        assert not (np.delete(mean, 2) == np.delete(old[0], 2)).any()
    else:
        assert mean.tobytes() == old[0].tobytes()
        assert var.tobytes() == old[1].tobytes()


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_finite_updates_go_through(policy: str) -> None:
    x, affine, mean, var = setting("f32", (4, 5, 33))
    out = normcpu.batch_norm(x, mean, var, **affine, training=True, nonfinite=policy, return_stats=True)
    assert out.skipped is False
    assert np.allclose(mean, 0.9 * setting("f32", (4, 5, 33))[2] + 0.1 * out.mean)


def test_a_buffer_that_was_already_lost_counts() -> None:
    """The new value is NaN because the old one is: skip leaves it, raise says so."""
    x, affine, mean, var = setting("f32", (4, 5, 33))
    mean[4] = np.nan
    old = mean.tobytes(), var.tobytes()
    assert normcpu.batch_norm(x, mean, var, **affine, training=True, nonfinite="skip", return_stats=True).skipped
    with pytest.raises(FloatingPointError):
        normcpu.batch_norm(x, mean, var, **affine, training=True, nonfinite="raise")
    assert (mean.tobytes(), var.tobytes()) == old


def test_momentum_one_replaces_and_zero_keeps() -> None:
    x, affine, mean, var = setting("f32", (4, 5, 33))
    old = mean.tobytes(), var.tobytes()
    normcpu.batch_norm(x, mean, var, **affine, training=True, momentum=0.0)
    assert (mean.tobytes(), var.tobytes()) == old
    out = normcpu.batch_norm(x, mean, var, **affine, training=True, momentum=1.0, return_stats=True)
    assert np.array_equal(mean, out.mean.astype(np.float32))
    biased = var.copy()
    normcpu.batch_norm(x, mean, biased, **affine, training=True, momentum=1.0, biased=True)
    assert np.array_equal(biased, out.var.astype(np.float32))
    assert np.allclose(var, out.var * 132 / 131, rtol=1e-6)


# ---- One value per channel, none, and no channels --------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 1, 1), (1, 5, 1)])
def test_one_value_per_channel(shape: tuple[int, ...]) -> None:
    x, affine, mean, var = setting("f32", shape)
    old = mean.tobytes(), var.tobytes()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        normcpu.batch_norm(x, mean, var, **affine, training=True)
    y = normcpu.batch_norm(x, mean, var, **affine, training=True, single_value="zero", activation="relu")
    assert np.array_equal(y, np.maximum(affine["bias"], 0).reshape(np.shape(y)))
    y = normcpu.batch_norm(x, mean, var, **affine, training=True, single_value="running")
    assert np.array_equal(y, normcpu.batch_norm(x, mean, var, **affine))
    assert (mean.tobytes(), var.tobytes()) == old


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 5, 0), (0, 5)])
def test_no_values(shape: tuple[int, ...]) -> None:
    x, affine, mean, var = setting("f32", shape)
    old = mean.tobytes(), var.tobytes()
    assert normcpu.batch_norm(x, mean, var, **affine).shape == shape
    out = normcpu.batch_norm(x, mean, var, **affine, training=True, return_stats=True)
    assert out.y.shape == shape
    assert (mean.tobytes(), var.tobytes()) == old
    gradients = normcpu.batch_norm_backward(x, x, mean.astype(float), var.astype(float), channel_axis=1)
    assert not gradients.dweight.any()
    assert not gradients.dbias.any()
    assert gradients.dx.shape == shape


def test_no_channels() -> None:
    x, none = np.zeros((3, 0, 4), np.float32), np.zeros(0, np.float32)
    for training in (False, True):
        assert normcpu.batch_norm(x, none.copy(), none.copy(), none, none, training).shape == (3, 0, 4)
    assert normcpu.scale_shift(x, none, none).shape == (3, 0, 4)
    assert normcpu.moments(x, channel_axis=1).mean.shape == (0,)
