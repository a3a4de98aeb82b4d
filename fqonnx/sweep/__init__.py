"""A sweep: one model compiled at many points, and how good each is, kept in a folder."""

from fqonnx.sweep.folder import SweepFolder, read_rows
from fqonnx.sweep.identity import sweep_identity
from fqonnx.sweep.points import SweepGrid, SweepPoint, SweepRow, first_output, pareto_front
from fqonnx.sweep.run import run_sweep

__all__ = [
    "SweepFolder",
    "SweepGrid",
    "SweepPoint",
    "SweepRow",
    "first_output",
    "pareto_front",
    "read_rows",
    "run_sweep",
    "sweep_identity",
]
