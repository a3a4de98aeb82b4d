"""Errors of layers by the graph itself: what a layer gives is summed up and let go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from fqonnx.passes.compiled_layers import compiled_layers, layer_output
from fqonnx.passes.constants import Names, record_constant, record_ints
from fqonnx.passes.graft import graft
from fqonnx.passes.linear_layer import LinearLayer
from fqonnx.passes.row_mask import rows_that_count


class AddErrorOutputsPass(ir.passes.InPlacePass):
    """Make the float model return, for each compiled layer, how far its output is from the float.

    The model runs beside the whole compiled one, and beside copies of the compiled layers that read
    the float model's activations. ``output_names`` are of float32 (3,): the sums of squares of the
    float output, of the difference on float activations and of that in the compiled model.

    Args:
        compiled: The compiled model.
        layers: Layers of the float model that it holds packed (see `compiled_layers`).
        mask_input: The input whose zeros mark padding, which does not count.
    """

    def __init__(
        self, compiled: ir.Model, layers: Sequence[LinearLayer], mask_input: str | None = None
    ) -> None:
        super().__init__()
        self.compiled = compiled
        self.layers = tuple(layers)
        self.mask_input = mask_input
        self.output_names = tuple(f"fqonnx_errors_{i}" for i in range(len(self.layers)))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the outputs of the main graph."""
        graph = model.graph
        values = ir.convenience.create_value_mapping(graph)
        mask = values[self.mask_input] if self.mask_input is not None else None
        floats = [values[str(layer_output(layer).name)] for layer in self.layers]
        whole, alone = self.compiled.clone(), self.compiled.clone()
        accumulated = [found.output for found in compiled_layers(whole, self.layers)]
        local = compiled_layers(alone, self.layers)
        graft(model, whole, tuple(whole.graph), {str(v.name): v for v in graph.inputs})
        needed = {node for found in local for node in found.nodes}
        graft(model, alone, [node for node in alone.graph if node in needed], values)
        graph.outputs.clear()
        tape = Tape(graph)
        # ONNX Runtime goes back from the node that stands last: so it is done with one layer before
        # it comes to the next, and holds the activations of few.
        for i, layer in reversed(list(enumerate(self.layers))):
            own = None if layer.convolution is not None else mask
            others = (local[i].output, accumulated[i])
            output = _sums(tape, floats[i], others, own, self.output_names[i])
            output.name = self.output_names[i]
            output.dtype, output.shape = ir.DataType.FLOAT, ir.Shape((3,))
            graph.outputs.insert(0, output)
        names = Names(graph)
        for node in tape.nodes:
            for value in node.outputs:
                if value.name not in self.output_names:
                    value.name = names.fresh(f"fqonnx_error_{value.name}")
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)


def _sums(
    tape: Tape,
    reference: ir.Value,
    others: Sequence[ir.Value],
    mask: ir.Value | None,
    prefix: str,
) -> ir.Value:
    """Record Σ reference² and, of each other, Σ (other − reference)²."""
    rows, *values = (
        tape.op("Cast", [tape.op("Flatten", [value], {"axis": -1})], {"to": ir.DataType.FLOAT})
        for value in (reference, *others)
    )
    found = [rows, *(tape.op("Sub", [value, rows]) for value in values)]
    if mask is not None:  # not a product: padding may hold NaN or infinity
        counts = rows_that_count(tape, reference, rows, mask, prefix)
        zero = record_constant(tape, np.float32(0))
        found = [tape.op("Where", [counts, array, zero]) for array in found]
    sums = [tape.op("ReduceSumSquare", [array], {"keepdims": 0}) for array in found]
    ones = record_ints(tape, 1)
    return tape.op("Concat", [tape.op("Reshape", [s, ones]) for s in sums], {"axis": 0})
