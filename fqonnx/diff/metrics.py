"""Measures of one output, streamed: memory is bounded by a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLD_METRICS = ("cosine", "sqnr_db")


@dataclass(frozen=True)
class OutputDiff:
    """Differences of one output between the float and the compiled model.

    Attributes:
        name: Name of the output.
        cosine: Mean over samples of the cosine between the flattened outputs; where a sample is
            a single number, the cosine between all of them.
        sqnr_db: 10·log10(Σ float² / Σ difference²) over all samples; infinite if equal.
        max_abs_diff: Largest difference of two entries.
        max_sample_error: Largest Euclidean norm of the difference of a sample.
        num_samples: Samples compared.
    """

    name: str
    cosine: float
    sqnr_db: float
    max_abs_diff: float
    max_sample_error: float
    num_samples: int

    def misses(self, metric: str, threshold: float) -> bool:
        """Whether the metric is below the threshold, or not a number."""
        return not getattr(self, metric) >= threshold


class OutputMetrics:
    """Accumulates the differences of one output, batch by batch.

    Args:
        name: Name of the output.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._cosines = 0.0
        self._samples = 0
        self._signal = 0.0
        self._other = 0.0
        self._products = 0.0
        self._single_numbers = False
        self._noise = 0.0
        self._largest = 0.0
        self._longest = 0.0

    def update(
        self,
        expected: NDArray[Any],
        actual: NDArray[Any],
        mask: NDArray[Any] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            expected: The float model's output, samples on the first axis.
            actual: The compiled model's.
            mask: (batch, length); positions where it is zero do not count, if the output has the
                same two axes in front.

        Raises:
            ValueError: The shapes differ.
        """
        if expected.shape != actual.shape:
            raise ValueError(f"output {self.name!r}: shapes {expected.shape} and {actual.shape}")
        if expected.size == 0:
            return
        reference, other = (np.asarray(a, np.float64) for a in (expected, actual))
        ignored = reference == other  # equal infinities: no difference, and no part of any norm
        ignored &= ~np.isfinite(reference)
        if mask is not None and expected.shape[:2] == mask.shape:
            ignored |= ~mask.astype(bool).reshape(*mask.shape, *[1] * (expected.ndim - 2))
        if ignored.any():
            reference, other = (np.where(ignored, 0.0, a) for a in (reference, other))
        rows = len(reference) if reference.ndim else 1
        reference, other = reference.reshape(rows, -1), other.reshape(rows, -1)
        difference = other - reference
        self._single_numbers = reference.shape[1] == 1
        with np.errstate(invalid="ignore"):
            self._products += float((reference * other).sum())
        self._other += float((other**2).sum())
        self._signal += float((reference**2).sum())
        self._noise += float((difference**2).sum())
        self._largest = float(np.maximum(self._largest, np.abs(difference).max()))
        self._longest = float(np.maximum(self._longest, np.linalg.norm(difference, axis=1).max()))
        self._cosines += float(_cosines(reference, other).sum())
        self._samples += rows

    def result(self) -> OutputDiff:
        """Return the measures over all batches; not a number where nothing was compared."""
        if not self._samples:
            return OutputDiff(self.name, math.nan, math.nan, math.nan, math.nan, 0)
        ratio = self._signal / self._noise if self._noise else math.inf
        with np.errstate(divide="ignore"):
            sqnr_db = float(10.0 * np.log10(ratio))
        cosine = self._cosines / self._samples
        if self._single_numbers and 0.0 < self._signal * self._other < math.inf:
            cosine = self._products / math.sqrt(self._signal * self._other)
        return OutputDiff(self.name, cosine, sqnr_db, self._largest, self._longest, self._samples)


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows; 1 for two zero rows, 0 for one."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    with np.errstate(invalid="ignore"):  # infinities give NaN, which misses every threshold
        cosines = (a * b).sum(axis=1) / np.where(norms == 0, 1.0, norms)
    return np.where(both_zero, 1.0, cosines)
