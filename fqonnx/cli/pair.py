"""What the commands that run a float and a compiled model have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from fqonnx.calibrate.sample_files import data_files
from fqonnx.cli.console import check_writable
from fqonnx.cli.options import (
    fail_over_option,
    fail_under_option,
    inputs_option,
    kind_option,
    labels_option,
    mask_input_option,
)
from fqonnx.diff import Kind
from fqonnx.model_file import check_targets
from fqonnx.model_pair import ModelPair

FILE = click.Path(path_type=Path)

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


def pair_options(command: AnyCommand) -> AnyCommand:
    """Give a command the two models, what they run on, and thresholds."""
    for option in (
        fail_over_option,
        fail_under_option,
        kind_option,
        labels_option,
        mask_input_option,
        inputs_option,
        click.argument("compiled_path", metavar="COMPILED", type=FILE),
        click.argument("float_path", metavar="FLOAT", type=FILE),
    ):
        command = option(command)
    return command


def load_pair(
    float_path: Path,
    compiled_path: Path,
    inputs: str,
    *,
    mask_input: str | None,
    labels: Path | None,
    kinds: Mapping[str, Kind],
    written: Sequence[Path],
) -> ModelPair:
    """Read both models and the data, once it is known that results can be written.

    Raises:
        FqonnxError: A file to be written cannot be, or is one that is read; a model, the data or an
            option is not usable.
    """
    for path in written:
        check_writable(path)
    pair = ModelPair.load(
        float_path, compiled_path, inputs, labels=labels, kinds=kinds, mask_input=mask_input
    )
    data = [*data_files(inputs), *([] if labels is None else [labels])]
    check_targets(written, [*pair.files, *data])
    return pair
