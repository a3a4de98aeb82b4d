from __future__ import annotations

import json
from pathlib import Path

import pytest

from fqonnx.bundle import (
    MANIFEST,
    BundleError,
    FileEntry,
    GoldenOutput,
    LibraryEntry,
    Manifest,
    file_entry,
    read_manifest,
)
from fqonnx.native_file import LibraryNeeds

FILES = ("model.onnx", "golden.npz", "lib.so")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_text(name)
    manifest = Manifest(
        format=1,
        target="ort",
        fqonnx="0.1.0",
        model="model.onnx",
        library=LibraryEntry("lib.so", LibraryNeeds("x86_64", 17, ("90",), "12.8")),
        onnxruntime_tested="1.31.1",
        onnxruntime_lowest="1.18",
        providers=("CPUExecutionProvider",),
        session_config={"a": "b"},
        operators={"FrameMatMul": 3},
        main_operators={"FrameMatMul": 2},
        golden="golden.npz",
        golden_source="file",
        outputs=(GoldenOutput("y", 1, None), GoldenOutput("z", 0.5, 0.1)),
        files=tuple(file_entry(tmp_path, tmp_path / name) for name in FILES),
    )
    (tmp_path / MANIFEST).write_text(manifest.to_json())
    return tmp_path


def test_manifests_come_back_as_they_were_written(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert (bundle / MANIFEST).read_text() == manifest.to_json()
    assert manifest.outputs[1] == GoldenOutput("z", 0.5, 0.1)
    assert manifest.library == LibraryEntry("lib.so", LibraryNeeds("x86_64", 17, ("90",), "12.8"))
    digest = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    (bundle / "data").write_text("data")
    assert file_entry(bundle, bundle / "data") == FileEntry("data", digest, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2, expected 1"),
        ({"format": None}, "format None, expected 1"),
        ({"providers": "CPU"}, "'providers' is str, expected tuple"),
        ({"providers": [1]}, "an item of 'providers' is int, expected str"),
        ({"providers": []}, "'providers' is empty"),
        ({"model": "../model.onnx"}, "leads out of the bundle"),
        ({"model": "/model.onnx"}, "leads out of the bundle"),
        ({"model": ""}, "leads out of the bundle"),
        ({"golden": "other.npz"}, "no entry 'other.npz'"),
        ({"library": {"path": "lib.so"}}, "'library' lacks 'needs'"),
        ({"library": "lib.so"}, "'library' is no object"),
        ({"more": 1}, "unknown 'more'"),
        ({"session_config": {"a": 1}}, "'session_config' of a is int, expected str"),
        ({"outputs": [{"name": "y", "tolerance": True, "float_rel_error": None}]}, "'tolerance'"),
    ],
)
def test_broken_manifests_say_where(change: dict[str, object], said: str, bundle: Path) -> None:
    content = json.loads((bundle / MANIFEST).read_text()) | change
    (bundle / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=said):
        read_manifest(bundle)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_manifest_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="broken: "):
        read_manifest(tmp_path)
    with pytest.raises(BundleError, match="not readable: No such file"):
        read_manifest(tmp_path / "no")
