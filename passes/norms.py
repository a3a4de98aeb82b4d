"""Bounds of the norm of a value and of that of its error, and how a layer changes them.

Norms are Euclidean, of one sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Affine:
    """slope·‖x‖ + offset, ‖x‖ the norm of a sample of the network's inputs."""

    slope: float
    offset: float = 0.0

    def __add__(self, other: Affine) -> Affine:
        return Affine(self.slope + other.slope, self.offset + other.offset)

    def __mul__(self, factor: float) -> Affine:
        return Affine(self.slope * factor, self.offset * factor)

    def at(self, norm: float) -> float:
        """Return the bound for inputs of a norm."""
        return self.slope * norm + self.offset


@dataclass(frozen=True)
class Bounds:
    """What the norm of a value is at most, and that of its error."""

    norm: Affine
    error: Affine

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.norm + other.norm, self.error + other.error)

    def __mul__(self, factor: float) -> Bounds:
        return Bounds(self.norm * factor, self.error * factor)

    def plus_constant(self, norm: float, error: float = 0.0) -> Bounds:
        """Return the bounds after a constant of that norm and error was added."""
        return self + Bounds(Affine(0.0, norm), Affine(0.0, error))

    def limited(self, norm: float) -> Bounds:
        """Return the bounds of a value that is never longer than that."""
        return Bounds(Affine(0.0, norm), self.error)


@dataclass(frozen=True)
class LayerNorms:
    """Norms of a layer y = x·W + b; those of errors are what they are, or can be at most.

    Attributes:
        weight: Operator norm ‖W‖.
        weight_error: ‖W − Ŵ‖.
        bias: ‖b‖.
        bias_error: ‖b − b̂‖.
    """

    weight: float
    weight_error: float = 0.0
    bias: float = 0.0
    bias_error: float = 0.0

    def apply(self, x: Bounds, reach: float, positions: float) -> Bounds:
        """Return the bounds of y.

        ‖y − ŷ‖ ≤ ‖Ŵ‖·‖x − x̂‖ + ‖W − Ŵ‖·‖x‖ + ‖b − b̂‖.

        Args:
            x: Those of x.
            reach: Norm of what spreads x over the rows that W multiplies: 1, or above for a
                convolution whose patches overlap.
            positions: Rows that the bias is added to.
        """
        rows = x * reach
        error = rows.error * (self.weight + self.weight_error) + rows.norm * self.weight_error
        y = Bounds(rows.norm * self.weight, error)
        return y.plus_constant(
            self.bias * math.sqrt(positions), self.bias_error * math.sqrt(positions)
        )


def operator_norm(matrix: NDArray[np.generic]) -> float:
    """Return the largest singular value, by the smaller Gram matrix in float64."""
    tensor = torch.from_numpy(np.ascontiguousarray(matrix, np.float64))
    gram = tensor @ tensor.T if len(tensor) < tensor.shape[1] else tensor.T @ tensor
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))
