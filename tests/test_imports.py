"""A server that checks bundles has neither PyTorch nor what compiling takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIGHT = """
import sys
for name in ("torch", "onnxscript", "matplotlib", "jinja2", "hypothesis"):
    sys.modules[name] = None  # importing it fails
from fqonnx.cli import main
main(sys.argv[1:])
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", LIGHT, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_doctor_needs_no_torch(tmp_path: Path) -> None:
    done = run("doctor", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert "bundle.json: not readable" in done.stdout


def test_commands_that_need_torch_say_so() -> None:
    done = run("compile", "model.onnx")
    assert done.returncode == 2
    assert "Error: fqonnx compile needs torch, which is not installed." in done.stderr
