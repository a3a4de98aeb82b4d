"""The native library of the operators, and how a session gets it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from fqonnx.errors import LibraryError, first_line
from fqonnx.native import library_path


def register(session_options: Any) -> None:
    """Let sessions of ``session_options`` run our operators by the native library.

    Raises:
        LibraryError: It was not built, or ONNX Runtime does not load it.
    """
    path = _required_path()
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as error:  # ORT's exceptions share no base class of their own
        raise LibraryError(
            str(path),
            f"ONNX Runtime does not load it: {first_line(error)}",
            "It needs ONNX Runtime 1.17 or later",
        ) from error


def instruction_set() -> str:
    """Return which of its instruction sets the library uses on this processor.

    Raises:
        LibraryError: It was not built, or does not load.
    """
    path = _required_path()
    try:
        function = ctypes.CDLL(str(path)).fqonnx_instruction_set
    except OSError as error:
        raise LibraryError(str(path), f"does not load: {error}", "Install fqonnx again") from error
    function.restype = ctypes.c_char_p
    return str(function().decode())


def _required_path() -> Path:
    path = library_path()
    if path is None:
        raise LibraryError(
            "the native library of fqonnx",
            "not built",
            "Install fqonnx again where there is a C++17 compiler; models run without it",
        )
    return path
