"""From a report to the page: what the template is given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fqonnx.config import Override
from fqonnx.diff import Advice, Histogram, LayerDiff
from fqonnx.diff_report import DiffReport
from fqonnx.html import numerals
from fqonnx.html.chart import depth_svg
from fqonnx.html.columns import WORST, layer_table, worst_layers
from fqonnx.html.outputs import MEASURES, comparisons
from fqonnx.markdown import found_text, headline, needed_text
from fqonnx.overrides import write_overrides
from fqonnx.report import LayerReport

# Of the picture, in inches: where each is shown, its text is as large as the page's.
_SIZES = {"wide": (10.5, 4.2), "narrow": (4.2, 4.2)}
_RAISED_BITS, _RAISED_LAYERS = 4, 3


def to_html(report: DiffReport) -> str:
    """Return a page that needs no other file, no network and no server."""
    script = (files(__package__) / "templates" / "script.js").read_text(encoding="utf-8")
    raised = _raised(report.advice)
    page = _environment().get_template("page.html")
    return page.render(
        report=report,
        headline=headline(report.verdicts),
        comparisons=comparisons(report),
        measures=MEASURES,
        table=layer_table(report),
        worst=WORST,
        pictures=_pictures(report.layers),
        histograms=[_histogram(layer.histogram) for layer in report.layers],
        raised=raised,
        toml=write_overrides(Override(advice.layer, bits=advice.bits) for advice in raised),
        kept=_kept([] if report.compilation is None else report.compilation.layers),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fqonnx.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "change": numerals.change,
        "found": lambda verdict: numerals.measure(found_text(verdict)),
        "kilobytes": numerals.kilobytes,
        "measure": numerals.measure,
        "megabytes": numerals.megabytes,
        "needed": lambda verdict: numerals.measure(needed_text(verdict)),
        "number": numerals.number,
        "option": _option,
        "percent": numerals.percent,
        "sort_key": numerals.sort_key,
    }
    return environment


def _pictures(layers: Sequence[LayerDiff]) -> list[str]:
    ranks = worst_layers(layers)
    return [depth_svg(layers, ranks, size, name) for name, size in _SIZES.items() if layers]


def _histogram(histogram: Histogram) -> dict[str, list[float | None]]:
    """Return a histogram for the script, its codes as shares."""
    codes = sum(histogram.level_counts) or 1
    return {
        "edges": [numerals.finite(edge) for edge in histogram.edges],
        "counts": [numerals.finite(count) for count in histogram.counts],
        "levels": [numerals.finite(level) for level in histogram.levels],
        "shares": [numerals.finite(count / codes) for count in histogram.level_counts],
    }


def _raised(advice: Sequence[Advice]) -> list[Advice]:
    """Return the layers that gain most, of those that would have 4 bits."""
    return [entry for entry in advice if entry.bits == _RAISED_BITS][:_RAISED_LAYERS]


def _kept(layers: Iterable[LayerReport]) -> list[tuple[str, list[LayerReport]]]:
    """Return the nodes that stayed float by the reason, the most frequent one first."""
    groups: dict[str, list[LayerReport]] = {}
    for layer in layers:
        if layer.status == "float":
            groups.setdefault(f"{layer.op_type}: {layer.reason}", []).append(layer)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _option(value: Any) -> str:
    """Return the value of an option as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_option(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_option, value)) or "none"
    return "none" if value is None else str(value)
