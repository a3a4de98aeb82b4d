from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fqonnx.quant import (
    UniformAlphabet,
    gaussian_alphabet,
    min_max_alphabet,
    range_alphabet,
    two_sigma_alphabet,
)
from fqonnx.quant.alphabet import GAUSSIAN_STEP, SCALE_DTYPE

BITS = st.integers(1, 4)
STEPS = st.floats(1e-3, 1e3)
SEEDS = st.integers(0, 2**31)
ALL_BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])
ROUNDED = 2.0**-11  # relative error of a step in float16

Build = Callable[[torch.Tensor, int], UniformAlphabet]
BUILD: dict[str, Build] = {
    "gaussian": gaussian_alphabet,
    "range": range_alphabet,
    "two-sigma": lambda coeffs, bits: two_sigma_alphabet(coeffs, bits)[0],
    "min-max": lambda coeffs, bits: min_max_alphabet(coeffs, bits, 8),
}
EVERY_ALPHABET = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


def mid_rise(bits: int, *step: float, dtype: torch.dtype = torch.float32) -> UniformAlphabet:
    return UniformAlphabet(bits, torch.tensor([step], dtype=dtype))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian_mse(bits: int, steps: np.ndarray) -> np.ndarray:
    # The trapezoid rule over the half line: the integrand is even, and continuous at its kinks.
    x = np.linspace(0, 8, 4001)
    density = np.exp(-(x**2) / 2)
    density[0] /= 2
    density /= density.sum()
    highest = (2**bits - 1) / 2
    level = np.minimum(np.floor(x / steps[:, None]) + 0.5, highest) * steps[:, None]
    return ((level - x) ** 2 * density).sum(axis=1)


def coefficients(seed: int, step: float, bits: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = step * 2**bits
    return (torch.rand((50, 3), generator=generator, dtype=torch.float64) - 0.5) * 2 * spread


@st.composite
def alphabets(draw: st.DrawFn, rows: int = 50) -> UniformAlphabet:
    """Draw an alphabet for (rows, 3), mid-rise or with zero points, in groups or not."""
    bits, group_size = draw(BITS), draw(st.none() | st.integers(1, rows + 10))
    groups = 1 if group_size is None else -(-rows // group_size)
    generator = torch.Generator().manual_seed(draw(SEEDS))
    step = torch.rand((groups, 3), generator=generator, dtype=torch.float64) + 0.1
    zero_point = torch.randint(0, 2**bits, (groups, 3), generator=generator).double()
    return UniformAlphabet(
        bits,
        step * draw(STEPS),
        draw(st.sampled_from([None, zero_point])),
        group_size=group_size,
    )


def every_level(alphabet: UniformAlphabet, rows: int = 50) -> torch.Tensor:
    """Return (2^bits, rows, 3), entry by entry from the definition."""
    top = 2**alphabet.bits - 1
    levels = torch.empty(top + 1, rows, 3, dtype=torch.float64)
    for row in range(rows):
        group = 0 if alphabet.group_size is None else row // alphabet.group_size
        offset = top / 2 if alphabet.zero_point is None else alphabet.zero_point[group]
        for code in range(top + 1):
            levels[code, row] = (code - offset) * alphabet.step[group]
    return levels


# Steps for a Gaussian


@ALL_BITS
def test_gaussian_step_has_the_least_mean_squared_error(bits: int) -> None:
    coarse = np.arange(0.05, 3.0, 0.01)
    start = coarse[gaussian_mse(bits, coarse).argmin()]
    fine = np.arange(start - 0.015, start + 0.015, 1e-4)
    assert GAUSSIAN_STEP[bits] == pytest.approx(fine[gaussian_mse(bits, fine).argmin()], abs=1e-3)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_gaussian_step_gives_the_published_error(bits: int, error: float) -> None:
    coeffs = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)) * 3.0
    alphabet = gaussian_alphabet(coeffs, bits)
    noise = (alphabet.nearest(coeffs) - coeffs).square().mean() / coeffs.square().mean()
    assert noise.item() == pytest.approx(error, rel=0.02)


