# SPDX-License-Identifier: Apache-2.0
"""embed.function: layers to C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import as_int
from .._types import Array, Readable
from ..fold import Affine
from . import affine, layers, norms  # noqa: F401  register their layers
from .golden import golden
from .names import identifier
from .parts import Part, as_shape, part_of
from .pointwise import ReshapePart
from .source import header, plan, source, spell
from .writing import Generated


def function(
    layer: Any,
    shape: Sequence[int],
    *,
    name: str | None = None,
    residual: bool = False,
    inputs: Readable | None = None,
    samples: int = 1,
) -> Generated:
    """C for `layer` in evaluation on x of `shape`: name.h, name.c and name_test.c, which compares with NumPy.

        void name(const float *x, [const float *residual,] float *y);

    layer: a normalization layer of this library in evaluation, an `Affine` of normcpu.fold for the channels of axis 1,
        a layer of this module, or a list of these, each on the y of the one before.
    shape: of x, as the layer takes it, samples and all.
    name: of the function and the files, as far as it can be one in C (see `identifier`); else the kind of the layer.
    residual: a second input, added before the activation.
    inputs: x to test with, (k, *shape); or `samples` random ones.

    float32 in and out, no heap, no threads, constants and at most one scratch buffer; the header says of what size, how
    exact the result is, and whether y may be x.  Called are macros that the user may define: NORMCPU_SQRTF, which is
    sqrtf, and NORMCPU_EXPF, NORMCPU_TANHF and NORMCPU_GELUF, which are in the file.  A frozen BatchNorm is x * scale +
    shift, both computed in double and rounded once: |error| <= 2^-23 (|x * scale| + |shift|).  Norms that measure are
    within 2 ulp of this library's, in ulp of the sizes of the terms.
    Errors: TypeError and ValueError, naming the argument: a layer in training, a shape with 0, parameters that are not
    finite.

    >>> from normcpu import FrozenBatchNorm
    >>> made = function(FrozenBatchNorm([2], [1], [0], [1], 0.0), (1, 1, 8))
    >>> list(made.files), made.flash, made.ram
    (['batch_norm.h', 'batch_norm.c', 'batch_norm_test.c'], 8, 0)
    """
    parts = parts_of(layer, shape, residual)
    return generate(parts, name, _inputs(inputs, samples, parts[0]))


def simulate(layer: Any, x: Readable) -> Array:
    """What the C of `function` computes, in NumPy: the same operations in the same order, so the same bits where the
    compiler contracts none of them (-ffp-contract=off, or -std=c99 with GCC).

    >>> from normcpu.embed import Linear
    >>> simulate([Linear(np.ones((1, 2)), activation="relu")], [[3, 4]])
    array([[7.]], dtype=float32)
    """
    y = np.asarray(x, np.float32)
    for part in parts_of(layer, y.shape):
        with np.errstate(all="ignore"):
            y = part.reference(y.reshape(part.shape))
    return y


def parts_of(layer: Any, shape: Sequence[int], residual: bool = False) -> list[Part]:
    given = list(layer) if isinstance(layer, list | tuple) and not isinstance(layer, Affine) else [layer]
    extents = as_shape("shape", shape)
    if not given:
        raise ValueError("layer must be a layer or a list of layers, got an empty one")
    parts: list[Part] = []
    for one in given:
        parts.append(part_of(one, extents, residual and not parts))
        extents = parts[-1].out_shape
    return parts


def generate(parts: Sequence[Part], name: str | None, inputs: Array, residual: Array | None = None) -> Generated:
    """The files of parts in a row; inputs (k, *shape) and residual (k, *out_shape) to test with."""
    y_shape = parts[-1].out_shape
    parts = [part for part in parts if not isinstance(part, ReshapePart)] or parts[:1]
    kind = parts[0].kind if len(parts) == 1 else "net"
    made = plan(identifier(kind if name is None else name), parts)
    of_residual = f", residual {spell(parts[0].out_shape)}" if parts[0].residual else ""
    notes = tuple(dict.fromkeys(f"{part.kind}: {part.bound}" for part in parts if part.bound))
    about = [
        f"{made.name}: {' -> '.join(part.kind for part in parts)}, float32, written by normcpu.",
        f"x {spell(parts[0].shape)}{of_residual}, y {spell(y_shape)}, in C order; "
        f"y may be x{' or residual' if of_residual else ''}: {'yes' if made.aliases else 'no'}."
        f"{' One call at a time: they share the scratch buffer.' if made.scratch else ''}",
        f"Flash: {made.constants} bytes of constants, and the code.  RAM: {made.scratch} bytes of scratch.  "
        f"Stack: at most {made.stack} bytes on a 32-bit CPU.",
        *notes,
    ]
    if parts[0].residual and residual is None:
        residual = _random((len(inputs), *parts[0].out_shape), 1)
    files = {
        f"{made.name}.h": header(made, about),
        f"{made.name}.c": source(made, about),
        f"{made.name}_test.c": golden(made, inputs, residual),
    }
    return Generated(made.name, files, made.constants, made.scratch, made.stack, notes)


def _inputs(inputs: Readable | None, samples: Any, first: Part) -> Array:
    if inputs is None:
        count = as_int("samples", samples)
        if count < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        return _random((count, *first.shape), 0)
    array = np.asarray(inputs, np.float32)
    if array.shape[1:] != first.shape or not array.size:
        raise ValueError(f"inputs must have shape (k, {', '.join(map(str, first.shape))}), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("inputs must be finite, got NaN or infinity")
    return array


def _random(shape: tuple[int, ...], seed: int) -> Array:
    """Normal ones to 6 binary places, which are short in C."""
    values = np.random.default_rng(seed).normal(0, 2, size=shape)
    return (np.round(values * 64) / 64).astype(np.float32)
