# SPDX-License-Identifier: Apache-2.0
"""Folding in exported models: every affine operation that can go into weights exactly goes there."""

from __future__ import annotations

import onnx_ir as ir

from .engine import Engine, Options, Record

__all__ = ["Options", "Record", "fold_ir"]


def fold_ir(model: ir.Model, options: Options | None = None) -> tuple[ir.Model, list[Record], bool]:
    engine = Engine(model, options or Options())
    engine.run()
    return model, engine.records, engine.changed
