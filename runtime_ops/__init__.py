"""The operators of the domain `fqonnx`: attributes, function bodies, and the native library."""

from fqonnx.native import instruction_set, library_path, register
from fqonnx.runtime_ops.bodies import build_function
from fqonnx.runtime_ops.spec import DOMAIN, OPSET_VERSION, FrameOpSpec

__all__ = [
    "DOMAIN",
    "OPSET_VERSION",
    "FrameOpSpec",
    "build_function",
    "instruction_set",
    "library_path",
    "register",
]
