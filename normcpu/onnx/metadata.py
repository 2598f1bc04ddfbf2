# SPDX-License-Identifier: Apache-2.0
"""Weights and biases of folded BatchNorms, kept in the model's properties.

A BatchNorm's output has its bias for a mean and its weight for a standard deviation, per channel.  That is what
quantization without data takes ranges from (Nagel et al. 2019, arXiv:1906.04721), and folding would lose it.
"""

from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir

from .net import Net, title
from .push import Step

PROPERTY = "normcpu.batch_norms"


def weight_and_bias(net: Net, node: ir.Node, steps: list[Step]) -> dict[str, Any]:
    """Of a BatchNormalization that is about to be folded: its name, where it goes, and both of them as lists."""
    kept: dict[str, Any] = {"node": title(node), "into": list(dict.fromkeys(s.node for s in steps))}
    for name, index in (("weight", 1), ("bias", 2)):
        value = net.constants.value(node.inputs[index])
        digits = 17 if net.dtype(node.inputs[index]) == ir.DataType.DOUBLE else 9  # that read back as the same bits
        kept[name] = [] if value is None else [float(f"{v:.{digits}g}") for v in value.ravel().tolist()]
    return kept


def add_properties(model: ir.Model, batch_norms: list[dict[str, Any]]) -> None:
    """Those of an earlier fold stay in front."""
    try:
        earlier = json.loads(model.metadata_props.get(PROPERTY, "[]"))
    except ValueError:
        earlier = []
    held = earlier if isinstance(earlier, list) else []
    model.metadata_props[PROPERTY] = json.dumps([*held, *batch_norms])
