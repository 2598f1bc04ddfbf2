# SPDX-License-Identifier: Apache-2.0
"""Optimizers over NumPy arrays: one fused pass in C, in place; names, defaults and formulas are torch.optim's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from . import _core
from ._arrays import FLOAT32, FLOAT64, as_array, as_choice, as_number, as_output, share_memory
from ._state import StateSource, fit, read_state
from ._types import Array

Parameters: TypeAlias = Mapping[str, Array] | Iterable[Array] | Iterable[tuple[str, Array]]
Gradients: TypeAlias = Mapping[str, Any] | Sequence[Any]
DecayRule: TypeAlias = Literal["all", "weights"] | Callable[[str, Array], bool]

NORMALIZATION = re.compile(r"norm|^(bn|ln|gn)\d*$", re.IGNORECASE)


def decays(name: str, array: Array) -> bool:
    """The rule "weights": not biases, and not what scales or shifts a normalization.

    Those have one axis at most, or a name that says so: its last part is "bias", or the part before it has "norm"
    in it or is bn, ln or gn with a number ("layer1.bn2.weight").
    """
    *rooms, last = name.split(".")
    return array.ndim > 1 and last != "bias" and not (rooms and NORMALIZATION.search(rooms[-1]))


class _Optimizer:
    _buffers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Parameters, lr: float, weight_decay: float, decay: DecayRule) -> None:
        self.lr, self.weight_decay = as_number("lr", lr, 0.0), as_number("weight_decay", weight_decay, 0.0)
        self.params = _as_parameters(params)
        rule = decay if callable(decay) else as_choice("decay", decay, {"all": lambda *_: True, "weights": decays})
        self.decayed = {name: bool(rule(name, array)) for name, array in self.params.items()}
        self.steps = dict.fromkeys(self.params, 0)
        self.state = {
            key: {name: np.zeros_like(a, order="C") for name, a in self.params.items()} for key in self._buffers
        }

    def step(self, grads: Gradients) -> None:
        """Update every parameter in place, given its gradient; None leaves it and its state as they are.

        grads: by name, or in the order of the parameters; shape and dtype of the parameter, and no
            memory of another one.
        Errors: ValueError and TypeError, naming the gradient; nothing has changed then.
        """
        taken = {name: gradient for name, gradient in _by_name(grads, self.params).items() if gradient is not None}
        arrays = []
        for name, gradient in taken.items():
            weight = self.params[name]
            as_output(name, weight, weight.shape, weight.dtype)  # is it still writeable?
            mean, square = ([buffer[name] for buffer in self.state.values()] + [None, None])[:2]
            given = _as_gradient(name, gradient, weight)
            arrays.append((weight, given, mean, square, self.steps[name] + 1, self.decayed[name]))
        rate, decay = as_number("lr", self.lr, 0.0), as_number("weight_decay", self.weight_decay, 0.0)
        before = dict(self.steps)
        for name in taken:  # before the call: Ctrl-C does not stop it, and is raised right behind it
            self.steps[name] += 1
        try:
            self._step(arrays, rate, decay)
        except Exception:
            self.steps = before
            raise

    def _step(self, arrays: list[Any], lr: float, weight_decay: float) -> None:
        raise NotImplementedError

    def _entries(self) -> dict[str, Array]:
        made = {f"step.{name}": np.array(step, np.int64) for name, step in self.steps.items()}
        return made | {f"{key}.{name}": array for key, of in self.state.items() for name, array in of.items()}

    def state_dict(self) -> dict[str, Array]:
        """{"step.NAME": (), "mean.NAME": copy, ...}: what continues the run; lr and the like are the caller's."""
        return {name: array.copy() for name, array in self._entries().items()}

    def load_state_dict(self, state_dict: StateSource) -> None:
        """Copy what `state_dict` gave, from a mapping or a .npz or .safetensors file: all or none, and ValueError."""
        found, entries = read_state(state_dict), self._entries()
        problems = [f"missing {name!r}" for name in entries if name not in found]
        problems += [f"unexpected {name!r}" for name in found if name not in entries]
        values = {}
        for name, array in entries.items():
            if name in found:
                try:
                    values[name] = fit(name, found[name], array.shape, array.dtype)
                except (TypeError, ValueError) as error:
                    problems.append(str(error))
        steps = {name: int(values.get(f"step.{name}", 0)) for name in self.params}
        problems += [f"step.{name} must be at least 0, got {step}" for name, step in steps.items() if step < 0]
        if problems:
            raise ValueError(f"{type(self).__name__}.load_state_dict: " + "; ".join(problems))
        for name, value in values.items():
            entries[name][...] = value
        self.steps = steps


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum and L2 weight decay, as torch.optim.SGD.

        g = grad + weight_decay * w      m = momentum * m + (1 - dampening) * g, at the first step g
        w -= lr * m,  for nesterov lr * (g + momentum * m),  without momentum lr * g

    params: {name: array}, pairs of name and array, or arrays (named "0", "1", ...): float32 or float64, contiguous;
    they are updated in place.  decay: "all"; "weights", the usual rule by shape and name (`normcpu.optim.decays`): no
    decay for biases and normalizations; or a function of name and array.  lr and weight_decay may be set between steps.

    https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html

    >>> w = np.array([1.0, 2.0])
    >>> SGD([w], lr=0.5).step([np.array([1.0, -1.0])])
    >>> w
    array([0.5, 2.5])
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decay: DecayRule = "all",
    ) -> None:
        self.momentum, self.dampening = as_number("momentum", momentum, 0.0), as_number("dampening", dampening)
        self.nesterov = bool(nesterov)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(f"nesterov needs a momentum and no dampening, got {momentum} and {dampening}")
        self._buffers = ("mean",) if self.momentum else ()  # type: ignore[misc]
        super().__init__(params, lr, weight_decay, decay)

    def _step(self, arrays: list[Any], lr: float, weight_decay: float) -> None:
        _core.sgd_step(arrays, lr, self.momentum, self.dampening, weight_decay, self.nesterov)


