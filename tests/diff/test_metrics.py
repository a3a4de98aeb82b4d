import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.diff import CEILINGS, FLOORS, OutputDiff, OutputMetrics, Threshold, judge


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


def assert_lost(result: OutputDiff) -> None:
    """Check that no threshold on the measures of every output is met."""
    thresholds = [Threshold(m, -1e9 if m in FLOORS else 1e9) for m in (*FLOORS, *CEILINGS)]
    known = [threshold for threshold in thresholds if threshold.metric in result.measures()]
    assert len(known) == 6
    assert not any(verdict.met for verdict in judge([result], known))


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
    assert result.mean_abs_diff == 0.75
    assert result.p99_abs_diff == pytest.approx(1.0, rel=1 / 256)
    assert (result.kind, result.classes, result.tokens) == ("numbers", None, None)


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
    result, whole = metrics.result(), measured(expected, actual)
    assert_same(result, whole)
    assert result.mean_abs_diff == pytest.approx(whole.mean_abs_diff, rel=1e-12)
    assert result.p99_abs_diff == whole.p99_abs_diff


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
    assert_lost(result)


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
    assert_lost(result)


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
    assert math.isnan(result.mean_abs_diff)
    assert math.isnan(result.p99_abs_diff)
    assert_lost(result)


def test_inputs_are_left_as_they_were() -> None:
    expected, actual = noisy((2, 3))
    before = expected.copy(), actual.copy()
    measured(expected, actual, np.array([[1, 0, 1], [0, 1, 1]]))
    assert np.array_equal(expected, before[0])
    assert np.array_equal(actual, before[1])


def test_masked_entries_are_in_no_mean() -> None:
    expected, mask = np.zeros((1, 4, 2)), np.array([[1, 1, 0, 0]])
    actual = np.array([[[1.0, 3.0], [1.0, 3.0], [9.0, 9.0], [9.0, 9.0]]])
    assert measured(expected, actual, mask).mean_abs_diff == 2.0
    nothing = measured(expected, actual, mask * 0)
    assert (nothing.mean_abs_diff, nothing.p99_abs_diff, nothing.cosine) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("shape", [(), (7,), (7, 3), (7, 3, 2)])
def test_parts_of_a_batch_give_what_the_batch_gives(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, actual = noisy(shape)
    mask = np.random.default_rng(1).integers(0, 2, (7, 3))
    whole = measured(expected, actual, mask)
    for entries in (1, 13):
        monkeypatch.setattr("fqonnx.diff.metrics._ENTRIES", entries)
        parts = measured(expected, actual, mask)
        assert_same(parts, whole)
        assert parts.mean_abs_diff == pytest.approx(whole.mean_abs_diff, rel=1e-12)
        assert parts.p99_abs_diff == whole.p99_abs_diff


def test_memory_is_that_of_a_sample_not_of_a_batch() -> None:
    words, length = 8192, 128
    row = np.random.default_rng(0).standard_normal((1, length, words), np.float32)
    ids = np.zeros((16, length), np.int64)
    batch = np.broadcast_to(row, (16, length, words))
    tracemalloc.start()
    try:
        metrics = OutputMetrics("y", "tokens")
        metrics.update(batch, batch, ids=ids)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * 8 * row.size  # two batches in float64 are 32 × 8 × that


def test_differences_beyond_float32_are_counted() -> None:
    expected, actual = np.array([[1e300, 0.0]]), np.array([[-1e300, 1.0]])
    with np.errstate(over="ignore"):
        result = measured(expected, actual)
    assert result.max_abs_diff == 2e300
    assert result.p99_abs_diff == math.inf


def test_halves_do_not_overflow() -> None:
    expected, actual = np.full((2, 3), 60000, np.float16), np.full((2, 3), -60000, np.float16)
    result = measured(expected, actual)
    assert result.max_abs_diff == result.mean_abs_diff == 2 * float(expected[0, 0])
    metrics = OutputMetrics("y", "classes")
    metrics.update(expected, actual)
    assert metrics.result().max_abs_diff == result.max_abs_diff


def test_a_mask_of_as_many_positions_as_there_are_classes_hides_no_class() -> None:
    expected, actual = noisy((2, 3))
    metrics = OutputMetrics("y", "classes")
    metrics.update(expected, actual, np.array([[1, 0, 0], [1, 1, 0]]))
    assert_same(metrics.result(), measured(expected, actual))


def test_an_output_of_classes_or_tokens_has_their_measures() -> None:
    expected, actual = noisy((3, 4))
    metrics = OutputMetrics("y", "classes")
    metrics.update(expected, actual, labels=expected.argmax(axis=1))
    result = metrics.result()
    assert result.kind == "classes"
    assert result.classes is not None
    assert result.measures()["float_accuracy"] == 1.0
    assert {"cosine", "top1_agreement", "compiled_accuracy"} <= set(result.measures())
    metrics = OutputMetrics("y", "tokens")
    metrics.update(expected[None], actual[None], np.array([[1, 1, 0]]), ids=np.array([[0, 1, 2]]))
    result = metrics.result()
    assert result.tokens is not None
    assert result.tokens.num_tokens == 2
    assert {"cosine", "kl_mean", "compiled_perplexity"} <= set(result.measures())


def test_what_turns_out_to_be_neither_classes_nor_tokens_is_numbers() -> None:
    for kind, shape in (("classes", (2,)), ("classes", (2, 3, 4)), ("tokens", (2, 1, 4))):
        expected, actual = noisy(shape)
        metrics = OutputMetrics("y", kind)
        metrics.update(expected, actual, ids=np.zeros((2, 3), np.int64))
        assert metrics.result() == measured(expected, actual)


def test_a_mask_of_another_length_is_ignored_for_tokens() -> None:
    expected, actual = noisy((1, 3, 4))
    metrics = OutputMetrics("y", "tokens")
    metrics.update(expected, actual, np.zeros((1, 9), np.int64), ids=np.array([[0, 1, 2]]))
    result = metrics.result()
    assert result.tokens is not None
    assert result.tokens.num_tokens == 3
