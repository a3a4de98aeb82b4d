"""Bring weights to the consumer: Constant, Identity, Cast and Transpose nodes become initializers.

Only what linear layers alone read is folded: a table that a Gather reads too stays where it is.
Folded weights are lazy; no bytes are read here.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fqonnx.passes.constants import add_initializer, constant, derive_initializer, remove_if_unused

_LINEAR = {"MatMul", "Gemm", "Conv", "Add"}
FOLDED = {"Constant", "Identity", "Cast", "Transpose"}


class FoldWeightsPass(ir.passes.InPlacePass):
    """Fold the constant nodes in front of MatMul, Gemm, Conv and their biases (main graph)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold; ``modified`` tells whether any node went."""
        modified = False
        for node in list(model.graph):
            if node.op_type in FOLDED and node.domain == "" and _feeds_linear(node.outputs[0]):
                modified |= _fold(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _feeds_linear(value: ir.Value) -> bool:
    """Whether linear nodes, maybe behind other foldable ones, are all that read the value."""
    if value.is_graph_output() or not value.uses():
        return False
    return all(
        use.node.domain == ""
        and (
            use.node.op_type in _LINEAR
            or (use.node.op_type in FOLDED and _feeds_linear(use.node.outputs[0]))
        )
        for use in value.uses()
    )


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    output = node.outputs[0]
    name = str(output.name)
    if node.op_type == "Constant":
        attribute = node.attributes.get("value")
        if attribute is None or attribute.is_ref():
            return False
        folded = add_initializer(graph, name, attribute.as_tensor())
        source = None
    else:
        source = node.inputs[0]
        tensor = constant(source)
        if source is None or tensor is None or any(use.node is not node for use in source.uses()):
            return False
        shape = list(tensor.shape.numpy())
        if node.op_type == "Identity":
            folded = derive_initializer(graph, source, name, shape, tensor.dtype, lambda a: a)
        elif node.op_type == "Cast":
            to_type = node.attributes["to"].as_int()
            if to_type not in set(ir.DataType):
                return False
            dtype = ir.DataType(to_type)
            if not (_is_float(dtype) and _is_float(tensor.dtype)):
                return False
            to = dtype.numpy()
            folded = derive_initializer(graph, source, name, shape, dtype, lambda a: a.astype(to))
        else:
            perm = node.attributes.get("perm")
            axes = list(perm.as_ints()) if perm else list(reversed(range(len(shape))))
            if sorted(axes) != list(range(len(shape))):
                return False
            folded = derive_initializer(
                graph,
                source,
                name,
                [shape[axis] for axis in axes],
                tensor.dtype,
                lambda a: np.transpose(a, axes),
            )
    output.replace_all_uses_with(folded)
    graph.remove(node, safe=True)
    if source is not None:
        remove_if_unused(graph, source)
    return True


def _is_float(dtype: ir.DataType) -> bool:
    return dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
