"""Frame quantization for ONNX: 2-bit models that stock ONNX Runtime runs."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fqonnx.config import METHODS, CompileConfig, Method
from fqonnx.errors import ConfigError, DataError, ExportError, FqonnxError, ModelError

if TYPE_CHECKING:
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

# They bring PyTorch, which a server that runs `fqonnx doctor` does without.
_LATE = {"compile_model": "fqonnx.pipeline", "CompileReport": "fqonnx.report"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
