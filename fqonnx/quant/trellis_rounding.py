"""Rounding of coefficients to a trellis code: its alphabet, and LDLQ in blocks.

Coefficients C are (num_vectors, dim_out), cut into tiles of 4 rows and 64 columns (a row of a
packed weight is a column of C). A tile is a closed stream, its columns one after the other. Both
dimensions are padded to whole tiles, and codes have the padded shape: codes of padding are in the
states of coefficients beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fqonnx.packing import TILE, TILE_COLUMNS, TILE_ROWS
from fqonnx.quant.alphabet import stored
from fqonnx.quant.rounding import upper_factor
from fqonnx.quant.trellis import TrellisCode

_BLOCK = 64  # rows handled tile by tile before their effect on the rest is applied as one product
_ONE = 64  # levels a step: a step of one would be at the end of float16's range


@dataclass(frozen=True, eq=False)
class TrellisAlphabet:
    """What a trellis code reaches with a step for each output channel.

    Attributes:
        code: The code.
        step: What 64 levels are, (1, dim_out), at least 0.
    """

    code: TrellisCode
    step: Tensor
    zero_point: ClassVar[None] = None
    group_size: ClassVar[None] = None

    def codes(self, coeffs: Tensor) -> Tensor:
        """Return codes (both dimensions padded), uint8, close to coeffs (rows, dim_out)."""
        rows, dim_out = coeffs.shape
        targets = coeffs * (_ONE / torch.where(self.step > 0, self.step, 1.0))
        targets = torch.nn.functional.pad(
            targets, (0, -dim_out % TILE_ROWS, 0, -rows % TILE_COLUMNS)
        )
        codes = self.code.encode(streams_of(targets).cpu().numpy())
        return coeffs_of(torch.from_numpy(codes).to(coeffs.device), targets.shape)

    def values(self, codes: Tensor) -> Tensor:
        """Return what codes (padded) stand for, (padded rows, dim_out)."""
        decoded = self.code.decode(streams_of(codes).cpu().numpy())
        levels = coeffs_of(torch.from_numpy(decoded).to(codes.device), codes.shape)
        return levels[:, : self.step.shape[1]] * (self.step / _ONE)


@dataclass(frozen=True, eq=False)
class LevelTable:
    """The levels of a trellis code as they are stored, without what chooses among them.

    Attributes:
        table: Levels (64,), int8, ascending.
        step: What 64 levels are, (1, dim_out), at least 0.
    """

    table: Tensor
    step: Tensor

    @property
    def levels(self) -> list[float]:
        """The levels in steps, ascending."""
        return (self.table / _ONE).tolist()

    def values(self, indices: Tensor) -> Tensor:
        """Return the levels of these numbers (rows, dim_out)."""
        return self.table[indices] * (self.step / _ONE)

    def units(self, coeffs: Tensor) -> Tensor:
        """Return coefficients (rows, dim_out) in steps; NaN where the step is 0."""
        return torch.where(self.step > 0, coeffs / self.step, torch.nan)


def gaussian_trellis(coeffs: Tensor, code: TrellisCode, multiplier: float = 1.0) -> TrellisAlphabet:
    """Return the alphabet that fits Gaussian columns.

    Args:
        coeffs: C (num_vectors, dim_out).
        code: A code for unit variance.
        multiplier: Of the step that is best for lone coefficients.

    Raises:
        OverflowError: The steps are beyond float16's range.
    """
    deviation = coeffs.square().mean(0, keepdim=True).sqrt()
    step = deviation * (multiplier * _ONE / code.deviation)
    return TrellisAlphabet(code, stored(step, deviation))


def trellis_ldlq(coeffs: Tensor, feedback: Tensor | None, alphabet: TrellisAlphabet) -> Tensor:
    """Encode row of tiles after row of tiles, adding to each what it can cancel of earlier errors.

    This is `fqonnx.quant.ldlq` with blocks of rows in the place of single ones: with H = MMᵀ, M
    upper triangular, block b of the objective is ‖M_bbᵀ((ĉ − c)_b + Σ_{j<b} F_jbᵀ(ĉ − c)_j)‖² with
    F_jb = M_jb·M_bb^{−1}. The code is searched as if M_bb was a multiple of the identity.

    Args:
        coeffs: C (num_vectors, dim_out), float32.
        feedback: See `tile_feedback`; None for no feedback.
        alphabet: The code and its steps.

    Returns:
        Codes (num_vectors, dim_out), both padded to whole tiles, uint8.
    """
    if feedback is None:
        return alphabet.codes(coeffs)
    error = torch.zeros_like(coeffs)  # c − ĉ of the rows that are done
    codes = []
    for start in range(0, len(coeffs), _BLOCK):
        stop = min(start + _BLOCK, len(coeffs))
        target = coeffs[start:stop] + feedback[:start, start:stop].T @ error[:start]
        for first in range(start, stop, TILE_COLUMNS):
            last = min(first + TILE_COLUMNS, stop)
            done = slice(first - start, last - start)
            codes.append(alphabet.codes(target[done]))
            error[first:last] = coeffs[first:last] - alphabet.values(codes[-1])[: last - first]
            target[last - start :] += feedback[first:last, last:stop].T @ error[first:last]
    return torch.cat(codes)


def refitted(
    alphabet: TrellisAlphabet, codes: Tensor, coeffs: Tensor, hessian: Tensor | None
) -> TrellisAlphabet:
    """Return the alphabet with the step of least objective for codes that are chosen."""
    values = alphabet.values(codes)[: len(coeffs)]
    weighted = values if hessian is None else hessian.to(values.dtype) @ values
    energy = (values * weighted).sum(0, keepdim=True)
    gain = (coeffs * weighted).sum(0, keepdim=True) / torch.where(energy > 0, energy, 1.0)
    step = alphabet.step * gain.clamp(min=0)
    return replace(alphabet, step=stored(step, step))


def streams_of(coeffs: Tensor) -> Tensor:
    """Return the streams of coefficients or codes (rows, columns), both padded: (tiles, 256).

    Tiles are in the order of a packed weight: those of the first 64 columns, from the first rows
    on, then those of the next.
    """
    rows, columns = coeffs.shape
    tiles = coeffs.reshape(rows // TILE_COLUMNS, TILE_COLUMNS, columns // TILE_ROWS, TILE_ROWS)
    return tiles.permute(2, 0, 3, 1).reshape(-1, TILE)


def coeffs_of(streams: Tensor, shape: torch.Size) -> Tensor:
    """Undo `streams_of`."""
    rows, columns = shape
    tiles = streams.reshape(columns // TILE_ROWS, rows // TILE_COLUMNS, TILE_ROWS, TILE_COLUMNS)
    return tiles.permute(1, 3, 0, 2).reshape(rows, columns)


def tile_feedback(hessian: Tensor) -> Tensor:
    """Return F_jb = M_jb·M_bb^{−1} of all blocks of H = MMᵀ: see `trellis_ldlq`.

    Args:
        hessian: H (num_vectors, num_vectors), float64, positive definite.

    Returns:
        Unit upper triangular by blocks, (num_vectors, num_vectors), float32.
    """
    size, more = len(hessian), -len(hessian) % TILE_COLUMNS
    padded = torch.nn.functional.pad(upper_factor(hessian), (0, more, 0, more))
    padded.diagonal()[size:] = 1.0
    columns = padded.reshape(size + more, -1, TILE_COLUMNS).transpose(0, 1)
    own = columns.reshape(len(columns), len(columns), TILE_COLUMNS, TILE_COLUMNS)
    own = own.diagonal().permute(2, 0, 1)
    solved: Tensor = torch.linalg.solve_triangular(own, columns, upper=True, left=False)
    return solved.transpose(0, 1).reshape(padded.shape)[:size, :size].float()
