"""The command line: ``fqonnx export | compile | diff | bisect | inspect | sweep | deploy …``.

Exit codes: 1 for a threshold that is missed or what `fqonnx doctor` found, and for nothing else; 2
for what a user can mend; 70 for a fault of fqonnx; 130 for an interruption; 141 where nobody reads
what is printed.
"""

from __future__ import annotations

import signal
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from fqonnx import __version__
from fqonnx.cli.terminal import drop_stdout, print_error
from fqonnx.errors import FqonnxError, first_line

_COMMANDS = ("export", "compile", "diff", "bisect", "inspect", "sweep", "deploy", "doctor")


def _notes(error: BaseException) -> list[str]:
    """Return what was added to an error on its way."""
    return getattr(error, "__notes__", [])


def _unavailable(name: str, module: str) -> click.Command:
    """Return a command that says which module it lacks: the others are listed and run."""

    def fail() -> None:
        found = f"fqonnx {name} needs {module}, which is not installed"
        raise click.UsageError(f"{found}. Install fqonnx with its dependencies")

    return click.Command(
        name,
        {"ignore_unknown_options": True, "allow_extra_args": True},
        callback=fail,
        short_help=f"Needs {module}, which is not installed.",
        add_help_option=False,
    )


class _Group(click.Group):
    """Imports a command when it is asked for, and turns our errors into one line and exit code 2.

    What a command does not need, PyTorch first of all, need not be there.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = import_module(f"fqonnx.cli.{cmd_name}")
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, str(error.name))
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

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
        except OSError as error:  # a path that may not be looked at, or a disk that is full
            drop_stdout()  # which may be what cannot be written
            said = error.strerror or first_line(error)
            if error.filename is not None:
                said = f"{error.filename}: {said}"
            print_error("; ".join([said, *_notes(error)]))
            sys.exit(2)
        except KeyboardInterrupt as error:
            print_error("; ".join(["interrupted", *(_notes(error) or ["nothing was written"])]))
            sys.exit(130)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception:
            traceback.print_exc()
            print_error("a fault of fqonnx: please report it with the lines above")
            sys.exit(70)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fqonnx")
def main() -> None:
    """Frame quantization for ONNX: 2-bit models that stock ONNX Runtime runs."""
    # Asked to end, a command removes what it has on disk as one that is interrupted does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