@ALL_BITS
@pytest.mark.parametrize("multiplier", [1.0, 0.85])
def test_gaussian_step_follows_the_size_of_each_column(bits: int, multiplier: float) -> None:
    sizes = torch.tensor([1.0, 0.01, 500.0], dtype=torch.float64)
    coeffs = normal(100, 3, seed=1) * sizes
    alphabet = gaussian_alphabet(coeffs, bits, multiplier)
    assert alphabet.bits == bits
    assert alphabet.zero_point is None
    assert alphabet.group_size is None
    expected = GAUSSIAN_STEP[bits] * multiplier * coeffs.square().mean(0).sqrt()
    assert torch.equal(alphabet.step, expected[None].half().double())


# Codes, values and the nearest


@pytest.mark.parametrize(
    ("bits", "levels"),
    [
        (1, [-0.5, 0.5]),
        (2, [-1.5, -0.5, 0.5, 1.5]),
        (3, [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]),
        (4, [i - 7.5 for i in range(16)]),
    ],
)
def test_values_are_those_of_the_format(bits: int, levels: list[float]) -> None:
    codes = torch.arange(2**bits, dtype=torch.uint8)[:, None]
    assert mid_rise(bits, 1.0).values(codes).flatten().tolist() == levels


@pytest.mark.parametrize(
    ("zero_point", "levels"), [(0, [0, 3, 6, 9]), (1, [-3, 0, 3, 6]), (3, [-9, -6, -3, 0])]
)
def test_the_zero_point_is_the_code_of_zero(zero_point: int, levels: list[float]) -> None:
    alphabet = UniformAlphabet(2, torch.tensor([[3.0]]), torch.tensor([[float(zero_point)]]))
    codes = torch.arange(4, dtype=torch.uint8)[:, None]
    assert alphabet.values(codes).flatten().tolist() == levels
    assert alphabet.codes(torch.zeros(1, 1)) == zero_point


def test_groups_by_hand() -> None:
    step, zero_point = torch.tensor([[1.0], [10.0]]), torch.tensor([[0.0], [2.0]])
    alphabet = UniformAlphabet(2, step, zero_point, group_size=2)
    coeffs = torch.tensor([[2.2], [9.0], [-16.0]])
    assert alphabet.codes(coeffs).flatten().tolist() == [2, 3, 0]
    assert alphabet.nearest(coeffs).flatten().tolist() == [2, 3, -20]
    assert alphabet.nearest(coeffs, 1).flatten().tolist() == [2, 10, -20]
    assert alphabet.values(torch.tensor([[3], [3]]), 2).flatten().tolist() == [10, 10]


@settings(deadline=None, max_examples=50)
@given(alphabet=alphabets(), seed=SEEDS)
def test_nearest_is_no_farther_than_any_level(alphabet: UniformAlphabet, seed: int) -> None:
    step = float(alphabet.step.max())
    coeffs = coefficients(seed, step, alphabet.bits)
    nearest, levels = alphabet.nearest(coeffs), every_level(alphabet)
    assert ((nearest - coeffs).abs() <= (levels - coeffs).abs().amin(0) + 1e-9 * step).all()
    assert ((nearest - levels).abs().amin(0) <= 1e-9 * step).all()


