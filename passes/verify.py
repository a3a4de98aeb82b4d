"""Check that a rewritten model is what it claims to be, before it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import onnx_ir as ir

from fqonnx.config import Codebook, FrameKind
from fqonnx.errors import ModelError
from fqonnx.frames.harmonic import least_harmonic_size
from fqonnx.packing import LAYOUT_VERSION, LEVELS, TILE, TILE_COLUMNS, TILE_ROWS
from fqonnx.runtime_ops import DOMAIN

_DIMS = ("dim_in", "dim_out", "num_vectors_in", "num_vectors_out", "bits", "block_size")

Signature = tuple[tuple[str, str, str], ...]


class VerifyPass(ir.passes.InPlacePass):
    """Check graph signature, function bodies and packed shapes. Changes nothing.

    Args:
        signature: What `graph_signature` gave before the rewriting.

    Raises:
        ModelError: A check failed: a defect of fqonnx, not of the user's file.
    """

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.signature = signature

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Check."""
        if graph_signature(model) != self.signature:
            raise _defect("graph", "inputs or outputs are not those of the float model")
        for name, fault in frame_faults(model):
            raise _defect(name, fault)
        return ir.passes.PassResult(model, modified=False)


def graph_signature(model: ir.Model) -> Signature:
    """Return name, type and shape of every graph input and output."""
    values: Sequence[ir.Value] = [*model.graph.inputs, *model.graph.outputs]
    return tuple((str(v.name), str(v.type), str(v.shape)) for v in values)


def frame_faults(model: ir.Model) -> Iterator[tuple[str, str]]:
    """Yield each FrameMatMul or FrameDequant that is not what it says, and what is wrong.

    A node of a layout that this version does not know is not looked at.
    """
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN:
            try:
                if node.attributes.get_int("layout", 0) == LAYOUT_VERSION:
                    _check_node(model, node)
            except (ValueError, TypeError) as error:  # onnx-ir's, of an attribute's type
                yield str(node.name), str(error)


def _check_node(model: ir.Model, node: ir.Node) -> None:
    function = model.functions.get(node.op_identifier())
    if function is None:
        raise ValueError(f"no function body for overload {node.overload!r}")
    named = dict(zip((v.name for v in function.inputs), node.inputs, strict=False))
    dims = [node.attributes.get_int(name, 0) for name in _DIMS]
    if not all(dims):
        raise ValueError(f"one of the attributes {', '.join(_DIMS)} is missing")
    dim_in, dim_out, vectors_in, vectors_out, bits, block_size = dims
    group_size = node.attributes.get_int("group_size", 0) or vectors_in
    groups = -(-vectors_in // group_size)
    expected: dict[str, tuple[int, ...]] = {
        "codes": (vectors_out, -(-vectors_in // block_size), block_size * bits // 8),
        "scales": (vectors_out, groups),
    }
    codebook = node.attributes.get_string("codebook", "scalar")
    if codebook not in get_args(Codebook):
        raise ValueError(f"codebook {codebook!r}, expected one of {', '.join(get_args(Codebook))}")
    if codebook == "trellis":
        strips, tiles = -(-vectors_out // TILE_ROWS), -(-vectors_in // TILE_COLUMNS)
        expected["codes"], expected["levels"] = (strips, tiles, TILE * bits // 8), (LEVELS,)
        if block_size != TILE or not node.attributes.get_int("multiplier", 0):
            raise ValueError(f"block_size {block_size} of a trellis, or no multiplier")
    if named.get("zero_points") is not None:
        expected["zero_points"] = (vectors_out, groups)
    for side, dim, vectors in (("in", dim_in, vectors_in), ("out", dim_out, vectors_out)):
        kind = node.attributes.get_string(f"frame_{side}", "")
        if kind not in get_args(FrameKind):
            raise ValueError(f"frame_{side} {kind!r}, expected {', '.join(get_args(FrameKind))}")
        if kind in ("hadamard", "fusion"):
            expected[f"signs_{side}"] = (-(-dim // 8),)
        elif kind == "identity" and dim != vectors:
            raise ValueError(f"frame_{side} is the identity of {dim} and {vectors}")
        elif kind == "harmonic" and vectors < least_harmonic_size(dim):
            raise ValueError(f"frame_{side} has {vectors} vectors in R^{dim}")
        subspaces = node.attributes.get_ints(f"subspaces_{side}", ())
        if kind == "fusion" and (len(subspaces) != 3 or subspaces[0] * subspaces[1] != vectors):
            raise ValueError(f"subspaces_{side} {subspaces} are not of {vectors}")
    splits = node.attributes.get_ints("splits", ()) or (dim_out,)
    if sum(splits) != dim_out or len(splits) != len(node.outputs):
        raise ValueError(f"splits {splits} of {dim_out}, {len(node.outputs)} outputs")
    for name, shape in expected.items():
        value = named.get(name)
        tensor = value.const_value if value is not None else None
        found = None if tensor is None else tuple(tensor.shape.numpy())
        if found != shape:
            raise ValueError(f"{name} has shape {found}, expected {shape}")


def _defect(where: str, found: str) -> ModelError:
    return ModelError(where, found, "This is a defect of fqonnx: please report it with the model")
