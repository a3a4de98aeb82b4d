"""The scripts that make the figures in the documents start, and their parts work."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decoder
import docstrings
import feedback
import large_models
import memory
import mnist
import redundancy
import sigma_delta
from bench import layers
from bench.timing import median_us, session
from fqonnx import CompileConfig
from fqonnx.model_file import find_fault
from fqonnx.session import Session
from support import shared_data

TOOLS = Path(__file__).parents[1] / "tools"
SCRIPTS = [
    path.name
    for path in sorted(TOOLS.glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
    and path.name != "fuzz_loader.py"  # whose arguments are libFuzzer's
]


def test_sentences_are_many_and_always_the_same() -> None:
    first, second = docstrings.sentences(), docstrings.sentences()
    assert first == second
    assert len(set(first)) == len(first) >= 512
    assert docstrings.sentences(seed=1) != first


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_say_what_they_do(script: str) -> None:
    command = [sys.executable, str(TOOLS / script), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--" in shown.stdout


def test_redundancy_page_has_its_table_and_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redundancy, "SIZE", 64)
    monkeypatch.setattr(redundancy, "RUNS", 1)
    monkeypatch.setattr(redundancy, "ONE_SIDE", (1.0, 1.5))
    points = [redundancy.measure(r) for r in (1.0, 1.5)]
    assert points[1].nearest < points[0].nearest < points[0].bound * 1.001
    assert points[1].auto_same_bits < points[1].auto < points[0].auto
    table = "\n".join(redundancy.rows(points))
    by_bits = redundancy.measure_bits()
    for (codebook, bits), errors in by_bits.items():
        least = [4.0 ** (-bits * r) for r in (1.0, 1.5)]
        assert all(error > bound for error, bound in zip(errors, least, strict=True))
        assert by_bits["scalar", bits][0] >= by_bits[codebook, bits][0]
    bits_table = "\n".join(redundancy.bits_rows(by_bits))
    page = redundancy.text(table, bits_table)
    assert table in page
    assert bits_table in page
    redundancy.picture(points).savefig(io.BytesIO())
    redundancy.bits_picture(by_bits).savefig(io.BytesIO())


def test_feedback_page_has_its_tables_and_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"DIM": 16, "COLUMNS": 8, "REDUNDANCIES": (2.0, 4.0)}
    for name, value in (small | {"STEPS": (1.0, 1.8), "DAMPINGS": (0.1,)}).items():
        monkeypatch.setattr(feedback, name, value)
    errors = {
        (column.title, bits): [column.measure(r, bits) for r in feedback.REDUNDANCIES]
        for column in feedback.FEEDBACKS
        for bits in (1, 2)
    }
    for title in ("Sigma-Delta", "order 2", "LDLQ, harmonic"):
        (first, _), (second, _) = errors[title, 2]
        assert second < first / 2
    page = feedback.text(errors)
    assert all(feedback.table(errors, bits) in page for bits in (1, 2))
    feedback.picture(errors).savefig(io.BytesIO())


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_networks_on_mnist_learn_and_are_judged(name: str, tmp_path: Path) -> None:
    recipe = mnist.recipes(shared_data("mnist"))[name]
    replace(recipe, steps=60, judged=500, calibration=64).make(tmp_path, None)
    network = sigma_delta.Network(tmp_path)
    assert network.accuracy() > 50
    config = CompileConfig(method="sigma-delta", bits=4, redundancy=4.0)
    accuracy, report = network.compiled(config, "images")
    assert accuracy > network.accuracy() - 3
    assert report.calibration.num_compared == 8
    if name == "mlp":
        errors, rebuilt = sigma_delta.rebuilt(network, lambda weight: weight * 0.75)
        assert errors == pytest.approx([0.25] * 3, rel=1e-5)
        assert rebuilt > 30


def test_benchmark_models_take_the_same_input() -> None:
    sessions = {
        "float32": session(layers.float_model(64, 48), 1),
        "2-bit": session(layers.frame_model(64, 48, 2), 1),
        "MatMulNBits": session(layers.product_model(64, 48, 2), 1),
    }
    x = np.ones((3, 64), np.float32)
    assert {s.run(None, {"x": x})[0].shape for s in sessions.values()} == {(3, 48)}
    times = median_us(sessions, {"x": x})
    assert set(times) == set(sessions)
    assert all(time > 0 for time in times.values())


def test_benchmark_merges_layers() -> None:
    several, one = layers.frame_model(64, 48, 2, layers=3), layers.merged_model(64, 48, 2, 3)
    assert (len(several.graph), len(one.graph)) == (3, 1)
    x = np.ones((3, 64), np.float32)
    found = [session(model, 1).run(None, {"x": x}) for model in (several, one)]
    for separate, merged in zip(*found, strict=True):
        np.testing.assert_array_equal(separate, merged)


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"kv_heads": 1}])
def test_a_decoder_of_random_weights(options: dict[str, Any], tmp_path: Path) -> None:
    shape = replace(decoder.SHAPES["tiny"], **options)
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx", "c.onnx")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        decoder.write_decoder(path, shape, seed)
    assert find_fault(paths[0]) is None
    data = [path.with_name(f"{path.name}.data").read_bytes() for path in paths]
    assert data[0] == data[1] != data[2]
    ids = np.random.default_rng(0).integers(0, shape.vocabulary, (2, 7))
    run = Session(paths[0], "decoder").run
    (logits,) = run({"input_ids": ids})
    assert logits.dtype == np.float16
    assert 0.5 < logits.astype(np.float32).std() < 2
    (shorter,) = run({"input_ids": ids[:, :3]})  # no token sees a later one
    np.testing.assert_allclose(shorter, logits[:, :3], atol=0.02)


def test_a_row_of_the_page_of_large_models(tmp_path: Path) -> None:
    options = "--bits 2 --calibration samples.npz"
    row = large_models.measure("tiny", options, 4 << 30, tmp_path)
    assert row.startswith(f"| TINY | 0.00 G | 0.00 GB | `{options}` |")
    assert not list(tmp_path.iterdir())
    page = tmp_path / "page.md"
    page.write_text(f"{large_models.HEAD}\n{row}\n")
    assert large_models.rows_of(page) == {f"TINY `{options}`": row}


def test_a_limit_of_memory_is_one() -> None:
    with pytest.raises(SystemExit, match="failed with"):
        large_models.run_limited([sys.executable, "-c", "bytearray(1 << 30)"], 1 << 29)
    usage = large_models.run_limited(
        [sys.executable, "-c", "import time; x = bytearray(1 << 27); time.sleep(0.3)"], 1 << 29
    )
    assert 1 << 27 < usage.own <= usage.resident < 1 << 28


def test_a_compilation_takes_the_memory_that_it_may(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    memory.write_model(path, layers=4, dim_in=2048, dim_out=2048)
    peak, _ = memory.measured(path)
    assert 250e6 < peak < memory.bound(2048, 2048)  # Python and PyTorch alone take the lower one
    assert (tmp_path / "compiled.onnx").is_file()
