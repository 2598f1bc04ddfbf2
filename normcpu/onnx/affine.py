# SPDX-License-Identifier: Apache-2.0
"""The one value that folding moves about: y = scale * x + shift over a tensor's elements.

Scale and shift are float64 arrays that broadcast against the tensor: as many axes as the tensor has, each of size 1
(the same for every index) or of the tensor's size.  A BatchNorm on (n, c, h, w) has arrays of shape (1, c, 1, 1).
So an axis of unknown size is no obstacle as long as nothing varies along it.

`normcpu.fold.Affine` is the same for a layer whose channels are known: two vectors, which this one's `vectors` are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
MOST_AXES = 32  # of an array, NumPy 1 says
Dim = int | str  # a size, or the name of one that is not known; equal names are equal sizes


class Refused(Exception):
    """Why an affine cannot go somewhere: one sentence for the report."""


class Overflows(Refused):
    """A folded weight is too large for its type."""


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift; both arrays (rank axes of 1 or the tensor's size)."""

    scale: Array
    shift: Array

    @classmethod
    def of(cls, rank: int, scale: npt.ArrayLike = 1.0, shift: npt.ArrayLike = 0.0) -> Affine:
        """From arrays that broadcast (as in NumPy, from the right) against a tensor of `rank` axes."""
        return cls(_at_rank(np.asarray(scale, np.float64), rank), _at_rank(np.asarray(shift, np.float64), rank))

    @classmethod
    def along(cls, rank: int, axis: int, scale: npt.ArrayLike = 1.0, shift: npt.ArrayLike = 0.0) -> Affine:
        """From vectors (or scalars) along one axis."""
        if not -rank <= axis < rank:
            raise Refused(f"a tensor of {rank} axes has no axis {axis}")
        shape = [1] * rank
        shape[axis] = -1
        return cls.of(rank, np.asarray(scale, np.float64).reshape(shape), np.asarray(shift, np.float64).reshape(shape))

    @property
    def rank(self) -> int:
        return self.scale.ndim

    @property
    def axes(self) -> set[int]:
        """The axes along which something varies."""
        return {k for k in range(self.rank) if self.scale.shape[k] > 1 or self.shift.shape[k] > 1}

    @property
    def shift_axes(self) -> set[int]:
        return {k for k in range(self.rank) if self.shift.shape[k] > 1}

    @property
    def scale_axes(self) -> set[int]:
        return {k for k in range(self.rank) if self.scale.shape[k] > 1}

    @property
    def keeps_scale(self) -> bool:
        return bool((self.scale == 1).all())

    @property
    def keeps_zero(self) -> bool:
        return not self.shift.any()

    @property
    def is_identity(self) -> bool:
        return self.keeps_scale and self.keeps_zero

    def after(self, first: Affine) -> Affine:
        """self(first(x)) = s (s1 x + t1) + t = (s s1) x + (s t1 + t)."""
        return Affine.of(self.rank, self.scale * first.scale, self.scale * first.shift + self.shift)

    def only_scale(self) -> Affine:
        return Affine.of(self.rank, self.scale)

    def only_shift(self) -> Affine:
        return Affine.of(self.rank, 1.0, self.shift)

    def map(self, move: Callable[[Array], Array]) -> Affine:
        """The affine of a tensor whose elements were moved: the same move on scale and on shift."""
        scale, shift = move(self.scale), move(self.shift)
        return Affine.of(scale.ndim, scale, shift)

    def vectors(self, axis: int, size: int) -> tuple[Array, Array]:
        """Scale (size,) and shift (size,) along `axis`; refused where another axis matters."""
        if self.axes - {axis}:
            raise Refused(f"the factors vary along axes {sorted(self.axes)}, not only along axis {axis}")
        if any(a.shape[axis] not in (1, size) for a in (self.scale, self.shift)):
            raise Refused(f"{max(self.scale.size, self.shift.size)} factors do not fit {size} channels")
        return np.broadcast_to(self.scale.ravel(), (size,)), np.broadcast_to(self.shift.ravel(), (size,))

    def check_finite(self) -> Affine:
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise Refused("scale or shift is not finite")
        return self


SAME = 1e-14  # of the largest: how far values lie apart that float64 makes of equal ones


def one_value(values: Array) -> float | None:
    """The value that all of them are, but for rounding; None where they differ, or are not finite."""
    first = float(values.flat[0])
    same = np.isfinite(values).all() and np.abs(values - first).max() <= SAME * np.abs(values).max()
    return first if same else None


