import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fqonnx.frames import FrameSpec, HadamardFrame, hadamard_columns, hadamard_size
from fqonnx.frames.hadamard import (
    MAX_FACTOR,
    kronecker_orders,
    kronecker_transform,
    orthonormal_factor,
)
from fqonnx.packing import pack_signs
from fqonnx.reference import analysis_operator

DIMS = st.integers(1, 5000)
SMALL_DIMS = st.integers(1, 150)
# Multiples of 1/64 times a dimension are exact, so no tolerance hides in comparisons.
REDUNDANCIES = st.integers(64, 192).map(lambda sixty_fourths: sixty_fourths / 64)
SEEDS = st.integers(0, 2**31)


def odd_part(number: int) -> int:
    while number % 2 == 0:
        number //= 2
    return number


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(deadline=None, max_examples=40)
@given(dim=DIMS, redundancy=REDUNDANCIES, seed=SEEDS)
@example(dim=4999, redundancy=1.0, seed=0)
@example(dim=4999, redundancy=3.0, seed=1)
@example(dim=1, redundancy=1.0, seed=2)
def test_is_parseval_at_any_size(dim: int, redundancy: float, seed: int) -> None:
    frame = HadamardFrame.create(dim, redundancy, seed)
    x = normal(4, dim, seed=seed)
    coeffs = frame.analysis(x)
    assert coeffs.shape == (4, frame.num_vectors)
    assert torch.allclose(frame.synthesis(coeffs), x, rtol=0, atol=1e-6)
    norms = x.norm(dim=-1)
    assert ((coeffs.norm(dim=-1) - norms).abs() <= 1e-6 * norms).all()


@settings(deadline=None, max_examples=25)
@given(dim=SMALL_DIMS, redundancy=REDUNDANCIES, seed=SEEDS)
def test_dense_operator_has_orthonormal_columns(dim: int, redundancy: float, seed: int) -> None:
    frame = HadamardFrame.create(dim, redundancy, seed)
    matrix = frame.matrix()
    assert matrix.shape == (frame.num_vectors, dim)
    eye = torch.eye(dim, dtype=torch.float64)
    assert (matrix.T @ matrix - eye).abs().max() <= 1e-6
    assert frame.is_parseval()


@settings(deadline=None, max_examples=100)
@given(dim=DIMS, redundancy=REDUNDANCIES)
def test_size_reaches_the_redundancy_with_a_small_odd_part(dim: int, redundancy: float) -> None:
    frame = HadamardFrame.create(dim, redundancy)
    assert frame.num_vectors >= redundancy * dim
    assert frame.redundancy >= redundancy
    assert odd_part(frame.num_vectors) <= 63
    assert frame.redundancy == frame.num_vectors / dim


@settings(deadline=None, max_examples=100)
@given(dim=DIMS, redundancy=REDUNDANCIES)
def test_size_is_the_smallest_with_a_small_odd_part(dim: int, redundancy: float) -> None:
    size = hadamard_size(dim, redundancy)
    target = math.ceil(redundancy * dim)
    assert all(odd_part(smaller) > 63 for smaller in range(target, size))
    assert size <= target * (1 + 1 / 32)


@pytest.mark.parametrize(
    ("dim", "redundancy", "size"),
    [
        (1, 1.0, 1),
        (63, 1.0, 63),
        (64, 1.0, 64),
        (65, 1.0, 66),
        (67, 1.0, 68),
        (127, 1.0, 128),
        (384, 1.0, 384),
        (384, 1.125, 432),
        (768, 1.25, 960),
        (4097, 1.0, 4224),
        # 1.1·10 and 1.1·50 are a little above 11 and 55 in binary
        (10, 1.1, 11),
        (50, 1.1, 55),
    ],
)
def test_sizes_by_hand(dim: int, redundancy: float, size: int) -> None:
    assert hadamard_size(dim, redundancy) == size


@settings(deadline=None, max_examples=100)
@given(dim=st.integers(1, 10**6), redundancy=REDUNDANCIES)
@example(dim=63 * 2**12, redundancy=1.0)
@example(dim=33 * 2**11, redundancy=1.0)
def test_a_transform_costs_n_log_n(dim: int, redundancy: float) -> None:
    size = hadamard_size(dim, redundancy)
    orders = kronecker_orders(size)
    assert max(orders) <= 64
    assert math.prod(orders) == size
    assert odd_part(orders[0]) == odd_part(size)
    assert all(odd_part(order) == 1 for order in orders[1:])
    # Each factor of order m costs n·m, so these many passes over n·64 are the whole cost.
    assert len(orders) <= 1 + math.ceil(math.log2(size) / 5)


@settings(deadline=None, max_examples=100)
@given(odd=st.integers(0, 31).map(lambda i: 2 * i + 1), power=st.integers(0, 24))
def test_factors_are_as_few_as_the_limit_allows(odd: int, power: int) -> None:
    orders = kronecker_orders(odd << power)
    assert math.prod(orders) == odd << power
    limit = max(MAX_FACTOR, odd)
    assert max(orders) <= limit
    if len(orders) == 1:
        assert odd << power <= 16 or power == 0
    if len(orders) > 2:  # one factor fewer would be too large, however the twos are spread
        beside_odd = int(math.log2(limit // odd))
        assert power > beside_odd + (len(orders) - 2) * int(math.log2(limit))


@pytest.mark.parametrize("size", [67, 65, 2 * 67, 1024 * 101, 4097])
def test_too_large_an_odd_part_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"odd part {odd_part(size)}"):
        kronecker_orders(size)
    with pytest.raises(ValueError, match="hadamard_size"):
        HadamardFrame(3, size, torch.ones(3, dtype=torch.int8))


@pytest.mark.parametrize(("dim", "num_vectors"), [(0, 1), (0, 0), (9, 8)])
def test_impossible_dimensions_are_refused(dim: int, num_vectors: int) -> None:
    with pytest.raises(ValueError, match="1 <= dim <= num_vectors"):
        HadamardFrame(dim, num_vectors, torch.ones(dim, dtype=torch.int8))


def test_redundancy_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="dim=10, num_vectors=5"):
        HadamardFrame.create(10, 0.5)


