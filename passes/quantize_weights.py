"""Put packed weights in the place of float ones.

A layer whose rows are a view of its activation becomes a FrameMatMul. Any other node stays and
reads its weight from a FrameDequant. Packed weights are initializers of the main graph, which the
graphs inside its nodes see too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from fqonnx.packing import TILE, choose_block_size
from fqonnx.passes.constants import (
    Names,
    add_initializer,
    record_ints,
    remove_if_unused,
    replace_nodes,
)
from fqonnx.passes.convolution import channels_first, row_view
from fqonnx.passes.frame_functions import add_function
from fqonnx.passes.linear_layer import LinearLayer
from fqonnx.passes.lookups import is_turned
from fqonnx.quant import PackedArray, PackedWeight
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec
from fqonnx.runtime_ops.spec import OpType


@dataclass(frozen=True)
class Replacement:
    """A quantized weight and the layers that share it, in graph order.

    Attributes:
        layers: The layers.
        quantized: The weight. Its ``bias_shift`` is added to the bias of the layer, of which there
            is one then.
        biases: Quantized biases (dim_out, 1) by layer name, the shift included.
    """

    layers: tuple[LinearLayer, ...]
    quantized: PackedWeight
    biases: Mapping[str, PackedWeight] = field(default_factory=dict)


class QuantizeWeightsPass(ir.passes.InPlacePass):
    """Rewrite layers, add the functions of their operators, drop float weights nobody reads.

    Args:
        replacements: What goes where. The layers belong to the model that the pass is called on.
        contrib: Whether function bodies may use ``com.microsoft`` operators.
    """

    def __init__(self, replacements: Sequence[Replacement], *, contrib: bool) -> None:
        super().__init__()
        self.replacements = tuple(replacements)
        self.contrib = contrib
        self.stored_bytes: dict[str, int] = {}  # by layer name; shared bytes go to the first
        self.nodes: dict[str, ir.Node] = {}  # what multiplies by the weight now, by layer name

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph and those inside its nodes."""
        rewriter = _Rewriter(model, self.contrib)
        for replacement in self.replacements:
            rewriter.rewrite(replacement)
        self.stored_bytes, self.nodes = rewriter.stored_bytes, rewriter.nodes
        return ir.passes.PassResult(model, modified=bool(self.replacements))


