"""Tight fusion frames of equal dimension, as FrameQuant (arXiv 2403.06082, §2–3) uses them.

A tight fusion frame (k, l, n) is k subspaces of dimension l whose projections sum to (k·l/n)·I. The
one here is Casazza, Fickus, Mixon, Wang and Zhou's (Constructing tight fusion frames, 2011): a
unit-norm tight frame of n vectors in C^l by spectral tetris, whose l rows are modulated by the k-th
roots of unity. A row touches about n/l consecutive coordinates, so the operator is stored, and
applied, as l small blocks. Functions of (k, l, n) speak of C^n; `FusionFrame` is the real form, of
twice the size, behind random signs and a block Hadamard transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from fqonnx.frames.base import FrameSpec, SignedFrame, random_signs
from fqonnx.frames.hadamard import kronecker_transform

SUBSPACES = 8  # dim / subspace_dim, as in the authors' experiments


def tight_fusion_frame_exists(k: int, l: int, n: int) -> bool:
    """Whether C^n has a tight fusion frame of k subspaces of dimension l.

    Casazza et al. 2011, theorems 3 and 4: spatial and Naimark complements reduce every case.
    """
    if not (k >= 1 and 1 <= l <= n):
        return False
    if l == n:
        return True
    l = min(l, n - l)  # the complements of the subspaces
    least = -(-n // l)
    if n % l == 0:
        return k >= least
    if k != least + 1:
        return k > least + 1
    return tight_fusion_frame_exists(k, k * l - n - l, k * l - n)


def spectral_tetris(l: int, n: int) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Return the rows of a unit-norm tight frame of n vectors in C^l, the vectors being columns.

    Rows are orthogonal and of squared norm n/l, columns have norm 1.

    Returns:
        For each of the l rows the first column that it touches and its entries from there on.

    Raises:
        ValueError: 1 < n/l < 2, which this construction does not reach, or n < l.
    """
    if l < 1 or not (n == l or n >= 2 * l):
        raise ValueError(f"spectral tetris needs n = l or n >= 2·l, got l={l}, n={n}")
    rows: list[tuple[int, tuple[float, ...]]] = []
    entries: list[float] = []  # of the row under way: the part that the row before has left it
    norm = Fraction(0)
    column = 0
    for _ in range(l):
        start = column - len(entries)
        missing = Fraction(n, l) - norm
        ones = math.floor(missing)
        entries += [1.0] * ones
        column += ones
        missing -= ones
        rest: list[float] = []
        if missing > 0:  # a 2 × 2 block of unit columns gives this row what it lacks
            ours, next_row = math.sqrt(missing / 2), math.sqrt(1 - missing / 2)
            entries += [ours, ours]
            rest = [next_row, -next_row]
            column += 2
        rows.append((start, tuple(entries)))
        entries, norm = rest, (2 - missing if rest else Fraction(0))
    return tuple(rows)


