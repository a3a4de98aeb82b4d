"""A weight, its frames and calibration moments in; packed-ready codes and their errors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fqonnx.config import Method
from fqonnx.frames import Frame, HarmonicFrame, IdentityFrame
from fqonnx.packing import TILE_ROWS
from fqonnx.quant.alphabet import (
    SCALE_DTYPE,
    UniformAlphabet,
    gaussian_alphabet,
    min_max_alphabet,
    range_alphabet,
    two_sigma_alphabet,
)
from fqonnx.quant.moments import Moments
from fqonnx.quant.quantized_weight import QuantizedWeight, SquaredErrors, synthesis
from fqonnx.quant.rounding import coordinate_descent, damped, hessian_error, ldlq, ldlq_feedback
from fqonnx.quant.sigma_delta import Guarantee, sigma_delta
from fqonnx.quant.trellis import trellis_code
from fqonnx.quant.trellis_rounding import (
    TrellisAlphabet,
    gaussian_trellis,
    refitted,
    tile_feedback,
    trellis_ldlq,
)
from fqonnx.threads import single_core_threads

_DAMPING_WITHOUT_DATA = 0.05
_SLICE_COEFFS = 1 << 23
_SLICE_BYTES = 60  # a coefficient of a slice, while it is worked on
_HESSIAN_BYTES = 48  # an entry, while the feedback is derived from it


def quantize_weight(
    weight: Tensor,
    frame_in: Frame,
    frame_out: Frame,
    method: Method,
    bits: int,
    moments: Moments | None = None,
    *,
    correct_mean: bool = False,
    threads: int = 1,
) -> QuantizedWeight:
    """Quantize a weight in a frame on each side.

    Columns of the coefficients C = T_in·W·T_outᵀ are rounded one by one against T_in·H·T_inᵀ. With
    ``correct_mean`` (the layer has a bias, and the data are real) the error that the mean causes is
    constant and goes into the bias, and only part of the mean counts in the Hessian. A large weight
    is quantized in slices of output channels (see `output_slices`), which changes nothing but which
    scales are compared where some are too small for float16.

    Args:
        weight: W (dim_in, dim_out), any float dtype; computed in float32.
        frame_in: A frame of R^dim_in.
        frame_out: A frame of R^dim_out.
        method: Alphabet, feedback and descent.
        bits: Bits a coefficient, 1 to 4.
        moments: Calibration moments; None takes H = I.
        correct_mean: Compute ``bias_shift``; needs moments that trust their mean.
        threads: Slices that are worked on at a time.

    Raises:
        OverflowError: The steps are beyond float16's range, or Sigma-Delta is unstable.
    """
    if not (correct_mean and moments is not None and moments.trust_mean):
        correct_mean = False
    objective = _objective(frame_in, method, moments, correct_mean, weight.device)

    def quantized(columns: slice) -> QuantizedWeight:
        part = weight[:, columns].float()
        frame = frame_out if part.shape == weight.shape else IdentityFrame(part.shape[1])
        return _quantized(part, frame_in, frame, method, bits, moments, objective, correct_mean)

    slices = output_slices(frame_in, frame_out)
    if len(slices) == 1:
        return quantized(*slices)
    with single_core_threads(threads) as pool:
        return QuantizedWeight.beside(list(pool.map(quantized, slices)))


def output_slices(frame_in: Frame, frame_out: Frame) -> list[slice]:
    """Return the slices of output channels that a weight is quantized in, whole tiles wide.

    They follow from the shape alone. A frame on the output axis mixes channels: there is one then.
    """
    dim_out = frame_out.dim
    if not isinstance(frame_out, IdentityFrame):
        return [slice(0, dim_out)]
    width = max(_SLICE_COEFFS // frame_in.num_vectors // TILE_ROWS, 1) * TILE_ROWS
    return [slice(first, min(first + width, dim_out)) for first in range(0, dim_out, width)]


def working_bytes(
    frame_in: Frame, frame_out: Frame, method: Method, *, has_moments: bool, threads: int
) -> int:
    """Return about how much memory `quantize_weight` takes beside its arguments."""
    slices = output_slices(frame_in, frame_out)
    rows, columns = frame_in.num_vectors, frame_out.num_vectors
    widest = columns if len(slices) == 1 else slices[0].stop
    fed_back = _has_feedback(frame_in, method, has_moments=has_moments)
    return (
        rows * columns
        + min(threads, len(slices)) * _SLICE_BYTES * rows * widest
        + fed_back * _HESSIAN_BYTES * rows**2
    )


def _quantized(
    weight: Tensor,
    frame_in: Frame,
    frame_out: Frame,
    method: Method,
    bits: int,
    moments: Moments | None,
    objective: _Objective,
    correct_mean: bool,
) -> QuantizedWeight:
    coeffs = frame_out.analysis(frame_in.analysis(weight.T.contiguous()).T.contiguous())
    alphabet: UniformAlphabet | TrellisAlphabet
    guarantee = None
    if method.alphabet == "trellis":
        wider = _widening(bits, frame_in.redundancy)
        alphabet = gaussian_trellis(coeffs, trellis_code(bits), wider)
        codes = trellis_ldlq(coeffs, objective.feedback, alphabet)
        alphabet = refitted(alphabet, codes, coeffs, objective.hessian)
    elif method.feedback == "sigma-delta":
        quantized, alphabet, guarantee = _sigma_delta(
            coeffs, frame_in, frame_out, bits, method.order
        )
        codes = alphabet.codes(quantized)
    else:
        quantized, alphabet = _rounded_uniformly(coeffs, objective, frame_in, method, bits)
        codes = alphabet.codes(quantized)

    error = synthesis(frame_in, frame_out, alphabet.values(codes)[: len(coeffs)] - coeffs)
    shift = -(moments.mean.float() @ error) if correct_mean and moments is not None else None
    zero_point = alphabet.zero_point
    return QuantizedWeight(
        frame_in=frame_in,
        frame_out=frame_out,
        bits=bits,
        codes=codes.T.contiguous(),
        scales=alphabet.step.T.contiguous().to(SCALE_DTYPE),
        zero_points=None if zero_point is None else zero_point.T.contiguous().to(torch.uint8),
        group_size=alphabet.group_size,
        bias_shift=shift,
        errors=_errors(weight, error, moments, shift),
        guarantee=guarantee,
        trellis=alphabet.code if isinstance(alphabet, TrellisAlphabet) else None,
    )


@dataclass(frozen=True)
class _Objective:
    """What all columns of a weight are rounded against, float32.

    Attributes:
        hessian: The damped Hessian in the frame domain; None where errors are not fed back.
        feedback: What follows from it for LDLQ, row by row or by tiles; likewise.
    """

    hessian: Tensor | None = None
    feedback: Tensor | None = None


def _has_feedback(frame: Frame, method: Method, *, has_moments: bool) -> bool:
    """Whether errors of one coefficient can be cancelled in another: not for H = I in a basis."""
    return method.feedback == "ldlq" and (has_moments or frame.num_vectors > frame.dim)


def _objective(
    frame: Frame,
    method: Method,
    moments: Moments | None,
    correct_mean: bool,
    device: torch.device,
) -> _Objective:
    if not _has_feedback(frame, method, has_moments=moments is not None):
        return _Objective()
    if moments is None:
        hessian = torch.eye(frame.dim, dtype=torch.float64, device=device)
    else:
        hessian = moments.centered_hessian() if correct_mean else moments.hessian
    damping = method.damping
    if damping is None:
        damping = _DAMPING_WITHOUT_DATA if moments is None else moments.total_damping()
    hessian = damped(frame.transform_hessian(hessian), damping)
    derive = tile_feedback if method.alphabet == "trellis" else ldlq_feedback
    return _Objective(hessian.float(), derive(hessian))


def _sigma_delta(
    coeffs: Tensor, frame_in: Frame, frame_out: Frame, bits: int, order: int
) -> tuple[Tensor, UniformAlphabet, Guarantee]:
    """Return Ĉ, its alphabet, and what is known of the error.

    The state runs along the reduction axis, or along the output axis where the frame is there: then
    all rows have one step, since scales are stored by output vector.
    """
    along_out = isinstance(frame_in, IdentityFrame)
    frame = frame_out if along_out else frame_in
    if not isinstance(frame, HarmonicFrame):
        raise ValueError(f"Sigma-Delta needs a harmonic frame, got {frame.spec}")
    sequences = coeffs.T if along_out else coeffs
    alphabet = range_alphabet(sequences, bits, order)
    if along_out:
        alphabet = replace(alphabet, step=alphabet.step.amax().expand_as(alphabet.step))
    quantized, states = sigma_delta(sequences, alphabet, order)
    guarantee = Guarantee.of(frame, alphabet.step[0], states, order)
    if along_out:
        quantized = quantized.T
        alphabet = replace(alphabet, step=alphabet.step[:, :1].expand(1, quantized.shape[1]))
    return quantized, alphabet, guarantee


def _rounded_uniformly(
    coeffs: Tensor, objective: _Objective, frame_in: Frame, method: Method, bits: int
) -> tuple[Tensor, UniformAlphabet]:
    """Return Ĉ and its alphabet, by LDLQ and descent where there is a Hessian."""
    if method.alphabet == "mid-rise":
        wider = _widening(bits, frame_in.redundancy)
        multipliers = [wider * multiplier for multiplier in method.step_multipliers]
        quantized, alphabet = _best_of_steps(coeffs, objective, bits, multipliers)
    elif method.alphabet == "two-sigma":
        alphabet, clipped = two_sigma_alphabet(coeffs, bits)
        quantized = _rounded(clipped, objective, alphabet)
    else:
        alphabet = min_max_alphabet(coeffs, bits, method.group_size or len(coeffs))
        quantized = _rounded(coeffs, objective, alphabet)
    if objective.hessian is not None and method.sweeps:
        hessian = objective.hessian
        quantized = coordinate_descent(coeffs, quantized, hessian, alphabet, method.sweeps)
    return quantized, alphabet


def _rounded(coeffs: Tensor, objective: _Objective, alphabet: UniformAlphabet) -> Tensor:
    if objective.feedback is None:
        return alphabet.nearest(coeffs)
    return ldlq(coeffs, objective.feedback, alphabet)


def _widening(bits: int, redundancy: float) -> float:
    """Return what the best step is of that for lone coefficients, where errors cancel in a frame.

    What 1 bit reaches has to hold what feedback adds to a coefficient. This fits the best steps of
    two levels at redundancy 1 to 4, measured on Gaussian weights, and those of the trellis; with
    more bits they differ by less than those that are tried.
    """
    return 2.1 - 1.1 / redundancy if bits == 1 else 1.0


def _best_of_steps(
    coeffs: Tensor, objective: _Objective, bits: int, multipliers: Sequence[float]
) -> tuple[Tensor, UniformAlphabet]:
    """Round with each step in turn; return the best per column, Ĉ and its alphabet."""
    least = torch.full_like(coeffs[0], torch.inf)
    best, best_step = coeffs, least[None]
    alphabets = [gaussian_alphabet(coeffs, bits, multiplier) for multiplier in multipliers]
    for alphabet in alphabets:
        quantized = _rounded(coeffs, objective, alphabet)
        error = quantized - coeffs
        if objective.hessian is None:
            loss = error.square().sum(0)
        else:
            loss = hessian_error(error, objective.hessian)
        better = loss < least
        least = torch.where(better, loss, least)
        best = torch.where(better, quantized, best)
        best_step = torch.where(better, alphabet.step, best_step)
    return best, replace(alphabets[0], step=best_step)


def _errors(
    weight: Tensor, error: Tensor, moments: Moments | None, shift: Tensor | None
) -> SquaredErrors:
    of_weight = float(error.square().sum()), float(weight.square().sum())
    if moments is None:
        return SquaredErrors(*of_weight)
    loss = hessian_error(error.double(), moments.hessian).sum()
    noise = loss if shift is None else loss - shift.double().square().sum()
    signal = hessian_error(weight.double(), moments.hessian).sum()
    return SquaredErrors(*of_weight, float(loss), float(noise), float(signal))
