"""All checks, in the order in which one failing makes the next pointless."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from fqonnx.bundle import BundleError, read_manifest
from fqonnx.doctor.files import check_files
from fqonnx.doctor.finding import Finding
from fqonnx.doctor.genai import check_genai
from fqonnx.doctor.gpu import DriverError, check_gpu, read_driver
from fqonnx.doctor.replay import replay
from fqonnx.doctor.runtime import check_library, check_providers, check_runtime, runtime_build
from fqonnx.doctor.server import check_server
from fqonnx.errors import DataError, LibraryError
from fqonnx.native import instruction_set, library_path, register
from fqonnx.native_file import library_needs
from fqonnx.session import available_providers, runtime_version, session_options


def examine_installation() -> Iterator[Finding]:
    """Look at what is installed.

    Raises:
        ModelError: ONNX Runtime is not.
    """
    yield Finding("fqonnx", f"{version('fqonnx')}, Python {platform.python_version()}")
    yield Finding("ONNX Runtime", f"{runtime_version()}, {', '.join(available_providers())}")
    yield Finding("build", runtime_build())
    path = library_path()
    if path is None:
        said = "not built; models run by the function bodies that they carry"
        yield Finding("native library", said)
        return
    try:
        yield Finding("native library", str(path))
        yield Finding("instruction set", instruction_set())
        needs = library_needs(path)
        built = ", ".join(needs.cuda_architectures)
        yield Finding("CUDA kernels", f"{built} (CUDA {needs.cuda_toolkit})" if built else "none")
        register(session_options())
        yield Finding("in a session", "loads")
    except LibraryError as error:
        yield Finding("native library", f"{error.where}: {error.found}", error.hint)


def examine_bundle(folder: Path) -> Iterator[Finding]:
    """Look whether this machine can run a bundle, and computes what it should.

    Raises:
        ModelError: ONNX Runtime is not installed.
    """
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        yield Finding("bundle.json", error.found, error.hint)
        return
    yield Finding("bundle", f"for {manifest.target}, by fqonnx {manifest.fqonnx}")
    found = runtime_version()
    failed = []

    def noted(finding: Finding) -> Finding:
        failed.extend([finding.what] * (not finding.holds))
        return finding

    yield from map(noted, check_files(folder, manifest))
    yield noted(check_runtime(found, manifest))
    yield Finding("build", runtime_build())
    yield from map(noted, check_providers(manifest.providers, available_providers()))
    if manifest.library is not None and (folder / manifest.library.path).is_file():
        yield from map(noted, check_library(folder, manifest.library, found))
    if "CUDAExecutionProvider" in manifest.providers:
        try:
            yield from map(noted, check_gpu(manifest.library, read_driver()))
        except DriverError as error:
            mend = "Install the NVIDIA driver; a container needs --gpus all and the NVIDIA toolkit"
            yield noted(Finding("GPU", str(error), mend))
    yield from map(noted, check_server(folder, manifest))
    # Golden outputs that somebody changed are still worth a replay.
    broken = [what for what in failed if what != manifest.golden]
    if broken:
        mend = "Mend that first"
        yield Finding(
            "golden inputs", f"not run, because of {', '.join(dict.fromkeys(broken))}", mend
        )
        return
    for i in range(len(manifest.providers)):
        try:
            yield from map(noted, replay(folder, manifest, manifest.providers[i:]))
        except DataError as error:
            yield Finding(manifest.golden, error.found, error.hint)
            return
    if manifest.target == "genai" and not failed:
        yield from check_genai(folder, manifest)
