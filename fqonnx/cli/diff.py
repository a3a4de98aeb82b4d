"""``fqonnx diff``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from fqonnx.calibrate import find_mask_input, load_samples, synthetic_samples
from fqonnx.cli.console import check_writable, console, print_diff, track
from fqonnx.diff import compare_models
from fqonnx.diff.metrics import THRESHOLD_METRICS
from fqonnx.model_file import check_targets, file_bytes, load_model, model_files, write_whole
from fqonnx.report import collect_versions, to_json
from fqonnx.session import Session

_FILE = click.Path(path_type=Path)


def _thresholds(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, float]]:
    """Parse METRIC=VALUE."""
    parsed = []
    for value in values:
        metric, _, number = value.partition("=")
        if metric not in THRESHOLD_METRICS:
            known = ", ".join(THRESHOLD_METRICS)
            raise click.BadParameter(f"{value!r}: the metric is one of {known}", ctx, param)
        try:
            parsed.append((metric, float(number)))
        except ValueError:
            found = f"{value!r}: expected a number, as in cosine=0.9"
            raise click.BadParameter(found, ctx, param) from None
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
@click.option("--json", "json_path", type=_FILE, help="Write the differences here.")
@click.option(
    "--fail-under",
    multiple=True,
    metavar="METRIC=VALUE",
    callback=_thresholds,
    help="Exit with 1 if an output is below: cosine=0.9 or sqnr_db=10. May be repeated.",
)
def diff_command(
    float_path: Path,
    compiled_path: Path,
    inputs: str,
    mask_input: str | None,
    json_path: Path | None,
    fail_under: list[tuple[str, float]],
) -> None:
    """Run FLOAT and COMPILED on the same inputs and measure how far apart they are."""
    float_model, compiled_model = load_model(float_path), load_model(compiled_path)
    if json_path is not None:
        check_writable(json_path)
        sources = [*model_files(float_path, float_model), Path(inputs)]
        sources += model_files(compiled_path, compiled_model)
        check_targets([json_path], sources)
    expected = Session(float_path, str(float_path))
    actual = Session(compiled_path, str(compiled_path))
    if inputs == "synthetic":
        samples = synthetic_samples(float_model, expected.inputs, num_samples=32)
    else:
        samples = load_samples(Path(inputs), expected.inputs)
    outputs = compare_models(
        expected,
        actual,
        samples.feeds,
        compiled_path=compiled_path,
        mask_input=find_mask_input(expected.inputs, mask_input),
        track=track,
    )
    missed = [
        {
            "output": output.name,
            "metric": metric,
            "threshold": threshold,
            "found": getattr(output, metric),
        }
        for metric, threshold in fail_under
        for output in outputs
        if output.misses(metric, threshold)
    ]
    sizes = file_bytes(float_path), file_bytes(compiled_path)
    if json_path is not None:
        content = {
            "model": {"float_bytes": sizes[0], "compiled_bytes": sizes[1]},
            "outputs": [dataclasses.asdict(output) for output in outputs],
            "missed": missed,
            "samples": {
                "source": samples.source,
                "num_samples": samples.num_samples,
                "digest": samples.digest,
            },
            "versions": collect_versions(),
        }
        write_whole(json_path, to_json(content).encode(), "Choose another file")
    print_diff(outputs, *sizes)
    for miss in missed:
        console.print(
            f"[red]missed:[/] {miss['output']}: {miss['metric']} is {miss['found']:.4f}, "
            f"the threshold is {miss['threshold']}"
        )
    if missed:
        sys.exit(1)
