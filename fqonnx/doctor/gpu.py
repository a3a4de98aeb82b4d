"""NVIDIA GPUs, as their driver tells: no CUDA toolkit is needed for that."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from fqonnx.bundle import LibraryEntry
from fqonnx.doctor.finding import Finding
from fqonnx.native_file import runs_on

LIBRARY = "libcuda.so.1"

# Of cuda.h, CUdevice_attribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


class DriverError(Exception):
    """There is no driver, or it refuses."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: What its maker calls it.
        capability: Compute capability, 90 for 9.0.
        memory_bytes: All of its memory.
    """

    name: str
    capability: int
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """What the driver says.

    Attributes:
        version: The CUDA version that it goes up to, major and minor.
        gpus: The GPUs that it lets this process see.
    """

    version: tuple[int, int]
    gpus: tuple[Gpu, ...]


def read_driver(library: str | None = None) -> Driver:
    """Ask the driver.

    Args:
        library: Its library; None is the one that the system finds.

    Raises:
        DriverError: There is none, or it refuses.
    """
    try:
        cuda = ctypes.CDLL(library or LIBRARY)
    except OSError as error:
        raise DriverError(f"no NVIDIA driver: {error}") from error

    def call(name: str, *arguments: object) -> None:
        code = getattr(cuda, name)(*arguments)
        if code:
            raise DriverError(f"{name} of the NVIDIA driver fails with code {code}")

    call("cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    gpus = []
    for number in range(count.value):
        name, memory = ctypes.create_string_buffer(100), ctypes.c_size_t()
        major, minor = ctypes.c_int(), ctypes.c_int()
        call("cuDeviceGetName", name, len(name), number)
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), number)
        call("cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, number)
        call("cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, number)
        capability = major.value * 10 + minor.value
        gpus.append(Gpu(name.value.decode(errors="replace"), capability, memory.value))
    return Driver((version.value // 1000, version.value % 1000 // 10), tuple(gpus))


def check_gpu(library: LibraryEntry | None, driver: Driver) -> Iterator[Finding]:
    """Hold the first GPU and the driver to what a library of operators was compiled for."""
    major, minor = driver.version
    if not driver.gpus:
        mend = "Check nvidia-smi, CUDA_VISIBLE_DEVICES, and --gpus of the container"
        yield Finding("GPU", f"the driver (CUDA {major}.{minor}) shows none", mend)
        return
    gpu = driver.gpus[0]
    said = f"{gpu.name}, sm_{gpu.capability}, {gpu.memory_bytes / 2**30:.0f} GiB"
    yield Finding("GPU", f"{said}, driver for CUDA {major}.{minor}")
    if library is None:
        return
    needs = library.needs
    if not runs_on(needs.cuda_architectures, gpu.capability):
        built = ", ".join(needs.cuda_architectures) or "none"
        said = f"its kernels are compiled for {built}, and the GPU is sm_{gpu.capability}"
        mend = f"Build it with -C cmake.define.FQONNX_CUDA_ARCHITECTURES={gpu.capability}"
        yield Finding(library.path, said, mend)
    if needs.cuda_toolkit and int(needs.cuda_toolkit.split(".")[0]) > major:
        said = f"it is of CUDA {needs.cuda_toolkit}, and the driver goes up to {major}.{minor}"
        yield Finding(library.path, said, "Install a later driver, or build it with an older nvcc")
