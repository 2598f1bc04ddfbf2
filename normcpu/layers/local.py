# SPDX-License-Identifier: Apache-2.0
"""Local response normalization as an object: torch.nn.LocalResponseNorm on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays import as_array, as_int, as_number
from .._module import Module
from .._types import Array, Readable
from ..functional import local_response_norm, local_response_norm_backward


class LocalResponseNorm(Module):
    """y = x / (k + alpha / size * sum(x^2))^beta, sums over a window of `size` channels; no parameters.

    https://docs.pytorch.org/docs/stable/generated/torch.nn.LocalResponseNorm.html

    size, alpha, beta, k, channel_axis, placing    as in `local_response_norm`

    >>> LocalResponseNorm(1, alpha=1.0, beta=0.5, k=0.0)(np.array([[1, 2, 2]], np.float32))
    array([[1., 1., 1.]], dtype=float32)
    """

    def __init__(
        self,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        channel_axis: int = 1,
        placing: Any = "pytorch",
    ) -> None:
        super().__init__()
        self.size, self.channel_axis, self.placing = as_int("size", size), as_int("channel_axis", channel_axis), placing
        self.alpha, self.beta, self.k = as_number("alpha", alpha), as_number("beta", beta), as_number("k", k)
        self.forward(np.zeros((1, 1), np.float32))  # says what it does not know
        self._saved = None

    def _options(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in ("size", "alpha", "beta", "k", "placing")}
        return options | {"channel_axis": self.channel_axis}

    def forward(self, x: Readable, out: Array | None = None) -> Array:
        """y of the shape and dtype of x.  out: where y goes; may be x.  In training mode the layer keeps a reference
        to x for `backward`: change x in place only after that."""
        array = as_array("x", x)
        self._saved = None
        y = local_response_norm(array, **self._options(), out=out)
        overwritten = out is not None and np.may_share_memory(array, out)
        self._saved = (array, overwritten) if self.training else None
        return y

    __call__ = forward

    def backward(self, dy: Readable, out: Array | None = None) -> Array:
        """dx, the gradient of the input of the last forward call in training mode; one backward per forward.

        Errors: those of `local_response_norm_backward`; RuntimeError where there is no forward call to go back through.
        """
        if self._saved is None:
            raise RuntimeError(f"{self._name}.backward: call the layer in training mode first, once for each")
        x, overwritten = self._saved
        if overwritten:
            raise RuntimeError(f"{self._name}.backward: the forward call may have overwritten x (out=)")
        dx = local_response_norm_backward(dy, x, **self._options(), out=out)
        self._saved = None
        return dx

    def __repr__(self) -> str:
        shown = f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
        return f"LocalResponseNorm({shown}{'' if self.placing == 'pytorch' else f', placing={self.placing!r}'})"
