"""Where the commands write to."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

console = Console(highlight=False, emoji=False)
stderr = Console(stderr=True, highlight=False, emoji=False)


def print_error(message: str) -> None:
    """Print one line on stderr."""
    stderr.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
