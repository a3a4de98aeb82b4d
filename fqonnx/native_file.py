"""What a native library asks of a machine, told before a session loads it there."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fqonnx.errors import LibraryError

# As platform.machine() names them; the numbers are those of the ELF specification.
_MACHINES = {3: "i686", 21: "ppc64le", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64"}
_MACHINES[243] = "riscv64"


@dataclass(frozen=True)
class LibraryNeeds:
    """What a library of operators needs.

    Attributes:
        machine: Processor architecture, as `platform.machine` names it.
        ort_api: Lowest version of ONNX Runtime's C API, the N of ONNX Runtime 1.N.
        cuda_architectures: GPUs it was compiled for, as CMake names them (``90-real``: machine code
            of 9.0; ``90``: and PTX of it); none without kernels for CUDA.
        cuda_toolkit: Version of the CUDA toolkit, where it has kernels for CUDA.
    """

    machine: str
    ort_api: int
    cuda_architectures: tuple[str, ...] = ()
    cuda_toolkit: str | None = None


def library_machine(path: Path) -> str:
    """Return the processor architecture that a shared library is for.

    Raises:
        LibraryError: It cannot be read, or is no ELF file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise LibraryError(str(path), f"not readable: {error}", "Check the path") from error
    if len(head) < 20 or head[:4] != b"\x7fELF":
        raise LibraryError(str(path), "no shared library of Linux (ELF)", "Copy the file again")
    (number,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    return _MACHINES.get(number, f"machine {number} of ELF")


def loading_mend(said: str) -> str | None:
    """Return what to do where a library does not load for want of another; None otherwise.

    Args:
        said: What the dynamic linker says of it.
    """
    missing = re.search(r"(\S+): cannot open shared object file", said)
    if missing and "/" not in missing[1]:  # a path is that of the library itself
        return f"Install the package that has {missing[1]}, or name its folder in LD_LIBRARY_PATH"
    if older := re.search(r"version [`'](\w+_[\d.]+)' not found", said):
        return f"Use a system that has {older[1]}, or build fqonnx on this one and deploy again"
    return None


def library_needs(path: Path) -> LibraryNeeds:
    """Load a library of operators and ask what it needs.

    Raises:
        LibraryError: It does not load here, or is not of this version of fqonnx.
    """
    machine = library_machine(path)
    try:
        function = ctypes.CDLL(str(path.resolve())).fqonnx_requirements
    except (OSError, AttributeError) as error:
        hint = loading_mend(str(error)) or "Install fqonnx again"
        raise LibraryError(
            str(path), f"no library of this version of fqonnx: {error}", hint
        ) from error
    function.restype = ctypes.c_char_p
    said = dict(line.split("=", 1) for line in function().decode().splitlines())
    return LibraryNeeds(
        machine,
        int(said["ort_api"]),
        tuple(filter(None, said["cuda_architectures"].split(","))),
        said["cuda_toolkit"] or None,
    )


def runs_on(architectures: Sequence[str], capability: int) -> bool:
    """Whether code compiled for these GPUs runs on one of a compute capability (9.0 is 90).

    Machine code runs on later GPUs of its generation, PTX on all later ones; that of an
    architecture with a letter (``90a``) on that one alone.
    """
    for name in architectures:
        found = re.fullmatch(r"(\d+)([a-z]?)(-real|-virtual)?", name)
        if found is None:
            continue
        built, kind = int(found[1]), found[3]
        if found[2]:
            if built == capability:
                return True
        elif built <= capability and (kind != "-real" or built // 10 == capability // 10):
            return True
    return False
