"""Gemm with a constant weight becomes MatMul, and Add where it had a C.

transA becomes a Transpose of the activation; transB and alpha go into the weight, beta into C.
Everything constant stays lazy. MatMul+Add is what `SelectWeightsPass` takes as one layer, and what
ONNX Runtime turns back into a Gemm where it stays float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from fqonnx.passes.constants import add_initializer, constant, derive_initializer, remove_if_unused

ORIGINAL_OP_TYPE = "fqonnx.original_op_type"  # in Node.meta: what the report calls the node


class NormalizeLinearPass(ir.passes.InPlacePass):
    """Rewrite each Gemm whose B is a constant that Gemm and MatMul nodes alone read."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite; ``modified`` tells whether any Gemm went."""
        modified = False
        transformed: dict[tuple[str, bool, float], ir.Value] = {}
        for node in list(model.graph):
            if node.op_type == "Gemm" and node.domain == "" and _is_rewritable(node):
                _rewrite(model.graph, node, transformed)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_rewritable(node: ir.Node) -> bool:
    weight = node.inputs[1]
    tensor = constant(weight)
    if weight is None or tensor is None or len(tensor.shape) != 2:
        return False
    return all(use.node.op_type in ("Gemm", "MatMul") for use in weight.uses())


def _rewrite(
    graph: ir.Graph, node: ir.Node, transformed: dict[tuple[str, bool, float], ir.Value]
) -> None:
    attributes = node.attributes
    trans_a, trans_b = attributes.get_int("transA", 0), attributes.get_int("transB", 0)
    alpha, beta = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    a, b = node.inputs[0], node.inputs[1]
    c = node.inputs[2] if len(node.inputs) > 2 else None
    output = node.outputs[0]
    assert a is not None
    assert b is not None

    tape = Tape()
    if trans_a:
        a = tape.op("Transpose", [a], {"perm": [1, 0]})
    weight = _weight(graph, b, bool(trans_b), alpha, transformed)
    product = tape.op(
        "MatMul",
        [a, weight],
        name=node.name or output.name,
        metadata_props=dict(node.metadata_props),
    )
    product.type, product.shape = output.type, output.shape
    tape.nodes[-1].meta[ORIGINAL_OP_TYPE] = "Gemm"
    result = product
    if c is not None and beta != 0.0:
        result = tape.op("Add", [product, _scaled(graph, tape, c, beta)])
        result.type, result.shape = output.type, output.shape

    old_inputs = [value for value in (b, c) if value is not None]
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], list(tape.nodes), [output], [result]
    )
    for value in old_inputs:
        remove_if_unused(graph, value)


def _weight(
    graph: ir.Graph,
    b: ir.Value,
    transpose: bool,
    alpha: float,
    transformed: dict[tuple[str, bool, float], ir.Value],
) -> ir.Value:
    """Return alpha·B or alpha·Bᵀ, one initializer for all Gemms that ask for the same."""
    if not transpose and alpha == 1.0:
        return b
    key = (str(b.name), transpose, alpha)
    if key not in transformed:
        tensor = b.const_value
        assert tensor is not None
        rows, columns = tensor.shape.numpy()

        def compute(array: NDArray[np.generic]) -> NDArray[np.generic]:
            array = array.T if transpose else array
            return array if alpha == 1.0 else (array * np.asarray(alpha, array.dtype))

        transformed[key] = derive_initializer(
            graph,
            b,
            f"{b.name}_t" if transpose else f"{b.name}_scaled",
            (columns, rows) if transpose else (rows, columns),
            tensor.dtype,
            compute,
        )
    return transformed[key]


def _scaled(graph: ir.Graph, tape: Tape, c: ir.Value, beta: float) -> ir.Value:
    if beta == 1.0:
        return c
    tensor = constant(c)
    if tensor is not None:
        return derive_initializer(
            graph,
            c,
            f"{c.name}_scaled",
            tensor.shape.numpy(),
            tensor.dtype,
            lambda array: array * np.asarray(beta, array.dtype),
        )
    if c.dtype is None:  # beta·C needs a constant of C's type, which is that of the weight
        raise ValueError(f"the type of {c.name!r} is unknown; run shape inference first")
    factor = add_initializer(
        graph, "beta", ir.tensor(np.asarray(beta, c.dtype.numpy()), name="beta")
    )
    return tape.op("Mul", [c, factor])
