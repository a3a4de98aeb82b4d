"""``fqonnx doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.markup import escape

from fqonnx.cli.terminal import console
from fqonnx.doctor import Finding, examine_bundle, examine_installation
from fqonnx.errors import ConfigError


@click.command("doctor")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
def doctor_command(bundle: Path | None) -> None:
    """Show what is installed; of a BUNDLE, whether this machine runs it as it should.

    Exit code 1 if anything does not hold, with its cause and its mend.
    """
    if bundle is not None and not bundle.is_dir():
        raise ConfigError(str(bundle), "no such folder", "Name one that fqonnx deploy wrote")
    failures = 0
    for finding in examine_installation() if bundle is None else examine_bundle(bundle):
        failures += not finding.holds
        _print(finding)
    if failures:
        sys.exit(1)


def _print(finding: Finding) -> None:
    line = f"{escape(finding.what)}: {escape(finding.said)}"
    if not finding.holds:
        line = f"[red]failed[/] {line}. {escape(finding.mend or '')}"
    console.print(line, soft_wrap=True)
