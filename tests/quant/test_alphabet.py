import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.quant import MidRise
from fqonnx.quant.alphabet import GAUSSIAN_STEP

BITS = st.integers(1, 4)
STEPS = st.floats(1e-3, 1e3)
SEEDS = st.integers(0, 2**31)
ALL_BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])


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


@ALL_BITS
def test_gaussian_step_has_the_least_mean_squared_error(bits: int) -> None:
    coarse = np.arange(0.05, 3.0, 0.01)
    start = coarse[gaussian_mse(bits, coarse).argmin()]
    fine = np.arange(start - 0.015, start + 0.015, 1e-4)
    assert GAUSSIAN_STEP[bits] == pytest.approx(fine[gaussian_mse(bits, fine).argmin()], abs=1e-3)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_gaussian_step_gives_the_published_error(bits: int, error: float) -> None:
    coeffs = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)) * 3.0
    alphabet = MidRise(bits)
    step = alphabet.gaussian_step(coeffs)
    noise = (alphabet.nearest(coeffs, step) - coeffs).square().mean() / coeffs.square().mean()
    assert noise.item() == pytest.approx(error, rel=0.02)


@ALL_BITS
def test_gaussian_step_follows_the_size_of_each_column(bits: int) -> None:
    coeffs = torch.randn(100, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sizes = torch.tensor([1.0, 0.01, 500.0], dtype=torch.float64)
    step = MidRise(bits).gaussian_step(coeffs * sizes)
    assert torch.allclose(step, MidRise(bits).gaussian_step(coeffs) * sizes)
    assert step[0].item() == pytest.approx(
        GAUSSIAN_STEP[bits] * coeffs[:, 0].square().mean().sqrt().item()
    )


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
    assert MidRise(bits).values(codes, torch.tensor([1.0])).flatten().tolist() == levels


@settings(deadline=None, max_examples=50)
@given(bits=BITS, step=STEPS, seed=SEEDS)
def test_nearest_is_no_farther_than_any_level(bits: int, step: float, seed: int) -> None:
    coeffs = coefficients(seed, step, bits)
    steps = torch.full((3,), step, dtype=torch.float64)
    alphabet = MidRise(bits)
    nearest = alphabet.nearest(coeffs, steps)
    levels = alphabet.values(torch.arange(2**bits, dtype=torch.uint8)[:, None], steps[:1]).flatten()
    distances = (coeffs[..., None] - levels).abs()
    assert ((nearest - coeffs).abs() <= distances.min(dim=-1).values + 1e-9 * step).all()
    assert ((nearest[..., None] - levels).abs().min(dim=-1).values <= 1e-9 * step).all()


@settings(deadline=None, max_examples=50)
@given(bits=BITS, step=STEPS, seed=SEEDS)
def test_codes_values_and_nearest_agree(bits: int, step: float, seed: int) -> None:
    coeffs = coefficients(seed, step, bits).float()
    steps = torch.tensor([step, step / 3, step * 7])
    alphabet = MidRise(bits)
    codes = alphabet.codes(coeffs, steps)
    nearest = alphabet.nearest(coeffs, steps)
    assert codes.dtype == torch.uint8
    assert codes.max() < 2**bits
    assert torch.equal(alphabet.values(codes, steps), nearest)
    assert torch.equal(alphabet.codes(nearest, steps), codes)
    assert torch.equal(alphabet.nearest(nearest, steps), nearest)


@ALL_BITS
def test_every_code_survives_its_value(bits: int) -> None:
    codes = torch.arange(2**bits, dtype=torch.uint8)[:, None].expand(-1, 4)
    step = torch.tensor([1e-6, 0.1, 3.0, 6e4])
    alphabet = MidRise(bits)
    assert torch.equal(alphabet.codes(alphabet.values(codes, step), step), codes)


@ALL_BITS
def test_coefficients_beyond_the_alphabet_take_its_ends(bits: int) -> None:
    coeffs = torch.tensor([[1e30], [-1e30], [1e3], [-1e3]])
    step = torch.tensor([0.25])
    end = (2**bits - 1) / 2 * 0.25
    alphabet = MidRise(bits)
    assert alphabet.nearest(coeffs, step).flatten().tolist() == [end, -end, end, -end]
    top = 2**bits - 1
    assert alphabet.codes(coeffs, step).flatten().tolist() == [top, 0, top, 0]


@ALL_BITS
def test_zero_step_gives_zeros(bits: int) -> None:
    coeffs = torch.tensor([[0.0, 5.0], [-3.0, 1e30], [1e-30, -7.0]])
    step = torch.zeros(2)
    alphabet = MidRise(bits)
    assert torch.equal(alphabet.nearest(coeffs, step), torch.zeros(3, 2))
    codes = alphabet.codes(coeffs, step)
    assert codes.max() < 2**bits
    assert torch.equal(alphabet.values(codes, step), torch.zeros(3, 2))


def test_zero_column_beside_others_has_step_zero() -> None:
    coeffs = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    step = MidRise(2).gaussian_step(coeffs)
    assert step[0] == 0
    assert step[1].item() == pytest.approx(0.996)
    assert torch.equal(MidRise(2).nearest(coeffs, step)[:, 0], torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_input_left_alone(dtype: torch.dtype) -> None:
    coeffs = torch.tensor([[0.2], [-4.0]], dtype=dtype)
    before = coeffs.clone()
    step = torch.tensor([1.0], dtype=dtype)
    alphabet = MidRise(2)
    assert alphabet.nearest(coeffs, step).dtype == dtype
    assert alphabet.values(alphabet.codes(coeffs, step), step).dtype == dtype
    assert torch.equal(coeffs, before)
