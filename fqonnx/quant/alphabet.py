"""The mid-rise alphabet {±½, ±1½, …}·step of 2^bits levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Steps of least mean squared error for a unit Gaussian: J. Max, "Quantizing for minimum
# distortion", IRE Trans. Inf. Theory 6 (1960), table II.
GAUSSIAN_STEP = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.335}


@dataclass(frozen=True)
class MidRise:
    """A uniform alphabet without zero, one step per output channel.

    Attributes:
        bits: 1 to 4.
    """

    bits: int

    def gaussian_step(self, coeffs: Tensor) -> Tensor:
        """Return the best step (dim_out,) for columns of coeffs that are Gaussian."""
        return coeffs.square().mean(0).sqrt() * GAUSSIAN_STEP[self.bits]

    def codes(self, coeffs: Tensor, step: Tensor) -> Tensor:
        """Return codes of the nearest levels, uint8 below 2^bits; any code where step is 0."""
        half = 1 << (self.bits - 1)
        levels = torch.floor(coeffs / torch.where(step > 0, step, 1.0))
        return (levels.clamp(-half, half - 1) + half).to(torch.uint8)

    def values(self, codes: Tensor, step: Tensor) -> Tensor:
        """Return the levels of ``codes``, in the dtype of ``step``."""
        return (codes.to(step.dtype) - ((1 << self.bits) - 1) / 2) * step

    def nearest(self, coeffs: Tensor, step: Tensor) -> Tensor:
        """Return the level nearest to each coefficient."""
        half = 1 << (self.bits - 1)
        levels = torch.floor(coeffs / torch.where(step > 0, step, 1.0))
        return (levels.clamp_(-half, half - 1) + 0.5) * step
