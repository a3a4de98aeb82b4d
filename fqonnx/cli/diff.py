"""``fqonnx diff``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fqonnx.cli.console import check_writable, print_diff, print_warnings, track
from fqonnx.cli.options import (
    fail_over_option,
    fail_under_option,
    inputs_option,
    kind_option,
    labels_option,
    mask_input_option,
)
from fqonnx.diff import Kind, Threshold
from fqonnx.diff_models import diff_models
from fqonnx.files import write_whole
from fqonnx.html import to_html
from fqonnx.markdown import to_markdown
from fqonnx.model_file import check_targets
from fqonnx.model_pair import ModelPair, pair_files

_FILE = click.Path(path_type=Path)


@click.command("diff")
@click.argument("float_path", metavar="FLOAT", type=_FILE)
@click.argument("compiled_path", metavar="COMPILED", type=_FILE)
@inputs_option
@mask_input_option
@labels_option
@kind_option
@click.option("--json", "json_path", type=_FILE, help="Write the differences here.")
@click.option("--markdown", type=_FILE, help="Write a summary here.")
@click.option(
    "--report", "html_path", type=_FILE, metavar="FILE.html", help="Write a page of it all here."
)
@fail_under_option
@fail_over_option
def diff_command(
    float_path: Path,
    compiled_path: Path,
    inputs: str,
    mask_input: str | None,
    labels: Path | None,
    kinds: dict[str, Kind],
    json_path: Path | None,
    markdown: Path | None,
    html_path: Path | None,
    fail_under: list[Threshold],
    fail_over: list[Threshold],
) -> None:
    """Run FLOAT and COMPILED on the same inputs and measure how far apart they are."""
    written = [path for path in (json_path, markdown, html_path) if path is not None]
    for path in written:
        check_writable(path)
    data = [Path(inputs)] if labels is None else [Path(inputs), labels]
    check_targets(written, [*pair_files(float_path, compiled_path), *data])
    pair = ModelPair.load(
        float_path, compiled_path, inputs, labels=labels, kinds=kinds, mask_input=mask_input
    )
    report = diff_models(pair, [*fail_under, *fail_over], track)
    print_warnings(report.warnings)
    if json_path is not None:
        write_whole(json_path, report.to_json().encode(), "Choose another file")
    if markdown is not None:
        write_whole(markdown, to_markdown(report).encode(), "Choose another file")
    if html_path is not None:
        write_whole(html_path, to_html(report).encode(), "Choose another file")
    print_diff(report)
    if not all(verdict.met for verdict in report.verdicts):
        sys.exit(1)
