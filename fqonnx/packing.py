"""Packing of codes and signs into bytes: layout version 1 of docs/format.md."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LAYOUT_VERSION = 1
BLOCK_SIZES = (128, 64, 32, 16)
GROUP_SIZE = 128  # codes a scale, where a row has several
SUPPORTED_BITS = (1, 2, 3, 4)
# Of trellis codes: a tile is outputs by columns of coefficients, and the table has so many levels.
TILE_ROWS, TILE_COLUMNS = 64, 4
TILE = TILE_ROWS * TILE_COLUMNS
LEVELS = 64

Bytes: TypeAlias = NDArray[np.uint8]


def choose_block_size(num_vectors: int) -> int:
    """Return the largest block size that pads a row no further than blocks of 16 do."""
    padded = -(-num_vectors // 16) * 16
    return next(size for size in BLOCK_SIZES if -(-num_vectors // size) * size == padded)


def packed_bytes(rows: int, num_vectors: int, bits: int) -> int:
    """Return the bytes of packed codes (rows, num_vectors)."""
    return rows * (-(-num_vectors // 16) * 16) * bits // 8


def tile_bytes(rows: int, num_vectors: int, bits: int) -> int:
    """Return the bytes of the tiles that codes (rows, num_vectors) of a trellis are in."""
    return -(-rows // TILE_ROWS) * -(-num_vectors // TILE_COLUMNS) * TILE * bits // 8


def pack_codes(codes: Bytes, bits: int, block_size: int) -> Bytes:
    """Pack codes into blocks.

    Args:
        codes: Codes (dim_out, num_vectors), uint8, each below 2^bits.
        bits: 1, 2, 3 or 4.
        block_size: Codes per block, a multiple of 8.

    Returns:
        uint8 (dim_out, blocks, block_size·bits/8).

    Raises:
        ValueError: A code does not fit into ``bits``.
    """
    if codes.size and int(codes.max()) >= 1 << bits:
        raise ValueError(f"code {int(codes.max())} does not fit into {bits} bits")
    dim_out, num_vectors = codes.shape
    blocks = -(-num_vectors // block_size)
    padded = np.zeros((dim_out, blocks * block_size), np.uint8)
    padded[:, :num_vectors] = codes
    padded = padded.reshape(dim_out, blocks, block_size)
    if bits == 3:
        low, high = padded & np.uint8(3), padded >> np.uint8(2)
        return np.concatenate([_pack_plane(low, 2), _pack_plane(high, 1)], axis=-1)
    return _pack_plane(padded, bits)


def unpack_codes(packed: Bytes, bits: int, num_vectors: int) -> Bytes:
    """Undo `pack_codes`: uint8 (dim_out, blocks, bytes) → codes (dim_out, num_vectors)."""
    if bits == 3:
        low_bytes = packed.shape[-1] * 2 // 3
        low = _unpack_plane(packed[..., :low_bytes], 2)
        codes = low | _unpack_plane(packed[..., low_bytes:], 1) << np.uint8(2)
    else:
        codes = _unpack_plane(packed, bits)
    return codes.reshape(len(packed), -1)[:, :num_vectors]


def pack_tiles(codes: Bytes, bits: int) -> Bytes:
    """Pack codes of a trellis into tiles, each a closed stream.

    Args:
        codes: Codes (dim_out, num_vectors), both padded to whole tiles, uint8, each below 2^bits.
        bits: 1, 2, 3 or 4.

    Returns:
        uint8 (dim_out/64, num_vectors/4, 32·bits).
    """
    rows, columns = codes.shape
    strips, tiles = rows // TILE_ROWS, columns // TILE_COLUMNS
    streams = codes.reshape(strips, TILE_ROWS, tiles, TILE_COLUMNS).swapaxes(1, 2)
    stream_bits = np.unpackbits(streams.reshape(strips, tiles, TILE, 1), axis=-1)[..., 8 - bits :]
    return _swapped(np.packbits(stream_bits.reshape(strips, tiles, -1), axis=-1))


def unpack_tiles(packed: Bytes, bits: int) -> Bytes:
    """Undo `pack_tiles`: uint8 (strips, tiles, 32·bits) → codes (strips·64, tiles·4)."""
    strips, tiles, _ = packed.shape
    stream_bits = np.unpackbits(_swapped(packed), axis=-1).reshape(strips, tiles, TILE, bits)
    streams = np.packbits(stream_bits, axis=-1)[..., 0] >> np.uint8(8 - bits)
    blocks = streams.reshape(strips, tiles, TILE_ROWS, TILE_COLUMNS).swapaxes(1, 2)
    return blocks.reshape(strips * TILE_ROWS, tiles * TILE_COLUMNS)


def _swapped(packed: Bytes) -> Bytes:
    """Exchange the bytes of each word of 16 bits."""
    return packed.reshape(*packed.shape[:-1], -1, 2)[..., ::-1].reshape(packed.shape)


def pack_signs(signs: NDArray[np.int8]) -> Bytes:
    """Pack signs (dim,), each +1 or -1, into uint8 (⌈dim/8⌉,): bit 1 is -1, lowest bit first."""
    return np.packbits(signs < 0, bitorder="little")


def unpack_signs(packed: Bytes, dim: int) -> NDArray[np.int8]:
    """Undo `pack_signs`: int8 (dim,), each +1 or -1."""
    return (1 - 2 * np.unpackbits(packed, count=dim, bitorder="little")).astype(np.int8)


def _pack_plane(codes: Bytes, bits: int) -> Bytes:
    per_byte = 8 // bits
    groups = codes.reshape(*codes.shape[:-1], -1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: Bytes = np.bitwise_or.reduce(groups << shifts, axis=-1)
    return packed


def _unpack_plane(packed: Bytes, bits: int) -> Bytes:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = packed[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)
