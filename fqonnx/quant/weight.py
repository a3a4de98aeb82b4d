"""A weight, its frames and calibration moments in; packed-ready codes and their errors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fqonnx.config import Method
from fqonnx.frames import Frame, HarmonicFrame, IdentityFrame
from fqonnx.quant.alphabet import (
    SCALE_DTYPE,
    UniformAlphabet,
    gaussian_alphabet,
    min_max_alphabet,
    range_alphabet,
    two_sigma_alphabet,
)
from fqonnx.quant.moments import Moments
from fqonnx.quant.quantized_weight import QuantizedWeight, synthesis
from fqonnx.quant.rounding import coordinate_descent, damped, hessian_error, ldlq
from fqonnx.quant.sigma_delta import Guarantee, sigma_delta
from fqonnx.quant.trellis import trellis_code
from fqonnx.quant.trellis_rounding import (
    TrellisAlphabet,
    gaussian_trellis,
    refitted,
    trellis_ldlq,
)

_DAMPING_WITHOUT_DATA = 0.05


def quantize_weight(
    weight: Tensor,
    frame_in: Frame,
    frame_out: Frame,
    method: Method,
    bits: int,
    moments: Moments | None = None,
    *,
    correct_mean: bool = False,
) -> QuantizedWeight:
    """Quantize a weight in a frame on each side.

    Columns of the coefficients C = T_in·W·T_outᵀ are rounded one by one against T_in·H·T_inᵀ. With
    ``correct_mean`` (the layer has a bias, and the data are real) the error that the mean causes is
    constant and goes into the bias, and only part of the mean counts in the Hessian.

    Args:
        weight: W (dim_in, dim_out), any float dtype; computed in float32.
        frame_in: A frame of R^dim_in.
        frame_out: A frame of R^dim_out.
        method: Alphabet, feedback and descent.
        bits: Bits a coefficient, 1 to 4.
        moments: Calibration moments; None takes H = I.
        correct_mean: Compute ``bias_shift``; needs moments that trust their mean.

    Raises:
        OverflowError: The steps are beyond float16's range, or Sigma-Delta is unstable.
    """
    weight = weight.float()
    coeffs = frame_out.analysis(frame_in.analysis(weight.T.contiguous()).T.contiguous())
    correct_mean = correct_mean and moments is not None and moments.trust_mean
    hessian = _frame_hessian(frame_in, method, moments, correct_mean, coeffs.device)

    alphabet: UniformAlphabet | TrellisAlphabet
    guarantee = None
    if method.alphabet == "trellis":
        wider = _widening(bits, frame_in.redundancy)
        alphabet = gaussian_trellis(coeffs, trellis_code(bits), wider)
        codes = trellis_ldlq(coeffs, hessian, alphabet)
        alphabet = refitted(alphabet, codes, coeffs, hessian)
    elif method.feedback == "sigma-delta":
        quantized, alphabet, guarantee = _sigma_delta(
            coeffs, frame_in, frame_out, bits, method.order
        )
        codes = alphabet.codes(quantized)
    else:
        quantized, alphabet = _rounded_uniformly(coeffs, hessian, frame_in, method, bits)
        codes = alphabet.codes(quantized)

    error = synthesis(frame_in, frame_out, alphabet.values(codes)[: len(coeffs)] - coeffs)
    shift = -(moments.mean.float() @ error) if correct_mean and moments is not None else None
    loss, output_rel_error = _output_error(weight, error, moments, shift)
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
        weight_rel_error=_ratio(error.square().sum(), weight.square().sum()),
        guarantee=guarantee,
        output_rel_error=output_rel_error,
        proxy_loss=loss,
        trellis=alphabet.code if isinstance(alphabet, TrellisAlphabet) else None,
    )


def _frame_hessian(
    frame: Frame,
    method: Method,
    moments: Moments | None,
    correct_mean: bool,
    device: torch.device,
) -> Tensor | None:
    """Return the damped Hessian in the frame domain, float64; None for no feedback."""
    if method.feedback != "ldlq":
        return None
    if moments is None:
        hessian = torch.eye(frame.dim, dtype=torch.float64, device=device)
    else:
        hessian = moments.centered_hessian() if correct_mean else moments.hessian
    damping = method.damping
    if damping is None:
        damping = _DAMPING_WITHOUT_DATA if moments is None else moments.total_damping()
    return damped(frame.transform_hessian(hessian), damping)


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
    coeffs: Tensor, hessian: Tensor | None, frame_in: Frame, method: Method, bits: int
) -> tuple[Tensor, UniformAlphabet]:
    """Return Ĉ and its alphabet, by LDLQ and descent where there is a Hessian."""
    if method.alphabet == "mid-rise":
        wider = _widening(bits, frame_in.redundancy)
        multipliers = [wider * multiplier for multiplier in method.step_multipliers]
        quantized, alphabet = _best_of_steps(coeffs, hessian, bits, multipliers)
    elif method.alphabet == "two-sigma":
        alphabet, clipped = two_sigma_alphabet(coeffs, bits)
        quantized = _rounded(clipped, hessian, alphabet)
    else:
        alphabet = min_max_alphabet(coeffs, bits, method.group_size or len(coeffs))
        quantized = _rounded(coeffs, hessian, alphabet)
    if hessian is not None and method.sweeps:
        quantized = coordinate_descent(coeffs, quantized, hessian, alphabet, method.sweeps)
    return quantized, alphabet


def _rounded(coeffs: Tensor, hessian: Tensor | None, alphabet: UniformAlphabet) -> Tensor:
    return alphabet.nearest(coeffs) if hessian is None else ldlq(coeffs, hessian, alphabet)


def _widening(bits: int, redundancy: float) -> float:
    """Return what the best step is of that for lone coefficients, where errors cancel in a frame.

    What 1 bit reaches has to hold what feedback adds to a coefficient. This fits the best steps of
    two levels at redundancy 1 to 4, measured on Gaussian weights, and those of the trellis; with
    more bits they differ by less than those that are tried.
    """
    return 2.1 - 1.1 / redundancy if bits == 1 else 1.0


def _best_of_steps(
    coeffs: Tensor, hessian: Tensor | None, bits: int, multipliers: Sequence[float]
) -> tuple[Tensor, UniformAlphabet]:
    """Round with each step in turn; return the best per column, Ĉ and its alphabet."""
    least = torch.full_like(coeffs[0], torch.inf)
    best, best_step = coeffs, least[None]
    alphabets = [gaussian_alphabet(coeffs, bits, multiplier) for multiplier in multipliers]
    for alphabet in alphabets:
        quantized = _rounded(coeffs, hessian, alphabet)
        error = quantized - coeffs
        loss = error.square().sum(0) if hessian is None else hessian_error(error, hessian)
        better = loss < least
        least = torch.where(better, loss, least)
        best = torch.where(better, quantized, best)
        best_step = torch.where(better, alphabet.step, best_step)
    return best, replace(alphabets[0], step=best_step)


def _output_error(
    weight: Tensor, error: Tensor, moments: Moments | None, shift: Tensor | None
) -> tuple[float | None, float | None]:
    """Return the proxy loss and the relative error of the output."""
    if moments is None:
        return None, None
    loss = hessian_error(error.double(), moments.hessian).sum()
    noise = loss if shift is None else loss - shift.double().square().sum()
    signal = hessian_error(weight.double(), moments.hessian).sum()
    return float(loss), _ratio(noise, signal)


def _ratio(noise: Tensor, signal: Tensor) -> float:
    return float((noise.clamp(min=0) / signal).sqrt()) if float(signal) > 0 else 0.0
