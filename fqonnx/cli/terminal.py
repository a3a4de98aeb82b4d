"""Where the commands write to."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from rich.console import Console
from rich.markup import escape

BROKEN_PIPE = 141  # as a shell says of a process that SIGPIPE has ended


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        drop_stdout()
        sys.exit(BROKEN_PIPE)


def drop_stdout() -> None:
    """Lose what is still to be written: Python would try to at its end, and fail once more."""
    with suppress(OSError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _Stdout(highlight=False, emoji=False)
stderr = Console(stderr=True, highlight=False, emoji=False)


def print_error(message: str) -> None:
    """Print one line on stderr."""
    stderr.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
