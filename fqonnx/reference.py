"""The operators in NumPy, float64: the semantics that bodies and kernels are tested against.

Written for reading, and independent of the transforms in `fqonnx.frames`: T is built densely from
its definition in docs/format.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fqonnx.packing import Bytes, unpack_codes, unpack_signs

Float = NDArray[np.float64]


def analysis_operator(
    frame_in: str, signs_in: Bytes | None, dim_in: int, num_vectors: int
) -> Float:
    """Return T (num_vectors, dim_in) of a node.

    Raises:
        ValueError: ``frame_in`` is not a frame of layout 1, or its signs are missing.
    """
    if frame_in == "identity":
        return np.eye(num_vectors, dim_in)
    if frame_in != "hadamard" or signs_in is None:
        raise ValueError(f"unknown frame {frame_in!r}, or no signs_in for it")
    power = (num_vectors & -num_vectors).bit_length() - 1
    order = num_vectors >> power
    k = np.arange(order)
    operator = np.sqrt(2.0 / order) * np.cos(np.pi / order * np.outer(k, k + 0.5))
    operator[0] /= np.sqrt(2.0)
    for _ in range(power):
        operator = np.kron(operator, np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0))
    signed: Float = operator[:, :dim_in] * unpack_signs(signs_in, dim_in)
    return signed


def dequantized_coeffs(
    codes: Bytes,
    scales: NDArray[np.float16],
    zero_points: Bytes | None = None,
    *,
    bits: int,
    num_vectors: int,
) -> Float:
    """Return Ĉ (num_vectors, dim_out) = scales · value(code)."""
    offset = (2**bits - 1) / 2 if zero_points is None else zero_points.astype(np.float64)[:, None]
    values = unpack_codes(codes, bits, num_vectors) - offset
    return (values * scales.astype(np.float64)[:, None]).T


def frame_dequant(
    codes: Bytes,
    scales: NDArray[np.float16],
    zero_points: Bytes | None = None,
    signs_in: Bytes | None = None,
    *,
    frame_in: str,
    dim_in: int,
    num_vectors: int,
    bits: int,
) -> Float:
    """``FrameDequant``: return Ŵ (dim_in, dim_out) = Tᵀ·Ĉ."""
    coeffs = dequantized_coeffs(codes, scales, zero_points, bits=bits, num_vectors=num_vectors)
    return analysis_operator(frame_in, signs_in, dim_in, num_vectors).T @ coeffs


def frame_matmul(
    x: NDArray[np.floating],
    codes: Bytes,
    scales: NDArray[np.float16],
    zero_points: Bytes | None = None,
    signs_in: Bytes | None = None,
    bias: NDArray[np.floating] | None = None,
    *,
    frame_in: str,
    dim_in: int,
    num_vectors: int,
    bits: int,
) -> Float:
    """``FrameMatMul``: return (x·Tᵀ)·Ĉ + bias, (..., dim_in) → (..., dim_out)."""
    coeffs = dequantized_coeffs(codes, scales, zero_points, bits=bits, num_vectors=num_vectors)
    operator = analysis_operator(frame_in, signs_in, dim_in, num_vectors)
    y = (x.astype(np.float64) @ operator.T) @ coeffs
    return y if bias is None else y + bias
