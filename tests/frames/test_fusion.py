import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fqonnx.frames import FrameSpec, FusionFrame, fusion_blocks, fusion_size
from fqonnx.frames.base import random_signs
from fqonnx.frames.fusion import (
    nearest_fusion_frame,
    spectral_tetris,
    tight_fusion_frame_exists,
)
from fqonnx.packing import pack_signs
from fqonnx.reference import analysis_operator

Sizes = tuple[int, int, int]  # k subspaces of dimension m in C^n, or R^n

REDUNDANCIES = st.integers(8, 16).map(lambda eighths: eighths / 8)
SEEDS = st.integers(0, 2**31)


@st.composite
def buildable_sizes(draw: st.DrawFn) -> Sizes:
    """Draw (k, m, n) that spectral tetris reaches, from the fewest subspaces upward."""
    n = draw(st.integers(1, 40))
    m = draw(st.integers(1, max(1, n // 2)) | st.just(n))
    k, m, n = nearest_fusion_frame(draw(st.integers(1, 12)), m, n)
    return k, m, n


def real_frame(k: int, m: int, n: int, missing: int = 0, seed: int = 0) -> FusionFrame:
    """Return the real form in R^(2n − missing)."""
    dim = 2 * n - missing
    return FusionFrame(dim, 2 * k * m, random_signs(dim, seed), k, 2 * m, 2 * n)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_tetris(m: int, n: int) -> np.ndarray:
    matrix = np.zeros((m, n))
    for row, (start, entries) in zip(matrix, spectral_tetris(m, n), strict=True):
        row[start : start + len(entries)] = entries
    return matrix


def dense_blocks(k: int, m: int, n: int) -> np.ndarray:
    """Return the vectors, before signs and Hadamard, as complex (m, k, n)."""
    index, blocks = fusion_blocks(k, m, n)
    real = np.zeros((m, 2 * n, 2 * k))
    for row in range(m):
        np.add.at(real[row], index[row].numpy(), blocks[row % len(blocks)].numpy())
    real = real.reshape(m, n, 2, k, 2)
    assert np.array_equal(real[:, :, 0, :, 0], real[:, :, 1, :, 1])
    assert np.array_equal(real[:, :, 0, :, 1], -real[:, :, 1, :, 0])
    return (real[:, :, 0, :, 0] + 1j * real[:, :, 0, :, 1]).transpose(0, 2, 1)


# Which exist


def exists_by_roots(k: int, m: int, n: int) -> bool:
    """Whether (n; m, …, m) is a sum of roots of the star with k arms: a closed form.

    After division by the common divisor, the Tits form n² + kl² − kln of an imaginary root is at
    most 0; that of the real ones is 1, or k where the single arms are roots on their own.
    """
    divisor = math.gcd(m, n)
    m, n = m // divisor, n // divisor
    form = n * n + k * m * m - k * m * n
    return form <= 0 or form == 1 or (form == k and n % k == 0)


def test_existence_is_that_of_roots() -> None:
    for k, n in product(range(2, 20), range(1, 25)):
        for m in range(1, n + 1):
            assert tight_fusion_frame_exists(k, m, n) == exists_by_roots(k, m, n), (k, m, n)


def test_one_subspace_is_all_or_nothing() -> None:
    for n in range(1, 12):
        assert [m for m in range(n + 2) if tight_fusion_frame_exists(1, m, n)] == [n]


def test_existence_where_the_dimension_divides() -> None:
    for m, times, k in product(range(1, 6), range(2, 6), range(1, 12)):
        assert tight_fusion_frame_exists(k, m, m * times) == (k >= times)


def test_existence_where_the_dimension_does_not_divide() -> None:
    for n, k in product(range(3, 30), range(1, 40)):
        for m in range(2, (n + 1) // 2):
            least = math.ceil(n / m)
            if n % m and k != least + 1:
                assert tight_fusion_frame_exists(k, m, n) == (k >= least + 2)


@pytest.mark.parametrize(
    ("sizes", "exists"),
    [
        # k = ⌈n/m⌉ + 1: it falls to a smaller case
        ((4, 2, 5), True),  # (4, 1, 3)
        ((5, 2, 7), True),  # (5, 1, 3)
        ((4, 3, 7), True),  # (4, 2, 5)
        ((4, 3, 8), True),  # (4, 1, 4)
        ((4, 4, 11), False),  # (4, 1, 5): four lines do not fill C⁵
        ((4, 5, 13), False),  # (4, 2, 7)
        ((5, 5, 19), False),  # (5, 1, 6)
        ((4, 7, 17), False),  # (4, 4, 11), the first of these
    ],
)
def test_existence_between(sizes: Sizes, exists: bool) -> None:
    k, m, n = sizes
    smaller = (k, k * m - n - m, k * m - n)
    assert k == math.ceil(n / m) + 1
    assert tight_fusion_frame_exists(*sizes) == tight_fusion_frame_exists(*smaller) == exists


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1), (-1, 1, 1), (3, 0, 4), (3, -2, 4), (9, 5, 4), (1, 0, 0)]
)
def test_what_is_no_size_does_not_exist(sizes: Sizes) -> None:
    assert not tight_fusion_frame_exists(*sizes)


def test_existence_is_that_of_the_complements() -> None:
    for k, n in product(range(2, 14), range(2, 20)):
        for m in range(1, n):
            exists = tight_fusion_frame_exists(k, m, n)
            assert exists == tight_fusion_frame_exists(k, n - m, n)  # of the subspaces
            if k * m > n:
                assert exists == tight_fusion_frame_exists(k, m, k * m - n)  # Naimark's


def test_what_exists_spans_the_space() -> None:
    for k, m, n in product(range(1, 14), range(1, 20), range(1, 20)):
        if tight_fusion_frame_exists(k, m, n):
            assert k * m >= n
            assert m == n or k * (n - m) >= n


# Spectral tetris


@settings(deadline=None, max_examples=60)
@given(m=st.integers(1, 60), more=st.integers(0, 200) | st.none())
@example(m=7, more=4)
def test_tetris_is_a_unit_norm_tight_frame(m: int, more: int | None) -> None:
    n = m if more is None else 2 * m + more
    matrix = dense_tetris(m, n)
    assert np.allclose(np.linalg.norm(matrix, axis=0), 1, rtol=0, atol=1e-12)
    assert np.allclose(matrix @ matrix.T, n / m * np.eye(m), rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=60)
@given(m=st.integers(1, 60), more=st.integers(0, 200))
def test_tetris_rows_are_short_and_follow_each_other(m: int, more: int) -> None:
    n = 2 * m + more
    rows = spectral_tetris(m, n)
    ends = [start + len(entries) for start, entries in rows]
    assert rows[0][0] == 0
    assert ends[-1] == n
    assert all(len(entries) <= n / m + 3 for _, entries in rows)
    assert all(entry != 0 for _, entries in rows for entry in entries)
    for end, (start, _) in zip(ends, rows[1:], strict=False):
        assert end - 2 <= start <= end


def test_tetris_by_hand() -> None:
    ours, rest = math.sqrt(1 / 4), math.sqrt(3 / 4)
    (first, one), (second, two) = spectral_tetris(2, 5)
    assert (first, second) == (0, 2)
    assert one == pytest.approx((1, 1, ours, ours))
    assert two == pytest.approx((rest, -rest, 1))
    assert spectral_tetris(2, 4) == ((0, (1.0, 1.0)), (2, (1.0, 1.0)))
    assert spectral_tetris(3, 3) == ((0, (1.0,)), (1, (1.0,)), (2, (1.0,)))


@pytest.mark.parametrize(("m", "n"), [(2, 3), (5, 9), (5, 6), (3, 2), (0, 4), (-1, 4)])
def test_tetris_that_does_not_fit_is_refused(m: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"l={m}, n={n}"):
        spectral_tetris(m, n)


# What can be built


@settings(deadline=None, max_examples=60)
@given(sizes=buildable_sizes())
@example(sizes=(1, 5, 5))
@example(sizes=(1, 1, 1))
def test_what_can_be_built_exists(sizes: Sizes) -> None:
    assert tight_fusion_frame_exists(*sizes)
    assert nearest_fusion_frame(*sizes) == sizes


@settings(deadline=None, max_examples=60)
@given(k=st.integers(1, 30), m=st.integers(1, 40), n=st.integers(1, 40))
@example(k=2, m=2, n=3)
@example(k=6, m=3, n=4)
def test_the_nearest_can_be_built_and_is_named(k: int, m: int, n: int) -> None:
    assume(m <= n)
    nearest = nearest_fusion_frame(k, m, n)
    assert nearest_fusion_frame(*nearest) == nearest
    assert nearest[0] >= k
    assert nearest[1] <= m
    assert nearest[2] == n
    assert real_frame(*nearest).is_parseval(1e-9)
    if nearest == (k, m, n):
        return
    word = "no sparse" if tight_fusion_frame_exists(k, m, n) else "no"
    message = f"{word} tight fusion frame of {k} subspaces of dimension {m} in C^{n}"
    named = f"the nearest has {nearest[0]} of dimension {nearest[1]},"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}; {named}"):
        fusion_blocks(k, m, n)