@settings(deadline=None, max_examples=50)
@given(alphabet=alphabets(), seed=SEEDS, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_codes_values_and_nearest_agree(
    alphabet: UniformAlphabet, seed: int, dtype: torch.dtype
) -> None:
    coeffs = coefficients(seed, float(alphabet.step.max()), alphabet.bits).to(dtype)
    zero_point = None if alphabet.zero_point is None else alphabet.zero_point.to(dtype)
    alphabet = UniformAlphabet(
        alphabet.bits, alphabet.step.to(dtype), zero_point, group_size=alphabet.group_size
    )
    codes, nearest = alphabet.codes(coeffs), alphabet.nearest(coeffs)
    assert codes.dtype == torch.uint8
    assert codes.max() < 2**alphabet.bits
    assert torch.equal(alphabet.values(codes), nearest)
    assert torch.equal(alphabet.codes(nearest), codes)
    assert torch.equal(alphabet.nearest(nearest), nearest)


@settings(deadline=None, max_examples=50)
@given(alphabet=alphabets(), first=st.integers(0, 49), count=st.integers(1, 50), seed=SEEDS)
@example(alphabet=mid_rise(2, 1.0, 2.0, 3.0), first=7, count=9, seed=0)
def test_rows_may_be_taken_from_anywhere(
    alphabet: UniformAlphabet, first: int, count: int, seed: int
) -> None:
    coeffs = coefficients(seed, float(alphabet.step.max()), alphabet.bits)
    codes, nearest = alphabet.codes(coeffs), alphabet.nearest(coeffs)
    rows = slice(first, first + count)
    assert torch.equal(alphabet.codes(coeffs[rows], first), codes[rows])
    assert torch.equal(alphabet.nearest(coeffs[rows], first), nearest[rows])
    assert torch.equal(alphabet.values(codes[rows], first), nearest[rows])


@ALL_BITS
def test_every_code_survives_its_value(bits: int) -> None:
    codes = torch.arange(2**bits, dtype=torch.uint8)[:, None].expand(-1, 4)
    step = torch.tensor([[1e-6, 0.1, 3.0, 6e4]])
    zero_points = [None, *(torch.full((1, 4), float(z)) for z in range(2**bits))]
    for zero_point in zero_points:
        alphabet = UniformAlphabet(bits, step, zero_point)
        assert torch.equal(alphabet.codes(alphabet.values(codes)), codes)


@ALL_BITS
def test_coefficients_beyond_the_alphabet_take_its_ends(bits: int) -> None:
    coeffs = torch.tensor([[1e30], [-1e30], [1e3], [-1e3]])
    end = (2**bits - 1) / 2 * 0.25
    alphabet = mid_rise(bits, 0.25)
    assert alphabet.nearest(coeffs).flatten().tolist() == [end, -end, end, -end]
    top = 2**bits - 1
    assert alphabet.codes(coeffs).flatten().tolist() == [top, 0, top, 0]


@ALL_BITS
@pytest.mark.parametrize("zero_point", [None, torch.tensor([[0.0, 1.0]])])
def test_zero_step_gives_zeros(bits: int, zero_point: torch.Tensor | None) -> None:
    coeffs = torch.tensor([[0.0, 5.0], [-3.0, 1e30], [1e-30, -7.0]])
    alphabet = UniformAlphabet(bits, torch.zeros(1, 2), zero_point)
    assert torch.equal(alphabet.nearest(coeffs), torch.zeros(3, 2))
    codes = alphabet.codes(coeffs)
    assert codes.max() < 2**bits
    assert torch.equal(alphabet.values(codes), torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group_size", [None, 1])
def test_dtype_is_kept_and_input_left_alone(dtype: torch.dtype, group_size: int | None) -> None:
    coeffs = torch.tensor([[0.2], [-4.0]], dtype=dtype)
    before = coeffs.clone()
    alphabet = UniformAlphabet(
        2, torch.ones(2 if group_size else 1, 1, dtype=dtype), group_size=group_size
    )
    assert alphabet.nearest(coeffs).dtype == dtype
    assert alphabet.values(alphabet.codes(coeffs)).dtype == dtype
    assert torch.equal(coeffs, before)


# What those that follow the coefficients have in common


@EVERY_ALPHABET
@ALL_BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_built_can_be_stored(build: Build, bits: int, dtype: torch.dtype) -> None:
    coeffs = normal(21, 3, dtype=dtype) + 0.3
    before = coeffs.clone()
    alphabet = build(coeffs, bits)
    assert alphabet.bits == bits
    assert alphabet.step.dtype == dtype
    assert torch.equal(alphabet.step, alphabet.step.to(SCALE_DTYPE).to(dtype))
    if alphabet.zero_point is not None:
        assert alphabet.zero_point.dtype == dtype
        assert alphabet.zero_point.shape == alphabet.step.shape
        assert torch.equal(alphabet.zero_point, alphabet.zero_point.to(torch.uint8).to(dtype))
        assert alphabet.zero_point.max() < 2**bits
    assert torch.equal(coeffs, before)


@EVERY_ALPHABET
def test_columns_do_not_know_of_each_other(build: Build) -> None:
    coeffs = normal(21, 3) * torch.tensor([1.0, 0.01, 500.0]) + 0.1
    together = build(coeffs, 2)
    for j in range(3):
        alone = build(coeffs[:, [j]], 2)
        assert torch.equal(together.step[:, [j]], alone.step)
        if together.zero_point is not None and alone.zero_point is not None:
            assert torch.equal(together.zero_point[:, [j]], alone.zero_point)


@EVERY_ALPHABET
def test_zero_column_beside_others_has_step_zero(build: Build) -> None:
    coeffs = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    alphabet = build(coeffs, 2)
    assert alphabet.step[0, 0] == 0
    assert alphabet.step[0, 1] > 0
    assert torch.equal(alphabet.nearest(coeffs)[:, 0], torch.zeros(2))


def test_steps_of_two_coefficients_by_hand() -> None:
    coeffs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    # σ of the two-sigma range has n − 1 below the line: √2.
    steps = {"gaussian": 0.996, "range": 2 / 3, "two-sigma": 4 * 2**0.5 / 3, "min-max": 2 / 3}
    for name, step in steps.items():
        up = 2 if name == "range" else 1  # rounded up, not to the nearest
        assert BUILD[name](coeffs, 2).step.item() == pytest.approx(step, rel=up * ROUNDED)


@EVERY_ALPHABET
@pytest.mark.parametrize("size", [1e7, 1e30])
def test_a_step_beyond_float16_is_an_overflow(build: Build, size: float) -> None:
    coeffs = normal(21, 3)
    coeffs[:, 1] *= size
    with pytest.raises(OverflowError, match="too large: a scale does not fit into float16"):
        build(coeffs, 2)


@EVERY_ALPHABET
def test_a_step_below_float16_is_an_error_where_it_matters(build: Build) -> None:
    coeffs = normal(21, 3)
    with pytest.raises(OverflowError, match="too small: its scales do not fit into float16"):
        build(coeffs * 1e-9, 2)
    sizes = torch.tensor([1.0, 1e-9, 1.0])
    alphabet = build(coeffs * sizes, 2)
    tiny = 2.0**-24 if build is range_alphabet else 0.0  # rounded up, but for what is not to be
    assert (alphabet.step[:, 1] == tiny).all()
    assert (alphabet.step[:, [0, 2]] > 0).all()
    assert (alphabet.nearest(coeffs * sizes)[:, 1].abs() <= 1.5 * tiny).all()


@EVERY_ALPHABET
def test_nothing_but_zeros(build: Build) -> None:
    alphabet = build(torch.zeros(5, 2), 2)
    assert torch.equal(alphabet.step, torch.zeros_like(alphabet.step))
    assert torch.equal(alphabet.nearest(torch.zeros(5, 2)), torch.zeros(5, 2))


# Two sigma


@settings(deadline=None, max_examples=50)
@given(bits=BITS, mean=st.floats(-20, 20), size=STEPS, seed=SEEDS)
def test_two_sigma_clips_to_its_range(bits: int, mean: float, size: float, seed: int) -> None:
    coeffs = (normal(60, 3, seed=seed) + mean) * size
    alphabet, clipped = two_sigma_alphabet(coeffs, bits)
    center, deviation = coeffs.mean(0), coeffs.std(0)
    low, high = center - 2 * deviation, center + 2 * deviation
    inside = (coeffs >= low) & (coeffs <= high)
    assert torch.equal(clipped[inside], coeffs[inside])
    assert torch.allclose(clipped, coeffs.minimum(high).maximum(low))
    assert torch.allclose(alphabet.step * (2**bits - 1), high - low, rtol=ROUNDED, atol=0)
    assert alphabet.zero_point is not None
    assert alphabet.group_size is None
    # The zero point nearest to that of the range, as far as the codes go.
    wanted = (-low / ((high - low) / (2**bits - 1))).clamp(0, 2**bits - 1)
    assert ((alphabet.zero_point - wanted).abs() <= 0.5 + 1e-9).all()


@pytest.mark.parametrize(
    ("mean", "levels"),
    [(0.1, [-1, 0, 1, 2]), (-0.1, [-2, -1, 0, 1]), (9.0, [0, 1, 2, 3]), (-9.0, [-3, -2, -1, 0])],
)
def test_two_sigma_levels_at_two_bits(mean: float, levels: list[float]) -> None:
    coeffs = normal(200, 1)
    coeffs = (coeffs - coeffs.mean()) / coeffs.std() * 0.75 + mean  # so that the step is 1
    alphabet, _ = two_sigma_alphabet(coeffs, 2)
    assert alphabet.values(torch.arange(4)[:, None]).flatten().tolist() == levels


@ALL_BITS
def test_two_sigma_of_a_constant_column_is_zero(bits: int) -> None:
    coeffs = torch.stack([torch.full((9,), 0.3), normal(9).float(), torch.zeros(9)], 1)
    alphabet, clipped = two_sigma_alphabet(coeffs, bits)
    assert alphabet.zero_point is not None
    assert (alphabet.zero_point >= 0).all()
    assert (alphabet.zero_point < 2**bits).all()
    assert torch.isfinite(clipped).all()
    assert torch.allclose(clipped[:, 0], coeffs[:, 0])
    assert alphabet.step[0, 2] == 0
    assert alphabet.nearest(coeffs)[:, [0, 2]].abs().max() < 1e-6


@ALL_BITS
def test_two_sigma_of_one_row_is_zero(bits: int) -> None:
    coeffs = torch.tensor([[1.5, 0.0, -2.0]])
    alphabet, clipped = two_sigma_alphabet(coeffs, bits)
    assert torch.equal(alphabet.step, torch.zeros(1, 3))
    assert torch.equal(clipped, coeffs)
    assert torch.equal(alphabet.nearest(clipped), torch.zeros(1, 3))


# Range


@settings(deadline=None, max_examples=100)
@given(
    bits=BITS,
    order=st.integers(1, 2),
    size=st.floats(1e-4, 1e3),
    seed=SEEDS,
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_range_step_is_the_next_in_float16_from_what_holds_the_column(
    bits: int, order: int, size: float, seed: int, dtype: torch.dtype
) -> None:
    coeffs = (normal(9, 4, seed=seed) * size).to(dtype)
    alphabet = range_alphabet(coeffs, bits, order)
    headroom = 1 / 2 if order == 1 else {1: 2 / 3, 2: 1.0, 3: 1.0, 4: 3 / 2}[bits]
    exact = coeffs.double().abs().amax(0, keepdim=True) / (2 ** (bits - 1) - headroom)
    step = alphabet.step.to(SCALE_DTYPE)
    below = np.nextafter(step.numpy(), np.float16(0)).astype(np.float64)
    rounding = 2 * torch.finfo(dtype).eps * exact
    assert torch.equal(step.to(dtype), alphabet.step)
    assert (alphabet.step >= exact - rounding).all()
    assert (torch.from_numpy(below) < exact + rounding).all()
    assert alphabet.zero_point is None
    assert alphabet.group_size is None


@ALL_BITS
def test_range_of_order_one_ends_at_the_largest(bits: int) -> None:
    coeffs = torch.tensor([[2.0 ** (bits - 1) - 0.5], [-0.25]])
    alphabet = range_alphabet(coeffs, bits)
    assert alphabet.step.item() == 1.0  # exact in float16: nothing to round
    assert alphabet.nearest(coeffs)[0] == coeffs[0]


def test_range_may_take_the_largest_step_there_is() -> None:
    largest = torch.finfo(SCALE_DTYPE).max
    for size in (largest, largest - 8.0, largest - 24.0):
        step = range_alphabet(torch.tensor([[size / 2]], dtype=torch.float64), 1).step.item()
        assert size <= step <= largest
    with pytest.raises(OverflowError, match="too large"):
        range_alphabet(torch.tensor([[largest]]), 1)


# Min and max


@settings(deadline=None, max_examples=50)
@given(
    bits=BITS,
    rows=st.integers(1, 40),
    group_size=st.integers(1, 50),
    shift=st.floats(-3, 3),
    seed=SEEDS,
)
@example(bits=2, rows=40, group_size=16, shift=0.0, seed=0)
def test_min_max_reaches_all_of_each_group(
    bits: int, rows: int, group_size: int, shift: float, seed: int
) -> None:
    coeffs = normal(rows, 3, seed=seed) + shift
    alphabet = min_max_alphabet(coeffs, bits, group_size)
    groups = -(-rows // group_size)
    assert alphabet.step.shape == (groups, 3)
    assert alphabet.group_size == group_size
    for group, part in enumerate(coeffs.split(group_size)):
        extent = part.amax(0).clamp(min=0) - part.amin(0).clamp(max=0)
        expected = extent / (2**bits - 1)
        assert torch.allclose(alphabet.step[group], expected, rtol=ROUNDED, atol=1e-7)
    # Half a step from rounding, within or, as the zero point is rounded too, beyond the ends.
    step = alphabet.step.repeat_interleave(group_size, 0)[:rows]
    slack = (2**bits - 1) * (2 * ROUNDED * step + 1e-7)
    assert ((alphabet.nearest(coeffs) - coeffs).abs() <= step / 2 + slack).all()
    assert torch.equal(alphabet.nearest(torch.zeros_like(coeffs)), torch.zeros_like(coeffs))


@ALL_BITS
@pytest.mark.parametrize("sign", [1, -1])
def test_min_max_of_one_sign_uses_all_levels_on_its_side(bits: int, sign: int) -> None:
    coeffs = sign * (normal(30, 2).abs() + 1.0)
    alphabet = min_max_alphabet(coeffs, bits, 10)
    assert alphabet.zero_point is not None
    assert (alphabet.zero_point == (0 if sign > 0 else 2**bits - 1)).all()
    end = alphabet.values(torch.full((30, 2), 2**bits - 1 if sign > 0 else 0))
    greatest = coeffs.reshape(3, 10, 2).abs().amax(1).repeat_interleave(10, 0)
    assert torch.allclose(end, sign * greatest, rtol=ROUNDED, atol=0)


def test_min_max_by_hand() -> None:
    coeffs = torch.tensor([[-1.0], [5.0], [0.5], [4.0], [8.0], [6.0], [0.0], [-6.0]])
    alphabet = min_max_alphabet(coeffs, 2, 3)  # the last group is -6 and 0 alone
    assert alphabet.step.flatten().tolist() == [2.0, pytest.approx(8 / 3, rel=ROUNDED), 2.0]
    assert alphabet.zero_point is not None
    assert alphabet.zero_point.flatten().tolist() == [0, 0, 3]  # 1/2 goes to the even
    assert alphabet.nearest(coeffs)[[0, 2, 6, 7], 0].tolist() == [0, 0, 0, -6]


@pytest.mark.parametrize("group_size", [7, 8, 1000])
def test_a_group_as_large_as_the_column_is_one_group(group_size: int) -> None:
    coeffs = normal(7, 3)
    alphabet, whole = (min_max_alphabet(coeffs, 3, size) for size in (group_size, 7))
    assert torch.equal(alphabet.step, whole.step)
    assert torch.equal(alphabet.codes(coeffs), whole.codes(coeffs))
