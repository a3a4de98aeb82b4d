"""Options that several commands have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast, get_args

import click

from fqonnx.config import Codebook, Sides
from fqonnx.diff import CEILINGS, FLOORS, Kind, Threshold


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
            parsed.append(Threshold(metric, _finite(number)))
        except ValueError:
            found = f"{value!r}: expected a number, as in {metric}=0.9"
            raise click.BadParameter(found, ctx, param) from None
    return parsed


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


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


sides_option = click.option(
    "--sides",
    type=click.Choice(get_args(Sides)),
    help="Frame on the reduction axis (in), on the output axis, or on both "
    "[default: both for framequant, else in]",
)
codebook_option = click.option(
    "--codebook",
    type=click.Choice(get_args(Codebook)),
    help="scalar: a code is a level; trellis: a level follows from several codes, with 40% less "
    "error at the same bits, for the library of operators [default: trellis for auto at 3 bits or "
    "less where --target is ort-fqonnx, else scalar; scalar too at 1 bit from redundancy 2 on, and "
    "without calibration from 3 on]",
)
sequential_option = click.option(
    "--sequential",
    is_flag=True,
    help="Calibrate each layer behind quantized ones; takes a calibration run for each depth.",
)
calibration_option = click.option(
    "--calibration",
    default="synthetic",
    show_default=True,
    metavar="FILE.npz|DIR|synthetic|none",
    help="Samples named as the inputs, first axis samples; or a folder of batches, .npz files or "
    "ONNX's test_data_set_*. Every eighth is held back to compare.",
)
include_option = click.option(
    "--include", multiple=True, metavar="GLOB", help="Quantize only these layers."
)
exclude_option = click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Keep these layers float."
)
mask_input_option = click.option(
    "--mask-input", metavar="NAME", help="Input whose zeros mark padding."
)
device_option = click.option(
    "--device", default="cpu", show_default=True, help="Torch device of the numerics."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)
inputs_option = click.option(
    "--inputs",
    required=True,
    metavar="FILE.npz|DIR|synthetic",
    help="Samples named as the inputs, first axis samples; or a folder of batches, .npz files or "
    "ONNX's test_data_set_*.",
)
labels_option = click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    help="The right class of each sample.",
)
kind_option = click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="OUTPUT=KIND",
    callback=_kinds,
    help="What an output is, where that is not found: numbers, classes or tokens.",
)
fail_under_option = click.option(
    "--fail-under",
    multiple=True,
    metavar="METRIC=VALUE",
    callback=_thresholds,
    help=f"Exit with 1 if an output is below: {', '.join(FLOORS)}. May be repeated.",
)
fail_over_option = click.option(
    "--fail-over",
    multiple=True,
    metavar="METRIC=VALUE",
    callback=_thresholds,
    help=f"Exit with 1 if an output is above: {', '.join(CEILINGS)}.",
)
