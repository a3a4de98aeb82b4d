"""A build of the native library whose CUDA kernels run on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tool(name: str) -> str | None:
    """Return the path of a program; packages put theirs beside this Python."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join(folders))


@cache
def emulated_library() -> Path:
    """Build it, or what changed of it, and return its path; without a compiler skip the test.

    The environment variable FQONNX_EMULATED_LIBRARY names another build.
    """
    if named := os.environ.get("FQONNX_EMULATED_LIBRARY"):
        return Path(named)
    cmake, ninja = tool("cmake"), tool("ninja")
    if cmake is None or tool(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs cmake and a C++17 compiler")
    folder = ROOT / "build" / "cuda-emulated"
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    configure = [cmake, "-S", ROOT / "runtime_ops", "-B", folder, "-DFQONNX_CUDA=EMULATED"]
    for command in ([*configure, *generator], [cmake, "--build", folder, "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "libfqonnx_ops.so"
