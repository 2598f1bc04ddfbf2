# SPDX-License-Identifier: Apache-2.0
"""Folds that make no sense, and what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from budgets import F32

from normcpu import fold
from normcpu.fold import Affine, Branch, FoldError

Array = np.ndarray


def w(*shape: int) -> Array:
    return np.ones(shape, F32)


ONE, TWO, MINUS = Affine.of([1.0], [1.0]), Affine.of([1.0, 1.0]), Affine.of([-1.0])
BAD_CALLS = [
    (lambda: fold.conv_then_affine(w(2, 2), None, TWO), ValueError,
     "weight must have shape (o, i/groups, *kernel), got (2, 2)"),
    (lambda: fold.conv_then_affine(w(2, 1, 3), None, ONE), ValueError,
     "affine.scale must have shape (2,), one value per channel, got (1,)"),
    (lambda: fold.conv_then_affine(w(2, 1, 3), w(1), TWO), ValueError,
     "bias must have shape (2,), one value per output channel, got (1,)"),
    (lambda: fold.conv_then_affine(w(2, 1, 3), None, 2.0), TypeError, "affine must be an Affine, got float"),
    (lambda: fold.conv_then_affine(w(2, 1, 3), None, TWO, out=w(2, 1, 3)), TypeError,
     "out must be a tuple (weight, bias), got ndarray"),
    (lambda: fold.conv_then_affine(w(2, 1, 3), w(2), TWO, out=(w(2, 1, 3), np.ones(2))), TypeError,
     "out[1] must be float32, got float64"),
    (lambda: fold.conv_then_affine(x := w(2, 1, 2), None, TWO, out=(x, x[0, 0])), ValueError,
     "out[1] must not share memory with out[0]"),
    (lambda: fold.affine_then_conv(ONE, w(3, 1, 3), None, groups=2), ValueError,
     "groups must divide the 3 output channels of weight, got 2"),
    (lambda: fold.conv_transpose_then_affine(w(3, 1, 3), None, ONE, groups=0), ValueError,
     "groups must divide the 3 input channels of weight, got 0"),
    (lambda: fold.affine_then_conv(ONE, w(3, 1, 3), None, groups=True), TypeError, "groups must be an int, got bool"),
    (lambda: fold.affine_then_padded_conv(Affine.of([0.0], [1.0]), w(1, 1, 3), None), FoldError,
     "shift / scale must be finite, got 1 / 0 in channel 0"),
    (lambda: fold.affine_then_conv_transpose(Affine.of([0.0], [1.0]), w(1, 1, 3), None), FoldError,
     "shift / scale must be finite, got 1 / 0 in channel 0"),
    (lambda: fold.linear_then_affine(w(2, 2, 2), None, TWO), ValueError,
     "weight must have shape (o, i), got (2, 2, 2)"),
    (lambda: fold.linear_then_affine(w(1), None, TWO, transposed=True), ValueError,
     "weight must have shape (i, o), got (1,)"),
    (lambda: fold.parallel_convs([Branch()]), ValueError,
     "branches must hold at least one with a weight, got 1 without"),
    (lambda: fold.parallel_convs([Branch(w(2, 2, 3)), Branch(w(2, 1, 3))]), ValueError,
     "branches must have weights of one shape but for the kernel, got (2, 2, 3) and (2, 1, 3)"),
    (lambda: fold.parallel_convs([Branch(w(2, 2, 3)), Branch(w(2, 2, 2))]), ValueError,
     "branches[1].weight must have a kernel smaller by even numbers than (3,), got (2,)"),
    (lambda: fold.parallel_convs([Branch(w(2, 3, 3)), Branch()]), ValueError,
     "branches[1] must have a weight where 3 channels become 2, got None"),
    (lambda: fold.parallel_convs([Branch(w(2, 2, 3), affine=ONE)]), ValueError,
     "branches[0].affine.scale must have shape (2,), one value per channel, got (1,)"),
    (lambda: fold.pointwise_then_conv(w(2, 2, 3), None, w(1, 2, 3), None), ValueError,
     "first must have shape (2, 2, 1) for weight (1, 2, 3), got (2, 2, 3)"),
    (lambda: fold.identity_conv(3, 2), ValueError, "groups must divide the 3 input channels of weight, got 2"),
    (lambda: fold.quantized_then_affine(w(1, 1), w(1), None, None, ONE), TypeError, "weight must be int8, got float32"),
    (lambda: fold.quantized_then_affine(w(2, 1).astype(np.int8), w(3), None, None, TWO), ValueError,
     "scale must have shape (2,) or be one number, got shape (3,)"),
    (lambda: fold.quantized_then_affine(w(1, 1).astype(np.int8), w(1), np.uint8([0]), None, ONE), TypeError,
     "zero_point must be int8, got uint8"),
    (lambda: fold.quantized_then_affine(np.int8([[1, 1], [5, -128]]), w(2), None, None, Affine.of([1, -1])), FoldError,
     "weight must be above -128 where the affine's scale is negative, got -128 in channel 1"),
    (lambda: fold.quantized_then_affine(w(1, 1).astype(np.int8), w(1), np.int8([-128]), None, MINUS), FoldError,
     "zero_point must be above -128 where the affine's scale is negative, got -128 in channel 0"),
    (lambda: Affine.of(), ValueError, "scale or shift must be an array, got None for both"),
    (lambda: Affine.of([1.0, np.inf]), FoldError, "scale must be finite, got inf in channel 1"),
    (lambda: Affine.of(w(2, 2)), ValueError, "scale must have 1 dimension, one value per channel, got shape (2, 2)"),
    (lambda: Affine.of([1.0], [1.0, 2.0]), ValueError,
     "shift must have shape (1,), one value per channel, got (2,)"),
    (lambda: Affine.of_batch_norm([0.0, 0.0], [1.0, -2.0]), FoldError,
     "running_var + eps must be positive, got -1.99999 in channel 1"),
    (lambda: Affine.of_batch_norm([0.0], [0.0], eps=0.0), FoldError,
     "running_var + eps must be positive, got 0 in channel 0"),
    (lambda: Affine.of_batch_norm([0.0], [np.nan]), FoldError, "running_var must be finite, got nan in channel 0"),
    (lambda: Affine.of_batch_norm([0.0], [1.0], eps=-1.0), ValueError, "eps must be finite and at least 0, got -1.0"),
    (lambda: ONE.then(TWO), ValueError, "after.scale must have shape (1,), one value per channel, got (2,)"),
    (lambda: Affine.of([1e200]).then(Affine.of([1e200])), FoldError,
     "the product of the scales must be finite, got inf in channel 0"),
    (lambda: ONE.as_batch_norm(np.float16), TypeError, "dtype must be float32 or float64, got float16"),
    (lambda: Affine.of([1e39]).as_batch_norm(), FoldError, "weight must fit float32, got 1e+39 in channel 0"),
    (lambda: Affine.of([1e-39]).as_batch_norm(eps=0.0), FoldError,
     "weight must keep float32's digits, got at most 1e-39 in channel 0, below 1.17549e-38"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for _, _, message in BAD_CALLS])
def test_bad_calls(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
