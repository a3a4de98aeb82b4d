import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.quant import Moments
from fqonnx.quant.moments import oas_shrinkage


def second_moment(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return x.T @ x / rows


def test_half_of_the_mean_is_taken_away() -> None:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    hessian = 5 * torch.eye(2, dtype=torch.float64)
    centered = Moments(hessian, mean, 10, 0.1, True).centered_hessian()
    assert centered.tolist() == [[4.5, 1.0], [1.0, 3.0]]
    assert torch.equal(hessian, 5 * torch.eye(2, dtype=torch.float64))


def test_the_centered_hessian_is_still_a_second_moment() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    moments = Moments(x.T @ x / 40, x.mean(0), 40, 0.1, True)
    assert torch.linalg.eigvalsh(moments.centered_hessian()).min() > 0


def test_shrinkage_by_hand() -> None:
    # tr H = 4, tr H² = 10, p = 2: (0·10 + 16) / ((n + 1 − 1)·(10 − 8)) = 8/n
    hessian = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert oas_shrinkage(hessian, 80) == pytest.approx(0.1)
    assert oas_shrinkage(hessian, 16) == pytest.approx(0.5)
    assert oas_shrinkage(hessian, 8) == oas_shrinkage(hessian, 1) == 0.99


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 60), dim=st.integers(1, 30), seed=st.integers(0, 2**31))
def test_shrinkage_is_a_share_that_falls_with_the_rows(rows: int, dim: int, seed: int) -> None:
    hessian = second_moment(rows, dim, seed)
    shares = [oas_shrinkage(hessian, count) for count in (rows, 10 * rows, 1000 * rows)]
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= share < 1 for share in shares)
    assert oas_shrinkage(5 * hessian, rows) == pytest.approx(shares[0])


def test_a_multiple_of_the_identity_needs_no_shrinkage() -> None:
    assert oas_shrinkage(3 * torch.eye(8, dtype=torch.float64), 2) == 0.0
    assert oas_shrinkage(torch.zeros(8, 8, dtype=torch.float64), 2) == 0.0


def test_few_rows_ask_for_more_damping() -> None:
    # Directions of very different size, as those of real activations are.
    sizes = torch.logspace(0, -3, 20, dtype=torch.float64)
    few, many = (
        Moments(
            second_moment(rows, 20) * torch.outer(sizes, sizes), sizes, rows, 0.25, True
        ).total_damping()
        for rows in (3, 10_000)
    )
    assert 0.25 < many < 0.26
    assert few > 1
    hessian = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert Moments(hessian, sizes[:2], 16, 0.25, True).total_damping() == pytest.approx(1.25)