def _at_rank(a: Array, rank: int) -> Array:
    """`a` with `rank` axes, and size 1 along each axis on which it is constant."""
    if rank > MOST_AXES:
        raise Refused(f"a tensor has {rank} axes")
    while a.ndim > rank and a.shape[0] == 1:
        a = a[0]
    if a.ndim > rank:
        raise Refused(f"a constant of {a.ndim} axes adds axes to a tensor of {rank}")
    a = a.reshape((1,) * (rank - a.ndim) + a.shape)
    for k in range(rank):
        if a.shape[k] > 1:
            first = a.take([0], axis=k)
            if (a == first).all():
                a = first
    return a


def regroup(a: Array, src: Sequence[Dim], dst: Sequence[Dim]) -> Array:
    """What `a`, which broadcasts against a tensor (*src), becomes when that tensor is reshaped to (*dst).

    Both shapes are cut into the shortest stretches of equal product.  A stretch on which `a` is constant stays so,
    whatever its sizes; the others are written out, which takes known sizes.
    """
    full: list[int] = []
    final: list[int] = []
    for s, d in stretches(src, dst):
        if all(a.shape[k] == 1 for k in s):
            full += [1] * len(s)
            final += [1] * len(d)
        else:
            sizes = [src[k] for k in s] + [dst[k] for k in d]
            if not all(isinstance(n, int) for n in sizes):
                raise Refused(f"a reshape of {_show(src)} to {_show(dst)} mixes channels with unknown sizes")
            full += [int(src[k]) for k in s]
            final += [int(dst[k]) for k in d]
    return np.broadcast_to(a, full).reshape(final)


def stretches(src: Sequence[Dim], dst: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Pairs of axes of equal product, in order: (2, 3, 4) and (6, 2, 2) give ([0, 1], [0]), ([2], [1, 2])."""
    lead = 0
    while lead < min(len(src), len(dst)) and src[lead] == dst[lead]:
        lead += 1
    tail = 0
    while tail < min(len(src), len(dst)) - lead and src[-1 - tail] == dst[-1 - tail]:
        tail += 1
    result = [([k], [k]) for k in range(lead)]
    i, j, i_end, j_end = lead, lead, len(src) - tail, len(dst) - tail
    if all(isinstance(n, int) and n > 0 for n in [*src[i:i_end], *dst[j:j_end]]):
        result += _equal_products([int(n) for n in src[i:i_end]], [int(n) for n in dst[j:j_end]], lead)
    elif i < i_end or j < j_end:
        result.append((list(range(i, i_end)), list(range(j, j_end))))
    return result + [([i_end + k], [j_end + k]) for k in range(tail)]


def _equal_products(src: list[int], dst: list[int], first: int) -> list[tuple[list[int], list[int]]]:
    result: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(src) or j < len(dst):
        here: tuple[list[int], list[int]] = ([], [])
        p = q = 1
        while p != q or not (here[0] or here[1]):
            if (p <= q and i < len(src)) or j == len(dst):
                if i == len(src):
                    raise Refused(f"a reshape of {_show(src)} to {_show(dst)} does not keep the number of elements")
                p *= src[i]
                here[0].append(first + i)
                i += 1
            else:
                q *= dst[j]
                here[1].append(first + j)
                j += 1
        result.append(here)
    return result


def reshaped(src: Sequence[Dim], wanted: Sequence[Dim], unknown: str, allow_zero: bool = False) -> list[Dim]:
    """The shape that Reshape(wanted) makes of (*src): 0 copies the axis, -1 is what remains (`unknown` if unclear)."""
    if any(n == 0 and k >= len(src) for k, n in enumerate(wanted)) and not allow_zero:
        raise Refused(f"a reshape to {_show(wanted)} copies axes that {_show(src)} does not have")
    dst: list[Dim] = [src[k] if n == 0 and not allow_zero else n for k, n in enumerate(wanted)]
    if -1 not in dst:
        return dst
    names = [n for n in src if isinstance(n, str)]
    known = int(np.prod([n for n in src if isinstance(n, int)], dtype=np.int64))
    for n in dst:
        if isinstance(n, str):
            if n not in names:
                return [unknown if n == -1 else n for n in dst]
            names.remove(n)
    product = int(np.prod([n for n in dst if isinstance(n, int) and n != -1], dtype=np.int64))
    rest: Dim = unknown
    if not names and product and known % product == 0:
        rest = known // product
    elif len(names) == 1 and known == product:
        rest = names[0]
    return [rest if n == -1 else n for n in dst]


def _show(shape: Sequence[Dim]) -> str:
    return "(" + ", ".join("?" if isinstance(n, str) and "@" in n else str(n) for n in shape) + ")"
