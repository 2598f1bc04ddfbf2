# SPDX-License-Identifier: Apache-2.0
"""Parallel branches that are added up become one convolution (R1, R2): RepVGG, MobileOne, ACNet, DBB.

The operands of a tree of Adds that are linear in the same x are put into the one with the largest kernel: smaller
convolutions where their taps fit, per-channel affines and x itself on the middle tap of the diagonal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .affine import Array, Refused
from .constants import integer, ints, is_float, text
from .net import Net, Use, title
from .push import Record, Step
from .read import read
from .weights import constant_input, set_constant


@dataclass
class Branch:
    """sum_j W[:, :, j] x[o * stride - begin + j * dilation] + b."""

    use: Use  # the operand of an Add that it is
    x: ir.Value
    node: ir.Node | None  # None for x itself
    weight: Array  # (o, i / groups, *k)
    bias: Array  # (o,)
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]
    groups: int

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]


def merge_branches(net: Net, skip: frozenset[str], frozen: Container[ir.Node], records: list[Record]) -> int:
    """Merges what can be, and returns how many branches are gone."""
    gone = 0
    for node in list(net.nodes()):
        if node.op_type == "Add" and not node.domain and node.graph is not None and not _inner(net, node):
            while _merge_one(net, node, skip, frozen, records):
                gone += 1
                if node.graph is None:
                    break
    return gone


def _inner(net: Net, node: ir.Node) -> bool:
    """Whether another Add, and nothing else, reads this one: then the tree has its root farther down."""
    readers = net.readers(node.outputs[0])
    return len(readers) == 1 and readers[0].node.op_type == "Add" and not node.outputs[0].is_graph_output()


def _leaves(net: Net, root: ir.Node) -> Iterator[Use]:
    stack = [root]
    while stack:
        add = stack.pop()
        for index, value in enumerate(add.inputs):
            producer = None if value is None else value.producer()
            if producer is not None and producer.op_type == "Add" and not producer.domain and _inner(net, producer):
                stack.append(producer)
            elif value is not None:
                yield Use(add, index)


def _merge_one(
    net: Net, root: ir.Node, skip: frozenset[str], frozen: Container[ir.Node], records: list[Record]
) -> bool:
    uses = [use for use in _leaves(net, root) if use.node not in frozen and _producer(use) not in frozen]
    if len(uses) < 2 or not _share_input(uses):
        return False
    convolutions = [c for use in uses if (c := _convolution(net, use)) is not None]
    convolutions.sort(key=lambda c: -int(np.prod(c.kernel)))
    for host in convolutions:
        for use in uses:
            if use == host.use:
                continue
            try:
                branch = _convolution(net, use) or _diagonal(net, use, host)
                if branch is None or branch.x is not host.x:
                    continue
                rule = "R2" if branch.node is not None and branch.node.op_type == "Conv" else "R1"
                if rule in skip or (rule == "R2" and "R2" in skip):
                    continue
                _join(net, host, branch)
            except Refused:
                continue
            name = title(branch.node) if branch.node is not None else branch.x.name or ""
            assert host.node is not None
            steps = [Step(rule, title(host.node), "Conv")]
            records.append(Record(name, branch.node.op_type if branch.node else "Add", "folded", steps))
            return True
    return False


def _share_input(uses: list[Use]) -> bool:
    """Whether a convolution reads what another operand is, or is made from: cheaper to see than what weights are."""
    seen: Counter[ir.Value | None] = Counter(use.node.inputs[use.at] for use in uses)
    convolutions = []
    for use in uses:
        node = _producer(use)
        seen.update(set(node.inputs) if node is not None else ())
        seen.update(_pooled(node))
        if node is not None and node.op_type == "Conv":
            convolutions.append(node)
    return any(seen[conv.inputs[0]] > 1 for conv in convolutions)


def _pooled(node: ir.Node | None) -> list[ir.Value | None]:
    """What an affine of an average is made from."""
    before = [value.producer() for value in node.inputs if value is not None] if node is not None else []
    return [pool.inputs[0] for pool in before if pool is not None and pool.op_type == "AveragePool"]


def _producer(use: Use) -> ir.Node | None:
    value = use.node.inputs[use.at]
    return None if value is None else value.producer()


def _convolution(net: Net, use: Use) -> Branch | None:
    value = use.node.inputs[use.at]
    node = None if value is None else value.producer()
    if node is None or value is None or node.op_type != "Conv" or node.domain or len(value.uses()) != 1:
        return None
    if value.is_graph_output() or text(node, "auto_pad", "NOTSET") not in ("", "NOTSET", "VALID"):
        return None
    made = node.inputs[1].producer() if node.inputs[1] is not None else None
    if made is not None and made.op_type == "DequantizeLinear":
        return None
    try:
        weight, bias = constant_input(net, node, 1), constant_input(net, node, 2)
    except Refused:
        return None
    x = node.inputs[0]
    if weight is None or x is None or weight.ndim < 3 or not is_float(weight.dtype):
        return None
    axes = weight.ndim - 2
    strides, dilations = (ints(node, name) or [1] * axes for name in ("strides", "dilations"))
    pads = ints(node, "pads") or [0] * (2 * axes)
    bias = np.zeros(weight.shape[0]) if bias is None else bias
    if (len(strides), len(dilations), len(pads)) != (axes, axes, 2 * axes) or min(dilations) < 1:
        return None
    if bias.shape != weight.shape[:1]:
        return None
    return Branch(use, x, node, weight, bias, strides, dilations, pads[:axes], pads[axes:], integer(node, "group", 1))


def _diagonal(net: Net, use: Use, host: Branch) -> Branch | None:
    """s x + t, x, or s mean(x) + t: W[c, c mod (i / groups)] = s_c, over one tap or all of the window."""
    value = use.node.inputs[use.at]
    channels, per_group = host.weight.shape[:2]
    if value is None or channels != per_group * host.groups:
        return None
    s, t, node, axes = np.ones(channels), np.zeros(channels), None, len(host.kernel)
    if value is not host.x and _only_here(value):
        node = value.producer()
        reading = None if node is None else read(net, node)
        if node is not None and reading is not None:
            s, t = reading.affine.vectors(1, channels)
            value = node.inputs[reading.at]
    kernel, strides, pads = [1] * axes, [1] * axes, [0] * (2 * axes)
    if value is not None and value is not host.x:
        pool = value.producer()
        if pool is None or pool.op_type != "AveragePool" or pool.domain or not _only_here(value):
            return None
        kernel, strides = ints(pool, "kernel_shape") or [], ints(pool, "strides") or strides
        pads = ints(pool, "pads") or pads
        plain = text(pool, "auto_pad", "NOTSET") in ("", "NOTSET") and not integer(pool, "ceil_mode")
        if not plain or (any(pads) and not integer(pool, "count_include_pad")):
            return None
        if any(n != 1 for n in ints(pool, "dilations") or [1]) or len(kernel) != axes:
            return None
        node, value, s = node or pool, pool.inputs[0], s / np.prod(kernel)
    if value is not host.x:
        return None
    weight = np.zeros((channels, per_group, *kernel))
    weight[np.arange(channels), np.arange(channels) % per_group] = s.reshape(-1, *[1] * axes)
    return Branch(use, host.x, node, weight, t, strides, [1] * axes, pads[:axes], pads[axes:], host.groups)


def _only_here(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _join(net: Net, host: Branch, branch: Branch) -> None:
    """Puts the branch's taps where the host has them, and takes the branch out of its Add."""
    if (
        host.strides != branch.strides
        or host.groups != branch.groups
        or host.weight.shape[:2] != branch.weight.shape[:2]
    ):
        raise Refused("the branches have different strides, groups or channels")
    weight, places = host.weight.copy(), []
    for k, size in enumerate(branch.kernel):
        dilation = host.dilations[k]
        offset = host.begin[k] - branch.begin[k]
        if offset % dilation or (size > 1 and branch.dilations[k] != dilation):
            raise Refused("the branches look at different places")
        first = offset // dilation
        extent = host.begin[k] + host.end[k] - dilation * (host.kernel[k] - 1)
        if first < 0 or first + size > host.kernel[k]:
            raise Refused("the kernel of one does not fit into the other's")
        if extent != branch.begin[k] + branch.end[k] - branch.dilations[k] * (size - 1):
            raise Refused("the branches have different sizes")
        places.append(slice(first, first + size))
    weight[(slice(None), slice(None), *places)] += branch.weight
    bias = host.bias + branch.bias
    node = host.node
    value = None if node is None else node.inputs[1]
    assert node is not None
    assert value is not None
    dtype = net.float_type(value)
    actions = [set_constant(net, node, 1, weight, dtype, f"{value.name}_merged")]
    if bias.any() or len(node.inputs) > 2:
        actions.append(set_constant(net, node, 2, bias, dtype, f"{value.name}_merged_bias"))
    add = branch.use.node
    rest = add.inputs[1 - branch.use.at]
    assert rest is not None
    if not net.can_bypass(add.outputs[0], rest) or net.rank(add.outputs[0]) != weight.ndim:
        raise Refused("the sum is an output of the graph, and the rest cannot take its place")
    for act in actions:
        act()
    net.bypass(add.outputs[0], rest)
    assert add.graph is not None
    add.graph.remove(add, safe=True)
