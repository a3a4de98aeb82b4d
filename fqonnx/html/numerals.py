"""How numbers are written on the page; each takes what is no number, or none at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

MISSING = "n/a"
_WORDS = {"nan": MISSING, "inf": "∞", "-inf": "−∞"}


def percent(value: float | None) -> str:
    """Return a part of one in percent, three digits."""
    return _written(value, lambda v: f"{100 * v:#.3g}".rstrip(".") + "%")


def change(value: float | None) -> str:
    """Return a part of one in percent, with its sign."""
    return _written(value, lambda v: f"{100 * v:+.1f}%".replace("-", "−"))


def number(value: float | None, form: str = ".4g") -> str:
    """Return a number in a format."""
    return _written(value, lambda v: f"{v:{form}}".replace("-", "−"))


def kilobytes(count: float | None) -> str:
    """Return bytes in kB, without the unit."""
    return _written(count, lambda v: f"{v / 1e3:,.1f}")


def megabytes(count: float | None) -> str:
    """Return bytes as MB, or kB where there is less than one."""
    return _written(count, lambda v: f"{v / 1e6:.2f} MB" if v >= 1e6 else f"{v / 1e3:.1f} kB")


def measure(text: str) -> str:
    """Return numbers that were formatted elsewhere, with our words for those not finite."""
    return re.sub(r"(nan|-?inf)%?", lambda found: _WORDS[found[1]], text)


def sort_key(value: float | None) -> str:
    """Return a number as JavaScript reads it; empty for what sorts behind all numbers."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.9g}".replace("inf", "Infinity")


def finite(value: float) -> float | None:
    """Return a number of six digits for JSON, which has none but finite ones."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _written(value: float | None, write: Callable[[float], str]) -> str:
    if value is None:
        return MISSING
    return write(value) if math.isfinite(value) else _WORDS[str(float(value))]
