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

from fqonnx.passes.constants import (
    Names,
    add_initializer,
    constant,
    derive_initializer,
    remove_if_unused,
)

ORIGINAL_OP_TYPE = "fqonnx.original_op_type"  # in Node.meta: what the report calls the node


class NormalizeLinearPass(ir.passes.InPlacePass):
    """Rewrite each Gemm whose B is a constant that Gemm and MatMul nodes alone read."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite; ``modified`` tells whether any Gemm went."""
        gemms = [node for node in model.graph if node.op_type == "Gemm" and _is_rewritable(node)]
        if gemms:
            rewriter = _Rewriter(model.graph)
            for node in gemms:
                rewriter.rewrite(node)
        return ir.passes.PassResult(model, modified=bool(gemms))


def _is_rewritable(node: ir.Node) -> bool:
    weight = node.inputs[1]
    tensor = constant(weight)
    if node.domain != "" or weight is None or tensor is None or len(tensor.shape) != 2:
        return False
    return all(use.node.op_type in ("Gemm", "MatMul") for use in weight.uses())


class _Rewriter:
    """Rewrites the Gemms of one graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.names = Names(graph)
        self.weights: dict[tuple[str, bool, float], ir.Value] = {}

    def rewrite(self, node: ir.Node) -> None:
        attributes, output = node.attributes, node.outputs[0]
        alpha, beta = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
        a, b = node.inputs[0], node.inputs[1]
        c = node.inputs[2] if len(node.inputs) > 2 else None
        assert a is not None
        assert b is not None

        tape = Tape()
        if attributes.get_int("transA", 0):
            a = tape.op("Transpose", [a], {"perm": [1, 0]}, output=self.value(f"{a.name}_t"))
        weight = self.weight(b, bool(attributes.get_int("transB", 0)), alpha)
        product = tape.op(
            "MatMul",
            [a, weight],
            name=node.name or output.name,
            metadata_props=dict(node.metadata_props),
            output=self.value(f"{output.name}_product"),
        )
        product.type, product.shape = output.type, output.shape
        tape.nodes[-1].meta[ORIGINAL_OP_TYPE] = "Gemm"
        result = product
        if c is not None and beta != 0.0:
            scaled = self.scaled(tape, c, beta, weight)
            result = tape.op("Add", [product, scaled], output=self.value(f"{output.name}_sum"))
            result.type, result.shape = output.type, output.shape

        ir.convenience.replace_nodes_and_values(
            self.graph, node, [node], list(tape.nodes), [output], [result]
        )
        for value in (b, c):
            if value is not None:
                remove_if_unused(self.graph, value)

    def weight(self, b: ir.Value, transpose: bool, alpha: float) -> ir.Value:
        """Return alpha·B or alpha·Bᵀ, one initializer for all Gemms that ask for the same."""
        if not transpose and alpha == 1.0:
            return b
        key = (str(b.name), transpose, alpha)
        if key not in self.weights:
            tensor = b.const_value
            assert tensor is not None
            shape = tensor.shape.numpy()

            def compute(array: NDArray[np.generic]) -> NDArray[np.generic]:
                array = array.T if transpose else array
                return array if alpha == 1.0 else array * np.asarray(alpha, array.dtype)

            name = self.names.fresh(f"{b.name}_t" if transpose else f"{b.name}_scaled")
            self.weights[key] = derive_initializer(
                self.graph, b, name, shape[::-1] if transpose else shape, tensor.dtype, compute
            )
        return self.weights[key]

    def scaled(self, tape: Tape, c: ir.Value, beta: float, weight: ir.Value) -> ir.Value:
        """Return beta·C."""
        if beta == 1.0:
            return c
        name = self.names.fresh(f"{c.name}_scaled")
        tensor = constant(c)
        if tensor is not None:
            return derive_initializer(
                self.graph,
                c,
                name,
                tensor.shape.numpy(),
                tensor.dtype,
                lambda array: array * np.asarray(beta, array.dtype),
            )
        assert weight.const_value is not None  # of C's type
        factor = np.asarray(beta, weight.const_value.dtype.numpy())
        beta_name = self.names.fresh("beta")
        constant_beta = add_initializer(self.graph, beta_name, ir.tensor(factor, name=beta_name))
        return tape.op("Mul", [c, constant_beta], output=ir.Value(name=name))

    def value(self, name: str) -> ir.Value:
        return ir.Value(name=self.names.fresh(name))
