import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fqonnx.diff.quantiles import Quantiles

FRACTIONS = (0.0, 0.5, 0.9, 0.99, 1.0)
FINITE = st.floats(2.0**-120, 2.0**120) | st.just(0.0)


def quantiles(*batches: np.ndarray) -> list[float]:
    counted = Quantiles()
    for batch in batches:
        counted.update(batch)
    return [counted.at(fraction) for fraction in FRACTIONS]


@settings(deadline=None, max_examples=100)
@given(values=arrays(np.float64, st.integers(1, 300), elements=FINITE))
def test_numpy_has_the_same_within_a_bin(values: np.ndarray) -> None:
    exact = np.quantile(values, FRACTIONS, method="inverted_cdf")
    for found, least in zip(quantiles(values), exact, strict=True):
        assert least * (1 - 2**-23) <= found <= least * (1 + 1 / 256)


@settings(deadline=None, max_examples=30)
@given(
    values=arrays(np.float32, 40, elements=st.floats(0, 2.0**100, width=32)),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_batches_give_what_one_batch_gives(values: np.ndarray, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 40]
    assert quantiles(*(values[a:b] for a, b in pairwise(edges))) == quantiles(values)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_and_axes_do_not_matter(dtype: type) -> None:
    values = np.arange(1, 101, dtype=dtype).reshape(4, 25)
    assert quantiles(values) == quantiles(values.astype(np.float64).reshape(-1))
    assert quantiles(values)[3] == pytest.approx(99.0, rel=1 / 256)


def test_zeros_are_zero() -> None:
    assert quantiles(np.zeros(5), -np.zeros(5)) == [0.0] * 5
    assert quantiles(np.array([0.0, 0.0, 1e-44, 1.0]))[:2] == [0.0, 0.0]


def test_no_number_counts_as_infinite() -> None:
    assert quantiles(np.array([1.0, math.nan, math.inf, 1e300]))[1:] == [math.inf] * 4
    values = np.append(np.ones(99), math.nan)
    assert quantiles(values)[3:] == [pytest.approx(1.0, rel=1 / 256), math.inf]


def test_the_largest_float32_is_finite() -> None:
    largest = np.finfo(np.float32).max
    assert quantiles(np.array([largest])) == [largest] * 5


def test_nothing_has_no_quantile() -> None:
    assert all(map(math.isnan, quantiles()))
    assert all(map(math.isnan, quantiles(np.zeros(0), np.zeros((0, 3), np.float32))))


def test_what_is_counted_stays_as_it_was() -> None:
    values = np.array([1.0, math.nan, 0.0], np.float32)
    before = values.copy()
    quantiles(values)
    assert np.array_equal(values, before, equal_nan=True)
