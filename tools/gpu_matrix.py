"""Are the CUDA kernels right? Frames, bits, types and numbers of rows against float64."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cuda_kernels import ELEMENTS, Kernel, Memory, from_bits, to_bits
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.packing import (
    TILE,
    TILE_COLUMNS,
    TILE_ROWS,
    choose_block_size,
    pack_codes,
    pack_signs,
    pack_tiles,
)
from fqonnx.quant.trellis import trellis_code
from fqonnx.runtime_ops import FrameOpSpec

ROWS = (1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 65, 130, 257, 1024, 1025, 4096)
LIMITS = {"float32": 3e-6, "float16": 2e-3, "bfloat16": 1.5e-2}  # relative errors


@dataclass(frozen=True)
class Layer:
    """One operator with random codes."""

    frame_in: Frame
    frame_out: Frame
    bits: int
    zero_points: bool = False
    group_size: int | None = None
    trellis: bool = False

    def __str__(self) -> str:
        frames = "-".join(
            f"{frame.spec.kind}{frame.num_vectors}of{frame.dim}"
            for frame in (self.frame_in, self.frame_out)
        )
        groups = f"-group{self.group_size}" if self.group_size else ""
        trellis = "-trellis" * self.trellis
        return f"{frames}-{self.bits}bit{trellis}{groups}" + "-zp" * self.zero_points

    @property
    def spec(self) -> FrameOpSpec:
        return FrameOpSpec(
            op_type="FrameMatMul",
            frame_in=self.frame_in.spec,
            frame_out=self.frame_out.spec,
            bits=self.bits,
            block_size=TILE if self.trellis else choose_block_size(self.frame_in.num_vectors),
            group_size=self.group_size,
            has_zero_points=self.zero_points,
            codebook="trellis" if self.trellis else "scalar",
            multiplier=trellis_code(self.bits).multiplier if self.trellis else 0,
            contrib=False,
        )

    def packed(self) -> tuple[dict[str, np.ndarray | None], torch.Tensor]:
        """Return the packed inputs, and Ĉ in float64."""
        arrays, coeffs = self._tiles() if self.trellis else self._blocks()
        signs = {"signs_in": _signs(self.frame_in), "signs_out": _signs(self.frame_out)}
        return arrays | signs, torch.from_numpy(coeffs.T.copy())

    def _blocks(self) -> tuple[dict[str, np.ndarray | None], np.ndarray]:
        rng = np.random.default_rng(self.frame_in.dim)
        rows, columns = self.frame_out.num_vectors, self.frame_in.num_vectors
        codes = rng.integers(0, 1 << self.bits, (rows, columns), np.uint8)
        scales = rng.uniform(0.5, 1.5, (rows, self.spec.groups)).astype(np.float16)
        zeros = rng.integers(0, 1 << self.bits, scales.shape, np.uint8)
        group = np.arange(columns) // (self.group_size or columns)
        offset = zeros.astype(float) if self.zero_points else np.full(scales.shape, 0.0)
        offset = offset if self.zero_points else offset + (2**self.bits - 1) / 2
        coeffs = (codes - offset[:, group]) * scales[:, group].astype(float)
        packed = pack_codes(codes, self.bits, self.spec.block_size)
        zero_points = zeros if self.zero_points else None
        return {"codes": packed, "scales": scales, "zero_points": zero_points}, coeffs

    def _tiles(self) -> tuple[dict[str, np.ndarray | None], np.ndarray]:
        rng = np.random.default_rng(self.frame_in.dim)
        rows, columns = self.frame_out.num_vectors, self.frame_in.num_vectors
        strips, tiles = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
        streams = rng.integers(0, 1 << self.bits, (strips, tiles, TILE), np.uint8)
        scales = rng.uniform(0.5, 1.5, (rows, 1)).astype(np.float16)
        code = trellis_code(self.bits)
        levels = _by_rows(code.decode(streams))[:rows, :columns]
        packed = pack_tiles(_by_rows(streams), self.bits)
        arrays = {"codes": packed, "scales": scales, "levels": code.levels}
        return arrays, levels * scales.astype(float) / 64


def _by_rows(streams: np.ndarray) -> np.ndarray:
    """Return what is in closed streams (strips, tiles, 256) by rows and columns of codes."""
    strips, tiles, _ = streams.shape
    blocks = streams.reshape(strips, tiles, TILE_ROWS, TILE_COLUMNS).swapaxes(1, 2)
    return blocks.reshape(strips * TILE_ROWS, tiles * TILE_COLUMNS)


def _signs(frame: Frame) -> np.ndarray | None:
    signs = getattr(frame, "signs", None)
    return None if signs is None else pack_signs(signs.numpy())


def layers(*, quick: bool) -> list[Layer]:
    """Return every frame in every bits, and the sizes where kernels differ; ``quick`` is fewer."""
    pairs = (
        (HadamardFrame.create(640), IdentityFrame(150)),
        (HadamardFrame.create(1000, 1.2), IdentityFrame(33)),
        (IdentityFrame(131), HadamardFrame.create(100, 1.3)),
        (FusionFrame.create(100, 1.2), FusionFrame.create(41, 1.1)),
        (HarmonicFrame(131, 400), HarmonicFrame(24, 48)),
    )
    kinds = ({}, {"zero_points": True, "group_size": 128}, {"trellis": True})
    found = [
        Layer(*pair, bits, **kind) for pair in pairs for bits in (1, 2, 3, 4) for kind in kinds
    ]
    if quick:
        return found[::7]  # of each kind some
    wide = (HadamardFrame.create(dim) for dim in (4096, 11008, 28672, 32768))
    return found + [
        Layer(frame, IdentityFrame(96), bits, trellis=trellis)
        for frame in wide
        for bits in (2, 3)
        for trellis in (False, True)
    ]


def check_layer(
    library: ctypes.CDLL, memory: Memory, layer: Layer, rows: tuple[int, ...]
) -> Iterator[dict[str, object]]:
    """Yield one result for each operator, type and number of rows."""
    arrays, coeffs = layer.packed()
    kernel = Kernel(library, memory, layer.spec, arrays)
    half = layer.frame_in.synthesis(coeffs.T.contiguous()).T
    weight = layer.frame_out.synthesis(half.contiguous()).numpy()
    rng = np.random.default_rng(0)
    for dtype in ELEMENTS:
        yield _result(layer, "FrameDequant", dtype, 0, kernel.run_dequantize(dtype), weight)
        bias = _rounded(rng.standard_normal(layer.frame_out.dim), dtype)
        for count in rows:
            x = _rounded(rng.standard_normal((count, layer.frame_in.dim)), dtype)
            wanted = x.astype(np.float64) @ weight + bias
            for path in ("fused",) if dtype == "float32" else ("fused", "cuBLAS"):
                kernel.force(path)
                (found,) = kernel.run_matmul(x, dtype, bias)
                yield _result(layer, f"FrameMatMul, {path}", dtype, count, found, wanted)


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    return from_bits(to_bits(array, dtype).tobytes(), dtype).reshape(array.shape)


def _result(
    layer: Layer, op: str, dtype: str, rows: int, found: np.ndarray, wanted: np.ndarray
) -> dict[str, object]:
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    return {
        "op": op,
        "layer": str(layer),
        "dtype": dtype,
        "rows": rows,
        "error": error,
        "ok": error <= LIMITS[dtype],  # NaN is not
    }
