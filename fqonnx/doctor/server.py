"""What a server of a bundle reads beside the model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fqonnx.bundle import Manifest
from fqonnx.doctor.finding import Finding

_GENAI = """
import sys
import onnxruntime_genai
onnxruntime_genai.Model(sys.argv[1])
print(onnxruntime_genai.__version__)
"""


def check_server(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Hold the configuration of a server to what it can do with the model."""
    if manifest.target == "genai":
        yield _loaded_by_genai(folder)
    if manifest.target == "triton":
        config = folder / PurePosixPath(manifest.model).parents[1] / "config.pbtxt"
        text = config.read_bytes().lower() if config.is_file() else b""
        if b"tensorrt" in text:
            said = "it asks for TensorRT, which knows no operators of fqonnx, nor their bodies"
            yield Finding("config.pbtxt", said, "Take execution_accelerators out of it")


def _loaded_by_genai(folder: Path) -> Finding:
    """Let onnxruntime-genai load the bundle, in a process of its own."""
    command = [sys.executable, "-P", "-c", _GENAI, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return Finding("onnxruntime-genai", f"{done.stdout.split()[-1]} loads the model")
    said = (done.stderr.strip() or f"it ends with code {done.returncode}").splitlines()[-1]
    mend = (
        "Install it: pip install onnxruntime-genai"
        if "No module named" in said
        else "Deploy it again with a genai_config.json of this version of onnxruntime-genai"
    )
    return Finding("onnxruntime-genai", said, mend)
