# SPDX-License-Identifier: Apache-2.0
"""The bits of every operation, one hash a line, to be compared between machines and instruction sets:

    python tests/bits.py > here.txt
    NORMCPU_ISA=scalar python tests/bits.py --compare here.txt

Needs NumPy alone.  Inputs are made of integers and divisions by powers of two, so no machine's libm has a say; all
NaNs are hashed as one.  Rows that only one side has (no ml_dtypes there) are not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import normcpu
from normcpu import _core

Array = np.ndarray
DTYPES = {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64), "f16": np.dtype(np.float16)}
try:
    import ml_dtypes

    DTYPES["bf16"] = np.dtype(ml_dtypes.bfloat16)
except ImportError:
    pass

ACTIVATIONS = (None, "relu", "relu6", "leaky_relu", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")
DOUBLE_ACTIVATIONS = ACTIVATIONS[:5]


# ---- Operations: (x, the channel axis, parameters, a random source) -> arrays ----------------------------


class Inputs:
    """x and everything else that an operation may want, of matching shapes: a function of the seed alone."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        channel_axis: int = 1,
        seed: int = 0,
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        self.shape, self.dtype, self.axis = shape, dtype, channel_axis
        self.rng = np.random.default_rng(seed)
        real = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        c = shape[channel_axis]
        self.x, self.dy, self.residual = (
            self.bell(shape, dtype, scale, offset),
            self.bell(shape, dtype),
            self.bell(shape, dtype),
        )
        self.weight, self.bias, self.mean = (self.bell((c,), real) for _ in range(3))
        self.var = np.abs(self.bell((c,), real)) + real.type(0.125)

    def bell(self, shape: tuple[int, ...], dtype: np.dtype, scale: float = 1.0, offset: float = 0.0) -> Array:
        """Nearly normal: the sum of four uniform integers."""
        total = self.rng.integers(-(2**20), 2**20, (4, *shape)).sum(0)
        return (total / 2.0**20 * scale + offset).astype(np.float32 if dtype.itemsize < 4 else dtype).astype(dtype)


def evaluate(i: Inputs, **more: Any) -> tuple[Any, ...]:
    return (normcpu.batch_norm(i.x, i.mean, i.var, i.weight, i.bias, channel_axis=i.axis, **more),)


def evaluate_masked(i: Inputs) -> tuple[Any, ...]:
    out = normcpu.batch_norm(
        i.x,
        i.mean,
        i.var,
        i.weight,
        i.bias,
        channel_axis=i.axis,
        residual=i.residual,
        activation="relu",
        return_mask=True,
    )
    return out.y, out.mask


def train(i: Inputs) -> tuple[Any, ...]:
    mean, var = i.mean.copy(), i.var.copy()
    out = normcpu.batch_norm(
        i.x, mean, var, i.weight, i.bias, True, channel_axis=i.axis, residual=i.residual, return_stats=True
    )
    return out.y, out.mean, out.var, mean, var


def backward(i: Inputs, training: bool = True) -> tuple[Any, ...]:
    mean, var = normcpu.moments(i.x, channel_axis=i.axis)
    return tuple(normcpu.batch_norm_backward(i.dy, i.x, mean, var, i.weight, training=training, channel_axis=i.axis))


def backward_relu(i: Inputs) -> tuple[Any, ...]:
    mean, var = normcpu.moments(i.x, channel_axis=i.axis)
    return tuple(
        normcpu.batch_norm_backward(
            i.dy, i.x, mean, var, i.weight, channel_axis=i.axis, activation="relu", y=i.residual, residual=True
        )
    )


def scale_shift(i: Inputs, **more: Any) -> tuple[Any, ...]:
    return (normcpu.scale_shift(i.x, i.weight, i.bias, channel_axis=i.axis, **more),)


def scale_axis(i: Inputs) -> tuple[Any, ...]:
    """y and the largest products, whatever scale_axis would refuse of them."""
    x, factors = np.asarray(i.x), np.asarray(i.weight, np.float64)
    y, peak = np.empty_like(x), np.empty(factors.size)
    _core.scale_axis(x, i.axis % x.ndim, factors, y, peak)
    return y, peak


