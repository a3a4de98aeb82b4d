"""How far two models are apart on the same inputs."""

from fqonnx.diff.advice import Advice, advise
from fqonnx.diff.bisect import Bisection, bisect_layers
from fqonnx.diff.compare import Labels, compare_models, compare_pairs, squared_error
from fqonnx.diff.kinds import Kind, OutputKind, output_kinds
from fqonnx.diff.layers import LayerDiff, diff_layers
from fqonnx.diff.metrics import OutputDiff, OutputMetrics
from fqonnx.diff.noise import half_precision_session
from fqonnx.diff.slow import slow_paths
from fqonnx.diff.stored_weight import Histogram, stored_bytes
from fqonnx.diff.switched_model import SwitchedModel
from fqonnx.diff.thresholds import CEILINGS, FLOORS, Threshold, Verdict, judge

__all__ = [
    "CEILINGS",
    "FLOORS",
    "Advice",
    "Bisection",
    "Histogram",
    "Kind",
    "Labels",
    "LayerDiff",
    "OutputDiff",
    "OutputKind",
    "OutputMetrics",
    "SwitchedModel",
    "Threshold",
    "Verdict",
    "advise",
    "bisect_layers",
    "compare_models",
    "compare_pairs",
    "diff_layers",
    "half_precision_session",
    "judge",
    "output_kinds",
    "slow_paths",
    "squared_error",
    "stored_bytes",
]
