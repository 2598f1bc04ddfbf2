# SPDX-License-Identifier: Apache-2.0
"""What a layer is besides its arithmetic: modes, gradients, state_dict and load_state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from ._state import StateSource, fit
from ._types import Array
from .conventions import PARAMETERS, Convention, get_convention, read_parameters


class IncompatibleKeys(NamedTuple):
    """The names that `load_state_dict` missed and those it did not expect; both empty where strict."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """The state of a layer and its modes; torch.nn.Module's methods of the same names.

    https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html
    """

    weight: Array | None = None
    bias: Array | None = None

    def __init__(self) -> None:
        self.training = True
        self.weight_grad: Array | None = None
        self.bias_grad: Array | None = None
        self.residual_grad: Array | None = None
        self._saved: Any = None

    @property
    def _name(self) -> str:
        return type(self).__name__

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or evaluation for False; `freeze` still holds."""
        if not isinstance(mode, bool):
            raise ValueError(f"mode must be a bool, got {mode!r}")
        self.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients: weight_grad, bias_grad and residual_grad become None."""
        self.weight_grad = self.bias_grad = self.residual_grad = None

    def _accumulate(self, dweight: Array | None, dbias: Array | None) -> None:
        if self.weight is not None:
            self.weight_grad = dweight if self.weight_grad is None else self.weight_grad + dweight
        if self.bias is not None:
            self.bias_grad = dbias if self.bias_grad is None else self.bias_grad + dbias

    def reset_parameters(self) -> None:
        """weight 1 and bias 0, in place."""
        if self.weight is not None:
            self.weight[...] = 1
        if self.bias is not None:
            self.bias[...] = 0

    def state_dict(self, prefix: str = "") -> dict[str, Array]:
        """{prefix + name: copy} of parameters and buffers that are not None.

        To keep it: np.savez(path, **state) or safetensors.numpy.save_file(state, path).  For another
        framework's names: `convert_state`.
        """
        return {prefix + name: array.copy() for name, array in self._entries().items()}

    def load_state_dict(
        self,
        state_dict: StateSource,
        strict: bool = True,
        prefix: str = "",
        *,
        convention: str | Convention = "pytorch",
    ) -> IncompatibleKeys:
        """Copy parameters and buffers into this layer's arrays, all or none.

        state_dict: a mapping of NumPy arrays or tensors, or the path of a .npz or .safetensors file.
        prefix: the layer's place in a model's state, "layer1.0.bn1."; other entries are left aside.
        strict: names missing or unexpected at the prefix are errors; otherwise they are returned.
        convention: whose names these are; the values are taken as they are (see `convert_state`).

        As in PyTorch, num_batches_tracked may be missing, unless the state says (in _metadata) that it is of
        version 2 or later, and values are converted to the layer's dtype.
        Errors: one ValueError that lists every name missing, unexpected or of the wrong shape or kind.
        """
        rule = get_convention(convention)
        if rule.holds_std:
            raise ValueError(f"convention must hold variances, got {rule.name!r}: use convert_state")
        found, unexpected = read_parameters(state_dict, rule, prefix)
        keys, entries = rule.keys(prefix), self._entries()
        unexpected += [keys[name] for name in found if name not in entries]
        missing = [keys[name] for name in entries if name in keys and name not in found]
        if _version(state_dict, prefix) < 2 and keys.get("num_batches_tracked") in missing:
            missing.remove(keys["num_batches_tracked"])
        problems = [f"missing {key!r}" for key in missing] + [f"unexpected {key!r}" for key in unexpected]
        if not strict:
            problems = []
        values = {}
        for name, array in entries.items():
            if name in found:
                try:
                    values[name] = fit(keys[name], found[name], array.shape, array.dtype)
                except (TypeError, ValueError) as error:
                    problems.append(str(error))
        if problems:
            raise ValueError(f"{self._name}.load_state_dict: " + "; ".join(problems))
        for name, value in values.items():
            entries[name][...] = value
        return IncompatibleKeys(missing, unexpected)

    def _entries(self) -> dict[str, Array]:
        arrays = {name: getattr(self, name, None) for name in PARAMETERS}
        return {name: array for name, array in arrays.items() if array is not None}

    def __getstate__(self) -> dict[str, Any]:
        # What forward kept for backward holds the whole input: neither pickled nor copied.
        return self.__dict__ | {"_saved": None}


class BatchNormModule(Module):
    """A layer with running statistics."""

    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None

    def __init__(self) -> None:
        super().__init__()
        self.frozen = False
        self.skipped_updates = 0

    def freeze(self) -> Self:
        """Use the running statistics and leave them alone, whatever `train` says, until `unfreeze`.

        weight and bias still get gradients in training mode.  Raises ValueError where there are no
        statistics.
        """
        if self.running_mean is None or self.running_var is None:
            raise ValueError(f"{self._name}.freeze: no running statistics (track_running_stats=False)")
        self.frozen = True
        return self

    def unfreeze(self) -> Self:
        """End `freeze`."""
        self.frozen = False
        return self

    def reset_running_stats(self) -> None:
        """running_mean 0, running_var 1 and num_batches_tracked 0, in place."""
        for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            buffer = getattr(self, name)
            if buffer is not None:
                buffer[...] = value

    def reset_parameters(self) -> None:
        """The running statistics as above, weight 1 and bias 0, in place."""
        self.reset_running_stats()
        super().reset_parameters()


def _version(state_dict: StateSource, prefix: str) -> int:
    """The version PyTorch writes beside a module's entries; 1 where there is none."""
    metadata = getattr(state_dict, "_metadata", None)
    entry = metadata.get(prefix[:-1]) if isinstance(metadata, Mapping) else None
    version = entry.get("version") if isinstance(entry, Mapping) else None
    return version if isinstance(version, int) else 1


def documented(base: type, name: str, shapes: str, shape: tuple[int, ...]) -> str:
    """The docstring of a layer of x of these shapes: that of `base`, and an example."""
    what = f"{name.partition('Norm')[0]} normalization of x {shapes}."
    example = f">>> {name}({shape[1]})(np.zeros({shape}, np.float32)).shape\n    {shape}"
    return f"{what}\n\n    {base.__doc__}\n    {example}\n    "
