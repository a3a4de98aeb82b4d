import numpy as np
import pytest
import torch

from fqonnx.frames import FrameSpec, IdentityFrame
from fqonnx.reference import analysis_operator


@pytest.mark.parametrize("dim", [1, 2, 7, 64, 131])
def test_changes_nothing(dim: int) -> None:
    frame = IdentityFrame(dim)
    x = torch.randn(3, dim)
    assert torch.equal(frame.analysis(x), x)
    assert torch.equal(frame.synthesis(x), x)
    assert torch.equal(frame.matrix(), torch.eye(dim, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_and_batch_axes_are_kept(dtype: torch.dtype) -> None:
    frame = IdentityFrame(5)
    x = torch.ones(2, 0, 3, 5, dtype=dtype)
    assert frame.analysis(x).dtype == dtype
    assert frame.synthesis(x).shape == (2, 0, 3, 5)


def test_is_a_basis() -> None:
    frame = IdentityFrame(9)
    assert frame.num_vectors == 9
    assert frame.redundancy == 1.0
    assert frame.is_parseval()
    assert frame.frame_bound() == pytest.approx(1.0)
    assert torch.equal(frame.gram(), torch.eye(9, dtype=torch.float64))


def test_hessian_stays_as_it_is() -> None:
    rows = torch.randn(20, 6, dtype=torch.float64)
    hessian = rows.T @ rows
    assert torch.allclose(IdentityFrame(6).transform_hessian(hessian), hessian)


def test_is_the_operator_of_the_format() -> None:
    frame = IdentityFrame(7)
    assert frame.spec == FrameSpec("identity", 7, 7)
    assert np.array_equal(frame.matrix().numpy(), analysis_operator(frame.spec, None))


def test_num_vectors_may_be_said() -> None:
    assert IdentityFrame(4, 4).num_vectors == 4


@pytest.mark.parametrize(("dim", "num_vectors"), [(4, 5), (4, 3), (4, 0)])
def test_redundancy_is_refused(dim: int, num_vectors: int) -> None:
    with pytest.raises(ValueError, match=f"num_vectors == dim, got {num_vectors} and {dim}"):
        IdentityFrame(dim, num_vectors)


@pytest.mark.parametrize("dim", [0, -1, -3])
def test_no_dimension_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match="1 <= dim"):
        IdentityFrame(dim)
