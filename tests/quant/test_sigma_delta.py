import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fqonnx.config import METHODS
from fqonnx.frames import Frame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.frames.harmonic import least_harmonic_size
from fqonnx.quant import (
    Guarantee,
    UniformAlphabet,
    quantize_weight,
    range_alphabet,
    sigma_delta,
    spectral_bounds,
    variation_bounds,
)

BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])
ORDERS = pytest.mark.parametrize("order", [1, 2])
SEEDS = st.integers(0, 2**31)
COLUMNS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gaussian": lambda x: x,
    "heavy tails": lambda x: x**3,
    "constant": lambda x: x[:1].expand_as(x),
    "one-hot": lambda x: (x == x.amax(0)).double(),
    "zero": torch.zeros_like,
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rounded(
    weight: torch.Tensor, frame: HarmonicFrame, bits: int, order: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return C − Ĉ in steps, what is lost of each column, and what may be lost by both bounds."""
    coeffs = frame.analysis(weight.T).T
    alphabet = range_alphabet(coeffs, bits, order)
    quantized, states = sigma_delta(coeffs, alphabet, order)
    error = coeffs - quantized
    arguments = frame, alphabet.step[0], states, order
    bounds = torch.stack([variation_bounds(*arguments), spectral_bounds(*arguments)])
    steps = torch.where(alphabet.step > 0, error / alphabet.step, 0.0)
    return steps, frame.synthesis(error.T).norm(dim=1), bounds


def by_the_book(column: list[float], step: float, bits: int, order: int) -> list[float]:
    """Return the differences of the state of one column from the levels, in plain Python."""
    levels = [(code - (2**bits - 1) / 2) * step for code in range(2**bits)]
    u = v = 0.0
    quantized = []
    for c in column:
        target = c + u + (0.0 if order == 1 else v / 2 if bits == 1 else v)
        q = min(levels, key=lambda level: abs(level - target))
        u, v = u + c - q, v + u + c - q
        quantized.append(q)
    return quantized


@BITS
@ORDERS
@pytest.mark.parametrize("seed", range(3))
def test_rounds_as_the_book_says(bits: int, order: int, seed: int) -> None:
    coeffs = normal(70, 4, seed=seed)
    alphabet = range_alphabet(coeffs, bits, order)
    before = coeffs.clone()
    quantized, states = sigma_delta(coeffs, alphabet, order)
    assert torch.equal(coeffs, before)
    for j in range(4):
        step = alphabet.step[0, j].item()
        expected = by_the_book(coeffs[:, j].tolist(), step, bits, order)
        assert quantized[:, j].tolist() == pytest.approx(expected, abs=1e-12)
    # The state is the sum of what was lost, once or twice.
    state = (coeffs - quantized).cumsum(0)
    state = state if order == 1 else state.cumsum(0)
    assert torch.allclose(states, state.abs().amax(0) / alphabet.step[0], rtol=1e-9)


def test_six_coefficients_by_hand() -> None:
    coeffs = torch.tensor([[0.25], [0.25], [0.25], [0.25], [-0.5], [0.5]])
    quantized, states = sigma_delta(coeffs, UniformAlphabet(1, torch.tensor([[1.0]])))
    # What is rounded: ¼, 0 (a tie: up), −¼, ½, −½, ½; the state: −¼, −½, ¼, 0, 0, 0.
    assert quantized.flatten().tolist() == [0.5, 0.5, -0.5, 0.5, -0.5, 0.5]
    assert states.tolist() == [0.5]


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(1, 4), rows=st.integers(1, 80), seed=SEEDS)
def test_the_state_is_within_half_a_step_where_that_is_proven(
    bits: int, rows: int, seed: int
) -> None:
    # Whatever the coefficients: these are of no frame, and many of them the largest.
    coeffs = (normal(rows, 20, seed=seed) * 3).clamp(-1, 1)
    for order in (1, 2) if bits == 4 else (1,):
        alphabet = range_alphabet(coeffs, bits, order)
        quantized, states = sigma_delta(coeffs, alphabet, order)
        assert (states <= 0.5 + 1e-12).all()
        assert torch.equal(alphabet.nearest(quantized), quantized)


def test_four_bits_of_order_two_are_stable_for_the_weight_that_changes_nothing() -> None:
    # With one step of headroom, as at fewer bits, column 53 took the state beyond two steps.
    steps, _, _ = rounded(torch.eye(73, dtype=torch.float64), HarmonicFrame(73, 106), 4, 2)
    assert steps.cumsum(0).cumsum(0).abs().max() <= 0.5 + 1e-12


@settings(deadline=None, max_examples=120)
@given(
    dim=st.integers(1, 80),
    more=st.integers(0, 200),
    bits=st.integers(1, 4),
    order=st.integers(1, 2),
    kind=st.sampled_from(list(COLUMNS)),
    size=st.floats(1e-3, 1e3),
    seed=SEEDS,
)
@example(dim=1, more=0, bits=2, order=2, kind="gaussian", size=1.0, seed=0)
@example(dim=2, more=0, bits=1, order=1, kind="gaussian", size=1.0, seed=0)
@example(dim=16, more=0, bits=4, order=2, kind="one-hot", size=1.0, seed=0)
def test_no_column_loses_more_than_its_bound(
    dim: int, more: int, bits: int, order: int, kind: str, size: float, seed: int
) -> None:
    frame = HarmonicFrame(dim, least_harmonic_size(dim) + more)
    weight = COLUMNS[kind](normal(dim, 6, seed=seed)) * size
    _, lost, bounds = rounded(weight, frame, bits, order)
    assert (lost <= bounds * (1 + 1e-9)).all()
    if kind == "zero":
        assert torch.equal(bounds, torch.zeros(2, 6, dtype=torch.float64))


def test_the_bound_is_nearly_reached_by_three_vectors_in_the_plane() -> None:
    _, lost, bounds = rounded(normal(2, 20_000), HarmonicFrame(2, 3), 2, 1)
    assert 0.75 < (lost / bounds).max() <= 1.0


@BITS
def test_the_bound_of_order_one_is_as_far_off_as_lengths_are_from_squares(bits: int) -> None:
    # A state that is white and uniform within ±½ has √(N/12) where the bound has N/2.
    frame = HarmonicFrame.create(64, 3.0)
    _, lost, (variation, _) = rounded(normal(64, 200), frame, bits, 1)
    white = math.sqrt(3 * frame.num_vectors)
    assert 0.8 * white < (variation / lost).median() < 1.5 * white


@ORDERS
@pytest.mark.parametrize("dim", [64, 65, 256])
def test_the_spectral_bound_is_smaller_by_the_root_of_dim(dim: int, order: int) -> None:
    _, lost, (variation, spectral) = rounded(normal(dim, 50), HarmonicFrame(dim, 4 * dim), 2, order)
    assert (spectral < 3.0 / math.sqrt(dim) * variation).all()
    assert (spectral < 10 * order * lost).all()


@settings(deadline=None, max_examples=60)
@given(half=st.integers(1, 20), more=st.integers(1, 40), bits=st.integers(1, 4), seed=SEEDS)
def test_the_state_returns_only_for_even_dim_and_even_vectors(
    half: int, more: int, bits: int, seed: int
) -> None:
    for dim, extra in ((2 * half, 2 * more), (2 * half, 2 * more - 1), (2 * half + 1, 2 * more)):
        frame = HarmonicFrame(dim, dim + extra)
        steps, _, (bounds, _) = rounded(normal(dim, 5, seed=seed), frame, bits, 1)
        last = steps.sum(0).abs()
        coeffs = frame.analysis(normal(dim, 5, seed=seed).T).T
        delta = range_alphabet(coeffs, bits).step[0] * math.sqrt(frame.redundancy)
        with_end = delta / 2 / frame.redundancy * (frame.variation() + 1.0)
        without_end = delta / 2 / frame.redundancy * frame.variation()
        if dim % 2 == 0 and frame.num_vectors % 2 == 0:
            assert last.max() < 1e-9
            assert torch.allclose(bounds, without_end)
        else:
            assert last.max() > 1e-3
            assert torch.allclose(bounds, with_end)
        if dim % 2 == 0 and frame.num_vectors % 2 == 1:
            # An odd number of halves: as far from zero as the state can be.
            assert torch.allclose(last, torch.full_like(last, 0.5))


def mean_errors(dim: int, more: int, bits: int, order: int) -> list[float]:
    """Return the relative errors at 4, 8, 16 and 32 times dim vectors, and ``more``."""
    weight = normal(dim, 100)
    lost = (
        rounded(weight, HarmonicFrame(dim, factor * dim + more), bits, order)[1]
        for factor in (4, 8, 16, 32)
    )
    return [(one.norm() / weight.norm()).item() for one in lost]


@BITS
@pytest.mark.parametrize("dim", [8, 9, 32])
@pytest.mark.parametrize("more", [0, 1])
def test_the_error_of_order_one_falls_as_one_over_the_vectors(
    bits: int, dim: int, more: int
) -> None:
    errors = mean_errors(dim, more, bits, 1)
    assert all(second < 0.55 * first for first, second in pairwise(errors))


@BITS
@pytest.mark.parametrize("dim", [8, 32])
def test_the_error_of_order_two_falls_as_one_over_their_square(bits: int, dim: int) -> None:
    # Where the state returns to zero; else its last value stays, and 1/N is all there is.
    once, twice, odd = (
        mean_errors(dim, *case) for case in ((0, bits, 1), (0, bits, 2), (1, bits, 2))
    )
    for first, second in pairwise(twice):
        assert second < 0.28 * first
    assert twice[-1] < 0.5 * once[-1]
    assert odd[-1] > 2 * twice[-1]


@BITS
@ORDERS
def test_too_small_a_step_is_unstable(bits: int, order: int) -> None:
    frame, coeffs = HarmonicFrame(9, 100), torch.ones(100, 2, dtype=torch.float64)
    stable = range_alphabet(coeffs, bits, order)
    _, states = sigma_delta(coeffs, UniformAlphabet(bits, stable.step / 4), order)
    with pytest.raises(OverflowError, match=rf"order {order} is unstable: its state reached .* st"):
        Guarantee.of(frame, stable.step[0] / 4, states, order)
    _, states = sigma_delta(coeffs, stable, order)
    assert Guarantee.of(frame, stable.step[0], states, order).largest_state == states.max()


@BITS
@ORDERS
def test_a_step_of_zero_gives_zeros(bits: int, order: int) -> None:
    coeffs = normal(20, 3)
    coeffs[:, 1] = 0
    alphabet = range_alphabet(coeffs, bits, order)
    quantized, states = sigma_delta(coeffs, alphabet, order)
    assert torch.equal(quantized[:, 1], torch.zeros(20, dtype=torch.float64))
    assert states[1] == 0
    assert (states[[0, 2]] > 0).all()
    for bound in (variation_bounds, spectral_bounds):
        bounds = bound(HarmonicFrame(9, 20), alphabet.step[0], states, order)
        assert bounds[1] == 0
        assert (bounds[[0, 2]] > 0).all()


# Whole weights


def on_sides(sides: str, dim_in: int, dim_out: int, redundancy: float = 3.0) -> tuple[Frame, Frame]:
    frame_in = IdentityFrame(dim_in) if sides == "out" else HarmonicFrame.create(dim_in, redundancy)
    if sides == "in":
        return frame_in, IdentityFrame(dim_out)
    return frame_in, HarmonicFrame.create(dim_out, redundancy)


@settings(deadline=None, max_examples=60)
@given(
    dim_in=st.integers(1, 50),
    dim_out=st.integers(1, 30),
    bits=st.integers(1, 4),
    order=st.integers(1, 2),
    sides=st.sampled_from(["in", "out", "both"]),
    kind=st.sampled_from(list(COLUMNS)),
    redundancy=st.floats(1.0, 4.0),
    seed=SEEDS,
)
def test_a_weight_loses_no_more_than_its_bound(
    dim_in: int,
    dim_out: int,
    bits: int,
    order: int,
    sides: str,
    kind: str,
    redundancy: float,
    seed: int,
) -> None:
    weight = COLUMNS[kind](normal(dim_in, dim_out, seed=seed)).float()
    frames = on_sides(sides, dim_in, dim_out, redundancy)
    method = replace(METHODS["sigma-delta"], order=order)
    result = quantize_weight(weight, *frames, method, bits)
    guarantee = result.guarantee
    assert guarantee is not None
    assert guarantee.largest_state <= (0.501 if order == 1 else 2.0)
    bound = guarantee.error_bound / (weight.norm().item() or 1.0)
    assert result.errors.weight_rel_error <= bound * 1.0001 + 1e-6
    assert guarantee.error_bound <= guarantee.variation_bound
    lost = (weight.double() - result.dequantize().double()).norm() / (weight.double().norm() or 1.0)
    assert result.errors.weight_rel_error == pytest.approx(lost.item(), rel=1e-3, abs=1e-6)
    assert (guarantee.error_bound > 0) == (kind != "zero")


@BITS
@ORDERS
def test_columns_of_a_weight_are_the_sequences(bits: int, order: int) -> None:
    weight = normal(24, 10).float()
    frame = HarmonicFrame.create(24, 3.0)
    result = quantize_weight(
        weight, frame, IdentityFrame(10), replace(METHODS["sigma-delta"], order=order), bits
    )
    coeffs = frame.analysis(weight.T.contiguous()).T.contiguous()
    alphabet = range_alphabet(coeffs, bits, order)
    quantized, states = sigma_delta(coeffs, alphabet, order)
    assert torch.equal(result.scales.float(), alphabet.step.T)
    assert torch.equal(result.coeffs(), quantized)
    assert result.guarantee == Guarantee.of(frame, alphabet.step[0], states, order)


@BITS
def test_along_the_outputs_all_rows_have_one_step(bits: int) -> None:
    weight = normal(10, 24).float() * torch.arange(1, 11)[:, None]
    frame = HarmonicFrame.create(24, 3.0)
    result = quantize_weight(weight, IdentityFrame(10), frame, METHODS["sigma-delta"], bits)
    sequences = frame.analysis(weight)
    step = range_alphabet(sequences.reshape(-1, 1), bits).step
    assert result.scales.shape == (frame.num_vectors, 1)
    assert (result.scales.float() == step).all()
    alphabet = UniformAlphabet(bits, step.expand(1, 10))
    quantized, _ = sigma_delta(sequences.T, alphabet)
    assert torch.equal(result.coeffs(), quantized.T)


@pytest.mark.parametrize("sides", ["in", "out", "both"])
def test_another_frame_is_refused(sides: str) -> None:
    frames = {
        "in": (HadamardFrame.create(8), IdentityFrame(6)),
        "out": (IdentityFrame(8), HadamardFrame.create(6)),
        "both": (HadamardFrame.create(8), HarmonicFrame.create(6)),
    }
    with pytest.raises(ValueError, match=r"needs a harmonic frame, got .*hadamard"):
        quantize_weight(normal(8, 6), *frames[sides], METHODS["sigma-delta"], 2)


def test_without_any_frame_it_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a harmonic frame"):
        quantize_weight(normal(8, 6), IdentityFrame(8), IdentityFrame(6), METHODS["sigma-delta"], 2)
