"""What a server of a bundle reads beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fqonnx.bundle import Manifest
from fqonnx.doctor.finding import Finding


def check_server(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Hold the configuration of a server to what it can do with the model."""
    if manifest.target == "triton":
        config = folder / PurePosixPath(manifest.model).parents[1] / "config.pbtxt"
        text = config.read_bytes().lower() if config.is_file() else b""
        if b"tensorrt" in text:
            said = "it asks for TensorRT, which knows no operators of fqonnx, nor their bodies"
            yield Finding("config.pbtxt", said, "Take execution_accelerators out of it")
