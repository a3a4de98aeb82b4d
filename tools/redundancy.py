"""Error of a Gaussian weight against redundancy, without data: docs/redundancy.md and its picture.

python tools/redundancy.py [--markdown docs/redundancy.md]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.figure import Figure

from fqonnx.config import CompileConfig, Target
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, IdentityFrame
from fqonnx.quant import quantize_weight

PAGE = """\
# What redundancy buys

A weight of {size} × {size} independent Gaussian entries is quantized to 2 bits a coefficient,
without any data (H = I), and rebuilt. The figures are ‖W − Ŵ‖²/‖W‖², mean of {runs} draws.
`framequant` has fusion frames on both sides, so that r² codes a weight are stored; `auto` has a
Hadamard frame on one, and trellis codes.

![Error against redundancy](redundancy.png)

{table}

- **bound**: synthesis has norm 1 (the frames are Parseval), so ‖W − Ŵ‖ ≤ ‖C − Ĉ‖ whatever the
  rounding does. Here C − Ĉ is that of rounding each coefficient to the nearest level.
- **bound/r²**: what synthesis leaves of that error where it is white, as in FrameQuant's analysis
  (arXiv 2403.06082, §4): the part of it that lies in the ranges of both frames.
- **nearest** is measured, without feedback; **framequant** with GPTQ's feedback, as published. Its
  feedback pushes error out of the range of the frame on the reduction axis; error on the output
  axis it does not see.
- **auto, same redundancy** and **auto, same bits** have feedback too. The last one is what the bits
  of `framequant` buy with a frame on one side only.

## Redundancy or bits

What redundancy costs is bits, and what a frame vector more is worth, a finer alphabet may be worth
too. The same error with a frame on one side, against bits of codes a weight (r times those of a
coefficient), for scalar and [trellis](trellis.md) codes, and the least that any code can do:
Shannon's 4^−bits.

![Error against bits, by redundancy and by alphabet](redundancy-bits.png)

{bits_table}

Bits are worth more than redundancy, and with trellis codes by far: they leave little between them
and the bound, and have no feedback within their blocks of four columns, which is what redundancy
lives on. What it is for is the steps between whole bits, up to a quarter. On models with
calibration data see [architectures.md](architectures.md) and the sweep in the
[README](../README.md).

At r = 3 scalar codes err less than trellis codes, and at r = 2 too, where the size is a power of
two, as it is here; of 384 or 784 dimensions trellis codes are better there still. Calibration data
leave feedback less freedom: with them (an MLP of widths 784 and 512 on MNIST, r = 1.5 to 4)
trellis codes err less at 2 and 3 bits throughout, and scalar ones at 1 bit. So `auto` takes trellis
codes up to 3 bits, but scalar ones at 1 bit from r = 2 on, and without data from r = 3 on.

## Outliers

The same of a weight of {tall} × {wide} of which {outlying} rows, drawn by chance, are 20 times
larger, at r = 1, mean of {runs} draws:

{outliers}

A frame spreads outliers over all coefficients, where they are Gaussian again. The fusion frame does
it less well than the Hadamard transform alone: it is a Fourier transform of runs of 16 entries
right behind one, which gathers again part of what that has spread. What is beyond 2σ is then
clipped, and more bits do not bring it back.

    make redundancy

