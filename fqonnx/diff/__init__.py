"""How far two models are apart on the same inputs."""

from fqonnx.diff.compare import compare_models
from fqonnx.diff.kinds import Kind, OutputKind, output_kinds
from fqonnx.diff.metrics import OutputDiff, OutputMetrics
from fqonnx.diff.noise import half_precision_session
from fqonnx.diff.thresholds import CEILINGS, FLOORS, Threshold, Verdict, judge

__all__ = [
    "CEILINGS",
    "FLOORS",
    "Kind",
    "OutputDiff",
    "OutputKind",
    "OutputMetrics",
    "Threshold",
    "Verdict",
    "compare_models",
    "half_precision_session",
    "judge",
    "output_kinds",
]
