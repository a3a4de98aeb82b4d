"""Operators with trellis codes, and what they should give."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx.helper import np_dtype_to_tensor_dtype

from fqonnx.frames import Frame, HarmonicFrame, IdentityFrame
from fqonnx.packing import TILE, TILE_COLUMNS, TILE_ROWS, pack_signs
from fqonnx.reference import analysis_operator
from operator_cases import PADDED, TETRIS, UNIFORM, WIDE_TETRIS, hadamard

PACKED = ("codes", "scales", "zero_points", "signs_in", "signs_out")
INPUTS = {
    "FrameMatMul": ("X", *PACKED, "bias", "levels"),
    "FrameDequant": (*PACKED, "levels"),
}
MULTIPLIER = 40503  # odd: every bit of a window counts

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trellis:
    """One operator with any codes and levels, and the x that it is tried on."""

    frame_in: Frame
    frame_out: Frame
    bits: int
    accuracy: str = "exact"
    dtype: str = "float32"
    bias: bool = False
    splits: tuple[int, ...] = ()
    batch: tuple[int, ...] = (3, 5)

    def __str__(self) -> str:
        frames = [self.frame_in.spec, self.frame_out.spec]
        parts = [f"{frame.kind}{frame.num_vectors}of{frame.dim}" for frame in frames]
        parts += [f"{self.bits}bit", self.accuracy, self.dtype]
        parts += ["split" + "x".join(map(str, self.splits))] * bool(self.splits)
        parts += ["bias"] * self.bias
        return "-".join([*parts, "batch" + "x".join(map(str, self.batch))])

    def node_attributes(self, op_type: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "bits": self.bits,
            "block_size": TILE,
            "group_size": 0,
            "codebook": "trellis",
            "multiplier": MULTIPLIER,
            "layout": 1,
        }
        for side, frame in self.sides.items():
            attributes |= {
                f"frame_{side}": frame.spec.kind,
                f"dim_{side}": frame.dim,
                f"num_vectors_{side}": frame.num_vectors,
            }
            if frame.spec.subspaces is not None:
                attributes[f"subspaces_{side}"] = frame.spec.subspaces
        if op_type == "FrameDequant":
            attributes["dtype"] = np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        else:
            attributes["accuracy"] = self.accuracy
            if self.splits:
                attributes["splits"] = self.splits
        return attributes

    @property
    def sides(self) -> dict[str, Frame]:
        return {"in": self.frame_in, "out": self.frame_out}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(self.frame_in.dim + self.bits)
        rows, columns = self.frame_out.num_vectors, self.frame_in.num_vectors
        tiles = (-(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS))
        arrays = {
            "codes": rng.integers(0, 256, (*tiles, 32 * self.bits), np.uint8),
            "scales": rng.uniform(0.5, 2, (rows, 1)).astype(np.float16),
            "levels": np.roll(np.arange(-128, 128, 4), 5).astype(np.int8),
        }
        for side, frame in self.sides.items():
            if hasattr(frame, "signs"):
                arrays[f"signs_{side}"] = pack_signs(frame.signs.numpy())
        if self.bias:
            arrays["bias"] = rng.standard_normal(self.frame_out.dim).astype(self.dtype)
        return arrays

    def x(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.standard_normal((*self.batch, self.frame_in.dim)).astype(self.dtype)

    def weight(self, arrays: Arrays) -> np.ndarray:
        """Return Ŵ in float64, from the definition."""
        coeffs = trellis_coeffs(
            *(arrays[name] for name in ("codes", "scales", "levels")),
            bits=self.bits,
            num_vectors=self.frame_in.num_vectors,
            multiplier=MULTIPLIER,
        )
        operators = [
            analysis_operator(frame.spec, arrays.get(f"signs_{side}"))
            for side, frame in self.sides.items()
        ]
        return operators[0].T @ coeffs @ operators[1]


def trellis_coeffs(
    codes: np.ndarray,
    scales: np.ndarray,
    levels: np.ndarray,
    *,
    bits: int,
    num_vectors: int,
    multiplier: int,
) -> np.ndarray:
    """Return Ĉ (num_vectors_in, num_vectors_out) in float64."""
    row_tiles, column_tiles, tile_bytes = codes.shape
    words = codes.reshape(row_tiles, column_tiles, -1, 2)[..., ::-1]
    stream = np.unpackbits(words.reshape(codes.shape), axis=-1).astype(np.int64)
    ends = bits * np.arange(1, TILE + 1)
    windows = stream[..., (ends[:, None] + np.arange(-16, 0)) % (8 * tile_bytes)]
    states = windows @ (1 << np.arange(16)[::-1])
    values = levels[(states * multiplier & 0xFFFF) >> 10]
    tiles = values.reshape(row_tiles, column_tiles, TILE_ROWS, TILE_COLUMNS)
    plain = tiles.transpose(0, 2, 1, 3).reshape(row_tiles * TILE_ROWS, -1)
    return (plain[: len(scales), :num_vectors] * (scales.astype(np.float64) / 64)).T


def cases() -> list[Trellis]:
    rng = random.Random(0)

    def drawn(frame_in: Frame, frame_out: Frame, bits: int, **arguments: Any) -> Trellis:
        return Trellis(
            frame_in,
            frame_out,
            bits,
            accuracy=rng.choice(("exact", "fast")),
            dtype=rng.choice(("float32", "float32", "float16")),
            bias=rng.random() < 0.5,
            batch=rng.choice(((), (1,), (2,), (3,), (4,), (7,), (9,), (2, 3, 4))),
            **arguments,
        )

    sizes = [
        drawn(frame, IdentityFrame(rows), bits)
        for columns in (1, 3, 5, 131, 384)
        for frame in (IdentityFrame(columns), hadamard(columns))
        for rows in (1, 63, 65, 200)
        for bits in (1, 2, 3, 4)
    ]
    pairs = [
        drawn(*frames, bits)
        for frames in (
            (UNIFORM, IdentityFrame(24)),
            (WIDE_TETRIS, TETRIS),
            (hadamard(100, 1.3), PADDED),
            (IdentityFrame(40), hadamard(70)),
            (HarmonicFrame(131, 400), hadamard(33)),
            (hadamard(40), HarmonicFrame(33, 99)),
        )
        for bits in (1, 2, 3, 4)
    ]
    split = [
        drawn(frame, IdentityFrame(sum(splits)), bits, splits=splits)
        for frame, splits in (
            (hadamard(100), (64, 128, 7)),
            (IdentityFrame(300), (128, 64)),
            (hadamard(33), (24,)),
        )
        for bits in (1, 2, 3, 4)
    ]
    return sizes + pairs + split


CASES = cases()