def dropout_channels(i: Inputs) -> tuple[Any, ...]:
    """Of any axis, and the gradient."""
    x, dy, axis = np.asarray(i.x), np.asarray(i.dy), i.axis % len(i.shape)
    y, dx, batched = np.empty_like(x), np.empty_like(dy), axis > 0
    mask = np.zeros((x.shape[axis] * (x.shape[0] if batched else 1) + 7) // 8, np.uint8)
    _core.dropout(x, 0.3, False, axis, batched, 7, y, mask)
    _core.dropout_backward(dy, 0.3, False, axis, batched, mask, dx)
    return y, dx, mask


def image(i: Inputs, kind: Any) -> tuple[Any, ...]:
    whole = np.clip(np.asarray(i.x, np.float64) * 64, -(2.0**40), 2.0**40)  # what int64 cannot hold, machines differ on
    x = whole.astype(np.int64).astype(kind)  # wraps around, as bytes do
    scale, shift, center = (p.astype(np.float32) for p in (i.weight, i.bias, i.mean))
    return (normcpu.scale_shift(x, scale, shift, center=center, channel_axis=i.axis),)


# ---- Statistics of each sample: of x with an axis in front where the channels' is the first ----


def samples(i: Inputs) -> tuple[Array, Array, Array, int]:
    axis = i.axis % i.x.ndim
    arrays = (i.x, i.dy, i.residual)
    return *(arrays if axis else (a[None] for a in arrays)), axis or 1


def half_the_groups(c: int) -> int:
    return next(g for g in range(max(1, c // 2), 0, -1) if c % g == 0)


def positions(x: Array, axis: int) -> Array:
    """A mask that leaves each sample some positions."""
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return np.arange(max(1, int(np.prod(shape)))).reshape(shape) % 3 != 1 if x.size else np.ones(shape, bool)


def grouped(i: Inputs, groups: int | None = None, masked: bool = False, **more: Any) -> tuple[Any, ...]:
    x, dy, _, axis = samples(i)
    mask = positions(x, axis) if masked and x.ndim > 2 and x[0].size > 2 * x.shape[axis] else None
    groups = half_the_groups(x.shape[axis]) if groups is None else groups
    out = normcpu.group_norm(x, groups, i.weight, i.bias, channel_axis=axis, mask=mask, return_stats=True, **more)
    made = normcpu.group_norm_backward(
        dy,
        x,
        out.mean,
        out.var,
        groups,
        i.weight,
        channel_axis=axis,
        statistics_mask=mask,
        **({"y": out.y} if more else {}),
        **more,
    )
    return *out[:3], *made


def instances(i: Inputs) -> tuple[Any, ...]:
    x, _, residual, axis = samples(i)
    mean, var = i.mean.copy(), i.var.copy()
    if np.prod(x.shape) == x.shape[0] * x.shape[axis]:
        return ()
    out = normcpu.instance_norm(
        x, mean, var, i.weight, i.bias, channel_axis=axis, residual=residual, activation="leaky_relu", return_stats=True
    )
    return *out[:3], mean, var


def without_parameters(i: Inputs) -> tuple[Any, ...]:
    axes = tuple({0, i.x.ndim - 1})
    return (
        normcpu.mean_variance_normalization(i.x, axes),
        normcpu.mean_variance_normalization_backward(i.dy, i.x, axes),
        *(normcpu.lp_normalize(i.x, p, i.axis) for p in (1, 2, np.inf)),
        *(normcpu.lp_normalize_backward(i.dy, i.x, p, i.axis) for p in (1, 2)),
        normcpu.local_response_norm(i.x, 4, 0.5, channel_axis=i.axis),
        normcpu.local_response_norm_backward(i.dy, i.x, 4, 0.5, channel_axis=i.axis),
    )


def row_parameters(i: Inputs) -> tuple[Any, Any]:
    """For rows of the last axis."""
    width, real = i.x.shape[-1], i.weight.dtype
    whole = np.arange(2 * width) % 37 - 18
    return (whole[:width] / 16).astype(real), (whole[width:] / 8).astype(real)


def layer_norm(i: Inputs, **more: Any) -> tuple[Any, ...]:
    result = normcpu.layer_norm(i.x, i.x.shape[-1], *row_parameters(i), return_stats=True, **more)
    return result.y, result.mean, result.var


def layer_norm_channels(i: Inputs) -> tuple[Any, ...]:
    return (normcpu.layer_norm(i.x, None, i.weight, i.bias, axis=i.axis),)


def add_rms_norm(i: Inputs) -> tuple[Any, ...]:
    weight, _ = row_parameters(i)
    return normcpu.add_rms_norm(i.x, i.residual, i.x.shape[-1], weight, 1e-5, plus_one=True)[:2]


def layer_norm_backward(i: Inputs) -> tuple[Any, ...]:
    weight, _ = row_parameters(i)
    stats = normcpu.layer_norm(i.x, i.x.shape[-1], return_stats=True)
    return tuple(normcpu.layer_norm_backward(i.dy, i.x, stats.mean, stats.var, i.x.shape[-1], weight, dsum=i.residual))


def masked_rows(i: Inputs) -> tuple[Any, ...]:
    """Of two elements out of three, with relu and its bits, there and back."""
    weight, bias = row_parameters(i)
    chosen = np.arange(i.x.shape[-1]) % 3 != 1
    more: dict[str, Any] = {
        "activation": "relu",
        "residual": i.residual,
        "mask": chosen.reshape((1,) * (i.x.ndim - 1) + (-1,)),
    }
    made = normcpu.layer_norm(i.x, i.x.shape[-1], weight, bias, return_stats=True, return_mask=True, **more)
    back = normcpu.layer_norm_backward(
        i.dy, i.x, made.mean, made.var, i.x.shape[-1], weight, activation="relu", mask=made.mask,
        statistics_mask=more["mask"], residual=True,
    )  # fmt: skip
    return made.y, made.mean, made.var, made.mask, *back


def rms_norm_backward(i: Inputs) -> tuple[Any, ...]:
    weight, _ = row_parameters(i)
    var = normcpu.rms_norm(i.x, i.x.shape[-1], return_stats=True).var
    return tuple(normcpu.rms_norm_backward(i.dy, i.x, var, i.x.shape[-1], weight))


def quantized_rows(i: Inputs) -> tuple[Any, ...]:
    weight, bias = row_parameters(i)
    given = normcpu.Quantization(0.01, 7, np.uint8)
    dynamic = normcpu.rms_norm(i.x, i.x.shape[-1], weight, quantize=normcpu.Quantization())
    return normcpu.layer_norm(i.x, i.x.shape[-1], weight, bias, quantize=given), dynamic.y, dynamic.scales


OPERATIONS: dict[str, Callable[[Inputs], tuple[Any, ...]]] = {
    "eval": evaluate,
    "eval residual relu": evaluate_masked,
    **{f"eval {name}": lambda i, name=name: evaluate(i, activation=name) for name in ACTIVATIONS if name},
    "train": train,
    "backward": backward,
    "backward frozen": lambda i: backward(i, training=False),
    "backward relu": backward_relu,
    "moments channels": lambda i: tuple(normcpu.moments(i.x, channel_axis=i.axis)),
    "moments all": lambda i: tuple(normcpu.moments(i.x)),
    "moments first axis": lambda i: tuple(normcpu.moments(i.x, 0)),
    "moments last axis": lambda i: tuple(normcpu.moments(i.x, -1)),
    "group_norm": grouped,
    "group_norm one": lambda i: grouped(i, 1),
    "group_norm relu": lambda i: grouped(i, activation="relu"),
    "group_norm masked": lambda i: grouped(i, masked=True),
    "instance_norm": instances,
    "no parameters": without_parameters,
    "scale_shift": scale_shift,
    "scale_shift residual": lambda i: scale_shift(i, residual=i.residual, activation="leaky_relu"),
    "scale_axis": scale_axis,
    "layer_norm": layer_norm,
    "layer_norm residual": lambda i: layer_norm(i, residual=i.residual, activation="relu"),
    "layer_norm channels": layer_norm_channels,
    "rows gelu": lambda i: layer_norm(i, activation="gelu"),
    "rows backward": layer_norm_backward,
    "add_rms_norm": add_rms_norm,
    "rms_norm backward": rms_norm_backward,
    "rows masked": masked_rows,
    "quantized rows": quantized_rows,
    "dropout": lambda i: normcpu.dropout(i.x, 0.3, rng=5, return_mask=True),
    "dropout alpha": lambda i: normcpu.alpha_dropout(i.x, 0.1, rng=6, return_mask=True),
    "dropout channels": dropout_channels,
    "scale_shift u8": lambda i: image(i, np.uint8),
    "scale_shift i8": lambda i: image(i, np.int8),
}  # fmt: skip
SHAPES = (
    ((1, 1, 1), 1), ((2, 3, 5), 1), ((3, 7, 7, 7), 1), ((2, 5, 1031), 1), ((1, 2, 9001), 1), ((70, 40), 1),
    ((5, 9, 3), -1), ((40, 16), 1), ((1030, 33), 1), ((2, 7, 7, 64), -1), ((4, 3, 6), 0),
)  # fmt: skip
DISTRIBUTIONS = {"unit": (1.0, 0.0), "mean 1e5": (1.0, 1e5), "1e30": (1e30, 0.0), "subnormal": (1e-40, 0.0)}


def runs_on(operation: str, dtype: str) -> bool:
    """f64 has activations that need no exponential; bytes come in one kind."""
    if operation.endswith(("u8", "i8")):
        return dtype == "f32"
    if operation in ("rows gelu", "quantized rows"):
        return dtype != "f64"
    return dtype != "f64" or not operation.startswith("eval ") or operation.split()[-1] in DOUBLE_ACTIVATIONS


# ---- Hashes ----------------------------------------------------------------------------------------------


def canonical(a: Any) -> bytes:
    """Shape, dtype and bits; every NaN is the same one."""
    a = np.ascontiguousarray(a)
    bits = a.view(f"u{a.itemsize}").copy()
    if a.dtype.kind not in "iu":
        bits[np.isnan(a)] = np.iinfo(bits.dtype).max  # itself a NaN, so no number's bits
    return f"{a.dtype.name}{a.shape}".encode() + bits.tobytes()


def digest(results: tuple[Any, ...]) -> str:
    made = hashlib.sha256()
    for result in results:
        made.update(b"none" if result is None else canonical(result))
    return made.hexdigest()[:16]


def rows() -> Iterator[tuple[str, str]]:
    for dtype, (shape, axis), kind in itertools.product(DTYPES, SHAPES, DISTRIBUTIONS):
        scale, offset = DISTRIBUTIONS[kind]
        with np.errstate(all="ignore"):
            inputs = Inputs(shape, DTYPES[dtype], axis, scale=scale, offset=offset)
            for name, operation in OPERATIONS.items():
                if runs_on(name, dtype) and not (name == "train" and np.prod(shape) == shape[axis]):
                    yield f"{name}, {dtype}, {shape}, axis {axis}, {kind}".replace(" ", "_"), digest(operation(inputs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", metavar="FILE", help="the output of another run: exit 1 where bits differ")
    options = parser.parse_args()
    if not options.compare:
        for name, made in rows():
            print(made, name)
        return 0
    with open(options.compare) as file:
        known = {name: made for made, name in (line.split() for line in file)}
    here = dict(rows())
    common = known.keys() & here.keys()
    different = sorted(name for name in common if known[name] != here[name])
    print(*different, f"{len(common) - len(different)} of {len(common)} rows have the same bits", sep="\n")
    return 1 if different or not common else 0


if __name__ == "__main__":
    sys.exit(main())
