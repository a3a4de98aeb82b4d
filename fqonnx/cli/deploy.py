"""``fqonnx deploy``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import get_args

import click
from rich.markup import escape

from fqonnx.bundle import MAX_TOLERANCE
from fqonnx.cli.console import print_warnings
from fqonnx.cli.terminal import console
from fqonnx.deploy import DeployOptions, Device, ServerTarget, deploy

_PATH = click.Path(path_type=Path)


@click.command("deploy")
@click.argument("model", metavar="COMPILED", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, help="The bundle, a folder to be made.")
@click.option(
    "--target",
    type=click.Choice(get_args(ServerTarget)),
    default="ort",
    show_default=True,
    help="ort: a program with ONNX Runtime; triton: a model repository; genai: text by "
    "onnxruntime-genai.",
)
@click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    help="What it runs on [default: cuda where the library has kernels for it]",
)
@click.option("--float", "float_path", type=_PATH, metavar="MODEL", help="For its golden outputs.")
@click.option(
    "--inputs",
    default="synthetic",
    show_default=True,
    metavar="FILE.npz|DIR|synthetic",
    help="The golden inputs, as for `diff`; the first few samples.",
)
@click.option("--report", type=_PATH, help="An accuracy report to go with it.")
@click.option("--without-library", is_flag=True, help="For a stock ONNX Runtime.")
@click.option(
    "--keep-packed",
    is_flag=True,
    help="Without the library: unpack trellis codes and weights of convolutions at each run, "
    "which is slow, and not once for all when the model is loaded, which takes memory.",
)
@click.option(
    "--mount",
    type=click.Path(path_type=PurePosixPath),
    help="Where Triton sees the folder: it takes the library by an absolute path.",
)
@click.option(
    "--previous",
    type=_PATH,
    metavar="BUNDLE",
    help="An earlier bundle for Triton, whose versions are served beside this one.",
)
@click.option(
    "--tokenizer",
    type=_PATH,
    metavar="FOLDER",
    help="For genai: the tokenizer's files, with genai_config.json or config.json.",
)
def deploy_command(
    model: Path,
    output: Path,
    target: ServerTarget,
    device: Device | None,
    float_path: Path | None,
    inputs: str,
    report: Path | None,
    without_library: bool,
    keep_packed: bool,
    mount: PurePosixPath | None,
    previous: Path | None,
    tokenizer: Path | None,
) -> None:
    """Write a folder with COMPILED and all that a server needs to run and to check it."""
    options = DeployOptions(
        target=target,
        device=device,
        library=not without_library,
        keep_packed=keep_packed,
        float_path=float_path,
        inputs=inputs,
        report=report,
        mount=mount,
        previous=previous,
        tokenizer=tokenizer,
    )
    manifest = deploy(model, output, options)
    print_warnings(
        f"output {output.name!r}: a replay can hardly check it, its tolerance is {MAX_TOLERANCE}. "
        "It has very few numbers, or depends on rounding; other --inputs may help"
        for output in manifest.outputs
        if output.tolerance == MAX_TOLERANCE
    )
    size = sum(file.bytes for file in manifest.files) / 1e6
    console.print(
        f"{escape(str(output))}: {len(manifest.files)} files, {size:.1f} MB, ONNX Runtime "
        f"{manifest.onnxruntime_lowest} or later; its README.md says how to run it",
        soft_wrap=True,
    )
    console.print(f"check it where it runs: fqonnx doctor {escape(str(output))}", soft_wrap=True)
