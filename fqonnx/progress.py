"""How long work tells that it goes on, without knowing who listens."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def timed(timing: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``timing[name]``."""
    start = time.perf_counter()
    yield
    timing[name] = timing.get(name, 0.0) + time.perf_counter() - start
