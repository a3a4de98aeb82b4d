"""Nodes of a compiled model inside the float one, so that both run on the same values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.passes.carry_out import subgraphs
from fqonnx.passes.constants import Names, add_initializer, constant


def graft(
    model: ir.Model, donor: ir.Model, nodes: Sequence[ir.Node], shared: Mapping[str, ir.Value]
) -> None:
    """Move nodes of one model to the end of another, whose constants they share where equal.

    Args:
        model: What gets the nodes. Its graph is sorted, if need be, by the caller.
        donor: What they are taken from: a clone, of which nothing else is used later.
        nodes: Nodes of the donor's main graph, in order.
        shared: Values of ``model`` by name, for what the nodes read and none of them makes.
    """
    names = Names(model.graph)
    inside = {output for node in nodes for output in node.outputs}
    adopted: dict[ir.Value, ir.Value] = {}
    for node in with_subgraphs(nodes):
        for index, value in enumerate(node.inputs):
            if value is None or value.graph is not donor.graph or value in inside:
                continue
            if value.is_initializer() and not value.is_graph_input():
                if value not in adopted:
                    adopted[value] = _adopt(model.graph, value, names)
                node.replace_input_with(index, adopted[value])
            else:
                node.replace_input_with(index, shared[str(value.name)])
        for output in node.outputs:
            output.name = names.fresh(f"compiled.{output.name}")
        node.name = None
    donor.graph.outputs.clear()
    donor.graph.remove(nodes)
    model.graph.extend(nodes)
    for key, function in list(donor.functions.items()):
        model.functions.setdefault(key, function)
    for domain, version in donor.graph.opset_imports.items():
        model.graph.opset_imports.setdefault(domain, version)
    model.ir_version = max(model.ir_version, donor.ir_version)


def with_subgraphs(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield nodes, behind each those inside it at any depth."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from with_subgraphs(graph)


def _adopt(graph: ir.Graph, value: ir.Value, names: Names) -> ir.Value:
    """Return an equal initializer of the same name, or one that is added."""
    tensor = value.const_value
    assert tensor is not None
    own = graph.initializers.get(str(value.name))
    other = constant(own)
    if own is not None and other is not None and other.dtype == tensor.dtype:
        array, wanted = other.numpy(), tensor.numpy()
        if array.shape == wanted.shape and np.array_equal(_bits(array), _bits(wanted)):
            return own
    return add_initializer(graph, names.fresh(f"compiled.{value.name}"), tensor)


def _bits(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return the bytes of an array: NaN equals itself, and minus zero is not zero."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
