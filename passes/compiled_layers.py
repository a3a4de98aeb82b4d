"""The layers of a compiled model beside the float layers that they were made from.

Rewriting keeps the names of a layer's activation and of its output, so the two models are the same
between those names: what of a compiled model stands behind the values that the float model has too,
and in front of a layer's output, is that layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from fqonnx.passes.linear_layer import LinearLayer
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec


@dataclass(frozen=True)
class CompiledLayer:
    """A layer of a compiled model.

    Attributes:
        source: The layer of the float model.
        output: Its output in the compiled model.
        nodes: What computes the output from values that both models have, in graph order.
        node: That of them that holds the weight, a FrameMatMul or FrameDequant.
        rows: Which rows of the node's codes, scales and zero points are this layer's.
    """

    source: LinearLayer
    output: ir.Value
    nodes: tuple[ir.Node, ...]
    node: ir.Node
    rows: slice

    @property
    def spec(self) -> FrameOpSpec:
        """The spec of the node, those of the other layers that it holds included."""
        return FrameOpSpec.of_node(self.node)

    def packed(self) -> Mapping[str, ir.TensorProtocol]:
        """Return the node's packed inputs by name, those of all layers that it holds."""
        names = self.spec.input_names()
        return {
            name: value.const_value
            for name, value in zip(names, self.node.inputs, strict=False)
            if value is not None and value.const_value is not None and name != "bias"
        }


def layer_output(layer: LinearLayer) -> ir.Value:
    """Return the output of a float layer, behind its bias."""
    return (layer.add or layer.node).outputs[0]


def compiled_layers(compiled: ir.Model, layers: Sequence[LinearLayer]) -> list[CompiledLayer]:
    """Return those of the float model's layers that a compiled model holds packed.

    None where it has a node that this version does not know; none of those inside If, Loop or Scan.

    Args:
        compiled: The compiled model.
        layers: Layers of the float model, normalized as for compiling.
    """
    try:
        specs = {n: FrameOpSpec.of_node(n) for n in compiled.graph if n.domain == DOMAIN}
    except ValueError:  # of another version, which may mean anything by its codes
        return []
    values = {value.name: value for value in _values(compiled.graph)}
    layers = [layer for layer in layers if layer_output(layer).name in values]
    if not layers or not specs:
        return []
    shared = {value.name for value in _values(layers[0].graph)}
    position = {node: i for i, node in enumerate(compiled.graph)}
    found = []
    for layer in layers:
        output = values[layer_output(layer).name]
        behind, read = _behind(output, shared)
        if not read <= {value.name for value in (layer.x, layer.bias) if value is not None}:
            continue  # a layer of another model
        nodes = tuple(sorted(behind, key=position.__getitem__))
        weights = [
            (node, rows)
            for node in nodes
            if node in specs and (rows := _rows(node, specs[node], output, layer))
        ]
        if len(weights) == 1:
            found.append(CompiledLayer(layer, output, nodes, *weights[0]))
    return found


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(output for node in graph for output in node.outputs)]


def _behind(output: ir.Value, shared: set[str | None]) -> tuple[set[ir.Node], set[str | None]]:
    """Return the nodes that an output needs, back to values of shared names, and those names."""
    nodes: set[ir.Node] = set()
    read: set[str | None] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in nodes:
            nodes.add(node)
            inputs = [value for value in node.inputs if value is not None]
            read.update(value.name for value in inputs if value.name in shared)
            waiting += [value for value in inputs if value.name not in shared]
    return nodes, read


def _rows(node: ir.Node, spec: FrameOpSpec, output: ir.Value, layer: LinearLayer) -> slice | None:
    """Return which rows of a node's codes are the layer's weight; None if it is another node's."""
    if spec.frame_in.dim != layer.dim_in:  # a bias
        return None
    if not spec.splits:
        return slice(0, spec.frame_out.num_vectors) if spec.frame_out.dim == layer.dim_out else None
    index = next((i for i, value in enumerate(node.outputs) if _leads(value, output)), None)
    if index is None:
        return None
    first = sum(spec.splits[:index])
    return slice(first, first + spec.splits[index])


def _leads(value: ir.Value, output: ir.Value) -> bool:
    """Whether a value is an output, or becomes it by nodes that each are read by one other."""
    while value is not output:
        consumers = value.consumers()
        if len(consumers) != 1:
            return False
        value = consumers[0].outputs[0]
    return True
