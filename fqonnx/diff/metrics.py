"""Measures of one output, streamed: what they take is bounded by a sample."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fqonnx.diff.classes import ClassDiff, ClassMetrics
from fqonnx.diff.kinds import Kind
from fqonnx.diff.quantiles import Quantiles
from fqonnx.diff.tokens import TokenDiff, TokenMetrics

_ENTRIES = 1 << 20  # that are worked on at once; more where one sample has more


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
        mean_abs_diff: Mean difference of two entries.
        p99_abs_diff: What 99 in a hundred differences are below, within 1/256.
        kind: What the output was compared as (see `fqonnx.diff.kinds`).
        classes: Agreement on classes; None where the output has none.
        tokens: Divergence of next tokens; None where the output has none.
    """

    name: str
    cosine: float
    sqnr_db: float
    max_abs_diff: float
    max_sample_error: float
    num_samples: int
    mean_abs_diff: float = math.nan
    p99_abs_diff: float = math.nan
    kind: Kind = "numbers"
    classes: ClassDiff | None = None
    tokens: TokenDiff | None = None

    def measures(self) -> dict[str, float]:
        """Return all measures by name, those of classes and tokens included."""
        parts = [part for part in (self, self.classes, self.tokens) if part is not None]
        return {
            field.name: value
            for part in parts
            for field in dataclasses.fields(part)
            if isinstance(value := getattr(part, field.name), float | int)
        }


class OutputMetrics:
    """Accumulates the differences of one output, batch by batch.

    Args:
        name: Name of the output.
        kind: What the output is.
    """

    def __init__(self, name: str, kind: Kind = "numbers") -> None:
        self.name = name
        self.kind = kind
        self._classes = ClassMetrics()
        self._tokens = TokenMetrics()
        self._quantiles = Quantiles()
        self._entries = 0
        self._absolute = 0.0
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
        *,
        labels: NDArray[Any] | None = None,
        ids: NDArray[Any] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            expected: The float model's output, samples on the first axis.
            actual: The compiled model's.
            mask: (batch, length); positions where it is zero do not count, if the output has the
                same two axes in front. An output of classes has other axes, whatever their sizes.
            labels: The right classes (batch,), for an output of classes.
            ids: The tokens (batch, length) that an output of tokens is about.

        Raises:
            ValueError: The shapes differ.
            DataError: The labels or the ids do not fit the output.
        """
        if expected.shape != actual.shape:
            raise ValueError(f"output {self.name!r}: shapes {expected.shape} and {actual.shape}")
        if expected.size == 0:
            return
        if self.kind == "classes" or (mask is not None and expected.shape[:2] != mask.shape):
            mask = None
        if self.kind == "classes" and expected.ndim == 2:
            self._classes.update(expected, actual, labels)
        elif self.kind == "tokens" and ids is not None and expected.shape[:-1] == ids.shape:
            self._tokens.update(expected, actual, ids, mask)
        expected, actual = np.atleast_1d(expected), np.atleast_1d(actual)
        step = max(1, _ENTRIES // expected[0].size)
        for i in range(0, len(expected), step):
            part = slice(i, i + step)
            self._add(expected[part], actual[part], None if mask is None else mask[part])

    # Infinities, and squares beyond float64, give NaN, which misses every threshold.
    @np.errstate(over="ignore", invalid="ignore")
    def _add(self, expected: NDArray[Any], actual: NDArray[Any], mask: NDArray[Any] | None) -> None:
        rows = len(expected)
        reference, other = (a.astype(np.float64).reshape(rows, -1) for a in (expected, actual))
        ignored = (reference == other) & ~np.isfinite(reference)  # equal infinities
        if mask is not None:
            ignored |= np.repeat(mask == 0, reference.shape[1] // mask.shape[1], axis=1)
        reference[ignored] = other[ignored] = 0.0  # no difference, and no part of any norm
        difference = other - reference
        absolute = np.abs(difference)
        counted = absolute[~ignored]
        self._quantiles.update(counted)
        self._entries += counted.size
        self._absolute += float(counted.sum())
        self._single_numbers = reference.shape[1] == 1
        self._products += float((reference * other).sum())
        self._other += float((other**2).sum())
        self._signal += float((reference**2).sum())
        self._noise += float((difference**2).sum())
        self._largest = float(np.maximum(self._largest, absolute.max()))
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
        classes, tokens = self._classes.result(), self._tokens.result()
        return OutputDiff(
            name=self.name,
            cosine=cosine,
            sqnr_db=sqnr_db,
            max_abs_diff=self._largest,
            max_sample_error=self._longest,
            num_samples=self._samples,
            mean_abs_diff=self._absolute / max(self._entries, 1),
            p99_abs_diff=self._quantiles.at(0.99) if self._entries else 0.0,
            kind=self.kind if classes or tokens else "numbers",
            classes=classes,
            tokens=tokens,
        )


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows; 1 for two zero rows, 0 for one."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = (a * b).sum(axis=1) / np.where(norms == 0, 1.0, norms)
    return np.where(both_zero, 1.0, cosines)
