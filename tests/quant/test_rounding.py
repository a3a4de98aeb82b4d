from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.quant import (
    UniformAlphabet,
    coordinate_descent,
    damped,
    gaussian_alphabet,
    hessian_error,
    ldlq,
    ldlq_feedback,
    min_max_alphabet,
    two_sigma_alphabet,
)

AROUND_THE_BLOCK = pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 130])
BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])
SEEDS = st.integers(0, 2**31)
KINDS = ("mid-rise", "two-sigma", "min-max")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def correlated_hessian(size: int, seed: int = 0, damping: float = 0.05) -> torch.Tensor:
    mixing = normal(size, max(1, size // 3), seed=seed, dtype=torch.float64)
    rows = normal(4 * size, mixing.shape[1], seed=seed + 1, dtype=torch.float64) @ mixing.T
    return damped(rows.T @ rows / len(rows), damping)


def alphabet_of(kind: str, coeffs: torch.Tensor, bits: int) -> UniformAlphabet:
    if kind == "mid-rise":
        return gaussian_alphabet(coeffs, bits)
    if kind == "two-sigma":
        return two_sigma_alphabet(coeffs, bits)[0]
    return min_max_alphabet(coeffs, bits, group_size=20)


def in_double(alphabet: UniformAlphabet) -> UniformAlphabet:
    zero_point = None if alphabet.zero_point is None else alphabet.zero_point.double()
    return replace(alphabet, step=alphabet.step.double(), zero_point=zero_point)


def gptq_by_the_book(
    coeffs: torch.Tensor, hessian: torch.Tensor, alphabet: UniformAlphabet
) -> torch.Tensor:
    remaining, alphabet = coeffs.double().clone(), in_double(alphabet)
    inverse_root = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    quantized = torch.zeros_like(remaining)
    for k in range(len(remaining)):
        quantized[k] = alphabet.nearest(remaining[[k]], k)
        error = (remaining[k] - quantized[k]) / inverse_root[k, k]
        remaining[k:] -= torch.outer(inverse_root[k, k:], error)
    return quantized


def descent_by_the_book(
    coeffs: torch.Tensor,
    quantized: torch.Tensor,
    hessian: torch.Tensor,
    alphabet: UniformAlphabet,
    sweeps: int,
) -> torch.Tensor:
    coeffs, quantized, alphabet = coeffs.double(), quantized.double().clone(), in_double(alphabet)
    for _ in range(sweeps):
        for k in range(len(coeffs)):
            gradient = hessian[k] @ (quantized - coeffs)
            quantized[k] = alphabet.nearest((quantized[k] - gradient / hessian[k, k])[None], k)
    return quantized


def same_columns(a: torch.Tensor, b: torch.Tensor, alphabet: UniformAlphabet) -> torch.Tensor:
    # One tie that falls the other way changes the whole rest of its column, so columns count.
    return ((a - b).abs() <= 1e-4 * alphabet.step.amax(0)).all(dim=0)


def on_alphabet(values: torch.Tensor, alphabet: UniformAlphabet) -> bool:
    return torch.allclose(alphabet.values(alphabet.codes(values)), values, rtol=1e-4, atol=1e-6)


def total(error: torch.Tensor, hessian: torch.Tensor) -> float:
    return hessian_error(error.double(), hessian).sum().item()


def test_hessian_error_is_the_quadratic_form_of_each_column() -> None:
    hessian, error = correlated_hessian(7), normal(7, 4, dtype=torch.float64)
    expected = [error[:, j] @ hessian @ error[:, j] for j in range(4)]
    assert torch.allclose(hessian_error(error, hessian), torch.stack(expected))


def test_damping_adds_a_part_of_the_mean_diagonal() -> None:
    hessian = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[4.3, 1.0], [1.0, 2.3]], dtype=torch.float64)
    assert torch.allclose(damped(hessian, 0.1), expected)


@pytest.mark.parametrize("damping", [0.0, 0.05, 1.0])
def test_zero_hessian_becomes_the_identity(damping: float) -> None:
    result = damped(torch.zeros(5, 5, dtype=torch.float64), damping)
    assert torch.equal(result, torch.eye(5, dtype=torch.float64))


def test_damping_leaves_its_argument_alone_and_makes_it_definite() -> None:
    hessian = torch.ones(6, 6, dtype=torch.float64)
    result = damped(hessian, 0.05)
    assert torch.equal(hessian, torch.ones(6, 6, dtype=torch.float64))
    assert torch.linalg.eigvalsh(result).min() > 0.04


@EVERY_KIND
@AROUND_THE_BLOCK
@BITS
def test_ldlq_with_a_diagonal_hessian_is_round_to_nearest(size: int, bits: int, kind: str) -> None:
    coeffs = normal(size, 9)
    diagonal = torch.rand(size, generator=torch.Generator().manual_seed(3)).double() + 0.1
    alphabet = alphabet_of(kind, coeffs, bits)
    result = ldlq(coeffs, ldlq_feedback(torch.diag(diagonal)), alphabet)
    assert torch.allclose(result, alphabet.nearest(coeffs), atol=1e-6)


