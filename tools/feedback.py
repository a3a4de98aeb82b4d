"""What feedback does in a redundant frame: docs/feedback.md and its picture.

python tools/feedback.py [--markdown docs/feedback.md]
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.figure import Figure

from fqonnx.config import METHODS
from fqonnx.frames import Frame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.quant import quantize_weight

PAGE = """\
# Feedback in a redundant frame

A weight of {dim} × {columns} independent Gaussian entries is quantized without data and rebuilt.
The figures are ‖W − Ŵ‖²/‖W‖², N/d is the redundancy, and bits times N/d is what is stored a weight.

![Error against stored bits](feedback.png)

{tables}

- **none**: each coefficient to the nearest level, with the best of {steps} steps.
- **Sigma-Delta** of order 1 and 2, with the step that keeps it stable (`--method sigma-delta`).
  Were its error white before the filter, the squared error would fall as (N/d)⁻³ and (N/d)⁻⁵: the
  dotted lines.
- **LDLQ, harmonic** and **LDLQ, Hadamard**: LDLQ with H = I, that is THTᵀ = TTᵀ, the projection on
  the range of the frame, with the best of {steps} steps and of the dampings λ {dampings}; the best
  λ on the harmonic frame is in brackets.
- **Shannon** is 2^(−2·bits·N/d), below which no code of that many bits can be.

## What the measurement shows

LDLQ with H = I is Sigma-Delta with the filter that is best for the frame, in place of differences.
The frame has sinusoids of frequencies up to d/2 out of N/2, so the noise has to go to the others.
Sigma-Delta of order r puts r zeros at frequency 0, which serves the lowest frequencies most. The
factor of TTᵀ + λ·I is the minimum-phase filter that is low in all of the band: as low as λ lets it,
and the higher beyond, since the mean of its logarithm stays zero (Gerzon and Craven 1989).

- Without feedback redundancy buys little. A level is off by something that follows the coefficient
  itself, which lies in the range of the frame and stays; white noise would fall as (N/d)⁻¹.
- Sigma-Delta has the slopes that theory gives it, from N/d = 3 on for order 1. It needs redundancy:
  at N/d = 1 the frame is a basis and loses no noise, and order 2 has more of it, so that it pays
  from N/d = 4 at 2 bits, and not up to 8 at 1 bit.
- At 2 bits and N/d = 4 LDLQ on the harmonic frame has {gain_two:.0f} times less error than
  Sigma-Delta of order 1, and {gain_two_second:.0f} times less than order 2. It falls faster than a
  power while the levels can hold what a small λ adds to a coefficient.
- At 1 bit two levels are soon overrun, which takes a larger λ (a weaker filter) and a wider step:
  {gain_one:.1f} times less than Sigma-Delta at N/d = 4.
- A Hadamard frame has no neighbours for a fixed filter to use. LDLQ finds what its frame vectors
  have in common, which is less than what those of a harmonic frame have.
- Bits are better spent on levels than on vectors all the same: at 4 stored bits, 4 bits at N/d = 1
  have {four:.4f} (`auto`, no data), 2 bits at N/d = 2 have {two_two:.4f}, 1 bit at N/d = 4 has
  {one_four:.4f}.

    make feedback

