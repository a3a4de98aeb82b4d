"""The command line: ``fqonnx export | compile | diff | bisect | inspect | sweep | deploy …``."""

from __future__ import annotations

import sys
from typing import Any

import click

from fqonnx import __version__
from fqonnx.cli.bisect import bisect_command
from fqonnx.cli.compile import compile_command
from fqonnx.cli.console import print_error
from fqonnx.cli.deploy import deploy_command
from fqonnx.cli.diff import diff_command
from fqonnx.cli.doctor import doctor_command
from fqonnx.cli.export import export_command
from fqonnx.cli.inspect import inspect_command
from fqonnx.cli.sweep import sweep_command
from fqonnx.errors import FqonnxError, first_line


def _notes(error: BaseException) -> list[str]:
    """Return what was added to an error on its way."""
    return getattr(error, "__notes__", [])


class _Group(click.Group):
    """Turns our errors into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FqonnxError as error:
            print_error(". ".join([str(error), *_notes(error)]))
            sys.exit(2)
        except MemoryError as error:
            print_error("; ".join([f"memory ran out: {first_line(error)}", *_notes(error)]))
            sys.exit(2)
        except RecursionError:
            print_error("a chain of operators in the model is too long to follow: fold constants")
            sys.exit(2)
        except KeyboardInterrupt as error:
            print_error("; ".join(["interrupted", *(_notes(error) or ["nothing was written"])]))
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fqonnx")
def main() -> None:
    """Frame quantization for ONNX: 2-bit models that stock ONNX Runtime runs."""


main.add_command(export_command)
main.add_command(compile_command)
main.add_command(diff_command)
main.add_command(bisect_command)
main.add_command(inspect_command)
main.add_command(sweep_command)
main.add_command(deploy_command)
main.add_command(doctor_command)
