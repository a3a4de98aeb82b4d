"""A weight as a compiled model stores it, beside the float one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fqonnx.frames import Frame, FrameSpec
from fqonnx.packing import TILE_ROWS, packed_bytes, tile_bytes
from fqonnx.passes.compiled_layers import CompiledLayer
from fqonnx.quant import LevelTable, UniformAlphabet
from fqonnx.quant.packed_weight import unpacked, unpacked_frame
from fqonnx.quant.quantized_weight import synthesis

_BINS = 32  # or more, of a histogram
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
        level_counts: Coefficients that each stands for.
    """

    edges: list[float]
    counts: list[int]
    levels: list[float]
    level_counts: list[int]


@dataclass(frozen=True)
class StoredWeight:
    """Levels and what they mean.

    Attributes:
        frame_in: The frame on the reduction axis.
        frame_out: The frame on the output axis.
        alphabet: What each level is, by the columns of the coefficients.
        indices: Which level each coefficient is, (frame_in.num_vectors, frame_out.num_vectors): a
            scalar code, or what a trellis code stands for.
    """

    frame_in: Frame
    frame_out: Frame
    alphabet: UniformAlphabet | LevelTable
    indices: Tensor

    def dequantize(self) -> Tensor:
        """Return Ŵ (dim_in, dim_out), float32."""
        return synthesis(self.frame_in, self.frame_out, self.alphabet.values(self.indices))

    def histogram(self, weight: Tensor) -> Histogram:
        """Return where the coefficients of the float weight (dim_in, dim_out) lie."""
        columns = self.frame_in.analysis(weight.T.contiguous()).T
        units = self.alphabet.units(self.frame_out.analysis(columns.contiguous()))
        levels = self.alphabet.levels
        far = levels[-1] + _STEPS_BEYOND * (levels[-1] - levels[-2])
        bins = round(2 * far * _BINS_A_STEP)
        bins *= -(-_BINS // bins)
        inside = units[~units.isnan()].clamp(-far, far)
        counts, edges = np.histogram(inside.numpy(), bins=bins, range=(-far, far))
        of_levels = torch.bincount(self.indices.flatten(), minlength=len(levels))
        return Histogram(edges.tolist(), counts.tolist(), levels, of_levels.tolist())


def stored_weight(layer: CompiledLayer) -> StoredWeight:
    """Unpack a layer's part of its node's inputs."""
    spec, rows = layer.spec, layer.rows
    packed = {name: tensor.numpy() for name, tensor in layer.packed().items()}
    frame_out = spec.frame_out
    if spec.splits:  # the identity of this layer's outputs alone
        frame_out = FrameSpec("identity", rows.stop - rows.start, rows.stop - rows.start)
    of_codes = rows
    if spec.codebook == "trellis":
        of_codes = slice(rows.start // TILE_ROWS, -(-rows.stop // TILE_ROWS))
    parts = {"codes": of_codes, "scales": rows, "zero_points": rows}
    alphabet, indices = unpacked(
        {name: array[parts[name]] if name in parts else array for name, array in packed.items()},
        spec.bits,
        spec.frame_in.num_vectors,
        spec.group_size,
        spec.multiplier,
    )
    return StoredWeight(
        unpacked_frame(spec.frame_in, packed.get("signs_in")),
        unpacked_frame(frame_out, packed.get("signs_out")),
        alphabet,
        indices,
    )


def stored_bytes(layer: CompiledLayer) -> int:
    """Return the bytes of a layer's codes, levels, scales, zero points and signs."""
    spec, packed = layer.spec, layer.packed()
    of_codes = tile_bytes if spec.codebook == "trellis" else packed_bytes
    total = of_codes(layer.rows.stop - layer.rows.start, spec.frame_in.num_vectors, spec.bits)
    for name in ("scales", "zero_points"):
        if name in packed:
            total += packed[name].numpy()[layer.rows].nbytes
    shared = ("signs_in", "signs_out", "levels")
    return total + sum(packed[name].nbytes for name in shared if name in packed)