def test_a_frame_that_cannot_be_built_is_refused() -> None:
    # n/m = 2½, so that a row touches four columns, though three subspaces fill the space.
    with pytest.raises(ValueError, match=r"the nearest has 4 of dimension 4, redundancy 1\.600"):
        real_frame(3, 4, 10)
    assert real_frame(4, 4, 10).redundancy == pytest.approx(1.6)


def test_the_nearest_has_the_fewest_subspaces() -> None:
    for n in range(2, 30):
        for m in range(1, n // 2 + 1):
            fewest = nearest_fusion_frame(1, m, n)[0]
            assert fewest == (np.count_nonzero(dense_tetris(m, n), axis=1)).max()
            for k in (fewest, fewest + 1, 3 * fewest):
                assert nearest_fusion_frame(k, m, n) == (k, m, n)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (3, 0, 4), (9, 5, 4), (-2, 1, 2)])
def test_blocks_of_what_is_no_size_are_refused(sizes: Sizes) -> None:
    with pytest.raises(ValueError, match="needs k >= 1 and 1 <= l <= n"):
        fusion_blocks(*sizes)


# Subspaces


@settings(deadline=None, max_examples=40)
@given(sizes=buildable_sizes())
@example(sizes=(8, 3, 24))
@example(sizes=(5, 2, 5))
@example(sizes=(3, 4, 4))
def test_subspaces_are_a_tight_fusion_frame(sizes: Sizes) -> None:
    k, m, n = sizes
    vectors = dense_blocks(k, m, n)
    # A row has squared norm n/m, and the Parseval scale 1/k: vectors j of all rows are orthogonal.
    sums = np.einsum("ljc,ljd->jcd", vectors, vectors.conj())
    projections = sums * k * m / n
    assert np.allclose(projections, projections.conj().transpose(0, 2, 1), rtol=0, atol=1e-9)
    assert np.allclose(projections @ projections, projections, rtol=0, atol=1e-9)
    assert np.allclose(np.trace(projections, axis1=1, axis2=2), m, rtol=0, atol=1e-9)
    assert np.allclose(projections.sum(0), k * m / n * np.eye(n), rtol=0, atol=1e-9)


