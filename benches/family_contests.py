# SPDX-License-Identifier: Apache-2.0
"""Who takes part in the table of the family, and in what: a function of a problem per operation."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import reference
from contestants import EPS, OnnxRuntime

import normcpu

GROUPS, P = 32, 0.1
FEW = slice(0, 2)  # samples whose errors are looked at


class Contest(NamedTuple):
    calls: dict  # (who, "forward" or "backward") -> what is timed
    y: np.ndarray | None = None  # where ours went
    dx: np.ndarray | None = None
    want: Callable | None = None  # () -> ((y, its size), (dx, its size)) of FEW samples; either may be None


# ---- Who ---------------------------------------------------------------------------------------------------


def torchs(p, call, *parameters):
    """call(x, *parameters) and its gradients, all of them."""
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    torch.set_num_threads(1)
    dy, x, *others = (torch.from_numpy(a) for a in (p.dy, p.x, *parameters))
    inputs = [tensor.clone().requires_grad_() for tensor in (x, *others)]
    y = call(*inputs)
    return {
        ("torch", "forward"): lambda: call(x, *others),
        ("torch", "backward"): lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True),
    }


def onnxruntime(p, node, inputs, **attributes):
    """One node, channels first."""
    if p.layout != "first":
        return {}
    problem = SimpleNamespace(dtype="f32", shape=p.shape, x={"first": p.x}, y={"first": np.empty_like(p.x)})
    try:
        run = OnnxRuntime().session(problem, [(node, ["X", *inputs], ["Y"], attributes)], inputs)
    except BaseException as error:  # pytest's Skipped is no Exception; neither is there an operator for every shape
        print(f"ONNX Runtime, {node}: {error}", file=sys.stderr)
        return {}
    return {("ONNX Runtime", "forward"): run}


def in_c(p, forward, backward=None):
    """What was measured without Python: seconds."""
    names = {"normcpu": "normcpu in C", "onednn": "oneDNN"}
    return {
        (names[who], way): taken[op]
        for who, taken in p.functions.items()
        for way, op in (("forward", forward), ("backward", backward))
        if op in taken
    }


def functional():
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch.nn.functional


# ---- What --------------------------------------------------------------------------------------------------


def layer_norm(p):
    made = normcpu.layer_norm(p.x, p.c, p.weight, p.bias, EPS, return_stats=True)
    stats = made.mean, made.var
    calls = {
        ("normcpu", "forward"): lambda: normcpu.layer_norm(p.x, p.c, p.weight, p.bias, EPS, out=p.y),
        ("normcpu", "backward"): lambda: normcpu.layer_norm_backward(p.dy, p.x, *stats, p.c, p.weight, EPS, out=p.dx),
    }
    calls |= torchs(p, lambda x, w, b: functional().layer_norm(x, (p.c,), w, b, EPS), p.weight, p.bias)
    calls |= onnxruntime(p, "LayerNormalization", {"W": p.weight, "B": p.bias}, epsilon=EPS)
    calls |= in_c(p, "layer_norm", "layer_norm backward")

    def want():
        forward = reference.row_norm(p.x[FEW], (1,), p.weight, p.bias, EPS)
        back = reference.row_norm_backward(p.dy[FEW], p.x[FEW], (1,), *(s[FEW] for s in stats), p.weight, EPS)
        return (forward.y, forward.size), (back.dx, back.dx_size)

    return Contest(calls, p.y, p.dx, want)


def rms_norm(p):
    var = normcpu.rms_norm(p.x, p.c, p.weight, EPS, return_stats=True).var
    calls = {
        ("normcpu", "forward"): lambda: normcpu.rms_norm(p.x, p.c, p.weight, EPS, out=p.y),
        ("normcpu", "backward"): lambda: normcpu.rms_norm_backward(p.dy, p.x, var, p.c, p.weight, EPS, out=p.dx),
    }
    calls |= torchs(p, lambda x, w: functional().rms_norm(x, (p.c,), w, EPS), p.weight)
    calls |= in_c(p, "rms_norm")

    def want():
        forward = reference.row_norm(p.x[FEW], (1,), p.weight, None, EPS, rms=True)
        back = reference.row_norm_backward(p.dy[FEW], p.x[FEW], (1,), None, var[FEW], p.weight, EPS, rms=True)
        return (forward.y, forward.size), (back.dx, back.dx_size)

    return Contest(calls, p.y, p.dx, want)


def group_norm(p, groups=GROUPS):
    made = normcpu.group_norm(p.x, groups, p.weight, p.bias, EPS, return_stats=True)
    stats = made.mean, made.var
    calls = {
        ("normcpu", "forward"): lambda: normcpu.group_norm(p.x, groups, p.weight, p.bias, EPS, out=p.y),
        ("normcpu", "backward"): lambda: normcpu.group_norm_backward(
            p.dy, p.x, *stats, groups, p.weight, EPS, out=p.dx
        ),
    }
    if groups == p.c:
        calls |= torchs(p, lambda x, w, b: functional().instance_norm(x, None, None, w, b, eps=EPS), p.weight, p.bias)
        calls |= onnxruntime(p, "InstanceNormalization", {"W": p.weight, "B": p.bias}, epsilon=EPS)
    else:
        calls |= torchs(p, lambda x, w, b: functional().group_norm(x, groups, w, b, EPS), p.weight, p.bias)

    def want():
        forward = reference.group_norm(p.x[FEW], groups, p.weight, p.bias, EPS)
        back = reference.group_norm_backward(p.dy[FEW], p.x[FEW], *(s[FEW] for s in stats), groups, p.weight, EPS)
        return (forward.y, forward.size), (back.dx, back.dx_size)

    return Contest(calls, p.y, p.dx, want)


def instance_norm(p):
    return group_norm(p, p.c)


def local_response_norm(p):
    size = 5
    calls = {
        ("normcpu", "forward"): lambda: normcpu.local_response_norm(p.x, size, out=p.y),
        ("normcpu", "backward"): lambda: normcpu.local_response_norm_backward(p.dy, p.x, size, out=p.dx),
    }
    calls |= torchs(p, lambda x: functional().local_response_norm(x, size))
    calls |= onnxruntime(p, "LRN", {}, size=size)

    def want():
        y = reference.local_response_norm(p.x[FEW], size, 1e-4, 0.75, 1.0, 1, "pytorch")
        return (y, np.abs(y)), None

    return Contest(calls, p.y, None, want)


def mean_variance_normalization(p):
    axes = (2, 3)
    calls = {
        ("normcpu", "forward"): lambda: normcpu.mean_variance_normalization(p.x, axes, out=p.y),
        ("normcpu", "backward"): lambda: normcpu.mean_variance_normalization_backward(p.dy, p.x, axes, out=p.dx),
    }
    calls |= onnxruntime(p, "MeanVarianceNormalization", {}, axes=axes)
    return Contest(calls, p.y, None, lambda: (reference.mean_variance_normalization(p.x[FEW], axes), None))


def lp_normalize(p):
    calls = {
        ("normcpu", "forward"): lambda: normcpu.lp_normalize(p.x, out=p.y),
        ("normcpu", "backward"): lambda: normcpu.lp_normalize_backward(p.dy, p.x, out=p.dx),
    }
    calls |= torchs(p, lambda x: functional().normalize(x))
    calls |= onnxruntime(p, "LpNormalization", {}, axis=1)

    def want():
        y = reference.lp_normalize(p.x[FEW], 2.0, (1,))
        return (y, np.abs(y)), None

    return Contest(calls, p.y, None, want)


def dropout(p):
    mask = normcpu.dropout(p.x, P, rng=0, return_mask=True).mask
    calls = {
        ("normcpu", "forward"): lambda: normcpu.dropout(p.x, P, rng=0, out=p.y),
        ("normcpu", "backward"): lambda: normcpu.dropout_backward(p.dy, mask, P, out=p.dx),
    }
    calls |= torchs(p, lambda x: functional().dropout(x, P))

    def want():
        kept = [np.where(a[FEW] != 0, reference.wide(b[FEW]) / (1 - P), 0) for a, b in ((p.y, p.x), (p.dx, p.dy))]
        return tuple((values, np.abs(values)) for values in kept)

    return Contest(calls, p.y, p.dx, want)


def optimizer(p, name, options, torch_options):
    ours = getattr(normcpu, name)([p.x.copy()], 1e-9, **options)
    calls = {("normcpu", "forward"): lambda: ours.step([p.dy])}
    if functional():
        import torch

        weight = torch.nn.Parameter(torch.from_numpy(p.x).clone())
        weight.grad = torch.from_numpy(p.dy)
        calls["torch", "forward"] = getattr(torch.optim, name)([weight], 1e-9, **options, **torch_options).step
    return Contest(calls)


def sgd(p):
    return optimizer(p, "SGD", {"momentum": 0.9, "weight_decay": 1e-4}, {})


def adamw(p):
    return optimizer(p, "AdamW", {}, {"fused": True})