@pytest.mark.parametrize("shape", [(7,), (9,), (8, 1), (1, 8), ()])
def test_signs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"signs have shape .*, not \(8,\)"):
        HadamardFrame(8, 8, torch.ones(shape, dtype=torch.int8))


@pytest.mark.parametrize("other", [0, 2, -3])
def test_what_is_no_sign_is_refused(other: int) -> None:
    signs = torch.ones(8, dtype=torch.int8)
    signs[5] = other
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        HadamardFrame(8, 8, signs)


@settings(deadline=None, max_examples=25)
@given(dim=SMALL_DIMS, redundancy=REDUNDANCIES, seed=SEEDS)
@example(dim=250, redundancy=1.0, seed=0)  # several Kronecker factors
@example(dim=190, redundancy=3.0, seed=0)
def test_is_the_operator_of_the_format(dim: int, redundancy: float, seed: int) -> None:
    frame = HadamardFrame.create(dim, redundancy, seed)
    assert frame.spec == FrameSpec("hadamard", dim, frame.num_vectors)
    expected = analysis_operator(frame.spec, pack_signs(frame.signs.numpy()))
    assert np.allclose(frame.matrix().numpy(), expected, rtol=0, atol=1e-10)


def test_dct_times_hadamard_by_hand() -> None:
    root3, root6, half = 1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)
    dct = torch.tensor([[root3] * 3, [half, 0, -half], [root6, -2 * root6, root6]])
    by_hand = torch.zeros(6, 6, dtype=torch.float64)
    for row in range(6):
        for column in range(6):
            sign = -1 if row % 2 and column % 2 else 1
            by_hand[row, column] = sign * half * dct[row // 2, column // 2]
    signs = torch.tensor([1, -1, -1, 1, -1], dtype=torch.int8)
    frame = HadamardFrame(5, 6, signs)
    columns = [0, 5, 4, 3, 2]  # the stride is 5: 3 and 4 have a divisor in common with 6
    assert torch.allclose(frame.matrix(), by_hand[:, columns] * signs, atol=1e-7)


@given(dim=st.integers(1, 400), redundancy=st.floats(1, 4))
def test_columns_are_different_ones(dim: int, redundancy: float) -> None:
    size = hadamard_size(dim, redundancy)
    columns = hadamard_columns(size, dim).tolist()
    assert len(set(columns)) == dim
    assert set(columns) <= set(range(size))


@pytest.mark.parametrize("redundancy", [1.5, 2.0, 3.0, 4.0])
def test_no_frame_vector_comes_twice(redundancy: float) -> None:
    frame = HadamardFrame.create(64, redundancy)
    matrix = torch.nn.functional.normalize(frame.matrix(), dim=1)
    cosines = (matrix @ matrix.T).abs() - torch.eye(frame.num_vectors, dtype=torch.float64)
    assert cosines.max() < 0.9


def test_drawing_signs_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    HadamardFrame.create(100, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_signs_are_fair() -> None:
    signs = HadamardFrame.create(5000, seed=0).signs
    assert signs.dtype == torch.int8
    assert set(signs.tolist()) == {-1, 1}
    assert abs(signs.double().mean()) < 0.06  # 4 standard deviations


@pytest.mark.parametrize(("dim", "redundancy"), [(1, 1.0), (12, 1.0), (37, 1.7), (90, 2.0)])
def test_frame_bound_is_one(dim: int, redundancy: float) -> None:
    assert HadamardFrame.create(dim, redundancy).frame_bound() == pytest.approx(1.0, abs=1e-9)


def test_a_frame_that_is_not_tight_is_recognised() -> None:
    class Stretched(HadamardFrame):
        def analysis(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().analysis(x)

    frame = Stretched.create(3, 1.3)
    assert not frame.is_parseval()
    assert frame.frame_bound() == pytest.approx(4.0)


@settings(deadline=None, max_examples=25)
@given(order=st.integers(1, 200).map(hadamard_size), runs=st.integers(1, 4), seed=SEEDS)
@example(order=192, runs=3, seed=0)
def test_a_transform_acts_on_each_run(order: int, runs: int, seed: int) -> None:
    x = normal(2, 3, runs * order, seed=seed)
    result = kronecker_transform(x, order)
    matrix = HadamardFrame(order, order, torch.ones(order, dtype=torch.int8)).matrix()
    expected = x.reshape(2, 3, runs, order) @ matrix.T
    assert torch.allclose(result, expected.reshape(x.shape), atol=1e-10)
    assert torch.allclose(kronecker_transform(result, order, transpose=True), x, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 6, 12, 31, 48, 63, 64])
def test_factors_are_orthonormal(order: int) -> None:
    factor = orthonormal_factor(order)
    assert factor.dtype == torch.float64
    assert torch.allclose(factor @ factor.T, torch.eye(order, dtype=torch.float64), atol=1e-12)


def test_an_outlier_is_spread_over_all_coefficients() -> None:
    frame = HadamardFrame.create(1024)
    x = torch.zeros(1024)
    x[17] = 32.0
    assert torch.allclose(frame.analysis(x).abs(), torch.ones(1024), atol=1e-5)
