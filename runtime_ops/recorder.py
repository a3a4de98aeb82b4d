"""Recording of the nodes of a function body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike
from onnx_ir.tape import Tape


class Recorder:
    """Records nodes.

    Args:
        dtype: Type of the activations, hence of float constants.
        opset_version: Version of ai.onnx, 13 or later.
    """

    def __init__(self, dtype: ir.DataType, opset_version: int) -> None:
        self.onnx_dtype = dtype
        self.dtype = dtype.numpy()
        self.opset_version = opset_version
        self.tape = Tape()

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int | str) -> ir.Value:
        """Record a node of one output."""
        return self.tape.op(op_type, inputs, attributes)

    def const(self, array: ArrayLike) -> ir.Value:
        """Record a constant of the array's own type."""
        return self.tape.op("Constant", [], {"value": ir.tensor(np.asarray(array))})

    def scalar(self, value: float, dtype: np.dtype | type) -> ir.Value:
        """Record a constant of rank 0."""
        return self.const(np.asarray(value, dtype))

    def ints(self, *values: int) -> ir.Value:
        """Record a vector of int64, as shapes and axes are."""
        return self.const(np.asarray(values, np.int64))

    def matrix(self, array: ArrayLike) -> ir.Value:
        """Record a constant in the type of the activations."""
        return self.const(np.asarray(array).astype(self.dtype))

    def cast(self, x: ir.Value) -> ir.Value:
        """Record a value in the type of the activations."""
        return self.op("Cast", x, to=int(self.onnx_dtype))

    def permute(self, x: ir.Value, *axes: int) -> ir.Value:
        """Record a Transpose."""
        return self.tape.op("Transpose", [x], {"perm": list(axes)})

    def split(self, x: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Record a cut of the last axis."""
        return self.tape.op_multi_out(
            "Split", [x, self.ints(*sizes)], {"axis": -1}, num_outputs=len(sizes)
        )

    def unpack(self, packed: ir.Value, bits: int) -> ir.Value:
        """Return all fields of ``bits`` bits, lowest first, as one int32 vector."""
        column = self.op(
            "Reshape", self.op("Cast", packed, to=int(ir.DataType.INT32)), self.ints(-1, 1)
        )
        divisors = self.const(np.array([1 << i for i in range(0, 8, bits)], np.int32))
        fields = self.op("Mod", self.op("Div", column, divisors), self.scalar(1 << bits, np.int32))
        return self.op("Reshape", fields, self.ints(-1))

    def with_batch_of(self, x: ir.Value, shape: ir.Value, old_size: int, size: int) -> ir.Value:
        """Record a Reshape to ``shape``, whose last entry ``old_size`` becomes ``size``."""
        if size != old_size:
            batch = self.op("Slice", shape, self.ints(0), self.ints(-1))
            shape = self.op("Concat", batch, self.ints(size), axis=0)
        # Without allowzero (opset 13) a 0 among the batch dimensions would mean "as in the input".
        allow = {"allowzero": 1} if self.opset_version >= 14 else {}
        return self.op("Reshape", x, shape, **allow)
