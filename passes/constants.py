"""Values of a graph: constants, whatever makes them, new names, and values in place of others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.tape import Tape

from fqonnx.errors import ModelError

# What a constant may go through before a layer reads it. A Mul is the alpha or beta of a Gemm.
_COMPUTED = {"Cast", "DequantizeLinear", "Flatten", "Identity", "Mul"}
_COMPUTED |= {"Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_MOST_DIMS = 8


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a value that no caller can replace, else None.

    That is an initializer, a Constant, or what a few operators make of them alone: such a tensor is
    lazy, and computed by `onnx.reference` each time that it is read.
    """
    if value is None or value.is_graph_input():
        return None
    node = value.producer()
    if node is None:
        return value.const_value if value.is_initializer() else None
    if node.domain != "":
        return None
    if node.op_type == "Constant":
        return _attribute(node)
    shape = value.shape
    if node.op_type not in _COMPUTED or value.dtype is None:
        return None
    if shape is None or not shape.is_static():
        return None
    sources = [source for source in node.inputs if source is not None]
    if sum(_is_computed(source) for source in sources) > 1:
        return None  # a tree: each way to each of its constants would be gone
    given = {
        str(source.name): tensor for source in sources if (tensor := constant(source)) is not None
    }
    if any(str(source.name) not in given for source in sources):
        return None
    proto, dtype = ir.to_proto(node), value.dtype  # the node may be gone when it is computed
    declared = tuple(shape.numpy())

    def computed() -> ir.TensorProtocol:
        tensor = _computed(proto, given, dtype)
        if (found := tuple(tensor.shape.numpy())) != declared:
            where = f"value {proto.output[0]!r}"
            raise ModelError(where, f"declared as {declared}, it is {found}", "Export it again")
        return tensor

    return ir.LazyTensor(computed, dtype, shape, name=value.name)


def _is_computed(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type != "Constant"


def made_from(value: ir.Value) -> Iterator[ir.Value]:
    """Yield a constant value and what it is made from, back to an initializer or a Constant."""
    yield value
    while (node := value.producer()) is not None and node.inputs:
        source = node.inputs[0]
        assert source is not None
        yield source
        value = source


def steps(value: ir.Value) -> list[str]:
    """Return the operators that a constant value went through, the last first."""
    return [node.op_type for step in made_from(value) if (node := step.producer()) is not None]


def readers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that read a constant, or what other nodes make of it alone."""
    for node in value.consumers():
        if constant(node.outputs[0]) is None:
            yield node
        else:
            yield from readers(node.outputs[0])


def recipe(value: ir.Value) -> Hashable:
    """Return what is equal for constant values that are made from the same one in the same way."""
    node, tensor = value.producer(), constant(value)
    if tensor is not None and tensor.size <= _MOST_DIMS:  # a shape, axes, or a factor
        return tensor.dtype, tuple(tensor.shape.numpy()), tensor.numpy().tobytes()
    if node is None or node.op_type == "Constant":
        return value
    attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
    return (node.op_type, attributes, *(v and recipe(v) for v in node.inputs))


def _attribute(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the tensor of a Constant; None for a sparse one or one of strings."""
    (attribute,) = node.attributes.values()
    if attribute.is_ref():
        return None
    dtype = {"value_float": np.float32, "value_floats": np.float32}.get(attribute.name, np.int64)
    if attribute.name == "value":
        return attribute.as_tensor()
    if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
        return ir.tensor(np.asarray(attribute.value, dtype), name=node.outputs[0].name)
    return None


def _computed(
    proto: onnx.NodeProto, given: Mapping[str, ir.TensorProtocol], dtype: ir.DataType
) -> ir.TensorProtocol:
    """Compute the output of a node whose inputs are constants."""
    # Of the operators here no version since opset 13 gives an older node another meaning.
    evaluator = ReferenceEvaluator(proto, opsets={"": onnx.defs.onnx_opset_version()})
    (name, source), *others = given.items()
    more = {name: detached(tensor) for name, tensor in others}

    def transform(array: NDArray[np.generic]) -> NDArray[np.generic]:
        (result,) = evaluator.run(None, {name: array, **more})
        return np.asarray(result)

    return ir.tensor(detached(source, transform), dtype=dtype)


def detached(
    tensor: ir.TensorProtocol,
    transform: Callable[[NDArray[np.generic]], NDArray[np.generic]] = lambda array: array,
) -> NDArray[np.generic]:
    """Return ``transform(tensor)`` in memory of its own; what of a file was mapped is not, then.

    Threads may call it on one tensor: each maps the file for itself.
    """
    if isinstance(tensor, ir.ExternalTensor):
        place = tensor.location, tensor.offset, tensor.length, tensor.dtype
        tensor = ir.ExternalTensor(
            *place, shape=tensor.shape, name=str(tensor.name), base_dir=tensor.base_dir
        )
    return np.require(transform(tensor.numpy()), requirements=["C", "W"])


class Names:
    """Names for new values that no value of a graph has, nor one of the graphs inside its nodes.

    Args:
        graph: The main graph.
        inner: Whether the names inside its nodes count.
    """

    def __init__(self, graph: ir.Graph, *, inner: bool = True) -> None:
        self._taken: set[str] = set()
        for part in (graph, *(graph.subgraphs() if inner else ())):
            self._taken.update(str(value.name) for value in part.inputs)
            self._taken.update(part.initializers)
            self._taken.update(str(value.name) for node in part for value in node.outputs)

    def fresh(self, name: str) -> str:
        """Return ``name``, with a number behind it where it is taken, and take it."""
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


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


def record_constant(tape: Tape, value: ArrayLike) -> ir.Value:
    """Record a Constant of the array's own type."""
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(value))})


def record_ints(tape: Tape, *values: int) -> ir.Value:
    """Record a Constant vector of int64, as shapes and axes are."""
    return record_constant(tape, np.asarray(values, np.int64))


def remove_if_unused(value: ir.Value) -> None:
    """Drop a constant that nothing reads any more, and what only it was made from."""
    node = value.producer()
    if constant(value) is None or value.uses() or value.is_graph_output():
        return
    if node is None:
        assert value.graph is not None
        value.graph.initializers.pop(str(value.name))
        return
    sources = [source for source in node.inputs if source is not None]
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    for source in dict.fromkeys(sources):
        remove_if_unused(source)


def replace_nodes(
    graph: ir.Graph,
    place: ir.Node,
    old_nodes: Sequence[ir.Node],
    new_nodes: Sequence[ir.Node],
    old_values: Sequence[ir.Value],
    new_values: Sequence[ir.Value],
) -> None:
    """Put nodes behind a place and in that of others; values keep all that a user gave them."""
    for old, new in zip(old_values, new_values, strict=True):
        new.doc_string = old.doc_string
        new.metadata_props.update(old.metadata_props)
        new.meta.update(old.meta)  # onnx-ir has quantization_annotation there
    ir.convenience.replace_nodes_and_values(
        graph, place, old_nodes, new_nodes, old_values, new_values
    )
