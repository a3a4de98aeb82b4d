"""What a float model goes through before its layers are looked for."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from fqonnx.passes.constants import Names
from fqonnx.passes.linear_layer import LINEAR
from fqonnx.passes.normalize_linear import NormalizeLinearPass
from fqonnx.runtime_ops import DOMAIN

_SMALL_BYTES = 1024  # of initializers whose numbers may be shapes; a message ends at 2 GiB


def normalize(model: ir.Model) -> None:
    """Inline functions with layers, infer types, write Gemm as MatMul and Add, in place."""
    InlinePass(criteria=lambda function: _is_inlined(model, function))(model)
    _infer_types(model)
    _tell_apart(model.graph)
    NormalizeLinearPass()(model)


def _is_inlined(model: ir.Model, function: ir.Function) -> bool:
    """Whether a function, or one that it calls, has linear layers of the model's own opset."""
    if function.domain == DOMAIN:
        return False
    imports = model.graph.opset_imports
    if any(imports.get(domain, v) != v for domain, v in function.opset_imports.items()):
        return False
    for node in function.all_nodes():
        called = model.functions.get(node.op_identifier())
        if (node.domain, node.op_type) in LINEAR or (called and _is_inlined(model, called)):
            return True
    return False


def _infer_types(model: ir.Model) -> None:
    """Infer types of inner values; those that the graph declares for its outputs stay.

    ShapeInferencePass of onnx-ir makes a tensor of what is a sequence.
    """
    bare = model.clone()
    for name, value in list(bare.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _SMALL_BYTES:
            del bare.graph.initializers[name]
            if value not in bare.graph.inputs:
                bare.graph.inputs.append(value)
    try:
        inferred = onnx.shape_inference.infer_shapes(
            ir.to_proto(bare), check_type=True, strict_mode=True, data_prop=True
        )
    except (onnx.shape_inference.InferenceError, ir.serde.SerdeError, ValueError):
        return  # the types that the file has must do
    declared = set(model.graph.outputs)
    for graph, typed in zip(model.graphs(), ir.from_proto(inferred).graphs(), strict=True):
        values = ir.convenience.create_value_mapping(typed)
        for name, value in ir.convenience.create_value_mapping(graph).items():
            if value not in declared and name in values and values[name].type is not None:
                value.type, value.shape = values[name].type, values[name].shape


def _tell_apart(graph: ir.Graph) -> None:
    """Rename values of subgraphs that are called as others are: both branches of an If may."""
    names = Names(graph, inner=False)
    for subgraph in graph.subgraphs():
        made = [output for node in subgraph for output in node.outputs]
        for value in [*subgraph.inputs, *subgraph.initializers.values(), *made]:
            if value.name:
                value.name = names.fresh(value.name)
