# SPDX-License-Identifier: Apache-2.0
"""BatchNorms in dictionaries of parameters, named as PyTorch names them, folded into the layers beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from .._state import StateSource, read_state
from .._types import Array
from ._scale import FoldError
from ._weights import Weights
from .affine import Affine
from .convolution import affine_then_conv, conv_then_affine, conv_transpose_then_affine
from .linear import affine_then_linear, linear_then_affine

NORM_WORDS = ("batch_norm", "batchnorm", "norm", "bn")
LAYER_WORDS = ("conv", "deconv", "convtranspose", "conv_transpose", "fc", "linear", "lin")
NORM_ENTRIES = ("running_mean", "running_var", "weight", "bias", "num_batches_tracked")
TRANSPOSED = re.compile("deconv|transpose|up", re.IGNORECASE)


class Pair(NamedTuple):
    """Two modules in the order of computation, with nothing between them; one of them is the BatchNorm."""

    first: str
    second: str
    groups: int = 1  # of a convolution behind the BatchNorm; others follow from the shapes
    transposed: bool = False  # a transposed convolution


class Doubt(NamedTuple):
    """A BatchNorm that was left as it is: names and shapes allow several readings, or none."""

    norm: str
    candidates: tuple[Pair, ...]  # to pass as `pairs`, once it is known which is right
    reason: str


class FoldedState(NamedTuple):
    state: dict[str, Array]
    folded: tuple[Pair, ...]
    doubts: tuple[Doubt, ...]


def fold_state_dict(
    state: StateSource,
    pairs: Iterable[Pair | tuple[str, str]] | None = None,
    *,
    eps: float | Mapping[str, float] = 1e-5,
    norms_follow: bool = False,
    transposed: Collection[str] | None = None,
) -> FoldedState:
    """Folds BatchNorms into the weights beside them: entries of a folded BatchNorm are left out, its layer has a bias.

    state: a mapping of arrays or tensors, or the path of a .npz or .safetensors file.  bfloat16 tensors and files are
        read as float32, which holds them exactly.  It is not changed; entries of other modules are passed on.
    pairs: (first, second), names of modules in the order of computation: ("conv1", "bn1") or, for a BatchNorm in front
        of a Linear or a convolution without pads, ("bn", "fc").  None: those that leave no doubt, BatchNorms behind
        layers: their names differ by "conv", "fc" or the like for "bn" or "norm", or by 1 in a Sequential; the entries
        of one follow those of the other (in files sorted by name that says nothing); and the shapes allow no other
        reading.  That nothing, such as an activation, lies between them is what such names say, and is believed.
    eps: of all BatchNorms, or by name.
    norms_follow: every BatchNorm comes behind the layer of its name.  transposed: the names of all transposed
        convolutions, () for none.  Either settles that doubt.

    Returns the state, the pairs that were folded, and for each BatchNorm that stays a Doubt.  FoldError, naming the
    pair and the channel, as in the functions that fold; ValueError where a pair does not fit.

    >>> import numpy as np
    >>> norm = {f"bn.{name}": np.float32([4.0]) for name in ("weight", "bias", "running_mean", "running_var")}
    >>> made = fold_state_dict({"conv.weight": np.ones((1, 3, 1, 1), np.float32), **norm}, eps=0.0)
    >>> made.folded[0][:2], {name: value.ravel().tolist() for name, value in made.state.items()}
    (('conv', 'bn'), {'conv.weight': [2.0, 2.0, 2.0], 'conv.bias': [-4.0]})
    """
    entries = read_state(state)
    modules = _modules(entries)
    norms = [name for name, own in modules.items() if {"running_mean", "running_var"} <= own]
    if pairs is not None:
        chosen, doubts = [Pair(*pair) for pair in pairs], [Doubt(name, (), "it is in no pair") for name in norms]
    else:
        chosen, doubts = _find(entries, modules, norms, norms_follow, transposed)
    made = dict(entries)
    for pair in chosen:
        _fold(made, pair, eps)
    used = {name for pair in chosen for name in pair[:2]}
    order = [key for name in entries for key in _with_bias(name, made)]
    state_made = {key: made[key] for key in dict.fromkeys(order)}
    return FoldedState(state_made, tuple(chosen), tuple(doubt for doubt in doubts if doubt.norm not in used))


def _modules(entries: Mapping[str, Array]) -> dict[str, set[str]]:
    """{name: the names of its own entries}, in order."""
    modules: dict[str, set[str]] = {}
    for key in entries:
        name, _, leaf = key.rpartition(".")
        modules.setdefault(name, set()).add(leaf)
    return modules


def _with_bias(key: str, made: Mapping[str, Array]) -> list[str]:
    """key and, behind a weight, its bias: where PyTorch has it."""
    name, _, leaf = key.rpartition(".")
    return [k for k in (key, _key(name, "bias") if leaf == "weight" else key) if k in made]


def _key(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf


# ---- One pair --------------------------------------------------------------------------------------------


def _fold(made: dict[str, Array], pair: Pair, eps: float | Mapping[str, float]) -> None:
    behind = _key(pair.second, "running_var") in made
    if behind == (_key(pair.first, "running_var") in made):
        found = "two" if behind else "none"
        raise ValueError(
            f"pairs must hold one BatchNorm with running statistics each, got {found} in {tuple(pair[:2])}"
        )
    layer, norm = (pair.first, pair.second) if behind else (pair.second, pair.first)
    weight = made.get(_key(layer, "weight"))
    if weight is None or weight.ndim < 2:
        shape = "no weight" if weight is None else f"a weight of shape {weight.shape}"
        raise ValueError(f"pairs must hold a layer with a weight of 2 or more axes each, got {layer!r} with {shape}")
    mean, var, gamma, beta = (made.get(_key(norm, leaf)) for leaf in NORM_ENTRIES[:4])
    if mean is None or var is None:
        raise ValueError(f"{norm} must have running_mean and running_var, got one of them")
    try:
        affine = Affine.of_batch_norm(mean, var, gamma, beta, eps.get(norm, 1e-5) if isinstance(eps, Mapping) else eps)
        result = _weights(weight, made.get(_key(layer, "bias")), affine, pair, behind)
    except FoldError as error:
        raise FoldError(f"{pair.first} and {pair.second}: {error}", error.channel) from None
    except (TypeError, ValueError) as error:
        raise type(error)(f"{pair.first} and {pair.second}: {error}") from None
    made[_key(layer, "weight")] = result.weight
    if result.bias is not None:
        made[_key(layer, "bias")] = result.bias
    for leaf in NORM_ENTRIES:
        made.pop(_key(norm, leaf), None)


def _weights(weight: Array, bias: Array | None, affine: Affine, pair: Pair, behind: bool) -> Weights:
    if weight.ndim == 2:
        return linear_then_affine(weight, bias, affine) if behind else affine_then_linear(affine, weight, bias)
    if pair.transposed and not behind:
        raise ValueError("in front of a transposed convolution a shift must stay: see affine_then_conv_transpose")
    if pair.transposed:
        groups = max(1, affine.scale.size // max(1, weight.shape[1]))
        return conv_transpose_then_affine(weight, bias, affine, groups=groups)
    if behind:
        return conv_then_affine(weight, bias, affine)
    return affine_then_conv(affine, weight, bias, groups=pair.groups)


# ---- Finding pairs ---------------------------------------------------------------------------------------


def _find(
    entries: Mapping[str, Array],
    modules: Mapping[str, set[str]],
    norms: list[str],
    norms_follow: bool,
    transposed: Collection[str] | None,
) -> tuple[list[Pair], list[Doubt]]:
    layers = {name for name, own in modules.items() if "weight" in own and name not in norms}
    layers = {name for name in layers if entries[_key(name, "weight")].ndim >= 2}
    named = {norm: [name for name in _partners(norm) if name in layers] for norm in norms}
    claims = Counter(name for names in named.values() for name in names)
    places = {name: place for place, name in enumerate(modules)}
    in_order = list(entries) != sorted(entries)
    pairs: list[Pair] = []
    doubts: list[Doubt] = []
    for norm, names in named.items():
        candidates = tuple(pair for name in names for pair in _readings(name, norm, entries, transposed))
        follows = norms_follow or norm.rpartition(".")[2].isdigit()
        follows = follows or (in_order and len(names) == 1 and places[norm] == places[names[0]] + 1)
        reason = (
            "no layer has its name" if not names
            else "no layer of its name has its channels" if not candidates
            else "several layers have its name" if len(names) > 1
            else "its layer has another BatchNorm" if claims[names[0]] > 1
            else "its layer may be a transposed convolution" if len(candidates) > 1
            else "it may come before its layer" if not follows and _reads(norm, names[0], entries)
            else ""
        )  # fmt: skip
        if reason:
            doubts.append(Doubt(norm, candidates, reason))
        else:
            pairs.append(candidates[0])
    return pairs, doubts


def _partners(norm: str) -> list[str]:
    """What a layer in front of this BatchNorm may be called."""
    parent, dot, leaf = norm.rpartition(".")
    if leaf.isdigit():
        return [f"{parent}{dot}{int(leaf) - 1}"]
    word = next((word for word in NORM_WORDS if word in leaf), None)
    if word is None:
        return []
    leaves = [leaf.replace(word, other) for other in LAYER_WORDS]
    leaves += [leaf.removesuffix(f"_{word}"), leaf.removeprefix(f"{word}_")]
    return [f"{parent}{dot}{other}" for other in dict.fromkeys(leaves) if other != leaf]


def _readings(layer: str, norm: str, entries: Mapping[str, Array], transposed: Collection[str] | None) -> list[Pair]:
    """The layer as a convolution or a Linear, and as a transposed convolution, where the shapes allow it."""
    weight, channels = entries[_key(layer, "weight")], entries[_key(norm, "running_var")].size
    plain, turned = Pair(layer, norm), Pair(layer, norm, transposed=True)
    may_turn = (
        weight.ndim > 2 and _divides(weight.shape[1], channels) and not len(weight) % (channels // weight.shape[1])
    )
    if transposed is not None:
        may_turn = may_turn and layer in transposed
        return [turned] if may_turn else [plain] * (len(weight) == channels and layer not in transposed)
    if TRANSPOSED.search(layer):
        return [turned] * may_turn + [plain] * (len(weight) == channels)
    if "conv" in layer.lower() and len(weight) == channels:
        may_turn = False
    return [plain] * (len(weight) == channels) + [turned] * may_turn


def _reads(norm: str, layer: str, entries: Mapping[str, Array]) -> bool:
    """Whether the BatchNorm's channels may be the layer's inputs."""
    return _divides(entries[_key(layer, "weight")].shape[1], entries[_key(norm, "running_var")].size)


def _divides(a: int, b: int) -> bool:
    return a > 0 and b > 0 and b % a == 0
