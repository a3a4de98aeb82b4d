from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx import CompileConfig, CompileReport, ConfigError, DataError, ModelError
from fqonnx.diff import OutputDiff
from fqonnx.model_file import load_model, model_files
from fqonnx.report import CalibrationReport, ModelReport
from fqonnx.sweep import (
    SweepFolder,
    SweepGrid,
    SweepPoint,
    SweepRow,
    first_output,
    pareto_front,
    read_rows,
    run_sweep,
    sweep_identity,
)
from support import mlp_model

GRID = SweepGrid(("auto",), (2, 3), (1.0, 1.25))
IDENTITY = {"model": "abc", "include": ("x", "y"), "seed": 0}


def report(
    config: CompileConfig, *, outputs: tuple[str, ...] = ("y", "z"), bits: float | None = 1.0
) -> CompileReport:
    """Return what a compilation would: as many bits as asked for, better with each."""
    stored = config.bits * config.redundancy
    return CompileReport(
        layers=[],
        model=ModelReport(
            100, 10, bits and config.redundancy, bits and stored, bits and bits * stored
        ),
        outputs=[OutputDiff(name, 1 - 1 / stored**2, 6 * stored, 0.5, 1.0, 8) for name in outputs],
        bounds=[],
        calibration=CalibrationReport("none", 0, 8, "synthetic", None, None),
        timing={"total_s": 1.5},
        versions={},
        options={},
        warnings=["all alike", f"bits {config.bits}"],
    )


class Compiler:
    """Stands in for `compile_model`; fails at the call of a given number."""

    def __init__(self, fail_at: int = 0, error: BaseException | None = None) -> None:
        self.calls: list[CompileConfig] = []
        self.paths: list[Path] = []
        self._fail_at = fail_at
        self._error = error

    def __call__(self, config: CompileConfig, path: Path) -> CompileReport:
        self.calls.append(config)
        self.paths.append(path)
        assert list(path.parent.iterdir()) == []
        path.write_bytes(b"model")
        if len(self.calls) == self._fail_at:
            raise self._error or KeyboardInterrupt
        return report(config)


def sweep(
    path: Path,
    compiler: Callable[[CompileConfig, Path], CompileReport],
    grid: SweepGrid = GRID,
    identity: Mapping[str, Any] = IDENTITY,
) -> tuple[SweepFolder, list[str], list[str]]:
    announced: list[str] = []
    folder = SweepFolder(path, identity)
    warnings = run_sweep(folder, grid.plan(CompileConfig()), compiler, announced.append)
    return folder, announced, warnings


def test_grid_has_every_combination_and_checks_each() -> None:
    plan = SweepGrid(("auto", "rtn"), (2, 3), (1.0, 1.5)).plan(CompileConfig(seed=3))
    assert list(plan) == [
        *(SweepPoint("auto", bits, r) for bits in (2, 3) for r in (1.0, 1.5)),
        *(SweepPoint("rtn", bits, 1.0) for bits in (2, 3)),
    ]
    for point, config in plan.items():
        assert (config.method, config.bits, config.redundancy) == dataclasses.astuple(point)
        assert config.seed == 3
    with pytest.raises(ConfigError, match="bits: found 5"):
        SweepGrid(("auto",), (2, 5), (1.0,)).plan(CompileConfig())
    with pytest.raises(ConfigError, match="method: found 'none'"):
        SweepGrid(("none",), (2,), (1.0,)).plan(CompileConfig())


def test_methods_without_a_frame_have_redundancy_1_whatever_was_asked() -> None:
    grid = SweepGrid(("gptq", "auto"), (2,), (1.25,))
    assert grid.frameless == ["gptq"]
    assert list(grid.plan(CompileConfig())) == [
        SweepPoint("gptq", 2, 1.0),
        SweepPoint("auto", 2, 1.25),
    ]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder, announced, warnings = sweep(tmp_path / "new" / "sweep", Compiler())
    assert [row.point for row in first_output(folder.rows)] == list(GRID.plan(CompileConfig()))
    assert {row.output for row in folder.rows} == {"y", "z"}
    assert read_rows(folder.csv) == folder.rows
    assert announced[2] == "point 3 of 4: auto, 3 bits, redundancy 1"
    assert warnings == ["all alike", "bits 2", "bits 3"]
    assert sorted(x.name for x in folder.path.iterdir()) == ["sweep.csv", "sweep.json"]


def test_odd_names_and_numbers_survive(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, IDENTITY)
    row = SweepRow("auto", 2, 1.1, 1.125, 2.2, 'a,"b"\nc', 1.0, math.inf, 0.1 + 0.2, 7, 0.5)
    nan = dataclasses.replace(row, output="ü", cosine=math.nan)
    folder.add([row, nan])
    first, second = SweepFolder(tmp_path, IDENTITY).rows
    assert first == row
    assert math.isnan(second.cosine)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("model", "fails", "Try")])
