# SPDX-License-Identifier: Apache-2.0
"""The algebra of scale and shift, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import peer

pytestmark = pytest.mark.peers
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def _tools() -> None:
    peer("onnx_ir")


def draw(data: st.DataObject, shape: list[int], seed: int) -> np.ndarray:
    """Factors that vary along some axes of a tensor."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=[n if data.draw(st.booleans()) else 1 for n in shape])


@given(st.data(), SIZES, st.integers(0, 2**32))
def test_composition(data: st.DataObject, shape: list[int], seed: int) -> None:
    from normcpu.onnx.affine import Affine

    x = np.random.default_rng(seed).normal(size=shape)
    first, second = (
        Affine.of(len(shape), draw(data, shape, seed + k), draw(data, shape, seed + k + 2)) for k in (0, 1)
    )
    both = second.after(first)
    want = second.scale * (first.scale * x + first.shift) + second.shift
    size = np.abs(second.scale) * (np.abs(first.scale * x) + np.abs(first.shift)) + np.abs(second.shift)
    assert (np.abs(both.scale * x + both.shift - want) <= 1e-14 * size).all()


@given(st.data(), SIZES, st.integers(0, 2**32))
def test_a_reshape_moves_factors_with_their_elements(data: st.DataObject, shape: list[int], seed: int) -> None:
    from normcpu.onnx.affine import regroup

    a = draw(data, shape, seed)
    flat = data.draw(st.permutations(shape)) if np.prod(shape) > 1 else shape
    cut = data.draw(st.integers(0, len(flat)))
    for target in (flat, [int(np.prod(flat[:cut])), int(np.prod(flat[cut:]))], [1, *flat], [int(np.prod(flat))]):
        got = regroup(a, shape, target)
        want = np.broadcast_to(a, shape).reshape(target)
        assert np.array_equal(np.broadcast_to(got, target), want)


def test_unknown_sizes_matter_only_where_factors_vary() -> None:
    from normcpu.onnx.affine import Refused, regroup, reshaped

    channels = np.arange(6.0).reshape(1, 6, 1, 1)
    src = ["n", 6, "h", "w"]
    assert regroup(channels, src, ["n", 2, 3, "h", "w"]).shape == (1, 2, 3, 1, 1)
    assert regroup(channels, src, ["n", 6, "rest"]).shape == (1, 6, 1)
    with pytest.raises(Refused, match="unknown sizes"):
        regroup(channels, src, ["n", "rest"])
    assert reshaped(src, [0, -1, 0, 0], "?") == ["n", 6, "h", "w"]
    assert reshaped(src, [-1, 2, 3, "h", "w"], "?") == ["n", 2, 3, "h", "w"]
    assert reshaped(src, [0, 6, -1], "?") == ["n", 6, "?"]
    with pytest.raises(Refused, match="does not have"):
        reshaped([2, 3], [0, 0, 0], "?")


def test_constants_that_do_not_vary_are_scalars() -> None:
    from normcpu.onnx.affine import Affine

    affine = Affine.of(3, np.full((4, 5), 2.0), np.arange(5.0))
    assert affine.scale.shape == (1, 1, 1)
    assert affine.axes == {2}
    assert Affine.along(4, 1, np.ones(3), np.zeros(3)).is_identity


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (6, 4, 3, 3), (0, 4)], ids=str)
def test_factors_into_a_weight(shape: tuple[int, ...], dtype: str) -> None:
    """Rounded once, along each axis, along none and along all; a weight of somebody else's stays as it is."""
    real = np.dtype(peer("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    from normcpu.fold._scale import rounded_once
    from normcpu.onnx.exact import Scaled

    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape).astype(real)
    along = [[n if k == axis else 1 for k, n in enumerate(shape)] for axis in range(len(shape))]
    for sizes in [*along, (), shape]:
        factors = rng.normal(size=sizes)
        expected = rounded_once(np.asarray(weight.astype(np.float64) * factors), real)
        for order in (weight.copy(), np.array(weight, order="F")):
            order.flags.writeable = False
            made = Scaled(lambda order=order: order, factors).rounded(real)  # type: ignore[misc]
            assert (made.shape, made.dtype) == (shape, real)
            np.testing.assert_array_equal(made.astype(np.float64), expected.astype(np.float64))
            np.testing.assert_array_equal(order.astype(np.float64), weight.astype(np.float64))


def test_bfloat16_is_rounded_once() -> None:
    """1 + 2^-8 + 2^-40 lies above the middle of two bfloat16, its float32 on it."""
    real = np.dtype(peer("ml_dtypes").bfloat16)
    from normcpu.onnx.exact import Scaled

    ones = np.ones((2, 2), real)
    ones.flags.writeable = False
    above = 1 + 2.0**-8 + 2.0**-40
    for factors in (np.full((2, 1), above), np.full((2, 2), above)):
        made = Scaled(lambda: ones, factors).rounded(real)
        np.testing.assert_array_equal(made.astype(np.float64), np.full((2, 2), 1 + 2.0**-7))