def test_blocks_by_hand() -> None:
    # C², one row of two ones, modulated by the third roots of unity.
    turn = np.exp(2j * np.pi / 3)
    expected = np.array([[1, 1], [1, turn], [1, turn**2]]) / math.sqrt(3)
    assert np.allclose(dense_blocks(3, 1, 2)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sizes", "count"), [((8, 3, 24), 1), ((5, 2, 5), 2), ((9, 4, 10), 4)])
def test_equal_blocks_are_kept_once(sizes: Sizes, count: int) -> None:
    k, m, n = sizes
    index, blocks = fusion_blocks(*sizes)
    assert index.dtype == torch.int64
    assert blocks.dtype == torch.float64
    assert blocks.shape == (count, index.shape[1], 2 * k)
    assert len(index) == m
    assert index.min() == 0
    assert index.max() == 2 * n - 1


# The real frame


@settings(deadline=None, max_examples=60)
@given(sizes=buildable_sizes(), missing=st.integers(0, 5), seed=SEEDS)
@example(sizes=(1, 1, 1), missing=1, seed=0)
@example(sizes=(8, 6, 48), missing=3, seed=0)
def test_is_parseval_at_any_size(sizes: Sizes, missing: int, seed: int) -> None:
    k, m, n = sizes
    assume(missing < 2 * n)
    frame = real_frame(k, m, n, missing, seed)
    matrix = frame.matrix()
    assert matrix.shape == (2 * k * m, 2 * n - missing)
    eye = torch.eye(frame.dim, dtype=torch.float64)
    assert (matrix.T @ matrix - eye).abs().max() <= 1e-9
    assert frame.is_parseval(1e-9)


@settings(deadline=None, max_examples=25)
@given(sizes=buildable_sizes(), missing=st.integers(0, 5), seed=SEEDS)
@example(sizes=(8, 6, 48), missing=3, seed=0)
@example(sizes=(6, 11, 33), missing=0, seed=0)
def test_is_the_operator_of_the_format(sizes: Sizes, missing: int, seed: int) -> None:
    assume(missing < 2 * sizes[2])
    frame = real_frame(*sizes, missing, seed)
    assert frame.spec == FrameSpec(
        "fusion",
        frame.dim,
        frame.num_vectors,
        (frame.num_subspaces, frame.subspace_dim, frame.padded_dim),
    )
    expected = analysis_operator(frame.spec, pack_signs(frame.signs.numpy()))
    assert np.allclose(frame.matrix().numpy(), expected, rtol=0, atol=1e-9)


def test_an_outlier_is_spread_over_many_coefficients() -> None:
    frame = FusionFrame.create(1024)
    x = torch.zeros(1024)
    x[17] = 32.0
    assert frame.analysis(x).abs().max() < 4.0


# Sizes


@pytest.mark.parametrize("redundancy", [1.0, 1.1, 1.25, 1.5, 2.0])
def test_every_dimension_has_a_size(redundancy: float) -> None:
    for dim in [*range(1, 301), 997, 1009, 4999]:
        k, m, n = fusion_size(dim, redundancy)
        assert n >= dim
        assert k * m >= dim
        assert m % 2 == n % 2 == 0
        assert nearest_fusion_frame(k, m // 2, n // 2) == (k, m // 2, n // 2)


@pytest.mark.parametrize("redundancy", [1.0, 1.1, 1.125, 1.25, 1.5, 2.0])
@pytest.mark.parametrize("dim", [16, 48, 208, 384, 768, 3072, 4096])
def test_sizes_are_those_of_the_authors(dim: int, redundancy: float) -> None:
    assert fusion_size(dim, redundancy) == (round(8 * redundancy), dim // 8, dim)


@settings(deadline=None, max_examples=40)
@given(dim=st.integers(1, 300), redundancy=REDUNDANCIES)
@example(dim=1, redundancy=1.0)
@example(dim=33, redundancy=1.0)
@example(dim=257, redundancy=2.0)
def test_every_dimension_can_be_built(dim: int, redundancy: float) -> None:
    frame = FusionFrame.create(dim, redundancy)
    k, m, n = fusion_size(dim, redundancy)
    assert (frame.num_subspaces, frame.subspace_dim, frame.padded_dim) == (k, m, n)
    assert frame.num_vectors == k * m
    assert frame.redundancy >= 1
    assert frame.is_parseval(1e-9)


@pytest.mark.parametrize(
    ("dim", "redundancy", "size"),
    [
        (1, 1.0, (8, 2, 16)),
        (17, 1.0, (8, 4, 32)),
        (1, 1.1, (9, 2, 16)),
        (33, 1.0, (8, 6, 48)),
        (33, 1.05, (8, 6, 48)),
        (33, 1.25, (10, 6, 48)),
        (384, 1.1, (9, 48, 384)),
    ],
)
def test_sizes_by_hand(dim: int, redundancy: float, size: Sizes) -> None:
    assert fusion_size(dim, redundancy) == size


# What is refused


def signs_of(dim: int) -> torch.Tensor:
    return torch.ones(dim, dtype=torch.int8)


@pytest.mark.parametrize("sizes", [(8, 3, 24), (8, 4, 25), (8, 4, 22)])
def test_what_is_no_real_form_is_refused(sizes: Sizes) -> None:
    k, m, n = sizes
    with pytest.raises(ValueError, match=f"subspace_dim={m}, padded_dim={n}, dim=24"):
        FusionFrame(24, k * m, signs_of(24), k, m, n)


def test_another_number_of_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="num_subspaces·subspace_dim, not 34"):
        FusionFrame(32, 34, signs_of(32), 8, 4, 32)


def test_redundancy_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="dim=32, num_vectors=16"):
        FusionFrame.create(32, 0.5)


@pytest.mark.parametrize("shape", [(31,), (33,), (32, 1), ()])
def test_signs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"signs have shape .*, not \(32,\)"):
        FusionFrame(32, 32, torch.ones(shape, dtype=torch.int8), 8, 4, 32)


@pytest.mark.parametrize("other", [0, 2, -3])
def test_what_is_no_sign_is_refused(other: int) -> None:
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        FusionFrame(32, 32, signs_of(32) * other, 8, 4, 32)
