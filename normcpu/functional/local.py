# SPDX-License-Identifier: Apache-2.0
"""local_response_norm and its gradient."""

from __future__ import annotations

from .. import _core
from .._arrays import as_activation, as_array, as_choice, as_image, as_int, as_like, as_number, output_for
from .._types import Activation, Array, Placing, Readable

# The channels of a window before and after its own, of `size` in all: an even one has one more on either side.
PLACINGS = {"pytorch": (0, 1), "onnx": (1, 0)}  # (size - these) // 2


def local_response_norm(
    x: Readable,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    channel_axis: int = 1,
    placing: Placing = "pytorch",
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
) -> Array:
    """Local response normalization: y = act(x / (k + alpha / size * sum(x^2))^beta + residual), sums over channels.

    The window of channel i has the channels from i - size // 2 to i + (size - 1) // 2 that there are, with
    placing="onnx" from i - (size - 1) // 2 to i + size // 2: another one where size is even.

    x: at least 2 dimensions.  size: at least 1.  activation, residual, out: see the module.  The same bits everywhere
    where beta is a multiple of 1/4 from 0 to 4; otherwise as the C library's pow has it.

    https://papers.nips.cc/paper/4824, section 3.3, https://onnx.ai/onnx/operators/onnx__LRN.html,
    https://docs.pytorch.org/docs/stable/generated/torch.nn.LocalResponseNorm.html

    >>> local_response_norm(np.array([[1, 2, 2]], np.float32), 1, alpha=1.0, beta=0.5, k=0.0)
    array([[1., 1., 1.]], dtype=float32)
    """
    array = as_array("x", x)
    axis = as_image(array, channel_axis, 2)
    window = _window(size, alpha, beta, k, placing)
    epilogue = as_activation(activation, negative_slope, array)
    added = as_like("residual", residual, array)
    y = output_for(out, "x", array, array.dtype, {"residual": added}, {})
    if array.size:
        _core.local_response_norm(array, axis, *window, *epilogue, added, y)
    return y


def local_response_norm_backward(
    dy: Readable,
    x: Readable,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    channel_axis: int = 1,
    placing: Placing = "pytorch",
    out: Array | None = None,
) -> Array:
    """dx of `local_response_norm` without activation, given the gradient of its result, dy.

    With d = k + alpha / size * sum(x^2), and the sum over the channels whose windows have this one:

        dx = dy * d^-beta - 2 * alpha * beta / size * x * sum(dy * x * d^(-beta - 1))

    dy: of the shape and dtype of x.  out: for dx; it may be dy itself.

    >>> x = np.array([[1, 2]], np.float32)
    >>> local_response_norm_backward(np.ones_like(x), x, 1, alpha=0.0)
    array([[1., 1.]], dtype=float32)
    """
    array = as_array("x", x)
    axis = as_image(array, channel_axis, 2)
    window = _window(size, alpha, beta, k, placing)
    gradient = as_like("dy", dy, array, required=True)
    assert gradient is not None
    dx = output_for(out, "dy", gradient, array.dtype, {}, {"x": array})
    if array.size:
        _core.local_response_norm_backward(gradient, array, axis, *window, dx)
    return dx


def _window(size: int, alpha: float, beta: float, k: float, placing: str) -> tuple[int, int, float, float, float]:
    """The channels before a window's own and after it, alpha, beta and k."""
    less, more = as_choice("placing", placing, PLACINGS)
    if as_int("size", size) < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    numbers = as_number("alpha", alpha), as_number("beta", beta), as_number("k", k)
    size = min(size, 2**62)  # as good as infinite
    return (size - less) // 2, (size - more) // 2, *numbers
