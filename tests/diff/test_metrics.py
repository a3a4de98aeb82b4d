import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.diff.metrics import THRESHOLD_METRICS, OutputDiff, OutputMetrics


def measured(
    expected: np.ndarray, actual: np.ndarray, mask: np.ndarray | None = None
) -> OutputDiff:
    metrics = OutputMetrics("y")
    metrics.update(np.asarray(expected), np.asarray(actual), mask)
    return metrics.result()


def noisy(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal(shape)
    return expected, expected + 0.1 * rng.standard_normal(shape)


def assert_same(a: OutputDiff, b: OutputDiff) -> None:
    assert a.num_samples == b.num_samples
    assert a.cosine == pytest.approx(b.cosine, rel=1e-12)
    assert a.sqnr_db == pytest.approx(b.sqnr_db, rel=1e-12)
    assert a.max_abs_diff == b.max_abs_diff


def test_measures_by_hand() -> None:
    expected = np.array([[3.0, 4.0], [1.0, 0.0]])
    actual = np.array([[4.0, 3.0], [1.0, 1.0]])
    result = measured(expected, actual)
    assert result.name == "y"
    assert result.num_samples == 2
    assert result.cosine == pytest.approx((24 / 25 + 1 / math.sqrt(2)) / 2)
    assert result.sqnr_db == pytest.approx(10 * math.log10(26 / 3))
    assert result.max_abs_diff == 1.0
    assert result.max_sample_error == pytest.approx(math.sqrt(2))


@settings(deadline=None, max_examples=40)
@given(
    cuts=st.lists(st.integers(0, 12), max_size=4),
    inner=st.sampled_from([(), (5,), (4, 3), (2, 3, 2)]),
    seed=st.integers(0, 2**31),
)
def test_batches_give_what_one_batch_gives(
    cuts: list[int], inner: tuple[int, ...], seed: int
) -> None:
    expected, actual = noisy((12, *inner), seed)
    metrics = OutputMetrics("y")
    edges = [0, *sorted(cuts), 12]
    for start, stop in pairwise(edges):
        metrics.update(expected[start:stop], actual[start:stop])
    assert_same(metrics.result(), measured(expected, actual))


def test_equal_outputs_are_perfect() -> None:
    expected, _ = noisy((3, 4))
    result = measured(expected, expected.copy())
    assert result.cosine == pytest.approx(1.0)
    assert result.sqnr_db == math.inf
    assert result.max_abs_diff == 0.0


def test_opposite_outputs_have_cosine_minus_one() -> None:
    expected, _ = noisy((3, 4))
    result = measured(expected, -expected)
    assert result.cosine == pytest.approx(-1.0)
    assert result.sqnr_db == pytest.approx(10 * math.log10(1 / 4))


def test_cosine_weighs_samples_alike_and_sqnr_weighs_their_energy() -> None:
    expected = np.array([[100.0, 0.0], [1.0, 0.0]])
    actual = np.array([[100.0, 0.0], [0.0, 1.0]])
    result = measured(expected, actual)
    assert result.cosine == pytest.approx(0.5)
    assert result.sqnr_db == pytest.approx(10 * math.log10(10001 / 2))


def test_different_shapes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"output 'y': shapes \(2, 3\) and \(3, 2\)"):
        OutputMetrics("y").update(np.zeros((2, 3)), np.zeros((3, 2)))


def test_masked_positions_do_not_count() -> None:
    expected, actual = noisy((2, 3, 4))
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    spoiled = actual.copy()
    spoiled[mask == 0] = 1e6
    kept = np.where(mask[..., None] == 0, 0.0, 1.0)
    assert_same(measured(expected, spoiled, mask), measured(expected * kept, actual * kept))


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_junk_at_masked_positions_does_not_count(junk: float) -> None:
    expected, actual = noisy((2, 3, 4))
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int64)
    clean = measured(expected, actual, mask)
    actual[0, 2, 1] = junk
    assert_same(measured(expected, actual, mask), clean)
    expected[0, 2, 0] = junk
    assert_same(measured(expected, actual, mask), clean)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_])
def test_mask_of_any_type(dtype: type) -> None:
    expected, actual = noisy((2, 3))
    mask = np.array([[1, 0, 1], [1, 1, 0]])
    without = measured(expected * mask, actual * mask)
    assert_same(measured(expected, actual, mask.astype(dtype)), without)


@pytest.mark.parametrize("shape", [(), (2,), (2, 5), (3, 3), (2, 4, 3)])
def test_a_mask_of_other_axes_is_ignored(shape: tuple[int, ...]) -> None:
    expected, actual = noisy(shape)
    mask = np.zeros((2, 3), np.int64)
    assert_same(measured(expected, actual, mask), measured(expected, actual))


