from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from fqonnx import CompileConfig, ModelError, compile_model
from fqonnx.cli import main
from fqonnx.cli.sweep import _redundancies
from support import mlp_model


def parse(text: str) -> tuple[float, ...]:
    return _redundancies(None, None, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.0:1.5:0.125", (1.0, 1.125, 1.25, 1.375, 1.5)),
        ("1.0:1.3:0.05", (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3)),
        ("1:1.2:0.15", (1.0, 1.15)),
        ("1:1.5:0.1666667", (1.0, 1.1666667, 1.3333334, 1.5)),
        ("1:1:1", (1.0,)),
        ("1.25", (1.25,)),
        ("1.0, 1.125,1.25,1", (1.0, 1.125, 1.25)),
    ],
)
def test_redundancies(text: str, expected: tuple[float, ...]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "1:2", "1:2:3:4", "1:2,3:1", "1,,2", "1:nan:1", "inf", "1:1.5:0", "2:1:0.1"),
        *("1:1.5:-0.1", "1:16:1e-9", "1:1e300:1e-300"),
    ],
)
def test_bad_redundancies_say_what_was_expected(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected"):
        parse(text)


@given(
    start=st.integers(100, 400),
    step=st.integers(1, 100),
    steps=st.integers(0, 200),
    rest=st.floats(0, 0.99),
)
def test_ranges_have_their_ends_and_even_steps(
    start: int, step: int, steps: int, rest: float
) -> None:
    # In hundredths, so that what is expected is known exactly.
    stop = (start + steps * step) / 100
    expected = tuple((start + i * step) / 100 for i in range(steps + 1))
    assert parse(f"{start / 100}:{stop}:{step / 100}") == expected
    assert parse(f"{start / 100}:{stop + rest * step / 100}:{step / 100}") == expected
    assert parse(",".join(map(str, expected))) == expected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    x = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["sweep", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_end_to_end_then_more_points_then_another_seed(folder: Path) -> None:
    options = ("mlp.onnx", "--calibration", "data.npz", "--redundancy", "1.0,1.25")
    first = run(*options, "--bits", "2", "--method", "auto,rtn")
    assert first.exit_code == 0
    assert first.stderr.splitlines() == [
        "without a frame, at redundancy 1 only: rtn",
        "point 1 of 3: auto, 2 bits, redundancy 1",
        "point 2 of 3: auto, 2 bits, redundancy 1.25",
        "point 3 of 3: rtn, 2 bits, redundancy 1",
        "warning: 3 layers have scalar codes: whole tiles of a trellis would take more than an "
        "eighth more",
    ]
    out = folder / "mlp-sweep"
    assert sorted(path.name for path in out.iterdir()) == ["sweep.csv", "sweep.json", "sweep.png"]
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    rows = table(out / "sweep.csv")
    assert [(row["method"], row["redundancy"]) for row in rows] == [
        ("auto", "1.0"),
        ("auto", "1.25"),
        ("rtn", "1.0"),
    ]
    assert float(rows[1]["cosine"]) > float(rows[2]["cosine"])
    assert "mlp-sweep/sweep.csv" in first.stdout
    assert "mlp-sweep/sweep.png" in first.stdout
    assert f"{float(rows[0]['bits_per_weight']):.3f}" in first.stdout

    config = CompileConfig(redundancy=1.25)
    report = compile_model("mlp.onnx", folder / "m.onnx", config, calibration="data.npz")
    assert float(rows[1]["cosine"]) == report.outputs[0].cosine
    assert float(rows[1]["bits_per_weight"]) == report.model.bits_per_weight

    more = run(*options, "--bits", "2,4")
    assert more.stderr.splitlines()[:2] == [
        "2 of 4 points are there already",
        "point 3 of 4: auto, 4 bits, redundancy 1",
    ]
    assert table(out / "sweep.csv")[:3] == rows
    assert len(table(out / "sweep.csv")) == 5

    other = run(*options, "--seed", "1")
    assert other.exit_code == 2
    assert "seed 0 there, 1 here" in other.stderr
    assert other.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.onnx",), "absent.onnx: no such file"),
        (("mlp.onnx", "--bits", "2,5"), "bits: found 5, expected 1, 2, 3 or 4"),
        (("mlp.onnx", "--redundancy", "0.5:1:0.5"), "redundancy: found 0.5"),
        (("mlp.onnx", "--calibration", "absent.npz"), "absent.npz: no such file"),
        (("mlp.onnx", "--calibration", "none", "-o", "data.npz"), "data.npz: cannot be written"),
        (("mlp.onnx", "--seed", "-1"), "seed: found -1"),
        (("sweep.csv", "-o", "."), "sweep.csv"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: tuple[str, ...], message: str, folder: Path
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "error: " in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "mlp.onnx"]


@pytest.mark.parametrize(
    "arguments", [("--bits", "two"), ("--bits", "2,"), ("--method", "auto,best")]
)
def test_bad_lists_are_usage_errors(arguments: tuple[str, str], folder: Path) -> None:
    result = run("mlp.onnx", *arguments)
    assert result.exit_code == 2
    assert "expected" in result.stderr
    assert arguments[0] in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ModelError("model", "fails", "Try"), 2, "error: model: fails. Try"),
        (KeyboardInterrupt(), 130, "error: interrupted; 1 of 2 points are in"),
    ],
)
def test_a_failure_keeps_the_points_before_it_and_says_so(
    error: BaseException,
    code: int,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(model: Path, path: Path, config: CompileConfig, **options: Any) -> Any:
        if config.redundancy > 1:
            raise error
        return compile_model(model, path, config, **options)

    arguments = ("mlp.onnx", "--calibration", "none", "--redundancy", "1,1.5", "-o", "out")
    with monkeypatch.context() as patch:
        patch.setattr("fqonnx.cli.sweep.compile_model", fail)
        failed = run(*arguments)
    assert failed.exit_code == code
    assert message in failed.stderr
    assert "1 of 2 points are in out/sweep.csv; the same command goes on" in failed.stderr
    assert len(table(folder / "out" / "sweep.csv")) == 1
    again = run(*arguments)
    assert again.exit_code == 0
    assert "1 of 2 points are there already" in again.stderr
    assert again.stderr.count("no calibration") == 1


def test_a_model_that_changes_meanwhile_ends_the_sweep(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(model: Path, *arguments: Any, **options: Any) -> Any:
        report = compile_model(model, *arguments, **options)
        model.write_bytes(model.read_bytes() + b"\x10\x01")  # a field of the message
        return report

    monkeypatch.setattr("fqonnx.cli.sweep.compile_model", changing)
    result = run("mlp.onnx", "--calibration", "none", "--redundancy", "1")
    assert result.exit_code == 2
    assert "changed while the sweep was running" in result.stderr
    assert not (folder / "mlp-sweep").exists()