class _Rewriter:
    """Rewrites the layers of one model."""

    def __init__(self, model: ir.Model, contrib: bool) -> None:
        self.model = model
        self.graph = model.graph
        self.contrib = contrib
        self.names = Names(model.graph)
        self.stored_bytes: dict[str, int] = {}
        self.nodes: dict[str, ir.Node] = {}

    def rewrite(self, replacement: Replacement) -> None:
        """Put a quantized weight in the place of the float one."""
        source = str(replacement.layers[0].weight.name)
        packed, stored = self.packed(source, replacement.quantized)
        for layer in replacement.layers:
            self.stored_bytes[layer.name] = stored
            stored = 0
        if all(layer.is_row_product for layer in replacement.layers):
            for layer in replacement.layers:
                self.replace(layer, replacement, packed)
        else:
            self.dequantize(replacement, packed)
        if replacement.layers[0].lookups:
            self.look_up(replacement, packed)
        for layer in replacement.layers:
            for value in (layer.weight, layer.bias):
                if value is not None:
                    remove_if_unused(value)

    def replace(
        self, layer: LinearLayer, replacement: Replacement, packed: dict[str, ir.Value]
    ) -> None:
        """Put a FrameMatMul in the place of a layer."""
        old = layer.node if layer.add is None else layer.add
        output, convolution = old.outputs[0], layer.convolution
        tape = Tape()
        x = layer.x if convolution is None else row_view(tape, layer.x, convolution)
        bias = self.bias(tape, layer, replacement)
        values = {"X": x, **packed, "bias": bias}
        name = layer.node.name or layer.name
        result = self.record(tape, "FrameMatMul", name, layer, replacement.quantized, values)
        self.nodes[layer.name] = tape.nodes[-1]
        if convolution is not None:
            if output.shape is not None:
                batch, channels, *sizes = output.shape
                result.shape = ir.Shape([batch, *sizes, channels])
            result = channels_first(tape, result, convolution)
        result.dtype, result.shape = layer.dtype, output.shape
        self.name_values(tape, f"{output.name}.quantized")
        removed = [layer.node] if layer.add is None else [layer.add, layer.node]
        replace_nodes(layer.graph, old, removed, list(tape.nodes), [output], [result])

    def dequantize(self, replacement: Replacement, packed: dict[str, ir.Value]) -> None:
        """Let nodes that stay read their weight from a FrameDequant."""
        first, quantized = replacement.layers[0], replacement.quantized
        name = f"{first.node.name or first.name}.weight"
        tape = Tape()
        weight = self.record(tape, "FrameDequant", name, first, quantized, {**packed})
        weight.shape = ir.Shape((first.dim_in, first.dim_out))
        if first.perm != (0, 1):
            if len(first.split_shape) > 2:
                weight = tape.op("Reshape", [weight, record_ints(tape, *first.split_shape)])
            weight = tape.op("Transpose", [weight], {"perm": first.perm})
            weight = tape.op("Reshape", [weight, record_ints(tape, *first.weight_shape)])
        weight.dtype, weight.shape = first.dtype, ir.Shape(first.weight_shape)
        self.name_values(tape, f"{first.weight.name}.quantized")
        place = first.node if first.graph is self.graph else self.graph[0]
        self.graph.insert_before(place, tape.nodes)
        for layer in replacement.layers:
            layer.node.replace_input_with(1, weight)
            self.nodes[layer.name] = layer.node
            if layer.bias is not None:
                tape, (reader, index) = Tape(), layer.bias_use
                reader.replace_input_with(index, self.bias(tape, layer, replacement))
                self.name_values(tape, f"{layer.bias.name}.quantized")
                layer.graph.insert_before(reader, tape.nodes)

    def look_up(self, replacement: Replacement, packed: dict[str, ir.Value]) -> None:
        """Let embeddings read the table of a layer from a FrameDequant of its codes."""
        first = replacement.layers[0]
        table = first.lookups[0].inputs[0]
        assert table is not None
        tape = Tape()
        name = f"{table.name}.table"
        weight = self.record(tape, "FrameDequant", name, first, replacement.quantized, {**packed})
        weight.shape = ir.Shape(first.weight_shape)
        if is_turned(first.weight):
            weight = tape.op("Transpose", [weight], {"perm": [1, 0]})
        weight.dtype, weight.shape = first.dtype, table.shape
        self.name_values(tape, f"{table.name}.quantized")
        self.graph.insert_before(self.graph[0], tape.nodes)
        for node in first.lookups:
            node.replace_input_with(0, weight)

    def bias(self, tape: Tape, layer: LinearLayer, replacement: Replacement) -> ir.Value | None:
        """Return the bias of a layer: quantized, shifted, or as it is."""
        bias, shift = layer.bias, replacement.quantized.bias_shift
        quantized = replacement.biases.get(layer.name)
        if bias is not None and quantized is not None:
            packed, stored = self.packed(str(bias.name), quantized)
            self.stored_bytes[layer.name] += stored
            name = f"{layer.node.name or layer.name}.bias"
            column = self.record(tape, "FrameDequant", name, layer, quantized, {**packed})
            column.shape = ir.Shape((layer.dim_out, 1))
            vector = tape.op("Reshape", [column, record_ints(tape, -1)])
            vector.dtype, vector.shape = layer.dtype, ir.Shape((layer.dim_out,))
            return vector
        if bias is not None and shift is not None:
            return self.shifted(bias, shift)
        return bias

    def record(
        self,
        tape: Tape,
        op_type: OpType,
        name: str,
        layer: LinearLayer,
        quantized: PackedWeight,
        values: dict[str, ir.Value | None],
    ) -> ir.Value:
        """Record an operator of ours that reads the named values, and give the model its body."""
        num_vectors = quantized.frame_in.num_vectors
        spec = FrameOpSpec(
            op_type=op_type,
            frame_in=quantized.frame_in,
            frame_out=quantized.frame_out,
            bits=quantized.bits,
            block_size=TILE if quantized.is_trellis else choose_block_size(num_vectors),
            group_size=quantized.group_size,
            dtype=layer.dtype,
            has_bias=values.get("bias") is not None,
            has_zero_points="zero_points" in quantized.arrays,
            codebook="trellis" if quantized.is_trellis else "scalar",
            multiplier=quantized.multiplier,
            contrib=self.contrib,
        )
        inputs = [values.get(name) for name in spec.input_names()]
        while inputs[-1] is None:
            inputs.pop()
        add_function(self.model, spec)
        result = tape.op(
            op_type,
            inputs,
            spec.attributes(),
            domain=DOMAIN,
            overload=spec.overload,
            name=name,
            doc_string=layer.node.doc_string,
            metadata_props=dict(layer.node.metadata_props),
        )
        result.dtype = layer.dtype
        return result

    def packed(self, source: str, quantized: PackedWeight) -> tuple[dict[str, ir.Value], int]:
        """Add the initializers of a quantized value; return them by input name, and their bytes."""
        values = {
            key: self.constant(f"{source}.{key}", array) for key, array in quantized.arrays.items()
        }
        return values, quantized.stored_bytes

    def shifted(self, bias: ir.Value, shift: NDArray[np.float32]) -> ir.Value:
        """Add a bias that takes the mean of its layer's error away."""
        tensor = bias.const_value
        assert tensor is not None
        array = (tensor.numpy().astype(np.float32) + shift).astype(tensor.dtype.numpy())
        return self.constant(f"{bias.name}.corrected", array)

    def constant(self, name: str, array: PackedArray) -> ir.Value:
        """Add an initializer under a name that is free; the array is read when it is written."""
        name = self.names.fresh(name)
        tensor = ir.LazyTensor(
            lambda: ir.tensor(np.asarray(array), name=name),
            dtype=ir.DataType.from_numpy(array.dtype),
            shape=ir.Shape(array.shape),
            name=name,
        )
        return add_initializer(self.graph, name, tensor)

    def name_values(self, tape: Tape, name: str) -> None:
        """Name what the tape recorded."""
        for node in tape.nodes:
            node.outputs[0].name = self.names.fresh(name)
