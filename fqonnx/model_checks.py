"""What a model file must be before a pass looks at it: each refusal names the tensor or the node.

ONNX Runtime refuses most of the same later on, but not every command asks it, and passes trust that
a node has the inputs and attributes of its operator.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from fqonnx.errors import ModelError

_AGAIN = "Export it again"
_COPY = "Copy the external data file again"
_COMPLEX = {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}
_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single


def check_names(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse text that is none, and initializers and inputs that share a name or have none.

    Sparse initializers are refused here too: what reads the message next drops them.

    Raises:
        ModelError: There is such a one; of two, nobody could say which is meant.
    """
    for field, value in _texts(proto):
        if isinstance(value, bytes):  # protobuf's answer to what is not UTF-8
            raise ModelError(str(path), f"the {field} {value[:80]!r} is no UTF-8 text", _AGAIN)
    for graph in _graphs(proto.graph):
        if count := len(graph.sparse_initializer):
            found = f"graph {graph.name!r} has {count} sparse initializers"
            raise ModelError(str(path), found, "Export it with dense weights")
        for what, named in (("initializer", graph.initializer), ("input", graph.input)):
            for name, count in Counter(item.name for item in named).items():
                if name == "":
                    raise ModelError(
                        str(path), f"an {what} of graph {graph.name!r} has no name", _AGAIN
                    )
                if count > 1:
                    found = f"{count} {what}s of graph {graph.name!r} are called {name!r}"
                    raise ModelError(str(path), found, _AGAIN)


def check_model(path: Path, model: ir.Model) -> None:
    """Refuse what passes cannot take, and put nodes into topological order.

    Raises:
        ModelError: A value is not defined or has no type, nodes or functions are in a cycle, a node
            does not fit its operator, or a tensor does not fit its data.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.type is None:
            found = f"input or output {value.name!r} has no type"
            raise ModelError(str(path), found, "Give it one with onnx.shape_inference.infer_shapes")
    for graph, opset in _scopes(model):
        for value in graph.outputs:
            _check_defined(path, value, "it is an output of the graph")
        for node in graph:
            where = f"{node.op_type} node {node.name!r} reads it"
            for source in node.inputs:
                if source is not None:
                    _check_defined(path, source, where)
            if node.domain == "" and opset is not None:
                _check_node(path, node, opset)
        for name, tensor in tensors(graph):
            _check_tensor(path, name, tensor)
    _check_calls(path, model)
    try:
        for root in (model.graph, *(function.graph for function in model.functions.values())):
            root.sort()
    except ValueError as error:
        raise ModelError(str(path), "its nodes are in a cycle", _AGAIN) from error


def tensors(graph: ir.Graph) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Yield name and tensor of each initializer and of each attribute that is one."""
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield str(value.name), value.const_value
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                yield f"{node.name}.{attribute.name}", attribute.value


def _texts(message: Message) -> Iterator[tuple[str, str | bytes]]:
    """Yield all fields of text with their values, but for those of tensors, which may be large."""
    if isinstance(message, onnx.TensorProto):
        yield "name", message.name
        return
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for item in [value] if isinstance(value, str | bytes | Message) else value:
            if isinstance(item, Message):
                yield from _texts(item)
            else:
                yield field.name, item


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _graphs(inner)


def _scopes(model: ir.Model) -> Iterator[tuple[ir.Graph, int | None]]:
    """Yield each graph of the model and of its functions, with its opset."""
    for graph in model.graphs():
        yield graph, model.graph.opset_imports.get("")
    for function in model.functions.values():
        for graph in (function.graph, *function.graph.subgraphs()):
            yield graph, function.opset_imports.get("")


def _check_defined(path: Path, value: ir.Value, where: str) -> None:
    if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
        raise ModelError(str(path), f"nothing makes the value {value.name!r}; {where}", _AGAIN)


def _check_calls(path: Path, model: ir.Model) -> None:
    """Refuse functions that call themselves."""
    calls = {
        key: {node.op_identifier() for node in function.all_nodes()} & model.functions.keys()
        for key, function in model.functions.items()
    }
    try:
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as error:
        names = " → ".join(f"{domain}::{name}" for domain, name, _ in error.args[1])
        raise ModelError(str(path), f"its functions call themselves: {names}", _AGAIN) from error


