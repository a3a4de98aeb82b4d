"""In what order weights can be quantized so that each is calibrated behind quantized ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from fqonnx.passes.linear_layer import LinearLayer

Unit = tuple[LinearLayer, ...]


def stages(model: ir.Model, units: Sequence[Unit]) -> list[list[Unit]]:
    """Split weights into stages by their depth: none depends on another of its own stage.

    Args:
        model: The model; its main graph is in topological order.
        units: Weights as the layers that share each. Of several depths at which a weight is used
            the least counts.

    Returns:
        The stages, from the inputs on, each in the order of ``units``.
    """
    stage_of: dict[str, int] = {}
    names = {layer.node: str(layer.weight.name) for unit in units for layer in unit}
    depth: dict[ir.Value, int] = {}  # quantized layers on the longest way to a value
    for node in model.graph:
        before = max((depth.get(value, 0) for value in _reads(node)), default=0)
        if node in names:
            stage_of[names[node]] = min(before, stage_of.get(names[node], before))
            before += 1
        depth.update(dict.fromkeys(node.outputs, before))
    result: list[list[Unit]] = [[] for _ in range(max(stage_of.values(), default=-1) + 1)]
    for unit in units:
        result[stage_of[str(unit[0].weight.name)]].append(unit)
    return [stage for stage in result if stage]


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, subgraphs included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _reads(inner)
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                for inner in graph:
                    yield from _reads(inner)
