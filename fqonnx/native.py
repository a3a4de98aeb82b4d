"""The native library: where it is, how a session gets it, and what of it the numerics call.

A server that runs `fqonnx doctor` imports this, so nothing here needs PyTorch until it is called.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fqonnx.errors import LibraryError, first_line
from fqonnx.native_file import loading_mend

_NAME = "libfqonnx_ops.so"


def library_path() -> Path | None:
    """Return the path of the native library, or None where it was not built.

    The environment variable FQONNX_LIBRARY names another build.
    """
    if named := os.environ.get("FQONNX_LIBRARY"):
        return Path(named)
    # An editable install has two folders: the sources, and what was built.
    spec = find_spec("fqonnx.runtime_ops")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "lib" / _NAME
        if path.exists():
            return path
    return None


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
        hint = loading_mend(str(error)) or "Install fqonnx again"
        raise LibraryError(str(path), f"does not load: {error}", hint) from error
    function.restype = ctypes.c_char_p
    return str(function().decode())


def encode_trellis(
    values: NDArray[np.int16], bits: int, targets: NDArray[np.int16]
) -> NDArray[np.uint8] | None:
    """Find closed streams of codes whose values are close to targets, by Viterbi's algorithm.

    `fqonnx.quant.trellis.search` is the same in NumPy.

    Args:
        values: Of the states (2^window), contiguous; bits + 5 ≤ window ≤ 16.
        bits: Bits a code, 1 to 4.
        targets: (streams, length), contiguous.

    Returns:
        Codes (streams, length), or None where the library was not built.

    Raises:
        MemoryError: There is not enough memory.
    """
    function = _function("fqonnx_encode_trellis")
    if function is None:
        return None
    codes = np.empty(targets.shape, np.uint8)
    window = len(values).bit_length() - 1

    def encode(part: NDArray[np.intp]) -> int:
        rows = slice(part[0], part[-1] + 1)
        return int(
            function(
                ctypes.c_void_p(values.ctypes.data),
                ctypes.c_int(bits),
                ctypes.c_int(window),
                ctypes.c_void_p(targets[rows].ctypes.data),
                ctypes.c_size_t(len(part)),
                ctypes.c_size_t(targets.shape[1]),
                ctypes.c_void_p(codes[rows].ctypes.data),
            )
        )

    count = min(_threads(), len(targets))
    parts = np.array_split(np.arange(len(targets)), max(count, 1))
    failed = list(_pool().map(encode, parts)) if count > 1 else [encode(parts[0])] if count else []
    if any(failed):
        raise MemoryError("no memory for the search of a trellis")
    return codes


def _required_path() -> Path:
    path = library_path()
    if path is None:
        raise LibraryError(
            "the native library of fqonnx",
            "not built",
            "Install fqonnx again where there is a C++17 compiler; models run without it",
        )
    return path


@cache
def _function(name: str) -> ctypes._NamedFuncPointer | None:
    path = library_path()
    return None if path is None else getattr(ctypes.CDLL(str(path)), name)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), "fqonnx")


def _threads() -> int:
    import torch  # who asks only where the library is need not have it

    return torch.get_num_threads()