def _check_node(path: Path, node: ir.Node, opset: int) -> None:
    try:
        known = min(max(opset, 1), onnx.defs.onnx_opset_version())
        schema = onnx.defs.get_schema(node.op_type, known, "")
    except onnx.defs.SchemaError:
        return  # ONNX Runtime has operators of its own in this domain
    required = [i for i, parameter in enumerate(schema.inputs) if parameter.option == _SINGLE]
    attributes = schema.attributes
    fault = None
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        fault = f"{len(node.inputs)} inputs"
    elif any(node.inputs[i] is None for i in required):
        fault = "an input that may not be left out"
    elif not schema.min_output <= len(node.outputs) <= schema.max_output:
        fault = f"{len(node.outputs)} outputs"
    elif missing := [n for n, a in attributes.items() if a.required and n not in node.attributes]:
        fault = f"no attribute {missing[0]!r}"
    elif node.op_type == "Constant" and len(node.attributes) != 1:
        fault = f"{len(node.attributes)} attributes"
    else:
        for name, attribute in node.attributes.items():
            type_ = getattr(onnx.defs.OpSchema.AttrType, attribute.type.name, None)
            if name not in attributes and not name.startswith("__"):  # the standard's own exception
                fault = f"an attribute {name!r}"
            elif name in attributes and attributes[name].type != type_:
                fault = f"an attribute {name!r} of type {attribute.type.name}"
    if fault is not None:
        raise ModelError(
            str(path),
            f"{node.op_type} node {node.name!r} has {fault}, which the operator does not take",
            _AGAIN,
        )


def _check_tensor(path: Path, name: str, tensor: ir.TensorProtocol) -> None:
    """Refuse a tensor whose shape and type are not those of its data."""
    try:
        described = f"shape {tensor.shape} and type {tensor.dtype.name}"
    except ValueError as error:
        raise ModelError(str(path), f"tensor {name!r}: {error}", _AGAIN) from error
    if tensor.dtype == ir.DataType.UNDEFINED or any(size < 0 for size in tensor.shape.numpy()):
        raise ModelError(str(path), f"tensor {name!r} has {described}", _AGAIN)
    if isinstance(tensor, ir.ExternalTensor):
        _check_external(path, name, tensor)
    elif isinstance(tensor, ir.TensorProtoTensor):
        proto = tensor.raw
        found, expected, unit = len(proto.raw_data), tensor.nbytes, "bytes"
        if not proto.HasField("raw_data"):
            field = onnx.helper.tensor_dtype_to_field(proto.data_type)
            found, unit = len(getattr(proto, field)), "numbers"
            if tensor.dtype.bitwidth >= 8:  # else a number holds a byte of several entries
                expected = tensor.size * (2 if tensor.dtype in _COMPLEX else 1)
        if found != expected:
            asked = f"{described} ask for {expected}"
            raise ModelError(str(path), f"tensor {name!r} has {found} {unit}, {asked}", _AGAIN)


def _check_external(path: Path, name: str, tensor: ir.ExternalTensor) -> None:
    if tensor.dtype == ir.DataType.STRING:
        found = f"tensor {name!r} is of strings, which an external data file cannot hold"
        raise ModelError(str(path), found, _AGAIN)
    data, offset, length = Path(tensor.path), tensor.offset or 0, tensor.length
    if not data.resolve().is_relative_to(path.parent.resolve()):
        raise ModelError(
            str(path),
            f"tensor {name!r} has its data outside the model's folder, in {tensor.location}",
            "Copy both into one folder, following links (cp -L), or save the model again",
        )
    if not data.is_file():
        raise ModelError(
            str(path),
            f"tensor {name!r} has its data in {tensor.location}, which is not there",
            "Put the external data file beside the model",
        )
    if offset < 0:
        raise ModelError(str(path), f"tensor {name!r} begins at byte {offset}", _AGAIN)
    if length is not None and length != tensor.nbytes:
        asked = f"shape {tensor.shape} and type {tensor.dtype.name} ask for {tensor.nbytes}"
        raise ModelError(str(path), f"tensor {name!r} has {length} bytes, {asked}", _AGAIN)
    end = offset + tensor.nbytes
    if data.stat().st_size < end:
        raise ModelError(
            str(path),
            f"tensor {name!r} ends at byte {end} of {tensor.location}, "
            f"which has {data.stat().st_size}",
            _COPY,
        )
