"""A small compiled model and bundles of it, for tests of deployment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fqonnx import CompileConfig, compile_model
from fqonnx.bundle import MANIFEST, file_entry, read_manifest
from support import mlp_model


def compiled_mlp(folder: Path, **options: Any) -> Path:
    """Write ``mlp.onnx``, ``data.npz`` and the compiled model, whose path is returned."""
    ir.save(mlp_model(), folder / "mlp.onnx")
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    out = folder / "mlp-compiled.onnx"
    compile_model(folder / "mlp.onnx", out, CompileConfig(**options), calibration="none")
    return out


def change_manifest(bundle: Path, **changes: Any) -> None:
    """Write a manifest with other values."""
    changed = dataclasses.replace(read_manifest(bundle), **changes)
    (bundle / MANIFEST).write_text(changed.to_json())


def accept(bundle: Path) -> None:
    """Make the hashes those of the files that are there."""
    files = read_manifest(bundle).files
    change_manifest(bundle, files=tuple(file_entry(bundle, bundle / f.path) for f in files))