{machine}, torch {torch}, {date}.
"""
DIM, COLUMNS = 128, 64
REDUNDANCIES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
STEPS = (
    0.6,
    0.75,
    0.9,
    1.05,
    1.25,
    1.5,
    1.8,
    2.2,
    2.7,
    3.3,
    4.0,
    5.0,
)  # of the best for lone coefficients
DAMPINGS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


# From redundancy and bits to the squared relative error, and the damping that it takes.
Measure = Callable[[float, int], tuple[float, float | None]]


@dataclass(frozen=True)
class Feedback:
    """A column of the tables.

    Attributes:
        title: Its title.
        measure: What fills it.
        slope: Of the error in theory, where it is a power of the redundancy.
    """

    title: str
    measure: Measure
    slope: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path, help="write the page, and its picture beside it")
    page = parser.parse_args().markdown
    errors = {
        (feedback.title, bits): [feedback.measure(r, bits) for r in REDUNDANCIES]
        for feedback in FEEDBACKS
        for bits in (1, 2)
    }
    content = text(errors)
    print(content)
    if page is not None:
        page.write_text(content, encoding="utf-8")
        picture(errors).savefig(page.with_suffix(".png"), dpi=150)


def weight() -> torch.Tensor:
    return torch.randn(DIM, COLUMNS, generator=torch.Generator().manual_seed(0))


def none(redundancy: float, bits: int) -> tuple[float, None]:
    frame = HarmonicFrame.create(DIM, redundancy)
    return min(by_ldlq(frame, bits, step, 0.0, feedback="none") for step in STEPS), None


def sigma_delta(order: int) -> Measure:
    def measure(redundancy: float, bits: int) -> tuple[float, None]:
        method = replace(METHODS["sigma-delta"], order=order)
        frame, identity = HarmonicFrame.create(DIM, redundancy), IdentityFrame(COLUMNS)
        found = quantize_weight(weight(), frame, identity, method, bits)
        return found.errors.weight_rel_error**2, None

    return measure


def ldlq(kind: type[HarmonicFrame] | type[HadamardFrame]) -> Measure:
    def measure(redundancy: float, bits: int) -> tuple[float, float | None]:
        frame = kind.create(DIM, redundancy)
        error, damping = min(
            (by_ldlq(frame, bits, step, damping), damping) for step in STEPS for damping in DAMPINGS
        )
        return error, damping if kind is HarmonicFrame else None

    return measure


def by_ldlq(frame: Frame, bits: int, step: float, damping: float, feedback: str = "ldlq") -> float:
    method = replace(
        METHODS["auto"], feedback=feedback, step_multipliers=(step,), damping=damping, sweeps=0
    )
    identity = IdentityFrame(COLUMNS)
    return quantize_weight(weight(), frame, identity, method, bits).errors.weight_rel_error ** 2


FEEDBACKS = (
    Feedback("none", none),
    Feedback("Sigma-Delta", sigma_delta(1), -3),
    Feedback("order 2", sigma_delta(2), -5),
    Feedback("LDLQ, harmonic", ldlq(HarmonicFrame)),
    Feedback("LDLQ, Hadamard", ldlq(HadamardFrame)),
)

Errors = dict[tuple[str, int], list[tuple[float, float | None]]]


def text(errors: Errors) -> str:
    def at(title: str, bits: int, redundancy: float) -> float:
        return errors[title, bits][REDUNDANCIES.index(redundancy)][0]

    identity = IdentityFrame(COLUMNS)
    four = quantize_weight(weight(), HadamardFrame.create(DIM), identity, METHODS["auto"], 4)
    return PAGE.format(
        dim=DIM,
        columns=COLUMNS,
        steps=len(STEPS),
        dampings=", ".join(f"{damping:g}" for damping in DAMPINGS),
        tables="\n\n".join(table(errors, bits) for bits in (1, 2)),
        gain_two=at("Sigma-Delta", 2, 4.0) / at("LDLQ, harmonic", 2, 4.0),
        gain_two_second=at("order 2", 2, 4.0) / at("LDLQ, harmonic", 2, 4.0),
        gain_one=at("Sigma-Delta", 1, 4.0) / at("LDLQ, harmonic", 1, 4.0),
        four=four.errors.weight_rel_error**2,
        two_two=at("LDLQ, harmonic", 2, 2.0),
        one_four=at("LDLQ, harmonic", 1, 4.0),
        machine=platform.machine(),
        torch=version("torch"),
        date=datetime.date.today(),
    )


def table(errors: Errors, bits: int) -> str:
    titles = [feedback.title for feedback in FEEDBACKS]
    lines = [
        f"| {bits} bit{'s' * (bits > 1)}, N/d | stored | " + " | ".join(titles) + " | Shannon |",
        "|---" * (len(titles) + 3) + "|",
    ]
    for i, redundancy in enumerate(REDUNDANCIES):
        stored = bits * redundancy
        found = [errors[title, bits][i] for title in titles] + [(shannon(stored), None)]
        cells = " | ".join(cell(*value) for value in found)
        lines.append(f"| {redundancy:g} | {stored:g} | {cells} |")
    return "\n".join(lines)


def cell(error: float, damping: float | None) -> str:
    shown = f"{error:.2g}" if error < 0.001 else f"{error:.4f}"
    return shown if damping is None else f"{shown} ({damping:g})"


def shannon(stored: float) -> float:
    return 2.0 ** (-2.0 * stored)


def picture(errors: Errors) -> Figure:
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    for axes, bits in zip(figure.subplots(1, 2, sharey=True), (1, 2), strict=True):
        stored = [bits * r for r in REDUNDANCIES]
        for feedback, marker in zip(FEEDBACKS, "osD^v", strict=True):
            found = [error for error, _ in errors[feedback.title, bits]]
            (line,) = axes.plot(stored, found, marker + "-", ms=4, lw=1.2, label=feedback.title)
            if feedback.slope is not None:  # through the last point
                theory = [found[-1] * (s / stored[-1]) ** feedback.slope for s in stored]
                axes.plot(stored, theory, ":", lw=1, color=line.get_color())
        axes.plot(stored, [shannon(s) for s in stored], "k--", lw=1, label="Shannon")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(5e-5, 8)
        axes.set_xticks(stored, [f"{s:g}" for s in stored])
        axes.minorticks_off()
        axes.set_xlabel("stored bits a weight: bits · N/d")
        axes.set_title(f"{bits} bit{'s' * (bits > 1)} a coefficient; dotted: slope in theory")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("‖W − Ŵ‖² / ‖W‖²")
    figure.axes[0].legend(frameon=False, loc="lower left")
    return figure


if __name__ == "__main__":
    main()
