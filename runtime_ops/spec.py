"""What a `FrameMatMul` or `FrameDequant` node is: attributes, overload, inputs (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from fqonnx.frames import FrameSpec
from fqonnx.packing import GROUP_SIZE, LAYOUT_VERSION

DOMAIN = "fqonnx"
OPSET_VERSION = 1

OpType = Literal["FrameMatMul", "FrameDequant"]


@dataclass(frozen=True)
class FrameOpSpec:
    """Everything that decides the function body of a node.

    Nodes with equal specs share one function, an overload of the operator's name.

    Attributes:
        op_type: The operator.
        frame_in: Frame on the reduction axis, of R^dim_in.
        frame_out: Frame on the output axis, of R^dim_out.
        bits: 1 to 4.
        block_size: Codes a block.
        group_size: Codes a scale, 128; None where each row has one.
        dtype: Type of X and Y, or of W.
        has_bias: Whether the input ``bias`` is there (`FrameMatMul` only).
        has_zero_points: Whether the input ``zero_points`` is there.
        contrib: Whether the body may use ``com.microsoft`` operators, which round activations to
            int8, and a kernel may round as they do.

    Raises:
        ValueError: ``group_size`` is not one of layout 1.
    """

    op_type: OpType
    frame_in: FrameSpec
    frame_out: FrameSpec
    bits: int
    block_size: int
    group_size: int | None = None
    dtype: ir.DataType = ir.DataType.FLOAT
    has_bias: bool = False
    has_zero_points: bool = False
    contrib: bool = True

    def __post_init__(self) -> None:
        if self.group_size not in (None, GROUP_SIZE):
            raise ValueError(f"group_size is None or {GROUP_SIZE}, not {self.group_size}")

    @property
    def groups(self) -> int:
        """Scales a row of codes."""
        return 1 if self.group_size is None else -(-self.frame_in.num_vectors // self.group_size)

    @property
    def overload(self) -> str:
        """A name that equal specs share and different ones do not."""
        parts = [
            _frame_name(self.frame_in),
            *([] if self.frame_out.kind == "identity" else [_frame_name(self.frame_out)]),
            f"{self.frame_in.dim}x{self.frame_out.dim}",
            f"b{self.bits}",
            f"block{self.block_size}",
            self.dtype.name.lower(),
        ]
        parts += [f"group{self.group_size}"] * (self.group_size is not None)
        parts += ["zp"] * self.has_zero_points + ["bias"] * self.has_bias
        parts += ["onnx"] * (not self.contrib)
        return "_".join(parts)

    def attributes(self) -> dict[str, int | str | tuple[int, ...]]:
        """Return the attributes of the node: what a kernel needs, the body being dead to it."""
        attributes: dict[str, int | str | tuple[int, ...]] = {
            "dim_in": self.frame_in.dim,
            "dim_out": self.frame_out.dim,
            "frame_in": self.frame_in.kind,
            "frame_out": self.frame_out.kind,
            "num_vectors_in": self.frame_in.num_vectors,
            "num_vectors_out": self.frame_out.num_vectors,
            "bits": self.bits,
            "block_size": self.block_size,
            "group_size": self.group_size or 0,
            "codebook": "scalar",
            "layout": LAYOUT_VERSION,
        }
        if self.frame_in.subspaces is not None:
            attributes["subspaces_in"] = self.frame_in.subspaces
        if self.frame_out.subspaces is not None:
            attributes["subspaces_out"] = self.frame_out.subspaces
        if self.op_type == "FrameDequant":
            attributes["dtype"] = int(self.dtype)
        else:
            attributes["accuracy"] = "fast" if self.contrib else "exact"
        return attributes

    def input_names(self) -> tuple[str, ...]:
        """Return the formal inputs, optional ones included: absent ones are empty in a node."""
        packed = ("codes", "scales", "zero_points", "signs_in", "signs_out")
        return ("X", *packed, "bias") if self.op_type == "FrameMatMul" else packed


def _frame_name(frame: FrameSpec) -> str:
    sizes = frame.subspaces or (frame.num_vectors,)
    return frame.kind + "x".join(str(size) for size in sizes)
