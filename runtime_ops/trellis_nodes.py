"""Nodes that multiply by the coefficients of a trellis code, or decode them.

All of it folds at load, to 8 bits a coefficient: stock ONNX has nothing that decodes as it
multiplies. Sizes in between are kept small: the product and the table of a window's value are
computed once for all windows, not for each coefficient.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fqonnx.packing import TILE, TILE_COLUMNS, TILE_ROWS
from fqonnx.runtime_ops.code_nodes import NBITS_BLOCK, matmul_nbits
from fqonnx.runtime_ops.recorder import Recorder
from fqonnx.runtime_ops.spec import FrameOpSpec

_WORD = 16  # bits of a window, and of what the stream is stored in
_STATES = 1 << _WORD
_ZERO = 128  # what MatMulNBits subtracts from a code of 8 bits


def trellis_matmul(
    tape: Recorder, x: ir.Value, values: dict[str, ir.Value], spec: FrameOpSpec
) -> ir.Value:
    """Record x·Ĉ by MatMulNBits on the levels, which fit into its 8 bits."""
    rows, columns = spec.frame_out.num_vectors, spec.frame_in.num_vectors
    levels = tape.op("Cast", values["levels"], to=int(ir.DataType.INT32))
    levels = tape.op("Add", levels, tape.scalar(_ZERO, np.int32))
    levels = tape.op("Cast", levels, to=int(ir.DataType.UINT8))
    codes = _decoded(tape, values["codes"], levels, spec)
    codes = tape.op("Slice", codes, tape.ints(0), tape.ints(rows), tape.ints(0))
    padding = tape.ints(0, 0, 0, -(columns + -columns % TILE_COLUMNS) % NBITS_BLOCK)
    codes = tape.op("Pad", codes, padding, tape.scalar(0, np.uint8))
    codes = tape.op("Reshape", codes, tape.ints(rows, -1, NBITS_BLOCK))
    scales = tape.cast(_level_scales(tape, values["scales"]))
    return matmul_nbits(tape, x, codes, scales, spec, bits=8)


def trellis_coeffs(tape: Recorder, values: dict[str, ir.Value], spec: FrameOpSpec) -> ir.Value:
    """Record Ĉᵀ (num_vectors_out, num_vectors_in): levels times scales.

    As for scalar codes, FrameMatMul leaves int8 behind a DequantizeLinear, and FrameDequant folds.
    """
    rows, columns = spec.frame_out.num_vectors, spec.frame_in.num_vectors
    levels = _decoded(tape, values["codes"], values["levels"], spec)
    levels = tape.op("Slice", levels, tape.ints(0, 0), tape.ints(rows, columns), tape.ints(0, 1))
    scales = _level_scales(tape, values["scales"])
    if spec.op_type == "FrameMatMul":
        scales = tape.op("Reshape", scales, tape.ints(-1))
        coeffs = tape.op("DequantizeLinear", levels, scales, axis=0)
    else:
        coeffs = tape.op("Mul", tape.op("Cast", levels, to=int(ir.DataType.FLOAT)), scales)
    return coeffs if spec.dtype == ir.DataType.FLOAT else tape.cast(coeffs)


def _level_scales(tape: Recorder, scales: ir.Value) -> ir.Value:
    """Record what one level is, float32 (num_vectors_out, 1): a scale is what 64 are."""
    scales = tape.op("Cast", scales, to=int(ir.DataType.FLOAT))
    return tape.op("Mul", scales, tape.scalar(1 / 64, np.float32))


def _decoded(tape: Recorder, codes: ir.Value, levels: ir.Value, spec: FrameOpSpec) -> ir.Value:
    """Record the entry of ``levels`` (64,) that each code stands for, padding included."""
    strips = -(-spec.frame_out.num_vectors // TILE_ROWS)
    tiles = -(-spec.frame_in.num_vectors // TILE_COLUMNS)
    values = tape.op("Gather", _states(tape, levels, spec), _windows(tape, codes, spec), axis=0)
    values = tape.op("Reshape", values, tape.ints(strips, tiles, TILE_ROWS, TILE_COLUMNS))
    values = tape.permute(values, 0, 2, 1, 3)
    return tape.op("Reshape", values, tape.ints(strips * TILE_ROWS, tiles * TILE_COLUMNS))


def _states(tape: Recorder, levels: ir.Value, spec: FrameOpSpec) -> ir.Value:
    """Record the entry of ``levels`` for each window (65536,)."""
    windows = tape.op("Range", *(tape.scalar(value, np.int64) for value in (0, _STATES, 1)))
    product = tape.op("Mul", windows, tape.scalar(spec.multiplier, np.int64))
    product = tape.op("Mod", product, tape.scalar(_STATES, np.int64))
    return tape.op("Gather", levels, tape.op("Div", product, tape.scalar(1 << 10, np.int64)))


def _windows(tape: Recorder, codes: ir.Value, spec: FrameOpSpec) -> ir.Value:
    """Record the last 16 bits of the stream at each code (strips, tiles, 256), int32.

    They are in the word that the code ends in and, as that has one of them at least, in the last 15
    bits of the word before.
    """
    count = TILE * spec.bits // _WORD
    halves = tape.op("Cast", codes, to=int(ir.DataType.INT32))
    halves = tape.op("Reshape", halves, tape.ints(0, 0, count, 2))
    halves = tape.op("Mul", halves, tape.const(np.array([1, 256], np.int32)))
    words = tape.op("ReduceSum", halves, tape.ints(3), keepdims=0)
    before = tape.op("Gather", words, tape.ints(*(i - 1 for i in range(count))), axis=2)
    before = tape.op("Mod", before, tape.scalar(_STATES // 2, np.int32))
    before = tape.op("Mul", before, tape.scalar(_STATES, np.int32))
    pairs = tape.op("Add", before, words)
    last = np.arange(1, TILE + 1) * spec.bits - 1  # of the bits of each code
    pairs = tape.op("Gather", pairs, tape.ints(*(last // _WORD)), axis=2)
    newer = tape.const((1 << _WORD - 1 - last % _WORD).astype(np.int32))
    return tape.op("Mod", tape.op("Div", pairs, newer), tape.scalar(_STATES, np.int32))
