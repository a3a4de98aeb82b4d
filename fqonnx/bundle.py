"""What a deployment bundle says of itself: ``bundle.json``, which `fqonnx doctor` holds it to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fqonnx.errors import FqonnxError, first_line
from fqonnx.files import regular
from fqonnx.native_file import LibraryNeeds

MANIFEST = "bundle.json"
FORMAT = 1
# An output of nothing but zeros has error 1.
MAX_TOLERANCE = 0.5


class BundleError(FqonnxError):
    """A deployment bundle is not what it should be, or cannot be made."""


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle.

    Attributes:
        path: Below the bundle's folder, with slashes.
        sha256: Hash of its content, in hexadecimal.
        bytes: Its size.
    """

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class LibraryEntry:
    """The native library of operators.

    Attributes:
        path: Below the bundle's folder.
        needs: What it needs of a machine.
    """

    path: str
    needs: LibraryNeeds


@dataclass(frozen=True)
class GoldenOutput:
    """How far an output may be from the golden one; errors are those of `fqonnx.golden.rel_error`.

    Attributes:
        name: Of the output.
        tolerance: Largest error against the compiled model's golden output, up to `MAX_TOLERANCE`.
        float_rel_error: Error of that one against the float model's; None without a float model.
    """

    name: str
    tolerance: float
    float_rel_error: float | None


@dataclass(frozen=True)
class Manifest:
    """All of ``bundle.json``.

    Attributes:
        format: Version of this file's own layout.
        target: ``ort``, ``triton`` or ``genai``.
        fqonnx: Version that wrote it.
        model: The model file, below the bundle's folder.
        library: The library of operators; None where the model runs by its function bodies.
        onnxruntime_tested: Version that the golden outputs were made with.
        onnxruntime_lowest: Lowest version that the model and the library run on, as ``1.18``.
        providers: Execution providers of a session, in order.
        session_config: Config entries of a session.
        operators: Nodes of the model that are operators of fqonnx, by name.
        main_operators: Those in the main graph; the others, in branches and loops, may not run.
        golden: The file of golden inputs and outputs.
        golden_source: ``file``, ``directory`` or ``synthetic``.
        outputs: One entry for each golden output.
        files: All files but this one.
    """

    format: int
    target: str
    fqonnx: str
    model: str
    library: LibraryEntry | None
    onnxruntime_tested: str
    onnxruntime_lowest: str
    providers: tuple[str, ...]
    session_config: dict[str, str]
    operators: dict[str, int]
    main_operators: dict[str, int]
    golden: str
    golden_source: str
    outputs: tuple[GoldenOutput, ...]
    files: tuple[FileEntry, ...]

    def to_json(self) -> str:
        """Return the content of ``bundle.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        BundleError: There is none, or it is not one of this format.
        ConfigError: It is a device or a pipe.
    """
    path = folder / MANIFEST
    try:
        said = json.loads(regular(path).read_text(encoding="utf-8"))
        if isinstance(said, dict) and said.get("format") != FORMAT:
            raise ValueError(f"format {said.get('format')!r}, expected {FORMAT}")
        manifest = typing.cast(Manifest, _made(Manifest, said, "the file"))
        if not manifest.providers:
            raise ValueError("'providers' is empty")
        for name in _named(manifest) | {file.path for file in manifest.files}:
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts or not parts.parts:
                raise ValueError(f"path {name!r} leads out of the bundle")
        unlisted = _named(manifest) - {file.path for file in manifest.files}
        if unlisted:
            raise ValueError(f"files has no entry {sorted(unlisted)[0]!r}")
    except OSError as error:
        found = f"not readable: {error.strerror}"
        hint = "Name the folder that fqonnx deploy wrote"
        raise BundleError(str(path), found, hint) from error
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are ValueErrors
        hint = "Copy the bundle again, or deploy it again"
        raise BundleError(str(path), f"broken: {first_line(error)}", hint) from error
    return manifest


def file_entry(folder: Path, path: Path) -> FileEntry:
    """Return the entry of a file in a bundle's folder."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path.relative_to(folder).as_posix(), digest, path.stat().st_size)


def _named(manifest: Manifest) -> set[str]:
    library = set() if manifest.library is None else {manifest.library.path}
    return {manifest.model, manifest.golden} | library


def _made(kind: Any, value: Any, where: str) -> Any:
    """Return JSON data as what a type says; ValueError where they do not fit."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no object")
        hints = typing.get_type_hints(kind)
        names = {field.name for field in dataclasses.fields(kind)}
        if names != value.keys():
            wrong = sorted(names ^ value.keys())[0]
            raise ValueError(f"{where} {'lacks' if wrong in names else 'has an unknown'} {wrong!r}")
        return kind(**{name: _made(hints[name], value[name], repr(name)) for name in names})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # of a type and None
        return None if value is None else _made(arguments[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_made(arguments[0], item, f"an item of {where}") for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _made(arguments[1], item, f"{where} of {key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else kind
    if origin is None and isinstance(value, accepted) and not isinstance(value, bool):
        return value
    expected = getattr(origin or kind, "__name__", kind)
    raise ValueError(f"{where} is {type(value).__name__}, expected {expected}")