{machine}, torch {torch}, {date}.
"""
SIZE, RUNS, BITS = 512, 3, 2
TALL, WIDE, OUTLYING = 768, 128, 6
REDUNDANCIES = (1.0, 1.125, 1.25, 1.375, 1.5, 1.75, 2.0)
TARGETS = {"scalar": "ort-stock", "trellis": "ort-fqonnx"}
ONE_SIDE = (1.0, 1.0625, 1.125, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Point:
    """Squared relative errors at one redundancy."""

    redundancy: float
    bound: float
    nearest: float
    framequant: float
    auto: float
    auto_same_bits: float

    @property
    def white(self) -> float:
        return self.bound / self.redundancy**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path, help="write the page, and its picture beside it")
    page = parser.parse_args().markdown
    points = [measure(redundancy) for redundancy in REDUNDANCIES]
    by_bits = measure_bits()
    table, bits_table = "\n".join(rows(points)), "\n".join(bits_rows(by_bits))
    print(table, bits_table, sep="\n\n")
    if page is not None:
        page.write_text(text(table, bits_table), encoding="utf-8")
        picture(points).savefig(page.with_suffix(".png"), dpi=150)
        bits_picture(by_bits).savefig(page.with_name("redundancy-bits.png"), dpi=150)


def measure(redundancy: float) -> Point:
    draws = []
    for seed in range(RUNS):
        weight = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        fusion = FusionFrame.create(SIZE, redundancy, 2 * seed)
        fusion_out = FusionFrame.create(SIZE, redundancy, 2 * seed + 1)
        bound, nearest = errors(weight, fusion, fusion_out, "framequant", feedback="none")
        same = HadamardFrame.create(SIZE, redundancy, seed)
        bits = HadamardFrame.create(SIZE, redundancy**2, seed)
        draws.append(
            [
                bound,
                nearest,
                errors(weight, fusion, fusion_out, "framequant")[1],
                errors(weight, same, IdentityFrame(SIZE), "auto")[1],
                errors(weight, bits, IdentityFrame(SIZE), "auto")[1],
            ]
        )
    return Point(redundancy, *torch.tensor(draws).mean(0).tolist())


def errors(
    weight: torch.Tensor,
    frame_in: Frame,
    frame_out: Frame,
    method: str,
    bits: int = BITS,
    target: Target = "ort-fqonnx",
    **changes: str,
) -> tuple[float, float]:
    """Return ‖C − Ĉ‖²/‖W‖² and ‖W − Ŵ‖²/‖W‖²."""
    recipe = CompileConfig(method=method, bits=bits, target=target).recipe
    chosen = dataclasses.replace(recipe, **changes)
    quantized = quantize_weight(weight, frame_in, frame_out, chosen, bits)
    coeffs = frame_out.analysis(frame_in.analysis(weight.T).T)
    ratio = (quantized.coeffs() - coeffs).square().sum() / weight.square().sum()
    return float(ratio), quantized.errors.weight_rel_error**2


def rows(points: list[Point]) -> list[str]:
    lines = [
        "| r a side | bits of codes a weight, both sides | bound | bound/r² | nearest "
        "| framequant | auto, same redundancy | auto, same bits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in points:
        values = (p.bound, p.white, p.nearest, p.framequant, p.auto, p.auto_same_bits)
        cells = " | ".join(f"{value:.4f}" for value in values)
        lines.append(f"| {p.redundancy:g} | {BITS * p.redundancy**2:.2f} | {cells} |")
    return lines


def measure_bits() -> dict[tuple[str, int], list[float]]:
    """Return ‖W − Ŵ‖²/‖W‖² at each of ``ONE_SIDE`` by codebook and bits a coefficient."""
    found = {}
    for codebook, target in TARGETS.items():
        for bits in (1, 2, 3, 4) if codebook == "scalar" else (1, 2, 3):
            found[codebook, bits] = [
                sum(one_side(seed, redundancy, bits, target) for seed in range(RUNS)) / RUNS
                for redundancy in ONE_SIDE
            ]
    return found


def one_side(seed: int, redundancy: float, bits: int, target: Target) -> float:
    weight = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    frame = HadamardFrame.create(SIZE, redundancy, seed)
    return errors(weight, frame, IdentityFrame(SIZE), "auto", bits, target)[1]


def bits_rows(by_bits: dict[tuple[str, int], list[float]]) -> list[str]:
    lines = [
        "| codes | " + " | ".join(f"r = {redundancy:g}" for redundancy in ONE_SIDE) + " |",
        "|---|" + "---|" * len(ONE_SIDE),
    ]
    for (codebook, bits), values in by_bits.items():
        cells = (
            f"{value:.4f} ({value * 4 ** (bits * redundancy):.2f})"
            for redundancy, value in zip(ONE_SIDE, values, strict=True)
        )
        lines.append(
            f"| {codebook}, {bits} {'bit' if bits == 1 else 'bits'} | {' | '.join(cells)} |"
        )
    return [*lines, "", "(In brackets: the error over Shannon's bound at the same bits a weight.)"]


def text(table: str, bits_table: str) -> str:
    return PAGE.format(
        size=SIZE,
        runs=RUNS,
        table=table,
        bits_table=bits_table,
        tall=TALL,
        wide=WIDE,
        outlying=OUTLYING,
        outliers="\n".join(outlier_rows()),
        machine=platform.machine(),
        torch=version("torch"),
        date=datetime.date.today(),
    )


def outlier_rows() -> list[str]:
    lines = ["| bits | rtn | framequant | auto |", "|---|---|---|---|"]
    for bits in (2, 3, 4):
        found = torch.tensor([outlier_errors(seed, bits) for seed in range(RUNS)]).mean(0)
        lines.append(f"| {bits} | " + " | ".join(f"{error:.4f}" for error in found) + " |")
    return lines


def outlier_errors(seed: int, bits: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(TALL, WIDE, generator=generator)
    weight[torch.randperm(TALL, generator=generator)[:OUTLYING]] *= 20
    none, none_out = IdentityFrame(TALL), IdentityFrame(WIDE)
    fusion = FusionFrame.create(TALL, seed=2 * seed), FusionFrame.create(WIDE, seed=2 * seed + 1)
    hadamard = HadamardFrame.create(TALL, seed=seed)
    return [
        errors(weight, none, none_out, "rtn", bits)[1],
        errors(weight, *fusion, "framequant", bits)[1],
        errors(weight, hadamard, none_out, "auto", bits)[1],
    ]


def picture(points: list[Point]) -> Figure:
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    r = [p.redundancy for p in points]
    axes.plot(r, [p.bound for p in points], "k-", lw=1, label="bound")
    axes.plot(r, [p.white for p in points], "k--", lw=1, label="bound/r²")
    axes.plot(r, [p.nearest for p in points], "o-", label="nearest, both sides")
    axes.plot(r, [p.framequant for p in points], "s-", label="framequant, both sides")
    axes.plot(r, [p.auto for p in points], "^-", label="auto, one side")
    axes.set_yscale("log")
    axes.set_yticks([0.02, 0.04, 0.06, 0.1, 0.16], ["0.02", "0.04", "0.06", "0.10", "0.16"])
    axes.minorticks_off()
    axes.set_xlabel("redundancy r a side")
    axes.set_ylabel("‖W − Ŵ‖² / ‖W‖²")
    axes.set_title(f"Gaussian weight {SIZE} × {SIZE}, {BITS} bits a coefficient, no data")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def bits_picture(by_bits: dict[tuple[str, int], list[float]]) -> Figure:
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots()
    bound = [1.0, 4.5]
    axes.plot(bound, [4.0**-bits for bits in bound], "k-", lw=1, label="Shannon's bound")
    for (codebook, bits), values in by_bits.items():
        stored = [bits * redundancy for redundancy in ONE_SIDE]
        shown = [i for i, x in enumerate(stored) if x <= bound[1]]
        axes.plot(
            [stored[i] for i in shown],
            [values[i] for i in shown],
            {1: "v", 2: "o", 3: "s", 4: "D"}[bits] + ("-" if codebook == "trellis" else "--"),
            color="#0072B2" if codebook == "trellis" else "#D55E00",
            markersize=5,
            label=f"{codebook}, {bits} {'bit' if bits == 1 else 'bits'}, r from 1",
        )
    axes.set_yscale("log")
    ticks = [0.003, 0.01, 0.03, 0.1, 0.3]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("bits of codes a weight")
    axes.set_ylabel("‖W − Ŵ‖² / ‖W‖²")
    axes.set_title(f"Gaussian weight {SIZE} × {SIZE}, a frame on one side, no data")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
