"""A compilation that is interrupted goes on where it was, to the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import fqonnx.calibrate.calibration
import fqonnx.quant.weight
import fqonnx.workshop
import fqonnx.written_model
from fqonnx import CompileConfig, compile_model
from fqonnx.config import Override
from fqonnx.diff import Threshold
from fqonnx.errors import ModelError
from fqonnx.executor import LocalExecutor
from fqonnx.layer_store import LayerStore
from fqonnx.session import Session
from support import mlp_model

OPTIONS: dict[str, dict[str, Any]] = {
    "auto": {},
    "sequential": {"sequential": True},
    "budget": {"target_bits": 2.5},
    "biases": {"quantize_bias": True, "method": "sigma-delta"},
}
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``mlp.onnx``, whose weights are in a file beside it, and ``data.npz``."""
    ir.save(mlp_model(), tmp_path / "mlp.onnx", external_data="mlp.data")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((200, 64)).astype(np.float32))
    return tmp_path


def compiled(folder: Path, name: str = "out.onnx", workers: int = 2, **options: Any) -> bytes:
    """Compile the model of a folder; return the bytes of the file."""
    compile_model(
        folder / "mlp.onnx",
        folder / name,
        CompileConfig(**options),
        calibration=folder / "data.npz",
        executor=LocalExecutor(workers),
    )
    return (folder / name).read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Interruption:
    """Raises in the place of a commit to the store, and counts what was committed before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
        self.commits, put = 0, LayerStore.put

        def interrupted(store: LayerStore, *arguments: Any) -> Any:
            if self.commits == before:
                raise KeyboardInterrupt
            self.commits += 1
            return put(store, *arguments)

        monkeypatch.setattr(LayerStore, "put", interrupted)


def stopped_before_writing(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    """Interrupt a compilation when all weights are done."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fqonnx.pipeline, "written_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            call()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that gets an entry for each round that is calibrated."""
    rounds: list[object] = []
    collect = fqonnx.calibrate.calibration.collect_moments

    def counting(*arguments: Any, **options: Any) -> Any:
        rounds.append(None)
        return collect(*arguments, **options)

    monkeypatch.setattr(fqonnx.calibrate.calibration, "collect_moments", counting)
    return rounds


@EVERY_OPTION
def test_interruption_at_any_commit_changes_no_byte(
    options: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compiled(folder, "whole.onnx", **OPTIONS[options])
    before = names(folder)
    done = 0
    for _ in range(100):
        with monkeypatch.context() as patch:
            interruption = Interruption(patch, before=2)
            try:
                found = compiled(folder, **OPTIONS[options])
            except KeyboardInterrupt:
                assert interruption.commits == 2
                done += 2
                work = folder / ".out.onnx.layers"
                assert len(list(work.glob("*.safetensors"))) == done
                assert names(folder) == sorted([*before, work.name])
                continue
        break
    assert found == whole
    assert names(folder) == sorted([*before, "out.onnx"])


def test_rounds_whose_layers_are_done_are_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_writing(monkeypatch, lambda: compiled(folder, sequential=True))
    (work,) = folder.glob(".out.onnx.layers")
    rounds = counted(monkeypatch)
    spoiled = sorted(work.iterdir())[0]
    spoiled.write_bytes(spoiled.read_bytes()[:-1])
    compiled(folder, sequential=True)
    assert len(rounds) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"bits": 3},
        {"method": "gptq"},
        {"redundancy": 1.25},
        {"overrides": (Override("*", bits=3),)},
    ],
    ids=str,
)
def test_other_options_use_nothing_of_it(
    other: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_writing(monkeypatch, lambda: compiled(folder))
    found = compiled(folder, **other)
    assert found == compiled(folder, "fresh.onnx", **other)


@pytest.mark.parametrize("changed", ["mlp.data", "data.npz"])
def test_another_model_or_other_data_use_nothing_of_it(
    changed: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_writing(monkeypatch, lambda: compiled(folder))
    if changed == "mlp.data":
        content = np.fromfile(folder / changed, np.float32)
        content[::2] *= 2.0
        content.tofile(folder / changed)
    else:
        x = np.load(folder / changed)["x"]
        np.savez(folder / changed, x=x[::-1])
    rounds = counted(monkeypatch)
    found = compiled(folder)
    assert rounds
    assert found == compiled(folder, "fresh.onnx")


def test_thresholds_are_met_with_what_was_tried_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def auto(name: str) -> bytes:
        meet = [Threshold("cosine", 0.97)]
        paths = folder / "mlp.onnx", folder / name
        compile_model(*paths, calibration=folder / "data.npz", meet=meet)
        return paths[1].read_bytes()

    whole = auto("whole.onnx")
    stopped_before_writing(monkeypatch, lambda: auto("out.onnx"))
    rounds = counted(monkeypatch)
    assert auto("out.onnx") == whole
    assert rounds == []


@EVERY_OPTION
def test_number_of_workers_changes_no_byte(
    options: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.quant.weight, "_SLICE_COEFFS", 1)  # slices of 64 channels
    found = {compiled(folder, workers=workers, **OPTIONS[options]) for workers in (1, 2, 5)}
    assert len(found) == 1


# Killed processes.

KILLED = """
    import os, signal, sys
    import fqonnx.layer_store, fqonnx.written_model
    from pathlib import Path
    from fqonnx.cli import main

    fqonnx.written_model._EXTERNAL_BYTES = 100
    module, name, count = sys.argv[1:4]
    owner = {"store": fqonnx.layer_store, "output": fqonnx.written_model, "path": Path}[module]
    original, calls = getattr(owner, name), []

    def killed(*arguments):
        calls.append(None)
        if len(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, name, killed)
    main(sys.argv[4:])
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-P", "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=True)


