"""What every frame does alike, and what every frame with signs does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame

Signed = type[HadamardFrame] | type[FusionFrame]
Kind = Signed | type[HarmonicFrame]
EVERY_SIGNED_KIND = pytest.mark.parametrize("kind", [HadamardFrame, FusionFrame])
EVERY_KIND = pytest.mark.parametrize("kind", [HadamardFrame, FusionFrame, HarmonicFrame])

# 17, 31, 61, 127, 997, 4099 and 4999 are prime; 64 and 4096 powers of two; 4097 = 17·241.
AWKWARD_DIMS = (
    *(1, 2, 3, 5, 17, 31, 40, 61, 64, 65, 100, 127, 130),
    *(997, 1000, 3072, 4096, 4097, 4099, 4999),
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def create(kind: Kind, dim: int, redundancy: float, seed: int) -> Frame:
    if kind is HarmonicFrame:
        return HarmonicFrame.create(dim, redundancy)
    return kind.create(dim, redundancy, seed)


@EVERY_KIND
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (2, 1, 3), (0,), (4, 0)])
@pytest.mark.parametrize("dim", [96, 131])
def test_batch_axes_are_kept(kind: Kind, shape: tuple[int, ...], dim: int) -> None:
    frame = kind.create(dim, 1.25)
    matrix = frame.matrix()
    x = normal(*shape, dim)
    coeffs = frame.analysis(x)
    assert coeffs.shape == (*shape, frame.num_vectors)
    assert torch.allclose(coeffs, x @ matrix.T, atol=1e-10)
    back = frame.synthesis(coeffs)
    assert back.shape == (*shape, dim)
    assert torch.allclose(back, x, atol=1e-10)


@EVERY_KIND
def test_a_tensor_that_is_not_contiguous_is_read_right(kind: Kind) -> None:
    frame = kind.create(130, 1.5)
    x = normal(130, 9).T
    assert torch.allclose(frame.analysis(x), x @ frame.matrix().T, atol=1e-10)
    coeffs = normal(frame.num_vectors, 9).T
    assert torch.allclose(frame.synthesis(coeffs), coeffs @ frame.matrix(), atol=1e-10)


@EVERY_KIND
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 1e-2)],
)
@pytest.mark.parametrize("dim", [5, 64, 100, 384, 1000])
def test_dtype_is_kept(kind: Kind, dtype: torch.dtype, tolerance: float, dim: int) -> None:
    frame = kind.create(dim, 1.25)
    x = normal(3, dim).to(dtype)
    coeffs = frame.analysis(x)
    back = frame.synthesis(coeffs)
    assert coeffs.dtype == dtype
    assert back.dtype == dtype
    assert torch.allclose(coeffs.double(), frame.analysis(x.double()), atol=tolerance)
    assert torch.allclose(back.double(), x.double(), atol=tolerance)
    assert frame.matrix(dtype).dtype == dtype


@EVERY_KIND
@pytest.mark.parametrize("redundancy", [1.0, 1.25])
def test_input_is_left_as_it_was(kind: Kind, redundancy: float) -> None:
    frame = kind.create(128, redundancy)
    x = normal(2, 128)
    before = x.clone()
    coeffs = frame.analysis(x)
    kept = coeffs.clone()
    frame.synthesis(coeffs)
    assert torch.equal(x, before)
    assert torch.equal(coeffs, kept)


@EVERY_SIGNED_KIND
def test_the_frames_of_one_size_differ_by_their_signs_only(kind: Signed) -> None:
    first, again, other = (kind.create(50, 1.25, seed) for seed in (7, 7, 8))
    assert torch.equal(first.signs, again.signs)
    assert not torch.equal(first.signs, other.signs)
    assert first.spec == other.spec
    bare = first.matrix() * first.signs
    assert torch.allclose(bare, other.matrix() * other.signs, rtol=0, atol=1e-12)


@EVERY_KIND
@pytest.mark.parametrize(
    ("dim", "redundancy"), [(1, 1.0), (1, 3.0), (12, 1.0), (37, 1.7), (90, 2.0)]
)
def test_gram_is_a_projection_of_rank_dim(kind: Kind, dim: int, redundancy: float) -> None:
    frame = kind.create(dim, redundancy)
    gram = frame.gram()
    assert gram.shape == (frame.num_vectors, frame.num_vectors)
    assert torch.allclose(gram, gram.T, atol=1e-12)
    assert torch.allclose(gram @ gram, gram, atol=1e-10)
    assert torch.linalg.matrix_rank(gram) == dim
    assert gram.trace().item() == pytest.approx(dim)
    assert frame.frame_bound() == pytest.approx(1.0, abs=1e-9)


@EVERY_KIND
@settings(deadline=None, max_examples=20)
@given(
    dim=st.integers(1, 90),
    redundancy=st.floats(1.0, 2.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_transformed_hessian_is_t_h_t_transposed(
    kind: Kind, dim: int, redundancy: float, seed: int
) -> None:
    frame = create(kind, dim, redundancy, seed)
    rows = normal(dim + 3, dim, seed=seed)
    hessian = rows.T @ rows
    matrix = frame.matrix()
    assert torch.allclose(
        frame.transform_hessian(hessian), matrix @ hessian @ matrix.T, atol=1e-9 * dim
    )


@EVERY_KIND
@pytest.mark.parametrize("dim", AWKWARD_DIMS)
def test_unit_vectors_come_back(kind: Kind, dim: int) -> None:
    frame = create(kind, dim, 1.5, seed=3)
    units = torch.zeros(3, dim, dtype=torch.float64)
    for row, position in enumerate((0, dim // 2, dim - 1)):
        units[row, position] = 1
    coeffs = frame.analysis(units)
    assert torch.allclose(frame.synthesis(coeffs), units, rtol=0, atol=1e-9)
    assert torch.allclose(coeffs.norm(dim=-1), torch.ones(3, dtype=torch.float64), atol=1e-9)


@EVERY_KIND
@settings(deadline=None, max_examples=25)
@given(dim=st.integers(1, 5000), redundancy=st.floats(1.0, 3.0), seed=st.integers(0, 2**31))
def test_synthesis_is_the_adjoint_of_analysis(
    kind: Kind, dim: int, redundancy: float, seed: int
) -> None:
    frame = create(kind, dim, redundancy, seed)
    x = normal(dim, seed=seed)
    coeffs = normal(frame.num_vectors, seed=seed + 1)
    left, right = frame.analysis(x) @ coeffs, x @ frame.synthesis(coeffs)
    assert abs(left - right) <= 1e-9 * x.norm() * coeffs.norm()
