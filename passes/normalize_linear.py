"""Gemm with a constant weight becomes MatMul, and Add where it had a C.

transA and transB become a Transpose, alpha and beta a Mul of B and of C. What they make of a
constant is one too (see `constants.constant`): no bytes are read or written here. MatMul+Add is
what `SelectWeightsPass` takes as one layer. com.microsoft's FusedMatMul becomes MatMul likewise.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fqonnx.passes.constants import (
    Names,
    constant,
    record_constant,
    record_ints,
    replace_nodes,
)
from fqonnx.passes.linear_layer import is_worthwhile

ORIGINAL_OP_TYPE = "fqonnx.original_op_type"  # in Node.meta: what the report calls the node


class NormalizeLinearPass(ir.passes.InPlacePass):
    """Rewrite each Gemm and FusedMatMul, in subgraphs too, whose B is a weight worth quantizing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite; ``modified`` tells whether any node went."""
        found = [node for node in model.graph.all_nodes() if _is_rewritable(node)]
        names = Names(model.graph) if found else None
        for node in found:
            assert names is not None
            _rewrite(node, names)
        return ir.passes.PassResult(model, modified=bool(found))


def _is_rewritable(node: ir.Node) -> bool:
    if (node.domain, node.op_type) == ("com.microsoft", "FusedMatMul"):
        a, attributes = node.inputs[0], node.attributes
        if attributes.get_int("transBatchA", 0) or attributes.get_int("transBatchB", 0):
            return False
        if attributes.get_int("transA", 0) and (a is None or a.shape is None):
            return False
    elif (node.domain, node.op_type) != ("", "Gemm"):
        return False
    tensor = constant(node.inputs[1])
    return tensor is not None and len(tensor.shape) == 2 and is_worthwhile(tensor)


def _rewrite(node: ir.Node, names: Names) -> None:
    attributes, output, graph = node.attributes, node.outputs[0], node.graph
    a, b, c = (*node.inputs, None)[:3]
    assert isinstance(graph, ir.Graph)
    assert a is not None
    assert b is not None
    tensor = constant(b)
    assert tensor is not None
    b.dtype, b.shape = tensor.dtype, ir.Shape(tensor.shape.numpy())
    tape = Tape()
    if attributes.get_int("transA", 0):
        a = _transposed(tape, a)
    if attributes.get_int("transB", 0):
        b = _transposed(tape, b)
    b = _scaled(tape, b, attributes.get_float("alpha", 1.0))
    product = result = tape.op(
        "MatMul",
        [a, b],
        name=node.name or output.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    product.type, product.shape = output.type, output.shape
    tape.nodes[-1].meta[ORIGINAL_OP_TYPE] = node.op_type
    beta = attributes.get_float("beta", 1.0)
    if c is not None and beta != 0.0:
        c.type = c.type or b.type
        result = tape.op("Add", [product, _scaled(tape, _row(tape, c, b), beta)])
        result.type, result.shape = output.type, output.shape
    for new in tape.nodes:
        new.outputs[0].name = names.fresh(f"{output.name}_{new.op_type.lower()}")
    replace_nodes(graph, node, [node], list(tape.nodes), [output], [result])


def _transposed(tape: Tape, value: ir.Value) -> ir.Value:
    """Record a value with its last two axes in each other's place."""
    assert value.shape is None or len(value.shape) >= 2
    axes = list(range(2 if value.shape is None else len(value.shape)))
    axes[-2:] = axes[-1], axes[-2]
    result = tape.op("Transpose", [value], {"perm": axes})
    result.type = value.type
    if value.shape is not None:
        result.shape = ir.Shape([value.shape[axis] for axis in axes])
    return result


def _scaled(tape: Tape, value: ir.Value, factor: float) -> ir.Value:
    """Record factor·value."""
    if factor == 1.0:
        return value
    assert value.dtype is not None
    scalar = record_constant(tape, np.asarray(factor, value.dtype.numpy()))
    result = tape.op("Mul", [value, scalar])
    result.type, result.shape = value.type, value.shape
    return result


def _row(tape: Tape, c: ir.Value, b: ir.Value) -> ir.Value:
    """Record a constant C (1, N) as (N,), which is what a layer's bias is; leave any other."""
    tensor = constant(c)
    if tensor is None or b.shape is None or tuple(tensor.shape.numpy()) != (1, b.shape[1]):
        return c
    result = tape.op("Reshape", [c, record_ints(tape, -1)])
    result.type, result.shape = c.type, ir.Shape([b.shape[1]])
    return result
