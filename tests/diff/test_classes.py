import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.diff.classes import ClassDiff, ClassMetrics
from fqonnx.errors import DataError


def measured(
    expected: np.ndarray, actual: np.ndarray, labels: np.ndarray | None = None
) -> ClassDiff:
    metrics = ClassMetrics()
    metrics.update(expected, actual, labels)
    result = metrics.result()
    assert result is not None
    return result


def scores(*best: int, classes: int = 8) -> np.ndarray:
    """Return rows whose best class is given, and the others the better the lower."""
    rows = np.tile(-np.arange(classes, dtype=np.float32), (len(best), 1))
    rows[np.arange(len(best)), best] = 1.0
    return rows


def test_by_hand() -> None:
    expected, actual = scores(0, 0, 0, 0), scores(0, 4, 5, 7)
    assert measured(expected, actual) == ClassDiff(0.25, 0.5)
    labels = np.array([0, 4, 0, 7])
    assert measured(expected, actual, labels) == ClassDiff(0.25, 0.5, 0.5, 0.75)


def test_equal_scores_agree() -> None:
    expected = np.random.default_rng(0).standard_normal((20, 6))
    assert measured(expected, expected.copy()) == ClassDiff(1.0, 1.0)


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 2**31))
def test_batches_give_what_one_batch_gives(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected, actual = rng.integers(0, 9, (2, 12, 10))
    labels = rng.integers(0, 10, 12)
    metrics = ClassMetrics()
    for start, stop in pairwise([0, *sorted(cuts), 12]):
        metrics.update(expected[start:stop], actual[start:stop], labels[start:stop])
    assert metrics.result() == measured(expected, actual, labels)


def test_five_best_by_sorting() -> None:
    rng = np.random.default_rng(1)
    expected, actual = rng.standard_normal((2, 200, 12))
    best = np.argsort(-expected, axis=1)[:, :5]
    among = (best == actual.argmax(axis=1)[:, None]).any(axis=1).mean()
    assert measured(expected, actual).top5_agreement == among


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.bool_])
def test_scores_of_any_type(dtype: type) -> None:
    expected = np.eye(3, dtype=dtype)
    assert measured(expected, expected, np.arange(3)) == ClassDiff(1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_type(dtype: type) -> None:
    labels = np.array([0, 1, 2], dtype)
    result = measured(scores(0, 1, 1), scores(0, 0, 2), labels)
    assert (result.float_accuracy, result.compiled_accuracy) == (2 / 3, 2 / 3)


def test_a_sample_that_is_not_a_number_has_no_class() -> None:
    expected, lost = scores(0, 0), scores(0, 0)
    lost[:, 0] = math.nan
    labels = np.array([0, 0])
    assert measured(expected, lost, labels) == ClassDiff(0.0, 0.0, 1.0, 0.0)
    assert measured(lost, expected, labels) == ClassDiff(0.0, 0.0, 0.0, 1.0)
    assert measured(lost, lost, labels) == ClassDiff(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("label", [-1, 8, 1000])
def test_labels_beyond_the_classes_are_refused(label: int) -> None:
    with pytest.raises(DataError, match=f"found {label}, and the output has the classes 0 to 7"):
        measured(scores(0, 1), scores(0, 1), np.array([0, label]))


def test_labels_of_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="3 samples gave 2 rows of scores"):
        measured(scores(0, 1), scores(0, 1), np.array([0, 1, 1]))


def test_no_samples_have_no_measures() -> None:
    assert ClassMetrics().result() is None
