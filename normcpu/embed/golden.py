# SPDX-License-Identifier: Apache-2.0
"""name_test.c: inputs, what NumPy makes of them, and a main that returns 0 or the index of the first wrong element."""

from __future__ import annotations

import numpy as np

from .._types import Array
from .literals import definition
from .source import Plan, comment


def golden(plan: Plan, inputs: Array, residual: Array | None) -> str:
    """inputs, residual: (k, ...), float32; k times x, and what is added."""
    expected, tolerance = [], []
    for i, x in enumerate(inputs):
        y, error = outputs(plan, x, None if residual is None else residual[i])
        expected.append(y)
        tolerance.append(2 * error)  # both are within `error` of the exact result
    upper, name = plan.name.upper(), plan.name
    arrays = {"input": inputs, "expected": np.stack(expected), "tolerance": _rounded(np.stack(tolerance))}
    for role in ("expected", "tolerance"):
        if not np.isfinite(arrays[role]).all():
            raise ValueError(f"inputs must have results that are finite, got {role} values beyond float32: give others")
    if residual is not None:
        arrays["residual"] = residual
    about = [
        f"{len(inputs)} times {name} on a machine, next to NumPy's results of the same operations in the same order.",
        "main returns 0, or the index of the first wrong element, from 1, in all outputs one after the other.",
    ]
    added = f", {name}_residual + k * {upper}_OUTPUT" if residual is not None else ""
    again = f"""
        for (long i = 0; i < {upper}_INPUT; i++) {name}_y[i] = {name}_input[k * {upper}_INPUT + i];
        {name}({name}_y{added}, {name}_y); /* in place */
        wrong = wrong ? wrong : {name}_first_wrong(k);""" if plan.aliases else ""  # fmt: skip
    most = "INPUT" if plan.aliases and inputs[0].size > expected[0].size else "OUTPUT"
    return f"""\
{comment(about)}
#include "{name}.h"

{"".join(definition(f"{name}_{role}", array) for role, array in arrays.items())}
static float {name}_y[{upper}_{most}];

static long {name}_first_wrong(long k)
{{
    for (long i = 0; i < {upper}_OUTPUT; i++) {{
        const long at = k * {upper}_OUTPUT + i;
        const float off = {name}_y[i] - {name}_expected[at];
        if (!((off < 0.0f ? -off : off) <= {name}_tolerance[at])) return at + 1; /* NaN too */
    }}
    return 0;
}}

int main(void)
{{
    long wrong = 0;
    for (long k = 0; k < {len(inputs)} && !wrong; k++) {{
        {name}({name}_input + k * {upper}_INPUT{added}, {name}_y);
        wrong = {name}_first_wrong(k);{again}
    }}
    /* An exit status has 8 bits on many systems: a multiple of 256, which would be 0 there, is 1 less. */
    return (int)(wrong % 256 || !wrong ? wrong : wrong - 1);
}}
"""


def outputs(plan: Plan, x: Array, residual: Array | None = None) -> tuple[Array, Array]:
    """y as NumPy computes it, and how far it may be from the exact result."""
    error: Array | float = 0.0
    for step in plan.steps:
        part = step.part
        x = x.reshape(part.shape)
        error = error if isinstance(error, float) else error.reshape(part.shape)
        with np.errstate(all="ignore"):
            x, error = part.reference(x, residual), part.error(x, residual, error)
        residual = None
    return x, np.broadcast_to(error, x.shape)


def _rounded(tolerance: Array) -> Array:
    """Down to 4 bits, which are short in C."""
    mantissa, exponent = np.frexp(tolerance)
    short: Array = np.ldexp(np.floor(mantissa * 16) / 16, exponent).astype(np.float32)
    return short