def test_equal_infinities_are_no_difference() -> None:
    expected = np.array([[1.0, math.inf, 2.0], [-math.inf, 3.0, 4.0]])
    actual = np.array([[1.5, math.inf, 2.0], [-math.inf, 3.0, 4.0]])
    finite = np.where(np.isfinite(expected), expected, 0)
    assert_same(measured(expected, actual), measured(finite, np.where(np.isinf(actual), 0, actual)))
    result = measured(expected, expected.copy())
    assert (result.cosine, result.sqnr_db) == (pytest.approx(1.0), math.inf)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ([[1.0, math.nan]], [[1.0, 2.0]]),
        ([[1.0, 2.0]], [[1.0, math.nan]]),
        ([[1.0, math.nan]], [[1.0, math.nan]]),
    ],
)
def test_nan_makes_every_measure_nan(
    expected: list[list[float]], actual: list[list[float]]
) -> None:
    metrics = OutputMetrics("y")
    metrics.update(np.array(expected), np.array(actual))
    good, bad = noisy((4, 2))
    metrics.update(good, bad)
    result = metrics.result()
    assert math.isnan(result.cosine)
    assert math.isnan(result.sqnr_db)
    assert math.isnan(result.max_abs_diff)
    assert result.num_samples == 5
    assert all(result.misses(metric, -1e9) for metric in THRESHOLD_METRICS)


ONE_SIDED_INFINITIES = pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ([[1.0, 2.0]], [[1.0, math.inf]]),
        ([[1.0, math.inf]], [[1.0, 2.0]]),
        ([[1.0, math.inf]], [[1.0, -math.inf]]),
        ([[1.0, 0.0]], [[1.0, math.inf]]),
    ],
)


@ONE_SIDED_INFINITIES
def test_an_infinity_on_one_side_is_the_worst_result(
    expected: list[list[float]], actual: list[list[float]]
) -> None:
    with np.errstate(invalid="ignore"):
        result = measured(np.array(expected), np.array(actual))
    assert result.max_abs_diff == math.inf
    assert all(result.misses(metric, -1e9) for metric in THRESHOLD_METRICS)


@ONE_SIDED_INFINITIES
def test_an_infinity_on_one_side_gives_no_warning(
    expected: list[list[float]], actual: list[list[float]]
) -> None:
    OutputMetrics("y").update(np.array(expected), np.array(actual))


def test_zero_rows() -> None:
    zeros, ones = np.zeros((1, 3)), np.ones((1, 3))
    assert measured(zeros, zeros).cosine == 1.0
    assert measured(zeros, zeros).sqnr_db == math.inf
    assert measured(zeros, ones).cosine == 0.0
    assert measured(zeros, ones).sqnr_db == -math.inf
    assert measured(ones, zeros).cosine == 0.0
    assert measured(ones, zeros).sqnr_db == pytest.approx(0.0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_integers_do_not_wrap(dtype: type) -> None:
    expected, actual = np.array([[0, 1]], dtype), np.array([[1, 0]], dtype)
    result = measured(expected, actual)
    assert result.max_abs_diff == 1.0
    assert result.cosine == 0.0
    assert result.sqnr_db == pytest.approx(10 * math.log10(1 / 2))


def test_large_integers_and_halves_are_summed_in_float64() -> None:
    assert measured(np.array([[-128]], np.int8), np.array([[127]], np.int8)).max_abs_diff == 255
    half = np.full((1, 1000), 200.0, np.float16)
    assert measured(half, half + np.float16(1)).sqnr_db == pytest.approx(20 * math.log10(200))


def test_a_scalar_output_is_one_sample() -> None:
    result = measured(np.array(2.0), np.array(1.0))
    assert result.num_samples == 1
    assert result.cosine == pytest.approx(1.0)
    assert result.max_abs_diff == 1.0


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_an_empty_batch_adds_nothing(shape: tuple[int, ...]) -> None:
    expected, actual = noisy((3, 4))
    metrics = OutputMetrics("y")
    metrics.update(np.zeros(shape), np.zeros(shape))
    assert metrics.result().num_samples == 0
    metrics.update(expected, actual)
    metrics.update(np.zeros(shape), np.zeros(shape))
    assert_same(metrics.result(), measured(expected, actual))


def test_nothing_compared_is_not_a_number() -> None:
    result = OutputMetrics("y").result()
    assert result.num_samples == 0
    assert math.isnan(result.cosine)
    assert math.isnan(result.sqnr_db)
    assert math.isnan(result.max_abs_diff)
    assert result.misses("cosine", 0.0)


def test_misses() -> None:
    result = OutputDiff("y", 0.9, math.inf, max_abs_diff=1.0, max_sample_error=2.0, num_samples=1)
    assert not result.misses("cosine", 0.89)
    assert not result.misses("cosine", 0.9)
    assert result.misses("cosine", 0.91)
    assert not result.misses("sqnr_db", 1e9)
    lost = OutputDiff(
        "y", math.nan, -math.inf, max_abs_diff=1.0, max_sample_error=2.0, num_samples=1
    )
    assert lost.misses("cosine", -1.0)
    assert lost.misses("sqnr_db", 0.0)
    assert result.misses("cosine", math.nan)


def test_inputs_are_left_as_they_were() -> None:
    expected, actual = noisy((2, 3))
    before = expected.copy(), actual.copy()
    measured(expected, actual, np.array([[1, 0, 1], [0, 1, 1]]))
    assert np.array_equal(expected, before[0])
    assert np.array_equal(actual, before[1])
