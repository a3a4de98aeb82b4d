"""The work of a sweep, point by point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fqonnx.config import CompileConfig
from fqonnx.errors import ModelError
from fqonnx.files import held
from fqonnx.report import CompileReport
from fqonnx.sweep.folder import NEW_FOLDER, SweepFolder, work_folder
from fqonnx.sweep.points import SweepPoint, SweepRow


def run_sweep(
    folder: SweepFolder,
    plan: Mapping[SweepPoint, CompileConfig],
    compile_point: Callable[[CompileConfig, Path], CompileReport],
    announce: Callable[[str], None],
) -> list[str]:
    """Compile the points that the folder lacks; each is stored when it is done.

    Args:
        folder: Where points are kept.
        plan: The points.
        compile_point: Compiles with a configuration to a path, which is removed afterwards.
        announce: Told of each point before the work on it begins.

    Returns:
        The warnings of the compilations, each once.

    Raises:
        FqonnxError: A point failed; those before it are stored.
    """
    warnings: dict[str, None] = {}
    with held(folder.path, "another sweep is writing it", NEW_FOLDER):
        folder.load()  # another sweep may have added points until now
        missing = [point for point in plan if point not in folder.points]
        for number, point in enumerate(missing, start=len(plan) - len(missing) + 1):
            announce(f"point {number} of {len(plan)}: {point}")
            with work_folder(folder.path) as work:
                report = compile_point(plan[point], work / "model.onnx")
            warnings |= dict.fromkeys(report.warnings)
            folder.add(_rows(point, report))
    return list(warnings)


def _rows(point: SweepPoint, report: CompileReport) -> list[SweepRow]:
    model = report.model
    if model.redundancy_stored is None or model.bits_per_weight is None:
        hint = "fqonnx inspect says why for each node"
        raise ModelError(str(point), "no layer was quantized, so there is nothing to compare", hint)
    if not report.outputs:
        hint = "Give the model an output that is a tensor of numbers"
        raise ModelError(str(point), "the model has no output that can be compared", hint)
    return [
        SweepRow(
            **vars(point),
            redundancy_stored=model.redundancy_stored,
            bits_per_weight=model.bits_per_weight,
            output=output.name,
            cosine=output.cosine,
            sqnr_db=output.sqnr_db,
            max_abs_diff=output.max_abs_diff,
            compiled_bytes=model.compiled_bytes,
            seconds=report.timing["total_s"],
        )
        for output in report.outputs
    ]
