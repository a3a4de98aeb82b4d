"""Put FrameMatMul nodes with packed weights in the place of float layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from fqonnx.frames import SignedFrame
from fqonnx.packing import choose_block_size, pack_codes, pack_signs
from fqonnx.passes.constants import Names, add_initializer, remove_if_unused
from fqonnx.passes.select_weights import LinearLayer
from fqonnx.quant import QuantizedWeight
from fqonnx.runtime_ops import DOMAIN, OPSET_VERSION, FrameOpSpec, build_function

_OVERLOADS_IR_VERSION = 10  # the first whose functions have overloads


@dataclass(frozen=True)
class Replacement:
    """A quantized weight and the layers that share it.

    ``quantized.bias_shift`` is added to the bias of the layer, of which there is one then.
    """

    layers: tuple[LinearLayer, ...]
    quantized: QuantizedWeight


class QuantizeWeightsPass(ir.passes.InPlacePass):
    """Replace layers, add the functions of their operators, drop float weights nobody reads.

    Args:
        replacements: What goes where. The layers belong to the model that the pass is called on.
        contrib: Whether function bodies may use ``com.microsoft`` operators.
    """

    def __init__(self, replacements: Sequence[Replacement], *, contrib: bool) -> None:
        super().__init__()
        self.replacements = tuple(replacements)
        self.contrib = contrib
        self.stored_bytes: dict[str, int] = {}  # by layer name; shared bytes go to the first

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        names = Names(model.graph)
        for replacement in self.replacements:
            packed, stored = _add_packed(model.graph, names, replacement)
            for layer in replacement.layers:
                self._replace(model, names, layer, replacement.quantized, packed)
                self.stored_bytes[layer.name] = stored
                stored = 0
        return ir.passes.PassResult(model, modified=bool(self.replacements))

    def _replace(
        self,
        model: ir.Model,
        names: Names,
        layer: LinearLayer,
        quantized: QuantizedWeight,
        packed: dict[str, ir.Value],
    ) -> None:
        graph = model.graph
        bias = layer.bias
        if bias is not None and quantized.bias_shift is not None:
            bias = _shifted_bias(graph, names, bias, quantized.bias_shift.cpu().numpy())
        spec = FrameOpSpec(
            op_type="FrameMatMul",
            frame_in=quantized.frame_in.spec,
            frame_out=quantized.frame_out.spec,
            bits=quantized.bits,
            block_size=choose_block_size(quantized.frame_in.num_vectors),
            group_size=quantized.group_size,
            dtype=layer.dtype,
            has_bias=bias is not None,
            has_zero_points=quantized.zero_points is not None,
            contrib=self.contrib,
        )
        values: dict[str, ir.Value | None] = {"X": layer.x, **packed, "bias": bias}
        inputs = [values.get(name) for name in spec.input_names()]
        while inputs[-1] is None:
            inputs.pop()
        old = layer.node if layer.add is None else layer.add
        output = old.outputs[0]
        tape = Tape()
        result = tape.op(
            spec.op_type,
            inputs,
            spec.attributes(),
            domain=DOMAIN,
            overload=spec.overload,
            name=layer.node.name or layer.name,
            metadata_props=dict(layer.node.metadata_props),
            output=ir.Value(name=names.fresh(f"{output.name}.quantized")),
        )
        result.dtype, result.shape = layer.dtype, output.shape
        removed = [layer.node] if layer.add is None else [layer.add, layer.node]
        ir.convenience.replace_nodes_and_values(
            graph, old, removed, list(tape.nodes), [output], [result]
        )
        for value in (layer.weight, layer.bias):
            if value is not None:
                remove_if_unused(graph, value)
        self._register(model, spec)

    def _register(self, model: ir.Model, spec: FrameOpSpec) -> None:
        key = (DOMAIN, spec.op_type, spec.overload)
        if key in model.functions:
            return
        function = build_function(spec, model.graph.opset_imports[""])
        model.functions[key] = function
        model.ir_version = max(model.ir_version, _OVERLOADS_IR_VERSION)
        model.graph.opset_imports[DOMAIN] = OPSET_VERSION
        for domain, version in function.opset_imports.items():
            model.graph.opset_imports.setdefault(domain, version)


def _add_packed(
    graph: ir.Graph, names: Names, replacement: Replacement
) -> tuple[dict[str, ir.Value], int]:
    """Add the initializers of a quantized weight; return them by input name, and their bytes."""
    quantized = replacement.quantized
    weight = replacement.layers[0].weight
    block_size = choose_block_size(quantized.frame_in.num_vectors)
    arrays: dict[str, NDArray[np.generic]] = {
        "codes": pack_codes(quantized.codes.cpu().numpy(), quantized.bits, block_size),
        "scales": quantized.scales.cpu().numpy(),
    }
    if quantized.zero_points is not None:
        arrays["zero_points"] = quantized.zero_points.cpu().numpy()
    for key, frame in (("signs_in", quantized.frame_in), ("signs_out", quantized.frame_out)):
        if isinstance(frame, SignedFrame):
            arrays[key] = pack_signs(frame.signs.cpu().numpy())
    values = {}
    for key, array in arrays.items():
        name = names.fresh(f"{weight.name}.{key}")
        values[key] = add_initializer(graph, name, ir.tensor(array, name=name))
    return values, sum(array.nbytes for array in arrays.values())


def _shifted_bias(
    graph: ir.Graph, names: Names, bias: ir.Value, shift: NDArray[np.float32]
) -> ir.Value:
    tensor = bias.const_value
    assert tensor is not None
    shifted = (tensor.numpy().astype(np.float32) + shift).astype(tensor.dtype.numpy())
    name = names.fresh(f"{bias.name}.corrected")
    return add_initializer(graph, name, ir.tensor(shifted, name=name))
