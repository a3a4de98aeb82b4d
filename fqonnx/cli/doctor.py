"""``fqonnx doctor``."""

from __future__ import annotations

import platform

import click
from rich.markup import escape

from fqonnx import __version__
from fqonnx.cli.console import console
from fqonnx.runtime_ops import instruction_set, library_path, register
from fqonnx.session import available_providers, runtime_version, session_options


@click.command("doctor")
def doctor_command() -> None:
    """Show what is installed, and whether the native library of operators works here."""
    _print("fqonnx", f"{__version__}, Python {platform.python_version()}")
    _print("ONNX Runtime", f"{runtime_version()}, {', '.join(available_providers())}")
    path = library_path()
    if path is None:
        _print("native library", "not built; models run by the function bodies that they carry")
        return
    _print("native library", str(path))
    _print("instruction set", instruction_set())
    register(session_options())
    _print("in a session", "loads")


def _print(name: str, value: str) -> None:
    console.print(f"{name}: {escape(value)}", soft_wrap=True)
