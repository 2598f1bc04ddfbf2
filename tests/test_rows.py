# SPDX-License-Identifier: Apache-2.0
"""layer_norm, rms_norm, their fusions and their gradients against reference.py, within budgets.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from budgets import BUDGETS, DTYPES, F32, F64, assert_close, column
from cases import VALUES, lay_out, layouts, shapes, values
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch_norm import ACTIVATIONS, SLOPE, activation_for

import normcpu
from normcpu import Quantization

Array = np.ndarray
WIDTHS = [*range(1, 131), 4095, 4096, 4097, 9001]
AWKWARD = [kind for kind in VALUES if kind != "extremes"]


class Case:
    """Rows of any axes, with parameters, in any memory."""

    def __init__(self, data: st.DataObject, kinds: Any = AWKWARD) -> None:
        shape = data.draw(shapes(least=1))
        dtype = DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))]
        self.seed = data.draw(st.integers(0, 2**16))
        kind = data.draw(st.sampled_from(kinds))
        if dtype == F64 and kind == "subnormal":
            kind = "random"
        self.x = self.moved(data, values(kind, shape, dtype, self.seed))
        self.dtype, self.real = dtype, F64 if dtype == F64 else F32
        self.axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
        self.rms, self.plus_one = data.draw(st.booleans()), data.draw(st.booleans())
        self.eps = data.draw(st.sampled_from([1e-5, 1e-3, 1.0]))
        rng = np.random.default_rng(self.seed)
        extents = tuple(shape[axis] for axis in self.axes)
        kept = [n if axis in self.axes else 1 for axis, n in enumerate(shape)]
        self.weight, self.bias = (rng.normal(1, 2, extents).astype(self.real) for _ in range(2))
        self.weight = self.weight if data.draw(st.booleans()) else None
        self.bias = self.bias if data.draw(st.booleans()) and not self.rms else None
        self.wide = tuple(None if p is None else p.reshape(kept) for p in (self.weight, self.bias))
        self.options: dict[str, Any] = {"axis": self.axes, "eps": self.eps}
        self.spec: dict[str, Any] = {"eps": self.eps, "rms": self.rms}
        if self.rms:
            self.options["plus_one"] = self.spec["plus_one"] = self.plus_one

    def moved(self, data: st.DataObject, array: Array) -> Array:
        return lay_out(array, data.draw(layouts(array.ndim)))

    def other(self, data: st.DataObject, seed: int) -> Array:
        return self.moved(data, values("random", self.x.shape, self.dtype, self.seed + seed))

    def norm(self, x: Array, **more: Any) -> Any:
        if self.rms:
            return normcpu.rms_norm(x, None, self.weight, **self.options, **more)
        return normcpu.layer_norm(x, None, self.weight, self.bias, **self.options, **more)

    def add_norm(self, x: Array, added: Array, **more: Any) -> normcpu.RowNormResult:
        if self.rms:
            return normcpu.add_rms_norm(x, added, None, self.weight, **self.options, **more)
        return normcpu.add_layer_norm(x, added, None, self.weight, self.bias, **self.options, **more)

    def backward(self, dy: Array, x: Array, mean: Array, var: Array, **more: Any) -> normcpu.RowNormGradients:
        if self.rms:
            return normcpu.rms_norm_backward(dy, x, var, None, self.weight, **self.options, **more)
        return normcpu.layer_norm_backward(dy, x, mean, var, None, self.weight, **self.options, **more)

    @property
    def kind(self) -> str:
        return "rms_norm" if self.rms else "layer_norm"


# ---- Forward ---------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.data(), st.sampled_from(ACTIVATIONS))
def test_forward(data: st.DataObject, activation: str | None) -> None:
    case = Case(data)
    activation = activation_for(case.dtype, activation)
    residual = case.other(data, 1) if data.draw(st.booleans()) else None
    after = {"activation": activation, "negative_slope": SLOPE, "residual": residual}
    with np.errstate(all="ignore"):
        got = case.norm(case.x, return_stats=True, **after)
    want = reference.row_norm(case.x, case.axes, *case.wide, **case.spec, **after)
    assert got.y.dtype == case.dtype
    assert got.mean.shape == got.var.shape == want.var.shape
    kept = want.size < (2.0**127 if activation == "leaky_relu" and case.dtype != F64 else np.inf)
    budget = BUDGETS[case.kind][column(case.dtype)]
    assert_close(got.y[kept], want.y[kept], want.size[kept], budget, case.kind, activation=activation)
    np.testing.assert_allclose(got.var, want.var.astype(float), rtol=1e-15 if case.dtype == F64 else 1e-6)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_values_of_every_width(dtype: str, kind: str) -> None:
    """The last row is all different, so that no two widths see the same values."""
    if dtype == "f64" and kind in ("subnormal", "extremes"):
        kind = "1e30"  # the squares of 1e-150 are no doubles
    rng, real = np.random.default_rng(3), F64 if dtype == "f64" else F32
    for width in WIDTHS[:: 1 if dtype == "f32" else 7]:
        x = values(kind, (3, width), DTYPES[dtype], width)
        weight, bias = rng.normal(1, 2, (2, width)).astype(real)
        for rms in (False, True):
            name = "rms_norm" if rms else "layer_norm"
            got = normcpu.rms_norm(x, width, weight, 1e-5) if rms else normcpu.layer_norm(x, width, weight, bias)
            want = reference.row_norm(x, (1,), weight, None if rms else bias, rms=rms)
            assert_close(got, want.y, want.size, BUDGETS[name][column(x.dtype)], f"{name} {kind}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_row_is_exactly_beta(dtype: str) -> None:
    real = F64 if dtype == "f64" else F32
    constants = np.array([0.0, 1.0, -0.1, 1 / 3, 1e4, 6e4, -2e-7, 1e30, 3e38, 1e-40, -1e-45])
    with np.errstate(over="ignore"):
        column_of = np.nan_to_num(constants.astype(np.float32 if dtype != "f64" else float).astype(DTYPES[dtype]))
    for width in (1, 2, 7, 64, 65, 1031, 4097):
        x = np.repeat(column_of[:, None], width, 1)
        beta = np.linspace(-1.7, 2.9, width).astype(real)
        y = normcpu.layer_norm(x, width, np.full(width, 1.3, real), beta)
        assert np.array_equal(y, np.broadcast_to(beta.astype(x.dtype), x.shape)), width


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
def test_nan_and_infinity_stay_in_their_row(rms: bool, axis: int) -> None:
    norm = normcpu.rms_norm if rms else normcpu.layer_norm
    x = values("random", (7, 33, 40), F32)
    clean = norm(x, axis=axis)
    rows = np.zeros((7, 33, 40), bool)
    for at, value in (((2, 3, 4), np.nan), ((4, 30, 39), np.inf)):
        x[at] = value
        rows[(at[0], at[1]) if axis == -1 else (at[0], slice(None), at[2])] = True
    y = norm(x, axis=axis)
    assert np.array_equal(y[~rows], clean[~rows])
    assert not np.isfinite(y[rows]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 64, 65, 768, 4096, 5000])
def test_a_row_does_not_know_of_the_others(dtype: str, width: int) -> None:
    """Alone, among 4,096, and at another place among them: the same bits; rows of every kind stand beside it."""
    count = 4096 if width <= 768 else 64
    x = values("random", (count, width), DTYPES[dtype], 5)
    x[1::3] = values("mean 1e5", x[1::3].shape, x.dtype, 6)
    x[2::5] = values("1e30", x[2::5].shape, x.dtype, 7)
    x[::7] = 1
    weight, bias = np.random.default_rng(1).normal(size=(2, width))
    everything = [normcpu.layer_norm(x, width, weight, bias), normcpu.rms_norm(x, width, weight)]
    across = np.ascontiguousarray(x.T)
    columns = [normcpu.layer_norm(across, None, weight, bias, axis=0), normcpu.rms_norm(across, None, weight, axis=0)]
    for i in (0, 1, 2, 3, count // 2, count - 1):
        alone = [normcpu.layer_norm(x[i], width, weight, bias), normcpu.rms_norm(x[i], width, weight)]
        several = [normcpu.layer_norm(x[i:][:9], width, weight, bias), normcpu.rms_norm(x[i:][:9], width, weight)]
        pair = np.ascontiguousarray(across[:, [i, (i + 5) % count]])  # a single one would be a row like the others
        beside = [normcpu.layer_norm(pair, None, weight, bias, axis=0), normcpu.rms_norm(pair, None, weight, axis=0)]
        for k in range(2):
            assert alone[k].tobytes() == everything[k][i].tobytes() == several[k][0].tobytes(), i
            assert beside[k][:, 0].tobytes() == columns[k][:, i].tobytes(), i


@given(st.data())
@settings(max_examples=100)
def test_strides_and_outputs_change_no_bit(data: st.DataObject) -> None:
    """Within a view: rows that lie one after the other, or side by side."""
    case = Case(data)
    residual = case.other(data, 1)
    with np.errstate(all="ignore"):
        want = case.norm(case.x, residual=residual, return_stats=True)
    near = [abs(s) for s, n in zip(case.x.strides, case.x.shape, strict=True) if n > 1]
    order = np.argsort([-abs(s) for s in case.x.strides], kind="stable")
    plain = np.ascontiguousarray(case.x.transpose(order)).transpose(np.argsort(order))
    out = case.moved(data, np.zeros_like(case.x))
    with np.errstate(all="ignore"):
        got = case.norm(plain, residual=residual.copy(), out=out, return_stats=True)
    assert got.y is out
    assert len(set(near)) < len(near) or all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(want[:4], got[:4], strict=True) if a is not None
    )


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (2, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    result = normcpu.layer_norm(x, axis=-1, return_stats=True)
    assert result.y.shape == shape
    gradients = normcpu.layer_norm_backward(x, x, result.mean, result.var, axis=-1)
    assert gradients.dx.shape == shape
    assert np.array_equal(gradients.dweight, np.zeros(shape[-1]))


# ---- Fusions ---------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.data())
def test_residual_connection(data: st.DataObject) -> None:
    """One pass gives the bits of two, in place too."""
    case = Case(data, AWKWARD[:4])
    added = case.other(data, 1)
    total = (case.x.astype(F64 if case.dtype == F64 else F32) + added).astype(case.dtype)
    laid = np.empty_like(case.x)  # in x's order of axes: the same view
    laid[...] = total
    want, got = case.norm(laid), case.add_norm(case.x, added)
    assert np.array_equal(got.sum, total)
    assert np.array_equal(got.y, want)
    target = data.draw(st.sampled_from(["x", "added", "apart"]))
    places = {"x": case.x, "added": added, "apart": np.empty_like(case.x)}
    others = [place for name, place in places.items() if name != target]
    out, out_sum = places[target], data.draw(st.sampled_from(others))
    again = case.add_norm(case.x, added, out=out, out_sum=out_sum)
    assert again.y is out
    assert again.sum is out_sum
    assert np.array_equal(out, want)
    assert np.array_equal(out_sum, total)


@settings(max_examples=100)
@given(st.data(), st.sampled_from([np.int8, np.uint8]))
def test_quantized(data: st.DataObject, kind: Any) -> None:
    """As QuantizeLinear of the float32 result: a quotient, rounded to even, then the zero point, then the range.
    16-bit data is not rounded before; statistics of it and of float32 may differ by a bit, so ties may go elsewhere."""
    case = Case(data, ["random", "mean 1e5", "1e30", "integers"])
    if case.dtype == F64:
        return
    scale, zero = np.float32(data.draw(st.floats(2**-9, 1.0, width=32))), data.draw(st.integers(0, 127))
    exact = case.norm(case.x.astype(np.float32))
    low = np.iinfo(kind).min
    got = case.norm(case.x, quantize=Quantization(float(scale), zero, kind))
    assert got.dtype == kind
    want = np.clip(np.rint(exact / scale).astype(np.float64) + zero, low, low + 255)
    near = 0 if case.dtype == F32 else 1
    assert np.abs(got - want).max() <= near
    dynamic = case.norm(case.x, quantize=Quantization())
    peak = np.abs(exact).max(case.axes, keepdims=True)
    scales = np.where(peak > 0, peak / np.float32(127), np.float32(1))
    np.testing.assert_allclose(dynamic.scales, scales, rtol=1e-6 * near)
    assert np.abs(dynamic.y - np.rint(exact / scales)).max() <= near


def test_quantized_ties_and_extremes() -> None:
    """Every half goes to the even neighbour; NaN is the lower end; what is far beyond stays at the range's ends."""
    halves = (np.arange(-600, 600, dtype=np.float32) / 2).reshape(1, -1)
    x = np.ones_like(halves)
    for scale in (1.0, 0.5, 2.0**-20, 3.0, 0.1):
        exact = normcpu.rms_norm(x, x.shape[1], halves[0] * np.float32(scale), 0.0)
        want = np.clip(np.rint(exact / np.float32(scale)) + 3, -128, 127)
        assert np.array_equal(
            normcpu.rms_norm(x, x.shape[1], halves[0] * np.float32(scale), 0.0, quantize=Quantization(scale, 3)), want
        )
    x = np.float32([[1, np.nan], [1e38, -1e38]])
    assert normcpu.rms_norm(x, 2, quantize=Quantization(1e-3, -5)).tolist() == [[-128, -128], [127, -128]]
    assert normcpu.rms_norm(np.zeros((1, 3), "f4"), 3, quantize=Quantization()).scales.tolist() == [[1.0]]


