"""What the points of a sweep have in common, so that those of another are never among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fqonnx.calibrate.sample_files import NO_FILES, data_files
from fqonnx.config import CompileConfig
from fqonnx.errors import DataError, ModelError
from fqonnx.files import digest_of
from fqonnx.report import collect_versions
from fqonnx.sweep.points import SweepPoint


def sweep_identity(
    files: Sequence[Path], calibration: str, config: CompileConfig
) -> dict[str, Any]:
    """Return what the points of one sweep share: digests of what is read, options, version.

    Args:
        files: Those of the float model, itself first, see `model_files`.
        calibration: As for `fqonnx.compile_model`.
        config: The options that all points share.

    Raises:
        ModelError: A file of the model cannot be read.
        DataError: The calibration data cannot be read.
    """
    data = calibration
    if calibration not in NO_FILES:
        try:
            data = digest_of(data_files(calibration))
        except FileNotFoundError as error:
            raise DataError(calibration, "no such file", "Check the path") from error
        except OSError as error:
            raise DataError(calibration, f"not readable: {error}", "Check the path") from error
    try:
        model = digest_of(files)
    except OSError as error:
        raise ModelError(str(files[0]), f"not readable: {error}", "Check the path") from error
    options = dataclasses.asdict(config)
    for field in dataclasses.fields(SweepPoint):
        del options[field.name]
    return {"model": model, "calibration": data, **options, **collect_versions()}
