"""What the commands show: progress, tables and warnings."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from fqonnx.cli.terminal import console, stderr
from fqonnx.diff import OutputDiff, Verdict
from fqonnx.diff.rows import LAYER_HEAD, advice_line, layer_rows, rows, split_line
from fqonnx.diff_report import DiffReport
from fqonnx.errors import ConfigError
from fqonnx.markdown import verdict_line
from fqonnx.progress import Item
from fqonnx.report import CompileReport, LayerReport, OutputBound


def track(items: Sequence[Item], description: str, /) -> Iterable[Item]:
    """Show a progress bar on stderr while the items are worked on; it goes when they are done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(
        *columns, console=stderr, transient=True, disable=not stderr.is_terminal
    ) as progress:
        yield from progress.track(items, description=description)


def print_status(message: str) -> None:
    """Print on stderr how far the work has come."""
    stderr.print(escape(message), soft_wrap=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print each warning as a line on stderr."""
    for warning in warnings:
        stderr.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


def check_writable(path: Path) -> None:
    """Refuse a report that could not be written, before hours are spent on what it says.

    Raises:
        ConfigError: Its folder is not there (`check_targets` finds a path that is one).
    """
    if not path.parent.is_dir():
        found = f"cannot be written: there is no folder {path.parent}"
        raise ConfigError(str(path), found, "Choose another file")


def print_compile_report(report: CompileReport, output_path: Path) -> None:
    """Print what became of each layer, the one table that ends a compilation, what stayed float."""
    model = report.model
    quantized = [layer for layer in report.layers if layer.status == "quantized"]
    if quantized:
        console.print(_layer_table(quantized))
    table = Table(title=f"{escape(str(output_path))}", title_justify="left")
    table.add_column("")
    table.add_column("float", justify="right")
    table.add_column("compiled", justify="right")
    table.add_row("file", megabytes(model.float_bytes), megabytes(model.compiled_bytes))
    if model.bits_per_weight is not None:
        weights = sum((layer.dim_in or 0) * (layer.dim_out or 0) for layer in quantized)
        stored = sum(layer.stored_bytes or 0 for layer in quantized)
        table.add_row(
            f"{len(quantized)} layers of {weights / 1e6:.2f} M weights",
            megabytes(sum(layer.float_bytes or 0 for layer in quantized)),
            megabytes(stored),
        )
        asked = quantized[0].redundancy_asked
        table.add_row(f"redundancy a side, {asked:g} asked for", "", _sides(quantized))
        table.add_row("redundancy stored", "", f"{model.redundancy_stored:.3f}")
        table.add_row("bits of codes a weight", "", f"{model.code_bits_per_weight:.3f}")
        table.add_row("bits per weight in all", "", f"{model.bits_per_weight:.3f}")
    table.add_section()
    for output in report.outputs:
        _add_output(table, output)
    if any(bound.bound is not None for bound in report.bounds):
        table.add_section()
        for bound in report.bounds:
            _add_bound(table, bound)
    console.print(table)
    _print_unbounded(report.bounds)
    data = report.calibration
    console.print(
        f"calibrated on {data.num_samples or 'no'} samples ({data.source}), compared on "
        f"{data.num_compared} ({data.compared_on}), {report.timing['total_s']:.1f} s"
    )
    print_kept(report.layers)
    print_warnings(report.warnings)


def _print_unbounded(bounds: Sequence[OutputBound]) -> None:
    """Print why outputs have no bound, one line a reason."""
    names: dict[str, list[str]] = {}
    for bound in bounds:
        if bound.reason is not None:
            names.setdefault(bound.reason, []).append(bound.name)
    for reason, (first, *others) in names.items():
        which = f"{first} and {len(others)} other outputs" if others else first
        console.print(f"[dim]no bound for {escape(which)}:[/] {escape(reason)}", soft_wrap=True)


def _layer_table(layers: Sequence[LayerReport]) -> Table:
    right = functools.partial(Column, justify="right", no_wrap=True)
    columns = ["in × out", "stored", "bits/w", "error", "proxy loss"]
    caption = "stored: codes a weight; error: of the output, on calibration samples"
    bounded = any(layer.weight_rel_bound is not None for layer in layers)
    if bounded:
        columns[3:] = ["error", "bound", "state"]
        caption = (
            "stored: codes a weight; error: of the weight, and what it can be at most; state: "
        )
        caption += "the largest of Sigma-Delta, in steps"
    table = Table(Column("layer", no_wrap=True), *map(right, columns))
    table.caption = caption
    table.caption_justify = "left"
    # what the other columns leave
    longest = max(18, console.width - (62 if bounded else 57))
    for layer in layers:
        table.add_row(
            escape(_end(layer.name, longest)),
            f"{layer.dim_in} × {layer.dim_out}",
            f"{layer.redundancy_stored:.3f}",
            f"{layer.bits_per_weight:.3f}",
            *(_bounded_cells(layer) if bounded else _measured_cells(layer)),
        )
    return table


def _measured_cells(layer: LayerReport) -> list[str]:
    return [
        "" if layer.output_rel_error is None else f"{layer.output_rel_error:.1%}",
        "" if layer.proxy_loss is None else f"{layer.proxy_loss:.4g}",
    ]


def _bounded_cells(layer: LayerReport) -> list[str]:
    values = (layer.weight_rel_error, layer.weight_rel_bound, layer.largest_state)
    formats = (".1%", ".1%", ".3f")
    return ["" if v is None else f"{v:{f}}" for v, f in zip(values, formats, strict=True)]


def _end(name: str, longest: int) -> str:
    """Return the end of a name: that of a module path says more than its beginning."""
    return name if len(name) <= longest else "…" + name[1 - longest :]


def _sides(layers: Sequence[LayerReport]) -> str:
    """Return the redundancy of the frames, or its range."""
    frames = [
        redundancy
        for layer in layers
        for kind, redundancy in (
            (layer.frame_in, layer.redundancy_in),
            (layer.frame_out, layer.redundancy_out),
        )
        if kind != "identity" and redundancy is not None
    ]
    found = sorted({f"{redundancy:.3f}" for redundancy in frames or [1.0]})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def print_diff(report: DiffReport) -> None:
    """Print the differences of two models, and the verdicts last, where the eye is."""
    table = Table()
    table.add_column("")
    for head in ("float", "compiled", *(["noise floor"] if report.noise else [])):
        table.add_column(head, justify="right")
    sizes = report.model.float_bytes, report.model.compiled_bytes
    table.add_row("file", *map(megabytes, sizes))
    noise = {output.name: output for output in report.noise}
    for output in report.outputs:
        table.add_section()
        table.add_row(f"[bold]{escape(output.name)}[/] ({output.kind})")
        for row in rows(output, noise.get(output.name)):
            table.add_row(f"  {row.title}", row.float_value, row.compiled, row.noise)
    if report.noise:
        table.caption = "noise floor: the float model in float16 against itself"
    console.print(table)
    if report.split is not None:
        for weights, kernels in zip(report.split.algorithm, report.split.kernel, strict=True):
            console.print(escape(split_line(weights.name, weights, kernels)), soft_wrap=True)
    if report.layers:
        worst = Table(Column(LAYER_HEAD[0], no_wrap=True))
        for head in LAYER_HEAD[1:]:
            worst.add_column(head, justify="right")
        for name, *cells in layer_rows(report.layers):
            worst.add_row(escape(_end(name, 36)), *cells)
        worst.caption = (
            "relative errors: of the weight, of its outputs on float inputs, in the model"
        )
        console.print(worst)
    for advice in report.advice[:3]:
        console.print(escape(advice_line(advice)), soft_wrap=True)
    print_verdicts(report.verdicts)


def print_verdicts(verdicts: Iterable[Verdict]) -> None:
    """Print whether thresholds are met, a line each."""
    for verdict in verdicts:
        color = "green" if verdict.met else "red"
        console.print(f"[{color}]{escape(verdict_line(verdict))}[/]", soft_wrap=True)


def print_kept(layers: Iterable[LayerReport]) -> None:
    """Print why nodes stayed float, one line a reason."""
    reasons = Counter(f"{x.op_type}: {x.reason}" for x in layers if x.status == "float")
    for reason, count in reasons.most_common():
        console.print(f"[dim]{count:4d} × float[/]  {escape(reason)}", soft_wrap=True)


def megabytes(count: int) -> str:
    """Return bytes as MB, or kB where there is less than one."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _add_output(table: Table, output: OutputDiff) -> None:
    for row in rows(output):
        table.add_row(f"{escape(output.name)}: {row.title}", row.float_value, row.compiled)


def _add_bound(table: Table, bound: OutputBound) -> None:
    if bound.bound is None:
        return
    name = escape(bound.name)
    table.add_row(f"{name}: largest error ‖y − ŷ‖", "", f"{bound.error:.4g}")
    table.add_row("  bound by the weights' norms", "", f"{bound.bound:.4g}")
    if bound.bound_by_frame is not None:
        table.add_row("  bound by the frame's theory", "", f"{bound.bound_by_frame:.4g}")
