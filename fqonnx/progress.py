"""How long work tells that it goes on, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """Yields the items of a sequence and shows how far it has come."""

    def __call__(self, items: Sequence[Item], description: str, /) -> Iterable[Item]:
        """Return the items one by one."""
        ...


def silent(items: Sequence[Item], description: str, /) -> Iterable[Item]:
    """Show nothing."""
    del description
    return items
