"""``fqonnx export``."""

from __future__ import annotations

from pathlib import Path

import click

from fqonnx.cli.console import megabytes
from fqonnx.cli.terminal import console
from fqonnx.export import export_model
from fqonnx.model_file import check_targets, file_bytes
from fqonnx.written_model import output_files


@click.command("export")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="ONNX file.")
def export_command(source: str, output: Path) -> None:
    """Export a PyTorch model to ONNX and check the file against it.

    SOURCE is a .pt2 file (torch.export.save) or module:factory. The factory takes no arguments
    and returns (module, example_args), or an fqonnx.export.ExportSource that also names inputs,
    outputs and dynamic dimensions.
    """
    check_targets(output_files(output), [])
    error = export_model(source, output)
    console.print(
        f"{output}: {megabytes(file_bytes(output))}, "
        f"largest difference from PyTorch {error:.2g} of the output's range",
        markup=False,
    )
