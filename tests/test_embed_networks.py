# SPDX-License-Identifier: Apache-2.0
"""Sequences of layers as one function: the bits of NumPy, through a scratch buffer that is as small as it can be."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_build import CC, COMPILERS, Library, run_sanitized
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from normcpu import FrozenBatchNorm, embed
from normcpu.embed.function import parts_of
from normcpu.embed.memory import Buffer, free, places
from normcpu.embed.parts import part_of, size

LAYERS = ("conv", "depthwise", "max_pool", "average_pool", "batch_norm", "activate", "softmax", "clip", "reshape")


@st.composite
def networks(draw: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Up to eight layers, the first on (n, c, h, w); what goes on from (n, features) is linear."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = begin = tuple(draw(st.integers(least, most)) for least, most in ((1, 2), (1, 4), (3, 9), (3, 9)))
    net = []
    for _ in range(draw(st.integers(2, 8))):
        layer = _layer(draw, rng, shape)
        net.append(layer)
        shape = part_of(layer, shape, False).out_shape
    return net, begin


def _layer(draw: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    def bell(*of: int) -> np.ndarray:
        return rng.normal(size=of).astype(np.float32) / np.sqrt(np.float32(math.prod(of[1:])))

    channels, stored = shape[1], draw(st.sampled_from(["float32", "int8"]))
    kind = draw(st.sampled_from(LAYERS if len(shape) == 4 else ("linear", "linear", *LAYERS[4:])))
    outputs, name = draw(st.integers(1, 8)), draw(st.sampled_from([None, "relu", "hardswish", "gelu"]))
    if kind == "linear":
        return embed.Linear(bell(outputs, channels), bell(outputs), name, stored=stored)
    if kind in ("conv", "depthwise"):
        k = min(3, *shape[2:])
        groups = channels if kind == "depthwise" else 1
        weight = bell(channels if kind == "depthwise" else outputs, channels // groups, k, k)
        stride = draw(st.integers(1, 2))
        return embed.Conv(weight, None, stride, k // 2, 1, groups, name, stored=stored)
    if kind in ("max_pool", "average_pool"):
        kind = embed.MaxPool if kind == "max_pool" else embed.AveragePool
        return kind(2, draw(st.integers(1, 3)), draw(st.integers(0, 1)) if min(shape[2:]) > 1 else 1)
    return {"batch_norm": FrozenBatchNorm(None, None, bell(channels), bell(channels) ** 2, activation="relu"),
            "activate": embed.Activate("sigmoid"), "softmax": embed.Softmax(), "clip": embed.Clip(-1, 1),
            "reshape": embed.Reshape()}[kind]  # fmt: skip


@settings(max_examples=2, phases=[Phase.explicit, Phase.generate])
@given(many=st.lists(networks(), min_size=12, max_size=12))
def test_networks(many: list[tuple[list[Any], tuple[int, ...]]]) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=shape).astype(np.float32) for _, shape in many]
    made = [
        embed.function(net, shape, name=f"net{i}", inputs=x[None])
        for i, ((net, shape), x) in enumerate(zip(many, inputs, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        library = Library(made, Path(folder), COMPILERS[0])
        for (net, _), x, each in zip(many, inputs, made, strict=True):
            y = embed.simulate(net, x)
            np.testing.assert_array_equal(library(each.name, x, None, y.shape), y, str(net), strict=True)
            np.testing.assert_array_equal(library(each.name, x, None, y.shape), y, "again", strict=True)
        run_sanitized([each.name for each in made], Path(folder), f"{CC} -O1")


@settings(max_examples=100)
@given(network=networks())
def test_scratch_is_enough_and_no_more(network: tuple[list[Any], tuple[int, ...]]) -> None:
    """What a part reads, writes and works in lies apart, and no choice of ends and of places takes fewer floats."""
    net, shape = network
    parts = [part for part in parts_of(net, shape) if part.kind != "reshape"]
    if not parts:
        return
    way, total = places(parts)
    assert way[-1] is None
    before = None
    for part, place in zip(parts, way, strict=True):
        ends = [range(total - b.floats, total) if b.high else range(b.floats) for b in (before, place) if b]
        if len(ends) == 2 and ends[0].start != ends[1].start:
            assert not part.in_place or before.high != place.high
            assert not set(ends[0]) & set(ends[1])
        elif len(ends) == 2:
            assert part.in_place
        if part.work:
            work = range(free(before, place), free(before, place) + part.work)
            assert work.stop <= total
            assert not any(set(work) & set(end) for end in ends)
        before = place
    assert total <= _two_regions(parts)


def _two_regions(parts: list[Any]) -> int:
    """Floats where each y goes to the end that its x is not at."""
    inner = [size(part.out_shape) for part in parts[:-1]]
    pairs = [*itertools.pairwise([0, *inner, 0])]
    return max(sum(pair) + part.work for pair, part in zip(pairs, parts, strict=True))


def test_scratch_of_known_networks() -> None:
    def conv(outputs: int, inputs: int) -> embed.Conv:
        return embed.Conv(np.ones((outputs, inputs, 3, 3), np.float32), padding=1)

    shape, pool = (1, 1, 8, 8), embed.MaxPool(2)
    for net, floats in [
        ([conv(4, 1)], 0),
        ([conv(4, 1), embed.Activate("relu")], 0),  # in y itself
        ([conv(4, 1), pool], 256),  # y has no room for what the pool reads
        ([pool, embed.Activate("tanh"), embed.Reshape()], 0),
        ([conv(4, 1), conv(2, 4)], 256),
        ([conv(4, 1), conv(2, 4), conv(3, 2)], 256 + 128),
        ([conv(4, 1), pool, conv(2, 4), pool, embed.Reshape()], 256),  # in place: 64 + 32 and the rest fit in the 256
    ]:
        assert embed.function(net, shape).ram == 4 * floats
    assert places(parts_of([conv(4, 1), pool, conv(2, 4)], shape))[0] == (Buffer(False, 256), Buffer(False, 64), None)


@pytest.mark.parametrize("samples", [1, 3])
def test_samples_are_apart(samples: int) -> None:
    """A network on n samples is n times the one on one."""
    rng = np.random.default_rng(2)
    net = [embed.Conv(rng.normal(size=(4, 2, 3, 3)), padding=1), embed.AveragePool(2), embed.Reshape(), embed.Softmax()]
    x = rng.normal(size=(samples, 2, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(embed.simulate(net, x), np.concatenate([embed.simulate(net, one[None]) for one in x]))
