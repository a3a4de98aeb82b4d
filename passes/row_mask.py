"""Which rows of an activation are of a sample, and which are padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fqonnx.passes.constants import record_constant, record_ints


def rows_that_count(
    tape: Tape, x: ir.Value, rows: ir.Value, mask: ir.Value | None, prefix: str
) -> ir.Value:
    """Record which rows count, bool (rows, 1).

    Args:
        tape: Gets the nodes.
        x: The activation.
        rows: It as (rows, dim).
        mask: What is zero where there is padding, as `AddMomentOutputsPass` reads it.
        prefix: Begins the names of values in subgraphs.
    """
    first = tape.op("Slice", [tape.op("Shape", [rows]), record_ints(tape, 0), record_ints(tape, 1)])
    shape = tape.op("Concat", [first, record_ints(tape, 1)], {"axis": 0})
    if mask is None:
        return tape.op("Expand", [record_constant(tape, np.bool_(True)), shape])
    if _is_sequence_first(x, mask):
        mask = tape.op("Transpose", [mask], {"perm": [1, 0]})
    if x.shape is not None and len(x.shape) == 3:
        batch = tape.op(
            "Slice", [tape.op("Shape", [x]), record_ints(tape, 0), record_ints(tape, 2)]
        )
        same = tape.op("Equal", [batch, tape.op("Shape", [mask])])
        smallest = tape.op(
            "ReduceMin", [tape.op("Cast", [same], {"to": ir.DataType.INT32})], {"keepdims": 0}
        )
        fits = tape.op("Cast", [smallest], {"to": ir.DataType.BOOL})
    else:
        fits = tape.op("Equal", [tape.op("Squeeze", [first]), tape.op("Size", [mask])])

    def from_mask(branch: Tape) -> ir.Value:
        entries = branch.op("Reshape", [mask, record_ints(branch, -1, 1)])
        return branch.op("Cast", [entries], {"to": ir.DataType.BOOL})

    def all_true(branch: Tape) -> ir.Value:
        return branch.op("Expand", [record_constant(branch, np.bool_(True)), shape])

    branches = {
        name: _branch(build, f"{prefix}_{name}")
        for name, build in (("then_branch", from_mask), ("else_branch", all_true))
    }
    return tape.op("If", [fits], branches)


def _is_sequence_first(x: ir.Value, mask: ir.Value) -> bool:
    """Whether x is (length, batch, dim) of a mask (batch, length), by the names of their axes."""
    if x.shape is None or mask.shape is None or len(x.shape) != 3 or len(mask.shape) != 2:
        return False
    length, batch = x.shape[0], x.shape[1]
    return (length, batch) == (mask.shape[1], mask.shape[0]) != (batch, length)


def _branch(build: Callable[[Tape], ir.Value], prefix: str) -> ir.Graph:
    tape = Tape()
    output = build(tape)
    output.dtype = ir.DataType.BOOL
    for i, node in enumerate(tape.nodes):  # names of a subgraph must be free in the outer graph
        node.name = node.outputs[0].name = f"{prefix}_{i}"
    return ir.Graph([], [output], nodes=tape.nodes, name=prefix)