def test_killed_at_any_moment_the_old_output_works_and_the_same_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", 100)
    whole = compiled(folder, "out.onnx", bits=3)
    old = compiled(folder, "out.onnx", bits=2)
    assert old != whole
    feed = {"x": np.ones((2, 64), np.float32)}
    (expected,) = Session(folder / "out.onnx", "old").run(feed)
    for module, name, count in [
        ("store", "save_file", 2),  # nothing of the second weight is there
        ("store", "sha256", 1),  # a file has its temporary name
        ("output", "_unload", 1),  # all weights are done
        ("output", "sync", 1),  # the data are written
        ("path", "replace", 3),  # between that of the data and that of the model
    ]:
        data = ("--calibration", folder / "data.npz")
        command = ("compile", folder / "mlp.onnx", "-o", folder / "out.onnx", "--bits", 3, *data)
        process = run(KILLED, module, name, count, *command)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert (folder / "out.onnx").read_bytes() == old
        (found,) = Session(folder / "out.onnx", "old").run(feed)
        assert np.array_equal(found, expected)
    assert len(list(folder.glob("out.onnx.*.data"))) == 2
    rounds = counted(monkeypatch)
    assert compiled(folder, "out.onnx", bits=3) == whole
    assert rounds == []
    assert len(list(folder.glob("out.onnx.*.data"))) == 1
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("largest", [2000, 20_000])
def test_full_disk_is_an_error_that_leaves_the_old_output(largest: int, folder: Path) -> None:
    """A limit of the size of a file stands for a full disk: no write goes beyond it."""
    old = compiled(folder, "out.onnx")
    limit = f"""
        import resource, signal, sys
        from fqonnx.cli import main
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))
        main(sys.argv[1:])
    """
    command = ("compile", folder / "mlp.onnx", "-o", folder / "out.onnx", "--bits", 4)
    process = run(limit, *command, "--calibration", "none")
    assert process.returncode == 2, process.stderr
    assert "cannot be written" in process.stderr
    assert "Traceback" not in process.stderr
    assert ("the same command goes on" in process.stderr) == (largest == 20_000)
    assert (folder / "out.onnx").read_bytes() == old
    assert not list(folder.glob("**/*.part"))


def test_layer_that_fails_leaves_the_others_and_says_so(folder: Path) -> None:
    model = mlp_model()
    weight = np.full((80, 48), np.nan, np.float32)
    model.graph.initializers["w3"].const_value = ir.tensor(weight, name="w3")
    ir.save(model, folder / "mlp.onnx")
    with pytest.raises(ModelError, match="NaN") as info:
        compiled(folder, workers=1)
    assert info.value.__notes__[0].startswith("2 quantized weights are kept in ")
