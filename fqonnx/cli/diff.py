"""``fqonnx diff``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast, get_args

import click

from fqonnx.cli.console import check_writable, print_diff, print_warnings, track
from fqonnx.diff import (
    CEILINGS,
    FLOORS,
    Kind,
    Threshold,
)
from fqonnx.diff_models import diff_models
from fqonnx.markdown import to_markdown
from fqonnx.model_file import (
    check_targets,
    load_model,
    model_files,
    write_whole,
)

_FILE = click.Path(path_type=Path)


def _thresholds(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[Threshold]:
    """Parse METRIC=VALUE."""
    known = FLOORS if param.name == "fail_under" else CEILINGS
    parsed = []
    for value in values:
        metric, _, number = value.partition("=")
        if metric not in known:
            found = f"{value!r}: the metric is one of {', '.join(known)}"
            raise click.BadParameter(found, ctx, param)
        try:
            parsed.append(Threshold(metric, float(number)))
        except ValueError:
            found = f"{value!r}: expected a number, as in {metric}=0.9"
            raise click.BadParameter(found, ctx, param) from None
    return parsed


def _kinds(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Kind]:
    """Parse OUTPUT=KIND."""
    parsed: dict[str, Kind] = {}
    for value in values:
        name, _, kind = value.rpartition("=")
        if not name or kind not in get_args(Kind):
            found = f"{value!r}: expected OUTPUT=KIND, the kind one of {', '.join(get_args(Kind))}"
            raise click.BadParameter(found, ctx, param)
        parsed[name] = cast(Kind, kind)
    return parsed


def _files(path: Path) -> list[Path]:
    return model_files(path, load_model(path))


@click.command("diff")
@click.argument("float_path", metavar="FLOAT", type=_FILE)
@click.argument("compiled_path", metavar="COMPILED", type=_FILE)
@click.option(
    "--inputs",
    required=True,
    metavar="FILE.npz|DIR|synthetic",
    help="Samples named as the inputs, first axis samples; or a folder of batches.",
)
@click.option("--mask-input", metavar="NAME", help="Input whose zeros mark padding.")
@click.option("--labels", type=_FILE, metavar="FILE.npy", help="The right class of each sample.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="OUTPUT=KIND",
    callback=_kinds,
    help="What an output is, where that is not found: numbers, classes or tokens.",
)
@click.option("--json", "json_path", type=_FILE, help="Write the differences here.")
@click.option("--markdown", type=_FILE, help="Write a summary here.")
@click.option(
    "--fail-under",
    multiple=True,
    metavar="METRIC=VALUE",
    callback=_thresholds,
    help=f"Exit with 1 if an output is below: {', '.join(FLOORS)}. May be repeated.",
)
@click.option(
    "--fail-over",
    multiple=True,
    metavar="METRIC=VALUE",
    callback=_thresholds,
    help=f"Exit with 1 if an output is above: {', '.join(CEILINGS)}.",
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
    fail_under: list[Threshold],
    fail_over: list[Threshold],
) -> None:
    """Run FLOAT and COMPILED on the same inputs and measure how far apart they are."""
    written = [path for path in (json_path, markdown) if path is not None]
    for path in written:
        check_writable(path)
    models = [file for path in (float_path, compiled_path) for file in _files(path)]
    check_targets(written, [*models, Path(inputs), *([] if labels is None else [labels])])
    report = diff_models(
        float_path,
        compiled_path,
        inputs,
        labels=labels,
        thresholds=[*fail_under, *fail_over],
        kinds=kinds,
        mask_input=mask_input,
        track=track,
    )
    print_warnings(report.warnings)
    if json_path is not None:
        write_whole(json_path, report.to_json().encode(), "Choose another file")
    if markdown is not None:
        write_whole(markdown, to_markdown(report).encode(), "Choose another file")
    print_diff(report)
    if not all(verdict.met for verdict in report.verdicts):
        sys.exit(1)
