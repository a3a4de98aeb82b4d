"""What a `FrameMatMul` or `FrameDequant` node is: attributes, overload, inputs (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import onnx_ir as ir

from fqonnx.config import Codebook, FrameKind
from fqonnx.frames import FrameSpec
from fqonnx.packing import GROUP_SIZE, LAYOUT_VERSION, TILE

DOMAIN = "fqonnx"
OPSET_VERSION = 1

OpType = Literal["FrameMatMul", "FrameDequant"]

_PACKED = ("codes", "scales", "zero_points", "signs_in", "signs_out")
_INPUTS: dict[OpType, tuple[str, ...]] = {
    "FrameMatMul": ("X", *_PACKED, "bias"),
    "FrameDequant": _PACKED,
}


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
        splits: Columns of each output of a `FrameMatMul` that holds several weights of one input;
            empty for one output of dim_out.
        codebook: ``scalar``, or ``trellis`` for codes in tiles, which have no zero points.
        multiplier: Of a trellis code, 1 to 65535; 0 of a scalar one.
        contrib: Whether the body may use ``com.microsoft`` operators, which round activations to
            int8, and a kernel may round as they do.

    Raises:
        ValueError: ``group_size`` is not one of layout 1, ``splits`` do not cut dim_out, or
            something else does not go with the codebook.
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
    splits: tuple[int, ...] = ()
    codebook: Codebook = "scalar"
    multiplier: int = 0
    contrib: bool = True

    def __post_init__(self) -> None:
        if self.group_size not in (None, GROUP_SIZE):
            raise ValueError(f"group_size is None or {GROUP_SIZE}, not {self.group_size}")
        if self.splits and (
            sum(self.splits) != self.frame_out.dim or self.frame_out.kind != "identity"
        ):
            raise ValueError(f"splits {self.splits} of {self.frame_out.dim} outputs")
        is_trellis = self.codebook == "trellis"
        if is_trellis != (0 < self.multiplier < 1 << 16) or (
            is_trellis and (self.block_size != TILE or self.groups != 1 or self.has_zero_points)
        ):
            raise ValueError(f"no {self.codebook} code: {self}")

    @classmethod
    def of_node(cls, node: ir.Node) -> FrameOpSpec:
        """Return the spec of a node as `fqonnx compile` writes them.

        Raises:
            ValueError: The node is of no such operator, or its attributes are of no spec.
        """
        try:
            return cls._of_node(node)
        except TypeError as error:  # an attribute is of another type
            raise ValueError(f"{node.name!r}: {error}") from error

    @classmethod
    def _of_node(cls, node: ir.Node) -> FrameOpSpec:
        attributes, dtype = node.attributes, node.outputs[0].dtype
        if node.domain != DOMAIN or node.op_type not in _INPUTS or dtype is None:
            raise ValueError(f"{node.name!r} is no node of the domain {DOMAIN}, or has no type")
        if attributes.get_int("layout", 0) != LAYOUT_VERSION or "frame_out" not in attributes:
            raise ValueError(f"{node.name!r} is not of layout {LAYOUT_VERSION}")
        op_type: OpType = node.op_type
        given = dict(zip(_INPUTS[op_type], node.inputs, strict=False))
        return cls(
            op_type=op_type,
            frame_in=_frame_of(node, "in"),
            frame_out=_frame_of(node, "out"),
            bits=attributes.get_int("bits", 0),
            block_size=attributes.get_int("block_size", 0),
            group_size=attributes.get_int("group_size", 0) or None,
            dtype=dtype,
            has_bias=given.get("bias") is not None,
            has_zero_points=given.get("zero_points") is not None,
            splits=tuple(attributes.get_ints("splits", ())),
            codebook=cast(Codebook, attributes.get_string("codebook", "scalar")),
            multiplier=attributes.get_int("multiplier", 0),
            contrib=attributes.get_string("accuracy", "fast") == "fast",
        )

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
        parts += [f"trellis{self.multiplier}"] * (self.codebook == "trellis")
        parts += ["zp"] * self.has_zero_points + ["bias"] * self.has_bias
        parts += ["split" + "x".join(map(str, self.splits))] * bool(self.splits)
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
            "codebook": self.codebook,
            "layout": LAYOUT_VERSION,
        }
        if self.codebook == "trellis":
            attributes["multiplier"] = self.multiplier
        if self.frame_in.subspaces is not None:
            attributes["subspaces_in"] = self.frame_in.subspaces
        if self.frame_out.subspaces is not None:
            attributes["subspaces_out"] = self.frame_out.subspaces
        if self.op_type == "FrameDequant":
            attributes["dtype"] = int(self.dtype)
        else:
            attributes["accuracy"] = "fast" if self.contrib else "exact"
        if self.splits:
            attributes["splits"] = self.splits
        return attributes

    def input_names(self) -> tuple[str, ...]:
        """Return the formal inputs, optional ones included: absent ones are empty in a node."""
        return (*_INPUTS[self.op_type], *(["levels"] if self.codebook == "trellis" else []))


def _frame_of(node: ir.Node, side: str) -> FrameSpec:
    attributes = node.attributes
    subspaces = attributes.get_ints(f"subspaces_{side}")
    return FrameSpec(
        cast(FrameKind, attributes.get_string(f"frame_{side}", "")),
        attributes.get_int(f"dim_{side}", 0),
        attributes.get_int(f"num_vectors_{side}", 0),
        None if subspaces is None else cast(tuple[int, int, int], tuple(subspaces)),
    )


def _frame_name(frame: FrameSpec) -> str:
    sizes = frame.subspaces or (frame.num_vectors,)
    return frame.kind + "x".join(str(size) for size in sizes)
