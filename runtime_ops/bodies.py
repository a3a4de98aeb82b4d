"""Function bodies of the operators in stock ONNX (and, where allowed, ``com.microsoft``) nodes.

A body holds its dimensions as constants; nodes of equal spec share it. What depends on packed
bytes alone stays small when a runtime folds it at load: the fast body hands packed codes to
MatMulNBits, the standard one leaves int8 behind a DequantizeLinear, which ORT does not fold.
All operators used exist since opset 13 with unchanged meaning, so a body takes the opset of the
model that it goes into.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike
from onnx_ir.tape import Tape

from fqonnx.frames.hadamard import kronecker_orders, orthonormal_factor
from fqonnx.runtime_ops.spec import DOMAIN, FrameOpSpec

# MatMulNBits is fast at this block size for 2 and 4 bits (2-bit blocks of 16 and 256 are not).
_NBITS_BLOCK = 128


def build_function(spec: FrameOpSpec, opset_version: int) -> ir.Function:
    """Return the function of a spec, for a model of the given ai.onnx opset (13 or later)."""
    body = _Body(spec, opset_version)
    inputs = [ir.Value(name=name) for name in spec.input_names()]
    values = dict(zip(spec.input_names(), inputs, strict=True))
    output = body.matmul(values) if spec.op_type == "FrameMatMul" else body.dequant(values)
    opsets = {"": opset_version}
    if spec.contrib and spec.op_type == "FrameMatMul":
        opsets["com.microsoft"] = 1
    for i, node in enumerate(body.tape.nodes):  # inlined names must not meet those of a model
        node.name = node.outputs[0].name = f"fqonnx_{spec.op_type}_{i}"
    graph = ir.Graph(
        inputs, [output], nodes=body.tape.nodes, opset_imports=opsets, name=spec.op_type
    )
    attributes = [
        ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64(name, value)
        for name, value in spec.attributes().items()
    ]
    return ir.Function(
        DOMAIN, spec.op_type, overload=spec.overload, graph=graph, attributes=attributes
    )


class _Body:
    """Records the nodes of one body."""

    def __init__(self, spec: FrameOpSpec, opset_version: int) -> None:
        self.spec = spec
        self.opset_version = opset_version
        self.tape = Tape()

    def matmul(self, values: dict[str, ir.Value]) -> ir.Value:
        spec = self.spec
        coeffs = self.analysis(values["X"], values["signs_in"])
        y = self.nbits(coeffs, values) if spec.contrib else self.plain_matmul(coeffs, values)
        return self.op("Add", y, values["bias"]) if spec.has_bias else y

    def dequant(self, values: dict[str, ir.Value]) -> ir.Value:
        return self.op("Transpose", self.synthesis(self.coeffs(values), values["signs_in"]))

    # The frame, on the last axis.

    def analysis(self, x: ir.Value, signs_in: ir.Value) -> ir.Value:
        spec = self.spec
        if spec.frame_in == "identity":
            return x
        shape = self.op("Shape", x)
        x = self.op("Mul", x, self.signs(signs_in))
        if spec.num_vectors > spec.dim_in:
            x = self.op("Reshape", x, self.ints(-1, spec.dim_in))
            x = self.op("Pad", x, self.ints(0, 0, 0, spec.num_vectors - spec.dim_in))
            batch = self.op("Slice", shape, self.ints(0), self.ints(-1))
            shape = self.op("Concat", batch, self.ints(spec.num_vectors), axis=0)
        # Without allowzero (opset 13) a 0 among the batch dimensions would mean "as in the input".
        allow = {"allowzero": 1} if self.opset_version >= 14 else {}
        return self.op("Reshape", self.factors(x, transpose=False), shape, **allow)

    def synthesis(self, coeffs: ir.Value, signs_in: ir.Value) -> ir.Value:
        spec = self.spec
        if spec.frame_in == "identity":
            return coeffs
        x = self.factors(coeffs, transpose=True)
        x = self.op("Reshape", x, self.ints(-1, spec.num_vectors))
        if spec.num_vectors > spec.dim_in:
            x = self.op("Slice", x, self.ints(0), self.ints(spec.dim_in), self.ints(1))
        return self.op("Mul", x, self.signs(signs_in))

    def factors(self, x: ir.Value, *, transpose: bool) -> ir.Value:
        """Apply the Kronecker factors; the result has the elements in order, in another shape.

        ONNX Runtime refuses to broadcast a matrix against an empty batch, which this does with
        two factors or more. The forms that it takes (Einsum, Transposes) are slower at one row.
        """
        orders = kronecker_orders(self.spec.num_vectors)
        inner = self.spec.num_vectors
        for order in orders[:-1]:
            inner //= order
            x = self.op("Reshape", x, self.ints(-1, order, inner))
            x = self.op("MatMul", self.factor(order, transpose), x)
        return self.op("MatMul", x, self.factor(orders[-1], not transpose))

    def factor(self, order: int, transpose: bool) -> ir.Value:
        factor = orthonormal_factor(order).numpy().astype(self.dtype)
        return self.const(factor.T if transpose else factor)

    def signs(self, packed: ir.Value) -> ir.Value:
        bits = self.op("Slice", self.unpack(packed, 1), self.ints(0), self.ints(self.spec.dim_in))
        signs = self.op("Sub", self.scalar(1, np.int32), self.op("Add", bits, bits))
        return self.op("Cast", signs, to=int(self.spec.dtype))

    # The coefficients.

    def nbits(self, x: ir.Value, values: dict[str, ir.Value]) -> ir.Value:
        """x·Ĉ by MatMulNBits on integer codes, plus what the half step adds: ½·scale·Σx."""
        spec = self.spec
        bits = 2 if spec.bits <= 2 else 4
        blocks = -(-spec.num_vectors // _NBITS_BLOCK)
        scales = self.op("Cast", values["scales"], to=int(spec.dtype))
        column = self.op("Reshape", scales, self.ints(-1, 1))
        y = self.tape.op(
            "MatMulNBits",
            [
                x,
                self.nbits_codes(values["codes"], bits),
                self.op("Expand", column, self.ints(spec.dim_out, blocks)),
            ],
            {
                "K": spec.num_vectors,
                "N": spec.dim_out,
                "bits": bits,
                "block_size": _NBITS_BLOCK,
                "accuracy_level": 4,
            },
            domain="com.microsoft",
        )
        # ONNX has no type inference for it, so consumers read its type here.
        y.dtype = spec.dtype
        # MatMulNBits subtracts 2^(bits−1) from the codes that nbits_codes() gives it.
        if spec.has_zero_points:
            zero = self.op("Cast", values["zero_points"], to=int(spec.dtype))
            offset = self.op("Sub", self.scalar(1 << (spec.bits - 1), self.dtype), zero)
        else:
            offset = self.scalar(0.5, self.dtype)
        total = self.op("ReduceSum", x, self.ints(-1), keepdims=1)
        return self.op("Add", y, self.op("Mul", total, self.op("Mul", scales, offset)))

    def nbits_codes(self, codes: ir.Value, bits: int) -> ir.Value:
        """Codes in the blocks of MatMulNBits; 1 and 3 bits widen, centred, to 2 and 4."""
        spec = self.spec
        row = spec.num_vectors + -spec.num_vectors % spec.block_size
        padded = spec.num_vectors + -spec.num_vectors % _NBITS_BLOCK
        blocks = self.ints(spec.dim_out, padded // _NBITS_BLOCK, _NBITS_BLOCK * bits // 8)
        if spec.bits == bits:
            if row == padded and spec.block_size == _NBITS_BLOCK:
                return codes
            flat = self.op("Reshape", codes, self.ints(spec.dim_out, row * bits // 8))
            padding = self.ints(0, 0, 0, (padded - row) * bits // 8)
            zero = self.scalar(0, np.uint8)
            return self.op("Reshape", self.op("Pad", flat, padding, zero), blocks)
        centred = self.op(
            "Add", self.unpack_codes(codes), self.scalar(1 << (spec.bits - 1), np.int32)
        )
        centred = self.op(
            "Pad", centred, self.ints(0, 0, 0, padded - row), self.scalar(0, np.int32)
        )
        per_byte = 8 // bits
        grouped = self.op("Reshape", centred, self.ints(spec.dim_out, -1, per_byte))
        weights = self.const(np.array([1 << bits * i for i in range(per_byte)], np.int32))
        summed = self.op("ReduceSum", self.op("Mul", grouped, weights), self.ints(2), keepdims=0)
        return self.op("Reshape", self.op("Cast", summed, to=int(ir.DataType.UINT8)), blocks)

    def plain_matmul(self, x: ir.Value, values: dict[str, ir.Value]) -> ir.Value:
        return self.op("MatMul", x, self.op("Transpose", self.coeffs(values)))

    def coeffs(self, values: dict[str, ir.Value]) -> ir.Value:
        """Ĉᵀ (dim_out, num_vectors): int8 levels times a per-channel scale.

        The mid-rise levels are the odd numbers 2·code − (2^bits − 1) of half the scale.
        """
        spec = self.spec
        codes = self.op(
            "Slice",
            self.unpack_codes(values["codes"]),
            self.ints(0),
            self.ints(spec.num_vectors),
            self.ints(1),
        )
        scales = self.op("Cast", values["scales"], to=int(ir.DataType.FLOAT))
        if spec.has_zero_points:
            zero = self.op("Cast", values["zero_points"], to=int(ir.DataType.INT32))
            levels = self.op("Sub", codes, self.op("Reshape", zero, self.ints(-1, 1)))
        else:
            top = self.scalar((1 << spec.bits) - 1, np.int32)
            levels = self.op("Sub", self.op("Add", codes, codes), top)
            scales = self.op("Mul", scales, self.scalar(0.5, np.float32))
        levels = self.op("Cast", levels, to=int(ir.DataType.INT8))
        coeffs = self.op("DequantizeLinear", levels, scales, axis=0)
        if spec.dtype != ir.DataType.FLOAT:
            coeffs = self.op("Cast", coeffs, to=int(spec.dtype))
        return coeffs

    def unpack_codes(self, codes: ir.Value) -> ir.Value:
        """Codes (dim_out, blocks·block_size), int32."""
        spec = self.spec
        if spec.bits != 3:
            flat = self.unpack(codes, spec.bits)
        else:
            split = self.ints(spec.block_size // 4)
            low = self.unpack(self.op("Slice", codes, self.ints(0), split, self.ints(2)), 2)
            end = self.ints(spec.block_size)
            high = self.unpack(self.op("Slice", codes, split, end, self.ints(2)), 1)
            flat = self.op("Add", low, self.op("Mul", high, self.scalar(4, np.int32)))
        return self.op("Reshape", flat, self.ints(spec.dim_out, -1))

    def unpack(self, packed: ir.Value, bits: int) -> ir.Value:
        """All fields of ``bits`` bits, lowest first, as one int32 vector."""
        column = self.op(
            "Reshape", self.op("Cast", packed, to=int(ir.DataType.INT32)), self.ints(-1, 1)
        )
        divisors = self.const(np.array([1 << i for i in range(0, 8, bits)], np.int32))
        fields = self.op("Mod", self.op("Div", column, divisors), self.scalar(1 << bits, np.int32))
        return self.op("Reshape", fields, self.ints(-1))

    # Recording.

    @property
    def dtype(self) -> np.dtype:
        return self.spec.dtype.numpy()

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return self.tape.op(op_type, inputs, attributes)

    def const(self, array: ArrayLike) -> ir.Value:
        return self.tape.op("Constant", [], {"value": ir.tensor(np.asarray(array))})

    def scalar(self, value: float, dtype: np.dtype | type) -> ir.Value:
        return self.const(np.asarray(value, dtype))

    def ints(self, *values: int) -> ir.Value:
        return self.const(np.asarray(values, np.int64))
