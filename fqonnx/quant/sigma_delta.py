"""Sigma-Delta: the error of one coefficient goes into the next, by a fixed filter, without data.

Coefficients C (num_vectors, dim_out) of a harmonic frame are taken row by row, so that the
frame vectors of neighbouring rows are close and what is added to one cancels in the other. How far
the result can be from the weight follows from the frame and the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fqonnx.frames import HarmonicFrame
from fqonnx.quant.alphabet import UniformAlphabet

# Largest states, in steps. Order 1: proven for a step that `range_alphabet` chose, and a little for
# rounding. Order 2: above what random weights reached.
_LIMIT = {1: 0.501, 2: 2.0}


@dataclass(frozen=True)
class Guarantee:
    """What is known of ‖W − Ŵ‖ (Frobenius) from the frame, the steps and the largest states.

    Attributes:
        largest_state: The largest state of all columns, in steps.
        error_bound: What the error can be at most: the lesser of the two bounds for each column.
        variation_bound: The published bound alone (see `variation_bounds`).
    """

    largest_state: float
    error_bound: float
    variation_bound: float

    @classmethod
    def of(cls, frame: HarmonicFrame, step: Tensor, states: Tensor, order: int) -> Guarantee:
        """Gather the columns; arguments are as in `variation_bounds`.

        Raises:
            OverflowError: The state has left its bounds: the scheme is unstable.
        """
        largest = float(states.max())
        if largest > _LIMIT[order]:
            raise OverflowError(
                f"Sigma-Delta of order {order} is unstable: its state reached {largest:.3g} steps, "
                f"stable is up to {_LIMIT[order]:.3g}"
            )
        published = variation_bounds(frame, step, states, order)
        least = torch.minimum(published, spectral_bounds(frame, step, states, order))
        return cls(largest, float(least.norm()), float(published.norm()))

    @classmethod
    def of_all(cls, parts: Sequence[Guarantee]) -> Guarantee | None:
        """Return what is known of the weight whose columns the parts are of; None of no parts."""
        if not parts:
            return None
        return cls(
            max(part.largest_state for part in parts),
            math.hypot(*(part.error_bound for part in parts)),
            math.hypot(*(part.variation_bound for part in parts)),
        )


def sigma_delta(coeffs: Tensor, alphabet: UniformAlphabet, order: int = 1) -> tuple[Tensor, Tensor]:
    """Round row after row with Sigma-Delta.

    Order 1 (Benedetto, Powell and Yılmaz 2006, §II; arXiv 2404.08131):

        q_n = nearest(u_{n−1} + c_n),  u_n = u_{n−1} + c_n − q_n

    Order 2 adds the sum v_n = v_{n−1} + u_n to what is rounded, so that c − q is the second
    difference of v. At 1 bit half of v, which the two levels can follow (Yılmaz 2002).

    Args:
        coeffs: C (num_vectors, dim_out).
        alphabet: The levels (see `range_alphabet`).
        order: 1 or 2.

    Returns:
        Ĉ (num_vectors, dim_out) and the largest |u|, or |v| for order 2, of each column (dim_out,)
        in steps.
    """
    quantized = torch.empty_like(coeffs)
    first, second, largest = (torch.zeros_like(coeffs[0]) for _ in range(3))
    share = 0.5 if alphabet.bits == 1 else 1.0
    for n, row in enumerate(coeffs):
        target = row + first
        if order == 2:
            target = target + share * second
        quantized[n] = alphabet.nearest(target[None], n)[0]
        first = first + row - quantized[n]
        second = second + first
        largest = torch.maximum(largest, (first if order == 1 else second).abs())
    step = alphabet.step[0]
    return quantized, torch.where(step > 0, largest / step, 0.0)


def variation_bounds(frame: HarmonicFrame, step: Tensor, states: Tensor, order: int = 1) -> Tensor:
    """Return the published bound of ‖w − ŵ‖ of each column (dim_out,), by the frame variation.

    Order 1, for the unit-norm frame vectors e and their step δ = √(N/d)·step (Benedetto, Powell and
    Yılmaz 2006, §III; arXiv 2404.08131):

        ‖w − ŵ‖ ≤ (δ·d/2N)·(σ(F, p) + b)

    b is 2 there and 1 here, since the state begins at zero; it is 0 where the frame vectors sum to
    zero and N is even, which brings the state back to zero. Order 2: the same summation by parts,
    twice, with the largest state that was met in place of ½.

    Args:
        frame: The frame of the coefficients, in its natural order.
        step: Steps of the columns (dim_out,).
        states: Largest states of the columns in steps (dim_out,): what `sigma_delta` returned.
        order: 1 or 2.
    """
    delta = step.double() * math.sqrt(frame.num_vectors / frame.dim)
    scale = frame.dim / frame.num_vectors
    if order == 1:
        end = 0.0 if _returns(frame) else 1.0
        return _first_order(states) * delta * scale * (frame.variation() + end)
    # The last two terms are e_{N−1} − 2·e_N and e_N.
    boundary = 1.0 + (math.sqrt(5.0 - 4.0 * frame.inner_product(1)) if frame.num_vectors > 1 else 0)
    return states.double() * delta * scale * (frame.variation(2) + boundary)


def spectral_bounds(frame: HarmonicFrame, step: Tensor, states: Tensor, order: int = 1) -> Tensor:
    """Return a bound of ‖w − ŵ‖ of each column (dim_out,) that grows √d slower than the published.

    The error is Tᵀ·D·u, D the difference of neighbours. Around a circle D multiplies the sinusoid
    of frequency k by 2·sin(πk/N), and those of T end at k = ⌊d/2⌋, so for order 1

        ‖w − ŵ‖ ≤ ½·step·(2·sin(π⌊d/2⌋/N)·√N + b·√(d/N))

    with b as in `variation_bounds` for what is left where the circle closes. Order 2 has the square
    of the sine, the largest state that was met in place of ½, and 4 in place of b.

    Args:
        frame: As in `variation_bounds`, like all that follow.
        step: The same.
        states: The same.
        order: The same.
    """
    gain = 2.0 * math.sin(math.pi * (frame.dim // 2) / frame.num_vectors)
    length = math.sqrt(frame.dim / frame.num_vectors)  # of a frame vector
    around = gain**order * math.sqrt(frame.num_vectors)
    if order == 1:
        end = 0.0 if _returns(frame) else length
        return _first_order(states) * step.double() * (around + end)
    return states.double() * step.double() * (around + 4.0 * length)


def _first_order(states: Tensor) -> Tensor:
    """Return the states that the bounds of order 1 take: ½, whatever was met, and its rounding."""
    return states.double().clamp(min=0.5)


def _returns(frame: HarmonicFrame) -> bool:
    """Whether the state of order 1 ends at zero.

    It ends at minus the sum of all levels, a whole number of steps for an even N, and below one.
    """
    return frame.is_zero_sum and frame.num_vectors % 2 == 0
