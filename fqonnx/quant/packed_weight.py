"""A quantized weight in the bytes of a model, with what is reported of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fqonnx.frames import Frame, FrameSpec, SignedFrame, frame_from_spec
from fqonnx.packing import (
    TILE_ROWS,
    choose_block_size,
    pack_codes,
    pack_signs,
    pack_tiles,
    unpack_codes,
    unpack_signs,
    unpack_tiles,
)
from fqonnx.quant.alphabet import UniformAlphabet
from fqonnx.quant.quantized_weight import QuantizedWeight, SquaredErrors, synthesis
from fqonnx.quant.sigma_delta import Guarantee
from fqonnx.quant.trellis import level_indices
from fqonnx.quant.trellis_rounding import LevelTable, coeffs_of, streams_of

_ROWS = 16 * TILE_ROWS  # packed at a time: on its way a code is eight bytes


class PackedArray(Protocol):
    """A NumPy array, or one that is read from a file each time that NumPy asks for it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type."""
        ...

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        ...

    def __array__(self) -> NDArray[Any]: ...


@dataclass(frozen=True)
class PackedWeight:
    """The quantized form of a weight (dim_in, dim_out), packed as docs/format.md has it.

    Attributes:
        frame_in: The frame on the reduction axis.
        frame_out: The frame on the output axis.
        bits: Bits a code.
        group_size: Codes a scale; None where each row has one.
        multiplier: Of the trellis code; 0 where a code is a level.
        arrays: By the name of the operator's input: ``codes``, ``scales``, and what else there is.
        bias_shift: (dim_out,) float32 to add to the layer's bias; None for nothing.
        errors: How far it is off.
        guarantee: What Sigma-Delta promises of the error; None for other feedback.
    """

    frame_in: FrameSpec
    frame_out: FrameSpec
    bits: int
    group_size: int | None
    multiplier: int
    arrays: Mapping[str, PackedArray]
    bias_shift: NDArray[np.float32] | None
    errors: SquaredErrors
    guarantee: Guarantee | None

    @classmethod
    def of(cls, weight: QuantizedWeight) -> PackedWeight:
        """Pack a weight."""
        bits, trellis = weight.bits, weight.trellis
        arrays: dict[str, PackedArray] = {"scales": weight.scales.cpu().numpy()}
        if trellis is None:
            block_size = choose_block_size(weight.frame_in.num_vectors)
            arrays["codes"] = _packed(weight.codes, lambda rows: pack_codes(rows, bits, block_size))
        else:
            arrays["codes"] = _packed(weight.codes, lambda rows: pack_tiles(rows, bits))
            arrays["levels"] = trellis.levels
        if weight.zero_points is not None:
            arrays["zero_points"] = weight.zero_points.cpu().numpy()
        for name, frame in (("signs_in", weight.frame_in), ("signs_out", weight.frame_out)):
            if isinstance(frame, SignedFrame):
                arrays[name] = pack_signs(frame.signs.cpu().numpy())
        return cls(
            frame_in=weight.frame_in.spec,
            frame_out=weight.frame_out.spec,
            bits=bits,
            group_size=weight.group_size,
            multiplier=0 if trellis is None else trellis.multiplier,
            arrays=arrays,
            bias_shift=None if weight.bias_shift is None else weight.bias_shift.cpu().numpy(),
            errors=weight.errors,
            guarantee=weight.guarantee,
        )

    @property
    def is_trellis(self) -> bool:
        """Whether codes are those of a trellis."""
        return self.multiplier != 0

    @property
    def num_codes(self) -> int:
        """Coefficients, padding not counted."""
        return self.frame_in.num_vectors * self.frame_out.num_vectors

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, levels, scales, zero points and signs."""
        return sum(array.nbytes for array in self.arrays.values())

    def dequantize(self) -> Tensor:
        """Return Ŵ (dim_in, dim_out), float32."""
        arrays = {name: np.asarray(array) for name, array in self.arrays.items()}
        frames = [
            unpacked_frame(frame, arrays.get(name))
            for name, frame in (("signs_in", self.frame_in), ("signs_out", self.frame_out))
        ]
        alphabet, indices = unpacked(
            arrays, self.bits, self.frame_in.num_vectors, self.group_size, self.multiplier
        )
        return synthesis(frames[0], frames[1], alphabet.values(indices))


def _packed(
    codes: Tensor, pack: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    rows = codes.cpu().numpy()
    return np.concatenate([pack(rows[i : i + _ROWS]) for i in range(0, len(rows), _ROWS)])


def unpacked_frame(spec: FrameSpec, signs: NDArray[np.uint8] | None) -> Frame:
    """Return a frame by its packed signs."""
    return frame_from_spec(
        spec, None if signs is None else torch.from_numpy(unpack_signs(signs, spec.dim))
    )


def unpacked(
    arrays: Mapping[str, NDArray[Any]],
    bits: int,
    num_vectors: int,
    group_size: int | None,
    multiplier: int,
) -> tuple[UniformAlphabet | LevelTable, Tensor]:
    """Unpack codes.

    Args:
        arrays: See `PackedWeight`.
        bits: Bits a code.
        num_vectors: Codes of a row, padding not counted.
        group_size: Codes a scale; None where each row has one.
        multiplier: Of the trellis code; 0 where a code is a level.

    Returns:
        What each level is, and which level each coefficient is, (num_vectors, rows): a scalar
        code, or what a trellis code stands for.
    """
    step = torch.tensor(arrays["scales"], dtype=torch.float32).T
    if multiplier:
        codes = torch.from_numpy(unpack_tiles(arrays["codes"], bits)).T
        indices = level_indices(streams_of(codes).numpy(), bits, multiplier)
        placed = coeffs_of(torch.from_numpy(indices), codes.shape)
        levels = torch.from_numpy(arrays["levels"].copy())
        return LevelTable(levels, step), placed[:num_vectors, : step.shape[1]]
    zero_points = arrays.get("zero_points")
    alphabet = UniformAlphabet(
        bits,
        step,
        None if zero_points is None else torch.tensor(zero_points, dtype=torch.float32).T,
        group_size=group_size,
    )
    codes = torch.from_numpy(unpack_codes(arrays["codes"], bits, num_vectors).T.copy())
    return alphabet, codes
