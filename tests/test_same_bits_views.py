# SPDX-License-Identifier: Apache-2.0
"""Strides, outputs of any layout and the other samples change no bit; the two views agree where they promise to."""

from __future__ import annotations

import bits
import numpy as np
import pytest
from bits import DTYPES, OPERATIONS, Inputs, digest
from cases import VALUES, lay_out, layouts, moved, plain, shapes, values
from hypothesis import given
from hypothesis import strategies as st

import normcpu
from normcpu import _core

Array = np.ndarray


def canonical_copy(x: Array, axis: int) -> Array | None:
    """x in the plainest memory that has the view of x, if either order has."""
    axis %= x.ndim
    channel_major = x.copy("C")
    channels_last = np.moveaxis(np.moveaxis(x, axis, -1).copy("C"), -1, axis)
    view = _core.is_channels_last(x, axis)
    return next((a for a in (channel_major, channels_last) if _core.is_channels_last(a, axis) == view), None)


@given(st.data())
def test_strides_within_a_view(data: st.DataObject) -> None:
    shape = data.draw(shapes(least=1))
    axis = data.draw(st.integers(0, len(shape) - 1))
    dtype = DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))]
    inputs = Inputs(shape, dtype, axis, seed=5)
    inputs.x = values(data.draw(st.sampled_from(sorted(VALUES))), shape, dtype, 6)
    strided = moved(inputs, data.draw(layouts(len(shape))))
    contiguous = moved(inputs, plain(len(shape), 0))
    contiguous.x = canonical_copy(strided.x, axis)
    if contiguous.x is None:
        return
    strided.dy, strided.residual = (lay_out(a, data.draw(layouts(len(shape)))) for a in (inputs.dy, inputs.residual))
    names = [
        "eval",
        "eval residual relu",
        "scale_shift residual",
        "moments channels",
        "backward",
        "backward relu",
        "scale_axis",
    ]
    if inputs.x.size > shape[axis]:
        names.append("train")
    with np.errstate(all="ignore"):
        for name in names:
            assert digest(OPERATIONS[name](strided)) == digest(OPERATIONS[name](contiguous)), name


@given(st.data())
def test_out_of_any_layout(data: st.DataObject) -> None:
    """The values go where out says, and nothing else is written."""
    shape = data.draw(shapes())
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    dtype = DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))]
    inputs = moved(Inputs(shape, dtype, axis), data.draw(layouts(len(shape))))
    training = data.draw(st.booleans()) and inputs.x.size > shape[axis]
    in_place = data.draw(st.booleans())

    def run(out: Array | None) -> Array:
        return normcpu.batch_norm(
            inputs.x,
            None if training else inputs.mean,
            None if training else inputs.var,
            inputs.weight,
            inputs.bias,
            training,
            channel_axis=axis,
            out=out,
        )

    want = digest((run(None),))
    out = inputs.x if in_place else lay_out(np.zeros_like(inputs.x), data.draw(layouts(len(shape))))
    owner = out
    while owner.base is not None:
        owner = owner.base
    before, written = np.frombuffer(owner, np.uint8).copy(), np.zeros(owner.nbytes, bool)
    spots = lay_spots(out, owner)
    written[spots] = True
    assert run(out) is out
    assert digest((out,)) == want
    after = np.frombuffer(owner, np.uint8)
    assert np.array_equal(after[~written], before[~written])


def lay_spots(out: Array, owner: Array) -> Array:
    """Which bytes of owner belong to out."""
    start = out.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    spots = np.full((*out.shape, out.itemsize), start)
    for axis, (extent, stride) in enumerate(zip((*out.shape, out.itemsize), (*out.strides, 1), strict=True)):
        spots += (np.arange(extent) * stride).reshape([-1 if k == axis else 1 for k in range(out.ndim + 1)])
    return spots.reshape(-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", bits.ACTIVATIONS)
def test_elementwise_results_are_equal_in_both_views(dtype: str, activation: str | None) -> None:
    if not bits.runs_on(f"eval {activation}", dtype):
        return
    for shape in [(2, 3, 5), (3, 70, 7, 7), (2, 16, 1031), (1, 1, 9), (5, 33, 1, 1), (9, 64)]:
        inputs = Inputs(shape, DTYPES[dtype])
        last = Inputs(shape, DTYPES[dtype])
        last.x, last.residual = (np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) for a in (inputs.x, inputs.residual))
        for operation in (bits.evaluate, bits.scale_shift):
            for residual in (False, True):
                a, b = (
                    operation(i, activation=activation, residual=i.residual if residual else None)
                    for i in (inputs, last)
                )
                assert digest(a) == digest(b), (shape, operation)


@given(st.data())
def test_evaluation_does_not_depend_on_the_batch(data: st.DataObject) -> None:
    """A sample, alone and copied, gives what it gave among the others."""
    shape = data.draw(shapes(least=1))
    axis = data.draw(st.integers(1, len(shape) - 1))
    dtype = DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))]
    inputs = moved(Inputs(shape, dtype, axis), data.draw(layouts(len(shape))))
    i = data.draw(st.integers(0, shape[0] - 1))
    for operation in (bits.evaluate, bits.scale_shift):
        (whole,) = operation(inputs)
        inputs.x, saved = inputs.x[i : i + 1].copy(), inputs.x
        (alone,) = operation(inputs)
        inputs.x = saved
        assert digest((whole[i : i + 1],)) == digest((alone,))
