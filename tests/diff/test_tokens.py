import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.diff.tokens import TokenDiff, TokenMetrics
from fqonnx.errors import DataError


def measured(
    expected: np.ndarray, actual: np.ndarray, ids: np.ndarray, mask: np.ndarray | None = None
) -> TokenDiff:
    metrics = TokenMetrics()
    metrics.update(expected, actual, ids, mask)
    result = metrics.result()
    assert result is not None
    return result


def drawn(
    batch: int, length: int, words: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits of two models and tokens."""
    rng = np.random.default_rng(seed)
    expected = 3 * rng.standard_normal((batch, length, words)).astype(np.float32)
    noise = rng.standard_normal(expected.shape).astype(np.float32)
    return expected, expected + noise, rng.integers(0, words, (batch, length))


def assert_same(a: TokenDiff, b: TokenDiff) -> None:
    for name, value in vars(a).items():
        assert value == pytest.approx(getattr(b, name), rel=1e-9, nan_ok=True), name


def test_by_hand() -> None:
    expected = np.log(np.array([[[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]]]))
    actual = np.log(np.array([[[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]]))
    result = measured(expected, actual, np.array([[0, 1, 1]]))
    second, third = 0.5 * math.log(3), 0.5 * math.log(4 / 3)
    assert result.kl_mean == pytest.approx((second + third) / 3)
    assert result.kl_median == pytest.approx(third, rel=1 / 256)
    assert result.kl_p90 == result.kl_p99 == pytest.approx(second, rel=1 / 256)
    assert result.flip_rate == pytest.approx(2 / 3)
    assert result.float_perplexity == pytest.approx(1 / math.sqrt(0.5 * 0.75))
    assert result.compiled_perplexity == pytest.approx(1 / math.sqrt(0.5 * 0.25))
    assert (result.context_length, result.num_tokens) == (3, 3)


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    length=st.integers(2, 6),
    words=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_torch_has_the_same(batch: int, length: int, words: int, seed: int) -> None:
    expected, actual, ids = drawn(batch, length, words, seed)
    result = measured(expected, actual, ids)
    first, second = (
        torch.log_softmax(torch.from_numpy(a).double(), dim=-1) for a in (expected, actual)
    )
    divergence = torch.nn.functional.kl_div(second, first, log_target=True, reduction="none")
    total = divergence.sum().item() / (batch * length)
    assert result.kl_mean == pytest.approx(total, rel=1e-9, abs=1e-12)
    following = torch.from_numpy(ids[:, 1:]).reshape(-1)
    for logits, found in (
        (expected, result.float_perplexity),
        (actual, result.compiled_perplexity),
    ):
        given_by = torch.from_numpy(logits[:, :-1]).double().reshape(-1, words)
        loss = torch.nn.functional.cross_entropy(given_by, following)
        assert found == pytest.approx(loss.exp().item(), rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 6), max_size=3), seed=st.integers(0, 2**31))
def test_batches_give_what_one_batch_gives(cuts: list[int], seed: int) -> None:
    expected, actual, ids = drawn(6, 4, 5, seed)
    mask = np.random.default_rng(seed).integers(0, 2, (6, 4))
    mask[0] = 1
    metrics = TokenMetrics()
    for start, stop in pairwise([0, *sorted(cuts), 6]):
        part = slice(start, stop)
        metrics.update(expected[part], actual[part], ids[part], mask[part])
    result = metrics.result()
    assert result is not None
    assert_same(result, measured(expected, actual, ids, mask))


def test_equal_models_are_not_apart() -> None:
    expected, _, ids = drawn(3, 5, 7)
    result = measured(expected, expected.copy(), ids)
    assert (result.kl_mean, result.kl_median, result.kl_p90, result.kl_p99) == (0.0,) * 4
    assert result.flip_rate == 0.0
    assert result.float_perplexity == result.compiled_perplexity


def test_logits_count_up_to_a_constant() -> None:
    expected, actual, ids = drawn(2, 4, 5)
    shifted = measured(expected + 1000.0, actual.astype(np.float64) - 1000.0, ids)
    for name, value in vars(measured(expected, actual, ids)).items():
        assert getattr(shifted, name) == pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize("padded", [slice(3, None), slice(None, 2)])
def test_padding_on_either_side_does_not_count(padded: slice) -> None:
    expected, actual, ids = drawn(1, 5, 7)
    mask = np.ones((1, 5), np.int64)
    mask[:, padded] = 0
    kept = mask[0] == 1
    without = measured(expected[:, kept], actual[:, kept], ids[:, kept])
    assert without.num_tokens == without.context_length == mask.sum()
    for junk in (0.0, math.nan, math.inf):
        spoiled = np.where(kept[:, None], actual, junk)
        assert_same(measured(expected, spoiled, ids, mask), without)
    for dtype in (np.bool_, np.float32, np.uint8):
        assert_same(measured(expected, actual, ids, mask.astype(dtype)), without)


def test_a_position_predicts_only_the_one_after_it() -> None:
    expected, actual, ids = drawn(1, 5, 7)
    result = measured(expected, actual, ids, np.array([[1, 1, 0, 1, 1]]))
    log_probability = torch.log_softmax(torch.from_numpy(actual[0]).double(), dim=-1)
    loss = -(log_probability[0, ids[0, 1]] + log_probability[3, ids[0, 4]]) / 2
    assert result.compiled_perplexity == pytest.approx(loss.exp().item())
    assert result.num_tokens == 4


def test_lone_tokens_have_a_divergence_and_no_perplexity() -> None:
    expected, actual, ids = drawn(4, 1, 7)
    result = measured(expected, actual, ids)
    assert result.num_tokens == 4
    assert result.context_length == 1
    assert result.kl_mean > 0.0
    assert math.isnan(result.float_perplexity)
    assert math.isnan(result.compiled_perplexity)


def test_tokens_that_are_impossible_to_both_are_no_difference() -> None:
    expected, actual, ids = drawn(2, 4, 6)
    ids = np.minimum(ids, 4)
    without = measured(expected[..., :5], actual[..., :5], ids)
    expected[..., 5] = -math.inf
    one_sided = measured(expected, actual, ids)
    actual[..., 5] = -math.inf
    assert_same(measured(expected, actual, ids), without)
    assert 0.0 < one_sided.kl_mean < math.inf
    assert one_sided.float_perplexity == pytest.approx(without.float_perplexity)


def test_what_the_compiled_model_makes_impossible_is_infinitely_far() -> None:
    expected, actual, _ = drawn(1, 3, 4)
    actual[..., 2] = -math.inf
    result = measured(expected, actual, np.array([[0, 2, 1]]))
    assert result.kl_mean == result.kl_median == result.compiled_perplexity == math.inf
    assert result.float_perplexity < math.inf


def test_what_is_not_a_number_is_the_worst() -> None:
    expected, actual, ids = drawn(1, 3, 4)
    lost = measured(expected, np.full_like(actual, math.nan), ids)
    assert math.isnan(lost.kl_mean)
    assert math.isnan(lost.compiled_perplexity)
    assert lost.kl_median == math.inf
    assert lost.flip_rate == 1.0


def test_halves_do_not_overflow() -> None:
    logits = np.array([[[60000, -60000], [-60000, 60000]]], np.float16)
    result = measured(logits, -logits, np.array([[0, 0]]))
    assert result.kl_mean == pytest.approx(2 * float(logits[0, 0, 0]))
    assert result.flip_rate == 1.0
    assert result.float_perplexity == 1.0
    assert result.compiled_perplexity == math.inf


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_tokens_of_any_integer_type(dtype: type) -> None:
    expected, actual, ids = drawn(2, 4, 5)
    assert measured(expected, actual, ids.astype(dtype)) == measured(expected, actual, ids)


def test_tokens_from_the_end_are_those_of_gather() -> None:
    expected, actual, ids = drawn(2, 4, 5)
    assert measured(expected, actual, ids - 5) == measured(expected, actual, ids)


@pytest.mark.parametrize("token", [5, -6])
def test_tokens_beyond_the_vocabulary_are_refused(token: int) -> None:
    expected, actual, ids = drawn(1, 4, 5)
    ids[0, 2] = token
    with pytest.raises(DataError, match=f"have the token {token}, and the output 5 of them"):
        measured(expected, actual, ids)


def test_no_positions_have_no_measures() -> None:
    metrics = TokenMetrics()
    assert metrics.result() is None
    metrics.update(*drawn(2, 3, 4), np.zeros((2, 3), np.int64))
    assert metrics.result() is None
