from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from fqonnx.cli import main
from support import mlp_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a float model, the same at 1 bit, and samples."""
    folder = tmp_path_factory.mktemp("bisect")
    ir.save(mlp_model(), folder / "float.onnx")
    x = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    options = ("--bits", 1, "--calibration", folder / "data.npz", "-o", folder / "1bit.onnx")
    assert run("compile", folder / "float.onnx", *options).exit_code == 0
    return folder


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(main, [str(x) for x in arguments])


def bisect(folder: Path, *arguments: object) -> Result:
    models = (folder / "float.onnx", folder / "1bit.onnx")
    return run("bisect", *models, "--inputs", folder / "data.npz", *arguments)


def test_it_says_what_to_exclude_and_that_helps(folder: Path, tmp_path: Path) -> None:
    found = bisect(folder, "--fail-under", "cosine=0.9", "--json", tmp_path / "b.json")
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "b.json").read_text())
    restored = [layer["name"] for layer in report["layers"] if layer["restored"]]
    assert 0 < len(restored) < 3
    excluded = [part for name in restored for part in ("--exclude", name)]
    assert f"compile again with {' '.join(excluded)}" in found.output
    again = tmp_path / "again.onnx"
    options = ("--bits", 1, "--calibration", folder / "data.npz", *excluded)
    assert run("compile", folder / "float.onnx", *options, "-o", again).exit_code == 0
    models = (folder / "float.onnx", again)
    gate = ("--inputs", folder / "data.npz", "--fail-under", "cosine=0.9")
    assert run("diff", *models, *gate).exit_code == 0


def test_a_model_that_is_good_enough_needs_nothing(folder: Path) -> None:
    found = bisect(folder, "--fail-under", "cosine=0.1")
    assert found.exit_code == 0
    assert "meets the thresholds as it is" in found.output
    assert "0 of 3 layers must stay float" in found.output


def test_the_worst_layer_can_be_taken_out(folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    found = bisect(folder, "--fail-under", "cosine=0.97", "--extract", part)
    assert found.exit_code == 0
    assert f"fqonnx diff {part}/float.onnx {part}/compiled.onnx" in found.output
    models = (part / "float.onnx", part / "compiled.onnx")
    assert run("diff", *models, "--inputs", part / "inputs").exit_code == 0
    assert list(tmp_path.iterdir()) == [part]


@pytest.mark.parametrize("content", [None, "a file"])
def test_a_folder_that_is_taken_is_refused_before_any_work(
    content: str | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fqonnx.cli.bisect.load_pair", None)
    taken = tmp_path if content is None else tmp_path / "name"
    (tmp_path / "name").write_text("a file")
    found = bisect(folder, "--fail-under", "cosine=0.97", "--extract", taken)
    assert found.exit_code == 2
    assert str(taken) in found.stderr


def test_a_layer_that_cannot_be_written_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    found = bisect(folder, "--fail-under", "cosine=0.97", "--extract", tmp_path / "part")
    assert found.exit_code == 2
    assert "Name another folder" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no threshold to meet"),
        (("--fail-under", "cosine=2"), "the float model itself misses it"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    found = bisect(folder, *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert "Traceback" not in found.output
