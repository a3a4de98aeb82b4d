"""Randomized Hadamard frames for any dimension and any redundancy.

T = (Q_q ⊗ H_{2^p}) restricted to its first dim columns, times random signs. H is the orthonormal
Walsh-Hadamard matrix, Q_q the orthonormal DCT-II of an odd order q. The Kronecker product is kept
as a short list of factors of bounded order, so a transform costs O(n log n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from fqonnx.frames.base import Frame

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


@dataclass(frozen=True, eq=False)
class HadamardFrame(Frame):
    """A randomized Hadamard frame.

    Attributes:
        signs: Random signs (dim,), int8, each +1 or -1, applied before the transform.

    Raises:
        ValueError: num_vectors has too large an odd part, or signs do not fit dim.
    """

    signs: Tensor

    @classmethod
    def create(cls, dim: int, redundancy: float = 1.0, seed: int = 0) -> HadamardFrame:
        """Draw a frame of at least ``redundancy``·``dim`` vectors (see `hadamard_size`)."""
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (dim,), generator=generator, dtype=torch.int8) * 2 - 1
        return cls(dim, hadamard_size(dim, redundancy), signs)

    def __post_init__(self) -> None:
        super().__post_init__()
        kronecker_orders(self.num_vectors)
        if self.signs.shape != (self.dim,):
            raise ValueError(f"signs have shape {tuple(self.signs.shape)}, not ({self.dim},)")
        if not bool((self.signs.abs() == 1).all()):
            raise ValueError("signs are +1 or -1")

    def analysis(self, x: Tensor) -> Tensor:
        """Return x·Tᵀ."""
        signed = x * self.signs.to(x)
        padded = pad(signed, (0, self.num_vectors - self.dim))
        return self._apply_factors(padded, transpose=False)

    def synthesis(self, coeffs: Tensor) -> Tensor:
        """Return coeffs·T."""
        full = self._apply_factors(coeffs, transpose=True)
        return full[..., : self.dim] * self.signs.to(coeffs)

    def _apply_factors(self, x: Tensor, *, transpose: bool) -> Tensor:
        shape = x.shape
        for order in reversed(kronecker_orders(self.num_vectors)):
            factor = orthonormal_factor(order).to(x)
            # The last axis is transformed and goes to the front; after all factors it is in place.
            x = x.reshape(-1, self.num_vectors // order, order) @ (
                factor if transpose else factor.T
            )
            x = x.transpose(1, 2)
        return x.reshape(shape)
