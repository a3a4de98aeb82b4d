"""Quantiles of a stream of numbers, in memory that does not grow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the bits of a float32, those of the exponent and the 8 first of the mantissa: bins that are
# less than 1/256 wide.
_SHIFT = 15


class Quantiles:
    """Counts of numbers that are not negative, in bins of equal relative width."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << (31 - _SHIFT), np.int64)  # there is no sign

    def update(self, values: NDArray[np.floating[Any]]) -> None:
        """Count numbers; those that are not a number count as infinite."""
        with np.errstate(over="ignore"):
            single = np.abs(values.reshape(-1).astype(np.float32))
        single[np.isnan(single)] = np.inf
        self._counts += np.bincount(single.view(np.uint32) >> _SHIFT, minlength=len(self._counts))

    def at(self, fraction: float) -> float:
        """Return the least number that ``fraction`` of all are at most, within 1/256 above it.

        Not a number where there are none.
        """
        counts = self._counts.cumsum()
        total = int(counts[-1])
        if total == 0:
            return math.nan
        found = int(np.searchsorted(counts, max(1, math.ceil(fraction * total))))
        if found == 0:
            return 0.0  # zeros, and what is too small to matter
        ends = np.array([found << _SHIFT, (found + 1 << _SHIFT) - 1], np.uint32).view(np.float32)
        return math.inf if np.isinf(ends[0]) else float(ends[1])