def nearest_fusion_frame(k: int, l: int, n: int) -> tuple[int, int, int]:
    """Return the (k, l, n) of fewest subspaces, no fewer than k, that can be built.

    Modulated rows are tight where k is at least the number of columns that any row touches. The
    dimension l becomes n/2 where it is between n/2 and n.
    """
    if l != n:
        l = max(1, min(l, n // 2))
    widest = max(len(entries) for _, entries in spectral_tetris(l, n))
    return max(k, widest), l, n


def fusion_redundancy(redundancy: float) -> float:
    """Return what a redundancy is rounded to, in eighths: subspaces are whole, 8 at 1."""
    return math.floor(SUBSPACES * redundancy + 0.5) / SUBSPACES


def fusion_size(dim: int, redundancy: float = 1.0) -> tuple[int, int, int]:
    """Return (num_subspaces, subspace_dim, padded_dim), real, for a dimension.

    As the authors do it: subspace_dim = dim/8 and num_subspaces = round(8·redundancy), with dim
    padded to a multiple of 16. Padding is redundancy, and counts.
    """
    subspace_dim = 2 * -(-dim // (2 * SUBSPACES))
    num_subspaces = round(SUBSPACES * fusion_redundancy(redundancy))
    return num_subspaces, subspace_dim, SUBSPACES * subspace_dim


@cache
def fusion_blocks(k: int, l: int, n: int) -> tuple[Tensor, Tensor]:
    """Return the real form of the modulated frame, block by block.

    Vector j of row r is √(1/k)·row_r[c]·exp(2πi·j·(c − start_r)/k). The phase counts from the start
    of the row, which spans the same subspaces as counting from 0 does and makes equal rows equal.

    Args:
        k: Number of subspaces.
        l: Their dimension in C^n.
        n: Dimension.

    Returns:
        Index of the real coordinates that each row touches (l, width), int64; what does not exist
        at the end of the last row points to 0, with zero weight. And the blocks, float64
        (l, width, 2·k), or (1, width, 2·k) where all are equal.

    Raises:
        ValueError: It cannot be built; the message names the nearest that can.
    """
    if not (k >= 1 and 1 <= l <= n):
        raise ValueError(f"a fusion frame needs k >= 1 and 1 <= l <= n, got ({k}, {l}, {n})")
    nearest = nearest_fusion_frame(k, l, n)
    if nearest != (k, l, n):
        exists = tight_fusion_frame_exists(k, l, n)
        raise ValueError(
            f"{'no sparse' if exists else 'no'} tight fusion frame of {k} subspaces of dimension "
            f"{l} in C^{n}; the nearest has {nearest[0]} of dimension {nearest[1]}, "
            f"redundancy {nearest[0] * nearest[1] / n:.3f}"
        )
    rows = spectral_tetris(l, n)
    width = max(len(entries) for _, entries in rows)
    padded = [[*entries, *[0.0] * (width - len(entries))] for _, entries in rows]
    values = torch.tensor(padded, dtype=torch.float64)
    column = torch.arange(width, dtype=torch.float64)
    turns = torch.outer(column, torch.arange(k, dtype=torch.float64)).remainder(k) / k
    vectors = torch.polar(torch.full_like(turns, k**-0.5), 2 * math.pi * turns)
    complex_blocks = values[..., None] * vectors
    if bool((values == values[0]).all()):
        complex_blocks = complex_blocks[:1]
    real, imaginary = complex_blocks.real, complex_blocks.imag
    blocks = torch.stack(  # (..., column, its part, vector, its part)
        [torch.stack([real, imaginary], -1), torch.stack([-imaginary, real], -1)], 2
    )
    starts = torch.tensor([start for start, _ in rows])
    index = 2 * starts[:, None] + torch.arange(2 * width)
    return torch.where(index < 2 * n, index, 0), blocks.reshape(-1, 2 * width, 2 * k)


@dataclass(frozen=True, eq=False)
class FusionFrame(SignedFrame):
    """A tight fusion frame behind random signs and a block Hadamard transform.

    x is multiplied by its signs, padded with zeros, transformed in runs of 2^p, the largest power
    of two in ``padded_dim``, and taken as padded_dim/2 complex numbers (real part first).

    Attributes:
        num_subspaces: k.
        subspace_dim: Dimension of the subspaces in R^padded_dim, even.
        padded_dim: Dimension that ``dim`` is padded to, even.

    Raises:
        ValueError: No such frame can be built; the message names the nearest that can.
    """

    num_subspaces: int
    subspace_dim: int
    padded_dim: int

    @classmethod
    def create(cls, dim: int, redundancy: float = 1.0, seed: int = 0) -> FusionFrame:
        """Draw a frame of the authors' proportions (see `fusion_size`)."""
        k, l, n = fusion_size(dim, redundancy)
        return cls(dim, k * l, random_signs(dim, seed), k, l, n)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subspace_dim % 2 or self.padded_dim % 2 or self.padded_dim < self.dim:
            raise ValueError(
                "a real fusion frame needs an even subspace_dim and an even padded_dim >= dim, got "
                f"subspace_dim={self.subspace_dim}, padded_dim={self.padded_dim}, dim={self.dim}"
            )
        if self.num_vectors != self.num_subspaces * self.subspace_dim:
            raise ValueError(f"num_vectors is num_subspaces·subspace_dim, not {self.num_vectors}")
        fusion_blocks(self.num_subspaces, self.subspace_dim // 2, self.padded_dim // 2)

    @property
    def spec(self) -> FrameSpec:
        """The frame but for its signs."""
        subspaces = (self.num_subspaces, self.subspace_dim, self.padded_dim)
        return FrameSpec("fusion", self.dim, self.num_vectors, subspaces)

    def analysis(self, x: Tensor) -> Tensor:
        """Return x·Tᵀ."""
        index, blocks = self._blocks(x)
        padded = pad(x * self.signs.to(x), (0, self.padded_dim - self.dim))
        mixed = kronecker_transform(padded, self._hadamard_order).reshape(-1, self.padded_dim)
        coeffs = torch.einsum("blw,lwv->blv", mixed[:, index], blocks)
        return coeffs.reshape(*x.shape[:-1], self.num_vectors)

    def synthesis(self, coeffs: Tensor) -> Tensor:
        """Return coeffs·T."""
        index, blocks = self._blocks(coeffs)
        rows = coeffs.reshape(-1, len(index), 2 * self.num_subspaces)
        parts = torch.einsum("blv,lwv->blw", rows, blocks)
        mixed = coeffs.new_zeros(len(rows), self.padded_dim)
        mixed.index_add_(1, index.flatten(), parts.flatten(1))
        full = kronecker_transform(mixed, self._hadamard_order)
        x = full[:, : self.dim] * self.signs.to(coeffs)
        return x.reshape(*coeffs.shape[:-1], self.dim)

    @property
    def _hadamard_order(self) -> int:
        return self.padded_dim & -self.padded_dim

    def _blocks(self, like: Tensor) -> tuple[Tensor, Tensor]:
        index, blocks = fusion_blocks(
            self.num_subspaces, self.subspace_dim // 2, self.padded_dim // 2
        )
        return index.to(like.device), blocks.to(like).expand(len(index), -1, -1)
