"""What a float model goes through before its layers are looked for."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from fqonnx.passes.constants import Names
from fqonnx.passes.infer_types import infer_types
from fqonnx.passes.linear_layer import LINEAR
from fqonnx.passes.normalize_linear import NormalizeLinearPass
from fqonnx.runtime_ops import DOMAIN


def normalize(model: ir.Model) -> None:
    """Inline functions with layers, infer types, write Gemm as MatMul and Add, in place."""
    InlinePass(criteria=lambda function: _is_inlined(model, function))(model)
    infer_types(model)
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


def _tell_apart(graph: ir.Graph) -> None:
    """Rename values of subgraphs that are called as others are: both branches of an If may."""
    names = Names(graph, inner=False)
    for subgraph in graph.subgraphs():
        made = [output for node in subgraph for output in node.outputs]
        for value in [*subgraph.inputs, *subgraph.initializers.values(), *made]:
            if value.name:
                value.name = names.fresh(value.name)
