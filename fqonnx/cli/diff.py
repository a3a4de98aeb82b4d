"""``fqonnx diff``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fqonnx.cli.console import print_diff, print_warnings, track
from fqonnx.cli.pair import FILE, load_pair, pair_options
from fqonnx.diff import Kind, Threshold
from fqonnx.diff_models import diff_models
from fqonnx.files import write_whole
from fqonnx.html import to_html
from fqonnx.markdown import to_markdown


@click.command("diff")
@pair_options
@click.option("--json", "json_path", type=FILE, help="Write the differences here.")
@click.option("--markdown", type=FILE, help="Write a summary here.")
@click.option(
    "--report", "html_path", type=FILE, metavar="FILE.html", help="Write a page of it all here."
)
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
    pair = load_pair(
        float_path,
        compiled_path,
        inputs,
        mask_input=mask_input,
        labels=labels,
        kinds=kinds,
        written=written,
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