def test_what_was_done_before_a_failure_is_not_done_again(
    error: BaseException, tmp_path: Path
) -> None:
    first = Compiler(fail_at=3, error=error)
    with pytest.raises(type(error)):
        sweep(tmp_path, first)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["sweep.csv", "sweep.json"]
    second = Compiler()
    folder, announced, _ = sweep(tmp_path, second)
    assert [config.bits for config in second.calls] == [3, 3]
    assert announced[0].startswith("point 3 of 4")
    assert folder.points == set(GRID.plan(CompileConfig()))


def test_a_failure_at_the_first_point_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "sweep", Compiler(fail_at=1))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_sweep_go(tmp_path: Path) -> None:
    (tmp_path / ".fqonnx-sweep").mkdir()
    (tmp_path / ".fqonnx-sweep" / "model.onnx.data").write_bytes(b"half")
    compiler = Compiler()
    sweep(tmp_path, compiler)
    assert compiler.paths[0].parent == tmp_path / ".fqonnx-sweep"
    assert not (tmp_path / ".fqonnx-sweep").exists()


def test_another_grid_adds_its_points(tmp_path: Path) -> None:
    sweep(tmp_path, Compiler())
    compiler = Compiler()
    more = SweepGrid(("auto", "rtn"), (2,), (1.25, 1.5))
    folder, announced, _ = sweep(tmp_path, compiler, more)
    assert [(c.method, c.redundancy) for c in compiler.calls] == [("auto", 1.5), ("rtn", 1.0)]
    assert announced[0] == "point 2 of 3: auto, 2 bits, redundancy 1.5"
    assert len(folder.points) == 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({**IDENTITY, "model": "def"}, "model 'abc' there, 'def' here"),
        ({**IDENTITY, "include": ("x",)}, r"include \['x', 'y'\] there, \['x'\] here"),
        ({**IDENTITY, "new": True}, "new None there, True here"),
        ({"model": "abc", "seed": 0}, r"include \['x', 'y'\] there, None here"),
    ],
)
def test_points_of_something_else_are_refused(
    changed: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    sweep(tmp_path, Compiler())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=f"{message}.*Choose another folder"):
        SweepFolder(tmp_path, changed)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_identity_without_points_binds_nobody(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"model": "def"}')
    folder, _, _ = sweep(tmp_path, Compiler())
    assert json.loads(folder.json.read_text())["model"] == "abc"


def test_points_without_identity_are_refused(tmp_path: Path) -> None:
    folder, _, _ = sweep(tmp_path, Compiler())
    folder.json.write_text("{")
    with pytest.raises(DataError, match=r"sweep\.json: not readable"):
        SweepFolder(tmp_path, IDENTITY)
    folder.json.write_text("[]")
    with pytest.raises(DataError, match="expected an object"):
        SweepFolder(tmp_path, IDENTITY)
    folder.json.unlink()
    with pytest.raises(ConfigError, match=r"there is no sweep\.json beside it"):
        SweepFolder(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [], "line 1: found '', expected 'method,bits"),
        (lambda lines: ["a,b", *lines[1:]], "line 1: found 'a,b', expected 'method,bits"),
        (lambda lines: [*lines[:3], lines[3][:20]], "line 4: found"),
        (lambda lines: [*lines[:2], lines[2].replace("auto,2", "auto,two")], "line 3: .*'two'"),
        (lambda lines: [*lines, lines[1]], "line 10: output 'y' of auto, 2 bits.* there twice"),
        (lambda lines: [*lines, '"'], "line 10: "),
        (lambda lines: [*lines, ""], "line 10: found 0 fields"),
        (lambda lines: [*lines, "\udcff"], "line 10: 'utf-8' codec"),
        (lambda lines: ['"', *lines], "line 1: "),
        (lambda lines: [*lines, lines[1].replace("auto", "best")], "line 10: method: found 'best'"),
        (lambda lines: [*lines, lines[1].replace("auto,2", "auto,5")], "line 10: bits: found 5"),
        (lambda lines: [*lines, lines[1].replace(",1.0,2.0", ",2.0,nan")], "line 10: found nan"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(
    damage: Callable[[list[str]], list[str]], message: str, tmp_path: Path
) -> None:
    folder, _, _ = sweep(tmp_path, Compiler())
    lines = damage(folder.csv.read_text().splitlines())
    folder.csv.write_bytes("".join(f"{x}\n" for x in lines).encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"sweep\.csv, {message}"):
        SweepFolder(tmp_path, IDENTITY)


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = sweep(tmp_path, Compiler())
    before = folder.csv.read_bytes()
    row = dataclasses.replace(folder.rows[0], redundancy=2.0)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(ConfigError, match="No space left"):
            folder.add([row])
    assert folder.csv.read_bytes() == before
    assert row not in folder.rows
    assert sorted(x.name for x in tmp_path.iterdir()) == ["sweep.csv", "sweep.json"]


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"file: cannot be written: .*Choose another folder"):
        sweep(tmp_path / "file", Compiler())


