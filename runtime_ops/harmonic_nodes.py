"""Nodes of the harmonic frame: a Fourier transform in two steps, its sinusoids made in the graph.

Frequency k has the pair (cosine, sine) of the coordinates a_k, b_k, so that coefficient n is
√(2/N)·Re Σ_k (a_k − i·b_k)·exp(2πi·kn/N). It is summed as `harmonic_factors` says. Only numbers
that follow from N and dim are in the body; a runtime computes the sinusoids at load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from fqonnx.frames import FrameSpec, harmonic_factors
from fqonnx.runtime_ops.recorder import Recorder


def harmonic_analysis(tape: Recorder, x: ir.Value, frame: FrameSpec) -> ir.Value:
    """Record x·Tᵀ of rows (rows, dim) → (rows, N1, N2), the coefficients in order."""
    steps = _Steps.record(tape, frame)
    n1, n2, k2 = steps.sizes
    if frame.dim % 2:  # the constant is the cosine of frequency 0
        first = tape.op("Slice", x, tape.ints(0), tape.ints(1), tape.ints(1))
        first = tape.op("Mul", first, tape.scalar(math.sqrt(0.5), tape.dtype))
        rest = tape.op("Slice", x, tape.ints(1), tape.ints(frame.dim), tape.ints(1))
        first = tape.op("Pad", first, tape.ints(0, 0, 0, 1))
        x = tape.op("Concat", first, rest, axis=1)
        x = tape.op("Pad", x, tape.ints(0, 0, 0, 2 * n1 * k2 - frame.dim - 1))
    else:
        x = tape.op("Pad", x, tape.ints(0, 2, 0, 2 * n1 * k2 - frame.dim - 2))
    x = tape.op("Reshape", x, tape.ints(-1, k2, n1, 2))
    x = tape.permute(x, 0, 2, 1, 3)
    x = tape.op("MatMul", tape.op("Reshape", x, tape.ints(-1, n1, 2 * k2)), steps.inner)
    x = steps.turn(tape, x, backwards=False)
    x = tape.op("Reshape", x, tape.ints(-1, 2 * n1, n2))
    return tape.op("MatMul", steps.outer, x)


def harmonic_synthesis(tape: Recorder, coeffs: ir.Value, frame: FrameSpec) -> ir.Value:
    """Record coeffs·T: the transposed steps in reverse, → (rows, dim)."""
    steps = _Steps.record(tape, frame)
    n1, n2, k2 = steps.sizes
    x = tape.op("Reshape", coeffs, tape.ints(-1, n1, n2))
    x = tape.op("MatMul", tape.permute(steps.outer, 1, 0), x)
    x = steps.turn(tape, x, backwards=True)
    x = tape.op("Reshape", x, tape.ints(-1, n1, 2 * n2))
    x = tape.op("MatMul", x, tape.permute(steps.inner, 1, 0))
    x = tape.op("Reshape", x, tape.ints(-1, n1, k2, 2))
    x = tape.permute(x, 0, 2, 1, 3)
    x = tape.op("Reshape", x, tape.ints(-1, 2 * n1 * k2))
    if frame.dim % 2 == 0:
        return tape.op("Slice", x, tape.ints(2), tape.ints(2 + frame.dim), tape.ints(1))
    first = tape.op("Slice", x, tape.ints(0), tape.ints(1), tape.ints(1))
    first = tape.op("Mul", first, tape.scalar(math.sqrt(0.5), tape.dtype))
    rest = tape.op("Slice", x, tape.ints(2), tape.ints(1 + frame.dim), tape.ints(1))
    return tape.op("Concat", first, rest, axis=1)


@dataclass(frozen=True)
class _Steps:
    """The sinusoids of the two sums and of the turn between them.

    Attributes:
        sizes: N1, N2, and the terms K2 of the inner sum.
        inner: (K2 × (a, b), (Re, Im) × N2).
        outer: (N1, N1 × (Re, Im)), times √(2/N).
        cosines: Of the turn (N1, 1, N2).
        sines: Of the turn (N1, 2, N2), for (Re, Im).
    """

    sizes: tuple[int, int, int]
    inner: ir.Value
    outer: ir.Value
    cosines: ir.Value
    sines: ir.Value

    @classmethod
    def record(cls, tape: Recorder, frame: FrameSpec) -> _Steps:
        """Record what makes them."""
        n1, n2 = harmonic_factors(frame.dim, frame.num_vectors)
        k2 = -(-(frame.dim // 2 + 1) // n1)

        cosines, sines = _sinusoids(tape, k2, n2, n2)
        rows_a = tape.op("Concat", cosines, sines, axis=1)
        rows_b = tape.op("Concat", sines, tape.op("Neg", cosines), axis=1)
        inner = _interleaved(tape, rows_a, rows_b, axis=1, shape=(2 * k2, 2 * n2))

        cosines, sines = _sinusoids(tape, n1, n1, n1)
        outer = _interleaved(tape, cosines, tape.op("Neg", sines), axis=2, shape=(n1, 2 * n1))
        scale = tape.scalar(math.sqrt(2.0 / frame.num_vectors), np.float64)

        cosines, sines = _sinusoids(tape, n1, n2, frame.num_vectors)
        turn = _interleaved(tape, tape.op("Neg", sines), sines, axis=1, shape=(n1, 2, n2))
        return cls(
            (n1, n2, k2),
            tape.cast(inner),
            tape.cast(tape.op("Mul", outer, scale)),
            tape.cast(tape.op("Reshape", cosines, tape.ints(n1, 1, n2))),
            tape.cast(turn),
        )

    def turn(self, tape: Recorder, x: ir.Value, *, backwards: bool) -> ir.Value:
        """Record the turn of complex numbers by exp(±2πi·k1·n2/N), → (rows, N1, (Re, Im), N2)."""
        n1, n2, _ = self.sizes
        x = tape.op("Reshape", x, tape.ints(-1, n1, 2, n2))
        swapped = tape.op("Gather", x, tape.ints(1, 0), axis=2)
        across = tape.op("Mul", swapped, self.sines)
        return tape.op("Sub" if backwards else "Add", tape.op("Mul", x, self.cosines), across)


def _sinusoids(tape: Recorder, rows: int, columns: int, period: int) -> tuple[ir.Value, ir.Value]:
    """Record cos and sin of 2π·row·column/period, float64 (rows, columns)."""
    down, across = (
        tape.op("Range", *(tape.scalar(bound, np.int64) for bound in (0, size, 1)))
        for size in (rows, columns)
    )
    product = tape.op("Mul", tape.op("Reshape", down, tape.ints(-1, 1)), across)
    # Reduced as integers: no digits are lost to many turns.
    phase = tape.op("Mod", product, tape.scalar(period, np.int64))
    angle = tape.op(
        "Mul",
        tape.op("Cast", phase, to=int(ir.DataType.DOUBLE)),
        tape.scalar(2.0 * math.pi / period, np.float64),
    )
    return tape.op("Cos", angle), tape.op("Sin", angle)


def _interleaved(
    tape: Recorder, first: ir.Value, second: ir.Value, *, axis: int, shape: tuple[int, ...]
) -> ir.Value:
    """Record the entries of two matrices in turn along an axis, in a new shape."""
    parts = [tape.op("Unsqueeze", part, tape.ints(axis)) for part in (first, second)]
    return tape.op("Reshape", tape.op("Concat", *parts, axis=axis), tape.ints(*shape))
