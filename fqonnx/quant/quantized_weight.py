"""The quantized form of a weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fqonnx.frames import Frame, IdentityFrame
from fqonnx.quant.alphabet import UniformAlphabet
from fqonnx.quant.sigma_delta import Guarantee
from fqonnx.quant.trellis import TrellisCode
from fqonnx.quant.trellis_rounding import TrellisAlphabet


@dataclass(frozen=True)
class SquaredErrors:
    """Errors of a weight as sums of squares: those of its columns add up.

    Attributes:
        weight_error: ‖W − Ŵ‖² (Frobenius).
        weight: ‖W‖².
        proxy_loss: tr((W − Ŵ)ᵀH(W − Ŵ)), the mean squared output error of a row, before the bias
            is shifted; None without data, as the others below.
        output_error: The same with the bias shifted.
        output: tr(WᵀHW).
    """

    weight_error: float
    weight: float
    proxy_loss: float | None = None
    output_error: float | None = None
    output: float | None = None

    @property
    def weight_rel_error(self) -> float:
        """‖W − Ŵ‖/‖W‖."""
        return _ratio(self.weight_error, self.weight)

    @property
    def output_rel_error(self) -> float | None:
        """The same of the outputs over the calibration rows; None without data."""
        if self.output_error is None or self.output is None:
            return None
        return _ratio(self.output_error, self.output)

    @classmethod
    def total(cls, parts: Sequence[SquaredErrors]) -> SquaredErrors:
        """Return the errors of the weight whose columns the parts are of."""
        return cls(
            sum(part.weight_error for part in parts),
            sum(part.weight for part in parts),
            _sum(part.proxy_loss for part in parts),
            _sum(part.output_error for part in parts),
            _sum(part.output for part in parts),
        )


def _sum(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if present else None


def _ratio(noise: float, signal: float) -> float:
    return math.sqrt(max(noise, 0.0) / signal) if signal > 0 else 0.0


@dataclass(frozen=True)
class QuantizedWeight:
    """The quantized form of a weight (dim_in, dim_out).

    Attributes:
        frame_in: The frame on the reduction axis.
        frame_out: The frame on the output axis.
        bits: Bits a code.
        codes: (frame_out.num_vectors, frame_in.num_vectors), uint8; those of a trellis code are
            padded to whole tiles.
        scales: Steps (frame_out.num_vectors, groups), float16; what 64 levels are, of a trellis
            code.
        zero_points: As ``scales``, uint8; None for a mid-rise alphabet.
        group_size: Codes a scale; None where each row has one.
        bias_shift: (dim_out,) to add to the layer's bias so that the mean output stays what it
            was; None where none was asked for.
        errors: How far it is off.
        guarantee: What Sigma-Delta promises of the error; None for other feedback.
        trellis: The code that ``codes`` are of; None where a code is a level.
    """

    frame_in: Frame
    frame_out: Frame
    bits: int
    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None
    group_size: int | None
    bias_shift: Tensor | None
    errors: SquaredErrors
    guarantee: Guarantee | None = None
    trellis: TrellisCode | None = None

    def coeffs(self) -> Tensor:
        """Return Ĉ (frame_in.num_vectors, frame_out.num_vectors), float32."""
        if self.trellis is not None:
            code = TrellisAlphabet(self.trellis, self.scales.T.float())
            return code.values(self.codes.T)[: self.frame_in.num_vectors]
        zero_point = None if self.zero_points is None else self.zero_points.T.float()
        alphabet = UniformAlphabet(
            self.bits, self.scales.T.float(), zero_point, group_size=self.group_size
        )
        return alphabet.values(self.codes.T)

    def dequantize(self) -> Tensor:
        """Return Ŵ (dim_in, dim_out), float32."""
        return synthesis(self.frame_in, self.frame_out, self.coeffs())

    @classmethod
    def beside(cls, parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
        """Return the weight whose slices of output channels the parts are.

        They have no frame on the output axis, and all but the last are whole tiles wide.
        """
        dim_out = sum(part.frame_out.dim for part in parts)
        return replace(
            parts[0],
            frame_out=IdentityFrame(dim_out),
            codes=torch.cat([part.codes for part in parts]),
            scales=torch.cat([part.scales for part in parts]),
            zero_points=_together([part.zero_points for part in parts]),
            bias_shift=_together([part.bias_shift for part in parts]),
            errors=SquaredErrors.total([part.errors for part in parts]),
            guarantee=Guarantee.of_all([part.guarantee for part in parts if part.guarantee]),
        )


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def synthesis(frame_in: Frame, frame_out: Frame, coeffs: Tensor) -> Tensor:
    """Return T_inᵀ·C·T_out (dim_in, dim_out)."""
    return frame_in.synthesis(frame_out.synthesis(coeffs).T.contiguous()).T