@EVERY_KIND
@AROUND_THE_BLOCK
@pytest.mark.parametrize("bits", [2, 4])
def test_ldlq_is_gptq(size: int, bits: int, kind: str) -> None:
    coeffs, hessian = normal(size, 40, seed=size), correlated_hessian(size)
    alphabet = alphabet_of(kind, coeffs, bits)
    result = ldlq(coeffs, ldlq_feedback(hessian), alphabet)
    expected = gptq_by_the_book(coeffs, hessian, alphabet)
    assert same_columns(result, expected, alphabet).sum() >= 38
    assert total(result - coeffs, hessian) == pytest.approx(
        total(expected - coeffs, hessian), rel=0.02
    )


@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 90), bits=st.integers(1, 4), kind=st.sampled_from(KINDS), seed=SEEDS)
def test_ldlq_is_gptq_for_any_hessian(size: int, bits: int, kind: str, seed: int) -> None:
    coeffs, hessian = normal(size, 30, seed=seed), correlated_hessian(size, seed)
    alphabet = alphabet_of(kind, coeffs, bits)
    result = ldlq(coeffs, ldlq_feedback(hessian), alphabet)
    expected = gptq_by_the_book(coeffs, hessian, alphabet)
    assert same_columns(result, expected, alphabet).sum() >= 28


def test_two_rows_by_hand() -> None:
    # With H = [[1, ½], [½, 1]] the second row is aimed at c₂ + ½·(c₁ − ĉ₁).
    hessian = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    coeffs = torch.tensor([[0.9, 0.9], [-0.1, -0.3]])
    result = ldlq(coeffs, ldlq_feedback(hessian), UniformAlphabet(2, torch.ones(1, 2)))
    assert torch.allclose(result, torch.tensor([[0.5, 0.5], [0.5, -0.5]]))


@EVERY_KIND
@AROUND_THE_BLOCK
@BITS
def test_ldlq_stays_on_the_alphabet(size: int, bits: int, kind: str) -> None:
    coeffs = normal(size, 8, seed=5)
    alphabet = alphabet_of(kind, coeffs, bits)
    result = ldlq(coeffs, ldlq_feedback(correlated_hessian(size)), alphabet)
    assert result.dtype == torch.float32
    assert on_alphabet(result, alphabet)


@EVERY_KIND
@BITS
@pytest.mark.parametrize("size", [20, 65, 130])
def test_ldlq_is_better_than_nearest_where_rows_are_correlated(
    bits: int, size: int, kind: str
) -> None:
    coeffs, hessian = normal(size, 64, seed=2), correlated_hessian(size)
    alphabet = alphabet_of(kind, coeffs, bits)
    feedback = total(ldlq(coeffs, ldlq_feedback(hessian), alphabet) - coeffs, hessian)
    nearest = total(alphabet.nearest(coeffs) - coeffs, hessian)
    assert feedback < nearest
    if bits >= 2:  # at one bit most of the error is clipping, which feedback cannot mend
        assert feedback < 0.8 * nearest


@settings(deadline=None, max_examples=20)
@given(size=st.integers(2, 80), bits=st.integers(1, 4), seed=SEEDS)
def test_ldlq_is_on_average_no_worse_than_nearest(size: int, bits: int, seed: int) -> None:
    coeffs, hessian = normal(size, 200, seed=seed), correlated_hessian(size, seed)
    alphabet = gaussian_alphabet(coeffs, bits)
    feedback = total(ldlq(coeffs, ldlq_feedback(hessian), alphabet) - coeffs, hessian)
    assert feedback <= total(alphabet.nearest(coeffs) - coeffs, hessian)


def test_ldlq_treats_columns_independently() -> None:
    coeffs, hessian = normal(70, 6), correlated_hessian(70)
    alphabet = gaussian_alphabet(coeffs, 2)
    together = ldlq(coeffs, ldlq_feedback(hessian), alphabet)
    columns = [coeffs[:, [j]] for j in range(6)]
    alone = torch.cat(
        [ldlq(c, ldlq_feedback(hessian), gaussian_alphabet(c, 2)) for c in columns], dim=1
    )
    assert same_columns(together, alone, alphabet).sum() >= 5


def test_ldlq_does_not_depend_on_the_scale_of_the_hessian() -> None:
    coeffs, hessian = normal(65, 20), correlated_hessian(65)
    alphabet = gaussian_alphabet(coeffs, 2)
    small = ldlq(coeffs, ldlq_feedback(hessian * 1e-12), alphabet)
    assert same_columns(small, ldlq(coeffs, ldlq_feedback(hessian), alphabet), alphabet).sum() >= 19


