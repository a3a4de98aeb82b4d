"""Constant values of a graph: finding them, and deriving new ones without reading the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx_ir.tape import Tape

DERIVED_FROM = "fqonnx.derived_from"  # in Value.meta: the initializer of the user's file


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer that no caller can replace, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def detached(
    tensor: ir.TensorProtocol,
    transform: Callable[[NDArray[np.generic]], NDArray[np.generic]] = lambda array: array,
) -> NDArray[np.generic]:
    """Return ``transform(tensor)`` in memory of its own; what of a file was mapped is not, then."""
    array = np.require(transform(tensor.numpy()), requirements=["C", "W"])
    if isinstance(tensor, ir.ExternalTensor):
        with suppress(BufferError):  # somebody else reads it
            tensor.release()
    return array


class Names:
    """Names for new values that no value of a graph has, nor one of the graphs inside its nodes.

    Args:
        graph: The main graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
        for node in ir.traversal.RecursiveGraphIterator(graph):
            self._taken.update(str(value.name) for value in node.outputs)
            for subgraph in _subgraphs(node):
                self._taken.update(str(value.name) for value in subgraph.inputs)
                self._taken.update(subgraph.initializers)

    def fresh(self, name: str) -> str:
        """Return ``name``, with a number behind it where it is taken, and take it."""
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            found.extend(attribute.as_graphs())
    return found


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Add a constant under a name that is free (see `Names`); return its value."""
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def derive_initializer(
    graph: ir.Graph,
    source: ir.Value,
    name: str,
    shape: Sequence[int],
    dtype: ir.DataType,
    transform: Callable[[NDArray[np.generic]], NDArray[np.generic]],
) -> ir.Value:
    """Add an initializer that computes ``transform(source)`` each time it is read.

    Args:
        graph: The graph that gets the initializer.
        source: A constant value (see `constant`).
        name: A free name.
        shape: Shape of the result.
        dtype: Type of the result.
        transform: A function of the source's array.
    """
    tensor = source.const_value
    if tensor is None:
        raise ValueError(f"{source.name!r} is not constant")
    lazy = ir.LazyTensor(
        lambda: ir.tensor(detached(tensor, transform), dtype=dtype, name=name),
        dtype=dtype,
        shape=ir.Shape(shape),
        name=name,
    )
    value = add_initializer(graph, name, lazy)
    value.meta[DERIVED_FROM] = source.meta.get(DERIVED_FROM, source.name)
    return value


def record_constant(tape: Tape, value: ArrayLike) -> ir.Value:
    """Record a Constant of the array's own type."""
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(value))})


def record_ints(tape: Tape, *values: int) -> ir.Value:
    """Record a Constant vector of int64, as shapes and axes are."""
    return record_constant(tape, np.asarray(values, np.int64))


def remove_if_unused(graph: ir.Graph, value: ir.Value) -> None:
    """Drop an initializer that nothing reads any more."""
    if (
        value.is_initializer()
        and not value.uses()
        and not value.is_graph_output()
        and not value.is_graph_input()
    ):
        graph.initializers.pop(str(value.name))
