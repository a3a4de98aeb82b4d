"""What a `FrameMatMul` or `FrameDequant` node is: attributes, overload, inputs (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from fqonnx.packing import LAYOUT_VERSION

DOMAIN = "fqonnx"
OPSET_VERSION = 1

OpType = Literal["FrameMatMul", "FrameDequant"]


@dataclass(frozen=True)
class FrameOpSpec:
    """Everything that decides the function body of a node.

    Nodes with equal specs share one function, an overload of the operator's name.

    Attributes:
        op_type: The operator.
        dim_in: Rows of the weight.
        dim_out: Columns of the weight.
        num_vectors: Frame vectors on the reduction axis.
        bits: 1 to 4.
        block_size: Codes a block.
        frame_in: Frame on the reduction axis.
        dtype: Type of X and Y, or of W.
        has_bias: Whether the input ``bias`` is there (`FrameMatMul` only).
        has_zero_points: Whether the input ``zero_points`` is there.
        contrib: Whether the body may use ``com.microsoft`` operators.
    """

    op_type: OpType
    dim_in: int
    dim_out: int
    num_vectors: int
    bits: int
    block_size: int
    frame_in: Literal["hadamard", "identity"] = "hadamard"
    dtype: ir.DataType = ir.DataType.FLOAT
    has_bias: bool = False
    has_zero_points: bool = False
    contrib: bool = True

    @property
    def overload(self) -> str:
        """A name that equal specs share and different ones do not."""
        parts = [
            f"{self.frame_in}{self.num_vectors}",
            f"{self.dim_in}x{self.dim_out}",
            f"b{self.bits}",
            f"block{self.block_size}",
            self.dtype.name.lower(),
        ]
        parts += ["zp"] * self.has_zero_points + ["bias"] * self.has_bias
        parts += ["onnx"] * (not self.contrib)
        return "_".join(parts)

    def attributes(self) -> dict[str, int | str]:
        """Return the attributes of the node: what a kernel needs, the body being dead to it."""
        attributes: dict[str, int | str] = {
            "dim_in": self.dim_in,
            "dim_out": self.dim_out,
            "num_vectors": self.num_vectors,
            "bits": self.bits,
            "block_size": self.block_size,
            "frame_in": self.frame_in,
            "codebook": "scalar",
            "layout": LAYOUT_VERSION,
        }
        if self.op_type == "FrameDequant":
            attributes["dtype"] = int(self.dtype)
        return attributes

    def input_names(self) -> tuple[str, ...]:
        """Return the formal inputs, optional ones included: absent ones are empty in a node."""
        packed = ("codes", "scales", "zero_points", "signs_in", "signs_out")
        return ("X", *packed, "bias") if self.op_type == "FrameMatMul" else packed
