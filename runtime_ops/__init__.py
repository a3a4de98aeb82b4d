"""The operators of the domain `fqonnx`: their attributes and their function bodies."""

from fqonnx.runtime_ops.bodies import build_function
from fqonnx.runtime_ops.spec import DOMAIN, OPSET_VERSION, FrameOpSpec

__all__ = ["DOMAIN", "OPSET_VERSION", "FrameOpSpec", "build_function"]
