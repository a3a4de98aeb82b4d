"""The files of a bundle: all there, none changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fqonnx.bundle import FileEntry, Manifest, file_entry
from fqonnx.doctor.finding import Finding


def check_files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Hold each file of a bundle to its size and hash."""
    good = 0
    for entry in manifest.files:
        finding = _check(folder, entry)
        if finding is None:
            good += 1
        else:
            yield finding
    total = sum(entry.bytes for entry in manifest.files)
    yield Finding("files", f"{good} of {len(manifest.files)} as deployed, {total / 1e6:.1f} MB")


def _check(folder: Path, entry: FileEntry) -> Finding | None:
    path = folder / entry.path
    again = "Copy the bundle again"
    if not path.is_file():
        return Finding(entry.path, "missing", again)
    try:
        found = file_entry(folder, path)
    except OSError as error:
        return Finding(entry.path, f"not readable: {error.strerror}", "Mend its permissions")
    if found.bytes != entry.bytes:
        return Finding(entry.path, f"{found.bytes} bytes, expected {entry.bytes}", again)
    if found.sha256 != entry.sha256:
        said = f"changed: its SHA-256 is {found.sha256[:16]}…, expected {entry.sha256[:16]}…"
        return Finding(entry.path, said, again)
    return None
