"""A server that checks bundles has neither PyTorch nor what compiling takes."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from deployed import compiled_mlp
from fqonnx.deploy import DeployOptions, deploy
from fqonnx.native import library_path

GUIDE = Path(__file__).parents[1] / "docs" / "deployment.md"
LIGHT = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it fails
from fqonnx.cli import main
main(sys.argv[2:])
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where there is only what the guide has installed on a server."""
    listed = re.search(r"pip install (click .*?) +#", GUIDE.read_text(encoding="utf-8"))
    assert listed is not None
    needed = [name for name in requires("fqonnx") or () if "extra ==" not in name]
    missing = {re.split(r"[^\w-]", name)[0] for name in needed} - set(listed[1].split())
    assert {"torch", "onnxscript", "jinja2"} <= missing
    command = [sys.executable, "-P", "-c", LIGHT, ",".join(sorted(missing)), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_doctor_says_what_is_installed() -> None:
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ONNX Runtime: " in done.stdout
    assert ("in a session: loads" in done.stdout) == (library_path() is not None)


def test_the_doctor_checks_a_bundle(tmp_path: Path) -> None:
    library = library_path() is not None
    deploy(compiled_mlp(tmp_path), tmp_path / "bundle", DeployOptions(library=library))
    done = run("doctor", str(tmp_path / "bundle"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "CPUExecutionProvider, cost: session" in done.stdout
    (tmp_path / "bundle/bundle.json").unlink()
    done = run("doctor", str(tmp_path / "bundle"))
    assert (done.returncode, done.stderr) == (1, "")
    assert "bundle.json: not readable" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_commands_that_need_torch_say_so(arguments: tuple[str, ...]) -> None:
    done = run("compile", "model.onnx", "--bits", "2", *arguments)
    assert done.returncode == 2
    assert "Error: fqonnx compile needs torch, which is not installed." in done.stderr


def test_help_lists_what_is_missing() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  compile +Needs torch, which is not installed\.$", done.stdout, re.M)
    assert re.search(r"^  doctor +Show what is installed", done.stdout, re.M)
