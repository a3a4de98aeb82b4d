"""``fqonnx bisect``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from fqonnx.bisect_models import BisectReport, bisect_models
from fqonnx.cli.console import megabytes, print_verdicts, track
from fqonnx.cli.pair import FILE, load_pair, pair_options
from fqonnx.cli.terminal import console
from fqonnx.diff import Kind, Threshold
from fqonnx.extract_layer import check_folder, extract_layer
from fqonnx.files import write_whole

_SHOWN = 10  # layers, those that are restored and the worst of the others


@click.command("bisect")
@pair_options
@click.option("--json", "json_path", type=FILE, help="Write all layers and their errors here.")
@click.option(
    "--extract",
    type=FILE,
    metavar="FOLDER",
    help="Write the worst layer here, float and compiled, as models with inputs.",
)
def bisect_command(
    float_path: Path,
    compiled_path: Path,
    inputs: str,
    mask_input: str | None,
    labels: Path | None,
    kinds: dict[str, Kind],
    fail_under: list[Threshold],
    fail_over: list[Threshold],
    json_path: Path | None,
    extract: Path | None,
) -> None:
    """Find the fewest layers of COMPILED that must stay float to meet the thresholds."""
    if extract is not None:
        check_folder(extract)
    pair = load_pair(
        float_path,
        compiled_path,
        inputs,
        mask_input=mask_input,
        labels=labels,
        kinds=kinds,
        written=[] if json_path is None else [json_path],
    )
    report = bisect_models(pair, [*fail_under, *fail_over], track)
    if json_path is not None:
        write_whole(json_path, report.to_json().encode(), "Choose another file")
    if extract is not None:
        worst = next(x for x in pair.layers if x.source.name == report.layers[0].name)
        extract_layer(pair, worst, extract)
    _print(report)
    if extract is not None:
        folder = shlex.quote(str(extract))
        console.print(
            f"the worst layer alone: fqonnx diff {escape(folder)}/float.onnx "
            f"{escape(folder)}/compiled.onnx --inputs {escape(folder)}/inputs",
            soft_wrap=True,
        )


def _print(report: BisectReport) -> None:
    restored = report.restored
    others = [layer for layer in report.layers if not layer.restored]
    table = Table(title=f"{len(restored)} of {len(report.layers)} layers must stay float")
    table.add_column("layer", overflow="fold")
    for head in ("outputs' error by it alone", "more bytes", ""):
        table.add_column(head, justify="right")
    shown = [layer for layer in report.layers if layer.restored]
    for layer in [*shown, *others[: max(0, _SHOWN - len(shown))]]:
        table.add_row(
            escape(layer.name),
            f"{layer.model_rel_error:.2%}",
            megabytes(layer.added_bytes),
            "[bold]float[/]" if layer.restored else "",
        )
    console.print(table)
    print_verdicts(report.verdicts)
    if restored:
        options = " ".join(f"--exclude {shlex.quote(name)}" for name in restored)
        console.print(f"compile again with {escape(options)}", soft_wrap=True)
    else:
        console.print("the compiled model meets the thresholds as it is")
