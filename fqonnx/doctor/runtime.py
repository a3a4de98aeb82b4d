"""ONNX Runtime: its version, its providers, and whether the library of operators suits it."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

from fqonnx.bundle import LibraryEntry, Manifest
from fqonnx.doctor.finding import Finding
from fqonnx.errors import LibraryError
from fqonnx.native_file import library_machine

_PACKAGES = {
    "CPUExecutionProvider": "onnxruntime",
    "CUDAExecutionProvider": "onnxruntime-gpu",
}


def check_runtime(version: str, manifest: Manifest) -> Finding:
    """Hold the version of ONNX Runtime to the lowest that a bundle runs on."""
    lowest, tested = manifest.onnxruntime_lowest, manifest.onnxruntime_tested
    said = f"{version}; the bundle needs {lowest} or later and was tested with {tested}"
    if release(version) < release(lowest):
        return Finding("ONNX Runtime", said, f"Install a later one: {_command(lowest)}")
    return Finding("ONNX Runtime", said)


def runtime_build() -> str:
    """Return what ONNX Runtime, which is installed, says of its build."""
    import onnxruntime

    return str(onnxruntime.get_build_info()).removeprefix("ORT Build Info: ")


def check_providers(providers: Sequence[str], available: Sequence[str]) -> Iterator[Finding]:
    """Hold the providers of a bundle to those that this ONNX Runtime was built with.

    Whether one loads only a session can tell.
    """
    for name in providers:
        if "Tensorrt" in name or "TensorRT" in name:
            said = (
                "it is in the list of providers, and knows neither the operators of fqonnx nor the "
                "MatMulNBits of their bodies: it would cut the model into pieces around them"
            )
            yield Finding(name, said, "Take it out of providers in bundle.json")
        elif name not in available:
            said = f"this ONNX Runtime was built without it, with {', '.join(available)}"
            package = _PACKAGES.get(name, "an onnxruntime that has it")
            mend = f"Install {package} in the place of the other, or deploy for another --device"
            yield Finding(name, said, mend)


def check_library(folder: Path, library: LibraryEntry, version: str) -> Iterator[Finding]:
    """Hold a library of operators to this machine and this ONNX Runtime, before it is loaded."""
    path, here = folder / library.path, platform.machine()
    try:
        machine = library_machine(path)
    except LibraryError as error:
        yield Finding(library.path, error.found, error.hint)
        return
    if machine != here:
        said = f"it is for {machine}, and this machine is {here}"
        yield Finding(library.path, said, f"Deploy the model from a machine that is {here}")
    offered, wanted = release(version)[1], library.needs.ort_api
    if wanted > offered:
        said = f"it asks for version {wanted} of ONNX Runtime's C API, and {version} has {offered}"
        yield Finding(library.path, said, f"Install a later one: {_command(f'1.{wanted}')}")


def _command(lowest: str) -> str:
    """Return what installs a later version of the package that is there, and none beside it."""
    packages = packages_distributions().get("onnxruntime", ["onnxruntime"])
    return f'pip install "{max(packages)}>={lowest}"'


def release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version; the second is that of the C API."""
    numbers = [int(digits) for digits in re.findall(r"\d+", version)[:2]]
    return (*numbers, 0, 0)[:2]  # type: ignore[return-value]
