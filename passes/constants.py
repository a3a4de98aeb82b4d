"""Constant values of a graph: finding them, and deriving new ones without reading the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer that no caller can replace, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


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
        name: Wanted name; made unique.
        shape: Shape of the result.
        dtype: Type of the result.
        transform: A function of the source's array.
    """
    tensor = source.const_value
    if tensor is None:
        raise ValueError(f"{source.name!r} is not constant")
    unique = unique_name(graph, name)
    lazy = ir.LazyTensor(
        lambda: ir.tensor(
            np.ascontiguousarray(transform(tensor.numpy())), dtype=dtype, name=unique
        ),
        dtype=dtype,
        shape=ir.Shape(shape),
        name=unique,
    )
    return add_initializer(graph, unique, lazy)


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Add a constant under a name that is not taken; return its value."""
    value = ir.Value(
        name=unique_name(graph, name),
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def unique_name(graph: ir.Graph, name: str) -> str:
    """Return ``name``, or with a number behind it where an initializer has that name already."""
    candidate, number = name, 1
    while candidate in graph.initializers:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def remove_if_unused(graph: ir.Graph, value: ir.Value) -> None:
    """Drop an initializer that nothing reads any more."""
    if (
        value.is_initializer()
        and not value.uses()
        and not value.is_graph_output()
        and not value.is_graph_input()
    ):
        graph.initializers.pop(str(value.name))
