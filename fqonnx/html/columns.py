"""The table of layers: what its columns are, and the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fqonnx.diff import LayerDiff
from fqonnx.diff_report import DiffReport
from fqonnx.html.numerals import kilobytes, number, percent
from fqonnx.report import LayerReport

_MARKED = 5  # layers that are called the worst


class _Layer(NamedTuple):
    place: int  # in graph order, from 1
    diff: LayerDiff
    compiled: LayerReport | None


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        title: Its head.
        note: What it holds.
        value: That of a layer, which it is sorted by; None where a layer has none.
        text: What is shown of a layer.
        hover: Whether the picture shows it for the layer under the pointer.
    """

    title: str
    note: str
    value: Callable[[_Layer], float | None]
    text: Callable[[_Layer], str]
    hover: bool = False


def _written(
    title: str,
    note: str,
    value: Callable[[_Layer], float | None],
    write: Callable[[float | None], str],
    hover: bool = False,
) -> Column:
    """Return a column that shows what it is sorted by."""
    return Column(title, note, value, lambda layer: write(value(layer)), hover)


WORST = _written(
    "alone",
    "Error of the model's outputs where this layer alone is compiled",
    lambda x: x.diff.model_rel_error,
    percent,
    hover=True,
)
_COLUMNS = (
    _written("#", "Place in graph order", lambda x: x.place, str),
    WORST,
    _written(
        "accumulated",
        "Error of the layer's output in the compiled model",
        lambda x: x.diff.accumulated_rel_error,
        percent,
        hover=True,
    ),
    _written(
        "local",
        "Error of the layer's output where it reads the float model's activations",
        lambda x: x.diff.local_rel_error,
        percent,
        hover=True,
    ),
    _written(
        "weight",
        "Error of the weight, ‖W − Ŵ‖/‖W‖",
        lambda x: x.diff.weight_rel_error,
        percent,
        hover=True,
    ),
    _written(
        "bound",
        "What the error of the weight can be at most, by the theory of the frame",
        lambda x: None if x.compiled is None else x.compiled.weight_rel_bound,
        percent,
    ),
    _written(
        "proxy loss",
        "Error of the weight in the calibration data's measure, tr((W − Ŵ)ᵀH(W − Ŵ))",
        lambda x: None if x.compiled is None else x.compiled.proxy_loss,
        number,
    ),
    _written("bits", "Bits a coefficient", lambda x: x.diff.bits, str, hover=True),
    Column(
        "in × out",
        "Rows and columns of the weight; sorted by their product",
        lambda x: x.diff.dim_in * x.diff.dim_out,
        lambda x: f"{x.diff.dim_in} × {x.diff.dim_out}",
        hover=True,
    ),
    _written(
        "redundancy", "Codes over weights", lambda x: x.diff.redundancy, lambda v: number(v, ".3f")
    ),
    Column(
        "float → stored, kB",
        "Bytes of the float weight; of codes, scales, zero points and signs, none where another "
        "layer holds them; sorted by the second",
        lambda x: x.diff.stored_bytes,
        lambda x: f"{kilobytes(x.diff.float_bytes)} → {kilobytes(x.diff.stored_bytes)}",
    ),
)


@dataclass(frozen=True)
class Cell:
    """A number in the table.

    Attributes:
        value: What it is sorted by.
        text: What is shown.
    """

    value: float | None
    text: str


@dataclass(frozen=True)
class Row:
    """A layer.

    Attributes:
        index: Its index in the report.
        name: Its name.
        frames: Kinds of its frames.
        rank: 1 for the worst layer of all; None for those that are not marked.
        cells: One for each column.
    """

    index: int
    name: str
    frames: str
    rank: int | None
    cells: list[Cell]


@dataclass(frozen=True)
class LayerTable:
    """All layers.

    Attributes:
        columns: Those that some layer has a value for.
        rows: The worst layer first.
    """

    columns: list[Column]
    rows: list[Row]


def worst_layers(layers: Sequence[LayerDiff]) -> dict[int, int]:
    """Return the rank of the worst layers by index: those that alone change the outputs most."""
    finite = [i for i, layer in enumerate(layers) if math.isfinite(layer.model_rel_error)]
    ordered = sorted(finite, key=lambda i: -layers[i].model_rel_error)[:_MARKED]
    return {index: rank for rank, index in enumerate(ordered, 1)}


def layer_table(report: DiffReport) -> LayerTable:
    """Return the table of a report's layers."""
    said = {} if report.compilation is None else {x.name: x for x in report.compilation.layers}
    layers = [_Layer(i, x, said.get(x.name)) for i, x in enumerate(report.layers, 1)]
    columns = [c for c in _COLUMNS if any(c.value(layer) is not None for layer in layers)]
    ranks = worst_layers(report.layers)
    rows = [
        Row(
            index=i,
            name=layer.diff.name,
            frames=", ".join(layer.diff.frames),
            rank=ranks.get(i),
            cells=[Cell(column.value(layer), column.text(layer)) for column in columns],
        )
        for i, layer in enumerate(layers)
    ]
    return LayerTable(columns, sorted(rows, key=lambda row: _badness(report.layers[row.index])))


def _badness(layer: LayerDiff) -> float:
    """Return what sorts the worst layer first and those that were not measured last."""
    return math.inf if math.isnan(layer.model_rel_error) else -layer.model_rel_error
