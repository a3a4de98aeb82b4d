"""Error of trellis codes on Gaussian coefficients: the tables of docs/trellis.md.

python tools/trellis.py [--markdown docs/trellis.md] [--search BITS]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fqonnx.native import encode_trellis
from fqonnx.packing import LEVELS, TILE
from fqonnx.quant import TrellisCode, gaussian_alphabet, trellis_code
from fqonnx.quant.trellis import DEFAULT_WINDOW, states
from fqonnx.runtime_ops import instruction_set
from page import write_part

WINDOWS = (10, 12, 14, 16)
BITS = (1, 2, 3, 4)
TILES = 512
MARKS = "<!-- tables by tools/trellis.py -->", "<!-- end of tables -->"

Float = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path, help="the page whose tables are made again")
    parser.add_argument("--search", type=int, choices=BITS, help="look for the constants of a code")
    options = parser.parse_args()
    if options.search:
        find(options.search)
        return
    text = tables()
    print(text)
    if options.markdown is not None:
        write_part(options.markdown, *MARKS, text)


def gaussian(tiles: int, seed: int) -> Float:
    return np.random.default_rng(seed).standard_normal((tiles, TILE), np.float32)


def error(code: TrellisCode, x: Float) -> float:
    """Return ‖x − x̂‖²/‖x‖²."""
    deviation = np.float32(code.deviation)
    difference = code.decode(code.encode(x * deviation)) / deviation - x
    return float(np.square(difference).sum() / np.square(x).sum())


def scalar_error(bits: int, x: Float) -> float:
    coeffs = torch.from_numpy(x.reshape(-1, 1))
    difference = gaussian_alphabet(coeffs, bits).nearest(coeffs) - coeffs
    return float(difference.square().sum() / coeffs.square().sum())


def tables() -> str:
    x = gaussian(TILES, 1)
    names = [f"L = {window}" for window in WINDOWS]
    lines = [
        f"| bits | Shannon | {' | '.join(names)} | uniform scalar |",
        "|---|" + "---|" * (len(WINDOWS) + 2),
    ]
    for bits in BITS:
        errors = [4.0**-bits]
        errors += [error(trellis_code(bits, window), x) for window in WINDOWS]
        errors.append(scalar_error(bits, x))
        lines.append(f"| {bits} | " + " | ".join(f"{value:.4f}" for value in errors) + " |")
    lines += ["", "| L | million coefficients a second and core, 2 bits |", "|---|---|"]
    lines += [f"| {window} | {speed(window, x):.2f} |" for window in WINDOWS]
    lines += [
        "",
        "| values of 2^16 states, 2 bits | closed tiles of 256 | streams of 4096 |",
        "|---|---|---|",
    ]
    for name, values in limits().items():
        found = (limit(values, x[: TILES // 4].reshape(-1, length)) for length in (TILE, 4096))
        lines.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in found) + " |")
    lines += [
        "",
        f"{TILES * TILE} coefficients, {instruction_set()}, "
        f"{platform.machine()}, numpy {version('numpy')}, {datetime.date.today()}.",
    ]
    return "\n".join(lines)


def speed(window: int, x: Float) -> float:
    """Return millions of coefficients a second of processor time, the best of some runs."""
    code, best = trellis_code(2, window), math.inf
    x = x[: 1 << (18 - window)]
    for _ in range(20):
        start = time.process_time()
        code.encode(x * np.float32(code.deviation))
        best = min(best, time.process_time() - start)
    return x.size / best / 1e6


def limits() -> dict[str, Float]:
    """Return values (2^16,) of states for coefficients of unit variance: ours, and finer ones."""
    code = trellis_code(2, 16)
    ranks = np.arange(1 << 16)
    quantiles = torch.special.ndtri((torch.from_numpy(ranks) + 0.5) / len(ranks)).numpy()
    return {
        "product and 64 levels": code.values / np.float32(code.deviation),
        "product and 2^16 levels": quantiles[ranks * code.multiplier % len(ranks)],
        "Gaussian, drawn by chance": np.random.default_rng(0).permutation(quantiles),
    }


def limit(values: Float, x: Float) -> float:
    """Return ‖x − x̂‖²/‖x‖² of closed streams x (streams, length), two bits a coefficient."""
    unit = 32767 / 5
    fine = (np.round(array * unit).clip(-32767, 32767).astype(np.int16) for array in (values, x))
    table, targets = fine
    codes = encode_trellis(table, 2, targets)
    assert codes is not None, "it takes the native library"
    found = values[states(codes, 2)]
    return float(np.square(found - x).sum() / np.square(x).sum())


def find(bits: int) -> None:
    """Print levels and multipliers of least error, found from Gaussian quantiles on.

    Good multipliers put the newest code into the highest bits of the product, and next to nothing
    of it elsewhere: they are near 2^(window − bits).
    """
    few, many = gaussian(64, 2), gaussian(1024, 3)
    quantiles = torch.special.ndtri((torch.arange(LEVELS // 2, LEVELS) + 0.5) / LEVELS).numpy()
    spread = {1: 0.9, 2: 1.0, 3: 1.08, 4: 1.15}[bits]
    code = TrellisCode(bits, DEFAULT_WINDOW, 0, *rounded(quantiles * spread))
    code = fitted(best_multiplier(code, few, many, 600), many)
    for window, count in zip(WINDOWS, (600, 600, 150, 24), strict=True):
        share = 1 if window < 16 else 4
        started = dataclasses.replace(code, window=window)
        found = best_multiplier(started, few[::share], many[::share], count)
        print(bits, window, found.multiplier, f"{error(found, many[::share]):.5f}", flush=True)
    print(code.magnitudes, code.deviation)


def best_multiplier(code: TrellisCode, few: Float, many: Float, count: int) -> TrellisCode:
    near = 1 << (code.window - code.bits)
    odd = np.arange(near - near // 4 + 1, near + near // 4, 2)
    odd = np.random.default_rng(0).permutation(odd)[:count]
    codes = [
        dataclasses.replace(code, multiplier=int(factor) << (16 - code.window)) for factor in odd
    ]
    codes = sorted(codes, key=lambda code: error(code, few))[:8]
    return min(codes, key=lambda code: error(code, many))


def fitted(code: TrellisCode, x: Float, rounds: int = 8) -> TrellisCode:
    """Move each level to the mean of the coefficients that it stands for, and encode again."""
    half = LEVELS // 2
    for _ in range(rounds):
        values = code.decode(code.encode(x * np.float32(code.deviation)))
        index = np.searchsorted(code.levels, values).ravel()
        count = np.bincount(index, minlength=LEVELS)
        total = np.bincount(index, x.ravel(), LEVELS)
        means = (total - total[::-1])[half:] / np.maximum((count + count[::-1])[half:], 1)
        magnitudes, deviation = rounded(np.maximum.accumulate(means))
        code = dataclasses.replace(code, magnitudes=magnitudes, deviation=deviation)
    return code


def rounded(upper: NDArray[np.floating]) -> tuple[tuple[int, ...], float]:
    """Return distinct integers from 1 to 127 in proportion to ascending numbers, and that of 1."""
    deviation = 127 / float(upper[-1])
    order = np.arange(len(upper))
    magnitudes = np.maximum(np.round(upper * deviation).astype(int), 1)
    magnitudes = np.maximum.accumulate(magnitudes - order) + order
    magnitudes = np.minimum(magnitudes, 127 - order[::-1])
    return tuple(magnitudes.tolist()), round(deviation, 2)


if __name__ == "__main__":
    main()
