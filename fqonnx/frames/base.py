"""What every frame offers.

A frame of R^dim is held as its analysis operator T (num_vectors, dim), Parseval-normalised:
TᵀT = I. Rows of T are the frame vectors. Transforms act on the last axis of a tensor, so the same
method serves activations (batch, dim) and weights held by output channel (dim_out, dim).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fqonnx.config import FrameKind


@dataclass(frozen=True)
class FrameSpec:
    """A frame but for its signs: what an operator's attributes say of it.

    Attributes:
        kind: Which frame.
        dim: Dimension of the space.
        num_vectors: Number of frame vectors.
        subspaces: Number of subspaces, their dimension, and the dimension that ``dim`` is padded
            to, for a fusion frame.
    """

    kind: FrameKind
    dim: int
    num_vectors: int
    subspaces: tuple[int, int, int] | None = None

    @property
    def redundancy(self) -> float:
        """num_vectors / dim, at least 1."""
        return self.num_vectors / self.dim


@dataclass(frozen=True, eq=False)
class Frame(ABC):
    """A Parseval frame of ``num_vectors`` vectors in R^``dim``.

    Attributes:
        dim: Dimension of the space.
        num_vectors: Number of frame vectors, at least ``dim``.
    """

    dim: int
    num_vectors: int

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= self.num_vectors:
            raise ValueError(
                f"a frame needs 1 <= dim <= num_vectors, got dim={self.dim}, "
                f"num_vectors={self.num_vectors}"
            )

    @property
    def redundancy(self) -> float:
        """num_vectors / dim, at least 1."""
        return self.num_vectors / self.dim

    @property
    @abstractmethod
    def spec(self) -> FrameSpec:
        """The frame but for its signs."""

    @abstractmethod
    def analysis(self, x: Tensor) -> Tensor:
        """Return the frame coefficients x·Tᵀ, (..., dim) → (..., num_vectors), in x's dtype."""

    @abstractmethod
    def synthesis(self, coeffs: Tensor) -> Tensor:
        """Return coeffs·T, (..., num_vectors) → (..., dim), in the dtype of ``coeffs``."""

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return T (num_vectors, dim) as a dense matrix: for checks, not for use at run time."""
        return self.analysis(torch.eye(self.dim, dtype=dtype)).T

    def gram(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the Gram matrix TTᵀ (num_vectors, num_vectors): a projection of rank dim."""
        matrix = self.matrix(dtype)
        return matrix @ matrix.T

    def frame_bound(self) -> float:
        """Return the upper frame bound, the largest eigenvalue of TᵀT: 1 for a Parseval frame."""
        return float(torch.linalg.matrix_norm(self.matrix(), ord=2)) ** 2

    def is_parseval(self, tolerance: float = 1e-6) -> bool:
        """Whether ‖TᵀT − I‖ in the largest entry is within ``tolerance``."""
        eye = torch.eye(self.dim, dtype=torch.float64)
        return bool((self.synthesis(self.analysis(eye)) - eye).abs().max() <= tolerance)

    def transform_hessian(self, hessian: Tensor) -> Tensor:
        """Return THTᵀ (num_vectors, num_vectors) of a symmetric H (dim, dim)."""
        return self.analysis(self.analysis(hessian).T.contiguous())


@dataclass(frozen=True, eq=False)
class SignedFrame(Frame):
    """A frame that begins with random signs.

    Attributes:
        signs: Random signs (dim,), int8, each +1 or -1, applied before the transform.

    Raises:
        ValueError: Signs do not fit dim, or are not signs.
    """

    signs: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.signs.shape != (self.dim,):
            raise ValueError(f"signs have shape {tuple(self.signs.shape)}, not ({self.dim},)")
        if not bool((self.signs.abs() == 1).all()):
            raise ValueError("signs are +1 or -1")


def random_signs(dim: int, seed: int) -> Tensor:
    """Return random signs (dim,), int8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (dim,), generator=generator, dtype=torch.int8) * 2 - 1
