"""The models of the architecture table build, export and quantize; their data are disjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import architecture_table
from architectures import digits, mamba, passages, row, swin, t5, training, vision
from architectures.rows import ROWS
from fqonnx import CompileConfig, compile_model
from fqonnx.export import export_model


@pytest.mark.parametrize(
    ("recipe", "model", "least_layers"),
    [
        (vision.CNN, lambda: vision.ConvNet(channels=4, hidden=64), 2),
        (vision.DEIT, lambda: vision.DeiT(dim=64, depth=1), 8),
        (vision.MIXER, lambda: vision.Mixer(dim=64, depth=1), 5),
        (swin.SWIN, lambda: swin.Swin(dim=32), 26),
        (t5.T5_VOWELS, lambda: t5.T5(dim=64, depth=1), 17),
        (mamba.MAMBA, lambda: mamba.Mamba(dim=64, depth=1), 3),
    ],
    ids=["cnn", "deit", "mixer", "swin", "t5", "mamba"],
)
def test_trained_architectures(
    recipe: training.Recipe,
    model: Callable[[], torch.nn.Module],
    least_layers: int,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    path, out = tmp_path / "float.onnx", tmp_path / "out.onnx"
    export_model(training.source(model(), recipe.draw), path)  # it compares with PyTorch
    report = compile_model(path, out, CompileConfig(method="rtn"), calibration="none")
    assert sum(layer.status == "quantized" for layer in report.layers) >= least_layers
    inputs, _ = recipe.draw("judged", 3, np.random.default_rng(0))
    assert row.run(out, inputs, batch=2).shape[0] == 3


def test_training_learns_and_makes_the_files_of_a_row(tmp_path: Path) -> None:
    recipe = replace(
        vision.CNN,
        build=lambda: vision.ConvNet(channels=8, hidden=64),
        steps=100,
        learning_rate=1e-2,
        calibration=4,
        judged=50,
    )
    recipe.make(tmp_path, None)
    assert row.judge(tmp_path / row.MODEL, tmp_path, row.NATS) < np.log(digits.CLASSES) - 0.3
    assert set(np.load(tmp_path / row.CALIBRATION)) == {"pixels"}
    assert set(np.load(tmp_path / row.JUDGED)) == {"pixels", row.TARGETS}


def test_digits_stand_side_by_side() -> None:
    inputs, numbers = digits.draw("judged", 8, np.random.default_rng(0))
    again, _ = digits.draw("judged", 8, np.random.default_rng(0))
    other, _ = digits.draw("calibration", 8, np.random.default_rng(0))
    assert inputs["pixels"].shape == (8, 1, digits.SIZE, digits.SIZE)
    assert set(numbers) <= set(range(digits.CLASSES))
    assert np.array_equal(inputs["pixels"], again["pixels"])
    assert not np.array_equal(inputs["pixels"], other["pixels"])


def test_passages() -> None:
    rng = np.random.default_rng(0)
    inputs, following = passages.draw_following("training", 4, rng)
    assert np.array_equal(inputs["input_ids"][:, 1:], following[:, :-1])
    inputs, text = passages.draw_vowels("judged", 4, rng)
    assert np.array_equal(inputs["decoder_input_ids"][:, 1:], text[:, :-1])
    changed = inputs["input_ids"] != text
    assert 0.15 < changed.mean() < 0.5
    assert len(np.unique(inputs["input_ids"][changed])) == 1


def test_metrics() -> None:
    logits = np.log(np.array([[[0.5, 0.5], [0.1, 0.9]]]))
    assert row.NATS.score(logits, np.array([[0, row.PADDING]])) == pytest.approx(np.log(2))
    assert row.ACCURACY.score(logits[0], np.array([0, 1])) == 1.0
    assert row.COSINE.score(np.eye(2), np.eye(2)[::-1]) == 0.0


def test_rows_that_need_data_say_so_and_the_others_do_not(tmp_path: Path) -> None:
    assert len({entry.name for entry in ROWS}) == len(ROWS) == 12
    llama = next(entry for entry in ROWS if entry.name == "llama")
    with pytest.raises(row.UnavailableError, match="--data"):
        architecture_table.make(llama, tmp_path / "llama", None)
    assert not (tmp_path / "llama" / architecture_table.TIMED).exists()
