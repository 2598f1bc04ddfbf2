# SPDX-License-Identifier: Apache-2.0
"""Dropout as objects that draw a new mask for each call: torch.nn.Dropout and its kin on arrays."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .._arrays import as_int
from .._module import Module
from .._types import Array, Readable
from ..functional.dropout import Kind, Rng, as_probability, drop, dropout_backward, seed_of


class _Dropout(Module):
    """While training each {what} is dropped with probability p and what is kept is {kept}.  In evaluation y is x.

    {math}

    p         from 0 to 1
    rng       a numpy.random.Generator, which gives each call 64 bits as its seed, an int to make one of, or None for
              one that differs from run to run{channels}

    The mask depends on the seed, p and an element's place: not on layout, threads or instruction set.
    Errors: ValueError and TypeError for arguments, each naming what was expected and what came.
    https://docs.pytorch.org/docs/stable/generated/torch.nn.{name}.html
    """

    _kind: ClassVar[Kind] = Kind()

    def __init__(self, p: float = 0.5, *, rng: Rng = None) -> None:
        super().__init__()
        self.p = as_probability(p)
        if not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng(None if rng is None else seed_of(rng))
        self.rng = rng

    def _now(self) -> Kind:
        return self._kind

    def forward(self, x: Readable, out: Array | None = None) -> Array:
        """y of the shape and dtype of x.  out: where y goes; may be x."""
        self._saved = None
        y, mask = drop(x, self.p, self.training, self._now(), self.rng, out)
        self._saved = (mask, self.p, self._now()) if self.training else None
        return y

    __call__ = forward

    def backward(self, dy: Readable, out: Array | None = None) -> Array:
        """dx for the last forward call in training mode; one backward per forward.  out: where dx goes; may be dy.

        RuntimeError where there is no forward call to go back through.
        """
        if self._saved is None:
            raise RuntimeError(f"{self._name}.backward: call the layer in training mode first, once for each")
        mask, p, kind = self._saved
        dx = dropout_backward(dy, mask, p, alpha=kind.alpha, axes=kind.axes, channel_axis=kind.channel_axis, out=out)
        self._saved = None
        return dx

    def __repr__(self) -> str:
        return f"{self._name}(p={self.p!r})"


class _ChannelDropout(_Dropout):
    def __init__(self, p: float = 0.5, *, rng: Rng = None, channel_axis: int = 1) -> None:
        super().__init__(p, rng=rng)
        self.channel_axis = as_int("channel_axis", channel_axis)

    def _now(self) -> Kind:
        return self._kind._replace(channel_axis=self.channel_axis)

    def __repr__(self) -> str:
        axis = f", channel_axis={self.channel_axis}" if self.channel_axis != 1 else ""
        return f"{self._name}(p={self.p!r}{axis})"


def _doc(name: str, what: str, alpha: bool = False) -> str:
    kept, math = "divided by 1 - p", "y = x / (1 - p) where kept, else 0"
    if alpha:
        kept, math = "scaled and shifted to mean 0 and variance 1", "See `alpha_dropout`."
    channels = "\n    channel_axis    1, or -1 for channels-last x" if what != "element" else ""
    return str(_Dropout.__doc__).format(name=name, what=what, kept=kept, math=math, channels=channels)


class Dropout(_Dropout):
    __doc__ = _doc("Dropout", "element")


class AlphaDropout(_Dropout):
    __doc__ = _doc("AlphaDropout", "element", alpha=True)
    _kind = Kind(alpha=True)


class Dropout1d(_ChannelDropout):
    __doc__ = _doc("Dropout1d", "channel of x (n, c, l) or (c, l)")
    _kind = Kind(axes=1)


class Dropout2d(_ChannelDropout):
    __doc__ = _doc("Dropout2d", "channel of x (n, c, h, w) or (n, c, l)")
    _kind = Kind(axes=2)


class Dropout3d(_ChannelDropout):
    __doc__ = _doc("Dropout3d", "channel of x (n, c, d, h, w) or (c, d, h, w)")
    _kind = Kind(axes=3)
