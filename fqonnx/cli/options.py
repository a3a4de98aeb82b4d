"""Options that several commands have."""

from __future__ import annotations

from typing import get_args

import click

from fqonnx.config import Sides

sides_option = click.option(
    "--sides",
    type=click.Choice(get_args(Sides)),
    help="Frame on the reduction axis (in), on the output axis, or on both "
    "[default: both for framequant, else in]",
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
    help="Samples on the first axis, named as the inputs; every eighth is held back to compare.",
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
