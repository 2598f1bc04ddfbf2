# SPDX-License-Identifier: Apache-2.0
"""On the same inputs, normcpu's error is no larger than that of PyTorch and ONNX Runtime, plus one ulp; running
statistics may use their own budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from budgets import BUDGETS, DTYPES, F16, F32, F64, computed_in, ulp
from cases import values
from peers import peer

import normcpu

Array = np.ndarray
pytestmark = pytest.mark.peers
SHAPES = [(2, 3), (16, 5, 7, 7), (3, 64, 1031), (2, 4, 3, 5, 6)]
KINDS = ["random", "mean 1e3", "outlier first", "integers"]
# Ulp.  In double, weight / sqrt(var + eps) is three roundings, whose luck differs from channel to channel.
MARGIN = {"f32": 1, "f16": 1, "bf16": 1, "f64": 2}
STATISTICS = max(BUDGETS["running_var"])
FAR_FROM_ZERO = ["mean 1e5", "mean 1e7"]  # where the peers' errors are digits, and so is the margin


def worst(got: Array, want: Array, size: Array) -> float:
    """Largest error in ulp of the result's type at the size of its terms."""
    dtype = got.dtype if got.dtype in (F32, F64) else F16 if got.dtype == F16 else DTYPES["bf16"]
    return float((np.abs(reference.wide(got) - want) / ulp(np.maximum(np.abs(want), size), dtype)).max(initial=0))


def to_torch(torch: Any, a: Array) -> Any:
    return (
        torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype.name == "bfloat16" else torch.from_numpy(a)
    )


def from_torch(t: Any, dtype: np.dtype) -> Array:
    t = t.detach().contiguous()
    return t.view(__import__("torch").int16).numpy().view(dtype) if dtype.name == "bfloat16" else t.numpy()


def parameters(c: int, dtype: np.dtype) -> list[Array]:
    rng = np.random.default_rng(1)
    made = [rng.normal(size=c), rng.random(c) + 0.5, rng.normal(1, 2, c), rng.normal(size=c)]
    return [m.astype(computed_in(dtype)) for m in made]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS + FAR_FROM_ZERO)
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch(dtype: str, kind: str, training: bool) -> None:
    torch = peer("torch")
    kind = "random" if dtype == "f16" and kind in FAR_FROM_ZERO else kind
    for shape in SHAPES:
        x = values(kind, shape, DTYPES[dtype])
        mean, var, weight, bias = parameters(shape[1], x.dtype)
        ours_mean, ours_var = mean.copy(), var.copy()
        y = normcpu.batch_norm(x, ours_mean, ours_var, weight, bias, training)
        theirs = [torch.from_numpy(p.copy()) for p in (mean, var, weight, bias)]
        t = from_torch(torch.nn.functional.batch_norm(to_torch(torch, x), *theirs, training), x.dtype)
        want = reference.batch_norm(x, mean, var, weight, bias, training)
        assert worst(y, want.y, want.size) <= worst(t, want.y, want.size) + MARGIN[dtype]
        sizes = 0.9 * np.abs(mean) + 0.1 * (np.abs(want.mean) + np.sqrt(want.var)), 0.9 * var + 0.1 * want.var
        rights, ours_both = (want.running_mean, want.running_var), (ours_mean, ours_var)
        for ours, peers, right, size in zip(ours_both, theirs, rights, sizes, strict=False):
            # one element may be all of a variance, as an outlier is: its roundings are not averaged away
            assert worst(ours, right, size) <= max(worst(peers.numpy(), right, size) + MARGIN[dtype], STATISTICS)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS + FAR_FROM_ZERO)
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_backward(dtype: str, kind: str, training: bool) -> None:
    torch = peer("torch")
    kind = "random" if dtype == "f16" and kind in FAR_FROM_ZERO else kind
    for shape in SHAPES:
        x, dy = values(kind, shape, DTYPES[dtype]), values("random", shape, DTYPES[dtype], 2)
        mean, var, weight, bias = parameters(shape[1], x.dtype)
        leaves = [
            to_torch(torch, x).requires_grad_(),
            *(torch.from_numpy(p.copy()).requires_grad_() for p in (weight, bias)),
        ]
        running = [torch.from_numpy(p.copy()) for p in (mean, var)]
        torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training).backward(to_torch(torch, dy))
        if training:
            mean, var = normcpu.moments(x, channel_axis=1)
        ours = normcpu.batch_norm_backward(dy, x, mean.astype(float), var.astype(float), weight, training=training)
        if training:
            mean, var = reference.moments(x, reference.other_axes(x, 1))
        want = reference.batch_norm_backward(dy, x, mean, var, weight, training=training)
        for name, leaf in zip(("dx", "dweight", "dbias"), leaves, strict=True):
            right, size = getattr(want, name), getattr(want, f"{name}_size")
            theirs = from_torch(leaf.grad, getattr(ours, name).dtype)
            assert worst(getattr(ours, name), right, size) <= worst(theirs, right, size) + MARGIN[dtype], name


@pytest.mark.parametrize("kind", KINDS + FAR_FROM_ZERO)
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16"])
def test_onnxruntime(dtype: str, kind: str) -> None:
    ort, onnx = peer("onnxruntime"), peer("onnx")
    kind = "random" if dtype == "f16" and kind in FAR_FROM_ZERO else kind
    names = ["x", "weight", "bias", "mean", "var"]
    for shape in SHAPES:
        x = values(kind, shape, DTYPES[dtype])
        mean, var, weight, bias = (p.astype(x.dtype) for p in parameters(shape[1], x.dtype))
        feed = dict(zip(names, (x, weight, bias, mean, var), strict=True))
        infos = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feed.items()
        ]
        out = onnx.helper.make_tensor_value_info("y", onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        node = onnx.helper.make_node("BatchNormalization", names, ["y"])
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "one", infos, [out]),
            opset_imports=[onnx.helper.make_opsetid("", 15)],
            ir_version=10,
        )
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        [theirs] = session.run(None, feed)
        y = normcpu.batch_norm(x, mean, var, weight, bias)
        want = reference.batch_norm(x, mean, var, weight, bias)
        assert worst(y, want.y, want.size) <= worst(theirs, want.y, want.size) + MARGIN[dtype]
