"""Randomized Hadamard frames for any dimension and any redundancy.

T = (Q_q ⊗ H_{2^p}) restricted to dim of its columns, times random signs. H is the orthonormal
Walsh-Hadamard matrix, Q_q the orthonormal DCT-II of an odd order q. The Kronecker product is kept
as a short list of factors of bounded order, so a transform costs O(n log n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fqonnx.frames.base import FrameSpec, SignedFrame, random_signs

MAX_ODD = 63
MAX_FACTOR = 48
_LONE_FACTOR = 16


def hadamard_size(dim: int, redundancy: float = 1.0) -> int:
    """Return the smallest q·2^p >= redundancy·dim with q odd and q <= `MAX_ODD`.

    Dimensions whose odd part is larger are padded by at most 1/32. That padding is redundancy and
    is counted as such.
    """
    target = math.ceil(redundancy * dim - 1e-9)
    step = 1
    while -(-target // step) > MAX_ODD:
        step *= 2
    return -(-target // step) * step


def kronecker_orders(num_vectors: int) -> tuple[int, ...]:
    """Return the orders of the Kronecker factors of ``num_vectors``, the odd one first.

    Each is at most `MAX_FACTOR`, or the odd part where that is larger, and they are as few and as
    even in size as can be, but two from 17 upward: every factor is a pass over the data, and its
    matrix is part of a function body.

    Raises:
        ValueError: The odd part is larger than `MAX_ODD`.
    """
    power = (num_vectors & -num_vectors).bit_length() - 1
    odd = num_vectors >> power
    if odd > MAX_ODD:
        raise ValueError(
            f"{num_vectors} has the odd part {odd}; a Hadamard frame needs one of at most "
            f"{MAX_ODD}: use hadamard_size() to find a size"
        )
    count = 1 if num_vectors <= _LONE_FACTOR or power == 0 else 2
    while max(orders := _split(odd, power, count)) > max(MAX_FACTOR, odd):
        count += 1
    return orders


def _split(odd: int, power: int, count: int) -> tuple[int, ...]:
    """Spread odd·2^power over ``count`` factors, doubling the smallest each time."""
    factors = [odd] + [1] * (count - 1)
    for _ in range(power):
        factors[factors.index(min(factors))] *= 2
    return tuple(factors)


@cache
def hadamard_columns(num_vectors: int, dim: int) -> Tensor:
    """Return which columns of Q_q ⊗ H_{2^p} make up T, int64 (dim,).

    All in order; or i·s modulo num_vectors, s the least integer from ⌈382·num_vectors/1000⌉ (the
    golden section) up that has no divisor in common with it. Neighbouring columns of a Kronecker
    product would make frame vectors that are parallel: the first half of H_{2^p} has each of them
    twice, and three times the squared error of these columns at 2 bits without data.
    """
    if num_vectors == dim:
        return torch.arange(dim)
    stride = -(-382 * num_vectors // 1000)
    while math.gcd(stride, num_vectors) > 1:
        stride += 1
    return torch.arange(dim) * stride % num_vectors


@cache
def orthonormal_factor(order: int) -> Tensor:
    """Return Q_q ⊗ H_{2^a} for order = q·2^a as a float64 matrix (order, order)."""
    power = (order & -order).bit_length() - 1
    factor = _dct2(order >> power)
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2.0)
    for _ in range(power):
        factor = torch.kron(factor, two)
    return factor


def _dct2(order: int) -> Tensor:
    """Return the orthonormal DCT-II matrix (order, order); [[1]] for order 1."""
    k = torch.arange(order, dtype=torch.float64)
    matrix = torch.cos(math.pi / order * torch.outer(k, k + 0.5)) * math.sqrt(2.0 / order)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def kronecker_transform(x: Tensor, order: int, *, transpose: bool = False) -> Tensor:
    """Multiply each run of ``order`` entries of the last axis by (Q_q ⊗ H_{2^p})ᵀ.

    Args:
        x: (..., a multiple of order).
        order: q·2^p, as `kronecker_orders` takes it.
        transpose: Multiply by Q_q ⊗ H_{2^p} instead, which undoes it.
    """
    shape = x.shape
    for part in reversed(kronecker_orders(order)):
        factor = orthonormal_factor(part).to(x)
        # The last axis is transformed and goes to the front; after all factors it is in place.
        x = x.reshape(-1, order // part, part) @ (factor if transpose else factor.T)
        x = x.transpose(1, 2)
    return x.reshape(shape)


@dataclass(frozen=True, eq=False)
class HadamardFrame(SignedFrame):
    """A randomized Hadamard frame.

    Raises:
        ValueError: num_vectors has too large an odd part, or signs do not fit dim.
    """

    @classmethod
    def create(cls, dim: int, redundancy: float = 1.0, seed: int = 0) -> HadamardFrame:
        """Draw a frame of at least ``redundancy``·``dim`` vectors (see `hadamard_size`)."""
        return cls(dim, hadamard_size(dim, redundancy), random_signs(dim, seed))

    def __post_init__(self) -> None:
        super().__post_init__()
        kronecker_orders(self.num_vectors)

    @property
    def spec(self) -> FrameSpec:
        """The frame but for its signs."""
        return FrameSpec("hadamard", self.dim, self.num_vectors)

    def analysis(self, x: Tensor) -> Tensor:
        """Return x·Tᵀ."""
        padded = x * self.signs.to(x)
        if self.num_vectors > self.dim:
            signed = padded
            padded = x.new_zeros(*x.shape[:-1], self.num_vectors)
            padded[..., hadamard_columns(self.num_vectors, self.dim)] = signed
        return kronecker_transform(padded, self.num_vectors)

    def synthesis(self, coeffs: Tensor) -> Tensor:
        """Return coeffs·T."""
        full = kronecker_transform(coeffs, self.num_vectors, transpose=True)
        if self.num_vectors > self.dim:
            full = full[..., hadamard_columns(self.num_vectors, self.dim)]
        return full * self.signs.to(coeffs)
