# SPDX-License-Identifier: Apache-2.0
"""fold(model): fold, verify, and where that fails find the rule, switch it off and fold again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import onnx
import onnx_ir as ir

from .count import count_affine
from .engine import AGGRESSIVE, RULES, Engine, Options
from .external import external_files
from .net import without_weights
from .report import Report
from .run import CannotRun, Feeds
from .save import PROTOBUF_LIMIT, first_line, load, size, uncollected
from .valid import ModelError, put_in_order, title
from .verify import Reference

Source: TypeAlias = onnx.ModelProto | ir.Model | str | os.PathLike[str]


class UnknownRule(ValueError):
    """skip or only names a rule that there is not."""


class UnknownNode(ValueError):
    """keep names a node that the model does not have."""


def fold(
    model: Source,
    *,
    skip: Sequence[str] = (),
    only: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    target: str = "onnxruntime",
    aggressive: bool = False,
    verify: bool = True,
    inputs: Sequence[Feeds] | None = None,
    ranges: bool = False,
    keep_metadata: bool = False,
) -> tuple[ir.Model, Report]:
    """Folds every affine operation of a model into weights, where that is exact.

    Args:
        model: a path, an onnx.ModelProto or an onnx_ir.Model; it is left as it is.
        skip: names of rules that are not to be used, such as "B11"; RULES has them all.
        only: names of the only rules that are to be used, aggressive ones too.
        keep: names of nodes that stay as they are.
        target: "onnxruntime" leaves patterns whole that it fuses, "generic" does not.
        aggressive: use the rules as well that add an operation, parameters or multiplications (AGGRESSIVE); the report
            says how many.
        verify: run original and folded model on the same inputs, in ONNX Runtime if it is installed.  A rule whose
            result is worse than 8 times the original's own float32 error (+ 2e-6, float16 + 4e-3, bfloat16 + 3e-2,
            all relative to the largest output) is switched off, and named in the report.
        inputs: {name: array} for each run; random ones of the declared shapes where None.
        ranges: put the per-channel range of each changed weight, before and after, into the report; reads them all.
        keep_metadata: write weights and biases of folded BatchNorms, which quantization without data asks for, into
            the model's properties, as JSON under "normcpu.batch_norms".

    Returns:
        The folded model and the report.  Where nothing could be folded it is the model as it was.

    Raises:
        ModelError: the file is no model, or no valid one.
        ValueError: target is neither "onnxruntime" nor "generic", skip or only names a rule that there is not, or keep
            a node.
    """
    if target not in ("onnxruntime", "generic"):
        raise ValueError(f"target must be 'onnxruntime' or 'generic', got {target!r}")
    for name in (*skip, *(only or ())):
        if name not in RULES:
            raise UnknownRule(f"there is no rule {name!r}; there are {', '.join(sorted(RULES))}")
    again, where = reader(model), f"{model}: " if isinstance(model, str | os.PathLike) else ""
    unasked = RULES - set(only) if only is not None else frozenset() if aggressive else AGGRESSIVE
    off = frozenset(skip) | unasked
    options = Options(off, frozenset(keep), target, ranges, keep_metadata)
    try:
        folded, report = _once(again, options)
    except ModelError as error:
        raise ModelError(str(error) if str(error).startswith(where) else f"{where}{error}") from error
    if keep:
        _check_names(keep, (again(), folded), report)
    if not report.folded:
        report.not_verified = "nothing was folded"
        return again(), report
    if not verify:
        return folded, report
    return _verified(again, options, folded, report, inputs)


def _check_names(keep: Sequence[str], models: tuple[ir.Model, ir.Model], report: Report) -> None:
    """A name is one of a node before folding or after: model-local functions may have been written out in between."""
    known = {record.node for record in report.records}
    for model in models:
        for graph in (model.graph, *model.functions.values()):
            known |= {title(node) for node in graph.all_nodes()}
    for name in keep:
        if name not in known:
            raise UnknownNode(f"keep: there is no node {name!r} in the model")


@uncollected()
def _once(again: Callable[[], ir.Model], options: Options) -> tuple[ir.Model, Report]:
    model = again()
    external = bool(external_files(model))
    try:
        put_in_order(model)
        engine = Engine(model, options)
        before = count_affine(engine.net)
        engine.run()
        ranges = engine.watched.changed() if engine.watched is not None else []
        return model, Report(before, count_affine(engine.net), engine.records, ranges=ranges, external_data=external)
    except Exception as error:  # where nothing is wrong with the model it comes out as it is
        raise invalid(again(), error) from error


def invalid(model: ir.Model, error: Exception) -> Exception:
    """What ONNX says is wrong with the model, if it is no valid one; the error as it is if it is."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, ir.serde.SerdeError):
        return ModelError(f"not a valid ONNX model: {first_line(error)}")
    try:
        onnx.checker.check_model(without_weights(model))
    except (onnx.checker.ValidationError, ir.serde.SerdeError) as wrong:
        return ModelError(f"not a valid ONNX model: {first_line(wrong)}")
    return error


def _verified(
    again: Callable[[], ir.Model], options: Options, folded: ir.Model, report: Report, inputs: Sequence[Feeds] | None
) -> tuple[ir.Model, Report]:
    original = again()
    if size(original) > PROTOBUF_LIMIT:
        report.not_verified = "it is larger than 2 GB; normcpu verify compares such files, one at a time"
        return folded, report
    put_in_order(original)  # which ONNX Runtime does itself, and ONNX's evaluator does not
    try:
        reference = Reference(with_data(original), inputs)
    except CannotRun as problem:
        report.not_verified = f"the original cannot be run here: {problem}"
        return folded, report
    report.verification = reference.compare(with_data(folded))
    switched_off: dict[str, float] = {}
    while not report.verification.passed:
        error = report.verification.worst
        rule = _culprit(again, options, report, reference)
        options = replace(options, skip=options.skip | {rule})
        switched_off[rule] = error
        folded, report = _once(again, options)
        report.switched_off = switched_off
        if not report.folded:
            report.not_verified = "nothing is folded any more"
            return again(), report
        report.verification = reference.compare(with_data(folded))
    return folded, report


def _culprit(again: Callable[[], ir.Model], options: Options, report: Report, reference: Reference) -> str:
    """The rule without which all is well; where no single one is it, the one without which the error is least."""
    used = list(dict.fromkeys(rule for record in report.folded for rule in record.rules if rule not in options.skip))
    worst = {}
    for rule in used:
        model, tried = _once(again, Options(options.skip | {rule}, options.keep, options.target))
        worst[rule] = reference.compare(with_data(model)).worst if tried.folded else 0.0
        if tried.folded and reference.compare(with_data(model)).passed:
            return rule
    return min(worst, key=lambda rule: worst[rule])


def reader(model: Source) -> Callable[[], ir.Model]:
    """Reads the model anew each time: folding changes what it is given."""
    if isinstance(model, onnx.ModelProto):
        return lambda: _of_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    if isinstance(model, ir.Model):
        return model.clone
    return lambda: load(model)


def _of_proto(proto: onnx.ModelProto) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        raise ModelError(f"not a readable ONNX model: {first_line(error)}") from error


def with_data(model: ir.Model) -> onnx.ModelProto:
    """As one message, with all external data inside."""
    if external_files(model):
        from onnx_ir.external_data import load_to_model

        model = load_to_model(model.clone())
    return ir.to_proto(model)
