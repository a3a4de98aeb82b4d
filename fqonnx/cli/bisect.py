"""``fqonnx bisect``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from fqonnx.bisect_models import BisectReport, bisect_models
from fqonnx.cli.console import check_writable, megabytes, print_verdicts, track
from fqonnx.cli.options import (
    fail_over_option,
    fail_under_option,
    inputs_option,
    kind_option,
    labels_option,
    mask_input_option,
)
from fqonnx.cli.terminal import console
from fqonnx.diff import Kind, Threshold
from fqonnx.extract_layer import extract_layer
from fqonnx.files import write_whole
from fqonnx.model_file import check_targets
from fqonnx.model_pair import ModelPair, pair_files

_FILE = click.Path(path_type=Path)
_SHOWN = 10  # layers, those that are restored and the worst of the others


@click.command("bisect")
@click.argument("float_path", metavar="FLOAT", type=_FILE)
@click.argument("compiled_path", metavar="COMPILED", type=_FILE)
@inputs_option
@mask_input_option
@labels_option
@kind_option
@fail_under_option
@fail_over_option
@click.option("--json", "json_path", type=_FILE, help="Write all layers and their errors here.")
@click.option(
    "--extract",
    type=_FILE,
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
    if json_path is not None:
        check_writable(json_path)
        data = [Path(inputs)] if labels is None else [Path(inputs), labels]
        check_targets([json_path], [*pair_files(float_path, compiled_path), *data])
    pair = ModelPair.load(
        float_path, compiled_path, inputs, labels=labels, kinds=kinds, mask_input=mask_input
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
