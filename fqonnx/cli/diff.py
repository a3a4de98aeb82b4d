"""``fqonnx diff``."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import cast, get_args

import click

from fqonnx.calibrate import find_mask_input, load_labels, load_samples, synthetic_samples
from fqonnx.cli.console import check_writable, print_diff, print_warnings, track
from fqonnx.diff import (
    CEILINGS,
    FLOORS,
    Kind,
    OutputDiff,
    Threshold,
    compare_models,
    half_precision_session,
    judge,
    output_kinds,
)
from fqonnx.diff_report import DiffReport, SamplesReport
from fqonnx.errors import ModelError
from fqonnx.html import to_html
from fqonnx.markdown import to_markdown
from fqonnx.model_file import (
    check_targets,
    file_bytes,
    load_model,
    model_files,
    sha256,
    write_whole,
)
from fqonnx.report import ModelReport, collect_versions
from fqonnx.session import Session

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
    "--report", "html_path", type=_FILE, metavar="FILE.html", help="Write a page of it all here."
)
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
    html_path: Path | None,
    fail_under: list[Threshold],
    fail_over: list[Threshold],
) -> None:
    """Run FLOAT and COMPILED on the same inputs and measure how far apart they are."""
    float_model, compiled_model = load_model(float_path), load_model(compiled_path)
    written = [path for path in (json_path, markdown, html_path) if path is not None]
    for path in written:
        check_writable(path)
    sources = [*model_files(float_path, float_model), *model_files(compiled_path, compiled_model)]
    data = [Path(inputs)] if labels is None else [Path(inputs), labels]
    check_targets(written, [*sources, *data])
    expected = Session(float_path, str(float_path))
    if inputs == "synthetic":
        samples = synthetic_samples(float_model, expected.inputs, num_samples=32)
    else:
        samples = load_samples(Path(inputs), expected.inputs)
    compare = functools.partial(
        compare_models,
        expected,
        feeds=samples.feeds,
        kinds=output_kinds(float_model, kinds),
        labels=None if labels is None else load_labels(labels, samples.num_samples),
        mask_input=find_mask_input(expected.inputs, mask_input),
        track=track,
    )
    outputs = compare(Session(compiled_path, str(compiled_path)), compiled_path=compiled_path)
    verdicts = judge(outputs, [*fail_under, *fail_over])
    noise: list[OutputDiff] = []
    try:
        noise = compare(half_precision_session(float_path), compiled_path=float_path)
    except ModelError as error:
        print_warnings([f"no noise floor: {error.found}"])
    report = DiffReport(
        model=ModelReport(file_bytes(float_path), file_bytes(compiled_path)),
        outputs=outputs,
        noise=noise,
        verdicts=verdicts,
        samples=SamplesReport(samples.source, samples.num_samples, samples.digest),
        files={str(file): sha256(file) for file in sources},
        versions=collect_versions(),
    )
    if json_path is not None:
        write_whole(json_path, report.to_json().encode(), "Choose another file")
    if markdown is not None:
        write_whole(markdown, to_markdown(report).encode(), "Choose another file")
    if html_path is not None:
        write_whole(html_path, to_html(report).encode(), "Choose another file")
    print_diff(report)
    if not all(verdict.met for verdict in verdicts):
        sys.exit(1)
