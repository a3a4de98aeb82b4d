"""A weight as a compiled model stores it, beside the float one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fqonnx.frames import Frame, FrameSpec, frame_from_spec
from fqonnx.packing import packed_bytes, unpack_codes, unpack_signs
from fqonnx.passes.compiled_layers import CompiledLayer
from fqonnx.quant import UniformAlphabet

_BINS_A_STEP = 4
_STEPS_BEYOND = 2  # that a histogram goes beyond the outermost levels


@dataclass(frozen=True)
class Histogram:
    """Frame coefficients of a weight against the alphabet, all in units of their scales.

    Attributes:
        edges: Of the bins, ascending; one more than there are counts. Coefficients beyond the
            outer edges are in the outer bins.
        counts: Coefficients in each bin.
        levels: The values of the alphabet, ascending; of a layer with zero points, which move
            them, the values around zero.
        level_counts: Codes of each.
    """

    edges: list[float]
    counts: list[int]
    levels: list[float]
    level_counts: list[int]


@dataclass(frozen=True)
class StoredWeight:
    """Codes and what they mean.

    Attributes:
        frame_in: The frame on the reduction axis.
        frame_out: The frame on the output axis.
        alphabet: Steps and zero points, by the columns of the coefficients.
        codes: (frame_in.num_vectors, frame_out.num_vectors), uint8.
    """

    frame_in: Frame
    frame_out: Frame
    alphabet: UniformAlphabet
    codes: Tensor

    def dequantize(self) -> Tensor:
        """Return Ŵ (dim_in, dim_out), float32."""
        coeffs = self.alphabet.values(self.codes)
        columns = self.frame_in.synthesis(coeffs.T.contiguous()).T
        return self.frame_out.synthesis(columns.contiguous())

    def histogram(self, weight: Tensor) -> Histogram:
        """Return where the coefficients of the float weight (dim_in, dim_out) lie."""
        columns = self.frame_in.analysis(weight.T.contiguous()).T
        units = self.alphabet.units(self.frame_out.analysis(columns.contiguous()))
        middle = ((1 << self.alphabet.bits) - 1) / 2
        far = middle + _STEPS_BEYOND
        bins = round(2 * far * _BINS_A_STEP)
        inside = units[~units.isnan()].clamp(-far, far)
        counts, edges = np.histogram(inside.numpy(), bins=bins, range=(-far, far))
        of_codes = torch.bincount(self.codes.flatten(), minlength=1 << self.alphabet.bits)
        levels = [code - middle for code in range(1 << self.alphabet.bits)]
        return Histogram(edges.tolist(), counts.tolist(), levels, of_codes.tolist())


def stored_weight(layer: CompiledLayer) -> StoredWeight:
    """Unpack a layer's part of its node's inputs."""
    spec, rows = layer.spec, layer.rows
    packed = {name: tensor.numpy() for name, tensor in layer.packed().items()}
    codes = unpack_codes(packed["codes"][rows], spec.bits, spec.frame_in.num_vectors)
    zero_points = packed.get("zero_points")
    alphabet = UniformAlphabet(
        spec.bits,
        torch.tensor(packed["scales"][rows], dtype=torch.float32).T,
        None if zero_points is None else torch.tensor(zero_points[rows], dtype=torch.float32).T,
        group_size=spec.group_size,
    )
    frames = []
    for side, frame in (("in", spec.frame_in), ("out", spec.frame_out)):
        if spec.splits and side == "out":  # the identity of this layer's outputs alone
            frame = FrameSpec("identity", rows.stop - rows.start, rows.stop - rows.start)
        signs = packed.get(f"signs_{side}")
        unpacked = None if signs is None else torch.from_numpy(unpack_signs(signs, frame.dim))
        frames.append(frame_from_spec(frame, unpacked))
    return StoredWeight(frames[0], frames[1], alphabet, torch.from_numpy(codes.T.copy()))


def stored_bytes(layer: CompiledLayer) -> int:
    """Return the bytes of a layer's codes, scales, zero points and signs."""
    spec, packed = layer.spec, layer.packed()
    rows = layer.rows.stop - layer.rows.start
    total = packed_bytes(rows, spec.frame_in.num_vectors, spec.bits)
    for name in ("scales", "zero_points"):
        if name in packed:
            total += packed[name].numpy()[layer.rows].nbytes
    return total + sum(packed[n].nbytes for n in ("signs_in", "signs_out") if n in packed)