# ---- Backward --------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.data())
def test_backward(data: st.DataObject) -> None:
    case = Case(data, ["random", "mean 1e3", "mean 1e5", "mean 1e7", "outlier first", "integers"])
    dy, k = case.other(data, 2), column(case.dtype)
    dsum = case.other(data, 3) if data.draw(st.booleans()) else None
    stats = case.norm(case.x, return_stats=True)
    want = reference.row_norm_backward(
        dy, case.x, case.axes, stats.mean, stats.var, case.wide[0], **case.spec, dsum=dsum
    )
    got = case.backward(dy, case.x, stats.mean, stats.var, dsum=dsum)
    assert_close(got.dx, want.dx, want.dx_size, BUDGETS["rows dx"][k], "rows dx")
    assert_close(got.dweight, want.dweight, want.dweight_size, BUDGETS["rows dweight"][k], "rows dweight")
    assert got.dweight.dtype == case.real
    if not case.rms:
        assert_close(got.dbias, want.dbias, want.dbias_size, BUDGETS["rows dbias"][k], "rows dbias")
    out = data.draw(st.sampled_from([a for a in (dy, dsum) if a is not None]))
    again = case.backward(dy, case.x, stats.mean, stats.var, dsum=dsum, out=out)
    assert again.dx is out
    for one, other in zip(got, again, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f64"])
def test_backward_of_many_rows_and_of_what_overflows(dtype: str, in_place: bool) -> None:
    """Gradients near the largest float, whose sums over rows leave it and come back; other rows are as ever."""
    x, real = values("random", (200, 70), DTYPES[dtype], 1), F64 if dtype == "f64" else F32
    dy = values("random", x.shape, x.dtype, 2)
    if dtype != "f64":
        dy[40:60] = np.where(np.arange(20)[:, None] % 4 < 2, 3e38, -3e38).astype(dy.dtype)
    weight = np.linspace(0.1, 0.9, 70).astype(real)
    stats = normcpu.layer_norm(x, 70, return_stats=True)
    want = reference.row_norm_backward(dy, x, (1,), stats.mean, stats.var, weight)
    got = normcpu.layer_norm_backward(dy, x, stats.mean, stats.var, 70, weight, out=dy if in_place else None)
    for name in ("dx", "dweight", "dbias"):
        size = getattr(want, f"{name}_size")
        budget = BUDGETS[f"rows {name}"][column(x.dtype)]
        assert_close(getattr(got, name), getattr(want, name), size, budget, f"rows {name}")


def test_gradients_beyond_the_caches_are_those_within() -> None:
    rng = np.random.default_rng(0)
    x, dy = (rng.random((1056, 4096), np.float32) - np.float32(0.5) for _ in range(2))
    weight = np.linspace(0.5, 1.5, 4096, dtype=np.float32)
    stats = normcpu.layer_norm(x, 4096, return_stats=True)
    got = normcpu.layer_norm_backward(dy, x, stats.mean, stats.var, 4096, weight)
    for few in (slice(0, 3), slice(500, 533), slice(1040, 1056)):
        part = normcpu.layer_norm_backward(dy[few], x[few], stats.mean[few], stats.var[few], 4096, weight)
        np.testing.assert_array_equal(got.dx[few], part.dx)


@pytest.mark.parametrize("rms", [False, True])
def test_finite_differences(rms: bool) -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 4, 5)), rng.normal(size=(4, 5, 2)).transpose(2, 0, 1)
    weight, bias, h = rng.normal(size=(4,)), rng.normal(size=(4,)), 1e-5

    def loss(x: Array, weight: Array, bias: Array) -> float:
        return float((reference.row_norm(x, (1,), weight[:, None], bias[:, None], rms=rms).y * dy).sum())

    def slopes(arrays: list[Array], which: int) -> Array:
        made = np.empty_like(arrays[which])
        for at in np.ndindex(made.shape):
            up, down = ([a.copy() for a in arrays] for _ in range(2))
            up[which][at] += h
            down[which][at] -= h
            made[at] = (loss(*up) - loss(*down)) / (2 * h)
        return made

    if rms:
        stats = normcpu.rms_norm(x, axis=1, eps=1e-5, return_stats=True)
        got = normcpu.rms_norm_backward(dy, x, stats.var, None, weight, 1e-5, axis=1)
    else:
        stats = normcpu.layer_norm(x, axis=1, return_stats=True)
        got = normcpu.layer_norm_backward(dy, x, stats.mean, stats.var, None, weight, axis=1)
        np.testing.assert_allclose(got.dbias, slopes([x, weight, bias], 2), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(got.dx, slopes([x, weight, bias], 0), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(got.dweight, slopes([x, weight, bias], 1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("axis", [0, 1])
def test_quantized_rows_too_small_for_a_scale_are_zeros(axis: int) -> None:
    x = np.eye(3, 40, dtype=np.float32)
    x = x if axis == 1 else np.ascontiguousarray(x.T)
    weight = np.full(40, 1e-44, np.float32)
    made = normcpu.rms_norm(x, axis=axis, weight=weight, quantize=normcpu.Quantization())
    assert not made.y.any()
    assert (made.scales == 1).all()
