"""``fqonnx compile``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import click

from fqonnx.calibrate.sample_files import data_files
from fqonnx.cli.console import check_writable, print_compile_report, print_verdicts, track
from fqonnx.cli.options import (
    calibration_option,
    codebook_option,
    device_option,
    exclude_option,
    fail_over_option,
    fail_under_option,
    include_option,
    mask_input_option,
    seed_option,
    sequential_option,
    sides_option,
)
from fqonnx.config import METHODS, Codebook, CompileConfig, Lowering, Sides, Target
from fqonnx.dask_executor import DaskExecutor
from fqonnx.diff import Threshold, judge
from fqonnx.diff_models import diff_models
from fqonnx.errors import ConfigError
from fqonnx.executor import LocalExecutor
from fqonnx.files import write_whole
from fqonnx.html import to_html
from fqonnx.model_file import check_targets, load_model, model_files
from fqonnx.model_pair import ModelPair
from fqonnx.overrides import load_overrides
from fqonnx.pipeline import compile_model
from fqonnx.written_model import output_files

_FILE = click.Path(path_type=Path)


@click.command("compile")
@click.argument("model", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="Compiled model [default: MODEL-<bits>bit.onnx]")
@click.option("--bits", type=int, default=2, show_default=True, help="Bits a coefficient, 1 to 4.")
@click.option(
    "--target-bits",
    type=float,
    help="Choose bits and redundancy of each layer, so that a weight takes this many stored bits.",
)
@click.option(
    "--redundancy",
    type=float,
    help="Frame vectors per dimension, a side: more costs bytes and buys accuracy "
    "[default: 3 for sigma-delta, else 1]",
)
@click.option(
    "--method",
    type=click.Choice(sorted(METHODS)),
    default="auto",
    show_default=True,
    help="auto: Hadamard frame and LDLQ; framequant: as in arXiv 2403.06082; sigma-delta: as in "
    "arXiv 2404.08131, without data and with error bounds; gptq and rtn: no frame, groups of 128, "
    "to compare with.",
)
@sides_option
@codebook_option
@click.option("--order", type=int, default=1, show_default=True, help="Of Sigma-Delta: 1 or 2.")
@click.option("--quantize-bias", is_flag=True, help="Quantize the biases of the layers too.")
@click.option(
    "--requantize",
    is_flag=True,
    help="Quantize weights of integers behind a DequantizeLinear too.",
)
@sequential_option
@calibration_option
@include_option
@exclude_option
@click.option(
    "--config",
    "config_path",
    type=_FILE,
    metavar="FILE.toml",
    help='Layers with options of their own: a table ["GLOB"] with bits or redundancy for each.',
)
@click.option(
    "--lowering",
    type=click.Choice(get_args(Lowering)),
    help="fused: FrameMatMul with a fast body for ORT; stock: its plain nodes; onnx: an exact body "
    "of ONNX standard operators only [default: onnx for sigma-delta, else fused]",
)
@click.option(
    "--target",
    type=click.Choice(get_args(Target)),
    help="What the file is for, which codebook and lowering have to suit: ONNX Runtime with the "
    "library of operators, or without [default: ort-fqonnx for fused, else ort-stock]",
)
@mask_input_option
@fail_under_option
@fail_over_option
@click.option(
    "--auto", is_flag=True, help="Choose the fewest bits, layer by layer, that meet the thresholds."
)
@click.option("--json", "json_path", type=_FILE, help="Write the report here.")
@click.option(
    "--report", "html_path", type=_FILE, metavar="FILE.html", help="Write a page of `diff` here."
)
@seed_option
@device_option
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Weights that are quantized at a time, memory permitting; the result is the same "
    "[default: one a core]",
)
@click.option(
    "--executor",
    "cluster",
    metavar="dask://HOST:PORT",
    help="Quantize on a cluster: the address of its scheduler, with fqonnx[dask] on all machines.",
)
def compile_command(
    model: Path,
    output: Path | None,
    bits: int,
    target_bits: float | None,
    redundancy: float | None,
    method: str,
    sides: Sides | None,
    codebook: Codebook | None,
    order: int,
    quantize_bias: bool,
    requantize: bool,
    sequential: bool,
    calibration: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    config_path: Path | None,
    lowering: Lowering | None,
    target: Target | None,
    mask_input: str | None,
    fail_under: list[Threshold],
    fail_over: list[Threshold],
    auto: bool,
    json_path: Path | None,
    html_path: Path | None,
    seed: int,
    device: str,
    workers: int | None,
    cluster: str | None,
) -> None:
    """Quantize MODEL's linear and convolutional layers and compare the result with MODEL."""
    output = output or model.parent / f"{model.stem}-{target_bits or bits:g}bit.onnx"
    thresholds = [*fail_under, *fail_over]
    if auto and not thresholds:
        raise ConfigError("--auto", "there is no threshold to meet", "Add --fail-under cosine=0.95")
    if auto and target_bits is not None:
        raise ConfigError("--auto", "it chooses what --target-bits gives", "Leave one of them out")
    if cluster is not None and workers is not None:
        raise ConfigError("--workers", "the cluster has its own", "Leave one of them out")
    executor = LocalExecutor(workers) if cluster is None else DaskExecutor(cluster)
    written = [path for path in (json_path, html_path) if path is not None]
    for path in written:
        check_writable(path)
    read = [*data_files(calibration), *([] if config_path is None else [config_path])]
    if written:
        read += model_files(model, load_model(model))
    check_targets([*output_files(output), *written], read)
    config = CompileConfig(
        bits=bits,
        target_bits=target_bits,
        redundancy=redundancy,
        method=method,
        sides=sides,
        codebook=codebook,
        order=order,
        quantize_bias=quantize_bias,
        requantize=requantize,
        sequential=sequential,
        include=include,
        exclude=exclude,
        overrides=() if config_path is None else load_overrides(config_path),
        lowering=lowering,
        target=target,
        mask_input=mask_input,
        seed=seed,
        device=device,
    )
    meet = thresholds if auto else ()
    report = compile_model(
        model,
        output,
        config,
        calibration=calibration,
        meet=meet,
        executor=executor,
        track=track,
    )
    verdicts = judge(report.outputs, thresholds)
    try:
        if json_path is not None:
            write_whole(json_path, report.to_json().encode(), "Choose another file")
        print_compile_report(report, output)
        print_verdicts(verdicts)
        if html_path is not None:
            compared = "synthetic" if calibration == "none" else calibration
            pair = ModelPair.load(model, output, compared, part="held-back", mask_input=mask_input)
            page = to_html(diff_models(pair, thresholds, track))
            write_whole(html_path, page.encode(), "Choose another file")
    except BaseException as error:
        error.add_note(f"{output} is written; not all reports of it are")
        raise
    if not all(verdict.met for verdict in verdicts):
        sys.exit(1)
