"""Frame quantization for ONNX: 2-bit models that stock ONNX Runtime runs."""

from importlib.metadata import version

from fqonnx.config import METHODS, CompileConfig, Method
from fqonnx.errors import ConfigError, DataError, ExportError, FqonnxError, ModelError
from fqonnx.pipeline import compile_model
from fqonnx.report import CompileReport

__version__ = version("fqonnx")

__all__ = [
    "METHODS",
    "CompileConfig",
    "CompileReport",
    "ConfigError",
    "DataError",
    "ExportError",
    "FqonnxError",
    "Method",
    "ModelError",
    "compile_model",
]
