"""``fqonnx sweep``."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Column, Table

from fqonnx.calibrate.sample_files import data_files
from fqonnx.cli.console import print_status, print_warnings, track
from fqonnx.cli.options import (
    calibration_option,
    codebook_option,
    device_option,
    exclude_option,
    include_option,
    mask_input_option,
    seed_option,
    sequential_option,
    sides_option,
)
from fqonnx.cli.terminal import console, print_error
from fqonnx.config import METHODS, Codebook, CompileConfig, Sides
from fqonnx.errors import ConfigError, FqonnxError
from fqonnx.files import write_whole
from fqonnx.model_file import check_targets, load_model, model_files
from fqonnx.pipeline import compile_model
from fqonnx.plot import sweep_png
from fqonnx.report import CompileReport
from fqonnx.sweep import (
    SweepFolder,
    SweepGrid,
    SweepRow,
    first_output,
    pareto_front,
    run_sweep,
    sweep_identity,
)

_MOST_VALUES = 1000  # a range with more is a mistake of its step


def _redundancies(
    ctx: click.Context | None, param: click.Parameter | None, text: str
) -> tuple[float, ...]:
    """Parse START:STOP:STEP, a comma list or a number."""
    expected = f"{text!r}: expected START:STOP:STEP, as in 1.0:1.5:0.05, or numbers, as in 1,1.25"
    try:
        parts = [float(part) for part in text.replace(":", ",").split(",")]
    except ValueError:
        raise click.BadParameter(expected, ctx, param) from None
    if not all(map(math.isfinite, parts)):
        raise click.BadParameter(expected, ctx, param)
    if ":" not in text:
        return tuple(dict.fromkeys(parts))
    if "," in text or len(parts) != 3:
        raise click.BadParameter(expected, ctx, param)
    start, stop, step = parts
    if step <= 0 or stop < start:
        found = f"{text!r}: expected a STEP above 0 and a STOP that is not below START"
        raise click.BadParameter(found, ctx, param)
    steps = (stop - start) / step + 1e-6  # STOP counts though START + n·STEP may miss it by a hair
    if steps >= _MOST_VALUES:
        found = f"{text!r}: that is {steps:.3g} values, expected at most {_MOST_VALUES}"
        raise click.BadParameter(found, ctx, param)
    return tuple(min(round(start + i * step, 9), stop) for i in range(int(steps) + 1))


def _bits(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    """Parse a comma list of integers."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = f"{text!r}: expected whole numbers with commas between, as in 2,3"
        raise click.BadParameter(found, ctx, param) from None


def _methods(ctx: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
    """Parse a comma list of methods."""
    methods = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for method in methods:
        if method not in METHODS:
            found = f"{method!r}: expected some of {', '.join(METHODS)}, with commas between"
            raise click.BadParameter(found, ctx, param)
    return methods


@click.command("sweep")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where sweep.csv and sweep.png go [default: MODEL-sweep]",
)
@click.option(
    "--redundancy",
    "redundancies",
    default="1.0:1.5:0.125",
    show_default=True,
    metavar="START:STOP:STEP|LIST",
    callback=_redundancies,
    help="A range that includes STOP, or numbers with commas between.",
)
@click.option(
    "--bits", default="2", show_default=True, metavar="LIST", callback=_bits, help="1 to 4."
)
@click.option(
    "--method",
    "methods",
    default="auto",
    show_default=True,
    metavar="LIST",
    callback=_methods,
    help=f"{', '.join(METHODS)}; those without a frame have redundancy 1 only.",
)
@sides_option
@codebook_option
@sequential_option
@calibration_option
@include_option
@exclude_option
@mask_input_option
@seed_option
@device_option
def sweep_command(
    model: Path,
    output: Path | None,
    redundancies: tuple[float, ...],
    bits: tuple[int, ...],
    methods: tuple[str, ...],
    sides: Sides | None,
    codebook: Codebook | None,
    sequential: bool,
    calibration: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    mask_input: str | None,
    seed: int,
    device: str,
) -> None:
    """Compile MODEL with every method, number of bits and redundancy, and plot how good each is.

    Each point is compared with MODEL on held-back samples and stored in sweep.csv at once: after
    an interruption the same command goes on where it was, and another grid adds its points. The
    compiled models themselves are not kept.
    """
    config = CompileConfig(
        sides=sides,
        codebook=codebook,
        sequential=sequential,
        include=include,
        exclude=exclude,
        mask_input=mask_input,
        seed=seed,
        device=device,
    )
    grid = SweepGrid(methods, bits, redundancies)
    plan = grid.plan(config)
    files = model_files(model, load_model(model))
    identity = sweep_identity(files, calibration, config)
    folder = SweepFolder(output or model.parent / f"{model.stem}-sweep", identity)
    check_targets([folder.csv, folder.json, folder.png], [*files, *data_files(calibration)])
    if grid.frameless and redundancies != (1.0,):
        print_status(f"without a frame, at redundancy 1 only: {', '.join(grid.frameless)}")

    def count() -> str:
        return f"{len(folder.points & plan.keys())} of {len(plan)} points"

    def compile_point(point: CompileConfig, path: Path) -> CompileReport:
        report = compile_model(model, path, point, calibration=calibration, track=track)
        if sweep_identity(files, calibration, config) != identity:
            found = "the model or the data changed while the sweep was running"
            raise ConfigError(str(model), found, "Start a new sweep in another folder with -o")
        return report

    if folder.points & plan.keys():
        print_status(f"{count()} are there already")
    try:
        warnings = run_sweep(folder, plan, compile_point, print_status)
    except (FqonnxError, KeyboardInterrupt) as error:
        kept = f"{count()} are in {folder.csv}; the same command goes on from there"
        if isinstance(error, FqonnxError):
            if folder.rows:
                print_status(kept)
            raise
        print_error(f"interrupted; {kept if folder.rows else 'nothing was written'}")
        sys.exit(130)
    rows = first_output(folder.rows)
    write_whole(folder.png, sweep_png(rows, model.name), "Choose another folder with -o")
    _print_points(rows, model.name)
    console.print(f"{folder.csv}\n{folder.png}", markup=False, soft_wrap=True)
    print_warnings(warnings)


def _print_points(rows: list[SweepRow], model_name: str) -> None:
    """Print the points from the smallest to the largest."""
    right = functools.partial(Column, justify="right")
    table = Table(
        *("", Column("method", no_wrap=True), right("bits"), right("redundancy"), right("bits/w")),
        *(right("cosine"), right("SQNR")),
        title=f"{escape(model_name)}: output {escape(repr(rows[0].output))}",
        title_justify="left",
        caption="* no point with as few bits per weight has a better cosine",
        caption_justify="left",
    )
    front = pareto_front(rows)
    for row in sorted(rows, key=lambda row: (row.bits_per_weight, row.method)):
        table.add_row(
            "*" if row in front else "",
            row.method,
            str(row.bits),
            f"{row.redundancy:g}",
            f"{row.bits_per_weight:.3f}",
            f"{row.cosine:.4f}",
            f"{row.sqnr_db:.2f} dB",
        )
    console.print(table)
