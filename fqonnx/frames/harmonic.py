"""Real harmonic frames E_N^d: N sampled sinusoids of the d lowest frequencies.

Frame vector j is √(2/d)·(cos θ, sin θ, cos 2θ, sin 2θ, …), θ = 2πj/N, and begins with 1/√2 where d
is odd: unit-norm and tight (Benedetto, Powell and Yılmaz 2006; Frame Quantization of Neural
Networks, arXiv 2404.08131). Here it is scaled by √(d/N), so that TᵀT = I. Neighbouring vectors are
close, which is what Sigma-Delta lives on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fqonnx.frames.base import Frame, FrameSpec


def least_harmonic_size(dim: int) -> int:
    """Return the least N of a tight E_N^d: d where d is odd, else d + 1."""
    return dim if dim % 2 else dim + 1


def harmonic_size(dim: int, redundancy: float = 1.0) -> int:
    """Return the smallest N >= redundancy·dim that has a fast transform (see `harmonic_factors`).

    It is even where dim is, so that Sigma-Delta's state ends at zero. What it is above
    redundancy·dim is redundancy and is counted as such.
    """
    size = max(math.ceil(redundancy * dim - 1e-9), least_harmonic_size(dim))
    while (size % 2 and dim % 2 == 0) or _is_slow(dim, size):
        size += 1
    return size


def _is_slow(dim: int, num_vectors: int) -> bool:
    first, _ = harmonic_factors(dim, num_vectors)
    return _cost(dim, num_vectors, first) > 6 * math.sqrt(dim) + 16


@cache
def harmonic_factors(dim: int, num_vectors: int) -> tuple[int, int]:
    """Return (N1, N2), N1·N2 = N: the two steps of the transform that cost least together.

    A coefficient is Σ_k z_k·exp(2πi·kn/N). With k = N1·k2 + k1 and n = N2·n1 + n2 it is a sum over
    k2 of N2 points, a turn by exp(2πi·k1·n2/N), and a sum over k1 of N1 points.
    """
    divisors = (n for n in range(1, num_vectors + 1) if num_vectors % n == 0)
    first = min(divisors, key=lambda n: _cost(dim, num_vectors, n))
    return first, num_vectors // first


def _cost(dim: int, num_vectors: int, first: int) -> int:
    """Return the multiplications of a coefficient."""
    return 4 * -(-(dim // 2 + 1) // first) + 2 * first


@dataclass(frozen=True, eq=False)
class HarmonicFrame(Frame):
    """The harmonic frame of num_vectors vectors in R^dim, in its natural order.

    Raises:
        ValueError: num_vectors is below dim, or equal to an even dim: the highest sine vanishes.
    """

    @classmethod
    def create(cls, dim: int, redundancy: float = 1.0) -> HarmonicFrame:
        """Return the frame of at least ``redundancy``·``dim`` vectors (see `harmonic_size`)."""
        return cls(dim, harmonic_size(dim, redundancy))

    def __post_init__(self) -> None:
        super().__post_init__()
        least = least_harmonic_size(self.dim)
        if self.num_vectors < least:
            raise ValueError(
                f"a harmonic frame of R^{self.dim} is tight from {least} vectors up, "
                f"got {self.num_vectors}"
            )

    @property
    def spec(self) -> FrameSpec:
        """The frame: it has no signs."""
        return FrameSpec("harmonic", self.dim, self.num_vectors)

    @property
    def is_zero_sum(self) -> bool:
        """Whether the frame vectors sum to zero: where there is no constant, for an even dim."""
        return self.dim % 2 == 0

    def analysis(self, x: Tensor) -> Tensor:
        """Return x·Tᵀ by an inverse real FFT, O(N log N)."""
        if not x.numel():  # torch's FFT refuses what is empty
            return x.new_zeros(*x.shape[:-1], self.num_vectors)
        pairs = x if x.dtype == torch.float64 else x.float()
        spectrum = x.new_zeros(
            *x.shape[:-1], self.num_vectors // 2 + 1, dtype=pairs.dtype.to_complex()
        )
        if self.dim % 2:
            spectrum[..., 0] = pairs[..., 0] * math.sqrt(2.0)
            pairs = pairs[..., 1:]
        spectrum[..., 1 : self.dim // 2 + 1] = torch.complex(pairs[..., 0::2], -pairs[..., 1::2])
        scale = math.sqrt(self.num_vectors / 2.0)
        coeffs: Tensor = torch.fft.irfft(spectrum, n=self.num_vectors) * scale
        return coeffs.to(x.dtype)

    def synthesis(self, coeffs: Tensor) -> Tensor:
        """Return coeffs·T by a real FFT."""
        if not coeffs.numel():
            return coeffs.new_zeros(*coeffs.shape[:-1], self.dim)
        real = coeffs if coeffs.dtype == torch.float64 else coeffs.float()
        spectrum = torch.fft.rfft(real) * math.sqrt(2.0 / self.num_vectors)
        inner = spectrum[..., 1 : self.dim // 2 + 1]
        x = torch.stack([inner.real, -inner.imag], dim=-1).flatten(-2)
        if self.dim % 2:
            x = torch.cat([spectrum.real[..., :1] / math.sqrt(2.0), x], dim=-1)
        return x.to(coeffs.dtype)

    def inner_product(self, distance: int) -> float:
        """Return ⟨e_j, e_{j + distance}⟩ of the unit-norm frame vectors, the same for all j."""
        cosines = (2.0 * distance * self._half_angles()).cos()
        return 2.0 / self.dim * (self.dim % 2 / 2.0 + float(cosines.sum()))

    def variation(self, order: int = 1) -> float:
        """Return the frame variation of the unit-norm frame vectors in their natural order.

        Σ_j ‖e_j − e_{j+1}‖ for order 1 (Benedetto, Powell and Yılmaz 2006, §III), and
        Σ_j ‖e_j − 2·e_{j+1} + e_{j+2}‖ for order 2, j from the first vector as far as they go. A
        difference multiplies frequency k by 2·sin(πk/N), so that nothing cancels.
        """
        factors = (2.0 * self._half_angles().sin()) ** (2 * order)
        return max(self.num_vectors - order, 0) * math.sqrt(2.0 / self.dim * float(factors.sum()))

    def _half_angles(self) -> Tensor:
        """Return πk/N of the frequencies k."""
        frequencies = torch.arange(1, self.dim // 2 + 1, dtype=torch.float64)
        return math.pi / self.num_vectors * frequencies
