from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from fqonnx.cli import main
from fqonnx.cli.console import _layer_table
from fqonnx.errors import ModelError
from fqonnx.layer_store import LayerStore
from fqonnx.quant_job import JobResult
from fqonnx.report import LayerReport
from fqonnx.runtime_ops import library_path
from support import conv_model, mlp_model, model_from_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    x = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_compile_then_diff_then_inspect(folder: Path) -> None:
    model, data, report = folder / "mlp.onnx", folder / "data.npz", folder / "r.json"
    compiled = run("compile", model, "--bits", 4, "--calibration", data, "--json", report)
    assert compiled.exit_code == 0
    assert "bits per weight" in compiled.output
    out = folder / "mlp-4bit.onnx"
    assert out.is_file()
    content = json.loads(report.read_text())
    assert [x["status"] for x in content["layers"]].count("quantized") == 3
    assert content["options"]["bits"] == 4

    diff = folder / "d.json"
    passed = run("diff", model, out, "--inputs", data, "--fail-under", "cosine=0.9", "--json", diff)
    assert passed.exit_code == 0
    assert json.loads(diff.read_text())["outputs"][0]["cosine"] > 0.9

    shown = run("inspect", out)
    assert shown.exit_code == 0
    assert "3 quantized layers" in shown.output
    assert "options: bits=4, " in shown.output


def test_interruption_says_what_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("compile", folder / "mlp.onnx", "--calibration", "none")
    put, left = LayerStore.put, 1

    def interrupted(store: LayerStore, key: str, result: JobResult) -> JobResult:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return put(store, key, result)

    with monkeypatch.context() as patch:
        patch.setattr(LayerStore, "put", interrupted)
        result = run(*command)
    assert result.exit_code == 130
    kept = folder / ".mlp-2bit.onnx.layers"
    assert f"error: interrupted; 1 quantized weights are kept in {kept}: the" in result.output
    assert run(*command).exit_code == 0
    assert not kept.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--executor", "localhost:8786"), "found 'localhost:8786'. Give it as dask://HOST:PORT"),
        (("--executor", "dask://h:1", "--workers", 2), "--workers: the cluster has its own"),
        (("--workers", 0), "0 is not in the range"),
    ],
    ids=str,
)
def test_executors_that_are_none(options: tuple[object, ...], message: str, folder: Path) -> None:
    result = run("compile", folder / "mlp.onnx", *options)
    assert result.exit_code == 2
    assert message in result.output


