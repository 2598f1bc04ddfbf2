# SPDX-License-Identifier: Apache-2.0
"""What devices are tried with: every layer that embed.function takes, with its options, and a folded network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import normcpu
from normcpu import embed
from normcpu._arrays import ACTIVATIONS

RNG = np.random.default_rng(7)
NET = (1, 1, 12, 12)


def bell(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


def trained(layer: Any) -> Any:
    """In evaluation, with parameters that are not those of a new one."""
    for name in ("weight", "bias", "running_mean"):
        if (array := getattr(layer, name, None)) is not None:
            array[:] = bell(*array.shape)
    if getattr(layer, "running_var", None) is not None:
        layer.running_var[:] = 0.5 + bell(*layer.running_var.shape) ** 2
    return layer.eval()


def network(stored: str) -> list[Any]:
    return [
        embed.Conv(bell(6, 1, 3, 3), bell(6), padding=1, activation="relu", stored=stored),
        embed.MaxPool(2),
        embed.Conv(bell(8, 6, 3, 3), bell(8), stride=2, activation="relu", stored=stored),
        embed.Reshape(),
        embed.Linear(bell(10, 32), bell(10), stored=stored),
        embed.Softmax(),
    ]


def cases() -> Iterator[tuple[str, Any, tuple[int, ...], bool]]:
    """(name, layer, shape of x, whether something is added)"""
    batch, group, instance = normcpu.BatchNorm2d, normcpu.GroupNorm, normcpu.InstanceNorm2d
    yield "batch_norm", trained(batch(5)), (2, 5, 3, 7), False
    yield "batch_norm_residual", trained(batch(5, activation="relu")), (2, 5, 3, 7), True
    yield "batch_norm_last", trained(batch(5, channel_axis=-1)), (2, 3, 7, 5), False
    yield "layer_norm", trained(normcpu.LayerNorm(33)), (4, 33), False
    yield "layer_norm_residual", trained(normcpu.LayerNorm((3, 7))), (2, 3, 7), True
    yield "rms_norm", trained(normcpu.RMSNorm(40)), (3, 40), False
    yield "group_norm", trained(group(2, 6, activation="silu")), (2, 6, 5, 3), False
    yield "group_norm_residual", trained(group(3, 6)), (1, 6, 31), True
    yield "instance_norm", trained(instance(3, affine=True)), (2, 3, 5, 5), False
    yield "instance_norm_running", trained(instance(3, track_running_stats=True)), (2, 3, 5, 5), False
    for stored in ("float32", "int8"):
        more: dict[str, Any] = {"stored": stored}
        yield f"conv2d_{stored}", embed.Conv(bell(7, 3, 3, 3), bell(7), padding=1, **more), (2, 3, 6, 5), False
        yield f"linear_{stored}", embed.Linear(bell(9, 30), bell(9), activation="relu6", **more), (3, 30), False
        yield f"net_{stored}", network(stored), NET, False
    yield "conv1d", embed.Conv(bell(4, 2, 5), bell(4), stride=2, padding=(2,), dilation=2), (1, 2, 33), False
    yield "conv_groups", embed.Conv(bell(6, 2, 3, 2), None, stride=(2, 1), groups=3), (1, 6, 9, 6), False
    yield "conv_depthwise", embed.Conv(bell(8, 1, 3, 3), bell(8), padding=1, groups=8), (1, 8, 6, 6), False
    yield "max_pool", embed.MaxPool(3, 2, 1), (1, 4, 9, 9), False
    yield "average_pool", embed.AveragePool(2, None, 1, False), (2, 3, 6, 6), False
    yield "global_average_pool", embed.GlobalAveragePool(), (2, 5, 4, 7), False
    yield "softmax", embed.Softmax(), (4, 10), False
    yield "scale_shift", embed.ScaleShift(bell(4), bell(4)), (2, 4, 9), False
    yield "clip", embed.Clip(-1.5, 0.75), (40,), False
    for name in ACTIVATIONS:
        if name not in (None, "none"):
            yield f"activate_{name}", embed.Activate(name), (60,), False


def generated(folder: Path) -> list[str]:
    """Their names; the files NAME.h, NAME.c and NAME_test.c are in the folder."""
    names = []
    for name, layer, shape, residual in cases():
        made = embed.function(layer, shape, name=name, residual=residual, samples=2)
        made.write(folder)
        names.append(made.name)
    return names


def parameters(folder: Path) -> None:
    """params.h, of which params.c knows the arrays."""
    arrays = {"conv.weight": bell(4, 3, 3, 3), "bias": bell(4)}
    embed.params(arrays, "int8", name="params").write(folder)
    embed.params(arrays, "float16", name="halves").write(folder)
