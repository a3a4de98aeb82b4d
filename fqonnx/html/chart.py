"""The picture of the error along the depth of the network, as SVG that takes the page's colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from fqonnx.diff import LayerDiff

if TYPE_CHECKING:  # matplotlib takes a second to load, which the other commands need not wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_POINTS_AN_INCH = 72  # an SVG's units are points
_FONT_SIZE = 9
_LARGEST = 2.0  # drawn: beyond twice the signal one error is as bad as another
_MOST_DOTS = 60

# Colours that matplotlib draws with, and the page's variables that take their place.
_LOCAL, _ACCUMULATED, _WEIGHT = "#0072b2", "#d55e00", "#009e73"
_INK, _SOFT, _RULE, _BAR, _WORST = "#202020", "#606060", "#d0d0d0", "#a0a0a0", "#d55e01"
_VARIABLES = {
    _LOCAL: "local",
    _ACCUMULATED: "accumulated",
    _WEIGHT: "weight",
    _INK: "ink",
    _SOFT: "soft",
    _RULE: "rule",
    _BAR: "bar",
    _WORST: "bad",
}
_LINES: tuple[tuple[str, str, str, float, Callable[[LayerDiff], float]], ...] = (
    ("accumulated", _ACCUMULATED, "-", 1.8, lambda layer: layer.accumulated_rel_error),
    ("local", _LOCAL, "-", 1.1, lambda layer: layer.local_rel_error),
    ("weight", _WEIGHT, "--", 1.1, lambda layer: layer.weight_rel_error),
)


def depth_svg(
    layers: Sequence[LayerDiff], ranks: Mapping[int, int], size: tuple[float, float], name: str
) -> str:
    """Draw the errors of all layers, in graph order.

    Args:
        layers: The layers.
        ranks: Of the worst ones, by index.
        size: Width and height in inches.
        name: Sets the ids of this picture apart from those of others on the page.

    Returns:
        An ``svg`` element without any text of the model. ``data-x`` is where the first and the last
        layer are, ``data-y`` where the axes begin and end.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text, which the page gives its font; and equal reports have equal pages.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": _FONT_SIZE}):
        figure = Figure(figsize=size, dpi=_POINTS_AN_INCH, layout="constrained")
        figure.patch.set_visible(False)
        errors, alone = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
        _draw_errors(errors, layers, ranks)
        _draw_alone(alone, layers, ranks)
        figure.legend(
            *errors.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=len(_LINES),
            frameon=False,
            labelcolor=_INK,
        )
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # nothing moves between here and the file
        x = [alone.transData.transform((i, 0))[0] for i in (0, len(layers) - 1)]
        y = [figure.bbox.height - edge for edge in (errors.bbox.y1, alone.bbox.y0)]
        return _inline(_saved(figure), name, {"data-x": x, "data-y": y})


def _draw_errors(axes: Axes, layers: Sequence[LayerDiff], ranks: Mapping[int, int]) -> None:
    for index in ranks:
        axes.axvline(index, color=_RULE, linewidth=1)
    shown = []
    for label, colour, style, width, value in _LINES:
        values = [_finite(value(layer)) for layer in layers]
        shown += values
        axes.plot(
            values,
            style,
            label=label,
            color=colour,
            linewidth=width,
            marker="o" if len(layers) <= _MOST_DOTS else "",
            markersize=3,
        )
    _frame(axes, shown, len(layers))
    axes.set_ylabel("relative error", color=_SOFT)


def _draw_alone(axes: Axes, layers: Sequence[LayerDiff], ranks: Mapping[int, int]) -> None:
    values = [_finite(layer.model_rel_error) for layer in layers]
    axes.stairs(values, [i - 0.5 for i in range(len(layers) + 1)], fill=True, color=_BAR)
    _frame(axes, values, len(layers))
    for index, rank in ranks.items():
        axes.bar(index, values[index], width=1, color=_WORST, edgecolor=_WORST, linewidth=1)
        top = min(values[index], axes.get_ylim()[1])
        axes.annotate(
            str(rank),
            (index, top),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=_WORST,
            fontsize=_FONT_SIZE - 1,
        )
    axes.set_ylabel("alone", color=_SOFT)
    axes.set_xlabel("layer, in graph order", color=_SOFT)


def _frame(axes: Axes, values: Sequence[float], count: int) -> None:
    """Set the limits and what is quiet about the axes."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    top = min(max((v for v in values if not math.isnan(v)), default=0.0), _LARGEST)
    axes.set_ylim(0.0, 1.2 * top or 1.0)
    axes.set_xlim(-0.7, count - 0.3)
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_RULE)
    axes.grid(axis="y", color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=_RULE, labelcolor=_SOFT)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}%"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x + 1:.0f}"))


def _finite(value: float) -> float:
    """Return what a line has no point at as NaN."""
    return value if math.isfinite(value) else math.nan


def _saved(figure: Figure) -> ElementTree.Element:
    """Return the figure as SVG, without a word on who made it and when."""
    buffer = io.BytesIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=unsaid)
    return ElementTree.fromstring(buffer.getvalue())


def _inline(svg: ElementTree.Element, name: str, places: Mapping[str, Sequence[float]]) -> str:
    """Return an element for a page: its colours the page's, its ids its own, its size free."""
    for prefix, uri in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(prefix, uri)
    for defs in svg.findall(f"{{{_SVG}}}defs[{{{_SVG}}}style]"):
        svg.remove(defs)  # a style sheet, which would be the whole page's
    used = set(re.findall(r"#([\w-]+)", ElementTree.tostring(svg, encoding="unicode")))
    for element in svg.iter():
        if (own := element.attrib.pop("id", None)) in used:
            element.set("id", f"{name}-{own}")
        for key in ("clip-path", f"{{{_XLINK}}}href"):
            if key in element.attrib:
                element.set(key, element.attrib[key].replace("#", f"#{name}-"))
        if style := element.get("style"):
            element.set("style", re.sub(r"#\w{6}", _variable, style))
    for key in ("width", "height", "version"):
        svg.attrib.pop(key, None)
    for key, ends in places.items():
        svg.set(key, " ".join(f"{place:.2f}" for place in ends))
    svg.set("class", f"depth {name}")
    svg.set("role", "img")
    svg.set("tabindex", "0")
    svg.set("aria-label", "Relative errors of the layers in graph order; arrow keys go along them")
    return ElementTree.tostring(svg, encoding="unicode")


def _variable(colour: re.Match[str]) -> str:
    return f"var(--{_VARIABLES.get(colour[0], 'ink')})"
