"""The scripts that make the figures in the documents start, and their parts work."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import docstrings
import redundancy

TOOLS = Path(__file__).parents[1] / "tools"


def test_sentences_are_many_and_always_the_same() -> None:
    first, second = docstrings.sentences(), docstrings.sentences()
    assert first == second
    assert len(set(first)) == len(first) >= 512
    assert docstrings.sentences(seed=1) != first


@pytest.mark.parametrize(
    "script",
    ["architecture_table.py", "demo.py", "quality.py", "redundancy.py", "bench/matmul.py"],
)
def test_scripts_say_what_they_do(script: str) -> None:
    command = [sys.executable, str(TOOLS / script), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--" in shown.stdout


def test_redundancy_page_has_its_table_and_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redundancy, "SIZE", 64)
    monkeypatch.setattr(redundancy, "RUNS", 1)
    points = [redundancy.measure(r) for r in (1.0, 1.5)]
    assert points[1].nearest < points[0].nearest < points[0].bound * 1.001
    assert points[1].auto_same_bits < points[1].auto < points[0].auto
    table = "\n".join(redundancy.rows(points))
    assert table in redundancy.text(table)
    redundancy.picture(points).savefig(io.BytesIO())


def test_benchmark_models_take_the_same_input() -> None:
    spec = importlib.util.spec_from_file_location("bench_matmul", TOOLS / "bench" / "matmul.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    sessions = {
        "float32": bench.session(bench.float_model(64, 48), 1),
        "2-bit": bench.session(bench.frame_model(64, 48, 2), 1),
    }
    x = np.ones((3, 64), np.float32)
    assert {s.run(None, {"x": x})[0].shape for s in sessions.values()} == {(3, 48)}
    times = bench.median_us(sessions, x)
    assert set(times) == {"float32", "2-bit"}
    assert all(time > 0 for time in times.values())
