"""What of the GPU check runs without a GPU: the matrix on the emulator, and the report."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import pytest

import gpu_check
import gpu_matrix
import gpu_sessions
from cuda_kernels import HostMemory, load_kernels
from emulated import emulated_library


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return load_kernels(emulated_library())


def test_matrix_on_the_emulator_is_right(
    library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "QUICK_ROWS", (1, 9))
    options = ["--library", str(emulated_library()), "--emulated", "--quick", "--parts", "matrix"]
    files = ["--json", str(tmp_path / "gpu.json"), "--markdown", str(tmp_path / "gpu.md")]
    assert gpu_check.main([*options, *files]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["parts"]["matrix"]["result"]["cases"] >= 90
    assert "| matrix | ok |" in (tmp_path / "gpu.md").read_text()


def test_matrix_sees_what_is_wrong(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_matrix, "LIMITS", dict.fromkeys(gpu_matrix.LIMITS, 1e-9))
    layer = gpu_matrix.layers(quick=True)[0]
    results = list(gpu_matrix.check_layer(library, HostMemory(), layer, (1,)))
    assert not any(result["ok"] for result in results)


def test_layers_for_sessions_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sessions, "PROVIDERS", ["CPUExecutionProvider"])
    monkeypatch.setenv("FQONNX_LIBRARY", str(emulated_library()))
    assert gpu_sessions.error(2, 9) < 2e-2
    assert gpu_sessions.error(3, 9, trellis=True) < 2e-2
    assert gpu_sessions.attempt(lambda: gpu_sessions.session(gpu_sessions.plain_model((128, 8), 4)))


def test_page_has_a_row_for_each_time() -> None:
    time = {"cold": 12.34, "warm": 5.6}
    report = {
        "device": "a GPU",
        "host": "x86_64",
        "date": "2026-01-01",
        "parts": {
            "graph": {"result": {"ok": False, "error": "RuntimeError: no"}},
            "onnxruntime": {
                "result": {
                    "ok": True,
                    "times": [{"shape": (8, 16), "rows": 1, "bits": 2, "MatMul": 3.0, "our": None}],
                }
            },
            "sanitizer": {"result": {"skipped": "there is none"}},
            "benchmark": {"result": [{"shape": (8, 16), "rows": 1, "cublas": time}]},
            "dequantize": {
                "result": [
                    {"shape": (8, 16), "codes": "2 bits, scalar", "us": 7.0, "bytes_per_us": 2.5e6}
                ]
            },
        },
    }
    page = gpu_check.markdown(report)
    assert "| graph | FAILED RuntimeError: no |" in page
    assert "| sanitizer | skipped, there is none |" in page
    assert "| layer | rows | cublas |" in page
    assert "| 8 × 16 | 1 | 12.3 / 5.6 |" in page
    assert "| 8 × 16 | 1 | 2 | 3.0 | – |" in page
    assert "| 8 × 16 | 2 bits, scalar | 7.0 | 2500 |" in page


def test_a_part_that_breaks_leaves_the_others() -> None:
    def breaks() -> None:
        raise RuntimeError("no")

    found = gpu_check.run_parts(
        {"graph": breaks, "matrix": lambda: {"ok": True}}, ["graph", "matrix"]
    )
    assert not found["graph"]["result"]["ok"]
    assert found["matrix"]["result"]["ok"]


def test_without_a_gpu_there_is_only_the_matrix() -> None:
    with pytest.raises(SystemExit):
        gpu_check.parse(["--library", "x", "--emulated"])
