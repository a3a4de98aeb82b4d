"""Measures of an output that has a score for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fqonnx.errors import DataError

_BEST = 5


@dataclass(frozen=True)
class ClassDiff:
    """How far two models agree on classes.

    Attributes:
        top1_agreement: Part of the samples that both models give the same class; a sample with a
            score that is not a number has none.
        top5_agreement: Part whose class by the compiled model is among the float model's five best.
        float_accuracy: Part of the samples whose label the float model gives; None without labels.
        compiled_accuracy: That of the compiled model.
    """

    top1_agreement: float
    top5_agreement: float
    float_accuracy: float | None = None
    compiled_accuracy: float | None = None


class ClassMetrics:
    """Accumulates agreement and accuracy, batch by batch."""

    def __init__(self) -> None:
        self._samples = self._labelled = 0
        self._same = self._among_best = self._float_right = self._compiled_right = 0

    def update(
        self,
        expected: NDArray[Any],
        actual: NDArray[Any],
        labels: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            expected: Scores of the float model (batch, classes).
            actual: Those of the compiled model.
            labels: The right classes (batch,).

        Raises:
            DataError: The labels are of other classes or of another number of samples.
        """
        if labels is not None:
            _check(labels, expected)
        best, other = expected.argmax(axis=1), actual.argmax(axis=1)
        lost, other_lost = np.isnan(expected).any(axis=1), np.isnan(actual).any(axis=1)
        # Better ones than the compiled model's choice, by the float model: its rank.
        rank = (expected > np.take_along_axis(expected, other[:, None], axis=1)).sum(axis=1)
        lost_one = lost | other_lost
        self._samples += len(best)
        self._same += int(((best == other) & ~lost_one).sum())
        self._among_best += int(((rank < _BEST) & ~lost_one).sum())
        if labels is not None:
            self._labelled += len(labels)
            self._float_right += int(((best == labels) & ~lost).sum())
            self._compiled_right += int(((other == labels) & ~other_lost).sum())

    def result(self) -> ClassDiff | None:
        """Return the measures; None where there was no sample."""
        if not self._samples:
            return None
        diff = ClassDiff(self._same / self._samples, self._among_best / self._samples)
        if not self._labelled:
            return diff
        right = self._float_right / self._labelled, self._compiled_right / self._labelled
        return ClassDiff(diff.top1_agreement, diff.top5_agreement, *right)


def _check(labels: NDArray[np.integer[Any]], scores: NDArray[Any]) -> None:
    samples, classes = scores.shape
    if len(labels) != samples:
        found = f"{len(labels)} samples gave {samples} rows of scores"
        raise DataError("--labels", found, "Compare without labels")
    beyond = labels[(labels < 0) | (labels >= classes)]
    if len(beyond):
        found = f"found {beyond[0]}, and the output has the classes 0 to {classes - 1}"
        raise DataError("--labels", found, "Number the classes as the output does")
