"""How far two models are apart on the same inputs."""

from fqonnx.diff.compare import compare_models
from fqonnx.diff.metrics import OutputDiff, OutputMetrics

__all__ = ["OutputDiff", "OutputMetrics", "compare_models"]
