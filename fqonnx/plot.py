"""The picture of a sweep: quality against stored bits per weight."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fqonnx.config import METHODS
from fqonnx.sweep import SweepRow

if TYPE_CHECKING:  # matplotlib takes a second to load, which the other commands need not wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
SIZE_INCHES = (12.0, 5.6)
MAX_ANNOTATED = 24

# Okabe and Ito's colours, which the colour-blind tell apart too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = {1: "v", 2: "o", 3: "s", 4: "D"}
_GREY = "0.4"
_FONT_SIZE = 7.5
_GAP = 3.5
_MARKER_EDGE = 3.0 * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
# Where an annotation may be, seen from its point, the best first: −1 is left or below.
_SIDES = ((-1, 1), (1, -1), (0, 1), (0, -1), (1, 1), (-1, -1))

_Value: TypeAlias = Callable[[SweepRow], float]


def sweep_png(rows: Sequence[SweepRow], model_name: str) -> bytes:
    """Draw the points of a sweep.

    Args:
        rows: One row a point, all of the same output.
        model_name: For the title.

    Returns:
        A PNG file of 1800 × 840 pixels.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=SIZE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    title = f"{model_name}: output {rows[0].output!r} against the float model's"
    figure.suptitle(textwrap.fill(title, 120), parse_math=False)  # a $ in a name is no mathematics
    cosine, sqnr = figure.subplots(1, 2, sharex=True)
    _draw(cosine, rows, lambda row: row.cosine, "cosine", least_span=0.01)
    _draw(sqnr, rows, lambda row: row.sqnr_db, "SQNR (dB)", least_span=1.0)
    annotated = len(rows) <= MAX_ANNOTATED
    for axes in (cosine, sqnr):
        axes.set_xlabel("stored bits per weight" + (" (grey: redundancy)" if annotated else ""))
    _add_legend(figure, rows)
    if annotated:
        figure.draw_without_rendering()  # the layout, without which no place on paper is known
        _annotate(cosine, rows, lambda row: row.cosine)
        _annotate(sqnr, rows, lambda row: row.sqnr_db)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _draw(
    axes: Axes, rows: Sequence[SweepRow], value: _Value, label: str, least_span: float
) -> None:
    """Draw one measure: a line for each method and number of bits."""
    for method, bits in _lines(rows):
        line = [row for row in _shown(rows, value) if (row.method, row.bits) == (method, bits)]
        axes.plot(
            [row.bits_per_weight for row in line],
            [value(row) for row in line],
            color=_colour(method),
            marker=_MARKERS[bits],
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.4,
        )
    axes.set_ylabel(label)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=12)
    axes.set_xlim(_limits([row.bits_per_weight for row in rows], 0.5))
    if shown := _shown(rows, value):
        axes.set_ylim(_limits([value(row) for row in shown], least_span))
    else:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=_GREY)


def _annotate(axes: Axes, rows: Sequence[SweepRow], value: _Value) -> None:
    """Write the redundancy beside each point, where it covers least of lines and texts."""
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    points_a_pixel = 72 / figure.dpi
    lines = [axes.transData.transform(line.get_xydata()) * points_a_pixel for line in axes.lines]
    ink = np.concatenate([_dense(line) for line in lines])
    texts: list[_Box] = []
    for row in _shown(rows, value):
        text = f"{row.redundancy:g}"
        place = (row.bits_per_weight, value(row))
        x, y = axes.transData.transform(place) * points_a_pixel
        boxes = {side: _Box.beside(x, y, len(text), side) for side in _SIDES}
        dx, dy = min(_SIDES, key=lambda side: boxes[side].cover(ink, texts))
        texts.append(boxes[dx, dy])
        axes.annotate(
            text,
            place,
            xytext=(_GAP * dx, _GAP * dy),
            textcoords="offset points",
            ha=("center", "left", "right")[dx],
            va=("center", "bottom", "top")[dy],
            fontsize=_FONT_SIZE,
            color=_GREY,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


class _Box(NamedTuple):
    """Where a text is, in points."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def beside(cls, x: float, y: float, length: int, side: tuple[int, int]) -> _Box:
        """Return the box of a text of that many digits at a side of (x, y)."""
        width, height = 0.6 * _FONT_SIZE * length, 0.8 * _FONT_SIZE
        left = x + side[0] * _GAP + (side[0] - 1) / 2 * width
        bottom = y + side[1] * _GAP + (side[1] - 1) / 2 * height
        return cls(left, left + width, bottom, bottom + height)

    def cover(self, ink: NDArray[np.float64], texts: Sequence[_Box]) -> int:
        """Return how much would be covered; another text counts more than any line."""
        x, y = ink[:, 0], ink[:, 1]
        on_lines = (x > self.left) & (x < self.right) & (y > self.bottom) & (y < self.top)
        on_texts = [
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
            for other in texts
        ]
        return int(on_lines.sum()) + 1000 * sum(on_texts)


def _dense(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points of a line with its markers, a point's width apart."""
    pieces = [
        np.linspace(a, b, 2 + int(np.linalg.norm(b - a))) for a, b in itertools.pairwise(line)
    ]
    return np.concatenate([line + offset for offset in _MARKER_EDGE] + pieces)


def _shown(rows: Sequence[SweepRow], value: _Value) -> list[SweepRow]:
    """Return the rows with a finite value, in the order of the x axis."""
    finite = [row for row in rows if math.isfinite(value(row))]
    return sorted(finite, key=lambda row: row.bits_per_weight)


def _limits(values: Sequence[float], least_span: float) -> tuple[float, float]:
    """Leave room for the annotations, and do not magnify a point or two to a whole axis."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), (least_span - (high - low)) / 2)
    return low - margin, high + margin


def _add_legend(figure: Figure, rows: Sequence[SweepRow]) -> None:
    """Say what colours and markers mean, each once."""
    from matplotlib.lines import Line2D

    methods = dict.fromkeys(method for method, _ in _lines(rows))
    handles = [Line2D([], [], color=_colour(m), linewidth=2.5, label=m) for m in methods]
    handles += [
        Line2D(
            [],
            [],
            color=_GREY,
            linestyle="",
            marker=_MARKERS[bits],
            label=f"{bits} bit{'s'[: bits > 1]}",
        )
        for bits in sorted({row.bits for row in rows})
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _lines(rows: Sequence[SweepRow]) -> list[tuple[str, int]]:
    """Return the methods and bits that there are, in the order of `METHODS`."""
    order = list(METHODS)
    return sorted({(r.method, r.bits) for r in rows}, key=lambda line: (order.index(line[0]), line))


def _colour(method: str) -> str:
    return _COLOURS[list(METHODS).index(method) % len(_COLOURS)]
