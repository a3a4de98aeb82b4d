"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        what: What was looked at.
        said: What was found there, and what was expected.
        mend: What to do about it, where it does not hold; None where it does.
    """

    what: str
    said: str
    mend: str | None = None

    @property
    def holds(self) -> bool:
        """Whether all is well there."""
        return self.mend is None