def test_two_sweeps_do_not_write_one_folder(tmp_path: Path) -> None:
    refused = []

    def compile_and_start_another(config: CompileConfig, path: Path) -> CompileReport:
        with pytest.raises(ConfigError, match="another sweep is writing it"):
            sweep(tmp_path, Compiler())
        refused.append(path.parent.is_dir())
        return report(config)

    sweep(tmp_path, compile_and_start_another)
    assert refused == [True] * 4


def test_points_of_a_sweep_that_ended_meanwhile_are_kept(tmp_path: Path) -> None:
    early = SweepFolder(tmp_path, IDENTITY)
    sweep(tmp_path, Compiler())
    compiler = Compiler()
    grid = SweepGrid(("auto",), (3, 4), (1.0,))
    run_sweep(early, grid.plan(CompileConfig()), compiler, lambda _: None)
    assert [config.bits for config in compiler.calls] == [4]
    assert len(read_rows(early.csv)) == 10


def test_a_model_without_anything_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layer was quantized"):
        sweep(tmp_path, lambda config, _: report(config, bits=None))
    with pytest.raises(ModelError, match="no output that can be compared"):
        sweep(tmp_path, lambda config, _: report(config, outputs=()))


def test_identity_tells_models_data_and_options_apart(tmp_path: Path) -> None:
    model, data, folder = tmp_path / "m.onnx", tmp_path / "d.npz", tmp_path / "batches"
    ir.save(mlp_model(), model, external_data="m.data", size_threshold_bytes=0)
    folder.mkdir()
    for path, value in ((data, 1.0), (folder / "0.npz", 1.0), (folder / "1.npz", 2.0)):
        np.savez(path, x=np.full((4, 64), value, np.float32))

    def identity(calibration: Path | str = data, **options: Any) -> dict[str, Any]:
        files = model_files(model, load_model(model))
        return sweep_identity(files, str(calibration), CompileConfig(**options))

    first = identity()
    assert identity() == first
    assert identity(bits=3, redundancy=1.5, method="auto") == first
    others = [
        identity(folder),
        identity("none"),
        identity(seed=1),
        identity(include=("first",)),
        identity(exclude=("first",)),
        identity(mask_input="m"),
    ]
    np.savez(folder / "1.npz", x=np.zeros((4, 64), np.float32))
    others.append(identity(folder))
    np.savez(data, x=np.zeros((4, 64), np.float32))
    others.append(identity())
    content = bytearray((tmp_path / "m.data").read_bytes())
    content[5] ^= 1
    (tmp_path / "m.data").write_bytes(content)
    others.append(identity())
    distinct = {json.dumps(other) for other in [first, *others]}
    assert len(distinct) == 1 + len(others)
    with pytest.raises(DataError, match=r"absent\.npz: no such file"):
        identity(tmp_path / "absent.npz")


def test_front_is_what_nothing_beats() -> None:
    def row(bits_per_weight: float, cosine: float) -> SweepRow:
        return SweepRow("auto", 2, 1.0, 1.0, bits_per_weight, "y", cosine, 1.0, 1.0, 1, 1.0)

    best = [row(2, 0.8), row(2.5, 0.9), row(3, 0.95)]
    beaten = [row(2, 0.7), row(2.6, 0.9), row(2.7, 0.85), row(1.5, math.nan)]
    assert pareto_front([*beaten, *best]) == best
    assert pareto_front([best[0], best[0]]) == [best[0], best[0]]
    assert pareto_front([]) == []


def test_fusion_redundancies_are_what_they_round_to() -> None:
    plan = SweepGrid(("framequant",), (2,), (1.0, 1.05, 1.1, 1.15, 1.2)).plan(CompileConfig())
    assert [point.redundancy for point in plan] == [1.0, 1.125, 1.25]
    assert [config.redundancy for config in plan.values()] == [1.0, 1.125, 1.25]


def test_sides_are_for_methods_with_a_frame() -> None:
    plan = SweepGrid(("auto", "gptq"), (2,), (1.0,)).plan(CompileConfig(sides="both"))
    assert [config.sides for config in plan.values()] == ["both", None]


def test_folders_above_that_were_made_for_nothing_go(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "a" / "b" / "c", IDENTITY)
    with pytest.raises(ModelError):
        run_sweep(folder, GRID.plan(CompileConfig()), Compiler(1, ModelError("a", "b", "c")), print)
    assert list(tmp_path.iterdir()) == []