class AdamW(_Optimizer):
    """Adam with decoupled weight decay, as torch.optim.AdamW.

        w -= lr * weight_decay * w      m = b1 * m + (1 - b1) * grad      v = b2 * v + (1 - b2) * grad^2
        w -= lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)                      at step t = 1, 2, ...

    Arguments as for `SGD`, betas = (b1, b2).

    https://arxiv.org/abs/1711.05101, https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html

    >>> w = np.array([1.0, 2.0])
    >>> AdamW({"w": w}, lr=0.25, weight_decay=0.0, eps=0.0).step({"w": np.array([1.0, -9.0])})
    >>> w
    array([0.75, 2.25])
    """

    _buffers = ("mean", "square")

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        decay: DecayRule = "all",
    ) -> None:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        self.betas = as_number("betas[0]", betas[0], 0.0), as_number("betas[1]", betas[1], 0.0)
        if max(self.betas) >= 1:
            raise ValueError(f"betas must be below 1, got {betas!r}")
        self.eps = as_number("eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, decay)

    def _step(self, arrays: list[Any], lr: float, weight_decay: float) -> None:
        _core.adamw_step(arrays, lr, *self.betas, self.eps, weight_decay)


# ---- Arguments -------------------------------------------------------------------------------------------


def _as_parameters(params: Any) -> dict[str, Array]:
    if isinstance(params, np.ndarray) or not isinstance(params, Iterable):
        raise TypeError(f"params must be a mapping or a list of arrays, got {type(params).__name__}")
    named = list(params.items()) if isinstance(params, Mapping) else list(params)
    has_names = all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in named)
    if not has_names:
        named = [(str(i), array) for i, array in enumerate(named)]
    made: dict[str, Array] = {}
    for name, value in named:
        if name in made:
            raise ValueError(f"params must have a name each, got {name!r} twice")
        called = name if has_names else f"params[{name}]"
        if isinstance(value, np.ndarray) and value.dtype not in (FLOAT32, FLOAT64):
            raise TypeError(f"{called} must be float32 or float64, got {value.dtype}")
        array = as_output(called, value, getattr(value, "shape", ()), getattr(value, "dtype", FLOAT32))
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(f"{called} is updated in place, so it must be contiguous, got strides {array.strides}")
        for other, known in made.items():
            if share_memory(array, known):
                raise ValueError(f"{called} must not share memory with {other if has_names else f'params[{other}]'}")
        made[name] = array
    return made


def _by_name(grads: Any, params: Mapping[str, Array]) -> dict[str, Any]:
    if isinstance(grads, np.ndarray) or not isinstance(grads, Mapping | Sequence):
        raise TypeError(f"grads must be a mapping or a list of arrays, got {type(grads).__name__}")
    if isinstance(grads, Mapping):
        if grads.keys() != params.keys():
            unlike = sorted(grads.keys() ^ params.keys(), key=str)
            raise ValueError(
                f"grads must have the names of the parameters, got a difference in {', '.join(map(str, unlike))}"
            )
        return {name: grads[name] for name in params}
    if len(grads) != len(params):
        raise ValueError(f"grads must have {len(params)} entries, got {len(grads)}")
    return dict(zip(params, grads, strict=True))


def _as_gradient(name: str, value: Any, weight: Array) -> Array:
    gradient = as_array(f"the gradient of {name}", value)
    if gradient.shape != weight.shape:
        raise ValueError(f"the gradient of {name} must have shape {weight.shape}, got {gradient.shape}")
    if gradient.dtype != weight.dtype:
        raise TypeError(f"the gradient of {name} must be {weight.dtype}, got {gradient.dtype}")
    gradient = np.require(gradient, requirements=["C", "A"])
    return gradient.copy() if share_memory(gradient, weight) else gradient
