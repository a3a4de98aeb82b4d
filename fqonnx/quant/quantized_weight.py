"""The quantized form of a weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fqonnx.frames import Frame, SignedFrame
from fqonnx.packing import LEVELS, packed_bytes, tile_bytes
from fqonnx.quant.alphabet import UniformAlphabet
from fqonnx.quant.sigma_delta import Guarantee
from fqonnx.quant.trellis import TrellisCode
from fqonnx.quant.trellis_rounding import TrellisAlphabet


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
        weight_rel_error: ‖W − Ŵ‖/‖W‖ (Frobenius).
        output_rel_error: The same of the outputs over the calibration rows; None without data.
        proxy_loss: tr((W − Ŵ)ᵀH(W − Ŵ)), the mean squared output error of a row, before the bias
            is shifted; None without data.
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
    weight_rel_error: float
    output_rel_error: float | None
    proxy_loss: float | None
    guarantee: Guarantee | None = None
    trellis: TrellisCode | None = None

    @property
    def num_codes(self) -> int:
        """Coefficients, padding not counted."""
        return self.frame_in.num_vectors * self.frame_out.num_vectors

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, levels, scales, zero points and signs."""
        rows, num_vectors = self.codes.shape
        frames = (self.frame_in, self.frame_out)
        codes = packed_bytes(rows, num_vectors, self.bits)
        if self.trellis is not None:
            codes = tile_bytes(rows, num_vectors, self.bits) + LEVELS
        return (
            codes
            + self.scales.nbytes
            + (0 if self.zero_points is None else self.zero_points.nbytes)
            + sum(-(-frame.dim // 8) for frame in frames if isinstance(frame, SignedFrame))
        )

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


def synthesis(frame_in: Frame, frame_out: Frame, coeffs: Tensor) -> Tensor:
    """Return T_inᵀ·C·T_out (dim_in, dim_out)."""
    return frame_in.synthesis(frame_out.synthesis(coeffs).T.contiguous()).T
