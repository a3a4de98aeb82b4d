"""Pictures that everyone with scikit-learn has: two handwritten digits on one canvas.

One digit of `sklearn.datasets.load_digits` is too easy a task to show what 2 bits cost. Two of
them side by side make 55 pairs, and more than a million pictures.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from architectures.training import Part

CLASSES, SIZE = 55, 16  # pairs of digits, in any order
_DIGIT, _TOP = 8, 4
_MEAN, _SPREAD = 0.15, 0.3
_PARTS: dict[Part, slice] = {
    "training": slice(0, 1300),
    "calibration": slice(1300, 1400),
    "judged": slice(1400, None),
}


def draw(
    part: Part, count: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return pixels (count, 1, 16, 16), normalised, and which pair of digits each shows."""
    images, labels = (array[_PARTS[part]] for array in _digits())
    chosen = rng.integers(0, len(images), (count, 2))
    pixels = np.zeros((count, 1, SIZE, SIZE), np.float32)
    for side in range(2):
        columns = slice(side * _DIGIT, (side + 1) * _DIGIT)
        pixels[:, 0, _TOP : _TOP + _DIGIT, columns] = images[chosen[:, side]]
    low, high = np.sort(labels[chosen], axis=1).T
    return {"pixels": (pixels - _MEAN) / _SPREAD}, high * (high + 1) // 2 + low


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return digits.images[order].astype(np.float32) / 16, digits.target[order]
