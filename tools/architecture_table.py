"""Quality of 2-bit methods on a dozen architectures: the page docs/architectures.md.

    python tools/architecture_table.py [--data FOLDER] [--only NAME ...] [--markdown FILE]

Half of the models are trained here, a minute each, on data that comes with scikit-learn and with
Python, and MiniLM comes from PyPI. The others are in the folder of --data; without it their rows
are left out. Delete the folder of --cache to make all models again.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from architectures.row import CALIBRATION, MODEL, Row, UnavailableError, judge
from architectures.rows import ROWS
from fqonnx import CompileConfig, CompileReport, compile_model
from fqonnx.errors import first_line

PAGE = """\
# Quality by architecture

What 2 bits cost a trained model, by method. All linear layers and convolutions of a model are
quantized that fqonnx finds, the head among them; embeddings stay float. Both files run in an
unmodified ONNX Runtime on the same samples, which calibration has not seen, nor training where it
is done here. A higher accuracy and a higher cosine are better, fewer nats a token are better. RTN
and GPTQ have a scale and a zero point for groups of 128; FrameQuant has frames on both sides. RTN
does not look at calibration data; all others get the same. The last three columns are what `auto`
at redundancy 1 quantizes and stores, the last row is the least and the most bits that a method
stores.

    make architectures DATA=FOLDER

FOLDER has a subfolder for each model that is neither trained here nor on PyPI, with the data that
judge it; without FOLDER their rows are left out.

"""
TIMED = "seconds.txt"  # written last: a row in the cache is whole if it is there


@dataclass(frozen=True)
class Column:
    """A method: its title, the options that are not defaults, and whether it sees data."""

    title: str
    options: Mapping[str, Any]
    calibrated: bool = True


AUTO = Column("`auto` 1.0", {})
COLUMNS = (
    Column("RTN", {"method": "rtn"}, calibrated=False),
    Column("GPTQ", {"method": "gptq"}),
    Column("FrameQuant 1.0", {"method": "framequant"}),
    AUTO,
    Column("FrameQuant 1.1", {"method": "framequant", "redundancy": 1.1}),
    Column("`auto` 1.25", {"redundancy": 1.25}),
)


@dataclass(frozen=True)
class Cell:
    """A compiled model: how good it is, and the report of it."""

    score: float
    report: CompileReport

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return self.report.model.bits_per_weight or float("nan")


@dataclass(frozen=True)
class Result:
    """A row with its figures, by column title; a column that failed has a line in `notes`."""

    row: Row
    seconds: float
    score: float
    cells: dict[str, Cell]
    notes: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of pretrained models and their data")
    parser.add_argument("--cache", type=Path, help="folder of the float models made here")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="NAME")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--markdown", type=Path, help="write the page here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cache = arguments.cache or Path(tempfile.gettempdir()) / "fqonnx-architectures"
    results, skipped = [], []
    print("\n".join(table_head()), flush=True)
    for row in ROWS:
        if arguments.only and row.name not in arguments.only:
            continue
        try:
            results.append(measure(row, cache / row.name, arguments.data))
        except UnavailableError as reason:
            skipped.append(f"{row.title}: {reason}")
            continue
        print(table_line(results[-1]), flush=True)
    text = page(results, skipped, arguments.threads)
    print(text.split("\n\n", 1)[1])
    if arguments.markdown is not None:
        arguments.markdown.write_text(PAGE + text, encoding="utf-8")


def measure(row: Row, folder: Path, data: Path | None) -> Result:
    """Make a row, or take it from the cache, and compile it in every way."""
    seconds = make(row, folder, data)
    cells, notes = {}, []
    for column in COLUMNS:
        try:
            cells[column.title] = compiled(row, folder, column)
        except Exception as error:  # a column that fails must not cost the others
            reason = first_line(error).replace(f"{folder}{os.sep}", "")
            notes.append(f"{row.title}, {column.title}: {reason}")
    return Result(row, seconds, judge(folder / MODEL, folder, row.metric), cells, tuple(notes))


def make(row: Row, folder: Path, data: Path | None) -> float:
    """Write the files of a row where the cache has none; return how long that took."""
    timed = folder / TIMED
    if not timed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        row.make(folder, data)
        timed.write_text(f"{time.perf_counter() - start:.0f}", encoding="utf-8")
    return float(timed.read_text(encoding="utf-8"))


def compiled(row: Row, folder: Path, column: Column) -> Cell:
    path = folder / "compiled.onnx"
    calibration = folder / CALIBRATION if column.calibrated else "none"
    config = CompileConfig(bits=2, **column.options)
    report = compile_model(folder / MODEL, path, config, calibration=calibration)
    return Cell(judge(path, folder, row.metric), report)


def page(results: Sequence[Result], skipped: Sequence[str], threads: int) -> str:
    """Return what the page says below its introduction."""
    versions = f"torch {version('torch')}, ONNX Runtime {version('onnxruntime')}"
    machine = f"{platform.machine()}, {threads} cores for torch, {versions}, "
    machine += f"{datetime.date.today()}:"
    notes = [note for result in results for note in result.notes]
    about = [f"- **{r.row.title}**: {r.row.about}. Made in {r.seconds:.0f} s." for r in results]
    lines = [machine, "", *table_head(), *map(table_line, results), bits_line(results)]
    for title, items in (("Failed", notes), ("Left out", skipped)):
        lines += [f"\n{title}:\n", *(f"- {item}" for item in items)] if items else []
    return "\n".join([*lines, "\n## The rows\n", *about]) + "\n"


def table_head() -> list[str]:
    titles = ["architecture", "metric", "float", *(column.title for column in COLUMNS)]
    titles += ["layers", "weights", "bits/weight"]
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def table_line(result: Result) -> str:
    show = result.row.metric.show
    columns = [result.cells.get(column.title) for column in COLUMNS]
    shown = [show(cell.score) if cell else "failed" for cell in columns]
    auto = result.cells.get(AUTO.title)
    stored = quantized(auto) if auto else ["", "", ""]
    cells = [result.row.title, result.row.metric.name, show(result.score), *shown, *stored]
    return f"| {' | '.join(cells)} |"


def quantized(cell: Cell) -> list[str]:
    """Return the layers and weights that were quantized, and their bits a weight."""
    layers = [layer for layer in cell.report.layers if layer.status == "quantized"]
    holders = [layer for layer in layers if layer.stored_bytes]  # some share a weight
    weights = sum((layer.dim_in or 0) * (layer.dim_out or 0) for layer in holders)
    return [str(len(layers)), f"{weights:,}", f"{cell.bits:.2f}"]


def bits_line(results: Sequence[Result]) -> str:
    """Return the last row: the range of bits a weight of each column."""
    cells = ["bits/weight", "", "32"]
    for column in COLUMNS:
        bits = sorted(r.cells[column.title].bits for r in results if column.title in r.cells)
        cells.append(f"{bits[0]:.2f} to {bits[-1]:.2f}" if bits else "")
    return f"| {' | '.join([*cells, '', '', ''])} |"


if __name__ == "__main__":
    main()
