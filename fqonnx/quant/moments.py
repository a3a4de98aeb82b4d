"""What calibration knows of a layer's input, and how far it is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The bias takes the mean error away, so the mean need not count in the Hessian. With none of it
# left, rows far from the mean (a class token) suffer: half was best on text and on images.
MEAN_SHARE = 0.5
_MOST_SHRINKAGE = 0.99


@dataclass(frozen=True)
class Moments:
    """First and second moment of a layer's input over the calibration rows.

    Attributes:
        hessian: Mean of xxᵀ (dim_in, dim_in), float64.
        mean: Mean of x (dim_in,), float64.
        count: Number of rows behind them.
        damping: Fraction of the mean diagonal that is added to the Hessian's diagonal: the less
            the data are like the real ones, the more.
        trust_mean: Whether the mean is that of real data, so that a bias may correct for it.
    """

    hessian: Tensor
    mean: Tensor
    count: int
    damping: float
    trust_mean: bool

    def centered_hessian(self) -> Tensor:
        """Return the Hessian with the part of the mean that a corrected bias leaves."""
        return self.hessian - MEAN_SHARE * torch.outer(self.mean, self.mean)

    def total_damping(self) -> float:
        """Return the damping, and on top of it what so few rows ask for."""
        shrinkage = oas_shrinkage(self.hessian, self.count)
        return self.damping + shrinkage / (1.0 - shrinkage)


def oas_shrinkage(hessian: Tensor, count: int) -> float:
    """Return how far a second moment of ``count`` rows is to be drawn towards its mean diagonal.

    Oracle approximating shrinkage (Chen, Wiesel, Eldar and Hero 2010, equation 23), below 1: close
    to 0 for many rows or few directions, close to 1 for few rows that fill all directions, whose
    sample moment says nothing of the next row.
    """
    dim = len(hessian)
    trace = float(hessian.diagonal().sum())
    trace_of_square = float(hessian.square().sum())
    spread = trace_of_square - trace**2 / dim
    if spread <= 0.0:
        return 0.0  # it is a multiple of the identity already
    numerator = (1.0 - 2.0 / dim) * trace_of_square + trace**2
    return min(numerator / ((count + 1.0 - 2.0 / dim) * spread), _MOST_SHRINKAGE)
