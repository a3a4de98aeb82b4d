"""The outputs: their measures, where their errors come from, and what of it is noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fqonnx.diff import OutputDiff, Threshold
from fqonnx.diff.rows import Row, rows
from fqonnx.diff_report import DiffReport, ErrorSplit
from fqonnx.html.numerals import number

# The measures that parts of an error are compared by, and their formats.
MEASURES = (
    ("cosine", "cosine", ".4f"),
    ("SQNR, dB", "sqnr_db", ".2f"),
    ("max", "max_abs_diff", ".3g"),
    ("mean", "mean_abs_diff", ".3g"),
)
_KINDS = {
    "numbers": "numbers",
    "classes": "scores of classes",
    "tokens": "logits of the next token",
}


@dataclass(frozen=True)
class Cell:
    """A measure of a part.

    Attributes:
        text: What is shown.
        is_noise: Whether the float model does as much to itself in half precision.
    """

    text: str
    is_noise: bool


@dataclass(frozen=True)
class Part:
    """A part of the error of an output, or all of it.

    Attributes:
        title: What part.
        note: What makes it.
        error: ‖difference‖/‖float‖ over all samples.
        length: Of its bar, 1 for the whole error.
        cells: One for each of `MEASURES`.
        noise: The error beside the noise floor, in words.
        is_noise: Whether it is within it.
    """

    title: str
    note: str
    error: float
    length: float
    cells: list[Cell]
    noise: str
    is_noise: bool


@dataclass(frozen=True)
class Comparison:
    """All about an output.

    Attributes:
        name: Its name.
        kind: What it was compared as.
        rows: Its measures.
        total: Its whole error.
        parts: Where the error comes from, then all of it and the noise floor; none where the
            report does not split it.
    """

    name: str
    kind: str
    rows: list[Row]
    total: Part
    parts: list[Part]


def comparisons(report: DiffReport) -> list[Comparison]:
    """Return what the page shows of each output."""
    floors = _by_name(report.noise)
    return [
        Comparison(
            name=output.name,
            kind=_KINDS[output.kind],
            rows=rows(output, floors.get(output.name)),
            total=_part("", "", output, output, floors.get(output.name)),
            parts=_parts(report.split, output, floors.get(output.name)),
        )
        for output in report.outputs
    ]


def _parts(split: ErrorSplit | None, whole: OutputDiff, floor: OutputDiff | None) -> list[Part]:
    if split is None:
        return []
    named = (
        ("algorithm", "the weights alone: products are exact", split.algorithm),
        ("kernel", "exact products against those with activations in int8", split.kernel),
        ("provider", "CPU against CUDA", split.provider),
        ("total", "float against compiled", [whole]),
        ("noise floor", "float against itself in float16", [] if floor is None else [floor]),
    )
    return [
        _part(title, note, output, whole, None if output is floor else floor)
        for title, note, outputs in named
        for output in outputs
        if output.name == whole.name
    ]


def _part(
    title: str, note: str, output: OutputDiff, whole: OutputDiff, floor: OutputDiff | None
) -> Part:
    cells = [
        Cell(number(getattr(output, metric), form), _is_noise(output, floor, metric))
        for _, metric, form in MEASURES
    ]
    error, is_noise = _error(output), _is_noise(output, floor, "sqnr_db")
    length = _quotient(error, _error(whole))
    if floor is None:
        noise = ""
    elif is_noise:
        noise = "within the noise floor"
    else:
        noise = f"{number(_quotient(error, _error(floor)), '.3g')} × the noise floor"
    return Part(
        title=title,
        note=note,
        error=error,
        length=0.0 if math.isnan(length) else min(length, 1.0),
        cells=cells,
        noise=noise,
        is_noise=is_noise,
    )


def _is_noise(output: OutputDiff, floor: OutputDiff | None, metric: str) -> bool:
    """Return whether a measure is as good as that of the float model in half precision."""
    if floor is None:
        return False
    return Threshold(metric, getattr(floor, metric)).admits(getattr(output, metric))


def _error(output: OutputDiff) -> float:
    return math.pow(10.0, -output.sqnr_db / 20.0)


def _quotient(error: float, whole: float) -> float:
    """Return error / whole; not a number for 0 / 0 and ∞ / ∞."""
    if whole:
        return error / whole
    return math.inf if error else math.nan


def _by_name(outputs: Sequence[OutputDiff]) -> dict[str, OutputDiff]:
    return {output.name: output for output in outputs}
