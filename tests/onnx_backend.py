# SPDX-License-Identifier: Apache-2.0
"""A backend for ONNX models of one node, in normcpu's functions: ONNX's published node tests run on it.

    python tests/onnx_backend.py       # a table: operation, tests passed, tests there are

An operation is one function in OPERATIONS, and the number of its tests in PUBLISHED.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import normcpu
from normcpu._types import RowNormResult

Array = np.ndarray


def batch_normalization(
    x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float = 1e-5, momentum: float = 0.9,
    training_mode: int = 0, **_older: Any,
) -> list[Array]:  # fmt: skip
    """momentum is the weight of the old value, and the running variance is biased; older models say more."""
    mean, var = mean.copy(), var.copy()
    y = normcpu.batch_norm(x, mean, var, scale, bias, bool(training_mode), 1 - momentum, epsilon, biased=True)
    return [y, mean, var] if training_mode else [y]


def group_normalization(x: Array, scale: Array, bias: Array, num_groups: int, epsilon: float = 1e-5) -> list[Array]:
    """Of operator set 21 on: scale and bias have a value per channel."""
    return [normcpu.group_norm(x, num_groups, scale, bias, epsilon)]


def instance_normalization(x: Array, scale: Array, bias: Array, epsilon: float = 1e-5) -> list[Array]:
    return [normcpu.instance_norm(x, weight=scale, bias=bias, eps=epsilon)]


def lrn(x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> list[Array]:
    return [normcpu.local_response_norm(x, size, alpha, beta, bias, placing="onnx")]


def lp_normalization(x: Array, axis: int = -1, p: int = 2) -> list[Array]:
    return [normcpu.lp_normalize(x, p, axis, eps=0.0)]


def mean_variance_normalization(x: Array, axes: tuple[int, ...] = (0, 2, 3)) -> list[Array]:
    return [normcpu.mean_variance_normalization(x, tuple(axes))]


def layer_normalization(
    x: Array, scale: Array, bias: Array | None = None, axis: int = -1, epsilon: float = 1e-5, **_precision: Any
) -> list[Array]:
    """Over the axes from `axis` on; the second and third result are mean and 1 / sqrt(var + epsilon)."""
    made = normcpu.layer_norm(x, x.shape[axis:], scale, bias, epsilon, return_stats=True)
    assert isinstance(made, RowNormResult)
    assert made.mean is not None
    assert made.var is not None
    return [made.y, made.mean.astype(np.float32), (1 / np.sqrt(made.var + epsilon)).astype(np.float32)]


def rms_normalization(x: Array, scale: Array, axis: int = -1, epsilon: float = 1e-5, **_precision: Any) -> list[Array]:
    y = normcpu.rms_norm(x, x.shape[axis:], scale, epsilon)
    assert isinstance(y, np.ndarray)
    return [y]


def dropout(x: Array, ratio: Array | float = 0.5, training: Array | bool = False, seed: int = 0) -> list[Array]:
    """The second result is True where an element was kept."""
    y, bits = normcpu.dropout(x, float(ratio), bool(training), rng=seed, return_mask=True)
    return [y, np.unpackbits(bits, count=x.size, bitorder="little").reshape(x.shape) == 1]


# (inputs, attributes) -> outputs, of which a node may want the first ones only; an input that is left out is None.
OPERATIONS: dict[str, Callable[..., list[Array]]] = {
    "BatchNormalization": batch_normalization,
    "Dropout": dropout,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "RMSNormalization": rms_normalization,
}
# How many node tests of each there were when this was written: later versions of onnx may have more.
PUBLISHED = {
    "BatchNormalization": 4, "Dropout": 12, "GroupNormalization": 2, "InstanceNormalization": 2, "LRN": 2,
    "LayerNormalization": 19, "LpNormalization": 6, "MeanVarianceNormalization": 1, "RMSNormalization": 19,
}  # fmt: skip


def run_node(node: Any, *inputs: Array | None) -> list[Array]:
    import onnx

    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return OPERATIONS[node.op_type](*inputs, **attributes)


@functools.cache
def published() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests of other operators overflow while they are collected
        from onnx.backend.test.case.node import collect_testcases

        return tuple(collect_testcases(None))


def cases(operation: str) -> list[Any]:
    """The published tests whose model is one node of this operation."""
    return [case for case in published() if [node.op_type for node in case.model.graph.node] == [operation]]


def check(case: Any) -> str:
    """The name of the test; AssertionError where an output is not the published one."""
    [node] = case.model.graph.node
    for inputs, outputs in case.data_sets:
        given = dict(zip((i.name for i in case.model.graph.input), inputs, strict=True))
        got = run_node(node, *(given.get(name) for name in node.input))[: len(node.output)]
        assert len(got) == len(outputs), case.name
        if node.op_type == "Dropout":
            outputs = as_drawn(got[0], outputs, *inputs)
        for ours, theirs in zip(got, outputs, strict=True):
            assert ours.dtype == theirs.dtype, case.name
            np.testing.assert_allclose(ours, theirs, rtol=4e-6, atol=1e-6, err_msg=case.name)
    return str(case.name)


def as_drawn(y: Array, published: list[Array], x: Array, ratio: Any = 0.5, training: Any = False) -> list[Array]:
    """What ONNX's Dropout gives where those are kept that y keeps: each implementation has a generator of its own."""
    if not training or not ratio:
        return published
    kept = y != 0
    assert 0 < np.count_nonzero(kept) < x.size
    return [(kept * x * (1 / (1 - ratio))).astype(x.dtype), kept][: len(published)]


def main() -> int:
    failed = 0
    print(f"{'operation':28}{'passed':>8}{'of':>4}")
    for operation in OPERATIONS:
        results = []
        for case in cases(operation):
            try:
                results.append(bool(check(case)))
            except AssertionError as error:
                results.append(False)
                print(error, file=sys.stderr)
        failed += results.count(False)
        print(f"{operation:28}{sum(results):8}{len(results):4}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
