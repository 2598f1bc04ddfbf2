# SPDX-License-Identifier: Apache-2.0
"""batch_norm and scale_shift against reference.py, within budgets.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from budgets import BUDGETS, DTYPES, F32, F64, assert_close, assert_moments, column, note_own_error
from cases import VALUES, Batch, batches, broadcasts, samples_per_channel, values
from hypothesis import assume, given
from hypothesis import strategies as st

import normcpu

Array = np.ndarray
ACTIVATIONS = [None, "relu", "relu6", "leaky_relu", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"]
SLOPE = 0.2
EXACT_ACTIVATIONS = ACTIVATIONS[:5]  # all that f64 has


def activation_for(dtype: np.dtype, name: str | None) -> str | None:
    return name if dtype != F64 or name in EXACT_ACTIVATIONS else None


def check_forward(
    y: Array, want: reference.Forward, budget: str, activation: str | None = None, what: str = ""
) -> None:
    label = what or f"{budget} {activation or ''}".strip()
    # leaky_relu alone may bring back what overflowed before it, which is not promised.
    beyond = activation == "leaky_relu" and y.dtype != F64
    kept = want.size < (2.0**127 if beyond else np.inf)
    allowed = BUDGETS[budget][column(y.dtype)]
    assert y.shape == want.y.shape
    assert_close(y[kept], want.y[kept], want.size[kept], allowed, label, activation=activation)


# ---- Evaluation ------------------------------------------------------------------------------------------


@given(batches(), st.sampled_from(ACTIVATIONS))
def test_eval(b: Batch, activation: str | None) -> None:
    activation = activation_for(b.x.dtype, activation)
    after = {"activation": activation, "negative_slope": SLOPE, "residual": b.residual, "channel_axis": b.channel_axis}
    y = normcpu.batch_norm(b.x, b.mean, b.var, b.weight, b.bias, eps=b.eps, **after)
    assert y.dtype == b.x.dtype
    want = reference.batch_norm(b.x, b.mean, b.var, b.weight, b.bias, eps=b.eps, **after)
    check_forward(y, want, "eval", activation)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_eval_with_the_statistics_of_the_data(dtype: str, kind: str) -> None:
    """Running statistics that fit: the mean is as large as x and cancels."""
    x = values(kind, (4, 5, 1031), DTYPES[dtype])
    real = F64 if dtype == "f64" else F32
    mean, var = reference.moments(x, (0, 2))
    mean, var = mean.astype(real), np.minimum(var, np.finfo(real).max).astype(real)
    weight, bias = np.linspace(-2, 2, 5, dtype=real), np.linspace(3, -1, 5, dtype=real)
    y = normcpu.batch_norm(x, mean, var, weight, bias)
    check_forward(y, reference.batch_norm(x, mean, var, weight, bias), "eval", what=f"eval {kind}")


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_alone(dtype: str, name: str | None) -> None:
    """y = act(x): the argument is exact, so the error is the activation's own."""
    if activation_for(DTYPES[dtype], name) != name:
        with pytest.raises((TypeError, ValueError, NotImplementedError), match="float64"):
            normcpu.scale_shift(np.zeros((1, 1)), activation=name)
        return
    powers = 2.0 ** np.linspace(-149, 127.99, 3001)
    x = np.concatenate([np.linspace(-20, 20, 40_001), powers, -powers])
    x = np.clip(x, -65504, 65504) if dtype == "f16" else x
    x = x.astype(np.float32 if dtype != "f64" else float).astype(DTYPES[dtype]).reshape(1, 1, -1)
    want = reference.scale_shift(x, activation=name, negative_slope=SLOPE)
    y = normcpu.scale_shift(x, activation=name, negative_slope=SLOPE)
    assert_close(y, want.y, 0.0, 0.0, f"activation {name}", activation=name)
    note_own_error(y, want.y, f"activation {name}")


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "leaky_relu"])
def test_activations_of_what_overflows(name: str | None) -> None:
    """An argument of +-inf gives act's limit there: what is wrong with it is that it should be finite."""
    x = np.float32([[3e38, -3e38, 1e30, -1e30]] * 20)
    scale = np.float32([1e30, 1e30, 2e12, 2e12])
    want = reference.scale_shift(x, scale, activation=name).y
    assert_close(normcpu.scale_shift(x, scale, activation=name), want, 0.0, 0.0, f"overflow {name}", activation=name)


