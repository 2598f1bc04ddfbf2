# SPDX-License-Identifier: Apache-2.0
"""What other frameworks mean by batch normalization, and how to convert to and from it.

Evaluation is the same formula everywhere,

    y = (x - running_mean) / sqrt(running_var + eps) * weight + bias,

so converting a trained layer is a matter of names, eps and the channel axis.  Training differs in two more:

    momentum of the new value   running = (1 - momentum) * running + momentum * batch      (PyTorch, and here)
    momentum of the old value   running = momentum * running + (1 - momentum) * batch      (everybody else)

and the variance of a batch of n values per channel that enters running_var is unbiased,
sum (x - mean)^2 / (n - 1), or biased, sum (x - mean)^2 / n.  What normalizes the batch is biased everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ._arrays import as_int, as_number
from ._state import StateSource, read_state
from ._types import Array

PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Convention:
    """One framework's batch normalization: the meaning of momentum, the defaults and the names.

    A name with a dot, "params.scale", is the entry "scale" in the collection "params" of a nested mapping.
    """

    name: str
    source: str  # the page or thread that defines it
    momentum_of: Literal["new", "old"]
    momentum: float
    eps: float
    biased: bool  # the variance of a batch, where it enters the running variance
    channel_axis: int
    weight: str
    bias: str
    running_mean: str
    running_var: str
    num_batches_tracked: str | None = None
    holds_std: bool = False  # running_var names a standard deviation s, applied as 1 / (s + eps)
    broadcast: bool = False  # arrays may keep singleton axes: (1, c) or (1, c, 1, 1) for (c,)

    def momentum_of_new(self, momentum: float) -> float:
        """This convention's momentum as the weight of the new value (PyTorch's momentum).

        1 - momentum has no rounding error for 0.5 <= momentum <= 1, so 0.99 goes there and back exactly.
        """
        return momentum if self.momentum_of == "new" else 1.0 - momentum

    # The map is its own inverse; the second name is for the reader of the call.
    momentum_from_new = momentum_of_new

    def keys(self, prefix: str = "") -> dict[str, str]:
        """{our name: name here} for the layer at `prefix`, which stands after the collection."""
        result = {}
        for name in PARAMETERS:
            key: str | None = getattr(self, name)
            if key is not None:
                collection, dot, leaf = key.rpartition(".")
                result[name] = collection + dot + prefix + leaf
        return result


CONVENTIONS = {
    rule.name: rule
    for rule in (
        Convention(
            "pytorch",
            "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html",
            "new", 0.1, 1e-5, False, 1,
            "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
        ),
        # Keras 3, and TensorFlow's tf.keras with fused=False.
        Convention(
            "keras",
            "https://keras.io/api/layers/normalization_layers/batch_normalization/",
            "old", 0.99, 1e-3, True, -1, "gamma", "beta", "moving_mean", "moving_variance",
        ),
        # tf.keras with the fused kernel (its default for images) tracks the unbiased variance, and so did
        # Keras 2.1.3 and later, but for eps: n / (n - 1 - eps), https://github.com/keras-team/keras/pull/9028.
        Convention(
            "keras_fused",
            "https://github.com/tensorflow/tensorflow/issues/55545",
            "old", 0.99, 1e-3, False, -1, "gamma", "beta", "moving_mean", "moving_variance",
        ),
        # Keras before 1.0: y = (x - running_mean) / (running_std + eps).  Keras 1.x kept the name for what
        # was a variance by then: give those arrays to "keras" under the name moving_variance.
        Convention(
            "keras_std",
            "https://github.com/keras-team/keras/issues/3484",
            "old", 0.9, 1e-6, True, -1, "gamma", "beta", "running_mean", "running_std", holds_std=True,
        ),
        Convention(
            "flax",
            "https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html#flax.linen.BatchNorm",
            "old", 0.99, 1e-5, True, -1,
            "params.scale", "params.bias", "batch_stats.mean", "batch_stats.var",
        ),
        Convention(
            "flax_nnx",
            "https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/normalization.html",
            "old", 0.99, 1e-5, True, -1, "scale", "bias", "mean", "var",
        ),
        # Opset 14 and later.  Opsets 1 to 13 left open whether the variance is biased, named the inputs mean
        # and var, and had no training_mode: opsets 1 and 6 have is_test, 7 and 9 train where more than one
        # output is asked for.  Up to opset 8, spatial=0 keeps statistics of shape (c, d1, ..., dn): flatten
        # x and the parameters to c * d1 * ... * dn channels.
        Convention(
            "onnx",
            "https://onnx.ai/onnx/operators/onnx__BatchNormalization.html",
            "old", 0.9, 1e-5, True, 1, "scale", "B", "input_mean", "input_var",
        ),
        # As first printed.  The code there takes eps 1e-12 in its MXNet form; later printings weigh the new
        # value, (1 - momentum) * moving_mean + momentum * mean: train those with momentum 1 - theirs.
        Convention(
            "textbook",
            "https://d2l.ai/chapter_convolutional-modern/batch-norm.html",
            "old", 0.9, 1e-5, True, 1, "gamma", "beta", "moving_mean", "moving_var", broadcast=True,
        ),
    )
}  # fmt: skip


def get_convention(name: str | Convention) -> Convention:
    """The convention of this name.  Raises ValueError with the names there are."""
    if isinstance(name, Convention):
        return name
    if not isinstance(name, str) or name not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {name!r}")
    return CONVENTIONS[name]


class ConvertedState(NamedTuple):
    """state: in the target's names.  eps: the eps with which it gives the source's output."""

    state: dict[str, Any]
    eps: float


def convert_state(
    state: StateSource,
    source: str | Convention,
    target: str | Convention = "pytorch",
    *,
    prefix: str = "",
    eps: float | None = None,
    count: int | None = None,
    initial_share: float = 0.0,
) -> ConvertedState:
    """The parameters and statistics of one batch normalization in another convention.

    state: a mapping of arrays (c,) or tensors, or a .npz or .safetensors path.
    prefix: the layer's place in a model's state; other entries are left aside.
    eps: of the source layer; by default the source convention's.  A standard deviation s of "keras_std"
    becomes running_var = (s + eps)^2, to be used with the eps that is returned, 0.

    The running variance is kept as it is, so that evaluation gives the same output.  To go on training with
    estimates of the target's kind give `count`, the number of values per channel in every batch so far: it
    cannot be known from the state.  What the batches contributed is then scaled by count / (count - 1), or by
    the inverse.  initial_share is what is left of the first running variance, 1: (1 - momentum)^batches with
    the momentum of the new value, 0 for a cumulative average.
    num_batches_tracked is dropped where the target has none.

    Errors: ValueError for a name that the source does not know (nothing is guessed), an array that is not
    (c,), a count below 2, a count where standard deviations were averaged.

    >>> keras = {"gamma": [2.0], "beta": [0.5], "moving_mean": [1.0], "moving_variance": [4.0]}
    >>> state, eps = convert_state(keras, "keras")
    >>> eps, sorted(state)
    (0.001, ['bias', 'running_mean', 'running_var', 'weight'])
    """
    old, new = get_convention(source), get_convention(target)
    found, unexpected = read_parameters(state, old, prefix)
    if unexpected or not found:
        expected, got = ", ".join(old.keys(prefix).values()), ", ".join(unexpected) or "none of them"
        raise ValueError(f"state must have the names {expected} of {old.name!r}, got {got}")
    for name, array in found.items():
        if array.ndim != 1 and name != "num_batches_tracked":
            raise ValueError(f"{old.keys(prefix)[name]} must have shape (c,), got {array.shape}")
    eps = old.eps if eps is None else as_number("eps", eps, 0.0)
    count = None if count is None else as_int("count", count)
    new_eps = eps if old.holds_std == new.holds_std else new.eps if new.holds_std else 0.0
    if "running_var" in found:
        stored = found["running_var"]
        variance = stored.astype(np.float64)
        if old.holds_std and not new.holds_std:
            variance = (variance + eps) ** 2
        elif new.holds_std and not old.holds_std:
            variance = np.sqrt(variance + eps) - new_eps
        variance = _rescale(variance, old, new, count, initial_share)
        found["running_var"] = variance.astype(np.float64 if stored.dtype == np.float64 else np.float32)
    names = new.keys()
    converted = {names[name]: array for name, array in found.items() if name in names}
    return ConvertedState(_nest(converted), new_eps)


def read_parameters(source: StateSource, rule: Convention, prefix: str) -> tuple[dict[str, Array], list[str]]:
    """{our name: array} of the layer at `prefix`, and the names found there that the rule does not know."""
    names = {key: name for name, key in rule.keys(prefix).items()}
    places = ("",) if prefix == "" else tuple(key[: key.rindex(prefix) + len(prefix)] for key in names)
    found, unexpected = {}, []
    for key, array in read_state(source, prefix).items():
        if key in names:
            found[names[key]] = _without_singletons(array) if rule.broadcast else array
        elif key.startswith(places):
            unexpected.append(key)
    return found, unexpected


def _rescale(variance: Array, old: Convention, new: Convention, count: int | None, share: float) -> Array:
    if count is None or old.biased == new.biased:
        return variance
    if old.holds_std or new.holds_std:
        raise ValueError("count must be left out: a mean of standard deviations is no mean of variances")
    if count < 2:
        raise ValueError(f"count must be at least 2 values per channel, got {count}")
    factor = count / (count - 1) if old.biased else (count - 1) / count
    return share + (variance - share) * factor


def _without_singletons(array: Array) -> Array:
    return array.reshape(-1) if array.size == max(array.shape, default=1) else array


def _nest(state: dict[str, Array]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, array in state.items():
        collection, _, leaf = key.rpartition(".")
        (result.setdefault(collection, {}) if collection else result)[leaf] = array
    return result
