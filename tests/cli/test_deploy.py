from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from deployed import compiled_mlp
from fqonnx.cli import main
from fqonnx.runtime_ops import library_path
from support import model_from_text


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.skipif(library_path() is None, reason="the native library was not built")
def test_deploy_then_doctor(tmp_path: Path) -> None:
    model, out = compiled_mlp(tmp_path), tmp_path / "out"
    deployed = run("deploy", model, "-o", out, "--float", tmp_path / "mlp.onnx")
    assert deployed.exit_code == 0, deployed.output
    assert "check it where it runs: fqonnx doctor" in deployed.output
    sound = run("doctor", out)
    assert sound.exit_code == 0, sound.output
    assert "3 compiled layers by the library" in sound.output
    (out / "model.onnx.data").unlink()
    broken = run("doctor", out)
    assert broken.exit_code == 1
    assert "failed model.onnx.data: missing. Copy the bundle again" in broken.output
    assert "golden inputs: not run, because of model.onnx.data" in broken.output


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    missing = run("doctor", tmp_path / "no")
    assert missing.exit_code == 2
    assert "no such folder" in missing.output
    given = ("deploy", tmp_path / "no.onnx", "-o", tmp_path / "out")
    assert run(*given).output.startswith(f"error: {tmp_path / 'no.onnx'}: no such file")
    refused = run(*given, "--target", "triton")
    assert refused.exit_code == 2
    assert refused.output.startswith("error: --mount: ")
    assert "Traceback" not in refused.output
    (tmp_path / "samples.npz").write_bytes(b"nothing")
    model = compiled_mlp(tmp_path)
    given = ("deploy", model, "-o", tmp_path / "out", "--without-library")
    assert run(*given, "--inputs", tmp_path / "samples.npz").exit_code == 2
    lost = run(*given, "--report", tmp_path / "no.html")
    assert lost.exit_code == 2
    assert "no.html: no such file" in lost.output
    assert not (tmp_path / "out").exists()


def test_outputs_that_a_replay_can_hardly_check_are_said(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (int64 i) {
        i = ArgMax <keepdims = 0> (x)
    }"""
    ir.save(model_from_text(text), tmp_path / "one.onnx")
    result = run("deploy", tmp_path / "one.onnx", "-o", tmp_path / "out", "--without-library")
    assert result.exit_code == 0
    assert "warning: output 'i': a replay can hardly check it" in result.stderr
