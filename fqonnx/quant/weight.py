"""A weight, a frame and calibration moments in; packed-ready codes and their errors out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fqonnx.config import Method
from fqonnx.frames import Frame
from fqonnx.quant.alphabet import MidRise
from fqonnx.quant.rounding import coordinate_descent, damped, hessian_error, ldlq

# The bias takes the mean error away, so the mean need not count in the Hessian. With none of it
# left, rows far from the mean (a class token) suffer: half was best on text and on images.
MEAN_SHARE = 0.5
SCALE_DTYPE = torch.float16
_MOST_SHRINKAGE = 0.99
# Channels whose step is too small for float16 become zero; they may hold this part of the energy.
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Moments:
    """First and second moment of a layer's input over the calibration rows.

    Attributes:
        hessian: Mean of xxᵀ (dim_in, dim_in), float64.
        mean: Mean of x (dim_in,), float64.
        count: Number of rows behind them.
        damping: Fraction of the mean diagonal that is added to the Hessian's diagonal: the less
            the data are like the real ones, the more.
        trust_mean: Whether the mean is that of real data, so that a bias may correct for it.
    """

    hessian: Tensor
    mean: Tensor
    count: int
    damping: float
    trust_mean: bool


@dataclass(frozen=True)
class QuantizedWeight:
    """The quantized form of a weight (dim_in, dim_out).

    Attributes:
        frame: The frame on the reduction axis.
        bits: Bits a code.
        codes: (dim_out, num_vectors), uint8.
        scales: Step per output channel (dim_out,), float16.
        bias_shift: (dim_out,) to add to the layer's bias so that the mean output stays what it
            was; None where none was asked for.
        weight_rel_error: ‖W − Ŵ‖/‖W‖ (Frobenius).
        output_rel_error: The same of the outputs over the calibration rows; None without data.
    """

    frame: Frame
    bits: int
    codes: Tensor
    scales: Tensor
    bias_shift: Tensor | None
    weight_rel_error: float
    output_rel_error: float | None

    def dequantize(self) -> Tensor:
        """Return Ŵ (dim_in, dim_out), float32."""
        values = MidRise(self.bits).values(self.codes.T, self.scales.float())
        return self.frame.synthesis(values.T.contiguous()).T


def quantize_weight(
    weight: Tensor,
    frame: Frame,
    method: Method,
    bits: int,
    moments: Moments | None = None,
    *,
    correct_mean: bool = False,
) -> QuantizedWeight:
    """Quantize a weight in a frame.

    The step of each output channel is the best of a few around the optimum for a Gaussian, judged
    by the Hessian-weighted error. With ``correct_mean`` (the layer has a bias, and the data are
    real) the error that the mean causes is constant and goes into the bias, and only part of the
    mean counts in the Hessian.

    Args:
        weight: W (dim_in, dim_out), any float dtype; computed in float32.
        frame: A frame of R^dim_in.
        method: Feedback, step search and descent.
        bits: Bits a coefficient, 1 to 4.
        moments: Calibration moments; None takes H = I.
        correct_mean: Compute ``bias_shift``; needs moments that trust their mean.

    Raises:
        OverflowError: The steps are beyond float16's range.
    """
    weight = weight.float()
    alphabet = MidRise(bits)
    coeffs = frame.analysis(weight.T.contiguous()).T.contiguous()
    correct_mean = correct_mean and moments is not None and moments.trust_mean

    if method.feedback == "ldlq":
        frame_hessian = damped(*_frame_hessian(frame, moments, coeffs, correct_mean))
    else:
        frame_hessian = None
    quantized, step = _best_step(coeffs, frame_hessian, alphabet, method.step_multipliers)
    if frame_hessian is not None:
        quantized = coordinate_descent(
            coeffs, quantized, frame_hessian, step, alphabet, method.sweeps
        )

    codes = alphabet.codes(quantized, step)
    error = frame.synthesis((alphabet.values(codes, step) - coeffs).T.contiguous()).T
    shift = -(moments.mean.float() @ error) if correct_mean and moments is not None else None
    return QuantizedWeight(
        frame=frame,
        bits=bits,
        codes=codes.T.contiguous(),
        scales=step.to(SCALE_DTYPE),
        bias_shift=shift,
        weight_rel_error=_ratio(error.square().sum(), weight.square().sum()),
        output_rel_error=_output_rel_error(weight, error, moments, shift),
    )


def _frame_hessian(
    frame: Frame, moments: Moments | None, coeffs: Tensor, centered: bool
) -> tuple[Tensor, float]:
    """Return the Hessian in the frame domain (float64) and its damping."""
    if moments is None:
        eye = torch.eye(frame.dim, dtype=torch.float64, device=coeffs.device)
        return frame.transform_hessian(eye), 0.05
    hessian = moments.hessian
    if centered:
        hessian = hessian - MEAN_SHARE * torch.outer(moments.mean, moments.mean)
    shrinkage = oas_shrinkage(moments.hessian, moments.count)
    return frame.transform_hessian(hessian), moments.damping + shrinkage / (1.0 - shrinkage)


def oas_shrinkage(hessian: Tensor, count: int) -> float:
    """Return how far a second moment of ``count`` rows is to be drawn towards its mean diagonal.

    Oracle approximating shrinkage (Chen, Wiesel, Eldar and Hero 2010, equation 23), below 1: close
    to 0 for many rows or few directions, close to 1 for few rows that fill all directions, whose
    sample moment says nothing of the next row.
    """
    dim = len(hessian)
    trace = float(hessian.diagonal().sum())
    trace_of_square = float(hessian.square().sum())
    spread = trace_of_square - trace**2 / dim
    if spread <= 0.0:
        return 0.0  # it is a multiple of the identity already
    numerator = (1.0 - 2.0 / dim) * trace_of_square + trace**2
    return min(numerator / ((count + 1.0 - 2.0 / dim) * spread), _MOST_SHRINKAGE)


def _best_step(
    coeffs: Tensor, hessian: Tensor | None, alphabet: MidRise, multipliers: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Round with each step in turn; return the best (Ĉ, step) per channel."""
    gaussian = alphabet.gaussian_step(coeffs)
    if float(gaussian.max()) * max(multipliers) > torch.finfo(SCALE_DTYPE).max:
        raise OverflowError("the weight is too large: a scale does not fit into float16")
    lost = gaussian.to(SCALE_DTYPE) == 0
    energy = gaussian.square()
    if float(energy[lost].sum()) > _NEGLIGIBLE * float(energy.sum()):
        raise OverflowError("the weight is too small: its scales do not fit into float16")
    least, best, best_step = torch.full_like(gaussian, torch.inf), coeffs, gaussian
    for multiplier in multipliers:
        step = (gaussian * multiplier).to(SCALE_DTYPE).to(coeffs.dtype)  # as it will be stored
        if hessian is None:
            quantized = alphabet.nearest(coeffs, step)
            loss = (quantized - coeffs).square().sum(0)
        else:
            quantized = ldlq(coeffs, hessian, step, alphabet)
            loss = hessian_error(quantized - coeffs, hessian)
        better = loss < least
        least = torch.where(better, loss, least)
        best = torch.where(better, quantized, best)
        best_step = torch.where(better, step, best_step)
    return best, best_step


def _output_rel_error(
    weight: Tensor, error: Tensor, moments: Moments | None, shift: Tensor | None
) -> float | None:
    if moments is None:
        return None
    noise = hessian_error(error.double(), moments.hessian).sum()
    if shift is not None:  # the bias takes the mean of the error away
        noise = noise - shift.double().square().sum()
    return _ratio(noise, hessian_error(weight.double(), moments.hessian).sum())


def _ratio(noise: Tensor, signal: Tensor) -> float:
    return float((noise.clamp(min=0) / signal).sqrt()) if float(signal) > 0 else 0.0
