"""Nodes that multiply by packed coefficients, or unpack them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fqonnx.runtime_ops.recorder import Recorder
from fqonnx.runtime_ops.spec import FrameOpSpec

# MatMulNBits is fast at this block size for 2 and 4 bits (2-bit blocks of 16 and 256 are not).
NBITS_BLOCK = 128


def packed_matmul(
    tape: Recorder, x: ir.Value, values: dict[str, ir.Value], spec: FrameOpSpec
) -> ir.Value:
    """Record x·Ĉ by MatMulNBits on integer codes, plus what their offset adds.

    MatMulNBits subtracts 2^(bits−1) from a code. The mid-rise alphabet and zero points subtract
    something else, which adds the difference times the scale times Σx, group by group.
    """
    bits = 2 if spec.bits <= 2 else 4
    scales = tape.op("Cast", values["scales"], to=int(spec.dtype))
    rows, columns = spec.frame_out.num_vectors, spec.frame_in.num_vectors
    y = matmul_nbits(tape, x, _nbits_codes(tape, values["codes"], spec, bits), scales, spec, bits)
    if spec.has_zero_points:
        zero = tape.op("Cast", values["zero_points"], to=int(spec.dtype))
        offset = tape.op("Sub", tape.scalar(1 << (spec.bits - 1), tape.dtype), zero)
    else:
        offset = tape.scalar(0.5, tape.dtype)
    offset = tape.op("Mul", scales, offset)
    if spec.groups == 1:
        total = tape.op("ReduceSum", x, tape.ints(-1), keepdims=1)
        return tape.op("Add", y, tape.op("Mul", total, tape.op("Reshape", offset, tape.ints(-1))))
    added = tape.op("MatMul", _group_sums(tape, x, spec), tape.op("Transpose", offset))
    return tape.op("Add", y, tape.with_batch_of(added, tape.op("Shape", x), columns, rows))


def matmul_nbits(
    tape: Recorder, x: ir.Value, codes: ir.Value, scales: ir.Value, spec: FrameOpSpec, bits: int
) -> ir.Value:
    """Record MatMulNBits.

    Args:
        tape: Where to.
        x: In the frame.
        codes: In its blocks (num_vectors_out, blocks, NBITS_BLOCK·bits/8).
        scales: In the type of x (num_vectors_out, spec.groups).
        spec: The operator.
        bits: 2, 4 or 8 of a code.
    """
    rows, columns = spec.frame_out.num_vectors, spec.frame_in.num_vectors
    if spec.groups == 1:
        scales = tape.op("Expand", scales, tape.ints(rows, -(-columns // NBITS_BLOCK)))
    y = tape.tape.op(
        "MatMulNBits",
        [x, codes, scales],
        {
            "K": columns,
            "N": rows,
            "bits": bits,
            "block_size": NBITS_BLOCK,
            "accuracy_level": 4,
        },
        domain="com.microsoft",
    )
    y.dtype = spec.dtype  # ONNX has no type inference for it, so consumers read its type here
    return y


def _group_sums(tape: Recorder, x: ir.Value, spec: FrameOpSpec) -> ir.Value:
    """Record Σx over each group (rows, groups)."""
    columns, group_size = spec.frame_in.num_vectors, spec.group_size or 0
    x = tape.op("Reshape", x, tape.ints(-1, columns))
    x = tape.op("Pad", x, tape.ints(0, 0, 0, spec.groups * group_size - columns))
    x = tape.op("Reshape", x, tape.ints(-1, spec.groups, group_size))
    return tape.op("ReduceSum", x, tape.ints(2), keepdims=0)


def _nbits_codes(tape: Recorder, codes: ir.Value, spec: FrameOpSpec, bits: int) -> ir.Value:
    """Codes in the blocks of MatMulNBits; 1 and 3 bits widen, centred, to 2 and 4."""
    rows, columns = spec.frame_out.num_vectors, spec.frame_in.num_vectors
    length = columns + -columns % spec.block_size
    padded = columns + -columns % NBITS_BLOCK
    blocks = tape.ints(rows, padded // NBITS_BLOCK, NBITS_BLOCK * bits // 8)
    if spec.bits == bits:
        if length == padded and spec.block_size == NBITS_BLOCK:
            return codes
        flat = tape.op("Reshape", codes, tape.ints(rows, length * bits // 8))
        padding = tape.ints(0, 0, 0, (padded - length) * bits // 8)
        zero = tape.scalar(0, np.uint8)
        return tape.op("Reshape", tape.op("Pad", flat, padding, zero), blocks)
    centred = tape.op(
        "Add", _unpacked(tape, codes, spec), tape.scalar(1 << (spec.bits - 1), np.int32)
    )
    centred = tape.op("Pad", centred, tape.ints(0, 0, 0, padded - length), tape.scalar(0, np.int32))
    per_byte = 8 // bits
    grouped = tape.op("Reshape", centred, tape.ints(rows, -1, per_byte))
    weights = tape.const(np.array([1 << bits * i for i in range(per_byte)], np.int32))
    summed = tape.op("ReduceSum", tape.op("Mul", grouped, weights), tape.ints(2), keepdims=0)
    return tape.op("Reshape", tape.op("Cast", summed, to=int(ir.DataType.UINT8)), blocks)


def dequantized(tape: Recorder, values: dict[str, ir.Value], spec: FrameOpSpec) -> ir.Value:
    """Record Ĉᵀ (num_vectors_out, num_vectors_in): levels times scales.

    The mid-rise levels are the odd numbers 2·code − (2^bits − 1) of half the scale. FrameMatMul
    leaves int8 behind a DequantizeLinear, which ORT does not fold at load: a quarter of the bytes.
    FrameDequant is for consumers that want the weight as a constant, and so folds.
    """
    columns, group_size = spec.frame_in.num_vectors, spec.group_size or spec.frame_in.num_vectors
    codes = _unpacked(tape, values["codes"], spec)
    codes = tape.op("Slice", codes, tape.ints(0), tape.ints(columns), tape.ints(1))
    if spec.groups > 1:  # one row a group
        padding = tape.ints(0, 0, 0, spec.groups * group_size - columns)
        codes = tape.op("Pad", codes, padding, tape.scalar(0, np.int32))
        codes = tape.op("Reshape", codes, tape.ints(-1, group_size))
    scales = tape.op("Cast", values["scales"], to=int(ir.DataType.FLOAT))
    scales = tape.op("Reshape", scales, tape.ints(-1))
    if spec.has_zero_points:
        zero = tape.op("Cast", values["zero_points"], to=int(ir.DataType.INT32))
        levels = tape.op("Sub", codes, tape.op("Reshape", zero, tape.ints(-1, 1)))
    else:
        top = tape.scalar((1 << spec.bits) - 1, np.int32)
        levels = tape.op("Sub", tape.op("Add", codes, codes), top)
        scales = tape.op("Mul", scales, tape.scalar(0.5, np.float32))
    if spec.op_type == "FrameMatMul":
        levels = tape.op("Cast", levels, to=int(ir.DataType.INT8))
        coeffs = tape.op("DequantizeLinear", levels, scales, axis=0)
    else:
        levels = tape.op("Cast", levels, to=int(ir.DataType.FLOAT))
        coeffs = tape.op("Mul", levels, tape.op("Reshape", scales, tape.ints(-1, 1)))
    if spec.groups > 1:
        coeffs = tape.op("Reshape", coeffs, tape.ints(-1, spec.groups * group_size))
        coeffs = tape.op("Slice", coeffs, tape.ints(0), tape.ints(columns), tape.ints(1))
    if spec.dtype != ir.DataType.FLOAT:
        coeffs = tape.op("Cast", coeffs, to=int(spec.dtype))
    return coeffs


def _unpacked(tape: Recorder, codes: ir.Value, spec: FrameOpSpec) -> ir.Value:
    """Record codes (num_vectors_out, blocks·block_size), int32."""
    if spec.bits != 3:
        flat = tape.unpack(codes, spec.bits)
    else:
        split = tape.ints(spec.block_size // 4)
        low = tape.unpack(tape.op("Slice", codes, tape.ints(0), split, tape.ints(2)), 2)
        end = tape.ints(spec.block_size)
        high = tape.unpack(tape.op("Slice", codes, split, end, tape.ints(2)), 1)
        flat = tape.op("Add", low, tape.op("Mul", high, tape.scalar(4, np.int32)))
    return tape.op("Reshape", flat, tape.ints(spec.frame_out.num_vectors, -1))
