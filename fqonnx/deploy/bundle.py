"""Writes a bundle: whole or not at all."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from fqonnx.bundle import FORMAT, MANIFEST, BundleError, LibraryEntry, Manifest, file_entry
from fqonnx.deploy import genai, ort, triton
from fqonnx.deploy.contents import Contents
from fqonnx.deploy.measure import measure
from fqonnx.deploy.options import PROVIDERS, DeployOptions, Device
from fqonnx.deploy.source import Source
from fqonnx.native import library_path
from fqonnx.native_file import LibraryNeeds, library_needs
from fqonnx.probe import UNFOLDED
from fqonnx.runtime_ops import FrameOpSpec
from fqonnx.session import runtime_version

_TARGETS = {"ort": ort, "triton": triton, "genai": genai}
_GOLDEN = "golden.npz"


def deploy(model: Path, folder: Path, options: DeployOptions) -> Manifest:
    """Write a folder with a compiled model and all that a server needs to run and to check it.

    Args:
        model: The compiled model.
        folder: The bundle; it must not be there yet.
        options: What is wanted.

    Returns:
        What the bundle says of itself.

    Raises:
        FqonnxError: The model, the data or an option is not usable, or the folder not writable.
    """
    if folder.exists():
        raise BundleError(str(folder), "it is there already", "Remove it, or choose another folder")
    for name, path in (("--report", options.report), ("--float", options.float_path)):
        if path is not None and not path.is_file():
            raise BundleError(str(path), "no such file", f"Check the path of {name}")
    source = Source.load(model)
    built = library_path()
    needs = None if built is None else library_needs(built)
    device = _device(source, options, needs)
    target = _TARGETS[options.target]
    layout = target.layout(source, options)
    source = source.with_dims(layout.dims)
    with _whole(folder) as work:
        (work / layout.model).parent.mkdir(parents=True, exist_ok=True)
        # Weights in a file of their own are mapped, not read: processes share them.
        name = Path(layout.model).name
        ir.save(source.model, work / layout.model, external_data=f"{name}.data")
        measured = measure(source, work / layout.model, built, options)
        library = None
        if options.library and built is not None and needs is not None:
            _copy(built, work / layout.library)
            library = LibraryEntry(layout.library, needs)
        (work / _GOLDEN).write_bytes(measured.golden.to_npz())
        if options.report is not None:
            _copy(options.report, work / f"report{options.report.suffix}")
        for path, original in layout.carried.items():
            _copy(original, work / path)
        needed = source.lowest_runtime(library.needs.ort_api if library else None)
        manifest = Manifest(
            format=FORMAT,
            target=options.target,
            fqonnx=version("fqonnx"),
            model=layout.model,
            library=library,
            onnxruntime_tested=runtime_version(),
            onnxruntime_lowest=f"1.{max(needed, layout.runtime)}",
            providers=PROVIDERS[device],
            session_config=UNFOLDED if options.keep_packed else {},
            operators=_counted(source.specs),
            main_operators=_counted(source.main_specs),
            golden=_GOLDEN,
            golden_source=measured.source,
            outputs=measured.outputs,
            files=(),
        )
        contents = Contents(source, options, manifest, measured)
        for path, content in target.files(contents).items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(content)
        files = sorted(path for path in work.rglob("*") if path.is_file())
        entries = tuple(file_entry(work, path) for path in files)
        manifest = dataclasses.replace(manifest, files=entries)
        (work / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _device(source: Source, options: DeployOptions, needs: LibraryNeeds | None) -> Device:
    """Return the device of a bundle, if the options go with the model and with the library."""
    architectures = () if needs is None else needs.cuda_architectures
    if options.library and not source.specs:
        found = "it has no operators of fqonnx, which the library is for"
        hint = "Compile a model first; one of --lowering stock goes --without-library"
        raise BundleError(str(source.path), found, hint)
    if options.keep_packed and not source.unpacked_at_load:
        found = "its codes stay packed anyway: none are unpacked when it is loaded"
        raise BundleError(str(source.path), found, "Leave --keep-packed out")
    if options.library and needs is None:
        hint = "Install fqonnx again where there is a C++17 compiler, or go --without-library"
        raise BundleError("the native library of fqonnx", "not built", hint)
    if options.library and options.device == "cuda" and not architectures:
        # Registered, it hides the function bodies from every provider.
        found = "it has no kernels for CUDA, so that compiled layers would run on the processor"
        hint = "Build it with -C cmake.define.FQONNX_CUDA=ON, or go --without-library"
        raise BundleError("the native library of fqonnx", found, hint)
    return options.device or ("cuda" if options.library and architectures else "cpu")


def _counted(specs: Iterable[FrameOpSpec]) -> dict[str, int]:
    return dict(Counter(spec.op_type for spec in specs))


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which gets its name only if the block ends without error."""
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        work.chmod(0o755)
        yield work
        work.rename(folder)
    except OSError as error:
        hint = "Choose another place with -o"
        raise BundleError(str(folder), f"cannot be written: {error}", hint) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