@EVERY_KIND
def test_zero_step_gives_zeros(kind: str) -> None:
    coeffs, hessian = normal(66, 3), correlated_hessian(66)
    coeffs[:, 1] = 0
    alphabet = alphabet_of(kind, coeffs, 2)
    result = ldlq(coeffs, ldlq_feedback(hessian), alphabet)
    assert torch.equal(result[:, 1], torch.zeros(66))
    result = coordinate_descent(coeffs, result, hessian, alphabet, 2)
    assert torch.equal(result[:, 1], torch.zeros(66))


@pytest.mark.parametrize("function", ["ldlq", "coordinate_descent"])
def test_arguments_are_left_as_they_were(function: str) -> None:
    coeffs, hessian = normal(70, 3), correlated_hessian(70)
    alphabet = gaussian_alphabet(coeffs, 2)
    quantized = alphabet.nearest(coeffs)
    arguments = (coeffs, hessian, alphabet.step, quantized)
    before = [argument.clone() for argument in arguments]
    if function == "ldlq":
        ldlq(coeffs, ldlq_feedback(hessian), alphabet)
    else:
        coordinate_descent(coeffs, quantized, hessian, alphabet, 2)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


@AROUND_THE_BLOCK
@BITS
@pytest.mark.parametrize("start", ["nearest", "ldlq"])
def test_descent_never_increases_any_column(size: int, bits: int, start: str) -> None:
    coeffs, hessian = normal(size, 12, seed=size), correlated_hessian(size)
    alphabet = gaussian_alphabet(coeffs, bits)
    quantized = alphabet.nearest(coeffs)
    if start == "ldlq":
        quantized = ldlq(coeffs, ldlq_feedback(hessian), alphabet)
    losses = hessian_error((quantized - coeffs).double(), hessian)
    for _ in range(4):
        quantized = coordinate_descent(coeffs, quantized, hessian, alphabet, 1)
        after = hessian_error((quantized - coeffs).double(), hessian)
        assert (after <= losses * (1 + 1e-4) + 1e-12).all()
        losses = after
        assert on_alphabet(quantized, alphabet)


@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 80), bits=st.integers(1, 4), kind=st.sampled_from(KINDS), seed=SEEDS)
def test_descent_never_increases_for_any_hessian(
    size: int, bits: int, kind: str, seed: int
) -> None:
    coeffs, hessian = normal(size, 10, seed=seed), correlated_hessian(size, seed, damping=0.01)
    alphabet = alphabet_of(kind, coeffs, bits)
    quantized = alphabet.nearest(coeffs)
    before = hessian_error((quantized - coeffs).double(), hessian)
    result = coordinate_descent(coeffs, quantized, hessian, alphabet, 3)
    after = hessian_error((result - coeffs).double(), hessian)
    assert (after <= before * (1 + 1e-4)).all()


@EVERY_KIND
@AROUND_THE_BLOCK
def test_descent_is_the_textbook_one(size: int, kind: str) -> None:
    coeffs, hessian = normal(size, 40, seed=size), correlated_hessian(size)
    alphabet = alphabet_of(kind, coeffs, 2)
    start = alphabet.nearest(coeffs)
    result = coordinate_descent(coeffs, start, hessian, alphabet, 2)
    expected = descent_by_the_book(coeffs, start, hessian, alphabet, 2)
    assert same_columns(result, expected, alphabet).sum() >= 38
    if size > 60:
        assert not torch.equal(result, start)


@pytest.mark.parametrize("size", [10, 65])
def test_descent_ends_where_no_single_change_helps(size: int) -> None:
    coeffs, hessian = normal(size, 5), correlated_hessian(size)
    alphabet = gaussian_alphabet(coeffs, 2)
    start = alphabet.nearest(coeffs)
    result = coordinate_descent(coeffs, start, hessian, alphabet, 60)
    assert torch.equal(coordinate_descent(coeffs, result, hessian, alphabet, 1), result)
    error = (result - coeffs).double()
    least = hessian_error(error, hessian)
    for code in range(4):
        change = alphabet.values(torch.full((size, 5), code)).double() - result
        gain = 2 * change * (hessian @ error) + change.square() * hessian.diagonal()[:, None]
        assert (gain >= -1e-4 * least).all()


@BITS
def test_descent_in_one_dimension_finds_the_nearest_level_and_stays(bits: int) -> None:
    coeffs, hessian = normal(1, 50), torch.tensor([[2.5]], dtype=torch.float64)
    alphabet = UniformAlphabet(bits, torch.full((1, 50), 0.7))
    nearest = alphabet.nearest(coeffs)
    worst = alphabet.values(torch.zeros(1, 50, dtype=torch.uint8))
    assert torch.allclose(coordinate_descent(coeffs, worst, hessian, alphabet, 1), nearest)
    assert torch.equal(coordinate_descent(coeffs, nearest, hessian, alphabet, 3), nearest)


def test_no_sweep_changes_nothing() -> None:
    coeffs, hessian = normal(9, 4), correlated_hessian(9)
    alphabet = gaussian_alphabet(coeffs, 2)
    start = alphabet.nearest(coeffs)
    assert torch.equal(coordinate_descent(coeffs, start, hessian, alphabet, 0), start)
