import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fqonnx.frames import FrameSpec, HarmonicFrame, harmonic_factors, harmonic_size
from fqonnx.frames.harmonic import least_harmonic_size
from fqonnx.reference import analysis_operator

DIMS = st.integers(1, 5000)
REDUNDANCIES = st.integers(64, 512).map(lambda sixty_fourths: sixty_fourths / 64)
SEEDS = st.integers(0, 2**31)
ORDERS = pytest.mark.parametrize("order", [1, 2])


@st.composite
def frames(draw: st.DrawFn, largest: int = 60) -> HarmonicFrame:
    """Draw a frame, often of the least number of vectors."""
    dim = draw(st.integers(1, largest))
    return HarmonicFrame(dim, least_harmonic_size(dim) + draw(st.integers(0, 3 * largest)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit_vectors(frame: HarmonicFrame) -> torch.Tensor:
    """Return the frame vectors (num_vectors, dim), entry by entry from the definition."""
    rows = []
    for j in range(frame.num_vectors):
        angles = [2 * math.pi * j * k / frame.num_vectors for k in range(1, frame.dim // 2 + 1)]
        row = [f(angle) for angle in angles for f in (math.cos, math.sin)]
        rows.append([math.sqrt(0.5)] * (frame.dim % 2) + row)
    return torch.tensor(rows, dtype=torch.float64) * math.sqrt(2 / frame.dim)


@settings(deadline=None, max_examples=60)
@given(frame=frames(), seed=SEEDS)
@example(frame=HarmonicFrame(1, 1), seed=0)
@example(frame=HarmonicFrame(2, 3), seed=0)
@example(frame=HarmonicFrame(3, 4), seed=0)
def test_is_the_frame_of_its_definition(frame: HarmonicFrame, seed: int) -> None:
    dense = unit_vectors(frame) / math.sqrt(frame.redundancy)
    assert torch.allclose(frame.matrix(), dense, rtol=0, atol=1e-12)
    x, coeffs = normal(3, frame.dim, seed=seed), normal(3, frame.num_vectors, seed=seed)
    assert torch.allclose(frame.analysis(x), x @ dense.T, rtol=0, atol=1e-11)
    assert torch.allclose(frame.synthesis(coeffs), coeffs @ dense, rtol=0, atol=1e-11)


@settings(deadline=None, max_examples=30)
@given(frame=frames())
def test_is_unit_norm_and_tight(frame: HarmonicFrame) -> None:
    unit = frame.matrix() * math.sqrt(frame.redundancy)
    ones = torch.ones(frame.num_vectors, dtype=torch.float64)
    assert torch.allclose(unit.norm(dim=1), ones, rtol=0, atol=1e-12)
    bound = torch.eye(frame.dim, dtype=torch.float64) * frame.redundancy
    assert torch.allclose(unit.T @ unit, bound, rtol=0, atol=1e-11)
    assert frame.is_parseval(1e-12)


@settings(deadline=None, max_examples=40)
@given(dim=DIMS, redundancy=REDUNDANCIES, seed=SEEDS)
@example(dim=4999, redundancy=1.0, seed=0)
@example(dim=4096, redundancy=1.0, seed=0)
def test_is_parseval_at_any_size(dim: int, redundancy: float, seed: int) -> None:
    frame = HarmonicFrame.create(dim, redundancy)
    x = normal(2, dim, seed=seed)
    coeffs = frame.analysis(x)
    assert torch.allclose(frame.synthesis(coeffs), x, rtol=0, atol=1e-9)
    assert torch.allclose(coeffs.norm(dim=-1), x.norm(dim=-1), rtol=1e-9, atol=0)


@settings(deadline=None, max_examples=25)
@given(frame=frames())
def test_is_the_operator_of_the_format(frame: HarmonicFrame) -> None:
    assert frame.spec == FrameSpec("harmonic", frame.dim, frame.num_vectors)
    expected = analysis_operator(frame.spec, None)
    assert np.allclose(frame.matrix().numpy(), expected, rtol=0, atol=1e-12)


def test_three_vectors_in_the_plane_by_hand() -> None:
    half, root = 1 / 2, math.sqrt(3) / 2
    expected = torch.tensor([[1, 0], [-half, root], [-half, -root]], dtype=torch.float64)
    assert torch.allclose(HarmonicFrame(2, 3).matrix() * math.sqrt(1.5), expected, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(frame=frames())
@example(frame=HarmonicFrame(1, 7))
@example(frame=HarmonicFrame(6, 8))
def test_zero_sum_is_said_of_those_that_are(frame: HarmonicFrame) -> None:
    assert frame.is_zero_sum == bool(unit_vectors(frame).sum(0).abs().max() < 1e-9)


# Sizes


@pytest.mark.parametrize(("dim", "least"), [(1, 1), (2, 3), (3, 3), (4, 5), (64, 65), (131, 131)])
def test_too_few_vectors_are_refused(dim: int, least: int) -> None:
    assert least_harmonic_size(dim) == least
    assert HarmonicFrame(dim, least).is_parseval()
    with pytest.raises(ValueError, match="1 <= dim <= num_vectors"):
        HarmonicFrame(dim, dim - 1)
    if least > dim:
        message = rf"R\^{dim} is tight from {least} vectors up, got {dim}"
        with pytest.raises(ValueError, match=message):
            HarmonicFrame(dim, dim)


@pytest.mark.parametrize("dim", [0, -2])
def test_no_dimension_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match="1 <= dim"):
        HarmonicFrame(dim, 3)


@settings(deadline=None, max_examples=60)
@given(dim=DIMS, redundancy=REDUNDANCIES)
@example(dim=18, redundancy=1.0)  # 19 is prime, and large enough to mind
@example(dim=4998, redundancy=1.0)
def test_size_is_a_little_above_what_was_asked_for(dim: int, redundancy: float) -> None:
    size = harmonic_size(dim, redundancy)
    target = max(redundancy * dim, least_harmonic_size(dim))
    assert target <= size <= max(1.05 * target, target + 3)
    assert HarmonicFrame.create(dim, redundancy).num_vectors == size


@pytest.mark.parametrize(
    ("dim", "redundancy", "size"),
    [
        (1, 1.0, 1),
        (2, 1.0, 4),
        (3, 1.0, 3),
        (64, 1.0, 66),
        (64, 3.0, 192),
        (384, 3.0, 1152),
        (10, 1.1, 12),  # even as dim is
        (65, 3.0, 195),
    ],
)
def test_sizes_by_hand(dim: int, redundancy: float, size: int) -> None:
    assert harmonic_size(dim, redundancy) == size


@pytest.mark.parametrize("dim", [1, 2, 31, 64, 384, 1000, 4099])
def test_more_redundancy_is_never_fewer_vectors(dim: int) -> None:
    sizes = [harmonic_size(dim, 1 + step / 16) for step in range(64)]
    assert sizes == sorted(sizes)


@settings(deadline=None, max_examples=60)
@given(dim=DIMS, redundancy=REDUNDANCIES)
def test_a_transform_costs_n_times_the_root_of_dim(dim: int, redundancy: float) -> None:
    size = harmonic_size(dim, redundancy)
    first, second = harmonic_factors(dim, size)
    assert first * second == size
    # Multiplications of a coefficient: four for each term of the inner sum, two of the outer.
    terms = math.ceil((dim // 2 + 1) / first)
    assert 4 * terms + 2 * first <= 6 * math.sqrt(dim) + 16


@settings(deadline=None, max_examples=40)
@given(frame=frames(400))
def test_factors_are_those_that_cost_least(frame: HarmonicFrame) -> None:
    def cost(n: int) -> int:
        return 4 * math.ceil((frame.dim // 2 + 1) / n) + 2 * n

    size = frame.num_vectors
    first, second = harmonic_factors(frame.dim, size)
    assert first * second == size
    assert cost(first) == min(cost(n) for n in range(1, size + 1) if size % n == 0)


# What the error bounds of Sigma-Delta stand on


@settings(deadline=None, max_examples=40)
@given(frame=frames(), distance=st.integers(0, 200))
def test_inner_product_is_that_of_any_two_vectors(frame: HarmonicFrame, distance: int) -> None:
    unit = unit_vectors(frame)
    products = (unit * unit.roll(-distance, 0)).sum(1)
    found = torch.full_like(products, frame.inner_product(distance))
    assert torch.allclose(products, found, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(frame=frames())
@example(frame=HarmonicFrame(1, 1))
@example(frame=HarmonicFrame(2, 3))
def test_variation_is_the_length_of_the_path(frame: HarmonicFrame) -> None:
    unit = unit_vectors(frame)
    first = unit[:-1] - unit[1:]
    assert frame.variation() == frame.variation(1)
    assert frame.variation(1) == pytest.approx(first.norm(dim=1).sum().item(), abs=1e-10)
    second = (first[:-1] - first[1:]).norm(dim=1).sum()
    assert frame.variation(2) == pytest.approx(second.item(), abs=1e-10)


def length_of_the_curve(dim: int, order: int) -> float:
    """Return N^(order − 1) times what the variation tends to for large N.

    The k-th frequency turns by 2πk in all: √(2/d·Σ(2πk)^(2·order)), and Σk² has a closed form.
    """
    return math.sqrt(2 / dim * sum((2 * math.pi * k) ** (2 * order) for k in range(dim // 2 + 1)))


@ORDERS
@settings(deadline=None, max_examples=60)
@given(dim=st.integers(2, 300), redundancy=st.integers(2, 100))
@example(dim=2, redundancy=16 * 10**5)
def test_variation_stays_below_its_limit(order: int, dim: int, redundancy: int) -> None:
    frame = HarmonicFrame(dim, redundancy * dim)
    limit = length_of_the_curve(dim, order)
    scaled = frame.variation(order) * frame.num_vectors ** (order - 1)
    assert scaled < limit
    # sin²(x) ≥ x²·(1 − x²/3) at the highest frequency, and the order that is left out at the end
    slack = (math.pi / (2 * redundancy)) ** 2 / 3
    assert scaled > limit * (1 - slack) ** (order / 2) * (1 - order / frame.num_vectors) * 0.999999


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 9, 384, 385])
def test_variation_is_within_the_bound_of_the_literature(dim: int) -> None:
    # Benedetto, Powell and Yılmaz 2006: σ ≤ 2π(d + 1), whatever N. The sum itself has less.
    square = (dim + 1) * (dim + 2) / 12 if dim % 2 == 0 else (dim**2 - 1) / 12
    bound = 2 * math.pi * math.sqrt(square)
    assert bound < 2 * math.pi * (dim + 1)
    assert length_of_the_curve(dim, 1) == pytest.approx(bound)
    for redundancy in (2, 3, 16, 1000):
        assert HarmonicFrame(dim, redundancy * dim).variation() <= bound