@given(batches(), st.booleans(), st.sampled_from(ACTIVATIONS))
def test_scale_shift(b: Batch, centred: bool, activation: str | None) -> None:
    activation = activation_for(b.x.dtype, activation)
    after = {"activation": activation, "residual": b.residual, "center": b.mean if centred else None}
    y = normcpu.scale_shift(b.x, b.weight, b.bias, channel_axis=b.channel_axis, **after)
    want = reference.scale_shift(b.x, b.weight, b.bias, channel_axis=b.channel_axis, **after)
    check_forward(
        y,
        want,
        "scale_shift" if b.residual is None and not centred else "eval",
        activation,
        f"scale_shift {activation or ''}",
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("axis", [1, -1])
def test_images(dtype: Any, axis: int) -> None:
    """(x / 255 - mean) / std of every byte, for both orders of axes."""
    x = np.arange(256).astype(dtype).reshape(1, 1, 256) * np.ones((2, 3, 1), dtype)
    x = x if axis == 1 else np.moveaxis(x, 1, -1).copy()
    center, scale = np.float32([120.0, 1.5, -3.25]), np.float32([1 / 57.0, 1.0, -0.1])
    y = normcpu.scale_shift(x, scale, center=center, channel_axis=axis)
    assert y.dtype == F32
    check_forward(
        y, reference.scale_shift(x, scale, center=center, channel_axis=axis), "eval", what="scale_shift bytes"
    )


# ---- Training --------------------------------------------------------------------------------------------


def check_training(
    b: Batch, activation: str | None = None, momentum: float = 0.1, biased: bool = False, what: str = ""
) -> None:
    after = {"activation": activation, "residual": b.residual, "channel_axis": b.channel_axis}
    mean, var = b.mean.copy(), b.var.copy()
    with np.errstate(all="ignore"):
        out = normcpu.batch_norm(
            b.x, mean, var, b.weight, b.bias, True, momentum, b.eps, biased=biased, return_stats=True, **after
        )
    want = reference.batch_norm(b.x, b.mean, b.var, b.weight, b.bias, True, momentum, b.eps, biased=biased, **after)
    assert_moments(out.mean, out.var, (want.mean, want.var), b.x.dtype)
    check_forward(out.y, want, "train", activation, what)
    for name, got, old, new, batch, budget in (
        ("running_mean", mean, b.mean, want.running_mean, want.mean, "running_mean"),
        ("running_var", var, b.var, want.running_var, want.var * 2, "running_var"),
    ):
        size = np.abs(reference.wide(old)) + momentum * np.abs(batch)
        error = (
            momentum * np.sqrt(want.var) * 2.0 ** (-50 if b.x.dtype == F64 else -22) if name == "running_mean" else 0
        )
        assert_close(got, new, size, BUDGETS[budget][column(b.x.dtype)], name, error=error)


TRAINABLE = [kind for kind in VALUES if kind != "extremes"]  # of f64: the square of 1e-150 is no double


@given(
    batches(least=1, kinds=TRAINABLE),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([0.1, 0.0, 1.0, 0.003]),
    st.booleans(),
)
def test_train(b: Batch, activation: str | None, momentum: float, biased: bool) -> None:
    assume(samples_per_channel(b.x, b.channel_axis) > 1)
    check_training(b, activation_for(b.x.dtype, activation), momentum, biased)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_train_on_awkward_values(dtype: str, kind: str) -> None:
    """Shapes of more than one block, row and chunk, in both views."""
    if dtype == "f64" and kind in ("subnormal", "extremes"):
        kind = "1e30"  # see TRAINABLE
    real = F64 if dtype == "f64" else F32
    for shape, axis in [((3, 4, 5003), 1), ((67, 3, 7, 7), 1), ((1, 2, 70_001), 1), ((1500, 37), 1), ((3, 900, 5), -1)]:
        c = shape[axis]
        weight, bias = np.linspace(-2, 2, c, dtype=real), np.linspace(3, -1, c, dtype=real)
        b = Batch(
            values(kind, shape, DTYPES[dtype]), axis, np.ones(c, real), np.ones(c, real), weight, bias, None, 1e-5, 0
        )
        check_training(b, what=f"train {kind}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_channel_is_exactly_beta(dtype: str) -> None:
    real = F64 if dtype == "f64" else F32
    x = np.empty((3, 11, 1, 4099), DTYPES[dtype])
    constants = [0.0, 1.0, -0.1, 1 / 3, 1e4, 6e4, -2e-7, 1e30, 3e38, 1e-40, -1e-45]
    with np.errstate(over="ignore"):
        x[:] = np.nan_to_num(np.array(constants, np.float32 if dtype != "f64" else float).astype(x.dtype)).reshape(
            1, 11, 1, 1
        )
    beta = np.linspace(-1.7, 2.9, 11).astype(real)
    want = np.broadcast_to(beta.astype(x.dtype).reshape(1, -1, 1, 1), x.shape)
    for axis in (1, -1):
        data = np.moveaxis(x, 1, axis).copy()
        y = normcpu.batch_norm(data, None, None, np.full(11, 1.3, real), beta, True, channel_axis=axis)
        assert np.array_equal(np.moveaxis(y, axis, 1), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_frozen_constants_are_exactly_beta(dtype: str) -> None:
    """x equal to the running mean: centred in evaluation too."""
    x = values("mean 1e5", (4, 3, 1), DTYPES[dtype])[:1] * np.ones((4, 1, 77), DTYPES[dtype])
    real = F64 if dtype == "f64" else F32
    beta = np.array([0.1, -7.3, 1e-3], real)
    mean = x[0, :, 0].astype(real)
    y = normcpu.batch_norm(x, mean, np.full(3, 1e-3, real), np.full(3, 1e6, real), beta)
    assert np.array_equal(y, np.broadcast_to(beta.astype(x.dtype).reshape(1, 3, 1), x.shape))


def test_strides_of_zero_are_read() -> None:
    x = broadcasts(values("mean 1e3", (6, 3, 50), F32))
    assert x.strides[0] == 0
    check_training(Batch(x, 1, *np.ones((4, 3), np.float32), None, 1e-5, 0))
