"""In what order weights can be quantized so that each is calibrated behind quantized ones."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from fqonnx.passes.carry_out import subgraphs
from fqonnx.passes.linear_layer import LinearLayer

Unit = tuple[LinearLayer, ...]


def stages(model: ir.Model, units: Sequence[Unit]) -> list[list[Unit]]:
    """Split weights into stages by their depth: none depends on another of its own stage.

    Args:
        model: The model; its graphs are in topological order. What a Loop or Scan gives its next
            iteration does not count.
        units: Weights as the layers that share each. Of several depths at which a weight is used
            the least counts.

    Returns:
        The stages, from the inputs on, each in the order of ``units``.
    """
    unit_of = {layer.node: unit for unit in units for layer in unit}
    stage_of: dict[Unit, int] = {}
    depth: dict[ir.Value, int] = {}  # quantized layers on the longest way to a value

    def walk(graph: ir.Graph, least: int) -> int:
        """Find the depths of a graph that runs behind so many layers; return the largest."""
        depth.update(dict.fromkeys(graph.inputs, least))
        deepest = least
        for node in graph:
            after = max((depth.get(v, 0) for v in node.inputs if v is not None), default=least)
            if (unit := unit_of.get(node)) is not None:
                stage_of[unit] = min(after, stage_of.get(unit, after))
                after += 1
            for inner in subgraphs(node):
                after = max(after, walk(inner, after))
            depth.update(dict.fromkeys(node.outputs, after))
            deepest = max(deepest, after)
        return deepest

    walk(model.graph, 0)
    result: list[list[Unit]] = [[] for _ in range(max(stage_of.values(), default=-1) + 1)]
    for unit in units:
        result[stage_of[unit]].append(unit)
    return [stage for stage in result if stage]
