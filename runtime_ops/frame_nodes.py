"""Nodes that apply a frame to the last axis of a value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.frames import FrameSpec, fusion_blocks, hadamard_columns
from fqonnx.frames.hadamard import kronecker_orders, orthonormal_factor
from fqonnx.runtime_ops.harmonic_nodes import harmonic_analysis, harmonic_synthesis
from fqonnx.runtime_ops.recorder import Recorder


def analysis(tape: Recorder, x: ir.Value, frame: FrameSpec, signs: ir.Value) -> ir.Value:
    """Record x·Tᵀ, (..., dim) → (..., num_vectors)."""
    if frame.kind == "identity":
        return x
    shape = tape.op("Shape", x)
    if frame.kind == "harmonic":
        x = tape.op("Reshape", x, tape.ints(-1, frame.dim))
        x = harmonic_analysis(tape, x, frame)
        return tape.with_batch_of(x, shape, frame.dim, frame.num_vectors)
    size = _padded_size(frame)
    x = _signed_and_padded(tape, x, frame, signs, size)
    x = _kronecker(tape, x, size, _order(frame), transpose=False)
    if frame.subspaces is not None:
        x = _to_subspaces(tape, x, frame.subspaces)
    return tape.with_batch_of(x, shape, frame.dim, frame.num_vectors)


def synthesis(tape: Recorder, coeffs: ir.Value, frame: FrameSpec, signs: ir.Value) -> ir.Value:
    """Record coeffs·T, (..., num_vectors) → (..., dim)."""
    if frame.kind == "identity":
        return coeffs
    shape = tape.op("Shape", coeffs)
    if frame.kind == "harmonic":
        x = harmonic_synthesis(tape, coeffs, frame)
        return tape.with_batch_of(x, shape, frame.num_vectors, frame.dim)
    x, size = coeffs, _padded_size(frame)
    if frame.subspaces is not None:
        x = _from_subspaces(tape, x, frame.subspaces)
    x = _kronecker(tape, x, size, _order(frame), transpose=True)
    x = tape.op("Reshape", x, tape.ints(-1, size))
    if size > frame.dim:
        x = tape.op("Gather", x, tape.const(_columns(frame)), axis=1)
    x = tape.op("Mul", x, _signs(tape, signs, frame.dim))
    return tape.with_batch_of(x, shape, frame.num_vectors, frame.dim)


def _padded_size(frame: FrameSpec) -> int:
    return frame.num_vectors if frame.subspaces is None else frame.subspaces[2]


def _order(frame: FrameSpec) -> int:
    """Return what the Kronecker transform takes: the whole axis, or runs for a fusion frame."""
    size = _padded_size(frame)
    return size if frame.subspaces is None else size & -size


def _signed_and_padded(
    tape: Recorder, x: ir.Value, frame: FrameSpec, packed: ir.Value, size: int
) -> ir.Value:
    """Record x times its signs, with zeros where the transform has more than dim columns."""
    signs = _signs(tape, packed, frame.dim)
    if size > frame.dim:  # one Gather, and signs that are zero where it reads anything
        source = np.full(size, frame.dim, np.int32)
        source[_columns(frame)] = np.arange(frame.dim)
        signs = tape.op("Pad", signs, tape.ints(0, 1))
        signs = tape.op("Gather", signs, tape.const(source), axis=0)
        x = tape.op("Gather", x, tape.const(np.where(source < frame.dim, source, 0)), axis=-1)
    return tape.op("Mul", x, signs)


def _columns(frame: FrameSpec) -> NDArray[np.int32]:
    """Return which columns of the transform the coordinates are at."""
    if frame.subspaces is not None:
        return np.arange(frame.dim, dtype=np.int32)
    return hadamard_columns(frame.num_vectors, frame.dim).numpy().astype(np.int32)


def _signs(tape: Recorder, packed: ir.Value, dim: int) -> ir.Value:
    bits = tape.op("Slice", tape.unpack(packed, 1), tape.ints(0), tape.ints(dim))
    signs = tape.op("Sub", tape.scalar(1, np.int32), tape.op("Add", bits, bits))
    return tape.op("Cast", signs, to=int(tape.onnx_dtype))


def _kronecker(tape: Recorder, x: ir.Value, size: int, order: int, *, transpose: bool) -> ir.Value:
    """Record the Kronecker factors on runs of ``order`` of an axis of ``size``.

    The result has the elements in order, in another shape. ONNX Runtime refuses to broadcast a
    matrix against an empty batch, which this does with two factors or more. The forms that it
    takes (Einsum, Transposes) are slower at one row.
    """
    orders = kronecker_orders(order)
    if len(orders) == 1 and order != size:
        x = tape.op("Reshape", x, tape.ints(-1, order))
    inner = order
    for part in orders[:-1]:
        inner //= part
        x = tape.op("Reshape", x, tape.ints(-1, part, inner))
        x = tape.op("MatMul", _factor(tape, part, transpose=transpose), x)
    return tape.op("MatMul", x, _factor(tape, orders[-1], transpose=not transpose))


def _factor(tape: Recorder, order: int, *, transpose: bool) -> ir.Value:
    factor = orthonormal_factor(order).numpy()
    return tape.matrix(factor.T if transpose else factor)


def _to_subspaces(tape: Recorder, x: ir.Value, subspaces: tuple[int, int, int]) -> ir.Value:
    index, blocks = _blocks(subspaces)
    if len(blocks) == 1:  # equal blocks, side by side
        x = tape.op("Reshape", x, tape.ints(-1, index.shape[1]))
        return tape.op("MatMul", x, tape.matrix(blocks[0]))
    x = tape.op("Reshape", x, tape.ints(-1, subspaces[2]))
    x = tape.op("Gather", x, tape.ints(*index.flatten()), axis=1)
    return _block_matmul(tape, x, blocks)


def _from_subspaces(tape: Recorder, coeffs: ir.Value, subspaces: tuple[int, int, int]) -> ir.Value:
    index, blocks = _blocks(subspaces)
    transposed = blocks.transpose(0, 2, 1)
    if len(blocks) == 1:
        coeffs = tape.op("Reshape", coeffs, tape.ints(-1, transposed.shape[1]))
        x = tape.op("MatMul", coeffs, tape.matrix(transposed[0]))
        return tape.op("Reshape", x, tape.ints(-1, subspaces[2]))
    parts = _block_matmul(tape, coeffs, transposed)
    parts = tape.op("Reshape", parts, tape.ints(-1, index.size))
    parts = tape.op("Pad", parts, tape.ints(0, 0, 0, 1))  # what a coordinate reads that has no part
    first, second = (
        tape.op("Gather", parts, tape.ints(*places), axis=1)
        for places in _places(index, blocks, subspaces[2])
    )
    return tape.op("Add", first, second)


def _block_matmul(tape: Recorder, x: ir.Value, blocks: NDArray[np.float64]) -> ir.Value:
    """Record the product of block r with run r of the last axis: (rows, blocks, width).

    MatMul would batch over the blocks, and ONNX Runtime's crashes there on an empty batch.
    """
    count, width, _ = blocks.shape
    x = tape.op("Reshape", x, tape.ints(-1, count, width))
    return tape.op("Einsum", x, tape.matrix(blocks), equation="rbw,bwv->rbv")


def _blocks(subspaces: tuple[int, int, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    num_subspaces, subspace_dim, dim = subspaces
    index, blocks = fusion_blocks(num_subspaces, subspace_dim // 2, dim // 2)
    return index.numpy(), blocks.numpy()


def _places(
    index: NDArray[np.int64], blocks: NDArray[np.float64], dim: int
) -> tuple[list[int], list[int]]:
    """Return the two places among the blocks' rows that sum to each coordinate.

    Neighbouring blocks overlap, so a coordinate is in one or in two; a second place past the last
    row means that there is none.
    """
    places: list[list[int]] = [[] for _ in range(dim)]
    used = blocks.any(axis=2).flatten()
    for place, coordinate in enumerate(index.flatten()):
        if used[place]:
            places[coordinate].append(place)
    return [p[0] for p in places], [p[1] if len(p) == 2 else index.size for p in places]