def test_trellis_from_compile_to_diff(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    rng = np.random.default_rng(0)
    model = conv_model(rng.standard_normal((64, 16, 3, 3)).astype(np.float32), "9, 9")
    ir.save(model, folder / "conv.onnx")
    out, report, diff = folder / "out.onnx", folder / "r.json", folder / "d.json"
    given = ("--codebook", "trellis", "--target", "ort-fqonnx", "--calibration", "none")
    compiled = run("compile", folder / "conv.onnx", "-o", out, *given, "--json", report)
    assert "8 bits a weight" in " ".join(compiled.output.split())
    content = json.loads(report.read_text())
    assert (content["options"]["codebook"], content["options"]["target"]) == given[1:4:2]
    assert content["layers"][0]["codebook"] == "trellis"
    stored = 64 * 144 * 2 // 8 + 64 + 64 * 2 + 144 // 8
    assert content["layers"][0]["stored_bytes"] == stored
    shown = run("inspect", out).output
    assert f"{stored * 8 / (64 * 144):.3f}" in shown
    assert "trellis" in shown

    run("diff", folder / "conv.onnx", out, "--inputs", "synthetic", "--json", diff)
    (layer,) = json.loads(diff.read_text())["layers"]
    assert (layer["codebook"], layer["stored_bytes"]) == ("trellis", stored)
    assert layer["weight_rel_error"] == pytest.approx(content["layers"][0]["weight_rel_error"])
    histogram = layer["histogram"]
    assert len(histogram["levels"]) == len(histogram["level_counts"]) == 64
    assert sum(histogram["level_counts"]) == sum(histogram["counts"]) == 64 * 144


def test_diff_of_a_trellis_tells_weights_from_kernels(folder: Path) -> None:
    rng = np.random.default_rng(0)
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 64] x) => (float[n, 128] y, float[n, 64] z) {
          y = MatMul(x, w)
          z = MatMul(x, v)
        }""",
        w=rng.standard_normal((64, 128)).astype(np.float32),
        v=rng.standard_normal((64, 64)).astype(np.float32),
    )
    ir.save(model, folder / "two.onnx")
    out, diff = folder / "out.onnx", folder / "d.json"
    run("compile", folder / "two.onnx", "-o", out, "--codebook", "trellis")
    assert len(onnx.load(out).graph.node) == 1  # both, merged
    run("diff", folder / "two.onnx", out, "--inputs", "synthetic", "--json", diff)
    found = json.loads(diff.read_text())
    for weights, kernels in zip(found["split"]["algorithm"], found["split"]["kernel"], strict=True):
        assert kernels["sqnr_db"] > weights["sqnr_db"] + 10
    for layer in found["layers"]:
        assert layer["codebook"] == "trellis"
        assert layer["local_rel_error"] == pytest.approx(layer["weight_rel_error"], rel=0.1)


def test_compile_is_a_gate(folder: Path) -> None:
    model, data, page = folder / "mlp.onnx", folder / "data.npz", folder / "page.html"
    given = ("compile", model, "--calibration", data, "--bits", 2)
    missed = run(*given, "--fail-under", "cosine=0.999", "--report", page)
    assert missed.exit_code == 1
    assert "missed: y: cosine is 0.9" in missed.output
    assert (folder / "mlp-2bit.onnx").is_file()
    assert "first" in page.read_text()
    assert (
        run(*given, "--fail-under", "cosine=0.5", "--fail-over", "max_abs_diff=99").exit_code == 0
    )
    chosen = run(*given, "--fail-under", "cosine=0.97", "--auto")
    assert chosen.exit_code == 0
    assert "met: y: cosine is 0.9" in chosen.output


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("m", "broken", "Mend it")])
def test_a_page_that_fails_leaves_the_model_and_says_so(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fqonnx.cli.compile.diff_models", fail)
    options = ("--calibration", "none", "--fail-under", "cosine=0.1", "--report")
    found = run("compile", folder / "mlp.onnx", *options, folder / "page.html")
    assert found.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    output = folder / "mlp-2bit.onnx"
    assert f"{output} is written; not all reports of it are" in found.stderr
    assert output.is_file()
    assert "met: y: cosine is" in found.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--auto",), "there is no threshold to meet"),
        (("--auto", "--fail-under", "cosine=0.9", "--target-bits", 2.5), "Leave one of them out"),
        (("--fail-under", "kl_mean=0.9"), "the metric is one of"),
    ],
)
def test_gates_that_make_no_sense(folder: Path, options: tuple[object, ...], message: str) -> None:
    found = run("compile", folder / "mlp.onnx", *options)
    assert found.exit_code == 2
    assert message in found.output
    assert not (folder / "mlp-2bit.onnx").exists()


def test_doctor_says_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if library_path() is not None:
        found = run("doctor")
        assert found.exit_code == 0
        assert str(library_path()) in found.output
        assert found.output.endswith("in a session: loads\n")
    monkeypatch.setattr("fqonnx.doctor.examine.library_path", lambda: None)
    missing = run("doctor")
    assert missing.exit_code == 0
    assert "native library: not built" in missing.output


def test_doctor_fails_on_a_library_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "libfqonnx_ops.so"
    broken.write_bytes(b"nothing")
    monkeypatch.setenv("FQONNX_LIBRARY", str(broken))
    failed = run("doctor")
    assert failed.exit_code == 1
    assert "does not load" in failed.output


@pytest.mark.parametrize("sequential", [True, False])
def test_framequant_on_one_side(
    sequential: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # no row of a table is broken
    model, data, report = folder / "mlp.onnx", folder / "data.npz", folder / "r.json"
    arguments = ("--method", "framequant", "--sides", "in", "--redundancy", "1.1")
    flags = ("--sequential",) if sequential else ()
    compiled = run("compile", model, *arguments, *flags, "--calibration", data, "--json", report)
    assert compiled.exit_code == 0
    content = json.loads(report.read_text())
    options = content["options"]
    assert (options["method"], options["sides"]) == ("framequant", "in")
    assert options["sequential"] == sequential
    assert content["model"]["redundancy_stored"] == 1.125
    assert {x["redundancy_out"] for x in content["layers"]} == {1.0}

    shown = run("inspect", folder / "mlp-2bit.onnx")
    assert shown.exit_code == 0
    assert "3 quantized layers" in shown.output
    assert "fusion" in shown.output
    assert "1.125" in shown.output


def test_sides_are_those_of_the_method(folder: Path) -> None:
    report = folder / "r.json"
    for method, sides in (("auto", {1.0}), ("framequant", {1.125})):
        arguments = ("--method", method, "--redundancy", "1.125", "--calibration", "none")
        assert run("compile", folder / "mlp.onnx", *arguments, "--json", report).exit_code == 0
        content = json.loads(report.read_text())
        assert content["options"]["sides"] == ("both" if method == "framequant" else "in")
        assert {x["redundancy_out"] for x in content["layers"]} == sides


def test_sigma_delta_says_what_can_be_lost(folder: Path) -> None:
    model, report = folder / "mlp.onnx", folder / "r.json"
    arguments = ("--method", "sigma-delta", "--order", 2, "--bits", 1, "--calibration", "none")
    compiled = run("compile", model, *arguments, "--sides", "out", "--json", report)
    assert compiled.exit_code == 0
    content = json.loads(report.read_text())
    assert (content["options"]["order"], content["options"]["sides"]) == (2, "out")
    assert content["options"]["redundancy"] == 3.0
    assert content["options"]["lowering"] == "onnx"
    layers = [layer for layer in content["layers"] if layer["status"] == "quantized"]
    assert len(layers) == 3
    for layer in layers:
        assert (layer["frame_in"], layer["frame_out"]) == ("identity", "harmonic")
        assert layer["redundancy_asked"] == 3.0
        assert 0 < layer["weight_rel_error"] <= layer["weight_rel_bound"]
        assert 0 < layer["largest_state"] <= 2.0
    shown = run("inspect", folder / "mlp-1bit.onnx")
    assert shown.exit_code == 0
    assert "harmonic" in shown.output


def test_missed_threshold_is_exit_1_and_says_by_how_much(folder: Path) -> None:
    model, data, diff = folder / "mlp.onnx", folder / "data.npz", folder / "d.json"
    run("compile", model, "--bits", 1, "--calibration", "none")
    arguments = ("diff", model, folder / "mlp-1bit.onnx", "--inputs", data, "--json", diff)
    missed = run(*arguments, "--fail-under", "cosine=0.9999", "--fail-under", "sqnr_db=-100")
    assert missed.exit_code == 1
    assert "missed: y: cosine is 0.6" in missed.output
    assert "the threshold is ≥ 0.9999" in missed.output
    verdicts = json.loads(diff.read_text())["verdicts"]
    assert [(verdict["metric"], verdict["met"]) for verdict in verdicts] == [
        ("cosine", False),
        ("sqnr_db", True),
    ]


def test_identical_models_have_infinite_sqnr_and_valid_json(folder: Path) -> None:
    model, diff = folder / "mlp.onnx", folder / "d.json"
    same = run(
        "diff",
        model,
        model,
        "--inputs",
        "synthetic",
        "--json",
        diff,
        "--fail-under",
        "sqnr_db=1000",
    )
    assert same.exit_code == 0
    assert json.loads(diff.read_text())["outputs"][0]["sqnr_db"] is None


def test_inspect_float_model_shows_what_can_be_quantized(folder: Path) -> None:
    shown = run("inspect", folder / "mlp.onnx")
    assert shown.exit_code == 0
    assert "3 layers can be quantized" in shown.output
    assert "first" in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compile", "absent.onnx"), "absent.onnx: no such file"),
        (("compile", "data.npz"), "not an ONNX model"),
        (("compile", "mlp.onnx", "--bits", "5"), "bits: found 5, expected 1, 2, 3 or 4"),
        (("compile", "mlp.onnx", "--redundancy", "0.5"), "redundancy: found 0.5"),
        (
            ("compile", "mlp.onnx", "--method", "gptq", "--sides", "both"),
            "sides: method 'gptq' uses no frame",
        ),
        (("compile", "mlp.onnx", "--order", "2"), "order: found 2, and method 'auto' has no order"),
        (
            ("compile", "mlp.onnx", "--method", "sigma-delta", "--order", "3"),
            "order: found 3, expected 1 or 2",
        ),
        (
            ("compile", "mlp.onnx", "--method", "rtn", "--sides", "out"),
            "sides: method 'rtn' uses no frame",
        ),
        (("compile", "mlp.onnx", "--calibration", "absent.npz"), "absent.npz: no such file"),
        (("compile", "mlp.onnx", "--include", "nothing*"), "no layer that matches nothing*"),
        (("compile", "mlp.onnx", "--mask-input", "m"), "the model has no input 'm'; it has x"),
        (("compile", "mlp.onnx", "--device", "nowhere"), "device"),
        (("compile", "mlp.onnx", "--device", "meta"), "device"),
        (("compile", "mlp.onnx", "--seed", "-1"), "seed: found -1"),
        (("compile", "."), "it is a folder"),
        (("compile", "mlp.onnx", "--json", "mlp.onnx"), "would destroy"),
        (("compile", "mlp.onnx", "--json", "mlp-2bit.onnx"), "would destroy"),
        (
            ("diff", "mlp.onnx", "mlp.onnx", "--inputs", "synthetic", "--json", "mlp.onnx"),
            "would destroy",
        ),
        (("compile", "mlp.onnx", "--json", "absent/r.json"), "absent/r.json: cannot be written"),
        (("diff", "mlp.onnx", "absent.onnx", "--inputs", "data.npz"), "absent.onnx: no such file"),
        (("diff", "mlp.onnx", "mlp.onnx", "--inputs", "wrong.npz"), "no array named x"),
        (("inspect", "data.npz"), "not an ONNX model"),
        (("export", "no_such_module:f", "-o", "m.onnx"), "no module named 'no_such_module'"),
        (("export", "nothing", "-o", "m.onnx"), "expected module:factory"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: tuple[str, ...], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    np.savez("wrong.npz", y=np.zeros((4, 64), np.float32))
    before = set(folder.iterdir())
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 9 TiB"), "Unable to allocate 9 TiB"),
        (RecursionError(), "a chain of operators"),
        (PermissionError(13, "Permission denied", "a/file"), "a/file: Permission denied"),
        (OSError(28, "No space left on device"), "error: No space left on device"),
    ],
)
def test_limits_of_the_machine_are_one_line(
    error: Exception, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fqonnx.cli.compile.compile_model", fail)
    result = run("compile", folder / "mlp.onnx")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_fault_of_ours_is_no_missed_threshold(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr("fqonnx.cli.inspect.load_compiled", fail)
    result = run("inspect", folder / "mlp.onnx")
    assert result.exit_code == 70
    assert "ZeroDivisionError: odd" in result.stderr


def test_output_that_nobody_takes_is_no_missed_threshold(folder: Path) -> None:
    command = [str(Path(sys.executable).with_name("fqonnx")), "inspect", str(folder / "mlp.onnx")]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed, Path("/dev/full").open("wb") as full:
        for stdout, code, said in ((closed, 141, ""), (full, 2, "error: No space left on dev")):
            done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
            assert done.returncode == code
            assert done.stderr.startswith(said)
            assert done.stderr.count("\n") == bool(said)


@pytest.mark.parametrize("option", ["-o", "--json", "--report"])
@pytest.mark.parametrize("target", ["batches/0.npz", "layers.toml"])
def test_what_is_read_is_not_written_over(folder: Path, option: str, target: str) -> None:
    (folder / "batches").mkdir()
    np.savez(folder / "batches" / "0.npz", x=np.ones((4, 64), np.float32))
    (folder / "layers.toml").write_text('["*"]\nbits = 3\n')
    before = (folder / target).read_bytes()
    options = ("--calibration", folder / "batches", "--config", folder / "layers.toml")
    found = run("compile", folder / "mlp.onnx", *options, option, folder / target)
    assert found.exit_code == 2
    assert f"writing it would destroy {folder / target}" in found.stderr
    assert (folder / target).read_bytes() == before


def test_a_model_whose_input_has_no_shape_takes_samples(folder: Path) -> None:
    model = mlp_model()
    model.graph.inputs[0].shape = None
    ir.save(model, folder / "open.onnx")
    found = run("compile", folder / "open.onnx", "--calibration", folder / "data.npz")
    assert found.exit_code == 0
    pair = (folder / "open.onnx", folder / "open-2bit.onnx")
    assert run("diff", *pair, "--inputs", folder / "data.npz").exit_code == 0
    found = run("compile", folder / "open.onnx")
    assert found.exit_code == 2
    assert "Give samples, or export the model with a shape" in found.stderr


def test_device_is_not_replaced_by_a_model(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    result = run("compile", folder / "mlp.onnx", "-o", folder / "pipe")
    assert result.exit_code == 2
    assert "it is a device or a pipe. Name a file" in result.stderr
    assert (folder / "pipe").is_fifo()


def test_unknown_side_is_a_usage_error(folder: Path) -> None:
    result = run("compile", folder / "mlp.onnx", "--sides", "left")
    assert result.exit_code == 2
    assert "'left'" in result.stderr


@pytest.mark.parametrize("value", ["cosine", "cosine=high", "accuracy=1"])
def test_bad_threshold_is_a_usage_error(value: str, folder: Path) -> None:
    model = folder / "mlp.onnx"
    result = run("diff", model, model, "--inputs", "synthetic", "--fail-under", value)
    assert result.exit_code == 2
    assert value in result.stderr


def test_as_a_process(folder: Path) -> None:
    command = [str(Path(sys.executable).with_name("fqonnx"))]
    good = subprocess.run(
        [*command, "compile", "mlp.onnx", "--calibration", "data.npz"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert good.returncode == 0
    assert good.stderr == (
        "warning: 3 layers have scalar codes: whole tiles of a trellis would take more than an "
        "eighth more\n"
    )
    bad = subprocess.run(
        [*command, "compile", "absent.onnx"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 2
    assert bad.stderr == "error: absent.onnx: no such file. Check the path\n"
    assert "Traceback" not in bad.stdout + bad.stderr


def test_compile_says_what_a_redundancy_came_to(folder: Path) -> None:
    arguments = (
        "--method",
        "framequant",
        "--redundancy",
        1.1,
        "--calibration",
        folder / "data.npz",
    )
    shown = run("compile", folder / "mlp.onnx", *arguments).output
    table = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in summary(shown)}
    assert table["redundancy a side, 1.1 asked for"] == "1.125"
    assert table["redundancy stored"] == "1.266"
    assert table["bits of codes a weight"] == "2.531"
    assert "proxy loss" in shown
    assert "redundancy 1.1 is 1.125 a side" in shown


def test_compile_shows_bounds_beside_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ("--method", "sigma-delta", "--quantize-bias", "--json", folder / "r.json")
    shown = run("compile", folder / "mlp.onnx", *arguments, "--calibration", "none").output
    table = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in summary(shown)}
    content = json.loads((folder / "r.json").read_text())
    assert "3 quantized layers" in run("inspect", folder / "mlp-2bit.onnx").output
    assert content["options"]["quantize_bias"] is True
    (bound,) = content["bounds"]
    rows = (
        "y: largest error ‖y − ŷ‖",
        "bound by the weights' norms",
        "bound by the frame's theory",
    )
    for row, key in zip(rows, ("error", "bound", "bound_by_frame"), strict=True):
        assert table[row] == f"{bound[key]:.4g}"
    for layer in content["layers"]:
        (row,) = [line for line in shown.splitlines() if line.startswith(f"│ {layer['name']} ")]
        cells = [cell.strip() for cell in row.split("│")[1:-1]]
        values = [layer["weight_rel_error"], layer["weight_rel_bound"]]
        assert cells[4:] == [*(f"{value:.1%}" for value in values), f"{layer['largest_state']:.3f}"]
    assert "…" not in shown
    assert "no bound for" not in shown


def test_compile_says_why_there_is_no_bound(folder: Path) -> None:
    model = mlp_model()
    model.graph.inputs[0].shape = ir.Shape([4, 64])
    model.graph.outputs[0].shape = ir.Shape([4, 48])
    ir.save(model, folder / "fixed.onnx")
    arguments = ("--method", "sigma-delta", "--calibration", "none")
    shown = run("compile", folder / "fixed.onnx", *arguments).output
    assert "no bound for y: the inputs have no named first axis in common" in shown
    assert "largest error" not in shown
    hidden = model.graph[0].outputs[0]
    hidden.dtype, hidden.shape = ir.DataType.FLOAT, ir.Shape([4, 96])
    model.graph.outputs.append(hidden)
    ir.save(model, folder / "two.onnx")
    shown = run("compile", folder / "two.onnx", *arguments).output
    assert shown.count("no bound for y and 1 other outputs: the inputs have") == 1


@pytest.mark.parametrize("sigma_delta", [True, False])
def test_numbers_of_large_layers_are_not_cut(
    sigma_delta: bool,
) -> None:
    numbers = [0.218, 1.234, 0.499] if sigma_delta else [0.218, 1234567.0]
    errors = ("weight_rel_error", "weight_rel_bound", "largest_state")
    names = errors if sigma_delta else ("output_rel_error", "proxy_loss")
    layer = LayerReport(
        "bert.encoder.layer.11.attention.output.dense",
        *("Gemm", 4096, 1024, "quantized"),
        redundancy_stored=3.0,
        bits_per_weight=6.078,
        **dict(zip(names, numbers, strict=True)),
    )
    table = _layer_table([layer])
    narrow = Console(width=80, record=True, file=io.StringIO())
    narrow.print(table)
    (row,) = [line for line in narrow.export_text().splitlines() if "4096 × 1024" in line]
    shown = ["21.8%", "123.4%", "0.499"] if sigma_delta else ["21.8%", "1.235e+06"]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[1:] == ["4096 × 1024", "3.000", "6.078", *shown]
    assert cells[0].startswith("…")
    assert layer.name.endswith(cells[0][1:])


def summary(shown: str) -> list[str]:
    """Return the lines of the table that ends a compilation."""
    return [line for line in shown.splitlines() if line.count("│") == 4]


def test_convolutions_from_inspect_to_inspect(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rng = np.random.default_rng(0)
    model = conv_model(rng.standard_normal((40, 16, 3, 3)).astype(np.float32), "9, 9")
    ir.save(model, folder / "conv.onnx")
    shown = run("inspect", folder / "conv.onnx").output
    assert "1 layers can be quantized" in shown
    compiled = run("compile", folder / "conv.onnx", "--calibration", "none", "--sequential")
    assert "144 × 40" in compiled.output
    stored = (40 * 144 * 2 // 8 + 40 * 2 + 144 // 8) * 8 / (144 * 40)
    shown = run("inspect", folder / "conv-2bit.onnx").output
    (row,) = [line for line in shown.splitlines() if "layer.weight" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        *("layer.weight", "hadamard", "144 × 40", "scalar", "2", "1.000"),
        f"{stored:.3f}",
    ]
    assert "1 quantized layers" in shown
    assert "stay float" not in shown


def test_layers_of_the_config_file_have_their_own_bits(folder: Path) -> None:
    names = [str(node.name) for node in mlp_model().graph if node.op_type in ("MatMul", "Gemm")]
    (folder / "layers.toml").write_text(
        f'["{names[0]}"]\nbits = 4\n["{names[1]}"]\nredundancy = 1.5\n[nothing]\nbits = 3\n'
    )
    result = run(
        *("compile", folder / "mlp.onnx", "--calibration", "none", "--json", folder / "r.json"),
        *("--config", folder / "layers.toml"),
    )
    assert result.exit_code == 0
    report = json.loads((folder / "r.json").read_text())
    layers = [layer for layer in report["layers"] if layer["status"] == "quantized"]
    assert [layer["bits"] for layer in layers] == [4, 2, 2]
    assert [layer["redundancy_asked"] for layer in layers] == [1.0, 1.5, 1.0]
    assert "pattern 'nothing' matches no layer" in result.stderr
    assert report["options"]["overrides"][0] == {
        "pattern": names[0],
        "bits": 4,
        "redundancy": None,
    }
