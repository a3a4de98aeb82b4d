"""A weight as a compiled model stores it, beside the float one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fqonnx.frames import Frame, FrameSpec, frame_from_spec
from fqonnx.packing import (
    TILE_ROWS,
    packed_bytes,
    tile_bytes,
    unpack_codes,
    unpack_signs,
    unpack_tiles,
)
from fqonnx.passes.compiled_layers import CompiledLayer
from fqonnx.quant import LevelTable, UniformAlphabet
from fqonnx.quant.quantized_weight import synthesis
from fqonnx.quant.trellis import level_indices
from fqonnx.quant.trellis_rounding import coeffs_of, streams_of

_Packed = Mapping[str, NDArray[Any]]

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
    frames = []
    for side, frame in (("in", spec.frame_in), ("out", spec.frame_out)):
        if spec.splits and side == "out":  # the identity of this layer's outputs alone
            frame = FrameSpec("identity", rows.stop - rows.start, rows.stop - rows.start)
        signs = packed.get(f"signs_{side}")
        unpacked = None if signs is None else torch.from_numpy(unpack_signs(signs, frame.dim))
        frames.append(frame_from_spec(frame, unpacked))
    unpack = _trellis if spec.codebook == "trellis" else _scalar
    return StoredWeight(frames[0], frames[1], *unpack(layer, packed))


def _scalar(layer: CompiledLayer, packed: _Packed) -> tuple[UniformAlphabet, Tensor]:
    spec, rows = layer.spec, layer.rows
    codes = unpack_codes(packed["codes"][rows], spec.bits, spec.frame_in.num_vectors)
    zero_points = packed.get("zero_points")
    alphabet = UniformAlphabet(
        spec.bits,
        _step(packed, rows),
        None if zero_points is None else torch.tensor(zero_points[rows], dtype=torch.float32).T,
        group_size=spec.group_size,
    )
    return alphabet, torch.from_numpy(codes.T.copy())


def _trellis(layer: CompiledLayer, packed: _Packed) -> tuple[LevelTable, Tensor]:
    spec, rows = layer.spec, layer.rows
    strips = slice(rows.start // TILE_ROWS, -(-rows.stop // TILE_ROWS))
    codes = torch.from_numpy(unpack_tiles(packed["codes"][strips], spec.bits)).T
    indices = level_indices(streams_of(codes).numpy(), spec.bits, spec.multiplier)
    table = LevelTable(torch.from_numpy(packed["levels"].copy()), _step(packed, rows))
    placed = coeffs_of(torch.from_numpy(indices), codes.shape)
    return table, placed[: spec.frame_in.num_vectors, : rows.stop - rows.start]


def _step(packed: _Packed, rows: slice) -> Tensor:
    return torch.tensor(packed["scales"][rows], dtype=torch.float32).T


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
