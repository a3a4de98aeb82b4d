"""Calibration by the graph itself: sums of [x, 1]ᵀ[x, 1] as extra outputs.

Activations never leave the runtime, and any execution provider can do it. The last row and column
of such a sum hold Σx and the number of rows, so one output gives the Hessian and the mean.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from fqonnx.passes.carry_out import carry_out
from fqonnx.passes.constants import Names, record_constant, record_ints
from fqonnx.passes.convolution import unfold
from fqonnx.passes.linear_layer import LayerInput
from fqonnx.passes.row_mask import rows_that_count


class AddMomentOutputsPass(ir.passes.InPlacePass):
    """Make the model return, for the rows x of each layer input, their sum of [x, 1]ᵀ[x, 1].

    The other outputs go: what only they needed is not run. ``output_names`` holds the new ones, in
    the order of ``values``, each float32 (dim + 1, dim + 1). The rows of a grouped
    convolution are those of all its groups, which share one Hessian. A value inside an If, Loop or
    Scan is summed over all runs of its graph.

    Args:
        values: What the rows are of.
        keep: Names of the outputs that stay, behind the new ones.
        mask_input: Name of a graph input whose zeros mark padding. Rows of an activation count
            where the mask is not zero, if the activation is (batch, length, dim) of a mask
            (batch, length), or (length, batch, dim) by the names of its axes, or (rows, dim) with
            one row for each entry of the mask; else all count. Sizes are compared at run time. The
            activation of a convolution is its patches (batch, *sizes, dim).
    """

    def __init__(
        self,
        values: Sequence[LayerInput],
        mask_input: str | None = None,
        keep: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.values = tuple(values)
        self.keep = frozenset(keep)
        self.mask_input = mask_input
        self.output_names = tuple(f"fqonnx_moments_{i}" for i in range(len(self.values)))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the outputs of the main graph."""
        graph = model.graph
        by_name = ir.convenience.create_value_mapping(graph)
        mask = by_name[self.mask_input] if self.mask_input is not None else None
        graph.outputs[:] = [value for value in graph.outputs if value.name in self.keep]
        names = Names(graph)
        totals = []
        for source, output_name in zip(self.values, self.output_names, strict=True):
            x = by_name[source.name]
            body = x.graph or graph
            assert isinstance(body, ir.Graph)
            tape = Tape(body)
            output = _moments(tape, x, source, mask, output_name)
            output.dtype, output.shape = ir.DataType.FLOAT, ir.Shape((source.dim + 1,) * 2)
            for node in tape.nodes:
                for value in node.outputs:
                    value.name = names.fresh(f"fqonnx_moment_{value.name}")
            totals.append(output)
        # Not before all are recorded: it puts other Loops in the place of those that there are.
        for place, (total, output_name) in enumerate(zip(totals, self.output_names, strict=True)):
            output = carry_out(graph, total, names)
            output.name = output_name
            graph.outputs.insert(place, output)
        RemoveUnusedNodesPass()(model)  # a runtime would run what no output needs
        return ir.passes.PassResult(model, modified=True)


def _moments(
    tape: Tape, x: ir.Value, source: LayerInput, mask: ir.Value | None, prefix: str
) -> ir.Value:
    if source.convolution is not None:
        x = unfold(tape, x, source.convolution)
        if source.convolution.group > 1:  # the mask has one entry for the rows of all groups
            mask = None
    rows = tape.op("Reshape", [x, record_ints(tape, -1, source.dim)])
    rows = tape.op("Cast", [rows], {"to": ir.DataType.FLOAT})
    counts = rows_that_count(tape, x, rows, mask, prefix)
    if mask is not None:  # not a product: padding may hold NaN or infinity
        rows = tape.op("Where", [counts, rows, record_constant(tape, np.float32(0))])
    ones = tape.op("Cast", [counts], {"to": ir.DataType.FLOAT})
    augmented = tape.op("Concat", [rows, ones], {"axis": 1})
    return tape.op("MatMul", [tape.op("Transpose", [augmented], {"perm": [1, 0]}), augmented])
