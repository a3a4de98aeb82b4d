"""Uniform alphabets: 2^bits levels, a step apart, for each output channel or group of it.

Coefficients C are (num_vectors, dim_out). A group is ``group_size`` consecutive rows of a column,
all of them where nothing else is said. Steps are rounded to float16, as they will be stored, before
anything is rounded to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# Steps of least mean squared error for a unit Gaussian: J. Max, "Quantizing for minimum
# distortion", IRE Trans. Inf. Theory 6 (1960), table II.
GAUSSIAN_STEP = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.335}
SCALE_DTYPE = torch.float16
# Half the levels, less what Sigma-Delta's state may add to a coefficient, by bits and order. Half a
# step keeps the state of order 1 within half a step (Benedetto, Powell and Yılmaz 2006, §II). One
# and a half do it for order 2, which adds 2v' − v'': that costs little at 4 bits. Below, these are
# the smallest steps at which random weights kept it within two.
_HEADROOM = {1: dict.fromkeys((1, 2, 3, 4), 1 / 2), 2: {1: 2 / 3, 2: 1.0, 3: 1.0, 4: 3 / 2}}
# Groups whose step is too small for float16 become zero; they may hold this part of the energy.
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class UniformAlphabet:
    """The levels (code − offset)·step, code 0 … 2^bits − 1.

    Attributes:
        bits: 1 to 4.
        step: (groups, dim_out), at least 0.
        zero_point: Offset (groups, dim_out), integers in the dtype of ``step``. None is mid-rise:
            the offset (2^bits − 1)/2, levels {±½, ±1½, …}·step without zero.
        group_size: Rows of a group; None where there is one group.
    """

    bits: int
    step: Tensor
    zero_point: Tensor | None = None
    group_size: int | None = field(default=None, kw_only=True)

    @property
    def levels(self) -> list[float]:
        """The levels in steps from the middle of them, ascending."""
        return [code - ((1 << self.bits) - 1) / 2 for code in range(1 << self.bits)]

    def codes(self, coeffs: Tensor, first: int = 0) -> Tensor:
        """Return codes of the nearest levels, uint8; any code where the step is 0.

        Args:
            coeffs: Rows of coefficients (rows, dim_out).
            first: Number of the first of these rows, which says what group it is in.
        """
        return self._levels(coeffs, first).to(torch.uint8)

    def values(self, codes: Tensor, first: int = 0) -> Tensor:
        """Return the levels of ``codes`` (rows, dim_out), in the dtype of the step."""
        step, offset = self._rows(first, len(codes))
        return (codes.to(step.dtype) - offset) * step

    def nearest(self, coeffs: Tensor, first: int = 0) -> Tensor:
        """Return the level nearest to each coefficient (see `codes`)."""
        step, offset = self._rows(first, len(coeffs))
        return self._levels(coeffs, first).sub_(offset).mul_(step)

    def units(self, coeffs: Tensor, first: int = 0) -> Tensor:
        """Return coefficients in steps from the middle of the levels; NaN where the step is 0."""
        step, offset = self._rows(first, len(coeffs))
        middle = ((1 << self.bits) - 1) / 2
        return torch.where(step > 0, coeffs / step + (offset - middle), torch.nan)

    def _levels(self, coeffs: Tensor, first: int) -> Tensor:
        step, offset = self._rows(first, len(coeffs))
        levels = torch.floor(coeffs / torch.where(step > 0, step, 1.0) + (offset + 0.5))
        return levels.clamp_(0, (1 << self.bits) - 1)

    def _rows(self, first: int, count: int) -> tuple[Tensor, Tensor | float]:
        """Return step and offset of ``count`` rows, to broadcast against them."""
        step, offset = self.step, self.zero_point
        if self.group_size is not None:
            groups = torch.arange(first, first + count, device=step.device) // self.group_size
            step, offset = step[groups], None if offset is None else offset[groups]
        return step, ((1 << self.bits) - 1) / 2 if offset is None else offset


def gaussian_alphabet(coeffs: Tensor, bits: int, multiplier: float = 1.0) -> UniformAlphabet:
    """Return the mid-rise alphabet of the best step for Gaussian columns, times ``multiplier``.

    Args:
        coeffs: C (num_vectors, dim_out).
        bits: 1 to 4.
        multiplier: Of the best step.

    Raises:
        OverflowError: The steps are beyond float16's range.
    """
    deviation = coeffs.square().mean(0, keepdim=True).sqrt()
    return UniformAlphabet(bits, stored(deviation * GAUSSIAN_STEP[bits] * multiplier, deviation))


def range_alphabet(coeffs: Tensor, bits: int, order: int = 1) -> UniformAlphabet:
    """Return the mid-rise alphabet whose range holds a column with what Sigma-Delta adds to it.

    step = max|c| / (2^(bits−1) − ½) for order 1: the least for which the state is bounded whatever
    the coefficients are (arXiv 2404.08131, §2). It is rounded up to float16.

    Args:
        coeffs: C (num_vectors, dim_out).
        bits: 1 to 4.
        order: Of Sigma-Delta, 1 or 2.

    Raises:
        OverflowError: The steps are beyond float16's range.
    """
    largest = coeffs.abs().amax(0, keepdim=True)
    step = largest / ((1 << (bits - 1)) - _HEADROOM[order][bits])
    rounded = stored(step, largest)
    next_up = (rounded.to(SCALE_DTYPE).view(torch.int16) + 1).view(SCALE_DTYPE).to(step.dtype)
    return UniformAlphabet(bits, torch.where(rounded < step, next_up, rounded))


def two_sigma_alphabet(coeffs: Tensor, bits: int) -> tuple[UniformAlphabet, Tensor]:
    """Return FrameQuant's alphabet, and the coefficients clipped to its range.

    The range is 2σ on both sides of a column's mean, the zero point an integer (arXiv 2403.06082,
    §3.3). At 2 bits the levels are {−2, −1, 0, 1}·step or {−1, 0, 1, 2}·step: as near as integers
    come to the range.

    Args:
        coeffs: C (num_vectors, dim_out).
        bits: 2 to 4.

    Raises:
        OverflowError: The steps are beyond float16's range.
    """
    top = (1 << bits) - 1
    mean = coeffs.mean(0, keepdim=True)
    deviation = coeffs.std(0, keepdim=True) if len(coeffs) > 1 else torch.zeros_like(mean)
    step = stored(4.0 * deviation / top, deviation)
    center = mean / torch.where(deviation > 0, 2.0 * deviation, 1.0)
    zero_point = ((1.0 - center) * top / 2).round().clamp(0, top)
    clipped = coeffs.clamp(mean - 2.0 * deviation, mean + 2.0 * deviation)
    return UniformAlphabet(bits, step, zero_point), clipped


def min_max_alphabet(coeffs: Tensor, bits: int, group_size: int) -> UniformAlphabet:
    """Return the alphabet from the least to the greatest coefficient of each group, with zero.

    The grid of round-to-nearest and GPTQ (arXiv 2210.17323) as they are commonly used.

    Args:
        coeffs: C (num_vectors, dim_out).
        bits: 2 to 4.
        group_size: Rows of a group; the last group may be shorter.

    Raises:
        OverflowError: The steps are beyond float16's range.
    """
    num_vectors, dim_out = coeffs.shape
    top = (1 << bits) - 1
    padding = coeffs.new_zeros(-num_vectors % group_size, dim_out)
    groups = torch.cat([coeffs, padding]).reshape(-1, group_size, dim_out)
    low, high = groups.amin(1).clamp(max=0.0), groups.amax(1).clamp(min=0.0)
    step = stored((high - low) / top, high - low)
    zero_point = (-low / torch.where(step > 0, step, 1.0)).round().clamp(0, top)
    return UniformAlphabet(bits, step, zero_point, group_size=group_size)


def stored(step: Tensor, spread: Tensor) -> Tensor:
    """Return steps as float16 will hold them, in the dtype that they have.

    Args:
        step: Of any shape.
        spread: How far the coefficients of each reach, likewise.

    Raises:
        OverflowError: They are beyond float16's range.
    """
    if float(step.max()) > torch.finfo(SCALE_DTYPE).max:
        raise OverflowError("the weight is too large: a scale does not fit into float16")
    rounded = step.to(SCALE_DTYPE)
    lost = spread.double().square()[rounded == 0].sum()
    if float(lost) > _NEGLIGIBLE * float(spread.double().square().sum()):
        raise OverflowError("the weight is too small: its scales do not fit into float16")
    return rounded.to(step.dtype)
