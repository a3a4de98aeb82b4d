"""One model that is the float one, the compiled one, and everything between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fqonnx.passes.compiled_layers import compiled_layers, layer_output
from fqonnx.passes.constants import Names, record_constant
from fqonnx.passes.graft import graft
from fqonnx.passes.linear_layer import LinearLayer

SWITCHES = "fqonnx_compiled"


class AddSwitchesPass(ir.passes.InPlacePass):
    """Let the float model take each layer's output from the float or from the compiled layer.

    The model gets an input ``fqonnx_compiled``, bool (layers,): which of them are compiled.

    Args:
        compiled: The compiled model.
        layers: Layers of the float model that it holds packed (see `compiled_layers`).
    """

    def __init__(self, compiled: ir.Model, layers: Sequence[LinearLayer]) -> None:
        super().__init__()
        self.compiled = compiled
        self.layers = tuple(layers)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the input, the compiled layers and a choice behind each."""
        graph = model.graph
        values = ir.convenience.create_value_mapping(graph)
        donor = self.compiled.clone()
        copies = compiled_layers(donor, self.layers)
        needed = {node for copy in copies for node in copy.nodes}
        graft(model, donor, [node for node in donor.graph if node in needed], values)
        switches = ir.Value(
            name=SWITCHES, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape((len(copies),))
        )
        graph.inputs.append(switches)
        names, tape = Names(graph), Tape(graph)
        for i, (layer, copy) in enumerate(zip(self.layers, copies, strict=True)):
            output = values[str(layer_output(layer).name)]
            switch = tape.op("Gather", [switches, record_constant(tape, np.int64(i))])
            chosen = tape.op("Where", [switch, copy.output, output])
            chosen.type, chosen.shape = output.type, output.shape
            name, own = output.name, chosen.producer()
            ir.convenience.replace_all_uses_with(output, chosen, replace_graph_outputs=True)
            assert own is not None
            own.replace_input_with(2, output)
            output.name, chosen.name = names.fresh(f"{name}.float"), name
        for node in tape.nodes:
            for value in node.outputs:
                value.name = value.name or names.fresh("fqonnx_switch")
        graph.sort()
        return ir.passes.PassResult(model, modified=True)
