"""A bundle for programs that call ONNX Runtime themselves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from fqonnx.deploy.contents import Contents, Layout
from fqonnx.deploy.options import DeployOptions
from fqonnx.deploy.source import Source


def layout(source: Source, options: DeployOptions) -> Layout:
    """Return where the large files are: side by side."""
    return Layout("model.onnx")


def files(contents: Contents) -> Mapping[str, bytes]:
    """Return a session in Python and in C++, a container, and what to know about them."""
    package = "onnxruntime-gpu[cuda,cudnn]" if contents.is_cuda else "onnxruntime"
    return {
        "Dockerfile": contents.render("Dockerfile.j2", package=package, numpy=version("numpy")),
        "session.py": contents.render("session.py.j2"),
        "session.cpp": contents.render("session.cpp.j2"),
        "README.md": contents.render("ort.md.j2"),
    }
