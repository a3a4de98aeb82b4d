"""The operators in NumPy, float64: the semantics that bodies and kernels are tested against.

Written for reading, and independent of the transforms in `fqonnx.frames`: T is built densely from
its definition in docs/format.md.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fqonnx.frames import FrameSpec
from fqonnx.packing import Bytes, unpack_codes, unpack_signs

Float = NDArray[np.float64]


def analysis_operator(frame: FrameSpec, signs: Bytes | None) -> Float:
    """Return T (num_vectors, dim).

    Raises:
        ValueError: It is not a frame of layout 1, or its signs are missing.
    """
    if frame.kind == "identity":
        return np.eye(frame.num_vectors, frame.dim)
    if frame.kind == "harmonic":
        return _harmonic(frame.num_vectors, frame.dim)
    if frame.kind not in ("hadamard", "fusion") or signs is None:
        raise ValueError(f"unknown frame {frame.kind!r}, or no signs for it")
    columns = np.arange(frame.dim)
    if frame.subspaces is None:
        operator = _kronecker(frame.num_vectors)
        if frame.num_vectors > frame.dim:
            stride = math.ceil(frame.num_vectors * 382 / 1000)
            while math.gcd(stride, frame.num_vectors) > 1:
                stride += 1
            columns = columns * stride % frame.num_vectors
    else:
        size = frame.subspaces[2]
        order = size & -size
        operator = _fusion(*frame.subspaces) @ np.kron(np.eye(size // order), _kronecker(order))
    signed: Float = operator[:, columns] * unpack_signs(signs, frame.dim)
    return signed


def _harmonic(num_vectors: int, dim: int) -> Float:
    """Return cosines and sines of the lowest frequencies, behind a constant for an odd dim."""
    operator = np.full((num_vectors, dim), np.sqrt(1 / num_vectors))
    frequencies = np.arange(1, dim // 2 + 1)
    angles = 2 * np.pi / num_vectors * np.outer(np.arange(num_vectors), frequencies)
    operator[:, dim % 2 :: 2] = np.sqrt(2 / num_vectors) * np.cos(angles)
    operator[:, dim % 2 + 1 :: 2] = np.sqrt(2 / num_vectors) * np.sin(angles)
    return operator


def _kronecker(size: int) -> Float:
    """Return Q_q ⊗ H_{2^p}."""
    power = (size & -size).bit_length() - 1
    order = size >> power
    k = np.arange(order)
    operator: Float = np.sqrt(2.0 / order) * np.cos(np.pi / order * np.outer(k, k + 0.5))
    operator[0] /= np.sqrt(2.0)
    for _ in range(power):
        operator = np.kron(operator, np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0))
    return operator


def _fusion(num_subspaces: int, subspace_dim: int, size: int) -> Float:
    """Return the real form of the modulated spectral tetris, row by row."""
    rows, columns = subspace_dim // 2, size // 2
    tetris = np.zeros((rows, columns))
    column = 0
    for row in range(rows):
        missing = columns / rows - (tetris[row] ** 2).sum()
        while missing > 1 - 1e-9:
            tetris[row, column] = 1.0
            column, missing = column + 1, missing - 1
        if missing > 1e-9:
            tetris[row, column : column + 2] = np.sqrt(missing / 2)
            tetris[row + 1, column : column + 2] = np.sqrt(1 - missing / 2) * np.array([1, -1])
            column += 2
    operator = np.zeros((rows, num_subspaces, 2, columns, 2))
    for row in range(rows):
        start = np.flatnonzero(tetris[row])[0]
        for k in range(num_subspaces):
            turn = 2j * np.pi * k * (np.arange(columns) - start) / num_subspaces
            vector = tetris[row] * np.exp(turn) / np.sqrt(num_subspaces)
            operator[row, k, 0, :, 0], operator[row, k, 0, :, 1] = vector.real, -vector.imag
            operator[row, k, 1, :, 0], operator[row, k, 1, :, 1] = vector.imag, vector.real
    return operator.reshape(num_subspaces * subspace_dim, size)


def dequantized_coeffs(
    codes: Bytes,
    scales: NDArray[np.float16],
    zero_points: Bytes | None = None,
    levels: NDArray[np.int8] | None = None,
    *,
    bits: int,
    num_vectors: int,
    group_size: int = 0,
    multiplier: int = 0,
) -> Float:
    """Return Ĉ (num_vectors_in, num_vectors_out) = scales · value(code).

    ``levels`` are those of the codebook ``"trellis"``, whose ``multiplier`` is not 0.
    """
    if levels is not None:
        values = _trellis_levels(codes, bits, levels, multiplier)[: len(scales), :num_vectors] / 64
        return (values * scales.astype(np.float64)).T
    group = np.arange(num_vectors) // group_size if group_size else np.zeros(num_vectors, np.int64)
    offset = (2**bits - 1) / 2 if zero_points is None else zero_points.astype(np.float64)[:, group]
    values = unpack_codes(codes, bits, num_vectors) - offset
    return (values * scales.astype(np.float64)[:, group]).T


def _trellis_levels(
    codes: Bytes, bits: int, levels: NDArray[np.int8], multiplier: int
) -> NDArray[np.int8]:
    """Return the level of each code, padding included, (num_vectors_out, num_vectors_in)."""
    strips, tiles, _ = codes.shape
    words = codes[..., 0::2].astype(np.int64) | codes[..., 1::2].astype(np.int64) << 8
    stream = (words[..., None] >> np.arange(15, -1, -1) & 1).reshape(strips, tiles, 256 * bits)
    window = np.zeros((strips, tiles, 256), np.int64)
    for age in range(16):
        newest = np.arange(1, 257) * bits - 1
        window |= stream[..., (newest - age) % (256 * bits)] << age
    values = levels[multiplier * window % 2**16 >> 10].reshape(strips, tiles, 64, 4)
    rows: NDArray[np.int8] = values.transpose(0, 2, 1, 3).reshape(strips * 64, tiles * 4)
    return rows


def frame_dequant(
    codes: Bytes,
    scales: NDArray[np.float16],
    zero_points: Bytes | None = None,
    signs_in: Bytes | None = None,
    signs_out: Bytes | None = None,
    levels: NDArray[np.int8] | None = None,
    *,
    frame_in: FrameSpec,
    frame_out: FrameSpec,
    bits: int,
    group_size: int = 0,
    multiplier: int = 0,
) -> Float:
    """``FrameDequant``: return Ŵ (dim_in, dim_out) = T_inᵀ·Ĉ·T_out."""
    coeffs = dequantized_coeffs(
        codes,
        scales,
        zero_points,
        levels,
        bits=bits,
        num_vectors=frame_in.num_vectors,
        group_size=group_size,
        multiplier=multiplier,
    )
    return (
        analysis_operator(frame_in, signs_in).T @ coeffs @ analysis_operator(frame_out, signs_out)
    )


def frame_matmul(
    x: NDArray[np.floating],
    codes: Bytes,
    scales: NDArray[np.float16],
    zero_points: Bytes | None = None,
    signs_in: Bytes | None = None,
    signs_out: Bytes | None = None,
    bias: NDArray[np.floating] | None = None,
    levels: NDArray[np.int8] | None = None,
    *,
    frame_in: FrameSpec,
    frame_out: FrameSpec,
    bits: int,
    group_size: int = 0,
    multiplier: int = 0,
) -> Float:
    """``FrameMatMul``: return (x·T_inᵀ)·Ĉ·T_out + bias, (..., dim_in) → (..., dim_out)."""
    weight = frame_dequant(
        codes,
        scales,
        zero_points,
        signs_in,
        signs_out,
        levels,
        frame_in=frame_in,
        frame_out=frame_out,
        bits=bits,
        group_size=group_size,
        multiplier=multiplier,
    )
    y = x.astype(np.float64) @ weight
    return y if bias is None else y + bias
